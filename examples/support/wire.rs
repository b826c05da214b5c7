//! Bare requests to nodes: plain hyper, none of our node code. What bounds our clients is measured with it.
//!
//! Bodies and grants are made before the clock starts, and nothing that comes back is hashed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use bytenode::grant::{Grant, Start, Verb};
use bytenode::id::{NodeId, PackRoot, PoolId};
use bytenode::pack::{Pack, PackEntry};
use bytenode::seam::Seam;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::pool::{Kind, Pool};

const BOUNDARY: &str = "bytenodebarerequests";
/// The most bytes that are kept of what a node says of a request that failed.
const MAX_SAID: usize = 64 << 10;

/// Who may be asked, and how.
pub struct Target {
    api: String,
    gateway: String,
    authorization: Option<String>,
}

/// The nodes of a pool, in their order.
pub type Targets = Arc<Vec<Target>>;

/// Asks the nodes who they are, and signs what built-in nodes need.
pub async fn targets(pool: &Pool, kind: Kind, id: PoolId, epoch: u64) -> Result<Targets> {
    let mut targets = Vec::new();
    for node in &pool.nodes {
        let mut target = Target { api: node.api.clone(), gateway: node.gateway.clone(), authorization: None };
        if kind == Kind::Builtin {
            let seam = Seam::real();
            let keys = bytenode::coordinator::keys::Keys::open(&pool.coordinator_data, &seam)?;
            let bare = Arc::new(vec![target]);
            let node = who(&bare).await?;
            target = Arc::into_inner(bare).and_then(|mut one| one.pop()).context("the one target")?;
            let until = seam.now().as_second() + 3600;
            // As a start that the nodes have not been told of yet.
            let by = Start { epoch: epoch + 1, ..Start::default() };
            let grant = keys.signing().grant(&Grant { by, pool: id, node, what: Verb::Manage, until });
            target.authorization = Some(format!("Bearer {}", grant.expose()));
        }
        targets.push(target);
    }
    Ok(Arc::new(targets))
}

async fn who(target: &Targets) -> Result<NodeId> {
    let mut text = Vec::new();
    Wire::new(target).send(&Task::post(0, "/api/v0/id".into()), |piece| text.extend_from_slice(piece)).await?;
    let said: serde_json::Value = serde_json::from_slice(&text)?;
    Ok(said["ID"].as_str().context("an identity")?.parse()?)
}

/// One request: which node, and what.
pub struct Task {
    target: usize,
    method: Method,
    gateway: bool,
    path: String,
    body: Bytes,
    expected: Option<u64>,
}

impl Task {
    /// A call without a body.
    pub fn post(target: usize, path: String) -> Self {
        Self { target, method: Method::POST, gateway: false, path, body: Bytes::new(), expected: None }
    }

    /// Stores a pack, of which this is the body.
    pub fn import(target: usize, body: Bytes) -> Self {
        let path = "/api/v0/dag/import?pin-roots=false&allow-big-block=true&stats=true".into();
        Self { body, ..Self::post(target, path) }
    }

    /// Reads a chunk of a pack, which a built-in node proves. Kubo takes no notice of which pack it is.
    pub fn read(target: usize, pack: PackRoot, entry: &PackEntry) -> Self {
        let path = format!("/ipfs/{}?format=raw&pack={pack}", entry.chunk);
        Self { method: Method::GET, gateway: true, expected: Some(entry.bytes), ..Self::post(target, path) }
    }

    /// The same reading, of which a built-in node need not prove what it gives.
    pub fn unproved(mut self) -> Self {
        self.path.push_str("&unproved=true");
        self
    }

    /// Drops a pack; Kubo only unpins it.
    pub fn drop_pack(target: usize, root: PackRoot) -> Self {
        Self::post(target, format!("/api/v0/pin/rm?arg={root}"))
    }
}

/// A pack as the body of an import, in one piece.
pub fn multipart(pack: &Pack) -> Bytes {
    let mut body = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"pack.car\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    pack.car().iter().for_each(|piece| body.extend_from_slice(piece));
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    body.into()
}

/// Work on nodes that goes over connections of its own.
pub trait Work: Send + Sync + 'static {
    /// Does it.
    fn run(&self, wire: &mut Wire) -> impl Future<Output = Result<()>> + Send;
}

impl Work for Task {
    async fn run(&self, wire: &mut Wire) -> Result<()> {
        wire.send(self, |_| {}).await
    }
}

/// Does all of this, so much at once.
pub async fn run(targets: &Targets, all: Vec<impl Work>, at_once: usize) -> Result<()> {
    let (all, next) = (Arc::new(all), Arc::new(AtomicUsize::new(0)));
    let worker = |_| {
        let (mut wire, all, next) = (Wire::new(targets), Arc::clone(&all), Arc::clone(&next));
        tokio::spawn(async move {
            while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                one.run(&mut wire).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
    };
    for worker in (0..at_once).map(worker).collect::<Vec<_>>() {
        worker.await??;
    }
    Ok(())
}

/// Connections to the nodes, one request at a time.
pub struct Wire {
    targets: Targets,
    connections: HashMap<(usize, bool), SendRequest<Full<Bytes>>>,
}

impl Wire {
    /// None is open yet.
    pub fn new(targets: &Targets) -> Self {
        Self { targets: Arc::clone(targets), connections: HashMap::new() }
    }

    /// Sends a request, and hands on what comes back piece by piece.
    pub async fn send(&mut self, task: &Task, mut piece: impl FnMut(&[u8]) + Send) -> Result<()> {
        let target = &self.targets[task.target];
        let base = if task.gateway { &target.gateway } else { &target.api };
        let address = base.strip_prefix("http://").context("an http address")?;
        let mut request = Request::builder().method(task.method.clone()).uri(&task.path).header(HOST, address);
        if let Some(authorization) = &target.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if task.gateway {
            request = request.header(CACHE_CONTROL, "only-if-cached");
        } else if !task.body.is_empty() {
            request = request.header(CONTENT_TYPE, format!("multipart/form-data; boundary={BOUNDARY}"));
        }
        let request = request.body(Full::new(task.body.clone()))?;
        let key = (task.target, task.gateway);
        if self.connections.get(&key).is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            self.connections.insert(key, sender);
        }
        let sender = self.connections.get_mut(&key).context("just made")?;
        sender.ready().await?;
        let mut answer = sender.send_request(request).await?;
        let (status, mut length, mut said) = (answer.status(), 0, Vec::new());
        while let Some(frame) = answer.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            length += data.len() as u64;
            if status.is_success() {
                piece(&data);
            } else if said.len() < MAX_SAID {
                said.extend_from_slice(&data);
            }
        }
        ensure!(status.is_success(), "{} {}: {status} {}", task.method, task.path, String::from_utf8_lossy(&said));
        ensure!(task.expected.is_none_or(|expected| expected == length), "{}: {length} bytes", task.path);
        Ok(())
    }
}
