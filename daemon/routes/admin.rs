//! Rows for accounts, nodes and the pool's health.

use axum::http::Method;
use serde::Deserialize;
use utoipa::IntoParams;

use super::input::{At, Body, Check, NodeName, Query, short, short_node};
use super::{Caller, Done, Json, Route, Streamed, route};
use crate::admin::{Adopt, HealthRequest, NodeAdd};
use crate::api::ApiError;
use crate::client::wire::{
    BackupKept, BackupRequest, GcRequest, Nodes, Risks, ScrubReport, ScrubRequest, TokenRequest, Ways,
};

/// Says how a node is forgotten.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ForgetQuery {
    /// Whether it never comes back.
    #[serde(default)]
    lost: bool,
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

impl Check for ForgetQuery {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Says who asks for the way to the nodes.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct WaysQuery {
    /// Names the client's machine and its current start.
    machine: String,
}

impl Check for WaysQuery {
    fn check(&self) -> Result<(), ApiError> {
        short(&self.machine, "the machine's name")
    }
}

impl Check for TokenRequest {
    fn check(&self) -> Result<(), ApiError> {
        short(&self.name, "the token's name")
    }
}

impl Check for NodeAdd {
    fn check(&self) -> Result<(), ApiError> {
        let url = Some(self.url.clone());
        short_node([&url, &self.name, &self.zone, &self.gateway], [&self.token, &self.client_token])
    }
}

impl Check for HealthRequest {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Check for Adopt {
    fn check(&self) -> Result<(), ApiError> {
        self.without.iter().try_for_each(|name| short(name, "a node's name"))
    }
}

impl Check for ScrubRequest {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Check for GcRequest {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Check for BackupRequest {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Check for BackupKept {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

type Named = At<NodeName>;

pub(super) fn rows() -> Vec<Route> {
    let mut rows = account_rows();
    rows.extend(look_rows());
    rows.extend(pool_rows());
    rows.extend(backup_rows());
    rows
}

fn account_rows() -> Vec<Route> {
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    vec![
        route(
            get.clone(),
            "/whoami",
            "whoami",
            "Says who one is",
            |caller: Caller, (): ()| async move { caller.whoami().await.map(Json) },
        ),
        route(
            post,
            "/tokens",
            "create_token",
            "Makes another token",
            |caller: Caller, Body(body): Body<TokenRequest>| async move {
                caller.create_token(&body.name).await.map(Json)
            },
        )
        .created(),
        route(
            delete,
            "/tokens/current",
            "revoke_own_token",
            "Revokes the token in use",
            |caller: Caller, (): ()| async move { caller.revoke_own_token().await.map(|()| Done) },
        ),
        route(
            get,
            "/status",
            "status",
            "Shows the pool at a glance",
            |caller: Caller, (): ()| async move { caller.status().await.map(Json) },
        ),
    ]
}

fn look_rows() -> Vec<Route> {
    let get = Method::GET;
    vec![
        route(get.clone(), "/nodes", "nodes", "Lists the nodes", |caller: Caller, (): ()| async move {
            caller.nodes().await.map(|nodes| Json(Nodes { nodes }))
        }),
        route(
            get.clone(),
            "/ways",
            "ways",
            "Says how a client reaches the nodes",
            |caller: Caller, Query(query): Query<WaysQuery>| async move {
                caller.ways(&query.machine).await.map(|ways| Json(Ways { ways }))
            },
        ),
        route(get, "/risks", "risks", "Says what can go wrong on the nodes", |caller: Caller, (): ()| async move {
            caller.risks().await.map(|nodes| Json(Risks { nodes }))
        }),
    ]
}

fn pool_rows() -> Vec<Route> {
    let (post, delete) = (Method::POST, Method::DELETE);
    vec![
        route(
            post.clone(),
            "/nodes",
            "node_add",
            "Tests and registers a node",
            |caller: Caller, Body(body): Body<NodeAdd>| async move { caller.node_add(&body).await.map(Json) },
        )
        .long(),
        route(
            post.clone(),
            "/nodes/{name}/test",
            "node_test",
            "Tests a node",
            |caller: Caller, At(name): Named| async move { caller.node_test(&name.0).await.map(Json) },
        )
        .long(),
        route(
            delete,
            "/nodes/{name}",
            "node_remove",
            "Forgets a node",
            |caller: Caller, (At(name), Query(query)): (Named, Query<ForgetQuery>)| async move {
                caller.node_remove(&name.0, query.lost, query.dry_run).await.map(Json)
            },
        )
        .long(),
        route(
            post.clone(),
            "/health",
            "health",
            "Checks and repairs",
            |caller: Caller, Body(body): Body<HealthRequest>| async move { caller.health(&body).await.map(Json) },
        )
        .long(),
        route(
            post.clone(),
            "/gc",
            "gc",
            "Releases what nothing needs",
            |caller: Caller, Body(body): Body<GcRequest>| async move {
                caller.gc(body.now, body.dry_run).await.map(Json)
            },
        )
        .long(),
        route(
            post.clone(),
            "/scrub",
            "scrub",
            "Reads and hashes copies",
            |caller: Caller, Body(body): Body<ScrubRequest>| async move {
                caller.scrub(body.all, body.dry_run).await.map(|nodes| Json(ScrubReport { nodes }))
            },
        )
        .long(),
        route(
            post,
            "/adopt",
            "adopt",
            "Puts this coordinator in charge",
            |caller: Caller, Body(body): Body<Adopt>| async move { caller.adopt(&body).await.map(Json) },
        )
        .long(),
    ]
}

fn backup_rows() -> Vec<Route> {
    vec![
        route(
            Method::POST,
            "/backup",
            "backup",
            "Makes a sealed backup of the coordinator",
            |caller: Caller, Body(body): Body<BackupRequest>| async move {
                caller.backup(&body.passphrase).await.map(Streamed)
            },
        )
        .long(),
        route(
            Method::POST,
            "/backup/kept",
            "backup_kept",
            "Takes down that a backup was kept",
            |caller: Caller, Body(body): Body<BackupKept>| async move { caller.backup_kept(body.made).await.map(|()| Done) },
        ),
    ]
}
