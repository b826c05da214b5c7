//! Memory does not depend on what is stored: the peaks of client and coordinator for much and for little are close.
//!
//! Peaks are what the kernel keeps in `/proc` for both processes; that of the client is read until it ends. Linux only.
//!
//! The large file is 4 GiB of a set of 64 different chunks over and over: every byte is read, hashed and sealed, every
//! chunk has its row in the manifest, and the disk holds 64 MiB instead of 12 GiB. Besides it a smaller file whose
//! chunks all differ goes over the wire whole. Small files all differ, so that each has rows of its own in every table.
//! Without `BYTENODE_TEST_LONG=1` sizes are smaller, so that the suite stays quick. What the coordinator keeps for each
//! file shows all the same: as many files again must hardly add to its peak, now that its caches are full.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::cluster::Cluster;

/// How far peaks may be apart, in KiB.
const BOUND_KIB: u64 = 16 << 10;
/// What a client may have under way of one file, in KiB, however large it is: by how fast disks and nodes are just then, one
/// run takes less of it than another.
const UNDER_WAY_KIB: u64 = 96 << 10;
/// How much as many files again may add to the coordinator's peak, in KiB.
const AGAIN_KIB: u64 = 4 << 10;
const MIB: u64 = 1 << 20;

fn long() -> bool {
    std::env::var_os("BYTENODE_TEST_LONG").is_some()
}

/// Peaks in KiB: the client's of one command, and the coordinator's so far.
#[derive(Debug, Clone, Copy)]
struct Peaks {
    client: u64,
    coordinator: u64,
}

/// Runs a command and follows its peak.
fn measured(user: &Cluster, arguments: &[&str]) -> Peaks {
    let client = followed(user.command(arguments));
    let coordinator = peak(&format!("/proc/{}/status", user.member("coordinator").pid)).unwrap();
    Peaks { client, coordinator }
}

/// Runs a command to its end; gives its peak in KiB.
fn followed(mut command: Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    // The process keeps its numbers until it is waited for, but not its memory map: the peak is read while it runs.
    let mut most = 0;
    let code = loop {
        most = peak(&status).unwrap_or(most).max(most);
        match child.try_wait().unwrap() {
            Some(code) => break code,
            None => std::thread::park_timeout(std::time::Duration::from_millis(5)),
        }
    };
    assert!(code.success(), "{command:?}");
    most
}

fn peak(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn close(what: &str, small: Peaks, large: Peaks) {
    eprintln!("peaks in KiB, {what}: {small:?} {large:?}");
    for (who, small, large) in
        [("client", small.client, large.client), ("coordinator", small.coordinator, large.coordinator)]
    {
        assert!(large < small + BOUND_KIB, "{what}: the {who} took {small} KiB and {large} KiB");
    }
}

/// A file of `mebibytes` chunks of which `different` differ.
fn file(path: &Path, mebibytes: u64, different: u64) {
    let mut file = File::create(path).unwrap();
    file.set_len(mebibytes * MIB).unwrap();
    for number in 0..mebibytes {
        file.seek(SeekFrom::Start(number * MIB)).unwrap();
        file.write_all(&(number % different).to_le_bytes()).unwrap();
    }
}

#[test]
fn of_a_file_however_large() {
    let (large, unique) = if long() { (4096, 1024) } else { (512, 384) };
    // More than a put has under way at once: the small one takes all the memory there is to take, too.
    let small = 128;
    let user = Cluster::up(1);
    for (name, mebibytes, different) in [("small", small, small), ("large", large, 64), ("unique", unique, unique)] {
        file(&user.work().join(name), mebibytes, different);
    }
    let put = |name: &str| measured(&user, &["put", name, "bn:/", "--replicas", "1"]);
    let get = |name: &str| {
        let peaks = measured(&user, &["get", &format!("bn:/{name}"), "back"]);
        fs::remove_file(user.work().join("back")).unwrap();
        peaks
    };
    let at_least = |peaks: Peaks| Peaks { client: peaks.client.max(UNDER_WAY_KIB), ..peaks };
    let (small_put, small_get) = (at_least(put("small")), at_least(get("small")));
    close("put of many equal chunks", small_put, put("large"));
    close("put of different chunks", small_put, put("unique"));
    close("get of many equal chunks", small_get, get("large"));
    close("get of different chunks", small_get, get("unique"));
}

#[test]
fn of_small_files_however_many() {
    let many = if long() { 100_000 } else { 5_000 };
    let user = Cluster::up(1);
    let make = |name: &str, files: u64| {
        for number in 0..files {
            let path = user.work().join(name).join(format!("{}", number / 500));
            if number % 500 == 0 {
                fs::create_dir_all(&path).unwrap();
            }
            fs::write(path.join(format!("{number}")), format!("{name} {number}")).unwrap();
        }
    };
    make("few", 1000);
    make("many", many);
    let put = |name: &str| measured(&user, &["put", name, "bn:/", "--replicas", "1"]);
    let get = |name: &str| measured(&user, &["get", &format!("bn:/{name}"), &format!("back-{name}")]);
    let (small_put, small_get) = (put("few"), get("few"));
    close("put of many files", small_put, put("many"));
    close("get of many files", small_get, get("many"));
    let list = |name: &str| measured(&user, &["ls", "-R", &format!("bn:/{name}")]);
    let (first, last) = (list("few"), list("many"));
    close("ls of many files", first, last);
    if !long() {
        make("more", many);
        let more = put("more").coordinator;
        eprintln!("peaks in KiB, as many files again: {} {more}", last.coordinator);
        assert!(more < last.coordinator + AGAIN_KIB, "as many files again: {} KiB and {more} KiB", last.coordinator);
    }
}

/// A backup and what restores it hold no catalog in memory, only the 64 MiB that a guess at the passphrase costs.
#[test]
fn of_a_backup_however_large() {
    let mebibytes: u32 = if long() { 2048 } else { 128 };
    let user = Cluster::up(0);
    let secret = user.file("secret", b"correct horse");
    fs::set_permissions(secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let backup = |file: &str| measured(&user, &["admin", "backup", "--passphrase-file", "secret", file]);
    let restore = |file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bytenoded"));
        let dir = user.work().join(format!("of-{file}"));
        user.environment(&mut command).args(["restore", file, "--passphrase-file", "secret", "--data"]).arg(dir);
        followed(command)
    };
    let (small, small_restore) = (backup("small"), restore("small"));
    let catalog = rusqlite::Connection::open(user.member("coordinator").data.join("catalog.db")).unwrap();
    let version = "INSERT INTO version(id, vault_id, state, chunk_size, public, replicas, created_at)
        VALUES (1, 1, 0, 1, 0, 1, 0)";
    catalog.execute(version, []).unwrap();
    let fill = "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 32 * ?1)
        INSERT INTO key_page SELECT 1, n, randomblob(1 << 15) FROM number";
    catalog.execute(fill, [mebibytes]).unwrap();
    close("backup", small, backup("large"));
    assert!(fs::metadata(user.work().join("large")).unwrap().len() > u64::from(mebibytes) * MIB);
    let large_restore = restore("large");
    assert!(large_restore < small_restore + BOUND_KIB, "restore took {small_restore} KiB and {large_restore} KiB");
}
