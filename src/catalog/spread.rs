//! Spread as it stands: which nodes have all chunks of a file.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::{CatalogResult, chunks};

/// Chunks of which the holders are asked for at most, of one file, to part it: with so many, one of the first will do.
const FIRST: u32 = 64;

/// A version that no node had all of when it was stored.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// Its row.
    pub version: i64,
    /// Whether that was still so when this was looked at last.
    pub still: bool,
}

/// Up to `limit` visible versions after a row that no node had all of when they were stored.
///
/// # Errors
/// [`super::CatalogError`].
pub fn versions(c: &Connection, after: i64, limit: u32) -> CatalogResult<Vec<Spread>> {
    let mut statement = c.prepare_cached(
        "SELECT id, spread = 1 FROM version WHERE id > ?1 AND state = 1 AND expires_at IS NULL AND spread > 0
         ORDER BY id LIMIT ?2",
    )?;
    let rows =
        statement.query_map(params![after, limit], |row| Ok(Spread { version: row.get(0)?, still: row.get(1)? }))?;
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
    let mut last = but;
    while let Some(row) = rows.next()? {
        let chunk = row.get(0)?;
        // Files of one byte over and over have one chunk over and over.
        if Some(chunk) == last || Some(chunk) == but {
            continue;
        }
        last = Some(chunk);
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

/// The first chunks (by row) of a version, each once.
///
/// # Errors
/// [`super::CatalogError`].
pub fn first_chunks(c: &Connection, version: i64) -> CatalogResult<Vec<i64>> {
    let mut statement =
        c.prepare_cached("SELECT chunk_id FROM manifest WHERE version_id = ?1 ORDER BY idx LIMIT ?2")?;
    let rows = statement.query_map(params![version, FIRST], |row| row.get(0))?;
    let (mut chunks, mut seen) = (rows.collect::<Result<Vec<i64>, _>>()?, BTreeSet::new());
    chunks.retain(|chunk| seen.insert(*chunk));
    Ok(chunks)
}

/// Visible versions that have a chunk and that no node had all of when they were stored, if these are no more than `most`.
///
/// # Errors
/// [`super::CatalogError`].
pub fn versions_of(c: &Connection, chunk: i64, most: usize) -> CatalogResult<Option<Vec<i64>>> {
    let mut statement = c.prepare_cached(
        "SELECT DISTINCT m.version_id FROM manifest m JOIN version v ON v.id = m.version_id
         WHERE m.chunk_id = ?1 AND v.state = 1 AND v.spread > 0 LIMIT ?2",
    )?;
    let limit = i64::try_from(most.saturating_add(1)).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![chunk, limit], |row| row.get(0))?;
    let versions = rows.collect::<Result<Vec<i64>, _>>()?;
    Ok((versions.len() <= most).then_some(versions))
}

/// Keeps a chunk away from one more node (by identity) from now on.
///
/// # Errors
/// [`super::CatalogError`].
pub fn keep_off(c: &Connection, chunk: i64, node: &str) -> CatalogResult<()> {
    let mut nodes = chunks::excluded(c, chunk)?;
    if !nodes.iter().any(|known| known == node) {
        nodes.push(node.to_owned());
        chunks::set_excluded(c, chunk, &nodes)?;
    }
    Ok(())
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
