//! What a put tells: of each thing, and in sum.

use crate::api::{ApiError, Entry};
use crate::path::RemotePath;

/// What became of one thing.
#[derive(Debug)]
pub enum PutOutcome {
    /// The file is visible (or, dry, would be sent).
    Stored {
        /// The local name, as given or found.
        source: String,
        /// The entry.
        entry: Box<Entry>,
        /// Chunks that were not stored before.
        new_chunks: u64,
    },
    /// The content is there already.
    Unchanged {
        /// The local name.
        source: String,
        /// Where.
        path: RemotePath,
    },
    /// Left out, which is no failure.
    Skipped {
        /// The local name.
        source: String,
        /// Where it would be.
        path: RemotePath,
        /// `symlink` or `special`.
        reason: &'static str,
    },
    /// It is not stored.
    Failed {
        /// The local name.
        source: String,
        /// Where it would be.
        path: Option<RemotePath>,
        /// Why.
        error: ApiError,
    },
}

/// Sums of a put.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutSummary {
    /// Files stored.
    pub files: u64,
    /// Their plaintext bytes.
    pub bytes: u64,
    /// Bytes sent to nodes, every copy counted.
    pub sent_bytes: u64,
    /// Files that failed.
    pub failed: u64,
    /// Links and special files left out.
    pub skipped: u64,
    /// Files whose content was there.
    pub unchanged: u64,
    /// Their bytes.
    pub unchanged_bytes: u64,
    /// Bytes of the stored files that nodes held already, so that they were not sent.
    pub here_bytes: u64,
    /// Chunks of the stored files.
    pub chunks: u64,
    /// Of these, chunks that were stored already.
    pub chunks_here: u64,
    /// Copies of the least copied chunk of any stored file; nothing when none has chunks.
    pub copies_min: Option<u32>,
    /// Copies wanted.
    pub copies_target: u32,
    /// Nodes that packs were sent to.
    pub nodes: u32,
    /// Stored files of several chunks that one node holds whole.
    pub not_spread: u64,
}
