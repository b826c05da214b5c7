//! Exchanges with a real Kubo: recorded through a proxy once, replayed by a server that knows nothing else.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

use super::kubo::Kubo;

/// One request, and all of its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exchange {
    method: String,
    target: String,
    status: u16,
    headers: Vec<(String, String)>,
    /// Text, or base64 where it is none.
    body: String,
    base64: bool,
    chunked: bool,
    trailers: Vec<(String, String)>,
}

/// A server on loopback that answers either by asking a real Kubo, or from a recording.
pub struct Stage {
    /// Its URL, for the RPC interface and the gateway alike.
    pub url: String,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    file: PathBuf,
    serving: tokio::task::JoinHandle<()>,
}

/// Where answers come from.
#[derive(Clone)]
enum Source {
    Real { api: String, gateway: String, rewrite: Option<(String, String)> },
    Recorded,
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

impl Stage {
    /// Records into `tests/data/kubo/NAME.json` when there is a Kubo, else replays it. The real Kubo is asked with the
    /// first text of `rewrite` replaced by the second, to provoke what the client never asks for.
    pub async fn open(name: &str, kubo: Option<&Kubo>, rewrite: Option<(&str, String)>) -> Self {
        let file = PathBuf::from(format!("{}/tests/data/kubo/{name}.json", env!("CARGO_MANIFEST_DIR")));
        let (source, known) = match kubo {
            Some(kubo) => {
                let rewrite = rewrite.map(|(from, to)| (from.to_owned(), to));
                (Source::Real { api: kubo.api.clone(), gateway: kubo.gateway.clone(), rewrite }, Vec::new())
            }
            None => (Source::Recorded, serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap()),
        };
        let exchanges = Arc::new(Mutex::new(known));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(serve(listener, source, Arc::clone(&exchanges)));
        Self { url, exchanges, file, serving }
    }

    /// Ends: writes the recording, or checks that all of it was asked for.
    pub fn close(self, recording: bool) {
        self.serving.abort();
        let exchanges = self.exchanges.lock().unwrap();
        if recording {
            std::fs::create_dir_all(self.file.parent().unwrap()).unwrap();
            std::fs::write(&self.file, serde_json::to_string_pretty(&*exchanges).unwrap() + "\n").unwrap();
        } else {
            assert!(exchanges.is_empty(), "never asked for: {exchanges:#?}");
        }
    }
}

async fn serve(listener: TcpListener, source: Source, exchanges: Arc<Mutex<Vec<Exchange>>>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let (source, exchanges) = (source.clone(), Arc::clone(&exchanges));
        let service = service_fn(move |request| answer(request, source.clone(), Arc::clone(&exchanges)));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn answer(
    request: Request<Incoming>,
    source: Source,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
) -> Result<Response<Body>, Infallible> {
    // Since when a daemon runs is no part of what a node is asked to do.
    if request.uri().path() == "/debug/metrics/prometheus" {
        let mut absent = Response::new(Body::default());
        *absent.status_mut() = StatusCode::NOT_FOUND;
        return Ok(absent);
    }
    let exchange = match source {
        Source::Real { api, gateway, rewrite } => {
            let exchange = ask(request, &api, &gateway, rewrite.as_ref()).await;
            exchanges.lock().unwrap().push(exchange.clone());
            exchange
        }
        Source::Recorded => {
            let (method, target) = (request.method().to_string(), request.uri().to_string());
            request.into_body().collect().await.unwrap();
            let mut known = exchanges.lock().unwrap();
            let found = known.iter().position(|known| known.method == method && known.target == target);
            let found = found.unwrap_or_else(|| panic!("not recorded: {method} {target}"));
            known.remove(found)
        }
    };
    Ok(exchange.into_response())
}

/// Asks the real Kubo what the client asked.
async fn ask(request: Request<Incoming>, api: &str, gateway: &str, rewrite: Option<&(String, String)>) -> Exchange {
    let (mut head, body) = request.into_parts();
    let target = head.uri.to_string();
    let asked = rewrite.map_or_else(|| target.clone(), |(from, to)| target.replace(from.as_str(), to));
    let base = if target.starts_with("/ipfs/") { gateway } else { api };
    head.uri = format!("{base}{asked}").parse().unwrap();
    head.headers.remove(hyper::header::HOST);
    let method = head.method.to_string();
    let body = Full::new(body.collect().await.unwrap().to_bytes());
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (head, body) = client.request(Request::from_parts(head, body)).await.unwrap().into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().map(listed).unwrap_or_default();
    let bytes = without_machine(&target, body.to_bytes());
    let text = String::from_utf8(bytes.to_vec());
    Exchange {
        method,
        target,
        status: head.status.as_u16(),
        headers: listed(&head.headers),
        base64: text.is_err(),
        body: text.unwrap_or_else(|_| BASE64.encode(&bytes)),
        chunked: head.headers.contains_key(TRANSFER_ENCODING),
        trailers,
    }
}

/// The headers that mean something to a client.
fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    const KEPT: [&str; 6] = ["content-type", "content-range", "date", "server", "trailer", "x-stream-error"];
    let kept = headers.iter().filter(|(name, _)| KEPT.contains(&name.as_str()));
    kept.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

/// `diag/sys` tells of the machine; only the disk is kept.
fn without_machine(target: &str, body: Bytes) -> Bytes {
    if !target.contains("diag/sys") {
        return body;
    }
    let all: serde_json::Value = serde_json::from_slice(&body).unwrap();
    json!({"diskinfo": all["diskinfo"], "ipfs_version": all["ipfs_version"]}).to_string().into()
}

impl Exchange {
    fn into_response(self) -> Response<Body> {
        let bytes = if self.base64 { BASE64.decode(self.body.as_bytes()).unwrap() } else { self.body.into_bytes() };
        let body = if self.chunked {
            let mut frames = vec![Ok(Frame::data(Bytes::from(bytes)))];
            if !self.trailers.is_empty() {
                frames.push(Ok(Frame::trailers(self.trailers.iter().map(header).collect())));
            }
            StreamBody::new(stream::iter(frames)).boxed()
        } else {
            Full::new(Bytes::from(bytes)).boxed()
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status.try_into().unwrap();
        response.headers_mut().extend(self.headers.iter().map(header));
        response
    }
}

fn header((name, value): &(String, String)) -> (HeaderName, HeaderValue) {
    (name.parse().unwrap(), value.parse().unwrap())
}
