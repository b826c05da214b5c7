//! `whoami`: who one is, and where the token is kept.

use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::credentials::{self, Credentials};
use crate::error::{Exit, Outcome};
use crate::profile::variable;
use crate::ui::text::escaped;

/// Show who you are, and where your token is kept
#[derive(Debug, clap::Args)]
#[command(before_help = examples(&["bytenode whoami"]), after_help = exits(&[Exit::NotAllowed, Exit::Temporary]))]
pub struct Args {}

#[derive(Serialize)]
struct Record<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    user: &'a str,
    role: bytenode::admin::Role,
    token: &'a str,
    url: Option<&'a str>,
    pool: String,
    version: &'a str,
    kept_in: &'a str,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
}

/// Runs it.
pub async fn run(ctx: &Ctx, _args: &Args) -> Outcome<Exit> {
    let me = ctx.session()?.whoami().await?;
    let state = &ctx.profile.dirs.state;
    let from_environment = variable("BYTENODE_TOKEN")?.is_some();
    let url = match (&ctx.profile.url, from_environment) {
        (Some(url), true) => Some(url.clone()),
        _ => ctx.url(&Credentials::load(state)?),
    };
    let kept_in =
        if from_environment { "BYTENODE_TOKEN".to_owned() } else { credentials::path(state).display().to_string() };
    let role = match me.role {
        bytenode::admin::Role::Admin => "admin",
        bytenode::admin::Role::User => "user",
    };
    ctx.ui.data(&format!("{} ({role}) at {}", escaped(&me.user), url.as_deref().unwrap_or("?")))?;
    ctx.ui.data(&format!("token {} from {kept_in}", escaped(&me.token)))?;
    ctx.ui.data(&format!("pool {}, coordinator {}", me.pool, escaped(&me.version)))?;
    ctx.ui.record(&Record {
        kind: "user",
        user: &me.user,
        role: me.role,
        token: &me.token,
        url: url.as_deref(),
        pool: me.pool.to_string(),
        version: &me.version,
        kept_in: &kept_in,
    })?;
    ctx.ui.record(&SummaryRecord { kind: "summary" })?;
    Ok(Exit::Done)
}
