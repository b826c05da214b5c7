//! The HTTP node against a real Kubo.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::time::{Duration, Instant};

use bytenode::api::NodeKind;
use bytenode::id::{ChunkId, PackId, PoolId};
use bytenode::node::http::{Credential, HttpNode, HttpNodeOptions, Limits};
use bytenode::node::{ChunkAt, GrantToken, Node, NodeFailure, SharedNode, conformance};
use bytenode::pack::{Pack, PackEntry, PackHeader};
use bytenode::seam::Seam;
use bytes::Bytes;
use serde_json::json;

use crate::support::kubo::Kubo;

const POOL: PoolId = PoolId::from_bytes([0x5a; 16]);

/// Limits short enough for tests of what they do.
fn short() -> Limits {
    let second = Duration::from_secs(1);
    Limits { connect: second, first_byte: second, progress: second, pin: second, pin_per_mib: second }
}

fn options(kubo: &Kubo) -> HttpNodeOptions {
    HttpNodeOptions {
        name: "kubo1".to_owned(),
        expected_id: Some(kubo.id.parse().unwrap()),
        kind: NodeKind::Kubo,
        url: kubo.api.clone(),
        gateway: kubo.gateway.clone(),
        credential: Credential::None,
        limits: Limits::default(),
        seam: Seam::real(),
    }
}

fn pack(number: u64, chunks: &[&[u8]]) -> Pack {
    let entry = |bytes: &&[u8]| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
    let entries = chunks.iter().map(entry).collect();
    let header = PackHeader { pool: POOL, epoch: 1, id: PackId::new(number), entries };
    Pack::new(header, chunks.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect())
}

fn at(pack: &Pack, index: usize) -> ChunkAt {
    let entry = pack.header().entries[index];
    ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: pack.root() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_kubo_conforms_and_keeps_what_is_not_ours() {
    let Some(kubo) = Kubo::start(&[]) else { return };
    // A pin that is not ours.
    let foreign = "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354";
    kubo.call(&format!("pin/add?arg={foreign}")).await;
    let node: SharedNode = HttpNode::new(options(&kubo)).unwrap();
    conformance::suite(&node, POOL, 1, &|_| None).await;
    assert!(kubo.call("pin/ls?type=recursive").await.contains(foreign));

    // Reading through the RPC interface instead of the gateway, and through a gateway called localhost.
    let no_gateway: SharedNode = HttpNode::new(HttpNodeOptions { gateway: String::new(), ..options(&kubo) }).unwrap();
    conformance::suite(&no_gateway, POOL, 5000, &|_| None).await;
    let gateway = kubo.gateway.replace("127.0.0.1", "localhost");
    let localhost: SharedNode = HttpNode::new(HttpNodeOptions { gateway, ..options(&kubo) }).unwrap();
    conformance::ranges_are_what_was_asked(conformance::Bench {
        node: &localhost,
        pool: POOL,
        first: 9000,
        permit: &|_| None,
    })
    .await;
}

/// A chunk that "is not there" was counted as lost, though only the address led to another node.
#[tokio::test]
async fn a_chunk_is_not_missing_where_another_node_answers() {
    let (Some(kubo), Some(other)) = (Kubo::start(&[]), Kubo::start(&[])) else { return };
    let pack = pack(1, &[b"here"]);
    HttpNode::new(options(&kubo)).unwrap().write_pack(&pack, None).await.unwrap();
    for gateway in [other.gateway.clone(), String::new()] {
        let swapped = HttpNodeOptions { url: other.api.clone(), gateway, ..options(&kubo) };
        let error = HttpNode::new(swapped).unwrap().read_chunk(&at(&pack, 0), None, None).await.unwrap_err();
        assert_eq!(error.reason, NodeFailure::OtherIdentity { found: other.id.parse().unwrap() });
    }
    let there = HttpNode::new(options(&other)).unwrap().read_chunk(&at(&pack, 0), None, None).await.unwrap_err();
    assert!(matches!(there.reason, NodeFailure::Absent(_)), "{there}");
}

#[tokio::test]
async fn writing_pins_nothing_and_a_missing_chunk_is_not_protected() {
    let Some(kubo) = Kubo::start(&[]) else { return };
    let node = HttpNode::new(HttpNodeOptions { limits: short(), ..options(&kubo) }).unwrap();
    let before = kubo.call("pin/ls?type=all").await;
    let pack = pack(1, &[b"here", b"soon gone"]);
    node.write_pack(&pack, None).await.unwrap();
    assert_eq!(kubo.call("pin/ls?type=all").await, before);
    kubo.call(&format!("block/rm?arg={}", at(&pack, 1).chunk)).await;
    let error = node.protect_pack(pack.root(), 13).await.unwrap_err();
    assert!(matches!(&error.reason, NodeFailure::Absent(_)), "{error}");
    assert!(!node.holds_pack(pack.root()).await.unwrap());
}

/// Kubo's pin walks through its peers too, `offline=true` or not: a chunk that the node had lost came back from whoever
/// had it, over a network that is not the pool's, and a loss was hidden. Nothing may be asked of anybody but the node.
#[tokio::test]
async fn a_missing_block_is_not_fetched_from_a_peer() {
    let (Some(kubo), Some(peer)) = (Kubo::start(&[]), Kubo::start(&[])) else { return };
    let told: serde_json::Value = serde_json::from_str(&peer.call("id").await).unwrap();
    let address = told["Addresses"][0].as_str().unwrap().to_owned();
    assert!(kubo.call(&format!("swarm/connect?arg={address}")).await.contains("success"));
    let node = HttpNode::new(options(&kubo)).unwrap();
    let other = HttpNode::new(HttpNodeOptions { expected_id: None, ..options(&peer) }).unwrap();
    let lose = async |cid: String| {
        assert!(!kubo.call(&format!("block/rm?force=true&arg={cid}")).await.contains("cannot"));
    };
    let has = async |digest: &[u8; 32]| {
        let raw = ChunkId::from_digest(*digest);
        kubo.call("refs/local").await.contains(&raw.to_string())
    };
    let lost_chunk = pack(1, &[b"kept by the node", b"kept by the peer alone"]);
    let lost_root = pack(2, &[b"a chunk of another pack"]);
    for pack in [&lost_chunk, &lost_root] {
        node.write_pack(pack, None).await.unwrap();
        other.write_pack(pack, None).await.unwrap();
    }
    let chunk = at(&lost_chunk, 1).chunk;
    lose(chunk.to_string()).await;
    lose(ChunkId::from_digest(*lost_root.root().digest()).to_string()).await;
    for pack in [&lost_chunk, &lost_root] {
        let error = node.protect_pack(pack.root(), 30).await.unwrap_err();
        assert!(matches!(&error.reason, NodeFailure::Absent(_)), "{error}");
        assert!(!node.holds_pack(pack.root()).await.unwrap());
    }
    assert!(!has(chunk.digest()).await && !has(lost_root.root().digest()).await, "nothing came from the peer");

    // Replacing reads the old root: lost, it must not be fetched, nor a chunk that the old pack never had.
    let pinned = pack(3, &[b"one", b"two"]);
    let smaller = pack(4, &[b"one"]);
    let more = pack(5, &[b"one", b"kept by the peer alone"]);
    node.write_pack(&pinned, None).await.unwrap();
    other.write_pack(&pinned, None).await.unwrap();
    node.protect_pack(pinned.root(), 6).await.unwrap();
    let error = node.replace_pack(pinned.root(), more.header()).await.unwrap_err();
    assert!(matches!(&error.reason, NodeFailure::Answer(_)), "{error}");
    let shard = kubo
        .block_files()
        .into_iter()
        .find(|file| std::fs::read(file).is_ok_and(|bytes| bytes == pinned.header().root_block()));
    std::fs::remove_file(shard.unwrap()).unwrap();
    let error = node.replace_pack(pinned.root(), smaller.header()).await.unwrap_err();
    assert!(matches!(&error.reason, NodeFailure::Absent(_)), "{error}");
    assert!(!has(pinned.root().digest()).await && !has(chunk.digest()).await, "nothing came from the peer");
    assert!(node.holds_pack(pinned.root()).await.unwrap(), "the old protection stays");
}

#[tokio::test]
async fn a_smaller_pack_frees_what_it_leaves_out_and_survives_collection() {
    let Some(kubo) = Kubo::start(&[]) else { return };
    let node = HttpNode::new(options(&kubo)).unwrap();
    let (old, new) = (pack(1, &[b"kept", b"freed"]), pack(2, &[b"kept"]));
    node.write_pack(&old, None).await.unwrap();
    node.protect_pack(old.root(), 9).await.unwrap();
    let is_pinned = async |chunk: ChunkId| kubo.call(&format!("pin/ls?type=all&arg={chunk}")).await.contains("Keys");
    assert!(is_pinned(at(&old, 0).chunk).await && is_pinned(at(&old, 1).chunk).await);
    node.replace_pack(old.root(), new.header()).await.unwrap();
    assert!(is_pinned(at(&old, 0).chunk).await && !is_pinned(at(&old, 1).chunk).await);
    kubo.call("repo/gc").await;
    assert_eq!(node.read_chunk(&at(&new, 0), None, None).await.unwrap(), "kept");
    let error = node.read_chunk(&at(&old, 1), None, None).await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Absent(_)), "{error}");
    node.drop_pack(new.root()).await.unwrap();
    assert!(!is_pinned(at(&new, 0).chunk).await);
}

#[tokio::test]
async fn rotten_lost_and_false_bytes_are_told_apart() {
    let Some(kubo) = Kubo::start(&[]) else { return };
    let node = HttpNode::new(options(&kubo)).unwrap();
    let before = kubo.block_files();
    let pack = pack(1, &[&[7; 5000]]);
    node.write_pack(&pack, None).await.unwrap();
    let written: Vec<_> = kubo.block_files().into_iter().filter(|file| !before.contains(file)).collect();
    let chunk = written.iter().find(|file| file.metadata().unwrap().len() == 5000).unwrap();
    std::fs::write(chunk, [8; 5000]).unwrap();
    let error = node.read_chunk(&at(&pack, 0), None, None).await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Corrupt(_)), "{error}");
    std::fs::write(chunk, [7; 4999]).unwrap();
    let error = node.read_chunk(&at(&pack, 0), None, None).await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Corrupt(_)), "{error}");
    node.write_pack(&pack, None).await.unwrap();
    assert_eq!(node.read_chunk(&at(&pack, 0), None, None).await.unwrap(), vec![7; 5000], "writing again mends it");
    std::fs::remove_file(chunk).unwrap();
    let error = node.read_chunk(&at(&pack, 0), None, None).await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Absent(_)), "{error}");

    // A pack whose chunk has other bytes than its name says is refused, and nothing of it counts.
    let header = PackHeader { id: PackId::new(2), ..pack.header().clone() };
    let false_pack = Pack::new(header, vec![Bytes::from(vec![9; 5000])]);
    assert!(node.write_pack(&false_pack, None).await.is_err());
}

#[tokio::test]
async fn credentials_open_what_they_are_for() {
    let config = json!({
        "owner": {"AuthSecret": "basic:owner:geheim", "AllowedPaths": ["/api/v0"]},
        "client": {"AuthSecret": "bearer:clientgeheim", "AllowedPaths": ["/api/v0/dag/import", "/api/v0/block/get"]},
    });
    let Some(kubo) = Kubo::start(&[("API.Authorizations", config)]) else { return };
    let with = |secret: &str| {
        let credential = Credential::Kubo(GrantToken::new(secret.to_owned()));
        let gateway = String::new();
        HttpNode::new(HttpNodeOptions { credential, gateway, ..options(&kubo) }).unwrap()
    };
    let nobody = HttpNode::new(options(&kubo)).unwrap();
    let (owner, client, wrong) = (with("basic:owner:geheim"), with("bearer:clientgeheim"), with("bearer:wronggeheim"));
    let pack = pack(1, &[b"a chunk"]);

    // The refusal comes while most of a large pack is still on its way.
    let large = (0..30).map(|n| vec![n; 2 << 20]).collect::<Vec<_>>();
    let large = self::pack(2, &large.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for node in [&nobody, &wrong] {
        let error = node.write_pack(&large, None).await.unwrap_err();
        assert!(matches!(error.reason, NodeFailure::Denied(_)), "{error}");
        for error in [node.write_pack(&pack, None).await.unwrap_err(), node.status().await.unwrap_err()] {
            assert!(matches!(error.reason, NodeFailure::Denied(_)), "{error}");
            assert!(!error.to_string().contains("geheim"));
        }
    }
    client.write_pack(&pack, None).await.unwrap();
    assert_eq!(client.read_chunk(&at(&pack, 0), None, None).await.unwrap(), "a chunk");
    owner.protect_pack(pack.root(), 7).await.unwrap();
    for error in [client.drop_pack(pack.root()).await.unwrap_err(), client.status().await.unwrap_err()] {
        assert!(matches!(error.reason, NodeFailure::Denied(_)), "{error}");
    }
    assert!(owner.holds_pack(pack.root()).await.unwrap());
    owner.drop_pack(pack.root()).await.unwrap();
    assert!(!owner.holds_pack(pack.root()).await.unwrap());
}

#[tokio::test]
async fn another_identity_and_nobody_are_named() {
    let Some(kubo) = Kubo::start(&[]) else { return };
    let other = HttpNodeOptions { expected_id: Some("12D3KooWother".parse().unwrap()), ..options(&kubo) };
    let error = HttpNode::new(other).unwrap().status().await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::OtherIdentity { .. }), "{error}");
    let status = HttpNode::new(options(&kubo)).unwrap().status().await.unwrap();
    assert!(status.version.starts_with("kubo 0."), "{status:?}");
    assert!(status.clock.is_some() && status.free_bytes > 0);
    let options = options(&kubo);
    drop(kubo);
    let error = HttpNode::new(options).unwrap().status().await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Unreachable(_)), "{error}");
    assert!(error.to_string().starts_with("node kubo1: does not answer"), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_frozen_kubo_ends_in_a_timeout() {
    let Some(kubo) = Kubo::start(&[]) else { return };
    HttpNode::new(options(&kubo)).unwrap().write_pack(&pack(1, &[b"small"]), None).await.unwrap();
    let node = HttpNode::new(HttpNodeOptions { limits: short(), ..options(&kubo) }).unwrap();
    let small = pack(1, &[b"small"]);
    let bytes: Vec<Vec<u8>> = (0..32).map(|n| vec![n; 2 << 20]).collect();
    let large = pack(2, &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>());
    kubo.freeze();
    let at = at(&small, 0);
    let (mut no_root, mut no_chunk) = (|_| (), |_| ());
    let began = Instant::now();
    let (status, written, too_large, protected) = tokio::join!(
        node.status(),
        node.write_pack(&small, None),
        node.write_pack(&large, None),
        node.protect_pack(small.root(), 5)
    );
    let (held, read, packs, chunks, dropped, replaced) = tokio::join!(
        node.holds_pack(small.root()),
        node.read_chunk(&at, None, None),
        node.list_packs(&mut no_root),
        node.list_chunks(&mut no_chunk),
        node.drop_pack(small.root()),
        node.replace_pack(large.root(), small.header())
    );
    let writes = [written.map(drop), too_large.map(drop), protected, dropped, replaced];
    let reads = [status.map(drop), held.map(drop), read.map(drop), packs, chunks];
    for ended in writes.into_iter().chain(reads) {
        assert!(matches!(ended.as_ref().unwrap_err().reason, NodeFailure::Timeout { .. }), "{ended:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
