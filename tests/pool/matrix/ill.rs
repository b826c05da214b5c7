//! The ways in which a node goes wrong, and what each must lead to.

use std::time::Duration;

use bytenode::api::Code;
use bytenode::id::{ChunkId, NodeId};
use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};
use bytenode::node::http::Limits;
use bytenode::node::memory::MemoryNode;

use super::{COPIES, NODES, RULE, SIZE};
use crate::support::pool::{CAPACITY, Like, Pool};

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ill {
    Refuse,
    /// It does what it is asked, and its answer does not come.
    HangBefore,
    HangMidway,
    /// It takes packs, and hangs when it is to protect them.
    HangProof,
    Slow,
    Reset,
    Corrupt,
    Truncate,
    Lose,
    /// It claims success and stores, or drops, nothing.
    Lie,
    Full,
    WrongCredential,
    WrongIdentity,
}

impl Ill {
    pub(super) const ALL: [Self; 13] = [
        Self::Refuse,
        Self::HangBefore,
        Self::HangMidway,
        Self::HangProof,
        Self::Slow,
        Self::Reset,
        Self::Corrupt,
        Self::Truncate,
        Self::Lose,
        Self::Lie,
        Self::Full,
        Self::WrongCredential,
        Self::WrongIdentity,
    ];

    /// Whether a copy that goes to such a node does not count. A built-in node protects and signs in one with taking a
    /// pack, so it does if it loses a chunk thereafter.
    pub(super) fn spoils_writes(self, like: Like) -> bool {
        match self {
            Self::Slow => false,
            Self::Lose | Self::HangProof => like == Like::Kubo,
            _ => true,
        }
    }

    /// Whether such a node gives nothing that is asked of it.
    pub(super) fn spoils_reads(self) -> bool {
        !matches!(self, Self::Slow | Self::Full | Self::Lose | Self::HangProof)
    }

    /// Whether its bytes are missing or wrong, as opposed to out of reach for now.
    pub(super) fn is_of_bytes(self) -> bool {
        matches!(self, Self::Corrupt | Self::Truncate | Self::Lose | Self::Lie)
    }

    /// Whether such a node says nothing of what it has to the coordinator, or nothing that can be believed.
    pub(super) fn silences(self) -> bool {
        self.spoils_reads() && !self.is_of_bytes()
    }

    /// Copies with which a put is acknowledged, or the code with which it fails.
    pub(super) fn put_rule(self, like: Like, ill: usize) -> Result<usize, Code> {
        let good = NODES - if self.spoils_writes(like) { ill } else { 0 };
        match good.min(COPIES) {
            copies if copies >= RULE => Ok(copies),
            _ if self == Self::Full => Err(Code::NoRoom),
            _ => Err(Code::Temporary),
        }
    }

    /// Whether its answer, right or wrong, comes late.
    pub(super) fn is_late(self) -> bool {
        matches!(self, Self::HangBefore | Self::HangMidway | Self::Slow | Self::Reset)
    }

    /// What the client's side of a node makes of it, call by call.
    pub(super) fn strike(self, pool: &Pool, at: usize, like: Like) {
        let node = &pool.nodes[at];
        let always = |call, fault| node.fault.order(call, When::Always, fault);
        let late = |seconds| NodeFailure::Timeout { seconds, doing: "answering" };
        match self {
            Self::Refuse => node.fault.refuse(),
            Self::HangBefore => Call::ALL.into_iter().for_each(|call| {
                let limit = patience(call);
                always(call, Fault::Delay(limit));
                always(call, Fault::LoseAnswer(late(limit.as_secs())));
            }),
            Self::HangMidway => {
                let limit = Limits::default().progress;
                node.fault.order_all(&Fault::Delay(limit));
                node.fault.order_all(&Fault::Midway(late(limit.as_secs())));
            }
            Self::HangProof => {
                let limit = patience(Call::Protect);
                always(Call::Protect, Fault::Delay(limit));
                always(Call::Protect, Fault::LoseAnswer(late(limit.as_secs())));
            }
            Self::Slow => node.fault.order_all(&Fault::Delay(Duration::from_secs(4))),
            Self::Reset => {
                node.fault.order_all(&Fault::Delay(Duration::from_secs(1)));
                node.fault.order_all(&Fault::Midway(NodeFailure::Unreachable("the answer broke off".into())));
            }
            Self::Corrupt => always(Call::Write, Fault::FlipBit),
            Self::Truncate => {
                always(Call::Write, Fault::Fail(NodeFailure::Answer("unexpected end of the pack".into())));
                always(Call::Read, Fault::Fail(NodeFailure::Corrupt("a chunk".into())));
            }
            Self::Lose => always(Call::Write, Fault::LoseChunk),
            Self::Lie => [Call::Write, Call::Protect, Call::Drop, Call::Replace]
                .into_iter()
                .for_each(|call| always(call, Fault::Lie)),
            Self::Full => [Call::Write, Call::Replace]
                .into_iter()
                .for_each(|call| always(call, Fault::Fail(NodeFailure::Full("no space left on device".into())))),
            Self::WrongCredential => node.fault.order_all(&Fault::Fail(NodeFailure::Denied("403".into()))),
            Self::WrongIdentity => {
                let found: NodeId = format!("stranger{at}").parse().unwrap();
                match like {
                    // It must prove on every connection who it is.
                    Like::Builtin => node.fault.order_all(&Fault::Fail(NodeFailure::OtherIdentity { found })),
                    // It says who it is where it is asked, as it is by a reader who does not find a chunk.
                    Like::Kubo => node.fault.lead_to(MemoryNode::new(found, node.name.as_str(), CAPACITY)),
                }
            }
        }
    }

    /// What it does to the bytes that the node has of these chunks.
    pub(super) fn damage(self, pool: &Pool, at: usize, chunks: &[ChunkId]) {
        let memory = &pool.nodes[at].memory;
        let held: Vec<&ChunkId> = chunks.iter().filter(|chunk| memory.has(chunk)).collect();
        match self {
            Self::Corrupt => held.iter().for_each(|chunk| assert!(memory.corrupt(chunk))),
            Self::Lie => held.iter().for_each(|chunk| assert!(memory.forget(chunk))),
            Self::Lose if !held.is_empty() => assert!(memory.forget(held[pool.seam.below(held.len() as u64) as usize])),
            _ => {}
        }
    }
}

/// How long a call is waited for.
fn patience(call: Call) -> Duration {
    let limits = Limits::default();
    match call {
        Call::Write => limits.after_upload(),
        Call::Protect | Call::Replace => limits.pinning(SIZE as u64),
        _ => limits.first_byte,
    }
}
