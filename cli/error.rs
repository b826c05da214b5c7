//! What goes wrong, as people and scripts see it: a kind with its exit code, a chain of causes, and a command to run.

use std::error::Error;
use std::fmt;
use std::io;

use bytenode::api::{ApiError, Code};
use bytenode::path::PathError;
use bytenode::tree::place::PlaceError;

/// How the program ends. The numbers are a contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Other,
    Usage,
    Partly,
    NotAllowed,
    NotFound,
    Exists,
    Temporary,
    Integrity,
    TooFewNodes,
    BelowTarget,
    Busy,
    Problems,
    Interrupted,
    Terminated,
}

impl Exit {
    /// All of them, in order.
    pub const ALL: [Self; 15] = [
        Self::Done,
        Self::Other,
        Self::Usage,
        Self::Partly,
        Self::NotAllowed,
        Self::NotFound,
        Self::Exists,
        Self::Temporary,
        Self::Integrity,
        Self::TooFewNodes,
        Self::BelowTarget,
        Self::Busy,
        Self::Problems,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number that the shell sees.
    pub const fn number(self) -> u8 {
        match self {
            Self::Interrupted => 130,
            Self::Terminated => 143,
            other => other as u8,
        }
    }

    /// What it means.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Other => "other failure",
            Self::Usage => "wrong usage",
            Self::Partly => "partly done",
            Self::NotAllowed => "not signed in or not allowed",
            Self::NotFound => "not found",
            Self::Exists => "already exists, or changed meanwhile",
            Self::Temporary => "temporary, try again (the coordinator or enough nodes do not answer)",
            Self::Integrity => "bytes are not what they must be",
            Self::TooFewNodes => "too few nodes registered, or too little room",
            Self::BelowTarget => "stored, but below the target number of copies",
            Self::Busy => "busy",
            Self::Problems => "a check found problems that remain",
            Self::Interrupted => "interrupted (Ctrl-C)",
            Self::Terminated => "terminated",
        }
    }

    /// The exit code of a refusal.
    pub const fn of(code: Code) -> Self {
        match code {
            Code::Internal | Code::ReadOnly => Self::Other,
            Code::Usage | Code::NotEmpty => Self::Usage,
            Code::NotSignedIn | Code::NotAllowed => Self::NotAllowed,
            Code::NotFound => Self::NotFound,
            Code::Exists | Code::Changed | Code::WrongKind => Self::Exists,
            Code::Temporary | Code::Replan => Self::Temporary,
            Code::Integrity => Self::Integrity,
            Code::TooFewNodes | Code::NoRoom => Self::TooFewNodes,
            Code::Busy => Self::Busy,
        }
    }
}

/// A failure that ends the command. `code` is the stable word in `--json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub code: &'static str,
    pub message: String,
    pub causes: Vec<String>,
    pub hint: Option<String>,
}

/// Result of everything here.
pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// Makes one.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { exit: Exit::of(code), code: code.as_str(), message, causes: Vec::new(), hint: None }
    }

    /// The command as typed makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Anything else.
    pub fn other(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// A local file could not be used.
    pub fn io(doing: impl Into<String>, error: &io::Error) -> Self {
        Self::new(code_of(error), doing).cause(error)
    }

    /// A signal ended it.
    pub fn signal(exit: Exit, hint: &str) -> Self {
        let message = if exit == Exit::Terminated { "terminated" } else { "interrupted" };
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        Self { exit, code: message, message: message.into(), causes: Vec::new(), hint }
    }

    /// Adds a hint, unless there is one.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Adds what caused it, and what caused that.
    #[must_use]
    pub fn cause(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The stable word for a local failure.
pub fn code_of(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::NotAllowed,
        io::ErrorKind::AlreadyExists => Code::Exists,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Code::WrongKind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::NoRoom,
        _ => Code::Internal,
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let mut failure = Self::new(error.code, error.message);
        failure.hint = error.hint;
        if error.code == Code::NotSignedIn {
            failure = failure.hint("bytenode login");
        }
        failure
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        let failure = Self::usage(error.to_string());
        match error.corrected() {
            Some(corrected) => failure.hint(format!("did you mean {corrected}?")),
            None => failure,
        }
    }
}

impl From<PlaceError> for Failure {
    fn from(error: PlaceError) -> Self {
        let code = match &error {
            PlaceError::IsFile(_) | PlaceError::IsDir(_) => Code::WrongKind,
            _ => Code::Usage,
        };
        let mut failure = Self::new(code, error.to_string());
        if matches!(error, PlaceError::NotUtf8(_)) {
            failure.exit = Exit::Partly;
        }
        failure
    }
}

/// The exit code of several operands: 3 when some succeeded and some failed; the common code, else 1, when all failed;
/// a failed integrity wins over all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    succeeded: u64,
    failed: u64,
    common: Option<Exit>,
    mixed: bool,
    integrity: bool,
}

impl Tally {
    /// Counts what went well.
    pub fn good(&mut self) {
        self.succeeded += 1;
    }

    /// Counts what failed.
    pub fn bad(&mut self, exit: Exit) {
        self.failed += 1;
        self.mixed |= self.common.is_some_and(|common| common != exit);
        self.integrity |= exit == Exit::Integrity;
        self.common = Some(exit);
    }

    /// How many failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// The verdict.
    pub fn exit(&self) -> Exit {
        match self.common {
            None => Exit::Done,
            Some(_) if self.integrity => Exit::Integrity,
            Some(_) if self.succeeded > 0 => Exit::Partly,
            Some(_) if self.mixed => Exit::Other,
            Some(common) => common,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(results: &[Result<(), Exit>]) -> u8 {
        let mut tally = Tally::default();
        for result in results {
            match result {
                Ok(()) => tally.good(),
                Err(exit) => tally.bad(*exit),
            }
        }
        tally.exit().number()
    }

    #[test]
    fn several_operands_share_one_exit_code() {
        use Exit::{Exists, Integrity, NotFound};
        assert_eq!(exit_of(&[]), 0);
        assert_eq!(exit_of(&[Ok(()), Ok(())]), 0);
        assert_eq!(exit_of(&[Err(NotFound)]), 5);
        assert_eq!(exit_of(&[Err(NotFound), Err(NotFound)]), 5);
        assert_eq!(exit_of(&[Err(NotFound), Err(Exists)]), 1);
        assert_eq!(exit_of(&[Ok(()), Err(Exists)]), 3);
        assert_eq!(exit_of(&[Ok(()), Err(Integrity), Err(Exists)]), 8);
    }

    #[test]
    fn numbers_are_the_contract() {
        let numbers: Vec<u8> = Exit::ALL.iter().map(|exit| exit.number()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 130, 143]);
    }
}
