//! `demo`, the first thing that anybody runs: it works with the executable alone, and leaves nothing behind.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::cluster::{Cluster, Guarded, Ran, bytes, processes_with, wait_for};

#[test]
fn the_executable_alone_tells_the_whole_story() {
    let user = Cluster::none();
    let alone = tempfile::tempdir().unwrap();
    let executable = alone.path().join("bytenode");
    fs::copy(env!("CARGO_BIN_EXE_bytenode"), &executable).unwrap();
    fs::write(alone.path().join("film.bin"), bytes(1, 5_000_000)).unwrap();

    let mut command = Command::new(&executable);
    user.environment(&mut command).args(["--json", "demo", "film.bin", "--nodes", "5"]).current_dir(alone.path());
    let ran = Ran::of(command.stdin(Stdio::null()).output().unwrap());
    assert_eq!(ran.code, 0, "{}{}", ran.text(), ran.stderr);
    let lines = ran.lines();
    let steps: Vec<&str> = lines.iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(steps, ["start", "put", "stat", "get", "compare", "repair", "stat", "copies"]);
    assert!(lines.iter().all(|line| line["ok"] == true), "{lines:?}");

    assert!(processes_with(executable.to_str().unwrap()).is_empty());
    assert_eq!(fs::read_dir(user.work()).unwrap().count(), 0, "temporary directories are left");
    assert_eq!(fs::read_dir(alone.path()).unwrap().count(), 2, "something is left beside the executable");
    assert!(!user.state_file().exists(), "the user's own pool is not touched");
}

/// Killed in the middle it can clean nothing up, but its processes must not outlive it.
#[test]
fn a_killed_demo_leaves_no_process() {
    let user = Cluster::none();
    user.file("film.bin", &bytes(2, 1_000_000));
    let command = &mut user.command(&["--json", "demo", "film.bin"]);
    let mut demo = Guarded(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let line = demo.first_line();
    assert!(line.contains("\"start\""), "{line}");
    let ours = user.work();
    assert!(processes_with(ours.to_str().unwrap()).len() >= 6, "a coordinator and five nodes");
    drop(demo);
    wait_for("the end of every process of the demo", || processes_with(ours.to_str().unwrap()).is_empty());
}
