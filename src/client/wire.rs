//! Bodies of the HTTP interface that no trait names: the arguments and answers of calls which are not one type already.
//! The server and the client share them. Answers are objects, never bare arrays, so that fields can be added.

use serde::{Deserialize, Serialize};

use crate::admin::{NodeEvent, NodeInfo, NodeRisks, NodeScrubbed, NodeWay, Steer, Task};
use jiff::Timestamp;

use crate::api::{BadCopy, Committed, Entry};
use crate::backup::Passphrase;
use crate::path::RemotePath;

/// Where every route but the probes begins.
pub const API_PREFIX: &str = "/api/v1";
/// The header in which both sides say which version of ByteNode they are.
pub const VERSION_HEADER: &str = "bytenode-version";
/// The header that names a request in answers and logs.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// The media type of every error (RFC 9457).
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// The most bytes of a request's body: 1,024 of the longest paths fit.
pub const MAX_BODY_BYTES: usize = 8 << 20;

/// Some paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// At most 1,024.
    pub paths: Vec<RemotePath>,
}

/// From where to where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FromTo {
    /// What is there now.
    pub from: RemotePath,
    /// Where nothing is yet.
    pub to: RemotePath,
}

/// Asks for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// What people will call it.
    pub name: String,
}

/// Reports bad copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BadCopies {
    /// At most 1,024.
    pub reports: Vec<BadCopy>,
}

/// Asks for a scrub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ScrubRequest {
    /// Every copy, not only what is due.
    #[serde(default)]
    pub all: bool,
    /// Only say what would be read.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a scrub read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct ScrubReport {
    /// Each node's share.
    pub nodes: Vec<NodeScrubbed>,
}

/// Tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Tasks {
    /// Those under way first, then the latest.
    pub tasks: Vec<Task>,
}

/// Says what to do with a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SteerRequest {
    /// What.
    pub steer: Steer,
}

/// What happened to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeEvents {
    /// The latest first.
    pub events: Vec<NodeEvent>,
}

/// Asks for a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// Versions within their retention too.
    #[serde(default)]
    pub now: bool,
    /// Only say what would be released.
    #[serde(default)]
    pub dry_run: bool,
}

/// Asks for a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// What it is sealed under.
    pub passphrase: Passphrase,
}

/// Says that a backup was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct BackupKept {
    /// Of which moment it is.
    pub made: Timestamp,
}

/// The media type of a backup.
pub const BACKUP_TYPE: &str = "application/octet-stream";

/// What is at some paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Entries {
    /// In the order asked; nothing where nothing is.
    pub entries: Vec<Option<Entry>>,
}

/// What became of files at commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct CommittedFiles {
    /// In the order asked.
    pub files: Vec<Committed>,
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Nodes {
    /// Each as it answered just now.
    pub nodes: Vec<NodeInfo>,
}

/// How a client reaches the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Ways {
    /// One for each.
    pub ways: Vec<NodeWay>,
}

/// What can go wrong on the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Risks {
    /// Each as it answered just now.
    pub nodes: Vec<NodeRisks>,
}

/// An error on the wire (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Names the kind of problem: `urn:bytenode:problem:` and the code.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// The kind in words.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What failed, naming the thing.
    #[serde(default)]
    pub detail: String,
    /// The stable code ([`crate::api::Code`]); decides the exit code. Newer coordinators may know more.
    #[serde(default)]
    pub code: String,
    /// A command to run, or what to do.
    #[serde(default)]
    pub hint: Option<String>,
    /// Names the request in the coordinator's log.
    #[serde(default)]
    pub request_id: String,
}
