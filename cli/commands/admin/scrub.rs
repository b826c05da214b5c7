//! `admin scrub`: read and hash what was not read for long.

use bytenode::admin::TaskRequest;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::commands::admin::task;
use crate::error::{Exit, Outcome};
use crate::ui::text::{plural, size};

/// Read and hash copies, to find what rotted
///
/// The coordinator does this by itself for every copy within a month. This does it now, as fast as the configuration lets it.
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin scrub --dry-run", "bytenode admin scrub --all    also what was read lately"]),
    after_help = exits(&[Exit::NotAllowed, Exit::Temporary, Exit::Busy, Exit::Problems]),
)]
pub struct Args {
    /// Read every copy, not only what is due
    #[arg(long)]
    all: bool,
    /// Read nothing; say what would be read
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not wait for its end; print the task
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
}

#[derive(Serialize)]
struct NodeRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    packs: u64,
    bytes: u64,
    bad: u64,
    unprotected: u64,
    left: u64,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    packs: u64,
    bytes: u64,
    bad: u64,
    unprotected: u64,
    left: u64,
    dry_run: bool,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let session = ctx.session()?;
    let nodes = if args.dry_run {
        session.scrub(args.all, true).await?
    } else {
        let request = TaskRequest::Scrub { all: args.all };
        let Some(task) = task::begin(ctx, &session, &request, args.detach).await? else { return Ok(Exit::Done) };
        task::finish(ctx, &session, task.id).await?.scrub.unwrap_or_default()
    };
    let mut all =
        SummaryRecord { kind: "summary", packs: 0, bytes: 0, bad: 0, unprotected: 0, left: 0, dry_run: args.dry_run };
    for node in &nodes {
        let (packs, bytes) = (plural(node.packs, "pack"), size(node.bytes));
        let said = if args.dry_run { "to read" } else { "read" };
        if node.packs > 0 {
            ctx.ui.data(&format!("  {}: {packs} {said} ({bytes})", node.node))?;
        }
        if node.bad > 0 {
            let copies = plural(node.bad, "copy");
            ctx.ui.data(&format!("  {}: {copies} missing or wrong", node.node))?;
        }
        if node.unprotected > 0 {
            ctx.ui.data(&format!("  {}: {} not protected", node.node, plural(node.unprotected, "pack")))?;
        }
        if node.left > 0 {
            ctx.ui.data(&format!("  {}: {} could not be read", node.node, plural(node.left, "pack")))?;
        }
        ctx.ui.record(&NodeRecord {
            kind: "node",
            name: &node.node,
            packs: node.packs,
            bytes: node.bytes,
            bad: node.bad,
            unprotected: node.unprotected,
            left: node.left,
        })?;
        all.packs += node.packs;
        all.bytes += node.bytes;
        all.bad += node.bad;
        all.unprotected += node.unprotected;
        all.left += node.left;
    }
    let problems = all.bad + all.unprotected + all.left > 0;
    ctx.ui.note(&match (all.packs, args.dry_run) {
        (0, _) if !problems => "Nothing is due. To read every copy: bytenode admin scrub --all".to_owned(),
        (_, true) => format!("Would read {} ({}).", plural(all.packs, "pack"), size(all.bytes)),
        _ if all.bad + all.unprotected > 0 => {
            "What is missing or wrong is being mended. To wait for it: bytenode admin health".to_owned()
        }
        _ if problems => "The rest is read once its nodes answer: bytenode admin node ls".to_owned(),
        _ => format!("Read {} ({}), and all of it is right.", plural(all.packs, "pack"), size(all.bytes)),
    });
    ctx.ui.record(&all)?;
    Ok(if problems { Exit::Problems } else { Exit::Done })
}
