//! Tests of how much a store takes, and of what it says of files that others removed or that cannot be read.

use std::path::Path;
use std::sync::Arc;

use super::super::disk::Disk;
#[cfg(unix)]
use super::super::local_disk::LocalDisk;
use super::super::memory_disk::MemoryDisk;
use super::super::store::{Store, StoreError, StoreLimits, pack_path};
use super::super::testing::{GIB, assert_held, open, pack, pool, reduced, roots, scope, small_pack, write};
use crate::pack::Pack;

fn limited(capacity_bytes: u64) -> Arc<Store> {
    let limits = StoreLimits { capacity_bytes: Some(capacity_bytes), ..StoreLimits::default() };
    Arc::new(Store::open(Arc::new(MemoryDisk::new(100 * GIB)), limits).unwrap().0)
}

fn bytes(pack: &Pack) -> u64 {
    pack.header().car_bytes()
}

#[test]
fn what_is_written_and_what_is_on_its_way_take_room_alike() {
    let packs: Vec<Pack> = (1..=3).map(pack).collect();
    let one = bytes(&packs[0]);
    let store = limited(3 * one - 1);
    write(&store, &packs[0]).unwrap();
    let mut under_way = store.begin(pool(), scope(&packs[1])).unwrap();
    under_way.push(&packs[1].car()[..6].concat()).unwrap();
    let usage = store.usage().unwrap();
    assert_eq!((usage.used_bytes, usage.free_bytes, usage.capacity_bytes), (one, one - 1, 3 * one - 1));
    assert!(matches!(store.begin(pool(), scope(&packs[2])), Err(StoreError::Full(_))), "before anything is sent");
    assert!(matches!(store.reserve_room(one), Err(StoreError::Full(_))));
    store.reserve_room(one - 1).unwrap();
    store.release_room(one - 1);
    assert!(store.begin(pool(), scope(&packs[0])).is_ok(), "what is here needs no room");
    under_way.push(&packs[1].car()[6..].concat()).unwrap();
    under_way.finish().unwrap();
    assert_eq!(store.usage().unwrap().free_bytes, one - 1);
    store.drop_pack(packs[0].root()).unwrap();
    assert_eq!(store.usage().unwrap().free_bytes, 2 * one - 1);
}

#[test]
fn what_is_on_its_way_takes_room_on_the_disk_before_it_is_there() {
    let (first, second) = (pack(1), pack(2));
    let one = bytes(&first);
    let disk = MemoryDisk::new(10 * GIB);
    let (store, _) = open(&disk);
    disk.take(9 * GIB - 2 * one);
    let before = store.usage().unwrap();
    assert_eq!((before.free_bytes, before.capacity_bytes), (2 * one, 2 * one));
    let mut under_way = store.begin(pool(), scope(&first)).unwrap();
    under_way.push(&first.car()[..4].concat()).unwrap();
    assert!(store.usage().unwrap().free_bytes <= one, "set aside, though little of it is written");
    assert!(matches!(store.reserve_room(one + 1), Err(StoreError::Full(_))));
    store.reserve_room(one / 2).unwrap();
    store.release_room(one / 2);
    drop(under_way);
    assert_eq!(store.usage().unwrap().free_bytes, 2 * one);
    write(&store, &second).unwrap();
    let after = store.usage().unwrap();
    assert_eq!((after.used_bytes, after.free_bytes, after.capacity_bytes), (one, one, 2 * one));
}

#[test]
fn a_replacement_needs_room_beside_the_old_pack() {
    let old = pack(1);
    let new = reduced(&old, 3, |at| at > 1);
    for (free, fits) in [(bytes(&new), true), (bytes(&new) - 1, false), (0, false)] {
        let disk = MemoryDisk::new(10 * GIB);
        let (store, _) = open(&disk);
        write(&store, &old).unwrap();
        disk.take(10 * GIB - bytes(&old) - free);
        let replaced = store.replace(pool(), old.root(), new.header());
        assert_eq!(replaced.is_ok(), fits, "{free} bytes free: {replaced:?}");
        assert!(fits || matches!(replaced, Err(StoreError::Full(_))));
        assert_held(&store, if fits { &new } else { &old });
    }
}

#[test]
fn a_pack_whose_file_somebody_removed_is_absent_and_may_be_dropped_and_written() {
    let disk = MemoryDisk::new(100 * GIB);
    let (store, _) = open(&disk);
    let (read, dropped) = (pack(1), pack(2));
    for pack in [&read, &dropped] {
        write(&store, pack).unwrap();
        disk.remove(&pack_path(&pack.root())).unwrap();
    }
    let digest = *read.header().entries[0].chunk.digest();
    assert!(matches!(store.read(read.root(), &digest), Err(StoreError::Absent(_))));
    assert_eq!(roots(&store), [dropped.root()], "found out");
    store.drop_pack(dropped.root()).unwrap();
    assert_eq!(store.usage().unwrap().used_bytes, 0);
    write(&store, &read).unwrap();
    assert_held(&store, &read);
}

/// A disk that fails says nothing about the bytes on it: called corrupt or absent, a good copy would be given up.
#[test]
fn a_disk_that_cannot_be_read_makes_nothing_corrupt_or_absent() {
    let disk = MemoryDisk::new(100 * GIB);
    let (store, _) = open(&disk);
    let pack = pack(1);
    write(&store, &pack).unwrap();
    let digest = *pack.header().entries[1].chunk.digest();
    let layout = store.layout(pack.root()).unwrap();
    let file = store.open_pack(pack.root()).unwrap();
    disk.set_unreadable(true);
    assert!(matches!(super::super::store::read_block(&*file, &layout, &digest), Err(StoreError::Io { .. })));
    assert!(matches!(store.read(pack.root(), &digest), Err(StoreError::Io { .. })));
    assert!(matches!(store.verify(pack.root()), Err(StoreError::Io { .. })));
    let opened = Store::open(Arc::new(disk.clone()), StoreLimits::default());
    assert!(matches!(opened, Err(StoreError::Io { .. })), "nothing is set aside");
    disk.set_unreadable(false);
    assert_held(&store, &pack);
    assert_held(&open(&disk).0, &pack);
}

/// One bad sector is not the disk: a node starts with the packs that it can read, and keeps the other where it is. A disk
/// that gives no pack at all is no store that was emptied.
#[test]
fn a_bad_sector_costs_the_pack_that_it_is_in() {
    let disk = MemoryDisk::new(100 * GIB);
    let (store, _) = open(&disk);
    let packs = [pack(1), small_pack(2), small_pack(3)];
    packs.iter().for_each(|pack| drop(write(&store, pack).unwrap()));
    let used = store.usage().unwrap().used_bytes;
    let bad = packs[0].root();
    disk.set_bad(&pack_path(&bad), true);
    let (store, report) = open(&disk);
    assert_eq!((report.packs, report.unreadable, report.set_aside), (3, 1, 0));
    assert!(store.header(bad).unwrap_err().is_of_a_sector());
    packs[1..].iter().for_each(|pack| assert_held(&store, pack));
    let found =
        |pack: &Pack| pack.header().entries.iter().map(|entry| store.find(entry.chunk.digest())).collect::<Vec<_>>();
    assert!(found(&packs[1]).into_iter().all(|found| found.unwrap().is_some_and(|root| root != bad)));
    assert!(found(&packs[0]).into_iter().any(|found| found.is_err_and(|error| error.is_of_a_sector())));
    disk.set_bad(&pack_path(&bad), false);
    assert_held(&store, &packs[0]);
    assert_held(&open(&disk).0, &packs[0]);
    assert_eq!(open(&disk).0.usage().unwrap().used_bytes, used);
    packs.iter().for_each(|pack| disk.set_bad(&pack_path(&pack.root()), true));
    let opened = Store::open(Arc::new(disk.clone()), StoreLimits::default());
    assert!(opened.unwrap_err().is_of_a_sector());
    disk.set_bad(&pack_path(&bad), false);
    let (store, _) = open(&disk);
    store.drop_pack(packs[1].root()).unwrap();
    assert!(!store.holds(&packs[1].root()) && disk.get(&pack_path(&packs[1].root())).is_none());
}

#[test]
fn a_chunk_is_found_in_the_pack_that_has_it_and_measured_without_being_read() {
    let (store, _) = open(&MemoryDisk::new(100 * GIB));
    let (one, two) = (pack(1), small_pack(2));
    write(&store, &one).unwrap();
    write(&store, &two).unwrap();
    for (pack, at) in [(&one, 2), (&two, 3)] {
        let entry = pack.header().entries[at];
        assert_eq!(store.find(entry.chunk.digest()).unwrap(), Some(pack.root()));
        assert_eq!(store.size_of(pack.root(), entry.chunk.digest()).unwrap(), entry.bytes);
    }
    assert_eq!(store.find(&[9; 32]).unwrap(), None);
    assert!(matches!(store.size_of(one.root(), &[9; 32]), Err(StoreError::Absent(_))));
}

/// The same on a real directory, for its owner alone and one process at a time.
#[cfg(unix)]
#[test]
fn a_local_directory_holds_packs_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/node");
    let pack = pack(1);
    {
        let disk = Arc::new(LocalDisk::open(&root).unwrap());
        let store = Arc::new(Store::open(disk, StoreLimits::default()).unwrap().0);
        write(&store, &pack).unwrap();
        assert_held(&store, &pack);
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let file = root.join(pack_path(&pack.root()));
    assert_eq!((mode(&root), mode(&file)), (0o700, 0o600));
    assert_eq!(std::fs::read(&file).unwrap(), pack.car().concat());
    let disk = LocalDisk::open(&root).unwrap();
    let private = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        disk.open(&pack_path(&pack.root())).unwrap().is_private().unwrap()
    };
    assert_eq!([0o600, 0o640, 0o604, 0o644, 0o700].map(private), [true, false, false, false, true]);
    let (store, report) = Store::open(Arc::new(disk), StoreLimits::default()).unwrap();
    assert_eq!((report.packs, report.set_aside), (1, 0));
    let store = Arc::new(store);
    assert_held(&store, &pack);
    store.drop_pack(pack.root()).unwrap();
    assert!(!file.exists());
}

/// A node whose disk was emptied under it takes packs again: its directories are made anew.
#[cfg(unix)]
#[test]
fn directories_that_were_removed_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(LocalDisk::open(dir.path()).unwrap());
    let (store, _) = Store::open(disk, StoreLimits::default()).unwrap();
    let store = Arc::new(store);
    std::fs::remove_dir_all(dir.path().join("packs")).unwrap();
    let pack = pack(1);
    write(&store, &pack).unwrap();
    assert_held(&store, &pack);
}
