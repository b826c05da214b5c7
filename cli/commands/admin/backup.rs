//! `admin backup`: everything of the coordinator that cannot be made again, in one sealed file.
//!
//! What is written is read back and proved before it is called a backup: a file gets its name only then, and standard
//! output its first byte.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytenode::admin::SealedBackup;
use bytenode::api::{ApiError, Code};
use bytenode::backup::{Backup, BackupError, Facts, Passphrase};
use clap::ValueEnum;
use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tempfile::{Builder, NamedTempFile, TempPath};
use tokio::io::AsyncWriteExt;
use zeroize::Zeroizing;

use crate::args::{examples, exits};
use crate::commands::{Ctx, no_json};
use crate::credentials::{make_private_dir, read_private};
use crate::error::{Exit, Failure, Outcome};
use crate::ui::text::{age, escaped, plural, shown, size};

/// What the name of a file that is no backup yet begins with.
const UNFINISHED: &str = ".bytenode-backup-";
/// A backup that is being written is never left alone for so long.
const ABANDONED: Duration = Duration::from_secs(3600);

/// After how long a backup is called old.
const OLD: SignedDuration = SignedDuration::from_hours(8 * 24);

/// Back up the names and keys of all files, without which what the nodes hold cannot be read
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode admin backup my.backup       asks for a passphrase, under which it is sealed",
        "bytenode admin backup --passphrase-file secret - | ssh nas 'cat > my.backup'",
        "bytenoded restore my.backup --data DIR     what brings it back",
    ]),
    after_help = exits(&[
        Exit::NotAllowed, Exit::NotFound, Exit::Exists, Exit::Temporary, Exit::Integrity, Exit::TooFewNodes, Exit::Busy,
    ]),
)]
pub struct Args {
    /// The file to make, or - for standard output
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Read the passphrase from this file, which nobody else may read, instead of asking for it
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// What to do with a file that is there
    #[arg(long, value_enum, default_value_t = OverwriteArg::Never, value_name = "WHEN")]
    overwrite: OverwriteArg,
}

/// What to do with a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OverwriteArg {
    /// Leave it, and fail
    Never,
    /// Replace it
    Always,
}

#[derive(Serialize)]
struct BackupRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dest: String,
    pool: String,
    made: Timestamp,
    version: &'a str,
    files: u64,
    chunks: u64,
    size: u64,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    files: u64,
    chunks: u64,
    bytes: u64,
}

/// What is wrong with the time of the last backup; nothing if there is nothing.
pub fn complaint(last: Option<Timestamp>, now: Timestamp) -> Option<String> {
    match last {
        None => Some("none was ever made".into()),
        Some(made) if now.duration_since(made) > OLD => Some(format!("the last is of {}", age(made, now))),
        Some(_) => None,
    }
}

/// The line for `crontab -e` that makes one each night.
pub fn cron_line(ctx: &Ctx) -> String {
    let program = std::env::current_exe().map_or_else(|_| "bytenode".into(), |path| shown(&path));
    let plain = |text: &str| text.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c));
    // In a crontab, a bare % ends the line.
    let word = |text: &str| match plain(text) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''").replace('%', r"\%")),
    };
    let profile = match ctx.profile.name.as_str() {
        "default" => String::new(),
        name => format!(" --profile {}", word(name)),
    };
    let secret = "--passphrase-file ~/backup.passphrase";
    format!(r"0 3 * * * {}{profile} admin backup -q {secret} /mnt/other/bytenode-$(date +\%F)", word(&program))
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let to_output = args.file.as_os_str() == "-";
    if to_output {
        no_json(&ctx.ui, "standard output as the destination")?;
        if io::stdout().is_terminal() {
            let refused = Failure::usage("a backup is not for a terminal");
            return Err(refused.hint("name a file, or pipe it on: bytenode admin backup - | ..."));
        }
    } else {
        look(&args.file, args.overwrite)?;
    }
    let passphrase = passphrase(ctx, args.passphrase_file.as_deref())?;
    let session = ctx.session()?;
    let (file, unfinished) = match to_output {
        true => (aside(&ctx.profile.dirs.state)?, None),
        false => beside(&args.file).map(|(file, name)| (file, Some(name)))?,
    };
    let file = take(session.backup(&passphrase).await?, file).await?;
    let (file, facts) = prove(ctx, file, passphrase).await?;
    let size = file.metadata().map_err(|error| unwritten(&error))?.len();
    match unfinished {
        Some(unfinished) => keep(unfinished, &args.file, args.overwrite)?,
        None => pass_on(ctx, file).await?,
    }
    if let Err(error) = session.backup_kept(facts.made).await {
        let error = escaped(&error.message).into_owned();
        ctx.ui.note(&format!("note: the backup is good, but the coordinator did not take it down ({error})."));
    }
    tell(ctx, args, &facts, size)
}

fn tell(ctx: &Ctx, args: &Args, facts: &Facts, bytes: u64) -> Outcome<Exit> {
    let place = if args.file.as_os_str() == "-" { "standard output".into() } else { shown(&args.file) };
    let (files, chunks) = (plural(facts.files, "file"), plural(facts.chunks, "chunk"));
    ctx.ui.note(&format!("Backed up the coordinator of {files} ({chunks}) to {place}: {}, proved.", size(bytes)));
    ctx.ui.record(&BackupRecord {
        kind: "backup",
        dest: args.file.display().to_string(),
        pool: facts.pool.to_string(),
        made: facts.made,
        version: &facts.bytenode,
        files: facts.files,
        chunks: facts.chunks,
        size: bytes,
    })?;
    ctx.ui.record(&SummaryRecord { kind: "summary", files: facts.files, chunks: facts.chunks, bytes })?;
    Ok(Exit::Done)
}

/// Refuses what is at the destination already, before anything is done.
fn look(path: &Path, overwrite: OverwriteArg) -> Outcome<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io(format!("cannot look at {}", path.display()), &error)),
    };
    if !metadata.is_file() && !metadata.is_symlink() {
        return Err(Failure::new(Code::WrongKind, format!("{} is no regular file", path.display())));
    }
    match overwrite {
        OverwriteArg::Always => Ok(()),
        OverwriteArg::Never => Err(exists(path)),
    }
}

fn exists(path: &Path) -> Failure {
    let refused = Failure::new(Code::Exists, format!("{} exists already", path.display()));
    refused.hint("give it another name, as with a date in it, or add --overwrite always")
}

/// From the file, else from a person, who types it twice.
fn passphrase(ctx: &Ctx, file: Option<&Path>) -> Outcome<Passphrase> {
    let text = match file {
        Some(path) => read_private(path).map_err(|error| {
            let failure = Failure::io(format!("{} cannot be used", path.display()), &error);
            match error.kind() {
                io::ErrorKind::PermissionDenied => failure.hint(format!("chmod 600 {}", path.display())),
                _ => failure,
            }
        })?,
        None if ctx.ui.may_ask() => {
            let ask = |what: &str| {
                let typed = rpassword::prompt_password(format!("{what} (not shown): "));
                typed.map_err(|error| Failure::io("the passphrase cannot be read", &error))
            };
            let typed = ask("Passphrase for the backup")?;
            if typed != ask("The same again")? {
                return Err(Failure::usage("the two passphrases differ"));
            }
            typed
        }
        None => {
            return Err(Failure::usage("there is nobody to ask for a passphrase").hint("add --passphrase-file FILE"));
        }
    };
    Passphrase::new(&Zeroizing::new(text)).map_err(|error| Failure::from(ApiError::from(error)))
}

/// A file without a name, for what goes to standard output.
fn aside(state: &Path) -> Outcome<File> {
    let made = make_private_dir(state).and_then(|()| tempfile::tempfile_in(state));
    made.map_err(|error| Failure::io(format!("cannot write in {}", state.display()), &error))
}

/// A file beside the destination that goes when it is not kept. What others left there that were killed goes now.
fn beside(path: &Path) -> Outcome<(File, TempPath)> {
    let dir = parent(path);
    let is_abandoned = |entry: &fs::DirEntry| {
        let metadata = entry.metadata().ok().filter(fs::Metadata::is_file);
        let age = metadata.and_then(|metadata| metadata.modified().ok()?.elapsed().ok());
        entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes())
            && age.is_some_and(|age| age > ABANDONED)
    };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(is_abandoned) {
        // What cannot be removed is in nobody's way.
        let _ = fs::remove_file(entry.path());
    }
    // Made with mode 0600.
    let made = Builder::new().prefix(UNFINISHED).tempfile_in(dir);
    made.map(NamedTempFile::into_parts)
        .map_err(|error| Failure::io(format!("cannot write in {}", dir.display()), &error))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes what comes, and syncs it.
async fn take(mut sealed: SealedBackup, file: File) -> Outcome<File> {
    let mut file = tokio::fs::File::from_std(file);
    while let Some(piece) = sealed.next().await {
        file.write_all(&piece?).await.map_err(|error| unwritten(&error))?;
    }
    file.sync_all().await.map_err(|error| unwritten(&error))?;
    Ok(file.into_std().await)
}

/// Reads back what was written; the file is then at its beginning again.
async fn prove(ctx: &Ctx, mut file: File, passphrase: Passphrase) -> Outcome<(File, Facts)> {
    let proved = ctx.seam.offload(move || {
        file.rewind()?;
        let facts = Backup::open(io::BufReader::with_capacity(1 << 20, &file), &passphrase)?.verify()?;
        file.rewind()?;
        Ok::<_, BackupError>((file, facts))
    });
    proved.await.map_err(|error| Failure::from(ApiError::from(error)))
}

/// Gives a backup its name.
fn keep(unfinished: TempPath, path: &Path, overwrite: OverwriteArg) -> Outcome<()> {
    let kept = match overwrite {
        OverwriteArg::Never => unfinished.persist_noclobber(path),
        OverwriteArg::Always => unfinished.persist(path),
    };
    kept.or_else(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => Err(exists(path)),
        _ if overwrite == OverwriteArg::Never && !path.is_symlink() && !path.exists() => {
            // A file system, as of a stick, that can only replace.
            error.path.persist(path).map_err(|error| unwritten(&error.error))
        }
        _ => Err(unwritten(&error.error)),
    })?;
    #[cfg(unix)]
    File::open(parent(path)).and_then(|dir| dir.sync_all()).map_err(|error| unwritten(&error))?;
    Ok(())
}

/// Sends it to standard output. Here, a reader that leaves is a failure: there is no backup.
async fn pass_on(ctx: &Ctx, mut file: File) -> Outcome<()> {
    let written = ctx.seam.offload(move || {
        let mut out = io::stdout().lock();
        io::copy(&mut file, &mut out).and_then(|_| out.flush())
    });
    written.await.map_err(|error| Failure::io("the backup cannot be written to standard output", &error))
}

fn unwritten(error: &io::Error) -> Failure {
    Failure::io("the backup cannot be written", error)
}
