//! A coordinator with a large catalog that nobody asks anything: what it uses.
//!
//! Its catalog is filled by hand, as the example `catalog` does it. The nodes do not hold what its rows say: they are asked
//! for it only at the end, when it is seen what a check costs that finds everything gone. With copies that are really there,
//! `catalog --stored` watches too.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::figures::{MIB, Target, aimed, part, told};
use crate::pool::Pool;
use crate::rows;
use crate::shape::Shape;
use crate::usage::{cpu, peak, resident};
use crate::{Args, COPIES, say};

/// Chunks of a file in the catalog.
const CHUNKS: u64 = 10;
/// How long it may be watched in seconds: ten minutes after its start a coordinator checks all copies.
const LONGEST: u64 = 540;
/// The exit code of a check of a pool that is not healthy.
const NOT_HEALTHY: i32 = 12;

/// Measures it.
pub async fn measure(args: &Args) -> Result<()> {
    ensure!(args.watch <= LONGEST, "at most {LONGEST} s can be watched");
    ensure!(args.nodes >= COPIES, "its catalog has {COPIES} copies of each chunk");
    say("starting another pool");
    let mut pool = Pool::start("healing-idle", args.kind, args.nodes, "", args.dir.as_deref())?;
    let shape = Shape { files: args.idle_chunks.div_ceil(CHUNKS), chunks: CHUNKS };
    pool.restart("", |catalog| rows::fill(catalog, shape))?;
    say("watching");
    let pid = pool.coordinator_pid();
    let (before, begun) = (cpu(&pid.to_string()).0, Instant::now());
    tokio::time::sleep(Duration::from_secs(args.watch)).await;
    let used = (cpu(&pid.to_string()).0 - before) / begun.elapsed().as_secs_f64();
    part(&format!("at rest for {} s, {} chunks in the catalog", args.watch, shape.files * shape.chunks));
    aimed("coordinator CPU", used * 100.0, "%", Target::AtMost(0.5));
    aimed("coordinator memory", resident(pid) as f64 / MIB, "MiB", Target::AtMost(64.0));
    told("coordinator peak memory", peak(pid) as f64 / MIB, "MiB");
    say("health --dry-run");
    // All copies of all chunks are gone: no check of as many finds more.
    let mut check = pool.client()?;
    let begun = Instant::now();
    let ended =
        check.args(["-q", "admin", "health", "--dry-run"]).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    ensure!(ended.code() == Some(NOT_HEALTHY), "the check ended with {ended}");
    part("a check that finds none of these copies");
    told("health --dry-run", begun.elapsed().as_secs_f64(), "s");
    told("coordinator peak memory", peak(pid) as f64 / MIB, "MiB");
    Ok(())
}
