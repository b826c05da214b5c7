//! Nodes that are registered, changed and removed.

use std::time::Duration;

use bytenode::admin::{Admin, NodeState, NodeWay};
use bytenode::api::Code;
use bytenode::coordinator::keys::NodeSecret;
use bytenode::node::GrantToken;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};

use crate::support::pool::{CAPACITY, Like, MIB, Pool, Setup, bytes};

async fn states(pool: &Pool) -> Vec<NodeState> {
    pool.admin.session.nodes().await.unwrap().into_iter().map(|node| node.state).collect()
}

/// A coordinator that ended while it emptied a node left it closed for ever, and so did an error.
#[tokio::test(start_paused = true)]
async fn a_removal_that_does_not_come_to_its_end_leaves_the_node_open() {
    let mut pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/a", &bytes(1, 2 * MIB)).await;
    let session = pool.admin.session.clone();
    let name = pool.admin.chunks("bn:/a").await[0].nodes[0].clone();
    for node in &pool.nodes {
        node.fault.order(Call::Write, When::Always, Fault::Hang);
    }
    let cut = tokio::time::timeout(Duration::from_secs(5), session.node_remove(&name, false, false)).await;
    assert!(cut.is_err(), "it hangs");
    pool.restart().await;
    assert_eq!(states(&pool).await, [NodeState::Online; 4]);

    let few = Pool::new(Setup::builtin(3)).await;
    few.admin.put("bn:/a", &bytes(1, 2 * MIB)).await;
    let refused = few.admin.session.node_remove("n1", false, false).await.unwrap_err();
    assert_eq!(refused.code, Code::TooFewNodes);
    assert_eq!(states(&few).await, [NodeState::Online; 3]);
}

/// The secret of a node was kept although the catalog had refused the node.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_refused_leaves_no_secret() {
    let mut pool = Pool::new(Setup::kubo(2)).await;
    let row = pool.coordinator.nodes().all()[0].row.clone();
    pool.add_node(Like::Kubo, CAPACITY).await;
    let mut other = pool.coordinator.nodes().all()[2].row.clone();
    pool.admin.session.node_remove(&other.name, true, false).await.unwrap();
    other.name.clone_from(&row.name);
    let secret = || NodeSecret { own: Some(GrantToken::new("bearer:x".into())), client: None };
    pool.coordinator.register(other.clone(), secret()).await.unwrap_err();
    assert!(pool.keys.node(&other.id).own.is_none());
    // One that was there before stays.
    pool.coordinator.register(row.clone(), secret()).await.unwrap();
    let renamed = pool.coordinator.nodes().all()[1].row.name.clone();
    let wrong = bytenode::catalog::nodes::NodeRow { name: renamed, ..row.clone() };
    pool.coordinator.register(wrong, NodeSecret::default()).await.unwrap_err();
    assert_eq!(pool.keys.node(&row.id).own.unwrap().expose(), "bearer:x");
}

/// `status` and `check` refused whoever was no admin.
#[tokio::test]
async fn a_user_sees_the_pool_and_own_files_alone() {
    let pool = Pool::new(Setup { file: true, ..Setup::builtin(3) }).await;
    pool.admin.put("bn:/a", &bytes(1, 2 * MIB)).await;
    let user = pool.user("eve").await;
    user.put("bn:/mine", &bytes(2, 1000)).await;
    let status = user.session.status().await.unwrap();
    assert_eq!((status.files, status.bytes, status.nodes.len()), (1, 1000, 3));
    assert_eq!(status.verdict, bytenode::admin::Verdict::Healthy);
    assert_eq!(pool.admin.session.status().await.unwrap().files, 2);
    assert_eq!(user.session.nodes().await.unwrap_err().code, Code::NotAllowed);
    assert_eq!(user.session.risks().await.unwrap_err().code, Code::NotAllowed);
    let names = |ways: Vec<NodeWay>| ways.into_iter().map(|way| (way.address.name, way.relayed)).collect::<Vec<_>>();
    assert_eq!(names(user.session.ways("elsewhere").await.unwrap()).len(), 3);
    assert_eq!(user.session.ways(&"x".repeat(10_000)).await.unwrap_err().code, Code::Usage);
    // The machine's disk is the admin's business.
    let disks = [user.session.status().await.unwrap().disk, pool.admin.session.status().await.unwrap().disk];
    assert!(disks[0].is_none() && disks[1].is_some_and(|disk| disk.catalog_bytes > 0), "{disks:?}");
}
