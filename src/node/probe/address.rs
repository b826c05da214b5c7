//! The ways in which people write the address of a node. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// A text that is no address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} (expected http://HOST:PORT, HOST:PORT or a multiaddr such as /ip4/127.0.0.1/tcp/5001)")]
pub struct AddressError(&'static str);

/// Reads `http(s)://…`, `host:port` or a multiaddr `/ip4|ip6|dns…/HOST/tcp/PORT[/http|/https|/tls/http]`, as in
/// `$IPFS_PATH/api`, into a URL without a slash at its end. An address of every interface becomes the loopback one.
///
/// # Errors
/// [`AddressError`], which repeats nothing of the text, since that may hold a password.
pub fn parse(text: &str) -> Result<String, AddressError> {
    let text = text.trim();
    let url = if text.starts_with('/') {
        multiaddr(text)?
    } else if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let mut url = Url::parse(&url).map_err(|_| AddressError("the address is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(AddressError("the address is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(AddressError("the address holds a user or password, which belong into a token file"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(AddressError("the address has a query or a fragment"));
    }
    let local = match url.host() {
        Some(Host::Ipv4(Ipv4Addr::UNSPECIFIED)) => Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        Some(Host::Ipv6(Ipv6Addr::UNSPECIFIED)) => Some(IpAddr::from(Ipv6Addr::LOCALHOST)),
        Some(_) => None,
        None => return Err(AddressError("the address has no host")),
    };
    if let Some(local) = local {
        url.set_ip_host(local).map_err(|()| AddressError("the address has no host"))?;
    }
    if !text.contains("://") && !text.starts_with('/') && url.port().is_none() {
        // The URL standard drops port 80, which is then what was written.
        let port = text.split('/').next().and_then(|host| host.rsplit_once(':'));
        port.filter(|(_, port)| *port == "80").ok_or(AddressError("the address has no port"))?;
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn multiaddr(text: &str) -> Result<String, AddressError> {
    let parts: Vec<&str> = text.trim_matches('/').split('/').collect();
    let [kind, host, "tcp", port, rest @ ..] = parts.as_slice() else {
        return Err(AddressError("the multiaddr is not /…/HOST/tcp/PORT"));
    };
    let host = match *kind {
        "ip4" => host.parse::<Ipv4Addr>().map_err(|_| AddressError("the multiaddr holds no IPv4 address"))?.to_string(),
        "ip6" => {
            let ip: Ipv6Addr = host.parse().map_err(|_| AddressError("the multiaddr holds no IPv6 address"))?;
            format!("[{ip}]")
        }
        "dns" | "dns4" | "dns6" => (*host).to_owned(),
        _ => return Err(AddressError("the multiaddr is neither /ip4, /ip6 nor /dns")),
    };
    let port: u16 = port.parse().map_err(|_| AddressError("the multiaddr holds no port"))?;
    let scheme = match rest {
        [] | ["http"] => "http",
        ["https"] | ["tls"] | ["tls", "http"] => "https",
        _ => return Err(AddressError("the multiaddr goes on after the port")),
    };
    Ok(format!("{scheme}://{host}:{port}"))
}

/// The same URL at another port and without a path, or the port alone.
pub(super) fn at_port(url: &str, port: u16) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    url.set_port(Some(port)).ok()?;
    url.set_path("");
    Some(url.as_str().trim_end_matches('/').to_owned())
}

/// The port of a URL.
pub(super) fn port(url: &str) -> Option<u16> {
    Url::parse(url).ok()?.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_an_address_is_read() {
        for (text, url) in [
            ("http://10.0.0.1:5001/", "http://10.0.0.1:5001"),
            ("https://nodes.example/n1", "https://nodes.example/n1"),
            ("nas:5001", "http://nas:5001"),
            ("nas:80", "http://nas"),
            ("[::1]:5001", "http://[::1]:5001"),
            ("/ip4/127.0.0.1/tcp/5001\n", "http://127.0.0.1:5001"),
            ("/ip4/0.0.0.0/tcp/5001", "http://127.0.0.1:5001"),
            ("/ip6/::/tcp/5001/http", "http://[::1]:5001"),
            ("/dns4/nas.lan/tcp/443/https", "https://nas.lan"),
            ("/dns/nas.lan/tcp/5001/tls/http", "https://nas.lan:5001"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(url), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_repeated() {
        let bad =
            ["", "nas", "ftp://nas", "http://u:geheim@nas:1", "/ip4/1.2.3/tcp/1", "/ip4/1.2.3.4/udp/1", "/unix/x"];
        for text in bad {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
