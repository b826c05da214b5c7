//! `get`: fetch files and directories.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytenode::api::{Code, Kind};
use bytenode::get::{GetOptions, GetOutcome, GetSummary};
use bytenode::path::RemotePath;
use bytenode::tree::place::{LocalTarget, place_get};
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::put::{OverwriteArg, SkippedRecord};
use crate::commands::{Ctx, Typed, cat, entry_at, no_json, typed};
use crate::error::{Exit, Failure, Outcome, Tally};
use crate::ui::progress::{self, Way};
use crate::ui::text::{count, percent_of, plural, size, size_of};
use crate::ui::{FailedRecord, Ui};

mod archive;
mod lister;

use lister::Lister;

/// Fetch files and directories
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode get bn:/photos                 a directory, as ./photos",
        "bytenode get bn:/photos pictures        its contents become those of ./pictures",
        "bytenode get bn:/a.raw bn:/b.raw /tmp/  several files, into a directory",
        "bytenode get bn:/work.tar - | tar t",
        "bytenode get --tar bn:/photos - | ssh elsewhere tar x",
    ]),
    after_help = exits(&[
        Exit::Partly, Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary, Exit::Integrity,
        Exit::TooFewNodes,
    ]),
)]
pub struct Args {
    /// Remote files and directories; last where they go, or - for standard output (default: .)
    #[arg(required = true, value_name = "bn:/SRC... [DEST]", num_args = 1..)]
    operands: Vec<OsString>,
    /// What to do with a local file that is there with other content
    #[arg(long, value_enum, default_value_t = OverwriteArg::Never, value_name = "WHEN")]
    overwrite: OverwriteArg,
    /// Write a tar archive of files and directories to standard output; DEST is -
    #[arg(long, conflicts_with = "overwrite")]
    tar: bool,
    /// Change nothing; say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[arg(short = 'r', hide = true)]
    recursive: bool,
}

impl Args {
    /// One source to one place, as the demo does it.
    pub fn of(source: &str, dest: &Path) -> Self {
        let operands = vec![source.into(), dest.into()];
        Self { operands, overwrite: OverwriteArg::Never, tar: false, dry_run: false, recursive: false }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Dest {
    Output,
    Local(PathBuf),
}

fn operands(given: &[OsString]) -> Outcome<(Vec<Typed>, Option<Dest>)> {
    let remote = |operand: &OsString| operand.as_encoded_bytes().starts_with(b"bn:");
    let (sources, dest) = match given.split_last() {
        Some((last, before)) if !remote(last) && !before.is_empty() => {
            (before, Some(if last == "-" { Dest::Output } else { Dest::Local(last.into()) }))
        }
        _ => (given, None),
    };
    let read = |source: &OsString| typed(source.to_str().ok_or_else(|| Failure::usage("a remote path must be UTF-8"))?);
    let sources: Vec<Typed> = sources.iter().map(read).collect::<Outcome<_>>()?;
    if dest.is_none() && sources.iter().any(|source| source.path.is_root()) {
        return Err(Failure::usage("bn:/ has no name of its own: say where it goes").hint("bytenode get bn:/ DIR"));
    }
    Ok((sources, dest))
}

/// A destination on disk as typed: a slash, `.` and `..` name a directory and no new thing.
fn local_target(path: &Path) -> LocalTarget {
    let bytes = path.as_os_str().as_encoded_bytes();
    let slash = bytes.ends_with(b"/") || (cfg!(windows) && bytes.ends_with(b"\\"));
    let dots = bytes == b"." || bytes.ends_with(b"/.") || path.file_name().is_none();
    let kind = fs::metadata(path).ok().map(|metadata| if metadata.is_dir() { Kind::Dir } else { Kind::File });
    LocalTarget { path: path.to_owned(), slash: slash || dots, kind }
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let (sources, dest) = operands(&args.operands)?;
    if args.tar {
        no_json(&ctx.ui, "--tar")?;
        if dest != Some(Dest::Output) {
            return Err(Failure::usage("--tar writes to standard output: the destination must be -")
                .hint("bytenode get --tar bn:/DIR - > DIR.tar"));
        }
        return archive::run(ctx, &sources, args.dry_run).await;
    }
    let dest = match dest {
        Some(Dest::Output) => return to_output(ctx, args, &sources).await,
        Some(Dest::Local(path)) => path,
        None => PathBuf::from("."),
    };
    let session = ctx.session()?;
    let report = Arc::new(Report::new(&ctx.ui, args.dry_run));
    let mut found = Vec::new();
    for source in &sources {
        match entry_at(&session, source).await {
            Ok(entry) => found.push(entry),
            Err(failure) if sources.len() > 1 && failure.exit != Exit::Temporary => {
                report.failed(&source.path, None, &failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    let target = local_target(&dest);
    // How many were asked for decides, not how many were found.
    let several = LocalTarget { slash: target.slash || sources.len() > 1, ..target.clone() };
    if sources.len() > 1 && !target.slash && target.kind != Some(Kind::Dir) {
        let error = bytenode::tree::place::PlaceError::NeedsDirectory(dest.display().to_string());
        return Err(error.into());
    }
    let named: Vec<_> = found.iter().map(|entry| (entry.path.clone(), entry.kind)).collect();
    let placed = place_get(&named, &several)?;
    let mut roots = Vec::new();
    for (entry, place) in found.into_iter().zip(placed) {
        match place {
            Ok(dest) => roots.push((entry, dest)),
            Err(error) => report.failed(&entry.path, None, &error.into()),
        }
    }
    let drawing = progress::start(&ctx.ui, &named_all(&sources), Way::Get);
    let context = ctx.context(&session, drawing.watch())?;
    let options = GetOptions { overwrite: args.overwrite.into(), dry_run: args.dry_run, machine: ctx.machine() };
    let started = Instant::now();
    let (lister, broken) = Lister::new(session, roots, report.clone(), args.dry_run);
    let taken = report.clone();
    let summary = bytenode::get::get(&context, Box::new(lister), &options, &mut |one| taken.take(one)).await?;
    if let Some(failure) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(failure);
    }
    drawing.finish("");
    report.finish(&summary, started.elapsed().as_secs_f64())
}

/// What progress calls it.
fn named_all(sources: &[Typed]) -> String {
    match sources {
        [one] => one.path.name().unwrap_or("bn:/").to_owned(),
        several => plural(several.len() as u64, "source"),
    }
}

async fn to_output(ctx: &Ctx, args: &Args, sources: &[Typed]) -> Outcome<Exit> {
    no_json(&ctx.ui, "standard output as destination")?;
    let [one] = sources else {
        return Err(Failure::usage("standard output takes one file")
            .hint("bytenode cat bn:/A bn:/B, or as an archive: bytenode get --tar bn:/A bn:/B -"));
    };
    if args.dry_run {
        let entry = entry_at(&ctx.session()?, one).await?;
        ctx.ui.note(&format!("Would fetch 1 file ({}).", size(entry.size)));
        return Ok(Exit::Done);
    }
    cat::stream(ctx, std::slice::from_ref(one), 0, None).await
}

/// Tells what becomes of each file, and the sum.
#[derive(Debug)]
pub struct Report {
    ui: Arc<Ui>,
    dry_run: bool,
    state: Mutex<(Tally, Outcome<()>)>,
    /// Whether something was refused since another thing is there.
    taken: AtomicBool,
}

#[derive(Serialize)]
struct FileRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    path: &'a RemotePath,
    size: u64,
    sha256: Option<String>,
    dest: &'a str,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    files: u64,
    bytes: u64,
    seconds: f64,
    bad_replicas: u64,
    failed: u64,
    skipped: u64,
    unchanged: u64,
    resumed_bytes: u64,
    dry_run: bool,
}

impl Report {
    fn new(ui: &Arc<Ui>, dry_run: bool) -> Self {
        Self { ui: ui.clone(), dry_run, state: Mutex::new((Tally::default(), Ok(()))), taken: AtomicBool::new(false) }
    }

    /// Counts one outcome and prints its record. Standard output that fails is told at the end; fetching goes on.
    fn count(&self, result: Result<(), Exit>, record: &impl Serialize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => state.0.good(),
            Err(exit) => state.0.bad(exit),
        }
        if state.1.is_ok() {
            state.1 = self.ui.record(record);
        }
    }

    /// Tells that one thing could not be fetched.
    pub fn failed(&self, path: &RemotePath, dest: Option<&Path>, failure: &Failure) {
        self.ui.failed(&path.to_string(), &failure.message);
        self.taken.fetch_or(failure.code == Code::Exists.as_str(), Ordering::Relaxed);
        let dest = dest.map(|dest| dest.display().to_string());
        let record = FailedRecord::new(Some(path.to_string()), dest.as_deref(), failure.code, &failure.message);
        self.count(Err(failure.exit), &record);
    }

    fn take(&self, outcome: GetOutcome) {
        match outcome {
            GetOutcome::Fetched { entry, dest } => {
                let (sha256, dest) = (entry.sha256.map(|sha256| sha256.to_string()), dest.display().to_string());
                let record = FileRecord { kind: "file", path: &entry.path, size: entry.size, sha256, dest: &dest };
                self.count(Ok(()), &record);
            }
            GetOutcome::Unchanged { path, dest } => {
                let source = dest.display().to_string();
                self.count(
                    Ok(()),
                    &SkippedRecord { kind: "skipped", path: &path, source: &source, reason: "unchanged" },
                );
            }
            GetOutcome::Failed { path, dest, error } => self.failed(&path, Some(&dest), &error.into()),
        }
    }

    fn finish(&self, summary: &GetSummary, seconds: f64) -> Outcome<Exit> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1.clone()?;
        let failed = state.0.failed();
        self.ui.record(&SummaryRecord {
            kind: "summary",
            files: summary.files,
            bytes: summary.bytes,
            seconds,
            bad_replicas: summary.bad_replicas,
            failed,
            skipped: 0,
            unchanged: summary.unchanged,
            resumed_bytes: summary.resumed_bytes,
            dry_run: self.dry_run,
        })?;
        for line in sentences(summary, failed, self.dry_run) {
            self.ui.note(&line);
        }
        if self.taken.load(Ordering::Relaxed) {
            self.ui.note(REPLACE);
        }
        Ok(state.0.exit())
    }
}

/// What to do where something else is in the way.
pub const REPLACE: &str = "hint: add --overwrite always to replace what is there";

/// That some copies could not be read. Whether they are wrong or only out of reach, health finds out.
pub fn stood_in(copies: u64) -> String {
    let copies = plural(copies, "copy");
    format!("note: {copies} could not be read, others stood in; to see why: bytenode admin health --dry-run")
}

fn sentences(summary: &GetSummary, failed: u64, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if summary.resumed_bytes > 0 {
        let (here, all) = (summary.resumed_bytes, summary.bytes);
        lines.push(format!("resumed: {} already here ({})", size_of(here, all), percent_of(here, all)));
    }
    if summary.files > 0 {
        let verb = if dry_run { "Would fetch" } else { "Fetched" };
        let proved = if dry_run { "" } else { ", every byte proved" };
        lines.push(format!("{verb} {} ({}){proved}.", plural(summary.files, "file"), size(summary.bytes)));
    }
    let mut others = Vec::new();
    if summary.unchanged > 0 {
        others.push(format!("{} unchanged", plural(summary.unchanged, "file")));
    }
    if failed > 0 {
        others.push(format!("{} failed", count(failed)));
    }
    match (others.is_empty(), summary.files) {
        (false, _) => lines.push(others.join(", ") + "."),
        (true, 0) => lines.push("There was no file to fetch.".into()),
        (true, _) => {}
    }
    if summary.bad_replicas > 0 {
        lines.push(stood_in(summary.bad_replicas));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_operand_may_be_local() {
        let read = |given: &[&str]| operands(&given.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(read(&["bn:/a"]).unwrap().1, None);
        assert_eq!(read(&["bn:/a", "x"]).unwrap().1, Some(Dest::Local("x".into())));
        assert_eq!(read(&["bn:/a", "-"]).unwrap().1, Some(Dest::Output));
        assert_eq!(read(&["bn:/", "x"]).unwrap().0.len(), 1);
        assert!(read(&["bn:/"]).unwrap_err().message.contains("no name"));
        assert!(read(&["a"]).unwrap_err().message.contains("not a remote path"));
        assert!(read(&["a", "bn:/x"]).is_err());
    }

    #[test]
    fn dots_and_slashes_name_a_directory() {
        for (path, slash) in [(".", true), ("..", true), ("a/..", true), ("a/.", true), ("a/", true), ("a", false)] {
            assert_eq!(local_target(Path::new(path)).slash, slash, "{path}");
        }
    }
}
