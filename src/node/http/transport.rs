//! One exchange with a node: every phase within its limit, every answer read to its end, trailers included.
//!
//! hyper itself rather than a client above it, because Kubo tells of failures after the first byte only in a trailer.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TE, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout, timeout_at};

use super::connector::{Connector, Expected};
use super::credential::Authorization;
use super::incoming::Coming;
use super::limits::{Limits, seconds};
use super::upload::{Phase, Progress, Upload};
use super::wire;
use crate::node::NodeFailure;

/// How long a connection that is not used is kept.
const IDLE: Duration = Duration::from_secs(30);
/// The most connections that are kept for a node.
const IDLE_CONNECTIONS: usize = 16;
/// The most bytes of an error answer that are looked at.
const MAX_ERROR_BYTES: usize = 16 << 10;
/// The most lines of a listing: beyond any store, and so that an answer without end ends.
const MAX_LINES: u64 = 1 << 26;

/// A request.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// What to call the host, where that is not the address.
    pub(super) host: Option<HeaderValue>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) pieces: Vec<Bytes>,
    /// What follows them later.
    pub(super) coming: Option<Coming>,
    pub(super) authorization: Authorization,
    /// From the end of the request to the head of the answer.
    pub(super) answer_within: Duration,
    pub(super) doing: &'static str,
}

/// Connections to one node.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: Client<Connector, Upload>,
    limits: Limits,
}

impl Transport {
    /// Makes a pool of connections, all to the expected node if one is; connects nowhere.
    pub(super) fn new(limits: Limits, expected: Option<Expected>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(limits.connect));
        tcp.set_keepalive(Some(IDLE));
        // A connection whose peer takes nothing any more ends even if nobody waits for it, and with it what it holds.
        #[cfg(any(target_os = "android", target_os = "linux"))]
        tcp.set_tcp_user_timeout(Some(limits.progress * 2));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
            .with_webpki_roots()
            .with_no_client_auth();
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(Connector::new(https, expected));
        Self { client, limits }
    }

    /// Sends a request and waits for the head of the answer, whatever its status.
    pub(super) async fn send(&self, ask: Ask) -> Result<Answer, NodeFailure> {
        let Ask { doing, answer_within, .. } = ask;
        let authorization = ask.authorization.clone();
        let (request, progress) = request(ask)?;
        let started = Instant::now();
        let mut response = std::pin::pin!(self.client.request(request));
        loop {
            let (deadline, limit, doing) = self.deadline(&progress, started, answer_within, doing);
            if deadline <= Instant::now() {
                return Err(NodeFailure::Timeout { seconds: seconds(limit), doing });
            }
            // Once it connects, the limit of what follows may end earlier, but never before this.
            let look = deadline.min(Instant::now() + self.limits.progress);
            match timeout_at(look, &mut response).await {
                Ok(Ok(response)) => return Ok(Answer::new(response, self.limits, doing, authorization)),
                Ok(Err(error)) => return Err(self.failure(&error, &authorization)),
                // The body may have moved on meanwhile, and the deadline with it.
                Err(_) => {}
            }
        }
    }

    fn deadline(
        &self,
        progress: &Progress,
        started: Instant,
        answer: Duration,
        doing: &'static str,
    ) -> (Instant, Duration, &'static str) {
        match progress.phase() {
            Phase::Connecting => (started + self.limits.connect + answer, answer, doing),
            Phase::Sending(last) => (last + self.limits.progress, self.limits.progress, "taking what is sent"),
            // Whoever sends is waited for, not the node.
            Phase::Waiting => (Instant::now() + self.limits.progress, self.limits.progress, doing),
            Phase::Sent(last) => (last + answer, answer, doing),
        }
    }

    fn failure(&self, error: &hyper_util::client::legacy::Error, authorization: &Authorization) -> NodeFailure {
        let connecting = error.is_connect();
        let mut text = None;
        let mut source: Option<&(dyn Error + 'static)> = error.source();
        while let Some(error) = source {
            if let Some(failure) = error.downcast_ref::<NodeFailure>() {
                return failure.clone();
            }
            let io = error.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut) {
                // The system gives up a connection whose peer takes nothing, too.
                let (limit, doing) = if connecting {
                    (self.limits.connect, "connecting")
                } else {
                    (self.limits.progress, "taking what is sent")
                };
                return NodeFailure::Timeout { seconds: seconds(limit), doing };
            }
            text = Some(io.map_or_else(|| error.to_string(), words));
            source = error.source();
        }
        NodeFailure::Unreachable(authorization.tell(&text.unwrap_or_else(|| error.to_string())))
    }
}

/// What the system says went wrong, without the number, which is for programs.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error().and_then(|number| text.strip_suffix(&format!(" (os error {number})"))) {
        Some(words) => words.to_lowercase(),
        None => text,
    }
}

fn request(ask: Ask) -> Result<(Request<Upload>, Progress), NodeFailure> {
    let (body, progress) = Upload::new(ask.pieces, ask.coming);
    let mut request = Request::new(body);
    *request.method_mut() = ask.method;
    *request.uri_mut() = ask.uri;
    let headers = request.headers_mut();
    headers.extend(ask.headers);
    headers.insert(USER_AGENT, HeaderValue::from_static(super::AGENT));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let optional =
        [(HOST, ask.host), (CONTENT_TYPE, ask.content_type), (AUTHORIZATION, ask.authorization.header().cloned())];
    for (name, value) in optional {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    Ok((request, progress))
}

/// An answer whose body is still to be read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    trailers: Option<HeaderMap>,
    limits: Limits,
    doing: &'static str,
    /// What permitted the request: it must not show in what is made of the answer.
    pub(super) authorization: Authorization,
}

impl Answer {
    fn new(
        response: hyper::Response<Incoming>,
        limits: Limits,
        doing: &'static str,
        authorization: Authorization,
    ) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status, headers: head.headers, body, trailers: None, limits, doing, authorization }
    }

    /// The answer if its status is 200 or 206, else what it says went wrong.
    pub(super) async fn good(self) -> Result<Self, NodeFailure> {
        match self.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(self),
            _ => Err(self.refusal().await),
        }
    }

    /// What an error answer says.
    pub(super) async fn refusal(mut self) -> NodeFailure {
        let mut text = BytesMut::new();
        while text.len() < MAX_ERROR_BYTES {
            match self.next().await {
                Ok(Some(piece)) => text.extend_from_slice(&piece[..piece.len().min(MAX_ERROR_BYTES)]),
                Ok(None) => break,
                Err(_) if !text.is_empty() => break,
                Err(failure) => return failure,
            }
        }
        let message = wire::message(&text);
        wire::failure(self.status, self.authorization.tell(&message))
    }

    /// The whole body, which must not be longer than `most`; small answers as a whole within the progress limit.
    pub(super) async fn collect(mut self, most: usize) -> Result<Bytes, NodeFailure> {
        let limit = self.limits.progress;
        let doing = self.doing;
        let whole = async {
            let mut out = BytesMut::new();
            while let Some(piece) = self.next().await? {
                if out.len() + piece.len() > most {
                    return Err(NodeFailure::Answer(format!("more than {most} bytes")));
                }
                out.extend_from_slice(&piece);
            }
            Ok(out.freeze())
        };
        timeout(limit, whole).await.unwrap_or(Err(NodeFailure::Timeout { seconds: seconds(limit), doing }))
    }

    /// Hands out every line of the body, of which no more than one is held; a line longer than `most` bytes is an error,
    /// and so is a body that brings its lines too slowly.
    pub(super) async fn each_line(
        mut self,
        most: usize,
        each: &mut (dyn FnMut(&[u8]) -> Result<(), NodeFailure> + Send),
    ) -> Result<(), NodeFailure> {
        let mut rest = BytesMut::new();
        let (began, mut lines) = (Instant::now(), 0);
        loop {
            let (limits, doing) = (self.limits, self.doing);
            let late = |_| NodeFailure::Timeout { seconds: seconds(limits.listing(lines)), doing };
            let Some(piece) = timeout_at(began + limits.listing(lines), self.next()).await.map_err(late)?? else {
                break;
            };
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n').filter(|end| *end <= most) {
                lines += 1;
                each(&rest.split_to(end + 1)[..end])?;
            }
            if rest.len() > most || lines > MAX_LINES {
                return Err(NodeFailure::Answer("a listing without end".to_owned()));
            }
        }
        if rest.is_empty() { Ok(()) } else { each(&rest) }
    }

    /// The next piece of the body; nothing at its end, which is an error if a trailer says so.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, NodeFailure> {
        loop {
            let progress = self.limits.progress;
            let frame = timeout(progress, self.body.frame())
                .await
                .map_err(|_| NodeFailure::Timeout { seconds: seconds(progress), doing: self.doing })?;
            match frame {
                None => return self.end(),
                Some(Err(error)) => {
                    let text = self.authorization.tell(&format!("the answer broke off: {error}"));
                    return Err(NodeFailure::Unreachable(text));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }

    fn end(&self) -> Result<Option<Bytes>, NodeFailure> {
        let said = self.trailers.as_ref().and_then(|trailers| trailers.get("x-stream-error"));
        match said.filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => {
                let text = self.authorization.tell(&String::from_utf8_lossy(text.as_bytes()));
                Err(wire::failure(StatusCode::INTERNAL_SERVER_ERROR, text))
            }
        }
    }
}
