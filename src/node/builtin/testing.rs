//! What the tests of the built-in node share: packs made from numbers, stores on a disk in memory.

use std::sync::Arc;

use bytes::Bytes;

use super::memory_disk::MemoryDisk;
use super::store::{OpenReport, Store, StoreError, StoreLimits};
use super::write::{Scope, Written};
use crate::id::{ChunkId, PackId, PackRoot, PoolId};
use crate::pack::{Pack, PackEntry, PackHeader};

pub const GIB: u64 = 1 << 30;

pub fn pool() -> PoolId {
    PoolId::from_bytes([1; 16])
}

pub fn chunk(seed: u64, bytes: usize) -> Bytes {
    let word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    word.iter().copied().cycle().take(bytes).collect()
}

pub fn pack_of(id: u64, chunks: &[Bytes]) -> Pack {
    let entry = |bytes: &Bytes| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
    let entries = chunks.iter().map(entry).collect();
    Pack::new(PackHeader { pool: pool(), epoch: 1, id: PackId::new(id), entries }, chunks.to_vec())
}

/// A pack of chunks of different sizes, the empty one and one above the write buffer among them.
pub fn pack(id: u64) -> Pack {
    sized_pack(id, &[0, 1, 700, 4096, 300 << 10])
}

/// A pack of small chunks.
pub fn small_pack(id: u64) -> Pack {
    sized_pack(id, &[0, 1, 40, 100])
}

fn sized_pack(id: u64, sizes: &[usize]) -> Pack {
    let chunks: Vec<_> = sizes.iter().zip(id * 10 + 1..).map(|(size, seed)| chunk(seed, *size)).collect();
    pack_of(id, &chunks)
}

pub fn open(disk: &MemoryDisk) -> (Arc<Store>, OpenReport) {
    let (store, report) = Store::open(Arc::new(disk.clone()), StoreLimits::default()).unwrap();
    (Arc::new(store), report)
}

pub fn scope(pack: &Pack) -> Scope {
    Scope::Pack { root: pack.root(), bytes: pack.header().car_bytes() }
}

pub fn send(store: &Arc<Store>, scope: Scope, car: &[u8]) -> Result<Written, StoreError> {
    let mut writer = store.begin(pool(), scope)?;
    car.chunks(100_000).try_for_each(|bytes| writer.push(bytes))?;
    writer.finish()
}

pub fn write(store: &Arc<Store>, pack: &Pack) -> Result<Written, StoreError> {
    send(store, scope(pack), &pack.car().concat())
}

pub fn assert_held(store: &Store, pack: &Pack) {
    assert!(store.holds(&pack.root()));
    for (entry, bytes) in pack.header().entries.iter().zip(pack.chunks()) {
        assert_eq!(store.read(pack.root(), entry.chunk.digest()).unwrap(), *bytes);
    }
    store.verify(pack.root()).unwrap();
}

/// The pack with only these of its chunks, under another number.
pub fn reduced(pack: &Pack, id: u64, keep: impl Fn(usize) -> bool) -> Pack {
    let kept: Vec<_> = pack.chunks().iter().enumerate().filter(|(at, _)| keep(*at)).map(|(_, c)| c.clone()).collect();
    pack_of(id, &kept)
}

pub fn roots(store: &Store) -> Vec<PackRoot> {
    let mut roots = store.packs();
    roots.sort();
    roots
}
