//! Tests of the node's HTTP face over real sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, DATE, RANGE};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{NodeLimits, NodeOptions, run, run_on};
use crate::grant::{Grant, PublicKey, SigningKey, Start, Verb};
use crate::id::{NodeId, PackRoot, PoolId};
use crate::node::builtin::disk::Disk;
use crate::node::builtin::local_disk::LocalDisk;
use crate::node::builtin::memory_disk::MemoryDisk;
use crate::node::builtin::store::pack_path;
use crate::node::builtin::testing::{GIB, pack, pool, reduced};
use crate::pack::Pack;

struct Node {
    address: std::net::SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    id: NodeId,
    coordinator: SigningKey,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

struct Answer {
    status: StatusCode,
    headers: hyper::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn quick() -> NodeLimits {
    NodeLimits { progress: Duration::from_millis(300), ..NodeLimits::default() }
}

impl Node {
    /// A node that has not joined.
    async fn fresh(disk: Arc<dyn Disk>, limits: NodeLimits, options: NodeOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run_on(disk, listener, options, limits, async {
            let _ = stopped.await;
        }));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let coordinator = SigningKey::from_seed(&[5; 32]);
        let id = "unknown".parse().unwrap();
        let mut node = Self { address, client, id, coordinator, stop, task };
        let answer = node.post("/api/v0/id", None, Bytes::new()).await;
        node.id = answer.lines()[0]["ID"].as_str().unwrap().parse().unwrap();
        node
    }

    async fn in_memory(limits: NodeLimits) -> (Self, MemoryDisk) {
        let disk = MemoryDisk::new(100 * GIB);
        let node = Self::fresh(Arc::new(disk.clone()), limits, NodeOptions::default()).await;
        let code = String::from_utf8(disk.get(Path::new("join.code")).unwrap()).unwrap();
        assert_eq!(node.join(&code, pool()).await.status, StatusCode::OK);
        (node, disk)
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let (head, body) = self.client.request(request).await.unwrap().into_parts();
        Answer { status: head.status, headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    fn request(&self, method: Method, path: &str, grant: Option<&str>) -> hyper::http::request::Builder {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        grant.into_iter().fold(request, |request, grant| request.header(AUTHORIZATION, format!("Bearer {grant}")))
    }

    async fn post(&self, path: &str, grant: Option<&str>, body: Bytes) -> Answer {
        self.send(self.request(Method::POST, path, grant).body(Full::new(body)).unwrap()).await
    }

    async fn managed(&self, path: &str) -> Answer {
        self.post(&format!("/api/v0/{path}"), Some(&self.grant(Verb::Manage)), Bytes::new()).await
    }

    async fn join(&self, code: &str, pool: PoolId) -> Answer {
        let coordinator = self.coordinator.public().to_string();
        let body = json!({"code": code, "pool": pool, "coordinator": coordinator, "epoch": 3, "instance": "one"});
        self.post("/api/v0/bytenode/join", None, Bytes::from(body.to_string())).await
    }

    fn grant(&self, what: Verb) -> String {
        let until = Timestamp::now().as_second() + 600;
        self.sign(&Grant { by: start(3, "one"), pool: pool(), node: self.id.clone(), what, until })
    }

    fn sign(&self, grant: &Grant) -> String {
        self.coordinator.grant(grant).expose().to_owned()
    }

    async fn import(&self, grant: &str, car: &[u8]) -> Answer {
        let request = self
            .request(Method::POST, "/api/v0/dag/import?pin-roots=false&allow-big-block=true", Some(grant))
            .header(CONTENT_TYPE, "multipart/form-data; boundary=xyz");
        self.send(request.body(Full::new(form(car))).unwrap()).await
    }

    async fn write(&self, pack: &Pack) -> Answer {
        self.import(&self.grant(write_verb(pack)), &pack.car().concat()).await
    }

    async fn read(&self, method: Method, cid: &str, grant: &str, range: Option<&str>) -> Answer {
        self.fetch(method, &format!("/ipfs/{cid}?format=raw"), grant, range).await
    }

    async fn fetch(&self, method: Method, path: &str, grant: &str, range: Option<&str>) -> Answer {
        let request = self.request(method, path, Some(grant));
        let request = range.into_iter().fold(request, |request, range| request.header(RANGE, range));
        self.send(request.body(Full::default()).unwrap()).await
    }
}

fn start(epoch: u64, instance: &str) -> Start {
    Start { epoch, instance: instance.to_owned() }
}

fn write_verb(pack: &Pack) -> Verb {
    Verb::Write { root: pack.root(), bytes: pack.header().car_bytes() }
}

fn form(car: &[u8]) -> Bytes {
    let head = b"--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"\"\r\n\r\n";
    Bytes::from([&head[..], car, b"\r\n--xyz--\r\n"].concat())
}

#[tokio::test]
async fn a_node_joins_with_its_code_only_and_not_at_any_pace() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(LocalDisk::open(dir.path()).unwrap());
    assert!(LocalDisk::open(dir.path()).is_err(), "locked");
    let node = Node::fresh(disk, quick(), NodeOptions { name: Some("n1".to_owned()), ..NodeOptions::default() }).await;
    let code = std::fs::read_to_string(dir.path().join("join.code")).unwrap();
    assert_eq!(node.managed("pin/ls").await.status, StatusCode::FORBIDDEN);
    assert_eq!(node.join("WRONG", pool()).await.status, StatusCode::FORBIDDEN);
    let joined = node.join(&code, pool()).await;
    assert_eq!(joined.status, StatusCode::OK);
    let key: PublicKey = joined.lines()[0]["receipt_key"].as_str().unwrap().parse().unwrap();
    assert_eq!(key.node_id(), node.id);
    assert!(!dir.path().join("join.code").exists());
    assert_eq!(node.join("", pool()).await.status, StatusCode::OK, "again");
    assert_eq!(node.join(&code, PoolId::from_bytes([9; 16])).await.status, StatusCode::FORBIDDEN);
    let hello = |epoch| json!({"epoch": epoch, "instance": "two"}).to_string();
    let grant = node.grant(Verb::Manage);
    for (epoch, before) in [(5, 3), (4, 5), (5, 5)] {
        let answer = node.post("/api/v0/bytenode/hello", Some(&grant), Bytes::from(hello(epoch))).await;
        assert_eq!(answer.lines()[0]["epoch"], before);
        assert!(answer.headers.contains_key(DATE));
    }
    node.stop().await;

    use std::os::unix::fs::PermissionsExt;
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("node.json"), 0o600);
    std::fs::set_permissions(dir.path().join("node.json"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = NodeOptions { data: dir.path().to_owned(), ..NodeOptions::default() };
    let refused = run(listener, options, std::future::pending()).await.unwrap_err();
    assert!(format!("{refused:#}").contains("0600"), "{refused:#}");
}

#[tokio::test]
async fn tries_to_join_are_few() {
    let node = Node::fresh(Arc::new(MemoryDisk::new(GIB)), quick(), NodeOptions::default()).await;
    for _ in 0..5 {
        assert_eq!(node.join("WRONG", pool()).await.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(node.join("WRONG", pool()).await.status, StatusCode::TOO_MANY_REQUESTS);
    let long = node.post("/api/v0/bytenode/hello", None, Bytes::from(vec![b'x'; 100_000])).await;
    assert_eq!(long.status, StatusCode::FORBIDDEN);
    node.stop().await;
}

#[tokio::test]
async fn every_foreign_or_stale_grant_is_refused() {
    let (node, disk) = Node::in_memory(quick()).await;
    let (pack, other) = (pack(1), pack(2));
    let good = Grant {
        by: start(3, "one"),
        pool: pool(),
        node: node.id.clone(),
        what: write_verb(&pack),
        until: Timestamp::now().as_second() + 60,
    };
    let (root, bytes) = (pack.root(), pack.header().car_bytes());
    let bad = [
        Grant { pool: PoolId::from_bytes([9; 16]), ..good.clone() },
        Grant { node: "bn-other".parse().unwrap(), ..good.clone() },
        Grant { until: Timestamp::now().as_second(), ..good.clone() },
        Grant { what: Verb::Read { root }, ..good.clone() },
    ];
    let car = pack.car().concat();
    for grant in &bad {
        let answer = node.import(&node.sign(grant), &car).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{grant:?}");
        assert!(answer.text().starts_with("ByteNode Access Denied"));
    }
    let forged = SigningKey::from_seed(&[6; 32]).grant(&good);
    assert_eq!(node.import(forged.expose(), &car).await.status, StatusCode::FORBIDDEN);
    for what in [
        Verb::Write { root: other.root(), bytes },
        Verb::Write { root, bytes: bytes - 1 },
        Verb::Write { root, bytes: bytes + 1 },
    ] {
        let answer = node.import(&node.grant(what), &car).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.lines()[0]["Type"], "error");
    }
    assert!(!disk.paths().iter().any(|path| path.starts_with("packs") || path.starts_with("incoming")));
    assert_eq!(node.write(&pack).await.status, StatusCode::OK);
    let cid = pack.header().entries[2].chunk.to_string();
    for what in [Verb::Read { root: other.root() }, write_verb(&pack)] {
        let answer = node.read(Method::GET, &cid, &node.grant(what), None).await;
        assert!(answer.status == StatusCode::FORBIDDEN || answer.status == StatusCode::PRECONDITION_FAILED);
    }
    for path in ["pin/ls", "pin/rm", "pin/add", "pin/update", "refs/local", "repo/stat", "diag/sys", "repo/gc"] {
        let answer = node.post(&format!("/api/v0/{path}"), Some(&node.sign(&good)), Bytes::new()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
    }
    node.stop().await;
}

/// Whoever starts the coordinator a second time, on a copy of its data, has its keys: the later start alone changes things.
#[tokio::test]
async fn a_start_that_was_superseded_changes_nothing() {
    let (node, _) = Node::in_memory(quick()).await;
    let (kept, sent, late) = (pack(1), pack(2), pack(3));
    assert_eq!(node.write(&kept).await.status, StatusCode::OK);
    let now = Timestamp::now().as_second();
    let later = json!({"epoch": 4, "instance": "two", "earlier_until": now + 60}).to_string();
    let told = node.post("/api/v0/bytenode/hello", Some(&node.grant(Verb::Manage)), Bytes::from(later)).await;
    assert_eq!((told.status, told.lines().remove(0)), (StatusCode::OK, json!({"epoch": 3, "instance": "one"})));
    let by = |by, what, until| node.sign(&Grant { by, pool: pool(), node: node.id.clone(), what, until });
    let drop_it = format!("/api/v0/pin/rm?arg={}", kept.root());
    for (epoch, instance) in [(3, "one"), (4, "one"), (4, "three")] {
        let grant = by(start(epoch, instance), Verb::Manage, now + 60);
        for path in [&drop_it[..], "/api/v0/pin/update?arg=x&arg=y"] {
            let refused = node.post(path, Some(&grant), Bytes::new()).await;
            assert_eq!(refused.status, StatusCode::FORBIDDEN, "{epoch} {instance} {path}");
            assert!(refused.text().contains("another start of the coordinator is in charge here (epoch 4)"));
        }
        assert_eq!(node.import(&grant, &late.car().concat()).await.status, StatusCode::FORBIDDEN);
        // It may look.
        let seen = node.post("/api/v0/bytenode/seen", Some(&grant), Bytes::new()).await;
        assert_eq!(seen.lines().remove(0), json!({"epoch": 4, "instance": "two"}));
        assert_eq!(node.post("/api/v0/pin/ls?stream=true", Some(&grant), Bytes::new()).await.status, StatusCode::OK);
    }
    // Puts that were under way at the later start go on, for as long as it said.
    for (by_whom, until, expected) in [
        (start(3, "one"), now + 60, StatusCode::OK),
        (start(3, "one"), now + 61, StatusCode::FORBIDDEN),
        (start(4, "three"), now + 60, StatusCode::FORBIDDEN),
        (start(4, "two"), now + 600, StatusCode::OK),
    ] {
        let pack = if expected == StatusCode::OK { &sent } else { &late };
        let answer = node.import(&by(by_whom.clone(), write_verb(pack), until), &pack.car().concat()).await;
        assert_eq!(answer.status, expected, "{by_whom:?} {until}");
    }
    let own = by(start(4, "two"), Verb::Manage, now + 60);
    assert_eq!(node.post(&drop_it, Some(&own), Bytes::new()).await.status, StatusCode::OK);
    node.stop().await;
}

#[tokio::test]
async fn a_pack_is_imported_read_listed_replaced_and_dropped() {
    let (node, disk) = Node::in_memory(quick()).await;
    let pack = pack(1);
    for _ in 0..2 {
        let answer = node.write(&pack).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let lines = answer.lines();
        assert_eq!(lines[0], json!({"Root": {"Cid": {"/": pack.root()}, "PinErrorMsg": ""}}));
        let key = PublicKey::of_node(&node.id).unwrap();
        let receipt = key.read_receipt(lines[1]["Receipt"].as_str().unwrap()).unwrap();
        assert_eq!((receipt.root, receipt.bytes), (pack.root(), pack.header().car_bytes()));
    }
    read_all_ways(&node, &pack).await;
    let listed = node.managed("pin/ls?type=recursive&stream=true").await.lines();
    assert_eq!(listed, [json!({"Cid": pack.root(), "Type": "recursive", "Name": ""})]);
    let keys = node.managed(&format!("pin/ls?type=recursive&arg={}", pack.root())).await.lines();
    assert_eq!(keys[0]["Keys"][pack.root().to_string()]["Type"], "recursive");
    assert_eq!(node.managed(&format!("pin/add?arg={}", pack.root())).await.status, StatusCode::OK);
    assert_eq!(node.managed("refs/local").await.lines().len(), pack.header().entries.len() + 1);
    let stat = node.managed("repo/stat?size-only=true").await.lines();
    assert_eq!(stat[0]["RepoSize"], pack.header().car_bytes());
    let space = node.managed("diag/sys").await.lines();
    assert_eq!(space[0]["diskinfo"]["total_space"], 100 * GIB);

    let smaller = reduced(&pack, 2, |at| at == 2);
    let staged = node.import(&node.grant(Verb::Manage), &smaller.car()[..3].concat()).await;
    assert_eq!((staged.status, staged.lines().len()), (StatusCode::OK, 1));
    for _ in 0..2 {
        let path = format!("pin/update?arg={}&arg={}&unpin=true", pack.root(), smaller.root());
        let updated = node.managed(&path).await;
        assert_eq!(updated.status, StatusCode::OK, "{}", updated.text());
    }
    assert_eq!(disk.get(&pack_path(&smaller.root())).unwrap(), smaller.car().concat());
    let gone = node.managed(&format!("pin/ls?arg={}", pack.root())).await;
    assert_eq!(gone.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(gone.lines()[0]["Message"].as_str().unwrap().ends_with("is not pinned"));
    assert_eq!(node.managed(&format!("pin/rm?arg={}", smaller.root())).await.status, StatusCode::OK);
    let absent = node.managed(&format!("pin/rm?arg={}", smaller.root())).await;
    assert_eq!(absent.lines()[0]["Message"], "not pinned or pinned indirectly");
    assert_eq!(node.managed("block/rm").await.status, StatusCode::NOT_FOUND);
    assert_eq!(node.managed("pin/rm").await.status, StatusCode::BAD_REQUEST);
    let get = node.request(Method::GET, "/api/v0/id", None).body(Full::default()).unwrap();
    assert_eq!(node.send(get).await.status, StatusCode::METHOD_NOT_ALLOWED);
    node.stop().await;
}

async fn read_all_ways(node: &Node, pack: &Pack) {
    let grant = node.grant(Verb::Read { root: pack.root() });
    for (entry, bytes) in pack.header().entries.iter().zip(pack.chunks()) {
        let cid = entry.chunk.to_string();
        assert_eq!(node.read(Method::GET, &cid, &grant, None).await.body, bytes);
        let managed = node.read(Method::GET, &cid, &node.grant(Verb::Manage), None).await;
        assert_eq!(managed.body, bytes);
        let head = node.read(Method::HEAD, &cid, &grant, None).await;
        assert_eq!(
            (head.status, head.headers["content-length"].to_str().unwrap()),
            (StatusCode::OK, &*entry.bytes.to_string())
        );
    }
    let cid = pack.header().entries[3].chunk.to_string();
    let part = node.read(Method::GET, &cid, &grant, Some("bytes=100-199")).await;
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &pack.chunks()[3][100..200]));
    assert_eq!(part.headers[CONTENT_RANGE], "bytes 100-199/4096");
    let outside = node.read(Method::GET, &cid, &grant, Some("bytes=4096-")).await;
    assert_eq!(outside.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let root = node.read(Method::GET, &pack.root().to_string(), &grant, None).await;
    assert!(pack.root().names(&root.body));
    let absent = PackRoot::of(b"absent").to_string();
    for method in [Method::GET, Method::HEAD] {
        let answer = node.read(method, &absent, &node.grant(Verb::Manage), None).await;
        assert_eq!(answer.status, StatusCode::PRECONDITION_FAILED);
    }
    assert_eq!(node.read(Method::GET, "nonsense", &grant, None).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn cut_and_flipped_packs_are_refused_and_corrupt_ones_not_served() {
    let (node, disk) = Node::in_memory(quick()).await;
    let pack = pack(1);
    let car = pack.car().concat();
    let grant = node.grant(write_verb(&pack));
    let mut flipped = car.clone();
    flipped[car.len() / 2] ^= 1;
    for bad in [&car[..car.len() - 1], &car[..70], &flipped, &[]] {
        assert_eq!(node.import(&grant, bad).await.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!disk.paths().iter().any(|path| path.starts_with("packs") || path.starts_with("incoming")));
    }
    let no_form = node.post("/api/v0/dag/import", Some(&grant), Bytes::from(car)).await;
    assert_eq!(no_form.status, StatusCode::BAD_REQUEST);
    assert_eq!(node.write(&pack).await.status, StatusCode::OK);
    let mut stored = disk.get(&pack_path(&pack.root())).unwrap();
    *stored.last_mut().unwrap() ^= 1;
    disk.put(&pack_path(&pack.root()), stored);
    let cid = pack.header().entries.last().unwrap().chunk.to_string();
    for range in [None, Some("bytes=0-9")] {
        let answer = node.read(Method::GET, &cid, &node.grant(Verb::Read { root: pack.root() }), range).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(answer.text().contains("corrupt"), "{}", answer.text());
    }
    // Whoever asks for it proves the whole by itself; of a part nobody could.
    let read = node.grant(Verb::Read { root: pack.root() });
    for (range, status) in [(None, StatusCode::OK), (Some("bytes=0-9"), StatusCode::INTERNAL_SERVER_ERROR)] {
        let path = format!("/ipfs/{cid}?format=raw&unproved=true");
        let answer = node.fetch(Method::GET, &path, &read, range).await;
        assert_eq!(answer.status, status);
    }
    disk.take(100 * GIB);
    let full = node.write(&super::tests::pack(2)).await;
    assert!(full.lines()[0]["Message"].as_str().unwrap().starts_with("node is full"), "{}", full.text());
    node.stop().await;
}

#[tokio::test]
async fn a_stalled_body_is_cut_and_leaves_nothing() {
    let (node, disk) = Node::in_memory(quick()).await;
    let pack = pack(1);
    let body = form(&pack.car().concat());
    let head = format!(
        "POST /api/v0/dag/import HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {}\r\n\
         Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {}\r\n\r\n",
        node.grant(write_verb(&pack)),
        body.len()
    );
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body[..body.len() / 2]).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert!(!disk.paths().iter().any(|path| path.starts_with("packs") || path.starts_with("incoming")));
    assert_eq!(node.write(&pack).await.status, StatusCode::OK, "nothing is held by the one that was cut");
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_nothing_and_holds_nothing() {
    let (node, disk) = Node::in_memory(NodeLimits { writes: 1, ..NodeLimits::default() }).await;
    let pack = pack(1);
    let body = form(&pack.car().concat());
    let head = format!(
        "POST /api/v0/dag/import HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {}\r\n\
         Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {}\r\n\r\n",
        node.grant(write_verb(&pack)),
        body.len()
    );
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body[..body.len() - 1]).await.unwrap();
    drop(stream);
    let stored = async { while node.write(&pack).await.status != StatusCode::OK {} };
    tokio::time::timeout(Duration::from_secs(10), stored).await.expect("the one write turn is free again");
    assert_eq!(disk.paths().iter().filter(|path| path.starts_with("incoming")).count(), 0);
    node.stop().await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_a_stop_ends_it_all() {
    let limits = NodeLimits { head: Duration::from_millis(200), stop: Duration::from_millis(300), ..quick() };
    let (node, _) = Node::in_memory(limits).await;
    let mut silent = TcpStream::connect(node.address).await.unwrap();
    silent.write_all(b"POST /api/v0/id HT").await.unwrap();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.unwrap();
    let address = node.address;
    node.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn only_loopback_is_served_without_consent() {
    let dir = tempfile::tempdir().unwrap();
    let options = NodeOptions { data: dir.path().to_owned(), ..NodeOptions::default() };
    let open: std::net::SocketAddr = "192.0.2.1:1".parse().unwrap();
    assert!(super::check_address(open, &options).is_err());
    assert!(super::check_address(open, &NodeOptions { insecure_http: true, ..options.clone() }).is_ok());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    run(listener, options, std::future::ready(())).await.unwrap();
    assert!(dir.path().join("join.code").exists());
}
