//! Backups of the coordinator itself: one moment of the catalog, checked, with the keys, sealed before it leaves.
//!
//! Puts, gets and repair go on meanwhile. The copy of the catalog lies beside it in a directory of its own while it is
//! checked, and has no name any more when the first byte is sent; what a crash leaves there is removed at the next start.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::keys::{Keys, write_secret};
use super::{Coordinator, internal};
use crate::admin::SealedBackup;
use crate::api::{ApiError, ApiResult, Code};
use crate::backup::{self, Facts, Part, Passphrase, Source};
use crate::catalog::snapshot::{self, Copied};
use crate::catalog::{Catalog, CatalogError, CatalogResult};
use crate::seam::Seam;

/// The directory of the copy that is being made.
const WORK: &str = "backup.new";
/// The file that says of which moment the last backup is that was kept.
pub const LAST: &str = "backup.last";
/// How long one waits for another to end: that of a client that has gone goes on for a while.
const TURN: Duration = Duration::from_secs(60);
/// Pieces that wait to be sent.
const PIECES: usize = 4;

/// What the coordinator knows of its backups.
#[derive(Debug, Default)]
pub(super) struct Backups {
    last: Mutex<Option<Timestamp>>,
    /// One at a time.
    making: Arc<tokio::sync::Mutex<()>>,
}

impl Backups {
    /// Takes in what is known in a coordinator's directory, and removes what a crash left there.
    pub(super) fn open(dir: Option<&Path>) -> Self {
        let Some(dir) = dir else { return Self::default() };
        if let Err(error) = clear(&dir.join(WORK)) {
            tracing::warn!(%error, "what an interrupted backup left cannot be removed");
        }
        Self { last: Mutex::new(read_last(dir)), making: Arc::default() }
    }

    /// Of which moment the last backup is that was kept.
    pub(super) fn last(&self) -> Option<Timestamp> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes down of which moment the last backup is that was kept; durable when it returns.
///
/// # Errors
/// [`super::keys::KeyError::Io`].
pub fn write_last(dir: &Path, made: Timestamp) -> Result<(), super::keys::KeyError> {
    write_secret(&dir.join(LAST), format!("{made}\n").as_bytes())
}

/// Of which moment the last backup is that was kept, as a coordinator's directory says; nothing if it says nothing.
pub fn read_last(dir: &Path) -> Option<Timestamp> {
    std::fs::read_to_string(dir.join(LAST)).ok().and_then(|text| text.trim().parse().ok())
}

/// Checks a copy of a catalog that nobody uses from end to end, and that these keys open its vaults.
///
/// # Errors
/// As [`snapshot::examine`].
pub fn examine(copy: &Path, keys: &Keys) -> CatalogResult<Copied> {
    let copied = snapshot::examine(copy)?;
    match snapshot::vault_keys(copy)?.iter().all(|wrapped| keys.open_vault(wrapped).is_ok()) {
        true => Ok(copied),
        false => Err(CatalogError::Damaged("the master key does not open a vault of it".into())),
    }
}

/// A copy of one moment that was found sound, and the secrets that go with it.
struct Taken {
    facts: Facts,
    secrets: Vec<(Part, Zeroizing<Vec<u8>>)>,
    catalog: File,
    bytes: u64,
}

impl Coordinator {
    /// See [`crate::admin::Admin::backup`].
    pub(super) async fn backup(&self, passphrase: &Passphrase) -> ApiResult<SealedBackup> {
        let turn = Arc::clone(&self.backups.making).lock_owned();
        let alone = tokio::time::timeout(TURN, turn).await.map_err(|_| {
            ApiError::new(Code::Busy, "another backup is being made").hint("run it again when that one has ended")
        })?;
        let dir = self.keys.dir().ok_or_else(|| ApiError::new(Code::Internal, "this pool is kept in memory alone"))?;
        let (catalog, keys, work, made) = (self.catalog.clone(), self.keys.clone(), dir.join(WORK), self.seam.now());
        let taken = self.seam.offload(move || take(&catalog, &keys, &work, made)).await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let (passphrase, seam) = (passphrase.clone(), self.seam.clone());
        let sealing = self.seam.clone();
        tokio::spawn(async move {
            sealing.offload(move || seal(taken, &passphrase, sender, &seam)).await;
            drop(alone);
        });
        Ok(Box::pin(futures_util::stream::unfold(pieces, |mut pieces| async {
            let piece = pieces.recv().await?;
            Some((piece, pieces))
        })))
    }

    /// See [`crate::admin::Admin::backup_kept`].
    pub(super) async fn backup_kept(&self, made: Timestamp) -> ApiResult<()> {
        let made = made.min(self.seam.now());
        if self.backups.last().is_some_and(|last| last >= made) {
            return Ok(());
        }
        if let Some(dir) = self.keys.dir().map(Path::to_owned) {
            self.seam.offload(move || write_last(&dir, made)).await.map_err(internal)?;
        }
        *self.backups.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        Ok(())
    }
}

fn take(catalog: &Catalog, keys: &Keys, work: &Path, made: Timestamp) -> ApiResult<Taken> {
    let taken = clear(work).and_then(|()| make_private(work)).map_err(failed).and_then(|()| {
        let path = work.join(Part::Catalog.file_name());
        catalog.copy_to(&path).map_err(unsound)?;
        let copied = examine(&path, keys).map_err(unsound)?;
        // After the catalog: a node that is in the copy has its credentials here.
        let secrets = keys.files();
        let file = File::open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let facts = Facts {
            made,
            bytenode: env!("CARGO_PKG_VERSION").into(),
            pool: copied.pool,
            catalog: copied.version,
            files: copied.files,
            chunks: copied.chunks,
        };
        Ok(Taken { facts, secrets, catalog: file, bytes })
    });
    // The open file keeps its bytes until it is closed, however that comes about.
    clear(work).map_err(failed)?;
    taken
}

/// Sends a sealed backup piece by piece; stops when nobody takes it any more.
fn seal(taken: Taken, passphrase: &Passphrase, sender: mpsc::Sender<ApiResult<Bytes>>, seam: &Seam) {
    let Taken { facts, secrets, mut catalog, bytes } = taken;
    let mut inputs: Vec<(Part, &[u8])> = secrets.iter().map(|(part, secret)| (*part, secret.as_slice())).collect();
    let secrets = inputs.iter_mut().map(|(part, input)| Source { part: *part, bytes: input.len() as u64, input });
    let mut parts: Vec<Source<'_>> = secrets.collect();
    parts.push(Source { part: Part::Catalog, bytes, input: &mut catalog });
    let written = backup::write(Pieces(&sender), passphrase, facts, &mut parts, seam);
    if let Err(error) = written {
        tracing::error!(?error, "backup");
        // Nobody may be left to hear it.
        let _ = sender.blocking_send(Err(error.into()));
    }
}

/// Hands pieces over as they are written.
struct Pieces<'a>(&'a mpsc::Sender<ApiResult<Bytes>>);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes a directory with all that is in it, if there is one.
pub(crate) fn clear(work: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(work) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a directory for its owner alone.
pub(crate) fn make_private(dir: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn failed(error: io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_room(),
        _ => internal(error),
    }
}

fn unsound(error: CatalogError) -> ApiError {
    match &error {
        CatalogError::Sqlite(inner) => match inner.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => no_room(),
            _ => ApiError::new(Code::Internal, format!("the copy of the catalog cannot be made or read ({inner})")),
        },
        CatalogError::Damaged(what) => {
            tracing::error!(what, "the catalog is damaged");
            ApiError::new(Code::Integrity, format!("the catalog is damaged ({what}), so this would be no backup"))
                .hint("keep the last backup that is good, and see the coordinator's log")
        }
        _ => error.into(),
    }
}

fn no_room() -> ApiError {
    ApiError::new(Code::NoRoom, "the coordinator's disk has no room for a copy of its catalog")
        .hint("a backup needs as much free room beside the catalog as the catalog has bytes")
}
