//! Tests of the store: what it holds, what it refuses, what survives damage and crashes.

mod bounds;
mod identity;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use super::memory_disk::MemoryDisk;
use super::store::{Store, StoreError, StoreLimits, pack_path, reserve_bytes};
use super::testing::{GIB, assert_held, open, pack, pool, reduced, roots, scope, send, small_pack, write};
use super::write::{Scope, Written};
use crate::id::{PackRoot, PoolId};
use crate::pack::Pack;

#[test]
fn a_pack_is_the_cars_bytes_in_one_file_with_two_syncs() {
    let disk = MemoryDisk::new(100 * GIB);
    let (store, _) = open(&disk);
    let pack = pack(1);
    let before = store.syncs();
    assert_eq!(write(&store, &pack).unwrap(), Written::Pack { root: pack.root(), bytes: pack.header().car_bytes() });
    assert_eq!(store.syncs() - before, 2);
    assert_eq!(disk.get(&pack_path(&pack.root())).unwrap(), pack.car().concat());
    assert_held(&store, &pack);
    disk.crash();
    assert_held(&open(&disk).0, &pack);
    assert!(matches!(store.read(pack.root(), &[9; 32]), Err(StoreError::Absent(_))));
}

#[test]
fn whatever_differs_from_the_granted_pack_is_refused_and_leaves_nothing() {
    let disk = MemoryDisk::new(100 * GIB);
    let (store, _) = open(&disk);
    let (pack, other) = (pack(1), pack(2));
    let car = pack.car().concat();
    let mut bad: Vec<(Scope, Vec<u8>)> = vec![
        (scope(&pack), other.car().concat()),
        (scope(&pack), [car.clone(), vec![0]].concat()),
        (scope(&pack), Vec::new()),
        (Scope::Any, [car.clone(), other.car()[3..5].concat()].concat()),
        (Scope::Pack { root: pack.root(), bytes: car.len() as u64 + 1 }, car.clone()),
    ];
    for cut in [10, 59, 200, car.len() - 1] {
        bad.push((scope(&pack), car[..cut].to_vec()));
        let mut flipped = car.clone();
        flipped[cut] ^= 0x40;
        bad.push((scope(&pack), flipped.clone()));
        bad.push((Scope::Any, flipped));
    }
    let mut pieces = pack.car();
    pieces.swap(5, 7);
    pieces.swap(6, 8);
    bad.push((scope(&pack), pieces.concat()));
    for (number, (scope, bytes)) in bad.into_iter().enumerate() {
        assert!(send(&store, scope, &bytes).is_err(), "case {number}");
        assert!(disk.paths().is_empty(), "case {number} left {:?}", disk.paths());
    }
    let mut foreign = store.begin(PoolId::from_bytes([9; 16]), scope(&pack)).unwrap();
    assert!(foreign.push(&car).is_err());
    drop(foreign);
    assert_eq!(store.usage().unwrap().used_bytes, 0);
    write(&store, &pack).unwrap();
    assert_held(&store, &pack);
}

#[test]
fn one_pack_is_changed_by_one_request_at_a_time() {
    let (store, _) = open(&MemoryDisk::new(100 * GIB));
    let pack = pack(1);
    let mut writer = store.begin(pool(), scope(&pack)).unwrap();
    writer.push(&pack.car()[0]).unwrap();
    assert!(matches!(write(&store, &pack), Err(StoreError::Busy(_))));
    assert!(matches!(store.drop_pack(pack.root()), Err(StoreError::Busy(_))));
    drop(writer);
    write(&store, &pack).unwrap();
}

#[test]
fn writing_again_proves_what_is_there_and_heals_what_is_damaged() {
    let disk = MemoryDisk::new(100 * GIB);
    let (store, _) = open(&disk);
    let pack = pack(1);
    write(&store, &pack).unwrap();
    let changes = disk.changes();
    write(&store, &pack).unwrap();
    assert_eq!(disk.changes() - changes, 2, "synced again, not written again");
    let path = pack_path(&pack.root());
    let mut bytes = disk.get(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    disk.put(&path, bytes);
    assert!(matches!(store.verify(pack.root()), Err(StoreError::Corrupt(_))));
    write(&store, &pack).unwrap();
    assert_held(&store, &pack);
    assert_eq!(store.usage().unwrap().used_bytes, pack.header().car_bytes());
}

#[test]
fn corrupt_bytes_are_never_given_out() {
    let disk = MemoryDisk::new(100 * GIB);
    let (store, _) = open(&disk);
    let pack = pack(1);
    write(&store, &pack).unwrap();
    let path = pack_path(&pack.root());
    let good = disk.get(&path).unwrap();
    for at in (0..good.len()).step_by(997) {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        disk.put(&path, bytes);
        for (entry, chunk) in pack.header().entries.iter().zip(pack.chunks()) {
            match store.read(pack.root(), entry.chunk.digest()) {
                Ok(read) => assert_eq!(read, *chunk),
                Err(error) => assert!(matches!(error, StoreError::Corrupt(_)), "{error}"),
            }
        }
    }
    disk.put(&path, good[..good.len() / 2].to_vec());
    let last = pack.header().entries.last().unwrap();
    assert!(matches!(store.read(pack.root(), last.chunk.digest()), Err(StoreError::Corrupt(_))));
}

#[test]
fn a_start_sets_foreign_and_damaged_files_aside_and_deletes_none() {
    let disk = MemoryDisk::new(100 * GIB);
    let packs: Vec<_> = (1..=6).map(pack).collect();
    {
        let (store, _) = open(&disk);
        packs.iter().for_each(|pack| drop(write(&store, pack).unwrap()));
    }
    let path = |at: usize| pack_path(&packs[at].root());
    let damage = |at: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = disk.get(&path(at)).unwrap();
        change(&mut bytes);
        disk.put(&path(at), bytes);
    };
    damage(0, &|bytes| bytes.truncate(bytes.len() - 1));
    damage(1, &|bytes| bytes.push(0));
    damage(2, &|bytes| bytes[70] ^= 1);
    damage(3, &|bytes| bytes.clear());
    disk.put(&path(4), packs[5].car().concat());
    disk.put(Path::new("packs/00/notes.txt"), b"mine".to_vec());
    disk.put(Path::new("packs/notes.txt"), b"mine too".to_vec());
    disk.put(Path::new("incoming/7.car"), b"half".to_vec());
    let root = packs[5].root();
    let elsewhere = format!("packs/{:02x}/{root}.car", root.digest()[0] ^ 1);
    disk.put(Path::new(&elsewhere), packs[5].car().concat());
    let (store, report) = open(&disk);
    assert_eq!((report.packs, report.set_aside, report.unfinished), (1, 8, 1));
    assert_eq!(roots(&store), vec![packs[5].root()]);
    assert_held(&store, &packs[5]);
    assert_eq!(disk.paths().iter().filter(|path| path.starts_with("aside")).count(), 8);
    assert_eq!(open(&disk).1.set_aside, 0);
}

#[test]
fn capacity_and_reserve_are_kept_whoever_fills_the_disk() {
    let pack = pack(1);
    let bytes = pack.header().car_bytes();
    let limits = StoreLimits { capacity_bytes: Some(2 * bytes - 1), ..StoreLimits::default() };
    let store = Arc::new(Store::open(Arc::new(MemoryDisk::new(100 * GIB)), limits).unwrap().0);
    write(&store, &pack).unwrap();
    let again = super::testing::pack(2);
    assert!(matches!(write(&store, &again), Err(StoreError::Full(_))));
    assert!(matches!(send(&store, Scope::Any, &again.car().concat()), Err(StoreError::Full(_))));
    assert_eq!(store.usage().unwrap().free_bytes, bytes - 1);
    store.drop_pack(pack.root()).unwrap();
    write(&store, &again).unwrap();

    assert_eq!(reserve_bytes(10 * GIB), GIB);
    assert_eq!(reserve_bytes(100 * GIB), 5 * GIB);
    let disk = MemoryDisk::new(10 * GIB);
    let (store, _) = open(&disk);
    disk.take(9 * GIB - bytes + 1);
    assert!(matches!(write(&store, &pack), Err(StoreError::Full(_))));
    disk.take(9 * GIB - bytes);
    write(&store, &pack).unwrap();
    assert_eq!(store.usage().unwrap().free_bytes, 0);
    let smaller = reduced(&pack, 3, |at| at > 1);
    store.replace(pool(), pack.root(), smaller.header()).unwrap();
    assert_held(&store, &smaller);
}

#[test]
fn a_write_under_way_has_its_room_set_aside() {
    let pack = pack(1);
    let bytes = pack.header().car_bytes();
    let limits = StoreLimits { capacity_bytes: Some(bytes), ..StoreLimits::default() };
    let store = Arc::new(Store::open(Arc::new(MemoryDisk::new(100 * GIB)), limits).unwrap().0);
    let mut writer = store.begin(pool(), scope(&pack)).unwrap();
    writer.push(&pack.car()[..6].concat()).unwrap();
    assert!(matches!(write(&store, &super::testing::pack(2)), Err(StoreError::Full(_))));
    drop(writer);
    write(&store, &super::testing::pack(2)).unwrap();
}

#[test]
fn a_replacement_keeps_the_kept_chunks_and_may_be_repeated() {
    let disk = MemoryDisk::new(100 * GIB);
    let (store, _) = open(&disk);
    let old = pack(1);
    write(&store, &old).unwrap();
    let stranger = pack(2);
    assert!(matches!(store.replace(pool(), old.root(), stranger.header()), Err(StoreError::Refused(_))));
    let new = reduced(&old, 3, |at| at % 2 == 0);
    let root_only: Vec<u8> = new.car()[..3].concat();
    assert_eq!(send(&store, Scope::Any, &root_only).unwrap(), Written::RootOnly(new.header().clone()));
    for _ in 0..2 {
        store.replace(pool(), old.root(), new.header()).unwrap();
        assert_eq!(roots(&store), vec![new.root()]);
        assert_held(&store, &new);
    }
    let path = pack_path(&new.root());
    let mut bytes = disk.get(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    disk.put(&path, bytes);
    let without = reduced(&new, 4, |at| at == 0);
    let with = reduced(&new, 5, |at| at > 0);
    assert!(matches!(store.replace(pool(), new.root(), with.header()), Err(StoreError::Corrupt(_))));
    assert!(store.holds(&new.root()));
    store.replace(pool(), new.root(), without.header()).unwrap();
    assert_held(&store, &without);
    assert!(matches!(store.replace(pool(), new.root(), with.header()), Err(StoreError::Absent(_))));
}

/// Stops the disk after each single call of a write, a replacement and a drop, loses what was not synced, and opens
/// again: what was acknowledged is there, and nothing half is.
#[test]
fn a_crash_at_any_call_loses_nothing_acknowledged() {
    for calls in 0.. {
        let disk = MemoryDisk::new(100 * GIB);
        let (store, _) = open(&disk);
        let (first, second) = (pack(1), pack(2));
        let smaller = reduced(&first, 3, |at| at > 2);
        write(&store, &first).unwrap();
        disk.stop_after(calls);
        let written = write(&store, &second).is_ok();
        let replaced = written && store.replace(pool(), first.root(), smaller.header()).is_ok();
        let dropped = replaced && store.drop_pack(second.root()).is_ok();
        disk.crash();
        let (store, report) = open(&disk);
        assert_eq!(report.set_aside, 0, "stopped after {calls}");
        for pack in [&first, &second, &smaller] {
            if store.holds(&pack.root()) {
                assert_held(&store, pack);
            }
        }
        assert!(!written || dropped || store.holds(&second.root()) || replaced, "stopped after {calls}");
        assert!(store.holds(&first.root()) || store.holds(&smaller.root()), "stopped after {calls}");
        assert_eq!(replaced, replaced && store.holds(&smaller.root()) && !store.holds(&first.root()));
        assert!(!dropped || !store.holds(&second.root()));
        if dropped {
            assert!(calls > 10, "every call was tried");
            return;
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64),
    WriteCut(u64, u16),
    Drop(u64),
    Replace(u64, u8),
    Reopen,
    Crash,
    StopSoon(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..6_u64).prop_map(Op::Write),
        1 => (0..6_u64, any::<u16>()).prop_map(|(id, cut)| Op::WriteCut(id, cut)),
        2 => (0..6_u64).prop_map(Op::Drop),
        2 => (0..6_u64, any::<u8>()).prop_map(|(id, keep)| Op::Replace(id, keep)),
        1 => Just(Op::Reopen),
        1 => Just(Op::Crash),
        1 => (0..24_u64).prop_map(Op::StopSoon),
    ]
}

/// What the store should hold. After a failed call it takes over what the store says of that call's packs, which may be
/// the state before or after, never a third one.
#[derive(Default)]
struct Model {
    packs: BTreeMap<PackRoot, Pack>,
    /// Dropped with success and not written since: these must not come back, whatever crashes.
    gone: BTreeSet<PackRoot>,
}

impl Model {
    fn apply(&mut self, store: &Arc<Store>, op: &Op) {
        match *op {
            Op::Write(id) => {
                let pack = small_pack(id);
                self.gone.remove(&pack.root());
                if write(store, &pack).is_ok() {
                    self.packs.insert(pack.root(), pack);
                }
            }
            Op::WriteCut(id, cut) => {
                let pack = small_pack(id);
                let car = pack.car().concat();
                let cut = usize::from(cut) % car.len();
                // Of a pack that is held, only the CAR's header is looked at.
                let held = store.holds(&pack.root()) && cut >= 59;
                assert!(send(store, scope(&pack), &car[..cut]).is_err() || held);
            }
            Op::Drop(id) => {
                let root = small_pack(id).root();
                let dropped = store.drop_pack(root).is_ok();
                if dropped {
                    self.gone.insert(root);
                }
                if dropped || !store.holds(&root) {
                    self.packs.remove(&root);
                }
            }
            Op::Replace(id, keep) => {
                let (old, new) = (small_pack(id), numbered(100 + id * 256 + u64::from(keep)));
                self.gone.remove(&new.root());
                if store.replace(pool(), old.root(), new.header()).is_ok() {
                    self.gone.insert(old.root());
                    self.packs.insert(new.root(), new);
                    self.packs.remove(&old.root());
                } else if store.holds(&new.root()) && !store.holds(&old.root()) {
                    self.packs.remove(&old.root());
                }
            }
            Op::Reopen | Op::Crash | Op::StopSoon(_) => {}
        }
    }

    fn compare(&mut self, store: &Store) {
        for root in store.packs() {
            // What a call did before it failed: whole, or not there.
            assert!(!self.gone.contains(&root), "{root} came back");
            self.packs.entry(root).or_insert_with(|| numbered(store.header(root).unwrap().id.get()));
        }
        assert_eq!(roots(store), self.packs.keys().copied().collect::<Vec<_>>());
        self.packs.values().for_each(|pack| assert_held(store, pack));
        let used: u64 = self.packs.values().map(|pack| pack.header().car_bytes()).sum();
        assert_eq!(store.usage().unwrap().used_bytes, used);
    }
}

/// The pack with this number: below 100 a whole one, above it one of these with the chunks that eight bits choose.
fn numbered(id: u64) -> Pack {
    match id.checked_sub(100) {
        None => small_pack(id),
        Some(code) => reduced(&small_pack(code / 256), id, |at| (code % 256) >> at & 1 == 1),
    }
}

fn follow(ops: &[Op]) {
    let disk = MemoryDisk::new(100 * GIB);
    let (mut store, _) = open(&disk);
    let mut model = Model::default();
    for op in ops {
        match op {
            Op::Crash => disk.crash(),
            Op::Reopen => disk.stop_after(u64::MAX / 2),
            Op::StopSoon(calls) => disk.stop_after(*calls),
            _ => {}
        }
        if matches!(op, Op::Crash | Op::Reopen) {
            store = open(&disk).0;
        }
        model.apply(&store, op);
        model.compare(&store);
    }
}

/// A write whose directory could not be synced, nor its file removed, left a file that was not listed. The drop that
/// followed found nothing, answered success, and the pack came back at the next start. Such packs are now remembered.
#[test]
fn a_half_failed_write_that_is_dropped_does_not_come_back() {
    // The write takes 15 calls; the last two are the new name and the sync of its directory.
    for calls in 0..20 {
        let ops = [Op::Write(2), Op::StopSoon(calls), Op::Write(1), Op::Drop(1), Op::Reopen, Op::Crash, Op::Reopen];
        follow(&ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_agrees_with_a_map(ops in proptest::collection::vec(op(), 1..60)) {
        follow(&ops);
    }
}
