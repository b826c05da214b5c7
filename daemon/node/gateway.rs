//! `GET` and `HEAD /ipfs/CID?format=raw`: one chunk's bytes, proved before the first is sent, never from elsewhere. With
//! `unproved=true` whoever asks for all of a chunk proves it by itself, as one must anyway who trusts no node, and the node
//! is spared the same work.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::RANGE;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};

use super::face::{Face, SharedFace};
use crate::daemon::kubo::answer::{Refusal, plain};
use crate::daemon::kubo::block::{absent, digest, length, only_raw, part, tagged};
use crate::daemon::kubo::body::{values, wrong_act};
use crate::grant::Verb;
use crate::id::{ChunkId, PackRoot};
use crate::node::builtin::{Store, StoreError};
use crate::pack::MAX_CHUNK_BYTES;

pub(super) async fn read(
    State(face): State<SharedFace>,
    Path(cid): Path<String>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let named = named_pack(&face, request.headers(), request.uri())?;
    only_raw(request.uri())?;
    let digest = digest(&cid)?;
    let found = if *request.method() == Method::HEAD {
        size(&face, named, digest).await
    } else {
        // A part proves nothing to whoever gets it.
        let whole = !request.headers().contains_key(RANGE);
        let unproved = whole && values(request.uri(), "unproved") == ["true"];
        bytes(&face, named, digest, unproved, request.headers()).await?
    };
    match found {
        Ok(response) => tagged(response, &cid),
        Err(StoreError::Absent(what)) => Ok(absent(&what)),
        Err(error @ (StoreError::Corrupt(_) | StoreError::Io { .. })) => {
            tracing::error!("{error}");
            Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The pack that the grant, or the coordinator by a query key, names.
fn named_pack(face: &Face, headers: &HeaderMap, uri: &Uri) -> Result<Option<PackRoot>, Refusal> {
    let asked = values(uri, "pack").first().map(|pack| pack.parse()).transpose();
    let asked = asked.map_err(|error| Refusal::Bad(format!("{error}")))?;
    match face.permitted(headers)?.1 {
        Verb::Read { root } if asked.is_none_or(|asked| asked == root) => Ok(Some(root)),
        Verb::Manage => Ok(asked),
        Verb::Read { .. } | Verb::Write { .. } => Err(wrong_act()),
    }
}

async fn size(face: &Face, pack: Option<PackRoot>, digest: [u8; 32]) -> Result<Response<Body>, StoreError> {
    Ok(length(face.on_store(move |store| store.size_of(find(store, pack, &digest)?, &digest)).await?))
}

async fn bytes(
    face: &Face,
    pack: Option<PackRoot>,
    digest: [u8; 32],
    unproved: bool,
    headers: &HeaderMap,
) -> Result<Result<Response<Body>, StoreError>, Refusal> {
    let turn = face.turns.read(MAX_CHUNK_BYTES).await?;
    let read = face.on_store(move |store| {
        let pack = find(store, pack, &digest)?;
        if unproved { store.read_unproved(pack, &digest) } else { store.read(pack, &digest) }
    });
    Ok(read.await.map(|bytes| part(bytes, turn, headers)))
}

fn find(store: &Store, pack: Option<PackRoot>, digest: &[u8; 32]) -> Result<PackRoot, StoreError> {
    match pack {
        Some(pack) => Ok(pack),
        None => store.find(digest)?.ok_or_else(|| StoreError::Absent(ChunkId::from_digest(*digest).to_string())),
    }
}
