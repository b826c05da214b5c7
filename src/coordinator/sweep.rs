//! The sweeper: the only part that releases chunks. It ends abandoned puts, lets versions go whose time is over, and
//! tells nodes to drop what nothing needs, as often as it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;

use super::Coordinator;
use super::registry::Member;
use crate::admin::Swept;
use crate::api::ApiResult;
use crate::catalog::micros;
use crate::catalog::packs::{self, NewPack, PackRow, PackState};
use crate::catalog::sweep;
use crate::id::{PackId, UploadId};
use crate::node::NodeFailure;

/// Nodes told at once.
const TELLING: usize = 8;
/// Packs that one node is told of at once.
const TELLING_ONE: usize = 4;
/// Packs handled in one go.
const BATCH: u32 = 1000;
/// Packs that one change forgets: each may hold 1,024 chunks.
const STEP: usize = 2;

/// What a sweep may release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// What is past its retention.
    Retention,
    /// Everything that was removed.
    Now,
}

impl Coordinator {
    /// Ends a put: what it did not commit is released by the next sweep.
    pub(super) async fn end_put(&self, upload: UploadId) -> ApiResult<()> {
        let now = self.seam.now();
        self.write(move |c| sweep::begin_end(c, upload, now)).await?;
        self.leases.remove(upload);
        while self.write(move |c| sweep::end_upload(c, upload, now)).await? {}
        Ok(())
    }

    fn retained_until(&self) -> Timestamp {
        self.clock.retained_until(&self.seam, self.policy.retention)
    }

    /// Sweeps once.
    ///
    /// # Errors
    /// The catalog's; that the coordinator is read-only. A node that fails is left for the next sweep.
    pub async fn sweep(&self, until: Until) -> ApiResult<Swept> {
        self.may_change()?;
        let _alone = self.sweeping.lock().await;
        let mut over = self.leases.expired(self.policy.lease);
        over.extend(self.read(sweep::ending).await?);
        for upload in over {
            self.end_put(upload).await?;
        }
        let (retention, end) = match until {
            Until::Retention => (self.policy.retention, self.retained_until()),
            Until::Now => (Duration::ZERO, jiff::Timestamp::MAX),
        };
        loop {
            let building = Arc::clone(&self.building);
            if !self.write(move |c| sweep::empty_detached(c, retention, &building.roots())).await? {
                break;
            }
        }
        loop {
            // Asked within the transaction: a read that opens later sees what it releases.
            let reads = Arc::clone(&self.reads);
            if !self.write(move |c| sweep::release_versions(c, end, &reads.versions())).await? {
                break;
            }
        }
        let mut swept = Swept::default();
        let mut holed = BTreeSet::new();
        let mut after = 0;
        loop {
            let found = self.write(move |c| sweep::settle_loose(c, after)).await?;
            swept.chunks += found.chunks;
            holed.extend(found.holed);
            let Some(next) = found.next else { break };
            after = next;
        }
        self.drop_packs(&mut swept).await?;
        for pack in holed {
            self.begin_shrink(pack).await?;
        }
        self.finish_shrinking(&mut swept).await?;
        Ok(swept)
    }

    /// Tells nodes to drop packs until none is left but those whose nodes do not answer.
    async fn drop_packs(&self, swept: &mut Swept) -> ApiResult<()> {
        let mut after = PackId::new(0);
        loop {
            let batch = self.read(move |c| packs::dropping(c, after, BATCH)).await?;
            let Some(last) = batch.last() else { return Ok(()) };
            after = last.id;
            let mut of_nodes: BTreeMap<i64, Vec<PackRow>> = BTreeMap::new();
            batch.into_iter().for_each(|pack| of_nodes.entry(pack.node).or_default().push(pack));
            let of_nodes = of_nodes.into_iter().map(|(node, packs)| self.tell_node(node, packs));
            let told: Vec<Vec<(PackRow, bool)>> = stream::iter(of_nodes).buffer_unordered(TELLING).collect().await;
            let (gone, silent): (Vec<_>, Vec<_>) = told.into_iter().flatten().partition(|(_, told)| *told);
            swept.waiting += silent.len() as u64;
            swept.packs += gone.len() as u64;
            swept.bytes += gone.iter().map(|(pack, _)| pack.bytes).sum::<u64>();
            let ids: Vec<PackId> = gone.into_iter().map(|(pack, _)| pack.id).collect();
            for some in ids.chunks(STEP) {
                let some = some.to_vec();
                self.write(move |c| some.iter().try_for_each(|id| sweep::dropped(c, *id))).await?;
            }
        }
    }

    /// Tells one node to drop packs; gives which of them it did.
    async fn tell_node(&self, node: i64, packs: Vec<PackRow>) -> Vec<(PackRow, bool)> {
        let each = |told: bool| move |pack| (pack, told);
        let Some(member) = self.nodes.get(node) else { return packs.into_iter().map(each(true)).collect() };
        // Another behind its address would say that it does not have them.
        if !self.obeys(&member).await {
            return packs.into_iter().map(each(false)).collect();
        }
        let told = packs.into_iter().map(|pack| {
            let member = &member;
            async move {
                let told = self.node_answer(member, member.node.drop_pack(pack.root).await).is_some();
                (pack, told)
            }
        });
        stream::iter(told).buffer_unordered(TELLING_ONE).collect().await
    }

    /// Issues the smaller pack that is to take a pack's place.
    async fn begin_shrink(&self, id: PackId) -> ApiResult<()> {
        let (pool, epoch, now) = (self.pool, self.epoch(), self.seam.now());
        self.write(move |c| {
            let Some(pack) = packs::get(c, id)?.filter(|pack| pack.state == PackState::Live) else { return Ok(()) };
            let Some(needed) = sweep::shrink(c, &pack)? else { return Ok(()) };
            packs::issue(c, pool, epoch, NewPack::in_place_of(&pack, &needed), now).map(drop)
        })
        .await
    }

    /// Whether a node answers as itself and may be told to drop something, now that it is asked.
    async fn obeys(&self, member: &Member) -> bool {
        let itself = match member.agrees() {
            true => member.is_itself().await,
            false => self.ask(member).await.map(drop),
        };
        self.node_answer(member, itself).is_some() && self.may_drop(member)
    }

    /// Has nodes put smaller packs in the place of larger ones; what fails is tried again by the next sweep.
    async fn finish_shrinking(&self, swept: &mut Swept) -> ApiResult<()> {
        for new in self.read(packs::replacing).await? {
            let Some(old_id) = new.replaces else { continue };
            let pool = self.pool;
            let of_new = new.clone();
            let (old, header) =
                self.read(move |c| Ok((packs::get(c, old_id)?, packs::header(c, pool, &of_new)?))).await?;
            let Some(old) = old.filter(|old| old.state == PackState::Live) else {
                let id = new.id;
                self.write(move |c| packs::abort(c, id)).await?;
                continue;
            };
            let Some(member) = self.nodes.get(new.node) else { continue };
            let began = self.seam.now();
            if !self.obeys(&member).await {
                swept.waiting += 1;
                continue;
            }
            let answer = member.node.replace_pack(old.root, &header).await;
            let absent = matches!(&answer, Err(error) if matches!(error.reason, NodeFailure::Absent(_)));
            if self.node_answer(&member, answer).is_none() {
                if !absent || !self.give_up_shrinking(&member, &old, new.id, began).await? {
                    swept.waiting += 1;
                }
                continue;
            }
            swept.bytes += old.bytes.saturating_sub(new.bytes);
            self.write(move |c| sweep::replaced(c, &new, old_id)).await?;
        }
        Ok(())
    }
}

impl Coordinator {
    /// Gives up a smaller pack in the place of one that its node lost, or no longer protects; says whether it is so. What
    /// the lost one had no longer counts, and repair sees to that; nothing is left to be made smaller.
    async fn give_up_shrinking(
        &self,
        member: &Member,
        old: &PackRow,
        new: PackId,
        began: Timestamp,
    ) -> ApiResult<bool> {
        if self.node_answer(member, member.node.holds_pack(old.root).await) != Some(false) {
            return Ok(false);
        }
        let (old, meanwhile) = (old.id, self.times_since(micros(began) + 1));
        self.write(move |c| {
            packs::abort(c, new)?;
            packs::unprotected(c, old, &meanwhile)
        })
        .await?;
        self.repair_wanted.notify_one();
        Ok(true)
    }

    /// What a sweep would release; nothing is changed, and no node is told anything.
    pub(super) async fn weigh_sweep(&self, now: bool) -> ApiResult<Swept> {
        let (retention, end) = match now {
            true => (Duration::ZERO, jiff::Timestamp::MAX),
            false => (self.policy.retention, self.retained_until()),
        };
        let (reading, building) = (self.reads.versions(), self.building.roots());
        let foresee = move |c: &rusqlite::Connection| sweep::foresee(c, retention, end, (&reading, &building));
        let found = self.read(foresee).await?;
        Ok(Swept { chunks: found.chunks, packs: found.packs, bytes: found.bytes, waiting: 0 })
    }
}
