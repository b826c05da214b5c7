//! `login`: keep a token for a coordinator, once it has said whose it is.

use std::io::{IsTerminal, Read};

use bytenode::api::Code;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::credentials::{Credentials, Secret};
use crate::error::{Exit, Failure, Outcome};
use crate::pool::state::{State, lock};
use crate::profile::normal_url;
use crate::session;
use crate::ui::text::escaped;

/// The longest token that is read.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Sign in to a coordinator
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode login                                  asks for the token, without echo",
        "bytenode login http://127.0.0.1:7420 --with-token < DATA/admin.token",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::Temporary]),
)]
pub struct Args {
    /// The coordinator (default: the one this profile used last)
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Read the token from standard input
    #[arg(long)]
    with_token: bool,
}

#[derive(Serialize)]
struct SummaryRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    url: &'a str,
    user: &'a str,
    role: bytenode::admin::Role,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let state = &ctx.profile.dirs.state;
    let known = || Outcome::Ok(ctx.url(&Credentials::load(state)?));
    let before = known()?;
    let url = args.url.clone().or_else(|| before.clone()).unwrap_or_else(|| "http://127.0.0.1:7420".into());
    let url = normal_url(&url)?;
    if args.url.is_none() {
        ctx.check_ours(&url)?;
    }
    let given = read_token(ctx, args.with_token, &url)?;
    // It may have ended while the token was typed, and be elsewhere.
    if args.url.is_none() {
        ctx.check_ours(&url)?;
        if known()? != before {
            return Err(Failure::new(Code::Changed, format!("the coordinator is no longer at {url}"))
                .hint("run the same command again"));
        }
    }
    let session = session::connect(&url, given.expose())?;
    let me = session.whoami().await?;
    // A token of its own, so that logging out revokes nothing that others may need, the first admin's least of all.
    let token = Secret::new(session.create_token("bytenode login").await?.token.expose());
    forget_ended(ctx, &url).await?;
    Credentials::update(state, |credentials| credentials.sign_in(&ctx.profile.name, &url, token))?;
    ctx.ui.note(&format!("Signed in to {url} as {}.", escaped(&me.user)));
    ctx.ui.record(&SummaryRecord { kind: "summary", url: &url, user: &me.user, role: me.role })?;
    Ok(Exit::Done)
}

/// Whoever signs in where `up` had its coordinator, which has ended, means the one that is there now.
async fn forget_ended(ctx: &Ctx, url: &str) -> Outcome<()> {
    if ctx.check_ours(url).is_ok() {
        return Ok(());
    }
    let _lock = lock(&ctx.profile).await?;
    let Some(mut pool) = State::load(&ctx.profile)? else { return Ok(()) };
    pool.coordinator = None;
    pool.save(&ctx.profile)
}

fn read_token(ctx: &Ctx, with_token: bool, url: &str) -> Outcome<Secret> {
    let stdin = std::io::stdin();
    let text = if stdin.is_terminal() {
        if !ctx.ui.may_ask() {
            return Err(Failure::usage("there is nobody to ask for a token").hint("bytenode login --with-token < FILE"));
        }
        rpassword::prompt_password(format!("Token for {url} (not shown): "))
            .map_err(|error| Failure::io("the token cannot be read", &error))?
    } else if with_token {
        let mut text = String::new();
        let read = stdin.lock().take(MAX_TOKEN_BYTES).read_to_string(&mut text);
        read.map_err(|error| Failure::io("the token cannot be read from standard input", &error))?;
        text
    } else {
        return Err(Failure::usage("standard input is no terminal").hint("bytenode login --with-token < FILE"));
    };
    let token = text.trim();
    if token.is_empty() || token.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Failure::usage("that is no token").hint("a token is one word and begins with bnt_"));
    }
    Ok(Secret::new(token))
}
