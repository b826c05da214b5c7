//! Local trees: what a put finds on disk ([`walk`]), and where it goes ([`place`]).
//!
//! A walk holds the remaining names of the directories on its current path, nothing more. What cannot be read or named
//! is told ([`Found::Failed`]) and the walk goes on. No link inside a tree is ever followed.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::path::RemotePath;

pub mod place;

/// One thing that a put found.
#[derive(Debug)]
pub enum Found {
    /// A directory to make.
    Dir {
        /// Where it goes.
        to: RemotePath,
    },
    /// A file to store.
    File(LocalFile),
    /// Something that is left out, which is no failure.
    Skipped {
        /// What it is.
        source: PathBuf,
        /// Where it would go.
        to: RemotePath,
        /// Why: `symlink` or `special`.
        reason: &'static str,
    },
    /// Something that cannot be stored.
    Failed {
        /// What it is.
        source: PathBuf,
        /// Where it would go, if it has a name that can be stored.
        to: Option<RemotePath>,
        /// What happened; [`io::ErrorKind::InvalidFilename`] when it has no name that can be stored.
        error: io::Error,
    },
}

/// A regular file to store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it is.
    pub source: PathBuf,
    /// Where it goes.
    pub to: RemotePath,
    /// Its size when it was found.
    pub size: u64,
    /// Its modification time, to the microsecond.
    pub modified: Timestamp,
    /// Whether anybody may execute it.
    pub executable: bool,
}

/// Yields `source`, and if it is a directory all that is in it, as it becomes known: sorted by name within a directory,
/// each directory before its contents. A link given as `source` is followed. The remote root itself is not yielded.
pub fn walk(source: PathBuf, to: RemotePath) -> impl Iterator<Item = Found> + Send {
    Walk { start: Some((source, to)), levels: Vec::new() }
}

/// A directory whose names are being yielded.
struct Level {
    dir: PathBuf,
    to: RemotePath,
    names: std::vec::IntoIter<io::Result<OsString>>,
}

struct Walk {
    start: Option<(PathBuf, RemotePath)>,
    levels: Vec<Level>,
}

impl Iterator for Walk {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if let Some((source, to)) = self.start.take() {
            let found = match fs::metadata(&source) {
                Ok(metadata) => self.found(source, to, &metadata),
                Err(error) => Some(Found::Failed { source, to: Some(to), error }),
            };
            if found.is_some() {
                return found;
            }
        }
        loop {
            let level = self.levels.last_mut()?;
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            let found = match name {
                Err(error) => Some(Found::Failed { source: level.dir.clone(), to: Some(level.to.clone()), error }),
                Ok(name) => {
                    let (source, to) = (level.dir.join(&name), remote_name(&level.to, &name));
                    self.entry(source, to)
                }
            };
            if found.is_some() {
                return found;
            }
        }
    }
}

impl Walk {
    fn entry(&mut self, source: PathBuf, to: io::Result<RemotePath>) -> Option<Found> {
        let to = match to {
            Ok(to) => to,
            Err(error) => return Some(Found::Failed { source, to: None, error }),
        };
        match fs::symlink_metadata(&source) {
            Ok(metadata) => self.found(source, to, &metadata),
            Err(error) => Some(Found::Failed { source, to: Some(to), error }),
        }
    }

    /// What this is; enters it if it is a directory. Nothing for the remote root.
    fn found(&mut self, source: PathBuf, to: RemotePath, metadata: &Metadata) -> Option<Found> {
        let kind = metadata.file_type();
        if kind.is_file() {
            let (modified, executable) = (modified(metadata), executable(metadata));
            return Some(Found::File(LocalFile { source, to, size: metadata.len(), modified, executable }));
        }
        if kind.is_symlink() {
            return Some(Found::Skipped { source, to, reason: "symlink" });
        }
        if !kind.is_dir() {
            return Some(Found::Skipped { source, to, reason: "special" });
        }
        match names(&source) {
            Ok(names) => {
                self.levels.push(Level { dir: source, to: to.clone(), names: names.into_iter() });
                (!to.is_root()).then_some(Found::Dir { to })
            }
            Err(error) => Some(Found::Failed { source, to: Some(to), error }),
        }
    }
}

/// The names in a directory, sorted; what could not be read of it comes last.
fn names(dir: &Path) -> io::Result<Vec<io::Result<OsString>>> {
    let (mut names, mut errors) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        match entry {
            Ok(entry) => names.push(entry.file_name()),
            Err(error) => {
                errors.push(error);
                break;
            }
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(Ok).chain(errors.into_iter().map(Err)).collect())
}

fn remote_name(to: &RemotePath, name: &OsString) -> io::Result<RemotePath> {
    let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidFilename, why);
    let name = name.to_str().ok_or_else(|| refuse("the name is not UTF-8".into()))?;
    to.join(name).map_err(|error| refuse(error.to_string()))
}

/// The modification time of a local file, to the microsecond.
pub fn modified(metadata: &Metadata) -> Timestamp {
    let time =
        metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

/// Whether anybody may execute a local file.
#[cfg(unix)]
pub fn executable(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o111 != 0
}

/// Whether anybody may execute a local file: not known here.
#[cfg(not(unix))]
pub fn executable(_metadata: &Metadata) -> bool {
    false
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn told(source: &Path, to: &str) -> Vec<String> {
        walk(source.to_owned(), to.parse().unwrap())
            .map(|found| match found {
                Found::Dir { to } => format!("dir {to}"),
                Found::File(file) => {
                    format!("file {} {}{}", file.to, file.size, if file.executable { " x" } else { "" })
                }
                Found::Skipped { to, reason, .. } => format!("{reason} {to}"),
                Found::Failed { to, error, .. } => {
                    format!("failed {} {:?}", to.map_or("-".to_owned(), |to| to.to_string()), error.kind())
                }
            })
            .collect()
    }

    #[test]
    fn odd_names_links_and_special_files_are_each_told() {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir_all(tree.join("empty")).unwrap();
        fs::create_dir_all(tree.join("sub")).unwrap();
        for name in ["-n", "new\nline", "back\\slash", "*?[", "sub/f"] {
            fs::write(tree.join(name), name).unwrap();
        }
        fs::set_permissions(tree.join("-n"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(tree.join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").unwrap();
        symlink("..", tree.join("sub/loop")).unwrap();
        symlink("nowhere", tree.join("dangling")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, tree.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(
            told(&tree, "bn:/t"),
            [
                "dir bn:/t",
                "file bn:/t/*?[ 3",
                "file bn:/t/-n 2 x",
                "file bn:/t/back\\slash 10",
                "failed - InvalidFilename",
                "symlink bn:/t/dangling",
                "dir bn:/t/empty",
                "file bn:/t/new\nline 8",
                "special bn:/t/pipe",
                "dir bn:/t/sub",
                "file bn:/t/sub/f 5",
                "symlink bn:/t/sub/loop",
            ]
        );
    }

    #[test]
    fn operands_that_are_links_are_followed_and_the_root_is_not_made() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("d")).unwrap();
        fs::write(home.path().join("d/f"), "1").unwrap();
        symlink("d", home.path().join("l")).unwrap();
        symlink("loop", home.path().join("loop")).unwrap();
        assert_eq!(told(&home.path().join("l"), "bn:/"), ["file bn:/f 1"]);
        assert_eq!(told(&home.path().join("gone"), "bn:/g"), ["failed bn:/g NotFound"]);
        assert_eq!(told(&home.path().join("loop"), "bn:/g"), ["failed bn:/g FilesystemLoop"]);
    }

    #[test]
    fn names_too_long_for_a_remote_path_fail_alone() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("f"), "1").unwrap();
        let long = format!("bn:/{}", "a/".repeat(2048));
        assert_eq!(told(home.path(), &long).last().unwrap(), "failed - InvalidFilename");
    }

    #[test]
    fn a_directory_that_cannot_be_read_fails_and_the_walk_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let (closed, last) = (home.path().join("closed"), home.path().join("last"));
        fs::create_dir(&closed).unwrap();
        fs::write(last, "1").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        if fs::read_dir(&closed).is_ok() {
            return; // Nothing is closed to the superuser.
        }
        assert_eq!(told(home.path(), "bn:/t")[1..], ["failed bn:/t/closed PermissionDenied", "file bn:/t/last 1"]);
    }
}
