//! The copies of one chunk: how many there are, how many are wanted, and what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::ReplicaRow;
use super::standing::Standing;
use crate::admin::FindingKind;
use crate::coordinator::registry::View;
use crate::id::PackId;

/// The nodes (by row) with copies of a chunk.
pub(super) struct Copies<'a> {
    /// Copies wanted.
    pub target: usize,
    /// Those whose copies are good.
    pub good: BTreeSet<i64>,
    /// Those of these that stay where they are.
    pub staying: BTreeSet<i64>,
    /// Those that do not answer, and may come back with theirs.
    pub waiting: BTreeSet<i64>,
    /// Those that are to be emptied, whether they have a copy or not.
    pub leaving: &'a BTreeSet<i64>,
    /// Those that did not list what they have, and get nothing.
    pub unlisted: &'a BTreeSet<i64>,
    /// Those of `leaving` that lost theirs, or have them wrong: that is to be forgotten.
    pub spoilt: BTreeSet<i64>,
    /// Packs that are not protected, and cannot be: something of them is not there.
    pub broken: BTreeSet<PackId>,
}

impl Copies<'_> {
    /// How many copies are to be made. Nodes that do not answer are waited for, unless one good copy is left or none.
    pub fn short(&self) -> usize {
        let counted = match self.good.len() {
            0 | 1 => self.staying.len(),
            _ => {
                self.staying.len()
                    + self.waiting.difference(&self.good).filter(|node| !self.leaving.contains(node)).count()
            }
        };
        self.target.saturating_sub(counted)
    }

    /// How many of those take the place of good copies on nodes that are to be emptied.
    pub fn moves(&self) -> usize {
        self.short().min(self.good.intersection(self.leaving).count())
    }

    /// Whether there are more good copies than wanted, of those that stay.
    pub fn has_surplus(&self) -> bool {
        let staying = self.staying.len();
        staying > self.target || (staying == self.target && (self.good.len() > staying || !self.spoilt.is_empty()))
    }
}

/// A node with a good copy in a zone that has two, if another zone that takes chunks has none.
pub(super) fn crowded(view: &View, copies: &Copies<'_>) -> Option<i64> {
    if copies.staying.len() < copies.target || copies.has_surplus() {
        return None;
    }
    let nodes: BTreeSet<usize> = copies.staying.iter().filter_map(|row| view.at(*row)).collect();
    crowded_at(view, &nodes, &|_| true).map(|at| view.members[at].row.row)
}

/// Of nodes (by index) with a chunk's copies, one that may give its copy up for one in another zone: it is not alone in its
/// own, and a zone that takes chunks has none.
pub(super) fn crowded_at(view: &View, nodes: &BTreeSet<usize>, may: &dyn Fn(usize) -> bool) -> Option<usize> {
    let zone = |at: usize| view.members[at].row.zone.as_str();
    let mut taken: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for at in nodes {
        taken.entry(zone(*at)).or_default().push(*at);
    }
    let free = (0..view.members.len()).any(|at| view.seen[at].open && !taken.contains_key(zone(at)));
    let most = taken.values().filter(|some| some.len() > 1).max_by_key(|some| some.len()).filter(|_| free)?;
    most.iter().rev().copied().find(|at| may(*at))
}

/// What is wrong with a chunk's copies, and where; `crowded` is where a copy is that should be in another zone.
pub(super) fn finding_kinds(
    standings: &[(&ReplicaRow, Standing)],
    copies: &Copies<'_>,
    crowded: Option<i64>,
) -> Vec<(FindingKind, Option<i64>)> {
    let (good, target) = (copies.good.len(), copies.target);
    let mut kinds = Vec::new();
    for (replica, standing) in standings {
        let kind = match standing {
            // A replica that was given up for others that count is no longer missed.
            Standing::Missing if good < target => FindingKind::Missing,
            Standing::Corrupt if good < target => FindingKind::Corrupt,
            Standing::Unprotected => FindingKind::Unprotected,
            _ => continue,
        };
        kinds.push((kind, Some(replica.node)));
    }
    let bare = standings.iter().any(|(_, standing)| standing.can_be_read());
    if good == 0 && copies.waiting.is_empty() && !bare {
        kinds.push((FindingKind::Lost, None));
    } else if good < target {
        kinds.push((FindingKind::UnderReplicated, None));
    } else if copies.has_surplus() {
        kinds.push((FindingKind::Surplus, None));
    }
    if copies.moves() > 0 {
        kinds.extend(copies.good.intersection(copies.leaving).map(|node| (FindingKind::Misplaced, Some(*node))));
    }
    kinds.extend(crowded.map(|node| (FindingKind::Zone, Some(node))));
    kinds
}
