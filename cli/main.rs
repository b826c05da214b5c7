//! `bytenode`: the command line.

use std::process::ExitCode;

mod args;
mod commands;
mod credentials;
#[path = "../daemon/run.rs"]
mod daemon_run;
mod error;
mod pool;
mod profile;
mod program;
mod session;
mod signals;
mod ui;
mod unfinished;

fn main() -> ExitCode {
    #[cfg(debug_assertions)]
    if let Ok(at) = std::env::var("BYTENODE_FAILPOINT") {
        bytenode::failpoint::arm(&at);
    }
    args::choose_color();
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return args::refuse(&error),
    };
    let command = match cli.command.into_daemon() {
        Ok((role, tie)) => return daemon(role, tie),
        Err(command) => command,
    };
    let ui = std::sync::Arc::new(ui::Ui::new(&cli.global));
    let outcome = commands::run(*command, &cli.global, &ui);
    ui::end(outcome.unwrap_or_else(|failure| {
        ui.failure(&failure);
        failure.exit
    }))
}

fn daemon(role: daemon_run::Role, tie: daemon_run::Tie) -> ExitCode {
    match daemon_run::run(role, tie) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // This is the last line of a log file.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
