//! Every node is asked for every copy, and nothing is read: how long that takes.

use anyhow::{Result, ensure};

use crate::copies::all;
use crate::figures::{MIB, Target, aimed, part, told};
use crate::pool::Pool;
use crate::random::files;
use crate::usage::{self, Taken};
use crate::{Args, say};

/// Bytes of the small files, each of which is one chunk.
const BYTES: u64 = 256;
/// How often it is asked at least; the best counts.
const ROUNDS: u32 = 3;

/// Measures it.
pub fn measure(pool: &Pool, args: &Args) -> Result<()> {
    let missing = args.replicas.saturating_sub(all(pool)?.len() as u64).div_ceil(u64::from(args.copies));
    if missing > 0 {
        say("storing small files");
        let dir = pool.scratch().join("small");
        files(&dir, missing, BYTES)?;
        let mut put = pool.client()?;
        put.args(["-q", "put", "--replicas", &args.copies.to_string()]).arg(&dir).arg("bn:/small");
        ensure!(put.status()?.success(), "put of the small files failed");
    }
    say("health --dry-run");
    let mut best = Option::<Taken>::None;
    for _ in 0..args.rounds.max(ROUNDS) {
        let mut check = pool.client()?;
        usage::measure(check.args(["-q", "admin", "health", "--dry-run"]), &pool.pids())?.keep_best(&mut best);
    }
    let taken = best.unwrap_or_default();
    let (cpu, peak) = taken.beside.first().copied().unwrap_or_default();
    part(&format!("presence of {} copies", all(pool)?.len()));
    // What a hundred thousand copies may take.
    aimed("health --dry-run", taken.seconds, "s", Target::AtMost(5.0));
    told("coordinator CPU", cpu, "s");
    told("coordinator peak memory", peak as f64 / MIB, "MiB");
    Ok(())
}
