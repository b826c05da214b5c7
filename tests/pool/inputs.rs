//! What is put comes back, whatever it is.

use bytenode::admin::{Admin, HealthRequest};
use bytenode::api::{Api, Code, Kind};
use bytenode::coordinator::LocalSession;
use bytenode::get::GetOptions;
use bytenode::monitor::Event;
use bytenode::put::{PutOptions, PutOutcome};

use crate::support::pool::{MIB, Pool, Setup, always, bytes, path};

async fn gc(session: &LocalSession) -> bytenode::admin::Swept {
    session.gc(true, false).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_file_lives_and_goes() {
    for setup in [Setup::builtin(5), Setup::kubo(5)] {
        let pool = Pool::new(setup).await;
        let user = &pool.admin;
        let content = bytes(1, 3 * MIB);
        let put = user.put("bn:/dir/a", &content).await;
        assert_eq!((put.summary.files, put.summary.copies_min, put.new_chunks()), (1, Some(3), 3));
        assert_eq!(put.summary.sent_bytes, 3 * (3 * MIB as u64 + 3 * 16));
        let listed = user.list("bn:/", 7).await;
        let names: Vec<String> = listed.iter().map(|entry| entry.path.to_string()).collect();
        assert_eq!(names, ["bn:/dir", "bn:/dir/a"]);
        assert_eq!((listed[0].kind, listed[1].kind, listed[1].size), (Kind::Dir, Kind::File, 3 * MIB as u64));
        assert_eq!(user.get("bn:/dir/a").await, content);
        assert_eq!(pool.copies(), 9);
        assert_eq!(user.session.remove(&path("bn:/dir/a"), false, false).await.unwrap().files, 1);
        assert_eq!(user.stat("bn:/dir/a").await.unwrap_err().code, Code::NotFound);
        assert_eq!(gc(&user.session).await.chunks, 3);
        assert_eq!(pool.copies(), 0);
        assert_eq!(pool.count("SELECT count(*) FROM chunk").await, 0);
        assert_eq!(pool.count("SELECT count(*) FROM replica").await, 0);
        assert_eq!(pool.count("SELECT count(*) FROM loose_chunk").await, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn every_length_comes_back() {
    let pool = Pool::new(Setup::builtin(5)).await;
    for public in [false, true] {
        let options = PutOptions { public, ..PutOptions::default() };
        for (index, length) in [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 7].into_iter().enumerate() {
            let to = format!("bn:/{public}/{length}");
            let content = bytes(index as u64, length);
            let put = pool.admin.put_with(&to, &content, &options).await;
            let entry = put.entry();
            assert_eq!(entry.size, length as u64);
            // A public file has its root block stored, the empty one's too, so that a gateway can serve it.
            let links = u64::from(public && (length > MIB || length == 0));
            assert_eq!(entry.copies_min, (length > 0 || public).then_some(3), "{length}");
            assert_eq!(entry.chunks, length.div_ceil(MIB) as u64 + links);
            assert_eq!(entry.cid.is_some(), public);
            assert_eq!(pool.admin.get(&to).await, content, "{length}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn equal_chunks_are_stored_once() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let zeros = vec![0; 40 * MIB];
    let put = pool.admin.put("bn:/zeros", &zeros).await;
    assert_eq!((put.entry().chunks, put.new_chunks()), (40, 1));
    assert_eq!(put.summary.sent_bytes, 3 * (MIB as u64 + 16));
    assert_eq!(pool.copies(), 3);
    assert!(pool.admin.get("bn:/zeros").await == zeros);
}

#[tokio::test(start_paused = true)]
async fn a_users_second_copy_sends_nothing_and_another_users_sends_all() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let content = bytes(3, 2 * MIB + 5);
    assert!(pool.admin.put("bn:/a", &content).await.summary.sent_bytes > 0);
    let second = pool.admin.put("bn:/b", &content).await;
    assert_eq!((second.summary.sent_bytes, second.new_chunks(), second.summary.chunks_here), (0, 0, 3));
    assert!(pool.admin.put("bn:/a", &content).await.is_unchanged());
    let other = pool.user("anna").await;
    let theirs = other.put("bn:/a", &content).await;
    assert_eq!((theirs.new_chunks(), theirs.entry().copies_min), (3, Some(3)));
    assert_eq!(pool.copies(), 18, "no chunk is shared between vaults");
    assert_eq!(other.get("bn:/a").await, content);
    pool.admin.rm("bn:/a").await;
    assert_eq!(other.get("bn:/a").await, content);
    assert_eq!(other.session.health(&HealthRequest::default()).await.unwrap_err().code, Code::NotAllowed);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_unknown_length_becomes_a_file() {
    let pool = Pool::new(Setup::builtin(5)).await;
    for length in [0, 1, MIB, 2 * MIB + 1] {
        let content = bytes(9, length);
        let to = format!("bn:/s{length}");
        let put = pool.admin.put_stream(&to, content.clone(), &PutOptions::default()).await.unwrap();
        assert_eq!(put.entry().size, length as u64);
        assert_eq!(pool.admin.get(&to).await, content);
        let again = pool.admin.put_stream(&to, content, &PutOptions::default()).await.unwrap();
        assert!(again.is_unchanged() && again.summary.sent_bytes == 0, "the same words again succeed");
    }
    let again = pool.admin.put_stream("bn:/s1", vec![1], &PutOptions::default()).await;
    assert_eq!(again.unwrap_err().code, Code::Exists);
    pool.admin.put_stream("bn:/s1", vec![7], &always()).await.unwrap();
    assert_eq!(pool.admin.get("bn:/s1").await, [7]);
}

/// A monitor that changes a file when some of it has been read.
struct Meddler(std::path::PathBuf, std::sync::atomic::AtomicU64);

impl bytenode::monitor::Monitor for Meddler {
    fn event(&self, event: Event) {
        if let Event::Read(bytes) = event
            && self.1.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) == 0
        {
            use std::io::Write;
            let mut file = std::fs::File::options().append(true).open(&self.0).unwrap();
            file.write_all(b"more").unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changes_or_cannot_be_read_fails_alone() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let mut user = pool.admin.clone();
    let changing = user.local(&bytes(1, 6 * MIB));
    let steady = user.local(&bytes(2, MIB));
    user.context.watch = std::sync::Arc::new(Meddler(changing.clone(), 0.into()));
    let files = vec![
        (changing.clone(), path("bn:/changing")),
        (changing.with_file_name("gone"), path("bn:/gone")),
        (steady, path("bn:/steady")),
    ];
    let put = user.try_put_files(files, &PutOptions::default()).await.unwrap();
    assert_eq!((put.summary.files, put.summary.failed), (1, 2));
    let errors: Vec<_> = put
        .outcomes
        .iter()
        .filter_map(|one| if let PutOutcome::Failed { error, .. } = one { Some(error) } else { None })
        .collect();
    assert_eq!(errors[0].code, Code::Changed);
    assert!(errors[0].message.contains("changed while it was read"), "{}", errors[0]);
    assert!(errors[1].message.contains("gone"), "{}", errors[1]);
    assert_eq!(user.stat("bn:/changing").await.unwrap_err().code, Code::NotFound);
    assert_eq!(user.get("bn:/steady").await, bytes(2, MIB));
    user.session.gc(true, false).await.unwrap();
    assert_eq!(pool.copies(), 3, "what was sent of the file that failed is released");
}

#[tokio::test(start_paused = true)]
async fn a_file_of_several_windows_comes_back() {
    let pool = Pool::new(Setup::kubo(5)).await;
    let content = bytes(5, 100 * MIB);
    let put = pool.admin.put("bn:/big", &content).await;
    assert_eq!((put.entry().chunks, put.entry().copies_min, put.entry().spread), (100, Some(3), Some(true)));
    assert!(pool.admin.get("bn:/big").await == content);
    let mut part = Vec::new();
    let offset = 33 * MIB as u64 - 3;
    bytenode::get::cat(&pool.admin.context, &path("bn:/big"), offset, Some(7), &GetOptions::default(), &mut part)
        .await
        .unwrap();
    assert_eq!(part, content[offset as usize..offset as usize + 7]);
}

#[tokio::test]
async fn all_of_it_works_on_a_catalog_in_a_file() {
    let mut pool = Pool::new(Setup::builtin(5).file()).await;
    let content = bytes(1, 5 * MIB);
    pool.admin.put("bn:/d/a", &content).await;
    assert!(pool.admin.put("bn:/d/a", &content).await.is_unchanged());
    pool.restart().await;
    assert_eq!(pool.admin.get("bn:/d/a").await, content);
    pool.admin.rm("bn:/d").await;
    pool.admin.session.gc(true, false).await.unwrap();
    assert_eq!(pool.copies(), 0);
}
