//! How long a get takes beside a node that hangs.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::pool::Pool;
use crate::random::Generator;

/// Bytes of the larger file.
pub const LARGE: u64 = 64 << 20;
/// Bytes of the smaller one.
pub const SMALL: u64 = 4 << 10;

/// Times of gets of both files, sorted.
pub struct Times {
    /// Of [`LARGE`].
    pub large: Vec<Duration>,
    /// Of [`SMALL`].
    pub small: Vec<Duration>,
}

/// Gets while all nodes are well, and while one is stopped; nothing where processes cannot be stopped.
pub fn tail(pool: &Pool, copies: u32, rounds: usize) -> Result<Option<(Times, Times)>> {
    for (name, bytes) in [("tail-large", LARGE), ("tail-small", SMALL)] {
        let file = pool.scratch().join(name);
        Generator::new(bytes).file(&file, bytes)?;
        let put = pool.client()?.args(["-q", "put", "--replicas", &copies.to_string()]).arg(&file).status()?;
        ensure!(put.success(), "put of {name} failed");
        std::fs::remove_file(&file)?;
    }
    let well = times(pool, rounds)?;
    let Some(node) = pool.nodes.first() else { return Ok(None) };
    if !signal(node.pid(), true) {
        return Ok(None);
    }
    let stopped = times(pool, rounds);
    signal(node.pid(), false);
    Ok(Some((well, stopped?)))
}

fn times(pool: &Pool, rounds: usize) -> Result<Times> {
    let get = |path: &str| -> Result<Duration> {
        let mut cat = pool.client()?;
        let begun = Instant::now();
        let done = cat.args(["-q", "cat", path]).stdout(Stdio::null()).status()?;
        ensure!(done.success(), "cat {path} failed");
        Ok(begun.elapsed())
    };
    let many = |path: &str, count: usize| -> Result<Vec<Duration>> {
        let mut times = (0..count).map(|_| get(path)).collect::<Result<Vec<_>>>()?;
        times.sort_unstable();
        Ok(times)
    };
    Ok(Times { small: many("bn:/tail-small", 5 * rounds)?, large: many("bn:/tail-large", rounds)? })
}

#[cfg(unix)]
fn signal(pid: u32, stop: bool) -> bool {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = if stop { Signal::STOP } else { Signal::CONT };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

#[cfg(not(unix))]
fn signal(_pid: u32, _stop: bool) -> bool {
    false
}
