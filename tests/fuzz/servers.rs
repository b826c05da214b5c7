//! The coordinator and the built-in node under requests that nobody of ours sends: each gets an answer, no answer is a
//! failure of the server's own, and it serves on within its memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Chance, bend, bent};
use crate::support::cluster::{Cluster, Member};

/// No answer may take longer.
const LIMIT: Duration = Duration::from_secs(20);
/// What a server may use: far below what bodies without bounds would make it.
const MEMORY_KIB: u64 = 256 << 10;

/// Sends bytes; gives the status of the first answer, if one comes before the server hangs up.
fn status(url: &str, request: &[u8], whole: bool) -> Option<u16> {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    // A server may well answer, and hang up, before it has read all.
    let _ = stream.write_all(request);
    if !whole {
        // Or a body that is shorter than it says would be waited for.
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let read = stream.take(1 << 20).read_to_end(&mut answer);
    if let Err(error) = &read {
        assert!(error.kind() == std::io::ErrorKind::ConnectionReset, "no answer within {LIMIT:?}: {error}");
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line).into_owned();
    text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The most memory that it has used so far.
fn peak_kib(member: &Member) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", member.pid)).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn is_well(member: &Member, probe: &[u8]) {
    assert_eq!(status(&member.url, probe, true), Some(200), "{} serves no more", member.name);
    let peak = peak_kib(member);
    assert!(peak.is_none_or(|peak| peak < MEMORY_KIB), "{} has used {peak:?} KiB", member.name);
}

/// Writes a value of a schema, sometimes of no schema at all.
struct Writer<'a> {
    schemas: &'a Value,
    chance: &'a mut Chance,
}

impl Writer<'_> {
    fn value(&mut self, schema: &Value, depth: usize) -> Value {
        if depth > 6 || self.chance.below(12) == 0 {
            return self.odd();
        }
        if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/components/schemas/")) {
            let schema = self.schemas[name].clone();
            return self.value(&schema, depth + 1);
        }
        for choice in ["oneOf", "anyOf", "enum"] {
            if let Some(list) = schema[choice].as_array() {
                let one = self.chance.of(list).clone();
                return if choice == "enum" { one } else { self.value(&one, depth + 1) };
            }
        }
        if let Some(parts) = schema["allOf"].as_array() {
            let parts: Vec<Value> = parts.iter().map(|part| self.value(part, depth + 1)).collect();
            return parts
                .into_iter()
                .filter_map(|part| part.as_object().cloned())
                .flatten()
                .collect::<Map<_, _>>()
                .into();
        }
        match schema["type"].as_str().or_else(|| schema["type"][0].as_str()) {
            Some("object") => self.object(schema, depth),
            Some("array") => {
                let items: Vec<Value> =
                    (0..self.chance.below(4)).map(|_| self.value(&schema["items"], depth + 1)).collect();
                items.into()
            }
            Some("string") => self.text(schema),
            Some("integer" | "number") => (*self.chance.of(&[0, 1, 2, 3, 1 << 20, 1 << 40, i64::MAX, -1])).into(),
            Some("boolean") => (self.chance.below(2) == 0).into(),
            _ => self.odd(),
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut out = Map::new();
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            if self.chance.below(10) != 0 {
                out.insert(name.clone(), self.value(inner, depth + 1));
            }
        }
        out.into()
    }

    fn text(&mut self, schema: &Value) -> Value {
        if let Some(example) = schema["example"].as_str().or_else(|| schema["examples"][0].as_str()) {
            return example.into();
        }
        let hex = "0123456789abcdef".repeat(4);
        let texts =
            ["bn:/a/b", "bn:/", &hex[..32], &hex, "n1", "http://127.0.0.1:9", "2026-01-01T00:00:00Z", "AAAA", ""];
        (*self.chance.of(&texts)).into()
    }

    fn odd(&mut self) -> Value {
        let deep = (0..200).fold(json!([]), |inner, _| json!([inner]));
        let odd = [
            json!(null),
            json!(-1),
            json!(u64::MAX),
            json!(1e300),
            json!("\u{0}"),
            json!("x".repeat(70_000)),
            json!({}),
            deep,
        ];
        self.chance.of(&odd).clone()
    }
}

/// Every operation that the coordinator describes, with bodies and parameters that are nearly right.
#[test]
fn the_coordinator_answers_whatever_it_is_asked() {
    let user = Cluster::up(1);
    let coordinator = user.member("coordinator");
    let token = std::fs::read_to_string(coordinator.data.join("admin.token")).unwrap();
    let headers = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", token.trim());
    let described = user.work().join("openapi.json");
    let mut fetched = TcpStream::connect(coordinator.url.strip_prefix("http://").unwrap()).unwrap();
    fetched.write_all(&request("GET", "/api/v1/openapi.json", &headers, b"")).unwrap();
    let mut answer = String::new();
    fetched.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let api: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {}", described.display()));
    let mut operations = Vec::new();
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            // Its own token is what it asks with.
            if !(path.contains("token") && method == "delete") {
                operations.push((path.clone(), method.to_uppercase(), operation.clone()));
            }
        }
    }
    assert!(operations.len() > 25, "{}", operations.len());
    let mut answered = std::collections::BTreeMap::<u16, u32>::new();
    let samples = vec![Vec::new()];
    bend("coordinator", 2, &samples, |chance, _, _| {
        let (path, method, operation) = chance.of(&operations).clone();
        let mut writer = Writer { schemas: &api["components"]["schemas"], chance };
        let (mut path, mut query) = (path, Vec::new());
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let value = writer.value(&parameter["schema"], 3);
            let text: String =
                value.as_str().map_or_else(|| value.to_string(), str::to_owned).chars().take(500).collect();
            let text: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
            match parameter["in"].as_str() {
                Some("path") => path = path.replace(&format!("{{{name}}}"), &text),
                _ => query.push(format!("{name}={text}")),
            }
        }
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let body = if schema.is_null() { Value::Null } else { writer.value(schema, 0) };
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let body = if chance.below(4) == 0 { bent(chance, &body) } else { body };
        let line = format!("{path}?{}", query.join("&"));
        let whole = request(&method, &line, &headers, &body);
        let sent = if chance.below(8) == 0 { bent(chance, &whole) } else { whole.clone() };
        let code = status(&coordinator.url, &sent, sent == whole);
        if let Some(code) = code {
            *answered.entry(code).or_default() += 1;
        }
        // 501, 503 and 507 say that something else is not so; 500 that this server is wrong.
        assert!(code != Some(500), "{}", sent.escape_ascii());
    });
    println!("{answered:?}");
    assert!(answered.contains_key(&200) && answered.len() > 4, "{answered:?}");
    is_well(&coordinator, &request("GET", "/livez", "", b""));
}

#[test]
fn a_node_answers_whatever_it_is_asked() {
    let user = Cluster::up(1);
    user.file("a", &[7; 5000]);
    user.ok(&["put", "--replicas", "1", "a"]);
    let node = user.member("n1");
    let cid = bytenode::id::ChunkId::of(b"x").to_string();
    let root = bytenode::id::PackRoot::of(b"x").to_string();
    let headers = "Authorization: Bearer aaaa.bbbb.cccc\r\nRange: bytes=0-10\r\nContent-Type: multipart/form-data; boundary=b\r\n";
    let form = b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nnot a car\r\n--b--\r\n";
    let post = |path: String| request("POST", &format!("/api/v0/{path}"), headers, form);
    let mut samples = vec![request("GET", &format!("/ipfs/{cid}?format=raw"), headers, b"")];
    samples.extend(
        [
            "id".to_owned(),
            "version".to_owned(),
            "dag/import?pin-roots=true&stats=true".to_owned(),
            format!("pin/add?arg={root}"),
            "pin/ls?type=recursive&stream=true".to_owned(),
            format!("pin/rm?arg={root}"),
            format!("pin/update?arg={root}&arg={root}"),
            "refs/local".to_owned(),
            "repo/stat?size-only=true".to_owned(),
            "repo/gc".to_owned(),
            "diag/sys".to_owned(),
            "bytenode/join".to_owned(),
            "bytenode/hello".to_owned(),
        ]
        .map(post),
    );
    bend("node", 2, &samples, |_, sample, bytes| {
        let code = status(&node.url, bytes, bytes == sample);
        assert!(code != Some(500), "{}", bytes.escape_ascii());
    });
    is_well(&node, &request("POST", "/api/v0/id", "", b""));
    user.ok(&["cat", "bn:/a"]);
}
