//! Chunking: a stream of bytes becomes chunks of a fixed size, the last one shorter. Pure.
//!
//! Memory is bounded by one chunk and by what was pushed and not yet taken.

use std::collections::VecDeque;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::BytesMut;

use crate::seal::OVERHEAD;

/// Cuts a stream into chunks: push what arrives, take what is full, finish.
///
/// Every chunk has room for [`OVERHEAD`] more bytes, so that sealing appends its tag without copying. A small file costs
/// a small buffer.
#[derive(Debug)]
pub struct Chunker {
    chunk_size: usize,
    filling: BytesMut,
    full: VecDeque<BytesMut>,
}

impl Chunker {
    /// Cuts into chunks of so many bytes.
    ///
    /// # Panics
    /// When that is 0.
    pub fn new(chunk_size: usize) -> Self {
        assert!(chunk_size > 0, "a chunk has at least one byte");
        Self { chunk_size, filling: BytesMut::new(), full: VecDeque::new() }
    }

    /// Adds bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(self.chunk_size - self.filling.len()));
            self.make_room(now.len());
            self.filling.extend_from_slice(now);
            if self.filling.len() == self.chunk_size {
                self.full.push_back(std::mem::take(&mut self.filling));
            }
            rest = later;
        }
    }

    /// Takes the next full chunk, if there is one.
    #[expect(clippy::should_implement_trait, reason = "None means more bytes are needed, not the end")]
    pub fn next(&mut self) -> Option<BytesMut> {
        self.full.pop_front()
    }

    /// Ends the stream: the last, shorter chunk; nothing when the stream was empty or ended with a full chunk.
    ///
    /// # Panics
    /// When full chunks have not been taken: they would be lost.
    pub fn finish(self) -> Option<BytesMut> {
        assert!(self.full.is_empty(), "full chunks are taken before the end");
        (!self.filling.is_empty()).then_some(self.filling)
    }

    /// Allocates as much as the first bytes of a chunk need, and a whole chunk when more come: one copy at most.
    fn make_room(&mut self, more: usize) {
        let needed = self.filling.len() + more + OVERHEAD;
        if self.filling.capacity() < needed {
            let first = self.filling.is_empty();
            let mut larger = BytesMut::with_capacity(if first { needed } else { self.chunk_size + OVERHEAD });
            larger.extend_from_slice(&self.filling);
            self.filling = larger;
        }
    }
}

/// The SHA-256 of a whole file, as its bytes pass by.
#[derive(Clone)]
pub struct FileHash(Context);

impl FileHash {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The SHA-256 of all bytes added.
    pub fn finish(self) -> [u8; 32] {
        self.0.finish().as_ref().try_into().expect("a SHA-256 has 32 bytes")
    }
}

impl Default for FileHash {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FileHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::id::sha256;

    proptest! {
        #[test]
        fn chunks_are_the_stream_cut_at_every_multiple(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            chunk_size in 1usize..200,
        ) {
            let whole = pieces.concat();
            let (mut chunker, mut hash, mut chunks) = (Chunker::new(chunk_size), FileHash::new(), Vec::new());
            for piece in &pieces {
                chunker.push(piece);
                hash.update(piece);
                while let Some(chunk) = chunker.next() {
                    prop_assert_eq!(chunk.len(), chunk_size);
                    chunks.push(chunk);
                }
            }
            chunks.extend(chunker.finish());
            prop_assert!(chunks.iter().all(|chunk| chunk.capacity() >= chunk.len() + OVERHEAD));
            let expected: Vec<&[u8]> = whole.chunks(chunk_size).collect();
            prop_assert_eq!(chunks, expected);
            prop_assert_eq!(hash.finish(), sha256(&whole));
        }
    }

    #[test]
    fn an_empty_stream_has_no_chunk_and_a_small_one_a_small_buffer() {
        assert_eq!(Chunker::new(1 << 20).finish(), None);
        let mut chunker = Chunker::new(1 << 20);
        chunker.push(&[1; 4096]);
        assert_eq!(chunker.next(), None);
        assert!(chunker.finish().unwrap().capacity() < 8192);
    }

    #[test]
    fn sealing_a_chunk_moves_nothing() {
        let mut chunker = Chunker::new(1000);
        chunker.push(&[7; 600]);
        chunker.push(&[7; 600]);
        for chunk in [chunker.next().unwrap(), chunker.finish().unwrap()] {
            let at = chunk.as_ptr();
            assert_eq!(crate::seal::seal(&crate::seal::Key::from_bytes([0; 32]), chunk).bytes.as_ptr(), at);
        }
    }
}
