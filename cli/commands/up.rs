//! `up`: a pool on this machine, in the background.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytenode::admin::Session;
use bytenode::api::Code;
use bytenode::coordinator::backup::read_last;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::commands::admin::backup;
use crate::credentials::{Credentials, Secret, make_private_dir};
use crate::error::{Exit, Failure, Outcome};
use crate::pool::Ground;
use crate::pool::process::{Bond, Process};
use crate::pool::state::{Node, State, lock};
use crate::session;
use crate::ui::text::{plural, shown};

/// Nodes unless told otherwise.
const NODES: u32 = 5;

/// Start a coordinator and nodes on this machine, in the background
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode up                start, or start again after a reboot",
        "bytenode up --nodes 8      more nodes",
        "bytenode up --nodes 0      a coordinator alone, for nodes you have already",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::Exists, Exit::Temporary, Exit::Busy]),
)]
pub struct Args {
    /// How many built-in nodes (default: as many as there are, at first 5)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=64))]
    nodes: Option<u32>,
    /// Where the data is kept (default: $XDG_DATA_HOME/bytenode)
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Serialize)]
struct ProcessRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    url: &'a str,
    pid: u32,
    started: bool,
}

#[derive(Serialize)]
struct SummaryRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    url: &'a str,
    data: String,
    nodes: u64,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let profile = &ctx.profile;
    let _lock = lock(profile).await?;
    let known = State::load(profile)?;
    let data = data_dir(ctx, args.data.as_deref(), known.as_ref())?;
    let first = known.is_none();
    let mut state = known.unwrap_or_else(|| State::new(data.clone()));
    state.save(profile)?;
    let ground = Ground { data, logs: profile.logs(), bond: Bond::Detached };
    let (url, session) = coordinator(ctx, &ground, &mut state).await?;
    forget_removed(ctx, &session, &mut state).await?;
    grow(ctx, &ground, args.nodes, first, &mut state);
    let started = nodes(ctx, &ground, &mut state).await?;
    join(ctx, &ground, &session, &mut state).await?;
    for (node, started) in state.nodes.iter().zip(&started) {
        if let Some(process) = &node.process {
            record(ctx, &node.name, process, *started)?;
        }
    }
    let nodes = state.nodes.len() as u64;
    ctx.ui.note(&format!("The coordinator serves at {url}, with {}.", plural(nodes, "node")));
    ctx.ui.note(&format!("Data: {}   Logs: {}", shown(&state.data), shown(&ground.logs)));
    if nodes == 0 {
        ctx.ui.note("Next, add nodes that you have: bytenode admin node add URL");
    } else {
        ctx.ui.note("All these nodes share one disk: good for trying, no protection against losing it.");
        ctx.ui.note("Next: bytenode put FILE bn:/   bytenode ls   bytenode status");
    }
    warn_without_backup(ctx, &state.data.join("coordinator"));
    ctx.ui.record(&SummaryRecord { kind: "summary", url: &url, data: state.data.display().to_string(), nodes })?;
    Ok(Exit::Done)
}

/// Says what depends on a backup where there is none, or an old one.
fn warn_without_backup(ctx: &Ctx, dir: &Path) {
    let Some(what) = backup::complaint(read_last(dir), ctx.seam.now()) else { return };
    ctx.ui.note(&format!("Backup: {what}. Losing {} loses everything: names and keys are there alone.", shown(dir)));
    ctx.ui.note("Make one each night, by a line for crontab -e, and keep its passphrase elsewhere too:");
    ctx.ui.note(&format!("  {}", backup::cron_line(ctx)));
}

fn record(ctx: &Ctx, name: &str, process: &Process, started: bool) -> Outcome<()> {
    if started {
        ctx.ui.detail(&format!("{name} started at {} (process {})", process.url, process.pid));
    }
    let (url, pid) = (process.url.as_str(), process.pid);
    ctx.ui.record(&ProcessRecord { kind: "process", name, url, pid, started })
}

/// The data directory: the one remembered, else the one given, else the usual one.
fn data_dir(ctx: &Ctx, given: Option<&Path>, known: Option<&State>) -> Outcome<PathBuf> {
    let wanted = given.map_or_else(|| ctx.profile.default_data(), Path::to_owned);
    let wanted = match (given, known) {
        (None, Some(known)) => known.data.clone(),
        _ => wanted,
    };
    let made = make_private_dir(&wanted).and_then(|()| wanted.canonicalize());
    let wanted = made.map_err(|error| Failure::io(format!("cannot make {}", wanted.display()), &error))?;
    match known {
        Some(known) if known.data != wanted => Err(Failure::new(
            Code::Exists,
            format!("profile {} keeps its data in {}", ctx.profile.name, known.data.display()),
        )
        .hint("use another profile: bytenode --profile NAME up --data DIR")),
        _ => Ok(wanted),
    }
}

/// Starts the coordinator unless it runs, and signs in.
async fn coordinator(ctx: &Ctx, ground: &Ground, state: &mut State) -> Outcome<(String, Arc<dyn Session>)> {
    let before = state.coordinator.clone();
    let current = |process: &Process| process.runs() && process.version == env!("CARGO_PKG_VERSION");
    if let Some(process) = before.filter(current) {
        match sign_in(ctx, ground, &process.url).await {
            // The token in the data directory is lost or revoked: the next start makes another.
            Err(failure) if [Code::NotFound.as_str(), Code::NotSignedIn.as_str()].contains(&failure.code) => {
                ctx.ui.detail("the coordinator is started again, to make a new admin.token");
            }
            signed_in => {
                record(ctx, "coordinator", &process, false)?;
                return Ok((process.url, signed_in?));
            }
        }
    }
    if let Some(old) = &state.coordinator {
        Process::stop(&[old]).await;
    }
    let dir = ground.data.join("coordinator");
    if state.coordinator.is_some() && !dir.join("catalog.db").exists() {
        // A new pool in its place would be none that the nodes belong to, and would stand in the way of a restore.
        let lost = Failure::other(format!("{} is lost, and with it the names and keys of all files", dir.display()));
        return Err(lost.hint(format!("bytenoded restore BACKUP --data {}", dir.display())));
    }
    let launched = ground.coordinator(state.coordinator.as_ref().map(|process| process.url.as_str())).await?;
    let process = launched.process.clone();
    let mut kept = None;
    if let Some(before) = state.coordinator.as_ref().filter(|before| before.url != process.url) {
        // Who listens where it was must not be given the token, also by a command that asks before this one has ended.
        Credentials::update(&ctx.profile.dirs.state, |credentials| {
            kept = credentials.leave(&ctx.profile.name, &before.url);
        })?;
    }
    state.coordinator = Some(process.clone());
    state.save(&ctx.profile)?;
    if let Some(token) = kept {
        let at = &process.url;
        Credentials::update(&ctx.profile.dirs.state, |credentials| credentials.sign_in(&ctx.profile.name, at, token))?;
    }
    launched.release("coordinator")?;
    record(ctx, "coordinator", &process, true)?;
    let session = sign_in(ctx, ground, &process.url).await?;
    Ok((process.url, session))
}

/// Signs this user in whenever the credential is missing or no longer good.
async fn sign_in(ctx: &Ctx, ground: &Ground, url: &str) -> Outcome<Arc<dyn Session>> {
    let state = &ctx.profile.dirs.state;
    let credentials = Credentials::load(state)?;
    if let Some(token) = credentials.token(url) {
        let session = session::connect(url, token.expose())?;
        match session.whoami().await {
            Ok(_) => {
                if credentials.profiles.get(&ctx.profile.name).is_none_or(|known| known != url) {
                    let token = Secret::new(token.expose());
                    Credentials::update(state, |credentials| credentials.sign_in(&ctx.profile.name, url, token))?;
                }
                return Ok(session);
            }
            Err(error) if error.code == Code::NotSignedIn => {}
            Err(error) => return Err(error.into()),
        }
    }
    // A token of one's own, so that signing out does not revoke the one in the data directory.
    let admin = session::connect(url, ground.admin_token()?.expose())?;
    let token = admin.create_token("bytenode up").await?.token;
    let session = session::connect(url, token.expose())?;
    let token = Secret::new(token.expose());
    Credentials::update(state, |credentials| credentials.sign_in(&ctx.profile.name, url, token))?;
    Ok(session)
}

/// Forgets nodes that the pool no longer has: they have joined it once, and cannot do so again.
async fn forget_removed(ctx: &Ctx, session: &Arc<dyn Session>, state: &mut State) -> Outcome<()> {
    if state.nodes.iter().all(|node| node.joined.is_none()) {
        return Ok(());
    }
    let known = session.nodes().await?;
    let (kept, gone): (Vec<Node>, Vec<Node>) = std::mem::take(&mut state.nodes)
        .into_iter()
        .partition(|node| node.joined.is_none() || known.iter().any(|known| known.name == node.name));
    state.nodes = kept;
    for node in gone {
        if let Some(process) = &node.process {
            Process::stop(&[process]).await;
        }
        let dir = state.data.join("nodes").join(&node.name);
        ctx.ui.note(&format!(
            "note: {} was removed from the pool; what it kept is still in {}.",
            node.name,
            shown(&dir)
        ));
    }
    state.save(&ctx.profile)
}

/// Adds nodes that are wanted and not there, under names that no node here ever had.
fn grow(ctx: &Ctx, ground: &Ground, wanted: Option<u32>, first: bool, state: &mut State) {
    let there = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
    let wanted = wanted.unwrap_or(if first { NODES } else { there });
    if wanted < there {
        ctx.ui.note(&format!(
            "note: there are {} already; nodes are not removed by asking for fewer (bytenode admin node remove NAME).",
            plural(u64::from(there), "node")
        ));
    }
    let taken: Vec<String> = state.nodes.iter().map(|node| node.name.clone()).collect();
    let free = (1..).map(|number: u32| format!("n{number}"));
    let free = free.filter(|name| !taken.contains(name) && !ground.data.join("nodes").join(name).exists());
    let new = free.take(wanted.saturating_sub(there) as usize);
    state.nodes.extend(new.map(|name| Node { name, process: None, joined: None }));
}

/// Starts the nodes that do not run, or run another version; says which.
async fn nodes(ctx: &Ctx, ground: &Ground, state: &mut State) -> Outcome<Vec<bool>> {
    let mut started = Vec::new();
    for index in 0..state.nodes.len() {
        let node = &state.nodes[index];
        let current = |process: &&Process| process.runs() && process.version == env!("CARGO_PKG_VERSION");
        if node.process.as_ref().filter(current).is_some() {
            started.push(false);
            continue;
        }
        if let Some(old) = node.process.clone() {
            Process::stop(&[&old]).await;
        }
        let before = node.process.as_ref().map(|process| process.url.as_str());
        let launched = ground.node(&node.name, before).await?;
        state.nodes[index].process = Some(launched.process.clone());
        state.save(&ctx.profile)?;
        launched.release(&state.nodes[index].name)?;
        started.push(true);
    }
    Ok(started)
}

/// Has every node join that the coordinator does not know, or knows under another address.
async fn join(ctx: &Ctx, ground: &Ground, session: &Arc<dyn Session>, state: &mut State) -> Outcome<()> {
    if state.nodes.is_empty() {
        return Ok(());
    }
    let known = session.nodes().await?;
    for index in 0..state.nodes.len() {
        let node = &state.nodes[index];
        let Some(url) = node.process.as_ref().map(|process| process.url.clone()) else { continue };
        let same = |url: &str, other: &str| url.trim_end_matches('/') == other.trim_end_matches('/');
        let there = known.iter().find(|known| known.name == node.name);
        if there.is_none_or(|known| !same(&known.url, &url)) {
            let name = node.name.clone();
            ground.join(session, &name, &url).await?;
        }
        state.nodes[index].joined = Some(url);
        state.save(&ctx.profile)?;
    }
    Ok(())
}
