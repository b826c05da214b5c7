//! `doctor`: what could be wrong, with the command that mends it.

use bytenode::admin::{NodeState, Role, Verdict};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::commands::admin::backup;
use crate::credentials::{self, Credentials};
use crate::error::{Exit, Failure, Outcome};
use crate::pool::state::State;
use crate::ui::text::{age, escaped, escaped_lines, plural};

/// Look for everything that could be wrong, and say what mends it
#[derive(Debug, clap::Args)]
#[command(before_help = examples(&["bytenode doctor"]), after_help = exits(&[Exit::Problems]))]
pub struct Args {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Result {
    Ok,
    Risk,
    Failed,
}

#[derive(Serialize)]
struct CheckRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    check: &'a str,
    result: Result,
    message: &'a str,
    hint: Option<&'a str>,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    checks: u64,
    risks: u64,
    failed: u64,
}

struct Doctor<'a> {
    ctx: &'a Ctx,
    sums: SummaryRecord,
}

/// Runs it.
pub async fn run(ctx: &Ctx, _args: &Args) -> Outcome<Exit> {
    let sums = SummaryRecord { kind: "summary", checks: 0, risks: 0, failed: 0 };
    let mut doctor = Doctor { ctx, sums };
    // The user file was read before any command runs.
    let path = &ctx.profile.config_path;
    let none = if path.exists() { "" } else { " (there is none, and none is needed)" };
    doctor.good("configuration", &format!("{}{none}", path.display()))?;
    doctor.local()?;
    doctor.pool().await?;
    let sums = doctor.sums;
    ctx.ui.note(&format!("{}, {}, {} failed.", plural(sums.checks, "check"), plural(sums.risks, "risk"), sums.failed));
    let exit = if sums.failed > 0 { Exit::Problems } else { Exit::Done };
    ctx.ui.record(&sums)?;
    Ok(exit)
}

impl Doctor<'_> {
    fn good(&mut self, check: &str, message: &str) -> Outcome<()> {
        self.tell(check, Result::Ok, message, None)
    }

    fn failure(&mut self, check: &str, failure: &Failure) -> Outcome<()> {
        let message = std::iter::once(&failure.message).chain(&failure.causes).map(String::as_str);
        let message = message.collect::<Vec<_>>().join(": ");
        self.tell(check, Result::Failed, &message, failure.hint.as_deref())
    }

    fn tell(&mut self, check: &str, result: Result, message: &str, hint: Option<&str>) -> Outcome<()> {
        self.sums.checks += 1;
        self.sums.risks += u64::from(result == Result::Risk);
        self.sums.failed += u64::from(result == Result::Failed);
        let mark = match result {
            Result::Ok => "ok  ",
            Result::Risk => "risk",
            Result::Failed => "FAIL",
        };
        self.ctx.ui.data(&format!("{mark}  {check}: {}", escaped_lines(message)))?;
        if let Some(hint) = hint {
            self.ctx.ui.data(&format!("      {}", escaped_lines(hint)))?;
        }
        self.ctx.ui.record(&CheckRecord { kind: "check", check, result, message, hint })
    }

    /// What this machine knows by itself.
    fn local(&mut self) -> Outcome<()> {
        let state = &self.ctx.profile.dirs.state;
        match Credentials::load(state) {
            Ok(_) => self.good("credentials", &credentials::path(state).display().to_string())?,
            Err(failure) => self.failure("credentials", &failure)?,
        }
        match State::load(&self.ctx.profile) {
            Ok(None) => self.good("processes", "none were started by up"),
            Ok(Some(pool)) => {
                let stopped: Vec<&str> = pool.stopped().collect();
                if stopped.is_empty() {
                    return self.good("processes", "all that up started run");
                }
                let message = format!("stopped: {}", stopped.join(", "));
                self.tell("processes", Result::Failed, &message, Some("bytenode up"))
            }
            Err(failure) => self.failure("processes", &failure),
        }
    }

    /// When the coordinator was last backed up.
    fn backup(&mut self, last: Option<Timestamp>) -> Outcome<()> {
        let now = self.ctx.seam.now();
        match (backup::complaint(last, now), last) {
            (None, Some(made)) => self.good("backup", &format!("the last is of {}", age(made, now))),
            (what, _) => {
                let what = what.unwrap_or_default();
                let message = format!("{what}; losing the coordinator's directory without one loses everything");
                let hint = format!("each night, from cron: {}", backup::cron_line(self.ctx));
                self.tell("backup", Result::Risk, &message, Some(&hint))
            }
        }
    }

    /// What the coordinator says.
    async fn pool(&mut self) -> Outcome<()> {
        let session = match self.ctx.session() {
            Ok(session) => session,
            Err(failure) => return self.failure("coordinator", &failure),
        };
        let me = match session.whoami().await {
            Ok(me) => me,
            Err(error) => {
                let failure = crate::commands::hinted(self.ctx, error.into());
                return self.failure("coordinator", &failure);
            }
        };
        self.good("coordinator", &format!("answers; signed in as {}", escaped(&me.user)))?;
        let own = env!("CARGO_PKG_VERSION");
        if me.version.trim_start_matches("bytenode ") != own {
            let message = format!("the coordinator runs {}, this is {own}", me.version);
            self.tell("version", Result::Risk, &message, Some("upgrade the older of the two, then: bytenode up"))?;
        }
        let status = match session.status().await {
            Ok(status) => status,
            Err(error) => return self.failure("pool", &error.into()),
        };
        if let Some(why) = &status.read_only {
            let message = format!("the coordinator takes no changes: {}", escaped(why));
            self.tell("charge", Result::Failed, &message, Some("bytenode admin adopt --help"))?;
        }
        let pool = State::load(&self.ctx.profile).ok().flatten();
        let stopped: Vec<String> = pool.iter().flat_map(State::stopped).map(str::to_owned).collect();
        for node in &status.nodes {
            let (result, what) = match node.state {
                NodeState::Online => (Result::Ok, "online"),
                NodeState::Draining => (Result::Ok, "draining"),
                NodeState::Full => (Result::Risk, "full"),
                NodeState::Suspect => (Result::Risk, "has not answered for a moment"),
                NodeState::Offline => (Result::Failed, "does not answer"),
            };
            let hint = match result {
                Result::Ok => None,
                _ if stopped.contains(&node.name) => Some("bytenode up".to_owned()),
                _ => Some(format!("bytenode admin node test {}", node.name)),
            };
            self.tell(&format!("node {}", escaped(&node.name)), result, what, hint.as_deref())?;
        }
        let enough = status.nodes.len() as u64 >= u64::from(status.replicas);
        if !enough {
            let (nodes, copies) = (status.nodes.len(), status.replicas);
            let message = format!("{nodes} for {copies} copies each");
            self.tell("nodes", Result::Failed, &message, Some("bytenode admin node add URL"))?;
        }
        let zones: std::collections::BTreeSet<&str> = status.nodes.iter().map(|node| node.zone.as_str()).collect();
        if enough && zones.len() == 1 {
            self.tell("zones", Result::Risk, "all nodes share one machine, and its fate", None)?;
        }
        if me.role == Role::Admin {
            self.backup(status.backed_up)?;
        }
        match status.verdict {
            Verdict::Healthy => self.good("copies", "every chunk has its copies"),
            _ => {
                let message = format!("{} with too few", plural(status.under_replicated, "chunk"));
                self.tell("copies", Result::Failed, &message, Some("bytenode admin health"))
            }
        }
    }
}
