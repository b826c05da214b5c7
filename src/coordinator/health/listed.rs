//! What a node listed, in little memory: the nodes of a pool of ten million chunks list thirty million.

use std::hash::{BuildHasher, RandomState};

use crate::id::ChunkId;

/// Chunks that a node listed, each as 64 bits of a hash whose key is made for this listing and told to nobody. A chunk
/// that was not listed passes for one that was with a chance of one in a million millions where there are millions, and
/// in the next check with another: nobody can choose chunks that do.
#[derive(Debug, Default)]
pub(super) struct Listed {
    key: RandomState,
    marks: Vec<u64>,
}

impl Listed {
    /// Adds a chunk; one that comes again takes no more room.
    pub fn add(&mut self, chunk: &ChunkId) {
        if self.marks.len() == self.marks.capacity() {
            self.sort();
        }
        self.marks.push(self.key.hash_one(chunk));
    }

    /// To be called after the last chunk.
    pub fn settle(&mut self) {
        self.sort();
        self.marks.shrink_to_fit();
    }

    /// Whether a chunk was listed.
    pub fn contains(&self, chunk: &ChunkId) -> bool {
        self.marks.binary_search(&self.key.hash_one(chunk)).is_ok()
    }

    fn sort(&mut self) {
        self.marks.sort_unstable();
        self.marks.dedup();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_knows_what_was_listed_and_keeps_repetitions_once() {
        let chunk = |number: u64| ChunkId::of(&number.to_le_bytes());
        let mut listed = Listed::default();
        for _ in 0..100 {
            (0..1000).for_each(|number| listed.add(&chunk(number)));
        }
        assert!(listed.marks.capacity() <= 4096, "{}", listed.marks.capacity());
        listed.settle();
        assert_eq!(listed.marks.len(), 1000);
        assert!((0..1000).all(|number| listed.contains(&chunk(number))));
        assert!(!(1000..2000).any(|number| listed.contains(&chunk(number))));
    }
}
