//! Every copy is read and hashed within a period, though nobody asks for it.

use std::time::Duration;

use bytenode::admin::{Admin, HealthRequest, NodeScrubbed, Verdict};
use bytenode::api::Code;
use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};
use tokio::time::Instant;

use crate::support::pool::{MIB, Pool, Setup, bytes};

const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(31 * 24 * 3600);
const SEALED_MIB: u64 = MIB as u64 + 16;
const BAD: &str = "SELECT count(*) FROM replica WHERE bad_at IS NOT NULL";

/// What a scrub read of all nodes, and what it found.
#[derive(Debug, Default, PartialEq)]
struct Scrubbed {
    packs: u64,
    bytes: u64,
    bad: u64,
    unprotected: u64,
}

async fn scrub(pool: &Pool) -> Scrubbed {
    let nodes = pool.admin.session.scrub(false, false).await.unwrap();
    let sum = |what: fn(&NodeScrubbed) -> u64| nodes.iter().map(what).sum();
    Scrubbed {
        packs: sum(|node| node.packs),
        bytes: sum(|node| node.bytes),
        bad: sum(|node| node.bad),
        unprotected: sum(|node| node.unprotected),
    }
}

/// A put reads one chunk of each pack that it sent to a Kubo: the others are read soon after. A built-in node hashed all.
#[tokio::test(start_paused = true)]
async fn what_a_put_did_not_read_is_read_within_hours() {
    for (setup, packs) in [(Setup::kubo(3), 3), (Setup::builtin(3), 0)] {
        let pool = Pool::new(setup).await;
        pool.admin.put("bn:/a", &bytes(1, 8 * MIB)).await;
        assert_eq!(scrub(&pool).await, Scrubbed::default(), "it is left in peace for a while");
        tokio::time::advance(HOUR * 2).await;
        let found = scrub(&pool).await;
        assert_eq!(found, Scrubbed { packs, bytes: packs * 8 * SEALED_MIB, ..Scrubbed::default() });
        assert_eq!(scrub(&pool).await, Scrubbed::default(), "once is enough");
    }
}

#[tokio::test(start_paused = true)]
async fn rot_is_found_and_mended_without_a_command() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = Pool::new(setup).await;
        let content = bytes(1, 6 * MIB);
        pool.admin.put("bn:/a", &content).await;
        tokio::time::advance(HOUR * 2).await;
        scrub(&pool).await;
        let chunk = pool.admin.chunks("bn:/a").await[3].cid;
        let holders = pool.holders(&chunk);
        pool.nodes[holders[0]].memory.corrupt(&chunk);
        pool.nodes[holders[1]].memory.forget(&chunk);
        assert_eq!(scrub(&pool).await.packs, 0, "nothing is due");
        tokio::time::advance(MONTH).await;
        let found = scrub(&pool).await;
        assert_eq!((found.bad, pool.count(BAD).await), (2, 2), "{found:?}");
        assert_eq!(pool.health().await.verdict, Verdict::Healthy);
        let read = HealthRequest { read: true, dry_run: true, ..HealthRequest::default() };
        assert_eq!(pool.check(read).await.verdict, Verdict::Healthy);
        assert_eq!(pool.admin.get("bn:/a").await, content);
    }
}

/// On demand: what is due, or all; and how much that would be.
#[tokio::test(start_paused = true)]
async fn it_can_be_asked_for() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let session = &pool.admin.session;
    pool.admin.put("bn:/a", &bytes(1, 4 * MIB)).await;
    tokio::time::advance(HOUR).await;
    let of = |nodes: Vec<NodeScrubbed>| {
        nodes.iter().map(|node| (node.packs, node.bytes, node.bad, node.left)).collect::<Vec<_>>()
    };
    assert_eq!(of(session.scrub(false, true).await.unwrap()), [(0, 0, 0, 0); 3], "nothing is due");
    let whole = (1, 4 * SEALED_MIB, 0, 0);
    assert_eq!(of(session.scrub(true, true).await.unwrap()), [whole; 3]);
    assert_eq!(pool.nodes[0].fault.calls(Call::Read), 0, "a dry run reads nothing");
    let chunk = pool.admin.chunks("bn:/a").await[1].cid;
    pool.nodes[0].memory.corrupt(&chunk);
    pool.nodes[1].memory.kill();
    let found = of(session.scrub(true, false).await.unwrap());
    assert_eq!(found, [(1, 4 * SEALED_MIB, 1, 0), (0, 0, 0, 1), whole]);
    let other = pool.user("anna").await;
    assert_eq!(other.session.scrub(true, true).await.unwrap_err().code, Code::NotAllowed);
}

/// A node reads no faster than it may, and no slower; and each copy once, though that takes minutes.
#[tokio::test(start_paused = true)]
async fn it_keeps_to_its_rate() {
    let mut setup = Setup::kubo(3);
    setup.policy.scrub_rate = 1 << 18;
    let pool = Pool::new(setup).await;
    pool.admin.put("bn:/a", &bytes(1, 30 * MIB)).await;
    tokio::time::advance(HOUR * 2).await;
    let began = Instant::now();
    assert_eq!(scrub(&pool).await.bytes, 3 * 30 * SEALED_MIB);
    let seconds = began.elapsed().as_secs();
    assert!((120..122).contains(&seconds), "{seconds} s");
}

/// Where a pass stops, the next goes on, of another start too; a node that fails holds no other up.
#[tokio::test(start_paused = true)]
async fn it_goes_on_where_it_stopped() {
    let mut pool = Pool::new(Setup::kubo(3)).await;
    for file in 0..6 {
        pool.admin.put(&format!("bn:/{file}"), &bytes(file, 2 * MIB)).await;
    }
    tokio::time::advance(HOUR * 2).await;
    // The second read of the third pack of one node fails, and all that follow.
    let silent = NodeFailure::Unreachable("it is away".into());
    (6..20).for_each(|n| pool.nodes[0].fault.order(Call::Read, When::Nth(n), Fault::Fail(silent.clone())));
    assert_eq!(scrub(&pool).await.packs, 2 + 6 + 6);
    pool.nodes[0].fault.heal();
    pool.restart().await;
    assert_eq!(scrub(&pool).await.packs, 4);
}

/// A node that cannot read one chunk and reads those beside it has a bad sector there: that is no copy.
#[tokio::test(start_paused = true)]
async fn what_a_node_cannot_read_is_no_copy() {
    let pool = Pool::new(Setup::kubo(4)).await;
    pool.admin.put("bn:/a", &bytes(1, 8 * MIB)).await;
    tokio::time::advance(HOUR * 2).await;
    let fault = &pool.nodes[0].fault;
    let fails =
        |n| fault.order(Call::Read, When::Nth(n), Fault::Fail(NodeFailure::Answer("input/output error".into())));
    (3..=4).for_each(fails);
    let found = scrub(&pool).await;
    assert_eq!((found.bad, pool.count(BAD).await), (1, 1), "{found:?}");
    assert_eq!(scrub(&pool).await, Scrubbed::default());
    assert_eq!(pool.health().await.verdict, Verdict::Healthy);
    // One that can read nothing is another matter: its copies stay what they are, and no other node waits for it.
    tokio::time::advance(MONTH).await;
    fault.order(Call::Read, When::Always, Fault::Fail(NodeFailure::Answer("no".into())));
    let found = scrub(&pool).await;
    assert_eq!((found.bad, found.packs > 2), (0, true), "{found:?}");
}

/// A pack whose pin is gone is found by a scrub, too, and counts again only once it was pinned and read.
#[tokio::test(start_paused = true)]
async fn it_finds_what_is_not_protected() {
    let pool = Pool::new(Setup::kubo(3)).await;
    pool.admin.put("bn:/a", &bytes(1, 2 * MIB)).await;
    tokio::time::advance(HOUR * 2).await;
    let node = &pool.nodes[0].memory;
    assert!(node.unprotect(node.packs()[0]));
    assert_eq!(scrub(&pool).await.unprotected, 1);
    assert_eq!(pool.count("SELECT count(*) FROM pack WHERE state = 2 AND proved_at IS NULL").await, 1);
    assert_eq!(pool.health().await.verdict, Verdict::Healthy);
    assert_eq!(node.packs().len(), 1);
}
