//! Chunk buffers that are used again. They are as large as a chunk and pass through many threads; given back to the system
//! and taken anew, they cost a pass of cleared pages each and leave the heap in pieces, more of them the longer a put is.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};

/// Buffers that are kept at most.
const KEPT: usize = 64;
/// Smaller buffers than this are left to the system.
const WORTHWHILE: usize = 256 << 10;

/// Buffers that are free; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<BytesMut>>>);

impl Buffers {
    /// An empty buffer of at least this capacity.
    pub(super) fn take(&self, capacity: usize) -> BytesMut {
        let free = if capacity < WORTHWHILE { None } else { self.lock().pop() };
        free.filter(|buffer| buffer.capacity() >= capacity).unwrap_or_else(|| BytesMut::with_capacity(capacity))
    }

    /// Takes a buffer back, if nobody else holds it.
    pub(super) fn give(&self, bytes: Bytes) {
        let Ok(mut buffer) = bytes.try_into_mut() else { return };
        if buffer.capacity() < WORTHWHILE {
            return;
        }
        buffer.clear();
        let mut free = self.lock();
        if free.len() < KEPT {
            free.push(buffer);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BytesMut>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_only_when_nobody_has_it() {
        let buffers = Buffers::default();
        let mut one = buffers.take(1 << 20);
        one.extend_from_slice(b"x");
        let place = one.as_ptr();
        let bytes = one.freeze();
        let held = bytes.clone();
        buffers.give(bytes);
        assert_ne!(buffers.take(1 << 20).as_ptr(), place, "somebody still reads it");
        buffers.give(held);
        let again = buffers.take(1 << 20);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }
}
