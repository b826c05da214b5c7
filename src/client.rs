//! The coordinator over HTTP: [`Client`] implements [`Api`] and [`Admin`] for whoever holds a token.
//!
//! The token goes to the given address only: no redirects, no proxies, and until TLS exists, loopback only. Every call
//! ends within its limit. Answers are bounded and checked, never trusted. Calls of which the traits say that they may
//! be repeated are sent again when a connection drops.

mod call;
pub mod wire;

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde::Serialize;

use crate::admin::{
    Admin, Adopt, Adopted, ChunkRow, HealthReport, HealthRequest, NewToken, NodeAdd, NodeEvent, NodeInfo, NodeReport,
    NodeRisks, NodeScrubbed, NodeSet, NodeWay, SealedBackup, Status, Steer, Swept, Task, TaskReport, TaskRequest,
    WhoAmI,
};
use crate::api::{
    Api, ApiError, ApiResult, BadCopy, BeginPut, ChunksPlanned, Code, CommitFiles, Committed, Entry, ListRequest,
    ManifestPage, OpenRead, PacksJudged, PacksSent, Page, PlanChunks, PutSession, ReadChunks, ReadSession, Removed,
};
use crate::backup::Passphrase;
use crate::id::UploadId;
use crate::path::RemotePath;

use call::{Call, Patience, Repeat};
pub use call::{Client, Locate};

/// How long and how much a client waits and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// For a connection.
    pub connect: Duration,
    /// For a call and all its repetitions.
    pub call: Duration,
    /// For the calls that may work for long: health, gc, adopt, and adding, testing and removing a node.
    pub long_call: Duration,
    /// Bytes of one answer that is not a stream.
    pub answer_bytes: usize,
    /// How long a coordinator that has answered before may be away, as when it is started again: calls that it cannot
    /// have done, or that may be done twice, are sent again until then. Less than `call`.
    pub away: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            call: Duration::from_secs(30),
            long_call: Duration::from_secs(24 * 3600),
            answer_bytes: 64 << 20,
            away: Duration::from_secs(25),
        }
    }
}

fn get<'a>(segments: &'a [&'a str]) -> Call<'a> {
    Call::new(Method::GET, segments, Repeat::Safe)
}

fn delete<'a>(segments: &'a [&'a str]) -> Call<'a> {
    Call::new(Method::DELETE, segments, Repeat::Safe)
}

/// A POST that may be repeated after a lost answer.
fn post<'a>(segments: &'a [&'a str], body: &impl Serialize) -> ApiResult<Call<'a>> {
    Call::new(Method::POST, segments, Repeat::Safe).body(body)
}

/// A POST that must not happen twice.
fn post_once<'a>(segments: &'a [&'a str], body: &impl Serialize) -> ApiResult<Call<'a>> {
    Call::new(Method::POST, segments, Repeat::Never).body(body)
}

fn from_to(from: &RemotePath, to: &RemotePath) -> wire::FromTo {
    wire::FromTo { from: from.clone(), to: to.clone() }
}

/// Checks that an answer has one item for each that was asked.
fn one_each<T>(items: Vec<T>, asked: usize, what: &str) -> ApiResult<Vec<T>> {
    match items.len() == asked {
        true => Ok(items),
        false => Err(wrong_answer(format!("the coordinator answered with {} {what} for {asked}", items.len()))),
    }
}

/// Checks that a page is no larger than asked, and that the next one is another.
fn sound_page<T>(page: Page<T>, cursor: Option<&str>, limit: u32) -> ApiResult<Page<T>> {
    if page.items.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
        return Err(wrong_answer(format!("the coordinator answered with {} items for {limit}", page.items.len())));
    }
    if page.next_cursor.is_some() && page.next_cursor.as_deref() == cursor {
        return Err(wrong_answer("the coordinator answered with the same page as the next one"));
    }
    Ok(page)
}

fn wrong_answer(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Internal, message)
}

#[async_trait]
impl Api for Client {
    async fn stat(&self, path: &RemotePath) -> ApiResult<Entry> {
        self.send(get(&["files", "stat"]).query("path", path)).await
    }

    async fn lookup(&self, paths: &[RemotePath]) -> ApiResult<Vec<Option<Entry>>> {
        let body = wire::Paths { paths: paths.to_vec() };
        let answer: wire::Entries = self.send(post(&["files", "lookup"], &body)?).await?;
        one_each(answer.entries, paths.len(), "entries")
    }

    async fn list(&self, request: &ListRequest) -> ApiResult<Page<Entry>> {
        let call = get(&["files"])
            .query("path", &request.path)
            .query("recursive", request.recursive)
            .query("limit", request.limit)
            .query_some("cursor", request.cursor.as_deref());
        sound_page(self.send(call).await?, request.cursor.as_deref(), request.limit)
    }

    async fn make_dirs(&self, paths: &[RemotePath]) -> ApiResult<()> {
        self.send(post(&["dirs"], &wire::Paths { paths: paths.to_vec() })?).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        self.send(post_once(&["files", "rename"], &from_to(from, to))?).await
    }

    async fn copy(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        self.send(post_once(&["files", "copy"], &from_to(from, to))?).await
    }

    async fn remove(&self, path: &RemotePath, recursive: bool, dry_run: bool) -> ApiResult<Removed> {
        let call = Call::new(Method::DELETE, &["files"], Repeat::Never)
            .query("path", path)
            .query("recursive", recursive)
            .query("dry_run", dry_run);
        self.send(call).await
    }

    async fn begin_put(&self, request: &BeginPut) -> ApiResult<PutSession> {
        self.send(post(&["puts"], request)?).await
    }

    async fn plan_chunks(&self, upload: UploadId, request: &PlanChunks) -> ApiResult<ChunksPlanned> {
        let mut planned: ChunksPlanned = self.send(post(&["puts", &upload.to_string(), "plan"], request)?).await?;
        self.resolve(&mut planned.nodes);
        Ok(planned)
    }

    async fn packs_sent(&self, upload: UploadId, request: &PacksSent) -> ApiResult<PacksJudged> {
        let mut judged: PacksJudged = self.send(post(&["puts", &upload.to_string(), "sent"], request)?).await?;
        self.resolve(&mut judged.nodes);
        Ok(judged)
    }

    async fn commit_files(&self, upload: UploadId, request: &CommitFiles) -> ApiResult<Vec<Committed>> {
        let call = &["puts", &upload.to_string(), "commit"];
        let answer: wire::CommittedFiles = self.send(post(call, request)?).await?;
        one_each(answer.files, request.files.len(), "files")
    }

    async fn renew(&self, lease: UploadId) -> ApiResult<()> {
        self.send(Call::new(Method::POST, &["leases", &lease.to_string(), "renew"], Repeat::Safe)).await
    }

    async fn release(&self, lease: UploadId) -> ApiResult<()> {
        self.send(delete(&["leases", &lease.to_string()])).await
    }

    async fn open_read(&self, request: &OpenRead) -> ApiResult<ReadSession> {
        let mut session: ReadSession = self.send(post(&["reads"], request)?).await?;
        session.files = one_each(session.files, request.paths.len(), "files")?;
        Ok(session)
    }

    async fn read_chunks(&self, read: UploadId, request: &ReadChunks) -> ApiResult<ManifestPage> {
        let mut page: ManifestPage = self.send(post(&["reads", &read.to_string(), "chunks"], request)?).await?;
        page.spans = one_each(page.spans, request.spans.len(), "spans")?;
        self.resolve(&mut page.nodes);
        Ok(page)
    }

    async fn report_bad(&self, reports: &[BadCopy]) -> ApiResult<()> {
        self.send(post(&["bad-copies"], &wire::BadCopies { reports: reports.to_vec() })?).await
    }
}

#[async_trait]
impl Admin for Client {
    async fn whoami(&self) -> ApiResult<WhoAmI> {
        self.send(get(&["whoami"])).await
    }

    async fn create_token(&self, name: &str) -> ApiResult<NewToken> {
        self.send(post_once(&["tokens"], &wire::TokenRequest { name: name.to_owned() })?).await
    }

    async fn revoke_own_token(&self) -> ApiResult<()> {
        self.send(Call::new(Method::DELETE, &["tokens", "current"], Repeat::Never)).await
    }

    async fn chunk_rows(&self, path: &RemotePath, cursor: Option<&str>, limit: u32) -> ApiResult<Page<ChunkRow>> {
        let call = get(&["files", "chunks"]).query("path", path).query("limit", limit).query_some("cursor", cursor);
        sound_page(self.send(call).await?, cursor, limit)
    }

    async fn status(&self) -> ApiResult<Status> {
        self.send(get(&["status"])).await
    }

    async fn nodes(&self) -> ApiResult<Vec<NodeInfo>> {
        let answer: wire::Nodes = self.send(get(&["nodes"])).await?;
        Ok(answer.nodes)
    }

    async fn ways(&self, machine: &str) -> ApiResult<Vec<NodeWay>> {
        let answer: wire::Ways = self.send(get(&["ways"]).query("machine", machine)).await?;
        let mut ways = answer.ways;
        ways.iter_mut().for_each(|way| self.resolve(std::slice::from_mut(&mut way.address)));
        Ok(ways)
    }

    async fn risks(&self) -> ApiResult<Vec<NodeRisks>> {
        let answer: wire::Risks = self.send(get(&["risks"])).await?;
        Ok(answer.nodes)
    }

    async fn node_add(&self, request: &NodeAdd) -> ApiResult<NodeReport> {
        self.send(post_once(&["nodes"], request)?.patience(Patience::Long)).await
    }

    async fn node_test(&self, name: &str) -> ApiResult<NodeReport> {
        let segments = &["nodes", name, "test"];
        self.send(Call::new(Method::POST, segments, Repeat::Never).patience(Patience::Long)).await
    }

    async fn node_set(&self, name: &str, change: &NodeSet) -> ApiResult<NodeReport> {
        let segments = &["nodes", name];
        let call = Call::new(Method::PATCH, segments, Repeat::Never).patience(Patience::Long);
        self.send(call.body(change)?).await
    }

    async fn node_events(&self, name: &str) -> ApiResult<Vec<NodeEvent>> {
        let answer: wire::NodeEvents = self.send(get(&["nodes", name, "events"])).await?;
        Ok(answer.events)
    }

    async fn node_remove(&self, name: &str, lost: bool, dry_run: bool) -> ApiResult<HealthReport> {
        let segments = &["nodes", name];
        let call = Call::new(Method::DELETE, segments, Repeat::Never).query("lost", lost).query("dry_run", dry_run);
        self.send(call.patience(Patience::Long)).await
    }

    async fn health(&self, request: &HealthRequest) -> ApiResult<HealthReport> {
        self.send(post_once(&["health"], request)?.patience(Patience::Long)).await
    }

    async fn gc(&self, now: bool, dry_run: bool) -> ApiResult<Swept> {
        self.send(post_once(&["gc"], &wire::GcRequest { now, dry_run })?.patience(Patience::Long)).await
    }

    async fn scrub(&self, all: bool, dry_run: bool) -> ApiResult<Vec<NodeScrubbed>> {
        let call = post_once(&["scrub"], &wire::ScrubRequest { all, dry_run })?.patience(Patience::Long);
        self.send::<wire::ScrubReport>(call).await.map(|report| report.nodes)
    }

    async fn task_start(&self, request: &TaskRequest) -> ApiResult<Task> {
        self.send(post_once(&["tasks"], request)?).await
    }

    async fn tasks(&self) -> ApiResult<Vec<Task>> {
        let answer: wire::Tasks = self.send(get(&["tasks"])).await?;
        Ok(answer.tasks)
    }

    async fn task(&self, id: u64, wait: u64, done: u64) -> ApiResult<TaskReport> {
        self.send(get(&["tasks", &id.to_string()]).query("wait", wait).query("done", done)).await
    }

    async fn task_steer(&self, id: u64, steer: Steer) -> ApiResult<Task> {
        self.send(post(&["tasks", &id.to_string(), "steer"], &wire::SteerRequest { steer })?).await
    }

    async fn backup(&self, passphrase: &Passphrase) -> ApiResult<SealedBackup> {
        let body = wire::BackupRequest { passphrase: passphrase.clone() };
        self.stream(post_once(&["backup"], &body)?.patience(Patience::Long), wire::BACKUP_TYPE).await
    }

    async fn backup_kept(&self, made: jiff::Timestamp) -> ApiResult<()> {
        self.send(post(&["backup", "kept"], &wire::BackupKept { made })?).await
    }

    async fn adopt(&self, request: &Adopt) -> ApiResult<Adopted> {
        self.send(post_once(&["adopt"], request)?.patience(Patience::Long)).await
    }
}
