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

/// Tables that grow with what is stored. The others have a row for the pool, a node, a user or a start.
const GROWS: [&str; 9] =
    ["version", "entry", "chunk", "manifest", "pack", "replica", "key_page", "loose_chunk", "lease"];

/// Statements that go over a whole table or index all the same, by how they begin, and why they may.
const MAY_SCAN: [(&str, &str); 7] = [
    ("SELECT id FROM lease WHERE ended_at IS NOT NULL", "puts under way are limited for each user"),
    ("SELECT id, user_id, vault_id, replicas", "once a start, over puts under way"),
    ("UPDATE pack INDEXED BY pack_repairing", "the index holds only packs of repairs that did not end"),
    ("SELECT {COLUMNS} FROM pack INDEXED BY pack_replacing", "the index holds only packs that are being made smaller"),
    ("WITH touched(id, kept)", "of packs, those that are to be dropped; of a dry run"),
    ("INSERT INTO temp.loose", "what a dry run foresees includes all that the next sweep would look at"),
    ("SELECT count(*) FROM chunk", "of a backup's copy, which is read from end to end anyway"),
];

/// The string literals of a source file, but for its tests.
fn literals(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap().replace("'\"'", "");
    let (mut found, mut rest) = (Vec::new(), code.as_str());
    while let Some(at) = rest.find(['"', '/']) {
        rest = if let Some(text) = rest[at..].strip_prefix('"') {
            let escaped = |end: usize| text[..end].ends_with('\\') && !text[..end].ends_with("\\\\");
            let end = text.match_indices('"').map(|(end, _)| end).find(|end| !escaped(*end)).unwrap();
            found.push(text[..end].trim().to_owned());
            &text[end + 1..]
        } else if rest[at..].starts_with("//") {
            rest[at..].split_once('\n').map_or("", |(_, rest)| rest)
        } else {
            &rest[at + 1..]
        };
    }
    found
}

/// All SQL of the catalog and of the coordinator: as it is written, and with constants filled in.
fn statements() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut dirs, mut found) = (vec![src.join("catalog"), src.join("coordinator")], Vec::new());
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.extend((!path.ends_with("tests")).then_some(path));
            } else if !["tests.rs", "schema.rs"].iter().any(|not| path.ends_with(not)) {
                found.extend(statements_in(&std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    found
}

fn statements_in(source: &str) -> Vec<(String, String)> {
    let constant = |name: &str| {
        let (_, after) = source.split_once(&format!("const {name}: &str ="))?;
        Some(after.split('"').nth(1)?.to_owned())
    };
    let mut found = Vec::new();
    for written in literals(source).iter().flat_map(|literal| literal.split(';')).map(str::trim) {
        let mut text = written.to_owned();
        for name in ["ENTRY", "COLUMNS"] {
            if let Some(value) = constant(name) {
                text = text.replace(&format!("{{{name}}}"), &value);
            }
        }
        let verb = text.split_whitespace().next().unwrap_or_default();
        // A constant is part of others.
        let part = constant("ENTRY").is_some_and(|entry| entry.trim() == text);
        if ["SELECT", "UPDATE", "DELETE", "INSERT", "WITH"].contains(&verb) && text.contains(' ') && !part {
            found.push((written.to_owned(), text));
        }
    }
    found
}

/// How SQLite's plan names the tables of a statement that grow: by their aliases where they have one.
fn growing(sql: &str) -> Vec<String> {
    let words: Vec<&str> = sql.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty()).collect();
    let mut names = Vec::new();
    for at in words.windows(2).filter(|at| GROWS.contains(&at[0])) {
        names.extend([at[0].to_owned(), at[1].to_owned()]);
    }
    names.extend(words.last().filter(|last| GROWS.contains(last)).map(|last| (*last).to_owned()));
    names
}

/// Whatever is stored, no statement reads all of a table to answer: each finds what it needs by an index.
#[tokio::test]
async fn no_statement_scans_a_table_that_grows() {
    let catalog = Catalog::in_memory(Seam::simulated(1)).unwrap();
    let (mut seen, mut excused) = (0, std::collections::BTreeSet::new());
    for (written, sql) in statements() {
        let text = sql.clone();
        let plan = move |c: &Connection| {
            c.execute_batch(sweep::FORESEE)?;
            let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {text}"))?;
            let mut rows = plan.raw_query();
            let mut steps: Vec<String> = Vec::new();
            while let Some(row) = rows.next()? {
                steps.push(row.get(3)?);
            }
            Ok(steps)
        };
        let steps = catalog.read(plan).await.unwrap_or_else(|error| panic!("{sql}\n{error}"));
        seen += 1;
        let names = growing(&sql);
        // A page that is sorted after it was found costs as much as all that follow it.
        let sorts = |step: &String| sql.contains("LIMIT ?") && step.starts_with("USE TEMP B-TREE FOR");
        let scans = |step: &&String| {
            let scanned = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            sorts(step) || scanned.is_some_and(|name| names.iter().any(|grows| grows == name))
        };
        let Some(step) = steps.iter().find(scans) else { continue };
        let known = MAY_SCAN.iter().find(|(begins, _)| written.starts_with(begins));
        let (begins, _) = known.unwrap_or_else(|| panic!("{step}: {sql}\n{steps:#?}"));
        excused.insert(*begins);
    }
    assert!(seen > 100, "only {seen} statements were found");
    assert_eq!(excused.len(), MAY_SCAN.len(), "an excuse is no longer needed: only {excused:#?}");
}
