//! What counts: packs that a client says it sent are protected and proved here, or something else takes their place.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::Coordinator;
use super::leases::{Lease, check_alive};
use super::registry::Member;
use super::uploads::{outstanding, replan};
use crate::api::{ApiError, ApiResult, ChunksPlanned, Code, MAX_FILES, NodeAddress, NodeKind, PackOutcome, PacksSent};
use crate::catalog::packs::{self, Held, PackRow, PackState, Proof};
use crate::grant::{Grant, PublicKey, Verb};
use crate::id::{PackId, PackRoot};
use crate::node::{ChunkAt, GrantToken, NodeError, NodeFailure, Receipt};
use crate::pack::{MAX_BYTES, PackHeader};

/// Packs proved at once.
const PROOFS: usize = 8;
/// How far a receipt's clock may be off.
const SKEW_SECONDS: i64 = 300;

/// How much of a pack is read back where no receipt proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// What the node's kind demands.
    OfNode,
    /// All of it: the node had wrong bytes of it before.
    Whole,
}

/// How long the proof of one pack may take while a put waits: less than a call to the coordinator, so that what other
/// nodes proved is not lost with it.
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
    /// It counts already.
    Counts,
    /// It was given up when it was reported before.
    GivenUp(PackId),
}

impl Coordinator {
    pub(super) async fn packs_sent(&self, lease: &Lease, request: PacksSent) -> ApiResult<ChunksPlanned> {
        if request.packs.len() > MAX_FILES {
            return Err(ApiError::new(Code::Usage, format!("at most {MAX_FILES} packs can be reported at once")));
        }
        let judged: Vec<_> = stream::iter(request.packs.into_iter().map(|outcome| self.judge(lease, outcome)))
            .buffered(PROOFS)
            .collect()
            .await;
        let judged: Vec<Judged> = judged.into_iter().collect::<ApiResult<_>>()?;
        let planning = self.planning(lease);
        let view = Arc::clone(&planning.view);
        let mut notices = Vec::new();
        for one in &judged {
            if let Judged::Failed { node, why, .. } = one {
                notices.push(format!("{}: {why}", view.name(*node)));
            }
        }
        let now = self.seam.now();
        let issued = self
            .write(move |c| {
                check_alive(c, planning.at.upload)?;
                let (mut failed, mut given_up) = (Vec::new(), Vec::new());
                for one in &judged {
                    match one {
                        Judged::Counts => {}
                        Judged::Proved(pack, proof) => drop(packs::proved(c, *pack, *proof, now)?),
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

    /// Judges one report.
    async fn judge(&self, lease: &Lease, outcome: PackOutcome) -> ApiResult<Judged> {
        let (PackOutcome::Sent { pack: id, .. } | PackOutcome::Failed { pack: id, .. }) = &outcome;
        let id = *id;
        let (found, held) = self.read(move |c| Ok((packs::get(c, id)?, packs::chunks(c, id)?))).await?;
        let pack = found
            .filter(|pack| pack.upload == Some(lease.upload))
            .ok_or_else(|| ApiError::new(Code::Usage, format!("pack {id} is not of this put")))?;
        match pack.state {
            PackState::Planned | PackState::Stored => {}
            PackState::Live => return Ok(Judged::Counts),
            PackState::Dropping | PackState::Gone => return Ok(Judged::GivenUp(id)),
        }
        let node = pack.node;
        let failed = |why: String| Ok(Judged::Failed { pack: id, node, why });
        let Some(member) = self.nodes.get(node) else {
            return failed("is no longer registered".into());
        };
        match outcome {
            PackOutcome::Failed { message, full, .. } => {
                lease.avoid(node);
                // What a client says of a node is a hint: the node itself is asked.
                doubt(&member).await;
                if full && member.seen(self.policy.grace).free_bytes.is_some_and(|free| free < 2 * MAX_BYTES) {
                    member.is_full();
                }
                failed(message.chars().take(300).collect())
            }
            PackOutcome::Sent { receipt, .. } => {
                let proof = self.prove_new(&member, &pack, &held, &receipt, Depth::OfNode);
                let late = NodeFailure::Timeout { seconds: PROVE.as_secs(), doing: "proving a pack" };
                let proof = tokio::time::timeout(PROVE, proof).await;
                match proof.unwrap_or_else(|_| Err(late.at(&member.row.name))) {
                    Ok(proof) => Ok(Judged::Proved(id, proof)),
                    Err(error) => {
                        lease.avoid(node);
                        member.failed(&error);
                        doubt(&member).await;
                        failed(error.reason.to_string())
                    }
                }
            }
        }
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
            let header = PackHeader { pool: self.pool.pool, epoch: pack.epoch, id: pack.id, entries };
            return self.check_receipt(member, &key, &header, receipt).map(|()| Proof::Whole);
        }
        if pack.state == PackState::Planned {
            let id = pack.id;
            let refuse = |why: String| NodeFailure::Answer(why).at(&member.row.name);
            let wanted = self.write(move |c| packs::stored(c, id)).await.map_err(|error| refuse(error.message))?;
            if !wanted {
                return Err(refuse("its pack is no longer wanted".to_owned()));
            }
        }
        if !member.node.holds_pack(pack.root).await? {
            member.node.protect_pack(pack.root, pack.bytes).await?;
        }
        self.read_back(member, pack, held, depth).await
    }

    async fn read_back(
        &self,
        member: &Member,
        pack: &PackRow,
        held: &[Held],
        depth: Depth,
    ) -> Result<Proof, NodeError> {
        let all = member.row.cache_live || depth == Depth::Whole;
        let chosen = usize::try_from(self.seam.below(held.len() as u64)).unwrap_or(0);
        for (index, held) in held.iter().enumerate() {
            if all || index == chosen {
                let at = ChunkAt { chunk: held.entry.chunk, bytes: held.entry.bytes, pack: pack.root };
                member.node.read_chunk(&at, None, None).await?;
            }
        }
        Ok(if all || held.len() == 1 { Proof::Whole } else { Proof::Sampled })
    }

    fn check_receipt(
        &self,
        member: &Member,
        key: &PublicKey,
        header: &PackHeader,
        receipt: &Receipt,
    ) -> Result<(), NodeError> {
        let refuse = |why: &str| NodeFailure::Answer(why.to_owned()).at(&member.row.name);
        let Receipt::Signed { token } = receipt else { return Err(refuse("it gave no receipt")) };
        let said = key.read_receipt(token).map_err(|_| refuse("its receipt is not signed by it"))?;
        let right = said.pool == self.pool.pool
            && said.node == member.row.id
            && said.root == header.root()
            && said.bytes == header.car_bytes();
        if !right {
            return Err(refuse("its receipt is for something else"));
        }
        // It may be older than that: a put reports packs together, and a slow node has all the time that it needs.
        if said.synced - self.seam.now().as_second() > SKEW_SECONDS {
            return Err(refuse("its clock is more than five minutes ahead"));
        }
        Ok(())
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
        let until = self.seam.now().as_second().saturating_add(life);
        let grant = Grant { pool: self.pool.pool, node: member.row.id.clone(), what, until };
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
}

/// Asks a node how it is; one that does not say so soon has failed.
async fn doubt(member: &Member) {
    if tokio::time::timeout(DOUBT, member.probe()).await.is_err() {
        let doing = "saying how it is";
        member.failed(&NodeFailure::Timeout { seconds: DOUBT.as_secs(), doing }.at(&member.row.name));
    }
}
