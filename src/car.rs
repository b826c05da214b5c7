//! CARv1: one header with one root, then blocks (`https://ipld.io/specs/transport/car/carv1/`). Pure.
//!
//! The reader takes bytes as they come, from anybody: it holds at most one block, refuses anything larger than a pack's
//! parts may be, and checks every block against its CID before it hands it out.

use bytes::{Buf, Bytes, BytesMut};
use cid::Cid;

use crate::id::{DAG_PB, PackRoot, RAW, sha256};
use crate::pack::MAX_CHUNK_BYTES;

/// Length of a CIDv1 with a SHA-256, in bytes.
const CID_BYTES: usize = 36;
/// Length of the one header that is written and read: `varint(58)` and 58 bytes of dag-cbor.
const HEADER_BYTES: usize = 59;

/// Why bytes are not a CAR that is accepted here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CarError {
    /// The header is not a CARv1 header with exactly one dag-pb root.
    #[error("the CAR header is not CARv1 with one root")]
    Header,
    /// A section is longer than a chunk may be, or too short for a CID.
    #[error("a CAR section has an impossible length")]
    Length,
    /// A block's CID is not CIDv1, raw or dag-pb, with SHA-256.
    #[error("a CAR block has a CID of another kind")]
    Cid,
    /// A block's bytes are not those that its CID names.
    #[error("a CAR block has other bytes than its CID names")]
    Digest,
    /// The bytes ended within a section.
    #[error("the CAR ends within a block")]
    Truncated,
}

/// One thing that a CAR says, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section {
    /// The header's root; always first, always once.
    Root(PackRoot),
    /// A block whose bytes have been checked against its CID.
    Block {
        /// The SHA-256 that its CID carries.
        digest: [u8; 32],
        /// Its bytes.
        bytes: Bytes,
    },
}

/// The header of a CAR with one root: 59 bytes.
pub fn header(root: &PackRoot) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.push(58);
    out.extend_from_slice(b"\xA2\x65roots\x81\xD8\x2A\x58\x25\x00");
    out.extend_from_slice(&root.cid().to_bytes());
    out.extend_from_slice(b"\x67version\x01");
    out
}

/// What stands before a block's bytes: its section's length and its CID.
pub fn section_prefix(cid: &Cid, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + CID_BYTES);
    put_varint(&mut out, (CID_BYTES + bytes) as u64);
    out.extend_from_slice(&cid.to_bytes());
    out
}

/// Length of a whole section whose block has so many bytes.
pub const fn section_bytes(block: u64) -> u64 {
    let body = block + CID_BYTES as u64;
    varint_bytes(body) + body
}

const fn varint_bytes(mut value: u64) -> u64 {
    let mut bytes = 1;
    while value >= 0x80 {
        value >>= 7;
        bytes += 1;
    }
    bytes
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads an unsigned varint of at most four bytes: the value and its length, or nothing when more bytes are needed.
fn get_varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, CarError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(4).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 4 { Err(CarError::Length) } else { Ok(None) }
}

/// Reads a CARv1 as its bytes arrive.
///
/// Guarantees: every [`Section::Block`] it returns was hashed; its memory is bounded by the bytes pushed and not yet
/// taken, and [`Self::next`] never waits for more than one block of at most 2 MiB. After an error it stays in error.
#[derive(Debug, Default)]
pub struct CarReader {
    buffer: BytesMut,
    headed: bool,
    failed: Option<CarError>,
}

impl CarReader {
    /// Starts before the header.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next section, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`CarError`] as soon as the bytes cannot be a CAR that is accepted here.
    #[expect(clippy::should_implement_trait, reason = "None means more bytes are needed, not the end")]
    pub fn next(&mut self) -> Result<Option<Section>, CarError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let read = if self.headed { self.block() } else { self.root() };
        if let Err(error) = &read {
            self.failed = Some(error.clone());
        }
        read
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`CarError::Truncated`] when no header or only part of a section has arrived.
    pub fn finish(&self) -> Result<(), CarError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.headed && self.buffer.is_empty() => Ok(()),
            None => Err(CarError::Truncated),
        }
    }

    fn root(&mut self) -> Result<Option<Section>, CarError> {
        if self.buffer.len() < HEADER_BYTES {
            return Ok(None);
        }
        let found: [u8; 32] = self.buffer[18..50].try_into().expect("thirty-two bytes");
        let root = PackRoot::from_digest(found);
        if self.buffer[..HEADER_BYTES] != header(&root)[..] {
            return Err(CarError::Header);
        }
        self.buffer.advance(HEADER_BYTES);
        self.headed = true;
        Ok(Some(Section::Root(root)))
    }

    fn block(&mut self) -> Result<Option<Section>, CarError> {
        let Some((length, prefix)) = get_varint(&self.buffer)? else { return Ok(None) };
        if length < CID_BYTES as u64 || length > MAX_CHUNK_BYTES + CID_BYTES as u64 {
            return Err(CarError::Length);
        }
        let length = usize::try_from(length).map_err(|_| CarError::Length)?;
        if self.buffer.len() < prefix + length {
            self.buffer.reserve(prefix + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(prefix);
        let section = self.buffer.split_to(length).freeze();
        let digest = block_digest(&section[..CID_BYTES])?;
        let bytes = section.slice(CID_BYTES..);
        if sha256(&bytes) != digest {
            return Err(CarError::Digest);
        }
        Ok(Some(Section::Block { digest, bytes }))
    }
}

fn block_digest(cid: &[u8]) -> Result<[u8; 32], CarError> {
    let known = [RAW, DAG_PB].iter().any(|codec| cid[..4] == [1, *codec as u8, 0x12, 0x20]);
    if !known {
        return Err(CarError::Cid);
    }
    cid[4..].try_into().map_err(|_| CarError::Cid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ChunkId;

    fn car(blocks: &[&[u8]]) -> Vec<u8> {
        let mut out = header(&PackRoot::of(b"root"));
        for block in blocks {
            out.extend(section_prefix(&ChunkId::of(block).cid(), block.len()));
            out.extend_from_slice(block);
        }
        out
    }

    #[test]
    fn bytes_may_arrive_one_by_one() {
        let mut reader = CarReader::new();
        let mut seen = Vec::new();
        for byte in car(&[b"one", b"", &[7; 300]]) {
            reader.push(&[byte]);
            while let Some(section) = reader.next().unwrap() {
                seen.push(section);
            }
        }
        reader.finish().unwrap();
        assert_eq!(seen.len(), 4);
        assert_eq!(seen[0], Section::Root(PackRoot::of(b"root")));
    }

    /// What a reader says of a section that begins with these bytes.
    fn read_section(bytes: &[u8]) -> Result<Option<Section>, CarError> {
        let mut reader = CarReader::new();
        reader.push(&header(&PackRoot::of(b"root")));
        reader.push(bytes);
        reader.next().unwrap();
        reader.next()
    }

    #[test]
    fn the_largest_chunk_is_read_and_any_longer_section_refused_by_its_length_alone() {
        let largest = usize::try_from(MAX_CHUNK_BYTES).unwrap();
        let (name, bytes) = (ChunkId::of(&vec![5; largest]), vec![5; largest]);
        let section = [section_prefix(&name.cid(), largest), bytes.clone()].concat();
        let block = Section::Block { digest: *name.digest(), bytes: bytes.into() };
        assert_eq!(read_section(&section), Ok(Some(block)));
        let length_only = |body: usize| {
            let mut prefix = Vec::new();
            put_varint(&mut prefix, body as u64);
            read_section(&prefix)
        };
        assert_eq!(length_only(CID_BYTES + largest), Ok(None));
        assert_eq!(length_only(CID_BYTES + largest + 1), Err(CarError::Length));
        assert_eq!(length_only(CID_BYTES), Ok(None));
        assert_eq!(length_only(CID_BYTES - 1), Err(CarError::Length));
        assert_eq!(length_only(0), Err(CarError::Length));
    }

    #[test]
    fn blocks_under_a_name_of_another_kind_are_refused() {
        let raw = [section_prefix(&ChunkId::of(b"block").cid(), 5), b"block".to_vec()].concat();
        let section = |at: usize, byte: u8| {
            let mut changed = raw.clone();
            changed[1 + at] = byte;
            read_section(&changed)
        };
        for codec in [0x55, 0x70] {
            assert!(matches!(section(1, codec), Ok(Some(Section::Block { .. }))), "{codec:#x}");
        }
        for (what, at, byte) in [("version", 0, 2), ("codec", 1, 0x71), ("hash", 2, 0x1b), ("length", 3, 0x1f)] {
            assert_eq!(section(at, byte), Err(CarError::Cid), "another {what}");
        }
    }

    #[test]
    fn a_flipped_byte_a_cut_and_an_impossible_length_are_refused() {
        let good = car(&[b"payload"]);
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut reader = CarReader::new();
        reader.push(&flipped);
        reader.next().unwrap();
        assert_eq!(reader.next(), Err(CarError::Digest));
        assert_eq!(reader.finish(), Err(CarError::Digest));

        let mut reader = CarReader::new();
        reader.push(&good[..good.len() - 1]);
        reader.next().unwrap();
        assert_eq!(reader.next(), Ok(None));
        assert_eq!(reader.finish(), Err(CarError::Truncated));

        let mut reader = CarReader::new();
        reader.push(&header(&PackRoot::of(b"root")));
        reader.push(&[0xff, 0xff, 0xff, 0xff, 0x7f]);
        reader.next().unwrap();
        assert_eq!(reader.next(), Err(CarError::Length));
    }
}
