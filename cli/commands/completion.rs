//! `completion`: a script for the shell, and what it asks of us for remote paths.

use std::time::Duration;

use bytenode::api::{Kind, ListRequest};
use clap_complete::Shell;

use crate::args::{command, examples, exits};
use crate::commands::{Ctx, PAGE, no_json, typed};
use crate::error::{Exit, Outcome};
use crate::ui::Ui;

/// How long somebody who has pressed a key is kept waiting.
const PATIENCE: Duration = Duration::from_secs(1);

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

/// A remote path of which the beginning is typed.
#[derive(Debug, clap::Args)]
pub struct Word {
    word: String,
}

/// Runs it.
pub fn run(ui: &Ui, args: &Args) -> Outcome<Exit> {
    no_json(ui, "completion")?;
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "bytenode", &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    match args.shell {
        Shell::Bash => script.push_str(include_str!("completion/remote.bash")),
        Shell::Zsh => {
            // The end of it completes, or says what does; ours does both for it.
            script.truncate(script.rfind("\nif [ \"$funcstack[1]\"").unwrap_or(script.len()));
            script.push_str(include_str!("completion/remote.zsh"));
        }
        Shell::Fish => script.push_str(include_str!("completion/remote.fish")),
        _ => {}
    }
    ui.raw(script.as_bytes())?;
    Ok(Exit::Done)
}

/// Prints the remote paths that begin so, one a line; directories end in a slash. What cannot be had in time, or at all, is
/// left out without a word, since whoever types has not asked for anything yet.
pub async fn complete(ctx: &Ctx, word: &Word) -> Outcome<Exit> {
    // A failure says that there is nothing to be had.
    let _ = tokio::time::timeout(PATIENCE, candidates(ctx, &word.word)).await;
    Ok(Exit::Done)
}

async fn candidates(ctx: &Ctx, word: &str) -> Outcome<()> {
    let Some((dir, begun)) = word.rsplit_once('/') else { return ctx.ui.data("bn:/") };
    let path = typed(&format!("{dir}/"))?.path;
    let session = ctx.session()?;
    let mut request = ListRequest { path, recursive: false, cursor: None, limit: PAGE };
    loop {
        let page = session.list(&request).await?;
        for entry in &page.items {
            let name = entry.path.name().unwrap_or_default();
            // One that would be many lines, or do things to the terminal, is to be typed by those who made it.
            if name.starts_with(begun) && !name.contains(char::is_control) {
                ctx.ui.data(&format!("{dir}/{name}{}", if entry.kind == Kind::Dir { "/" } else { "" }))?;
            }
        }
        request.cursor = page.next_cursor;
        if request.cursor.is_none() {
            return Ok(());
        }
    }
}
