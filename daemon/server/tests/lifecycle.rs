//! Starting, stopping, clients that go away, and coordinators that answer something else.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::script::TOKEN;
use super::{Served, ServerLimits, client_at, fixture, read_reply};
use crate::admin::Admin;
use crate::api::{Api, ApiError, Code};
use crate::client::{Client, ClientLimits};
use crate::node::GrantToken;

#[tokio::test]
async fn stopping_lets_requests_under_way_finish() {
    let mut served = Served::usual().await;
    let client = served.client();
    let call = tokio::spawn(async move { client.renew(fixture::lease()).await });
    served.script.begun.acquire().await.unwrap().forget();
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    served.stop.take().unwrap().send(()).unwrap();
    assert_eq!(read_reply(&mut idle).await.status, 0, "idle connections are closed");
    served.script.go.add_permits(1);
    assert_eq!(call.await.unwrap(), Ok(()));
    served.task.await.unwrap();
    let refused = TcpStream::connect(served.address).await;
    assert!(refused.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn stopping_ends_even_if_a_call_does_not() {
    let mut served = Served::new(ServerLimits { stop: Duration::from_millis(200), ..ServerLimits::default() }).await;
    let client = served.client();
    let call = tokio::spawn(async move { client.renew(fixture::lease()).await });
    served.script.begun.acquire().await.unwrap().forget();
    served.stop.take().unwrap().send(()).unwrap();
    served.task.await.unwrap();
    assert_eq!(call.await.unwrap().unwrap_err().code, Code::Temporary);
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_cut_its_call_in_two() {
    let served = Served::usual().await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let id = fixture::lease();
    let request =
        format!("POST /api/v1/leases/{id}/renew HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    served.script.begun.acquire().await.unwrap().forget();
    drop(stream);
    assert_eq!(served.client().whoami().await, Ok(fixture::whoami()));
    served.script.go.add_permits(1);
    tokio::time::timeout(Duration::from_secs(10), served.script.ended.acquire()).await.unwrap().unwrap().forget();
}

#[tokio::test]
async fn connections_and_long_calls_are_capped() {
    let limits = ServerLimits { connections: 1, long_calls: 0, ..ServerLimits::default() };
    let served = Served::new(limits).await;
    let busy = served.client().gc(true, false).await.unwrap_err();
    assert_eq!(busy.code, Code::Busy);
    drop(served);
    let served = Served::new(limits).await;
    let first = TcpStream::connect(served.address).await.unwrap();
    let mut second = TcpStream::connect(served.address).await.unwrap();
    second.write_all(b"GET /livez HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(200), second.read_u8()).await;
    assert!(early.is_err(), "the second waits");
    drop(first);
    let mut rest = Vec::new();
    second.read_to_end(&mut rest).await.unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 200"));
}

/// A server that does as told: one text per connection, nothing for a connection that it drops.
async fn puppet(answers: Vec<Option<String>>) -> (std::net::SocketAddr, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut served = 0;
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            served += 1;
            if let Some(answer) = answer {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
        served
    });
    (address, task)
}

fn answer(status: &str, headers: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"))
}

fn json(version: &str, body: &str) -> Option<String> {
    answer("200 OK", &format!("Content-Type: application/json\r\nBytenode-Version: {version}\r\n"), body)
}

#[tokio::test]
async fn calls_that_may_be_repeated_survive_dropped_connections_and_others_do_not() {
    let whoami = serde_json::to_string(&fixture::whoami()).unwrap();
    let cut = Some("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{".to_owned());
    let (address, puppet_task) = puppet(vec![None, cut, json("0.1.0", &whoami)]).await;
    assert_eq!(client_at(address, ClientLimits::default()).whoami().await, Ok(fixture::whoami()));
    assert_eq!(puppet_task.await.unwrap(), 3);

    let (address, puppet_task) = puppet(vec![None]).await;
    let error = client_at(address, ClientLimits::default()).create_token("x").await.unwrap_err();
    assert_eq!(error.code, Code::Temporary);
    assert!(error.message.contains("dropped the connection"), "{error}");
    assert_eq!(puppet_task.await.unwrap(), 1, "it was sent once");
}

/// A coordinator that is started again meanwhile costs time only, for a call that may be repeated and for one that was
/// not sent.
#[tokio::test]
async fn a_coordinator_that_has_answered_may_be_away_for_a_while() {
    let whoami = serde_json::to_string(&fixture::whoami()).unwrap();
    let reserve = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = reserve.local_addr().unwrap();
    let away = Duration::from_millis(300);
    let client = client_at(address, ClientLimits { away, ..ClientLimits::default() });
    let serve = async |listener: TcpListener| {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(json("0.1.0", &whoami).unwrap().as_bytes()).await.unwrap();
    };
    let (_, first) = tokio::join!(serve(reserve), client.whoami());
    assert_eq!(first, Ok(fixture::whoami()));
    let later = async {
        // Until it was asked in vain.
        tokio::task::yield_now().await;
        let listener = TcpListener::bind(address).await.unwrap();
        serve(listener).await;
    };
    let (second, ()) = tokio::join!(client.whoami(), later);
    assert_eq!(second, Ok(fixture::whoami()));
    let begun = std::time::Instant::now();
    let gone = client.create_token("x").await.unwrap_err();
    assert_eq!((gone.code, gone.hint.as_deref()), (Code::Temporary, Some("bytenode up")));
    assert!(begun.elapsed() >= away);
}

async fn told(answers: Option<String>) -> ApiError {
    let (address, _task) = puppet(vec![answers]).await;
    let limits = ClientLimits { answer_bytes: 1000, ..ClientLimits::default() };
    client_at(address, limits).whoami().await.unwrap_err()
}

#[tokio::test]
async fn answers_are_not_trusted() {
    let other = told(json("9.9.9", "{\"user\":1}")).await;
    assert!(other.message.contains("version 9.9.9") && other.hint.is_some(), "{other:?}");
    let same = told(json(env!("CARGO_PKG_VERSION"), "{\"user\":1}")).await;
    assert!(same.message.contains("cannot be read"), "{same:?}");
    let stranger = told(answer("200 OK", "Content-Type: text/html\r\n", "<html>")).await;
    assert!(stranger.message.contains("not a ByteNode coordinator"), "{stranger:?}");
    let stranger = told(answer("404 Not Found", "Content-Type: text/html\r\n", "<html>")).await;
    assert!(stranger.message.contains("not a ByteNode coordinator"), "{stranger:?}");
    let huge = told(json("0.1.0", &" ".repeat(1001))).await;
    assert!(huge.message.contains("more than 1000 bytes"), "{huge:?}");
    let moved = told(answer("307 Temporary Redirect", "Location: http://127.0.0.1:1/steal\r\n", "")).await;
    assert!(moved.message.contains("status 307"), "{moved:?}");
    let problem = "Content-Type: application/problem+json\r\nBytenode-Version: 9.9.9\r\n";
    let newer = told(answer("409 Conflict", problem, "{\"code\":\"newer\",\"detail\":\"d\",\"more\":1}")).await;
    assert_eq!(newer, ApiError::new(Code::Changed, "d"));
    let bare = told(answer("401 Unauthorized", problem, "{}")).await;
    assert_eq!((bare.code, bare.hint.as_deref()), (Code::NotSignedIn, Some("bytenode login")));
}

#[tokio::test]
async fn wrong_counts_and_endless_pages_are_refused() {
    let (address, _task) = puppet(vec![json("0.1.0", "{\"entries\":[null]}")]).await;
    let error = client_at(address, ClientLimits::default()).lookup(&[]).await.unwrap_err();
    assert_eq!(error.code, Code::Internal);
    let (address, _task) = puppet(vec![json("0.1.0", "{\"items\":[],\"next_cursor\":\"c\"}")]).await;
    let path = fixture::path();
    let error = client_at(address, ClientLimits::default()).chunk_rows(&path, Some("c"), 1).await.unwrap_err();
    assert!(error.message.contains("same page"), "{error}");
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_or_hangs_is_temporary() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = ClientLimits { call: Duration::from_millis(200), ..ClientLimits::default() };
    let error = client_at(address, limits).whoami().await.unwrap_err();
    assert_eq!(error.code, Code::Temporary);
    assert!(error.message.contains("did not answer within"), "{error}");
    drop(listener);
    let error = client_at(address, ClientLimits::default()).whoami().await.unwrap_err();
    assert_eq!((error.code, error.hint.as_deref()), (Code::Temporary, Some("bytenode up")));
    assert!(error.message.contains(&address.to_string()), "{error}");
}

#[test]
fn only_this_machine_is_spoken_to() {
    let new = |url: &str| Client::new(url, GrantToken::new("bnt_secret".to_owned()), ClientLimits::default());
    for url in
        ["http://127.0.0.1:7420", "http://localhost:7420/", "http://[::1]:7420", "http://127.9.9.9", "http://LOCALHOST"]
    {
        assert!(new(url).is_ok(), "{url}");
    }
    for url in [
        "http://192.168.1.2:7420",
        "https://127.0.0.1",
        "http://localhost.evil.example",
        "http://0.0.0.0",
        "http://[::ffff:8.8.8.8]",
        "ftp://localhost",
    ] {
        let error = new(url).unwrap_err();
        assert_eq!(error.code, Code::Usage, "{url}");
        assert!(error.hint.unwrap().contains("ssh -L"), "{url}");
    }
    for url in
        ["", "x", "127.0.0.1:7420", "http://", "http://localhost/x", "http://localhost/?q", "http://u:p4ss@localhost"]
    {
        let error = new(url).unwrap_err();
        assert_eq!(error.code, Code::Usage, "{url}");
        assert!(!error.message.contains("p4ss"));
    }
    let error =
        Client::new("http://localhost", GrantToken::new("a\nb".to_owned()), ClientLimits::default()).unwrap_err();
    assert_eq!(error.code, Code::Usage);
    let client = new("http://localhost").unwrap();
    assert!(!format!("{client:?}").contains("bnt_secret"));
}

#[tokio::test]
async fn names_that_a_url_would_drop_are_refused() {
    let served = Served::usual().await;
    for name in ["", ".", ".."] {
        assert_eq!(served.client().node_remove(name, true, false).await.unwrap_err().code, Code::Usage);
    }
    let large = crate::api::BeginPut { machine: "x".repeat(9 << 20), replicas: None, public: false };
    assert_eq!(served.client().begin_put(&large).await.unwrap_err().code, Code::Usage);
    assert_eq!(served.script.take_calls(), Vec::<&str>::new());
}

/// A refusal that comes while the client still sends must not look like a dropped connection, which is tried again.
#[tokio::test]
async fn a_large_request_with_a_wrong_token_is_told_so() {
    let served = Served::usual().await;
    let wrong = GrantToken::new("bnt_wrong".to_owned());
    let client = Client::new(&format!("http://{}", served.address), wrong, ClientLimits::default()).unwrap();
    let large = crate::api::BeginPut { machine: "x".repeat(7 << 20), replicas: None, public: false };
    assert_eq!(client.begin_put(&large).await.unwrap_err().code, Code::NotSignedIn);
    // This one reads only after it has sent all.
    let head =
        format!("POST /api/v1/puts HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", 7 << 20);
    let reply = served.raw(head + &"x".repeat(7 << 20)).await;
    assert_eq!((reply.status, reply.problem().as_str()), (401, "not_signed_in"));
}
