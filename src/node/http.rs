//! A node behind Kubo's interface over HTTP: Kubo itself, and the built-in node, which speaks the part used here.
//!
//! Kubo's success proves little, so an answer counts only after it was read to its end, with the right status, content
//! and trailers. Nothing is imported with its pin, no pinned root is added again, no read leaves the node, and every
//! wait is bounded by [`Limits`]. Error texts are short and hold no credential.

mod base;
mod connector;
mod credential;
mod incoming;
mod limits;
mod packs;
mod started;
#[cfg(test)]
mod tests;
mod transport;
mod upload;
mod wire;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::{CACHE_CONTROL, DATE, HeaderName, HeaderValue, RANGE};
use hyper::{HeaderMap, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;

use self::base::Base;
use self::connector::Expected;
use self::credential::Authorization;
pub use self::credential::{Credential, MintGrant};
use self::incoming::Coming;
pub use self::incoming::{Ended, IncomingPack, PackSender};
pub use self::limits::Limits;
use self::transport::{Answer, Ask, Transport};
use crate::api::NodeKind;
use crate::buffers;
use crate::failpoint::{Step, reached};
use crate::grant::{MAX_SKEW, Nonce, PublicKey};
use crate::id::{ChunkId, NodeId, PackRoot};
use crate::node::{ChunkAt, GrantToken, Node, NodeError, NodeFailure, NodeStatus, Receipt};
use crate::pack::{Pack, PackHeader};
use crate::seam::Seam;

/// What calls say of themselves.
const AGENT: &str = concat!("bytenode/", env!("CARGO_PKG_VERSION"));
/// Bodies from this length on are hashed off the async threads.
const OFFLOAD_BYTES: usize = 128 << 10;

/// Everything an [`HttpNode`] is built from.
#[derive(Debug, Clone)]
pub struct HttpNodeOptions {
    /// The name people gave it, for error texts; where it has none, its address.
    pub name: String,
    /// Who it must be, if that is known. A built-in node must prove it on every connection, before anything else goes
    /// over it; see [`NodeFailure::Unproved`].
    pub expected_id: Option<NodeId>,
    /// What it is: [`NodeKind::Kubo`] or [`NodeKind::Builtin`].
    pub kind: NodeKind,
    /// Base URL of the interface that takes packs.
    pub url: String,
    /// Base URL of the gateway that gives chunks; empty to read through the first (`block/get`), which is slower.
    pub gateway: String,
    /// How calls are permitted.
    pub credential: Credential,
    /// How long it may take.
    pub limits: Limits,
    /// Time, chance and threads.
    pub seam: Seam,
}

/// A node behind Kubo's interface. Keeps its connections; several calls may run at once.
pub struct HttpNode {
    name: String,
    expected_id: Option<NodeId>,
    kind: NodeKind,
    rpc: Base,
    gateway: Option<Base>,
    credential: Credential,
    limits: Limits,
    seam: Seam,
    transport: Transport,
    started: started::Started,
}

impl fmt::Debug for HttpNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.rpc.as_str();
        f.debug_struct("HttpNode").field("name", &self.name).field("url", &url).finish_non_exhaustive()
    }
}

/// What one call is: path and query below the base, who permits it, and what is waited for.
struct Call<'a> {
    path: String,
    grant: Option<&'a GrantToken>,
    pieces: Vec<Bytes>,
    coming: Option<Coming>,
    content_type: Option<HeaderValue>,
    answer_within: Duration,
    doing: &'static str,
}

impl HttpNode {
    /// A node at an address. Contacts nobody.
    ///
    /// # Errors
    /// [`NodeFailure::Unreachable`] for an address that is no plain `http` or `https` URL, and [`NodeFailure::Denied`]
    /// for a credential that has no form Kubo knows, or would be minted for a node that cannot prove who it is.
    pub fn new(options: HttpNodeOptions) -> Result<Arc<Self>, NodeError> {
        let HttpNodeOptions { name, expected_id, kind, url, gateway, credential, limits, seam } = options;
        let named = if name.is_empty() { "at the given address".to_owned() } else { name.clone() };
        let failed = |failure: NodeFailure| failure.at(named.clone());
        let rpc = Base::parse(&url).map_err(failed)?;
        let gateway = Some(gateway.as_str()).filter(|url| !url.is_empty()).map(Base::parse).transpose();
        let gateway = gateway.map_err(failed)?;
        if let Credential::Kubo(secret) = &credential
            && Authorization::kubo(secret.expose()).is_none()
        {
            let expected = "the credential must be bearer:TOKEN, basic:USER:PASSWORD or basic:BASE64";
            return Err(failed(NodeFailure::Denied(expected.to_owned())));
        }
        let key = expected_id.as_ref().and_then(PublicKey::of_node);
        if key.is_none() && matches!(credential, Credential::Mint(_)) {
            let why = "a grant is only for a built-in node whose identity is known";
            return Err(failed(NodeFailure::Denied(why.to_owned())));
        }
        let path = rpc.join("/api/v0/id").map_err(failed)?.path().to_owned();
        let expected = key.map(|key| Expected { key, path, within: limits.first_byte, seam: seam.clone() });
        let transport = Transport::new(limits, expected);
        let name = if name.is_empty() { rpc.as_str().to_owned() } else { name };
        Ok(Arc::new(Self {
            name,
            expected_id,
            kind,
            rpc,
            gateway,
            credential,
            limits,
            seam,
            transport,
            started: started::Started::default(),
        }))
    }

    /// The name it goes by in errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks one call of the RPC interface for a small JSON answer. `path` is what follows `/api/v0/`, escaped.
    pub(crate) async fn ask_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, NodeError> {
        Ok(self.json(self.call(path, "answering")).await.map_err(|failure| self.at(failure))?.0)
    }

    /// Sends a small JSON body with one call, and gives its JSON answer.
    #[cfg(feature = "daemon")]
    pub(crate) async fn tell_json(&self, path: &str, body: &serde_json::Value) -> Result<serde_json::Value, NodeError> {
        let mut call = self.call(path, "answering");
        call.pieces = vec![Bytes::from(body.to_string())];
        call.content_type = Some(HeaderValue::from_static("application/json"));
        Ok(self.json(call).await.map_err(|failure| self.at(failure))?.0)
    }

    /// Asks it who it is, with its credential. A built-in node that is expected proves it on the way.
    ///
    /// # Errors
    /// As every call; [`NodeFailure::OtherIdentity`] for another one than was expected.
    pub async fn who(&self) -> Result<NodeId, NodeError> {
        let said: wire::Identity = self.ask_json("id").await?;
        let found = node_id(&said.id).map_err(|failure| self.at(failure))?;
        if self.expected_id.as_ref().is_some_and(|expected| *expected != found) {
            return Err(self.at(NodeFailure::OtherIdentity { found }));
        }
        Ok(found)
    }

    /// Has a built-in node prove for this number, drawn elsewhere, who it is.
    ///
    /// # Errors
    /// As every call; [`NodeFailure::Unproved`] for an answer without a proof.
    pub async fn proof(&self, nonce: &Nonce) -> Result<String, NodeError> {
        let said: wire::Identity = self.ask_json(&format!("id?nonce={nonce}")).await?;
        let id = node_id(&said.id).map_err(|failure| self.at(failure))?;
        said.proof.ok_or_else(|| self.at(NodeFailure::Unproved(id)))
    }

    /// Asks for a page of the RPC interface's port that is no call, such as its metrics.
    pub(crate) async fn page(&self, path: &str, most: usize) -> Result<Bytes, NodeError> {
        let got = async {
            let mut ask = self.ask(Method::GET, &self.rpc, path, self.authorization(None)?)?;
            ask.doing = "answering";
            self.transport.send(ask).await?.good().await?.collect(most).await
        };
        got.await.map_err(|failure| self.at(failure))
    }

    fn at(&self, failure: NodeFailure) -> NodeError {
        failure.at(self.name.clone())
    }

    fn authorization(&self, grant: Option<&GrantToken>) -> Result<Authorization, NodeFailure> {
        let found = match (&self.credential, grant) {
            (Credential::Kubo(secret), _) => Authorization::kubo(secret.expose()),
            (_, Some(grant)) => Authorization::grant(grant),
            (Credential::Mint(mint), None) => Authorization::grant(&mint()),
            (Credential::None, None) => Some(Authorization::default()),
        };
        found.ok_or_else(|| NodeFailure::Denied("the credential is malformed".to_owned()))
    }

    fn ask(&self, method: Method, base: &Base, path: &str, authorization: Authorization) -> Result<Ask, NodeFailure> {
        Ok(Ask {
            method,
            uri: base.join(path)?,
            host: None,
            headers: Vec::new(),
            content_type: None,
            pieces: Vec::new(),
            coming: None,
            authorization,
            answer_within: self.limits.first_byte,
            doing: "answering",
        })
    }

    fn call(&self, path: impl Into<String>, doing: &'static str) -> Call<'static> {
        let answer_within = self.limits.first_byte;
        Call {
            path: path.into(),
            grant: None,
            pieces: Vec::new(),
            coming: None,
            content_type: None,
            answer_within,
            doing,
        }
    }

    /// Makes a call of the RPC interface; its answer has a good status and is still to be read.
    async fn post(&self, call: Call<'_>) -> Result<Answer, NodeFailure> {
        let authorization = self.authorization(call.grant)?;
        let mut ask = self.ask(Method::POST, &self.rpc, &format!("/api/v0/{}", call.path), authorization)?;
        ask.content_type = call.content_type;
        ask.pieces = call.pieces;
        ask.coming = call.coming;
        ask.answer_within = call.answer_within;
        ask.doing = call.doing;
        self.transport.send(ask).await?.good().await
    }

    async fn json<T: DeserializeOwned>(&self, call: Call<'_>) -> Result<(T, HeaderMap), NodeFailure> {
        let doing = call.doing;
        let mut answer = self.post(call).await?;
        let headers = std::mem::take(&mut answer.headers);
        let body = answer.collect(wire::MAX_ANSWER_BYTES).await?;
        let value = serde_json::from_slice(&body)
            .map_err(|_| NodeFailure::Answer(format!("something else than was asked ({doing})")))?;
        Ok((value, headers))
    }

    /// A text that does not occur in a body.
    fn boundary(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.seam.bytes::<16>())
    }

    /// Sends a CAR that is whole, and reads what became of it.
    async fn import_whole(
        &self,
        pieces: Vec<Bytes>,
        expected: wire::Expected,
        grant: Option<&GrantToken>,
    ) -> Result<Receipt, NodeFailure> {
        let boundary = self.boundary();
        self.import(wire::multipart(&boundary, pieces), None, boundary, expected, grant).await
    }

    /// Sends a multipart body around a CAR and reads what became of it.
    async fn import(
        &self,
        pieces: Vec<Bytes>,
        coming: Option<Coming>,
        boundary: String,
        expected: wire::Expected,
        grant: Option<&GrantToken>,
    ) -> Result<Receipt, NodeFailure> {
        let mut call = self.call("dag/import?pin-roots=false&allow-big-block=true&stats=true", "importing a pack");
        call.grant = grant;
        call.pieces = pieces;
        call.coming = coming;
        let form = format!("multipart/form-data; boundary={boundary}");
        call.content_type = Some(HeaderValue::from_str(&form).expect("hex digits"));
        call.answer_within = self.limits.after_upload();
        let answer = self.post(call).await?;
        let authorization = answer.authorization.clone();
        let body = answer.collect(wire::MAX_ANSWER_BYTES).await?;
        let mut import = wire::Import::new(expected);
        let read = body.split(|byte| *byte == b'\n').try_for_each(|line| import.line(line));
        read.and_then(|()| import.end()).map_err(|failure| authorization.told(failure))
    }

    async fn read(
        &self,
        at: &ChunkAt,
        range: Option<Range<u64>>,
        grant: Option<&GrantToken>,
    ) -> Result<Bytes, NodeFailure> {
        if let Some(range) = &range
            && (range.start > range.end || range.end > at.bytes)
        {
            let Range { start, end } = range;
            return Err(NodeFailure::Answer(format!("nothing: bytes {start} to {end} of {} were asked", at.bytes)));
        }
        let part = range.as_ref().filter(|range| **range != (0..at.bytes));
        let answer = match &self.gateway {
            Some(gateway) => self.ask_gateway(gateway, at, part, grant).await?,
            None => self.get_block(&at.chunk, grant).await?,
        };
        let partial = answer.status == StatusCode::PARTIAL_CONTENT;
        let expected = match &range {
            Some(range) if partial => range.end - range.start,
            _ => at.bytes,
        };
        let bytes = body_of(answer, at, expected).await?;
        match range {
            Some(_) if partial => Ok(bytes),
            Some(range) => Ok(bytes.slice(range.start as usize..range.end as usize)),
            None if partial => Err(NodeFailure::Answer("a part where the whole was asked".to_owned())),
            None => self.proved(at.chunk, bytes).await,
        }
    }

    async fn ask_gateway(
        &self,
        gateway: &Base,
        at: &ChunkAt,
        range: Option<&Range<u64>>,
        grant: Option<&GrantToken>,
    ) -> Result<Answer, NodeFailure> {
        let mut path = format!("/ipfs/{}?format=raw", at.chunk);
        if self.kind == NodeKind::Builtin && grant.is_none() {
            path.push_str(&format!("&pack={}", at.pack));
        }
        if self.kind == NodeKind::Builtin && range.is_none() {
            // It is proved here, or by whoever asked for all of it as a range.
            path.push_str("&unproved=true");
        }
        let authorization = match &self.credential {
            Credential::Kubo(_) => Authorization::default(),
            _ => self.authorization(grant)?,
        };
        let mut ask = self.ask(Method::GET, gateway, &path, authorization)?;
        ask.host = gateway.gateway_host().cloned();
        ask.headers.push((CACHE_CONTROL, HeaderValue::from_static("only-if-cached")));
        ask.headers.extend(range.and_then(range_header));
        ask.doing = "giving a chunk";
        let answer = self.transport.send(ask).await?;
        if answer.status == StatusCode::PRECONDITION_FAILED {
            return Err(NodeFailure::Absent(at.chunk.to_string()));
        }
        match answer.good().await {
            // The built-in node hashes what it gives a part of, and so does a Kubo with HashOnRead.
            Err(NodeFailure::Answer(text)) if text.contains("are corrupt") || text.contains("different hash") => {
                Err(NodeFailure::Corrupt(at.chunk.to_string()))
            }
            // A Kubo whose block cache has what its disk has lost: this read failed, the next finds nothing at once.
            Err(NodeFailure::Answer(text)) if wire::is_absence(&text) => Err(NodeFailure::Absent(at.chunk.to_string())),
            other => other,
        }
    }

    /// A block by its digest, whatever its codec, from the node's own store.
    async fn get_block(&self, block: &ChunkId, grant: Option<&GrantToken>) -> Result<Answer, NodeFailure> {
        let path = format!("block/get?arg={block}&offline=true&timeout={}", timeout(self.limits.first_byte));
        let mut call = self.call(path, "giving a chunk");
        call.grant = grant;
        match self.post(call).await {
            Err(NodeFailure::Answer(text)) if wire::is_absence(&text) => Err(NodeFailure::Absent(block.to_string())),
            other => other,
        }
    }

    /// What this node does not have may be at the one that it is taken for: a Kubo does not prove with every call who it is,
    /// and its address may lead to another by now. Where it does not say who it is, it is believed.
    async fn missing(&self, what: String) -> NodeFailure {
        if let (NodeKind::Kubo, Some(expected)) = (self.kind, &self.expected_id)
            && let Ok((identity, _)) = self.json::<wire::Identity>(self.call("id", "saying who it is")).await
            && let Ok(found) = node_id(&identity.id)
            && found != *expected
        {
            return NodeFailure::OtherIdentity { found };
        }
        NodeFailure::Absent(what)
    }

    async fn proved(&self, chunk: ChunkId, bytes: Bytes) -> Result<Bytes, NodeFailure> {
        let right = if bytes.len() < OFFLOAD_BYTES {
            chunk.names(&bytes)
        } else {
            let shared = bytes.clone();
            self.seam.offload(move || chunk.names(&shared)).await
        };
        if right { Ok(bytes) } else { Err(NodeFailure::Corrupt(chunk.to_string())) }
    }

    async fn ask_status(&self) -> Result<NodeStatus, NodeFailure> {
        let asked = self.json::<wire::Identity>(self.call("id", "saying who it is")).await;
        let (identity, headers) = asked?;
        let repo = self.json::<wire::RepoStat>(self.call("repo/stat?size-only=true", "saying how full it is"));
        let sys = self.json::<wire::Sys>(self.call("diag/sys", "saying how full its disk is"));
        let asked = tokio::try_join!(repo, sys).map_err(|failure| self.told_by_clock(failure, clock(&headers)));
        let ((repo, _), (sys, _)) = asked?;
        let id = node_id(&identity.id)?;
        if self.expected_id.as_ref().is_some_and(|expected| *expected != id) {
            return Err(NodeFailure::OtherIdentity { found: id });
        }
        let allowed = repo.storage_max.unwrap_or(u64::MAX).saturating_sub(repo.repo_size);
        Ok(NodeStatus {
            id,
            version: wire::version(&identity.agent_version),
            used_bytes: repo.repo_size,
            free_bytes: allowed.min(sys.diskinfo.free_space.unwrap_or(u64::MAX)),
            clock: clock(&headers),
            started: self.running_since().await,
        })
    }

    /// A node refuses every grant while its clock is far off: then that is what has to be set right.
    fn told_by_clock(&self, failure: NodeFailure, clock: Option<Timestamp>) -> NodeFailure {
        let skew = clock.map_or(SignedDuration::ZERO, |clock| clock.duration_since(self.seam.now()));
        match failure {
            NodeFailure::Denied(why) if skew.abs() > MAX_SKEW => {
                let off = SignedDuration::from_mins(skew.abs().as_mins());
                let way = if skew.is_negative() { "behind" } else { "ahead" };
                NodeFailure::Denied(format!("{why}; its clock is {off:#} {way}, set it right"))
            }
            failure => failure,
        }
    }
}

/// The body, which must have exactly the expected length: another one is wrong bytes, not an answer to go on with.
async fn body_of(mut answer: Answer, at: &ChunkAt, expected: u64) -> Result<Bytes, NodeFailure> {
    let mut out = buffers::take(usize::try_from(expected.min(crate::pack::MAX_CHUNK_BYTES)).unwrap_or(0));
    while let Some(piece) = answer.next().await? {
        if out.len() as u64 + piece.len() as u64 > expected {
            return Err(NodeFailure::Corrupt(at.chunk.to_string()));
        }
        out.extend_from_slice(&piece);
    }
    if out.len() as u64 != expected {
        return Err(NodeFailure::Corrupt(at.chunk.to_string()));
    }
    Ok(out.freeze())
}

/// The header for a range; nothing for an empty one, which HTTP cannot say.
fn range_header(range: &Range<u64>) -> Option<(HeaderName, HeaderValue)> {
    let last = range.end.checked_sub(1).filter(|last| range.start <= *last)?;
    let value = HeaderValue::from_str(&format!("bytes={}-{last}", range.start)).expect("digits");
    Some((RANGE, value))
}

/// A limit as Go writes durations.
fn timeout(limit: Duration) -> String {
    format!("{}ms", limit.as_millis())
}

fn node_id(text: &str) -> Result<NodeId, NodeFailure> {
    text.parse().map_err(|_| NodeFailure::Answer("an identity that is none".to_owned()))
}

/// The node's clock, to the second.
fn clock(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp())
}

/// A call that changes what a node keeps.
async fn changing<T>(call: impl Future<Output = T>) -> T {
    reached(Step::Node);
    let answer = call.await;
    reached(Step::Node);
    answer
}

#[async_trait]
impl Node for HttpNode {
    async fn status(&self) -> Result<NodeStatus, NodeError> {
        self.ask_status().await.map_err(|failure| {
            self.started.forget();
            self.at(failure)
        })
    }

    async fn write_pack(&self, pack: &Pack, grant: Option<&GrantToken>) -> Result<Receipt, NodeError> {
        let expected = wire::Expected::of(pack.header());
        changing(self.import_whole(pack.car(), expected, grant)).await.map_err(|failure| self.at(failure))
    }

    async fn protect_pack(&self, root: PackRoot, bytes: u64) -> Result<(), NodeError> {
        changing(self.protect(root, bytes)).await.map_err(|failure| self.at(failure))
    }

    async fn holds_pack(&self, root: PackRoot) -> Result<bool, NodeError> {
        self.holds(root).await.map_err(|failure| self.at(failure))
    }

    async fn read_chunk(
        &self,
        at: &ChunkAt,
        range: Option<Range<u64>>,
        grant: Option<&GrantToken>,
    ) -> Result<Bytes, NodeError> {
        match self.read(at, range, grant).await {
            Err(NodeFailure::Absent(what)) => Err(self.at(self.missing(what).await)),
            read => read.map_err(|failure| self.at(failure)),
        }
    }

    async fn pack_header(&self, root: PackRoot) -> Result<Option<PackHeader>, NodeError> {
        self.header(root).await.map_err(|failure| self.at(failure))
    }

    async fn list_packs(&self, each: &mut (dyn FnMut(PackRoot) + Send)) -> Result<(), NodeError> {
        let mut line = |line: &[u8]| {
            let pin: wire::PinLine = serde_json::from_slice(line).map_err(|_| not_json())?;
            // Pins of other kinds are other people's.
            if let Ok(root) = pin.cid.parse() {
                each(root);
            }
            Ok(())
        };
        let call = self.call("pin/ls?type=recursive&stream=true", "listing packs");
        let listed = async { self.post(call).await?.each_line(wire::MAX_LINE_BYTES, &mut line).await };
        listed.await.map_err(|failure| self.at(failure))
    }

    async fn list_chunks(&self, each: &mut (dyn FnMut(ChunkId) + Send)) -> Result<(), NodeError> {
        let mut line = |line: &[u8]| {
            let found: wire::RefLine = serde_json::from_slice(line).map_err(|_| not_json())?;
            if !found.err.is_empty() {
                return Err(NodeFailure::Answer(found.err));
            }
            if let Ok(chunk) = found.r#ref.parse() {
                each(chunk);
            }
            Ok(())
        };
        let call = self.call("refs/local", "listing chunks");
        let listed = async {
            let answer = self.post(call).await?;
            let authorization = answer.authorization.clone();
            let read = answer.each_line(wire::MAX_LINE_BYTES, &mut line).await;
            read.map_err(|failure| authorization.told(failure))
        };
        listed.await.map_err(|failure| self.at(failure))
    }

    async fn drop_pack(&self, root: PackRoot) -> Result<(), NodeError> {
        changing(self.unpin(root)).await.map_err(|failure| self.at(failure))
    }

    async fn replace_pack(&self, old: PackRoot, new: &PackHeader) -> Result<(), NodeError> {
        changing(self.replace(old, new)).await.map_err(|failure| self.at(failure))
    }

    async fn remove_chunk(&self, chunk: ChunkId) -> Result<(), NodeError> {
        if self.kind != NodeKind::Kubo {
            return Ok(());
        }
        let mut line = |line: &[u8]| {
            let removed: wire::RemovedLine = serde_json::from_slice(line).map_err(|_| not_json())?;
            if removed.error.is_empty() { Ok(()) } else { Err(NodeFailure::Answer(removed.error)) }
        };
        // One that is not there is no error with this.
        let call = self.call(format!("block/rm?arg={chunk}&force=true"), "removing a block");
        let removed = async { self.post(call).await?.each_line(wire::MAX_LINE_BYTES, &mut line).await };
        removed.await.map_err(|failure| self.at(failure))
    }
}

fn not_json() -> NodeFailure {
    NodeFailure::Answer("a line that is no JSON".to_owned())
}
