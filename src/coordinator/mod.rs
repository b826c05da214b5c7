//! The coordinator: owner of the catalog, the node registry, leases, proof and repair.
//!
//! It decides what counts as a copy, and no other part may. [`Coordinator::local_session`] gives each signed-in user an
//! [`Api`](crate::api::Api) and an [`Admin`](crate::admin::Admin), in process; `daemon` serves the same over HTTP.
//! No transaction waits for a node, and no request holds the catalog's writer while it waits for one.

mod admin;
pub mod backup;
mod charge;
mod checkup;
mod clock;
mod commit;
mod health;
mod judge;
pub mod keys;
mod leases;
mod membership;
mod names;
mod reads;
pub mod registry;
pub mod relay;
mod repair;
mod scrub;
mod session;
pub mod sweep;
pub mod tasks;
mod uploads;

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::admin::{CheckResult, NodeAdd, NodeCheck, Role};
use crate::api::{ApiError, ApiResult, Code};
use crate::catalog::charge::{self as in_charge, PoolRow};
use crate::catalog::nodes::NodeRow;
use crate::catalog::{Catalog, CatalogError, CatalogResult, nodes, packs, users};
use crate::grant::{PublicKey, Start};
use crate::id::{NodeId, PackId, PoolId};
use crate::node::{GrantToken, NodeError, SharedNode};
use crate::seam::Seam;
use charge::Charge;
use clock::Clock;
use keys::{KeyError, Keys, NodeSecret};
use leases::{Building, Leases, Reads};
use registry::{Member, Registry};
pub use session::LocalSession;
pub use sweep::Until;

/// The name of the token that is kept beside the catalog.
const ADMIN_TOKEN: &str = "admin.token";

/// How the coordinator behaves; defaults are DESIGN's.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Copies of every chunk.
    pub replicas: u32,
    /// Plaintext bytes of a chunk.
    pub chunk_size: u32,
    /// How long a put's lease lasts after its last sign of life.
    pub lease: Duration,
    /// How long a removed version stays.
    pub retention: Duration,
    /// How long a proof is good enough to answer "here already".
    pub fresh: Duration,
    /// How long a node may fail before it is lost.
    pub grace: Duration,
    /// How long a grant is good for.
    pub grant: Duration,
    /// Within which time every copy is read and hashed.
    pub scrub: Duration,
    /// How many bytes a second are read of each node for that.
    pub scrub_rate: u64,
    /// How many bytes a second repair moves in all; a quarter of that while clients are at work.
    pub repair_rate: u64,
    /// How often all nodes are asked for every copy, though nothing seems to be missing.
    pub check: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            replicas: 3,
            chunk_size: 1 << 20,
            lease: Duration::from_secs(24 * 3600),
            retention: Duration::from_secs(3600),
            fresh: Duration::from_secs(600),
            grace: Duration::from_secs(4 * 3600),
            grant: Duration::from_secs(600),
            scrub: Duration::from_secs(30 * 24 * 3600),
            scrub_rate: 16 << 20,
            repair_rate: 128 << 20,
            check: Duration::from_secs(600),
        }
    }
}

impl Policy {
    /// Counted copies without which nothing is acknowledged.
    pub const fn write_rule(replicas: u32) -> u32 {
        if replicas < 2 { replicas } else { 2 }
    }
}

/// What a node must know of the pool that it joins.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The pool.
    pub pool: PoolId,
    /// The key that signs grants.
    pub key: PublicKey,
    /// The coordinator's start.
    pub epoch: u64,
    /// Names that start.
    pub instance: [u8; 16],
    /// Clients may use grants to write of earlier starts, if these end by this second since 1970 UTC.
    pub earlier_until: i64,
    /// A number of the pool's sequence, for the pack of a test; 0 where nothing is tested.
    pub pack: PackId,
}

impl Introduction {
    /// The coordinator's start, as nodes and grants name it.
    pub fn start(&self) -> Start {
        in_charge::start_of(self.epoch, &self.instance)
    }
}

/// What a node's whole test found.
#[derive(Debug, Clone)]
pub struct Examined {
    /// Every step.
    pub checks: Vec<NodeCheck>,
    /// The node as it would be registered, without its row; nothing when a step failed.
    pub node: Option<(NodeRow, NodeSecret)>,
}

impl Examined {
    /// Whether every step passed or is only a risk.
    pub fn passed(&self) -> bool {
        self.node.is_some() && self.checks.iter().all(|check| check.result != CheckResult::Failed)
    }
}

/// How the coordinator reaches nodes.
#[async_trait]
pub trait Connect: Send + Sync {
    /// Takes note of the pool and of the start that this is done for, before anything else.
    fn serve(&self, pool: &Introduction);
    /// The way to a registered node, with the coordinator's own credential. Does not contact it.
    fn connect(&self, row: &NodeRow, secret: &NodeSecret) -> Result<SharedNode, NodeError>;
    /// Tests a node wholly and, unless it is a dry run, introduces the pool to it. One that is registered already must be
    /// the `expected` one.
    async fn examine(&self, request: &NodeAdd, expected: Option<&NodeId>, pool: &Introduction) -> ApiResult<Examined>;
    /// What can go wrong on a node that works; changes nothing on it. Nothing for kinds of which nothing is known.
    async fn risks(&self, _row: &NodeRow, _secret: &NodeSecret) -> Vec<NodeCheck> {
        Vec::new()
    }
    /// Asks a node which start it was told of last; nothing where its kind does not remember.
    async fn shown(&self, row: &NodeRow) -> Result<Option<Start>, NodeError>;
    /// Tells a node of a start, which it remembers if its epoch is higher than that of the last; gives that one.
    async fn greet(&self, row: &NodeRow, pool: &Introduction) -> Result<Option<Start>, NodeError>;
}

/// Why the coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its secrets.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Its catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A node's address or credential cannot be used.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// The coordinator of one pool. Handed around in an [`Arc`].
pub struct Coordinator {
    catalog: Catalog,
    seam: Seam,
    keys: Arc<Keys>,
    pool: PoolId,
    instance: [u8; 16],
    charge: Mutex<Charge>,
    clock: Clock,
    policy: Policy,
    nodes: Registry,
    connect: Arc<dyn Connect>,
    leases: Leases,
    reads: Arc<Reads>,
    building: Arc<Building>,
    backups: backup::Backups,
    /// How many users there are.
    users: AtomicU64,
    /// Names this machine and its start.
    machine: String,
    /// Rung when something is below its target.
    repair_wanted: Notify,
    /// How fast it goes.
    repair_pace: repair::pace::Pace,
    /// One repair at a time.
    repairing: tokio::sync::Mutex<()>,
    /// One change of a node at a time.
    membership: tokio::sync::Mutex<()>,
    /// Long work under way.
    tasks: tasks::Tasks,
    /// One sweep at a time.
    sweeping: tokio::sync::Mutex<()>,
    /// One proof of a pack at a time, by its number: it is pinned once.
    proving: [tokio::sync::Mutex<()>; 64],
    /// Held while it is decided who is in charge.
    deciding: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// What a coordinator is made of.
pub struct Parts {
    /// Its catalog.
    pub catalog: Catalog,
    /// Time and chance.
    pub seam: Seam,
    /// Its secrets, which `connect` needs too.
    pub keys: Arc<Keys>,
    /// How it behaves.
    pub policy: Policy,
    /// How it reaches nodes.
    pub connect: Arc<dyn Connect>,
    /// Names this machine and its start.
    pub machine: String,
}

impl Coordinator {
    /// Starts: raises the epoch, restarts all leases, takes in the registered nodes. Contacts none of them.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(parts: Parts) -> Result<Arc<Self>, StartError> {
        let Parts { catalog, seam, keys, policy, connect, machine } = parts;
        let (fresh, instance) = (PoolId::from_bytes(seam.bytes()), seam.bytes());
        let (replicas, now) = (policy.replicas, seam.now());
        let PoolRow { pool, epoch, read_only } =
            catalog.write(move |c| in_charge::start(c, fresh, instance, replicas, now)).await?;
        let charge = Charge::new(epoch, now, policy.grant, read_only);
        connect.serve(&charge.introduce(pool, keys.signing().public(), instance));
        catalog.write(packs::abort_repairs).await?;
        let rows = catalog.read(nodes::all).await?;
        let registry = Registry::new(policy.grace);
        for row in rows {
            let node = connect.connect(&row, &keys.node(&row.id))?;
            registry.set(Member::new(row, node));
        }
        for (row, since, why) in catalog.read(nodes::failing).await? {
            let failing = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            registry.get(row).inspect(|member| member.restore(failing, &why));
        }
        let users = catalog.read(users::count).await?;
        let backups = backup::Backups::open(keys.dir());
        let leases = Leases::restart(&catalog, &seam).await?;
        Ok(Arc::new(Self {
            catalog,
            clock: Clock::new(&seam),
            seam,
            keys,
            pool,
            instance,
            charge: Mutex::new(charge),
            policy,
            nodes: registry,
            connect,
            leases,
            reads: Arc::default(),
            building: Arc::default(),
            backups,
            users: AtomicU64::new(users),
            machine,
            repair_wanted: Notify::new(),
            repair_pace: repair::pace::Pace::default(),
            repairing: tokio::sync::Mutex::default(),
            membership: tokio::sync::Mutex::default(),
            tasks: tasks::Tasks::default(),
            sweeping: tokio::sync::Mutex::default(),
            proving: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            deciding: tokio::sync::Mutex::default(),
        }))
    }

    /// What a node must know of this pool.
    pub fn introduction(&self) -> Introduction {
        self.charge().introduce(self.pool, self.keys.signing().public(), self.instance)
    }

    /// The same with a fresh number for the pack of a test.
    async fn introduction_for_test(&self) -> ApiResult<Introduction> {
        self.may_change()?;
        let epoch = self.epoch();
        let pack = self.write(move |c| packs::take_number_for_test(c, epoch)).await?;
        Ok(Introduction { pack, ..self.introduction() })
    }

    /// The nodes.
    pub const fn nodes(&self) -> &Registry {
        &self.nodes
    }

    /// The catalog.
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// A token for whoever can read the data directory, who is admin: nothing while `kept` lets an admin in, else a new
    /// one of the first admin (made, called `admin`, where there is none). Those made here before are then revoked, so
    /// a start after a crash between any two steps ends with one that works.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn admin_token(self: &Arc<Self>, kept: Option<&str>) -> ApiResult<Option<GrantToken>> {
        if let Some(kept) = kept {
            match self.local_session(kept).await {
                Ok(session) if session.is_admin() => return Ok(None),
                Err(error) if error.code != Code::NotSignedIn => return Err(error),
                _ => {}
            }
        }
        let user = match self.read(users::first_admin).await? {
            Some(user) => user,
            None => self.create_user("admin", Role::Admin).await?.id,
        };
        let now = self.seam.now();
        self.write(move |c| users::revoke_named(c, user, ADMIN_TOKEN, now)).await?;
        Ok(Some(self.create_token_for(user, ADMIN_TOKEN).await?.token))
    }

    /// Makes a user with a vault of its own.
    ///
    /// # Errors
    /// [`Code::Exists`].
    pub async fn create_user(&self, name: &str, role: Role) -> ApiResult<users::User> {
        let (_, wrapped) = self.keys.make_vault(&self.seam);
        let (name, now) = (name.to_owned(), self.seam.now());
        let user = self.catalog.write(move |c| users::create(c, &name, role, &wrapped, now)).await?;
        self.users.fetch_add(1, Ordering::Relaxed);
        Ok(user)
    }

    /// Registers a node without testing it; for tests and simulations.
    ///
    /// # Errors
    /// The catalog's, or that the node cannot be connected to.
    pub async fn register(&self, row: NodeRow, secret: NodeSecret) -> ApiResult<Arc<Member>> {
        let node = self.connect.connect(&row, &secret).map_err(|error| node_error(&error))?;
        let before = self.nodes.known(&row.id).map(|_| self.keys.node(&row.id));
        self.keys.set_node(&row.id, Some(secret)).map_err(internal)?;
        let (mut row, now) = (row, self.seam.now());
        let kept = row.clone();
        match self.catalog.write(move |c| nodes::upsert(c, &kept, now)).await {
            Ok(id) => row.row = id,
            Err(error) => {
                self.keys.set_node(&row.id, before).map_err(internal)?;
                return Err(error.into());
            }
        }
        let member = self.nodes.set(Member::new(row, node));
        drop(self.ask(&member).await);
        Ok(member)
    }

    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&rusqlite::Connection) -> CatalogResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        Ok(self.catalog.read(question).await?)
    }

    async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&rusqlite::Connection) -> CatalogResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        Ok(self.catalog.write(change).await?)
    }

    /// So long, or a tenth less or more, as chance will have it: what is done regularly in many places does not come all at
    /// once.
    pub fn about(&self, time: Duration) -> Duration {
        let tenth = u64::try_from(time.as_millis() / 10).unwrap_or(u64::MAX / 4);
        time.saturating_sub(Duration::from_millis(tenth)) + Duration::from_millis(self.seam.below(2 * tenth + 1))
    }

    /// Says so in the log if no backup was kept for so long.
    pub fn remind_of_backup(&self, period: Duration) {
        let period = jiff::SignedDuration::try_from(period).unwrap_or(jiff::SignedDuration::MAX);
        match self.backups.last() {
            None => tracing::warn!("no backup of the coordinator was ever made: bytenode admin backup FILE"),
            Some(last) if self.seam.now().duration_since(last) > period => {
                tracing::warn!(%last, "the last backup of the coordinator is old: bytenode admin backup FILE");
            }
            Some(_) => {}
        }
    }

    /// A time so long before now, in catalog form.
    fn ago(&self, age: Duration) -> i64 {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        self.seam.now().as_microsecond().saturating_sub(age)
    }

    /// The times, in catalog form, of proofs made since then. One of a time that is still to come was made before the clock
    /// went back, and says nothing; a minute is allowed for what others write down while a plan waits for the writer. Nor
    /// does one of before the clock went back, which is older than it looks.
    fn times_since(&self, since: i64) -> RangeInclusive<i64> {
        since.max(self.clock.went_back(&self.seam))..=self.to_come()
    }

    /// Times in the catalog after this one are still to come.
    fn to_come(&self) -> i64 {
        self.seam.now().as_microsecond().saturating_add(60_000_000)
    }
}

fn internal(error: impl std::error::Error) -> ApiError {
    tracing::error!(error = ?error, "coordinator");
    ApiError::new(Code::Internal, error.to_string())
}

fn node_error(error: &NodeError) -> ApiError {
    let code = if error.reason.is_temporary() { Code::Temporary } else { Code::Internal };
    ApiError::new(code, error.to_string())
}
