//! A signed-in user's view of the coordinator, in process: tokens, and [`Api`] for the user's own vault.

use std::sync::Arc;

use async_trait::async_trait;

use super::leases::Lease;
use super::{Coordinator, internal};
use crate::admin::{Gate, NewToken, Role, Session};
use crate::api::{
    Api, ApiError, ApiResult, BadCopy, BeginPut, ChunksPlanned, Code, CommitFiles, Committed, Entry, Kind, ListRequest,
    MAX_FILES, MAX_LOOKUP, ManifestPage, OpenRead, PacksJudged, PacksSent, Page, PlanChunks, PutSession, ReadChunks,
    ReadSession, Removed,
};
use crate::catalog::files::{self, LinkTime};
use crate::catalog::users::{self, User};
use crate::id::{UploadId, sha256};
use crate::node::GrantToken;
use crate::path::RemotePath;

/// What every token begins with, so that secret scanners recognise one.
const PREFIX: &str = "bnt_";

/// One user's session.
#[derive(Debug, Clone)]
pub struct LocalSession {
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) user: User,
    pub(super) token: String,
}

impl Coordinator {
    /// Makes a token for a user: `bnt_<id>_<secret>`; only a hash of the secret is kept.
    ///
    /// # Errors
    /// The catalog's.
    pub async fn create_token_for(&self, user: i64, name: &str) -> ApiResult<NewToken> {
        let id = data_encoding::HEXLOWER.encode(&self.seam.bytes::<6>());
        let secret = data_encoding::HEXLOWER.encode(&self.seam.bytes::<32>());
        let hash = sha256(secret.as_bytes());
        let (kept, name, now) = (id.clone(), name.chars().take(100).collect::<String>(), self.seam.now());
        self.write(move |c| users::add_token(c, user, &kept, &hash, &name, now)).await?;
        Ok(NewToken { token: GrantToken::new(format!("{PREFIX}{id}_{secret}")), id })
    }

    /// The session of whoever holds this token.
    ///
    /// # Errors
    /// [`Code::NotSignedIn`].
    pub async fn local_session(self: &Arc<Self>, token: &str) -> ApiResult<LocalSession> {
        let refuse = || ApiError::new(Code::NotSignedIn, "the token is not valid").hint("bytenode login");
        let rest = token.strip_prefix(PREFIX).filter(|rest| rest.len() <= 200).ok_or_else(refuse)?;
        let (id, secret) = rest.split_once('_').ok_or_else(refuse)?;
        let wanted = id.to_owned();
        let found = self.read(move |c| users::token(c, &wanted)).await?;
        let hash = sha256(secret.as_bytes());
        let kept = found.as_ref().map_or(&[0; 32][..], |found| &found.hash);
        let equal = aws_lc_rs::constant_time::verify_slices_are_equal(&hash, kept).is_ok();
        match found {
            Some(found) if equal => {
                Ok(LocalSession { coordinator: Arc::clone(self), user: found.user, token: id.to_owned() })
            }
            _ => Err(refuse()),
        }
    }
}

#[async_trait]
impl Gate for Arc<Coordinator> {
    async fn session(&self, token: &str) -> ApiResult<Arc<dyn Session>> {
        Ok(Arc::new(self.local_session(token).await?))
    }

    async fn ready(&self) -> ApiResult<()> {
        self.write(|_| Ok(())).await
    }
}

impl LocalSession {
    /// The coordinator.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    fn lease(&self, upload: UploadId) -> ApiResult<Arc<Lease>> {
        self.coordinator.lease(&self.user, upload)
    }

    /// A lease of a put that goes on.
    fn putting(&self, upload: UploadId) -> ApiResult<Arc<Lease>> {
        self.coordinator.may_change()?;
        self.lease(upload)
    }

    fn link_time(&self) -> LinkTime {
        let now = self.coordinator.seam.now();
        LinkTime { now, expires: now.checked_add(self.coordinator.policy.retention).unwrap_or(now) }
    }

    pub(super) fn is_admin(&self) -> bool {
        self.user.role == Role::Admin
    }

    pub(super) fn must_be_admin(&self) -> ApiResult<()> {
        if self.is_admin() {
            return Ok(());
        }
        Err(ApiError::new(Code::NotAllowed, format!("{} is not an admin", self.user.name)))
    }
}

fn bounded(paths: &[RemotePath]) -> ApiResult<Vec<RemotePath>> {
    if paths.len() > MAX_FILES {
        return Err(ApiError::new(Code::Usage, format!("at most {MAX_FILES} paths can be given at once")));
    }
    Ok(paths.to_vec())
}

#[async_trait]
impl Api for LocalSession {
    async fn stat(&self, path: &RemotePath) -> ApiResult<Entry> {
        let (vault, path) = (self.user.vault, path.clone());
        self.coordinator.read(move |c| Ok(files::need(c, vault, &path)?.entry)).await
    }

    async fn lookup(&self, paths: &[RemotePath]) -> ApiResult<Vec<Option<Entry>>> {
        if paths.len() > MAX_LOOKUP {
            return Err(ApiError::new(Code::Usage, format!("at most {MAX_LOOKUP} paths can be looked up at once")));
        }
        let (vault, paths) = (self.user.vault, paths.to_vec());
        let find = move |c: &_| {
            let found = |path| Ok(files::find(c, vault, path)?.map(|found| found.entry));
            paths.iter().map(found).collect()
        };
        self.coordinator.read(find).await
    }

    async fn list(&self, request: &ListRequest) -> ApiResult<Page<Entry>> {
        let (vault, request) = (self.user.vault, request.clone());
        self.coordinator.read(move |c| files::list(c, vault, &request)).await
    }

    async fn make_dirs(&self, paths: &[RemotePath]) -> ApiResult<()> {
        self.coordinator.may_change()?;
        let (vault, paths, now) = (self.user.vault, bounded(paths)?, self.coordinator.seam.now());
        let make = move |c: &_| paths.iter().try_for_each(|path| files::make_dir(c, vault, path, now).map(drop));
        self.coordinator.write(make).await
    }

    async fn rename(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        self.coordinator.may_change()?;
        self.coordinator.rename(self.user.vault, from, to).await
    }

    async fn copy(&self, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        self.coordinator.may_change()?;
        self.coordinator.copy(self.user.vault, from, to).await
    }

    async fn remove(&self, path: &RemotePath, recursive: bool, dry_run: bool) -> ApiResult<Removed> {
        let (vault, path, at) = (self.user.vault, path.clone(), self.link_time());
        let weighed = path.clone();
        let weigh = move |c: &_| {
            let found = files::need(c, vault, &weighed)?;
            if found.entry.kind == Kind::Dir && !recursive {
                return Err(ApiError::new(Code::NotEmpty, format!("{weighed} is a directory")).into());
            }
            files::weigh(c, found.id)
        };
        let mut removed = self.coordinator.read(weigh).await?;
        if path.is_root() {
            removed.dirs = removed.dirs.saturating_sub(1);
        }
        if dry_run {
            return Ok(removed);
        }
        self.coordinator.may_change()?;
        self.coordinator.write(move |c| files::remove(c, vault, &path, recursive, at)).await?;
        Ok(removed)
    }

    async fn begin_put(&self, request: &BeginPut) -> ApiResult<PutSession> {
        self.coordinator.may_change()?;
        self.coordinator.begin_put(&self.user, request).await
    }

    async fn plan_chunks(&self, upload: UploadId, request: &PlanChunks) -> ApiResult<ChunksPlanned> {
        let lease = self.putting(upload)?;
        self.coordinator.plan_chunks(&lease, request.clone()).await
    }

    async fn packs_sent(&self, upload: UploadId, request: &PacksSent) -> ApiResult<PacksJudged> {
        let lease = self.putting(upload)?;
        self.coordinator.packs_sent(&lease, request.clone()).await
    }

    async fn commit_files(&self, upload: UploadId, request: &CommitFiles) -> ApiResult<Vec<Committed>> {
        let lease = self.putting(upload)?;
        self.coordinator.commit_files(&lease, request.clone()).await
    }

    async fn renew(&self, lease: UploadId) -> ApiResult<()> {
        if self.coordinator.reads.get(lease, self.user.id).is_some() {
            return Ok(());
        }
        self.lease(lease).map(drop)
    }

    async fn release(&self, lease: UploadId) -> ApiResult<()> {
        if self.coordinator.reads.remove(lease, self.user.id) {
            return Ok(());
        }
        match self.coordinator.leases.get(lease, self.user.id) {
            Some(_) => self.coordinator.end_put(lease).await.map_err(internal_if_unknown),
            None => Ok(()),
        }
    }

    async fn open_read(&self, request: &OpenRead) -> ApiResult<ReadSession> {
        self.coordinator.open_read(&self.user, request.clone()).await
    }

    async fn read_chunks(&self, read: UploadId, request: &ReadChunks) -> ApiResult<ManifestPage> {
        self.coordinator.read_chunks(&self.user, read, request.clone()).await
    }

    async fn report_bad(&self, reports: &[BadCopy]) -> ApiResult<()> {
        self.coordinator.report_bad(&self.user, reports).await
    }
}

fn internal_if_unknown(error: ApiError) -> ApiError {
    if error.code == Code::Internal { internal(error) } else { error }
}
