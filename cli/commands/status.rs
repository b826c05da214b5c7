//! `status`: the pool at a glance.

use bytenode::admin::{Status, Verdict};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::commands::admin::node::{self, Detail, node_table};
use crate::commands::admin::task;
use crate::error::{Exit, Outcome};
use crate::ui::text::{age, escaped, plural, size};

/// Show nodes, room, and whether everything has its copies
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode status", "bytenode status --json | tail -1"]),
    after_help = exits(&[Exit::NotAllowed, Exit::Temporary, Exit::Problems]),
)]
pub struct Args {}

#[derive(Serialize)]
struct SummaryRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    verdict: Verdict,
    replicas: u32,
    nodes: u64,
    files: u64,
    bytes: u64,
    usable_bytes: u64,
    under_replicated: u64,
    oldest_verified: Option<Timestamp>,
    oldest_read: Option<Timestamp>,
    unread_packs: u64,
    hold: Option<&'a str>,
    tasks: u64,
    read_only: Option<&'a str>,
}

/// Runs it.
pub async fn run(ctx: &Ctx, _args: &Args) -> Outcome<Exit> {
    let status = ctx.session()?.status().await?;
    for node in &status.nodes {
        node::record(ctx, node)?;
    }
    ctx.ui.record(&SummaryRecord {
        kind: "summary",
        verdict: status.verdict,
        replicas: status.replicas,
        nodes: status.nodes.len() as u64,
        files: status.files,
        bytes: status.bytes,
        usable_bytes: status.usable_bytes,
        under_replicated: status.under_replicated,
        oldest_verified: status.oldest_verified,
        oldest_read: status.oldest_read,
        unread_packs: status.unread_packs,
        hold: status.hold.as_deref(),
        tasks: status.tasks.len() as u64,
        read_only: status.read_only.as_deref(),
    })?;
    ctx.ui.data(told(&status, ctx.seam.now()).trim_end())?;
    let fine = status.verdict == Verdict::Healthy && status.read_only.is_none();
    Ok(if fine { Exit::Done } else { Exit::Problems })
}

fn told(status: &Status, now: Timestamp) -> String {
    let mut text = String::new();
    if status.nodes.is_empty() {
        text.push_str("There are no nodes yet. Add one: bytenode admin node add URL\n");
    } else {
        text.push_str(&node_table(&status.nodes, Detail::Brief));
        text.push('\n');
    }
    let copies = plural(u64::from(status.replicas), "copy");
    text.push_str(&format!(
        "{} ({}); room for {} more at {copies} each\n",
        plural(status.files, "file"),
        size(status.bytes),
        size(status.usable_bytes)
    ));
    text.push_str(&verdict_line(status.verdict, Some(status.under_replicated), status.oldest_verified, now));
    text.push('\n');
    if let Some(read) = read_line(status.oldest_read, status.unread_packs, now) {
        text.push_str(&format!("{read}\n"));
    }
    for task in &status.tasks {
        text.push_str(&format!("{}\n", task::brief(task)));
    }
    if let Some(hold) = &status.hold {
        text.push_str(&format!("Repair is on hold: {}\n", escaped(hold)));
    }
    if status.verdict != Verdict::Healthy {
        text.push_str("To see what a repair would do: bytenode admin health --dry-run\n");
    }
    if let Some(why) = &status.read_only {
        text.push_str(&format!("The coordinator takes no changes: {}\n", escaped(why)));
        text.push_str("To decide who is in charge: bytenode admin adopt --help\n");
    }
    text
}

/// How long ago all bytes were read, where that is worth a line.
pub fn read_line(oldest: Option<Timestamp>, unread: u64, now: Timestamp) -> Option<String> {
    match (oldest, unread) {
        (None, 0) => None,
        (Some(oldest), 0) => Some(format!("every copy was read and hashed; the longest ago {}", age(oldest, now))),
        (oldest, unread) => {
            let others = oldest.map(|oldest| format!("; the others, the longest ago {}", age(oldest, now)));
            let packs = plural(unread, "pack");
            Some(format!("{packs} not read whole yet{}", others.unwrap_or_default()))
        }
    }
}

/// The verdict in words, with how many chunks are below target where that is known, and how long ago the copy was checked
/// whose last check is the oldest.
pub fn verdict_line(verdict: Verdict, under: Option<u64>, oldest: Option<Timestamp>, now: Timestamp) -> String {
    let under = under.filter(|under| *under > 0).map(|under| plural(under, "chunk"));
    let what = match (verdict, under) {
        (Verdict::Healthy, _) => "healthy: every chunk has its copies".into(),
        (Verdict::Degraded, Some(chunks)) => format!("degraded: {chunks} with too few copies"),
        (Verdict::Degraded, None) => "degraded: not everything is as it should be".into(),
        (Verdict::AtRisk, under) => {
            let under = under.map(|chunks| format!(" ({chunks} with too few)")).unwrap_or_default();
            format!("at risk: some chunks have one copy left{under}")
        }
        (Verdict::Lost, _) => "lost: some chunks have no copy left".into(),
    };
    match oldest {
        Some(oldest) => format!("{what}; oldest check {}", age(oldest, now)),
        None => what,
    }
}
