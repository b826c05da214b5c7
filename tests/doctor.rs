//! `doctor` over real processes: what is fine, what may go wrong, and what is wrong, each seen as it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::admin_node::extra;
use crate::support::cluster::{Cluster, Ran};
use crate::support::kubo::Kubo;
use crate::support::proxy::{Proxy, Spoil};

/// What `doctor` says at the most, whatever hangs. It promises half a minute; the rest is for a machine at work.
const LIMIT: Duration = Duration::from_secs(40);

/// What a check found: its result, and its message.
fn found(lines: &[Value], check: &str) -> (String, String) {
    let line = lines.iter().find(|line| line["check"] == check).unwrap_or_else(|| panic!("{check}: {lines:?}"));
    let hint = &line["hint"];
    assert_eq!(hint.is_null(), line["result"] == "ok", "what is not fine has a hint: {line}");
    (line["result"].as_str().unwrap().to_owned(), line["message"].as_str().unwrap().to_owned())
}

fn result(lines: &[Value], check: &str) -> String {
    found(lines, check).0
}

/// The text without what differs from one machine and one moment to another.
fn masked(user: &Cluster, ran: &Ran) -> String {
    let home = user.work().parent().unwrap().display().to_string();
    let text = ran.text().replace(env!("CARGO_BIN_EXE_bytenode"), "bytenode").replace(&home, "HOME");
    let (mut out, mut in_number) = (String::new(), false);
    for c in text.replace(" TiB", " GiB").replace("any number at once", "1 at once").chars() {
        let number = c.is_ascii_digit();
        if !number {
            out.push(c);
        } else if !in_number {
            out.push('N');
        }
        in_number = number;
    }
    out
}

#[test]
fn a_pool_that_is_well() {
    let user = Cluster::up(3);
    let ran = user.ok(&["doctor"]);
    insta::assert_snapshot!(masked(&user, &ran), @r"
    ok    configuration:   HOME/config/bytenode/config.toml (there is none, and none is needed)
    ok    credentials:     HOME/state/bytenode/credentials.toml
    ok    state:           HOME/state/bytenode is yours alone
    ok    logs:            HOME/state/bytenode/log
    ok    open files:      N at once
    ok    processes:       all that up started run
    ok    coordinator:     answers in N ms; signed in as admin
    ok    version:         N.N.N, here and there
    ok    clock:           within N s of the coordinator's
    ok    charge:          the coordinator takes changes
    ok    catalog disk:    N.N GiB free; the catalog has N.N KiB
    ok    nodes:           N for N copies each
    risk  zones:           all nodes share one machine, and its fate
          add nodes on other machines: bytenode admin node add URL
    ok    room:            N.N GiB more at N copies each
    ok    node nN:         online, N.N.N, reached in N ms, clock within N s, N% full
    ok    node nN:         online, N.N.N, reached in N ms, clock within N s, N% full
    ok    node nN:         online, N.N.N, reached in N ms, clock within N s, N% full
    risk  backup:          none was ever made; losing the coordinator's directory without one loses everything
          each night, from cron: N N * * * bytenode admin backup -q --passphrase-file ~/backup.passphrase /mnt/other/bytenode-$(date +\%F)
    ok    copies:          every chunk has its copies
    ");
    assert!(ran.stderr.ends_with(" risks, 0 failed.\n"), "{}", ran.stderr);
}

#[test]
fn nodes_that_are_gone_or_hang_are_told_in_time() {
    let user = Cluster::up(4);
    user.kill("n1");
    user.member("n2").signal(Signal::STOP);
    let begun = Instant::now();
    let (lines, code) = user.json(&["doctor"]);
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert_eq!(code, 12);
    assert_eq!(found(&lines, "processes"), ("failed".into(), "stopped: n1".into()));
    for name in ["n1", "n2"] {
        assert_eq!(result(&lines, &format!("node {name}")), "risk", "for less than a minute: {lines:?}");
    }
    let (how, what) = found(&lines, "reach n1");
    assert!(how == "failed" && what.contains(&user.member("n1").url) && what.contains("refused"), "{what}");
    let (how, what) = found(&lines, "reach n2");
    assert!(how == "failed" && what.contains("did not answer within 5 s"), "{what}");
    assert_eq!(result(&lines, "reach n3"), "ok");
    let hint = |check: &str| lines.iter().find(|line| line["check"] == check).unwrap()["hint"].clone();
    assert_eq!((hint("reach n1"), hint("reach n2")), ("bytenode up".into(), "bytenode admin node test n2".into()));
}

#[test]
fn a_coordinator_that_hangs_is_told_in_time() {
    let user = Cluster::up(0);
    user.member("coordinator").signal(Signal::STOP);
    let begun = Instant::now();
    let (lines, code) = user.json(&["doctor"]);
    assert!(code == 12 && begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert!(found(&lines, "coordinator").1.contains("did not answer within"), "{lines:?}");
}

#[test]
fn what_is_wrong_on_this_machine_is_told() {
    let user = Cluster::up(0);
    let state = user.state_file().parent().unwrap().to_owned();
    let doctor = |limit: u32| {
        let mut command = Command::new("sh");
        user.environment(&mut command).args(["-c", "ulimit -Sn $0 && exec \"$1\" --json doctor"]);
        Ran::of(command.arg(limit.to_string()).arg(env!("CARGO_BIN_EXE_bytenode")).output().unwrap()).lines()
    };
    let well = doctor(1024);
    for check in ["credentials", "state", "logs", "open files", "processes"] {
        assert_eq!(result(&well, check), "ok", "{well:?}");
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(state.join("credentials.toml"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(state.join("log"), state.join("old")).unwrap();
    fs::write(state.join("log"), b"").unwrap();
    let ill = doctor(256);
    assert_eq!(result(&ill, "state"), "risk");
    assert_eq!(result(&ill, "open files"), "risk");
    assert_eq!(result(&ill, "logs"), "failed");
    let line = ill.iter().find(|line| line["check"] == "credentials").unwrap();
    assert!(line["result"] == "failed" && line["hint"].as_str().unwrap().starts_with("chmod 600 "), "{line}");
}

#[test]
fn clocks_and_strangers_are_told() {
    let user = Cluster::up(1);
    let node = extra(&user, "extra", "127.0.0.1:0");
    let way = Proxy::to(&node.url);
    let code = node.data.join("join.code");
    user.ok(&["admin", "node", "add", &way.url, "--name", "far", "--token-file", code.to_str().unwrap()]);
    let look = || user.json(&["doctor"]).0;
    assert_eq!(result(&look(), "clock far"), "ok");
    way.spoil(Some(Spoil::Clock(-90)));
    let (how, what) = found(&look(), "clock far");
    assert!(how == "risk" && what.starts_with("its clock is ") && what.contains("behind"), "{what}");
    way.spoil(Some(Spoil::Clock(400)));
    let (how, what) = found(&look(), "clock far");
    assert!(how == "failed" && what.contains("6 minutes ahead of"), "{what}");
    way.spoil(None);
    way.lead_to(&user.member("n1").url);
    let (how, what) = found(&look(), "reach far");
    assert!(how == "failed" && what.starts_with(&format!("somebody else answers at {}", way.url)), "{what}");

    let way = Proxy::to(&user.member("coordinator").url);
    let token = fs::read_to_string(user.member("coordinator").data.join("admin.token")).unwrap();
    let look = || {
        let mut command = user.command(&["--json", "doctor"]);
        command.env("BYTENODE_URL", &way.url).env("BYTENODE_TOKEN", token.trim());
        found(&Ran::of(command.output().unwrap()).lines(), "clock")
    };
    assert_eq!(look().0, "ok");
    way.spoil(Some(Spoil::Clock(120)));
    let (how, what) = look();
    assert!(how == "risk" && what.contains("behind the coordinator's"), "{what}");
    way.spoil(Some(Spoil::Clock(-3600)));
    let (how, what) = look();
    assert!(how == "failed" && what.contains("ahead of the coordinator's"), "{what}");
}

#[test]
fn a_kubo_is_told_with_its_risks() {
    let Some(kubo) = Kubo::start(&[("Datastore.BlockKeyCacheSize", json!(1000))]) else { return };
    let user = Cluster::up(2);
    user.ok(&["admin", "node", "add", &kubo.api, "--name", "nas", "--gateway", &kubo.gateway]);
    let (lines, _) = user.json(&["doctor"]);
    assert_eq!(result(&lines, "node nas"), "ok");
    let (how, what) = found(&lines, "version nas");
    assert!(how == "ok" && what.starts_with("kubo "), "{what}");
    assert_eq!(result(&lines, "reach nas"), "ok");
    assert_eq!((result(&lines, "block_cache nas"), result(&lines, "gc nas")), ("risk".into(), "risk".into()));
    user.ok(&["admin", "node", "add", &kubo.api, "--access", "relay", "--gateway", &kubo.gateway]);
    let (lines, _) = user.json(&["doctor"]);
    assert_eq!(found(&lines, "reach nas"), ("ok".into(), "through the coordinator".into()));
}
