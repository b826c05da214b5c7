//! Chunks of files: what an upload appends, where copies are, how many count.

use std::ops::RangeInclusive;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::{CatalogError, CatalogResult, chunk_entry, damaged, digest, micros, packs, signed, spread, unsigned};
use crate::api::{ApiError, Append, Blob, ChunkDesc, Code, Part, VersionId};
use crate::id::{ChunkId, PackId, PackRoot, UploadId};
use crate::pack::{MAX_CHUNK_BYTES, PackEntry};
use crate::seal::OVERHEAD;

/// Where the links of a public file begin in its manifest.
pub const LINKS_FROM: i64 = 1 << 40;
/// What a page of encrypted keys takes for each chunk, and for itself, at most.
const KEY_BYTES: usize = 128;

/// What an upload needs to know of itself to append.
#[derive(Debug, Clone, Copy)]
pub struct Appending {
    /// The upload.
    pub upload: UploadId,
    /// The vault that the files go to.
    pub vault: i64,
    /// Copies wanted.
    pub replicas: u32,
    /// Whether chunks are plain.
    pub public: bool,
    /// Plaintext bytes a chunk.
    pub chunk_size: u32,
    /// Now.
    pub now: Timestamp,
}

impl Appending {
    /// The vault that chunks belong to: plain ones belong to all.
    pub const fn chunk_vault(&self) -> i64 {
        if self.public { 0 } else { self.vault }
    }
}

const fn part_number(part: Part) -> i64 {
    match part {
        Part::Sealed => 0,
        Part::Plain => 1,
        Part::Link => 2,
    }
}

fn part_of(version: i64, number: i64) -> CatalogResult<Part> {
    match number {
        0 => Ok(Part::Sealed),
        1 => Ok(Part::Plain),
        2 => Ok(Part::Link),
        _ => Err(damaged("version", version, format_args!("a chunk of an unknown kind ({number})"))),
    }
}

/// The row of a chunk, made if need be. A chunk is what its digest and its length say: the length is a client's claim,
/// which nothing but a proved copy makes true, so a false one is a chunk of its own that hinders nobody.
fn chunk_row(c: &Connection, vault: i64, desc: &ChunkDesc) -> CatalogResult<i64> {
    if let Some(row) = known(c, vault, &desc.chunk, desc.bytes)? {
        return Ok(row);
    }
    Ok(c.prepare_cached("INSERT INTO chunk(vault_id, digest, bytes) VALUES (?1, ?2, ?3)")?.insert(params![
        vault,
        desc.chunk.digest(),
        signed(desc.bytes)
    ])?)
}

/// The pending version of an upload's file, made if need be.
fn pending(c: &Connection, at: &Appending, file: u32) -> CatalogResult<i64> {
    let found: Option<(i64, i64)> = c
        .prepare_cached("SELECT id, state FROM version WHERE upload = ?1 AND file = ?2")?
        .query_row(params![at.upload.as_bytes(), file], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((id, 0)) => Ok(id),
        Some(_) => Err(ApiError::new(Code::Usage, format!("file {file} of this upload is committed already")).into()),
        None => Ok(c
            .prepare_cached(
                "INSERT INTO version(vault_id, upload, file, state, chunk_size, public, replicas, created_at)
                 VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7)",
            )?
            .insert(params![
                at.vault,
                at.upload.as_bytes(),
                file,
                at.chunk_size,
                at.public,
                at.replicas,
                micros(at.now)
            ])?),
    }
}

/// What an append amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Rows of the chunks in order.
    pub rows: Vec<i64>,
    /// Whether all of it had been appended before.
    pub repeated: bool,
}

/// Appends chunks to a pending version. To repeat an append changes nothing.
///
/// # Errors
/// [`Code::Usage`] when there is a gap, the parts do not go together, or other chunks were appended there before.
pub fn append(c: &Connection, at: &Appending, append: &Append) -> CatalogResult<Appended> {
    let version = pending(c, at, append.file)?;
    let wrong = |what: &str| CatalogError::from(ApiError::new(Code::Usage, format!("file {}: {what}", append.file)));
    let links = append.chunks.first().is_some_and(|desc| desc.part == Part::Link);
    let base = if links { LINKS_FROM } else { 0 };
    let first = base + signed(append.first).min(LINKS_FROM - 1);
    if first > base {
        let before = c
            .prepare_cached("SELECT 1 FROM manifest WHERE version_id = ?1 AND idx = ?2")?
            .exists(params![version, first - 1])?;
        if !before {
            return Err(wrong("its chunks do not follow what was appended before"));
        }
    }
    if append.sealed_keys.0.len() > append.chunks.len() * KEY_BYTES + KEY_BYTES {
        return Err(wrong("its page of keys is too long"));
    }
    let mut rows = Vec::with_capacity(append.chunks.len());
    let mut fresh = 0;
    for (idx, desc) in (first..).zip(&append.chunks) {
        if !fits(at, links, desc) {
            return Err(wrong("a chunk of it has another kind or size than it must have"));
        }
        let row = chunk_row(c, at.chunk_vault(), desc)?;
        match insert_manifest(c, version, idx, row, desc)? {
            Inserted::Fresh => fresh += 1,
            Inserted::Same => {}
            Inserted::Differs => return Err(wrong("other chunks were appended there before")),
        }
        rows.push(row);
    }
    if fresh > 0 {
        if !append.sealed_keys.0.is_empty() {
            c.prepare_cached("INSERT OR REPLACE INTO key_page(version_id, first, page) VALUES (?1, ?2, ?3)")?
                .execute(params![version, signed(append.first), append.sealed_keys.0])?;
        }
        c.prepare_cached("UPDATE version SET appends = appends + 1 WHERE id = ?1")?.execute([version])?;
    }
    Ok(Appended { rows, repeated: fresh == 0 })
}

/// Whether a chunk may stand where it is to stand.
fn fits(at: &Appending, links: bool, desc: &ChunkDesc) -> bool {
    let of_data = (1..=u64::from(at.chunk_size)).contains(&desc.length);
    match desc.part {
        Part::Sealed => !at.public && !links && of_data && desc.bytes == desc.length + OVERHEAD as u64,
        Part::Plain => at.public && !links && of_data && desc.bytes == desc.length,
        Part::Link => at.public && links && desc.length == 0,
    }
}

enum Inserted {
    Fresh,
    Same,
    Differs,
}

fn insert_manifest(c: &Connection, version: i64, idx: i64, row: i64, desc: &ChunkDesc) -> CatalogResult<Inserted> {
    let (length, part) = (signed(desc.length), part_number(desc.part));
    let changed = c
        .prepare_cached(
            "INSERT INTO manifest(version_id, idx, chunk_id, length, part) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![version, idx, row, length, part])?;
    if changed == 1 {
        return Ok(Inserted::Fresh);
    }
    let same = c
        .prepare_cached(
            "SELECT 1 FROM manifest WHERE version_id = ?1 AND idx = ?2 AND chunk_id = ?3 AND length = ?4 AND part = ?5",
        )?
        .exists(params![version, idx, row, length, part])?;
    Ok(if same { Inserted::Same } else { Inserted::Differs })
}

/// A copy of a chunk, as the catalog has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Row of the node.
    pub node: i64,
    /// The pack.
    pub pack: PackId,
    /// The pack's root.
    pub root: PackRoot,
    /// Whether the pack is live; else it is this upload's own, still under way.
    pub live: bool,
    /// When the pack was last proved.
    pub proved: Option<i64>,
}

/// Copies of a chunk in live packs, and in packs of this upload that are under way. Bad ones are left out.
///
/// # Errors
/// [`CatalogError`].
pub fn copies(c: &Connection, chunk: i64, upload: Option<UploadId>) -> CatalogResult<Vec<Copy>> {
    let mut statement = c.prepare_cached(
        "SELECT p.node_id, p.id, p.root, p.state = 2, p.proved_at FROM replica r
         JOIN pack p ON p.id = r.pack_id
         WHERE r.chunk_id = ?1 AND r.bad_at IS NULL
           AND (p.state = 2 OR (p.state IN (0, 1) AND p.upload = ?2))
         ORDER BY p.id",
    )?;
    let upload = upload.as_ref().map(UploadId::as_bytes);
    statement.query_map(params![chunk, upload], |row| Ok(copy(row)))?.map(|found| found?).collect()
}

/// Copies of a chunk in live packs that were found missing or wrong. Where no other is left, one of them may be right by
/// now: whoever reads it sees.
///
/// # Errors
/// [`CatalogError`].
pub fn doubtful(c: &Connection, chunk: i64) -> CatalogResult<Vec<Copy>> {
    let mut statement = c.prepare_cached(
        "SELECT p.node_id, p.id, p.root, p.state = 2, p.proved_at FROM replica r
         JOIN pack p ON p.id = r.pack_id
         WHERE r.chunk_id = ?1 AND r.bad_at IS NOT NULL AND p.state = 2
         ORDER BY p.id",
    )?;
    statement.query_map([chunk], |row| Ok(copy(row)))?.map(|found| found?).collect()
}

fn copy(row: &rusqlite::Row<'_>) -> CatalogResult<Copy> {
    let (pack, root): (i64, Vec<u8>) = (row.get(1)?, row.get(2)?);
    let root = PackRoot::from_digest(digest("pack", pack, &root)?);
    Ok(Copy { node: row.get(0)?, pack: PackId::new(unsigned(pack)), root, live: row.get(3)?, proved: row.get(4)? })
}

/// Whether a chunk still has this row: rows of chunks that were released are given to others.
///
/// # Errors
/// [`CatalogError`].
pub fn is_at(c: &Connection, row: i64, chunk: &ChunkId) -> CatalogResult<bool> {
    let mut statement = c.prepare_cached("SELECT 1 FROM chunk WHERE id = ?1 AND digest = ?2")?;
    Ok(statement.exists(params![row, chunk.digest()])?)
}

/// A chunk's row, if it is known with this length.
///
/// # Errors
/// [`CatalogError`].
pub fn known(c: &Connection, vault: i64, chunk: &ChunkId, bytes: u64) -> CatalogResult<Option<i64>> {
    Ok(c.prepare_cached("SELECT id FROM chunk WHERE digest = ?1 AND vault_id = ?2 AND bytes = ?3")?
        .query_row(params![chunk.digest(), vault, signed(bytes)], |row| row.get(0))
        .optional()?)
}

/// A copy that somebody speaks of: of a chunk of this vault or a plain one, in a live pack on a node.
///
/// # Errors
/// [`CatalogError`].
pub fn copy_in(
    c: &Connection,
    vault: i64,
    chunk: &ChunkId,
    root: &PackRoot,
    node: i64,
) -> CatalogResult<Option<(PackId, packs::Held)>> {
    let pack: Option<i64> = c
        .prepare_cached("SELECT id FROM pack WHERE root = ?1 AND node_id = ?2 AND state = 2 AND vault_id IN (?3, 0)")?
        .query_row(params![root.digest(), node, vault], |row| row.get(0))
        .optional()?;
    let Some(pack) = pack.map(|id| PackId::new(unsigned(id))) else { return Ok(None) };
    let held = packs::chunks(c, pack)?.into_iter().find(|held| held.entry.chunk == *chunk && !held.bad);
    Ok(held.map(|held| (pack, held)))
}

/// The nodes (identities) that a chunk is kept away from for the sake of spread.
///
/// # Errors
/// [`CatalogError`].
pub fn excluded(c: &Connection, chunk: i64) -> CatalogResult<Vec<String>> {
    let text: Option<String> =
        c.prepare_cached("SELECT excluded FROM chunk WHERE id = ?1")?.query_row([chunk], |row| row.get(0))?;
    Ok(identities(text.as_deref()))
}

/// The nodes (identities) that a chunk's row keeps it away from.
pub fn identities(text: Option<&str>) -> Vec<String> {
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Keeps a chunk away from one more node (by identity) from now on.
///
/// # Errors
/// [`CatalogError`].
pub fn keep_off(c: &Connection, chunk: i64, node: &str) -> CatalogResult<()> {
    let mut nodes = excluded(c, chunk)?;
    if nodes.iter().any(|known| known == node) {
        return Ok(());
    }
    nodes.push(node.to_owned());
    let text = serde_json::to_string(&nodes).map_err(|_| CatalogError::Damaged("node identities are text".into()))?;
    c.prepare_cached("UPDATE chunk SET excluded = ?2 WHERE id = ?1")?.execute(params![chunk, text])?;
    Ok(())
}

/// What a pending version amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weighed {
    /// Its row.
    pub version: i64,
    /// 0 while pending.
    pub state: i64,
    /// Data chunks and links.
    pub chunks: u64,
    /// Plaintext bytes of all data chunks.
    pub size: u64,
    /// Counted copies, on distinct nodes, of its least copied chunk; nothing without chunks.
    pub copies_min: Option<u32>,
    /// Distinct data chunks.
    pub distinct: u64,
    /// Chunks that this upload's packs were the first to bring.
    pub new_chunks: u64,
    /// Whether no node has a counted copy of every chunk; nothing with fewer than two distinct chunks.
    pub spread: Option<bool>,
    /// What the weight depends on.
    pub of: Generation,
}

/// Changes whenever a version's weight may have become less: by an append to it, or by a copy that stopped counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    appends: i64,
    losses: i64,
}

/// The generation of the version of an upload's file; its row and state first.
///
/// # Errors
/// [`CatalogError`].
pub fn generation(c: &Connection, upload: UploadId, file: u32) -> CatalogResult<Option<(i64, i64, Generation)>> {
    Ok(c.prepare_cached(
        "SELECT v.id, v.state, v.appends, p.losses FROM version v, pool p WHERE v.upload = ?1 AND v.file = ?2",
    )?
    .query_row(params![upload.as_bytes(), file], |row| {
        Ok((row.get(0)?, row.get(1)?, Generation { appends: row.get(2)?, losses: row.get(3)? }))
    })
    .optional()?)
}

/// Notes that copies stopped counting.
///
/// # Errors
/// [`CatalogError`].
pub fn lose(c: &Connection) -> CatalogResult<()> {
    c.prepare_cached("UPDATE pool SET losses = losses + 1")?.execute([])?;
    Ok(())
}

/// Weighs the version of an upload's file, in time that grows with its chunks. Copies count whose pack is live and was
/// proved within `times`.
///
/// # Errors
/// [`CatalogError`].
pub fn weigh(
    c: &Connection,
    upload: UploadId,
    file: u32,
    times: &RangeInclusive<i64>,
) -> CatalogResult<Option<Weighed>> {
    let Some((version, state, of)) = generation(c, upload, file)? else { return Ok(None) };
    let (chunks, size): (i64, i64) = c
        .prepare_cached("SELECT count(*), coalesce(sum(length), 0) FROM manifest WHERE version_id = ?1")?
        .query_row([version], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (distinct, copies_min, new_chunks) = least_copied(c, version, Some(upload), times)?;
    let spread = (distinct > 1).then(|| spread::is_spread(c, version)).transpose()?;
    Ok(Some(Weighed {
        version,
        state,
        chunks: unsigned(chunks),
        size: unsigned(size),
        copies_min: (distinct > 0).then_some(copies_min),
        distinct,
        new_chunks,
        spread,
        of,
    }))
}

/// Distinct chunks, counted copies of the least copied, and how many have all their copies from this upload.
fn least_copied(
    c: &Connection,
    version: i64,
    upload: Option<UploadId>,
    times: &RangeInclusive<i64>,
) -> CatalogResult<(u64, u32, u64)> {
    let found: (i64, Option<u32>, Option<i64>) = c
        .prepare_cached(
            "SELECT count(*), min(copies), sum(mine = copies) FROM (
                 SELECT count(DISTINCT p.node_id) copies, count(DISTINCT CASE WHEN p.upload = ?2 THEN p.node_id END) mine
                 FROM (SELECT DISTINCT chunk_id FROM manifest WHERE version_id = ?1) m
                 LEFT JOIN replica r ON r.chunk_id = m.chunk_id AND r.bad_at IS NULL
                 LEFT JOIN pack p ON p.id = r.pack_id AND p.state = 2 AND p.proved_at BETWEEN ?3 AND ?4
                 GROUP BY m.chunk_id)",
        )?
        .query_row(params![version, upload.as_ref().map(UploadId::as_bytes), times.start(), times.end()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    Ok((unsigned(found.0), found.1.unwrap_or(0), unsigned(found.2.unwrap_or(0))))
}

/// What a reader needs of a version.
#[derive(Debug, Clone)]
pub struct Readable {
    /// Plaintext bytes in every data chunk but the last.
    pub chunk_size: u32,
    /// The file's key, wrapped by the vault's.
    pub wrapped_key: Vec<u8>,
}

/// Reads a visible version of a vault.
///
/// # Errors
/// [`CatalogError`].
pub fn readable(c: &Connection, vault: i64, version: VersionId) -> CatalogResult<Option<Readable>> {
    let found: Option<(i64, Option<Vec<u8>>)> = c
        .prepare_cached("SELECT chunk_size, wrapped_key FROM version WHERE id = ?1 AND vault_id = ?2 AND state = 1")?
        .query_row(params![version.0, vault], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((size, key)) = found else { return Ok(None) };
    let chunk_size = u32::try_from(size).ok().filter(|size| (1..=MAX_CHUNK_BYTES).contains(&u64::from(*size)));
    let chunk_size = chunk_size.ok_or_else(|| damaged("version", version.0, "an impossible chunk size"))?;
    Ok(Some(Readable { chunk_size, wrapped_key: key.unwrap_or_default() }))
}

/// One manifest row with its chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestRow {
    /// Row of the chunk.
    pub row: i64,
    /// What it is.
    pub desc: ChunkDesc,
}

/// Some data chunks of a version, in order.
///
/// # Errors
/// [`CatalogError`].
pub fn manifest(c: &Connection, version: i64, first: u64, count: u64) -> CatalogResult<Vec<ManifestRow>> {
    let first = signed(first).min(LINKS_FROM);
    let end = first.saturating_add(signed(count)).min(LINKS_FROM);
    let mut statement = c.prepare_cached(
        "SELECT c.id, c.digest, c.bytes, m.length, m.part FROM manifest m JOIN chunk c ON c.id = m.chunk_id
         WHERE m.version_id = ?1 AND m.idx >= ?2 AND m.idx < ?3 ORDER BY m.idx",
    )?;
    let rows = statement.query_map(params![version, first, end], |row| {
        let found: (i64, Vec<u8>, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        Ok(found)
    })?;
    rows.map(|found| {
        let (row, blob, bytes, length, part) = found?;
        let PackEntry { chunk, bytes } = chunk_entry(row, &blob, bytes)?;
        let desc = ChunkDesc { chunk, bytes, length: unsigned(length), part: part_of(version, part)? };
        Ok(ManifestRow { row, desc })
    })
    .collect()
}

/// The pages of encrypted keys that cover some data chunks.
///
/// # Errors
/// [`CatalogError`].
pub fn key_pages(c: &Connection, version: i64, first: u64, count: u64) -> CatalogResult<Vec<(u64, Blob)>> {
    let mut statement = c.prepare_cached(
        "SELECT first, page FROM key_page WHERE version_id = ?1 AND first < ?3
         AND first >= coalesce((SELECT max(first) FROM key_page WHERE version_id = ?1 AND first <= ?2), 0)
         ORDER BY first",
    )?;
    let end = first.saturating_add(count);
    let rows = statement.query_map(params![version, signed(first), signed(end)], |row| {
        Ok((unsigned(row.get(0)?), Blob(row.get(1)?)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Brings what listings show of copies up to date, for up to `limit` versions after a row that a check went over:
/// those that it found short get the number of good copies that it found, those that were short before are counted
/// anew. Gives where to go on; nothing at the end.
///
/// # Errors
/// [`CatalogError`].
pub fn refresh_copies(c: &Connection, after: i64, limit: u32, now: Timestamp) -> CatalogResult<Option<i64>> {
    let mut statement = c.prepare_cached(
        "SELECT id FROM version WHERE id > ?1 AND state = 1 AND copies_min < replicas ORDER BY id LIMIT ?2",
    )?;
    let found: Vec<i64> = statement.query_map(params![after, limit], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for version in &found {
        let (distinct, copies, _) = least_copied(c, *version, None, &(i64::MIN..=i64::MAX))?;
        let spread = (distinct > 1).then(|| spread::is_spread(c, *version)).transpose()?;
        // That a file is spread no more is said by whoever looks for a way to spread it again.
        c.prepare_cached(
            "UPDATE version SET copies_min = ?2, checked_at = ?3, spread = CASE WHEN spread > 0 THEN spread ELSE ?4 END
             WHERE id = ?1",
        )?
        .execute(params![version, copies, micros(now), spread])?;
    }
    Ok(found.last().copied())
}

/// Notes that a chunk has so many good copies, fewer than wanted, with all visible versions that have it.
///
/// # Errors
/// [`CatalogError`].
pub fn note_short(c: &Connection, chunk: i64, good: u32) -> CatalogResult<()> {
    c.prepare_cached(
        "UPDATE version SET copies_min = min(copies_min, ?2)
         WHERE id IN (SELECT version_id FROM manifest WHERE chunk_id = ?1) AND state = 1",
    )?
    .execute(params![chunk, good])?;
    Ok(())
}

/// Notes that the check that began then asked for every copy of every version that was visible.
///
/// # Errors
/// [`CatalogError`].
pub fn note_checked(c: &Connection, began: i64) -> CatalogResult<()> {
    c.prepare_cached("UPDATE pool SET checked_at = max(coalesce(checked_at, ?1), ?1)")?.execute([began])?;
    Ok(())
}
