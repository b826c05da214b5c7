//! Repair: executes what health planned. Missing copies are made from proved ones through packs of their own, and count
//! only once they are proved like those of a put. What a node does not take or does not give costs that chunk alone.

mod jobs;
mod keep;
pub(super) mod pace;
mod trim;
mod unblock;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;

use self::jobs::{Job, jobs};
use super::Coordinator;
use super::health::acts::{Act, Means, Source, Spare};
use super::health::{Check, Diagnosis, MAX_REPORTED};
use super::judge::Depth;
use super::registry::{Member, Turn, View};
use super::tasks::Handle;
use crate::admin::{Finding, HealthReport, HealthRequest, NodeState, Verdict};
use crate::api::{ApiError, ApiResult, Code};
use crate::catalog::chunks;
use crate::catalog::packs::{self, NewPack, PackState};
use crate::id::{ChunkId, NodeId, PackId};
use crate::node::{ChunkAt, NodeError, NodeFailure};
use crate::pack::{Pack, PackEntry, PackHeader};

/// Rounds of finding and mending after which a check gives its verdict; more only while there is more to mend than one
/// round takes, and something of it is done.
const ROUNDS: usize = 3;
/// Notices that a report carries.
const MAX_NOTICES: usize = 100;

/// Packs under way at once, of which each holds its bytes in memory.
const WRITING: usize = 6;
/// Chunks that are read at once for each of them.
const READING: usize = 4;

/// Failures running after which a node is asked for no more in one round.
const PATIENCE: u32 = 3;

/// Nodes that took nothing of so many packs running.
#[derive(Default)]
struct Refused(Mutex<(bool, BTreeMap<i64, u32>)>);

impl Refused {
    fn lock(&self) -> MutexGuard<'_, (bool, BTreeMap<i64, u32>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, node: i64) {
        *self.lock().1.entry(node).or_default() += 1;
    }

    /// Nothing more is to be begun.
    fn everything(&self) {
        self.lock().0 = true;
    }

    fn is_enough(&self, node: i64) -> bool {
        let refused = self.lock();
        refused.0 || refused.1.get(&node).is_some_and(|packs| *packs >= PATIENCE)
    }
}

/// What became of a round's acts.
#[derive(Default)]
struct Work {
    /// Acts that were done and proved,
    done: u64,
    /// and what they were, as far as a report shows them.
    shown: Vec<Act>,
    /// Copies (with their chunks) that others made needless.
    spares: Vec<(Spare, i64, PackEntry)>,
    /// Whether something was left undone since it may be needless by now.
    stale: bool,
    /// Nodes (by row) that did not take a chunk (by row).
    failed: HashSet<(i64, i64)>,
    notices: Vec<String>,
}

impl Work {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.shown.extend(other.shown.into_iter().take(MAX_REPORTED.saturating_sub(self.shown.len())));
        self.stale |= other.stale;
        self.spares.extend(other.spares);
        self.failed.extend(other.failed);
        other.notices.into_iter().for_each(|notice| self.notice(notice));
    }

    fn did(&mut self, acts: impl IntoIterator<Item = Act>) {
        for act in acts {
            self.done += 1;
            if self.shown.len() < MAX_REPORTED {
                self.shown.push(act);
            }
        }
    }

    fn notice(&mut self, text: String) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push(text);
        }
    }
}

/// An act whose chunk was read from a good copy.
struct Taken<'a> {
    act: &'a Act,
    bytes: Bytes,
    /// The node that gave them.
    source: i64,
}

/// The report on a repair that was begun anew: what was found and done in both. Where more was found than is listed, nobody
/// knows how much was found twice.
fn after(mut first: HealthReport, mut second: HealthReport) -> HealthReport {
    let listed = [&first, &second].map(|report| report.findings.len() as u64);
    let (found, found_again) = (first.findings_total, second.findings_total);
    let named = |finding: &Finding| (finding.kind, finding.chunk, finding.node.clone());
    let known: HashSet<_> = first.findings.iter().map(named).collect();
    second.findings.retain(|finding| !known.contains(&named(finding)));
    let more = second.findings.len() as u64;
    let findings_total = if listed == [found, found_again] { found + more } else { found.max(found_again) };
    first.findings.append(&mut second.findings);
    first.actions.append(&mut second.actions);
    second.notices.retain(|notice| !first.notices.contains(notice));
    first.notices.append(&mut second.notices);
    first.findings.truncate(MAX_REPORTED);
    first.actions.truncate(MAX_REPORTED);
    first.notices.truncate(MAX_NOTICES);
    HealthReport {
        findings: first.findings,
        findings_total,
        actions: first.actions,
        actions_total: first.repaired + second.actions_total,
        repaired: first.repaired + second.repaired,
        notices: first.notices,
        ..second
    }
}

impl Coordinator {
    /// Checks, and unless dry, repairs and asks again. One repair at a time; another waits for it.
    pub(super) async fn health(&self, request: &HealthRequest) -> ApiResult<HealthReport> {
        let check = Check { now: request.now, read: request.read, ..Check::default() };
        if request.dry_run {
            let (found, view) = self.diagnose(&check).await?;
            return Ok(found.report(&view));
        }
        self.mend(check).await
    }

    /// The nodes and how each of them stands, which decides what a check can find.
    pub(super) fn answering(&self) -> Vec<(i64, NodeState)> {
        let members = self.nodes.all();
        members.iter().map(|member| (member.row.row, member.seen(self.policy.grace).state)).collect()
    }

    /// Checks, repairs and asks again, once no other repair is under way.
    pub(super) async fn mend(&self, check: Check) -> ApiResult<HealthReport> {
        let alone = tokio::select! {
            biased;
            alone = self.repairing.lock() => alone,
            () = check.task.is_to_stop() => {
                check.task.check()?;
                let what = "the time limit was reached while another repair was under way";
                return Err(ApiError::new(Code::Temporary, what).hint("bytenode admin task ls"));
            }
        };
        Ok(self.mend_alone(check, &alone).await?.0)
    }

    /// The same for whoever keeps others from it; says when the nodes were asked last. Whoever joins it is told of what is so
    /// afterwards, and gets what a check of their own would do: unless all was well by then, it begins anew for them, once.
    pub(super) async fn mend_alone(
        &self,
        check: Check,
        _alone: &tokio::sync::MutexGuard<'_, ()>,
    ) -> ApiResult<(HealthReport, Timestamp)> {
        let (report, began, joined) = self.mend_once(check.clone()).await?;
        if check.task.close(joined) || check.task.is_over() {
            return Ok((report, began));
        }
        let (second, began, _) = self.mend_once(check).await?;
        Ok((after(report, second), began))
    }

    /// Says also how often the task had been joined by when what is told here is good enough for all who had.
    async fn mend_once(&self, mut check: Check) -> ApiResult<(HealthReport, Timestamp, u64)> {
        self.may_change()?;
        check.task.check()?;
        let at_first = check.task.joined();
        let mut joined = at_first;
        let (mut found, view) = self.look(&check).await?;
        check.looked = true;
        let mut report = found.report(&view);
        if report.actions_total > 0 {
            self.list(&check.task).await?;
        }
        if !check.quiet {
            check.task.remaining(report.actions_total);
        }
        let mut done = Vec::new();
        for round in 1.. {
            let planned = found.batch.total();
            if planned == 0 {
                break;
            }
            let more = found.batch.has_more();
            let work = self.execute(&mut found, &check).await?;
            check.task.check()?;
            report.repaired += work.done;
            report.notices.extend(work.notices);
            let room = MAX_REPORTED.saturating_sub(done.len());
            done.extend(work.shown.iter().take(room).map(|act| act.show(&view)));
            let learned = work.failed.iter().any(|failed| !check.failed.contains(failed));
            check.failed.extend(work.failed);
            joined = check.task.joined();
            found = self.look(&check).await?.0;
            if check.task.is_over() {
                let late = "the time limit was reached: the rest waits for the next repair";
                report.notices.extend((found.batch.total() > 0).then(|| late.to_owned()));
                break;
            }
            let shrinks = found.batch.total() < planned;
            if (work.done == 0 && !learned && !work.stale) || (round >= ROUNDS && (work.done == 0 || !more || !shrinks))
            {
                break;
            }
        }
        // What this left with some node as a whole is for the next check, which somebody should make.
        if report.repaired > 0 && found.unspread {
            self.repair_wanted.notify_one();
        }
        // What was planned first may have turned out otherwise.
        report.actions = done;
        report.notices.truncate(MAX_NOTICES);
        let last = found.report(&self.nodes.view(self.policy.replicas));
        report.verdict = last.verdict;
        report.remaining = last.remaining;
        report.oldest_verified = last.oldest_verified;
        (report.oldest_read, report.unread_packs) = (last.oldest_read, last.unread_packs);
        // Something more may have been found meanwhile.
        report.actions_total = report.actions_total.max(report.repaired);
        let joined = if report.verdict == Verdict::Healthy && report.remaining == 0 { joined } else { at_first };
        Ok((report, found.began, joined))
    }

    /// Checks, and writes down what it saw; unless that shows that another coordinator is in charge.
    async fn look(&self, check: &Check) -> ApiResult<(Diagnosis, Arc<View>)> {
        let (found, view) = self.diagnose(check).await?;
        self.may_change()?;
        self.keep(&found).await?;
        check.task.check()?;
        Ok((found, view))
    }

    /// Does what was planned, for the most endangered chunks first, several packs at a time.
    async fn execute(&self, found: &mut Diagnosis, check: &Check) -> ApiResult<Work> {
        let task = &check.task;
        let mut work = Work::default();
        let (mut unprotected, mut writes, mut drops) = (BTreeMap::new(), Vec::new(), Vec::new());
        for act in std::mem::take(&mut found.batch).into_acts() {
            match &act.means {
                Means::Write { .. } => writes.push(act),
                Means::Protect { node, pack, .. } => {
                    let packs: &mut BTreeMap<PackId, Vec<Act>> = unprotected.entry(*node).or_default();
                    packs.entry(*pack).or_default().push(act);
                }
                Means::Drop(_) => drops.push(act),
            }
        }
        let protects = unprotected.into_iter().map(|(node, packs)| self.protect_all(node, packs, task));
        for (done, rest) in join_all(protects).await {
            work.add(done);
            writes.extend(rest);
        }
        let (awaited, refused) = (&found.awaited, Refused::default());
        let jobs = jobs(writes).into_iter().map(|job| self.write_job(job, awaited, &refused, task));
        let mut done = stream::iter(jobs).buffer_unordered(WRITING);
        let mut broken = None;
        while let Some(done) = done.next().await {
            match done {
                Ok(done) => work.add(done),
                // What is under way comes to its end first.
                Err(error) => {
                    refused.everything();
                    broken.get_or_insert(error);
                }
            }
        }
        drop(done);
        if let Some(error) = broken {
            return Err(error);
        }
        // What cannot be given up now is found to be too much by the next check. All at once: a pack is made smaller once.
        let mut spares = std::mem::take(&mut work.spares);
        spares.extend(drops.iter().filter_map(|act| Some((act.spare()?, act.chunk, act.entry))));
        let given_up = self.give_up(spares, found.began, check).await?;
        let before = work.done;
        work.did(
            drops.into_iter().filter(|act| act.spare().is_some_and(|spare| given_up.contains(&(spare, act.chunk)))),
        );
        task.did(work.done - before);
        Ok(work)
    }

    /// Protects packs of one node again. Gives back what is needed of those that cannot be protected as a whole; where the
    /// node does not answer, others are to get copies.
    async fn protect_all(&self, node: i64, packs: BTreeMap<PackId, Vec<Act>>, task: &Handle) -> (Work, Vec<Act>) {
        let (mut work, mut rest, mut failures) = (Work::default(), Vec::new(), 0);
        for (pack, acts) in packs {
            if task.is_over() {
                break;
            }
            if failures >= PATIENCE {
                work.failed.extend(acts.iter().map(|act| (node, act.chunk)));
                continue;
            }
            match self.protect_again(node, pack).await {
                Ok(()) => {
                    failures = 0;
                    task.did(acts.len() as u64);
                    work.did(acts);
                }
                Err(error) if error.code == Code::Temporary => {
                    failures += 1;
                    work.notice(error.message);
                    work.failed.extend(acts.iter().map(|act| (node, act.chunk)));
                }
                // It cannot be protected as a whole: what is needed of it goes into another pack.
                Err(_) => rest.extend(acts.into_iter().map(Act::anew)),
            }
        }
        (work, rest)
    }

    /// Writes one pack, unless the plan that it is of no longer holds.
    async fn write_job(&self, job: Job, awaited: &BTreeSet<i64>, refused: &Refused, task: &Handle) -> ApiResult<Work> {
        let mut work = Work::default();
        let Some(member) = self.nodes.get(job.node) else { return Ok(work) };
        let bytes = job.acts.iter().map(|act| act.entry.bytes).sum();
        self.repair_pace.wait(bytes, || self.repair_rate(), task).await;
        if task.is_over() {
            return Ok(work);
        }
        // What one has that came back need not be made again.
        let back = awaited.iter().any(|row| self.nodes.get(*row).is_some_and(|one| one.answers()));
        if back && !job.is_urgent() {
            work.stale = true;
            return Ok(work);
        }
        let taken = self.read_copies(&job.acts, &mut work).await;
        let remind = |nth: usize| self.remind(&member, taken[nth].act);
        stream::iter((0..taken.len()).map(remind)).buffer_unordered(READING).collect::<()>().await;
        let turn = member.writing().await;
        // A node that stops answering or is full is given no more; the next round goes elsewhere. Nor is one that is told
        // by somebody else what to do, or while this coordinator may change nothing.
        let seen = member.seen(self.policy.grace);
        // One that is to be emptied takes what it has, which is to be protected until it is elsewhere.
        let kept = seen.state == NodeState::Draining && seen.agrees && job.acts.iter().all(Act::is_there);
        if !self.may_drop(&member) || !(seen.open || kept) || refused.is_enough(job.node) {
            work.failed.extend(job.acts.iter().map(|act| (job.node, act.chunk)));
            return Ok(work);
        }
        self.write_copies(&member, job.vault, taken, turn, &mut work).await?;
        if work.done == 0 {
            refused.note(job.node);
        }
        task.did(work.done);
        Ok(work)
    }

    /// Reads chunks from proved copies, some at a time.
    async fn read_copies<'a>(&self, acts: &'a [Act], work: &mut Work) -> Vec<Taken<'a>> {
        let fetch = |nth: usize| async move { (&acts[nth], self.fetch(&acts[nth]).await) };
        let mut fetched = stream::iter((0..acts.len()).map(fetch)).buffered(READING);
        let mut taken: Vec<Taken> = Vec::with_capacity(acts.len());
        while let Some((act, read)) = fetched.next().await {
            match read {
                Ok((bytes, source)) => taken.push(Taken { act, bytes, source }),
                Err(error) => work.notice(format!("chunk {}: {error}", act.entry.chunk)),
            }
        }
        taken
    }

    /// Writes chunks that were read to one node.
    async fn write_copies(
        &self,
        member: &Member,
        vault: i64,
        mut taken: Vec<Taken<'_>>,
        turn: Turn<'_>,
        work: &mut Work,
    ) -> ApiResult<()> {
        let mut turn = Some(turn);
        // First what stands in the way is taken away and all go again, then without what the node does not take.
        for attempt in 0..3 {
            if taken.is_empty() {
                return Ok(());
            }
            let turn = match turn.take() {
                Some(turn) => turn,
                None => member.writing().await,
            };
            match self.write_pack(member, vault, &mut taken, turn).await? {
                Ok(()) => {
                    let spares = taken.iter().filter_map(|one| Some((one.act.spare()?, one.act.chunk, one.act.entry)));
                    work.spares.extend(spares);
                    work.did(taken.iter().map(|one| one.act.clone()));
                    return Ok(());
                }
                Err(NotTaken { chunks, wrong, error }) => {
                    // What only this node has is not taken off it.
                    let elsewhere =
                        |row: &i64| taken.iter().any(|one| one.act.chunk == *row && one.source != member.row.row);
                    let wrong: Vec<i64> = wrong.into_iter().filter(elsewhere).collect();
                    if attempt == 0 && !wrong.is_empty() && self.unblock(member, wrong, work).await? {
                        continue;
                    }
                    work.notice(error.to_string());
                    work.failed.extend(chunks.iter().map(|chunk| (member.row.row, *chunk)));
                    taken.retain(|one| !chunks.contains(&one.act.chunk));
                }
            }
        }
        work.failed.extend(taken.iter().map(|one| (member.row.row, one.act.chunk)));
        Ok(())
    }

    /// Issues a pack for chunks that were read, but for those that nothing needs any more: they go out of `taken`. Nothing
    /// where none is left.
    async fn issue(&self, member: &Member, vault: i64, taken: &mut Vec<Taken<'_>>) -> ApiResult<Option<PackHeader>> {
        let (pool, epoch, now) = (self.pool, self.epoch(), self.seam.now());
        let (node, wanted) =
            (member.row.row, taken.iter().map(|one| (one.act.chunk, one.act.entry)).collect::<Vec<_>>());
        let issue = move |c: &rusqlite::Connection| {
            // What was released while it was read for this is not written; another chunk may have its row by now.
            let (mut still, mut seen) = (Vec::with_capacity(wanted.len()), HashSet::new());
            for (chunk, entry) in wanted {
                // One copy stands in the place of all bad ones that the node has.
                if chunks::is_at(c, chunk, &entry.chunk)? && seen.insert(chunk) {
                    still.push((chunk, entry));
                }
            }
            if still.is_empty() {
                return Ok(None);
            }
            let (chunks, entries) = still.into_iter().unzip();
            let new = NewPack { node, vault, upload: None, replaces: None, chunks, entries };
            packs::issue(c, pool, epoch, new, now).map(Some)
        };
        let header = self.write(issue).await?;
        let still: HashSet<ChunkId> =
            header.iter().flat_map(|header| &header.entries).map(|entry| entry.chunk).collect();
        taken.retain(|one| still.contains(&one.act.entry.chunk));
        Ok(header)
    }

    /// Writes chunks to a node as one pack, and has it proved; the replicas in whose place they stand are forgotten then.
    /// Of those that nothing needs any more, none is written or stays in `taken`. The turn ends with the writing: a pack is
    /// proved while the next is on its way.
    async fn write_pack(
        &self,
        member: &Member,
        vault: i64,
        taken: &mut Vec<Taken<'_>>,
        turn: Turn<'_>,
    ) -> ApiResult<Result<(), NotTaken>> {
        let Some(header) = self.issue(member, vault, taken).await? else { return Ok(Ok(())) };
        let id = header.id;
        let mut seen = HashSet::new();
        let each = taken.iter().filter(|one| seen.insert(one.act.chunk));
        let pack = Pack::new(header, each.map(|one| one.bytes.clone()).collect());
        let row = self.read(move |c| Ok((packs::get(c, id)?, packs::chunks(c, id)?))).await?;
        let (Some(row), held) = row else {
            return Err(ApiError::new(Code::Internal, "a pack that was issued is gone"));
        };
        let depth = if taken.iter().any(|one| one.act.instead().is_some()) { Depth::Whole } else { Depth::OfNode };
        let proof = async {
            let receipt = member.node.write_pack(&pack, None).await;
            drop((turn, pack));
            let receipt = receipt?;
            self.prove_new(member, &row, &held, &receipt, depth).await
        };
        let error = match proof.await {
            Ok(proof) => {
                let instead: Vec<(PackId, i64)> = taken.iter().filter_map(|one| one.act.instead()).collect();
                let kept_off: Vec<(i64, NodeId)> = taken.iter().filter_map(|one| self.kept_off(one.act)).collect();
                self.write(move |c| {
                    if !packs::proved(c, id, proof)? {
                        return Ok(());
                    }
                    kept_off.iter().try_for_each(|(chunk, node)| chunks::keep_off(c, *chunk, node.as_str()))?;
                    instead.iter().try_for_each(|(pack, chunk)| packs::forget_replica(c, *pack, *chunk))
                })
                .await?;
                return Ok(Ok(()));
            }
            Err(error) => error,
        };
        if let NodeFailure::Full(_) = error.reason {
            member.is_full();
        }
        if error.reason.is_temporary() {
            member.failed(&error);
        }
        self.write(move |c| packs::abort(c, id)).await?;
        let mut wrong = Vec::new();
        if error.reason.is_of_bytes() || matches!(error.reason, NodeFailure::Answer(_)) {
            for held in &held {
                let at = ChunkAt { chunk: held.entry.chunk, bytes: held.entry.bytes, pack: row.root };
                let read = member.node.read_chunk(&at, None, None).await;
                if matches!(read, Err(error) if error.reason.is_of_bytes()) {
                    wrong.push(held.row);
                }
            }
        }
        let all = || held.iter().map(|held| held.row).collect();
        let chunks = if wrong.is_empty() { all() } else { wrong.clone() };
        Ok(Err(NotTaken { chunks, wrong, error }))
    }

    /// The node that an act's chunk is kept off from now on, if any.
    fn kept_off(&self, act: &Act) -> Option<(i64, NodeId)> {
        let spare = act.spare().filter(|_| act.keep_off)?;
        Some((act.chunk, self.nodes.get(spare.node)?.row.id.clone()))
    }

    /// Reads a chunk from the first copy that gives it, and says which node that was: those that answer first, the one that
    /// it is for last. A copy that is missing or wrong is marked as such; a node that hangs does so once.
    async fn fetch(&self, act: &Act) -> Result<(Bytes, i64), NodeError> {
        let (chunk, from) = (act.entry.chunk, act.sources());
        let mut last = NodeFailure::Absent("any good copy".into()).at("pool");
        let mut from: Vec<(Source, Arc<Member>)> =
            from.iter().filter_map(|source| Some((*source, self.nodes.get(source.node)?))).collect();
        from.sort_by_key(|(source, member)| {
            (!member.seen(self.policy.grace).answers, act.target() == Some(source.node))
        });
        for (source, member) in from {
            let at = ChunkAt { chunk, bytes: act.entry.bytes, pack: source.root };
            let read = member.node.read_chunk(&at, None, None).await;
            // Whatever it gives was hashed on its way.
            last = match read {
                Ok(bytes) => return Ok((bytes, source.node)),
                Err(error) => error,
            };
            if last.reason.is_of_bytes() {
                self.mark_bad(source.pack, act.chunk).await;
            } else if last.reason.is_temporary() {
                member.failed(&last);
            }
        }
        Err(last)
    }

    /// Protects a pack again, and proves it as one that is new.
    async fn protect_again(&self, node: i64, id: PackId) -> ApiResult<()> {
        let member = self.nodes.get(node).ok_or_else(|| ApiError::new(Code::NotFound, "a node is gone"))?;
        let (found, held) = self.read(move |c| Ok((packs::get(c, id)?, packs::chunks(c, id)?))).await?;
        let Some(pack) = found.filter(|pack| pack.state == PackState::Live) else { return Ok(()) };
        let again = async {
            member.is_itself().await?;
            if !self.has_root(&member, pack.root).await? {
                return Err(NodeFailure::Absent(format!("the root of pack {}", pack.root)).at(&member.row.name));
            }
            if !member.node.holds_pack(pack.root).await? {
                member.node.protect_pack(pack.root, pack.bytes).await?;
            }
            self.read_back(&member, &pack, &held, Depth::OfNode).await
        };
        let proof = again.await.map_err(|error| super::node_error(&error))?;
        self.write(move |c| packs::proved(c, id, proof)).await.map(drop)
    }
}

/// What a node did not take (rows of chunks), what of that was read there and is missing or wrong, and why.
struct NotTaken {
    chunks: Vec<i64>,
    wrong: Vec<i64>,
    error: NodeError,
}
