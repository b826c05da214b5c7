//! The server and the client together, over real sockets, with a scripted coordinator behind them.

mod described;
mod fixture;
mod hostile;
mod lifecycle;
mod logs;
mod round_trip;
mod script;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{ServerLimits, serve};
use crate::client::{Client, ClientLimits};
use crate::node::GrantToken;
use script::{Script, TOKEN};

/// A server under test. It stops when dropped.
struct Served {
    address: SocketAddr,
    script: Arc<Script>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Served {
    async fn new(limits: ServerLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Script::default());
        let gate: Arc<dyn crate::admin::Gate> = Arc::new(script::Door(script.clone()));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, gate, axum::Router::new(), limits, async { drop(stopped.await) }));
        Self { address, script, stop: Some(stop), task }
    }

    async fn usual() -> Self {
        Self::new(ServerLimits::default()).await
    }

    fn client(&self) -> Client {
        client_at(self.address, ClientLimits::default())
    }

    /// Sends bytes as they are, and reads until the server closes.
    async fn raw(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before it has taken everything.
        let _ = stream.write_all(request.as_ref()).await;
        read_reply(&mut stream).await
    }

    /// Sends a request with the right token, and a JSON body if it is not empty.
    async fn request(&self, line: &str, body: &str) -> Reply {
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n{kind}\
             Content-Length: {length}\r\n\r\n"
        );
        self.raw(head + body).await
    }
}

fn client_at(address: SocketAddr, limits: ClientLimits) -> Client {
    Client::new(&format!("http://{address}"), GrantToken::new(TOKEN.to_owned()), limits).unwrap()
}

/// An answer as text.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Checks that it is a problem in full, and gives its code.
    fn problem(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["status"], self.status, "{self:?}");
        let id = json["request_id"].as_str().unwrap();
        assert!(
            !id.is_empty() && self.head.contains(&format!("x-request-id: {}\r\n", id.to_ascii_lowercase())),
            "{self:?}"
        );
        let code = json["code"].as_str().unwrap();
        assert_eq!(json["type"], format!("urn:bytenode:problem:{code}"));
        assert!(json["title"].is_string() && json["detail"].is_string());
        code.to_owned()
    }
}

async fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    // A reset after the answer is no failure of the answer.
    let _ = read.expect("the server answers and closes");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head: format!("{}\r\n", head.to_ascii_lowercase()), body: body.to_owned() }
}
