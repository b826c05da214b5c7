//! Spread: no node holds all chunks of a file. Pure.

use std::collections::BTreeSet;

use super::Topology;
use crate::id::ChunkId;

/// A new chunk of a file, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// Nodes that it is kept off, which the catalog keeps with it.
    pub excluded: Vec<usize>,
    /// Where it goes: [`Topology::choose`] without those.
    pub nodes: Vec<usize>,
}

impl NewChunk {
    /// Places a chunk where it belongs when nothing keeps it off any node.
    pub fn new(topology: &Topology, chunk: ChunkId) -> Self {
        Self { chunk, excluded: Vec::new(), nodes: topology.choose(&chunk, &[]) }
    }
}

/// Keeps new chunks off nodes so that no node holds all chunks of the file; says whether that is so afterwards.
///
/// `held_by_all` are the nodes that hold every chunk of the file so far (of a file without any: all nodes); `chunks` are
/// the file's new ones, each once, each placed by [`Topology::choose`]. With N open nodes and k new chunks it succeeds
/// whenever `k * (N - R) >= N`, except where the zone rule forces a node to hold all: distinct zones come first.
///
/// Moves one copy for each node that would hold all, which is the least possible (more only where zones stand in the
/// way), and nothing at all when it need not or cannot succeed.
pub fn spread(topology: &Topology, held_by_all: &BTreeSet<usize>, chunks: &mut [NewChunk]) -> bool {
    let mut plan = Plan { topology, held_by_all, lacks: Vec::new(), chunks: chunks.to_vec() };
    plan.count();
    for node in held_by_all {
        if plan.holds_all(*node) && !plan.free(*node, &mut BTreeSet::new()) {
            return false;
        }
    }
    chunks.clone_from_slice(&plan.chunks);
    true
}

struct Plan<'a> {
    topology: &'a Topology,
    held_by_all: &'a BTreeSet<usize>,
    /// For every node, how many of the new chunks it does not get.
    lacks: Vec<usize>,
    chunks: Vec<NewChunk>,
}

impl Plan<'_> {
    fn count(&mut self) {
        self.lacks = vec![self.chunks.len(); self.topology.nodes().len()];
        for node in self.chunks.iter().flat_map(|chunk| &chunk.nodes) {
            self.lacks[*node] -= 1;
        }
    }

    fn holds_all(&self, node: usize) -> bool {
        self.held_by_all.contains(&node) && self.lacks.get(node).is_some_and(|lacks| *lacks == 0)
    }

    /// Puts another placement of a chunk in the place of the one it has, which is returned.
    fn replace(&mut self, at: usize, placement: NewChunk) -> NewChunk {
        for node in &self.chunks[at].nodes {
            self.lacks[*node] += 1;
        }
        for node in &placement.nodes {
            self.lacks[*node] -= 1;
        }
        std::mem::replace(&mut self.chunks[at], placement)
    }

    /// Makes a node that holds all chunks lose one, while no other comes to hold all.
    ///
    /// Without zones the direct way succeeds whenever `k * (N - R) >= N`: of so many places where a chunk is not, one is
    /// not needed, and its node can take the copy. With zones that node may be of a wrong zone; then a copy may go to a
    /// node that is in turn made to lose another chunk. `tried` bounds that.
    fn free(&mut self, node: usize, tried: &mut BTreeSet<usize>) -> bool {
        tried.insert(node);
        let all = 0..self.chunks.len();
        all.clone().any(|at| self.move_from(at, node, &mut |_, _| false))
            || all
                .clone()
                .any(|at| self.move_from(at, node, &mut |plan, next| !tried.contains(&next) && plan.free(next, tried)))
    }

    /// Moves a chunk off a node, to the best node for it that does not come to hold all or can be made to lose another
    /// chunk by `relieve`. Changes nothing when there is none.
    fn move_from(&mut self, at: usize, node: usize, relieve: &mut dyn FnMut(&mut Self, usize) -> bool) -> bool {
        let mut avoided = Vec::new();
        while let Some(placement) = self.without(at, node, &avoided) {
            let before = self.replace(at, placement);
            let full = self.come_to_hold_all(at, &before.nodes);
            let relieved = match full[..] {
                [] => true,
                [next] => relieve(self, next),
                _ => false,
            };
            if relieved {
                return true;
            }
            self.replace(at, before);
            avoided.extend(full);
        }
        false
    }

    /// The nodes that hold all chunks because of a chunk's new placement.
    fn come_to_hold_all(&self, at: usize, before: &[usize]) -> Vec<usize> {
        let came = |node: &&usize| !before.contains(node) && self.holds_all(**node);
        self.chunks[at].nodes.iter().filter(came).copied().collect()
    }

    /// The placement of a chunk that keeps it off a node that has it, and off others; nothing when that costs a copy or
    /// makes zones less even than they could be.
    fn without(&self, at: usize, node: usize, others: &[usize]) -> Option<NewChunk> {
        let NewChunk { chunk, excluded, nodes } = &self.chunks[at];
        if !nodes.contains(&node) {
            return None;
        }
        let mut excluded = excluded.clone();
        excluded.push(node);
        excluded.extend_from_slice(others);
        let moved = self.topology.choose(chunk, &excluded);
        let free = self.topology.choose(chunk, &[]);
        let worse = moved.len() < free.len() || self.topology.crowding(&moved) > self.topology.crowding(&free);
        (!worse).then_some(NewChunk { chunk: *chunk, excluded, nodes: moved })
    }
}
