//! A pool that is kept: a coordinator and built-in nodes over directories that outlive the run.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytenode::client::{Client, ClientLimits};
use bytenode::node::GrantToken;
use rusqlite::Connection;

use crate::NODES;
use crate::process::{client, executable, serve, token};

/// A pool that runs.
pub struct Pool {
    executable: PathBuf,
    dir: PathBuf,
    nodes: Vec<(Child, String)>,
    coordinator: Option<Child>,
    url: String,
}

impl Drop for Pool {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().map(|(child, _)| child).chain(&mut self.coordinator) {
            // One that has ended already is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Pool {
    /// Makes a pool in an empty directory, and has its nodes join.
    pub fn make(dir: &Path) -> Result<Self> {
        let mut pool = Self::nodes(dir)?;
        pool.start_coordinator()?;
        for (index, (_, url)) in pool.nodes.iter().enumerate() {
            let (name, mut command) = (name(index), client(&pool.executable, &pool.url, &pool.data(), dir)?);
            command.args(["-q", "admin", "node", "add", url, "--name", &name, "--token-file"]);
            let output = command.arg(dir.join(&name).join("join.code")).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "node {name} did not join: {said}");
        }
        Ok(pool)
    }

    /// Starts a pool that was made.
    pub fn start(dir: &Path) -> Result<Self> {
        let mut pool = Self::nodes(dir)?;
        // The nodes listen where there is room today.
        let catalog = Connection::open(catalog(dir))?;
        for (index, (_, url)) in pool.nodes.iter().enumerate() {
            let changed = catalog
                .execute("UPDATE node SET url = ?2, gateway = ?2 WHERE name = ?1", (name(index), url.as_str()))?;
            ensure!(changed == 1, "the catalog does not know {}", name(index));
        }
        drop(catalog);
        pool.start_coordinator()?;
        Ok(pool)
    }

    fn nodes(dir: &Path) -> Result<Self> {
        let executable = executable("bytenode")?;
        let mut pool =
            Self { executable, dir: dir.to_owned(), nodes: Vec::new(), coordinator: None, url: String::new() };
        for index in 0..NODES as usize {
            let name = name(index);
            let node = serve(&pool.executable, "internal-node", &dir.join(&name), &["--name", &name])?;
            pool.nodes.push(node);
        }
        Ok(pool)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("coordinator")
    }

    /// Starts the coordinator; gives the time until it serves.
    pub fn start_coordinator(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let (child, url) = serve(&self.executable, "internal-coordinator", &self.data(), &[])?;
        let taken = begun.elapsed();
        (self.coordinator, self.url) = (Some(child), url);
        Ok(taken)
    }

    /// Stops the coordinator as a person would.
    pub fn stop_coordinator(&mut self) -> Result<()> {
        let Some(mut child) = self.coordinator.take() else { return Ok(()) };
        drop(child.stdin.take());
        ensure!(child.wait()?.success(), "the coordinator did not end well");
        Ok(())
    }

    /// Kills it.
    pub fn kill_coordinator(&mut self) -> Result<()> {
        let Some(mut child) = self.coordinator.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts it again with nothing of its catalog in the system's cache.
    pub fn restart_cold(&mut self) -> Result<()> {
        self.stop_coordinator()?;
        #[cfg(target_os = "linux")]
        {
            let file = std::fs::File::open(catalog(&self.dir))?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
        self.start_coordinator().map(drop)
    }

    /// Stops all of it.
    pub fn stop(mut self) -> Result<()> {
        self.stop_coordinator()?;
        for (child, _) in &mut self.nodes {
            drop(child.stdin.take());
            child.wait()?;
        }
        Ok(())
    }

    /// The coordinator's process.
    pub fn coordinator_pid(&self) -> u32 {
        self.coordinator.as_ref().map_or(0, Child::id)
    }

    /// A client, signed in.
    pub fn client(&self) -> Result<Client> {
        let token = GrantToken::new(token(&self.data())?);
        Client::new(&self.url, token, ClientLimits::default()).context("the coordinator's address")
    }

    /// Runs a command of `bytenode` that prints so many lines; gives the time from its start to its end.
    pub fn run(&self, arguments: &[&str], lines: u64) -> Result<Duration> {
        let mut command = client(&self.executable, &self.url, &self.data(), &self.dir)?;
        command.args(arguments).stdout(Stdio::piped());
        let begun = Instant::now();
        let output = command.spawn()?.wait_with_output()?;
        let taken = begun.elapsed();
        ensure!(output.status.success(), "bytenode {} failed", arguments.join(" "));
        let found = output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64;
        ensure!(found == lines, "bytenode {}: {found} lines", arguments.join(" "));
        Ok(taken)
    }
}

fn name(index: usize) -> String {
    format!("n{}", index + 1)
}

/// The catalog of a pool.
pub fn catalog(dir: &Path) -> PathBuf {
    dir.join("coordinator").join("catalog.db")
}
