//! The simulation: from one seed follows one history of clients, nodes that fail, bytes that are destroyed, crashes and
//! restarts, on the seam of time and chance. Whatever is seen must have an explanation by a model, and what DESIGN says
//! never to happen is looked for all the while. A seed that fails is told with the command that plays it again.
//!
//! `BYTENODE_SIM_SEEDS` says how many seeds to play, `BYTENODE_SIM_FIRST` which is the first, `BYTENODE_SIM_SCENES` how
//! many scenes each has.

mod checks;
mod client;
mod damage;
mod model;
mod scene;
mod weather;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytenode::admin::{Admin, FindingKind, HealthRequest, Verdict};
use bytenode::api::Api;

use crate::support::pool::{Like, path};
use crate::support::traced::Trace;
use world::{USERS, World};

/// Seeds played where nothing else is said.
const SEEDS: u64 = 100;
/// Scenes of a history where nothing else is said.
const SCENES: u64 = 12;
/// Of the first so many seeds, and then of every so many, two histories are compared.
const TWICE: u64 = 100;
/// Checks after which all must be at rest.
const ROUNDS: usize = 8;
/// Lines of the history that are told of a failure.
const TOLD: usize = 40;
/// The most characters of such a line.
const LINE: usize = 240;

impl World {
    /// Everything comes to rest: all faults end, leases run out, all is repaired and what nobody needs is released.
    async fn finish(&mut self) {
        self.calm().await;
        let admin = self.host.session(0).await.unwrap();
        let mut report = None;
        for _ in 0..ROUNDS {
            tokio::time::advance(Duration::from_secs(25 * 3600)).await;
            let read = HealthRequest { read: true, ..HealthRequest::default() };
            admin.health(&read).await.unwrap();
            admin.gc(true, false).await.unwrap();
            admin.gc(true, false).await.unwrap();
            let kubo = (0..self.pool.nodes.len()).filter(|at| self.pool.like(*at) == Like::Kubo);
            kubo.for_each(|at| self.pool.nodes[at].memory.collect_garbage());
            let again = admin.health(&HealthRequest { dry_run: true, read: true, now: false }).await.unwrap();
            // What repair leaves with some node as a whole, the next check parts; that may take more than one.
            let parts = again.findings.iter().any(|finding| finding.kind == FindingKind::Spread);
            if report.replace(again).is_some() && !parts {
                break;
            }
        }
        let report = report.expect("there were some");
        assert_eq!((report.verdict, report.remaining, report.actions_total), (Verdict::Healthy, 0, 0), "{report:?}");
        self.check().await;
        self.check_rest().await;
        for node in &self.draining {
            let packs = self.pool.nodes[*node].memory.packs();
            let left = self.left_on(*node).await;
            assert!(packs.is_empty(), "n{} was to be emptied and has {left:?}", node + 1);
        }
        for user in 0..USERS {
            assert_eq!(self.shown(user).await, self.trees[user], "user {user}");
            for (name, thing) in &self.trees[user] {
                if let model::Thing::File { content, .. } = thing {
                    let got = self.users[user].try_get(&format!("bn:/{name}")).await.unwrap();
                    assert!(got == content.bytes(), "{name} has other bytes");
                }
            }
            let session = self.host.session(user).await.unwrap();
            session.remove(&path("bn:/"), true, false).await.unwrap();
        }
        admin.gc(true, false).await.unwrap();
        admin.gc(true, false).await.unwrap();
        assert_eq!(self.pool.copies(), 0, "{}", self.pool.dump().await);
        assert_eq!(self.pool.count("SELECT count(*) FROM chunk").await, 0);
    }
}

/// Plays a seed; its history goes to `kept` where one is given.
fn play(seed: u64, scenes: u64, kept: Option<&Mutex<Arc<Trace>>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, kept.is_some()).await;
        if let Some(kept) = kept {
            *kept.lock().unwrap() = Arc::clone(&world.pool.trace);
        }
        for scene in 0..scenes {
            world.note(|| format!("scene {scene}"));
            world.scene().await;
        }
        world.finish().await;
    });
}

fn history(seed: u64, scenes: u64) -> (bool, Vec<String>) {
    let kept = Mutex::new(Arc::new(Trace::default()));
    let passed = catch_unwind(AssertUnwindSafe(|| play(seed, scenes, Some(&kept)))).is_ok();
    let lines = kept.lock().unwrap().lines();
    (passed, lines)
}

/// Tells of a seed that failed: its shortest beginning that fails, and how that ended.
fn tell(seed: u64, scenes: u64) -> ! {
    let fails = (0..=scenes).map(|scenes| (scenes, history(seed, scenes))).find(|(_, (passed, _))| !passed);
    let Some((scenes, (_, lines))) = fails else { panic!("seed {seed} failed once, and not again") };
    let short = |line: &String| line.chars().take(LINE).collect::<String>();
    let (earlier, last) = lines.split_at(lines.len().saturating_sub(TOLD));
    let earlier: Vec<String> = earlier.iter().filter(|line| line.starts_with("==")).cloned().collect();
    let last: Vec<String> = last.iter().map(short).collect();
    panic!(
        "seed {seed} failed. Its history:\n{}\n...\n{}\n\nto play it again: \
         BYTENODE_SIM_FIRST={seed} BYTENODE_SIM_SEEDS=1 BYTENODE_SIM_SCENES={scenes} cargo test --test integration sim::",
        earlier.join("\n"),
        last.join("\n")
    );
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Seed 7,431: a node had two bad copies of one chunk, in two packs; a repair meant to write the chunk twice in one pack,
/// which the catalog refused, and so the whole check failed. The chunk is written once, and stands for both.
///
/// Seed 10,063: a pack was proved in the very moment in which a check began, after its node had been asked, and a whole file
/// was called lost. A check lets that moment pass before it asks.
#[test]
fn histories_that_once_failed() {
    for seed in [7431, 10_063] {
        play(seed, SCENES, None);
    }
}

#[test]
fn every_history_has_an_explanation() {
    let (first, count) = (number("BYTENODE_SIM_FIRST", 0), number("BYTENODE_SIM_SEEDS", SEEDS));
    let scenes = number("BYTENODE_SIM_SCENES", SCENES);
    let next = AtomicU64::new(first);
    let failed = Mutex::new(None::<u64>);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while failed.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    if catch_unwind(|| play(seed, scenes, None)).is_err() {
                        let mut failed = failed.lock().unwrap();
                        *failed = Some(failed.map_or(seed, |other| other.min(seed)));
                    }
                }
            });
        }
    });
    let failed = *failed.lock().unwrap();
    if let Some(seed) = failed {
        tell(seed, scenes);
    }
}

#[test]
fn one_seed_is_one_history() {
    let (first, count) = (number("BYTENODE_SIM_FIRST", 0), number("BYTENODE_SIM_SEEDS", SEEDS).min(TWICE));
    let scenes = number("BYTENODE_SIM_SCENES", SCENES);
    for seed in first..first + count {
        let (one, two) = (history(seed, scenes).1, history(seed, scenes).1);
        if let Some(at) = one.iter().zip(&two).position(|(one, two)| one != two) {
            panic!("seed {seed}: two histories, from line {at}:\n{}\n{}", one[at], two[at]);
        }
        assert_eq!(one.len(), two.len(), "seed {seed}");
    }
}
