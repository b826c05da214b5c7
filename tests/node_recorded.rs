//! The HTTP node against what a real Kubo answered, so that machines without one test the client too.
//!
//! `BYTENODE_RECORD=1` records anew, from a real Kubo, into `tests/data/kubo/`.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::sync::Arc;
use std::time::Duration;

use bytenode::api::NodeKind;
use bytenode::id::{ChunkId, PackId, PackRoot, PoolId};
use bytenode::node::http::{Credential, HttpNode, HttpNodeOptions, Limits};
use bytenode::node::{ChunkAt, GrantToken, Node, NodeError, NodeFailure, Receipt};
use bytenode::pack::{Pack, PackEntry, PackHeader};
use bytenode::seam::Seam;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::exchange::Stage;
use crate::support::kubo::Kubo;

/// A node in front of a recording, or of a real Kubo while recording.
struct Scene {
    stage: Stage,
    node: Arc<HttpNode>,
    /// Straight to the real Kubo, for what is not to be recorded.
    direct: Option<(Kubo, Arc<HttpNode>)>,
}

impl Scene {
    async fn open(name: &str, rewrite: Option<(&str, String)>, credential: Option<&str>) -> Self {
        let secret = json!({"a": {"AuthSecret": "bearer:geheim", "AllowedPaths": ["/api/v0"]}});
        let config: Vec<(&str, Value)> = credential.map(|_| ("API.Authorizations", secret)).into_iter().collect();
        let recording = std::env::var_os("BYTENODE_RECORD").is_some();
        let kubo = recording.then(|| Kubo::start(&config).expect("recording needs a Kubo"));
        let stage = Stage::open(name, kubo.as_ref(), rewrite).await;
        let node = |url: &str, gateway: &str| {
            let credential = credential.map(|text| Credential::Kubo(GrantToken::new(text.to_owned())));
            HttpNode::new(HttpNodeOptions {
                name: "recorded".to_owned(),
                expected_id: None,
                kind: NodeKind::Kubo,
                url: url.to_owned(),
                gateway: gateway.to_owned(),
                credential: credential.unwrap_or_default(),
                limits: Limits { pin: Duration::from_secs(1), pin_per_mib: Duration::ZERO, ..Limits::default() },
                seam: Seam::real(),
            })
            .unwrap()
        };
        let direct = kubo.map(|kubo| {
            let direct = node(&kubo.api, &kubo.gateway);
            (kubo, direct)
        });
        Self { node: node(&stage.url, &stage.url), stage, direct }
    }

    /// Does something to the real Kubo, where there is one, that is not recorded.
    async fn behind(&self, act: impl AsyncFnOnce(&Kubo, &HttpNode)) {
        if let Some((kubo, direct)) = &self.direct {
            act(kubo, direct).await;
        }
    }

    fn close(self) {
        self.stage.close(self.direct.is_some());
    }
}

fn pack(number: u64, chunks: &[&[u8]]) -> Pack {
    let entry = |bytes: &&[u8]| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
    let entries = chunks.iter().map(entry).collect();
    let header = PackHeader { pool: PoolId::from_bytes([0x42; 16]), epoch: 1, id: PackId::new(number), entries };
    Pack::new(header, chunks.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect())
}

fn at(pack: &Pack, index: usize) -> ChunkAt {
    let entry = pack.header().entries[index];
    ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: pack.root() }
}

fn answered(error: &NodeError, words: &str) -> bool {
    matches!(&error.reason, NodeFailure::Answer(text) if text.contains(words))
}

#[tokio::test]
async fn a_pack_lives_and_dies() {
    let scene = Scene::open("life", None, None).await;
    let node = &scene.node;
    let status = node.status().await.unwrap();
    assert!(status.version.starts_with("kubo 0.") && status.clock.is_some() && status.free_bytes > 0, "{status:?}");
    let old = pack(1, &[b"first chunk", b"", &[0xf0, 0x9f, 0xff]]);
    let new = pack(2, &[b"first chunk"]);
    assert_eq!(node.write_pack(&old, None).await, Ok(Receipt::Unproved));
    assert_eq!(node.holds_pack(old.root()).await, Ok(false));
    node.protect_pack(old.root(), old.header().bytes()).await.unwrap();
    assert_eq!(node.holds_pack(old.root()).await, Ok(true));
    for (index, bytes) in old.chunks().iter().enumerate() {
        assert_eq!(node.read_chunk(&at(&old, index), None, None).await.as_ref(), Ok(bytes));
    }
    assert_eq!(node.read_chunk(&at(&old, 0), Some(6..11), None).await.unwrap(), "chunk");
    let mut roots: Vec<PackRoot> = Vec::new();
    node.list_packs(&mut |root| roots.push(root)).await.unwrap();
    assert!(roots.contains(&old.root()));
    let mut chunks: Vec<ChunkId> = Vec::new();
    node.list_chunks(&mut |chunk| chunks.push(chunk)).await.unwrap();
    assert!(old.header().entries.iter().all(|entry| chunks.contains(&entry.chunk)));
    node.replace_pack(old.root(), new.header()).await.unwrap();
    node.replace_pack(old.root(), new.header()).await.unwrap();
    node.drop_pack(new.root()).await.unwrap();
    node.drop_pack(new.root()).await.unwrap();
    assert_eq!(node.holds_pack(new.root()).await, Ok(false));
    scene.close();
}

#[tokio::test]
async fn what_is_absent_is_said_to_be() {
    let scene = Scene::open("absent", None, None).await;
    let pack = pack(1, &[b"nowhere", b"neither"]);
    let absent = |error: NodeError| matches!(error.reason, NodeFailure::Absent(_));
    assert!(absent(scene.node.read_chunk(&at(&pack, 0), None, None).await.unwrap_err()));
    assert!(absent(scene.node.read_chunk(&at(&pack, 0), Some(1..2), None).await.unwrap_err()));
    assert_eq!(scene.node.holds_pack(pack.root()).await, Ok(false));
    let smaller = self::pack(2, &[b"nowhere"]);
    assert!(absent(scene.node.replace_pack(pack.root(), smaller.header()).await.unwrap_err()));
    scene.close();
}

#[tokio::test]
async fn a_pack_with_a_missing_chunk_is_not_protected() {
    let scene = Scene::open("missing-chunk", None, None).await;
    let pack = pack(1, &[b"here", b"not here"]);
    scene
        .behind(async |kubo, direct| {
            direct.write_pack(&pack, None).await.unwrap();
            kubo.call(&format!("block/rm?arg={}", at(&pack, 1).chunk)).await;
        })
        .await;
    let error = scene.node.protect_pack(pack.root(), 12).await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Absent(_)), "{error}");
    scene.close();
}

/// Kubo tells in a status 200 that it could not pin. The client never imports with the pin; here the question is changed
/// on its way, so that the answer is the real one.
#[tokio::test]
async fn a_pin_error_within_success_is_an_error() {
    let rewrite = ("pin-roots=false", "pin-roots=true&timeout=1s".to_owned());
    let scene = Scene::open("pin-error", Some(rewrite), None).await;
    let (old, new) = (pack(1, &[b"x", b"y"]), pack(2, &[b"x"]));
    scene
        .behind(async |kubo, direct| {
            direct.write_pack(&old, None).await.unwrap();
            kubo.call(&format!("block/rm?arg={}", at(&old, 0).chunk)).await;
        })
        .await;
    let error = scene.node.replace_pack(old.root(), new.header()).await.unwrap_err();
    assert!(answered(&error, "deadline exceeded"), "{error}");
    scene.close();
}

/// A listing that breaks off says so only in its trailer. The question is changed on its way to one that does.
#[tokio::test]
async fn an_error_in_a_trailer_is_an_error() {
    let (pinned, unpinned) = (pack(1, &[b"pinned"]), pack(2, &[b"unpinned"]));
    let (one, two) = (pinned.root(), unpinned.root());
    let rewrite = ("&stream=true", format!("&stream=true&arg={one}&arg={two}"));
    let scene = Scene::open("stream-error", Some(rewrite), None).await;
    scene
        .behind(async |_, direct| {
            direct.write_pack(&pinned, None).await.unwrap();
            direct.protect_pack(pinned.root(), 6).await.unwrap();
        })
        .await;
    let mut seen = Vec::new();
    let error = scene.node.list_packs(&mut |root| seen.push(root)).await.unwrap_err();
    assert_eq!(seen, [one], "what came before the error was handed out");
    assert!(answered(&error, "is not pinned"), "{error}");
    scene.close();
}

#[tokio::test]
async fn a_refused_credential_is_said_and_not_shown() {
    let scene = Scene::open("denied", None, Some("bearer:falsch")).await;
    let pack = pack(1, &[b"x"]);
    for error in [
        scene.node.write_pack(&pack, None).await.unwrap_err(),
        scene.node.drop_pack(pack.root()).await.unwrap_err(),
        scene.node.holds_pack(pack.root()).await.unwrap_err(),
    ] {
        assert!(matches!(error.reason, NodeFailure::Denied(_)), "{error}");
        assert!(!error.to_string().contains("falsch"));
    }
    scene.close();
}

#[tokio::test]
async fn wrong_bytes_are_refused_on_writing() {
    let scene = Scene::open("wrong-bytes", None, None).await;
    let header = pack(1, &[b"right"]).header().clone();
    let error = scene.node.write_pack(&Pack::new(header, vec!["wrong".into()]), None).await.unwrap_err();
    assert!(answered(&error, "mismatch"), "{error}");
    scene.close();
}
