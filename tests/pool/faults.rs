//! Nodes that are down, full, lying, rotten or gone, at put and at get.

use bytenode::admin::{FindingKind, HealthRequest, Verdict};
use bytenode::api::Code;
use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};
use bytenode::put::PutOptions;

use crate::support::pool::{Like, MIB, Pool, Setup, always, bytes};

fn copies(replicas: u32) -> PutOptions {
    PutOptions { replicas: Some(replicas), ..always() }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_is_replaced_where_another_has_room() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = Pool::new(setup).await;
        pool.kill(0);
        let put = pool.admin.put("bn:/a", &bytes(1, 4 * MIB)).await;
        assert_eq!((put.summary.copies_min, put.summary.failed), (Some(3), 0));
        assert!(pool.admin.notices().iter().any(|notice| notice.contains("n1")), "{:?}", pool.admin.notices());
        // Known to be dead, it still costs a line in the next put.
        let before = pool.admin.notices().len();
        pool.admin.put("bn:/b", &bytes(2, 4 * MIB)).await;
        assert_eq!(pool.admin.notices().len(), before + 1);
        assert!(pool.admin.get("bn:/a").await == bytes(1, 4 * MIB));
    }
}

#[tokio::test(start_paused = true)]
async fn with_too_few_nodes_the_write_rule_decides() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        pool.kill(0);
        let put = pool.admin.put("bn:/two", &bytes(1, 2 * MIB)).await;
        assert_eq!((put.summary.copies_min, put.summary.copies_target), (Some(2), 3));
        pool.kill(1);
        let refused = pool.admin.try_put("bn:/one", &bytes(2, MIB), &PutOptions::default()).await;
        let code = match &refused {
            Ok(put) => put.error().code,
            Err(error) => error.code,
        };
        assert_eq!(code, Code::Temporary, "{refused:?}");
        assert_eq!(pool.admin.stat("bn:/one").await.unwrap_err().code, Code::NotFound);
        pool.revive(0).await;
        pool.revive(1).await;
        assert!(pool.admin.notices().iter().any(|notice| notice.contains("n1")));
        let report = pool.health().await;
        assert_eq!((report.verdict, report.repaired), (Verdict::Healthy, 2), "{report:?}");
        assert_eq!(pool.admin.stat("bn:/two").await.unwrap().copies_min, Some(3));
        let again = pool.admin.put("bn:/one", &bytes(2, MIB)).await;
        assert_eq!(again.summary.copies_min, Some(3));
    }
}

#[tokio::test(start_paused = true)]
async fn one_node_takes_one_copy_or_none() {
    let pool = Pool::new(Setup::builtin(1)).await;
    let refused = pool.admin.try_put("bn:/a", b"x", &PutOptions::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::TooFewNodes);
    assert!(refused.hint.unwrap().contains("node add"));
    let put = pool.admin.put_with("bn:/a", b"x", &copies(1)).await;
    assert_eq!((put.summary.copies_min, put.summary.copies_target), (Some(1), 1));
    assert_eq!(pool.admin.try_put("bn:/a", b"x", &copies(0)).await.unwrap_err().code, Code::Usage);
    assert_eq!(pool.admin.try_put("bn:/a", b"x", &copies(17)).await.unwrap_err().code, Code::Usage);
}

#[tokio::test(start_paused = true)]
async fn a_full_node_is_passed_over() {
    let mut setup = Setup::builtin(4);
    setup.nodes[0].1 = 5 * MIB as u64;
    let pool = Pool::new(setup).await;
    pool.nodes[1].fault.fill();
    let put = pool.admin.put("bn:/a", &bytes(1, 3 * MIB)).await;
    assert_eq!(put.summary.copies_min, Some(3), "{put:?} {:?}", pool.admin.notices());
    let put = pool.admin.put("bn:/b", &bytes(2, 12 * MIB)).await;
    assert_eq!(put.summary.copies_min, Some(2), "two nodes have room");
    pool.nodes[2].fault.fill();
    let refused = pool.admin.try_put("bn:/c", &bytes(3, 12 * MIB), &PutOptions::default()).await;
    let code = refused.as_ref().map_or_else(|error| error.code, |put| put.error().code);
    assert!(matches!(code, Code::NoRoom | Code::Temporary), "{refused:?}");
    assert!(pool.admin.stat("bn:/c").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_looks_full_only_of_what_is_on_its_way_is_asked_again() {
    let mut setup = Setup::builtin(0);
    setup.nodes = vec![(Like::Builtin, 120 * MIB as u64); 3];
    let pool = Pool::new(setup).await;
    for round in 0..6 {
        // Each is removed before the next: much passes through, little stays.
        pool.admin.put_with("bn:/a", &bytes(round, 40 * MIB), &always()).await;
        pool.admin.rm("bn:/a").await;
        bytenode::admin::Admin::gc(&*pool.admin.session, true, false).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_liar_is_caught_before_anything_is_acknowledged() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = Pool::new(setup).await;
        for call in [Call::Write, Call::Protect] {
            pool.nodes[2].fault.order(call, When::Always, Fault::Lie);
        }
        let put = pool.admin.put("bn:/a", &bytes(1, 6 * MIB)).await;
        assert_eq!(put.summary.copies_min, Some(3));
        assert_eq!(pool.nodes[2].memory.chunk_count(), 0);
        assert!(pool.admin.notices().iter().any(|notice| notice.starts_with("n3")), "{:?}", pool.admin.notices());
        assert!(pool.admin.chunks("bn:/a").await.iter().all(|chunk| !chunk.nodes.contains(&"n3".to_owned())));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_costs_no_copy() {
    for setup in [Setup::builtin(5), Setup::kubo(5)] {
        let pool = Pool::new(setup).await;
        let lost = Fault::LoseAnswer(NodeFailure::Timeout { seconds: 20, doing: "the answer" });
        pool.nodes[0].fault.order(Call::Write, When::Always, lost.clone());
        pool.nodes[1].fault.order(Call::Protect, When::Always, lost);
        let put = pool.admin.put("bn:/a", &bytes(1, 6 * MIB)).await;
        assert_eq!(put.summary.copies_min, Some(3));
        pool.nodes.iter().for_each(|node| node.fault.heal());
        bytenode::admin::Admin::gc(&*pool.admin.session, false, false).await.unwrap();
        assert_eq!(pool.copies(), 18, "what was given up is dropped");
        let report = pool.health().await;
        assert_eq!((report.verdict, report.findings_total), (Verdict::Healthy, 0), "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn get_takes_another_copy_reports_the_bad_one_and_health_mends_it() {
    for setup in [Setup::builtin(5), Setup::kubo(5)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 3 * MIB);
        pool.admin.put("bn:/a", &content).await;
        // Two copies of each rot, so that a bad one is met.
        for chunk in pool.admin.chunks("bn:/a").await {
            for at in &pool.holders(&chunk.cid)[..2] {
                pool.nodes[*at].memory.corrupt(&chunk.cid);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            let (summary, _) = pool.admin.get_into(&["bn:/a"], dir.path()).await;
            assert_eq!(summary.failed, 0);
            assert!(std::fs::read(dir.path().join("a")).unwrap() == content);
            std::fs::remove_file(dir.path().join("a")).unwrap();
        }
        assert!(pool.count("SELECT count(*) FROM replica WHERE bad_at IS NOT NULL").await >= 1);
        assert!(pool.admin.notices().iter().any(|notice| notice.contains("wrong bytes")));
        let report = pool.check(HealthRequest { read: true, ..HealthRequest::default() }).await;
        assert!(report.findings.iter().filter(|finding| finding.kind == FindingKind::Corrupt).count() == 6);
        assert_eq!(report.verdict, Verdict::Healthy, "{report:?}");
        let report = pool.check(HealthRequest { read: true, ..HealthRequest::default() }).await;
        assert_eq!((report.verdict, report.findings_total), (Verdict::Healthy, 0), "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_node_costs_a_get_a_line() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let content = bytes(1, 40 * MIB);
    pool.admin.put("bn:/a", &content).await;
    pool.kill(1);
    pool.trace.reset();
    let before = pool.admin.notices().len();
    assert!(pool.admin.get("bn:/a").await == content);
    let notices = &pool.admin.notices()[before..];
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert!(notices[0].contains("n2"));
    assert!(pool.trace.count("n2 read_chunk") <= 16, "a node that failed is asked last");
}

#[tokio::test(start_paused = true)]
async fn without_a_copy_there_is_an_error_and_no_file() {
    let pool = Pool::new(Setup::builtin(3)).await;
    pool.admin.put("bn:/gone", &bytes(1, 3 * MIB)).await;
    pool.admin.put("bn:/kept", &bytes(2, 3 * MIB)).await;
    let dir = tempfile::tempdir().unwrap();
    let lost = pool.admin.chunks("bn:/gone").await[1].cid;
    pool.nodes.iter().for_each(|node| assert!(node.memory.forget(&lost)));
    let (summary, outcomes) = pool.admin.get_into(&["bn:/gone", "bn:/kept"], dir.path()).await;
    assert_eq!((summary.files, summary.failed), (1, 1));
    let failed = outcomes.iter().find_map(|one| match one {
        bytenode::get::GetOutcome::Failed { error, .. } => Some(error),
        _ => None,
    });
    let error = failed.unwrap();
    assert_eq!(error.code, Code::Integrity);
    assert!(error.message.contains("bn:/gone"), "{error}");
    // What was fetched of the other stays in its temporary file, to be gone on with.
    let left = std::fs::read_dir(dir.path()).unwrap().map(|one| one.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| !name.ends_with(".bytenode-part")).collect();
    assert_eq!(left, ["kept"], "no partial file");
    (0..3).for_each(|at| pool.kill(at));
    assert_eq!(pool.admin.try_get("bn:/kept").await.unwrap_err().code, Code::Temporary);
}

#[tokio::test(start_paused = true)]
async fn a_second_put_heals_and_never_counts_what_is_gone() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 3 * MIB);
        pool.admin.put("bn:/a", &content).await;
        pool.nodes[0].memory.wipe();
        pool.nodes[1].memory.wipe();
        tokio::time::advance(std::time::Duration::from_secs(3600)).await;
        // Nothing can be written: the catalog's old proofs must not stand in for copies.
        for node in &pool.nodes {
            node.fault.order(Call::Write, When::Always, Fault::Fail(NodeFailure::Answer("no".into())));
        }
        let refused = pool.admin.put_with("bn:/b", &content, &always()).await;
        assert_eq!(refused.error().code, Code::Temporary);
        pool.nodes.iter().for_each(|node| node.fault.heal());
        let healed = pool.admin.put_with("bn:/b", &content, &always()).await;
        assert_eq!((healed.summary.copies_min, healed.summary.sent_bytes), (Some(3), 6 * (MIB as u64 + 16)));
        assert_eq!(pool.copies(), 9);
    }
}

/// A chunk may be in two packs on one node. Only the first was ever offered: once its bytes were lost, what had been put
/// again in their place could not be fetched, though every node had it.
#[tokio::test(start_paused = true)]
async fn every_pack_that_holds_a_chunk_is_offered() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let content = bytes(1, MIB);
    pool.admin.put("bn:/a", &content).await;
    tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    for node in &pool.nodes[..2] {
        node.memory.wipe();
        node.fault.order(Call::Read, When::Always, Fault::Fail(NodeFailure::Answer("not now".into())));
    }
    assert_eq!(pool.admin.put_with("bn:/a", &content, &always()).await.summary.copies_min, Some(3));
    pool.nodes.iter().for_each(|node| node.fault.heal());
    pool.kill(2);
    assert!(pool.admin.get("bn:/a").await == content);
}
