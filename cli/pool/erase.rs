//! Deletes what a pool made in its data directory, by its names, and nothing else that may be there.
//!
//! Symbolic links are neither followed nor deleted: ByteNode makes none.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use bytenode::id::PackRoot;

/// What ByteNode makes in one of its directories.
struct Made {
    file: fn(&str) -> bool,
    dir: fn(&str) -> Option<&'static Made>,
}

static COORDINATOR: Made = Made {
    file: |name| match name.strip_prefix("catalog.db") {
        Some("" | "-wal" | "-shm" | "-journal") => true,
        // Copies of older catalogs, kept at an upgrade.
        Some(rest) => rest.strip_prefix(".v").is_some_and(is_number),
        None => {
            let name = name.strip_suffix(".new").unwrap_or(name);
            matches!(name, "lock" | "master.key" | "signing.key" | "nodes.json" | "admin.token" | "backup.last")
        }
    },
    // What a backup or a restore that was interrupted left.
    dir: |name| matches!(name, "backup.new" | "restore.new").then_some(&COORDINATOR),
};

static NODES: Made =
    Made { file: |_| false, dir: |name| name.strip_prefix('n').is_some_and(is_number).then_some(&NODE) };

static NODE: Made = Made {
    file: |name| matches!(name, "lock" | "node.json" | "node.new" | "join.code" | "join.new"),
    dir: |name| match name {
        "packs" => Some(&PACKS),
        "incoming" => Some(&INCOMING),
        "aside" => Some(&ASIDE),
        _ => None,
    },
};

static PACKS: Made = Made {
    file: |_| false,
    dir: |name| (name.len() == 2 && u8::from_str_radix(name, 16).is_ok()).then_some(&SOME_PACKS),
};

static SOME_PACKS: Made = Made { file: is_pack, dir: |_| None };

static INCOMING: Made = Made { file: |name| name.strip_suffix(".car").is_some_and(is_number), dir: |_| None };

static ASIDE: Made = Made {
    file: |name| name.rsplit_once('.').is_some_and(|(name, number)| is_pack(name) && is_number(number)),
    dir: |_| None,
};

fn is_pack(name: &str) -> bool {
    name.strip_suffix(".car").is_some_and(|root| root.parse::<PackRoot>().is_ok())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Deletes what the pool in this directory made; says what is left beside it.
///
/// # Errors
/// When something cannot be deleted; [`io::ErrorKind::WouldBlock`], with nothing deleted, when a process uses it.
pub fn erase(data: &Path) -> io::Result<Vec<PathBuf>> {
    let _locks = lock(data)?;
    let mut left = Vec::new();
    for (name, made) in [("coordinator", &COORDINATOR), ("nodes", &NODES)] {
        let path = data.join(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => erase_dir(&path, made, &mut left)?,
            Ok(_) => left.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // A directory in which something else is stays.
    let _ = fs::remove_dir(data);
    Ok(left)
}

fn erase_dir(dir: &Path, made: &Made, left: &mut Vec<PathBuf>) -> io::Result<()> {
    let before = left.len();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, kind, name) = (entry.path(), entry.file_type()?, entry.file_name());
        let name = name.to_str().unwrap_or_default();
        if kind.is_file() && (made.file)(name) {
            fs::remove_file(&path)?;
        } else if let Some(below) = (made.dir)(name).filter(|_| kind.is_dir()) {
            erase_dir(&path, below, left)?;
        } else {
            left.push(path);
        }
    }
    if left.len() == before { fs::remove_dir(dir) } else { Ok(()) }
}

/// Locks the coordinator's and every node's directory, as their processes do.
fn lock(data: &Path) -> io::Result<Vec<File>> {
    let mut locks = Vec::new();
    let mut dirs = vec![data.join("coordinator")];
    let nodes = fs::read_dir(data.join("nodes")).into_iter().flatten().flatten();
    dirs.extend(nodes.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    for dir in dirs {
        // What has no lock was never used, or is not ours.
        let Ok(file) = File::options().write(true).open(dir.join("lock")) else { continue };
        match bytenode::machine::lock_alone(&file) {
            Ok(()) => locks.push(file),
            Err(TryLockError::WouldBlock) => {
                let why = format!("a process that up did not start uses {}", dir.display());
                return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(locks)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn make(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }

    /// `down --delete-data` removed both directories whole, whatever was in them.
    #[test]
    fn only_what_byte_node_made_is_deleted() {
        let home = tempfile::tempdir().unwrap();
        let (data, elsewhere) = (home.path().join("data"), home.path().join("elsewhere"));
        let root = PackRoot::from_digest([0xab; 32]);
        let made = [
            "coordinator/catalog.db-wal",
            "coordinator/catalog.db.v3",
            "coordinator/admin.token.new",
            "coordinator/backup.last",
            "coordinator/backup.new/catalog.db-journal",
            "coordinator/restore.new/master.key",
            "nodes/n1/lock",
            "nodes/n1/incoming/7.car",
            &format!("nodes/n1/packs/ab/{root}.car"),
            &format!("nodes/n1/aside/{root}.car.0"),
        ];
        let theirs = [
            "thesis.tex",
            "coordinator/catalog.db.backup",
            "nodes/nas/disk.img",
            "nodes/n1/packs/ab/holiday.jpg",
            "nodes/n2/node.json.old",
        ];
        made.iter().chain(&theirs).for_each(|path| make(&data.join(path)));
        make(&elsewhere.join("lock"));
        for link in ["nodes/n3", "nodes/n1/packs/cd"] {
            std::os::unix::fs::symlink(&elsewhere, data.join(link)).unwrap();
        }
        let mut left = erase(&data).unwrap();
        left.sort();
        let mut expected: Vec<PathBuf> = theirs[1..].iter().map(|path| data.join(path)).collect();
        expected[1] = data.join("nodes/nas");
        expected.extend(["nodes/n3", "nodes/n1/packs/cd"].map(|path| data.join(path)));
        expected.sort();
        assert_eq!(left, expected);
        assert!(theirs.iter().all(|path| data.join(path).exists()));
        assert!(made.iter().all(|path| !data.join(path).exists()));
        assert!(elsewhere.join("lock").exists(), "a link was followed");
    }

    #[test]
    fn nothing_in_use_is_deleted_and_nothing_is_left_of_a_whole_pool() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        make(&data.join("coordinator/lock"));
        make(&data.join("nodes/n1/node.json"));
        let user = File::open(data.join("coordinator/lock")).unwrap();
        user.lock().unwrap();
        assert_eq!(erase(&data).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(data.join("nodes/n1/node.json").exists());
        drop(user);
        assert_eq!(erase(&data).unwrap(), Vec::<PathBuf>::new());
        assert!(!data.exists());
    }
}
