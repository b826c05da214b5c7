//! What mends a chunk, as plain data: which copy is written where, from which others, and which pack is protected again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::admin::{Action, Do};
use crate::coordinator::registry::{Member, View};
use crate::id::{PackId, PackRoot};
use crate::pack::PackEntry;

use super::copies::{Copies, crowded_at};
use super::rows::{ChunkState, ReplicaRow};
use super::standing::Standing;
use super::{Check, MAX_REPORTED};

/// One act, with the rows that it needs.
#[derive(Debug, Clone)]
pub(in crate::coordinator) struct Act {
    pub means: Means,
    pub chunk: i64,
    pub vault: i64,
    pub entry: PackEntry,
    /// Good copies of the chunk when this was planned: the fewer, the sooner.
    pub good: usize,
}

/// How an act is done.
#[derive(Debug, Clone)]
pub(in crate::coordinator) enum Means {
    /// Write the chunk to a node, reading from the first of these that gives it. Once that copy counts, a replica that it
    /// stands in for on the same node is forgotten, and one that it makes needless on another goes as with `Drop`.
    Write { act: Do, from: Vec<Source>, to: i64, instead: Option<PackId>, then_drop: Option<Spare> },
    /// Protect a pack again and prove it; where that cannot be, write the chunk anew.
    Protect { from: Vec<Source>, node: i64, pack: PackId },
    /// Give up a copy, if there are enough others just then.
    Drop(Spare),
}

/// A copy that is not needed where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::coordinator) struct Spare {
    pub node: i64,
    pub pack: PackId,
}

/// A copy to read from.
#[derive(Debug, Clone, Copy)]
pub(in crate::coordinator) struct Source {
    pub node: i64,
    pub pack: PackId,
    pub root: PackRoot,
}

/// Planned acts, those for the most endangered chunks first: at most [`MAX_REPORTED`] at a time, all are counted.
#[derive(Default)]
pub(in crate::coordinator) struct Batch {
    acts: Vec<Act>,
    total: u64,
}

impl Batch {
    fn add(&mut self, act: Act) {
        self.total += 1;
        self.acts.push(act);
        if self.acts.len() >= 2 * MAX_REPORTED {
            self.settle();
        }
    }

    /// Puts the acts in their order and lets go of what is too much for this time.
    pub(super) fn settle(&mut self) {
        self.acts.sort_by_key(|act| act.good);
        self.acts.truncate(MAX_REPORTED);
    }

    pub(in crate::coordinator) fn acts(&self) -> &[Act] {
        &self.acts
    }

    pub(in crate::coordinator) fn into_acts(self) -> Vec<Act> {
        self.acts
    }

    /// How many were planned, held here or not.
    pub(in crate::coordinator) const fn total(&self) -> u64 {
        self.total
    }

    /// Whether more was planned than is held here.
    pub(in crate::coordinator) const fn has_more(&self) -> bool {
        self.total > self.acts.len() as u64
    }
}

/// Plans as many new copies as are short: first in the place of those that a node lost, then where they belong. With enough
/// of them, plans to give up those that are too many.
pub(super) fn plan_copies(
    view: &View,
    chunk: &ChunkState,
    standings: &[(&ReplicaRow, Standing)],
    copies: &Copies<'_>,
    (check, held): (&Check, bool),
    batch: &mut Batch,
) {
    let source =
        |(replica, _): &(&ReplicaRow, Standing)| Source { node: replica.node, pack: replica.pack, root: replica.root };
    let from: Vec<Source> = standings.iter().filter(|(_, s)| s.can_be_read()).map(source).collect();
    let good = from.len();
    let act = |means| Act { means, chunk: chunk.row, vault: chunk.vault, entry: chunk.entry, good };
    let spares = if copies.has_surplus() { spares(view, chunk, standings, copies) } else { Vec::new() };
    for (replica, _) in standings.iter().filter(|(r, s)| *s == Standing::Unprotected && !spares.contains(&r.node)) {
        let (node, pack) = (replica.node, replica.pack);
        batch.add(act(Means::Protect { from: from.clone(), node, pack }));
    }
    if held {
        return;
    }
    // A node may have a chunk in more packs than one.
    let all_on = |node: i64| -> Vec<Spare> {
        let on = |(replica, standing): &&(&ReplicaRow, Standing)| {
            replica.node == node && !matches!(standing, Standing::Waiting | Standing::Gone)
        };
        standings.iter().filter(on).map(|(replica, _)| Spare { node, pack: replica.pack }).collect()
    };
    let drop_all = |node: i64, batch: &mut Batch, but: Option<Spare>| {
        let others = all_on(node).into_iter().filter(|spare| Some(*spare) != but);
        others.for_each(|spare| batch.add(act(Means::Drop(spare))));
    };
    if copies.has_surplus() {
        spares.into_iter().for_each(|node| drop_all(node, batch, None));
        return;
    }
    let spare = |node: i64| all_on(node).into_iter().next();
    let short = copies.short();
    let has = |(r, s): &&(&ReplicaRow, Standing)| {
        (s.can_be_read() || *s == Standing::Waiting) && !copies.leaving.contains(&r.node)
    };
    let have: Vec<usize> = standings.iter().filter(has).filter_map(|(r, _)| view.at(r.node)).collect();
    let closed = copies.leaving.iter().chain(copies.unlisted);
    let mut excluded: Vec<usize> = closed.filter_map(|row| view.at(*row)).collect();
    let failed = |(_, member): &(usize, &Arc<Member>)| check.failed.contains(&(member.row.row, chunk.row));
    excluded.extend(view.members.iter().enumerate().filter(failed).map(|(at, _)| at));
    let lost = |at: usize| {
        let of_it = |(replica, standing): &&(&ReplicaRow, Standing)| {
            matches!(standing, Standing::Missing | Standing::Corrupt) && view.at(replica.node) == Some(at)
        };
        standings.iter().find(of_it).map(|(replica, _)| replica.pack)
    };
    let takes = |at: usize| view.seen[at].open && !excluded.contains(&at) && !have.contains(&at);
    let mut targets: Vec<usize> = Vec::new();
    for at in (0..view.members.len()).filter(|at| takes(*at) && lost(*at).is_some()) {
        let zone = |at: usize| view.members[at].row.zone.as_str();
        let is_taken = |wanted: &str| have.iter().chain(&targets).any(|at| zone(*at) == wanted);
        let other = (0..view.members.len()).any(|other| takes(other) && !is_taken(zone(other)));
        // Where it was is the place for it, unless another zone is.
        if !is_taken(zone(at)) || !other {
            targets.push(at);
        }
    }
    let beside: Vec<usize> = have.iter().chain(&targets).copied().collect();
    targets.extend(view.topology.choose_beside(&chunk.entry.chunk, &beside, &excluded, short));
    let mut targets: Vec<(usize, Option<PackId>)> = targets.into_iter().map(|at| (at, lost(at))).collect();
    // A node whose block cache is live takes what it lost or spoilt without writing it: others come first.
    targets.sort_by_key(|(at, instead)| instead.is_some() && view.members[*at].row.cache_live);
    targets.truncate(short);
    // What is missing comes first: only the last ones stand for copies that leave, and these go once the target is there
    // without any of them.
    let whole = copies.staying().len() + targets.len() >= copies.target;
    let mut leaving = copies.good.intersection(copies.leaving).copied();
    let urgent = short.saturating_sub(copies.moves());
    let mut writes: Vec<(usize, Option<i64>)> = Vec::new();
    for (nth, (at, _)) in targets.iter().enumerate() {
        writes.push((*at, if nth < urgent || !whole { None } else { leaving.next() }));
    }
    if whole && short > 0 {
        leaving.chain(copies.spoilt.iter().copied()).for_each(|node| drop_all(node, batch, None));
        let moved = writes.iter().filter_map(|(_, leaves)| *leaves);
        moved.for_each(|node| drop_all(node, batch, spare(node)));
    }
    // Then those that share a zone are parted.
    let mut after: BTreeSet<usize> = have.iter().copied().chain(targets.iter().map(|(at, _)| *at)).collect();
    let staying = copies.staying();
    let may = |at: usize| staying.contains(&view.members[at].row.row) && !failed(&(at, &view.members[at]));
    while let Some(from) = crowded_at(view, &after, &may).filter(|_| copies.waiting.is_empty()) {
        after.remove(&from);
        excluded.push(from);
        let others: Vec<usize> = after.iter().copied().collect();
        let is_new =
            |at: &usize| others.iter().all(|other| view.members[*other].row.zone != view.members[*at].row.zone);
        let to = view.topology.choose_beside(&chunk.entry.chunk, &others, &excluded, 1).into_iter().find(is_new);
        let Some(to) = to else { break };
        after.insert(to);
        writes.push((to, Some(view.members[from].row.row)));
    }
    for (at, leaves) in writes {
        let (instead, then_drop) = (lost(at), leaves.and_then(spare));
        let what = match (instead, then_drop) {
            (_, Some(_)) => Do::Move,
            (Some(_), None) => Do::Replace,
            (None, None) => Do::Copy,
        };
        let to = view.members[at].row.row;
        // The node that a copy leaves gives it, where it answers: nobody else has to read.
        let mut from = from.clone();
        from.sort_by_key(|source| then_drop.is_none_or(|spare| spare.node != source.node));
        batch.add(act(Means::Write { act: what, from, to, instead, then_drop }));
    }
}

/// The nodes whose copies are too many: first those that are to be emptied, then those where the chunk belongs least. One
/// that is not protected is kept only where the others are too few.
fn spares(view: &View, chunk: &ChunkState, standings: &[(&ReplicaRow, Standing)], copies: &Copies<'_>) -> Vec<i64> {
    let is_sure = |row: &i64| standings.iter().any(|(r, s)| r.node == *row && *s == Standing::Good);
    let (sure, bare): (Vec<i64>, Vec<i64>) = copies.staying().into_iter().partition(is_sure);
    let keep = |rows: &[i64], wanted: usize| -> Vec<i64> {
        let nodes: Vec<usize> = rows.iter().filter_map(|row| view.at(*row)).collect();
        let kept = view.topology.keep(&chunk.entry.chunk, &nodes, wanted);
        kept.into_iter().map(|at| view.members[at].row.row).collect()
    };
    let mut kept = keep(&sure, copies.target);
    kept.extend(keep(&bare, copies.target.saturating_sub(kept.len())));
    if kept.len() < copies.target {
        return Vec::new();
    }
    let good = copies.good.iter().copied().filter(|row| !kept.contains(row));
    let mut spare: Vec<i64> = good.chain(copies.spoilt.iter().copied()).collect();
    spare.sort_by_key(|row| !copies.leaving.contains(row));
    spare
}

impl Act {
    pub(in crate::coordinator) fn show(&self, view: &View) -> Action {
        let (act, from, to) = match &self.means {
            Means::Write { act, from, to, .. } => (*act, from.first().map(|source| source.node), Some(*to)),
            Means::Protect { node, .. } => (Do::Replace, Some(*node), Some(*node)),
            Means::Drop(spare) => (Do::Drop, Some(spare.node), None),
        };
        Action {
            act,
            chunk: self.entry.chunk,
            from: from.map(|node| view.name(node)),
            to: to.map(|node| view.name(node)),
            bytes: self.entry.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    #[test]
    fn a_batch_keeps_the_most_endangered_and_counts_all() {
        let mut batch = Batch::default();
        for chunk in 0..5 * MAX_REPORTED {
            // One in ten has a single copy left, and these come everywhere.
            let good = if chunk % 10 == 9 { 1 } else { 2 };
            let means = Means::Protect { from: Vec::new(), node: 1, pack: PackId::new(1) };
            let entry = PackEntry { chunk: ChunkId::of(b"x"), bytes: 1 };
            batch.add(Act { means, chunk: chunk as i64, vault: 1, entry, good });
            assert!(batch.acts.len() < 2 * MAX_REPORTED);
        }
        batch.settle();
        assert_eq!((batch.acts().len(), batch.total()), (MAX_REPORTED, 5 * MAX_REPORTED as u64));
        assert!(batch.has_more());
        let single = batch.acts().iter().filter(|act| act.good == 1).count();
        assert_eq!(single, MAX_REPORTED / 2);
        assert!(batch.acts().is_sorted_by_key(|act| (act.good, act.chunk)));
    }
}
