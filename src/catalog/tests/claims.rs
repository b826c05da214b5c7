//! What a client says of its chunks, what rows may hold, and who is in charge.

use super::rows::{appending, at, desc, empty, file, planned, row, upload};
use crate::api::{Append, Blob, ChunkDesc, Part};
use crate::catalog::charge::{self, Highest};
use crate::catalog::{chunk_entry, chunks, micros, signed, time, unsigned};
use crate::grant::Start;
use crate::id::PackId;
use crate::pack::MAX_CHUNK_BYTES;

fn append(first: u64, chunks: Vec<ChunkDesc>, keys: usize) -> Append {
    Append { file: 1, first, chunks, sealed_keys: Blob(vec![0; keys]) }
}

#[test]
fn a_chunk_has_the_kind_and_size_that_its_file_allows() {
    let sealed = |length| ChunkDesc { length, bytes: length + 16, ..desc(1) };
    let plain = |length| ChunkDesc { length, bytes: length, part: Part::Plain, ..desc(1) };
    let link = |length| ChunkDesc { length, part: Part::Link, ..desc(1) };
    let cases = [
        ("sealed", sealed(1), Some(false)),
        ("sealed, full", sealed(1000), Some(false)),
        ("sealed, empty", sealed(0), None),
        ("sealed, too long", sealed(1001), None),
        ("sealed, without its tag", ChunkDesc { bytes: 100, ..desc(1) }, None),
        ("plain", plain(1), Some(true)),
        ("plain, full", plain(1000), Some(true)),
        ("plain, empty", plain(0), None),
        ("plain, too long", plain(1001), None),
        ("plain, of another size", ChunkDesc { bytes: 101, ..plain(100) }, None),
        ("a link", link(0), Some(true)),
        ("a link with bytes of the file", link(1), None),
    ];
    for (what, desc, fits) in cases {
        for public in [false, true] {
            let c = empty();
            let appended = chunks::append(&c, &appending(upload(1), public), &append(0, vec![desc], 0));
            assert_eq!(appended.is_ok(), fits == Some(public), "{what}, public: {public}");
        }
    }
    let c = empty();
    let mixed = append(0, vec![link(0), plain(1)], 0);
    assert!(chunks::append(&c, &appending(upload(1), true), &mixed).is_err(), "data among links");
}

#[test]
fn appends_leave_no_gap_and_repeat_harmlessly() {
    let c = empty();
    let at = appending(upload(1), false);
    let first = append(0, vec![desc(1), desc(2)], 50);
    let appended = chunks::append(&c, &at, &first).unwrap();
    assert!(!appended.repeated);
    assert!(chunks::append(&c, &at, &append(3, vec![desc(4)], 0)).is_err(), "a gap");
    assert!(chunks::append(&c, &at, &append(1, vec![desc(9)], 0)).is_err(), "another chunk there");
    let again = chunks::append(&c, &at, &first).unwrap();
    assert_eq!((again.rows, again.repeated), (appended.rows.clone(), true));
    let more = chunks::append(&c, &at, &append(2, vec![desc(3), desc(1)], 0)).unwrap();
    assert_eq!(more.rows[1], appended.rows[0], "an equal chunk is the same row");
    let version = chunks::generation(&c, upload(1), 1).unwrap().unwrap().0;
    let listed = |first, count| -> Vec<ChunkDesc> {
        chunks::manifest(&c, version, first, count).unwrap().iter().map(|row| row.desc).collect()
    };
    assert_eq!(listed(0, 10), [desc(1), desc(2), desc(3), desc(1)]);
    assert_eq!(listed(1, 2), [desc(2), desc(3)]);
    assert_eq!(listed(u64::MAX, u64::MAX), []);
    c.execute("UPDATE version SET state = 1", []).unwrap();
    assert!(chunks::append(&c, &at, &append(4, vec![desc(5)], 0)).is_err(), "it is committed");
}

#[test]
fn a_page_of_keys_is_as_long_as_its_chunks_allow() {
    for (keys, fits) in [(0, true), (384, true), (385, false)] {
        let c = empty();
        let page = append(0, vec![desc(1), desc(2)], keys);
        assert_eq!(chunks::append(&c, &appending(upload(1), false), &page).is_ok(), fits, "{keys} bytes of keys");
    }
}

#[test]
fn pages_of_keys_are_those_that_cover_what_is_asked() {
    let c = empty();
    let at = appending(upload(1), false);
    for first in [0, 2, 4] {
        chunks::append(&c, &at, &append(first, vec![desc(first), desc(first + 1)], 1 + first as usize)).unwrap();
    }
    let version = chunks::generation(&c, upload(1), 1).unwrap().unwrap().0;
    let pages = |first, count| -> Vec<(u64, usize)> {
        let pages = chunks::key_pages(&c, version, first, count).unwrap();
        pages.iter().map(|(first, page)| (*first, page.0.len())).collect()
    };
    assert_eq!(pages(0, 6), [(0, 1), (2, 3), (4, 5)]);
    assert_eq!(pages(1, 1), [(0, 1)]);
    assert_eq!(pages(3, 2), [(2, 3), (4, 5)]);
    assert_eq!(pages(2, 2), [(2, 3)]);
}

#[test]
fn rows_hold_what_can_be_and_say_what_cannot() {
    assert_eq!((signed(5), signed(u64::MAX), unsigned(5), unsigned(-1)), (5, i64::MAX, 5, 0));
    assert_eq!((micros(at(-3)), time(-3_000_000)), (-3_000_000, at(-3)));
    assert_eq!((time(i64::MIN), time(i64::MAX)), (jiff::Timestamp::MIN, jiff::Timestamp::MAX));
    let bytes = |bytes| chunk_entry(1, &[7; 32], bytes).map(|entry| entry.bytes).ok();
    assert_eq!([bytes(0), bytes(signed(MAX_CHUNK_BYTES))], [Some(0), Some(MAX_CHUNK_BYTES)]);
    assert_eq!([bytes(-1), bytes(signed(MAX_CHUNK_BYTES) + 1)], [None, None]);
    assert!(chunk_entry(1, &[7; 31], 1).is_err());
}

#[test]
fn numbers_and_epochs_rise_above_all_that_was_seen() {
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    let issued = planned(&c, 1, None, &chunk);
    let next = charge::next_pack(&c).unwrap();
    assert_eq!(next, issued.get() + 1);
    for (seen, expected) in [(next - 1, next), (next, next + 1), (next, next + 1), (99, 100), (5, 100)] {
        charge::rise(&c, seen).unwrap();
        assert_eq!(charge::next_pack(&c).unwrap(), expected, "after {seen}");
    }
    let root = row(&c, issued).root;
    let foreign = crate::id::PackRoot::of(b"foreign");
    assert_eq!(charge::without_row(&c, &[root, foreign]).unwrap(), [foreign]);
    assert!(!charge::accounts_for(&c, 7, PackId::new(70)).unwrap());
    charge::spend(&c, 7, PackId::new(70)).unwrap();
    assert!(charge::accounts_for(&c, 7, PackId::new(70)).unwrap());
    assert!(!charge::accounts_for(&c, 8, PackId::new(70)).unwrap());

    assert_eq!(charge::turn_read_only(&c, "first").unwrap(), "first");
    assert_eq!(charge::turn_read_only(&c, "second").unwrap(), "first");
    let start = |epoch| Start { epoch, ..charge::start_of(epoch, &[3; 16]) };
    assert!(!charge::knows(&c, &start(20)).unwrap());
    assert_eq!(charge::adopt(&c, &[9; 16], Highest { epoch: 20, pack: 500 }).unwrap(), 21);
    assert_eq!(charge::next_pack(&c).unwrap(), 501);
    assert!(charge::knows(&c, &start(20)).unwrap(), "it is older than what was adopted");
    assert!(!charge::knows(&c, &start(21)).unwrap(), "another instance of the same epoch");
    assert!(charge::knows(&c, &charge::start_of(21, &[9; 16])).unwrap());
    assert!(charge::accounts_for(&c, 20, PackId::new(1)).unwrap());
    assert!(!charge::accounts_for(&c, 21, PackId::new(1)).unwrap());
    let begun = charge::start(&c, super::rows::POOL, [4; 16], 3, at(1)).unwrap();
    assert_eq!((begun.epoch, begun.read_only), (22, None));
}

#[test]
fn plain_chunks_belong_to_all_vaults_and_sealed_ones_to_their_own() {
    let vault =
        |c: &rusqlite::Connection| super::rows::number(c, "SELECT min(vault_id) + 10 * max(vault_id) FROM chunk");
    let c = empty();
    file(&c, 1, &[1, 2]);
    assert_eq!(vault(&c), 11);
    let c = empty();
    let plain = |seed| ChunkDesc { length: 116, part: Part::Plain, ..desc(seed) };
    let link = ChunkDesc { length: 0, part: Part::Link, ..desc(3) };
    let public = appending(upload(1), true);
    chunks::append(&c, &public, &append(0, vec![plain(1), plain(2)], 0)).unwrap();
    chunks::append(&c, &public, &append(0, vec![link], 0)).unwrap();
    assert_eq!(vault(&c), 0);
    let listed = chunks::manifest(&c, 1, 0, 10).unwrap();
    assert_eq!(listed.iter().map(|row| row.desc).collect::<Vec<_>>(), [plain(1), plain(2)], "data only");
    assert_eq!(super::rows::number(&c, "SELECT part FROM manifest ORDER BY idx DESC LIMIT 1"), 2);
}

/// A late repetition under another key would make what is there unreadable.
#[test]
fn a_repeated_append_changes_no_key_and_no_weight() {
    let c = empty();
    let at = appending(upload(1), false);
    chunks::append(&c, &at, &append(0, vec![desc(1)], 50)).unwrap();
    let before = chunks::generation(&c, upload(1), 1).unwrap();
    assert!(chunks::append(&c, &at, &append(0, vec![desc(1)], 60)).unwrap().repeated);
    assert_eq!(chunks::generation(&c, upload(1), 1).unwrap(), before);
    assert_eq!(chunks::key_pages(&c, 1, 0, 1).unwrap()[0].1.0.len(), 50);
}

#[test]
fn only_a_visible_version_of_the_vault_itself_is_read() {
    let c = empty();
    let (version, _) = file(&c, 1, &[1]);
    let readable = |vault| chunks::readable(&c, vault, crate::api::VersionId(version));
    assert!(readable(1).unwrap().is_none(), "it is pending");
    super::rows::commit(&c, version);
    assert_eq!(readable(1).unwrap().unwrap().chunk_size, 1000);
    assert!(readable(2).unwrap().is_none(), "another vault");
    for (size, good) in [(1, true), (signed(MAX_CHUNK_BYTES), true), (0, false), (signed(MAX_CHUNK_BYTES) + 1, false)] {
        c.execute("UPDATE version SET chunk_size = ?1", [size]).unwrap();
        assert_eq!(readable(1).is_ok(), good, "{size}");
    }
}

#[test]
fn a_token_opens_one_account_until_it_is_revoked() {
    use crate::admin::Role;
    use crate::catalog::users;
    let c = empty();
    assert!(users::create(&c, "a", Role::User, b"", at(0)).is_err(), "the name is taken");
    let user = users::create(&c, "b", Role::User, b"keys", at(0)).unwrap();
    for (id, owner, name) in [("t1", user.id, "cli"), ("t2", user.id, "cli"), ("t3", user.id, "web"), ("t4", 1, "cli")]
    {
        users::add_token(&c, owner, id, b"hash", name, at(0)).unwrap();
    }
    let opens = || ["t1", "t2", "t3", "t4", "none"].map(|id| users::token(&c, id).unwrap().map(|row| row.user.role));
    let (common, admin) = (Some(Role::User), Some(Role::Admin));
    assert_eq!(opens(), [common, common, common, admin, None]);
    assert_eq!(users::token(&c, "t1").unwrap().unwrap().user, user);
    users::revoke(&c, "t1", at(1)).unwrap();
    assert_eq!(opens(), [None, common, common, admin, None]);
    users::revoke_named(&c, user.id, "cli", at(1)).unwrap();
    assert_eq!(opens(), [None, None, common, admin, None]);
    assert_eq!((users::first_admin(&c).unwrap(), users::count(&c).unwrap()), (Some(1), 2));
}
