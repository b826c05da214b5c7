//! `admin gc`: release what nothing needs any more.

use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::error::{Exit, Outcome};
use crate::ui::text::{plural, size};

/// Release what no file needs any more
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin gc --dry-run", "bytenode admin gc --now    also what was removed just now"]),
    after_help = exits(&[Exit::NotAllowed, Exit::Temporary, Exit::Busy]),
)]
pub struct Args {
    /// Do not wait until removed files have passed their retention
    #[arg(long)]
    now: bool,
    /// Change nothing; say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    chunks: u64,
    packs: u64,
    bytes: u64,
    waiting: u64,
    dry_run: bool,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let swept = ctx.session()?.gc(args.now, args.dry_run).await?;
    let verb = if args.dry_run { "Would release" } else { "Released" };
    match (swept.chunks, swept.packs) {
        (0, 0) if args.now => ctx.ui.note("There is nothing to release."),
        (0, 0) => ctx.ui.note("There is nothing to release yet. To release what was removed just now: add --now"),
        (chunks, packs) => {
            let (chunks, packs) = (plural(chunks, "chunk"), plural(packs, "pack"));
            ctx.ui.note(&format!("{verb} {chunks} in {packs} ({}).", size(swept.bytes)));
        }
    }
    if swept.waiting > 0 {
        ctx.ui.note(&format!("note: {} on nodes that do not answer; they go later.", plural(swept.waiting, "pack")));
    }
    ctx.ui.record(&SummaryRecord {
        kind: "summary",
        chunks: swept.chunks,
        packs: swept.packs,
        bytes: swept.bytes,
        waiting: swept.waiting,
        dry_run: args.dry_run,
    })?;
    Ok(Exit::Done)
}
