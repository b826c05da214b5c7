//! UnixFS: the tree of blocks by which IPFS knows a public file. Pure.
//!
//! Byte for byte what `ipfs add` makes with CIDv1, raw leaves, a fixed chunk size and the balanced layout (the
//! `unixfs-v1-2025` profile has chunks of 1 MiB and [`WIDTH`] links a node): leaves are raw blocks; they are grouped level
//! by level, a lone trailing child too, so that all leaves are equally deep. A file of one chunk is that leaf, an empty
//! file the empty raw block. Memory is bounded by width and depth, not by the file.

use bytes::Bytes;
use cid::Cid;
use ipld_dagpb::{PbLink, PbNode};

use crate::id::{ChunkId, PackRoot};

/// Links of a node in the `unixfs-v1-2025` profile.
pub const WIDTH: usize = 1024;

/// An interior node: a block that holds no bytes of the file itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its bytes (dag-pb).
    pub block: Bytes,
    /// Its dag-pb CID, by which its parent links it.
    pub cid: Cid,
    /// Its name as a chunk: the same digest under a raw CID.
    pub chunk: ChunkId,
}

/// The root of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// Its CID: dag-pb, or raw when the file has less than two chunks.
    pub cid: Cid,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes of all blocks of the tree, each as often as it is linked (what IPFS calls the cumulative size).
    pub total: u64,
}

#[derive(Debug, Clone, Copy)]
struct Child {
    cid: Cid,
    size: u64,
    total: u64,
}

/// Builds the tree as leaves come, from the first to the last.
#[derive(Debug, Clone)]
pub struct FileDag {
    width: usize,
    /// Children without a parent, leaves first; every level has fewer than `width`, and the last at least one.
    levels: Vec<Vec<Child>>,
}

impl FileDag {
    /// Starts an empty file whose nodes have at most `width` links.
    ///
    /// # Panics
    /// When `width` is below 2.
    pub fn new(width: usize) -> Self {
        assert!(width >= 2, "a node has at least two links");
        Self { width, levels: Vec::new() }
    }

    /// Adds the next leaf, which is a chunk of so many bytes; returns the nodes that are complete with it, a child
    /// always before its parent.
    pub fn leaf(&mut self, chunk: &ChunkId, length: u64) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut child = Child { cid: chunk.cid(), size: length, total: length };
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(child);
            if self.levels[level].len() < self.width {
                break;
            }
            child = join(&std::mem::take(&mut self.levels[level]), &mut nodes);
        }
        nodes
    }

    /// Ends the file: the nodes that are still missing, and the root, which is the last of all nodes if there are any.
    pub fn finish(self) -> (Vec<Node>, Root) {
        let mut nodes = Vec::new();
        let mut carried: Option<Child> = None;
        let last = self.levels.len().saturating_sub(1);
        for (level, mut children) in self.levels.into_iter().enumerate() {
            children.extend(carried);
            carried = match children[..] {
                [] => None,
                [only] if level == last => Some(only),
                _ => Some(join(&children, &mut nodes)),
            };
        }
        let empty = Child { cid: ChunkId::of(b"").cid(), size: 0, total: 0 };
        let root = carried.unwrap_or(empty);
        (nodes, Root { cid: root.cid, size: root.size, total: root.total })
    }
}

/// Makes the parent of some children, adds it to the nodes, and returns it as a child of the next level.
fn join(children: &[Child], nodes: &mut Vec<Node>) -> Child {
    let size = children.iter().fold(0, |sum: u64, child| sum.saturating_add(child.size));
    // UnixFS `Data`: Type = File, filesize, then one blocksize for each child, not packed.
    let mut data = vec![0x08, 0x02, 0x18];
    put_varint(&mut data, size);
    for child in children {
        data.push(0x20);
        put_varint(&mut data, child.size);
    }
    // Kubo writes the empty name, although the specification would leave it out.
    let link = |child: &Child| PbLink { cid: child.cid, name: Some(String::new()), size: Some(child.total) };
    let links = children.iter().map(link).collect();
    let block = Bytes::from(PbNode { links, data: Some(data.into()) }.into_bytes());
    let chunk = ChunkId::of(&block);
    let cid = PackRoot::from_digest(*chunk.digest()).cid();
    let below = children.iter().fold(0, |sum: u64, child| sum.saturating_add(child.total));
    let total = below.saturating_add(block.len() as u64);
    nodes.push(Node { block, cid, chunk });
    Child { cid, size, total }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
#[path = "unixfs_tests.rs"]
mod tests;
