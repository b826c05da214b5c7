//! Kubo's calls about pins, listings and room, as far as ByteNode makes them.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use bytes::Bytes;
use futures_util::stream::poll_fn;
use serde_json::json;
use tokio::sync::mpsc;

use super::face::{Face, SharedFace, roots};
use crate::daemon::kubo::answer::{Refusal, json_answer, json_lines};
use crate::daemon::kubo::body::{nonce, values};
use crate::id::{ChunkId, PackRoot};
use crate::node::builtin::store::{Store, StoreError, reserve_bytes};

/// Lists are sent in pieces of about this size, at most [`PIECES`] ahead of the client.
const PIECE_BYTES: usize = 32 << 10;
const PIECES: usize = 4;

/// Who it is, and the proof of it for a number that the caller drew.
pub(super) async fn id(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    let mut told = json!({
        "ID": face.identity.id(),
        "Name": face.name,
        "AgentVersion": concat!("bytenode/", env!("CARGO_PKG_VERSION")),
        "Addresses": [],
        "Protocols": [],
    });
    if let Some(nonce) = nonce(request.uri())? {
        told["Proof"] = face.identity.prove(&nonce).into();
    }
    Ok(json_answer(&told))
}

pub(super) async fn version() -> Response<Body> {
    json_answer(&json!({"Version": env!("CARGO_PKG_VERSION"), "System": "bytenode"}))
}

/// A pack is protected by being here, so this only tells whether it is.
pub(super) async fn pin_add(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.manages(request.headers())?;
    let roots = named(&request)?;
    match roots.iter().find(|root| !face.store.holds(root)) {
        Some(absent) => Err(Refusal::Failed(format!("pin: block was not found locally (offline): {absent}"))),
        None => Ok(json_answer(&json!({"Pins": roots}))),
    }
}

pub(super) async fn pin_ls(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.manages(request.headers())?;
    let named = roots(request.uri())?;
    if let Some(absent) = named.iter().find(|root| !face.store.holds(root)) {
        return Err(Refusal::Failed(format!("path '{absent}' is not pinned")));
    }
    let streamed = values(request.uri(), "stream") == ["true"];
    let listed = move |store: &Store| if named.is_empty() { store.packs() } else { named };
    Ok(json_lines(list(&face, move |store, lines| {
        if !streamed {
            lines.add("{\"Keys\":{");
        }
        for (at, root) in listed(store).into_iter().enumerate() {
            if streamed {
                lines.add(&format!("{}\n", json!({"Cid": root, "Type": "recursive", "Name": ""})));
            } else {
                let comma = if at == 0 { "" } else { "," };
                lines.add(&format!("{comma}\"{root}\":{{\"Type\":\"recursive\",\"Name\":\"\"}}"));
            }
            if lines.send_full().is_err() {
                return Ok(());
            }
        }
        if !streamed {
            lines.add("}}\n");
        }
        Ok(())
    })))
}

pub(super) async fn pin_rm(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.changes(request.headers())?;
    let roots = named(&request)?;
    if roots.iter().any(|root| !face.store.holds(root)) {
        // One that is gone may have been removed without its directory being synced; this makes sure.
        drop_all(&face, roots.clone()).await?;
        return Err(Refusal::Failed("not pinned or pinned indirectly".to_owned()));
    }
    drop_all(&face, roots.clone()).await?;
    Ok(json_answer(&json!({"Pins": roots})))
}

async fn drop_all(face: &Face, roots: Vec<PackRoot>) -> Result<(), StoreError> {
    face.on_store(move |store| roots.into_iter().try_for_each(|root| store.drop_pack(root))).await
}

pub(super) async fn pin_update(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    let pool = face.changes(request.headers())?;
    let [old, new] = roots(request.uri())?[..] else {
        return Err(Refusal::Bad("pin/update takes two pack roots".to_owned()));
    };
    if values(request.uri(), "unpin").iter().any(|unpin| unpin == "false") {
        return Err(Refusal::Bad("only unpin=true is served".to_owned()));
    }
    let staged = face.staged(new);
    let _turn = face.turns.write().await?;
    let header = staged.clone();
    face.on_store(move |store| {
        let header = header.map_or_else(|| store.header(new), Ok)?;
        store.replace(pool, old, &header)
    })
    .await?;
    if let Some(header) = staged {
        face.unstage(&header);
    }
    Ok(json_answer(&json!({"Pins": [old, new]})))
}

/// Every chunk and root that the packs' headers name, by its raw CID. A pack whose own header is damaged is left out:
/// its chunks cannot be read. So is one whose header the disk cannot read, while it can read another.
pub(super) async fn refs_local(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.manages(request.headers())?;
    Ok(json_lines(list(&face, |store, lines| {
        let (mut read, mut unread) = (0, None);
        for root in store.packs() {
            let header = match store.header(root) {
                Ok(header) => header,
                Err(error @ (StoreError::Corrupt(_) | StoreError::Absent(_))) => {
                    tracing::error!("{error}");
                    continue;
                }
                Err(error) if error.is_of_a_sector() => {
                    tracing::error!("pack {root}: {error}");
                    unread = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            read += 1;
            let chunks = header.entries.iter().map(|entry| entry.chunk);
            for chunk in chunks.chain([ChunkId::from_digest(*root.digest())]) {
                lines.add(&format!("{{\"Ref\":\"{chunk}\",\"Err\":\"\"}}\n"));
                if lines.send_full().is_err() {
                    return Ok(());
                }
            }
        }
        unread.filter(|_| read == 0).map_or(Ok(()), Err)
    })))
}

pub(super) async fn repo_stat(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.manages(request.headers())?;
    let usage = face.on_store(|store| store.usage()).await?;
    Ok(json_answer(&json!({
        "RepoSize": usage.used_bytes,
        "StorageMax": usage.capacity_bytes,
        "Packs": face.store.packs().len(),
        "SetAside": face.report.set_aside,
        "Syncs": face.store.syncs(),
    })))
}

/// Nothing waits to be collected: what is dropped is gone.
pub(super) async fn repo_gc(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.manages(request.headers())?;
    Ok(json_lines(Body::empty()))
}

pub(super) async fn diag_sys(State(face): State<SharedFace>, request: Request) -> Result<Response<Body>, Refusal> {
    face.manages(request.headers())?;
    let usage = face.on_store(|store| store.usage()).await?;
    Ok(json_answer(&json!({"diskinfo": {
        "free_space": usage.free_bytes,
        "total_space": usage.total_bytes,
        "reserve": reserve_bytes(usage.total_bytes),
    }})))
}

fn named(request: &Request) -> Result<Vec<PackRoot>, Refusal> {
    let roots = roots(request.uri())?;
    if roots.is_empty() { Err(Refusal::Bad("argument \"ipfs-path\" is required".to_owned())) } else { Ok(roots) }
}

/// The client has gone.
struct Gone;

/// Text on its way to a client, made on a thread that may block.
struct Lines {
    text: String,
    out: mpsc::Sender<std::io::Result<Bytes>>,
}

impl Lines {
    fn add(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Sends what has gathered if it is enough; waits for a slow client, whose connection is cut when it is too slow.
    fn send_full(&mut self) -> Result<(), Gone> {
        if self.text.len() < PIECE_BYTES { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result<(), Gone> {
        let text = std::mem::take(&mut self.text);
        self.out.blocking_send(Ok(Bytes::from(text))).map_err(|_| Gone)
    }
}

/// A body that is made piece by piece off the async threads. When the making fails the body breaks off, so that half a
/// list never looks whole.
fn list(face: &Face, make: impl FnOnce(&Store, &mut Lines) -> Result<(), StoreError> + Send + 'static) -> Body {
    let (out, mut pieces) = mpsc::channel(PIECES);
    let store = std::sync::Arc::clone(&face.store);
    tokio::task::spawn_blocking(move || {
        let mut lines = Lines { text: String::new(), out };
        let made = make(&store, &mut lines);
        let sent = match made {
            Ok(()) => lines.send(),
            Err(error) => {
                tracing::error!("a list breaks off: {error}");
                lines.out.blocking_send(Err(std::io::Error::other(error))).map_err(|_| Gone)
            }
        };
        // Nobody is left to be told.
        drop(sent);
    });
    Body::from_stream(poll_fn(move |cx| pieces.poll_recv(cx)))
}
