//! What is done to nodes behind the pool's back: packs are unpinned and collected, a disk is put back as it was before,
//! nodes are taken for each other, a daemon is killed. No command calls healthy what is not, a check mends it, and files
//! come back with their bytes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use bytenode::admin::{HealthRequest, Verdict};
use bytenode::id::{ChunkId, PackRoot};
use bytenode::seam::Seam;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::support::cluster::{Cluster, bytes, findings, wait_for};
use crate::support::pool::{self, CAPACITY, Setup};
use crate::support::served::{Like, Node, Server, files_below};

const NODES: usize = 3;
const MIB: usize = 1 << 20;

/// A pool of three nodes, each of which has a copy of every chunk.
struct Pool {
    user: Cluster,
    nodes: Vec<Node>,
    files: Vec<String>,
    puts: u64,
}

impl Pool {
    fn start(like: Like, settings: &[(&str, Value)]) -> Option<Self> {
        let user = Cluster::up(0);
        let start = |at: usize| Node::start(&user, like, format!("node-{at}"), settings);
        let nodes = (1..=NODES).map(start).collect::<Option<Vec<Node>>>()?;
        Some(Self { user, nodes, files: Vec::new(), puts: 0 })
    }

    /// Puts a file of three chunks; gives the packs that this made on a node.
    fn put(&mut self, name: &str, node: usize) -> BTreeSet<String> {
        let before = self.nodes[node].held();
        self.puts += 1;
        self.user.file(name, &bytes(self.puts, 3 * MIB));
        self.user.ok(&["put", name, "bn:/"]);
        self.files.push(name.to_owned());
        let held = self.nodes[node].held();
        held.difference(&before).cloned().collect()
    }

    /// Findings of a dry check, which says that not all is well; and nothing else says so.
    fn is_ill(&self) -> Vec<[String; 3]> {
        let (lines, code) = self.user.json(&["admin", "health", "--dry-run"]);
        assert_eq!(code, 12, "{lines:?}");
        assert_ne!(lines.last().unwrap()["verdict"], "healthy", "{lines:?}");
        let status = self.user.summary_of(12, &["status"]);
        assert_ne!(status["verdict"], "healthy", "{status}");
        let found: Vec<_> = findings(&lines).into_keys().collect();
        for [path, kind, _] in found.iter().filter(|[path, ..]| !path.is_empty()) {
            let checked = self.user.summary_of(12, &["check", path.trim_start_matches("bn:/"), path]);
            assert_eq!(checked["safe_to_delete"], false, "{path} is {kind}: {checked}");
        }
        found
    }

    /// What `kind` of finding a check gives for these files on a node.
    fn all(&self, kind: &str, files: &[&str], node: usize) -> Vec<[String; 3]> {
        let finding = |file: &&str| [format!("bn:/{file}"), kind.to_owned(), self.nodes[node].name.clone()];
        files.iter().map(finding).collect()
    }

    /// How many nodes have the right bytes of each chunk of a file on their disks.
    fn copies(&self, name: &str) -> Vec<usize> {
        let chunks = self.user.chunks(&format!("bn:/{name}"));
        chunks.iter().map(|chunk| self.nodes.iter().filter(|node| node.has_right(chunk)).count()).collect()
    }

    /// A check mends everything: afterwards no reading finds anything, every node has the right bytes of every chunk on its
    /// disk, and files come back.
    fn is_mended_by(&self, words: &[&str]) {
        let (lines, code) = self.user.json(words);
        assert_eq!((code, &lines.last().unwrap()["verdict"]), (0, &json!("healthy")), "{lines:?}");
        self.is_well();
    }

    fn is_well(&self) {
        let (lines, code) = self.user.json(&["admin", "health", "--read", "--dry-run"]);
        assert_eq!((code, findings(&lines).len()), (0, 0), "{lines:?}");
        for name in &self.files {
            let copies = self.copies(name);
            assert!(copies.iter().all(|copies| *copies == NODES), "right copies of the chunks of {name}: {copies:?}");
            self.user.gets_back(name);
        }
    }
}

/// Runs `ipfs` for a node, as its owner does.
fn ipfs(node: &Node, words: &[&str]) {
    let Server::Kubo(kubo) = &node.server else { panic!("{} is no Kubo", node.name) };
    let ran = kubo.command().args(words).output().unwrap();
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn unpin(node: &Node, roots: &BTreeSet<String>) {
    roots.iter().for_each(|root| ipfs(node, &["pin", "rm", root]));
}

/// The block cache as Kubo comes, and without.
fn caches() -> [[(&'static str, Value); 1]; 2] {
    [65_536, 0].map(|size| [("Datastore.BlockKeyCacheSize", json!(size))])
}

/// The owner of a node may do with its pins and its disk what he likes: what a collection took is missing.
#[test]
fn what_was_unpinned_and_collected_is_missing_and_written_again() {
    for settings in caches() {
        let Some(mut pool) = Pool::start(Like::Kubo, &settings) else { return };
        let ours: BTreeSet<String> = ["a", "b", "c", "d"].iter().flat_map(|name| pool.put(name, 0)).collect();
        assert_eq!(ours.len(), 4);
        unpin(&pool.nodes[0], &ours);
        ipfs(&pool.nodes[0], &["repo", "gc", "-q"]);
        assert_eq!(pool.is_ill(), pool.all("missing", &["a", "b", "c", "d"], 0));
        pool.user.gets_back("a");
        pool.is_mended_by(&["admin", "health"]);
        // The next collection takes nothing.
        ipfs(&pool.nodes[0], &["repo", "gc", "-q"]);
        pool.is_well();
    }
}

/// What is not pinned is there until somebody collects: no copy to count on, but one to pin again, without sending a byte.
#[test]
fn what_was_unpinned_is_unprotected_and_pinned_again() {
    for settings in caches() {
        let Some(mut pool) = Pool::start(Like::Kubo, &settings) else { return };
        let packs: Vec<BTreeSet<String>> = ["a", "b", "c", "d"].iter().map(|name| pool.put(name, 0)).collect();
        let half: BTreeSet<String> = packs[..2].iter().flatten().cloned().collect();
        unpin(&pool.nodes[0], &half);
        assert_eq!(pool.is_ill(), pool.all("unprotected", &["a", "b"], 0));
        pool.is_mended_by(&["admin", "health"]);
        assert!(half.is_subset(&pool.nodes[0].held()), "the same packs, pinned again");
        ipfs(&pool.nodes[0], &["repo", "gc", "-q"]);
        pool.is_well();
        // Collected before anybody looked, these are missing and the others are not.
        unpin(&pool.nodes[0], &half);
        ipfs(&pool.nodes[0], &["repo", "gc", "-q"]);
        assert_eq!(pool.is_ill(), pool.all("missing", &["a", "b"], 0));
        pool.is_mended_by(&["admin", "health"]);
    }
}

/// Until a pack is pinned, a collection takes it: the put counts what was pinned whole, and nothing else. Whatever is called
/// healthy is on the disks.
///
/// Seconds, but half a minute now and then: where the collection falls between the look through a pack and its pinning, Kubo
/// seeks what is lost, and lets nobody else pin or collect, until the limit for pinning has passed.
#[test]
fn what_is_collected_while_it_is_put_does_not_count() {
    let Some(mut pool) = Pool::start(Like::Kubo, &caches()[0]) else { return };
    for seed in 0..8 {
        let name = format!("f{seed}");
        pool.user.file(&name, &bytes(seed, 5 * MIB));
        let ran = thread::scope(|scope| {
            scope.spawn(|| (0..3).for_each(|_| ipfs(&pool.nodes[0], &["repo", "gc", "-q"])));
            pool.user.run(&["put", &name, "bn:/"])
        });
        assert!(matches!(ran.code, 0 | 10), "two nodes collect nothing: {name}: {}", ran.stderr);
        pool.files.push(name);
    }
    let (lines, code) = pool.user.json(&["admin", "health", "--dry-run"]);
    let whole = pool.files.iter().all(|name| pool.copies(name).iter().all(|copies| *copies == NODES));
    assert!(code != 0 || whole, "{lines:?}");
    pool.is_mended_by(&["admin", "health"]);
}

/// On all nodes at once: nothing is lost that can be read, and nothing is called healthy that the next collection takes.
#[test]
fn what_was_unpinned_everywhere_is_still_read_and_pinned_again() {
    let Some(mut pool) = Pool::start(Like::Kubo, &[]) else { return };
    let foreign: Vec<BTreeSet<String>> = pool.nodes.iter().map(Node::held).collect();
    pool.put("a", 0);
    for (node, foreign) in pool.nodes.iter().zip(&foreign) {
        unpin(node, &node.held().difference(foreign).cloned().collect());
    }
    let expected: Vec<_> = (0..NODES).flat_map(|node| pool.all("unprotected", &["a"], node)).collect();
    assert_eq!(pool.is_ill(), expected);
    pool.user.gets_back("a");
    pool.is_mended_by(&["admin", "health"]);
    pool.nodes.iter().for_each(|node| ipfs(node, &["repo", "gc", "-q"]));
    pool.is_well();
}

fn copy(from: &Path, to: &Path) {
    for file in files_below(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&file, copy).unwrap();
    }
}

fn data(node: &Node) -> PathBuf {
    match &node.server {
        Server::Builtin { data, .. } => data.clone(),
        Server::Kubo(kubo) => kubo.path().to_owned(),
    }
}

/// A node that comes back as it was days ago lacks what was written since, and has what was removed since; and a built-in
/// one obeys a start of the coordinator that is over.
fn put_back(like: Like) {
    let Some(mut pool) = Pool::start(like, &[]) else { return };
    pool.put("old", 0);
    let removed = pool.put("removed", 0);
    let (here, backup) = (data(&pool.nodes[0]), pool.user.work().join("backup"));
    pool.nodes[0].kill();
    copy(&here, &backup);
    pool.nodes[0].restart(&pool.user, &[], &[]);
    pool.user.ok(&["admin", "node", "ls"]);
    pool.put("new", 0);
    pool.user.ok(&["rm", "bn:/removed"]);
    pool.files.retain(|name| name != "removed");
    pool.user.ok(&["admin", "gc", "--now"]);
    assert!(removed.is_disjoint(&pool.nodes[0].held()));
    pool.user.kill("coordinator");
    pool.user.ok(&["up", "--nodes", "0"]);
    pool.put("newer", 0);

    pool.nodes[0].kill();
    fs::remove_dir_all(&here).unwrap();
    copy(&backup, &here);
    pool.nodes[0].restart(&pool.user, &[], &[]);
    assert!(removed.is_subset(&pool.nodes[0].held()));
    let mut expected = pool.all("missing", &["new", "newer"], 0);
    expected.insert(0, [String::new(), "orphan".to_owned(), pool.nodes[0].name.clone()]);
    assert_eq!(pool.is_ill(), expected);
    pool.user.ok(&["admin", "health"]);
    // What was dropped once is dropped again.
    pool.user.ok(&["admin", "gc", "--now"]);
    assert!(removed.is_disjoint(&pool.nodes[0].held()));
    pool.is_well();
}

#[test]
fn a_built_in_node_that_was_put_back_lacks_what_is_newer() {
    put_back(Like::Builtin);
}

#[test]
fn a_kubo_that_was_put_back_lacks_what_is_newer() {
    put_back(Like::Kubo);
}

/// Two nodes change places: each is somebody else at its address, on which no copy counts, until its address is told.
fn swapped(like: Like) {
    let Some(mut pool) = Pool::start(like, &[]) else { return };
    pool.put("a", 0);
    let (one, other) = (data(&pool.nodes[0]), data(&pool.nodes[1]));
    let aside = one.with_extension("aside");
    pool.nodes[..2].iter_mut().for_each(Node::kill);
    for (from, to) in [(&one, &aside), (&other, &one), (&aside, &other)] {
        fs::rename(from, to).unwrap();
    }
    pool.nodes[..2].iter_mut().for_each(|node| node.restart(&pool.user, &[], &[]));

    let found = pool.is_ill();
    assert_eq!(found, [pool.all("offline", &["a"], 0), pool.all("offline", &["a"], 1)].concat());
    pool.user.gets_back("a");
    let (lines, code) = pool.user.json(&["admin", "health"]);
    assert_eq!((code, lines.last().unwrap()["repaired"].as_u64()), (12, Some(0)), "{lines:?}");
    let (lines, code) = pool.user.json(&["doctor"]);
    assert_eq!(code, 12);
    for node in &pool.nodes[..2] {
        let reach = lines.iter().find(|line| line["check"] == format!("reach {}", node.name)).unwrap();
        assert!(reach["message"].as_str().unwrap().starts_with("somebody else answers at"), "{reach}");
    }
    pool.nodes[..2].iter().for_each(|node| node.register_as_it_is(&pool.user));
    pool.is_mended_by(&["admin", "health"]);
}

#[test]
fn built_in_nodes_that_changed_places_are_told_apart() {
    swapped(Like::Builtin);
}

#[test]
fn kubo_daemons_that_changed_places_are_told_apart() {
    swapped(Like::Kubo);
}

/// A process that is killed loses nothing that it wrote, on disks that stay on.
#[test]
fn a_kubo_that_is_killed_right_after_a_put_has_everything() {
    for settings in caches() {
        let Some(mut pool) = Pool::start(Like::Kubo, &settings) else { return };
        for name in ["a", "b"] {
            pool.put(name, 0);
            pool.nodes.iter_mut().for_each(|node| node.restart(&pool.user, &[], &settings));
            pool.is_well();
        }
        pool.nodes[0].kill();
        let found = pool.is_ill();
        assert!(found.iter().all(|[_, kind, node]| kind == "offline" && *node == pool.nodes[0].name), "{found:?}");
    }
}

/// A stock Kubo syncs no block: after a power loss the newest may have a name and no bytes. What came in the minutes before
/// its start counts no more until it was read, which is done at once and without a command.
#[test]
fn what_a_kubo_lost_with_its_power_is_noticed_and_mended() {
    for settings in caches() {
        let Some(mut pool) = Pool::start(Like::Kubo, &settings) else { return };
        pool.put("a", 0);
        pool.nodes[0].kill();
        for chunk in pool.user.chunks("bn:/a") {
            fs::write(&pool.nodes[0].kept(&chunk)[0].file, b"").unwrap();
        }
        pool.nodes[0].restart(&pool.user, &[], &settings);
        // Whoever asks how the nodes are sees that one was started again.
        pool.user.ok(&["admin", "node", "ls"]);
        wait_for("every copy to be right", || pool.copies("a").iter().all(|copies| *copies == NODES));
        pool.user.ok(&["admin", "health"]);
        pool.is_well();
        let events = pool.user.ok(&["admin", "node", "events", &pool.nodes[0].name]).text();
        assert!(events.contains("was started again; packs that came shortly before and are read anew: 1"), "{events}");
    }
}

/// The file of the block that names a pack's chunks.
fn root_file(node: &Node, root: &str) -> PathBuf {
    let Server::Kubo(kubo) = &node.server else { panic!("{} is no Kubo", node.name) };
    let root: PackRoot = root.parse().unwrap();
    kubo.block_file(&ChunkId::from_digest(*root.digest()))
}

/// A pin says nothing of the block that names what it protects: where that is lost, no collection comes to its end, and
/// where it is wrong, the next one takes what it does not name.
#[test]
fn a_root_that_is_lost_or_wrong_is_written_again() {
    for settings in caches() {
        let Some(mut pool) = Pool::start(Like::Kubo, &settings) else { return };
        let lost = pool.put("a", 0).pop_first().unwrap();
        fs::remove_file(root_file(&pool.nodes[0], &lost)).unwrap();
        assert_eq!(pool.is_ill(), pool.all("unprotected", &["a"], 0), "{settings:?}");
        pool.is_mended_by(&["admin", "health"]);
        pool.user.ok(&["admin", "gc"]);
        ipfs(&pool.nodes[0], &["repo", "gc", "-q"]);
        pool.is_well();

        let spoilt = pool.put("b", 0).pop_first().unwrap();
        let root = root_file(&pool.nodes[0], &spoilt);
        let mut wrong = fs::read(&root).unwrap();
        wrong[20] ^= 1;
        fs::write(&root, wrong).unwrap();
        let (lines, code) = pool.user.json(&["admin", "scrub", "--all"]);
        assert_eq!((code, lines.last().unwrap()["unprotected"].as_u64()), (12, Some(1)), "{settings:?}: {lines:?}");
        pool.is_mended_by(&["admin", "health"]);
        pool.user.ok(&["admin", "gc"]);
        ipfs(&pool.nodes[0], &["repo", "gc", "-q"]);
        pool.is_well();
    }
}

/// A node whose clock is of another day is suspect: it gets nothing new, since its receipts and our grants mean nothing
/// there. What it gets once its clock is right counts.
#[tokio::test(start_paused = true)]
async fn a_node_with_a_clock_of_another_day_has_no_copy_that_it_did_not_prove() {
    for (hours, copies) in [(24, 2), (-24, 2)] {
        let mut pool = pool::Pool::new(Setup::builtin(2)).await;
        let clock = Seam::simulated(2);
        clock.jump(SignedDuration::from_hours(hours));
        pool.add_node_at(pool::Like::Builtin, CAPACITY, clock.clone()).await;
        let content = pool::bytes(1, 3 * MIB);
        let put = pool.admin.put("bn:/a", &content).await;
        assert_eq!(put.entry().copies_min, Some(copies), "{hours} h");
        let expected = if copies == 3 { Verdict::Healthy } else { Verdict::Degraded };
        let dry = HealthRequest { dry_run: true, ..HealthRequest::default() };
        assert_eq!(pool.check(dry).await.verdict, expected, "{hours} h");
        let report = pool.health().await;
        assert_eq!(report.verdict, expected, "{hours} h: no check can mend it: {report:?}");
        assert_eq!(pool.admin.get("bn:/a").await, content);
        clock.jump(SignedDuration::from_hours(-hours));
        let report = pool.health().await;
        assert_eq!((report.verdict, report.remaining), (Verdict::Healthy, 0), "{hours} h: {report:?}");
        assert_eq!(pool.copies(), 9);
        pool.kill(0);
        pool.kill(1);
        assert_eq!(pool.admin.get("bn:/a").await, content);
    }
}
