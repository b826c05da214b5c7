//! Packs and the replicas in them. Life: planned → stored → live → dropping → gone, each step committed before the node
//! is told. Numbers come from a sequence that is never reused.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{CatalogError, CatalogResult, chunk_entry, damaged, digest, micros, signed, time, unsigned};
use crate::id::{PackId, PackRoot, PoolId, UploadId};
use crate::pack::{PackEntry, PackHeader};

/// Where a pack is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i64)]
pub enum PackState {
    /// Issued; the node may or may not have some of it.
    Planned = 0,
    /// The node answered success, which proves nothing yet.
    Stored = 1,
    /// Its replicas count.
    Live = 2,
    /// Nothing needs it; the node is to be told, as often as it takes.
    Dropping = 3,
    /// The node has been told.
    Gone = 4,
}

impl PackState {
    fn of(pack: i64, value: i64) -> CatalogResult<Self> {
        [Self::Planned, Self::Stored, Self::Live, Self::Dropping, Self::Gone]
            .into_iter()
            .find(|state| *state as i64 == value)
            .ok_or_else(|| damaged("pack", pack, format_args!("an unknown state ({value})")))
    }
}

/// A pack's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    /// Its number.
    pub id: PackId,
    /// The epoch that issued it.
    pub epoch: u64,
    /// Row of its node.
    pub node: i64,
    /// The vault whose chunks it holds; 0 for plain chunks.
    pub vault: i64,
    /// Its root.
    pub root: PackRoot,
    /// Its state.
    pub state: PackState,
    /// Bytes of its chunks.
    pub bytes: u64,
    /// The put that it belongs to.
    pub upload: Option<UploadId>,
    /// The pack that it is a smaller form of.
    pub replaces: Option<PackId>,
    /// When it was issued.
    pub created: Timestamp,
    /// When it was last proved, so that its copies count: by a receipt, or by reading and hashing.
    pub proved: Option<Timestamp>,
    /// When its protection was last seen.
    pub protected: Option<Timestamp>,
    /// When it was last seen to be there.
    pub present: Option<Timestamp>,
    /// When all its bytes were last read and hashed.
    pub intact: Option<Timestamp>,
}

const COLUMNS: &str =
    "id, epoch, node_id, vault_id, root, state, bytes, upload, replaces, created_at, proved_at, protected_at, present_at,
    intact_at";

fn row(row: &Row<'_>) -> CatalogResult<PackRow> {
    let id: i64 = row.get("id")?;
    let upload: Option<Vec<u8>> = row.get("upload")?;
    let upload = upload.map(|blob| {
        let bytes = blob.try_into().map_err(|_| damaged("pack", id, "an upload of another length"))?;
        Ok::<_, CatalogError>(UploadId::from_bytes(bytes))
    });
    let at = |name: &str| row.get::<_, Option<i64>>(name).map(|at| at.map(time));
    Ok(PackRow {
        id: PackId::new(unsigned(id)),
        epoch: unsigned(row.get("epoch")?),
        node: row.get("node_id")?,
        vault: row.get("vault_id")?,
        root: PackRoot::from_digest(digest("pack", id, &row.get::<_, Vec<u8>>("root")?)?),
        state: PackState::of(id, row.get("state")?)?,
        bytes: unsigned(row.get("bytes")?),
        upload: upload.transpose()?,
        replaces: row.get::<_, Option<i64>>("replaces")?.map(|id| PackId::new(unsigned(id))),
        created: time(row.get("created_at")?),
        proved: at("proved_at")?,
        protected: at("protected_at")?,
        present: at("present_at")?,
        intact: at("intact_at")?,
    })
}

/// One pack.
///
/// # Errors
/// [`CatalogError`].
pub fn get(c: &Connection, id: PackId) -> CatalogResult<Option<PackRow>> {
    c.prepare_cached(&format!("SELECT {COLUMNS} FROM pack WHERE id = ?1"))?
        .query_row([signed(id.get())], |found| Ok(row(found)))
        .optional()?
        .transpose()
}

/// Packs that were issued to take another's place, and have not.
///
/// # Errors
/// [`CatalogError`].
pub fn replacing(c: &Connection) -> CatalogResult<Vec<PackRow>> {
    // The state is written out: the index holds packs of this state alone.
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM pack INDEXED BY pack_replacing WHERE state = 0 AND replaces IS NOT NULL ORDER BY id LIMIT ?1"
    ))?;
    let rows = statement.query_map([i64::MAX], |found| Ok(row(found)))?;
    rows.map(|found| found?).collect()
}

/// Packs of a node, page by page in order of their numbers.
///
/// # Errors
/// [`CatalogError`].
pub fn of_node(c: &Connection, node: i64, after: PackId, limit: u32) -> CatalogResult<Vec<PackRow>> {
    // In the order of the table: by node, all that follow would be sorted for every page anew.
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM pack NOT INDEXED WHERE node_id = ?1 AND state < 4 AND id > ?2 ORDER BY id LIMIT ?3"
    ))?;
    let rows = statement.query_map(params![node, signed(after.get()), limit], |found| Ok(row(found)))?;
    rows.map(|found| found?).collect()
}

/// A pack to issue.
#[derive(Debug, Clone)]
pub struct NewPack {
    /// Row of the node.
    pub node: i64,
    /// The vault; 0 for plain chunks.
    pub vault: i64,
    /// The put.
    pub upload: Option<UploadId>,
    /// The pack that it is to replace.
    pub replaces: Option<PackId>,
    /// Rows of the chunks, in order.
    pub chunks: Vec<i64>,
    /// The same chunks.
    pub entries: Vec<PackEntry>,
}

impl NewPack {
    /// The smaller pack of these chunks that is to take a pack's place.
    pub fn in_place_of(old: &PackRow, kept: &[Held]) -> Self {
        Self {
            node: old.node,
            vault: old.vault,
            upload: None,
            replaces: Some(old.id),
            chunks: kept.iter().map(|held| held.row).collect(),
            entries: kept.iter().map(|held| held.entry).collect(),
        }
    }
}

/// Takes the next number of the sequence.
///
/// # Errors
/// [`CatalogError`].
fn take_number(c: &Connection) -> CatalogResult<PackId> {
    let id: i64 = c
        .prepare_cached("UPDATE pool SET next_pack = next_pack + 1 RETURNING next_pack - 1")?
        .query_row([], |row| row.get(0))?;
    Ok(PackId::new(unsigned(id)))
}

/// Takes the next number for a pack of a test.
///
/// # Errors
/// [`CatalogError`].
pub fn take_number_for_test(c: &Connection, epoch: u64) -> CatalogResult<PackId> {
    let number = take_number(c)?;
    super::charge::spend(c, epoch, number)?;
    Ok(number)
}

/// Issues a pack: takes the next number, records it as planned with its replicas, gives its header.
///
/// # Errors
/// [`CatalogError`].
pub fn issue(c: &Connection, pool: PoolId, epoch: u64, pack: NewPack, now: Timestamp) -> CatalogResult<PackHeader> {
    let number = take_number(c)?;
    let id = signed(number.get());
    let header = PackHeader { pool, epoch, id: number, entries: pack.entries };
    c.prepare_cached(
        "INSERT INTO pack(id, epoch, node_id, vault_id, root, state, bytes, upload, replaces, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        id,
        signed(epoch),
        pack.node,
        pack.vault,
        header.root().digest(),
        signed(header.bytes()),
        pack.upload.as_ref().map(UploadId::as_bytes),
        pack.replaces.map(|id| signed(id.get())),
        micros(now)
    ])?;
    let mut insert =
        c.prepare_cached("INSERT INTO replica(chunk_id, pack_id, part, ordinal) VALUES (?1, ?2, 0, ?3)")?;
    for (ordinal, chunk) in pack.chunks.iter().enumerate() {
        insert.execute(params![chunk, id, signed(ordinal as u64)])?;
    }
    Ok(header)
}

/// Gives a pack up that never counted: it is to be dropped. Says whether it was so; one that counts stays.
///
/// # Errors
/// [`CatalogError`].
pub fn abort(c: &Connection, id: PackId) -> CatalogResult<bool> {
    let changed =
        c.prepare_cached("UPDATE pack SET state = 3 WHERE id = ?1 AND state IN (0, 1)")?.execute([signed(id.get())])?;
    Ok(changed == 1)
}

/// Gives up the packs of repairs that an earlier start of the coordinator left unfinished. Packs that are to replace
/// another stay: the sweeper goes on with them.
///
/// # Errors
/// [`CatalogError`].
pub fn abort_repairs(c: &Connection) -> CatalogResult<()> {
    c.execute(
        "UPDATE pack INDEXED BY pack_repairing SET state = 3
         WHERE state IN (0, 1) AND upload IS NULL AND replaces IS NULL",
        [],
    )?;
    Ok(())
}

/// Has a pack dropped again that was dropped and that its node still protects.
///
/// # Errors
/// [`CatalogError`].
pub fn drop_again(c: &Connection, root: &PackRoot) -> CatalogResult<()> {
    c.prepare_cached("UPDATE pack SET state = 3 WHERE root = ?1 AND state = 4")?.execute([root.digest()])?;
    Ok(())
}

/// Packs to be dropped, page by page in order of their numbers.
///
/// # Errors
/// [`CatalogError`].
pub fn dropping(c: &Connection, after: PackId, limit: u32) -> CatalogResult<Vec<PackRow>> {
    let mut statement = c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM pack INDEXED BY pack_dropping WHERE state = 3 AND id > ?1 ORDER BY id LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![signed(after.get()), limit], |found| Ok(row(found)))?;
    rows.map(|found| found?).collect()
}

/// Moves a pack to another state.
///
/// # Errors
/// [`CatalogError`].
pub fn set_state(c: &Connection, id: PackId, state: PackState) -> CatalogResult<()> {
    c.prepare_cached("UPDATE pack SET state = ?2 WHERE id = ?1")?.execute(params![signed(id.get()), state as i64])?;
    Ok(())
}

/// Notes that a node says it has a planned pack; whether the pack is still wanted.
///
/// # Errors
/// [`CatalogError`].
pub fn stored(c: &Connection, id: PackId) -> CatalogResult<bool> {
    let changed =
        c.prepare_cached("UPDATE pack SET state = 1 WHERE id = ?1 AND state IN (0, 1)")?.execute([signed(id.get())])?;
    Ok(changed == 1)
}

/// How far a proof went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Protection and presence were seen, one chunk was read and hashed.
    Sampled,
    /// All bytes were hashed.
    Whole,
}

/// A receipt, or reading and hashing, by which the copies in a protected pack count. A listing is none: see [`listed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// How far it went.
    pub reach: Reach,
    /// The time for which it speaks, by the coordinator's clock; never one that is still to come.
    pub at: Timestamp,
}

/// Makes a pack live with a proof, or renews the proof of a live one. Does nothing to one that is dropping.
///
/// # Errors
/// [`CatalogError`].
pub fn proved(c: &Connection, id: PackId, proof: Proof) -> CatalogResult<bool> {
    let at = micros(proof.at);
    let intact = (proof.reach == Reach::Whole).then_some(at);
    let changed = c
        .prepare_cached(
            "UPDATE pack SET state = 2, proved_at = ?2, protected_at = ?2, present_at = ?2,
                 intact_at = coalesce(?3, intact_at)
             WHERE id = ?1 AND state IN (0, 1, 2)",
        )?
        .execute(params![signed(id.get()), at, intact])?;
    Ok(changed == 1)
}

/// Notes that a live pack was protected and read whole at `at`. That renews its proof, but gives none to a pack whose proof
/// was taken away; a proof of after `latest` is of a time to come, and none.
///
/// # Errors
/// [`CatalogError`].
pub fn read_whole(c: &Connection, id: PackId, at: Timestamp, latest: Timestamp) -> CatalogResult<()> {
    c.prepare_cached(
        "UPDATE pack SET intact_at = ?2, protected_at = ?2, present_at = ?2,
             proved_at = CASE WHEN proved_at <= ?3 THEN max(proved_at, ?2) WHEN proved_at > ?3 THEN ?2 END
         WHERE id = ?1 AND state = 2",
    )?
    .execute(params![signed(id.get()), micros(at), micros(latest)])?;
    Ok(())
}

/// Notes that a node listed a live pack and what it holds: it was protected and present then. That renews no proof.
///
/// # Errors
/// [`CatalogError`].
pub fn listed(c: &Connection, id: PackId, at: Timestamp) -> CatalogResult<()> {
    c.prepare_cached("UPDATE pack SET protected_at = ?2, present_at = ?2 WHERE id = ?1 AND state = 2")?
        .execute(params![signed(id.get()), micros(at)])?;
    Ok(())
}

/// Takes back the proof of a live pack that its node was seen not to protect, unless it was proved within `since`. Says
/// whether it had one.
///
/// # Errors
/// [`CatalogError`].
pub fn unprotected(c: &Connection, id: PackId, since: &RangeInclusive<i64>) -> CatalogResult<bool> {
    if proved_within(c, id, since)? {
        return Ok(false);
    }
    let changed = c
        .prepare_cached("UPDATE pack SET proved_at = NULL WHERE id = ?1 AND state = 2 AND proved_at IS NOT NULL")?
        .execute([signed(id.get())])?;
    if changed > 0 {
        super::chunks::lose(c)?;
    }
    Ok(changed > 0)
}

/// How long before its start a node that syncs nothing may have lost what it was given.
const UNSYNCED: Duration = Duration::from_secs(600);

/// Takes back the proofs of live packs that were proved on a node shortly before it was started, or since by a part of them,
/// unless they were read whole since; says how many those are. They count again once they were read.
///
/// # Errors
/// [`CatalogError`].
pub fn distrust(c: &Connection, node: i64, started: Timestamp) -> CatalogResult<u64> {
    let from = started.checked_sub(UNSYNCED).unwrap_or(started);
    // The state is written out: the index holds packs of this state alone.
    let never = c
        .prepare_cached(
            "UPDATE pack INDEXED BY pack_to_read SET proved_at = NULL
             WHERE state = 2 AND node_id = ?1 AND intact_at IS NULL AND created_at <= ?3 AND proved_at >= ?2",
        )?
        .execute(params![node, micros(from), micros(started)])?;
    let before = c
        .prepare_cached(
            "UPDATE pack INDEXED BY pack_to_read SET proved_at = NULL
             WHERE state = 2 AND node_id = ?1 AND intact_at BETWEEN ?2 AND ?3 AND created_at <= ?3
               AND proved_at >= ?2",
        )?
        .execute(params![node, micros(from), micros(started)])?;
    let all = (never + before) as u64;
    if all > 0 {
        super::chunks::lose(c)?;
    }
    Ok(all)
}

/// Rebuilds a pack's header from the catalog.
///
/// # Errors
/// [`CatalogError`].
pub fn header(c: &Connection, pool: PoolId, pack: &PackRow) -> CatalogResult<PackHeader> {
    let entries = chunks(c, pack.id)?.into_iter().map(|held| held.entry).collect();
    Ok(PackHeader { pool, epoch: pack.epoch, id: pack.id, entries })
}

/// A chunk in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Row of the chunk.
    pub row: i64,
    /// The chunk.
    pub entry: PackEntry,
    /// Whether the replica is known to be bad.
    pub bad: bool,
}

/// The chunks of a pack, in link order.
///
/// # Errors
/// [`CatalogError`].
pub fn chunks(c: &Connection, id: PackId) -> CatalogResult<Vec<Held>> {
    let mut statement = c.prepare_cached(
        "SELECT c.id, c.digest, c.bytes, r.bad_at IS NOT NULL FROM replica r JOIN chunk c ON c.id = r.chunk_id
         WHERE r.pack_id = ?1 ORDER BY r.ordinal",
    )?;
    held(&mut statement, id)
}

fn held(statement: &mut rusqlite::Statement<'_>, id: PackId) -> CatalogResult<Vec<Held>> {
    let rows = statement.query_map([signed(id.get())], |row| {
        let found: (i64, Vec<u8>, i64, bool) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        Ok(found)
    })?;
    rows.map(|found| {
        let (row, blob, bytes, bad) = found?;
        Ok(Held { row, entry: chunk_entry(row, &blob, bytes)?, bad })
    })
    .collect()
}

/// Whether a pack's proof is of these times.
///
/// # Errors
/// [`CatalogError`].
pub fn proved_within(c: &Connection, id: PackId, times: &RangeInclusive<i64>) -> CatalogResult<bool> {
    Ok(c.prepare_cached("SELECT 1 FROM pack WHERE id = ?1 AND proved_at BETWEEN ?2 AND ?3")?.exists(params![
        signed(id.get()),
        times.start(),
        times.end()
    ])?)
}

/// Packs on a node, live or to be dropped, that hold any of these chunks.
///
/// # Errors
/// [`CatalogError`].
pub fn holding(c: &Connection, node: i64, chunks: &[i64]) -> CatalogResult<BTreeSet<PackId>> {
    let mut statement = c.prepare_cached(
        "SELECT p.id FROM replica r JOIN pack p ON p.id = r.pack_id
         WHERE r.chunk_id = ?1 AND p.node_id = ?2 AND p.state IN (2, 3)",
    )?;
    let mut found = BTreeSet::new();
    for chunk in chunks {
        let rows = statement.query_map([*chunk, node], |row| row.get(0))?;
        for id in rows {
            found.insert(PackId::new(unsigned(id?)));
        }
    }
    Ok(found)
}

/// Some live packs of a node that were proved before a time, about those numbered after a random one, each with a chunk
/// that is not known to be bad.
///
/// # Errors
/// [`CatalogError`].
pub fn sample(
    c: &Connection,
    node: i64,
    from: u64,
    before: Timestamp,
    limit: u32,
) -> CatalogResult<Vec<(PackRow, Held)>> {
    let last: Option<i64> = c
        .prepare_cached("SELECT max(id) FROM pack WHERE node_id = ?1 AND state = 2")?
        .query_row([node], |row| row.get(0))?;
    let from = signed(from % unsigned(last.unwrap_or(0)).max(1));
    let mut packs: Vec<PackRow> = Vec::new();
    let mut add = |statement: &mut rusqlite::CachedStatement<'_>| -> CatalogResult<()> {
        let most = limit.saturating_sub(u32::try_from(packs.len()).unwrap_or(u32::MAX));
        let rows = statement.query_map(params![node, from, micros(before), most], |found| Ok(row(found)))?;
        packs.extend(rows.map(|found| found?).collect::<CatalogResult<Vec<_>>>()?);
        Ok(())
    };
    add(&mut c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM pack WHERE node_id = ?1 AND state = 2 AND id > ?2 AND proved_at < ?3 ORDER BY id LIMIT ?4"
    ))?)?;
    add(&mut c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM pack
         WHERE node_id = ?1 AND state = 2 AND id <= ?2 AND proved_at < ?3 ORDER BY id DESC LIMIT ?4"
    ))?)?;
    let mut found = Vec::new();
    for pack in packs {
        let mut first = c.prepare_cached(
            "SELECT c.id, c.digest, c.bytes, r.bad_at IS NOT NULL FROM replica r JOIN chunk c ON c.id = r.chunk_id
             WHERE r.pack_id = ?1 AND r.bad_at IS NULL LIMIT 1",
        )?;
        let held = held(&mut first, pack.id)?.pop();
        found.extend(held.map(|held| (pack, held)));
    }
    Ok(found)
}

/// How many chunks of a pack are not known to be bad.
///
/// # Errors
/// [`CatalogError`].
pub fn good(c: &Connection, id: PackId) -> CatalogResult<u64> {
    let count: i64 = c
        .prepare_cached("SELECT count(*) FROM replica WHERE pack_id = ?1 AND bad_at IS NULL")?
        .query_row([signed(id.get())], |row| row.get(0))?;
    Ok(unsigned(count))
}

/// Marks a replica as good again that was found to be by a check that began then, unless it was marked since.
///
/// # Errors
/// [`CatalogError`].
pub fn mended(c: &Connection, pack: PackId, chunk: i64, began: Timestamp) -> CatalogResult<()> {
    c.prepare_cached("UPDATE replica SET bad_at = NULL WHERE chunk_id = ?2 AND pack_id = ?1 AND bad_at <= ?3")?
        .execute(params![signed(pack.get()), chunk, micros(began)])?;
    Ok(())
}

/// Marks a replica as missing or wrong, as it was found at that time; says whether there is such a replica.
///
/// # Errors
/// [`CatalogError`].
pub fn mark(c: &Connection, pack: PackId, chunk: i64, found: Timestamp) -> CatalogResult<bool> {
    super::chunks::lose(c)?;
    let changed = c
        .prepare_cached("UPDATE replica SET bad_at = ?3 WHERE chunk_id = ?2 AND pack_id = ?1")?
        .execute(params![signed(pack.get()), chunk, micros(found)])?;
    Ok(changed > 0)
}

/// Forgets a replica that another one stands in for. A live pack that has none left is to be dropped.
///
/// # Errors
/// [`CatalogError`].
pub fn forget_replica(c: &Connection, pack: PackId, chunk: i64) -> CatalogResult<()> {
    c.prepare_cached("DELETE FROM replica WHERE pack_id = ?1 AND chunk_id = ?2")?
        .execute(params![signed(pack.get()), chunk])?;
    c.prepare_cached(
        "UPDATE pack SET state = 3 WHERE id = ?1 AND state = 2
         AND NOT EXISTS (SELECT 1 FROM replica WHERE pack_id = ?1)",
    )?
    .execute([signed(pack.get())])?;
    Ok(())
}
