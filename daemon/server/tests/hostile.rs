//! Requests that are wrong, hostile, huge or late: each gets one clear answer, and nothing is called.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::script::TOKEN;
use super::{Reply, Served, ServerLimits, read_reply};
use crate::api::{Api, Code, MAX_LOOKUP, MAX_REPORTS};

fn head(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n{headers}\r\n")
}

/// Sends all and expects a refusal as a problem, with nothing called.
async fn refused(served: &Served, line: &str, body: &str, status: u16) -> Reply {
    let reply = served.request(line, body).await;
    assert_eq!(reply.status, status, "{line}: {reply:?}");
    assert_eq!(reply.problem(), if status == 404 { "not_found" } else { "usage" });
    assert_eq!(served.script.take_calls(), Vec::<&str>::new(), "{line}");
    reply
}

#[tokio::test]
async fn routes_and_methods_that_do_not_exist_are_problems() {
    let served = Served::usual().await;
    for line in ["GET /", "GET /api/v1", "GET /api/v1/", "GET /api/v2/status", "GET /api/v1/files/stat/", "GET //livez"]
    {
        refused(&served, line, "", 404).await;
    }
    for line in ["PUT /api/v1/files", "OPTIONS /api/v1/status", "TRACE /api/v1/status", "POST /livez"] {
        let reply = refused(&served, line, "", 405).await;
        assert!(reply.head.contains("allow: "), "{reply:?}");
    }
    refused(&served, "POST /api/v1/nodes/../health", "{}", 404).await;
}

/// Class: path traversal and confusion by encoding. A decoder's replacement character would name another file.
#[tokio::test]
async fn bad_percent_encodings_are_refused() {
    let served = Served::usual().await;
    for path in [
        "bn:/%FF",
        "bn:/%C3",
        "bn:/%",
        "bn:/%4",
        "bn:/%zz",
        "bn:/%+1",
        "bn:/%ED%A0%80",
        "bn:/a%00b",
        "bn:/..",
        "bn:/a/%2e%2e/b",
        "x",
        "",
        "bn:x",
    ] {
        refused(&served, &format!("GET /api/v1/files/stat?path={path}"), "", 400).await;
        refused(&served, &format!("DELETE /api/v1/files?path={path}"), "", 400).await;
    }
    for name in ["%FF", "%C3", "%00", "%0a"] {
        refused(&served, &format!("POST /api/v1/nodes/{name}/test"), "", 400).await;
    }
    refused(&served, "POST /api/v1/leases/zz/renew", "", 400).await;
}

/// What is not understood is refused, never ignored: else a dry run could be taken for the real one.
#[tokio::test]
async fn what_does_not_belong_is_refused() {
    let served = Served::usual().await;
    refused(&served, "GET /api/v1/files/stat?path=bn:/a&extra=1", "", 400).await;
    refused(&served, "GET /api/v1/files/stat?path=bn:/a&path=bn:/b", "", 400).await;
    refused(&served, "DELETE /api/v1/files?path=bn:/a&dryrun=true", "", 400).await;
    refused(&served, "DELETE /api/v1/files?path=bn:/a&dry_run=yes", "", 400).await;
    refused(&served, "DELETE /api/v1/files?path=bn:/a", "{\"dry_run\":true}", 400).await;
    refused(&served, "POST /api/v1/health?dry_run=true", "{}", 400).await;
    refused(&served, "POST /api/v1/health", "{\"dryrun\":true}", 400).await;
    refused(&served, "POST /api/v1/gc", "{\"dry_run\":1}", 400).await;
    refused(&served, "POST /api/v1/dirs", "{\"paths\":[],\"x\":1}", 400).await;
    let nested = "{\"files\":[{\"file\":1,\"first\":0,\"chunks\":[],\"more\":true}]}";
    refused(&served, &format!("POST /api/v1/puts/{}/plan", "a".repeat(32)), nested, 400).await;
}

#[tokio::test]
async fn counts_and_limits_are_checked() {
    let served = Served::usual().await;
    for limit in ["0", "1025", "4294967296", "-1", "1e3", ""] {
        refused(&served, &format!("GET /api/v1/files?path=bn:/&limit={limit}"), "", 400).await;
        refused(&served, &format!("GET /api/v1/files/chunks?path=bn:/&limit={limit}"), "", 400).await;
    }
    let paths = vec!["\"bn:/a\""; MAX_LOOKUP + 1].join(",");
    refused(&served, "POST /api/v1/files/lookup", &format!("{{\"paths\":[{paths}]}}"), 400).await;
    refused(&served, "POST /api/v1/dirs", &format!("{{\"paths\":[{paths}]}}"), 400).await;
    let paths = vec!["\"bn:/a\""; 1025].join(",");
    refused(&served, "POST /api/v1/reads", &format!("{{\"machine\":\"m\",\"paths\":[{paths}]}}"), 400).await;
    let id = "a".repeat(32);
    for (first, count) in [(0, 1025), (u64::MAX, 1), (0, u64::MAX)] {
        let spans = format!("{{\"spans\":[{{\"version\":1,\"first\":{first},\"count\":{count}}}]}}");
        refused(&served, &format!("POST /api/v1/reads/{id}/chunks"), &spans, 400).await;
    }
    let chunk = crate::id::ChunkId::of(b"x");
    let desc = format!("{{\"chunk\":\"{chunk}\",\"bytes\":1,\"length\":1,\"part\":\"sealed\"}}");
    let append = |count| format!("{{\"file\":1,\"first\":0,\"chunks\":[{}]}}", vec![desc.as_str(); count].join(","));
    let over = format!("{{\"files\":[{},{}]}}", append(1000), append(25));
    refused(&served, &format!("POST /api/v1/puts/{id}/plan"), &over, 400).await;
    refused(&served, "POST /api/v1/tokens", &format!("{{\"name\":\"{}\"}}", "x".repeat(4097)), 400).await;
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused() {
    let served = Served::usual().await;
    let deep = "[".repeat(1_000_000);
    let deeper = format!("{{\"name\":{}", "{\"a\":".repeat(100_000));
    for body in [deep.as_str(), &deeper, "{", "null", "[]", "\u{0}", "{\"name\":\"x\"} x", "{\"name\":\"\\ud800\"}"] {
        let reply = refused(&served, "POST /api/v1/tokens", body, 400).await;
        assert!(reply.body.len() < 2000, "the answer does not repeat the body");
    }
    let huge = format!("{{\"name\":{{\"{}\":1}}}}", "x".repeat(1 << 20));
    let reply = refused(&served, "POST /api/v1/tokens", &huge, 400).await;
    assert!(reply.body.len() < 2000);
    let mut invalid =
        head("POST /api/v1/tokens", "Content-Type: application/json\r\nContent-Length: 13\r\n").into_bytes();
    invalid.extend_from_slice(b"{\"name\":\"\xff\"}\n");
    assert_eq!(served.raw(invalid).await.status, 400);
}

#[tokio::test]
async fn other_media_types_are_refused() {
    let served = Served::usual().await;
    for kind in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
    ] {
        let request = head("POST /api/v1/health", &format!("{kind}Content-Length: 2\r\n")) + "{}";
        let reply = served.raw(request).await;
        assert_eq!((reply.status, reply.problem().as_str()), (415, "usage"), "{kind:?}");
    }
    assert_eq!(served.script.take_calls(), Vec::<&str>::new());
}

#[tokio::test]
async fn huge_heads_and_bodies_are_refused_early() {
    let served = Served::usual().await;
    let reply = served.raw(head("GET /api/v1/status", &format!("X-Huge: {}\r\n", "x".repeat(1 << 20)))).await;
    assert!(matches!(reply.status, 431 | 0), "{reply:?}");
    let many: String = (0..1000).map(|n| format!("X-{n}: 1\r\n")).collect();
    let reply = served.raw(head("GET /api/v1/status", &many)).await;
    assert_eq!(reply.status, 431);
    // Declared: refused before a byte of it came.
    let declared = "Content-Type: application/json\r\nContent-Length: 8388609\r\n";
    let reply = served.raw(head("POST /api/v1/tokens", declared)).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "usage"));
    assert_eq!(served.script.take_calls(), Vec::<&str>::new());

    let limits = ServerLimits { body_bytes: 1000, ..ServerLimits::default() };
    let served = Served::new(limits).await;
    let chunked = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let body = format!("3e8\r\n{}\r\n1\r\nx\r\n", "x".repeat(1000));
    let reply = served.raw(head("POST /api/v1/tokens", chunked) + &body).await;
    assert_eq!((reply.status, reply.problem().as_str()), (413, "usage"));
}

/// Request smuggling: two ideas of where the body ends.
#[tokio::test]
async fn ambiguous_lengths_are_refused() {
    let served = Served::usual().await;
    for headers in [
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
    ] {
        let json = format!("Content-Type: application/json\r\n{headers}");
        let reply = served.raw(head("POST /api/v1/health", &json) + "{}x").await;
        assert_eq!(reply.status, 400, "{headers}");
    }
    assert_eq!(served.script.take_calls(), Vec::<&str>::new());
}

fn hasty() -> ServerLimits {
    let soon = Duration::from_millis(200);
    ServerLimits { header: soon, progress: soon, ..ServerLimits::default() }
}

#[tokio::test]
async fn a_stalled_body_is_cut() {
    let served = Served::new(hasty()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let request = head("POST /api/v1/tokens", "Content-Type: application/json\r\nContent-Length: 100\r\n") + "{\"na";
    stream.write_all(request.as_bytes()).await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!((reply.status, reply.problem().as_str()), (408, "temporary"));
    assert_eq!(served.script.take_calls(), Vec::<&str>::new());
}

#[tokio::test]
async fn a_body_that_trickles_for_ever_is_cut() {
    let limits = ServerLimits { body: Duration::from_millis(300), ..ServerLimits::default() };
    let served = Served::new(limits).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let request = head("POST /api/v1/tokens", "Content-Type: application/json\r\nContent-Length: 1000000\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let trickle = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        while write.write_all(b" ").await.is_ok() {
            pace.tick().await;
        }
    });
    let mut start = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut read, &mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 408");
    drop(read);
    trickle.await.unwrap();
}

#[tokio::test]
async fn silent_connections_and_slow_heads_are_closed() {
    let served = Served::new(hasty()).await;
    for begin in ["", "GET /api/v1/status HTTP/1.1\r\nHost: h\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        let reply = read_reply(&mut stream).await;
        assert!(matches!(reply.status, 0 | 408), "{reply:?}");
    }
}

/// Class: CORS by reflection, content sniffing, answers in shared caches.
#[tokio::test]
async fn every_answer_carries_the_security_headers_and_no_cors() {
    let served = Served::usual().await;
    for path in ["/api/v1/status", "/api/v1/nothing", "/livez", "/api/v1/openapi.json", "/api/v1/files/stat?path=x"] {
        let reply = served.raw(head(&format!("GET {path}"), "Origin: http://evil.example\r\n")).await;
        for header in [
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "content-security-policy: default-src 'none'",
            "bytenode-version: ",
        ] {
            assert!(reply.head.contains(header), "{path}: {reply:?}");
        }
        assert!(!reply.head.contains("access-control"), "{reply:?}");
    }
}

#[tokio::test]
async fn request_ids_are_taken_if_harmless() {
    let served = Served::usual().await;
    let long = "x".repeat(65);
    for (sent, kept) in
        [("Abc.1_2-3", true), ("a b", false), ("\u{fc}", false), ("a\"b", false), (long.as_str(), false), ("", false)]
    {
        let reply = served.raw(head("GET /api/v1/nothing", &format!("X-Request-Id: {sent}\r\n"))).await;
        reply.problem();
        assert_eq!(reply.json()["request_id"] == sent, kept, "{sent:?}");
    }
}

#[tokio::test]
async fn a_call_that_panics_or_hangs_ends_as_a_problem() {
    // The call takes longer than a silent connection may: it is not one.
    let call = Duration::from_millis(500);
    let limits = ServerLimits { call, ..hasty() };
    let served = Served::new(limits).await;
    let reply = served.request("GET /api/v1/files/stat?path=bn:/panic", "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (500, "internal"));
    assert!(!reply.body.contains("arrived changed"), "nothing of the inside shows");
    let reply = served.request(&format!("POST /api/v1/leases/{}/renew", "ab".repeat(16)), "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "temporary"));
    assert!(reply.head.contains("retry-after: "));
    assert_eq!(served.request("GET /api/v1/whoami", "").await.status, 200, "the server goes on");
}

/// The route took four times as many reports as the coordinator, which then refused them all.
#[tokio::test]
async fn a_report_has_one_limit() {
    let served = Served::usual().await;
    let client = served.client();
    let one = super::fixture::bad_copies().remove(0);
    let refused = client.report_bad(&vec![one; MAX_REPORTS + 1]).await.unwrap_err();
    assert_eq!((refused.code, served.script.take_calls()), (Code::Usage, Vec::new()));
}
