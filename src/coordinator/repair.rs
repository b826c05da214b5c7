//! Repair: executes what health planned. Missing copies are made from proved ones through packs of their own, and count
//! only once they are proved like those of a put.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Coordinator;
use super::health::{Act, Check, Diagnosis, Means};
use super::judge::Depth;
use crate::admin::{Do, HealthReport, HealthRequest};
use crate::api::{ApiError, ApiResult, Code};
use crate::catalog::packs::{self, NewPack, PackState, Proof};
use crate::catalog::{chunks, trace};
use crate::id::{PackId, PackRoot};
use crate::node::{ChunkAt, NodeError, NodeFailure};
use crate::pack::{MAX_BYTES, MAX_CHUNKS, Pack};

/// Rows of versions or chunks that one step of writing down touches.
const STEP: u32 = 500;
/// Rounds of finding and mending after which a check gives its verdict.
const ROUNDS: usize = 3;

impl Coordinator {
    /// Checks, and unless dry, repairs and asks again. One repair at a time; another waits for it.
    pub(super) async fn health(&self, request: &HealthRequest) -> ApiResult<HealthReport> {
        let check = Check { now: request.now, read: request.read, leaving: None };
        if request.dry_run {
            let (found, view) = self.diagnose(check).await?;
            return Ok(found.report(&view));
        }
        self.mend(check).await
    }

    pub(super) async fn mend(&self, check: Check) -> ApiResult<HealthReport> {
        let _alone = self.repairing.lock().await;
        let (mut found, view) = self.diagnose(check).await?;
        let mut first = found.report(&view);
        for _ in 0..ROUNDS {
            self.keep(&found).await?;
            if found.acts.is_empty() {
                break;
            }
            let done = self.execute(std::mem::take(&mut found.acts), &mut first.notices).await?;
            first.repaired += done;
            (found, _) = self.diagnose(check).await?;
            if done == 0 {
                break;
            }
        }
        self.keep(&found).await?;
        let view = self.nodes.view(self.policy.replicas);
        let last = found.report(&view);
        first.verdict = last.verdict;
        first.remaining = last.remaining;
        first.chunks = last.chunks;
        first.replicas_checked = last.replicas_checked;
        first.oldest_verified = last.oldest_verified;
        Ok(first)
    }

    /// Writes down what a check saw: proofs of presence, bad replicas, and copies of each file.
    async fn keep(&self, found: &Diagnosis) -> ApiResult<()> {
        let now = self.seam.now();
        let (bad, mended, began) = (found.bad.clone(), found.mended.clone(), found.began);
        self.write(move |c| {
            for (pack, chunk) in &bad {
                if !packs::proved_since(c, *pack, began)? {
                    packs::mark(c, *pack, *chunk, Some(now))?;
                }
            }
            mended.iter().try_for_each(|(pack, chunk)| packs::mark(c, *pack, *chunk, None))
        })
        .await?;
        let seen: Vec<PackId> = found.seen_packs.iter().copied().collect();
        for some in seen.chunks(500) {
            let some = some.to_vec();
            self.write(move |c| {
                some.iter().try_for_each(|pack| {
                    if trace::still_live(c, *pack)? {
                        packs::proved(c, *pack, Proof::Sampled, now).map(drop)
                    } else {
                        Ok(())
                    }
                })
            })
            .await?;
        }
        let orphans = found.orphans.clone();
        self.write(move |c| orphans.iter().try_for_each(|root| packs::drop_again(c, root))).await?;
        self.note_copies(&found.short).await
    }

    /// Writes down what listings show of copies, in small steps: first what was short before, then what is short now.
    async fn note_copies(&self, short: &[(i64, u32)]) -> ApiResult<()> {
        let now = self.seam.now();
        let mut after = Some(0);
        while let Some(from) = after {
            after = self.write(move |c| chunks::refresh_copies(c, from, STEP, now)).await?;
        }
        for some in short.chunks(STEP as usize) {
            let some = some.to_vec();
            self.write(move |c| some.iter().try_for_each(|(chunk, good)| chunks::note_short(c, *chunk, *good))).await?;
        }
        let mut after = Some(0);
        while let Some(from) = after {
            after = self.write(move |c| chunks::note_checked(c, from, STEP, now)).await?;
        }
        Ok(())
    }

    /// Does what was planned; gives how many acts were done and proved.
    async fn execute(&self, acts: Vec<Act>, notices: &mut Vec<String>) -> ApiResult<u64> {
        let mut groups: BTreeMap<(i64, i64), Vec<Act>> = BTreeMap::new();
        let mut unprotected: BTreeMap<(i64, PackId), Vec<Act>> = BTreeMap::new();
        let mut done = 0;
        for act in acts {
            match &act.means {
                Means::Write { to, .. } => groups.entry((*to, act.vault)).or_default().push(act),
                Means::Protect { node, pack, .. } => unprotected.entry((*node, *pack)).or_default().push(act),
            }
        }
        for ((node, pack), acts) in unprotected {
            match self.protect_again(node, pack).await {
                Ok(()) => done += acts.len() as u64,
                Err(error) if error.code == Code::Temporary => notices.push(error.message),
                // It cannot be protected as a whole: what is needed of it goes into another pack.
                Err(_) => {
                    acts.into_iter().for_each(|act| groups.entry((node, act.vault)).or_default().push(act.anew()))
                }
            }
        }
        for ((node, vault), acts) in groups {
            let mut rest = acts.as_slice();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(fits(rest));
                rest = later;
                match self.write_copies(node, vault, now, notices).await {
                    Ok(count) => done += count,
                    Err(error) => notices.push(error.message),
                }
            }
        }
        notices.truncate(100);
        Ok(done)
    }

    /// Reads chunks from proved copies and writes them to one node as one pack.
    async fn write_copies(&self, node: i64, vault: i64, acts: &[Act], notices: &mut Vec<String>) -> ApiResult<u64> {
        let member = self
            .nodes
            .get(node)
            .ok_or_else(|| ApiError::new(Code::NotFound, "the node to write to is no longer registered"))?;
        let mut taken: Vec<(&Act, Bytes)> = Vec::with_capacity(acts.len());
        for act in acts {
            let Means::Write { from, .. } = &act.means else { continue };
            match self.fetch(act, from).await {
                Ok(bytes) => taken.push((act, bytes)),
                Err(error) => notices.push(format!("chunk {}: {error}", act.entry.chunk)),
            }
        }
        if taken.is_empty() {
            return Ok(0);
        }
        let new = NewPack {
            node,
            vault,
            upload: None,
            replaces: None,
            chunks: taken.iter().map(|(act, _)| act.chunk).collect(),
            entries: taken.iter().map(|(act, _)| act.entry).collect(),
        };
        let (pool, epoch, now) = (self.pool.pool, self.pool.epoch, self.seam.now());
        let header = self.write(move |c| packs::issue(c, pool, epoch, new, now)).await?;
        let id = header.id;
        let pack = Pack::new(header, taken.iter().map(|(_, bytes)| bytes.clone()).collect());
        let depth = if taken.iter().any(|(act, _)| act.instead().is_some()) { Depth::Whole } else { Depth::OfNode };
        let proof = async {
            let receipt = member.node.write_pack(&pack, None).await?;
            let asked = self.read(move |c| Ok((packs::get(c, id)?, packs::chunks(c, id)?))).await;
            let gone = || NodeFailure::Answer("its pack is gone from the catalog".into()).at(&member.row.name);
            let (row, held) = asked.map_err(|_| gone())?;
            self.prove_new(&member, &row.ok_or_else(gone)?, &held, &receipt, depth).await
        };
        let proof: Result<Proof, NodeError> = proof.await;
        match proof {
            Ok(proof) => {
                let instead: Vec<(PackId, i64)> = taken.iter().filter_map(|(act, _)| act.instead()).collect();
                let now = self.seam.now();
                self.write(move |c| {
                    if !packs::proved(c, id, proof, now)? {
                        return Ok(());
                    }
                    instead.iter().try_for_each(|(pack, chunk)| packs::forget_replica(c, *pack, *chunk))
                })
                .await?;
                Ok(taken.len() as u64)
            }
            Err(error) => {
                if let NodeFailure::Full(_) = error.reason {
                    member.is_full();
                }
                self.write(move |c| packs::abort(c, id)).await?;
                Err(super::node_error(&error))
            }
        }
    }

    /// Reads a chunk from the first copy that gives it.
    async fn fetch(&self, act: &Act, from: &[(i64, PackRoot)]) -> Result<Bytes, NodeError> {
        let mut last = NodeFailure::Absent("any good copy".into()).at("pool");
        for (node, root) in from {
            let Some(member) = self.nodes.get(*node) else { continue };
            let at = ChunkAt { chunk: act.entry.chunk, bytes: act.entry.bytes, pack: *root };
            match member.node.read_chunk(&at, None, None).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn protect_again(&self, node: i64, id: PackId) -> ApiResult<()> {
        let member = self.nodes.get(node).ok_or_else(|| ApiError::new(Code::NotFound, "a node is gone"))?;
        let found = self.read(move |c| packs::get(c, id)).await?;
        let Some(pack) = found.filter(|pack| pack.state == PackState::Live) else { return Ok(()) };
        let again = async {
            if !member.node.holds_pack(pack.root).await? {
                member.node.protect_pack(pack.root, pack.bytes).await?;
            }
            Ok::<_, NodeError>(())
        };
        again.await.map_err(|error| super::node_error(&error))?;
        let now = self.seam.now();
        self.write(move |c| packs::proved(c, id, Proof::Sampled, now)).await.map(drop)
    }
}

impl Act {
    /// The act that writes a chunk anew whose pack cannot be protected again.
    fn anew(self) -> Self {
        let means = match self.means {
            Means::Protect { from, node, pack } => {
                Means::Write { act: Do::Replace, from, to: node, instead: Some(pack) }
            }
            write @ Means::Write { .. } => write,
        };
        Self { means, ..self }
    }

    /// The replica that a new copy stands in for.
    fn instead(&self) -> Option<(PackId, i64)> {
        match &self.means {
            Means::Write { instead, .. } => instead.map(|pack| (pack, self.chunk)),
            Means::Protect { .. } => None,
        }
    }
}

/// How many of these fit into one pack; at least one.
fn fits(acts: &[Act]) -> usize {
    let mut bytes = 0;
    let more = |act: &&Act| {
        bytes += act.entry.bytes;
        bytes <= MAX_BYTES
    };
    acts.iter().take(MAX_CHUNKS).take_while(more).count().max(1)
}
