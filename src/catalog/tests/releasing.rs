//! What is let go, and that nothing else is.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::Connection;

use super::rows::{at, commit, desc, empty, file, file_of, lease, live, number, planned, row, state, upload};
use crate::catalog::files::{self, LinkTime};
use crate::catalog::packs::{self, PackState};
use crate::catalog::{micros, sweep};

fn expires(c: &Connection, version: i64) -> Option<i64> {
    c.query_row("SELECT expires_at FROM version WHERE id = ?1", [version], |row| row.get(0)).unwrap()
}

fn expire(c: &Connection, version: i64, second: i64) {
    c.execute("UPDATE version SET expires_at = ?2 WHERE id = ?1", [version, micros(at(second))]).unwrap();
}

fn versions(c: &Connection) -> Vec<i64> {
    let mut all = c.prepare("SELECT id FROM version ORDER BY id").unwrap();
    all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn loose(c: &Connection) -> i64 {
    number(c, "SELECT count(*) FROM loose_chunk")
}

fn link(c: &Connection, path: &str, version: i64) {
    commit(c, version);
    let times = LinkTime { now: at(1), expires: at(10) };
    files::link(c, 1, &path.parse().unwrap(), version, times).unwrap();
}

#[test]
fn a_version_goes_when_its_time_is_over_and_nobody_reads_it() {
    let c = empty();
    let made: Vec<i64> = (1..=4).map(|seed| file(&c, seed, &[u64::from(seed)]).0).collect();
    expire(&c, made[0], 99);
    expire(&c, made[1], 100);
    expire(&c, made[2], 101);
    let read = HashSet::from([made[0]]);
    assert!(!sweep::release_versions(&c, at(100), &read).unwrap());
    assert_eq!(versions(&c), [made[0], made[2], made[3]]);
    assert_eq!((loose(&c), number(&c, "SELECT count(*) FROM key_page")), (1, 3));
    assert!(!sweep::release_versions(&c, at(101), &HashSet::new()).unwrap());
    assert_eq!(versions(&c), [made[3]], "one without an end stays");
}

#[test]
fn a_long_file_is_released_by_steps_and_keeps_every_chunk_in_sight() {
    let c = empty();
    let seeds: Vec<u64> = (0..1100).collect();
    let (version, _) = file(&c, 1, &seeds);
    expire(&c, version, 1);
    for left in [600, 100] {
        assert!(sweep::release_versions(&c, at(1), &HashSet::new()).unwrap());
        assert_eq!(number(&c, "SELECT count(*) FROM manifest"), left);
        assert_eq!(loose(&c), 1100 - left);
        assert_eq!(versions(&c), [version]);
    }
    assert!(!sweep::release_versions(&c, at(1), &HashSet::new()).unwrap());
    assert_eq!((versions(&c), loose(&c)), (vec![], 1100));
}

#[test]
fn what_an_entry_shows_does_not_expire() {
    let c = empty();
    let (first, _) = file(&c, 1, &[1]);
    let (second, _) = file(&c, 2, &[2]);
    link(&c, "bn:/a", first);
    link(&c, "bn:/b", first);
    link(&c, "bn:/a", second);
    assert_eq!(expires(&c, first), None, "bn:/b shows it");
    let times = LinkTime { now: at(2), expires: at(20) };
    files::remove(&c, 1, &"bn:/b".parse().unwrap(), false, times).unwrap();
    assert_eq!(expires(&c, first), Some(micros(at(20))));
    assert_eq!(expires(&c, second), None);
}

#[test]
fn a_pack_turns_dropping_only_when_nothing_refers_to_any_of_it() {
    let c = empty();
    let (gone, xy) = file(&c, 1, &[1, 2]);
    file(&c, 2, &[2]);
    let both = live(&c, 1, &xy, 50);
    let only_x = live(&c, 2, &xy[..1], 50);
    let under_way = planned(&c, 3, Some(upload(1)), &xy[..1]);
    expire(&c, gone, 1);
    sweep::release_versions(&c, at(1), &HashSet::new()).unwrap();
    let found = sweep::settle_loose(&c, 0).unwrap();
    assert_eq!((found.chunks, found.next), (1, Some(xy[1])));
    assert_eq!(found.holed.into_iter().collect::<Vec<_>>(), [both]);
    assert_eq!((state(&c, both), state(&c, only_x)), (PackState::Live, PackState::Dropping));
    assert_eq!(state(&c, under_way), PackState::Planned);
    assert_eq!(loose(&c), 1, "one that is referred to is not loose");
    let end = sweep::settle_loose(&c, xy[1]).unwrap();
    assert_eq!((end.chunks, end.next), (0, None));

    sweep::dropped(&c, only_x).unwrap();
    assert_eq!((state(&c, only_x), packs::chunks(&c, only_x).unwrap().len()), (PackState::Gone, 0));
    assert_eq!(number(&c, "SELECT count(*) FROM chunk"), 2, "it is in another pack still");
    let kept = sweep::shrink(&c, &row(&c, both)).unwrap().unwrap();
    assert_eq!(kept.iter().map(|held| held.row).collect::<Vec<_>>(), [xy[1]]);
    assert_eq!(packs::chunks(&c, both).unwrap().len(), 1);
    assert!(sweep::shrink(&c, &row(&c, both)).unwrap().is_none(), "all of it is needed");
    packs::abort(&c, under_way).unwrap();
    sweep::dropped(&c, under_way).unwrap();
    assert_eq!((number(&c, "SELECT count(*) FROM chunk"), loose(&c)), (1, 0), "now it is nowhere");
}

#[test]
fn a_chunk_that_is_needed_outlives_the_pack_that_had_it() {
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    let pack = live(&c, 1, &chunk, 50);
    sweep::dropped(&c, pack).unwrap();
    assert_eq!((number(&c, "SELECT count(*) FROM chunk"), loose(&c)), (1, 0));
    assert!(sweep::shrink(&c, &row(&c, live(&c, 2, &chunk, 50))).unwrap().is_none());
}

#[test]
fn a_chunk_that_a_put_needs_again_is_no_longer_loose() {
    let c = empty();
    let (gone, chunk) = file(&c, 1, &[1]);
    let pack = live(&c, 1, &chunk, 50);
    expire(&c, gone, 1);
    sweep::release_versions(&c, at(1), &HashSet::new()).unwrap();
    assert_eq!(file(&c, 2, &[1]).1, chunk);
    let found = sweep::settle_loose(&c, 0).unwrap();
    assert_eq!((found.chunks, found.holed.len(), loose(&c)), (0, 0, 0));
    assert_eq!(state(&c, pack), PackState::Live);
}

#[test]
fn a_replica_that_is_forgotten_ends_its_live_pack_when_it_was_the_last() {
    let c = empty();
    let (_, chunks) = file(&c, 1, &[1, 2]);
    let pack = live(&c, 1, &chunks, 50);
    packs::forget_replica(&c, pack, chunks[0]).unwrap();
    assert_eq!(state(&c, pack), PackState::Live);
    packs::forget_replica(&c, pack, chunks[1]).unwrap();
    assert_eq!(state(&c, pack), PackState::Dropping);
    assert_eq!(packs::dropping(&c, pack, 10).unwrap(), []);
    assert_eq!(packs::dropping(&c, crate::id::PackId::new(0), 10).unwrap().len(), 1);
}

#[test]
fn the_end_of_a_put_releases_what_it_did_not_commit_and_nothing_else() {
    let c = empty();
    lease(&c, upload(2));
    let (pending, chunk) = file(&c, 1, &[1]);
    let (committed, _) = file(&c, 2, &[2]);
    let (others, _) = file_of(&c, upload(2), 1, &[3]);
    commit(&c, committed);
    let packs: Vec<_> = (1..=3).map(|node| planned(&c, node, Some(upload(1)), &chunk)).collect();
    packs::stored(&c, packs[1]).unwrap();
    packs::set_state(&c, packs[2], PackState::Live).unwrap();
    let theirs = planned(&c, 4, Some(upload(2)), &chunk);
    sweep::begin_end(&c, upload(1), at(5)).unwrap();
    assert_eq!(sweep::ending(&c).unwrap(), [upload(1)]);
    assert!(!sweep::end_upload(&c, upload(1), at(9)).unwrap());
    assert_eq!((expires(&c, pending), expires(&c, committed)), (Some(micros(at(9))), None));
    assert_eq!(
        packs.iter().map(|pack| state(&c, *pack)).collect::<Vec<_>>(),
        [PackState::Dropping, PackState::Dropping, PackState::Live]
    );
    assert_eq!((expires(&c, others), state(&c, theirs)), (None, PackState::Planned));
    assert_eq!(row(&c, theirs).upload, Some(upload(2)));
    assert_eq!(sweep::ending(&c).unwrap(), []);
    assert_eq!(number(&c, "SELECT count(*) FROM lease"), 1, "the other's");
}

#[test]
fn the_lease_of_a_put_goes_after_all_that_is_left_of_it() {
    let c = empty();
    for number in 0..501 {
        file(&c, number, &[]);
    }
    sweep::begin_end(&c, upload(1), at(5)).unwrap();
    assert!(sweep::end_upload(&c, upload(1), at(9)).unwrap());
    assert_eq!(sweep::ending(&c).unwrap(), [upload(1)]);
    assert!(!sweep::end_upload(&c, upload(1), at(9)).unwrap());
    assert_eq!(number(&c, "SELECT count(*) FROM version WHERE expires_at IS NULL"), 0);
    assert_eq!(number(&c, "SELECT count(*) FROM lease"), 0);
}

#[test]
fn a_removed_directory_is_emptied_and_its_files_keep_their_retention() {
    let c = empty();
    let (first, _) = file(&c, 1, &[1]);
    let (second, _) = file(&c, 2, &[2]);
    link(&c, "bn:/d/e/a", first);
    link(&c, "bn:/d/b", second);
    link(&c, "bn:/kept", second);
    files::remove(&c, 1, &"bn:/d".parse().unwrap(), true, LinkTime { now: at(100), expires: at(999) }).unwrap();
    let dir = number(&c, "SELECT id FROM entry WHERE detached_at IS NOT NULL");
    let hour = Duration::from_secs(3600);
    assert!(!sweep::empty_detached(&c, hour, &HashSet::from([dir])).unwrap());
    assert_eq!(expires(&c, first), None, "a copy that is being built is let alone");
    assert!(!sweep::empty_detached(&c, hour, &HashSet::new()).unwrap());
    assert_eq!(expires(&c, first), Some(micros(at(3700))));
    assert_eq!(expires(&c, second), None, "bn:/kept shows it");
    assert_eq!(number(&c, "SELECT count(*) FROM entry"), 2, "the root and bn:/kept");
}

#[test]
fn a_sweep_that_is_only_foreseen_releases_the_same_and_changes_nothing() {
    let c = empty();
    let (gone, chunks) = file(&c, 1, &[1, 2]);
    file(&c, 2, &[2]);
    let (read, of_read) = file(&c, 3, &[3]);
    live(&c, 1, &chunks, 50);
    live(&c, 2, &chunks[..1], 50);
    live(&c, 3, &of_read, 50);
    expire(&c, gone, 100);
    expire(&c, read, 100);
    let reading = HashSet::from([read]);
    let foresee = |until| {
        let foreseen = sweep::foresee(&c, Duration::ZERO, at(until), (&reading, &HashSet::new())).unwrap();
        c.execute_batch("DROP TABLE busy; DROP TABLE read; DROP TABLE hidden; DROP TABLE gone; DROP TABLE loose")
            .unwrap();
        (foreseen.chunks, foreseen.packs, foreseen.bytes)
    };
    assert_eq!(foresee(99), (0, 0, 0));
    let bytes = desc(1).bytes;
    assert_eq!(foresee(100), (1, 1, 2 * bytes));
    assert_eq!(versions(&c).len(), 3);
    sweep::release_versions(&c, at(100), &reading).unwrap();
    assert_eq!(sweep::settle_loose(&c, 0).unwrap().chunks, 1);
    assert_eq!(packs::dropping(&c, crate::id::PackId::new(0), 10).unwrap().len(), 1);
}
