//! No node holds a whole file where that can be.

use crate::support::pool::{MIB, Pool, Setup, always, bytes};

async fn spreads(nodes: usize, chunks: usize, seed: u64) -> Option<bool> {
    let mut setup = Setup::builtin(nodes).seed(seed);
    setup.policy.chunk_size = 1024;
    let pool = Pool::new(setup).await;
    let put = pool.admin.put("bn:/a", &bytes(seed, chunks * 1024)).await;
    let rows = pool.admin.chunks("bn:/a").await;
    let whole = |node: &String| rows.iter().all(|row| row.nodes.contains(node));
    let held = pool.nodes.iter().any(|node| whole(&node.name));
    assert!(rows.iter().all(|row| row.nodes.len() == 3));
    assert_eq!(put.entry().spread, (chunks > 1).then_some(!held), "it says what is so");
    assert_eq!(put.summary.not_spread, u64::from(chunks > 1 && held));
    put.entry().spread
}

#[tokio::test(start_paused = true)]
async fn it_holds_whenever_it_can() {
    for seed in 0..12 {
        for (nodes, chunks) in [(6, 2), (5, 3), (4, 4), (5, 7), (8, 2)] {
            assert_eq!(spreads(nodes, chunks, seed).await, Some(true), "{nodes} nodes, {chunks} chunks, seed {seed}");
        }
        assert_eq!(spreads(3, 5, seed).await, Some(false));
        assert_eq!(spreads(5, 1, seed).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn it_holds_over_several_windows() {
    let pool = Pool::new(Setup::builtin(4)).await;
    let put = pool.admin.put("bn:/a", &bytes(1, 70 * MIB)).await;
    assert_eq!(put.entry().spread, Some(true));
    // Of the second window's chunks only the last is new.
    let mut more = bytes(1, 70 * MIB);
    more.extend(bytes(2, 10));
    assert_eq!(pool.admin.put_with("bn:/b", &more, &always()).await.entry().spread, Some(true));
}
