//! Tasks: long work that goes on whoever waits for it, can be paused and cancelled, and is taken up again by the next start
//! of the coordinator. Each kind of work can be cut short between two steps and begun again without harm, so what a pause
//! or a start needs to know is in the catalog anyway.

mod drain;
mod unasked;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use self::drain::drain_note;
use super::Coordinator;
use super::health::Check;
use crate::admin::{
    HealthReport, NodeScrubbed, Steer, Task, TaskKind, TaskLine, TaskReport, TaskRequest, TaskState, Verdict,
};
use crate::api::{ApiError, ApiResult, Code};
use crate::catalog::nodes::Draining;
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
/// How long work that can do nothing waits before it looks whether it can again.
const RETRY: Duration = Duration::from_secs(30);
/// The longest that somebody waits for a task in one call.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// All tasks that have not ended, and the outcomes of those that ended last.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    open: Mutex<BTreeMap<u64, Arc<Running>>>,
    ended: Mutex<VecDeque<(u64, Arc<TaskOutcome>)>>,
    workers: Mutex<Vec<tokio::task::JoinHandle<()>>>,
    /// Of each kind of work that nobody asked for, the last since the start that was no news.
    no_news: Mutex<HashMap<TaskKind, u64>>,
}

/// What a task ended with, as the catalog keeps it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct TaskOutcome {
    error: Option<ApiError>,
    health: Option<HealthReport>,
    scrub: Option<Vec<NodeScrubbed>>,
}

impl TaskOutcome {
    /// As it is kept for good: with the beginnings of long lists.
    fn kept(mut self) -> String {
        if let Some(health) = &mut self.health {
            health.findings.truncate(KEPT);
            health.actions.truncate(KEPT);
        }
        serde_json::to_string(&self).unwrap_or_default()
    }
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
    /// What it scrubbed before it was stopped.
    scrubbed: Vec<NodeScrubbed>,
    /// How often somebody else asked for the same.
    joined: u64,
    /// What it saw stands: nobody can join it any more.
    closed: bool,
}

/// What long work has of the task that it is done for, if any.
#[derive(Debug, Clone, Default)]
pub(super) struct Handle(Option<Arc<Running>>);

impl Running {
    /// Work as the catalog has it, not under way yet.
    fn new(TaskRow { task, request, log, outcome }: TaskRow) -> Arc<Self> {
        let before: TaskOutcome = outcome.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
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
        let scrubbed = before.scrub.unwrap_or_default();
        let now = Mutex::new(Now { task, log, told, scrubbed, joined: 0, closed: false });
        Arc::new(Self { request, until, now, changed: watch::Sender::new(0) })
    }

    fn change<T>(&self, how: impl FnOnce(&mut Now) -> T) -> T {
        let result = how(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
        result
    }

    fn look<T>(&self, how: impl FnOnce(&Now) -> T) -> T {
        how(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Gives it to somebody else who asks for the same; nothing where it is to stop, or is as good as over.
    fn join(&self, request: &TaskRequest) -> Option<Task> {
        let join = |now: &mut Now| {
            (now.told.is_none() && !now.closed).then(|| {
                now.joined += 1;
                now.task.clone()
            })
        };
        (self.request == *request).then(|| self.change(join)).flatten()
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

    /// How often somebody joined it; of what was seen later, they can be told.
    pub(super) fn joined(&self) -> u64 {
        self.0.as_ref().map_or(0, |running| running.look(|now| now.joined))
    }

    /// Lets nobody join it any more; says whether nobody did since it was joined so often.
    pub(super) fn close(&self, joined: u64) -> bool {
        let close = |now: &mut Now| {
            now.closed = true;
            now.joined == joined
        };
        self.0.as_ref().is_none_or(|running| running.change(close))
    }

    /// Notes how many steps there are in all.
    pub(super) fn total(&self, steps: u64) {
        if let Some(running) = &self.0 {
            running.change(|now| now.task.total = Some(steps));
        }
    }

    /// Notes how many steps there are beside those that are done.
    pub(super) fn remaining(&self, steps: u64) {
        if let Some(running) = &self.0 {
            running.change(|now| now.task.total = Some(now.task.done + steps));
        }
    }

    /// Notes that so many steps more were done.
    pub(super) fn did(&self, steps: u64) {
        if let Some(running) = &self.0 {
            running.change(|now| now.task.done += steps);
        }
    }

    /// Adds a pass to what was scrubbed before, by an earlier start too.
    pub(super) fn scrubbed(&self, all: &mut Vec<NodeScrubbed>, pass: Vec<NodeScrubbed>) {
        match &self.0 {
            None => add_pass(all, pass),
            Some(running) => running.change(|now| {
                add_pass(&mut now.scrubbed, pass);
                all.clone_from(&now.scrubbed);
            }),
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

    /// Ends when nothing more is to be begun; never for work that is done for no task.
    pub(super) async fn is_to_stop(&self) {
        match &self.0 {
            None => std::future::pending().await,
            // No work takes years.
            Some(_) => self.rest_until(Instant::now() + Duration::from_secs(366 * 24 * 3600)).await,
        }
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

    fn any(&self, which: impl Fn(&Task) -> bool) -> bool {
        self.open().values().any(|running| running.look(|now| which(&now.task)))
    }

    fn is_repairing(&self) -> bool {
        self.any(|task| task.kind == TaskKind::Health && task.state == TaskState::Running)
    }

    fn find(&self, id: u64) -> Option<Arc<Running>> {
        self.open().get(&id).cloned()
    }

    fn end(&self, id: u64, outcome: Option<Arc<TaskOutcome>>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.extend(outcome.map(|outcome| (id, outcome)));
        if ended.len() > WHOLE {
            ended.pop_front();
        }
        drop(ended);
        self.open().remove(&id);
    }

    fn outcome(&self, id: u64) -> Option<TaskOutcome> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().find(|(task, _)| *task == id).map(|(_, outcome)| TaskOutcome::clone(outcome))
    }
}

impl Coordinator {
    /// Begins long work, or joins what is the same and under way.
    pub(super) async fn task_start(self: &Arc<Self>, owner: &str, request: &TaskRequest) -> ApiResult<Task> {
        self.may_change()?;
        let (mut request, mut node) = (request.clone(), None);
        if let TaskRequest::Drain { node: asked } = &mut request {
            let member = self.drained(asked)?;
            // A name may be another node's by the time that this ends.
            *asked = member.row.id.to_string();
            node = Some((member.row.row, member.row.name.clone()));
        }
        let _alone = self.membership.lock().await;
        let paused = |running: &&Arc<Running>| node.is_some() && running.request == request;
        let open: Vec<Arc<Running>> = self.tasks.open().values().cloned().collect();
        let repairing = self.repairing.try_lock().is_err() || self.tasks.is_repairing();
        if matches!(&request, TaskRequest::Health { no_wait: true, .. }) && repairing {
            return Err(ApiError::new(Code::Busy, "a repair is under way").hint("bytenode admin task ls"));
        }
        if let Some(task) = open.iter().find_map(|running| running.join(&request)) {
            return Ok(task);
        }
        if let Some(running) = open.iter().find(paused) {
            return Ok(running.look(|now| now.task.clone()));
        }
        if open.len() >= MOST {
            return Err(ApiError::new(Code::Busy, format!("{MOST} tasks are under way")).hint("bytenode admin task ls"));
        }
        let mut task = new_task(owner, &request, self.seam.now());
        task.node = node.as_ref().map(|(_, name)| name.clone());
        let (first, asked, row) = (task.clone(), request.clone(), node.as_ref().map(|(row, _)| *row));
        task.id = self
            .write(move |c| {
                row.map_or(Ok(()), |row| drain_note(c, row, Draining::Yes, first.created))?;
                tasks::create(c, &first, &asked)
            })
            .await?;
        if let Some((row, _)) = node {
            self.say_draining(row, Draining::Yes);
        }
        drop(self.begin(TaskRow { task: task.clone(), request, log: Vec::new(), outcome: None }));
        Ok(task)
    }

    /// Takes up the tasks that the last start left.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn resume_tasks(self: &Arc<Self>) -> ApiResult<()> {
        for mut row in self.read(tasks::open).await? {
            // Nodes that start beside this one are not lost because they do not answer yet.
            if let TaskRequest::Health { now, .. } = &mut row.request {
                *now = false;
            }
            Handle(Some(self.begin(row))).say(self, "the coordinator was started again");
        }
        Ok(())
    }

    fn begin(self: &Arc<Self>, row: TaskRow) -> Arc<Running> {
        let (id, running) = (row.task.id, Running::new(row));
        self.tasks.open().insert(id, Arc::clone(&running));
        let (coordinator, worked_on) = (Arc::clone(self), Arc::clone(&running));
        let work = tokio::spawn(async move { drop(coordinator.work_on(worked_on).await) });
        let mut workers = self.tasks.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.retain(|worker| !worker.is_finished());
        workers.push(work);
        drop(workers);
        running
    }

    /// Stops all work on tasks, as the end of the process does: the next start takes them up.
    pub fn abandon_tasks(&self) {
        let mut workers = self.tasks.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.drain(..).for_each(|worker| worker.abort());
    }

    /// Works on a task until it has ended; gives how.
    async fn work_on(&self, running: Arc<Running>) -> (Task, Arc<TaskOutcome>) {
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
                    () = tokio::time::sleep(SAVE) => {
                        if changed.has_changed().is_ok_and(|has| has) {
                            changed.mark_unchanged();
                            self.save(&running, None).await;
                        }
                    }
                }
            };
            drop(work);
            match result {
                Err(_) if handle.halts() => {}
                Ok(outcome) => break (TaskState::Done, outcome),
                // A person decides who is in charge; then it goes on.
                Err(error) if error.code == Code::ReadOnly => {
                    handle.say(self, error.message);
                    handle.rest_until(self.seam.monotonic() + RETRY).await;
                }
                Err(error) => {
                    handle.say(self, error.message.clone());
                    break (TaskState::Failed, TaskOutcome { error: Some(error), ..TaskOutcome::default() });
                }
            }
        };
        if state == TaskState::Cancelled {
            handle.say(self, "cancelled");
        }
        if let TaskRequest::Drain { node } = &running.request
            && state != TaskState::Done
            && let Ok(member) = self.drained(node)
            && let Err(error) = self.set_draining(member.row.row, Draining::No).await
        {
            tracing::warn!(%error, "opening a node again");
        }
        let mut task = running.look(|now| now.task.clone());
        (task.state, task.ended) = (state, Some(self.seam.now()));
        let outcome = Arc::new(outcome);
        self.save(&running, Some((&task, &outcome))).await;
        // Of what nobody asked for, what the catalog keeps is enough.
        let is_asked_for = task.owner != Task::ITSELF || running.look(|now| now.joined > 0);
        self.tasks.end(task.id, is_asked_for.then(|| Arc::clone(&outcome)));
        // Whoever waits sees that it is over, once the outcome can be read.
        running.change(|now| now.task = task.clone());
        (task, outcome)
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

    /// Writes down how a task stands; not of work that is none yet.
    async fn save(&self, running: &Running, ended: Option<(&Task, &TaskOutcome)>) {
        let (mut task, log, told) = running.look(|now| (now.task.clone(), now.log.clone(), now.told));
        if let Some((ended, _)) = ended {
            task.clone_from(ended);
        }
        if task.id == 0 {
            return;
        }
        // What it was told counts after a crash too, though a step was under way.
        task.state = match told {
            Some(Steer::Pause) if !task.state.has_ended() => TaskState::Paused,
            Some(Steer::Cancel) if !task.state.has_ended() => TaskState::Cancelled,
            _ => task.state,
        };
        let so_far = running.look(|now| now.scrubbed.clone());
        let so_far = TaskOutcome { scrub: Some(so_far).filter(|nodes| !nodes.is_empty()), ..TaskOutcome::default() };
        let outcome = ended.map(|(_, outcome)| outcome);
        let kept = outcome.or_else(|| so_far.scrub.is_some().then_some(&so_far)).map(|outcome| outcome.clone().kept());
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
            self.set_draining(self.drained(node)?.row.row, draining).await?;
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

fn add_pass(all: &mut Vec<NodeScrubbed>, pass: Vec<NodeScrubbed>) {
    for node in pass {
        match all.iter_mut().find(|before| before.node == node.node) {
            None => all.push(node),
            Some(before) => {
                before.packs += node.packs;
                before.bytes += node.bytes;
                before.bad += node.bad;
                before.unprotected += node.unprotected;
                before.left = node.left;
            }
        }
    }
}

/// A task that begins now.
fn new_task(owner: &str, request: &TaskRequest, now: Timestamp) -> Task {
    Task {
        id: 0,
        kind: request.kind(),
        state: TaskState::Running,
        owner: owner.to_owned(),
        node: None,
        done: 0,
        total: None,
        message: String::new(),
        created: now,
        ended: None,
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
