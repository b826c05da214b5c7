//! Much of everything: nothing that one user does holds up the others, and nothing grows without bound.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;

use bytenode::admin::{Admin, Verdict};
use bytenode::api::{
    Api, Append, BeginPut, Blob, ChunkDesc, Code, Entry, OpenRead, Part, PlanChunks, ReadChunks, Span, VersionId,
};
use bytenode::catalog::files::MAX_ENTRIES;
use bytenode::id::ChunkId;
use bytenode::put::PutOptions;

use crate::support::pool::{MIB, Pool, Setup, always, bytes, path};

/// Far more entries than one change handles.
const MANY: i64 = 20_000;
/// Work of one change that holds nobody up, in thousands of SQLite's instructions: some ten milliseconds.
const SHORT: u64 = 250;
/// The same for a plan of one chunk.
const SHORT_PLAN: u64 = 20;

/// Makes a change to the catalog behind the coordinator's back.
fn behind(pool: &Pool, sql: &str) {
    rusqlite::Connection::open(pool.dir.path().join("catalog.db")).unwrap().execute_batch(sql).unwrap();
}

/// A pool on disk with a large directory `bn:/a`.
async fn large() -> Pool {
    let pool = Pool::new(Setup::builtin(3).file()).await;
    pool.admin.session.make_dirs(&[path("bn:/a/in")]).await.unwrap();
    behind(
        &pool,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {MANY})
             INSERT INTO entry(vault_id, parent_id, name, created_at)
             SELECT 1, (SELECT id FROM entry WHERE name = 'in'), 'd' || i, 0 FROM n"
        ),
    );
    pool
}

async fn names(pool: &Pool, dir: &str) -> BTreeSet<String> {
    let below = |entry: Entry| entry.path.to_string()[dir.len()..].to_owned();
    pool.admin.list(dir, 1024).await.into_iter().map(below).collect()
}

/// One request worked on a whole tree, or a whole upload, in one change, while everybody else's changes waited.
#[tokio::test]
async fn no_change_is_long() {
    let pool = large().await;
    let session = &pool.admin.session;
    let mut before = 0;
    let mut longest = |what: &str| {
        let now = pool.coordinator.catalog().longest_change();
        eprintln!("{what}: {before} -> {now}");
        before = now;
        assert!(now < SHORT, "{what}: {now}");
    };
    session.copy(&path("bn:/a"), &path("bn:/b")).await.unwrap();
    longest("copy");
    assert_eq!(names(&pool, "bn:/a").await, names(&pool, "bn:/b").await);
    session.rename(&path("bn:/b"), &path("bn:/much-longer")).await.unwrap();
    longest("rename");
    assert_eq!(names(&pool, "bn:/a").await, names(&pool, "bn:/much-longer").await);
    let upload = session.begin_put(&begin()).await.unwrap().upload;
    let hex = data_encoding::HEXLOWER.encode(upload.as_bytes());
    behind(
        &pool,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {MANY})
             INSERT INTO version(vault_id, upload, file, state, chunk_size, public, replicas, created_at)
             SELECT 1, x'{hex}', i, 0, 1048576, 0, 3, 0 FROM n;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {MANY})
             INSERT INTO pack(id, epoch, node_id, vault_id, root, state, bytes, upload, created_at)
             SELECT 1000 + i, 1, 1, 1, randomblob(32), 4, 0, x'{hex}', 0 FROM n"
        ),
    );
    session.release(upload).await.unwrap();
    longest("the end of a put");
    assert_eq!(pool.count("SELECT count(*) FROM lease").await, 0);
    let held = "SELECT (SELECT count(*) FROM version WHERE upload NOT NULL) + (SELECT count(*) FROM pack WHERE upload NOT NULL)";
    assert_eq!(pool.count(held).await, 0);
    behind(
        &pool,
        &format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {MANY})
             INSERT INTO entry(vault_id, parent_id, name, created_at)
             SELECT 1, (SELECT id FROM entry WHERE parent_id IS NULL AND detached_at IS NULL), 'd' || i, 0 FROM n"
        ),
    );
    session.remove(&path("bn:/"), true, false).await.unwrap();
    longest("rm");
    session.gc(true, true).await.unwrap();
    longest("gc --dry-run");
    session.gc(true, false).await.unwrap();
    longest("gc");
    assert_eq!(pool.count("SELECT count(*) FROM entry").await, 1);
    assert_eq!(pool.count("SELECT count(*) FROM version").await, 0);
    assert_eq!(pool.count("SELECT entries FROM vault").await, 1);
}

/// To ask again about one chunk read all packs of the upload.
#[tokio::test]
async fn a_repeated_plan_is_short_however_much_was_planned() {
    let pool = Pool::new(Setup::builtin(3).file()).await;
    let session = &pool.admin.session;
    let upload = session.begin_put(&begin()).await.unwrap().upload;
    let plan = |file: u32| PlanChunks {
        files: vec![Append { file, first: 0, chunks: vec![desc(u64::from(file))], sealed_keys: Blob::default() }],
    };
    let first = session.plan_chunks(upload, &plan(0)).await.unwrap();
    for file in 1..300 {
        session.plan_chunks(upload, &plan(file)).await.unwrap();
    }
    let again = session.plan_chunks(upload, &plan(0)).await.unwrap();
    assert_eq!(ids(&first), ids(&again));
    let longest = pool.coordinator.catalog().longest_change();
    assert!(longest < SHORT_PLAN, "{longest}");
}

fn ids(planned: &bytenode::api::ChunksPlanned) -> BTreeSet<bytenode::id::PackId> {
    planned.packs.iter().map(|pack| pack.id).collect()
}

/// A copy of many entries is made in steps: nobody sees half of it, no sweep touches it, what is moved while it is made
/// cannot be missing from it, and what was given up does not stay.
#[tokio::test]
async fn a_large_copy_is_whole_or_not_there() {
    let pool = large().await;
    let session = &pool.admin.session;
    let barrier = async || pool.coordinator.catalog().write(|_| Ok(())).await.unwrap();
    let (a, b) = (path("bn:/a"), path("bn:/b"));
    let mut copy = session.copy(&a, &b);
    assert!((&mut copy).now_or_never().is_none());
    barrier().await;
    assert_eq!(pool.admin.stat("bn:/b").await.unwrap_err().code, Code::NotFound);
    session.gc(true, false).await.unwrap();
    copy.await.unwrap();
    assert_eq!(names(&pool, "bn:/a").await, names(&pool, "bn:/b").await);
    let entries = pool.count("SELECT count(*) FROM entry").await;

    let c = path("bn:/c");
    let mut copy = session.copy(&a, &c);
    assert!((&mut copy).now_or_never().is_none());
    // From the part that is still to come to the part that is done.
    session.rename(&path("bn:/a/in/d999"), &path("bn:/a/in/d0")).await.unwrap();
    let error = copy.await.unwrap_err();
    assert_eq!((error.code, &*error.message), (Code::Changed, "something was moved while bn:/a was copied"));
    let mut copy = session.copy(&a, &c);
    assert!((&mut copy).now_or_never().is_none());
    drop(copy);
    barrier().await;
    assert!(pool.count("SELECT count(*) FROM entry").await > entries);
    session.gc(true, false).await.unwrap();
    assert_eq!(pool.count("SELECT count(*) FROM entry").await, entries);
    assert_eq!(pool.count("SELECT entries FROM vault").await, entries);
    assert_eq!(pool.admin.stat("bn:/c").await.unwrap_err().code, Code::NotFound);

    let mut copy = session.copy(&a, &c);
    assert!((&mut copy).now_or_never().is_none());
    session.make_dirs(std::slice::from_ref(&c)).await.unwrap();
    assert_eq!(copy.await.unwrap_err().code, Code::Exists);
}

/// A few bytes of `cp` doubled a tree again and again.
#[tokio::test(start_paused = true)]
async fn a_user_has_a_limited_number_of_entries() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let session = &pool.admin.session;
    session.make_dirs(&[path("bn:/a/b/c")]).await.unwrap();
    assert_eq!(pool.count("SELECT entries FROM vault").await, 4);
    let full = |room: u64| {
        let entries = i64::try_from(MAX_ENTRIES - room).unwrap();
        pool.coordinator.catalog().write(move |c| Ok(c.execute("UPDATE vault SET entries = ?1", [entries])?))
    };
    full(2).await.unwrap();
    let error = session.copy(&path("bn:/a"), &path("bn:/d")).await.unwrap_err();
    assert_eq!(error.code, Code::NoRoom);
    assert!(error.message.contains(&MAX_ENTRIES.to_string()), "{error}");
    assert_eq!(pool.count("SELECT count(*) FROM entry").await, 4, "nothing of it stays");
    full(1).await.unwrap();
    session.make_dirs(&[path("bn:/a/d")]).await.unwrap();
    assert_eq!(session.make_dirs(&[path("bn:/a/e")]).await.unwrap_err().code, Code::NoRoom);
    let put = pool.admin.try_put("bn:/f", b"content", &always()).await.unwrap();
    assert_eq!(put.error().code, Code::NoRoom);
    session.rename(&path("bn:/a/d"), &path("bn:/a/f")).await.unwrap();
    session.remove(&path("bn:/a/f"), true, false).await.unwrap();
    session.gc(true, false).await.unwrap();
    session.make_dirs(&[path("bn:/a/e")]).await.unwrap();
}

/// What `gc --dry-run` says is what `gc` does, whatever is shared, read, or in removed directories.
#[tokio::test(start_paused = true)]
async fn a_sweep_is_foreseen() {
    for seed in 1..=20 {
        let pool = Pool::new(Setup::builtin(4).seed(seed)).await;
        let (user, seam) = (&pool.admin, &pool.seam);
        for _ in 0..12 {
            let to = format!("bn:/d{}/e{}/f{}", seam.below(2), seam.below(2), seam.below(3));
            let content = [bytes(seam.below(4), MIB), bytes(seam.below(6), MIB)].concat();
            user.put_with(&to, &content, &always()).await;
        }
        let all = user.list("bn:/", 1024).await;
        let files: Vec<_> =
            all.iter().filter(|entry| entry.version.is_some()).map(|entry| entry.path.clone()).collect();
        let one = files[seam.below(files.len() as u64) as usize].clone();
        drop(user.session.copy(&one, &path("bn:/copy")).await);
        let open = OpenRead { machine: "m".into(), paths: vec![files[0].clone()] };
        let read = user.session.open_read(&open).await.unwrap().read;
        let gone: Vec<_> = all.iter().filter(|_| seam.below(3) == 0).map(|entry| entry.path.clone()).collect();
        for path in gone {
            drop(user.session.remove(&path, true, false).await);
        }
        for now in [false, true] {
            let before = pool.dump().await;
            let planned = user.session.gc(now, true).await.unwrap();
            assert_eq!(pool.dump().await, before, "seed {seed}");
            assert_eq!(user.session.gc(now, false).await.unwrap(), planned, "seed {seed}");
        }
        user.session.release(read).await.unwrap();
        user.rm("bn:/").await;
        let planned = user.session.gc(true, true).await.unwrap();
        assert_eq!(user.session.gc(true, false).await.unwrap(), planned, "seed {seed}");
        assert_eq!(pool.copies(), 0, "seed {seed}");
    }
}

fn begin() -> BeginPut {
    BeginPut { machine: "m".into(), replicas: None, public: false }
}

fn desc(seed: u64) -> ChunkDesc {
    ChunkDesc { chunk: ChunkId::of(&seed.to_le_bytes()), bytes: 116, length: 100, part: Part::Sealed }
}

/// Plain chunks belong to all: a client that planned one with a wrong length kept everybody else from storing it.
#[tokio::test(start_paused = true)]
async fn a_false_length_hinders_nobody() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let (content, other) = (bytes(1, 1000), pool.user("anna").await);
    let upload = other.session.begin_put(&BeginPut { public: true, ..begin() }).await.unwrap().upload;
    let lie = ChunkDesc { chunk: ChunkId::of(&content), bytes: 999, length: 999, part: Part::Plain };
    let files = vec![Append { file: 0, first: 0, chunks: vec![lie], sealed_keys: Blob::default() }];
    assert_eq!(other.session.plan_chunks(upload, &PlanChunks { files }).await.unwrap().packs.len(), 3);
    let public = PutOptions { public: true, ..always() };
    let put = pool.admin.put_with("bn:/a", &content, &public).await;
    assert_eq!((put.summary.failed, put.summary.copies_min), (0, Some(3)));
    assert_eq!(pool.admin.get("bn:/a").await, content);
    assert_eq!(other.put_with("bn:/a", &content, &public).await.summary.sent_bytes, 0, "it is here, with its length");
    other.session.release(upload).await.unwrap();
    other.session.report_bad(&[]).await.unwrap();
    pool.admin.session.gc(true, false).await.unwrap();
    let report = pool.health().await;
    assert_eq!((report.verdict, report.chunks, pool.copies()), (Verdict::Healthy, 1, 3));
    assert_eq!(pool.count("SELECT count(*) FROM chunk").await, 1);
}

/// One user could open all the reads that there may be, and keep all others from reading.
#[tokio::test(start_paused = true)]
async fn a_user_has_a_limited_number_of_reads() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let (user, other) = (&pool.admin, pool.user("anna").await);
    user.put("bn:/a", b"content").await;
    let open = OpenRead { machine: "m".into(), paths: vec![path("bn:/a")] };
    let mut reads = Vec::new();
    let error = loop {
        match user.session.open_read(&open).await {
            Ok(read) => reads.push(read),
            Err(error) => break error,
        }
    };
    assert_eq!((error.code, reads.len()), (Code::Temporary, 256));
    assert_eq!(error.message, "admin has 256 reads under way, as many as a user may have");
    other.session.open_read(&open).await.unwrap();
    // Those that give no sign of life make room, the longest silent first; those that do stay.
    tokio::time::advance(Duration::from_secs(100)).await;
    for read in &reads[1..] {
        user.session.renew(read.read).await.unwrap();
    }
    assert_eq!(user.session.open_read(&open).await.unwrap_err().code, Code::Temporary);
    tokio::time::advance(Duration::from_secs(100)).await;
    user.session.open_read(&open).await.unwrap();
    assert_eq!(user.session.open_read(&open).await.unwrap_err().code, Code::Temporary);
    let span = |version: VersionId| ReadChunks { spans: vec![Span { version, first: 0, count: 1 }] };
    let version = reads[0].files[0].as_ref().unwrap().version;
    assert_eq!(user.session.read_chunks(reads[0].read, &span(version)).await.unwrap_err().code, Code::Replan);
    user.session.read_chunks(reads[1].read, &span(version)).await.unwrap();
}

/// Every check wrote to the row of every file, though nothing of it had changed.
#[tokio::test(start_paused = true)]
async fn a_check_touches_only_what_changed() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let user = &pool.admin;
    user.put("bn:/a", &bytes(1, MIB)).await;
    let stored = user.stat("bn:/a").await.unwrap().checked.unwrap();
    let versions = async || pool.dump().await.lines().filter(|row| row.starts_with("version: ")).collect::<String>();
    let before = versions().await;
    tokio::time::advance(Duration::from_secs(60)).await;
    let began = pool.seam.now();
    assert!(began > stored);
    pool.health().await;
    assert_eq!(versions().await, before);
    assert_eq!(user.stat("bn:/a").await.unwrap().checked, Some(began));
    tokio::time::advance(Duration::from_secs(60)).await;
    let later = user.put("bn:/b", &bytes(2, MIB)).await.entry().checked.unwrap();
    assert!(later > began);
    let listed: Vec<_> = user.list("bn:/", 9).await.into_iter().map(|entry| entry.checked).collect();
    assert_eq!(listed, [Some(began), Some(later)]);
}
