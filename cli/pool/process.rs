//! Processes that this user started: launched, recognised again later, and stopped.
//!
//! A process is named by its number *and* the time at which it started. It is signalled only while both still hold, so
//! a number that the system has given to something else is never touched.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::credentials::{make_private_dir, private_file};
use crate::error::{Failure, Outcome};

/// How long a start may take.
pub const START: Duration = Duration::from_secs(30);
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
    /// It goes on when this one ends.
    Detached,
    /// It ends with this one, however this one ends: its standard input is a pipe from here.
    Tied,
}

/// A process just launched.
#[derive(Debug)]
pub struct Launched {
    /// What to remember of it.
    pub process: Process,
    /// The handle; dropping it leaves a detached process alone and ends a tied one.
    pub child: Child,
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
/// What the last lines of its log say, when it ends or stays silent.
pub fn launch(name: &str, arguments: &[OsString], log: &Path, bond: Bond) -> Outcome<Launched> {
    let broken = |error: &io::Error| Failure::io(format!("cannot start {name}"), error);
    let (file, from) = open_log(log).map_err(|error| broken(&error))?;
    let executable = std::env::current_exe().map_err(|error| broken(&error))?;
    let mut command = Command::new(executable);
    command.args(arguments).env_remove("BYTENODE_TOKEN").current_dir("/");
    command.stdout(Stdio::piped()).stderr(file);
    match bond {
        Bond::Detached => command.arg("--detach").stdin(Stdio::null()),
        Bond::Tied => command.arg("--stop-on-eof").stdin(Stdio::piped()),
    };
    #[cfg(unix)]
    // What our own caller left open (a lock, a pipe) must not live on in a process that stays.
    close_fds::set_fds_cloexec(3, &[]);
    let mut child = command.spawn().map_err(|error| broken(&error))?;
    let stdout = child.stdout.take().expect("standard output is a pipe");
    let (say, said) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(stdout.take(4096)).read_line(&mut line);
        // Whoever waited may have given up.
        let _ = say.send(read.map(|_| line));
    });
    let url = match said.recv_timeout(START) {
        Ok(Ok(line)) if line.starts_with("http://") && line.ends_with('\n') => line.trim().to_owned(),
        other => {
            let silent = matches!(other, Err(mpsc::RecvTimeoutError::Timeout));
            let _ = child.kill();
            let _ = child.wait();
            let why =
                if silent { format!("did not start within {} s", START.as_secs()) } else { "did not start".into() };
            let mut failure = Failure::other(format!("{name} {why}"));
            failure.causes = last_lines(log, from);
            return Err(failure.hint(format!("see {}", log.display())));
        }
    };
    let pid = child.id();
    let Some(start) = start_of(pid) else {
        return Err(Failure::other(format!("{name} ended at once")).hint(format!("see {}", log.display())));
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Launched { process: Process { pid, start, url, version }, child })
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
