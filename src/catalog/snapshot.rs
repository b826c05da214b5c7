//! Copies of the whole catalog, and whether such a copy is sound.

use std::path::Path;
use std::sync::PoisonError;

use rusqlite::Connection;

use super::{Catalog, CatalogError, CatalogResult, Kind, nodes, open_reader, schema, unsigned};
use crate::api::{ApiError, Code};
use crate::id::PoolId;

/// What a sound copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Version of its schema, which this build knows.
    pub version: u64,
    /// The pool.
    pub pool: PoolId,
    /// Files in it.
    pub files: u64,
    /// Chunks in it.
    pub chunks: u64,
}

impl Catalog {
    /// Copies the catalog as it is at one moment to a new file, on a connection of its own: nobody waits for it, and
    /// changes go on. What is committed when this is called is in the copy. Takes as long as the catalog is large, so it
    /// belongs off the async threads. The copy is not synced, and after a failure not whole.
    ///
    /// # Errors
    /// [`CatalogError`], also when the file is there already.
    pub fn copy_to(&self, path: &Path) -> CatalogResult<()> {
        let name = path.to_str().ok_or_else(|| {
            let what = format!("{} is not UTF-8, and SQLite copies to no such path", path.display());
            ApiError::new(Code::Internal, what).hint("move the coordinator's directory to a path that is UTF-8")
        })?;
        let copy = |c: &Connection| c.execute("VACUUM INTO ?1", [name]);
        match &self.kind {
            Kind::Inline(connection) => copy(&connection.lock().unwrap_or_else(PoisonError::into_inner))?,
            Kind::Threads { readers, .. } => copy(&open_reader(&readers.path)?)?,
        };
        Ok(())
    }
}

/// Checks a copy that nobody uses: every page, index and reference of it. Changes nothing.
///
/// # Errors
/// [`CatalogError::Newer`], [`CatalogError::Damaged`] with the first thing that is wrong.
pub fn examine(path: &Path) -> CatalogResult<Copied> {
    let c = open_reader(path)?;
    let version = schema::version(&c)?;
    if version > schema::VERSION {
        return Err(CatalogError::Newer { found: version, known: schema::VERSION });
    }
    let found: String = c.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(CatalogError::Damaged(found));
    }
    if let Some(row) = c.prepare("PRAGMA foreign_key_check")?.query([])?.next()? {
        let (table, other): (String, String) = (row.get(0)?, row.get(2)?);
        return Err(CatalogError::Damaged(format!("a row of {table} needs one of {other} that is not there")));
    }
    let count = |sql: &str| c.query_row(sql, [], |row| row.get(0)).map(unsigned);
    Ok(Copied {
        version: version as u64,
        pool: nodes::pool(&c)?,
        files: count("SELECT count(*) FROM entry WHERE version_id IS NOT NULL")?,
        chunks: count("SELECT count(*) FROM chunk")?,
    })
}

/// The wrapped keys of every vault in a copy.
///
/// # Errors
/// [`CatalogError`].
pub fn vault_keys(path: &Path) -> CatalogResult<Vec<Vec<u8>>> {
    let c = open_reader(path)?;
    let mut statement = c.prepare("SELECT wrapped_keys FROM vault ORDER BY id")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::charge;
    use crate::seam::Seam;

    async fn catalog(dir: &Path) -> Catalog {
        let catalog = Catalog::open(&dir.join("catalog.db"), Seam::real()).unwrap();
        let now = Seam::real().now();
        catalog.write(move |c| charge::start(c, PoolId::from_bytes([1; 16]), [2; 16], 3, now)).await.unwrap();
        catalog
    }

    /// A change that has not ended holds nobody up and is not in the copy; what was committed before is.
    #[tokio::test]
    async fn a_copy_is_of_one_moment_and_waits_for_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(dir.path()).await;
        let insert = |id: i64| move |c: &Connection| Ok(c.execute("INSERT INTO loose_chunk VALUES (?1)", [id])?);
        catalog.write(insert(1)).await.unwrap();
        let (begun, begins) = std::sync::mpsc::channel();
        let (go, goes) = std::sync::mpsc::channel::<()>();
        let writing = catalog.clone();
        let changing = tokio::spawn(async move {
            let change = move |c: &Connection| {
                insert(2)(c)?;
                begun.send(()).unwrap();
                goes.recv().unwrap();
                Ok(())
            };
            writing.write(change).await
        });
        let copy = dir.path().join("copy.db");
        let (from, to) = (catalog.clone(), copy.clone());
        tokio::task::spawn_blocking(move || {
            begins.recv().unwrap();
            from.copy_to(&to)
        })
        .await
        .unwrap()
        .unwrap();
        go.send(()).unwrap();
        changing.await.unwrap().unwrap();
        let copied = examine(&copy).unwrap();
        assert_eq!((copied.version, copied.pool), (schema::VERSION as u64, PoolId::from_bytes([1; 16])));
        let there = open_reader(&copy).unwrap();
        assert_eq!(
            there.query_row("SELECT group_concat(chunk_id) FROM loose_chunk", [], |r| r.get(0)),
            Ok("1".to_owned())
        );
        assert!(catalog.copy_to(&copy).is_err(), "it is there already");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_copy_is_at_its_path_or_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(dir.path()).await;
        let copy = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"copy\xff");
        let there = || std::fs::read_dir(dir.path()).unwrap().count();
        let before = there();
        assert!(catalog.copy_to(&dir.path().join(copy)).unwrap_err().to_string().contains("not UTF-8"));
        assert_eq!(there(), before);
    }

    #[tokio::test]
    async fn a_copy_that_is_not_sound_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = catalog(dir.path()).await;
        let copied = |name: &str, spoil: &str| {
            let path = dir.path().join(name);
            catalog.copy_to(&path).unwrap();
            Connection::open(&path).unwrap().execute_batch(spoil).unwrap();
            examine(&path)
        };
        assert!(copied("good", "").is_ok());
        assert!(matches!(copied("newer", "PRAGMA user_version = 99"), Err(CatalogError::Newer { found: 99, .. })));
        let dangling = "PRAGMA foreign_keys = 0; INSERT INTO token VALUES ('x', 77, x'', '', 0, NULL)";
        let refused = copied("dangling", dangling).unwrap_err();
        assert_eq!(refused.to_string(), "the catalog is damaged: a row of token needs one of user that is not there");
        // An index that lacks a row.
        let lacking = "PRAGMA writable_schema = 1;
            UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'entry_root')
            WHERE name = 'vault_by_owner'";
        assert!(copied("lacking", lacking).is_err());
        let path = dir.path().join("good");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(examine(&path).is_err());
    }
}
