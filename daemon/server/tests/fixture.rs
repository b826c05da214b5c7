//! One value of everything that goes over the wire, with every variant and every odd character somewhere.

use crate::admin::{
    Access, Action, Adopt, Adopted, AdoptedNode, CatalogDisk, CheckResult, ChunkRow, Do, Finding, FindingKind, Gc,
    HealthReport, HealthRequest, NewToken, NodeAdd, NodeCheck, NodeEvent, NodeInfo, NodeReport, NodeRisks,
    NodeScrubbed, NodeSet, NodeState, NodeWay, Role, Status, Swept, Task, TaskKind, TaskLine, TaskReport, TaskRequest,
    TaskState, Verdict, WhoAmI,
};
use crate::api::{
    ApiError, Append, BadCopy, BeginPut, Blob, ChunkDesc, ChunksPlanned, Code, CommitFile, CommitFiles, Committed,
    CopyAt, Entry, Expect, Kind, ListRequest, ManifestChunk, ManifestPage, ManifestSpan, NodeAddress, NodeKind,
    OpenFile, OpenRead, PackOutcome, PackPlan, PacksSent, Page, Part, PlanChunks, PutSession, ReadChunks, ReadGrant,
    ReadSession, Removed, Sha256, Span, VersionId,
};
use crate::backup::Passphrase;
use crate::id::{ChunkId, NodeId, PackId, PackRoot, PoolId, UploadId};
use crate::node::{GrantToken, Receipt};
use crate::pack::PackEntry;
use crate::path::RemotePath;
use crate::seal::{Key, VaultKeys};

pub(super) const CODES: [Code; 16] = [
    Code::Internal,
    Code::Usage,
    Code::NotSignedIn,
    Code::NotAllowed,
    Code::NotFound,
    Code::Exists,
    Code::Changed,
    Code::WrongKind,
    Code::NotEmpty,
    Code::Temporary,
    Code::Integrity,
    Code::TooFewNodes,
    Code::NoRoom,
    Code::Replan,
    Code::Busy,
    Code::ReadOnly,
];

pub(super) const NODE_NAME: &str = "attic/nas 1?#%2F\u{fc}";
pub(super) const CURSOR: &str = "a+b/c=&d e%20\u{fc}";

pub(super) fn path() -> RemotePath {
    "bn:/a b/%2e%2e/\u{fc}+&=?#;\"\\\n\t\u{1}/\u{1f980}".parse().unwrap()
}

pub(super) fn other_path() -> RemotePath {
    "bn:/other".parse().unwrap()
}

pub(super) fn paths() -> Vec<RemotePath> {
    vec![path(), other_path(), RemotePath::root()]
}

pub(super) fn lease() -> UploadId {
    UploadId::from_bytes([0xab; 16])
}

fn chunk() -> ChunkId {
    ChunkId::of(b"chunk")
}

fn root() -> PackRoot {
    PackRoot::of(b"root")
}

fn node() -> NodeId {
    "12D3KooW_x-1".parse().unwrap()
}

pub(super) fn time() -> jiff::Timestamp {
    "2026-11-21T01:02:03.456789Z".parse().unwrap()
}

fn secret(text: &str) -> GrantToken {
    GrantToken::new(text.to_owned())
}

fn keys() -> VaultKeys {
    VaultKeys { dedup: Key::from_bytes([1; 32]), wrap: Key::from_bytes([0xfe; 32]) }
}

pub(super) fn entry_at(path: RemotePath) -> Entry {
    Entry {
        path,
        kind: Kind::File,
        size: u64::MAX,
        modified: time(),
        executable: true,
        sha256: Some(Sha256([7; 32])),
        version: Some(VersionId(i64::MAX)),
        chunks: 3,
        copies_min: Some(2),
        copies_target: 3,
        checked: Some(time()),
        public: true,
        spread: Some(false),
        cid: Some("bafy".to_owned()),
    }
}

pub(super) fn entry() -> Entry {
    entry_at(path())
}

fn directory() -> Entry {
    Entry {
        kind: Kind::Dir,
        size: 0,
        sha256: None,
        version: None,
        copies_min: None,
        checked: None,
        spread: None,
        cid: None,
        ..entry_at(RemotePath::root())
    }
}

pub(super) fn found() -> Vec<Option<Entry>> {
    vec![Some(entry()), None, Some(directory())]
}

pub(super) fn list_request() -> ListRequest {
    ListRequest { path: path(), recursive: true, cursor: Some(CURSOR.to_owned()), limit: 1024 }
}

pub(super) fn listing() -> Page<Entry> {
    Page { items: vec![entry(), directory()], next_cursor: Some("next".to_owned()) }
}

pub(super) fn removed() -> Removed {
    Removed { files: 1, dirs: 2, bytes: 3 }
}

pub(super) fn begin_put() -> BeginPut {
    BeginPut { machine: "m\u{fc}".to_owned(), replicas: Some(3), public: true }
}

pub(super) fn put_session() -> PutSession {
    PutSession {
        upload: lease(),
        renew_seconds: 60,
        replicas: 3,
        keys: keys(),
        chunk_size: 1 << 20,
        pool: PoolId::from_bytes([3; 16]),
        epoch: u64::MAX,
    }
}

pub(super) fn plan_chunks() -> PlanChunks {
    let desc = |part| ChunkDesc { chunk: chunk(), bytes: 10, length: 9, part };
    let chunks = vec![desc(Part::Sealed), desc(Part::Plain), desc(Part::Link)];
    PlanChunks { files: vec![Append { file: 1, first: 2, chunks, sealed_keys: Blob(vec![0, 255, 128]) }] }
}

fn address() -> NodeAddress {
    NodeAddress {
        id: node(),
        name: NODE_NAME.to_owned(),
        kind: NodeKind::Kubo,
        url: "http://127.0.0.1:5001".to_owned(),
        gateway: "http://127.0.0.1:8080".to_owned(),
        authorization: Some(secret("Basic x")),
    }
}

pub(super) fn planned() -> ChunksPlanned {
    let entries = vec![PackEntry { chunk: chunk(), bytes: 10 }];
    ChunksPlanned {
        here: vec![chunk()],
        packs: vec![PackPlan { id: PackId::new(u64::MAX), node: node(), entries, grant: Some(secret("grant")) }],
        nodes: vec![address(), NodeAddress { authorization: None, kind: NodeKind::S3, ..address() }],
        replaceable: vec![node()],
        notices: vec!["node attic is down".to_owned()],
    }
}

pub(super) fn packs_sent() -> PacksSent {
    let pack = PackId::new(1);
    let signed = Receipt::Signed { token: "signed".to_owned() };
    PacksSent {
        packs: vec![
            PackOutcome::Sent { pack, receipt: Receipt::Unproved },
            PackOutcome::Sent { pack, receipt: signed },
            PackOutcome::Failed { pack, message: "full".to_owned(), full: true },
        ],
    }
}

pub(super) fn commit_files() -> CommitFiles {
    let file = |file, expect| CommitFile {
        file,
        path: path(),
        expect,
        size: 9,
        sha256: Sha256([9; 32]),
        chunks: 1,
        modified: time(),
        executable: true,
        wrapped_key: Blob(vec![1, 2, 3]),
        cid: None,
    };
    CommitFiles { files: vec![file(1, Expect::Absent), file(2, Expect::Version(VersionId(-5)))] }
}

pub(super) fn refusal() -> ApiError {
    ApiError::new(Code::Changed, "bn:/x changed").hint("bytenode put again")
}

pub(super) fn committed() -> Vec<Committed> {
    vec![
        Committed::Done { file: 1, entry: Box::new(entry()), new_chunks: 4 },
        Committed::Refused { file: 2, error: refusal() },
    ]
}

pub(super) fn open_read() -> OpenRead {
    OpenRead { machine: "m".to_owned(), paths: vec![path(), other_path()] }
}

pub(super) fn read_session() -> ReadSession {
    let open = OpenFile { entry: entry(), version: VersionId(8), chunk_size: 1 << 20, wrapped_key: Blob(vec![5; 60]) };
    ReadSession { read: lease(), renew_seconds: 60, keys: keys(), files: vec![Ok(open), Err(refusal())] }
}

pub(super) fn read_chunks() -> ReadChunks {
    ReadChunks { spans: vec![Span { version: VersionId(8), first: u64::MAX - 1024, count: 1024 }] }
}

fn copy_at() -> CopyAt {
    CopyAt { node: node(), pack: root() }
}

pub(super) fn manifest() -> ManifestPage {
    let desc = ChunkDesc { chunk: chunk(), bytes: 10, length: 9, part: Part::Sealed };
    let chunks = vec![ManifestChunk { desc, copies: vec![copy_at()] }];
    ManifestPage {
        spans: vec![ManifestSpan { chunks, sealed_keys: vec![(0, Blob(vec![9])), (256, Blob(vec![]))] }],
        nodes: vec![address()],
        grants: vec![ReadGrant { at: copy_at(), grant: secret("read") }],
        valid_seconds: 540,
    }
}

pub(super) fn bad_copies() -> Vec<BadCopy> {
    vec![BadCopy { chunk: chunk(), at: copy_at(), message: "wrong bytes".to_owned() }]
}

pub(super) fn whoami() -> WhoAmI {
    WhoAmI {
        user: "ann".to_owned(),
        role: Role::Admin,
        token: "id".to_owned(),
        pool: PoolId::from_bytes([3; 16]),
        version: "0.1.0".to_owned(),
        clock: Some(time()),
    }
}

pub(super) fn new_token() -> NewToken {
    NewToken { token: secret("bnt_id_secret"), id: "id".to_owned() }
}

pub(super) fn chunk_rows() -> Page<ChunkRow> {
    let row = ChunkRow { index: 1, cid: chunk(), size: 10, nodes: vec![NODE_NAME.to_owned()] };
    Page { items: vec![row], next_cursor: None }
}

pub(super) fn node_info() -> NodeInfo {
    NodeInfo {
        failure: Some("refused \u{fc}".into()),
        name: NODE_NAME.to_owned(),
        id: node(),
        url: "http://127.0.0.1:5001".to_owned(),
        kind: NodeKind::Builtin,
        zone: "z".to_owned(),
        access: Access::Relay,
        state: NodeState::Suspect,
        used_bytes: 1,
        reclaimable_bytes: None,
        capacity_bytes: 3,
        chunks: 4,
        load_permille: 333,
        latency_ms: Some(5),
        last_seen: Some(time()),
        version: Some("kubo 0.43.1".to_owned()),
        free_bytes: Some(6),
        clock_skew_ms: Some(-7),
    }
}

pub(super) fn status() -> Status {
    Status {
        oldest_read: Some(time()),
        unread_packs: 7,
        hold: Some("2 of 3 \u{fc}".into()),
        tasks: vec![task()],
        nodes: vec![node_info()],
        replicas: 3,
        files: 1,
        bytes: 2,
        usable_bytes: 3,
        verdict: Verdict::AtRisk,
        under_replicated: 4,
        oldest_verified: Some(time()),
        read_only: Some("another coordinator".to_owned()),
        backed_up: Some(time()),
        disk: Some(CatalogDisk { catalog_bytes: 1, free_bytes: u64::MAX }),
    }
}

pub(super) fn ways() -> Vec<NodeWay> {
    let url = "http://10.0.0.1:5001".to_owned();
    let (id, name, kind) = (node(), NODE_NAME.to_owned(), NodeKind::Kubo);
    let address = NodeAddress { id, name, kind, gateway: url.clone(), url, authorization: Some(secret("bearer:y")) };
    vec![NodeWay { address, relayed: false }]
}

pub(super) fn risks() -> Vec<NodeRisks> {
    vec![NodeRisks { node: NODE_NAME.to_owned(), checks: node_report().checks }]
}

pub(super) fn node_add() -> NodeAdd {
    NodeAdd {
        url: "127.0.0.1:5001".to_owned(),
        name: Some(NODE_NAME.to_owned()),
        zone: Some("z".to_owned()),
        capacity_bytes: Some(u64::MAX),
        token: Some(secret("bearer:x")),
        client_token: Some(secret("bearer:y")),
        gateway: Some("http://127.0.0.1:8080".to_owned()),
        access: Some(Access::Direct),
        gc: Some(Gc::Bytenode),
        insecure_http: true,
        dry_run: true,
    }
}

pub(super) fn node_report() -> NodeReport {
    let check = |result| NodeCheck {
        check: "reach".to_owned(),
        result,
        message: "it answers".to_owned(),
        hint: Some("do".to_owned()),
    };
    let checks = vec![check(CheckResult::Ok), check(CheckResult::Risk), check(CheckResult::Failed)];
    NodeReport { checks, node: Some(node_info()), known: true }
}

pub(super) fn health_request() -> HealthRequest {
    HealthRequest { dry_run: true, now: true, read: true }
}

pub(super) fn health_report() -> HealthReport {
    let kind = FindingKind::UnderReplicated;
    let finding = Finding { kind, path: Some(path()), files: 2, chunk: Some(chunk()), node: None };
    let action = Action { act: Do::Replace, chunk: chunk(), from: Some("a".to_owned()), to: None, bytes: 10 };
    HealthReport {
        oldest_read: None,
        unread_packs: u64::MAX,
        findings: vec![finding],
        actions: vec![action],
        findings_total: 20_000,
        actions_total: 1,
        verdict: Verdict::Degraded,
        chunks: 5,
        replicas_checked: 15,
        repaired: 1,
        remaining: 1,
        oldest_verified: None,
        notices: vec!["n".to_owned()],
    }
}

pub(super) fn swept() -> Swept {
    Swept { chunks: 1, packs: 2, bytes: 3, waiting: 4 }
}

pub(super) fn scrubbed() -> Vec<NodeScrubbed> {
    vec![NodeScrubbed { node: "n\u{fc}".into(), packs: 1, bytes: 2, bad: 3, unprotected: 4, left: 5 }]
}

pub(super) fn node_set() -> NodeSet {
    NodeSet {
        name: Some("n\u{fc} 2".into()),
        zone: Some("attic".into()),
        capacity_bytes: Some(u64::MAX),
        weight: Some(1000),
        url: Some("http://127.0.0.1:5001".into()),
        gateway: Some("http://127.0.0.1:8080".into()),
        token: Some(secret("bearer:x")),
        client_token: Some(secret("bearer:y")),
        access: Some(Access::Relay),
        gc: Some(Gc::Bytenode),
        insecure_http: true,
        draining: Some(false),
        dry_run: true,
    }
}

pub(super) fn node_events() -> Vec<NodeEvent> {
    vec![NodeEvent { at: time(), text: "stopped answering: \u{1}".into() }]
}

pub(super) fn task_request() -> TaskRequest {
    TaskRequest::Health { now: true, read: true, time_limit: Some(u64::MAX), no_wait: true }
}

pub(super) fn task() -> Task {
    Task {
        id: u64::MAX,
        kind: TaskKind::Drain,
        state: TaskState::Paused,
        owner: "\u{fc}".into(),
        node: Some(NODE_NAME.into()),
        done: 1,
        total: Some(2),
        message: "waits".into(),
        created: time(),
        ended: Some(time()),
    }
}

pub(super) fn task_report() -> TaskReport {
    TaskReport {
        task: task(),
        request: TaskRequest::Drain { node: NODE_NAME.into() },
        log: vec![TaskLine { at: time(), text: "waits".into() }],
        error: Some(ApiError::new(Code::Busy, "busy").hint("wait")),
        health: Some(health_report()),
        scrub: Some(scrubbed()),
    }
}

pub(super) fn passphrase() -> Passphrase {
    Passphrase::new("correct horse \u{fc}").unwrap()
}

/// More than fits a buffer.
pub(super) fn backup() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

pub(super) fn adopt() -> Adopt {
    Adopt { without: vec![NODE_NAME.to_owned()], dry_run: true }
}

pub(super) fn adopted() -> Adopted {
    let node = AdoptedNode { node: NODE_NAME.to_owned(), epoch: Some(7), unknown_packs: 3 };
    let kubo = AdoptedNode { epoch: None, ..node.clone() };
    Adopted { why: Some("another coordinator".to_owned()), epoch: 8, nodes: vec![node, kubo] }
}
