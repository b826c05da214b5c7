//! Grants and receipts: short statements signed with Ed25519 (RFC 8032).
//!
//! A **grant** is the coordinator's permission for one thing on one built-in node (or on a relayed one): pool, node, verb
//! with its exact object, and an end. A **receipt** is a built-in node's word that it hashed and synced a whole pack.
//! A **proof** is its word, for a number that the asker drew, that it has the key that is its identity.
//! All are written `base64url(json).base64url(signature)`; the signature covers the text before the dot together with
//! a word that says which of them it is, so none can stand in for another.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::{NodeId, PackRoot, PoolId};
use crate::node::GrantToken;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;

/// How far the clocks of coordinator and node may be apart: beyond, grants and receipts are worth nothing.
pub const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// It is no token at all.
    #[error("the grant is malformed")]
    Malformed,
    /// Its signature is not the expected signer's.
    #[error("the grant is not signed by this pool's coordinator")]
    Signature,
    /// Its time is over.
    #[error("the grant has expired")]
    Expired,
    /// It is for another pool, node, verb or object.
    #[error("the grant is for something else ({0})")]
    Scope(&'static str),
}

/// A key that signs grants (the coordinator's) or receipts (a node's).
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey(public {})", self.public())
    }
}

impl SigningKey {
    /// Takes a 32-byte seed (RFC 8032, 5.1.5).
    ///
    /// # Panics
    /// Never: every 32-byte seed is a key.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { pair: Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed of 32 bytes") }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs a grant.
    pub fn grant(&self, grant: &Grant) -> GrantToken {
        GrantToken::new(self.sign("grant", grant))
    }

    /// Signs a receipt.
    pub fn receipt(&self, receipt: &PackReceipt) -> String {
        self.sign("receipt", receipt)
    }

    /// Signs, for whoever drew this number, that the node of this key is here.
    pub fn prove(&self, nonce: &Nonce) -> String {
        self.sign("identity", &IdentityProof { node: self.public().node_id(), nonce: nonce.to_string() })
    }

    fn sign(&self, word: &str, statement: &impl Serialize) -> String {
        let json = serde_json::to_vec(statement).expect("a statement is plain data");
        let text = BASE64URL_NOPAD.encode(&json);
        let signature = self.pair.sign(signed_text(word, &text).as_bytes());
        format!("{text}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
    }
}

/// The public half of a [`SigningKey`]; written as 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl std::str::FromStr for PublicKey {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| GrantError::Malformed)?;
        bytes.try_into().map(Self).map_err(|_| GrantError::Malformed)
    }
}

impl PublicKey {
    /// The identity of a built-in node with this key: `bn-` and the key as 64 hex digits.
    pub fn node_id(&self) -> NodeId {
        format!("bn-{self}").parse().expect("letters and digits")
    }

    /// The key of the built-in node with this identity; nothing for another kind of node.
    pub fn of_node(id: &NodeId) -> Option<Self> {
        id.as_str().strip_prefix("bn-")?.parse().ok()
    }

    /// Reads a grant that this key must have signed. Whether it fits is [`Grant::permits`]'s to say.
    ///
    /// # Errors
    /// [`GrantError::Malformed`] or [`GrantError::Signature`].
    pub fn read_grant(&self, token: &str) -> Result<Grant, GrantError> {
        self.read("grant", token)
    }

    /// Reads a receipt that this key must have signed.
    ///
    /// # Errors
    /// [`GrantError::Malformed`] or [`GrantError::Signature`].
    pub fn read_receipt(&self, token: &str) -> Result<PackReceipt, GrantError> {
        self.read("receipt", token)
    }

    /// Whether the node of this key signed [`SigningKey::prove`] for this very number.
    pub fn is_proved(&self, nonce: &Nonce, proof: &str) -> bool {
        let expected = IdentityProof { node: self.node_id(), nonce: nonce.to_string() };
        self.read::<IdentityProof>("identity", proof).is_ok_and(|said| said == expected)
    }

    fn read<T: DeserializeOwned>(&self, word: &str, token: &str) -> Result<T, GrantError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(GrantError::Malformed);
        }
        let (text, signature) = token.split_once('.').ok_or(GrantError::Malformed)?;
        let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).map_err(|_| GrantError::Malformed)?;
        let key = UnparsedPublicKey::new(&ED25519, self.0);
        key.verify(signed_text(word, text).as_bytes(), &signature).map_err(|_| GrantError::Signature)?;
        let json = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| GrantError::Malformed)?;
        serde_json::from_slice(&json).map_err(|_| GrantError::Malformed)
    }
}

fn signed_text(word: &str, text: &str) -> String {
    format!("bytenode/{word}/1:{text}")
}

/// A number that is used once, drawn by whoever wants a proof; written as 64 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 32]);

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl std::str::FromStr for Nonce {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| GrantError::Malformed)?;
        bytes.try_into().map(Self).map_err(|_| GrantError::Malformed)
    }
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityProof {
    node: NodeId,
    nonce: String,
}

/// What a grant permits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Verb {
    /// Write this pack, whose CARv1 form has exactly so many bytes.
    Write {
        /// The pack.
        root: PackRoot,
        /// Length of its CARv1 form.
        bytes: u64,
    },
    /// Read the chunks of this pack.
    Read {
        /// The pack.
        root: PackRoot,
    },
    /// Everything: the coordinator's own calls.
    Manage,
}

/// A start of a coordinator: of two with the same keys, only the later one is obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Start {
    /// Its epoch.
    pub epoch: u64,
    /// Its instance, in any plain characters.
    pub instance: String,
}

/// A permission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The start of the coordinator that gave it.
    pub by: Start,
    /// The pool.
    pub pool: PoolId,
    /// The node.
    pub node: NodeId,
    /// What for.
    pub what: Verb,
    /// Its end, by the node's clock, in seconds since 1970 UTC.
    pub until: i64,
}

impl Grant {
    /// Whether it permits `what` on this pool's node now.
    ///
    /// # Errors
    /// [`GrantError::Scope`] or [`GrantError::Expired`].
    pub fn permits(&self, pool: &PoolId, node: &NodeId, what: &Verb, now: Timestamp) -> Result<(), GrantError> {
        if self.pool != *pool {
            return Err(GrantError::Scope("another pool"));
        }
        if self.node != *node {
            return Err(GrantError::Scope("another node"));
        }
        if self.what != Verb::Manage && self.what != *what {
            return Err(GrantError::Scope("another act"));
        }
        if now.as_second() >= self.until {
            return Err(GrantError::Expired);
        }
        Ok(())
    }
}

/// A built-in node's word that it hashed and synced every byte of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackReceipt {
    /// The pool.
    pub pool: PoolId,
    /// The node that signs.
    pub node: NodeId,
    /// The pack.
    pub root: PackRoot,
    /// Length of its CARv1 form as stored.
    pub bytes: u64,
    /// When it was synced, by the node's clock, in seconds since 1970 UTC.
    pub synced: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(what: Verb) -> Grant {
        let node = SigningKey::from_seed(&[2; 32]).public().node_id();
        Grant { by: Start::default(), pool: PoolId::from_bytes([1; 16]), node, what, until: 1000 }
    }

    #[test]
    fn a_grant_permits_exactly_what_it_says() {
        let key = SigningKey::from_seed(&[1; 32]);
        let root = PackRoot::of(b"r");
        let given = grant(Verb::Write { root, bytes: 10 });
        let read = key.public().read_grant(key.grant(&given).expose()).unwrap();
        assert_eq!(read, given);
        let at = |second| Timestamp::from_second(second).unwrap();
        let (pool, node) = (given.pool, given.node.clone());
        assert_eq!(read.permits(&pool, &node, &Verb::Write { root, bytes: 10 }, at(999)), Ok(()));
        assert_eq!(read.permits(&pool, &node, &Verb::Write { root, bytes: 10 }, at(1000)), Err(GrantError::Expired));
        assert!(read.permits(&pool, &node, &Verb::Write { root, bytes: 11 }, at(1)).is_err());
        assert!(read.permits(&pool, &node, &Verb::Read { root }, at(1)).is_err());
        assert!(read.permits(&pool, &node, &Verb::Manage, at(1)).is_err());
        assert!(read.permits(&PoolId::from_bytes([9; 16]), &node, &read.what, at(1)).is_err());
        assert_eq!(grant(Verb::Manage).permits(&pool, &node, &Verb::Read { root }, at(1)), Ok(()));
    }

    #[test]
    fn a_proof_is_good_for_its_key_and_number_alone() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[3; 32]));
        let (nonce, later) = (Nonce([7; 32]), Nonce([8; 32]));
        let proof = key.prove(&nonce);
        assert!(key.public().is_proved(&nonce, &proof));
        assert!(!key.public().is_proved(&later, &proof), "an old one");
        assert!(!other.public().is_proved(&nonce, &proof) && !key.public().is_proved(&nonce, &other.prove(&nonce)));
        let said = IdentityProof { node: key.public().node_id(), nonce: nonce.to_string() };
        assert!(!key.public().is_proved(&nonce, &key.sign("receipt", &said)), "another kind of statement");
        assert!(key.public().read_receipt(&proof).is_err() && key.public().read_grant(&proof).is_err());
        assert_eq!(nonce.to_string().parse(), Ok(nonce));
        assert!(["", "07", &"0g".repeat(32), &"07".repeat(33)].iter().all(|bad| bad.parse::<Nonce>().is_err()));
    }

    #[test]
    fn forged_confused_and_malformed_tokens_are_refused() {
        let (key, other) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[3; 32]));
        let token = key.grant(&grant(Verb::Manage));
        assert_eq!(other.public().read_grant(token.expose()), Err(GrantError::Signature));
        assert_eq!(key.public().read_receipt(token.expose()), Err(GrantError::Signature));
        for bad in ["", ".", "a.b", "no dot", &"x".repeat(5000)] {
            assert!(key.public().read_grant(bad).is_err());
        }
        assert_eq!(PublicKey::of_node(&key.public().node_id()), Some(key.public()));
    }
}
