//! The bare probe: plain hyper, none of our node code, writes packs to the same nodes and reads their chunks back.
//!
//! Requests under way at once {1, 2, 4, 8, 16} x chunks a pack; the best counts. Bytes, names and grants are made before
//! the clock starts, and nothing that comes back is hashed, so no client can do better by more than chance.

use std::time::Instant;

use anyhow::{Context, Result};
use bytenode::id::{ChunkId, PackId, PoolId};
use bytenode::pack::{Pack, PackEntry, PackHeader};
use bytes::Bytes;

use crate::pool::{Kind, Pool};
use crate::random::Generator;
use crate::usage::{cpu, settle};
use crate::wire::{self, Targets, Task};

/// Requests under way at once.
const AT_ONCE: [usize; 5] = [1, 2, 4, 8, 16];

/// What is written and read.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of all chunks, each counted once.
    pub bytes: u64,
    /// Bytes of a chunk.
    pub chunk_bytes: usize,
    /// Copies of each pack.
    pub copies: usize,
    /// Chunks of a pack, as alternatives.
    pub packs: [usize; 2],
}

/// A best result.
#[derive(Debug, Clone, Copy, Default)]
pub struct Best {
    /// Bytes a second, each chunk counted once.
    pub rate: f64,
    /// Requests under way at once.
    pub at_once: usize,
    /// Chunks in a pack.
    pub pack: usize,
    /// CPU seconds for each GiB of this process.
    pub cpu_per_gib: f64,
    /// CPU seconds for each GiB of all nodes.
    pub nodes_cpu_per_gib: f64,
}

/// The probe of one pool.
pub struct Probe {
    kind: Kind,
    pool: PoolId,
    epoch: u64,
    targets: Targets,
    pids: Vec<u32>,
    next: u64,
}

impl Probe {
    /// Asks the nodes who they are, and signs what built-in nodes need.
    pub async fn new(pool: &Pool, kind: Kind, id: PoolId, epoch: u64) -> Result<Self> {
        let targets = wire::targets(pool, kind, id, epoch).await?;
        let pids = pool.nodes.iter().map(|node| node.pid()).collect();
        // An epoch that no coordinator has: it does not take these packs for another one's.
        Ok(Self { kind, pool: id, epoch: 0, targets, pids, next: 1 << 40 })
    }

    /// The best of writing and the best of reading. What it wrote to built-in nodes is dropped again.
    pub async fn best(&mut self, shape: Shape) -> Result<(Best, Best)> {
        let (mut write, mut read) = (Best::default(), Best::default());
        for pack in shape.packs {
            for at_once in AT_ONCE {
                let packs = self.make(shape, pack);
                let written = self.write(&packs, shape, at_once).await?;
                keep(&mut write, Best { pack, at_once, ..written });
                let got = self.read(&packs, shape, at_once).await?;
                keep(&mut read, Best { pack, at_once, ..got });
                self.clear(&packs, shape).await?;
            }
        }
        Ok((write, read))
    }

    fn make(&mut self, shape: Shape, chunks: usize) -> Vec<Pack> {
        let count = (shape.bytes / (chunks * shape.chunk_bytes) as u64).max(1);
        let mut packs = Vec::new();
        for _ in 0..count {
            self.next += 1;
            let mut generator = Generator::new(self.next);
            let chunk = |_| {
                let mut chunk = vec![0; shape.chunk_bytes];
                generator.fill(&mut chunk);
                Bytes::from(chunk)
            };
            let chunks: Vec<Bytes> = (0..chunks).map(chunk).collect();
            let entry = |chunk: &Bytes| PackEntry { chunk: ChunkId::of(chunk), bytes: chunk.len() as u64 };
            let entries = chunks.iter().map(entry).collect();
            let header = PackHeader { pool: self.pool, epoch: self.epoch, id: PackId::new(self.next), entries };
            packs.push(Pack::new(header, chunks));
        }
        packs
    }

    /// The nodes of the n-th pack.
    fn holders(&self, pack: usize, copies: usize) -> impl Iterator<Item = usize> {
        let nodes = self.targets.len();
        (0..copies).map(move |copy| (pack + copy) % nodes)
    }

    async fn write(&self, packs: &[Pack], shape: Shape, at_once: usize) -> Result<Best> {
        let mut tasks = Vec::new();
        for (index, pack) in packs.iter().enumerate() {
            let body = wire::multipart(pack);
            tasks.extend(self.holders(index, shape.copies).map(|target| Task::import(target, body.clone())));
        }
        settle();
        self.run(tasks, at_once, packs).await
    }

    async fn read(&self, packs: &[Pack], shape: Shape, at_once: usize) -> Result<Best> {
        let mut tasks = Vec::new();
        for (index, pack) in packs.iter().enumerate() {
            for (at, entry) in pack.header().entries.iter().enumerate() {
                let target = self.holders(index, shape.copies).nth(at % shape.copies).context("a copy")?;
                tasks.push(Task::read(target, pack.root(), entry).unproved());
            }
        }
        self.run(tasks, at_once, packs).await
    }

    async fn clear(&self, packs: &[Pack], shape: Shape) -> Result<()> {
        if self.kind == Kind::Kubo {
            return Ok(());
        }
        let mut tasks = Vec::new();
        for (index, pack) in packs.iter().enumerate() {
            tasks.extend(self.holders(index, shape.copies).map(|target| Task::drop_pack(target, pack.root())));
        }
        self.run(tasks, 8, packs).await.map(drop)
    }

    async fn run(&self, tasks: Vec<Task>, at_once: usize, packs: &[Pack]) -> Result<Best> {
        let bytes: u64 = packs.iter().map(|pack| pack.header().bytes()).sum();
        let (before, nodes_before, begun) = (cpu("self").0, self.nodes_cpu(), Instant::now());
        wire::run(&self.targets, tasks, at_once).await?;
        let rate = bytes as f64 / begun.elapsed().as_secs_f64();
        let per_gib = (1u64 << 30) as f64 / bytes as f64;
        let cpu_per_gib = (cpu("self").0 - before) * per_gib;
        let nodes_cpu_per_gib = (self.nodes_cpu() - nodes_before) * per_gib;
        Ok(Best { rate, cpu_per_gib, nodes_cpu_per_gib, ..Best::default() })
    }

    fn nodes_cpu(&self) -> f64 {
        self.pids.iter().map(|pid| cpu(&pid.to_string()).0).sum()
    }
}

fn keep(best: &mut Best, other: Best) {
    if other.rate > best.rate {
        *best = other;
    }
}
