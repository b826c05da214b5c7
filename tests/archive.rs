//! `get --tar` through real processes and the system's own tar: what it unpacks is what was stored, and what is not
//! complete it refuses.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::cluster::{Cluster, Ran, bytes};
use crate::trees::{kept, make_tree, odd_names};

/// Unpacks an archive into a directory of its own.
fn unpack(user: &Cluster, program: &str, archive: &[u8], into: &str) -> Ran {
    let dir = user.work().join(into);
    fs::create_dir(&dir).unwrap();
    let mut command = Command::new(program);
    user.environment(&mut command).env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").args(["-x", "-f", "-"]);
    command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // One that has found a fault may read no further.
        scope.spawn(move || drop(input.write_all(archive)));
        Ran::of(child.wait_with_output().unwrap())
    })
}

/// The programs there are that unpack: whatever the system calls tar, and libarchive's where it is another.
fn programs() -> Vec<&'static str> {
    let there = |program: &&str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let programs: Vec<_> = ["tar", "bsdtar"].into_iter().filter(there).collect();
    assert!(programs.contains(&"tar"));
    programs
}

#[test]
fn what_tar_unpacks_is_what_was_stored() {
    let user = Cluster::up(1);
    let tree = user.work().join("tree");
    make_tree(&tree);
    let deep = tree.join("d".repeat(90)).join("é".repeat(100)).join("x".repeat(255));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("deep"), "deep").unwrap();
    // Ends within a block, at the end of one, within a chunk, at the end of one.
    for length in [1, 511, 512, 513, (1 << 20) - 1, 1 << 20, (3 << 20) + 7, 20 << 20] {
        fs::write(tree.join(format!("{length}")), bytes(length as u64, length)).unwrap();
    }
    // Whole seconds: GNU's tar takes -1.5 for -0.5.
    let before_1970 = std::time::UNIX_EPOCH - std::time::Duration::from_secs(2);
    user.ok(&["put", "tree", "bn:/", "--replicas", "1"]);
    let one = user.file("old", b"old");
    fs::File::open(&one).unwrap().set_modified(before_1970).unwrap();
    user.ok(&["put", "old", "bn:/", "--replicas", "1"]);

    let archive = user.ok(&["get", "--tar", "bn:/tree", "bn:/old", "bn:/tree/with", "-"]).stdout;
    assert_eq!(archive.len() % 512, 0);
    let in_words = user.ok(&["get", "--tar", "-n", "bn:/", "-"]);
    assert!(in_words.stderr.contains(&format!("Would fetch {} files", 2 * odd_names().len() + 10)), "{in_words:?}");
    let whole = user.ok(&["get", "--tar", "bn:/", "-"]).stdout;
    let file = user.ok(&["get", "--tar", "bn:/tree/513", "-"]).stdout;
    for program in programs() {
        let out = |name: &str| user.work().join(format!("{program}-{name}"));
        for (name, archive) in [("several", &archive), ("whole", &whole), ("file", &file)] {
            let ran = unpack(&user, program, archive, out(name).to_str().unwrap());
            // GNU's tar wonders at what is older than 1970, and takes it.
            let wrong: Vec<&str> = ran.stderr.lines().filter(|line| !line.contains("implausibly old")).collect();
            assert_eq!((ran.code, wrong), (0, vec![]), "{program} {name}");
        }
        for name in ["several", "whole"] {
            let (got, was) = (kept(&out(name).join("tree")), kept(&tree));
            let lost: Vec<_> = was.iter().filter(|(path, what)| got.get(*path) != Some(what)).collect();
            assert!(got == was, "{program} {name}: {lost:?}");
            assert_eq!(fs::metadata(out(name).join("old")).unwrap().modified().unwrap(), before_1970);
        }
        assert_eq!(kept(&out("several").join("with")), kept(&tree.join("with")));
        assert_eq!(fs::read_dir(out("file")).unwrap().count(), 1);
        assert_eq!(fs::read(out("file").join("513")).unwrap(), bytes(513, 513));
    }
}

/// Spoils all that a node has from this byte of each pack on.
fn spoil(node: &Path, from: u64) {
    let below = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    for pack in below(&node.join("packs")).iter().flat_map(|dir| below(dir)) {
        let mut content = fs::read(&pack).unwrap();
        let from = usize::try_from(from).unwrap().min(content.len());
        content[from..].iter_mut().for_each(|byte| *byte ^= 1);
        fs::write(&pack, content).unwrap();
    }
}

/// Whether a file fails within its bytes or before them, what was written is no archive, and not one byte is wrong.
#[test]
fn an_archive_that_is_not_complete_does_not_unpack() {
    for (name, length, from) in [("small", 100_000, 0), ("large", 6 << 20, 3 << 20)] {
        let user = Cluster::up(1);
        let content = bytes(7, length);
        user.file("tree/a file", &content);
        user.ok(&["put", "tree", "bn:/", "--replicas", "1"]);
        spoil(&user.member("n1").data, from);
        let ran = user.exits(8, &["get", "--tar", "bn:/tree", "-"]);
        assert!(ran.stderr.contains("error: the archive is not complete: "), "{}", ran.stderr);
        assert!(!ran.stdout.ends_with(&[0; 1024]), "{name} is closed");
        if let Some(at) = ran.stdout.windows(512).position(|block| *block == content[..512]) {
            assert!(ran.stdout.len() - at < length && content.starts_with(&ran.stdout[at..]), "{name}");
        }
        for program in programs() {
            let unpacked = unpack(&user, program, &ran.stdout, &format!("{program}-{name}"));
            assert_ne!(unpacked.code, 0, "{program} took {name} for complete");
        }
    }
}

#[test]
fn what_makes_no_archive_is_refused() {
    let user = Cluster::up(1);
    user.file("tree/x", b"x");
    user.ok(&["put", "tree", "bn:/", "--replicas", "1"]);
    for (arguments, said) in [
        (&["get", "--tar", "bn:/tree"][..], "the destination must be -"),
        (&["get", "--tar", "bn:/tree", "out"], "the destination must be -"),
        (&["get", "--tar", "bn:/tree", "bn:/tree", "-"], "two of the sources would both become tree"),
        (&["get", "--tar", "bn:/", "bn:/tree", "-"], "bn:/ has no name of its own"),
        (&["get", "--tar", "bn:/tree/x/", "-"], "is a file, not a directory"),
        (&["get", "--tar", "--overwrite", "always", "bn:/tree", "-"], "cannot be used with"),
    ] {
        let ran = user.exits(2, arguments);
        assert!(ran.stderr.contains(said) && ran.stdout.is_empty(), "{arguments:?}: {}", ran.stderr);
    }
    assert!(user.exits(2, &["get", "--tar", "--json", "bn:/tree", "-"]).text().contains("cannot be used with --tar"));
    assert!(user.exits(5, &["get", "--tar", "bn:/tree", "bn:/nothing", "-"]).stdout.is_empty());
}

/// Whoever has read enough may go.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let user = Cluster::up(1);
    user.file("tree/x", &bytes(1, 8 << 20));
    user.ok(&["put", "tree", "bn:/", "--replicas", "1"]);
    let mut command = user.command(&["get", "--tar", "bn:/tree", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut block = [0; 512];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut block).unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}
