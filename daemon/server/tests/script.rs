//! A scripted coordinator: it takes only the fixtures as arguments, and answers with fixtures, an error, or when let.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::fixture;
use crate::admin::{
    Admin, Adopt, Adopted, ChunkRow, Gate, HealthReport, HealthRequest, NewToken, NodeAdd, NodeEvent, NodeInfo,
    NodeReport, NodeRisks, NodeScrubbed, NodeSet, NodeWay, SealedBackup, Session, Status, Steer, Swept, Task,
    TaskReport, TaskRequest, WhoAmI,
};
use crate::api::{
    Api, ApiError, ApiResult, BadCopy, BeginPut, ChunksPlanned, Code, CommitFiles, Committed, Entry, ListRequest,
    ManifestPage, OpenRead, PacksJudged, PacksSent, Page, PlanChunks, PutSession, ReadChunks, ReadSession, Removed,
};
use crate::backup::Passphrase;
use crate::id::UploadId;
use crate::path::RemotePath;

/// The only token that the gate knows.
pub(super) const TOKEN: &str = "bnt_0123_abcDEF-._~+/=";

/// What the coordinator was asked, and what it shall answer.
pub(super) struct Script {
    /// Names of the calls so far.
    pub(super) calls: Mutex<Vec<&'static str>>,
    /// What every call answers instead of its fixture.
    pub(super) error: Mutex<Option<ApiError>>,
    /// Whether the catalog can be written.
    pub(super) ready: Mutex<ApiResult<()>>,
    /// `renew` adds a permit here when it begins.
    pub(super) begun: Semaphore,
    /// `renew` takes one here before it goes on.
    pub(super) go: Semaphore,
    /// `renew` adds a permit here when it ends.
    pub(super) ended: Semaphore,
}

impl Default for Script {
    fn default() -> Self {
        let none = || Semaphore::new(0);
        let (calls, error, ready) = (Mutex::default(), Mutex::default(), Mutex::new(Ok(())));
        Self { calls, error, ready, begun: none(), go: none(), ended: none() }
    }
}

impl Script {
    fn answer<T>(&self, call: &'static str, arrived: bool, value: T) -> ApiResult<T> {
        self.calls.lock().unwrap().push(call);
        assert!(arrived, "the arguments of {call} arrived changed");
        self.error.lock().unwrap().clone().map_or(Ok(value), Err)
    }

    pub(super) fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

/// Lets in whoever holds [`TOKEN`].
pub(super) struct Door(pub(super) Arc<Script>);

#[async_trait]
impl Gate for Door {
    async fn session(&self, token: &str) -> ApiResult<Arc<dyn Session>> {
        match token == TOKEN {
            true => Ok(self.0.clone()),
            false => Err(ApiError::new(Code::NotSignedIn, "the token is not valid")),
        }
    }

    async fn ready(&self) -> ApiResult<()> {
        self.0.ready.lock().unwrap().clone()
    }
}

#[async_trait]
impl Api for Script {
    async fn stat(&self, path: &RemotePath) -> ApiResult<Entry> {
        self.answer("stat", path.name() != Some("panic"), fixture::entry_at(path.clone()))
    }
    async fn lookup(&self, paths: &[RemotePath]) -> ApiResult<Vec<Option<Entry>>> {
        self.answer("lookup", paths == fixture::paths(), fixture::found())
    }
    async fn list(&self, request: &ListRequest) -> ApiResult<Page<Entry>> {
        self.answer("list", request == &fixture::list_request(), fixture::listing())
    }
    async fn make_dirs(&self, paths: &[RemotePath]) -> ApiResult<()> {
        self.answer("make_dirs", paths == fixture::paths(), ())
    }
    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        let arrived = from == &fixture::path() && to == &fixture::other_path();
        self.answer("rename", arrived, fixture::entry())
    }
    async fn copy(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        let arrived = from == &fixture::path() && to == &fixture::other_path();
        self.answer("copy", arrived, fixture::entry())
    }
    async fn remove(&self, path: &RemotePath, recursive: bool, dry_run: bool) -> ApiResult<Removed> {
        self.answer("remove", path == &fixture::path() && !recursive && dry_run, fixture::removed())
    }
    async fn begin_put(&self, request: &BeginPut) -> ApiResult<PutSession> {
        self.answer("begin_put", request == &fixture::begin_put(), fixture::put_session())
    }
    async fn plan_chunks(&self, upload: UploadId, request: &PlanChunks) -> ApiResult<ChunksPlanned> {
        let arrived = upload == fixture::lease() && request == &fixture::plan_chunks();
        self.answer("plan_chunks", arrived, fixture::planned())
    }
    async fn packs_sent(&self, upload: UploadId, request: &PacksSent) -> ApiResult<PacksJudged> {
        let arrived = upload == fixture::lease() && request == &fixture::packs_sent();
        self.answer("packs_sent", arrived, fixture::planned())
    }
    async fn commit_files(&self, upload: UploadId, request: &CommitFiles) -> ApiResult<Vec<Committed>> {
        let arrived = upload == fixture::lease() && request == &fixture::commit_files();
        self.answer("commit_files", arrived, fixture::committed())
    }
    async fn renew(&self, lease: UploadId) -> ApiResult<()> {
        self.begun.add_permits(1);
        self.go.acquire().await.unwrap().forget();
        self.ended.add_permits(1);
        self.answer("renew", lease == fixture::lease(), ())
    }
    async fn release(&self, lease: UploadId) -> ApiResult<()> {
        self.answer("release", lease == fixture::lease(), ())
    }
    async fn open_read(&self, request: &OpenRead) -> ApiResult<ReadSession> {
        self.answer("open_read", request == &fixture::open_read(), fixture::read_session())
    }
    async fn read_chunks(&self, read: UploadId, request: &ReadChunks) -> ApiResult<ManifestPage> {
        let arrived = read == fixture::lease() && request == &fixture::read_chunks();
        self.answer("read_chunks", arrived, fixture::manifest())
    }
    async fn report_bad(&self, reports: &[BadCopy]) -> ApiResult<()> {
        self.answer("report_bad", reports == fixture::bad_copies(), ())
    }
}

#[async_trait]
impl Admin for Script {
    async fn whoami(&self) -> ApiResult<WhoAmI> {
        self.answer("whoami", true, fixture::whoami())
    }
    async fn create_token(&self, name: &str) -> ApiResult<NewToken> {
        self.answer("create_token", name == fixture::NODE_NAME, fixture::new_token())
    }
    async fn revoke_own_token(&self) -> ApiResult<()> {
        self.answer("revoke_own_token", true, ())
    }
    async fn chunk_rows(&self, path: &RemotePath, cursor: Option<&str>, limit: u32) -> ApiResult<Page<ChunkRow>> {
        let arrived = path == &fixture::path() && cursor == Some(fixture::CURSOR) && limit == 7;
        self.answer("chunk_rows", arrived, fixture::chunk_rows())
    }
    async fn status(&self) -> ApiResult<Status> {
        self.answer("status", true, fixture::status())
    }
    async fn nodes(&self) -> ApiResult<Vec<NodeInfo>> {
        self.answer("nodes", true, vec![fixture::node_info()])
    }
    async fn ways(&self, machine: &str) -> ApiResult<Vec<NodeWay>> {
        self.answer("ways", machine == fixture::NODE_NAME, fixture::ways())
    }
    async fn risks(&self) -> ApiResult<Vec<NodeRisks>> {
        self.answer("risks", true, fixture::risks())
    }
    async fn node_add(&self, request: &NodeAdd) -> ApiResult<NodeReport> {
        self.answer("node_add", request == &fixture::node_add(), fixture::node_report())
    }
    async fn node_test(&self, name: &str) -> ApiResult<NodeReport> {
        self.answer("node_test", name == fixture::NODE_NAME, fixture::node_report())
    }
    async fn node_remove(&self, name: &str, lost: bool, dry_run: bool) -> ApiResult<HealthReport> {
        let arrived = name == fixture::NODE_NAME && lost && !dry_run;
        self.answer("node_remove", arrived, fixture::health_report())
    }
    async fn health(&self, request: &HealthRequest) -> ApiResult<HealthReport> {
        self.answer("health", request == &fixture::health_request(), fixture::health_report())
    }
    async fn node_set(&self, name: &str, change: &NodeSet) -> ApiResult<NodeReport> {
        let right = name == fixture::NODE_NAME && change == &fixture::node_set();
        self.answer("node_set", right, fixture::node_report())
    }
    async fn node_events(&self, name: &str) -> ApiResult<Vec<NodeEvent>> {
        self.answer("node_events", name == fixture::NODE_NAME, fixture::node_events())
    }
    async fn task_start(&self, request: &TaskRequest) -> ApiResult<Task> {
        self.answer("task_start", request == &fixture::task_request(), fixture::task())
    }
    async fn tasks(&self) -> ApiResult<Vec<Task>> {
        self.answer("tasks", true, vec![fixture::task()])
    }
    async fn task(&self, id: u64, wait: u64, done: u64) -> ApiResult<TaskReport> {
        self.answer("task", (id, wait, done) == (u64::MAX, 3, 4), fixture::task_report())
    }
    async fn task_steer(&self, id: u64, steer: Steer) -> ApiResult<Task> {
        self.answer("task_steer", (id, steer) == (7, Steer::Cancel), fixture::task())
    }
    async fn gc(&self, now: bool, dry_run: bool) -> ApiResult<Swept> {
        self.answer("gc", now && !dry_run, fixture::swept())
    }
    async fn scrub(&self, all: bool, dry_run: bool) -> ApiResult<Vec<NodeScrubbed>> {
        self.answer("scrub", all && !dry_run, fixture::scrubbed())
    }
    async fn backup(&self, passphrase: &Passphrase) -> ApiResult<SealedBackup> {
        let pieces = fixture::backup().chunks(1000).map(|piece| Ok(piece.to_vec().into())).collect::<Vec<_>>();
        let stream = futures_util::stream::iter(pieces);
        self.answer("backup", passphrase == &fixture::passphrase(), Box::pin(stream) as SealedBackup)
    }
    async fn backup_kept(&self, made: jiff::Timestamp) -> ApiResult<()> {
        self.answer("backup_kept", made == fixture::time(), ())
    }
    async fn adopt(&self, request: &Adopt) -> ApiResult<Adopted> {
        self.answer("adopt", request == &fixture::adopt(), fixture::adopted())
    }
}
