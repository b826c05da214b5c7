//! Health asks the nodes, plans, and does exactly that.

use bytenode::admin::{Admin, Do, FindingKind, HealthReport, HealthRequest, Verdict};
use bytenode::id::ChunkId;
use bytenode::node::Node;

use crate::support::pool::{MIB, Pool, Setup, bytes};

fn dry() -> HealthRequest {
    HealthRequest { dry_run: true, ..HealthRequest::default() }
}

fn kinds(report: &HealthReport) -> Vec<FindingKind> {
    let mut kinds: Vec<FindingKind> = report.findings.iter().map(|finding| finding.kind).collect();
    kinds.dedup();
    kinds
}

/// What is done, or to be done, to which chunk on which node. From where is known once it was read.
fn acts(report: &HealthReport) -> Vec<(Do, ChunkId, Option<String>)> {
    report.actions.iter().map(|action| (action.act, action.chunk, action.to.clone())).collect()
}

/// A dry run that changes nothing, then the real one, which does the same and leaves the pool healthy.
async fn mend(pool: &Pool, request: HealthRequest) -> HealthReport {
    let before = pool.dump().await;
    let planned = pool.check(HealthRequest { dry_run: true, ..request }).await;
    assert_eq!(pool.dump().await, before, "a dry run changes nothing");
    let done = pool.check(request).await;
    assert_eq!((acts(&planned), planned.actions_total), (acts(&done), done.actions_total));
    assert_eq!(done.repaired, done.actions_total, "{done:?}");
    assert_eq!(planned.findings, done.findings);
    assert_eq!((planned.chunks, planned.replicas_checked), (done.chunks, done.replicas_checked));
    let after = pool.check(HealthRequest { dry_run: true, ..request }).await;
    assert_eq!(done.verdict, after.verdict);
    done
}

async fn with_file(setup: Setup) -> (Pool, Vec<u8>) {
    let pool = Pool::new(setup).await;
    let content = bytes(1, 6 * MIB);
    pool.admin.put("bn:/dir/a", &content).await;
    (pool, content)
}

#[tokio::test(start_paused = true)]
async fn a_healthy_pool_gives_no_finding() {
    for setup in [Setup::builtin(5), Setup::kubo(5)] {
        let (pool, _) = with_file(setup).await;
        let report = mend(&pool, HealthRequest::default()).await;
        assert_eq!((report.verdict, report.findings_total, report.remaining), (Verdict::Healthy, 0, 0));
        assert_eq!((report.chunks, report.replicas_checked), (6, 18));
        assert!(report.oldest_verified.is_some());
        assert_eq!(pool.admin.session.status().await.unwrap().verdict, Verdict::Healthy);
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_chunk_is_written_again() {
    for setup in [Setup::builtin(5), Setup::kubo(5), Setup::builtin(3), Setup::kubo(3)] {
        let (pool, content) = with_file(setup).await;
        let chunk = pool.admin.chunks("bn:/dir/a").await[2].cid;
        let at = pool.holders(&chunk)[0];
        pool.nodes[at].memory.forget(&chunk);
        let report = mend(&pool, HealthRequest::default()).await;
        assert_eq!(kinds(&report), [FindingKind::Missing, FindingKind::UnderReplicated]);
        let missing = &report.findings[0];
        assert_eq!(missing.path.as_ref().unwrap().to_string(), "bn:/dir/a");
        assert_eq!((missing.chunk, missing.node.clone()), (Some(chunk), Some(format!("n{}", at + 1))));
        assert_eq!(report.verdict, Verdict::Healthy);
        assert_eq!(pool.holders(&chunk).len(), 3);
        assert_eq!(pool.check(dry()).await.findings_total, 0);
        assert_eq!(pool.admin.stat("bn:/dir/a").await.unwrap().copies_min, Some(3));
        assert!(pool.admin.get("bn:/dir/a").await == content);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wiped_node_is_filled_again_and_its_old_packs_are_forgotten() {
    for setup in [Setup::builtin(3), Setup::kubo(3), Setup::builtin(5)] {
        let (pool, content) = with_file(setup).await;
        pool.nodes[0].memory.wipe();
        let report = mend(&pool, HealthRequest::default()).await;
        assert_eq!(report.verdict, Verdict::Healthy);
        assert_eq!(pool.copies(), 18);
        pool.admin.session.gc(false, false).await.unwrap();
        let empty = "SELECT count(*) FROM pack WHERE state < 4 AND id NOT IN (SELECT pack_id FROM replica)";
        assert_eq!(pool.count(empty).await, 0);
        assert!(pool.admin.get("bn:/dir/a").await == content);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pack_that_lost_its_protection_is_protected_again_or_written_anew() {
    for lose_one in [false, true] {
        let (pool, content) = with_file(Setup::kubo(3)).await;
        let node = &pool.nodes[1].memory;
        let root = node.packs()[0];
        let chunk = pool.admin.chunks("bn:/dir/a").await[0].cid;
        // Behind our back: the pin goes, the bytes stay, as on a Kubo before its garbage collection.
        node.unprotect(root);
        if lose_one {
            node.forget(&chunk);
        }
        assert!(!node.holds_pack(root).await.unwrap());
        let found = pool.check(dry()).await;
        assert!(kinds(&found).contains(&FindingKind::Unprotected), "{found:?}");
        assert_ne!(found.verdict, Verdict::Healthy);
        let report = mend(&pool, HealthRequest::default()).await;
        assert_eq!(report.verdict, Verdict::Healthy, "{report:?}");
        assert_eq!(pool.check(dry()).await.findings_total, 0);
        assert_eq!(pool.holders(&chunk).len(), 3);
        assert!(pool.admin.get("bn:/dir/a").await == content);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotten_copy_is_found_by_reading_only() {
    for setup in [Setup::builtin(5), Setup::kubo(3)] {
        let (pool, content) = with_file(setup).await;
        let chunk = pool.admin.chunks("bn:/dir/a").await[3].cid;
        pool.nodes[pool.holders(&chunk)[0]].memory.corrupt(&chunk);
        assert_eq!(pool.check(dry()).await.findings_total, 0, "listing does not show it");
        let read = HealthRequest { read: true, ..HealthRequest::default() };
        let report = mend(&pool, read).await;
        assert_eq!(kinds(&report), [FindingKind::Corrupt, FindingKind::UnderReplicated]);
        assert_eq!(report.verdict, Verdict::Healthy);
        let again = pool.check(read).await;
        assert_eq!((again.verdict, again.findings_total), (Verdict::Healthy, 0), "{again:?}");
        assert!(pool.admin.get("bn:/dir/a").await == content);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_waits_for_its_grace_unless_told_otherwise() {
    let (pool, content) = with_file(Setup::builtin(5)).await;
    pool.kill(0);
    let report = mend(&pool, HealthRequest::default()).await;
    assert!(kinds(&report).contains(&FindingKind::Offline));
    assert_eq!((report.verdict, report.actions_total), (Verdict::Degraded, 0), "{report:?}");
    let asked: usize = pool.nodes[1..].iter().map(|node| node.memory.chunk_count()).sum();
    assert_eq!(report.replicas_checked, asked as u64, "nobody could be asked about the others");
    assert_eq!(pool.admin.stat("bn:/dir/a").await.unwrap().copies_min, Some(2), "by asking, not by remembering");
    let report = mend(&pool, HealthRequest { now: true, ..HealthRequest::default() }).await;
    assert!(report.repaired > 0);
    assert!(kinds(&pool.check(HealthRequest { now: true, ..dry() }).await).contains(&FindingKind::Offline));
    assert_eq!(
        report.verdict,
        Verdict::Healthy,
        "a node given up for lost is no problem once its chunks are elsewhere"
    );
    pool.kill(1);
    assert!(pool.admin.get("bn:/dir/a").await == content);
    pool.revive(0).await;
    pool.revive(1).await;
    let report = pool.health().await;
    assert_eq!((report.verdict, kinds(&report)), (Verdict::Healthy, vec![FindingKind::Surplus]));
}

#[tokio::test(start_paused = true)]
async fn one_copy_left_is_at_risk_and_mended_without_grace() {
    let (pool, content) = with_file(Setup::builtin(5)).await;
    let chunk = pool.admin.chunks("bn:/dir/a").await[0].cid;
    let holders = pool.holders(&chunk);
    pool.kill(holders[0]);
    pool.kill(holders[1]);
    let found = pool.check(dry()).await;
    assert_eq!(found.verdict, Verdict::AtRisk);
    let report = pool.health().await;
    assert!(report.repaired > 0, "{report:?}");
    assert!(pool.holders(&chunk).len() > 3);
    pool.kill(holders[2]);
    assert!(pool.admin.get("bn:/dir/a").await == content);
}

#[tokio::test(start_paused = true)]
async fn a_lost_chunk_names_its_file() {
    let (pool, _) = with_file(Setup::builtin(3)).await;
    let chunk = pool.admin.chunks("bn:/dir/a").await[0].cid;
    pool.nodes.iter().for_each(|node| assert!(node.memory.forget(&chunk)));
    let report = mend(&pool, HealthRequest::default()).await;
    assert_eq!(report.verdict, Verdict::Lost);
    let lost = report.findings.iter().find(|finding| finding.kind == FindingKind::Lost).unwrap();
    assert_eq!((lost.path.as_ref().unwrap().to_string(), lost.chunk), ("bn:/dir/a".into(), Some(chunk)));
    assert_eq!(pool.admin.stat("bn:/dir/a").await.unwrap().copies_min, Some(0));
    // The same content put again makes it whole.
    let options = crate::support::pool::always();
    tokio::time::advance(std::time::Duration::from_secs(700)).await;
    pool.admin.put_with("bn:/dir/a", &bytes(1, 6 * MIB), &options).await;
    pool.admin.session.gc(true, false).await.unwrap();
    assert_eq!(pool.health().await.verdict, Verdict::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_node_leaves_when_the_others_have_taken_over() {
    let (pool, content) = with_file(Setup::builtin(4)).await;
    let report = pool.admin.session.node_remove("n2", false, false).await.unwrap();
    assert_eq!(report.verdict, Verdict::Healthy);
    assert_eq!(pool.nodes[1].memory.chunk_count(), 0);
    let report = pool.health().await;
    assert_eq!((report.verdict, report.findings_total), (Verdict::Healthy, 0));
    assert!(pool.admin.session.node_remove("n1", false, false).await.is_err(), "two nodes cannot hold three copies");
    assert!(pool.admin.get("bn:/dir/a").await == content);
    assert_eq!(
        pool.count("SELECT count(*) FROM pack p LEFT JOIN node n ON n.id = p.node_id WHERE n.id IS NULL").await,
        0
    );
}
