//! Leases of puts, reads and copies: who is still at work, by a clock that never jumps. A put's lease is kept in the catalog and
//! starts again with the coordinator; a read's is only in memory, since removed versions outlive it by their retention,
//! and so is a copy's, which does not outlive its request.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, params};
use tokio::time::Instant;

use crate::api::{ApiError, Code};
use crate::catalog::{Catalog, CatalogError, CatalogResult, signed, unsigned};
use crate::id::UploadId;
use crate::seam::Seam;

/// A put under way.
#[derive(Debug)]
pub(super) struct Lease {
    pub upload: UploadId,
    pub user: i64,
    pub vault: i64,
    pub replicas: u32,
    pub public: bool,
    pub machine: String,
    /// The epoch in which it began, which the roots of all its packs say.
    pub epoch: u64,
    /// When it began, in catalog form.
    pub created: i64,
    state: Mutex<LeaseState>,
}

#[derive(Debug)]
struct LeaseState {
    touched: Instant,
    /// Nodes that failed this put, and how first.
    avoid: BTreeMap<i64, Shortfall>,
    /// Nodes whose silence this put was told of.
    told: HashSet<i64>,
    /// For each file: the nodes that hold all its chunks so far.
    whole: HashMap<u32, BTreeSet<i64>>,
}

/// How a node failed a put.
#[derive(Debug, Clone)]
pub(super) struct Shortfall {
    /// In words, without the node's name.
    pub why: String,
    /// It had no room.
    pub full: bool,
}

impl Lease {
    fn lock(&self) -> std::sync::MutexGuard<'_, LeaseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn touch(&self) {
        self.lock().touched = Instant::now();
    }

    pub(super) fn avoid(&self, node: i64, how: Shortfall) {
        self.lock().avoid.entry(node).or_insert(how);
    }

    /// Whether this put has not been told yet that a node is silent; once.
    pub(super) fn tell(&self, node: i64) -> bool {
        self.lock().told.insert(node)
    }

    pub(super) fn avoided(&self) -> BTreeMap<i64, Shortfall> {
        self.lock().avoid.clone()
    }

    /// The nodes that hold all chunks so far of these files; nothing for a file that is new.
    pub(super) fn whole(&self, files: impl Iterator<Item = u32>) -> HashMap<u32, BTreeSet<i64>> {
        let state = self.lock();
        files.filter_map(|file| Some((file, state.whole.get(&file)?.clone()))).collect()
    }

    pub(super) fn set_whole(&self, whole: HashMap<u32, BTreeSet<i64>>) {
        self.lock().whole.extend(whole);
    }

    pub(super) fn forget_file(&self, file: u32) {
        self.lock().whole.remove(&file);
    }
}

/// All puts under way.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<HashMap<UploadId, Arc<Lease>>>);

impl Leases {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Arc<Lease>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all leases from the catalog, each with its whole time before it.
    pub(super) async fn restart(catalog: &Catalog, seam: &Seam) -> CatalogResult<Self> {
        let rows = catalog.read(all).await?;
        let leases = rows.into_iter().map(|lease| (lease.upload, Arc::new(lease.begin(seam)))).collect();
        Ok(Self(Mutex::new(leases)))
    }

    /// Adds a lease to the catalog and here: first here, so that it ends in its time even if whoever wanted it is gone
    /// when it is written down.
    pub(super) async fn add(&self, catalog: &Catalog, seam: &Seam, row: LeaseRow) -> CatalogResult<Arc<Lease>> {
        let lease = Arc::new(row.clone().begin(seam));
        self.lock().insert(lease.upload, Arc::clone(&lease));
        let kept = row;
        let added = catalog
            .write(move |c| {
                c.prepare_cached(
                    "INSERT INTO lease(id, user_id, vault_id, replicas, public, machine, epoch, created_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                )?
                .execute(params![
                    kept.upload.as_bytes(),
                    kept.user,
                    kept.vault,
                    kept.replicas,
                    kept.public,
                    kept.machine,
                    signed(kept.epoch),
                    kept.created
                ])?;
                Ok(())
            })
            .await;
        if added.is_err() {
            self.remove(lease.upload);
        }
        added.map(|()| lease)
    }

    /// How many puts of a user are under way.
    pub(super) fn of_user(&self, user: i64) -> usize {
        self.lock().values().filter(|lease| lease.user == user).count()
    }

    pub(super) fn get(&self, upload: UploadId, user: i64) -> Option<Arc<Lease>> {
        self.lock().get(&upload).filter(|lease| lease.user == user).cloned()
    }

    pub(super) fn remove(&self, upload: UploadId) {
        self.lock().remove(&upload);
    }

    /// Whether there was a sign of life of any put within this time.
    pub(super) fn is_heard(&self, within: Duration) -> bool {
        self.lock().values().any(|lease| lease.lock().touched.elapsed() < within)
    }

    /// Leases without a sign of life for so long.
    pub(super) fn expired(&self, after: Duration) -> Vec<UploadId> {
        let over = |lease: &&Arc<Lease>| lease.lock().touched.elapsed() >= after;
        let mut found: Vec<_> = self.lock().values().filter(over).map(|lease| lease.upload).collect();
        found.sort_unstable();
        found
    }
}

/// A lease as the catalog keeps it.
#[derive(Debug, Clone)]
pub(super) struct LeaseRow {
    pub upload: UploadId,
    pub user: i64,
    pub vault: i64,
    pub replicas: u32,
    pub public: bool,
    pub machine: String,
    pub epoch: u64,
    pub created: i64,
}

impl LeaseRow {
    fn begin(self, seam: &Seam) -> Lease {
        let state = LeaseState {
            touched: seam.monotonic(),
            avoid: BTreeMap::new(),
            told: HashSet::new(),
            whole: HashMap::new(),
        };
        Lease {
            upload: self.upload,
            user: self.user,
            vault: self.vault,
            replicas: self.replicas,
            public: self.public,
            machine: self.machine,
            epoch: self.epoch,
            created: self.created,
            state: Mutex::new(state),
        }
    }
}

/// Whether a put is still under way, to be asked in the transaction that relies on it.
///
/// # Errors
/// [`Code::Replan`] when it has ended.
pub(super) fn check_alive(c: &Connection, upload: UploadId) -> CatalogResult<()> {
    if c.prepare_cached("SELECT 1 FROM lease WHERE id = ?1 AND ended_at IS NULL")?.exists([upload.as_bytes()])? {
        return Ok(());
    }
    Err(ended().into())
}

/// The put has ended.
pub(super) fn ended() -> ApiError {
    ApiError::new(Code::Replan, "this put has ended").hint("run the same command again: only the rest is sent")
}

fn all(c: &Connection) -> CatalogResult<Vec<LeaseRow>> {
    let mut statement = c.prepare(
        "SELECT id, user_id, vault_id, replicas, public, machine, epoch, created_at FROM lease WHERE ended_at IS NULL",
    )?;
    let rows = statement.query_map([], |row| {
        let id: Vec<u8> = row.get(0)?;
        Ok((id, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?))
    })?;
    rows.map(|found| {
        let (id, user, vault, replicas, public, machine, epoch, created) = found?;
        let id = id.try_into().map_err(|_| CatalogError::Damaged("an upload id has another length".into()))?;
        Ok(LeaseRow {
            upload: UploadId::from_bytes(id),
            user,
            vault,
            replicas,
            public,
            machine,
            epoch: unsigned(epoch),
            created,
        })
    })
    .collect()
}

/// An open read.
#[derive(Debug)]
pub(super) struct Read {
    pub user: i64,
    pub machine: String,
    versions: Box<[i64]>,
    touched: Mutex<Instant>,
}

impl Read {
    pub(super) fn has(&self, version: i64) -> bool {
        self.versions.contains(&version)
    }

    fn silent(&self) -> Duration {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// All open reads.
#[derive(Debug, Default)]
pub(super) struct Reads(Mutex<HashMap<UploadId, Arc<Read>>>);

/// Why no read can be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The user has too many.
    User,
    /// All users together have too many.
    All,
}

impl Reads {
    /// The most reads that may be open at once.
    pub(super) const MOST: usize = 4096;
    /// The most reads that one user may have open at once.
    pub(super) const MOST_OF_USER: usize = 256;
    /// How long a read lives after its last sign of life.
    pub(super) const LIFE: Duration = Duration::from_secs(900);
    /// How long a read lives where another one needs its place: three signs of life were missed.
    const LIFE_IN_NEED: Duration = Duration::from_secs(180);

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Arc<Read>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a read. Where there are too many already, the one that was silent longest makes room, if it seems dead.
    pub(super) fn open(&self, id: UploadId, read: OpenedRead) -> Result<(), Full> {
        let mut reads = self.lock();
        reads.retain(|_, read| read.silent() < Self::LIFE);
        let OpenedRead { user, machine, versions } = read;
        let of_user = reads.values().filter(|read| read.user == user).count();
        if of_user >= Self::MOST_OF_USER && !make_room(&mut reads, |read| read.user == user) {
            return Err(Full::User);
        }
        if reads.len() >= Self::MOST && !make_room(&mut reads, |_| true) {
            return Err(Full::All);
        }
        let touched = Mutex::new(Instant::now());
        reads.insert(id, Arc::new(Read { user, machine, versions, touched }));
        Ok(())
    }

    /// The open read, whose life begins anew.
    pub(super) fn get(&self, id: UploadId, user: i64) -> Option<Arc<Read>> {
        let read = self.lock().get(&id).filter(|read| read.user == user).cloned()?;
        *read.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Some(read)
    }

    pub(super) fn remove(&self, id: UploadId, user: i64) -> bool {
        let mut reads = self.lock();
        let own = reads.get(&id).is_some_and(|read| read.user == user);
        own && reads.remove(&id).is_some()
    }

    /// Whether there was a sign of life of any read within this time.
    pub(super) fn is_heard(&self, within: Duration) -> bool {
        self.lock().values().any(|read| read.silent() < within)
    }

    /// All versions that somebody is reading.
    pub(super) fn versions(&self) -> HashSet<i64> {
        let mut reads = self.lock();
        reads.retain(|_, read| read.silent() < Self::LIFE);
        reads.values().flat_map(|read| read.versions.iter().copied()).collect()
    }
}

/// Ends the longest silent of some reads, if it seems dead.
fn make_room(reads: &mut HashMap<UploadId, Arc<Read>>, which: impl Fn(&Read) -> bool) -> bool {
    let some = reads.iter().filter(|(_, read)| which(read)).map(|(id, read)| (read.silent(), *id));
    match some.max() {
        Some((silent, id)) if silent >= Reads::LIFE_IN_NEED => reads.remove(&id).is_some(),
        _ => false,
    }
}

/// What a new read is of.
#[derive(Debug)]
pub(super) struct OpenedRead {
    pub user: i64,
    pub machine: String,
    pub versions: Box<[i64]>,
}

/// Trees that are being built out of sight, by their roots: the sweeper leaves them alone.
#[derive(Debug, Default)]
pub(super) struct Building(Mutex<HashSet<i64>>);

/// One such tree. When this is dropped, what has not become visible is to be swept.
#[derive(Debug)]
pub(super) struct Site {
    building: Arc<Building>,
    root: i64,
}

impl Building {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(self: Arc<Self>, root: i64) -> Site {
        self.lock().insert(root);
        Site { building: self, root }
    }

    pub(super) fn roots(&self) -> HashSet<i64> {
        self.lock().clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.building.lock().remove(&self.root);
    }
}
