//! A pool of real processes, made by the built executable under a `HOME` of its own; all of it ends with the value.
//!
//! Nothing of the real environment reaches it. Conditions are waited for ([`wait_for`]), never a length of time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use bytenode::chunk::FileHash;
use bytenode::id::ChunkId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user with a pool.
pub struct Cluster {
    home: TempDir,
}

/// One process of the pool, as `up` remembers it.
#[derive(Debug, Clone)]
pub struct Member {
    /// `coordinator`, `n1`, ...
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Where it serves.
    pub url: String,
    /// Where it keeps its data.
    pub data: PathBuf,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
    /// The exit code; that of a shell (128 + n) if a signal ended it.
    pub code: i32,
}

impl Cluster {
    /// A user without a pool.
    pub fn none() -> Self {
        let cluster = Self { home: tempfile::tempdir().unwrap() };
        fs::create_dir(cluster.work()).unwrap();
        cluster
    }

    /// A user who has run `up --nodes N`.
    pub fn up(nodes: u32) -> Self {
        let cluster = Self::none();
        cluster.ok(&["up", "--nodes", &nodes.to_string()]);
        cluster
    }

    /// The directory in which commands run.
    pub fn work(&self) -> PathBuf {
        self.home.path().join("work")
    }

    /// Where `up` keeps the pool.
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data/bytenode")
    }

    /// Writes a file there.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.work().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Reads a file there.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.work().join(name)).unwrap()
    }

    /// A command of this user, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bytenode"));
        self.environment(&mut command).args(arguments).stdin(Stdio::null());
        command
    }

    /// Gives a command this user's environment.
    pub fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let home = self.home.path();
        command.env_clear().env("HOME", home).current_dir(self.work());
        for (variable, dir) in
            [("XDG_CONFIG_HOME", "config"), ("XDG_DATA_HOME", "data"), ("XDG_STATE_HOME", "state"), ("TMPDIR", "work")]
        {
            command.env(variable, home.join(dir));
        }
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.command(arguments).output().unwrap())
    }

    /// Runs a command that must succeed.
    pub fn ok(&self, arguments: &[&str]) -> Ran {
        self.exits(0, arguments)
    }

    /// Runs a command that must end with this code.
    pub fn exits(&self, code: i32, arguments: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?}\n{}{}{}", ran.text(), ran.stderr, self.log_tail());
        ran
    }

    /// Runs a command with `--json`, whatever its code; its lines, the last of them a summary or an error.
    pub fn json(&self, arguments: &[&str]) -> (Vec<Value>, i32) {
        let ran = self.run(&[&["--json"], arguments].concat());
        (ran.lines(), ran.code)
    }

    /// The summary that a successful command ends with.
    pub fn summary(&self, arguments: &[&str]) -> Value {
        self.summary_of(0, arguments)
    }

    /// The last line of a command that must end with this code.
    pub fn summary_of(&self, code: i32, arguments: &[&str]) -> Value {
        let (lines, found) = self.json(arguments);
        assert_eq!(found, code, "{arguments:?}: {lines:?}");
        lines.last().unwrap().clone()
    }

    /// The chunks of a remote file, in order.
    pub fn chunks(&self, remote: &str) -> Vec<ChunkId> {
        let (lines, code) = self.json(&["stat", remote]);
        assert_eq!(code, 0, "{lines:?}");
        let chunks = lines.iter().filter(|line| line["type"] == "chunk");
        chunks.map(|line| line["cid"].as_str().unwrap().parse().unwrap()).collect()
    }

    /// Gets a file and compares it with the local one of its name.
    pub fn gets_back(&self, name: &str) {
        self.ok(&["get", "--overwrite", "always", &format!("bn:/{name}"), "back"]);
        assert!(self.read("back") == self.read(name), "{name} came back with other bytes");
    }

    /// The file in which `up` remembers what it started.
    pub fn state_file(&self) -> PathBuf {
        self.home.path().join("state/bytenode/pool-default.json")
    }

    /// The coordinator and the nodes, as remembered.
    pub fn members(&self) -> Vec<Member> {
        let Ok(text) = fs::read(self.state_file()) else { return Vec::new() };
        let state: Value = serde_json::from_slice(&text).unwrap();
        let data = Path::new(state["data"].as_str().unwrap());
        let member = |name: &str, process: &Value, data: PathBuf| {
            let pid = u32::try_from(process["pid"].as_u64()?).unwrap();
            Some(Member { name: name.into(), pid, url: process["url"].as_str()?.into(), data })
        };
        let coordinator = member("coordinator", &state["coordinator"], data.join("coordinator"));
        let nodes = state["nodes"].as_array().unwrap().iter().filter_map(|node| {
            let name = node["name"].as_str().unwrap();
            member(name, &node["process"], data.join("nodes").join(name))
        });
        coordinator.into_iter().chain(nodes).collect()
    }

    /// One of them.
    pub fn member(&self, name: &str) -> Member {
        self.members().into_iter().find(|member| member.name == name).unwrap()
    }

    /// The nodes alone.
    pub fn nodes(&self) -> Vec<Member> {
        self.members().into_iter().filter(|member| member.name != "coordinator").collect()
    }

    /// Kills one and waits for its end.
    pub fn kill(&self, name: &str) {
        self.member(name).kill();
    }

    /// The last lines of every log, for a failed expectation.
    fn log_tail(&self) -> String {
        let Ok(logs) = fs::read_dir(self.home.path().join("state/bytenode/log")) else { return String::new() };
        let mut text = String::new();
        for log in logs.map(|entry| entry.unwrap().path()) {
            let lines = String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
            let lines: Vec<&str> = lines.lines().collect();
            text += &format!("--- {}\n{}\n", log.display(), lines[lines.len().saturating_sub(5)..].join("\n"));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Directly, not with `down`, which would wait for a process that is stopped; `down` has its own tests.
        self.members().iter().filter(|member| member.runs()).for_each(|member| member.signal(Signal::KILL));
    }
}

impl Member {
    /// Whether the process with this id is still the one that keeps this data, and has not ended.
    pub fn runs(&self) -> bool {
        command_line(self.pid).is_some_and(|line| line.contains(self.data.to_str().unwrap()))
    }

    /// Sends a signal, unless the id has passed to another process.
    pub fn signal(&self, signal: Signal) {
        if self.runs() {
            // One that has ended meanwhile is as good.
            let _ = kill_process(pid(self.pid), signal);
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        wait_for(&format!("the end of {}", self.name), || !self.runs());
    }
}

impl Ran {
    /// Of what the standard library gives.
    pub fn of(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        let code = status.code().or_else(|| std::os::unix::process::ExitStatusExt::signal(&status).map(|n| 128 + n));
        Self { stdout, stderr: String::from_utf8(stderr).unwrap(), code: code.unwrap() }
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON lines, of which each has a type and the last is a summary or an error.
    pub fn lines(&self) -> Vec<Value> {
        let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let lines: Vec<Value> = self.text().lines().map(read).collect();
        assert!(lines.iter().all(|line| line["type"].is_string()), "{lines:?}");
        let last = lines.last().unwrap_or_else(|| panic!("no JSON\n{}", self.stderr));
        assert!(last["type"] == "summary" || last["type"] == "error", "{last}");
        lines
    }
}

/// How often a check found what: path, kind and node of its findings that name a node.
pub fn findings(lines: &[Value]) -> BTreeMap<[String; 3], usize> {
    let mut found = BTreeMap::new();
    for line in lines.iter().filter(|line| line["type"] == "finding" && line["node"].is_string()) {
        let of = ["path", "kind", "node"].map(|field| line[field].as_str().unwrap_or("").to_owned());
        *found.entry(of).or_default() += 1;
    }
    found
}

/// Waits until something holds.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        // Not a guess at a duration: only how often the condition is looked at.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Sends a signal to a child.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Kills a child if a test ends before it does.
pub struct Guarded(pub Child);

impl Guarded {
    /// Reads a line of its standard output.
    pub fn first_line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    /// Reads all that it still has to say, and waits for its end.
    pub fn end(&mut self) -> Ran {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.0.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        Ran::of(Output { status: self.0.wait().unwrap(), stdout, stderr })
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command line of a process that has not ended.
pub fn command_line(pid: u32) -> Option<String> {
    let output = Command::new("ps").args(["-ww", "-o", "stat=,args=", "-p", &pid.to_string()]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty() && !text.starts_with('Z')).then_some(text)
}

/// Ids of processes whose command line has these words, other than this one.
pub fn processes_with(words: &str) -> Vec<u32> {
    let output = Command::new("ps").args(["-A", "-ww", "-o", "pid=,stat=,args="]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let of = |line: &str| {
        let mut parts = line.split_whitespace();
        let (pid, stat) = (parts.next()?.parse().ok()?, parts.next()?);
        (line.contains(words) && !stat.starts_with('Z') && pid != std::process::id()).then_some(pid)
    };
    text.lines().filter_map(of).collect()
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Bytes that no two calls with different seeds share, and that do not compress.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Length and SHA-256 of what is read, in pieces: it may be larger than memory.
pub fn hashed(mut input: impl Read) -> (u64, [u8; 32]) {
    let (mut length, mut hash, mut buffer) = (0, FileHash::new(), vec![0; 1 << 20]);
    loop {
        match input.read(&mut buffer).unwrap() {
            0 => return (length, hash.finish()),
            got => {
                length += got as u64;
                hash.update(&buffer[..got]);
            }
        }
    }
}
