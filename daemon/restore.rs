//! Makes a coordinator's directory from a backup.
//!
//! Nothing is touched before the passphrase has opened the backup. What is restored is written, synced and checked in a
//! directory `restore.new` within the new one, and only then moved to its place; no coordinator starts while that
//! directory is there. So a restore that was interrupted at any moment never looks like a coordinator.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::coordinator::{LOCK, lock};
use crate::api::{ApiError, ApiResult, Code};
use crate::backup::{Backup, BackupError, Facts, Part, Passphrase};
use crate::catalog::CatalogError;
use crate::coordinator::backup::{LAST, clear, examine, make_private, write_last};
use crate::coordinator::keys::Keys;
use crate::seam::Seam;

/// The directory, within the one that is restored, of what is not in its place yet.
pub(super) const UNFINISHED: &str = "restore.new";

/// Restores a coordinator's directory: everything as it was at the moment of the backup, pool, keys and epoch with it.
///
/// # Errors
/// [`Code::NotFound`] without such a file, [`Code::NotAllowed`] for a wrong passphrase, [`Code::Integrity`] for a file
/// that is no backup, is damaged, or holds a catalog that is; [`Code::Exists`] when the directory is not empty. Whatever
/// the error, no coordinator starts on what was written; unless it is the last step that fails, nothing of it is left.
pub fn restore(file: &Path, data: &Path, passphrase: &Passphrase) -> ApiResult<Facts> {
    let input = File::open(file).map_err(|error| cannot(&format!("read {}", file.display()), &error))?;
    let backup = Backup::open(io::BufReader::with_capacity(1 << 20, input), passphrase)?;
    let was_there = data.exists();
    let _lock = enter(data)?;
    let unfinished = data.join(UNFINISHED);
    let written = write(backup, &unfinished).and_then(|facts| check(&unfinished, &facts).map(|()| facts));
    match written {
        Ok(facts) => put_in_place(&unfinished, data).map(|()| facts),
        Err(error) => {
            // What cannot be removed is no more in the way of the next attempt than it was in that of this one.
            let _ = fs::remove_dir_all(&unfinished);
            if !was_there {
                let _ = fs::remove_file(data.join(LOCK)).and_then(|()| fs::remove_dir(data));
            }
            Err(error)
        }
    }
}

/// Makes the directory unless it is there, sees to it that it holds nothing but what an interrupted restore left before
/// anything was in its place, and locks it.
fn enter(data: &Path) -> ApiResult<File> {
    let shown = data.display();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(data).map_err(|error| cannot(&format!("make {shown}"), &error))?;
    let entries = fs::read_dir(data).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|error| cannot(&format!("read {shown}"), &error))?;
    if entries.iter().any(|entry| entry.file_name() != LOCK && entry.file_name() != UNFINISHED) {
        let refused = ApiError::new(Code::Exists, format!("{shown} is not empty"));
        return Err(refused.hint("restore into a new directory, or move this one out of the way first"));
    }
    let held = lock(data).map_err(|error| cannot(&format!("lock {shown}"), &error))?;
    let held = held.ok_or_else(|| ApiError::new(Code::Busy, format!("another process uses {shown}")))?;
    let unfinished = data.join(UNFINISHED);
    let cleared = clear(&unfinished).and_then(|()| make_private(&unfinished));
    cleared.map_err(|error| cannot(&format!("write in {shown}"), &error))?;
    Ok(held)
}

/// Writes what the backup holds, for its owner alone, and syncs it.
fn write(backup: Backup<impl io::Read>, unfinished: &Path) -> ApiResult<Facts> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut files = Vec::new();
    let facts = backup.extract(|part| {
        let file = options.open(unfinished.join(part.file_name()))?;
        files.push(file.try_clone()?);
        Ok(file)
    });
    let unwritten = |error: &io::Error| cannot(&format!("write in {}", unfinished.display()), error);
    let facts = facts.map_err(|error| match error {
        BackupError::Place(source) => unwritten(&source),
        other => other.into(),
    })?;
    files.iter().try_for_each(File::sync_all).map_err(|error| unwritten(&error))?;
    Ok(facts)
}

/// Checks the catalog from end to end, that it is the one that the backup tells of, and that the keys open its vaults.
fn check(unfinished: &Path, facts: &Facts) -> ApiResult<()> {
    let integrity = |error: &dyn std::fmt::Display| ApiError::new(Code::Integrity, format!("of the backup, {error}"));
    let keys = Keys::open(unfinished, &Seam::real()).map_err(|error| integrity(&error))?;
    let copied = examine(&unfinished.join(Part::Catalog.file_name()), &keys).map_err(unsound)?;
    if (copied.version, copied.pool, copied.files, copied.chunks)
        != (facts.catalog, facts.pool, facts.files, facts.chunks)
    {
        return Err(integrity(&"the catalog is not the one that it tells of"));
    }
    write_last(unfinished, facts.made).map_err(|error| ApiError::new(Code::Internal, error.to_string()))
}

fn put_in_place(unfinished: &Path, data: &Path) -> ApiResult<()> {
    let names = [Part::Master, Part::Signing, Part::Nodes, Part::Catalog].map(Part::file_name);
    let names = names.into_iter().chain([LAST]);
    let moved = own(data, names.clone().map(|name| unfinished.join(name)).chain([data.join(LOCK)]))
        .and_then(|()| names.clone().try_for_each(|name| fs::rename(unfinished.join(name), data.join(name))))
        // All of it is in its place for good before the mark goes that says that it may not be.
        .and_then(|()| sync_dir(data))
        .and_then(|()| fs::remove_dir(unfinished))
        .and_then(|()| sync_dir(data))
        .and_then(|()| data.canonicalize()?.parent().map_or(Ok(()), sync_dir));
    moved.map_err(|error| {
        cannot(&format!("put what is restored in its place in {}", data.display()), &error)
            .hint("empty that directory and run the same command again")
    })
}

/// Gives files the owner of their directory: root may restore what a service runs as another user.
fn own(data: &Path, files: impl Iterator<Item = PathBuf>) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, chown};
        let owner = fs::metadata(data)?;
        for file in files {
            let metadata = fs::metadata(&file)?;
            if (metadata.uid(), metadata.gid()) != (owner.uid(), owner.gid()) {
                chown(&file, Some(owner.uid()), Some(owner.gid()))?;
            }
        }
    }
    #[cfg(not(unix))]
    let _ = (data, files);
    Ok(())
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = dir;
    Ok(())
}

fn unsound(error: CatalogError) -> ApiError {
    match &error {
        CatalogError::Newer { .. } => ApiError::new(Code::Internal, error.to_string())
            .hint("restore with the version of ByteNode that made the backup, or a later one"),
        CatalogError::Sqlite(source) => {
            ApiError::new(Code::Integrity, format!("the backup's catalog cannot be read ({source})"))
        }
        _ => ApiError::new(Code::Integrity, format!("of the backup, {error}")),
    }
}

fn cannot(what: &str, error: &io::Error) -> ApiError {
    let code = match error.kind() {
        io::ErrorKind::NotFound => Code::NotFound,
        io::ErrorKind::PermissionDenied => Code::NotAllowed,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => Code::Exists,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Code::NoRoom,
        _ => Code::Internal,
    };
    ApiError::new(code, format!("cannot {what} ({error})"))
}
