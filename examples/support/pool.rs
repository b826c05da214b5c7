//! A throwaway pool of real processes: the executables built beside the examples, and `ipfs` daemons.
//!
//! Nothing outlives it: built-in nodes end when their standard input does, however this process ends; the others are
//! ended by their numbers, and a watcher that ends like a built-in node ends them if this process is killed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use tempfile::TempDir;

use crate::process::{self, executable, serve, served, watch};

/// How long a daemon may take to start.
const START: Duration = Duration::from_secs(60);

/// What the nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// ByteNode's own.
    Builtin,
    /// `ipfs` daemons.
    Kubo,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Kubo { "Kubo" } else { "built-in" })
    }
}

/// One node.
pub struct PoolNode {
    /// Its name in the pool.
    pub name: String,
    /// Base URL that takes packs.
    pub api: String,
    /// Base URL that gives chunks.
    pub gateway: String,
    /// Where Kubo keeps it.
    pub path: PathBuf,
    child: Child,
    _watcher: Option<Child>,
}

impl PoolNode {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// The pool; dropping it ends its processes and removes its directory.
pub struct Pool {
    /// The nodes.
    pub nodes: Vec<PoolNode>,
    /// The coordinator's URL.
    pub url: String,
    /// The coordinator's data directory.
    pub coordinator_data: PathBuf,
    coordinator: Child,
    watcher: Option<Child>,
    executable: PathBuf,
    home: TempDir,
}

impl Drop for Pool {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().map(|node| &mut node.child).chain([&mut self.coordinator]) {
            // One that has ended already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
        // The watchers wait for the end of their input, which is dropped with them; nothing is left for them to end.
    }
}

impl Pool {
    /// Starts a coordinator with this configuration and nodes, and has the nodes join. `name` is the example's.
    pub fn start(name: &str, kind: Kind, nodes: u32, config: &str, within: Option<&Path>) -> Result<Self> {
        let executable = executable("bytenode")?;
        let prefix = format!("bytenode-{name}-");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        let home = within.map_or_else(|| builder.tempdir(), |dir| builder.tempdir_in(dir))?;
        let data = home.path().join("coordinator");
        let (coordinator, url) = start_coordinator(&data, config)?;
        let watcher = watch(coordinator.id());
        let mut pool = Self { nodes: Vec::new(), url, coordinator_data: data, coordinator, watcher, executable, home };
        for number in 1..=nodes {
            let name = format!("n{number}");
            let path = pool.home.path().join(&name);
            let node = match kind {
                Kind::Builtin => pool.start_builtin(name, path)?,
                Kind::Kubo => start_kubo(name, path)?,
            };
            pool.nodes.push(node);
            pool.join(kind, number as usize - 1)?;
        }
        Ok(pool)
    }

    /// Starts the coordinator anew with another configuration. What changes its catalog by hand is called meanwhile.
    pub fn restart(&mut self, config: &str, meanwhile: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        process::stop(&mut self.coordinator)?;
        self.watcher = None;
        meanwhile(&self.catalog())?;
        (self.coordinator, self.url) = start_coordinator(&self.coordinator_data, config)?;
        self.watcher = watch(self.coordinator.id());
        Ok(())
    }

    /// The coordinator's catalog.
    pub fn catalog(&self) -> PathBuf {
        self.coordinator_data.join("catalog.db")
    }

    /// The processes: the coordinator's, then those of the nodes.
    pub fn pids(&self) -> Vec<u32> {
        [self.coordinator_pid()].into_iter().chain(self.nodes.iter().map(PoolNode::pid)).collect()
    }

    /// The coordinator's process.
    pub fn coordinator_pid(&self) -> u32 {
        self.coordinator.id()
    }

    /// A directory for what is made on the way.
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// The admin's token.
    pub fn token(&self) -> Result<String> {
        process::token(&self.coordinator_data)
    }

    /// A `bytenode` command, signed in, that reads nothing of the user's own profile.
    pub fn client(&self) -> Result<Command> {
        process::client(&self.executable, &self.url, &self.coordinator_data, self.home.path())
    }

    fn start_builtin(&self, name: String, path: PathBuf) -> Result<PoolNode> {
        let (child, url) = serve(&self.executable, "internal-node", &path, &["--name", &name])?;
        Ok(PoolNode { name, api: url.clone(), gateway: url, path, child, _watcher: None })
    }

    fn join(&self, kind: Kind, index: usize) -> Result<()> {
        let node = &self.nodes[index];
        let mut command = self.client()?;
        command.args(["-q", "admin", "node", "add", &node.api, "--name", &node.name]);
        match kind {
            Kind::Builtin => command.arg("--token-file").arg(node.path.join("join.code")),
            Kind::Kubo => command.args(["--gateway", &node.gateway]),
        };
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "node {} did not join: {said}", node.name);
        Ok(())
    }
}

fn start_coordinator(data: &Path, config: &str) -> Result<(Child, String)> {
    let file = data.with_extension("toml");
    std::fs::write(&file, config)?;
    served(Command::new(executable("bytenoded")?).arg("--config").arg(file), data)
}

/// Whether `ipfs` is there.
pub fn has_ipfs() -> bool {
    Command::new("ipfs").arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A private Kubo daemon on free loopback ports, which talks to nobody.
fn start_kubo(name: String, path: PathBuf) -> Result<PoolNode> {
    std::fs::create_dir_all(&path)?;
    let ipfs = |arguments: &[&str]| -> Result<()> {
        let output = Command::new("ipfs").args(arguments).env("IPFS_PATH", &path).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ipfs {}: {said}", arguments.join(" "));
        Ok(())
    };
    ipfs(&["init", "--profile=test,unixfs-v1-2025"])?;
    let settings = [
        ("Routing", r#"{"Type": "none"}"#),
        ("Provide", r#"{"Enabled": false}"#),
        ("Discovery.MDNS.Enabled", "false"),
        ("Gateway.NoFetch", "true"),
        ("Datastore.BlockKeyCacheSize", "0"),
    ];
    for (key, value) in settings {
        ipfs(&["config", "--json", key, value])?;
    }
    let log = std::fs::File::create(path.with_extension("log"))?;
    let mut command = Command::new("ipfs");
    command.arg("daemon").env("IPFS_PATH", &path).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn()?;
    let watcher = watch(child.id());
    let end = Instant::now() + START;
    let text = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default().trim().to_owned();
    let mut node =
        PoolNode { name, api: String::new(), gateway: String::new(), path: path.clone(), child, _watcher: watcher };
    while (node.api.is_empty() || node.gateway.is_empty()) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
        node.api = base_url(&text("api"));
        node.gateway = base_url(&text("gateway"));
    }
    if node.api.is_empty() || node.gateway.is_empty() {
        let _ = node.child.kill();
        let _ = node.child.wait();
        bail!("ipfs did not start; see {}", path.with_extension("log").display());
    }
    Ok(node)
}

/// A URL from what Kubo writes: a multiaddr or a URL; nothing while it is not there.
fn base_url(text: &str) -> String {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        ["", "ip4", host, "tcp", port] => format!("http://{host}:{port}"),
        _ => text.trim_end_matches('/').to_owned(),
    }
}
