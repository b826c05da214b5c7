//! The coordinator's interface for whoever runs the pool: wire types, and the trait [`Admin`].

mod tasks;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::api::{Api, ApiResult, NodeAddress, NodeKind, Page};
use crate::backup::Passphrase;
use crate::id::{ChunkId, NodeId};
use crate::node::GrantToken;
use crate::path::RemotePath;

pub use tasks::{NodeEvent, NodeSet, Steer, Task, TaskKind, TaskLine, TaskReport, TaskRequest, TaskState};

/// What a signed-in user may do; both traits, for one user.
pub trait Session: Api + Admin {}

impl<T: Api + Admin> Session for T {}

/// Who one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct WhoAmI {
    /// The user.
    pub user: String,
    /// What the user may do.
    pub role: Role,
    /// The token's public part.
    pub token: String,
    /// The pool.
    pub pool: crate::id::PoolId,
    /// Version of the coordinator.
    pub version: String,
    /// The coordinator's clock; unknown from one of an older version.
    #[serde(default)]
    pub clock: Option<Timestamp>,
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Own files.
    User,
}

/// A new token; its secret is shown once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NewToken {
    /// The whole token, `bnt_…`.
    pub token: GrantToken,
    /// Its public part.
    pub id: String,
}

/// How clients reach a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Straight, with the node's (client) credential or a grant.
    Direct,
    /// Through the coordinator.
    Relay,
}

/// Who collects garbage on a Kubo node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Gc {
    /// Its owner.
    Owner,
    /// ByteNode: the node serves this pool alone.
    Bytenode,
}

/// A node to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeAdd {
    /// Its address: `http(s)://`, `host:port` or a multiaddr.
    pub url: String,
    /// The name people will use; nothing for `node1` and so on. Of a node that the pool has already, everything that is
    /// not given stays as it is.
    #[serde(default)]
    pub name: Option<String>,
    /// Its failure zone; nothing for its machine.
    #[serde(default)]
    pub zone: Option<String>,
    /// Bytes that it may be filled with; nothing for what it has free.
    #[serde(default)]
    pub capacity_bytes: Option<u64>,
    /// Kubo's AuthSecret form, or a built-in node's join code.
    #[serde(default)]
    pub token: Option<GrantToken>,
    /// The same for clients, if they get another one.
    #[serde(default)]
    pub client_token: Option<GrantToken>,
    /// Kubo's gateway, if it is not where its configuration says.
    #[serde(default)]
    pub gateway: Option<String>,
    /// How clients reach it; nothing for the default of the pool.
    #[serde(default)]
    pub access: Option<Access>,
    /// Who collects garbage; nothing for its owner.
    #[serde(default)]
    pub gc: Option<Gc>,
    /// Whether plain HTTP to another machine is allowed.
    #[serde(default)]
    pub insecure_http: bool,
    /// Only test it.
    #[serde(default)]
    pub dry_run: bool,
}

/// What one step of a node's test found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeCheck {
    /// The step: `reach`, `auth`, `version`, `identity`, `gateway`, `write`, `protect`, `read`, `drop`, `space`, `clock`,
    /// or a risk: `block_cache`, `sync`, `gc`, `storage_max`, `open_rpc`.
    pub check: String,
    /// Whether it is fine.
    pub result: CheckResult,
    /// What was found, for people.
    pub message: String,
    /// The command that mends it.
    pub hint: Option<String>,
}

/// The weight of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CheckResult {
    /// Fine.
    Ok,
    /// It works, but something can be lost or be slow.
    Risk,
    /// It cannot be used.
    Failed,
}

/// A node's test, and the node where it passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeReport {
    /// Every step in order.
    pub checks: Vec<NodeCheck>,
    /// The node as registered (or as it would be); nothing when a step failed, or when a dry run cannot know it.
    pub node: Option<NodeInfo>,
    /// Whether the pool had this node before.
    #[serde(default)]
    pub known: bool,
}

/// State of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It answers.
    Online,
    /// It has failed for a minute: no new writes.
    Suspect,
    /// It is lost to the pool until it answers again.
    Offline,
    /// It is being emptied.
    Draining,
    /// It takes nothing more.
    Full,
}

/// A node as `node ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: NodeId,
    /// Its address.
    pub url: String,
    /// Its kind.
    pub kind: NodeKind,
    /// Its failure zone.
    pub zone: String,
    /// How clients reach it.
    pub access: Access,
    /// Its state, by the last probe.
    pub state: NodeState,
    /// Bytes of live packs on it.
    pub used_bytes: u64,
    /// Bytes that were dropped but that its owner has not collected; unknown where it does not answer.
    pub reclaimable_bytes: Option<u64>,
    /// Bytes that it may be filled with.
    pub capacity_bytes: u64,
    /// Replicas on it.
    pub chunks: u64,
    /// Used share of its capacity, in thousandths.
    pub load_permille: u32,
    /// Milliseconds of its last probe.
    pub latency_ms: Option<u64>,
    /// When it last answered.
    pub last_seen: Option<Timestamp>,
    /// What it runs.
    pub version: Option<String>,
    /// Bytes that it can still take, as it said when it was asked last; unknown until then.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// Why it does not answer; nothing when it did when it was asked last.
    #[serde(default)]
    pub failure: Option<String>,
    /// Milliseconds by which its clock was ahead of the coordinator's (negative: behind) when it was asked last; it tells
    /// whole seconds. Unknown where it does not tell.
    #[serde(default)]
    pub clock_skew_ms: Option<i64>,
}

/// How one client reaches a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeWay {
    /// Where a put or get of that client would go.
    pub address: NodeAddress,
    /// Whether that is through the coordinator.
    pub relayed: bool,
}

/// What can go wrong on a node that works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeRisks {
    /// The node's name.
    pub node: String,
    /// What was found, fine or not; nothing for a node of which nothing is known to go wrong, or that does not answer.
    pub checks: Vec<NodeCheck>,
}

/// The catalog, and the disk that it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct CatalogDisk {
    /// Bytes of the catalog.
    pub catalog_bytes: u64,
    /// Bytes that its disk has free for it.
    pub free_bytes: u64,
}

/// Asks for health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HealthRequest {
    /// Only report and plan.
    #[serde(default)]
    pub dry_run: bool,
    /// Ignore the grace of nodes that do not answer.
    #[serde(default)]
    pub now: bool,
    /// Read and hash every replica first.
    #[serde(default)]
    pub read: bool,
}

/// What is wrong with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The node no longer has it.
    Missing,
    /// The node has other bytes.
    Corrupt,
    /// The node has it, but does not protect it.
    Unprotected,
    /// Fewer counted copies than wanted.
    UnderReplicated,
    /// A node does not answer.
    Offline,
    /// A pack of ours that no file needs.
    Orphan,
    /// More copies than wanted.
    Surplus,
    /// A copy on another node than it belongs to.
    Misplaced,
    /// Copies share a failure zone though they need not.
    Zone,
    /// One node holds all chunks of a file though it need not.
    Spread,
    /// No copy is left.
    Lost,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// A file that it touches, as one can type it.
    pub path: Option<RemotePath>,
    /// How many files it touches.
    pub files: u64,
    /// The chunk.
    pub chunk: Option<ChunkId>,
    /// The node's name.
    pub node: Option<String>,
}

/// What to do about a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Do {
    /// Make a copy on another node.
    Copy,
    /// Write it again where it was.
    Replace,
    /// Move a copy.
    Move,
    /// Drop a copy.
    Drop,
}

/// One intended act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Action {
    /// What.
    #[serde(rename = "do")]
    pub act: Do,
    /// Which chunk.
    pub chunk: ChunkId,
    /// Name of the node to read from.
    pub from: Option<String>,
    /// Name of the node to write to.
    pub to: Option<String>,
    /// Stored bytes.
    pub bytes: u64,
}

/// The verdict on the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every chunk has its counted copies.
    Healthy,
    /// Some chunk has fewer, but more than one.
    Degraded,
    /// Some chunk has one copy left.
    AtRisk,
    /// Some chunk has none.
    Lost,
}

/// The outcome of a health check, after repair unless it was a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct HealthReport {
    /// What was found first, at most 10,000; `findings_total` counts all.
    pub findings: Vec<Finding>,
    /// What is to be done, of a repair what was done and proved; at most 10,000.
    pub actions: Vec<Action>,
    /// All findings.
    pub findings_total: u64,
    /// All actions that were planned at first; of a repair that found more to do meanwhile, those that it did.
    pub actions_total: u64,
    /// The verdict at the end, by asking the nodes.
    pub verdict: Verdict,
    /// Chunks in use.
    pub chunks: u64,
    /// Replicas that nodes were asked about.
    pub replicas_checked: u64,
    /// Actions that were done and proved.
    pub repaired: u64,
    /// Findings that remain (`orphan` and `surplus` not counted).
    pub remaining: u64,
    /// When the replica whose proof is oldest was proved; nothing without replicas.
    pub oldest_verified: Option<Timestamp>,
    /// When the pack was read whole whose last whole reading is the oldest; nothing where none was.
    #[serde(default)]
    pub oldest_read: Option<Timestamp>,
    /// Packs that were not read whole since they came.
    #[serde(default)]
    pub unread_packs: u64,
    /// What people should know: acts that failed, and why.
    pub notices: Vec<String>,
}

/// The pool at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Status {
    /// The nodes.
    pub nodes: Vec<NodeInfo>,
    /// Copies wanted.
    pub replicas: u32,
    /// Files.
    pub files: u64,
    /// Plaintext bytes of live files.
    pub bytes: u64,
    /// Bytes that can still be stored at the target copies.
    pub usable_bytes: u64,
    /// Verdict, as nodes answered just now.
    pub verdict: Verdict,
    /// Chunks that have fewer counted copies than wanted.
    pub under_replicated: u64,
    /// When the replica whose proof is oldest was proved.
    pub oldest_verified: Option<Timestamp>,
    /// When the pack was read whole whose last whole reading is the oldest; nothing where none was.
    #[serde(default)]
    pub oldest_read: Option<Timestamp>,
    /// Packs that were not read whole since they came.
    #[serde(default)]
    pub unread_packs: u64,
    /// Why repair copies nothing but what is down to its last copy, if so.
    #[serde(default)]
    pub hold: Option<String>,
    /// Long work under way; told to admins.
    #[serde(default)]
    pub tasks: Vec<Task>,
    /// Whether the coordinator refuses changes until a person decides, and why.
    pub read_only: Option<String>,
    /// Of which moment the last backup of the coordinator is that was kept.
    #[serde(default)]
    pub backed_up: Option<Timestamp>,
    /// The room for the catalog; told to admins, where it is on a disk of which that can be known.
    #[serde(default)]
    pub disk: Option<CatalogDisk>,
}

/// A backup, sealed, piece by piece; whole only if no piece is an error and [`crate::backup::Backup`] opens it.
pub type SealedBackup = futures_util::stream::BoxStream<'static, ApiResult<bytes::Bytes>>;

/// One row of `stat`'s chunk list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ChunkRow {
    /// Its place in the file.
    pub index: u64,
    /// Its CID.
    pub cid: ChunkId,
    /// Stored bytes.
    pub size: u64,
    /// Names of the nodes that hold counted copies.
    pub nodes: Vec<String>,
}

/// What a sweep released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Swept {
    /// Chunks that nothing needs any more.
    pub chunks: u64,
    /// Packs dropped from nodes.
    pub packs: u64,
    /// Stored bytes that nodes no longer keep for us.
    pub bytes: u64,
    /// Packs that wait for a node that does not answer.
    pub waiting: u64,
}

/// What a scrub read of a node, or is to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeScrubbed {
    /// The node's name.
    pub node: String,
    /// Packs that were read whole; of a dry run, that are due.
    pub packs: u64,
    /// Stored bytes of that.
    pub bytes: u64,
    /// Copies that are missing or wrong, and were not known to be.
    pub bad: u64,
    /// Packs that it does not protect any more.
    pub unprotected: u64,
    /// Packs that are still due; of a dry run, nothing.
    pub left: u64,
}

/// Asks that this coordinator be put in charge, after the catalog and the nodes disagreed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Adopt {
    /// Names of nodes that need not answer.
    #[serde(default)]
    pub without: Vec<String>,
    /// Only ask the nodes.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a node shows of who is in charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct AdoptedNode {
    /// Its name.
    pub node: String,
    /// The epoch of the coordinator that it obeyed; nothing where its kind obeys none.
    pub epoch: Option<u64>,
    /// Packs of this pool on it that the catalog does not know. They stay where they are and count for nothing.
    pub unknown_packs: u64,
}

/// What an adoption found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Adopted {
    /// Why the coordinator was read-only; nothing when it was in charge all along, and nothing was done.
    pub why: Option<String>,
    /// The coordinator's epoch now.
    pub epoch: u64,
    /// The nodes that answered.
    pub nodes: Vec<AdoptedNode>,
}

/// The coordinator's other half. Every call checks that the user may.
#[async_trait]
pub trait Admin: Send + Sync {
    /// Says who one is.
    async fn whoami(&self) -> ApiResult<WhoAmI>;
    /// Makes another token for oneself.
    async fn create_token(&self, name: &str) -> ApiResult<NewToken>;
    /// Revokes the token that this session uses.
    async fn revoke_own_token(&self) -> ApiResult<()>;
    /// The chunks of one's file, in order.
    async fn chunk_rows(&self, path: &RemotePath, cursor: Option<&str>, limit: u32) -> ApiResult<Page<ChunkRow>>;
    /// The pool at a glance. Whoever is no admin is told of own files alone, and no address that only the coordinator uses.
    async fn status(&self) -> ApiResult<Status>;
    /// All nodes, asked just now.
    async fn nodes(&self) -> ApiResult<Vec<NodeInfo>>;
    /// How a client on `machine` (as in [`crate::api::BeginPut`]) reaches each node. Asks none of them.
    async fn ways(&self, machine: &str) -> ApiResult<Vec<NodeWay>>;
    /// What can go wrong on each node that works, asked just now and without changing anything; ends within ten seconds.
    async fn risks(&self) -> ApiResult<Vec<NodeRisks>>;
    /// Tests a node wholly, and registers it unless a step failed or it is a dry run.
    async fn node_add(&self, request: &NodeAdd) -> ApiResult<NodeReport>;
    /// Tests a registered node wholly.
    async fn node_test(&self, name: &str) -> ApiResult<NodeReport>;
    /// Changes what the pool knows of a node; at another address or with other credentials it is tested wholly first.
    async fn node_set(&self, name: &str, change: &NodeSet) -> ApiResult<NodeReport>;
    /// What happened to a node, the latest first.
    async fn node_events(&self, name: &str) -> ApiResult<Vec<NodeEvent>>;
    /// Forgets a node that holds no counted copy; with `lost`, one that never comes back.
    async fn node_remove(&self, name: &str, lost: bool, dry_run: bool) -> ApiResult<HealthReport>;
    /// Checks, and unless dry, repairs.
    async fn health(&self, request: &HealthRequest) -> ApiResult<HealthReport>;
    /// Releases what nothing needs; with `now`, versions within their retention too.
    async fn gc(&self, now: bool, dry_run: bool) -> ApiResult<Swept>;
    /// Reads and hashes every copy that is due, of every node; with `all`, every copy. What is missing or wrong is mended
    /// afterwards. Ends when nothing is due any more on nodes that answer.
    async fn scrub(&self, all: bool, dry_run: bool) -> ApiResult<Vec<NodeScrubbed>>;
    /// Begins long work, which goes on whoever waits for it.
    async fn task_start(&self, request: &TaskRequest) -> ApiResult<Task>;
    /// Tasks under way and, after them, those that ended, the latest first.
    async fn tasks(&self) -> ApiResult<Vec<Task>>;
    /// A task with all that is known of it. Waits up to so many seconds, at most 20, until it has ended or has more to say
    /// than `done` steps.
    async fn task(&self, id: u64, wait: u64, done: u64) -> ApiResult<TaskReport>;
    /// Pauses, resumes or cancels a task.
    async fn task_steer(&self, id: u64, steer: Steer) -> ApiResult<Task>;
    /// Everything of the coordinator that cannot be made again, as at one moment, checked, and sealed under a passphrase.
    /// One at a time: another waits a minute for it to end, then it is [`crate::api::Code::Busy`].
    async fn backup(&self, passphrase: &Passphrase) -> ApiResult<SealedBackup>;
    /// Takes down that the backup of this moment was read back and kept.
    async fn backup_kept(&self, made: Timestamp) -> ApiResult<()>;
    /// Puts this coordinator in charge, and ends its being read-only. Nothing is dropped.
    async fn adopt(&self, request: &Adopt) -> ApiResult<Adopted>;
}

/// Lets users in.
#[async_trait]
pub trait Gate: Send + Sync {
    /// The session of whoever holds this token.
    ///
    /// # Errors
    /// [`crate::api::Code::NotSignedIn`], taking as long for an unknown token as for a wrong secret.
    async fn session(&self, token: &str) -> ApiResult<std::sync::Arc<dyn Session>>;
    /// Whether the catalog can be written.
    async fn ready(&self) -> ApiResult<()>;
}
