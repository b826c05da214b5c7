//! The test of a node before it is registered: every step that ByteNode will need, once, over HTTP.
//!
//! It changes nothing for good: the one pack it writes is dropped again, whatever happened in between. The steps stop
//! at the first that nothing can follow; risks are found only where all steps passed. No text holds a credential.

mod address;
mod risks;

use bytes::Bytes;

pub use self::address::{AddressError, parse as parse_address};
use crate::admin::{CheckResult, NodeCheck};
use crate::api::NodeKind;
use crate::grant::MAX_SKEW;
use crate::id::{ChunkId, NodeId, PackId, PoolId};
use crate::node::http::{Credential, HttpNode, HttpNodeOptions, Limits};
use crate::node::{ChunkAt, Node, NodeError, NodeFailure, NodeStatus, Receipt};
use crate::pack::{Pack, PackEntry, PackHeader};
use crate::seam::Seam;

/// The oldest Kubo that is used: 0.33 is the first that writes through its cache.
const OLDEST_KUBO: (u64, u64) = (0, 33);
/// Length of the full chunk that is written: 1 MiB and the tag of a sealed chunk.
const FULL_CHUNK_BYTES: usize = (1 << 20) + 16;

/// What to do about a built-in node that is another one or does not prove who it is.
pub const IMPOSTOR_HINT: &str = "see what listens at its address, and on which machine; a built-in node of an older \
                                 version proves nothing: update it";

/// What to do about a Kubo that is too old.
pub const OLD_KUBO_HINT: &str = "install Kubo 0.33 or later and restart it";

/// What to test.
#[derive(Debug, Clone)]
pub struct ProbeOptions {
    /// The name people will use; empty for its address.
    pub name: String,
    /// Its address, as people write it; see [`parse_address`].
    pub address: String,
    /// Its gateway, likewise; nothing to find it by its configuration.
    pub gateway: Option<String>,
    /// How the coordinator's calls are permitted.
    pub credential: Credential,
    /// Who it must be, if it is registered already.
    pub expected_id: Option<NodeId>,
    /// What the root of the test's pack says.
    pub pool: PoolId,
    /// What the root of the test's pack says.
    pub epoch: u64,
    /// A number of the pool's sequence, for the test's pack alone.
    pub pack: PackId,
    /// How long the node may take.
    pub limits: Limits,
    /// Time, chance and threads.
    pub seam: Seam,
}

/// What a test found.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Every step in order, then risks.
    pub checks: Vec<NodeCheck>,
    /// The node, where every step passed.
    pub node: Option<Probed>,
}

/// A node that passed its test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// What it is.
    pub kind: NodeKind,
    /// Base URL of the interface that takes packs.
    pub url: String,
    /// Base URL of its gateway; empty where reads go through the first.
    pub gateway: String,
    /// What it said of itself.
    pub status: NodeStatus,
    /// The signed receipt of the test's pack; a built-in node gives one.
    pub receipt: Receipt,
}

/// Tests a node wholly. Never fails: a step that failed is one of the checks.
pub async fn probe(options: &ProbeOptions) -> Probe {
    let mut checks = Checks::default();
    let node = run(options, &mut checks).await;
    let passed = checks.0.iter().all(|check| check.result != CheckResult::Failed);
    Probe { checks: checks.0, node: node.filter(|_| passed) }
}

/// What can go wrong on a Kubo that is registered; writes nothing to it. Nothing where it does not answer.
pub async fn find_risks(node: &HttpNode, url: &str) -> Vec<NodeCheck> {
    let mut checks = Checks::default();
    if let Ok(status) = node.status().await
        && kubo_version(&mut checks, node).await.is_some()
    {
        risks::find(&mut checks, node, url, status.free_bytes).await;
    }
    checks.0
}

/// Whether a version of Kubo, like `0.42.0` or `0.43.0-rc1`, can be used; nothing for what is no version.
pub fn is_usable_kubo(version: &str) -> Option<bool> {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u64>().ok());
    let (major, minor) = (numbers.next()??, numbers.next()??);
    Some((major, minor) >= OLDEST_KUBO)
}

/// The findings so far.
#[derive(Default)]
struct Checks(Vec<NodeCheck>);

impl Checks {
    fn add(&mut self, check: &str, result: CheckResult, message: impl Into<String>, hint: Option<String>) {
        self.0.push(NodeCheck { check: check.to_owned(), result, message: message.into(), hint });
    }

    fn ok(&mut self, check: &str, message: impl Into<String>) {
        self.add(check, CheckResult::Ok, message, None);
    }

    fn risk(&mut self, check: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(check, CheckResult::Risk, message, Some(hint.into()));
    }

    fn failed(&mut self, check: &str, message: impl Into<String>, hint: Option<String>) {
        self.add(check, CheckResult::Failed, message, hint);
    }
}

async fn run(options: &ProbeOptions, checks: &mut Checks) -> Option<Probed> {
    let url = match parse_address(&options.address) {
        Ok(url) => url,
        Err(error) => {
            checks.failed("reach", error.to_string(), None);
            return None;
        }
    };
    let rpc = connect(options, checks, &url, NodeKind::Kubo, "")?;
    let kind = reach(checks, &rpc, &url).await?;
    let known = connect(options, checks, &url, kind, "")?;
    let status = identity(checks, &known).await?;
    let gateway = match kind {
        NodeKind::Builtin => url.clone(),
        _ => gateway(options, checks, &rpc, &url).await?,
    };
    let node = connect(options, checks, &url, kind, &gateway)?;
    let receipt = exercise(options, checks, &node, kind).await?;
    let free = status.free_bytes;
    let needed = 2 * FULL_CHUNK_BYTES as u64;
    if free < needed {
        checks.failed("space", format!("{} free", size(free)), None);
        return None;
    }
    checks.ok("space", format!("{} free, {} used", size(free), size(status.used_bytes)));
    clock(options, checks, &status);
    if kind == NodeKind::Kubo {
        risks::find(checks, &rpc, &url, free).await;
    }
    Some(Probed { kind, url, gateway, status, receipt })
}

fn connect(
    options: &ProbeOptions,
    checks: &mut Checks,
    url: &str,
    kind: NodeKind,
    gateway: &str,
) -> Option<std::sync::Arc<HttpNode>> {
    let made = HttpNode::new(HttpNodeOptions {
        name: if options.name.is_empty() { url.to_owned() } else { options.name.clone() },
        expected_id: options.expected_id.clone(),
        kind,
        url: url.to_owned(),
        gateway: gateway.to_owned(),
        credential: options.credential.clone(),
        limits: options.limits,
        seam: options.seam.clone(),
    });
    made.map_err(|error| {
        let check = if matches!(error.reason, NodeFailure::Denied(_)) { "auth" } else { "reach" };
        checks.failed(check, error.reason.to_string(), None);
    })
    .ok()
}

/// The steps `reach`, `auth` and `version`; says what kind it is.
async fn reach(checks: &mut Checks, rpc: &HttpNode, url: &str) -> Option<NodeKind> {
    let identity: serde_json::Value = match rpc.ask_json("id").await {
        Ok(found) => found,
        Err(NodeError { reason: NodeFailure::Denied(text), .. }) => {
            checks.ok("reach", format!("{url} answers"));
            let hint = "give its credential with --token-file FILE (Kubo: bearer:TOKEN or basic:USER:PASSWORD as in \
                        API.Authorizations, with AllowedPaths [\"/api/v0\"]; built-in node: its join code)";
            checks.failed("auth", format!("it refuses access ({text})"), Some(hint.to_owned()));
            return None;
        }
        Err(NodeError { reason: reason @ (NodeFailure::Unproved(_) | NodeFailure::OtherIdentity { .. }), .. }) => {
            checks.ok("reach", format!("{url} answers"));
            checks.failed("identity", format!("it {reason}"), Some(IMPOSTOR_HINT.to_owned()));
            return None;
        }
        Err(NodeError { reason, .. }) => {
            let hint = matches!(reason, NodeFailure::Unreachable(_) | NodeFailure::Timeout { .. });
            checks.failed("reach", format!("{url} {reason}"), hint.then(|| unreachable_hint(url)));
            return None;
        }
    };
    checks.ok("reach", format!("{url} answers"));
    checks.ok("auth", "the credential is accepted");
    let agent = identity["AgentVersion"].as_str().unwrap_or_default();
    if let Some(version) = agent.strip_prefix("bytenode/") {
        checks.ok("version", format!("built-in node {}", short(version)));
        return Some(NodeKind::Builtin);
    }
    kubo_version(checks, rpc).await
}

/// The step `version` of what does not say to be a built-in node.
async fn kubo_version(checks: &mut Checks, rpc: &HttpNode) -> Option<NodeKind> {
    let version: serde_json::Value = rpc.ask_json("version").await.unwrap_or_default();
    let version = version["Version"].as_str().unwrap_or_default();
    match is_usable_kubo(version) {
        Some(true) => {
            checks.ok("version", format!("kubo {}", short(version)));
            Some(NodeKind::Kubo)
        }
        Some(false) => {
            let message = format!("kubo {} is older than 0.33", short(version));
            checks.failed("version", message, Some(OLD_KUBO_HINT.to_owned()));
            None
        }
        None => {
            checks.failed("version", "it is neither Kubo nor a built-in node", None);
            None
        }
    }
}

fn unreachable_hint(url: &str) -> String {
    let port = address::port(url).unwrap_or(5001);
    let here = if crate::machine::is_loopback(url) {
        "start it (`ipfs daemon`), and look into $IPFS_PATH/api for its address. If it is on another machine: "
    } else {
        ""
    };
    format!(
        "{here}Kubo listens on its own machine alone. Either reach it through `ssh -L {port}:127.0.0.1:{port} HOST` and add \
         127.0.0.1:{port}; or on that machine give it a credential (`ipfs config --json API.Authorizations \
         '{{\"bytenode\":{{\"AuthSecret\":\"bearer:TOKEN\",\"AllowedPaths\":[\"/api/v0\"]}}}}'`), then let it listen \
         (`ipfs config Addresses.API /ip4/0.0.0.0/tcp/{port}`), restart it, and check its firewall"
    )
}

async fn identity(checks: &mut Checks, rpc: &HttpNode) -> Option<NodeStatus> {
    match rpc.status().await {
        Ok(status) => {
            checks.ok("identity", status.id.to_string());
            Some(status)
        }
        Err(NodeError { reason, .. }) => {
            checks.failed("identity", format!("it {reason}"), None);
            None
        }
    }
}

/// The step `gateway`: its address, or an empty one where reads must go through the RPC interface.
async fn gateway(options: &ProbeOptions, checks: &mut Checks, rpc: &HttpNode, url: &str) -> Option<String> {
    let given = match &options.gateway {
        None => None,
        Some(text) => match parse_address(text) {
            Ok(url) => Some(url),
            Err(error) => {
                checks.failed("gateway", error.to_string(), None);
                return None;
            }
        },
    };
    let required = given.is_some();
    let found = match given {
        Some(url) => url,
        None => configured_gateway(rpc, url).await,
    };
    let node = connect(options, checks, url, NodeKind::Kubo, &found)?;
    let nowhere = ChunkId::from_digest(options.seam.bytes());
    let pack = crate::id::PackRoot::from_digest(*nowhere.digest());
    match node.read_chunk(&ChunkAt { chunk: nowhere, bytes: 1, pack }, None, None).await.map_err(|e| e.reason) {
        Err(NodeFailure::Absent(_)) => {
            checks.ok("gateway", format!("{found} answers"));
            Some(found)
        }
        other => {
            let reason = other.err().map_or_else(|| "answered for bytes it cannot have".to_owned(), |r| r.to_string());
            let hint = "give its address with --gateway URL (it is in $IPFS_PATH/gateway), or let it listen: `ipfs \
                        config Addresses.Gateway /ip4/0.0.0.0/tcp/8080`, restart";
            if required {
                checks.failed("gateway", format!("{found} {reason}"), Some(hint.to_owned()));
                return None;
            }
            checks.risk("gateway", format!("{found} {reason}; reads take the slower way through the RPC port"), hint);
            Some(String::new())
        }
    }
}

/// The gateway by the node's configuration, else at port 8080 of its machine.
async fn configured_gateway(rpc: &HttpNode, url: &str) -> String {
    let config: serde_json::Value = rpc.ask_json("config?arg=Addresses.Gateway").await.unwrap_or_default();
    let listens = match &config["Value"] {
        serde_json::Value::Array(all) => all.first().and_then(|one| one.as_str()),
        one => one.as_str(),
    };
    let port = listens.and_then(|text| parse_address(text).ok()).and_then(|url| address::port(&url));
    let port = port.filter(|port| *port != 0).unwrap_or(8080);
    address::at_port(url, port).unwrap_or_else(|| url.to_owned())
}

/// The steps `write`, `protect`, `read` and `drop` with one pack of a small and a full chunk.
async fn exercise(options: &ProbeOptions, checks: &mut Checks, node: &HttpNode, kind: NodeKind) -> Option<Receipt> {
    let mut full = vec![0; FULL_CHUNK_BYTES];
    options.seam.fill(&mut full);
    let chunks = vec![Bytes::from(options.seam.bytes::<32>().to_vec()), Bytes::from(full)];
    let entry = |bytes: &Bytes| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
    let entries = chunks.iter().map(entry).collect();
    let header = PackHeader { pool: options.pool, epoch: options.epoch, id: options.pack, entries };
    let pack = Pack::new(header, chunks);
    let used = use_pack(checks, node, kind, &pack).await;
    let dropped = async {
        node.drop_pack(pack.root()).await?;
        if node.holds_pack(pack.root()).await? {
            return Err(NodeFailure::Answer("that it still holds what it dropped".to_owned()).at(node.name()));
        }
        Ok(())
    };
    match dropped.await {
        Ok(()) if used.is_some() => checks.ok("drop", "the test's pack is gone"),
        Ok(()) => {}
        Err(NodeError { reason, .. }) if used.is_some() => step_failed(checks, "drop", &reason),
        Err(_) => {}
    }
    used
}

async fn use_pack(checks: &mut Checks, node: &HttpNode, kind: NodeKind, pack: &Pack) -> Option<Receipt> {
    let receipt =
        node.write_pack(pack, None).await.map_err(|error| step_failed(checks, "write", &error.reason)).ok()?;
    if kind == NodeKind::Builtin && receipt == Receipt::Unproved {
        checks.failed("write", "it took a pack without signing for it", None);
        return None;
    }
    checks.ok("write", format!("took a pack with a chunk of {FULL_CHUNK_BYTES} bytes"));
    let protected = async {
        if !node.holds_pack(pack.root()).await? {
            node.protect_pack(pack.root(), pack.header().bytes()).await?;
        }
        node.holds_pack(pack.root()).await
    };
    match protected.await {
        Ok(true) => checks.ok("protect", "the pack is pinned"),
        Ok(false) => {
            checks.failed("protect", "it pinned the pack and does not list it", None);
            return None;
        }
        Err(error) => {
            step_failed(checks, "protect", &error.reason);
            return None;
        }
    }
    for entry in &pack.header().entries {
        let at = ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: pack.root() };
        if let Err(error) = node.read_chunk(&at, None, None).await {
            step_failed(checks, "read", &error.reason);
            return None;
        }
    }
    checks.ok("read", "every byte came back as it was written");
    Some(receipt)
}

fn step_failed(checks: &mut Checks, check: &str, reason: &NodeFailure) {
    let hint = match reason {
        NodeFailure::Denied(_) => Some("let the credential use it: AllowedPaths [\"/api/v0\"]".to_owned()),
        NodeFailure::Full(_) => Some("make room on its disk, or raise its limit".to_owned()),
        NodeFailure::Absent(_) if check == "read" => Some("give its own gateway with --gateway URL".to_owned()),
        _ => None,
    };
    checks.failed(check, format!("it {reason}"), hint);
}

fn clock(options: &ProbeOptions, checks: &mut Checks, status: &NodeStatus) {
    let Some(clock) = status.clock else {
        checks.risk("clock", "it does not tell its time", "let its proxy keep the Date header");
        return;
    };
    let skew = clock.duration_since(options.seam.now()).abs();
    if skew > MAX_SKEW {
        let message = format!("its clock is {} s off", skew.as_secs());
        checks.risk("clock", message, "set its clock by NTP (`timedatectl set-ntp true`)");
    } else {
        checks.ok("clock", format!("within {} s", skew.as_secs() + 1));
    }
}

/// An amount of bytes, for a message: `47.0 GiB`.
fn size(bytes: u64) -> String {
    let unit = (bytes.max(1).ilog2() / 10).min(4);
    match ["KiB", "MiB", "GiB", "TiB"].get((unit as usize).wrapping_sub(1)) {
        None => format!("{bytes} B"),
        Some(name) => format!("{:.1} {name}", bytes as f64 / f64::from(unit * 10).exp2()),
    }
}

/// A text of a node, for a message.
fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_told_in_the_unit_that_fits() {
        let told = [0, 1023, 1 << 20, 48_077 << 20, 3 << 40].map(size);
        assert_eq!(told, ["0 B", "1023 B", "1.0 MiB", "47.0 GiB", "3.0 TiB"]);
    }

    #[test]
    fn a_refused_connection_gets_the_commands_that_mend_it() {
        let hint = unreachable_hint("http://nas:5001");
        for part in ["ssh -L 5001:127.0.0.1:5001 HOST", "API.Authorizations", "Addresses.API", "restart"] {
            assert!(hint.contains(part), "{hint}");
        }
        assert!(unreachable_hint("http://127.0.0.1:5001").contains("ipfs daemon"));
    }
}
