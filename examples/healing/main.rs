//! How a pool of real processes looks after its copies, beside what bounds it on this machine in the same run.
//!
//!     cargo build --release && cargo run --release --example healing -- --kind kubo --size 1G --only wiped,read
//!
//! Everything lives in a temporary directory (`--dir`, else TMPDIR) and is removed afterwards. Each figure is a line, with
//! what it must reach in brackets. Figures of one run compare with one another; those of two runs only as far as the
//! machine was equally idle. Repair goes as fast as it can, but for the part that has a client beside it.

mod beside;
mod copies;
mod figures;
mod idle;
#[path = "../support/pool.rs"]
#[allow(dead_code, reason = "shared with another example, which uses ipfs itself")]
mod pool;
mod presence;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/random.rs"]
mod random;
mod reading;
#[path = "../catalog/rows.rs"]
mod rows;
#[path = "../catalog/shape.rs"]
#[allow(dead_code, reason = "shared with another example, which looks for directories")]
mod shape;
#[path = "../support/usage.rs"]
mod usage;
mod wiped;
#[path = "../support/wire.rs"]
mod wire;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use pool::{Kind, Pool};
use random::Generator;

/// Copies of each chunk in the catalog of the part that watches.
const COPIES: u32 = 3;
/// As fast as repair can be set to go.
const UNLIMITED: &str = "[pool]\nrepair_rate = 65536\n";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Repair after a node lost all that it had.
    Wiped,
    /// Reading and hashing every copy.
    Read,
    /// Gets while a repair goes on.
    Beside,
    /// Asking every node for every copy.
    Presence,
    /// A coordinator that nobody asks anything.
    Idle,
}

/// Measures repair, checks and rest on a throwaway pool
#[derive(Debug, Parser)]
pub struct Args {
    /// What is measured
    #[arg(long, value_enum, value_delimiter = ',', default_value = "wiped,read,beside,presence,idle")]
    only: Vec<Part>,
    /// What the nodes are
    #[arg(long, value_enum, default_value = "builtin")]
    pub kind: Kind,
    /// Nodes
    #[arg(long, default_value_t = 5)]
    pub nodes: u32,
    /// Copies of each chunk
    #[arg(long, default_value_t = 3)]
    pub copies: u32,
    /// Bytes of the large files
    #[arg(long, default_value = "256M", value_parser = bytenode::size::parse)]
    pub size: u64,
    /// How often what takes long is measured; the best counts
    #[arg(long, default_value_t = 1)]
    pub rounds: u32,
    /// Copies that the pool has when it is asked for all of them; small files make up for what is missing
    #[arg(long, default_value_t = 10_000)]
    pub replicas: u64,
    /// Chunks in the catalog of the coordinator that rests
    #[arg(long, default_value_t = 100_000)]
    pub idle_chunks: u64,
    /// How long it is watched, in seconds
    #[arg(long, default_value_t = 30)]
    pub watch: u64,
    /// Where everything is made
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

impl Args {
    fn has(&self, part: Part) -> bool {
        self.only.contains(&part)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(1 < args.copies && args.copies < args.nodes, "what a node loses is read from others: 1 < copies < nodes");
    // A signal must run the pool's clean-up too.
    tokio::select! {
        done = run(&args) => done,
        () = process::stopped() => anyhow::bail!("interrupted"),
    }
}

async fn run(args: &Args) -> Result<()> {
    figures::head(args);
    if args.only.iter().any(|part| *part != Part::Idle) {
        let mut pool = start(args)?;
        if args.has(Part::Wiped) {
            wiped::measure(&pool, args).await?;
        }
        if args.has(Part::Read) {
            reading::measure(&pool, args).await?;
        }
        if args.has(Part::Beside) {
            beside::measure(&mut pool, args).await?;
        }
        if args.has(Part::Presence) {
            presence::measure(&pool, args)?;
        }
    }
    if args.has(Part::Idle) {
        idle::measure(args).await?;
    }
    Ok(())
}

/// A pool with one large file, unless only the number of copies matters.
fn start(args: &Args) -> Result<Pool> {
    say("starting the pool");
    let pool = Pool::start("healing", args.kind, args.nodes, UNLIMITED, args.dir.as_deref())?;
    if args.only.iter().any(|part| !matches!(part, Part::Presence | Part::Idle)) {
        put(&pool, args, "large", 1)?;
    }
    Ok(pool)
}

/// Puts a large file of random bytes.
fn put(pool: &Pool, args: &Args, name: &str, seed: u64) -> Result<()> {
    say("storing a file");
    let file = pool.scratch().join(name);
    Generator::new(seed).file(&file, args.size)?;
    let mut put = pool.client()?;
    put.args(["-q", "put", "--replicas", &args.copies.to_string()]).arg(&file).arg(format!("bn:/{name}"));
    ensure!(put.status()?.success(), "put of {name} failed");
    Ok(std::fs::remove_file(file)?)
}

/// Says on standard error what is done now.
fn say(what: &str) {
    eprintln!("{what} ...");
}
