//! What nothing needs goes, and nothing else.

use std::time::Duration;

use bytenode::admin::{Admin, FindingKind, HealthRequest, Verdict};
use bytenode::api::{Api, BeginPut};
use bytenode::coordinator::sweep::Until;
use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};

use crate::support::pool::{MIB, Pool, Setup, always, bytes, path};

#[tokio::test(start_paused = true)]
async fn shared_chunks_stay_and_packs_shrink() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let user = &pool.admin;
        let files =
            vec![(user.local(&bytes(1, 2 * MIB)), path("bn:/a")), (user.local(&bytes(2, 2 * MIB)), path("bn:/b"))];
        user.try_put_files(files, &always()).await.unwrap();
        assert_eq!(pool.nodes[0].memory.packs().len(), 1, "both are in one pack");
        user.put("bn:/a2", &bytes(1, 2 * MIB)).await;
        user.rm("bn:/a").await;
        let swept = user.session.gc(true, false).await.unwrap();
        assert_eq!((swept.chunks, pool.copies()), (0, 12), "another file has them");
        user.rm("bn:/a2").await;
        let planned = user.session.gc(true, true).await.unwrap();
        let swept = user.session.gc(true, false).await.unwrap();
        assert_eq!(planned, swept);
        assert_eq!((swept.chunks, swept.bytes, pool.copies()), (2, 6 * (MIB as u64 + 16), 6));
        assert!(pool.nodes.iter().all(|node| node.fault.calls(Call::Replace) == 1));
        assert_eq!(user.get("bn:/b").await, bytes(2, 2 * MIB));
        let report = pool.health().await;
        assert_eq!((report.verdict, report.findings_total), (Verdict::Healthy, 0), "{report:?}");
        user.rm("bn:/b").await;
        user.session.gc(true, false).await.unwrap();
        assert!(pool.nodes.iter().all(|node| node.memory.packs().is_empty()));
    }
}

/// A node that failed once and was not asked since is asked by the sweep; one that does not answer is waited for, and said
/// to be.
#[tokio::test(start_paused = true)]
async fn packs_shrink_on_a_node_that_was_not_asked_again() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let user = &pool.admin;
    let files = vec![(user.local(&bytes(1, MIB)), path("bn:/a")), (user.local(&bytes(2, MIB)), path("bn:/b"))];
    user.try_put_files(files, &always()).await.unwrap();
    let gone = || Fault::Fail(NodeFailure::Unreachable("gone".into()));
    pool.nodes[0].fault.order(Call::Status, When::Next(1), gone());
    pool.coordinator.ask_nodes().await;
    pool.nodes[1].fault.order_all(&gone());
    user.rm("bn:/a").await;
    let swept = user.session.gc(true, false).await.unwrap();
    assert_eq!((swept.waiting, pool.copies()), (1, 4), "{swept:?}");
    pool.nodes[1].fault.heal();
    let swept = user.session.gc(true, false).await.unwrap();
    assert_eq!((swept.waiting, pool.copies()), (0, 3), "{swept:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pack_of_an_offline_node_goes_later_and_a_new_one_is_safe() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 2 * MIB);
        pool.admin.put("bn:/a", &content).await;
        pool.kill(0);
        pool.admin.rm("bn:/a").await;
        let swept = pool.admin.session.gc(true, false).await.unwrap();
        assert_eq!((swept.packs, swept.waiting, pool.copies()), (2, 1, 2));
        pool.revive(0).await;
        // The same chunks, on the same node, before it was told.
        let put = pool.admin.put("bn:/a", &content).await;
        assert_eq!(put.summary.copies_min, Some(3));
        assert_eq!(put.summary.sent_bytes, 6 * (MIB as u64 + 16), "what is to be dropped is not here");
        let swept = pool.admin.session.gc(true, false).await.unwrap();
        assert_eq!((swept.packs, swept.waiting, pool.copies()), (1, 0, 6));
        assert_eq!(pool.admin.get("bn:/a").await, content);
        assert_eq!(pool.health().await.findings_total, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_whose_answer_is_lost_is_told_again() {
    let pool = Pool::new(Setup::builtin(3)).await;
    pool.admin.put("bn:/a", &bytes(1, MIB)).await;
    pool.admin.rm("bn:/a").await;
    let lost = NodeFailure::Timeout { seconds: 5, doing: "the answer" };
    pool.nodes[1].fault.order(Call::Drop, When::Nth(1), Fault::LoseAnswer(lost));
    assert_eq!(pool.admin.session.gc(true, false).await.unwrap().waiting, 1);
    assert_eq!(pool.admin.session.gc(true, false).await.unwrap().waiting, 0);
    assert_eq!(pool.count("SELECT count(*) FROM chunk").await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_stays_for_its_retention() {
    let pool = Pool::new(Setup::builtin(3)).await;
    pool.admin.put("bn:/d/a", &bytes(1, MIB)).await;
    pool.admin.put("bn:/b", &bytes(2, MIB)).await;
    pool.admin.rm("bn:/d").await;
    pool.admin.put_with("bn:/b", &bytes(3, MIB), &always()).await;
    pool.coordinator.sweep(Until::Retention).await.unwrap();
    assert_eq!(pool.copies(), 9);
    tokio::time::advance(Duration::from_secs(3599)).await;
    pool.coordinator.sweep(Until::Retention).await.unwrap();
    assert_eq!(pool.copies(), 9);
    tokio::time::advance(Duration::from_secs(2)).await;
    pool.coordinator.sweep(Until::Retention).await.unwrap();
    assert_eq!(pool.copies(), 3);
    assert_eq!(pool.admin.get("bn:/b").await, bytes(3, MIB));
}

#[tokio::test(start_paused = true)]
async fn an_orphan_is_found_and_dropped() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        pool.admin.put("bn:/a", &bytes(1, 2 * MIB)).await;
        pool.admin.rm("bn:/a").await;
        // The node forgets that it was told, as one that comes back from a backup does.
        let node = &pool.nodes[1].memory;
        let backup = node.backup();
        pool.admin.session.gc(true, false).await.unwrap();
        node.restore(backup);
        assert_eq!(pool.copies(), 2);
        let report = pool.health().await;
        assert_eq!(report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::Orphan]);
        assert_eq!((report.verdict, report.remaining), (Verdict::Healthy, 0));
        pool.admin.session.gc(false, false).await.unwrap();
        assert_eq!((pool.copies(), pool.health().await.findings_total), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_big_tree_goes_in_small_steps() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let user = &pool.admin;
    let source = user.local(b"same");
    let files = (0..1500).map(|at| (source.clone(), path(&format!("bn:/t/d{}/f{at}", at % 30)))).collect();
    user.try_put_files(files, &always()).await.unwrap();
    let removed = user.session.remove(&path("bn:/t"), true, true).await.unwrap();
    assert_eq!((removed.files, removed.dirs, removed.bytes), (1500, 31, 6000));
    user.rm("bn:/t").await;
    assert!(user.list("bn:/", 7).await.is_empty());
    user.session.gc(true, false).await.unwrap();
    assert_eq!(pool.count("SELECT count(*) FROM entry").await, 1);
    assert_eq!(pool.count("SELECT count(*) FROM version").await, 0);
    assert_eq!(pool.copies(), 0);
}

/// A node that lost a pack which was to become smaller was asked to make it so with every sweep, forever: it has neither
/// the one nor the other. Once the node says so, there is nothing to do.
#[tokio::test(start_paused = true)]
async fn a_lost_pack_is_made_smaller_no_more() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = Pool::new(setup).await;
        let user = &pool.admin;
        let files = vec![(user.local(&bytes(1, 9)), path("bn:/a")), (user.local(&bytes(2, 9)), path("bn:/b"))];
        user.try_put_files(files, &always()).await.unwrap();
        let chunk = user.chunks("bn:/b").await[0].cid;
        let lost = pool.holders(&chunk)[0];
        pool.kill(lost);
        pool.check(HealthRequest { now: true, ..HealthRequest::default() }).await;
        pool.nodes[lost].memory.wipe();
        pool.revive(lost).await;
        user.rm("bn:/a").await;
        user.session.gc(true, false).await.unwrap();
        assert_eq!(user.session.gc(true, false).await.unwrap().waiting, 0);
        assert_eq!(pool.count("SELECT count(*) FROM pack WHERE state IN (0, 1)").await, 0);
        assert_eq!(pool.health().await.verdict, Verdict::Healthy);
        assert_eq!(user.get("bn:/b").await, bytes(2, 9));
        user.rm("bn:/b").await;
        user.session.gc(true, false).await.unwrap();
        assert_eq!((pool.copies(), pool.count("SELECT count(*) FROM pack WHERE state <> 4").await), (0, 0));
    }
}

/// A client that was gone just when the lease of its put had been written down left that lease until the coordinator's
/// next start, since nobody had taken note of it in memory yet.
#[tokio::test(start_paused = true)]
async fn a_put_that_is_given_up_as_it_begins_leaves_no_lease() {
    let pool = Pool::new(Setup::builtin(3)).await;
    for polls in 1.. {
        let request = BeginPut { machine: String::new(), replicas: None, public: false };
        let mut begin = Box::pin(pool.admin.session.begin_put(&request));
        let mut done = false;
        for _ in 0..polls {
            done |= std::future::poll_fn(|cx| std::task::Poll::Ready(begin.as_mut().poll(cx))).await.is_ready();
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        if done {
            break;
        }
    }
    tokio::time::advance(Duration::from_secs(25 * 3600)).await;
    pool.coordinator.sweep(Until::Retention).await.unwrap();
    assert_eq!(pool.count("SELECT count(*) FROM lease").await, 0);
}
