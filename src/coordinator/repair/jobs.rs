//! What is to be done, in the order in which it is: packs for single nodes, the most endangered chunks first.

use std::collections::BTreeMap;

use crate::admin::Do;
use crate::coordinator::health::acts::{Act, Means, Source, Spare};
use crate::id::PackId;
use crate::pack::MAX_CHUNKS;

/// The most bytes of a pack, unless it is one chunk: it is held in memory while it is written.
const PACK_BYTES: u64 = 16 << 20;

impl Act {
    /// The act that writes a chunk anew whose pack cannot be protected again.
    pub(super) fn anew(self) -> Self {
        let means = match self.means {
            Means::Protect { from, node, pack } => {
                Means::Write { act: Do::Replace, from, to: node, instead: Some(pack), then_drop: None }
            }
            other => other,
        };
        Self { means, ..self }
    }

    /// The node that it writes to.
    pub(super) fn target(&self) -> Option<i64> {
        match &self.means {
            Means::Write { to, .. } => Some(*to),
            Means::Protect { .. } | Means::Drop(_) => None,
        }
    }

    /// The copies that it reads from.
    pub(super) fn sources(&self) -> &[Source] {
        match &self.means {
            Means::Write { from, .. } | Means::Protect { from, .. } => from,
            Means::Drop(_) => &[],
        }
    }

    /// Whether the node that it writes to gives the chunk: its pack alone is new.
    pub(super) fn is_there(&self) -> bool {
        self.target().is_some_and(|to| self.sources().iter().any(|source| source.node == to))
    }

    /// The replica that a new copy stands in for.
    pub(super) fn instead(&self) -> Option<(PackId, i64)> {
        match &self.means {
            Means::Write { instead, .. } => instead.map(|pack| (pack, self.chunk)),
            Means::Protect { .. } | Means::Drop(_) => None,
        }
    }

    /// The copy elsewhere that is needless, or will be.
    pub(super) fn spare(&self) -> Option<Spare> {
        match &self.means {
            Means::Write { then_drop, .. } => *then_drop,
            Means::Drop(spare) => Some(*spare),
            Means::Protect { .. } => None,
        }
    }
}

/// Copies that go to one node in one pack.
pub(super) struct Job {
    pub node: i64,
    pub vault: i64,
    pub acts: Vec<Act>,
}

impl Job {
    /// Whether a chunk of it is down to its last copy.
    pub fn is_urgent(&self) -> bool {
        self.acts.iter().any(|act| act.good <= 1)
    }
}

/// Packs out of what is to be written: the most endangered first, and of those equally so, one for each node in turn.
pub(super) fn jobs(writes: Vec<Act>) -> Vec<Job> {
    let mut groups: BTreeMap<(usize, i64, i64), Vec<Act>> = BTreeMap::new();
    for act in writes {
        let Some(to) = act.target() else { continue };
        groups.entry((act.good, to, act.vault)).or_default().push(act);
    }
    let mut jobs = Vec::new();
    for ((good, node, vault), mut acts) in groups {
        for turn in 0.. {
            if acts.is_empty() {
                break;
            }
            let rest = acts.split_off(fits(&acts));
            jobs.push(((good, turn, node), Job { node, vault, acts }));
            acts = rest;
        }
    }
    jobs.sort_by_key(|(order, _)| *order);
    jobs.into_iter().map(|(_, job)| job).collect()
}

/// How many of these fit into one pack; at least one.
fn fits(acts: &[Act]) -> usize {
    let mut bytes = 0;
    let more = |act: &&Act| {
        bytes += act.entry.bytes;
        bytes <= PACK_BYTES
    };
    acts.iter().take(MAX_CHUNKS).take_while(more).count().max(1)
}
