//! Rows for long work, and for what changes of a node.

use axum::http::Method;
use serde::Deserialize;
use utoipa::IntoParams;

use super::input::{At, Body, Check, NodeName, Query, TaskId, short, short_node};
use super::{Caller, Json, Route, route};
use crate::admin::{NodeSet, TaskRequest};
use crate::api::ApiError;
use crate::client::wire::{NodeEvents, SteerRequest, Tasks};

/// Says how long to wait for a task.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct WaitQuery {
    /// Seconds to wait at most, up to 20, for its end
    #[serde(default)]
    wait: u64,
    /// or for more than so many steps done.
    #[serde(default)]
    done: u64,
}

impl Check for WaitQuery {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Check for TaskRequest {
    fn check(&self) -> Result<(), ApiError> {
        match self {
            Self::Drain { node } => short(node, "a node's name"),
            Self::Health { .. } | Self::Scrub { .. } => Ok(()),
        }
    }
}

impl Check for SteerRequest {
    fn check(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Check for NodeSet {
    fn check(&self) -> Result<(), ApiError> {
        short_node([&self.url, &self.name, &self.zone, &self.gateway], [&self.token, &self.client_token])
    }
}

type Named = At<NodeName>;
type Numbered = At<TaskId>;

pub(super) fn rows() -> Vec<Route> {
    let (get, post) = (Method::GET, Method::POST);
    vec![
        route(
            Method::PATCH,
            "/nodes/{name}",
            "node_set",
            "Changes what the pool knows of a node",
            |caller: Caller, (At(name), Body(body)): (Named, Body<NodeSet>)| async move {
                caller.node_set(&name.0, &body).await.map(Json)
            },
        )
        .long(),
        route(
            get.clone(),
            "/nodes/{name}/events",
            "node_events",
            "Says what happened to a node",
            |caller: Caller, At(name): Named| async move {
                caller.node_events(&name.0).await.map(|events| Json(NodeEvents { events }))
            },
        ),
        route(
            post.clone(),
            "/tasks",
            "task_start",
            "Begins long work",
            |caller: Caller, Body(body): Body<TaskRequest>| async move { caller.task_start(&body).await.map(Json) },
        )
        .created(),
        route(get.clone(), "/tasks", "tasks", "Lists long work", |caller: Caller, (): ()| async move {
            caller.tasks().await.map(|tasks| Json(Tasks { tasks }))
        }),
        route(
            get,
            "/tasks/{id}",
            "task",
            "Shows long work, and waits for it",
            |caller: Caller, (At(id), Query(query)): (Numbered, Query<WaitQuery>)| async move {
                caller.task(id.0, query.wait, query.done).await.map(Json)
            },
        ),
        route(
            post,
            "/tasks/{id}/steer",
            "task_steer",
            "Pauses, resumes or cancels long work",
            |caller: Caller, (At(id), Body(body)): (Numbered, Body<SteerRequest>)| async move {
                caller.task_steer(id.0, body.steer).await.map(Json)
            },
        ),
    ]
}
