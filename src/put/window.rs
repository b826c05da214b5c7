//! A window: the chunks that are planned, sent and reported together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use tokio::time::Instant;

use super::Context;
use crate::api::{
    ApiError, ApiResult, Append, Blob, ChunkDesc, ChunksPlanned, Code, MAX_FILES, MAX_PLAN_CHUNKS, NodeAddress,
    PackOutcome, PackPlan, PacksSent, Part, PlanChunks, PutSession,
};
use crate::buffers;
use crate::id::{ChunkId, NodeId, PackId};
use crate::monitor::Event;
use crate::node::NodeFailure;
use crate::pack::{Pack, PackHeader};
use crate::seal::{self, ChunkKey, Key};
use crate::seam::Seam;

/// Stored bytes of a window at most. With those in flight and what is read ahead it makes some 90 MiB, so a put of 100 MiB
/// takes as much memory as one of any size.
pub(super) const BYTES: u64 = 16 << 20;
/// How often the packs of one window are planned anew after failures.
const ROUNDS: usize = 8;
/// The last node at work straggles when, after all others were done, it needs this time and so many times theirs besides.
const STRAGGLES: Duration = Duration::from_secs(10);
const TIMES: u32 = 4;
/// Packs sent at once, at most: more than any pool has nodes.
const PACKS_AT_ONCE: usize = 64;

/// A chunk ready to be stored.
pub(super) struct Stored {
    pub desc: ChunkDesc,
    pub bytes: Bytes,
    /// Its key; nothing for plain chunks and links.
    pub key: Option<Key>,
}

/// The part of a file that is in a window.
struct Segment {
    file: u32,
    key: Option<Key>,
    /// Index of the next data chunk and of the next link in the file.
    next: [u64; 2],
    data: Run,
    links: Run,
}

#[derive(Default)]
struct Run {
    first: u64,
    descs: Vec<ChunkDesc>,
    keys: Vec<ChunkKey>,
}

/// The window being filled.
#[derive(Default)]
pub(super) struct Window {
    open: Option<Segment>,
    appends: Vec<(Option<Key>, u32, Run)>,
    chunks: HashMap<ChunkId, Bytes>,
    bytes: u64,
    count: usize,
    plain_bytes: u64,
}

impl Window {
    pub(super) fn begin_file(&mut self, file: u32, key: Option<Key>) {
        self.end_file();
        self.open = Some(Segment { file, key, next: [0, 0], data: Run::default(), links: Run::default() });
    }

    pub(super) fn end_file(&mut self) {
        if let Some(mut segment) = self.open.take() {
            self.close(&mut segment);
        }
    }

    fn close(&mut self, segment: &mut Segment) {
        for (run, next) in [(&mut segment.data, segment.next[0]), (&mut segment.links, segment.next[1])] {
            let begun = std::mem::replace(run, Run { first: next, ..Run::default() });
            if !begun.descs.is_empty() {
                self.appends.push((segment.key.clone(), segment.file, begun));
            }
        }
    }

    pub(super) fn is_full_for(&self, chunk: &Stored) -> bool {
        self.count >= MAX_PLAN_CHUNKS || (self.count > 0 && self.bytes + chunk.desc.bytes > BYTES)
    }

    pub(super) fn is_full_of_files(&self) -> bool {
        self.appends.len() + 2 >= MAX_FILES
    }

    pub(super) const fn has_chunks(&self) -> bool {
        self.count > 0
    }

    pub(super) fn add(&mut self, chunk: Stored) {
        let segment = self.open.as_mut().expect("chunks are added within a file");
        let link = usize::from(chunk.desc.part == Part::Link);
        let run = if link == 1 { &mut segment.links } else { &mut segment.data };
        segment.next[link] += 1;
        self.plain_bytes += chunk.desc.length;
        self.count += 1;
        run.descs.push(chunk.desc);
        if let Some(key) = chunk.key {
            let length = u32::try_from(chunk.desc.length).expect("a chunk is at most 2 MiB");
            let (chunk, part) = (chunk.desc.chunk, chunk.desc.part);
            run.keys.push(ChunkKey { chunk, part, length, version: seal::VERSION, key });
        }
        if self.chunks.insert(chunk.desc.chunk, chunk.bytes).is_none() {
            self.bytes += chunk.desc.bytes;
        }
    }

    /// Takes what is in the window; the file that is open goes on in the next one.
    pub(super) fn take(&mut self, seam: &Seam) -> Full {
        let mut open = self.open.take();
        if let Some(segment) = &mut open {
            self.close(segment);
        }
        let taken = std::mem::replace(self, Self { open, ..Self::default() });
        let append = |(key, file, run): (Option<Key>, u32, Run)| {
            let page = match key {
                Some(key) if !run.keys.is_empty() => seal::seal_keys(&key, run.first, &run.keys, seam.bytes()),
                _ => Vec::new(),
            };
            Append { file, first: run.first, chunks: run.descs, sealed_keys: Blob(page) }
        };
        let request = PlanChunks { files: taken.appends.into_iter().map(append).collect() };
        Full { request, chunks: taken.chunks, plain_bytes: taken.plain_bytes }
    }
}

/// A window that is full.
pub(super) struct Full {
    request: PlanChunks,
    chunks: HashMap<ChunkId, Bytes>,
    plain_bytes: u64,
}

impl Full {
    /// Asks the coordinator where its chunks go, and lets go of the bytes that are there already.
    pub(super) async fn plan(mut self, context: &Context, session: &PutSession) -> ApiResult<Planned> {
        let plan = context.api.plan_chunks(session.upload, &self.request).await?;
        let wanted: HashSet<ChunkId> =
            plan.packs.iter().flat_map(|pack| pack.entries.iter().map(|entry| entry.chunk)).collect();
        let descs = self.request.files.iter().flat_map(|file| &file.chunks);
        let here: u64 = descs.filter(|desc| !wanted.contains(&desc.chunk)).map(|desc| desc.length).sum();
        context.watch.event(Event::Here(here));
        let (chunks, rest): (HashMap<_, _>, HashMap<_, _>) =
            std::mem::take(&mut self.chunks).into_iter().partition(|(chunk, _)| wanted.contains(chunk));
        rest.into_values().for_each(buffers::give);
        let wanted_bytes = self.plain_bytes.saturating_sub(here);
        Ok(Planned { plan, chunks, wanted_bytes, here_bytes: here })
    }
}

/// A window whose packs are known.
pub(super) struct Planned {
    plan: ChunksPlanned,
    chunks: HashMap<ChunkId, Bytes>,
    /// Plaintext bytes that were not here already.
    wanted_bytes: u64,
    here_bytes: u64,
}

/// A window that came through.
pub(super) struct Through {
    pub sent_bytes: u64,
    /// Plaintext bytes that were here already.
    pub here_bytes: u64,
    pub nodes: HashSet<NodeId>,
}

impl Planned {
    /// Sends the packs, reports them, and goes on with what takes the place of those that failed.
    pub(super) async fn go(mut self, context: &Context, session: &Arc<PutSession>) -> ApiResult<Through> {
        let mut through = Through { sent_bytes: 0, here_bytes: self.here_bytes, nodes: HashSet::new() };
        let mut plan = std::mem::take(&mut self.plan);
        for _ in 0..ROUNDS {
            plan.notices.iter().for_each(|notice| context.watch.event(Event::Notice(notice.clone())));
            if plan.packs.is_empty() {
                break;
            }
            check(&plan.packs)?;
            let addresses: BTreeMap<NodeId, NodeAddress> =
                plan.nodes.into_iter().map(|address| (address.id.clone(), address)).collect();
            let sends =
                plan.packs.into_iter().map(|pack| self.chunks_of(session, pack)).collect::<ApiResult<Vec<_>>>()?;
            let outcomes = send_all(context, &addresses, &plan.replaceable, sends).await;
            for (node, bytes, _) in
                outcomes.iter().filter(|(_, _, outcome)| matches!(outcome, PackOutcome::Sent { .. }))
            {
                through.sent_bytes += bytes;
                through.nodes.insert(node.clone());
            }
            let packs = outcomes.into_iter().map(|(_, _, outcome)| outcome).collect();
            plan = context.api.packs_sent(session.upload, &PacksSent { packs }).await?;
        }
        self.chunks.into_values().for_each(buffers::give);
        context.watch.event(Event::Verified(self.wanted_bytes));
        Ok(through)
    }

    fn chunks_of(&self, session: &PutSession, plan: PackPlan) -> ApiResult<(PackPlan, Pack)> {
        let missing = || ApiError::new(Code::Internal, "the coordinator asked for a chunk that is not in this window");
        let bytes: Option<Vec<Bytes>> =
            plan.entries.iter().map(|entry| self.chunks.get(&entry.chunk).cloned()).collect();
        let bytes = bytes.ok_or_else(missing)?;
        if plan.entries.iter().zip(&bytes).any(|(entry, bytes)| entry.bytes != bytes.len() as u64) {
            return Err(missing());
        }
        let header =
            PackHeader { pool: session.pool, epoch: session.epoch, id: plan.id, entries: plan.entries.clone() };
        Ok((plan, Pack::new(header, bytes)))
    }
}

/// A round sends a chunk to a node once, so no node is sent more than the window has.
fn check(packs: &[PackPlan]) -> ApiResult<()> {
    let mut places = HashSet::new();
    if packs.iter().all(|pack| pack.entries.iter().all(|entry| places.insert((&pack.node, entry.chunk)))) {
        return Ok(());
    }
    Err(ApiError::new(Code::Internal, "the coordinator would send one chunk to one node twice"))
}

/// Sends packs to their nodes. The last node at work is not waited for when it is far slower than all others and can be
/// replaced.
async fn send_all(
    context: &Context,
    addresses: &BTreeMap<NodeId, NodeAddress>,
    replaceable: &[NodeId],
    sends: Vec<(PackPlan, Pack)>,
) -> Vec<(NodeId, u64, PackOutcome)> {
    let mut open: HashMap<PackId, (NodeId, u64)> =
        sends.iter().map(|(plan, pack)| (plan.id, (plan.node.clone(), pack.header().bytes()))).collect();
    let began = Instant::now();
    let sending = stream::iter(sends.into_iter().map(|one| send(context, addresses, one)));
    let mut sending = std::pin::pin!(sending.buffer_unordered(PACKS_AT_ONCE));
    let mut outcomes = Vec::with_capacity(open.len());
    let mut until = None;
    loop {
        let last = tokio::time::sleep_until(until.unwrap_or(began));
        tokio::select! {
            biased;
            sent = sending.next() => {
                let Some(sent) = sent else { return outcomes };
                let (PackOutcome::Sent { pack, .. } | PackOutcome::Failed { pack, .. }) = &sent.2;
                open.remove(pack);
                outcomes.push(sent);
            }
            () = last, if until.is_some() => {
                let message = "it is far slower than the others".to_owned();
                let failed = |(pack, (node, bytes))| {
                    (node, bytes, PackOutcome::Failed { pack, full: false, message: message.clone() })
                };
                outcomes.extend(open.into_iter().map(failed));
                return outcomes;
            }
        }
        let mut at_work = open.values().map(|(node, _)| node);
        let straggler = at_work.next().filter(|first| at_work.all(|node| node == *first));
        if until.is_none() && !outcomes.is_empty() && straggler.is_some_and(|node| replaceable.contains(node)) {
            until = Some(Instant::now() + STRAGGLES + began.elapsed() * TIMES);
        }
    }
}

/// Sends one pack to its node.
async fn send(
    context: &Context,
    addresses: &BTreeMap<NodeId, NodeAddress>,
    (plan, pack): (PackPlan, Pack),
) -> (NodeId, u64, PackOutcome) {
    let bytes = pack.header().bytes();
    let sent = async {
        let address = addresses
            .get(&plan.node)
            .ok_or_else(|| NodeFailure::Unreachable("its address was not given".into()).at(plan.node.as_str()))?;
        context.dial.dial(address)?.write_pack(&pack, plan.grant.as_ref()).await
    };
    let outcome = match sent.await {
        Ok(receipt) => {
            context.watch.event(Event::Sent(bytes));
            PackOutcome::Sent { pack: plan.id, receipt }
        }
        Err(error) => PackOutcome::Failed {
            pack: plan.id,
            full: matches!(error.reason, NodeFailure::Full(_)),
            message: error.reason.to_string(),
        },
    };
    (plan.node, bytes, outcome)
}
