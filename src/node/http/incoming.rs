//! A pack that is sent on while it still arrives, chunk by chunk.
//!
//! The body ends well only after [`PackSender::finish`]; a sender that is dropped before cuts the request, so that the
//! node never sees a pack whose end was not wanted. One chunk waits at a time.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{HttpNode, wire};
use crate::car;
use crate::id::ChunkId;
use crate::node::{GrantToken, NodeError, Receipt};
use crate::pack::PackHeader;

/// Body pieces that are still to come: how many bytes, and where from.
#[derive(Debug)]
pub(super) struct Coming {
    pub(super) bytes: u64,
    pub(super) pieces: mpsc::Receiver<Bytes>,
}

/// A pack on its way to [`HttpNode::send_pack`].
#[derive(Debug)]
pub struct IncomingPack {
    header: PackHeader,
    boundary: String,
    first: Vec<Bytes>,
    coming: Coming,
}

/// The end that chunks are put into.
#[derive(Debug)]
pub struct PackSender {
    pieces: mpsc::Sender<Bytes>,
    last: Bytes,
}

/// The request has ended before the pack did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl PackSender {
    /// Sends the next chunk of the header; waits while the one before is still on its way.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn chunk(&self, chunk: &ChunkId, bytes: Bytes) -> Result<(), Ended> {
        let prefix = Bytes::from(car::section_prefix(&chunk.cid(), bytes.len()));
        for piece in [prefix, bytes] {
            if !piece.is_empty() {
                self.pieces.send(piece).await.map_err(|_| Ended)?;
            }
        }
        Ok(())
    }

    /// Ends the body, after the last chunk.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn finish(self) -> Result<(), Ended> {
        self.pieces.send(self.last).await.map_err(|_| Ended)
    }
}

impl HttpNode {
    /// Begins to pass on a pack of which only the header has come yet.
    pub fn incoming(&self, header: PackHeader) -> (PackSender, IncomingPack) {
        let root = header.root();
        let block = Bytes::from(header.root_block());
        let prefix = Bytes::from(car::section_prefix(&root.cid(), block.len()));
        let boundary = self.boundary();
        let mut first = wire::multipart(&boundary, vec![Bytes::from(car::header(&root)), prefix, block]);
        let last = first.pop().expect("a multipart body has an end");
        let chunks: u64 = header.entries.iter().map(|entry| car::section_bytes(entry.bytes)).sum();
        let (sender, pieces) = mpsc::channel(1);
        let coming = Coming { bytes: chunks + last.len() as u64, pieces };
        (PackSender { pieces: sender, last }, IncomingPack { header, boundary, first, coming })
    }

    /// Sends a pack as its chunks come, as [`crate::node::Node::write_pack`] does with a whole one. The time that it
    /// waits for chunks is not limited here.
    ///
    /// # Errors
    /// As [`crate::node::Node::write_pack`].
    pub async fn send_pack(&self, pack: IncomingPack, grant: Option<&GrantToken>) -> Result<Receipt, NodeError> {
        let IncomingPack { header, boundary, first, coming } = pack;
        let sent = self.import(first, Some(coming), boundary, wire::Expected::of(&header), grant).await;
        sent.map_err(|failure| self.at(failure))
    }
}
