//! Storage nodes: one trait, implemented by everything that keeps packs.
//!
//! Kinds: [`http`] drives Kubo and the built-in node alike (the built-in node serves the part of Kubo's interface that
//! is used here); [`memory`] keeps packs in memory; [`fault`] wraps any node and misbehaves on demand. One conformance
//! suite ([`conformance`]) runs against all of them.
//!
//! A node that answers "stored" has proved nothing by that; what counts as a copy is decided in `coordinator`.

pub mod builtin;
pub mod call;
pub mod conformance;
pub mod fault;
pub mod http;
pub mod memory;
pub mod probe;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{ChunkId, NodeId, PackRoot};
use crate::pack::{Pack, PackHeader};

/// A node that can be handed around.
pub type SharedNode = Arc<dyn Node>;

/// A storage server with an identity of its own.
///
/// Every call ends: within the limits it was built with, it returns what the node said or an error that names the node.
/// No call makes the node use a network beyond itself. Writes and drops may be repeated.
#[async_trait]
pub trait Node: Send + Sync + fmt::Debug {
    /// Asks who it is, what it runs and how much room it has.
    async fn status(&self) -> Result<NodeStatus, NodeError>;

    /// Sends a pack: its root and all its chunks, without protecting it. Answered only after the node answered success;
    /// a built-in node's receipt then says that every chunk was hashed and synced to disk, Kubo's says nothing.
    async fn write_pack(&self, pack: &Pack, grant: Option<&GrantToken>) -> Result<Receipt, NodeError>;

    /// Protects a pack that was written (Kubo: pins it; the built-in node protects on writing). Never asked twice for
    /// one root unless [`Self::holds_pack`] said no, because re-pinning is dangerous on Kubo.
    async fn protect_pack(&self, root: PackRoot, bytes: u64) -> Result<(), NodeError>;

    /// Asks whether it protects this pack now.
    async fn holds_pack(&self, root: PackRoot) -> Result<bool, NodeError>;

    /// Reads a chunk, or a range of its stored bytes. Without a range it comes back only if its bytes are the named ones;
    /// a range, even one of all bytes, is the caller's to prove: whoever opens a sealed chunk has its seal for that.
    async fn read_chunk(
        &self,
        at: &ChunkAt,
        range: Option<Range<u64>>,
        grant: Option<&GrantToken>,
    ) -> Result<Bytes, NodeError>;

    /// Reads what the root of a pack says; nothing for a root of another kind. Asks the node's own store, so it may be asked
    /// of any root that was listed.
    async fn pack_header(&self, root: PackRoot) -> Result<Option<PackHeader>, NodeError>;

    /// Lists every root that it protects, ours or not, in any order, each once. Nothing is gathered here; what the caller
    /// keeps is 32 bytes an item, of which a node may have far more than this pool's: 100,000 are 3.2 MB. A listing ends,
    /// by [`http::Limits`]: one that drips too.
    async fn list_packs(&self, each: &mut (dyn FnMut(PackRoot) + Send)) -> Result<(), NodeError>;

    /// Lists every chunk (and pack root, by its digest) whose bytes it has, in any order, perhaps repeated;
    /// otherwise as [`Self::list_packs`].
    async fn list_chunks(&self, each: &mut (dyn FnMut(ChunkId) + Send)) -> Result<(), NodeError>;

    /// Ends the protection of a pack. A pack that it does not hold is success.
    async fn drop_pack(&self, root: PackRoot) -> Result<(), NodeError>;

    /// Puts a smaller pack, some of the old one's chunks, in the place of the old one. At no moment are the kept chunks
    /// unprotected. A repetition after success is success.
    async fn replace_pack(&self, old: PackRoot, new: &PackHeader) -> Result<(), NodeError>;

    /// Removes the bytes of a chunk that no pack protects, so that a write brings new ones; what a pack protects is never
    /// removed. Only Kubo needs it, which does not write what its block cache says it has.
    async fn remove_chunk(&self, _chunk: ChunkId) -> Result<(), NodeError> {
        Ok(())
    }
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its own identity.
    pub id: NodeId,
    /// What it runs, for people: `kubo 0.43.1`, `bytenode 0.1.0`.
    pub version: String,
    /// Bytes that its store uses.
    pub used_bytes: u64,
    /// Bytes that it can still take, by the smaller of its configured limit and its disk.
    pub free_bytes: u64,
    /// Its own clock, if it tells.
    pub clock: Option<jiff::Timestamp>,
    /// Since when it runs, by its own clock, where it may lose what it was given shortly before.
    pub started: Option<jiff::Timestamp>,
}

/// Where a chunk is on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkAt {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its stored length in bytes.
    pub bytes: u64,
    /// The pack on that node that holds it.
    pub pack: PackRoot,
}

/// What a node gives for a written pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Receipt {
    /// The node answered success, which proves nothing.
    Unproved,
    /// A built-in node signed that it hashed and synced all of it.
    Signed {
        /// The signed statement; see [`crate::grant`].
        token: String,
    },
}

/// A signed permission for one thing on one node; opaque to the client. See [`crate::grant`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantToken(String);

impl GrantToken {
    /// Takes the token's text.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The token's text, which is a secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for GrantToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GrantToken(…)")
    }
}

/// A failed call to a node. Its text names the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node {node}: {reason}")]
pub struct NodeError {
    /// The node, by the name people gave it, else its address.
    pub node: String,
    /// What happened.
    pub reason: NodeFailure,
}

/// What happened at a node: each is a decision the caller can take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeFailure {
    /// No connection: refused, reset, or no such host.
    #[error("does not answer ({0})")]
    Unreachable(String),
    /// No byte came within a limit.
    #[error("did not answer within {seconds} s ({doing})")]
    Timeout {
        /// The limit that passed.
        seconds: u64,
        /// What was waited for.
        doing: &'static str,
    },
    /// It refused the credential or the grant.
    #[error("refuses access ({0})")]
    Denied(String),
    /// It has no such chunk or pack.
    #[error("does not have {0}")]
    Absent(String),
    /// It gave other bytes than the name says.
    #[error("gave wrong bytes for {0}")]
    Corrupt(String),
    /// It has no room.
    #[error("is full ({0})")]
    Full(String),
    /// It is not the node that it was registered as.
    #[error("is another node now ({found})")]
    OtherIdentity {
        /// The identity that answered.
        found: NodeId,
    },
    /// It says that it is this node and has not its key: another program may listen at the node's address.
    #[error("does not prove that it is {0}")]
    Unproved(NodeId),
    /// It answered something that cannot be right, or an error of its own.
    #[error("answered: {0}")]
    Answer(String),
}

impl NodeFailure {
    /// Says at which node.
    pub fn at(self, node: impl Into<String>) -> NodeError {
        NodeError { node: node.into(), reason: self }
    }

    /// Whether it shows that the bytes that were asked for are missing or wrong.
    pub const fn is_of_bytes(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::Corrupt(_))
    }

    /// Whether the same call may succeed later without anybody mending anything.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout { .. })
    }
}
