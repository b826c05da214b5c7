//! How a replica stands, by what its node said and what was read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

use crate::admin::FindingKind;
use crate::id::{PackId, PackRoot};

use super::Check;
use super::listed::Listed;
use super::rows::{ChunkState, ReplicaRow};

/// What one node said.
pub(super) enum Said {
    Silent { lost: bool },
    Listed { packs: HashSet<PackRoot>, chunks: Listed },
}

/// How one replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Proved once, and the node says that it has it and protects it.
    Good,
    /// The node has it, but does not protect it, or its pack has no proof.
    Unprotected,
    Missing,
    Corrupt,
    Waiting,
    Gone,
}

impl Standing {
    /// Whether the node has it, whatever it is worth: a copy can be made from it.
    pub const fn can_be_read(self) -> bool {
        matches!(self, Self::Good | Self::Unprotected)
    }
}

/// What the nodes said when they were asked.
pub(super) struct Answers<'a> {
    pub check: &'a Check,
    pub said: HashMap<i64, Said>,
}

impl Answers<'_> {
    /// Whether a node listed what it has.
    pub fn is_listed(&self, node: i64) -> bool {
        matches!(self.said.get(&node), Some(Said::Listed { .. }))
    }

    /// How every replica of a chunk stands; what was read counts for more than what was listed, except for protection.
    /// `meanwhile` are the times since the nodes were asked: what was proved then, no listing can deny.
    pub fn standings<'c>(
        &self,
        chunk: &'c ChunkState,
        read: &HashMap<PackId, Standing>,
        meanwhile: &RangeInclusive<i64>,
    ) -> Vec<(&'c ReplicaRow, Standing)> {
        let stand = |replica: &'c ReplicaRow| {
            let listed = self.stands(chunk, replica, meanwhile);
            let standing = match read.get(&replica.pack) {
                _ if listed == Standing::Gone => Standing::Gone,
                None => listed,
                Some(Standing::Good) if self.holds(replica, meanwhile) => Standing::Good,
                Some(Standing::Good) => Standing::Unprotected,
                Some(other) => *other,
            };
            (replica, standing)
        };
        chunk.replicas.iter().map(stand).collect()
    }

    /// Whether a node that was listed protects a replica. A pack that took another's place meanwhile was not there to be
    /// listed.
    fn holds(&self, replica: &ReplicaRow, meanwhile: &RangeInclusive<i64>) -> bool {
        let listed = |packs: &HashSet<PackRoot>| packs.contains(&replica.root) || meanwhile.contains(&replica.created);
        matches!(self.said.get(&replica.node), Some(Said::Listed { packs, .. }) if listed(packs))
    }

    fn stands(&self, chunk: &ChunkState, replica: &ReplicaRow, meanwhile: &RangeInclusive<i64>) -> Standing {
        if self.check.leaving == Some(replica.node) {
            return Standing::Gone;
        }
        if !replica.bad && replica.proved.is_some_and(|proved| meanwhile.contains(&proved)) {
            return Standing::Good;
        }
        match self.said.get(&replica.node) {
            Some(Said::Silent { lost: false }) => Standing::Waiting,
            Some(Said::Silent { lost: true }) | None => Standing::Gone,
            Some(Said::Listed { chunks, .. }) if !chunks.contains(&chunk.entry.chunk) => Standing::Missing,
            Some(Said::Listed { .. }) if replica.bad => Standing::Corrupt,
            // A proof of a time that is still to come was made before the clock went back: it is none.
            Some(Said::Listed { .. }) if replica.proved.is_none_or(|proved| proved > *meanwhile.end()) => {
                Standing::Unprotected
            }
            Some(Said::Listed { .. }) if self.holds(replica, meanwhile) => Standing::Good,
            Some(Said::Listed { .. }) => Standing::Unprotected,
        }
    }
}

pub(super) fn finding_kinds(
    standings: &[(&ReplicaRow, Standing)],
    good: &BTreeSet<i64>,
    waiting: &BTreeSet<i64>,
    target: usize,
) -> Vec<(FindingKind, Option<i64>)> {
    let mut kinds = Vec::new();
    for (replica, standing) in standings {
        let kind = match standing {
            // A replica that was given up for others that count is no longer missed.
            Standing::Missing if good.len() < target => FindingKind::Missing,
            Standing::Corrupt if good.len() < target => FindingKind::Corrupt,
            Standing::Unprotected => FindingKind::Unprotected,
            _ => continue,
        };
        kinds.push((kind, Some(replica.node)));
    }
    let bare = standings.iter().any(|(_, standing)| standing.can_be_read());
    if good.is_empty() && waiting.is_empty() && !bare {
        kinds.push((FindingKind::Lost, None));
    } else if good.len() < target {
        kinds.push((FindingKind::UnderReplicated, None));
    } else if good.len() > target {
        kinds.push((FindingKind::Surplus, None));
    }
    kinds
}
