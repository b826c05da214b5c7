//! What a get wants: remote trees, page by page, with the local directories made on the way.
//!
//! Holds one page of entries. Directories are made before what is in them is wanted. What cannot be made is told.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytenode::admin::Session;
use bytenode::api::{Code, Entry, Kind, ListRequest};
use bytenode::get::Wanted;
use bytenode::path::RemotePath;
use tokio::runtime::Handle;

use super::Report;
use crate::commands::PAGE;
use crate::error::{Failure, Outcome};

/// Where a failure that ends the whole listing is left.
pub type Broken = Arc<Mutex<Option<Failure>>>;

/// Yields the files wanted. Blocks while it asks the coordinator for a page.
pub struct Lister {
    session: Arc<dyn Session>,
    handle: Handle,
    roots: VecDeque<(Entry, PathBuf)>,
    tree: Option<Tree>,
    report: Arc<Report>,
    dry_run: bool,
    broken: Broken,
}

/// A remote directory that is being fetched.
struct Tree {
    root: RemotePath,
    dest: PathBuf,
    entries: VecDeque<Entry>,
    cursor: Option<String>,
    last: bool,
    /// Names of the directory read last, where the local system does not tell some names apart.
    names: HashSet<PathBuf>,
}

impl Lister {
    /// Begins. Must be called within a multi-threaded runtime.
    pub fn new(
        session: Arc<dyn Session>,
        roots: Vec<(Entry, PathBuf)>,
        report: Arc<Report>,
        dry_run: bool,
    ) -> (Self, Broken) {
        let broken = Broken::default();
        let (handle, roots) = (Handle::current(), roots.into());
        (Self { session, handle, roots, tree: None, report, dry_run, broken: broken.clone() }, broken)
    }

    /// Gets the next page; false when the listing is over.
    fn turn(&mut self) -> bool {
        let Some(tree) = self.tree.as_mut().filter(|tree| !tree.last) else { return false };
        let request = ListRequest { path: tree.root.clone(), recursive: true, cursor: tree.cursor.take(), limit: PAGE };
        let (handle, session) = (&self.handle, &self.session);
        match tokio::task::block_in_place(|| handle.block_on(session.list(&request))) {
            Ok(page) => {
                tree.entries = page.items.into();
                tree.last = page.next_cursor.is_none();
                tree.cursor = page.next_cursor;
                true
            }
            Err(error) => {
                *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.into());
                self.roots.clear();
                false
            }
        }
    }

    /// Makes room for one thing; the file to fetch, if it is one.
    fn place(&self, entry: Entry, dest: PathBuf, top: Option<&Path>) -> Option<Wanted> {
        match self.prepare(&entry, &dest, top) {
            Ok(()) if entry.kind == Kind::File => Some(Wanted { entry, dest }),
            Ok(()) => None,
            Err(failure) => {
                self.report.failed(&entry.path, Some(&dest), &failure);
                None
            }
        }
    }

    fn prepare(&self, entry: &Entry, dest: &Path, top: Option<&Path>) -> Outcome<()> {
        let taken = |what| Failure::new(Code::WrongKind, format!("{} is a {what}", dest.display()));
        let there = fs::metadata(dest).ok();
        if top.is_some() && entry.path.name().is_some_and(|name| !can_hold(name)) {
            return Err(Failure::usage("this system cannot hold a file of that name"));
        }
        match (entry.kind, there) {
            (Kind::File, Some(there)) if there.is_dir() => Err(taken("directory")),
            (Kind::Dir, Some(there)) if !there.is_dir() => Err(taken("file")),
            (Kind::Dir, Some(_)) => Ok(()),
            _ if self.dry_run => Ok(()),
            (Kind::Dir, None) => make(dest),
            (Kind::File, _) => match dest.parent().filter(|parent| top.is_none() && !parent.as_os_str().is_empty()) {
                Some(parent) => make(parent),
                None => Ok(()),
            },
        }
    }
}

fn make(dir: &Path) -> Outcome<()> {
    bytenode::get::make_dirs(dir).map_err(|error| {
        let mut failure = Failure::io(format!("cannot make {}: {error}", dir.display()), &error);
        failure.causes.clear();
        failure
    })
}

/// Whether the local system can hold a file of this name.
fn can_hold(name: &str) -> bool {
    if !cfg!(windows) {
        return true;
    }
    let stem = name.split('.').next().unwrap_or("").to_ascii_uppercase();
    let device = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL")
        || (stem.len() == 4 && (stem.starts_with("COM") || stem.starts_with("LPT")));
    !device && !name.ends_with(['.', ' ']) && !name.contains(|c: char| c.is_control() || "<>:\"/\\|?*".contains(c))
}

/// Whether the local system takes names that differ in case alone for one name.
const FOLDS: bool = cfg!(any(windows, target_os = "macos"));

impl Tree {
    /// Where an entry of it goes; nothing if the coordinator named one outside it.
    fn dest_of(&self, path: &RemotePath) -> Option<PathBuf> {
        let below = path.is_within(&self.root).then(|| &path.segments()[self.root.segments().len()..])?;
        (!below.is_empty()).then(|| below.iter().fold(self.dest.clone(), |dest, name| dest.join(name)))
    }

    /// Whether another entry of the same directory has the same name here.
    fn collides(&mut self, dest: &Path) -> bool {
        if !FOLDS {
            return false;
        }
        let folded = PathBuf::from(dest.to_string_lossy().to_lowercase());
        if self.names.iter().next().is_some_and(|other| other.parent() != folded.parent()) {
            self.names.clear();
        }
        !self.names.insert(folded)
    }
}

impl Iterator for Lister {
    type Item = Wanted;

    fn next(&mut self) -> Option<Wanted> {
        loop {
            if let Some(tree) = &mut self.tree {
                let Some(entry) = tree.entries.pop_front() else {
                    if !self.turn() {
                        self.tree = None;
                    }
                    continue;
                };
                let Some(dest) = tree.dest_of(&entry.path) else { continue };
                if tree.collides(&dest) {
                    let failure = Failure::new(Code::Exists, "another file has the same name on this system");
                    self.report.failed(&entry.path, Some(&dest), &failure);
                    continue;
                }
                let top = tree.dest.clone();
                if let Some(wanted) = self.place(entry, dest, Some(&top)) {
                    return Some(wanted);
                }
                continue;
            }
            let (entry, dest) = self.roots.pop_front()?;
            if entry.kind == Kind::Dir {
                let (root, names) = (entry.path.clone(), HashSet::new());
                self.tree =
                    Some(Tree { root, dest: dest.clone(), entries: VecDeque::new(), cursor: None, last: false, names });
            }
            let is_dir = entry.kind == Kind::Dir;
            match self.prepare(&entry, &dest, None) {
                Ok(()) if is_dir => {}
                Ok(()) => return Some(Wanted { entry, dest }),
                Err(failure) => {
                    self.tree = None;
                    self.report.failed(&entry.path, Some(&dest), &failure);
                }
            }
        }
    }
}
