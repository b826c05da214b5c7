//! Rows by the million, as puts would have made them: in the tables of the catalog's own schema, with its own triggers,
//! its own placement and real pack roots. Indexes are made again afterwards, which is far faster than to keep them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytenode::catalog::nodes;
use bytenode::id::{ChunkId, PackId, PoolId, sha256};
use bytenode::pack::{PackEntry, PackHeader};
use bytenode::place::{PlaceNode, Topology};
use rusqlite::{Connection, Statement, params};

use crate::shape::{Shape, dir_name, file_name};
use crate::{COPIES, say};

/// Plaintext bytes of a chunk, and stored ones.
const PLAIN: u64 = 1 << 20;
const STORED: u64 = PLAIN + 16;
/// Chunks that one plan of a put sends.
const WINDOW: usize = 64;
/// Bytes of an encrypted key page, beside those of each chunk, and of a file's wrapped key.
const PAGE_BYTES: usize = 28;
const KEY_BYTES: usize = 70;
const WRAPPED_BYTES: usize = 60;
/// Windows of one transaction.
const GROUP: u64 = 10_000;

/// Fills the catalog of a pool that has nodes and one user, and nothing else.
pub fn fill(path: &Path, shape: Shape) -> Result<()> {
    let c = Connection::open(path)?;
    // A run that is interrupted leaves a catalog that is thrown away.
    c.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF; PRAGMA cache_size = -1000000;
         PRAGMA locking_mode = EXCLUSIVE;",
    )?;
    let none: i64 = c.query_row("SELECT count(*) FROM chunk", [], |row| row.get(0))?;
    ensure!(none == 0, "there are chunks already");
    let indexes = drop_indexes(&c)?;
    c.execute_batch("BEGIN")?;
    let mut filling = Filling::new(&c, shape)?;
    for (dir, entries) in shape.dirs() {
        let row = filling.dir(dir)?;
        (0..entries).try_for_each(|index| filling.file(row, index))?;
    }
    filling.window()?;
    let next_pack = filling.pack;
    drop(filling);
    c.execute("UPDATE pool SET next_pack = ?1", [next_pack])?;
    c.execute_batch("COMMIT")?;
    say("making its indexes");
    indexes.iter().try_for_each(|sql| c.execute_batch(sql))?;
    say("checking it");
    check(&c, shape)?;
    c.execute_batch("PRAGMA synchronous = FULL; PRAGMA locking_mode = NORMAL; PRAGMA journal_mode = WAL;")?;
    Ok(())
}

/// Takes away what would be kept up to date row by row; gives how to make it again.
fn drop_indexes(c: &Connection) -> Result<Vec<String>> {
    let mut all = c.prepare(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL
         AND tbl_name IN ('version', 'chunk', 'manifest', 'pack', 'replica')",
    )?;
    let found = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let found: Vec<(String, String)> = found.collect::<Result<_, _>>()?;
    found.iter().try_for_each(|(name, _)| c.execute_batch(&format!("DROP INDEX {name}")))?;
    Ok(found.into_iter().map(|(_, sql)| sql).collect())
}

fn check(c: &Connection, Shape { files, chunks }: Shape) -> Result<()> {
    let mut broken = c.prepare("PRAGMA foreign_key_check")?;
    ensure!(!broken.exists([])?, "a row refers to one that is not there");
    let all = files * chunks;
    for (what, expected) in [
        ("SELECT files FROM vault", files),
        ("SELECT count(*) FROM version", files),
        ("SELECT count(*) FROM key_page", files),
        ("SELECT count(*) FROM manifest", all),
        ("SELECT count(*) FROM chunk", all),
        ("SELECT count(*) FROM replica", all * u64::from(COPIES)),
        ("SELECT bytes FROM vault", all * PLAIN),
        ("SELECT sum(bytes) FROM pack", all * u64::from(COPIES) * STORED),
    ] {
        let found: i64 = c.query_row(what, [], |row| row.get(0))?;
        ensure!(u64::try_from(found)? == expected, "{what}: {found}, not {expected}");
    }
    Ok(())
}

struct Filling<'c> {
    c: &'c Connection,
    shape: Shape,
    now: i64,
    vault: i64,
    root: i64,
    pool: PoolId,
    epoch: u64,
    topology: Topology,
    /// Rows of the topology's nodes.
    nodes: Vec<i64>,
    next_chunk: u64,
    version: i64,
    pack: i64,
    windows: u64,
    chunks: Vec<(i64, PackEntry)>,
    keys: Vec<u8>,
    into: Statements<'c>,
}

/// Statements, named for the tables.
struct Statements<'c> {
    entry: Statement<'c>,
    version: Statement<'c>,
    key_page: Statement<'c>,
    manifest: Statement<'c>,
    chunk: Statement<'c>,
    pack: Statement<'c>,
    replica: Statement<'c>,
}

impl<'c> Statements<'c> {
    fn new(c: &'c Connection) -> Result<Self> {
        Ok(Self {
            entry: c.prepare(
                "INSERT INTO entry(vault_id, parent_id, name, version_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?,
            version: c.prepare(
                "INSERT INTO version(id, vault_id, state, size, sha256, modified, chunk_size, public, wrapped_key,
                     chunks, copies_min, replicas, checked_at, spread, appends, created_at)
                 VALUES (?1, ?2, 1, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9, ?9, ?5, 1, 1, ?5)",
            )?,
            key_page: c.prepare("INSERT INTO key_page(version_id, first, page) VALUES (?1, 0, ?2)")?,
            manifest: c.prepare(
                "INSERT INTO manifest(version_id, idx, chunk_id, length, part) VALUES (?1, ?2, ?3, ?4, 0)",
            )?,
            chunk: c.prepare("INSERT INTO chunk(id, vault_id, digest, bytes) VALUES (?1, ?2, ?3, ?4)")?,
            pack: c.prepare(
                "INSERT INTO pack(id, epoch, node_id, vault_id, root, state, bytes, created_at, proved_at, protected_at,
                     present_at, intact_at) VALUES (?1, ?2, ?3, ?4, ?5, 2, ?6, ?7, ?7, ?7, ?7, ?7)",
            )?,
            replica: c.prepare("INSERT INTO replica(chunk_id, pack_id, part, ordinal) VALUES (?1, ?2, 0, ?3)")?,
        })
    }
}

impl<'c> Filling<'c> {
    fn new(c: &'c Connection, shape: Shape) -> Result<Self> {
        let rows = nodes::all(c)?;
        let placed = rows.iter().map(|row| PlaceNode {
            id: row.id.clone(),
            zone: row.zone.clone(),
            capacity_bytes: row.capacity_bytes,
            open: true,
        });
        let one = |sql: &str| c.query_row(sql, [], |row| row.get::<_, i64>(0)).with_context(|| sql.to_owned());
        Ok(Self {
            c,
            shape,
            now: jiff::Timestamp::now().as_microsecond(),
            vault: one("SELECT id FROM vault")?,
            root: one("SELECT id FROM entry WHERE parent_id IS NULL")?,
            pool: nodes::pool(c)?,
            epoch: u64::try_from(one("SELECT epoch FROM pool")?)?,
            topology: Topology::new(placed.collect(), COPIES),
            nodes: rows.iter().map(|row| row.row).collect(),
            next_chunk: 1,
            version: 0,
            pack: one("SELECT next_pack FROM pool")?,
            windows: 0,
            chunks: Vec::with_capacity(WINDOW),
            keys: (0..=u8::MAX).cycle().take(PAGE_BYTES + KEY_BYTES * usize::try_from(shape.chunks)?).collect(),
            into: Statements::new(c)?,
        })
    }

    fn dir(&mut self, dir: u64) -> Result<i64> {
        let none: Option<i64> = None;
        Ok(self.into.entry.insert(params![self.vault, self.root, dir_name(dir), none, self.now])?)
    }

    fn file(&mut self, dir: i64, index: u64) -> Result<()> {
        let Self { vault, now, shape, .. } = *self;
        self.version += 1;
        let (version, size) = (self.version, i64::try_from(shape.chunks * PLAIN)?);
        let hash = sha256(&version.to_le_bytes());
        self.into.version.execute(params![
            version,
            vault,
            size,
            hash,
            now,
            PLAIN as i64,
            &self.keys[..WRAPPED_BYTES],
            shape.chunks as i64,
            COPIES
        ])?;
        self.into.entry.execute(params![vault, dir, file_name(index), version, now])?;
        self.into.key_page.execute(params![version, self.keys])?;
        for idx in 0..shape.chunks as i64 {
            let entry = PackEntry { chunk: ChunkId::of(&self.next_chunk.to_le_bytes()), bytes: STORED };
            let row = i64::try_from(self.next_chunk)?;
            self.next_chunk += 1;
            self.into.chunk.execute(params![row, vault, entry.chunk.digest(), STORED as i64])?;
            self.into.manifest.execute([version, idx, row, PLAIN as i64])?;
            self.chunks.push((row, entry));
            if self.chunks.len() == WINDOW {
                self.window()?;
            }
        }
        Ok(())
    }

    /// Places the chunks at hand, as one plan does: a pack for each node that gets any.
    fn window(&mut self) -> Result<()> {
        let mut of_nodes: Vec<Vec<(i64, PackEntry)>> = vec![Vec::new(); self.nodes.len()];
        for (row, entry) in self.chunks.drain(..) {
            for node in self.topology.choose(&entry.chunk, &[]) {
                of_nodes[node].push((row, entry));
            }
        }
        let mut replicas = Vec::with_capacity(WINDOW * COPIES as usize);
        for (node, chunks) in self.nodes.iter().zip(of_nodes).filter(|(_, chunks)| !chunks.is_empty()) {
            let id = PackId::new(u64::try_from(self.pack)?);
            let entries = chunks.iter().map(|(_, entry)| *entry).collect();
            let header = PackHeader { pool: self.pool, epoch: self.epoch, id, entries };
            let (root, bytes) = (header.root(), header.bytes() as i64);
            let row = params![self.pack, self.epoch as i64, node, self.vault, root.digest(), bytes, self.now];
            self.into.pack.execute(row)?;
            replicas.extend(chunks.iter().zip(0..).map(|((chunk, _), ordinal)| [*chunk, self.pack, ordinal]));
            self.pack += 1;
        }
        replicas.sort_unstable();
        for replica in replicas {
            self.into.replica.execute(replica)?;
        }
        self.windows += 1;
        if self.windows.is_multiple_of(GROUP) {
            eprint!("\r{} chunks", self.next_chunk - 1);
            self.c.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }
}
