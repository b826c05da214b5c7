//! The fault matrix: every way in which a node goes wrong x put, get and rm x one node, R-1 nodes, too many nodes, over
//! nodes that behave like built-in ones and like Kubo. What a cell must give follows from the few rules of [`Ill`].
//!
//! Time is virtual: a limit that is missed is missed on every machine.

mod ill;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytenode::admin::{Admin, HealthReport, HealthRequest, Verdict};
use bytenode::api::{ApiError, ApiResult, Code};
use bytenode::get::GetOutcome;
use bytenode::id::ChunkId;
use bytenode::monitor::{Event, Monitor, Recorder};
use bytenode::node::call::Call;
use bytenode::put::{PutOptions, PutOutcome};
use tokio::time::Instant;

use self::ill::Ill;
use crate::support::pool::{CAPACITY, Like, Pool, Put, Setup, User, bytes, path};

const NODES: usize = 4;
const COPIES: usize = 3;
/// Counted copies without which nothing is acknowledged.
const RULE: usize = 2;
const CHUNK: usize = 16 << 10;
/// More than four chunks, so that no node holds all of them.
const SIZE: usize = 6 * CHUNK - 100;
/// Within this time of its last progress a put or get moves on or ends.
const LIMIT: Duration = Duration::from_secs(30);
/// A get and a cat take no longer than this where each chunk has a copy on a node that is well.
const OVERTAKEN: Duration = Duration::from_secs(2);

/// Keeps events, and how long the longest wait was between two of them, or two questions to nodes.
struct Clock {
    events: Arc<Recorder>,
    began: Instant,
    waits: Mutex<(Instant, Duration)>,
    last_event: Mutex<Instant>,
}

impl Clock {
    fn tick(&self) -> Duration {
        let mut waits = self.waits.lock().unwrap();
        let now = Instant::now();
        *waits = (now, waits.1.max(now - waits.0));
        waits.1
    }
}

/// What looks whether anything more was asked of any node.
struct Moves(tokio::task::JoinHandle<()>);

impl Drop for Moves {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Monitor for Clock {
    fn event(&self, event: Event) {
        self.tick();
        *self.last_event.lock().unwrap() = Instant::now();
        self.events.event(event);
    }
}

/// One cell: a pool, some nodes of which are ill.
struct Cell {
    pool: Pool,
    like: Like,
    ill: Ill,
    /// How many are ill: the first ones.
    count: usize,
    name: String,
    /// Where files are fetched to.
    dir: tempfile::TempDir,
    complaints: Vec<String>,
}

impl Cell {
    async fn new(op: &str, like: Like, ill: Ill, count: usize) -> Self {
        let mut setup = Setup::builtin(0).seed(1 + count as u64);
        setup.nodes = vec![(like, CAPACITY); NODES];
        setup.policy.chunk_size = CHUNK as u32;
        let pool = Pool::new(setup).await;
        let name = format!("{op}, {ill:?}, {count} of {NODES} {like:?}");
        let dir = tempfile::tempdir().unwrap();
        Self { pool, like, ill, count, name, dir, complaints: Vec::new() }
    }

    /// What does not hold is kept, and all of it told in the end.
    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.complaints.push(format!("{}: {}", self.name, what()));
        }
    }

    fn strike(&self, damaged: &[ChunkId]) {
        for at in 0..self.count {
            self.ill.strike(&self.pool, at, self.like);
            self.ill.damage(&self.pool, at, damaged);
        }
    }

    /// The fault ends; damage that was done stays.
    async fn heal(&self) {
        self.pool.nodes.iter().for_each(|node| node.fault.heal());
        self.pool.coordinator.ask_nodes().await;
    }

    /// The user, what measures how long it waits, and what sees that it moves on: from one node to another, above all.
    fn timed(&self) -> (User, Arc<Clock>, Moves) {
        let (events, now) = (Arc::new(Recorder::default()), Instant::now());
        let clock = Arc::new(Clock {
            events: Arc::clone(&events),
            began: now,
            waits: Mutex::new((now, Duration::ZERO)),
            last_event: Mutex::new(now),
        });
        let mut user = self.pool.admin.clone();
        user.events = events;
        user.context.watch = Arc::clone(&clock) as bytenode::monitor::Watch;
        let faults: Vec<_> = self.pool.nodes.iter().map(|node| Arc::clone(&node.fault)).collect();
        let asked = move || faults.iter().map(|node| node.calls(Call::Write) + node.calls(Call::Read)).sum::<u64>();
        let (seen, mut before) = (Arc::clone(&clock), asked());
        let mut every = tokio::time::interval(Duration::from_millis(100));
        let moves = tokio::spawn(async move {
            loop {
                every.tick().await;
                let now = asked();
                if std::mem::replace(&mut before, now) != now {
                    seen.tick();
                }
            }
        });
        (user, clock, Moves(moves))
    }

    /// It never waited longer than it may, nor after all was done, and a node that fails costs its limit once, not for
    /// each chunk.
    fn in_time(&mut self, what: &str, done: bool, clock: &Clock) {
        let (longest, whole) = (clock.tick(), clock.began.elapsed());
        let end = clock.last_event.lock().unwrap().elapsed();
        self.must(!done || end <= LIMIT, || format!("{what} was done, and went on for {end:?}"));
        self.must(longest <= LIMIT, || format!("{what} waited for {longest:?}"));
        let most = LIMIT * (1 + self.count as u32);
        self.must(whole <= most, || format!("{what} took {whole:?}"));
    }

    /// Every ill node that was asked is named to the user.
    fn named(&mut self, what: &str, calls: &[u64], call: Call, said: &str) {
        for (at, before) in calls.iter().enumerate().take(self.count) {
            let node = &self.pool.nodes[at];
            let (asked, name) = (node.fault.calls(call) > *before, node.name.clone());
            self.must(!asked || said.contains(&name), || format!("{what} does not name {name}: {said}"));
        }
    }

    fn calls(&self, call: Call) -> Vec<u64> {
        self.pool.nodes.iter().map(|node| node.fault.calls(call)).collect()
    }

    async fn put(&mut self, files: &[(&str, &[u8])]) -> (ApiResult<Put>, String) {
        let (user, clock, _moves) = self.timed();
        let files: Vec<_> = files.iter().map(|(to, content)| (user.local(content), path(to))).collect();
        let put = user.try_put_files(files, &PutOptions::default()).await;
        self.in_time("put", put.as_ref().is_ok_and(|put| put.summary.failed == 0), &clock);
        (put, user.notices().join("\n"))
    }

    /// Fetches a file to disk and through `cat`; the code with which that failed, if it did.
    async fn get(&mut self, from: &str, content: &[u8]) -> (Option<Code>, String) {
        let (user, clock, moves) = self.timed();
        let (summary, outcomes) = user.get_into(&[from], self.dir.path()).await;
        self.in_time("get", summary.failed == 0, &clock);
        drop(moves);
        let error = match &outcomes[..] {
            [GetOutcome::Fetched { dest, .. }] => {
                let right = std::fs::read(dest).unwrap() == content;
                self.must(right, || "get gave wrong bytes".to_owned());
                std::fs::remove_file(dest).unwrap();
                let left: Vec<_> = std::fs::read_dir(&self.dir).unwrap().map(|one| one.unwrap().path()).collect();
                self.must(left.is_empty(), || format!("get left {left:?}"));
                None
            }
            [GetOutcome::Failed { dest, error, .. }] => {
                self.must(!dest.exists(), || "get failed, and left half a file".to_owned());
                Some(error.clone())
            }
            other => panic!("{}: {other:?}", self.name),
        };
        let (streamed, streaming, _moves) = self.timed();
        let mut out = Vec::new();
        let options = bytenode::get::GetOptions::default();
        let cat = bytenode::get::cat(&streamed.context, &path(from), 0, None, &options, &mut out).await;
        self.in_time("cat", cat.is_ok(), &streaming);
        let codes = (error.as_ref().map(|error| error.code), cat.as_ref().err().map(|error| error.code));
        self.must(codes.0 == codes.1, || format!("get and cat end otherwise: {codes:?}"));
        self.must(content.starts_with(&out), || "cat gave wrong bytes".to_owned());
        self.must(cat.is_err() || out == content, || "cat gave less".to_owned());
        let text = |error: &ApiError| error.message.clone();
        (codes.0, user.notices().join("\n") + &error.as_ref().map(text).unwrap_or_default())
    }

    /// Indices of nodes that have the right bytes of a chunk.
    fn intact(&self, chunk: &ChunkId) -> Vec<usize> {
        let holders = self.pool.holders(chunk).into_iter();
        holders.filter(|at| self.pool.nodes[*at].memory.has_right(chunk)).collect()
    }

    /// What a get must give of these chunks while some nodes are ill.
    fn get_rule(&self, chunks: &[ChunkId]) -> Option<Code> {
        let spoiled = |at: usize| at < self.count && self.ill.spoils_reads();
        let gives = |at: &usize, chunk: &ChunkId| !spoiled(*at) && !self.pool.nodes[*at].fault.has_lost(chunk);
        let readable = |chunk: &&ChunkId| self.intact(chunk).iter().any(|at| gives(at, chunk));
        let code = if self.ill.is_of_bytes() { Code::Integrity } else { Code::Temporary };
        (!chunks.iter().all(|chunk| readable(&chunk))).then_some(code)
    }

    async fn chunks(&self, of: &str) -> Vec<ChunkId> {
        self.pool.admin.chunks(of).await.iter().map(|chunk| chunk.cid).collect()
    }

    /// Fetches a file while nodes are ill, and compares with the rule.
    async fn get_by_rule(&mut self, from: &str, content: &[u8]) {
        let (rule, before) = (self.get_rule(&self.chunks(from).await), self.calls(Call::Read));
        let began = Instant::now();
        let (code, said) = self.get(from, content).await;
        self.must(code == rule, || format!("get gives {code:?}, not {rule:?}: {said}"));
        if self.ill.is_late() && rule.is_none() {
            // Other nodes overtake it, and nobody need hear of it.
            let took = began.elapsed();
            let well = self.count < COPIES;
            self.must(!well || took < OVERTAKEN, || format!("get and cat took {took:?} beside nodes that are late"));
        } else if self.ill.spoils_reads() {
            self.named("get", &before, Call::Read, &said);
        }
    }

    async fn mend(&self) -> HealthReport {
        self.pool.check(HealthRequest { read: true, ..HealthRequest::default() }).await
    }

    /// "Healthy" is said only of what is.
    async fn honest(&mut self, file: &str) {
        let chunks = self.chunks(file).await;
        for read in [false, true] {
            let request = HealthRequest { read, dry_run: true, ..HealthRequest::default() };
            let report = self.pool.check(request).await;
            let has = |at: &usize, chunk: &ChunkId| {
                let node = &self.pool.nodes[*at];
                !node.fault.has_lost(chunk) && (!read || node.memory.has_right(chunk))
            };
            let whole = |chunk: &ChunkId| {
                self.pool.holders(chunk).iter().filter(|at| has(at, chunk)).count() >= COPIES && !self.ill.silences()
            };
            let whole = chunks.iter().all(whole);
            self.must(whole || report.verdict != Verdict::Healthy, || format!("healthy is said of {report:?}"));
        }
    }

    /// After the fault: health mends what can be mended and says what cannot; the file is there by the same measure.
    async fn mended(&mut self, file: &str, content: &[u8]) {
        let chunks = self.chunks(file).await;
        let possible = chunks.iter().all(|chunk| !self.intact(chunk).is_empty());
        let report = self.mend().await;
        let expected = if possible { Verdict::Healthy } else { Verdict::Lost };
        self.must(report.verdict == expected, || format!("mended to {:?}: {report:?}", report.verdict));
        // What nobody needs, gc drops.
        self.pool.admin.session.gc(true, false).await.unwrap();
        let (code, said) = self.get(file, content).await;
        let rule = (!possible).then_some(Code::Integrity);
        self.must(code == rule, || format!("afterwards get gives {code:?}: {said}"));
        if possible {
            // What it finds again it has not mended.
            let again = self.mend().await;
            self.must(again.findings_total == 0, || format!("still to mend: {again:?}"));
            let copies: Vec<usize> = chunks.iter().map(|chunk| self.intact(chunk).len()).collect();
            self.must(copies.iter().all(|copies| *copies == COPIES), || format!("copies {copies:?}"));
        }
    }

    /// Removes what is left, and sees that it leaves nothing, anywhere, once every lease is over.
    async fn nothing_left(&mut self) {
        self.pool.admin.rm("bn:/d").await;
        tokio::time::advance(Duration::from_secs(25 * 3600)).await;
        self.pool.coordinator.ask_nodes().await;
        for _ in 0..2 {
            self.pool.admin.session.gc(true, false).await.unwrap();
        }
        let packs: usize = self.pool.nodes.iter().map(|node| node.memory.packs().len()).sum();
        let copies = self.pool.copies();
        self.must((packs, copies) == (0, 0), || format!("{packs} packs and {copies} copies are left on nodes"));
        for sql in [
            "SELECT count(*) FROM chunk",
            "SELECT count(*) FROM replica",
            "SELECT count(*) FROM version",
            "SELECT count(*) FROM manifest",
            "SELECT count(*) FROM lease",
            "SELECT count(*) FROM pack WHERE state <> 4",
        ] {
            let count = self.pool.count(sql).await;
            self.must(count == 0, || format!("{sql}: {count}"));
        }
    }
}

/// What became of each file: its copies, or why it failed.
fn each(put: &ApiResult<Put>, files: &[(&str, &[u8])]) -> Vec<Result<usize, ApiError>> {
    let put = match put {
        Ok(put) => put,
        Err(error) => return files.iter().map(|_| Err(error.clone())).collect(),
    };
    let of = |path: &str| {
        let found = put.outcomes.iter().find_map(|one| match one {
            PutOutcome::Stored { entry, .. } if entry.path.to_string() == path => {
                Some(Ok(entry.copies_min.unwrap() as usize))
            }
            PutOutcome::Failed { path: Some(at), error, .. } if at.to_string() == path => Some(Err(error.clone())),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("nothing of {path}: {put:?}"))
    };
    files.iter().map(|(path, _)| of(path)).collect()
}

/// One pool after another; all complaints at once.
fn table(cell: impl AsyncFn(Like, Ill, usize) -> Vec<String>) {
    let cells: Vec<(Like, Ill, usize)> = [Like::Builtin, Like::Kubo]
        .into_iter()
        .flat_map(|like| Ill::ALL.map(|ill| (like, ill)))
        .flat_map(|(like, ill)| [1, COPIES - 1, NODES - 1].map(|count| (like, ill, count)))
        .collect();
    let mut complaints = Vec::new();
    for (like, ill, count) in cells {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        complaints.extend(runtime.block_on(cell(like, ill, count)));
    }
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn put() {
    table(async |like, ill, count| {
        let mut cell = Cell::new("put", like, ill, count).await;
        // Of files of one chunk, some are to go to the nodes that are well.
        let paths = ["bn:/d/a", "bn:/d/b", "bn:/d/c", "bn:/d/d"];
        let contents: Vec<Vec<u8>> = (0..4).map(|at| bytes(1 + at, if at == 0 { SIZE } else { 1000 })).collect();
        let files: Vec<(&str, &[u8])> = paths.into_iter().zip(contents.iter().map(Vec::as_slice)).collect();
        let before = cell.calls(Call::Write);
        cell.strike(&[]);
        let (put, notices) = cell.put(&files).await;
        let rule = ill.put_rule(like, count);
        let got = each(&put, &files);
        let mut said = notices;
        for ((path, content), got) in files.iter().zip(&got) {
            let code = got.as_ref().map_or_else(|error| Err(error.code), |copies| Ok(*copies));
            cell.must(code == rule, || format!("{path} gives {got:?}, not {rule:?}: {said}"));
            let shown = cell.pool.admin.stat(path).await;
            match got {
                Ok(copies) => {
                    cell.must(shown.is_ok(), || format!("{path} is acknowledged, and not visible"));
                    let held = cell.chunks(path).await.iter().map(|chunk| cell.intact(chunk).len()).min();
                    cell.must(held >= Some(*copies), || format!("{path} has {held:?} copies, not {copies}"));
                    cell.get_by_rule(path, content).await;
                    cell.honest(path).await;
                }
                Err(error) => {
                    cell.must(shown.is_err_and(|error| error.code == Code::NotFound), || {
                        format!("{path} is half there")
                    });
                    let named = cell.pool.nodes[..count].iter().any(|node| error.message.contains(&node.name));
                    cell.must(named, || format!("the error names no node: {error}"));
                    said.push_str(&error.message);
                }
            }
        }
        if ill.spoils_writes(like) {
            cell.named("put", &before, Call::Write, &said);
        }
        // One that is killed in the middle, where anything takes time, leaves nothing but its lease.
        let (killed, large, options) = (cell.pool.admin.clone(), bytes(9, SIZE), PutOptions::default());
        let put = killed.try_put("bn:/d/killed", &large, &options);
        drop(tokio::time::timeout(Duration::from_secs(3), put).await);
        cell.heal().await;
        let (again, said) = cell.put(&files).await;
        let done = again.as_ref().is_ok_and(|put| match rule {
            Ok(_) => put.summary.unchanged == files.len() as u64,
            Err(_) => put.summary.copies_min == Some(COPIES as u32) && put.summary.failed == 0,
        });
        cell.must(done, || format!("the same command again: {again:?} {said}"));
        for (path, content) in &files {
            cell.mended(path, content).await;
        }
        cell.nothing_left().await;
        cell.complaints
    });
}

#[test]
fn get() {
    table(async |like, ill, count| {
        let mut cell = Cell::new("get", like, ill, count).await;
        let content = bytes(1, SIZE);
        let (put, said) = cell.put(&[("bn:/d/a", &content)]).await;
        assert_eq!(put.unwrap().summary.copies_min, Some(COPIES as u32), "{said}");
        cell.strike(&cell.chunks("bn:/d/a").await);
        cell.get_by_rule("bn:/d/a", &content).await;
        cell.honest("bn:/d/a").await;
        cell.heal().await;
        cell.mended("bn:/d/a", &content).await;
        cell.nothing_left().await;
        cell.complaints
    });
}

#[test]
fn rm() {
    table(async |like, ill, count| {
        let mut cell = Cell::new("rm", like, ill, count).await;
        let (kept, gone, alone) = (bytes(1, SIZE), bytes(2, SIZE), bytes(3, SIZE));
        // Two in one put, so that packs must shrink, and one whose packs must go.
        for files in [&[("bn:/d/kept", &kept[..]), ("bn:/d/gone/1", &gone)][..], &[("bn:/d/gone/2", &alone)]] {
            let (put, said) = cell.put(files).await;
            assert_eq!(put.unwrap().summary.copies_min, Some(COPIES as u32), "{said}");
        }
        let keeps = cell.chunks("bn:/d/kept").await;
        let goes = [cell.chunks("bn:/d/gone/1").await, cell.chunks("bn:/d/gone/2").await].concat();
        cell.strike(&keeps);
        let began = Instant::now();
        cell.pool.admin.rm("bn:/d/gone").await;
        cell.must(began.elapsed() < Duration::from_secs(1), || format!("rm took {:?}", began.elapsed()));
        let shown = cell.pool.admin.stat("bn:/d/gone").await;
        cell.must(shown.is_err_and(|error| error.code == Code::NotFound), || "removed, and visible".to_owned());
        cell.pool.admin.session.gc(true, false).await.unwrap();
        cell.get_by_rule("bn:/d/kept", &kept).await;
        cell.honest("bn:/d/kept").await;
        cell.heal().await;
        cell.pool.admin.session.gc(true, false).await.unwrap();
        let left = |cell: &Cell| goes.iter().map(|chunk| cell.pool.holders(chunk).len()).sum::<usize>();
        let before = left(&cell);
        // A node that lied has what only a check of all nodes finds.
        cell.must(before == 0 || ill == Ill::Lie, || format!("{before} copies of what was removed are not dropped"));
        cell.mended("bn:/d/kept", &kept).await;
        let after = left(&cell);
        cell.must(after == 0, || format!("{after} copies of what was removed are left"));
        cell.nothing_left().await;
        cell.complaints
    });
}
