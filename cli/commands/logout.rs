//! `logout`: revoke the token and forget it.

use bytenode::api::Code;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::credentials::Credentials;
use crate::error::{Exit, Failure, Outcome};
use crate::session;

/// Revoke your token and forget it
#[derive(Debug, clap::Args)]
#[command(before_help = examples(&["bytenode logout"]), after_help = exits(&[Exit::NotAllowed, Exit::Temporary]))]
pub struct Args {}

#[derive(Serialize)]
struct SummaryRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    url: &'a str,
}

/// Runs it.
pub async fn run(ctx: &Ctx, _args: &Args) -> Outcome<Exit> {
    let state = &ctx.profile.dirs.state;
    let credentials = Credentials::load(state)?;
    let url = ctx.url(&credentials);
    let Some((url, token)) = url.and_then(|url| Some((url.clone(), credentials.token(&url)?))) else {
        return Err(Failure::new(Code::NotSignedIn, "not signed in"));
    };
    ctx.check_ours(&url)?;
    match session::connect(&url, token.expose())?.revoke_own_token().await {
        // A token that is not valid any more need not be revoked.
        Ok(()) => {}
        Err(error) if error.code == Code::NotSignedIn => {}
        Err(error) => return Err(error.into()),
    }
    Credentials::update(state, |credentials| credentials.sign_out(&url))?;
    ctx.ui.note(&format!("Signed out of {url}; the token is revoked."));
    ctx.ui.record(&SummaryRecord { kind: "summary", url: &url })?;
    Ok(Exit::Done)
}
