//! Many files as one stream, in their order: an archive, say.
//!
//! Files are opened in groups as by [`get`](super::get()), and those of one chunk are fetched several at a time. What is
//! held is a group's entries, [`FILES_AT_ONCE`] small files and the chunks under way of one large file.

use std::collections::HashMap;
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt, iter};

use super::fetch::{Fetcher, Span, Spanned};
use super::{FILES_AT_ONCE, GROUP_BYTES, GROUP_FILES, GetOptions, GetSummary, cannot_write, check_whole, open, small};
use crate::api::{ApiResult, Entry, Kind, OpenFile};
use crate::chunk::FileHash;
use crate::monitor::Event;
use crate::put::Context;

/// Takes files one after the other.
#[async_trait]
pub trait Sink: Send {
    /// A directory, or a file of which the bytes follow: as many as its size says, unless it is the last that comes.
    async fn entry(&mut self, entry: &Entry) -> io::Result<()>;

    /// The next bytes of the file, proved; never none.
    async fn bytes(&mut self, plain: Bytes) -> io::Result<()>;
}

/// Gives a sink everything that is wanted, in its order; `wanted` is pulled from as work goes on. What the sink gets of a
/// file is one version of it. A sink has got all bytes of a file only if they have the file's SHA-256: until this is known,
/// the last of them are held back. Nothing is given after the first failure.
///
/// # Errors
/// What the first file, the listing or the sink failed with.
pub async fn stream(
    context: &Context,
    wanted: &mut (dyn Stream<Item = ApiResult<Entry>> + Send + Unpin),
    options: &GetOptions,
    sink: &mut dyn Sink,
) -> ApiResult<GetSummary> {
    let mut summary = GetSummary::default();
    let (mut group, mut bytes) = (Vec::new(), 0u64);
    while let Some(entry) = wanted.next().await {
        let entry = entry?;
        if entry.kind == Kind::File {
            context.watch.event(Event::Found { files: 1, bytes: Some(entry.size) });
        }
        bytes = bytes.saturating_add(entry.size);
        group.push(entry);
        if group.len() >= GROUP_FILES || bytes >= GROUP_BYTES {
            give(context, std::mem::take(&mut group), options, sink, &mut summary).await?;
            bytes = 0;
        }
    }
    give(context, group, options, sink, &mut summary).await?;
    Ok(summary)
}

/// Gives one group.
async fn give(
    context: &Context,
    group: Vec<Entry>,
    options: &GetOptions,
    sink: &mut dyn Sink,
    summary: &mut GetSummary,
) -> ApiResult<()> {
    let paths: Vec<_> = group.iter().filter(|one| one.kind == Kind::File).map(|one| one.path.clone()).collect();
    if paths.is_empty() {
        for entry in &group {
            sink.entry(entry).await.map_err(|error| cannot_write(&error))?;
        }
        return Ok(());
    }
    let (fetcher, files) = open(context, paths, options).await?;
    let given = give_open(&fetcher, group, files, sink, summary).await;
    // What was bad is reported all the more when there was nothing to take its place.
    summary.bad_replicas += fetcher.finish().await;
    given
}

/// What comes next.
enum Next {
    Dir(Entry),
    Small(OpenFile, Bytes),
    Large(OpenFile),
}

async fn give_open(
    fetcher: &Fetcher<'_>,
    group: Vec<Entry>,
    files: Vec<ApiResult<OpenFile>>,
    sink: &mut dyn Sink,
    summary: &mut GetSummary,
) -> ApiResult<()> {
    let prefetched = &fetcher.small_spans(files.iter().flatten()).await?;
    let mut files = files.into_iter();
    let work = group.into_iter().map(|entry| {
        let file = if entry.kind == Kind::File { files.next() } else { None };
        async move {
            let Some(file) = file else { return ApiResult::Ok(Next::Dir(entry)) };
            let file = file?;
            if file.data_chunks() > 1 {
                return Ok(Next::Large(file));
            }
            let plain = small(fetcher, &file, prefetched.get(&file.version.0)).await?;
            Ok(Next::Small(file, plain))
        }
    });
    let mut work = iter(work).buffered(FILES_AT_ONCE);
    while let Some(next) = work.next().await {
        let file = match next? {
            Next::Dir(entry) => {
                sink.entry(&entry).await.map_err(|error| cannot_write(&error))?;
                continue;
            }
            Next::Small(file, plain) => {
                begin(fetcher, &file, sink).await?;
                write(fetcher, plain, sink).await?;
                file
            }
            Next::Large(file) => {
                begin(fetcher, &file, sink).await?;
                large(fetcher, &file, prefetched, sink).await?;
                file
            }
        };
        summary.files += 1;
        summary.bytes = summary.bytes.saturating_add(file.entry.size);
        fetcher.watch(Event::FilesDone(1));
    }
    Ok(())
}

async fn begin(fetcher: &Fetcher<'_>, file: &OpenFile, sink: &mut dyn Sink) -> ApiResult<()> {
    fetcher.watch(Event::File(file.entry.path.to_string()));
    sink.entry(&file.entry).await.map_err(|error| cannot_write(&error))
}

/// Gives a file of several chunks as they come, the last once the whole is proved.
async fn large(
    fetcher: &Fetcher<'_>,
    file: &OpenFile,
    prefetched: &HashMap<i64, Spanned>,
    sink: &mut dyn Sink,
) -> ApiResult<()> {
    let span = Span { first: 0, count: file.data_chunks() };
    let mut chunks = fetcher.chunks(file, span, prefetched.get(&file.version.0), None)?;
    let (mut hash, mut size, mut held) = (FileHash::new(), 0, Bytes::new());
    while let Some(got) = chunks.next().await {
        let plain = got?.plain;
        hash.update(&plain);
        size += plain.len() as u64;
        write(fetcher, std::mem::replace(&mut held, plain), sink).await?;
    }
    check_whole(&file.entry, size, hash)?;
    write(fetcher, held, sink).await
}

async fn write(fetcher: &Fetcher<'_>, plain: Bytes, sink: &mut dyn Sink) -> ApiResult<()> {
    let length = plain.len() as u64;
    if length > 0 {
        sink.bytes(plain).await.map_err(|error| cannot_write(&error))?;
        fetcher.watch(Event::Written(length));
    }
    Ok(())
}
