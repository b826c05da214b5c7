//! `admin adopt`: say that this coordinator counts, after its catalog and the nodes disagreed.

use bytenode::admin::{Adopt, Adopted};
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::error::{Exit, Outcome};
use crate::ui::text::{escaped, plural};

/// Make this coordinator the one in charge, after the nodes showed another one
///
/// A coordinator that finds a node obeying another one, or holding packs that its catalog never issued, takes no changes:
/// it may run on an old copy of its data. Stop the other one, or restore the newest backup; only then adopt. What the
/// catalog does not know stays on the nodes, and counts for nothing.
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode admin adopt --dry-run       what the nodes show",
        "bytenode admin adopt",
        "bytenode admin adopt --without n3    n3 does not answer, and need not",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Temporary]),
)]
pub struct Args {
    /// Do not wait for what this node may know; can be given again
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Change nothing; show what the nodes show
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct NodeRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    node: &'a str,
    epoch: Option<u64>,
    unknown_packs: u64,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    adopted: bool,
    epoch: u64,
    nodes: u64,
    unknown_packs: u64,
    dry_run: bool,
}

/// Characters of the pool's identity that a person types.
const TYPED: usize = 8;

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let session = ctx.session()?;
    let request = Adopt { without: args.without.clone(), dry_run: true };
    let mut found = session.adopt(&request).await?;
    tell(ctx, &found)?;
    let needed = found.why.is_some();
    if needed && !args.dry_run {
        let pool = session.whoami().await?.pool.to_string();
        let name = pool.get(..TYPED).unwrap_or(&pool);
        ctx.ui.confirm(&format!("make this coordinator the one in charge of pool {pool}, for ever"), name)?;
        found = session.adopt(&Adopt { dry_run: false, ..request }).await?;
        ctx.ui.note(&format!("Adopted; this is epoch {}. To see what is missing: bytenode admin health", found.epoch));
    }
    for node in &found.nodes {
        let (epoch, unknown_packs) = (node.epoch, node.unknown_packs);
        ctx.ui.record(&NodeRecord { kind: "node", node: &node.node, epoch, unknown_packs })?;
    }
    ctx.ui.record(&SummaryRecord {
        kind: "summary",
        adopted: needed && !args.dry_run,
        epoch: found.epoch,
        nodes: found.nodes.len() as u64,
        unknown_packs: found.nodes.iter().map(|node| node.unknown_packs).sum(),
        dry_run: args.dry_run,
    })?;
    Ok(Exit::Done)
}

fn tell(ctx: &Ctx, found: &Adopted) -> Outcome<()> {
    for node in &found.nodes {
        let epoch = node.epoch.map(|epoch| format!("obeys epoch {epoch}, ")).unwrap_or_default();
        let packs = plural(node.unknown_packs, "pack");
        ctx.ui.data(&format!("{}: {epoch}holds {packs} that this coordinator does not know", escaped(&node.node)))?;
    }
    match &found.why {
        Some(why) => {
            ctx.ui.note(&format!("The coordinator (epoch {}) takes no changes: {}", found.epoch, escaped(why)))
        }
        None => {
            ctx.ui.note(&format!("The coordinator (epoch {}) is in charge; there is nothing to adopt.", found.epoch))
        }
    }
    Ok(())
}
