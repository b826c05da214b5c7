//! Get, the coordinator's side: what a file is made of and where to fetch it, best copy first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use futures_util::future::try_join_all;

use super::Coordinator;
use super::leases::{Full, OpenedRead, Reads};
use super::registry::{Member, View};
use super::uploads::MAX_MACHINE_BYTES;
use crate::api::{
    ApiError, ApiResult, BadCopy, Code, CopyAt, Kind, MAX_FILES, MAX_PAGE_CHUNKS, MAX_REPORTS, ManifestChunk,
    ManifestPage, ManifestSpan, OpenFile, OpenRead, ReadChunks, ReadGrant, ReadSession,
};
use crate::catalog::chunks::{self, Copy, ManifestRow};
use crate::catalog::users::User;
use crate::catalog::{files, packs};
use crate::id::{ChunkId, NodeId, UploadId};
use crate::node::{ChunkAt, NodeFailure};

/// A span's rows with their copies, as the catalog gave them.
type SpanRows = (Vec<(ManifestRow, Vec<Copy>)>, Vec<(u64, crate::api::Blob)>);

/// What a node may take longer than another, beside a multiple of it, and still be as near.
const NEAR: Duration = Duration::from_millis(50);

impl Coordinator {
    pub(super) async fn open_read(&self, user: &User, request: OpenRead) -> ApiResult<ReadSession> {
        if request.paths.len() > MAX_FILES {
            return Err(ApiError::new(Code::Usage, format!("at most {MAX_FILES} files can be opened at once")));
        }
        if request.machine.len() > MAX_MACHINE_BYTES {
            return Err(ApiError::new(Code::Usage, "the name of the client's machine is too long"));
        }
        let keys = self.keys.open_vault(&user.wrapped_keys).map_err(super::internal)?;
        let vault = user.vault;
        let OpenRead { machine, paths } = request;
        let opened = self
            .read(move |c| {
                let mut opened = Vec::with_capacity(paths.len());
                for path in &paths {
                    opened.push(match files::need(c, vault, path) {
                        Ok(found) => open_file(c, vault, found),
                        Err(error) => Err(error.into()),
                    });
                }
                Ok(opened)
            })
            .await?;
        let versions = opened.iter().flatten().map(|file| file.version.0).collect();
        let read = UploadId::from_bytes(self.seam.bytes());
        let opened_read = OpenedRead { user: user.id, machine, versions };
        self.reads.open(read, opened_read).map_err(|full| too_many(&full, &user.name))?;
        let files = self.still_there(vault, opened).await?;
        Ok(ReadSession { read, renew_seconds: 60, keys, files })
    }

    /// Asks in the writer's turn, now that the sweeper sees the read, whether it was there before it released anything.
    async fn still_there(
        &self,
        vault: i64,
        opened: Vec<Result<OpenFile, ApiError>>,
    ) -> ApiResult<Vec<Result<OpenFile, ApiError>>> {
        self.write(move |c| {
            opened
                .into_iter()
                .map(|one| match one {
                    Ok(file) if chunks::readable(c, vault, file.version)?.is_none() => {
                        Ok(Err(ApiError::new(Code::NotFound, format!("{} does not exist", file.entry.path))))
                    }
                    other => Ok(other),
                })
                .collect()
        })
        .await
    }

    pub(super) async fn read_chunks(
        &self,
        user: &User,
        read: UploadId,
        request: ReadChunks,
    ) -> ApiResult<ManifestPage> {
        let count = request.spans.iter().fold(0u64, |sum, span| sum.saturating_add(span.count));
        if count > MAX_PAGE_CHUNKS as u64 || request.spans.len() > MAX_PAGE_CHUNKS {
            return Err(ApiError::new(
                Code::Usage,
                format!("at most {MAX_PAGE_CHUNKS} chunks can be asked for at once"),
            ));
        }
        let open = self.reads.get(read, user.id).ok_or_else(|| ApiError::new(Code::Replan, "this read has ended"))?;
        if request.spans.iter().any(|span| !open.has(span.version.0)) {
            return Err(ApiError::new(Code::NotAllowed, "this version is not open in this read"));
        }
        let spans = self
            .read(move |c| {
                let mut spans: Vec<SpanRows> = Vec::with_capacity(request.spans.len());
                for span in &request.spans {
                    let rows = chunks::manifest(c, span.version.0, span.first, span.count)?;
                    let mut with_copies = Vec::with_capacity(rows.len());
                    for row in rows {
                        let mut copies = chunks::copies(c, row.row, None)?;
                        if copies.is_empty() {
                            copies = chunks::doubtful(c, row.row)?;
                        }
                        with_copies.push((row, copies));
                    }
                    let pages = chunks::key_pages(c, span.version.0, span.first, span.count)?;
                    spans.push((with_copies, pages));
                }
                Ok(spans)
            })
            .await?;
        Ok(self.page(&open.machine, spans))
    }

    fn page(&self, machine: &str, spans: Vec<SpanRows>) -> ManifestPage {
        let view = self.nodes.view(self.policy.replicas);
        let mut named: BTreeSet<usize> = BTreeSet::new();
        let mut grants: HashMap<CopyAt, Option<ReadGrant>> = HashMap::new();
        let mut out = Vec::with_capacity(spans.len());
        for (rows, sealed_keys) in spans {
            let mut of_span = Vec::with_capacity(rows.len());
            for (row, copies) in rows {
                let mut at = Vec::with_capacity(copies.len());
                for (index, copy) in preferred(&view, &row.desc.chunk, &copies) {
                    let member = &view.members[index];
                    let place = CopyAt { node: member.row.id.clone(), pack: copy.root };
                    named.insert(index);
                    grants.entry(place.clone()).or_insert_with(|| {
                        let grant = self.read_grant(member, machine, copy.root)?;
                        Some(ReadGrant { at: place.clone(), grant })
                    });
                    at.push(place);
                }
                of_span.push(ManifestChunk { desc: row.desc, copies: at });
            }
            out.push(ManifestSpan { chunks: of_span, sealed_keys });
        }
        let nodes = named.iter().map(|index| self.address(&view.members[*index], machine)).collect();
        let mut grants: Vec<ReadGrant> = grants.into_values().flatten().collect();
        grants.sort_by(|a, b| (&a.at.node, a.at.pack).cmp(&(&b.at.node, b.at.pack)));
        let valid_seconds = self.policy.grant.as_secs().saturating_sub(30).max(1);
        ManifestPage { spans: out, nodes, grants, valid_seconds }
    }

    /// Checks reported copies by reading them here, and marks only what this shows to be so. Nodes are asked side by side,
    /// each for as long as it answers, so that those that hang cost their limit once.
    pub(super) async fn report_bad(&self, user: &User, reports: &[BadCopy]) -> ApiResult<()> {
        if reports.len() > MAX_REPORTS {
            return Err(ApiError::new(Code::Usage, format!("at most {MAX_REPORTS} copies can be reported at once")));
        }
        let mut of_nodes: BTreeMap<&NodeId, Vec<&BadCopy>> = BTreeMap::new();
        for report in reports {
            of_nodes.entry(&report.at.node).or_default().push(report);
        }
        let checks = of_nodes.into_iter().map(|(node, reports)| self.check_node(user, node, reports));
        try_join_all(checks).await.map(drop)
    }

    async fn check_node(&self, user: &User, node: &NodeId, reports: Vec<&BadCopy>) -> ApiResult<()> {
        let Some(member) = self.nodes.known(node) else { return Ok(()) };
        for report in reports {
            if !self.check_reported(user, &member, report).await? {
                break;
            }
        }
        Ok(())
    }

    /// Says whether the node is to be asked about others.
    async fn check_reported(&self, user: &User, member: &Member, report: &BadCopy) -> ApiResult<bool> {
        let (chunk, root, node, vault) = (report.chunk, report.at.pack, member.row.row, user.vault);
        let found = self.read(move |c| chunks::copy_in(c, vault, &chunk, &root, node)).await?;
        let Some((pack, held)) = found else { return Ok(true) };
        let at = ChunkAt { chunk, bytes: held.entry.bytes, pack: root };
        match member.node.read_chunk(&at, None, None).await {
            Ok(_) => Ok(true),
            Err(error) => match error.reason {
                NodeFailure::Absent(_) | NodeFailure::Corrupt(_) => {
                    let now = self.seam.now();
                    self.write(move |c| packs::mark(c, pack, held.row, now)).await?;
                    self.repair_wanted.notify_one();
                    Ok(true)
                }
                _ => {
                    member.failed(&error);
                    Ok(false)
                }
            },
        }
    }
}

fn too_many(full: &Full, user: &str) -> ApiError {
    let what = match full {
        Full::User => format!("{user} has {} reads under way, as many as a user may have", Reads::MOST_OF_USER),
        Full::All => format!("{} reads are under way, as many as there may be", Reads::MOST),
    };
    ApiError::new(Code::Temporary, what).hint("let some of them end, or try again in a few minutes")
}

fn open_file(c: &rusqlite::Connection, vault: i64, found: files::Found) -> Result<OpenFile, ApiError> {
    let entry = found.entry;
    let Some(version) = entry.version.filter(|_| entry.kind == Kind::File) else {
        return Err(ApiError::new(Code::WrongKind, format!("{} is a directory", entry.path)));
    };
    let readable = chunks::readable(c, vault, version)?
        .ok_or_else(|| ApiError::new(Code::Internal, format!("{} has no readable version", entry.path)))?;
    Ok(OpenFile {
        entry,
        version,
        chunk_size: readable.chunk_size,
        wrapped_key: crate::api::Blob(readable.wrapped_key),
    })
}

/// Copies in the order in which to try them: nodes that answer first, of these the near ones, then by the chunk's own
/// rank, which shares the load; the client knows more once it has read some. Of several on one node, the newest is tried in its turn, and the others after all else.
fn preferred<'a>(view: &View, chunk: &ChunkId, copies: &'a [Copy]) -> Vec<(usize, &'a Copy)> {
    let mut found: Vec<(usize, &Copy)> =
        copies.iter().filter_map(|copy| view.at(copy.node).map(|index| (index, copy))).collect();
    found.sort_by_key(|(index, copy)| (*index, Reverse(copy.pack)));
    let mut seen = HashSet::new();
    let (mut found, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(index, _)| seen.insert(*index));
    let turn = usize::from(chunk.digest()[31]) % found.len().max(1);
    found.rotate_left(turn);
    found.extend(others);
    let latency = |index: usize| view.seen[index].latency.unwrap_or_default();
    let nearest = found.iter().map(|(index, _)| latency(*index)).min().unwrap_or_default();
    let far = |index: usize| latency(index) > nearest * 4 + NEAR;
    found.sort_by_key(|(index, _)| (!view.seen[*index].answers, far(*index)));
    found
}
