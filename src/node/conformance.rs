//! What every node must do, whatever it is: one suite that runs against all kinds.
//!
//! For tests. A violation panics with what was expected; the node must be reachable, empty of this pool's packs and have
//! about 200 MiB of room. Packs are numbered from `first`, so that a suite can be repeated on one node.

#![expect(clippy::unwrap_used, reason = "a failed expectation is the purpose of this file")]
#![expect(missing_docs, reason = "each function is named by what it checks")]

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::id::{ChunkId, PackId, PackRoot, PoolId, sha256};
use crate::node::{ChunkAt, NodeFailure, Receipt, SharedNode};
use crate::pack::{Pack, PackEntry, PackHeader};

/// Permits a write of this pack; nothing where the node asks for no grant.
pub type Permit<'a> = &'a (dyn Fn(&Pack) -> Option<crate::node::GrantToken> + Send + Sync);

/// Where the suite runs.
#[derive(Clone, Copy)]
pub struct Bench<'a> {
    /// The node under test.
    pub node: &'a SharedNode,
    /// The pool that packs say.
    pub pool: PoolId,
    /// Number of the first pack; the suite uses the hundred that follow.
    pub first: u64,
    /// Permits writes.
    pub permit: Permit<'a>,
}

impl std::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bench").field("node", self.node).field("first", &self.first).finish_non_exhaustive()
    }
}

/// Runs everything, one after the other.
pub async fn suite(node: &SharedNode, pool: PoolId, first: u64, permit: Permit<'_>) {
    let bench = Bench { node, pool, first, permit };
    says_who_it_is(bench).await;
    a_pack_lives_and_dies(bench).await;
    calls_may_be_repeated(bench).await;
    what_is_absent_is_said_to_be(bench).await;
    ranges_are_what_was_asked(bench).await;
    empty_and_largest_chunks(bench).await;
    a_pack_of_the_most_chunks(bench).await;
    a_chunk_in_two_packs(bench).await;
    a_smaller_pack_takes_the_place(bench).await;
    nothing_comes_in_by_replacing(bench).await;
    writes_at_the_same_time(bench).await;
}

impl Bench<'_> {
    /// Bytes that no other place of the suite has, the same in every run.
    fn chunk(&self, place: u64, bytes: usize) -> Bytes {
        let mut out = Vec::with_capacity(bytes + 32);
        let mut block = 0_u64;
        while out.len() < bytes {
            let seed =
                [*self.pool.as_bytes(), (u128::from(self.first + place) << 64 | u128::from(block)).to_be_bytes()];
            out.extend_from_slice(&sha256(&seed.concat()));
            block += 1;
        }
        out.truncate(bytes);
        out.into()
    }

    fn pack(&self, number: u64, chunks: Vec<Bytes>) -> Pack {
        let entry = |bytes: &Bytes| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
        let entries = chunks.iter().map(entry).collect();
        Pack::new(PackHeader { pool: self.pool, epoch: 1, id: PackId::new(self.first + number), entries }, chunks)
    }

    async fn write(&self, pack: &Pack) -> Receipt {
        self.node.write_pack(pack, (self.permit)(pack).as_ref()).await.unwrap()
    }

    /// Writes, and protects unless writing did.
    async fn keep(&self, pack: &Pack) {
        let receipt = self.write(pack).await;
        if !self.node.holds_pack(pack.root()).await.unwrap() {
            assert_eq!(receipt, Receipt::Unproved, "a receipt is given for what is protected");
            self.node.protect_pack(pack.root(), pack.header().bytes()).await.unwrap();
        }
        assert!(self.node.holds_pack(pack.root()).await.unwrap());
    }

    async fn holds_all(&self, pack: &Pack) {
        for (index, bytes) in pack.chunks().iter().enumerate() {
            let read = self.node.read_chunk(&at(pack, index), None, None).await.unwrap();
            assert_eq!(&read, bytes, "chunk {index}");
        }
    }

    async fn packs(&self) -> BTreeSet<PackRoot> {
        let mut found = BTreeSet::new();
        let each = &mut |root| assert!(found.insert(root), "a pack is listed once");
        self.node.list_packs(each).await.unwrap();
        found
    }

    async fn chunks(&self) -> BTreeSet<ChunkId> {
        let mut found = BTreeSet::new();
        let each = &mut |chunk| {
            found.insert(chunk);
        };
        self.node.list_chunks(each).await.unwrap();
        found
    }
}

fn at(pack: &Pack, index: usize) -> ChunkAt {
    let entry = pack.header().entries[index];
    ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: pack.root() }
}

pub async fn says_who_it_is(bench: Bench<'_>) {
    let (one, two) = (bench.node.status().await.unwrap(), bench.node.status().await.unwrap());
    assert_eq!(one.id, two.id);
    assert!(!one.version.is_empty() && one.free_bytes > 0, "{one:?}");
}

pub async fn a_pack_lives_and_dies(bench: Bench<'_>) {
    let foreign = bench.packs().await;
    let pack = bench.pack(1, vec![bench.chunk(1, 1000), bench.chunk(2, 70_000)]);
    bench.keep(&pack).await;
    bench.holds_all(&pack).await;
    let mut expected = foreign.clone();
    expected.insert(pack.root());
    assert_eq!(bench.packs().await, expected);
    assert_eq!(bench.node.pack_header(pack.root()).await.unwrap().as_ref(), Some(pack.header()));
    let chunks = bench.chunks().await;
    assert!(pack.header().entries.iter().all(|entry| chunks.contains(&entry.chunk)));
    assert!(chunks.contains(&ChunkId::from_digest(*pack.root().digest())), "roots are listed by their digest");
    bench.node.drop_pack(pack.root()).await.unwrap();
    assert!(!bench.node.holds_pack(pack.root()).await.unwrap());
    assert_eq!(bench.packs().await, foreign, "what is not ours is not touched");
}

pub async fn calls_may_be_repeated(bench: Bench<'_>) {
    let pack = bench.pack(2, vec![bench.chunk(3, 5000)]);
    bench.write(&pack).await;
    bench.keep(&pack).await;
    bench.holds_all(&pack).await;
    bench.write(&pack).await;
    assert!(bench.node.holds_pack(pack.root()).await.unwrap(), "writing again does not end the protection");
    for _ in 0..2 {
        bench.node.drop_pack(pack.root()).await.unwrap();
        assert!(!bench.node.holds_pack(pack.root()).await.unwrap());
    }
}

pub async fn what_is_absent_is_said_to_be(bench: Bench<'_>) {
    let pack = bench.pack(3, vec![bench.chunk(4, 100), bench.chunk(5, 100)]);
    assert!(!bench.node.holds_pack(pack.root()).await.unwrap());
    let whole = bench.node.read_chunk(&at(&pack, 0), None, None).await.unwrap_err();
    assert!(matches!(whole.reason, NodeFailure::Absent(_)), "{whole}");
    let range = bench.node.read_chunk(&at(&pack, 0), Some(0..10), None).await.unwrap_err();
    assert!(matches!(range.reason, NodeFailure::Absent(_)), "{range}");
    let protected = bench.node.protect_pack(pack.root(), pack.header().bytes()).await;
    assert!(protected.is_err() && !bench.node.holds_pack(pack.root()).await.unwrap(), "nothing is there to protect");
    bench.node.drop_pack(pack.root()).await.unwrap();
    let smaller = PackHeader { entries: pack.header().entries[..1].to_vec(), ..pack.header().clone() };
    assert!(bench.node.replace_pack(pack.root(), &smaller).await.is_err(), "nothing is there to replace");
    assert!(!bench.packs().await.contains(&smaller.root()));
}

pub async fn ranges_are_what_was_asked(bench: Bench<'_>) {
    let bytes = bench.chunk(6, 300_000);
    let pack = bench.pack(4, vec![bench.chunk(7, 10), bytes.clone()]);
    bench.keep(&pack).await;
    for range in [0..1, 0..300_000, 299_999..300_000, 1000..200_000] {
        let read = bench.node.read_chunk(&at(&pack, 1), Some(range.clone()), None).await.unwrap();
        assert_eq!(read, bytes.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    assert!(bench.node.read_chunk(&at(&pack, 1), Some(5..5), None).await.unwrap().is_empty());
    assert!(bench.node.read_chunk(&at(&pack, 1), Some(0..300_001), None).await.is_err());
    bench.node.drop_pack(pack.root()).await.unwrap();
}

pub async fn empty_and_largest_chunks(bench: Bench<'_>) {
    let largest = bench.chunk(8, (2 << 20) - 16);
    let pack = bench.pack(5, vec![Bytes::new(), largest, bench.chunk(9, (1 << 20) + 16)]);
    bench.keep(&pack).await;
    bench.holds_all(&pack).await;
    bench.node.drop_pack(pack.root()).await.unwrap();
}

pub async fn a_pack_of_the_most_chunks(bench: Bench<'_>) {
    let chunks = (0..crate::pack::MAX_CHUNKS as u64).map(|index| bench.chunk(1000 + index, 700)).collect();
    let pack = bench.pack(6, chunks);
    bench.keep(&pack).await;
    bench.holds_all(&pack).await;
    let listed = bench.chunks().await;
    assert!(pack.header().entries.iter().all(|entry| listed.contains(&entry.chunk)));
    bench.node.drop_pack(pack.root()).await.unwrap();
}

pub async fn a_chunk_in_two_packs(bench: Bench<'_>) {
    let shared = bench.chunk(10, 4000);
    let one = bench.pack(7, vec![shared.clone(), bench.chunk(11, 10)]);
    let two = bench.pack(8, vec![shared]);
    assert_ne!(one.root(), two.root());
    bench.keep(&one).await;
    bench.keep(&two).await;
    bench.node.drop_pack(one.root()).await.unwrap();
    assert!(bench.node.holds_pack(two.root()).await.unwrap());
    bench.holds_all(&two).await;
    bench.node.drop_pack(two.root()).await.unwrap();
}

pub async fn a_smaller_pack_takes_the_place(bench: Bench<'_>) {
    let old = bench.pack(9, vec![bench.chunk(12, 900), bench.chunk(13, 901), bench.chunk(14, 902)]);
    bench.keep(&old).await;
    let kept: Vec<Bytes> = vec![old.chunks()[0].clone(), old.chunks()[2].clone()];
    let new = bench.pack(10, kept);
    for _ in 0..2 {
        bench.node.replace_pack(old.root(), new.header()).await.unwrap();
        assert!(bench.node.holds_pack(new.root()).await.unwrap());
        assert!(!bench.node.holds_pack(old.root()).await.unwrap());
        bench.holds_all(&new).await;
        let listed = bench.packs().await;
        assert!(listed.contains(&new.root()) && !listed.contains(&old.root()));
    }
    bench.node.replace_pack(new.root(), new.header()).await.unwrap();
    assert!(bench.node.holds_pack(new.root()).await.unwrap(), "a pack may take its own place");
    bench.node.drop_pack(new.root()).await.unwrap();
    assert!(!bench.packs().await.contains(&new.root()));
}

pub async fn nothing_comes_in_by_replacing(bench: Bench<'_>) {
    let old = bench.pack(11, vec![bench.chunk(15, 800), bench.chunk(16, 801)]);
    let other = bench.pack(12, vec![bench.chunk(17, 802)]);
    bench.keep(&old).await;
    bench.keep(&other).await;
    // One chunk that the node has in another pack, and one that it has nowhere.
    for (number, foreign) in [(13, other.chunks()[0].clone()), (14, bench.chunk(18, 803))] {
        let new = bench.pack(number, vec![old.chunks()[0].clone(), foreign]);
        assert!(bench.node.replace_pack(old.root(), new.header()).await.is_err(), "it was never in the old pack");
        assert!(!bench.node.holds_pack(new.root()).await.unwrap());
        assert!(bench.node.holds_pack(old.root()).await.unwrap(), "the old one stays");
        bench.holds_all(&old).await;
    }
    for pack in [&old, &other] {
        bench.node.drop_pack(pack.root()).await.unwrap();
    }
}

pub async fn writes_at_the_same_time(bench: Bench<'_>) {
    let packs: Vec<Pack> = (0..8)
        .map(|index| bench.pack(20 + index, (0..4).map(|c| bench.chunk(100 + 4 * index + c, 50_000)).collect()))
        .collect();
    futures_util::future::join_all(packs.iter().map(|pack| bench.keep(pack))).await;
    let listed = bench.packs().await;
    for pack in &packs {
        assert!(listed.contains(&pack.root()));
        bench.holds_all(pack).await;
    }
    futures_util::future::join_all(packs.iter().map(|pack| bench.node.drop_pack(pack.root()))).await;
    let listed = bench.packs().await;
    assert!(packs.iter().all(|pack| !listed.contains(&pack.root())));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::node::fault::FaultNode;
    use crate::node::memory::MemoryNode;
    use crate::seam::Seam;

    #[tokio::test]
    async fn memory_nodes_conform_bare_and_wrapped() {
        let pool = PoolId::from_bytes([3; 16]);
        let kubo_like: SharedNode = MemoryNode::new("m1".parse().unwrap(), "one", 1 << 30);
        suite(&kubo_like, pool, 1, &|_| None).await;
        let builtin: SharedNode = MemoryNode::builtin_like(&[2; 32], "two", 1 << 30, Seam::simulated(1));
        suite(&builtin, pool, 1, &|_| None).await;
        let wrapped: SharedNode = FaultNode::new(Arc::clone(&builtin), Seam::simulated(1));
        suite(&wrapped, pool, 1, &|_| None).await;
    }
}
