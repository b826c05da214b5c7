//! Who is in charge: a coordinator on an old copy of its data, one that was replaced, and a person who decides.

use std::collections::BTreeSet;

use bytenode::admin::{Admin, Adopt, FindingKind, HealthRequest, Verdict};
use bytenode::api::{Api, ApiError, ApiResult, BeginPut, Code};
use bytenode::coordinator::keys::NodeSecret;
use bytenode::coordinator::sweep::Until;
use bytenode::grant::Start;
use bytenode::id::{ChunkId, PackId, PackRoot};
use bytenode::node::SharedNode;
use bytenode::node::call::Call;
use bytenode::pack::{Pack, PackEntry, PackHeader};

use crate::support::pool::{MIB, Pool, Setup, User, always, bytes, path};

/// Calls that change something on a node.
fn changes(pool: &Pool) -> u64 {
    let calls = [Call::Write, Call::Protect, Call::Drop, Call::Replace];
    pool.nodes.iter().flat_map(|node| calls.map(|call| node.fault.calls(call))).sum()
}

fn packs(pool: &Pool) -> Vec<PackRoot> {
    pool.nodes.iter().flat_map(|node| node.memory.packs()).collect()
}

fn dry() -> HealthRequest {
    HealthRequest { dry_run: true, ..HealthRequest::default() }
}

async fn adopt(user: &User, without: &[&str]) -> ApiResult<bytenode::admin::Adopted> {
    let without = without.iter().map(|name| (*name).to_owned()).collect();
    user.session.adopt(&Adopt { without, dry_run: false }).await
}

/// Every way to change something, tried. Those that need it act on `bn:/a`.
async fn try_all(pool: &Pool) -> Vec<(&'static str, Result<(), ApiError>)> {
    let (user, session) = (&pool.admin, &pool.admin.session);
    let begin = BeginPut { machine: "m".into(), replicas: None, public: false };
    vec![
        ("begin_put", session.begin_put(&begin).await.map(drop)),
        ("put", user.try_put("bn:/new", &bytes(9, 1000), &always()).await.map(drop)),
        ("remove", session.remove(&path("bn:/a"), false, false).await.map(drop)),
        ("rename", session.rename(&path("bn:/a"), &path("bn:/b2")).await.map(drop)),
        ("copy", session.copy(&path("bn:/a"), &path("bn:/a2")).await.map(drop)),
        ("make_dirs", session.make_dirs(&[path("bn:/d")]).await),
        ("gc", session.gc(true, false).await.map(drop)),
        ("sweep", pool.coordinator.sweep(Until::Now).await.map(drop)),
        ("health", session.health(&HealthRequest::default()).await.map(drop)),
        ("node_remove", session.node_remove("n1", true, false).await.map(drop)),
        ("node_test", session.node_test("n1").await.map(drop)),
    ]
}

/// A catalog from before the newest packs, on nodes that hold them, changes nothing anywhere until a person says so; and
/// then it neither drops nor counts what it does not know, nor gives a number twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_catalog_changes_nothing_until_it_is_adopted() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let mut pool = Pool::new(setup.file()).await;
        let content = bytes(1, 2 * MIB);
        pool.admin.put("bn:/a", &content).await;
        // To be dropped as soon as somebody sweeps, as the copy knows it.
        pool.admin.put("bn:/gone", &bytes(2, MIB)).await;
        pool.admin.rm("bn:/gone").await;
        let old = pool.backup();
        pool.admin.put("bn:/new", &bytes(3, MIB)).await;
        let newest = pool.count("SELECT max(id) FROM pack").await;
        let (held, before) = (packs(&pool), changes(&pool));

        pool.restore(&old).await;
        for again in [false, true] {
            if again {
                // It is a fact: no node need show it again.
                pool.nodes.iter().for_each(|node| node.memory.kill());
                pool.restart().await;
                assert!(pool.coordinator.read_only().is_some());
                pool.nodes.iter().for_each(|node| node.memory.revive());
                pool.coordinator.ask_nodes().await;
            }
            let why = pool.coordinator.read_only().unwrap();
            assert!(why.contains("node n") && why.contains("never issued"), "{why}");
            for (what, tried) in try_all(&pool).await {
                let error = tried.expect_err(what);
                assert_eq!(error.code, Code::ReadOnly, "{what}: {error:?}");
                assert!(error.message.contains(&why) && error.hint.unwrap().contains("bytenode admin adopt"), "{what}");
            }
            assert_eq!(pool.admin.get("bn:/a").await, content);
            assert_eq!(pool.admin.session.status().await.unwrap().read_only, Some(why.clone()));
            let report = pool.check(dry()).await;
            assert!(report.remaining > 0 && report.notices.iter().any(|notice| notice.contains(&why)), "{report:?}");
            assert_eq!((changes(&pool), &packs(&pool)), (before, &held), "nothing was written or dropped");
        }

        let tried = pool.admin.session.adopt(&Adopt { dry_run: true, ..Adopt::default() }).await.unwrap();
        assert_eq!(tried.nodes.iter().map(|node| node.unknown_packs).sum::<u64>(), 3);
        assert!(pool.coordinator.read_only().is_some(), "a dry run");
        let adopted = adopt(&pool.admin, &[]).await.unwrap();
        assert!(adopted.epoch > tried.epoch && pool.coordinator.read_only().is_none());
        assert!(pool.count("SELECT next_pack FROM pool").await > newest);
        assert_eq!(pool.coordinator.introduction().epoch, adopted.epoch);

        assert_eq!(pool.admin.put("bn:/again", &bytes(3, MIB)).await.summary.copies_min, Some(3));
        pool.admin.session.gc(true, false).await.unwrap();
        let report = pool.health().await;
        assert_eq!((report.verdict, report.remaining), (Verdict::Healthy, 0), "{report:?}");
        let orphans = report.findings.iter().filter(|finding| finding.kind == FindingKind::Orphan).count();
        assert_eq!(orphans, 3, "{:?}", report.findings);
        // Of what was held: the removed file's packs went, the unknown ones stayed.
        let now: BTreeSet<PackRoot> = packs(&pool).into_iter().collect();
        assert_eq!(held.iter().filter(|root| now.contains(root)).count(), 6);
        assert_eq!(pool.admin.get("bn:/a").await, content);
        assert_eq!(pool.admin.get("bn:/again").await, bytes(3, MIB));
        pool.restart().await;
        assert_eq!(pool.coordinator.read_only(), None);
    }
}

/// The copy alone shows in nothing but the starts that nodes were told of.
#[tokio::test(flavor = "multi_thread")]
async fn two_starts_of_one_epoch_are_two() {
    let mut pool = Pool::new(Setup::builtin(3).file()).await;
    pool.admin.put("bn:/a", &bytes(1, MIB)).await;
    let copy = pool.backup();
    pool.restart().await;
    let told = pool.told(0);
    pool.restore(&copy).await;
    assert_eq!(told.as_ref().map(|start| start.epoch), Some(pool.coordinator.introduction().epoch));
    let why = pool.coordinator.read_only().unwrap();
    assert!(why.contains("obeys another coordinator"), "{why}");
    assert_eq!((pool.told(0), pool.told(1), pool.told(2)), (told.clone(), told.clone(), told));
    adopt(&pool.admin, &[]).await.unwrap();
    assert_eq!(pool.told(2), Some(pool.coordinator.introduction().start()));
}

/// A coordinator whose place another one took, by adoption or because nothing spoke against it, sees that at its next
/// look at a node.
#[tokio::test(flavor = "multi_thread")]
async fn the_one_that_was_replaced_stops() {
    for adopted in [false, true] {
        let mut pool = Pool::new(Setup::builtin(3).file()).await;
        pool.admin.put("bn:/a", &bytes(1, MIB)).await;
        pool.admin.rm("bn:/a").await;
        let copy = pool.backup();
        if adopted {
            pool.admin.put("bn:/b", &bytes(2, MIB)).await;
        }
        let (old, session) = (pool.coordinator.clone(), pool.admin.session.clone());
        pool.restore(&copy).await;
        if adopted {
            adopt(&pool.admin, &[]).await.unwrap();
        }
        assert_eq!(pool.coordinator.read_only(), None);
        assert_eq!(old.read_only(), None, "it has not looked yet");
        let before = changes(&pool);
        old.ask_nodes().await;
        assert!(old.read_only().unwrap().contains("obeys another coordinator"), "{:?}", old.read_only());
        assert_eq!(old.sweep(Until::Now).await.unwrap_err().code, Code::ReadOnly);
        assert_eq!(session.make_dirs(&[path("bn:/d")]).await.unwrap_err().code, Code::ReadOnly);
        assert_eq!(changes(&pool), before);
        pool.coordinator.ask_nodes().await;
        assert_eq!(pool.coordinator.read_only(), None, "the new one goes on");
    }
}

/// A node that was down when the coordinator started never heard of it, and was dropped from as if it had agreed.
#[tokio::test(start_paused = true)]
async fn a_node_is_told_when_it_first_answers() {
    let mut pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/a", &bytes(1, MIB)).await;
    let first = pool.coordinator.introduction().start();
    pool.kill(0);
    pool.restart().await;
    let second = pool.coordinator.introduction().start();
    assert_eq!((pool.told(0), pool.told(1)), (Some(first), Some(second.clone())));
    pool.revive(0).await;
    assert_eq!(pool.told(0), Some(second.clone()));
    pool.restart_unasked().await;
    let early = pool.admin.try_put("bn:/b", &bytes(2, MIB), &always()).await.unwrap_err();
    assert_eq!(early.code, Code::Temporary, "nothing is sent before a node was asked");
    pool.coordinator.ask_nodes().await;
    let second = pool.coordinator.introduction().start();
    // And again whenever it comes back: meanwhile it may have been put back to an older state.
    pool.kill(0);
    pool.coordinator.ask_nodes().await;
    pool.tell(0, Start { epoch: 1, ..second.clone() });
    pool.revive(0).await;
    assert!(pool.coordinator.read_only().is_some(), "this instance never had that epoch");
}

/// What came to a node while it was away is seen when it is back.
#[tokio::test(start_paused = true)]
async fn a_node_is_compared_whenever_it_comes_back() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let pool = Pool::new(setup).await;
        let us = pool.coordinator.introduction();
        plant(&pool, 0, us.epoch, 77, us.pool).await;
        pool.coordinator.ask_nodes().await;
        assert_eq!(pool.coordinator.read_only(), None, "what a node holds is not read all the time");
        pool.kill(0);
        pool.coordinator.ask_nodes().await;
        pool.revive(0).await;
        assert!(pool.coordinator.read_only().unwrap().contains("node n1 holds a pack"));
    }
}

/// What only the node holds that was away at the start is found when it comes back, before it is told to drop anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_is_compared_first() {
    for setup in [Setup::builtin(3), Setup::kubo(3)] {
        let mut pool = Pool::new(setup.replicas(1).file()).await;
        pool.admin.put("bn:/a", &bytes(1, MIB)).await;
        let holder = pool.holders(&pool.admin.chunks("bn:/a").await[0].cid)[0];
        let copy = pool.backup();
        pool.admin.put_with("bn:/a2", &bytes(1, MIB), &always()).await;
        let (mut seed, mut there) = (2, Vec::new());
        // A file whose only copy is on the same node.
        while there.is_empty() {
            let name = format!("bn:/f{seed}");
            pool.admin.put(&name, &bytes(seed, MIB)).await;
            let at = pool.holders(&pool.admin.chunks(&name).await[0].cid)[0];
            if at == holder {
                there.push(name);
            } else {
                pool.admin.rm(&name).await;
                pool.admin.session.gc(true, false).await.unwrap();
            }
            seed += 1;
        }
        pool.kill(holder);
        pool.restore(&copy).await;
        let name = pool.nodes[holder].name.clone();
        pool.admin.rm("bn:/a").await;
        let drops = pool.nodes[holder].fault.calls(Call::Drop);
        pool.nodes[holder].memory.revive();
        // The sweeper is the first to reach it.
        let swept = pool.admin.session.gc(true, false).await.unwrap();
        assert_eq!((swept.packs, swept.waiting), (0, 1));
        assert_eq!(pool.nodes[holder].fault.calls(Call::Drop), drops);
        assert!(pool.coordinator.read_only().unwrap().contains(&name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adoption_asks_every_node() {
    let mut pool = Pool::new(Setup::kubo(4).file()).await;
    pool.admin.put("bn:/a", &bytes(1, MIB)).await;
    let copy = pool.backup();
    pool.admin.put("bn:/b", &bytes(2, 8 * MIB)).await;
    pool.restore(&copy).await;
    let user = pool.user("eve").await;
    assert_eq!(adopt(&user, &[]).await.unwrap_err().code, Code::NotAllowed);
    pool.kill(2);
    let refused = adopt(&pool.admin, &[]).await.unwrap_err();
    assert!(refused.code == Code::Temporary && refused.message.contains("node n3"), "{refused:?}");
    assert!(refused.hint.unwrap().ends_with("bytenode admin adopt --without n3"));
    assert_eq!(adopt(&pool.admin, &["n9"]).await.unwrap_err().code, Code::NotFound);
    assert!(pool.coordinator.read_only().is_some());
    let adopted = adopt(&pool.admin, &["n3"]).await.unwrap();
    assert_eq!(adopted.nodes.len(), 3);
    // What it holds is older than what was adopted: it is known to be unknown.
    pool.revive(2).await;
    assert_eq!(pool.coordinator.read_only(), None);
    let report = pool.health().await;
    assert_eq!((report.verdict, report.remaining), (Verdict::Healthy, 0), "{report:?}");
    let n3 = |finding: &&bytenode::admin::Finding| finding.node.as_deref() == Some("n3");
    assert!(report.findings.iter().find(n3).is_some_and(|finding| finding.kind == FindingKind::Orphan));
    // Nothing to adopt is no error, and nothing is done.
    let again = adopt(&pool.admin, &[]).await.unwrap();
    assert_eq!((again.why, again.epoch), (None, adopted.epoch));
}

/// What this catalog issued and has no row of any more is no sign of another coordinator.
#[tokio::test(start_paused = true)]
async fn a_node_that_was_forgotten_may_come_back() {
    for setup in [Setup::builtin(4), Setup::kubo(4)] {
        let pool = Pool::new(setup).await;
        pool.admin.put("bn:/a", &bytes(1, 4 * MIB)).await;
        let row = pool.coordinator.nodes().named("n1").unwrap().row.clone();
        pool.kill(0);
        pool.admin.session.node_remove("n1", true, false).await.unwrap();
        pool.nodes[0].memory.revive();
        assert!(!pool.nodes[0].memory.packs().is_empty());
        pool.coordinator.register(row, NodeSecret::default()).await.unwrap();
        assert_eq!(pool.coordinator.read_only(), None);
        let had = pool.nodes[0].memory.packs().len();
        let found = pool.health().await.findings;
        let (orphans, others): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|finding| finding.kind == FindingKind::Orphan);
        assert_eq!(orphans.len(), had);
        // With four nodes again, none needs to have the whole file.
        assert!(others.iter().all(|finding| finding.kind == FindingKind::Spread), "{others:?}");
    }
}

async fn plant(pool: &Pool, node: usize, epoch: u64, id: u64, pool_id: bytenode::id::PoolId) -> PackRoot {
    let entries = vec![PackEntry { chunk: ChunkId::of(b"x"), bytes: 1 }];
    let pack =
        Pack::new(PackHeader { pool: pool_id, epoch, id: PackId::new(id), entries }, vec![b"x".as_slice().into()]);
    let memory: SharedNode = pool.nodes[node].memory.clone();
    memory.write_pack(&pack, None).await.unwrap();
    if !memory.holds_pack(pack.root()).await.unwrap() {
        memory.protect_pack(pack.root(), 1).await.unwrap();
    }
    pack.root()
}

/// Numbers that no coordinator can have come from whoever makes them up: they neither stop the pool nor use up its
/// numbers, and neither does another pool's pack.
#[tokio::test(start_paused = true)]
async fn made_up_numbers_stop_nobody() {
    let pool = Pool::new(Setup::builtin(3)).await;
    let us = pool.coordinator.introduction();
    for (epoch, id) in [(u64::MAX, 1), (us.epoch, u64::MAX), (0, 1)] {
        plant(&pool, 0, epoch, id, us.pool).await;
    }
    plant(&pool, 0, 9, 9, bytenode::id::PoolId::from_bytes([7; 16])).await;
    assert_eq!(pool.health().await.findings_total, 0);
    assert_eq!(pool.coordinator.read_only(), None);
    // Each root was read once, however often it is listed.
    let read = pool.nodes[0].fault.calls(Call::Header);
    pool.health().await;
    assert_eq!((read, pool.nodes[0].fault.calls(Call::Header)), (4, 4));
    pool.tell(1, Start { epoch: u64::MAX, instance: "x".into() });
    pool.coordinator.ask_nodes().await;
    assert_eq!(pool.coordinator.read_only(), None);
    assert_eq!(pool.admin.session.status().await.unwrap().nodes[1].state, bytenode::admin::NodeState::Suspect);
    // One that could be is taken seriously, wherever it shows.
    plant(&pool, 2, us.epoch, 1 << 40, us.pool).await;
    pool.check(dry()).await;
    assert!(pool.coordinator.read_only().unwrap().contains("node n3"));
}

/// Another one's pack that shows in the middle of a repair ends it before anything is done.
#[tokio::test(start_paused = true)]
async fn a_repair_ends_where_another_is_in_charge() {
    let pool = Pool::new(Setup::builtin(4)).await;
    pool.admin.put("bn:/a", &bytes(1, MIB)).await;
    let chunk = pool.admin.chunks("bn:/a").await[0].cid;
    let holder = pool.holders(&chunk)[0];
    pool.nodes[holder].memory.wipe();
    let us = pool.coordinator.introduction();
    plant(&pool, holder, us.epoch + 1, 1, us.pool).await;
    let before = changes(&pool);
    let refused = pool.admin.session.health(&HealthRequest::default()).await.unwrap_err();
    assert_eq!((refused.code, changes(&pool)), (Code::ReadOnly, before));
}
