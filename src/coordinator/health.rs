//! Health: ask every node for every replica, say what is wrong, plan what mends it. Nothing here changes anything; what
//! is planned is exactly what [`super::repair`] executes.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::future::join_all;
use rusqlite::{Connection, params};

use super::Coordinator;
use super::registry::View;
use crate::admin::{Action, Do, Finding, FindingKind, HealthReport, NodeState, Verdict};
use crate::api::ApiResult;
use crate::catalog::{CatalogResult, digest, micros, time, trace, unsigned};
use crate::id::{ChunkId, PackId, PackRoot};
use crate::node::{ChunkAt, NodeError, NodeFailure};
use crate::pack::PackEntry;

/// Findings and actions that a report carries; all are counted.
const MAX_REPORTED: usize = 10_000;
/// Chunks looked at in one question to the catalog.
const PAGE: u32 = 2_000;

/// What a check takes for granted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Check {
    /// Nodes that do not answer are lost now.
    pub now: bool,
    /// Every replica is read and hashed first.
    pub read: bool,
    /// Copies on this node (by row) do not count: it is to leave the pool.
    pub leaving: Option<i64>,
}

/// What one node said.
enum Said {
    Silent { lost: bool },
    Listed { packs: HashSet<PackRoot>, chunks: HashSet<ChunkId> },
}

/// How one replica stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    Unprotected,
    Missing,
    Corrupt,
    Waiting,
    Gone,
}

/// A replica of a chunk in use.
#[derive(Debug, Clone)]
struct ReplicaRow {
    node: i64,
    pack: PackId,
    root: PackRoot,
    bad: bool,
    proved: Option<i64>,
}

/// A chunk in use, with all its replicas in live packs.
#[derive(Debug, Clone)]
struct ChunkState {
    row: i64,
    vault: i64,
    entry: PackEntry,
    target: u32,
    replicas: Vec<ReplicaRow>,
}

/// One act, with the rows that it needs.
#[derive(Debug, Clone)]
pub(super) struct Act {
    pub means: Means,
    pub chunk: i64,
    pub vault: i64,
    pub entry: PackEntry,
}

/// How an act is done.
#[derive(Debug, Clone)]
pub(super) enum Means {
    /// Write the chunk to a node, reading from the first of these that gives it.
    Write { act: Do, from: Vec<(i64, PackRoot)>, to: i64, instead: Option<PackId> },
    /// Protect a pack again; where that cannot be, write the chunk anew.
    Protect { from: Vec<(i64, PackRoot)>, node: i64, pack: PackId },
}

/// A check's outcome.
#[derive(Default)]
pub(super) struct Diagnosis {
    pub acts: Vec<Act>,
    pub findings: Vec<Finding>,
    pub findings_total: u64,
    pub remaining: u64,
    pub chunks: u64,
    pub replicas: u64,
    pub at_risk: u64,
    pub under: u64,
    pub lost: u64,
    pub oldest: Option<i64>,
    /// Packs whose presence and protection were seen.
    pub seen_packs: BTreeSet<PackId>,
    /// When the check began, in catalog form: what was proved later is not its business.
    pub began: i64,
    /// Replicas found missing or wrong.
    pub bad: Vec<(PackId, i64)>,
    /// Chunks with fewer good copies than wanted, and how many they have.
    pub short: Vec<(i64, u32)>,
    /// Packs that were dropped and are still protected.
    pub orphans: Vec<PackRoot>,
    /// Replicas that were marked bad and are good again.
    pub mended: Vec<(PackId, i64)>,
}

impl Coordinator {
    /// Asks every node, and works out what is wrong and what to do.
    pub(super) async fn diagnose(&self, check: Check) -> ApiResult<(Diagnosis, View)> {
        // Before any node is asked: a pack that arrives meanwhile may be missing from what the node lists.
        let began = micros(self.seam.now());
        let said = self.ask_all(check).await;
        let view = self.nodes.view(self.policy.replicas);
        let mut found = Diagnosis { began, ..Diagnosis::default() };
        self.find_silent(&view, &said, check, &mut found).await?;
        self.find_orphans(&view, &said, &mut found).await?;
        let mut after = 0;
        loop {
            let page = self.read(move |c| chunk_page(c, after)).await?;
            let Some(last) = page.last() else { break };
            after = last.row;
            for chunk in page {
                let wrong = self.read_replicas(&chunk, &said, check).await;
                let standings = standings(&said, &chunk, &wrong, (check, began));
                self.look_at(&view, &chunk, standings, check, &mut found).await?;
            }
        }
        Ok((found, view))
    }

    async fn ask_all(&self, check: Check) -> HashMap<i64, Said> {
        let members = self.nodes.all();
        let ask = members.iter().map(|member| async move {
            let listed = async {
                member.probe().await?;
                let (mut packs, mut chunks) = (HashSet::new(), HashSet::new());
                member
                    .node
                    .list_packs(&mut |root| {
                        packs.insert(root);
                    })
                    .await?;
                member
                    .node
                    .list_chunks(&mut |chunk| {
                        chunks.insert(chunk);
                    })
                    .await?;
                Ok::<_, NodeError>(Said::Listed { packs, chunks })
            };
            let said = listed.await.unwrap_or_else(|error| {
                member.failed(&error);
                let lost = check.now || member.seen(self.policy.grace).state == NodeState::Offline;
                Said::Silent { lost }
            });
            (member.row.row, said)
        });
        join_all(ask).await.into_iter().collect()
    }

    /// A finding for each node that does not answer.
    async fn find_silent(
        &self,
        view: &View,
        said: &HashMap<i64, Said>,
        check: Check,
        found: &mut Diagnosis,
    ) -> ApiResult<()> {
        for member in &view.members {
            let row = member.row.row;
            if check.leaving != Some(row) && matches!(said.get(&row), Some(Said::Silent { .. }) | None) {
                let (path, files) = self.read(move |c| trace::files_of_node(c, row)).await?;
                found.add(Finding {
                    kind: FindingKind::Offline,
                    path,
                    files,
                    chunk: None,
                    node: Some(member.row.name.clone()),
                });
                // A node given up for lost is no problem of its own: what it held shows chunk by chunk.
                let lost = matches!(said.get(&row), Some(Said::Silent { lost: true }));
                found.remaining -= u64::from(lost);
            }
        }
        Ok(())
    }

    /// A finding for each pack that this catalog recorded as dropped, and that a node still protects.
    async fn find_orphans(&self, view: &View, said: &HashMap<i64, Said>, found: &mut Diagnosis) -> ApiResult<()> {
        for member in &view.members {
            let Some(Said::Listed { packs, .. }) = said.get(&member.row.row) else { continue };
            let mut roots: Vec<PackRoot> = packs.iter().copied().collect();
            roots.sort_unstable();
            let orphans = self.read(move |c| trace::orphans(c, &roots)).await?;
            for root in orphans {
                found.orphans.push(root);
                found.add(Finding {
                    kind: FindingKind::Orphan,
                    path: None,
                    files: 0,
                    chunk: None,
                    node: Some(member.row.name.clone()),
                });
            }
        }
        Ok(())
    }

    /// With `--read`: how the replicas stand whose nodes listed them, now that they are read.
    async fn read_replicas(
        &self,
        chunk: &ChunkState,
        said: &HashMap<i64, Said>,
        check: Check,
    ) -> HashMap<PackId, Standing> {
        let mut wrong = HashMap::new();
        if !check.read {
            return wrong;
        }
        for replica in &chunk.replicas {
            let Some(member) = self.nodes.get(replica.node) else { continue };
            if !matches!(said.get(&replica.node), Some(Said::Listed { .. })) {
                continue;
            }
            let at = ChunkAt { chunk: chunk.entry.chunk, bytes: chunk.entry.bytes, pack: replica.root };
            match member.node.read_chunk(&at, None, None).await.map_err(|error| error.reason) {
                Ok(_) => drop(wrong.insert(replica.pack, Standing::Good)),
                Err(NodeFailure::Absent(_)) => drop(wrong.insert(replica.pack, Standing::Missing)),
                Err(NodeFailure::Corrupt(_)) => drop(wrong.insert(replica.pack, Standing::Corrupt)),
                Err(_) => drop(wrong.insert(replica.pack, Standing::Waiting)),
            }
        }
        wrong
    }

    async fn look_at(
        &self,
        view: &View,
        chunk: &ChunkState,
        standings: Vec<(&ReplicaRow, Standing)>,
        check: Check,
        found: &mut Diagnosis,
    ) -> ApiResult<()> {
        found.chunks += 1;
        found.replicas += chunk.replicas.len() as u64;
        let nodes_with = |wanted: &[Standing]| -> BTreeSet<i64> {
            standings.iter().filter(|(_, s)| wanted.contains(s)).map(|(replica, _)| replica.node).collect()
        };
        let good = nodes_with(&[Standing::Good, Standing::Unprotected]);
        let waiting = nodes_with(&[Standing::Waiting]);
        for (replica, standing) in &standings {
            found.note(chunk, replica, *standing, good.len() >= chunk.target as usize);
        }
        if good.len() < chunk.target as usize {
            found.short.push((chunk.row, u32::try_from(good.len()).unwrap_or(u32::MAX)));
        }
        let counted = if good.len() <= 1 { good.len() } else { good.union(&waiting).count() };
        let short = (chunk.target as usize).saturating_sub(counted);
        let kinds = finding_kinds(&standings, &good, &waiting, chunk.target as usize);
        if kinds.is_empty() && short == 0 {
            return Ok(());
        }
        let row = chunk.row;
        let (path, files) = self.read(move |c| trace::files_of_chunk(c, row)).await?;
        for (kind, node) in kinds {
            let node = node.map(|node| view.name(node));
            found.add(Finding { kind, path: path.clone(), files, chunk: Some(chunk.entry.chunk), node });
        }
        let leaves = |replica: &ReplicaRow| check.leaving == Some(replica.node);
        if good.is_empty() && !standings.iter().any(|(replica, _)| leaves(replica)) {
            if waiting.is_empty() {
                found.lost += 1;
            } else {
                found.at_risk += 1;
            }
            return Ok(());
        }
        if good.len() < chunk.target as usize {
            found.under += 1;
            found.at_risk += u64::from(good.len() == 1 && chunk.target > 1);
        }
        plan_copies(view, chunk, &standings, short, check, found);
        Ok(())
    }
}

/// How every replica of a chunk stands; what was read counts for more than what was listed, except for protection.
fn standings<'a>(
    said: &HashMap<i64, Said>,
    chunk: &'a ChunkState,
    read: &HashMap<PackId, Standing>,
    at: (Check, i64),
) -> Vec<(&'a ReplicaRow, Standing)> {
    let stand = |replica: &'a ReplicaRow| {
        let listed = stands(said, chunk, replica, at);
        let standing = match read.get(&replica.pack) {
            _ if listed == Standing::Gone => Standing::Gone,
            None => listed,
            Some(Standing::Good) if holds(said, replica) => Standing::Good,
            Some(Standing::Good) => Standing::Unprotected,
            Some(other) => *other,
        };
        (replica, standing)
    };
    chunk.replicas.iter().map(stand).collect()
}

fn holds(said: &HashMap<i64, Said>, replica: &ReplicaRow) -> bool {
    matches!(said.get(&replica.node), Some(Said::Listed { packs, .. }) if packs.contains(&replica.root))
}

/// How a replica stands by what its node said.
fn stands(said: &HashMap<i64, Said>, chunk: &ChunkState, replica: &ReplicaRow, at: (Check, i64)) -> Standing {
    let (check, began) = at;
    if check.leaving == Some(replica.node) {
        return Standing::Gone;
    }
    if !replica.bad && replica.proved.is_some_and(|proved| proved > began) {
        return Standing::Good;
    }
    match said.get(&replica.node) {
        Some(Said::Silent { lost: false }) => Standing::Waiting,
        Some(Said::Silent { lost: true }) | None => Standing::Gone,
        Some(Said::Listed { packs, chunks }) => {
            if !chunks.contains(&chunk.entry.chunk) {
                Standing::Missing
            } else if replica.bad {
                Standing::Corrupt
            } else if packs.contains(&replica.root) {
                Standing::Good
            } else {
                Standing::Unprotected
            }
        }
    }
}

fn finding_kinds(
    standings: &[(&ReplicaRow, Standing)],
    good: &BTreeSet<i64>,
    waiting: &BTreeSet<i64>,
    target: usize,
) -> Vec<(FindingKind, Option<i64>)> {
    let mut kinds = Vec::new();
    for (replica, standing) in standings {
        let kind = match standing {
            // A replica that was given up for others that count is no longer missed.
            Standing::Missing if good.len() < target => FindingKind::Missing,
            Standing::Corrupt if good.len() < target => FindingKind::Corrupt,
            Standing::Unprotected => FindingKind::Unprotected,
            _ => continue,
        };
        kinds.push((kind, Some(replica.node)));
    }
    if good.is_empty() && waiting.is_empty() {
        kinds.push((FindingKind::Lost, None));
    } else if good.len() < target {
        kinds.push((FindingKind::UnderReplicated, None));
    } else if good.len() > target {
        kinds.push((FindingKind::Surplus, None));
    }
    kinds
}

/// Plans as many new copies as are short: first in the place of those that a node lost, then where they belong.
fn plan_copies(
    view: &View,
    chunk: &ChunkState,
    standings: &[(&ReplicaRow, Standing)],
    short: usize,
    check: Check,
    found: &mut Diagnosis,
) {
    let good = |s: &Standing| matches!(s, Standing::Good | Standing::Unprotected);
    let mut from: Vec<(i64, PackRoot)> =
        standings.iter().filter(|(_, s)| good(s)).map(|(replica, _)| (replica.node, replica.root)).collect();
    let leaving = standings.iter().filter(|(replica, _)| check.leaving == Some(replica.node));
    from.extend(leaving.map(|(replica, _)| (replica.node, replica.root)));
    for (replica, _) in standings.iter().filter(|(_, s)| *s == Standing::Unprotected) {
        let (node, pack) = (replica.node, replica.pack);
        found.acts.push(chunk.act(Means::Protect { from: from.clone(), node, pack }));
    }
    let mut excluded: Vec<usize> = standings
        .iter()
        .filter(|(_, s)| good(s) || *s == Standing::Waiting)
        .filter_map(|(r, _)| view.at(r.node))
        .collect();
    excluded.extend(check.leaving.and_then(|row| view.at(row)));
    let mut targets: Vec<(usize, Option<PackId>)> = Vec::new();
    for (replica, standing) in standings {
        let lost = matches!(standing, Standing::Missing | Standing::Corrupt);
        if let Some(at) = view.at(replica.node).filter(|at| lost && view.seen[*at].open && !excluded.contains(at)) {
            targets.push((at, Some(replica.pack)));
            excluded.push(at);
        }
    }
    let picks = view.topology.choose(&chunk.entry.chunk, &excluded);
    targets.extend(picks.into_iter().map(|at| (at, None)));
    // A node whose block cache is live takes what it lost or spoilt without writing it: others come first.
    targets.sort_by_key(|(at, instead)| instead.is_some() && view.members[*at].row.cache_live);
    for (at, instead) in targets.into_iter().take(short) {
        let act = if instead.is_some() { Do::Replace } else { Do::Copy };
        let to = view.members[at].row.row;
        found.acts.push(chunk.act(Means::Write { act, from: from.clone(), to, instead }));
    }
}

impl ChunkState {
    fn act(&self, means: Means) -> Act {
        Act { means, chunk: self.row, vault: self.vault, entry: self.entry }
    }
}

impl Diagnosis {
    fn add(&mut self, finding: Finding) {
        self.findings_total += 1;
        self.remaining += u64::from(!matches!(finding.kind, FindingKind::Orphan | FindingKind::Surplus));
        if self.findings.len() < MAX_REPORTED {
            self.findings.push(finding);
        }
    }

    fn note(&mut self, chunk: &ChunkState, replica: &ReplicaRow, standing: Standing, enough: bool) {
        match standing {
            Standing::Good => {
                self.seen_packs.insert(replica.pack);
                if replica.bad {
                    self.mended.push((replica.pack, chunk.row));
                }
                self.oldest = match (self.oldest, replica.proved) {
                    (Some(oldest), Some(proved)) => Some(oldest.min(proved)),
                    (oldest, proved) => oldest.or(proved),
                };
            }
            Standing::Missing | Standing::Corrupt if !replica.bad || enough => {
                self.bad.push((replica.pack, chunk.row));
            }
            _ => {}
        }
    }

    /// The verdict on what was found.
    pub(super) fn verdict(&self) -> Verdict {
        if self.lost > 0 {
            Verdict::Lost
        } else if self.at_risk > 0 {
            Verdict::AtRisk
        } else if self.under > 0 || self.remaining > 0 {
            Verdict::Degraded
        } else {
            Verdict::Healthy
        }
    }

    /// The report on what was found and planned.
    pub(super) fn report(&self, view: &View) -> HealthReport {
        let actions: Vec<Action> = self.acts.iter().map(|act| act.show(view)).collect();
        HealthReport {
            findings: self.findings.clone(),
            actions_total: actions.len() as u64,
            actions: actions.into_iter().take(MAX_REPORTED).collect(),
            findings_total: self.findings_total,
            verdict: self.verdict(),
            chunks: self.chunks,
            replicas_checked: self.replicas,
            repaired: 0,
            remaining: self.remaining,
            oldest_verified: self.oldest.map(time),
            notices: Vec::new(),
        }
    }
}

impl Act {
    fn show(&self, view: &View) -> Action {
        let (act, from, to) = match &self.means {
            Means::Write { act, from, to, .. } => (*act, from.first().map(|(node, _)| *node), *to),
            Means::Protect { node, .. } => (Do::Replace, Some(*node), *node),
        };
        Action {
            act,
            chunk: self.entry.chunk,
            from: from.map(|node| view.name(node)),
            to: Some(view.name(to)),
            bytes: self.entry.bytes,
        }
    }
}

/// A page of chunks in use, with their replicas in live packs.
fn chunk_page(c: &Connection, after: i64) -> CatalogResult<Vec<ChunkState>> {
    let mut statement = c.prepare_cached(
        "SELECT c.id, c.vault_id, c.digest, c.bytes, max(v.replicas) FROM chunk c
         JOIN manifest m ON m.chunk_id = c.id JOIN version v ON v.id = m.version_id
         WHERE c.id > ?1 AND v.state = 1 AND v.expires_at IS NULL
         GROUP BY c.id ORDER BY c.id LIMIT ?2",
    )?;
    let rows = statement.query_map(params![after, PAGE], |row| {
        let found: (i64, i64, Vec<u8>, i64, u32) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        Ok(found)
    })?;
    let mut page = Vec::new();
    for found in rows {
        let (row, vault, blob, bytes, target) = found?;
        let entry = PackEntry { chunk: ChunkId::from_digest(digest(&blob)?), bytes: unsigned(bytes) };
        page.push(ChunkState { row, vault, entry, target, replicas: replicas(c, row)? });
    }
    Ok(page)
}

fn replicas(c: &Connection, chunk: i64) -> CatalogResult<Vec<ReplicaRow>> {
    let mut statement = c.prepare_cached(
        "SELECT p.node_id, p.id, p.root, r.bad_at IS NOT NULL, min(p.protected_at, p.present_at) FROM replica r
         JOIN pack p ON p.id = r.pack_id WHERE r.chunk_id = ?1 AND p.state = 2 ORDER BY p.id",
    )?;
    let rows = statement.query_map([chunk], |row| {
        let found: (i64, i64, Vec<u8>, bool, Option<i64>) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
        Ok(found)
    })?;
    rows.map(|found| {
        let (node, pack, root, bad, proved) = found?;
        let root = PackRoot::from_digest(digest(&root)?);
        Ok(ReplicaRow { node, pack: PackId::new(unsigned(pack)), root, bad, proved })
    })
    .collect()
}
