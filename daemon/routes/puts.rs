//! Rows for puts.

use axum::http::Method;

use super::input::{At, Body, Check, at_most, short};
use super::{Caller, Json, Route, route};
use crate::api::{ApiError, BeginPut, CommitFiles, MAX_FILES, MAX_PLAN_CHUNKS, PacksSent, PlanChunks};
use crate::client::wire::CommittedFiles;
use crate::id::UploadId;

type Lease = At<UploadId>;

impl Check for BeginPut {
    fn check(&self) -> Result<(), ApiError> {
        short(&self.machine, "the machine's name")
    }
}

impl Check for PlanChunks {
    fn check(&self) -> Result<(), ApiError> {
        at_most(self.files.len(), MAX_FILES, "files")?;
        at_most(self.files.iter().map(|file| file.chunks.len()).sum(), MAX_PLAN_CHUNKS, "chunks")
    }
}

impl Check for PacksSent {
    fn check(&self) -> Result<(), ApiError> {
        at_most(self.packs.len(), MAX_FILES, "packs")
    }
}

impl Check for CommitFiles {
    fn check(&self) -> Result<(), ApiError> {
        at_most(self.files.len(), MAX_FILES, "files")
    }
}

pub(super) fn rows() -> Vec<Route> {
    let post = Method::POST;
    vec![
        route(
            post.clone(),
            "/puts",
            "begin_put",
            "Begins a put",
            |caller: Caller, Body(body): Body<BeginPut>| async move { caller.begin_put(&body).await.map(Json) },
        )
        .created(),
        route(
            post.clone(),
            "/puts/{id}/plan",
            "plan_chunks",
            "Records chunks and says where they go",
            |caller: Caller, (At(id), Body(body)): (Lease, Body<PlanChunks>)| async move {
                caller.plan_chunks(id, &body).await.map(Json)
            },
        ),
        route(
            post.clone(),
            "/puts/{id}/sent",
            "packs_sent",
            "Reports packs",
            |caller: Caller, (At(id), Body(body)): (Lease, Body<PacksSent>)| async move {
                caller.packs_sent(id, &body).await.map(Json)
            },
        ),
        route(
            post,
            "/puts/{id}/commit",
            "commit_files",
            "Makes files visible",
            |caller: Caller, (At(id), Body(body)): (Lease, Body<CommitFiles>)| async move {
                caller.commit_files(id, &body).await.map(|files| Json(CommittedFiles { files }))
            },
        ),
    ]
}
