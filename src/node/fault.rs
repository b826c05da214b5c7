//! A wrapper around any node that misbehaves on demand: for tests and simulations.
//!
//! Without orders it passes everything through. Orders are given at run time, per call and by count, and are obeyed in
//! the order given; the same orders and calls give the same history.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::id::{ChunkId, NodeId, PackRoot};
use crate::node::call::Call;
use crate::node::{ChunkAt, GrantToken, Node, NodeError, NodeFailure, NodeStatus, Receipt, SharedNode};
use crate::pack::{Pack, PackHeader};
use crate::seam::Seam;

/// How a call goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this, and the node is not asked.
    Fail(NodeFailure),
    /// The node does it, and the answer is lost: it fails with this.
    LoseAnswer(NodeFailure),
    /// It waits so long, then goes on as it should.
    Delay(Duration),
    /// It never ends; whoever waits must give up.
    Hang,
    /// It fails with this halfway: half of a listing was handed out by then. Of other calls the node hears nothing.
    Midway(NodeFailure),
    /// A read gives bytes with one bit flipped, unproved; a pack reaches the node with one bit flipped. Nothing for other
    /// calls.
    FlipBit,
    /// A write is done, and one chunk of it, chosen by chance, is lost at once: nothing that needs its bytes succeeds any
    /// more. Nothing for other calls.
    LoseChunk,
    /// A write, a protection, a drop or a replacement is answered with success, and the node never hears of it; the packs
    /// that were lied about are said to be held. A listing of chunks has none. Nothing for other calls.
    Lie,
}

/// Which calls an order is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Every one from now on.
    Always,
    /// The n-th from now on, counted from 1, and no other.
    Nth(u64),
    /// The next so many.
    Next(u64),
}

#[derive(Debug)]
struct Order {
    call: Call,
    when: When,
    /// Calls since the order was given.
    seen: u64,
    fault: Fault,
}

impl Order {
    /// Whether it is for this call; counts it.
    fn applies(&mut self, call: Call) -> bool {
        if self.call != call {
            return false;
        }
        self.seen += 1;
        match self.when {
            When::Always => true,
            When::Nth(n) => self.seen == n,
            When::Next(n) => self.seen <= n,
        }
    }

    const fn is_over(&self) -> bool {
        match self.when {
            When::Always => false,
            When::Nth(n) | When::Next(n) => self.seen >= n,
        }
    }
}

/// A node that misbehaves on demand.
#[derive(Debug)]
pub struct FaultNode {
    inner: SharedNode,
    name: String,
    seam: Seam,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    orders: Vec<Order>,
    calls: BTreeMap<Call, u64>,
    lost: BTreeSet<ChunkId>,
    /// Packs that lost a chunk when they were written.
    holed: BTreeSet<PackRoot>,
    identity: Option<NodeId>,
    elsewhere: Option<SharedNode>,
    claimed: BTreeSet<PackRoot>,
}

impl FaultNode {
    /// Wraps a node. The seam chooses which bits are flipped; errors made here name the node `faulty`.
    pub fn new(inner: SharedNode, seam: Seam) -> Arc<Self> {
        Self::named(inner, "faulty", seam)
    }

    /// Wraps a node; `name` stands in the errors made here.
    pub fn named(inner: SharedNode, name: impl Into<String>, seam: Seam) -> Arc<Self> {
        Arc::new(Self { inner, name: name.into(), seam, state: Mutex::default() })
    }

    /// The node within.
    pub const fn inner(&self) -> &SharedNode {
        &self.inner
    }

    /// Orders a fault for a call. Earlier orders come first; of each call, delays add up and the first other fault wins.
    pub fn order(&self, call: Call, when: When, fault: Fault) {
        self.state().orders.push(Order { call, when, seen: 0, fault });
    }

    /// Orders a fault for every call from now on.
    pub fn order_all(&self, fault: &Fault) {
        Call::ALL.into_iter().for_each(|call| self.order(call, When::Always, fault.clone()));
    }

    /// It refuses connections from now on.
    pub fn refuse(&self) {
        self.order_all(&Fault::Fail(NodeFailure::Unreachable("connection refused".to_owned())));
    }

    /// It takes no more packs from now on.
    pub fn fill(&self) {
        self.order(Call::Write, When::Always, Fault::Fail(NodeFailure::Full("no space left on device".to_owned())));
    }

    /// It no longer gives or lists this chunk.
    pub fn lose(&self, chunk: ChunkId) {
        self.state().lost.insert(chunk);
    }

    /// Whether it was made to lose this chunk.
    pub fn has_lost(&self, chunk: &ChunkId) -> bool {
        self.state().lost.contains(chunk)
    }

    /// It says that it is somebody else.
    pub fn pretend(&self, identity: NodeId) {
        self.state().identity = Some(identity);
    }

    /// Its address leads to another node. Who reads there, and does not find a chunk, learns which one it is.
    pub fn lead_to(&self, other: SharedNode) {
        self.state().elsewhere = Some(other);
    }

    /// Takes every order back; from now on it passes through. Packs that were lied about are no longer said to be held, and
    /// what was lost is there again.
    pub fn heal(&self) {
        let mut state = self.state();
        let calls = std::mem::take(&mut state.calls);
        *state = State { calls, ..State::default() };
    }

    /// How often a method was called.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls.get(&call).copied().unwrap_or(0)
    }

    /// The node that its address leads to.
    fn node(&self) -> SharedNode {
        self.state().elsewhere.clone().unwrap_or_else(|| Arc::clone(&self.inner))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, reason: NodeFailure) -> NodeError {
        reason.at(self.name.clone())
    }

    /// Obeys what was ordered for this call: waits, fails, or says what is left to do wrong.
    async fn enter(&self, call: Call) -> Result<Option<Fault>, NodeError> {
        let (wait, fault) = self.take(call);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        match fault {
            Some(Fault::Fail(reason)) => Err(self.fail(reason)),
            Some(Fault::Midway(reason)) if !matches!(call, Call::ListPacks | Call::ListChunks) => {
                Err(self.fail(reason))
            }
            Some(Fault::Hang) => std::future::pending().await,
            other => Ok(other),
        }
    }

    fn take(&self, call: Call) -> (Duration, Option<Fault>) {
        let mut state = self.state();
        *state.calls.entry(call).or_default() += 1;
        let mut wait = Duration::ZERO;
        let mut found = None;
        for order in &mut state.orders {
            if order.applies(call) {
                match &order.fault {
                    Fault::Delay(delay) => wait += *delay,
                    fault => found = found.or_else(|| Some(fault.clone())),
                }
            }
        }
        state.orders.retain(|order| !order.is_over());
        (wait, found)
    }

    /// The pack with one bit of one of its chunks flipped, under the root that it had.
    fn bent(&self, pack: &Pack) -> Pack {
        let mut chunks = pack.chunks().to_vec();
        let full: Vec<usize> = (0..chunks.len()).filter(|at| !chunks[*at].is_empty()).collect();
        if let Some(at) = full.get(self.seam.below(full.len().max(1) as u64) as usize) {
            chunks[*at] = self.flipped(&chunks[*at]);
        }
        Pack::new(pack.header().clone(), chunks)
    }

    /// One of the pack's chunks is lost from now on.
    fn lose_one(&self, pack: &Pack) {
        let entries = &pack.header().entries;
        let chosen = self.seam.below(entries.len().max(1) as u64) as usize;
        let mut state = self.state();
        if let Some(entry) = entries.get(chosen) {
            state.lost.insert(entry.chunk);
            state.holed.insert(pack.root());
        }
    }

    /// The same bytes with one bit flipped; one byte where there was none.
    fn flipped(&self, bytes: &Bytes) -> Bytes {
        let mut wrong = bytes.to_vec();
        let bit = self.seam.below(8 * bytes.len() as u64);
        match wrong.get_mut((bit / 8) as usize) {
            Some(byte) => *byte ^= 1 << (bit % 8),
            None => wrong.push(0),
        }
        wrong.into()
    }

    /// The answer, unless it was to be lost.
    fn leave<T>(&self, fault: Option<Fault>, answer: Result<T, NodeError>) -> Result<T, NodeError> {
        match (fault, answer) {
            (Some(Fault::LoseAnswer(reason) | Fault::Midway(reason)), _) => Err(self.fail(reason)),
            (_, answer) => answer,
        }
    }
}

/// Hands out every other item of a listing that is to fail halfway, and all of another.
struct Half {
    every_other: bool,
    given: bool,
}

impl Half {
    const fn of(fault: &Option<Fault>) -> Self {
        Self { every_other: matches!(fault, Some(Fault::Midway(_))), given: false }
    }

    const fn gives(&mut self) -> bool {
        self.given = !self.given;
        self.given || !self.every_other
    }
}

#[async_trait]
impl Node for FaultNode {
    async fn status(&self) -> Result<NodeStatus, NodeError> {
        let fault = self.enter(Call::Status).await?;
        let mut status = self.leave(fault, self.node().status().await)?;
        if let Some(identity) = &self.state().identity {
            status.id = identity.clone();
        }
        Ok(status)
    }

    async fn write_pack(&self, pack: &Pack, grant: Option<&GrantToken>) -> Result<Receipt, NodeError> {
        let fault = self.enter(Call::Write).await?;
        if fault == Some(Fault::Lie) {
            self.state().claimed.insert(pack.root());
            return Ok(Receipt::Unproved);
        }
        let node = self.node();
        match fault {
            Some(Fault::FlipBit) => node.write_pack(&self.bent(pack), grant).await,
            Some(Fault::LoseChunk) => {
                let receipt = node.write_pack(pack, grant).await?;
                self.lose_one(pack);
                Ok(receipt)
            }
            fault => self.leave(fault, node.write_pack(pack, grant).await),
        }
    }

    async fn protect_pack(&self, root: PackRoot, bytes: u64) -> Result<(), NodeError> {
        let fault = self.enter(Call::Protect).await?;
        if fault == Some(Fault::Lie) || self.state().claimed.contains(&root) {
            self.state().claimed.insert(root);
            return Ok(());
        }
        if self.state().holed.contains(&root) {
            return Err(self.fail(NodeFailure::Absent(format!("all of pack {root}"))));
        }
        self.leave(fault, self.node().protect_pack(root, bytes).await)
    }

    async fn holds_pack(&self, root: PackRoot) -> Result<bool, NodeError> {
        let fault = self.enter(Call::Holds).await?;
        if self.state().claimed.contains(&root) {
            return Ok(true);
        }
        self.leave(fault, self.node().holds_pack(root).await)
    }

    async fn read_chunk(
        &self,
        at: &ChunkAt,
        range: Option<Range<u64>>,
        grant: Option<&GrantToken>,
    ) -> Result<Bytes, NodeError> {
        let fault = self.enter(Call::Read).await?;
        if self.state().lost.contains(&at.chunk) {
            return Err(self.fail(NodeFailure::Absent(at.chunk.to_string())));
        }
        let flip = fault == Some(Fault::FlipBit);
        let node = self.node();
        let bytes = match self.leave(fault, node.read_chunk(at, range.clone(), grant).await) {
            Err(NodeError { reason: NodeFailure::Absent(_), .. }) if !Arc::ptr_eq(&node, &self.inner) => {
                let found = node.status().await?.id;
                return Err(self.fail(NodeFailure::OtherIdentity { found }));
            }
            read => read?,
        };
        match (flip, range) {
            (false, _) => Ok(bytes),
            // Whole chunks are hashed by whoever reads them from a node.
            (true, None) => Err(self.fail(NodeFailure::Corrupt(at.chunk.to_string()))),
            (true, Some(_)) => Ok(self.flipped(&bytes)),
        }
    }

    async fn pack_header(&self, root: PackRoot) -> Result<Option<PackHeader>, NodeError> {
        let fault = self.enter(Call::Header).await?;
        self.leave(fault, self.inner.pack_header(root).await)
    }

    async fn list_packs(&self, each: &mut (dyn FnMut(PackRoot) + Send)) -> Result<(), NodeError> {
        let fault = self.enter(Call::ListPacks).await?;
        let mut claimed = self.state().claimed.clone();
        let mut half = Half::of(&fault);
        let mut listed = |root| {
            claimed.remove(&root);
            if half.gives() {
                each(root);
            }
        };
        let answer = self.node().list_packs(&mut listed).await;
        self.leave(fault, answer)?;
        claimed.into_iter().for_each(each);
        Ok(())
    }

    async fn list_chunks(&self, each: &mut (dyn FnMut(ChunkId) + Send)) -> Result<(), NodeError> {
        let fault = self.enter(Call::ListChunks).await?;
        if fault == Some(Fault::Lie) {
            return Ok(());
        }
        let lost = self.state().lost.clone();
        let mut half = Half::of(&fault);
        let mut kept = |chunk: ChunkId| {
            if !lost.contains(&chunk) && half.gives() {
                each(chunk);
            }
        };
        let answer = self.node().list_chunks(&mut kept).await;
        self.leave(fault, answer)
    }

    async fn drop_pack(&self, root: PackRoot) -> Result<(), NodeError> {
        let fault = self.enter(Call::Drop).await?;
        self.state().claimed.remove(&root);
        if fault == Some(Fault::Lie) {
            return Ok(());
        }
        self.leave(fault, self.node().drop_pack(root).await)
    }

    async fn replace_pack(&self, old: PackRoot, new: &PackHeader) -> Result<(), NodeError> {
        let fault = self.enter(Call::Replace).await?;
        if fault == Some(Fault::Lie) {
            self.state().claimed.insert(new.root());
            return Ok(());
        }
        self.leave(fault, self.node().replace_pack(old, new).await)
    }

    async fn remove_chunk(&self, chunk: ChunkId) -> Result<(), NodeError> {
        self.node().remove_chunk(chunk).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::memory::MemoryNode;

    fn node() -> Arc<FaultNode> {
        FaultNode::new(MemoryNode::new("m1".parse().unwrap(), "m", 1 << 20), Seam::simulated(5))
    }

    #[tokio::test(start_paused = true)]
    async fn orders_hit_the_calls_they_name_and_no_other() {
        let node = node();
        let refused = || Fault::Fail(NodeFailure::Unreachable("refused".to_owned()));
        node.order(Call::Status, When::Nth(2), refused());
        node.order(Call::Status, When::Next(1), Fault::Delay(Duration::from_secs(5)));
        let before = tokio::time::Instant::now();
        assert!(node.status().await.is_ok());
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        assert!(node.status().await.is_err());
        assert!(node.status().await.is_ok());
        node.order(Call::Status, When::Always, Fault::Hang);
        let hung = tokio::time::timeout(Duration::from_secs(3600), node.status()).await;
        assert!(hung.is_err(), "it never ends");
        node.heal();
        node.pretend("other".parse().unwrap());
        assert_eq!(node.status().await.unwrap().id.as_str(), "other");
        assert_eq!(node.calls(Call::Status), 5);
    }

    fn pack() -> Pack {
        let header = PackHeader {
            pool: crate::id::PoolId::from_bytes([1; 16]),
            epoch: 1,
            id: crate::id::PackId::new(1),
            entries: vec![crate::pack::PackEntry { chunk: ChunkId::of(b"x"), bytes: 1 }],
        };
        Pack::new(header, vec![Bytes::from_static(b"x")])
    }

    #[tokio::test]
    async fn what_is_bent_lost_cut_or_led_away_is_not_there() {
        let (node, pack) = (node(), pack());
        let at = ChunkAt { chunk: ChunkId::of(b"x"), bytes: 1, pack: pack.root() };
        node.order(Call::Write, When::Nth(1), Fault::FlipBit);
        assert!(matches!(node.write_pack(&pack, None).await.unwrap_err().reason, NodeFailure::Answer(_)));
        node.order(Call::Write, When::Nth(1), Fault::LoseChunk);
        node.write_pack(&pack, None).await.unwrap();
        assert!(node.has_lost(&at.chunk) && node.read_chunk(&at, None, None).await.is_err());
        assert!(matches!(node.protect_pack(pack.root(), 1).await.unwrap_err().reason, NodeFailure::Absent(_)));
        node.heal();
        node.protect_pack(pack.root(), 1).await.unwrap();

        let broke = || NodeFailure::Unreachable("broke off".to_owned());
        node.order_all(&Fault::Midway(broke()));
        let mut listed = 0;
        assert_eq!(node.list_chunks(&mut |_| listed += 1).await.unwrap_err().reason, broke());
        assert_eq!(listed, 1, "of the root and a chunk");
        assert!(node.drop_pack(pack.root()).await.is_err());
        node.heal();
        node.order(Call::Drop, When::Nth(1), Fault::Lie);
        node.drop_pack(pack.root()).await.unwrap();
        assert!(node.holds_pack(pack.root()).await.unwrap());
        node.lead_to(MemoryNode::new("m2".parse().unwrap(), "m", 1 << 20));
        assert_eq!(node.status().await.unwrap().id.as_str(), "m2");
        let other = node.read_chunk(&at, None, None).await.unwrap_err().reason;
        assert_eq!(other, NodeFailure::OtherIdentity { found: "m2".parse().unwrap() });
        node.heal();
        assert!(node.read_chunk(&at, None, None).await.is_ok());
    }

    #[tokio::test]
    async fn a_liar_claims_what_it_never_stored() {
        let (node, pack) = (node(), pack());
        node.order(Call::Write, When::Next(1), Fault::Lie);
        assert_eq!(node.write_pack(&pack, None).await, Ok(Receipt::Unproved));
        node.protect_pack(pack.root(), 1).await.unwrap();
        assert!(node.holds_pack(pack.root()).await.unwrap());
        let at = ChunkAt { chunk: ChunkId::of(b"x"), bytes: 1, pack: pack.root() };
        assert!(matches!(node.read_chunk(&at, None, None).await.unwrap_err().reason, NodeFailure::Absent(_)));
        node.heal();
        node.write_pack(&pack, None).await.unwrap();
        node.order(Call::Read, When::Nth(1), Fault::FlipBit);
        assert!(matches!(node.read_chunk(&at, None, None).await.unwrap_err().reason, NodeFailure::Corrupt(_)));
        node.order(Call::Read, When::Nth(1), Fault::FlipBit);
        let flipped = node.read_chunk(&at, Some(0..1), None).await.unwrap();
        assert_eq!((flipped[0] ^ b'x').count_ones(), 1);
        node.lose(at.chunk);
        assert!(node.read_chunk(&at, None, None).await.is_err());
        node.fill();
        assert!(matches!(node.write_pack(&pack, None).await.unwrap_err().reason, NodeFailure::Full(_)));
    }
}
