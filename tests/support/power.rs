//! What a power loss may leave of a directory tree, from the recorded changes that led to it.
//!
//! As unkind as a file system may be: a name that its directory was not synced for is there or not, each for itself and in
//! any order; content that was not synced is old, new, empty, cut off, zeros or a mixture block by block; so are times and
//! permissions. Where there are too many states, a sample that follows from a seed stands for them, and always in it are
//! those in which nothing, all, all but one thing and but one thing outlived.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytenode::files::{Change, Identity};
use bytenode::seam::Seam;

/// The time of a file that nobody gave one.
fn present() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_999_999_999)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    File(usize),
    Dir,
}

/// Of each thing, what it was when it was durable last, and what it became since.
#[derive(Debug, Clone)]
struct Content {
    durable: Vec<u8>,
    now: Vec<u8>,
    modified: Vec<SystemTime>,
    mode: Vec<u32>,
}

/// All that may be found in a file, each with its digest.
type Contents = Vec<(Arc<Vec<u8>>, u64)>;

/// A directory tree of which some is durable.
#[derive(Debug, Clone)]
pub struct Disk {
    root: PathBuf,
    files: Vec<Content>,
    ids: HashMap<Identity, usize>,
    dirs: BTreeMap<PathBuf, BTreeMap<OsString, Vec<Option<Entry>>>>,
}

/// A file as it is found.
#[derive(Debug, Clone)]
pub struct Found {
    pub bytes: Arc<Vec<u8>>,
    pub modified: SystemTime,
    pub mode: u32,
    id: usize,
    digest: u64,
}

/// A directory tree after a power loss, with paths below its root.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub files: BTreeMap<PathBuf, Found>,
    dirs: BTreeSet<PathBuf>,
}

impl State {
    /// Makes it so below a directory.
    pub fn write(&self, root: &Path) {
        self.dirs.iter().for_each(|dir| fs::create_dir_all(root.join(dir)).unwrap());
        let mut made: HashMap<usize, PathBuf> = HashMap::new();
        for (path, found) in &self.files {
            let path = root.join(path);
            if let Some(other) = made.get(&found.id) {
                fs::hard_link(other, &path).unwrap();
                continue;
            }
            fs::write(&path, &*found.bytes).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_permissions(PermissionsExt::from_mode(found.mode)).unwrap();
            file.set_modified(found.modified).unwrap();
            made.insert(found.id, path);
        }
    }

    /// The same for two that nobody can tell apart.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.dirs.hash(&mut hasher);
        for (path, found) in &self.files {
            (path, found.digest, found.modified, found.mode).hash(&mut hasher);
        }
        hasher.finish()
    }
}

impl Disk {
    /// What is below a directory, all of it durable.
    pub fn of(root: &Path) -> Self {
        let mut disk = Self { root: root.to_owned(), files: Vec::new(), ids: HashMap::new(), dirs: BTreeMap::new() };
        disk.take_in(Path::new(""));
        disk
    }

    fn take_in(&mut self, dir: &Path) {
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(self.root.join(dir)).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            let found = if metadata.is_dir() {
                self.take_in(&dir.join(entry.file_name()));
                Entry::Dir
            } else {
                let next = self.files.len();
                let id = *self.ids.entry((metadata.dev(), metadata.ino())).or_insert(next);
                if id == next {
                    let bytes = fs::read(entry.path()).unwrap();
                    let (modified, mode) = (vec![metadata.modified().unwrap()], vec![metadata.mode()]);
                    self.files.push(Content { durable: bytes.clone(), now: bytes, modified, mode });
                }
                Entry::File(id)
            };
            names.insert(entry.file_name(), vec![Some(found)]);
        }
        self.dirs.insert(dir.to_owned(), names);
    }

    /// What a process that is killed now leaves to the next, below another directory: durable is what was before.
    pub fn go_on(&self, root: &Path) -> Self {
        let mut disk = self.clone();
        let now = self.state(&mut |length| length - 1);
        now.write(root);
        disk.root = root.to_owned();
        disk.ids = now
            .files
            .iter()
            .map(|(path, found)| (fs::metadata(root.join(path)).unwrap(), found.id))
            .map(|(metadata, id)| ((metadata.dev(), metadata.ino()), id))
            .collect();
        disk
    }

    /// Takes note of a change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Made(path, identity) => {
                let mode = vec![0o100_644];
                self.files.push(Content { durable: vec![], now: vec![], modified: vec![present()], mode });
                let id = self.files.len() - 1;
                self.ids.insert(*identity, id);
                self.name(path, Some(Entry::File(id)));
            }
            Change::MadeDir(path) => {
                self.name(path, Some(Entry::Dir));
                let path = path.strip_prefix(&self.root).unwrap().to_owned();
                self.dirs.insert(path, BTreeMap::new());
            }
            Change::Written(identity, at, bytes) => {
                let file = self.file(identity);
                let (at, end) = (*at as usize, *at as usize + bytes.len());
                file.now.resize(file.now.len().max(end), 0);
                file.now[at..end].copy_from_slice(bytes);
                file.modified.push(present());
            }
            Change::Sized(identity, length) => {
                let file = self.file(identity);
                file.now.resize(*length as usize, 0);
                file.modified.push(present());
            }
            Change::Timed(identity, modified) => self.file(identity).modified.push(*modified),
            Change::Permitted(identity, permissions) => self.file(identity).mode.push(permissions.mode()),
            Change::SyncedContent(identity) => {
                let file = self.file(identity);
                file.durable.clone_from(&file.now);
            }
            Change::Synced(identity) => {
                let file = self.file(identity);
                file.durable.clone_from(&file.now);
                file.modified.drain(..file.modified.len() - 1);
                file.mode.drain(..file.mode.len() - 1);
            }
            Change::SyncedDir(path) => {
                let below = path.strip_prefix(&self.root).ok();
                for values in below.and_then(|dir| self.dirs.get_mut(dir)).into_iter().flat_map(|dir| dir.values_mut())
                {
                    values.drain(..values.len() - 1);
                }
            }
            Change::Renamed(from, to) => {
                let file = self.named(from);
                self.name(to, file);
                self.name(from, None);
            }
            Change::Linked(from, to) => {
                let file = self.named(from);
                self.name(to, file);
            }
            Change::Removed(path) => self.name(path, None),
        }
    }

    fn file(&mut self, identity: &Identity) -> &mut Content {
        &mut self.files[self.ids[identity]]
    }

    fn values(&mut self, path: &Path) -> &mut Vec<Option<Entry>> {
        let below = path.strip_prefix(&self.root).unwrap();
        let dir = self.dirs.get_mut(below.parent().unwrap()).unwrap();
        dir.entry(below.file_name().unwrap().to_owned()).or_insert_with(|| vec![None])
    }

    fn named(&mut self, path: &Path) -> Option<Entry> {
        let now = *self.values(path).last().unwrap();
        assert!(matches!(now, Some(Entry::File(_))), "{path:?} is no file");
        now
    }

    fn name(&mut self, path: &Path, entry: Option<Entry>) {
        self.values(path).push(entry);
    }

    /// States that a power loss may leave now, so many at most.
    pub fn states(&self, seed: u64, most: usize) -> Vec<State> {
        let mut sizes = Vec::new();
        self.with_contents(&mut |contents| {
            let mut pick = |length: usize| {
                sizes.push(length);
                length - 1
            };
            self.build(contents, &mut pick);
            let made = |choice: &[usize]| {
                let mut at = 0;
                self.build(contents, &mut |length| {
                    at += 1;
                    choice[at - 1].min(length - 1)
                })
            };
            let total = sizes.iter().try_fold(1, |total: usize, size| total.checked_mul(*size));
            choices(&sizes, total.filter(|total| *total <= most), seed, most).iter().map(|one| made(one)).collect()
        })
    }

    fn state(&self, pick: &mut dyn FnMut(usize) -> usize) -> State {
        self.with_contents(&mut |contents| self.build(contents, pick))
    }

    fn with_contents<T>(&self, work: &mut dyn FnMut(&[Contents]) -> T) -> T {
        let told = |bytes: Vec<u8>| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            (Arc::new(bytes), hasher.finish())
        };
        let all = |file: &Content| contents(file).into_iter().map(told).collect();
        work(&self.files.iter().map(all).collect::<Vec<_>>())
    }

    /// The state in which, of so many things that something may be after the power loss, it is the one that is picked.
    /// The same things are asked for in the same order, whatever is picked.
    fn build(&self, contents: &[Contents], pick: &mut dyn FnMut(usize) -> usize) -> State {
        let mut found = Vec::new();
        for (id, (file, contents)) in self.files.iter().zip(contents).enumerate() {
            let (bytes, digest) = contents[pick(contents.len())].clone();
            let modified = unlike(&file.modified);
            let mode = unlike(&file.mode);
            let (modified, mode) = (modified[pick(modified.len())], mode[pick(mode.len())]);
            found.push(Found { bytes, modified, mode, id, digest });
        }
        let mut state = State { dirs: BTreeSet::from([PathBuf::new()]), ..State::default() };
        // Parents come before what is in them.
        for (dir, names) in &self.dirs {
            for (name, values) in names {
                let values = unlike(values);
                let value = values[pick(values.len())];
                if !state.dirs.contains(dir) {
                    continue;
                }
                match value {
                    Some(Entry::File(id)) => drop(state.files.insert(dir.join(name), found[id].clone())),
                    Some(Entry::Dir) => drop(state.dirs.insert(dir.join(name))),
                    None => {}
                }
            }
        }
        state
    }
}

/// Each value once; the last stays last.
fn unlike<T: PartialEq + Copy>(values: &[T]) -> Vec<T> {
    let mut unlike = Vec::new();
    for value in values.iter().rev() {
        if !unlike.contains(value) {
            unlike.push(*value);
        }
    }
    unlike.reverse();
    unlike
}

/// What may be found of a file's content.
fn contents(file: &Content) -> Vec<Vec<u8>> {
    let (durable, now) = (&file.durable, &file.now);
    if durable == now {
        return vec![now.clone()];
    }
    let block = 4096.min(now.len() / 3).max(1);
    let mixed = |length: usize, from: &dyn Fn(usize) -> usize| -> Vec<u8> {
        let byte = |at: usize| match from(at / block) {
            0 => durable.get(at).copied().unwrap_or(0),
            1 => now.get(at).copied().unwrap_or(0),
            _ => 0,
        };
        (0..length).map(byte).collect()
    };
    let longer = now.len().max(durable.len());
    let mut all = vec![durable.clone(), Vec::new(), vec![0; now.len()], now[..now.len() / 2].to_vec()];
    // Its length got there first; a block in the middle got lost; the blocks went their own ways.
    all.push(mixed(now.len(), &|_| 0));
    all.push(mixed(now.len(), &|at| if at == 1 { 2 } else { 1 }));
    all.push(mixed(longer, &|at| at * 7 % 3));
    all.retain(|one| one != now);
    all.push(now.clone());
    all
}

/// What is picked for each state.
fn choices(sizes: &[usize], total: Option<usize>, seed: u64, most: usize) -> Vec<Vec<usize>> {
    if let Some(total) = total {
        let digits = |mut number: usize| {
            let digit = |size: &usize| {
                let digit = number % size;
                number /= size;
                digit
            };
            sizes.iter().map(digit).collect()
        };
        return (0..total).map(digits).collect();
    }
    let (first, last): (Vec<_>, Vec<_>) = sizes.iter().map(|size| (0, size - 1)).unzip();
    let mut all = vec![first.clone(), last.clone()];
    for (at, size) in sizes.iter().enumerate().filter(|(_, size)| **size > 1) {
        for other in 0..*size {
            for base in [&first, &last] {
                let mut one = base.clone();
                one[at] = other;
                all.push(one);
            }
        }
    }
    let seam = Seam::simulated(seed);
    while all.len() < most {
        all.push(sizes.iter().map(|size| seam.below(*size as u64) as usize).collect());
    }
    all
}
