//! Fetching: where chunks are, from which copy, proved and unsealed, in order.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::copies::{Copies, milder};
use super::temporary::Kept;
use crate::api::{
    ApiError, ApiResult, Blob, Code, CopyAt, MAX_PAGE_CHUNKS, ManifestChunk, ManifestPage, ManifestSpan, NodeAddress,
    OpenFile, OpenRead, Part, ReadChunks, ReadSession, VersionId,
};
use crate::id::{NodeId, UploadId};
use crate::monitor::Event;
use crate::node::{GrantToken, NodeError, NodeFailure};
use crate::pack::MAX_CHUNK_BYTES;
use crate::put::{Context, KeptLease};
use crate::seal::{self, ChunkKey, Key};
use crate::seam::Seam;

/// Chunks being fetched at once, over all files.
const AT_ONCE: usize = 16;
/// Chunks of one file asked for in one question to the coordinator.
const PAGE: u64 = 256;
/// What the coordinator says of where chunks are is believed so long, at most.
const MAX_VALID: Duration = Duration::from_secs(24 * 3600);

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

/// The plaintext of a chunk.
pub(super) struct Got {
    pub plain: Bytes,
    /// Whether it is what an earlier get left, and came from no node.
    pub kept: bool,
}

/// A span's chunks and how to reach their copies.
#[derive(Debug, Clone)]
pub(super) struct Spanned {
    span: ManifestSpan,
    ways: Arc<Ways>,
}

/// Addresses and grants of a page.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) nodes: BTreeMap<NodeId, NodeAddress>,
    pub(super) grants: HashMap<CopyAt, GrantToken>,
    until: Instant,
}

/// Fetches the chunks of one read session.
pub(super) struct Fetcher<'a> {
    shared: Arc<Shared>,
    context: &'a Context,
}

struct Shared {
    context: Context,
    /// What was opened.
    request: OpenRead,
    open: tokio::sync::Mutex<Open>,
    wrap: Key,
    permits: Arc<Semaphore>,
    copies: Copies,
}

/// The read as the coordinator knows it; another one once the coordinator was started again.
struct Open {
    read: UploadId,
    versions: HashSet<VersionId>,
    _lease: KeptLease,
}

impl Open {
    fn new(context: &Context, session: &ReadSession) -> Self {
        let _lease = KeptLease::new(context, session.read, session.renew_seconds);
        Self { read: session.read, versions: session.files.iter().flatten().map(|file| file.version).collect(), _lease }
    }
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(context: &'a Context, request: OpenRead, session: &ReadSession) -> Self {
        let shared = Shared {
            context: context.clone(),
            request,
            open: tokio::sync::Mutex::new(Open::new(context, session)),
            wrap: session.keys.wrap.clone(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            copies: Copies::new(context.clone()),
        };
        Self { shared: Arc::new(shared), context }
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
            let page = self.shared.read_chunks(&request).await?;
            let ways = Arc::new(Ways::of(&page));
            for (span, asked) in page.spans.into_iter().zip(some) {
                found.insert(asked.version.0, Spanned { span, ways: Arc::clone(&ways) });
            }
        }
        Ok(found)
    }

    /// The plaintext of a span's chunks, in order; ends after the first failure. What `kept` holds in its place, and what
    /// proves to be the chunk, is not fetched.
    pub(super) fn chunks(
        &self,
        file: &OpenFile,
        span: Span,
        prefetched: Option<&Spanned>,
        kept: Option<Kept>,
    ) -> ApiResult<BoxStream<'static, ApiResult<Got>>> {
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
            kept,
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
        let (count, reports) = self.shared.copies.take_bad();
        if !reports.is_empty() {
            // A report is a hint: when it is lost, scrub and health find the same.
            drop(self.shared.context.api.report_bad(&reports).await);
        }
        let read = self.shared.open.lock().await.read;
        drop(self.shared.context.api.release(read).await);
        count
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
            until: Instant::now() + Duration::from_secs(page.valid_seconds).min(MAX_VALID),
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
    kept: Option<Kept>,
    waiting: VecDeque<Task>,
    flying: VecDeque<JoinHandle<ApiResult<Got>>>,
    failed: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        self.flying.iter().for_each(JoinHandle::abort);
    }
}

impl Run {
    async fn next(&mut self) -> Option<ApiResult<Got>> {
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
            let (shared, file, kept) = (Arc::clone(&self.shared), Arc::clone(&self.file), self.kept.clone());
            self.flying.push_back(tokio::spawn(async move { shared.get(&file, task, kept).await }));
        }
        // It stays in line while it is waited for, so that it ends with the run.
        let fetched = self.flying.front_mut()?.await;
        self.flying.pop_front();
        let stopped = |error| ApiError::new(Code::Internal, format!("fetching stopped: {error}"));
        let got = fetched.map_err(stopped).flatten();
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
        let keys = self.keys(&spanned.span.sealed_keys, count)?;
        let given = spanned.span.chunks.len() as u64;
        if given == 0 || given > count {
            let what = format!("{} has {given} chunks from chunk {}, not {count}", self.file.entry.path, self.next);
            return Err(ApiError::new(Code::Integrity, what));
        }
        for (chunk, index) in spanned.span.chunks.into_iter().zip(self.next..) {
            let key = self.check(&keys, index, &chunk)?;
            self.waiting.push_back(Task { index, chunk, key, ways: Arc::clone(&spanned.ways) });
        }
        self.next += given;
        Ok(())
    }

    /// The keys of the next chunks, so many at most.
    fn keys(&self, pages: &[(u64, Blob)], count: u64) -> ApiResult<BTreeMap<u64, ChunkKey>> {
        let mut keys = BTreeMap::new();
        let Some(file_key) = &self.key else { return Ok(keys) };
        for (first, page) in pages {
            let opened = seal::unseal_keys(file_key, *first, &page.0)
                .map_err(|_| not_opened(&self.file.entry.path.to_string()))?;
            let wanted = |(index, _): &(u64, _)| index.checked_sub(self.next).is_some_and(|at| at < count);
            keys.extend((*first..=u64::MAX).zip(opened).filter(wanted));
        }
        Ok(keys)
    }

    /// Whether this is what the file must have at this index; gives its key. A range has no hash of its own, so the
    /// place and length of every chunk follow from the file's size alone.
    fn check(&self, keys: &BTreeMap<u64, ChunkKey>, index: u64, chunk: &ManifestChunk) -> ApiResult<Option<Key>> {
        let (path, desc) = (&self.file.entry.path, &chunk.desc);
        let chunk_size = u64::from(self.file.chunk_size);
        let left = index.checked_mul(chunk_size).and_then(|at| self.file.entry.size.checked_sub(at));
        let stored = desc.length.saturating_add(if self.key.is_some() { seal::OVERHEAD as u64 } else { 0 });
        let expected = left.map(|left| left.min(chunk_size));
        if expected != Some(desc.length) || desc.bytes != stored || stored > MAX_CHUNK_BYTES {
            return Err(ApiError::new(Code::Integrity, format!("chunk {index} of {path} has an impossible length")));
        }
        match (desc.part, keys.get(&index)) {
            (Part::Plain, _) if self.key.is_none() => Ok(None),
            (Part::Sealed, Some(key)) if key.chunk == desc.chunk && u64::from(key.length) == desc.length => {
                Ok(Some(key.key.clone()))
            }
            _ => Err(not_opened(&format!("chunk {index} of {path}"))),
        }
    }
}

impl Shared {
    /// Asks where chunks are; opens the read again when the coordinator was started anew and knows it no more.
    async fn read_chunks(&self, request: &ReadChunks) -> ApiResult<ManifestPage> {
        let read = self.open.lock().await.read;
        match self.context.api.read_chunks(read, request).await {
            Err(error) if error.code == Code::Replan => {
                let mut open = self.open.lock().await;
                if open.read == read {
                    let session = self.context.api.open_read(&self.request).await?;
                    *open = Open::new(&self.context, &session);
                }
                if request.spans.iter().any(|span| !open.versions.contains(&span.version)) {
                    return Err(ApiError::new(Code::Changed, "the file was changed while it was read"));
                }
                let read = open.read;
                drop(open);
                self.context.api.read_chunks(read, request).await
            }
            other => other,
        }
    }

    async fn ask(&self, file: &OpenFile, first: u64, count: u64) -> ApiResult<Spanned> {
        let request = ReadChunks { spans: vec![crate::api::Span { version: file.version, first, count }] };
        let mut page = self.read_chunks(&request).await?;
        let ways = Arc::new(Ways::of(&page));
        let nothing = || ApiError::new(Code::Internal, "the coordinator does not say where the chunks are");
        let span = page.spans.pop().ok_or_else(nothing)?;
        Ok(Spanned { span, ways })
    }

    /// One chunk: what is there of it already, or from a node.
    async fn get(&self, file: &OpenFile, task: Task, kept: Option<Kept>) -> ApiResult<Got> {
        let _permit = self.permits.acquire().await.map_err(|_| ApiError::new(Code::Internal, "the read has ended"))?;
        if let Some(kept) = kept {
            let at = task.index.saturating_mul(u64::from(file.chunk_size));
            let (desc, key) = (task.chunk.desc, task.key.clone());
            if let Some(plain) = self.context.seam.offload(move || kept.proved(at, &desc, key.as_ref())).await {
                return Ok(Got { plain, kept: true });
            }
        }
        self.fetch(file, task).await.map(|plain| Got { plain, kept: false })
    }

    /// Fetches one chunk from the first copy that proves right; asks once more where copies are when none does.
    async fn fetch(&self, file: &OpenFile, task: Task) -> ApiResult<Bytes> {
        let (mut last, mut late) = (None, BTreeSet::new());
        if task.ways.until > Instant::now() {
            match self.copies.read(&task.chunk, task.key.as_ref(), &task.ways, &mut late).await {
                Ok(plain) => return checked(file, &task, plain),
                Err(error) => last = error,
            }
        }
        let again = self.ask(file, task.index, 1).await?;
        let chunk = again.span.chunks.into_iter().next().filter(|chunk| chunk.desc == task.chunk.desc);
        let chunk = chunk.ok_or_else(|| ApiError::new(Code::Changed, "the manifest changed while it was read"))?;
        match self.copies.read(&chunk, task.key.as_ref(), &again.ways, &mut late).await {
            Ok(plain) => checked(file, &task, plain),
            Err(error) => Err(no_copy(file, task.index, milder(error, last))),
        }
    }
}

/// The plaintext, if it was opened and is as long as it must be.
fn checked(file: &OpenFile, task: &Task, plain: Option<Bytes>) -> ApiResult<Bytes> {
    let chunk = || format!("chunk {} of {}", task.index, file.entry.path);
    let plain = plain.ok_or_else(|| not_opened(&chunk()))?;
    if plain.len() as u64 == task.chunk.desc.length {
        return Ok(plain);
    }
    Err(ApiError::new(Code::Integrity, format!("{} has another length", chunk())))
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
