//! The coordinator's HTTP face: connections, sessions, limits and headers around the route table.
//!
//! Every row is behind [`Gate::session`]; only the probes and the description are open. Every wait has a limit, and so
//! has everything that a stranger can make grow. No CORS: no browser on another site may read an answer. Logs name
//! requests and routes, never tokens, bodies or people's paths.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use super::accept::{ConnectionLimits, accept};
use super::openapi;
use super::problem::Refusal;
use super::routes::{self, Duty, Incoming, Route};
use crate::admin::{Gate, Session};
use crate::api::{ApiError, Code};
use crate::client::wire;
use crate::seam::Seam;

/// The most bytes of a token that are looked at.
const MAX_TOKEN_BYTES: usize = 512;
/// The most bytes of a request's line and headers: the longest path, percent-encoded, fits three times.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long a probe may take.
const PROBE: Duration = Duration::from_secs(5);

/// What the server allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// For the call behind a request.
    pub call: Duration,
    /// For calls that work with nodes: health, gc, and adding, testing and removing a node.
    pub long_call: Duration,
    /// For a request's line and headers, and for a connection without request.
    pub header: Duration,
    /// Since the last byte of a body, in either direction.
    pub progress: Duration,
    /// For a whole request body.
    pub body: Duration,
    /// For requests under way when the server stops.
    pub stop: Duration,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Connections at a time; further ones wait.
    pub connections: usize,
    /// Calls at a time; further ones wait for `call` at most.
    pub calls: u32,
    /// Long calls at a time; further ones are refused.
    pub long_calls: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(30),
            long_call: Duration::from_secs(24 * 3600),
            header: Duration::from_secs(10),
            progress: Duration::from_secs(20),
            body: Duration::from_secs(120),
            stop: Duration::from_secs(30),
            body_bytes: wire::MAX_BODY_BYTES,
            connections: 512,
            calls: 128,
            long_calls: 16,
        }
    }
}

/// Serves until `shutdown` ends, then lets requests under way finish for at most [`ServerLimits::stop`]. The `further`
/// routes (the relay's) see to their own authority and limits. What goes wrong with one connection ends that one only.
pub async fn serve(
    listener: TcpListener,
    gate: Arc<dyn Gate>,
    further: Router,
    limits: ServerLimits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let shared = Arc::new(Shared::new(gate, limits));
    let app = app(&shared, routes::table(), further);
    let allowed = ConnectionLimits {
        connections: limits.connections,
        head: limits.header,
        progress: limits.progress,
        buffer_bytes: MAX_HEAD_BYTES,
    };
    let mut connections = accept(listener, app, allowed, shutdown).await;
    let finished = async {
        while connections.join_next().await.is_some() {}
        shared.idle().await;
    };
    if tokio::time::timeout(limits.stop, finished).await.is_err() {
        tracing::warn!("requests were still under way at the end of the time to stop");
    }
    connections.shutdown().await;
}

/// What all requests share.
struct Shared {
    gate: Arc<dyn Gate>,
    limits: ServerLimits,
    calls: Arc<Semaphore>,
    long_calls: Arc<Semaphore>,
    seam: Seam,
}

impl Shared {
    fn new(gate: Arc<dyn Gate>, limits: ServerLimits) -> Self {
        let permits = |count: u32| Arc::new(Semaphore::new(usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { gate, limits, calls: permits(limits.calls), long_calls: permits(limits.long_calls), seam: Seam::real() }
    }

    /// Waits until no call is under way, those without a client included.
    async fn idle(&self) {
        let _calls = self.calls.acquire_many(self.limits.calls).await;
        let _long = self.long_calls.acquire_many(self.limits.long_calls).await;
    }

    async fn session(&self, headers: &HeaderMap) -> Result<Arc<dyn Session>, Refusal> {
        let token = bearer(headers)?;
        let session = tokio::time::timeout(self.limits.call, self.gate.session(token)).await;
        Ok(session.map_err(|_| ApiError::new(Code::Temporary, "the coordinator is overloaded"))??)
    }

    async fn permit(&self, duty: Duty) -> Result<OwnedSemaphorePermit, Refusal> {
        if duty == Duty::Long {
            return self.long_calls.clone().try_acquire_owned().map_err(|_| {
                let error = ApiError::new(Code::Busy, "too many long calls are under way");
                error.hint("try again when one has ended").into()
            });
        }
        match tokio::time::timeout(self.limits.call, self.calls.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(ApiError::new(Code::Temporary, "the coordinator is overloaded").into()),
        }
    }

    async fn serve(&self, route: &Route, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        let entry = async { Ok((self.session(&parts.headers).await?, self.permit(route.duty).await?)) };
        let (caller, permit) = match entry.await {
            Ok(entry) => entry,
            Err(refusal) => {
                self.drain(body).await;
                return Err(refusal);
            }
        };
        route.serve(caller, Incoming { parts, body }, &self.limits, permit).await
    }
}

impl Shared {
    /// Takes a body without keeping it, within the limits: a client that is still sending when the connection closes
    /// may, on some systems, see a reset in place of the answer (RFC 9112, 9.6).
    async fn drain(&self, mut body: Body) {
        let mut left = self.limits.body_bytes;
        let drained = async {
            while let Some(Ok(frame)) = body.frame().await {
                let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { break };
                left = rest;
            }
        };
        // Whether it ended or not, the answer follows.
        let _ = tokio::time::timeout(self.limits.progress, drained).await;
    }
}

/// Names a request in answers and logs.
#[derive(Debug, Clone)]
struct RequestId(String);

/// The router over these rows.
fn app(shared: &Arc<Shared>, rows: Vec<Route>, further: Router) -> Router {
    let document = openapi::document(&rows).to_json().expect("a description is plain JSON");
    let document = Bytes::from(document);
    let described = move || {
        let document = document.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], document) }
    };
    let mut router = Router::new();
    for row in rows {
        let path = format!("{}{}", wire::API_PREFIX, row.path);
        let filter = MethodFilter::try_from(row.method.clone()).expect("rows use common methods");
        let (shared, row) = (shared.clone(), Arc::new(row));
        let handler = move |request: Request| handle(shared.clone(), row.clone(), request);
        router = router.route(&path, on(filter, handler));
    }
    let (ready, health) = (shared.clone(), shared.clone());
    let stamping = shared.clone();
    router
        .route(&format!("{}/openapi.json", wire::API_PREFIX), get(described))
        .merge(further)
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || probe(ready.clone())))
        .route("/healthz", get(move || probe(health.clone())))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn(move |request, next| stamp(stamping.clone(), request, next)))
}

async fn handle(shared: Arc<Shared>, row: Arc<Route>, request: Request) -> Response {
    let id = id_of(&request);
    let started = Instant::now();
    let span = tracing::info_span!("request", id = %id, method = %row.method, route = row.path);
    async {
        let outcome = shared.serve(&row, request).await;
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(response) => {
                tracing::info!(status = response.status().as_u16(), ms, "answered");
                response
            }
            Err(refusal) => {
                let code = refusal.code().as_str();
                let response = refusal.answer(&id);
                tracing::info!(status = response.status().as_u16(), code, ms, "refused");
                response
            }
        }
    }
    .instrument(span)
    .await
}

fn id_of(request: &Request) -> String {
    request.extensions().get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default()
}

async fn no_route(request: Request) -> Response {
    Refusal::new(StatusCode::NOT_FOUND, Code::NotFound, "there is no such route").answer(&id_of(&request))
}

async fn no_method(request: Request) -> Response {
    let message = format!("this route does not take {}", request.method());
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Code::Usage, message).answer(&id_of(&request))
}

/// Whether the coordinator can work, and nothing else.
async fn probe(shared: Arc<Shared>) -> Response {
    match tokio::time::timeout(PROBE, shared.gate.ready()).await {
        Ok(Ok(())) => "ok\n".into_response(),
        Ok(Err(_)) | Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

/// Names the request, and puts on its answer what every answer carries.
async fn stamp(shared: Arc<Shared>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers()).unwrap_or_else(|| data_encoding::HEXLOWER.encode(&shared.seam.bytes::<8>()));
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: HeaderValue| {
        headers.insert(HeaderName::from_static(name), value);
    };
    set(wire::VERSION_HEADER, HeaderValue::from_static(env!("CARGO_PKG_VERSION")));
    set("x-content-type-options", HeaderValue::from_static("nosniff"));
    set("cache-control", HeaderValue::from_static("no-store"));
    set("content-security-policy", HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    set("referrer-policy", HeaderValue::from_static("no-referrer"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        set(wire::REQUEST_ID_HEADER, id);
    }
    response
}

/// The client's own name for the request, if it is harmless: 1 to 64 letters, digits, `.`, `_` and `-`.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(wire::REQUEST_ID_HEADER)?.to_str().ok()?;
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (!id.is_empty() && id.len() <= 64 && id.bytes().all(harmless)).then(|| id.to_owned())
}

/// The token of the only `Authorization` header.
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let missing = || ApiError::new(Code::NotSignedIn, "this request needs a token").hint("bytenode login");
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(missing().into());
    };
    let malformed =
        || ApiError::new(Code::NotSignedIn, "the Authorization header is not a bearer token").hint("bytenode login");
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(malformed)?;
    // RFC 6750: b64token.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let fine = !token.is_empty() && token.len() <= MAX_TOKEN_BYTES && token.bytes().all(allowed);
    if fine && scheme.eq_ignore_ascii_case("bearer") { Ok(token) } else { Err(malformed().into()) }
}
