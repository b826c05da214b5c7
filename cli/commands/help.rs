//! `help`: topics, and the help of any command.

use crate::args::{command, examples, exits};
use crate::error::{Exit, Failure, Outcome};
use crate::ui::Ui;
use crate::ui::text::nearest;

/// Explain a topic (json, exit-codes, environment, paths) or a command
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&["bytenode help paths", "bytenode help admin node add"]),
    after_help = exits(&[]),
)]
pub struct Args {
    /// What to explain
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
}

/// The topics.
const TOPICS: [(&str, &str); 4] = [
    ("environment", include_str!("help/environment.txt")),
    ("exit-codes", ""),
    ("json", include_str!("help/json.txt")),
    ("paths", include_str!("help/paths.txt")),
];

/// Runs it.
pub fn run(ui: &Ui, args: &Args) -> Outcome<Exit> {
    let words: Vec<&str> = args.topic.iter().map(String::as_str).collect();
    let text = match words.as_slice() {
        ["exit-codes"] => exit_codes(),
        [topic] if TOPICS.iter().any(|(name, _)| name == topic) => {
            TOPICS.iter().find(|(name, _)| name == topic).map(|(_, text)| (*text).to_owned()).unwrap_or_default()
        }
        words => command_help(words)?,
    };
    ui.raw(text.as_bytes())?;
    Ok(Exit::Done)
}

fn command_help(words: &[&str]) -> Outcome<String> {
    let mut at = command();
    // Fills in full names like `bytenode admin node`.
    at.build();
    for word in words {
        let Some(next) = at.find_subcommand(word).filter(|next| !next.is_hide_set()) else {
            let names: Vec<String> =
                at.get_subcommands().filter(|one| !one.is_hide_set()).map(|one| one.get_name().to_owned()).collect();
            let all = names.iter().map(String::as_str).chain(TOPICS.map(|(name, _)| name));
            let failure = Failure::usage(format!("there is no command or topic {word:?}"));
            return Err(match nearest(word, all) {
                Some(near) => failure.hint(format!("did you mean {near}?")),
                None => failure.hint("bytenode --help"),
            });
        };
        at = next.clone();
    }
    Ok(at.render_help().to_string())
}

fn exit_codes() -> String {
    let mut text = String::from("Exit codes\n\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {:<3}  {}\n", exit.number(), exit.meaning()));
    }
    text.push_str(
        "\nOne operand that fails gives its own code. Several: 3 when some succeeded and\n\
         some failed; if all failed, their common code, else 1. 8 wins over these; 10\n\
         only when nothing failed. Skipped links, special files and unchanged files are\n\
         no failures, nor is a bad copy that another one stood in for.\n",
    );
    text
}
