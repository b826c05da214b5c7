//! Long work as people see it: tasks, and what of a node can be changed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Access, Gc, HealthReport, NodeScrubbed};
use crate::api::ApiError;
use crate::node::GrantToken;

/// Long work to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TaskRequest {
    /// Ask the nodes about every copy, and repair what is missing.
    Health {
        /// Ignore the grace of nodes that do not answer.
        #[serde(default)]
        now: bool,
        /// Read and hash every replica first.
        #[serde(default)]
        read: bool,
        /// Begin no more repair after so many seconds, and say how it stands then.
        #[serde(default)]
        time_limit: Option<u64>,
        /// Refuse while another repair is under way, instead of waiting for it.
        #[serde(default)]
        no_wait: bool,
    },
    /// Read and hash copies.
    Scrub {
        /// Every copy, not only what is due.
        #[serde(default)]
        all: bool,
    },
    /// Empty a node: nothing new goes to it, and what it has goes elsewhere.
    Drain {
        /// Its name.
        node: String,
    },
}

impl TaskRequest {
    /// What kind of work it is.
    pub const fn kind(&self) -> TaskKind {
        match self {
            Self::Health { .. } => TaskKind::Health,
            Self::Scrub { .. } => TaskKind::Scrub,
            Self::Drain { .. } => TaskKind::Drain,
        }
    }
}

/// Kinds of long work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A check with repair.
    Health,
    /// Reading and hashing.
    Scrub,
    /// Emptying a node.
    Drain,
}

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// It is at work, or waits for something.
    Running,
    /// It does nothing until it is resumed.
    Paused,
    /// It came to its end.
    Done,
    /// It could not.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl TaskState {
    /// Whether it has come to an end.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// What to do with a task that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Steer {
    /// Stop after the step under way, until it is resumed.
    Pause,
    /// Go on.
    Resume,
    /// End it. What it has done stays done.
    Cancel,
}

/// Long work, under way or ended. It survives a start of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct Task {
    /// Its number, never used again.
    pub id: u64,
    /// What it does.
    pub kind: TaskKind,
    /// How it stands.
    pub state: TaskState,
    /// Who asked for it.
    pub owner: String,
    /// The node that it is about.
    pub node: Option<String>,
    /// Steps that are done: repairs, packs, or copies.
    pub done: u64,
    /// All steps as far as they are known.
    pub total: Option<u64>,
    /// What it said last, or its outcome.
    pub message: String,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

impl Task {
    /// The owner of what the coordinator does without being asked.
    pub const ITSELF: &str = "coordinator";
}

/// Something that a task said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct TaskLine {
    /// When.
    pub at: Timestamp,
    /// What.
    pub text: String,
}

/// A task with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct TaskReport {
    /// The task.
    pub task: Task,
    /// What was asked for.
    pub request: TaskRequest,
    /// What it said, the oldest first; of very much, the end.
    pub log: Vec<TaskLine>,
    /// Why it failed.
    pub error: Option<ApiError>,
    /// The outcome of a check. Of one that ended long ago, only the beginnings of what was found and done.
    pub health: Option<HealthReport>,
    /// The outcome of a scrub.
    pub scrub: Option<Vec<NodeScrubbed>>,
}

/// What is to change of a node. What is not given stays as it is, and so does all that the node holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NodeSet {
    /// The name people will use.
    #[serde(default)]
    pub name: Option<String>,
    /// Its failure zone.
    #[serde(default)]
    pub zone: Option<String>,
    /// Bytes that it may be filled with.
    #[serde(default)]
    pub capacity_bytes: Option<u64>,
    /// Its share of what is stored, in percent of what its capacity alone would give it: 1 to 1,000.
    #[serde(default)]
    pub weight: Option<u32>,
    /// Its address: the same node must answer there.
    #[serde(default)]
    pub url: Option<String>,
    /// Kubo's gateway.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Kubo's AuthSecret form.
    #[serde(default)]
    pub token: Option<GrantToken>,
    /// The same for clients.
    #[serde(default)]
    pub client_token: Option<GrantToken>,
    /// How clients reach it.
    #[serde(default)]
    pub access: Option<Access>,
    /// Who collects garbage.
    #[serde(default)]
    pub gc: Option<Gc>,
    /// Whether plain HTTP to another machine is allowed.
    #[serde(default)]
    pub insecure_http: bool,
    /// `false` opens a node that was drained to new chunks again.
    #[serde(default)]
    pub draining: Option<bool>,
    /// Only test and say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct NodeEvent {
    /// When.
    pub at: Timestamp,
    /// What, for people.
    pub text: String,
}
