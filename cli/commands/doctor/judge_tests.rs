//! Where the lines are: fine, a risk, a failure.

use super::*;

fn weight(finding: &Finding) -> (Weight, String) {
    let told = serde_json::to_value(finding.record()).unwrap();
    (finding.result, told["message"].as_str().unwrap().to_owned())
}

fn node() -> NodeInfo {
    serde_json::from_value(serde_json::json!({
        "name": "n1", "id": "n1", "url": "http://127.0.0.1:1", "kind": "builtin", "zone": "z", "access": "direct",
        "state": "online", "used_bytes": 0, "reclaimable_bytes": 0, "capacity_bytes": 1000 << 20, "chunks": 0,
        "load_permille": 0, "latency_ms": 1, "last_seen": null, "version": "bytenode 0.1.0",
    }))
    .unwrap()
}

#[test]
fn a_minute_between_clocks_is_a_risk_and_five_are_a_failure() {
    let own = |ahead, unsure| weight(&own_clock(ahead, unsure));
    assert_eq!(own(0, 0), (Weight::Ok, "within 1 s of the coordinator's".to_owned()));
    assert_eq!(own(59_999, 0).0, Weight::Ok);
    assert_eq!(own(60_000, 0), (Weight::Risk, "this machine's clock is 60 seconds behind the coordinator's".into()));
    assert_eq!(own(-60_000, 0).1, "this machine's clock is 60 seconds ahead of the coordinator's");
    // The way there took long, so that less is certain.
    assert_eq!(own(61_000, 2_000).0, Weight::Ok);
    assert_eq!(own(299_999, 0).0, Weight::Risk);
    assert_eq!(own(-300_000, 0).0, Weight::Failed);
    assert_eq!(own(i64::MIN, 0).0, Weight::Failed);
    let theirs = |ms| node_clock(&NodeInfo { clock_skew_ms: ms, ..node() }).map(|found| weight(&found));
    assert_eq!(theirs(None), None);
    assert_eq!(theirs(Some(-400)), Some((Weight::Ok, "clock within 1 s".to_owned())));
    assert_eq!(theirs(Some(60_500)).unwrap().0, Weight::Risk);
    let off = "its clock is 6 minutes behind the coordinator's; what is permitted by date is refused";
    assert_eq!(theirs(Some(-360_600)), Some((Weight::Failed, off.to_owned())));
}

#[test]
fn versions_that_differ_are_a_risk_and_an_old_kubo_a_failure() {
    assert_eq!(version("0.1.0", "0.1.0").result, Weight::Ok);
    assert_eq!(version("0.1.0", "0.2.0").result, Weight::Risk);
    let of = |kind, told: Option<&str>| {
        let node = NodeInfo { kind, version: told.map(str::to_owned), ..node() };
        node_version(&node, "0.1.0", false).map(|found| found.result)
    };
    assert_eq!(of(NodeKind::Builtin, Some("bytenode 0.1.0")), Some(Weight::Ok));
    assert_eq!(of(NodeKind::Builtin, Some("bytenode 0.0.9")), Some(Weight::Risk));
    assert_eq!(of(NodeKind::Builtin, None), None);
    assert_eq!(of(NodeKind::Memory, Some("x")), None);
    for (told, expected) in [
        ("kubo 0.42.0", Weight::Ok),
        ("kubo 0.33.0-rc1", Weight::Ok),
        ("kubo 1.0.0", Weight::Ok),
        ("kubo 0.32.1", Weight::Failed),
        ("kubo", Weight::Risk),
        ("kubo x.y", Weight::Risk),
    ] {
        assert_eq!(of(NodeKind::Kubo, Some(told)), Some(expected), "{told}");
    }
}

#[test]
fn a_catalog_needs_room_for_a_copy_of_itself() {
    let disk = |catalog_bytes, free_bytes| catalog_disk(&CatalogDisk { catalog_bytes, free_bytes }, None).result;
    assert_eq!(disk(0, 1 << 30), Weight::Ok);
    assert_eq!(disk(0, (1 << 30) - 1), Weight::Risk);
    assert_eq!(disk(0, 256 << 20), Weight::Risk);
    assert_eq!(disk(0, (256 << 20) - 1), Weight::Failed);
    assert_eq!(disk(1 << 30, 2 << 30), Weight::Ok);
    assert_eq!(disk(1 << 30, (2 << 30) - 1), Weight::Risk);
    assert_eq!(disk(u64::MAX, u64::MAX), Weight::Ok);
    let hint =
        serde_json::to_value(catalog_disk(&CatalogDisk { catalog_bytes: 0, free_bytes: 0 }, Some("/d")).record());
    assert_eq!(hint.unwrap()["hint"], "make room on the disk of /d; what fills it: du -xh /d | sort -h | tail");
}

#[test]
fn a_node_is_nearly_full_by_its_share_or_by_its_disk() {
    let room = |used_mib: u64, free_mib: Option<u64>| {
        let (used_bytes, free_bytes) = (used_mib << 20, free_mib.map(|mib| mib << 20));
        weight(&node_room(&NodeInfo { used_bytes, free_bytes, ..node() }).unwrap())
    };
    assert_eq!(room(0, None), (Weight::Ok, "0% full".to_owned()));
    assert_eq!(room(900, Some(5000)), (Weight::Ok, "90% full".to_owned()));
    assert_eq!(room(910, None).0, Weight::Risk);
    assert_eq!(room(0, Some(20)), (Weight::Risk, "98% full: it takes 20.0 MiB more of 1000.0 MiB".to_owned()));
    assert!(node_room(&NodeInfo { state: NodeState::Full, ..node() }).is_none(), "its state says so");
    assert!(node_room(&NodeInfo { capacity_bytes: 0, ..node() }).is_none());
}

#[test]
fn few_open_files_are_a_risk() {
    assert_eq!(open_files(Some(1023)).result, Weight::Risk);
    assert_eq!(open_files(Some(1024)).result, Weight::Ok);
    assert_eq!(open_files(None).result, Weight::Ok);
}

#[test]
fn risks_of_a_node_are_told_as_its_test_tells_them() {
    let check = |check: &str, result| NodeCheck {
        check: check.to_owned(),
        result,
        message: "m".to_owned(),
        hint: Some("h".to_owned()),
    };
    assert!(risks(&[]).is_empty());
    let fine = risks(&[check("sync", CheckResult::Ok)]);
    assert_eq!(fine.iter().map(weight).collect::<Vec<_>>(), [(Weight::Ok, "no risk found".to_owned())]);
    let bad = [check("sync", CheckResult::Ok), check("gc", CheckResult::Risk), check("version", CheckResult::Failed)];
    assert_eq!(risks(&bad).iter().map(weight).collect::<Vec<_>>(), [(Weight::Risk, "m".to_owned())]);
}
