//! How fast a pool of real processes stores and gives back, beside what bounds it on this machine in the same run.
//!
//!     cargo build --release && cargo run --release --example throughput -- --kind kubo --nodes 3 --copies 2
//!
//! Everything lives in a temporary directory (`--dir`, else TMPDIR) and is removed afterwards. Rates are of user data:
//! each byte counts once, however many copies are written. Figures of one run compare with one another; those of two
//! runs only as far as the machine was equally idle.

mod bounds;
#[path = "../support/pool.rs"]
#[allow(dead_code, reason = "shared with another example, which starts the coordinator anew")]
mod pool;
mod probe;
#[path = "../support/process.rs"]
#[allow(dead_code, reason = "shared with other examples, which stop processes")]
mod process;
#[path = "../support/random.rs"]
mod random;
mod table;
mod tail;
#[path = "../support/usage.rs"]
#[allow(dead_code, reason = "shared with other examples, which watch processes at rest")]
mod usage;
#[path = "../support/wire.rs"]
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use bytenode::api::{Api, BeginPut};
use bytenode::client::{Client, ClientLimits};
use bytenode::node::GrantToken;
use clap::Parser;

use pool::{Kind, Pool};
use probe::{Best, Probe, Shape};
use random::Generator;
use tail::Times;
use usage::{Taken, measure};

/// Measures put, get and cat on a throwaway pool
#[derive(Debug, Parser)]
pub struct Args {
    /// Bytes of the large file
    #[arg(long, default_value = "1G", value_parser = bytenode::size::parse)]
    pub size: u64,
    /// Nodes
    #[arg(long, default_value_t = 5)]
    pub nodes: u32,
    /// Copies of each chunk
    #[arg(long, default_value_t = 3)]
    pub copies: u32,
    /// Store plain UnixFS blocks instead of sealed ones
    #[arg(long)]
    pub public: bool,
    /// What the nodes are
    #[arg(long, value_enum, default_value = "builtin")]
    pub kind: Kind,
    /// How many small files (0 for none)
    #[arg(long, default_value_t = 10_000)]
    pub small: u64,
    /// Bytes of a small file
    #[arg(long, default_value = "4K", value_parser = bytenode::size::parse)]
    pub small_size: u64,
    /// Bytes that the bare probe writes and reads each time (0 for no probe)
    #[arg(long, default_value = "256M", value_parser = bytenode::size::parse)]
    pub probe_size: u64,
    /// Gets beside a node that is stopped (0 for none), and five times as many of a small file
    #[arg(long, default_value_t = 20)]
    pub tail: usize,
    /// Where everything is made
    #[arg(long)]
    pub dir: Option<PathBuf>,
}

/// All that was measured.
pub struct Results {
    /// Put of the large file.
    pub put: Taken,
    /// Get of it to a file.
    pub get: Taken,
    /// `cat` of it to nowhere.
    pub cat: Taken,
    /// Put and get of the small files.
    pub small: Option<(Taken, Taken)>,
    /// The bare probe's best write and read.
    pub probe: Option<(Best, Best)>,
    /// The same with small chunks.
    pub small_probe: Option<(Best, Best)>,
    /// Bytes a second of the disk.
    pub disk: f64,
    /// Gets while all nodes are well, and while one hangs.
    pub tail: Option<(Times, Times)>,
    /// Seconds of `ipfs add` and of `ipfs cat`.
    pub ipfs: Option<(Taken, Taken)>,
    /// CPU seconds for each GiB of the passes of put and of get alone.
    pub passes: (f64, f64),
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let copies = args.copies.min(args.nodes);
    let args = Args { copies, ..args };
    // A signal must run the pool's clean-up too.
    tokio::select! {
        done = run(&args) => done,
        () = process::stopped() => anyhow::bail!("interrupted"),
    }
}

async fn run(args: &Args) -> Result<()> {
    say("starting the pool");
    let pool = Pool::start("throughput", args.kind, args.nodes, "", args.dir.as_deref())?;
    let beside = pool.pids();
    let file = pool.scratch().join("large");
    Generator::new(1).file(&file, args.size)?;
    say("the disk");
    let disk = bounds::disk(&pool.scratch().join("disk"), args.size)?;
    say("put, get, cat");
    let put = measure(put(&pool, args)?.arg(&file).arg("bn:/large"), &beside)?;
    let back = pool.scratch().join("back");
    let get = measure(pool.client()?.args(["-q", "get", "bn:/large"]).arg(&back), &beside)?;
    anyhow::ensure!(same(&file, &back)?, "the file came back different");
    let cat = measure(pool.client()?.args(["cat", "bn:/large"]).stdout(Stdio::null()), &beside)?;
    for path in [&file, &back] {
        std::fs::remove_file(path)?;
    }
    let small = if args.small == 0 { None } else { Some(small_files(&pool, args, &beside)?) };
    let ipfs = ipfs(&pool, args)?;
    let tail = if args.tail == 0 { None } else { beside_a_stopped_node(&pool, args)? };
    let passes = bounds::passes(!args.public);
    let (probe, small_probe) = if args.probe_size == 0 { (None, None) } else { probes(&pool, args).await? };
    let results = Results { put, get, cat, small, probe, small_probe, disk, tail, ipfs, passes };
    table::print(args, &results);
    Ok(())
}

fn say(what: &str) {
    eprintln!("{what} ...");
}

fn put(pool: &Pool, args: &Args) -> Result<Command> {
    let mut command = pool.client()?;
    command.args(["-q", "put", "--replicas", &args.copies.to_string()]);
    if args.public {
        command.arg("--public");
    }
    Ok(command)
}

fn same(one: &Path, two: &Path) -> Result<bool> {
    use std::io::Read;
    let (mut one, mut two) = (std::fs::File::open(one)?, std::fs::File::open(two)?);
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let got = one.read(&mut a)?;
        if got == 0 {
            return Ok(two.read(&mut b)? == 0);
        }
        if two.read_exact(&mut b[..got]).is_err() || a[..got] != b[..got] {
            return Ok(false);
        }
    }
}

fn small_files(pool: &Pool, args: &Args, beside: &[u32]) -> Result<(Taken, Taken)> {
    say("small files");
    let dir = pool.scratch().join("small");
    random::files(&dir, args.small, args.small_size)?;
    let put = measure(put(pool, args)?.arg(&dir).arg("bn:/small"), beside)?;
    let back = pool.scratch().join("small-back");
    let get = measure(pool.client()?.args(["-q", "get", "bn:/small"]).arg(&back), beside)?;
    Ok((put, get))
}

/// `ipfs add` and `ipfs cat` through the first node's daemon.
fn ipfs(pool: &Pool, args: &Args) -> Result<Option<(Taken, Taken)>> {
    if args.kind != Kind::Kubo || !pool::has_ipfs() {
        return Ok(None);
    }
    say("ipfs add, ipfs cat");
    let node = &pool.nodes[0];
    let file = pool.scratch().join("other");
    // Other bytes than those put, or their blocks would be there already.
    Generator::new(2).file(&file, args.size)?;
    let cid = pool.scratch().join("cid");
    let mut add = Command::new("ipfs");
    add.env("IPFS_PATH", &node.path).args(["add", "-Q"]).arg(&file).stdout(std::fs::File::create(&cid)?);
    let add = measure(&mut add, &[node.pid()])?;
    std::fs::remove_file(&file)?;
    let cid = std::fs::read_to_string(cid)?;
    let mut cat = Command::new("ipfs");
    cat.env("IPFS_PATH", &node.path).args(["cat", cid.trim()]).stdout(Stdio::null());
    Ok(Some((add, measure(&mut cat, &[node.pid()])?)))
}

fn beside_a_stopped_node(pool: &Pool, args: &Args) -> Result<Option<(Times, Times)>> {
    say("gets beside a node that hangs");
    tail::tail(pool, args.copies, args.tail)
}

type Both = Option<(Best, Best)>;

async fn probes(pool: &Pool, args: &Args) -> Result<(Both, Both)> {
    say("the bare probe");
    let client = Client::new(&pool.url, GrantToken::new(pool.token()?), ClientLimits::default())?;
    let begin = BeginPut { machine: "throughput".into(), replicas: Some(args.copies), public: args.public };
    let session = client.begin_put(&begin).await?;
    client.release(session.upload).await?;
    let mut probe = Probe::new(pool, args.kind, session.pool, session.epoch).await?;
    let copies = args.copies as usize;
    let large = Shape { bytes: args.probe_size.min(args.size), chunk_bytes: 1 << 20, copies, packs: [16, 64] };
    let best = probe.best(large).await?;
    if args.small == 0 {
        return Ok((Some(best), None));
    }
    let chunk_bytes = usize::try_from(args.small_size)?;
    let small = Shape { bytes: args.small * args.small_size, chunk_bytes, copies, packs: [64, 256] };
    Ok((Some(best), Some(probe.best(small).await?)))
}
