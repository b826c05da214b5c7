//! The one place where the command line meets the network: a coordinator by its address, and the way to nodes.

use std::sync::Arc;
use std::time::Duration;

use bytenode::admin::Session;
use bytenode::api::{NodeAddress, NodeKind};
use bytenode::client::{Client, ClientLimits, Locate};
use bytenode::dial::{Dial, HttpDial};
use bytenode::id::{ChunkId, PackRoot};
use bytenode::node::http::Limits;
use bytenode::node::{ChunkAt, GrantToken, Node, NodeError, NodeFailure};
use bytenode::seam::Seam;

use crate::error::Outcome;

/// Speaks to a coordinator as whoever holds the token. Contacts nobody yet.
pub fn connect(url: &str, token: &str) -> Outcome<Arc<dyn Session>> {
    Ok(Arc::new(client(url, token)?))
}

/// The same, of a coordinator that may be started again elsewhere.
pub fn follow(url: &str, token: &str, locate: Locate) -> Outcome<Arc<dyn Session>> {
    Ok(Arc::new(client(url, token)?.following(locate)))
}

fn client(url: &str, token: &str) -> Outcome<Client> {
    Ok(Client::new(url, GrantToken::new(token.to_owned()), ClientLimits::default())?)
}

/// How long a check waits for a node: less than a put or get does, for it is one of many.
const REACH: Limits = Limits {
    connect: Duration::from_secs(5),
    first_byte: Duration::from_secs(5),
    progress: Duration::from_secs(5),
    pin: Duration::ZERO,
    pin_per_mib: Duration::ZERO,
};

/// Asks a node who it is, at the address where a put or get would go, and whether its gateway answers too.
///
/// # Errors
/// What keeps a put or get from using it.
pub async fn reach(address: &NodeAddress, seam: &Seam) -> Result<(), NodeError> {
    let node = HttpDial::new(REACH, seam.clone()).http(address)?;
    node.who().await?;
    if address.kind == NodeKind::Kubo && !address.gateway.is_empty() {
        let digest = seam.bytes();
        let nowhere = ChunkAt { chunk: ChunkId::from_digest(digest), bytes: 1, pack: PackRoot::from_digest(digest) };
        match node.read_chunk(&nowhere, None, None).await {
            Err(NodeError { reason: NodeFailure::Absent(_), .. }) => {}
            Err(NodeError { node, reason }) => {
                let reason = NodeFailure::Unreachable(format!("its gateway {} {reason}", address.gateway));
                return Err(reason.at(node));
            }
            Ok(_) => return Err(NodeFailure::Answer("for bytes that it cannot have".to_owned()).at(&address.name)),
        }
    }
    Ok(())
}

/// The way to nodes.
pub fn dialler(seam: &Seam) -> Arc<dyn Dial> {
    Arc::new(HttpDial::new(Limits::default(), seam.clone()))
}
