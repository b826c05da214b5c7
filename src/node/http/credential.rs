//! What a call says of who may make it, kept out of every error text.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use hyper::header::HeaderValue;

use crate::node::{GrantToken, NodeFailure};

/// Mints the grant for the coordinator's own calls.
pub type MintGrant = Arc<dyn Fn() -> GrantToken + Send + Sync>;

/// How calls to a node are permitted.
#[derive(Clone, Default)]
pub enum Credential {
    /// By the grant of each call, or by nothing.
    #[default]
    None,
    /// By Kubo's `API.Authorizations`, in its AuthSecret form: `bearer:TOKEN`, `basic:user:password` or `basic:BASE64`.
    /// It goes to the RPC address alone, never to the gateway, which asks for none.
    Kubo(GrantToken),
    /// By a grant minted for each call that was given none.
    Mint(MintGrant),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Kubo(_) => "Kubo(…)",
            Self::Mint(_) => "Mint(…)",
        })
    }
}

/// The `Authorization` of one call, and the texts that must not be told.
#[derive(Clone, Default)]
pub(super) struct Authorization {
    header: Option<HeaderValue>,
    secrets: Vec<String>,
}

impl Authorization {
    /// A grant's.
    pub(super) fn grant(token: &GrantToken) -> Option<Self> {
        Self::new(format!("Bearer {}", token.expose()), vec![token.expose().to_owned()])
    }

    /// The one that Kubo derives from an AuthSecret; nothing when the text has no such form.
    pub(super) fn kubo(secret: &str) -> Option<Self> {
        let secret = secret.trim();
        if let Some(token) = secret.strip_prefix("bearer:").or_else(|| secret.strip_prefix("Bearer ")) {
            return Self::new(format!("Bearer {token}"), vec![token.to_owned()]);
        }
        if let Some(encoded) = secret.strip_prefix("Basic ") {
            return Self::new(secret.to_owned(), vec![encoded.to_owned()]);
        }
        let basic = secret.strip_prefix("basic:")?;
        let Some((_, password)) = basic.split_once(':') else {
            return Self::new(format!("Basic {basic}"), vec![basic.to_owned()]);
        };
        let encoded = BASE64.encode(basic.as_bytes());
        Self::new(format!("Basic {encoded}"), vec![encoded, password.to_owned()])
    }

    fn new(header: String, secrets: Vec<String>) -> Option<Self> {
        let mut header = HeaderValue::from_str(&header).ok()?;
        header.set_sensitive(true);
        Some(Self { header: Some(header), secrets: secrets.into_iter().filter(|text| !text.is_empty()).collect() })
    }

    /// What to send.
    pub(super) const fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    /// A failure whose text came from the node, fit to be told.
    pub(super) fn told(&self, failure: NodeFailure) -> NodeFailure {
        match failure {
            NodeFailure::Answer(text) => NodeFailure::Answer(self.tell(&text)),
            NodeFailure::Full(text) => NodeFailure::Full(self.tell(&text)),
            other => other,
        }
    }

    /// What a node said, fit for an error: at most 300 characters, on one line, without the secrets.
    pub(super) fn tell(&self, text: &str) -> String {
        let redacted = self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "…"));
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        redacted.trim().chars().map(printable).take(300).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_auth_secret_becomes_its_header() {
        let header = |secret: &str| Some(Authorization::kubo(secret)?.header()?.to_str().ok()?.to_owned());
        assert_eq!(header("bearer:abc").as_deref(), Some("Bearer abc"));
        assert_eq!(header("basic:user:pass").as_deref(), Some("Basic dXNlcjpwYXNz"));
        assert_eq!(header("basic:dXNlcjpwYXNz\n").as_deref(), Some("Basic dXNlcjpwYXNz"));
        assert_eq!(header("abc"), None);
        assert_eq!(header("bearer:a\nb"), None);
    }

    #[test]
    fn secrets_are_cut_out_of_what_is_told() {
        let auth = Authorization::kubo("basic:user:hunter2").unwrap();
        let told = auth.tell(&format!("denied hunter2\nBasic dXNlcjpodW50ZXIy {}", "x".repeat(999)));
        assert!(!told.contains("hunter2") && !told.contains("dXNlcjpodW50ZXIy") && !told.contains('\n'));
        assert!(told.chars().count() <= 300);
        assert!(!format!("{:?}", Credential::Kubo(GrantToken::new("bearer:s".into()))).contains("bearer"));
    }
}
