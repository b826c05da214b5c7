//! One node loses all that it had: how fast it is made anew, beside a bare copy of the same bytes.
//!
//! The bare copy reads each chunk from another node and writes packs as large as repair's to the same node, by the same
//! calls (on Kubo it pins too, or nothing would keep what it wrote), several packs at once; the best counts. It asks no
//! coordinator, hashes nothing and writes nothing down. The node loses everything again before the next attempt.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use bytenode::id::{ChunkId, PackId, PackRoot, PoolId};
use bytenode::pack::{Pack, PackEntry, PackHeader};
use bytes::BytesMut;

use crate::copies::{self, Copy, all, bytes, lose, packs};
use crate::figures::{GIB, MIB, Target, aimed, part, told};
use crate::pool::{Kind, Pool};
use crate::usage::{self, Taken};
use crate::wire::{self, Task, Wire, Work};
use crate::{Args, say};

/// The node that loses its packs.
pub const NODE: usize = 0;
/// Bytes of a pack.
const PACK: u64 = 16 << 20;
/// Packs that are copied at once.
const AT_ONCE: [usize; 3] = [2, 4, 8];

/// Measures it.
pub async fn measure(pool: &Pool, args: &Args) -> Result<()> {
    let (targets, id) = copies::targets(pool, args.kind).await?;
    let (mut best, mut healed) = (f64::INFINITY, Option::<Taken>::None);
    let (mut chunks, mut size, mut number) = (0, 0, 1 << 40);
    for _ in 0..args.rounds {
        let all = all(pool)?;
        let lost: Vec<&Copy> = all.iter().filter(|copy| copy.node == NODE).collect();
        (chunks, size) = (lost.len(), bytes(lost));
        lose(&targets, args.kind, NODE, packs(&all, NODE)).await?;
        for at_once in AT_ONCE {
            say("the bare copy");
            let jobs = jobs(id, args.kind, &all, &mut number);
            let written: Vec<PackRoot> = jobs.iter().map(|job| job.header.root()).collect();
            let begun = Instant::now();
            wire::run(&targets, jobs, at_once).await?;
            best = best.min(begun.elapsed().as_secs_f64());
            lose(&targets, args.kind, NODE, written).await?;
        }
        say("health");
        usage::measure(pool.client()?.args(["-q", "admin", "health"]), &pool.pids())?.keep_best(&mut healed);
    }
    let taken = healed.unwrap_or_default();
    let size = size as f64;
    part(&format!("one of {} nodes wiped: {chunks} chunks, {:.0} MiB", args.nodes, size / MIB));
    told("health", taken.seconds, "s");
    told("health", size / taken.seconds / MIB, "MiB/s");
    told("bare copy", size / best / MIB, "MiB/s");
    aimed("health / bare copy", best / taken.seconds, "", Target::AtLeast(0.8));
    usage_told(&taken, size);
    Ok(())
}

/// What the coordinator and the nodes used. Where all of them share one machine, cores that are busy bound the rate too.
pub fn usage_told(taken: &Taken, size: f64) {
    let (coordinator, peak) = taken.beside.first().copied().unwrap_or_default();
    let nodes: f64 = taken.beside.iter().skip(1).map(|(cpu, _)| cpu).sum();
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64);
    told("coordinator CPU", coordinator * GIB / size, "s/GiB");
    told("nodes CPU", nodes * GIB / size, "s/GiB");
    told("cores busy with it", (coordinator + nodes + taken.client_cpu) / taken.seconds / cores * 100.0, "%");
    told("coordinator peak memory", peak as f64 / MIB, "MiB");
}

/// One pack that is copied.
struct CopyPack {
    kind: Kind,
    header: PackHeader,
    /// For each of its chunks, where it is read.
    from: Vec<Copy>,
}

/// What is to be copied, and from which nodes: of those that have a chunk, another one for each chunk.
fn jobs(pool: PoolId, kind: Kind, all: &[Copy], number: &mut u64) -> Vec<CopyPack> {
    let mut others: BTreeMap<ChunkId, Vec<Copy>> = BTreeMap::new();
    for copy in all.iter().filter(|copy| copy.node != NODE) {
        others.entry(copy.entry.chunk).or_default().push(*copy);
    }
    let lost = all.iter().filter(|copy| copy.node == NODE);
    let from = lost.enumerate().filter_map(|(nth, copy)| {
        let others = others.get(&copy.entry.chunk)?;
        others.get(nth % others.len()).copied()
    });
    let mut jobs: Vec<CopyPack> = Vec::new();
    for copy in from {
        let fits = |job: &CopyPack| job.header.bytes() + copy.entry.bytes <= PACK;
        if !jobs.last().is_some_and(fits) {
            *number += 1;
            // An epoch that no coordinator has: it does not take these packs for another one's.
            let header = PackHeader { pool, epoch: 0, id: PackId::new(*number), entries: Vec::<PackEntry>::new() };
            jobs.push(CopyPack { kind, header, from: Vec::new() });
        }
        if let Some(job) = jobs.last_mut() {
            job.header.entries.push(copy.entry);
            job.from.push(copy);
        }
    }
    jobs
}

impl Work for CopyPack {
    async fn run(&self, wire: &mut Wire) -> Result<()> {
        let mut chunks = Vec::with_capacity(self.from.len());
        for Copy { node, root, entry } in &self.from {
            let mut chunk = BytesMut::with_capacity(usize::try_from(entry.bytes)?);
            wire.send(&Task::read(*node, *root, entry).unproved(), |piece| chunk.extend_from_slice(piece)).await?;
            chunks.push(chunk.freeze());
        }
        let pack = Pack::new(self.header.clone(), chunks);
        wire.send(&Task::import(NODE, wire::multipart(&pack)), |_| {}).await?;
        if self.kind == Kind::Kubo {
            wire.send(&Task::post(NODE, format!("/api/v0/pin/add?arg={}", pack.root())), |_| {}).await?;
        }
        Ok(())
    }
}
