//! Backups by whole processes: what is lost comes back, what is no backup does not, and nothing is left lying about.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use crate::support::cluster::{Cluster, Guarded, Ran, bytes, signal, wait_for};

const PASSPHRASE: &str = "correct horse battery staple";

/// A user with a pool of this many nodes, and a passphrase in `secret`.
fn user(nodes: u32) -> Cluster {
    let user = Cluster::up(nodes);
    secret(&user, "secret", PASSPHRASE);
    user
}

fn secret(user: &Cluster, name: &str, text: &str) {
    let path = user.file(name, text.as_bytes());
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn backup(user: &Cluster, file: &str) {
    user.ok(&["admin", "backup", "--passphrase-file", "secret", file]);
}

/// `bytenoded restore FILE --data DIR`.
fn restore(user: &Cluster, file: &str, data: &Path, secret: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bytenoded"));
    user.environment(&mut command).args(["restore", file, "--passphrase-file", secret, "--data"]).arg(data);
    Ran::of(command.stdin(Stdio::null()).output().unwrap())
}

/// Stops the pool, loses the coordinator's directory, and restores it.
fn lose_and_restore(user: &Cluster, file: &str) -> PathBuf {
    let data = user.member("coordinator").data;
    user.ok(&["down"]);
    fs::remove_dir_all(&data).unwrap();
    let ran = restore(user, file, &data, "secret");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    data
}

fn pool_row(data: &Path) -> (Vec<u8>, i64) {
    let catalog = rusqlite::Connection::open(data.join("catalog.db")).unwrap();
    catalog.query_row("SELECT pool, epoch FROM pool", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The packs on all nodes.
fn packs(user: &Cluster) -> BTreeSet<PathBuf> {
    let mut dirs: Vec<PathBuf> = user.nodes().into_iter().map(|node| node.data.join("packs")).collect();
    let mut packs = BTreeSet::new();
    while let Some(dir) = dirs.pop() {
        for path in names(&dir).into_iter().map(|name| dir.join(name)) {
            match path.is_dir() {
                true => dirs.push(path),
                false => drop(packs.insert(path)),
            }
        }
    }
    packs
}

#[test]
fn a_lost_coordinator_comes_back() {
    let user = user(3);
    let data = user.member("coordinator").data;
    for (index, length) in [0, 1, 4096, 1 << 20, 5_000_000].into_iter().enumerate() {
        user.file(&format!("tree/{index}"), &bytes(index as u64, length));
    }
    user.file("plain", &bytes(9, 3_000_000));
    user.ok(&["put", "tree", "bn:/"]);
    user.ok(&["put", "--public", "plain", "bn:/"]);
    let never = user.ok(&["doctor"]).text();
    assert!(never.contains("risk  backup:          none was ever made"), "{never}");
    assert!(never.contains("loses everything") && never.contains("0 3 * * * "), "{never}");
    let told = user.ok(&["admin", "backup", "--passphrase-file", "secret", "b"]).stderr;
    assert!(told.starts_with("Backed up the coordinator of 6 files"), "{told}");
    let (made, before) = (user.ok(&["doctor"]).text(), pool_row(&data));
    assert!(made.contains("ok    backup: "), "{made}");

    // After the backup: another start, another file, one replaced, one removed.
    user.ok(&["down"]);
    user.ok(&["up"]);
    user.file("later", &bytes(7, 2_000_000));
    user.ok(&["put", "later", "bn:/"]);
    user.ok(&["put", "later", "bn:/tree/4", "--overwrite", "always"]);
    user.ok(&["rm", "bn:/tree/3"]);
    assert_eq!(pool_row(&data).1, before.1 + 1);

    user.ok(&["down"]);
    fs::remove_dir_all(&data).unwrap();
    let refused = user.exits(1, &["up"]);
    assert!(
        refused.stderr.contains(&format!("bytenoded restore BACKUP --data {}", data.display())),
        "{}",
        refused.stderr
    );
    assert!(!data.exists(), "nothing is put in its place");
    let ran = restore(&user, "b", &data, "secret");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("6 files"), "{}", ran.stderr);
    assert_eq!(pool_row(&data), before, "pool and epoch are as they were");
    for name in names(&data) {
        assert_eq!(fs::metadata(data.join(&name)).unwrap().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o700);

    user.ok(&["up"]);
    user.ok(&["get", "bn:/", "back"]);
    for index in 0..5 {
        assert!(user.read(&format!("back/tree/{index}")) == user.read(&format!("tree/{index}")), "{index}");
    }
    assert!(user.read("back/plain") == user.read("plain"));
    user.exits(5, &["stat", "bn:/later"]);
    assert_eq!(names(&user.work().join("back")), ["plain", "tree"], "nothing is invented");
    let doctor = user.run(&["doctor"]).text();
    assert!(doctor.contains("ok    backup: "), "it knows of which backup it is: {doctor}");
}

/// What is on its way while a backup is made is in it whole or not at all.
#[test]
fn a_backup_under_load_is_of_one_moment() {
    const WRITERS: u64 = 3;
    // They do not go on for ever where a backup fails.
    const MOST: u64 = 1000;
    let user = user(3);
    let ended = AtomicBool::new(false);
    let content = |name: &str| bytes(name.parse().unwrap(), 700_000);
    let done = std::thread::scope(|scope| {
        let writer = |number: u64| {
            let (user, ended, content) = (&user, &ended, &content);
            move || {
                let mut done = Vec::new();
                for round in 0..MOST {
                    if ended.load(Ordering::Relaxed) {
                        break;
                    }
                    let name = (1 + number + WRITERS * round).to_string();
                    user.file(&name, &content(&name));
                    user.ok(&["put", &name, "bn:/"]);
                    done.push((SystemTime::now(), name));
                }
                done
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(writer(number))).collect();
        let mut begun = Vec::new();
        for file in ["b0", "b1", "b2"] {
            begun.push(SystemTime::now());
            backup(&user, file);
        }
        ended.store(true, Ordering::Relaxed);
        let done: Vec<_> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        (begun[2], done)
    });
    let (begun, done) = done;
    lose_and_restore(&user, "b2");
    user.ok(&["up"]);
    user.ok(&["get", "bn:/", "back"]);
    let back = names(&user.work().join("back"));
    for name in &back {
        assert!(user.read(&format!("back/{name}")) == content(name), "{name}");
    }
    let must = done.iter().filter(|(time, _)| *time < begun).map(|(_, name)| name);
    let lost: Vec<_> = must.filter(|name| !back.contains(name)).collect();
    assert!(lost.is_empty(), "stored before the backup, and not in it: {lost:?}");
}

#[test]
fn what_restore_refuses() {
    let user = user(0);
    backup(&user, "b");
    secret(&user, "wrong", "correct horse battery stable");
    secret(&user, "wide", PASSPHRASE);
    fs::set_permissions(user.work().join("wide"), PermissionsExt::from_mode(0o644)).unwrap();
    let whole = user.read("b");
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    user.file("cut", &whole[..whole.len() - 1]);
    user.file("halved", &whole[..whole.len() / 2]);
    user.file("changed", &changed(whole.len() / 2));
    user.file("other-end", &changed(whole.len() - 1));
    user.file("other-front", &changed(40));
    user.file("no-backup", &bytes(1, 5000));
    user.file("full/thesis.tex", b"all of it");
    let data = user.work().join("new/data");
    let running = user.member("coordinator").data;
    let full = user.work().join("full");
    for (file, dir, secret, code, words) in [
        ("b", &data, "wrong", 4, "the passphrase is wrong"),
        ("b", &data, "wide", 4, "chmod 600"),
        ("b", &data, "nowhere", 5, "nowhere"),
        ("nowhere", &data, "secret", 5, "nowhere"),
        ("cut", &data, "secret", 8, "damaged"),
        ("halved", &data, "secret", 8, "damaged"),
        ("changed", &data, "secret", 8, "damaged"),
        ("other-end", &data, "secret", 8, "damaged"),
        ("other-front", &data, "secret", 8, "damaged"),
        ("no-backup", &data, "secret", 8, "not a backup"),
        ("b", &full, "secret", 6, "not empty"),
        ("b", &running, "secret", 6, "not empty"),
    ] {
        let ran = restore(&user, file, dir, secret);
        assert_eq!(ran.code, code, "{file} {secret}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{file} {secret}: {}", ran.stderr);
        assert!(!dir.join("restore.new").exists(), "{file} {secret}");
        assert!(!data.exists(), "{file} {secret}");
    }
    assert_eq!(names(&full), ["thesis.tex"].map(str::to_owned));
    let mut unasked = Command::new(env!("CARGO_BIN_EXE_bytenoded"));
    user.environment(&mut unasked).args(["restore", "b", "--data", "new/data"]).stdin(Stdio::null());
    let ran = Ran::of(unasked.output().unwrap());
    assert!(ran.code == 2 && ran.stderr.contains("--passphrase-file"), "{}", ran.stderr);
    // All those attempts are in nobody's way.
    assert_eq!(restore(&user, "b", &data, "secret").code, 0);
    assert_eq!(restore(&user, "b", &data, "secret").code, 6);
}

/// At whatever moment a restore ends, no coordinator starts on half of it.
#[test]
fn half_a_restore_is_no_coordinator() {
    let user = user(0);
    backup(&user, "b");
    let data = user.work().join("data");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bytenoded"));
        user.environment(&mut command).args(["--listen", "127.0.0.1:0", "--data"]).arg(&data);
        let mut started =
            Guarded(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        !started.first_line().is_empty()
    };
    // Before anything is in its place: started again, it is done as if for the first time.
    fs::create_dir_all(data.join("restore.new")).unwrap();
    fs::write(data.join("restore.new/master.key"), "half").unwrap();
    assert!(!start());
    assert_eq!(restore(&user, "b", &data, "secret").code, 0);
    assert!(start());
    // Between two renames, and before the mark is gone.
    let whole = names(&data);
    for moved in [&["master.key", "signing.key"][..], &whole.iter().map(String::as_str).collect::<Vec<_>>()] {
        fs::remove_dir_all(&data).unwrap();
        fs::create_dir_all(data.join("restore.new")).unwrap();
        moved.iter().for_each(|name| fs::write(data.join(name), "").unwrap());
        assert!(!start(), "{moved:?}");
        assert_eq!(restore(&user, "b", &data, "secret").code, 6, "{moved:?}");
    }
}

/// Root restores what a service runs as another user.
#[test]
fn restored_files_belong_to_the_owner_of_the_directory() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let user = user(0);
    backup(&user, "b");
    let data = user.work().join("data");
    fs::create_dir(&data).unwrap();
    std::os::unix::fs::chown(&data, Some(4321), Some(4322)).unwrap();
    assert_eq!(restore(&user, "b", &data, "secret").code, 0);
    for name in names(&data) {
        let metadata = fs::metadata(data.join(&name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (4321, 4322), "{name}");
    }
}

#[test]
fn a_catalog_of_a_newer_version_is_refused() {
    let user = user(0);
    let data = user.member("coordinator").data;
    user.ok(&["down"]);
    let newer = |version: i64| {
        let catalog = rusqlite::Connection::open(data.join("catalog.db")).unwrap();
        let known: i64 = catalog.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        catalog.pragma_update(None, "user_version", version).unwrap();
        known
    };
    user.ok(&["up"]);
    // While it runs, as only a newer build would.
    let known = newer(99);
    let refused = user.exits(1, &["admin", "backup", "--passphrase-file", "secret", "b"]);
    assert!(refused.stderr.contains("version 99"), "a backup that this build cannot check is none: {}", refused.stderr);
    newer(known);
    backup(&user, "b");
}

#[test]
fn where_a_backup_goes_and_where_not() {
    let user = user(0);
    let backup = |more: &[&str]| user.run(&[&["admin", "backup", "--passphrase-file", "secret"], more].concat());
    assert_eq!(backup(&["b"]).code, 0);
    let first = user.read("b");
    assert_eq!(fs::metadata(user.work().join("b")).unwrap().mode() & 0o777, 0o600);
    let refused = backup(&["b"]);
    assert_eq!(refused.code, 6);
    assert!(refused.stderr.contains("--overwrite always"), "{}", refused.stderr);
    assert!(user.read("b") == first);
    assert_eq!(backup(&["b", "--overwrite", "always"]).code, 0);
    assert!(user.read("b") != first);
    fs::create_dir(user.work().join("dir")).unwrap();
    for (dest, code) in [("dir", 6), ("nowhere/b", 5), ("/dev/null", 6)] {
        assert_eq!(backup(&[dest, "--overwrite", "always"]).code, code, "{dest}");
    }
    // To standard output: the same, and nothing else.
    let piped = backup(&["-"]);
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    user.file("piped", &piped.stdout);
    assert_eq!(restore(&user, "piped", &user.work().join("data"), "secret").code, 0);
    assert_eq!(backup(&["--json", "-"]).code, 2);
    // A reader that leaves has no backup.
    let mut command = user.command(&["admin", "backup", "--passphrase-file", "secret", "-"]);
    let mut child = Guarded(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    drop(child.0.stdout.take());
    assert_eq!(child.0.wait().unwrap().code(), Some(1));

    // A passphrase comes from a private file or a person.
    user.file("wide", PASSPHRASE.as_bytes());
    secret(&user, "short", "1234567\n");
    for (arguments, code, words) in [
        (&["admin", "backup", "c"][..], 2, "--passphrase-file"),
        (&["--no-input", "admin", "backup", "c"], 2, "--passphrase-file"),
        (&["admin", "backup", "c", "--passphrase-file", "wide"], 4, "chmod 600 wide"),
        (&["admin", "backup", "c", "--passphrase-file", "short"], 2, "fewer than 8"),
        (&["admin", "backup", "c", "--passphrase-file", "nowhere"], 5, "nowhere"),
    ] {
        let ran = user.exits(code, arguments);
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
    let there: BTreeSet<String> = names(&user.work()).into_iter().collect();
    assert_eq!(there, ["b", "data", "dir", "piped", "secret", "short", "wide"].map(str::to_owned).into());

    // No secret is anywhere else.
    let data = user.member("coordinator").data;
    let master = fs::read_to_string(data.join("master.key")).unwrap();
    let raw = data_encoding::HEXLOWER.decode(master.trim().as_bytes()).unwrap();
    let logs = fs::read(user.work().with_file_name("state/bytenode/log/coordinator.log")).unwrap();
    let holds = |bytes: &[u8], secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    for (what, bytes) in [("the backup", &user.read("b")), ("the log", &logs)] {
        for secret in [master.trim().as_bytes(), &raw, PASSPHRASE.as_bytes()] {
            assert!(!holds(bytes, secret), "{what}");
        }
    }
    assert!(!holds(&user.read("b"), b"SQLite format 3"));
}

/// A person types the passphrase twice, unseen.
#[test]
fn a_passphrase_can_be_typed() {
    let user = user(0);
    let version = Command::new("script").arg("--version").output();
    if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("util-linux")) {
        return;
    }
    let on_a_terminal = |line: &str, typed: &[&str]| {
        let mut command = Command::new("script");
        let built = Path::new(env!("CARGO_BIN_EXE_bytenode")).parent().unwrap();
        user.environment(&mut command)
            .env("PATH", std::env::join_paths([built, Path::new("/usr/bin"), Path::new("/bin")]).unwrap());
        command.args(["-qec", line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Guarded(command.spawn().unwrap());
        let mut input = child.0.stdin.take().unwrap();
        typed.iter().for_each(|line| input.write_all(format!("{line}\n").as_bytes()).unwrap());
        let mut said = String::new();
        child.0.stdout.as_mut().unwrap().read_to_string(&mut said).unwrap();
        (child.0.wait().unwrap().code().unwrap(), said)
    };
    let (code, said) = on_a_terminal("bytenode admin backup typed", &[PASSPHRASE, PASSPHRASE]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = on_a_terminal("bytenode admin backup other", &[PASSPHRASE, "another one"]);
    assert!(code == 2 && said.contains("differ"), "{said}");
    let (code, said) = on_a_terminal("bytenode admin backup -", &[]);
    assert!(code == 2 && said.contains("terminal"), "{said}");
    let (code, said) = on_a_terminal("bytenoded restore typed --data data", &[PASSPHRASE]);
    assert_eq!(code, 0, "{said}");
}

/// Killed at whatever moment, a backup leaves the old file as it was, and nothing that stays for ever.
#[test]
fn a_backup_that_is_killed_leaves_the_old_one() {
    let user = user(0);
    backup(&user, "b");
    let old = user.read("b");
    let unfinished = || {
        let unfinished = |name: &String| name.starts_with(".bytenode-backup-");
        names(&user.work()).into_iter().filter(unfinished).map(|name| user.work().join(name)).collect::<Vec<_>>()
    };
    let begin = || {
        let words = ["admin", "backup", "--passphrase-file", "secret", "--overwrite", "always", "b"];
        let mut command = user.command(&words);
        let child = Guarded(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_for("the file that is no backup yet", || !unfinished().is_empty());
        child
    };
    let coordinator = user.member("coordinator");
    coordinator.signal(Signal::STOP);
    let mut killed = begin();
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    let [left] = &unfinished()[..] else { panic!("{:?}", unfinished()) };
    // Interrupted by its user, it leaves nothing.
    let mut interrupted = begin();
    wait_for("both", || unfinished().len() == 2);
    signal(&interrupted.0, Signal::INT);
    assert_eq!(interrupted.0.wait().unwrap().code(), Some(130));
    assert_eq!(&unfinished(), std::slice::from_ref(left));
    coordinator.signal(Signal::CONT);
    assert!(user.read("b") == old);

    // One that another command may be writing stays; an hour later it goes.
    backup(&user, "c");
    assert_eq!(unfinished().len(), 1);
    let file = fs::File::options().write(true).open(left).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3700)).unwrap();
    backup(&user, "d");
    assert_eq!(unfinished(), Vec::<PathBuf>::new());

    // The coordinator, killed while it makes its copy, finds that at its next start.
    let copy = coordinator.data.join("backup.new");
    fs::create_dir(&copy).unwrap();
    fs::write(copy.join("catalog.db"), "half").unwrap();
    backup(&user, "e");
    assert!(!copy.exists(), "the next backup clears it away");
    fs::create_dir(&copy).unwrap();
    coordinator.kill();
    user.ok(&["up"]);
    assert!(!copy.exists());
    assert!(restore(&user, "b", &user.work().join("data"), "secret").code == 0, "the old one is good");
}

/// Passes a connection on to the coordinator, and breaks it after so many bytes of the answers.
fn cut_after(bytes: u64, coordinator: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let to = coordinator.strip_prefix("http://").unwrap().to_owned();
    std::thread::spawn(move || {
        for incoming in listener.incoming().flatten() {
            let outgoing = TcpStream::connect(&to).unwrap();
            let (mut from, mut back) = (incoming.try_clone().unwrap(), outgoing.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
            let _ = std::io::copy(&mut (&outgoing).take(bytes), &mut &incoming);
            let _ = incoming.shutdown(Shutdown::Both);
            let _ = outgoing.shutdown(Shutdown::Both);
        }
    });
    address
}

#[test]
fn a_broken_connection_gives_no_backup() {
    let user = user(0);
    backup(&user, "b");
    let whole = fs::metadata(user.work().join("b")).unwrap().len();
    let coordinator = user.member("coordinator");
    let token = fs::read_to_string(coordinator.data.join("admin.token")).unwrap();
    for bytes in [0, 10, 2000, whole / 2, whole] {
        for dest in ["c", "-"] {
            let mut command = user.command(&["admin", "backup", "--passphrase-file", "secret", dest]);
            command.env("BYTENODE_URL", cut_after(bytes, &coordinator.url)).env("BYTENODE_TOKEN", token.trim());
            let ran = Ran::of(command.output().unwrap());
            assert_eq!((ran.code, ran.stdout.len()), (7, 0), "{bytes} {dest}: {}", ran.stderr);
        }
    }
    assert_eq!(names(&user.work()), ["b", "secret"], "nothing is left");
    let doctor = user.run(&["doctor"]).text();
    assert!(doctor.contains("ok    backup: "), "{doctor}");
}

/// What fails for want of room says so and leaves nothing, neither what looks like a backup nor what looks like a
/// coordinator. A limit on the size of files stands for a full disk: it needs neither root nor a disk.
#[cfg(target_os = "linux")]
#[test]
fn without_room_nothing_is_left() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    const NARROW: &str = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    // The signal of the limit is ignored by all that this starts, as it is by a service.
    let user = Cluster::none();
    let in_shell = |script: &str, program: &str, words: &[&str]| {
        let mut command = Command::new("sh");
        user.environment(&mut command).args(["-c", script, program]).args(words).stdin(Stdio::null());
        Ran::of(command.output().unwrap())
    };
    let (client, daemon) = (env!("CARGO_BIN_EXE_bytenode"), env!("CARGO_BIN_EXE_bytenoded"));
    let up = in_shell("trap '' XFSZ; exec \"$0\" \"$@\"", client, &["up", "--nodes", "0"]);
    assert_eq!(up.code, 0, "{}", up.stderr);
    secret(&user, "secret", PASSPHRASE);
    backup(&user, "b");
    let (whole, there) = (user.read("b"), names(&user.work()));
    assert!(whole.len() > 100 << 10, "it must not fit into what is allowed");

    // Where the backup goes.
    for dest in ["b", "c", "-"] {
        let words = ["admin", "backup", "--passphrase-file", "secret", "--overwrite", "always", dest];
        let ran = in_shell(NARROW, client, &words);
        assert_eq!((ran.code, ran.stdout.len()), (1, 0), "{dest}: {}", ran.stderr);
        assert!(ran.stderr.contains("cannot be written") && ran.stderr.contains("too large"), "{}", ran.stderr);
    }
    assert_eq!(names(&user.work()), there);
    assert!(user.read("b") == whole);
    // Where it is restored.
    let ran = in_shell(NARROW, daemon, &["restore", "b", "--passphrase-file", "secret", "--data", "data"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("cannot write in data") && ran.stderr.contains("too large"), "{}", ran.stderr);
    assert_eq!(names(&user.work()), there);
    // Beside the catalog.
    let coordinator = user.member("coordinator");
    let allow = |maximum| {
        let pid = Pid::from_raw(coordinator.pid.cast_signed()).unwrap();
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: maximum, maximum: None }).unwrap();
    };
    let before = names(&coordinator.data);
    allow(Some(64 << 10));
    let refused = user.exits(1, &["admin", "backup", "--passphrase-file", "secret", "c"]);
    assert!(refused.stderr.contains("copy of the catalog"), "{}", refused.stderr);
    assert_eq!((names(&coordinator.data), names(&user.work())), (before, there));
    allow(None);
    backup(&user, "c");
}

/// What was stored after the backup is on the nodes and in no catalog any more. No file is made of it, and nothing of it
/// is dropped.
#[test]
fn what_was_stored_after_a_backup_stays_on_the_nodes() {
    let user = user(3);
    for (name, seed) in [("before", 1), ("later", 2)] {
        user.file(name, &bytes(seed, 2_000_000));
    }
    user.ok(&["put", "before", "bn:/"]);
    backup(&user, "b");
    user.ok(&["put", "later", "bn:/"]);
    let stored = packs(&user);
    assert_eq!(stored.len(), 6, "{stored:?}");
    lose_and_restore(&user, "b");
    user.ok(&["up"]);
    user.ok(&["get", "bn:/", "back"]);
    assert_eq!(names(&user.work().join("back")), ["before"]);
    assert!(user.read("back/before") == user.read("before"));
    user.run(&["admin", "gc", "--now"]);
    user.run(&["admin", "health"]);
    assert!(packs(&user).is_superset(&stored));
}
