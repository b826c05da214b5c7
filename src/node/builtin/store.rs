//! The store: which packs there are, reading them, dropping them, and how much room is left. Writing is in `write`.
//!
//! Locks are held for moments, never over a call to the disk. What one pack is being changed by is its claim: a second
//! change of the same pack meanwhile is refused as busy.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};
use super::layout::{Layout, LayoutCache, LayoutError};
use crate::car::CarError;
use crate::id::{ChunkId, PackRoot, sha256};
use crate::pack::{NotAPack, PackHeader};

/// Free space that is never used up by packs: this, or a twentieth of the file system if that is more.
const MIN_RESERVE_BYTES: u64 = 1 << 30;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed.
    #[error("the disk failed while {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The disk's word.
        source: io::Error,
    },
    /// There is no room for it.
    #[error("node is full ({0})")]
    Full(String),
    /// The pack or chunk is not here.
    #[error("{0} is not here")]
    Absent(String),
    /// The stored bytes are not those that the name says; none of them was given out.
    #[error("the stored bytes of {0} are corrupt")]
    Corrupt(String),
    /// The pack is being written, replaced or dropped by another request.
    #[error("pack {0} is being changed by another request")]
    Busy(PackRoot),
    /// What arrived is no CAR that is accepted here.
    #[error("the pack is refused: {0}")]
    Car(#[from] CarError),
    /// What arrived has a root block that is no pack's.
    #[error("the pack is refused: {0}")]
    NotAPack(#[from] NotAPack),
    /// What arrived or was asked differs from what was permitted or announced.
    #[error("refused: {0}")]
    Refused(&'static str),
}

/// `EIO`, the same on Linux, macOS and the BSDs.
pub(super) const UNREADABLE: i32 = 5;

impl StoreError {
    /// Whether the disk could not read what it has, which says nothing of the rest of it.
    pub fn is_of_a_sector(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(UNREADABLE))
    }

    pub(super) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// The bounds of a store.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// The most bytes that packs may use; nothing for what the disk has.
    pub capacity_bytes: Option<u64>,
    /// The most memory for parsed headers, in bytes.
    pub cache_bytes: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { capacity_bytes: None, cache_bytes: 16 << 20 }
    }
}

/// What was found when a store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// Packs that it holds.
    pub packs: u64,
    /// Packs among them whose header the disk cannot read now, though it reads others.
    pub unreadable: u64,
    /// Foreign or damaged files that were set aside in this start, under `aside/`.
    pub set_aside: u64,
    /// Unfinished writes that were removed.
    pub unfinished: u64,
}

/// How full a store is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Used by packs.
    pub used_bytes: u64,
    /// What it may use: the configured capacity, else what it uses and could still take.
    pub capacity_bytes: u64,
    /// What it can still take, by the smaller of its capacity and its disk less the reserve.
    pub free_bytes: u64,
    /// The size of the file system.
    pub total_bytes: u64,
}

/// Packs in a directory. See the module's parent for what always holds.
#[derive(Debug)]
pub struct Store {
    pub(super) disk: Arc<dyn Disk>,
    limits: StoreLimits,
    state: Mutex<State>,
    cache: Mutex<LayoutCache>,
    syncs: AtomicU64,
    temps: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    packs: HashMap<PackRoot, u64>,
    used_bytes: u64,
    reserved_bytes: u64,
    busy: HashSet<PackRoot>,
    /// Packs that are not listed but may still have a file, now or after a crash: a write or a removal failed half-way.
    /// Empty unless the disk fails.
    unsettled: HashSet<PackRoot>,
}

impl State {
    fn insert(&mut self, root: PackRoot, bytes: u64) {
        self.used_bytes += bytes;
        self.used_bytes -= self.packs.insert(root, bytes).unwrap_or(0);
    }
}

impl Store {
    /// Opens the store on a disk: removes unfinished writes, reads the header of every pack, and sets aside (never
    /// deletes) whatever has not a pack's name, place, length or root. A pack whose header is on a bad sector stays where it
    /// is, and what is there is not given out.
    ///
    /// # Errors
    /// When the disk fails, or can read no pack's header at all.
    pub fn open(disk: Arc<dyn Disk>, limits: StoreLimits) -> Result<(Self, OpenReport), StoreError> {
        let store = Self {
            disk,
            limits,
            state: Mutex::default(),
            cache: Mutex::new(LayoutCache::new(limits.cache_bytes)),
            syncs: AtomicU64::new(0),
            temps: AtomicU64::new(0),
        };
        let mut report = OpenReport::default();
        store.make_dirs(&mut report).map_err(StoreError::io("making the data directory"))?;
        store.clear_incoming(&mut report).map_err(StoreError::io("removing unfinished writes"))?;
        store.find_packs(&mut report)?;
        Ok((store, report))
    }

    /// Whether it has this pack.
    pub fn holds(&self, root: &PackRoot) -> bool {
        self.state().packs.contains_key(root)
    }

    /// The roots of all packs, in no order.
    pub fn packs(&self) -> Vec<PackRoot> {
        self.state().packs.keys().copied().collect()
    }

    /// What a pack's root says, read from its file now and proved, and that the file has the pack's length: whatever is
    /// remembered of it. Of one that is damaged, nothing is remembered.
    ///
    /// # Errors
    /// [`StoreError::Absent`], [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn header(&self, root: PackRoot) -> Result<PackHeader, StoreError> {
        let file = self.open_pack(root)?;
        match Layout::load(&*file, root) {
            Ok(layout) => Ok(layout.header),
            Err(error) => {
                self.cache().remove(&root);
                Err(damaged(root, error))
            }
        }
    }

    /// Length of a chunk (or of the root block) that a pack has, without reading it.
    ///
    /// # Errors
    /// As [`Self::header`].
    pub fn size_of(&self, pack: PackRoot, digest: &[u8; 32]) -> Result<u64, StoreError> {
        let found = self.layout(pack)?.find(digest);
        found.map(|(_, bytes)| bytes).ok_or_else(|| StoreError::Absent(ChunkId::from_digest(*digest).to_string()))
    }

    /// Reads a chunk (or the root block) of a pack. The bytes are always those that the digest names.
    ///
    /// # Errors
    /// As [`Self::header`].
    pub fn read(&self, pack: PackRoot, digest: &[u8; 32]) -> Result<Vec<u8>, StoreError> {
        prove(self.read_unproved(pack, digest)?, digest)
    }

    /// The same for a reader that proves the bytes by itself: they are what the disk has in that place.
    ///
    /// # Errors
    /// As [`Self::header`].
    pub fn read_unproved(&self, pack: PackRoot, digest: &[u8; 32]) -> Result<Vec<u8>, StoreError> {
        let layout = self.layout(pack)?;
        let file = self.open_pack(pack)?;
        block_at(&*file, &layout, digest)
    }

    /// Some pack that has a chunk with this digest. Looks into every pack, so it is slow.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn find(&self, digest: &[u8; 32]) -> Result<Option<PackRoot>, StoreError> {
        let mut unread = None;
        for root in self.packs() {
            match self.layout(root) {
                Ok(layout) if layout.find(digest).is_some() => return Ok(Some(root)),
                Ok(_) | Err(StoreError::Absent(_) | StoreError::Corrupt(_)) => {}
                Err(error) if error.is_of_a_sector() => unread = Some(error),
                Err(error) => return Err(error),
            }
        }
        unread.map_or(Ok(None), Err)
    }

    /// Reads and hashes every block of a pack.
    ///
    /// # Errors
    /// As [`Self::header`]; the first corrupt chunk.
    pub fn verify(&self, root: PackRoot) -> Result<(), StoreError> {
        let file = self.open_pack(root)?;
        let layout = Layout::load(&*file, root).map_err(|error| damaged(root, error))?;
        read_block(&*file, &layout, root.digest())?;
        layout.header.entries.iter().try_for_each(|entry| read_block(&*file, &layout, entry.chunk.digest()).map(drop))
    }

    /// Removes a pack, durably. One that is absent is success.
    ///
    /// # Errors
    /// [`StoreError::Busy`], [`StoreError::Io`]; then it may be repeated.
    pub fn drop_pack(&self, root: PackRoot) -> Result<(), StoreError> {
        let _claim = self.claim(root)?;
        self.unlink(root)
    }

    /// How full it is.
    ///
    /// # Errors
    /// When the disk does not say.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let space = self.disk.space().map_err(StoreError::io("asking for free space"))?;
        let state = self.state();
        let by_disk = space.free_bytes.saturating_sub(reserve_bytes(space.total_bytes) + state.reserved_bytes);
        let taken = state.used_bytes + state.reserved_bytes;
        let free_bytes = self.limits.capacity_bytes.map_or(by_disk, |most| most.saturating_sub(taken).min(by_disk));
        Ok(Usage {
            used_bytes: state.used_bytes,
            capacity_bytes: self.limits.capacity_bytes.unwrap_or(state.used_bytes + free_bytes),
            free_bytes,
            total_bytes: space.total_bytes,
        })
    }

    /// Syncs of files and directories since it was opened.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Refuses what has no room now.
    ///
    /// # Errors
    /// [`StoreError::Full`], [`StoreError::Io`].
    pub fn check_room(&self, bytes: u64) -> Result<(), StoreError> {
        let free = self.usage()?.free_bytes;
        if bytes > free {
            return Err(StoreError::Full(format!("{bytes} bytes wanted, {free} free above the reserve")));
        }
        Ok(())
    }

    pub(super) fn sync_file(&self, file: &mut dyn DiskFile) -> Result<(), StoreError> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        file.sync().map_err(StoreError::io("syncing a pack"))
    }

    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.disk.sync_dir(path).map_err(StoreError::io("syncing a directory"))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_temp(&self) -> PathBuf {
        Path::new("incoming").join(format!("{}.car", self.temps.fetch_add(1, Ordering::Relaxed)))
    }

    /// Takes the exclusive right to change a pack, until the claim is dropped.
    pub(super) fn claim(&self, root: PackRoot) -> Result<Claim<'_>, StoreError> {
        self.mark_busy(root)?;
        Ok(Claim { store: self, root })
    }

    pub(super) fn mark_busy(&self, root: PackRoot) -> Result<(), StoreError> {
        if self.state().busy.insert(root) { Ok(()) } else { Err(StoreError::Busy(root)) }
    }

    pub(super) fn mark_idle(&self, root: &PackRoot) {
        self.state().busy.remove(root);
    }

    /// Sets room aside for a write that is about to begin; [`Self::release_room`] gives it back.
    pub(super) fn reserve_room(&self, bytes: u64) -> Result<(), StoreError> {
        let space = self.disk.space().map_err(StoreError::io("asking for free space"))?;
        let mut state = self.state();
        let free = space.free_bytes.saturating_sub(reserve_bytes(space.total_bytes) + state.reserved_bytes);
        if bytes > free {
            return Err(StoreError::Full(format!("{bytes} bytes wanted, its disk has {free} above the reserve")));
        }
        if let Some(most) = self.limits.capacity_bytes {
            let left = most.saturating_sub(state.used_bytes + state.reserved_bytes);
            if bytes > left {
                return Err(StoreError::Full(format!("{bytes} bytes wanted, {left} of its capacity left")));
            }
        }
        state.reserved_bytes += bytes;
        Ok(())
    }

    pub(super) fn release_room(&self, bytes: u64) {
        self.state().reserved_bytes -= bytes;
    }

    /// Takes note of a pack whose file is durable.
    pub(super) fn add(&self, root: PackRoot, bytes: u64) {
        self.cache().remove(&root);
        let mut state = self.state();
        state.insert(root, bytes);
        state.unsettled.remove(&root);
    }

    pub(super) fn open_pack(&self, root: PackRoot) -> Result<Box<dyn DiskFile>, StoreError> {
        if !self.holds(&root) {
            return Err(StoreError::Absent(root.to_string()));
        }
        self.disk.open(&pack_path(&root)).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                // Somebody removed the file: from now on it is not listed either.
                self.forget(&root);
                return StoreError::Absent(root.to_string());
            }
            StoreError::Io { doing: "opening a pack", source: error }
        })
    }

    /// Says that a pack which is not listed may still have a file.
    pub(super) fn unsettle(&self, root: PackRoot) {
        self.state().unsettled.insert(root);
    }

    pub(super) fn unlink(&self, root: PackRoot) -> Result<(), StoreError> {
        if !self.holds(&root) && !self.state().unsettled.contains(&root) {
            return Ok(());
        }
        match self.disk.remove(&pack_path(&root)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Io { doing: "removing a pack", source: error });
            }
            _ => {}
        }
        self.forget(&root);
        self.unsettle(root);
        self.sync_dir(&pack_dir(root.digest()[0]))?;
        self.state().unsettled.remove(&root);
        Ok(())
    }

    fn forget(&self, root: &PackRoot) {
        self.cache().remove(root);
        let mut state = self.state();
        let bytes = state.packs.remove(root).unwrap_or(0);
        state.used_bytes -= bytes;
    }

    pub(super) fn layout(&self, root: PackRoot) -> Result<Arc<Layout>, StoreError> {
        if !self.holds(&root) {
            return Err(StoreError::Absent(root.to_string()));
        }
        if let Some(layout) = self.cache().get(&root) {
            return Ok(layout);
        }
        let file = self.open_pack(root)?;
        let layout = Arc::new(Layout::load(&*file, root).map_err(|error| damaged(root, error))?);
        self.cache().put(Arc::clone(&layout));
        Ok(layout)
    }

    fn cache(&self) -> MutexGuard<'_, LayoutCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_dirs(&self, report: &mut OpenReport) -> io::Result<()> {
        for dir in ["packs", "incoming", "aside"] {
            self.disk.create_dir(Path::new(dir))?;
        }
        let mut missing: HashSet<PathBuf> = (0..=u8::MAX).map(pack_dir).collect();
        for entry in self.disk.list(Path::new("packs"))? {
            let path = Path::new("packs").join(&entry.name);
            if entry.is_file || !missing.remove(&path) {
                self.set_aside(&path, report)?;
            }
        }
        missing.iter().try_for_each(|dir| self.disk.create_dir(dir))?;
        // Those that are there, too: a start that was killed may have made them, and not have come to this.
        self.disk.sync_dir(Path::new("packs"))?;
        self.disk.sync_dir(Path::new(""))
    }

    /// Makes a directory for packs that was there at the start.
    pub(super) fn make_dir_again(&self, dir: &Path) -> Result<(), StoreError> {
        let packs = Path::new("packs");
        let made = self.disk.create_dir(packs).and_then(|()| self.disk.create_dir(dir));
        made.map_err(StoreError::io("making a directory again"))?;
        self.sync_dir(packs)?;
        self.sync_dir(Path::new(""))
    }

    fn clear_incoming(&self, report: &mut OpenReport) -> io::Result<()> {
        let incoming = Path::new("incoming");
        for entry in self.disk.list(incoming)? {
            let path = incoming.join(&entry.name);
            if entry.is_file {
                self.disk.remove(&path)?;
                report.unfinished += 1;
            } else {
                self.set_aside(&path, report)?;
            }
        }
        Ok(())
    }

    fn find_packs(&self, report: &mut OpenReport) -> Result<(), StoreError> {
        let mut unreadable = Vec::new();
        for byte in 0..=u8::MAX {
            let dir = pack_dir(byte);
            let entries = self.disk.list(&dir).map_err(StoreError::io("listing packs"))?;
            // A process that ended between changing a name and syncing its directory left something not durable: a pack
            // that is listed now, or the absence of one whose removal would now be answered at once.
            self.sync_dir(&dir)?;
            for entry in entries {
                let path = dir.join(&entry.name);
                let root = entry.name.to_str().filter(|_| entry.is_file).and_then(|name| root_of(name, byte));
                match root.map(|root| (root, self.check(&path, root))) {
                    Some((root, Ok(bytes))) => {
                        self.state().insert(root, bytes);
                        report.packs += 1;
                    }
                    Some((root, Err(LayoutError::Io(error)))) => {
                        let error = StoreError::io("reading a pack")(error);
                        if !error.is_of_a_sector() {
                            return Err(error);
                        }
                        unreadable.push((root, error));
                    }
                    Some((_, Err(LayoutError::Damaged(_)))) | None => {
                        self.set_aside(&path, report).map_err(StoreError::io("setting a damaged file aside"))?;
                    }
                }
            }
        }
        if report.packs == 0
            && let Some((_, error)) = unreadable.pop()
        {
            return Err(error);
        }
        for (root, _) in unreadable {
            let bytes = self.disk.open(&pack_path(&root)).and_then(|file| file.size_bytes());
            self.state().insert(root, bytes.unwrap_or(0));
            report.packs += 1;
            report.unreadable += 1;
        }
        Ok(())
    }

    fn check(&self, path: &Path, root: PackRoot) -> Result<u64, LayoutError> {
        let file = self.disk.open(path).map_err(LayoutError::Io)?;
        Layout::load(&*file, root).map(|layout| layout.header.car_bytes())
    }

    fn set_aside(&self, path: &Path, report: &mut OpenReport) -> io::Result<()> {
        let aside = Path::new("aside");
        let taken: HashSet<_> = self.disk.list(aside)?.into_iter().map(|entry| entry.name).collect();
        let name = path.file_name().unwrap_or_default();
        // A name that grows too long for the file system is refused by it: the start fails, nothing is lost.
        let numbered = |number: u32| {
            let mut name = name.to_owned();
            name.push(format!(".{number}"));
            name
        };
        let name = (0..u32::MAX)
            .map(numbered)
            .find(|name| !taken.contains(name))
            .ok_or_else(|| io::Error::other("too many files aside"))?;
        self.disk.rename(path, &aside.join(name))?;
        report.set_aside += 1;
        Ok(())
    }
}

/// The exclusive right to change one pack.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    store: &'a Store,
    root: PackRoot,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.store.mark_idle(&self.root);
    }
}

/// The free space that packs may not use up, in bytes.
pub fn reserve_bytes(total_bytes: u64) -> u64 {
    MIN_RESERVE_BYTES.max(total_bytes / 20)
}

/// Where a pack is, relative to the data directory.
pub fn pack_path(root: &PackRoot) -> PathBuf {
    pack_dir(root.digest()[0]).join(format!("{root}.car"))
}

pub(super) fn pack_dir(byte: u8) -> PathBuf {
    Path::new("packs").join(format!("{byte:02x}"))
}

fn root_of(name: &str, dir: u8) -> Option<PackRoot> {
    let root: PackRoot = name.strip_suffix(".car")?.parse().ok()?;
    (root.digest()[0] == dir && format!("{root}.car") == name).then_some(root)
}

fn damaged(root: PackRoot, error: LayoutError) -> StoreError {
    match error {
        LayoutError::Io(error) => StoreError::Io { doing: "reading a pack's header", source: error },
        LayoutError::Damaged(how) => StoreError::Corrupt(format!("pack {root} ({how})")),
    }
}

pub(super) fn read_block(file: &dyn DiskFile, layout: &Layout, digest: &[u8; 32]) -> Result<Vec<u8>, StoreError> {
    prove(block_at(file, layout, digest)?, digest)
}

fn block_at(file: &dyn DiskFile, layout: &Layout, digest: &[u8; 32]) -> Result<Vec<u8>, StoreError> {
    let name = || ChunkId::from_digest(*digest).to_string();
    let (offset, bytes) = layout.find(digest).ok_or_else(|| StoreError::Absent(name()))?;
    let mut block = vec![0; usize::try_from(bytes).expect("a chunk is small")];
    match file.read_at(&mut block, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(StoreError::Corrupt(name())),
        Err(error) => Err(StoreError::Io { doing: "reading a chunk", source: error }),
        Ok(()) => Ok(block),
    }
}

fn prove(block: Vec<u8>, digest: &[u8; 32]) -> Result<Vec<u8>, StoreError> {
    if sha256(&block) == *digest {
        return Ok(block);
    }
    Err(StoreError::Corrupt(ChunkId::from_digest(*digest).to_string()))
}
