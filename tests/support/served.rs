//! Nodes of a pool, each a process of its own behind a proxy: built-in ones, and real Kubo daemons. They end with the value.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytenode::car;
use bytenode::id::{ChunkId, PackRoot};
use bytenode::pack::PackHeader;
use rustix::process::Signal;
use serde_json::Value;

use super::cluster::{Cluster, Guarded, signal};
use super::kubo::Kubo;
use super::proxy::{Proxy, Spoil};

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Like {
    Builtin,
    Kubo,
}

/// The process.
pub enum Server {
    Builtin { process: Guarded, data: PathBuf, url: String },
    Kubo(Box<Kubo>),
}

/// A node and the way to it.
pub struct Node {
    pub name: String,
    pub server: Server,
    rpc: Proxy,
    gateway: Option<Proxy>,
}

/// Where on its disk a node keeps a chunk.
#[derive(Debug, Clone)]
pub struct Kept {
    pub file: PathBuf,
    /// The chunk's bytes within the file, as they were written.
    pub at: Range<usize>,
}

impl Kept {
    /// What stands there now, as far as the file goes.
    pub fn bytes(&self) -> Vec<u8> {
        let all = fs::read(&self.file).unwrap_or_default();
        all[self.at.start.min(all.len())..self.at.end.min(all.len())].to_vec()
    }
}

/// Starts a built-in node; gives its URL.
fn serve(user: &Cluster, data: &PathBuf, more: &[&str]) -> (Guarded, String) {
    let mut command = user.command(&["internal-node", "--listen", "127.0.0.1:0", "--stop-on-eof", "--data"]);
    command.arg(data).args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Guarded(command.spawn().unwrap());
    let url = process.first_line().trim().to_owned();
    (process, url)
}

impl Node {
    /// Starts a node, Kubo with these settings, and registers it under the address of its proxy. Nothing where there is no
    /// Kubo.
    pub fn start(user: &Cluster, like: Like, name: String, settings: &[(&str, Value)]) -> Option<Self> {
        let server = match like {
            Like::Builtin => {
                let data = user.work().join(format!("data-{name}"));
                let (process, url) = serve(user, &data, &[]);
                Server::Builtin { process, data, url }
            }
            Like::Kubo => Server::Kubo(Box::new(Kubo::start(settings)?)),
        };
        let rpc = Proxy::to(server.rpc());
        let gateway = server.gateway().map(Proxy::to);
        let node = Self { name, server, rpc, gateway };
        node.register(user);
        Some(node)
    }

    /// Registers it, again or for the first time.
    pub fn register(&self, user: &Cluster) {
        let mut words = vec!["admin", "node", "add", &self.rpc.url, "--name", &self.name, "--capacity", "2G"];
        let code = match &self.server {
            Server::Builtin { data, .. } => Some(data.join("join.code")).filter(|code| code.exists()),
            Server::Kubo(_) => None,
        };
        if let Some(code) = &code {
            words.extend(["--token-file", code.to_str().unwrap()]);
        }
        if let Some(gateway) = &self.gateway {
            words.extend(["--gateway", &gateway.url]);
        }
        user.ok(&words);
    }

    /// Registers whoever serves at its address, under the name that it has in the pool.
    pub fn register_as_it_is(&self, user: &Cluster) {
        let mut words = vec!["admin", "node", "add", &self.rpc.url];
        if let Some(gateway) = &self.gateway {
            words.extend(["--gateway", &gateway.url]);
        }
        user.ok(&words);
    }

    /// From now on what passes to and from it is spoilt, or no longer is.
    pub fn spoil(&self, how: Option<Spoil>) {
        self.rpc.spoil(how);
        self.gateway.iter().for_each(|gateway| gateway.spoil(how));
    }

    /// Its address leads to what serves there.
    pub fn lead_to(&self, other: &Server) {
        self.rpc.lead_to(other.rpc());
        if let (Some(gateway), Some(url)) = (&self.gateway, other.gateway()) {
            gateway.lead_to(url);
        }
    }

    /// Stops it where it stands, or lets it go on.
    pub fn signal(&self, how: Signal) {
        match &self.server {
            Server::Builtin { process, .. } => signal(&process.0, how),
            Server::Kubo(kubo) if how == Signal::STOP => kubo.freeze(),
            Server::Kubo(kubo) => kubo.thaw(),
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        match &mut self.server {
            Server::Builtin { process, .. } => {
                process.0.kill().unwrap();
                process.0.wait().unwrap();
            }
            Server::Kubo(kubo) => kubo.kill(),
        }
    }

    /// Kills it and starts it again: a built-in node with these options, Kubo with these settings.
    pub fn restart(&mut self, user: &Cluster, options: &[&str], settings: &[(&str, Value)]) {
        self.kill();
        match &mut self.server {
            Server::Builtin { process, data, url } => (*process, *url) = serve(user, data, options),
            Server::Kubo(kubo) => {
                kubo.set(settings);
                kubo.restart();
            }
        }
        self.lead_to(&self.server);
    }

    /// Loses the bytes of every chunk.
    pub fn lose(&mut self, user: &Cluster) {
        self.kill();
        let files = match &self.server {
            Server::Builtin { data, .. } => files_below(&data.join("packs")),
            Server::Kubo(kubo) => kubo.block_files(),
        };
        // Kubo's own blocks are small.
        for file in files.iter().filter(|file| file.metadata().unwrap().len() > 200_000) {
            fs::remove_file(file).unwrap();
        }
        self.restart(user, &[], &[]);
    }

    /// Everywhere that it has bytes for a chunk, right or wrong: in the file of a pack, or as the file of a block.
    pub fn kept(&self, chunk: &ChunkId) -> Vec<Kept> {
        match &self.server {
            Server::Builtin { data, .. } => {
                let packs = files_below(&data.join("packs"));
                packs.into_iter().filter_map(|file| Some(Kept { at: within(&file, chunk)?, file })).collect()
            }
            Server::Kubo(kubo) => {
                let name = kubo.block_file(chunk);
                let length = name.metadata().map(|file| file.len());
                length.into_iter().map(|length| Kept { file: name.clone(), at: 0..length as usize }).collect()
            }
        }
    }

    /// Whether the right bytes of a chunk are on its disk.
    pub fn has_right(&self, chunk: &ChunkId) -> bool {
        self.kept(chunk).iter().any(|kept| chunk.names(&kept.bytes()))
    }

    /// What it protects: files of packs, or pins.
    pub fn held(&self) -> BTreeSet<String> {
        match &self.server {
            Server::Builtin { data, .. } => {
                files_below(&data.join("packs")).iter().map(|path| path.display().to_string()).collect()
            }
            Server::Kubo(kubo) => {
                let pins = kubo.command().args(["pin", "ls", "--type=recursive", "-q"]).output().unwrap();
                String::from_utf8(pins.stdout).unwrap().lines().map(str::to_owned).collect()
            }
        }
    }
}

impl Server {
    /// Where it serves.
    pub fn rpc(&self) -> &str {
        match self {
            Self::Builtin { url, .. } => url,
            Self::Kubo(kubo) => &kubo.api,
        }
    }

    /// Where its gateway serves, if it has one.
    pub fn gateway(&self) -> Option<&str> {
        match self {
            Self::Builtin { .. } => None,
            Self::Kubo(kubo) => Some(&kubo.gateway),
        }
    }
}

/// Where in a pack's file a chunk is, by the root that the file begins with.
fn within(file: &Path, chunk: &ChunkId) -> Option<Range<usize>> {
    let root: PackRoot = file.file_stem()?.to_str()?.parse().ok()?;
    let bytes = fs::read(file).ok()?;
    let mut rest = bytes.get(car::header(&root).len()..)?;
    let mut section = 0;
    for shift in (0..).step_by(7) {
        let byte = *rest.split_off_first()?;
        section |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let header = PackHeader::parse(rest.get(root.cid().encoded_len()..section)?).ok()?;
    let at = header.entries.iter().position(|entry| entry.chunk == *chunk)?;
    let start = header.offsets()[at] as usize;
    Some(start..start + header.entries[at].bytes as usize)
}

/// All files below a directory.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
