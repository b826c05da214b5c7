//! Arguments that no client of ours sends: a clear error, no panic, nothing of others touched.

use bytenode::admin::{Admin, Verdict};
use bytenode::api::{
    Api, ApiError, Append, BadCopy, BeginPut, Blob, ChunkDesc, Code, CommitFile, CommitFiles, Committed, CopyAt,
    Expect, ListRequest, MAX_FILES, MAX_LOOKUP, MAX_PLAN_CHUNKS, OpenRead, PackOutcome, PacksSent, Part, PlanChunks,
    ReadChunks, Sha256, Span, VersionId,
};
use bytenode::grant::{PackReceipt, SigningKey};
use bytenode::id::{ChunkId, NodeId, PackId, PackRoot, PoolId, UploadId};
use bytenode::node::call::Call;
use bytenode::node::{Node, Receipt};
use bytenode::pack::{Pack, PackHeader};

use crate::support::pool::{MIB, Pool, Setup, User, bytes, path};

fn begin() -> BeginPut {
    BeginPut { machine: "m".into(), replicas: None, public: false }
}

fn desc(seed: u64) -> ChunkDesc {
    ChunkDesc { chunk: ChunkId::of(&seed.to_le_bytes()), bytes: 116, length: 100, part: Part::Sealed }
}

fn append(file: u32, first: u64, chunks: Vec<ChunkDesc>) -> PlanChunks {
    PlanChunks { files: vec![Append { file, first, chunks, sealed_keys: Blob::default() }] }
}

fn commit(file: u32, to: &str, chunks: u64, size: u64) -> CommitFile {
    CommitFile {
        file,
        path: path(to),
        expect: Expect::Absent,
        size,
        sha256: Sha256([0; 32]),
        chunks,
        modified: jiff::Timestamp::UNIX_EPOCH,
        executable: false,
        wrapped_key: Blob::default(),
        cid: None,
    }
}

async fn refused(user: &User, upload: UploadId, file: CommitFile) -> ApiError {
    match user.session.commit_files(upload, &CommitFiles { files: vec![file] }).await {
        Err(error) => error,
        Ok(done) => match &done[..] {
            [Committed::Refused { error, .. }] => error.clone(),
            other => panic!("{other:?}"),
        },
    }
}

#[tokio::test(start_paused = true)]
async fn appends_that_do_not_fit_are_refused() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let session = &pool.admin.session;
    let upload = session.begin_put(&begin()).await.unwrap().upload;
    let code = async |request: PlanChunks| session.plan_chunks(upload, &request).await.map_err(|error| error.code);
    assert_eq!(code(append(0, 1, vec![desc(1)])).await, Err(Code::Usage), "a gap");
    assert_eq!(code(append(0, u64::MAX, vec![desc(1)])).await, Err(Code::Usage));
    let many = (0..=MAX_PLAN_CHUNKS as u64).map(desc).collect();
    assert_eq!(code(append(0, 0, many)).await, Err(Code::Usage));
    let files = vec![Append { file: 0, first: 0, chunks: vec![], sealed_keys: Blob::default() }; MAX_FILES + 1];
    assert_eq!(code(PlanChunks { files }).await, Err(Code::Usage));
    for wrong in [
        ChunkDesc { bytes: 3 << 20, ..desc(1) },
        ChunkDesc { bytes: u64::MAX, length: u64::MAX, ..desc(1) },
        ChunkDesc { length: 0, bytes: 16, ..desc(1) },
        ChunkDesc { bytes: 115, ..desc(1) },
        ChunkDesc { part: Part::Plain, bytes: 100, ..desc(1) },
        ChunkDesc { part: Part::Link, length: 0, ..desc(1) },
    ] {
        assert_eq!(code(append(0, 0, vec![wrong])).await, Err(Code::Usage), "{wrong:?}");
    }
    code(append(0, 0, vec![desc(1)])).await.unwrap();
    assert_eq!(code(append(0, 0, vec![desc(2)])).await, Err(Code::Usage), "another chunk in its place");
    let longer = ChunkDesc { length: 101, bytes: 117, ..desc(1) };
    assert_eq!(code(append(0, 0, vec![longer])).await, Err(Code::Usage), "another length in its place");
    let keys = Append { file: 2, first: 0, chunks: vec![desc(3)], sealed_keys: Blob(vec![0; 10_000]) };
    assert_eq!(code(PlanChunks { files: vec![keys] }).await, Err(Code::Usage));
    let machine = BeginPut { machine: "m".repeat(10_000), ..begin() };
    assert_eq!(session.begin_put(&machine).await.unwrap_err().code, Code::Usage);
}

#[tokio::test(start_paused = true)]
async fn nothing_becomes_visible_that_was_not_proved() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let (user, session) = (&pool.admin, &pool.admin.session);
    let upload = session.begin_put(&begin()).await.unwrap().upload;
    assert_eq!(refused(user, upload, commit(0, "bn:/a", 1, 100)).await.code, Code::Replan);
    let planned = session.plan_chunks(upload, &append(0, 0, vec![desc(1)])).await.unwrap();
    assert_eq!(refused(user, upload, commit(0, "bn:/a", 1, 100)).await.code, Code::Temporary);
    assert_eq!(refused(user, upload, commit(0, "bn:/a", 2, 100)).await.code, Code::Usage);
    assert_eq!(refused(user, upload, commit(0, "bn:/a", 1, 99)).await.code, Code::Usage);
    // Claims without bytes: every receipt a client can make up is worth nothing, one by another key too.
    let forged = PackReceipt {
        pool: pool.coordinator.introduction().pool,
        node: pool.nodes[0].memory.id().clone(),
        root: PackRoot::of(b"x"),
        bytes: 1,
        synced: pool.seam.now().as_second(),
    };
    let token = SigningKey::from_seed(&[99; 32]).receipt(&forged);
    for receipt in [Receipt::Unproved, Receipt::Signed { token }, Receipt::Signed { token: String::new() }] {
        let packs = planned.packs.iter().map(|pack| PackOutcome::Sent { pack: pack.id, receipt: receipt.clone() });
        drop(session.packs_sent(upload, &PacksSent { packs: packs.collect() }).await);
    }
    assert_eq!(refused(user, upload, commit(0, "bn:/a", 1, 100)).await.code, Code::Temporary);
    let long = CommitFile { wrapped_key: Blob(vec![0; 100_000]), ..commit(1, "bn:/b", 0, 0) };
    assert_eq!(refused(user, upload, long).await.code, Code::Usage);
    let files = vec![commit(1, "bn:/b", 0, 0); MAX_FILES + 1];
    assert_eq!(session.commit_files(upload, &CommitFiles { files }).await.unwrap_err().code, Code::Usage);
    assert!(user.list("bn:/", 7).await.is_empty());
}

/// A receipt counts for the one pack of which it speaks. A node's genuine signature under anything else is worth nothing:
/// another of its packs, another node, another pool, another length, a time to come.
#[tokio::test(start_paused = true)]
async fn a_receipt_counts_for_its_own_pack_alone() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let (user, session) = (&pool.admin, &pool.admin.session);
    let id = pool.coordinator.introduction().pool;
    let key = |node: &NodeId| {
        let keys = (1..=5).map(|seed| SigningKey::from_seed(&[seed; 32]));
        keys.into_iter().find(|key| key.public().node_id() == *node).unwrap()
    };
    // What becomes of a put of one chunk whose nodes say this.
    let put = async |number: u64, bend: fn(&mut PackReceipt)| {
        let put = session.begin_put(&begin()).await.unwrap();
        let planned = session.plan_chunks(put.upload, &append(0, 0, vec![desc(number)])).await.unwrap();
        assert_eq!(planned.packs.len(), 3);
        let packs = planned.packs.iter().map(|plan| {
            let header = PackHeader { pool: id, epoch: put.epoch, id: plan.id, entries: plan.entries.clone() };
            let (root, bytes, synced) = (header.root(), header.car_bytes(), pool.seam.now().as_second());
            let mut said = PackReceipt { pool: id, node: plan.node.clone(), root, bytes, synced };
            bend(&mut said);
            PackOutcome::Sent { pack: plan.id, receipt: Receipt::Signed { token: key(&plan.node).receipt(&said) } }
        });
        drop(session.packs_sent(put.upload, &PacksSent { packs: packs.collect() }).await);
        let files = vec![commit(0, &format!("bn:/{number}"), 1, 100)];
        match &session.commit_files(put.upload, &CommitFiles { files }).await.unwrap()[..] {
            [Committed::Refused { error, .. }] => Err(error.code),
            [Committed::Done { .. }] => Ok(()),
            other => panic!("{other:?}"),
        }
    };
    let bent: [fn(&mut PackReceipt); 6] = [
        |said| said.pool = PoolId::from_bytes([7; 16]),
        |said| said.node = SigningKey::from_seed(&[99; 32]).public().node_id(),
        |said| said.root = PackRoot::of(b"x"),
        |said| said.bytes -= 1,
        |said| said.bytes += 1,
        |said| said.synced += 301,
    ];
    for (number, bend) in (0..).zip(bent) {
        assert_eq!(put(number, bend).await, Err(Code::Temporary), "{number}");
    }
    assert!(user.list("bn:/", 7).await.is_empty());
    assert_eq!(put(6, |_| ()).await, Ok(()), "the right one");
}

#[tokio::test(start_paused = true)]
async fn the_things_of_others_are_out_of_reach() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let (user, other) = (&pool.admin, pool.user("anna").await);
    user.put("bn:/a", &bytes(1, 2 * MIB)).await;
    let upload = user.session.begin_put(&begin()).await.unwrap().upload;
    let planned = user.session.plan_chunks(upload, &append(0, 0, vec![desc(1)])).await.unwrap();
    let theirs = &other.session;
    let own = theirs.begin_put(&begin()).await.unwrap().upload;
    assert_eq!(theirs.plan_chunks(upload, &append(0, 0, vec![desc(2)])).await.unwrap_err().code, Code::Replan);
    assert_eq!(theirs.renew(upload).await.unwrap_err().code, Code::Replan);
    theirs.release(upload).await.unwrap();
    user.session.renew(upload).await.unwrap();
    for pack in [planned.packs[0].id, PackId::new(0), PackId::new(1), PackId::new(u64::MAX)] {
        let failed = PackOutcome::Failed { pack, message: "x".repeat(10_000), full: true };
        let answer = theirs.packs_sent(own, &PacksSent { packs: vec![failed] }).await;
        assert_eq!(answer.unwrap_err().code, Code::Usage);
    }
    let version = user.stat("bn:/a").await.unwrap().version.unwrap();
    let open = theirs.open_read(&OpenRead { machine: "m".into(), paths: vec![path("bn:/a")] }).await.unwrap();
    assert_eq!(open.files[0].as_ref().unwrap_err().code, Code::NotFound);
    for version in [version, VersionId(-1), VersionId(i64::MAX)] {
        let spans = vec![Span { version, first: 0, count: 1 }];
        assert_eq!(theirs.read_chunks(open.read, &ReadChunks { spans }).await.unwrap_err().code, Code::NotAllowed);
    }
    let replaces = CommitFile { expect: Expect::Version(version), ..commit(0, "bn:/a", 0, 0) };
    assert_eq!(refused(&other, own, replaces).await.code, Code::Changed);
    // A chunk of another vault is unknown here, so it must be sent.
    let row = user.chunks("bn:/a").await[0].clone();
    let known = ChunkDesc { chunk: row.cid, bytes: row.size, length: row.size - 16, part: Part::Sealed };
    let planned = theirs.plan_chunks(own, &append(0, 0, vec![known])).await.unwrap();
    assert!(planned.here.is_empty() && planned.packs.len() == 3);
    assert_eq!(pool.health().await.verdict, Verdict::Healthy);
    assert_eq!(theirs.status().await.unwrap().files, 0, "own files alone");
    for denied in [theirs.nodes().await.map(drop), theirs.gc(true, false).await.map(drop)] {
        assert_eq!(denied.unwrap_err().code, Code::NotAllowed);
    }
}

/// One request that reports a pack as sent and as failed once made a pack that counted turn to dropping.
#[tokio::test(start_paused = true)]
async fn a_pack_that_counts_is_not_given_up() {
    let pool = Pool::new(Setup::builtin(5)).await;
    let content = bytes(1, 2 * MIB);
    let mut user = pool.admin.clone();
    user.context.api = std::sync::Arc::new(Contrary(std::sync::Arc::clone(&pool.admin.session)));
    let put = user.put("bn:/a", &content).await;
    assert_eq!(put.summary.copies_min, Some(3));
    pool.admin.session.gc(true, false).await.unwrap();
    assert_eq!(pool.copies(), 6);
    assert_eq!(pool.admin.get("bn:/a").await, content);
}

/// A client repeats its report when the connection breaks. A Kubo that is told to pin twice at once takes the first pin
/// away, and may not come to the second.
#[tokio::test(start_paused = true)]
async fn a_pack_that_is_reported_twice_is_pinned_once() {
    let pool = Pool::new(Setup::kubo(3)).await;
    let session = &pool.admin.session;
    let put = session.begin_put(&begin()).await.unwrap();
    let body = bytes::Bytes::from(crate::support::pool::bytes(1, 116));
    let chunk = ChunkDesc { chunk: ChunkId::of(&body), ..desc(1) };
    let planned = session.plan_chunks(put.upload, &append(0, 0, vec![chunk])).await.unwrap();
    let mut packs = Vec::new();
    for plan in planned.packs {
        let node = pool.nodes.iter().find(|node| *node.memory.id() == plan.node).unwrap();
        let header = PackHeader { pool: put.pool, epoch: put.epoch, id: plan.id, entries: plan.entries };
        let receipt = node.memory.write_pack(&Pack::new(header, vec![body.clone()]), None).await.unwrap();
        packs.push(PackOutcome::Sent { pack: plan.id, receipt });
    }
    let sent = PacksSent { packs };
    let (one, two) = tokio::join!(session.packs_sent(put.upload, &sent), session.packs_sent(put.upload, &sent));
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    assert!(pool.nodes.iter().all(|node| node.memory.calls(Call::Protect) == 1));
    assert_eq!(pool.count("SELECT count(*) FROM pack WHERE state = 2").await, 3);
}

/// Reports every pack as sent, and again as failed, in one request and in a second one.
struct Contrary(std::sync::Arc<bytenode::coordinator::LocalSession>);

#[async_trait::async_trait]
impl Api for Contrary {
    async fn packs_sent(
        &self,
        upload: UploadId,
        request: &PacksSent,
    ) -> bytenode::api::ApiResult<bytenode::api::PacksJudged> {
        let mut packs = request.packs.clone();
        for one in &request.packs {
            let (PackOutcome::Sent { pack, .. } | PackOutcome::Failed { pack, .. }) = one;
            packs.push(PackOutcome::Failed { pack: *pack, message: "no".into(), full: false });
        }
        let answer = self.0.packs_sent(upload, &PacksSent { packs }).await?;
        let failed = |one: &PackOutcome| {
            let (PackOutcome::Sent { pack, .. } | PackOutcome::Failed { pack, .. }) = one;
            PackOutcome::Failed { pack: *pack, message: "no".into(), full: false }
        };
        let packs = request.packs.iter().map(failed).collect();
        drop(self.0.packs_sent(upload, &PacksSent { packs }).await);
        Ok(answer)
    }
    async fn stat(&self, path: &bytenode::path::RemotePath) -> bytenode::api::ApiResult<bytenode::api::Entry> {
        self.0.stat(path).await
    }
    async fn lookup(
        &self,
        paths: &[bytenode::path::RemotePath],
    ) -> bytenode::api::ApiResult<Vec<Option<bytenode::api::Entry>>> {
        self.0.lookup(paths).await
    }
    async fn list(&self, request: &ListRequest) -> bytenode::api::ApiResult<bytenode::api::Page<bytenode::api::Entry>> {
        self.0.list(request).await
    }
    async fn make_dirs(&self, paths: &[bytenode::path::RemotePath]) -> bytenode::api::ApiResult<()> {
        self.0.make_dirs(paths).await
    }
    async fn rename(
        &self,
        from: &bytenode::path::RemotePath,
        to: &bytenode::path::RemotePath,
    ) -> bytenode::api::ApiResult<bytenode::api::Entry> {
        self.0.rename(from, to).await
    }
    async fn copy(
        &self,
        from: &bytenode::path::RemotePath,
        to: &bytenode::path::RemotePath,
    ) -> bytenode::api::ApiResult<bytenode::api::Entry> {
        self.0.copy(from, to).await
    }
    async fn remove(
        &self,
        path: &bytenode::path::RemotePath,
        recursive: bool,
        dry_run: bool,
    ) -> bytenode::api::ApiResult<bytenode::api::Removed> {
        self.0.remove(path, recursive, dry_run).await
    }
    async fn begin_put(&self, request: &BeginPut) -> bytenode::api::ApiResult<bytenode::api::PutSession> {
        self.0.begin_put(request).await
    }
    async fn plan_chunks(
        &self,
        upload: UploadId,
        request: &PlanChunks,
    ) -> bytenode::api::ApiResult<bytenode::api::ChunksPlanned> {
        self.0.plan_chunks(upload, request).await
    }
    async fn commit_files(&self, upload: UploadId, request: &CommitFiles) -> bytenode::api::ApiResult<Vec<Committed>> {
        self.0.commit_files(upload, request).await
    }
    async fn renew(&self, lease: UploadId) -> bytenode::api::ApiResult<()> {
        self.0.renew(lease).await
    }
    async fn release(&self, lease: UploadId) -> bytenode::api::ApiResult<()> {
        self.0.release(lease).await
    }
    async fn open_read(&self, request: &OpenRead) -> bytenode::api::ApiResult<bytenode::api::ReadSession> {
        self.0.open_read(request).await
    }
    async fn read_chunks(
        &self,
        read: UploadId,
        request: &ReadChunks,
    ) -> bytenode::api::ApiResult<bytenode::api::ManifestPage> {
        self.0.read_chunks(read, request).await
    }
    async fn report_bad(&self, reports: &[BadCopy]) -> bytenode::api::ApiResult<()> {
        self.0.report_bad(reports).await
    }
}

#[tokio::test(start_paused = true)]
async fn huge_and_senseless_questions_are_refused() {
    let pool = Pool::new(Setup::builtin(5)).await;
    pool.admin.put("bn:/a", &bytes(1, 2 * MIB)).await;
    let session = &pool.admin.session;
    let paths = vec![path("bn:/a"); MAX_LOOKUP + 1];
    assert_eq!(session.lookup(&paths).await.unwrap_err().code, Code::Usage);
    assert_eq!(session.make_dirs(&paths).await.unwrap_err().code, Code::Usage);
    let open = OpenRead { machine: "m".into(), paths };
    assert_eq!(session.open_read(&open).await.unwrap_err().code, Code::Usage);
    for cursor in ["", "!", "Ym46L2I", "YQ"] {
        let request = ListRequest { path: path("bn:/x"), recursive: true, cursor: Some(cursor.into()), limit: 0 };
        assert_eq!(session.list(&request).await.unwrap_err().code, Code::NotFound);
        let request = ListRequest { path: path("bn:/a"), ..request };
        assert_eq!(session.list(&request).await.unwrap_err().code, Code::WrongKind);
        if cursor != "Ym46L2I" {
            let request = ListRequest { path: path("bn:/"), ..request };
            assert_eq!(session.list(&request).await.unwrap_err().code, Code::Usage, "{cursor}");
        }
    }
    let read = session.open_read(&OpenRead { machine: "m".into(), paths: vec![path("bn:/a")] }).await.unwrap();
    let version = read.files[0].as_ref().unwrap().version;
    let ask = async |first, count| {
        session.read_chunks(read.read, &ReadChunks { spans: vec![Span { version, first, count }] }).await
    };
    assert_eq!(ask(0, u64::MAX).await.unwrap_err().code, Code::Usage);
    assert!(ask(u64::MAX, 1).await.unwrap().spans[0].chunks.is_empty());
    assert_eq!(session.chunk_rows(&path("bn:/a"), Some("x"), 1).await.unwrap_err().code, Code::Usage);
    let far = session.chunk_rows(&path("bn:/a"), Some(&u64::MAX.to_string()), u32::MAX).await.unwrap();
    assert!(far.items.is_empty());
    let at = CopyAt { node: "nobody".parse().unwrap(), pack: PackRoot::of(b"x") };
    let report = BadCopy { chunk: ChunkId::of(b"x"), at, message: "x".repeat(100_000) };
    session.report_bad(std::slice::from_ref(&report)).await.unwrap();
    assert_eq!(session.report_bad(&vec![report; 1000]).await.unwrap_err().code, Code::Usage);
    let row = pool.admin.chunks("bn:/a").await[0].clone();
    let node = pool.nodes.iter().find(|node| row.nodes.contains(&node.name)).unwrap();
    let at = CopyAt { node: node.memory.id().clone(), pack: node.memory.packs()[0] };
    session.report_bad(&[BadCopy { chunk: row.cid, at, message: "a lie".into() }]).await.unwrap();
    assert_eq!(pool.count("SELECT count(*) FROM replica WHERE bad_at IS NOT NULL").await, 0, "a hint changes nothing");
    for token in ["", "bnt_", "bnt__", "bnt_x_y", &"bnt_".repeat(100_000)] {
        assert_eq!(pool.coordinator.local_session(token).await.unwrap_err().code, Code::NotSignedIn);
    }
}
