//! `admin node set` and `events`: what the pool knows of a node, and what happened to it.

use std::path::PathBuf;
use std::sync::Arc;

use bytenode::admin::{NodeSet, Session};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::leave::named;
use super::{AccessArg, GcArg, SummaryRecord, checks, record, secret};
use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::error::{Exit, Failure, Outcome};
use crate::ui::text::{escaped, local_time, size};

/// Change what the pool knows of a node; its data stays where it is
///
/// At another address or with another secret it is tested first, and must be the same node.
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode admin node set nas --zone attic --capacity 2T",
        "bytenode admin node set nas --name cellar",
        "bytenode admin node set nas --url http://10.0.0.9:5001 --insecure-http",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary, Exit::Problems]),
)]
pub struct Args {
    /// Which one
    #[arg(value_name = "NODE")]
    node: String,
    /// What people call it from now on
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What it shares its fate with
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// How much it may be filled with, like 500G
    #[arg(long, value_name = "SIZE", value_parser = bytenode::size::parse)]
    capacity: Option<u64>,
    /// Its share of what is stored, in percent of what its capacity alone would give it
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: Option<u32>,
    /// Where it is reached now
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Kubo's gateway, if it is not where its configuration says
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
    /// Read its new secret from this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The same for clients
    #[arg(long, value_name = "FILE")]
    client_token_file: Option<PathBuf>,
    /// How clients reach it
    #[arg(long, value_enum, value_name = "HOW")]
    access: Option<AccessArg>,
    /// Who collects garbage on it
    #[arg(long, value_enum, value_name = "WHO")]
    gc: Option<GcArg>,
    /// Allow plain HTTP to another machine
    #[arg(long)]
    insecure_http: bool,
    /// Change nothing; test, and say what would change
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Show what happened to a node
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode admin node events nas"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Temporary]),
)]
pub struct EventsArgs {
    /// Which one
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Serialize)]
struct EventRecord<'a> {
    #[serde(rename = "type")]
    line: &'static str,
    node: &'a str,
    at: Timestamp,
    text: &'a str,
}

/// Changes a node.
pub async fn run(ctx: &Ctx, session: &Arc<dyn Session>, args: &Args) -> Outcome<Exit> {
    let change = NodeSet {
        name: args.name.clone(),
        zone: args.zone.clone(),
        capacity_bytes: args.capacity,
        weight: args.weight,
        url: args.url.clone(),
        gateway: args.gateway.clone(),
        token: secret(args.token_file.as_deref())?,
        client_token: secret(args.client_token_file.as_deref())?,
        access: args.access.map(Into::into),
        gc: args.gc.map(Into::into),
        insecure_http: args.insecure_http,
        draining: None,
        dry_run: args.dry_run,
    };
    if (NodeSet { insecure_http: false, dry_run: false, ..change.clone() }) == NodeSet::default() {
        return Err(Failure::usage("nothing was said to change").hint("bytenode admin node set --help"));
    }
    let report = named(session, &args.node, session.node_set(&args.node, &change).await).await?;
    checks(ctx, &args.node, &report)?;
    let summary = |failed| SummaryRecord { line: "summary", nodes: 1, failed, dry_run: args.dry_run };
    let Some(node) = &report.node else {
        ctx.ui.note("Nothing was changed.");
        ctx.ui.record(&summary(1))?;
        return Ok(Exit::Problems);
    };
    record(ctx, node)?;
    let verb = if args.dry_run { "Would be" } else { "Changed:" };
    let (name, room, zone) = (escaped(&node.name), size(node.capacity_bytes), escaped(&node.zone));
    ctx.ui.note(&format!("{verb} {name} with room for {room}, zone {zone}, at {}.", escaped(&node.url)));
    ctx.ui.record(&summary(0))?;
    Ok(Exit::Done)
}

/// Shows what happened to a node.
pub async fn events(ctx: &Ctx, session: &Arc<dyn Session>, args: &EventsArgs) -> Outcome<Exit> {
    let events = named(session, &args.name, session.node_events(&args.name).await).await?;
    let zone = TimeZone::system();
    for event in &events {
        ctx.ui.record(&EventRecord { line: "event", node: &args.name, at: event.at, text: &event.text })?;
        ctx.ui.data(&format!("{}  {}", local_time(event.at, &zone), escaped(&event.text)))?;
    }
    if events.is_empty() {
        ctx.ui.note(&format!("Nothing has happened to {} yet.", escaped(&args.name)));
    }
    ctx.ui.record(&SummaryRecord { line: "summary", nodes: 1, failed: 0, dry_run: false })?;
    Ok(Exit::Done)
}
