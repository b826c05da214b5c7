//! Which copies count, and what keeps them.

use super::rows::{at, commit, empty, file, issued, live, number, planned, prove, row, state, upload, weight};
use crate::catalog::packs::{self, PackState, Proof, Reach};
use crate::catalog::{chunks, micros, nodes, sweep};
use crate::id::PackId;

#[test]
fn a_copy_counts_while_its_pack_is_live_proved_in_time_and_it_is_not_bad() {
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    let copies = |from, to| weight(&c, 1, from, to).copies_min.unwrap();
    assert_eq!(copies(0, 100), 0);
    let first = planned(&c, 1, None, &chunk);
    assert_eq!(copies(0, 100), 0, "planned");
    assert!(packs::stored(&c, first).unwrap());
    assert_eq!(copies(0, 100), 0, "the node's word proves nothing");
    assert!(prove(&c, first, 50));
    for (from, to, counts) in [(0, 100, 1), (50, 50, 1), (0, 49, 0), (51, 100, 0)] {
        assert_eq!(copies(from, to), counts, "proved at 50, asked for {from} to {to}");
    }
    live(&c, 1, &chunk, 50);
    assert_eq!(copies(0, 100), 1, "two packs on one node are one copy");
    let other = live(&c, 2, &chunk, 50);
    assert_eq!(copies(0, 100), 2);
    packs::mark(&c, other, chunk[0], at(60)).unwrap();
    assert_eq!(copies(0, 100), 1, "bad");
    // What was found wrong after a check began is not good again by what the check saw before.
    packs::mended(&c, other, chunk[0], at(59)).unwrap();
    assert_eq!(copies(0, 100), 1, "still bad");
    packs::mended(&c, other, chunk[0], at(60)).unwrap();
    assert_eq!(copies(0, 100), 2, "good again");
    packs::unprotected(&c, other, &(micros(at(50))..=micros(at(50)))).unwrap();
    assert_eq!(copies(0, 100), 2, "proved since");
    packs::unprotected(&c, other, &(micros(at(51))..=micros(at(90)))).unwrap();
    assert_eq!(copies(0, 100), 1, "no longer protected");
    packs::listed(&c, other, at(70)).unwrap();
    assert_eq!(copies(0, 100), 1, "a listing is no proof");
    assert!(prove(&c, other, 80));
    assert_eq!(copies(0, 100), 2);
    packs::set_state(&c, other, PackState::Dropping).unwrap();
    assert_eq!(copies(0, 100), 1, "dropping");
}

#[test]
fn a_file_has_the_copies_of_its_least_copied_chunk_and_is_spread_when_no_node_has_all() {
    let c = empty();
    let (_, two) = file(&c, 1, &[1, 2, 1]);
    live(&c, 1, &two[..2], 50);
    let own = planned(&c, 2, Some(upload(1)), &two[..1]);
    prove(&c, own, 50);
    let weighed = weight(&c, 1, 0, 100);
    assert_eq!((weighed.chunks, weighed.distinct, weighed.size), (3, 2, 300));
    assert_eq!((weighed.copies_min, weighed.spread), (Some(1), Some(false)));
    assert_eq!(weighed.new_chunks, 0, "each has a copy that was there before");
    let (_, moved) = file(&c, 2, &[3, 4]);
    for (node, chunks) in [(1, &moved[..1]), (2, &moved[1..])] {
        prove(&c, planned(&c, node, Some(upload(1)), chunks), 50);
    }
    let weighed = weight(&c, 2, 0, 100);
    assert_eq!((weighed.copies_min, weighed.spread, weighed.new_chunks), (Some(1), Some(true), 2));
    file(&c, 3, &[1]);
    assert_eq!(weight(&c, 3, 0, 100).spread, None, "one chunk cannot be spread");
    file(&c, 4, &[]);
    let none = weight(&c, 4, 0, 100);
    assert_eq!((none.copies_min, none.distinct, none.spread), (None, 0, None), "an empty file has no chunk to lose");
}

#[test]
fn an_upload_sees_live_copies_and_its_own_under_way_but_no_bad_one() {
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    let (old, bad) = (live(&c, 1, &chunk, 50), live(&c, 2, &chunk, 50));
    let (own, others) = (planned(&c, 3, Some(upload(1)), &chunk), planned(&c, 4, Some(upload(2)), &chunk));
    packs::mark(&c, bad, chunk[0], at(60)).unwrap();
    let seen = |by| -> Vec<(PackId, bool)> {
        chunks::copies(&c, chunk[0], by).unwrap().iter().map(|copy| (copy.pack, copy.live)).collect()
    };
    assert_eq!(seen(Some(upload(1))), [(old, true), (own, false)]);
    assert_eq!(seen(Some(upload(2))), [(old, true), (others, false)]);
    assert_eq!(seen(None), [(old, true)]);
}

/// What a copy that stops counting must tell: whoever weighed a file outside the writer weighs it again.
#[test]
fn whatever_makes_a_weight_less_shows_in_its_generation() {
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    let pack = live(&c, 1, &chunk, 50);
    let mut before = weight(&c, 1, 0, 100).of;
    let mut changed = |what: &str, change: bool| {
        let now = weight(&c, 1, 0, 100).of;
        assert_eq!(now != before, change, "{what}");
        before = now;
    };
    packs::mended(&c, pack, chunk[0], at(60)).unwrap();
    changed("good again", false);
    packs::mark(&c, pack, chunk[0], at(60)).unwrap();
    changed("bad", true);
    packs::unprotected(&c, pack, &(micros(at(0))..=micros(at(90)))).unwrap();
    changed("still proved", false);
    packs::unprotected(&c, pack, &(micros(at(60))..=micros(at(90)))).unwrap();
    changed("unprotected", true);
    assert!(nodes::forget_unless_needed(&c, 1, false, at(0)).unwrap() > 0);
    changed("a node that is needed", false);
    assert_eq!(nodes::forget_unless_needed(&c, 1, true, at(0)).unwrap(), 0);
    changed("a node that is lost", true);
}

#[test]
fn a_pack_goes_through_its_life_in_one_direction_only() {
    use PackState::{Dropping, Gone, Live, Planned, Stored};
    let after = |from: PackState, step: &dyn Fn(&rusqlite::Connection, PackId) -> Option<bool>| {
        let c = empty();
        let (_, chunk) = file(&c, 1, &[1]);
        let pack = planned(&c, 1, None, &chunk);
        packs::set_state(&c, pack, from).unwrap();
        (step(&c, pack), state(&c, pack))
    };
    let yes = |to| (Some(true), to);
    let no = |to| (Some(false), to);
    let proof = Proof { reach: Reach::Sampled, at: at(50) };
    let all = [Planned, Stored, Live, Dropping, Gone];
    let expected: [(&str, [_; 5]); 4] = [
        ("stored", [yes(Stored), yes(Stored), no(Live), no(Dropping), no(Gone)]),
        ("proved", [yes(Live), yes(Live), yes(Live), no(Dropping), no(Gone)]),
        ("aborted", [yes(Dropping), yes(Dropping), no(Live), no(Dropping), no(Gone)]),
        ("dropped again", [(None, Planned), (None, Stored), (None, Live), (None, Dropping), (None, Dropping)]),
    ];
    for (step, expected) in expected {
        for (from, expected) in all.into_iter().zip(expected) {
            let found = after(from, &|c, pack| match step {
                "stored" => Some(packs::stored(c, pack).unwrap()),
                "proved" => Some(packs::proved(c, pack, proof).unwrap()),
                "aborted" => Some(packs::abort(c, pack).unwrap()),
                _ => {
                    packs::drop_again(c, &row(c, pack).root).unwrap();
                    None
                }
            });
            assert_eq!(found, expected, "{from:?}, {step}");
        }
    }
}

#[test]
fn a_sample_renews_no_whole_proof_and_a_listing_none_at_all() {
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    let pack = live(&c, 1, &chunk, 50);
    packs::proved(&c, pack, Proof { reach: Reach::Sampled, at: at(60) }).unwrap();
    packs::listed(&c, pack, at(70)).unwrap();
    let found = row(&c, pack);
    assert_eq!((found.intact, found.proved), (Some(at(50)), Some(at(60))));
    assert_eq!((found.protected, found.present), (Some(at(70)), Some(at(70))));
}

#[test]
fn a_smaller_pack_takes_over_what_was_proved_and_what_was_bad() {
    let c = empty();
    let (_, all) = file(&c, 1, &[1, 2, 3]);
    let old = live(&c, 1, &all, 50);
    packs::mark(&c, old, all[1], at(60)).unwrap();
    let new = issued(&c, 1, None, Some(old), &all[..2]);
    assert_eq!(packs::replacing(&c).unwrap().iter().map(|pack| pack.id).collect::<Vec<_>>(), [new]);
    sweep::replaced(&c, &row(&c, new), old).unwrap();
    let found = row(&c, new);
    assert_eq!((found.state, found.proved, found.intact), (PackState::Live, Some(at(50)), Some(at(50))));
    let bad: Vec<bool> = packs::chunks(&c, new).unwrap().iter().map(|held| held.bad).collect();
    assert_eq!(bad, [false, true]);
    assert_eq!(packs::good(&c, new).unwrap(), 1);
    assert_eq!((state(&c, old), packs::chunks(&c, old).unwrap()), (PackState::Gone, vec![]));
    assert_eq!(packs::replacing(&c).unwrap(), []);
}

#[test]
fn a_node_is_forgotten_when_every_chunk_has_enough_proved_copies_elsewhere() {
    let c = empty();
    let (version, chunk) = file(&c, 1, &[1]);
    commit(&c, version);
    live(&c, 1, &chunk, 50);
    let seen_since = |since| nodes::forget_unless_needed(&c, 1, false, at(since)).unwrap();
    let kept = || number(&c, "SELECT count(*) FROM node WHERE id = 1") == 1;
    let two = live(&c, 2, &chunk, 50);
    assert_eq!(seen_since(0), 1, "one copy elsewhere, two are wanted");
    live(&c, 2, &chunk, 50);
    assert_eq!(seen_since(0), 1, "two packs on one node");
    let three = live(&c, 3, &chunk, 50);
    assert_eq!(seen_since(51), 1, "not seen since then");
    packs::mark(&c, three, chunk[0], at(60)).unwrap();
    assert_eq!(seen_since(0), 1, "bad");
    packs::mended(&c, three, chunk[0], at(60)).unwrap();
    packs::set_state(&c, three, PackState::Dropping).unwrap();
    assert_eq!(seen_since(0), 1, "dropping");
    packs::set_state(&c, three, PackState::Live).unwrap();
    assert!(kept());
    assert_eq!(seen_since(50), 0);
    assert!(!kept());
    assert_eq!(number(&c, "SELECT count(*) FROM pack WHERE node_id = 1"), 0);
    assert_eq!(number(&c, "SELECT count(*) FROM spent"), 1, "its pack was issued here");
    assert_eq!((state(&c, two), state(&c, three)), (PackState::Live, PackState::Live));
}

#[test]
fn a_file_whose_time_is_over_needs_no_node() {
    let c = empty();
    let (version, chunk) = file(&c, 1, &[1]);
    commit(&c, version);
    live(&c, 1, &chunk, 50);
    assert_eq!(nodes::forget_unless_needed(&c, 1, false, at(0)).unwrap(), 1);
    c.execute("UPDATE version SET expires_at = 0", []).unwrap();
    assert_eq!(nodes::forget_unless_needed(&c, 1, false, at(0)).unwrap(), 0);
}

#[test]
fn a_restart_gives_up_repairs_but_neither_puts_nor_replacements() {
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    let old = live(&c, 1, &chunk, 50);
    let repair = planned(&c, 2, None, &chunk);
    let put = planned(&c, 3, Some(upload(1)), &chunk);
    let smaller = issued(&c, 1, None, Some(old), &chunk);
    packs::abort_repairs(&c).unwrap();
    assert_eq!(
        [old, repair, put, smaller].map(|pack| state(&c, pack)),
        [PackState::Live, PackState::Dropping, PackState::Planned, PackState::Planned]
    );
    let of_node = |node, after| -> Vec<PackId> {
        packs::of_node(&c, node, after, 10).unwrap().iter().map(|pack| pack.id).collect()
    };
    assert_eq!((of_node(1, PackId::new(0)), of_node(1, old)), (vec![old, smaller], vec![smaller]));
    let holding = |node| packs::holding(&c, node, &chunk).unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!((holding(1), holding(2), holding(3)), (vec![old], vec![repair], vec![]));
}

#[test]
fn a_copy_that_somebody_speaks_of_is_one_that_counts_for_that_vault() {
    let c = empty();
    let (_, chunks_of) = file(&c, 1, &[1, 2]);
    let pack = live(&c, 1, &chunks_of, 50);
    let root = row(&c, pack).root;
    let [one, two, other] = [1, 2, 3].map(|seed| super::rows::desc(seed).chunk);
    let held = |vault, chunk, node| {
        chunks::copy_in(&c, vault, chunk, &root, node).unwrap().map(|(pack, held)| (pack, held.row))
    };
    assert_eq!(held(1, &one, 1), Some((pack, chunks_of[0])));
    assert_eq!(held(1, &two, 1), Some((pack, chunks_of[1])));
    assert_eq!(held(1, &other, 1), None, "another chunk");
    assert_eq!((held(2, &one, 1), held(1, &one, 2)), (None, None), "another vault, another node");
    packs::mark(&c, pack, chunks_of[0], at(60)).unwrap();
    assert_eq!(held(1, &one, 1), None, "bad");
    packs::set_state(&c, pack, PackState::Dropping).unwrap();
    assert_eq!(held(1, &two, 1), None, "dropping");
}

#[test]
fn a_pack_is_an_orphan_when_it_was_dropped_and_alive_when_it_is_live() {
    use crate::catalog::trace;
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    for is in [PackState::Planned, PackState::Stored, PackState::Live, PackState::Dropping, PackState::Gone] {
        let pack = planned(&c, 1, None, &chunk);
        packs::set_state(&c, pack, is).unwrap();
        let root = row(&c, pack).root;
        let orphans = trace::orphans(&c, &[root, crate::id::PackRoot::of(b"foreign")]).unwrap();
        assert_eq!(orphans, if is == PackState::Gone { vec![root] } else { vec![] }, "{is:?}");
        assert_eq!(trace::still_live(&c, pack).unwrap(), is == PackState::Live, "{is:?}");
    }
    assert!(!trace::still_live(&c, PackId::new(999)).unwrap());
}

#[test]
fn what_listings_show_of_copies_follows_what_a_check_found() {
    let c = empty();
    let made: Vec<(i64, Vec<i64>)> = (1..=3).map(|seed| file(&c, seed, &[u64::from(seed), 9])).collect();
    for (version, rows) in &made {
        live(&c, 1, rows, 50);
        live(&c, 2, &rows[..1], 50);
        commit(&c, *version);
    }
    c.execute("UPDATE version SET copies_min = replicas", []).unwrap();
    let shown = || -> Vec<(i64, Option<bool>)> {
        let mut all = c.prepare("SELECT copies_min, spread FROM version ORDER BY id").unwrap();
        all.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(chunks::refresh_copies(&c, 0, 10, at(70)).unwrap(), None, "none is short");
    chunks::note_short(&c, made[0].1[0], 0).unwrap();
    assert_eq!(shown(), [(0, None), (2, None), (2, None)]);
    chunks::note_short(&c, made[0].1[1], 1).unwrap();
    assert_eq!(shown(), [(0, None), (1, None), (1, None)], "the least is kept");
    assert_eq!(chunks::refresh_copies(&c, 0, 2, at(70)).unwrap(), Some(made[1].0));
    assert_eq!(chunks::refresh_copies(&c, made[1].0, 2, at(70)).unwrap(), Some(made[2].0));
    assert_eq!(shown(), [(1, Some(false)); 3]);
    assert_eq!(chunks::refresh_copies(&c, made[2].0, 2, at(70)).unwrap(), None);
}

#[test]
fn a_node_holds_what_is_not_gone_and_a_pack_what_is_not_bad() {
    let c = empty();
    let (_, rows) = file(&c, 1, &[1, 2, 3]);
    let pack = live(&c, 1, &rows, 50);
    let dropping = live(&c, 1, &rows[..1], 50);
    let gone = live(&c, 1, &rows[..1], 50);
    live(&c, 2, &rows[..1], 50);
    packs::set_state(&c, dropping, PackState::Dropping).unwrap();
    packs::set_state(&c, gone, PackState::Gone).unwrap();
    let used = nodes::usage(&c, 1).unwrap();
    assert_eq!((used.bytes, used.chunks), (4 * 116, 3), "what is to be dropped takes room, but counts for nobody");
    assert_eq!(packs::good(&c, pack).unwrap(), 3);
    packs::mark(&c, pack, rows[0], at(60)).unwrap();
    assert_eq!(packs::good(&c, pack).unwrap(), 2);
    assert_eq!(chunks::excluded(&c, rows[0]).unwrap(), Vec::<String>::new());
    chunks::keep_off(&c, rows[0], "node1").unwrap();
    assert_eq!(chunks::excluded(&c, rows[0]).unwrap(), ["node1"]);
}

/// Reading a pack whole renews a proof, never sets it back, and gives none that was taken away.
#[test]
fn a_whole_reading_renews_a_proof_and_gives_none() {
    let c = empty();
    let (_, chunk) = file(&c, 1, &[1]);
    let pack = live(&c, 1, &chunk, 50);
    let proved = |read, latest| {
        packs::read_whole(&c, pack, at(read), at(latest)).unwrap();
        let found = packs::get(&c, pack).unwrap().unwrap();
        assert_eq!(found.intact, Some(at(read)));
        found.proved
    };
    assert_eq!(proved(60, 100), Some(at(60)));
    assert_eq!(proved(55, 100), Some(at(60)), "a newer proof stays");
    assert_eq!(proved(30, 40), Some(at(30)), "one of a time to come is none");
    packs::unprotected(&c, pack, &(micros(at(90))..=micros(at(99)))).unwrap();
    assert_eq!(proved(70, 100), None);
}
