//! Emptying a node, with nothing lost.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;

use super::{Handle, RETRY, TaskOutcome};
use crate::api::{ApiError, ApiResult, Code};
use crate::catalog::nodes::{self, Draining, NodeRow};
use crate::catalog::{CatalogResult, tasks};
use crate::coordinator::Coordinator;
use crate::coordinator::health::Check;
use crate::coordinator::registry::Member;

/// How long a drain waits at most before it asks all nodes again.
const LATER: Duration = Duration::from_secs(600);

impl Coordinator {
    /// The node of a drain: by its identity, which a drain goes by, or by its name.
    pub(super) fn drained(&self, node: &str) -> ApiResult<Arc<Member>> {
        let known = node.parse().ok().and_then(|id| self.nodes.known(&id));
        known.map_or_else(|| self.member(node), Ok)
    }

    /// Empties a node: ends when every chunk that it has is wanted no more, or has all its copies on other nodes, as those
    /// have just said. Fails where that cannot be, though all nodes answer.
    pub(super) async fn drain(&self, node: &str, handle: &Handle) -> ApiResult<TaskOutcome> {
        let member = self.drained(node)?;
        let row = member.row.row;
        let all = self.read(move |c| nodes::usage(c, row)).await?.chunks;
        let total = handle.0.as_ref().and_then(|running| running.look(|now| now.task.total)).unwrap_or(0).max(all);
        handle.total(total);
        loop {
            handle.check()?;
            let member = self.drained(node)?;
            let name = member.row.name.clone();
            if let Some(running) = &handle.0 {
                running.change(|now| now.task.node = Some(name.clone()));
            }
            match member.row.draining {
                Draining::No => return Err(ApiError::new(Code::Changed, format!("{name} takes new chunks again"))),
                Draining::Paused => self.set_draining(row, Draining::Yes).await?,
                Draining::Yes => {}
            }
            let since = self.seam.now();
            let report = self.mend(Check { task: handle.clone(), quiet: true, ..Check::default() }).await?;
            let left = self.read(move |c| nodes::needed(c, row, since, false)).await?;
            handle.set_done(total.saturating_sub(left));
            if left == 0 {
                handle.say(self, format!("no copy that counts is on {name} alone any more"));
                return Ok(TaskOutcome { health: Some(report), ..TaskOutcome::default() });
            }
            let away = self.nodes.all().iter().any(|one| one.row.row != row && !one.answers());
            if report.actions_total == 0 && !away && self.nodes.vanished().is_none() {
                let what = format!("{left} chunks on {name} have no place on the other nodes");
                return Err(ApiError::new(Code::TooFewNodes, what).hint("bytenode admin node add URL"));
            }
            let why = report.notices.first().map_or("the other nodes take no more", String::as_str);
            handle.say(self, format!("{left} chunks wait for other nodes: {why}"));
            // At once when a node comes or goes, else now and then.
            let (nodes, until) = (self.answering(), self.seam.monotonic() + LATER);
            while self.seam.monotonic() < until && self.answering() == nodes && handle.check().is_ok() {
                handle.rest_until(self.seam.monotonic() + RETRY).await;
            }
        }
    }

    /// Begins or ends the emptying of a node (by row).
    pub(in crate::coordinator) async fn set_draining(&self, row: i64, draining: Draining) -> ApiResult<()> {
        self.may_change()?;
        let _alone = self.membership.lock().await;
        let now = self.seam.now();
        self.write(move |c| drain_note(c, row, draining, now)).await?;
        self.say_draining(row, draining);
        Ok(())
    }

    /// To be called while nobody else changes nodes.
    pub(super) fn say_draining(&self, row: i64, draining: Draining) {
        if let Some(member) = self.nodes.get(row) {
            self.nodes.set(member.changed(NodeRow { draining, ..member.row.clone() }));
        }
    }
}

/// Writes down that a node is to be emptied, or no longer.
pub(super) fn drain_note(c: &Connection, row: i64, draining: Draining, now: Timestamp) -> CatalogResult<()> {
    let text = match draining {
        Draining::No => "takes new chunks again",
        Draining::Yes => "is being emptied",
        Draining::Paused => "its emptying was paused",
    };
    nodes::set_draining(c, row, draining)?;
    tasks::note_node(c, row, text, now)
}
