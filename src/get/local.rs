//! The local side of a get: what is there already, and putting whole files in their places.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Wanted;
use super::temporary::{Dirs, Temporary, parent};
use crate::api::{ApiError, ApiResult, Code};
use crate::chunk::FileHash;
use crate::put::{Context, Overwrite};
use crate::seam::Seam;

/// The SHA-256 of a local file, read in bounded pieces off the async threads.
pub(crate) async fn hash_local(seam: &Seam, path: &Path) -> std::io::Result<[u8; 32]> {
    let path = path.to_owned();
    seam.offload(move || {
        let mut file = File::open(path)?;
        let mut hash = FileHash::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(hash.finish()),
                Ok(got) => hash.update(&buffer[..got]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    })
    .await
}

/// What to do about a destination.
pub(super) enum Look {
    Fetch,
    Unchanged,
    Refuse(ApiError),
}

/// Looks at what is at the destination.
pub(super) async fn look(context: &Context, wanted: &Wanted, overwrite: Overwrite) -> Look {
    let dest = wanted.dest.clone();
    let found = context.seam.offload(move || std::fs::symlink_metadata(dest)).await;
    let metadata = match found {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Look::Fetch,
        Err(error) => return Look::Refuse(cannot(&wanted.dest, "look at", &error)),
    };
    if metadata.is_dir() {
        let what = format!("{} is a directory", wanted.dest.display());
        return Look::Refuse(ApiError::new(Code::WrongKind, what));
    }
    if !metadata.is_file() && !metadata.is_symlink() {
        // A device or a pipe would be replaced by a file, whoever uses it.
        let what = format!("{} is no regular file", wanted.dest.display());
        return Look::Refuse(ApiError::new(Code::WrongKind, what));
    }
    if overwrite == Overwrite::Always {
        return Look::Fetch;
    }
    let same_size = metadata.is_file() && metadata.len() == wanted.entry.size;
    if overwrite == Overwrite::IfChanged && same_size && modified(&metadata) == Some(wanted.entry.modified) {
        return Look::Unchanged;
    }
    let same = same_size
        && match hash_local(&context.seam, &wanted.dest).await {
            Ok(here) => wanted.entry.sha256.is_some_and(|there| there.0 == here),
            Err(error) => return Look::Refuse(cannot(&wanted.dest, "read", &error)),
        };
    match (same, overwrite) {
        (true, _) => Look::Unchanged,
        (false, Overwrite::IfChanged) => Look::Fetch,
        (false, _) => {
            let what = format!("{} exists already, with other content", wanted.dest.display());
            Look::Refuse(ApiError::new(Code::Exists, what).hint("add --overwrite always"))
        }
    }
}

fn modified(metadata: &std::fs::Metadata) -> Option<jiff::Timestamp> {
    let time = jiff::Timestamp::try_from(metadata.modified().ok()?).ok()?;
    jiff::Timestamp::from_microsecond(time.as_microsecond()).ok()
}

pub(super) fn cannot(path: &Path, what: &str, error: &std::io::Error) -> ApiError {
    ApiError::new(Code::Internal, format!("cannot {what} {}: {error}", path.display()))
}

/// Syncs all, renames all, then syncs the directories. A directory that cannot be synced fails the files in it, which are
/// there all the same.
pub(super) async fn put_in_place(
    seam: &Seam,
    dirs: &mut Dirs,
    files: Vec<(Wanted, Temporary)>,
    overwrite: Overwrite,
) -> Vec<(Wanted, ApiResult<()>)> {
    let (mut placed, into) = seam.offload(move || place_all(files, overwrite)).await;
    let unsynced: BTreeMap<_, _> = dirs.sync(seam, into).await.into_iter().collect();
    for (wanted, result) in &mut placed {
        if let (Ok(()), Some(error)) = (&result, unsynced.get(parent(&wanted.dest))) {
            *result = Err(cannot(&wanted.dest, "sync the directory of", error));
        }
    }
    placed
}

/// Syncs all, then renames all; gives also the directories that they are in.
fn place_all(
    files: Vec<(Wanted, Temporary)>,
    overwrite: Overwrite,
) -> (Vec<(Wanted, ApiResult<()>)>, BTreeSet<PathBuf>) {
    let mut synced = Vec::with_capacity(files.len());
    for (wanted, mut temporary) in files {
        let result = temporary.sync(&wanted).map_err(|error| cannot(&wanted.dest, "sync", &error));
        synced.push((wanted, temporary, result));
    }
    let mut dirs = BTreeSet::new();
    let mut placed = Vec::with_capacity(synced.len());
    for (wanted, mut temporary, result) in synced {
        let result = result.and_then(|()| {
            dirs.insert(parent(&wanted.dest).to_owned());
            temporary.place(&wanted.dest, overwrite).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    ApiError::new(Code::Exists, format!("{} appeared meanwhile", wanted.dest.display()))
                }
                _ => cannot(&wanted.dest, "put in place", &error),
            })
        });
        if result.is_err() {
            temporary.give_up();
        }
        placed.push((wanted, result));
    }
    (placed, dirs)
}
