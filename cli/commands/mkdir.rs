//! `mkdir`: make directories.

use bytenode::path::RemotePath;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::{Ctx, typed};
use crate::error::{Exit, Outcome};

/// Make a directory and its parents; one that exists is success
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode mkdir bn:/photos/2026"]),
    after_help = exits(&[Exit::NotAllowed, Exit::Exists, Exit::Temporary]),
)]
pub struct Args {
    /// Remote directories
    #[arg(required = true, value_name = "bn:/DIR")]
    dirs: Vec<String>,
}

#[derive(Serialize)]
struct Record<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    path: &'a RemotePath,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    dirs: u64,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let dirs: Vec<RemotePath> = args.dirs.iter().map(|dir| Ok(typed(dir)?.path)).collect::<Outcome<_>>()?;
    let session = ctx.session()?;
    for some in dirs.chunks(bytenode::api::MAX_FILES) {
        let some: Vec<RemotePath> = some.iter().filter(|dir| !dir.is_root()).cloned().collect();
        if !some.is_empty() {
            session.make_dirs(&some).await?;
        }
    }
    for path in &dirs {
        ctx.ui.record(&Record { kind: "dir", path })?;
    }
    ctx.ui.record(&SummaryRecord { kind: "summary", dirs: dirs.len() as u64 })?;
    Ok(Exit::Done)
}
