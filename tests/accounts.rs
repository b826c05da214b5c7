//! Who is let in, and to whom a token is shown, on the pool that `up` started.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::support::cluster::{Cluster, Guarded, Ran, wait_for};

fn login(user: &Cluster, url: &str) -> Ran {
    let token = File::open(user.data().join("coordinator/admin.token")).unwrap();
    Ran::of(user.command(&["login", url, "--with-token"]).stdin(token).output().unwrap())
}

/// Logging in kept the given token itself, and logging out revoked it: the admin was locked out for ever.
#[test]
fn logging_out_revokes_only_what_logging_in_made() {
    let user = Cluster::up(0);
    let url = user.member("coordinator").url;
    for _ in 0..2 {
        assert_eq!(login(&user, &url).code, 0);
        user.ok(&["whoami"]);
        user.ok(&["logout"]);
        user.exits(4, &["whoami"]);
    }
}

/// The first token was written once, after the account was made: lost in between or later, there was no way in.
#[test]
fn who_can_read_the_data_directory_is_admin() {
    let user = Cluster::up(0);
    let token = user.data().join("coordinator/admin.token");
    let first = fs::read(&token).unwrap();
    user.ok(&["logout"]);
    fs::remove_file(&token).unwrap();
    user.ok(&["up"]);
    assert_eq!(user.summary(&["status"])["nodes"], 0);
    let second = fs::read(&token).unwrap();
    assert_ne!(first, second);

    // The lost one lets nobody in any more, and counts as lost itself.
    user.ok(&["logout"]);
    fs::write(&token, first).unwrap();
    user.ok(&["up"]);
    let third = fs::read(&token).unwrap();
    assert_ne!(second, third);
    user.kill("coordinator");
    user.ok(&["up"]);
    assert_eq!(fs::read(&token).unwrap(), third, "one that is good is kept");
}

/// The token was sent to whatever listened where the coordinator had been.
#[test]
fn a_token_is_not_shown_to_another_process() {
    let user = Cluster::up(0);
    let url = user.member("coordinator").url;
    user.kill("coordinator");
    // Somebody's outgoing connection may have the port for a moment.
    let mut stranger = None;
    wait_for("the port to be free", || {
        stranger = TcpListener::bind(url.strip_prefix("http://").unwrap()).ok();
        stranger.is_some()
    });
    let stranger = stranger.unwrap();
    stranger.set_nonblocking(true).unwrap();
    for arguments in [&["ls"][..], &["status"], &["whoami"], &["admin", "node", "ls"], &["logout"], &["doctor"]] {
        let ran = user.run(arguments);
        let expected = if arguments == ["doctor"] { 12 } else { 7 };
        assert_eq!(ran.code, expected, "{arguments:?}\n{}{}", ran.text(), ran.stderr);
        assert!(ran.text().contains("bytenode up") || ran.stderr.contains("hint: bytenode up"), "{}", ran.stderr);
        assert_eq!(stranger.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "{arguments:?}");
    }
    user.ok(&["up"]);
    user.ok(&["ls"]);
    assert_eq!(stranger.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_coordinator_run_by_hand_takes_the_place_of_the_one_that_up_started() {
    let user = Cluster::up(0);
    let url = user.member("coordinator").url;
    user.ok(&["down"]);
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_bytenoded"));
    user.environment(&mut daemon).arg("--data").arg(user.data().join("coordinator"));
    daemon.args(["--listen", url.strip_prefix("http://").unwrap()]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut daemon = Guarded(daemon.spawn().unwrap());
    assert_eq!(daemon.first_line().trim(), url);
    user.exits(7, &["ls"]);
    assert_eq!(login(&user, &url).code, 0);
    user.ok(&["ls"]);
}

/// Who was refused for a token of the environment was told to sign in, which changes nothing.
#[test]
fn a_wrong_token_from_the_environment_is_named() {
    let user = Cluster::up(0);
    let ran = Ran::of(user.command(&["ls"]).env("BYTENODE_TOKEN", "bnt_0_0").output().unwrap());
    assert_eq!(ran.code, 4);
    assert!(ran.stderr.contains("hint: the token is that of BYTENODE_TOKEN"), "{}", ran.stderr);
}
