//! The corruption matrix on real disks: what can become of a chunk's bytes where a node keeps them x how it is found, over
//! packs of built-in nodes and over block files of real Kubo daemons.
//!
//! In a cell, all copies of a chunk but one are damaged in the same way. They must be found, be mended, and be on the disks
//! again as often as before: whatever a command says, the bytes are counted there. Cells share a pool, a file for each, so
//! that a table costs what one cell costs; a cell that fails says which one it is.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use bytenode::id::ChunkId;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::cluster::{Cluster, Guarded, Ran, bytes, findings, wait_for};
use crate::support::served::{Kept, Like, Node, Server, files_below};

const NODES: usize = 3;
/// Every node has a copy of every chunk; of these, so many are damaged.
const DAMAGED: usize = NODES - 1;
/// Whole chunks of a file. The last one is damaged; the others stand before it in the same packs.
const CHUNKS: usize = 2;
const MIB: usize = 1 << 20;
/// A byte of the root block, behind the header of the CAR.
const IN_ROOT: usize = 150;

/// What becomes of a chunk's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    FirstByte,
    MiddleByte,
    LastByte,
    /// The file (a pack's or a block's) lacks its last byte.
    CutByOne,
    /// The file lacks its second half.
    CutByHalf,
    Zeros,
    /// The bytes of another chunk, which are right where they belong.
    Other,
    /// The file is removed.
    Deleted,
    /// One bit of the root that the file of a pack begins with. The chunks behind it are given out for as long as the node
    /// remembers where they are, and no longer.
    ///
    /// Of Kubo's, `behind` tells.
    Root,
    /// The disk gives an error instead of the file's first byte.
    Unreadable,
    /// Every file with chunks is removed.
    Wiped,
}

impl Damage {
    /// Those that each need a chunk, not a pool, of their own.
    const OF_A_CHUNK: [Self; 8] = [
        Self::FirstByte,
        Self::MiddleByte,
        Self::LastByte,
        Self::CutByOne,
        Self::CutByHalf,
        Self::Zeros,
        Self::Other,
        Self::Deleted,
    ];
    /// Those to the file of a pack that a listing shows.
    const OF_A_PACK: [Self; 4] = [Self::Deleted, Self::CutByOne, Self::CutByHalf, Self::Root];

    /// How many chunks of a file it takes, the last ones. A pack's file holds all of them, a block's one; half a pack is less
    /// than its first chunk with what stands before it.
    fn takes(self, like: Like) -> usize {
        let whole_file = matches!(self, Self::CutByHalf | Self::Deleted) && like == Like::Builtin;
        if whole_file || matches!(self, Self::Root | Self::Unreadable | Self::Wiped) { CHUNKS } else { 1 }
    }

    /// How many copies on one node may be called bad for it: a built-in node trusts no chunk of a pack of another length.
    fn bad(self, like: Like) -> RangeInclusive<usize> {
        self.takes(like)..=if self == Self::CutByOne && like == Like::Builtin { CHUNKS } else { self.takes(like) }
    }

    /// Whether a listing shows it, once somebody asks for one.
    fn is_listed(self, like: Like) -> bool {
        match self {
            Self::Deleted | Self::Root | Self::Unreadable | Self::Wiped => true,
            Self::CutByOne | Self::CutByHalf => like == Like::Builtin,
            _ => false,
        }
    }

    /// Does it to a file in which a chunk stands, of which `other` is as long.
    fn strike(self, Kept { file, at }: &Kept, other: &[u8]) {
        let mut all = fs::read(file).unwrap();
        match self {
            Self::FirstByte => all[at.start] ^= 1,
            Self::MiddleByte => all[at.start + at.len() / 2] ^= 1,
            Self::LastByte => all[at.end - 1] ^= 1,
            Self::CutByOne => all.truncate(all.len() - 1),
            Self::CutByHalf => all.truncate(all.len() / 2),
            Self::Zeros => all[at.clone()].fill(0),
            Self::Other => all[at.clone()].copy_from_slice(other),
            Self::Root => all[IN_ROOT] ^= 1,
            Self::Deleted | Self::Wiped => return fs::remove_file(file).unwrap(),
            Self::Unreadable => {
                fs::remove_file(file).unwrap();
                // No process has memory at its address 0: reading there is an input/output error.
                return symlink("/proc/self/mem", file).unwrap();
            }
        }
        fs::write(file, all).unwrap();
    }
}

/// How it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finder {
    /// Somebody reads the file.
    Get,
    /// `admin health`, which asks for presence alone.
    Presence,
    /// The same, after the nodes were started again.
    Start,
    /// `admin health --read`.
    Read,
    /// `admin scrub --all`.
    Scrub,
    /// Nobody, before the node is emptied.
    Drain,
}

/// A file with the damage that is done to it.
struct Cell {
    name: String,
    damage: Damage,
    chunks: Vec<ChunkId>,
}

/// A pool with a file for each damage.
struct Table {
    user: Cluster,
    nodes: Vec<Node>,
    like: Like,
    finder: Finder,
    cells: Vec<Cell>,
}

impl Table {
    fn start(like: Like, settings: &[(&str, Value)], finder: Finder, damages: &[Damage]) -> Option<Self> {
        let user = Cluster::up(0);
        let start = |at: usize| Node::start(&user, like, format!("node-{at}"), settings);
        let nodes = (1..=NODES).map(start).collect::<Option<Vec<Node>>>()?;
        let cell = |(seed, damage): (usize, &Damage)| {
            if seed == damages.len() / 2 {
                // Of what was read lately, a node remembers more than of the rest.
                user.ok(&["admin", "health", "--read", "--dry-run"]);
            }
            let name = format!("{damage:?}-{seed}");
            user.file(&name, &bytes(seed as u64, CHUNKS * MIB));
            // One put each: what is put together shares packs.
            user.ok(&["put", &name, "bn:/"]);
            let chunks = user.chunks(&format!("bn:/{name}"));
            assert_eq!(chunks.len(), CHUNKS);
            Cell { name, damage: *damage, chunks }
        };
        let cells = damages.iter().enumerate().map(cell).collect();
        // Beside all that is damaged, something stays as it is; and nothing else is called bad.
        user.file("whole", &bytes(damages.len() as u64, CHUNKS * MIB));
        if !damages.contains(&Damage::Wiped) {
            user.ok(&["put", "whole", "bn:/"]);
        }
        Some(Self { user, nodes, like, finder, cells })
    }

    /// Names a cell where it fails.
    fn named(&self, cell: &Cell) -> String {
        format!("{} x {:?} over {:?}", cell.name, self.finder, self.like)
    }

    /// The nodes whose copies are damaged.
    fn sick(&self) -> &[Node] {
        &self.nodes[..DAMAGED]
    }

    /// Does all the damage: from now on one right copy is left of each chunk that it takes.
    fn strike(&self) {
        for node in self.sick() {
            let wiped = self.cells.iter().any(|cell| cell.damage == Damage::Wiped);
            if let (true, Server::Builtin { data, .. }) = (wiped, &node.server) {
                files_below(&data.join("packs")).iter().for_each(|file| fs::remove_file(file).unwrap());
                continue;
            }
            for cell in &self.cells {
                let other = node.kept(&cell.chunks[0])[0].bytes();
                let struck = if cell.damage == Damage::Wiped { &cell.chunks[..] } else { &cell.chunks[CHUNKS - 1..] };
                struck.iter().for_each(|chunk| cell.damage.strike(&node.kept(chunk)[0], &other));
            }
        }
        for cell in &self.cells {
            for (index, chunk) in cell.chunks.iter().enumerate() {
                let taken = CHUNKS - index <= cell.damage.takes(self.like);
                let expected = if taken { NODES - DAMAGED } else { NODES };
                assert_eq!(self.copies(chunk), expected, "{}: chunk {index}", self.named(cell));
            }
        }
    }

    /// How many nodes have a chunk's right bytes on their disks.
    fn copies(&self, chunk: &ChunkId) -> usize {
        self.nodes.iter().filter(|node| node.has_right(chunk)).count()
    }

    /// Finds the damage, and has it mended.
    fn find(&mut self) {
        match self.finder {
            Finder::Get => self.find_by_get(),
            Finder::Start => {
                self.nodes[..DAMAGED].iter_mut().for_each(|node| node.restart(&self.user, &[], &[]));
                self.find_by_health(&["admin", "health"]);
            }
            Finder::Presence => self.find_by_health(&["admin", "health"]),
            Finder::Read => self.find_by_health(&["admin", "health", "--read"]),
            Finder::Scrub => self.find_by_scrub(),
            Finder::Drain => unreachable!("it has a table of its own"),
        }
    }

    /// Reads every file. No other command is needed.
    fn find_by_get(&self) {
        for cell in &self.cells {
            let named = self.named(cell);
            let ran = self.get_past_bad(cell);
            let met = ran.lines().last().unwrap()["bad_replicas"].as_u64().unwrap_or(0) as usize;
            let most = cell.damage.bad(self.like).end() * DAMAGED;
            assert!(ran.code == 0 && (DAMAGED..=most).contains(&met), "{named}: {}\n{}", ran.text(), ran.stderr);
            assert!(self.user.read("back") == self.user.read(&cell.name), "{named}: other bytes");
            fs::remove_file(self.user.work().join("back")).unwrap();
        }
        for cell in &self.cells {
            let right = || cell.chunks.iter().all(|chunk| self.copies(chunk) == NODES);
            wait_for(&format!("{}: to be mended", self.named(cell)), right);
        }
        wait_for("a healthy pool", || self.user.run(&["admin", "health", "--dry-run"]).code == 0);
    }

    /// Gets a file so that every node with bad copies is met, whichever is asked first: until then the one with the good
    /// copies does not answer, so that the others are asked too.
    fn get_past_bad(&self, cell: &Cell) -> Ran {
        let good = &self.nodes[DAMAGED];
        good.signal(Signal::STOP);
        let mut get = self.user.command(&["--json", "get", &format!("bn:/{}", cell.name), "back"]);
        let mut get = Guarded(get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let mut said = BufReader::new(get.0.stderr.take().unwrap());
        let (mut unmet, mut line) = (self.sick().iter().collect::<Vec<_>>(), String::new());
        // A node is told of once. A get that ends before says why.
        while !unmet.is_empty() && said.read_line(&mut line).unwrap() > 0 {
            unmet.retain(|node| !line.contains(&node.name));
        }
        good.signal(Signal::CONT);
        get.0.stderr = Some(said.into_inner());
        let mut ran = get.end();
        ran.stderr.insert_str(0, &line);
        ran
    }

    fn find_by_health(&self, words: &[&str]) {
        let (lines, code) = self.user.json(words);
        let mut found = findings(&lines);
        for cell in &self.cells {
            for node in self.sick() {
                let gone = self.finder != Finder::Read || matches!(cell.damage, Damage::Deleted | Damage::Wiped);
                let kind = if gone { "missing" } else { "corrupt" };
                let bad = found.remove(&[format!("bn:/{}", cell.name), kind.into(), node.name.clone()]).unwrap_or(0);
                let right = cell.damage.bad(self.like).contains(&bad);
                assert!(right, "{} on {}: {bad} are {kind}: {lines:?}", self.named(cell), node.name);
            }
        }
        assert!(found.is_empty(), "{:?}: {found:?} more", self.finder);
        assert_eq!((code, &lines.last().unwrap()["verdict"]), (0, &json!("healthy")), "{lines:?}");
    }

    /// A scrub tells how many copies it found bad, and repair begins at once: it may be there first where it looks for a good
    /// copy, or where a listing shows the damage. All else that is mended in the end was found by the scrub.
    fn find_by_scrub(&self) {
        let (lines, code) = self.user.json(&["admin", "scrub", "--all"]);
        let most: usize = self.cells.iter().map(|cell| *cell.damage.bad(self.like).end()).sum();
        let of = |line: &Value| ["bad", "unprotected"].map(|field| line[field].as_u64().unwrap() as usize);
        for (at, node) in self.nodes.iter().enumerate() {
            let found = of(lines.iter().find(|line| line["name"] == node.name.as_str()).unwrap());
            let right = if at < DAMAGED { found[0] <= most } else { found == [0, 0] };
            assert!(right, "{:?} on {}: {found:?}: {lines:?}", self.finder, node.name);
        }
        let found = of(lines.last().unwrap());
        assert!(code == 12 && found != [0, 0], "{}: {lines:?}", self.named(&self.cells[0]));
        self.user.ok(&["admin", "health"]);
    }

    /// Nothing is left of the damage: not on the disks, not by reading all that the catalog counts, not for who reads.
    fn is_whole(&self) {
        for cell in &self.cells {
            let copies: Vec<usize> = cell.chunks.iter().map(|chunk| self.copies(chunk)).collect();
            assert_eq!(copies, [NODES; CHUNKS], "{}: right copies on the disks", self.named(cell));
        }
        let (lines, code) = self.user.json(&["admin", "health", "--read", "--dry-run"]);
        assert_eq!((code, lines.last().unwrap()["findings"].as_u64()), (0, Some(0)), "{:?}: {lines:?}", self.finder);
        let (lines, code) = self.user.json(&["admin", "scrub", "--all"]);
        assert_eq!((code, lines.last().unwrap()["bad"].as_u64()), (0, Some(0)), "{:?}: {lines:?}", self.finder);
    }

    /// What was mended is all that is needed: the nodes whose copies were never damaged are gone.
    fn serves_alone(&mut self) {
        self.nodes[DAMAGED..].iter_mut().for_each(Node::kill);
        for cell in &self.cells {
            self.user.gets_back(&cell.name);
        }
    }
}

/// A pool with these damages, once for each of these nodes' settings.
fn table(like: Like, finder: Finder, damages: &[Damage]) {
    // Kubo with its block cache live, as it comes, and without.
    let caches = if like == Like::Kubo { &[65_536, 0][..] } else { &[0] };
    for cache in caches {
        let settings = [("Datastore.BlockKeyCacheSize", json!(cache))];
        let Some(mut table) = Table::start(like, &settings, finder, damages) else { return };
        table.strike();
        table.find();
        table.is_whole();
        table.serves_alone();
    }
}

/// A node whose copies are damaged is emptied into a new one: what arrives there is right, whatever the old one gave, and it
/// can be forgotten.
fn drained(like: Like) {
    let caches = if like == Like::Kubo { &[65_536, 0][..] } else { &[0] };
    for cache in caches {
        let settings = [("Datastore.BlockKeyCacheSize", json!(cache))];
        let Some(mut table) = Table::start(like, &settings, Finder::Drain, &Damage::OF_A_CHUNK) else { return };
        table.strike();
        let fresh = Node::start(&table.user, like, "fresh".to_owned(), &settings).unwrap();
        let old = table.nodes[0].name.clone();
        table.user.ok(&["admin", "node", "drain", &old]);
        for cell in &table.cells {
            assert!(cell.chunks.iter().all(|chunk| fresh.has_right(chunk)), "{}", table.named(cell));
        }
        table.user.ok(&["admin", "node", "remove", &old]);
        table.nodes[0] = fresh;
        let (lines, code) = table.user.json(&["admin", "health", "--read"]);
        assert_eq!((code, &lines.last().unwrap()["verdict"]), (0, &json!("healthy")), "{lines:?}");
        table.is_whole();
        table.serves_alone();
    }
}

/// All damages to chunks. Whoever finds something bad wakes repair, which lists: what a listing shows has a pool for itself,
/// so that nothing but the finder finds it.
fn of_chunks(like: Like, finder: Finder) {
    let (listed, hidden): (Vec<_>, Vec<_>) = Damage::OF_A_CHUNK.iter().partition(|damage| damage.is_listed(like));
    table(like, finder, &hidden);
    listed.into_iter().for_each(|damage| table(like, finder, &[damage]));
}

/// Files all of whose chunks are gone from all nodes but one. As in [`of_chunks`], a get and a scrub find one file's.
fn wiped(like: Like) {
    for finder in [Finder::Get, Finder::Scrub] {
        table(like, finder, &[Damage::Wiped]);
    }
    for finder in [Finder::Presence, Finder::Read] {
        table(like, finder, &[Damage::Wiped; 2]);
    }
}

#[test]
fn a_get_mends_what_it_meets_in_packs() {
    of_chunks(Like::Builtin, Finder::Get);
}

#[test]
fn a_get_mends_what_it_meets_in_blocks() {
    of_chunks(Like::Kubo, Finder::Get);
}

#[test]
fn a_check_that_reads_mends_packs() {
    table(Like::Builtin, Finder::Read, &[&[Damage::Root], &Damage::OF_A_CHUNK[..], &[Damage::Root]].concat());
}

#[test]
fn a_check_that_reads_mends_blocks() {
    table(Like::Kubo, Finder::Read, &Damage::OF_A_CHUNK);
}

#[test]
fn a_drain_moves_right_packs() {
    drained(Like::Builtin);
}

#[test]
fn a_drain_moves_right_blocks() {
    drained(Like::Kubo);
}

#[test]
fn a_scrub_finds_bad_packs() {
    of_chunks(Like::Builtin, Finder::Scrub);
}

#[test]
fn a_scrub_finds_bad_blocks() {
    of_chunks(Like::Kubo, Finder::Scrub);
}

/// Twice each: what is remembered of packs that were read lately hides nothing.
#[test]
fn a_listing_shows_packs_that_are_not_whole() {
    table(Like::Builtin, Finder::Presence, &[Damage::OF_A_PACK; 2].concat());
}

/// A sector that cannot be read takes the pack that begins there. The node lists the others.
#[test]
fn a_pack_that_cannot_be_read_holds_up_no_other() {
    // Elsewhere there is no such file to put in its place.
    if cfg!(target_os = "linux") {
        table(Like::Builtin, Finder::Presence, &[Damage::Unreadable; 2]);
    }
}

/// What is no whole pack is set aside when a node starts.
#[test]
fn a_start_shows_packs_that_are_not_whole() {
    table(Like::Builtin, Finder::Start, &Damage::OF_A_PACK);
}

#[test]
fn a_listing_shows_blocks_that_were_deleted() {
    table(Like::Kubo, Finder::Presence, &[Damage::Deleted; 4]);
}

#[test]
fn wiped_built_in_nodes_are_filled_again() {
    wiped(Like::Builtin);
}

#[test]
fn wiped_kubo_daemons_are_filled_again() {
    wiped(Like::Kubo);
}
