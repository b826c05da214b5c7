//! `check`: whether a local copy and a remote one are the same, and whether the local one may go.
//!
//! Both trees come in the same order, so one pass over both suffices, and neither is held in memory. The order is that
//! of the path's segments, byte by byte, each directory before its contents.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytenode::admin::{Session, Verdict};
use bytenode::api::{Entry, Kind, ListRequest, Sha256};
use bytenode::path::RemotePath;
use bytenode::tree::{Found, LocalFile, walk};
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::{Ctx, PAGE, entry_at, typed};
use crate::error::{Exit, Failure, Outcome};
use crate::ui::text::{count, escaped, plural, size};

/// Compare a local copy with a remote one, both ways
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode check photos bn:/photos && rm -r photos"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Temporary, Exit::Problems]),
)]
pub struct Args {
    /// A local file or directory
    #[arg(value_name = "LOCAL")]
    local: PathBuf,
    /// The remote one
    #[arg(value_name = "bn:/PATH")]
    remote: String,
}

/// How two things differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Difference {
    /// Only here.
    Missing,
    /// Only there.
    Extra,
    Kind,
    Size,
    Content,
    /// The local one cannot be read, or has no name that can be stored.
    Unreadable,
    /// There, but with fewer proved copies than wanted.
    BelowTarget,
}

impl Difference {
    const fn told(self) -> &'static str {
        match self {
            Self::Missing => "only here",
            Self::Extra => "only there",
            Self::Kind => "other kind",
            Self::Size => "other size",
            Self::Content => "other content",
            Self::Unreadable => "not readable",
            Self::BelowTarget => "too few copies",
        }
    }

    /// Whether deleting the local copy could lose something.
    const fn is_unsafe(self) -> bool {
        !matches!(self, Self::Extra)
    }
}

#[derive(Serialize)]
struct DifferenceRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    path: Option<&'a RemotePath>,
    source: Option<String>,
    difference: Difference,
}

#[derive(Debug, Default, Serialize)]
struct Sums {
    #[serde(rename = "type")]
    kind: &'static str,
    files: u64,
    bytes: u64,
    differences: u64,
    skipped: u64,
    safe_to_delete: bool,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let place = typed(&args.remote)?;
    let session = ctx.session()?;
    std::fs::metadata(&args.local)
        .map_err(|error| Failure::io(format!("cannot read {}", args.local.display()), &error))?;
    let top = if place.path.is_root() { None } else { Some(entry_at(&session, &place).await?) };
    let mut remote = match top {
        Some(file) if file.kind == Kind::File => Remote::of_file(file),
        dir => Remote::of_tree(session.clone(), place.path.clone(), dir),
    };
    let mut sums = Sums { kind: "summary", ..Sums::default() };
    let mut unsafe_ones = 0;
    let mut tell = |sums: &mut Sums, path: Option<&RemotePath>, source: Option<&Path>, difference: Difference| {
        sums.differences += 1;
        unsafe_ones += u64::from(difference.is_unsafe());
        let shown = match (source, path) {
            (Some(source), _) => source.display().to_string(),
            (None, path) => path.map(ToString::to_string).unwrap_or_default(),
        };
        ctx.ui.data(&format!("{}: {}", escaped(&shown), difference.told()))?;
        let source = source.map(|source| source.display().to_string());
        ctx.ui.record(&DifferenceRecord { kind: "difference", path, source, difference })
    };
    let mut local = walk(args.local.clone(), place.path).peekable();
    loop {
        let order = match (local.peek().map(place_of), remote.peek().await?.map(|entry| &entry.path)) {
            (None, None) => break,
            (Some(None), _) | (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(Some(here)), Some(there)) => here.cmp(there),
        };
        let here = if order == Ordering::Greater { None } else { local.next() };
        let there = if order == Ordering::Less { None } else { remote.next() };
        match compare(ctx, here.as_ref(), there.as_ref(), &mut sums).await? {
            None => {}
            Some(difference) => {
                let path = there.as_ref().map(|entry| &entry.path).or(here.as_ref().and_then(place_of));
                tell(&mut sums, path, here.as_ref().and_then(source_of), difference)?;
            }
        }
    }
    conclude(ctx, &session, sums, unsafe_ones).await
}

/// Says whether the local copy may go; asks the nodes before it says yes.
async fn conclude(ctx: &Ctx, session: &Arc<dyn Session>, mut sums: Sums, unsafe_ones: u64) -> Outcome<Exit> {
    let mut why = String::new();
    if unsafe_ones > 0 {
        why = format!(" ({} not safely stored)", plural(unsafe_ones, "file"));
    } else if session.status().await?.verdict != Verdict::Healthy {
        why = " (the pool is not healthy now; see: bytenode status)".into();
    }
    sums.safe_to_delete = why.is_empty();
    ctx.ui.note(&format!(
        "Compared {} ({}): {}.",
        plural(sums.files, "file"),
        size(sums.bytes),
        if sums.differences == 0 { "no difference".into() } else { plural(sums.differences, "difference") }
    ));
    if sums.skipped > 0 {
        let skipped = count(sums.skipped);
        ctx.ui.note(&format!("note: left out, and not stored: {skipped} (symbolic links or special files)"));
    }
    ctx.ui.data(&format!("safe to delete the local copy: {}{why}", if sums.safe_to_delete { "yes" } else { "no" }))?;
    ctx.ui.record(&sums)?;
    Ok(if sums.differences == 0 && sums.safe_to_delete { Exit::Done } else { Exit::Problems })
}

fn place_of(found: &Found) -> Option<&RemotePath> {
    match found {
        Found::Dir { to } | Found::Skipped { to, .. } => Some(to),
        Found::File(file) => Some(&file.to),
        Found::Failed { to, .. } => to.as_ref(),
    }
}

fn source_of(found: &Found) -> Option<&Path> {
    match found {
        Found::Dir { .. } => None,
        Found::Skipped { source, .. } | Found::Failed { source, .. } => Some(source),
        Found::File(file) => Some(&file.source),
    }
}

/// The difference between what is here and there under one path.
async fn compare(
    ctx: &Ctx,
    here: Option<&Found>,
    there: Option<&Entry>,
    sums: &mut Sums,
) -> Outcome<Option<Difference>> {
    let difference = match (here, there) {
        (Some(Found::Failed { .. }), _) => Some(Difference::Unreadable),
        (Some(Found::Skipped { .. }), there) => {
            sums.skipped += 1;
            there.map(|_| Difference::Extra)
        }
        (Some(_), None) => Some(Difference::Missing),
        (None, there) => there.map(|_| Difference::Extra),
        (Some(Found::Dir { .. }), Some(entry)) => (entry.kind != Kind::Dir).then_some(Difference::Kind),
        (Some(Found::File(_)), Some(entry)) if entry.kind != Kind::File => Some(Difference::Kind),
        (Some(Found::File(file)), Some(entry)) => compare_files(ctx, file, entry).await,
    };
    if let Some(Found::File(file)) = here {
        sums.files += 1;
        sums.bytes += file.size;
    }
    Ok(difference)
}

async fn compare_files(ctx: &Ctx, file: &LocalFile, entry: &Entry) -> Option<Difference> {
    if file.size != entry.size {
        return Some(Difference::Size);
    }
    let source = file.source.clone();
    match ctx.seam.offload(move || hash(&source)).await {
        Err(_) => Some(Difference::Unreadable),
        Ok(sha256) if Some(sha256) != entry.sha256 => Some(Difference::Content),
        Ok(_) if entry.copies_min.is_some_and(|copies| copies < entry.copies_target) => Some(Difference::BelowTarget),
        Ok(_) => None,
    }
}

/// The SHA-256 of a local file.
pub fn hash(path: &Path) -> std::io::Result<Sha256> {
    let mut file = std::fs::File::open(path)?;
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        context.update(&buffer[..length]);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(Sha256(digest))
}

/// The remote side, page by page.
struct Remote {
    /// Where further pages come from; nothing for a file.
    source: Option<(Arc<dyn Session>, RemotePath)>,
    entries: VecDeque<Entry>,
    cursor: Option<String>,
    last: bool,
}

impl Remote {
    fn of_file(file: Entry) -> Self {
        Self { source: None, entries: VecDeque::from([file]), cursor: None, last: true }
    }

    fn of_tree(session: Arc<dyn Session>, path: RemotePath, top: Option<Entry>) -> Self {
        Self { source: Some((session, path)), entries: top.into_iter().collect(), cursor: None, last: false }
    }

    async fn peek(&mut self) -> Outcome<Option<&Entry>> {
        while self.entries.is_empty() && !self.last {
            let Some((session, path)) = &self.source else { break };
            let request = ListRequest { path: path.clone(), recursive: true, cursor: self.cursor.take(), limit: PAGE };
            let page = session.list(&request).await?;
            self.entries = page.items.into();
            self.last = page.next_cursor.is_none();
            self.cursor = page.next_cursor;
        }
        Ok(self.entries.front())
    }

    fn next(&mut self) -> Option<Entry> {
        self.entries.pop_front()
    }
}
