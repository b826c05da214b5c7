//! Copies that are too many, and whether the others are enough.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::chunks;
use super::packs;
use super::scrub;
use super::{CatalogResult, digest, signed, unsigned};
use crate::id::{ChunkId, PackId, PackRoot};

/// A counted copy that would stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its node (by row).
    pub node: i64,
    /// Its pack,
    pub pack: PackId,
    /// and that one's root.
    pub root: PackRoot,
    /// When it was proved last, in catalog form.
    pub proved: i64,
    /// When its protection and its presence were both seen last.
    listed: i64,
}

/// Copies wanted of a chunk by the files and uploads that have it, and its counted copies outside of a pack and of nodes
/// that are to be emptied. Nothing for a chunk that nothing has, or whose row is another one's by now.
///
/// # Errors
/// [`super::CatalogError`].
pub fn kept(
    c: &Connection,
    row: i64,
    chunk: &ChunkId,
    without: PackId,
    leaving: &BTreeSet<i64>,
) -> CatalogResult<Option<(u32, Vec<Kept>)>> {
    let target: Option<u32> = c
        .prepare_cached(
            "SELECT max(v.replicas) FROM manifest m JOIN version v ON v.id = m.version_id WHERE m.chunk_id = ?1",
        )?
        .query_row([row], |found| found.get(0))?;
    let Some(target) = target else { return Ok(None) };
    if !chunks::is_at(c, row, chunk)? {
        return Ok(None);
    }
    let mut statement = c.prepare_cached(
        "SELECT p.node_id, p.id, p.root, p.proved_at, min(p.protected_at, p.present_at) FROM replica r
         JOIN pack p ON p.id = r.pack_id
         WHERE r.chunk_id = ?1 AND r.bad_at IS NULL AND p.state = 2 AND p.id <> ?2 AND p.proved_at IS NOT NULL
           AND p.protected_at IS NOT NULL AND p.present_at IS NOT NULL
         ORDER BY p.proved_at DESC, p.id",
    )?;
    let rows = statement.query_map(params![row, signed(without.get())], |found| {
        let found: (i64, i64, Vec<u8>, i64, i64) =
            (found.get(0)?, found.get(1)?, found.get(2)?, found.get(3)?, found.get(4)?);
        Ok(found)
    })?;
    let mut kept = Vec::new();
    for found in rows {
        let (node, pack, root, proved, listed) = found?;
        let root = PackRoot::from_digest(digest("pack", pack, &root)?);
        if !leaving.contains(&node) {
            kept.push(Kept { node, pack: PackId::new(unsigned(pack)), root, proved, listed });
        }
    }
    Ok(Some((target, kept)))
}

/// Which copies count when another is to be given up.
#[derive(Debug, Clone)]
pub struct Counts {
    /// Those that were listed from then on,
    pub since: i64,
    /// on nodes (by row) that answer
    pub answering: BTreeSet<i64>,
    /// and are not to be emptied;
    pub leaving: BTreeSet<i64>,
    /// those in these packs were read or proved just now.
    pub proved: BTreeSet<PackId>,
}

/// Gives up the copy of a chunk in a live pack on a node, if on other nodes as many are left as are wanted, with as many of
/// them proved just now as a put needs to be acknowledged; says whether it was so. Nothing is given up of a pack whose place
/// another is about to take.
///
/// # Errors
/// [`super::CatalogError`].
pub fn give_up(
    c: &Connection,
    (node, pack): (i64, PackId),
    (row, chunk): (i64, &ChunkId),
    counts: &Counts,
) -> CatalogResult<bool> {
    let live = packs::get(c, pack)?.is_some_and(|found| found.state == packs::PackState::Live && found.node == node);
    if !live || scrub::is_replaced(c, pack)? {
        return Ok(false);
    }
    let Some((target, kept)) = kept(c, row, chunk, pack, &counts.leaving)? else { return Ok(false) };
    let is_there =
        |kept: &&Kept| kept.node != node && kept.listed >= counts.since && counts.answering.contains(&kept.node);
    let elsewhere = || kept.iter().filter(is_there);
    let all: BTreeSet<i64> = elsewhere().map(|kept| kept.node).collect();
    let sure = elsewhere().filter(|kept| counts.proved.contains(&kept.pack)).map(|kept| kept.node);
    if all.len() < target as usize || sure.collect::<BTreeSet<i64>>().len() < target.min(2) as usize {
        return Ok(false);
    }
    chunks::lose(c)?;
    packs::forget_replica(c, pack, row)?;
    Ok(true)
}
