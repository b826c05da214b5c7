//! `admin node`: the storage servers of the pool.

mod leave;
mod set;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytenode::admin::{Access, CheckResult, Gc, NodeAdd, NodeCheck, NodeInfo, NodeReport, NodeState, Session};
use bytenode::api::{Code, NodeKind};
use bytenode::id::NodeId;
use bytenode::node::GrantToken;
use clap::{Subcommand, ValueEnum};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::credentials::read_private;
use crate::error::{Exit, Failure, Outcome, Tally};
use crate::ui::table::{Align, lay_out};
use crate::ui::text::{count, escaped, nearest, plural, size};
use crate::ui::{Stream, columns};

/// Add, show, test, change, empty and remove nodes
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    Add(Box<AddArgs>),
    Ls(LsArgs),
    Test(TestArgs),
    Set(Box<set::Args>),
    Drain(leave::DrainArgs),
    Remove(leave::RemoveArgs),
    Events(set::EventsArgs),
}

/// Test a node wholly, and add it if it passes
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode admin node add                                the Kubo of this machine",
        "bytenode admin node add http://10.0.0.5:5001 --insecure-http --token-file secret",
        "bytenode admin node add https://nas.example:5001 --name nas --capacity 500G",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::Exists, Exit::Temporary, Exit::Problems]),
)]
pub struct AddArgs {
    /// http(s)://, host:port or a multiaddr (default: what $IPFS_PATH/api or ~/.ipfs/api names)
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// What people call it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What it shares its fate with (default: its machine)
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// How much it may be filled with, like 500G (default: what it has free)
    #[arg(long, value_name = "SIZE", value_parser = bytenode::size::parse)]
    capacity: Option<u64>,
    /// Read the node's secret from this file: Kubo's AuthSecret form (bearer:... or basic:...), or a join code
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The same for clients, if they get a lesser one
    #[arg(long, value_name = "FILE")]
    client_token_file: Option<PathBuf>,
    /// Kubo's gateway, if it is not where its configuration says
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
    /// How clients reach it
    #[arg(long, value_enum, value_name = "HOW")]
    access: Option<AccessArg>,
    /// Who collects garbage on it
    #[arg(long, value_enum, value_name = "WHO")]
    gc: Option<GcArg>,
    /// Allow plain HTTP to another machine
    #[arg(long)]
    insecure_http: bool,
    /// Only test it
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// [`Access`] as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AccessArg {
    /// Straight to the node
    Direct,
    /// Through the coordinator
    Relay,
}

/// [`Gc`] as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum GcArg {
    /// Its owner does
    Owner,
    /// ByteNode does: the node serves this pool alone
    Bytenode,
}

impl From<AccessArg> for Access {
    fn from(access: AccessArg) -> Self {
        match access {
            AccessArg::Direct => Self::Direct,
            AccessArg::Relay => Self::Relay,
        }
    }
}

impl From<GcArg> for Gc {
    fn from(gc: GcArg) -> Self {
        match gc {
            GcArg::Owner => Self::Owner,
            GcArg::Bytenode => Self::Bytenode,
        }
    }
}

/// Show the nodes
#[derive(Debug, clap::Args)]
#[command(before_help = examples(&["bytenode admin node ls"]), after_help = exits(&[Exit::NotAllowed, Exit::Temporary]))]
pub struct LsArgs {}

/// Test a node wholly: reach, write, read back, drop
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin node test nas", "bytenode admin node test --all"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Temporary, Exit::Problems]),
)]
pub struct TestArgs {
    /// Which one
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// Every one
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct NodeRecord<'a> {
    #[serde(rename = "type")]
    line: &'static str,
    name: &'a str,
    id: &'a NodeId,
    url: &'a str,
    kind: NodeKind,
    zone: &'a str,
    state: NodeState,
    used_bytes: u64,
    reclaimable_bytes: Option<u64>,
    capacity_bytes: u64,
    chunks: u64,
    load: f64,
}

#[derive(Serialize)]
struct CheckRecord<'a> {
    #[serde(rename = "type")]
    line: &'static str,
    node: &'a str,
    #[serde(flatten)]
    check: &'a NodeCheck,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    line: &'static str,
    nodes: u64,
    failed: u64,
    dry_run: bool,
}

/// Runs one.
pub async fn run(ctx: &Ctx, command: &Command) -> Outcome<Exit> {
    let session = ctx.session()?;
    match command {
        Command::Add(args) => add(ctx, &session, args).await,
        Command::Ls(_) => list(ctx, &session).await,
        Command::Test(args) => test(ctx, &session, args).await,
        Command::Set(args) => set::run(ctx, &session, args).await,
        Command::Drain(args) => leave::drain(ctx, &session, args).await,
        Command::Remove(args) => leave::remove(ctx, &session, args).await,
        Command::Events(args) => set::events(ctx, &session, args).await,
    }
}

async fn add(ctx: &Ctx, session: &Arc<dyn Session>, args: &AddArgs) -> Outcome<Exit> {
    let (url, gateway) = match &args.url {
        Some(url) => (url.clone(), args.gateway.clone()),
        None => local_kubo().map(|(url, found)| (url, args.gateway.clone().or(found)))?,
    };
    let request = NodeAdd {
        url: url.clone(),
        name: args.name.clone(),
        zone: args.zone.clone(),
        capacity_bytes: args.capacity,
        token: secret(args.token_file.as_deref())?,
        client_token: secret(args.client_token_file.as_deref())?,
        gateway,
        access: args.access.map(Access::from),
        gc: args.gc.map(Gc::from),
        insecure_http: args.insecure_http,
        dry_run: args.dry_run,
    };
    let report = session.node_add(&request).await?;
    let shown = report.node.as_ref().map_or(url.as_str(), |node| node.name.as_str()).to_owned();
    checks(ctx, &shown, &report)?;
    let summary = |nodes, failed| SummaryRecord { line: "summary", nodes, failed, dry_run: args.dry_run };
    let Some(node) = &report.node else {
        let failed = report.checks.iter().any(|check| check.result == CheckResult::Failed);
        if args.dry_run && !failed {
            ctx.ui.note("Would add it, if it then passes the rest of its test.");
            ctx.ui.record(&summary(1, 0))?;
            return Ok(Exit::Done);
        }
        ctx.ui.note("The node was not added.");
        ctx.ui.record(&summary(0, 1))?;
        return Ok(Exit::Problems);
    };
    let verb = match (args.dry_run, report.known) {
        (true, false) => "Would add",
        (false, false) => "Added",
        (_, true) => "Already in the pool:",
    };
    let room = size(node.capacity_bytes);
    ctx.ui.note(&format!("{verb} {} with room for {room}, zone {}.", escaped(&node.name), escaped(&node.zone)));
    record(ctx, node)?;
    ctx.ui.record(&summary(1, 0))?;
    Ok(Exit::Done)
}

/// The addresses that the Kubo of this machine has written down: of its RPC port, and of its gateway if it has one.
fn local_kubo() -> Outcome<(String, Option<String>)> {
    let home = std::env::var_os("IPFS_PATH")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .or_else(|| dirs::home_dir().map(|home| home.join(".ipfs")))
        .ok_or_else(|| Failure::usage("no URL given, and there is no home directory to look for a Kubo in"))?;
    let path = home.join("api");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let gateway = std::fs::read_to_string(home.join("gateway")).ok();
            Ok((text.trim().to_owned(), gateway.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())))
        }
        Err(error) => Err(Failure::io(format!("no URL given, and {} cannot be read", path.display()), &error)
            .hint("start Kubo (ipfs daemon), or name an address: bytenode admin node add http://127.0.0.1:5001")),
    }
}

fn secret(path: Option<&Path>) -> Outcome<Option<GrantToken>> {
    path.map(read_secret).transpose()
}

/// Reads a secret; a file that others could read is refused.
fn read_secret(path: &Path) -> Outcome<GrantToken> {
    let text = read_private(path).map_err(|error| {
        let failure = Failure::io(format!("{} cannot be used", path.display()), &error);
        if error.kind() == std::io::ErrorKind::PermissionDenied {
            return failure.hint(format!("chmod 600 {}", path.display()));
        }
        failure
    })?;
    let secret = text.trim();
    if secret.is_empty() {
        return Err(Failure::usage(format!("{} is empty", path.display())));
    }
    Ok(GrantToken::new(secret.to_owned()))
}

async fn list(ctx: &Ctx, session: &Arc<dyn Session>) -> Outcome<Exit> {
    let nodes = session.nodes().await?;
    for node in &nodes {
        record(ctx, node)?;
    }
    match nodes.len() {
        0 => ctx.ui.note("There are no nodes yet. Add one: bytenode admin node add URL"),
        _ => ctx.ui.data(node_table(&nodes, Detail::Full).trim_end())?,
    }
    ctx.ui.record(&SummaryRecord { line: "summary", nodes: nodes.len() as u64, failed: 0, dry_run: false })?;
    Ok(Exit::Done)
}

async fn test(ctx: &Ctx, session: &Arc<dyn Session>, args: &TestArgs) -> Outcome<Exit> {
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => session.nodes().await?.into_iter().map(|node| node.name).collect(),
    };
    let mut tally = Tally::default();
    for name in &names {
        let report = match session.node_test(name).await {
            Ok(report) => report,
            Err(error) if error.code == Code::NotFound => return Err(unknown(session, name).await),
            Err(error) => return Err(error.into()),
        };
        checks(ctx, name, &report)?;
        if report.checks.iter().any(|check| check.result == CheckResult::Failed) {
            tally.bad(Exit::Problems);
        } else {
            tally.good();
        }
    }
    let (nodes, failed) = (names.len() as u64, tally.failed());
    ctx.ui.note(&format!("{} tested, {} failed.", plural(nodes, "node"), count(failed)));
    ctx.ui.record(&SummaryRecord { line: "summary", nodes, failed, dry_run: false })?;
    Ok(if failed > 0 { Exit::Problems } else { Exit::Done })
}

/// Says that there is no such node, and which was probably meant.
async fn unknown(session: &Arc<dyn Session>, name: &str) -> Failure {
    let failure = Failure::new(Code::NotFound, format!("there is no node {name}"));
    let Ok(nodes) = session.nodes().await else { return failure };
    match nearest(name, nodes.iter().map(|node| node.name.as_str())) {
        Some(near) => failure.hint(format!("did you mean {near}?")),
        None => failure.hint("bytenode admin node ls"),
    }
}

/// Prints the steps of a test.
pub fn checks(ctx: &Ctx, node: &str, report: &NodeReport) -> Outcome<()> {
    for check in &report.checks {
        ctx.ui.record(&CheckRecord { line: "check", node, check })?;
        let mark = match check.result {
            CheckResult::Ok => "ok  ",
            CheckResult::Risk => "risk",
            CheckResult::Failed => "FAIL",
        };
        ctx.ui.data(&format!("{mark}  {}  {}: {}", escaped(node), escaped(&check.check), escaped(&check.message)))?;
        if let Some(hint) = &check.hint {
            ctx.ui.data(&format!("      {}", escaped(hint)))?;
        }
    }
    Ok(())
}

/// The JSON line of a node.
pub fn record(ctx: &Ctx, node: &NodeInfo) -> Outcome<()> {
    ctx.ui.record(&NodeRecord {
        line: "node",
        name: &node.name,
        id: &node.id,
        url: &node.url,
        kind: node.kind,
        zone: &node.zone,
        state: node.state,
        used_bytes: node.used_bytes,
        reclaimable_bytes: node.reclaimable_bytes,
        capacity_bytes: node.capacity_bytes,
        chunks: node.chunks,
        load: f64::from(node.load_permille) / 1000.0,
    })
}

/// How much of a node is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// How it is and how full.
    Brief,
    /// Its zone and address too, as far as the terminal is wide enough.
    Full,
}

/// Fewer bytes than this on a whole node are not worth a column: nodes keep books too.
const NOTICEABLE: u64 = 1 << 20;

/// The nodes as a table. Bytes that wait for a node's owner to collect them are shown where there are any.
pub fn node_table(nodes: &[NodeInfo], detail: Detail) -> String {
    let mut hidden = Vec::new();
    if !nodes.iter().any(|node| node.reclaimable_bytes.is_some_and(|bytes| bytes >= NOTICEABLE)) {
        hidden.push("RECLAIMABLE");
    }
    if detail == Detail::Brief {
        hidden.extend(["ZONE", "URL"]);
    }
    let widest = columns(Stream::Out).unwrap_or(usize::MAX);
    let mut table = columns_without(nodes, &hidden);
    for next in ["URL", "ZONE", "KIND"] {
        if table.lines().all(|line| line.width() <= widest) {
            break;
        }
        hidden.push(next);
        table = columns_without(nodes, &hidden);
    }
    table
}

fn columns_without(nodes: &[NodeInfo], hidden: &[&str]) -> String {
    use Align::{Left, Right};
    const COLUMNS: [(&str, Align); 10] = [
        ("NODE", Left),
        ("STATE", Left),
        ("KIND", Left),
        ("USED", Right),
        ("OF", Right),
        ("", Right),
        ("RECLAIMABLE", Right),
        ("CHUNKS", Right),
        ("ZONE", Left),
        ("URL", Left),
    ];
    let shown = |index: &usize| !hidden.contains(&COLUMNS[*index].0);
    let keep = |cells: [String; 10]| {
        cells.into_iter().enumerate().filter(|(index, _)| shown(index)).map(|(_, cell)| cell).collect::<Vec<_>>()
    };
    let mut rows = vec![keep(COLUMNS.map(|(head, _)| head.to_owned()))];
    rows.extend(nodes.iter().map(|node| keep(cells(node))));
    let align: Vec<Align> =
        COLUMNS.iter().enumerate().filter(|(index, _)| shown(index)).map(|(_, (_, align))| *align).collect();
    lay_out(&rows, &align)
}

fn cells(node: &NodeInfo) -> [String; 10] {
    let state = match node.state {
        NodeState::Online => "online",
        NodeState::Suspect => "suspect",
        NodeState::Offline => "offline",
        NodeState::Draining => "draining",
        NodeState::Full => "full",
    };
    let kind = match node.kind {
        NodeKind::Kubo => "kubo",
        NodeKind::Builtin => "builtin",
        NodeKind::S3 => "s3",
        NodeKind::Memory => "memory",
    };
    // A zone may be a machine's digest, of which the beginning says enough.
    let zone: String = node.zone.chars().take(16).collect();
    [
        escaped(&node.name).into_owned(),
        state.into(),
        kind.into(),
        size(node.used_bytes),
        size(node.capacity_bytes),
        format!("{}%", node.load_permille / 10),
        node.reclaimable_bytes.map_or_else(|| "?".into(), size),
        count(node.chunks),
        escaped(&zone).into_owned(),
        escaped(&node.url).into_owned(),
    ]
}
