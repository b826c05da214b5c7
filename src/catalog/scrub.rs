//! Which packs are to be read and hashed next. The cursor is in the packs themselves: when all their bytes were last read.

use rusqlite::{Connection, OptionalExtension, params};

use super::packs::{self, PackRow};
use super::{CatalogResult, signed, unsigned};
use crate::id::PackId;

/// Times in catalog form that say which packs are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Those that were never read whole, and were issued before this.
    pub issued_before: i64,
    /// Those that were last read whole before this.
    pub read_before: i64,
    /// Those that were last read whole after this: a time to come was written down before the clock went back.
    pub read_after: i64,
}

/// Where a pass over a node's packs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Of those never read whole, the youngest first: only lower ones are left.
    below: i64,
    /// Of the others, that which was not read for longest first: only later ones are left.
    after: (i64, i64),
}

impl Default for Cursor {
    fn default() -> Self {
        Self { below: i64::MAX, after: (i64::MIN, i64::MIN) }
    }
}

/// The next pack of a node that is due, those that were never read first; moves the cursor past it.
///
/// # Errors
/// [`CatalogError`](super::CatalogError).
pub fn next(c: &Connection, node: i64, due: &Due, cursor: &mut Cursor) -> CatalogResult<Option<PackRow>> {
    // The state is written out: the index holds packs of this state alone.
    let new = c
        .prepare_cached(
            "SELECT id FROM pack INDEXED BY pack_to_read
             WHERE state = 2 AND node_id = ?1 AND intact_at IS NULL AND id < ?2 AND created_at < ?3
             ORDER BY id DESC LIMIT 1",
        )?
        .query_row(params![node, cursor.below, due.issued_before], |row| row.get::<_, i64>(0))
        .optional()?;
    if let Some(id) = new {
        cursor.below = id;
        return packs::get(c, PackId::new(unsigned(id)));
    }
    let from_the_future = "SELECT id, intact_at FROM pack INDEXED BY pack_to_read
         WHERE state = 2 AND node_id = ?1 AND intact_at > ?2 AND (intact_at, id) > (?3, ?4)
         ORDER BY intact_at, id LIMIT 1";
    let old = "SELECT id, intact_at FROM pack INDEXED BY pack_to_read
         WHERE state = 2 AND node_id = ?1 AND intact_at < ?2 AND (intact_at, id) > (?3, ?4)
         ORDER BY intact_at, id LIMIT 1";
    for (sql, bound) in [(old, due.read_before), (from_the_future, due.read_after)] {
        let found: Option<(i64, i64)> = c
            .prepare_cached(sql)?
            .query_row(params![node, bound, cursor.after.0, cursor.after.1], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if let Some((id, read)) = found {
            cursor.after = (read, id);
            return packs::get(c, PackId::new(unsigned(id)));
        }
    }
    Ok(None)
}

/// When the pack of a node was read whole whose last whole reading is the oldest, and how many packs were never read whole.
///
/// # Errors
/// [`CatalogError`](super::CatalogError).
pub fn oldest(c: &Connection, node: i64) -> CatalogResult<(Option<i64>, u64)> {
    let oldest = c
        .prepare_cached(
            "SELECT intact_at FROM pack INDEXED BY pack_to_read
             WHERE state = 2 AND node_id = ?1 AND intact_at IS NOT NULL ORDER BY intact_at LIMIT 1",
        )?
        .query_row([node], |row| row.get(0))
        .optional()?;
    let unread: i64 = c
        .prepare_cached(
            "SELECT count(*) FROM pack INDEXED BY pack_to_read
             WHERE state = 2 AND node_id = ?1 AND intact_at IS NULL",
        )?
        .query_row([node], |row| row.get(0))?;
    Ok((oldest, unsigned(unread)))
}

/// How many packs of a node are due, and their stored bytes.
///
/// # Errors
/// [`CatalogError`](super::CatalogError).
pub fn weigh(c: &Connection, node: i64, due: &Due) -> CatalogResult<(u64, u64)> {
    let (packs, bytes): (i64, i64) = c
        .prepare_cached(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM (
                 SELECT bytes FROM pack INDEXED BY pack_to_read
                 WHERE state = 2 AND node_id = ?1 AND intact_at IS NULL AND created_at < ?2
                 UNION ALL SELECT bytes FROM pack INDEXED BY pack_to_read
                 WHERE state = 2 AND node_id = ?1 AND intact_at < ?3
                 UNION ALL SELECT bytes FROM pack INDEXED BY pack_to_read
                 WHERE state = 2 AND node_id = ?1 AND intact_at > ?4)",
        )?
        .query_row(params![node, due.issued_before, due.read_before, due.read_after], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    Ok((unsigned(packs), unsigned(bytes)))
}

/// Whether a smaller pack is about to take this one's place, so that its node may not have it any more.
///
/// # Errors
/// [`CatalogError`](super::CatalogError).
pub fn is_replaced(c: &Connection, pack: PackId) -> CatalogResult<bool> {
    Ok(c.prepare_cached("SELECT 1 FROM pack INDEXED BY pack_instead WHERE state = 0 AND replaces = ?1")?
        .exists([signed(pack.get())])?)
}
