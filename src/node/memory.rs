//! A node that keeps packs in memory: for tests, simulations and examples.
//!
//! Deterministic: its answers follow from the calls alone. Every call yields once before it acts, and then acts at once,
//! so that simulations interleave calls but never see half of one. Like a real node it hashes what it is given, keeps a
//! pack's protection when bytes are lost, and may be killed, made to forget, or have its bytes rot.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::grant::{PackReceipt, SigningKey};
use crate::id::{ChunkId, NodeId, PackRoot};
use crate::node::call::Call;
use crate::node::{ChunkAt, GrantToken, Node, NodeError, NodeFailure, NodeStatus, Receipt};
use crate::pack::{Pack, PackHeader};
use crate::seam::Seam;

/// A node in memory.
#[derive(Debug)]
pub struct MemoryNode {
    id: NodeId,
    name: String,
    capacity_bytes: u64,
    builtin: Option<Builtin>,
    state: Mutex<State>,
}

/// What makes it behave like a built-in node: it protects on writing, and signs that it did.
#[derive(Debug)]
struct Builtin {
    key: SigningKey,
    seam: Seam,
}

#[derive(Debug, Default)]
struct State {
    down: bool,
    calls: BTreeMap<Call, u64>,
    packs: BTreeMap<PackRoot, Stored>,
}

/// A pack on a node, as it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPack {
    /// Its root.
    pub root: PackRoot,
    /// Whether it is protected.
    pub protected: bool,
    /// Its chunks that have bytes, and whether these are the right ones.
    pub chunks: BTreeMap<ChunkId, bool>,
}

/// What a node kept at some time.
#[derive(Debug, Clone)]
pub struct Backup(BTreeMap<PackRoot, Stored>);

#[derive(Debug, Clone)]
struct Stored {
    header: PackHeader,
    chunks: BTreeMap<ChunkId, Bytes>,
    protected: bool,
}

impl MemoryNode {
    /// An empty node that behaves like Kubo: writing proves nothing, protecting is a step of its own.
    pub fn new(id: NodeId, name: impl Into<String>, capacity_bytes: u64) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self { id, name: name.into(), capacity_bytes, builtin: None, state })
    }

    /// An empty node that behaves like a built-in one: it protects on writing and signs receipts with the key of this
    /// seed, whose public half is its identity; receipts and its clock follow the seam.
    pub fn builtin_like(seed: &[u8; 32], name: impl Into<String>, capacity_bytes: u64, seam: Seam) -> Arc<Self> {
        let key = SigningKey::from_seed(seed);
        let id = key.public().node_id();
        let builtin = Some(Builtin { key, seam });
        Arc::new(Self { id, name: name.into(), capacity_bytes, builtin, state: Mutex::default() })
    }

    /// Its identity.
    pub const fn id(&self) -> &NodeId {
        &self.id
    }

    /// The name people know it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on every call finds nobody. What it keeps stays.
    pub fn kill(&self) {
        self.state().down = true;
    }

    /// Answers again.
    pub fn revive(&self) {
        self.state().down = false;
    }

    /// Whether it was killed.
    pub fn is_down(&self) -> bool {
        self.state().down
    }

    /// How often a method was called, answered or not.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// Distinct chunks whose bytes it has, right or wrong; pack roots not counted.
    pub fn chunk_count(&self) -> usize {
        let state = self.state();
        state.packs.values().flat_map(|pack| pack.chunks.keys()).collect::<BTreeSet<_>>().len()
    }

    /// Whether it has bytes for this chunk, right or wrong, in any pack.
    pub fn has(&self, chunk: &ChunkId) -> bool {
        self.state().packs.values().any(|pack| pack.chunks.contains_key(chunk))
    }

    /// Whether it has this chunk's own bytes, in any pack.
    pub fn has_right(&self, chunk: &ChunkId) -> bool {
        self.state().packs.values().filter_map(|pack| pack.chunks.get(chunk)).any(|bytes| chunk.names(bytes))
    }

    /// Roots of the packs it protects.
    pub fn packs(&self) -> Vec<PackRoot> {
        self.state().packs.iter().filter(|(_, pack)| pack.protected).map(|(root, _)| *root).collect()
    }

    /// Every pack that it keeps, protected or not, with what became of its chunks; in order of their roots.
    pub fn kept(&self) -> Vec<KeptPack> {
        let kept = |(root, pack): (&PackRoot, &Stored)| KeptPack {
            root: *root,
            protected: pack.protected,
            chunks: pack.chunks.iter().map(|(chunk, bytes)| (*chunk, chunk.names(bytes))).collect(),
        };
        self.state().packs.iter().map(kept).collect()
    }

    /// Lets go of what no pack protects, as Kubo does when its owner collects garbage.
    pub fn collect_garbage(&self) {
        self.state().packs.retain(|_, pack| pack.protected);
    }

    /// Loses the bytes of a chunk in every pack, and keeps the packs' protection. Says whether it had any.
    pub fn forget(&self, chunk: &ChunkId) -> bool {
        let mut state = self.state();
        state.packs.values_mut().filter_map(|pack| pack.chunks.remove(chunk)).count() > 0
    }

    /// Flips the lowest bit of the chunk's last byte in every pack (an empty chunk gets one byte). Says whether it had any.
    pub fn corrupt(&self, chunk: &ChunkId) -> bool {
        let mut state = self.state();
        let mut found = false;
        for bytes in state.packs.values_mut().filter_map(|pack| pack.chunks.get_mut(chunk)) {
            *bytes = flipped(bytes);
            found = true;
        }
        found
    }

    /// Drops the protection of a pack and keeps its bytes, as its owner may do. Says whether it was protected.
    pub fn unprotect(&self, root: PackRoot) -> bool {
        let mut state = self.state();
        state.packs.get_mut(&root).is_some_and(|pack| std::mem::take(&mut pack.protected))
    }

    /// Everything it keeps, to be restored later.
    pub fn backup(&self) -> Backup {
        Backup(self.state().packs.clone())
    }

    /// Goes back to what it kept then, as from a backup of its disk.
    pub fn restore(&self, backup: Backup) {
        self.state().packs = backup.0;
    }

    /// Loses everything, as if its disk had been replaced.
    pub fn wipe(&self) {
        self.state().packs.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, reason: NodeFailure) -> NodeError {
        reason.at(self.name.clone())
    }

    /// Counts the call and lets others go first; then the state, unless the node is down.
    async fn enter(&self, call: Call) -> Result<MutexGuard<'_, State>, NodeError> {
        *self.state().calls.entry(call).or_default() += 1;
        tokio::task::yield_now().await;
        let state = self.state();
        if state.down {
            return Err(self.fail(NodeFailure::Unreachable("connection refused".to_owned())));
        }
        Ok(state)
    }

    fn receipt(&self, pack: &Pack) -> Receipt {
        let Some(Builtin { key, seam }) = &self.builtin else { return Receipt::Unproved };
        let header = pack.header();
        let statement = PackReceipt {
            pool: header.pool,
            node: self.id.clone(),
            root: pack.root(),
            bytes: header.car_bytes(),
            synced: seam.now().as_second(),
        };
        Receipt::Signed { token: key.receipt(&statement) }
    }
}

/// The same bytes with the lowest bit of the last one flipped; one byte where there was none.
fn flipped(bytes: &Bytes) -> Bytes {
    let mut wrong = bytes.to_vec();
    match wrong.last_mut() {
        Some(last) => *last ^= 1,
        None => wrong.push(0),
    }
    wrong.into()
}

impl State {
    fn used_bytes(&self) -> u64 {
        self.packs.values().map(|pack| pack.header.car_bytes()).sum()
    }
}

impl Stored {
    /// The first chunk whose bytes are gone.
    fn missing(&self) -> Option<ChunkId> {
        self.header.entries.iter().map(|entry| entry.chunk).find(|chunk| !self.chunks.contains_key(chunk))
    }
}

#[async_trait]
impl Node for MemoryNode {
    async fn status(&self) -> Result<NodeStatus, NodeError> {
        let state = self.enter(Call::Status).await?;
        let used_bytes = state.used_bytes();
        Ok(NodeStatus {
            id: self.id.clone(),
            version: "memory".to_owned(),
            used_bytes,
            free_bytes: self.capacity_bytes.saturating_sub(used_bytes),
            clock: self.builtin.as_ref().map(|builtin| builtin.seam.now()),
            started: None,
        })
    }

    async fn write_pack(&self, pack: &Pack, _grant: Option<&GrantToken>) -> Result<Receipt, NodeError> {
        let mut state = self.enter(Call::Write).await?;
        let header = pack.header();
        let entries = || header.entries.iter().zip(pack.chunks());
        if let Some((entry, _)) = entries().find(|(entry, bytes)| !entry.chunk.names(bytes)) {
            return Err(self.fail(NodeFailure::Answer(format!("mismatch in content integrity: {}", entry.chunk))));
        }
        let before = state.packs.get(&pack.root());
        let (others, protected) = match before {
            Some(stored) => (state.used_bytes() - stored.header.car_bytes(), stored.protected),
            None => (state.used_bytes(), false),
        };
        if others + header.car_bytes() > self.capacity_bytes {
            let room = self.capacity_bytes.saturating_sub(others);
            return Err(self.fail(NodeFailure::Full(format!("{room} bytes left"))));
        }
        let stored = Stored {
            header: header.clone(),
            chunks: entries().map(|(entry, bytes)| (entry.chunk, bytes.clone())).collect(),
            protected: protected || self.builtin.is_some(),
        };
        state.packs.insert(pack.root(), stored);
        Ok(self.receipt(pack))
    }

    async fn protect_pack(&self, root: PackRoot, _bytes: u64) -> Result<(), NodeError> {
        let mut state = self.enter(Call::Protect).await?;
        let stored = state.packs.get_mut(&root).ok_or_else(|| self.fail(NodeFailure::Absent(root.to_string())))?;
        if let Some(chunk) = stored.missing() {
            return Err(self.fail(NodeFailure::Absent(chunk.to_string())));
        }
        stored.protected = true;
        Ok(())
    }

    async fn holds_pack(&self, root: PackRoot) -> Result<bool, NodeError> {
        let state = self.enter(Call::Holds).await?;
        Ok(state.packs.get(&root).is_some_and(|pack| pack.protected))
    }

    async fn read_chunk(
        &self,
        at: &ChunkAt,
        range: Option<Range<u64>>,
        _grant: Option<&GrantToken>,
    ) -> Result<Bytes, NodeError> {
        let state = self.enter(Call::Read).await?;
        let found = state.packs.get(&at.pack).and_then(|pack| pack.chunks.get(&at.chunk)).cloned();
        drop(state);
        let bytes = found.ok_or_else(|| self.fail(NodeFailure::Absent(at.chunk.to_string())))?;
        let Some(range) = range else {
            let right = bytes.len() as u64 == at.bytes && at.chunk.names(&bytes);
            return if right { Ok(bytes) } else { Err(self.fail(NodeFailure::Corrupt(at.chunk.to_string()))) };
        };
        let slice = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match slice.filter(|(start, end)| start <= end && *end <= bytes.len()) {
            Some((start, end)) => Ok(bytes.slice(start..end)),
            None => Err(self.fail(NodeFailure::Answer(format!("no bytes {} to {}", range.start, range.end)))),
        }
    }

    async fn pack_header(&self, root: PackRoot) -> Result<Option<PackHeader>, NodeError> {
        let state = self.enter(Call::Header).await?;
        let found = state.packs.get(&root).map(|pack| pack.header.clone());
        found.map(Some).ok_or_else(|| self.fail(NodeFailure::Absent(root.to_string())))
    }

    async fn list_packs(&self, each: &mut (dyn FnMut(PackRoot) + Send)) -> Result<(), NodeError> {
        let state = self.enter(Call::ListPacks).await?;
        state.packs.iter().filter(|(_, pack)| pack.protected).for_each(|(root, _)| each(*root));
        Ok(())
    }

    async fn list_chunks(&self, each: &mut (dyn FnMut(ChunkId) + Send)) -> Result<(), NodeError> {
        let state = self.enter(Call::ListChunks).await?;
        for (root, pack) in &state.packs {
            each(ChunkId::from_digest(*root.digest()));
            pack.chunks.keys().for_each(|chunk| each(*chunk));
        }
        Ok(())
    }

    async fn drop_pack(&self, root: PackRoot) -> Result<(), NodeError> {
        let mut state = self.enter(Call::Drop).await?;
        state.packs.remove(&root);
        Ok(())
    }

    /// As on Kubo, where packs share what they have alike: gone from all. A built-in node has nothing to remove.
    async fn remove_chunk(&self, chunk: ChunkId) -> Result<(), NodeError> {
        if self.builtin.is_none() {
            self.forget(&chunk);
        }
        Ok(())
    }

    async fn replace_pack(&self, old: PackRoot, new: &PackHeader) -> Result<(), NodeError> {
        let mut state = self.enter(Call::Replace).await?;
        let root = new.root();
        let Some(stored) = state.packs.get(&old).filter(|stored| stored.protected) else {
            let done = state.packs.get(&root).is_some_and(|pack| pack.protected);
            return if done { Ok(()) } else { Err(self.fail(NodeFailure::Absent(old.to_string()))) };
        };
        if let Some(entry) = new.entries.iter().find(|entry| !stored.header.entries.contains(entry)) {
            let why = format!("nothing: {} was never in {old}", entry.chunk);
            return Err(self.fail(NodeFailure::Answer(why)));
        }
        let kept = |entry: &crate::pack::PackEntry| Some((entry.chunk, stored.chunks.get(&entry.chunk)?.clone()));
        let chunks = new.entries.iter().filter_map(kept).collect();
        state.packs.remove(&old);
        state.packs.insert(root, Stored { header: new.clone(), chunks, protected: true });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{PackId, PoolId};
    use crate::pack::PackEntry;

    fn pack(id: u64, chunks: &[&[u8]]) -> Pack {
        let entry = |bytes: &&[u8]| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
        let entries = chunks.iter().map(entry).collect();
        let header = PackHeader { pool: PoolId::from_bytes([1; 16]), epoch: 1, id: PackId::new(id), entries };
        Pack::new(header, chunks.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect())
    }

    fn at(pack: &Pack, index: usize) -> ChunkAt {
        let entry = pack.header().entries[index];
        ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: pack.root() }
    }

    #[tokio::test]
    async fn receipts_are_signed_for_the_pack_as_stored() {
        let node = MemoryNode::builtin_like(&[7; 32], "m", 1 << 20, Seam::simulated(1));
        let pack = pack(1, &[b"one", b"two"]);
        let Receipt::Signed { token } = node.write_pack(&pack, None).await.unwrap() else { panic!("no receipt") };
        let key = crate::grant::PublicKey::of_node(node.id()).unwrap();
        let said = key.read_receipt(&token).unwrap();
        assert_eq!((said.root, said.bytes), (pack.root(), pack.header().car_bytes()));
        assert!(node.holds_pack(pack.root()).await.unwrap(), "a built-in node protects on writing");
    }

    #[tokio::test]
    async fn a_killed_forgetful_rotten_or_full_node_says_so() {
        let node = MemoryNode::new("m1".parse().unwrap(), "m", 400);
        let pack = pack(1, &[b"one", b"two"]);
        assert_eq!(node.write_pack(&pack, None).await, Ok(Receipt::Unproved));
        assert!(!node.holds_pack(pack.root()).await.unwrap());
        node.protect_pack(pack.root(), 6).await.unwrap();
        assert!(node.corrupt(&at(&pack, 0).chunk) && node.forget(&at(&pack, 1).chunk));
        let reason = |result: Result<Bytes, NodeError>| result.unwrap_err().reason;
        assert!(matches!(reason(node.read_chunk(&at(&pack, 0), None, None).await), NodeFailure::Corrupt(_)));
        assert!(matches!(reason(node.read_chunk(&at(&pack, 1), None, None).await), NodeFailure::Absent(_)));
        assert!(node.holds_pack(pack.root()).await.unwrap(), "a pin outlives bytes");
        let other = self::pack(2, &[b"three", b"four"]);
        let full = node.write_pack(&other, None).await.unwrap_err();
        assert!(matches!(full.reason, NodeFailure::Full(_)), "{full}");
        node.kill();
        assert!(matches!(node.status().await.unwrap_err().reason, NodeFailure::Unreachable(_)));
        node.revive();
        assert_eq!((node.chunk_count(), node.calls(Call::Write)), (1, 2));
    }
}
