//! Whether this machine reaches the nodes: each is tried where a put or get would go, all at once.

use std::time::Duration;

use bytenode::admin::NodeWay;
use bytenode::api::NodeKind;
use bytenode::machine::is_loopback;
use bytenode::node::NodeFailure;
use bytenode::node::probe::IMPOSTOR_HINT;
use bytenode::seam::Seam;
use futures_util::StreamExt;
use tokio::time::Instant;

use super::finding::Finding;
use crate::session;

/// How many are tried at once.
const AT_ONCE: usize = 32;
/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(15);

/// What came of trying one.
#[derive(Debug)]
pub enum Reached {
    /// It is the coordinator that reaches it.
    Relayed,
    /// It was there after so many milliseconds.
    Direct(u64),
    /// It was not, or was another.
    Failed(NodeFailure),
}

/// A node and what came of trying it.
#[derive(Debug)]
pub struct Tried {
    /// The way to it.
    pub way: NodeWay,
    /// What came of it.
    pub reached: Reached,
}

/// Tries every one that is reached over HTTP.
pub async fn try_all(ways: Vec<NodeWay>, seam: &Seam) -> Vec<Tried> {
    let end = Instant::now() + LIMIT;
    let known = ways.into_iter().filter(|way| matches!(way.address.kind, NodeKind::Kubo | NodeKind::Builtin));
    let tries = known.map(|way| async move {
        if way.relayed {
            return Tried { way, reached: Reached::Relayed };
        }
        let begun = Instant::now();
        let reached = match tokio::time::timeout_at(end, session::reach(&way.address, seam)).await {
            Ok(Ok(())) => Reached::Direct(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)),
            Ok(Err(error)) => Reached::Failed(error.reason),
            Err(_) => Reached::Failed(NodeFailure::Timeout { seconds: LIMIT.as_secs(), doing: "saying who it is" }),
        };
        Tried { way, reached }
    });
    futures_util::stream::iter(tries).buffered(AT_ONCE).collect().await
}

/// What that means. `mend` is the command for a node that runs no more; nothing for one that the coordinator reaches.
pub fn judge(tried: &Tried, mend: Option<&str>) -> Finding {
    let address = &tried.way.address;
    let failure = match &tried.reached {
        Reached::Relayed => return Finding::ok("reach", "through the coordinator"),
        Reached::Direct(ms) => return Finding::ok("reach", format!("reached in {ms} ms")),
        Reached::Failed(failure) => failure,
    };
    let url = &address.url;
    let insecure = if is_loopback(url) || url.starts_with("https:") { "" } else { " --insecure-http" };
    let relay = format!("bytenode admin node add {url} --access relay{insecure} (and its --token-file, if it has one)");
    match failure {
        // A credential for clients is best one that permits nothing but what puts and gets need.
        NodeFailure::Denied(_) if address.authorization.is_some() => {
            Finding::ok("reach", "reached (its credential for clients does not permit to ask who it is)")
        }
        NodeFailure::Denied(_) => {
            let message = format!("{url} wants a credential that clients do not have");
            Finding::failed("reach", message, relay)
        }
        NodeFailure::OtherIdentity { .. } | NodeFailure::Unproved(_) => {
            let message = format!("somebody else answers at {url}: it {failure}");
            Finding::failed("reach", message, IMPOSTOR_HINT)
        }
        _ => {
            let hint =
                mend.map_or_else(|| format!("let it be reached through the coordinator: {relay}"), str::to_owned);
            Finding::failed("reach", format!("not reachable from here: {url} {failure}"), hint)
        }
    }
}
