//! Copies that are too many are given up: only where the target is there without them, as the nodes just listed it, and
//! with as many copies read or proved just now as a put needs to be acknowledged.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;

use crate::api::ApiResult;
use crate::catalog::nodes::Draining;
use crate::catalog::packs::{self, NewPack};
use crate::catalog::spare::{self, Kept};
use crate::catalog::{micros, scrub};
use crate::coordinator::health::Check;
use crate::coordinator::health::acts::Spare;
use crate::coordinator::{Coordinator, Policy};
use crate::id::PackId;
use crate::node::ChunkAt;
use crate::pack::PackEntry;

impl Coordinator {
    /// Gives up copies of chunks, and says which; `began` is when the nodes were asked what they have.
    pub(super) async fn give_up(
        &self,
        spares: Vec<(Spare, i64, PackEntry)>,
        began: Timestamp,
        check: &Check,
    ) -> ApiResult<HashSet<(Spare, i64)>> {
        let mut of_packs: BTreeMap<Spare, Vec<(i64, PackEntry)>> = BTreeMap::new();
        for (spare, chunk, entry) in spares {
            of_packs.entry(spare).or_default().push((chunk, entry));
        }
        let mut all = HashSet::new();
        for (spare, chunks) in of_packs {
            let before = all.len();
            for (chunk, entry) in chunks {
                // While many nodes are away, nothing is too much.
                let held = !check.now && self.nodes.vanished().is_some();
                if held || check.task.is_over() || self.may_change().is_err() {
                    break;
                }
                if self.give_up_one(spare, chunk, entry, began).await? {
                    all.insert((spare, chunk));
                }
            }
            if all.len() > before && self.may_change().is_ok() {
                self.shrink_rest(spare).await?;
            }
        }
        Ok(all)
    }

    async fn give_up_one(&self, spare: Spare, chunk: i64, entry: PackEntry, began: Timestamp) -> ApiResult<bool> {
        let leaving = self.leaving_nodes();
        let (since, fresh) = (micros(began), self.times_since(self.ago(self.policy.fresh)));
        let (own, away) = (spare.pack, leaving.clone());
        let found = self.read(move |c| spare::kept(c, chunk, &entry.chunk, own, &away)).await?;
        let Some((target, mut kept)) = found else { return Ok(false) };
        // What nobody can ask for now is no reason to give another up.
        let answering: BTreeSet<i64> = self.answering_nodes();
        kept.retain(|one| answering.contains(&one.node));
        let wanted = Policy::write_rule(target) as usize;
        let mut proved: BTreeSet<PackId> = BTreeSet::new();
        let mut nodes: BTreeSet<i64> = BTreeSet::new();
        let is_fresh = |kept: &&Kept| fresh.contains(&kept.proved);
        for one in kept.iter().filter(is_fresh) {
            nodes.insert(one.node);
            proved.insert(one.pack);
        }
        for one in &kept {
            if nodes.len() >= wanted {
                break;
            }
            let Some(member) = self.nodes.get(one.node).filter(|member| !nodes.contains(&member.row.row)) else {
                continue;
            };
            let at = ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: one.root };
            let read = match member.is_itself().await {
                Ok(()) => member.node.read_chunk(&at, None, None).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(_) => {
                    nodes.insert(one.node);
                    proved.insert(one.pack);
                }
                Err(error) if error.reason.is_of_bytes() => {
                    self.mark_bad(one.pack, chunk).await;
                    self.repair_wanted.notify_one();
                    return Ok(false);
                }
                Err(error) => drop(self.node_answer::<()>(&member, Err(error))),
            }
        }
        if nodes.len() < wanted {
            return Ok(false);
        }
        let (node, pack) = (spare.node, spare.pack);
        let counts = spare::Counts { since, answering: self.answering_nodes(), leaving, proved };
        self.write(move |c| spare::give_up(c, (node, pack), (chunk, &entry.chunk), &counts)).await
    }

    /// Nodes (by row) that answer, and obey this coordinator.
    fn answering_nodes(&self) -> BTreeSet<i64> {
        let members = self.nodes.all();
        members.iter().filter(|one| one.answers() && one.agrees()).map(|one| one.row.row).collect()
    }

    /// Nodes (by row) that are to be emptied.
    pub(in crate::coordinator) fn leaving_nodes(&self) -> BTreeSet<i64> {
        let members = self.nodes.all();
        members.iter().filter(|member| member.row.draining == Draining::Yes).map(|member| member.row.row).collect()
    }

    /// Issues the smaller pack that is to take the place of one that some copies were given up of; the sweeper has the node
    /// make it. Not on a node that is to be emptied, whose packs go as a whole.
    async fn shrink_rest(&self, spare: Spare) -> ApiResult<()> {
        if self.leaving_nodes().contains(&spare.node) {
            return Ok(());
        }
        let (pool, epoch, now, id) = (self.pool, self.epoch(), self.seam.now(), spare.pack);
        self.write(move |c| {
            let Some(pack) = packs::get(c, id)?.filter(|pack| pack.state == packs::PackState::Live) else {
                return Ok(());
            };
            let held = packs::chunks(c, id)?;
            // A node cannot make a pack of what it has wrong.
            if held.is_empty() || held.iter().any(|held| held.bad) || scrub::is_replaced(c, id)? {
                return Ok(());
            }
            packs::issue(c, pool, epoch, NewPack::in_place_of(&pack, &held), now).map(drop)
        })
        .await
    }
}
