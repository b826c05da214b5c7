//! How far a command is, when it is asked by a signal. Linux only: `/proc` tells when a process listens.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use rustix::process::Signal;

use crate::support::cluster::{Cluster, Guarded, Ran, bytes, signal, wait_for};

/// Sends SIGUSR1 once it is listened to, which would end the process before.
fn ask(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    wait_for("a process that listens", || {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim().to_owned();
        u64::from_str_radix(&caught, 16).unwrap() & (1 << (Signal::USR1.as_raw() - 1)) != 0
    });
    signal(child, Signal::USR1);
}

#[test]
fn a_put_says_how_far_it_is_even_if_it_is_to_be_quiet() {
    let user = Cluster::up(1);
    let mut command = user.command(&["-q", "put", "-", "bn:/x", "--replicas", "1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut put = Guarded(command.spawn().unwrap());
    let mut input = put.0.stdin.take().unwrap();
    input.write_all(&bytes(5, 80 << 20)).unwrap();
    let mut told = BufReader::new(put.0.stderr.take().unwrap());
    for _ in 0..2 {
        ask(&put.0);
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert!(line.starts_with("standard input  1 file  ") && line.contains("  read "), "{line:?}");
        assert!(line.contains(" MiB  read ") && !line.contains('%') && line.ends_with("/s\n"), "{line:?}");
    }
    drop(input);
    assert_eq!(put.0.wait().unwrap().code(), Some(0));
}

/// What has nothing to count says how long it has run.
#[test]
fn every_command_answers() {
    let user = Cluster::up(1);
    let coordinator = user.member("coordinator");
    for arguments in [&["admin", "health"][..], &["--json", "rm", "-rf", "bn:/x"]] {
        coordinator.signal(Signal::STOP);
        let mut command = user.command(arguments);
        let mut child = Guarded(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        ask(&child.0);
        let mut told = BufReader::new(child.0.stderr.take().unwrap());
        let mut line = String::new();
        told.read_line(&mut line).unwrap();
        assert!(line.starts_with("still at it, after "), "{arguments:?}: {line:?}");
        coordinator.signal(Signal::CONT);
        child.0.stderr = Some(told.into_inner());
        let ran: Ran = child.end();
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.stderr);
    }
}
