//! A whole pool in process: a coordinator over memory nodes, on the seam of time and chance. Hermetic.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use jiff::Timestamp;

use bytenode::admin::{Access, Admin, Gc, HealthReport, HealthRequest, NodeAdd, Role};
use bytenode::api::{Api, ApiError, ApiResult, Code, Entry, ListRequest, NodeAddress, NodeKind};
use bytenode::catalog::Catalog;
use bytenode::catalog::nodes::NodeRow;
use bytenode::coordinator::keys::{Keys, NodeSecret};
use bytenode::coordinator::{Connect, Coordinator, Examined, Introduction, LocalSession, Parts, Policy};
use bytenode::dial::Dial;
use bytenode::get::{self, GetOptions, GetOutcome, GetSummary, Wanted};
use bytenode::grant::{PublicKey, Start};
use bytenode::id::{ChunkId, NodeId};
use bytenode::monitor::{Event, Recorder};
use bytenode::node::fault::FaultNode;
use bytenode::node::memory::MemoryNode;
use bytenode::node::{NodeError, NodeFailure, SharedNode};
use bytenode::path::RemotePath;
use bytenode::put::{self, Context, Overwrite, PutOptions, PutOutcome, PutSummary};
use bytenode::seam::Seam;
use bytenode::tree::{Found, LocalFile};

use super::traced::{Trace, TracedNode};

/// Capacity of a node unless a test says otherwise.
pub const CAPACITY: u64 = 1 << 30;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Like {
    Builtin,
    Kubo,
}

/// What a pool is made of.
#[derive(Clone)]
pub struct Setup {
    pub nodes: Vec<(Like, u64)>,
    pub policy: Policy,
    pub seed: u64,
    /// Catalog and keys in files, with threads and real time.
    pub file: bool,
    /// The nodes' block cache is live.
    pub cache_live: bool,
}

impl Setup {
    pub fn builtin(count: usize) -> Self {
        Self {
            nodes: vec![(Like::Builtin, CAPACITY); count],
            policy: Policy::default(),
            seed: 1,
            file: false,
            cache_live: false,
        }
    }

    pub fn kubo(count: usize) -> Self {
        Self { nodes: vec![(Like::Kubo, CAPACITY); count], ..Self::builtin(0) }
    }

    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    pub fn file(mut self) -> Self {
        self.file = true;
        self
    }

    pub fn replicas(mut self, replicas: u32) -> Self {
        self.policy.replicas = replicas;
        self
    }
}

/// Every node by its identity: the way of the coordinator and of clients; and the start that a built-in one was told of.
#[derive(Default)]
struct Ways(Mutex<BTreeMap<NodeId, SharedNode>>, Mutex<BTreeMap<NodeId, Start>>);

impl Ways {
    fn find(&self, id: &NodeId, name: &str) -> Result<SharedNode, NodeError> {
        let found = self.0.lock().unwrap().get(id).cloned();
        found.ok_or_else(|| NodeFailure::Unreachable("no such node".into()).at(name))
    }
}

impl Dial for Ways {
    fn dial(&self, address: &NodeAddress) -> Result<SharedNode, NodeError> {
        self.find(&address.id, &address.name)
    }
}

#[async_trait]
impl Connect for Ways {
    fn connect(&self, row: &NodeRow, _secret: &NodeSecret) -> Result<SharedNode, NodeError> {
        self.find(&row.id, &row.name)
    }

    async fn examine(&self, _: &NodeAdd, _: Option<&NodeId>, _: &Introduction) -> ApiResult<Examined> {
        Err(ApiError::new(Code::Internal, "memory nodes are registered without a test"))
    }

    fn serve(&self, _: &Introduction) {}

    async fn shown(&self, row: &NodeRow) -> Result<Option<Start>, NodeError> {
        Ok(self.1.lock().unwrap().get(&row.id).cloned())
    }

    async fn greet(&self, row: &NodeRow, pool: &Introduction) -> Result<Option<Start>, NodeError> {
        let before = self.shown(row).await?;
        let higher = before.as_ref().is_none_or(|before| before.epoch < pool.epoch);
        if higher && PublicKey::of_node(&row.id).is_some() {
            self.1.lock().unwrap().insert(row.id.clone(), pool.start());
        }
        Ok(before)
    }
}

/// A node, its keeper of bytes and its faults.
pub struct TestNode {
    pub name: String,
    pub memory: Arc<MemoryNode>,
    pub fault: Arc<FaultNode>,
}

/// A pool.
pub struct Pool {
    pub seam: Seam,
    pub coordinator: Arc<Coordinator>,
    pub nodes: Vec<TestNode>,
    pub trace: Arc<Trace>,
    pub admin: User,
    pub dir: tempfile::TempDir,
    ways: Arc<Ways>,
    setup: Setup,
    pub keys: Arc<Keys>,
}

/// A user with a session.
#[derive(Clone)]
pub struct User {
    pub session: Arc<LocalSession>,
    pub context: Context,
    pub events: Arc<Recorder>,
    scratch: PathBuf,
}

/// What a put gave.
#[derive(Debug)]
pub struct Put {
    pub summary: PutSummary,
    pub outcomes: Vec<PutOutcome>,
}

impl Put {
    /// The entry of the one file that was stored.
    pub fn entry(&self) -> &Entry {
        match &self.outcomes[..] {
            [PutOutcome::Stored { entry, .. }] => entry,
            other => panic!("not stored: {other:?}"),
        }
    }

    /// New chunks of the one file that was stored.
    pub fn new_chunks(&self) -> u64 {
        match &self.outcomes[..] {
            [PutOutcome::Stored { new_chunks, .. }] => *new_chunks,
            other => panic!("not stored: {other:?}"),
        }
    }

    /// Why the one file was not stored.
    pub fn error(&self) -> &ApiError {
        match &self.outcomes[..] {
            [PutOutcome::Failed { error, .. }] => error,
            other => panic!("not failed: {other:?}"),
        }
    }

    pub fn is_unchanged(&self) -> bool {
        matches!(&self.outcomes[..], [PutOutcome::Unchanged { .. }])
    }
}

/// Bytes that follow from a seed and do not repeat.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for piece in out.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
    }
    out
}

pub fn path(text: &str) -> RemotePath {
    text.parse().unwrap()
}

pub fn always() -> PutOptions {
    PutOptions { overwrite: Overwrite::Always, ..PutOptions::default() }
}

pub const MIB: usize = 1 << 20;

impl Pool {
    pub async fn new(setup: Setup) -> Self {
        let seam = if setup.file { Seam::real() } else { Seam::simulated(setup.seed) };
        let trace = Arc::new(Trace::default());
        let ways = Arc::new(Ways::default());
        let dir = tempfile::tempdir().unwrap();
        let keys = if setup.file { Keys::open(dir.path(), &seam).unwrap() } else { Keys::in_memory(&seam) };
        let keys = Arc::new(keys);
        std::fs::create_dir(dir.path().join("files")).unwrap();
        let catalog = if setup.file {
            Catalog::open(&dir.path().join("catalog.db"), seam.clone()).unwrap()
        } else {
            Catalog::in_memory(seam.clone()).unwrap()
        };
        let coordinator = start(catalog, &seam, &keys, &ways, &setup.policy).await;
        coordinator.create_user("admin", Role::Admin).await.unwrap();
        let admin = sign_in(&coordinator, &ways, &seam, &trace, dir.path().join("files"), 1).await;
        let mut pool = Self { seam, coordinator, nodes: Vec::new(), trace, admin, dir, ways, setup, keys };
        for (like, capacity) in pool.setup.nodes.clone() {
            pool.add_node(like, capacity).await;
        }
        pool
    }

    /// Stops the coordinator and starts another on the same catalog, which asks every node.
    pub async fn restart(&mut self) {
        self.restart_unasked().await;
        self.coordinator.ask_nodes().await;
    }

    /// The same up to where nodes are asked.
    pub async fn restart_unasked(&mut self) {
        self.coordinator.abandon_tasks();
        let catalog = self.coordinator.catalog().clone();
        self.coordinator = start(catalog, &self.seam, &self.keys, &self.ways, &self.setup.policy).await;
        self.admin = sign_in(&self.coordinator, &self.ways, &self.seam, &self.trace, self.scratch(), 1).await;
    }

    /// Another coordinator on the same catalog, as after a crash of the one before, which asks every node.
    pub async fn another(&self) -> Arc<Coordinator> {
        let catalog = self.coordinator.catalog().clone();
        let another = start(catalog, &self.seam, &self.keys, &self.ways, &self.setup.policy).await;
        another.ask_nodes().await;
        another
    }

    /// What a node that was there from the beginning is.
    pub fn like(&self, node: usize) -> Like {
        self.setup.nodes[node].0
    }

    /// Copies the catalog, which must be in a file, as it is now.
    pub fn backup(&self) -> PathBuf {
        let copy = self.admin.fresh();
        let catalog = rusqlite::Connection::open(self.dir.path().join("catalog.db")).unwrap();
        catalog.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
        copy
    }

    /// Starts another coordinator on such a copy. The one before goes on, for whoever holds it.
    pub async fn restore(&mut self, copy: &std::path::Path) {
        let catalog = Catalog::open(copy, self.seam.clone()).unwrap();
        self.coordinator = start(catalog, &self.seam, &self.keys, &self.ways, &self.setup.policy).await;
        self.coordinator.ask_nodes().await;
        self.admin = sign_in(&self.coordinator, &self.ways, &self.seam, &self.trace, self.scratch(), 1).await;
    }

    /// The start that a built-in node was told of last.
    pub fn told(&self, node: usize) -> Option<Start> {
        self.ways.1.lock().unwrap().get(self.nodes[node].memory.id()).cloned()
    }

    /// Has a built-in node say that it obeys somebody.
    pub fn tell(&self, node: usize, start: Start) {
        self.ways.1.lock().unwrap().insert(self.nodes[node].memory.id().clone(), start);
    }

    fn scratch(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// Makes and registers the next node.
    pub async fn add_node(&mut self, like: Like, capacity: u64) -> usize {
        let seam = self.seam.clone();
        self.add_node_at(like, capacity, seam).await
    }

    /// The same for one whose clock is another.
    pub async fn add_node_at(&mut self, like: Like, capacity: u64, clock: Seam) -> usize {
        let index = self.nodes.len();
        if index >= self.setup.nodes.len() {
            self.setup.nodes.push((like, capacity));
        }
        let name = format!("n{}", index + 1);
        let memory = match like {
            Like::Builtin => {
                let seed = [u8::try_from(index + 1).unwrap(); 32];
                MemoryNode::builtin_like(&seed, name.as_str(), capacity, clock)
            }
            Like::Kubo => MemoryNode::new(format!("kubo{}", index + 1).parse().unwrap(), name.as_str(), capacity),
        };
        let fault = FaultNode::named(Arc::clone(&memory) as SharedNode, name.as_str(), self.seam.clone());
        let traced = TracedNode::new(name.clone(), Arc::clone(&fault) as SharedNode, Arc::clone(&self.trace));
        let id = memory.id().clone();
        self.ways.0.lock().unwrap().insert(id.clone(), traced);
        self.nodes.push(TestNode { name: name.clone(), memory, fault });
        let row = NodeRow {
            row: 0,
            id,
            url: format!("memory://{name}"),
            gateway: format!("memory://{name}"),
            zone: name.clone(),
            name,
            kind: NodeKind::Memory,
            capacity_bytes: capacity,
            access: Some(Access::Direct),
            gc: Gc::Owner,
            cache_live: self.setup.cache_live,
            draining: bytenode::catalog::nodes::Draining::No,
            weight: None,
            version: None,
            last_seen: None,
        };
        self.coordinator.register(row, NodeSecret::default()).await.unwrap();
        index
    }

    /// A second user, who is no admin.
    pub async fn user(&self, name: &str) -> User {
        let user = self.coordinator.create_user(name, Role::User).await.unwrap();
        sign_in(&self.coordinator, &self.ways, &self.seam, &self.trace, self.scratch(), user.id).await
    }

    pub fn kill(&self, node: usize) {
        self.nodes[node].memory.kill();
    }

    /// Wakes a node and lets the coordinator see it.
    pub async fn revive(&self, node: usize) {
        self.nodes[node].memory.revive();
        self.coordinator.ask_nodes().await;
    }

    pub async fn health(&self) -> HealthReport {
        self.check(HealthRequest::default()).await
    }

    pub async fn check(&self, request: HealthRequest) -> HealthReport {
        self.admin.session.health(&request).await.unwrap()
    }

    /// Chunks on all nodes, every copy counted.
    pub fn copies(&self) -> usize {
        self.nodes.iter().map(|node| node.memory.chunk_count()).sum()
    }

    /// Indices of the nodes that have a chunk.
    pub fn holders(&self, chunk: &ChunkId) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].memory.has(chunk)).collect()
    }

    /// Every row of every table, as text.
    pub async fn dump(&self) -> String {
        self.coordinator.catalog().read(|c| Ok(dump(c))).await.unwrap()
    }

    /// One number from the catalog.
    pub async fn count(&self, sql: &'static str) -> i64 {
        self.coordinator.catalog().read(move |c| Ok(c.query_row(sql, [], |row| row.get(0))?)).await.unwrap()
    }
}

fn dump(c: &rusqlite::Connection) -> String {
    let mut out = String::new();
    let mut tables = c.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for name in names {
        let mut statement = c.prepare(&format!("SELECT * FROM {name}")).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let values: Vec<String> =
                (0..columns).map(|at| format!("{:?}", row.get::<_, rusqlite::types::Value>(at).unwrap())).collect();
            out.push_str(&format!("{name}: {}\n", values.join(", ")));
        }
    }
    out
}

async fn start(catalog: Catalog, seam: &Seam, keys: &Arc<Keys>, ways: &Arc<Ways>, policy: &Policy) -> Arc<Coordinator> {
    let parts = Parts {
        catalog,
        seam: seam.clone(),
        keys: Arc::clone(keys),
        policy: policy.clone(),
        connect: Arc::clone(ways) as Arc<dyn Connect>,
        machine: "here".into(),
    };
    Coordinator::start(parts).await.unwrap()
}

async fn sign_in(
    coordinator: &Arc<Coordinator>,
    ways: &Arc<Ways>,
    seam: &Seam,
    trace: &Arc<Trace>,
    scratch: PathBuf,
    user: i64,
) -> User {
    let token = coordinator.create_token_for(user, "test").await.unwrap().token;
    let session = Arc::new(coordinator.local_session(token.expose()).await.unwrap());
    let events = Arc::new(Recorder::default());
    let api = super::traced::TracedApi::new(Arc::clone(&session) as Arc<dyn Api>, Arc::clone(trace));
    let context = Context {
        api: Arc::new(api),
        dial: Arc::clone(ways) as Arc<dyn Dial>,
        seam: seam.clone(),
        watch: Arc::clone(&events) as bytenode::monitor::Watch,
    };
    User { session, context, events, scratch }
}

impl User {
    /// The same user, working through another interface to the coordinator.
    pub fn through(&self, api: Arc<dyn Api>) -> Self {
        let mut other = self.clone();
        other.context.api = api;
        other
    }

    /// A path for a local file that is not there yet.
    pub fn fresh(&self) -> PathBuf {
        let name = data_encoding::HEXLOWER.encode(&self.context.seam.bytes::<8>());
        self.scratch.join(name)
    }

    /// Writes a local file with a fixed time.
    pub fn local(&self, content: &[u8]) -> PathBuf {
        let source = self.fresh();
        std::fs::write(&source, content).unwrap();
        let file = std::fs::File::options().write(true).open(&source).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000)).unwrap();
        source
    }

    pub async fn try_put_files(&self, files: Vec<(PathBuf, RemotePath)>, options: &PutOptions) -> ApiResult<Put> {
        let found = files.into_iter().map(|(source, to)| {
            let metadata = std::fs::metadata(&source);
            let size = metadata.as_ref().map_or(0, std::fs::Metadata::len);
            let modified = Timestamp::from_second(1_600_000_000).unwrap();
            Found::File(LocalFile { source, to, size, modified, executable: false })
        });
        let found: Vec<Found> = found.collect();
        self.try_put_found(found, options).await
    }

    pub async fn try_put_found(&self, found: Vec<Found>, options: &PutOptions) -> ApiResult<Put> {
        let mut outcomes = Vec::new();
        let summary =
            put::put(&self.context, Box::new(found.into_iter()), options, &mut |one| outcomes.push(one)).await?;
        Ok(Put { summary, outcomes })
    }

    pub async fn try_put(&self, to: &str, content: &[u8], options: &PutOptions) -> ApiResult<Put> {
        let source = self.local(content);
        let done = self.try_put_files(vec![(source.clone(), path(to))], options).await;
        std::fs::remove_file(source).unwrap();
        done
    }

    /// Puts one file and says what became of it.
    pub async fn put(&self, to: &str, content: &[u8]) -> Put {
        self.put_with(to, content, &PutOptions::default()).await
    }

    pub async fn put_with(&self, to: &str, content: &[u8], options: &PutOptions) -> Put {
        self.try_put(to, content, options).await.unwrap()
    }

    pub async fn put_stream(&self, to: &str, content: Vec<u8>, options: &PutOptions) -> ApiResult<Put> {
        let mut outcomes = Vec::new();
        let input = Box::new(std::io::Cursor::new(content));
        let modified = Timestamp::from_second(1_600_000_000).unwrap();
        let mut each = |one| outcomes.push(one);
        let summary = put::put_stream(&self.context, input, "-", &path(to), modified, options, &mut each).await?;
        Ok(Put { summary, outcomes })
    }

    /// A file's bytes, through `cat`.
    pub async fn try_get(&self, from: &str) -> ApiResult<Vec<u8>> {
        let mut out = Vec::new();
        get::cat(&self.context, &path(from), 0, None, &GetOptions::default(), &mut out).await?;
        Ok(out)
    }

    pub async fn get(&self, from: &str) -> Vec<u8> {
        self.try_get(from).await.unwrap()
    }

    /// Fetches files to a local directory, under their names.
    pub async fn get_into(&self, from: &[&str], dir: &std::path::Path) -> (GetSummary, Vec<GetOutcome>) {
        let mut wanted = Vec::new();
        for one in from {
            let entry = self.session.stat(&path(one)).await.unwrap();
            wanted.push(Wanted { dest: dir.join(entry.path.name().unwrap()), entry });
        }
        let mut outcomes = Vec::new();
        let mut each = |one| outcomes.push(one);
        let summary =
            get::get(&self.context, Box::new(wanted.into_iter()), &GetOptions::default(), &mut each).await.unwrap();
        (summary, outcomes)
    }

    pub async fn rm(&self, target: &str) {
        self.session.remove(&path(target), true, false).await.unwrap();
    }

    pub async fn stat(&self, target: &str) -> ApiResult<Entry> {
        self.session.stat(&path(target)).await
    }

    /// All entries below a directory, page by page.
    pub async fn list(&self, dir: &str, limit: u32) -> Vec<Entry> {
        let mut request = ListRequest { path: path(dir), recursive: true, cursor: None, limit };
        let mut entries = Vec::new();
        loop {
            let page = self.session.list(&request).await.unwrap();
            assert!(page.items.len() <= limit as usize);
            entries.extend(page.items);
            match page.next_cursor {
                Some(cursor) => request.cursor = Some(cursor),
                None => return entries,
            }
        }
    }

    /// The chunks of a file and the names of their nodes.
    pub async fn chunks(&self, target: &str) -> Vec<bytenode::admin::ChunkRow> {
        self.session.chunk_rows(&path(target), None, 1024).await.unwrap().items
    }

    pub fn notices(&self) -> Vec<String> {
        let events = self.events.events();
        events.into_iter().filter_map(|event| if let Event::Notice(text) = event { Some(text) } else { None }).collect()
    }
}
