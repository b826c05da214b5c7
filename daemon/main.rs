//! `bytenoded`: the coordinator, or one built-in node.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use bytenode::api::{ApiError, ApiResult, Code};
use bytenode::backup::Passphrase;
use bytenode::config::Config;
use bytenode::coordinator::keys::{KeyError, read_secret};
use clap::{Parser, Subcommand};

mod run;

use run::{CoordinatorArgs, NodeArgs, Role, Tie};

/// The coordinator of a ByteNode pool: owns the catalog, the node registry and the repair of copies
#[derive(Debug, Parser)]
#[command(name = "bytenoded", version, disable_help_subcommand = true, args_conflicts_with_subcommands = true)]
struct Cli {
    /// Read the configuration from this file; the command line and the environment win
    #[arg(long, value_name = "FILE", env = "BYTENODED_CONFIG")]
    config: Option<PathBuf>,
    /// Where the catalog and the keys are kept
    #[arg(long, value_name = "DIR", env = "BYTENODED_DATA")]
    data: Option<PathBuf>,
    /// Where to listen (loopback only until TLS exists); port 0 takes any that is free [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDR", env = "BYTENODED_LISTEN")]
    listen: Option<SocketAddr>,
    /// Only say whether the configuration is right
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one built-in node, which keeps packs and serves whoever the coordinator permits
    Node(NodeArgs),
    /// Make a coordinator's directory from a backup
    #[command(after_help = RESTORE_EXITS)]
    Restore(RestoreArgs),
}

/// What `restore` takes.
#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// The backup, as bytenode admin backup wrote it
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The coordinator's directory: a new one, or an empty one
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Read the passphrase from this file, which nobody else may read, instead of asking for it
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

const RESTORE_EXITS: &str = "Exit codes:
  0    done
  1    other failure, as when a newer version made the backup
  2    wrong usage
  4    the passphrase is wrong, or a file may not be used
  5    there is no such file
  6    the directory is not empty
  8    the file is no backup, or is damaged
  9    too little room
  11   another process uses the directory";

/// A wrong command line or configuration, told with what to do.
struct Refusal(String);

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Restore(args)) = &cli.command {
        return restore(args);
    }
    let told = if cli.check_config { check(&cli) } else { role(cli).map(start) };
    told.unwrap_or_else(|Refusal(message)| {
        eprintln!("error: {message}");
        ExitCode::from(2)
    })
}

fn restore(args: &RestoreArgs) -> ExitCode {
    let restored =
        passphrase(args).and_then(|passphrase| bytenode::daemon::restore::restore(&args.file, &args.data, &passphrase));
    match restored {
        Ok(facts) => {
            let (files, chunks, made) = (facts.files, facts.chunks, facts.made);
            eprintln!("Restored {} as of {made}: {files} files, {chunks} chunks.", args.data.display());
            eprintln!(
                "What was stored after that is not in it. Start the coordinator: it asks the nodes what they have."
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = &error.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(exit_of(error.code))
        }
    }
}

/// The same numbers as those of `bytenode`.
const fn exit_of(code: Code) -> u8 {
    match code {
        Code::Usage => 2,
        Code::NotAllowed => 4,
        Code::NotFound => 5,
        Code::Exists => 6,
        Code::Integrity => 8,
        Code::NoRoom => 9,
        Code::Busy => 11,
        _ => 1,
    }
}

fn passphrase(args: &RestoreArgs) -> ApiResult<Passphrase> {
    let text = match &args.passphrase_file {
        Some(path) => read_secret(path).map_err(|error| match error {
            KeyError::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                ApiError::new(Code::NotFound, format!("there is no {}", path.display()))
            }
            KeyError::Io { path, source } => {
                ApiError::new(Code::NotAllowed, format!("cannot read {} ({source})", path.display()))
            }
            other => ApiError::new(Code::NotAllowed, other.to_string()),
        })?,
        None if std::io::stdin().is_terminal() => {
            let asked = rpassword::prompt_password("Passphrase of the backup (not shown): ");
            let fail = |error| ApiError::new(Code::Internal, format!("the passphrase cannot be read ({error})"));
            asked.map_err(fail)?.into()
        }
        None => {
            let nobody = ApiError::new(Code::Usage, "there is nobody to ask for the passphrase");
            return Err(nobody.hint("add --passphrase-file FILE"));
        }
    };
    Ok(Passphrase::new(&text)?)
}

fn start(role: Role) -> ExitCode {
    match run::run(role, Tie::default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("caused by: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn check(cli: &Cli) -> Result<ExitCode, Refusal> {
    let config = configured(cli)?;
    match &config.data {
        Some(data) => eprintln!("The configuration is right. Data: {}   Address: {}", data.display(), config.listen),
        None => eprintln!("The configuration is right. It names no data directory: add --data DIR when you start."),
    }
    Ok(ExitCode::SUCCESS)
}

fn role(cli: Cli) -> Result<Role, Refusal> {
    if let Some(Command::Node(args)) = cli.command {
        if args.insecure_http {
            return Ok(Role::Node(args));
        }
        return loopback(args.listen).map(|()| Role::Node(args));
    }
    let config = configured(&cli)?;
    let data = config.data.clone().ok_or_else(|| Refusal("no data directory\nhint: add --data DIR".into()))?;
    Ok(Role::Coordinator(CoordinatorArgs { data, listen: config.listen, config: Box::new(config) }))
}

/// The configuration: command line, then environment (both read by clap), then file, then default.
fn configured(cli: &Cli) -> Result<Config, Refusal> {
    let read = |path: &PathBuf| {
        bytenode::daemon::config::read(path).map_err(|error| {
            let mut message = error.to_string();
            error.chain().skip(1).for_each(|cause| message.push_str(&format!("\ncaused by: {cause}")));
            Refusal(message)
        })
    };
    let file = cli.config.as_ref().map(read).transpose()?.unwrap_or_default();
    let data = cli.data.clone().or(file.data.clone());
    let listen = cli.listen.unwrap_or(file.listen);
    loopback(listen)?;
    Ok(Config { data, listen, ..file })
}

fn loopback(listen: SocketAddr) -> Result<(), Refusal> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    let port = listen.port();
    Err(Refusal(format!(
        "{listen} is not a loopback address, and traffic is not encrypted yet\n\
         hint: listen on 127.0.0.1:{port}, and on the other machine run: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"
    )))
}
