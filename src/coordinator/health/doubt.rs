//! A listing that denies much is not believed at once: some of what it denies is read first. A disk that is not mounted, or
//! a store that was opened at another place, lists nothing; so does one that was wiped, and only reading tells them apart
//! from a listing that was cut short.

use std::collections::HashSet;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::listed::Listed;
use super::standing::{Answers, Said};
use super::{Check, Diagnosis, PATIENCE};
use crate::api::ApiResult;
use crate::catalog::packs::{self, Held, PackRow};
use crate::coordinator::Coordinator;
use crate::coordinator::registry::Member;
use crate::id::PackRoot;
use crate::node::ChunkAt;

/// Packs of a node that are compared with what it listed, and read where it did not list them.
const SAMPLE: u32 = 16;

/// What is wrong with a listing.
enum Doubt {
    /// It lacks what the node gives, or protects.
    Lies,
    /// It lacks much, and the node does not answer when it is asked for that.
    Unsure,
}

impl Coordinator {
    /// Takes back the listings of nodes that give bytes which they did not list, or protect packs which they did not: what
    /// such a node has is not known.
    pub(super) async fn doubt_listings(
        &self,
        check: &Check,
        answers: &mut Answers,
        found: &mut Diagnosis,
    ) -> ApiResult<()> {
        let (members, began) = (self.nodes.all(), found.began);
        let asked = members.iter().map(|member| {
            let said = answers.said.get(&member.row.row);
            async move {
                match said {
                    Some(Said::Listed { packs, chunks, .. }) => self.doubt_listing(member, packs, chunks, began).await,
                    _ => Ok(None),
                }
            }
        });
        let doubts = join_all(asked).await;
        for (member, doubt) in members.iter().zip(doubts) {
            let (name, doubt) = (&member.row.name, doubt?);
            let why = match doubt {
                None => {
                    if answers.is_listed(member.row.row) {
                        member.listed(true);
                    }
                    continue;
                }
                Some(Doubt::Lies) => "lacks what it gives when asked",
                Some(Doubt::Unsure) => "lacks much, and it does not answer when asked for that",
            };
            answers.said.insert(member.row.row, self.unlisted(member, check));
            found.notices.push(format!("{name}: its listing {why}; it was not believed, and what it has is not known"));
        }
        Ok(())
    }

    async fn doubt_listing(
        &self,
        member: &Member,
        packs: &HashSet<PackRoot>,
        chunks: &Listed,
        began: Timestamp,
    ) -> ApiResult<Option<Doubt>> {
        let (node, from) = (member.row.row, self.seam.below(u64::MAX));
        let sample = self.read(move |c| packs::sample(c, node, from, began, SAMPLE)).await?;
        let lacks = |pack: &PackRow, held: &Held| !chunks.contains(&held.entry.chunk) || !packs.contains(&pack.root);
        let denied: Vec<&(PackRow, Held)> = sample.iter().filter(|(pack, held)| lacks(pack, held)).collect();
        // One that was lost is no sign of a bad listing; reading some of many that were costs nothing beside mending them.
        if denied.len() * 2 <= sample.len() {
            return Ok(None);
        }
        let mut failures = 0;
        for (pack, held) in denied {
            let has = if chunks.contains(&held.entry.chunk) {
                member.node.holds_pack(pack.root).await
            } else {
                let at = ChunkAt { chunk: held.entry.chunk, bytes: held.entry.bytes, pack: pack.root };
                member.node.read_chunk(&at, None, None).await.map(|_| true)
            };
            match has {
                Ok(true) => return Ok(Some(Doubt::Lies)),
                Err(error) if error.reason.is_temporary() && failures + 1 < PATIENCE => failures += 1,
                Err(error) if error.reason.is_temporary() => return Ok(Some(Doubt::Unsure)),
                Ok(false) | Err(_) => {}
            }
        }
        Ok(None)
    }
}
