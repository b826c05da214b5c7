//! Every copy is read and hashed: how fast that is, beside a bare reading of the same bytes. That hashes nothing, but
//! built-in nodes hash what they give, unless whoever reads says that it proves the bytes by itself, as a check does. A bare
//! reading that says so, and does not, is the bound of what the wire can do.

use std::time::Instant;

use anyhow::Result;

use crate::copies::{self, all, bytes};
use crate::figures::{MIB, Target, aimed, part, told};
use crate::pool::Pool;
use crate::usage::{self, Taken};
use crate::wiped::usage_told;
use crate::wire::{self, Task};
use crate::{Args, say};

/// Chunks that are read at once.
const AT_ONCE: [usize; 4] = [2, 4, 8, 16];

/// Measures it.
pub async fn measure(pool: &Pool, args: &Args) -> Result<()> {
    let (targets, _) = copies::targets(pool, args.kind).await?;
    let all = all(pool)?;
    let size = bytes(&all) as f64;
    let (mut best, mut bound, mut checked) = (f64::INFINITY, f64::INFINITY, Option::<Taken>::None);
    for _ in 0..args.rounds {
        say("the bare reading");
        for at_once in AT_ONCE {
            let reads = all.iter().map(|copy| Task::read(copy.node, copy.root, &copy.entry)).collect();
            let begun = Instant::now();
            wire::run(&targets, reads, at_once).await?;
            best = best.min(begun.elapsed().as_secs_f64());
            let reads = all.iter().map(|copy| Task::read(copy.node, copy.root, &copy.entry).unproved());
            let begun = Instant::now();
            wire::run(&targets, reads.collect(), at_once).await?;
            bound = bound.min(begun.elapsed().as_secs_f64());
        }
        say("health --read");
        usage::measure(pool.client()?.args(["-q", "admin", "health", "--read"]), &pool.pids())?.keep_best(&mut checked);
    }
    let taken = checked.unwrap_or_default();
    part(&format!("reading everything: {} copies, {:.0} MiB", all.len(), size / MIB));
    told("health --read", taken.seconds, "s");
    told("health --read", size / taken.seconds / MIB, "MiB/s");
    told("bare reading", size / best / MIB, "MiB/s");
    aimed("health --read / bare reading", best / taken.seconds, "", Target::AtLeast(0.8));
    told("bare reading that nobody hashes", size / bound / MIB, "MiB/s");
    told("health --read / that", bound / taken.seconds, "");
    usage_told(&taken, size);
    Ok(())
}
