//! Rows for files and directories.

use axum::http::Method;
use serde::Deserialize;
use utoipa::IntoParams;

use super::input::{Body, Check, Query, at_most, page_size};
use super::{Caller, Done, Json, Route, route};
use crate::api::{ApiError, ListRequest, MAX_FILES, MAX_LOOKUP};
use crate::client::wire::{Entries, FromTo, Paths};
use crate::path::RemotePath;

/// Names one path.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct OnePath {
    /// The path, `bn:/…`.
    #[param(value_type = String)]
    path: RemotePath,
}

impl Check for OnePath {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Asks for a listing.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// The directory, `bn:/…`.
    #[param(value_type = String)]
    path: RemotePath,
    /// Whether to go below it.
    #[serde(default)]
    recursive: bool,
    /// Continues an earlier page.
    #[serde(default)]
    cursor: Option<String>,
    /// The most entries, 1 to 1,024.
    #[serde(default = "whole_page")]
    limit: u32,
}

/// Asks for the chunks of a file.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ChunksQuery {
    /// The file, `bn:/…`.
    #[param(value_type = String)]
    path: RemotePath,
    /// Continues an earlier page.
    #[serde(default)]
    cursor: Option<String>,
    /// The most chunks, 1 to 1,024.
    #[serde(default = "whole_page")]
    limit: u32,
}

/// Says what to remove.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    /// The file or directory, `bn:/…`.
    #[param(value_type = String)]
    path: RemotePath,
    /// Whether a directory goes with all in it.
    #[serde(default)]
    recursive: bool,
    /// Only say what would be removed.
    #[serde(default)]
    dry_run: bool,
}

fn whole_page() -> u32 {
    u32::try_from(MAX_FILES).expect("a page has few entries")
}

fn cursor(cursor: Option<&str>) -> Result<(), ApiError> {
    // A cursor may hold the longest path, encoded.
    at_most(cursor.map_or(0, str::len), 16 << 10, "bytes of cursor")
}

impl Check for ListQuery {
    fn check(&self) -> Result<(), ApiError> {
        cursor(self.cursor.as_deref())?;
        page_size(self.limit, MAX_FILES)
    }
}

impl Check for ChunksQuery {
    fn check(&self) -> Result<(), ApiError> {
        cursor(self.cursor.as_deref())?;
        page_size(self.limit, MAX_FILES)
    }
}

impl Check for RemoveQuery {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Check for Paths {
    fn check(&self) -> Result<(), ApiError> {
        // What makes directories takes fewer, and says so itself.
        at_most(self.paths.len(), MAX_LOOKUP, "paths")
    }
}

impl Check for FromTo {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

pub(super) fn rows() -> Vec<Route> {
    let mut rows = rows_that_look();
    rows.extend(rows_that_change());
    rows
}

fn rows_that_look() -> Vec<Route> {
    let (get, post) = (Method::GET, Method::POST);
    vec![
        route(
            get.clone(),
            "/files/stat",
            "stat",
            "Describes one path",
            |caller: Caller, Query(query): Query<OnePath>| async move { caller.stat(&query.path).await.map(Json) },
        ),
        route(
            post,
            "/files/lookup",
            "lookup",
            "Describes many paths",
            |caller: Caller, Body(body): Body<Paths>| async move {
                caller.lookup(&body.paths).await.map(|entries| Json(Entries { entries }))
            },
        ),
        route(
            get.clone(),
            "/files",
            "list",
            "Lists a directory",
            |caller: Caller, Query(query): Query<ListQuery>| async move {
                let ListQuery { path, recursive, cursor, limit } = query;
                caller.list(&ListRequest { path, recursive, cursor, limit }).await.map(Json)
            },
        ),
        route(
            get,
            "/files/chunks",
            "chunk_rows",
            "Lists the chunks of a file",
            |caller: Caller, Query(query): Query<ChunksQuery>| async move {
                caller.chunk_rows(&query.path, query.cursor.as_deref(), query.limit).await.map(Json)
            },
        ),
    ]
}

fn rows_that_change() -> Vec<Route> {
    let (post, delete) = (Method::POST, Method::DELETE);
    vec![
        route(
            post.clone(),
            "/dirs",
            "make_dirs",
            "Makes directories",
            |caller: Caller, Body(body): Body<Paths>| async move { caller.make_dirs(&body.paths).await.map(|()| Done) },
        ),
        route(
            post.clone(),
            "/files/rename",
            "rename",
            "Moves a file or directory",
            |caller: Caller, Body(FromTo { from, to }): Body<FromTo>| async move {
                caller.rename(&from, &to).await.map(Json)
            },
        ),
        route(
            post,
            "/files/copy",
            "copy",
            "Copies a file or directory",
            |caller: Caller, Body(FromTo { from, to }): Body<FromTo>| async move {
                caller.copy(&from, &to).await.map(Json)
            },
        )
        .created(),
        route(
            delete,
            "/files",
            "remove",
            "Removes a file or directory",
            |caller: Caller, Query(query): Query<RemoveQuery>| async move {
                caller.remove(&query.path, query.recursive, query.dry_run).await.map(Json)
            },
        ),
    ]
}
