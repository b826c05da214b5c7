//! `cat`: write files to standard output.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytenode::api::Kind;
use bytenode::get::GetOptions;
use bytenode::monitor::Event;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::args::{examples, exits};
use crate::commands::{Ctx, Typed, entry_at, no_json, typed};
use crate::error::{Exit, Failure, Outcome, Tally};
use crate::ui::progress::{self, Drawing, Way};
use crate::ui::{Stream, columns};

/// Write files to standard output
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode cat bn:/notes.txt",
        "bytenode cat bn:/film.mkv --offset 1048576 --length 100",
    ]),
    after_help = exits(&[
        Exit::Partly, Exit::NotAllowed, Exit::NotFound, Exit::Temporary, Exit::Integrity, Exit::TooFewNodes,
    ]),
)]
pub struct Args {
    /// Remote files
    #[arg(required = true, value_name = "bn:/FILE")]
    files: Vec<String>,
    /// Begin at this byte of each file
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    offset: u64,
    /// Write at most so many bytes of each file
    #[arg(long, value_name = "N")]
    length: Option<u64>,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    no_json(&ctx.ui, "cat")?;
    let files: Vec<Typed> = args.files.iter().map(|file| typed(file)).collect::<Outcome<_>>()?;
    stream(ctx, &files, args.offset, args.length).await
}

/// Writes proved bytes only; a file that fails stops at its last proved one, and the next one goes on.
pub async fn stream(ctx: &Ctx, files: &[Typed], offset: u64, length: Option<u64>) -> Outcome<Exit> {
    let session = ctx.session()?;
    let options = GetOptions { machine: ctx.machine(), ..GetOptions::default() };
    let mut output = Output::new();
    let (mut tally, mut bad_replicas) = (Tally::default(), 0);
    for file in files {
        let drawing = draw(ctx, file.path.name().unwrap_or("bn:/"));
        let context = ctx.context(&session, drawing.watch())?;
        let result = async {
            let entry = entry_at(&session, file).await?;
            if entry.kind == Kind::Dir {
                return Err(Failure::usage(format!("{} is a directory", file.path))
                    .hint(format!("bytenode get {0} ., or as an archive: bytenode get --tar {0} -", file.path)));
            }
            let wanted = length.unwrap_or(u64::MAX).min(entry.size.saturating_sub(offset));
            context.watch.event(Event::Found { files: 1, bytes: Some(wanted) });
            let summary = bytenode::get::cat(&context, &file.path, offset, length, &options, &mut output).await?;
            output.flush().await.map_err(|error| Failure::io("standard output cannot be written", &error))?;
            Ok(summary)
        };
        match result.await {
            _ if output.closed => return Ok(Exit::Done),
            Ok(summary) => {
                tally.good();
                bad_replicas += summary.bad_replicas;
            }
            Err(failure) if files.len() == 1 => return Err(failure),
            Err(failure) => {
                tally.bad(failure.exit);
                ctx.ui.failed(&file.path.to_string(), &failure.message);
            }
        }
    }
    if bad_replicas > 0 {
        ctx.ui.note(&super::get::stood_in(bad_replicas));
    }
    Ok(tally.exit())
}

/// Draws only if the bytes go to a file: a terminal or another program may write at any time.
pub fn draw(ctx: &Ctx, name: &str) -> Drawing {
    if columns(Stream::Out).is_none() && is_file() {
        return progress::start(&ctx.ui, name, Way::Get);
    }
    progress::start_unseen(&ctx.ui, name, Way::Get)
}

#[cfg(unix)]
fn is_file() -> bool {
    rustix::fs::fstat(std::io::stdout())
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile)
}

#[cfg(not(unix))]
fn is_file() -> bool {
    false
}

/// Standard output that remembers whether its reader went away, which is no error.
pub struct Output {
    inner: tokio::io::Stdout,
    /// Whether it did.
    pub closed: bool,
}

impl Output {
    /// Opens it.
    pub fn new() -> Self {
        Self { inner: tokio::io::stdout(), closed: false }
    }

    fn note<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result {
            self.closed |= error.kind() == io::ErrorKind::BrokenPipe;
        }
        result
    }
}

impl AsyncWrite for Output {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.note(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.note(result)
    }
}
