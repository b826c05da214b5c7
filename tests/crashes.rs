//! Crashes at every step: client, coordinator and node end, as by `kill -9`, before and after each of their steps of a
//! put, an overwrite, an rm, a mv and a gc, and start again. What was acknowledged is there, nothing is half there, and
//! what nobody needs goes.
//!
//! A step has a number rather than a name: each operation is run again and again, ending the process one step later each
//! time, until it comes through. So a step that is added is a step that is tested.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::cluster::{Cluster, Guarded, Ran, bytes, wait_for};

/// More than any operation has steps.
const MOST: u64 = 60;

/// A pool, and what it must hold.
struct Crashing {
    user: Cluster,
    /// Contents by remote path; no two have the same size.
    holds: BTreeMap<String, Vec<u8>>,
    seed: usize,
}

/// What is run, and what is so once it is acknowledged.
struct Operation {
    arguments: Vec<String>,
    /// Contents after it of the paths that it changes.
    after: Vec<(String, Option<Vec<u8>>)>,
}

impl Operation {
    fn new(arguments: &[&str], after: Vec<(&str, Option<Vec<u8>>)>) -> Self {
        let after = after.into_iter().map(|(path, content)| (path.to_owned(), content)).collect();
        Self { arguments: arguments.iter().map(ToString::to_string).collect(), after }
    }

    fn arguments(&self) -> Vec<&str> {
        self.arguments.iter().map(String::as_str).collect()
    }
}

/// How an operation is made anew for each step.
type Make = fn(&mut Crashing) -> Operation;

const OPERATIONS: [(&str, Make); 5] = [
    ("put", |all| {
        let path = format!("bn:/new-{}", all.seed);
        all.put(&path)
    }),
    ("put over another", |all| all.put("bn:/old")),
    ("mv", |all| {
        let (from, to) = if all.holds.contains_key("bn:/here") { ("here", "there") } else { ("there", "here") };
        let (from, to) = (format!("bn:/{from}"), format!("bn:/{to}"));
        let content = all.holds[&from].clone();
        Operation::new(&["mv", &from, &to], vec![(&from, None), (&to, Some(content))])
    }),
    ("rm", |all| {
        let path = all.holds.keys().find(|path| path.starts_with("bn:/new-")).cloned();
        let path = path.unwrap_or_else(|| {
            all.must("bn:/new-again");
            "bn:/new-again".to_owned()
        });
        Operation::new(&["rm", &path], vec![(&path, None)])
    }),
    ("gc", |all| {
        // Something to drop, and something that shares a pack with it.
        all.user.ok(&["admin", "gc", "--now"]);
        all.must("bn:/new-gone");
        all.user.ok(&["rm", "bn:/new-gone"]);
        all.holds.remove("bn:/new-gone");
        Operation::new(&["admin", "gc", "--now"], Vec::new())
    }),
];

impl Crashing {
    fn new() -> Self {
        let mut all = Self { user: Cluster::up(3), holds: BTreeMap::new(), seed: 0 };
        ["bn:/old", "bn:/here", "bn:/kept"].into_iter().for_each(|path| all.must(path));
        all
    }

    /// While it exists, steps count.
    fn armed(&self) -> PathBuf {
        self.user.work().join("armed")
    }

    fn arm(&self) {
        fs::write(self.armed(), "").unwrap();
    }

    fn disarm(&self) {
        fs::remove_file(self.armed()).unwrap();
    }

    /// A command that ends, or whose processes end, at a step.
    fn command(&self, arguments: &[&str], step: &str, number: u64) -> Command {
        let mut command = self.user.command(arguments);
        command.env("BYTENODE_FAILPOINT", format!("{step}:{number}:{}", self.armed().display()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn put(&mut self, path: &str) -> Operation {
        self.seed += 1;
        // A chunk that all files share, and one of its own.
        let content = [bytes(0, 1 << 20), bytes(self.seed as u64, 1000 + self.seed)].concat();
        let local = self.user.file("local", &content);
        Operation::new(&["put", "--overwrite", "always", local.to_str().unwrap(), path], vec![(path, Some(content))])
    }

    /// Puts a file without any crash.
    fn must(&mut self, path: &str) {
        let put = self.put(path);
        self.user.ok(&put.arguments());
        self.apply(&put);
    }

    fn apply(&mut self, operation: &Operation) {
        for (path, content) in &operation.after {
            match content {
                Some(content) => drop(self.holds.insert(path.clone(), content.clone())),
                None => drop(self.holds.remove(path)),
            }
        }
    }

    /// Sizes by path.
    fn expected(&self) -> BTreeMap<String, u64> {
        self.holds.iter().map(|(path, content)| (path.clone(), content.len() as u64)).collect()
    }

    fn listed(&self) -> BTreeMap<String, u64> {
        let (lines, code) = self.user.json(&["ls", "bn:/"]);
        assert_eq!(code, 0, "{lines:?}");
        let of = |line: &serde_json::Value| Some((line["path"].as_str()?.to_owned(), line["size"].as_u64()?));
        lines.iter().filter(|line| line["type"] == "entry").filter_map(of).collect()
    }

    /// All is as before an operation, or all as after it; after it, if it was acknowledged.
    fn settled(&mut self, what: &str, operation: &Operation, acknowledged: bool) {
        let seen = self.listed();
        if acknowledged || seen != self.expected() {
            self.apply(operation);
        }
        assert_eq!(seen, self.expected(), "{what}");
        for (path, _) in &operation.after {
            self.right(what, path);
        }
    }

    /// Files with packs on all nodes.
    fn packs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs: Vec<PathBuf> = self.user.nodes().into_iter().map(|node| node.data.join("packs")).collect();
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let list = if entry.file_type().unwrap().is_dir() { &mut dirs } else { &mut found };
                list.push(entry.path());
            }
        }
        found
    }

    fn right(&self, what: &str, path: &str) {
        if let Some(content) = self.holds.get(path) {
            assert!(self.user.ok(&["cat", path]).stdout == *content, "{what}: {path}");
        }
    }

    /// In the end: every file is right and at its target, the catalog is sound, and once all files are removed nothing is
    /// left on the nodes but what was of puts that nobody has ended yet.
    fn end(self, abandoned: bool) {
        self.user.ok(&["up"]);
        for path in self.holds.keys() {
            self.right("in the end", path);
        }
        self.user.ok(&["admin", "health", "--read"]);
        for entry in self.user.json(&["ls", "bn:/"]).0.iter().filter(|line| line["type"] == "entry") {
            assert_eq!(entry["copies_min"], 3, "{entry}");
        }
        let paths: Vec<&str> = self.holds.keys().map(String::as_str).collect();
        self.user.ok(&[&["rm"], &paths[..]].concat());
        self.user.ok(&["admin", "gc", "--now"]);
        let packs = self.packs();
        assert!(packs.is_empty() || abandoned, "{packs:?}");
        let catalog = self.user.member("coordinator").data.join("catalog.db");
        self.user.ok(&["down"]);
        let catalog = rusqlite::Connection::open(catalog).unwrap();
        let sound: String = catalog.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(sound, "ok");
        assert!(!catalog.prepare("PRAGMA foreign_key_check").unwrap().exists([]).unwrap());
    }
}

/// Ends one member of the pool at each of its steps of each operation; the client outlasts it, or goes on without it.
fn member_crashes(name: &str, step: &str, operations: &[(&str, Make)]) {
    let mut all = Crashing::new();
    for (operation, make) in operations {
        let mut crashes = 0;
        for number in 1..MOST {
            let what = format!("{operation}, {name} at {step} {number}");
            let doing = make(&mut all);
            all.user.kill(name);
            let up = Ran::of(all.command(&["up"], step, number).output().unwrap());
            assert_eq!(up.code, 0, "{what}: {}", up.stderr);
            let member = all.user.member(name);
            all.arm();
            let mut child = all.user.command(&doing.arguments());
            let mut child = Guarded(child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
            wait_for("a crash or the end", || !member.runs() || child.0.try_wait().unwrap().is_some());
            let crashed = !member.runs();
            all.disarm();
            if crashed {
                all.user.ok(&["up"]);
            }
            let ran = child.end();
            // Of an answer that was lost, what is not repeated says so; a put is.
            let unsure = ran.code == 7 && !operation.starts_with("put");
            let short = ran.code == 10 && name == "n1";
            assert!(ran.code == 0 || unsure || short, "{what}: {} {}", ran.code, ran.stderr);
            all.settled(&what, &doing, !unsure);
            if !crashed {
                break;
            }
            crashes += 1;
            assert!(number + 1 < MOST, "{operation} has too many steps");
        }
        println!("{operation}: {crashes} crashes of {name}");
        assert!(crashes > 0, "{operation}");
    }
    all.end(false);
}

#[test]
fn the_coordinator_ends_at_any_commit_of_a_put() {
    member_crashes("coordinator", "commit", &OPERATIONS[..2]);
}

#[test]
fn the_coordinator_ends_at_any_other_commit() {
    member_crashes("coordinator", "commit", &OPERATIONS[2..]);
}

/// Built-in nodes sign for what they take; they are told to drop.
#[test]
fn the_coordinator_ends_at_any_call_to_a_node() {
    member_crashes("coordinator", "node", &OPERATIONS[4..]);
}

/// It has nothing to do with names.
#[test]
fn a_node_ends_at_any_change_of_its_disk() {
    member_crashes("n1", "disk", &[OPERATIONS[0], OPERATIONS[1], OPERATIONS[4]]);
}

#[test]
fn the_client_ends_at_any_call() {
    let mut all = Crashing::new();
    for (operation, make) in OPERATIONS {
        for step in ["call", "node"] {
            for number in 1..MOST {
                let what = format!("{operation}, client at {step} {number}");
                let doing = make(&mut all);
                all.arm();
                let ran = Ran::of(all.command(&doing.arguments(), step, number).output().unwrap());
                all.disarm();
                let crashed = ran.code == 128 + Signal::ABORT.as_raw();
                assert!(crashed || ran.code == 0, "{what}: {} {}", ran.code, ran.stderr);
                all.settled(&what, &doing, !crashed);
                if !crashed {
                    break;
                }
                // The same command finishes it, or finds that it is done.
                let again = all.user.run(&doing.arguments());
                let done = all.listed() == all.expected() && !operation.starts_with("put");
                assert!(again.code == 0 || done, "{what}: {} {}", again.code, again.stderr);
                all.settled(&what, &doing, again.code == 0);
                assert!(number + 1 < MOST, "{operation} has too many steps");
            }
        }
    }
    all.end(true);
}

#[test]
fn a_get_ends_at_any_change_of_its_file() {
    let mut all = Crashing::new();
    all.seed = 3;
    let content = bytes(99, 5 << 20);
    let local = all.user.file("large", &content);
    all.user.ok(&["put", local.to_str().unwrap(), "bn:/large"]);
    let dir = all.user.work().join("out");
    fs::create_dir(&dir).unwrap();
    let dest = dir.join("large");
    let names = || fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    for before in [None, Some(b"another".to_vec())] {
        for number in 1..MOST {
            match &before {
                Some(other) => fs::write(&dest, other).unwrap(),
                None => drop(fs::remove_file(&dest)),
            }
            let get = ["get", "--overwrite", "always", "bn:/large", "out/"];
            all.arm();
            let ran = Ran::of(all.command(&get, "file", number).output().unwrap());
            all.disarm();
            let there = fs::read(&dest).ok();
            assert!(there == before || there.as_ref() == Some(&content), "step {number}: half a file");
            if ran.code == 0 {
                assert!(there.as_ref() == Some(&content) && number > 5, "step {number}");
                break;
            }
            assert_eq!(ran.code, 128 + Signal::ABORT.as_raw(), "{}", ran.stderr);
            all.user.ok(&get);
            assert!(fs::read(&dest).unwrap() == content);
            assert_eq!(names(), ["large"], "step {number}");
            assert!(number + 1 < MOST, "too many steps");
        }
    }
}
