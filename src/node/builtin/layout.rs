//! Where everything stands in a pack's file: parsed from the file's own beginning, kept in a cache of bounded size.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use super::disk::DiskFile;
use crate::car;
use crate::id::{PackRoot, sha256};
use crate::pack::{MAX_ROOT_BYTES, PackHeader};

/// A pack's header and the offsets that follow from it.
#[derive(Debug)]
pub(super) struct Layout {
    pub header: PackHeader,
    pub offsets: Vec<u64>,
    pub root: PackRoot,
    root_bytes: u64,
}

/// Why a file does not begin like this pack.
#[derive(Debug)]
pub(super) enum LayoutError {
    Io(io::Error),
    Damaged(&'static str),
}

impl Layout {
    /// Reads and proves the beginning of a pack's file, and that its length is the pack's.
    pub(super) fn load(file: &dyn DiskFile, root: PackRoot) -> Result<Self, LayoutError> {
        let before = car::header(&root);
        let mut start = vec![0; before.len() + 4];
        read(file, &mut start, 0)?;
        if start[..before.len()] != before[..] {
            return Err(LayoutError::Damaged("its CAR header is not this pack's"));
        }
        // The section's length is not yet proved; the largest that can be right bounds what is read.
        let section = section_length(&start[before.len()..])?;
        let block_bytes = section
            .checked_sub(root.cid().encoded_len())
            .filter(|bytes| *bytes <= MAX_ROOT_BYTES)
            .ok_or(LayoutError::Damaged("its root block has an impossible length"))?;
        let expected = car::section_prefix(&root.cid(), block_bytes);
        let mut block = vec![0; expected.len() + block_bytes];
        read(file, &mut block, before.len() as u64)?;
        let block = block.strip_prefix(&expected[..]).ok_or(LayoutError::Damaged("its first block is not its root"))?;
        if sha256(block) != *root.digest() {
            return Err(LayoutError::Damaged("its root block has other bytes than its name says"));
        }
        let header = PackHeader::parse(block).map_err(|_| LayoutError::Damaged("its root is no pack's"))?;
        if header.car_bytes() != file.size_bytes().map_err(LayoutError::Io)? {
            return Err(LayoutError::Damaged("its length is not the pack's"));
        }
        Ok(Self { offsets: header.offsets(), root, root_bytes: block.len() as u64, header })
    }

    /// Offset and length of the block with this digest: a chunk's or the root's.
    pub(super) fn find(&self, digest: &[u8; 32]) -> Option<(u64, u64)> {
        if digest == self.root.digest() {
            let section = car::section_bytes(self.root_bytes);
            return Some((car::header(&self.root).len() as u64 + section - self.root_bytes, self.root_bytes));
        }
        let at = self.header.entries.iter().position(|entry| entry.chunk.digest() == digest)?;
        Some((self.offsets[at], self.header.entries[at].bytes))
    }

    fn cost_bytes(&self) -> usize {
        300 + self.header.entries.len() * 48
    }
}

fn read(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> Result<(), LayoutError> {
    file.read_at(buffer, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => LayoutError::Damaged("it is cut short"),
        _ => LayoutError::Io(error),
    })
}

fn section_length(bytes: &[u8]) -> Result<usize, LayoutError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(LayoutError::Damaged("its root block has an impossible length"))
}

/// The layouts used last, within a number of bytes.
#[derive(Debug)]
pub(super) struct LayoutCache {
    max_bytes: usize,
    bytes: usize,
    clock: u64,
    layouts: HashMap<PackRoot, (u64, Arc<Layout>)>,
    by_use: BTreeMap<u64, PackRoot>,
}

impl LayoutCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, bytes: 0, clock: 0, layouts: HashMap::new(), by_use: BTreeMap::new() }
    }

    pub(super) fn get(&mut self, root: &PackRoot) -> Option<Arc<Layout>> {
        let (used, layout) = self.layouts.get_mut(root)?;
        self.by_use.remove(used);
        self.clock += 1;
        *used = self.clock;
        self.by_use.insert(self.clock, *root);
        Some(Arc::clone(layout))
    }

    pub(super) fn put(&mut self, layout: Arc<Layout>) {
        self.remove(&layout.root);
        self.clock += 1;
        self.bytes += layout.cost_bytes();
        self.by_use.insert(self.clock, layout.root);
        self.layouts.insert(layout.root, (self.clock, layout));
        while self.bytes > self.max_bytes {
            let Some(oldest) = self.by_use.first_key_value().map(|(_, root)| *root) else { break };
            self.remove(&oldest);
        }
    }

    pub(super) fn remove(&mut self, root: &PackRoot) {
        if let Some((used, layout)) = self.layouts.remove(root) {
            self.by_use.remove(&used);
            self.bytes -= layout.cost_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PackId, PoolId};

    #[test]
    fn the_cache_stays_within_its_bytes_and_keeps_what_was_used_last() {
        let layout = |id| {
            let header =
                PackHeader { pool: PoolId::from_bytes([1; 16]), epoch: 1, id: PackId::new(id), entries: vec![] };
            Arc::new(Layout { offsets: vec![], root: header.root(), root_bytes: 0, header })
        };
        let mut cache = LayoutCache::new(1000);
        let made: Vec<_> = (0..4).map(layout).collect();
        made[..3].iter().for_each(|one| cache.put(Arc::clone(one)));
        assert!(cache.get(&made[0].root).is_some());
        cache.put(Arc::clone(&made[3]));
        assert!(cache.bytes <= 1000);
        assert!(cache.get(&made[0].root).is_some(), "used last");
        assert!(cache.get(&made[1].root).is_none(), "the oldest");
        cache.put(Arc::clone(&made[3]));
        assert_eq!(cache.layouts.len(), cache.by_use.len());
    }
}
