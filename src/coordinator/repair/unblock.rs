//! Kubo's block cache: a node whose cache says that it has a block takes the right bytes with success and writes nothing.
//! What it lost it finds out by being asked for it; what it has wrong must go first. The good chunks beside it stay
//! protected throughout, and right bytes were read from another copy before anything is removed.

use std::collections::HashSet;

use super::Work;
use crate::api::ApiResult;
use crate::catalog::packs::{self, Held, NewPack, PackRow, PackState};
use crate::catalog::sweep;
use crate::coordinator::Coordinator;
use crate::coordinator::health::acts::{Act, Means};
use crate::coordinator::registry::Member;
use crate::grant::PublicKey;
use crate::id::PackId;
use crate::node::ChunkAt;

/// Chunks removed one by one at most: each costs the node most of a second, in which it does nothing else.
const MOST: usize = 100;

/// Whether it is a built-in node, which writes what it is given.
fn has_no_cache(member: &Member) -> bool {
    PublicKey::of_node(&member.row.id).is_some()
}

impl Coordinator {
    /// Has a node look for what it may have lost: a failed read ends the belief that it is there.
    pub(super) async fn remind(&self, member: &Member, act: &Act) {
        if let Means::Write { from, instead: Some(_), .. } = &act.means
            && let Some(source) = from.first()
            && !has_no_cache(member)
        {
            let at = ChunkAt { chunk: act.entry.chunk, bytes: act.entry.bytes, pack: source.root };
            drop(member.node.read_chunk(&at, None, None).await);
        }
    }

    /// Takes bytes (of chunks, by row) that were read and are wrong off a node that does not replace them: those of them
    /// that still are. Whether writing again may help.
    pub(super) async fn unblock(&self, member: &Member, mut chunks: Vec<i64>, work: &mut Work) -> ApiResult<bool> {
        if has_no_cache(member) || !self.may_drop(member) {
            return Ok(false);
        }
        if chunks.len() > MOST {
            work.notice(format!(
                "{}: {} chunks cannot be replaced while its block cache is live: set Datastore.BlockKeyCacheSize to 0 \
                 there, restart it, and run bytenode admin health --read",
                member.row.name,
                chunks.len()
            ));
            return Ok(false);
        }
        // The sweeper makes packs smaller too.
        let _alone = self.sweeping.lock().await;
        let (node, rows) = (member.row.row, chunks.clone());
        let ids = self.read(move |c| packs::holding(c, node, &rows)).await?;
        let mut found = Vec::new();
        for id in ids {
            let both = self.read(move |c| Ok(packs::get(c, id)?.zip(Some(packs::chunks(c, id)?)))).await?;
            found.extend(both);
        }
        // Somebody may have put them right since.
        let mut right = HashSet::new();
        for (pack, held) in &found {
            for held in held.iter().filter(|held| chunks.contains(&held.row)) {
                let at = ChunkAt { chunk: held.entry.chunk, bytes: held.entry.bytes, pack: pack.root };
                let read = member.node.read_chunk(&at, None, None).await;
                if !matches!(read, Err(error) if error.reason.is_of_bytes()) {
                    right.insert(held.row);
                }
            }
        }
        chunks.retain(|row| !right.contains(row));
        let mut wrong = Vec::new();
        for (pack, held) in found {
            let id = pack.id;
            let (out, kept): (Vec<Held>, Vec<Held>) = held.into_iter().partition(|held| chunks.contains(&held.row));
            if out.is_empty() {
                continue;
            }
            let out_rows: Vec<i64> = out.iter().map(|held| held.row).collect();
            wrong.extend(out.into_iter().map(|held| held.entry.chunk));
            if pack.state == PackState::Live && !kept.is_empty() {
                if !self.reduce(member, &pack, &kept, work).await? {
                    return Ok(false);
                }
                continue;
            }
            self.write(move |c| out_rows.iter().try_for_each(|row| packs::forget_replica(c, id, *row))).await?;
            if self.node_answer(member, member.node.drop_pack(pack.root).await).is_none() {
                return Ok(false);
            }
        }
        wrong.sort_unstable();
        wrong.dedup();
        for chunk in wrong {
            if let Err(error) = member.node.remove_chunk(chunk).await {
                work.notice(format!("chunk {chunk}: {error}"));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has a node put a pack of these chunks alone in the place of a larger one.
    async fn reduce(&self, member: &Member, old: &PackRow, kept: &[Held], work: &mut Work) -> ApiResult<bool> {
        let new = NewPack::in_place_of(old, kept);
        let (pool, epoch, now) = (self.pool, self.epoch(), self.seam.now());
        let header = self.write(move |c| packs::issue(c, pool, epoch, new, now)).await?;
        let (id, old_id): (PackId, PackId) = (header.id, old.id);
        if let Err(error) = member.node.replace_pack(old.root, &header).await {
            // The sweeper goes on with it, as with every pack that is to take another's place.
            work.notice(error.to_string());
            return Ok(false);
        }
        self.write(move |c| match packs::get(c, id)? {
            Some(new) => sweep::replaced(c, &new, old_id),
            None => Ok(()),
        })
        .await?;
        Ok(true)
    }
}
