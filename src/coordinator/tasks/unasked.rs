//! What the coordinator does without being asked: repair and scrub. What of it takes time is a task like any other, which
//! people see, pause and cancel.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Handle, Running, TaskOutcome, new_task};
use crate::admin::{Task, TaskKind, TaskRequest, TaskState};
use crate::api::ApiResult;
use crate::catalog::tasks::{self, TaskRow};
use crate::coordinator::Coordinator;

/// All nodes are asked about all copies, though nothing seems to be missing, but in a large pool only after so many times
/// what the last such check took, unless nodes came or went:
const REST: u32 = 200;
/// then after this time at the latest.
const LONGEST_REST: Duration = Duration::from_secs(6 * 3600);
/// How long the background waits at least between two repairs.
const PAUSE: Duration = Duration::from_secs(10);
/// Between two looks whether copies are to be read,
const SCRUB_PAUSE: Duration = Duration::from_secs(60);
/// and after copies could not be read, or somebody did not want it.
const SCRUB_REST: Duration = Duration::from_secs(600);
/// A check as the background makes it.
const CHECK: TaskRequest = TaskRequest::Health { now: false, read: false, time_limit: None, no_wait: false };

impl Coordinator {
    /// Keeps the pool in repair, for as long as it is polled: at once when something is known to be short, and now and then
    /// because nobody may have noticed. A check costs what the pool is large, so a large one rests longer. While a repair
    /// of its own is paused, there is none.
    pub async fn keep_in_repair(&self) {
        let (mut answering, mut rested, mut verdict) = (None, self.seam.monotonic(), None);
        loop {
            let wanted =
                tokio::time::timeout(self.about(self.policy.check), self.repair_wanted.notified()).await.is_ok();
            let now = self.answering();
            let due = wanted || self.seam.monotonic() >= rested || answering.as_ref() != Some(&now);
            if !due || self.may_change().is_err() || self.is_under_way(TaskKind::Health) {
                continue;
            }
            let began = self.seam.monotonic();
            let running = self.unasked(CHECK);
            let (task, outcome) = self.work_on(Arc::clone(&running)).await;
            let mut pause = PAUSE;
            if let Some(report) = &outcome.health {
                tracing::info!(repaired = report.repaired, remaining = report.remaining, "repair");
                // What is as it was before is no news.
                let is_news = report.repaired > 0 || verdict != Some(report.verdict);
                verdict = Some(report.verdict);
                let ended = self.seam.monotonic();
                // How long a repair took, and was paused, says nothing of the next check.
                let took = if task.id == 0 { ended - began } else { Duration::ZERO };
                rested = ended + (took * REST).min(LONGEST_REST);
                // Else what could not be mended is tried again soon.
                answering = (report.remaining == 0).then_some(now);
                match (task.id, is_news) {
                    (0, true) => self.note_check(&running, task, &outcome).await,
                    (_, true) | (0, false) => {}
                    (_, false) => self.forget_before(&running).await,
                }
            } else {
                answering = None;
                match task.state {
                    TaskState::Cancelled => pause = self.about(self.policy.check),
                    _ => tracing::warn!(error = ?outcome.error, "repair"),
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Reads and hashes what is due, for as long as it is polled. While a scrub of its own is paused, there is none.
    pub async fn keep_scrubbing(&self) {
        let mut pause = SCRUB_PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = SCRUB_PAUSE;
            if self.may_change().is_err() || self.is_under_way(TaskKind::Scrub) {
                continue;
            }
            match self.scrub_due().await {
                Ok(Some(task)) if task.state == TaskState::Done && task.done > 0 => {}
                Ok(None) => {}
                Ok(Some(_)) => pause = SCRUB_REST,
                Err(error) => {
                    tracing::warn!(%error, "scrub");
                    pause = SCRUB_REST;
                }
            }
        }
    }

    /// Reads what is due, as a task; nothing where nothing is. Of those that found nothing, only the last is remembered.
    async fn scrub_due(&self) -> ApiResult<Option<Task>> {
        if !self.is_scrub_due().await? {
            return Ok(None);
        }
        let running = self.unasked(TaskRequest::Scrub { all: false });
        self.list(&Handle(Some(Arc::clone(&running)))).await?;
        let (task, outcome) = self.work_on(Arc::clone(&running)).await;
        let found = outcome.scrub.iter().flatten().any(|node| node.bad + node.unprotected > 0);
        if task.state == TaskState::Done && !found {
            self.forget_before(&running).await;
        }
        Ok(Some(task))
    }

    /// Forgets the task of the same kind that was no news before this one, which is none either unless somebody joined it.
    async fn forget_before(&self, running: &Running) {
        let (task, joined) = running.look(|now| (now.task.clone(), now.joined));
        if joined > 0 {
            return;
        }
        let before = {
            let mut no_news = self.tasks.no_news.lock().unwrap_or_else(PoisonError::into_inner);
            no_news.insert(task.kind, task.id)
        };
        if let Some(before) = before
            && let Err(error) = self.write(move |c| tasks::forget(c, before)).await
        {
            tracing::warn!(%error, "forgetting a task");
        }
    }

    /// Whether work of this kind that nobody asked for is a task already: one that is paused, or that a start took up.
    fn is_under_way(&self, kind: TaskKind) -> bool {
        self.tasks.any(|task| task.kind == kind && task.owner == Task::ITSELF)
    }

    /// Work that nobody asked for, and that is no task yet.
    fn unasked(&self, request: TaskRequest) -> Arc<Running> {
        let task = new_task(Task::ITSELF, &request, self.seam.now());
        Running::new(TaskRow { task, request, log: Vec::new(), outcome: None })
    }

    /// Makes work that turns out to take time a task, if it is none.
    ///
    /// # Errors
    /// The catalog's.
    pub(in crate::coordinator) async fn list(&self, handle: &Handle) -> ApiResult<()> {
        let Some(running) = &handle.0 else { return Ok(()) };
        let (task, request) = (running.look(|now| now.task.clone()), running.request.clone());
        if task.id == 0 {
            let id = self.write(move |c| tasks::create(c, &task, &request)).await?;
            running.change(|now| now.task.id = id);
            self.tasks.open().insert(id, Arc::clone(running));
        }
        Ok(())
    }

    /// Takes down a check that found something and took no time to mend, among those that did.
    async fn note_check(&self, running: &Running, mut task: Task, outcome: &TaskOutcome) {
        let (log, kept) = (running.look(|now| now.log.clone()), outcome.clone().kept());
        let noted = self.write(move |c| {
            task.id = tasks::create(c, &task, &CHECK)?;
            tasks::save(c, &task, &log, Some(&kept))
        });
        if let Err(error) = noted.await {
            tracing::warn!(%error, "writing down a check");
        }
    }
}
