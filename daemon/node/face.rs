//! What all requests share: the store, the identity, and the bounds on what a request may hold.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Uri};
use tokio::time::Instant;

use super::NodeLimits;
use crate::daemon::kubo::answer::Refusal;
use crate::daemon::kubo::body::{Arriving, bearer, values, wrong_act};
use crate::daemon::kubo::turns::Turns;
use crate::grant::Verb;
use crate::id::{PackRoot, PoolId};
use crate::node::builtin::store::StoreError;
use crate::node::builtin::{Identity, OpenReport, Store};
use crate::pack::PackHeader;
use crate::seam::Seam;

pub(super) type SharedFace = Arc<Face>;

/// Root blocks that wait for their `pin/update`: at most so many (each below 64 KiB).
const MAX_STAGED: usize = 64;
#[derive(Debug)]
pub(super) struct Face {
    pub store: Arc<Store>,
    pub report: OpenReport,
    pub identity: Arc<Identity>,
    pub name: Option<String>,
    pub seam: Seam,
    pub limits: NodeLimits,
    pub turns: Turns,
    staged: Mutex<VecDeque<PackHeader>>,
    join_tries: Mutex<VecDeque<Instant>>,
}

impl Face {
    pub(super) fn new(
        store: Store,
        report: OpenReport,
        identity: Identity,
        name: Option<String>,
        seam: Seam,
        limits: NodeLimits,
    ) -> Self {
        Self {
            store: Arc::new(store),
            report,
            identity: Arc::new(identity),
            name,
            seam,
            turns: Turns::new(limits.turn, limits.writes, limits.read_bytes),
            staged: Mutex::default(),
            join_tries: Mutex::default(),
            limits,
        }
    }

    /// What the request's grant permits to change.
    pub(super) fn permitted_to_change(&self, headers: &HeaderMap) -> Result<(PoolId, Verb), Refusal> {
        Ok(self.identity.permitted_to_change(bearer(headers)?, self.seam.now())?)
    }

    /// What the request's grant permits to read.
    pub(super) fn permitted(&self, headers: &HeaderMap) -> Result<(PoolId, Verb), Refusal> {
        Ok(self.identity.permitted(bearer(headers)?, self.seam.now())?)
    }

    /// Refuses anything but the own calls of the coordinator that is in charge.
    pub(super) fn changes(&self, headers: &HeaderMap) -> Result<PoolId, Refusal> {
        match self.permitted_to_change(headers)? {
            (pool, Verb::Manage) => Ok(pool),
            _ => Err(wrong_act()),
        }
    }

    /// Refuses anything but the coordinator's own calls.
    pub(super) fn manages(&self, headers: &HeaderMap) -> Result<PoolId, Refusal> {
        match self.permitted(headers)? {
            (pool, Verb::Manage) => Ok(pool),
            _ => Err(wrong_act()),
        }
    }

    /// Does file work off the async threads.
    pub(super) async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Store>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = Arc::clone(&self.store);
        self.seam.offload(move || work(&store)).await
    }

    /// Keeps a root block for its `pin/update`; the oldest goes when there are too many.
    pub(super) fn stage(&self, header: PackHeader) {
        let mut staged = lock(&self.staged);
        staged.retain(|other| other.id != header.id || other.epoch != header.epoch);
        staged.push_back(header);
        if staged.len() > MAX_STAGED {
            staged.pop_front();
        }
    }

    /// A root block that was staged.
    pub(super) fn staged(&self, root: PackRoot) -> Option<PackHeader> {
        let staged: Vec<_> = lock(&self.staged).iter().cloned().collect();
        staged.into_iter().find(|header| header.root() == root)
    }

    /// Forgets a staged root block.
    pub(super) fn unstage(&self, header: &PackHeader) {
        lock(&self.staged).retain(|other| other != header);
    }

    /// Takes note of a try to join, or refuses it when too many failed within the last minute. A try counts as failed
    /// until [`Self::forgive_try`].
    pub(super) fn count_try(&self) -> Result<Instant, Refusal> {
        let mut tries = lock(&self.join_tries);
        let now = self.seam.monotonic();
        tries.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
        if tries.len() >= self.limits.join_tries {
            return Err(Refusal::TooOften);
        }
        tries.push_back(now);
        Ok(now)
    }

    /// A try to join that did not fail by its code.
    pub(super) fn forgive_try(&self, counted: Instant) {
        let mut tries = lock(&self.join_tries);
        if let Some(place) = tries.iter().position(|at| *at == counted) {
            tries.remove(place);
        }
    }

    /// A small body, whole.
    pub(super) async fn small_body(&self, mut body: Body) -> Result<Vec<u8>, Refusal> {
        let mut whole = Vec::new();
        let mut arriving = Arriving::new(&mut body, self.limits.progress);
        while let Some(bytes) = arriving.next().await? {
            if whole.len() + bytes.len() > 4096 {
                return Err(Refusal::Bad("the body is too long".to_owned()));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }
}

/// The packs that the `arg` values name.
pub(super) fn roots(uri: &Uri) -> Result<Vec<PackRoot>, Refusal> {
    values(uri, "arg").iter().map(|arg| arg.parse().map_err(|error| Refusal::Bad(format!("{error}")))).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
