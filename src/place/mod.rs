//! Placement: which nodes a chunk belongs on. Pure, and the same on every platform: a function of the chunk, the nodes
//! and what the chunk is kept off, in integers.
//!
//! Weighted rendezvous hashing: every node draws, for every chunk, an arrival time that is exponential with the node's
//! weight (`-log2(hash(chunk, node)) / weight`), and the earliest nodes get the chunk. So when a node joins, only chunks
//! move that it gains, and when it leaves, only chunks that it had. Rules, in their order: distinct nodes; distinct
//! zones (as even as possible when there are fewer zones than copies); then [`spread`]. The weights are corrected once
//! for a topology (`weight`) so that nodes fill in proportion to their capacity where the rules allow.

mod log;
mod spread;
mod weight;

use std::collections::BTreeMap;

use crate::id::{ChunkId, NodeId};

pub use spread::{NewChunk, spread};

/// A node as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceNode {
    /// Its identity, which alone decides its luck.
    pub id: NodeId,
    /// What fails together: no two copies in one zone while there are enough zones.
    pub zone: String,
    /// Its configured capacity. A capacity below a millionth of the largest counts as that.
    pub capacity_bytes: u64,
    /// Whether it takes new chunks: online, not full, not draining. Filters; changes no weight.
    pub open: bool,
}

/// The nodes of a pool with their weights. Nodes are named by their index in the list it was made from.
///
/// Making one costs milliseconds (weights are corrected iteratively): keep it until a node or R changes.
#[derive(Debug, Clone)]
pub struct Topology {
    nodes: Vec<PlaceNode>,
    draws: Vec<Draw>,
    zones: usize,
    replicas: usize,
}

/// What decides a node's arrival times.
#[derive(Debug, Clone)]
struct Draw {
    key: [u64; 2],
    zone: usize,
    /// The largest weight over this node's, with 32 fractional bits.
    slowness: u64,
}

impl Topology {
    /// Takes all nodes of the pool, each identity once, and the number of copies.
    pub fn new(nodes: Vec<PlaceNode>, replicas: u32) -> Self {
        let mut names = BTreeMap::new();
        for node in &nodes {
            let next = names.len();
            names.entry(node.zone.as_str()).or_insert(next);
        }
        let zone_of: Vec<usize> = nodes.iter().map(|node| names[node.zone.as_str()]).collect();
        let zones = names.len();
        let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
        let capacities: Vec<u64> = nodes.iter().map(|node| node.capacity_bytes).collect();
        let slowness = weight::slowness(&capacities, &zone_of, replicas);
        let draw = |((node, zone), slowness): ((&PlaceNode, &usize), u64)| {
            let hash = blake3::derive_key("bytenode/place/1", node.id.as_str().as_bytes());
            Draw { key: [word(&hash, 0), word(&hash, 1)], zone: *zone, slowness }
        };
        let draws = nodes.iter().zip(&zone_of).zip(slowness).map(draw).collect();
        Self { nodes, draws, zones, replicas }
    }

    /// The same pool with other nodes open: weights stay, so this costs little.
    #[must_use]
    pub fn with_open(&self, open: impl Iterator<Item = bool>) -> Self {
        let mut same = self.clone();
        same.nodes.iter_mut().zip(open).for_each(|(node, open)| node.open = open);
        same
    }

    /// The nodes, in the order they were given.
    pub fn nodes(&self) -> &[PlaceNode] {
        &self.nodes
    }

    /// The index of a node.
    pub fn index_of(&self, id: &NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == *id)
    }

    /// Copies wanted of every chunk.
    pub const fn replicas(&self) -> usize {
        self.replicas
    }

    /// The open nodes that a chunk belongs on, best first, none of `excluded`: R of them, distinct, in distinct zones
    /// (as even as possible when those left have fewer than R). Fewer than R only when fewer are left.
    pub fn choose(&self, chunk: &ChunkId, excluded: &[usize]) -> Vec<usize> {
        let open = (0..self.nodes.len()).filter(|at| self.nodes[*at].open && !excluded.contains(at));
        self.pick(chunk, &[], open, self.replicas)
    }

    /// The open nodes that are to get as many more copies of a chunk as are `wanted`, best first, none of `excluded`: in
    /// zones where the nodes that `have` it are not, as long as there are any; none of those that it is `kept_off`, while
    /// that costs neither a copy nor a zone.
    pub fn choose_beside(
        &self,
        chunk: &ChunkId,
        have: &[usize],
        kept_off: &[usize],
        excluded: &[usize],
        wanted: usize,
    ) -> Vec<usize> {
        let open = |at: &usize| self.nodes[*at].open && !excluded.contains(at) && !have.contains(at);
        let free = self.pick(chunk, have, (0..self.nodes.len()).filter(open), wanted);
        if kept_off.is_empty() {
            return free;
        }
        let all = (0..self.nodes.len()).filter(|at| open(at) && !kept_off.contains(at));
        let spread = self.pick(chunk, have, all, wanted);
        let crowding = |chosen: &[usize]| self.crowding(&[have, chosen].concat());
        if spread.len() == free.len() && crowding(&spread) <= crowding(&free) { spread } else { free }
    }

    /// Which of the nodes that have a chunk should keep one of `wanted` copies, open or not: none of those that it is
    /// `kept_off`, while that costs neither a copy nor a zone.
    pub fn keep(&self, chunk: &ChunkId, have: &[usize], kept_off: &[usize], wanted: usize) -> Vec<usize> {
        let free = self.pick(chunk, &[], have.iter().copied(), wanted);
        let (off, on): (Vec<usize>, Vec<usize>) = have.iter().partition(|at| kept_off.contains(at));
        if off.is_empty() {
            return free;
        }
        let mut spread = self.pick(chunk, &[], on.into_iter(), wanted);
        spread.extend(self.pick(chunk, &spread, off.into_iter(), wanted - spread.len()));
        if self.crowding(&spread) <= self.crowding(&free) { spread } else { free }
    }

    /// So many of these nodes, best first, in zones as even as can be with the nodes that have the chunk.
    fn pick(
        &self,
        chunk: &ChunkId,
        have: &[usize],
        candidates: impl Iterator<Item = usize>,
        wanted: usize,
    ) -> Vec<usize> {
        let order = self.ordered(chunk, candidates);
        let wanted = wanted.min(order.len());
        let mut chosen = Vec::with_capacity(wanted);
        let mut in_zone = vec![0; self.zones];
        have.iter().for_each(|at| in_zone[self.draws[*at].zone] += 1);
        // Level 0 takes one node from each zone, level 1 a second one where zones are too few, and so on.
        for level in 0..wanted + have.len() {
            for at in &order {
                if chosen.len() == wanted {
                    return chosen;
                }
                let zone = self.draws[*at].zone;
                if in_zone[zone] == level && !chosen.contains(at) {
                    in_zone[zone] += 1;
                    chosen.push(*at);
                }
            }
        }
        chosen
    }

    /// As [`Self::choose`], for a chunk that [`spread`] keeps off some nodes: `kept_off` counts only while it costs
    /// neither a copy nor a zone, since both matter more than spread. `excluded` always counts.
    pub fn choose_spread(&self, chunk: &ChunkId, kept_off: &[usize], excluded: &[usize]) -> Vec<usize> {
        self.choose_beside(chunk, &[], kept_off, excluded, self.replicas)
    }

    /// All nodes, open or not, whatever their zone, in the order in which the chunk prefers them.
    pub fn rank(&self, chunk: &ChunkId) -> Vec<usize> {
        self.ordered(chunk, 0..self.nodes.len())
    }

    fn ordered(&self, chunk: &ChunkId, nodes: impl Iterator<Item = usize>) -> Vec<usize> {
        let words = [word(chunk.digest(), 0), word(chunk.digest(), 1)];
        let mut order: Vec<(u128, usize)> = nodes.map(|at| (self.draws[at].arrival(words), at)).collect();
        // Equal times are as good as impossible; the identity decides them whatever the order of the list.
        order.sort_unstable_by(|one, two| {
            one.0.cmp(&two.0).then_with(|| self.nodes[one.1].id.cmp(&self.nodes[two.1].id))
        });
        order.into_iter().map(|(_, at)| at).collect()
    }

    /// How unevenly zones are used: the least possible for a number of nodes when it is even.
    fn crowding(&self, nodes: &[usize]) -> usize {
        let together =
            |at: &usize| nodes.iter().filter(|other| self.draws[**other].zone == self.draws[*at].zone).count();
        nodes.iter().map(together).sum()
    }
}

impl Draw {
    fn arrival(&self, chunk: [u64; 2]) -> u128 {
        let uniform = mix(mix(chunk[0] ^ self.key[0]).wrapping_add(chunk[1]) ^ self.key[1]);
        u128::from(log::neg_log2(uniform)) * u128::from(self.slowness)
    }
}

fn word(bytes: &[u8; 32], at: usize) -> u64 {
    u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().expect("eight bytes"))
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
