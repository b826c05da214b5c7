//! Typed input: what a row takes from a request, read strictly and within bounds.
//!
//! Whatever is not understood is refused, never ignored: an unknown field or parameter, a query or body where none
//! belongs, bytes that are no UTF-8. A request that asks for a dry run must not be misread as the real one.

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body as RawBody, HttpBody};
use axum::extract::{FromRequestParts, Query as AxumQuery, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use utoipa::openapi::Required;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use super::super::openapi::{self, Schemas};
use super::super::problem::Refusal;
use super::super::server::ServerLimits;
use crate::api::{ApiError, Code};
use crate::client::wire;
use crate::id::UploadId;
use crate::node::GrantToken;

/// The most bytes of a name or another short text.
const MAX_TEXT_BYTES: usize = 4096;
/// The most characters of a parser's complaint that are repeated.
const MAX_COMPLAINT: usize = 300;

/// A request whose sender is known, not yet read.
pub(crate) struct Incoming {
    /// Everything but the body.
    pub(crate) parts: Parts,
    /// The body.
    pub(crate) body: RawBody,
}

/// Bounds of a body.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyLimits {
    bytes: usize,
    progress: Duration,
    total: Duration,
}

impl BodyLimits {
    pub(super) const fn of(limits: &ServerLimits) -> Self {
        Self { bytes: limits.body_bytes, progress: limits.progress, total: limits.body }
    }
}

/// What a row takes.
pub(super) trait Input: Sized + Send + 'static {
    /// Reads it.
    fn read(incoming: Incoming, limits: BodyLimits) -> impl Future<Output = Result<Self, Refusal>> + Send;
    /// Describes it.
    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder;
}

/// Bounds that types alone do not say.
pub(super) trait Check {
    /// Says what is too much.
    fn check(&self) -> Result<(), ApiError>;
}

/// The query.
pub(super) struct Query<Q>(pub(super) Q);
/// The body, as JSON.
pub(super) struct Body<B>(pub(super) B);
/// The only named segment of the path.
pub(super) struct At<S>(pub(super) S);

/// A segment that can be named in a path.
pub(super) trait Segment: FromStr + ToSchema + Send + 'static {
    /// Its name in the path.
    const NAME: &'static str;
}

impl Segment for UploadId {
    const NAME: &'static str = "id";
}

/// A node's name as people gave it.
#[derive(ToSchema)]
pub(super) struct NodeName(pub(super) String);

impl FromStr for NodeName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fine = !text.is_empty() && text.len() <= 255 && !text.chars().any(char::is_control);
        if fine { Ok(Self(text.to_owned())) } else { Err("a node's name has 1 to 255 bytes and no control characters") }
    }
}

impl Segment for NodeName {
    const NAME: &'static str = "name";
}

/// A task's number.
#[derive(ToSchema)]
pub(super) struct TaskId(pub(super) u64);

impl FromStr for TaskId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "a task has a number")
    }
}

impl Segment for TaskId {
    const NAME: &'static str = "id";
}

impl Input for () {
    async fn read(incoming: Incoming, _limits: BodyLimits) -> Result<Self, Refusal> {
        no_query(&incoming.parts)?;
        no_body(&incoming.body)
    }

    fn describe(operation: OperationBuilder, _schemas: &mut Schemas) -> OperationBuilder {
        operation
    }
}

impl<Q: DeserializeOwned + IntoParams + Check + Send + 'static> Input for Query<Q> {
    async fn read(incoming: Incoming, _limits: BodyLimits) -> Result<Self, Refusal> {
        no_body(&incoming.body)?;
        query(&incoming.parts).map(Self)
    }

    fn describe(operation: OperationBuilder, _schemas: &mut Schemas) -> OperationBuilder {
        operation.parameters(Some(Q::into_params(|| Some(ParameterIn::Query))))
    }
}

impl<B: DeserializeOwned + ToSchema + Check + Send + 'static> Input for Body<B> {
    async fn read(incoming: Incoming, limits: BodyLimits) -> Result<Self, Refusal> {
        no_query(&incoming.parts)?;
        json(&incoming.parts.headers, incoming.body, limits).await.map(Self)
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        openapi::json_body::<B>(operation, schemas)
    }
}

impl<S: Segment> Input for At<S>
where
    S::Err: std::fmt::Display,
{
    async fn read(mut incoming: Incoming, _limits: BodyLimits) -> Result<Self, Refusal> {
        no_query(&incoming.parts)?;
        no_body(&incoming.body)?;
        segment(&mut incoming.parts).await.map(Self)
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        let parameter = ParameterBuilder::new()
            .name(S::NAME)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(openapi::reference::<S>(schemas)));
        operation.parameter(parameter)
    }
}

impl<S: Segment, B: DeserializeOwned + ToSchema + Check + Send + 'static> Input for (At<S>, Body<B>)
where
    S::Err: std::fmt::Display,
{
    async fn read(mut incoming: Incoming, limits: BodyLimits) -> Result<Self, Refusal> {
        let segment = segment(&mut incoming.parts).await?;
        Ok((At(segment), Body::read(incoming, limits).await?))
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        Body::<B>::describe(At::<S>::describe(operation, schemas), schemas)
    }
}

impl<S: Segment, Q: DeserializeOwned + IntoParams + Check + Send + 'static> Input for (At<S>, Query<Q>)
where
    S::Err: std::fmt::Display,
{
    async fn read(mut incoming: Incoming, limits: BodyLimits) -> Result<Self, Refusal> {
        let segment = segment(&mut incoming.parts).await?;
        Ok((At(segment), Query::read(incoming, limits).await?))
    }

    fn describe(operation: OperationBuilder, schemas: &mut Schemas) -> OperationBuilder {
        Query::<Q>::describe(At::<S>::describe(operation, schemas), schemas)
    }
}

/// Refuses more than `most` of something.
pub(super) fn at_most(count: usize, most: usize, what: &str) -> Result<(), ApiError> {
    if count <= most {
        return Ok(());
    }
    Err(ApiError::new(Code::Usage, format!("{count} {what} are too many: at most {most} at a time")))
}

/// Refuses a page size of 0 or more than `most`.
pub(super) fn page_size(limit: u32, most: usize) -> Result<(), ApiError> {
    match usize::try_from(limit) {
        Ok(limit) if (1..=most).contains(&limit) => Ok(()),
        _ => Err(ApiError::new(Code::Usage, format!("limit is {limit}: it must be 1 to {most}"))),
    }
}

/// Refuses a long text.
pub(super) fn short(text: &str, what: &str) -> Result<(), ApiError> {
    if text.len() <= MAX_TEXT_BYTES {
        return Ok(());
    }
    Err(ApiError::new(Code::Usage, format!("{what} has {} bytes: at most {MAX_TEXT_BYTES}", text.len())))
}

/// Refuses long texts of a node: address, name, zone, gateway; and secrets: the coordinator's and the clients'.
pub(super) fn short_node(texts: [&Option<String>; 4], secrets: [&Option<GrantToken>; 2]) -> Result<(), ApiError> {
    for (text, what) in texts.into_iter().zip(["the address", "the name", "the zone", "the gateway"]) {
        short(text.as_deref().unwrap_or_default(), what)?;
    }
    for (secret, what) in secrets.into_iter().zip(["the token", "the client token"]) {
        short(secret.as_ref().map(|secret| secret.expose()).unwrap_or_default(), what)?;
    }
    Ok(())
}

fn usage(message: impl Into<String>) -> Refusal {
    ApiError::new(Code::Usage, message).into()
}

fn no_query(parts: &Parts) -> Result<(), Refusal> {
    match parts.uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(usage("this request takes no query parameters")),
    }
}

fn no_body(body: &RawBody) -> Result<(), Refusal> {
    if body.is_end_stream() { Ok(()) } else { Err(usage("this request takes no body")) }
}

async fn segment<S: Segment>(parts: &mut Parts) -> Result<S, Refusal>
where
    S::Err: std::fmt::Display,
{
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let params = params.map_err(|_| usage(format!("the {} in the path is not UTF-8", S::NAME)))?;
    let (_, text) = params.iter().next().ok_or_else(|| usage(format!("the path has no {}", S::NAME)))?;
    text.parse().map_err(|error: S::Err| usage(shortened(&error.to_string())))
}

fn query<Q: DeserializeOwned + Check>(parts: &Parts) -> Result<Q, Refusal> {
    if !is_strict(parts.uri.query().unwrap_or_default()) {
        // Decoders put a replacement character there, and so would name another file.
        return Err(usage("the query is not percent-encoded UTF-8"));
    }
    let AxumQuery(query) = AxumQuery::<Q>::try_from_uri(&parts.uri).map_err(|rejection| {
        let cause = std::error::Error::source(&rejection).map_or_else(|| rejection.to_string(), ToString::to_string);
        usage(format!("the query is wrong ({})", shortened(&cause)))
    })?;
    query.check()?;
    Ok(query)
}

/// Whether every `%` begins two hex digits, and what they stand for is UTF-8.
fn is_strict(query: &str) -> bool {
    let mut bytes = query.bytes();
    let mut decoded = Vec::with_capacity(query.len());
    let hex = |digit: Option<u8>| digit.and_then(|digit| char::from(digit).to_digit(16));
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
            return false;
        };
        decoded.push(u8::try_from(high * 16 + low).expect("two hex digits are one byte"));
    }
    std::str::from_utf8(&decoded).is_ok()
}

async fn json<B: DeserializeOwned + Check>(
    headers: &HeaderMap,
    body: RawBody,
    limits: BodyLimits,
) -> Result<B, Refusal> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") || headers.contains_key(header::CONTENT_ENCODING) {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Refusal::new(status, Code::Usage, "the body must be application/json without content encoding"));
    }
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > u64::try_from(limits.bytes).unwrap_or(u64::MAX)) {
        return Err(too_large(limits));
    }
    let bytes = tokio::time::timeout(limits.total, collect(body, limits)).await.unwrap_or_else(|_| Err(stalled()))?;
    let parsed: B = serde_json::from_slice(&bytes).map_err(|error| {
        let refusal = usage(format!("the body is not what is expected here ({})", shortened(&error.to_string())));
        match headers.get(wire::VERSION_HEADER).and_then(|value| value.to_str().ok()) {
            Some(theirs) if theirs != env!("CARGO_PKG_VERSION") => refusal.hint(format!(
                "the client is version {}, the coordinator {}: use the same on both sides",
                shortened(theirs),
                env!("CARGO_PKG_VERSION")
            )),
            _ => refusal,
        }
    })?;
    parsed.check()?;
    Ok(parsed)
}

async fn collect(mut body: RawBody, limits: BodyLimits) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    loop {
        let frame = tokio::time::timeout(limits.progress, body.frame()).await.map_err(|_| stalled())?;
        let Some(frame) = frame else { return Ok(bytes) };
        let frame = frame.map_err(|_| usage("the body ended early"))?;
        let Ok(piece) = frame.into_data() else { continue };
        if bytes.len().saturating_add(piece.len()) > limits.bytes {
            return Err(too_large(limits));
        }
        bytes.extend_from_slice(&piece);
    }
}

fn too_large(limits: BodyLimits) -> Refusal {
    let message = format!("the body has more than {} bytes", limits.bytes);
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Code::Usage, message)
}

fn stalled() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, Code::Temporary, "the body did not arrive in time")
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_COMPLAINT).collect()
}
