//! Tests of the catalog as a whole: who reads and writes when, and by which statements.

mod claims;
mod counting;
mod releasing;
mod rows;

use futures_util::FutureExt;

use super::*;

#[tokio::test]
async fn a_refused_change_leaves_nothing_and_others_of_its_group_stay() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&dir.path().join("catalog.db"), Seam::real()).unwrap();
    let insert = |id: i64, fail: bool| {
        catalog.write(move |c| {
            c.execute("INSERT INTO loose_chunk VALUES (?1)", [id])?;
            if fail { Err(ApiError::new(Code::Usage, "no").into()) } else { Ok(()) }
        })
    };
    let (a, b, c) = tokio::join!(insert(1, false), insert(2, true), insert(3, false));
    assert!(a.is_ok() && b.is_err() && c.is_ok());
    let count = catalog
        .read(|c| Ok(c.query_row("SELECT count(*) FROM loose_chunk", [], |row| row.get::<_, i64>(0))?))
        .await
        .unwrap();
    assert_eq!(count, 2);
}

/// A question whose caller went away ran on to its end, and no longer counted as one of those that may run: whoever
/// asked and left again and again had as many run at once as they liked.
#[tokio::test]
async fn a_question_that_nobody_waits_for_keeps_its_turn_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&dir.path().join("catalog.db"), Seam::real()).unwrap();
    let Kind::Threads { readers, .. } = &catalog.kind else { panic!("it has threads") };
    let all_turns = u32::try_from(READERS).unwrap();
    let (started, running) = std::sync::mpsc::channel();
    let (ended, endings) = std::sync::mpsc::channel();
    for _ in 0..2 * READERS {
        let (started, ended) = (started.clone(), ended.clone());
        let mut asked = Box::pin(catalog.read(move |c| {
            started.send(()).unwrap();
            let forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
            let found = c.query_row(forever, [], |row| row.get::<_, i64>(0));
            ended.send(found.is_err_and(|error| was_given_up(&error))).unwrap();
            Ok(())
        }));
        assert!((&mut asked).now_or_never().is_none());
        running.recv().unwrap();
        drop(asked);
        assert!(endings.recv().unwrap(), "it was given up");
        drop(readers.permits.acquire_many(all_turns).await.unwrap());
    }
    let (end, gate) = std::sync::mpsc::channel::<()>();
    let (started, running) = std::sync::mpsc::channel();
    let mut held = Box::pin(catalog.read(move |_| {
        started.send(()).unwrap();
        assert!(gate.recv().is_err());
        Ok(())
    }));
    assert!((&mut held).now_or_never().is_none());
    running.recv().unwrap();
    drop(held);
    assert_eq!(readers.permits.available_permits(), READERS - 1, "it runs on, so its turn is taken");
    drop(end);
    drop(readers.permits.acquire_many(all_turns).await.unwrap());
    catalog.read(|_| Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_newer_catalog_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    drop(Catalog::open(&path, Seam::real()).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 999).unwrap();
    assert!(matches!(Catalog::open(&path, Seam::real()), Err(CatalogError::Newer { found: 999, .. })));
}

/// An older catalog is copied aside before anything of it is changed, once; a new one or one of this build is not.
#[tokio::test]
async fn only_an_older_catalog_is_copied_aside_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let asides = || {
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| name.contains(".db.v"));
        names
    };
    for _ in 0..2 {
        drop(Catalog::open(&path, Seam::real()).unwrap());
        assert!(asides().is_empty());
    }
    std::fs::remove_file(&path).unwrap();
    let older = schema::older(&path);
    for _ in 0..2 {
        older();
        drop(Catalog::open(&path, Seam::real()).unwrap());
        assert_eq!(asides(), ["catalog.db.v1"]);
        std::fs::remove_file(&path).unwrap();
    }
}

/// What a change that was answered needs to survive a loss of power, and rows to refer to what is there.
#[tokio::test]
async fn every_connection_is_durable_and_checks_references() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&dir.path().join("catalog.db"), Seam::real()).unwrap();
    let pragma =
        |c: &Connection, name: &str| c.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
    let found = catalog
        .write(move |c| {
            Ok(["synchronous", "foreign_keys", "trusted_schema", "busy_timeout"].map(|name| pragma(c, name)))
        })
        .await
        .unwrap();
    let numbers = [2, 1, 0, 10_000].map(|number| Ok(rusqlite::types::Value::Integer(number)));
    assert_eq!(found, numbers);
    let (mode, wait) = catalog.read(move |c| Ok((pragma(c, "journal_mode"), pragma(c, "busy_timeout")))).await.unwrap();
    assert_eq!(mode, Ok(rusqlite::types::Value::Text("wal".to_owned())));
    assert_eq!(wait, Ok(rusqlite::types::Value::Integer(10_000)));
    assert!(catalog.read(|c| Ok(c.execute("INSERT INTO loose_chunk VALUES (1)", [])?)).await.is_err(), "it only reads");
}

#[tokio::test]
async fn a_long_question_is_answered_and_a_wrong_one_is_not_taken_for_slow() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&dir.path().join("catalog.db"), Seam::real()).unwrap();
    let long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) SELECT count(*) FROM n";
    assert_eq!(catalog.read(|c| Ok(c.query_row(long, [], |row| row.get::<_, i64>(0))?)).await.unwrap(), 50_000);
    let wrong = catalog.read(|c| Ok(c.execute("SELECT 1 FROM nothing", [])?)).await;
    assert!(matches!(wrong, Err(CatalogError::Sqlite(_))), "{wrong:?}");
}

/// The SQL in the string literals of a source file, with its constants filled in.
fn statements(source: &str) -> Vec<String> {
    let constant = |name: &str| {
        let (_, after) = source.split_once(&format!("const {name}: &str ="))?;
        Some(after.split('"').nth(1)?.to_owned())
    };
    let mut found = Vec::new();
    for literal in source.split('"').skip(1).step_by(2) {
        let mut text = literal.to_owned();
        for name in ["ENTRY", "COLUMNS"] {
            if let Some(value) = constant(name) {
                text = text.replace(&format!("{{{name}}}"), &value);
            }
        }
        let verb = text.split_whitespace().next().unwrap_or_default();
        if ["SELECT", "UPDATE", "DELETE", "INSERT", "WITH"].contains(&verb) && !text.contains('{') && text.contains('?')
        {
            found.push(text);
        }
    }
    found
}

#[tokio::test]
async fn no_statement_scans_a_table_that_grows() {
    let catalog = Catalog::in_memory(Seam::simulated(1)).unwrap();
    let sources = [
        include_str!("charge.rs"),
        include_str!("chunks.rs"),
        include_str!("files.rs"),
        include_str!("packs.rs"),
        include_str!("sweep.rs"),
        include_str!("users.rs"),
        include_str!("../coordinator/commit.rs"),
        include_str!("../coordinator/health.rs"),
        include_str!("../coordinator/leases.rs"),
    ];
    let grows = ["version", "entry", "chunk", "manifest", "pack", "replica", "key_page", "loose_chunk", "lease"];
    let aliases = ["v", "e", "c", "r"];
    let mut seen = 0;
    for sql in sources.into_iter().flat_map(statements) {
        let text = sql.clone();
        let steps: Vec<String> = catalog
            .read(move |c| {
                c.execute_batch(sweep::FORESEE)?;
                let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {text}"))?;
                let mut rows = plan.raw_query();
                let mut steps = Vec::new();
                while let Some(row) = rows.next()? {
                    steps.push(row.get(3)?);
                }
                Ok(steps)
            })
            .await
            .unwrap();
        seen += 1;
        for step in &steps {
            let scanned = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            let table = scanned.is_some_and(|name| grows.contains(&name) || aliases.contains(&name));
            // A partial index that holds only what is to be done is as short as the work.
            let short = ["version_short", "pack_replacing", "pack_dropping"].iter().any(|index| step.contains(index));
            assert!(!table || short, "{sql}\n{steps:#?}");
        }
    }
    assert!(seen > 60, "only {seen} statements were found");
}
