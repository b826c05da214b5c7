//! One seed, one history: random work with failing nodes, against a model, each run twice with equal traces.

use std::collections::BTreeMap;

use bytenode::admin::{Admin, Verdict};
use bytenode::api::{Api, Code};
use bytenode::coordinator::sweep::Until;
use bytenode::put::PutOutcome;

use crate::support::pool::{CAPACITY, Like, Pool, Setup, always, bytes, path};

const STEPS: u64 = 30;

struct Run {
    pool: Pool,
    model: BTreeMap<String, Vec<u8>>,
    down: Option<usize>,
    seed: u64,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let mut setup = Setup::builtin(0).seed(seed);
        let like = |at: u64| if (seed >> at) & 1 == 0 { Like::Builtin } else { Like::Kubo };
        setup.nodes = (0..5).map(|at| (like(at), CAPACITY)).collect();
        setup.policy.chunk_size = 4096;
        let pool = Pool::new(setup).await;
        pool.trace.keep();
        Self { pool, model: BTreeMap::new(), down: None, seed }
    }

    fn name(&self) -> String {
        let seam = &self.pool.seam;
        format!("bn:/d{}/f{}", seam.below(2), seam.below(4))
    }

    fn content(&self) -> Vec<u8> {
        let seam = &self.pool.seam;
        // Few different contents, so that chunks are shared.
        bytes(seam.below(4), [0, 1, 4096, 9000, 40_000][seam.below(5) as usize])
    }

    async fn step(&mut self) {
        let choice = self.pool.seam.below(20);
        self.pool.trace.note(|| format!("step {choice}"));
        match choice {
            0..6 => self.put().await,
            6..9 => self.get().await,
            9..11 => self.remove().await,
            11 => self.rename().await,
            12 => self.copy().await,
            13..15 => self.switch().await,
            15 => self.interrupted().await,
            16 => {
                self.pool.coordinator.sweep(Until::Retention).await.unwrap();
            }
            17 => {
                self.pool.admin.session.gc(true, false).await.unwrap();
            }
            18 => tokio::time::advance(std::time::Duration::from_secs(1 + self.pool.seam.below(3000))).await,
            _ => {
                self.pool.health().await;
            }
        }
    }

    async fn put(&mut self) {
        let (to, content) = (self.name(), self.content());
        let before = self.model.get(&to).cloned();
        let never = self.pool.seam.below(2) == 0;
        let options = if never { Default::default() } else { always() };
        let put = self.pool.admin.put_with(&to, &content, &options).await;
        match &put.outcomes[0] {
            PutOutcome::Stored { entry, .. } => {
                assert!(!never || before.is_none(), "seed {}: {to} was replaced", self.seed);
                assert!(entry.copies_min.is_none_or(|copies| copies >= 2));
                self.model.insert(to, content);
            }
            PutOutcome::Unchanged { .. } => assert_eq!(before, Some(content), "seed {}", self.seed),
            PutOutcome::Failed { error, .. } => {
                assert!(never && error.code == Code::Exists, "seed {}: {to}: {error}", self.seed);
            }
            PutOutcome::Skipped { .. } => panic!("seed {}", self.seed),
        }
    }

    /// A put that is given up at a random point.
    async fn interrupted(&mut self) {
        let (to, content) = (self.name(), self.content());
        let source = self.pool.admin.local(&content);
        let user = self.pool.admin.clone();
        let polls = self.pool.seam.below(60);
        let options = always();
        let put = user.try_put_files(vec![(source, path(&to))], &options);
        let mut put = Box::pin(put);
        let mut done = false;
        for _ in 0..polls {
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(put.as_mut().poll(cx))).await;
            if polled.is_ready() {
                done = true;
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(put);
        // It is there whole or not at all.
        let shown = user.stat(&to).await.ok().and_then(|entry| entry.sha256);
        let new = bytenode::api::Sha256(bytenode::id::sha256(&content));
        if done || shown == Some(new) {
            self.model.insert(to, content);
        }
    }

    async fn get(&mut self) {
        let from = self.name();
        match (self.pool.admin.try_get(&from).await, self.model.get(&from)) {
            (Ok(got), Some(kept)) => assert!(got == *kept, "seed {}: {from} has other bytes", self.seed),
            (Err(error), None) => assert_eq!(error.code, Code::NotFound, "seed {}", self.seed),
            (got, kept) => panic!("seed {}: {from}: {:?} {}", self.seed, got.map(|got| got.len()), kept.is_some()),
        }
    }

    async fn remove(&mut self) {
        let name = self.name();
        let removed = self.pool.admin.session.remove(&path(&name), false, false).await;
        assert_eq!(removed.is_ok(), self.model.remove(&name).is_some(), "seed {}", self.seed);
    }

    async fn rename(&mut self) {
        let (from, to) = (self.name(), self.name());
        let moved = self.pool.admin.session.rename(&path(&from), &path(&to)).await;
        let possible = self.model.contains_key(&from) && !self.model.contains_key(&to);
        assert_eq!(moved.is_ok(), possible, "seed {}", self.seed);
        if possible {
            let content = self.model.remove(&from).unwrap();
            self.model.insert(to, content);
        }
    }

    async fn copy(&mut self) {
        let (from, to) = (self.name(), self.name());
        let copied = self.pool.admin.session.copy(&path(&from), &path(&to)).await;
        let possible = self.model.contains_key(&from) && !self.model.contains_key(&to);
        assert_eq!(copied.is_ok(), possible, "seed {}", self.seed);
        if possible {
            let content = self.model[&from].clone();
            self.model.insert(to, content);
        }
    }

    /// Kills a node, or revives the dead one; at most one is dead, and sometimes it comes back empty.
    async fn switch(&mut self) {
        match self.down.take() {
            Some(node) => {
                if self.pool.seam.below(4) == 0 {
                    self.pool.nodes[node].memory.wipe();
                }
                self.pool.revive(node).await;
                // Only one node is ever behind.
                self.pool.health().await;
            }
            None => {
                let node = self.pool.seam.below(5) as usize;
                // What was written below its target while a node was dead is made whole before another dies.
                self.pool.health().await;
                self.pool.kill(node);
                self.down = Some(node);
            }
        }
    }

    async fn finish(mut self) -> Vec<String> {
        if let Some(node) = self.down.take() {
            self.pool.revive(node).await;
        }
        let report = self.pool.health().await;
        assert_eq!(report.verdict, Verdict::Healthy, "seed {}: {report:?}", self.seed);
        let listed: Vec<String> = self
            .pool
            .admin
            .list("bn:/", 7)
            .await
            .iter()
            .filter(|entry| entry.version.is_some())
            .map(|entry| entry.path.to_string())
            .collect();
        assert_eq!(listed, self.model.keys().cloned().collect::<Vec<_>>(), "seed {}", self.seed);
        for (name, content) in self.model.clone() {
            assert!(self.pool.admin.get(&name).await == content, "seed {}: {name}", self.seed);
            self.pool.admin.rm(&name).await;
        }
        // All space comes back once every lease has ended.
        tokio::time::advance(std::time::Duration::from_secs(25 * 3600)).await;
        for _ in 0..3 {
            self.pool.admin.session.gc(true, false).await.unwrap();
        }
        assert_eq!(self.pool.copies(), 0, "seed {}: {}", self.seed, self.pool.dump().await);
        assert_eq!(self.pool.count("SELECT count(*) FROM chunk").await, 0, "seed {}", self.seed);
        self.pool.trace.lines()
    }
}

fn run(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut run = Run::new(seed).await;
        for _ in 0..STEPS {
            run.step().await;
        }
        run.finish().await
    })
}

#[test]
fn one_seed_is_one_history() {
    let count = std::env::var("BYTENODE_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let first = std::env::var("BYTENODE_SIM_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let next = std::sync::atomic::AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let outcome = std::panic::catch_unwind(|| (run(seed), run(seed)));
                    let (one, two) = outcome.unwrap_or_else(|_| {
                        panic!("seed {seed} failed: BYTENODE_SIM_FIRST={seed} BYTENODE_SIM_SEEDS=1")
                    });
                    let differs = one.iter().zip(&two).position(|(one, two)| one != two);
                    if let Some(at) = differs {
                        panic!("seed {seed}: two histories, from line {at}:\n{}\n{}", one[at], two[at]);
                    }
                    assert_eq!(one.len(), two.len(), "seed {seed}");
                }
            });
        }
    });
}
