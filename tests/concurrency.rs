//! Many commands at once, each a process of its own.

use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::process::Stdio;

use crate::support::cluster::{Cluster, Guarded, bytes, wait_for};

const EACH: u64 = 16;
const LENGTH: usize = 12 << 20;

/// The coordinator is killed while all of them are at work, and started again.
#[test]
fn puts_and_gets_go_on_though_the_coordinator_is_started_again() {
    let user = Cluster::up(4);
    let old: Vec<String> = (0..EACH).map(|number| format!("old{number}")).collect();
    for (number, name) in (0..).zip(&old) {
        user.file(name, &bytes(number, LENGTH));
        user.file(&format!("new{number}"), &bytes(1000 + number, LENGTH));
    }
    let all: Vec<&str> = std::iter::once("put").chain(old.iter().map(String::as_str)).chain(["bn:/"]).collect();
    user.ok(&all);
    let before = user.summary(&["status"])["files"].as_u64().unwrap();
    let start = |words: &[&str]| {
        let mut command = user.command(&[&["--json"], words].concat());
        Guarded(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    };
    let mut puts: Vec<Guarded> = (0..EACH).map(|n| start(&["put", &format!("new{n}"), "bn:/"])).collect();
    let mut gets: Vec<Guarded> =
        (0..EACH).map(|n| start(&["get", &format!("bn:/old{n}"), &format!("back{n}")])).collect();
    let ended = |all: &mut [Guarded]| all.iter_mut().filter_map(|one| one.0.try_wait().unwrap()).count();
    // A command that has heard nothing from a coordinator does not wait for it.
    let catalog = rusqlite::Connection::open(user.member("coordinator").data.join("catalog.db")).unwrap();
    let leases = || catalog.query_row("SELECT count(*) FROM lease", [], |row| row.get::<_, i64>(0)).unwrap();
    wait_for("all puts to have begun", || leases() as usize + ended(&mut puts) >= puts.len());
    let there =
        |number: u64, name: &str| name == format!("back{number}") || name.starts_with(&format!(".back{number}."));
    let files = || std::fs::read_dir(user.work()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    wait_for("all gets to have begun", || (0..EACH).all(|number| files().any(|name| there(number, &name))));
    drop(catalog);
    user.kill("coordinator");
    let ended = ended(&mut puts) + ended(&mut gets);
    user.ok(&["up", "--nodes", "4"]);
    assert!(ended < puts.len() + gets.len(), "{ended} had ended when the coordinator was killed");
    for mut command in puts.into_iter().chain(gets) {
        let ran = command.end();
        let summary = ran.lines().pop().unwrap();
        assert_eq!(ran.code, 0, "{summary} {}", ran.stderr);
        assert_eq!(summary["files"], 1, "{summary}");
    }
    for number in 0..EACH {
        assert!(user.read(&format!("back{number}")) == bytes(number, LENGTH), "get {number}");
        let new = user.ok(&["cat", &format!("bn:/new{number}")]).stdout;
        assert!(new == bytes(1000 + number, LENGTH), "put {number}");
    }
    let after = user.summary(&["status"]);
    assert_eq!(after["files"].as_u64().unwrap(), before + EACH, "none twice");
    assert_eq!(user.summary(&["admin", "health"])["verdict"], "healthy");
}

/// While a put waits for its input, its coordinator ends, somebody else takes the address, and `up` starts it elsewhere.
#[test]
fn a_put_follows_its_coordinator_and_gives_its_token_to_nobody_else() {
    let user = Cluster::up(3);
    let content = bytes(1, 5 << 20);
    let mut put = user.command(&["put", "-", "bn:/streamed"]);
    let put = put.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut put = Guarded(put.spawn().unwrap());
    let mut input = put.0.stdin.take().unwrap();
    let coordinator = user.member("coordinator");
    let catalog = rusqlite::Connection::open(coordinator.data.join("catalog.db")).unwrap();
    let begun = || catalog.prepare("SELECT 1 FROM lease").unwrap().exists([]).unwrap();
    wait_for("the put to have begun", begun);
    coordinator.kill();
    // The pool of another test may be there first.
    let stranger = TcpListener::bind(coordinator.url.strip_prefix("http://").unwrap()).ok();
    user.ok(&["up"]);
    assert_ne!(user.member("coordinator").url, coordinator.url);
    input.write_all(&content).unwrap();
    drop(input);
    let ran = put.end();
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(user.ok(&["cat", "bn:/streamed"]).stdout == content);
    let credentials = String::from_utf8(user.read("../state/bytenode/credentials.toml")).unwrap();
    assert!(!credentials.contains(&coordinator.url), "a token is kept for where it was");
    if let Some(stranger) = stranger {
        stranger.set_nonblocking(true).unwrap();
        let asked = stranger.accept().unwrap_err();
        assert_eq!(asked.kind(), ErrorKind::WouldBlock, "somebody was asked who is no coordinator of this pool");
    }
}
