//! What mends a chunk, as plain data: which copy is written where, from which others, and which pack is protected again.

use std::collections::BTreeSet;

use crate::admin::{Action, Do};
use crate::coordinator::registry::View;
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
    /// The chunk is kept off the node that a copy leaves, from now on.
    pub keep_off: bool,
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

impl From<&ReplicaRow> for Source {
    fn from(replica: &ReplicaRow) -> Self {
        Self { node: replica.node, pack: replica.pack, root: replica.root }
    }
}

/// Planned acts, those for the most endangered chunks first: at most [`MAX_REPORTED`] at a time, all are counted.
#[derive(Default)]
pub(in crate::coordinator) struct Batch {
    acts: Vec<Act>,
    total: u64,
}

impl Batch {
    pub(super) fn extend(&mut self, acts: impl IntoIterator<Item = Act>) {
        acts.into_iter().for_each(|act| self.add(act));
    }

    pub(super) fn add(&mut self, act: Act) {
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
/// of them, plans to give up those that are too many. While repair is `held`, only protects again what is there.
pub(super) fn plan_copies(
    view: &View,
    chunk: &ChunkState,
    standings: &[(&ReplicaRow, Standing)],
    copies: &Copies<'_>,
    (check, held): (&Check, bool),
) -> Vec<Act> {
    let planner = Planner { view, chunk, standings, copies, check };
    let mut acts = Vec::new();
    planner.plan(held, &mut acts);
    acts
}

/// Plans for one chunk. Nodes are meant by their index in the view, or by their row.
struct Planner<'a> {
    view: &'a View,
    chunk: &'a ChunkState,
    standings: &'a [(&'a ReplicaRow, Standing)],
    copies: &'a Copies<'a>,
    check: &'a Check,
}

/// A copy to be written: where (by index), and the node (by row) whose copy it stands for.
type NewCopy = (usize, Option<i64>);

impl Planner<'_> {
    fn plan(&self, held: bool, acts: &mut Vec<Act>) {
        let copies = self.copies;
        if copies.has_surplus() {
            let spares = self.spares();
            self.protect(|replica| !spares.contains(&replica.node), acts);
            let spares = if held { Vec::new() } else { spares };
            spares.into_iter().for_each(|node| self.drop_all(node, None, acts));
            return;
        }
        if held {
            return self.protect(|_| true, acts);
        }
        let (mut writes, given_up) = self.copy(acts);
        self.part(&mut writes);
        // What goes elsewhere is protected until then, but gets no pack of its own for that.
        let goes = |node: i64| given_up.contains(&node) || writes.iter().any(|(_, leaves)| *leaves == Some(node));
        self.protect(|replica| !(copies.broken.contains(&replica.pack) && goes(replica.node)), acts);
        writes.into_iter().for_each(|write| self.write(write, acts));
    }

    fn sources(&self) -> Vec<Source> {
        let readable = self.standings.iter().filter(|(_, standing)| standing.can_be_read());
        readable.map(|(replica, _)| Source::from(*replica)).collect()
    }

    fn act(&self, means: Means) -> Act {
        let good = self.standings.iter().filter(|(_, standing)| standing.can_be_read()).count();
        Act { means, chunk: self.chunk.row, vault: self.chunk.vault, entry: self.chunk.entry, good, keep_off: false }
    }

    /// Packs that are there and not protected, and which of them are to be.
    fn protect(&self, which: impl Fn(&ReplicaRow) -> bool, acts: &mut Vec<Act>) {
        let bare = self.standings.iter().filter(|(_, standing)| *standing == Standing::Unprotected);
        for (replica, _) in bare.filter(|(replica, _)| which(replica)) {
            let (node, pack) = (replica.node, replica.pack);
            acts.push(self.act(Means::Protect { from: self.sources(), node, pack }));
        }
    }

    /// A node's replicas of the chunk: it may have it in more packs than one.
    fn all_on(&self, node: i64) -> Vec<Spare> {
        let on = |(replica, standing): &&(&ReplicaRow, Standing)| {
            replica.node == node && !matches!(standing, Standing::Waiting | Standing::Gone)
        };
        self.standings.iter().filter(on).map(|(replica, _)| Spare { node, pack: replica.pack }).collect()
    }

    fn drop_all(&self, node: i64, but: Option<Spare>, acts: &mut Vec<Act>) {
        let others = self.all_on(node).into_iter().filter(|spare| Some(*spare) != but);
        others.for_each(|spare| acts.push(self.act(Means::Drop(spare))));
    }

    /// The replica that a node lost or has wrong.
    fn lost(&self, at: usize) -> Option<PackId> {
        let of_it = |(replica, standing): &&(&ReplicaRow, Standing)| {
            matches!(standing, Standing::Missing | Standing::Corrupt) && self.view.at(replica.node) == Some(at)
        };
        self.standings.iter().find(of_it).map(|(replica, _)| replica.pack)
    }

    /// Nodes that have a copy, or may come back with one, and that stay.
    fn have(&self) -> Vec<usize> {
        let has = |(r, s): &&(&ReplicaRow, Standing)| {
            (s.can_be_read() || *s == Standing::Waiting) && !self.copies.leaving.contains(&r.node)
        };
        self.standings.iter().filter(has).filter_map(|(r, _)| self.view.at(r.node)).collect()
    }

    /// Nodes that get nothing of this.
    fn excluded(&self) -> Vec<usize> {
        let closed = self.copies.leaving.iter().chain(self.copies.unlisted).filter_map(|row| self.view.at(*row));
        let failed = (0..self.view.members.len()).filter(|at| self.failed(*at));
        closed.chain(failed).collect()
    }

    /// Nodes that the chunk is kept off for the sake of spread, where that costs nothing else.
    fn kept_off(&self) -> Vec<usize> {
        let is_off = |at: &usize| self.chunk.is_kept_off(&self.view.members[*at].row.id);
        (0..self.view.members.len()).filter(is_off).collect()
    }

    fn failed(&self, at: usize) -> bool {
        self.check.failed.contains(&(self.row(at), self.chunk.row))
    }

    fn row(&self, at: usize) -> i64 {
        self.view.members[at].row.row
    }

    fn zone(&self, at: usize) -> &str {
        self.view.members[at].row.zone.as_str()
    }

    /// Where as many copies go as are short.
    fn targets(&self) -> Vec<usize> {
        let (have, excluded, short) = (self.have(), self.excluded(), self.copies.short());
        let takes = |at: usize| self.view.seen[at].open && !excluded.contains(&at) && !have.contains(&at);
        let mut targets: Vec<usize> = Vec::new();
        for at in (0..self.view.members.len()).filter(|at| takes(*at) && self.lost(*at).is_some()) {
            let is_taken = |wanted: &str| have.iter().chain(&targets).any(|at| self.zone(*at) == wanted);
            let other = (0..self.view.members.len()).any(|other| takes(other) && !is_taken(self.zone(other)));
            // Where it was is the place for it, unless another zone is.
            if !is_taken(self.zone(at)) || !other {
                targets.push(at);
            }
        }
        let beside: Vec<usize> = have.iter().chain(&targets).copied().collect();
        let kept_off = self.kept_off();
        let chosen = self.view.topology.choose_beside(&self.chunk.entry.chunk, &beside, &kept_off, &excluded, short);
        targets.extend(chosen);
        // A node whose block cache is live takes what it lost or spoilt without writing it: others come first.
        targets.sort_by_key(|at| self.lost(*at).is_some() && self.view.members[*at].row.cache_live);
        targets.truncate(short);
        targets
    }

    /// Copies for those that are missing, and for those on nodes that are to be emptied: what is needless there then is to be
    /// given up. Says which nodes (by row) that is beside those that the copies stand for.
    fn copy(&self, acts: &mut Vec<Act>) -> (Vec<NewCopy>, Vec<i64>) {
        let (targets, copies) = (self.targets(), self.copies);
        let short = copies.short();
        // What is missing comes first: only the last ones stand for copies that leave, and these go once the target is there
        // without any of them.
        let whole = copies.staying.len() + targets.len() >= copies.target;
        let mut leaving = copies.good.intersection(copies.leaving).copied();
        let urgent = short.saturating_sub(copies.moves());
        let stands_for = |(nth, at)| (at, if nth < urgent || !whole { None } else { leaving.next() });
        let writes: Vec<NewCopy> = targets.into_iter().enumerate().map(stands_for).collect();
        let mut others = Vec::new();
        if whole && short > 0 {
            others = leaving.chain(copies.spoilt.iter().copied()).collect();
            others.iter().for_each(|node| self.drop_all(*node, None, acts));
            let moved = writes.iter().filter_map(|(_, leaves)| *leaves);
            moved.for_each(|node| self.drop_all(node, self.spare(node), acts));
        }
        (writes, others)
    }

    fn spare(&self, node: i64) -> Option<Spare> {
        self.all_on(node).into_iter().next()
    }

    /// Then those that share a zone are parted.
    fn part(&self, writes: &mut Vec<NewCopy>) {
        let mut after: BTreeSet<usize> = self.have().into_iter().chain(writes.iter().map(|(at, _)| *at)).collect();
        let (staying, mut excluded) = (&self.copies.staying, self.excluded());
        let may = |at: usize| staying.contains(&self.row(at)) && !self.failed(at);
        while let Some(from) = crowded_at(self.view, &after, &may).filter(|_| self.copies.waiting.is_empty()) {
            after.remove(&from);
            excluded.push(from);
            let others: Vec<usize> = after.iter().copied().collect();
            let is_new = |at: &usize| others.iter().all(|other| self.zone(*other) != self.zone(*at));
            let kept_off = self.kept_off();
            let chosen = self.view.topology.choose_beside(&self.chunk.entry.chunk, &others, &kept_off, &excluded, 1);
            let Some(to) = chosen.into_iter().find(is_new) else { break };
            after.insert(to);
            writes.push((to, Some(self.row(from))));
        }
    }

    fn write(&self, (at, leaves): NewCopy, acts: &mut Vec<Act>) {
        let (instead, then_drop) = (self.lost(at), leaves.and_then(|node| self.spare(node)));
        let what = match (instead, then_drop) {
            (_, Some(_)) => Do::Move,
            (Some(_), None) => Do::Replace,
            (None, None) => Do::Copy,
        };
        // Which copy is read first differs from chunk to chunk, so that all nodes read; but what leaves a node is read there.
        let mut from = self.sources();
        let first = usize::try_from(self.chunk.row).unwrap_or(0) % from.len().max(1);
        from.rotate_left(first);
        from.sort_by_key(|source| then_drop.is_none_or(|spare| spare.node != source.node));
        acts.push(self.act(Means::Write { act: what, from, to: self.row(at), instead, then_drop }));
    }

    /// The nodes (by row) whose copies are too many: first those that are to be emptied, then those where the chunk belongs
    /// least. One that it is kept off, or that does not protect it, keeps it only where the others are too few.
    fn spares(&self) -> Vec<i64> {
        let (view, copies) = (self.view, self.copies);
        let is_sure = |row: &i64| self.standings.iter().any(|(r, s)| r.node == *row && *s == Standing::Good);
        let (sure, bare): (Vec<i64>, Vec<i64>) = copies.staying.iter().copied().partition(is_sure);
        let kept_off = self.kept_off();
        let keep = |rows: &[i64], wanted: usize| -> Vec<i64> {
            let nodes: Vec<usize> = rows.iter().filter_map(|row| view.at(*row)).collect();
            let kept = view.topology.keep(&self.chunk.entry.chunk, &nodes, &kept_off, wanted);
            kept.into_iter().map(|at| self.row(at)).collect()
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
            batch.add(Act { means, chunk: chunk as i64, vault: 1, entry, good, keep_off: false });
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
