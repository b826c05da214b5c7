//! What is done to whole packs: protecting, asking, replacing, dropping.
//!
//! Kubo walks a pack that it pins through its peers as well, whatever `offline` says; so before it may walk, everything
//! that the walk reads was seen on the node itself, in one question that it answers without a network. What its owner's
//! collection takes away between the two could still be asked for, within the pin's limit.

use bytes::Bytes;

use super::{HttpNode, timeout, wire};
use crate::api::NodeKind;
use crate::car;
use crate::id::{ChunkId, PackRoot};
use crate::node::{ChunkAt, NodeFailure};
use crate::pack::PackHeader;

impl HttpNode {
    pub(super) async fn protect(&self, root: PackRoot, bytes: u64) -> Result<(), NodeFailure> {
        if self.kind == NodeKind::Kubo {
            self.is_whole(root, bytes).await?;
        }
        let limit = self.limits.pinning(bytes);
        let path = format!("pin/add?arg={root}&recursive=true&offline=true&timeout={}", timeout(limit));
        let mut call = self.call(path, "protecting a pack");
        // The node's own limit comes first, since its error says more.
        call.answer_within = limit.saturating_add(self.limits.connect);
        let (found, _) = self.json::<wire::Pins>(call).await?;
        let pinned = found.pins.iter().any(|pin| pin == &root.to_string());
        if pinned { Ok(()) } else { Err(NodeFailure::Answer(format!("that it pinned something else than {root}"))) }
    }

    /// Has Kubo read the root and every chunk from its own store. 64 chunks of 1 MiB take it 40 ms, 1,024 small ones 20.
    async fn is_whole(&self, root: PackRoot, bytes: u64) -> Result<(), NodeFailure> {
        let limit = self.limits.pinning(bytes);
        let path = format!("dag/stat?arg={root}&offline=true&progress=false&timeout={}", timeout(limit));
        let mut call = self.call(path, "looking through a pack");
        call.answer_within = limit.saturating_add(self.limits.connect);
        match self.json::<wire::DagStat>(call).await {
            Ok((found, _)) if found.dag_stats.iter().any(|stat| stat.cid == root.to_string()) => Ok(()),
            Ok(_) => Err(NodeFailure::Answer(format!("for something else than {root}"))),
            Err(NodeFailure::Answer(text)) if wire::is_absence(&text) => {
                Err(NodeFailure::Absent(format!("all of pack {root}")))
            }
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn holds(&self, root: PackRoot) -> Result<bool, NodeFailure> {
        let call = self.call(format!("pin/ls?arg={root}&type=recursive"), "saying whether it protects a pack");
        match self.json::<wire::PinKeys>(call).await {
            Ok((found, _)) if found.keys.contains_key(&root.to_string()) => Ok(true),
            Ok(_) => Err(NodeFailure::Answer(format!("a listing of {root} without it"))),
            Err(NodeFailure::Answer(text)) if text.contains("is not pinned") => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// What a root says, if it is a pack's.
    pub(super) async fn header(&self, root: PackRoot) -> Result<Option<PackHeader>, NodeFailure> {
        let block = ChunkId::from_digest(*root.digest());
        let answer = match &self.gateway {
            Some(gateway) if self.kind == NodeKind::Builtin => {
                self.ask_gateway(gateway, &ChunkAt { chunk: block, bytes: 0, pack: root }, None, None).await?
            }
            _ => self.get_block(&block, None).await?,
        };
        let bytes = answer.collect(wire::MAX_ANSWER_BYTES).await?;
        if !block.names(&bytes) {
            return Err(NodeFailure::Corrupt(root.to_string()));
        }
        Ok(PackHeader::parse(&bytes).ok())
    }

    pub(super) async fn unpin(&self, root: PackRoot) -> Result<(), NodeFailure> {
        match self.json::<wire::Pins>(self.call(format!("pin/rm?arg={root}"), "dropping a pack")).await {
            Ok((found, _)) if found.pins.iter().any(|pin| pin == &root.to_string()) => Ok(()),
            Ok(_) => Err(NodeFailure::Answer(format!("that it dropped something else than {root}"))),
            Err(NodeFailure::Answer(text)) if text.contains("not pinned") => Ok(()),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn replace(&self, old: PackRoot, header: &PackHeader) -> Result<(), NodeFailure> {
        let new = header.root();
        if old == new {
            let holds = self.holds(new).await?;
            return if holds { Ok(()) } else { Err(NodeFailure::Absent(new.to_string())) };
        }
        if self.kind == NodeKind::Kubo {
            match self.is_part_of(header, old).await {
                Ok(()) => {}
                // A repetition: the old root may have been collected since.
                Err(NodeFailure::Absent(_)) if self.holds(new).await? => return self.unpin(old).await,
                Err(failure) => return Err(failure),
            }
        }
        let block = Bytes::from(header.root_block());
        let block_bytes = block.len() as u64;
        let prefix = Bytes::from(car::section_prefix(&new.cid(), block.len()));
        let pieces = vec![Bytes::from(car::header(&new)), prefix, block];
        self.import_whole(pieces, wire::Expected { root: new, blocks: 1, block_bytes }, None).await?;
        let limit = self.limits.pinning(header.bytes());
        let path = format!("pin/update?arg={old}&arg={new}&unpin=true&timeout={}", timeout(limit));
        let mut call = self.call(path, "replacing a pack");
        call.answer_within = limit.saturating_add(self.limits.connect);
        match self.json::<wire::Pins>(call).await {
            Ok((found, _)) if found.pins.iter().any(|pin| pin == &new.to_string()) => Ok(()),
            Ok(_) => Err(NodeFailure::Answer(format!("that it replaced something else than {old}"))),
            // A repetition: the first one was done wholly, or up to dropping the old one.
            Err(NodeFailure::Answer(text)) if text.contains("already recursively pinned") => self.unpin(old).await,
            Err(NodeFailure::Answer(text)) if text.contains("not recursively pinned already") => {
                let done = self.holds(new).await?;
                if done { Ok(()) } else { Err(NodeFailure::Absent(old.to_string())) }
            }
            Err(failure) => Err(failure),
        }
    }

    /// Whether Kubo has the old root, and it links every chunk of the new pack: then `pin/update` reads the two roots and
    /// nothing else.
    async fn is_part_of(&self, header: &PackHeader, old: PackRoot) -> Result<(), NodeFailure> {
        let answer = self.get_block(&ChunkId::from_digest(*old.digest()), None).await?;
        let block = answer.collect(wire::MAX_ANSWER_BYTES).await?;
        if PackRoot::of(&block) != old {
            return Err(NodeFailure::Corrupt(old.to_string()));
        }
        let had = PackHeader::parse(&block).map_err(|_| NodeFailure::Answer(format!("that {old} is no pack")))?;
        let had: std::collections::HashSet<ChunkId> = had.entries.iter().map(|entry| entry.chunk).collect();
        match header.entries.iter().find(|entry| !had.contains(&entry.chunk)) {
            None => Ok(()),
            Some(entry) => Err(NodeFailure::Answer(format!("nothing: {} was never in {old}", entry.chunk))),
        }
    }
}
