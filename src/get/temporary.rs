//! Temporary files of a get, which become the files that were asked for.
//!
//! Each stands beside its destination, as `.NAME.DIGITS.bytenode-part`; such names are reserved in every directory that is
//! got into. Of a file with more than one chunk the digits follow from its content, so that a get that was interrupted is
//! gone on with by the next one, which believes nothing of what it finds there before each chunk is proved. Such a file
//! is locked while a get is at work on it. All others are made new, with digits of chance.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Wanted;
use super::local::cannot;
use crate::api::{ApiError, ApiResult, ChunkDesc, Code, OpenFile};
use crate::buffers;
use crate::failpoint::{Step, reached};
use crate::file_writer::FileWriter;
use crate::files;
use crate::id::{ChunkId, sha256};
use crate::put::Overwrite;
use crate::seal::{self, Key};
use crate::seam::Seam;

/// What the name of every temporary file ends with; before it stand a dot, the destination's name, and [`DIGITS`].
const SUFFIX: &str = ".bytenode-part";
/// Hexadecimal digits in such a name.
const DIGITS: usize = 12;

/// Whether a name is that of a temporary file.
fn is_temporary(name: &OsStr) -> bool {
    let stem = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(SUFFIX));
    let digits = stem.and_then(|stem| stem.rsplit_once('.')).map(|(_, digits)| digits);
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn temporary_path(dest: &Path, digits: &[u8]) -> PathBuf {
    let name = dest.file_name().unwrap_or_default().to_string_lossy();
    let short: String = name.chars().take(40).collect();
    dest.with_file_name(format!(".{short}.{}{SUFFIX}", data_encoding::HEXLOWER.encode(&digits[..DIGITS / 2])))
}

/// The temporary file of a file that is worth going on with: one of several chunks.
pub(super) fn lasting_path(dest: &Path, file: &OpenFile) -> Option<PathBuf> {
    let content = file.entry.sha256.filter(|_| file.data_chunks() > 1)?;
    let name = dest.file_name().unwrap_or_default().as_encoded_bytes();
    Some(temporary_path(dest, &sha256(&[&content.0[..], &file.chunk_size.to_be_bytes(), name].concat())))
}

/// The directory that a file is in.
pub(super) fn parent(dest: &Path) -> &Path {
    dest.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Directories that a get is writing into. Each is locked, shared with other gets: who gets the lock alone knows that the
/// temporary files in it were left by gets that were killed.
#[derive(Default)]
pub(super) struct Dirs {
    entered: BTreeMap<PathBuf, Dir>,
    named: Named,
}

#[derive(Default)]
struct Dir {
    /// Whether what was there when it was entered has durable names.
    settled: bool,
    /// Where the system has such locks for directories.
    lock: Option<File>,
    /// Temporary files that were there at first, and that this get does not go on with.
    left: BTreeSet<OsString>,
}

impl Dirs {
    /// Enters the directory of a destination. Never waits for another get.
    pub(super) async fn enter(&mut self, seam: &Seam, dest: &Path) {
        let dir = parent(dest);
        if !self.entered.contains_key(dir) {
            let (dir, entered) = (dir.to_owned(), dir.to_owned());
            let found = seam.offload(move || Dir::enter(&entered)).await.unwrap_or_default();
            self.entered.insert(dir, found);
        }
        // Somebody wants a file of such a name: then it is theirs.
        self.keep(dest);
    }

    /// Says that a file is none that was left, or that it is gone on with.
    pub(super) fn keep(&mut self, path: &Path) {
        if let (Some(dir), Some(name)) = (self.entered.get_mut(parent(path)), path.file_name()) {
            dir.left.remove(name);
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.entered.len()
    }

    /// Makes the names of what is in the directory of a destination durable: a get that was killed may have put it there,
    /// and not have come to that.
    pub(super) async fn settle(&mut self, seam: &Seam, dest: &Path) -> io::Result<()> {
        let dir = parent(dest);
        if self.entered.get(dir).is_some_and(|dir| dir.settled) || !may_name(dir) {
            return Ok(());
        }
        self.sync(seam, BTreeSet::from([dir.to_owned()])).await.into_iter().try_for_each(|(_, error)| Err(error))?;
        if let Some(dir) = self.entered.get_mut(dir) {
            dir.settled = true;
        }
        Ok(())
    }

    /// Makes all names in these directories durable, and those that lead to them; gives where it failed.
    pub(super) async fn sync(&mut self, seam: &Seam, dirs: BTreeSet<PathBuf>) -> Vec<(PathBuf, io::Error)> {
        let mut named = std::mem::take(&mut self.named);
        let (named, failed) = seam
            .offload(move || {
                let failed = named.sync(&dirs);
                (named, failed)
            })
            .await;
        self.named = named;
        failed
    }

    /// Leaves all of them but that of `dest`, and removes what was left in them, unless another get is at work there.
    pub(super) async fn leave_but(&mut self, seam: &Seam, dest: Option<&Path>) {
        let (stay, leave) = std::mem::take(&mut self.entered)
            .into_iter()
            .partition(|(dir, _)| dest.is_some_and(|dest| dir == parent(dest)));
        self.entered = stay;
        self.named.0.retain(|dir| dest.is_some_and(|dest| dest.starts_with(dir)));
        let leave: BTreeMap<PathBuf, Dir> = leave;
        seam.offload(move || leave.iter().for_each(|(path, dir)| dir.leave(path))).await;
    }
}

impl Dir {
    fn enter(dir: &Path) -> Option<Self> {
        let lock = File::open(dir).ok()?;
        lock.try_lock_shared().ok()?;
        let temporary =
            |entry: &DirEntry| is_temporary(&entry.file_name()) && entry.file_type().is_ok_and(|t| t.is_file());
        let entries = std::fs::read_dir(dir).ok()?.flatten();
        let left = entries.filter(temporary).map(|entry| entry.file_name()).collect();
        Some(Self { settled: false, lock: Some(lock), left })
    }

    fn leave(&self, dir: &Path) {
        if !self.left.is_empty() && self.lock.as_ref().is_some_and(|lock| lock.try_lock().is_ok()) {
            // What cannot be removed stays, and harms nothing.
            self.left.iter().for_each(|name| drop(files::remove(&dir.join(name))));
        }
    }
}

/// Directories that were found to exist, and whose own names were then made durable in the directory above them: syncing
/// a file, or the directory that it is in, keeps neither from being lost with a directory further up.
#[derive(Default)]
struct Named(BTreeSet<PathBuf>);

impl Named {
    /// Syncs each of the directories, then, on the way up from each, all in which a get may have made a name.
    fn sync(&mut self, dirs: &BTreeSet<PathBuf>) -> Vec<(PathBuf, io::Error)> {
        let (mut failed, mut synced) = (Vec::new(), BTreeSet::new());
        // Systems without directories that can be opened have nothing to sync.
        for dir in dirs.iter().filter(|_| cfg!(unix)) {
            let mut sync = |at: &Path| {
                if !synced.contains(at) {
                    files::sync_dir(at)?;
                    synced.insert(at.to_owned());
                }
                Ok(())
            };
            let mut done = sync(dir);
            let mut at = dir.as_path();
            while done.is_ok() && at.file_name().is_some() && !self.0.contains(at) && may_name(parent(at)) {
                done = sync(parent(at));
                if done.is_ok() {
                    self.0.insert(at.to_owned());
                }
                at = parent(at);
            }
            failed.extend(done.err().map(|error| (dir.clone(), error)));
        }
        failed
    }
}

/// Whether this user could have made a name in a directory, and can sync it.
#[cfg(unix)]
fn may_name(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(not(unix))]
fn may_name(_dir: &Path) -> bool {
    false
}

/// What an earlier get left of a file, and nobody else is at work on.
#[derive(Debug, Clone)]
pub(super) struct Kept(Arc<File>);

impl Kept {
    /// The plaintext of a chunk that has its place at this offset, if it is there.
    pub(super) fn proved(&self, at: u64, desc: &ChunkDesc, key: Option<&Key>) -> Option<Bytes> {
        let mut plain = BytesMut::zeroed(usize::try_from(desc.length).ok()?);
        read_at(&self.0, &mut plain, at).ok()?;
        let right = match key {
            Some(key) => seal::is_sealed_as(key, &plain, &desc.chunk),
            None => ChunkId::of(&plain) == desc.chunk,
        };
        right.then(|| plain.freeze())
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, at)
}

#[cfg(not(unix))]
fn read_at(_file: &File, _buffer: &mut [u8], _at: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A file that is being written beside its destination. Removed unless it is put in place, or is worth going on with.
pub(super) struct Temporary {
    path: PathBuf,
    file: Option<FileWriter>,
    /// Of one that can be gone on with: the lock, and what it holds.
    kept: Option<Kept>,
    /// Whether it stays when this is dropped.
    stays: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.stays {
            // What cannot be removed is found by its name: see [`Dirs::leave_but`].
            drop(files::remove(&self.path));
        }
    }
}

impl Temporary {
    /// Opens the file that an interrupted get of the same left, or makes a new one.
    pub(super) async fn create(seam: &Seam, dest: &Path, lasting: PathBuf) -> ApiResult<Self> {
        let fresh = temporary_path(dest, &seam.bytes::<{ DIGITS / 2 }>());
        let made = fresh.clone();
        // Whole already where it is made: if nobody waits for it any more, it is removed.
        let create = move || Self::lasting(lasting).or_else(|_| Self::new(made));
        seam.offload(create).await.map_err(|error| cannot(&fresh, "make", &error))
    }

    /// Makes a new file that holds just this, and is never gone on with.
    pub(super) async fn whole(seam: &Seam, dest: &Path, bytes: Bytes) -> ApiResult<Self> {
        let path = temporary_path(dest, &seam.bytes::<{ DIGITS / 2 }>());
        let made = path.clone();
        let make = move || {
            let mut temporary = Self::new(made)?;
            if let Some(mut file) = temporary.file.take() {
                append(&mut file, &bytes)?;
                file.flush()?;
            }
            Ok(temporary)
        };
        seam.offload(make).await.map_err(|error: io::Error| cannot(&path, "write", &error))
    }

    fn new(path: PathBuf) -> io::Result<Self> {
        let file = files::create(File::options().write(true), &path)?;
        Ok(Self { path, file: Some(FileWriter::new(file)), kept: None, stays: false })
    }

    /// Opens, or makes, and locks a file that can be gone on with. Fails when another get is at work on it, or when it is
    /// not such a file of this user: what a link or somebody else's file leads to is not written to.
    #[cfg(unix)]
    fn lasting(path: PathBuf) -> io::Result<Self> {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(|_| io::ErrorKind::Unsupported)?;
        let open = |new| {
            let mut options = File::options();
            options.read(true).write(true).custom_flags(flags);
            if new { files::create(&options, &path) } else { options.open(&path) }
        };
        let (file, new) = match open(true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => (open(false)?, false),
            made => (made?, true),
        };
        file.try_lock()?;
        let found = file.metadata()?;
        let is_ours = found.is_file() && found.nlink() == 1 && found.uid() == rustix::process::geteuid().as_raw();
        // A second opening: flags that are set for writing must not hold for reading.
        let writer = open(false)?;
        let same = writer.metadata().map(|other| (other.dev(), other.ino()) == (found.dev(), found.ino()))?;
        if !is_ours || !same {
            let has_two_names = found.is_file() && found.nlink() > 1;
            if has_two_names && same {
                // One was put in place, and its name here outlived that: a get was killed, or the power went.
                files::remove(&path)?;
            }
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self { path, file: Some(FileWriter::new(writer)), kept: Some(Kept(Arc::new(file))), stays: !new })
    }

    #[cfg(not(unix))]
    fn lasting(_path: PathBuf) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What it holds from an earlier get, perhaps.
    pub(super) fn kept(&self) -> Option<Kept> {
        self.kept.clone().filter(|_| self.stays)
    }

    /// Cuts it off behind what was found to be right. From there on it is written; not called for a new one.
    pub(super) async fn cut(&mut self, seam: &Seam, at: u64) -> ApiResult<()> {
        self.work(seam, move |file| file.start_at(at)).await
    }

    /// Appends bytes.
    pub(super) async fn write(&mut self, seam: &Seam, bytes: Bytes) -> ApiResult<()> {
        self.work(seam, move |file| append(file, &bytes).map(|()| buffers::give(bytes))).await?;
        reached(Step::File);
        self.stays = self.kept.is_some();
        Ok(())
    }

    async fn work(
        &mut self,
        seam: &Seam,
        work: impl FnOnce(&mut FileWriter) -> io::Result<()> + Send + 'static,
    ) -> ApiResult<()> {
        let Some(mut file) = self.file.take() else {
            return Err(ApiError::new(Code::Internal, "an earlier write failed"));
        };
        let done = seam.offload(move || work(&mut file).map(|()| file)).await;
        // After a full disk, above all, nothing stays.
        self.stays &= done.is_ok();
        self.file = Some(done.map_err(|error| cannot(&self.path, "write", &error))?);
        Ok(())
    }

    /// Ends writing. A group holds many files, more than may be open at once, so each is opened again to be synced.
    /// The system begins at once to write what will be synced then.
    pub(super) async fn close(&mut self, seam: &Seam) -> ApiResult<()> {
        self.work(seam, FileWriter::flush).await?;
        self.file = None;
        Ok(())
    }

    /// Lets it go when this is dropped, whatever it holds.
    pub(super) fn give_up(&mut self) {
        self.stays = false;
    }

    /// Makes all of it durable, with the modification time and the execute bit of the file that it becomes.
    pub(super) fn sync(&mut self, wanted: &Wanted) -> io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        let modified = std::time::SystemTime::from(wanted.entry.modified);
        files::set_modified(&file, modified)?;
        #[cfg(unix)]
        if wanted.entry.executable {
            use std::os::unix::fs::PermissionsExt;
            let mode = file.metadata()?.permissions().mode();
            let readers = (mode & 0o444) >> 2;
            files::set_permissions(&file, PermissionsExt::from_mode(mode | readers))?;
        }
        reached(Step::File);
        files::sync(&file)
    }

    /// Gives it its name.
    pub(super) fn place(&mut self, dest: &Path, overwrite: Overwrite) -> io::Result<()> {
        self.file = None;
        if overwrite == Overwrite::Never {
            // A hard link fails where something is, so that what appeared meanwhile is not replaced.
            match files::link(&self.path, dest) {
                Ok(()) => return files::remove(&self.path).map(|()| self.stays = true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
                Err(_) if dest.symlink_metadata().is_ok() => {
                    return Err(io::Error::from(io::ErrorKind::AlreadyExists));
                }
                // This file system has no hard links.
                Err(_) => {}
            }
        }
        reached(Step::File);
        files::rename(&self.path, dest)?;
        reached(Step::File);
        self.stays = true;
        Ok(())
    }
}

/// Appends bytes; zeros as a hole, so that a file with holes takes no more room than it did where it came from.
fn append(file: &mut FileWriter, bytes: &[u8]) -> io::Result<()> {
    if is_zeros(bytes) { file.skip(bytes.len()) } else { file.write(bytes) }
}

/// Whether all bytes, and at least one, are zero: each is as the one before it.
fn is_zeros(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0) && bytes[1..] == bytes[..bytes.len() - 1]
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
        for name in [".b.0123456789ab.bytenode-part", ".c.0123456789ab.bytenode-part", "b.bytenode-part"] {
            std::fs::write(home.path().join(name), "left").unwrap();
        }
        let names = || std::fs::read_dir(home.path()).unwrap().count();
        // A get that comes and goes.
        let once = || async {
            let mut dirs = Dirs::default();
            dirs.enter(&seam, &dest).await;
            dirs.leave_but(&seam, None).await;
        };
        first.enter(&seam, &dest).await;
        first.keep(&home.path().join(".c.0123456789ab.bytenode-part"));
        first.leave_but(&seam, None).await;
        assert_eq!(names(), 2, "one is gone on with, one is not ours");
        first.enter(&seam, &dest).await;
        let mut temporary = Temporary::whole(&seam, &dest, Bytes::new()).await.unwrap();
        second.enter(&seam, &dest).await;
        once().await;
        assert!(temporary.path.exists(), "the first is at work");
        // As a process that is killed leaves it.
        temporary.stays = true;
        drop(first);
        once().await;
        assert!(temporary.path.exists(), "the second is there still");
        drop(second);
        once().await;
        assert_eq!((temporary.path.exists(), names()), (false, 1));
    }

    /// What stands under the name of a temporary file may be anything that somebody put there.
    #[cfg(unix)]
    #[tokio::test]
    async fn only_a_file_of_ours_that_nobody_is_at_work_on_is_gone_on_with() {
        let (home, seam) = (tempfile::tempdir().unwrap(), Seam::real());
        let (dest, path) = (home.path().join("a"), home.path().join(".a.0123456789ab.bytenode-part"));
        let create = async || Temporary::create(&seam, &dest, path.clone()).await.unwrap();
        let precious = home.path().join("precious");
        std::fs::write(&precious, "precious").unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert_ne!(create().await.path, path, "a link");
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&precious, &path).unwrap();
        assert_ne!(create().await.path, path, "another file under this name");
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        assert!(!path.exists(), "a second name is nothing to keep");
        let first = create().await;
        assert_eq!((&first.path, first.kept().is_some()), (&path, false));
        assert_ne!(create().await.path, path, "another get is at work on it");
        drop(first);
        assert!(!path.exists(), "nothing was written");
        std::fs::write(&path, "left").unwrap();
        let second = create().await;
        assert_eq!((&second.path, second.kept().is_some()), (&path, true));
        drop(second);
        assert_eq!(std::fs::read(&path).unwrap(), b"left");
    }
}
