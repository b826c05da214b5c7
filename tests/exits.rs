//! Exit codes are a contract with scripts: one case for each that can be brought about from outside.

use std::fs;
use std::path::PathBuf;

use crate::support::cluster::{Cluster, bytes};

/// The code of the last JSON line must be that of the process.
fn fails(user: &Cluster, exit: i32, arguments: &[&str]) {
    let (lines, code) = user.json(arguments);
    assert_eq!(code, exit, "{arguments:?}: {lines:?}");
    let last = lines.last().unwrap();
    assert!(last["type"] == "summary" || last["exit"] == exit, "{last}");
    assert_ne!(last["message"], "", "{last}");
}

#[test]
fn one_for_each_way_to_fail() {
    let user = Cluster::up(3);
    user.file("a", &bytes(1, 2_500_000));
    user.file("b", b"b");
    user.file("dir/a", b"another a");
    user.ok(&["put", "a", "b", "bn:/"]);

    fails(&user, 2, &["put", "a", "dir/a", "bn:/"]);
    fails(&user, 2, &["rm", "-r", "bn:/"]);
    fails(&user, 3, &["put", "a", "nowhere", "bn:/new/"]);
    fails(&user, 5, &["put", "nowhere", "bn:/"]);
    fails(&user, 5, &["get", "bn:/nowhere"]);
    fails(&user, 5, &["ls", "bn:/nowhere"]);
    fails(&user, 6, &["put", "b", "bn:/a"]);
    fails(&user, 6, &["mv", "bn:/a", "bn:/b"]);
    fails(&user, 6, &["get", "bn:/a", "b"]);
    assert_eq!(user.read("b"), b"b", "never is the default");
    fails(&user, 10, &["put", "dir/a", "bn:/four", "--replicas", "4"]);
    let mut command = user.command(&["ls"]);
    let output = command.env("BYTENODE_TOKEN", "bnt_0000000000000000000000000000000000000000000").output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));

    user.kill("n3");
    user.file("c", &bytes(2, 2_500_000));
    fails(&user, 10, &["put", "c", "bn:/"]);
    fails(&user, 12, &["admin", "health", "--dry-run"]);
    fails(&user, 0, &["get", "bn:/a", "a2"]);
    user.kill("n2");
    user.file("d", &bytes(4, 2_500_000));
    fails(&user, 7, &["put", "d", "bn:/"]);
    fails(&user, 5, &["stat", "bn:/d"]);
    user.kill("n1");
    fails(&user, 7, &["get", "bn:/a", "a3"]);
    assert!(!user.work().join("a3").exists(), "half a file");
    user.kill("coordinator");
    fails(&user, 7, &["ls"]);
    let ran = user.run(&["ls"]);
    assert!(ran.stderr.contains("hint: bytenode up"), "{}", ran.stderr);

    user.ok(&["up"]);
    user.ok(&["get", "bn:/a", "a3"]);
    assert_eq!(user.read("a3"), user.read("a"));
    assert_eq!(user.read("a2"), user.read("a"));
}

#[test]
fn one_node_is_too_few_for_copies() {
    let user = Cluster::up(1);
    user.file("a", b"a");
    fails(&user, 9, &["put", "a", "bn:/"]);
    let ran = user.run(&["put", "a", "bn:/"]);
    assert!(ran.stderr.contains("--replicas 1") || ran.stderr.contains("admin node add"), "{}", ran.stderr);
    user.ok(&["put", "a", "bn:/", "--replicas", "1"]);
}

/// Wrong bytes on every node are never handed out, and are told as what they are.
#[test]
fn wrong_bytes_everywhere_are_an_integrity_failure() {
    let user = Cluster::up(2);
    user.file("a", &bytes(3, 1_500_000));
    user.ok(&["put", "a", "bn:/", "--replicas", "2"]);
    for node in user.nodes() {
        for file in files_below(&node.data.join("packs")) {
            let mut content = fs::read(&file).unwrap();
            if content.len() > 100_000 {
                let middle = content.len() - 50_000;
                content[middle] ^= 1;
                fs::write(&file, content).unwrap();
            }
        }
    }
    fails(&user, 8, &["get", "bn:/a", "back"]);
    assert!(!user.work().join("back").exists(), "half a file");
    let cat = user.run(&["cat", "bn:/a"]);
    assert_eq!(cat.code, 8, "{}", cat.stderr);
    assert!(user.read("a").starts_with(&cat.stdout), "only verified bytes are written");
}

/// All files below a directory.
fn files_below(dir: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
