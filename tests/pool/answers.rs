//! A coordinator that answers wrongly: every file is told to be stored, fetched or failed, no wrong byte comes through,
//! and nothing panics, hangs or grows.

use std::sync::Arc;

use bytenode::api::{ApiError, Code, Committed, ManifestChunk, OpenFile, Part};
use bytenode::get::{self, GetOptions, GetOutcome};
use bytenode::put::{PutOptions, PutOutcome};

use crate::support::bent::{Answer, bent};
use crate::support::pool::{MIB, Pool, Put, Setup, User, always, bytes, path};

async fn put_two(user: &User) -> Result<Put, ApiError> {
    let files = ["a", "b"].map(|name| (user.local(name.as_bytes()), path(&format!("bn:/{name}"))));
    user.try_put_files(files.into(), &always()).await
}

/// The codes of the files that failed.
fn failed(put: &Put) -> Vec<Code> {
    let code = |one: &PutOutcome| if let PutOutcome::Failed { error, .. } = one { Some(error.code) } else { None };
    put.outcomes.iter().filter_map(code).collect()
}

/// Files that the coordinator gave no answer for were once neither stored nor failed: the put succeeded without them.
#[tokio::test(start_paused = true)]
async fn a_put_without_all_answers_does_not_succeed() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let user = bent(&pool.admin, |answer| {
        if let Answer::Lookup(found) = answer {
            found.truncate(1);
        }
    });
    assert_eq!(put_two(&user).await.unwrap_err().code, Code::Internal);
    let user = bent(&pool.admin, |answer| {
        if let Answer::Committed(done) = answer {
            done.truncate(1);
        }
    });
    let put = put_two(&user).await.unwrap();
    assert_eq!((put.summary.files, put.summary.failed, failed(&put)), (1, 1, vec![Code::Internal]));
    // What is said to be there is what was sent.
    let user = bent(&pool.admin, |answer| {
        if let Answer::Committed(done) = answer {
            let Committed::Done { entry, .. } = &mut done[0] else { panic!("{done:?}") };
            entry.sha256 = None;
        }
    });
    assert_eq!(failed(&put_two(&user).await.unwrap()), [Code::Internal]);
}

#[tokio::test(start_paused = true)]
async fn a_get_without_all_answers_does_not_succeed() {
    let pool = Pool::new(Setup::builtin(5)).await;
    put_two(&pool.admin).await.unwrap();
    let user = bent(&pool.admin, |answer| {
        if let Answer::Read(session) = answer {
            session.files.truncate(1);
        }
    });
    assert_eq!(fetch(&user, &["bn:/a", "bn:/b"]).await.unwrap_err().code, Code::Internal);
    let user = bent(&pool.admin, |answer| {
        if let Answer::Read(session) = answer {
            session.files.clear();
        }
    });
    assert_eq!(user.try_get("bn:/a").await.unwrap_err().code, Code::Internal);
}

/// Fetches files into a new directory; gives what is there then, and what failed.
async fn fetch(user: &User, names: &[&str]) -> Result<(Vec<Vec<u8>>, Vec<ApiError>), ApiError> {
    let (dir, mut wanted) = (tempfile::tempdir().unwrap(), Vec::new());
    for name in names {
        let entry = user.session.as_ref();
        let entry = bytenode::api::Api::stat(entry, &path(name)).await.unwrap();
        wanted.push(get::Wanted { dest: dir.path().join(entry.path.name().unwrap()), entry });
    }
    let mut failed = Vec::new();
    let mut each = |one| {
        if let GetOutcome::Failed { error, .. } = one {
            failed.push(error);
        }
    };
    let got = get::get(&user.context, Box::new(wanted.into_iter()), &GetOptions::default(), &mut each).await;
    let there = std::fs::read_dir(dir.path()).unwrap().map(|one| std::fs::read(one.unwrap().path()).unwrap()).collect();
    got.map(|_| (there, failed))
}

/// What is done to an open file, and to the chunks of a span.
type Lie = fn(&mut OpenFile);
type ChunkLie = fn(&mut Vec<ManifestChunk>);

/// A range has no hash of its own. A chunk size that is not the file's once moved it, and other bytes came out.
#[tokio::test(start_paused = true)]
async fn a_wrong_manifest_gives_no_bytes() {
    for public in [false, true] {
        let pool = Pool::new(Setup::builtin(5)).await;
        let content = bytes(1, 3 * MIB + 5);
        pool.admin.put_with("bn:/a", &content, &PutOptions { public, ..PutOptions::default() }).await;
        let lies: [(&str, Lie); 5] = [
            ("smaller chunks", |file| file.chunk_size /= 2),
            ("larger chunks", |file| file.chunk_size *= 2),
            ("no chunks", |file| file.chunk_size = 0),
            ("huge chunks", |file| file.chunk_size = u32::MAX),
            ("a longer file", |file| file.entry.size += 1),
        ];
        for (name, lie) in lies {
            let user = bent(&pool.admin, move |answer| {
                if let Answer::Read(session) = answer {
                    session.files.iter_mut().flatten().for_each(lie);
                }
            });
            refused(&user, &content, &format!("{name} {public}")).await;
        }
        let pages: [(&str, ChunkLie); 7] = [
            // Of a public file, what tells the order of full chunks is the hash of the whole; of a private one, the keys.
            ("another order", |chunks| {
                if chunks.len() == 4 || chunks[0].desc.part == Part::Sealed {
                    chunks.reverse()
                }
            }),
            ("a chunk again", |chunks| chunks.extend(chunks.clone())),
            ("too many", |chunks| *chunks = vec![chunks[0].clone(); 2000]),
            ("another length", |chunks| chunks[0].desc.length -= 1),
            ("another stored length", |chunks| chunks[0].desc.bytes = u64::MAX),
            ("none", Vec::clear),
            ("another part", |chunks| chunks[0].desc.part = Part::Link),
        ];
        for (name, lie) in pages {
            let user = bent(&pool.admin, move |answer| {
                if let Answer::Page(page) = answer {
                    page.spans.iter_mut().for_each(|span| lie(&mut span.chunks));
                }
            });
            refused(&user, &content, &format!("{name} {public}")).await;
        }
    }
}

/// Nothing but right bytes comes out, and no success.
async fn refused(user: &User, content: &[u8], what: &str) {
    let (there, failed) = fetch(user, &["bn:/a"]).await.unwrap();
    assert_eq!((there.len(), failed.len()), (0, 1), "{what}");
    assert_eq!(failed[0].code, Code::Integrity, "{what}: {}", failed[0]);
    let end = content.len() as u64;
    for (offset, length) in [(0, end), (MIB as u64 - 2, 4), (2 * MIB as u64 + 9, 3), (end - 1, 1)] {
        let mut out = Vec::new();
        let options = GetOptions::default();
        let got = get::cat(&user.context, &path("bn:/a"), offset, Some(length), &options, &mut out).await;
        let right = &content[offset as usize..(offset + length) as usize];
        match got {
            Ok(_) => assert!(out == right, "{what}: {offset} {length}"),
            Err(error) => {
                assert_eq!(error.code, Code::Integrity, "{what}: {error}");
                assert!(right.starts_with(&out) || length == end, "{what}: {offset} {length}");
            }
        }
    }
}

/// A private file has no plain chunk, whatever the manifest says: nobody's bytes come in under its name.
#[tokio::test(start_paused = true)]
async fn a_plain_chunk_is_no_part_of_a_private_file() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let user = &pool.admin;
    user.put("bn:/private", &bytes(1, MIB)).await;
    let public = PutOptions { public: true, ..PutOptions::default() };
    user.put_with("bn:/public", &bytes(2, MIB), &public).await;
    let kept: Arc<std::sync::Mutex<Option<bytenode::api::ManifestPage>>> = Arc::default();
    let keeps = Arc::clone(&kept);
    bent(user, move |answer| {
        if let Answer::Page(page) = answer {
            *keeps.lock().unwrap() = Some(page.clone());
        }
    })
    .get("bn:/public")
    .await;
    let page = kept.lock().unwrap().clone().unwrap();
    let user = bent(user, move |answer| {
        if let Answer::Page(answer) = answer {
            *answer = page.clone();
        }
    });
    let mut out = Vec::new();
    let range = get::cat(&user.context, &path("bn:/private"), 0, Some(9), &GetOptions::default(), &mut out).await;
    assert_eq!((range.unwrap_err().code, out.len()), (Code::Integrity, 0));
}

#[tokio::test(start_paused = true)]
async fn numbers_without_measure_end_nothing() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let content = bytes(1, 2 * MIB);
    let user = bent(&pool.admin, |answer| match answer {
        Answer::Put(session) => session.renew_seconds = u64::MAX,
        Answer::Read(session) => session.renew_seconds = u64::MAX,
        Answer::Page(page) => page.valid_seconds = u64::MAX,
        _ => {}
    });
    user.put("bn:/a", &content).await;
    assert!(user.get("bn:/a").await == content);
    // Two sizes whose sum is none.
    let mut entry = user.stat("bn:/a").await.unwrap();
    entry.size = u64::MAX;
    let dir = tempfile::tempdir().unwrap();
    let small = user.put("bn:/b", b"b").await.entry().clone();
    let wanted = [small, entry].map(|entry| get::Wanted { dest: dir.path().join(entry.path.name().unwrap()), entry });
    let got = get::get(&user.context, Box::new(wanted.into_iter()), &GetOptions::default(), &mut |_| ()).await;
    assert_eq!(got.unwrap().files, 2);
}

/// A chunk size of zero once stored every file as an empty one.
#[tokio::test(start_paused = true)]
async fn a_chunk_size_that_cannot_be_is_refused() {
    let pool = Pool::new(Setup::builtin(5)).await;
    for size in [0, (2 << 20) - 15, u32::MAX] {
        let user = bent(&pool.admin, move |answer| {
            if let Answer::Put(session) = answer {
                session.chunk_size = size;
            }
        });
        for options in [PutOptions::default(), PutOptions { dry_run: true, ..PutOptions::default() }] {
            let put = user.try_put("bn:/a", b"content", &options).await;
            assert_eq!(put.unwrap_err().code, Code::Internal, "{size}");
        }
    }
    assert_eq!(pool.admin.stat("bn:/a").await.unwrap_err().code, Code::NotFound);
}

/// What is sent to one node in one round is never more than the window has.
#[tokio::test(start_paused = true)]
async fn a_plan_without_measure_is_refused() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let again: fn(&mut bytenode::api::ChunksPlanned) = |plan| {
        let pack = &mut plan.packs[0];
        pack.entries = pack.entries.repeat(1000);
    };
    let twice: fn(&mut bytenode::api::ChunksPlanned) = |plan| plan.packs = vec![plan.packs[0].clone(); 1000];
    let other: fn(&mut bytenode::api::ChunksPlanned) = |plan| plan.packs[0].entries[0].bytes += 1;
    for lie in [again, twice, other] {
        let user = bent(&pool.admin, move |answer| {
            if let Answer::Plan(plan) = answer {
                lie(plan);
            }
        });
        pool.trace.reset();
        assert_eq!(user.try_put("bn:/a", &bytes(1, MIB), &always()).await.unwrap_err().code, Code::Internal);
        let writes: u64 = pool.nodes.iter().map(|node| node.fault.calls(bytenode::node::call::Call::Write)).sum();
        assert_eq!(writes, 0);
    }
}
