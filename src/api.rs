//! The coordinator's interface: wire types, and the trait [`Api`] that the use cases work on.
//!
//! Two things implement it: the coordinator itself, for one signed-in user, and [`crate::client::Client`] over HTTP.
//! So the same put and get run in the command line, in the coordinator for web uploads, and in a simulation.
//! Bounds hold on both sides; the server checks them.

mod error;
mod files;
mod puts;
mod reads;
mod text;

use async_trait::async_trait;

use crate::id::UploadId;
use crate::path::RemotePath;
pub use error::{ApiError, ApiResult, Code};
pub use files::{Entry, Kind, ListRequest, Page, Removed, VersionId};
pub use puts::{
    Append, BeginPut, ChunkDesc, ChunksPlanned, CommitFile, CommitFiles, Committed, Expect, NodeAddress, NodeKind,
    PackOutcome, PackPlan, PacksJudged, PacksSent, Part, PlanChunks, PutSession,
};
pub use reads::{
    BadCopy, CopyAt, ManifestChunk, ManifestPage, ManifestSpan, OpenFile, OpenRead, ReadChunks, ReadGrant, ReadSession,
    Span,
};
pub use text::{Blob, Sha256};

/// The most chunks in one [`PlanChunks`], over all its files.
pub const MAX_PLAN_CHUNKS: usize = 1024;

/// The most files in one [`CommitFiles`], one [`PlanChunks`] or one [`OpenRead`], and entries in one page.
pub const MAX_FILES: usize = 1024;

/// The most paths in one [`Api::lookup`].
pub const MAX_LOOKUP: usize = 4096;
/// The most manifest entries in one [`ManifestPage`].
pub const MAX_PAGE_CHUNKS: usize = 1024;

/// The most bad copies in one [`Api::report_bad`].
pub const MAX_REPORTS: usize = 256;

/// The coordinator, as one signed-in user sees it.
///
/// Every call is bounded by the coordinator-call limit. Calls that change something may be repeated after a lost
/// answer: the repetition answers the same.
#[async_trait]
pub trait Api: Send + Sync {
    /// Describes one path.
    async fn stat(&self, path: &RemotePath) -> ApiResult<Entry>;
    /// Describes many paths (at most [`MAX_LOOKUP`]): nothing where nothing is.
    async fn lookup(&self, paths: &[RemotePath]) -> ApiResult<Vec<Option<Entry>>>;
    /// Lists a directory.
    async fn list(&self, request: &ListRequest) -> ApiResult<Page<Entry>>;
    /// Makes directories and their parents (at most [`MAX_FILES`]); one that exists is success.
    async fn make_dirs(&self, paths: &[RemotePath]) -> ApiResult<()>;
    /// Moves a file or directory to a path where nothing is.
    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry>;
    /// Copies a file or directory to a path where nothing is; no bytes move.
    async fn copy(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry>;
    /// Removes a file, or with `recursive` a directory and all in it.
    async fn remove(&self, path: &RemotePath, recursive: bool, dry_run: bool) -> ApiResult<Removed>;

    /// Begins a put.
    async fn begin_put(&self, request: &BeginPut) -> ApiResult<PutSession>;
    /// Records chunks of files and says what must be sent where.
    async fn plan_chunks(&self, upload: UploadId, request: &PlanChunks) -> ApiResult<ChunksPlanned>;
    /// Reports packs.
    async fn packs_sent(&self, upload: UploadId, request: &PacksSent) -> ApiResult<PacksJudged>;
    /// Makes files visible.
    async fn commit_files(&self, upload: UploadId, request: &CommitFiles) -> ApiResult<Vec<Committed>>;
    /// Keeps the lease of a put or of a read.
    async fn renew(&self, lease: UploadId) -> ApiResult<()>;
    /// Ends the lease of a put or of a read. What was not committed is released.
    async fn release(&self, lease: UploadId) -> ApiResult<()>;

    /// Opens files.
    async fn open_read(&self, request: &OpenRead) -> ApiResult<ReadSession>;
    /// Says where chunks are.
    async fn read_chunks(&self, read: UploadId, request: &ReadChunks) -> ApiResult<ManifestPage>;
    /// Reports bad copies.
    async fn report_bad(&self, reports: &[BadCopy]) -> ApiResult<()>;
}
