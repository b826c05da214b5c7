//! Who is in charge of the pool: the starts of its coordinator on this catalog, the packs that it issued, and whether it
//! may change anything. A copy of a catalog begins with the same facts and notes others from then on, so what a node
//! shows tells the two apart.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{CatalogResult, micros, nodes, signed, unsigned};
use crate::grant::Start;
use crate::id::{PackId, PackRoot, PoolId};

/// The pool's own row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRow {
    /// Its identity.
    pub pool: PoolId,
    /// How often a coordinator has started on this catalog.
    pub epoch: u64,
    /// Why nothing may be changed.
    pub read_only: Option<String>,
}

/// How a start is named where nodes see it.
pub fn start_of(epoch: u64, instance: &[u8; 16]) -> Start {
    Start { epoch, instance: data_encoding::HEXLOWER.encode(instance) }
}

/// Raises the epoch (making the pool if there is none) and gives the row.
///
/// # Errors
/// [`super::CatalogError`].
pub fn start(
    c: &Connection,
    fresh: PoolId,
    instance: [u8; 16],
    replicas: u32,
    now: Timestamp,
) -> CatalogResult<PoolRow> {
    c.execute(
        "INSERT INTO pool(id, pool, epoch, instance, replicas, next_pack, created_at) VALUES (1, ?1, 0, ?2, ?3, 1, ?4)
         ON CONFLICT(id) DO NOTHING",
        params![fresh.as_bytes(), instance, replicas, micros(now)],
    )?;
    c.execute("UPDATE pool SET epoch = epoch + 1, instance = ?1, replicas = ?2", params![instance, replicas])?;
    let (epoch, read_only): (i64, Option<String>) =
        c.query_row("SELECT epoch, read_only FROM pool", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let epoch = unsigned(epoch);
    note(c, &start_of(epoch, &instance))?;
    Ok(PoolRow { pool: nodes::pool(c)?, epoch, read_only })
}

fn note(c: &Connection, start: &Start) -> CatalogResult<()> {
    c.execute("INSERT INTO start(epoch, instance) VALUES (?1, ?2)", params![signed(start.epoch), start.instance])?;
    Ok(())
}

/// Whether a start was made on this catalog, or is older than what was adopted.
///
/// # Errors
/// [`super::CatalogError`].
pub fn knows(c: &Connection, start: &Start) -> CatalogResult<bool> {
    let own = "SELECT 1 FROM start WHERE epoch = ?1 AND instance = ?2
               UNION ALL SELECT 1 FROM pool WHERE adopted > ?1";
    Ok(c.prepare_cached(own)?.exists(params![signed(start.epoch), start.instance])?)
}

/// Which of these roots no pack of this catalog has or had.
///
/// # Errors
/// [`super::CatalogError`].
pub fn without_row(c: &Connection, roots: &[PackRoot]) -> CatalogResult<Vec<PackRoot>> {
    let mut statement = c.prepare_cached("SELECT 1 FROM pack WHERE root = ?1")?;
    let mut without = Vec::new();
    for root in roots {
        if !statement.exists([root.digest()])? {
            without.push(*root);
        }
    }
    Ok(without)
}

/// Whether a pack without a row is no surprise: it was a test's, or of a node that was forgotten, or is older than what
/// was adopted.
///
/// # Errors
/// [`super::CatalogError`].
pub fn accounts_for(c: &Connection, epoch: u64, pack: PackId) -> CatalogResult<bool> {
    let own = "SELECT 1 FROM spent WHERE epoch = ?1 AND pack_id = ?2
               UNION ALL SELECT 1 FROM pool WHERE adopted > ?1";
    Ok(c.prepare_cached(own)?.exists(params![signed(epoch), signed(pack.get())])?)
}

/// Notes the number of a pack that gets no row.
///
/// # Errors
/// [`super::CatalogError`].
pub fn spend(c: &Connection, epoch: u64, pack: PackId) -> CatalogResult<()> {
    c.prepare_cached("INSERT OR IGNORE INTO spent(epoch, pack_id) VALUES (?1, ?2)")?
        .execute(params![signed(epoch), signed(pack.get())])?;
    Ok(())
}

/// Notes the numbers of a node's packs, whose rows are about to go.
///
/// # Errors
/// [`super::CatalogError`].
pub fn spend_of_node(c: &Connection, node: i64) -> CatalogResult<()> {
    c.execute("INSERT OR IGNORE INTO spent(epoch, pack_id) SELECT epoch, id FROM pack WHERE node_id = ?1", [node])?;
    Ok(())
}

/// Keeps this catalog from being changed, for the first reason that is given; gives the one that holds.
///
/// # Errors
/// [`super::CatalogError`].
pub fn turn_read_only(c: &Connection, why: &str) -> CatalogResult<String> {
    let sql = "UPDATE pool SET read_only = coalesce(read_only, ?1) RETURNING read_only";
    Ok(c.query_row(sql, [why], |row| row.get(0))?)
}

/// The highest epoch and number that were seen on nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Highest {
    /// Of a start, or of a pack.
    pub epoch: u64,
    /// Of a pack.
    pub pack: u64,
}

/// The number of the next pack.
///
/// # Errors
/// [`super::CatalogError`].
pub fn next_pack(c: &Connection) -> CatalogResult<u64> {
    Ok(unsigned(c.prepare_cached("SELECT next_pack FROM pool")?.query_row([], |row| row.get(0))?))
}

/// Sees to it that the number of the next pack is higher than this.
///
/// # Errors
/// [`super::CatalogError`].
pub fn rise(c: &Connection, pack: u64) -> CatalogResult<()> {
    c.prepare_cached("UPDATE pool SET next_pack = ?1 + 1 WHERE next_pack <= ?1")?.execute([signed(pack)])?;
    Ok(())
}

/// Puts this start in charge, over all that was seen: its epoch and its numbers are higher, what is older is accounted for,
/// and the catalog may be changed again. Gives the new epoch.
///
/// # Errors
/// [`super::CatalogError`].
pub fn adopt(c: &Connection, instance: &[u8; 16], seen: Highest) -> CatalogResult<u64> {
    rise(c, seen.pack)?;
    let sql = "UPDATE pool SET epoch = max(epoch, ?1) + 1, adopted = max(epoch, ?1) + 1, read_only = NULL
               RETURNING epoch";
    let epoch = unsigned(c.query_row(sql, [signed(seen.epoch)], |row| row.get(0))?);
    note(c, &start_of(epoch, instance))?;
    Ok(epoch)
}
