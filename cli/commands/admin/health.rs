//! `admin health`: ask the nodes about every replica, and repair.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytenode::admin::{Action, Do, Finding, FindingKind, HealthReport, HealthRequest, TaskRequest, Verdict};
use bytenode::api::Code;
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{duration, examples, exits};
use crate::commands::Ctx;
use crate::commands::admin::task;
use crate::commands::status::verdict_line;
use crate::error::{Exit, Failure, Outcome};
use crate::ui::Level;
use crate::ui::text::{count, escaped, plural, size};

/// Lost files that are named.
const NAMED: usize = 20;

/// Ask the nodes about every copy, and repair what is missing
#[derive(Debug, Clone, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode admin health --dry-run    report, and exactly what a repair would do",
        "bytenode admin health              repair",
        "bytenode admin health --now        also for nodes that went away a moment ago",
        "bytenode admin health -q --time-limit 30m    from cron: says nothing unless something is wrong",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::Temporary, Exit::Busy, Exit::Problems]),
)]
pub struct Args {
    /// Change nothing; report, and print the plan
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not wait for nodes that do not answer to come back
    #[arg(long)]
    now: bool,
    /// Read and hash every copy first
    #[arg(long)]
    read: bool,
    /// Begin no more repair after this time, like 90s, 30m or 4h, and say how it stands then
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "dry_run")]
    time_limit: Option<Duration>,
    /// Do not wait for a repair that is under way: end with 11
    #[arg(long, conflicts_with = "dry_run")]
    no_wait: bool,
    /// Do not wait for its end; print the task
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
}

impl Args {
    /// A repair at once, as the demo does it.
    pub fn now() -> Self {
        Self { dry_run: false, now: true, read: false, time_limit: None, no_wait: false, detach: false }
    }
}

#[derive(Serialize)]
struct FindingRecord<'a> {
    #[serde(rename = "type")]
    line: &'static str,
    #[serde(flatten)]
    finding: &'a Finding,
}

#[derive(Serialize)]
struct ActionRecord<'a> {
    #[serde(rename = "type")]
    line: &'static str,
    #[serde(flatten)]
    action: &'a Action,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    line: &'static str,
    verdict: Verdict,
    chunks: u64,
    replicas_checked: u64,
    findings: u64,
    repaired: u64,
    remaining: u64,
    oldest_verified: Option<Timestamp>,
    oldest_read: Option<Timestamp>,
    unread_packs: u64,
    dry_run: bool,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let session = ctx.session()?;
    let report = if args.dry_run {
        session.health(&HealthRequest { dry_run: true, now: args.now, read: args.read }).await?
    } else {
        let time_limit = args.time_limit.map(|limit| limit.as_secs().max(1));
        let request = TaskRequest::Health { now: args.now, read: args.read, time_limit, no_wait: args.no_wait };
        let Some(task) = task::begin(ctx, &session, &request, args.detach).await? else { return Ok(Exit::Done) };
        task::finish(ctx, &session, task.id).await?.health.ok_or_else(|| lost_report(task.id))?
    };
    print(ctx, &report, args.dry_run)?;
    if let Some(next) = next(&report, args) {
        ctx.ui.note(next);
    }
    Ok(if is_fine(&report) { Exit::Done } else { Exit::Problems })
}

/// Whether nothing is left to be mended.
fn is_fine(report: &HealthReport) -> bool {
    report.verdict == Verdict::Healthy && report.remaining == 0
}

/// The coordinator has no report of a check that ended well.
fn lost_report(id: u64) -> Failure {
    Failure::new(Code::Internal, format!("task {id} ended without a report"))
}

/// What a person would do next.
fn next(report: &HealthReport, args: &Args) -> Option<&'static str> {
    let found = |kind| report.findings.iter().any(|finding| finding.kind == kind);
    if args.dry_run && report.actions_total > 0 {
        return Some(match (args.now, args.read) {
            (true, true) => "To do this: bytenode admin health --now --read",
            (true, false) => "To do this: bytenode admin health --now",
            (false, true) => "To do this: bytenode admin health --read",
            (false, false) => "To do this: bytenode admin health",
        });
    }
    let waits = report.actions_total == 0 && !args.now && found(FindingKind::Offline);
    (waits && found(FindingKind::UnderReplicated)).then_some(
        "Nodes that do not answer may come back. To copy what they held at once: bytenode admin health --now",
    )
}

/// Prints findings, plan and verdict.
pub fn print(ctx: &Ctx, report: &HealthReport, dry_run: bool) -> Outcome<()> {
    for finding in &report.findings {
        ctx.ui.record(&FindingRecord { line: "finding", finding })?;
    }
    for action in &report.actions {
        ctx.ui.record(&ActionRecord { line: "action", action })?;
    }
    let lines = told(report, dry_run, ctx.seam.now());
    if ctx.ui.level > Level::Quiet {
        lines.iter().try_for_each(|line| ctx.ui.data(line))?;
    } else if !is_fine(report) {
        let left = plural(report.remaining, "problem");
        ctx.ui.data(&format!(
            "{}; {left} left",
            verdict_line(report.verdict, None, report.oldest_verified, ctx.seam.now())
        ))?;
    }
    for notice in &report.notices {
        ctx.ui.note(&format!("note: {}", escaped(notice)));
    }
    ctx.ui.record(&SummaryRecord {
        line: "summary",
        verdict: report.verdict,
        chunks: report.chunks,
        replicas_checked: report.replicas_checked,
        findings: report.findings_total,
        repaired: report.repaired,
        remaining: report.remaining,
        oldest_verified: report.oldest_verified,
        oldest_read: report.oldest_read,
        unread_packs: report.unread_packs,
        dry_run,
    })
}

/// Findings in groups, since thousands of chunks on one dead node are one thing to a person.
pub fn told(report: &HealthReport, dry_run: bool, now: Timestamp) -> Vec<String> {
    let mut lines = vec![format!(
        "asked about {} of {}",
        match report.replicas_checked {
            1 => "1 copy".into(),
            copies => format!("{} copies", count(copies)),
        },
        plural(report.chunks, "chunk")
    )];
    let mut groups: BTreeMap<(FindingKind, Option<&str>), u64> = BTreeMap::new();
    for finding in &report.findings {
        *groups.entry((finding.kind, finding.node.as_deref())).or_default() += 1;
    }
    for ((kind, node), chunks) in groups {
        let node = node.map(|node| format!("node {}: ", escaped(node))).unwrap_or_default();
        lines.push(format!("  {node}{}", finding_text(kind, chunks)));
    }
    more(&mut lines, report.findings_total, report.findings.len(), "finding");
    lines.extend(lost_files(report));
    let mut plans: BTreeMap<(Do, Option<&str>), (u64, u64)> = BTreeMap::new();
    for action in &report.actions {
        let plan = plans.entry((action.act, action.to.as_deref().or(action.from.as_deref()))).or_default();
        *plan = (plan.0 + 1, plan.1 + action.bytes);
    }
    for ((act, node), (chunks, bytes)) in plans {
        let text = action_text(act, dry_run);
        let node = node.map(|node| format!(" {} {}", if act == Do::Drop { "from" } else { "to" }, escaped(node)));
        lines.push(format!("  {text} {}{} ({})", plural(chunks, "chunk"), node.unwrap_or_default(), size(bytes)));
    }
    let all = if dry_run { report.actions_total } else { report.repaired };
    more(&mut lines, all, report.actions.len(), "action");
    if !dry_run && report.actions_total > 0 {
        lines.push(format!("repaired {} of {}", count(report.repaired), count(report.actions_total)));
    }
    // Findings of the beginning say nothing about the end of a repair.
    let under = (report.actions_total == 0 || dry_run)
        .then(|| report.findings.iter().filter(|finding| finding.kind == FindingKind::UnderReplicated).count() as u64);
    let under = under.filter(|_| report.findings_total == report.findings.len() as u64);
    lines.push(verdict_line(report.verdict, under, report.oldest_verified, now));
    if report.remaining > 0 && !dry_run {
        lines.push(format!("{} left", plural(report.remaining, "problem")));
    }
    lines
}

/// The files of chunks without any copy, by name.
pub fn lost_files(report: &HealthReport) -> Vec<String> {
    let lost = report.findings.iter().filter(|finding| finding.kind == FindingKind::Lost);
    let names: BTreeSet<String> = lost.filter_map(|finding| finding.path.as_ref()).map(ToString::to_string).collect();
    let mut lines: Vec<String> = names.iter().take(NAMED).map(|name| format!("    lost: {}", escaped(name))).collect();
    let shown = lines.len();
    more(&mut lines, names.len() as u64, shown, "lost file");
    lines
}

fn more(lines: &mut Vec<String>, total: u64, shown: usize, what: &str) {
    let left = total.saturating_sub(shown as u64);
    if left > 0 {
        lines.push(format!("  and {} more", plural(left, what)));
    }
}

fn finding_text(kind: FindingKind, chunks: u64) -> String {
    let many = plural(chunks, "chunk");
    match kind {
        FindingKind::Missing => format!("{many} missing"),
        FindingKind::Corrupt => format!("{many} with wrong bytes"),
        FindingKind::Unprotected => format!("{many} not protected"),
        FindingKind::UnderReplicated => format!("{many} with too few copies"),
        FindingKind::Offline => "does not answer".into(),
        FindingKind::Orphan => format!("{} that no file needs", plural(chunks, "pack")),
        FindingKind::Surplus => format!("{many} with a copy too many"),
        FindingKind::Misplaced => format!("{many} elsewhere than they belong"),
        FindingKind::Zone => format!("{many} with copies in one zone"),
        FindingKind::Spread => format!("{} held whole", plural(chunks, "file")),
        FindingKind::Lost => format!("{many} without any copy left"),
    }
}

const fn action_text(act: Do, dry_run: bool) -> &'static str {
    match (act, dry_run) {
        (Do::Copy, true) => "would copy",
        (Do::Copy, false) => "copied",
        (Do::Replace, true) => "would rewrite",
        (Do::Replace, false) => "rewrote",
        (Do::Move, true) => "would move",
        (Do::Move, false) => "moved",
        (Do::Drop, true) => "would drop",
        (Do::Drop, false) => "dropped",
    }
}
