//! Which puts were begun and did not end, so that the same command, run again, can say that it goes on. A note only: what
//! is stored already is known by the coordinator alone, and is never sent again whatever is noted here.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytenode::id::sha256;

use crate::credentials::make_private_dir;

/// After so long, what was stored has long been released.
const OLD: Duration = Duration::from_secs(30 * 24 * 3600);

/// A put that has begun: an empty file, locked, in the state directory. It stays unless the put ends.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    lock: Option<File>,
    again: bool,
}

impl Unfinished {
    /// Notes that a put begins, which these words name. What cannot be noted is not said later, and harms nothing.
    pub fn begin(state: &Path, words: &[&[u8]]) -> Self {
        let mut text = Vec::new();
        for word in words {
            text.extend_from_slice(&word.len().to_be_bytes());
            text.extend_from_slice(word);
        }
        let dir = state.join("puts");
        let path = dir.join(data_encoding::HEXLOWER.encode(&sha256(&text)[..16]));
        match lock(&dir, &path) {
            Ok((lock, again)) => Self { path, lock: Some(lock), again },
            Err(_) => Self { path, lock: None, again: false },
        }
    }

    /// Whether the same put was begun before, and did not end.
    pub fn again(&self) -> bool {
        self.again
    }

    /// Notes that the put has ended.
    pub fn end(self) {
        if self.lock.is_some() {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Fails where another process is at the same put.
fn lock(dir: &Path, path: &Path) -> io::Result<(File, bool)> {
    make_private_dir(dir)?;
    forget_old(dir)?;
    let again = path.exists();
    let lock = File::options().write(true).create(true).truncate(false).open(path)?;
    lock.try_lock()?;
    lock.set_modified(SystemTime::now())?;
    Ok((lock, again))
}

fn forget_old(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > OLD {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_did_not_end_is_again() {
        let home = tempfile::tempdir().unwrap();
        let begin = |words: &[&[u8]]| Unfinished::begin(home.path(), words);
        let first = begin(&[b"a", b"b"]);
        assert!(!first.again());
        let beside = begin(&[b"a", b"b"]);
        assert!(!beside.again(), "the first is still at it");
        beside.end();
        assert!(!begin(&[b"ab", b""]).again(), "another put");
        drop(first);
        let second = begin(&[b"a", b"b"]);
        assert!(second.again(), "the first did not end");
        second.end();
        assert!(!begin(&[b"a", b"b"]).again(), "the second did");
        let left = home.path().join("puts").join("0");
        File::create(&left).unwrap().set_modified(SystemTime::now() - 2 * OLD).unwrap();
        begin(&[]).end();
        assert!(!left.exists());
    }

    #[test]
    fn where_nothing_can_be_noted_a_put_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        File::create(&file).unwrap();
        let unfinished = Unfinished::begin(&file, &[b"a"]);
        assert!(!unfinished.again());
        unfinished.end();
    }
}
