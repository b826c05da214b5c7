//! Trees through real processes: whatever a directory can hold comes back, or is told to have been left out.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::cluster::{Cluster, Ran};

/// Names that a shell, a terminal, a parser of arguments or a parser of paths could take for something else.
pub fn odd_names() -> Vec<String> {
    let odd = [
        "-",
        "-n",
        "--help",
        "bn:",
        "bn:x",
        "new\nline",
        "\u{1}\u{1b}[2J\u{7f}",
        "back\\slash",
        "*?[a]",
        " ",
        "a ",
        "~",
        "$HOME",
        "%2F",
        "é",
        "e\u{301}",
        "\u{202e}abc",
        "..a",
        "...",
        ".bytenode-part",
        "CON",
    ];
    odd.map(str::to_owned).into_iter().chain(["x".repeat(255), "é".repeat(127)]).collect()
}

/// What get restores of a thing: for a file a hash of its bytes, its time in microseconds, whether it may be executed.
pub type Kept = Option<(blake3::Hash, u128, bool)>;

/// Everything below a directory that a put stores.
pub fn kept(dir: &Path) -> BTreeMap<OsString, Kept> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let (name, metadata) = (entry.file_name(), entry.metadata().unwrap());
        if metadata.is_dir() {
            let join = |below: OsString| Path::new(&name).join(below).into_os_string();
            all.extend(kept(&entry.path()).into_iter().map(|(below, what)| (join(below), what)));
            all.insert(name, None);
        } else if metadata.is_file() {
            let executable = metadata.permissions().mode() & 0o100 != 0;
            let modified = metadata.modified().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
            all.insert(name, Some((blake3::hash(&fs::read(entry.path()).unwrap()), modified, executable)));
        }
    }
    all
}

/// A tree of odd names, empty directories, links and special files, of which five are left out.
pub fn make_tree(tree: &Path) {
    for (index, name) in odd_names().iter().enumerate() {
        for dir in [tree.to_owned(), tree.join("as dirs").join(name)] {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(name), name.as_bytes().repeat(index)).unwrap();
        }
    }
    fs::create_dir_all(tree.join("empty/also empty")).unwrap();
    fs::create_dir_all(tree.join("with/a/child/-")).unwrap();
    fs::set_permissions(tree.join("-n"), Permissions::from_mode(0o755)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567_890_123_456);
    fs::File::open(tree.join("~")).unwrap().set_modified(old).unwrap();
    symlink("~", tree.join("link")).unwrap();
    symlink("with", tree.join("link to a directory")).unwrap();
    symlink("nowhere", tree.join("empty/dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, tree.join("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(tree.join("with/socket")).unwrap());
}

#[test]
pub fn odd_names_and_empty_directories_come_back() {
    let user = Cluster::up(1);
    let tree = user.work().join("tree");
    make_tree(&tree);
    let files = 2 * odd_names().len();
    let put = user.summary(&["put", "tree", "bn:/", "--replicas", "1"]);
    assert_eq!((&put["files"], &put["skipped"], &put["failed"]), (&files.into(), &5.into(), &0.into()));
    let get = user.summary(&["get", "bn:/tree", "back"]);
    assert_eq!(get["files"], files);
    assert_eq!(kept(&user.work().join("back")), kept(&tree));
    for link in ["link", "link to a directory", "empty/dangling", "pipe", "with/socket"] {
        assert!(user.work().join("back").join(link).symlink_metadata().is_err(), "{link}");
    }
    assert_eq!(user.summary(&["check", "tree", "bn:/tree"])["differences"], 0);

    // A place of another name and depth, merged into what is there; the same words again change nothing.
    for _ in 0..2 {
        let put = user.summary(&["put", "tree/with", "bn:/tree/as dirs/-/", "--replicas", "1"]);
        assert_eq!((&put["files"], &put["skipped"]), (&0.into(), &1.into()), "{put}");
    }
    user.ok(&["get", "bn:/tree/as dirs/-", "merged"]);
    assert!(user.work().join("merged/with/a/child/-").is_dir());
    assert_eq!(user.read("merged/-"), b"");
}

#[test]
pub fn odd_names_work_as_operands() {
    let user = Cluster::up(1);
    fs::create_dir(user.work().join("out")).unwrap();
    for name in odd_names() {
        user.file(&name, name.as_bytes());
        // A leading dash and `bn:` are hidden by `./`, as CLI users know it.
        let (local, remote) = (format!("./{name}"), format!("bn:/d/{name}"));
        user.ok(&["put", &local, "bn:/d/", "--replicas", "1"]);
        user.ok(&["get", &remote, "out"]);
        assert_eq!(user.read(&format!("out/{name}")), name.as_bytes());
        assert_eq!(user.ok(&["cat", &remote]).stdout, name.as_bytes());
        user.ok(&["check", &local, &remote]);
    }
    // Nothing but the operand says what it is: standard input, and what only looks like an option.
    user.exits(6, &["put", "-", "bn:/d/-n", "--replicas", "1"]);
    user.ok(&["put", "--overwrite", "always", "--replicas", "1", "--", "-n", "bn:/n"]);
    assert_eq!(user.ok(&["cat", "bn:/n"]).stdout, b"-n");
    user.ok(&["mv", "bn:/d/-", "bn:/bn:/..a"]);
    assert_eq!(user.ok(&["cat", "bn:/bn:/..a"]).stdout, b"-");
}

#[test]
fn a_name_that_is_not_utf_8_is_refused_alone() {
    let user = Cluster::up(1);
    user.file("tree/good", b"good");
    let bad = user.work().join("tree").join(OsStr::from_bytes(b"bad\xff"));
    if fs::write(&bad, "bad").is_err() {
        return; // This file system has no such names.
    }
    let (lines, code) = user.json(&["put", "tree", "bn:/", "--replicas", "1"]);
    let of = |kind: &str| lines.iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    assert_eq!((code, of("file").len(), of("failed").len()), (3, 1, 1), "{lines:?}");
    assert!(of("failed")[0]["message"].as_str().unwrap().contains("not UTF-8"), "{lines:?}");
    assert_eq!(user.ok(&["ls", "bn:/tree"]).text(), "good\n");
    // Named by itself it is refused as well, but it may be given a name.
    let put = |to: &str| {
        let mut command = user.command(&["put", "--replicas", "1"]);
        Ran::of(command.arg(&bad).arg(to).output().unwrap())
    };
    assert_eq!(put("bn:/").code, 3);
    assert_eq!(put("bn:/named").code, 0);
    assert_eq!(user.ok(&["cat", "bn:/named"]).text(), "bad");
}

/// What this user may not read fails by itself. To the superuser nothing is closed, so the client then runs as nobody,
/// from a copy and with a token in its environment.
#[test]
fn what_cannot_be_read_fails_alone() {
    const NOBODY: u32 = 65534;
    let user = Cluster::up(1);
    for name in ["tree/a", "tree/closed", "tree/sub/closed", "tree/z", "tree/locked/x"] {
        user.file(name, name.as_bytes());
    }
    let home = user.work().parent().unwrap().to_owned();
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for dir in [&home, &user.work(), &user.work().join("tree"), &user.work().join("tree/sub")] {
        open(dir, 0o755);
    }
    for file in ["tree/a", "tree/z"] {
        open(&user.work().join(file), 0o644);
    }
    for closed in ["tree/closed", "tree/sub/closed", "tree/locked"] {
        open(&user.work().join(closed), 0o000);
    }
    let coordinator = user.member("coordinator");
    let token = fs::read_to_string(coordinator.data.join("admin.token")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bytenode"));
    if rustix::process::geteuid().is_root() {
        let program = home.join("bytenode");
        fs::copy(env!("CARGO_BIN_EXE_bytenode"), &program).unwrap();
        open(&program, 0o755);
        command = Command::new(program);
        command.uid(NOBODY).gid(NOBODY);
    }
    let put = user.environment(&mut command).args(["--json", "put", "tree", "bn:/", "--replicas", "1"]);
    let put = put.env("BYTENODE_URL", &coordinator.url).env("BYTENODE_TOKEN", token.trim()).stdin(Stdio::null());
    let put = Ran::of(put.output().unwrap());
    open(&user.work().join("tree/locked"), 0o755);
    assert_eq!(put.code, 3, "{}{}", put.text(), put.stderr);
    let failed: Vec<_> = put.lines().into_iter().filter(|line| line["type"] == "failed").collect();
    let paths: Vec<_> = failed.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["bn:/tree/locked", "bn:/tree/closed", "bn:/tree/sub/closed"], "{failed:?}");
    assert!(failed.iter().all(|line| line["message"].as_str().unwrap().contains("ermission denied")), "{failed:?}");
    assert_eq!(put.lines().last().unwrap()["files"], 2);
    assert_eq!(user.ok(&["ls", "-R"]).text(), "tree/\ntree/a\ntree/sub/\ntree/z\n");
}

/// A get holds the directories that it is writing into, for which there once was no limit: a tree of many small
/// directories then ran out of what a process may open, which is 256 files on some systems.
#[test]
fn a_tree_of_many_directories_needs_few_descriptors() {
    const DIRS: u64 = 600;
    let user = Cluster::up(1);
    for number in 0..DIRS {
        user.file(&format!("tree/{number}/file"), number.to_string().as_bytes());
    }
    for words in ["put tree bn:/ --replicas 1", "get bn:/tree back"] {
        let mut command = Command::new("sh");
        let limited = format!("ulimit -n 256 && exec '{}' --json {words}", env!("CARGO_BIN_EXE_bytenode"));
        let ran = Ran::of(user.environment(&mut command).args(["-c", &limited]).output().unwrap());
        assert_eq!((ran.code, &ran.lines().last().unwrap()["files"]), (0, &DIRS.into()), "{words}: {}", ran.stderr);
    }
    assert_eq!(kept(&user.work().join("back")), kept(&user.work().join("tree")));
}
