//! Reads beside nodes that are late: another is asked too, at a bounded price.

use std::time::Duration;

use bytenode::node::call::Call;
use bytenode::node::fault::Fault;
use tokio::time::Instant;

use crate::support::pool::{Pool, Setup, bytes};

const CHUNKS: usize = 256;
const CHUNK: usize = 16 << 10;

/// A pool with one file, and the file.
async fn filled(nodes: usize) -> (Pool, Vec<u8>) {
    let mut setup = Setup::builtin(nodes);
    setup.policy.chunk_size = CHUNK as u32;
    let pool = Pool::new(setup).await;
    let content = bytes(1, CHUNKS * CHUNK);
    pool.admin.put("bn:/a", &content).await;
    (pool, content)
}

fn reads(pool: &Pool) -> Vec<usize> {
    pool.nodes.iter().map(|node| node.fault.calls(Call::Read) as usize).collect()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_holds_nothing_up_and_is_left_alone() {
    let (pool, content) = filled(5).await;
    pool.nodes.iter().for_each(|node| node.fault.order_all(&Fault::Delay(Duration::from_millis(5))));
    pool.nodes[0].fault.order_all(&Fault::Delay(Duration::from_secs(3600)));
    let began = Instant::now();
    assert!(pool.admin.get("bn:/a").await == content);
    let took = began.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    let reads = reads(&pool);
    assert!(reads[0] <= 16 && reads.iter().sum::<usize>() <= CHUNKS + 16, "{reads:?}");
}

#[tokio::test(start_paused = true)]
async fn where_all_nodes_are_slow_little_is_asked_twice() {
    let (pool, content) = filled(5).await;
    pool.nodes.iter().for_each(|node| node.fault.order_all(&Fault::Delay(Duration::from_secs(4))));
    assert!(pool.admin.get("bn:/a").await == content);
    let asked: usize = reads(&pool).iter().sum();
    assert!(asked <= CHUNKS + CHUNKS / 10 + 8, "{asked} requests for {CHUNKS} chunks");
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_is_asked_for_as_much_as_it_can_give() {
    let (pool, content) = filled(4).await;
    let delays = [40, 10, 10, 10];
    for (node, delay) in pool.nodes.iter().zip(delays) {
        node.fault.order_all(&Fault::Delay(Duration::from_millis(delay)));
    }
    assert!(pool.admin.get("bn:/a").await == content);
    let reads = reads(&pool);
    let fast = *reads[1..].iter().min().unwrap();
    assert!(reads[0] > 0 && reads[0] * 2 < fast, "{reads:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_takes_long_to_say_how_it_is_is_read_last() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let path = |seed: u64| format!("bn:/{seed}");
    for seed in 0..24 {
        pool.admin.put(&path(seed), &bytes(seed, 1000)).await;
    }
    pool.nodes[1].fault.order_all(&Fault::Delay(Duration::from_secs(1)));
    pool.coordinator.ask_nodes().await;
    for seed in 0..24 {
        assert!(pool.admin.get(&path(seed)).await == bytes(seed, 1000));
    }
    assert_eq!(reads(&pool)[1], 0);
}
