//! Nodes go and come back, one or many, with what they had or without: what is done about it, and what is not.

use std::time::Duration;

use bytenode::admin::{Admin, Do, FindingKind, HealthRequest, NodeSet, NodeState, Verdict};
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};

use crate::support::pool::{CAPACITY, Like, MIB, Pool, Setup, bytes};

fn dry() -> HealthRequest {
    HealthRequest { dry_run: true, ..HealthRequest::default() }
}

fn now() -> HealthRequest {
    HealthRequest { now: true, ..HealthRequest::default() }
}

async fn states(pool: &Pool) -> Vec<NodeState> {
    pool.admin.session.nodes().await.unwrap().into_iter().map(|node| node.state).collect()
}

async fn hours(hours: u64) {
    tokio::time::advance(Duration::from_secs(hours * 3600)).await;
}

/// Half the nodes at once are a cable, not half the disks: what has two copies left is not copied, however long it takes,
/// until somebody says that they are lost. What is down to one copy is.
#[tokio::test(start_paused = true)]
async fn many_nodes_that_vanish_together_start_no_storm() {
    let pool = Pool::new(Setup::builtin(7).replicas(4)).await;
    let content = bytes(1, 20 * MIB);
    pool.admin.put("bn:/a", &content).await;
    (0..3).for_each(|node| pool.kill(node));
    pool.coordinator.ask_nodes().await;
    hours(5).await;
    let status = pool.admin.session.status().await.unwrap();
    assert!(status.hold.unwrap().starts_with("3 of 7 nodes went away at about the same time"));
    let report = pool.health().await;
    let single = |chunk: &bytenode::admin::ChunkRow| chunk.nodes.len() == 1;
    assert!(report.actions_total > 0 && report.repaired == report.actions_total, "{report:?}");
    let after = pool.admin.chunks("bn:/a").await;
    assert!(!after.iter().any(single), "none is left with one copy");
    assert!(after.iter().any(|chunk| chunk.nodes.len() < 4), "those with two are waited for");
    assert!(report.notices.iter().any(|notice| notice.contains("went away at about the same time")), "{report:?}");
    assert_eq!(pool.check(dry()).await.actions_total, 0);
    // A person knows better.
    let report = pool.check(now()).await;
    assert_eq!((report.verdict, report.remaining), (Verdict::Healthy, 0));
    assert!(pool.admin.get("bn:/a").await == content);
}

/// One or two of six may be lost for good, one after the other or together.
#[tokio::test(start_paused = true)]
async fn few_nodes_that_vanish_are_replaced_after_the_grace() {
    let pool = Pool::new(Setup::builtin(6)).await;
    pool.admin.put("bn:/a", &bytes(1, 20 * MIB)).await;
    (0..2).for_each(|node| pool.kill(node));
    pool.coordinator.ask_nodes().await;
    assert_eq!(pool.admin.session.status().await.unwrap().hold, None);
    hours(3).await;
    let waiting = pool.check(dry()).await;
    assert!(waiting.notices.iter().any(|notice| notice.contains("are waited for 1h more")), "{:?}", waiting.notices);
    // A node that is not waited for is not said to be.
    let given_up = pool.check(HealthRequest { now: true, ..dry() }).await;
    assert!(given_up.notices.iter().all(|notice| !notice.contains("waited for")), "{:?}", given_up.notices);
    hours(2).await;
    assert_eq!(pool.health().await.verdict, Verdict::Healthy);
}

/// The grace of a node that is away goes on over a start of the coordinator, and what happened is told afterwards.
#[tokio::test(start_paused = true)]
async fn a_start_does_not_forget_who_is_away() {
    let mut pool = Pool::new(Setup::builtin(5)).await;
    pool.admin.put("bn:/a", &bytes(1, 6 * MIB)).await;
    pool.kill(0);
    pool.coordinator.ask_nodes().await;
    hours(3).await;
    pool.restart_unasked().await;
    let away = pool.coordinator.nodes().named("n1").unwrap();
    assert_eq!(away.seen(pool.coordinator.nodes().grace()).state, NodeState::Suspect, "before anybody was asked");
    hours(1).await;
    assert_eq!(states(&pool).await[0], NodeState::Offline);
    assert_eq!(pool.health().await.verdict, Verdict::Healthy);
    pool.revive(0).await;
    assert_eq!(states(&pool).await[0], NodeState::Online);
    let told: Vec<String> =
        pool.admin.session.node_events("n1").await.unwrap().into_iter().map(|event| event.text).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0], "answers again, after 4h");
    assert!(told[1].starts_with("stopped answering: "), "{told:?}");
}

/// A node that comes and goes gets nothing new until it has answered for a minute; what it has is used all the while.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_and_goes_is_suspect_for_a_while() {
    let pool = Pool::new(Setup::builtin(4)).await;
    let content = bytes(1, 6 * MIB);
    pool.admin.put("bn:/a", &content).await;
    for _ in 0..3 {
        pool.kill(0);
        pool.coordinator.ask_nodes().await;
        tokio::time::advance(Duration::from_secs(30)).await;
        pool.revive(0).await;
    }
    assert_eq!(states(&pool).await[0], NodeState::Suspect);
    let had = pool.nodes[0].memory.chunk_count();
    pool.admin.put("bn:/b", &bytes(2, 6 * MIB)).await;
    assert_eq!(pool.nodes[0].memory.chunk_count(), had);
    assert_eq!(pool.admin.session.status().await.unwrap().verdict, Verdict::Healthy);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(states(&pool).await[0], NodeState::Online);
    pool.admin.put("bn:/c", &bytes(3, 20 * MIB)).await;
    assert!(pool.nodes[0].memory.chunk_count() > had);
}

/// A listing that lacks what the node gives is worth nothing: nothing is marked, nothing copied. One that was wiped gives
/// nothing either.
#[tokio::test(start_paused = true)]
async fn an_empty_listing_is_not_believed_of_a_node_that_has_everything() {
    for setup in [Setup::builtin(5), Setup::kubo(5)] {
        let pool = Pool::new(setup).await;
        pool.admin.put("bn:/a", &bytes(1, 12 * MIB)).await;
        hours(1).await;
        pool.nodes[0].fault.order(Call::ListChunks, When::Always, Fault::Lie);
        let report = pool.health().await;
        assert_eq!((report.actions_total, report.repaired), (0, 0), "{report:?}");
        assert_eq!(report.verdict, Verdict::Degraded, "what it has is not known");
        assert!(report.notices.iter().any(|notice| notice.starts_with("n1: its listing lacks")), "{report:?}");
        assert_eq!(pool.count("SELECT count(*) FROM replica WHERE bad_at IS NOT NULL").await, 0);
        pool.nodes[0].fault.heal();
        assert_eq!(pool.health().await.verdict, Verdict::Healthy);
        pool.nodes[0].memory.wipe();
        let report = pool.health().await;
        assert_eq!(report.verdict, Verdict::Healthy);
        assert!(report.repaired > 0);
    }
}

/// A node that returns makes copies that were made meanwhile too many: they are given up, down to the target, where they
/// belong least, and only once the others were proved.
#[tokio::test(start_paused = true)]
async fn what_is_too_much_is_given_up_after_proof() {
    for setup in [Setup::builtin(5), Setup::kubo(5)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 12 * MIB);
        pool.admin.put("bn:/a", &content).await;
        pool.kill(0);
        pool.check(now()).await;
        pool.revive(0).await;
        let planned = pool.check(dry()).await;
        assert!(
            planned.actions_total > 0 && planned.actions.iter().all(|action| action.act == Do::Drop),
            "{planned:?}"
        );
        assert_eq!((planned.verdict, planned.remaining), (Verdict::Healthy, 0), "too many is no problem");
        let report = pool.health().await;
        assert_eq!((report.repaired, report.verdict), (planned.actions_total, Verdict::Healthy));
        pool.admin.session.gc(false, false).await.unwrap();
        pool.admin.session.gc(false, false).await.unwrap();
        assert_eq!(pool.count("SELECT count(*) FROM replica").await, 36);
        assert!(pool.admin.chunks("bn:/a").await.iter().all(|chunk| chunk.nodes.len() == 3));
        assert_eq!(pool.check(dry()).await.findings_total, 0);
        assert!(pool.admin.get("bn:/a").await == content);
    }
}

/// Copies that would stay are read before one is given up: where they turn out to be wrong, none is.
#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_for_copies_that_rotted() {
    for setup in [Setup::builtin(4).replicas(2), Setup::kubo(4).replicas(2)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, MIB);
        pool.admin.put("bn:/a", &content).await;
        let chunk = pool.admin.chunks("bn:/a").await[0].cid;
        let holders = pool.holders(&chunk);
        pool.kill(holders[0]);
        pool.check(now()).await;
        pool.revive(holders[0]).await;
        hours(1).await;
        // Of three copies, two rot where no listing shows it.
        let spare = pool.check(dry()).await.actions[0].from.clone().unwrap();
        let rotten: Vec<usize> = pool.holders(&chunk).into_iter().filter(|at| pool.nodes[*at].name != spare).collect();
        assert_eq!(rotten.len(), 2);
        rotten.iter().for_each(|at| assert!(pool.nodes[*at].memory.corrupt(&chunk)));
        let report = pool.health().await;
        assert_ne!((report.repaired, report.verdict), (1, Verdict::Healthy), "{report:?}");
        // None was given up, so that a check that reads finds enough to mend all with.
        let read = HealthRequest { read: true, ..HealthRequest::default() };
        assert_eq!(pool.check(read).await.verdict, Verdict::Healthy);
        assert!(pool.admin.get("bn:/a").await == content);
        let right = pool.nodes.iter().filter(|node| node.memory.has_right(&chunk)).count();
        assert!(right >= 2, "{right} right copies");
    }
}

/// Two copies in one zone are a fault where another zone has room; they are parted, never below the target.
#[tokio::test(start_paused = true)]
async fn copies_are_parted_over_zones() {
    let pool = Pool::new(Setup::builtin(4)).await;
    let content = bytes(1, 12 * MIB);
    pool.admin.put("bn:/a", &content).await;
    let zone = |name: &str, zone: &str| {
        let (name, zone) = (name.to_owned(), zone.to_owned());
        let session = pool.admin.session.clone();
        async move {
            let change = NodeSet { zone: Some(zone), ..NodeSet::default() };
            session.node_set(&name, &change).await.unwrap();
        }
    };
    zone("n1", "attic").await;
    zone("n2", "attic").await;
    let planned = pool.check(dry()).await;
    assert!(planned.findings.iter().all(|finding| finding.kind == FindingKind::Zone), "{planned:?}");
    assert!(planned.actions.iter().all(|action| action.act == Do::Move), "{planned:?}");
    let both = pool
        .admin
        .chunks("bn:/a")
        .await
        .iter()
        .filter(|chunk| ["n1", "n2"].iter().all(|name| chunk.nodes.contains(&(*name).to_owned())))
        .count() as u64;
    assert!(both > 0 && planned.actions_total == both, "{both}: {planned:?}");
    let report = pool.health().await;
    assert_eq!((report.verdict, report.repaired, report.remaining), (Verdict::Healthy, both, 0));
    for chunk in pool.admin.chunks("bn:/a").await {
        let attic = chunk.nodes.iter().filter(|name| ["n1", "n2"].contains(&name.as_str())).count();
        assert_eq!((chunk.nodes.len(), attic), (3, 1), "{chunk:?}");
    }
    assert!(pool.admin.get("bn:/a").await == content);
}

/// Work that a node makes needless by coming back is not done.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_ends_the_copying_of_what_it_has() {
    let mut setup = Setup::builtin(5);
    setup.policy.repair_rate = 1 << 20;
    let mut pool = Pool::new(setup).await;
    pool.add_node(Like::Builtin, CAPACITY).await;
    pool.admin.put("bn:/a", &bytes(1, 200 * MIB)).await;
    tokio::time::advance(Duration::from_secs(120)).await;
    pool.kill(0);
    let repairing = pool.check(now());
    let before: u64 = pool.nodes.iter().map(|node| node.memory.calls(Call::Write)).sum();
    let returning = async {
        while pool.nodes.iter().map(|node| node.memory.calls(Call::Write)).sum::<u64>() == before {
            tokio::task::yield_now().await;
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        pool.revive(0).await;
    };
    let (report, ()) = tokio::join!(repairing, returning);
    assert_eq!(report.verdict, Verdict::Healthy);
    assert!(report.repaired < report.actions_total, "{} of {}", report.repaired, report.actions_total);
}

/// A node whose listing is not believed is waited for like one that does not answer, but holds no other repair up.
#[tokio::test(start_paused = true)]
async fn a_listing_that_is_not_believed_stops_no_other_repair() {
    let pool = Pool::new(Setup::builtin(5)).await;
    pool.admin.put("bn:/a", &bytes(1, 12 * MIB)).await;
    hours(1).await;
    pool.nodes[0].fault.order(Call::ListChunks, When::Always, Fault::Lie);
    let lost = pool.nodes[1].memory.kept()[0].chunks.keys().next().copied().unwrap();
    pool.nodes[1].memory.forget(&lost);
    let report = tokio::time::timeout(Duration::from_secs(600), pool.health()).await.expect("it comes to its end");
    assert!(report.repaired >= 1, "{report:?}");
    assert!(pool.holders(&lost).len() >= 2);
    // Not for ever, and not against what a person says.
    let report = pool.check(now()).await;
    assert!(report.repaired > 1 && report.verdict == Verdict::Healthy, "{report:?}");
}

/// While many nodes are away nothing is copied; but what is there and lost its protection is protected again.
#[tokio::test(start_paused = true)]
async fn what_is_unprotected_is_protected_while_repair_is_on_hold() {
    let pool = Pool::new(Setup::kubo(6).replicas(4)).await;
    pool.admin.put("bn:/a", &bytes(1, 8 * MIB)).await;
    for node in &pool.nodes {
        node.memory.packs().into_iter().for_each(|root| assert!(node.memory.unprotect(root)));
    }
    (0..3).for_each(|node| pool.kill(node));
    pool.coordinator.ask_nodes().await;
    let stands = pool.check(dry()).await;
    assert_eq!(stands.verdict, Verdict::AtRisk, "no copy counts as it is");
    let report = pool.health().await;
    assert!(report.repaired > 0 && report.verdict == Verdict::Degraded, "{report:?}");
    for node in &pool.nodes[3..] {
        assert!(node.memory.kept().iter().all(|pack| pack.protected), "{}", node.name);
    }
}

/// A node that is to be emptied, and that no other can take the place of, keeps what it has protected, in a pack of what is
/// left where its pack cannot be protected as a whole.
#[tokio::test(start_paused = true)]
async fn what_a_drained_node_must_keep_is_protected_there() {
    let pool = Pool::new(Setup::kubo(2).replicas(2)).await;
    pool.admin.put("bn:/a", &bytes(1, 5 * MIB)).await;
    let drain = NodeSet { draining: Some(true), ..NodeSet::default() };
    pool.admin.session.node_set(&pool.nodes[0].name, &drain).await.unwrap();
    let node = &pool.nodes[0].memory;
    let lost = node.kept()[0].chunks.keys().next().copied().unwrap();
    assert!(node.forget(&lost) && node.unprotect(node.packs()[0]));
    let plan = pool.check(dry()).await;
    let report = pool.health().await;
    assert_eq!((plan.actions_total, report.repaired), (4, 4), "{report:?}");
    node.collect_garbage();
    let (whole, single): (Vec<_>, Vec<_>) =
        pool.admin.chunks("bn:/a").await.into_iter().partition(|chunk| node.has_right(&chunk.cid));
    assert_eq!((whole.len(), single.len()), (4, 1), "what is left is kept");
    assert_eq!(pool.holders(&lost), [1]);
}

/// What is too much is not given up for copies on nodes that do not answer now, however lately these were proved.
#[tokio::test(start_paused = true)]
async fn nothing_is_given_up_for_copies_that_nobody_can_read_now() {
    let pool = Pool::new(Setup::builtin(5).replicas(2)).await;
    let content = bytes(1, 6 * MIB);
    pool.admin.put("bn:/a", &content).await;
    let drain = NodeSet { draining: Some(true), ..NodeSet::default() };
    let first = pool.admin.chunks("bn:/a").await[0].nodes[0].clone();
    pool.admin.session.node_set(&first, &drain).await.unwrap();
    // As soon as a copy was moved, everybody else falls silent.
    let at = pool.nodes.iter().position(|node| node.name == first).unwrap();
    for other in pool.nodes.iter().filter(|node| node.name != first) {
        other.fault.order(
            Call::Status,
            When::Always,
            Fault::Fail(bytenode::node::NodeFailure::Unreachable("gone".into())),
        );
    }
    pool.health().await;
    pool.admin.session.gc(true, false).await.unwrap();
    for chunk in pool.admin.chunks("bn:/a").await.iter().filter(|chunk| chunk.nodes.contains(&first)) {
        assert!(pool.nodes[at].memory.has_right(&chunk.cid));
    }
    pool.nodes.iter().for_each(|node| node.fault.heal());
    pool.coordinator.ask_nodes().await;
    assert!(pool.admin.get("bn:/a").await == content);
}

/// A node that is given up for lost, and answers after all, is not forgotten with what only it has.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_lost_after_all_keeps_what_only_it_has() {
    let mut setup = Setup::builtin(3);
    setup.policy.replicas = 1;
    let pool = Pool::new(setup).await;
    pool.admin.put("bn:/a", &bytes(1, 1000)).await;
    let name = pool.admin.chunks("bn:/a").await[0].nodes[0].clone();
    let at = pool.nodes.iter().position(|node| node.name == name).unwrap();
    // It does not answer when it is asked first, and then it does.
    let gone = || Fault::Fail(bytenode::node::NodeFailure::Unreachable("gone".into()));
    pool.nodes[at].fault.order(Call::Status, When::Next(1), gone());
    let kept = pool.admin.session.node_remove(&name, true, false).await.unwrap_err();
    assert_eq!(kept.code, bytenode::api::Code::Changed, "{kept:?}");
    assert!(kept.message.contains("answers again"), "{kept:?}");
    assert!(pool.admin.get("bn:/a").await == bytes(1, 1000));
    // One that answers at once is no lost one either: what it has goes elsewhere first.
    pool.admin.session.node_remove(&name, true, false).await.unwrap();
    assert!(pool.admin.get("bn:/a").await == bytes(1, 1000));
}
