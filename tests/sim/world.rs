//! The pool under test, with a coordinator that may crash at any await, and clients that reach it over a line that is cut
//! then, as a client over HTTP would see it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use bytenode::api::{
    Api, ApiError, ApiResult, BadCopy, BeginPut, ChunksPlanned, Code, CommitFiles, Committed, Entry, ListRequest,
    ManifestPage, OpenRead, PacksJudged, PacksSent, Page, PlanChunks, PutSession, ReadChunks, ReadSession, Removed,
};
use bytenode::coordinator::{Coordinator, LocalSession};
use bytenode::id::UploadId;
use bytenode::path::RemotePath;
use bytenode::seam::Seam;

use super::model::{CHUNK, Content, Tree};
use crate::support::pool::{CAPACITY, Like, Pool, Setup, User};
use crate::support::traced::TracedApi;

/// Users; each has a vault.
pub const USERS: usize = 2;
/// How often a call that may be repeated is sent again, and the pause before the first time, as over HTTP.
const REPEATS: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Lets so much of the simulated time pass, and others go first.
pub async fn pass(time: Duration) {
    sleep_until(Instant::now() + time).await;
}

/// Lets others go first, so often.
pub async fn step_aside(times: u64) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// The coordinator that runs now, if one does.
pub struct Host {
    tokens: Vec<String>,
    running: Mutex<Option<Arc<Coordinator>>>,
    /// How often one crashed.
    crashes: watch::Sender<u64>,
    /// Of so many answers, about one is lost on its way; 0 for none.
    losing: AtomicU64,
    chance: Seam,
}

impl Host {
    /// From now on about one answer in so many is lost on its way to a client; 0 for none.
    pub fn lose_answers(&self, one_in: u64) {
        self.losing.store(one_in, Ordering::Relaxed);
    }

    fn loses(&self) -> bool {
        let one_in = self.losing.load(Ordering::Relaxed);
        one_in > 0 && self.chance.below(one_in) == 0
    }

    pub fn running(&self) -> Option<Arc<Coordinator>> {
        self.running.lock().unwrap().clone()
    }

    pub fn crashes(&self) -> u64 {
        *self.crashes.borrow()
    }

    /// The coordinator stops in the middle of whatever it does: nothing that it had begun goes on.
    pub fn crash(&self) {
        *self.running.lock().unwrap() = None;
        self.crashes.send_modify(|crashes| *crashes += 1);
    }

    pub fn run(&self, coordinator: Arc<Coordinator>) {
        *self.running.lock().unwrap() = Some(coordinator);
    }

    /// Work that ends when the coordinator crashes; nothing then.
    pub async fn until_crash<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut crashes = self.crashes.subscribe();
        tokio::select! {
            biased;
            _ = crashes.changed() => None,
            done = work => Some(done),
        }
    }

    /// A user's session at the coordinator that runs.
    pub async fn session(&self, user: usize) -> ApiResult<LocalSession> {
        let gone = || ApiError::new(Code::Temporary, GONE);
        self.running().ok_or_else(gone)?.local_session(&self.tokens[user]).await
    }

    /// The way of a call or an answer takes some time, or none.
    async fn way(&self) {
        match self.chance.below(4) {
            0 => {}
            1 => step_aside(self.chance.below(4)).await,
            _ => pass(Duration::from_micros(self.chance.below(20_000))).await,
        }
    }
}

/// A client's way to the coordinator.
struct Line {
    host: Arc<Host>,
    user: usize,
}

/// What a client is told when no answer came.
const GONE: &str = "the coordinator does not answer";

/// Whether nobody knows if what failed so was done.
pub fn is_lost(error: &ApiError) -> bool {
    error.code == Code::Temporary && error.message == GONE
}

macro_rules! line {
    ($($repeats:ident $name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Api for Line {
            $(async fn $name(&self, $($arg: $type),*) -> ApiResult<$answer> {
                let mut pause = FIRST_PAUSE;
                for _ in 0..=$repeats {
                    self.host.way().await;
                    let crashes = self.host.crashes();
                    let work = async { self.host.session(self.user).await?.$name($($arg),*).await };
                    let answer = self.host.until_crash(work).await;
                    self.host.way().await;
                    let arrives = self.host.crashes() == crashes && !self.host.loses();
                    match answer {
                        Some(answer) if arrives && !answer.as_ref().is_err_and(is_lost) => return answer,
                        _ => pass(pause).await,
                    }
                    pause *= 4;
                }
                Err(ApiError::new(Code::Temporary, GONE))
            })*
        }
    };
}

const ONCE: u32 = 0;

line! {
    REPEATS stat(path: &RemotePath) -> Entry;
    REPEATS lookup(paths: &[RemotePath]) -> Vec<Option<Entry>>;
    REPEATS list(request: &ListRequest) -> Page<Entry>;
    REPEATS make_dirs(paths: &[RemotePath]) -> ();
    ONCE rename(from: &RemotePath, to: &RemotePath) -> Entry;
    ONCE copy(from: &RemotePath, to: &RemotePath) -> Entry;
    ONCE remove(path: &RemotePath, recursive: bool, dry_run: bool) -> Removed;
    REPEATS begin_put(request: &BeginPut) -> PutSession;
    REPEATS plan_chunks(upload: UploadId, request: &PlanChunks) -> ChunksPlanned;
    REPEATS packs_sent(upload: UploadId, request: &PacksSent) -> PacksJudged;
    REPEATS commit_files(upload: UploadId, request: &CommitFiles) -> Vec<Committed>;
    REPEATS renew(lease: UploadId) -> ();
    REPEATS release(lease: UploadId) -> ();
    REPEATS open_read(request: &OpenRead) -> ReadSession;
    REPEATS read_chunks(read: UploadId, request: &ReadChunks) -> ManifestPage;
    REPEATS report_bad(reports: &[BadCopy]) -> ();
}

/// Everything that a run works on.
pub struct World {
    pub pool: Pool,
    pub host: Arc<Host>,
    /// Chooses what happens; what happens does not choose from it.
    pub dice: Seam,
    /// What files hold in this run: few, so that chunks are shared, removed and put again.
    pub contents: Vec<Content>,
    /// By vault.
    pub users: Vec<User>,
    pub trees: Vec<Tree>,
    pub damage: super::damage::Damage,
    /// Nodes that something ails, by index.
    pub ailing: BTreeSet<usize>,
    /// Nodes that are to be emptied.
    pub draining: BTreeSet<usize>,
    /// Whether answers get lost on their way to clients.
    pub losing: bool,
}

impl World {
    pub async fn new(seed: u64, keep_trace: bool) -> Self {
        let dice = Seam::simulated(seed ^ 0x0d1c_e000);
        let mut setup = Setup::builtin(0).seed(seed);
        let nodes = 4 + dice.below(3);
        let like = |_| if dice.below(2) == 0 { Like::Builtin } else { Like::Kubo };
        setup.nodes = (0..nodes).map(|at| (like(at), CAPACITY)).collect();
        setup.policy.chunk_size = u32::try_from(CHUNK).unwrap();
        setup.policy.replicas = if dice.below(4) == 0 { 2 } else { 3 };
        let pool = Pool::new(setup).await;
        if keep_trace {
            pool.trace.keep();
        }
        let second = pool.coordinator.create_user("second", bytenode::admin::Role::User).await.unwrap();
        let mut tokens = Vec::new();
        for user in [1, second.id] {
            let token = pool.coordinator.create_token_for(user, "line").await.unwrap().token;
            tokens.push(token.expose().to_owned());
        }
        let running = Mutex::new(Some(Arc::clone(&pool.coordinator)));
        let chance = Seam::simulated(seed ^ 0x11e5);
        let host =
            Arc::new(Host { tokens, running, crashes: watch::Sender::new(0), losing: AtomicU64::new(0), chance });
        let line = |user| Arc::new(Line { host: Arc::clone(&host), user }) as Arc<dyn Api>;
        let traced = |user| Arc::new(TracedApi::new(line(user), Arc::clone(&pool.trace))) as Arc<dyn Api>;
        let users = (0..USERS).map(|user| pool.admin.through(traced(user))).collect();
        let all: Vec<Content> = Content::all().collect();
        let some = (0..3 + dice.below(6)).map(|_| all[dice.below(all.len() as u64) as usize]);
        let contents = some.collect();
        let (damage, trees) = (super::damage::Damage::default(), vec![Tree::new(); USERS]);
        let (ailing, draining) = (BTreeSet::new(), BTreeSet::new());
        Self { host, dice, contents, users, trees, damage, ailing, draining, losing: false, pool }
    }

    /// Starts a coordinator where none runs.
    pub async fn start(&self) {
        let coordinator = self.pool.another().await;
        self.host.run(coordinator);
    }

    /// One of these.
    pub fn pick<'a, T>(&self, some: &'a [T]) -> &'a T {
        &some[usize::try_from(self.dice.below(some.len() as u64)).unwrap()]
    }

    /// True once in so many times.
    pub fn once_in(&self, times: u64) -> bool {
        self.dice.below(times) == 0
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        self.pool.trace.note(|| format!("== {}", line()));
    }
}
