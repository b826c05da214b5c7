//! Again means again, and whole or not at all.

use std::sync::Arc;

use bytenode::api::{Api, Code, OpenRead, PacksSent, PlanChunks, ReadChunks, Span};
use bytenode::coordinator::sweep::Until;
use bytenode::get::{self, GetOptions};
use bytenode::monitor::Event;
use bytenode::put::{Overwrite, PutOptions};

use crate::support::pool::{MIB, Pool, Setup, always, bytes, path};
use crate::support::traced::TracedApi;

#[tokio::test(start_paused = true)]
async fn overwriting_follows_its_rules() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let user = &pool.admin;
    let changed = PutOptions { overwrite: Overwrite::IfChanged, ..PutOptions::default() };
    user.put("bn:/a", b"one").await;
    pool.trace.reset();
    assert!(user.put("bn:/a", b"one").await.is_unchanged());
    assert_eq!(pool.trace.count("api plan_chunks"), 0);
    assert_eq!(user.put("bn:/a", b"two").await.error().code, Code::Exists);
    assert_eq!(user.get("bn:/a").await, b"one");
    // The same size and time: not even read.
    assert!(user.put_with("bn:/a", b"two", &changed).await.is_unchanged());
    assert_eq!(user.put_with("bn:/a", b"three", &changed).await.summary.files, 1);
    assert_eq!(user.get("bn:/a").await, b"three");
    assert_eq!(user.put_with("bn:/a", b"three", &always()).await.summary.files, 1);
    let dry = PutOptions { dry_run: true, ..always() };
    let before = pool.trace.count("n");
    assert_eq!(user.put_with("bn:/b", b"dry", &dry).await.summary.files, 1);
    assert_eq!((user.stat("bn:/b").await.unwrap_err().code, pool.trace.count("n")), (Code::NotFound, before));
    user.session.make_dirs(&[path("bn:/dir")]).await.unwrap();
    assert_eq!(user.put_with("bn:/dir", b"x", &always()).await.error().code, Code::WrongKind);
    assert_eq!(user.put_with("bn:/a/b", b"x", &always()).await.error().code, Code::WrongKind);
    assert_eq!(user.get("bn:/a").await, b"three", "a file in the way is left alone");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_put_sends_only_the_rest() {
    let content = bytes(1, 100 * MIB);
    let pool = Pool::new(Setup::kubo(5)).await;
    let user = pool.admin.clone();
    let source = user.local(&content);
    {
        let options = PutOptions::default();
        let mut put = Box::pin(user.try_put_files(vec![(source.clone(), path("bn:/a"))], &options));
        // Given up when the first window is through, long before the end: two are under way at once.
        while pool.trace.count("api packs_sent") < 3 {
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(put.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(user.stat("bn:/a").await.unwrap_err().code, Code::NotFound, "nothing is visible before the commit");
    let again = user.try_put_files(vec![(source, path("bn:/a"))], &PutOptions::default()).await.unwrap();
    let all = 3 * (100 * MIB as u64 + 1600);
    assert!(again.summary.sent_bytes <= all - 3 * 15 * MIB as u64, "{}", again.summary.sent_bytes);
    assert!(again.entry().copies_min == Some(3) && user.get("bn:/a").await == content);
    // What the first left is released with its lease, and the file stays.
    tokio::time::advance(std::time::Duration::from_secs(25 * 3600)).await;
    pool.coordinator.sweep(Until::Retention).await.unwrap();
    pool.coordinator.sweep(Until::Retention).await.unwrap();
    assert_eq!(pool.copies(), 300);
    assert_eq!(pool.count("SELECT count(*) FROM lease").await, 0);
    assert!(user.get("bn:/a").await == content);
}

/// An interface that loses the answers of some calls once, and asks again as a client does.
struct Forgetful(Arc<dyn Api>);

macro_rules! twice {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait::async_trait]
        impl Api for Forgetful {
            $(async fn $name(&self, $($arg: $type),*) -> bytenode::api::ApiResult<$answer> {
                drop(self.0.$name($($arg),*).await);
                self.0.$name($($arg),*).await
            })*
            async fn rename(&self, from: &bytenode::path::RemotePath, to: &bytenode::path::RemotePath) -> bytenode::api::ApiResult<bytenode::api::Entry> {
                self.0.rename(from, to).await
            }
            async fn copy(&self, from: &bytenode::path::RemotePath, to: &bytenode::path::RemotePath) -> bytenode::api::ApiResult<bytenode::api::Entry> {
                self.0.copy(from, to).await
            }
            async fn remove(&self, path: &bytenode::path::RemotePath, recursive: bool, dry_run: bool) -> bytenode::api::ApiResult<bytenode::api::Removed> {
                self.0.remove(path, recursive, dry_run).await
            }
        }
    };
}

twice! {
    stat(path: &bytenode::path::RemotePath) -> bytenode::api::Entry;
    lookup(paths: &[bytenode::path::RemotePath]) -> Vec<Option<bytenode::api::Entry>>;
    list(request: &bytenode::api::ListRequest) -> bytenode::api::Page<bytenode::api::Entry>;
    make_dirs(paths: &[bytenode::path::RemotePath]) -> ();
    begin_put(request: &bytenode::api::BeginPut) -> bytenode::api::PutSession;
    plan_chunks(upload: bytenode::id::UploadId, request: &PlanChunks) -> bytenode::api::ChunksPlanned;
    packs_sent(upload: bytenode::id::UploadId, request: &PacksSent) -> bytenode::api::PacksJudged;
    commit_files(upload: bytenode::id::UploadId, request: &bytenode::api::CommitFiles) -> Vec<bytenode::api::Committed>;
    renew(lease: bytenode::id::UploadId) -> ();
    release(lease: bytenode::id::UploadId) -> ();
    open_read(request: &OpenRead) -> bytenode::api::ReadSession;
    read_chunks(read: bytenode::id::UploadId, request: &ReadChunks) -> bytenode::api::ManifestPage;
    report_bad(reports: &[bytenode::api::BadCopy]) -> ();
}

/// A lost answer to `plan_chunks` once made the repetition say "here" of chunks that nobody had sent, since their packs
/// had been issued; the put then failed at its commit. A repetition answers the same.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_the_coordinator_changes_nothing() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = Pool::new(setup).await;
        pool.kill(3);
        let user = pool.admin.through(Arc::new(Forgetful(Arc::clone(&pool.admin.session) as Arc<dyn Api>)));
        let content = bytes(1, 40 * MIB + 3);
        let put = user.put("bn:/a", &content).await;
        assert_eq!(put.entry().copies_min, Some(3));
        assert!(user.get("bn:/a").await == content);
        assert_eq!(pool.copies(), 3 * 41);
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_writers_one_wins() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let (one, two) = (pool.admin.clone(), pool.admin.clone());
    let (content_one, content_two) = (bytes(1, 2 * MIB), bytes(2, 2 * MIB));
    let (first, second) = tokio::join!(one.put("bn:/a", &content_one), two.put("bn:/a", &content_two));
    let failed: Vec<_> = [&first, &second].into_iter().filter(|put| put.summary.failed == 1).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].error().code, Code::Exists);
    let (options, three, four) = (always(), bytes(3, MIB), bytes(4, MIB));
    let (first, second) = tokio::join!(one.put_with("bn:/a", &three, &options), two.put_with("bn:/a", &four, &options));
    let failed: Vec<_> = [&first, &second].into_iter().filter(|put| put.summary.failed == 1).collect();
    assert_eq!((failed.len(), failed[0].error().code), (1, Code::Changed));
    bytenode::admin::Admin::gc(&*pool.admin.session, true, false).await.unwrap();
    assert_eq!(pool.copies(), 3, "the losers' chunks are released");
}

/// A version that is being read outlives its replacement, and every sweep.
#[tokio::test(start_paused = true)]
async fn a_reader_of_the_old_version_finishes() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let old = bytes(1, 3 * MIB);
    pool.admin.put("bn:/a", &old).await;
    let api: Arc<dyn Api> =
        Arc::new(TracedApi::new(Arc::clone(&pool.admin.session) as Arc<dyn Api>, Arc::clone(&pool.trace)));
    let open = api.open_read(&OpenRead { machine: "m".into(), paths: vec![path("bn:/a")] }).await.unwrap();
    let version = open.files[0].as_ref().unwrap().version;
    pool.admin.put_with("bn:/a", &bytes(2, MIB), &always()).await;
    for until in [Until::Retention, Until::Now] {
        pool.coordinator.sweep(until).await.unwrap();
        let spans = vec![Span { version, first: 0, count: 3 }];
        let page = api.read_chunks(open.read, &ReadChunks { spans }).await.unwrap();
        assert_eq!(page.spans[0].chunks.len(), 3);
        assert!(page.spans[0].chunks.iter().all(|chunk| chunk.copies.len() == 3));
    }
    assert_eq!(pool.copies(), 12);
    api.release(open.read).await.unwrap();
    pool.coordinator.sweep(Until::Retention).await.unwrap();
    assert_eq!(pool.copies(), 12, "within its retention it stays");
    pool.coordinator.sweep(Until::Now).await.unwrap();
    assert_eq!(pool.copies(), 3);
    let mut out = Vec::new();
    get::cat(&pool.admin.context, &path("bn:/a"), 0, None, &GetOptions::default(), &mut out).await.unwrap();
    assert_eq!(out, bytes(2, MIB));
}

/// What was here already was told a second time as verified, and the progress line reached its end too early.
#[tokio::test(start_paused = true)]
async fn every_byte_is_told_once() {
    let pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/a", &bytes(1, 2 * MIB)).await;
    let before = pool.admin.events.events().len();
    pool.admin.put("bn:/b", &[bytes(1, 2 * MIB), bytes(2, MIB)].concat()).await;
    let told = pool.admin.events.events()[before..].iter().fold([0, 0], |[here, verified], event| match event {
        Event::Here(bytes) => [here + bytes, verified],
        Event::Verified(bytes) => [here, verified + bytes],
        _ => [here, verified],
    });
    assert_eq!(told, [2 * MIB as u64, MIB as u64]);
}

#[tokio::test(start_paused = true)]
async fn a_put_goes_on_over_a_restart_of_the_coordinator() {
    let mut pool = Pool::new(Setup::builtin(5)).await;
    let session = Arc::clone(&pool.admin.session);
    let begun = session.begin_put(&Default::default_put()).await.unwrap();
    pool.restart().await;
    let epoch = pool.coordinator.introduction().epoch;
    assert_eq!(epoch, begun.epoch + 1);
    pool.admin.session.renew(begun.upload).await.unwrap();
    let planned = pool.admin.session.plan_chunks(begun.upload, &PlanChunks::default()).await.unwrap();
    assert!(planned.packs.is_empty());
}

trait DefaultPut {
    fn default_put() -> bytenode::api::BeginPut;
}

impl DefaultPut for Default {
    fn default_put() -> bytenode::api::BeginPut {
        bytenode::api::BeginPut { machine: "m".into(), replicas: None, public: false }
    }
}

struct Default;
