//! Tasks: long work that outlives whoever asked for it, and the coordinator's process.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CatalogResult, damaged, micros, signed, time, unsigned};
use crate::admin::{Task, TaskLine, TaskRequest, TaskState};

/// Ended tasks that are kept.
const KEPT: i64 = 1000;

/// A task as the catalog has it.
#[derive(Debug, Clone)]
pub struct TaskRow {
    /// What is shown of it.
    pub task: Task,
    /// What was asked for.
    pub request: TaskRequest,
    /// What it said.
    pub log: Vec<TaskLine>,
    /// Its outcome, as whoever ended it wrote it down.
    pub outcome: Option<String>,
}

/// Takes a task down, and forgets the oldest of those that ended; gives its number.
///
/// # Errors
/// [`super::CatalogError`].
pub fn create(c: &Connection, task: &Task, request: &TaskRequest) -> CatalogResult<u64> {
    c.execute(
        "INSERT INTO task(kind, state, owner, node, request, message, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            text(&task.kind)?,
            text(&task.state)?,
            task.owner,
            task.node,
            json(request)?,
            task.message,
            micros(task.created)
        ],
    )?;
    let id = c.last_insert_rowid();
    c.execute(
        "DELETE FROM task WHERE ended_at IS NOT NULL AND id <= (SELECT id FROM task ORDER BY id DESC LIMIT 1 OFFSET ?1)",
        [KEPT],
    )?;
    Ok(unsigned(id))
}

/// Writes down how a task stands, unless it has ended.
///
/// # Errors
/// [`super::CatalogError`].
pub fn save(c: &Connection, task: &Task, log: &[TaskLine], outcome: Option<&str>) -> CatalogResult<()> {
    c.prepare_cached(
        "UPDATE task SET state = ?2, node = ?3, done = ?4, total = ?5, message = ?6, log = ?7,
             outcome = coalesce(?8, outcome), ended_at = ?9 WHERE id = ?1 AND ended_at IS NULL",
    )?
    .execute(params![
        signed(task.id),
        text(&task.state)?,
        task.node,
        signed(task.done),
        task.total.map(signed),
        task.message,
        json(&log)?,
        outcome,
        task.ended.map(micros)
    ])?;
    Ok(())
}

/// Forgets a task that has ended, unless it is the latest: no number is used again.
///
/// # Errors
/// [`super::CatalogError`].
pub fn forget(c: &Connection, id: u64) -> CatalogResult<()> {
    c.prepare_cached("DELETE FROM task WHERE id = ?1 AND ended_at IS NOT NULL AND id < (SELECT max(id) FROM task)")?
        .execute([signed(id)])?;
    Ok(())
}

/// Tasks that have not ended, the oldest first.
///
/// # Errors
/// [`super::CatalogError`].
pub fn open(c: &Connection) -> CatalogResult<Vec<TaskRow>> {
    let mut statement =
        c.prepare_cached("SELECT * FROM task INDEXED BY task_open WHERE ended_at IS NULL ORDER BY id")?;
    let rows = statement.query_map([], |found| Ok(row(found)))?;
    readable(rows)
}

/// Those that can be read: one that cannot is no reason to know nothing of the others.
fn readable(rows: impl Iterator<Item = rusqlite::Result<CatalogResult<TaskRow>>>) -> CatalogResult<Vec<TaskRow>> {
    let mut tasks = Vec::new();
    for row in rows {
        match row? {
            Ok(task) => tasks.push(task),
            Err(error) => tracing::warn!(%error, "a task that cannot be read"),
        }
    }
    Ok(tasks)
}

/// The latest tasks, the latest first.
///
/// # Errors
/// [`super::CatalogError`].
pub fn latest(c: &Connection, limit: u32) -> CatalogResult<Vec<TaskRow>> {
    let mut statement = c.prepare_cached("SELECT * FROM task ORDER BY id DESC LIMIT ?1")?;
    let rows = statement.query_map([limit], |found| Ok(row(found)))?;
    readable(rows)
}

/// One task.
///
/// # Errors
/// [`super::CatalogError`].
pub fn get(c: &Connection, id: u64) -> CatalogResult<Option<TaskRow>> {
    c.prepare_cached("SELECT * FROM task WHERE id = ?1")?
        .query_row([signed(id)], |found| Ok(row(found)))
        .optional()?
        .transpose()
}

fn row(row: &Row<'_>) -> CatalogResult<TaskRow> {
    let id: i64 = row.get("id")?;
    let word = |name: &str| -> CatalogResult<serde_json::Value> { Ok(serde_json::Value::String(row.get(name)?)) };
    let state: TaskState = serde_json::from_value(word("state")?).map_err(|_| damaged("task", id, "an odd state"))?;
    Ok(TaskRow {
        task: Task {
            id: unsigned(id),
            kind: serde_json::from_value(word("kind")?).map_err(|_| damaged("task", id, "an odd kind"))?,
            state,
            owner: row.get("owner")?,
            node: row.get("node")?,
            done: unsigned(row.get("done")?),
            total: row.get::<_, Option<i64>>("total")?.map(unsigned),
            message: row.get("message")?,
            created: time(row.get("created_at")?),
            ended: row.get::<_, Option<i64>>("ended_at")?.map(time),
        },
        request: parse(id, &row.get::<_, String>("request")?)?,
        log: parse(id, &row.get::<_, String>("log")?)?,
        outcome: row.get("outcome")?,
    })
}

fn parse<T: DeserializeOwned>(id: i64, text: &str) -> CatalogResult<T> {
    serde_json::from_str(text).map_err(|error| damaged("task", id, error))
}

fn json<T: Serialize>(value: &T) -> CatalogResult<String> {
    serde_json::to_string(value).map_err(|error| damaged("task", 0, error))
}

/// A word of an enumeration.
fn text<T: Serialize>(value: &T) -> CatalogResult<String> {
    Ok(json(value)?.trim_matches('"').to_owned())
}

/// Takes down that something happened to a node, and forgets what happened to it long before.
///
/// # Errors
/// [`super::CatalogError`].
pub fn note_node(c: &Connection, node: i64, text: &str, at: Timestamp) -> CatalogResult<()> {
    c.prepare_cached("INSERT INTO node_event(node_id, at, text) SELECT id, ?2, ?3 FROM node WHERE id = ?1")?
        .execute(params![node, micros(at), text])?;
    c.prepare_cached(
        "DELETE FROM node_event WHERE node_id = ?1 AND id <=
             (SELECT id FROM node_event WHERE node_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET 200)",
    )?
    .execute([node])?;
    Ok(())
}

/// What happened to a node, the latest first.
///
/// # Errors
/// [`super::CatalogError`].
pub fn node_events(c: &Connection, node: i64) -> CatalogResult<Vec<crate::admin::NodeEvent>> {
    let mut statement =
        c.prepare_cached("SELECT at, text FROM node_event WHERE node_id = ?1 ORDER BY id DESC LIMIT 200")?;
    let rows =
        statement.query_map([node], |row| Ok(crate::admin::NodeEvent { at: time(row.get(0)?), text: row.get(1)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
