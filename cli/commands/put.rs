//! `put`: store files and directories.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytenode::api::{Code, Kind};
use bytenode::path::RemotePath;
use bytenode::put::{Overwrite, PutOptions, PutOutcome, PutSummary};
use bytenode::tree::place::{Source, Target, local_name, place_put};
use bytenode::tree::{Found, walk};
use clap::ValueEnum;
use serde::Serialize;
use tokio::io::AsyncRead;

use crate::args::{examples, exits};
use crate::commands::get::REPLACE;
use crate::commands::{Ctx, Typed, kind_at, typed};
use crate::credentials::Credentials;
use crate::error::{Exit, Failure, Outcome, Tally, code_of};
use crate::program::Program;
use crate::ui::progress::{self, Way};
use crate::ui::text::{count, percent_of, plural, size, size_of};
use crate::ui::{FailedRecord, Ui};
use crate::unfinished::Unfinished;

/// Store files and directories
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "bytenode put [OPTIONS] SRC... [bn:/DEST]\n       bytenode put [OPTIONS] --from-command bn:/FILE -- PROGRAM...",
    before_help = examples(&[
        "bytenode put photos bn:/              a directory, as bn:/photos",
        "bytenode put photos bn:/pictures      its contents become those of bn:/pictures",
        "bytenode put a.raw b.raw bn:/photos/  several files, into a directory",
        "tar c work | bytenode put - bn:/work.tar",
        "bytenode put --from-command bn:/db.sql -- pg_dump mydb",
        "                                      what a program prints, unless the program fails",
    ]),
    after_help = exits(&[
        Exit::Partly, Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary, Exit::Integrity,
        Exit::TooFewNodes, Exit::BelowTarget,
    ]),
)]
pub struct Args {
    /// Local files and directories, or - for standard input; last where they go (default: into bn:/)
    #[arg(required_unless_present = "more", value_name = "SRC... [bn:/DEST]", num_args = 1..)]
    operands: Vec<OsString>,
    /// Store what a program prints: bn:/FILE -- PROGRAM ARGUMENTS...; if it fails, nothing is stored
    #[arg(long, conflicts_with = "dry_run")]
    from_command: bool,
    /// With --from-command, the program and its arguments; else more operands, which may begin with a dash
    #[arg(last = true, hide = true)]
    more: Vec<OsString>,
    /// Copies of every chunk, on as many nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    replicas: Option<u32>,
    /// Store plain blocks that any IPFS node can serve, instead of sealed ones
    #[arg(long)]
    public: bool,
    /// What to do with a file that is there with other content
    #[arg(long, value_enum, default_value_t = OverwriteArg::Never, value_name = "WHEN")]
    overwrite: OverwriteArg,
    /// Change nothing; say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[arg(short = 'r', hide = true)]
    recursive: bool,
}

/// [`Overwrite`] as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OverwriteArg {
    /// Leave equal content, refuse other content
    Never,
    /// Replace
    Always,
    /// Leave what has the same size and time unread, replace other content
    IfChanged,
}

impl From<OverwriteArg> for Overwrite {
    fn from(arg: OverwriteArg) -> Self {
        match arg {
            OverwriteArg::Never => Self::Never,
            OverwriteArg::Always => Self::Always,
            OverwriteArg::IfChanged => Self::IfChanged,
        }
    }
}

impl Args {
    /// One source to one place, as the demo does it.
    pub fn of(source: &Path, dest: &str) -> Self {
        Self {
            operands: vec![source.into(), dest.into()],
            from_command: false,
            more: Vec::new(),
            replicas: None,
            public: false,
            overwrite: OverwriteArg::Never,
            dry_run: false,
            recursive: false,
        }
    }
}

/// What is put where, as typed.
#[derive(Debug, PartialEq, Eq)]
struct Operands {
    sources: Vec<Operand>,
    dest: Typed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    Input,
    Program(Vec<OsString>),
    Local(PathBuf),
}

impl Operand {
    /// As it is shown, and named in JSON.
    fn text(&self) -> String {
        match self {
            Self::Input => "-".into(),
            Self::Program(words) => words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "),
            Self::Local(path) => path.display().to_string(),
        }
    }
}

/// What `--from-command` stores, and where.
fn program(given: &[OsString], words: &[OsString]) -> Outcome<Operands> {
    let wrong =
        |what: &str| Err(Failure::usage(what).hint("bytenode put --from-command bn:/FILE -- PROGRAM ARGUMENTS..."));
    if words.is_empty() {
        return wrong("--from-command needs a program after --");
    }
    let [dest] = given else { return wrong("--from-command needs one remote file before --") };
    let Some(dest) = dest.to_str().filter(|dest| dest.starts_with("bn:")) else {
        return wrong("--from-command stores a remote file, whose path begins with bn:/");
    };
    Ok(Operands { sources: vec![Operand::Program(words.to_vec())], dest: typed(dest)? })
}

fn operands(given: &[OsString]) -> Outcome<Operands> {
    let remote = |operand: &OsString| operand.as_encoded_bytes().starts_with(b"bn:");
    let (sources, dest) = match given.split_last() {
        Some((last, before)) if remote(last) => {
            let last = last.to_str().ok_or_else(|| Failure::usage("a remote path must be UTF-8"))?;
            (before, typed(last)?)
        }
        _ => (given, Typed { path: RemotePath::root(), slash: true }),
    };
    if sources.is_empty() {
        return Err(Failure::usage("nothing to put: name a local file or directory").hint("bytenode put FILE bn:/"));
    }
    if let Some(wrong) = sources.iter().find(|source| remote(source)) {
        let wrong = wrong.to_string_lossy();
        return Err(Failure::usage(format!("{wrong} is a remote path, and only the last operand of put may be one"))
            .hint(format!("a local file of that name is written ./{wrong}; within the pool use: bytenode cp")));
    }
    let sources = sources
        .iter()
        .map(|source| if source == "-" { Operand::Input } else { Operand::Local(unslashed(Path::new(source))) })
        .collect();
    Ok(Operands { sources, dest })
}

/// A path without the slash at its end, which means nothing for a source.
fn unslashed(path: &Path) -> PathBuf {
    path.components().collect()
}

fn described(operand: &Operand) -> Source {
    let Operand::Local(path) = operand else { return Source::Input };
    let kind = if path.is_dir() { Kind::Dir } else { Kind::File };
    let resolved = path.canonicalize().ok();
    Source::Local { shown: path.display().to_string(), name: local_name(path, resolved.as_deref()), kind }
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let Operands { sources, dest } = match args.from_command {
        true => program(&args.operands, &args.more)?,
        false => operands(&[&args.operands[..], &args.more].concat())?,
    };
    if sources.contains(&Operand::Input) && std::io::stdin().is_terminal() {
        return Err(Failure::usage("standard input is a terminal: there is nothing to store")
            .hint("pipe something into it, as in: tar c DIR | bytenode put - bn:/dir.tar"));
    }
    // What is wrong whatever the pool holds is told before anybody is asked.
    let described: Vec<Source> = sources.iter().map(described).collect();
    let mut target = Target { path: dest.path, slash: dest.slash, kind: None };
    if target.slash {
        place_put(&described, &target)?;
    }
    let session = ctx.session()?;
    let endless = !sources.iter().all(|source| matches!(source, Operand::Local(_)));
    let unfinished = begun(ctx, &sources, &target, args);
    target.kind = kind_at(&session, &target.path).await?;
    let placed = place_put(&described, &target)?;
    let mut report = Report::new(&ctx.ui, args.dry_run);
    let mut walks: Vec<(PathBuf, RemotePath)> = Vec::new();
    let mut input = None;
    for (source, place) in sources.into_iter().zip(placed) {
        match (source, place) {
            (Operand::Local(path), Ok(to)) => match std::fs::symlink_metadata(&path) {
                Ok(_) => walks.push((path, to)),
                Err(error) => report.refused(&Operand::Local(path), &Failure::new(code_of(&error), error.to_string())),
            },
            (source, Ok(to)) => input = Some((source, to)),
            (source, Err(error)) => report.refused(&source, &error.into()),
        }
    }
    let name = progress_name(&walks);
    let drawing = progress::start(&ctx.ui, &name, Way::Put);
    let context = ctx.context(&session, drawing.watch())?;
    let options = PutOptions {
        replicas: args.replicas,
        public: args.public,
        overwrite: args.overwrite.into(),
        dry_run: args.dry_run,
        machine: ctx.machine(),
    };
    let started = Instant::now();
    let result = match input {
        Some((source, to)) => {
            let now = ctx.seam.now();
            let stream: Box<dyn AsyncRead + Send + Unpin> = match &source {
                Operand::Program(words) => Box::new(Program::start(words)?),
                _ => Box::new(tokio::io::stdin()),
            };
            let name = source.text();
            bytenode::put::put_stream(&context, stream, &name, &to, now, &options, &mut |one| report.take(one)).await
        }
        None => {
            let found: Box<dyn Iterator<Item = Found> + Send> =
                Box::new(walks.into_iter().flat_map(|(path, to)| walk(path, to)));
            bytenode::put::put(&context, found, &options, &mut |one| report.take(one)).await
        }
    };
    let summary = result?;
    drawing.finish(&verified(&summary));
    let resumed = Resumed { again: unfinished.as_ref().is_some_and(Unfinished::again), endless };
    unfinished.into_iter().for_each(Unfinished::end);
    report.finish(&summary, started.elapsed().as_secs_f64(), resumed)
}

/// Notes that this put begins: the same sources to the same place at the same coordinator. Not for a pool that is gone
/// afterwards.
fn begun(ctx: &Ctx, sources: &[Operand], target: &Target, args: &Args) -> Option<Unfinished> {
    if args.dry_run || ctx.open.is_some() {
        return None;
    }
    let url = Credentials::load(&ctx.profile.dirs.state).ok().and_then(|credentials| ctx.url(&credentials));
    let (url, dest) = (url.unwrap_or_default(), target.path.to_string());
    let how = format!("{:?} {} {}", args.replicas, args.public, target.slash);
    let paths: Vec<PathBuf> = sources
        .iter()
        .map(|source| match source {
            Operand::Input => PathBuf::new(),
            Operand::Program(words) => words.iter().collect(),
            Operand::Local(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
        })
        .collect();
    let mut words = vec![url.as_bytes(), dest.as_bytes(), how.as_bytes()];
    words.extend(paths.iter().map(|path| path.as_os_str().as_encoded_bytes()));
    Some(Unfinished::begin(&ctx.profile.dirs.state, &words))
}

/// What is known of an earlier run of the same put.
#[derive(Debug, Clone, Copy)]
struct Resumed {
    /// It was begun before, and did not end.
    again: bool,
    /// How long its input is was not known before its end.
    endless: bool,
}

fn progress_name(walks: &[(PathBuf, RemotePath)]) -> String {
    match walks {
        [] => "standard input".into(),
        [(path, to)] => path.file_name().map_or_else(|| to.to_string(), |name| name.to_string_lossy().into_owned()),
        several => plural(several.len() as u64, "source"),
    }
}

fn verified(summary: &PutSummary) -> String {
    match summary.copies_min {
        Some(copies) => format!("verified {copies} of {} copies", summary.copies_target),
        None => "verified".into(),
    }
}

/// Tells what becomes of each file, and the sum.
struct Report {
    ui: Arc<Ui>,
    dry_run: bool,
    tally: Tally,
    output: Outcome<()>,
    /// Whether something was refused since another thing is there.
    taken: bool,
}

#[derive(Serialize)]
struct FileRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    path: &'a RemotePath,
    source: &'a str,
    size: u64,
    sha256: Option<String>,
    cid: Option<&'a str>,
    chunks: u64,
    new_chunks: u64,
    copies_min: Option<u32>,
    copies_target: u32,
}

/// The line about something that was left out.
#[derive(Serialize)]
pub struct SkippedRecord<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub path: &'a RemotePath,
    pub source: &'a str,
    pub reason: &'a str,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    files: u64,
    bytes: u64,
    sent_bytes: u64,
    seconds: f64,
    failed: u64,
    skipped: u64,
    unchanged: u64,
    resumed_bytes: u64,
    dry_run: bool,
}

impl Report {
    fn new(ui: &Arc<Ui>, dry_run: bool) -> Self {
        Self { ui: ui.clone(), dry_run, tally: Tally::default(), output: Ok(()), taken: false }
    }

    fn refused(&mut self, source: &Operand, failure: &Failure) {
        self.failed(None, &source.text(), failure.exit, failure.code, &failure.message);
    }

    fn failed(&mut self, path: Option<&RemotePath>, source: &str, exit: Exit, code: &str, message: &str) {
        self.tally.bad(exit);
        self.taken |= code == Code::Exists.as_str();
        // The message may name the source itself.
        self.ui.failed(source, message.strip_prefix(&format!("cannot read {source}: ")).unwrap_or(message));
        let record = FailedRecord::new(path.map(ToString::to_string), Some(source), code, message);
        self.keep(|ui| ui.record(&record));
    }

    /// Standard output that fails is told at the end; storing goes on.
    fn keep(&mut self, print: impl FnOnce(&Ui) -> Outcome<()>) {
        if self.output.is_ok() {
            self.output = print(&self.ui);
        }
    }

    fn take(&mut self, outcome: PutOutcome) {
        match outcome {
            PutOutcome::Stored { source, entry, new_chunks } => {
                self.tally.good();
                let record = FileRecord {
                    kind: "file",
                    path: &entry.path,
                    source: &source,
                    size: entry.size,
                    sha256: entry.sha256.map(|sha256| sha256.to_string()),
                    cid: entry.cid.as_deref(),
                    chunks: entry.chunks,
                    new_chunks,
                    copies_min: entry.copies_min,
                    copies_target: entry.copies_target,
                };
                self.keep(|ui| ui.record(&record));
            }
            PutOutcome::Unchanged { source, path } => {
                self.tally.good();
                self.skipped(&path, &source, "unchanged");
            }
            PutOutcome::Skipped { source, path, reason } => self.skipped(&path, &source, reason),
            PutOutcome::Failed { source, path, error } => {
                // Only what has no name that can be stored has no path.
                let exit = if path.is_none() { Exit::Partly } else { Exit::of(error.code) };
                self.failed(path.as_ref(), &source, exit, error.code.as_str(), &error.message);
            }
        }
    }

    fn skipped(&mut self, path: &RemotePath, source: &str, reason: &str) {
        let record = SkippedRecord { kind: "skipped", path, source, reason };
        self.keep(|ui| ui.record(&record));
    }

    fn finish(mut self, summary: &PutSummary, seconds: f64, resumed: Resumed) -> Outcome<Exit> {
        let record = SummaryRecord {
            kind: "summary",
            files: summary.files,
            bytes: summary.bytes,
            sent_bytes: summary.sent_bytes,
            seconds,
            failed: self.tally.failed(),
            skipped: summary.skipped,
            unchanged: summary.unchanged,
            resumed_bytes: if resumed.again { here(summary) } else { 0 },
            dry_run: self.dry_run,
        };
        self.keep(|ui| ui.record(&record));
        self.output?;
        if resumed.again {
            resumed_line(summary, resumed.endless).iter().for_each(|line| self.ui.note(line));
        }
        for line in sentences(summary, self.tally.failed(), self.dry_run) {
            self.ui.note(&line);
        }
        if self.taken {
            self.ui.note(REPLACE);
        }
        let below = summary.copies_min.is_some_and(|copies| copies < summary.copies_target) && !self.dry_run;
        Ok(match self.tally.exit() {
            Exit::Done if below => Exit::BelowTarget,
            exit => exit,
        })
    }
}

/// Bytes that this put found stored.
fn here(summary: &PutSummary) -> u64 {
    summary.here_bytes.saturating_add(summary.unchanged_bytes)
}

/// What was there of a put that was interrupted, if anything.
fn resumed_line(summary: &PutSummary, endless: bool) -> Option<String> {
    let (here, all) = (here(summary), summary.bytes.saturating_add(summary.unchanged_bytes));
    (here > 0).then(|| match endless {
        true => format!("resumed: {} already stored", size(here)),
        false => format!("resumed: {} already stored ({})", size_of(here, all), percent_of(here, all)),
    })
}

/// The result for people.
fn sentences(summary: &PutSummary, failed: u64, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if summary.files > 0 {
        let verb = if dry_run { "Would store" } else { "Stored" };
        let mut line = format!("{verb} {} ({})", plural(summary.files, "file"), size(summary.bytes));
        if summary.chunks > 0 {
            line.push_str(&format!(" as {}", plural(summary.chunks, "chunk")));
            if let (Some(copies), false) = (summary.copies_min, dry_run) {
                let each = if copies == 1 { "1 copy".into() } else { format!("{} copies", count(u64::from(copies))) };
                line.push_str(&format!(", {each} each"));
                if summary.nodes > 0 {
                    line.push_str(&format!(" on {}", plural(u64::from(summary.nodes), "node")));
                }
            }
        }
        match summary.chunks_here {
            0 => {}
            1 => line.push_str("; 1 chunk was here already"),
            here => line.push_str(&format!("; {} chunks were here already", count(here))),
        }
        lines.push(line + ".");
    }
    let mut others = Vec::new();
    if summary.unchanged > 0 {
        others.push(format!("{} unchanged", plural(summary.unchanged, "file")));
    }
    if summary.skipped > 0 {
        others.push(format!("{} left out (symbolic link or special file)", count(summary.skipped)));
    }
    if failed > 0 {
        others.push(format!("{} failed", count(failed)));
    }
    match (others.is_empty(), summary.files) {
        (false, _) => lines.push(others.join(", ") + "."),
        (true, 0) => lines.push("There was no file to store.".into()),
        (true, _) => {}
    }
    if !dry_run {
        if summary.copies_min.is_some_and(|copies| copies < summary.copies_target) {
            lines.push(format!(
                "note: fewer copies than the target of {} for now; the coordinator makes the others as soon as nodes allow.",
                summary.copies_target
            ));
        }
        if summary.not_spread > 0 && summary.nodes > 1 {
            lines.push(format!(
                "note: some node holds every chunk of {}; with more nodes, none would.",
                plural(summary.not_spread, "file")
            ));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(given: &[&str]) -> Outcome<(usize, String, bool)> {
        let given: Vec<OsString> = given.iter().map(OsString::from).collect();
        operands(&given).map(|read| (read.sources.len(), read.dest.path.to_string(), read.dest.slash))
    }

    #[test]
    fn the_last_operand_may_be_remote() {
        assert_eq!(read(&["a"]), Ok((1, "bn:/".into(), true)));
        assert_eq!(read(&["a", "./bn:x", "bn:/d"]), Ok((2, "bn:/d".into(), false)));
        assert_eq!(read(&["-", "bn:/d/"]), Ok((1, "bn:/d".into(), true)));
        assert!(read(&["bn:/d"]).unwrap_err().message.starts_with("nothing to put"));
        assert_eq!(read(&["bn:/a", "bn:/d"]).unwrap_err().exit, Exit::Usage);
        assert_eq!(read(&["a", "bn:d"]).unwrap_err().hint.unwrap(), "did you mean bn:/d?");
    }

    #[test]
    fn what_was_there_of_an_interrupted_put_is_told() {
        let mut summary = PutSummary { bytes: 5 << 30, here_bytes: (3 << 30) + (100 << 20), ..PutSummary::default() };
        assert_eq!(resumed_line(&summary, false).unwrap(), "resumed: 3.1 of 5.0 GiB already stored (61 %)");
        assert_eq!(resumed_line(&summary, true).unwrap(), "resumed: 3.1 GiB already stored");
        summary = PutSummary { bytes: 1000, unchanged_bytes: 999_000, ..PutSummary::default() };
        assert_eq!(resumed_line(&summary, false).unwrap(), "resumed: 975.6 of 976.6 KiB already stored (99 %)");
        assert_eq!(resumed_line(&PutSummary { bytes: 5, ..PutSummary::default() }, false), None);
    }

    #[test]
    fn the_result_reads_as_a_sentence() {
        let mut summary = PutSummary {
            files: 1204,
            bytes: 3_328_599_654,
            chunks: 3391,
            chunks_here: 214,
            copies_min: Some(3),
            copies_target: 3,
            nodes: 5,
            ..PutSummary::default()
        };
        assert_eq!(
            sentences(&summary, 0, false),
            ["Stored 1,204 files (3.1 GiB) as 3,391 chunks, 3 copies each on 5 nodes; 214 chunks were here already."]
        );
        summary = PutSummary { unchanged: 2, skipped: 1, copies_target: 3, ..PutSummary::default() };
        assert_eq!(
            sentences(&summary, 1, false),
            ["2 files unchanged, 1 left out (symbolic link or special file), 1 failed."]
        );
        summary = PutSummary { files: 1, chunks: 1, copies_min: Some(2), copies_target: 3, ..PutSummary::default() };
        assert_eq!(sentences(&summary, 0, false).len(), 2);
        assert_eq!(sentences(&PutSummary::default(), 0, false), ["There was no file to store."]);
    }
}
