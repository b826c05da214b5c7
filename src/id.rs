//! Identities: small types that cannot be mistaken for one another.
//!
//! Every identity has one text form ([`std::fmt::Display`]) that [`std::str::FromStr`] reads back exactly; serde uses
//! that same text. The fields are private, so a value that exists has been checked.

use std::fmt;
use std::str::FromStr;

use cid::Cid;
use multihash::Multihash;
use serde::{Deserialize, Serialize};

/// Multicodec of a block of plain bytes (multicodec table, `raw`).
pub const RAW: u64 = 0x55;
/// Multicodec of a dag-pb block (multicodec table, `dag-pb`).
pub const DAG_PB: u64 = 0x70;
/// Multihash code of SHA-256 (multicodec table, `sha2-256`).
const SHA2_256: u64 = 0x12;

/// A text that is no such identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseIdError {
    text: String,
    expected: &'static str,
}

impl ParseIdError {
    fn new(text: &str, expected: &'static str) -> Self {
        let text = text.chars().take(100).collect();
        Self { text, expected }
    }
}

/// Computes the SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

fn cid_of(codec: u64, digest: &[u8; 32]) -> Cid {
    let hash = Multihash::wrap(SHA2_256, digest).expect("a SHA-256 fits any multihash");
    Cid::new_v1(codec, hash)
}

fn digest_of(text: &str, codec: u64, expected: &'static str) -> Result<[u8; 32], ParseIdError> {
    let refuse = || ParseIdError::new(text, expected);
    if text.len() > 128 {
        return Err(refuse());
    }
    let cid = Cid::from_str(text).map_err(|_| refuse())?;
    if cid.version() != cid::Version::V1 || cid.codec() != codec || cid.hash().code() != SHA2_256 {
        return Err(refuse());
    }
    cid.hash().digest().try_into().map_err(|_| refuse())
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident, $codec:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Names the given stored bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self(sha256(bytes))
            }

            /// Takes a SHA-256 that is already known.
            pub const fn from_digest(digest: [u8; 32]) -> Self {
                Self(digest)
            }

            /// The SHA-256 of the named bytes.
            pub const fn digest(&self) -> &[u8; 32] {
                &self.0
            }

            /// The CIDv1 (36 bytes in binary form) that nodes know it by.
            pub fn cid(&self) -> Cid {
                cid_of($codec, &self.0)
            }

            /// Whether these bytes are the ones it names.
            pub fn names(&self, bytes: &[u8]) -> bool {
                sha256(bytes) == self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.cid().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.cid().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                digest_of(text, $codec, $expected).map(Self)
            }
        }

        text_serde!($name);
    };
}

digest_id! {
    /// A chunk: the SHA-256 of its stored bytes. Written as a raw CIDv1 (`bafkrei…`), which is how nodes know it.
    ChunkId, RAW, "the CID of a chunk (CIDv1, raw, sha2-256)"
}

digest_id! {
    /// A pack: the SHA-256 of its root block. Written as a dag-pb CIDv1 (`bafybei…`).
    PackRoot, DAG_PB, "the CID of a pack (CIDv1, dag-pb, sha2-256)"
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Takes 16 bytes, which ought to be random.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let refuse = || ParseIdError::new(text, $expected);
                if text.len() != 32 {
                    return Err(refuse());
                }
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| refuse())?;
                bytes.try_into().map(Self).map_err(|_| refuse())
            }
        }

        text_serde!($name);
    };
}

hex_id! {
    /// A pool: all nodes that one catalog owns. Random, made once. Written as 32 lower-case hex digits.
    PoolId, "a pool id (32 lower-case hex digits)"
}

hex_id! {
    /// An upload: one client's put, and the lease that keeps its chunks. Written as 32 lower-case hex digits.
    UploadId, "an upload id (32 lower-case hex digits)"
}

/// A pack's number: from a sequence that is never reused within a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackId(u64);

impl PackId {
    /// Takes a number of the sequence.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A node's own identity, stable wherever it is reached: a libp2p peer id for Kubo, the text of its public key for the
/// built-in node. 1 to 128 ASCII letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(String);

impl NodeId {
    /// The identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if text.is_empty() || text.len() > 128 || !text.chars().all(allowed) {
            return Err(ParseIdError::new(text, "a node identity (1 to 128 letters, digits, - and _)"));
        }
        Ok(Self(text.to_owned()))
    }
}

text_serde!(NodeId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_named_like_kubo_names_a_raw_block() {
        // reference: the empty raw block, and Kubo's own "hello world" vector.
        assert_eq!(ChunkId::of(b"").to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
        assert_eq!(
            ChunkId::of(b"hello world").to_string(),
            "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        );
    }

    #[test]
    fn text_forms_read_back_and_others_are_refused() {
        let chunk = ChunkId::of(b"x");
        assert_eq!(chunk.to_string().parse::<ChunkId>(), Ok(chunk));
        assert!(chunk.to_string().parse::<PackRoot>().is_err());
        assert!("bafy".parse::<PackRoot>().is_err());
        assert!("z".repeat(1_000_000).parse::<ChunkId>().is_err());
        let pool = PoolId::from_bytes([7; 16]);
        assert_eq!(pool.to_string().parse::<PoolId>(), Ok(pool));
        assert!("../etc".parse::<NodeId>().is_err());
        assert!("".parse::<NodeId>().is_err());
    }
}
