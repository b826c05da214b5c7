//! How a coordinator with a large catalog answers, starts and rests, beside what it must reach.
//!
//!     cargo build --release && cargo run --release --example catalog -- --dir BENCH
//!
//! The first run makes a pool of real nodes in that directory and fills its catalog with rows of a million files, which
//! takes minutes; later runs use what is there. The nodes do not hold the chunks of those rows: nothing that is measured
//! asks them for one, and every measurement ends before the coordinator's first check would. What a run puts is real,
//! and small; it is removed again. With `--stored N`, another pool in the same directory really holds N tiny chunks, and
//! its coordinator is watched while nobody asks it anything.

mod calls;
mod made;
mod pool;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "shared with other examples, whose daemons do not end by themselves")]
mod process;
mod rows;
mod shape;
mod stored;
mod table;
#[path = "../support/usage.rs"]
#[allow(dead_code, reason = "shared with other examples, which measure whole commands")]
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use pool::Pool;
use shape::Shape;
use table::{Row, Times};

/// Measures a coordinator with a large catalog
#[derive(Debug, Parser)]
pub struct Args {
    /// Where the pool is made, and kept for the next run
    #[arg(long)]
    pub dir: PathBuf,
    /// Files in the catalog
    #[arg(long, default_value_t = 1_000_000)]
    pub files: u64,
    /// Chunks of each
    #[arg(long, default_value_t = 10)]
    pub chunks: u64,
    /// Calls of each kind
    #[arg(long, default_value_t = 500)]
    pub rounds: usize,
    /// Starts, each after the coordinator was stopped and after it was killed
    #[arg(long, default_value_t = 5)]
    pub starts: usize,
    /// Have the system forget the catalog's pages before the calls
    #[arg(long)]
    pub cold: bool,
    /// Instead: a pool that really holds so many tiny chunks, at rest
    #[arg(long, value_name = "CHUNKS")]
    pub stored: Option<u64>,
    /// How long it is watched, in seconds
    #[arg(long, default_value_t = 660)]
    pub watch: u64,
}

/// Nodes of the pool.
pub const NODES: u32 = 5;
/// Copies of each chunk.
pub const COPIES: u32 = 3;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.dir)?;
    match args.stored {
        None => large(&args).await,
        Some(chunks) => {
            let (rows, what) = stored::run(&args.dir.join("stored"), chunks, Duration::from_secs(args.watch)).await?;
            table::print(&what, &rows);
            Ok(())
        }
    }
}

async fn large(args: &Args) -> Result<()> {
    let shape = Shape { files: args.files, chunks: args.chunks };
    let dir = args.dir.join("large");
    let made = made::made(&dir, shape)?;
    let mut pool = Pool::start(&dir)?;
    let mut rows = starts(&mut pool, args.starts)?;
    if args.cold {
        pool.restart_cold()?;
    }
    say("calls");
    rows.extend(calls::all(&pool, shape, args.rounds).await?);
    rows.push(Row::mib("peak memory", usage::peak(pool.coordinator_pid()), 256));
    say("bytenode ls");
    rows.extend(commands(&pool, shape)?);
    pool.stop()?;
    table::print(&format!("{made}{}", if args.cold { ", not in the system's cache" } else { "" }), &rows);
    Ok(())
}

fn starts(pool: &mut Pool, count: usize) -> Result<Vec<Row>> {
    say("starts");
    let (mut after_stop, mut after_kill) = (Vec::new(), Vec::new());
    for _ in 0..count {
        pool.stop_coordinator()?;
        after_stop.push(pool.start_coordinator()?);
        pool.kill_coordinator()?;
        after_kill.push(pool.start_coordinator()?);
    }
    Ok(vec![
        Row::times("start", Times::of(after_stop), Some(1000.0)),
        Row::times("start after kill -9", Times::of(after_kill), Some(1000.0)),
    ])
}

fn commands(pool: &Pool, shape: Shape) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (entries, times, target) in [(100, 50, 30.0), (10_000, 20, 200.0)] {
        let dir = shape.dir_of(entries)?;
        let taken = (0..times).map(|_| pool.run(&["ls", &dir], entries)).collect::<Result<Vec<_>>>()?;
        rows.push(Row::times(&format!("bytenode ls, {entries} entries"), Times::of(taken), Some(target)));
    }
    Ok(rows)
}

/// Says on standard error what is done now.
pub fn say(what: &str) {
    eprintln!("{what} ...");
}
