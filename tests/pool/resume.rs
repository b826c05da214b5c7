//! What was interrupted is gone on with: a get continues its temporary file, after proving what is in it.

use std::fs;
use std::path::{Path, PathBuf};

use bytenode::get::{self, GetOptions, GetOutcome, GetSummary, Wanted};
use bytenode::put::PutOptions;

use crate::support::pool::{MIB, Pool, Setup, User, bytes};

const CHUNK: usize = 64 << 10;

async fn pool() -> Pool {
    let mut setup = Setup::builtin(4);
    setup.policy.chunk_size = CHUNK as u32;
    Pool::new(setup).await
}

/// The temporary files in a directory.
fn parts(dir: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    names.filter(|path| path.extension().is_some_and(|extension| extension == "bytenode-part")).collect()
}

/// Gives up a get of a file as soon as its temporary file has so many bytes; gives that file.
async fn interrupted(user: &User, from: &str, dir: &Path, at_least: usize) -> PathBuf {
    let entry = user.stat(&format!("bn:/{from}")).await.unwrap();
    let wanted = Wanted { entry, dest: dir.join(from) };
    let (mut each, options) = (|_| (), GetOptions::default());
    let mut get = Box::pin(get::get(&user.context, Box::new(std::iter::once(wanted)), &options, &mut each));
    loop {
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(get.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "the get ended before it was given up");
        if parts(dir).first().is_some_and(|part| fs::metadata(part).unwrap().len() >= at_least as u64) {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(get);
    parts(dir).pop().expect("what was written stays")
}

/// Gets a file and gives how many chunks came from nodes.
async fn again(pool: &Pool, from: &str, dir: &Path) -> (GetSummary, u64) {
    pool.trace.reset();
    let (summary, outcomes) = pool.admin.get_into(&[&format!("bn:/{from}")], dir).await;
    assert!(matches!(outcomes[..], [GetOutcome::Fetched { .. }]), "{outcomes:?}");
    let calls = pool.trace.counts();
    let reads = calls.iter().filter(|(call, _)| call.ends_with(" read_chunk")).map(|(_, count)| count).sum();
    (summary, reads)
}

/// What becomes of a temporary file before the get is run again, and how many of its chunks at the beginning are good.
type Harm = (&'static str, fn(&mut Vec<u8>), fn(u64) -> u64);

const HARMS: &[Harm] = &[
    ("nothing", |_| (), |whole| whole),
    ("a byte more", |part| part.push(7), |whole| whole),
    ("a byte less", |part| part.truncate(part.len() - 1), |whole| whole - 1),
    ("nothing left", Vec::clear, |_| 0),
    ("its first byte changed", |part| part[0] ^= 1, |_| 0),
    ("a byte of the third chunk changed", |part| part[2 * CHUNK + 5] ^= 0x80, |_| 2),
    ("zeros where a power cut lost them", |part| part[3 * CHUNK..5 * CHUNK].fill(0), |_| 3),
    ("much longer than the file", |part| part.resize(9 * MIB, 1), |whole| whole),
];

async fn an_interrupted_get_goes_on(public: bool) {
    let pool = pool().await;
    let content = bytes(1, 3 * MIB + 1);
    let chunks = content.len().div_ceil(CHUNK) as u64;
    pool.admin.put_with("bn:/a", &content, &PutOptions { public, ..PutOptions::default() }).await;
    for (harm, change, good) in HARMS {
        let dir = tempfile::tempdir().unwrap();
        let part = interrupted(&pool.admin, "a", dir.path(), MIB).await;
        let mut left = fs::read(&part).unwrap();
        assert!(left == content[..left.len()] && left.len() % CHUNK == 0, "{harm}");
        let good = good((left.len() / CHUNK) as u64);
        change(&mut left);
        fs::write(&part, left).unwrap();
        let (summary, reads) = again(&pool, "a", dir.path()).await;
        assert!(fs::read(dir.path().join("a")).unwrap() == content, "{harm}");
        assert_eq!(summary.resumed_bytes, good * CHUNK as u64, "{harm}");
        assert!(reads <= chunks - good, "{harm}: {reads} of {chunks} chunks read, {good} were there");
        assert_eq!(parts(dir.path()), [] as [PathBuf; 0], "{harm}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_get_of_a_sealed_file_goes_on() {
    an_interrupted_get_goes_on(false).await;
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_get_of_a_public_file_goes_on() {
    an_interrupted_get_goes_on(true).await;
}

/// Another file of the same name is not gone on with: what was left of the first is removed.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_another_version_is_removed() {
    let pool = pool().await;
    let (old, new) = (bytes(1, 2 * MIB), bytes(2, 2 * MIB));
    pool.admin.put("bn:/a", &old).await;
    let dir = tempfile::tempdir().unwrap();
    interrupted(&pool.admin, "a", dir.path(), MIB).await;
    pool.admin.put_with("bn:/a", &new, &crate::support::pool::always()).await;
    let (summary, _) = again(&pool, "a", dir.path()).await;
    assert_eq!(summary.resumed_bytes, 0);
    assert!(fs::read(dir.path().join("a")).unwrap() == new && parts(dir.path()).is_empty());
}

/// A get that cannot go on keeps what it has; a disk that is full is not left with it.
#[tokio::test(start_paused = true)]
async fn what_fails_for_want_of_nodes_goes_on_when_they_are_back() {
    let pool = pool().await;
    let content = bytes(1, 3 * MIB);
    pool.admin.put("bn:/a", &content).await;
    let dir = tempfile::tempdir().unwrap();
    let part = interrupted(&pool.admin, "a", dir.path(), MIB).await;
    let before = fs::metadata(&part).unwrap().len();
    (0..4).for_each(|node| pool.kill(node));
    let (summary, outcomes) = pool.admin.get_into(&["bn:/a"], dir.path()).await;
    assert_eq!((summary.failed, summary.files), (1, 0), "{outcomes:?}");
    assert_eq!(fs::metadata(&part).unwrap().len(), before);
    for node in 0..4 {
        pool.revive(node).await;
    }
    assert_eq!(again(&pool, "a", dir.path()).await.0.resumed_bytes, before);
    assert!(fs::read(dir.path().join("a")).unwrap() == content);
}
