//! Who a built-in node is, is proved before anything is entrusted to it, on every connection.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::sync::{Arc, Mutex};

use bytenode::admin::{CheckResult, Gc, NodeAdd};
use bytenode::api::NodeKind;
use bytenode::catalog::nodes::NodeRow;
use bytenode::coordinator::keys::{Keys, NodeSecret};
use bytenode::coordinator::{Connect, Examined, Introduction};
use bytenode::daemon::connect::HttpConnect;
use bytenode::grant::Verb;
use bytenode::id::{NodeId, PackId, PackRoot};
use bytenode::node::http::{Credential, HttpNode, HttpNodeOptions, Limits, MintGrant};
use bytenode::node::{GrantToken, Node, NodeFailure};
use bytenode::seam::Seam;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::builtin::{Builtin, POOL, coordinator, grant};

/// How whoever listens at a node's address answers for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// It lets the real node answer everything.
    None,
    /// It says the node's identity, and nothing more.
    Claim,
    /// It adds what the real node proved to somebody else once.
    OldProof,
    /// It adds what another real node proves now.
    OthersProof,
}

/// Listens where a node is expected, and keeps what is sent to it once it lies.
struct Front {
    url: String,
    lie: Arc<Mutex<Lie>>,
    seen: Arc<Mutex<Vec<String>>>,
    open: Arc<Mutex<JoinSet<()>>>,
    task: JoinHandle<()>,
}

impl Front {
    async fn start(lie: Lie, real: &Builtin, other: &Builtin) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let lie = Arc::new(Mutex::new(lie));
        let (seen, open) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(JoinSet::new())));
        let (real, other) = (real.url.clone(), other.url.clone());
        let (lies, heads, connections) = (Arc::clone(&lie), Arc::clone(&seen), Arc::clone(&open));
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let lie = *lies.lock().unwrap();
                connections.lock().unwrap().spawn(serve(socket, lie, real.clone(), other.clone(), heads.clone()));
            }
        });
        Self { url, lie, seen, open, task }
    }

    /// From now on it lies; what was connected to the real node is cut.
    async fn lie(&self, lie: Lie) {
        *self.lie.lock().unwrap() = lie;
        let mut open = std::mem::take(&mut *self.open.lock().unwrap());
        open.shutdown().await;
    }

    /// Whether anything that permits something was sent to it.
    fn has_secret(&self, code: &str) -> bool {
        let seen = self.seen.lock().unwrap();
        assert!(!seen.is_empty(), "it was asked");
        seen.iter().any(|request| request.to_lowercase().contains("authorization:") || request.contains(code.trim()))
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request, head and body; nothing at the end.
async fn request(socket: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if request.len() >= end + 4 + length.unwrap_or(0) {
                return Some(String::from_utf8_lossy(&request).into_owned());
            }
        }
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

async fn serve(mut socket: TcpStream, lie: Lie, real: String, other: String, seen: Arc<Mutex<Vec<String>>>) {
    if lie == Lie::None {
        let mut node = TcpStream::connect(real.trim_start_matches("http://")).await.unwrap();
        let _ = copy_bidirectional(&mut socket, &mut node).await;
        return;
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |url: String| client.post(url).send().await.unwrap().json::<Value>().await.unwrap();
    while let Some(request) = request(&mut socket).await {
        let path = request.split(' ').nth(1).unwrap().to_owned();
        seen.lock().unwrap().push(request);
        let body = if path.starts_with("/api/v0/id") {
            let mut told = ask(format!("{real}/api/v0/id")).await;
            let proof = match lie {
                Lie::OldProof => ask(format!("{real}/api/v0/id?nonce={}", "07".repeat(32))).await["Proof"].take(),
                Lie::OthersProof => ask(format!("{other}{path}")).await["Proof"].take(),
                Lie::None | Lie::Claim => Value::Null,
            };
            told["Proof"] = proof;
            told.to_string()
        } else {
            "{}".to_owned()
        };
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn introduction(keys: &Keys) -> Introduction {
    Introduction {
        pool: POOL,
        key: keys.signing().public(),
        epoch: 1,
        instance: [1; 16],
        earlier_until: 0,
        pack: PackId::new(1),
    }
}

fn add(url: &str, code: Option<&str>) -> NodeAdd {
    let token = code.map(|code| GrantToken::new(code.to_owned()));
    serde_json::from_value(serde_json::json!({"url": url, "token": token.map(|token| token.expose().to_owned())}))
        .unwrap()
}

fn row(id: &NodeId, url: &str) -> NodeRow {
    NodeRow {
        row: 1,
        id: id.clone(),
        name: "n1".to_owned(),
        kind: NodeKind::Builtin,
        url: url.to_owned(),
        gateway: url.to_owned(),
        zone: "z".to_owned(),
        capacity_bytes: 1 << 30,
        access: None,
        gc: Gc::Owner,
        cache_live: false,
        draining: bytenode::catalog::nodes::Draining::No,
        weight: None,
        version: None,
        last_seen: None,
    }
}

/// A coordinator's way to nodes.
fn connect() -> (HttpConnect, Introduction) {
    let keys = Arc::new(Keys::in_memory(&Seam::real()));
    let pool = introduction(&keys);
    let connect = HttpConnect::new(keys, Limits::default(), Seam::real(), "here".to_owned());
    connect.serve(&pool);
    (connect, pool)
}

fn failed_check(examined: &Examined) -> (&str, &str) {
    assert!(examined.node.is_none(), "{:#?}", examined.checks);
    let failed = examined.checks.iter().find(|check| check.result == CheckResult::Failed).unwrap();
    (&failed.check, &failed.message)
}

/// Whoever listens at a node's address could say its identity, was given a grant for everything, and could use that at
/// the real node for ten minutes; and whoever listened there at the registration got the join code.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_not_the_nodes_key_gets_nothing() {
    let (real, other) = (Builtin::fresh().await, Builtin::fresh().await);
    for lie in [Lie::Claim, Lie::OldProof, Lie::OthersProof] {
        let front = Front::start(lie, &real, &other).await;
        let (connect, pool) = connect();
        let node = connect.connect(&row(&real.id, &front.url), &NodeSecret::default()).unwrap();
        let root = PackRoot::of(b"r");
        for failed in [
            node.status().await.map(drop),
            node.holds_pack(root).await.map(drop),
            node.drop_pack(root).await,
            node.list_packs(&mut |_| ()).await,
        ] {
            let error = failed.unwrap_err();
            assert!(matches!(&error.reason, NodeFailure::Unproved(id) if *id == real.id), "{lie:?}: {error}");
        }
        let greeted = connect.greet(&row(&real.id, &front.url), &pool).await.unwrap_err();
        assert!(greeted.to_string().contains("does not prove"), "{greeted:?}");
        for (code, expected) in [(None, Some(&real.id)), (Some(real.code()), None)] {
            let examined = connect.examine(&add(&front.url, code.as_deref()), expected, &pool).await.unwrap();
            let (check, message) = failed_check(&examined);
            assert!(check == "identity" && message.contains("does not prove"), "{lie:?}: {check}: {message}");
        }
        assert!(!front.has_secret(&real.code()), "{lie:?}: {:#?}", front.seen.lock().unwrap());
    }
}

/// A proof holds for the connection on which it was given, and not for the next one to the same address.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_nodes_place_later_gets_nothing() {
    let (real, other) = (Builtin::fresh().await, Builtin::fresh().await);
    let front = Front::start(Lie::None, &real, &other).await;
    let (connect, pool) = connect();
    let code = real.code();
    let examined = connect.examine(&add(&front.url, Some(&code)), None, &pool).await.unwrap();
    assert!(examined.passed(), "{:#?}", examined.checks);
    let row = row(&real.id, &front.url);
    let node = connect.connect(&row, &NodeSecret::default()).unwrap();
    assert_eq!(node.status().await.unwrap().id, real.id);
    connect.greet(&row, &pool).await.unwrap();
    front.lie(Lie::Claim).await;
    // The first call may still see the cut connection.
    let failures = [node.status().await.unwrap_err(), node.status().await.unwrap_err()];
    assert!(matches!(&failures[1].reason, NodeFailure::Unproved(_)), "{failures:?}");
    assert!(connect.greet(&row, &pool).await.is_err());
    assert!(!front.has_secret(&code), "{:#?}", front.seen.lock().unwrap());
    front.lie(Lie::None).await;
    let back = [node.status().await, node.status().await];
    assert_eq!(back[1].as_ref().unwrap().id, real.id, "the real node is taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_at_the_address_is_refused_by_name() {
    let (first, second) = (Builtin::fresh().await, Builtin::fresh().await);
    let (connect, pool) = connect();
    let node = connect.connect(&row(&first.id, &second.url), &NodeSecret::default()).unwrap();
    let error = node.status().await.unwrap_err();
    assert!(matches!(&error.reason, NodeFailure::OtherIdentity { found } if *found == second.id), "{error}");
    let examined = connect.examine(&add(&second.url, None), Some(&first.id), &pool).await.unwrap();
    let (check, message) = failed_check(&examined);
    assert!(check == "identity" && message.contains("another node"), "{check}: {message}");
    assert!(message.contains(second.id.as_str()), "{message}");
}

/// The other direction: what was permitted on one node permits nothing on another of the same pool and coordinator.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_for_one_node_is_none_for_another() {
    let (first, second) = (Builtin::start().await, Builtin::start().await);
    let id = first.id.clone();
    let mint: MintGrant = Arc::new(move || coordinator().grant(&grant(&id, Verb::Manage)));
    let credential = Credential::Mint(mint);
    let node = HttpNode::new(HttpNodeOptions { credential, ..second.options() }).unwrap();
    for refused in [node.status().await.map(drop), node.drop_pack(PackRoot::of(b"r")).await] {
        let error = refused.unwrap_err();
        assert!(matches!(&error.reason, NodeFailure::Denied(why) if why.contains("another node")), "{error}");
    }
    assert!(second.node().status().await.is_ok());
}
