//! A repair at the rate that it has by default, and gets beside it, of a file that needs no repair.

use std::process::Child;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::copies::{self, all, bytes, lose, packs};
use crate::figures::{MIB, Target, aimed, part, told};
use crate::pool::Pool;
use crate::usage::settle;
use crate::wiped::NODE;
use crate::{Args, put, say};

/// Gets that are measured alone.
const ALONE: u32 = 5;

/// Measures it; repair goes at its default rate from here on.
pub async fn measure(pool: &mut Pool, args: &Args) -> Result<()> {
    pool.restart("", |_| Ok(()))?;
    // Of the file that is fetched, nothing is lost.
    let lost = all(pool)?;
    put(pool, args, "beside", 2)?;
    let (targets, _) = copies::targets(pool, args.kind).await?;
    say("gets alone");
    let alone = (0..args.rounds.max(ALONE)).map(|_| get(pool)).collect::<Result<Vec<_>>>()?;
    say("gets beside a repair");
    lose(&targets, args.kind, NODE, packs(&lost, NODE)).await?;
    let size = bytes(lost.iter().filter(|copy| copy.node == NODE)) as f64;
    let begun = Instant::now();
    let mut repair = pool.client()?.args(["-q", "admin", "health"]).spawn()?;
    let beside = gets_beside(pool, &mut repair);
    ensure!(repair.wait()?.success(), "the repair failed");
    let repaired = begun.elapsed().as_secs_f64();
    let beside = beside?;
    let count = beside.len();
    let (alone, beside) = (median(alone), median(beside).context("the repair ended first: give a larger --size")?);
    let alone = alone.context("gets")?;
    let rate = |seconds: f64| args.size as f64 / seconds / MIB;
    part(&format!(
        "get of {:.0} MiB beside a repair of {:.0} MiB at its default rate",
        args.size as f64 / MIB,
        size / MIB
    ));
    told("get alone", rate(alone), "MiB/s");
    told(&format!("get beside the repair ({count})"), rate(beside), "MiB/s");
    aimed("loss", (1.0 - alone / beside) * 100.0, "%", Target::AtMost(20.0));
    told("the repair meanwhile", size / repaired / MIB, "MiB/s");
    Ok(())
}

/// Gets until the repair ends; those that ended before it did.
fn gets_beside(pool: &Pool, repair: &mut Child) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    loop {
        let taken = get(pool)?;
        if repair.try_wait()?.is_some() {
            return Ok(times);
        }
        times.push(taken);
    }
}

/// Seconds of a get.
fn get(pool: &Pool) -> Result<f64> {
    let back = pool.scratch().join("back");
    settle();
    let begun = Instant::now();
    let done = pool.client()?.args(["-q", "get", "bn:/beside"]).arg(&back).status()?;
    let taken = begun.elapsed().as_secs_f64();
    ensure!(done.success(), "a get failed");
    std::fs::remove_file(back)?;
    Ok(taken)
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}
