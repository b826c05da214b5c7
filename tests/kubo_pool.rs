//! A pool of real Kubo daemons, from registration to garbage collection, through the executable alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use bytenode::chunk::FileHash;
use serde_json::{Value, json};

use crate::support::cluster::{Cluster, bytes, hashed};
use crate::support::kubo::Kubo;

/// `ipfs` on a running daemon; standard output.
fn ipfs(kubo: &Kubo, arguments: &[&str]) -> String {
    let output = kubo.command().args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn pins(kubo: &Kubo) -> BTreeSet<String> {
    ipfs(kubo, &["pin", "ls", "--type=recursive", "-q"]).lines().map(str::to_owned).collect()
}

fn node(user: &Cluster, name: &str) -> Value {
    let (lines, _) = user.json(&["admin", "node", "ls"]);
    let found = lines.iter().find(|line| line["name"] == name);
    found.unwrap_or_else(|| panic!("no node {name}: {lines:?}")).clone()
}

/// Three daemons, each registered in another way.
fn three(user: &Cluster) -> Option<[Kubo; 3]> {
    let kubos = [Kubo::start(&[])?, Kubo::start(&[])?, Kubo::start(&[])?];
    let port = |kubo: &Kubo| kubo.api.rsplit(':').next().unwrap().to_owned();
    user.ok(&["admin", "node", "add", &format!("/ip4/127.0.0.1/tcp/{}", port(&kubos[0])), "--name", "k1"]);
    user.ok(&["admin", "node", "add", &format!("127.0.0.1:{}", port(&kubos[1])), "--name", "k2"]);
    let mut command = user.command(&["admin", "node", "add", "--name", "k3"]);
    let output = command.env("IPFS_PATH", kubos[2].path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(kubos)
}

#[test]
fn a_tree_lives_and_goes_on_three_daemons() {
    let user = Cluster::up(0);
    let Some([one, two, three]) = three(&user) else { return };
    for name in ["k1", "k2", "k3"] {
        let node = node(&user, name);
        assert_eq!((&node["kind"], &node["state"]), (&json!("kubo"), &json!("online")), "{node}");
    }
    let foreign = user.file("foreign", &bytes(9, 700_000));
    let foreign = ipfs(&three, &["add", "-Q", "--cid-version=1", foreign.to_str().unwrap()]).trim().to_owned();
    let before = [&one, &two, &three].map(pins);

    user.file("tree/large", &bytes(1, 5_000_000));
    user.file("tree/small", b"small");
    user.file("kept", &bytes(2, 2_000_000));
    user.ok(&["put", "tree", "kept", "bn:/"]);
    assert!([&one, &two, &three].iter().zip(&before).all(|(kubo, before)| pins(kubo).is_superset(before)));
    assert!(pins(&two).len() > before[1].len());

    // The same daemon under another address is the same node.
    let port = one.api.rsplit(':').next().unwrap();
    let again = user.run(&["admin", "node", "add", &format!("http://localhost:{port}"), "--name", "k9"]);
    let nodes = user.summary(&["admin", "node", "ls"]);
    assert_eq!(nodes["nodes"], 3, "{}", again.stderr);
    assert_eq!(node(&user, "k9")["chunks"], node(&user, "k2")["chunks"], "it has kept what it had, and all have all");

    user.ok(&["rm", "-r", "bn:/tree"]);
    let swept = user.summary(&["admin", "gc", "--now"]);
    let kept = [&one, &two, &three].map(pins);
    let reclaimable = node(&user, "k9")["reclaimable_bytes"].as_u64().unwrap();
    assert!(reclaimable > 1_000_000, "{reclaimable}, {swept}, {}", node(&user, "k9"));
    user.ok(&["get", "bn:/kept", "back"]);
    user.ok(&["admin", "node", "test", "--all"]);
    for kubo in [&one, &two, &three] {
        ipfs(kubo, &["repo", "gc", "-q"]);
    }
    let left = node(&user, "k9")["reclaimable_bytes"].as_u64().unwrap();
    // Kubo counts its own database, which grows with every pin, among what its repository uses.
    assert!(left < 300_000, "{left}");
    user.ok(&["get", "bn:/kept", "after-gc"]);
    assert_eq!(user.read("after-gc"), user.read("kept"));
    user.ok(&["rm", "bn:/kept"]);
    user.ok(&["admin", "gc", "--now"]);
    for ((kubo, before), kept) in [&one, &two, &three].iter().zip(&before).zip(kept) {
        assert_eq!(&pins(kubo), before, "only ours are gone");
        assert!(kept.len() > before.len());
    }
    assert!(pins(&three).contains(&foreign));
    ipfs(&three, &["refs", &foreign]);
}

#[test]
fn one_daemon_less_costs_a_notice() {
    let user = Cluster::up(0);
    let Some([one, two, three]) = three(&user) else { return };
    user.file("tree/large", &bytes(1, 5_000_000));
    user.file("tree/small", b"small");
    user.ok(&["put", "tree", "bn:/"]);
    drop(two);
    user.ok(&["get", "bn:/tree", "back"]);
    assert_eq!(user.read("back/large"), user.read("tree/large"));
    assert_eq!(user.read("back/small"), b"small");
    user.exits(12, &["admin", "health", "--dry-run"]);
    drop((one, three));
    user.exits(7, &["get", "bn:/tree/large", "never"]);
}

/// The root CID that `ipfs add` gives with the settings of `unixfs-v1-2025`.
fn added(kubo: &Kubo, path: &Path) -> String {
    let settings = ["add", "-Q", "--only-hash", "--cid-version=1", "--raw-leaves", "--chunker=size-1048576"];
    let links = ["--max-file-links=1024", path.to_str().unwrap()];
    ipfs(kubo, &[&settings[..], &links[..]].concat()).trim().to_owned()
}

#[test]
fn public_files_are_what_ipfs_would_make_of_them() {
    const MIB: usize = 1 << 20;
    let user = Cluster::up(0);
    let Some(kubo) = Kubo::start(&[]) else { return };
    user.ok(&["admin", "node", "add", &kubo.api, "--name", "k1"]);
    let sparse = user.work().join("sparse");
    File::create(&sparse).unwrap().set_len(1025 << 20).unwrap();
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB] {
        user.file(&format!("f{size}"), &bytes(size as u64, size));
    }
    let names: Vec<String> = fs::read_dir(user.work())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name == "sparse" || name.starts_with('f'))
        .collect();
    assert_eq!(names.len(), 7);
    for name in names {
        let remote = format!("bn:/{name}");
        let (lines, code) = user.json(&["put", &name, &remote, "--public", "--replicas", "1"]);
        assert_eq!(code, 0, "{lines:?}");
        let cid = lines[0]["cid"].as_str().unwrap_or_else(|| panic!("no CID: {lines:?}"));
        assert_eq!(cid, added(&kubo, &user.work().join(&name)), "{name}");
        if name == "sparse" {
            // More links than one node has: 1,025 of one leaf, two interior nodes, and their root.
            assert!(lines[0]["new_chunks"].as_u64().unwrap() <= 4, "{}", lines[0]);
        }
        let served = served(&format!("{}/ipfs/{cid}", kubo.gateway));
        assert_eq!(served, hashed(File::open(user.work().join(&name)).unwrap()), "{name}");
    }
}

/// Length and SHA-256 of what a gateway serves.
fn served(url: &str) -> (u64, [u8; 32]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut answer = reqwest::get(url).await.unwrap();
        assert!(answer.status().is_success(), "{url}: {}", answer.status());
        let (mut length, mut hash) = (0, FileHash::new());
        while let Some(piece) = answer.chunk().await.unwrap() {
            length += piece.len() as u64;
            hash.update(&piece);
        }
        (length, hash.finish())
    })
}

#[test]
fn a_protected_interface_needs_its_secret() {
    let user = Cluster::up(0);
    let secret = json!({"bytenode": {"AuthSecret": "bearer:kubo-secret-1", "AllowedPaths": ["/api/v0"]}});
    let Some(kubo) = Kubo::start(&[("API.Authorizations", secret)]) else { return };
    let refused = user.run(&["admin", "node", "add", &kubo.api]);
    assert_ne!(refused.code, 0);
    let said = refused.text() + &refused.stderr;
    assert!(said.contains("--token-file"), "{said}");
    let file = user.file("token", b"bearer:kubo-secret-1\n");
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    user.ok(&["admin", "node", "add", &kubo.api, "--name", "k1", "--token-file", "token"]);
    user.file("a", &bytes(3, 1_500_000));
    user.ok(&["put", "a", "bn:/", "--replicas", "1"]);
    user.ok(&["get", "bn:/a", "back"]);
    assert_eq!(user.read("back"), user.read("a"));
    let wrong = user.file("wrong", b"bearer:another\n");
    fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let refused = user.run(&["admin", "node", "add", &kubo.api, "--token-file", "wrong"]);
    assert_ne!(refused.code, 0);
    assert!(!(refused.text() + &refused.stderr).contains("another"), "the secret is not shown");
}

/// Needs no Kubo: nothing listens there.
#[test]
fn a_refused_connection_says_what_to_set() {
    let user = Cluster::up(0);
    let refused = user.run(&["admin", "node", "add", "http://127.0.0.1:1"]);
    assert_ne!(refused.code, 0);
    let said = refused.text() + &refused.stderr;
    for words in ["API.Authorizations", "Addresses.API", "ssh -L"] {
        assert!(said.contains(words), "{words} is not in:\n{said}");
    }
}
