//! Chunks in use and their replicas, read from the catalog page by page.

use rusqlite::{Connection, Row, params};

use crate::catalog::{CatalogResult, chunk_entry, chunks, digest, unsigned};
use crate::id::{NodeId, PackId, PackRoot};
use crate::pack::PackEntry;

/// Chunks looked at in one question to the catalog.
const PAGE: u32 = 2_000;

/// A replica of a chunk in use.
#[derive(Debug, Clone)]
pub(in crate::coordinator) struct ReplicaRow {
    pub node: i64,
    pub pack: PackId,
    pub root: PackRoot,
    /// Known to be missing or wrong.
    pub bad: bool,
    /// When its pack was last proved.
    pub proved: Option<i64>,
    /// When it was issued.
    pub created: i64,
}

/// A chunk in use, with all its replicas in live packs.
#[derive(Debug, Clone)]
pub(in crate::coordinator) struct ChunkState {
    pub row: i64,
    pub vault: i64,
    pub entry: PackEntry,
    pub target: u32,
    /// Nodes (by identity) that it is kept off for the sake of spread.
    kept_off: Vec<String>,
    pub replicas: Vec<ReplicaRow>,
}

impl ChunkState {
    /// Whether it is kept off a node for the sake of spread.
    pub fn is_kept_off(&self, node: &NodeId) -> bool {
        self.kept_off.iter().any(|id| *id == node.as_str())
    }
}

/// A page of chunks in use, with their replicas in live packs.
pub(super) fn chunk_page(c: &Connection, after: i64) -> CatalogResult<Vec<ChunkState>> {
    // Crossed, so that SQLite goes over the chunks in their order and stops after a page. From the manifests, it would sort
    // all that follow to find the first few, for every page anew.
    let mut statement = c.prepare_cached(
        "SELECT c.id, c.vault_id, c.digest, c.bytes, max(v.replicas), c.excluded FROM chunk c
         CROSS JOIN manifest m ON m.chunk_id = c.id CROSS JOIN version v ON v.id = m.version_id
         WHERE c.id > ?1 AND v.state = 1 AND v.expires_at IS NULL
         GROUP BY c.id ORDER BY c.id LIMIT ?2",
    )?;
    let mut rows = statement.query(params![after, PAGE])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        page.push(chunk_state(c, row)?);
    }
    Ok(page)
}

/// A chunk of a version that wants so many copies.
pub(super) fn one(c: &Connection, chunk: i64, target: u32) -> CatalogResult<Option<ChunkState>> {
    let mut statement =
        c.prepare_cached("SELECT id, vault_id, digest, bytes, ?2, excluded FROM chunk WHERE id = ?1")?;
    let mut rows = statement.query(params![chunk, target])?;
    rows.next()?.map(|row| chunk_state(c, row)).transpose()
}

fn chunk_state(c: &Connection, found: &Row<'_>) -> CatalogResult<ChunkState> {
    let (row, blob, bytes) = (found.get(0)?, found.get::<_, Vec<u8>>(2)?, found.get(3)?);
    let excluded: Option<String> = found.get(5)?;
    Ok(ChunkState {
        row,
        vault: found.get(1)?,
        entry: chunk_entry(row, &blob, bytes)?,
        target: found.get(4)?,
        kept_off: chunks::identities(excluded.as_deref()),
        replicas: replicas(c, row)?,
    })
}

fn replicas(c: &Connection, chunk: i64) -> CatalogResult<Vec<ReplicaRow>> {
    let mut statement = c.prepare_cached(
        "SELECT p.node_id, p.id, p.root, r.bad_at IS NOT NULL, p.proved_at, p.created_at FROM replica r
         JOIN pack p ON p.id = r.pack_id WHERE r.chunk_id = ?1 AND p.state = 2 ORDER BY p.id",
    )?;
    let rows = statement.query_map([chunk], |row| {
        let found: (i64, i64, Vec<u8>, bool, Option<i64>, i64) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?);
        Ok(found)
    })?;
    rows.map(|found| {
        let (node, pack, root, bad, proved, created) = found?;
        let root = PackRoot::from_digest(digest("pack", pack, &root)?);
        Ok(ReplicaRow { node, pack: PackId::new(unsigned(pack)), root, bad, proved, created })
    })
    .collect()
}
