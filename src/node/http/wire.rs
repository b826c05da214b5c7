//! What Kubo's interface says and is told: error texts, `dag/import` answers, multipart bodies, listings. Pure.

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;

use crate::id::PackRoot;
use crate::node::{NodeFailure, Receipt};
use crate::pack::PackHeader;

/// The longest line of a listing or an answer, in bytes.
pub(super) const MAX_LINE_BYTES: usize = 16 << 10;
/// The longest answer that is one small object, in bytes.
pub(super) const MAX_ANSWER_BYTES: usize = 256 << 10;

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "Message")]
    message: String,
}

/// The message of an error answer: Kubo's JSON, else the text itself.
pub(super) fn message(body: &[u8]) -> String {
    match serde_json::from_slice::<Message>(body) {
        Ok(found) => found.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    }
}

/// What an error answer means to the caller. The text is bounded and free of secrets already.
pub(super) fn failure(status: StatusCode, text: String) -> NodeFailure {
    const FULL: [&str; 4] = ["node is full", "no space left on device", "disk quota exceeded", "not enough space"];
    let lower = text.to_lowercase();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => NodeFailure::Denied(text),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => {
            NodeFailure::Unreachable(format!("HTTP {}: {text}", status.as_u16()))
        }
        StatusCode::INSUFFICIENT_STORAGE => NodeFailure::Full(text),
        _ if FULL.iter().any(|words| lower.contains(words)) => NodeFailure::Full(text),
        StatusCode::INTERNAL_SERVER_ERROR => NodeFailure::Answer(text),
        _ => NodeFailure::Answer(format!("HTTP {}: {text}", status.as_u16())),
    }
}

/// Whether Kubo's message says that a block is not in its own store.
pub(super) fn is_absence(text: &str) -> bool {
    text.contains("could not find") || text.contains("not found locally")
}

/// A multipart body around the pieces, which are not copied; its boundary must not occur in them.
pub(super) fn multipart(boundary: &str, pieces: Vec<Bytes>) -> Vec<Bytes> {
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"pack.car\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let mut out = Vec::with_capacity(pieces.len() + 2);
    out.push(Bytes::from(head));
    out.extend(pieces);
    out.push(Bytes::from(format!("\r\n--{boundary}--\r\n")));
    out
}

/// `{"/": "CID"}`.
#[derive(Deserialize)]
struct Link {
    #[serde(rename = "/")]
    cid: String,
}

impl Link {
    /// Whether it is this root's.
    fn is(&self, root: PackRoot) -> bool {
        self.cid.parse() == Ok(root)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImportedRoot {
    cid: Link,
    #[serde(default)]
    pin_error_msg: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImportStats {
    block_count: u64,
    block_bytes_count: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImportLine {
    root: Option<ImportedRoot>,
    stats: Option<ImportStats>,
    receipt: Option<String>,
}

/// A line of `block/rm`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RemovedLine {
    #[serde(default)]
    pub(super) error: String,
}

/// What a whole import must have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) root: PackRoot,
    pub(super) blocks: u64,
    pub(super) block_bytes: u64,
}

impl Expected {
    /// A whole pack.
    pub(super) fn of(header: &PackHeader) -> Self {
        let block = header.root_block();
        let (blocks, block_bytes) = (1 + header.entries.len() as u64, block.len() as u64 + header.bytes());
        Self { root: PackRoot::of(&block), blocks, block_bytes }
    }
}

/// Collects the lines of a `dag/import` answer.
///
/// With `pin-roots=false` Kubo writes no line for the root; where there is one, it must be ours and without an error.
/// The statistics are required and must be exactly those of the pack.
#[derive(Debug)]
pub(super) struct Import {
    expected: Expected,
    counted: bool,
    receipt: Receipt,
}

impl Import {
    pub(super) const fn new(expected: Expected) -> Self {
        Self { expected, counted: false, receipt: Receipt::Unproved }
    }

    /// Takes one line. What an error says is the node's text as it came.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), NodeFailure> {
        if line.trim_ascii().is_empty() {
            return Ok(());
        }
        let line: ImportLine =
            serde_json::from_slice(line).map_err(|_| NodeFailure::Answer("an import line that is no JSON".into()))?;
        if let Some(root) = line.root {
            if !root.pin_error_msg.is_empty() {
                return Err(failure(StatusCode::INTERNAL_SERVER_ERROR, root.pin_error_msg));
            }
            if !root.cid.is(self.expected.root) {
                return Err(NodeFailure::Answer("it imported another root".to_owned()));
            }
        }
        if let Some(stats) = line.stats {
            let Expected { blocks, block_bytes, .. } = self.expected;
            if (stats.block_count, stats.block_bytes_count) != (blocks, block_bytes) {
                let took = format!("it took {} blocks of {} bytes", stats.block_count, stats.block_bytes_count);
                return Err(NodeFailure::Answer(format!("{took} instead of {blocks} of {block_bytes}")));
            }
            self.counted = true;
        }
        if let Some(token) = line.receipt {
            self.receipt = Receipt::Signed { token };
        }
        Ok(())
    }

    /// Ends the answer.
    pub(super) fn end(self) -> Result<Receipt, NodeFailure> {
        match (&self.receipt, self.counted) {
            (Receipt::Unproved, false) => Err(NodeFailure::Answer("an import without statistics".to_owned())),
            _ => Ok(self.receipt),
        }
    }
}

/// A line of `pin/ls?stream=true`.
#[derive(Deserialize)]
pub(super) struct PinLine {
    #[serde(rename = "Cid", default)]
    pub(super) cid: String,
}

/// A line of `refs/local`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RefLine {
    #[serde(default)]
    pub(super) r#ref: String,
    #[serde(default)]
    pub(super) err: String,
}

/// `pin/ls` without streaming.
#[derive(Deserialize)]
pub(super) struct PinKeys {
    #[serde(rename = "Keys", default)]
    pub(super) keys: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
}

/// `pin/add`, `pin/rm` and `pin/update`.
#[derive(Deserialize)]
pub(super) struct Pins {
    #[serde(rename = "Pins", default)]
    pub(super) pins: Vec<String>,
}

/// `dag/stat`.
#[derive(Deserialize)]
pub(super) struct DagStat {
    #[serde(rename = "DagStats", default)]
    pub(super) dag_stats: Vec<DagStatOne>,
}

/// One of its roots.
#[derive(Deserialize)]
pub(super) struct DagStatOne {
    #[serde(rename = "Cid")]
    pub(super) cid: String,
}

/// `id`.
#[derive(Deserialize)]
pub(super) struct Identity {
    #[serde(rename = "ID")]
    pub(super) id: String,
    #[serde(rename = "AgentVersion", default)]
    pub(super) agent_version: String,
    #[serde(rename = "Proof", default)]
    pub(super) proof: Option<String>,
}

/// `repo/stat?size-only=true`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RepoStat {
    pub(super) repo_size: u64,
    #[serde(default)]
    pub(super) storage_max: Option<u64>,
}

/// `diag/sys`, as far as it is used.
#[derive(Deserialize, Default)]
pub(super) struct Sys {
    #[serde(default)]
    pub(super) diskinfo: DiskInfo,
}

/// The file system of the store.
#[derive(Deserialize, Default)]
pub(super) struct DiskInfo {
    pub(super) free_space: Option<u64>,
}

/// What a node runs, for people: `kubo/0.43.1/commit` is `kubo 0.43.1`.
pub(super) fn version(agent: &str) -> String {
    let mut parts = agent.splitn(3, '/').map(|part| part.chars().filter(|c| !c.is_control()).take(40));
    let product: String = parts.next().into_iter().flatten().collect();
    let version: String = parts.next().into_iter().flatten().collect();
    if version.is_empty() { product } else { format!("{product} {version}") }
}
