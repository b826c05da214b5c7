//! The roots of public files against `ipfs add`, and what is said where there is no `ipfs`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use bytenode::id::ChunkId;
use bytenode::unixfs::{FileDag, Root, WIDTH};

use crate::support::kubo::{SKIPPED, binary};

const MIB: u64 = 1 << 20;

/// The root of a file of zeros.
fn zeros(size: u64) -> Root {
    let leaf = |length: u64| ChunkId::of(&vec![0; usize::try_from(length).unwrap()]);
    let (mut dag, whole) = (FileDag::new(WIDTH), leaf(MIB));
    for _ in 0..size / MIB {
        dag.leaf(&whole, MIB);
    }
    if !size.is_multiple_of(MIB) {
        dag.leaf(&leaf(size % MIB), size % MIB);
    }
    dag.finish().1
}

fn run(ipfs: &Path, repo: &Path, arguments: &[&str]) -> String {
    let out = Command::new(ipfs).env("IPFS_PATH", repo).args(arguments).output().unwrap();
    assert!(out.status.success(), "ipfs {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

#[test]
fn roots_are_those_of_ipfs_add() {
    let Some(ipfs) = binary() else { return };
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    run(&ipfs, &repo, &["init", "--profile=test"]);
    run(&ipfs, &repo, &["config", "profile", "apply", "unixfs-v1-2025"]);
    let file = dir.path().join("file");
    let name = file.to_str().unwrap();
    let add = |profile: &[&str]| run(&ipfs, &repo, &[&["add", "--only-hash", "--quieter"], profile, &[name]].concat());
    for size in [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 1024 * MIB, 1025 * MIB] {
        File::create(&file).unwrap().set_len(size).unwrap();
        assert_eq!(zeros(size).cid.to_string(), add(&[]), "{size} zeros");
    }
    // Chunks that differ, and more than two levels.
    let bytes: Vec<u8> = (0..300_000u32).flat_map(|at| at.to_be_bytes()).collect();
    File::create(&file).unwrap().write_all(&bytes).unwrap();
    let mut dag = FileDag::new(7);
    for chunk in bytes.chunks(1000) {
        dag.leaf(&ChunkId::of(chunk), chunk.len() as u64);
    }
    assert_eq!(dag.finish().1.cid.to_string(), add(&["--chunker=size-1000", "--max-file-links=7"]));
}

/// Whoever reads the output of `cargo test` sees what was not tested, once, although every test passed.
#[test]
fn without_ipfs_one_line_names_what_was_skipped() {
    let tests = ["roots_are_those_of_ipfs_add", "a_real_kubo_conforms"];
    let nothing = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(tests)
        .env_remove("BYTENODE_TEST_IPFS")
        .env("PATH", nothing.path())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("2 passed"), "{out}{err}");
    let shown = out.to_string() + &err;
    let lines: Vec<&str> = shown.lines().filter(|line| line.contains("skipped for want")).collect();
    assert_eq!(lines, [SKIPPED], "{shown}");
}
