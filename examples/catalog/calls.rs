//! Calls to the coordinator, one after the other, each as a client makes it.
//!
//! Puts are whole ones, of chunks so small that their bytes cost nothing. Built-in nodes sign for what they hold and are
//! not asked again, so no call that is measured here waits for a node: packs are sent between `plan` and `sent`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytenode::api::{
    Api, Append, BeginPut, Blob, ChunkDesc, ChunksPlanned, CommitFile, CommitFiles, Committed, Expect, ListRequest,
    MAX_PLAN_CHUNKS, PackOutcome, PacksSent, Part, PlanChunks, PutSession, Sha256,
};
use bytenode::client::Client;
use bytenode::dial::{Dial, HttpDial};
use bytenode::id::ChunkId;
use bytenode::node::http::Limits;
use bytenode::pack::{Pack, PackHeader};
use bytenode::path::RemotePath;
use bytenode::seam::Seam;
use bytes::Bytes;
use futures_util::future::try_join_all;

use crate::pool::Pool;
use crate::shape::{Shape, dir_name, file_name};
use crate::table::{Row, Times};

/// Plaintext bytes of a chunk that is really put, and what sealing adds.
const PLAIN: usize = 64;
const SEALED: usize = PLAIN + 16;
/// Chunks of a file that is put.
const CHUNKS: usize = 64;
/// Entries of a page, as `bytenode ls` asks for them.
const PAGE: u32 = 1000;
/// Where files are put.
const PUTS: &str = "bn:/puts";

/// All measurements of calls.
pub async fn all(pool: &Pool, shape: Shape, rounds: usize) -> Result<Vec<Row>> {
    let client = pool.client()?;
    let seam = Seam::real();
    let mut rows = vec![
        Row::times("ls, 100 entries", listings(&client, shape, rounds).await?, Some(10.0)),
        Row::times(&format!("ls, page of {PAGE} of 10,000"), pages(&client, shape, rounds).await?, Some(10.0)),
        Row::times("stat", stats(&client, shape, rounds, &seam).await?, Some(10.0)),
    ];
    rows.extend(puts(&client, rounds, &seam).await?);
    Ok(rows)
}

async fn timed<T, E>(times: &mut Vec<Duration>, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let begun = Instant::now();
    let answer = call.await;
    times.push(begun.elapsed());
    answer
}

async fn listings(client: &Client, shape: Shape, rounds: usize) -> Result<Times> {
    let dirs: Vec<u64> = shape.dirs().filter(|(_, entries)| *entries == 100).map(|(dir, _)| dir).collect();
    let mut times = Vec::new();
    for dir in dirs.iter().cycle().take(rounds) {
        let path = format!("bn:/{}", dir_name(*dir)).parse()?;
        let request = ListRequest { path, recursive: false, cursor: None, limit: PAGE };
        let page = timed(&mut times, client.list(&request)).await?;
        ensure!(page.items.len() == 100, "{} entries", page.items.len());
    }
    Ok(Times::of(times))
}

async fn pages(client: &Client, shape: Shape, rounds: usize) -> Result<Times> {
    let path: RemotePath = shape.dir_of(10_000)?.parse()?;
    let (mut times, mut cursor) = (Vec::new(), None);
    while times.len() < rounds {
        let request = ListRequest { path: path.clone(), recursive: false, cursor, limit: PAGE };
        let page = timed(&mut times, client.list(&request)).await?;
        ensure!(page.items.len() == PAGE as usize, "{} entries", page.items.len());
        cursor = page.next_cursor;
    }
    Ok(Times::of(times))
}

async fn stats(client: &Client, shape: Shape, rounds: usize, seam: &Seam) -> Result<Times> {
    let dirs: Vec<(u64, u64)> = shape.dirs().collect();
    let mut times = Vec::new();
    for _ in 0..rounds {
        let (dir, entries) = dirs[usize::try_from(seam.below(dirs.len() as u64))?];
        let path = format!("bn:/{}/{}", dir_name(dir), file_name(seam.below(entries))).parse()?;
        let entry = timed(&mut times, client.stat(&path)).await?;
        ensure!(entry.chunks == shape.chunks && entry.copies_min == Some(3), "{entry:?}");
    }
    Ok(Times::of(times))
}

/// Puts files of 64 chunks, each in a put of its own, and removes them.
async fn puts(client: &Client, rounds: usize, seam: &Seam) -> Result<Vec<Row>> {
    let putter = Putter::new(client, seam);
    let run = data_encoding::HEXLOWER.encode(&seam.bytes::<8>());
    let mut times = Steps::default();
    let mut removed = Vec::new();
    let mut paths = Vec::new();
    for round in 0..rounds {
        let path: RemotePath = format!("{PUTS}/{run}/{round}").parse()?;
        putter.put(&path, CHUNKS, &mut times).await?;
        paths.push(path);
    }
    for path in &paths {
        timed(&mut removed, client.remove(path, false, false)).await?;
    }
    client.remove(&format!("{PUTS}/{run}").parse()?, true, false).await?;
    let Steps { begin, offer, sent, commit, release } = times;
    let plan: Vec<Duration> = begin.iter().zip(&offer).map(|(begin, offer)| *begin + *offer).collect();
    Ok(vec![
        Row::times("plan of 64 chunks: begin + offer", Times::of(plan), Some(10.0)),
        Row::times("  begin", Times::of(begin), None),
        Row::times("  offer", Times::of(offer), None),
        Row::times("sent: receipts of 64 chunks", Times::of(sent), None),
        Row::times("commit of 64 chunks", Times::of(commit), Some(20.0)),
        Row::times("release", Times::of(release), None),
        Row::times("rm", Times::of(removed), Some(10.0)),
    ])
}

/// Times of the steps of puts.
#[derive(Default)]
pub struct Steps {
    begin: Vec<Duration>,
    offer: Vec<Duration>,
    sent: Vec<Duration>,
    commit: Vec<Duration>,
    release: Vec<Duration>,
}

/// Puts chunks of random bytes.
pub struct Putter<'a> {
    client: &'a Client,
    dial: HttpDial,
    seam: &'a Seam,
}

impl<'a> Putter<'a> {
    /// Through this client.
    pub fn new(client: &'a Client, seam: &'a Seam) -> Self {
        Self { client, dial: HttpDial::new(Limits::default(), seam.clone()), seam }
    }

    /// Puts a file of so many chunks, in one put.
    pub async fn put(&self, path: &RemotePath, count: usize, times: &mut Steps) -> Result<()> {
        let begin = BeginPut { machine: "catalog".into(), replicas: None, public: false };
        let session = timed(&mut times.begin, self.client.begin_put(&begin)).await?;
        let mut first = 0;
        while first < count {
            let some = (count - first).min(MAX_PLAN_CHUNKS);
            self.window(&session, first, some, times).await?;
            first += some;
        }
        let file = CommitFile {
            file: 0,
            path: path.clone(),
            expect: Expect::Absent,
            size: (count * PLAIN) as u64,
            sha256: Sha256(self.seam.bytes()),
            chunks: count as u64,
            modified: self.seam.now(),
            executable: false,
            wrapped_key: Blob(vec![0; 60]),
            cid: None,
        };
        let request = CommitFiles { files: vec![file] };
        let done = timed(&mut times.commit, self.client.commit_files(session.upload, &request)).await?;
        match done.as_slice() {
            [Committed::Done { entry, .. }] if entry.copies_min == Some(3) => {}
            other => bail!("{path} was not committed: {other:?}"),
        }
        timed(&mut times.release, self.client.release(session.upload)).await?;
        Ok(())
    }

    async fn window(&self, session: &PutSession, first: usize, count: usize, times: &mut Steps) -> Result<()> {
        let chunks: Vec<Bytes> = (0..count).map(|_| Bytes::copy_from_slice(&self.seam.bytes::<SEALED>())).collect();
        let chunks: Vec<(ChunkId, Bytes)> = chunks.into_iter().map(|bytes| (ChunkId::of(&bytes), bytes)).collect();
        let desc = |(chunk, _): &(ChunkId, Bytes)| ChunkDesc {
            chunk: *chunk,
            bytes: SEALED as u64,
            length: PLAIN as u64,
            part: Part::Sealed,
        };
        let append = Append {
            file: 0,
            first: first as u64,
            chunks: chunks.iter().map(desc).collect(),
            sealed_keys: Blob(vec![0; 28 + 70 * count]),
        };
        let request = PlanChunks { files: vec![append] };
        let plan = timed(&mut times.offer, self.client.plan_chunks(session.upload, &request)).await?;
        let outcomes = self.send(session, plan, &chunks.into_iter().collect()).await?;
        let sent = PacksSent { packs: outcomes };
        let judged = timed(&mut times.sent, self.client.packs_sent(session.upload, &sent)).await?;
        ensure!(judged.packs.is_empty(), "a pack was not taken: {:?}", judged.notices);
        Ok(())
    }

    async fn send(
        &self,
        session: &PutSession,
        plan: ChunksPlanned,
        chunks: &HashMap<ChunkId, Bytes>,
    ) -> Result<Vec<PackOutcome>> {
        let sending = plan.packs.into_iter().map(|pack| {
            let address = plan.nodes.iter().find(|node| node.id == pack.node);
            async move {
                let bytes = pack.entries.iter().map(|entry| chunks[&entry.chunk].clone()).collect();
                let header =
                    PackHeader { pool: session.pool, epoch: session.epoch, id: pack.id, entries: pack.entries };
                let node = self.dial.dial(address.context("a node without an address")?)?;
                let receipt = node.write_pack(&Pack::new(header, bytes), pack.grant.as_ref()).await?;
                Ok::<_, anyhow::Error>(PackOutcome::Sent { pack: pack.id, receipt })
            }
        });
        try_join_all(sending).await
    }
}
