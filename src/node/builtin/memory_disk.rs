//! A [`Disk`] in memory that forgets on a crash exactly what was not synced, and that can stop working at any call.
//!
//! A name survives [`MemoryDisk::crash`] if its directory was synced since; bytes survive if their file was.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskEntry, DiskFile};
use super::store::UNREADABLE;
use crate::space::Space;

/// A directory tree in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct MemoryDisk(Arc<Mutex<Tree>>);

type Names = BTreeMap<PathBuf, Arc<Mutex<Content>>>;

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Debug)]
struct Tree {
    names: Names,
    durable: Names,
    dirs: BTreeSet<PathBuf>,
    total_bytes: u64,
    taken_bytes: u64,
    changes: u64,
    stop_at: Option<u64>,
    unreadable: bool,
    bad: BTreeSet<PathBuf>,
}

impl MemoryDisk {
    /// An empty disk of this size.
    pub fn new(total_bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(Tree {
            names: Names::new(),
            durable: Names::new(),
            dirs: BTreeSet::from([PathBuf::new()]),
            total_bytes,
            taken_bytes: 0,
            changes: 0,
            stop_at: None,
            unreadable: false,
            bad: BTreeSet::new(),
        })))
    }

    /// Says how many bytes others use on it.
    pub fn take(&self, bytes: u64) {
        self.tree().taken_bytes = bytes;
    }

    /// Calls so far that change something (creations, writes, syncs, renames, removals).
    pub fn changes(&self) -> u64 {
        self.tree().changes
    }

    /// Lets only so many more changing calls succeed, until [`Self::crash`].
    pub fn stop_after(&self, changes: u64) {
        let mut tree = self.tree();
        tree.stop_at = Some(tree.changes + changes);
    }

    /// Says whether every opening and reading of a file fails.
    pub fn set_unreadable(&self, unreadable: bool) {
        self.tree().unreadable = unreadable;
    }

    /// Says whether a file is on a bad sector: it is there, and opening it fails as reading would.
    pub fn set_bad(&self, path: &Path, bad: bool) {
        let mut tree = self.tree();
        // It may be so already.
        let _ = if bad { tree.bad.insert(path.to_owned()) } else { tree.bad.remove(path) };
    }

    /// Loses everything that was not synced, and works again. Open files no longer belong to it.
    pub fn crash(&self) {
        let mut tree = self.tree();
        let survivor = |(path, content): (&PathBuf, &Arc<Mutex<Content>>)| {
            let synced = lock(content).synced.clone();
            (path.clone(), Arc::new(Mutex::new(Content { bytes: synced.clone(), synced })))
        };
        let names: Names = tree.durable.iter().map(survivor).collect();
        tree.durable = names.clone();
        tree.names = names;
        tree.stop_at = None;
    }

    /// The bytes of a file.
    pub fn get(&self, path: &Path) -> Option<Vec<u8>> {
        self.tree().names.get(path).map(|content| lock(content).bytes.clone())
    }

    /// Writes a file past all rules, durably: what damage and foreign hands do.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let content = Arc::new(Mutex::new(Content { synced: bytes.clone(), bytes }));
        let mut tree = self.tree();
        tree.names.insert(path.to_owned(), Arc::clone(&content));
        tree.durable.insert(path.to_owned(), content);
    }

    /// Every file's path.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.tree().names.keys().cloned().collect()
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.0)
    }

    fn readable(&self) -> io::Result<MutexGuard<'_, Tree>> {
        let tree = self.tree();
        if tree.unreadable { Err(io::Error::other("the disk cannot be read")) } else { Ok(tree) }
    }

    fn change(&self) -> io::Result<MutexGuard<'_, Tree>> {
        let mut tree = self.tree();
        if tree.stop_at.is_some_and(|stop| tree.changes >= stop) {
            return Err(io::Error::other("the disk has stopped"));
        }
        tree.changes += 1;
        Ok(tree)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absent() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for MemoryDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?.dirs.insert(path.to_owned());
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut tree = self.change()?;
        if tree.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|parent| tree.dirs.contains(parent)) {
            return Err(absent());
        }
        let content = Arc::<Mutex<Content>>::default();
        tree.names.insert(path.to_owned(), Arc::clone(&content));
        Ok(Box::new(MemoryFile { disk: self.clone(), content }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let tree = self.readable()?;
        if tree.bad.contains(path) {
            return Err(io::Error::from_raw_os_error(UNREADABLE));
        }
        let content = Arc::clone(tree.names.get(path).ok_or_else(absent)?);
        drop(tree);
        Ok(Box::new(MemoryFile { disk: self.clone(), content }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.change()?;
        let content = tree.names.remove(from).ok_or_else(absent)?;
        tree.names.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?.names.remove(path).map(drop).ok_or_else(absent)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.change()?;
        let inside = |file: &Path| file.parent() == Some(path);
        let now: Vec<_> =
            tree.names.iter().filter(|(file, _)| inside(file)).map(|(p, c)| (p.clone(), c.clone())).collect();
        tree.durable.retain(|file, _| !inside(file));
        tree.durable.extend(now);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DiskEntry>> {
        let tree = self.tree();
        let name = |entry: &PathBuf| entry.file_name().map(ToOwned::to_owned).unwrap_or_default();
        let inside = |entry: &&PathBuf| entry.parent() == Some(path);
        let files = tree.names.keys().filter(inside).map(|file| DiskEntry { name: name(file), is_file: true });
        let dirs = tree.dirs.iter().filter(inside).map(|dir| DiskEntry { name: name(dir), is_file: false });
        Ok(files.chain(dirs).collect())
    }

    fn space(&self) -> io::Result<Space> {
        let tree = self.tree();
        let used: u64 = tree.names.values().map(|content| lock(content).bytes.len() as u64).sum();
        let free_bytes = tree.total_bytes.saturating_sub(used + tree.taken_bytes);
        Ok(Space { free_bytes, total_bytes: tree.total_bytes })
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    content: Arc<Mutex<Content>>,
}

impl DiskFile for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        drop(self.disk.change()?);
        lock(&self.content).bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        drop(self.disk.change()?);
        let mut content = lock(&self.content);
        content.synced = content.bytes.clone();
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        drop(self.disk.readable()?);
        let content = lock(&self.content);
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let until = from.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(content.bytes.get(from..until).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(lock(&self.content).bytes.len() as u64)
    }

    fn is_private(&self) -> io::Result<bool> {
        Ok(true)
    }
}
