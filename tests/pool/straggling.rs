//! Writes to a node that is far slower than all others.

use std::time::Duration;

use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};
use bytenode::put::PutOptions;
use tokio::time::Instant;

use crate::support::pool::{Pool, Setup, bytes};

const SIZE: usize = 2 << 20;
/// What a pack takes on the slow node: bytes come, so no limit of it passes.
const CRAWL: Duration = Duration::from_secs(600);

async fn slow_first(setup: Setup) -> Pool {
    let mut setup = setup;
    setup.policy.chunk_size = 16 << 10;
    let pool = Pool::new(setup).await;
    pool.nodes
        .iter()
        .for_each(|node| node.fault.order(Call::Write, When::Always, Fault::Delay(Duration::from_secs(1))));
    pool.nodes[0].fault.order(Call::Write, When::Always, Fault::Delay(CRAWL));
    pool
}

async fn put(pool: &Pool) -> Duration {
    let began = Instant::now();
    let put = pool.admin.put("bn:/a", &bytes(1, SIZE)).await;
    assert_eq!((put.summary.copies_min, put.summary.failed), (Some(put.summary.copies_target), 0));
    assert!(pool.admin.get("bn:/a").await == bytes(1, SIZE));
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn it_is_replaced_and_named_where_the_others_are_enough() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = slow_first(setup).await;
        let took = put(&pool).await;
        assert!(took < Duration::from_secs(30), "{took:?}");
        let notices = pool.admin.notices().join("\n");
        assert!(notices.contains("n1: it is far slower than the others"), "{notices}");
        assert_eq!(pool.nodes[0].fault.calls(Call::Write), 1, "later windows leave it out");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_waited_for_where_a_copy_would_be_missing() {
    let pool = slow_first(Setup::builtin(3)).await;
    let took = put(&pool).await;
    assert!(took >= CRAWL, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn it_is_waited_for_where_it_is_alone_in_its_zone() {
    let pool = slow_first(Setup::builtin(4).replicas(2)).await;
    for member in pool.coordinator.nodes().all() {
        let mut row = member.row.clone();
        row.zone = if row.name == "n1" { "office" } else { "home" }.to_owned();
        pool.coordinator.register(row, bytenode::coordinator::keys::NodeSecret::default()).await.unwrap();
    }
    let took = put(&pool).await;
    assert!(took >= CRAWL, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn two_that_are_slow_are_no_stragglers() {
    let pool = slow_first(Setup::builtin(5)).await;
    pool.nodes[1].fault.order(Call::Write, When::Always, Fault::Delay(CRAWL));
    let put = pool.admin.try_put("bn:/a", &bytes(1, SIZE), &PutOptions::default()).await.unwrap();
    assert_eq!(put.summary.copies_min, Some(3));
    assert!(pool.admin.notices().is_empty(), "{:?}", pool.admin.notices());
}
