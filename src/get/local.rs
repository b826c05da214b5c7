//! The local side of a get: what is there already, temporary files, and putting whole files in their places.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::Wanted;
use crate::api::{ApiError, ApiResult, Code};
use crate::chunk::FileHash;
use crate::file_writer::FileWriter;
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

fn cannot(path: &Path, what: &str, error: &std::io::Error) -> ApiError {
    ApiError::new(Code::Internal, format!("cannot {what} {}: {error}", path.display()))
}

/// Whether all bytes, and at least one, are zero: each is as the one before it.
fn is_zeros(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes[1..] == bytes[..bytes.len() - 1]
}

/// A file that is being written beside its destination; removed unless it is put in place.
pub(super) struct Temporary {
    path: PathBuf,
    file: Option<FileWriter>,
    placed: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            // What cannot be removed is found by its name.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

impl Temporary {
    /// Makes a new file `.NAME.RANDOM.bytenode-part` in the destination's directory.
    pub(super) async fn create(seam: &Seam, dest: &Path) -> ApiResult<Self> {
        let name = dest.file_name().unwrap_or_default().to_string_lossy();
        let short: String = name.chars().take(40).collect();
        let random = data_encoding::HEXLOWER.encode(&seam.bytes::<6>());
        let path = dest.with_file_name(format!(".{short}.{random}.bytenode-part"));
        let made = path.clone();
        let create = move || File::options().write(true).create_new(true).open(made);
        let file = seam.offload(create).await.map_err(|error| cannot(&path, "make", &error))?;
        Ok(Self { path, file: Some(FileWriter::new(file)), placed: false })
    }

    /// Appends bytes; zeros as a hole, so that a file with holes takes no more room than it did where it came from.
    pub(super) async fn write(&mut self, seam: &Seam, bytes: Bytes) -> ApiResult<()> {
        let Some(mut file) = self.file.take() else {
            return Err(ApiError::new(Code::Internal, "an earlier write failed"));
        };
        let write = move || {
            if is_zeros(&bytes) { file.skip(bytes.len()) } else { file.write(&bytes) }?;
            Ok(file)
        };
        let written: std::io::Result<_> = seam.offload(write).await;
        let file = written.map_err(|error| cannot(&self.path, "write", &error))?;
        self.file = Some(file);
        Ok(())
    }

    /// Ends writing. A group holds many files, more than may be open at once, so each is opened again to be synced.
    /// The system begins at once to write what will be synced then.
    pub(super) async fn close(&mut self, seam: &Seam) -> ApiResult<()> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        seam.offload(move || file.flush()).await.map_err(|error| cannot(&self.path, "write", &error))
    }

    fn sync(&mut self, wanted: &Wanted) -> std::io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        let modified = std::time::SystemTime::from(wanted.entry.modified);
        file.set_modified(modified)?;
        #[cfg(unix)]
        if wanted.entry.executable {
            use std::os::unix::fs::PermissionsExt;
            let mode = file.metadata()?.permissions().mode();
            let readers = (mode & 0o444) >> 2;
            file.set_permissions(PermissionsExt::from_mode(mode | readers))?;
        }
        file.sync_all()
    }

    fn place(&mut self, dest: &Path, overwrite: Overwrite) -> std::io::Result<()> {
        self.file = None;
        if overwrite == Overwrite::Never {
            // A hard link fails where something is, so that what appeared meanwhile is not replaced.
            match std::fs::hard_link(&self.path, dest) {
                Ok(()) => return std::fs::remove_file(&self.path).map(|()| self.placed = true),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) if dest.symlink_metadata().is_ok() => {
                    return Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists));
                }
                // This file system has no hard links.
                Err(_) => {}
            }
        }
        std::fs::rename(&self.path, dest)?;
        self.placed = true;
        Ok(())
    }
}

/// Syncs all, renames all, then syncs the directories.
pub(super) async fn put_in_place(
    seam: &Seam,
    files: Vec<(Wanted, Temporary)>,
    overwrite: Overwrite,
) -> Vec<(Wanted, ApiResult<()>)> {
    seam.offload(move || {
        let mut synced = Vec::with_capacity(files.len());
        for (wanted, mut temporary) in files {
            let result = temporary.sync(&wanted).map_err(|error| cannot(&wanted.dest, "sync", &error));
            synced.push((wanted, temporary, result));
        }
        let mut dirs = BTreeSet::new();
        let mut placed = Vec::with_capacity(synced.len());
        for (wanted, mut temporary, result) in synced {
            let result = result.and_then(|()| {
                dirs.extend(wanted.dest.parent().map(Path::to_owned));
                temporary.place(&wanted.dest, overwrite).map_err(|error| match error.kind() {
                    std::io::ErrorKind::AlreadyExists => {
                        ApiError::new(Code::Exists, format!("{} appeared meanwhile", wanted.dest.display()))
                    }
                    _ => cannot(&wanted.dest, "put in place", &error),
                })
            });
            placed.push((wanted, result));
        }
        sync_dirs(&dirs, &mut placed);
        placed
    })
    .await
}

/// A directory that cannot be synced fails the files in it, which are there all the same.
fn sync_dirs(dirs: &BTreeSet<PathBuf>, placed: &mut [(Wanted, ApiResult<()>)]) {
    if !cfg!(unix) {
        return;
    }
    for dir in dirs {
        let open = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        if let Err(error) = File::open(open).and_then(|dir| dir.sync_all()) {
            for (wanted, result) in placed.iter_mut().filter(|(wanted, _)| wanted.dest.parent() == Some(dir)) {
                if result.is_ok() {
                    *result = Err(cannot(&wanted.dest, "sync the directory of", &error));
                }
            }
        }
    }
}
