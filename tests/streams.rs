//! Streams through real processes and pipes: of unknown length, cut off, unreadable, and with holes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Child, Command, Stdio};

use bytenode::api::Sha256;
use rustix::process::Signal;

use crate::support::cluster::{Cluster, Guarded, Ran, bytes, hashed, signal, wait_for};

/// Starts a command with both ends of it in our hands.
fn piped(user: &Cluster, arguments: &[&str], input: impl Into<Stdio>) -> Child {
    let mut command = user.command(arguments);
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Feeds a command from a pipe, in pieces of a size that divides nothing.
fn fed(user: &Cluster, arguments: &[&str], content: &[u8]) -> Ran {
    let mut child = piped(user, arguments, Stdio::piped());
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || content.chunks(70_001).try_for_each(|piece| input.write_all(piece)));
        Ran::of(child.wait_with_output().unwrap())
    })
}

/// A window is 16 MiB: this takes several, and ends within a chunk.
#[test]
fn what_goes_in_through_a_pipe_comes_out_through_one() {
    let user = Cluster::up(3);
    let content = bytes(1, (100 << 20) + 12_345);
    let put = fed(&user, &["--json", "put", "-", "bn:/dir/x", "--replicas", "2"], &content);
    assert_eq!(put.code, 0, "{}", put.stderr);
    let lines = put.lines();
    assert_eq!((&lines[0]["size"], &lines[0]["source"]), (&content.len().into(), &"-".into()));
    for arguments in [&["get", "bn:/dir/x", "-"][..], &["cat", "bn:/dir/x"]] {
        let out = user.ok(arguments);
        assert!(out.stdout == content, "{arguments:?} gave {} other bytes", out.stdout.len());
    }
    for (offset, length) in [(0, 1), ((32 << 20) - 1, 2), ((64 << 20) + 7, 40 << 20), (content.len(), 1)] {
        let (from, to) = (offset, (offset + length).min(content.len()));
        let arguments = ["cat", "bn:/dir/x", "--offset", &offset.to_string(), "--length", &length.to_string()];
        assert!(user.ok(&arguments).stdout == content[from..to], "{arguments:?}");
    }
    // What was cut out is what a file of it would be.
    assert_eq!(user.summary(&["check", user.file("x", &content).to_str().unwrap(), "bn:/dir/x"])["differences"], 0);
}

/// Run again with the same words, it has nothing to do; with other content it is refused, whichever is longer.
#[test]
fn the_same_stream_again_is_unchanged() {
    let user = Cluster::up(1);
    let words = ["--json", "put", "-", "bn:/x", "--replicas", "1"];
    let content = bytes(2, 3_000_000);
    assert_eq!(fed(&user, &words, &content).code, 0);
    let again = fed(&user, &words, &content);
    assert_eq!(again.code, 0, "{}", again.stderr);
    let lines = again.lines();
    assert_eq!((&lines[0]["type"], &lines[0]["reason"]), (&"skipped".into(), &"unchanged".into()));
    assert_eq!((&lines[1]["unchanged"], &lines[1]["sent_bytes"]), (&1.into(), &0.into()));
    let longer = [&content[..], b"x"].concat();
    let other = bytes(3, content.len());
    for differs in [&longer[..], &content[1..], &other, b""] {
        assert_eq!(fed(&user, &words, differs).code, 6);
    }
    assert!(user.ok(&["cat", "bn:/x"]).stdout == content);
}

/// A pipe whose writer died looks like one whose writer is done: what came is stored, exactly. A shell's `pipefail`
/// tells the two apart.
#[test]
fn a_writer_that_dies_leaves_what_it_wrote() {
    let user = Cluster::up(1);
    let content = bytes(4, 40 << 20);
    user.file("part", &content);
    let mut command = Command::new("sh");
    let dying = user.environment(&mut command).args(["-c", "cat part; kill -9 $$"]).env("PATH", "/usr/bin:/bin");
    let mut dying = dying.stdout(Stdio::piped()).spawn().unwrap();
    let put = piped(&user, &["put", "-", "bn:/x", "--replicas", "1"], dying.stdout.take().unwrap());
    let put = Ran::of(put.wait_with_output().unwrap());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&dying.wait().unwrap()), Some(9));
    assert_eq!(put.code, 0, "{}", put.stderr);
    assert!(user.ok(&["cat", "bn:/x"]).stdout == content);
}

/// An input that fails is not an input that ends.
#[test]
fn an_input_that_cannot_be_read_stores_nothing() {
    let user = Cluster::up(1);
    let directory = File::open(user.work()).unwrap();
    let put = piped(&user, &["put", "-", "bn:/x", "--replicas", "1"], directory);
    let put = Ran::of(put.wait_with_output().unwrap());
    assert_eq!(put.code, 1, "{}", put.stderr);
    assert!(put.stderr.contains("-: Is a directory"), "{}", put.stderr);
    user.exits(5, &["stat", "bn:/x"]);
}

/// Killed with its pipe open, a put has stored nothing that can be seen.
#[test]
fn a_put_that_dies_shows_nothing() {
    let user = Cluster::up(1);
    let mut put = Guarded(piped(&user, &["put", "-", "bn:/x", "--replicas", "1"], Stdio::piped()));
    let mut input = put.0.stdin.take().unwrap();
    input.write_all(&bytes(5, 80 << 20)).unwrap();
    let packs = user.member("n1").data.join("packs");
    wait_for("a pack on the node", || packs.read_dir().is_ok_and(|mut packs| packs.next().is_some()));
    drop(put);
    user.exits(5, &["stat", "bn:/x"]);
    drop(input);
    user.exits(5, &["stat", "bn:/x"]);
    assert_eq!(user.ok(&["ls"]).text(), "");
}

/// A file with holes comes back with holes: it needs neither its length in the pool nor its length on disk. 1.25 GiB
/// long, and 10 GiB with `BYTENODE_TEST_LONG=1`, which takes two minutes more.
#[test]
fn a_sparse_file_is_sparse_when_it_comes_back() {
    const GIB: u64 = 1 << 30;
    let long = std::env::var_os("BYTENODE_TEST_LONG").is_some();
    let size = if long { 10 * GIB } else { GIB + GIB / 4 } + 5;
    let user = Cluster::up(3);
    let mut file = File::create_new(user.work().join("disk.img")).unwrap();
    file.set_len(size).unwrap();
    // Within a chunk, over the edge of two, and the very end.
    for (seed, offset) in [(1, 0), (2, GIB - 500), (3, size - 1000)] {
        file.seek(SeekFrom::Start(offset)).unwrap();
        file.write_all(&bytes(seed, 1000)).unwrap();
    }
    drop(file);
    let content = hashed(File::open(user.work().join("disk.img")).unwrap());

    let (lines, code) = user.json(&["put", "disk.img", "bn:/", "--replicas", "2"]);
    assert_eq!((code, &lines[0]["sha256"]), (0, &Sha256(content.1).to_string().into()), "{lines:?}");
    assert_eq!((&lines[0]["size"], &lines[0]["new_chunks"]), (&size.into(), &6.into()), "{}", lines[0]);
    let sent = lines[1]["sent_bytes"].as_u64().unwrap();
    assert!(sent < 12 << 20, "{sent}");
    let stat = user.json(&["stat", "bn:/disk.img"]).0;
    assert_eq!((&stat[0]["size"], &stat[0]["chunks"]), (&size.into(), &size.div_ceil(1 << 20).into()));

    user.ok(&["get", "bn:/disk.img", "back.img"]);
    let back = File::open(user.work().join("back.img")).unwrap();
    let metadata = back.metadata().unwrap();
    assert_eq!(hashed(back), content);
    let on_disk = std::os::unix::fs::MetadataExt::blocks(&metadata) * 512;
    assert!(on_disk < 16 << 20, "{on_disk} bytes of the disk");

    for (offset, length) in [(GIB - (50 << 20), 100 << 20), (size - 1500, 2000), (GIB - 600, 200), (700, 1)] {
        let arguments = ["cat", "bn:/disk.img", "--offset", &offset.to_string(), "--length", &length.to_string()];
        let mut file = File::open(user.work().join("disk.img")).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        assert_eq!(hashed(&user.ok(&arguments).stdout[..]), hashed(file.take(length)), "{arguments:?}");
    }
    if long {
        let mut cat = Guarded(piped(&user, &["cat", "bn:/disk.img"], Stdio::null()));
        assert_eq!(hashed(cat.0.stdout.take().unwrap()), content);
        assert!(cat.0.wait().unwrap().success());
    }
}

/// A reader that began before the file was replaced gets the old bytes, all of them, whatever is cleared away meanwhile.
#[test]
fn a_reader_of_the_old_version_gets_it_whole() {
    let user = Cluster::up(1);
    // More than the pipe and what the client fetches ahead: most of it is read when it has been replaced.
    let (old, new) = (bytes(6, 48 << 20), bytes(7, 3 << 20));
    user.file("old", &old);
    user.file("new", &new);
    user.ok(&["put", "old", "bn:/x", "--replicas", "1"]);
    let mut cat = Guarded(piped(&user, &["cat", "bn:/x"], Stdio::null()));
    let (mut output, mut read) = (cat.0.stdout.take().unwrap(), vec![0]);
    output.read_exact(&mut read).unwrap();
    user.ok(&["put", "new", "bn:/x", "--replicas", "1", "--overwrite", "always"]);
    user.ok(&["admin", "gc", "--now"]);
    assert!(user.ok(&["cat", "bn:/x"]).stdout == new);
    output.read_to_end(&mut read).unwrap();
    assert!(cat.0.wait().unwrap().success());
    assert!(read == old, "{} of {} bytes", read.len(), old.len());
    // Without a reader it goes.
    user.ok(&["admin", "gc", "--now"]);
    let node = user.json(&["admin", "node", "ls"]).0.swap_remove(0);
    assert_eq!(node["chunks"], 3, "{node}");
}

/// Both had looked and seen the same before either stored anything: one wins whole, the other is told.
#[test]
fn of_two_writers_at_once_one_wins() {
    let user = Cluster::up(1);
    for (round, overwrite) in [(0, "never"), (1, "always")] {
        let contents = [bytes(10 + round, 5_000_000), bytes(20 + round, 6_000_000)];
        let words = ["put", "-", "bn:/x", "--replicas", "1", "--overwrite", overwrite];
        let mut writers = [0, 1].map(|_| Guarded(piped(&user, &words, Stdio::piped())));
        let mut inputs = writers.each_mut().map(|writer| writer.0.stdin.take().unwrap());
        // What takes more than a pipe holds has looked, and is reading.
        for (input, content) in inputs.iter_mut().zip(&contents) {
            input.write_all(&content[..2_000_000]).unwrap();
        }
        for (mut input, content) in inputs.into_iter().zip(&contents) {
            input.write_all(&content[2_000_000..]).unwrap();
        }
        let codes = writers.each_mut().map(|writer| writer.0.wait().unwrap().code());
        let winner = codes.iter().position(|code| *code == Some(0)).unwrap();
        assert_eq!(codes[1 - winner], Some(6), "{overwrite}");
        assert!(user.ok(&["cat", "bn:/x"]).stdout == contents[winner], "{overwrite}: {codes:?}");
    }
}

/// A command that writes to a pipe that nobody reads was deaf to every signal but KILL.
#[test]
fn a_command_whose_output_nobody_reads_can_be_interrupted() {
    let user = Cluster::up(1);
    let long = "x".repeat(240);
    let dirs: Vec<String> = (0..400).map(|number| format!("bn:/{number}-{long}")).collect();
    let mkdir: Vec<&str> = std::iter::once("mkdir").chain(dirs.iter().map(String::as_str)).collect();
    user.ok(&mkdir);
    let mut child = Guarded(piped(&user, &["ls"], Stdio::null()));
    let full = |child: &Guarded| rustix::io::ioctl_fionread(child.0.stdout.as_ref().unwrap()).unwrap() >= 60 << 10;
    wait_for("a full pipe", || full(&child));
    signal(&child.0, Signal::INT);
    let mut code = None;
    wait_for("its end", || {
        code = child.0.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(130));
}

/// What a program prints is stored only if the program ends well: half an output is never taken for the whole.
#[test]
fn the_output_of_a_program_is_stored_whole_or_not_at_all() {
    let user = Cluster::up(3);
    let ran = user.ok(&["put", "--from-command", "bn:/out", "--", "printf", "%s-%s", "a b", "--json"]);
    assert!(ran.stderr.starts_with("Stored 1 file (10 B)"), "{}", ran.stderr);
    assert_eq!(user.ok(&["cat", "bn:/out"]).stdout, b"a b---json");
    let long = "head -c 40000000 /dev/zero; exit 3";
    let (lines, code) = user.json(&["put", "--from-command", "bn:/failed", "--", "sh", "-c", long]);
    assert_eq!((code, &lines[0]["type"], &lines[0]["path"]), (1, &"failed".into(), &"bn:/failed".into()), "{lines:?}");
    assert_eq!(lines[0]["source"], format!("sh -c {long}"));
    assert!(lines[0]["message"].as_str().unwrap().contains("sh failed (exit status: 3)"), "{lines:?}");
    user.exits(5, &["stat", "bn:/failed"]);
    let killed = user.exits(1, &["put", "--from-command", "bn:/failed", "--", "sh", "-c", "echo a; kill -9 $$"]);
    assert!(killed.stderr.contains("signal: 9"), "{}", killed.stderr);
    let ran = user.exits(5, &["put", "--from-command", "bn:/failed", "--", "/nowhere/program"]);
    assert!(ran.stderr.contains("cannot start /nowhere/program"), "{}", ran.stderr);
    user.exits(5, &["stat", "bn:/failed"]);
    for wrong in [
        &["put", "--from-command", "bn:/x"][..],
        &["put", "--from-command", "--", "true"],
        &["put", "--from-command", "bn:/", "--", "true"],
        &["put", "--from-command", "here", "--", "true"],
        &["put", "--from-command", "a", "bn:/x", "--", "true"],
    ] {
        assert!(user.exits(2, wrong).stderr.contains("bn:/FILE"), "{wrong:?}");
    }
    // Without it, what follows the dashes is a file like any other.
    user.file("-n", b"n");
    user.ok(&["put", "--", "-n", "bn:/dash"]);
    assert_eq!(user.ok(&["cat", "bn:/dash"]).stdout, b"n");
}
