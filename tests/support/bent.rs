//! An interface to the coordinator whose answers are bent on their way to the client.

use std::sync::Arc;

use async_trait::async_trait;

use bytenode::api::{
    Api, ApiResult, BadCopy, BeginPut, ChunksPlanned, CommitFiles, Committed, Entry, ListRequest, ManifestPage,
    OpenRead, PacksJudged, PacksSent, Page, PlanChunks, PutSession, ReadChunks, ReadSession, Removed,
};
use bytenode::id::UploadId;
use bytenode::path::RemotePath;

use super::pool::User;

/// An answer that can be bent.
pub enum Answer<'a> {
    Lookup(&'a mut Vec<Option<Entry>>),
    Put(&'a mut PutSession),
    Plan(&'a mut ChunksPlanned),
    Judged(&'a mut PacksJudged),
    Committed(&'a mut Vec<Committed>),
    Read(&'a mut ReadSession),
    Page(&'a mut ManifestPage),
    /// No answer: what is reported.
    Reported(&'a [BadCopy]),
}

/// What is done to every answer.
pub type Bend = Box<dyn Fn(Answer<'_>) + Send + Sync>;

struct Bent {
    inner: Arc<dyn Api>,
    bend: Bend,
}

/// The same user, who gets other answers.
pub fn bent(user: &User, bend: impl Fn(Answer<'_>) + Send + Sync + 'static) -> User {
    user.through(Arc::new(Bent { inner: Arc::clone(&user.context.api), bend: Box::new(bend) }))
}

#[async_trait]
impl Api for Bent {
    async fn stat(&self, path: &RemotePath) -> ApiResult<Entry> {
        self.inner.stat(path).await
    }
    async fn lookup(&self, paths: &[RemotePath]) -> ApiResult<Vec<Option<Entry>>> {
        let mut answer = self.inner.lookup(paths).await?;
        (self.bend)(Answer::Lookup(&mut answer));
        Ok(answer)
    }
    async fn list(&self, request: &ListRequest) -> ApiResult<Page<Entry>> {
        self.inner.list(request).await
    }
    async fn make_dirs(&self, paths: &[RemotePath]) -> ApiResult<()> {
        self.inner.make_dirs(paths).await
    }
    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        self.inner.rename(from, to).await
    }
    async fn copy(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        self.inner.copy(from, to).await
    }
    async fn remove(&self, path: &RemotePath, recursive: bool, dry_run: bool) -> ApiResult<Removed> {
        self.inner.remove(path, recursive, dry_run).await
    }
    async fn begin_put(&self, request: &BeginPut) -> ApiResult<PutSession> {
        let mut answer = self.inner.begin_put(request).await?;
        (self.bend)(Answer::Put(&mut answer));
        Ok(answer)
    }
    async fn plan_chunks(&self, upload: UploadId, request: &PlanChunks) -> ApiResult<ChunksPlanned> {
        let mut answer = self.inner.plan_chunks(upload, request).await?;
        (self.bend)(Answer::Plan(&mut answer));
        Ok(answer)
    }
    async fn packs_sent(&self, upload: UploadId, request: &PacksSent) -> ApiResult<PacksJudged> {
        let mut answer = self.inner.packs_sent(upload, request).await?;
        (self.bend)(Answer::Judged(&mut answer));
        Ok(answer)
    }
    async fn commit_files(&self, upload: UploadId, request: &CommitFiles) -> ApiResult<Vec<Committed>> {
        let mut answer = self.inner.commit_files(upload, request).await?;
        (self.bend)(Answer::Committed(&mut answer));
        Ok(answer)
    }
    async fn renew(&self, lease: UploadId) -> ApiResult<()> {
        self.inner.renew(lease).await
    }
    async fn release(&self, lease: UploadId) -> ApiResult<()> {
        self.inner.release(lease).await
    }
    async fn open_read(&self, request: &OpenRead) -> ApiResult<ReadSession> {
        let mut answer = self.inner.open_read(request).await?;
        (self.bend)(Answer::Read(&mut answer));
        Ok(answer)
    }
    async fn read_chunks(&self, read: UploadId, request: &ReadChunks) -> ApiResult<ManifestPage> {
        let mut answer = self.inner.read_chunks(read, request).await?;
        (self.bend)(Answer::Page(&mut answer));
        Ok(answer)
    }
    async fn report_bad(&self, reports: &[BadCopy]) -> ApiResult<()> {
        (self.bend)(Answer::Reported(reports));
        self.inner.report_bad(reports).await
    }
}
