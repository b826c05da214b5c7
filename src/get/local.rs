//! The local side of a get: what is there already, temporary files, and putting whole files in their places.
//!
//! Names of the form `.NAME.RANDOM.bytenode-part` are reserved for temporary files in every directory that is got into.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{DirEntry, File};
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

fn cannot(path: &Path, what: &str, error: &std::io::Error) -> ApiError {
    ApiError::new(Code::Internal, format!("cannot {what} {}: {error}", path.display()))
}

/// What the name of every temporary file ends with; before it stand a dot, the destination's name, and [`RANDOM`] digits.
const SUFFIX: &str = ".bytenode-part";
/// Bytes of chance in such a name.
const RANDOM: usize = 6;

/// Whether a name is that of a temporary file.
fn is_temporary(name: &OsStr) -> bool {
    let stem = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(SUFFIX));
    let random = stem.and_then(|stem| stem.rsplit_once('.')).map(|(_, random)| random);
    random.is_some_and(|random| random.len() == 2 * RANDOM && random.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Directories that a get is writing into. Each is locked, shared with other gets: who gets the lock alone knows that the
/// temporary files in it were left by a get that was killed.
#[derive(Default)]
pub(super) struct Dirs(BTreeMap<PathBuf, Option<File>>);

impl Dirs {
    /// Enters the directory of a destination, and removes the temporary files that were left in it, unless another get is
    /// at work there. Never waits for one.
    pub(super) async fn enter(&mut self, seam: &Seam, dest: &Path) {
        let dir = parent(dest);
        if !self.0.contains_key(dir) {
            let (dir, entered) = (dir.to_owned(), dir.to_owned());
            let lock = seam.offload(move || enter(&entered)).await;
            self.0.insert(dir, lock);
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Leaves all of them but that of this destination.
    pub(super) fn leave_but(&mut self, dest: &Path) {
        self.0.retain(|dir, _| dir == parent(dest));
    }
}

/// The lock, where the system has such locks for directories.
fn enter(dir: &Path) -> Option<File> {
    let lock = File::open(dir).ok()?;
    lock.try_lock_shared().ok()?;
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    let temporary = |entry: &DirEntry| is_temporary(&entry.file_name()) && entry.file_type().is_ok_and(|t| t.is_file());
    let left: Vec<DirEntry> = entries.filter(temporary).collect();
    if !left.is_empty() {
        if lock.try_lock().is_ok() {
            // What cannot be removed stays, and harms nothing.
            left.iter().for_each(|entry| drop(std::fs::remove_file(entry.path())));
        }
        lock.try_lock_shared().ok()?;
    }
    Some(lock)
}

/// The directory that a file is in.
fn parent(dest: &Path) -> &Path {
    dest.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
            // What cannot be removed is found by its name: see [`Dirs::enter`].
            drop(std::fs::remove_file(&self.path));
        }
    }
}

impl Temporary {
    /// Makes a new file `.NAME.RANDOM.bytenode-part` in the destination's directory.
    pub(super) async fn create(seam: &Seam, dest: &Path) -> ApiResult<Self> {
        let name = dest.file_name().unwrap_or_default().to_string_lossy();
        let short: String = name.chars().take(40).collect();
        let random = data_encoding::HEXLOWER.encode(&seam.bytes::<RANDOM>());
        let path = dest.with_file_name(format!(".{short}.{random}{SUFFIX}"));
        let made = path.clone();
        // Whole already where it is made: if nobody waits for it any more, it is removed.
        let create = move || {
            let file = File::options().write(true).create_new(true).open(&made)?;
            Ok(Self { path: made, file: Some(FileWriter::new(file)), placed: false })
        };
        seam.offload(create).await.map_err(|error: std::io::Error| cannot(&path, "make", &error))
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
                dirs.insert(parent(&wanted.dest).to_owned());
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
        if let Err(error) = File::open(dir).and_then(|dir| dir.sync_all()) {
            for (wanted, result) in placed.iter_mut().filter(|(wanted, _)| parent(&wanted.dest) == dir) {
                if result.is_ok() {
                    *result = Err(cannot(&wanted.dest, "sync the directory of", &error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_temporary_files_are_taken_for_such() {
        assert!(is_temporary(OsStr::new(".a.b.0123456789ab.bytenode-part")));
        for other in
            ["a.0123456789ab.bytenode-part", ".a.bytenode-part", ".a.0123456789xy.bytenode-part", ".bytenode-part"]
        {
            assert!(!is_temporary(OsStr::new(other)), "{other}");
        }
    }

    /// What a killed get left went nowhere: the next get made files of its own, and those of the first stayed for ever.
    #[cfg(unix)]
    #[tokio::test]
    async fn what_a_killed_get_left_is_removed_and_what_another_uses_stays() {
        let (home, seam) = (tempfile::tempdir().unwrap(), Seam::real());
        let dest = home.path().join("a");
        let (mut first, mut second) = (Dirs::default(), Dirs::default());
        std::fs::write(home.path().join(".b.0123456789ab.bytenode-part"), "left").unwrap();
        std::fs::write(home.path().join("b.bytenode-part"), "not ours").unwrap();
        let names = || std::fs::read_dir(home.path()).unwrap().count();
        first.enter(&seam, &dest).await;
        assert_eq!(names(), 1);
        let mut temporary = Temporary::create(&seam, &dest).await.unwrap();
        second.enter(&seam, &dest).await;
        assert!(temporary.path.exists(), "the first is at work");
        // As a process that is killed leaves it.
        temporary.placed = true;
        first.leave_but(Path::new("elsewhere/x"));
        Dirs::default().enter(&seam, &dest).await;
        assert!(temporary.path.exists(), "the second is there still");
        drop(second);
        Dirs::default().enter(&seam, &dest).await;
        assert_eq!((temporary.path.exists(), names()), (false, 1));
    }
}
