//! Rows for tests of the catalog: a pool with one user and four nodes, files of a put, and packs that hold their chunks.

use jiff::Timestamp;
use rusqlite::Connection;

use crate::admin::Role;
use crate::api::{Append, Blob, ChunkDesc, Part};
use crate::catalog::chunks::{self, Appending, Weighed};
use crate::catalog::packs::{self, NewPack, PackRow, PackState, Proof, Reach};
use crate::catalog::{charge, micros, prepare, schema, users};
use crate::id::{ChunkId, PackId, PoolId, UploadId};
use crate::pack::PackEntry;

pub const POOL: PoolId = PoolId::from_bytes([1; 16]);

/// A second of the tests' time.
pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub fn upload(number: u8) -> UploadId {
    UploadId::from_bytes([number; 16])
}

/// A sealed chunk named after a seed.
pub fn desc(seed: u64) -> ChunkDesc {
    ChunkDesc { chunk: ChunkId::of(&seed.to_be_bytes()), bytes: 116, length: 100, part: Part::Sealed }
}

/// A catalog without files: vault 1, nodes 1 to 4, and the lease of the put `upload(1)`.
pub fn empty() -> Connection {
    let mut c = Connection::open_in_memory().unwrap();
    prepare(&c).unwrap();
    schema::migrate(&mut c).unwrap();
    charge::start(&c, POOL, [2; 16], 2, at(0)).unwrap();
    assert_eq!(users::create(&c, "a", Role::Admin, b"", at(0)).unwrap().vault, 1);
    c.execute_batch(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4)
         INSERT INTO node(id, ident, name, kind, url, gateway, zone, capacity, access, gc, cache_live, added_at)
         SELECT i, 'node' || i, 'n' || i, 'builtin', '', '', '', 1, '', '', 0, 0 FROM n;",
    )
    .unwrap();
    lease(&c, upload(1));
    c
}

pub fn lease(c: &Connection, id: UploadId) {
    c.execute(
        "INSERT INTO lease(id, user_id, vault_id, replicas, public, machine, epoch, created_at)
         VALUES (?1, 1, 1, 2, 0, '', 1, 0)",
        [id.as_bytes()],
    )
    .unwrap();
}

pub fn appending(upload: UploadId, public: bool) -> Appending {
    Appending { upload, vault: 1, replicas: 2, public, chunk_size: 1000, now: at(0) }
}

/// Appends chunks to a new file of `upload(1)`; gives the version's row and theirs.
pub fn file(c: &Connection, number: u32, seeds: &[u64]) -> (i64, Vec<i64>) {
    file_of(c, upload(1), number, seeds)
}

pub fn file_of(c: &Connection, upload: UploadId, number: u32, seeds: &[u64]) -> (i64, Vec<i64>) {
    let chunks = seeds.iter().map(|seed| desc(*seed)).collect();
    let append = Append { file: number, first: 0, chunks, sealed_keys: Blob(vec![7; 20]) };
    let appended = chunks::append(c, &appending(upload, false), &append).unwrap();
    (chunks::generation(c, upload, number).unwrap().unwrap().0, appended.rows)
}

/// Makes a version visible, of which no entry knows.
pub fn commit(c: &Connection, version: i64) {
    c.execute("UPDATE version SET state = 1 WHERE id = ?1", [version]).unwrap();
}

/// A planned pack of these chunks' rows on a node.
pub fn planned(c: &Connection, node: i64, upload: Option<UploadId>, chunks: &[i64]) -> PackId {
    issued(c, node, upload, None, chunks)
}

pub fn issued(c: &Connection, node: i64, by: Option<UploadId>, replaces: Option<PackId>, chunks: &[i64]) -> PackId {
    let entry = |row: &i64| {
        let blob = |row| c.query_row("SELECT digest FROM chunk WHERE id = ?1", [row], |row| row.get::<_, [u8; 32]>(0));
        PackEntry { chunk: ChunkId::from_digest(blob(*row).unwrap()), bytes: 116 }
    };
    let entries = chunks.iter().map(entry).collect();
    let pack = NewPack { node, vault: 1, upload: by, replaces, chunks: chunks.to_vec(), entries };
    packs::issue(c, POOL, 1, pack, at(0)).unwrap().id
}

/// The same, proved whole at a second, so that it is live.
pub fn live(c: &Connection, node: i64, chunks: &[i64], second: i64) -> PackId {
    let pack = planned(c, node, None, chunks);
    assert!(prove(c, pack, second));
    pack
}

pub fn prove(c: &Connection, pack: PackId, second: i64) -> bool {
    packs::proved(c, pack, Proof { reach: Reach::Whole, at: at(second) }).unwrap()
}

pub fn row(c: &Connection, pack: PackId) -> PackRow {
    packs::get(c, pack).unwrap().unwrap()
}

pub fn state(c: &Connection, pack: PackId) -> PackState {
    row(c, pack).state
}

/// The weight of a file of `upload(1)`, of proofs from one second to another.
pub fn weight(c: &Connection, number: u32, from: i64, to: i64) -> Weighed {
    chunks::weigh(c, upload(1), number, &(micros(at(from))..=micros(at(to)))).unwrap().unwrap()
}

/// The one number that a question gives.
pub fn number(c: &Connection, sql: &str) -> i64 {
    c.query_row(sql, [], |row| row.get(0)).unwrap()
}
