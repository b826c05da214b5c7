//! The command line as typed: global options, commands, and how help looks.

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::commands;
use crate::daemon_run::{CoordinatorArgs, NodeArgs, Role, Tie};
use crate::error::{Exit, Failure};
use crate::ui::text::nearest;
use crate::ui::{Ui, end};

/// Reads a length of time as people write it.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let time = text.parse::<jiff::SignedDuration>().ok().and_then(|time| std::time::Duration::try_from(time).ok());
    time.filter(|time| !time.is_zero()).ok_or_else(|| "write 90s, 30m or 4h".to_owned())
}

/// What comes first in help: what it does, how, examples; then the options, then the exit codes.
const TEMPLATE: &str = "{about-with-newline}\n{usage-heading} {usage}\n\n{before-help}{all-args}{after-help}";

/// One private, self-healing file store from the storage nodes you already have
#[derive(Debug, Parser)]
#[command(
    name = "bytenode",
    version,
    disable_help_subcommand = true,
    infer_subcommands = false,
    arg_required_else_help = true,
    before_help = "Examples:\n  bytenode demo                 see it work: store, lose two nodes, get it back\n  bytenode up                   start a pool on this machine\n  bytenode put photos bn:/      store a directory\n  bytenode get bn:/photos .     get it back\n",
    after_help = "Remote paths begin with bn:/ as in bn:/photos/a.raw. More: bytenode help paths, json, exit-codes, environment.\nSIGUSR1 (Ctrl-T on macOS and BSD) makes a command that runs say how far it is."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Print JSON lines on standard output; the last is "summary" or "error"
    #[arg(long, global = true)]
    pub json: bool,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more; without a terminal, progress each 10 s
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = false)]
    pub color: Color,
    /// Never ask anything
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Consent to what would be asked
    #[arg(long, global = true)]
    pub yes: bool,
    /// Use another pool's settings [env: BYTENODE_PROFILE]
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// Read this user file instead
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value a process")]
pub enum Command {
    Up(commands::up::Args),
    Down(commands::down::Args),
    Demo(commands::demo::Args),
    Status(commands::status::Args),
    Login(commands::login::Args),
    Logout(commands::logout::Args),
    Whoami(commands::whoami::Args),
    Put(commands::put::Args),
    Get(commands::get::Args),
    Cat(commands::cat::Args),
    Ls(commands::ls::Args),
    Stat(commands::stat::Args),
    Check(commands::check::Args),
    Rm(commands::rm::Args),
    Mv(commands::mv::Args),
    Cp(commands::cp::Args),
    Mkdir(commands::mkdir::Args),
    #[command(subcommand)]
    Admin(commands::admin::Command),
    Doctor(commands::doctor::Args),
    Completion(commands::completion::Args),
    Man(commands::man::Args),
    Help(commands::help::Args),
    #[command(hide = true)]
    InternalComplete(commands::completion::Word),
    #[command(hide = true)]
    InternalCoordinator(Internal<CoordinatorArgs>),
    #[command(hide = true)]
    InternalNode(Internal<NodeArgs>),
}

/// What `up` and `demo` start this executable with.
#[derive(Debug, Args)]
pub struct Internal<T: Args> {
    #[command(flatten)]
    role: T,
    #[command(flatten)]
    tie: Tie,
}

impl Command {
    /// The daemon that is asked for; else the command back.
    pub fn into_daemon(self) -> Result<(Role, Tie), Box<Self>> {
        match self {
            Self::InternalCoordinator(internal) => Ok((Role::Coordinator(internal.role), internal.tie)),
            Self::InternalNode(internal) => Ok((Role::Node(internal.role), internal.tie)),
            other => Err(Box::new(other)),
        }
    }
}

impl Cli {
    /// Reads the process's arguments.
    ///
    /// # Errors
    /// Also what asks for help or the version.
    pub fn try_parse() -> Result<Self, clap::Error> {
        let matches = command().try_get_matches()?;
        Self::from_arg_matches(&matches)
    }
}

/// The whole command line, for parsing, help and completion.
pub fn command() -> clap::Command {
    let color = match anstream::ColorChoice::global() {
        anstream::ColorChoice::Never => ColorChoice::Never,
        anstream::ColorChoice::Always | anstream::ColorChoice::AlwaysAnsi => ColorChoice::Always,
        anstream::ColorChoice::Auto => ColorChoice::Auto,
    };
    with_template(Cli::command().color(color).max_term_width(100))
}

/// Gives every command the same shape of help, and one help for `-h` and `--help`.
fn with_template(command: clap::Command) -> clap::Command {
    let help =
        Arg::new("help").short('h').long("help").action(ArgAction::HelpShort).help("Print help").help_heading(None);
    command.help_template(TEMPLATE).disable_help_flag(true).arg(help).mut_subcommands(with_template)
}

/// Obeys `--color` before anything is printed, even a usage error.
pub fn choose_color() {
    let mut wanted = None;
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--") => break,
            Some("--color") => wanted = arguments.next().and_then(|value| value.into_string().ok()),
            Some(other) => wanted = other.strip_prefix("--color=").map(str::to_owned).or(wanted),
            None => {}
        }
    }
    match wanted.as_deref() {
        Some("always") => anstream::ColorChoice::Always.write_global(),
        Some("never") => anstream::ColorChoice::Never.write_global(),
        _ => {}
    }
}

/// Prints help, version or what is wrong with the command line.
pub fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as NothingAsked;
    if error.exit_code() == 0 || error.kind() == NothingAsked {
        // Nobody is left to tell when the stream is closed.
        let _ = error.print();
        return if error.exit_code() == 0 { ExitCode::SUCCESS } else { end(Exit::Usage) };
    }
    let json = std::env::args_os().any(|argument| argument == "--json");
    Ui::bare(json).failure(&usage_failure(error));
    end(Exit::Usage)
}

/// What is wrong, in our own form: the message, then what was probably meant, else where to read on.
fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let message: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let failure = Failure::usage(message.join(" ").trim_start_matches("error: "));
    let suggested = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue]
        .into_iter()
        .find_map(|kind| match error.get(kind)? {
            ContextValue::String(one) => Some(one.clone()),
            // The likeliest comes last.
            ContextValue::Strings(several) => several.last().cloned(),
            _ => None,
        });
    let suggested = suggested.or_else(|| match error.get(ContextKind::InvalidSubcommand)? {
        ContextValue::String(wrong) => {
            let (_, parent) = typed_command();
            nearest(wrong, parent.get_subcommands().filter(|one| !one.is_hide_set()).map(clap::Command::get_name))
                .map(str::to_owned)
        }
        _ => None,
    });
    if let Some(suggested) = suggested {
        return failure.hint(format!("did you mean {suggested}?"));
    }
    failure.hint(format!("{} --help", typed_command().0))
}

/// The command that was meant, as far as its words were right.
fn typed_command() -> (String, clap::Command) {
    let (mut at, mut words) = (command(), String::from("bytenode"));
    for argument in std::env::args_os().skip(1) {
        let Some(next) = argument.to_str().and_then(|word| at.find_subcommand(word)) else { continue };
        words.push(' ');
        words.push_str(next.get_name());
        at = next.clone();
    }
    (words, at)
}

/// The exit codes of one command, for its help: 0, 1, 2, these, 130.
pub fn exits(own: &[Exit]) -> String {
    let mut all = vec![Exit::Done, Exit::Other, Exit::Usage];
    all.extend_from_slice(own);
    all.push(Exit::Interrupted);
    let lines: Vec<String> = all.iter().map(|exit| format!("  {:<3}  {}", exit.number(), exit.meaning())).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

/// Examples of one command, for its help.
pub fn examples(lines: &[&str]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("  {line}")).collect();
    format!("Examples:\n{}\n", lines.join("\n"))
}
