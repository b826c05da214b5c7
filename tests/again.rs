//! Again means again, by real processes: what was killed or interrupted in the middle of a tree is run again with the
//! same words, finishes, and sends or fetches what is missing.
//!
//! A process is known to be in the middle by what it has done, never by how long it ran: one whose standard output
//! nobody reads has to stop when the pipe is full, and one whose node is stopped cannot go on.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::cluster::{Cluster, Guarded, Ran, bytes, signal, wait_for};

/// More JSON lines than a pipe, and the files in flight, could hold.
const FILES: u64 = 3000;
/// Bytes of each file, and of its chunk when it is sealed.
const LENGTH: u64 = 4096;
const SEALED: u64 = LENGTH + 16;

fn guarded(user: &Cluster, words: &[&str]) -> Guarded {
    Guarded(user.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn small_files(user: &Cluster, count: u64) {
    for number in 0..count {
        user.file(&format!("tree/{}/{number}", number / 500), &bytes(number, 4096));
    }
}

/// What each signal makes of a process that it meets in the middle.
fn ended(with: Signal, ran: &Ran) {
    let said = ran.text() + &ran.stderr;
    let code = match with {
        Signal::KILL => 128 + 9,
        Signal::INT => 130,
        _ => 143,
    };
    assert_eq!(ran.code, code, "{said}");
    assert!(with == Signal::KILL || said.contains("hint: run the same command again"), "{said}");
}

fn a_put_of_a_tree_goes_on_after(with: Signal) {
    let user = Cluster::up(1);
    small_files(&user, FILES);
    let words = ["--json", "put", "tree", "bn:/", "--replicas", "1"];
    let mut put = guarded(&user, &words);
    assert!(put.first_line().contains(r#""type":"file""#));
    // From here on nobody reads. It cannot have finished: the lines do not fit into the pipe.
    signal(&put.0, with);
    ended(with, &put.end());

    let again = user.summary(&words[1..]);
    let (files, unchanged) = (again["files"].as_u64().unwrap(), again["unchanged"].as_u64().unwrap());
    assert!(files > 0 && unchanged > 0 && files + unchanged == FILES, "{again}");
    assert!(again["sent_bytes"].as_u64().unwrap() <= files * SEALED, "{again}");
    assert!(again["resumed_bytes"].as_u64().unwrap() >= unchanged * LENGTH, "{again}");
    let third = user.summary(&words[1..]);
    assert_eq!((&third["unchanged"], &third["sent_bytes"]), (&FILES.into(), &0.into()), "{third}");
    assert_eq!(third["resumed_bytes"], 0, "the second run ended: {third}");
    assert_eq!(user.summary(&["check", "tree", "bn:/tree"])["differences"], 0);
    assert_eq!(user.summary(&["admin", "health"])["verdict"], "healthy");
}

#[test]
fn a_killed_put_of_a_tree_goes_on() {
    a_put_of_a_tree_goes_on_after(Signal::KILL);
}

#[test]
fn an_interrupted_put_of_a_tree_goes_on() {
    a_put_of_a_tree_goes_on_after(Signal::INT);
}

/// Temporary files below a directory.
fn parts(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| if path.is_dir() { parts(&path) } else { vec![path] };
    paths.flat_map(of).filter(|path| path.extension().is_some_and(|end| end == "bytenode-part")).collect()
}

fn a_get_of_a_tree_goes_on_after(with: Signal) {
    const SMALL: u64 = 400;
    let user = Cluster::up(1);
    small_files(&user, SMALL);
    // Files come in groups of some 64 MiB: the small ones with the first large one, then the second.
    for (name, mebibytes) in [("tree/large1", 70_u64), ("tree/large2", 200)] {
        let mut large = File::create_new(user.work().join(name)).unwrap();
        for number in 0..mebibytes {
            large.seek(SeekFrom::Start(number << 20)).unwrap();
            large.write_all(&(number + 1).to_le_bytes()).unwrap();
        }
    }
    user.ok(&["put", "tree", "bn:/", "--replicas", "1"]);
    let (words, back) = (["get", "bn:/tree", "back"], user.work().join("back"));
    let mut get = guarded(&user, &words);
    let begun =
        |part: &PathBuf| part.to_str().unwrap().contains(".large2.") && part.metadata().is_ok_and(|m| m.len() > 0);
    wait_for("some of the last file", || parts(&back).iter().any(begun));
    user.member("n1").signal(Signal::STOP);
    assert!(!back.join("large2").exists(), "it was too quick for this test");
    signal(&get.0, with);
    ended(with, &get.end());
    user.member("n1").signal(Signal::CONT);
    let left: u64 = parts(&back).iter().map(|part| part.metadata().unwrap().len()).sum();
    assert!(left > 0, "what was fetched of it stays");

    let again = Ran::of(user.command(&[&["--json"][..], &words].concat()).output().unwrap());
    let (told, again) = (again.stderr.clone(), again.lines().pop().unwrap());
    assert_eq!((&again["files"], &again["unchanged"]), (&1.into(), &(SMALL + 1).into()), "{again}");
    let resumed = again["resumed_bytes"].as_u64().unwrap();
    assert!(resumed > 0 && resumed <= left && resumed.is_multiple_of(1 << 20), "{left} bytes were left: {again}");
    assert!(told.contains(" of 199.0 MiB already here ("), "{told}");
    assert_eq!(parts(&back), [] as [&Path; 0]);
    assert_eq!(user.summary(&["check", "back", "bn:/tree"])["differences"], 0);
}

#[test]
fn a_killed_get_of_a_tree_goes_on() {
    a_get_of_a_tree_goes_on_after(Signal::KILL);
}

#[test]
fn an_interrupted_get_of_a_tree_goes_on() {
    a_get_of_a_tree_goes_on_after(Signal::INT);
}

#[test]
fn a_terminated_get_of_a_tree_goes_on() {
    a_get_of_a_tree_goes_on_after(Signal::TERM);
}
