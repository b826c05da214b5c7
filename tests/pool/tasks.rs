//! Long work: it can be watched, paused, cancelled and cut off by a crash, and nodes that are drained lose nothing.

use std::time::Duration;

use bytenode::admin::{
    Admin, Do, FindingKind, HealthRequest, NodeSet, NodeState, Steer, Task, TaskReport, TaskRequest, TaskState, Verdict,
};
use bytenode::api::Code;

use crate::support::pool::{CAPACITY, MIB, Pool, Setup, bytes};

fn drain(node: &str) -> TaskRequest {
    TaskRequest::Drain { node: node.to_owned() }
}

pub(super) fn health() -> TaskRequest {
    TaskRequest::Health { now: false, read: false, time_limit: None, no_wait: false }
}

pub(super) async fn start(pool: &Pool, request: &TaskRequest) -> Task {
    pool.admin.session.task_start(request).await.unwrap()
}

/// Waits for a task's end.
pub(super) async fn ended(pool: &Pool, id: u64) -> TaskReport {
    loop {
        let report = pool.admin.session.task(id, 20, u64::MAX).await.unwrap();
        if report.task.state.has_ended() {
            return report;
        }
    }
}

/// Waits until a task has said something.
async fn said(pool: &Pool, id: u64, what: &str) {
    loop {
        let report = pool.admin.session.task(id, 1, u64::MAX).await.unwrap();
        if report.log.iter().any(|line| line.text.contains(what)) {
            return;
        }
    }
}

async fn state(pool: &Pool, name: &str) -> NodeState {
    pool.admin.session.nodes().await.unwrap().into_iter().find(|node| node.name == name).unwrap().state
}

const ON_FIRST: &str = "SELECT count(*) FROM replica r JOIN pack p ON p.id = r.pack_id JOIN node n ON n.id = p.node_id
    WHERE n.name = 'n1' AND p.state = 2";

/// Everything goes elsewhere as the dry run says, nothing new comes, and at the end the node has no copy left; then it can
/// be forgotten, or used again.
#[tokio::test(start_paused = true)]
async fn a_drained_node_is_empty_and_nothing_is_lost() {
    for setup in [Setup::builtin(5), Setup::kubo(5)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 12 * MIB);
        pool.admin.put("bn:/a", &content).await;
        let session = &pool.admin.session;
        let before = pool.count(ON_FIRST).await;
        let planned = session.node_remove("n1", false, true).await.unwrap();
        assert_eq!((planned.verdict, planned.actions_total), (Verdict::Healthy, before as u64));
        let moves = |action: &bytenode::admin::Action| action.act == Do::Move && action.from.as_deref() == Some("n1");
        assert!(planned.actions.iter().all(moves), "{:?}", planned.actions);
        assert!(planned.findings.iter().all(|finding| finding.kind == FindingKind::Misplaced));

        let task = start(&pool, &drain("n1")).await;
        assert_eq!(start(&pool, &drain("n1")).await.id, task.id, "one that is under way is joined");
        let report = ended(&pool, task.id).await;
        assert_eq!(
            (report.task.state, report.task.done, report.task.total),
            (TaskState::Done, before as u64, Some(before as u64))
        );
        let mut done = report.health.unwrap().actions;
        done.sort_by(|a, b| (&a.to, a.chunk).cmp(&(&b.to, b.chunk)));
        let mut as_planned = planned.actions;
        as_planned.sort_by(|a, b| (&a.to, a.chunk).cmp(&(&b.to, b.chunk)));
        assert_eq!(done, as_planned);
        assert_eq!(pool.count(ON_FIRST).await, 0);
        session.gc(false, false).await.unwrap();
        assert_eq!(pool.nodes[0].memory.packs().len(), 0);
        for row in pool.admin.chunks("bn:/a").await {
            assert_eq!(row.nodes.len(), 3);
            assert!(!row.nodes.contains(&"n1".to_owned()));
        }
        assert_eq!(state(&pool, "n1").await, NodeState::Draining);
        let status = session.status().await.unwrap();
        assert_eq!((status.verdict, status.under_replicated), (Verdict::Healthy, 0));
        pool.admin.put("bn:/b", &bytes(2, 6 * MIB)).await;
        assert_eq!(pool.count(ON_FIRST).await, 0, "it takes nothing new");
        let open = NodeSet { draining: Some(false), ..NodeSet::default() };
        session.node_set("n1", &open).await.unwrap();
        assert_eq!(state(&pool, "n1").await, NodeState::Online);
        assert!(pool.admin.get("bn:/a").await == content);
        session.node_remove("n1", false, false).await.unwrap();
        assert!(pool.admin.get("bn:/a").await == content);
    }
}

/// Without room elsewhere nothing is given up. While a node is away, the drain waits and says why. It can be paused, survives
/// a start of the coordinator, goes on when the node is back, and does not begin anew.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_node_and_survives_a_start() {
    let mut pool = Pool::new(Setup::builtin(4)).await;
    let content = bytes(1, 4 * MIB);
    pool.kill(3);
    pool.coordinator.ask_nodes().await;
    pool.admin.put("bn:/a", &content).await;
    let task = start(&pool, &drain("n1")).await;
    said(&pool, task.id, "4 chunks wait for other nodes").await;
    assert_eq!(pool.count(ON_FIRST).await, 4);
    let paused = pool.admin.session.task_steer(task.id, Steer::Pause).await.unwrap();
    assert_eq!(paused.state, TaskState::Paused);
    assert_eq!(state(&pool, "n1").await, NodeState::Draining);

    pool.restart().await;
    pool.coordinator.resume_tasks().await.unwrap();
    pool.revive(3).await;
    let report = pool.admin.session.task(task.id, 20, u64::MAX).await.unwrap();
    assert_eq!(report.task.state, TaskState::Paused, "{report:?}");
    // Nobody else moves what is not to be moved now.
    assert_eq!(pool.health().await.actions_total, 0);
    assert_eq!(pool.count(ON_FIRST).await, 4);
    pool.admin.session.task_steer(task.id, Steer::Resume).await.unwrap();
    // A crash on the way, whenever it comes.
    tokio::time::advance(Duration::from_millis(1)).await;
    pool.restart().await;
    pool.coordinator.resume_tasks().await.unwrap();
    let report = ended(&pool, task.id).await;
    assert_eq!((report.task.state, report.task.done, report.task.total), (TaskState::Done, 4, Some(4)));
    let told: Vec<&str> = report.log.iter().map(|line| line.text.as_str()).collect();
    assert!(told.contains(&"the coordinator was started again"), "{told:?}");
    assert_eq!(pool.count(ON_FIRST).await, 0);
    assert!(pool.admin.get("bn:/a").await == content);
    // What it was is known for good, and that it is over.
    pool.restart().await;
    let report = pool.admin.session.task(task.id, 0, 0).await.unwrap();
    assert_eq!(report.task.state, TaskState::Done);
    let over = pool.admin.session.task_steer(task.id, Steer::Pause).await.unwrap_err();
    assert_eq!(over.code, Code::Changed);
    assert_eq!(pool.admin.session.task(99, 0, 0).await.unwrap_err().code, Code::NotFound);
}

/// Where all nodes answer and none has room, waiting is for nothing: that is said, and the node takes new chunks again.
#[tokio::test(start_paused = true)]
async fn a_drain_that_cannot_end_is_refused() {
    let pool = Pool::new(Setup::builtin(3)).await;
    pool.admin.put("bn:/a", &bytes(1, 4 * MIB)).await;
    let task = start(&pool, &drain("n1")).await;
    let report = ended(&pool, task.id).await;
    assert_eq!((report.task.state, report.error.unwrap().code), (TaskState::Failed, Code::TooFewNodes));
    assert_eq!(report.task.message, "4 chunks on n1 have no place on the other nodes");
    assert_eq!(pool.count(ON_FIRST).await, 4);
    assert_eq!(state(&pool, "n1").await, NodeState::Online);
}

/// A drain of the first node, which waits for the last one to come back.
async fn waiting_drain() -> (Pool, Task) {
    let pool = Pool::new(Setup::builtin(4)).await;
    pool.kill(3);
    pool.coordinator.ask_nodes().await;
    pool.admin.put("bn:/a", &bytes(1, 4 * MIB)).await;
    let task = start(&pool, &drain("n1")).await;
    said(&pool, task.id, "chunks wait for other nodes").await;
    (pool, task)
}

/// A drain goes on under the node's new name, and is of no other that gets the old one.
#[tokio::test(start_paused = true)]
async fn a_drain_is_of_a_node_and_not_of_its_name() {
    let (pool, task) = waiting_drain().await;
    for (from, to) in [("n1", "cellar"), ("n2", "n1")] {
        let name = NodeSet { name: Some(to.into()), ..NodeSet::default() };
        pool.admin.session.node_set(from, &name).await.unwrap();
    }
    pool.revive(3).await;
    let report = ended(&pool, task.id).await;
    assert_eq!((report.task.state, report.task.node.as_deref()), (TaskState::Done, Some("cellar")));
    assert_eq!((state(&pool, "cellar").await, state(&pool, "n1").await), (NodeState::Draining, NodeState::Online));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_cancelled_opens_the_node_again() {
    let (pool, task) = waiting_drain().await;
    let cancelled = pool.admin.session.task_steer(task.id, Steer::Cancel).await.unwrap();
    assert_eq!(cancelled.state, TaskState::Cancelled);
    assert_eq!(state(&pool, "n1").await, NodeState::Online);
    let texts: Vec<String> =
        pool.admin.session.node_events("n1").await.unwrap().into_iter().map(|event| event.text).collect();
    assert_eq!(texts, ["takes new chunks again", "is being emptied"]);
    assert_eq!(pool.admin.session.task_start(&drain("nobody")).await.unwrap_err().code, Code::NotFound);
}

/// A pool with much to repair, slowly.
pub(super) async fn slowly_mended() -> Pool {
    let mut setup = Setup::builtin(4);
    setup.policy.repair_rate = 1 << 20;
    let pool = Pool::new(setup).await;
    pool.admin.put("bn:/a", &bytes(1, 60 * MIB)).await;
    pool.nodes[0].memory.wipe();
    pool
}

/// A repair with a limit stops when its time is over, and says what is left; the rest is for the next one. Another that
/// does not want to wait for it is refused.
#[tokio::test(start_paused = true)]
async fn a_time_limit_ends_a_repair_between_two_packs() {
    let pool = slowly_mended().await;
    let limited = TaskRequest::Health { now: false, read: false, time_limit: Some(10), no_wait: false };
    let task = start(&pool, &limited).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    let busy = TaskRequest::Health { now: false, read: false, time_limit: None, no_wait: true };
    assert_eq!(pool.admin.session.task_start(&busy).await.unwrap_err().code, Code::Busy);
    let report = ended(&pool, task.id).await.health.unwrap();
    assert!(report.repaired > 0 && report.repaired < report.actions_total, "{} repaired", report.repaired);
    assert_eq!(report.verdict, Verdict::Degraded);
    assert!(report.remaining > 0 && report.notices.iter().any(|notice| notice.contains("time limit")), "{report:?}");
    let task = start(&pool, &health()).await;
    assert_eq!(ended(&pool, task.id).await.health.unwrap().verdict, Verdict::Healthy);
}

/// A repair that is paused lets others repair, and is not in the way of a check.
#[tokio::test(start_paused = true)]
async fn a_paused_repair_holds_nobody_up() {
    let pool = slowly_mended().await;
    let task = start(&pool, &health()).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    let mut paused = pool.admin.session.task_steer(task.id, Steer::Pause).await.unwrap();
    while paused.state == TaskState::Running {
        paused = pool.admin.session.task(task.id, 1, u64::MAX).await.unwrap().task;
    }
    assert_eq!(paused.state, TaskState::Paused);
    assert_eq!(pool.health().await.verdict, Verdict::Healthy);
    pool.admin.session.task_steer(task.id, Steer::Resume).await.unwrap();
    let report = ended(&pool, task.id).await;
    assert_eq!((report.task.state, report.health.unwrap().verdict), (TaskState::Done, Verdict::Healthy));
}

/// What a task ended with is told in full, and its beginnings are kept for good.
#[tokio::test(start_paused = true)]
async fn a_report_outlives_the_coordinator() {
    let mut pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/a", &bytes(1, 3 * MIB)).await;
    pool.nodes.iter().take(2).for_each(|node| node.memory.wipe());
    let task = start(&pool, &health()).await;
    let told = ended(&pool, task.id).await;
    assert!(told.task.message.starts_with("healthy; repaired "), "{}", told.task.message);
    pool.restart().await;
    assert_eq!(pool.admin.session.task(task.id, 0, 0).await.unwrap(), told);
    let all = pool.admin.session.tasks().await.unwrap();
    assert_eq!(all, [told.task]);
    let scrub = start(&pool, &TaskRequest::Scrub { all: true }).await;
    let scrubbed = ended(&pool, scrub.id).await;
    assert_eq!(scrubbed.task.done, scrubbed.task.total.unwrap());
    assert_eq!(scrubbed.scrub.unwrap().len(), 4);
}

/// A user who is no admin steers nothing.
#[tokio::test(start_paused = true)]
async fn tasks_are_the_admins_business() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let task = start(&pool, &health()).await;
    let eve = pool.user("eve").await.session;
    assert_eq!(eve.task_start(&health()).await.unwrap_err().code, Code::NotAllowed);
    assert_eq!(eve.tasks().await.unwrap_err().code, Code::NotAllowed);
    assert_eq!(eve.task(task.id, 0, 0).await.unwrap_err().code, Code::NotAllowed);
    assert_eq!(eve.task_steer(task.id, Steer::Cancel).await.unwrap_err().code, Code::NotAllowed);
    assert_eq!(eve.node_set("n1", &NodeSet::default()).await.unwrap_err().code, Code::NotAllowed);
    assert!(eve.status().await.unwrap().tasks.is_empty());
}

/// What is changed of a node stays changed, and a name that another has is refused.
#[tokio::test(start_paused = true)]
async fn a_node_is_changed_and_its_data_stays() {
    let mut pool = Pool::new(Setup::builtin(4)).await;
    let content = bytes(1, 6 * MIB);
    pool.admin.put("bn:/a", &content).await;
    let session = pool.admin.session.clone();
    let before = pool.count(ON_FIRST).await;
    let change = NodeSet {
        name: Some("cellar".into()),
        zone: Some("attic".into()),
        capacity_bytes: Some(CAPACITY / 2),
        weight: Some(50),
        ..NodeSet::default()
    };
    let dry = NodeSet { dry_run: true, ..change.clone() };
    let stood = pool.dump().await;
    session.node_set("n1", &dry).await.unwrap();
    assert_eq!(pool.dump().await, stood);
    session.node_set("n1", &change).await.unwrap();
    pool.restart().await;
    let nodes = pool.admin.session.nodes().await.unwrap();
    let cellar = nodes.iter().find(|node| node.name == "cellar").unwrap();
    assert_eq!((cellar.zone.as_str(), cellar.capacity_bytes, cellar.chunks), ("attic", CAPACITY / 2, before as u64));
    let weights = "SELECT weight FROM node WHERE name = 'cellar'";
    assert_eq!(pool.count(weights).await, 50);
    assert!(pool.admin.get("bn:/a").await == content);
    let taken = NodeSet { name: Some("n2".into()), ..NodeSet::default() };
    assert_eq!(pool.admin.session.node_set("cellar", &taken).await.unwrap_err().code, Code::Exists);
    let heavy = NodeSet { weight: Some(1001), ..NodeSet::default() };
    assert_eq!(pool.admin.session.node_set("cellar", &heavy).await.unwrap_err().code, Code::Usage);
}

/// The names of what is lost with a node are said before anything is done, and the node is not waited for.
#[tokio::test(start_paused = true)]
async fn what_is_lost_with_a_node_is_said_first() {
    let mut setup = Setup::builtin(3);
    setup.policy.replicas = 1;
    let pool = Pool::new(setup).await;
    for file in ["a", "b", "c", "d"] {
        pool.admin.put(&format!("bn:/{file}"), file.repeat(1000).as_bytes()).await;
    }
    let gone = pool.admin.chunks("bn:/a").await[0].nodes[0].clone();
    let at = pool.nodes.iter().position(|node| node.name == gone).unwrap();
    pool.kill(at);
    let plan = pool.admin.session.node_remove(&gone, true, true).await.unwrap();
    let named: Vec<String> = plan
        .findings
        .iter()
        .filter(|finding| finding.kind == FindingKind::Lost)
        .map(|finding| finding.path.as_ref().unwrap().to_string())
        .collect();
    assert!(named.contains(&"bn:/a".to_owned()), "{plan:?}");
    assert_eq!(plan.verdict, Verdict::Lost);
    let refused = pool.admin.session.node_remove(&gone, false, false).await.unwrap_err();
    assert_eq!(refused.code, Code::TooFewNodes);
    pool.admin.session.node_remove(&gone, true, false).await.unwrap();
    let report = pool.check(HealthRequest { dry_run: true, ..HealthRequest::default() }).await;
    assert_eq!(report.verdict, Verdict::Lost);
    for file in ["a", "b", "c", "d"] {
        let path = format!("bn:/{file}");
        assert_eq!(pool.admin.try_get(&path).await.is_err(), named.contains(&path), "{path}");
    }
}
