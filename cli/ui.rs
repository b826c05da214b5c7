//! What is printed, and where: data on standard output, everything else on standard error.
//!
//! A closed standard output is no error: what follows is dropped, and [`Ui::closed`] lets listings stop early.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::Serialize;

use crate::args::Global;
use crate::error::{Exit, Failure, Outcome};

pub mod progress;
pub mod table;
pub mod text;

use text::escaped;

/// How much people want to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Errors alone.
    Quiet,
    /// Results.
    Normal,
    /// Results and what leads to them.
    Verbose,
}

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// Columns of the terminal that a stream goes to; nothing if it goes elsewhere.
#[cfg(unix)]
pub fn columns(stream: Stream) -> Option<usize> {
    let size = match stream {
        Stream::Out => rustix::termios::tcgetwinsize(io::stdout()),
        Stream::Err => rustix::termios::tcgetwinsize(io::stderr()),
    };
    size.ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Not asked for on this system.
#[cfg(not(unix))]
pub fn columns(_stream: Stream) -> Option<usize> {
    None
}

/// The two streams.
#[derive(Debug)]
pub struct Ui {
    /// Whether standard output carries JSON lines.
    pub json: bool,
    /// How much goes to standard error.
    pub level: Level,
    may_ask: bool,
    yes: bool,
    closed: AtomicBool,
    /// A progress line that must be lifted while something else is printed.
    bar: Mutex<Option<indicatif::ProgressBar>>,
    /// What is under way, whether or not it is drawn.
    under_way: Mutex<Weak<progress::Progress>>,
}

impl Ui {
    /// Makes it from the options.
    pub fn new(global: &Global) -> Self {
        let level = match (global.quiet, global.verbose) {
            (true, _) => Level::Quiet,
            (false, true) => Level::Verbose,
            (false, false) => Level::Normal,
        };
        let may_ask = !global.no_input && io::stdin().is_terminal() && io::stderr().is_terminal();
        let (json, yes) = (global.json, global.yes);
        Self { level, may_ask, yes, ..Self::bare(json) }
    }

    /// For what is wrong with the command line itself.
    pub fn bare(json: bool) -> Self {
        let (level, closed, bar, under_way) = (Level::Normal, false.into(), Mutex::default(), Mutex::default());
        Self { json, level, may_ask: false, yes: false, closed, bar, under_way }
    }

    /// The same without standard output and without results: errors and notes of what runs within go on.
    pub fn muted(&self) -> Self {
        let (level, may_ask, yes) = (self.level, self.may_ask, self.yes);
        Self { level, may_ask, yes, closed: true.into(), ..Self::bare(true) }
    }

    /// Whether nobody reads standard output any more.
    pub fn closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Writes bytes to standard output as they are.
    pub fn raw(&self, bytes: &[u8]) -> Outcome<()> {
        if self.closed() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Failure::io("standard output cannot be written", &error)),
        }
    }

    /// Writes a line of data for people; nothing with `--json`.
    pub fn data(&self, line: &str) -> Outcome<()> {
        if self.json { Ok(()) } else { self.raw(format!("{line}\n").as_bytes()) }
    }

    /// Writes a JSON line; nothing without `--json`.
    pub fn record(&self, value: &impl Serialize) -> Outcome<()> {
        if !self.json {
            return Ok(());
        }
        let mut line = serde_json::to_vec(value).map_err(|error| Failure::other("cannot write JSON").cause(&error))?;
        line.push(b'\n');
        self.raw(&line)
    }

    /// Tells people a result; not with `-q`.
    pub fn note(&self, line: &str) {
        if self.level > Level::Quiet {
            self.tell(line);
        }
    }

    /// Tells people more; only with `-v`.
    pub fn detail(&self, line: &str) {
        if self.level == Level::Verbose {
            self.tell(line);
        }
    }

    /// Tells people that one thing failed, even with `-q`.
    pub fn failed(&self, what: &str, message: &str) {
        let red = clap::builder::styling::AnsiColor::Red.on_default().bold();
        self.tell(&format!("{red}error:{red:#} {}: {}", escaped(what), escaped(message)));
    }

    /// Tells how the command failed: on standard error for people, and as the last JSON line.
    pub fn failure(&self, failure: &Failure) {
        let red = clap::builder::styling::AnsiColor::Red.on_default().bold();
        let cyan = clap::builder::styling::AnsiColor::Cyan.on_default();
        self.tell(&format!("{red}error:{red:#} {}", escaped(&failure.message)));
        for cause in &failure.causes {
            self.tell(&format!("caused by: {}", escaped(cause)));
        }
        if let Some(hint) = &failure.hint {
            self.tell(&format!("{cyan}hint:{cyan:#} {}", escaped(hint)));
        }
        let record = ErrorRecord {
            kind: "error",
            code: failure.code,
            message: &failure.message,
            hint: failure.hint.as_deref(),
            exit: failure.exit.number(),
        };
        // Nobody is left to tell when standard output fails as well.
        let _ = self.record(&record);
    }

    fn tell(&self, line: &str) {
        let write = || {
            let mut err = anstream::stderr().lock();
            // Nobody is left to tell when standard error fails.
            let _ = writeln!(err, "{line}");
        };
        match &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// A line of the terminal that is drawn anew as often as it is set, until it is dropped.
    pub fn line(self: &Arc<Self>) -> Line {
        let bar = indicatif::ProgressBar::with_draw_target(None, indicatif::ProgressDrawTarget::stderr());
        bar.set_style(indicatif::ProgressStyle::with_template("{wide_msg}").expect("the template is right"));
        self.set_bar(Some(bar.clone()));
        Line { ui: self.clone(), bar }
    }

    fn set_bar(&self, bar: Option<indicatif::ProgressBar>) {
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = bar;
    }

    fn set_under_way(&self, progress: &Arc<progress::Progress>) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(progress);
    }

    /// Tells whoever asked how far the command is, even with `-q`: what was measured, else how long it has run.
    pub fn how_far(&self, runs: Duration) {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        match under_way {
            Some(progress) => self.tell(&progress.text(None, usize::MAX)),
            None => self.tell(&format!("still at it, after {} s", runs.as_secs())),
        }
    }

    /// Has a person type `name` before something is destroyed; `--yes` stands in for it. `what` completes "this will".
    pub fn confirm(&self, what: &str, name: &str) -> Outcome<()> {
        if self.yes {
            return Ok(());
        }
        if !self.may_ask {
            return Err(Failure::usage(format!("this will {what}, and there is nobody to ask"))
                .hint("add --yes if it is meant"));
        }
        self.tell(&format!("This will {what}.\nType {name} to go on:"));
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(|error| Failure::io("the answer cannot be read", &error))?;
        if answer.trim() == name {
            return Ok(());
        }
        Err(Failure::usage("not confirmed; nothing was changed"))
    }

    /// Whether a person can be asked.
    pub fn may_ask(&self) -> bool {
        self.may_ask
    }
}

/// A line of the terminal that is drawn anew as often as it is set.
#[derive(Debug)]
pub struct Line {
    ui: Arc<Ui>,
    bar: indicatif::ProgressBar,
}

impl Line {
    /// What it shows from now on.
    pub fn set(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.bar.tick();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.ui.set_bar(None);
        self.bar.finish_and_clear();
    }
}

#[derive(Serialize)]
struct ErrorRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    code: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
    exit: u8,
}

/// The line about one operand that failed.
#[derive(Serialize)]
pub struct FailedRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    pub path: Option<String>,
    pub source: Option<&'a str>,
    pub code: &'a str,
    pub message: &'a str,
}

impl<'a> FailedRecord<'a> {
    /// Makes it.
    pub fn new(path: Option<String>, source: Option<&'a str>, code: &'a str, message: &'a str) -> Self {
        Self { kind: "failed", path, source, code, message }
    }
}

/// Ends the process: the code for the shell.
pub fn end(exit: Exit) -> std::process::ExitCode {
    std::process::ExitCode::from(exit.number())
}
