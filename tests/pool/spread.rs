//! No node holds a whole file where that can be.

use std::collections::BTreeSet;

use bytenode::admin::{Admin, Do, FindingKind, HealthReport, HealthRequest, NodeSet, Verdict};

use crate::support::pool::{CAPACITY, Like, MIB, Pool, Setup, always, bytes};

async fn spreads(nodes: usize, chunks: usize, seed: u64) -> Option<bool> {
    let mut setup = Setup::builtin(nodes).seed(seed);
    setup.policy.chunk_size = 1024;
    let pool = Pool::new(setup).await;
    let put = pool.admin.put("bn:/a", &bytes(seed, chunks * 1024)).await;
    let rows = pool.admin.chunks("bn:/a").await;
    let whole = |node: &String| rows.iter().all(|row| row.nodes.contains(node));
    let held = pool.nodes.iter().any(|node| whole(&node.name));
    assert!(rows.iter().all(|row| row.nodes.len() == 3));
    assert_eq!(put.entry().spread, (chunks > 1).then_some(!held), "it says what is so");
    assert_eq!(put.summary.not_spread, u64::from(chunks > 1 && held));
    put.entry().spread
}

#[tokio::test(start_paused = true)]
async fn it_holds_whenever_it_can() {
    for seed in 0..12 {
        for (nodes, chunks) in [(6, 2), (5, 3), (4, 4), (5, 7), (8, 2)] {
            assert_eq!(spreads(nodes, chunks, seed).await, Some(true), "{nodes} nodes, {chunks} chunks, seed {seed}");
        }
        assert_eq!(spreads(3, 5, seed).await, Some(false));
        assert_eq!(spreads(5, 1, seed).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn it_holds_over_several_windows() {
    let pool = Pool::new(Setup::builtin(4)).await;
    let put = pool.admin.put("bn:/a", &bytes(1, 70 * MIB)).await;
    assert_eq!(put.entry().spread, Some(true));
    // Of the second window's chunks only the last is new.
    let mut more = bytes(1, 70 * MIB);
    more.extend(bytes(2, 10));
    assert_eq!(pool.admin.put_with("bn:/b", &more, &always()).await.entry().spread, Some(true));
}

/// Nodes that have all chunks of a file.
async fn whole(pool: &Pool, file: &str) -> BTreeSet<String> {
    let rows = pool.admin.chunks(file).await;
    let names = pool.nodes.iter().map(|node| node.name.clone());
    names.filter(|name| rows.iter().all(|row| row.nodes.contains(name))).collect()
}

fn spread_of(report: &HealthReport) -> Vec<Option<String>> {
    let unspread = report.findings.iter().filter(|finding| finding.kind == FindingKind::Spread);
    unspread.map(|finding| finding.path.as_ref().map(ToString::to_string)).collect()
}

/// A node that is lost for good leaves three, and each has all. When another comes, one chunk of each of the three goes there:
/// what was promised when the file was stored holds again, and the plan says so. A file that was never spread stays.
#[tokio::test(start_paused = true)]
async fn what_a_loss_took_is_given_back_when_it_can_be() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let mut pool = Pool::new(setup.replicas(3)).await;
        let content = bytes(1, 6 * MIB);
        assert_eq!(pool.admin.put("bn:/a", &content).await.entry().spread, Some(true));
        pool.kill(0);
        pool.admin.session.node_remove("n1", true, false).await.unwrap();
        assert_eq!(whole(&pool, "bn:/a").await.len(), 3);
        assert_eq!(pool.admin.put("bn:/b", &bytes(2, 6 * MIB)).await.entry().spread, Some(false));
        pool.add_node(Like::Builtin, CAPACITY).await;
        let dry = HealthRequest { dry_run: true, ..HealthRequest::default() };
        let plan = pool.check(dry).await;
        assert_eq!(spread_of(&plan), vec![Some("bn:/a".to_owned()); 3], "{plan:?}");
        let moves: Vec<_> = plan.actions.iter().map(|action| (action.act, action.to.as_deref())).collect();
        assert_eq!(moves, [(Do::Move, Some("n5")); 3], "{plan:?}");
        let report = pool.health().await;
        assert_eq!((report.repaired, report.remaining, report.verdict), (3, 0, Verdict::Healthy), "{report:?}");
        assert!(whole(&pool, "bn:/a").await.is_empty());
        assert_eq!(whole(&pool, "bn:/b").await.len(), 3, "a node that joins starts no storm");
        let (a, b) = (pool.admin.stat("bn:/a").await.unwrap(), pool.admin.stat("bn:/b").await.unwrap());
        assert_eq!((a.spread, b.spread), (Some(true), Some(false)));
        assert_eq!(pool.check(dry).await.actions_total, 0);
        assert!(pool.admin.get("bn:/a").await == content);
        assert!(pool.admin.chunks("bn:/a").await.iter().all(|chunk| chunk.nodes.len() == 3));
    }
}

/// Where no place is left for it, the file says that it is not spread any more; and that it is, once there was one.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_spread_any_more_says_so() {
    let mut pool = Pool::new(Setup::builtin(4).replicas(3)).await;
    pool.admin.put("bn:/a", &bytes(1, 6 * MIB)).await;
    let drain = NodeSet { draining: Some(true), ..NodeSet::default() };
    pool.admin.session.node_set("n2", &drain).await.unwrap();
    let report = pool.health().await;
    assert_eq!((report.remaining, report.verdict), (0, Verdict::Healthy), "{report:?}");
    assert_eq!(whole(&pool, "bn:/a").await.len(), 3);
    assert_eq!(pool.admin.stat("bn:/a").await.unwrap().spread, Some(false));
    assert_eq!(pool.health().await.findings_total, 0, "what nobody can help is no problem each time anew");
    pool.add_node(Like::Kubo, CAPACITY).await;
    let report = pool.health().await;
    assert_eq!((report.repaired, report.remaining, report.verdict), (3, 0, Verdict::Healthy), "{report:?}");
    assert!(whole(&pool, "bn:/a").await.is_empty());
    assert_eq!(pool.admin.stat("bn:/a").await.unwrap().spread, Some(true));
}

/// What a drain left whole on a node, the next check parts, and then all is at rest.
#[tokio::test(start_paused = true)]
async fn after_drains_files_are_spread_again() {
    for seed in 0..6 {
        let pool = Pool::new(Setup::builtin(6).seed(seed).replicas(3)).await;
        for file in 0..6 {
            let put = pool.admin.put(&format!("bn:/{file}"), &bytes(seed * 10 + file, (2 + file as usize) * MIB)).await;
            assert_eq!(put.entry().spread, Some(true));
        }
        let drain = NodeSet { draining: Some(true), ..NodeSet::default() };
        pool.admin.session.node_set("n2", &drain).await.unwrap();
        for _ in 0..2 {
            let report = pool.health().await;
            assert_eq!((report.remaining, report.verdict), (0, Verdict::Healthy), "{report:?}");
            for file in 0..6 {
                let path = format!("bn:/{file}");
                let is_spread = whole(&pool, &path).await.is_empty();
                assert_eq!(pool.admin.stat(&path).await.unwrap().spread, Some(is_spread), "{path}, seed {seed}");
            }
        }
        assert_eq!(pool.health().await.actions_total, 0);
        for file in 0..6 {
            let path = format!("bn:/{file}");
            let spread = pool.admin.stat(&path).await.unwrap().spread;
            assert_eq!(spread, Some(whole(&pool, &path).await.is_empty()), "{path}, seed {seed}");
            // Five nodes are enough for three chunks.
            assert!(spread == Some(true) || file < 1, "{path}, seed {seed}");
        }
    }
}

/// A node that is dead and still registered hides nothing: what the others have as a whole is not said to be spread, and is
/// spread again with the next node that comes.
#[tokio::test(start_paused = true)]
async fn a_dead_node_does_not_make_it_look_spread() {
    let mut pool = Pool::new(Setup::builtin(4).replicas(3)).await;
    pool.admin.put("bn:/a", &bytes(1, 6 * MIB)).await;
    pool.kill(0);
    pool.check(HealthRequest { now: true, ..HealthRequest::default() }).await;
    assert_eq!(whole(&pool, "bn:/a").await.len(), 3);
    assert_eq!(pool.admin.stat("bn:/a").await.unwrap().spread, Some(false));
    pool.add_node(Like::Builtin, CAPACITY).await;
    let report = pool.check(HealthRequest { now: true, ..HealthRequest::default() }).await;
    assert_eq!(report.repaired, 3, "{report:?}");
    assert_eq!(pool.admin.stat("bn:/a").await.unwrap().spread, Some(true));
}

/// A drain that could not end, and was undone, took nothing from a file for good.
#[tokio::test(start_paused = true)]
async fn what_was_undone_is_as_it_was() {
    let mut setup = Setup::builtin(5).replicas(3);
    setup.policy.chunk_size = 1024;
    let pool = Pool::new(setup).await;
    for file in 0..20 {
        pool.admin.put(&format!("bn:/{file}"), &bytes(file, 3 * 1024)).await;
    }
    for draining in [true, false] {
        let change = NodeSet { draining: Some(draining), ..NodeSet::default() };
        pool.admin.session.node_set("n1", &change).await.unwrap();
        for _ in 0..3 {
            pool.health().await;
            pool.admin.session.gc(true, false).await.unwrap();
        }
    }
    for file in 0..20 {
        let path = format!("bn:/{file}");
        assert!(whole(&pool, &path).await.is_empty(), "{path}");
        assert_eq!(pool.admin.stat(&path).await.unwrap().spread, Some(true), "{path}");
    }
}

/// Chunks that many files begin with, or that one has over and over, stand in nobody's way, and cost no time that grows with
/// the square of them.
#[tokio::test(start_paused = true)]
async fn files_that_share_most_of_their_chunks_are_spread_again() {
    let mut setup = Setup::builtin(4).replicas(3);
    setup.policy.chunk_size = 1024;
    let mut pool = Pool::new(setup).await;
    let shared = bytes(1, 70 * 1024);
    for day in 0..20 {
        pool.admin.put(&format!("bn:/day{day}"), &[&shared[..], &bytes(100 + day, 3000)[..]].concat()).await;
    }
    let sparse = [&vec![0; 80 * 1024][..], &bytes(2, 10 * 1024)[..]].concat();
    pool.admin.put("bn:/sparse", &sparse).await;
    pool.kill(0);
    pool.admin.session.node_remove("n1", true, false).await.unwrap();
    pool.health().await;
    assert_eq!(pool.admin.stat("bn:/day3").await.unwrap().spread, Some(false));
    pool.add_node(Like::Builtin, CAPACITY).await;
    for _ in 0..3 {
        pool.health().await;
    }
    for path in (0..20).map(|day| format!("bn:/day{day}")).chain(["bn:/sparse".to_owned()]) {
        assert!(whole(&pool, &path).await.is_empty(), "{path}");
        assert_eq!(pool.admin.stat(&path).await.unwrap().spread, Some(true), "{path}");
    }
    assert_eq!(pool.health().await.actions_total, 0);
}
