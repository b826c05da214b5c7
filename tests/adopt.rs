//! Who is in charge, with real processes: a second coordinator on one data directory, and one on an old copy of its own.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::cluster::{Cluster, Guarded, bytes};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn one_data_directory_has_one_coordinator() {
    let user = Cluster::up(1);
    user.file("a", b"one");
    user.ok(&["put", "--replicas", "1", "a", "bn:/"]);
    let data = user.member("coordinator").data;
    let mut second = user.command(&["internal-coordinator", "--listen", "127.0.0.1:0", "--stop-on-eof", "--data"]);
    second.arg(&data).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = Guarded(second.spawn().unwrap()).end();
    assert_ne!(ran.code, 0);
    let told = format!("another coordinator uses {}", data.display());
    assert!(ran.stderr.contains(&told) && ran.stdout.is_empty(), "{ran:?}");
    assert_eq!(user.ok(&["cat", "bn:/a"]).stdout, b"one");
    assert_eq!(user.summary(&["status"])["read_only"], Value::Null, "it did not so much as begin");
}

#[test]
fn an_old_copy_takes_no_changes_until_it_is_adopted() {
    let user = Cluster::up(3);
    user.file("old", &bytes(1, 2_500_000));
    user.file("new", &bytes(2, 2_500_000));
    user.ok(&["put", "old", "bn:/"]);
    let data = user.member("coordinator").data;
    let before = user.work().join("before");
    user.kill("coordinator");
    copy(&data, &before);
    user.ok(&["up"]);
    user.ok(&["put", "new", "bn:/"]);
    user.kill("coordinator");
    fs::remove_dir_all(&data).unwrap();
    copy(&before, &data);
    user.ok(&["up"]);

    let status = user.exits(12, &["status"]);
    assert!(status.text().contains("The coordinator takes no changes: node n"), "{}", status.text());
    assert!(status.text().contains("bytenode admin adopt"), "{}", status.text());
    let doctor = user.run(&["doctor"]);
    assert!(doctor.code == 12 && doctor.text().contains("bytenode admin adopt"), "{}", doctor.text());
    for refused in [&["put", "new", "bn:/x"][..], &["rm", "bn:/old"], &["mkdir", "bn:/d"], &["admin", "gc", "--now"]] {
        let ran = user.exits(1, refused);
        assert!(ran.stderr.contains("takes no changes"), "{}", ran.stderr);
        assert!(ran.stderr.contains("hint: ") && ran.stderr.contains("bytenode admin adopt"), "{}", ran.stderr);
    }
    assert!(user.ok(&["cat", "bn:/old"]).stdout == user.read("old"));

    let (lines, code) = user.json(&["admin", "adopt", "--dry-run"]);
    assert_eq!((code, lines.len()), (0, 4), "{lines:?}");
    assert!(lines[..3].iter().all(|node| node["unknown_packs"] == 1 && node["epoch"].is_u64()), "{lines:?}");
    let epoch = lines[3]["epoch"].as_u64().unwrap();
    assert_eq!((&lines[3]["adopted"], &lines[3]["unknown_packs"]), (&Value::Bool(false), &Value::from(3)));
    assert!(user.exits(2, &["admin", "adopt"]).stderr.contains("--yes"));
    user.exits(12, &["status"]);
    let adopted = user.summary(&["admin", "adopt", "--yes"]);
    assert!(adopted["adopted"] == true && adopted["epoch"].as_u64().unwrap() > epoch, "{adopted}");

    // What was stored later is not known, and not invented; its packs are reported, and stay.
    user.ok(&["status"]);
    user.exits(5, &["stat", "bn:/new"]);
    user.ok(&["put", "new", "bn:/again"]);
    user.ok(&["admin", "gc", "--now"]);
    let (lines, code) = user.json(&["admin", "health", "--read"]);
    let orphans = lines.iter().filter(|line| line["kind"] == "orphan").count();
    assert_eq!((code, orphans), (0, 3), "{lines:?}");
    assert!(user.ok(&["cat", "bn:/again"]).stdout == user.read("new"));
    user.kill("coordinator");
    user.ok(&["up"]);
    assert_eq!(user.summary(&["status"])["read_only"], Value::Null);
}
