//! The fault matrix over real processes: what can be done to a process, to its disk or to a socket x put, get and rm x one
//! node, R-1 nodes, too many nodes, over built-in nodes and over real Kubo daemons, each behind a proxy of its own.
//!
//! As in `pool::matrix`, what a cell must give follows from the few rules of [`Ill`]. Faults that hang cost real time: they,
//! and all numbers of ill nodes for each fault, come with `BYTENODE_TEST_LONG=1`, which takes a quarter of an hour more.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::cluster::{Cluster, Ran, bytes, wait_for};
use crate::support::proxy::Spoil;
use crate::support::served::{Like, Node};

const NODES: usize = 4;
const COPIES: usize = 3;
/// Within this time of its last progress a put or get moves on or ends.
const LIMIT: Duration = Duration::from_secs(30);
/// Where a connection is spoilt: behind all that is no chunk, within the first one.
const WITHIN: u64 = 100 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Put,
    Get,
    Rm,
}

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ill {
    /// SIGKILL: nothing listens.
    Refuse,
    /// It is stopped where it stands: connections are taken, and nothing answers.
    HangBefore,
    HangMidway,
    Slow,
    Reset,
    Corrupt,
    Truncate,
    Lose,
    Full,
    WrongCredential,
    /// Its address leads to another node of the pool.
    WrongIdentity,
}

impl Ill {
    const ALL: [Self; 11] = [
        Self::Refuse,
        Self::HangBefore,
        Self::HangMidway,
        Self::Slow,
        Self::Reset,
        Self::Corrupt,
        Self::Truncate,
        Self::Lose,
        Self::Full,
        Self::WrongCredential,
        Self::WrongIdentity,
    ];

    /// Whether somebody waits for a limit to pass.
    fn hangs(self) -> bool {
        // Of a body that lacks a byte, the last one is waited for.
        matches!(self, Self::HangBefore | Self::HangMidway | Self::Truncate)
    }

    /// The exit code of a put.
    fn put_exit(self, ill: usize) -> i32 {
        let good = NODES - if matches!(self, Self::Slow | Self::Lose) { 0 } else { ill };
        match good {
            COPIES.. => 0,
            2 => 10,
            _ if self == Self::Full => 9,
            _ => 7,
        }
    }

    /// Whether such a node gives nothing that is asked of it.
    fn spoils_reads(self, like: Like) -> bool {
        match self {
            Self::Slow | Self::Full => false,
            // Kubo's gateway needs no credential; and whoever has the right bytes may give them.
            Self::WrongCredential | Self::WrongIdentity => like == Like::Builtin,
            _ => true,
        }
    }

    /// The exit code of a get some of whose chunks no node gives.
    fn get_exit(self) -> i32 {
        if matches!(self, Self::Corrupt | Self::Lose) { 8 } else { 7 }
    }

    /// What the proxy of an ill node does.
    fn spoil(self) -> Option<Spoil> {
        match self {
            Self::HangMidway => Some(Spoil::Hang(WITHIN)),
            Self::Slow => Some(Spoil::Slow(Duration::from_millis(20))),
            Self::Reset => Some(Spoil::Cut(WITHIN)),
            Self::Corrupt => Some(Spoil::Flip { first: WITHIN, every: 3 * WITHIN }),
            Self::Truncate => Some(Spoil::Drop(WITHIN)),
            _ => None,
        }
    }
}

/// A pool of four nodes, and what did not hold in it.
struct Pool {
    user: Cluster,
    nodes: Vec<Node>,
    like: Like,
    /// What the nodes protect that is not ours.
    foreign: Vec<BTreeSet<String>>,
    cell: String,
    complaints: Vec<String>,
}

impl Pool {
    fn start(like: Like) -> Option<Self> {
        let user = Cluster::up(0);
        let letter = if like == Like::Builtin { 'b' } else { 'k' };
        let nodes: Option<Vec<Node>> =
            (1..=NODES).map(|at| Node::start(&user, like, format!("{letter}{at}"), &[])).collect();
        let nodes = nodes?;
        let foreign = nodes.iter().map(Node::held).collect();
        Some(Self { user, nodes, like, foreign, cell: String::new(), complaints: Vec::new() })
    }

    fn must(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.complaints.push(format!("{}: {}", self.cell, what()));
        }
    }

    /// Runs a command that must end with this code, in time, and name an ill node if it fails for them.
    fn run(&mut self, code: i32, words: &[&str], ill: usize) -> Ran {
        let begun = Instant::now();
        let ran = self.user.run(words);
        let took = begun.elapsed();
        self.must(ran.code == code, || format!("{words:?} gives {}, not {code}: {}", ran.code, ran.stderr));
        let most = LIMIT * (1 + u32::try_from(ill).unwrap());
        self.must(took <= most, || format!("{words:?} took {took:?}"));
        // Where it is known already that every copy is lost, there is none to name.
        let named = self.nodes[..ill].iter().any(|node| ran.stderr.contains(&node.name))
            || ran.stderr.contains("no copy of it is known");
        self.must(ran.code == 0 || named, || format!("{words:?} names no node: {}", ran.stderr));
        ran
    }

    fn strike(&mut self, ill: Ill, count: usize) {
        let (sick, well) = self.nodes.split_at_mut(count);
        for node in &mut *sick {
            node.spoil(ill.spoil());
            match ill {
                Ill::Refuse => node.kill(),
                Ill::HangBefore => node.signal(Signal::STOP),
                Ill::Lose => node.lose(&self.user),
                Ill::Full => {
                    node.restart(&self.user, &["--capacity", "1000"], &[("Datastore.StorageMax", json!("1KB"))]);
                }
                Ill::WrongCredential => {
                    let other = json!({"other": {"AuthSecret": "bearer:other", "AllowedPaths": ["/api/v0"]}});
                    node.restart(&self.user, &["--reset-join"], &[("API.Authorizations", other)]);
                }
                _ => {}
            }
        }
        if ill == Ill::WrongIdentity {
            for (at, node) in sick.iter().enumerate() {
                node.lead_to(&sick.get(at + 1).unwrap_or(&well[0]).server);
            }
        }
        if ill == Ill::Full {
            // Kubo takes what is over its limit: its status alone says so.
            self.user.ok(&["admin", "node", "ls"]);
        }
    }

    /// The fault ends, and the coordinator has seen it.
    fn heal(&mut self, ill: Ill, count: usize) {
        for node in &mut self.nodes[..count] {
            node.spoil(None);
            match ill {
                Ill::HangBefore => node.signal(Signal::CONT),
                Ill::Refuse | Ill::Full | Ill::WrongCredential => {
                    let settings = [("Datastore.StorageMax", json!("10GB")), ("API.Authorizations", json!({}))];
                    node.restart(&self.user, &[], &settings);
                }
                Ill::WrongIdentity => node.lead_to(&node.server),
                _ => {}
            }
            if ill == Ill::WrongCredential {
                node.register(&self.user);
            }
        }
        let user = &self.user;
        wait_for("all nodes", || {
            let (mut lines, code) = user.json(&["admin", "node", "ls"]);
            lines.pop();
            code == 0 && lines.iter().all(|line| line["state"] == "online")
        });
    }

    /// For each chunk of a file, the nodes that have it.
    fn places(&self, remote: &str) -> Vec<Vec<String>> {
        let (lines, _) = self.user.json(&["stat", remote]);
        let chunks = lines.iter().filter(|line| line["type"] == "chunk");
        chunks.map(|line| serde_json::from_value(line["nodes"].clone()).unwrap()).collect()
    }

    /// Whether every chunk has a copy on a node that is well.
    fn readable(&self, places: &[Vec<String>], ill: Ill, count: usize) -> bool {
        let sick = |name: &String| self.nodes[..count].iter().any(|node| node.name == *name);
        !ill.spoils_reads(self.like) || places.iter().all(|nodes| nodes.iter().any(|node| !sick(node)))
    }

    fn get(&mut self, exit: i32, remote: &str, local: &str, ill: usize) {
        let ran = self.run(exit, &["get", remote, "back"], ill);
        let back = self.user.work().join("back");
        self.must(back.exists() == (ran.code == 0), || "half a file, or none".to_owned());
        if back.exists() {
            let same = self.user.read("back") == self.user.read(local);
            self.must(same, || format!("{remote} has other bytes"));
            fs::remove_file(back).unwrap();
        }
    }

    /// One cell, after which the pool is as before.
    fn cell(&mut self, op: Op, ill: Ill, count: usize) {
        self.cell = format!("{op:?}, {ill:?}, {count} of {NODES} {:?}", self.like);
        let begun = Instant::now();
        for (name, seed) in [("a", 1), ("b", 2)] {
            self.user.file(name, &bytes(seed, 2_500_000));
        }
        let mut whole = true;
        match op {
            Op::Put => {
                self.strike(ill, count);
                let exit = ill.put_exit(count);
                let ran = self.run(exit, &["put", "a", "bn:/a"], count);
                let shown = if matches!(ran.code, 0 | 10) { 0 } else { 5 };
                let stat = self.user.run(&["stat", "bn:/a"]);
                self.must(stat.code == shown, || format!("stat gives {}: {}", stat.code, stat.stderr));
                self.heal(ill, count);
                self.run(0, &["put", "a", "bn:/a"], 0);
            }
            Op::Get => {
                self.run(0, &["put", "a", "bn:/a"], 0);
                let places = self.places("bn:/a");
                self.strike(ill, count);
                let readable = self.readable(&places, ill, count);
                self.get(if readable { 0 } else { ill.get_exit() }, "bn:/a", "a", count);
                self.heal(ill, count);
                whole = readable || ill != Ill::Lose;
            }
            Op::Rm => {
                self.run(0, &["put", "a", "b", "bn:/"], 0);
                let places = self.places("bn:/a");
                self.strike(ill, count);
                self.run(0, &["rm", "bn:/b"], 0);
                let stat = self.user.run(&["stat", "bn:/b"]);
                self.must(stat.code == 5, || format!("removed, and stat gives {}", stat.code));
                self.run(0, &["admin", "gc", "--now"], count);
                whole = self.readable(&places, ill, count) || ill != Ill::Lose;
                self.heal(ill, count);
            }
        }
        // What is left of the fault is found and mended, and said where it cannot be.
        let health = self.user.run(&["admin", "health", "--read"]);
        let expected = if whole { 0 } else { 12 };
        self.must(health.code == expected, || format!("health gives {}: {}", health.code, health.text()));
        self.get(if whole { 0 } else { 8 }, "bn:/a", "a", count);
        self.run(0, &["rm", "bn:/a"], 0);
        for _ in 0..2 {
            self.user.ok(&["admin", "gc", "--now"]);
            self.user.run(&["admin", "health"]);
        }
        let held: Vec<_> = self.nodes.iter().map(Node::held).collect();
        // What a put that failed has stored stays for its lease.
        let left =
            held.iter().zip(&self.foreign).map(|(held, foreign)| held.difference(foreign).count()).sum::<usize>();
        self.must(left == 0, || format!("{left} packs are left"));
        self.foreign = held;
        if long() {
            eprintln!("{}: {:.1} s {:?}", self.cell, begun.elapsed().as_secs_f64(), self.complaints.last());
        }
    }
}

fn long() -> bool {
    std::env::var_os("BYTENODE_TEST_LONG").is_some()
}

fn table(like: Like) {
    let Some(mut pool) = Pool::start(like) else { return };
    let counts = [1, COPIES - 1, NODES - 1];
    for (row, ill) in Ill::ALL.into_iter().enumerate() {
        for (column, op) in [Op::Put, Op::Get, Op::Rm].into_iter().enumerate() {
            for (at, count) in counts.into_iter().enumerate() {
                // Of the quick ones each operation meets each fault once, and each number of ill nodes in turn.
                let quick = !ill.hangs() && at == (row + column) % counts.len();
                // Nothing is lost before it is stored.
                let possible = (op, ill) != (Op::Put, Ill::Lose);
                if possible && (quick || long()) {
                    pool.cell(op, ill, count);
                }
            }
        }
    }
    assert!(pool.complaints.is_empty(), "{} complaints:\n{}", pool.complaints.len(), pool.complaints.join("\n"));
}

#[test]
fn built_in_nodes() {
    table(Like::Builtin);
}

#[test]
fn kubo_daemons() {
    table(Like::Kubo);
}
