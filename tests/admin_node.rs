//! `admin node`, with nodes that run beside those that `up` started.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;

use crate::support::cluster::{Cluster, Guarded};

/// A node that ends with the value.
pub(crate) struct Extra {
    _process: Guarded,
    /// Where it serves.
    pub url: String,
    /// Where it keeps its data.
    pub data: PathBuf,
}

/// Starts one.
pub(crate) fn extra(user: &Cluster, name: &str, listen: &str) -> Extra {
    let data = user.work().join(name);
    let mut command = user.command(&["internal-node", "--listen", listen, "--stop-on-eof", "--data"]);
    command.arg(&data).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Guarded(command.spawn().unwrap());
    let url = process.first_line().trim().to_owned();
    Extra { _process: process, url, data }
}

fn add(user: &Cluster, node: &Extra, more: &[&str]) -> (Vec<Value>, String) {
    let code = node.data.join("join.code");
    let mut arguments = vec!["--json", "admin", "node", "add", &node.url];
    if code.exists() {
        arguments.extend(["--token-file", code.to_str().unwrap()]);
    }
    let ran = user.ok(&[&arguments[..], more].concat());
    (ran.lines(), ran.stderr)
}

fn nodes(user: &Cluster) -> Vec<Value> {
    let (mut lines, _) = user.json(&["admin", "node", "ls"]);
    lines.pop();
    lines
}

fn code_of(data: &Path) -> Option<String> {
    std::fs::read_to_string(data.join("join.code")).ok()
}

/// A dry run had a built-in node join, which cannot be undone from here; and another loopback address was another zone.
#[test]
#[cfg(target_os = "linux")]
fn a_dry_run_joins_nothing_and_a_loopback_address_is_this_machine() {
    let user = Cluster::up(1);
    let node = extra(&user, "extra", "127.0.0.2:0");
    let code = code_of(&node.data).unwrap();
    let (lines, said) = add(&user, &node, &["-n"]);
    assert_eq!(lines.last().unwrap()["dry_run"], true, "{said}");
    assert_eq!((code_of(&node.data), nodes(&user).len()), (Some(code), 1));
    add(&user, &node, &[]);
    let zones: Vec<Value> = nodes(&user).into_iter().map(|node| node["zone"].clone()).collect();
    assert_eq!((zones.len(), &zones[0]), (2, &zones[1]));
}

/// A node added again lost its name, zone and capacity.
#[test]
fn adding_a_known_node_changes_only_what_is_given() {
    let user = Cluster::up(0);
    let node = extra(&user, "extra", "127.0.0.1:0");
    add(&user, &node, &["--name", "nas", "--zone", "attic", "--capacity", "5G"]);
    let before = nodes(&user);
    let (_, said) = add(&user, &node, &[]);
    assert!(said.contains("Already in the pool: nas"), "{said}");
    assert_eq!(nodes(&user), before);
    add(&user, &node, &["--zone", "cellar"]);
    let after = nodes(&user);
    assert_eq!((&after[0]["name"], &after[0]["zone"]), (&Value::from("nas"), &Value::from("cellar")));
    assert_eq!(after[0]["capacity_bytes"], before[0]["capacity_bytes"]);
}

/// After a removal the next name made up was one that was taken.
#[test]
fn names_made_up_are_free() {
    let user = Cluster::up(0);
    let added: Vec<Extra> = ["a", "b", "c"].map(|name| extra(&user, name, "127.0.0.1:0")).into();
    let name = |lines: &[Value]| lines.iter().find(|line| line["type"] == "node").unwrap()["name"].clone();
    assert_eq!(name(&add(&user, &added[0], &[]).0), "node1");
    assert_eq!(name(&add(&user, &added[1], &[]).0), "node2");
    user.ok(&["admin", "node", "remove", "node1"]);
    assert_eq!(name(&add(&user, &added[2], &[]).0), "node1");
}
