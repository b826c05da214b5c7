//! What chunks, packs and nodes mean to files, and the reverse: for reports that people read.

use rusqlite::{Connection, OptionalExtension, params};

use super::packs::{self, PackState};
use super::{CatalogResult, unsigned};
use crate::id::{PackId, PackRoot};
use crate::path::RemotePath;

/// One file that has a chunk, and how many files do.
///
/// # Errors
/// [`super::CatalogError`].
pub fn files_of_chunk(c: &Connection, chunk: i64) -> CatalogResult<(Option<RemotePath>, u64)> {
    let (entry, files): (Option<i64>, i64) = c
        .prepare_cached(
            "SELECT min(e.id), count(DISTINCT e.id) FROM manifest m JOIN entry e ON e.version_id = m.version_id
             WHERE m.chunk_id = ?1",
        )?
        .query_row([chunk], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((path_of(c, entry)?, unsigned(files)))
}

/// One file that has a version.
///
/// # Errors
/// [`super::CatalogError`].
pub fn file_of(c: &Connection, version: i64) -> CatalogResult<Option<RemotePath>> {
    let entry: Option<i64> =
        c.prepare_cached("SELECT min(id) FROM entry WHERE version_id = ?1")?.query_row([version], |row| row.get(0))?;
    path_of(c, entry)
}

/// One file that has a chunk in a live pack on a node, and how many files do.
///
/// # Errors
/// [`super::CatalogError`].
pub fn files_of_node(c: &Connection, node: i64) -> CatalogResult<(Option<RemotePath>, u64)> {
    let (entry, files): (Option<i64>, i64) = c
        .prepare_cached(
            "SELECT min(e.id), count(DISTINCT e.id) FROM pack p JOIN replica r ON r.pack_id = p.id
             JOIN manifest m ON m.chunk_id = r.chunk_id JOIN entry e ON e.version_id = m.version_id
             WHERE p.node_id = ?1 AND p.state = 2",
        )?
        .query_row([node], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((path_of(c, entry)?, unsigned(files)))
}

/// The path of an entry, if there is one, up to the root of its vault.
///
/// # Errors
/// [`super::CatalogError`].
fn path_of(c: &Connection, entry: Option<i64>) -> CatalogResult<Option<RemotePath>> {
    if entry.is_none() {
        return Ok(None);
    }
    let mut names = Vec::new();
    let mut at = entry;
    while let Some(id) = at {
        let found: Option<(Option<i64>, String)> = c
            .prepare_cached("SELECT parent_id, name FROM entry WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((parent, name)) = found else { return Ok(None) };
        if parent.is_some() {
            names.push(name);
        }
        if names.len() > crate::path::MAX_PATH_BYTES {
            return Ok(None);
        }
        at = parent;
    }
    names.reverse();
    Ok(format!("bn:/{}", names.join("/")).parse().ok())
}

/// Which of these roots are of packs that this catalog recorded as dropped.
///
/// # Errors
/// [`super::CatalogError`].
pub fn orphans(c: &Connection, roots: &[PackRoot]) -> CatalogResult<Vec<PackRoot>> {
    let mut statement = c.prepare_cached("SELECT 1 FROM pack WHERE root = ?1 AND state = ?2")?;
    let mut found = Vec::new();
    for root in roots {
        if statement.exists(params![root.digest(), PackState::Gone as i64])? {
            found.push(*root);
        }
    }
    Ok(found)
}

/// Whether a pack is as the plan saw it.
///
/// # Errors
/// [`super::CatalogError`].
pub fn still_live(c: &Connection, pack: PackId) -> CatalogResult<bool> {
    Ok(packs::get(c, pack)?.is_some_and(|pack| pack.state == PackState::Live))
}
