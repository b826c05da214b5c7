//! Writing a pack as its bytes arrive, and replacing one by a smaller one.
//!
//! Order, which is what makes it crash-safe: hash every block, write to `incoming/`, sync the file, rename it to its
//! place, sync the directory, only then take note and answer. A replacement drops the old pack after all of that.

use std::path::PathBuf;
use std::sync::Arc;

use super::disk::DiskFile;
use super::store::{Store, StoreError, pack_dir, pack_path, read_block};
use crate::car;
use crate::id::{ChunkId, PackRoot, PoolId};
use crate::pack::PackHeader;
pub use crate::pack_reader::Scope;
use crate::pack_reader::{Arrived, PackReadError, PackReader, Part};

/// What became of the bytes that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// The pack is stored: every byte hashed and synced, now or when it was written before (then hashed again now).
    Pack {
        /// The pack.
        root: PackRoot,
        /// Length of its file.
        bytes: u64,
    },
    /// Only a root block arrived ([`Scope::Any`]); nothing was stored.
    RootOnly(PackHeader),
}

/// A write in progress. Dropping it unfinished leaves nothing behind. Holds at most one chunk and a small buffer.
#[derive(Debug)]
pub struct PackWriter {
    store: Arc<Store>,
    pool: PoolId,
    scope: Scope,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// It arrives.
    Arriving(Box<Arriving>),
    /// It is here already and proved; the rest of the body is let pass.
    Held { root: PackRoot, bytes: u64 },
    /// It has failed.
    Failed,
}

#[derive(Debug)]
struct Arriving {
    reader: PackReader,
    header: Option<PackHeader>,
    file: Option<NewFile>,
    /// Given up after the file, whose end belongs to the change.
    busy: Option<Busy>,
}

impl From<PackReadError> for StoreError {
    fn from(error: PackReadError) -> Self {
        match error {
            PackReadError::Car(error) => Self::Car(error),
            PackReadError::NotAPack(error) => Self::NotAPack(error),
            PackReadError::Refused(why) => Self::Refused(why),
        }
    }
}

impl Store {
    /// Begins to write a pack of this pool.
    ///
    /// # Errors
    /// [`StoreError::Full`] or [`StoreError::Io`] before anything needs to be sent.
    pub fn begin(self: &Arc<Self>, pool: PoolId, scope: Scope) -> Result<PackWriter, StoreError> {
        if let Scope::Pack { root, bytes } = scope
            && !self.holds(&root)
        {
            self.check_room(bytes)?;
        }
        let reader = PackReader::new(pool, scope);
        let progress = Progress::Arriving(Box::new(Arriving { reader, busy: None, header: None, file: None }));
        Ok(PackWriter { store: Arc::clone(self), pool, scope, progress })
    }

    /// Puts a smaller pack in the place of an old one: the kept chunks are read, hashed and durably in the new pack
    /// before the old one is dropped. A repetition after success is success.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when neither is here, [`StoreError::Corrupt`] when a kept chunk is (then nothing changes),
    /// [`StoreError::Refused`] when the new one is of another pool or has chunks that the old one has not.
    pub fn replace(self: &Arc<Self>, pool: PoolId, old: PackRoot, new: &PackHeader) -> Result<(), StoreError> {
        if new.pool != pool {
            return Err(StoreError::Refused("the new pack is of another pool"));
        }
        let root = new.root();
        if root == old {
            return self.verify(old);
        }
        let _old_claim = self.claim(old)?;
        let busy = Busy::new(self, root)?;
        if self.holds(&root) {
            self.make_sure(root)?;
        } else {
            self.copy_kept(old, new, busy)?;
        }
        self.unlink(old)
    }

    fn copy_kept(self: &Arc<Self>, old: PackRoot, new: &PackHeader, busy: Busy) -> Result<(), StoreError> {
        let layout = self.layout(old)?;
        let source = self.open_pack(old)?;
        // It is to make room, so it may use the reserve for the moment until the old pack is dropped.
        let space = self.disk.space().map_err(StoreError::io("asking for free space"))?;
        if new.car_bytes() > space.free_bytes {
            return Err(StoreError::Full("no room for the smaller pack beside the old one".to_owned()));
        }
        let mut file = NewFile::create(self, new, 0)?;
        for entry in &new.entries {
            let kept = layout.find(entry.chunk.digest()).is_some_and(|(_, bytes)| bytes == entry.bytes);
            if !kept || entry.chunk.digest() == old.digest() {
                return Err(StoreError::Refused("the new pack has a chunk that the old one has not"));
            }
            file.block(&entry.chunk, &read_block(&*source, &layout, entry.chunk.digest())?)?;
        }
        file.finish(busy.root, new.car_bytes())
    }

    /// Proves a held pack, and that it is durable whatever happened when it was written.
    fn make_sure(&self, root: PackRoot) -> Result<(), StoreError> {
        self.verify(root)?;
        self.sync_file(&mut *self.open_pack(root)?)?;
        self.sync_dir(&pack_dir(root.digest()[0]))
    }
}

impl PackWriter {
    /// Takes bytes as they arrive; about half a mebibyte at a time is best.
    ///
    /// # Errors
    /// As soon as the bytes cannot be what is permitted, or the disk fails. After that only the error remains.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.progress = match std::mem::replace(&mut self.progress, Progress::Failed) {
            Progress::Arriving(arriving) => self.take(arriving, bytes)?,
            held @ Progress::Held { .. } => held,
            Progress::Failed => return Err(failed_before()),
        };
        Ok(())
    }

    /// Ends the body; afterwards the pack is durable.
    ///
    /// # Errors
    /// When the body ended too early, or the disk fails; then nothing is stored.
    pub fn finish(self) -> Result<Written, StoreError> {
        let Arriving { reader, busy: _busy, file, .. } = match self.progress {
            Progress::Held { root, bytes } => return Ok(Written::Pack { root, bytes }),
            Progress::Failed => return Err(failed_before()),
            Progress::Arriving(arriving) => *arriving,
        };
        match reader.finish()? {
            Arrived::RootOnly(header) => Ok(Written::RootOnly(header)),
            Arrived::Pack { root, header } => {
                let bytes = header.car_bytes();
                let file = match file {
                    Some(file) => file,
                    None => NewFile::create(&self.store, &header, bytes)?,
                };
                file.finish(root, bytes)?;
                Ok(Written::Pack { root, bytes })
            }
        }
    }

    fn take(&self, mut arriving: Box<Arriving>, bytes: &[u8]) -> Result<Progress, StoreError> {
        arriving.reader.push(bytes)?;
        while let Some(part) = arriving.reader.next()? {
            match part {
                Part::Root(root) => {
                    arriving.busy = Some(Busy::new(&self.store, root)?);
                    if let Some(held) = self.held(root)? {
                        return Ok(held);
                    }
                }
                Part::Header(header) => arriving.header = Some(header),
                Part::Chunk(chunk, bytes) => {
                    let Arriving { header, file, .. } = &mut *arriving;
                    let file = match file {
                        Some(file) => file,
                        None => {
                            let header = header.as_ref().expect("the header comes before the chunks");
                            file.insert(NewFile::create(&self.store, header, header.car_bytes())?)
                        }
                    };
                    file.block(&chunk, &bytes)?;
                }
            }
        }
        Ok(Progress::Arriving(arriving))
    }

    /// Whether the pack is here already, sound and durable.
    fn held(&self, root: PackRoot) -> Result<Option<Progress>, StoreError> {
        if !self.store.holds(&root) {
            return Ok(None);
        }
        let header = self.store.header(root);
        let header = match header.and_then(|header| self.store.make_sure(root).map(|()| header)) {
            Ok(header) => header,
            // What is here is damaged: the arriving bytes take its place.
            Err(StoreError::Corrupt(_) | StoreError::Absent(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let bytes = header.car_bytes();
        if header.pool != self.pool {
            return Err(StoreError::Refused("the pack is of another pool"));
        }
        if matches!(self.scope, Scope::Pack { bytes: granted, .. } if granted != bytes) {
            return Err(StoreError::Refused("the pack has another length than granted"));
        }
        Ok(Some(Progress::Held { root, bytes }))
    }
}

const fn failed_before() -> StoreError {
    StoreError::Refused("the write has failed before")
}

/// The exclusive right to change one pack, owned.
#[derive(Debug)]
struct Busy {
    store: Arc<Store>,
    root: PackRoot,
}

impl Busy {
    fn new(store: &Arc<Store>, root: PackRoot) -> Result<Self, StoreError> {
        store.mark_busy(root)?;
        Ok(Self { store: Arc::clone(store), root })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.store.mark_idle(&self.root);
    }
}

/// A pack's file before it has its name. Dropped unfinished, it is removed.
#[derive(Debug)]
struct NewFile {
    store: Arc<Store>,
    file: Option<Box<dyn DiskFile>>,
    temp: PathBuf,
    reserved_bytes: u64,
}

impl NewFile {
    /// Makes the file, with the CAR header and the root block, after room was set aside.
    fn create(store: &Arc<Store>, header: &PackHeader, reserve_bytes: u64) -> Result<Self, StoreError> {
        store.reserve_room(reserve_bytes)?;
        let temp = store.next_temp();
        let mut new = Self { store: Arc::clone(store), file: None, temp, reserved_bytes: reserve_bytes };
        new.file = Some(store.disk.create(&new.temp).map_err(StoreError::io("making a file for a pack"))?);
        let block = header.root_block();
        let root = PackRoot::of(&block);
        new.append(&car::header(&root))?;
        new.append(&car::section_prefix(&root.cid(), block.len()))?;
        new.append(&block)?;
        Ok(new)
    }

    fn block(&mut self, chunk: &ChunkId, bytes: &[u8]) -> Result<(), StoreError> {
        self.append(&car::section_prefix(&chunk.cid(), bytes.len()))?;
        self.append(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let file = self.file.as_mut().expect("the file is open until it is finished");
        file.write(bytes).map_err(StoreError::io("writing a pack"))
    }

    fn finish(mut self, root: PackRoot, bytes: u64) -> Result<(), StoreError> {
        let mut file = self.file.take().expect("the file is open until it is finished");
        if let Err(error) = self.put_in_place(&mut *file, root, bytes) {
            self.file = Some(file);
            return Err(error);
        }
        self.store.add(root, bytes);
        Ok(())
    }

    fn put_in_place(&mut self, file: &mut dyn DiskFile, root: PackRoot, bytes: u64) -> Result<(), StoreError> {
        self.store.sync_file(file)?;
        let size = file.size_bytes().map_err(StoreError::io("measuring a pack"))?;
        if size != bytes {
            return Err(StoreError::Refused("the file has another length than the pack"));
        }
        let place = pack_path(&root);
        match self.store.disk.rename(&self.temp, &place) {
            // Somebody emptied the disk under it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.store.make_dir_again(&pack_dir(root.digest()[0]))?;
                self.store.disk.rename(&self.temp, &place).map_err(StoreError::io("naming a pack"))?;
            }
            renamed => renamed.map_err(StoreError::io("naming a pack"))?,
        }
        // From here on a removal of what is unfinished means this name; a file that was there before was damaged.
        self.temp = place;
        self.store.unsettle(root);
        self.store.sync_dir(&pack_dir(root.digest()[0]))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        self.store.release_room(self.reserved_bytes);
        if self.file.take().is_some() {
            // What cannot be removed now is removed at the next start.
            let _ = self.store.disk.remove(&self.temp);
        }
    }
}
