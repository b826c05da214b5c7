//! `demo`: the whole story, in a throwaway pool: store a file, lose two nodes, get it back, repair.
//!
//! Calls the same code as the real commands. Nothing of the user's own profile is read or changed, and every process
//! ends with this one, however this one ends.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytenode::admin::{FindingKind, HealthRequest, Session};
use bytenode::api::{Code, Entry};
use bytenode::space::Space;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::{Ctx, admin::health, check::hash, get, put, stat};
use crate::error::{Exit, Failure, Outcome};
use crate::pool::Ground;
use crate::pool::process::{Bond, Launched};
use crate::session;
use crate::ui::text::{escaped, plural, shown, size};

/// Bytes of the file made on the spot.
const BYTES: u64 = 64 << 20;
/// Copies that the pool makes, and a file's share of the disk: the file, its copies, two more for the repair, the result.
const SHARES: u64 = 8;
/// Nodes that are lost.
const KILLED: usize = 2;

/// See it work: store a file, lose two nodes, get it back, repair
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode demo", "bytenode demo film.mkv --nodes 7"]),
    after_help = exits(&[Exit::NotFound, Exit::Integrity, Exit::TooFewNodes, Exit::Problems]),
)]
pub struct Args {
    /// The file to store (default: 64 MiB of random bytes made on the spot)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..=32))]
    nodes: u32,
}

#[derive(Serialize)]
struct StepRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    ok: bool,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    ok: bool,
    seconds: f64,
}

/// A pool that goes when this goes: its processes are tied to this one, its directory is removed.
struct Stage {
    coordinator: Launched,
    nodes: Vec<(String, Launched)>,
    home: tempfile::TempDir,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for launched in self.nodes.iter_mut().map(|(_, node)| node).chain([&mut self.coordinator]) {
            // One that has ended already is what is wanted.
            let _ = launched.child.kill();
            let _ = launched.child.wait();
        }
    }
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let started = Instant::now();
    let home = tempfile::Builder::new()
        .prefix("bytenode-demo-")
        .tempdir()
        .map_err(|error| Failure::io("cannot make a temporary directory", &error))?;
    let file = match &args.file {
        Some(file) => local_file(file)?,
        None => home.path().join("random.bin"),
    };
    let bytes = if args.file.is_some() { length(&file)? } else { BYTES };
    check_space(home.path(), bytes)?;
    if args.file.is_none() {
        make(ctx, &file)?;
    }
    say(ctx, &format!("A throwaway pool in {}:", shown(home.path())));
    let (stage, session) = build(home, args.nodes).await.map_err(|mut failure| {
        // The log that it points to goes with the rest.
        failure.hint = None;
        failure
    })?;
    say(
        ctx,
        &format!(
            "started a coordinator and {} in {:.1} s",
            plural(u64::from(args.nodes), "node"),
            started.elapsed().as_secs_f64()
        ),
    );
    step(ctx, "start", Exit::Done)?;
    let demo = Ctx { open: Some(session), ..ctx.clone() };
    let kept = story(&demo, stage, &file, bytes).await?;
    let seconds = started.elapsed().as_secs_f64();
    drop(kept);
    say(ctx, &format!("\nEverything is cleaned up. It took {seconds:.1} s. To keep a pool: bytenode up"));
    ctx.ui.record(&SummaryRecord { kind: "summary", ok: true, seconds })?;
    Ok(Exit::Done)
}

/// Put, show, lose, get, compare, repair, show. Gives the stage back to be cleaned up.
async fn story(ctx: &Ctx, mut stage: Stage, file: &Path, bytes: u64) -> Outcome<Stage> {
    let quiet = told_quietly(ctx);
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("file").to_owned();
    let remote = format!("bn:/{name}");
    let (name_shown, remote_shown) = (escaped(&name), escaped(&remote));
    say(ctx, &format!("\n$ bytenode put {name_shown} bn:/"));
    let begun = Instant::now();
    step(ctx, "put", put::run(&quiet, &put::Args::of(file, "bn:/")).await?)?;
    rate(ctx, "stored, every copy proved", bytes, begun);
    say(ctx, &format!("\n$ bytenode stat {remote_shown}"));
    step(ctx, "stat", stat::run(&quiet, &stat::Args::of(&remote)).await?)?;

    let mut killed = Vec::new();
    for (name, mut node) in stage.nodes.drain(..KILLED) {
        node.child
            .kill()
            .and_then(|()| node.child.wait())
            .map_err(|error| Failure::io("cannot kill a node", &error))?;
        killed.push(name);
    }
    say(ctx, &format!("\nkilled {}", killed.join(" and ")));

    let back = stage.home.path().join("back.bin");
    say(ctx, &format!("\n$ bytenode get {remote_shown} back.bin"));
    let begun = Instant::now();
    step(ctx, "get", get::run(&quiet, &get::Args::of(&remote, &back)).await?)?;
    rate(ctx, "fetched from the nodes that are left", bytes, begun);
    compare(ctx, file, &back).await?;

    say(ctx, "\n$ bytenode admin health --now");
    let begun = Instant::now();
    // Two nodes stay away, which is a problem that remains; what counts is whether every chunk has its copies again.
    let exit = health::run(&quiet, &health::Args::now()).await?;
    let left = ctx.session()?.health(&HealthRequest { dry_run: true, now: true, read: false }).await?;
    let whole = left.findings.iter().all(|finding| finding.kind == FindingKind::Offline);
    step(ctx, "repair", verdict(whole, exit))?;
    say(ctx, &format!("repaired in {:.1} s, by copying from the nodes that are left", begun.elapsed().as_secs_f64()));
    say(ctx, &format!("\n$ bytenode stat {remote_shown}"));
    step(ctx, "stat", stat::run(&quiet, &stat::Args::of(&remote)).await?)?;
    let entry =
        ctx.session()?.stat(&remote.parse().map_err(|error: bytenode::path::PathError| Failure::from(error))?).await?;
    step(ctx, "copies", verdict(has_its_copies(&entry), Exit::BelowTarget))?;
    Ok(stage)
}

/// Done if all is well; else the reason, which is never that it is done.
fn verdict(well: bool, reason: Exit) -> Exit {
    match (well, reason) {
        (true, _) => Exit::Done,
        (false, Exit::Done) => Exit::Problems,
        (false, reason) => reason,
    }
}

/// Whether a file is known to have the copies that it wants.
fn has_its_copies(entry: &Entry) -> bool {
    entry.copies_min.is_some_and(|copies| copies >= entry.copies_target)
}

/// With `--json`, the commands within must not print records of their own.
fn told_quietly(ctx: &Ctx) -> Ctx {
    let ui = if ctx.ui.json { Arc::new(ctx.ui.muted()) } else { ctx.ui.clone() };
    Ctx { ui, ..ctx.clone() }
}

/// A line of the story: on standard output, where the parts of it that the commands print are.
fn say(ctx: &Ctx, line: &str) {
    // A closed output is no reason to stop.
    let _ = ctx.ui.data(line);
}

fn rate(ctx: &Ctx, what: &str, bytes: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rate = (bytes as f64 / seconds.max(0.001)) as u64;
    say(ctx, &format!("{what}: {} in {seconds:.1} s, {}/s", size(bytes), size(rate)));
}

/// Goes on only if a step went well.
fn step(ctx: &Ctx, name: &str, exit: Exit) -> Outcome<()> {
    ctx.ui.record(&StepRecord { kind: "step", name, ok: exit == Exit::Done })?;
    if exit == Exit::Done {
        return Ok(());
    }
    let mut failure = Failure::other(format!("the demo failed at {name}: {}", exit.meaning()));
    failure.exit = exit;
    Err(failure)
}

async fn compare(ctx: &Ctx, file: &Path, back: &Path) -> Outcome<()> {
    let (one, two) = (file.to_owned(), back.to_owned());
    let (one, two) = ctx.seam.offload(move || (hash(&one), hash(&two))).await;
    let wrong = |error: &std::io::Error| Failure::io("cannot compare", error);
    let (one, two) = (one.map_err(|error| wrong(&error))?, two.map_err(|error| wrong(&error))?);
    ctx.ui.record(&StepRecord { kind: "step", name: "compare", ok: one == two })?;
    if one != two {
        return Err(Failure::new(Code::Integrity, format!("the file came back different: {one} became {two}")));
    }
    say(ctx, &format!("sha256 {one}: the same, byte for byte"));
    Ok(())
}

fn local_file(file: &Path) -> Outcome<PathBuf> {
    let path = file.canonicalize().map_err(|error| Failure::io(format!("cannot read {}", file.display()), &error))?;
    if !path.is_file() {
        return Err(Failure::usage(format!("{} is not a file", file.display())));
    }
    Ok(path)
}

fn length(file: &Path) -> Outcome<u64> {
    let metadata =
        fs::metadata(file).map_err(|error| Failure::io(format!("cannot read {}", file.display()), &error))?;
    Ok(metadata.len())
}

fn make(ctx: &Ctx, file: &Path) -> Outcome<()> {
    let write = || -> std::io::Result<()> {
        let mut out = File::create(file)?;
        let mut buffer = vec![0; 1 << 20];
        for _ in 0..BYTES >> 20 {
            ctx.seam.fill(&mut buffer);
            out.write_all(&buffer)?;
        }
        Ok(())
    };
    write().map_err(|error| Failure::io(format!("cannot write {}", file.display()), &error))
}

/// Refuses before anything starts when the disk could not hold it: nodes keep a reserve free.
#[cfg(unix)]
fn check_space(dir: &Path, bytes: u64) -> Outcome<()> {
    let disk = Space::of(dir).map_err(|error| Failure::io("cannot see how much room there is", &error))?;
    let reserve = (1 << 30).max(disk.total_bytes / 20);
    let free = disk.free_bytes.saturating_sub(reserve);
    let needed = bytes.saturating_mul(SHARES);
    if free >= needed {
        return Ok(());
    }
    let message =
        format!("the demo needs {} in {}, and {} are free beyond the reserve", size(needed), dir.display(), size(free));
    Err(Failure::new(Code::NoRoom, message).hint("set TMPDIR to a directory on a larger disk"))
}

/// Nothing is started here.
#[cfg(not(unix))]
fn check_space(_dir: &Path, _bytes: u64) -> Outcome<()> {
    Err(Failure::other("the demo runs on Linux and macOS"))
}

async fn build(home: tempfile::TempDir, nodes: u32) -> Outcome<(Stage, Arc<dyn Session>)> {
    let ground = Ground { data: home.path().join("data"), logs: home.path().join("log"), bond: Bond::Tied };
    let coordinator = ground.coordinator(None).await?;
    let url = coordinator.process.url.clone();
    let mut stage = Stage { coordinator, nodes: Vec::new(), home };
    for number in 1..=nodes {
        let name = format!("n{number}");
        let node = ground.node(&name, None).await?;
        stage.nodes.push((name, node));
    }
    let session = session::connect(&url, ground.admin_token()?.expose())?;
    for (name, node) in &stage.nodes {
        ground.join(&session, name, &node.process.url).await?;
    }
    Ok((stage, session))
}

#[cfg(test)]
mod tests {
    use bytenode::api::Kind;

    use super::*;

    /// A file of which nobody knows the copies counted as one that has them, and a repair that left something to do
    /// could end in "the demo failed at repair: done", or as done.
    #[test]
    fn what_is_not_known_to_be_well_is_a_failure() {
        let entry = |copies_min| Entry {
            path: "bn:/a".parse().unwrap(),
            kind: Kind::File,
            size: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
            executable: false,
            sha256: None,
            version: None,
            chunks: 1,
            copies_min,
            copies_target: 3,
            checked: None,
            public: false,
            spread: None,
            cid: None,
        };
        assert!(has_its_copies(&entry(Some(3))));
        assert!(!has_its_copies(&entry(Some(2))) && !has_its_copies(&entry(None)));
        assert_eq!(verdict(true, Exit::Problems), Exit::Done);
        assert_eq!(verdict(false, Exit::Done), Exit::Problems);
        assert_eq!(verdict(false, Exit::BelowTarget), Exit::BelowTarget);
    }
}
