//! The relay: the built-in node's interface and grants, served by the coordinator in front of any node.
//!
//! Invariants: a grant of this pool for this very node and pack is the only authority. What goes to the node was checked
//! as a built-in node checks it: the granted root, this pool's canonical header, its chunks in order, each hashed, the
//! exact length; a request that goes wrong is cut before its end. What goes to a client was read whole and hashed, and is
//! a chunk of the granted pack. The coordinator's credential goes to the node alone, never into an answer. A request
//! holds a few chunks at most, and every wait has a limit.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::OnceCell;

use super::kubo::answer::{Refusal, import_answer, json_answer, json_lines};
use super::kubo::block::{absent, digest, length, only_raw, part, tagged};
use super::kubo::body::{Arriving, bearer, content_type, nonce, wrong_act};
use super::kubo::multipart::PartReader;
use super::kubo::turns::Turns;
use crate::api::{NodeAddress, NodeKind};
use crate::coordinator::relay::Relay;
use crate::dial::HttpDial;
use crate::grant::{GrantError, Verb};
use crate::id::{ChunkId, NodeId, PackRoot};
use crate::node::http::{Ended, HttpNode, Limits, PackSender};
use crate::node::{ChunkAt, GrantToken, Node, NodeError, NodeFailure, Receipt};
use crate::pack::{MAX_CHUNK_BYTES, PackHeader};
use crate::pack_reader::{PackReadError, PackReader, Part, Scope};
use crate::seam::Seam;

/// Packs whose chunks are remembered: at most 64 KiB each.
const PACKS: usize = 64;

/// What clients can hold and how long they and nodes can wait.
#[derive(Debug, Clone, Copy)]
pub struct RelayLimits {
    /// For the next byte of a client's body.
    pub progress: Duration,
    /// For a turn to write or read.
    pub turn: Duration,
    /// Packs that are written at a time.
    pub writes: usize,
    /// Memory for chunks on their way out, in bytes.
    pub read_bytes: usize,
    /// For the nodes.
    pub node: Limits,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            progress: Duration::from_secs(20),
            turn: Duration::from_secs(10),
            writes: 16,
            read_bytes: 128 << 20,
            node: Limits::default(),
        }
    }
}

/// The relay's routes, to be served beside the coordinator's.
pub fn routes(relay: Arc<dyn Relay>, limits: RelayLimits) -> Router {
    let seam = Seam::real();
    let face = Face {
        relay,
        dial: HttpDial::new(limits.node, seam.clone()),
        turns: Turns::new(limits.turn, limits.writes, limits.read_bytes),
        packs: Packs::default(),
        seam,
        limits,
    };
    Router::new()
        .route("/relay/{node}/api/v0/id", post(id))
        .route("/relay/{node}/api/v0/dag/import", post(import))
        .route("/relay/{node}/ipfs/{cid}", get(read))
        .with_state(Arc::new(face))
}

struct Face {
    relay: Arc<dyn Relay>,
    dial: HttpDial,
    turns: Turns,
    packs: Packs,
    seam: Seam,
    limits: RelayLimits,
}

/// A node and what its request's grant permits there.
struct Granted {
    address: NodeAddress,
    node: Arc<HttpNode>,
    /// The client's grant, where the node checks it too.
    grant: Option<GrantToken>,
    verb: Verb,
}

impl Face {
    fn granted(&self, node: &str, headers: &HeaderMap) -> Result<Granted, Refusal> {
        let denied = |error: GrantError| Refusal::Denied(error.to_string());
        let token = bearer(headers)?;
        let grant = self.relay.key().read_grant(token).map_err(denied)?;
        let id: NodeId = node.parse().map_err(|_| denied(GrantError::Scope("another node")))?;
        let verb = grant.what.clone();
        grant.permits(&self.relay.pool(), &id, &verb, self.relay.now()).map_err(denied)?;
        let gone = || Refusal::Unreachable(format!("node {id} is not registered any more"));
        let address = self.relay.upstream(&id).ok_or_else(gone)?;
        let node = self.dial.http(&address).map_err(refusal)?;
        let grant = (address.kind == NodeKind::Builtin).then(|| GrantToken::new(token.to_owned()));
        Ok(Granted { address, node, grant, verb })
    }

    /// The chunks of a pack with their lengths.
    async fn chunks(&self, node: &NodeId, pack: PackRoot) -> Result<Option<Arc<Chunks>>, Refusal> {
        let known = self.packs.at((node.clone(), pack));
        let ask = async {
            let entries = self.relay.entries(node, pack).await.map_err(|error| {
                tracing::warn!(%error, "the catalog does not say what a pack holds");
                Some(Refusal::Overloaded)
            })?;
            let chunks = entries.ok_or(None)?.iter().map(|entry| (entry.chunk, entry.bytes)).collect();
            Ok(Arc::new(chunks))
        };
        match known.get_or_try_init(|| ask).await {
            Ok(chunks) => Ok(Some(Arc::clone(chunks))),
            Err(None) => Ok(None),
            Err(Some(refusal)) => Err(refusal),
        }
    }
}

type Chunks = HashMap<ChunkId, u64>;
type PackKey = (NodeId, PackRoot);

/// What is known of a pack; whoever asks first fills it in, others wait for that.
type Known = Arc<OnceCell<Arc<Chunks>>>;

/// The packs that were read last. What a root links never changes, so nothing here grows old.
#[derive(Default)]
struct Packs(Mutex<VecDeque<(PackKey, Known)>>);

impl Packs {
    fn at(&self, key: PackKey) -> Known {
        let mut packs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = packs.iter().position(|(known, _)| *known == key).and_then(|place| packs.remove(place));
        let (key, known) = found.unwrap_or_else(|| (key, Known::default()));
        packs.push_back((key, Arc::clone(&known)));
        if packs.len() > PACKS {
            packs.pop_front();
        }
        known
    }
}

/// Has a built-in node behind prove who it is.
async fn id(
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let nonce = nonce(request.uri())?.ok_or_else(|| Refusal::Bad("a nonce is required".to_owned()))?;
    let address = node.parse().ok().and_then(|id| face.relay.upstream(&id));
    let builtin = address.filter(|address| address.kind == NodeKind::Builtin);
    let address = builtin.ok_or_else(|| Refusal::Unreachable("no such built-in node is registered".to_owned()))?;
    let proof = face.dial.http(&address).map_err(refusal)?.proof(&nonce).await.map_err(refusal)?;
    Ok(json_answer(&json!({"ID": address.id, "Proof": proof})))
}

async fn read(
    State(face): State<Arc<Face>>,
    Path((node, cid)): Path<(String, String)>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let granted = face.granted(&node, request.headers())?;
    let Verb::Read { root } = granted.verb else { return Err(wrong_act()) };
    only_raw(request.uri())?;
    let chunk = ChunkId::from_digest(digest(&cid)?);
    let chunks = face.chunks(&granted.address.id, root).await?;
    let Some(bytes) = chunks.and_then(|chunks| chunks.get(&chunk).copied()) else { return Ok(absent(&cid)) };
    let turn = face.turns.read(MAX_CHUNK_BYTES).await?;
    let at = ChunkAt { chunk, bytes, pack: root };
    match granted.node.read_chunk(&at, None, granted.grant.as_ref()).await {
        Ok(bytes) if *request.method() == Method::HEAD => tagged(length(bytes.len() as u64), &cid),
        Ok(bytes) => tagged(part(bytes, turn, request.headers()), &cid),
        Err(NodeError { reason: NodeFailure::Absent(what), .. }) => Ok(absent(&what)),
        Err(error) => Err(refusal(error)),
    }
}

async fn import(
    State(face): State<Arc<Face>>,
    Path(node): Path<String>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let (head, mut body) = request.into_parts();
    let mut arriving = Arriving::new(&mut body, face.limits.progress);
    let sent = async {
        let granted = face.granted(&node, &head.headers)?;
        let Verb::Write { root, bytes } = granted.verb else { return Err(wrong_act()) };
        let form = PartReader::new(content_type(&head.headers))?;
        let _turn = face.turns.write().await?;
        let reader = PackReader::new(face.relay.pool(), Scope::Pack { root, bytes });
        let checking = Checking { form, proven: Proven { reader, header: None, chunks: Vec::new() } };
        pass_on(&face, &granted, checking, &mut arriving).await
    };
    match sent.await {
        Ok(answer) => Ok(json_lines(Body::from(answer))),
        Err(refusal) => {
            if !matches!(refusal, Refusal::Stalled) {
                arriving.linger().await;
            }
            Err(refusal)
        }
    }
}

/// A pack between its arrival and its way on.
struct Checking {
    form: PartReader,
    proven: Proven,
}

/// The part of a pack that has been found right, and waits to be sent on.
struct Proven {
    reader: PackReader,
    header: Option<PackHeader>,
    chunks: Vec<(ChunkId, Bytes)>,
}

impl Checking {
    /// Hashes what has arrived; what is whole and right waits in `chunks`.
    fn take(mut self, batch: &[Bytes]) -> Result<Self, Refusal> {
        for bytes in batch {
            let payload = self.form.push(bytes)?;
            self.proven.check(&payload)?;
        }
        Ok(self)
    }

    /// Takes the end of the body, after which everything is here and right.
    fn finish(self) -> Result<Vec<(ChunkId, Bytes)>, Refusal> {
        let Self { form, mut proven } = self;
        proven.check(&form.finish()?)?;
        proven.reader.finish().map_err(wrong)?;
        Ok(proven.chunks)
    }
}

impl Proven {
    fn check(&mut self, payload: &[u8]) -> Result<(), Refusal> {
        self.reader.push(payload).map_err(wrong)?;
        while let Some(part) = self.reader.next().map_err(wrong)? {
            match part {
                Part::Root(_) => {}
                Part::Header(header) => self.header = Some(header),
                Part::Chunk(chunk, bytes) => self.chunks.push((chunk, bytes)),
            }
        }
        Ok(())
    }
}

fn wrong(error: PackReadError) -> Refusal {
    Refusal::Failed(error.to_string())
}

/// Why feeding stopped.
enum Stopped {
    Client(Refusal),
    Node,
}

impl From<Refusal> for Stopped {
    fn from(refusal: Refusal) -> Self {
        Self::Client(refusal)
    }
}

impl From<Ended> for Stopped {
    fn from(_: Ended) -> Self {
        Self::Node
    }
}

/// Waits for the proven header, then sends on each chunk as it is proven. Gives the answer for the client.
async fn pass_on(
    face: &Face,
    granted: &Granted,
    mut checking: Checking,
    arriving: &mut Arriving<'_>,
) -> Result<String, Refusal> {
    let header = loop {
        if let Some(header) = checking.proven.header.take() {
            break header;
        }
        let batch = arriving.batch().await?;
        if batch.is_empty() {
            // A body that ends before its header is no pack.
            checking.finish()?;
            return Err(Refusal::Bad("the body has no pack".to_owned()));
        }
        checking = face.seam.offload(move || checking.take(&batch)).await?;
    };
    let root = header.root();
    let stats = (1 + header.entries.len() as u64, header.root_block().len() as u64 + header.bytes());
    let (sender, pack) = granted.node.incoming(header);
    let mut sending = std::pin::pin!(granted.node.send_pack(pack, granted.grant.as_ref()));
    let fed = tokio::select! {
        biased;
        fed = feed(face, checking, arriving, sender) => fed,
        sent = &mut sending => return Err(match sent {
            Err(error) => refusal(error),
            Ok(_) => Refusal::Unreachable(format!("node {} answered before the pack's end", granted.address.name)),
        }),
    };
    if let Err(Stopped::Client(refusal)) = fed {
        return Err(refusal);
    }
    match sending.await.map_err(refusal)? {
        Receipt::Signed { token } => Ok(import_answer(root, Some(&token), None)),
        Receipt::Unproved => Ok(import_answer(root, None, Some(stats))),
    }
}

/// Gives the sender every proven chunk, and its end only when the whole body was right.
async fn feed(
    face: &Face,
    mut checking: Checking,
    arriving: &mut Arriving<'_>,
    sender: PackSender,
) -> Result<(), Stopped> {
    loop {
        for (chunk, bytes) in std::mem::take(&mut checking.proven.chunks) {
            sender.chunk(&chunk, bytes).await?;
        }
        let batch = arriving.batch().await?;
        if batch.is_empty() {
            break;
        }
        checking = face.seam.offload(move || checking.take(&batch)).await?;
    }
    let rest = face.seam.offload(move || checking.finish()).await?;
    for (chunk, bytes) in rest {
        sender.chunk(&chunk, bytes).await?;
    }
    Ok(sender.finish().await?)
}

/// What a node's failure is to a client of the relay. Its text names the node and was cleared of secrets before.
fn refusal(error: NodeError) -> Refusal {
    let text = error.to_string();
    match error.reason {
        NodeFailure::Denied(_) => Refusal::Denied(text),
        NodeFailure::Full(why) => Refusal::Failed(format!("node is full ({why})")),
        NodeFailure::Answer(_) | NodeFailure::Corrupt(_) | NodeFailure::Absent(_) => Refusal::Failed(text),
        NodeFailure::Unreachable(_)
        | NodeFailure::Timeout { .. }
        | NodeFailure::OtherIdentity { .. }
        | NodeFailure::Unproved(_) => Refusal::Unreachable(text),
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Face").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use jiff::Timestamp;

    use super::*;
    use crate::api::ApiResult;
    use crate::grant::{PublicKey, SigningKey};
    use crate::id::PoolId;
    use crate::pack::PackEntry;

    /// A coordinator that lets others come between, and counts what it is asked.
    #[derive(Default)]
    struct Slow(AtomicUsize);

    #[async_trait::async_trait]
    impl Relay for Slow {
        fn pool(&self) -> PoolId {
            PoolId::from_bytes([1; 16])
        }

        fn key(&self) -> PublicKey {
            SigningKey::from_seed(&[1; 32]).public()
        }

        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn upstream(&self, _: &NodeId) -> Option<NodeAddress> {
            None
        }

        async fn entries(&self, _: &NodeId, pack: PackRoot) -> ApiResult<Option<Vec<PackEntry>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let entries = vec![PackEntry { chunk: ChunkId::of(b"x"), bytes: 1 }];
            Ok((pack != PackRoot::of(b"unknown")).then_some(entries))
        }
    }

    /// A reader that asks for many chunks of a pack at once had the coordinator look the pack up for each.
    #[tokio::test]
    async fn a_pack_is_looked_up_once_however_many_ask() {
        let (relay, limits, seam) = (Arc::new(Slow::default()), RelayLimits::default(), Seam::real());
        let face = Face {
            relay: Arc::clone(&relay) as Arc<dyn Relay>,
            dial: HttpDial::new(limits.node, seam.clone()),
            turns: Turns::new(limits.turn, limits.writes, limits.read_bytes),
            packs: Packs::default(),
            seam,
            limits,
        };
        let node: NodeId = "kubo".parse().unwrap();
        let asked = |text: &'static [u8]| face.chunks(&node, PackRoot::of(text));
        let (one, two, three) = tokio::join!(asked(b"a"), asked(b"a"), asked(b"b"));
        assert!([one, two, three].into_iter().all(|found| found.is_ok_and(|chunks| chunks.is_some())));
        assert_eq!(relay.0.load(Ordering::Relaxed), 2);
        assert!(asked(b"unknown").await.is_ok_and(|chunks| chunks.is_none()));
        assert!(asked(b"unknown").await.is_ok_and(|chunks| chunks.is_none()), "it is asked for again");
        for number in 0..2 * PACKS as u64 {
            drop(face.packs.at((node.clone(), PackRoot::of(&number.to_le_bytes()))));
        }
        assert_eq!(face.packs.0.lock().unwrap().len(), PACKS);
    }
}
