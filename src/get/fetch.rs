//! Fetching: where chunks are, from which copy, proved and unsealed, in order.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, StreamExt};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::{
    ApiError, ApiResult, BadCopy, Blob, Code, CopyAt, MAX_PAGE_CHUNKS, MAX_REPORTS, ManifestChunk, ManifestPage,
    ManifestSpan, NodeAddress, OpenFile, Part, ReadChunks, ReadSession,
};
use crate::id::NodeId;
use crate::monitor::Event;
use crate::node::{ChunkAt, GrantToken, NodeError, NodeFailure};
use crate::put::Context;
use crate::seal::{self, ChunkKey, Key};
use crate::seam::Seam;

/// Chunks being fetched at once, over all files.
const AT_ONCE: usize = 16;
/// Chunks of one file asked for in one question to the coordinator.
const PAGE: u64 = 256;

/// Consecutive data chunks of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub first: u64,
    pub count: u64,
}

impl OpenFile {
    /// Data chunks that a file of this size has.
    pub(super) fn data_chunks(&self) -> u64 {
        self.entry.size.div_ceil(u64::from(self.chunk_size.max(1)))
    }
}

/// A span's chunks and how to reach their copies.
#[derive(Debug, Clone)]
pub(super) struct Spanned {
    span: ManifestSpan,
    ways: Arc<Ways>,
}

/// Addresses and grants of a page.
#[derive(Debug)]
struct Ways {
    nodes: BTreeMap<NodeId, NodeAddress>,
    grants: HashMap<CopyAt, GrantToken>,
    until: Instant,
}

/// Fetches the chunks of one read session.
pub(super) struct Fetcher<'a> {
    shared: Arc<Shared>,
    keep: JoinHandle<()>,
    context: &'a Context,
}

struct Shared {
    context: Context,
    read: crate::id::UploadId,
    wrap: Key,
    permits: Arc<Semaphore>,
    bad: Mutex<Vec<BadCopy>>,
    bad_count: std::sync::atomic::AtomicU64,
    /// Nodes that did not answer: asked last from then on, so that a hung one costs its limit once, not for each chunk.
    silent: Mutex<BTreeSet<NodeId>>,
}

impl Drop for Fetcher<'_> {
    fn drop(&mut self) {
        self.keep.abort();
    }
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(context: &'a Context, session: &ReadSession) -> Self {
        let (api, read) = (Arc::clone(&context.api), session.read);
        let period = Duration::from_secs(session.renew_seconds.max(1));
        let keep = tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                // A lost renewal is made good by the next one, or shows at the next question.
                drop(api.renew(read).await);
            }
        });
        let shared = Shared {
            context: context.clone(),
            read,
            wrap: session.keys.wrap.clone(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            bad: Mutex::default(),
            bad_count: std::sync::atomic::AtomicU64::new(0),
            silent: Mutex::default(),
        };
        Self { shared: Arc::new(shared), keep, context }
    }

    pub(super) fn seam(&self) -> &Seam {
        &self.context.seam
    }

    pub(super) fn watch(&self, event: Event) {
        self.context.watch.event(event);
    }

    /// Asks at once where the chunks of all small files are.
    pub(super) async fn small_spans(&self, files: impl Iterator<Item = &OpenFile>) -> ApiResult<HashMap<i64, Spanned>> {
        let small = |file: &&OpenFile| file.entry.size > 0 && file.data_chunks() <= 4;
        let mut asked: Vec<crate::api::Span> = files
            .filter(small)
            .map(|file| crate::api::Span { version: file.version, first: 0, count: file.data_chunks() })
            .collect();
        asked.dedup();
        let mut found = HashMap::new();
        let mut rest = asked.as_slice();
        while !rest.is_empty() {
            let mut chunks = 0;
            let fits = |span: &&crate::api::Span| {
                chunks += span.count;
                chunks <= MAX_PAGE_CHUNKS as u64
            };
            let (some, later) = rest.split_at(rest.iter().take_while(fits).count());
            rest = later;
            let request = ReadChunks { spans: some.to_vec() };
            let page = self.shared.context.api.read_chunks(self.shared.read, &request).await?;
            let ways = Arc::new(Ways::of(&page));
            for (span, asked) in page.spans.into_iter().zip(some) {
                found.insert(asked.version.0, Spanned { span, ways: Arc::clone(&ways) });
            }
        }
        Ok(found)
    }

    /// The plaintext of a span's chunks, in order; ends after the first failure.
    pub(super) fn chunks(
        &self,
        file: &OpenFile,
        span: Span,
        prefetched: Option<&Spanned>,
    ) -> ApiResult<BoxStream<'static, ApiResult<Bytes>>> {
        let key = if file.wrapped_key.0.is_empty() {
            None
        } else {
            let opened = seal::unwrap_key(&self.shared.wrap, seal::FILE_KEY, &file.wrapped_key.0);
            Some(opened.map_err(|_| not_opened(&file.entry.path.to_string()))?)
        };
        let run = Run {
            shared: Arc::clone(&self.shared),
            file: Arc::new(file.clone()),
            key,
            next: span.first,
            end: span.first.saturating_add(span.count),
            asked: prefetched.cloned(),
            flying: VecDeque::new(),
            waiting: VecDeque::new(),
            failed: false,
        };
        Ok(futures_util::stream::unfold(run, |mut run| async move {
            let next = run.next().await?;
            Some((next, run))
        })
        .boxed())
    }

    /// Ends the read: reports what was bad; gives how many copies were.
    pub(super) async fn finish(self) -> u64 {
        let bad = std::mem::take(&mut *self.shared.bad.lock().unwrap_or_else(PoisonError::into_inner));
        if !bad.is_empty() {
            // A report is a hint: when it is lost, scrub and health find the same.
            drop(self.shared.context.api.report_bad(&bad).await);
        }
        drop(self.shared.context.api.release(self.shared.read).await);
        self.shared.bad_count.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn not_opened(path: &str) -> ApiError {
    ApiError::new(Code::Integrity, format!("the key of {path} does not open"))
}

impl Ways {
    fn of(page: &ManifestPage) -> Self {
        Self {
            nodes: page.nodes.iter().map(|address| (address.id.clone(), address.clone())).collect(),
            grants: page.grants.iter().map(|one| (one.at.clone(), one.grant.clone())).collect(),
            until: Instant::now() + Duration::from_secs(page.valid_seconds),
        }
    }
}

/// One chunk with all that is needed to fetch it.
struct Task {
    index: u64,
    chunk: ManifestChunk,
    key: Option<Key>,
    ways: Arc<Ways>,
}

/// A span being fetched.
struct Run {
    shared: Arc<Shared>,
    file: Arc<OpenFile>,
    key: Option<Key>,
    next: u64,
    end: u64,
    asked: Option<Spanned>,
    waiting: VecDeque<Task>,
    flying: VecDeque<JoinHandle<ApiResult<Bytes>>>,
    failed: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.flying.iter().for_each(JoinHandle::abort);
    }
}

impl Run {
    async fn next(&mut self) -> Option<ApiResult<Bytes>> {
        if self.failed {
            return None;
        }
        while self.flying.len() < AT_ONCE {
            if self.waiting.is_empty() && self.next < self.end {
                if !self.flying.is_empty() && self.flying.len() > AT_ONCE / 2 {
                    break;
                }
                if let Err(error) = self.ask().await {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
            let Some(task) = self.waiting.pop_front() else { break };
            let (shared, file) = (Arc::clone(&self.shared), Arc::clone(&self.file));
            self.flying.push_back(tokio::spawn(async move { shared.fetch(&file, task).await }));
        }
        let got = match self.flying.pop_front()?.await {
            Ok(got) => got,
            Err(error) => Err(ApiError::new(Code::Internal, format!("fetching stopped: {error}"))),
        };
        self.failed = got.is_err();
        Some(got)
    }

    /// Learns where the next chunks are.
    async fn ask(&mut self) -> ApiResult<()> {
        let count = (self.end - self.next).min(PAGE);
        let spanned = match self.asked.take() {
            Some(spanned) => spanned,
            None => self.shared.ask(&self.file, self.next, count).await?,
        };
        let keys = self.keys(&spanned.span.sealed_keys)?;
        let count = spanned.span.chunks.len() as u64;
        if count == 0 {
            return Err(ApiError::new(Code::Integrity, format!("{} lacks chunk {}", self.file.entry.path, self.next)));
        }
        for (index, chunk) in (self.next..).zip(spanned.span.chunks) {
            let key = match chunk.desc.part {
                Part::Sealed => Some(self.chunk_key(&keys, index, &chunk)?),
                Part::Plain | Part::Link => None,
            };
            self.waiting.push_back(Task { index, chunk, key, ways: Arc::clone(&spanned.ways) });
        }
        self.next += count;
        Ok(())
    }

    fn keys(&self, pages: &[(u64, Blob)]) -> ApiResult<BTreeMap<u64, ChunkKey>> {
        let mut keys = BTreeMap::new();
        let Some(file_key) = &self.key else { return Ok(keys) };
        for (first, page) in pages {
            let opened = seal::unseal_keys(file_key, *first, &page.0)
                .map_err(|_| not_opened(&self.file.entry.path.to_string()))?;
            keys.extend((*first..).zip(opened));
        }
        Ok(keys)
    }

    fn chunk_key(&self, keys: &BTreeMap<u64, ChunkKey>, index: u64, chunk: &ManifestChunk) -> ApiResult<Key> {
        keys.get(&index)
            .filter(|key| key.chunk == chunk.desc.chunk && u64::from(key.length) == chunk.desc.length)
            .map(|key| key.key.clone())
            .ok_or_else(|| not_opened(&format!("chunk {index} of {}", self.file.entry.path)))
    }
}

impl Shared {
    async fn ask(&self, file: &OpenFile, first: u64, count: u64) -> ApiResult<Spanned> {
        let request = ReadChunks { spans: vec![crate::api::Span { version: file.version, first, count }] };
        let mut page = self.context.api.read_chunks(self.read, &request).await?;
        let ways = Arc::new(Ways::of(&page));
        let span = page
            .spans
            .pop()
            .filter(|span| span.chunks.len() as u64 <= count)
            .ok_or_else(|| ApiError::new(Code::Internal, "the coordinator answered for another span"))?;
        Ok(Spanned { span, ways })
    }

    /// Fetches one chunk from the first copy that proves right; asks once more where copies are when none does.
    async fn fetch(&self, file: &OpenFile, task: Task) -> ApiResult<Bytes> {
        let _permit = self.permits.acquire().await.map_err(|_| ApiError::new(Code::Internal, "the read has ended"))?;
        let mut last = None;
        if task.ways.until > Instant::now() {
            match self.read_copies(&task.chunk, &task.ways).await {
                Ok(stored) => return open(file, &task, stored),
                Err(error) => last = error,
            }
        }
        let again = self.ask(file, task.index, 1).await?;
        let chunk = again.span.chunks.into_iter().next().filter(|chunk| chunk.desc == task.chunk.desc);
        let chunk = chunk.ok_or_else(|| ApiError::new(Code::Changed, "the manifest changed while it was read"))?;
        match self.read_copies(&chunk, &again.ways).await {
            Ok(stored) => open(file, &task, stored),
            Err(error) => Err(no_copy(file, task.index, milder(error, last))),
        }
    }

    /// Whole stored bytes from the first good copy, or why one was not: one that may be back later comes before others,
    /// because then the bytes are not lost.
    async fn read_copies(&self, chunk: &ManifestChunk, ways: &Ways) -> Result<Bytes, Option<NodeError>> {
        let mut last = None;
        let mut copies: Vec<&CopyAt> = chunk.copies.iter().collect();
        {
            let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
            copies.sort_by_key(|copy| silent.contains(&copy.node));
        }
        for copy in copies {
            let Some(address) = ways.nodes.get(&copy.node) else {
                last = milder(last, Some(NodeFailure::Unreachable("offline".into()).at(copy.node.to_string())));
                continue;
            };
            let at = ChunkAt { chunk: chunk.desc.chunk, bytes: chunk.desc.bytes, pack: copy.pack };
            let read = match self.context.dial.dial(address) {
                Ok(node) => node.read_chunk(&at, None, ways.grants.get(copy)).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(stored) => return Ok(stored),
                Err(error) => {
                    self.note_bad(chunk, copy, &error);
                    last = milder(last, Some(error));
                }
            }
        }
        Err(last)
    }

    fn note_bad(&self, chunk: &ManifestChunk, copy: &CopyAt, error: &NodeError) {
        self.bad_count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if error.reason.is_temporary() {
            self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(copy.node.clone());
        }
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if !bad.iter().any(|known| known.at.node == copy.node) {
            self.context.watch.event(Event::Notice(format!("{error}; reading another copy")));
        }
        if bad.len() < MAX_REPORTS {
            bad.push(BadCopy { chunk: chunk.desc.chunk, at: copy.clone(), message: error.reason.to_string() });
        }
    }
}

/// The failure that is told of two: one that may pass by itself.
fn milder(one: Option<NodeError>, other: Option<NodeError>) -> Option<NodeError> {
    match one {
        Some(one) if one.reason.is_temporary() => Some(one),
        _ if other.is_some() => other,
        one => one,
    }
}

/// Proves and unseals a chunk.
fn open(file: &OpenFile, task: &Task, stored: Bytes) -> ApiResult<Bytes> {
    let plain = match &task.key {
        None => stored,
        Some(key) => {
            let stored = stored.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            seal::unseal(key, stored)
                .map_err(|_| not_opened(&format!("chunk {} of {}", task.index, file.entry.path)))?
        }
    };
    if plain.len() as u64 == task.chunk.desc.length {
        return Ok(plain);
    }
    Err(ApiError::new(Code::Integrity, format!("chunk {} of {} has another length", task.index, file.entry.path)))
}

fn no_copy(file: &OpenFile, index: u64, last: Option<NodeError>) -> ApiError {
    let path = &file.entry.path;
    let (code, why) = match last {
        None => (Code::Integrity, "no copy of it is known".to_owned()),
        Some(error) => match error.reason {
            NodeFailure::Absent(_) | NodeFailure::Corrupt(_) => (Code::Integrity, error.to_string()),
            _ => (Code::Temporary, error.to_string()),
        },
    };
    ApiError::new(code, format!("cannot read chunk {index} of {path} from any node: {why}"))
        .hint("bytenode admin node ls, then bytenode admin health")
}
