//! Rows for reads, and for the leases of reads and puts.

use axum::http::Method;

use super::input::{At, Body, Check, at_most, short};
use super::{Caller, Done, Json, Route, route};
use crate::api::{ApiError, Code, MAX_FILES, MAX_PAGE_CHUNKS, MAX_REPORTS, OpenRead, ReadChunks};
use crate::client::wire::BadCopies;
use crate::id::UploadId;

type Lease = At<UploadId>;

impl Check for OpenRead {
    fn check(&self) -> Result<(), ApiError> {
        short(&self.machine, "the machine's name")?;
        at_most(self.paths.len(), MAX_FILES, "paths")
    }
}

impl Check for ReadChunks {
    fn check(&self) -> Result<(), ApiError> {
        at_most(self.spans.len(), MAX_PAGE_CHUNKS, "spans")?;
        let most = u64::try_from(MAX_PAGE_CHUNKS).unwrap_or(u64::MAX);
        let chunks = self.spans.iter().fold(0_u64, |sum, span| sum.saturating_add(span.count));
        let wraps = self.spans.iter().any(|span| span.first.checked_add(span.count).is_none());
        if chunks > most || wraps {
            return Err(ApiError::new(
                Code::Usage,
                format!("the spans cover too many chunks: at most {most} at a time"),
            ));
        }
        Ok(())
    }
}

impl Check for BadCopies {
    fn check(&self) -> Result<(), ApiError> {
        at_most(self.reports.len(), MAX_REPORTS, "reports")?;
        self.reports.iter().try_for_each(|report| short(&report.message, "a report's message"))
    }
}

pub(super) fn rows() -> Vec<Route> {
    let (post, delete) = (Method::POST, Method::DELETE);
    vec![
        route(
            post.clone(),
            "/leases/{id}/renew",
            "renew",
            "Keeps the lease of a put or read",
            |caller: Caller, At(id): Lease| async move { caller.renew(id).await.map(|()| Done) },
        ),
        route(
            delete,
            "/leases/{id}",
            "release",
            "Ends the lease of a put or read",
            |caller: Caller, At(id): Lease| async move { caller.release(id).await.map(|()| Done) },
        ),
        route(
            post.clone(),
            "/reads",
            "open_read",
            "Opens files for reading",
            |caller: Caller, Body(body): Body<OpenRead>| async move { caller.open_read(&body).await.map(Json) },
        )
        .created(),
        route(
            post.clone(),
            "/reads/{id}/chunks",
            "read_chunks",
            "Says where chunks are",
            |caller: Caller, (At(id), Body(body)): (Lease, Body<ReadChunks>)| async move {
                caller.read_chunks(id, &body).await.map(Json)
            },
        ),
        route(
            post,
            "/bad-copies",
            "report_bad",
            "Reports bad copies",
            |caller: Caller, Body(body): Body<BadCopies>| async move {
                caller.report_bad(&body.reports).await.map(|()| Done)
            },
        ),
    ]
}
