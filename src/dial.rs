//! How nodes are reached: an address becomes a [`SharedNode`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::{NodeAddress, NodeKind};
use crate::id::{NodeId, sha256};
use crate::node::http::{Credential, HttpNode, HttpNodeOptions, Limits};
use crate::node::{NodeError, NodeFailure, SharedNode};
use crate::seam::Seam;

/// The most nodes whose connections are kept; beyond it all are let go once, and made again as they are needed.
const MAX_NODES: usize = 1024;

/// Turns addresses into nodes. Keeps connections and hands out the same node for the same address.
pub trait Dial: Send + Sync {
    /// The node at an address. Does not contact it.
    fn dial(&self, address: &NodeAddress) -> Result<SharedNode, NodeError>;
}

/// Reaches nodes over HTTP: Kubo with the credential in its address, others with the grant of each call.
#[derive(Debug)]
pub struct HttpDial {
    limits: Limits,
    seam: Seam,
    nodes: Mutex<HashMap<Key, Arc<HttpNode>>>,
}

/// What makes two addresses the same; the credential by its hash alone.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    id: NodeId,
    url: String,
    gateway: String,
    authorization: Option<[u8; 32]>,
}

impl HttpDial {
    /// A dialler without any connection.
    pub fn new(limits: Limits, seam: Seam) -> Self {
        Self { limits, seam, nodes: Mutex::default() }
    }

    /// The node at an address, as what it is over HTTP. Does not contact it.
    ///
    /// # Errors
    /// As [`Dial::dial`].
    pub fn http(&self, address: &NodeAddress) -> Result<Arc<HttpNode>, NodeError> {
        if !matches!(address.kind, NodeKind::Kubo | NodeKind::Builtin) {
            let reason = NodeFailure::Unreachable("a node of this kind is not reached over HTTP".to_owned());
            return Err(reason.at(address.name.clone()));
        }
        let key = Key {
            id: address.id.clone(),
            url: address.url.clone(),
            gateway: address.gateway.clone(),
            authorization: address.authorization.as_ref().map(|secret| sha256(secret.expose().as_bytes())),
        };
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get(&key) {
            return Ok(Arc::clone(node));
        }
        let node = HttpNode::new(HttpNodeOptions {
            name: address.name.clone(),
            expected_id: Some(address.id.clone()),
            kind: address.kind,
            url: address.url.clone(),
            gateway: address.gateway.clone(),
            credential: address.authorization.clone().map_or(Credential::None, Credential::Kubo),
            limits: self.limits,
            seam: self.seam.clone(),
        })?;
        if nodes.len() >= MAX_NODES {
            nodes.clear();
        }
        nodes.insert(key, Arc::clone(&node));
        Ok(node)
    }
}

impl Dial for HttpDial {
    fn dial(&self, address: &NodeAddress) -> Result<SharedNode, NodeError> {
        Ok(self.http(address)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::GrantToken;

    #[test]
    fn the_same_address_is_the_same_node_and_another_credential_another() {
        let dial = HttpDial::new(Limits::default(), Seam::real());
        let mut address = NodeAddress {
            id: "n1".parse().unwrap(),
            name: "one".to_owned(),
            kind: NodeKind::Kubo,
            url: "http://127.0.0.1:1".to_owned(),
            gateway: "http://127.0.0.1:2".to_owned(),
            authorization: None,
        };
        let first = dial.dial(&address).unwrap();
        assert!(Arc::ptr_eq(&first, &dial.dial(&address).unwrap()));
        address.authorization = Some(GrantToken::new("bearer:x".to_owned()));
        assert!(!Arc::ptr_eq(&first, &dial.dial(&address).unwrap()));
        address.authorization = Some(GrantToken::new("what?".to_owned()));
        assert!(matches!(dial.dial(&address).unwrap_err().reason, NodeFailure::Denied(_)));
        address.kind = NodeKind::S3;
        assert!(dial.dial(&address).is_err());
    }
}
