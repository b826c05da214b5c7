//! A whole look at a pool that is well, and at one that is not.

use bytenode::admin::{NodeState, NodeWay};
use bytenode::api::ApiError;
use bytenode::node::NodeFailure;
use serde_json::{Value, json};

use super::reach::Reached;
use super::*;

fn node(name: &str, change: &Value) -> Value {
    let mut node = json!({
        "name": name, "id": name, "url": format!("http://10.0.0.1:{}", 5000 + name.len()), "kind": "builtin",
        "zone": name, "access": "direct", "state": "online", "used_bytes": 1 << 30, "reclaimable_bytes": 0,
        "capacity_bytes": 100_u64 << 30, "chunks": 9, "load_permille": 10, "latency_ms": 1, "last_seen": null,
        "version": "bytenode 0.1.0", "free_bytes": 99_u64 << 30, "clock_skew_ms": 200,
    });
    node.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    node
}

fn status(nodes: &[Value], change: &Value) -> Status {
    let mut status = json!({
        "nodes": nodes, "replicas": 3, "files": 2, "bytes": 1 << 30, "usable_bytes": 99_u64 << 30,
        "verdict": "healthy", "under_replicated": 0, "oldest_verified": null, "read_only": null,
        "disk": {"catalog_bytes": 3 << 20, "free_bytes": 47_u64 << 30},
    });
    status.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(status).unwrap()
}

fn tried(status: &Status, reached: impl Fn(&str) -> Reached) -> Vec<Tried> {
    let one = |info: &NodeInfo| {
        let NodeInfo { id, name, kind, url, .. } = info.clone();
        let reached = reached(&name);
        let relayed = matches!(reached, Reached::Relayed);
        let address = bytenode::api::NodeAddress { id, name, kind, gateway: url.clone(), url, authorization: None };
        Tried { way: NodeWay { address, relayed }, reached }
    };
    status.nodes.iter().map(one).collect()
}

fn me(role: Role) -> WhoAmI {
    serde_json::from_value(json!({
        "user": "admin", "role": role, "token": "t", "pool": "0".repeat(32), "version": "0.1.0",
        "clock": "2026-01-01T00:00:00.005Z",
    }))
    .unwrap()
}

fn started() -> Started {
    Started {
        stopped: vec!["n2".into()],
        nodes: vec!["n1".into(), "n2".into()],
        data: Some("/data/coordinator".into()),
    }
}

fn whole(asked: &Asked, started: &Started, took_ms: i64) -> String {
    let before: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut found = coordinator(&asked.me, before, before + jiff::SignedDuration::from_millis(took_ms));
    found.extend(judged(asked, started));
    found.extend(asked.status.iter().map(judge::copies));
    finding::text(&found)
}

fn well(role: Role) -> Asked {
    let nodes = [
        node("n1", &json!({})),
        node("n2", &json!({})),
        node("nas", &json!({"kind": "kubo", "version": "kubo 0.42.0"})),
    ];
    let status = status(&nodes, &json!({}));
    let tried = tried(&status, |name| if name == "nas" { Reached::Relayed } else { Reached::Direct(2) });
    let checks = json!([{"check": "sync", "result": "ok", "message": "synced", "hint": null}]);
    let risks = serde_json::from_value(json!([{"node": "nas", "checks": checks}])).unwrap();
    Asked { me: me(role), status: Ok(status), tried: Ok(tried), risks: Ok(risks) }
}

#[test]
fn a_pool_that_is_well() {
    insta::assert_snapshot!(whole(&well(Role::Admin), &started(), 10), @r"
    ok    coordinator:     answers in 10 ms; signed in as admin
    ok    version:         0.1.0, here and there
    ok    clock:           within 1 s of the coordinator's
    ok    charge:          the coordinator takes changes
    ok    catalog disk:    47.0 GiB free; the catalog has 3.0 MiB
    ok    nodes:           3 for 3 copies each
    ok    zones:           nodes in 3 places
    ok    room:            99.0 GiB more at 3 copies each
    ok    node n1:         online, 0.1.0, reached in 2 ms, clock within 1 s, 1% full
    ok    node n2:         online, 0.1.0, reached in 2 ms, clock within 1 s, 1% full
    ok    node nas:        online, kubo 0.42.0, through the coordinator, clock within 1 s, 1% full, no risk found
    ok    copies:          every chunk has its copies
    ");
}

#[test]
fn a_pool_that_is_not() {
    let nodes = [
        node("n1", &json!({"clock_skew_ms": -90_000, "free_bytes": 2_u64 << 30, "version": "bytenode 0.0.9"})),
        node("n2", &json!({"state": "suspect", "failure": "refused"})),
        node("n3", &json!({"state": "offline", "failure": "refused"})),
        node("nas", &json!({"kind": "kubo", "version": "kubo 0.32.1", "clock_skew_ms": 400_000, "zone": "n\u{1b}1"})),
        node("full", &json!({"state": "full", "zone": "n1"})),
    ];
    let change = json!({
        "read_only": "another start\nok    charge: fine", "usable_bytes": 50 << 20, "verdict": "at_risk", "under_replicated": 7,
        "disk": {"catalog_bytes": 3 << 20, "free_bytes": 100 << 20},
    });
    let status = status(&nodes, &change);
    let tried = tried(&status, |name| match name {
        "n1" => Reached::Failed(NodeFailure::OtherIdentity { found: "x".parse().unwrap() }),
        "nas" => Reached::Failed(NodeFailure::Denied("403".to_owned())),
        "full" => Reached::Failed(NodeFailure::Unreachable("no route".to_owned())),
        _ => Reached::Failed(NodeFailure::Timeout { seconds: 5, doing: "connecting" }),
    });
    let checks = json!([{"check": "open_rpc", "result": "risk", "message": "open to all", "hint": "ipfs config x"}]);
    let risks = serde_json::from_value(json!([{"node": "nas", "checks": checks}])).unwrap();
    let me = WhoAmI { clock: Some("2025-12-31T23:50:00Z".parse().unwrap()), ..me(Role::Admin) };
    let asked = Asked { me, status: Ok(status), tried: Ok(tried), risks: Ok(risks) };
    insta::assert_snapshot!(whole(&asked, &started(), 10), @r"
    ok    coordinator:     answers in 10 ms; signed in as admin
    ok    version:         0.1.0, here and there
    FAIL  clock:           this machine's clock is 10 minutes ahead of the coordinator's
          on both machines: timedatectl set-ntp true
    FAIL  charge:          the coordinator takes no changes: another start\nok    charge: fine
          bytenode admin adopt --help
    FAIL  catalog disk:    100.0 MiB free; the catalog has 3.0 MiB
          make room on the disk of /data/coordinator; what fills it: du -xh /data/coordinator | sort -h | tail
    ok    nodes:           5 for 3 copies each
    ok    zones:           nodes in 4 places
    FAIL  room:            2 nodes take new chunks now, and 3 copies need 3
          mend those below, or add one: bytenode admin node add URL
    ok    node n1:         online
    risk  version n1:      it runs 0.0.9, the coordinator 0.1.0
          bytenode up
    FAIL  reach n1:        somebody else answers at http://10.0.0.1:5002: it is another node now (x)
          see what listens at its address, and on which machine; a built-in node of an older version proves nothing: update it
    risk  clock n1:        its clock is 89 seconds behind the coordinator's
          on its machine, or the coordinator's: timedatectl set-ntp true
    risk  room n1:         98% full: it takes 2.0 GiB more of 100.0 GiB
          bytenode admin node add URL (another), or make room on its disk
    risk  node n2:         has not answered the coordinator for a moment
          bytenode up
    FAIL  reach n2:        not reachable from here: http://10.0.0.1:5002 did not answer within 5 s (connecting)
          bytenode up
    FAIL  node n3:         does not answer the coordinator
          bytenode admin node test n3
    FAIL  reach n3:        not reachable from here: http://10.0.0.1:5002 did not answer within 5 s (connecting)
          bytenode admin node test n3
    ok    node nas:        online, 1% full
    FAIL  version nas:     kubo 0.32.1 is older than 0.33
          install Kubo 0.33 or later and restart it
    FAIL  reach nas:       http://10.0.0.1:5003 wants a credential that clients do not have
          bytenode admin node add http://10.0.0.1:5003 --access relay --insecure-http (and its --token-file, if it has one)
    FAIL  clock nas:       its clock is 6 minutes ahead of the coordinator's; what is permitted by date is refused
          on its machine, or the coordinator's: timedatectl set-ntp true
    risk  open_rpc nas:    open to all
          ipfs config x
    risk  node full:       full
          bytenode admin node add URL (another), or make room on its disk
    FAIL  reach full:      not reachable from here: http://10.0.0.1:5004 does not answer (no route)
          let it be reached through the coordinator: bytenode admin node add http://10.0.0.1:5004 --access relay --insecure-http (and its --token-file, if it has one)
    ok    node full:       0.1.0, clock within 1 s
    FAIL  copies:          7 chunks with too few
          bytenode admin health
    ");
}

#[test]
fn who_is_no_admin_is_told_who_can_mend_it() {
    let mut asked = well(Role::User);
    asked.risks = Ok(Vec::new());
    if let Ok(status) = &mut asked.status {
        status.disk = None;
        (status.nodes[0].state, status.nodes[0].failure) = (NodeState::Offline, Some("refused".into()));
    }
    asked.tried = Err(ApiError::new(Code::NotFound, "there is no such call"));
    insta::assert_snapshot!(whole(&asked, &started(), 10), @r"
    ok    coordinator:     answers in 10 ms; signed in as admin
    ok    version:         0.1.0, here and there
    ok    clock:           within 1 s of the coordinator's
    ok    charge:          the coordinator takes changes
    ok    nodes:           3 for 3 copies each
    ok    zones:           nodes in 3 places
    FAIL  room:            2 nodes take new chunks now, and 3 copies need 3
          an admin can: mend those below, or add one: bytenode admin node add URL
    risk  reach:           cannot be told: there is no such call
          an admin can: bytenode admin node test --all
    FAIL  node n1:         does not answer the coordinator
          an admin can: bytenode admin node test n1
    ok    node n2:         online, 0.1.0, clock within 1 s, 1% full
    ok    node nas:        online, kubo 0.42.0, clock within 1 s, 1% full
    ok    copies:          every chunk has its copies
    ");
}

#[test]
fn a_coordinator_that_hangs_leaves_what_this_machine_sees() {
    let well = well(Role::Admin);
    let late = || ApiError::new(Code::Temporary, "the coordinator did not answer within 20 s");
    let asked = Asked { status: Err(late()), risks: Err(late()), ..well };
    insta::assert_snapshot!(whole(&asked, &started(), 10), @r"
    ok    coordinator:     answers in 10 ms; signed in as admin
    ok    version:         0.1.0, here and there
    ok    clock:           within 1 s of the coordinator's
    FAIL  pool:            the coordinator did not answer within 20 s
    risk  risks:           cannot be told: the coordinator did not answer within 20 s
          bytenode admin node test --all
    ok    node n1:         reached in 2 ms
    ok    node n2:         reached in 2 ms
    ok    node nas:        through the coordinator
    ");
}
