//! How the daemons start and stop, as `up` and `demo` rely on it, by the example of a built-in node.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts a node on a port of its own choice; its address once it serves.
fn start(data: &Path, more: &[&str]) -> (Child, String) {
    start_at("127.0.0.1:0", data, more)
}

fn start_at(listen: &str, data: &Path, more: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bytenode"))
        .args(["internal-node", "--listen", listen, "--data"])
        .arg(data)
        .args(more)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut url = String::new();
    out.read_line(&mut url).unwrap();
    if more.contains(&"--detach") {
        // It lets go of standard output, so that whoever waits for the end of it does not wait for ever.
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
    }
    (child, url)
}

fn serves(url: &str) -> bool {
    let address = url.strip_prefix("http://").and_then(|rest| rest.strip_suffix('\n'));
    TcpStream::connect(address.unwrap_or_else(|| panic!("{url:?} is not a bare URL"))).is_ok()
}

#[test]
fn a_tied_daemon_ends_with_the_pipe_that_it_was_given() {
    let home = tempfile::tempdir().unwrap();
    let (mut child, url) = start(home.path(), &["--stop-on-eof"]);
    assert!(serves(&url));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!serves(&url));
}

/// What `up` starts again finds its address taken in the last moment, perhaps; what people start is where they said.
#[test]
fn a_daemon_may_be_told_to_listen_elsewhere_where_the_address_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (mut child, url) = start_at(&address, home.path(), &["--stop-on-eof"]);
    assert_eq!((url.as_str(), child.wait().unwrap().success()), ("", false));
    let (mut child, url) = start_at(&address, home.path(), &["--stop-on-eof", "--any-port"]);
    assert!(serves(&url) && !url.contains(&address), "{url:?}");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_detached_daemon_leads_its_own_session_and_stops_gracefully() {
    let home = tempfile::tempdir().unwrap();
    let (mut child, url) = start(home.path(), &["--detach"]);
    assert!(serves(&url));
    let pid = rustix::process::Pid::from_child(&child);
    assert_eq!(rustix::process::getsid(Some(pid)).unwrap(), pid);
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// `up` was killed between starting a process and writing it down: nobody would ever stop it.
#[test]
fn a_detached_daemon_that_nobody_has_written_down_ends() {
    let home = tempfile::tempdir().unwrap();
    let (mut child, url) = start(home.path(), &["--detach"]);
    assert!(serves(&url));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(!serves(&url));
}

#[test]
fn a_daemon_refuses_addresses_that_others_could_reach() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["--data", "d", "--listen", "0.0.0.0:0"][..], &["node", "--data", "d", "--listen", "[::]:0"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_bytenoded"))
            .args(arguments)
            .env_clear()
            .current_dir(home.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("hint: listen on 127.0.0.1:0"), "{arguments:?}");
    }
}

#[test]
fn a_configuration_is_checked_before_anything_starts() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("bytenoded.toml");
    let told = |text: &str, more: &[&str], environment: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_bytenoded"))
            .args(["--check-config", "--config", "bytenoded.toml"])
            .args(more)
            .env_clear()
            .envs(environment.iter().copied())
            .current_dir(home.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        format!("{}exit {}", text, output.status.code().unwrap())
    };
    let example = include_str!("../config.example.toml");
    assert!(told(example, &[], &[]).ends_with("add --data DIR when you start.\nexit 0"));
    insta::assert_snapshot!(told("[pool]\nreplica = 2", &[], &[]), @r"
    error: bytenoded.toml is wrong
    caused by: unknown key pool.replica; did you mean pool.replicas?
    exit 2
    ");
    // Command line, environment, file, default.
    let (file, environment) = ("data = 'a'\nlisten = '127.0.0.1:1'", [("BYTENODED_LISTEN", "127.0.0.1:2")]);
    let right = "The configuration is right.";
    assert_eq!(told(file, &[], &[]), format!("{right} Data: a   Address: 127.0.0.1:1\nexit 0"));
    assert_eq!(told(file, &[], &environment), format!("{right} Data: a   Address: 127.0.0.1:2\nexit 0"));
    let flags = ["--data", "b", "--listen", "127.0.0.1:3"];
    assert_eq!(told(file, &flags, &environment), format!("{right} Data: b   Address: 127.0.0.1:3\nexit 0"));
    assert!(told("listen = '0.0.0.0:1'", &[], &[]).contains("hint: listen on 127.0.0.1:1"));
    assert!(!home.path().join("a").exists());
}
