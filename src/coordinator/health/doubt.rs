//! A listing that denies much is not believed at once: some of what it denies is read first. A disk that is not mounted, or
//! a store that was opened at another place, lists nothing; so does one that was wiped, and only reading tells them apart
//! from a listing that was cut short.

use futures_util::future::join_all;
use jiff::Timestamp;

use super::standing::{Answers, Said};
use super::{Diagnosis, PATIENCE};
use crate::api::ApiResult;
use crate::catalog::packs::{self, Held, PackRow};
use crate::coordinator::Coordinator;
use crate::coordinator::registry::Member;
use crate::node::ChunkAt;

/// Packs of a node that are compared with what it listed, and read where it did not list them.
const SAMPLE: u32 = 16;

impl Coordinator {
    /// Takes back the listings of nodes that give bytes which they did not list: what such a node has is not known.
    pub(super) async fn doubt_listings(&self, answers: &mut Answers, found: &mut Diagnosis) -> ApiResult<()> {
        let members = self.nodes.all();
        let asked = members
            .iter()
            .map(|member| self.denies_what_it_has(member, answers.said.get(&member.row.row), found.began));
        let doubtful = join_all(asked).await;
        for (member, denies) in members.iter().zip(doubtful) {
            if denies? {
                answers.said.insert(member.row.row, Said::Silent { lost: false });
                let name = &member.row.name;
                found.notices.push(format!("{name}: its listing lacks what it gives when asked; it was not believed"));
            }
        }
        Ok(())
    }

    /// Whether a node gives a chunk that it did not list.
    async fn denies_what_it_has(&self, member: &Member, said: Option<&Said>, began: Timestamp) -> ApiResult<bool> {
        let Some(Said::Listed { chunks, .. }) = said else { return Ok(false) };
        let (node, from) = (member.row.row, self.seam.below(u64::MAX));
        let sample = self.read(move |c| packs::sample(c, node, from, began, SAMPLE)).await?;
        let denied: Vec<&(PackRow, Held)> =
            sample.iter().filter(|(_, held)| !chunks.contains(&held.entry.chunk)).collect();
        // One that was lost is no sign of a bad listing; reading some of many that were costs nothing beside mending them.
        if denied.len() * 2 <= sample.len() {
            return Ok(false);
        }
        let mut failures = 0;
        for (pack, held) in denied {
            let at = ChunkAt { chunk: held.entry.chunk, bytes: held.entry.bytes, pack: pack.root };
            match member.node.read_chunk(&at, None, None).await {
                Ok(_) => return Ok(true),
                Err(error) if error.reason.is_temporary() && failures + 1 < PATIENCE => failures += 1,
                Err(error) if error.reason.is_temporary() => return Ok(true),
                Err(_) => {}
            }
        }
        Ok(false)
    }
}
