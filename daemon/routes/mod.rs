//! The route table: one row for each method of the coordinator's traits, and everything that all of them share.
//!
//! A row is a method, a path and a closure over a session and a typed [`Input`]. The types give the parser, the
//! serialiser and the description. No row can be reached without a session: [`Route::serve`] makes one first.

mod admin;
mod files;
mod input;
mod puts;
mod reads;
mod tasks;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::response::ResponseBuilder;

use super::openapi::{self, Schemas};
use super::problem::Refusal;
use super::server::ServerLimits;
use crate::admin::{SealedBackup, Session};
use crate::api::{ApiError, ApiResult, Code};
use crate::client::wire;

pub(crate) use input::Incoming;
use input::Input;

/// A session that a row works for.
type Caller = Arc<dyn Session>;
type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Run = Box<dyn Fn(Caller, Incoming, Bounds) -> Pending<Result<Response, Refusal>> + Send + Sync>;
type Describe = fn(OperationBuilder, u16, &mut Schemas) -> OperationBuilder;

/// How long the call behind a row may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// An answer from the catalog.
    Short,
    /// Work with nodes.
    Long,
}

/// The limits of one call.
pub(crate) struct Bounds {
    call: Duration,
    body: input::BodyLimits,
    /// Held until the call has ended, even if the client has gone.
    permit: OwnedSemaphorePermit,
}

/// One row.
pub(crate) struct Route {
    /// Its HTTP method.
    pub(crate) method: Method,
    /// Its path after the prefix, with `{names}` of segments.
    pub(crate) path: &'static str,
    /// The trait method behind it.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) summary: &'static str,
    /// How long it may take.
    pub(crate) duty: Duty,
    status: StatusCode,
    run: Run,
    describe: Describe,
}

impl Route {
    /// Describes input and answer.
    pub(crate) fn describe(&self, operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        (self.describe)(operation, self.status.as_u16(), schemas)
    }

    /// Reads the input and makes the call for a session.
    pub(crate) async fn serve(
        &self,
        caller: Caller,
        incoming: Incoming,
        limits: &ServerLimits,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response, Refusal> {
        let call = match self.duty {
            Duty::Short => limits.call,
            Duty::Long => limits.long_call,
        };
        let body = input::BodyLimits::of(limits);
        let mut response = (self.run)(caller, incoming, Bounds { call, body, permit }).await?;
        if response.status() == StatusCode::OK {
            *response.status_mut() = self.status;
        }
        Ok(response)
    }

    fn created(mut self) -> Self {
        self.status = StatusCode::CREATED;
        self
    }

    fn long(mut self) -> Self {
        self.duty = Duty::Long;
        self
    }
}

/// What a call gives, as an answer.
trait Outcome: Send + 'static {
    /// The answer of success.
    fn answer(self) -> ApiResult<Response>;
    /// Its description.
    fn describe(operation: OperationBuilder, status: u16, schemas: &mut Schemas) -> OperationBuilder;
}

/// Nothing to say.
struct Done;

impl Outcome for Done {
    fn answer(self) -> ApiResult<Response> {
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    fn describe(operation: OperationBuilder, _status: u16, _schemas: &mut Schemas) -> OperationBuilder {
        operation.response("204", ResponseBuilder::new().description("Done").build())
    }
}

/// A stream of bytes; when it fails, the connection ends before its end.
struct Streamed(SealedBackup);

impl Outcome for Streamed {
    fn answer(self) -> ApiResult<Response> {
        let mut response = Response::new(Body::from_stream(self.0));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(wire::BACKUP_TYPE));
        Ok(response)
    }

    fn describe(operation: OperationBuilder, status: u16, _schemas: &mut Schemas) -> OperationBuilder {
        let content = ContentBuilder::new().build();
        let response = ResponseBuilder::new().description("Success").content(wire::BACKUP_TYPE, content);
        operation.response(status.to_string(), response.build())
    }
}

/// A value as JSON.
struct Json<T>(T);

impl<T: Serialize + ToSchema + Send + 'static> Outcome for Json<T> {
    fn answer(self) -> ApiResult<Response> {
        let body = serde_json::to_vec(&self.0)
            .map_err(|_| ApiError::new(Code::Internal, "the answer cannot be written as JSON"))?;
        let mut response = Response::new(Body::from(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }

    fn describe(operation: OperationBuilder, status: u16, schemas: &mut Schemas) -> OperationBuilder {
        openapi::json_answer::<T>(operation, status, schemas)
    }
}

/// Makes a row.
fn route<I, O, F, Work>(method: Method, path: &'static str, name: &'static str, summary: &'static str, work: F) -> Route
where
    I: Input,
    O: Outcome,
    F: Fn(Caller, I) -> Work + Clone + Send + Sync + 'static,
    Work: Future<Output = ApiResult<O>> + Send + 'static,
{
    let run = move |caller, incoming, bounds: Bounds| -> Pending<Result<Response, Refusal>> {
        let work = work.clone();
        Box::pin(async move {
            let input = I::read(incoming, bounds.body).await?;
            let call = async move {
                let _permit = bounds.permit;
                work(caller, input).await?.answer()
            };
            Ok(detached(bounds.call, call).await?)
        })
    };
    let describe: Describe = |operation, status, schemas| O::describe(I::describe(operation, schemas), status, schemas);
    let (duty, status) = (Duty::Short, StatusCode::OK);
    Route { method, path, name, summary, duty, status, run: Box::new(run), describe }
}

/// Runs a call on a task of its own, so that a client that goes away does not cut a change in two. Ends it at the
/// limit.
async fn detached(
    limit: Duration,
    call: impl Future<Output = ApiResult<Response>> + Send + 'static,
) -> ApiResult<Response> {
    let span = tracing::Span::current();
    let bounded = async move {
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            Err(ApiError::new(Code::Temporary, format!("the coordinator did not finish within {seconds} s")))
        })
    };
    let task = tokio::spawn(tracing::Instrument::instrument(bounded, span));
    task.await.unwrap_or_else(|_| {
        tracing::error!("a call panicked");
        Err(ApiError::new(Code::Internal, "the coordinator failed at this request"))
    })
}

/// Every row.
pub(crate) fn table() -> Vec<Route> {
    let mut rows = files::rows();
    rows.extend(puts::rows());
    rows.extend(reads::rows());
    rows.extend(admin::rows());
    rows.extend(tasks::rows());
    rows
}
