//! `rm`: remove files and directories.

use bytenode::api::{Code, Kind, Removed};
use bytenode::path::RemotePath;
use serde::Serialize;

use crate::args::{examples, exits};
use crate::commands::{Ctx, Typed, entry_at, typed};
use crate::error::{Exit, Failure, Outcome, Tally};
use crate::ui::FailedRecord;
use crate::ui::text::{plural, size};

/// Remove files and directories
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode rm bn:/photos/a.raw",
        "bytenode rm -r -n bn:/photos    how much would go",
    ]),
    after_help = exits(&[Exit::Partly, Exit::NotAllowed, Exit::NotFound, Exit::Temporary]),
)]
pub struct Args {
    /// Remote files, or with -r directories
    #[arg(required = true, value_name = "bn:/PATH")]
    paths: Vec<String>,
    /// Remove directories and all in them
    #[arg(short, long)]
    recursive: bool,
    /// What does not exist is success
    #[arg(short, long)]
    force: bool,
    /// Change nothing; say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct RemovedRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    path: &'a RemotePath,
    files: u64,
    dirs: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    files: u64,
    dirs: u64,
    bytes: u64,
    failed: u64,
    dry_run: bool,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let places: Vec<Typed> = args.paths.iter().map(|path| typed(path)).collect::<Outcome<_>>()?;
    if places.iter().any(|place| place.path.is_root()) {
        if !args.recursive {
            return Err(Failure::usage("bn:/ is a directory").hint("bytenode rm -r bn:/ removes everything"));
        }
        if !args.dry_run {
            ctx.ui.confirm("remove every file you have in this pool", "bn:/")?;
        }
    }
    let (mut tally, mut sum) = (Tally::default(), Removed::default());
    for place in &places {
        match remove(ctx, args, place).await {
            Ok(removed) => {
                tally.good();
                let Removed { files, dirs, bytes } = removed;
                ctx.ui.record(&RemovedRecord { kind: "removed", path: &place.path, files, dirs, bytes })?;
                sum.files += files;
                sum.dirs += dirs;
                sum.bytes += bytes;
            }
            Err(failure) if places.len() == 1 => return Err(failure),
            Err(failure) => {
                tally.bad(failure.exit);
                let path = place.path.to_string();
                ctx.ui.failed(&path, &failure.message);
                ctx.ui.record(&FailedRecord::new(Some(path), None, failure.code, &failure.message))?;
            }
        }
    }
    let verb = if args.dry_run { "Would remove" } else { "Removed" };
    let dirs = match sum.dirs {
        0 => String::new(),
        dirs => format!(" and {}", plural(dirs, "directory")),
    };
    ctx.ui.note(&format!("{verb} {}{dirs} ({}).", plural(sum.files, "file"), size(sum.bytes)));
    let Removed { files, dirs, bytes } = sum;
    let (failed, dry_run) = (tally.failed(), args.dry_run);
    ctx.ui.record(&SummaryRecord { kind: "summary", files, dirs, bytes, failed, dry_run })?;
    Ok(tally.exit())
}

async fn remove(ctx: &Ctx, args: &Args, place: &Typed) -> Outcome<Removed> {
    let session = ctx.session()?;
    let result = async {
        if !place.path.is_root() {
            let entry = entry_at(&session, place).await?;
            if entry.kind == Kind::Dir && !args.recursive {
                return Err(Failure::usage(format!("{} is a directory", place.path))
                    .hint(format!("bytenode rm -r {}", place.path)));
            }
        }
        Ok(session.remove(&place.path, args.recursive, args.dry_run).await?)
    };
    match result.await {
        Err(failure) if args.force && failure.code == Code::NotFound.as_str() => Ok(Removed::default()),
        other => other,
    }
}
