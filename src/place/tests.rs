//! Tests of placement: the rules, how evenly nodes fill, how little moves, and spread. Every random case is a proptest
//! case, which prints its input when it fails.

use std::collections::BTreeSet;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, proptest};

use super::{NewChunk, PlaceNode, Topology, spread};
use crate::id::ChunkId;

const TB: u64 = 1_000_000_000_000;

fn node(name: usize, zone: usize, capacity_bytes: u64) -> PlaceNode {
    let id = format!("node-{name}").parse().unwrap();
    PlaceNode { id, zone: format!("zone-{zone}"), capacity_bytes, open: true }
}

fn nodes(capacities: &[u64]) -> Vec<PlaceNode> {
    capacities.iter().enumerate().map(|(at, capacity)| node(at, at, *capacity)).collect()
}

fn chunk(number: u64) -> ChunkId {
    ChunkId::of(&number.to_be_bytes())
}

fn zones_of(topology: &Topology, chosen: &[usize]) -> usize {
    chosen.iter().map(|at| topology.nodes()[*at].zone.as_str()).collect::<BTreeSet<_>>().len()
}

/// Copies that each node gets of so many chunks.
fn fill(topology: &Topology, chunks: u64) -> Vec<f64> {
    let mut copies = vec![0.0; topology.nodes().len()];
    for at in (0..chunks).flat_map(|number| topology.choose(&chunk(number), &[])) {
        copies[at] += 1.0;
    }
    copies
}

#[test]
fn places_never_change_from_one_release_to_the_next() {
    let zones = [0, 0, 1, 1, 2];
    let nodes = (0..5).map(|at| node(at, zones[at], (at as u64 + 1) * TB)).collect();
    let topology = Topology::new(nodes, 3);
    let chosen: Vec<Vec<usize>> = (0..8).map(|number| topology.choose(&chunk(number), &[])).collect();
    let slowness: Vec<u64> = topology.draws.iter().map(|draw| draw.slowness).collect();
    assert_eq!(
        format!("{chosen:?}"),
        "[[4, 3, 1], [4, 3, 0], [1, 4, 3], [4, 3, 1], [4, 3, 1], [4, 3, 1], [4, 1, 2], [4, 3, 1]]"
    );
    assert_eq!(format!("{slowness:?}"), "[73375770854, 36688879511, 59570727546, 44678726989, 4294967296]");
    assert_eq!(format!("{:?}", topology.rank(&chunk(0))), "[4, 3, 1, 0, 2]");
}

/// Weights that differ by little still move chunks, of every pool at once: any change of them is one of the stored form.
#[test]
fn weights_never_change_from_one_release_to_the_next() {
    type Case<'a> = (&'a [u64], &'a [usize], u32, &'a [u64]);
    let cases: [Case<'_>; 8] = [
        (&[1, 1, 2, 4], &[0, 1, 2, 3], 2, &[856473944416, 856473944416, 428194882638, 4294967296]),
        (&[1, 2, 3], &[0, 1, 2], 3, &[4294967296, 4294967296, 4294967296]),
        (&[1, 3, 2, 2, 4], &[0, 0, 1, 1, 2], 2, &[17179869184, 5726623061, 8589934592, 8589934592, 4294967296]),
        (&[1, 3, 2, 2, 9], &[0, 0, 1, 1, 2], 3, &[91113454145, 30371923142, 51539607550, 51539607550, 4294967296]),
        (
            &[1, 2, 3, 2, 2, 2],
            &[0, 0, 0, 1, 1, 1],
            3,
            &[17589723064, 8114841013, 4294967296, 8148796142, 8148796142, 8148796142],
        ),
        (
            &[5, 4, 3, 2, 1, 9],
            &[0, 0, 0, 0, 1, 2],
            4,
            &[29872250970, 43588072483, 62118341452, 97398087686, 4294967296, 4294967296],
        ),
        (&[0, 1, 1 << 20, 1 << 40], &[0, 1, 2, 3], 2, &[663636194231, 663636194231, 663636194231, 4294967296]),
        (&[7, 7, 7, 7], &[0, 0, 0, 0], 1, &[4294967296, 4294967296, 4294967296, 4294967296]),
    ];
    for (capacities, zones, replicas, expected) in cases {
        let list = (0..zones.len()).map(|at| node(at, zones[at], capacities[at])).collect();
        let topology = Topology::new(list, replicas);
        let slowness: Vec<u64> = topology.draws.iter().map(|draw| draw.slowness).collect();
        assert_eq!(slowness, expected, "{capacities:?} {zones:?} {replicas}");
    }
}

#[test]
fn a_node_is_known_by_its_identity() {
    let topology = Topology::new(nodes(&[TB; 4]), 3);
    for (at, node) in topology.nodes().iter().enumerate() {
        assert_eq!(topology.index_of(&node.id), Some(at));
    }
    assert_eq!(topology.index_of(&"stranger".parse().unwrap()), None);
    assert_eq!(topology.replicas(), 3);
    let closed = topology.with_open([true, false, true, false].into_iter());
    assert_eq!(closed.nodes().iter().map(|node| node.open).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn unequal_nodes_fill_evenly() {
    let cases: [(&[u64], u32); 6] = [
        (&[1, 1, 2, 4], 2),
        (&[1, 1, 2, 4], 3),
        (&[1, 2, 3, 4, 5, 6, 7], 3),
        (&[1, 1, 1, 1, 1, 10], 2),
        (&[3, 3, 3], 1),
        (&[20, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4], 3),
    ];
    for (capacities, replicas) in cases {
        let topology = Topology::new(nodes(&capacities.iter().map(|tb| tb * TB).collect::<Vec<_>>()), replicas);
        let copies = fill(&topology, 40_000);
        // What a node can take: at most one copy of every chunk; what is above that is shared by the others.
        let (mut due, mut left) = (vec![0.0; capacities.len()], f64::from(replicas));
        let mut free: Vec<usize> = (0..capacities.len()).collect();
        loop {
            let total: u64 = free.iter().map(|at| capacities[*at]).sum();
            let share = |at: usize| left * capacities[at] as f64 / total as f64;
            let Some(over) = free.iter().position(|at| share(*at) > 1.0) else {
                free.iter().for_each(|at| due[*at] = share(*at));
                break;
            };
            due[free.swap_remove(over)] = 1.0;
            left -= 1.0;
        }
        for (at, copies) in copies.iter().enumerate() {
            let found = copies / 40_000.0;
            assert!(
                (found - due[at]).abs() < 0.03 * due[at] + 0.001,
                "{capacities:?} R={replicas}: {due:?} {at} {found}"
            );
        }
    }
}

#[test]
fn unequal_nodes_in_zones_fill_evenly() {
    // Three machines of equal size with nodes of unequal size, and two machines for three copies.
    let three = [(0, 1), (0, 3), (1, 2), (1, 2), (2, 4)];
    let two = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 2), (1, 2)];
    for (layout, replicas) in [(&three[..], 2), (&three[..], 3), (&two[..], 3), (&two[..], 2)] {
        let list = layout.iter().enumerate().map(|(at, (zone, tb))| node(at, *zone, tb * TB)).collect();
        let copies = fill(&Topology::new(list, replicas), 40_000);
        let total: u64 = layout.iter().map(|(_, tb)| tb).sum();
        for (copies, (_, tb)) in copies.iter().zip(layout) {
            let due = f64::from(replicas) * *tb as f64 / total as f64;
            let found = copies / 40_000.0;
            assert!((found - due).abs() < 0.03 * due, "{layout:?} R={replicas}: due {due} found {found}");
        }
    }
}

#[test]
fn a_node_that_joins_unequal_ones_moves_about_its_share() {
    let before = Topology::new(nodes(&[TB, 2 * TB, 3 * TB, 2 * TB, 4 * TB]), 3);
    let after = Topology::new(nodes(&[TB, 2 * TB, 3 * TB, 2 * TB, 4 * TB, 3 * TB]), 3);
    let (mut moved, mut gained) = (0, 0);
    for number in 0..20_000 {
        let (old, new) = (before.choose(&chunk(number), &[]), after.choose(&chunk(number), &[]));
        moved += new.iter().filter(|at| !old.contains(at)).count();
        gained += usize::from(new.contains(&5));
    }
    assert!((gained as f64 / 20_000.0 - 0.6).abs() < 0.02, "its share is 3 of 15 TB, of 3 copies: {gained}");
    assert!(moved as f64 <= 1.15 * gained as f64, "{moved} moved for {gained}");
}

#[test]
fn odd_topologies_are_harmless() {
    assert!(Topology::new(Vec::new(), 3).choose(&chunk(1), &[]).is_empty());
    let mut list = nodes(&[0, 0, u64::MAX, 1]);
    assert_eq!(Topology::new(list.clone(), 0).choose(&chunk(1), &[]), Vec::<usize>::new());
    assert_eq!(Topology::new(list.clone(), u32::MAX).choose(&chunk(1), &[]).len(), 4);
    list[0].open = false;
    let topology = Topology::new(list, 3);
    let chosen: BTreeSet<usize> = topology.choose(&chunk(1), &[2, 99]).into_iter().collect();
    assert_eq!(chosen, BTreeSet::from([1, 3]));
    assert_eq!(topology.rank(&chunk(1)).len(), 4);
}

#[test]
fn what_spread_keeps_off_never_costs_a_copy_or_a_zone() {
    let topology = Topology::new(nodes(&[TB; 4]), 3);
    let free = topology.choose(&chunk(1), &[]);
    let kept_off = [free[0]];
    assert!(!topology.choose_spread(&chunk(1), &kept_off, &[]).contains(&free[0]));
    assert_eq!(topology.choose_spread(&chunk(1), &kept_off, &[free[1]]), topology.choose(&chunk(1), &[free[1]]));
    let list = (0..4).map(|at| node(at, at.min(1), TB)).collect();
    let zoned = Topology::new(list, 2);
    assert!(zoned.choose_spread(&chunk(1), &[0], &[]).contains(&0));
}

#[test]
fn a_thousand_chunks_are_placed_and_spread_in_bounded_time() {
    // Zones that force node 0 to hold all: the search for a way out must end, and change nothing.
    let list = (0..30).map(|at| node(at, at.min(1), TB)).collect();
    let topology = Topology::new(list, 2);
    let mut chunks: Vec<NewChunk> = (0..1024).map(|number| NewChunk::new(&topology, chunk(number))).collect();
    let before = chunks.clone();
    assert!(!spread(&topology, &(0..30).collect(), &mut chunks));
    assert_eq!(chunks, before);
}

/// Nodes with zones, and a number of copies.
fn pools() -> impl Strategy<Value = (Vec<PlaceNode>, u32)> {
    let one = (0usize..4, 1u64..9, prop::bool::weighted(0.9));
    (prop::collection::vec(one, 1..10), 1u32..5).prop_map(|(list, replicas)| {
        let made =
            list.into_iter().enumerate().map(|(at, (zone, tb, open))| PlaceNode { open, ..node(at, zone, tb * TB) });
        (made.collect(), replicas)
    })
}

/// Open nodes N, copies R and chunks k with `k * (N - R) >= N`.
fn spreadable() -> impl Strategy<Value = (usize, u32, usize)> {
    (3usize..=10, 1u32..=4).prop_filter("R < N", |(n, r)| (*r as usize) < *n).prop_flat_map(|(n, r)| {
        let least = n.div_ceil(n - r as usize);
        (Just(n), Just(r), least..least + 3)
    })
}

fn held_by_all(topology: &Topology, among: &BTreeSet<usize>, chunks: &[NewChunk]) -> BTreeSet<usize> {
    let holds_all = |at: &usize| chunks.iter().all(|chunk| chunk.nodes.contains(at));
    among.iter().copied().filter(|at| *at < topology.nodes().len() && holds_all(at)).collect()
}

fn copies_moved(before: &[NewChunk], after: &[NewChunk]) -> usize {
    let moved = |(old, new): (&NewChunk, &NewChunk)| new.nodes.iter().filter(|at| !old.nodes.contains(at)).count();
    before.iter().zip(after).map(moved).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn copies_are_on_distinct_open_nodes_in_as_many_zones_as_there_are(
        (list, replicas) in pools(), number: u64, excluded in prop::collection::vec(0usize..10, 0..4),
    ) {
        let topology = Topology::new(list, replicas);
        let chosen = topology.choose(&chunk(number), &excluded);
        let left: Vec<usize> = (0..topology.nodes().len())
            .filter(|at| topology.nodes()[*at].open && !excluded.contains(at)).collect();
        prop_assert_eq!(chosen.len(), left.len().min(replicas as usize));
        prop_assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
        prop_assert!(chosen.iter().all(|at| left.contains(at)));
        prop_assert_eq!(zones_of(&topology, &chosen), zones_of(&topology, &left).min(chosen.len()));
        // As even as possible: no zone has two more than another that has a node to spare.
        let count = |at: &usize, of: &[usize]| of.iter().filter(|o| topology.nodes()[**o].zone == topology.nodes()[*at].zone).count();
        for spare in left.iter().filter(|at| !chosen.contains(at)) {
            prop_assert!(chosen.iter().all(|at| count(at, &chosen) <= count(spare, &chosen) + 1));
        }
        prop_assert_eq!(topology.rank(&chunk(number)).len(), topology.nodes().len());
    }

    #[test]
    fn the_order_of_the_list_does_not_matter((list, replicas) in pools(), number: u64) {
        let names = |topology: &Topology| -> Vec<_> {
            topology.choose(&chunk(number), &[]).iter().map(|at| topology.nodes()[*at].id.clone()).collect()
        };
        let backwards = list.iter().rev().cloned().collect();
        prop_assert_eq!(names(&Topology::new(list, replicas)), names(&Topology::new(backwards, replicas)));
    }

    #[test]
    fn closing_or_excluding_a_node_moves_only_what_it_had((list, replicas) in pools(), closed: prop::sample::Index) {
        let closed = closed.index(list.len());
        let before = Topology::new(list.clone(), replicas);
        let mut list = list;
        list[closed].open = false;
        let after = Topology::new(list, replicas);
        for number in 0..50 {
            let (old, new) = (before.choose(&chunk(number), &[]), after.choose(&chunk(number), &[]));
            prop_assert_eq!(&new, &before.choose(&chunk(number), &[closed]));
            if !old.contains(&closed) {
                prop_assert_eq!(&old, &new);
            }
        }
    }

    #[test]
    fn an_equal_node_that_joins_takes_its_share_and_moves_nothing_else(count in 3usize..9, replicas in 1u32..4) {
        let before = Topology::new(nodes(&vec![TB; count]), replicas);
        let after = Topology::new(nodes(&vec![TB; count + 1]), replicas);
        let mut gained = 0;
        for number in 0..2000 {
            let (old, new) = (before.choose(&chunk(number), &[]), after.choose(&chunk(number), &[]));
            let came: Vec<usize> = new.iter().filter(|at| !old.contains(at)).copied().collect();
            prop_assert!(came.is_empty() || came == [count], "{:?} {:?}", old, new);
            gained += came.len();
        }
        let share = 2000.0 * f64::from(replicas) / (count + 1) as f64;
        prop_assert!((gained as f64 - share).abs() < 5.0 * share.sqrt(), "{} for {}", gained, share);
    }

    #[test]
    fn spread_holds_whenever_it_can((n, replicas, k) in spreadable(), seed: u64, closed in 0usize..3) {
        let mut list = nodes(&(0..n + closed).map(|at| (at as u64 % 3 + 1) * TB).collect::<Vec<_>>());
        list[n..].iter_mut().for_each(|node| node.open = false);
        let topology = Topology::new(list, replicas);
        let place = |number: usize| NewChunk::new(&topology, chunk(seed.wrapping_add(number as u64)));
        let before: Vec<NewChunk> = (0..k).map(place).collect();
        let everybody = (0..n + closed).collect();
        let mut chunks = before.clone();
        prop_assert!(spread(&topology, &everybody, &mut chunks));
        prop_assert!(held_by_all(&topology, &everybody, &chunks).is_empty());
        prop_assert_eq!(copies_moved(&before, &chunks), held_by_all(&topology, &everybody, &before).len());
        for chunk in &chunks {
            prop_assert_eq!(&chunk.nodes, &topology.choose(&chunk.chunk, &chunk.excluded));
            prop_assert_eq!(&chunk.nodes, &topology.choose_spread(&chunk.chunk, &chunk.excluded, &[]));
            prop_assert_eq!(chunk.nodes.len(), replicas as usize);
        }
        let again = chunks.clone();
        prop_assert!(spread(&topology, &everybody, &mut chunks));
        prop_assert_eq!(again, chunks);
    }

    /// Else one rule undoes what another did, for ever.
    #[test]
    fn what_is_kept_or_added_is_kept_off_nodes_only_while_it_costs_nothing(
        (list, replicas) in pools(), number: u64, have in any::<u16>(), off in any::<u16>(), wanted in 1usize..5,
    ) {
        let topology = Topology::new(list, replicas);
        let of = |bits: u16| (0..topology.nodes().len()).filter(|at| bits >> at & 1 == 1).collect::<Vec<usize>>();
        let (chunk, have, off) = (chunk(number), of(have), of(off));
        let count = |chosen: &[usize]| chosen.iter().filter(|at| off.contains(at)).count();
        let together = |chosen: &[usize]| topology.crowding(&[&have[..], chosen].concat());
        let (free, kept) = (topology.keep(&chunk, &have, &[], wanted), topology.keep(&chunk, &have, &off, wanted));
        prop_assert_eq!(free.len(), kept.len());
        prop_assert!(topology.crowding(&kept) <= topology.crowding(&free) && count(&kept) <= count(&free));
        prop_assert!(kept.iter().all(|at| have.contains(at)));
        let add = |off: &[usize]| topology.choose_beside(&chunk, &have, off, &[], wanted);
        let (free, added) = (add(&[]), add(&off));
        prop_assert_eq!(free.len(), added.len());
        prop_assert!(together(&added) <= together(&free) && count(&added) <= count(&free));
        prop_assert!(added.iter().all(|at| topology.nodes()[*at].open && !have.contains(at)));
    }

    #[test]
    fn spread_respects_zones_and_fails_only_for_them(
        (list, replicas) in pools(), k in 1usize..6, seed: u64, held in any::<u16>(),
    ) {
        let topology = Topology::new(list, replicas);
        let held: BTreeSet<usize> = (0..topology.nodes().len()).filter(|at| held >> at & 1 == 1).collect();
        let place = |number: usize| NewChunk::new(&topology, chunk(seed.wrapping_add(number as u64)));
        let before: Vec<NewChunk> = (0..k).map(place).collect();
        let mut chunks = before.clone();
        let holds = spread(&topology, &held, &mut chunks);
        prop_assert_eq!(holds, held_by_all(&topology, &held, &chunks).is_empty());
        for (old, new) in before.iter().zip(&chunks) {
            prop_assert_eq!(&new.nodes, &topology.choose(&new.chunk, &new.excluded));
            prop_assert_eq!(old.nodes.len(), new.nodes.len());
            prop_assert_eq!(zones_of(&topology, &old.nodes), zones_of(&topology, &new.nodes));
        }
        if !holds {
            prop_assert_eq!(&before, &chunks);
            let options: Vec<_> = before.iter().map(|chunk| options(&topology, chunk)).collect();
            prop_assert!(!possible(&held, &options), "{:?}", before);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn spread_holds_when_every_chunk_is_on_the_same_nodes((n, replicas, k) in spreadable(), seed: u64) {
        // The worst case: k chunks that all chose the same nodes, found by trying many.
        let topology = Topology::new(nodes(&vec![TB; n]), replicas);
        let same = topology.choose(&chunk(seed), &[]);
        let candidates = (0..200_000u64).map(|number| NewChunk::new(&topology, chunk(seed.wrapping_add(number))));
        let chosen = candidates.filter(|chunk| same.iter().all(|at| chunk.nodes.contains(at)));
        let before: Vec<NewChunk> = chosen.take(k).collect();
        prop_assert_eq!(before.len(), k);
        let mut chunks = before.clone();
        let everybody = (0..n).collect();
        prop_assert!(spread(&topology, &everybody, &mut chunks));
        prop_assert!(held_by_all(&topology, &everybody, &chunks).is_empty());
        prop_assert_eq!(copies_moved(&before, &chunks), replicas as usize);
    }
}

/// Every set of nodes that is as even over zones as a chunk's own.
fn options(topology: &Topology, chunk: &NewChunk) -> Vec<BTreeSet<usize>> {
    let open = |at: &usize| topology.nodes()[*at].open;
    let subset = |mask: u32| (0..topology.nodes().len()).filter(|at| mask >> at & 1 == 1).collect::<Vec<_>>();
    let fits = |nodes: &Vec<usize>| {
        nodes.iter().all(open)
            && nodes.len() == chunk.nodes.len()
            && topology.crowding(nodes) <= topology.crowding(&chunk.nodes)
    };
    (0..1 << topology.nodes().len()).map(subset).filter(fits).map(|nodes| nodes.into_iter().collect()).collect()
}

/// Whether some choice of options leaves no node with all chunks.
fn possible(held: &BTreeSet<usize>, options: &[Vec<BTreeSet<usize>>]) -> bool {
    let Some((first, rest)) = options.split_first() else { return held.is_empty() };
    let mut left: BTreeSet<BTreeSet<usize>> = first.iter().map(|nodes| held & nodes).collect();
    left.retain(|held| possible(held, rest));
    !left.is_empty()
}
