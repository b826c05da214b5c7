//! A pool that really holds what its catalog says, in chunks so small that many fit: what its coordinator does while
//! nobody asks it anything, and what it costs to ask all nodes for all copies, as it does by itself now and then.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytenode::admin::{Admin, HealthRequest, Verdict};
use bytenode::path::RemotePath;
use bytenode::seam::Seam;

use crate::calls::{Putter, Steps};
use crate::pool::Pool;
use crate::say;
use crate::table::Row;
use crate::usage::{cpu, peak};

/// Chunks of a file.
const CHUNKS: u64 = 1000;
/// Files that are put at once.
const AT_ONCE: u64 = 4;

/// Sees to it that there is such a pool, and watches its coordinator for so long.
pub async fn run(dir: &Path, chunks: u64, watch: Duration) -> Result<(Vec<Row>, String)> {
    let files = chunks.div_ceil(CHUNKS);
    let what = format!("{} chunks, each of them stored 3 times", files * CHUNKS);
    let mark = dir.join("made");
    let mut pool = match std::fs::read_to_string(&mark) {
        Ok(found) => {
            ensure!(found == what, "{} holds {found}: remove it, or give another directory", dir.display());
            Pool::start(dir)?
        }
        Err(_) => {
            ensure!(!dir.exists(), "{} is there, but was not made to its end: remove it", dir.display());
            let pool = Pool::make(dir)?;
            fill(&pool, files).await?;
            std::fs::write(&mark, &what)?;
            pool
        }
    };
    pool.stop_coordinator()?;
    let start = pool.start_coordinator()?;
    say("watching");
    let pid = pool.coordinator_pid();
    let (before, begun, at_start) = (cpu(&pid.to_string()).0, Instant::now(), peak(pid));
    let mut steps = Vec::new();
    while begun.elapsed() < watch {
        let then = cpu(&pid.to_string()).0;
        tokio::time::sleep(Duration::from_secs(10).min(watch.saturating_sub(begun.elapsed()))).await;
        steps.push(cpu(&pid.to_string()).0 - then);
    }
    let (used, watched) = (cpu(&pid.to_string()).0 - before, begun.elapsed());
    let most = steps.iter().copied().fold(0.0, f64::max);
    let at_rest = peak(pid);
    say("a check");
    let (then, begun_check) = (cpu(&pid.to_string()).0, Instant::now());
    let report = pool.client()?.health(&HealthRequest::default()).await?;
    ensure!(report.verdict == Verdict::Healthy && report.chunks == files * CHUNKS, "{report:?}");
    let (check, check_cpu) = (begun_check.elapsed(), cpu(&pid.to_string()).0 - then);
    let rows = vec![
        Row::one("start", start.as_secs_f64() * 1e3, Some(1000.0), "ms"),
        Row::one("CPU at rest", used / watched.as_secs_f64() * 100.0, Some(0.5), "% of a core"),
        Row::one("  CPU", used, None, "s"),
        Row::one("  most in ten seconds", most, None, "s"),
        Row::mib("peak memory when started", at_start, 64),
        Row::mib("peak memory at rest", at_rest, 64),
        Row::one("one check of all copies", check.as_secs_f64(), None, "s"),
        Row::one("  CPU", check_cpu, None, "s"),
        Row::mib("peak memory with it", peak(pid), 64),
    ];
    pool.stop()?;
    Ok((rows, format!("{what}, at rest for {} s", watch.as_secs())))
}

async fn fill(pool: &Pool, files: u64) -> Result<()> {
    say("storing chunks");
    let (client, seam) = (pool.client()?, Seam::real());
    let mut next = 0;
    while next < files {
        let some = next..files.min(next + AT_ONCE);
        next = some.end;
        let puts = some.map(|file| {
            let putter = Putter::new(&client, &seam);
            async move {
                let path: RemotePath = format!("bn:/{:03}/{file:07}", file / 1000).parse().context("a path")?;
                putter.put(&path, usize::try_from(CHUNKS)?, &mut Steps::default()).await
            }
        });
        futures_util::future::try_join_all(puts).await?;
    }
    Ok(())
}
