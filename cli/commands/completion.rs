//! `completion`: a script for the shell.

use clap_complete::Shell;

use crate::args::{command, examples, exits};
use crate::commands::no_json;
use crate::error::{Exit, Outcome};
use crate::ui::Ui;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode completion bash > ~/.local/share/bash-completion/completions/bytenode"]),
    after_help = exits(&[]),
)]
pub struct Args {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs it.
pub fn run(ui: &Ui, args: &Args) -> Outcome<Exit> {
    no_json(ui, "completion")?;
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "bytenode", &mut script);
    ui.raw(&script)?;
    Ok(Exit::Done)
}
