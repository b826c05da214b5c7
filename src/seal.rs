//! Sealing: what makes stored bytes unreadable to nodes. Pure.
//!
//! Three forms, all AES-256-GCM (NIST SP 800-38D) with a 16-byte tag:
//! - a **chunk** ([`seal`]): its key is BLAKE3-keyed(dedup key, plaintext), so a key seals one plaintext only and the
//!   nonce can be zero; equal plaintexts of one vault give equal stored bytes, and nobody without the dedup key can
//!   tell what a chunk holds by guessing it;
//! - a **page of chunk keys** ([`seal_keys`]) under the file's key, bound to the index of its first chunk;
//! - a **wrapped secret** ([`wrap`]), bound to a purpose.
//!
//! The last two carry a nonce of 12 bytes in front, which the caller draws at random for every call. What is opened is
//! proved first: bytes that were changed, moved or sealed for something else are refused, never returned. The byte forms
//! are fixed by the vectors in the tests; a change needs a new version, or everything stored becomes unreadable.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::api::Part;
use crate::id::ChunkId;
use crate::pack::MAX_CHUNK_BYTES;

/// How much longer sealed bytes are than what was sealed: the tag.
pub const OVERHEAD: usize = 16;
/// The version of the form that [`seal`] writes.
pub const VERSION: u8 = 1;
/// The most entries in one page of chunk keys.
pub const MAX_KEYS: usize = 1024;
/// The purpose under which a file's key is wrapped by its vault's [`VaultKeys::wrap`].
pub const FILE_KEY: &str = "file-key";
/// The purpose under which [`VaultKeys::to_bytes`] is wrapped by the master key.
pub const VAULT_KEYS: &str = "vault-keys";

const NONCE_BYTES: usize = 12;
/// Associated data of a chunk.
const SEAL_AAD: &[u8] = b"bytenode/seal/1";
/// Associated data of a page of keys, before the index.
const KEYS_AAD: &[u8] = b"bytenode/keys/1:";
/// Associated data of a wrapped secret, before the purpose.
const WRAP_AAD: &[u8] = b"bytenode/wrap/1:";
/// Digest, part, length, version, key.
const ENTRY_BYTES: usize = 32 + 1 + 4 + 1 + 32;

/// Why sealed bytes cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// They were changed, or sealed under another key or for something else.
    #[error("the sealed bytes do not prove true under this key")]
    Proof,
    /// They have a length that nothing sealed here has.
    #[error("the sealed bytes have an impossible length")]
    Length,
    /// They prove true, but do not say what they should.
    #[error("the sealed bytes are malformed")]
    Malformed,
    /// They were sealed in a form that is not known here.
    #[error("seal version {0} is not known")]
    Version(u8),
}

/// A 256-bit secret key. Wiped when dropped, never shown; base64 in JSON.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// Takes 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = data_encoding::BASE64.decode(text.as_bytes()).map_err(|_| serde::de::Error::custom("not a key"))?;
        bytes.try_into().map(Self).map_err(|_| serde::de::Error::custom("not a key"))
    }
}

/// The keys of a vault: the domain within which equal chunks are stored once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
pub struct VaultKeys {
    /// Derives chunk keys from plaintext. Never handed to anybody a file is shared with.
    pub dedup: Key,
    /// Wraps file keys.
    pub wrap: Key,
}

impl VaultKeys {
    /// Both keys, the dedup key first: what is wrapped under the master key.
    pub fn to_bytes(&self) -> Zeroizing<[u8; 64]> {
        let mut bytes = Zeroizing::new([0; 64]);
        bytes[..32].copy_from_slice(self.dedup.expose());
        bytes[32..].copy_from_slice(self.wrap.expose());
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`SealError::Length`] for anything but 64 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        if bytes.len() != 64 {
            return Err(SealError::Length);
        }
        Ok(Self { dedup: key_at(&bytes[..32]), wrap: key_at(&bytes[32..]) })
    }
}

/// A sealed chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its name: the SHA-256 of `bytes`.
    pub chunk: ChunkId,
    /// What opens it.
    pub key: Key,
    /// What is stored: ciphertext and tag.
    pub bytes: Bytes,
}

/// Seals a chunk. Equal plaintexts under equal dedup keys give equal results.
///
/// Works in the buffer that it is given, which is not copied when it has room for [`OVERHEAD`] more bytes.
pub fn seal(dedup: &Key, plaintext: BytesMut) -> Sealed {
    let key = Key(*blake3::keyed_hash(dedup.expose(), &plaintext).as_bytes());
    let bytes = seal_under(&key, plaintext);
    Sealed { chunk: ChunkId::of(&bytes), key, bytes }
}

/// Whether a plaintext is what this chunk, which this key opens, was sealed from. Needs no dedup key.
pub fn is_sealed_as(key: &Key, plaintext: &[u8], chunk: &ChunkId) -> bool {
    let mut buffer = BytesMut::with_capacity(plaintext.len() + OVERHEAD);
    buffer.extend_from_slice(plaintext);
    ChunkId::of(&seal_under(key, buffer)) == *chunk
}

fn seal_under(key: &Key, plaintext: BytesMut) -> Bytes {
    let mut buffer = plaintext;
    let tag = encrypt(key, [0; NONCE_BYTES], SEAL_AAD, &mut buffer);
    buffer.extend_from_slice(&tag);
    buffer.freeze()
}

/// Opens a chunk in place: what it returns was sealed under this key, to the bit.
///
/// # Errors
/// [`SealError::Length`] for fewer than [`OVERHEAD`] bytes, [`SealError::Proof`] when they are not what was sealed.
pub fn unseal(key: &Key, stored: BytesMut) -> Result<Bytes, SealError> {
    let mut buffer = stored;
    let length = decrypt(key, [0; NONCE_BYTES], SEAL_AAD, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer.freeze())
}

/// What a reader needs to know of one chunk: an entry of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkKey {
    /// The chunk.
    pub chunk: ChunkId,
    /// What it is.
    pub part: Part,
    /// Bytes of the file in it, at most [`MAX_CHUNK_BYTES`].
    pub length: u32,
    /// The form it was sealed in: [`VERSION`].
    pub version: u8,
    /// What opens it.
    pub key: Key,
}

impl ChunkKey {
    fn check(&self) -> Result<(), SealError> {
        if self.version != VERSION {
            return Err(SealError::Version(self.version));
        }
        if u64::from(self.length) > MAX_CHUNK_BYTES {
            return Err(SealError::Malformed);
        }
        Ok(())
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.chunk.digest());
        out.push(match self.part {
            Part::Sealed => 0,
            Part::Plain => 1,
            Part::Link => 2,
        });
        out.extend_from_slice(&self.length.to_be_bytes());
        out.push(self.version);
        out.extend_from_slice(self.key.expose());
    }

    fn read(bytes: &[u8]) -> Result<Self, SealError> {
        let entry = Self {
            chunk: ChunkId::from_digest(bytes[..32].try_into().expect("thirty-two bytes")),
            part: match bytes[32] {
                0 => Part::Sealed,
                1 => Part::Plain,
                2 => Part::Link,
                _ => return Err(SealError::Malformed),
            },
            length: u32::from_be_bytes(bytes[33..37].try_into().expect("four bytes")),
            version: bytes[37],
            key: key_at(&bytes[38..ENTRY_BYTES]),
        };
        entry.check().map(|()| entry)
    }
}

/// Encrypts the manifest entries of consecutive chunks, the first of which has index `first` in its file.
///
/// The nonce must be random, and new for every call. The result has 28 bytes and 70 for each entry.
///
/// # Panics
/// When there are more than [`MAX_KEYS`] entries, or one that [`unseal_keys`] would refuse: bugs of the caller, which
/// would otherwise be found when the file is read.
pub fn seal_keys(file_key: &Key, first: u64, keys: &[ChunkKey], nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
    assert!(keys.len() <= MAX_KEYS, "a page has at most {MAX_KEYS} entries");
    assert!(keys.iter().all(|entry| entry.check().is_ok()), "entries have a known version and a possible length");
    let mut page = prefixed(nonce, keys.len() * ENTRY_BYTES);
    for entry in keys {
        entry.write(&mut page);
    }
    finish(file_key, nonce, &keys_aad(first), page)
}

/// Opens what [`seal_keys`] wrote, which may be anything.
///
/// # Errors
/// [`SealError::Length`] when it is no whole number of at most [`MAX_KEYS`] entries, [`SealError::Proof`] when it was
/// changed or belongs to another file or index, [`SealError::Version`] and [`SealError::Malformed`] for an entry that
/// cannot be read here.
pub fn unseal_keys(file_key: &Key, first: u64, page: &[u8]) -> Result<Vec<ChunkKey>, SealError> {
    let entries = page.len().checked_sub(NONCE_BYTES + OVERHEAD).ok_or(SealError::Length)?;
    if entries % ENTRY_BYTES != 0 || entries / ENTRY_BYTES > MAX_KEYS {
        return Err(SealError::Length);
    }
    let opened = open(file_key, &keys_aad(first), page)?;
    opened.chunks_exact(ENTRY_BYTES).map(ChunkKey::read).collect()
}

/// Encrypts a secret under a key, for one purpose ([`FILE_KEY`], [`VAULT_KEYS`]).
///
/// The nonce must be random, and new for every call. The result is 28 bytes longer than the secret.
pub fn wrap(with: &Key, purpose: &str, secret: &[u8], nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
    let mut wrapped = prefixed(nonce, secret.len());
    wrapped.extend_from_slice(secret);
    finish(with, nonce, &wrap_aad(purpose), wrapped)
}

/// Opens what [`wrap`] wrote for the same purpose. The secret is wiped when dropped.
///
/// # Errors
/// [`SealError::Length`] for fewer than 28 bytes, [`SealError::Proof`] when it is not what was wrapped.
pub fn unwrap(with: &Key, purpose: &str, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    open(with, &wrap_aad(purpose), wrapped)
}

/// [`wrap`] for a key: 60 bytes.
pub fn wrap_key(with: &Key, purpose: &str, key: &Key, nonce: [u8; NONCE_BYTES]) -> Vec<u8> {
    wrap(with, purpose, key.expose(), nonce)
}

/// Opens what [`wrap_key`] wrote.
///
/// # Errors
/// As [`unwrap`]; [`SealError::Length`] when the secret is no key.
pub fn unwrap_key(with: &Key, purpose: &str, wrapped: &[u8]) -> Result<Key, SealError> {
    if wrapped.len() != NONCE_BYTES + 32 + OVERHEAD {
        return Err(SealError::Length);
    }
    unwrap(with, purpose, wrapped).map(|secret| key_at(&secret))
}

fn key_at(bytes: &[u8]) -> Key {
    Key(bytes.try_into().expect("thirty-two bytes"))
}

fn keys_aad(first: u64) -> Vec<u8> {
    [KEYS_AAD, &first.to_be_bytes()].concat()
}

fn wrap_aad(purpose: &str) -> Vec<u8> {
    [WRAP_AAD, purpose.as_bytes()].concat()
}

/// A buffer with the nonce in front and room for the rest, so that it never moves and leaves no secret behind.
fn prefixed(nonce: [u8; NONCE_BYTES], secret_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(NONCE_BYTES + secret_bytes + OVERHEAD);
    out.extend_from_slice(&nonce);
    out
}

fn finish(key: &Key, nonce: [u8; NONCE_BYTES], aad: &[u8], mut out: Vec<u8>) -> Vec<u8> {
    let tag = encrypt(key, nonce, aad, &mut out[NONCE_BYTES..]);
    out.extend_from_slice(&tag);
    out
}

fn open(key: &Key, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::Length)?;
    let mut buffer = Zeroizing::new(rest.to_vec());
    let length = decrypt(key, *nonce, aad, &mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}

fn cipher(key: &Key) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.expose()).expect("a key of 32 bytes"))
}

fn encrypt(key: &Key, nonce: [u8; NONCE_BYTES], aad: &[u8], bytes: &mut [u8]) -> [u8; OVERHEAD] {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = cipher(key)
        .seal_in_place_separate_tag(nonce, Aad::from(aad), bytes)
        .expect("what fits in memory is short enough for AES-GCM");
    tag.as_ref().try_into().expect("the tag of AES-GCM has sixteen bytes")
}

/// Decrypts in place and returns the plaintext's length.
fn decrypt(key: &Key, nonce: [u8; NONCE_BYTES], aad: &[u8], sealed: &mut [u8]) -> Result<usize, SealError> {
    if sealed.len() < OVERHEAD {
        return Err(SealError::Length);
    }
    let nonce = Nonce::assume_unique_for_key(nonce);
    let opened = cipher(key).open_in_place(nonce, Aad::from(aad), sealed).map_err(|_| SealError::Proof)?;
    Ok(opened.len())
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
