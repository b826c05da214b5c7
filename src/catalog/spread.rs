//! Spread as it stands: which nodes have all chunks of a file.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::CatalogResult;

/// Different chunks of one file that are looked at to part it: with so many, one of the first will do;
const FIRST: usize = 64;
/// and how far they are looked for, in a file that has one chunk over and over.
const FAR: u32 = 4_096;

/// A version that no node had all of when it was stored.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Its row.
    pub version: i64,
    /// Whether that was still so when this was looked at last.
    pub still: bool,
    /// Copies that it wants.
    pub replicas: u32,
}

/// Up to `limit` visible versions after a row that no node had all of when they were stored.
///
/// # Errors
/// [`super::CatalogError`].
pub fn versions(c: &Connection, after: i64, limit: u32) -> CatalogResult<Vec<Spread>> {
    let mut statement = c.prepare_cached(
        "SELECT id, spread = 1, replicas FROM version WHERE id > ?1 AND state = 1 AND expires_at IS NULL AND spread > 0
         ORDER BY id LIMIT ?2",
    )?;
    let rows = statement.query_map(params![after, limit], |row| {
        Ok(Spread { version: row.get(0)?, still: row.get(1)?, replicas: row.get(2)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The nodes (by row) that have a copy of a chunk which is not known to be bad, in a live pack.
///
/// # Errors
/// [`super::CatalogError`].
pub fn holders(c: &Connection, chunk: i64) -> CatalogResult<BTreeSet<i64>> {
    let mut statement = c.prepare_cached(
        "SELECT p.node_id FROM replica r JOIN pack p ON p.id = r.pack_id
         WHERE r.chunk_id = ?1 AND r.bad_at IS NULL AND p.state = 2",
    )?;
    let rows = statement.query_map([chunk], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Which of some nodes (by row) have all chunks of a version, but for one; in time that grows with its chunks only as long as
/// one of them does. `holders` says who has a chunk.
///
/// # Errors
/// [`super::CatalogError`].
pub fn held_whole_by(
    c: &Connection,
    version: i64,
    but: Option<i64>,
    mut nodes: Option<BTreeSet<i64>>,
    holders: &dyn Fn(i64) -> CatalogResult<BTreeSet<i64>>,
) -> CatalogResult<BTreeSet<i64>> {
    let mut statement = c.prepare_cached("SELECT chunk_id FROM manifest WHERE version_id = ?1 ORDER BY idx")?;
    let mut rows = statement.query([version])?;
    let mut seen: BTreeSet<i64> = but.into_iter().collect();
    while let Some(row) = rows.next()? {
        let chunk = row.get(0)?;
        // Some files have few chunks over and over.
        if seen.contains(&chunk) {
            continue;
        }
        if seen.len() < FIRST {
            seen.insert(chunk);
        }
        let have = holders(chunk)?;
        match &mut nodes {
            Some(nodes) => nodes.retain(|node| have.contains(node)),
            None => nodes = Some(have),
        }
        if nodes.as_ref().is_some_and(BTreeSet::is_empty) {
            break;
        }
    }
    Ok(nodes.unwrap_or_default())
}

/// Whether no node has all chunks of a version.
///
/// # Errors
/// [`super::CatalogError`].
pub fn is_spread(c: &Connection, version: i64) -> CatalogResult<bool> {
    Ok(held_whole_by(c, version, None, None, &|chunk| holders(c, chunk))?.is_empty())
}

/// The first chunks (by row) of a version, each once.
///
/// # Errors
/// [`super::CatalogError`].
pub fn first_chunks(c: &Connection, version: i64) -> CatalogResult<Vec<i64>> {
    let mut statement =
        c.prepare_cached("SELECT chunk_id FROM manifest WHERE version_id = ?1 ORDER BY idx LIMIT ?2")?;
    let mut rows = statement.query(params![version, FAR])?;
    let (mut chunks, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(row) = rows.next()?.filter(|_| chunks.len() < FIRST) {
        let chunk = row.get(0)?;
        if seen.insert(chunk) {
            chunks.push(chunk);
        }
    }
    Ok(chunks)
}

/// Some of the visible versions that have a chunk and that no node had all of when they were stored: those among its first
/// `most` uses.
///
/// # Errors
/// [`super::CatalogError`].
pub fn versions_of(c: &Connection, chunk: i64, most: u32) -> CatalogResult<BTreeSet<i64>> {
    let mut statement = c.prepare_cached(
        "SELECT v.id FROM (SELECT version_id FROM manifest WHERE chunk_id = ?1 LIMIT ?2) m
         JOIN version v ON v.id = m.version_id WHERE v.state = 1 AND v.spread > 0",
    )?;
    let rows = statement.query_map(params![chunk, most], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes whether a version is still spread that once was.
///
/// # Errors
/// [`super::CatalogError`].
pub fn note(c: &Connection, found: Spread) -> CatalogResult<()> {
    c.prepare_cached("UPDATE version SET spread = ?2 WHERE id = ?1 AND spread > 0")?
        .execute(params![found.version, if found.still { 1 } else { 2 }])?;
    Ok(())
}
