//! A node whose answers may be anything: no call takes its bytes for a chunk, waits for ever or panics.

use std::sync::Arc;
use std::time::Duration;

use bytenode::api::NodeKind;
use bytenode::id::{ChunkId, PackId, PackRoot, PoolId};
use bytenode::node::http::{Credential, HttpNode, HttpNodeOptions, Limits};
use bytenode::node::{ChunkAt, Node};
use bytenode::pack::{Pack, PackEntry, PackHeader};
use bytenode::seam::Seam;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Chance, bend, bent};

/// All of one call, whatever the node does.
const LIMIT: Duration = Duration::from_secs(20);

fn limits() -> Limits {
    let short = Duration::from_millis(300);
    Limits { connect: short, first_byte: short, progress: short, pin: short, ..Limits::default() }
}

fn answer(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn chunked(lines: &[String]) -> Vec<u8> {
    let mut out = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Stream-Error\r\n\r\n".to_vec();
    for line in lines {
        out.extend_from_slice(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes());
    }
    out.extend_from_slice(b"0\r\nX-Stream-Error: broken\r\n\r\n");
    out
}

/// What a Kubo says, right and wrong.
fn samples(chunk: &ChunkId, root: &PackRoot) -> Vec<Vec<u8>> {
    let pins: Vec<String> = (0..50).map(|_| format!(r#"{{"Cid":"{root}","Type":"recursive"}}"#)).collect();
    let refs: Vec<String> = (0..50).map(|_| format!(r#"{{"Ref":"{chunk}","Err":""}}"#)).collect();
    vec![
        answer(r#"{"ID":"12D3KooWEZXjE41uU4EL2gpkAQeDXYok6wghN7wwNVPF5bwkaNfS","Addresses":[]}"#),
        answer(r#"{"Version":"0.38.1","Commit":"","Repo":"18"}"#),
        answer(r#"{"RepoSize":1000,"StorageMax":10000000000,"NumObjects":3}"#),
        answer(r#"{"diskinfo":{"total_space":100000000,"free_space":90000000},"memory":{}}"#),
        answer(&format!(r#"{{"Root":{{"Cid":{{"/":"{root}"}},"PinErrorMsg":""}}}}"#)),
        answer(&format!(r#"{{"Pins":["{root}"]}}"#)),
        answer(&format!(r#"{{"Keys":{{"{root}":{{"Type":"recursive"}}}}}}"#)),
        chunked(&pins),
        chunked(&refs),
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 64\r\n\r\n{\"Message\":\"not pinned\",\"Code\":0,\"Type\":\"error\"}".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ipld.raw\r\nContent-Length: 40\r\n\r\n0123456789012345678901234567890123456789".to_vec(),
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx".to_vec(),
    ]
}

/// Serves bent answers until it is dropped; sometimes endless ones.
async fn serve(listener: TcpListener, seed: u64, samples: Vec<Vec<u8>>) {
    let mut chance = Chance::new(seed);
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let sample = chance.of(&samples).clone();
        let (bytes, endless) = (bent(&mut chance, &sample), chance.below(6) == 0);
        tokio::spawn(async move {
            let mut heard = vec![0; 64 << 10];
            let _ = stream.read(&mut heard).await;
            let _ = stream.write_all(&bytes).await;
            if endless {
                let more = vec![b'7'; 64 << 10];
                // The other side hangs up.
                while stream.write_all(&more).await.is_ok() {}
            }
        });
    }
}

#[test]
fn no_answer_is_believed_or_waited_for() {
    let bytes = Bytes::from_static(b"the bytes of a chunk that nobody has kept");
    let entry = PackEntry { chunk: ChunkId::of(&bytes), bytes: bytes.len() as u64 };
    let header = PackHeader { pool: PoolId::from_bytes([5; 16]), epoch: 1, id: PackId::new(1), entries: vec![entry] };
    let pack = Pack::new(header.clone(), vec![bytes]);
    let root = header.root();
    let samples = samples(&entry.chunk, &root);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    bend("answers", 20, &[Vec::new()], |chance, _, _| {
        let (seed, call) = (chance.next(), chance.below(9));
        let kind = *chance.of(&[NodeKind::Kubo, NodeKind::Builtin]);
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let server = tokio::spawn(serve(listener, seed, samples.clone()));
            let node = HttpNode::new(HttpNodeOptions {
                name: "liar".to_owned(),
                expected_id: None,
                kind,
                gateway: url.clone(),
                url,
                credential: Credential::None,
                limits: limits(),
                seam: Seam::real(),
            });
            let node: Arc<HttpNode> = node.unwrap();
            let at = ChunkAt { chunk: entry.chunk, bytes: entry.bytes, pack: root };
            let asked = async {
                match call {
                    0 => drop(node.status().await),
                    1 => drop(node.write_pack(&pack, None).await),
                    2 => drop(node.protect_pack(root, 40).await),
                    3 => drop(node.holds_pack(root).await),
                    4 => assert!(node.read_chunk(&at, None, None).await.is_err(), "bytes that are not the chunk's"),
                    5 => drop(node.list_packs(&mut |_| {}).await),
                    6 => drop(node.list_chunks(&mut |_| {}).await),
                    7 => drop(node.drop_pack(root).await),
                    _ => drop(node.replace_pack(root, &header).await),
                }
            };
            let ended = tokio::time::timeout(LIMIT, asked).await;
            assert!(ended.is_ok(), "call {call} does not end");
            server.abort();
        });
    });
}
