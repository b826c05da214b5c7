//! Nodes as registered, and the pool that they are of.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{CatalogError, CatalogResult, damaged, micros, signed, time, unsigned};
use crate::admin::{Access, Gc};
use crate::api::NodeKind;
use crate::id::{NodeId, PoolId};

/// What stands for an access that its owner left open.
const DEFAULT_ACCESS: &str = "default";

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Row.
    pub row: i64,
    /// Its identity.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: NodeKind,
    /// Base URL for packs.
    pub url: String,
    /// Base URL for chunks.
    pub gateway: String,
    /// Failure zone.
    pub zone: String,
    /// Bytes that it may be filled with.
    pub capacity_bytes: u64,
    /// How clients reach it, as its owner said; nothing for what the number of users asks for.
    pub access: Option<Access>,
    /// Who collects its garbage.
    pub gc: Gc,
    /// Whether its block cache is live, so that only reading a whole pack proves it.
    pub cache_live: bool,
    /// Whether it is being emptied.
    pub draining: Draining,
    /// Its share of what is stored, in percent of what its capacity alone would give it; nothing for 100.
    pub weight: Option<u32>,
    /// What it ran when it was last asked.
    pub version: Option<String>,
    /// When it last answered.
    pub last_seen: Option<Timestamp>,
}

/// Whether a node is being emptied. In the catalog, its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Draining {
    /// It takes new chunks.
    #[default]
    No,
    /// It takes none, and what it has goes elsewhere.
    Yes,
    /// It takes none, and what it has stays for now.
    Paused,
}

impl Draining {
    fn of(number: i64) -> Self {
        match number {
            0 => Self::No,
            2 => Self::Paused,
            _ => Self::Yes,
        }
    }
}

/// The pool's identity, once there is one.
///
/// # Errors
/// [`CatalogError`].
pub fn pool(c: &Connection) -> CatalogResult<PoolId> {
    let pool: Vec<u8> = c.query_row("SELECT pool FROM pool", [], |row| row.get(0))?;
    let pool = pool.try_into().map_err(|_| CatalogError::Damaged("the pool id has another length".into()))?;
    Ok(PoolId::from_bytes(pool))
}

fn text<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

fn of_text<T: serde::de::DeserializeOwned>(node: i64, text: String) -> CatalogResult<T> {
    let value = serde_json::from_value(serde_json::Value::String(text.clone()));
    value.map_err(|_| damaged("node", node, format_args!("{text:?} where one of a few words must be")))
}

/// All nodes, by name.
///
/// # Errors
/// [`CatalogError`].
pub fn all(c: &Connection) -> CatalogResult<Vec<NodeRow>> {
    let mut statement = c.prepare_cached("SELECT * FROM node ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok(node_row(row)))?;
    rows.map(|row| row?).collect()
}

fn node_row(row: &Row<'_>) -> CatalogResult<NodeRow> {
    let id: i64 = row.get("id")?;
    let ident: String = row.get("ident")?;
    Ok(NodeRow {
        row: id,
        id: ident.parse().map_err(|_| damaged("node", id, "an impossible identity"))?,
        name: row.get("name")?,
        kind: of_text(id, row.get("kind")?)?,
        url: row.get("url")?,
        gateway: row.get("gateway")?,
        zone: row.get("zone")?,
        capacity_bytes: unsigned(row.get("capacity")?),
        access: match row.get::<_, String>("access")? {
            text if text == DEFAULT_ACCESS => None,
            text => Some(of_text(id, text)?),
        },
        gc: of_text(id, row.get("gc")?)?,
        cache_live: row.get("cache_live")?,
        draining: Draining::of(row.get("draining")?),
        weight: row.get("weight")?,
        version: row.get("version")?,
        last_seen: row.get::<_, Option<i64>>("last_seen")?.map(time),
    })
}

/// Registers a node, or changes it where its identity is known already; gives its row.
///
/// # Errors
/// [`CatalogError`].
pub fn upsert(c: &Connection, node: &NodeRow, now: Timestamp) -> CatalogResult<i64> {
    c.execute(
        "INSERT INTO node(ident, name, kind, url, gateway, zone, capacity, access, gc, cache_live, version, weight,
             last_seen, added_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?13, ?12, ?12)
         ON CONFLICT(ident) DO UPDATE SET name = excluded.name, url = excluded.url, gateway = excluded.gateway,
             zone = excluded.zone, capacity = excluded.capacity, access = excluded.access, gc = excluded.gc,
             cache_live = excluded.cache_live, version = excluded.version, weight = excluded.weight,
             last_seen = excluded.last_seen",
        params![
            node.id.as_str(),
            node.name,
            text(&node.kind),
            node.url,
            node.gateway,
            node.zone,
            signed(node.capacity_bytes),
            node.access.as_ref().map_or_else(|| DEFAULT_ACCESS.to_owned(), text),
            text(&node.gc),
            node.cache_live,
            node.version,
            micros(now),
            node.weight
        ],
    )?;
    Ok(c.query_row("SELECT id FROM node WHERE ident = ?1", [node.id.as_str()], |row| row.get(0))?)
}

/// Notes that a node answered.
///
/// # Errors
/// [`CatalogError`].
pub fn seen(c: &Connection, row: i64, version: &str, now: Timestamp) -> CatalogResult<()> {
    c.prepare_cached("UPDATE node SET last_seen = ?2, version = ?3 WHERE id = ?1")?.execute(params![
        row,
        micros(now),
        version
    ])?;
    Ok(())
}

/// Begins or ends the emptying of a node.
///
/// # Errors
/// [`CatalogError`].
pub fn set_draining(c: &Connection, row: i64, draining: Draining) -> CatalogResult<()> {
    c.execute("UPDATE node SET draining = ?2 WHERE id = ?1", params![row, draining as i64])?;
    Ok(())
}

/// Writes down since when a node does not answer, and why; nothing when it answers.
///
/// # Errors
/// [`CatalogError`].
pub fn set_failing(c: &Connection, row: i64, since: Option<Timestamp>, why: Option<&str>) -> CatalogResult<()> {
    c.prepare_cached("UPDATE node SET failing_since = ?2, failure = ?3 WHERE id = ?1")?.execute(params![
        row,
        since.map(micros),
        why
    ])?;
    Ok(())
}

/// Nodes that did not answer when that was written down last, since when, and why.
///
/// # Errors
/// [`CatalogError`].
pub fn failing(c: &Connection) -> CatalogResult<Vec<(i64, Timestamp, String)>> {
    let mut statement =
        c.prepare_cached("SELECT id, failing_since, coalesce(failure, '') FROM node WHERE failing_since IS NOT NULL")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, time(row.get(1)?), row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Chunks of files, and if so said of uploads under way, that are on a node and have fewer copies elsewhere than they want.
/// Elsewhere, only proved copies count on nodes that are not being emptied, and that were seen from `since` on.
///
/// # Errors
/// [`CatalogError`].
pub fn needed(c: &Connection, row: i64, since: Timestamp, uploads: bool) -> CatalogResult<u64> {
    let needed: i64 = c.query_row(NEEDED, params![row, micros(since), uploads], |row| row.get(0))?;
    Ok(unsigned(needed))
}

const NEEDED: &str = "SELECT count(*) FROM (
     SELECT r.chunk_id chunk, max(v.replicas) wanted FROM pack p JOIN replica r ON r.pack_id = p.id
     JOIN manifest m ON m.chunk_id = r.chunk_id JOIN version v ON v.id = m.version_id
     WHERE p.node_id = ?1 AND p.state < 3 AND v.expires_at IS NULL AND (v.state = 1 OR ?3) GROUP BY r.chunk_id) here
 WHERE here.wanted > (
     SELECT count(DISTINCT o.node_id) FROM replica s JOIN pack o ON o.id = s.pack_id JOIN node n ON n.id = o.node_id
     WHERE s.chunk_id = here.chunk AND s.bad_at IS NULL AND o.state = 2 AND o.node_id <> ?1 AND n.draining <> 1
       AND o.proved_at IS NOT NULL AND min(o.protected_at, o.present_at) >= ?2)";

/// Forgets a node and all its packs, unless a file or an upload under way has a chunk there with fewer copies elsewhere
/// than it wants; gives how many such chunks there are (then nothing is changed). Elsewhere, only copies count that were
/// proved from `since` on. A node that is given up as lost is forgotten all the same.
///
/// # Errors
/// [`CatalogError`].
pub fn forget_unless_needed(c: &Connection, row: i64, lost: bool, since: Timestamp) -> CatalogResult<u64> {
    let needed = needed(c, row, since, true)?;
    if needed > 0 && !lost {
        return Ok(needed);
    }
    super::chunks::lose(c)?;
    c.execute(
        "INSERT OR IGNORE INTO loose_chunk SELECT r.chunk_id FROM replica r JOIN pack p ON p.id = r.pack_id
         WHERE p.node_id = ?1 AND NOT EXISTS (SELECT 1 FROM manifest m WHERE m.chunk_id = r.chunk_id)",
        [row],
    )?;
    c.execute("DELETE FROM replica WHERE pack_id IN (SELECT id FROM pack WHERE node_id = ?1)", [row])?;
    super::charge::spend_of_node(c, row)?;
    c.execute("DELETE FROM pack WHERE node_id = ?1", [row])?;
    c.execute("DELETE FROM node_event WHERE node_id = ?1", [row])?;
    c.execute("DELETE FROM node WHERE id = ?1", [row])?;
    Ok(0)
}

/// Bytes and replicas of a node's packs that are not gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes of packs.
    pub bytes: u64,
    /// Replicas in live packs.
    pub chunks: u64,
}

/// What a node holds for this pool, by the catalog.
///
/// # Errors
/// [`CatalogError`].
pub fn usage(c: &Connection, row: i64) -> CatalogResult<Usage> {
    let bytes: i64 = c
        .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM pack WHERE node_id = ?1 AND state < 4")?
        .query_row([row], |row| row.get(0))?;
    let chunks: i64 = c
        .prepare_cached(
            "SELECT count(*) FROM pack p JOIN replica r ON r.pack_id = p.id WHERE p.node_id = ?1 AND p.state = 2",
        )?
        .query_row([row], |row| row.get(0))?;
    Ok(Usage { bytes: unsigned(bytes), chunks: unsigned(chunks) })
}

/// The row of a node with this name.
///
/// # Errors
/// [`CatalogError`].
pub fn by_name(c: &Connection, name: &str) -> CatalogResult<Option<NodeRow>> {
    c.prepare_cached("SELECT * FROM node WHERE name = ?1")?
        .query_row([name], |row| Ok(node_row(row)))
        .optional()?
        .transpose()
}
