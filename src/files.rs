//! Changes of local files: what a get and a built-in node do to a file system goes through here and nowhere else.
//!
//! Each is the call of the standard library and nothing more. In debug builds a test can have those of its thread written
//! down, in their order, and so learn what a power loss at any moment may leave. In release builds there is nothing of it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What tells a file from all others that exist: its device and number.
pub type Identity = (u64, u64);

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An empty file appeared.
    Made(PathBuf, Identity),
    /// An empty directory appeared.
    MadeDir(PathBuf),
    /// Bytes were written from this offset on.
    Written(Identity, u64, Vec<u8>),
    /// A file got this length.
    Sized(Identity, u64),
    /// A file got this modification time.
    Timed(Identity, SystemTime),
    /// A file got these permissions.
    Permitted(Identity, Permissions),
    /// Content and length of a file were made durable.
    SyncedContent(Identity),
    /// All of a file was made durable, but not its name.
    Synced(Identity),
    /// The names in a directory were made durable.
    SyncedDir(PathBuf),
    /// A file got another name, in the place of what had it.
    Renamed(PathBuf, PathBuf),
    /// A file got a second name.
    Linked(PathBuf, PathBuf),
    /// A name was taken away.
    Removed(PathBuf),
}

/// Makes a file that must not exist.
pub(crate) fn create(options: &OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.clone().create_new(true).open(path)?;
    record(|| Change::Made(path.to_owned(), identity(&file)));
    Ok(file)
}

/// Makes a directory whose parent exists, and which does not.
pub(crate) fn create_dir(builder: &DirBuilder, path: &Path) -> io::Result<()> {
    builder.create(path)?;
    record(|| Change::MadeDir(path.to_owned()));
    Ok(())
}

/// Writes some of these bytes where the file stands; gives how many.
pub(crate) fn write(mut file: &File, bytes: &[u8]) -> io::Result<usize> {
    let written = file.write(bytes)?;
    record(|| {
        let at = file.stream_position().map_or(0, |now| now - written as u64);
        Change::Written(identity(file), at, bytes[..written].to_vec())
    });
    Ok(written)
}

/// Gives a file this length, and goes on at its end.
pub(crate) fn end_at(mut file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    record(|| Change::Sized(identity(file), length));
    file.seek(SeekFrom::Start(length)).map(drop)
}

/// Gives a file a modification time.
pub(crate) fn set_modified(file: &File, modified: SystemTime) -> io::Result<()> {
    file.set_modified(modified)?;
    record(|| Change::Timed(identity(file), modified));
    Ok(())
}

/// Gives a file permissions.
pub(crate) fn set_permissions(file: &File, permissions: Permissions) -> io::Result<()> {
    file.set_permissions(permissions.clone())?;
    record(|| Change::Permitted(identity(file), permissions));
    Ok(())
}

/// Makes content and length durable.
pub(crate) fn sync_content(file: &File) -> io::Result<()> {
    file.sync_data()?;
    record(|| Change::SyncedContent(identity(file)));
    Ok(())
}

/// Makes content, length, modification time and permissions durable.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    file.sync_all()?;
    record(|| Change::Synced(identity(file)));
    Ok(())
}

/// Makes the names in a directory durable; its own name stands in the directory above.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()?;
    record(|| Change::SyncedDir(dir.to_owned()));
    Ok(())
}

/// Gives a file another name, in the place of a file that has it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)?;
    record(|| Change::Renamed(from.to_owned(), to.to_owned()));
    Ok(())
}

/// Gives a file a second name, which nothing may have.
pub(crate) fn link(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)?;
    record(|| Change::Linked(from.to_owned(), to.to_owned()));
    Ok(())
}

/// Takes away the name of a file.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)?;
    record(|| Change::Removed(path.to_owned()));
    Ok(())
}

#[cfg(unix)]
fn identity(file: &File) -> Identity {
    use std::os::unix::fs::MetadataExt;
    file.metadata().map_or((0, 0), |metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_file: &File) -> Identity {
    (0, 0)
}

#[cfg(debug_assertions)]
mod recorded {
    use std::cell::RefCell;

    use super::Change;

    thread_local! {
        static CHANGES: RefCell<Option<Vec<Change>>> = const { RefCell::new(None) };
    }

    /// From here on, changes that this thread makes are written down.
    pub fn begin() {
        CHANGES.set(Some(Vec::new()));
    }

    /// How many were written down.
    pub fn count() -> usize {
        CHANGES.with_borrow(|changes| changes.as_ref().map_or(0, Vec::len))
    }

    /// Ends it, and gives what was written down.
    pub fn end() -> Vec<Change> {
        CHANGES.take().unwrap_or_default()
    }

    pub(super) fn record(change: impl FnOnce() -> Change) {
        CHANGES.with_borrow_mut(|changes| {
            if let Some(changes) = changes {
                changes.push(change());
            }
        });
    }
}

#[cfg(debug_assertions)]
use recorded::record;
#[cfg(debug_assertions)]
pub use recorded::{begin, count, end};

#[cfg(not(debug_assertions))]
fn record(_change: impl FnOnce() -> Change) {}
