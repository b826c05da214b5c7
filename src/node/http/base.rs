//! Addresses of a node's interfaces. Pure.

use hyper::Uri;
use hyper::header::HeaderValue;
use url::{Host, Url};

use crate::node::NodeFailure;

/// Where an interface begins: scheme, host, port and perhaps a path; never a user, password, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    text: String,
    host: Option<HeaderValue>,
}

impl Base {
    /// Reads an `http` or `https` URL. Error texts show nothing of one that carries a password.
    pub(super) fn parse(text: &str) -> Result<Self, NodeFailure> {
        let refuse = |why: &str| NodeFailure::Unreachable(why.to_owned());
        let url = Url::parse(text.trim()).map_err(|_| refuse("its address is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(refuse("its address is no http or https URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refuse("its address carries a user or password; give the credential by itself"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(refuse("its address has a query or a fragment"));
        }
        let base = Self { text: url.as_str().trim_end_matches('/').to_owned(), host: path_gateway(&url) };
        base.join("/").map(|_| base)
    }

    /// The address without a slash at its end, fit for people.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The address of something below it; `rest` begins with a slash and needs no escaping.
    pub(super) fn join(&self, rest: &str) -> Result<Uri, NodeFailure> {
        let uri = format!("{}{rest}", self.text);
        uri.parse().map_err(|_| NodeFailure::Unreachable("its address is no URL".to_owned()))
    }

    /// What to call the host in a request to the gateway, where that is not the address: Kubo redirects `localhost` to
    /// a subdomain for each block.
    pub(super) const fn gateway_host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }
}

fn path_gateway(url: &Url) -> Option<HeaderValue> {
    match url.host()? {
        Host::Domain(name) if name.eq_ignore_ascii_case("localhost") => {
            let port = url.port_or_known_default()?;
            HeaderValue::from_str(&format!("127.0.0.1:{port}")).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_passwords_never_told() {
        let base = Base::parse("http://10.0.0.1:5001/").unwrap();
        assert_eq!(base.join("/api/v0/id").unwrap().to_string(), "http://10.0.0.1:5001/api/v0/id");
        assert_eq!(Base::parse("https://h/node7/").unwrap().as_str(), "https://h/node7");
        assert!(Base::parse("http://localhost:8080").unwrap().gateway_host().is_some());
        for bad in ["", "ftp://h", "h:1", "http://", "http://u:geheim@h", "http://h?x=geheim"] {
            let error = Base::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
