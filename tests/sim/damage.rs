//! What is really on the nodes, and what the run itself destroyed there: never the last good copy that the catalog knows.

use std::collections::{BTreeMap, BTreeSet};

use bytenode::id::{ChunkId, PackRoot};
use bytenode::node::memory::{Backup, KeptPack};

use super::world::World;
use crate::support::pool::{Like, Pool};

/// A copy as the catalog has it.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Index of the node.
    pub node: usize,
    pub pack: i64,
    pub root: PackRoot,
    /// Of the pack: 0 planned, 1 stored, 2 live, 3 dropping.
    pub state: i64,
    /// The pack whose place this one is to take.
    pub replaces: Option<i64>,
    pub row: i64,
    pub chunk: ChunkId,
    pub bad: bool,
}

/// What the catalog has, and what the nodes have.
pub struct Truth {
    pub replicas: Vec<Replica>,
    held: Vec<BTreeMap<PackRoot, KeptPack>>,
    up: Vec<bool>,
    /// Where a pack's chunks are if its node has put a smaller one in its place already.
    successors: BTreeMap<i64, PackRoot>,
    /// By root: the pack in whose place one stands.
    before: BTreeMap<PackRoot, PackRoot>,
}

const BEFORE: &str = "SELECT p.root, q.root FROM pack p JOIN pack q ON q.id = p.replaces";

const REPLICAS: &str = "
SELECT n.name, p.id, p.root, p.state, p.replaces, c.id, c.digest, r.bad_at IS NOT NULL
FROM replica r JOIN pack p ON p.id = r.pack_id JOIN node n ON n.id = p.node_id JOIN chunk c ON c.id = r.chunk_id
WHERE p.state < 4 ORDER BY p.id, r.ordinal";

impl Truth {
    pub async fn of(pool: &Pool) -> Self {
        let names: Vec<String> = pool.nodes.iter().map(|node| node.name.clone()).collect();
        let ask = move |c: &rusqlite::Connection| {
            let mut statement = c.prepare_cached(REPLICAS)?;
            let rows = statement.query_map([], |row| {
                let name: String = row.get(0)?;
                Ok(Replica {
                    node: names.iter().position(|known| *known == name).unwrap(),
                    pack: row.get(1)?,
                    root: PackRoot::from_digest(row.get(2)?),
                    state: row.get(3)?,
                    replaces: row.get(4)?,
                    row: row.get(5)?,
                    chunk: ChunkId::from_digest(row.get(6)?),
                    bad: row.get(7)?,
                })
            })?;
            let replicas = rows.collect::<Result<Vec<_>, _>>()?;
            let mut statement = c.prepare_cached(BEFORE)?;
            let rows = statement
                .query_map([], |row| Ok((PackRoot::from_digest(row.get(0)?), PackRoot::from_digest(row.get(1)?))))?;
            Ok((replicas, rows.collect::<Result<BTreeMap<_, _>, _>>()?))
        };
        let (replicas, before): (Vec<Replica>, _) = pool.coordinator.catalog().read(ask).await.unwrap();
        let successors = replicas.iter().filter_map(|replica| Some((replica.replaces?, replica.root))).collect();
        let kept = |node: &crate::support::pool::TestNode| {
            node.memory.kept().into_iter().map(|pack| (pack.root, pack)).collect::<BTreeMap<_, _>>()
        };
        let up = pool.nodes.iter().map(|node| !node.memory.is_down()).collect();
        Self { replicas, held: pool.nodes.iter().map(kept).collect(), up, successors, before }
    }

    /// Whether a node has right bytes of a chunk in a pack that it protects.
    fn has(&self, node: usize, root: &PackRoot, chunk: &ChunkId) -> bool {
        self.held[node].get(root).is_some_and(|pack| pack.protected && pack.chunks.get(chunk) == Some(&true))
    }

    /// Whether a replica is there as the catalog has it.
    pub fn is_good(&self, replica: &Replica) -> bool {
        self.has(replica.node, &replica.root, &replica.chunk)
    }

    /// The same, or in the pack that takes the place of its own.
    pub fn stands(&self, replica: &Replica) -> bool {
        let successor = self.successors.get(&replica.pack);
        self.is_good(replica) || successor.is_some_and(|root| self.has(replica.node, root, &replica.chunk))
    }

    /// Whether a replica is there, right or wrong, at a node that can be asked.
    pub fn is_present(&self, replica: &Replica) -> bool {
        let pack = self.held[replica.node].get(&replica.root);
        self.up[replica.node] && pack.is_some_and(|pack| pack.protected && pack.chunks.contains_key(&replica.chunk))
    }

    /// Packs on a node, protected or not.
    pub fn packs(&self, node: usize) -> BTreeSet<PackRoot> {
        self.held[node].keys().copied().collect()
    }

    /// Whether a chunk could be lost from a node: another has it, and the catalog knows.
    fn is_spare(&self, node: usize, chunk: &ChunkId) -> bool {
        let of_chunk = || self.replicas.iter().filter(|replica| replica.chunk == *chunk);
        let counts =
            |replica: &Replica| replica.node != node && replica.state == 2 && !replica.bad && self.is_good(replica);
        !of_chunk().any(|replica| replica.node == node && replica.state < 3) || of_chunk().any(counts)
    }

    /// All (pack, chunk) that a node has right and protected.
    fn good_on(&self, node: usize) -> BTreeSet<(PackRoot, ChunkId)> {
        let packs = self.held[node].values().filter(|pack| pack.protected);
        let chunks = |pack: &KeptPack| {
            let good = pack.chunks.iter().filter(|(_, good)| **good).map(|(chunk, _)| (pack.root, *chunk));
            good.collect::<Vec<_>>()
        };
        packs.flat_map(chunks).collect()
    }
}

/// What the run destroyed.
#[derive(Default)]
pub struct Damage {
    /// Copies that need not be there any more.
    excused: BTreeSet<(usize, PackRoot, ChunkId)>,
    /// What some node had at some time.
    backup: Option<(usize, Backup)>,
    /// Nodes that say of what they have right that it is wrong, until something is done about them,
    pub misreading: BTreeSet<usize>,
    /// and those that ever did.
    misread_on: BTreeSet<usize>,
    /// Chunks that lost a copy while a node said so: to whoever asks, it was destroyed.
    misread: BTreeSet<ChunkId>,
}

impl Damage {
    pub fn is_any(&self) -> bool {
        !self.excused.is_empty()
    }

    /// Whether any copy of a chunk was destroyed, or seemed to be.
    pub fn was_of(&self, chunk: &ChunkId) -> bool {
        self.misread.contains(chunk) || self.excused.iter().any(|(.., destroyed)| destroyed == chunk)
    }

    /// From now on a node says of what it has right that it is wrong.
    pub fn misreads(&mut self, node: usize) {
        self.misreading.insert(node);
        self.misread_on.insert(node);
    }

    /// Takes down which chunks a node may have lost copies of that said that these were wrong.
    pub fn note_misread(&mut self, truth: &Truth) {
        if self.misreading.is_empty() {
            return;
        }
        let mut nodes: BTreeMap<ChunkId, BTreeSet<usize>> = BTreeMap::new();
        for replica in truth.replicas.iter().filter(|replica| replica.state == 2) {
            nodes.entry(replica.chunk).or_default().insert(replica.node);
        }
        self.misread.extend(nodes.into_iter().filter(|(_, nodes)| nodes.len() < 2).map(|(chunk, _)| chunk));
    }

    /// Whether a copy was destroyed, in its pack, in one that its pack took the place of, or in one that takes its place.
    pub fn excuses(&self, truth: &Truth, replica: &Replica) -> bool {
        // What was read as wrong goes, and counts no more.
        if replica.bad && self.misread_on.contains(&replica.node) {
            return true;
        }
        let latest = truth.successors.get(&replica.pack).unwrap_or(&replica.root);
        let mut roots = std::iter::successors(Some(*latest), |root| truth.before.get(root).copied());
        roots.any(|root| self.excused.contains(&(replica.node, root, replica.chunk)))
    }
}

impl World {
    /// Destroys something on a node, if enough is left of it elsewhere.
    pub async fn destroy(&mut self) {
        let truth = Truth::of(&self.pool).await;
        let kind = self.dice.below(6);
        let mut at = usize::try_from(self.dice.below(self.pool.nodes.len() as u64)).unwrap();
        if kind == 0 {
            self.damage.backup = Some((at, self.pool.nodes[at].memory.backup()));
            return;
        }
        let backup = if kind == 1 { self.damage.backup.take() } else { None };
        if let Some((of, _)) = &backup {
            at = *of;
        }
        let memory = &self.pool.nodes[at].memory;
        let good = truth.good_on(at);
        let spare: Vec<ChunkId> = good.iter().map(|(_, chunk)| *chunk).filter(|one| truth.is_spare(at, one)).collect();
        let all_spare = spare.len() == good.len();
        match (kind, backup) {
            (1, Some((_, backup))) if all_spare => memory.restore(backup),
            (2, _) if all_spare => memory.wipe(),
            (3, _) if self.pool.like(at) == Like::Kubo => {
                let packs: BTreeSet<PackRoot> = good.iter().map(|(root, _)| *root).collect();
                let whole =
                    |root: &PackRoot| good.iter().filter(|(of, _)| of == root).all(|(_, one)| spare.contains(one));
                let packs: Vec<PackRoot> = packs.into_iter().filter(whole).collect();
                if !packs.is_empty() {
                    memory.unprotect(*self.pick(&packs));
                }
            }
            _ if spare.is_empty() => return,
            _ => {
                let (count, corrupt) = (1 + self.dice.below(4), self.once_in(2));
                for _ in 0..count {
                    let chunk = self.pick(&spare);
                    if corrupt {
                        memory.corrupt(chunk)
                    } else {
                        memory.forget(chunk)
                    };
                }
            }
        }
        let now = Truth::of(&self.pool).await.good_on(at);
        let lost: Vec<_> = good.difference(&now).copied().collect();
        self.note(|| format!("destroyed {} copies on n{} in way {kind}", lost.len(), at + 1));
        self.damage.excused.extend(lost.into_iter().map(|(root, chunk)| (at, root, chunk)));
    }
}
