//! The relay over real sockets, in front of a real built-in node and a real Kubo.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytenode::admin::{Gate, Session};
use bytenode::api::{ApiError, ApiResult, Code, NodeAddress, NodeKind};
use bytenode::coordinator::relay::Relay;
use bytenode::daemon::relay::{RelayLimits, routes};
use bytenode::daemon::server::{ServerLimits, serve};
use bytenode::grant::{Grant, PublicKey, SigningKey, Verb};
use bytenode::id::{ChunkId, NodeId, PackId, PackRoot, PoolId};
use bytenode::node::http::{Credential, HttpNode, HttpNodeOptions, Limits};
use bytenode::node::{ChunkAt, GrantToken, Node, NodeFailure, Receipt};
use bytenode::pack::{Pack, PackEntry, PackHeader};
use bytenode::seam::Seam;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::builtin::{Builtin, POOL, coordinator, grant};
use crate::support::kubo::Kubo;

const SECRET: &str = "geheim";

/// What stands for a coordinator: some nodes, and the packs that it issued.
struct Desk {
    nodes: Vec<NodeAddress>,
    packs: Mutex<HashMap<PackRoot, Vec<PackEntry>>>,
}

#[async_trait]
impl Relay for Desk {
    fn pool(&self) -> PoolId {
        POOL
    }

    fn key(&self) -> PublicKey {
        coordinator().public()
    }

    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn upstream(&self, node: &NodeId) -> Option<NodeAddress> {
        self.nodes.iter().find(|address| address.id == *node).cloned()
    }

    async fn entries(&self, _: &NodeId, pack: PackRoot) -> ApiResult<Option<Vec<PackEntry>>> {
        Ok(self.packs.lock().unwrap().get(&pack).cloned())
    }
}

struct NoDoor;

#[async_trait]
impl Gate for NoDoor {
    async fn session(&self, _: &str) -> ApiResult<Arc<dyn Session>> {
        Err(ApiError::new(Code::NotSignedIn, "nobody"))
    }

    async fn ready(&self) -> ApiResult<()> {
        Ok(())
    }
}

/// A served relay with one node behind it.
struct Stage {
    url: String,
    desk: Arc<Desk>,
    id: NodeId,
    task: JoinHandle<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn address(id: &str, kind: NodeKind, url: &str, gateway: &str) -> NodeAddress {
    let authorization = (kind == NodeKind::Kubo).then(|| GrantToken::new(format!("bearer:{SECRET}")));
    let (id, url, gateway) = (id.parse().unwrap(), url.to_owned(), gateway.to_owned());
    NodeAddress { id, name: "behind".to_owned(), kind, url, gateway, authorization }
}

impl Stage {
    async fn new(behind: NodeAddress) -> Self {
        let (id, packs) = (behind.id.clone(), Mutex::default());
        let desk = Arc::new(Desk { nodes: vec![behind], packs });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let limits = RelayLimits { progress: Duration::from_millis(500), ..RelayLimits::default() };
        let further = routes(desk.clone(), limits);
        let gate = Arc::new(NoDoor);
        let task = tokio::spawn(serve(listener, gate, further, ServerLimits::default(), std::future::pending()));
        Self { url, desk, id, task }
    }

    /// As a client reaches the node.
    fn node(&self) -> Arc<HttpNode> {
        let relay = format!("{}/relay/{}", self.url, self.id);
        HttpNode::new(HttpNodeOptions {
            name: "relayed".to_owned(),
            expected_id: Some(self.id.clone()),
            kind: NodeKind::Builtin,
            url: relay.clone(),
            gateway: relay,
            credential: Credential::None,
            limits: Limits::default(),
            seam: Seam::real(),
        })
        .unwrap()
    }

    fn issue(&self, pack: &Pack) {
        self.desk.packs.lock().unwrap().insert(pack.root(), pack.header().entries.clone());
    }

    fn grant(&self, what: Verb) -> GrantToken {
        coordinator().grant(&grant(&self.id, what))
    }

    /// Sends the beginning of an upload as it is; gives the answer.
    async fn upload(&self, grant: &GrantToken, length: usize, car: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap();
        let body = form(car);
        let head = format!(
            "POST /relay/{}/api/v0/dag/import?pin-roots=true HTTP/1.1\r\nHost: r\r\nConnection: close\r\nAuthorization: \
             Bearer {}\r\nContent-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {length}\r\n\r\n",
            self.id,
            grant.expose()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body[..body.len().min(length)]).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is no failure of the answer.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn form(car: &[u8]) -> Vec<u8> {
    [b"--xyz\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n", car, b"\r\n--xyz--\r\n"].concat()
}

fn pack_of(pool: PoolId, number: u64, chunks: Vec<Bytes>) -> Pack {
    let entry = |bytes: &Bytes| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
    let entries = chunks.iter().map(entry).collect();
    Pack::new(PackHeader { pool, epoch: 1, id: PackId::new(number), entries }, chunks)
}

/// Chunks of several sizes, the empty one and the largest among them.
fn pack(number: u64) -> Pack {
    let chunk = |size: usize| Bytes::from(format!("{number}/{size}.").into_bytes().repeat(size / 4 + 1)).slice(..size);
    pack_of(POOL, number, [0, 5, 70_000, (2 << 20) - 16, 1 << 20].map(chunk).to_vec())
}

/// A pack of another pool.
fn foreign() -> Pack {
    pack_of(PoolId::from_bytes([9; 16]), 3, pack(2).chunks().to_vec())
}

fn write(pack: &Pack) -> Verb {
    Verb::Write { root: pack.root(), bytes: pack.header().car_bytes() }
}

fn at(pack: &Pack, index: usize) -> ChunkAt {
    let entry = pack.header().entries[index];
    ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: pack.root() }
}

/// Everything that a client does, well and badly. Gives the receipt of the good pack.
async fn exercise(stage: &Stage) -> (Pack, Receipt) {
    let (node, pack, other) = (stage.node(), pack(1), pack(2));
    stage.issue(&pack);
    stage.issue(&other);
    let receipt = node.write_pack(&pack, Some(&stage.grant(write(&pack)))).await.unwrap();
    let again = node.write_pack(&pack, Some(&stage.grant(write(&pack)))).await.unwrap();
    assert_eq!(std::mem::discriminant(&receipt), std::mem::discriminant(&again));
    let reads = stage.grant(Verb::Read { root: pack.root() });
    for (index, bytes) in pack.chunks().iter().enumerate() {
        assert_eq!(node.read_chunk(&at(&pack, index), None, Some(&reads)).await.unwrap(), bytes);
    }
    let range = node.read_chunk(&at(&pack, 2), Some(100..60_000), Some(&reads)).await.unwrap();
    assert_eq!(range, pack.chunks()[2].slice(100..60_000));
    // A chunk of a pack that is not there, a chunk of another pack, and a pack that was never issued.
    let nowhere = stage.grant(Verb::Read { root: other.root() });
    for (at, grant) in [(at(&other, 3), &nowhere), (at(&other, 3), &reads), (at(&pack, 3), &nowhere)] {
        let error = node.read_chunk(&at, None, Some(grant)).await.unwrap_err();
        assert!(matches!(error.reason, NodeFailure::Absent(_)), "{error}");
    }
    let head = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/relay/{}/ipfs/{}?format=raw", stage.url, stage.id, at(&pack, 2).chunk);
    let head = head.head(url).bearer_auth(reads.expose()).send().await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"70000".parse().unwrap()));
    refuses_other_grants(stage, &pack, &other).await;
    refuses_wrong_packs(stage, &other).await;
    (pack, receipt)
}

async fn refuses_other_grants(stage: &Stage, pack: &Pack, other: &Pack) {
    let node = stage.node();
    let good = grant(&stage.id, write(other));
    let car = other.header().car_bytes();
    for bad in [
        Grant { pool: PoolId::from_bytes([9; 16]), ..good.clone() },
        Grant { node: "another".parse().unwrap(), ..good.clone() },
        Grant { until: Timestamp::now().as_second() - 1, ..good.clone() },
        Grant { what: Verb::Read { root: other.root() }, ..good.clone() },
        Grant { what: Verb::Manage, ..good.clone() },
    ] {
        let error = node.write_pack(other, Some(&coordinator().grant(&bad))).await.unwrap_err();
        assert!(matches!(error.reason, NodeFailure::Denied(_)), "{bad:?}: {error}");
        let what = if bad.what == write(other) { Verb::Read { root: pack.root() } } else { write(pack) };
        let reads = coordinator().grant(&Grant { what, ..bad });
        let error = node.read_chunk(&at(pack, 1), None, Some(&reads)).await.unwrap_err();
        assert!(matches!(error.reason, NodeFailure::Denied(_)), "{error}");
    }
    let forged = SigningKey::from_seed(&[6; 32]).grant(&good);
    for grant in [Some(&forged), None] {
        let error = node.write_pack(other, grant).await.unwrap_err();
        assert!(matches!(error.reason, NodeFailure::Denied(_)), "{error}");
    }
    for what in [
        Verb::Write { root: pack.root(), bytes: car },
        Verb::Write { root: other.root(), bytes: car - 1 },
        Verb::Write { root: other.root(), bytes: car + 1 },
    ] {
        let error = node.write_pack(other, Some(&stage.grant(what))).await.unwrap_err();
        assert!(matches!(error.reason, NodeFailure::Answer(_)), "{error}");
    }
}

/// Packs that are cut, flipped, of another pool, longer, or stop moving.
async fn refuses_wrong_packs(stage: &Stage, pack: &Pack) {
    let (grant, car) = (stage.grant(write(pack)), pack.car().concat());
    let mut flipped = car.clone();
    let last = flipped.len() - 9;
    flipped[last] ^= 1;
    let longer = [&car[..], b"x"].concat();
    for bad in [&car[..car.len() - 1], &car[..30], &flipped, &longer, b""] {
        let answer = stage.upload(&grant, form(bad).len(), bad).await;
        assert!(answer.starts_with("HTTP/1.1 500") && answer.contains("Message"), "{answer}");
    }
    let foreign = foreign();
    let error = stage.node().write_pack(&foreign, Some(&stage.grant(write(&foreign)))).await.unwrap_err();
    assert!(error.to_string().contains("another pool"), "{error}");
    let answer = stage.upload(&grant, form(&car).len() - car.len() / 3, &car).await;
    assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 500"), "{answer}");
    let stalled = stage.upload(&grant, form(&car).len() + 1, &car).await;
    assert!(stalled.starts_with("HTTP/1.1 408"), "{stalled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_built_in_node_is_served_and_signs() {
    let builtin = Builtin::start().await;
    let stage = Stage::new(address(builtin.id.as_str(), NodeKind::Builtin, &builtin.url, &builtin.url)).await;
    let (pack, receipt) = exercise(&stage).await;
    let Receipt::Signed { token } = receipt else { panic!("a built-in node signs") };
    let said = PublicKey::of_node(&builtin.id).unwrap().read_receipt(&token).unwrap();
    assert_eq!((said.root, said.bytes), (pack.root(), pack.header().car_bytes()));
    let mut held = Vec::new();
    builtin.node().list_packs(&mut |root| held.push(root)).await.unwrap();
    assert_eq!(held, [pack.root()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubo_is_served_pins_nothing_and_keeps_its_credential() {
    let rules = json!({"us": {"AuthSecret": format!("bearer:{SECRET}"), "AllowedPaths": ["/api/v0"]}});
    let Some(kubo) = Kubo::start(&[("API.Authorizations", rules)]) else { return };
    let behind = address(&kubo.id, NodeKind::Kubo, &kubo.api, &kubo.gateway);
    let own = Stage::new(behind.clone()).await;
    let direct = HttpNode::new(HttpNodeOptions {
        name: "direct".to_owned(),
        expected_id: None,
        kind: NodeKind::Kubo,
        url: kubo.api.clone(),
        gateway: kubo.gateway.clone(),
        credential: Credential::Kubo(behind.authorization.clone().unwrap()),
        limits: Limits::default(),
        seam: Seam::real(),
    })
    .unwrap();
    let mut before = Vec::new();
    direct.list_packs(&mut |root| before.push(root)).await.unwrap();
    let (pack, receipt) = exercise(&own).await;
    assert_eq!(receipt, Receipt::Unproved);
    let mut after = Vec::new();
    direct.list_packs(&mut |root| after.push(root)).await.unwrap();
    assert_eq!(after, before, "nothing is pinned, whatever the client asks");
    // Of a pack that is not this pool's, not even the root came to the node.
    let root = foreign();
    let bytes = root.header().root_block().len() as u64;
    let at_root = ChunkAt { chunk: ChunkId::from_digest(*root.root().digest()), bytes, pack: root.root() };
    let error = direct.read_chunk(&at_root, None, None).await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Absent(_)), "{error}");
    direct.protect_pack(pack.root(), pack.header().bytes()).await.unwrap();

    // Bytes that rot on the node are not handed on.
    for file in kubo.block_files() {
        if std::fs::metadata(&file).unwrap().len() == 70_000 {
            std::fs::write(&file, vec![0; 70_000]).unwrap();
        }
    }
    let reads = own.grant(Verb::Read { root: pack.root() });
    for range in [None, Some(0..10)] {
        let error = own.node().read_chunk(&at(&pack, 2), range, Some(&reads)).await.unwrap_err();
        assert!(matches!(error.reason, NodeFailure::Answer(_)), "{error}");
    }
}

#[tokio::test]
async fn a_node_that_is_away_is_named_without_its_credential() {
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", away.local_addr().unwrap());
    drop(away);
    let stage = Stage::new(address("12D3KooWaway", NodeKind::Kubo, &url, &url)).await;
    let pack = pack(1);
    stage.issue(&pack);
    let car = pack.car().concat();
    let answer = stage.upload(&stage.grant(write(&pack)), form(&car).len(), &car).await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("node behind"), "{answer}");
    assert!(!answer.contains(SECRET));
    let reads = stage.grant(Verb::Read { root: pack.root() });
    let error = stage.node().read_chunk(&at(&pack, 2), None, Some(&reads)).await.unwrap_err();
    assert!(matches!(&error.reason, NodeFailure::Unreachable(text) if text.contains("behind")), "{error}");
}
