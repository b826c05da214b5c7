//! `get --tar`: files and directories as a tar archive on standard output.
//!
//! An archive that ends well holds everything. What cannot be had in whole ends it within an entry, so that whoever
//! unpacks it is told too, whatever becomes of our exit code. What is put into it was proved before.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytenode::admin::Session;
use bytenode::api::{ApiResult, Entry, Kind, ListRequest};
use bytenode::get::{GetOptions, Sink};
use bytenode::path::RemotePath;
use bytenode::tree::place::{LocalTarget, place_get};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt, iter, once, unfold};
use jiff::Timestamp;
use tar::{EntryType, Header};
use tokio::io::{AsyncWrite, AsyncWriteExt, BufWriter};

use crate::commands::cat::{self, Output};
use crate::commands::{Ctx, PAGE, Typed, entry_at};
use crate::error::{Exit, Failure, Outcome};
use crate::ui::text::{plural, size};
use crate::ui::{Stream, columns};

/// What everything in an archive is a multiple of.
const BLOCK: usize = 512;

/// Runs it.
pub async fn run(ctx: &Ctx, sources: &[Typed], dry_run: bool) -> Outcome<Exit> {
    if !dry_run && columns(Stream::Out).is_some() {
        return Err(Failure::usage("an archive cannot be shown on a terminal")
            .hint("bytenode get --tar bn:/DIR - > DIR.tar, or ... | tar x"));
    }
    let session = ctx.session()?;
    let mut roots = Vec::new();
    for source in sources {
        roots.push(entry_at(&session, source).await?);
    }
    let named: Vec<_> = roots.iter().map(|entry| (entry.path.clone(), entry.kind)).collect();
    let placed = place_get(&named, &LocalTarget { path: PathBuf::new(), slash: true, kind: Some(Kind::Dir) })?;
    for place in placed {
        place?;
    }
    if dry_run {
        let files = iter(&roots).map(|root| tree(&session, root)).flatten();
        let files = files.try_filter(|entry| std::future::ready(entry.kind == Kind::File));
        let add = |(files, bytes), one: Entry| async move { Ok((files + 1, bytes + one.size)) };
        let (files, bytes) = files.try_fold((0, 0), add).await?;
        ctx.ui.note(&format!("Would fetch {} ({}).", plural(files, "file"), size(bytes)));
        return Ok(Exit::Done);
    }
    let drawing = cat::draw(ctx, &super::named_all(sources));
    let context = ctx.context(&session, drawing.watch())?;
    let options = GetOptions { machine: ctx.machine(), ..GetOptions::default() };
    let mut archive =
        Archive { output: BufWriter::new(Output::new()), root: RemotePath::default(), left: 0, padding: 0 };
    let write = async {
        let mut bad_replicas = 0;
        for root in &roots {
            archive.root = root.path.clone();
            let mut wanted = tree(&session, root);
            bad_replicas += bytenode::get::stream(&context, &mut wanted, &options, &mut archive).await?.bad_replicas;
        }
        ApiResult::Ok(bad_replicas)
    };
    let result = write.await;
    let ended = archive.end(result.is_ok()).await;
    if archive.output.get_ref().closed {
        return Ok(Exit::Done);
    }
    let bad_replicas = result.map_err(|error| {
        let mut failure = Failure::from(error);
        failure.message = format!("the archive is not complete: {}", failure.message);
        failure
    })?;
    ended.map_err(|error| Failure::io("standard output cannot be written", &error))?;
    if bad_replicas > 0 {
        ctx.ui.note(&super::stood_in(bad_replicas));
    }
    Ok(Exit::Done)
}

/// What is at `root`, and all that is below it, each directory before what is in it. The remote root itself is left out.
fn tree(session: &Arc<dyn Session>, root: &Entry) -> BoxStream<'static, ApiResult<Entry>> {
    let (session, path, kind) = (session.clone(), root.path.clone(), root.kind);
    let itself = (!path.is_root()).then(|| Ok(root.clone()));
    let request = ListRequest { path, recursive: true, cursor: None, limit: PAGE };
    let first = (kind == Kind::Dir).then_some(request);
    let pages = unfold(first, move |next| {
        let session = session.clone();
        async move {
            let mut request = next?;
            let page = match session.list(&request).await {
                Ok(page) => page,
                Err(error) => return Some((once(async { Err(error) }).boxed(), None)),
            };
            request.cursor = page.next_cursor;
            let next = request.cursor.is_some().then_some(request);
            Some((iter(VecDeque::from(page.items).into_iter().map(Ok)).boxed(), next))
        }
    });
    iter(itself).chain(pages.flatten()).boxed()
}

/// The archive as it is written.
struct Archive<W> {
    output: W,
    /// The source that is being written. Its parents are not told in the archive.
    root: RemotePath,
    /// Bytes of the present file that are to come, and those that fill its last block.
    left: u64,
    padding: usize,
}

#[async_trait]
impl<W: AsyncWrite + Send + Unpin> Sink for Archive<W> {
    async fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        if !entry.path.is_within(&self.root) {
            return Err(io::Error::other(format!("{} is not what was asked for", entry.path)));
        }
        let name = entry.path.segments()[self.root.segments().len().saturating_sub(1)..].join("/");
        self.output.write_all(&head(entry, &name)?).await?;
        self.left = if entry.kind == Kind::File { entry.size } else { 0 };
        self.padding = padding(self.left);
        Ok(())
    }

    async fn bytes(&mut self, plain: Bytes) -> io::Result<()> {
        self.output.write_all(&plain).await?;
        self.left = self.left.saturating_sub(plain.len() as u64);
        if self.left == 0 {
            self.output.write_all(&[0; BLOCK][..self.padding]).await?;
        }
        Ok(())
    }
}

impl<W: AsyncWrite + Send + Unpin> Archive<W> {
    /// Ends it: well, or so that it is seen to be cut off. Where an entry is over, a program that unpacks might take the
    /// end of the stream for the end of the archive; so another one is begun, of a kind that leaves nothing behind.
    async fn end(&mut self, well: bool) -> io::Result<()> {
        if well {
            self.output.write_all(&[0; 2 * BLOCK]).await?;
        } else if self.left == 0 {
            let mut cut_off = bare(EntryType::XHeader, BLOCK as u64);
            cut_off.set_path(SAID)?;
            cut_off.set_cksum();
            self.output.write_all(cut_off.as_bytes()).await?;
        }
        self.output.flush().await
    }
}

/// Bytes that fill the last block.
fn padding(length: u64) -> usize {
    let over = usize::try_from(length % BLOCK as u64).expect("less than a block");
    (BLOCK - over) % BLOCK
}

/// All that stands before the content: the header, and before it what an old one cannot say. Names are bytes, as GNU
/// writes them: of the names of the POSIX form ("pax"), programs that unpack make others. Times are of that form.
fn head(entry: &Entry, name: &str) -> io::Result<Vec<u8>> {
    let is_dir = entry.kind == Kind::Dir;
    let kind = if is_dir { EntryType::Directory } else { EntryType::Regular };
    let mut header = bare(kind, if is_dir { 0 } else { entry.size });
    header.set_mode(if is_dir || entry.executable { 0o755 } else { 0o644 });
    header.set_mtime(u64::try_from(entry.modified.as_second()).unwrap_or(0));
    let mut head = tar::Builder::new(Vec::new());
    if entry.modified.as_second() < 0 || entry.modified.subsec_nanosecond() != 0 {
        let record = record("mtime", &seconds(entry.modified));
        let mut said = bare(EntryType::XHeader, record.len() as u64);
        head.append_data(&mut said, SAID, record.as_bytes())?;
    }
    let name = if is_dir { format!("{name}/") } else { name.to_owned() };
    head.append_data(&mut header, name, io::empty())?;
    // What ends an archive is not for now.
    Ok(std::mem::take(head.get_mut()))
}

/// What an entry is called that says something about the next one.
const SAID: &str = "PaxHeaders/entry";

/// A header without a name. Nobody owns what is in an archive but who unpacks it.
fn bare(kind: EntryType, length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(length);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// `LENGTH KEY=VALUE\n`, in which the length counts its own digits.
fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

/// `-1.500000000`: seconds since 1970, exactly.
fn seconds(time: Timestamp) -> String {
    let (sign, nanos) = (if time.as_nanosecond() < 0 { "-" } else { "" }, time.as_nanosecond().unsigned_abs());
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}
