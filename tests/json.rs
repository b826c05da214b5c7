//! The contract with scripts: every field that is promised is there, with its type, and `help json` lists them all.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::cluster::{Cluster, bytes};

/// Fields by (command, type of line), as `help json` tells them.
struct Promised(BTreeMap<(String, String), BTreeSet<String>>);

impl Promised {
    fn read(help: &str) -> Self {
        let mut promised = BTreeMap::new();
        let mut commands: Vec<String> = Vec::new();
        for line in help.lines().filter(|line| line.starts_with("  ")) {
            let line = format!("{line:26}");
            let (command, rest) = line.split_at(14);
            let (kind, fields) = rest.split_at(12);
            if !command.trim().is_empty() {
                let command = command.trim();
                // `put get rm` are three commands, `node ls` is one.
                let several = command.split(' ').all(|word| ["put", "get", "rm"].contains(&word));
                commands =
                    if several { command.split(' ').map(str::to_owned).collect() } else { vec![command.to_owned()] };
            }
            let mut fields = fields.to_owned();
            if let Some(remark) = fields.find(" (").filter(|_| fields.ends_with(')')) {
                let end = fields[remark..].find(')').unwrap() + remark;
                fields.replace_range(remark..=end, "");
            }
            while let (Some(start), Some(end)) = (fields.find(" ("), fields.find(')')) {
                fields.replace_range(start..=end, "");
            }
            for command in &commands {
                let fields = fields.split_whitespace().map(str::to_owned).collect();
                promised.insert((command.clone(), kind.trim().to_owned()), fields);
            }
        }
        Self(promised)
    }

    fn of(&self, command: &str, kind: &str) -> &BTreeSet<String> {
        let command = match (command, kind) {
            (_, "error") => "all",
            ("status", "node") => "node ls",
            ("node ls" | "node add" | "node test" | "node remove", "summary") => "node *",
            ("node set" | "node events", "summary") => "node *",
            ("node set", "node") => "node ls",
            ("node test", "check") => "node add",
            ("node drain" | "task ls" | "task show", "task") => "task *",
            ("node drain" | "task ls" | "task show", "summary") => "task *",
            _ => command,
        };
        let key = (command.to_owned(), kind.to_owned());
        self.0.get(&key).unwrap_or_else(|| panic!("help json has no line for {key:?}"))
    }

    /// Every line has exactly the fields told, each of its type.
    fn kept_by(&self, command: &str, lines: &[Value]) {
        for line in lines {
            let kind = line["type"].as_str().unwrap();
            let there: BTreeSet<String> =
                line.as_object().unwrap().keys().filter(|key| *key != "type").cloned().collect();
            assert_eq!(&there, self.of(command, kind), "{command}: {line}");
            for field in &there {
                assert!(right_type(command, kind, field, &line[field]), "{command}: {field} of {line}");
            }
        }
    }
}

fn right_type(command: &str, kind: &str, field: &str, value: &Value) -> bool {
    let time = |value: &Value| value.as_str().is_some_and(|text| text.ends_with('Z') && text.contains('T'));
    match field {
        "nodes" if kind == "chunk" => value.as_array().is_some_and(|all| all.iter().all(Value::is_string)),
        "modified" => time(value),
        "checked" | "oldest_verified" | "oldest_read" | "ended" => value.is_null() || time(value),
        "source" | "path" if matches!(kind, "failed" | "difference") || command == "health" => {
            value.is_null() || value.is_string()
        }
        "sha256" => value.is_null() || value.as_str().is_some_and(|hex| hex.len() == 64),
        "cid" | "hint" | "chunk" | "node" | "from" | "to" | "read_only" | "hold" => {
            value.is_null() || value.is_string()
        }
        "copies_min" | "reclaimable_bytes" | "epoch" | "total" => value.is_null() || value.is_u64(),
        "spread" => value.is_null() || value.is_boolean(),
        "id" => {
            if kind == "task" {
                value.is_u64()
            } else {
                value.is_string()
            }
        }
        "seconds" | "load" => value.is_number(),
        "ok" | "adopted" | "dry_run" | "deleted" | "started" | "public" | "executable" | "safe_to_delete" => {
            value.is_boolean()
        }
        "files" | "bytes" | "sent_bytes" | "resumed_bytes" | "failed" | "skipped" | "unchanged" | "size" | "chunks"
        | "new_chunks" | "copies_target" | "bad_replicas" | "entries" | "index" | "nodes" | "dirs" | "differences"
        | "used_bytes" | "capacity_bytes" | "replicas" | "usable_bytes" | "under_replicated" | "replicas_checked"
        | "findings" | "repaired" | "remaining" | "packs" | "waiting" | "bad" | "unprotected" | "left"
        | "unknown_packs" | "unread_packs" | "tasks" | "done" | "pid" | "stopped" | "exit" | "checks" | "risks" => {
            value.is_u64()
        }
        _ => value.is_string(),
    }
}

#[test]
fn every_field_is_there_and_told() {
    let user = Cluster::none();
    let promised = Promised::read(&user.ok(&["help", "json"]).text());
    assert!(promised.0.len() > 35, "{:?}", promised.0.keys());
    let mut seen = BTreeSet::new();
    let mut expect = |command: &str, exit: i32, arguments: &[&str], kinds: &[&str]| {
        let (lines, code) = user.json(arguments);
        assert_eq!(code, exit, "{arguments:?}: {lines:?}");
        promised.kept_by(command, &lines);
        let found: BTreeSet<&str> = lines.iter().map(|line| line["type"].as_str().unwrap()).collect();
        assert_eq!(found, kinds.iter().copied().collect(), "{arguments:?}: {lines:?}");
        seen.extend(kinds.iter().map(|kind| (command.to_owned(), (*kind).to_owned())));
    };
    expect("up", 0, &["up", "--nodes", "3"], &["process", "summary"]);
    user.file("tree/a.bin", &bytes(1, 3_000_000));
    user.file("tree/empty", b"");
    user.file("other", b"other");
    std::os::unix::fs::symlink("a.bin", user.work().join("tree/link")).unwrap();
    std::fs::create_dir(user.work().join("tree/dir")).unwrap();

    expect("put", 0, &["put", "-n", "tree", "bn:/"], &["file", "skipped", "summary"]);
    expect("put", 0, &["put", "tree", "bn:/"], &["file", "skipped", "summary"]);
    expect("put", 0, &["put", "--public", "tree/a.bin", "bn:/public"], &["file", "summary"]);
    expect("put", 0, &["put", "tree", "bn:/"], &["skipped", "summary"]);
    expect("put", 6, &["put", "other", "bn:/tree/a.bin"], &["failed", "summary"]);
    expect("ls", 0, &["ls"], &["entry", "summary"]);
    expect("ls", 0, &["ls", "-R"], &["entry", "summary"]);
    expect("stat", 0, &["stat", "bn:/tree/a.bin"], &["file", "chunk", "summary"]);
    expect("stat", 0, &["stat", "bn:/public"], &["file", "chunk", "summary"]);
    expect("stat", 0, &["stat", "bn:/tree"], &["dir", "summary"]);
    expect("get", 0, &["get", "-n", "bn:/tree", "back"], &["file", "summary"]);
    expect("get", 0, &["get", "bn:/tree", "back"], &["file", "summary"]);
    expect("get", 0, &["get", "bn:/tree", "back"], &["skipped", "summary"]);
    expect("get", 3, &["get", "bn:/public", "bn:/nowhere", "back"], &["file", "failed", "summary"]);
    expect("get", 5, &["get", "bn:/nowhere"], &["error"]);
    expect("check", 12, &["check", "tree", "bn:/"], &["difference", "summary"]);
    expect("cp", 0, &["cp", "bn:/public", "bn:/p2"], &["copied", "summary"]);
    expect("mv", 0, &["mv", "bn:/p2", "bn:/p3"], &["moved", "summary"]);
    expect("mkdir", 0, &["mkdir", "bn:/m"], &["dir", "summary"]);
    expect("rm", 3, &["rm", "bn:/p3", "bn:/nowhere"], &["removed", "failed", "summary"]);
    expect("whoami", 0, &["whoami"], &["user", "summary"]);
    expect("node ls", 0, &["admin", "node", "ls"], &["node", "summary"]);
    expect("node test", 0, &["admin", "node", "test", "n1"], &["check", "summary"]);
    expect("scrub", 0, &["admin", "scrub", "--all"], &["node", "summary"]);
    expect("node set", 0, &["admin", "node", "set", "n1", "--weight", "100"], &["node", "summary"]);
    expect("node drain", 0, &["admin", "node", "drain", "n1", "--detach"], &["task", "summary"]);
    expect("node set", 0, &["admin", "node", "drain", "n1", "--undo"], &["node", "summary"]);
    expect("node events", 0, &["admin", "node", "events", "n1"], &["event", "summary"]);
    expect("task ls", 0, &["admin", "task", "ls"], &["task", "summary"]);
    expect("task show", 0, &["admin", "task", "show", "1", "--wait"], &["task", "log", "summary"]);
    expect("gc", 0, &["admin", "gc", "--now"], &["summary"]);
    std::os::unix::fs::OpenOptionsExt::mode(std::fs::File::options().write(true).create(true), 0o600)
        .open(user.work().join("secret"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"correct horse"))
        .unwrap();
    let words = ["admin", "backup", "--passphrase-file", "secret", "b"];
    expect("backup", 0, &words, &["backup", "summary"]);
    expect("adopt", 0, &["admin", "adopt", "--dry-run"], &["node", "summary"]);
    expect("status", 0, &["status"], &["node", "summary"]);
    expect("doctor", 0, &["doctor"], &["check", "summary"]);
    expect("health", 0, &["admin", "health"], &["summary"]);
    user.kill("n1");
    let kinds = ["finding", "summary"];
    expect("health", 12, &["admin", "health", "--dry-run", "--now"], &kinds);
    expect("down", 0, &["down"], &["stopped", "summary"]);
    expect("logout", 7, &["logout"], &["error"]);
}
