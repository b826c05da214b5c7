//! What a dry run prints is what the real run does, over pools, damage and changes chosen by chance: the plan, the acts, and
//! what stands afterwards are the same.

use std::collections::BTreeSet;

use bytenode::admin::{Action, Admin, Do, FindingKind, HealthReport, HealthRequest, NodeSet, Verdict};
use bytenode::seam::Seam;

use crate::support::pool::{Pool, Setup, bytes};

/// Pools played where nothing else is said.
const SEEDS: u64 = 60;

/// Where good copies are, by what nodes really hold: chunk and node.
type Copies = BTreeSet<(String, String)>;

/// Copies that count by the catalog and that their nodes, which answer, have right.
async fn copies(pool: &Pool) -> Copies {
    let ask = |c: &rusqlite::Connection| {
        let mut statement = c.prepare(
            "SELECT DISTINCT c.digest, n.name FROM replica r JOIN pack p ON p.id = r.pack_id
             JOIN chunk c ON c.id = r.chunk_id JOIN node n ON n.id = p.node_id
             WHERE p.state = 2 AND r.bad_at IS NULL AND p.proved_at IS NOT NULL",
        )?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, String>(1)?)))?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    };
    let rows = pool.coordinator.catalog().read(ask).await.unwrap();
    let there = rows.into_iter().filter_map(|(digest, node)| {
        let chunk = bytenode::id::ChunkId::from_digest(digest);
        let at = pool.nodes.iter().find(|one| one.name == node)?;
        (!at.memory.is_down() && at.memory.has_right(&chunk)).then(|| (chunk.to_string(), node))
    });
    there.collect()
}

/// What is done, to which chunk, which node it leaves and which gets it, and its bytes.
type Step = (Do, String, Option<String>, Option<String>, u64);

fn steps(report: &HealthReport) -> Vec<Step> {
    let step = |action: &Action| {
        // Where a copy that stays is read for another is known once that was done.
        let leaves = matches!(action.act, Do::Move | Do::Drop);
        (action.act, action.chunk.to_string(), action.from.clone().filter(|_| leaves), action.to.clone(), action.bytes)
    };
    let mut steps: Vec<Step> = report.actions.iter().map(step).collect();
    steps.sort();
    steps
}

/// What the plan promises to stand afterwards.
fn promised(before: &Copies, report: &HealthReport) -> Copies {
    let mut after = before.clone();
    for action in &report.actions {
        after.extend(action.to.iter().map(|to| (action.chunk.to_string(), to.clone())));
    }
    for action in &report.actions {
        if let (Do::Move | Do::Drop, Some(from)) = (action.act, &action.from) {
            after.remove(&(action.chunk.to_string(), from.clone()));
        }
    }
    after
}

async fn play(seed: u64) {
    let dice = Seam::simulated(seed);
    let nodes = 3 + usize::try_from(dice.below(5)).unwrap();
    let replicas = 1 + u32::try_from(dice.below(3)).unwrap();
    let setup = if dice.below(2) == 0 { Setup::builtin(nodes) } else { Setup::kubo(nodes) };
    let pool = Pool::new(setup.seed(seed).replicas(replicas)).await;
    for file in 0..1 + dice.below(4) {
        let length = usize::try_from(dice.below(6 << 20)).unwrap();
        pool.admin.put(&format!("bn:/{file}"), &bytes(seed * 100 + file, length)).await;
    }
    tokio::time::advance(std::time::Duration::from_secs(3600)).await;
    let session = pool.admin.session.clone();
    let any = || usize::try_from(dice.below(nodes as u64)).unwrap();
    let mut told = Vec::new();
    for _ in 0..1 + dice.below(3) {
        let at = any();
        let (node, name) = (&pool.nodes[at].memory, pool.nodes[at].name.clone());
        let chunks: Vec<_> = node.kept().into_iter().flat_map(|pack| pack.chunks.into_keys()).collect();
        let some = |chunks: &[bytenode::id::ChunkId]| {
            chunks.get(usize::try_from(dice.below(chunks.len().max(1) as u64)).unwrap()).copied()
        };
        let kind = dice.below(7);
        told.push((kind, name.clone()));
        match kind {
            0 => node.kill(),
            1 => node.wipe(),
            2 => drop(some(&chunks).map(|chunk| node.forget(&chunk))),
            3 => drop(some(&chunks).map(|chunk| node.corrupt(&chunk))),
            4 => node.packs().first().map_or((), |root| assert!(node.unprotect(*root))),
            5 => {
                let change = NodeSet { draining: Some(true), ..NodeSet::default() };
                session.node_set(&name, &change).await.unwrap();
            }
            _ => {
                let change = NodeSet { zone: Some(format!("zone{}", dice.below(2))), ..NodeSet::default() };
                session.node_set(&name, &change).await.unwrap();
            }
        }
    }
    // One that returns with what it had leaves copies too many.
    if dice.below(3) == 0 {
        let at = any();
        if !pool.nodes[at].memory.is_down() {
            pool.kill(at);
            pool.check(HealthRequest { now: true, ..HealthRequest::default() }).await;
            pool.revive(at).await;
            told.push((99, pool.nodes[at].name.clone()));
        }
    }
    // What rotted is planned for only if it is read.
    let rotten = told.iter().any(|(kind, _)| *kind == 3);
    let request = HealthRequest { now: dice.below(2) == 0, read: rotten || dice.below(2) == 0, dry_run: false };
    let stood = pool.dump().await;
    let plan = pool.check(HealthRequest { dry_run: true, ..request }).await;
    assert_eq!(pool.dump().await, stood, "seed {seed}, {told:?}: a dry run changes nothing, not even a row");
    let before = copies(&pool).await;
    let done = pool.check(request).await;
    assert_eq!(steps(&plan), steps(&done), "seed {seed}, {told:?}");
    assert_eq!((plan.actions_total, &plan.findings), (done.actions_total, &done.findings), "seed {seed}, {told:?}");
    assert_eq!(done.repaired, done.actions_total, "seed {seed}, {told:?}: {done:?}");
    let after = copies(&pool).await;
    let differs: Vec<_> = promised(&before, &plan).symmetric_difference(&after).cloned().collect();
    assert!(differs.is_empty(), "seed {seed}, {told:?}, {request:?}: {differs:?} after {:?}", steps(&plan));
    if done.remaining == 0 && plan.verdict != Verdict::Lost {
        let again = pool.check(HealthRequest { dry_run: true, ..request }).await;
        // Files that this left with some node as a whole are for the next check.
        let unspread = again.findings.iter().filter(|finding| finding.kind == FindingKind::Spread).count();
        assert_eq!(again.actions_total, unspread as u64, "seed {seed}, {told:?}: {again:?}");
    }
}

#[test]
fn a_plan_is_what_is_done_and_what_stands_afterwards() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (first, seeds) = (number("BYTENODE_PLAN_FIRST", 0), number("BYTENODE_PLAN_SEEDS", SEEDS));
    for seed in first..first + seeds {
        println!("BYTENODE_PLAN_FIRST={seed}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(seed));
    }
}
