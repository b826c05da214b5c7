//! `admin`: for whoever runs the pool.

use clap::Subcommand;

use crate::commands::Ctx;
use crate::error::{Exit, Outcome};

pub mod adopt;
pub mod backup;
pub mod gc;
pub mod health;
pub mod node;
pub mod scrub;
pub mod task;

/// Run the pool: nodes, health, room, backups
#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    #[command(subcommand)]
    Node(node::Command),
    Health(health::Args),
    Scrub(scrub::Args),
    #[command(subcommand)]
    Task(task::Command),
    Gc(gc::Args),
    Backup(backup::Args),
    Adopt(adopt::Args),
}

/// Runs one.
pub async fn run(ctx: &Ctx, command: &Command) -> Outcome<Exit> {
    match command {
        Command::Node(command) => node::run(ctx, command).await,
        Command::Health(args) => health::run(ctx, args).await,
        Command::Scrub(args) => scrub::run(ctx, args).await,
        Command::Task(command) => task::run(ctx, command).await,
        Command::Gc(args) => gc::run(ctx, args).await,
        Command::Backup(args) => backup::run(ctx, args).await,
        Command::Adopt(args) => adopt::run(ctx, args).await,
    }
}
