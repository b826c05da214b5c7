//! `mv`: move within the pool. What it shares with `cp` is here: both follow the rule of a file and never replace.

use bytenode::api::{Code, Entry, Kind};
use bytenode::path::RemotePath;
use bytenode::tree::place::{Target, place_within};
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::{Ctx, entry_at, kind_at, typed};
use crate::error::{Exit, Failure, Outcome};
use crate::ui::text::escaped;

/// Move or rename a file or directory; never replaces
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode mv bn:/a.raw bn:/b.raw",
        "bytenode mv bn:/a.raw bn:/photos/",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary]),
)]
pub struct Args {
    /// What to move
    #[arg(value_name = "bn:/A")]
    from: String,
    /// Where it goes
    #[arg(value_name = "bn:/B")]
    to: String,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    Move,
    Copy,
}

#[derive(Serialize)]
struct Record<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    from: &'a RemotePath,
    path: &'a RemotePath,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    transfer(ctx, &args.from, &args.to, Transfer::Move).await
}

/// Moves or copies.
pub async fn transfer(ctx: &Ctx, from: &str, to: &str, how: Transfer) -> Outcome<Exit> {
    let (from, to) = (typed(from)?, typed(to)?);
    if from.path.is_root() {
        return Err(Failure::usage("bn:/ cannot be moved or copied: it is where everything is"));
    }
    let session = ctx.session()?;
    entry_at(&session, &from).await?;
    let kind = kind_at(&session, &to.path).await?;
    let place = place_within(&from.path, &Target { path: to.path, slash: to.slash, kind })?;
    if place.is_within(&from.path) {
        return Err(Failure::usage(format!("{} cannot go into itself ({place})", from.path)));
    }
    if let Some(kind) = kind_at(&session, &place).await? {
        let what = if kind == Kind::Dir { "a directory" } else { "a file" };
        return Err(
            Failure::new(Code::Exists, format!("{place} is {what} already")).hint(format!("bytenode rm {place}"))
        );
    }
    let entry: Entry = match how {
        Transfer::Move => session.rename(&from.path, &place).await?,
        Transfer::Copy => session.copy(&from.path, &place).await?,
    };
    let (kind, verb) = match how {
        Transfer::Move => ("moved", "Moved"),
        Transfer::Copy => ("copied", "Copied"),
    };
    ctx.ui.note(&format!("{verb} to {}.", escaped(&entry.path.to_string())));
    ctx.ui.record(&Record { kind, from: &from.path, path: &entry.path })?;
    ctx.ui.record(&SummaryRecord { kind: "summary" })?;
    Ok(Exit::Done)
}
