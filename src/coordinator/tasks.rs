//! Tasks: long work that goes on whoever waits for it, can be paused and cancelled, and is taken up again by the next start
//! of the coordinator. Each kind of work can be cut short between two steps and begun again without harm, so what a pause
//! or a start needs to know is in the catalog anyway.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Coordinator;
use super::health::Check;
use super::registry::Member;
use crate::admin::{
    HealthReport, NodeScrubbed, Steer, Task, TaskKind, TaskLine, TaskReport, TaskRequest, TaskState, Verdict,
};
use crate::api::{ApiError, ApiResult, Code};
use crate::catalog::nodes::{self, Draining, NodeRow};
use crate::catalog::tasks::{self, TaskRow};

/// Tasks that may be open at once.
const MOST: usize = 64;
/// Tasks that are listed.
const LISTED: u32 = 100;
/// Lines that a task keeps of what it said.
const LINES: usize = 200;
/// Findings and actions of a report that are kept for good; all of them for the last [`WHOLE`] tasks.
const KEPT: usize = 200;
/// Outcomes that are kept whole, until the next start.
const WHOLE: usize = 8;
/// How often the progress of a task is written down.
const SAVE: Duration = Duration::from_secs(5);
/// How long a drain that can do nothing waits before it tries again.
const RETRY: Duration = Duration::from_secs(30);
/// The longest that somebody waits for a task in one call.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// All tasks that have not ended, and the outcomes of those that ended last.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    open: Mutex<BTreeMap<u64, Arc<Running>>>,
    ended: Mutex<VecDeque<(u64, TaskOutcome)>>,
    workers: Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

/// What a task ended with, as the catalog keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct TaskOutcome {
    error: Option<ApiError>,
    health: Option<HealthReport>,
    scrub: Option<Vec<NodeScrubbed>>,
}

/// A task under way.
#[derive(Debug)]
struct Running {
    request: TaskRequest,
    until: Option<Instant>,
    now: Mutex<Now>,
    /// Counts what changed of it.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Now {
    task: Task,
    log: Vec<TaskLine>,
    /// What it was told and has not done yet: to pause, or to be cancelled.
    told: Option<Steer>,
}

/// What long work has of the task that it is done for, if any.
#[derive(Debug, Clone, Default)]
pub(super) struct Handle(Option<Arc<Running>>);

impl Running {
    fn change<T>(&self, how: impl FnOnce(&mut Now) -> T) -> T {
        let result = how(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
        result
    }

    fn look<T>(&self, how: impl FnOnce(&Now) -> T) -> T {
        how(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Handle {
    /// Whether it is to stop now, to go on later or never.
    fn halts(&self) -> bool {
        self.0.as_ref().is_some_and(|running| running.look(|now| now.told.is_some()))
    }

    /// The same as a failure of the work.
    ///
    /// # Errors
    /// When it is to stop.
    pub(super) fn check(&self) -> ApiResult<()> {
        if self.halts() { Err(ApiError::new(Code::Temporary, "the task was stopped")) } else { Ok(()) }
    }

    /// Whether no more is to be begun: it is to stop, or its time is over.
    pub(super) fn is_over(&self) -> bool {
        let late = |running: &Arc<Running>| running.until.is_some_and(|until| Instant::now() >= until);
        self.halts() || self.0.as_ref().is_some_and(late)
    }

    /// Notes how many steps there are in all.
    pub(super) fn total(&self, steps: u64) {
        if let Some(running) = &self.0 {
            running.change(|now| now.task.total = Some(steps));
        }
    }

    /// Notes that so many steps more were done.
    pub(super) fn did(&self, steps: u64) {
        if let Some(running) = &self.0 {
            running.change(|now| now.task.done += steps);
        }
    }

    fn set_done(&self, steps: u64) {
        if let Some(running) = &self.0 {
            running.change(|now| now.task.done = steps);
        }
    }

    /// Says something, for people; not twice running.
    pub(super) fn say(&self, coordinator: &Coordinator, text: impl Into<String>) {
        let (Some(running), text) = (&self.0, text.into()) else { return };
        let at = coordinator.seam.now();
        running.change(|now| {
            if now.log.last().is_some_and(|last| last.text == text) {
                return;
            }
            now.task.message.clone_from(&text);
            now.log.push(TaskLine { at, text });
            if now.log.len() > LINES {
                now.log.remove(0);
            }
        });
    }

    /// Waits until then, or until nothing more is to be begun.
    pub(super) async fn rest_until(&self, then: Instant) {
        let Some(running) = &self.0 else { return tokio::time::sleep_until(then).await };
        let mut changed = running.changed.subscribe();
        let stopped = async { while !self.halts() && changed.changed().await.is_ok() {} };
        // Either way there is nothing more to be waited for.
        drop(tokio::time::timeout_at(running.until.map_or(then, |until| until.min(then)), stopped).await);
    }
}

impl Tasks {
    fn open(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Running>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_repairing(&self) -> bool {
        let at_it = |now: &Now| now.task.kind == TaskKind::Health && now.task.state == TaskState::Running;
        self.open().values().any(|running| running.look(at_it))
    }

    fn find(&self, id: u64) -> Option<Arc<Running>> {
        self.open().get(&id).cloned()
    }

    fn end(&self, id: u64, outcome: TaskOutcome) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push_back((id, outcome));
        if ended.len() > WHOLE {
            ended.pop_front();
        }
        drop(ended);
        self.open().remove(&id);
    }

    fn outcome(&self, id: u64) -> Option<TaskOutcome> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().find(|(task, _)| *task == id).map(|(_, outcome)| outcome.clone())
    }
}

impl Coordinator {
    /// Begins long work, or joins what is the same and under way.
    pub(super) async fn task_start(self: &Arc<Self>, owner: &str, request: &TaskRequest) -> ApiResult<Task> {
        self.may_change()?;
        let node = match request {
            TaskRequest::Drain { node } => Some(self.member(node)?),
            TaskRequest::Health { .. } | TaskRequest::Scrub { .. } => None,
        };
        let same = |running: &&Arc<Running>| node.is_some() && running.request == *request;
        if let Some(running) = self.tasks.open().values().find(same) {
            return Ok(running.look(|now| now.task.clone()));
        }
        if self.tasks.open().len() >= MOST {
            return Err(ApiError::new(Code::Busy, format!("{MOST} tasks are under way")).hint("bytenode admin task ls"));
        }
        if let TaskRequest::Health { no_wait: true, .. } = request
            && (self.repairing.try_lock().is_err() || self.tasks.is_repairing())
        {
            return Err(ApiError::new(Code::Busy, "a repair is under way").hint("bytenode admin task ls"));
        }
        let mut task = Task {
            id: 0,
            kind: request.kind(),
            state: TaskState::Running,
            owner: owner.to_owned(),
            node: node.as_ref().map(|member| member.row.name.clone()),
            done: 0,
            total: None,
            message: String::new(),
            created: self.seam.now(),
            ended: None,
        };
        if let Some(member) = &node {
            self.set_draining(member, Draining::Yes).await?;
        }
        let (first, asked) = (task.clone(), request.clone());
        task.id = self.write(move |c| tasks::create(c, &first, &asked)).await?;
        self.begin(TaskRow { task: task.clone(), request: request.clone(), log: Vec::new(), outcome: None });
        Ok(task)
    }

    /// Takes up the tasks that the last start left.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn resume_tasks(self: &Arc<Self>) -> ApiResult<()> {
        for row in self.read(tasks::open).await? {
            let id = row.task.id;
            self.begin(row);
            if let Some(running) = self.tasks.find(id) {
                Handle(Some(running)).say(self, "the coordinator was started again");
            }
        }
        Ok(())
    }

    fn begin(self: &Arc<Self>, row: TaskRow) {
        let TaskRow { task, request, log, .. } = row;
        let limit = match &request {
            TaskRequest::Health { time_limit, .. } => *time_limit,
            TaskRequest::Scrub { .. } | TaskRequest::Drain { .. } => None,
        };
        let until = limit.and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds)));
        let told = match task.state {
            TaskState::Paused => Some(Steer::Pause),
            TaskState::Cancelled => Some(Steer::Cancel),
            TaskState::Running | TaskState::Done | TaskState::Failed => None,
        };
        let id = task.id;
        let now = Mutex::new(Now { task, log, told });
        let running = Arc::new(Running { request, until, now, changed: watch::Sender::new(0) });
        self.tasks.open().insert(id, Arc::clone(&running));
        let coordinator = Arc::clone(self);
        let work = tokio::spawn(async move { coordinator.work_on(running).await });
        let mut workers = self.tasks.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|worker| !worker.is_finished());
        workers.push(work);
    }

    /// Stops all work on tasks, as the end of the process does: the next start takes them up.
    pub fn abandon_tasks(&self) {
        let mut workers = self.tasks.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.drain(..).for_each(|worker| worker.abort());
    }

    /// Works on a task until it has ended.
    async fn work_on(self: Arc<Self>, running: Arc<Running>) {
        let handle = Handle(Some(Arc::clone(&running)));
        let (state, outcome) = loop {
            let mut changed = running.changed.subscribe();
            let told = running.look(|now| now.told);
            match told {
                Some(Steer::Cancel) => break (TaskState::Cancelled, TaskOutcome::default()),
                Some(_) => {
                    running.change(|now| now.task.state = TaskState::Paused);
                    self.save(&running, None).await;
                    drop(changed.borrow_and_update());
                    while running.look(|now| now.told == Some(Steer::Pause)) && changed.changed().await.is_ok() {}
                    continue;
                }
                None => {
                    running.change(|now| now.task.state = TaskState::Running);
                    self.save(&running, None).await;
                }
            }
            let mut work = Box::pin(self.work(&running.request, &handle));
            let result = loop {
                tokio::select! {
                    result = &mut work => break result,
                    () = tokio::time::sleep(SAVE) => self.save(&running, None).await,
                }
            };
            drop(work);
            match result {
                Err(_) if handle.halts() => {}
                Ok(outcome) => break (TaskState::Done, outcome),
                Err(error) => {
                    handle.say(&self, error.message.clone());
                    break (TaskState::Failed, TaskOutcome { error: Some(error), ..TaskOutcome::default() });
                }
            }
        };
        if state == TaskState::Cancelled {
            handle.say(&self, "cancelled");
            if let TaskRequest::Drain { node } = &running.request
                && let Ok(member) = self.member(node)
                && let Err(error) = self.set_draining(&member, Draining::No).await
            {
                tracing::warn!(%error, "opening a node again");
            }
        }
        let ended = self.seam.now();
        running.change(|now| (now.task.state, now.task.ended) = (state, Some(ended)));
        self.save(&running, Some(&outcome)).await;
        self.tasks.end(running.look(|now| now.task.id), outcome);
        // Whoever waits sees that it is over.
        running.change(|_| ());
    }

    async fn work(&self, request: &TaskRequest, handle: &Handle) -> ApiResult<TaskOutcome> {
        match request {
            TaskRequest::Health { now, read, .. } => {
                let check = Check { now: *now, read: *read, task: handle.clone(), ..Check::default() };
                let mut report = self.mend(check).await?;
                super::admin::in_order(&mut report);
                handle.say(self, said(&report));
                Ok(TaskOutcome { health: Some(report), ..TaskOutcome::default() })
            }
            TaskRequest::Scrub { all } => {
                let since = handle.0.as_ref().map(|running| running.look(|now| now.task.created));
                let nodes = self.scrub_now(since.filter(|_| *all), false, handle).await?;
                let packs: u64 = nodes.iter().map(|node| node.packs).sum();
                let bad: u64 = nodes.iter().map(|node| node.bad).sum();
                handle.say(self, format!("{packs} packs read, {bad} copies missing or wrong"));
                Ok(TaskOutcome { scrub: Some(nodes), ..TaskOutcome::default() })
            }
            TaskRequest::Drain { node } => self.drain(node, handle).await,
        }
    }

    /// Empties a node: ends when every chunk that it has is wanted no more, or has all its copies on other nodes, as those
    /// have just said.
    async fn drain(&self, name: &str, handle: &Handle) -> ApiResult<TaskOutcome> {
        let member = self.member(name)?;
        let row = member.row.row;
        if member.row.draining != Draining::Yes {
            self.set_draining(&member, Draining::Yes).await?;
        }
        let all = self.read(move |c| nodes::usage(c, row)).await?.chunks;
        let total = handle.0.as_ref().and_then(|running| running.look(|now| now.task.total)).unwrap_or(0).max(all);
        handle.total(total);
        loop {
            handle.check()?;
            self.member(name)?;
            let since = self.seam.now();
            let report = self.mend(Check { task: handle.clone(), quiet: true, ..Check::default() }).await?;
            let left = self.read(move |c| nodes::needed(c, row, since)).await?;
            handle.set_done(total.saturating_sub(left));
            if left == 0 {
                handle.say(self, format!("no copy that counts is on {name} alone any more"));
                return Ok(TaskOutcome { health: Some(report), ..TaskOutcome::default() });
            }
            let why = report.notices.first().map_or("the other nodes take no more", String::as_str);
            handle.say(self, format!("{left} chunks wait for other nodes: {why}"));
            handle.rest_until(self.seam.monotonic() + RETRY).await;
        }
    }

    /// Begins or ends the emptying of a node.
    pub(super) async fn set_draining(&self, member: &Member, draining: Draining) -> ApiResult<()> {
        self.may_change()?;
        let (row, now) = (member.row.row, self.seam.now());
        let text = match draining {
            Draining::No => "takes new chunks again",
            Draining::Yes => "is being emptied",
            Draining::Paused => "its emptying was paused",
        };
        self.write(move |c| {
            nodes::set_draining(c, row, draining)?;
            tasks::note_node(c, row, text, now)
        })
        .await?;
        if let Some(member) = self.nodes.get(row) {
            self.nodes.set(member.changed(NodeRow { draining, ..member.row.clone() }));
        }
        Ok(())
    }

    /// Writes down how a task stands.
    async fn save(&self, running: &Running, outcome: Option<&TaskOutcome>) {
        let (mut task, log, told) = running.look(|now| (now.task.clone(), now.log.clone(), now.told));
        // What it was told counts after a crash too, though a step was under way.
        task.state = match told {
            Some(Steer::Pause) if !task.state.has_ended() => TaskState::Paused,
            Some(Steer::Cancel) if !task.state.has_ended() => TaskState::Cancelled,
            _ => task.state,
        };
        let kept = outcome.map(|outcome| {
            let mut kept = outcome.clone();
            if let Some(health) = &mut kept.health {
                health.findings.truncate(KEPT);
                health.actions.truncate(KEPT);
            }
            serde_json::to_string(&kept).unwrap_or_default()
        });
        if let Err(error) = self.write(move |c| tasks::save(c, &task, &log, kept.as_deref())).await {
            tracing::warn!(%error, "writing down a task");
        }
    }

    /// Tasks under way, the latest first.
    pub(super) fn open_tasks(&self) -> Vec<Task> {
        self.tasks.open().values().rev().map(|running| running.look(|now| now.task.clone())).collect()
    }

    /// Tasks, those under way first.
    pub(super) async fn tasks(&self) -> ApiResult<Vec<Task>> {
        let rows = self.read(|c| tasks::latest(c, LISTED)).await?;
        let open = self.open_tasks();
        let ended = rows.into_iter().map(|row| row.task).filter(|task| !open.iter().any(|other| other.id == task.id));
        Ok(open.iter().cloned().chain(ended).collect())
    }

    /// A task, once it has ended or more than so many of its steps are done, or after a while.
    pub(super) async fn task(&self, id: u64, wait: u64, done: u64) -> ApiResult<TaskReport> {
        if let Some(running) = self.tasks.find(id) {
            let mut changed = running.changed.subscribe();
            let waiting = async {
                while running.look(|now| !now.task.state.has_ended() && now.task.done <= done)
                    && changed.changed().await.is_ok()
                {}
            };
            drop(tokio::time::timeout(Duration::from_secs(wait).min(MAX_WAIT), waiting).await);
            let (task, log) = running.look(|now| (now.task.clone(), now.log.clone()));
            if !task.state.has_ended() {
                let request = running.request.clone();
                return Ok(TaskReport { task, request, log, error: None, health: None, scrub: None });
            }
        }
        // It is written down before it is taken out of those that are open, and its outcome is kept before that.
        let row = self.read(move |c| tasks::get(c, id)).await?;
        let Some(TaskRow { task, request, log, outcome }) = row else {
            return Err(ApiError::new(Code::NotFound, format!("there is no task {id}")).hint("bytenode admin task ls"));
        };
        let kept = || outcome.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let TaskOutcome { error, health, scrub } = self.tasks.outcome(id).unwrap_or_else(kept);
        Ok(TaskReport { task, request, log, error, health, scrub })
    }

    /// Pauses, resumes or cancels a task.
    pub(super) async fn task_steer(&self, id: u64, steer: Steer) -> ApiResult<Task> {
        let Some(running) = self.tasks.find(id) else {
            let TaskReport { task, .. } = self.task(id, 0, 0).await?;
            return Err(ApiError::new(Code::Changed, format!("task {id} has ended"))
                .hint(format!("bytenode admin task show {}", task.id)));
        };
        let draining = match (&running.request, steer) {
            (TaskRequest::Drain { node }, Steer::Pause) => Some((node, Draining::Paused)),
            (TaskRequest::Drain { node }, Steer::Resume) => Some((node, Draining::Yes)),
            _ => None,
        };
        if let Some((node, draining)) = draining {
            self.set_draining(&*self.member(node)?, draining).await?;
        }
        running.change(|now| {
            now.told = match (steer, now.told) {
                (_, Some(Steer::Cancel)) | (Steer::Cancel, _) => Some(Steer::Cancel),
                (Steer::Pause, _) => Some(Steer::Pause),
                (Steer::Resume, _) => None,
            };
        });
        let mut ends = running.changed.subscribe();
        self.save(&running, None).await;
        let settled = |now: &Now| match steer {
            Steer::Pause => now.task.state != TaskState::Running,
            Steer::Resume => now.task.state != TaskState::Paused,
            Steer::Cancel => now.task.state.has_ended(),
        };
        let settling = async { while !running.look(settled) && ends.changed().await.is_ok() {} };
        // A step may take longer; then it is said how it stands until then.
        drop(tokio::time::timeout(MAX_WAIT, settling).await);
        Ok(running.look(|now| now.task.clone()))
    }
}

/// A check's outcome in a line.
fn said(report: &HealthReport) -> String {
    let verdict = match report.verdict {
        Verdict::Healthy => "healthy",
        Verdict::Degraded => "degraded",
        Verdict::AtRisk => "at risk",
        Verdict::Lost => "lost",
    };
    format!("{verdict}; repaired {} of {}, {} left", report.repaired, report.actions_total, report.remaining)
}
