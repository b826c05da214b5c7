//! Reading: what is told of bad copies, what changes meanwhile, and what is left when it is given up.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytenode::admin::Admin;
use bytenode::api::{Api, BadCopy, Code};
use bytenode::get::{self, GetOptions, GetOutcome, Wanted};
use bytenode::put::Overwrite;
use bytenode::tree::{Found, LocalFile};

use crate::support::bent::{Answer, bent};
use crate::support::pool::{MIB, Pool, Setup, User, always, bytes, path};

/// A user, and what they report.
fn reporting(pool: &Pool) -> (User, Arc<Mutex<Vec<BadCopy>>>) {
    let reports: Arc<Mutex<Vec<BadCopy>>> = Arc::default();
    let kept = Arc::clone(&reports);
    let user = bent(&pool.admin, move |answer| {
        if let Answer::Reported(reports) = answer {
            kept.lock().unwrap().extend_from_slice(reports);
        }
    });
    (user, reports)
}

fn small_chunks() -> Setup {
    let mut setup = Setup::builtin(5);
    setup.policy.chunk_size = 4096;
    setup
}

/// A range that could not be read once ended without a report, and left its read open.
#[tokio::test(start_paused = true)]
async fn a_range_that_cannot_be_read_is_reported_and_its_read_ends() {
    let pool = Pool::new(Setup::builtin(5)).await;
    pool.admin.put("bn:/a", &bytes(1, MIB)).await;
    let chunk = pool.admin.chunks("bn:/a").await[0].cid;
    let corrupt = pool.nodes.iter().filter(|node| node.memory.corrupt(&chunk)).count();
    let (user, reports) = reporting(&pool);
    pool.trace.reset();
    assert_eq!(user.try_get("bn:/a").await.unwrap_err().code, Code::Integrity);
    assert!(reports.lock().unwrap().len() >= corrupt);
    assert_eq!(pool.trace.count("api release"), 1);
}

/// The coordinator reads what is reported. Of a node that hangs it once had to try every chunk, one after the other.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_is_reported_once() {
    let pool = Pool::new(small_chunks()).await;
    let content = bytes(1, 400 * 4096);
    pool.admin.put("bn:/a", &content).await;
    pool.kill(0);
    let (user, reports) = reporting(&pool);
    assert!(user.get("bn:/a").await == content);
    assert_eq!((reports.lock().unwrap().len(), user.notices().len()), (1, 1), "{:?}", user.notices());
}

/// People are told of every bad node once, however much was bad before; once that was forgotten after 256 copies.
#[tokio::test(start_paused = true)]
async fn every_bad_node_is_told_once() {
    let pool = Pool::new(small_chunks()).await;
    let content = bytes(1, 3000 * 4096);
    pool.admin.put("bn:/a", &content).await;
    let mut cursor = None;
    let mut chunks = Vec::new();
    loop {
        let page = pool.admin.session.chunk_rows(&path("bn:/a"), cursor.as_deref(), 1024).await.unwrap();
        chunks.extend(page.items.into_iter().map(|row| row.cid));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    for (at, chunk) in chunks.iter().enumerate() {
        pool.nodes[0].memory.corrupt(chunk);
        if at > 2700 {
            pool.nodes[1].memory.corrupt(chunk);
        }
    }
    let (user, reports) = reporting(&pool);
    assert!(user.get("bn:/a").await == content);
    assert_eq!(reports.lock().unwrap().len(), 256);
    assert_eq!(user.notices().len(), 2, "{:?}", user.notices());
}

/// A file that was replaced after it was listed once came with the bytes of the new version and the time of the old.
#[tokio::test(start_paused = true)]
async fn what_is_fetched_is_one_version() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let user = &pool.admin;
    user.put("bn:/a", b"old").await;
    let listed = user.stat("bn:/a").await.unwrap();
    let modified = jiff::Timestamp::from_second(1_700_000_000).unwrap();
    let source = user.local(b"newer");
    std::fs::File::options().write(true).open(&source).unwrap().set_modified(modified.into()).unwrap();
    let file = LocalFile { source, to: path("bn:/a"), size: 5, modified, executable: true };
    user.try_put_found(vec![Found::File(file)], &always()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let wanted = vec![Wanted { entry: listed, dest: dir.path().join("a") }];
    let mut outcomes = Vec::new();
    let mut each = |one| outcomes.push(one);
    let options = GetOptions::default();
    let got = get::get(&user.context, Box::new(wanted.into_iter()), &options, &mut each).await.unwrap();
    assert_eq!(got.bytes, 5);
    let [GetOutcome::Fetched { entry, dest }] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(entry.sha256.unwrap().0, bytenode::id::sha256(b"newer"));
    assert_eq!(std::fs::read(dest).unwrap(), b"newer");
    let metadata = std::fs::metadata(dest).unwrap();
    assert_eq!(bytenode::tree::modified(&metadata), modified);
    #[cfg(unix)]
    assert!(bytenode::tree::executable(&metadata));
}

/// With `--overwrite always` a device or a pipe was once replaced by a regular file.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn only_regular_files_and_links_are_replaced() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let entry = pool.admin.put("bn:/a", b"a").await.entry().clone();
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for overwrite in [Overwrite::Never, Overwrite::IfChanged, Overwrite::Always] {
        let wanted = vec![Wanted { entry: entry.clone(), dest: pipe.clone() }];
        let options = GetOptions { overwrite, ..GetOptions::default() };
        let mut failed = Vec::new();
        let mut each = |one| {
            if let GetOutcome::Failed { error, .. } = one {
                failed.push(error.code);
            }
        };
        get::get(&pool.admin.context, Box::new(wanted.into_iter()), &options, &mut each).await.unwrap();
        assert_eq!(failed, [Code::WrongKind], "{overwrite:?}");
        assert!(!std::fs::metadata(&pipe).unwrap().is_file());
    }
}

/// Polls a future so often, if it does not end before; whether it ended.
async fn poll<T>(future: impl Future<Output = T>, polls: usize) -> bool {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx))).await.is_ready() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

/// Lets everything that still runs run.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

/// A put or a get that is given up, wherever it is, asks nobody for anything any more, and leaves one temporary file at
/// most, which the next get goes on with.
#[tokio::test(start_paused = true)]
async fn what_is_given_up_ends_at_once() {
    let mut setup = Setup::builtin(4);
    setup.policy.chunk_size = 64 << 10;
    let pool = Pool::new(setup).await;
    let user = &pool.admin;
    let content = bytes(1, MIB);
    let entry = user.put("bn:/a", &content).await.entry().clone();
    let (mut ended, mut polls) = (false, 1);
    let dir = tempfile::tempdir().unwrap();
    while !ended {
        let wanted = Wanted { entry: entry.clone(), dest: dir.path().join("a") };
        let mut each = |_| ();
        let options = GetOptions::default();
        ended = poll(get::get(&user.context, Box::new(std::iter::once(wanted)), &options, &mut each), polls).await;
        let asked = pool.trace.counts();
        settle().await;
        assert_eq!(pool.trace.counts(), asked, "get, {polls} polls");
        match &names(dir.path())[..] {
            [] => assert!(!ended, "{polls} polls"),
            [one] if ended => assert_eq!(one, "a", "{polls} polls"),
            [part] => assert!(part.to_str().unwrap().ends_with(".bytenode-part"), "{polls} polls"),
            more => panic!("{more:?}, {polls} polls"),
        }
        polls += 1;
    }
    let source = user.local(&bytes(2, MIB));
    (ended, polls) = (false, 1);
    while !ended {
        let options = always();
        ended = poll(user.try_put_files(vec![(source.clone(), path("bn:/b"))], &options), polls).await;
        let asked = pool.trace.counts();
        settle().await;
        assert_eq!(pool.trace.counts(), asked, "put, {polls} polls");
        tokio::time::advance(Duration::from_secs(25 * 3600)).await;
        user.session.gc(true, false).await.unwrap();
        polls += 1;
    }
}

/// A coordinator that was started again knows no reads. One that it has forgotten is opened again, of the same version.
#[tokio::test(start_paused = true)]
async fn a_read_that_was_forgotten_goes_on() {
    let pool = Pool::new(small_chunks()).await;
    let content = bytes(1, 600 * 4096);
    for replaced in [false, true] {
        pool.admin.try_put("bn:/a", &content, &always()).await.unwrap();
        let read = Arc::new(Mutex::new(None));
        let (seen, asked) = (Arc::clone(&read), Arc::new(Mutex::new(0)));
        let pages = Arc::clone(&asked);
        let user = bent(&pool.admin, move |answer| match answer {
            Answer::Read(session) => *seen.lock().unwrap() = Some(session.read),
            Answer::Page(_) => *pages.lock().unwrap() += 1,
            _ => {}
        });
        let mut get = std::pin::pin!(user.try_get("bn:/a"));
        while *asked.lock().unwrap() == 0 {
            assert!(!poll(get.as_mut(), 1).await);
        }
        let forgotten = read.lock().unwrap().unwrap();
        pool.admin.session.release(forgotten).await.unwrap();
        if replaced {
            pool.admin.try_put("bn:/a", b"other", &always()).await.unwrap();
            assert_eq!(get.await.unwrap_err().code, Code::Changed);
        } else {
            assert!(get.await.unwrap() == content);
            assert_ne!(*read.lock().unwrap(), Some(forgotten), "it was opened again");
        }
    }
}
