//! Packs: the chunks that one write puts on one node, under one root. Pure.
//!
//! The root is a dag-pb node that links every chunk by its raw CID, in order, and whose `Data` says which pool, which
//! start of its coordinator (the epoch) and which number of the pack sequence it is. So the root is known before
//! anything is sent, the same chunks written again get another root, and a root that is not ours is recognised.
//! Interior UnixFS nodes are linked by their raw CID too: otherwise a recursive pin would walk the file.
//!
//! A pack travels as CARv1 (`https://ipld.io/specs/transport/car/carv1/`): the root block, then the chunks in link
//! order, nothing else. [`Pack::car`] writes that form; [`crate::car::CarReader`] reads it.

use bytes::Bytes;
use ipld_dagpb::{PbLink, PbNode};
use serde::{Deserialize, Serialize};

use crate::car;
use crate::id::{ChunkId, PackId, PackRoot, PoolId, RAW};

/// The most chunks in one pack.
pub const MAX_CHUNKS: usize = 1024;
/// The most bytes of chunks in one pack: 64 MiB.
pub const MAX_BYTES: u64 = 64 << 20;
/// The largest stored chunk: 2 MiB, the largest block Kubo exchanges and accepts without `allow-big-block`.
pub const MAX_CHUNK_BYTES: u64 = 2 << 20;
/// The largest root block that is read: well above 1,024 links of at most 60 bytes.
pub const MAX_ROOT_BYTES: usize = 128 << 10;

/// What the `Data` of every pack root begins with.
const MARK: &[u8] = b"bytenode/pack/1\0";

/// A root block that is not a pack's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a pack: {0}")]
pub struct NotAPack(&'static str);

/// One chunk of a pack, in link order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct PackEntry {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its stored length in bytes.
    pub bytes: u64,
}

/// Everything that a pack's root says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackHeader {
    /// The pool that it belongs to.
    pub pool: PoolId,
    /// The epoch of the coordinator that issued it.
    pub epoch: u64,
    /// Its number.
    pub id: PackId,
    /// Its chunks, in order, each once.
    pub entries: Vec<PackEntry>,
}

impl PackHeader {
    /// The root block. Equal headers give equal bytes.
    pub fn root_block(&self) -> Vec<u8> {
        let link =
            |entry: &PackEntry| PbLink { cid: entry.chunk.cid(), name: Some(String::new()), size: Some(entry.bytes) };
        let mut data = Vec::with_capacity(MARK.len() + 32);
        data.extend_from_slice(MARK);
        data.extend_from_slice(self.pool.as_bytes());
        data.extend_from_slice(&self.epoch.to_be_bytes());
        data.extend_from_slice(&self.id.get().to_be_bytes());
        PbNode { links: self.entries.iter().map(link).collect(), data: Some(data.into()) }.into_bytes()
    }

    /// The root: the name of [`Self::root_block`].
    pub fn root(&self) -> PackRoot {
        PackRoot::of(&self.root_block())
    }

    /// Reads a root block, which may be anything.
    ///
    /// # Errors
    /// [`NotAPack`] when it is too large, is no dag-pb, lacks the mark, links anything but raw SHA-256 chunks of at
    /// most [`MAX_CHUNK_BYTES`], holds more than [`MAX_CHUNKS`], or is not exactly what [`Self::root_block`] would write.
    pub fn parse(block: &[u8]) -> Result<Self, NotAPack> {
        if block.len() > MAX_ROOT_BYTES {
            return Err(NotAPack("its root block is too large"));
        }
        let node =
            PbNode::from_bytes(Bytes::copy_from_slice(block)).map_err(|_| NotAPack("its root is no dag-pb node"))?;
        let data = node.data.ok_or(NotAPack("its root has no data"))?;
        let rest = data.strip_prefix(MARK).ok_or(NotAPack("its root lacks the pack mark"))?;
        let fixed: &[u8; 32] = rest.try_into().map_err(|_| NotAPack("its root has data of another length"))?;
        if node.links.len() > MAX_CHUNKS {
            return Err(NotAPack("it links too many chunks"));
        }
        let (pool, numbers) = fixed.split_at(16);
        let number = |at: usize| u64::from_be_bytes(numbers[at..at + 8].try_into().expect("eight bytes"));
        let header = Self {
            pool: PoolId::from_bytes(pool.try_into().expect("sixteen bytes")),
            epoch: number(0),
            id: PackId::new(number(8)),
            entries: node.links.iter().map(entry).collect::<Result<_, _>>()?,
        };
        if header.root_block() != block {
            return Err(NotAPack("its root is not in canonical form"));
        }
        Ok(header)
    }

    /// Bytes of all chunks together.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Length of the whole pack as CARv1, in bytes.
    pub fn car_bytes(&self) -> u64 {
        let root = self.root_block();
        let blocks: u64 = self.entries.iter().map(|entry| car::section_bytes(entry.bytes)).sum();
        car::header(&self.root()).len() as u64 + car::section_bytes(root.len() as u64) + blocks
    }

    /// Where each chunk's bytes begin within the CARv1 form, in link order.
    pub fn offsets(&self) -> Vec<u64> {
        let root = self.root_block();
        let mut at = car::header(&self.root()).len() as u64 + car::section_bytes(root.len() as u64);
        let mut offsets = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            let section = car::section_bytes(entry.bytes);
            offsets.push(at + section - entry.bytes);
            at += section;
        }
        offsets
    }
}

fn entry(link: &PbLink) -> Result<PackEntry, NotAPack> {
    let cid = &link.cid;
    if cid.version() != cid::Version::V1 || cid.codec() != RAW || cid.hash().code() != 0x12 {
        return Err(NotAPack("it links something that is no raw chunk"));
    }
    let digest = cid.hash().digest().try_into().map_err(|_| NotAPack("it links a digest of another length"))?;
    let bytes = link
        .size
        .filter(|bytes| *bytes <= MAX_CHUNK_BYTES)
        .ok_or(NotAPack("it links a chunk of no or too large a size"))?;
    Ok(PackEntry { chunk: ChunkId::from_digest(digest), bytes })
}

/// A pack with its bytes, ready to be written. The bytes are shared, not copied: the same chunk may be in several packs.
#[derive(Debug, Clone)]
pub struct Pack {
    header: PackHeader,
    root: PackRoot,
    root_block: Bytes,
    chunks: Vec<Bytes>,
}

impl Pack {
    /// Puts a pack together. The caller vouches that the chunks are those of the header, in its order.
    ///
    /// # Panics
    /// When their number or a length differs from the header's, which is a bug of the caller.
    pub fn new(header: PackHeader, chunks: Vec<Bytes>) -> Self {
        assert_eq!(header.entries.len(), chunks.len(), "a pack has as many chunks as entries");
        let same = header.entries.iter().zip(&chunks).all(|(entry, bytes)| entry.bytes == bytes.len() as u64);
        assert!(same, "a pack's chunks have the lengths of its entries");
        let root_block = Bytes::from(header.root_block());
        Self { root: PackRoot::of(&root_block), header, root_block, chunks }
    }

    /// What its root says.
    pub const fn header(&self) -> &PackHeader {
        &self.header
    }

    /// Its root.
    pub const fn root(&self) -> PackRoot {
        self.root
    }

    /// The bytes of its chunks, in link order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Its CARv1 form, in pieces that share the chunks' memory.
    pub fn car(&self) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(3 + 2 * self.chunks.len());
        pieces.push(Bytes::from(car::header(&self.root)));
        pieces.push(Bytes::from(car::section_prefix(&self.root.cid(), self.root_block.len())));
        pieces.push(self.root_block.clone());
        for (entry, bytes) in self.header.entries.iter().zip(&self.chunks) {
            pieces.push(Bytes::from(car::section_prefix(&entry.chunk.cid(), bytes.len())));
            pieces.push(bytes.clone());
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::car::{CarReader, Section};

    fn header(chunks: &[&[u8]]) -> PackHeader {
        let entry = |bytes: &&[u8]| PackEntry { chunk: ChunkId::of(bytes), bytes: bytes.len() as u64 };
        PackHeader {
            pool: PoolId::from_bytes([1; 16]),
            epoch: 3,
            id: PackId::new(41),
            entries: chunks.iter().map(entry).collect(),
        }
    }

    #[test]
    fn a_root_reads_back_and_is_unique_to_its_number() {
        let one = header(&[b"a", b"bb"]);
        assert_eq!(PackHeader::parse(&one.root_block()), Ok(one.clone()));
        let again = PackHeader { id: PackId::new(42), ..one.clone() };
        assert_ne!(one.root(), again.root());
        assert!(PackHeader::parse(b"").is_err());
        let noise = |bytes: usize| PackHeader::parse(&vec![0x12; bytes]);
        assert_eq!(noise(MAX_ROOT_BYTES), Err(NotAPack("its root is no dag-pb node")));
        for bytes in [MAX_ROOT_BYTES + 1, 2 * MAX_ROOT_BYTES] {
            assert_eq!(noise(bytes), Err(NotAPack("its root block is too large")), "{bytes} bytes");
        }
    }

    #[test]
    fn a_root_with_as_many_links_as_may_be_is_read_and_none_with_more() {
        let numbers: Vec<[u8; 4]> = (0..2 * MAX_CHUNKS as u32).map(u32::to_be_bytes).collect();
        let all: Vec<&[u8]> = numbers.iter().map(|number| &number[..]).collect();
        let full = header(&all[..MAX_CHUNKS]);
        assert_eq!(PackHeader::parse(&full.root_block()), Ok(full));
        for count in [MAX_CHUNKS + 1, 2 * MAX_CHUNKS] {
            let parsed = PackHeader::parse(&header(&all[..count]).root_block());
            assert_eq!(parsed, Err(NotAPack("it links too many chunks")), "{count} links");
        }
    }

    #[test]
    fn a_root_links_raw_chunks_by_their_sha256_and_nothing_else() {
        let good = header(&[b"a"]).root_block();
        let links = |change: &dyn Fn(&mut PbLink)| {
            let mut node = PbNode::from_bytes(Bytes::from(good.clone())).unwrap();
            change(&mut node.links[0]);
            PackHeader::parse(&node.into_bytes())
        };
        assert!(links(&|_| ()).is_ok());
        assert!(links(&|link| link.size = Some(MAX_CHUNK_BYTES)).is_ok());
        let too_large = Err(NotAPack("it links a chunk of no or too large a size"));
        assert_eq!(links(&|link| link.size = Some(MAX_CHUNK_BYTES + 1)), too_large);
        let hash = *ChunkId::of(b"a").cid().hash();
        let keccak = cid::multihash::Multihash::wrap(0x1b, &[7; 32]).unwrap();
        for cid in [cid::Cid::new_v0(hash).unwrap(), cid::Cid::new_v1(0x70, hash), cid::Cid::new_v1(RAW, keccak)] {
            let refused = Err(NotAPack("it links something that is no raw chunk"));
            assert_eq!(links(&|link| link.cid = cid), refused, "{cid}");
        }
    }

    #[test]
    fn the_car_form_has_the_promised_length_and_offsets() {
        let chunks: Vec<&[u8]> = vec![b"first", b"", b"third chunk"];
        let header = header(&chunks);
        let pack = Pack::new(header.clone(), chunks.iter().map(|c| Bytes::copy_from_slice(c)).collect());
        let car: Vec<u8> = pack.car().concat();
        assert_eq!(car.len() as u64, header.car_bytes());
        for (chunk, offset) in chunks.iter().zip(header.offsets()) {
            let at = usize::try_from(offset).unwrap();
            assert_eq!(&car[at..at + chunk.len()], *chunk);
        }
        let mut reader = CarReader::new();
        reader.push(&car);
        assert_eq!(reader.next().unwrap(), Some(Section::Root(pack.root())));
        let Some(Section::Block { digest, .. }) = reader.next().unwrap() else { panic!("the root block") };
        assert_eq!(digest, *pack.root().digest());
    }
}
