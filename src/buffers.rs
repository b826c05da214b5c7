//! Chunk buffers that are used again. They are as large as a chunk and pass through many threads; given back to the system
//! and taken anew, they cost a pass of cleared pages each and leave the heap in pieces, more of them the longer a put is.
//!
//! The process has one store of them, as it has one allocator; where it is not given back to, it is empty.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

/// Buffers that are kept at most.
const KEPT: usize = 64;
/// Smaller buffers than this are left to the system.
const WORTHWHILE: usize = 256 << 10;

static FREE: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// An empty buffer of at least this capacity.
pub(crate) fn take(capacity: usize) -> BytesMut {
    let free = if capacity < WORTHWHILE { None } else { free().pop() };
    free.filter(|buffer| buffer.capacity() >= capacity).unwrap_or_else(|| BytesMut::with_capacity(capacity))
}

/// Takes a buffer back, if nobody else holds it.
pub(crate) fn give(bytes: Bytes) {
    let Ok(mut buffer) = bytes.try_into_mut() else { return };
    if buffer.capacity() < WORTHWHILE {
        return;
    }
    buffer.clear();
    let mut free = free();
    if free.len() < KEPT {
        free.push(buffer);
    }
}

fn free() -> MutexGuard<'static, Vec<BytesMut>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests take and give meanwhile, so a size that only this one asks for.
    #[test]
    fn a_buffer_comes_back_empty_and_only_when_nobody_has_it() {
        let mut one = take(9 << 20);
        one.extend_from_slice(b"x");
        let place = one.as_ptr();
        let bytes = one.freeze();
        let held = bytes.clone();
        give(bytes);
        assert!(free().iter().all(|buffer| buffer.as_ptr() != place), "somebody still reads it");
        give(held);
        let mut free = free();
        let again = free.iter().position(|buffer| buffer.as_ptr() == place).map(|at| free.swap_remove(at));
        assert!(again.is_none_or(|again| again.is_empty()));
    }
}
