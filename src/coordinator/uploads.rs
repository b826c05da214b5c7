//! Put, the coordinator's side: what is here already, what must be sent where, and what takes the place of what failed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use rusqlite::{Connection, params};

use super::judge::Depth;
use super::leases::{Lease, LeaseRow, Shortfall, check_alive, ended};
use super::registry::{Member, Seen, View};
use super::{Coordinator, Policy};
use crate::admin::NodeState;
use crate::api::{
    ApiError, ApiResult, BeginPut, ChunksPlanned, Code, MAX_FILES, MAX_PLAN_CHUNKS, PackPlan, PlanChunks, PutSession,
};
use crate::catalog::chunks::{self, Appended, Appending, Copy};
use crate::catalog::packs::{self, NewPack};
use crate::catalog::users::User;
use crate::catalog::{CatalogResult, micros};
use crate::id::{PackId, PoolId, UploadId};
use crate::pack::{MAX_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, PackEntry, PackHeader};
use crate::place::{self, NewChunk};

/// The longest name of a client's machine and its start.
pub(super) const MAX_MACHINE_BYTES: usize = 256;
/// Puts of one user that may be under way at once, with those that were given up within the lease.
const MAX_PUTS: usize = 1000;
/// Proofs asked of a node at once.
const PROOFS: usize = 4;
/// How long a plan waits for the proofs of what is here already to be renewed.
const RENEW: Duration = Duration::from_secs(10);

/// A pack that was issued, and the node it goes to.
pub(super) struct Issued {
    pub node: i64,
    pub header: PackHeader,
}

/// All that a plan needs besides the catalog; it goes into the writer's transaction as a value.
pub(super) struct Planning {
    pub at: Appending,
    pub view: Arc<View>,
    pub pool: PoolId,
    pub epoch: u64,
    pub avoid: BTreeMap<i64, Shortfall>,
    /// Proofs of other times do not make a chunk "here".
    pub fresh: RangeInclusive<i64>,
}

/// What a plan decided.
#[derive(Default)]
pub(super) struct Decided {
    pub here: Vec<crate::id::ChunkId>,
    pub issued: Vec<Issued>,
    pub whole: HashMap<u32, BTreeSet<i64>>,
    /// Whether any chunk is to have fewer copies than wanted.
    pub short: bool,
}

impl Coordinator {
    pub(super) async fn begin_put(&self, user: &User, request: &BeginPut) -> ApiResult<PutSession> {
        let replicas = request.replicas.unwrap_or(self.policy.replicas);
        let nodes = self.nodes.all().len();
        if replicas == 0 || replicas > 16 {
            return Err(ApiError::new(Code::Usage, "the number of copies must be between 1 and 16"));
        }
        if nodes < Policy::write_rule(replicas) as usize {
            let found = match nodes {
                0 => "no node is registered".to_owned(),
                1 => format!("one node is registered, and {replicas} copies need at least two"),
                more => format!("only {more} nodes are registered"),
            };
            return Err(ApiError::new(Code::TooFewNodes, found)
                .hint("bytenode admin node add URL, or put --replicas 1 if one copy is enough"));
        }
        if request.machine.len() > MAX_MACHINE_BYTES {
            return Err(ApiError::new(Code::Usage, "the name of the client's machine is too long"));
        }
        if self.leases.of_user(user.id) >= MAX_PUTS {
            return Err(ApiError::new(Code::Busy, format!("{MAX_PUTS} puts of {} are under way", user.name)));
        }
        let keys = self.keys.open_vault(&user.wrapped_keys).map_err(super::internal)?;
        let row = LeaseRow {
            upload: UploadId::from_bytes(self.seam.bytes()),
            user: user.id,
            vault: user.vault,
            replicas,
            public: request.public,
            machine: request.machine.clone(),
            epoch: self.epoch(),
            created: micros(self.seam.now()),
        };
        let lease = self.leases.add(&self.catalog, &self.seam, row).await?;
        Ok(PutSession {
            upload: lease.upload,
            renew_seconds: 60,
            replicas,
            keys,
            chunk_size: self.policy.chunk_size,
            pool: self.pool,
            epoch: lease.epoch,
        })
    }

    pub(super) fn lease(&self, user: &User, upload: UploadId) -> ApiResult<Arc<Lease>> {
        let lease = self.leases.get(upload, user.id).ok_or_else(ended)?;
        lease.touch();
        Ok(lease)
    }

    pub(super) async fn plan_chunks(&self, lease: &Lease, request: PlanChunks) -> ApiResult<ChunksPlanned> {
        check_plan(&request)?;
        self.prove_known(lease, &request).await?;
        self.nodes.probe_crowded().await;
        let planning = self.planning(lease);
        let view = Arc::clone(&planning.view);
        let whole = lease.whole(request.files.iter().map(|file| file.file));
        let decided = self.write(move |c| plan(c, &planning, &request, whole)).await?;
        lease.set_whole(decided.whole);
        let mut notices = Vec::new();
        if !decided.issued.is_empty() {
            for (member, _) in view.members.iter().zip(&view.seen).filter(|(_, seen)| !seen.answers) {
                if lease.tell(member.row.row) {
                    notices.push(format!("{} does not answer: its share goes to other nodes", member.row.name));
                }
            }
            // Where the others make up for it, a full node is no news.
            let full = |seen: &Seen| decided.short && seen.state == NodeState::Full;
            for (member, _) in view.members.iter().zip(&view.seen).filter(|(_, seen)| full(seen)) {
                if lease.tell(member.row.row) {
                    notices.push(format!("{} is full: there are fewer copies without it", member.row.name));
                }
            }
        }
        Ok(self.planned(lease, &view, decided.here, decided.issued, notices))
    }

    /// Proofs of other times do not count for a put: they were not fresh when it began.
    pub(super) fn counted(&self, lease: &Lease) -> RangeInclusive<i64> {
        let fresh = i64::try_from(self.policy.fresh.as_micros()).unwrap_or(i64::MAX);
        self.times_since(lease.created.saturating_sub(fresh))
    }

    pub(super) fn planning(&self, lease: &Lease) -> Planning {
        let at = Appending {
            upload: lease.upload,
            vault: lease.vault,
            replicas: lease.replicas,
            public: lease.public,
            chunk_size: self.policy.chunk_size,
            now: self.seam.now(),
        };
        Planning {
            at,
            view: Arc::new(self.nodes.view(lease.replicas)),
            pool: self.pool,
            epoch: lease.epoch,
            avoid: lease.avoided(),
            fresh: self.times_since(self.ago(self.policy.fresh)),
        }
    }

    /// The answer for packs that were issued: addresses and grants.
    pub(super) fn planned(
        &self,
        lease: &Lease,
        view: &View,
        here: Vec<crate::id::ChunkId>,
        issued: Vec<Issued>,
        notices: Vec<String>,
    ) -> ChunksPlanned {
        let mut answer = ChunksPlanned { here, notices, ..ChunksPlanned::default() };
        for Issued { node, header } in issued {
            let Some(member) = view.at(node).map(|at| &view.members[at]) else { continue };
            member.pending(header.bytes());
            let address = self.address(member, &lease.machine);
            if !answer.nodes.iter().any(|known| known.id == address.id) {
                answer.nodes.push(address);
            }
            answer.packs.push(PackPlan {
                id: header.id,
                node: member.row.id.clone(),
                grant: self.write_grant(member, &lease.machine, &header),
                entries: header.entries,
            });
        }
        let avoided = lease.avoided();
        let named = answer.nodes.iter().map(|node| node.id.clone());
        answer.replaceable = named.filter(|id| view.can_spare(id, &avoided)).collect();
        answer
    }

    /// Renews the proofs of packs that hold what is about to be sent, so that it need not be.
    async fn prove_known(&self, lease: &Lease, request: &PlanChunks) -> ApiResult<()> {
        let vault = if lease.public { 0 } else { lease.vault };
        let digests: BTreeSet<_> =
            request.files.iter().flat_map(|file| file.chunks.iter().map(|desc| (desc.chunk, desc.bytes))).collect();
        let fresh = self.times_since(self.ago(self.policy.fresh));
        let stale = self
            .read(move |c| {
                let mut stale: BTreeMap<i64, BTreeSet<PackId>> = BTreeMap::new();
                for (chunk, bytes) in &digests {
                    let Some(row) = chunks::known(c, vault, chunk, *bytes)? else { continue };
                    let old = |copy: &Copy| copy.proved.is_none_or(|at| !fresh.contains(&at));
                    for copy in chunks::copies(c, row, None)?.into_iter().filter(old) {
                        stale.entry(copy.node).or_default().insert(copy.pack);
                    }
                }
                Ok(stale)
            })
            .await?;
        let of_node = |(node, packs): (i64, BTreeSet<PackId>)| {
            let proofs: Vec<_> = packs.into_iter().map(|pack| self.prove_pack(node, pack)).collect();
            tokio::time::timeout(RENEW, stream::iter(proofs).buffer_unordered(PROOFS).for_each(|_| async {}))
        };
        // What a node does not prove in time is sent again.
        join_all(stale.into_iter().map(of_node)).await;
        Ok(())
    }

    /// Asks a live pack's node whether it still protects it, and reads one of its chunks (all, where the node's block
    /// cache is live). Renews its proof, or leaves it as it is: whether something is lost is for health and repair to say.
    async fn prove_pack(&self, node: i64, id: PackId) -> Option<()> {
        let (pack, held) = self.read(move |c| Ok((packs::get(c, id)?, packs::chunks(c, id)?))).await.ok()?;
        let pack = pack?;
        let member = self.nodes.get(node).filter(|member| member.seen(self.policy.grace).answers)?;
        self.node_answer(&member, member.is_itself().await)?;
        if !self.node_answer(&member, member.node.holds_pack(pack.root).await)? {
            return None;
        }
        let proof = self.node_answer(&member, self.read_back(&member, &pack, &held, Depth::OfNode).await)?;
        self.write(move |c| packs::proved(c, id, proof)).await.ok()?.then_some(())
    }
}

fn check_plan(request: &PlanChunks) -> ApiResult<()> {
    let count: usize = request.files.iter().map(|file| file.chunks.len()).sum();
    if request.files.len() > MAX_FILES || count > MAX_PLAN_CHUNKS {
        let most = format!("at most {MAX_FILES} files and {MAX_PLAN_CHUNKS} chunks can be planned at once");
        return Err(ApiError::new(Code::Usage, most));
    }
    let mut descs = request.files.iter().flat_map(|file| &file.chunks);
    if let Some(desc) = descs.find(|desc| desc.bytes > MAX_CHUNK_BYTES || desc.length > MAX_CHUNK_BYTES) {
        return Err(ApiError::new(Code::Usage, format!("chunk {} is larger than a chunk may be", desc.chunk)));
    }
    Ok(())
}

/// One distinct chunk that is being planned.
struct Wanted {
    row: i64,
    entry: PackEntry,
    /// Indices of nodes that have it, or will.
    have: Vec<usize>,
    /// Indices of nodes that it is to be sent to.
    picks: Vec<usize>,
}

fn plan(
    c: &Connection,
    at: &Planning,
    request: &PlanChunks,
    mut whole: HashMap<u32, BTreeSet<i64>>,
) -> CatalogResult<Decided> {
    check_alive(c, at.at.upload)?;
    let mut again = Vec::new();
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut index: HashMap<i64, usize> = HashMap::new();
    let mut files: Vec<(u32, Vec<usize>)> = Vec::new();
    for file in &request.files {
        let Appended { rows, repeated } = chunks::append(c, &at.at, file)?;
        if repeated {
            again.extend_from_slice(&rows);
        }
        let mut of_file = Vec::with_capacity(rows.len());
        for (row, desc) in rows.into_iter().zip(&file.chunks) {
            let known = match index.get(&row) {
                Some(known) => *known,
                None => {
                    wanted.push(want(c, at, row, PackEntry { chunk: desc.chunk, bytes: desc.bytes })?);
                    index.insert(row, wanted.len() - 1);
                    wanted.len() - 1
                }
            };
            of_file.push(known);
        }
        files.push((file.file, of_file));
    }
    for (file, of_file) in &files {
        let before = whole.remove(file);
        whole.insert(*file, spread_file(c, at, before, of_file, &mut wanted)?);
    }
    let here = wanted.iter().filter(|chunk| chunk.picks.is_empty()).map(|chunk| chunk.entry.chunk).collect();
    let mut issued = unsent(c, at, &again.into_iter().collect())?;
    issued.extend(issue(c, at, &wanted)?);
    let short = wanted.iter().any(|chunk| chunk.have.len() + chunk.picks.len() < at.at.replicas as usize);
    Ok(Decided { here, issued, whole, short })
}

/// Decides where one chunk must still be sent: to as many nodes as its copies fall short of the target.
fn want(c: &Connection, at: &Planning, row: i64, entry: PackEntry) -> CatalogResult<Wanted> {
    let copies = chunks::copies(c, row, Some(at.at.upload))?;
    let good = |copy: &&Copy| {
        // One that was not told who is in charge may have been told to drop it by another.
        at.view.agrees(copy.node) && (!copy.live || copy.proved.is_some_and(|proved| at.fresh.contains(&proved)))
    };
    let have: BTreeSet<i64> = copies.iter().filter(good).map(|copy| copy.node).collect();
    let taken: BTreeSet<i64> = copies.iter().map(|copy| copy.node).collect();
    let need = (at.at.replicas as usize).saturating_sub(have.len());
    let index = |nodes: &BTreeSet<i64>| nodes.iter().filter_map(|node| at.view.at(*node)).collect::<Vec<_>>();
    let avoided = || at.avoid.keys().filter_map(|node| at.view.at(*node));
    let mut excluded = index(&taken);
    excluded.extend(avoided());
    let kept_away = chunks::excluded(c, row)?;
    let away = at.view.members.iter().enumerate().filter(|(_, m)| kept_away.iter().any(|id| id == m.row.id.as_str()));
    let away: Vec<usize> = away.map(|(index, _)| index).collect();
    let mut picks = at.view.topology.choose_spread(&entry.chunk, &away, &excluded);
    picks.truncate(need);
    let have = index(&have);
    if picks.len() < need {
        // A node whose copy did not prove true takes it again where there is no other.
        let mut excluded = [&have[..], &picks[..]].concat();
        excluded.extend(avoided());
        let more = at.view.topology.choose_spread(&entry.chunk, &away, &excluded);
        picks.extend(more.into_iter().take(need - picks.len()));
    }
    let rule = Policy::write_rule(at.at.replicas) as usize;
    if have.len() + picks.len() < rule {
        return Err(cannot_place(&at.view, rule, &at.avoid).into());
    }
    Ok(Wanted { row, entry, have, picks })
}

/// Why too few nodes take new chunks.
fn cannot_place(view: &View, rule: usize, avoid: &BTreeMap<i64, Shortfall>) -> ApiError {
    // Right after a start, some may not have been asked yet.
    let answers = |seen: &Seen| seen.answers && seen.agrees;
    let answering = view.seen.iter().filter(|seen| answers(seen)).count();
    if answering < rule {
        let silent: Vec<_> = view.members.iter().zip(&view.seen).filter(|(_, seen)| !answers(seen)).collect();
        let names: Vec<_> = silent.iter().map(|(member, _)| member.row.name.as_str()).collect();
        return ApiError::new(
            Code::Temporary,
            format!("only {answering} of {} nodes answer (not {})", view.members.len(), names.join(", ")),
        )
        .hint("bytenode admin node test --all");
    }
    let failed = |(member, seen): &(&Arc<Member>, &Seen)| {
        seen.open && avoid.get(&member.row.row).is_some_and(|failed| !failed.full)
    };
    if let Some((member, _)) = view.members.iter().zip(&view.seen).find(failed) {
        let what = format!("too few nodes are left that did not fail this put ({} did)", member.row.name);
        return ApiError::new(Code::Temporary, what).hint("bytenode admin node test --all");
    }
    let closed = view
        .members
        .iter()
        .zip(&view.seen)
        .filter(|(member, seen)| seen.answers && (!seen.open || avoid.contains_key(&member.row.row)));
    let names: Vec<_> = closed.map(|(member, _)| member.row.name.as_str()).collect();
    ApiError::new(Code::NoRoom, format!("too few of the nodes that answer have room (not {})", names.join(", ")))
        .hint("bytenode admin node ls, then bytenode admin node add URL")
}

/// Keeps any one node from holding the whole file, by moving chunks that are new in this plan; gives the nodes that hold
/// all of it so far.
fn spread_file(
    c: &Connection,
    at: &Planning,
    before: Option<BTreeSet<i64>>,
    of_file: &[usize],
    wanted: &mut [Wanted],
) -> CatalogResult<BTreeSet<i64>> {
    let every = || (0..at.view.members.len()).collect::<BTreeSet<usize>>();
    let mut held: BTreeSet<usize> = match &before {
        Some(nodes) => nodes.iter().filter_map(|node| at.view.at(*node)).collect(),
        None => every(),
    };
    let distinct: BTreeSet<usize> = of_file.iter().copied().collect();
    let free = |chunk: &Wanted| !chunk.picks.is_empty() && chunk.have.is_empty();
    let (movable, settled): (Vec<usize>, Vec<usize>) = distinct.into_iter().partition(|known| free(&wanted[*known]));
    for known in settled {
        let chunk = &wanted[known];
        held.retain(|node| chunk.have.contains(node) || chunk.picks.contains(node));
    }
    let first_and_only = before.is_none() && of_file.len() == 1;
    if !held.is_empty() && !first_and_only {
        let new_chunk = |known: &usize| NewChunk {
            chunk: wanted[*known].entry.chunk,
            excluded: Vec::new(),
            nodes: wanted[*known].picks.clone(),
        };
        let mut moved: Vec<NewChunk> = movable.iter().map(new_chunk).collect();
        place::spread(&at.view.topology, &held, &mut moved);
        for (known, moved) in movable.iter().zip(moved) {
            keep_away(c, at, &mut wanted[*known], moved)?;
        }
    }
    for known in movable {
        held.retain(|node| wanted[known].picks.contains(node));
    }
    Ok(held.iter().map(|node| at.view.members[*node].row.row).collect())
}

/// Takes over where spread moved a chunk to, unless that is a node that failed this put.
fn keep_away(c: &Connection, at: &Planning, chunk: &mut Wanted, moved: NewChunk) -> CatalogResult<()> {
    let avoided = |node: &usize| at.avoid.contains_key(&at.view.members[*node].row.row);
    if moved.excluded.is_empty() || moved.nodes.len() < chunk.picks.len() || moved.nodes.iter().any(avoided) {
        return Ok(());
    }
    for node in &moved.excluded {
        chunks::keep_off(c, chunk.row, at.view.members[*node].row.id.as_str())?;
    }
    chunk.picks = moved.nodes;
    Ok(())
}

/// Issues one pack for each node (more where the limits of a pack demand it).
fn issue(c: &Connection, at: &Planning, wanted: &[Wanted]) -> CatalogResult<Vec<Issued>> {
    let mut issued = Vec::new();
    for node in 0..at.view.members.len() {
        let mut pack = Filling::default();
        for chunk in wanted.iter().filter(|chunk| chunk.picks.contains(&node)) {
            if pack.is_full_for(&chunk.entry) {
                issued.push(pack.issue(c, at, node)?);
                pack = Filling::default();
            }
            pack.add(chunk.row, chunk.entry);
        }
        if !pack.entries.is_empty() {
            issued.push(pack.issue(c, at, node)?);
        }
    }
    Ok(issued)
}

#[derive(Default)]
struct Filling {
    rows: Vec<i64>,
    entries: Vec<PackEntry>,
    bytes: u64,
}

impl Filling {
    fn is_full_for(&self, next: &PackEntry) -> bool {
        self.entries.len() >= MAX_CHUNKS || self.bytes + next.bytes > MAX_BYTES
    }

    fn add(&mut self, row: i64, entry: PackEntry) {
        self.rows.push(row);
        self.bytes += entry.bytes;
        self.entries.push(entry);
    }

    fn issue(self, c: &Connection, at: &Planning, node: usize) -> CatalogResult<Issued> {
        let node = at.view.members[node].row.row;
        let pack = NewPack {
            node,
            vault: at.at.chunk_vault(),
            upload: Some(at.at.upload),
            replaces: None,
            chunks: self.rows,
            entries: self.entries,
        };
        Ok(Issued { node, header: packs::issue(c, at.pool, at.epoch, pack, at.at.now)? })
    }
}

/// Packs of this put that were issued and not reported, all of whose chunks are among these: the answer that issued them
/// was lost.
fn unsent(c: &Connection, at: &Planning, chunks: &BTreeSet<i64>) -> CatalogResult<Vec<Issued>> {
    let mut holding = c.prepare_cached(
        "SELECT p.id FROM replica r JOIN pack p ON p.id = r.pack_id
         WHERE r.chunk_id = ?1 AND p.upload = ?2 AND p.state = 0",
    )?;
    let mut ids = BTreeSet::new();
    for chunk in chunks {
        let rows = holding.query_map(params![chunk, at.at.upload.as_bytes()], |row| row.get::<_, i64>(0))?;
        for id in rows {
            ids.insert(id?);
        }
    }
    let mut found = Vec::new();
    for id in ids.into_iter().filter_map(|id| u64::try_from(id).ok()) {
        let Some(pack) = packs::get(c, PackId::new(id))? else { continue };
        if packs::chunks(c, pack.id)?.iter().all(|held| chunks.contains(&held.row)) {
            found.push(Issued { node: pack.node, header: packs::header(c, at.pool, &pack)? });
        }
    }
    Ok(found)
}

/// What was issued in the place of packs that were given up when they were reported before.
pub(super) fn outstanding(c: &Connection, at: &Planning, given_up: &[PackId]) -> CatalogResult<Vec<Issued>> {
    let mut rows = BTreeSet::new();
    for pack in given_up {
        rows.extend(packs::chunks(c, *pack)?.iter().map(|held| held.row));
    }
    unsent(c, at, &rows)
}

/// Plans the chunks of failed packs anew.
pub(super) fn replan(c: &Connection, at: &Planning, failed: &[PackId]) -> CatalogResult<Vec<Issued>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut seen = HashSet::new();
    for pack in failed {
        for held in packs::chunks(c, *pack)? {
            if seen.insert(held.row) {
                match want(c, at, held.row, held.entry) {
                    Ok(chunk) => wanted.push(chunk),
                    // Nothing can be sent for it now; the commit decides by the write rule.
                    Err(crate::catalog::CatalogError::Refused(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    issue(c, at, &wanted)
}
