//! What counts is proved, what cannot be mended where it is goes elsewhere, and one failure costs one chunk.

use std::time::Duration;

use bytenode::admin::{Admin, FindingKind, HealthReport, HealthRequest, NodeState, Verdict};
use bytenode::api::{Api, Append, BeginPut, Blob, ChunkDesc, Code, PackOutcome, PacksSent, Part, PlanChunks};
use bytenode::coordinator::Until;
use bytenode::id::ChunkId;
use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};
use bytenode::put::PutOptions;
use tokio::time::Instant;

use crate::support::pool::{Like, MIB, Pool, Setup, always, bytes};

const SEALED_MIB: u64 = MIB as u64 + 16;
const BAD: &str = "SELECT count(*) FROM replica WHERE bad_at IS NOT NULL";

/// Longer than a proof is fresh.
async fn later() {
    tokio::time::advance(Duration::from_secs(700)).await;
}

async fn read_all(pool: &Pool) -> HealthReport {
    pool.check(HealthRequest { read: true, dry_run: true, ..HealthRequest::default() }).await
}

/// Lets everybody go on, and their time pass, until something is so.
async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_millis(1)).await;
    }
}

/// A listing renewed the proof of every pack that it showed, so that copies whose bytes had rotted long ago were "here
/// already". It says what is present and protected; only a receipt, or reading and hashing, is a proof.
#[tokio::test(start_paused = true)]
async fn a_listing_is_no_proof() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, MIB);
        pool.admin.put("bn:/a", &content).await;
        let proved = "SELECT min(proved_at) FROM pack";
        let before = pool.count(proved).await;
        let chunk = pool.admin.chunks("bn:/a").await[0].cid;
        pool.nodes.iter().for_each(|node| assert!(node.memory.corrupt(&chunk)));
        later().await;
        let report = pool.health().await;
        assert_eq!(report.oldest_verified.map(|at| at.as_microsecond()), Some(before), "listed is not verified");
        assert_eq!(pool.count(proved).await, before);
        let put = pool.admin.put("bn:/b", &content).await;
        assert_eq!((put.summary.sent_bytes, put.summary.copies_min), (3 * SEALED_MIB, Some(3)));
        assert_eq!(pool.admin.get("bn:/b").await, content);
        // What is read through is proved anew.
        pool.check(HealthRequest { read: true, ..HealthRequest::default() }).await;
        later().await;
        let now = pool.seam.now();
        let report = pool.check(HealthRequest { read: true, ..HealthRequest::default() }).await;
        assert_eq!(report.verdict, Verdict::Healthy, "{report:?}");
        assert_eq!(pool.health().await.oldest_verified, Some(now));
    }
}

/// A pack that was protected again was taken for proved though nothing of it had been read.
#[tokio::test(start_paused = true)]
async fn what_is_protected_again_is_read_before_it_counts() {
    let pool = Pool::new(Setup::kubo(3)).await;
    let content = bytes(1, MIB);
    pool.admin.put("bn:/a", &content).await;
    let chunk = pool.admin.chunks("bn:/a").await[0].cid;
    let node = &pool.nodes[1].memory;
    assert!(node.unprotect(node.packs()[0]) && node.corrupt(&chunk));
    let report = pool.health().await;
    assert_eq!(report.verdict, Verdict::Healthy, "{report:?}");
    let report = read_all(&pool).await;
    assert_eq!((report.verdict, report.findings_total), (Verdict::Healthy, 0), "{report:?}");
}

/// Until it is protected again, what a node was seen not to protect is no copy that an upload may count on.
#[tokio::test(start_paused = true)]
async fn an_unprotected_pack_has_no_proof() {
    let pool = Pool::new(Setup::kubo(3)).await;
    pool.admin.put("bn:/a", &bytes(1, MIB)).await;
    for node in &pool.nodes {
        assert!(node.memory.unprotect(node.memory.packs()[0]));
        let gone = NodeFailure::Timeout { seconds: 30, doing: "protecting a pack" };
        node.fault.order(Call::Protect, When::Always, Fault::Fail(gone));
    }
    assert_ne!(pool.health().await.verdict, Verdict::Healthy);
    assert_eq!(pool.count("SELECT count(*) FROM pack WHERE state = 2 AND proved_at IS NULL").await, 3);
    pool.nodes.iter().for_each(|node| node.fault.heal());
    pool.coordinator.ask_nodes().await;
    assert_eq!(pool.health().await.verdict, Verdict::Healthy);
    assert_eq!(pool.count("SELECT count(*) FROM pack WHERE state = 2 AND proved_at IS NULL").await, 0);
}

/// A repair ended with an error of the catalog when a chunk that it had read was released before it was written; and when
/// another chunk had got the row by then, that one was said to have a copy that nobody had made.
#[tokio::test(start_paused = true)]
async fn what_is_released_while_it_is_repaired_is_not_written() {
    for another in [false, true] {
        let pool = Pool::new(Setup::kubo(2).replicas(2)).await;
        pool.admin.put("bn:/a", &bytes(1, 2 * MIB)).await;
        pool.nodes[0].memory.wipe();
        // The first of the two is read, and waits for the second.
        let source = &pool.nodes[1].fault;
        source.order(Call::Read, When::Nth(2), Fault::Delay(Duration::from_secs(5)));
        let before = source.calls(Call::Read);
        let released = async {
            until(|| source.calls(Call::Read) == before + 2).await;
            pool.admin.rm("bn:/a").await;
            pool.coordinator.sweep(Until::Now).await.unwrap();
            if another {
                pool.admin.put("bn:/b", &bytes(2, 2 * MIB)).await;
            }
        };
        let (report, ()) = tokio::join!(pool.health(), released);
        assert_eq!(report.verdict, Verdict::Healthy, "{report:?}");
        let copies = if another { 4 } else { 0 };
        assert_eq!(pool.count("SELECT count(*) FROM replica").await, copies);
        assert_eq!(read_all(&pool).await.findings_total, 0);
    }
}

/// With a live block cache a single chunk says nothing about the others.
#[tokio::test(start_paused = true)]
async fn a_live_block_cache_is_read_through() {
    let pool = Pool::new(Setup { cache_live: true, ..Setup::kubo(3) }).await;
    let content = bytes(1, 16 * MIB);
    pool.admin.put("bn:/a", &content).await;
    let chunk = pool.admin.chunks("bn:/a").await[11].cid;
    pool.nodes.iter().for_each(|node| assert!(node.memory.corrupt(&chunk)));
    later().await;
    let put = pool.admin.put("bn:/b", &content).await;
    assert!(put.summary.sent_bytes >= 3 * SEALED_MIB, "{put:?}");
    assert_eq!(pool.admin.get("bn:/b").await, content);
}

/// A proof of a time that is still to come (the clock went back) hides no loss and makes nothing "here already".
#[tokio::test(start_paused = true)]
async fn a_proof_of_the_future_is_none() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, MIB);
        pool.admin.put("bn:/a", &content).await;
        let ahead = "UPDATE pack SET proved_at = proved_at + 86400000000, protected_at = protected_at + 86400000000,
                         present_at = present_at + 86400000000";
        pool.coordinator.catalog().write(move |c| Ok(c.execute_batch(ahead)?)).await.unwrap();
        pool.nodes[0].memory.wipe();
        pool.nodes[1].memory.wipe();
        tokio::time::advance(Duration::from_secs(1)).await;
        let found = pool.check(HealthRequest { dry_run: true, ..HealthRequest::default() }).await;
        assert_eq!(found.verdict, Verdict::AtRisk, "{found:?}");
        let put = pool.admin.put_with("bn:/b", &content, &always()).await;
        assert_eq!((put.summary.sent_bytes, put.summary.copies_min), (2 * SEALED_MIB, Some(3)));
        assert_eq!(pool.health().await.verdict, Verdict::Healthy);
        assert_eq!(pool.copies(), 3);
        let now = pool.seam.now().as_microsecond();
        let latest = pool.count("SELECT max(proved_at) FROM pack WHERE state = 2").await;
        assert!(latest <= now, "{latest} {now}");
    }
}

/// A node that says yes to a chunk and does not have it: a cache that says so, or a lie.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_mended_in_place_goes_elsewhere() {
    let pool = Pool::new(Setup::kubo(5)).await;
    let content = bytes(1, 4 * MIB);
    pool.admin.put("bn:/a", &content).await;
    let chunk = pool.admin.chunks("bn:/a").await[2].cid;
    let at = pool.holders(&chunk)[0];
    pool.nodes[at].fault.lose(chunk);
    let report = pool.health().await;
    assert_eq!((report.verdict, report.repaired), (Verdict::Healthy, 1), "{report:?}");
    assert!(report.notices.iter().any(|notice| notice.contains("does not have")), "{report:?}");
    pool.admin.session.gc(true, false).await.unwrap();
    assert_eq!(pool.holders(&chunk).len(), 3, "the bad one was taken away");
    assert_eq!(pool.count(BAD).await, 0, "and is not counted on");
    let writes = pool.nodes[at].fault.calls(Call::Write);
    let report = pool.health().await;
    assert_eq!((report.verdict, report.actions_total), (Verdict::Healthy, 0), "{report:?}");
    assert_eq!(pool.nodes[at].fault.calls(Call::Write), writes, "it is left in peace");
    assert_eq!(pool.admin.get("bn:/a").await, content);
    pool.nodes[at].fault.heal();
    let read = HealthRequest { read: true, ..HealthRequest::default() };
    assert_eq!(pool.check(read).await.verdict, Verdict::Healthy);
    assert_eq!(pool.count(BAD).await, 0);
}

/// Where no other node is left, it is tried a few times and never called healthy; the other chunks are mended.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_mended_at_all_is_said_and_costs_nothing_else() {
    let pool = Pool::new(Setup::kubo(3)).await;
    pool.admin.put("bn:/a", &bytes(1, 4 * MIB)).await;
    let chunk = pool.admin.chunks("bn:/a").await[2].cid;
    let node = &pool.nodes[0];
    let before = node.fault.calls(Call::Write);
    node.memory.wipe();
    node.fault.lose(chunk);
    for _ in 0..3 {
        let report = pool.health().await;
        assert_eq!(report.verdict, Verdict::Degraded, "{report:?}");
        let under = pool.check(HealthRequest { dry_run: true, ..HealthRequest::default() }).await.findings;
        let under: Vec<_> = under.iter().filter(|one| one.kind == FindingKind::UnderReplicated).collect();
        assert_eq!(under.len(), 1, "the other three are mended");
        assert_eq!(under[0].chunk, Some(chunk));
    }
    let writes = node.fault.calls(Call::Write) - before;
    assert!(writes <= 8, "{writes}");
    assert_eq!(pool.admin.stat("bn:/a").await.unwrap().copies_min, Some(2));
}

/// Wrong bytes from one source failed the whole pack in which the chunk was to be written.
#[tokio::test(start_paused = true)]
async fn a_wrong_source_costs_one_chunk_one_retry() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 6 * MIB);
        pool.admin.put("bn:/a", &content).await;
        pool.nodes[0].memory.wipe();
        let before = pool.nodes[0].fault.calls(Call::Write);
        pool.nodes[1].fault.order(Call::Read, When::Nth(3), Fault::FlipBit);
        pool.nodes[2].fault.order(Call::Read, When::Nth(3), Fault::FlipBit);
        let report = pool.health().await;
        assert_eq!(report.verdict, Verdict::Healthy, "{report:?}");
        assert_eq!(pool.nodes[0].fault.calls(Call::Write), before + 1, "all went in one pack");
        // The other one may still wait for its third read.
        pool.nodes.iter().for_each(|node| node.fault.heal());
        assert_eq!(read_all(&pool).await.findings_total, 0);
        assert_eq!(pool.admin.get("bn:/a").await, content);
    }
}

/// More than one round takes: the most endangered come first, and all are done in the end.
#[tokio::test(start_paused = true)]
async fn more_acts_than_are_held_are_done_round_by_round() {
    let mut setup = Setup::builtin(3).replicas(2);
    setup.policy.chunk_size = 64;
    let pool = Pool::new(setup).await;
    let content = bytes(1, 16_500 * 64);
    pool.admin.put("bn:/a", &content).await;
    pool.nodes[0].memory.wipe();
    let lost = "SELECT count(*) FROM pack p JOIN replica r ON r.pack_id = p.id JOIN node n ON n.id = p.node_id
                WHERE n.name = 'n1'";
    let lost = pool.count(lost).await as u64;
    assert!(lost > 10_000, "{lost}");
    let planned = pool.check(HealthRequest { dry_run: true, ..HealthRequest::default() }).await;
    assert_eq!((planned.actions.len(), planned.actions_total), (10_000, lost));
    let done = pool.health().await;
    assert_eq!((planned.actions, planned.actions_total), (done.actions, done.actions_total));
    assert_eq!((done.verdict, done.repaired), (Verdict::Healthy, lost));
    assert_eq!(pool.copies(), 33_000);
}

fn desc(seed: u64) -> ChunkDesc {
    ChunkDesc { chunk: ChunkId::of(&seed.to_le_bytes()), bytes: 116, length: 100, part: Part::Sealed }
}

/// Many packs on a node that hangs made one call longer than a client waits for it: a node has its time, not a pack.
#[tokio::test(start_paused = true)]
async fn many_slow_proofs_end_within_a_call() {
    let pool = Pool::new(Setup::kubo(5)).await;
    let session = &pool.admin.session;
    let begin = BeginPut { machine: "m".into(), replicas: None, public: false };
    let upload = session.begin_put(&begin).await.unwrap().upload;
    let mut packs = Vec::new();
    for file in 0..40 {
        let append = Append { file, first: 0, chunks: vec![desc(u64::from(file))], sealed_keys: Blob::default() };
        let planned = session.plan_chunks(upload, &PlanChunks { files: vec![append] }).await.unwrap();
        packs.extend(planned.packs);
    }
    pool.nodes.iter().for_each(|node| node.fault.order(Call::Holds, When::Always, Fault::Hang));
    let sent = |pack: &bytenode::api::PackPlan| PackOutcome::Sent {
        pack: pack.id,
        receipt: bytenode::node::Receipt::Unproved,
    };
    let began = Instant::now();
    drop(session.packs_sent(upload, &PacksSent { packs: packs.iter().map(sent).collect() }).await);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(pool.count("SELECT count(*) FROM pack WHERE state = 2").await, 0);
}

#[tokio::test(start_paused = true)]
async fn one_slow_proof_costs_a_put_one_node() {
    for call in [Call::Holds, Call::Protect, Call::Read] {
        let pool = Pool::new(Setup::kubo(4)).await;
        pool.nodes[0].fault.order(call, When::Always, Fault::Hang);
        let began = Instant::now();
        let put = pool.admin.put("bn:/a", &bytes(1, 12 * MIB)).await;
        assert_eq!((put.summary.copies_min, put.summary.failed), (Some(3), 0), "{put:?}");
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
        assert!(pool.admin.notices().iter().any(|notice| notice.starts_with("n1")), "{:?}", pool.admin.notices());
    }
}

/// A node that cannot protect a pack again, nor a copy of it, was taken to have wrong bytes in the way: what it had was
/// removed, though it was the last there was.
#[tokio::test(start_paused = true)]
async fn right_bytes_are_never_in_the_way() {
    for failure in [NodeFailure::Answer("it cannot".into()), NodeFailure::Full("no room".into())] {
        let pool = Pool::new(Setup::kubo(2).replicas(2)).await;
        pool.admin.put("bn:/a", &bytes(1, 3 * MIB)).await;
        let last = &pool.nodes[1];
        pool.nodes[0].memory.kill();
        for root in last.memory.packs() {
            last.memory.unprotect(root);
        }
        last.fault.order(Call::Protect, When::Always, Fault::Fail(failure));
        let report = pool.check(HealthRequest { now: true, ..HealthRequest::default() }).await;
        assert_eq!(report.verdict, Verdict::AtRisk, "{report:?}");
        for chunk in pool.admin.chunks("bn:/a").await {
            assert!(last.memory.has_right(&chunk.cid));
        }
        last.fault.heal();
        let report = pool.check(HealthRequest { now: true, ..HealthRequest::default() }).await;
        assert_eq!((report.verdict, pool.admin.get("bn:/a").await), (Verdict::AtRisk, bytes(1, 3 * MIB)));
    }
}

/// Nodes that listed nothing for a while, as with a disk that is not there, were never believed again.
#[tokio::test(start_paused = true)]
async fn nothing_is_called_lost_that_can_be_read() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 3 * MIB);
        pool.admin.put("bn:/a", &content).await;
        let kept: Vec<_> = pool.nodes.iter().map(|node| node.memory.backup()).collect();
        pool.nodes.iter().for_each(|node| node.memory.wipe());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pool.health().await.verdict, Verdict::Lost);
        pool.nodes.iter().zip(kept).for_each(|(node, kept)| node.memory.restore(kept));
        assert_eq!(pool.admin.get("bn:/a").await, content, "though no check has been made since");
        assert_eq!(pool.health().await.verdict, Verdict::Healthy);
        assert_eq!(pool.count(BAD).await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_gives_no_bytes_is_asked_a_few_times() {
    let pool = Pool::new(Setup::kubo(3)).await;
    pool.admin.put("bn:/a", &bytes(1, 12 * MIB)).await;
    let silent = NodeFailure::Timeout { seconds: 10, doing: "reading" };
    pool.nodes[0].fault.order(Call::Read, When::Always, Fault::Fail(silent));
    let before = pool.nodes[0].fault.calls(Call::Read);
    assert_eq!(read_all(&pool).await.verdict, Verdict::Degraded);
    assert_eq!(pool.nodes[0].fault.calls(Call::Read) - before, 3);
}

/// A pack that arrives after a node listed what it has is missing from the listing, and is there all the same.
#[tokio::test(start_paused = true)]
async fn a_check_beside_a_put_takes_no_copy_for_bad() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = Pool::new(setup).await;
        pool.nodes[3].fault.order(Call::ListChunks, When::Nth(1), Fault::Delay(Duration::from_secs(100)));
        let put = async {
            until(|| pool.nodes.iter().all(|node| node.fault.calls(Call::ListChunks) > 0)).await;
            tokio::time::advance(Duration::from_secs(1)).await;
            pool.admin.put("bn:/a", &bytes(1, 5 * MIB)).await
        };
        let (report, put) = tokio::join!(pool.health(), put);
        assert_eq!((put.summary.copies_min, report.chunks), (Some(3), 5));
        assert_eq!(
            (report.verdict, report.findings_total, report.actions_total),
            (Verdict::Healthy, 0, 0),
            "{report:?}"
        );
        assert_eq!((pool.count(BAD).await, pool.copies()), (0, 15));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaving_node_gives_what_it_alone_has() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup.replicas(1)).await;
        let content = bytes(1, 6 * MIB);
        pool.admin.put("bn:/a", &content).await;
        let (most, _) = pool.nodes.iter().enumerate().max_by_key(|(_, node)| node.memory.chunk_count()).unwrap();
        assert!(pool.nodes[most].memory.chunk_count() > 0);
        let report = pool.admin.session.node_remove(&pool.nodes[most].name, false, false).await.unwrap();
        assert_eq!(report.verdict, Verdict::Healthy, "{report:?}");
        assert_eq!(pool.nodes[most].memory.chunk_count(), 0);
        pool.kill(most);
        assert_eq!(pool.admin.get("bn:/a").await, content);
    }
}

/// The node is closed first, so that what is put while it leaves goes elsewhere.
#[tokio::test(start_paused = true)]
async fn a_leaving_node_takes_nothing_new() {
    let pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/old", &bytes(1, 6 * MIB)).await;
    let before = pool.nodes[1].fault.calls(Call::Write);
    pool.nodes[3].fault.order(Call::ListChunks, When::Nth(1), Fault::Delay(Duration::from_secs(100)));
    let put = async {
        until(|| pool.nodes[3].fault.calls(Call::ListChunks) > 0).await;
        let state = pool.admin.session.nodes().await.unwrap().into_iter().find(|node| node.name == "n2").unwrap().state;
        assert_eq!(state, NodeState::Draining);
        pool.admin.put("bn:/new", &bytes(2, 6 * MIB)).await
    };
    let (removed, put) = tokio::join!(pool.admin.session.node_remove("n2", false, false), put);
    removed.unwrap();
    assert_eq!(put.summary.copies_min, Some(3));
    assert_eq!(pool.nodes[1].fault.calls(Call::Write), before);
    assert_eq!(pool.health().await.findings_total, 0);
    assert_eq!(pool.admin.get("bn:/old").await, bytes(1, 6 * MIB));
    assert_eq!(pool.admin.get("bn:/new").await, bytes(2, 6 * MIB));
}

/// What was on its way to the node before it was closed is needed there until it has its copies elsewhere.
#[tokio::test(start_paused = true)]
async fn a_node_stays_while_an_upload_needs_it() {
    let pool = Pool::new(Setup::builtin(4)).await;
    let content = bytes(1, 6 * MIB);
    // The packs are sent, and what they hold is not committed yet.
    pool.nodes[0].fault.order(Call::Write, When::Nth(1), Fault::Delay(Duration::from_secs(15)));
    let remove = async {
        until(|| pool.nodes[1].memory.chunk_count() > 0).await;
        pool.admin.session.node_remove("n2", false, false).await
    };
    let (put, removed) = tokio::join!(pool.admin.put("bn:/a", &content), remove);
    assert_eq!(removed.unwrap_err().code, Code::TooFewNodes);
    assert_eq!(put.summary.copies_min, Some(3));
    let report = pool.health().await;
    assert_eq!((report.verdict, report.findings_total), (Verdict::Healthy, 0), "{report:?}");
    let report = pool.admin.session.node_remove("n2", false, false).await.unwrap();
    assert_eq!(report.verdict, Verdict::Healthy);
    assert_eq!(pool.admin.get("bn:/a").await, content);
}

/// Nobody reports anything, and the pool mends itself all the same.
#[tokio::test(start_paused = true)]
async fn the_background_finds_what_nobody_noticed() {
    let pool = Pool::new(Setup {
        nodes: vec![(Like::Kubo, 1 << 30), (Like::Builtin, 1 << 30)],
        ..Setup::builtin(0).replicas(2)
    })
    .await;
    let options = PutOptions { replicas: Some(2), ..PutOptions::default() };
    pool.admin.put_with("bn:/a", &bytes(1, 3 * MIB), &options).await;
    let background = std::sync::Arc::clone(&pool.coordinator);
    let task = tokio::spawn(async move { background.keep_in_repair().await });
    for round in 0..3 {
        pool.nodes[round % 2].memory.wipe();
        let began = Instant::now();
        while pool.copies() < 6 {
            assert!(began.elapsed() < Duration::from_secs(1200), "nobody looked");
            tokio::time::advance(Duration::from_secs(5)).await;
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        }
    }
    task.abort();
}
