//! Refusals: one code each, which decides the exit code.

use serde::{Deserialize, Serialize};

/// Why the coordinator did not do it. `code` is stable, and decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Any other failure.
    Internal,
    /// The request itself is wrong.
    Usage,
    /// No, or no valid, credential.
    NotSignedIn,
    /// Signed in, but not allowed.
    NotAllowed,
    /// There is no such thing.
    NotFound,
    /// It exists already.
    Exists,
    /// It changed since it was looked at.
    Changed,
    /// A file is where a directory is needed, or the reverse.
    WrongKind,
    /// The directory is not empty.
    NotEmpty,
    /// Try again: coordinator unreachable, or enough nodes exist but do not answer.
    Temporary,
    /// Bytes are not what they must be.
    Integrity,
    /// Fewer nodes are registered than copies must be made.
    TooFewNodes,
    /// The nodes have too little room.
    NoRoom,
    /// A lease has ended, or chunks must be sent again: plan anew.
    Replan,
    /// Something else holds it.
    Busy,
    /// The coordinator is read-only until a person decides.
    ReadOnly,
}

impl Code {
    /// The stable text form, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::NotSignedIn => "not_signed_in",
            Self::NotAllowed => "not_allowed",
            Self::NotFound => "not_found",
            Self::Exists => "exists",
            Self::Changed => "changed",
            Self::WrongKind => "wrong_kind",
            Self::NotEmpty => "not_empty",
            Self::Temporary => "temporary",
            Self::Integrity => "integrity",
            Self::TooFewNodes => "too_few_nodes",
            Self::NoRoom => "no_room",
            Self::Replan => "replan",
            Self::Busy => "busy",
            Self::ReadOnly => "read_only",
        }
    }
}

/// A refusal or failure, told so that a person can act on it. Never holds a secret, a server path or SQL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[error("{message}")]
pub struct ApiError {
    /// What kind it is.
    pub code: Code,
    /// What failed, naming the thing: a lower-case fragment without full stop.
    pub message: String,
    /// A command to run, or what to do.
    #[serde(default)]
    pub hint: Option<String>,
}

impl ApiError {
    /// Makes one without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Result of an [`Api`](super::Api) call.
pub type ApiResult<T> = Result<T, ApiError>;
