//! A read on the wire.

use serde::{Deserialize, Serialize};

use super::{ApiError, Blob, ChunkDesc, Entry, NodeAddress, VersionId};
use crate::id::{ChunkId, NodeId, PackRoot, UploadId};
use crate::node::GrantToken;
use crate::path::RemotePath;
use crate::seal::VaultKeys;

/// Opens files for reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct OpenRead {
    /// The client's machine, as in [`BeginPut`](super::BeginPut).
    pub machine: String,
    /// Files, at most [`MAX_FILES`](super::MAX_FILES); each at the version live now.
    pub paths: Vec<RemotePath>,
}

/// Files that are open for reading. What they hold stays until the lease ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ReadSession {
    /// The lease.
    pub read: UploadId,
    /// Renew at least this often.
    pub renew_seconds: u64,
    /// Keys of the vault.
    pub keys: VaultKeys,
    /// The files in the order asked, or why one cannot be read.
    #[cfg_attr(feature = "daemon", schema(value_type = Vec<crate::daemon::openapi::OpenedFile>))]
    pub files: Vec<Result<OpenFile, ApiError>>,
}

/// An open file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct OpenFile {
    /// What it is.
    pub entry: Entry,
    /// The version that is open.
    pub version: VersionId,
    /// Plaintext bytes in every data chunk but the last.
    pub chunk_size: u32,
    /// The file's key, wrapped by the vault's; empty for a public file.
    pub wrapped_key: Blob,
}

/// Asks for where the chunks of open files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ReadChunks {
    /// Which chunks of which files, at most [`MAX_PAGE_CHUNKS`](super::MAX_PAGE_CHUNKS) together.
    pub spans: Vec<Span>,
}

/// Some consecutive data chunks of one open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The version.
    pub version: VersionId,
    /// The first chunk.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Where chunks are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ManifestPage {
    /// One for each span, in its order.
    pub spans: Vec<ManifestSpan>,
    /// Addresses of all nodes named.
    pub nodes: Vec<NodeAddress>,
    /// Permissions to read, one for a node and pack.
    pub grants: Vec<ReadGrant>,
    /// Ask anew after so many seconds.
    pub valid_seconds: u64,
}

/// The chunks of a span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ManifestSpan {
    /// The chunks, in order, each with its copies in the order in which to try them.
    pub chunks: Vec<ManifestChunk>,
    /// The pages of encrypted keys that cover them: index of the first chunk, and the page.
    pub sealed_keys: Vec<(u64, Blob)>,
}

/// A chunk and its copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ManifestChunk {
    /// What it is.
    pub desc: ChunkDesc,
    /// Where it is, best first: indices into [`ManifestPage::grants`]' nodes are not used; node and pack are named.
    pub copies: Vec<CopyAt>,
}

/// A copy of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct CopyAt {
    /// The node.
    pub node: NodeId,
    /// The pack on it.
    pub pack: PackRoot,
}

/// Permission to read all chunks of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ReadGrant {
    /// The copy's node and pack.
    pub at: CopyAt,
    /// The permission.
    pub grant: GrantToken,
}

/// A copy that could not be read, or was wrong. A hint: the coordinator reads and hashes before it changes anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BadCopy {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where.
    pub at: CopyAt,
    /// What happened, for people.
    pub message: String,
}
