//! The bare probe: plain hyper, none of our node code, writes packs to the same nodes and reads their chunks back.
//!
//! Requests under way at once {1, 2, 4, 8, 16} x chunks a pack; the best counts. Bytes, names and grants are made before
//! the clock starts, and nothing that comes back is hashed, so no client can do better by more than chance.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytenode::grant::{Grant, Start, Verb};
use bytenode::id::{ChunkId, NodeId, PackId, PackRoot, PoolId};
use bytenode::pack::{Pack, PackEntry, PackHeader};
use bytenode::seam::Seam;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Kind;
use crate::bounds::Generator;
use crate::pool::Pool;
use crate::usage::{cpu, settle};

const BOUNDARY: &str = "bytenodethroughputprobe";
/// Requests under way at once.
const AT_ONCE: [usize; 5] = [1, 2, 4, 8, 16];

/// What is written and read.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of all chunks, each counted once.
    pub bytes: u64,
    /// Bytes of a chunk.
    pub chunk_bytes: usize,
    /// Copies of each pack.
    pub copies: usize,
    /// Chunks of a pack, as alternatives.
    pub packs: [usize; 2],
}

/// A best result.
#[derive(Debug, Clone, Copy, Default)]
pub struct Best {
    /// Bytes a second, each chunk counted once.
    pub rate: f64,
    /// Requests under way at once.
    pub at_once: usize,
    /// Chunks in a pack.
    pub pack: usize,
    /// CPU seconds for each GiB of this process.
    pub cpu_per_gib: f64,
    /// CPU seconds for each GiB of all nodes.
    pub nodes_cpu_per_gib: f64,
}

/// Who may be asked, and how.
#[derive(Clone)]
struct Target {
    api: String,
    gateway: String,
    authorization: Option<String>,
}

/// The probe of one pool.
pub struct Probe {
    kind: Kind,
    pool: PoolId,
    epoch: u64,
    targets: Vec<Target>,
    pids: Vec<u32>,
    next: u64,
}

/// One request: which node, and what.
struct Task {
    target: usize,
    method: Method,
    gateway: bool,
    path: String,
    body: Bytes,
    expected: Option<usize>,
}

impl Probe {
    /// Asks the nodes who they are, and signs what built-in nodes need.
    pub async fn new(pool: &Pool, kind: Kind, id: PoolId, epoch: u64) -> Result<Self> {
        let mut targets = Vec::new();
        for node in &pool.nodes {
            let mut target = Target { api: node.api.clone(), gateway: node.gateway.clone(), authorization: None };
            if kind == Kind::Builtin {
                let seam = Seam::real();
                let keys = bytenode::coordinator::keys::Keys::open(&pool.coordinator_data, &seam)?;
                let node = who(&target).await?;
                let until = seam.now().as_second() + 3600;
                // As a start that the nodes have not been told of yet.
                let by = Start { epoch: epoch + 1, ..Start::default() };
                let grant = keys.signing().grant(&Grant { by, pool: id, node, what: Verb::Manage, until });
                target.authorization = Some(format!("Bearer {}", grant.expose()));
            }
            targets.push(target);
        }
        let pids = pool.nodes.iter().map(|node| node.pid()).collect();
        // An epoch that no coordinator has: it does not take these packs for another one's.
        Ok(Self { kind, pool: id, epoch: 0, targets, pids, next: 1 << 40 })
    }

    /// The best of writing and the best of reading. What it wrote to built-in nodes is dropped again.
    pub async fn best(&mut self, shape: Shape) -> Result<(Best, Best)> {
        let (mut write, mut read) = (Best::default(), Best::default());
        for pack in shape.packs {
            for at_once in AT_ONCE {
                let packs = self.make(shape, pack);
                let written = self.write(&packs, shape, at_once).await?;
                keep(&mut write, Best { pack, at_once, ..written });
                let got = self.read(&packs, shape, at_once).await?;
                keep(&mut read, Best { pack, at_once, ..got });
                self.clear(&packs, shape).await?;
            }
        }
        Ok((write, read))
    }

    fn make(&mut self, shape: Shape, chunks: usize) -> Vec<Pack> {
        let count = (shape.bytes / (chunks * shape.chunk_bytes) as u64).max(1);
        let mut packs = Vec::new();
        for _ in 0..count {
            self.next += 1;
            let mut generator = Generator::new(self.next);
            let chunk = |_| {
                let mut chunk = vec![0; shape.chunk_bytes];
                generator.fill(&mut chunk);
                Bytes::from(chunk)
            };
            let chunks: Vec<Bytes> = (0..chunks).map(chunk).collect();
            let entry = |chunk: &Bytes| PackEntry { chunk: ChunkId::of(chunk), bytes: chunk.len() as u64 };
            let entries = chunks.iter().map(entry).collect();
            let header = PackHeader { pool: self.pool, epoch: self.epoch, id: PackId::new(self.next), entries };
            packs.push(Pack::new(header, chunks));
        }
        packs
    }

    /// The nodes of the n-th pack.
    fn holders(&self, pack: usize, copies: usize) -> impl Iterator<Item = usize> {
        let nodes = self.targets.len();
        (0..copies).map(move |copy| (pack + copy) % nodes)
    }

    async fn write(&self, packs: &[Pack], shape: Shape, at_once: usize) -> Result<Best> {
        let mut tasks = Vec::new();
        for (index, pack) in packs.iter().enumerate() {
            let body = multipart(pack);
            tasks.extend(self.holders(index, shape.copies).map(|target| Task {
                target,
                method: Method::POST,
                gateway: false,
                path: "/api/v0/dag/import?pin-roots=false&allow-big-block=true&stats=true".into(),
                body: body.clone(),
                expected: None,
            }));
        }
        settle();
        self.run(tasks, at_once, packs).await
    }

    async fn read(&self, packs: &[Pack], shape: Shape, at_once: usize) -> Result<Best> {
        let mut tasks = Vec::new();
        for (index, pack) in packs.iter().enumerate() {
            for (at, entry) in pack.header().entries.iter().enumerate() {
                let target = self.holders(index, shape.copies).nth(at % shape.copies).context("a copy")?;
                let more = match self.kind {
                    Kind::Builtin => format!("&pack={}", pack.root()),
                    Kind::Kubo => String::new(),
                };
                tasks.push(Task {
                    target,
                    method: Method::GET,
                    gateway: true,
                    path: format!("/ipfs/{}?format=raw{more}", entry.chunk),
                    body: Bytes::new(),
                    expected: Some(shape.chunk_bytes),
                });
            }
        }
        self.run(tasks, at_once, packs).await
    }

    async fn clear(&self, packs: &[Pack], shape: Shape) -> Result<()> {
        if self.kind == Kind::Kubo {
            return Ok(());
        }
        let mut tasks = Vec::new();
        for (index, pack) in packs.iter().enumerate() {
            tasks.extend(self.holders(index, shape.copies).map(|target| drop_task(target, pack.root())));
        }
        self.run(tasks, 8, packs).await.map(drop)
    }

    async fn run(&self, tasks: Vec<Task>, at_once: usize, packs: &[Pack]) -> Result<Best> {
        let bytes: u64 = packs.iter().map(|pack| pack.header().bytes()).sum();
        let tasks = Arc::new(tasks);
        let next = Arc::new(AtomicUsize::new(0));
        let (before, nodes_before, begun) = (cpu("self").0, self.nodes_cpu(), Instant::now());
        let workers: Vec<_> = (0..at_once)
            .map(|_| tokio::spawn(work(self.targets.clone(), Arc::clone(&tasks), Arc::clone(&next))))
            .collect();
        for worker in workers {
            worker.await??;
        }
        let rate = bytes as f64 / begun.elapsed().as_secs_f64();
        let per_gib = (1u64 << 30) as f64 / bytes as f64;
        let cpu_per_gib = (cpu("self").0 - before) * per_gib;
        let nodes_cpu_per_gib = (self.nodes_cpu() - nodes_before) * per_gib;
        Ok(Best { rate, cpu_per_gib, nodes_cpu_per_gib, ..Best::default() })
    }

    fn nodes_cpu(&self) -> f64 {
        self.pids.iter().map(|pid| cpu(&pid.to_string()).0).sum()
    }
}

fn keep(best: &mut Best, other: Best) {
    if other.rate > best.rate {
        *best = other;
    }
}

fn drop_task(target: usize, root: PackRoot) -> Task {
    let path = format!("/api/v0/pin/rm?arg={root}");
    Task { target, method: Method::POST, gateway: false, path, body: Bytes::new(), expected: None }
}

/// A pack as the body of an import, in one piece.
fn multipart(pack: &Pack) -> Bytes {
    let mut body = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"pack.car\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    pack.car().iter().for_each(|piece| body.extend_from_slice(piece));
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    body.into()
}

type Connections = HashMap<(usize, bool), SendRequest<Full<Bytes>>>;

async fn work(targets: Vec<Target>, tasks: Arc<Vec<Task>>, next: Arc<AtomicUsize>) -> Result<()> {
    let mut connections = Connections::new();
    while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
        exchange(&targets, &mut connections, task).await?;
    }
    Ok(())
}

async fn exchange(targets: &[Target], connections: &mut Connections, task: &Task) -> Result<Vec<u8>> {
    let target = &targets[task.target];
    let base = if task.gateway { &target.gateway } else { &target.api };
    let address = base.strip_prefix("http://").context("an http address")?;
    let key = (task.target, task.gateway);
    if connections.get(&key).is_none_or(SendRequest::is_closed) {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        connections.insert(key, sender);
    }
    let sender = connections.get_mut(&key).context("just made")?;
    sender.ready().await?;
    let mut request = Request::builder().method(task.method.clone()).uri(&task.path).header(HOST, address);
    if let Some(authorization) = &target.authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    if task.gateway {
        request = request.header(CACHE_CONTROL, "only-if-cached");
    } else if !task.body.is_empty() {
        request = request.header(CONTENT_TYPE, format!("multipart/form-data; boundary={BOUNDARY}"));
    }
    let mut answer = sender.send_request(request.body(Full::new(task.body.clone()))?).await?;
    let (status, mut length, mut text) = (answer.status(), 0, Vec::new());
    while let Some(frame) = answer.frame().await {
        if let Ok(data) = frame?.into_data() {
            length += data.len();
            if task.expected.is_none() && text.len() < 64 << 10 {
                text.extend_from_slice(&data);
            }
        }
    }
    ensure!(status.is_success(), "{} {}: {status} {}", task.method, task.path, String::from_utf8_lossy(&text));
    ensure!(task.expected.is_none_or(|expected| expected == length), "{}: {length} bytes", task.path);
    Ok(text)
}

async fn who(target: &Target) -> Result<NodeId> {
    let task = Task {
        target: 0,
        method: Method::POST,
        gateway: false,
        path: "/api/v0/id".into(),
        body: Bytes::new(),
        expected: None,
    };
    let text = exchange(std::slice::from_ref(target), &mut Connections::new(), &task).await?;
    let said: serde_json::Value = serde_json::from_slice(&text)?;
    Ok(said["ID"].as_str().context("an identity")?.parse()?)
}
