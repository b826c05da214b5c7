//! The one place where the command line meets the network: a coordinator by its address, and the way to nodes.

use std::sync::Arc;

use bytenode::admin::Session;
use bytenode::client::{Client, ClientLimits};
use bytenode::dial::{Dial, HttpDial};
use bytenode::node::GrantToken;
use bytenode::node::http::Limits;
use bytenode::seam::Seam;

use crate::error::Outcome;

/// Speaks to a coordinator as whoever holds the token. Contacts nobody yet.
pub fn connect(url: &str, token: &str) -> Outcome<Arc<dyn Session>> {
    Ok(Arc::new(Client::new(url, GrantToken::new(token.to_owned()), ClientLimits::default())?))
}

/// The way to nodes.
pub fn dialler(seam: &Seam) -> Arc<dyn Dial> {
    Arc::new(HttpDial::new(Limits::default(), seam.clone()))
}
