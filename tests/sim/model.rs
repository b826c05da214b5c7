//! The model: what paths show, what each operation may do to that, and whether some order of overlapping operations
//! explains all that was seen.

use std::collections::{BTreeMap, HashSet};
use std::sync::OnceLock;

use bytenode::api::Code;
use bytenode::id::sha256;
use bytenode::put::Overwrite;

use crate::support::pool::bytes;

/// Plaintext bytes of a chunk.
pub const CHUNK: usize = 2048;
/// Of 0 bytes, of one chunk, of whole chunks, of several; the longest ones share chunks with shorter ones of their kind.
const LENGTHS: [usize; 7] = [0, 9, 700, 2048, 6144, 9000, 26_000];
const KINDS: u64 = 4;

/// What a file holds: bytes that follow from a kind, so many. Files of one kind begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content(usize);

struct Known {
    kind: u64,
    bytes: Vec<u8>,
    sha256: [u8; 32],
}

fn known() -> &'static [Known] {
    static KNOWN: OnceLock<Vec<Known>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let lengths = LENGTHS.into_iter().flat_map(|length| (1..=KINDS).map(move |kind| (kind, length)));
        let some = lengths.filter(|(kind, length)| *length > 0 || *kind == 1);
        some.map(|(kind, length)| {
            let mut bytes = bytes(kind, length);
            if length == 6144 {
                // The same chunk three times.
                bytes = bytes[..CHUNK].repeat(3);
            }
            Known { kind, sha256: sha256(&bytes), bytes }
        })
        .collect()
    })
}

impl Content {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..known().len()).map(Self)
    }

    pub fn bytes(self) -> &'static [u8] {
        &known()[self.0].bytes
    }

    pub fn sha256(self) -> [u8; 32] {
        known()[self.0].sha256
    }

    /// The modification time of files with this content, in seconds: another kind, another time.
    pub fn modified(self) -> i64 {
        1_600_000_000 + i64::try_from(known()[self.0].kind).unwrap()
    }

    pub fn of(sha256: &[u8; 32]) -> Option<Self> {
        Self::all().find(|content| content.sha256() == *sha256)
    }
}

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thing {
    Dir,
    File { content: Content, public: bool },
}

/// What a vault shows, by path without `bn:/`; the root itself is not in it.
pub type Tree = BTreeMap<String, Thing>;

/// One operation on one path.
#[derive(Debug, Clone)]
pub enum Act {
    Put { path: String, content: Content, public: bool, overwrite: Overwrite },
    MakeDir { path: String },
    Remove { path: String, recursive: bool },
    Rename { from: String, to: String },
    Copy { from: String, to: String },
    Read { path: String },
    Stat { path: String },
    List { path: String },
}

/// What was seen of it.
#[derive(Debug, Clone)]
pub enum Seen {
    Done,
    /// The content was there already.
    Unchanged,
    /// It was refused, for what is in the vault.
    Refused(Code),
    /// It did nothing, whatever is in the vault.
    Nothing,
    /// Nobody knows whether it was done.
    Unknown,
    /// It read bytes that these contents have there.
    Bytes(Vec<Content>),
    Thing(Thing),
    Listed(Tree),
}

/// An operation with what was seen of it.
#[derive(Debug, Clone)]
pub struct Step {
    /// Steps of one operation have the same number.
    pub of: usize,
    /// Steps that were over when it began, as bits.
    pub after: u64,
    pub act: Act,
    pub seen: Seen,
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn is_within(path: &str, dir: &str) -> bool {
    dir.is_empty() || path == dir || path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

fn exists(tree: &Tree, path: &str) -> bool {
    path.is_empty() || tree.contains_key(path)
}

fn is_dir(tree: &Tree, path: &str) -> bool {
    path.is_empty() || tree.get(path) == Some(&Thing::Dir)
}

/// Makes the parents of a path; a file in the way refuses.
fn make_parents(tree: &mut Tree, path: &str) -> Result<(), Code> {
    for parent in parents(path) {
        match tree.get(parent) {
            Some(Thing::File { .. }) => return Err(Code::WrongKind),
            Some(Thing::Dir) => {}
            None => drop(tree.insert(parent.to_owned(), Thing::Dir)),
        }
    }
    Ok(())
}

/// What is at a path and below it, by the rest of the path.
fn below(tree: &Tree, path: &str) -> Vec<(String, Thing)> {
    let within = tree.iter().filter(|(name, _)| is_within(name, path));
    within.map(|(name, thing)| (name[path.len()..].to_owned(), *thing)).collect()
}

fn remove(tree: &mut Tree, path: &str, recursive: bool) -> Result<(), Code> {
    if !exists(tree, path) {
        return Err(Code::NotFound);
    }
    if is_dir(tree, path) && !recursive {
        return Err(Code::NotEmpty);
    }
    tree.retain(|name, _| !is_within(name, path));
    Ok(())
}

fn transfer(tree: &mut Tree, from: &str, to: &str, keep: bool) -> Result<(), Code> {
    if !exists(tree, from) {
        return Err(Code::NotFound);
    }
    if is_within(to, from) {
        return Err(Code::Usage);
    }
    if exists(tree, to) {
        return Err(Code::Exists);
    }
    make_parents(tree, to)?;
    let moved = below(tree, from);
    if !keep {
        tree.retain(|name, _| !is_within(name, from));
    }
    tree.extend(moved.into_iter().map(|(rest, thing)| (format!("{to}{rest}"), thing)));
    Ok(())
}

impl Act {
    /// Does it, or says why not.
    fn apply(&self, tree: &Tree) -> Result<Tree, Code> {
        let mut after = tree.clone();
        match self {
            Self::Put { path, content, public, .. } => {
                if is_dir(tree, path) {
                    return Err(Code::WrongKind);
                }
                make_parents(&mut after, path)?;
                after.insert(path.clone(), Thing::File { content: *content, public: *public });
            }
            Self::MakeDir { path } => make_parents(&mut after, &format!("{path}/"))?,
            Self::Remove { path, recursive } => remove(&mut after, path, *recursive)?,
            Self::Rename { from, to } => transfer(&mut after, from, to, false)?,
            Self::Copy { from, to } => transfer(&mut after, from, to, true)?,
            Self::Read { path } if is_dir(tree, path) => return Err(Code::WrongKind),
            Self::List { path } if matches!(tree.get(path), Some(Thing::File { .. })) => return Err(Code::WrongKind),
            Self::Read { path } | Self::Stat { path } | Self::List { path } if !exists(tree, path) => {
                return Err(Code::NotFound);
            }
            Self::Read { .. } | Self::Stat { .. } | Self::List { .. } => {}
        }
        Ok(after)
    }

    pub const fn changes(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Stat { .. } | Self::List { .. })
    }
}

impl Step {
    /// What the vault may show after it, if it may have been seen so now; `alone` when nothing overlaps it.
    fn follow(&self, tree: &Tree, alone: bool) -> Vec<Tree> {
        let same = || vec![tree.clone()];
        let when = |right: bool| if right { same() } else { Vec::new() };
        let file = |path: &str| match tree.get(path) {
            Some(Thing::File { content, .. }) => Some(*content),
            _ => None,
        };
        match (&self.act, &self.seen) {
            (_, Seen::Nothing) => same(),
            (act, Seen::Unknown) => same().into_iter().chain(act.apply(tree).ok()).collect(),
            // Another may have stored the same after it had looked.
            (Act::Put { path, overwrite: Overwrite::Never, content, public }, Seen::Done) if exists(tree, path) => {
                when(!alone && tree.get(path) == Some(&Thing::File { content: *content, public: *public }))
            }
            (Act::Put { path, content, .. }, Seen::Unchanged) => when(file(path) == Some(*content)),
            (Act::Put { path, content, overwrite, .. }, Seen::Refused(Code::Exists)) => {
                let refuses = *overwrite == Overwrite::Never && file(path) != Some(*content);
                when(file(path).is_some() && (refuses || !alone))
            }
            (Act::Put { .. }, Seen::Refused(Code::Changed)) => when(!alone),
            // It gave up between two pages; whether it may is judged elsewhere.
            (Act::Read { .. }, Seen::Refused(Code::Changed)) => same(),
            (act, Seen::Done) => act.apply(tree).into_iter().collect(),
            (act, Seen::Refused(code)) => when(act.apply(tree) == Err(*code)),
            (Act::Read { path }, Seen::Bytes(contents)) => {
                when(file(path).is_some_and(|content| contents.contains(&content)))
            }
            (Act::Stat { path }, Seen::Thing(thing)) => {
                when(tree.get(path).copied().or(path.is_empty().then_some(Thing::Dir)) == Some(*thing))
            }
            (Act::List { path }, Seen::Listed(listed)) => {
                let there: Tree =
                    tree.iter().filter(|(name, _)| is_within(name, path) && *name != path).map(pair).collect();
                when(is_dir(tree, path) && there == *listed)
            }
            _ => Vec::new(),
        }
    }
}

fn pair((name, thing): (&String, &Thing)) -> (String, Thing) {
    (name.clone(), *thing)
}

/// Whether some order of the steps, each after those it came after, leads from one tree to the other.
pub fn explains(before: &Tree, steps: &[&Step], after: &Tree) -> bool {
    let alone = |at: usize| {
        let step = steps[at];
        let overlaps = |(other_at, other): (usize, &&Step)| {
            other.of != step.of
                && other.act.changes()
                && step.after & (1 << other_at) == 0
                && other.after & (1 << at) == 0
        };
        !steps.iter().enumerate().any(overlaps)
    };
    let alone: Vec<bool> = (0..steps.len()).map(alone).collect();
    let all = (1u64 << steps.len()) - 1;
    let mut open = vec![(0u64, before.clone())];
    let mut seen = HashSet::new();
    while let Some((done, tree)) = open.pop() {
        if done == all && tree == *after {
            return true;
        }
        if !seen.insert((done, tree.clone())) {
            continue;
        }
        for (at, step) in steps.iter().enumerate() {
            if done & (1 << at) == 0 && step.after & !done == 0 {
                open.extend(step.follow(&tree, alone[at]).into_iter().map(|next| (done | 1 << at, next)));
            }
        }
    }
    false
}
