//! Get: chunks from nodes become local files, proved.
//!
//! Files are opened at the coordinator in groups, their chunks fetched a bounded number at a time, each proved and
//! unsealed, and written in order to a temporary file beside the destination. A group is then synced, renamed and its
//! directories synced, with those on the way to them. A file appears under its name only whole, with the SHA-256 that the
//! catalog has.

mod copies;
mod fetch;
mod local;
mod pace;
mod stream;
mod temporary;

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::{StreamExt, iter};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::api::{ApiError, ApiResult, Code, Entry, OpenFile, OpenRead};
use crate::buffers;
use crate::chunk::FileHash;
use crate::files;
use crate::monitor::Event;
use crate::path::RemotePath;
use crate::put::{Context, Overwrite};
use fetch::{Fetcher, Got, Span};
pub(crate) use local::hash_local;
pub use stream::{Sink, stream};
use temporary::{Dirs, Temporary, lasting_path};

/// Files opened together at most.
const GROUP_FILES: usize = crate::api::MAX_FILES;
/// Plaintext bytes after which a group is closed.
const GROUP_BYTES: u64 = 64 << 20;
/// Directories that a group writes into, at most: each is held open, of which systems allow few.
const GROUP_DIRS: usize = 128;
/// Files of a group worked on at once.
const FILES_AT_ONCE: usize = 8;

/// How to get.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// What to do where a local file is already.
    pub overwrite: Overwrite,
    /// Change nothing.
    pub dry_run: bool,
    /// Names this machine and its start, for the coordinator.
    pub machine: String,
}

/// A file to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The remote file.
    pub entry: Entry,
    /// The local file that it becomes.
    pub dest: PathBuf,
}

/// What became of one file.
#[derive(Debug)]
pub enum GetOutcome {
    /// It is there, proved and synced (or, dry, would be fetched).
    Fetched {
        /// The remote file.
        entry: Box<Entry>,
        /// The local file.
        dest: PathBuf,
    },
    /// The content is there already.
    Unchanged {
        /// The remote file.
        path: RemotePath,
        /// The local file.
        dest: PathBuf,
    },
    /// It is not there.
    Failed {
        /// The remote file.
        path: RemotePath,
        /// The local file.
        dest: PathBuf,
        /// Why.
        error: ApiError,
    },
}

/// Sums of a get.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GetSummary {
    /// Files fetched.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Copies that were missing or wrong, and that another copy stood in for.
    pub bad_replicas: u64,
    /// Files that failed.
    pub failed: u64,
    /// Files whose content was there.
    pub unchanged: u64,
    /// Bytes of the fetched files that an interrupted get had left.
    pub resumed_bytes: u64,
}

/// Fetches files. `wanted` is pulled from as work goes on. Parents of destinations must exist. A file appears under its
/// name only whole, proved by its SHA-256 and synced; modification time and execute bit are restored. What is told of as
/// there outlives a power loss, with every directory on the way to it in which this user could have made the next. Of a
/// file of several chunks, a get that ends early leaves what it has in a temporary file, which the next get of the same
/// goes on with after proving it; all others that were left in the directories of the destinations are removed.
///
/// # Errors
/// Only what ends the whole get.
pub async fn get(
    context: &Context,
    wanted: Box<dyn Iterator<Item = Wanted> + Send>,
    options: &GetOptions,
    each: &mut (dyn FnMut(GetOutcome) + Send),
) -> ApiResult<GetSummary> {
    let mut getter = Getter { context, options, each, summary: GetSummary::default(), dirs: Dirs::default() };
    let mut group = Vec::new();
    let mut bytes = 0;
    for one in wanted {
        let dest = one.dest.clone();
        if !options.dry_run {
            getter.dirs.enter(&context.seam, &dest).await;
        }
        context.watch.event(Event::Found { files: 1, bytes: Some(one.entry.size) });
        if let Some(one) = getter.look(one).await {
            bytes = one.entry.size.saturating_add(bytes);
            group.push(one);
        }
        if group.len() >= GROUP_FILES || bytes >= GROUP_BYTES || getter.dirs.count() >= GROUP_DIRS {
            getter.group(std::mem::take(&mut group)).await?;
            getter.dirs.leave_but(&context.seam, Some(&dest)).await;
            bytes = 0;
        }
    }
    getter.group(group).await?;
    getter.dirs.leave_but(&context.seam, None).await;
    Ok(getter.summary)
}

/// Makes a directory and those on the way to it that are missing. Of one that is there it makes nothing. A get that puts a
/// file into it makes their names durable.
///
/// # Errors
/// When the file system refuses one, or something else has its name.
pub fn make_dirs(dir: &Path) -> std::io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent() {
        make_dirs(above)?;
    }
    match files::create_dir(&std::fs::DirBuilder::new(), dir) {
        // Another get made it meanwhile.
        Err(_) if dir.is_dir() => Ok(()),
        made => made,
    }
}

struct Getter<'a> {
    context: &'a Context,
    options: &'a GetOptions,
    each: &'a mut (dyn FnMut(GetOutcome) + Send),
    summary: GetSummary,
    dirs: Dirs,
}

impl Getter<'_> {
    /// Gives back what must be fetched.
    async fn look(&mut self, one: Wanted) -> Option<Wanted> {
        match local::look(self.context, &one, self.options.overwrite).await {
            local::Look::Fetch => return Some(one),
            local::Look::Unchanged => {
                if !self.options.dry_run
                    && let Err(error) = self.dirs.settle(&self.context.seam, &one.dest).await
                {
                    let error = local::cannot(&one.dest, "sync the directory of", &error);
                    self.fail(one, error);
                    return None;
                }
                self.summary.unchanged += 1;
                self.context.watch.event(Event::Here(one.entry.size));
                self.context.watch.event(Event::FilesDone(1));
                (self.each)(GetOutcome::Unchanged { path: one.entry.path, dest: one.dest });
            }
            local::Look::Refuse(error) => self.fail(one, error),
        }
        None
    }

    fn fail(&mut self, one: Wanted, error: ApiError) {
        self.summary.failed += 1;
        (self.each)(GetOutcome::Failed { path: one.entry.path, dest: one.dest, error });
    }

    async fn group(&mut self, group: Vec<Wanted>) -> ApiResult<()> {
        if self.options.dry_run {
            for one in group {
                self.done(one);
            }
            return Ok(());
        }
        if group.is_empty() {
            return Ok(());
        }
        let paths: Vec<RemotePath> = group.iter().map(|one| one.entry.path.clone()).collect();
        let (fetcher, opened) = open(self.context, paths, self.options).await?;
        let prefetched = fetcher.small_spans(opened.iter().flatten()).await?;
        let dirs = &mut self.dirs;
        let work = group.into_iter().zip(opened).map(|(mut one, opened)| {
            let (fetcher, prefetched) = (&fetcher, &prefetched);
            let lasting = opened.as_ref().ok().and_then(|file| lasting_path(&one.dest, file));
            if let Some(lasting) = &lasting {
                dirs.keep(lasting);
            }
            async move {
                let fetched = match opened {
                    Ok(file) => {
                        // Another version, perhaps, than was listed.
                        one.entry = file.entry.clone();
                        let prefetched = prefetched.get(&file.version.0);
                        match lasting {
                            None => fetch_small(fetcher, &one.dest, &file, prefetched).await,
                            Some(lasting) => fetch_file(fetcher, &one.dest, lasting, &file, prefetched).await,
                        }
                    }
                    Err(error) => Err(error),
                };
                (one, fetched)
            }
        });
        let fetched: Vec<_> = iter(work).buffered(FILES_AT_ONCE).collect().await;
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        for (one, fetched) in fetched {
            match fetched {
                Ok((temporary, resumed)) => {
                    self.summary.resumed_bytes += resumed;
                    whole.push((one, temporary));
                }
                Err(error) => rest.push((one, error)),
            }
        }
        for (one, put) in local::put_in_place(&self.context.seam, &mut self.dirs, whole, self.options.overwrite).await {
            match put {
                Ok(()) => self.done(one),
                Err(error) => rest.push((one, error)),
            }
        }
        for (one, error) in rest {
            self.fail(one, error);
        }
        self.summary.bad_replicas += fetcher.finish().await;
        Ok(())
    }

    fn done(&mut self, one: Wanted) {
        self.summary.files += 1;
        self.summary.bytes = self.summary.bytes.saturating_add(one.entry.size);
        self.context.watch.event(Event::FilesDone(1));
        (self.each)(GetOutcome::Fetched { entry: Box::new(one.entry), dest: one.dest });
    }
}

/// Opens files for reading: each of those that were asked for, in their order, or why it cannot be read.
async fn open<'a>(
    context: &'a Context,
    paths: Vec<RemotePath>,
    options: &GetOptions,
) -> ApiResult<(Fetcher<'a>, Vec<ApiResult<OpenFile>>)> {
    let request = OpenRead { machine: options.machine.clone(), paths: paths.clone() };
    let session = context.api.open_read(&request).await?;
    let fetcher = Fetcher::new(context, request, &session);
    if session.files.len() != paths.len() {
        return Err(ApiError::new(Code::Internal, "the coordinator did not answer for every file"));
    }
    let asked = |(file, path): (ApiResult<OpenFile>, RemotePath)| match file {
        Ok(file) if file.entry.path != path => {
            let what = format!("the coordinator opened {} in its place", file.entry.path);
            Err(ApiError::new(Code::Internal, what))
        }
        other => other,
    };
    Ok((fetcher, session.files.into_iter().zip(paths).map(asked).collect()))
}

/// Fetches one file of at most one chunk, and proves it whole.
async fn small(fetcher: &Fetcher<'_>, file: &OpenFile, prefetched: Option<&fetch::Spanned>) -> ApiResult<Bytes> {
    let mut plain = Bytes::new();
    let mut chunks = fetcher.chunks(file, Span { first: 0, count: file.data_chunks() }, prefetched, None)?;
    while let Some(got) = chunks.next().await {
        plain = got?.plain;
    }
    let mut hash = FileHash::new();
    hash.update(&plain);
    check_whole(&file.entry, plain.len() as u64, hash)?;
    Ok(plain)
}

/// Fetches one file of at most one chunk, proves it whole, and then makes its temporary file.
async fn fetch_small(
    fetcher: &Fetcher<'_>,
    dest: &Path,
    file: &OpenFile,
    prefetched: Option<&fetch::Spanned>,
) -> ApiResult<(Temporary, u64)> {
    fetcher.watch(Event::File(file.entry.path.to_string()));
    let plain = small(fetcher, file, prefetched).await?;
    fetcher.watch(Event::Written(plain.len() as u64));
    Ok((Temporary::whole(fetcher.seam(), dest, plain).await?, 0))
}

/// Fetches one file into its temporary file, and proves it whole. Gives how many bytes were in it already.
async fn fetch_file(
    fetcher: &Fetcher<'_>,
    dest: &Path,
    lasting: PathBuf,
    file: &OpenFile,
    prefetched: Option<&fetch::Spanned>,
) -> ApiResult<(Temporary, u64)> {
    let mut temporary = Temporary::create(fetcher.seam(), dest, lasting).await?;
    fetcher.watch(Event::File(file.entry.path.to_string()));
    let kept = temporary.kept();
    // Bytes at the beginning that were there; known once something else comes.
    let mut resumed = kept.is_none().then_some(0);
    let mut hash = FileHash::new();
    let mut size = 0;
    let mut chunks = fetcher.chunks(file, Span { first: 0, count: file.data_chunks() }, prefetched, kept)?;
    while let Some(got) = chunks.next().await {
        let Got { plain, kept } = got?;
        let length = plain.len() as u64;
        hash.update(&plain);
        if resumed.is_none() && !kept {
            temporary.cut(fetcher.seam(), size).await?;
            resumed = Some(size);
        }
        if resumed.is_none() {
            fetcher.watch(Event::Here(length));
        } else {
            temporary.write(fetcher.seam(), plain).await?;
            fetcher.watch(Event::Written(length));
        }
        size += length;
    }
    drop(chunks);
    if resumed.is_none() {
        temporary.cut(fetcher.seam(), size).await?;
    }
    check_whole(&file.entry, size, hash).inspect_err(|_| temporary.give_up())?;
    temporary.close(fetcher.seam()).await?;
    Ok((temporary, resumed.unwrap_or(size)))
}

fn check_whole(entry: &Entry, size: u64, hash: FileHash) -> ApiResult<()> {
    let right = size == entry.size && entry.sha256.is_some_and(|whole| whole.0 == hash.finish());
    if right { Ok(()) } else { Err(not_whole(entry)) }
}

fn not_whole(entry: &Entry) -> ApiError {
    ApiError::new(Code::Integrity, format!("{} does not have the SHA-256 that it was stored with", entry.path))
        .hint("bytenode admin health --read")
}

/// Writes a range of one file's plaintext, in order; only proved bytes, so a failure stops at the last proved one.
/// `length` of nothing means to the end. Reads no chunk that the range does not touch. A range that is the whole file is
/// an error in the end unless it has the file's SHA-256.
///
/// # Errors
/// What the file or the output fails with.
pub async fn cat(
    context: &Context,
    path: &RemotePath,
    offset: u64,
    length: Option<u64>,
    options: &GetOptions,
    output: &mut (dyn AsyncWrite + Send + Unpin),
) -> ApiResult<GetSummary> {
    let (fetcher, mut files) = open(context, vec![path.clone()], options).await?;
    let written = match files.remove(0) {
        Ok(file) => {
            let end = length.map_or(file.entry.size, |length| offset.saturating_add(length).min(file.entry.size));
            write_range(&fetcher, &file, offset..end, output).await
        }
        Err(error) => Err(error),
    };
    // What was bad is reported all the more when there was nothing to take its place.
    let bad_replicas = fetcher.finish().await;
    Ok(GetSummary { files: 1, bytes: written?, bad_replicas, ..GetSummary::default() })
}

async fn write_range(
    fetcher: &Fetcher<'_>,
    file: &OpenFile,
    range: Range<u64>,
    output: &mut (dyn AsyncWrite + Send + Unpin),
) -> ApiResult<u64> {
    let (mut hash, mut written) = (FileHash::new(), 0);
    if !range.is_empty() {
        let chunk_size = u64::from(file.chunk_size.max(1));
        let first = range.start / chunk_size;
        let span = Span { first, count: range.end.div_ceil(chunk_size) - first };
        let mut at = first * chunk_size;
        let mut chunks = fetcher.chunks(file, span, None, None)?;
        while let Some(got) = chunks.next().await {
            let plain = got?.plain;
            let from = usize::try_from(range.start.saturating_sub(at)).unwrap_or(usize::MAX).min(plain.len());
            let to = usize::try_from(range.end.saturating_sub(at)).unwrap_or(usize::MAX).min(plain.len());
            output.write_all(&plain[from..to]).await.map_err(|error| cannot_write(&error))?;
            hash.update(&plain[from..to]);
            written += (to - from) as u64;
            at += plain.len() as u64;
            buffers::give(plain);
            fetcher.watch(Event::Written((to - from) as u64));
        }
    }
    output.flush().await.map_err(|error| cannot_write(&error))?;
    let whole = written == file.entry.size;
    let is_it = !whole || file.entry.sha256.is_some_and(|sha256| sha256.0 == hash.finish());
    if is_it && written == range.end.saturating_sub(range.start) { Ok(written) } else { Err(not_whole(&file.entry)) }
}

/// The code keeps a broken pipe apart from other failures: its message is exactly `broken pipe`.
fn cannot_write(error: &std::io::Error) -> ApiError {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return ApiError::new(Code::Internal, "broken pipe");
    }
    ApiError::new(Code::Internal, format!("cannot write the output: {error}"))
}
