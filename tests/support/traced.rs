//! Wrappers that write down every call to a node and to the coordinator, with arguments and results, and count them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;

use bytenode::api::{
    Api, ApiResult, BadCopy, BeginPut, ChunksPlanned, CommitFiles, Committed, Entry, ListRequest, ManifestPage,
    OpenRead, PacksJudged, PacksSent, Page, PlanChunks, PutSession, ReadChunks, ReadSession, Removed,
};
use bytenode::id::{ChunkId, PackRoot, UploadId};
use bytenode::node::{ChunkAt, GrantToken, Node, NodeError, NodeStatus, Receipt, SharedNode};
use bytenode::pack::{Pack, PackHeader};
use bytenode::path::RemotePath;

/// What happened, in order. Lines are kept only when asked for; counts always.
#[derive(Default)]
pub struct Trace {
    lines: Mutex<Option<Vec<String>>>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Trace {
    /// From now on keeps lines.
    pub fn keep(&self) {
        *self.lines.lock().unwrap() = Some(Vec::new());
    }

    /// Writes a line.
    pub fn note(&self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut *self.lines.lock().unwrap() {
            lines.push(line());
        }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone().unwrap_or_default()
    }

    /// How often something was called: `api plan_chunks`, `n1 write_pack`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    /// How often calls whose name begins so were made.
    pub fn count(&self, prefix: &str) -> u64 {
        self.counts().iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    }

    pub fn reset(&self) {
        self.counts.lock().unwrap().clear();
    }

    fn call(&self, who: &str, what: &str) {
        *self.counts.lock().unwrap().entry(format!("{who} {what}")).or_default() += 1;
    }

    fn answered<T: Debug>(&self, who: &str, what: &str, given: &dyn Debug, answer: &T) {
        self.note(|| {
            let mut line = format!("{who} {what} {given:?} -> {answer:?}");
            if line.len() > 2000 {
                let digest = ChunkId::of(line.as_bytes());
                let end = line.floor_char_boundary(500);
                line.truncate(end);
                line.push_str(&format!("… {digest}"));
            }
            line
        });
    }
}

/// A node whose calls are written down.
pub struct TracedNode {
    name: String,
    inner: SharedNode,
    trace: Arc<Trace>,
}

impl Debug for TracedNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl TracedNode {
    pub fn new(name: String, inner: SharedNode, trace: Arc<Trace>) -> Arc<Self> {
        Arc::new(Self { name, inner, trace })
    }

    async fn traced<T: Debug>(
        &self,
        what: &str,
        given: &(dyn Debug + Sync),
        call: impl Future<Output = Result<T, NodeError>> + Send,
    ) -> Result<T, NodeError> {
        self.trace.call(&self.name, what);
        self.trace.note(|| format!("{} {what} {given:?}", self.name));
        let answer = call.await;
        self.trace.answered(&self.name, what, &given, &answer);
        answer
    }
}

#[async_trait]
impl Node for TracedNode {
    async fn status(&self) -> Result<NodeStatus, NodeError> {
        self.traced("status", &(), self.inner.status()).await
    }

    async fn write_pack(&self, pack: &Pack, grant: Option<&GrantToken>) -> Result<Receipt, NodeError> {
        self.traced("write_pack", &pack.root(), self.inner.write_pack(pack, grant)).await
    }

    async fn protect_pack(&self, root: PackRoot, bytes: u64) -> Result<(), NodeError> {
        self.traced("protect_pack", &(root, bytes), self.inner.protect_pack(root, bytes)).await
    }

    async fn holds_pack(&self, root: PackRoot) -> Result<bool, NodeError> {
        self.traced("holds_pack", &root, self.inner.holds_pack(root)).await
    }

    async fn read_chunk(
        &self,
        at: &ChunkAt,
        range: Option<Range<u64>>,
        grant: Option<&GrantToken>,
    ) -> Result<Bytes, NodeError> {
        self.trace.call(&self.name, "read_chunk");
        let answer = self.inner.read_chunk(at, range, grant).await;
        self.trace.answered(&self.name, "read_chunk", &at, &answer.as_ref().map(Bytes::len));
        answer
    }

    async fn remove_chunk(&self, chunk: ChunkId) -> Result<(), NodeError> {
        self.traced("remove_chunk", &chunk, self.inner.remove_chunk(chunk)).await
    }

    async fn pack_header(&self, root: PackRoot) -> Result<Option<PackHeader>, NodeError> {
        self.traced("pack_header", &root, self.inner.pack_header(root)).await
    }

    async fn list_packs(&self, each: &mut (dyn FnMut(PackRoot) + Send)) -> Result<(), NodeError> {
        self.traced("list_packs", &(), self.inner.list_packs(each)).await
    }

    async fn list_chunks(&self, each: &mut (dyn FnMut(ChunkId) + Send)) -> Result<(), NodeError> {
        self.traced("list_chunks", &(), self.inner.list_chunks(each)).await
    }

    async fn drop_pack(&self, root: PackRoot) -> Result<(), NodeError> {
        self.traced("drop_pack", &root, self.inner.drop_pack(root)).await
    }

    async fn replace_pack(&self, old: PackRoot, new: &PackHeader) -> Result<(), NodeError> {
        self.traced("replace_pack", &(old, new), self.inner.replace_pack(old, new)).await
    }
}

/// The coordinator's interface, with every call written down.
pub struct TracedApi {
    inner: Arc<dyn Api>,
    trace: Arc<Trace>,
}

impl TracedApi {
    pub fn new(inner: Arc<dyn Api>, trace: Arc<Trace>) -> Self {
        Self { inner, trace }
    }

    async fn traced<T: Debug>(
        &self,
        what: &str,
        given: &(dyn Debug + Sync),
        call: impl Future<Output = ApiResult<T>> + Send,
    ) -> ApiResult<T> {
        self.trace.call("api", what);
        let answer = call.await;
        self.trace.answered("api", what, &given, &answer);
        answer
    }
}

#[async_trait]
impl Api for TracedApi {
    async fn stat(&self, path: &RemotePath) -> ApiResult<Entry> {
        self.traced("stat", path, self.inner.stat(path)).await
    }
    async fn lookup(&self, paths: &[RemotePath]) -> ApiResult<Vec<Option<Entry>>> {
        self.traced("lookup", &paths, self.inner.lookup(paths)).await
    }
    async fn list(&self, request: &ListRequest) -> ApiResult<Page<Entry>> {
        self.traced("list", request, self.inner.list(request)).await
    }
    async fn make_dirs(&self, paths: &[RemotePath]) -> ApiResult<()> {
        self.traced("make_dirs", &paths, self.inner.make_dirs(paths)).await
    }
    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        self.traced("rename", &(from, to), self.inner.rename(from, to)).await
    }
    async fn copy(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        self.traced("copy", &(from, to), self.inner.copy(from, to)).await
    }
    async fn remove(&self, path: &RemotePath, recursive: bool, dry_run: bool) -> ApiResult<Removed> {
        self.traced("remove", &(path, recursive, dry_run), self.inner.remove(path, recursive, dry_run)).await
    }
    async fn begin_put(&self, request: &BeginPut) -> ApiResult<PutSession> {
        self.traced("begin_put", request, self.inner.begin_put(request)).await
    }
    async fn plan_chunks(&self, upload: UploadId, request: &PlanChunks) -> ApiResult<ChunksPlanned> {
        self.traced("plan_chunks", &(upload, request), self.inner.plan_chunks(upload, request)).await
    }
    async fn packs_sent(&self, upload: UploadId, request: &PacksSent) -> ApiResult<PacksJudged> {
        self.traced("packs_sent", &(upload, request), self.inner.packs_sent(upload, request)).await
    }
    async fn commit_files(&self, upload: UploadId, request: &CommitFiles) -> ApiResult<Vec<Committed>> {
        self.traced("commit_files", &(upload, request), self.inner.commit_files(upload, request)).await
    }
    async fn renew(&self, lease: UploadId) -> ApiResult<()> {
        self.traced("renew", &lease, self.inner.renew(lease)).await
    }
    async fn release(&self, lease: UploadId) -> ApiResult<()> {
        self.traced("release", &lease, self.inner.release(lease)).await
    }
    async fn open_read(&self, request: &OpenRead) -> ApiResult<ReadSession> {
        self.traced("open_read", request, self.inner.open_read(request)).await
    }
    async fn read_chunks(&self, read: UploadId, request: &ReadChunks) -> ApiResult<ManifestPage> {
        self.traced("read_chunks", &(read, request), self.inner.read_chunks(read, request)).await
    }
    async fn report_bad(&self, reports: &[BadCopy]) -> ApiResult<()> {
        self.traced("report_bad", &reports, self.inner.report_bad(reports)).await
    }
}
