//! Damage on the disks of real Kubo daemons, with their block cache live and without, is mended where it is.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::cluster::{Cluster, bytes};
use crate::support::kubo::Kubo;

const MIB: usize = 1 << 20;

fn three(user: &Cluster, cache: u64) -> Option<Vec<Kubo>> {
    (1..=3)
        .map(|number| {
            let kubo = Kubo::start(&[("Datastore.BlockKeyCacheSize", json!(cache))])?;
            user.ok(&["admin", "node", "add", &kubo.api, "--name", &format!("k{number}")]);
            Some(kubo)
        })
        .collect()
}

/// Files of whole chunks that were not there before.
fn chunk_files(kubo: &Kubo, before: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = kubo.block_files();
    files.retain(|file| file.metadata().unwrap().len() == MIB as u64 + 16 && !before.contains(file));
    files.sort();
    files
}

fn findings(lines: &[Value], kind: &str) -> usize {
    lines.iter().filter(|line| line["type"] == "finding" && line["kind"] == kind).count()
}

/// With the cache live, Kubo answers an import of the right bytes over wrong or lost ones with success and does nothing:
/// what was mended so was not mended, and three nodes leave no other place.
#[test]
fn wrong_and_lost_blocks_are_mended_where_they_are() {
    for cache in [65_536, 0] {
        let user = Cluster::up(0);
        let Some(kubos) = three(&user, cache) else { return };
        let before = kubos[0].block_files();
        user.file("a", &bytes(1, 6 * MIB));
        user.ok(&["put", "a", "bn:/"]);
        let files = chunk_files(&kubos[0], &before);
        assert_eq!(files.len(), 6);
        let right: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        let mut wrong = right[1].clone();
        wrong[1000] ^= 1;
        fs::write(&files[1], &wrong).unwrap();
        fs::write(&files[2], &right[2][..700_000]).unwrap();
        fs::remove_file(&files[4]).unwrap();

        let (lines, code) = user.json(&["admin", "health", "--read"]);
        let summary = lines.last().unwrap();
        assert_eq!((code, &summary["verdict"]), (0, &json!("healthy")), "cache {cache}: {lines:?}");
        assert_eq!((findings(&lines, "corrupt"), findings(&lines, "missing")), (2, 1), "cache {cache}: {lines:?}");
        for (file, right) in files.iter().zip(&right) {
            assert!(fs::read(file).unwrap() == *right, "cache {cache}: {}", file.display());
        }
        // Everything is pinned: a collection takes nothing.
        user.ok(&["admin", "gc", "--now"]);
        kubos[0].command().args(["repo", "gc", "-q"]).output().unwrap();
        assert_eq!(chunk_files(&kubos[0], &before), files, "cache {cache}");
        let (lines, code) = user.json(&["admin", "health", "--read", "--dry-run"]);
        assert_eq!((code, lines.last().unwrap()["findings"].as_u64()), (0, Some(0)), "cache {cache}: {lines:?}");
        user.ok(&["get", "bn:/a", "back"]);
        assert_eq!(user.read("back"), user.read("a"));
    }
}

/// A wrong byte shows in no listing. A scrub finds it, on every node side by side, and it is mended where it is.
#[test]
fn a_scrub_finds_what_no_listing_shows() {
    for cache in [65_536, 0] {
        let user = Cluster::up(0);
        let Some(kubos) = three(&user, cache) else { return };
        let before: Vec<_> = kubos.iter().map(Kubo::block_files).collect();
        user.file("a", &bytes(1, 6 * MIB));
        user.ok(&["put", "a", "bn:/"]);
        let (lines, code) = user.json(&["admin", "scrub", "--all"]);
        let summary = lines.last().unwrap();
        assert_eq!((code, summary["packs"].as_u64(), summary["bad"].as_u64()), (0, Some(3), Some(0)), "{lines:?}");
        let files = [chunk_files(&kubos[0], &before[0]), chunk_files(&kubos[1], &before[1])];
        let right = [fs::read(&files[0][1]).unwrap(), fs::read(&files[1][4]).unwrap()];
        let mut wrong = right[0].clone();
        *wrong.last_mut().unwrap() ^= 1;
        fs::write(&files[0][1], &wrong).unwrap();
        fs::write(&files[1][4], vec![0; right[1].len()]).unwrap();
        let (lines, code) = user.json(&["admin", "health", "--dry-run"]);
        assert_eq!((code, findings(&lines, "corrupt")), (0, 0), "a listing shows nothing: {lines:?}");

        let (lines, code) = user.json(&["admin", "scrub", "--all"]);
        let bad: Vec<_> = lines.iter().map(|line| line["bad"].as_u64().unwrap()).collect();
        assert_eq!((code, bad), (12, vec![1, 1, 0, 2]), "cache {cache}: {lines:?}");
        user.ok(&["admin", "health"]);
        assert!(fs::read(&files[0][1]).unwrap() == right[0] && fs::read(&files[1][4]).unwrap() == right[1]);
        let (lines, code) = user.json(&["admin", "scrub", "--all"]);
        assert_eq!((code, lines.last().unwrap()["bad"].as_u64()), (0, Some(0)), "cache {cache}: {lines:?}");
    }
}

/// Removing blocks one by one stops the node for most of a second each: for many, people are told what helps.
#[test]
fn too_many_wrong_blocks_are_said_with_the_remedy() {
    let user = Cluster::up(0);
    let Some(kubos) = three(&user, 65_536) else { return };
    let before = kubos[0].block_files();
    for file in 0..101 {
        user.file(&format!("tree/{file}"), &bytes(file, 5000));
    }
    user.ok(&["put", "tree", "bn:/"]);
    let mut files = kubos[0].block_files();
    files.retain(|file| file.metadata().unwrap().len() == 5016 && !before.contains(file));
    assert_eq!(files.len(), 101);
    files.iter().for_each(|file| fs::write(file, [7; 5016]).unwrap());
    let ran = user.run(&["admin", "health", "--read"]);
    assert_eq!(ran.code, 12, "{}", ran.stderr);
    assert!(ran.stderr.contains("Datastore.BlockKeyCacheSize"), "{}", ran.stderr);
    user.ok(&["get", "bn:/tree", "back"]);
    // Fewer of them are mended.
    fs::remove_file(&files[0]).unwrap();
    let (lines, code) = user.json(&["admin", "health", "--read"]);
    assert_eq!(code, 0, "{lines:?}");
    assert!(files.iter().all(|file| fs::read(file).unwrap() != [7; 5016]));
}

/// A listing shows what is lost while the block cache still has it: without being asked for the block first, the node
/// takes the right bytes without writing them, and looks for them elsewhere until the limit for protecting has passed.
#[test]
fn a_lost_block_is_mended_without_waiting_for_it() {
    let user = Cluster::up(0);
    let Some(kubos) = three(&user, 65_536) else { return };
    let before = kubos[0].block_files();
    user.file("a", &bytes(1, 3 * MIB));
    user.ok(&["put", "a", "bn:/"]);
    let files = chunk_files(&kubos[0], &before);
    fs::remove_file(&files[1]).unwrap();
    let began = Instant::now();
    let (lines, code) = user.json(&["admin", "health"]);
    assert_eq!((code, findings(&lines, "missing")), (0, 1), "{lines:?}");
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    assert_eq!(chunk_files(&kubos[0], &before), files);
}
