//! `down`: stop what `up` started.

use std::io;

use bytenode::api::Code;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::credentials::Credentials;
use crate::error::{Exit, Failure, Outcome};
use crate::pool::erase::erase;
use crate::pool::process::Process;
use crate::pool::state::{State, lock};
use crate::ui::text::{plural, shown};

/// Foreign files that are named; more are counted.
const LEFT: usize = 10;

/// Stop what `up` started; keeps all data
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode down", "bytenode down --delete-data    and forget everything stored"]),
    after_help = exits(&[Exit::Busy]),
)]
pub struct Args {
    /// Delete what the pool stores, too
    #[arg(long)]
    delete_data: bool,
}

#[derive(Serialize)]
struct StoppedRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    stopped: u64,
    deleted: bool,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let profile = &ctx.profile;
    let _lock = lock(profile).await?;
    let Some(state) = State::load(profile)? else {
        ctx.ui.note("Nothing was started here.");
        ctx.ui.record(&SummaryRecord { kind: "summary", stopped: 0, deleted: false })?;
        return Ok(Exit::Done);
    };
    if args.delete_data {
        let what = format!("delete everything stored in {}, for ever", shown(&state.data));
        ctx.ui.confirm(&what, &profile.name)?;
    }
    // The coordinator first, so that it does not take its nodes for lost.
    let coordinator: Vec<&Process> = state.coordinator.iter().filter(|process| process.runs()).collect();
    let running: Vec<_> = state.nodes.iter().filter(|node| node.process.as_ref().is_some_and(Process::runs)).collect();
    let nodes: Vec<&Process> = running.iter().filter_map(|node| node.process.as_ref()).collect();
    Process::stop(&coordinator).await;
    Process::stop(&nodes).await;
    if let Some(left) = coordinator.iter().chain(&nodes).find(|process| process.runs()) {
        return Err(Failure::other(format!("process {} does not stop", left.pid)));
    }
    for name in coordinator.iter().map(|_| "coordinator").chain(running.iter().map(|node| node.name.as_str())) {
        ctx.ui.record(&StoppedRecord { kind: "stopped", name })?;
    }
    let stopped = (coordinator.len() + nodes.len()) as u64;
    match stopped {
        0 => ctx.ui.note("Nothing ran."),
        _ => ctx.ui.note(&format!("Stopped {}.", plural(stopped, "process"))),
    }
    if args.delete_data {
        let left = erase(&state.data).map_err(|error| {
            let failure = Failure::io(format!("cannot delete everything in {}", state.data.display()), &error);
            if error.kind() == io::ErrorKind::WouldBlock {
                Failure::new(Code::Busy, failure.message).cause(&error)
            } else {
                failure
            }
        })?;
        let url = state.coordinator.as_ref().map(|process| process.url.clone());
        Credentials::update(&profile.dirs.state, |credentials| {
            credentials.profiles.remove(&profile.name);
            if let Some(url) = &url {
                credentials.sign_out(url);
            }
        })?;
        State::remove(profile)?;
        ctx.ui.note(&format!("Deleted what the pool kept in {}.", shown(&state.data)));
        for path in left.iter().take(LEFT) {
            ctx.ui.note(&format!("note: {} is not ByteNode's, and was left.", shown(path)));
        }
        if left.len() > LEFT {
            ctx.ui.note(&format!("note: so were {} more.", left.len() - LEFT));
        }
    } else {
        ctx.ui.note(&format!("All data is kept in {}. To start again: bytenode up", shown(&state.data)));
    }
    ctx.ui.record(&SummaryRecord { kind: "summary", stopped, deleted: args.delete_data })?;
    Ok(Exit::Done)
}
