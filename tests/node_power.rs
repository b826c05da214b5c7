//! Power loss of a built-in node at every change of its real disk, and for every state that may leave: a pack that was
//! acknowledged is there and right, one that was dropped stays dropped, and of any other there is all or nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bytenode::files::{self, Change};
use bytenode::id::{ChunkId, PackId, PackRoot, PoolId};
use bytenode::node::builtin::local_disk::LocalDisk;
use bytenode::node::builtin::memory_disk::MemoryDisk;
use bytenode::node::builtin::{Scope, Store, StoreLimits};
use bytenode::pack::{Pack, PackEntry, PackHeader};
use bytes::Bytes;

use crate::support::pool::bytes;
use crate::support::power::{Disk, State};

/// States looked at after each change, at most (those that differ in one thing come on top).
const STATES: usize = 200;
const SEED: u64 = 11;

fn pool() -> PoolId {
    PoolId::from_bytes([1; 16])
}

fn pack_of(id: u64, chunks: &[Bytes]) -> Pack {
    let entry = |bytes: &Bytes| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
    let entries = chunks.iter().map(entry).collect();
    Pack::new(PackHeader { pool: pool(), epoch: 1, id: PackId::new(id), entries }, chunks.to_vec())
}

fn pack(id: u64) -> Pack {
    let chunks = [1, 700, 20_000].iter().zip(id * 10..).map(|(length, seed)| bytes(seed, *length).into());
    pack_of(id, &chunks.collect::<Vec<_>>())
}

fn open(root: &Path) -> Arc<Store> {
    let disk = LocalDisk::open(root).unwrap();
    Arc::new(Store::open(Arc::new(disk), StoreLimits::default()).unwrap().0)
}

fn write(store: &Arc<Store>, pack: &Pack) {
    let scope = Scope::Pack { root: pack.root(), bytes: pack.header().car_bytes() };
    let mut writer = store.begin(pool(), scope).unwrap();
    pack.car().concat().chunks(8000).for_each(|bytes| writer.push(bytes).unwrap());
    writer.finish().unwrap();
}

/// What is acknowledged of a pack at the end of a step: whether it is there.
struct Told {
    began: usize,
    ended: usize,
    pack: PackRoot,
    there: bool,
}

/// What must be so of each pack after so many changes; nothing while that changes.
fn settled(told: &[Told], changes: usize) -> BTreeMap<PackRoot, Option<bool>> {
    let begun = told.iter().filter(|told| told.began < changes);
    begun.map(|told| (told.pack, (told.ended <= changes).then_some(told.there))).collect()
}

/// Starts on what was found, in memory: that is looked at often, and need not outlive anything.
fn is_as_told(found: &State, told: &BTreeMap<PackRoot, Option<bool>>, when: &str) {
    let disk = MemoryDisk::new(1 << 40);
    found.files.iter().for_each(|(path, file)| disk.put(path, file.bytes.to_vec()));
    let (store, report) = Store::open(Arc::new(disk), StoreLimits::default()).unwrap();
    assert_eq!(report.set_aside, 0, "{when}");
    for (root, there) in told {
        assert!(there.is_none_or(|there| store.holds(root) == there), "{root}: {there:?} was told of {when}");
    }
    store.packs().into_iter().for_each(|root| store.verify(root).unwrap());
}

#[test]
fn power_loss_at_any_change_loses_nothing_acknowledged() {
    let root = tempfile::tempdir().unwrap();
    drop(LocalDisk::open(root.path()).unwrap());
    let mut disk = Disk::of(root.path());
    files::begin();
    let store = open(root.path());
    let opened = files::count();
    let (first, second) = (pack(1), pack(2));
    let smaller = pack_of(3, &first.chunks()[1..]);
    let mut told: Vec<Told> = Vec::new();
    let mut step = |work: &dyn Fn(), packs: &[(&Pack, bool)]| {
        let began = files::count();
        work();
        let ended = files::count();
        told.extend(packs.iter().map(|(pack, there)| Told { began, ended, pack: pack.root(), there: *there }));
    };
    step(&|| write(&store, &first), &[(&first, true)]);
    step(&|| write(&store, &second), &[(&second, true)]);
    let replace = || store.replace(pool(), first.root(), smaller.header()).unwrap();
    step(&replace, &[(&first, false), (&smaller, true)]);
    step(&|| store.drop_pack(second.root()).unwrap(), &[(&second, false)]);
    let changes = files::end();
    drop(store);
    let (mut seen, mut looked) = (HashSet::new(), 0);
    for number in 0..=changes.len() {
        let (told, next) = (settled(&told, number), changes.get(number));
        let when = format!("before change {number}, {:.120}", format!("{next:?}"));
        // While it starts for the first time, it tells of nothing.
        if number < opened {
            next.into_iter().for_each(|change| disk.apply(change));
            continue;
        }
        for state in disk.states(SEED + number as u64, STATES) {
            looked += 1;
            if seen.insert((state.digest(), told.clone())) {
                is_as_told(&state, &told, &when);
            }
        }
        next.into_iter().for_each(|change| disk.apply(change));
    }
    println!("seed {SEED}: {} changes after {opened}, {looked} states, {} unlike", changes.len() - opened, seen.len());
}

/// A start that was killed once left directories which the next took for durable: a power loss then took away the packs
/// that had been acknowledged in them.
#[test]
fn power_loss_after_a_first_start_that_was_killed() {
    let root = tempfile::tempdir().unwrap();
    drop(LocalDisk::open(root.path()).unwrap());
    let mut disk = Disk::of(root.path());
    files::begin();
    drop(open(root.path()));
    let changes = files::end();
    let made = changes.iter().rposition(|change| matches!(change, Change::MadeDir(_))).unwrap();
    let pack = pack(1);
    for (number, change) in changes.iter().enumerate() {
        disk.apply(change);
        // Almost all before the names are synced make one directory of many alike.
        if number != 100 && !(made..made + 2).contains(&number) {
            continue;
        }
        let root = tempfile::tempdir().unwrap();
        let mut left = disk.go_on(root.path());
        files::begin();
        write(&open(root.path()), &pack);
        files::end().iter().for_each(|change| left.apply(change));
        let told = BTreeMap::from([(pack.root(), Some(true))]);
        for state in left.states(SEED, STATES) {
            is_as_told(&state, &told, &format!("after a start that was killed after change {number}"));
        }
    }
}
