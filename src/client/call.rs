//! One call over HTTP: the request, its limits and repetitions, and what its answer means.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use url::Url;

use super::{ClientLimits, wire, wrong_answer};
use crate::api::{ApiError, ApiResult, Code, NodeAddress, NodeKind};
use crate::failpoint::{Step, reached};
use crate::machine::is_loopback;
use crate::node::GrantToken;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The wait before the first repetition; each further one waits twice as long, up to [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How often a call to a coordinator that has not answered yet is sent again after its connection dropped.
const FIRST_REPEATS: u32 = 2;
/// Less than the time after which the server closes an idle connection, so that a call seldom meets a closing one.
const IDLE: Duration = Duration::from_secs(5);
/// The most characters of a foreign text that an error quotes.
const QUOTED: usize = 2000;

/// Whether a call may be sent again when nobody knows if it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    Safe,
    Never,
}

/// Which limit a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    Call,
    Long,
}

/// A call to be sent.
pub(super) struct Call<'a> {
    method: Method,
    segments: &'a [&'a str],
    query: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    repeat: Repeat,
    patience: Patience,
}

impl<'a> Call<'a> {
    pub(super) const fn new(method: Method, segments: &'a [&'a str], repeat: Repeat) -> Self {
        Self { method, segments, query: Vec::new(), body: None, repeat, patience: Patience::Call }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    pub(super) fn query_some(self, name: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    pub(super) fn body(mut self, body: &impl Serialize) -> ApiResult<Self> {
        let bytes = serde_json::to_vec(body)
            .map_err(|error| ApiError::new(Code::Usage, format!("the request cannot be written as JSON ({error})")))?;
        if bytes.len() > wire::MAX_BODY_BYTES {
            let most = wire::MAX_BODY_BYTES;
            return Err(ApiError::new(Code::Usage, format!("the request has more than {most} bytes"))
                .hint("send fewer or shorter paths at a time"));
        }
        self.body = Some(bytes.into());
        Ok(self)
    }

    pub(super) const fn patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }
}

/// Why an attempt gave no answer.
enum Lost {
    /// There was no connection: it was not done.
    Refused(String),
    /// The connection dropped: it may have been done or not.
    Dropped(String),
    /// Sending again would not help.
    Final(ApiError),
}

/// Says where a coordinator is now; nothing while it does not run.
pub type Locate = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A coordinator elsewhere, as one signed-in user sees it. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Where it was last.
    base: Arc<Mutex<Url>>,
    locate: Option<Locate>,
    authorization: HeaderValue,
    limits: ClientLimits,
    /// Whether the coordinator has answered.
    answered: Arc<AtomicBool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.base().as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the coordinator at `url`. Contacts nobody.
    ///
    /// # Errors
    /// [`Code::Usage`] when the address is not `http://` on loopback, has more than host and port, or when the token
    /// cannot be sent in a header.
    pub fn new(url: &str, token: GrantToken, limits: ClientLimits) -> Result<Self, ApiError> {
        let base = coordinator_url(url)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
            .map_err(|_| ApiError::new(Code::Usage, "the token has characters that no token has"))?;
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(wire::VERSION_HEADER, HeaderValue::from_static(VERSION));
        let port = base.port_or_known_default().unwrap_or_default();
        let loopback = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .http1_only()
            .default_headers(headers)
            .user_agent(concat!("bytenode/", env!("CARGO_PKG_VERSION")))
            // Whatever the machine's resolver says, the token does not leave this machine.
            .resolve_to_addrs("localhost", &loopback)
            .connect_timeout(limits.connect)
            .pool_idle_timeout(IDLE)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .build()
            .map_err(|error| ApiError::new(Code::Internal, format!("no HTTP client can be made ({error})")))?;
        Ok(Self {
            http,
            base: Arc::new(Mutex::new(base)),
            locate: None,
            authorization,
            limits,
            answered: Arc::default(),
        })
    }

    /// The same client, which asks before each attempt where the coordinator is: it follows one that was started again
    /// elsewhere, and gives its token to nobody who listens where the coordinator was.
    #[must_use]
    pub fn following(self, locate: Locate) -> Self {
        Self { locate: Some(locate), ..self }
    }

    fn base(&self) -> Url {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the coordinator, where it may have moved.
    fn find(&self) -> Result<(), Lost> {
        let Some(locate) = &self.locate else { return Ok(()) };
        let found = locate().ok_or_else(|| Lost::Refused("it does not run".to_owned()))?;
        let found = coordinator_url(&found).map_err(Lost::Final)?;
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    /// Makes the addresses of relayed nodes whole: they are paths on the coordinator, which stands for the node as a
    /// built-in one does and takes nothing but grants.
    pub(super) fn resolve(&self, nodes: &mut [NodeAddress]) {
        let base = self.base();
        let base = base.as_str().trim_end_matches('/');
        for node in nodes.iter_mut().filter(|node| node.url.starts_with('/')) {
            node.gateway = format!("{base}{}", node.url);
            node.url.insert_str(0, base);
            node.kind = NodeKind::Builtin;
            node.authorization = None;
        }
    }

    /// Sends a call, again if it may be and its connection drops, and reads the answer, all within its limit.
    pub(super) async fn send<T: DeserializeOwned>(&self, call: Call<'_>) -> ApiResult<T> {
        let limit = self.limit(&call);
        let attempts = self.attempts(&call);
        let Ok(result) = tokio::time::timeout(limit, attempts).await else {
            return Err(self.unanswered(&format!("did not answer within {} s", limit.as_secs())));
        };
        parse(&result?)
    }

    /// Sends a call once and gives its answer piece by piece: the first within the call's limit, each further one within
    /// that of a short call.
    pub(super) async fn stream(
        &self,
        call: Call<'_>,
        media_type: &str,
    ) -> ApiResult<BoxStream<'static, ApiResult<Bytes>>> {
        let limit = self.limit(&call);
        let begun = async {
            let response = self.request(&call)?.send().await.map_err(Self::lost)?;
            let head = Answer::of(&response, Vec::new());
            if head.status.is_success() && head.version.is_some() && head.media_type == media_type {
                return Ok(Ok(response));
            }
            self.whole(response).await.map(Err)
        };
        let Ok(begun) = tokio::time::timeout(limit, begun).await else {
            return Err(self.unanswered(&format!("did not answer within {} s", limit.as_secs())));
        };
        let response = match begun.map_err(|lost| self.given_up(lost))? {
            Ok(response) => response,
            Err(answer) if answer.status.is_success() => return Err(answer.unreadable("it is of another type")),
            Err(answer) => return Err(problem(&answer)),
        };
        let next = |(client, response): (Self, Option<Response>)| async {
            let mut response = response?;
            let piece = tokio::time::timeout(client.limits.call, response.chunk()).await;
            let failed = match piece {
                Ok(Ok(piece)) => return Some((Ok(piece?), (client, Some(response)))),
                Ok(Err(error)) => client.given_up(Self::lost(error)),
                Err(_) => client.unanswered(&format!("sent nothing for {} s", client.limits.call.as_secs())),
            };
            Some((Err(failed), (client, None)))
        };
        Ok(Box::pin(stream::unfold((self.clone(), Some(response)), next)))
    }

    async fn attempts(&self, call: &Call<'_>) -> ApiResult<Answer> {
        let (begun, mut pause, mut sent) = (Instant::now(), FIRST_PAUSE, 0);
        loop {
            reached(Step::Call);
            let attempt = self.attempt(call).await;
            reached(Step::Call);
            let lost = match attempt {
                Ok(answer) => {
                    self.answered.store(true, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(lost) => lost,
            };
            sent += 1;
            // Who never answered may well not run at all; who did is perhaps being started again.
            let known = self.answered.load(Ordering::Relaxed);
            let patient = known && begun.elapsed() < self.limits.away;
            let again = match lost {
                Lost::Final(_) => false,
                Lost::Refused(_) => patient,
                Lost::Dropped(_) => call.repeat == Repeat::Safe && (patient || (!known && sent <= FIRST_REPEATS)),
            };
            if !again {
                return Err(self.given_up(lost));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Answer, Lost> {
        let response = self.request(call)?.send().await.map_err(Self::lost)?;
        self.whole(response).await
    }

    fn limit(&self, call: &Call<'_>) -> Duration {
        match call.patience {
            Patience::Call => self.limits.call,
            Patience::Long => self.limits.long_call,
        }
    }

    fn request(&self, call: &Call<'_>) -> Result<RequestBuilder, Lost> {
        self.find()?;
        let request = self.http.request(call.method.clone(), self.url_of(call).map_err(Lost::Final)?);
        let request = request.header(AUTHORIZATION, self.authorization.clone());
        Ok(match &call.body {
            Some(body) => request.header(CONTENT_TYPE, "application/json").body(body.clone()),
            None => request,
        })
    }

    /// Reads an answer to its end.
    async fn whole(&self, mut response: Response) -> Result<Answer, Lost> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(Self::lost)? {
            if body.len().saturating_add(piece.len()) > self.limits.answer_bytes {
                let most = self.limits.answer_bytes;
                return Err(Lost::Final(wrong_answer(format!("the coordinator's answer has more than {most} bytes"))));
            }
            body.extend_from_slice(&piece);
        }
        Ok(Answer::of(&response, body))
    }

    fn lost(error: reqwest::Error) -> Lost {
        let connecting = error.is_connect();
        let why = deepest(&error.without_url());
        if connecting { Lost::Refused(why) } else { Lost::Dropped(why) }
    }

    /// What is said of an attempt that is not repeated.
    fn given_up(&self, lost: Lost) -> ApiError {
        match lost {
            Lost::Final(error) => error,
            Lost::Refused(why) => self.unanswered(&format!("does not answer ({why})")).hint("bytenode up"),
            Lost::Dropped(why) => self.unanswered(&format!("dropped the connection ({why})")),
        }
    }

    fn unanswered(&self, what: &str) -> ApiError {
        ApiError::new(
            Code::Temporary,
            format!("the coordinator at {} {what}", self.base().as_str().trim_end_matches('/')),
        )
    }

    fn url_of(&self, call: &Call<'_>) -> ApiResult<Url> {
        // A URL drops these segments, so the call would become another one.
        if let Some(name) = call.segments.iter().find(|segment| matches!(**segment, "" | "." | "..")) {
            return Err(ApiError::new(Code::Usage, format!("{name:?} is no name")));
        }
        let mut url = self.base();
        url.path_segments_mut()
            .map_err(|()| ApiError::new(Code::Internal, "the coordinator's address has no path"))?
            .clear()
            .extend(["api", "v1"])
            .extend(call.segments);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }
}

/// What came back, not yet judged.
struct Answer {
    status: StatusCode,
    media_type: String,
    version: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn of(response: &Response, body: Vec<u8>) -> Self {
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let media_type = text("content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let version = text(wire::VERSION_HEADER).map(quoted);
        Self { status: response.status(), media_type, version, body }
    }

    /// An answer that cannot be read: says so, and whether another version may be why.
    fn unreadable(&self, why: &str) -> ApiError {
        match self.version.as_deref() {
            None => {
                wrong_answer(format!("what answers is not a ByteNode coordinator (status {})", self.status.as_u16()))
                    .hint("check the address: bytenode login URL")
            }
            Some(VERSION) => wrong_answer(format!("the coordinator's answer cannot be read ({why})")),
            Some(other) => wrong_answer(format!(
                "the coordinator is version {other}, this is {VERSION}, and its answer cannot be read ({why})"
            ))
            .hint("use the same version of ByteNode on both sides"),
        }
    }
}

fn parse<T: DeserializeOwned>(answer: &Answer) -> ApiResult<T> {
    if !answer.status.is_success() {
        return Err(problem(answer));
    }
    let body: &[u8] = if answer.status == StatusCode::NO_CONTENT { b"null" } else { &answer.body };
    if answer.version.is_none() || (answer.status != StatusCode::NO_CONTENT && answer.media_type != "application/json")
    {
        return Err(answer.unreadable("it is not JSON"));
    }
    // serde_json's own text quotes at most a token of the answer; its place is enough and cannot be a secret.
    serde_json::from_slice(body).map_err(|error| {
        answer.unreadable(&format!("unexpected JSON at line {} column {}", error.line(), error.column()))
    })
}

/// The error that a refusal carries; one made from the status where it carries none.
fn problem(answer: &Answer) -> ApiError {
    let parsed = (answer.media_type == wire::PROBLEM_TYPE)
        .then(|| serde_json::from_slice::<wire::Problem>(&answer.body).ok())
        .flatten();
    let mut error = match parsed {
        Some(problem) => {
            let named = serde_json::from_value(serde_json::Value::String(problem.code));
            let code = named.unwrap_or_else(|_| code_of(answer.status));
            ApiError { code, message: quoted(&problem.detail), hint: problem.hint.as_deref().map(quoted) }
        }
        None => {
            let mut error = answer.unreadable("it is not a problem description");
            error.code = code_of(answer.status);
            error
        }
    };
    if error.code == Code::NotSignedIn && error.hint.is_none() {
        error.hint = Some("bytenode login".to_owned());
    }
    error
}

fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        401 => Code::NotSignedIn,
        403 => Code::NotAllowed,
        404 => Code::NotFound,
        409 => Code::Changed,
        408 | 429 | 502..=504 => Code::Temporary,
        400..=499 => Code::Usage,
        _ => Code::Internal,
    }
}

/// A foreign text, shortened.
fn quoted(text: &str) -> String {
    text.chars().take(QUOTED).collect()
}

/// The text of the first cause, which says most.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    quoted(&cause.to_string())
}

/// Reads a coordinator's address.
fn coordinator_url(text: &str) -> ApiResult<Url> {
    let refuse = |why: &str| ApiError::new(Code::Usage, format!("the coordinator's address {why}"));
    let url = Url::parse(text)
        .map_err(|error| refuse(&format!("is not a URL ({error})")).hint("give it like http://127.0.0.1:7420"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("must not contain a user or password"));
    }
    if url.scheme() != "http" || !is_loopback(url.as_str()) {
        let port = url.port().unwrap_or(7420);
        let host = url.host_str().unwrap_or("HOST");
        return Err(refuse(&format!(
            "must be http:// on this machine until TLS is supported, not {}://{host}",
            url.scheme()
        ))
        .hint(format!("ssh -L {port}:127.0.0.1:{port} {host}, then use http://127.0.0.1:{port}")));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("must be only host and port").hint("give it like http://127.0.0.1:7420"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relayed_node_is_at_the_coordinator_and_any_other_where_it_says() {
        let client = Client::new("http://127.0.0.1:7420", GrantToken::new("t".to_owned()), ClientLimits::default());
        let secret = Some(GrantToken::new("bearer:x".to_owned()));
        let address = |url: &str| NodeAddress {
            id: "n1".parse().unwrap(),
            name: "one".to_owned(),
            kind: NodeKind::Kubo,
            url: url.to_owned(),
            gateway: url.to_owned(),
            authorization: secret.clone(),
        };
        let mut nodes = [address("/relay/n1"), address("//elsewhere/n1"), address("http://10.0.0.1:5001")];
        let direct = nodes[2].clone();
        client.unwrap().resolve(&mut nodes);
        assert_eq!(nodes[2], direct);
        for (node, url) in nodes.iter().zip(["/relay/n1", "//elsewhere/n1"]) {
            let url = format!("http://127.0.0.1:7420{url}");
            assert_eq!((&node.url, &node.gateway), (&url, &url));
            assert_eq!((node.kind, &node.authorization), (NodeKind::Builtin, &None));
        }
    }
}
