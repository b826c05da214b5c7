//! What mends a chunk, as plain data: which copy is written where, from which others, and which pack is protected again.

use std::sync::Arc;

use crate::admin::{Action, Do};
use crate::coordinator::registry::{Member, View};
use crate::id::{PackId, PackRoot};
use crate::pack::PackEntry;

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
    /// Write the chunk to a node, reading from the first of these that gives it.
    Write { act: Do, from: Vec<Source>, to: i64, instead: Option<PackId> },
    /// Protect a pack again and prove it; where that cannot be, write the chunk anew.
    Protect { from: Vec<Source>, node: i64, pack: PackId },
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

/// Plans as many new copies as are short: first in the place of those that a node lost, then where they belong.
pub(super) fn plan_copies(
    view: &View,
    chunk: &ChunkState,
    standings: &[(&ReplicaRow, Standing)],
    short: usize,
    check: &Check,
    batch: &mut Batch,
) {
    let source =
        |(replica, _): &(&ReplicaRow, Standing)| Source { node: replica.node, pack: replica.pack, root: replica.root };
    let copies: Vec<Source> = standings.iter().filter(|(_, s)| s.can_be_read()).map(source).collect();
    let act = |means| Act { means, chunk: chunk.row, vault: chunk.vault, entry: chunk.entry, good: copies.len() };
    let leaving = standings.iter().filter(|(replica, _)| check.leaving == Some(replica.node));
    let from: Vec<Source> = copies.iter().copied().chain(leaving.map(source)).collect();
    for (replica, _) in standings.iter().filter(|(_, s)| *s == Standing::Unprotected) {
        let (node, pack) = (replica.node, replica.pack);
        batch.add(act(Means::Protect { from: from.clone(), node, pack }));
    }
    let has = |(_, s): &&(&ReplicaRow, Standing)| s.can_be_read() || *s == Standing::Waiting;
    let mut excluded: Vec<usize> = standings.iter().filter(has).filter_map(|(r, _)| view.at(r.node)).collect();
    excluded.extend(check.leaving.and_then(|row| view.at(row)));
    let failed = |(_, member): &(usize, &Arc<Member>)| check.failed.contains(&(member.row.row, chunk.row));
    excluded.extend(view.members.iter().enumerate().filter(failed).map(|(at, _)| at));
    let mut targets: Vec<(usize, Option<PackId>)> = Vec::new();
    for (replica, standing) in standings {
        let lost = matches!(standing, Standing::Missing | Standing::Corrupt);
        if let Some(at) = view.at(replica.node).filter(|at| lost && view.seen[*at].open && !excluded.contains(at)) {
            targets.push((at, Some(replica.pack)));
            excluded.push(at);
        }
    }
    let picks = view.topology.choose(&chunk.entry.chunk, &excluded);
    targets.extend(picks.into_iter().map(|at| (at, None)));
    // A node whose block cache is live takes what it lost or spoilt without writing it: others come first.
    targets.sort_by_key(|(at, instead)| instead.is_some() && view.members[*at].row.cache_live);
    for (at, instead) in targets.into_iter().take(short) {
        let what = if instead.is_some() { Do::Replace } else { Do::Copy };
        let to = view.members[at].row.row;
        batch.add(act(Means::Write { act: what, from: from.clone(), to, instead }));
    }
}

impl Act {
    pub(super) fn show(&self, view: &View) -> Action {
        let (act, from, to) = match &self.means {
            Means::Write { act, from, to, .. } => (*act, from.first().map(|source| source.node), *to),
            Means::Protect { node, .. } => (Do::Replace, Some(*node), *node),
        };
        Action {
            act,
            chunk: self.entry.chunk,
            from: from.map(|node| view.name(node)),
            to: Some(view.name(to)),
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
