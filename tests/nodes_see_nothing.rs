//! Nodes hold private files without learning what is in them or what they are called.

use std::fs;
use std::path::Path;

use crate::support::cluster::{Cluster, bytes};
use crate::support::kubo::Kubo;

/// Recognisable wherever it shows: in content, in names of files, of directories, and in paths.
const SECRET: &[u8] = b"qXv7-plainly-readable-Zk3";

/// Files below a directory in which the secret shows, in a name or in the bytes.
fn seen(dir: &Path, bytes_read: &mut u64, found: &mut Vec<String>) {
    let has = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET);
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        if has(entry.file_name().as_encoded_bytes()) {
            found.push(format!("name of {}", path.display()));
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            seen(&path, bytes_read, found);
        } else if kind.is_file() {
            let content = fs::read(&path).unwrap();
            *bytes_read += content.len() as u64;
            if has(&content) {
                found.push(path.display().to_string());
            }
        }
    }
}

fn look(dir: &Path) -> (u64, Vec<String>) {
    let (mut bytes_read, mut found) = (0, Vec::new());
    seen(dir, &mut bytes_read, &mut found);
    (bytes_read, found)
}

#[test]
fn neither_content_nor_names() {
    let user = Cluster::up(3);
    let kubo = Kubo::start(&[]);
    if let Some(kubo) = &kubo {
        user.ok(&["admin", "node", "add", &kubo.api, "--name", "kubo"]);
    }
    let secret = std::str::from_utf8(SECRET).unwrap();
    let large = [SECRET, &bytes(1, 2_500_000), SECRET, &bytes(2, 500_000), SECRET].concat();
    user.file(&format!("{secret}/{secret}-large"), &large);
    user.file(&format!("{secret}/only"), SECRET);
    user.file(&format!("{secret}/sub-{secret}/{secret}"), &SECRET.repeat(1000));
    let copies = if kubo.is_some() { "4" } else { "3" };
    user.ok(&["put", secret, "bn:/", "--replicas", copies]);
    user.ok(&["get", &format!("bn:/{secret}"), "back"]);
    assert_eq!(user.read(&format!("back/{secret}-large")), large);

    let dirs = user.nodes().into_iter().map(|node| node.data).chain(kubo.as_ref().map(|kubo| kubo.path().to_owned()));
    for dir in dirs {
        let (bytes_read, found) = look(&dir);
        assert!(bytes_read > large.len() as u64, "every node has every chunk: {} {bytes_read}", dir.display());
        assert!(found.is_empty(), "{found:?}");
    }
    // The search itself finds what is there: a public file, on the same nodes.
    user.file("public", SECRET);
    user.ok(&["put", "public", "bn:/", "--public"]);
    assert!(user.nodes().iter().any(|node| !look(&node.data).1.is_empty()));
}
