//! What clients do, and what they see of it.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use jiff::Timestamp;

use bytenode::api::{ApiError, ApiResult, Code, ListRequest};
use bytenode::get::{self, GetOptions, GetOutcome, Wanted};
use bytenode::put::{self, Overwrite, PutOptions, PutOutcome};
use bytenode::tree::{Found, LocalFile};

use super::checks::{name, thing};
use super::model::{Act, Content, Seen};
use super::world::{World, is_lost};
use crate::support::pool::{User, path};

/// Paths that operations are about; some are below others, so that files and directories get in each other's way.
const PATHS: [&str; 12] = ["a", "b", "c", "d", "d/a", "d/b", "d/e", "d/e/a", "d/e/f/g", "h/a", "h/b", "h"];

/// One operation of a client.
#[derive(Debug, Clone)]
pub enum Op {
    Put { dir: Option<String>, files: Vec<(String, Content)>, overwrite: Overwrite, public: bool, stream: bool },
    Read { path: String, range: Option<(u64, u64)> },
    Fetch { path: String },
    Plain(Act),
}

/// A part of an operation, what was seen of it, and why it failed.
#[derive(Debug, Clone)]
pub struct Part {
    pub act: Act,
    pub seen: Seen,
    pub error: Option<ApiError>,
    /// It was put, and has fewer copies than the write rule demands.
    pub below_rule: bool,
}

impl World {
    fn path(&self) -> String {
        (*self.pick(&PATHS)).to_owned()
    }

    fn content(&self) -> Content {
        *self.pick(&self.contents)
    }

    /// An operation.
    pub fn op(&self) -> Op {
        match self.dice.below(40) {
            0..14 => self.put_op(),
            14..18 => Op::Read { path: self.path(), range: None },
            18..20 => Op::Read { path: self.path(), range: Some((self.dice.below(12_000), self.dice.below(9000))) },
            20 => Op::Fetch { path: self.path() },
            21..23 => Op::Plain(Act::List { path: if self.once_in(2) { String::new() } else { self.path() } }),
            23 => Op::Plain(Act::Stat { path: self.path() }),
            24..28 => Op::Plain(Act::Remove { path: self.path(), recursive: false }),
            28..31 => {
                let path = if self.once_in(8) { String::new() } else { self.path() };
                Op::Plain(Act::Remove { path, recursive: true })
            }
            31..35 => Op::Plain(Act::Rename { from: self.path(), to: self.path() }),
            35..38 => Op::Plain(Act::Copy { from: self.path(), to: self.path() }),
            _ => Op::Plain(Act::MakeDir { path: self.path() }),
        }
    }

    fn put_op(&self) -> Op {
        let overwrite = *self.pick(&[Overwrite::Never, Overwrite::Always, Overwrite::Always, Overwrite::IfChanged]);
        let public = self.once_in(6);
        match self.dice.below(5) {
            0 => {
                let dir = self.path();
                let names = ["a", "b", "e/a", "n"].into_iter().filter(|_| self.once_in(2));
                let files = names.map(|name| (format!("{dir}/{name}"), self.content())).collect();
                Op::Put { dir: Some(dir), files, overwrite, public, stream: false }
            }
            kind => {
                let files = vec![(self.path(), self.content())];
                Op::Put { dir: None, files, overwrite, public, stream: kind > 2 }
            }
        }
    }
}

/// A local file with some content; the same for all runs.
fn local(content: Content) -> PathBuf {
    static FILES: OnceLock<(tempfile::TempDir, Vec<Content>)> = OnceLock::new();
    let (dir, _) = FILES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        for content in Content::all() {
            std::fs::write(dir.path().join(format!("{content:?}")), content.bytes()).unwrap();
        }
        (dir, Content::all().collect())
    });
    dir.path().join(format!("{content:?}"))
}

fn remote(name: &str) -> bytenode::path::RemotePath {
    path(&format!("bn:/{name}"))
}

fn modified(content: Content) -> Timestamp {
    Timestamp::from_second(content.modified()).unwrap()
}

/// Why an operation on names was refused, if it was for what is there.
fn refused(error: &ApiError) -> Seen {
    match error.code {
        _ if is_lost(error) => Seen::Unknown,
        Code::NotFound | Code::Exists | Code::WrongKind | Code::NotEmpty | Code::Usage | Code::Changed => {
            Seen::Refused(error.code)
        }
        _ => Seen::Nothing,
    }
}

impl Op {
    /// What it is made of, as it looks when nobody saw what became of it.
    pub fn parts(&self) -> Vec<Part> {
        let part = |act: Act| {
            let seen = if act.changes() { Seen::Unknown } else { Seen::Nothing };
            Part { act, seen, error: None, below_rule: false }
        };
        match self {
            Self::Put { dir, files, overwrite, public, .. } => {
                let dir = dir.iter().map(|path| Act::MakeDir { path: path.clone() });
                let files = files.iter().map(|(path, content)| {
                    let (path, content) = (path.clone(), *content);
                    Act::Put { path, content, public: *public, overwrite: *overwrite }
                });
                dir.chain(files).map(part).collect()
            }
            Self::Read { path, .. } | Self::Fetch { path } => vec![part(Act::Read { path: path.clone() })],
            Self::Plain(act) => vec![part(act.clone())],
        }
    }

    /// Does it; what is seen is written down at once, since whoever does this may be stopped at any time.
    pub async fn run(&self, user: &User, parts: &Mutex<Vec<Part>>) {
        match self {
            Self::Put { dir, files, overwrite, public, stream } => {
                let options = PutOptions { public: *public, overwrite: *overwrite, ..PutOptions::default() };
                let done = if *stream {
                    put_stream(user, &files[0], &options, parts).await
                } else {
                    put_files(user, dir.as_ref(), files, &options, parts).await
                };
                let mut parts = parts.lock().unwrap();
                for part in parts.iter_mut().filter(|part| matches!(part.seen, Seen::Unknown) && part.error.is_none()) {
                    match (&done, &part.act) {
                        (Ok(()), Act::MakeDir { .. }) => part.seen = Seen::Done,
                        (Ok(()), act) => panic!("nothing was said of {act:?}"),
                        // Whether it was made cannot be known.
                        (Err(error), Act::MakeDir { .. }) => part.error = Some(error.clone()),
                        (Err(error), _) => {
                            part.seen = refused(error);
                            part.error = Some(error.clone());
                        }
                    }
                }
            }
            Self::Read { path, range } => {
                let mut out = Vec::new();
                let (from, length) = range.map_or((0, None), |(from, length)| (from, Some(length)));
                let done = get::cat(&user.context, &remote(path), from, length, &GetOptions::default(), &mut out).await;
                let of = |content: &Content| {
                    let all = content.bytes();
                    let from = usize::try_from(from).unwrap().min(all.len());
                    let to = length.map_or(all.len(), |length| all.len().min(from + usize::try_from(length).unwrap()));
                    &all[from..to]
                };
                let begins: Vec<Content> = Content::all().filter(|content| of(content).starts_with(&out)).collect();
                assert!(!begins.is_empty(), "{path} gave bytes that nobody put");
                let whole = begins.into_iter().filter(|content| of(content).len() == out.len()).collect();
                saw(parts, done.map(|_| Seen::Bytes(whole)));
            }
            Self::Fetch { path } => saw(parts, fetch(user, path).await),
            Self::Plain(act) => saw(parts, plain(user, act).await),
        }
    }
}

/// Writes down what became of the only part.
fn saw(parts: &Mutex<Vec<Part>>, seen: ApiResult<Seen>) {
    let mut parts = parts.lock().unwrap();
    let part = &mut parts[0];
    match seen {
        Ok(seen) => part.seen = seen,
        Err(error) => {
            part.seen = if is_lost(&error) && !part.act.changes() { Seen::Nothing } else { refused(&error) };
            part.error = Some(error);
        }
    }
}

async fn plain(user: &User, act: &Act) -> ApiResult<Seen> {
    let api = &user.context.api;
    match act {
        Act::MakeDir { path } => api.make_dirs(&[remote(path)]).await.map(|()| Seen::Done),
        Act::Remove { path, recursive } => api.remove(&remote(path), *recursive, false).await.map(|_| Seen::Done),
        Act::Rename { from, to } => api.rename(&remote(from), &remote(to)).await.map(|_| Seen::Done),
        Act::Copy { from, to } => api.copy(&remote(from), &remote(to)).await.map(|_| Seen::Done),
        Act::Stat { path } => api.stat(&remote(path)).await.map(|entry| Seen::Thing(thing(&entry))),
        Act::List { path } => {
            let request = ListRequest { path: remote(path), recursive: true, cursor: None, limit: 1024 };
            let page = api.list(&request).await?;
            Ok(Seen::Listed(page.items.iter().map(|entry| (name(&entry.path.to_string()), thing(entry))).collect()))
        }
        Act::Put { .. } | Act::Read { .. } => panic!("no plain operation"),
    }
}

/// To a local file: whole, or none.
async fn fetch(user: &User, from: &str) -> ApiResult<Seen> {
    let entry = user.context.api.stat(&remote(from)).await?;
    if entry.version.is_none() {
        return Err(ApiError::new(Code::WrongKind, "a directory"));
    }
    let dest = user.fresh();
    let wanted = Box::new(std::iter::once(Wanted { entry, dest: dest.clone() }));
    let mut outcome = None;
    get::get(&user.context, wanted, &GetOptions::default(), &mut |one| outcome = Some(one)).await?;
    let got = std::fs::read(&dest);
    match outcome.unwrap() {
        GetOutcome::Fetched { .. } => {
            let got = got.unwrap();
            let content = Content::all().find(|content| content.bytes() == got);
            Ok(Seen::Bytes(vec![content.unwrap_or_else(|| panic!("{from} became a file that nobody put"))]))
        }
        GetOutcome::Failed { error, .. } => {
            assert!(got.is_err(), "half a file is shown: {error}");
            Err(error)
        }
        GetOutcome::Unchanged { .. } => panic!("nothing was there"),
    }
}

async fn put_stream(
    user: &User,
    (to, content): &(String, Content),
    options: &PutOptions,
    parts: &Mutex<Vec<Part>>,
) -> ApiResult<()> {
    let input = Box::new(content.bytes());
    let mut each = |one| note(parts, one);
    put::put_stream(&user.context, input, "-", &remote(to), modified(*content), options, &mut each).await.map(drop)
}

async fn put_files(
    user: &User,
    dir: Option<&String>,
    files: &[(String, Content)],
    options: &PutOptions,
    parts: &Mutex<Vec<Part>>,
) -> ApiResult<()> {
    let file = |(to, content): &(String, Content)| {
        let (source, size) = (local(*content), content.bytes().len() as u64);
        Found::File(LocalFile { source, to: remote(to), size, modified: modified(*content), executable: false })
    };
    let dir = dir.map(|to| Found::Dir { to: remote(to) });
    let found: Vec<Found> = dir.into_iter().chain(files.iter().map(file)).collect();
    let mut each = |one| note(parts, one);
    put::put(&user.context, Box::new(found.into_iter()), options, &mut each).await.map(drop)
}

/// Writes down what became of one thing that was put.
fn note(parts: &Mutex<Vec<Part>>, outcome: PutOutcome) {
    let mut parts = parts.lock().unwrap();
    let mut below_rule = false;
    let (at, seen, error) = match outcome {
        PutOutcome::Stored { entry, .. } => {
            below_rule = entry.copies_min.is_some_and(|copies| copies < entry.copies_target.min(2));
            (entry.path, Seen::Done, None)
        }
        PutOutcome::Unchanged { path, .. } => (path, Seen::Unchanged, None),
        PutOutcome::Failed { path, error, .. } => (path.unwrap(), refused(&error), Some(error)),
        PutOutcome::Skipped { path, .. } => panic!("{path} was skipped"),
    };
    let at = name(&at.to_string());
    let of = |part: &&mut Part| matches!(&part.act, Act::Put { path, .. } | Act::MakeDir { path } if *path == at);
    let part = parts.iter_mut().find(of).unwrap_or_else(|| panic!("nobody put {at}"));
    (part.seen, part.error, part.below_rule) = (seen, error, below_rule);
}
