//! Scrub: every copy is read and hashed within a period, though nobody asks for it. What is missing or wrong is marked, and
//! repair mends it. Where it stands is in the catalog, so that a start goes on where the last one was.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use rusqlite::Connection;
use tokio::time::Instant;

use super::Coordinator;
use super::registry::Member;
use super::tasks::Handle;
use crate::admin::NodeScrubbed;
use crate::api::ApiResult;
use crate::catalog::packs::{self, Held, PackRow};
use crate::catalog::scrub::{self, Cursor, Due};
use crate::catalog::{CatalogResult, micros};
use crate::id::{PackId, PackRoot};
use crate::node::{ChunkAt, NodeError, NodeFailure};

/// How long a new pack is left in peace: what is under way with it ends first.
const SETTLED: Duration = Duration::from_secs(3600);
/// How long a pass over a node goes on at most, before it begins again with what is youngest.
const PASS: Duration = Duration::from_secs(600);
/// How long reading one chunk may take.
const READ: Duration = Duration::from_secs(60);
/// Packs running for which a node does not answer, after which its pass ends.
const PATIENCE: u32 = 3;

/// How one pack was found.
enum Found {
    /// So many of its copies are missing or wrong, and were not known to be; the others were read and are right.
    Read {
        bad: u64,
    },
    Unprotected,
    /// A smaller one is about to take its place.
    Passing,
}

impl Coordinator {
    fn due(&self) -> Due {
        Due { issued_before: self.ago(SETTLED), read_before: self.ago(self.policy.scrub), read_after: self.to_come() }
    }

    /// Whether a node that can be read has copies that are due.
    pub(super) async fn is_scrub_due(&self) -> ApiResult<bool> {
        for member in self.nodes.all().iter().filter(|member| self.may_drop(member)) {
            let (node, due) = (member.row.row, self.due());
            if self.read(move |c| scrub::next(c, node, &due, &mut Cursor::default())).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads what is due, or all that was there at that time and was not read since; or says how much that is. In passes,
    /// so that what becomes due meanwhile, and is younger, comes first.
    pub(super) async fn scrub_now(
        &self,
        all: Option<Timestamp>,
        dry_run: bool,
        task: &Handle,
    ) -> ApiResult<Vec<NodeScrubbed>> {
        self.ask_nodes().await;
        let due = || match all.map(micros) {
            Some(since) => Due { issued_before: since, read_before: since, ..self.due() },
            None => self.due(),
        };
        let left = |member: &Arc<Member>| {
            let (node, due) = (member.row.row, due());
            self.read(move |c| scrub::weigh(c, node, &due))
        };
        let mut nodes = Vec::new();
        if dry_run {
            for member in &self.nodes.all() {
                let (packs, bytes) = left(member).await?;
                let node = member.row.name.clone();
                nodes.push(NodeScrubbed { node, packs, bytes, bad: 0, unprotected: 0, left: 0 });
            }
            return Ok(nodes);
        }
        self.may_change()?;
        loop {
            // Others may have come, and be elsewhere.
            let (members, mut total) = (self.nodes.all(), 0);
            for member in &members {
                total += left(member).await?.0;
            }
            task.remaining(total);
            let (due, until) = (due(), Instant::now() + PASS);
            let scrubs = members.iter().map(|member| self.scrub_node(member, &due, until, task));
            let mut pass = Vec::new();
            for (member, found) in members.iter().zip(join_all(scrubs).await) {
                pass.push(NodeScrubbed { left: left(member).await?.0, ..found? });
            }
            let is_idle = pass.iter().all(|node| node.packs == 0);
            task.scrubbed(&mut nodes, pass);
            task.check()?;
            if Instant::now() < until || is_idle || task.is_over() {
                return Ok(nodes);
            }
        }
    }

    /// One pass over what is due on a node when it begins, up to a time.
    async fn scrub_node(&self, member: &Member, due: &Due, until: Instant, task: &Handle) -> ApiResult<NodeScrubbed> {
        let (mut cursor, mut failures) = (Cursor::default(), 0);
        let node = member.row.name.clone();
        let mut all = NodeScrubbed { node, packs: 0, bytes: 0, bad: 0, unprotected: 0, left: 0 };
        let began = Instant::now();
        while Instant::now() < until && !task.is_over() && failures < PATIENCE && self.may_drop(member) {
            // Else what was read after the first minute would seem to be of a time to come.
            let (node, due) = (member.row.row, Due { read_after: self.to_come(), ..*due });
            let found = self
                .read(move |c| {
                    let pack = scrub::next(c, node, &due, &mut cursor)?;
                    let held = pack.as_ref().map(|pack| packs::chunks(c, pack.id)).transpose()?;
                    Ok((pack.zip(held), cursor))
                })
                .await?;
            cursor = found.1;
            let Some((pack, held)) = found.0 else { break };
            let at = self.seam.now();
            match self.scrub_pack(member, &pack, &held, &mut all.bytes, began).await? {
                Ok(Found::Passing) => {}
                Ok(Found::Unprotected) => {
                    failures = 0;
                    all.unprotected += 1;
                }
                Ok(Found::Read { bad }) => {
                    failures = 0;
                    task.did(1);
                    all.packs += 1;
                    all.bad += bad;
                    let latest = crate::catalog::time(due.read_after);
                    self.write(move |c| packs::read_whole(c, pack.id, at, latest)).await?;
                }
                Err(error) => {
                    failures += u32::from(error.reason.is_temporary());
                    tracing::warn!(%error, "a pack that could not be read whole");
                    self.node_answer::<()>(member, Err(error));
                }
            }
        }
        Ok(all)
    }

    /// Reads all of a pack that is not known to be bad, and no faster than the policy lets it since `began`.
    async fn scrub_pack(
        &self,
        member: &Member,
        pack: &PackRow,
        held: &[Held],
        bytes: &mut u64,
        began: Instant,
    ) -> ApiResult<Result<Found, NodeError>> {
        let (id, root, at) = (pack.id, pack.root, self.seam.now());
        let protected = async {
            member.is_itself().await?;
            Ok(member.node.holds_pack(root).await? && self.has_root(member, root).await?)
        };
        match protected.await {
            Ok(true) => {}
            Ok(false) => {
                let taken = self.write(move |c| take_back(c, id, at)).await?;
                if taken {
                    self.repair_wanted.notify_one();
                }
                return Ok(Ok(if taken { Found::Unprotected } else { Found::Passing }));
            }
            Err(error) => return Ok(Err(error)),
        }
        let (mut bad, mut right, mut unread) = (0, 0, Vec::new());
        for held in held.iter().filter(|held| !held.bad) {
            match self.read_twice(member, root, held).await {
                Ok(()) => right += 1,
                Err(error) if matches!(error.reason, NodeFailure::Absent(_)) => {
                    // A smaller pack may be about to take this one's place.
                    if self.read(move |c| scrub::is_replaced(c, id)).await? {
                        return Ok(Ok(Found::Passing));
                    }
                    bad += self.found_bad(member, id, held, at, &error).await?;
                }
                Err(error) if error.reason.is_of_bytes() => bad += self.found_bad(member, id, held, at, &error).await?,
                Err(error) if error.reason.is_temporary() => return Ok(Err(error)),
                Err(error) => unread.push((held, error)),
            }
            *bytes += held.entry.bytes;
            let due = Duration::from_secs_f64(*bytes as f64 / self.policy.scrub_rate.max(1) as f64);
            tokio::time::sleep_until(began + due).await;
        }
        // What a node cannot read while it reads others of the pack is no copy, as on a bad sector.
        if right == 0
            && let Some((_, error)) = unread.pop()
        {
            return Ok(Err(error));
        }
        for (held, error) in unread {
            bad += self.found_bad(member, id, held, at, &error).await?;
        }
        Ok(Ok(Found::Read { bad }))
    }

    /// Reads a chunk; once more, if its node says that it cannot. No reading goes on for longer than a minute.
    async fn read_twice(&self, member: &Member, root: PackRoot, held: &Held) -> Result<(), NodeError> {
        let at = ChunkAt { chunk: held.entry.chunk, bytes: held.entry.bytes, pack: root };
        let read = async || {
            let late = NodeFailure::Timeout { seconds: READ.as_secs(), doing: "reading a chunk" };
            let read = tokio::time::timeout(READ, member.node.read_chunk(&at, None, None)).await;
            read.unwrap_or_else(|_| Err(late.at(&member.row.name))).map(drop)
        };
        match read().await {
            Err(error) if !error.reason.is_of_bytes() && !error.reason.is_temporary() => read().await,
            read => read,
        }
    }

    /// Marks a copy, if it is still one, and has it mended; gives how many that were.
    async fn found_bad(
        &self,
        member: &Member,
        pack: PackId,
        held: &Held,
        at: Timestamp,
        error: &NodeError,
    ) -> ApiResult<u64> {
        self.may_change()?;
        let row = held.row;
        if !self.write(move |c| packs::mark(c, pack, row, at)).await? {
            return Ok(0);
        }
        tracing::warn!(node = %member.row.name, chunk = %held.entry.chunk, %error, "a bad copy");
        self.repair_wanted.notify_one();
        Ok(1)
    }
}

/// Takes back the proof of a pack that is not protected, unless it was proved since, or a smaller one is about to take its
/// place; says whether it had one.
fn take_back(c: &Connection, pack: PackId, at: Timestamp) -> CatalogResult<bool> {
    Ok(!scrub::is_replaced(c, pack)? && packs::unprotected(c, pack, &(micros(at)..=i64::MAX))?)
}
