//! The [`Disk`] of a real node: a directory of the local file system, locked against a second process.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::disk::{Disk, DiskEntry, DiskFile};
use crate::failpoint::{Step, reached};
use crate::file_writer::FileWriter;
use crate::files;
use crate::machine::lock_alone;
use crate::space::Space;

/// A local directory. One process at a time has it open: the lock lives as long as this value.
#[derive(Debug)]
pub struct LocalDisk {
    root: PathBuf,
    _lock: File,
}

impl LocalDisk {
    /// Opens a directory, made when absent (for the owner alone), and locks it.
    ///
    /// # Errors
    /// When it cannot be made or locked; [`io::ErrorKind::WouldBlock`] when another process has it.
    pub fn open(root: &Path) -> io::Result<Self> {
        if !root.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(root)?;
            let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent)?.sync_all()?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(root.join("lock"))?;
        match lock_alone(&lock) {
            Ok(()) => Ok(Self { root: root.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, "another process uses this data directory"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Disk for LocalDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = self.root.join(path);
        match files::create_dir(DirBuilder::new().mode(0o700), &path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made,
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        reached(Step::Disk);
        let path = self.root.join(path);
        let file = files::create(OpenOptions::new().read(true).write(true).mode(0o600), &path)?;
        Ok(Box::new(LocalFile(FileWriter::new(file))))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::open(self.root.join(path))?;
        Ok(Box::new(LocalFile(FileWriter::new(file))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        reached(Step::Disk);
        files::rename(&self.root.join(from), &self.root.join(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        reached(Step::Disk);
        files::remove(&self.root.join(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        reached(Step::Disk);
        files::sync_dir(&self.root.join(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let entry = |entry: io::Result<std::fs::DirEntry>| {
            let entry = entry?;
            Ok(DiskEntry { name: entry.file_name(), is_file: entry.file_type()?.is_file() })
        };
        std::fs::read_dir(self.root.join(path))?.map(entry).collect()
    }

    fn space(&self) -> io::Result<Space> {
        Space::of(&self.root)
    }
}

#[derive(Debug)]
struct LocalFile(FileWriter);

impl DiskFile for LocalFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        reached(Step::Disk);
        self.0.flush()?;
        files::sync_content(self.0.file())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.file().read_exact_at(buffer, offset)
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.0.file().metadata()?.len())
    }

    fn is_private(&self) -> io::Result<bool> {
        Ok(self.0.file().metadata()?.mode() & 0o077 == 0)
    }
}
