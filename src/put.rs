//! Put: local files become chunks on nodes, and then visible.
//!
//! Chunks are read, hashed and sealed off the async threads, collected into windows of at most `window::BYTES`, planned
//! by the coordinator, sent to their nodes as packs, and reported; a file is committed when the last window that holds a
//! chunk of it has come through. At most `IN_FLIGHT` windows are under way while one is filled, so memory does not
//! depend on what is put. Plans are asked for in order; the rest runs side by side.

mod input;
mod outcome;
mod window;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use jiff::Timestamp;
use tokio::io::AsyncRead;
use tokio::task::JoinHandle;

use crate::api::{
    Api, ApiError, ApiResult, BeginPut, Blob, Code, CommitFile, CommitFiles, Committed, Entry, Expect, Kind,
    PutSession, Sha256,
};
use crate::dial::Dial;
use crate::id::UploadId;
use crate::monitor::{Event, Watch};
use crate::pack::MAX_CHUNK_BYTES;
use crate::path::RemotePath;
use crate::seal;
use crate::seam::Seam;
use crate::tree::{Found, LocalFile};
use input::{End, Input, Piece, Reader, Whole};
pub use outcome::{PutOutcome, PutSummary};
use window::{Stored, Through, Window};

/// Windows under way at once, besides the one that is filled.
const IN_FLIGHT: usize = 4;
/// Small files that are read by one thread in one go, and how many such goes there are at once.
const RUN: usize = 16;
const RUNS_AT_ONCE: usize = 3;
/// Things looked up, or made, at the coordinator at once; also bounded by the text of their paths.
const LOOKUP: usize = crate::api::MAX_LOOKUP;
/// Bytes of these paths.
const LOOKUP_TEXT: usize = 1 << 20;

/// What to do where a file is already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overwrite {
    /// Leave equal content, refuse other content.
    #[default]
    Never,
    /// Replace.
    Always,
    /// Leave what has the same size and modification time, else read, and replace other content.
    IfChanged,
}

/// How to put.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// Copies wanted; nothing for the pool's number.
    pub replicas: Option<u32>,
    /// Store plain UnixFS blocks.
    pub public: bool,
    /// What to do where a file is already.
    pub overwrite: Overwrite,
    /// Change nothing; tell what can be known without sending.
    pub dry_run: bool,
    /// Names this machine and its start, for the coordinator.
    pub machine: String,
}

/// What a use case works with.
#[derive(Clone)]
pub struct Context {
    /// The coordinator.
    pub api: Arc<dyn Api>,
    /// The way to nodes.
    pub dial: Arc<dyn Dial>,
    /// Time and chance.
    pub seam: Seam,
    /// Where progress goes.
    pub watch: Watch,
}

/// Stores everything that `found` yields. It is pulled from as work goes on, so it may be endless in length but not in
/// memory. Every outcome is handed to `each` in the order of completion. A file that fails does not stop the others.
///
/// # Errors
/// Only what ends the whole put: the coordinator is lost, or it refuses all.
pub async fn put(
    context: &Context,
    found: Box<dyn Iterator<Item = Found> + Send>,
    options: &PutOptions,
    each: &mut (dyn FnMut(PutOutcome) + Send),
) -> ApiResult<PutSummary> {
    let mut putter = Putter::begin(context, options, each).await?;
    let mut found = found.fuse();
    loop {
        let batch = next_batch(&mut found);
        if batch.is_empty() {
            break;
        }
        putter.batch(batch).await?;
    }
    putter.finish().await
}

/// Stores a stream of unknown length, which people know as `source`, as one file. The end of the stream is the end of the
/// file; one that ends with an error is not stored. Where a file with this content is already, it is left and counted
/// unchanged.
///
/// # Errors
/// As [`put`], and what fails for the file.
pub async fn put_stream(
    context: &Context,
    mut input: Box<dyn AsyncRead + Send + Unpin>,
    source: &str,
    to: &RemotePath,
    modified: Timestamp,
    options: &PutOptions,
    each: &mut (dyn FnMut(PutOutcome) + Send),
) -> ApiResult<PutSummary> {
    // Asked before the put begins: what is refused leaves no lease.
    let found = context.api.lookup(std::slice::from_ref(to)).await?.into_iter().next().flatten();
    let expect = match &found {
        None => Some(Expect::Absent),
        Some(entry) if entry.kind == Kind::Dir => return Err(is_directory(to)),
        Some(entry) if options.overwrite == Overwrite::Never => {
            if !input::is_same(&mut input, entry).await? {
                return Err(exists(to));
            }
            None
        }
        Some(entry) => Some(entry.version.map_or(Expect::Absent, Expect::Version)),
    };
    context.watch.event(Event::Found { files: 1, bytes: None });
    let mut putter = Putter::begin(context, options, each).await?;
    match expect {
        None => putter.unchanged(source.to_owned(), to.clone(), found.map_or(0, |entry| entry.size)),
        Some(expect) if !options.dry_run => {
            let file = LocalFile { source: source.into(), to: to.clone(), size: 0, modified, executable: false };
            putter.send(file, Input::Stream(input), expect).await?;
        }
        Some(_) => {}
    }
    putter.finish().await
}

fn next_batch(found: &mut dyn Iterator<Item = Found>) -> Vec<Found> {
    let mut batch = Vec::new();
    let mut text = 0;
    while batch.len() < LOOKUP && text < LOOKUP_TEXT {
        let Some(one) = found.next() else { break };
        if let Found::File(LocalFile { to, .. }) | Found::Dir { to } = &one {
            text += to.to_string().len();
        }
        batch.push(one);
    }
    batch
}

fn exists(path: &RemotePath) -> ApiError {
    ApiError::new(Code::Exists, format!("{path} exists already, with other content")).hint("add --overwrite always")
}

fn is_directory(path: &RemotePath) -> ApiError {
    ApiError::new(Code::WrongKind, format!("{path} is a directory"))
}

/// A file whose chunks are all in windows.
struct Ready {
    commit: CommitFile,
    source: String,
}

struct Putter<'a> {
    context: &'a Context,
    options: &'a PutOptions,
    each: &'a mut (dyn FnMut(PutOutcome) + Send),
    session: Arc<PutSession>,
    window: Window,
    flying: VecDeque<JoinHandle<ApiResult<Through>>>,
    /// Files whose last chunk is in the window of the same place in line.
    ready: VecDeque<Vec<Ready>>,
    summary: PutSummary,
    nodes: HashSet<crate::id::NodeId>,
    next_file: u32,
    _lease: KeptLease,
}

impl Drop for Putter<'_> {
    fn drop(&mut self) {
        self.flying.iter().for_each(JoinHandle::abort);
    }
}

/// A lease of a put or of a read that is renewed until this is dropped.
pub(crate) struct KeptLease(JoinHandle<()>);

impl KeptLease {
    pub(crate) fn new(context: &Context, lease: UploadId, renew_seconds: u64) -> Self {
        let (api, period) = (Arc::clone(&context.api), Duration::from_secs(renew_seconds.max(1)));
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(period).await;
                // A lost renewal is made good by the next one, or shows at the next question.
                drop(api.renew(lease).await);
            }
        }))
    }
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<'a> Putter<'a> {
    async fn begin(
        context: &'a Context,
        options: &'a PutOptions,
        each: &'a mut (dyn FnMut(PutOutcome) + Send),
    ) -> ApiResult<Self> {
        let request = BeginPut { machine: options.machine.clone(), replicas: options.replicas, public: options.public };
        let session = Arc::new(context.api.begin_put(&request).await?);
        if session.chunk_size == 0 || u64::from(session.chunk_size) > MAX_CHUNK_BYTES - seal::OVERHEAD as u64 {
            let what = format!("the coordinator wants chunks of {} bytes", session.chunk_size);
            return Err(ApiError::new(Code::Internal, what));
        }
        let _lease = KeptLease::new(context, session.upload, session.renew_seconds);
        let summary = PutSummary { copies_target: session.replicas, ..PutSummary::default() };
        Ok(Self {
            context,
            options,
            each,
            session,
            window: Window::default(),
            flying: VecDeque::new(),
            ready: VecDeque::from([Vec::new()]),
            summary,
            nodes: HashSet::new(),
            next_file: 0,
            _lease,
        })
    }

    /// Puts one batch: makes its directories, asks what is there, sends what must be sent.
    async fn batch(&mut self, batch: Vec<Found>) -> ApiResult<()> {
        let mut files = Vec::with_capacity(batch.len());
        let mut dirs = Vec::new();
        for found in batch {
            match found {
                Found::Dir { to } => dirs.push(to),
                Found::File(file) => files.push(file),
                Found::Skipped { source, to, reason } => {
                    self.summary.skipped += 1;
                    (self.each)(PutOutcome::Skipped { source: text(&source), path: to, reason });
                }
                Found::Failed { source, to, error } => {
                    let error = input::cannot_read(&source, &error);
                    self.fail(text(&source), to, error);
                }
            }
        }
        self.make_dirs(dirs).await?;
        let bytes = files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.size));
        self.event(Event::Found { files: files.len() as u64, bytes: Some(bytes) });
        let paths: Vec<RemotePath> = files.iter().map(|file| file.to.clone()).collect();
        let there = if paths.is_empty() { Vec::new() } else { self.context.api.lookup(&paths).await? };
        if there.len() != files.len() {
            return Err(ApiError::new(Code::Internal, "the coordinator did not answer for every path"));
        }
        let mut small = Vec::new();
        for (file, there) in files.into_iter().zip(there) {
            let Some((file, expect)) = self.wanted(file, there).await else { continue };
            if self.options.dry_run {
                self.would_store(file);
            } else if file.size <= input::small(&self.session) {
                small.push((file, expect));
            } else {
                self.send_small(std::mem::take(&mut small)).await?;
                self.open_and_send(file, expect).await?;
            }
        }
        self.send_small(small).await
    }

    /// Reads small files side by side, many at once, and sends them in their order.
    async fn send_small(&mut self, files: Vec<(LocalFile, Expect)>) -> ApiResult<()> {
        let mut runs: Vec<Vec<(LocalFile, Expect)>> = Vec::new();
        let mut files = files.into_iter().peekable();
        while files.peek().is_some() {
            runs.push(files.by_ref().take(RUN).collect());
        }
        let (context, session, public) = (self.context, Arc::clone(&self.session), self.options.public);
        let mut read =
            stream::iter(runs).map(|run| input::read_whole(context, &session, public, run)).buffered(RUNS_AT_ONCE);
        while let Some(run) = read.next().await {
            for (file, expect, whole) in run {
                self.event(Event::File(text(&file.source)));
                match whole {
                    Ok(Whole { key, chunks, end }) => {
                        self.event(Event::Read(end.size));
                        let number = self.begin_file(key.clone());
                        self.add(chunks).await?;
                        self.end_file(number, file, expect, end, key).await?;
                    }
                    Err(error) => self.fail(text(&file.source), Some(file.to), error),
                }
            }
        }
        Ok(())
    }

    async fn make_dirs(&mut self, dirs: Vec<RemotePath>) -> ApiResult<()> {
        if self.options.dry_run {
            return Ok(());
        }
        for some in dirs.chunks(crate::api::MAX_FILES) {
            match self.context.api.make_dirs(some).await {
                Err(error) if error.code == Code::WrongKind => {
                    for dir in some {
                        if let Err(error) = self.context.api.make_dirs(std::slice::from_ref(dir)).await {
                            self.fail(dir.to_string(), Some(dir.clone()), error);
                        }
                    }
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// Gives a file back that is to be sent, and what it replaces; all others are told of.
    async fn wanted(&mut self, file: LocalFile, there: Option<Entry>) -> Option<(LocalFile, Expect)> {
        let Some(entry) = there else { return Some((file, Expect::Absent)) };
        let source = text(&file.source);
        let Some(version) = entry.version else {
            self.fail(source, Some(file.to.clone()), is_directory(&file.to));
            return None;
        };
        let same_stat = entry.size == file.size && entry.modified == file.modified;
        if self.options.overwrite == Overwrite::IfChanged && same_stat {
            self.unchanged(source, file.to, file.size);
            return None;
        }
        if self.options.overwrite != Overwrite::Always {
            self.event(Event::File(source.clone()));
            let same = match entry.sha256 {
                Some(there) if entry.size == file.size => match input::hash_file(self.context, &file.source).await {
                    Ok(here) => here == there.0,
                    Err(error) => {
                        self.fail(source, Some(file.to), error);
                        return None;
                    }
                },
                _ => false,
            };
            if same {
                self.unchanged(source, file.to, file.size);
                return None;
            }
            if self.options.overwrite == Overwrite::Never {
                self.fail(source, Some(file.to.clone()), exists(&file.to));
                return None;
            }
        }
        Some((file, Expect::Version(version)))
    }

    async fn open_and_send(&mut self, file: LocalFile, expect: Expect) -> ApiResult<()> {
        self.event(Event::File(text(&file.source)));
        match Input::open(self.context, &file).await {
            Ok(input) => self.send(file, input, expect).await,
            Err(error) => {
                self.fail(text(&file.source), Some(file.to), error);
                Ok(())
            }
        }
    }

    /// Reads one input to its end into windows. What fails for the file alone is told to `each`.
    async fn send(&mut self, file: LocalFile, input: Input, expect: Expect) -> ApiResult<()> {
        let mut reader = Reader::new(self.context, &self.session, self.options.public, input, file.clone());
        let number = self.begin_file(reader.file_key());
        loop {
            match reader.next().await {
                Ok(Piece::Chunks(chunks)) => self.add(chunks).await?,
                Ok(Piece::End(end)) => return self.end_file(number, file, expect, end, reader.file_key()).await,
                Err(error) => {
                    self.window.end_file();
                    self.fail(text(&file.source), Some(file.to), error);
                    return Ok(());
                }
            }
        }
    }

    fn begin_file(&mut self, key: Option<seal::Key>) -> u32 {
        let number = self.next_file;
        self.next_file += 1;
        self.window.begin_file(number, key);
        number
    }

    async fn add(&mut self, chunks: Vec<Stored>) -> ApiResult<()> {
        for chunk in chunks {
            if self.window.is_full_for(&chunk) {
                self.flush().await?;
            }
            self.window.add(chunk);
        }
        Ok(())
    }

    async fn end_file(
        &mut self,
        number: u32,
        file: LocalFile,
        expect: Expect,
        end: End,
        key: Option<seal::Key>,
    ) -> ApiResult<()> {
        self.window.end_file();
        let wrapped_key = key.map(|key| wrap_file_key(&self.session, &key, &self.context.seam)).unwrap_or_default();
        let commit = CommitFile {
            file: number,
            path: file.to,
            expect,
            size: end.size,
            sha256: Sha256(end.sha256),
            chunks: end.chunks,
            modified: file.modified,
            executable: file.executable,
            wrapped_key,
            cid: end.cid,
        };
        let ready = Ready { commit, source: text(&file.source) };
        let in_window = self.ready.back_mut().expect("one for the window being filled");
        in_window.push(ready);
        if self.window.is_full_of_files() || in_window.len() >= crate::api::MAX_FILES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends the window being filled on its way, after waiting for room.
    async fn flush(&mut self) -> ApiResult<()> {
        while self.flying.len() >= IN_FLIGHT {
            self.land().await?;
        }
        let full = self.window.take(&self.context.seam);
        let planned = full.plan(self.context, &self.session).await?;
        let (context, session) = (self.context.clone(), Arc::clone(&self.session));
        self.flying.push_back(tokio::spawn(async move { planned.go(&context, &session).await }));
        self.ready.push_back(Vec::new());
        Ok(())
    }

    /// Waits for the oldest window, then commits the files that ended in it.
    async fn land(&mut self) -> ApiResult<()> {
        // It stays in line while it is waited for, so that it ends with the put.
        let Some(window) = self.flying.front_mut() else { return Ok(()) };
        let through = window.await;
        self.flying.pop_front();
        let through = through.map_err(|error| ApiError::new(Code::Internal, format!("sending stopped: {error}")))??;
        self.summary.sent_bytes += through.sent_bytes;
        self.summary.here_bytes += through.here_bytes;
        self.nodes.extend(through.nodes);
        let ready = self.ready.pop_front().expect("one for every window");
        self.commit(ready).await
    }

    async fn commit(&mut self, ready: Vec<Ready>) -> ApiResult<()> {
        if ready.is_empty() {
            return Ok(());
        }
        let request = CommitFiles { files: ready.iter().map(|one| one.commit.clone()).collect() };
        let mut done = HashMap::new();
        for one in self.context.api.commit_files(self.session.upload, &request).await? {
            let (Committed::Done { file, .. } | Committed::Refused { file, .. }) = one;
            done.insert(file, one);
        }
        for Ready { commit, source } in ready {
            let is_it = |entry: &Entry| {
                entry.path == commit.path && entry.size == commit.size && entry.sha256 == Some(commit.sha256)
            };
            match done.remove(&commit.file) {
                Some(Committed::Done { entry, new_chunks, .. }) if is_it(&entry) => {
                    self.stored(source, entry, new_chunks);
                }
                Some(Committed::Refused { error, .. }) => self.fail(source, Some(commit.path), error),
                _ => {
                    let what = format!("the coordinator does not say that it stored {}", commit.path);
                    self.fail(source, Some(commit.path), ApiError::new(Code::Internal, what));
                }
            }
        }
        Ok(())
    }

    async fn finish(mut self) -> ApiResult<PutSummary> {
        if self.window.has_chunks() {
            self.flush().await?;
        }
        while !self.flying.is_empty() {
            self.land().await?;
        }
        let rest = self.ready.pop_front().unwrap_or_default();
        self.commit(rest).await?;
        // What fails here ends with the lease; the files are visible.
        drop(self.context.api.release(self.session.upload).await);
        self.summary.nodes = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        Ok(std::mem::take(&mut self.summary))
    }

    fn stored(&mut self, source: String, entry: Box<Entry>, new_chunks: u64) {
        self.summary.files += 1;
        self.summary.bytes += entry.size;
        self.summary.chunks += entry.chunks;
        self.summary.chunks_here += entry.chunks.saturating_sub(new_chunks);
        self.summary.not_spread += u64::from(entry.spread == Some(false));
        if let Some(copies) = entry.copies_min {
            self.summary.copies_min = Some(self.summary.copies_min.map_or(copies, |least| least.min(copies)));
        }
        self.event(Event::FilesDone(1));
        (self.each)(PutOutcome::Stored { source, entry, new_chunks });
    }

    fn would_store(&mut self, file: LocalFile) {
        self.summary.files += 1;
        self.summary.bytes = self.summary.bytes.saturating_add(file.size);
        let entry = Entry {
            path: file.to,
            kind: Kind::File,
            size: file.size,
            modified: file.modified,
            executable: file.executable,
            sha256: None,
            version: None,
            chunks: file.size.div_ceil(u64::from(self.session.chunk_size)),
            copies_min: None,
            copies_target: self.session.replicas,
            checked: None,
            public: self.options.public,
            spread: None,
            cid: None,
        };
        let source = text(&file.source);
        (self.each)(PutOutcome::Stored { source, entry: Box::new(entry), new_chunks: 0 });
    }

    fn unchanged(&mut self, source: String, path: RemotePath, bytes: u64) {
        self.summary.unchanged += 1;
        self.summary.unchanged_bytes = self.summary.unchanged_bytes.saturating_add(bytes);
        self.event(Event::Here(bytes));
        self.event(Event::FilesDone(1));
        (self.each)(PutOutcome::Unchanged { source, path });
    }

    fn fail(&mut self, source: String, path: Option<RemotePath>, error: ApiError) {
        self.summary.failed += 1;
        (self.each)(PutOutcome::Failed { source, path, error });
    }

    fn event(&self, event: Event) {
        self.context.watch.event(event);
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Wraps a file's key by its vault's.
fn wrap_file_key(session: &PutSession, key: &seal::Key, seam: &Seam) -> Blob {
    Blob(seal::wrap_key(&session.keys.wrap, seal::FILE_KEY, key, seam.bytes()))
}
