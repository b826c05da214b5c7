//! What `up` has started, remembered for `up` and `down`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytenode::api::Code;
use bytenode::client::Locate;
use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::credentials::{make_private_dir, private_file, read_private, replace};
use crate::error::{Failure, Outcome};
use crate::profile::Profile;

/// How long one waits for another `up` or `down` to end.
const LOCK: Duration = Duration::from_secs(90);

/// A pool on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where its data is.
    pub data: PathBuf,
    /// The coordinator as last started.
    pub coordinator: Option<Process>,
    /// The nodes in the order of their numbers.
    pub nodes: Vec<Node>,
}

/// A built-in node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, `n1` and so on.
    pub name: String,
    /// The process as last started.
    pub process: Option<Process>,
    /// The address under which the coordinator knows it; nothing until it has joined.
    pub joined: Option<String>,
}

impl Process {
    /// Where this coordinator is from now on, or the one that `up` starts in its place.
    pub fn locate(self, profile: &Profile) -> Locate {
        let (last, profile) = (Mutex::new(self), profile.clone());
        Arc::new(move || {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if !last.runs() {
                *last = State::load(&profile).ok()??.coordinator.filter(Self::runs)?;
            }
            Some(last.url.clone())
        })
    }
}

fn path(profile: &Profile) -> PathBuf {
    profile.dirs.state.join(format!("pool-{}.json", profile.name))
}

impl State {
    /// A pool without anything.
    pub fn new(data: PathBuf) -> Self {
        Self { data, coordinator: None, nodes: Vec::new() }
    }

    /// Reads it; nothing if `up` never ran.
    pub fn load(profile: &Profile) -> Outcome<Option<Self>> {
        let path = path(profile);
        match read_private(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| {
                Failure::other(format!("{} is damaged", path.display()))
                    .cause(&error)
                    .hint("end the processes yourself, remove the file, and run: bytenode up")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::io(format!("cannot read {}", path.display()), &error)),
        }
    }

    /// Writes it, whole or not at all.
    pub fn save(&self, profile: &Profile) -> Outcome<()> {
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Failure::other("what runs cannot be written down").cause(&error))?;
        let path = path(profile);
        replace(&path, &text).map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))
    }

    /// Forgets it.
    pub fn remove(profile: &Profile) -> Outcome<()> {
        match std::fs::remove_file(path(profile)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::io(format!("cannot remove {}", path(profile).display()), &error))
            }
            _ => Ok(()),
        }
    }

    /// Names of what was started and does not run.
    pub fn stopped(&self) -> impl Iterator<Item = &str> {
        let coordinator = std::iter::once(("coordinator", self.coordinator.as_ref()));
        let nodes = self.nodes.iter().map(|node| (node.name.as_str(), node.process.as_ref()));
        coordinator.chain(nodes).filter(|(_, process)| !process.is_some_and(Process::runs)).map(|(name, _)| name)
    }
}

/// Holds the pool of a profile for one `up` or `down` at a time, until dropped.
///
/// # Errors
/// Busy, when another one takes too long.
pub async fn lock(profile: &Profile) -> Outcome<File> {
    let dir: &Path = &profile.dirs.state;
    let open = || -> io::Result<File> {
        make_private_dir(dir)?;
        private_file(&dir.join(format!("pool-{}.lock", profile.name)))
    };
    let file = open().map_err(|error| Failure::io(format!("cannot write in {}", dir.display()), &error))?;
    let end = Instant::now() + LOCK;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Failure::new(Code::Busy, "another bytenode up or down is at work"));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(Failure::io("cannot lock the pool", &error)),
        }
    }
}
