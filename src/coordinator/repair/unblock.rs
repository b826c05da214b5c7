//! Kubo's block cache: a node whose cache says that it has a block takes the right bytes with success and writes nothing.
//! What it lost it finds out by being asked for it; what it has wrong must go first. The good chunks beside it stay
//! protected throughout, and right bytes were read from another copy before anything is removed.

use super::Work;
use crate::api::{ApiResult, NodeKind};
use crate::catalog::packs::{self, Held, NewPack, PackRow, PackState};
use crate::catalog::sweep;
use crate::coordinator::Coordinator;
use crate::coordinator::health::acts::{Act, Means};
use crate::coordinator::registry::Member;
use crate::id::PackId;
use crate::node::ChunkAt;

/// Chunks removed one by one at most: each costs the node most of a second, in which it does nothing else.
const MOST: usize = 100;

impl Coordinator {
    /// Has a node look for what it may have lost: a failed read ends the belief that it is there.
    pub(super) async fn remind(&self, member: &Member, act: &Act) {
        if let Means::Write { from, instead: Some(_), .. } = &act.means
            && let Some(source) = from.first()
            && member.row.kind == NodeKind::Kubo
        {
            let at = ChunkAt { chunk: act.entry.chunk, bytes: act.entry.bytes, pack: source.root };
            drop(member.node.read_chunk(&at, None, None).await);
        }
    }

    /// Takes wrong bytes (of chunks, by row) off a node that does not replace them. Whether writing again may help.
    pub(super) async fn unblock(&self, member: &Member, chunks: &[i64], work: &mut Work) -> ApiResult<bool> {
        if member.row.kind != NodeKind::Kubo || !self.may_drop(member) {
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
        let (node, rows) = (member.row.row, chunks.to_vec());
        let found = self.read(move |c| packs::holding(c, node, &rows)).await?;
        let mut wrong = Vec::new();
        for id in found {
            let Some((pack, held)) =
                self.read(move |c| Ok(packs::get(c, id)?.zip(Some(packs::chunks(c, id)?)))).await?
            else {
                continue;
            };
            let (out, kept): (Vec<Held>, Vec<Held>) = held.into_iter().partition(|held| chunks.contains(&held.row));
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
        let new = NewPack {
            node: old.node,
            vault: old.vault,
            upload: None,
            replaces: Some(old.id),
            chunks: kept.iter().map(|held| held.row).collect(),
            entries: kept.iter().map(|held| held.entry).collect(),
        };
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
