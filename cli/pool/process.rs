//! Processes that this user started: launched, recognised again later, and stopped.
//!
//! A process is named by its number *and* the time at which it started. It is signalled only while both still hold, so
//! a number that the system has given to something else is never touched.
//!
//! None is ever left that nobody knows of: a new process ends by itself with the one that started it, until that one has
//! written it down and lets it go ([`Launched::release`]).

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::credentials::{make_private_dir, private_file};
use crate::error::{Failure, Outcome};

/// How long a process that starts may go without serving and without adding to its log.
const START: Duration = Duration::from_secs(30);
/// How long a stop may take before it is forced.
pub const STOP: Duration = Duration::from_secs(30);
/// A log longer than this is put aside at the next start.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// Lines of a log that a failed start shows.
const LAST_LINES: usize = 8;

/// A process that serves at an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in the system's own terms.
    pub start: String,
    /// Where it serves.
    pub url: String,
    /// The version of ByteNode that it runs.
    pub version: String,
}

/// How a process stands to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// It goes on when this one ends, once it was released.
    Detached,
    /// It ends with this one, however this one ends: its standard input is a pipe from here.
    Tied,
}

/// A process just launched.
#[derive(Debug)]
pub struct Launched {
    /// What to remember of it.
    pub process: Process,
    /// The handle; dropping it ends the process, unless it was released.
    pub child: Child,
}

impl Launched {
    /// Lets a detached process go on by itself. To be called once it is written down, and not before.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn release(mut self, name: &str) -> Outcome<()> {
        let told = self.child.stdin.take().map_or(Ok(()), |mut input| input.write_all(b"\n"));
        told.map_err(|error| Failure::io(format!("{name} ended at once"), &error))
    }
}

/// When a process started; nothing if there is none, or it has ended and waits to be collected.
pub fn start_of(pid: u32) -> Option<String> {
    if !cfg!(target_os = "linux") {
        let output = Command::new("ps").args(["-o", "state=,lstart=", "-p", &pid.to_string()]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let (state, start) = text.trim().split_once(' ')?;
        return (!state.starts_with('Z')).then(|| start.trim().to_owned());
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold anything, so what follows the last one counts: field 3 is first.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let ticks = fields.nth(18)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{}:{ticks}", boot.trim()))
}

impl Process {
    /// Whether it still runs, and is the one that was started.
    pub fn runs(&self) -> bool {
        start_of(self.pid).is_some_and(|start| start == self.start)
    }

    /// Asks it to stop, or forces it.
    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.runs()) {
            // One that has ended meanwhile is what was wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Stops several: asks, waits, then forces those that remain.
    #[cfg(unix)]
    pub async fn stop(some: &[&Self]) {
        use rustix::process::Signal;
        for (signal, patience) in [(Signal::TERM, STOP), (Signal::KILL, Duration::from_secs(5))] {
            some.iter().for_each(|process| process.signal(signal));
            let end = Instant::now() + patience;
            while some.iter().any(|process| process.runs()) && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Stops several: nothing is started here, so nothing runs.
    #[cfg(not(unix))]
    pub async fn stop(_some: &[&Self]) {}
}

/// Starts this executable again with other arguments, and waits until it says where it serves.
///
/// # Errors
/// What the last lines of its log say, when it ends, or makes no progress for [`START`].
pub async fn launch(name: &str, arguments: &[OsString], log: &Path, bond: Bond) -> Outcome<Launched> {
    let broken = |error: &io::Error| Failure::io(format!("cannot start {name}"), error);
    let (file, from) = open_log(log).map_err(|error| broken(&error))?;
    let executable = std::env::current_exe().map_err(|error| broken(&error))?;
    let mut command = Command::new(executable);
    command.args(arguments).env_remove("BYTENODE_TOKEN").current_dir("/");
    command.arg(match bond {
        Bond::Detached => "--detach",
        Bond::Tied => "--stop-on-eof",
    });
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
    #[cfg(unix)]
    // What our own caller left open (a lock, a pipe) must not live on in a process that stays.
    close_fds::set_fds_cloexec(3, &[]);
    let mut child = command.spawn().map_err(|error| broken(&error))?;
    let stdout = child.stdout.take().expect("standard output is a pipe");
    let said = first_line(stdout, log, from).await;
    let Some(url) = said.as_deref().ok().filter(|line| line.starts_with("http://")) else {
        // One that has ended already is what is wanted.
        let _ = child.kill();
        let why = match said {
            Err(Silent) => format!("{name} does not start: it did nothing for {} s", START.as_secs()),
            Ok(_) => format!("{name} did not start"),
        };
        let mut failure = Failure::other(why);
        failure.causes = last_lines(log, from);
        return Err(failure.hint(format!("see {}", log.display())));
    };
    let pid = child.id();
    let Some(start) = start_of(pid) else {
        return Err(Failure::other(format!("{name} ended at once")).hint(format!("see {}", log.display())));
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Launched { process: Process { pid, start, url: url.to_owned(), version }, child })
}

/// A process neither said anything nor added to its log.
struct Silent;

/// The first line that a process prints, which is empty if it ends before. It is waited for as long as the log grows.
async fn first_line(stdout: impl Read + Send + 'static, log: &Path, from: u64) -> Result<String, Silent> {
    let (say, mut said) = oneshot::channel();
    // A thread, so that whoever waits can be interrupted.
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout.take(4096)).read_line(&mut line);
        // Whoever waited may have given up.
        let _ = say.send(read.ok().filter(|_| line.ends_with('\n')).map(|_| line.trim().to_owned()));
    });
    let mut length = from;
    loop {
        if let Ok(line) = tokio::time::timeout(START, &mut said).await {
            return Ok(line.ok().flatten().unwrap_or_default());
        }
        let before = std::mem::replace(&mut length, fs::metadata(log).map_or(from, |metadata| metadata.len()));
        if length <= before {
            return Err(Silent);
        }
    }
}

/// Opens a log to add to, and says where what is added begins.
fn open_log(log: &Path) -> io::Result<(fs::File, u64)> {
    if let Some(dir) = log.parent() {
        make_private_dir(dir)?;
    }
    if fs::metadata(log).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES) {
        fs::rename(log, log.with_extension("log.1"))?;
    }
    let file = private_file(log)?;
    let from = file.metadata()?.len();
    Ok((file, from))
}

fn last_lines(log: &Path, from: u64) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let from = from.max(file.metadata()?.len().saturating_sub(64 << 10));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_very_process_is_stopped() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let start = start_of(child.id()).unwrap();
        let ours = Process { pid: child.id(), start, url: "http://127.0.0.1:1".into(), version: "0".into() };
        let other = Process { start: "another time".into(), ..ours.clone() };
        assert!(ours.runs());
        assert!(!other.runs());
        Process::stop(&[&other]).await;
        assert!(ours.runs());
        Process::stop(&[&ours]).await;
        assert!(!ours.runs());
        child.wait().unwrap();
        assert_eq!(start_of(ours.pid), None);
    }
}
