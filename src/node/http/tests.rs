//! The HTTP node against servers that answer what a test says: hostile, late, broken, or like a built-in node.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::grant::SigningKey;
use crate::id::{PackId, PoolId};
use crate::pack::PackEntry;

/// What a server does with a request.
#[derive(Clone)]
enum Reply {
    /// Writes this and closes.
    Raw(String),
    /// Writes this and then nothing, for ever.
    Stall(String),
    /// Says who it is and what time it is for it, and refuses everything else.
    Late(Timestamp),
    /// Writes this again and again.
    Endless(&'static str),
    /// Writes this again and again, with a pause after each.
    Drip(&'static str),
}

/// A server on loopback with one reply for everything, and the heads of the requests it saw.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let heads = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, reply.clone(), Arc::clone(&heads)));
            }
        });
        Self { url, seen }
    }

    fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn node(&self, kind: NodeKind, credential: Credential) -> Arc<HttpNode> {
        let short = Duration::from_millis(300);
        let proves = matches!(credential, Credential::Mint(_));
        HttpNode::new(HttpNodeOptions {
            name: "n".to_owned(),
            expected_id: proves.then(|| key().public().node_id()),
            kind,
            url: self.url.clone(),
            gateway: self.url.clone(),
            credential,
            limits: Limits { connect: short, first_byte: short, progress: short, pin: short, pin_per_mib: short },
            seam: Seam::real(),
        })
        .unwrap()
    }

    fn kubo(&self) -> Arc<HttpNode> {
        self.node(NodeKind::Kubo, Credential::None)
    }
}

/// The key of every server that is taken for a built-in node.
fn key() -> SigningKey {
    SigningKey::from_seed(&[4; 32])
}

async fn serve(mut socket: TcpStream, reply: Reply, heads: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    let head = loop {
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).into_owned();
            let nonce = head.split([' ', '=']).nth(2).filter(|_| head.starts_with("POST /api/v0/id?nonce="));
            let Some(nonce) = nonce else { break head };
            let proof = key().prove(&nonce.parse().unwrap());
            let body = format!("{{\"ID\":\"{}\",\"Proof\":\"{proof}\"}}", key().public().node_id());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
            request.clear();
        }
        if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let whole = head.len() + 4 + length.unwrap_or(0);
    while request.len() < whole && socket.read_buf(&mut request).await.unwrap_or(0) > 0 {}
    let of_id = head.starts_with("POST /api/v0/id ");
    heads.lock().unwrap().push(head);
    match reply {
        Reply::Late(clock) => {
            let date = jiff::fmt::rfc2822::to_string(&clock.to_zoned(jiff::tz::TimeZone::UTC)).unwrap();
            let body = format!("{{\"ID\":\"{}\"}}", key().public().node_id());
            let (line, body) = if of_id { ("200 OK", body.as_str()) } else { ("401 Unauthorized", "expired") };
            let answer = format!(
                "HTTP/1.1 {line}\r\nDate: {date}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            drop(socket.write_all(answer.as_bytes()).await);
        }
        Reply::Raw(text) => drop(socket.write_all(text.as_bytes()).await),
        Reply::Stall(text) => {
            let _ = socket.write_all(text.as_bytes()).await;
            std::future::pending::<()>().await;
        }
        Reply::Endless(text) => {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let text = text.repeat(1024);
            while socket.write_all(text.as_bytes()).await.is_ok() {}
        }
        Reply::Drip(text) => {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            while socket.write_all(text.as_bytes()).await.is_ok() {
                pause.tick().await;
            }
        }
    }
}

fn ok(body: &str) -> Reply {
    status("200 OK", body)
}

fn status(line: &str, body: &str) -> Reply {
    Reply::Raw(format!("HTTP/1.1 {line}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()))
}

fn pack() -> Pack {
    let bytes = Bytes::from_static(b"bytes of a chunk");
    let entries = vec![PackEntry { chunk: ChunkId::of(&bytes), bytes: bytes.len() as u64 }];
    Pack::new(PackHeader { pool: PoolId::from_bytes([1; 16]), epoch: 1, id: PackId::new(1), entries }, vec![bytes])
}

fn at(pack: &Pack) -> ChunkAt {
    let entry = pack.header().entries[0];
    ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: pack.root() }
}

async fn read(reply: Reply) -> Result<Bytes, NodeFailure> {
    let server = Server::start(reply).await;
    server.kubo().read_chunk(&at(&pack()), None, None).await.map_err(|error| error.reason)
}

#[tokio::test]
async fn only_the_named_bytes_come_back() {
    let corrupt = |result| matches!(result, Err(NodeFailure::Corrupt(_)));
    assert_eq!(read(ok("bytes of a chunk")).await.unwrap(), "bytes of a chunk");
    assert!(corrupt(read(ok("bytes of a chunK")).await));
    assert!(corrupt(read(ok("bytes of")).await), "too short");
    assert!(corrupt(read(Reply::Endless("more ")).await), "too long, without reading on");
    assert!(matches!(read(status("206 Partial Content", "bytes of a chunk")).await, Err(NodeFailure::Answer(_))));
    assert!(matches!(read(status("412 Precondition Failed", "")).await, Err(NodeFailure::Absent(_))));
    assert!(matches!(read(status("404 Not Found", "")).await, Err(NodeFailure::Answer(_))), "no gateway at all");
    assert!(matches!(read(status("301 Moved", "")).await, Err(NodeFailure::Answer(_))));
    assert!(matches!(read(status("503 Busy", "")).await, Err(NodeFailure::Unreachable(_))));
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nbytes of";
    assert!(matches!(read(Reply::Raw(cut.to_owned())).await, Err(NodeFailure::Unreachable(_))));
    let stalled = read(Reply::Stall(cut.to_owned())).await;
    assert!(matches!(stalled, Err(NodeFailure::Timeout { .. })), "{stalled:?}");
    assert!(matches!(read(Reply::Stall(String::new())).await, Err(NodeFailure::Timeout { .. })));
}

#[tokio::test]
async fn an_import_is_believed_only_with_the_whole_answer() {
    let pack = pack();
    let blocks = pack.header().root_block().len() + 16;
    let stats = |count| format!("{{\"Stats\":{{\"BlockCount\":{count},\"BlockBytesCount\":{blocks}}}}}\n");
    let line = |root: &str, error: &str| {
        format!("{{\"Root\":{{\"Cid\":{{\"/\":\"{root}\"}},\"PinErrorMsg\":\"{error}\"}}}}\n{}", stats(2))
    };
    let right = pack.root().to_string();
    for (body, good) in [
        (stats(2), true),
        (line(&right, ""), true),
        (stats(1), false),
        (String::new(), false),
        (line(&right, "no"), false),
        (line("bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354", ""), false),
        ("not json\n".to_owned(), false),
    ] {
        let server = Server::start(ok(&body)).await;
        let written = server.kubo().write_pack(&pack, None).await;
        assert_eq!(written.is_ok(), good, "{body} {written:?}");
    }
    let stats = stats(2);
    let late = format!(
        "HTTP/1.1 200 OK\r\nTrailer: X-Stream-Error\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{stats}\r\n0\r\n\
         X-Stream-Error: no space left on device\r\n\r\n",
        stats.len()
    );
    let written = Server::start(Reply::Raw(late)).await.kubo().write_pack(&pack, None).await.unwrap_err();
    assert!(matches!(written.reason, NodeFailure::Full(_)), "{written}");
    let endless = Server::start(Reply::Endless(" \n")).await.kubo().write_pack(&pack, None).await.unwrap_err();
    // Whichever bound it meets first: of bytes, or of time where the machine is slow.
    assert!(matches!(endless.reason, NodeFailure::Answer(_) | NodeFailure::Timeout { .. }), "{endless}");
}

#[tokio::test]
async fn listings_pass_over_what_is_foreign_and_end() {
    let root = pack().root();
    let body = format!("{{\"Cid\":\"QmForeign\"}}\n{{\"Cid\":\"{root}\"}}\n{{\"Cid\":\"{}\"}}\n", "z".repeat(9000));
    let mut found = Vec::new();
    Server::start(ok(&body)).await.kubo().list_packs(&mut |root| found.push(root)).await.unwrap();
    assert_eq!(found, [root]);
    let failing = Server::start(ok("{\"Ref\":\"\",\"Err\":\"disk\"}\n")).await.kubo().list_chunks(&mut |_| ()).await;
    assert!(matches!(failing.unwrap_err().reason, NodeFailure::Answer(text) if text == "disk"));
    let endless = Server::start(Reply::Endless("no end of this line")).await.kubo().list_chunks(&mut |_| ()).await;
    assert!(matches!(endless.unwrap_err().reason, NodeFailure::Answer(_)));
}

/// The number of an error is for programs; people were told `Connection refused (os error 111)`.
#[tokio::test]
async fn a_refused_connection_is_told_in_words_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = Server { url, seen: Arc::default() }.kubo().list_packs(&mut |_| ()).await.unwrap_err();
    assert_eq!(error.to_string(), "node n: does not answer (connection refused)");
}

/// A line now and then was progress for ever: one node that listed so kept every check of the pool from ending.
#[tokio::test]
async fn a_listing_that_drips_ends() {
    let chunk = "{\"Ref\":\"bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e\",\"Err\":\"\"}\n";
    let (packs, chunks) =
        (Server::start(Reply::Drip("{\"Cid\":\"Qm\"}\n")).await, Server::start(Reply::Drip(chunk)).await);
    let listed = async {
        let mut seen = 0;
        let packs = packs.kubo().list_packs(&mut |_| ()).await;
        (packs, chunks.kubo().list_chunks(&mut |_| seen += 1).await, seen)
    };
    let (packs, chunks, seen) = timeout_in_tests(listed).await;
    for ended in [packs, chunks] {
        assert!(matches!(ended.unwrap_err().reason, NodeFailure::Timeout { .. }));
    }
    assert!(seen > 0, "what came before was handed out");
}

/// Long enough for anything that ends, and short enough to be told of what does not.
async fn timeout_in_tests<T>(act: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), act).await.expect("it ends")
}

#[tokio::test]
async fn error_texts_are_short_and_hold_no_secret() {
    let secret = Credential::Kubo(GrantToken::new("bearer:streng-geheim".to_owned()));
    let long = format!("{{\"Message\":\"refused Bearer streng-geheim {}\",\"Code\":0}}", "x".repeat(5000));
    let server = Server::start(status("500 Internal Server Error", &long)).await;
    let error = server.node(NodeKind::Kubo, secret).drop_pack(pack().root()).await.unwrap_err().to_string();
    assert!(error.starts_with("node n: answered: refused"), "{error}");
    assert!(!error.contains("geheim") && error.len() < 400, "{error}");
    let pinned =
        format!("{{\"Root\":{{\"Cid\":{{\"/\":\"x\"}},\"PinErrorMsg\":\"streng-geheim {}\"}}}}\n", "x".repeat(5000));
    for body in [pinned.as_str(), "{\"Ref\":\"\",\"Err\":\"streng-geheim\"}\n"] {
        let secret = Credential::Kubo(GrantToken::new("bearer:streng-geheim".to_owned()));
        let echo = Server::start(ok(body)).await.node(NodeKind::Kubo, secret);
        let written = echo.write_pack(&pack(), None).await.unwrap_err().to_string();
        let listed = echo.list_chunks(&mut |_| ()).await.map_or_else(|error| error.to_string(), |()| String::new());
        assert!(
            ![&written, &listed].iter().any(|text| text.contains("geheim") || text.len() > 400),
            "{written} {listed}"
        );
    }
    let head = &server.heads()[0];
    assert!(head.contains("authorization: Bearer streng-geheim"), "{head}");
    assert!(head.contains("user-agent: bytenode/") && !head.contains("origin:"), "{head}");
}

#[tokio::test]
async fn a_built_in_node_gets_grants_and_gives_receipts() {
    let mint: MintGrant = Arc::new(|| GrantToken::new("own".to_owned()));
    let pack = pack();
    let given = GrantToken::new("given".to_owned());
    let server = Server::start(ok("{\"Receipt\":\"signed\"}\n")).await;
    let node = server.node(NodeKind::Builtin, Credential::Mint(mint.clone()));
    let receipt = node.write_pack(&pack, Some(&given)).await.unwrap();
    assert_eq!(receipt, Receipt::Signed { token: "signed".to_owned() });
    let chunks = Server::start(ok("bytes of a chunk")).await;
    let reader = chunks.node(NodeKind::Builtin, Credential::Mint(mint.clone()));
    reader.read_chunk(&at(&pack), None, Some(&given)).await.unwrap();
    reader.read_chunk(&at(&pack), None, None).await.unwrap();
    let heads = [server.heads(), chunks.heads()].concat();
    assert!(heads[0].contains("Bearer given") && heads[1].contains("Bearer given"), "{heads:#?}");
    assert!(heads[2].contains("Bearer own") && !heads[1].contains("pack="));
    assert!(heads[2].contains(&format!("pack={}", pack.root())), "{heads:#?}");

    let full = Server::start(status("500 Internal Server Error", "{\"Message\":\"node is full: 0 bytes left\"}")).await;
    let error = full.node(NodeKind::Builtin, Credential::Mint(mint)).write_pack(&pack, None).await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Full(_)), "{error}");
}

#[tokio::test]
async fn a_large_upload_that_nobody_takes_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = Server { url, seen: Arc::default() };
    let chunks: Vec<Bytes> = (0..16).map(|n| vec![n; 2 << 20].into()).collect();
    let entries = chunks.iter().map(|b| PackEntry { chunk: ChunkId::of(b), bytes: b.len() as u64 }).collect();
    let header = PackHeader { pool: PoolId::from_bytes([1; 16]), epoch: 1, id: PackId::new(2), entries };
    let error = server.kubo().write_pack(&Pack::new(header, chunks), None).await.unwrap_err();
    assert!(matches!(error.reason, NodeFailure::Timeout { doing: "taking what is sent", .. }), "{error}");
}

/// Whoever gives an upload up must get its memory back, though the node takes nothing and says nothing.
#[tokio::test]
async fn an_upload_given_up_lets_go_of_its_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let node = Server { url, seen: Arc::default() }.kubo();
    let bytes: Bytes = vec![7; 2 << 20].into();
    let entries = vec![PackEntry { chunk: ChunkId::of(&bytes), bytes: bytes.len() as u64 }; 16];
    let header = PackHeader { pool: PoolId::from_bytes([1; 16]), epoch: 1, id: PackId::new(3), entries };
    let pack = Pack::new(header, vec![bytes.clone(); 16]);
    let taken = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_exact(&mut [0; 100]).await.unwrap();
        socket
    };
    let open = tokio::select! {
        _ = node.write_pack(&pack, None) => panic!("nobody answers"),
        socket = taken => socket,
    };
    drop(pack);
    let alone = async {
        while !bytes.is_unique() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), alone).await.expect("the bytes are let go of");
    drop(open);
}

#[tokio::test]
async fn a_node_that_refuses_grants_by_a_wrong_clock_is_told_so() {
    for (seconds, told) in [(26 * 3600 + 20, "its clock is 26h ahead"), (-3620, "its clock is 1h behind")] {
        let clock = Timestamp::now() + SignedDuration::from_secs(seconds);
        let server = Server::start(Reply::Late(clock)).await;
        let node = server.node(NodeKind::Builtin, Credential::None);
        let error = node.status().await.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    let server = Server::start(Reply::Late(Timestamp::now())).await;
    let error = server.node(NodeKind::Builtin, Credential::None).status().await.unwrap_err().to_string();
    assert!(error.contains("expired") && !error.contains("clock"), "{error}");
}
