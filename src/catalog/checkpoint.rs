//! Moves what was committed from SQLite's log into the catalog's file, beside the writer: by itself SQLite does so now and
//! then within a commit, which then takes several times as long as the others.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, OpenFlags};

use super::{CatalogError, CatalogResult, configure};

/// Pages of the log from which on they are moved: some 4 MB.
const MOVE_FROM: i64 = 1_000;
/// Pages from which on the writer moves them itself, since it is faster than this: some 32 MB. More would have to be
/// read at a start that follows a crash.
pub(super) const WRITER_MOVES_FROM: i64 = 8_000;

/// Starts the thread. Whoever holds what this gives says by it that something was committed; the thread ends with it.
///
/// # Errors
/// [`CatalogError`].
pub(super) fn start(path: &Path) -> CatalogResult<SyncSender<()>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // One that waits is enough: it is asked then how much there is.
    let (committed, commits) = sync_channel(1);
    std::thread::Builder::new()
        .name("checkpoint".into())
        .spawn(move || move_all(&connection, &commits))
        .map_err(|source| CatalogError::Io { path: path.to_owned(), source })?;
    Ok(committed)
}

fn move_all(connection: &Connection, commits: &Receiver<()>) {
    while commits.recv().is_ok() {
        // What fails now is tried again after the next commit, and at last by the writer.
        if let Err(error) = move_some(connection) {
            tracing::warn!(%error, "catalog checkpoint");
        }
    }
}

fn move_some(connection: &Connection) -> rusqlite::Result<()> {
    let ask = |mode: &str| -> rusqlite::Result<i64> {
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        connection.query_row(&sql, [], |row| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?))
    };
    // Passive: it waits for nobody, and nobody waits for it.
    if ask("NOOP")? >= MOVE_FROM {
        ask("PASSIVE")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::prepare;

    /// A commit only adds to the log; once there is enough in it, all of it is moved from beside the writer, who goes on
    /// meanwhile.
    #[test]
    fn what_is_committed_is_moved_beside_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog.db");
        let open = || {
            let connection = Connection::open(&path).unwrap();
            prepare(&connection).unwrap();
            connection
        };
        let (writer, mover) = (open(), open());
        writer.pragma_update_and_check(None, "wal_autocheckpoint", WRITER_MOVES_FROM, |_| Ok(())).unwrap();
        let waiting = || {
            let left = |row: &rusqlite::Row<'_>| Ok(row.get::<_, i64>(1)? - row.get::<_, i64>(2)?);
            mover.query_row("PRAGMA wal_checkpoint(NOOP)", [], left).unwrap()
        };
        writer.execute_batch("CREATE TABLE big(bytes BLOB NOT NULL) STRICT; INSERT INTO big VALUES (x'')").unwrap();
        let before = waiting();
        move_some(&mover).unwrap();
        assert!(before > 0 && waiting() == before, "a little may wait");
        writer.execute("INSERT INTO big VALUES (zeroblob(?1))", [2 * MOVE_FROM * 4096]).unwrap();
        assert!(waiting() > 2 * MOVE_FROM, "the writer moves nothing: {}", waiting());
        writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO big VALUES (x'01')").unwrap();
        move_some(&mover).unwrap();
        assert_eq!(waiting(), 0);
        writer.execute_batch("COMMIT").unwrap();
    }
}
