//! `admin task`: long work of the coordinator; and waiting for it, which other commands do.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytenode::admin::{Session, Steer, Task, TaskKind, TaskReport, TaskRequest, TaskState};
use bytenode::api::Code;
use clap::Subcommand;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::error::{Exit, Failure, Outcome};
use crate::ui::Level;
use crate::ui::table::{Align, lay_out};
use crate::ui::text::{age, count, escaped, local_time, plural};

/// How long one question for a task waits.
const WAIT: u64 = 10;
/// How often a line is written where there is no terminal.
const REPORT: Duration = Duration::from_secs(10);

/// Show and steer the coordinator's long work
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    Ls(LsArgs),
    Show(ShowArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Cancel(CancelArgs),
}

/// Show what is under way, and what ended last
#[derive(Debug, clap::Args)]
#[command(before_help = examples(&["bytenode admin task ls"]), after_help = exits(&[Exit::NotAllowed, Exit::Temporary]))]
pub struct LsArgs {}

/// Show a task and what it said
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin task show 7", "bytenode admin task show 7 --wait    until it has ended"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Temporary]),
)]
pub struct ShowArgs {
    /// Its number
    #[arg(value_name = "ID")]
    id: u64,
    /// Wait until it has ended
    #[arg(long)]
    wait: bool,
}

/// Stop a task after its step under way, until it is resumed
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin task pause 7"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary]),
)]
pub struct PauseArgs {
    /// Its number
    #[arg(value_name = "ID")]
    id: u64,
}

/// Let a paused task go on
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin task resume 7"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary]),
)]
pub struct ResumeArgs {
    /// Its number
    #[arg(value_name = "ID")]
    id: u64,
}

/// End a task; what it has done stays done
///
/// A node whose emptying is cancelled takes new chunks again.
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin task cancel 7"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary]),
)]
pub struct CancelArgs {
    /// Its number
    #[arg(value_name = "ID")]
    id: u64,
}

#[derive(Serialize)]
struct TaskRecord<'a> {
    #[serde(rename = "type")]
    line: &'static str,
    id: u64,
    kind: TaskKind,
    state: TaskState,
    owner: &'a str,
    node: Option<&'a str>,
    done: u64,
    total: Option<u64>,
    message: &'a str,
    created: Timestamp,
    ended: Option<Timestamp>,
}

#[derive(Serialize)]
struct LogRecord<'a> {
    #[serde(rename = "type")]
    line: &'static str,
    at: Timestamp,
    text: &'a str,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    line: &'static str,
    tasks: u64,
}

/// Runs one.
pub async fn run(ctx: &Ctx, command: &Command) -> Outcome<Exit> {
    let session = ctx.session()?;
    match command {
        Command::Ls(_) => list(ctx, &session).await,
        Command::Show(args) => show(ctx, &session, args).await,
        Command::Pause(args) => steer(ctx, &session, args.id, Steer::Pause).await,
        Command::Resume(args) => steer(ctx, &session, args.id, Steer::Resume).await,
        Command::Cancel(args) => steer(ctx, &session, args.id, Steer::Cancel).await,
    }
}

async fn list(ctx: &Ctx, session: &Arc<dyn Session>) -> Outcome<Exit> {
    let tasks = session.tasks().await?;
    tasks.iter().try_for_each(|task| record(ctx, task))?;
    match tasks.is_empty() {
        true => ctx.ui.note("There was no long work yet."),
        false => ctx.ui.data(table(&tasks, ctx.seam.now()).trim_end())?,
    }
    summary(ctx, tasks.len() as u64)?;
    Ok(Exit::Done)
}

async fn show(ctx: &Ctx, session: &Arc<dyn Session>, args: &ShowArgs) -> Outcome<Exit> {
    let report = match args.wait {
        true => follow(ctx, session, args.id, false).await?,
        false => session.task(args.id, 0, 0).await?,
    };
    record(ctx, &report.task)?;
    for line in &report.log {
        ctx.ui.record(&LogRecord { line: "log", at: line.at, text: &line.text })?;
    }
    ctx.ui.data(told(&report, ctx.seam.now()).trim_end())?;
    summary(ctx, 1)?;
    Ok(Exit::Done)
}

async fn steer(ctx: &Ctx, session: &Arc<dyn Session>, id: u64, how: Steer) -> Outcome<Exit> {
    let task = session.task_steer(id, how).await?;
    record(ctx, &task)?;
    let what = match (how, task.state) {
        (Steer::Pause, TaskState::Running) => "is told to pause, and ends its step first",
        (Steer::Cancel, TaskState::Running | TaskState::Paused) => "is told to end, and ends its step first",
        _ => state(task.state),
    };
    ctx.ui.note(&format!("Task {id}: {what}."));
    summary(ctx, 1)?;
    Ok(Exit::Done)
}

/// The last JSON line.
pub fn summary(ctx: &Ctx, tasks: u64) -> Outcome<()> {
    ctx.ui.record(&SummaryRecord { line: "summary", tasks })
}

/// The JSON line of a task.
pub fn record(ctx: &Ctx, task: &Task) -> Outcome<()> {
    ctx.ui.record(&TaskRecord {
        line: "task",
        id: task.id,
        kind: task.kind,
        state: task.state,
        owner: &task.owner,
        node: task.node.as_deref(),
        done: task.done,
        total: task.total,
        message: &task.message,
        created: task.created,
        ended: task.ended,
    })
}

/// Begins long work; says which task it is where nobody waits for it.
pub async fn begin(
    ctx: &Ctx,
    session: &Arc<dyn Session>,
    request: &TaskRequest,
    detach: bool,
) -> Outcome<Option<Task>> {
    let task = session.task_start(request).await?;
    if !detach {
        return Ok(Some(task));
    }
    record(ctx, &task)?;
    ctx.ui.note(&format!("It is task {}. To see it: bytenode admin task show {}", task.id, task.id));
    summary(ctx, 1)?;
    Ok(None)
}

/// Waits for a task to end, and shows how far it is. One that failed, was cancelled or is paused is a failure.
pub async fn finish(ctx: &Ctx, session: &Arc<dyn Session>, id: u64) -> Outcome<TaskReport> {
    let report = follow(ctx, session, id, true).await?;
    if report.task.state == TaskState::Paused {
        return Err(
            Failure::new(Code::Busy, format!("task {id} is paused")).hint(format!("bytenode admin task resume {id}"))
        );
    }
    if let Some(error) = report.error {
        return Err(error.into());
    }
    if report.task.state == TaskState::Cancelled {
        return Err(Failure::new(Code::Changed, format!("task {id} was cancelled")));
    }
    Ok(report)
}

/// Waits for a task to end, however it does, or to be paused.
async fn follow(ctx: &Ctx, session: &Arc<dyn Session>, id: u64, not_paused: bool) -> Outcome<TaskReport> {
    let shows = ctx.ui.level > Level::Quiet && std::io::stderr().is_terminal();
    let line = shows.then(|| ctx.ui.line());
    let mut reported = Instant::now();
    let (mut done, mut wait) = (0, 1);
    loop {
        let report = session.task(id, wait, done).await?;
        if report.task.state.has_ended() || (not_paused && report.task.state == TaskState::Paused) {
            return Ok(report);
        }
        (done, wait) = (report.task.done, if shows { 1 } else { WAIT });
        let text = progress(&report.task);
        match &line {
            Some(line) => line.set(&text),
            None if reported.elapsed() >= REPORT => {
                ctx.ui.detail(&text);
                reported = Instant::now();
            }
            None => {}
        }
    }
}

/// How far a task is, in a line.
fn progress(task: &Task) -> String {
    let what = title(task);
    let far = match task.total {
        _ if task.state == TaskState::Paused => "paused".to_owned(),
        Some(total) if total > 0 => format!("{} of {}", count(task.done), count(total)),
        _ => "asking the nodes".to_owned(),
    };
    let said = if task.message.is_empty() { String::new() } else { format!(" ({})", escaped(&task.message)) };
    format!("{what}: {far}{said}; it goes on after Ctrl-C, as task {}", task.id)
}

/// A task in a line, for a glance at the pool.
pub fn brief(task: &Task) -> String {
    let far = far(task);
    let far = if far.is_empty() { far } else { format!(", {far}") };
    let waits = match (task.state, task.owner.as_str()) {
        // While its own is paused, it begins no other.
        (TaskState::Paused, Task::ITSELF) => {
            format!("; the coordinator begins no other until: bytenode admin task resume {}", task.id)
        }
        (TaskState::Paused, _) => format!("; to go on: bytenode admin task resume {}", task.id),
        _ => String::new(),
    };
    format!("task {}: {}, {}{far}{waits}", task.id, title(task), state(task.state))
}

fn title(task: &Task) -> String {
    match (task.kind, &task.node) {
        (TaskKind::Drain, Some(node)) => format!("drain {}", escaped(node)),
        (kind, _) => kind_text(kind).to_owned(),
    }
}

const fn kind_text(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Health => "health",
        TaskKind::Scrub => "scrub",
        TaskKind::Drain => "drain",
    }
}

const fn state(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::Paused => "paused",
        TaskState::Done => "done",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
    }
}

fn far(task: &Task) -> String {
    match task.total {
        Some(total) => format!("{}/{}", count(task.done.min(total)), count(total)),
        None => String::new(),
    }
}

fn table(tasks: &[Task], now: Timestamp) -> String {
    let mut rows = vec![["TASK", "WHAT", "STATE", "DONE", "BEGAN", "BY", "SAID"].map(str::to_owned).to_vec()];
    rows.extend(tasks.iter().map(|task| {
        vec![
            task.id.to_string(),
            title(task),
            state(task.state).to_owned(),
            far(task),
            age(task.created, now),
            escaped(&task.owner).into_owned(),
            escaped(&task.message).into_owned(),
        ]
    }));
    use Align::{Left, Right};
    lay_out(&rows, &[Right, Left, Left, Right, Left, Left, Left])
}

fn told(report: &TaskReport, now: Timestamp) -> String {
    let task = &report.task;
    let mut text = format!("task {}: {}, {}", task.id, title(task), state(task.state));
    if let Some(total) = task.total {
        text.push_str(&format!(", {} of {}", count(task.done.min(total)), plural(total, "step")));
    }
    let by = match task.owner.as_str() {
        Task::ITSELF => "begun by the coordinator itself".to_owned(),
        owner => format!("asked for by {}", escaped(owner)),
    };
    text.push_str(&format!("\n{by} {}", age(task.created, now)));
    let zone = TimeZone::system();
    for line in &report.log {
        text.push_str(&format!("\n  {}  {}", local_time(line.at, &zone), escaped(&line.text)));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_task_says_what_waits_for_it() {
        let mut task = Task {
            id: 7,
            kind: TaskKind::Health,
            state: TaskState::Paused,
            owner: Task::ITSELF.to_owned(),
            node: None,
            done: 3,
            total: Some(10),
            message: String::new(),
            created: Timestamp::UNIX_EPOCH,
            ended: None,
        };
        let until = "until: bytenode admin task resume 7";
        assert_eq!(brief(&task), format!("task 7: health, paused, 3/10; the coordinator begins no other {until}"));
        task.owner = "anna".to_owned();
        assert_eq!(brief(&task), "task 7: health, paused, 3/10; to go on: bytenode admin task resume 7");
        task.state = TaskState::Running;
        assert_eq!(brief(&task), "task 7: health, running, 3/10");
    }
}
