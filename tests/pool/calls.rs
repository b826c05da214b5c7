//! Small files are not slow: calls are counted, not timed.

use bytenode::get::GetOutcome;
use bytenode::put::PutOptions;

use crate::support::pool::{Pool, Setup, bytes, path};

const FILES: usize = 10_000;

#[tokio::test(start_paused = true)]
async fn ten_thousand_small_files_cost_few_calls() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let user = &pool.admin;
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::with_capacity(FILES);
    for at in 0..FILES {
        let source = dir.path().join(format!("f{at}"));
        std::fs::write(&source, bytes(at as u64, 4096)).unwrap();
        files.push((source, path(&format!("bn:/d{}/f{at}", at % 10))));
    }
    pool.trace.reset();
    let put = user.try_put_files(files, &PutOptions::default()).await.unwrap();
    assert_eq!((put.summary.files, put.summary.copies_min, put.summary.chunks), (FILES as u64, Some(3), FILES as u64));
    let counts = pool.trace.counts();
    let calls = FILES.div_ceil(256) as u64;
    assert!(pool.trace.count("api ") <= calls, "{counts:?}");
    for node in &pool.nodes {
        let writes = node.fault.calls(bytenode::node::call::Call::Write);
        assert!(writes <= node.memory.chunk_count().div_ceil(64) as u64, "{}: {writes}", node.name);
    }
    pool.trace.reset();
    let entries = user.list("bn:/", 1024).await;
    let out = tempfile::tempdir().unwrap();
    let wanted: Vec<_> = entries
        .into_iter()
        .filter(|entry| entry.version.is_some())
        .map(|entry| bytenode::get::Wanted { dest: out.path().join(entry.path.name().unwrap()), entry })
        .collect();
    assert_eq!(wanted.len(), FILES);
    let mut failed = 0;
    let mut each = |one| failed += u64::from(!matches!(one, GetOutcome::Fetched { .. }));
    let options = bytenode::get::GetOptions::default();
    let got = bytenode::get::get(&user.context, Box::new(wanted.into_iter()), &options, &mut each).await.unwrap();
    assert_eq!((got.files, failed), (FILES as u64, 0));
    assert_eq!(std::fs::read(out.path().join("f1230")).unwrap(), bytes(1230, 4096));
    let counts = pool.trace.counts();
    assert!(pool.trace.count("api ") <= FILES.div_ceil(256) as u64, "{counts:?}");
}
