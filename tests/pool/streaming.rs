//! Files as one stream: in their order, in few calls, and never whole when they are not.

use std::io;

use async_trait::async_trait;
use bytenode::api::{Entry, Sha256};
use bytenode::get::{GetOptions, Sink};
use bytenode::put::PutOptions;
use bytes::Bytes;
use futures_util::stream::iter;

use crate::support::bent::{Answer, bent};
use crate::support::pool::{MIB, Pool, Setup, User, bytes, path};

/// Keeps everything.
#[derive(Default)]
struct Kept(Vec<(Entry, Vec<u8>)>);

#[async_trait]
impl Sink for Kept {
    async fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.0.push((entry.clone(), Vec::new()));
        Ok(())
    }

    async fn bytes(&mut self, plain: Bytes) -> io::Result<()> {
        assert!(!plain.is_empty());
        self.0.last_mut().unwrap().1.extend_from_slice(&plain);
        Ok(())
    }
}

async fn streamed(user: &User, entries: Vec<Entry>) -> (bytenode::api::ApiResult<u64>, Kept) {
    let mut kept = Kept::default();
    let mut wanted = iter(entries.into_iter().map(Ok));
    let got = bytenode::get::stream(&user.context, &mut wanted, &GetOptions::default(), &mut kept).await;
    (got.map(|summary| summary.files), kept)
}

#[tokio::test(start_paused = true)]
async fn five_thousand_files_come_in_order_and_cost_few_calls() {
    const FILES: usize = 5000;
    let pool = Pool::new(Setup::builtin(5)).await;
    let user = &pool.admin;
    let dir = tempfile::tempdir().unwrap();
    let length = |at: usize| if at % 1000 == 999 { 2 * MIB + 1 } else { at % 300 };
    let mut files = Vec::with_capacity(FILES);
    for at in 0..FILES {
        let source = dir.path().join(format!("f{at}"));
        std::fs::write(&source, bytes(at as u64, length(at))).unwrap();
        files.push((source, path(&format!("bn:/d{}/f{at}", at % 10))));
    }
    user.try_put_files(files, &PutOptions::default()).await.unwrap();
    let entries = user.list("bn:/", 1024).await;
    assert_eq!(entries.len(), FILES + 10);
    pool.trace.reset();
    let (got, kept) = streamed(user, entries.clone()).await;
    assert_eq!(got, Ok(FILES as u64));
    assert!(pool.trace.count("api ") <= 40, "{:?}", pool.trace.counts());
    assert!(kept.0.iter().map(|(entry, _)| &entry.path).eq(entries.iter().map(|entry| &entry.path)));
    for (entry, content) in kept.0.iter().filter(|(entry, _)| entry.version.is_some()) {
        let at: usize = entry.path.name().unwrap()[1..].parse().unwrap();
        assert!(*content == bytes(at as u64, length(at)), "{}", entry.path);
    }
}

/// Every chunk may be right, and the file wrong all the same: it must not end as it should.
#[tokio::test(start_paused = true)]
async fn a_file_with_another_hash_never_comes_whole() {
    for length in [100, 3 * MIB] {
        let pool = Pool::new(Setup::builtin(5)).await;
        pool.admin.put("bn:/a", b"before").await;
        pool.admin.put("bn:/b", &bytes(1, length)).await;
        pool.admin.put("bn:/c", b"after").await;
        let bend = |answer: Answer<'_>| {
            let Answer::Read(read) = answer else { return };
            for file in read.files.iter_mut().flatten().filter(|file| file.entry.path == path("bn:/b")) {
                file.entry.sha256 = Some(Sha256([1; 32]));
            }
        };
        let user = bent(&pool.admin, bend);
        pool.trace.reset();
        let (got, kept) = streamed(&user, pool.admin.list("bn:/", 100).await).await;
        assert!(got.unwrap_err().message.contains("bn:/b does not have the SHA-256"));
        assert_eq!(kept.0[0].1, b"before");
        assert!(kept.0.len() <= 2 && kept.0.get(1).is_none_or(|(_, content)| content.len() < length));
        assert_eq!(pool.trace.count("api release"), 1);
    }
}
