//! How a replica stands, by what its node said and what was read.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;

use crate::catalog::packs::Held;
use crate::id::{ChunkId, PackId, PackRoot};

use super::listed::Listed;
use super::rows::{ChunkState, ReplicaRow};

/// What one node said.
pub(super) enum Said {
    Silent {
        lost: bool,
    },
    /// `roots` says whether it lists the blocks of packs' roots among its chunks.
    Listed {
        packs: HashSet<PackRoot>,
        chunks: Listed,
        roots: bool,
    },
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
pub(super) struct Answers {
    pub said: HashMap<i64, Said>,
    /// Nodes (by row) that are to be emptied.
    pub leaving: BTreeSet<i64>,
    /// One that does not come back.
    pub lost: Option<i64>,
    /// Those that did not list what they have.
    pub unlisted: BTreeSet<i64>,
}

impl Answers {
    /// Nodes that did not answer, and may come back.
    pub fn silent(&self) -> impl Iterator<Item = i64> {
        let silent = |said: &Said| matches!(said, Said::Silent { .. });
        self.said.iter().filter(move |(row, said)| silent(said) && self.lost != Some(**row)).map(|(row, _)| *row)
    }

    /// Whether any node does not answer whose copies still count.
    pub fn are_awaited(&self) -> bool {
        self.said.values().any(|said| matches!(said, Said::Silent { lost: false }))
    }

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
        let Some(Said::Listed { packs, chunks, roots }) = self.said.get(&replica.node) else { return false };
        let protects = || packs.contains(&replica.root) && names(chunks, *roots, replica);
        meanwhile.contains(&replica.created) || protects()
    }

    /// Whether a node listed everything of a replica's pack.
    pub fn is_whole(&self, replica: &ReplicaRow, held: &[Held]) -> bool {
        let Some(Said::Listed { chunks, roots, .. }) = self.said.get(&replica.node) else { return false };
        names(chunks, *roots, replica) && held.iter().all(|held| chunks.contains(&held.entry.chunk))
    }

    fn stands(&self, chunk: &ChunkState, replica: &ReplicaRow, meanwhile: &RangeInclusive<i64>) -> Standing {
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

/// Whether the block that names a pack's chunks was listed, where such blocks are: without it, the next collection takes them.
fn names(chunks: &Listed, roots: bool, replica: &ReplicaRow) -> bool {
    !roots || chunks.contains(&ChunkId::from_digest(*replica.root.digest()))
}
