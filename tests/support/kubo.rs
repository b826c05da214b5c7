//! A real Kubo daemon in a temporary directory: loopback, free ports, no network; stopped by its id when dropped.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Once;

use bytenode::id::ChunkId;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A running daemon.
pub struct Kubo {
    dir: TempDir,
    child: Child,
    /// Kept open: the daemon must be able to write.
    _stdout: BufReader<ChildStdout>,
    /// Its peer id.
    pub id: String,
    /// `http://127.0.0.1:PORT` of its RPC interface.
    pub api: String,
    /// The same of its gateway.
    pub gateway: String,
}

/// What is said, once in a run of the tests, where there is no Kubo.
pub const SKIPPED: &str = "skipped for want of ipfs (none on PATH, no BYTENODE_TEST_IPFS): all tests with a real Kubo, \
                           which are conformance, registration, pools, gateways, tokens and the roots of `ipfs add`";

/// The executable: `BYTENODE_TEST_IPFS`, else `ipfs` on PATH. Nothing, and [`SKIPPED`] said by the first who asks, where
/// there is none: a test that gets nothing here has nothing to do.
pub fn binary() -> Option<PathBuf> {
    static SAID: Once = Once::new();
    let on_path = || env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join("ipfs")).find(|path| path.is_file());
    let found = env::var_os("BYTENODE_TEST_IPFS").map(PathBuf::from).or_else(on_path);
    if found.is_none() {
        // Not `eprintln!`, whose output a test that passes keeps to itself. The line before may be unfinished.
        SAID.call_once(|| std::io::stderr().write_all(format!("\n{SKIPPED}\n").as_bytes()).unwrap());
    }
    found
}

impl Kubo {
    /// Starts a daemon as ByteNode wants it, with `config` (dotted keys) on top. Nothing where there is no [`binary`].
    pub fn start(config: &[(&str, Value)]) -> Option<Self> {
        let binary = binary()?;
        let dir = tempfile::tempdir().unwrap();
        let made = command(&binary, dir.path()).args(["init", "--profile=test"]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let id = configure(&dir.path().join("config"), config);
        let (child, stdout) = serve(&binary, dir.path());
        let (api, gateway) = addresses(dir.path());
        Some(Self { dir, child, _stdout: stdout, id, api, gateway })
    }

    /// Stops it and starts it again, with what its configuration says now.
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self._stdout) = serve(&binary().unwrap(), self.dir.path());
        (self.api, self.gateway) = addresses(self.dir.path());
    }

    /// Where it keeps its repository.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A command of `ipfs` for this daemon, not started yet.
    pub fn command(&self) -> Command {
        command(&binary().unwrap(), self.path())
    }

    /// The files of its blocks.
    pub fn block_files(&self) -> Vec<PathBuf> {
        let shards = fs::read_dir(self.path().join("blocks")).unwrap().map(|entry| entry.unwrap().path());
        let files = shards.filter(|path| path.is_dir()).flat_map(|dir| fs::read_dir(dir).unwrap());
        files.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "data")).collect()
    }

    /// The file of a chunk's block, whether it is there or not: named by the multihash, sharded by its last but one letters.
    pub fn block_file(&self, chunk: &ChunkId) -> PathBuf {
        let hash = [&[0x12, 0x20], &chunk.digest()[..]].concat();
        let name = data_encoding::BASE32_NOPAD.encode(&hash);
        self.path().join("blocks").join(&name[name.len() - 3..name.len() - 1]).join(name + ".data")
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sets keys (dotted) of its configuration for the next start.
    pub fn set(&self, config: &[(&str, Value)]) {
        configure(&self.dir.path().join("config"), config);
    }

    /// Stops it where it stands: connections are taken, and nothing answers.
    #[cfg(unix)]
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets it go on.
    #[cfg(unix)]
    pub fn thaw(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    #[cfg(unix)]
    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Calls its RPC interface directly and gives the body, whatever the status.
    pub async fn call(&self, path: &str) -> String {
        let answer = reqwest::Client::new().post(format!("{}/api/v0/{path}", self.api)).send().await.unwrap();
        answer.text().await.unwrap()
    }
}

impl Drop for Kubo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(binary: &Path, repository: &Path) -> Command {
    let mut command = Command::new(binary);
    command.env("IPFS_PATH", repository).env("IPFS_TELEMETRY", "off").stdin(Stdio::null());
    command
}

/// Starts the daemon; returns when it is ready.
fn serve(binary: &Path, repository: &Path) -> (Child, BufReader<ChildStdout>) {
    let log = File::create(repository.join("daemon.log")).unwrap();
    let mut child = command(binary, repository).arg("daemon").stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("Daemon is ready") {
        line.clear();
        let read = stdout.read_line(&mut line).unwrap();
        assert!(read > 0, "{}", fs::read_to_string(repository.join("daemon.log")).unwrap());
    }
    (child, stdout)
}

/// The URLs of its RPC interface and of its gateway.
fn addresses(repository: &Path) -> (String, String) {
    let gateway = fs::read_to_string(repository.join("gateway")).unwrap().trim().to_owned();
    (address(&repository.join("api")), gateway)
}

/// Sets keys in the configuration file; says the peer id.
fn configure(file: &Path, keys: &[(&str, Value)]) -> String {
    let mut config: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    let ours = [
        ("Datastore.BlockKeyCacheSize", json!(0)),
        ("Gateway.NoFetch", json!(true)),
        ("Provide.Enabled", json!(false)),
        ("Routing.Type", json!("none")),
    ];
    for (key, value) in ours.iter().chain(keys) {
        let pointer = key.split('.').fold(&mut config, |at, part| &mut at[part]);
        *pointer = value.clone();
    }
    fs::write(file, serde_json::to_vec(&config).unwrap()).unwrap();
    config["Identity"]["PeerID"].as_str().unwrap().to_owned()
}

/// `/ip4/127.0.0.1/tcp/5001` as a URL.
fn address(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let parts: Vec<&str> = text.trim().split('/').collect();
    format!("http://{}:{}", parts[2], parts[4])
}
