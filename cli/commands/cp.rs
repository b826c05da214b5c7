//! `cp`: copy within the pool.

use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::commands::mv::{Transfer, transfer};
use crate::error::{Exit, Outcome};

/// Copy a file or directory within the pool; no bytes move, and it never replaces
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode cp bn:/photos bn:/photos-before"]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary]),
)]
pub struct Args {
    /// What to copy
    #[arg(value_name = "bn:/A")]
    from: String,
    /// Where it goes
    #[arg(value_name = "bn:/B")]
    to: String,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    transfer(ctx, &args.from, &args.to, Transfer::Copy).await
}
