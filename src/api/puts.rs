//! A put on the wire.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ApiError, Blob, Entry, Sha256, VersionId};
use crate::id::{ChunkId, NodeId, PackId, PoolId, UploadId};
use crate::node::{GrantToken, Receipt};
use crate::pack::PackEntry;
use crate::path::RemotePath;
use crate::seal::VaultKeys;

/// Begins a put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BeginPut {
    /// Names the client's machine and its current start; loopback addresses are given only to the coordinator's own.
    pub machine: String,
    /// Copies wanted; nothing for the pool's own number.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// Whether chunks are stored plain.
    #[serde(default)]
    pub public: bool,
}

/// A put under way, and the lease that keeps what it sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct PutSession {
    /// Its identity.
    pub upload: UploadId,
    /// Renew at least this often.
    pub renew_seconds: u64,
    /// Copies that will be made of every chunk.
    pub replicas: u32,
    /// Keys of the vault that the files go to.
    pub keys: VaultKeys,
    /// Plaintext bytes a chunk.
    pub chunk_size: u32,
    /// What every pack's root must say.
    pub pool: PoolId,
    /// What every pack's root must say.
    pub epoch: u64,
}

/// How a chunk's stored bytes came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Sealed bytes of the file.
    Sealed,
    /// Plain bytes of a public file: a UnixFS leaf.
    Plain,
    /// An interior UnixFS node of a public file: holds no bytes of the file itself.
    Link,
}

/// A chunk of a file, before anybody knows where it will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ChunkDesc {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its stored length in bytes.
    pub bytes: u64,
    /// Bytes of the file in it; 0 for a link.
    pub length: u64,
    /// What it is.
    pub part: Part,
}

/// The next chunks of one file of a put. Data chunks come in order from index 0; links after all data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// The client's number for the file, unique within the put.
    pub file: u32,
    /// Index of the first chunk given here: what was appended to this file before (repeating an append is harmless).
    pub first: u64,
    /// The chunks.
    pub chunks: Vec<ChunkDesc>,
    /// The keys of these chunks, encrypted under the file's key ([`crate::seal`]); empty for a public file.
    #[serde(default)]
    pub sealed_keys: Blob,
}

/// Asks where chunks must go, and records that the files have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PlanChunks {
    /// New chunks of files, at most [`MAX_PLAN_CHUNKS`](super::MAX_PLAN_CHUNKS) together.
    pub files: Vec<Append>,
}

/// How a client reaches a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeAddress {
    /// The node.
    pub id: NodeId,
    /// The name people gave it.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Base URL of the interface that takes packs.
    pub url: String,
    /// Base URL of the interface that gives chunks.
    pub gateway: String,
    /// The header value to send besides, where the client talks to Kubo directly; a secret.
    #[serde(default)]
    pub authorization: Option<GrantToken>,
}

/// The kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// An IPFS daemon.
    Kubo,
    /// ByteNode's own.
    Builtin,
    /// An S3 bucket.
    S3,
    /// In memory, for tests and simulations.
    Memory,
}

/// A pack that the client must send: its root follows from the session, `id` and `entries`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct PackPlan {
    /// Its number.
    pub id: PackId,
    /// Where it goes.
    pub node: NodeId,
    /// Its chunks, in link order.
    pub entries: Vec<PackEntry>,
    /// The permission to write it; nothing where the node takes the client's own credential.
    #[serde(default)]
    pub grant: Option<GrantToken>,
}

/// Where chunks must go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ChunksPlanned {
    /// Chunks that are stored already, with enough copies proved just now; nothing need be sent.
    pub here: Vec<ChunkId>,
    /// Packs to send.
    pub packs: Vec<PackPlan>,
    /// Addresses of the packs' nodes.
    pub nodes: Vec<NodeAddress>,
    /// Those of these nodes without which there are as many copies, in as many zones: one that is far slower than all
    /// others need not be waited for.
    #[serde(default)]
    pub replaceable: Vec<NodeId>,
    /// What people should know: a node that is down and was replaced.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// What became of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, tag = "outcome", rename_all = "snake_case")]
pub enum PackOutcome {
    /// The node answered success.
    Sent {
        /// The pack.
        pack: PackId,
        /// What it answered.
        receipt: Receipt,
    },
    /// It was not taken.
    Failed {
        /// The pack.
        pack: PackId,
        /// Why, for people.
        message: String,
        /// Whether the node said that it is full.
        full: bool,
    },
}

/// Reports packs. The coordinator protects and proves those that were sent, and plans others for those that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PacksSent {
    /// What became of each.
    pub packs: Vec<PackOutcome>,
}

/// What the coordinator made of reported packs: packs to send in the place of those that failed or did not prove true.
/// An empty plan means that nothing more can or need be sent for them; the commit then decides by the write rule.
pub type PacksJudged = ChunksPlanned;

/// What must be true of a path at commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Nothing is there.
    Absent,
    /// This version is live there.
    Version(VersionId),
}

/// A file whose chunks have all been planned and reported, ready to become visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CommitFile {
    /// The client's number for it.
    pub file: u32,
    /// Where it becomes visible. Missing parents are made.
    pub path: RemotePath,
    /// What must be there now.
    pub expect: Expect,
    /// Plaintext bytes.
    pub size: u64,
    /// SHA-256 of the plaintext.
    pub sha256: Sha256,
    /// Data chunks and links together.
    pub chunks: u64,
    /// The file's own modification time.
    pub modified: Timestamp,
    /// Whether anybody may execute it.
    pub executable: bool,
    /// The file's key, wrapped by the vault's; empty for a public file.
    #[serde(default)]
    pub wrapped_key: Blob,
    /// Root CID of a public file.
    #[serde(default)]
    pub cid: Option<String>,
}

/// Commits files, each in its own right, all in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CommitFiles {
    /// At most [`MAX_FILES`](super::MAX_FILES).
    pub files: Vec<CommitFile>,
}

/// What became of one file at commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Committed {
    /// It is visible.
    Done {
        /// The file.
        file: u32,
        /// The entry as it is now.
        entry: Box<Entry>,
        /// Distinct data chunks that this put was the first to bring.
        new_chunks: u64,
    },
    /// It is not.
    Refused {
        /// The file.
        file: u32,
        /// Why.
        error: ApiError,
    },
}
