//! What counts: packs that a client says it sent are protected and proved here, or something else takes their place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};

use jiff::Timestamp;

use super::Coordinator;
use super::leases::{Lease, Shortfall, check_alive};
use super::registry::Member;
use super::uploads::{outstanding, replan};
use crate::api::{ApiError, ApiResult, ChunksPlanned, Code, MAX_FILES, NodeAddress, NodeKind, PackOutcome, PacksSent};
use crate::catalog::CatalogResult;
use crate::catalog::packs::{self, Held, PackRow, PackState, Proof, Reach};
use crate::grant::{Grant, MAX_SKEW, PublicKey, Verb};
use crate::id::{PackId, PackRoot};
use crate::node::{ChunkAt, GrantToken, NodeError, NodeFailure, Receipt};
use crate::pack::{MAX_BYTES, PackHeader};

/// Packs of one node that are proved at once.
const PROOFS: usize = 4;
/// How much of a pack is read back where no receipt proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// What the node's kind demands.
    OfNode,
    /// All of it: the node had wrong bytes of it before.
    Whole,
}

/// Chunks of one pack that are read back at once.
const READING: usize = 4;
/// How long the proofs of one node's packs may take while a put waits: less than a call to the coordinator, so that what
/// other nodes proved is not lost with them.
const PROVE: Duration = Duration::from_secs(20);
/// How long a node in which a put lost confidence has to answer, while the put waits to go elsewhere.
const DOUBT: Duration = Duration::from_secs(5);

/// How a pack came out.
enum Judged {
    Proved(PackId, Proof),
    Failed {
        pack: PackId,
        node: i64,
        why: String,
    },
    /// It was given up when it was reported before.
    GivenUp(PackId),
}

impl Coordinator {
    pub(super) async fn packs_sent(&self, lease: &Lease, request: PacksSent) -> ApiResult<ChunksPlanned> {
        if request.packs.len() > MAX_FILES {
            return Err(ApiError::new(Code::Usage, format!("at most {MAX_FILES} packs can be reported at once")));
        }
        let judged = self.judge_all(lease, request.packs).await?;
        let planning = self.planning(lease);
        let view = Arc::clone(&planning.view);
        let mut notices = Vec::new();
        for one in &judged {
            if let Judged::Failed { node, why, .. } = one {
                notices.push(format!("{}: {why}", view.name(*node)));
            }
        }
        let issued = self
            .write(move |c| {
                check_alive(c, planning.at.upload)?;
                let (mut failed, mut given_up) = (Vec::new(), Vec::new());
                for one in &judged {
                    match one {
                        Judged::Proved(pack, proof) => drop(packs::proved(c, *pack, *proof)?),
                        // Of two reports of one pack, the first to get here decides.
                        Judged::Failed { pack, .. } if packs::abort(c, *pack)? => failed.push(*pack),
                        Judged::Failed { pack, .. } | Judged::GivenUp(pack) => given_up.push(*pack),
                    }
                }
                let mut issued = outstanding(c, &planning, &given_up)?;
                issued.extend(replan(c, &planning, &failed)?);
                Ok(issued)
            })
            .await?;
        Ok(self.planned(lease, &view, Vec::new(), issued, notices))
    }

    /// Judges reports, each node's on their own: a slow node costs the others nothing, and all of this ends in time.
    async fn judge_all(&self, lease: &Lease, outcomes: Vec<PackOutcome>) -> ApiResult<Vec<Judged>> {
        let upload = lease.upload;
        let reported = self
            .read(move |c| {
                let find = |outcome: PackOutcome| {
                    let (PackOutcome::Sent { pack: id, .. } | PackOutcome::Failed { pack: id, .. }) = &outcome;
                    let pack = packs::get(c, *id)?.filter(|pack| pack.upload == Some(upload));
                    let pack =
                        pack.ok_or_else(|| ApiError::new(Code::Usage, format!("pack {id} is not of this put")))?;
                    Ok((pack, outcome))
                };
                outcomes.into_iter().map(find).collect::<CatalogResult<Vec<_>>>()
            })
            .await?;
        let mut judged = Vec::new();
        let mut open: BTreeMap<i64, Vec<(PackRow, PackOutcome)>> = BTreeMap::new();
        for (pack, outcome) in reported {
            match pack.state {
                PackState::Planned | PackState::Stored => open.entry(pack.node).or_default().push((pack, outcome)),
                PackState::Live => {}
                PackState::Dropping | PackState::Gone => judged.push(Judged::GivenUp(pack.id)),
            }
        }
        let of_nodes = open.into_iter().map(|(node, reports)| self.judge_node(lease, node, reports));
        judged.extend(join_all(of_nodes).await.into_iter().flatten());
        Ok(judged)
    }

    /// Judges what was reported of one node, within [`PROVE`], and asks the node how it is if anything of it failed.
    async fn judge_node(&self, lease: &Lease, node: i64, reports: Vec<(PackRow, PackOutcome)>) -> Vec<Judged> {
        let member = self.nodes.get(node);
        let until = tokio::time::Instant::now() + PROVE;
        let full = reports.iter().any(|(_, outcome)| matches!(outcome, PackOutcome::Failed { full: true, .. }));
        let judge = |(pack, outcome): (PackRow, PackOutcome)| {
            let member = member.as_deref();
            async move {
                let id = pack.id;
                match self.judge(member, pack, outcome, until).await {
                    Ok(proof) => Judged::Proved(id, proof),
                    Err(why) => Judged::Failed { pack: id, node, why },
                }
            }
        };
        let judged: Vec<Judged> = stream::iter(reports.into_iter().map(judge)).buffered(PROOFS).collect().await;
        let failed = judged.iter().find_map(|one| if let Judged::Failed { why, .. } = one { Some(why) } else { None });
        if let Some(why) = failed {
            lease.avoid(node, Shortfall { why: why.clone(), full });
            if let Some(member) = &member {
                self.doubt(member).await;
            }
        }
        judged
    }

    /// Judges one report; else why the pack failed.
    async fn judge(
        &self,
        member: Option<&Member>,
        pack: PackRow,
        outcome: PackOutcome,
        until: tokio::time::Instant,
    ) -> Result<Proof, String> {
        let member = member.ok_or_else(|| "is no longer registered".to_owned())?;
        let receipt = match outcome {
            PackOutcome::Failed { message, full, .. } => {
                // What a client says of a node is a hint.
                if full && member.seen(self.policy.grace).free_bytes.is_some_and(|free| free < 2 * MAX_BYTES) {
                    member.is_full();
                }
                return Err(message.chars().take(300).collect());
            }
            PackOutcome::Sent { receipt, .. } => receipt,
        };
        let id = pack.id;
        let held = self.read(move |c| packs::chunks(c, id)).await.map_err(|error| error.message)?;
        let proof = async {
            let stripe = usize::try_from(id.get() % self.proving.len() as u64).unwrap_or(0);
            let _alone = self.proving[stripe].lock().await;
            self.prove_new(member, &pack, &held, &receipt, Depth::OfNode).await
        };
        let late = NodeFailure::Timeout { seconds: PROVE.as_secs(), doing: "proving packs" };
        let proof = tokio::time::timeout_at(until, proof).await;
        proof.unwrap_or_else(|_| Err(late.at(&member.row.name))).map_err(|error| {
            member.failed(&error);
            error.reason.to_string()
        })
    }

    /// Protects and proves a pack that a node says it has: by the node's signature where it is a built-in one, else by
    /// pinning, and reading back one chunk chosen at random (all, where the node's block cache is live).
    pub(super) async fn prove_new(
        &self,
        member: &Member,
        pack: &PackRow,
        held: &[Held],
        receipt: &Receipt,
        depth: Depth,
    ) -> Result<Proof, NodeError> {
        if let Some(key) = PublicKey::of_node(&member.row.id) {
            let entries = held.iter().map(|held| held.entry).collect();
            let header = PackHeader { pool: self.pool, epoch: pack.epoch, id: pack.id, entries };
            let at = self.check_receipt(member, &key, &header, receipt)?.max(pack.created).min(self.seam.now());
            return Ok(Proof { reach: Reach::Whole, at });
        }
        if pack.state == PackState::Planned {
            let id = pack.id;
            let refuse = |why: String| NodeFailure::Answer(why).at(&member.row.name);
            let wanted = self.write(move |c| packs::stored(c, id)).await.map_err(|error| refuse(error.message))?;
            if !wanted {
                return Err(refuse("its pack is no longer wanted".to_owned()));
            }
        }
        member.is_itself().await?;
        if !member.node.holds_pack(pack.root).await? {
            member.node.protect_pack(pack.root, pack.bytes).await?;
        }
        self.read_back(member, pack, held, depth).await
    }

    /// Notes that a replica was read and is missing or wrong. Where that cannot be written down, the next who reads it says
    /// the same.
    pub(super) async fn mark_bad(&self, pack: PackId, chunk: i64) {
        let now = self.seam.now();
        if let Err(error) = self.write(move |c| packs::mark(c, pack, chunk, now)).await {
            tracing::warn!(%error, "marking a bad copy");
        }
    }

    /// Whether the block that names a pack's chunks is there and right: a Kubo keeps it among the others, and collects what
    /// a wrong one does not name.
    pub(super) async fn has_root(&self, member: &Member, root: PackRoot) -> Result<bool, NodeError> {
        if member.row.kind != NodeKind::Kubo {
            return Ok(true);
        }
        match member.node.pack_header(root).await {
            Ok(_) => Ok(true),
            Err(error) if error.reason.is_of_bytes() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads back one chunk of a protected pack, chosen at random, or all; those known to be bad are left out. The proof
    /// is of the time when this began.
    pub(super) async fn read_back(
        &self,
        member: &Member,
        pack: &PackRow,
        held: &[Held],
        depth: Depth,
    ) -> Result<Proof, NodeError> {
        let began = self.seam.now();
        let is_older = |started: Timestamp| pack.created < started && pack.intact.is_none_or(|read| read < started);
        let all = member.row.cache_live || depth == Depth::Whole || member.started().is_some_and(is_older);
        let good: Vec<&Held> = held.iter().filter(|held| !held.bad).collect();
        if good.is_empty() {
            return Err(NodeFailure::Absent("any good chunk of a pack".into()).at(&member.row.name));
        }
        let chosen = usize::try_from(self.seam.below(good.len() as u64)).unwrap_or(0);
        let read = |nth: usize| {
            let held = good[nth];
            async move {
                let at = ChunkAt { chunk: held.entry.chunk, bytes: held.entry.bytes, pack: pack.root };
                (held.row, member.node.read_chunk(&at, None, None).await.map(drop))
            }
        };
        let wanted = (0..good.len()).filter(|nth| all || *nth == chosen);
        let mut reads = stream::iter(wanted.map(read)).buffered(READING);
        while let Some((row, read)) = reads.next().await {
            let shown = matches!(&read, Err(error) if error.reason.is_of_bytes());
            if shown && pack.state == PackState::Live {
                self.mark_bad(pack.id, row).await;
            }
            read?;
        }
        let reach = if all || good.len() == 1 { Reach::Whole } else { Reach::Sampled };
        Ok(Proof { reach, at: began })
    }

    /// The time for which a receipt speaks: when it was signed, or now where the node's clock may just be off.
    fn check_receipt(
        &self,
        member: &Member,
        key: &PublicKey,
        header: &PackHeader,
        receipt: &Receipt,
    ) -> Result<Timestamp, NodeError> {
        let refuse = |why: &str| NodeFailure::Answer(why.to_owned()).at(&member.row.name);
        let Receipt::Signed { token } = receipt else { return Err(refuse("it gave no receipt")) };
        let said = key.read_receipt(token).map_err(|_| refuse("its receipt is not signed by it"))?;
        let right = said.pool == self.pool
            && said.node == member.row.id
            && said.root == header.root()
            && said.bytes == header.car_bytes();
        if !right {
            return Err(refuse("its receipt is for something else"));
        }
        let now = self.seam.now();
        let ahead = said.synced.saturating_sub(now.as_second());
        // It may be older than that: a put reports packs together, and a slow node has all the time that it needs.
        if ahead > MAX_SKEW.as_secs() {
            return Err(refuse("its clock is more than five minutes ahead"));
        }
        let signed = Timestamp::from_second(said.synced).unwrap_or(Timestamp::MIN);
        Ok(if ahead < -MAX_SKEW.as_secs() { signed } else { now })
    }

    /// The permission to write a pack; nothing where the node takes the client's own credential.
    pub(super) fn write_grant(&self, member: &Member, machine: &str, header: &PackHeader) -> Option<GrantToken> {
        self.grant(member, machine, Verb::Write { root: header.root(), bytes: header.car_bytes() })
    }

    /// The permission to read a pack's chunks.
    pub(super) fn read_grant(&self, member: &Member, machine: &str, root: PackRoot) -> Option<GrantToken> {
        self.grant(member, machine, Verb::Read { root })
    }

    fn grant(&self, member: &Member, machine: &str, what: Verb) -> Option<GrantToken> {
        if member.row.kind == NodeKind::Kubo && !self.relayed(&member.row, machine) {
            return None;
        }
        let life = i64::try_from(self.policy.grant.as_secs()).unwrap_or(i64::MAX);
        // In the node's clock, which it goes by.
        let until = self.seam.now().as_second().saturating_add(life).saturating_add(member.seconds_ahead());
        let grant = Grant { by: self.start_name(), pool: self.pool, node: member.row.id.clone(), what, until };
        Some(self.keys.signing().grant(&grant))
    }

    /// How a client on `machine` reaches a node.
    pub(super) fn address(&self, member: &Member, machine: &str) -> NodeAddress {
        let row = &member.row;
        let (id, name) = (row.id.clone(), row.name.clone());
        if self.relayed(row, machine) {
            // A relay looks like a built-in node, whatever is behind it.
            let url = format!("/relay/{id}");
            return NodeAddress { id, name, kind: NodeKind::Builtin, gateway: url.clone(), url, authorization: None };
        }
        let secret = self.keys.node(&row.id);
        let authorization = if row.kind == NodeKind::Kubo { secret.client.or(secret.own) } else { None };
        NodeAddress { id, name, kind: row.kind, url: row.url.clone(), gateway: row.gateway.clone(), authorization }
    }

    /// Takes a node's answer; a failure is remembered.
    pub(super) fn node_answer<T>(&self, member: &Member, answer: Result<T, NodeError>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(error) => {
                if error.reason.is_temporary() {
                    member.failed(&error);
                }
                tracing::debug!(%error, "node");
                None
            }
        }
    }
    /// Asks a node how it is; one that does not say so soon has failed.
    async fn doubt(&self, member: &Member) {
        if tokio::time::timeout(DOUBT, self.ask(member)).await.is_err() {
            let doing = "saying how it is";
            member.failed(&NodeFailure::Timeout { seconds: DOUBT.as_secs(), doing }.at(&member.row.name));
        }
    }
}
