//! Tests of who a node is and whom it obeys.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::super::disk::{read_private, write_private};
use super::super::identity::{Identity, IdentityError, JoinRequest, Reset, Seen};
use super::super::memory_disk::MemoryDisk;
use super::super::testing::{GIB, pool};
use crate::grant::{Grant, Nonce, PackReceipt, SigningKey, Start, Verb};
use crate::id::{PackRoot, PoolId};
use crate::seam::Seam;

fn open(disk: &MemoryDisk, reset: Reset) -> Result<Identity, IdentityError> {
    Identity::open(Arc::new(disk.clone()), &Seam::real(), reset)
}

fn coordinator() -> SigningKey {
    SigningKey::from_seed(&[5; 32])
}

fn seen(epoch: u64, instance: &str, earlier_until: i64) -> Seen {
    Seen { start: Start { epoch, instance: instance.to_owned() }, earlier_until }
}

fn code(disk: &MemoryDisk) -> Option<String> {
    disk.get(Path::new("join.code")).map(|bytes| String::from_utf8(bytes).unwrap())
}

/// A node that has joined start 4, "a".
fn joined(disk: &MemoryDisk) -> Identity {
    let node = open(disk, Reset::Keep).unwrap();
    let coordinator = coordinator().public().to_string();
    let code = code(disk).unwrap();
    node.join(&JoinRequest { code, pool: pool(), coordinator, epoch: 4, instance: "a".to_owned() }).unwrap();
    node
}

#[test]
fn a_node_joins_once_with_its_code_and_keeps_the_higher_epoch() {
    let disk = MemoryDisk::new(100 * GIB);
    let open = |reset| Identity::open(Arc::new(disk.clone()), &Seam::real(), reset).unwrap();
    let node = open(Reset::Keep);
    let code = String::from_utf8(disk.get(Path::new("join.code")).unwrap()).unwrap();
    let coordinator = SigningKey::from_seed(&[5; 32]).public().to_string();
    let start = |epoch, instance: &str| Start { epoch, instance: instance.to_owned() };
    let seen = |epoch, instance: &str| Seen { start: start(epoch, instance), earlier_until: 0 };
    let good = JoinRequest { code: code.clone(), pool: pool(), coordinator, epoch: 4, instance: "a".to_owned() };
    assert!(matches!(node.hello(&seen(1, "a")), Err(IdentityError::NotJoined)));
    for bad in ["", "AAAA", &code.trim()[1..]] {
        let bad = JoinRequest { code: bad.to_owned(), ..good.clone() };
        assert!(matches!(node.join(&bad), Err(IdentityError::Code)));
    }
    node.join(&good).unwrap();
    assert!(disk.get(Path::new("join.code")).is_none());
    let id = node.id().clone();
    disk.crash();
    let node = open(Reset::Keep);
    assert_eq!((node.id(), node.pool()), (&id, Some(pool())));
    node.join(&JoinRequest { code: "used".to_owned(), ..good.clone() }).unwrap();
    let other = JoinRequest { pool: PoolId::from_bytes([2; 16]), ..good.clone() };
    assert!(matches!(node.join(&other), Err(IdentityError::Joined)));
    assert_eq!(node.hello(&seen(7, "b")).unwrap(), start(4, "a"));
    assert_eq!(node.hello(&seen(6, "c")).unwrap(), start(7, "b"));
    assert_eq!(node.hello(&seen(7, "c")).unwrap(), start(7, "b"));
    assert_eq!(node.seen().unwrap(), start(7, "b"));
    let node = open(Reset::Forget);
    assert_eq!((node.id(), node.pool()), (&id, None));
    assert_ne!(disk.get(Path::new("join.code")).unwrap(), code.as_bytes());
    assert!(matches!(node.join(&good), Err(IdentityError::Code)));
}

#[test]
fn a_node_keeps_its_code_until_it_joins_and_has_none_afterwards() {
    let disk = MemoryDisk::new(100 * GIB);
    let id = open(&disk, Reset::Keep).unwrap().id().clone();
    let first = code(&disk).unwrap();
    assert_eq!(open(&disk, Reset::Keep).unwrap().id(), &id);
    assert_eq!(code(&disk).unwrap(), first);
    joined(&disk);
    assert!(code(&disk).is_none());
    assert_eq!(open(&disk, Reset::Keep).unwrap().pool(), Some(pool()));
    disk.put(Path::new("join.code"), first.into_bytes());
    open(&disk, Reset::Keep).unwrap();
    assert!(code(&disk).is_none(), "one that a crash left is used up too");
    open(&disk, Reset::Forget).unwrap();
    disk.crash();
    assert_eq!(open(&disk, Reset::Keep).unwrap().pool(), None, "what is forgotten stays forgotten");
}

/// A node that cannot read its state is no new node: made anew, it would leave its pool and forget whom it obeys.
#[test]
fn a_state_that_cannot_be_read_or_understood_is_never_made_anew() {
    let disk = MemoryDisk::new(100 * GIB);
    joined(&disk);
    let state = disk.get(Path::new("node.json")).unwrap();
    disk.set_unreadable(true);
    assert!(matches!(open(&disk, Reset::Keep), Err(IdentityError::State { file: "node.json", .. })));
    disk.set_unreadable(false);
    let text = String::from_utf8(state.clone()).unwrap();
    for damaged in [text.replace("\"version\": 1", "\"version\": 2"), text[1..].to_owned(), String::new()] {
        assert_ne!(damaged, text);
        disk.put(Path::new("node.json"), damaged.into_bytes());
        assert!(matches!(open(&disk, Reset::Keep), Err(IdentityError::Damaged { file: "node.json" })));
    }
    disk.put(Path::new("node.json"), state);
    assert_eq!(open(&disk, Reset::Keep).unwrap().pool(), Some(pool()));
}

#[test]
fn a_private_file_is_read_up_to_its_longest_and_replaced_whole() {
    let disk = MemoryDisk::new(100 * GIB);
    let path = Path::new("x.txt");
    assert_eq!(read_private(&disk, path, 4).unwrap(), None);
    disk.put(Path::new("x.new"), b"half".to_vec());
    write_private(&disk, path, b"1234").unwrap();
    disk.crash();
    assert_eq!(read_private(&disk, path, 4).unwrap().unwrap(), b"1234");
    for most in [0, 2, 3] {
        assert!(read_private(&disk, path, most).is_err(), "{most}");
    }
}

#[test]
fn an_instance_is_named_in_1_to_128_plain_characters() {
    let disk = MemoryDisk::new(100 * GIB);
    let node = joined(&disk);
    let (longest, too_long) = ("x".repeat(128), "x".repeat(129));
    for (name, fits) in [("b", true), (&longest, true), ("", false), (&too_long, false), ("a\nb", false)] {
        let said = node.hello(&seen(5, name, 0));
        assert_eq!(said.is_ok(), fits, "{name:?}: {said:?}");
    }
    assert!(node.hello(&seen(5, &"x".repeat(1000), 0)).is_err());
}

/// Two starts have the same keys, so only the start decides: the last one rules, a later one is about to, and of earlier
/// ones only writes go on that were granted before, for as long as the last start said.
#[test]
fn only_the_last_start_changes_anything_but_writes_that_go_on() {
    let disk = MemoryDisk::new(100 * GIB);
    let node = joined(&disk);
    node.hello(&seen(6, "b", 100)).unwrap();
    let root = PackRoot::of(b"pack");
    let now = Timestamp::from_second(50).unwrap();
    let write = Verb::Write { root, bytes: 1 };
    let may = |epoch, instance: &str, what: &Verb, until| {
        let by = Start { epoch, instance: instance.to_owned() };
        let grant = Grant { by, pool: pool(), node: node.id().clone(), what: what.clone(), until };
        let token = coordinator().grant(&grant);
        assert_eq!(node.permitted(token.expose(), now).unwrap(), (pool(), what.clone()), "to read is permitted");
        match node.permitted_to_change(token.expose(), now) {
            Ok(permitted) => permitted == (pool(), what.clone()),
            Err(IdentityError::Superseded(6)) => false,
            Err(error) => panic!("{error}"),
        }
    };
    for (epoch, instance, until, writes, manages) in [
        (6, "b", 999, true, true),
        (7, "c", 999, true, true),
        (6, "c", 90, false, false),
        (5, "b", 99, true, false),
        (5, "a", 100, true, false),
        (5, "a", 101, false, false),
        (4, "a", 100, true, false),
    ] {
        let of = format!("epoch {epoch}, {instance}, until {until}");
        assert_eq!(may(epoch, instance, &write, until), writes, "to write, {of}");
        assert_eq!(may(epoch, instance, &Verb::Manage, until), manages, "to manage, {of}");
    }
}

#[test]
fn a_node_signs_for_itself() {
    let disk = MemoryDisk::new(100 * GIB);
    let node = open(&disk, Reset::Keep).unwrap();
    let nonce = Nonce([3; 32]);
    assert!(node.public().is_proved(&nonce, &node.prove(&nonce)));
    assert!(!node.public().is_proved(&Nonce([4; 32]), &node.prove(&nonce)));
    let root = PackRoot::of(b"pack");
    let receipt = node.receipt(pool(), root, 9, Timestamp::from_second(50).unwrap());
    let said = PackReceipt { pool: pool(), node: node.id().clone(), root, bytes: 9, synced: 50 };
    assert_eq!(node.public().read_receipt(&receipt).unwrap(), said);
}
