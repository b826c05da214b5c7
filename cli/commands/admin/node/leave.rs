//! `admin node drain` and `remove`: nodes that leave, with nothing lost.

use std::sync::Arc;

use bytenode::admin::{NodeSet, NodeState, Session, TaskRequest, TaskState};
use bytenode::api::Code;

use super::unknown;
use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::commands::admin::{health, task};
use crate::error::{Exit, Failure, Outcome};
use crate::ui::text::escaped;

/// Empty a node: nothing new goes to it, and what it has goes elsewhere
///
/// Ends when the other nodes have just said that no copy that counts is on this one alone. Until it is removed, the node
/// stays empty; bytenode admin task pause and cancel stop the moving.
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode admin node drain nas --dry-run    what would go where",
        "bytenode admin node drain nas",
        "bytenode admin node drain nas --undo       it takes new chunks again",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary]),
)]
pub struct DrainArgs {
    /// Which one
    #[arg(value_name = "NAME")]
    name: String,
    /// Let a node that is being emptied, or is empty, take new chunks again
    #[arg(long, conflicts_with_all = ["dry_run", "detach"])]
    undo: bool,
    /// Change nothing; say what would be moved
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not wait for its end; print the task
    #[arg(long, conflicts_with = "dry_run")]
    detach: bool,
}

/// Forget a node that holds no copy that counts
///
/// One that still has some is emptied first. With --lost, it is said which files would be lost before anything is done.
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin node remove nas", "bytenode admin node remove nas --lost    it never comes back"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary, Exit::TooFewNodes, Exit::Busy]),
)]
pub struct RemoveArgs {
    /// Which one
    #[arg(value_name = "NAME")]
    name: String,
    /// It is gone with all it held; its copies are made anew from others
    #[arg(long)]
    lost: bool,
    /// Change nothing; say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Empties a node.
pub async fn drain(ctx: &Ctx, session: &Arc<dyn Session>, args: &DrainArgs) -> Outcome<Exit> {
    if args.undo {
        let open = session.tasks().await?;
        let its = |node: &Option<String>| node.as_deref() == Some(args.name.as_str());
        for one in open.iter().filter(|one| !one.state.has_ended() && its(&one.node)) {
            session.task_steer(one.id, bytenode::admin::Steer::Cancel).await?;
        }
        let change = NodeSet { draining: Some(false), ..NodeSet::default() };
        let report = named(session, &args.name, session.node_set(&args.name, &change).await).await?;
        report.node.iter().try_for_each(|node| super::record(ctx, node))?;
        ctx.ui.note(&format!("{} takes new chunks again.", escaped(&args.name)));
        ctx.ui.record(&super::SummaryRecord { line: "summary", nodes: 1, failed: 0, dry_run: false })?;
        return Ok(Exit::Done);
    }
    if args.dry_run {
        let plan = named(session, &args.name, session.node_remove(&args.name, false, true).await).await?;
        health::print(ctx, &plan, true)?;
        ctx.ui.note(&format!("To do this: bytenode admin node drain {}", escaped(&args.name)));
        return Ok(Exit::Done);
    }
    let request = TaskRequest::Drain { node: args.name.clone() };
    let begun = match task::begin(ctx, session, &request, args.detach).await {
        Err(failure) if failure.exit == Exit::NotFound => return Err(unknown(session, &args.name).await),
        begun => begun?,
    };
    let Some(begun) = begun else { return Ok(Exit::Done) };
    let report = task::finish(ctx, session, begun.id).await?;
    task::record(ctx, &report.task)?;
    let name = escaped(&args.name);
    ctx.ui.note(&format!("{name} is empty: {}.", escaped(&report.task.message)));
    ctx.ui.note(&format!(
        "To forget it: bytenode admin node remove {name}. To use it again: bytenode admin node drain {name} --undo"
    ));
    task::summary(ctx, 1)?;
    Ok(Exit::Done)
}

/// Forgets a node.
pub async fn remove(ctx: &Ctx, session: &Arc<dyn Session>, args: &RemoveArgs) -> Outcome<Exit> {
    let name = escaped(&args.name);
    if args.dry_run || args.lost {
        let plan = named(session, &args.name, session.node_remove(&args.name, args.lost, true).await).await?;
        if args.dry_run {
            health::print(ctx, &plan, true)?;
            ctx.ui.note(&format!("Would remove {name}."));
            return Ok(Exit::Done);
        }
        health::told(&plan, true, ctx.seam.now()).iter().for_each(|line| ctx.ui.note(line));
        ctx.ui.confirm(&format!("forget every copy on {name}, for ever"), &args.name)?;
    } else {
        let nodes = session.nodes().await?;
        let has_some = nodes.iter().any(|node| {
            node.name == args.name && node.chunks > 0 && !matches!(node.state, NodeState::Offline | NodeState::Suspect)
        });
        if has_some {
            let task = session.task_start(&TaskRequest::Drain { node: args.name.clone() }).await?;
            let report = task::finish(ctx, session, task.id).await?;
            if report.task.state != TaskState::Done {
                return Err(Failure::new(Code::Temporary, format!("{name} could not be emptied")));
            }
        }
    }
    let report = named(session, &args.name, session.node_remove(&args.name, args.lost, false).await).await?;
    health::print(ctx, &report, false)?;
    ctx.ui.note(&format!("Removed {name}."));
    Ok(Exit::Done)
}

/// A node's answer; one that there is none of is told with the name that was probably meant.
pub async fn named<T>(session: &Arc<dyn Session>, name: &str, answer: bytenode::api::ApiResult<T>) -> Outcome<T> {
    match answer {
        Err(error) if error.code == Code::NotFound => Err(unknown(session, name).await),
        answer => Ok(answer?),
    }
}
