//! A pool's life as its user sees it: started twice, killed, interrupted, stalled; and what reaches which stream.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::cluster::{Cluster, Guarded, Member, Ran, bytes, processes_with, signal, wait_for};

/// Within this time of its last progress a put or get has to end, whatever the nodes do.
const LIMIT: Duration = Duration::from_secs(30);

fn pids(members: &[Member]) -> Vec<u32> {
    members.iter().map(|member| member.pid).collect()
}

#[test]
fn up_again_after_everything_was_killed() {
    let user = Cluster::up(3);
    user.file("a", &bytes(1, 2_500_000));
    user.ok(&["put", "a", "bn:/"]);
    let before = user.members();
    user.ok(&["up"]);
    assert_eq!(pids(&user.members()), pids(&before), "what runs is left alone");

    before.iter().for_each(Member::kill);
    user.ok(&["up"]);
    let after = user.members();
    assert!(after.iter().zip(&before).all(|(new, old)| new.runs() && new.pid != old.pid));
    user.ok(&["get", "bn:/a", "back"]);
    assert_eq!(user.read("back"), user.read("a"));
    let health = user.summary(&["admin", "health", "--read"]);
    assert_eq!(health["verdict"], "healthy", "{health}");

    // Only what is missing is started.
    user.kill("n2");
    user.ok(&["up", "--nodes", "4"]);
    let grown = user.members();
    assert_eq!(grown.len(), 5);
    let same: Vec<bool> = grown.iter().zip(&after).map(|(new, old)| new.pid == old.pid).collect();
    assert_eq!(same, [true, true, false, true], "coordinator, n1, n2, n3");
    let fewer = user.ok(&["up", "--nodes", "2"]);
    assert!(fewer.stderr.contains("4 nodes already"), "{}", fewer.stderr);
    assert_eq!(user.members().len(), 5);
}

#[test]
fn two_at_once_make_one_pool() {
    let user = Cluster::none();
    let start = || user.command(&["up", "--nodes", "2"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let both = [start(), start()].map(|child| Ran::of(child.wait_with_output().unwrap()));
    assert!(both.iter().all(|ran| ran.code == 0), "{both:?}");
    let nodes = user.summary(&["admin", "node", "ls"]);
    assert_eq!(nodes["nodes"], 2);
    assert_eq!(user.members().len(), 3);
    assert!(user.members().iter().all(Member::runs));
}

/// `up` waited for a new process before it wrote it down: killed meanwhile, it left one that `down` never found.
#[test]
fn an_up_that_is_cut_short_leaves_no_process_behind() {
    // Whoever runs this with `nohup` has every child ignore a hang-up.
    let hang_up = if is_ignored(Signal::HUP) { Signal::TERM } else { Signal::HUP };
    for (how, processes) in [(Signal::KILL, 1), (Signal::INT, 1), (Signal::KILL, 3), (hang_up, 3), (Signal::TERM, 2)] {
        let user = Cluster::none();
        let mut up = user.command(&["up", "--nodes", "3"]);
        let mut up = Guarded(up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let data = user.data();
        let ours = || processes_with(data.to_str().unwrap());
        wait_for("a process", || ours().len() >= processes);
        signal(&up.0, how);
        assert!(!up.0.wait().unwrap().success(), "{how:?}");
        let known = || user.members().iter().map(|member| member.pid).collect::<Vec<_>>();
        wait_for("the end of what is not written down", || ours().iter().all(|pid| known().contains(pid)));
        user.ok(&["up", "--nodes", "3"]);
        assert_eq!(ours().len(), 4, "{how:?}");
        user.ok(&["down"]);
        assert!(ours().is_empty(), "{how:?}");
    }
}

/// Whether this process, and so each that it starts, ignores a signal. Where that cannot be known it does not.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw() - 1) & 1 == 1
}

/// Nodes that hang were waited for before anything was served, one limit after the other, for as long as `up` waits.
#[test]
fn a_coordinator_starts_though_a_node_hangs() {
    let user = Cluster::up(1);
    user.kill("coordinator");
    user.member("n1").signal(Signal::STOP);
    let data = user.member("coordinator").data;
    let mut command = user.command(&["internal-coordinator", "--listen", "127.0.0.1:0", "--stop-on-eof", "--data"]);
    command.arg(data).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let begun = Instant::now();
    let mut coordinator = Guarded(command.spawn().unwrap());
    let line = coordinator.first_line();
    assert!(line.starts_with("http://"), "{line:?}");
    assert!(begun.elapsed() < LIMIT / 3, "it took {:?}", begun.elapsed());
}

/// Two pools of two users: neither sees nor stops the other's processes.
#[test]
fn down_stops_only_its_own() {
    let (one, two) = (Cluster::up(2), Cluster::up(2));
    let urls: Vec<String> = one.members().into_iter().chain(two.members()).map(|member| member.url).collect();
    assert_eq!(urls.iter().collect::<std::collections::HashSet<_>>().len(), 6, "{urls:?}");
    let ran = one.ok(&["down"]);
    assert!(ran.stderr.contains("Stopped 3 processes"), "{}", ran.stderr);
    assert!(one.members().iter().all(|member| !member.runs()));
    assert!(two.members().iter().all(Member::runs));
    assert_eq!(one.exits(0, &["down"]).text(), "");
    one.exits(2, &["down", "--delete-data"]);
    assert!(one.member("n1").data.exists());
    let data = one.member("n1").data;
    let theirs = data.with_file_name("thesis.tex");
    fs::write(&theirs, b"all of it").unwrap();
    let ran = one.ok(&["--yes", "down", "--delete-data"]);
    assert!(!data.exists());
    assert_eq!(fs::read(&theirs).unwrap(), b"all of it", "not ours");
    assert!(ran.stderr.contains(theirs.to_str().unwrap()), "{}", ran.stderr);
    one.exits(7, &["ls"]);
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let user = Cluster::up(1);
    for number in 0..2000 {
        user.file(&format!("many/{number}"), b"");
    }
    user.ok(&["put", "many", "bn:/", "--replicas", "1"]);
    for arguments in [&["ls", "-R"][..], &["--json", "ls", "bn:/many"], &["ls", "-l", "bn:/many"]] {
        let mut command = user.command(arguments);
        let mut child = Guarded(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        assert!(!child.first_line().is_empty());
        drop(child.0.stdout.take());
        let mut said = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.0.wait().unwrap().code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_data_directory_cannot_move_the_cursor() {
    let user = Cluster::none();
    // Right-to-left override: unlike escape sequences, nothing on the way to a pipe strips it.
    let data = user.work().join("a\u{1b}[2J\u{202e}b");
    for ran in [
        user.ok(&["up", "--nodes", "1", "--data", data.to_str().unwrap()]),
        user.ok(&["-v", "up"]),
        user.ok(&["down"]),
        user.ok(&["--yes", "down", "--delete-data"]),
    ] {
        let control = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
        assert!(!control(&ran.text()) && !control(&ran.stderr), "{}{}", ran.text(), ran.stderr);
    }
}

#[test]
fn names_cannot_move_the_cursor() {
    let user = Cluster::up(1);
    let name = "a\u{1b}[2J\nb\u{7f}\u{9b}c";
    user.file(&format!("tree/{name}"), b"x");
    let put = user.ok(&["put", "tree", "bn:/", "--replicas", "1"]);
    let get = user.ok(&["get", "bn:/tree", "back"]);
    assert_eq!(user.read(&format!("back/{name}")), b"x");
    let remote = format!("bn:/tree/{name}");
    let shown = [
        user.ok(&["ls", "-R"]),
        user.ok(&["ls", "-l", "bn:/tree"]),
        user.ok(&["stat", &remote]),
        user.exits(2, &["cp", &remote, "bn:/tree/"]),
    ];
    for ran in [put, get].iter().chain(&shown) {
        let control = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
        assert!(!control(&ran.text()) && !control(&ran.stderr), "{}{}", ran.text(), ran.stderr);
    }
    assert_eq!(user.ok(&["ls", "-R", "--print0"]).text(), format!("tree/\0tree/{name}\0"));
    let (lines, _) = user.json(&["ls", "bn:/tree"]);
    assert_eq!(lines[0]["path"], remote.as_str());
}

/// Chunks that differ, quickly made.
fn counted_file(path: &Path, mebibytes: u64) {
    let mut file = File::create(path).unwrap();
    file.set_len(mebibytes << 20).unwrap();
    for number in 0..mebibytes {
        file.seek(SeekFrom::Start(number << 20)).unwrap();
        file.write_all(&number.to_le_bytes()).unwrap();
    }
}

/// Bytes below a directory.
fn stored(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => stored(&entry.path()),
        _ => entry.metadata().map_or(0, |metadata| metadata.len()),
    };
    entries.flatten().map(of).sum()
}

fn a_put_goes_on_after(with: Signal, streamed: bool) {
    const MEBIBYTES: u64 = 384;
    let user = Cluster::up(1);
    let file = user.work().join("disk.img");
    counted_file(&file, MEBIBYTES);
    let put = |json: &[&'static str]| {
        let mut words = json.to_vec();
        words.extend(["put", if streamed { "-" } else { "disk.img" }, "bn:/disk.img", "--replicas", "1"]);
        let mut command = user.command(&words);
        if streamed {
            command.stdin(fs::File::open(&file).unwrap());
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let child = put(&["--json"]);
    let packs = user.member("n1").data.join("packs");
    wait_for("some packs", || stored(&packs) > 130 << 20);
    signal(&child, with);
    let ran = Ran::of(child.wait_with_output().unwrap());
    if with != Signal::KILL {
        assert_eq!(ran.code, 130, "{}{}", ran.text(), ran.stderr);
        assert_eq!(ran.lines().last().unwrap()["exit"], 130);
        assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
    }
    user.exits(5, &["stat", "bn:/disk.img"]);

    let ran = Ran::of(put(&["--json"]).wait_with_output().unwrap());
    let summary = ran.lines().pop().unwrap();
    assert_eq!(summary["files"], 1, "{summary}");
    let (sent, resumed) = (summary["sent_bytes"].as_u64().unwrap(), summary["resumed_bytes"].as_u64().unwrap());
    // Of what the node had, three windows of 16 MiB may not have been reported yet.
    let reported = (130 - 3 * 16) << 20;
    assert!(sent < (MEBIBYTES << 20) - reported, "{sent} bytes were sent again");
    assert!(resumed >= reported, "{summary}");
    let told = ran.stderr.lines().find(|line| line.starts_with("resumed: ")).expect("it is said");
    if streamed {
        assert!(told.ends_with(" MiB already stored"), "{told}");
    } else {
        assert!(told.contains(" of 384.0 MiB already stored (") && told.ends_with(" %)"), "{told}");
    }
    user.ok(&["get", "bn:/disk.img", "back.img"]);
    let checked = user.summary(&["check", "back.img", "bn:/disk.img"]);
    assert_eq!(checked["differences"], 0, "{checked}");
    let again = Ran::of(put(&[]).wait_with_output().unwrap());
    assert!(again.code == 0 && !again.stderr.contains("resumed"), "{}", again.stderr);
}

#[test]
fn an_interrupted_put_goes_on_when_run_again() {
    a_put_goes_on_after(Signal::INT, false);
}

#[test]
fn a_killed_put_goes_on_when_run_again() {
    a_put_goes_on_after(Signal::KILL, false);
}

#[test]
fn an_interrupted_put_of_a_stream_goes_on_when_run_again() {
    a_put_goes_on_after(Signal::INT, true);
}

/// A node that takes connections and says nothing costs time, never the result.
#[test]
fn a_node_that_hangs_is_passed_by() {
    let user = Cluster::up(4);
    let file = user.file("a", &bytes(7, 6_000_000));
    let before = Instant::now();
    user.ok(&["put", "a", "bn:/before"]);
    let usual = before.elapsed();
    fs::write(&file, bytes(8, 6_000_000)).unwrap();
    user.member("n2").signal(Signal::STOP);
    for arguments in [&["put", "a", "bn:/during"][..], &["get", "bn:/before", "back"]] {
        let begun = Instant::now();
        user.ok(arguments);
        assert!(begun.elapsed() < usual + LIMIT, "{arguments:?} took {:?}", begun.elapsed());
    }
    assert_eq!(user.read("back"), bytes(7, 6_000_000));
    user.member("n2").signal(Signal::CONT);
    user.ok(&["get", "bn:/during", "during"]);
    assert_eq!(user.read("during"), bytes(8, 6_000_000));
}
