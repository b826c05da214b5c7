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
    /// A read gives bytes with one bit flipped, unproved. Nothing for other calls.
    FlipBit,
    /// A write or a protection is answered with success, and the node never hears of it; the packs that were lied about
    /// are said to be held. Nothing for other calls.
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
    identity: Option<NodeId>,
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

    /// It says that it is somebody else.
    pub fn pretend(&self, identity: NodeId) {
        self.state().identity = Some(identity);
    }

    /// Takes every order back; from now on it passes through. Packs that were lied about are no longer said to be held.
    pub fn heal(&self) {
        let mut state = self.state();
        let calls = std::mem::take(&mut state.calls);
        *state = State { calls, ..State::default() };
    }

    /// How often a method was called.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls.get(&call).copied().unwrap_or(0)
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
            (Some(Fault::LoseAnswer(reason)), Ok(_)) => Err(self.fail(reason)),
            (_, answer) => answer,
        }
    }
}

#[async_trait]
impl Node for FaultNode {
    async fn status(&self) -> Result<NodeStatus, NodeError> {
        let fault = self.enter(Call::Status).await?;
        let mut status = self.leave(fault, self.inner.status().await)?;
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
        self.leave(fault, self.inner.write_pack(pack, grant).await)
    }

    async fn protect_pack(&self, root: PackRoot, bytes: u64) -> Result<(), NodeError> {
        let fault = self.enter(Call::Protect).await?;
        if fault == Some(Fault::Lie) || self.state().claimed.contains(&root) {
            self.state().claimed.insert(root);
            return Ok(());
        }
        self.leave(fault, self.inner.protect_pack(root, bytes).await)
    }

    async fn holds_pack(&self, root: PackRoot) -> Result<bool, NodeError> {
        let fault = self.enter(Call::Holds).await?;
        if self.state().claimed.contains(&root) {
            return Ok(true);
        }
        self.leave(fault, self.inner.holds_pack(root).await)
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
        let bytes = self.leave(fault, self.inner.read_chunk(at, range, grant).await)?;
        Ok(if flip { self.flipped(&bytes) } else { bytes })
    }

    async fn list_packs(&self, each: &mut (dyn FnMut(PackRoot) + Send)) -> Result<(), NodeError> {
        let fault = self.enter(Call::ListPacks).await?;
        let mut claimed = self.state().claimed.clone();
        let mut listed = |root| {
            claimed.remove(&root);
            each(root);
        };
        let answer = self.inner.list_packs(&mut listed).await;
        self.leave(fault, answer)?;
        claimed.into_iter().for_each(each);
        Ok(())
    }

    async fn list_chunks(&self, each: &mut (dyn FnMut(ChunkId) + Send)) -> Result<(), NodeError> {
        let fault = self.enter(Call::ListChunks).await?;
        let lost = self.state().lost.clone();
        let mut kept = |chunk: ChunkId| {
            if !lost.contains(&chunk) {
                each(chunk);
            }
        };
        let answer = self.inner.list_chunks(&mut kept).await;
        self.leave(fault, answer)
    }

    async fn drop_pack(&self, root: PackRoot) -> Result<(), NodeError> {
        let fault = self.enter(Call::Drop).await?;
        self.state().claimed.remove(&root);
        self.leave(fault, self.inner.drop_pack(root).await)
    }

    async fn replace_pack(&self, old: PackRoot, new: &PackHeader) -> Result<(), NodeError> {
        let fault = self.enter(Call::Replace).await?;
        self.leave(fault, self.inner.replace_pack(old, new).await)
    }

    async fn remove_chunk(&self, chunk: ChunkId) -> Result<(), NodeError> {
        self.inner.remove_chunk(chunk).await
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

    #[tokio::test]
    async fn a_liar_claims_what_it_never_stored() {
        let node = node();
        let header = PackHeader {
            pool: crate::id::PoolId::from_bytes([1; 16]),
            epoch: 1,
            id: crate::id::PackId::new(1),
            entries: vec![crate::pack::PackEntry { chunk: ChunkId::of(b"x"), bytes: 1 }],
        };
        let pack = Pack::new(header, vec![Bytes::from_static(b"x")]);
        node.order(Call::Write, When::Next(1), Fault::Lie);
        assert_eq!(node.write_pack(&pack, None).await, Ok(Receipt::Unproved));
        node.protect_pack(pack.root(), 1).await.unwrap();
        assert!(node.holds_pack(pack.root()).await.unwrap());
        let at = ChunkAt { chunk: ChunkId::of(b"x"), bytes: 1, pack: pack.root() };
        assert!(matches!(node.read_chunk(&at, None, None).await.unwrap_err().reason, NodeFailure::Absent(_)));
        node.heal();
        node.write_pack(&pack, None).await.unwrap();
        node.order(Call::Read, When::Nth(1), Fault::FlipBit);
        let flipped = node.read_chunk(&at, None, None).await.unwrap();
        assert_eq!((flipped[0] ^ b'x').count_ones(), 1);
        node.lose(at.chunk);
        assert!(node.read_chunk(&at, None, None).await.is_err());
        node.fill();
        assert!(matches!(node.write_pack(&pack, None).await.unwrap_err().reason, NodeFailure::Full(_)));
    }
}
