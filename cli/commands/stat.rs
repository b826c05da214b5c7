//! `stat`: what a file is, and which node holds which chunk.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytenode::admin::{ChunkRow, NodeInfo, Session};
use bytenode::api::{Entry, Kind, ListRequest};
use bytenode::id::ChunkId;
use bytenode::path::RemotePath;
use jiff::Timestamp;
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::args::{examples, exits};
use crate::commands::{Ctx, PAGE, entry_at, typed};
use crate::error::{Exit, Outcome};
use crate::ui::text::{age, count, escaped, plural, size};
use crate::ui::{Stream, columns};

/// Show size, SHA-256, copies, and which node holds which chunk
#[derive(Debug, clap::Args)]
#[command(
    before_help = examples(&[
        "bytenode stat bn:/photos/a.raw",
        "bytenode stat --json bn:/photos/a.raw   a line for each chunk, with its nodes",
    ]),
    after_help = exits(&[Exit::NotAllowed, Exit::NotFound, Exit::Temporary]),
)]
pub struct Args {
    /// A remote file or directory
    #[arg(value_name = "bn:/PATH")]
    path: String,
}

impl Args {
    /// One path, as the demo does it.
    pub fn of(path: &str) -> Self {
        Self { path: path.into() }
    }
}

#[derive(Serialize)]
struct FileRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    path: &'a RemotePath,
    size: u64,
    sha256: Option<String>,
    cid: Option<&'a str>,
    chunks: u64,
    copies_min: Option<u32>,
    copies_target: u32,
    checked: Option<Timestamp>,
    modified: Timestamp,
    executable: bool,
    public: bool,
    spread: Option<bool>,
}

#[derive(Serialize)]
struct ChunkRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    index: u64,
    cid: ChunkId,
    size: u64,
    nodes: &'a [String],
}

#[derive(Serialize)]
struct DirRecord<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    path: &'a RemotePath,
    files: u64,
    dirs: u64,
    bytes: u64,
    copies_min: Option<u32>,
    copies_target: u32,
}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    chunks: u64,
    nodes: u64,
}

/// Runs it.
pub async fn run(ctx: &Ctx, args: &Args) -> Outcome<Exit> {
    let place = typed(&args.path)?;
    let session = ctx.session()?;
    if place.path.is_root() {
        return directory(ctx, &session, &place.path, 0).await;
    }
    let entry = entry_at(&session, &place).await?;
    if entry.kind == Kind::Dir {
        return directory(ctx, &session, &place.path, entry.copies_target).await;
    }
    ctx.ui.record(&FileRecord {
        kind: "file",
        path: &entry.path,
        size: entry.size,
        sha256: entry.sha256.map(|sha256| sha256.to_string()),
        cid: entry.cid.as_deref(),
        chunks: entry.chunks,
        copies_min: entry.copies_min,
        copies_target: entry.copies_target,
        checked: entry.checked,
        modified: entry.modified,
        executable: entry.executable,
        public: entry.public,
        spread: entry.spread,
    })?;
    let per_node = chunks(ctx, &session, &entry).await?;
    if !ctx.ui.json {
        // Zones are an extra that ordinary users may not see.
        let nodes = session.nodes().await.unwrap_or_default();
        for line in told(&entry, &per_node, &nodes, ctx.seam.now(), columns(Stream::Out)) {
            ctx.ui.data(&line)?;
        }
    }
    let nodes = per_node.len() as u64;
    ctx.ui.record(&SummaryRecord { kind: "summary", chunks: entry.chunks, nodes })?;
    Ok(Exit::Done)
}

/// Prints the chunks, page by page; chunks on each node.
async fn chunks(ctx: &Ctx, session: &Arc<dyn Session>, entry: &Entry) -> Outcome<BTreeMap<String, u64>> {
    let mut per_node = BTreeMap::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = session.chunk_rows(&entry.path, cursor.as_deref(), PAGE).await?;
        for ChunkRow { index, cid, size, nodes } in &page.items {
            ctx.ui.record(&ChunkRecord { kind: "chunk", index: *index, cid: *cid, size: *size, nodes })?;
            for node in nodes {
                *per_node.entry(node.clone()).or_default() += 1;
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() || ctx.ui.closed() {
            return Ok(per_node);
        }
    }
}

async fn directory(ctx: &Ctx, session: &Arc<dyn Session>, path: &RemotePath, target: u32) -> Outcome<Exit> {
    let mut record =
        DirRecord { kind: "dir", path, files: 0, dirs: 0, bytes: 0, copies_min: None, copies_target: target };
    let mut cursor = None;
    loop {
        let request = ListRequest { path: path.clone(), recursive: true, cursor, limit: PAGE };
        let page = session.list(&request).await?;
        for entry in &page.items {
            match entry.kind {
                Kind::Dir => record.dirs += 1,
                Kind::File => {
                    record.files += 1;
                    record.bytes += entry.size;
                    record.copies_min = record.copies_min.into_iter().chain(entry.copies_min).min();
                    record.copies_target = record.copies_target.max(entry.copies_target);
                }
            }
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    ctx.ui.record(&record)?;
    let copies = record.copies_min.map(|copies| match record.copies_target {
        target if copies >= target => format!("  {copies} of {target} copies of each file"),
        target => format!("  only {copies} of {target} copies of some file"),
    });
    ctx.ui.data(&format!(
        "{}  {}  {}  {}{}",
        escaped(&path.to_string()),
        plural(record.files, "file"),
        plural(record.dirs, "directory"),
        size(record.bytes),
        copies.unwrap_or_default()
    ))?;
    ctx.ui.record(&SummaryRecord { kind: "summary", chunks: 0, nodes: 0 })?;
    Ok(Exit::Done)
}

fn told(
    entry: &Entry,
    per_node: &BTreeMap<String, u64>,
    nodes: &[NodeInfo],
    now: Timestamp,
    width: Option<usize>,
) -> Vec<String> {
    let name = escaped(entry.path.name().unwrap_or("bn:/")).into_owned();
    let first = format!("{name}  {}", size(entry.size));
    let sha256 = entry.sha256.map(|sha256| format!("sha256 {sha256}"));
    // On a terminal that is too narrow for both, the hash has a line of its own.
    let mut lines = match sha256 {
        Some(sha256) if width.is_some_and(|width| first.width() + 2 + sha256.len() > width) => {
            vec![first, sha256]
        }
        Some(sha256) => vec![format!("{first}  {sha256}")],
        None => vec![first],
    };
    let mut facts = vec![if entry.public { "public" } else { "sealed" }.to_owned()];
    if let Some(copies) = entry.copies_min {
        facts.push(format!("{copies} of {} copies", entry.copies_target));
    }
    facts.extend(zones(per_node, nodes));
    facts.extend(entry.checked.map(|checked| format!("checked {}", age(checked, now))));
    lines.push(facts.join(", "));
    lines.extend(entry.cid.as_ref().map(|cid| format!("cid {cid}")));
    if per_node.is_empty() {
        return lines;
    }
    // What the nodes hold now counts, not what was so when the file was stored.
    let whole: Vec<&String> =
        per_node.iter().filter(|(_, chunks)| **chunks >= entry.chunks).map(|(node, _)| node).collect();
    let holds = match whole.as_slice() {
        _ if entry.chunks < 2 => String::new(),
        [] => ", no node holds them all".to_owned(),
        [node] => format!(", {} holds them all", escaped(node)),
        several if several.len() == per_node.len() => ", each of which holds them all".to_owned(),
        several => format!(", {} of which hold them all", several.len()),
    };
    let on = plural(per_node.len() as u64, "node");
    lines.push(format!("chunks {} on {on}{holds}", count(entry.chunks)));
    lines.extend(bars(per_node, width.unwrap_or(100)));
    lines
}

/// Whether all copies share one machine.
fn zones(per_node: &BTreeMap<String, u64>, nodes: &[NodeInfo]) -> Option<String> {
    let mut zones: Vec<&str> =
        nodes.iter().filter(|node| per_node.contains_key(&node.name)).map(|node| node.zone.as_str()).collect();
    zones.sort_unstable();
    zones.dedup();
    match zones.len() {
        0 => None,
        1 => Some("all on one machine".into()),
        several => Some(format!("on {several} machines")),
    }
}

const BAR: u64 = 12;

/// `n1 ████████████ 26   n2 ███████████ 25`, as many in a line as fit.
fn bars(per_node: &BTreeMap<String, u64>, width: usize) -> Vec<String> {
    let most = per_node.values().copied().max().unwrap_or(1).max(1);
    let (mut lines, mut line) = (Vec::new(), String::new());
    for (node, chunks) in per_node {
        let long = usize::try_from((chunks * BAR / most).max(1)).unwrap_or(1);
        let cell = format!("{} {} {}", escaped(node), "█".repeat(long), count(*chunks));
        if !line.is_empty() && line.width() + 3 + cell.width() > width {
            lines.push(std::mem::take(&mut line));
        }
        line.push_str(if line.is_empty() { "  " } else { "   " });
        line.push_str(&cell);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_with_a_bar_for_each_node() {
        let entry = Entry {
            path: "bn:/photos/a.raw".parse().unwrap(),
            kind: Kind::File,
            size: 43_306_189,
            modified: Timestamp::UNIX_EPOCH,
            executable: false,
            sha256: None,
            version: None,
            chunks: 42,
            copies_min: Some(3),
            copies_target: 3,
            checked: None,
            public: false,
            spread: Some(true),
            cid: None,
        };
        let nodes: BTreeMap<String, u64> =
            [("n1", 26), ("n2", 25), ("n3", 25), ("n4", 24), ("n5", 26)].map(|(n, c)| (n.to_owned(), c)).into();
        insta::assert_snapshot!(told(&entry, &nodes, &[], Timestamp::UNIX_EPOCH, Some(110)).join("\n"), @r"
        a.raw  41.3 MiB
        sealed, 3 of 3 copies
        chunks 42 on 5 nodes, no node holds them all
          n1 ████████████ 26   n2 ███████████ 25   n3 ███████████ 25   n4 ███████████ 24   n5 ████████████ 26
        ");
        assert_eq!(bars(&nodes, 50).len(), 3);
        let entry = Entry { sha256: Some(bytenode::api::Sha256([0; 32])), ..entry };
        let head = |width| told(&entry, &nodes, &[], Timestamp::UNIX_EPOCH, width).swap_remove(0);
        assert_eq!(head(Some(80)), "a.raw  41.3 MiB");
        assert_eq!(head(None), format!("a.raw  41.3 MiB  sha256 {}", "0".repeat(64)));
    }
}
