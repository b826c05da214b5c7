//! Somebody else acts between two steps of a put: whatever it is, what was acknowledged can be read, and nothing stays.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytenode::admin::{Admin, HealthRequest, Verdict};
use bytenode::api::{
    Api, ApiResult, BadCopy, BeginPut, ChunksPlanned, Code, CommitFiles, Committed, Entry, ListRequest, ManifestPage,
    OpenRead, PacksJudged, PacksSent, Page, PlanChunks, PutSession, ReadChunks, ReadSession, Removed,
};
use bytenode::coordinator::Coordinator;
use bytenode::coordinator::sweep::Until;
use bytenode::id::UploadId;
use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};
use bytenode::path::RemotePath;
use bytenode::put::PutOptions;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;

use crate::support::pool::{MIB, Pool, Setup, User, always, bytes};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An interface before one call of which, the first time, something else happens.
struct Before {
    api: Arc<dyn Api>,
    call: &'static str,
    act: Mutex<Option<BoxFuture<'static, ()>>>,
    /// Whether the client says all the time that it lives.
    lives: bool,
}

impl Before {
    async fn at(&self, call: &'static str) {
        if call == "renew" && !self.lives {
            std::future::pending::<()>().await;
        }
        let act = if call == self.call { self.act.lock().unwrap().take() } else { None };
        if let Some(act) = act {
            act.await;
        }
    }
}

macro_rules! before {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait::async_trait]
        impl Api for Before {
            $(async fn $name(&self, $($arg: $type),*) -> ApiResult<$answer> {
                self.at(stringify!($name)).await;
                self.api.$name($($arg),*).await
            })*
        }
    };
}

before! {
    stat(path: &RemotePath) -> Entry;
    lookup(paths: &[RemotePath]) -> Vec<Option<Entry>>;
    list(request: &ListRequest) -> Page<Entry>;
    make_dirs(paths: &[RemotePath]) -> ();
    rename(from: &RemotePath, to: &RemotePath) -> Entry;
    copy(from: &RemotePath, to: &RemotePath) -> Entry;
    remove(path: &RemotePath, recursive: bool, dry_run: bool) -> Removed;
    begin_put(request: &BeginPut) -> PutSession;
    plan_chunks(upload: UploadId, request: &PlanChunks) -> ChunksPlanned;
    packs_sent(upload: UploadId, request: &PacksSent) -> PacksJudged;
    commit_files(upload: UploadId, request: &CommitFiles) -> Vec<Committed>;
    renew(lease: UploadId) -> ();
    release(lease: UploadId) -> ();
    open_read(request: &OpenRead) -> ReadSession;
    read_chunks(read: UploadId, request: &ReadChunks) -> ManifestPage;
    report_bad(reports: &[BadCopy]) -> ();
}

/// The admin, for whom this happens before that call.
fn before(pool: &Pool, call: &'static str, act: impl Future<Output = ()> + Send + 'static) -> User {
    through(pool, call, true, act)
}

/// The same for a client from which nothing is heard meanwhile.
fn asleep(pool: &Pool, call: &'static str, act: impl Future<Output = ()> + Send + 'static) -> User {
    through(pool, call, false, act)
}

fn through(pool: &Pool, call: &'static str, lives: bool, act: impl Future<Output = ()> + Send + 'static) -> User {
    let act = Mutex::new(Some(Box::pin(act) as BoxFuture<'static, ()>));
    let api = Arc::clone(&pool.admin.session) as Arc<dyn Api>;
    pool.admin.through(Arc::new(Before { api, call, act, lives }))
}

/// All leases run out, and whatever nothing needs goes.
async fn run_out(coordinator: &Coordinator) {
    tokio::time::advance(DAY + Duration::from_secs(1)).await;
    coordinator.sweep(Until::Now).await.unwrap();
}

async fn all_is_well(pool: &Pool, copies: usize) {
    let report = pool.health().await;
    assert_eq!((report.verdict, report.findings_total, pool.copies()), (Verdict::Healthy, 0, copies), "{report:?}");
}

/// What was called here already stays for the put that was told so, though its last file is removed before the commit.
#[tokio::test(start_paused = true)]
async fn what_is_here_stays_for_a_put_under_way() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 3 * MIB);
        pool.admin.put("bn:/a", &content).await;
        let other = pool.admin.clone();
        let user = before(&pool, "commit_files", async move {
            other.rm("bn:/a").await;
            other.session.gc(true, false).await.unwrap();
        });
        let put = user.put("bn:/b", &content).await;
        assert_eq!((put.summary.sent_bytes, put.entry().copies_min), (0, Some(3)));
        assert!(pool.admin.get("bn:/b").await == content);
        all_is_well(&pool, 9).await;
    }
}

/// What is dropping is sent again, though every node still has it; and the drops that come late leave the new copies.
#[tokio::test(start_paused = true)]
async fn what_is_dropping_is_not_here() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 3 * MIB);
        pool.admin.put("bn:/a", &content).await;
        for node in &pool.nodes {
            node.fault.order(Call::Drop, When::Always, Fault::Fail(NodeFailure::Answer("not now".into())));
        }
        let other = pool.admin.clone();
        let user = before(&pool, "plan_chunks", async move {
            other.rm("bn:/a").await;
            assert_eq!(other.session.gc(true, false).await.unwrap().waiting, 3);
        });
        let nodes: Vec<_> = pool.nodes.iter().map(|node| Arc::clone(&node.fault)).collect();
        let coordinator = Arc::clone(&pool.coordinator);
        let late = before(&pool, "commit_files", async move {
            nodes.iter().for_each(|node| node.heal());
            coordinator.ask_nodes().await;
            coordinator.sweep(Until::Now).await.unwrap();
        });
        let put = user.put("bn:/b", &content).await;
        assert_eq!((put.new_chunks(), put.entry().copies_min), (3, Some(3)));
        // The drops are told between the writes and the commit of a put of something else.
        late.put("bn:/c", &bytes(2, MIB)).await;
        assert!(pool.admin.get("bn:/b").await == content);
        all_is_well(&pool, 12).await;
    }
}

/// Chunks of another put that was not committed: those that were not proved yet are sent again, those that were are here,
/// and both outlive that put, which ends without a commit.
#[tokio::test(start_paused = true)]
async fn another_puts_chunks_are_here_once_they_are_proved() {
    for (call, sent) in [("packs_sent", 3), ("commit_files", 0)] {
        for setup in [Setup::builtin(5), Setup::kubo(5)] {
            let pool = Pool::new(setup).await;
            let content = bytes(1, 3 * MIB);
            let (second, own, coordinator) = (pool.admin.clone(), content.clone(), Arc::clone(&pool.coordinator));
            let first = asleep(&pool, call, async move {
                let put = second.put("bn:/b", &own).await;
                let all = 3 * (own.len() as u64 + 48);
                assert_eq!((put.summary.sent_bytes, put.entry().copies_min), (all * sent / 3, Some(3)));
                run_out(&coordinator).await;
                assert!(second.get("bn:/b").await == own);
            });
            let ended = first.try_put("bn:/a", &content, &always()).await.unwrap_err();
            assert_eq!(ended.code, Code::Replan, "{call}: {ended:?}");
            assert_eq!(pool.admin.stat("bn:/a").await.unwrap_err().code, Code::NotFound);
            pool.coordinator.sweep(Until::Now).await.unwrap();
            assert!(pool.admin.get("bn:/b").await == content);
            all_is_well(&pool, 9).await;
        }
    }
}

/// Copies on nodes that are dead do not count, however fresh their proofs are.
#[tokio::test(start_paused = true)]
async fn what_is_on_dead_nodes_is_not_here() {
    for setup in [Setup::builtin(5), Setup::kubo(5)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, MIB);
        pool.admin.put("bn:/a", &content).await;
        let holders = pool.holders(&pool.admin.chunks("bn:/a").await[0].cid);
        for dead in &holders[..2] {
            pool.kill(*dead);
        }
        pool.coordinator.ask_nodes().await;
        let put = pool.admin.put("bn:/b", &content).await;
        assert_eq!(put.summary.sent_bytes, 2 * (MIB as u64 + 16));
        // The third of the old copies dies too: what was acknowledged is on the others.
        pool.kill(holders[2]);
        assert!(pool.admin.get("bn:/b").await == content);
    }
}

/// A put without a sign of life for a day has ended: nothing of it shows, nothing stays, and it can be run again.
#[tokio::test(start_paused = true)]
async fn a_put_whose_lease_ran_out_is_told_so() {
    for call in ["plan_chunks", "packs_sent", "commit_files"] {
        for setup in [Setup::builtin(3), Setup::kubo(3)] {
            let pool = Pool::new(setup).await;
            let content = bytes(1, 3 * MIB);
            let coordinator = Arc::clone(&pool.coordinator);
            let slow = asleep(&pool, call, async move { run_out(&coordinator).await });
            let ended = slow.try_put("bn:/a", &content, &always()).await.unwrap_err();
            assert_eq!(ended.code, Code::Replan, "{call}: {ended:?}");
            assert!(ended.hint.unwrap().contains("run the same command again"));
            assert_eq!(pool.admin.stat("bn:/a").await.unwrap_err().code, Code::NotFound);
            pool.coordinator.sweep(Until::Now).await.unwrap();
            assert_eq!((pool.copies(), pool.count("SELECT count(*) FROM lease").await), (0, 0), "{call}");
            assert_eq!(pool.admin.put("bn:/a", &content).await.entry().copies_min, Some(3));
            all_is_well(&pool, 9).await;
        }
    }
}

/// A put that takes days keeps what it has sent, since it says every minute that it lives.
#[tokio::test(start_paused = true)]
async fn a_slow_put_that_lives_goes_on_for_days() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let content = bytes(1, 3 * MIB);
    let coordinator = Arc::clone(&pool.coordinator);
    let slow = before(&pool, "commit_files", async move {
        for minute in 0..3 * 24 * 60 {
            tokio::time::advance(Duration::from_secs(60)).await;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            if minute % 60 == 0 {
                coordinator.sweep(Until::Now).await.unwrap();
            }
        }
    });
    assert_eq!(slow.put("bn:/a", &content).await.entry().copies_min, Some(3));
    assert!(pool.admin.get("bn:/a").await == content);
    all_is_well(&pool, 9).await;
}

/// The wall clock is set by a day in the middle of a put. Its lease does not run out; set back, its proofs are of a time
/// that is still to come, so that it is said to be run again.
#[tokio::test(start_paused = true)]
async fn a_put_outlives_a_clock_that_jumps() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        for (call, hours) in [("packs_sent", 24), ("commit_files", 24), ("packs_sent", -24), ("commit_files", -24)] {
            let pool = Pool::new(setup.clone()).await;
            let content = bytes(1, 3 * MIB);
            let (seam, coordinator) = (pool.seam.clone(), Arc::clone(&pool.coordinator));
            let user = before(&pool, call, async move {
                seam.jump(SignedDuration::from_hours(hours));
                for until in [Until::Retention, Until::Now] {
                    coordinator.sweep(until).await.unwrap();
                }
            });
            let put = user.try_put("bn:/a", &content, &always()).await;
            let first = put.as_ref().map_or_else(|error| Err(error.code), |put| Ok(put.summary.failed));
            if hours > 0 {
                assert_eq!(first, Ok(0), "{call} {hours}");
            } else if first != Ok(0) {
                assert_eq!(put.unwrap().error().code, Code::Temporary, "{call} {hours}");
                let again = pool.admin.put("bn:/a", &content).await;
                assert_eq!(again.entry().copies_min, Some(3), "{call} {hours}");
            }
            assert!(pool.admin.get("bn:/a").await == content);
            // And the other way, with a check.
            pool.seam.jump(SignedDuration::from_hours(-hours));
            assert!(pool.admin.get("bn:/a").await == content);
            run_out(&pool.coordinator).await;
            all_is_well(&pool, 9).await;
        }
    }
}

/// What was removed keeps its retention, whichever way the clock is set; what is needed stays in any case.
#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ends_no_retention() {
    for hours in [24, -24] {
        let pool = Pool::new(Setup::builtin(3)).await;
        pool.admin.put("bn:/kept", &bytes(1, MIB)).await;
        pool.admin.put("bn:/d/gone", &bytes(2, MIB)).await;
        pool.admin.put("bn:/gone", &bytes(3, MIB)).await;
        pool.admin.rm("bn:/d").await;
        pool.admin.rm("bn:/gone").await;
        let sweep = async || pool.coordinator.sweep(Until::Retention).await.unwrap();
        sweep().await;
        pool.seam.jump(SignedDuration::from_hours(hours));
        for wait in [0, 60, 3500] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            assert_eq!(pool.admin.session.gc(false, true).await.unwrap().packs, 0, "{hours}");
            sweep().await;
            assert_eq!(pool.copies(), 9, "{hours}: {wait} s");
        }
        // Set back, it lasts the longer for it.
        let rest = if hours > 0 { 100 } else { 25 * 3600 };
        tokio::time::advance(Duration::from_secs(rest)).await;
        sweep().await;
        assert_eq!(pool.copies(), 3, "{hours}");
        assert_eq!(pool.admin.get("bn:/kept").await, bytes(1, MIB));
    }
}

/// After the clock was set back, a proof of a day ago looks as if it had just been made.
#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_makes_no_proof_fresh() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, MIB);
        pool.admin.put("bn:/a", &content).await;
        tokio::time::advance(DAY).await;
        pool.coordinator.sweep(Until::Now).await.unwrap();
        pool.nodes[0].memory.wipe();
        pool.nodes[1].memory.wipe();
        pool.seam.jump(SignedDuration::from_secs(300) - SignedDuration::from_hours(24));
        let put = pool.admin.put_with("bn:/b", &content, &always()).await;
        assert_eq!((put.summary.sent_bytes, put.entry().copies_min), (2 * (MIB as u64 + 16), Some(3)));
        assert_eq!(pool.copies(), 3);
        let report = pool.check(HealthRequest::default()).await;
        assert_eq!(report.verdict, Verdict::Healthy, "{report:?}");
    }
}

/// The first run of a command was stopped while it committed; the second, which had looked before, finds what it stores there
/// already. Other content there is refused as ever.
#[tokio::test(start_paused = true)]
async fn a_put_of_what_another_just_stored_is_done() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let content = bytes(1, MIB);
    let (other, same) = (pool.admin.clone(), content.clone());
    let user = before(&pool, "commit_files", async move { drop(other.put("bn:/a", &same).await) });
    let put = user.try_put("bn:/a", &content, &PutOptions::default()).await.unwrap();
    assert_eq!((put.summary.failed, put.entry().copies_min), (0, Some(3)));
    let other = pool.admin.clone();
    let user = before(&pool, "commit_files", async move { drop(other.put("bn:/b", &bytes(2, MIB)).await) });
    let put = user.try_put("bn:/b", &content, &PutOptions::default()).await.unwrap();
    assert_eq!((put.summary.failed, put.error().code), (1, Code::Exists));
    assert!(pool.admin.get("bn:/b").await == bytes(2, MIB));
    run_out(&pool.coordinator).await;
    all_is_well(&pool, 6).await;
}
