//! What the coordinator does without being asked is a task like any other: it can be seen, joined, paused and cancelled.

use std::sync::Arc;
use std::time::Duration;

use bytenode::admin::{Admin, HealthRequest, Steer, Task, TaskKind, TaskRequest, TaskState, Verdict};
use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};
use tokio::task::JoinHandle;

use super::tasks::{ended, health, slowly_mended, start};
use crate::support::pool::{MIB, Pool, Setup, bytes};

const HOUR: Duration = Duration::from_secs(3600);

/// Time passes until the tasks are so.
async fn tasks_until(pool: &Pool, are: impl Fn(&[Task]) -> bool) -> Vec<Task> {
    for _ in 0..100_000 {
        let tasks = pool.admin.session.tasks().await.unwrap();
        if are(&tasks) {
            return tasks;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    panic!("{:?}", pool.admin.session.tasks().await);
}

/// Time passes while all others work.
async fn pass(time: Duration) {
    for _ in 0..time.as_secs() {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
}

fn repairing(pool: &Pool) -> JoinHandle<()> {
    let coordinator = Arc::clone(&pool.coordinator);
    tokio::spawn(async move { coordinator.keep_in_repair().await })
}

fn scrubbing(pool: &Pool) -> JoinHandle<()> {
    let coordinator = Arc::clone(&pool.coordinator);
    tokio::spawn(async move { coordinator.keep_scrubbing().await })
}

fn is(task: Option<&Task>, kind: TaskKind, state: TaskState) -> bool {
    task.is_some_and(|task| task.kind == kind && task.state == state && task.owner == "coordinator")
}

/// What the coordinator mends by itself is told afterwards, like what somebody asked for; that all is as it was is no news.
#[tokio::test(start_paused = true)]
async fn checks_that_nobody_asked_for_are_told_too() {
    let pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/a", &bytes(1, 3 * MIB)).await;
    pool.nodes[0].memory.wipe();
    let told = async {
        loop {
            tokio::time::advance(Duration::from_secs(1)).await;
            let tasks = pool.admin.session.tasks().await.unwrap();
            if tasks.first().is_some_and(|task| task.state.has_ended() && task.message.starts_with("healthy; ")) {
                return tasks;
            }
        }
    };
    let tasks = tokio::select! {
        biased;
        () = pool.coordinator.keep_in_repair() => unreachable!("it goes on for ever"),
        tasks = told => tasks,
    };
    // Time that passes while it is at work may cut the first one short.
    assert!(tasks.iter().any(|task| task.done > 0), "{tasks:?}");
    assert!(tasks.iter().all(|task| task.owner == "coordinator" && task.state == TaskState::Done), "{tasks:?}");
    let report = pool.admin.session.task(tasks[0].id, 0, 0).await.unwrap().health.unwrap();
    assert_eq!((report.verdict, report.repaired), (Verdict::Healthy, tasks[0].done));
}

/// A repair of the coordinator is listed while it is at work, whoever asks for the same joins it, and while it is paused the
/// coordinator repairs nothing, after a start too.
#[tokio::test(start_paused = true)]
async fn its_repair_is_a_task() {
    let mut pool = slowly_mended().await;
    let background = repairing(&pool);
    let tasks = tasks_until(&pool, |tasks| is(tasks.first(), TaskKind::Health, TaskState::Running)).await;
    let id = tasks[0].id;
    assert!(tasks[0].total.is_some_and(|total| total > 10), "{tasks:?}");
    assert_eq!(start(&pool, &health()).await.id, id);
    pool.admin.session.task_steer(id, Steer::Pause).await.unwrap();
    tasks_until(&pool, |tasks| is(tasks.first(), TaskKind::Health, TaskState::Paused)).await;
    let before = pool.copies();
    assert!(before < 180, "{before} copies");
    pass(HOUR).await;
    assert_eq!(pool.copies(), before);
    background.abort();
    pool.restart().await;
    pool.coordinator.resume_tasks().await.unwrap();
    let background = repairing(&pool);
    pass(HOUR).await;
    let tasks = pool.admin.session.tasks().await.unwrap();
    assert!(tasks.len() == 1 && is(tasks.first(), TaskKind::Health, TaskState::Paused), "{tasks:?}");
    assert_eq!(pool.copies(), before);
    pool.admin.session.task_steer(id, Steer::Resume).await.unwrap();
    let report = ended(&pool, id).await;
    assert_eq!((report.task.state, report.health.unwrap().verdict), (TaskState::Done, Verdict::Healthy));
    background.abort();
}

/// Who cancels one is left alone by the next for as long as it is to the next check.
#[tokio::test(start_paused = true)]
async fn a_repair_that_is_cancelled_is_not_begun_again_at_once() {
    let pool = slowly_mended().await;
    let background = repairing(&pool);
    let tasks = tasks_until(&pool, |tasks| is(tasks.first(), TaskKind::Health, TaskState::Running)).await;
    pool.admin.session.task_steer(tasks[0].id, Steer::Cancel).await.unwrap();
    tasks_until(&pool, |tasks| is(tasks.first(), TaskKind::Health, TaskState::Cancelled)).await;
    let before = pool.copies();
    pass(Duration::from_secs(120)).await;
    assert_eq!(pool.copies(), before);
    tasks_until(&pool, |tasks| is(tasks.first(), TaskKind::Health, TaskState::Done) && tasks.len() == 2).await;
    assert_eq!(pool.copies(), 180);
    background.abort();
}

/// So is a scrub; of those that found nothing, only the last is remembered.
#[tokio::test(start_paused = true)]
async fn its_scrub_is_a_task() {
    let mut setup = Setup::kubo(3);
    // Slowly enough for several passes.
    setup.policy.scrub_rate = 1 << 15;
    let pool = Pool::new(setup).await;
    for file in 0..6 {
        pool.admin.put(&format!("bn:/{file}"), &bytes(file, 5 * MIB)).await;
    }
    tokio::time::advance(HOUR * 2).await;
    let background = scrubbing(&pool);
    let begun = |tasks: &[Task]| is(tasks.first(), TaskKind::Scrub, TaskState::Running) && tasks[0].total.is_some();
    let tasks = tasks_until(&pool, begun).await;
    let packs = tasks[0].total.unwrap();
    assert_eq!(start(&pool, &TaskRequest::Scrub { all: false }).await.id, tasks[0].id);
    pool.admin.session.task_steer(tasks[0].id, Steer::Pause).await.unwrap();
    tasks_until(&pool, |tasks| is(tasks.first(), TaskKind::Scrub, TaskState::Paused)).await;
    pass(HOUR).await;
    assert_eq!(pool.admin.session.tasks().await.unwrap().len(), 1);
    pool.admin.session.task_steer(tasks[0].id, Steer::Resume).await.unwrap();
    let first = ended(&pool, tasks[0].id).await;
    assert_eq!(
        (first.task.done, first.task.message.as_str()),
        (packs, format!("{packs} packs read, 0 copies missing or wrong").as_str())
    );
    let chunk = pool.admin.chunks("bn:/3").await[3].cid;
    // The first was asked for by somebody, too; the last finds something.
    for (listed, corrupt) in [(2, false), (2, false), (3, true)] {
        if corrupt {
            pool.nodes[0].memory.corrupt(&chunk);
        }
        tokio::time::advance(HOUR * 24 * 31).await;
        let latest = pool.admin.session.tasks().await.unwrap()[0].id;
        let done = |tasks: &[Task]| is(tasks.first(), TaskKind::Scrub, TaskState::Done) && tasks[0].id > latest;
        tasks_until(&pool, |tasks| done(tasks) && tasks.len() == listed).await;
    }
    background.abort();
}

/// Whoever joins a check is not told of what it saw before.
#[tokio::test(start_paused = true)]
async fn whoever_joins_a_check_is_told_of_what_is_so_then() {
    let pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/a", &bytes(1, 3 * MIB)).await;
    pool.nodes[3].fault.order(Call::ListPacks, When::Nth(1), Fault::Delay(Duration::from_secs(20)));
    pool.nodes[3].fault.order(Call::ListChunks, When::Nth(1), Fault::Delay(Duration::from_secs(20)));
    let first = start(&pool, &health()).await;
    pass(Duration::from_secs(5)).await;
    pool.nodes[0].memory.wipe();
    let second = start(&pool, &health()).await;
    assert_eq!(first.id, second.id);
    let report = ended(&pool, second.id).await.health.unwrap();
    assert_eq!((report.repaired, report.verdict), (report.actions_total, Verdict::Healthy));
    assert!(report.repaired > 0 && report.findings_total > 0 && !report.actions.is_empty(), "{report:?}");
    let dry = HealthRequest { dry_run: true, ..HealthRequest::default() };
    assert_eq!(pool.check(dry).await.findings_total, 0);
}

/// Who pauses a repair while it asks the nodes once more finds it paused, and not done.
#[tokio::test(start_paused = true)]
async fn a_repair_is_paused_while_it_asks_again() {
    let pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/a", &bytes(1, 3 * MIB)).await;
    pool.nodes[0].memory.wipe();
    pool.nodes[3].fault.order(Call::ListPacks, When::Nth(2), Fault::Delay(Duration::from_secs(20)));
    let task = start(&pool, &health()).await;
    tasks_until(&pool, |tasks| tasks[0].done > 0).await;
    let paused = pool.admin.session.task_steer(task.id, Steer::Pause).await.unwrap();
    assert!(!paused.state.has_ended(), "{paused:?}");
    tasks_until(&pool, |tasks| tasks[0].state == TaskState::Paused).await;
    pool.admin.session.task_steer(task.id, Steer::Resume).await.unwrap();
    let report = ended(&pool, task.id).await;
    assert_eq!((report.task.state, report.health.unwrap().verdict), (TaskState::Done, Verdict::Healthy));
}

/// A repair that fails again and again is remembered once, and does not crowd out what others asked for.
#[tokio::test(start_paused = true)]
async fn a_repair_that_cannot_be_is_no_news() {
    let pool = Pool::new(Setup::builtin(3)).await;
    pool.admin.put("bn:/a", &bytes(1, 3 * MIB)).await;
    pool.nodes[0].memory.wipe();
    pool.nodes[0].fault.order(Call::Write, When::Always, Fault::Fail(NodeFailure::Answer("no".into())));
    let asked = start(&pool, &health()).await;
    ended(&pool, asked.id).await;
    let background = repairing(&pool);
    let tasks = tasks_until(&pool, |tasks| tasks[0].id > 20 && tasks[0].state == TaskState::Done).await;
    assert!(tasks.len() <= 4 && tasks.iter().any(|task| task.id == asked.id), "{tasks:?}");
    background.abort();
}

/// Whoever joins a check that could not mend everything gets a check of their own.
#[tokio::test(start_paused = true)]
async fn whoever_joins_a_check_that_fails_gets_another() {
    for joins in [false, true] {
        let pool = Pool::new(Setup::builtin(3)).await;
        pool.admin.put("bn:/a", &bytes(1, 3 * MIB)).await;
        pool.nodes[0].memory.wipe();
        pool.nodes[0].fault.order(Call::Write, When::Nth(1), Fault::Fail(NodeFailure::Answer("no".into())));
        pool.nodes[2].fault.order(Call::ListPacks, When::Nth(1), Fault::Delay(Duration::from_secs(20)));
        let task = start(&pool, &health()).await;
        pass(Duration::from_secs(5)).await;
        if joins {
            assert_eq!(start(&pool, &health()).await.id, task.id);
        }
        let report = ended(&pool, task.id).await.health.unwrap();
        let verdict = if joins { Verdict::Healthy } else { Verdict::Degraded };
        assert_eq!((report.verdict, report.repaired), (verdict, if joins { 3 } else { 0 }), "{report:?}");
        assert!(report.actions_total >= report.repaired && report.findings_total > 0, "{report:?}");
    }
}
