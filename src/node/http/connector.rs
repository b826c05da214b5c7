//! Connections to a node; to a built-in one, only after it proved who it is.
//!
//! A built-in node's identity is a public key. Each new connection begins with a number that was never used before, which
//! the other end must have signed with that key; until then nothing else goes over it, above all no grant and no join
//! code. The proof is bound to the connection, so it is asked for again whenever there is a new one: after a failure, a
//! restart, or when another program has taken the node's port.
//!
//! It protects from whoever took a node's address without its key. It does not protect from one who stands between and
//! passes everything on to the real node: without TLS the proof goes through it, and so does what follows. Kubo cannot
//! be asked for such a proof.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;

use super::credential::Authorization;
use super::limits::seconds;
use super::wire;
use crate::grant::{Nonce, PublicKey};
use crate::id::NodeId;
use crate::node::NodeFailure;
use crate::seam::Seam;

type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;
type BoxError = Box<dyn Error + Send + Sync>;

/// Who must be at the other end of every connection.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// Its key.
    pub(super) key: PublicKey,
    /// What its interface is below: the path of `id`.
    pub(super) path: String,
    /// How long it may take to answer.
    pub(super) within: Duration,
    /// Where numbers come from.
    pub(super) seam: Seam,
}

/// Makes connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    inner: HttpsConnector<HttpConnector>,
    expected: Option<Arc<Expected>>,
}

impl Connector {
    /// One that asks for a proof if somebody is expected.
    pub(super) fn new(inner: HttpsConnector<HttpConnector>, expected: Option<Expected>) -> Self {
        Self { inner, expected: expected.map(Arc::new) }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.inner.call(to.clone());
        let expected = self.expected.clone();
        Box::pin(async move {
            let stream = connecting.await?;
            match expected {
                None => Ok(stream),
                Some(expected) => Ok(expected.prove(stream, &to).await?),
            }
        })
    }
}

impl Expected {
    /// Gives the connection back once the other end has proved that it is the expected one.
    async fn prove(&self, stream: Stream, to: &Uri) -> Result<Stream, NodeFailure> {
        let late = NodeFailure::Timeout { seconds: seconds(self.within), doing: "proving who it is" };
        timeout(self.within, self.ask(stream, to)).await.unwrap_or(Err(late))
    }

    async fn ask(&self, stream: Stream, to: &Uri) -> Result<Stream, NodeFailure> {
        let nonce = Nonce(self.seam.bytes());
        let (mut sender, mut connection) = http1::handshake(stream).await.map_err(broke_off)?;
        let request = self.request(&nonce, to)?;
        let asked = async move {
            let answer = sender.send_request(request).await.map_err(broke_off)?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, wire::MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|_| NodeFailure::Answer("an identity that breaks off".to_owned()))?;
            Ok((head.status, body.to_bytes()))
        };
        let driven = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx));
        let (answer, ended) = tokio::join!(asked, driven);
        let (status, body) = answer?;
        self.judge(status, &body, &nonce)?;
        ended.map_err(broke_off)?;
        Ok(connection.into_parts().io)
    }

    fn request(&self, nonce: &Nonce, to: &Uri) -> Result<Request<Empty<Bytes>>, NodeFailure> {
        let no_url = || NodeFailure::Unreachable("its address is no URL".to_owned());
        let host = to.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()).ok_or_else(no_url)?;
        let uri: Uri = format!("{}?nonce={nonce}", self.path).parse().map_err(|_| no_url())?;
        let mut request = Request::post(uri).body(Empty::new()).map_err(|_| no_url())?;
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static(super::AGENT));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        Ok(request)
    }

    fn judge(&self, status: StatusCode, body: &[u8], nonce: &Nonce) -> Result<(), NodeFailure> {
        if status != StatusCode::OK {
            return Err(wire::failure(status, Authorization::default().tell(&wire::message(body))));
        }
        let expected = self.key.node_id();
        let said: wire::Identity = serde_json::from_slice(body).map_err(|_| NodeFailure::Unproved(expected.clone()))?;
        match said.id.parse::<NodeId>() {
            Ok(found) if found != expected => Err(NodeFailure::OtherIdentity { found }),
            Ok(_) if said.proof.is_some_and(|proof| self.key.is_proved(nonce, &proof)) => Ok(()),
            _ => Err(NodeFailure::Unproved(expected)),
        }
    }
}

fn broke_off(_: hyper::Error) -> NodeFailure {
    NodeFailure::Unreachable("the connection broke off before it proved who it is".to_owned())
}
