//! Checks a pack as its CARv1 bytes arrive, for whoever is to keep it or pass it on. Pure.
//!
//! Invariants: nothing is handed out that is not this pool's pack, in canonical form, with exactly the chunks that its
//! root links, in their order, each hashed; where a pack was granted, it is that one and exactly that long. At most one
//! chunk and the bytes pushed last are held.

use bytes::Bytes;

use crate::car::{CarError, CarReader, Section};
use crate::id::{ChunkId, PackRoot, PoolId};
use crate::pack::{NotAPack, PackHeader};

/// What may arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Exactly this pack, whose CARv1 form has exactly so many bytes.
    Pack {
        /// The pack.
        root: PackRoot,
        /// Length of its CARv1 form.
        bytes: u64,
    },
    /// Any pack of the pool, or the root block alone of one, to replace another by.
    Any,
}

/// Why what arrives is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackReadError {
    /// It is no CAR that is accepted here.
    #[error("the pack is refused: {0}")]
    Car(#[from] CarError),
    /// Its root block is no pack's.
    #[error("the pack is refused: {0}")]
    NotAPack(#[from] NotAPack),
    /// It differs from what was permitted or announced.
    #[error("refused: {0}")]
    Refused(&'static str),
}

/// One part of a pack, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The CAR's root, before its block has come; always first.
    Root(PackRoot),
    /// What the root block says; always second.
    Header(PackHeader),
    /// The next chunk that the header has.
    Chunk(ChunkId, Bytes),
}

/// A pack that has wholly arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrived {
    /// All of it.
    Pack {
        /// Its root.
        root: PackRoot,
        /// Its header.
        header: PackHeader,
    },
    /// Only the root block of a pack with chunks ([`Scope::Any`]).
    RootOnly(PackHeader),
}

/// A pack on its way in. After an error only an error remains.
#[derive(Debug)]
pub struct PackReader {
    pool: PoolId,
    scope: Scope,
    reader: CarReader,
    seen_bytes: u64,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Start,
    Root(PackRoot),
    Chunks { root: PackRoot, header: PackHeader, next: usize },
    Failed,
}

impl PackReader {
    /// Begins before the first byte.
    pub fn new(pool: PoolId, scope: Scope) -> Self {
        Self { pool, scope, reader: CarReader::new(), seen_bytes: 0, stage: Stage::Start }
    }

    /// Takes bytes as they arrive.
    ///
    /// # Errors
    /// [`PackReadError::Refused`] when they are more than granted.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PackReadError> {
        self.seen_bytes += bytes.len() as u64;
        if matches!(self.scope, Scope::Pack { bytes, .. } if self.seen_bytes > bytes) {
            self.stage = Stage::Failed;
            return Err(PackReadError::Refused("the body is longer than granted"));
        }
        self.reader.push(bytes);
        Ok(())
    }

    /// Takes the next part, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// As soon as the bytes cannot be what is permitted.
    #[expect(clippy::should_implement_trait, reason = "None means more bytes are needed, not the end")]
    pub fn next(&mut self) -> Result<Option<Part>, PackReadError> {
        let taken = self.take();
        if taken.is_err() {
            self.stage = Stage::Failed;
        }
        taken
    }

    /// Ends the body, all of whose parts have been taken.
    ///
    /// # Errors
    /// When it ended too early.
    pub fn finish(self) -> Result<Arrived, PackReadError> {
        let Stage::Chunks { root, header, next } = self.stage else {
            return Err(match self.stage {
                Stage::Failed => PackReadError::Refused("the write has failed before"),
                _ => CarError::Truncated.into(),
            });
        };
        self.reader.finish()?;
        if self.scope == Scope::Any && next == 0 && !header.entries.is_empty() {
            return Ok(Arrived::RootOnly(header));
        }
        if next != header.entries.len() || self.seen_bytes != header.car_bytes() {
            return Err(PackReadError::Refused("the body ends before the pack does"));
        }
        Ok(Arrived::Pack { root, header })
    }

    fn take(&mut self) -> Result<Option<Part>, PackReadError> {
        if matches!(self.stage, Stage::Failed) {
            return Err(PackReadError::Refused("the write has failed before"));
        }
        let Some(section) = self.reader.next()? else { return Ok(None) };
        let (stage, part) = match (std::mem::replace(&mut self.stage, Stage::Failed), section) {
            (Stage::Start, Section::Root(root)) => {
                if matches!(self.scope, Scope::Pack { root: granted, .. } if granted != root) {
                    return Err(PackReadError::Refused("the CAR's root is not the granted one"));
                }
                (Stage::Root(root), Part::Root(root))
            }
            (Stage::Root(root), Section::Block { digest, bytes }) => {
                let header = self.header(root, digest, &bytes)?;
                (Stage::Chunks { root, header: header.clone(), next: 0 }, Part::Header(header))
            }
            (Stage::Chunks { root, header, next }, Section::Block { digest, bytes }) => {
                let expected = header.entries.get(next);
                let expected = expected.ok_or(PackReadError::Refused("the CAR has more chunks than its root"))?;
                if *expected.chunk.digest() != digest || expected.bytes != bytes.len() as u64 {
                    return Err(PackReadError::Refused("a chunk is not the one that the root has at its place"));
                }
                let part = Part::Chunk(expected.chunk, bytes);
                (Stage::Chunks { root, header, next: next + 1 }, part)
            }
            _ => return Err(PackReadError::Refused("the CAR's parts are out of order")),
        };
        self.stage = stage;
        Ok(Some(part))
    }

    fn header(&self, root: PackRoot, digest: [u8; 32], block: &[u8]) -> Result<PackHeader, PackReadError> {
        if digest != *root.digest() {
            return Err(PackReadError::Refused("the CAR does not begin with its root block"));
        }
        let header = PackHeader::parse(block)?;
        if header.pool != self.pool {
            return Err(PackReadError::Refused("the pack is of another pool"));
        }
        if matches!(self.scope, Scope::Pack { bytes, .. } if bytes != header.car_bytes()) {
            return Err(PackReadError::Refused("the pack has another length than granted"));
        }
        Ok(header)
    }
}
