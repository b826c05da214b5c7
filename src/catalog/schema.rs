//! The catalog's schema: numbered migrations on `user_version`. A migration that has shipped is never changed.
//!
//! Times are integer microseconds since 1970 UTC; sizes are bytes; digests and ids are blobs.

use rusqlite::Connection;

use super::CatalogError;

/// All migrations: the first makes version 1.
const MIGRATIONS: &[&str] = &[V1];

/// The version that this build writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// Brings a catalog to [`VERSION`], each migration in a transaction of its own.
///
/// # Errors
/// [`CatalogError::Newer`] when a later build wrote it.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), CatalogError> {
    let found = version(connection)?;
    if found > VERSION {
        return Err(CatalogError::Newer { found, known: VERSION });
    }
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", super::signed(index as u64 + 1))?;
        transaction.commit()?;
    }
    Ok(())
}

/// The version of a catalog; 0 when it is empty.
pub(super) fn version(connection: &Connection) -> Result<usize, CatalogError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    usize::try_from(found).map_err(|_| CatalogError::Damaged("its version number is negative".into()))
}

const V1: &str = "
CREATE TABLE pool(
    id INTEGER PRIMARY KEY CHECK (id = 1),
    pool BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    instance BLOB NOT NULL,
    replicas INTEGER NOT NULL,
    next_pack INTEGER NOT NULL,
    -- Raised whenever a copy stops counting, so that what was counted outside the writer can be trusted.
    losses INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE user(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL CHECK (role IN ('admin', 'user')),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE token(
    id TEXT PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES user(id),
    hash BLOB NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE vault(
    id INTEGER PRIMARY KEY,
    owner INTEGER NOT NULL REFERENCES user(id),
    wrapped_keys BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX vault_by_owner ON vault(owner);

CREATE TABLE node(
    id INTEGER PRIMARY KEY,
    ident TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    url TEXT NOT NULL,
    gateway TEXT NOT NULL,
    zone TEXT NOT NULL,
    capacity INTEGER NOT NULL,
    access TEXT NOT NULL,
    gc TEXT NOT NULL,
    cache_live INTEGER NOT NULL,
    draining INTEGER NOT NULL DEFAULT 0,
    weight INTEGER,
    version TEXT,
    last_seen INTEGER,
    added_at INTEGER NOT NULL
) STRICT;

-- A version of a file. state: 0 pending, 1 visible (or was: see expires_at).
CREATE TABLE version(
    id INTEGER PRIMARY KEY,
    vault_id INTEGER NOT NULL REFERENCES vault(id),
    upload BLOB,
    file INTEGER,
    state INTEGER NOT NULL,
    size INTEGER NOT NULL DEFAULT 0,
    sha256 BLOB,
    modified INTEGER NOT NULL DEFAULT 0,
    executable INTEGER NOT NULL DEFAULT 0,
    chunk_size INTEGER NOT NULL,
    public INTEGER NOT NULL,
    cid TEXT,
    wrapped_key BLOB,
    chunks INTEGER NOT NULL DEFAULT 0,
    copies_min INTEGER,
    replicas INTEGER NOT NULL,
    checked_at INTEGER,
    spread INTEGER,
    policy TEXT,
    -- Raised by every append while the version is pending.
    appends INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER,
    created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX version_by_upload ON version(upload, file) WHERE upload IS NOT NULL;
CREATE INDEX version_short ON version(id) WHERE state = 1 AND copies_min < replicas;
CREATE INDEX version_by_expiry ON version(expires_at) WHERE expires_at IS NOT NULL;

-- A file or directory. The root of a vault has no parent; a detached subtree hangs from none either, and has no vault root.
CREATE TABLE entry(
    id INTEGER PRIMARY KEY,
    vault_id INTEGER NOT NULL REFERENCES vault(id),
    parent_id INTEGER REFERENCES entry(id),
    name TEXT NOT NULL,
    version_id INTEGER REFERENCES version(id),
    created_at INTEGER NOT NULL,
    detached_at INTEGER
) STRICT;
CREATE UNIQUE INDEX entry_by_name ON entry(parent_id, name) WHERE parent_id IS NOT NULL;
CREATE UNIQUE INDEX entry_root ON entry(vault_id) WHERE parent_id IS NULL AND detached_at IS NULL;
CREATE INDEX entry_detached ON entry(detached_at) WHERE detached_at IS NOT NULL;
CREATE INDEX entry_by_version ON entry(version_id) WHERE version_id IS NOT NULL;

-- A chunk of one vault; vault 0 holds plain chunks, which are shared by all.
CREATE TABLE chunk(
    id INTEGER PRIMARY KEY,
    vault_id INTEGER NOT NULL,
    digest BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    excluded TEXT
) STRICT;
CREATE UNIQUE INDEX chunk_by_digest ON chunk(digest, vault_id);

-- Which chunks a version has. Links (interior UnixFS nodes) follow all data, from index 2^40 on. The rows of pending
-- versions are what keeps the chunks of an upload.
CREATE TABLE manifest(
    version_id INTEGER NOT NULL REFERENCES version(id),
    idx INTEGER NOT NULL,
    chunk_id INTEGER NOT NULL REFERENCES chunk(id),
    length INTEGER NOT NULL,
    part INTEGER NOT NULL,
    PRIMARY KEY (version_id, idx)
) STRICT, WITHOUT ROWID;
CREATE INDEX manifest_by_chunk ON manifest(chunk_id);

CREATE TABLE key_page(
    version_id INTEGER NOT NULL REFERENCES version(id),
    first INTEGER NOT NULL,
    page BLOB NOT NULL,
    PRIMARY KEY (version_id, first)
) STRICT, WITHOUT ROWID;

-- A pack. state: 0 planned, 1 stored, 2 live, 3 dropping, 4 gone. Rows of gone packs stay: they say what was issued.
CREATE TABLE pack(
    id INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    node_id INTEGER NOT NULL REFERENCES node(id),
    vault_id INTEGER NOT NULL,
    root BLOB NOT NULL,
    state INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    upload BLOB,
    replaces INTEGER,
    created_at INTEGER NOT NULL,
    -- Its copies count by the proof of this time: a receipt, or reading and hashing. What a node lists renews the next two.
    proved_at INTEGER,
    protected_at INTEGER,
    present_at INTEGER,
    intact_at INTEGER
) STRICT;
CREATE UNIQUE INDEX pack_by_root ON pack(root);
CREATE INDEX pack_by_node ON pack(node_id, state);
CREATE INDEX pack_by_upload ON pack(upload) WHERE upload IS NOT NULL;
CREATE INDEX pack_dropping ON pack(id) WHERE state = 3;
CREATE INDEX pack_replacing ON pack(id) WHERE state = 0 AND replaces IS NOT NULL;

CREATE TABLE replica(
    chunk_id INTEGER NOT NULL REFERENCES chunk(id),
    pack_id INTEGER NOT NULL REFERENCES pack(id),
    part INTEGER NOT NULL DEFAULT 0,
    ordinal INTEGER NOT NULL,
    bad_at INTEGER,
    PRIMARY KEY (chunk_id, pack_id, part)
) STRICT, WITHOUT ROWID;
CREATE INDEX replica_by_pack ON replica(pack_id, ordinal);

-- A put that is under way.
CREATE TABLE lease(
    id BLOB PRIMARY KEY,
    user_id INTEGER NOT NULL REFERENCES user(id),
    vault_id INTEGER NOT NULL REFERENCES vault(id),
    replicas INTEGER NOT NULL,
    public INTEGER NOT NULL,
    machine TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Chunks that lost a reference and may be needed by nothing any more.
CREATE TABLE loose_chunk(chunk_id INTEGER PRIMARY KEY) STRICT;
";
