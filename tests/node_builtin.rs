//! The HTTP node against the built-in node, over a real socket and a real disk.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use bytenode::grant::Verb;
use bytenode::node::http::{Credential, HttpNode, HttpNodeOptions};
use bytenode::node::{Node, SharedNode, conformance};
use bytenode::pack::Pack;

use crate::support::builtin::{Builtin, POOL, coordinator, grant};

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_node_conforms() {
    let served = Builtin::start().await;
    let node: SharedNode = served.node();
    conformance::suite(&node, POOL, 1, &|_| None).await;
    // As a client writes: with a grant for each pack.
    let permit = |pack: &Pack| {
        let what = Verb::Write { root: pack.root(), bytes: pack.header().car_bytes() };
        Some(coordinator().grant(&grant(&served.id, what)))
    };
    conformance::suite(&node, POOL, 5000, &permit).await;
    assert_eq!(served.files(), 0);
    // Whoever has no grant gets nothing.
    let stranger = HttpNode::new(HttpNodeOptions { credential: Credential::None, ..served.options() }).unwrap();
    assert!(stranger.list_packs(&mut |_| ()).await.is_err());
}
