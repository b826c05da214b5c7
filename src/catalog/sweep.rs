//! What nothing needs any more: found in small transactions, so that no request waits for a sweep.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::files::expire_unlinked;
use super::packs::{self, PackRow, PackState};
use super::{CatalogResult, micros, signed, time, unsigned};
use crate::id::{PackId, UploadId};

/// Rows that one step touches at most.
const STEP: i64 = 500;

/// Begins to end a put: from now on nothing can be done for it.
///
/// # Errors
/// [`super::CatalogError`].
pub fn begin_end(c: &Connection, upload: UploadId, now: Timestamp) -> CatalogResult<()> {
    c.prepare_cached("UPDATE lease SET ended_at = ?2 WHERE id = ?1 AND ended_at IS NULL")?
        .execute(params![upload.as_bytes(), micros(now)])?;
    Ok(())
}

/// Puts that began to end, and have not.
///
/// # Errors
/// [`super::CatalogError`].
pub fn ending(c: &Connection) -> CatalogResult<Vec<UploadId>> {
    let mut statement = c.prepare_cached("SELECT id FROM lease WHERE ended_at IS NOT NULL")?;
    let rows = statement.query_map([], |row| row.get::<_, [u8; 16]>(0))?;
    Ok(rows.map(|id| id.map(UploadId::from_bytes)).collect::<Result<_, _>>()?)
}

/// Goes on ending a put by one step; whether there may be more. What it did not commit is to be released, packs that
/// never counted are to be dropped; its lease goes last, so that what is left of it is never forgotten.
///
/// # Errors
/// [`super::CatalogError`].
pub fn end_upload(c: &Connection, upload: UploadId, now: Timestamp) -> CatalogResult<bool> {
    let id = upload.as_bytes();
    let versions = c
        .prepare_cached(
            "UPDATE version SET upload = NULL, file = NULL, expires_at = CASE state WHEN 0 THEN ?2 ELSE expires_at END
             WHERE id IN (SELECT id FROM version WHERE upload = ?1 LIMIT ?3)",
        )?
        .execute(params![id, micros(now), STEP])?;
    let packs = c
        .prepare_cached(
            "UPDATE pack SET upload = NULL, state = CASE WHEN state IN (0, 1) THEN 3 ELSE state END
             WHERE id IN (SELECT id FROM pack WHERE upload = ?1 LIMIT ?2)",
        )?
        .execute(params![id, STEP])?;
    if versions.max(packs) >= STEP as usize {
        return Ok(true);
    }
    c.prepare_cached("DELETE FROM lease WHERE id = ?1")?.execute([id])?;
    Ok(false)
}

/// Empties detached directories by one step, but those that are being built; whether there may be more.
///
/// # Errors
/// [`super::CatalogError`].
pub fn empty_detached(c: &Connection, retention: Duration, building: &HashSet<i64>) -> CatalogResult<bool> {
    let mut left = STEP;
    while left > 0 {
        let Some(touched) = empty_one(c, retention, building, left)? else { return Ok(false) };
        left -= touched;
    }
    Ok(true)
}

/// Takes so many entries out of a detached directory, or itself away when it is empty; gives how many rows it touched,
/// or nothing when there is none.
fn empty_one(c: &Connection, retention: Duration, building: &HashSet<i64>, most: i64) -> CatalogResult<Option<i64>> {
    let mut detached = c.prepare_cached("SELECT id, detached_at FROM entry WHERE detached_at IS NOT NULL")?;
    let mut rows = detached.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found: Option<(i64, i64)> =
        rows.find(|row| row.as_ref().map_or(true, |(id, _)| !building.contains(id))).transpose()?;
    drop(rows);
    let Some((dir, detached)) = found else { return Ok(None) };
    let expires = time(detached).checked_add(retention).unwrap_or(Timestamp::MAX);
    let mut statement = c.prepare_cached("SELECT id, version_id FROM entry WHERE parent_id = ?1 LIMIT ?2")?;
    let children: Vec<(i64, Option<i64>)> =
        statement.query_map([dir, most], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
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
    Ok(Some(signed(children.len() as u64).max(1)))
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

/// What a sweep would release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreseen {
    /// Chunks that nothing would refer to.
    pub chunks: u64,
    /// Packs that would be dropped.
    pub packs: u64,
    /// Bytes of those, and of what other packs would lose.
    pub bytes: u64,
}

/// Works out what a sweep would release, without changing anything but tables of its own, which go with the caller's
/// transaction.
///
/// # Errors
/// [`super::CatalogError`].
pub fn foresee(
    c: &Connection,
    retention: Duration,
    until: Timestamp,
    (reading, building): (&HashSet<i64>, &HashSet<i64>),
) -> CatalogResult<Foreseen> {
    c.execute_batch(FORESEE)?;
    let mut insert = c.prepare("INSERT INTO temp.busy VALUES (?1)")?;
    building.iter().try_for_each(|entry| insert.execute([entry]).map(drop))?;
    let mut insert = c.prepare("INSERT INTO temp.read VALUES (?1)")?;
    reading.iter().try_for_each(|version| insert.execute([version]).map(drop))?;
    let retention = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    c.execute(HIDDEN, [])?;
    c.execute(PAST, [micros(until)])?;
    c.execute(UNSEEN, [micros(until).saturating_sub(retention)])?;
    c.execute_batch(LOOSE)?;
    let chunks: i64 = c.query_row("SELECT count(*) FROM temp.loose", [], |row| row.get(0))?;
    let (packs, bytes): (i64, i64) = c.query_row(RELEASED, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Foreseen { chunks: unsigned(chunks), packs: unsigned(packs), bytes: unsigned(bytes) })
}

/// Tables of [`foresee`]: trees under construction, versions that are read, detached entries, versions that would go,
/// chunks that would be in none.
pub(super) const FORESEE: &str = "
CREATE TEMP TABLE busy(id INTEGER PRIMARY KEY);
CREATE TEMP TABLE read(id INTEGER PRIMARY KEY);
CREATE TEMP TABLE hidden(version_id INTEGER NOT NULL, entry_id INTEGER NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (version_id, entry_id)) WITHOUT ROWID;
CREATE TEMP TABLE gone(id INTEGER PRIMARY KEY);
CREATE TEMP TABLE loose(id INTEGER PRIMARY KEY);
";

const HIDDEN: &str = "
INSERT INTO temp.hidden
WITH RECURSIVE below(id, version_id, at) AS (
    SELECT id, version_id, detached_at FROM entry
    WHERE detached_at IS NOT NULL AND id NOT IN (SELECT id FROM temp.busy)
    UNION ALL SELECT e.id, e.version_id, b.at FROM entry e JOIN below b ON e.parent_id = b.id)
SELECT version_id, id, at FROM below WHERE version_id IS NOT NULL";

const PAST: &str = "
INSERT INTO temp.gone
SELECT id FROM version WHERE expires_at <= ?1 AND id NOT IN (SELECT id FROM temp.read)";

const UNSEEN: &str = "
INSERT OR IGNORE INTO temp.gone
SELECT version_id FROM temp.hidden h WHERE version_id NOT IN (SELECT id FROM temp.read) GROUP BY version_id
HAVING max(at) <= ?1 AND count(*) = (SELECT count(*) FROM entry e WHERE e.version_id = h.version_id)";

const LOOSE: &str = "
INSERT INTO temp.loose
SELECT chunk_id FROM loose_chunk
UNION SELECT m.chunk_id FROM temp.gone g CROSS JOIN manifest m ON m.version_id = g.id;
DELETE FROM temp.loose WHERE EXISTS (
    SELECT 1 FROM manifest m WHERE m.chunk_id = loose.id AND m.version_id NOT IN (SELECT id FROM temp.gone));
";

/// Packs that would be dropped; their bytes and those that other packs would lose.
const RELEASED: &str = "
WITH touched(id, kept) AS (
    SELECT p.id, sum(CASE WHEN EXISTS (
        SELECT 1 FROM manifest m WHERE m.chunk_id = c.id AND m.version_id NOT IN (SELECT id FROM temp.gone))
        THEN c.bytes ELSE 0 END)
    FROM (SELECT DISTINCT r.pack_id id FROM temp.loose l JOIN replica r ON r.chunk_id = l.id) t
    JOIN pack p ON p.id = t.id AND p.state = 2
    JOIN replica r ON r.pack_id = p.id JOIN chunk c ON c.id = r.chunk_id
    GROUP BY p.id),
changed(bytes, kept) AS (
    SELECT p.bytes, t.kept FROM touched t JOIN pack p ON p.id = t.id
    UNION ALL SELECT bytes, 0 FROM pack INDEXED BY pack_dropping WHERE state = 3)
SELECT coalesce(sum(kept = 0), 0), coalesce(sum(bytes - kept), 0) FROM changed";

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
        // A node cannot make a pack of what it has wrong, and nobody misses that where there are enough others.
        match used {
            true if one.bad && is_enough(c, one.row, pack.node)? => packs::forget_replica(c, pack.id, one.row)?,
            true => needed.push(one),
            false => rest.push(one),
        }
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

/// Whether on other nodes two copies of a chunk count, or one where no more is wanted.
fn is_enough(c: &Connection, chunk: i64, node: i64) -> CatalogResult<bool> {
    let (others, wanted): (i64, i64) = c
        .prepare_cached(
            "SELECT (SELECT count(DISTINCT p.node_id) FROM replica r JOIN pack p ON p.id = r.pack_id
                     WHERE r.chunk_id = ?1 AND r.bad_at IS NULL AND p.state = 2 AND p.proved_at IS NOT NULL
                       AND p.node_id <> ?2),
                    (SELECT coalesce(max(v.replicas), 0) FROM manifest m JOIN version v ON v.id = m.version_id
                     WHERE m.chunk_id = ?1)",
        )?
        .query_row(params![chunk, node], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(others >= wanted.min(2))
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
