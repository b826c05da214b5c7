//! Files and directories as listings show them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Sha256;
use crate::path::RemotePath;

/// A version of a file: a row of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct VersionId(pub i64);

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Dir,
}

/// A file or directory as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Entry {
    /// Where it is.
    pub path: RemotePath,
    /// What it is.
    pub kind: Kind,
    /// Plaintext bytes; 0 for a directory.
    pub size: u64,
    /// The file's own modification time; a directory's is when it was made.
    pub modified: Timestamp,
    /// Whether anybody may execute it.
    pub executable: bool,
    /// SHA-256 of the plaintext; nothing for a directory.
    pub sha256: Option<Sha256>,
    /// The live version; nothing for a directory.
    pub version: Option<VersionId>,
    /// Chunks of data.
    pub chunks: u64,
    /// Counted copies of its least copied chunk, as of the last change or check; nothing for a directory or empty file.
    pub copies_min: Option<u32>,
    /// Copies wanted.
    pub copies_target: u32,
    /// When its copies were last proved or checked.
    pub checked: Option<Timestamp>,
    /// Whether it is stored as plain UnixFS blocks.
    pub public: bool,
    /// Whether no node holds all its chunks; nothing where that cannot be asked (fewer than two distinct chunks).
    pub spread: Option<bool>,
    /// Root CID of a public file.
    pub cid: Option<String>,
}

/// One page of something, and where the next begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// What to ask with for the next page; nothing on the last.
    pub next_cursor: Option<String>,
}

/// Asks for the entries of a directory, by name; recursively, each directory before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ListRequest {
    /// The directory.
    pub path: RemotePath,
    /// Whether to go below it.
    #[serde(default)]
    pub recursive: bool,
    /// Continues an earlier page.
    #[serde(default)]
    pub cursor: Option<String>,
    /// The most entries, at most [`MAX_FILES`](super::MAX_FILES).
    pub limit: u32,
}

/// What a removal did, or with `dry_run` would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Removed {
    /// Files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Plaintext bytes.
    pub bytes: u64,
}
