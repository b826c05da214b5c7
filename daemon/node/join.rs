//! How a coordinator takes a node into its pool, and makes itself known at each of its starts.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use serde_json::json;

use super::face::SharedFace;
use crate::daemon::kubo::answer::{Refusal, json_answer};
use crate::node::builtin::JoinRequest;
use crate::node::builtin::identity::{IdentityError, Seen};

pub(super) async fn join(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    let body = face.small_body(request.into_body()).await?;
    let asked: JoinRequest = serde_json::from_slice(&body).map_err(|_| not_json())?;
    let counted = face.count_try()?;
    let identity = Arc::clone(&face.identity);
    let joined = face.seam.offload(move || identity.join(&asked)).await;
    if matches!(joined, Err(IdentityError::Code)) {
        tracing::warn!("a try to join had a wrong code");
    } else {
        face.forgive_try(counted);
    }
    joined?;
    Ok(json_answer(&json!({"id": face.identity.id(), "receipt_key": face.identity.public().to_string()})))
}

pub(super) async fn hello(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.manages(request.headers())?;
    let body = face.small_body(request.into_body()).await?;
    let start: Seen = serde_json::from_slice(&body).map_err(|_| not_json())?;
    let identity = Arc::clone(&face.identity);
    let before = face.seam.offload(move || identity.hello(&start)).await?;
    Ok(json_answer(&json!(before)))
}

/// Which start of the coordinator it was told of last.
pub(super) async fn seen(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.manages(request.headers())?;
    Ok(json_answer(&json!(face.identity.seen()?)))
}

fn not_json() -> Refusal {
    Refusal::Bad("the body is not the expected JSON".to_owned())
}
