//! The catalog's schema: numbered migrations on `user_version`. A migration that has shipped is never changed.
//!
//! Times are integer microseconds since 1970 UTC; sizes are bytes; digests and ids are blobs.

use rusqlite::Connection;

use super::CatalogError;

/// All migrations: the first makes version 1.
const MIGRATIONS: &[&str] = &[V1, V2, V3, V4, V5, V6];

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
    -- 1: no node has all of it; 0: one has, as it was when it was stored; 2: one has by now.
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

const V2: &str = "
-- How many entries a vault has, with those that are on their way out; how many of them are files, and their bytes; how
-- often one was made; how often one was moved.
ALTER TABLE vault ADD COLUMN entries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vault ADD COLUMN files INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vault ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vault ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
ALTER TABLE vault ADD COLUMN moved INTEGER NOT NULL DEFAULT 0;
UPDATE vault SET (entries, files, bytes) =
    (SELECT count(*), count(e.version_id), coalesce(sum(v.size), 0) FROM entry e LEFT JOIN version v ON v.id = e.version_id
     WHERE e.vault_id = vault.id);
CREATE TRIGGER entry_made AFTER INSERT ON entry BEGIN
    UPDATE vault SET entries = entries + 1, made = made + 1 WHERE id = new.vault_id;
END;
CREATE TRIGGER entry_gone AFTER DELETE ON entry BEGIN
    UPDATE vault SET entries = entries - 1 WHERE id = old.vault_id;
END;
CREATE TRIGGER file_made AFTER INSERT ON entry WHEN new.version_id IS NOT NULL BEGIN
    UPDATE vault SET files = files + 1, bytes = bytes + (SELECT size FROM version WHERE id = new.version_id)
    WHERE id = new.vault_id;
END;
CREATE TRIGGER file_gone AFTER DELETE ON entry WHEN old.version_id IS NOT NULL BEGIN
    UPDATE vault SET files = files - 1, bytes = bytes - (SELECT size FROM version WHERE id = old.version_id)
    WHERE id = old.vault_id;
END;
CREATE TRIGGER file_replaced AFTER UPDATE OF version_id ON entry BEGIN
    UPDATE vault SET files = files + (new.version_id IS NOT NULL) - (old.version_id IS NOT NULL),
        bytes = bytes + coalesce((SELECT size FROM version WHERE id = new.version_id), 0)
            - coalesce((SELECT size FROM version WHERE id = old.version_id), 0)
    WHERE id = new.vault_id;
END;
CREATE TRIGGER file_sized AFTER UPDATE OF size ON version WHEN new.size <> old.size BEGIN
    UPDATE vault SET bytes = bytes + (new.size - old.size) * (SELECT count(*) FROM entry WHERE version_id = new.id)
    WHERE id = new.vault_id;
END;
CREATE TRIGGER entry_moved AFTER UPDATE OF parent_id, name ON entry
    WHEN old.parent_id IS NOT NULL AND new.parent_id IS NOT NULL BEGIN
    UPDATE vault SET moved = moved + 1 WHERE id = new.vault_id;
END;

-- When a put began to end: from then on nothing can be done for it.
ALTER TABLE lease ADD COLUMN ended_at INTEGER;

-- When the last check began that asked for every copy.
ALTER TABLE pool ADD COLUMN checked_at INTEGER;

-- What a client says of a chunk's length is a claim: another claim about the same digest is another row, and only the
-- true one ever gets copies.
DROP INDEX chunk_by_digest;
CREATE UNIQUE INDEX chunk_by_digest ON chunk(digest, vault_id, bytes);
";

const V3: &str = "
-- Starts of the coordinator on this catalog. A node that shows another one obeys somebody else.
CREATE TABLE start(epoch INTEGER PRIMARY KEY, instance TEXT NOT NULL) STRICT;

-- Numbers of packs that were issued and have no row: those of tests, and those of nodes that were forgotten.
CREATE TABLE spent(epoch INTEGER NOT NULL, pack_id INTEGER NOT NULL, PRIMARY KEY (epoch, pack_id)) STRICT, WITHOUT ROWID;

-- Starts and packs of lower epochs are accounted for: before this version they were not written down, and later a person
-- said so.
ALTER TABLE pool ADD COLUMN adopted INTEGER NOT NULL DEFAULT 0;
UPDATE pool SET adopted = epoch + 1;

-- Why nothing may be changed until a person decides.
ALTER TABLE pool ADD COLUMN read_only TEXT;
";

const V4: &str = "
-- Packs of repairs that have not come to an end: a start gives them up, and must not look at all others to find them.
CREATE INDEX pack_repairing ON pack(id) WHERE state IN (0, 1) AND upload IS NULL AND replaces IS NULL;
";

const V5: &str = "
-- Which packs are to be read next: those never read whole, then those that were not read for longest.
CREATE INDEX pack_to_read ON pack(node_id, intact_at) WHERE state = 2;
-- By the pack whose place one is to take.
CREATE INDEX pack_instead ON pack(replaces) WHERE state = 0 AND replaces IS NOT NULL;
";

const V6: &str = "
-- Long work. Its numbers are never used again: only the oldest are forgotten.
CREATE TABLE task(
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    owner TEXT NOT NULL,
    node TEXT,
    request TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER,
    message TEXT NOT NULL DEFAULT '',
    log TEXT NOT NULL DEFAULT '[]',
    outcome TEXT,
    created_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT;
CREATE INDEX task_open ON task(id) WHERE ended_at IS NULL;

-- Since when a node does not answer, and why, so that a start of the coordinator does not begin its grace anew.
ALTER TABLE node ADD COLUMN failing_since INTEGER;
ALTER TABLE node ADD COLUMN failure TEXT;
-- What happened to nodes.
CREATE TABLE node_event(
    id INTEGER PRIMARY KEY,
    node_id INTEGER NOT NULL REFERENCES node(id),
    at INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX node_event_by_node ON node_event(node_id, id);
";

/// What makes a catalog of the first version at a path, for tests.
#[cfg(test)]
pub(super) fn older(path: &std::path::Path) -> impl Fn() {
    move || {
        let c = Connection::open(path).expect("a new file");
        c.execute_batch(V1).expect("the first version");
        c.pragma_update(None, "user_version", 1).expect("its number");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a catalog of the first version holds is counted when it is brought up to date, and from then on.
    #[test]
    fn an_older_catalog_is_brought_up_to_date() {
        let mut c = Connection::open_in_memory().unwrap();
        c.execute_batch(V1).unwrap();
        c.execute_batch(
            "PRAGMA user_version = 1;
             INSERT INTO user(id, name, role, created_at) VALUES (1, 'a', 'admin', 0), (2, 'b', 'user', 0);
             INSERT INTO vault(id, owner, wrapped_keys, created_at) VALUES (1, 1, x'', 0), (2, 2, x'', 0);
             INSERT INTO entry(id, vault_id, parent_id, name, created_at)
             VALUES (1, 1, NULL, '', 0), (2, 2, NULL, '', 0), (3, 1, 1, 'x', 0), (4, 1, 3, 'y', 0);
             INSERT INTO chunk(vault_id, digest, bytes) VALUES (0, zeroblob(32), 1);",
        )
        .unwrap();
        migrate(&mut c).unwrap();
        assert_eq!(version(&c).unwrap(), VERSION);
        let counts = |c: &Connection| -> Vec<(i64, i64, i64)> {
            let mut all = c.prepare("SELECT entries, made, moved FROM vault ORDER BY id").unwrap();
            let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
            rows.map(Result::unwrap).collect()
        };
        assert_eq!(counts(&c), [(3, 0, 0), (1, 0, 0)]);
        c.execute_batch(
            "INSERT INTO entry(vault_id, parent_id, name, created_at) VALUES (2, 2, 'z', 0);
             UPDATE entry SET name = 'w' WHERE id = 4;
             UPDATE entry SET parent_id = NULL, detached_at = 1 WHERE id = 3;
             DELETE FROM entry WHERE id = 4;
             INSERT INTO chunk(vault_id, digest, bytes) VALUES (0, zeroblob(32), 2);",
        )
        .unwrap();
        assert_eq!(counts(&c), [(2, 0, 1), (2, 1, 0)]);
    }
}
