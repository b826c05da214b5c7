//! What nothing needs any more: found in small transactions, so that no request waits for a sweep.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::files::expire_unlinked;
use super::packs::{self, PackRow, PackState};
use super::{CatalogResult, micros, signed, time, unsigned};
use crate::id::{PackId, UploadId};

/// Rows that one step touches at most.
const STEP: i64 = 500;
/// Directories that one step looks at, at most.
const DIRS: usize = 20;

/// Ends a put: its lease goes, what it did not commit is to be released, packs that never counted are to be dropped.
///
/// # Errors
/// [`super::CatalogError`].
pub fn end_upload(c: &Connection, upload: UploadId, now: Timestamp) -> CatalogResult<()> {
    let id = upload.as_bytes();
    c.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([id])?;
    c.prepare_cached("UPDATE version SET upload = NULL, file = NULL, expires_at = ?2 WHERE upload = ?1 AND state = 0")?
        .execute(params![id, micros(now)])?;
    c.prepare_cached("UPDATE version SET upload = NULL, file = NULL WHERE upload = ?1")?.execute([id])?;
    c.prepare_cached("UPDATE pack SET state = 3 WHERE upload = ?1 AND state IN (0, 1)")?.execute([id])?;
    c.prepare_cached("UPDATE pack SET upload = NULL WHERE upload = ?1")?.execute([id])?;
    Ok(())
}

/// Empties detached directories by one step; whether there may be more.
///
/// # Errors
/// [`super::CatalogError`].
pub fn empty_detached(c: &Connection, retention: Duration) -> CatalogResult<bool> {
    for _ in 0..DIRS {
        if !empty_one(c, retention)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn empty_one(c: &Connection, retention: Duration) -> CatalogResult<bool> {
    let found: Option<(i64, i64)> = c
        .prepare_cached("SELECT id, detached_at FROM entry WHERE detached_at IS NOT NULL LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((dir, detached)) = found else { return Ok(false) };
    let expires = time(detached).checked_add(retention).unwrap_or(Timestamp::MAX);
    let mut statement = c.prepare_cached("SELECT id, version_id FROM entry WHERE parent_id = ?1 LIMIT ?2")?;
    let children: Vec<(i64, Option<i64>)> =
        statement.query_map([dir, STEP], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (child, version) in &children {
        match version {
            Some(version) => {
                c.prepare_cached("DELETE FROM entry WHERE id = ?1")?.execute([child])?;
                expire_unlinked(c, *version, expires)?;
            }
            None => {
                c.prepare_cached("UPDATE entry SET parent_id = NULL, detached_at = ?2 WHERE id = ?1")?
                    .execute([*child, detached])?;
            }
        }
    }
    if children.is_empty() {
        let version: Option<i64> = c
            .prepare_cached("DELETE FROM entry WHERE id = ?1 RETURNING version_id")?
            .query_row([dir], |row| row.get(0))?;
        if let Some(version) = version {
            expire_unlinked(c, version, expires)?;
        }
    }
    Ok(true)
}

/// Releases versions whose time is over by one step; whether there may be more. Versions that somebody reads stay.
///
/// # Errors
/// [`super::CatalogError`].
pub fn release_versions(c: &Connection, until: Timestamp, reading: &HashSet<i64>) -> CatalogResult<bool> {
    let mut statement = c.prepare_cached("SELECT id FROM version WHERE expires_at <= ?1 ORDER BY expires_at, id")?;
    let mut found: Vec<i64> = Vec::new();
    let mut rows = statement.query([micros(until)])?;
    while let Some(row) = rows.next()?.filter(|_| found.len() < STEP as usize) {
        let version: i64 = row.get(0)?;
        if !reading.contains(&version) {
            found.push(version);
        }
    }
    drop(rows);
    let mut left = STEP;
    for version in &found {
        left -= release(c, *version)? + 1;
        if left <= 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Releases a version by one step; gives the rows of its manifest that went.
fn release(c: &Connection, version: i64) -> CatalogResult<i64> {
    c.prepare_cached(
        "INSERT OR IGNORE INTO loose_chunk
         SELECT chunk_id FROM (SELECT chunk_id FROM manifest WHERE version_id = ?1 ORDER BY idx LIMIT ?2)",
    )?
    .execute([version, STEP])?;
    let gone = c
        .prepare_cached(
            "DELETE FROM manifest WHERE version_id = ?1
             AND idx IN (SELECT idx FROM manifest WHERE version_id = ?1 ORDER BY idx LIMIT ?2)",
        )?
        .execute([version, STEP])?;
    let gone = signed(gone as u64);
    if gone < STEP {
        c.prepare_cached("DELETE FROM key_page WHERE version_id = ?1")?.execute([version])?;
        c.prepare_cached("DELETE FROM version WHERE id = ?1")?.execute([version])?;
    }
    Ok(gone)
}

/// What one step over loose chunks found.
#[derive(Debug, Default)]
pub struct Loosened {
    /// Chunks that nothing refers to.
    pub chunks: u64,
    /// Live packs that still hold one of them and something that is needed.
    pub holed: BTreeSet<PackId>,
    /// Where to go on; nothing at the end.
    pub next: Option<i64>,
}

/// Looks at loose chunks by one step: forgets those that are referred to again, turns packs that nothing refers to into
/// dropping (in this transaction, which sees no reference), and names the others.
///
/// # Errors
/// [`super::CatalogError`].
pub fn settle_loose(c: &Connection, after: i64) -> CatalogResult<Loosened> {
    let mut statement =
        c.prepare_cached("SELECT chunk_id FROM loose_chunk WHERE chunk_id > ?1 ORDER BY chunk_id LIMIT ?2")?;
    let ids: Vec<i64> = statement.query_map([after, STEP], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut found = Loosened { next: ids.last().copied(), ..Loosened::default() };
    for chunk in ids {
        if c.prepare_cached("SELECT 1 FROM manifest WHERE chunk_id = ?1")?.exists([chunk])? {
            c.prepare_cached("DELETE FROM loose_chunk WHERE chunk_id = ?1")?.execute([chunk])?;
            continue;
        }
        found.chunks += 1;
        let mut holding = c.prepare_cached(
            "SELECT p.id FROM replica r JOIN pack p ON p.id = r.pack_id WHERE r.chunk_id = ?1 AND p.state = 2",
        )?;
        let packs: Vec<i64> = holding.query_map([chunk], |row| row.get(0))?.collect::<Result<_, _>>()?;
        for pack in packs {
            let id = PackId::new(unsigned(pack));
            if is_needed(c, id)? {
                found.holed.insert(id);
            } else {
                packs::set_state(c, id, PackState::Dropping)?;
            }
        }
        forget_if_nowhere(c, chunk)?;
    }
    Ok(found)
}

fn is_needed(c: &Connection, pack: PackId) -> CatalogResult<bool> {
    Ok(c.prepare_cached(
        "SELECT 1 FROM replica r WHERE r.pack_id = ?1
         AND EXISTS (SELECT 1 FROM manifest m WHERE m.chunk_id = r.chunk_id) LIMIT 1",
    )?
    .exists([signed(pack.get())])?)
}

fn forget_if_nowhere(c: &Connection, chunk: i64) -> CatalogResult<()> {
    let held = c.prepare_cached("SELECT 1 FROM replica WHERE chunk_id = ?1")?.exists([chunk])?;
    if !held {
        c.prepare_cached("DELETE FROM loose_chunk WHERE chunk_id = ?1")?.execute([chunk])?;
        c.prepare_cached("DELETE FROM chunk WHERE id = ?1")?.execute([chunk])?;
    }
    Ok(())
}

/// Records that a node was told to drop a pack: its replicas go, and chunks that were nowhere else.
///
/// # Errors
/// [`super::CatalogError`].
pub fn dropped(c: &Connection, pack: PackId) -> CatalogResult<()> {
    let chunks = packs::chunks(c, pack)?;
    c.prepare_cached("DELETE FROM replica WHERE pack_id = ?1")?.execute([signed(pack.get())])?;
    packs::set_state(c, pack, PackState::Gone)?;
    for held in chunks {
        if !c.prepare_cached("SELECT 1 FROM manifest WHERE chunk_id = ?1")?.exists([held.row])? {
            c.prepare_cached("INSERT OR IGNORE INTO loose_chunk VALUES (?1)")?.execute([held.row])?;
            forget_if_nowhere(c, held.row)?;
        }
    }
    Ok(())
}

/// The part of a live pack that is needed, to become a smaller pack in its place. The rest of its replicas are forgotten
/// at once, so that nobody counts on them. Nothing when all of it or none of it is needed.
///
/// # Errors
/// [`super::CatalogError`].
pub fn shrink(c: &Connection, pack: &PackRow) -> CatalogResult<Option<Vec<packs::Held>>> {
    let held = packs::chunks(c, pack.id)?;
    let mut needed = Vec::with_capacity(held.len());
    let mut rest = Vec::new();
    for one in held {
        let used = c.prepare_cached("SELECT 1 FROM manifest WHERE chunk_id = ?1")?.exists([one.row])?;
        if used { needed.push(one) } else { rest.push(one) }
    }
    if needed.is_empty() || rest.is_empty() {
        return Ok(None);
    }
    for one in rest {
        c.prepare_cached("DELETE FROM replica WHERE pack_id = ?1 AND chunk_id = ?2")?
            .execute([signed(pack.id.get()), one.row])?;
        forget_if_nowhere(c, one.row)?;
    }
    Ok(Some(needed))
}

/// Records that a smaller pack stands in the place of its predecessor, with the same proof: nothing was proved anew.
///
/// # Errors
/// [`super::CatalogError`].
pub fn replaced(c: &Connection, new: &PackRow, old: PackId) -> CatalogResult<()> {
    c.prepare_cached(
        "UPDATE pack SET state = 2, (proved_at, protected_at, present_at, intact_at) =
             (SELECT proved_at, protected_at, present_at, intact_at FROM pack WHERE id = ?2) WHERE id = ?1 AND state = 0",
    )?
    .execute([signed(new.id.get()), signed(old.get())])?;
    c.prepare_cached(
        "UPDATE replica SET bad_at = (SELECT o.bad_at FROM replica o WHERE o.pack_id = ?2 AND o.chunk_id = replica.chunk_id)
         WHERE pack_id = ?1",
    )?
    .execute([signed(new.id.get()), signed(old.get())])?;
    c.prepare_cached("DELETE FROM replica WHERE pack_id = ?1")?.execute([signed(old.get())])?;
    packs::set_state(c, old, PackState::Gone)
}
