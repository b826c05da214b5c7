//! The catalog: SQLite, the only truth about names, versions, chunks and packs.
//!
//! One writer thread commits queued changes in groups, and another moves what was committed from the log into the file;
//! a few read-only connections answer questions. In a simulation one in-memory connection does all of it, on the calling
//! task, and others may run before and after each, as they do beside the threads; what was committed stays though nobody
//! waits for it any more. Nothing here contacts a node, and no transaction waits for one.

pub mod charge;
mod checkpoint;
pub mod chunks;
pub mod files;
pub mod nodes;
pub mod packs;
mod schema;
pub mod scrub;
pub mod snapshot;
pub mod spare;
pub mod spread;
pub mod sweep;
pub mod tasks;
pub mod trace;
pub mod users;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::api::{ApiError, Code};
use crate::failpoint::{Step, reached};
use crate::id::ChunkId;
use crate::pack::{MAX_CHUNK_BYTES, PackEntry};
use crate::seam::Seam;

/// The oldest SQLite without the WAL-reset bug: 3.51.3.
const SQLITE_MIN: i32 = 3_051_003;
/// Changes that one commit carries at most.
const GROUP: usize = 64;
/// Changes that may wait for the writer; more wait before they are queued.
const QUEUE: usize = 256;
/// Read-only connections.
const READERS: usize = 3;
/// How long one question may take, whoever waits for it.
const LONGEST_READ: Duration = Duration::from_secs(600);
/// Instructions of SQLite between two looks at whether a question is still wanted.
const LOOK_UP_EVERY: std::ffi::c_int = 10_000;
/// Instructions of SQLite in which the length of a change is counted.
const TICK: std::ffi::c_int = 1_000;
/// Memory for pages of the file, of the writer and of each reader, as SQLite's `cache_size` wants it: KiB, negated. All
/// of it fills up with time whatever is stored; pages that do not fit come from the system's own cache.
const WRITER_CACHE: i32 = -4_000;
const READER_CACHE: i32 = -1_000;

/// What the catalog cannot do.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// SQLite refused.
    #[error("the catalog failed")]
    Sqlite(#[from] rusqlite::Error),
    /// The change was refused by its own rules.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// A newer build wrote it.
    #[error("the catalog has version {found}, this build knows {known}: use the newer bytenode")]
    Newer {
        /// Its version.
        found: usize,
        /// The newest version known here.
        known: usize,
    },
    /// The SQLite in this build loses data.
    #[error("SQLite {0} is too old: 3.51.3 or later is needed")]
    OldSqlite(&'static str),
    /// What it holds cannot be.
    #[error("the catalog is damaged: {0}")]
    Damaged(String),
    /// It was shut down.
    #[error("the catalog is closed")]
    Closed,
    /// A file of it cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<CatalogError> for ApiError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Refused(error) => error,
            CatalogError::Closed => Self::new(Code::Temporary, "the coordinator is stopping"),
            other => {
                tracing::error!(error = ?other, "catalog");
                Self::new(Code::Internal, other.to_string()).hint("see the coordinator's log")
            }
        }
    }
}

/// Result of a question or change.
pub type CatalogResult<T> = Result<T, CatalogError>;

type Reply = Box<dyn FnOnce(Option<rusqlite::Error>) + Send>;
type Job = Box<dyn FnOnce(&Connection) -> (bool, Reply) + Send>;

/// A handle on the catalog; clones share it.
#[derive(Clone)]
pub struct Catalog {
    seam: Seam,
    longest: Longest,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Threads { writer: mpsc::Sender<Job>, readers: Arc<Readers> },
    Inline(Arc<Mutex<Connection>>),
}

struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<tokio::sync::Semaphore>,
}

impl Catalog {
    /// Opens or makes the catalog at `path`. An older one is first copied aside to `path.vN`.
    ///
    /// # Errors
    /// [`CatalogError`]; a newer or damaged catalog is refused and left as it is.
    pub fn open(path: &Path, seam: Seam) -> CatalogResult<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        prepare(&connection)?;
        let found = schema::version(&connection)?;
        if found > 0 && found < schema::VERSION {
            keep_aside(&connection, path, found)?;
        }
        schema::migrate(&mut connection)?;
        let (writer, jobs) = mpsc::channel(QUEUE);
        let longest = Longest::of(&mut connection)?;
        let measure = longest.clone();
        let moving = checkpoint::start(path)?;
        connection.pragma_update_and_check(None, "wal_autocheckpoint", checkpoint::WRITER_MOVES_FROM, |_| Ok(()))?;
        std::thread::Builder::new()
            .name("catalog".into())
            .spawn(move || write_all(connection, jobs, &measure, &moving))
            .map_err(|source| CatalogError::Io { path: path.to_owned(), source })?;
        let readers = Readers {
            path: path.to_owned(),
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(tokio::sync::Semaphore::new(READERS)),
        };
        Ok(Self { seam, longest, kind: Kind::Threads { writer, readers: Arc::new(readers) } })
    }

    /// Makes an empty catalog in memory that works on the calling task.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn in_memory(seam: Seam) -> CatalogResult<Self> {
        let mut connection = Connection::open_in_memory()?;
        prepare(&connection)?;
        schema::migrate(&mut connection)?;
        let longest = Longest::of(&mut connection)?;
        Ok(Self { seam, longest, kind: Kind::Inline(Arc::new(Mutex::new(connection))) })
    }

    /// Changes the catalog: all of `change` or, when it fails, nothing. Durable when it returns.
    ///
    /// # Errors
    /// What `change` returns, or the commit's failure.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Connection) -> CatalogResult<T> + Send + 'static,
    ) -> CatalogResult<T> {
        match &self.kind {
            Kind::Inline(connection) => {
                tokio::task::yield_now().await;
                let result = self.change_inline(connection, change);
                tokio::task::yield_now().await;
                result
            }
            Kind::Threads { writer, .. } => {
                let (answer, answered) = oneshot::channel();
                let job: Job = Box::new(move |connection| {
                    let result = change(connection);
                    let keep = result.is_ok();
                    let reply: Reply = Box::new(move |failed| {
                        let result = match failed {
                            Some(error) if keep => Err(error.into()),
                            _ => result,
                        };
                        drop(answer.send(result));
                    });
                    (keep, reply)
                });
                writer.send(job).await.map_err(|_| CatalogError::Closed)?;
                answered.await.map_err(|_| CatalogError::Closed)?
            }
        }
    }

    fn change_inline<T>(
        &self,
        connection: &Mutex<Connection>,
        change: impl FnOnce(&Connection) -> CatalogResult<T>,
    ) -> CatalogResult<T> {
        let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        let result = self.longest.measured(|| change(&transaction))?;
        transaction.commit()?;
        Ok(result)
    }

    /// How much work the longest change so far was, in thousands of SQLite's instructions. A change holds up all others,
    /// so none may be long.
    pub fn longest_change(&self) -> u64 {
        self.longest.most.load(Ordering::Relaxed)
    }

    /// Asks the catalog, in one read transaction. A question that takes too long is given up, as is one whose answer
    /// nobody waits for any more; until it has ended it holds one of the few connections, so none can pile up.
    ///
    /// # Errors
    /// What `question` returns; [`Code::Temporary`] when it took too long.
    pub async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> CatalogResult<T> + Send + 'static,
    ) -> CatalogResult<T> {
        match &self.kind {
            Kind::Inline(connection) => {
                tokio::task::yield_now().await;
                let answer = ask_inline(connection, question);
                tokio::task::yield_now().await;
                answer
            }
            Kind::Threads { readers, .. } => {
                let readers = Arc::clone(readers);
                let permits = Arc::clone(&readers.permits);
                let permit = permits.acquire_owned().await.map_err(|_| CatalogError::Closed)?;
                let (awaited, until) = (Awaited::default(), self.seam.monotonic() + LONGEST_READ);
                let gone = Arc::clone(&awaited.0);
                let given_up = move || gone.load(Ordering::Relaxed) || Instant::now() >= until;
                let ask = move || {
                    let _permit = permit;
                    readers.ask(question, given_up)
                };
                self.seam.offload(ask).await
            }
        }
    }
}

fn ask_inline<T>(
    connection: &Mutex<Connection>,
    question: impl FnOnce(&Connection) -> CatalogResult<T>,
) -> CatalogResult<T> {
    let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
    let transaction = connection.transaction()?;
    question(&transaction)
}

/// Tells a question, when it is dropped, that nobody waits for its answer any more.
#[derive(Default)]
struct Awaited(Arc<AtomicBool>);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Readers {
    fn ask<T>(
        &self,
        question: impl FnOnce(&Connection) -> CatalogResult<T>,
        given_up: impl FnMut() -> bool + Send + 'static,
    ) -> CatalogResult<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => open_reader(&self.path)?,
        };
        connection.progress_handler(LOOK_UP_EVERY, Some(given_up))?;
        let result = {
            let transaction = connection.transaction()?;
            question(&transaction)
        };
        connection.progress_handler(0, None::<fn() -> bool>)?;
        let result = match result {
            Err(CatalogError::Sqlite(error)) if was_given_up(&error) => {
                let what = format!("the catalog gave no answer within {} s", LONGEST_READ.as_secs());
                Err(ApiError::new(Code::Temporary, what).hint("ask for less at once, or try again later").into())
            }
            other => other,
        };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        result
    }
}

fn was_given_up(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
}

fn open_reader(path: &Path) -> CatalogResult<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    connection.pragma_update(None, "cache_size", READER_CACHE)?;
    Ok(connection)
}

/// What every connection has.
fn configure(connection: &Connection) -> CatalogResult<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(256);
    // Else a statement is parsed and planned anew for every other value that a partial index could depend on.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn prepare(connection: &Connection) -> CatalogResult<()> {
    if rusqlite::version_number() < SQLITE_MIN {
        return Err(CatalogError::OldSqlite(rusqlite::version()));
    }
    configure(connection)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "cache_size", WRITER_CACHE)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(())
}

fn keep_aside(connection: &Connection, path: &Path, version: usize) -> CatalogResult<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".v{version}"));
    let aside = PathBuf::from(aside);
    if !aside.exists() {
        connection.execute("VACUUM INTO ?1", [aside.to_string_lossy()])?;
    }
    Ok(())
}

/// How much work the longest change was, in [`TICK`]s.
#[derive(Clone, Default)]
struct Longest {
    ticks: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
}

impl Longest {
    fn of(connection: &mut Connection) -> CatalogResult<Self> {
        let longest = Self::default();
        let ticks = Arc::clone(&longest.ticks);
        let tick = move || {
            ticks.fetch_add(1, Ordering::Relaxed);
            false
        };
        connection.progress_handler(TICK, Some(tick))?;
        Ok(longest)
    }

    fn measured<T>(&self, change: impl FnOnce() -> T) -> T {
        let before = self.ticks.load(Ordering::Relaxed);
        let result = change();
        self.most.fetch_max(self.ticks.load(Ordering::Relaxed).saturating_sub(before), Ordering::Relaxed);
        result
    }
}

/// The writer thread: takes what is queued, gives each change a savepoint of its own, commits all at once, and answers
/// only then. Ends when the last handle is gone.
fn write_all(
    mut connection: Connection,
    mut jobs: mpsc::Receiver<Job>,
    longest: &Longest,
    moving: &std::sync::mpsc::SyncSender<()>,
) {
    let mut group = Vec::with_capacity(GROUP);
    while jobs.blocking_recv_many(&mut group, GROUP) > 0 {
        let mut replies = Vec::with_capacity(group.len());
        let committed = commit_group(&mut connection, group.drain(..), &mut replies, longest);
        let failed = committed.err();
        if let Some(error) = &failed {
            tracing::error!(%error, "catalog commit");
        }
        for reply in replies {
            reply(failed.as_ref().map(copy_error));
        }
        // Where one waits already, it stands for this one too.
        let _ = moving.try_send(());
    }
}

fn commit_group(
    connection: &mut Connection,
    jobs: impl Iterator<Item = Job>,
    replies: &mut Vec<Reply>,
    longest: &Longest,
) -> rusqlite::Result<()> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in jobs {
        let savepoint = transaction.savepoint()?;
        let (keep, reply) = longest.measured(|| job(&savepoint));
        replies.push(reply);
        if keep {
            savepoint.commit()?;
        }
    }
    reached(Step::Commit);
    transaction.commit()?;
    reached(Step::Commit);
    Ok(())
}

fn copy_error(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, message) => rusqlite::Error::SqliteFailure(*code, message.clone()),
        other => rusqlite::Error::ToSqlConversionFailure(other.to_string().into()),
    }
}

/// Microseconds since 1970 of a time.
pub(crate) fn micros(time: jiff::Timestamp) -> i64 {
    time.as_microsecond()
}

/// The time of so many microseconds since 1970; the nearest possible one when out of range.
pub(crate) fn time(micros: i64) -> jiff::Timestamp {
    let limit = if micros < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    jiff::Timestamp::from_microsecond(micros).unwrap_or(limit)
}

/// A size or count as SQLite keeps it.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A size or count as SQLite gave it; a negative one, which cannot be, as 0.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// What a row holds that it cannot hold.
pub(crate) fn damaged(table: &str, row: i64, what: impl std::fmt::Display) -> CatalogError {
    CatalogError::Damaged(format!("{table} {row} has {what}"))
}

/// The digest in a row.
pub(crate) fn digest(table: &str, row: i64, blob: &[u8]) -> CatalogResult<[u8; 32]> {
    blob.try_into().map_err(|_| damaged(table, row, format_args!("a digest of {} bytes", blob.len())))
}

/// A chunk as its row has it.
pub(crate) fn chunk_entry(row: i64, blob: &[u8], bytes: i64) -> CatalogResult<PackEntry> {
    let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes <= MAX_CHUNK_BYTES);
    let bytes = bytes.ok_or_else(|| damaged("chunk", row, "an impossible length"))?;
    Ok(PackEntry { chunk: ChunkId::from_digest(digest("chunk", row, blob)?), bytes })
}

#[cfg(test)]
mod tests;
