//! What the built-in node needs of a file system: a few calls, so that a double can record, fail and replay them.
//!
//! Paths are relative to the node's data directory. Files and directories are made for the owner alone.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

use crate::space::Space;

/// A directory tree. Every call blocks.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Makes a directory whose parent exists. One that exists is success.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes a file that must not exist, open for writing and reading, readable by the owner alone.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file or directory another name, in the place of a file that has that name already. Readers see the one
    /// or the other. It survives a crash only after [`Self::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. It stays removed after a crash only after [`Self::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Lists a directory, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>>;

    /// Asks how much room the file system has.
    fn space(&self) -> io::Result<Space>;
}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Appends all of these bytes. They can be read, and count in the length, after [`Self::sync`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes content and length durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Fills the buffer from this offset; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Its length in bytes.
    fn size_bytes(&self) -> io::Result<u64>;

    /// Whether only its owner may read it.
    fn is_private(&self) -> io::Result<bool>;
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEntry {
    /// The name, which may be anything.
    pub name: OsString,
    /// Whether it is a plain file.
    pub is_file: bool,
}

/// Reads a small private file whole, or nothing when it does not exist.
///
/// # Errors
/// When it cannot be read, is longer than `max_bytes`, or may be read by others.
pub fn read_private(disk: &dyn Disk, path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.is_private()? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "others may read it; its mode must be 0600"));
    }
    let size = file.size_bytes()?;
    if size > max_bytes {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// Writes a small private file in the data directory: afterwards the whole of it is durable, and at no moment is a part
/// of it seen.
///
/// # Errors
/// When the disk fails; the old content stays.
pub fn write_private(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temp = path.with_extension("new");
    match disk.remove(&temp) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk.create(&temp)?;
    file.write(bytes)?;
    file.sync()?;
    drop(file);
    disk.rename(&temp, path)?;
    disk.sync_dir(Path::new(""))
}
