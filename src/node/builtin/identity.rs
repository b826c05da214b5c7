//! Who a built-in node is, whom it obeys, and how it came to: its key, its one-time join code, its pool.
//!
//! State is in `node.json` (0600, replaced atomically). A node obeys one coordinator, named by its public key at the
//! join; what it has seen of that coordinator's epochs only ever grows. Whoever starts that coordinator a second time, on
//! a copy of its data, has its keys too: so nothing is changed here for a start that a later one has superseded.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::{BASE32_NOPAD, HEXLOWER};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::disk::{Disk, read_private, write_private};
use crate::grant::{Grant, GrantError, Nonce, PackReceipt, PublicKey, SigningKey, Start, Verb};
use crate::id::{NodeId, PackRoot, PoolId};
use crate::seam::Seam;

const STATE: &str = "node.json";
const CODE: &str = "join.code";
/// The longest name of a coordinator's instance, in bytes.
const MAX_INSTANCE_BYTES: usize = 128;

/// Why a node does not join, greet or obey.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its state cannot be read or written.
    #[error("{file} cannot be used")]
    State {
        /// The file in the data directory.
        file: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Its state is not what this program writes.
    #[error("{file} is damaged")]
    Damaged {
        /// The file in the data directory.
        file: &'static str,
    },
    /// The join code is wrong or used up.
    #[error("the join code is wrong or has been used")]
    Code,
    /// It belongs to a pool already.
    #[error("the node belongs to another pool; only `bytenoded node --reset-join` makes it leave")]
    Joined,
    /// It belongs to no pool yet.
    #[error("the node has not joined a pool")]
    NotJoined,
    /// The grant does not permit it.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The grant is of a start that is in charge no more.
    #[error("another start of the coordinator is in charge here (epoch {0})")]
    Superseded(u64),
    /// A value is not what it must be.
    #[error("refused: {0}")]
    Invalid(&'static str),
}

/// Asks a node to join a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The one-time code from the node's data directory.
    pub code: String,
    /// The pool.
    pub pool: PoolId,
    /// The coordinator's public key, 64 hex digits.
    pub coordinator: String,
    /// The coordinator's epoch.
    pub epoch: u64,
    /// The coordinator's instance.
    pub instance: String,
}

/// The start of the coordinator that a node has seen last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// It.
    #[serde(flatten)]
    pub start: Start,
    /// Clients may use grants to write of earlier starts, if these end by this second since 1970 UTC: they were given
    /// before this start, to puts that go on.
    #[serde(default)]
    pub earlier_until: i64,
}

/// Whether a new join code is wanted at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Stay with the pool.
    Keep,
    /// Forget the pool and make a new code. The packs stay.
    Forget,
}

#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    version: u32,
    seed: String,
    membership: Option<Membership>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Membership {
    pool: PoolId,
    coordinator: String,
    #[serde(flatten)]
    seen: Seen,
}

/// A node's identity. Shared between requests.
pub struct Identity {
    disk: Arc<dyn Disk>,
    key: SigningKey,
    id: NodeId,
    stored: Mutex<Stored>,
    /// Held by the one who changes the state, over the disk's work; `stored` is only ever held for a moment.
    changing: Mutex<()>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.id)
    }
}

impl Identity {
    /// Reads the identity, or makes one with a join code at the first start. A node that has joined no pool always has a
    /// code in `join.code`; one that has joined has none.
    ///
    /// # Errors
    /// When the state cannot be read or written, is damaged, or may be read by others.
    pub fn open(disk: Arc<dyn Disk>, seam: &Seam, reset: Reset) -> Result<Self, IdentityError> {
        let found = read_private(&*disk, Path::new(STATE), 1 << 16).map_err(state(STATE))?;
        let fresh = found.is_none();
        let mut stored = match found {
            Some(bytes) => {
                serde_json::from_slice::<Stored>(&bytes).map_err(|_| IdentityError::Damaged { file: STATE })?
            }
            None => Stored { version: 1, seed: HEXLOWER.encode(&seam.bytes::<32>()), membership: None },
        };
        let seed = HEXLOWER.decode(stored.seed.as_bytes()).ok().and_then(|seed| seed.try_into().ok());
        let seed: [u8; 32] = seed.filter(|_| stored.version == 1).ok_or(IdentityError::Damaged { file: STATE })?;
        if reset == Reset::Forget {
            stored.membership = None;
        }
        if fresh || reset == Reset::Forget {
            save(&*disk, &stored)?;
        }
        let key = SigningKey::from_seed(&seed);
        let id = key.public().node_id();
        if stored.membership.is_some() {
            remove_code(&*disk)?;
        } else if reset == Reset::Forget || read_code(&*disk)?.is_none() {
            let code = format!("{}\n", BASE32_NOPAD.encode(&seam.bytes::<16>()));
            write_private(&*disk, Path::new(CODE), code.as_bytes()).map_err(state(CODE))?;
        }
        Ok(Self { disk, key, id, stored: Mutex::new(stored), changing: Mutex::new(()) })
    }

    /// Its name.
    pub const fn id(&self) -> &NodeId {
        &self.id
    }

    /// The key that its receipts are signed with.
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    /// The pool that it belongs to.
    pub fn pool(&self) -> Option<PoolId> {
        self.stored().membership.as_ref().map(|member| member.pool)
    }

    /// Joins a pool, durably, and uses up the code. Joined already with the same pool and key: success, whatever the
    /// code. The caller bounds how often this is tried.
    ///
    /// # Errors
    /// [`IdentityError::Joined`], [`IdentityError::Code`], [`IdentityError::Invalid`], [`IdentityError::State`].
    pub fn join(&self, request: &JoinRequest) -> Result<(), IdentityError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = self.stored().clone();
        if let Some(member) = &stored.membership {
            let same = member.pool == request.pool && member.coordinator == request.coordinator;
            return if same { Ok(()) } else { Err(IdentityError::Joined) };
        }
        let code = read_code(&*self.disk)?.ok_or(IdentityError::Code)?;
        let given = request.code.trim().to_ascii_uppercase();
        verify_slices_are_equal(code.as_bytes(), given.as_bytes()).map_err(|_| IdentityError::Code)?;
        let _: PublicKey = request.coordinator.parse().map_err(|_| IdentityError::Invalid("the coordinator's key"))?;
        let start = Start { epoch: request.epoch, instance: instance(&request.instance)? };
        let seen = Seen { start, earlier_until: 0 };
        let membership = Membership { pool: request.pool, coordinator: request.coordinator.clone(), seen };
        let joined = Stored { membership: Some(membership), ..stored };
        save(&*self.disk, &joined)?;
        *self.stored() = joined;
        remove_code(&*self.disk)
    }

    /// Takes note of a start of the coordinator and tells what was seen before. Only a higher epoch is kept; a lower
    /// one, or another instance of the same epoch, changes nothing, and the answer shows it.
    ///
    /// # Errors
    /// [`IdentityError::NotJoined`], [`IdentityError::Invalid`], [`IdentityError::State`].
    pub fn hello(&self, named: &Seen) -> Result<Start, IdentityError> {
        instance(&named.start.instance)?;
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.stored().clone();
        let member = next.membership.as_mut().ok_or(IdentityError::NotJoined)?;
        let before = member.seen.start.clone();
        if named.start.epoch > before.epoch {
            member.seen = named.clone();
            save(&*self.disk, &next)?;
            *self.stored() = next;
        }
        Ok(before)
    }

    /// The start that it was told of last.
    ///
    /// # Errors
    /// [`IdentityError::NotJoined`].
    pub fn seen(&self) -> Result<Start, IdentityError> {
        Ok(self.member()?.seen.start)
    }

    /// What a grant permits to read on this node now, whichever start of the coordinator gave it.
    ///
    /// # Errors
    /// [`IdentityError::NotJoined`], [`IdentityError::Grant`].
    pub fn permitted(&self, token: &str, now: Timestamp) -> Result<(PoolId, Verb), IdentityError> {
        let (member, grant) = self.granted(token, now)?;
        Ok((member.pool, grant.what))
    }

    /// What a grant permits to change on this node now.
    ///
    /// # Errors
    /// As [`Self::permitted`]; [`IdentityError::Superseded`].
    pub fn permitted_to_change(&self, token: &str, now: Timestamp) -> Result<(PoolId, Verb), IdentityError> {
        let (Membership { pool, seen, .. }, Grant { by, what, until, .. }) = self.granted(token, now)?;
        // A later start makes itself known before it changes anything, or is about to.
        let rules = by.epoch > seen.start.epoch || by == seen.start;
        let goes_on = matches!(what, Verb::Write { .. }) && by.epoch < seen.start.epoch && until <= seen.earlier_until;
        if rules || goes_on { Ok((pool, what)) } else { Err(IdentityError::Superseded(seen.start.epoch)) }
    }

    fn granted(&self, token: &str, now: Timestamp) -> Result<(Membership, Grant), IdentityError> {
        let member = self.member()?;
        let grant = member.coordinator.parse::<PublicKey>()?.read_grant(token)?;
        grant.permits(&member.pool, &self.id, &grant.what, now)?;
        Ok((member, grant))
    }

    fn member(&self) -> Result<Membership, IdentityError> {
        self.stored().membership.clone().ok_or(IdentityError::NotJoined)
    }

    /// Signs, for whoever drew this number, that this node is here.
    pub fn prove(&self, nonce: &Nonce) -> String {
        self.key.prove(nonce)
    }

    /// Signs that a pack was hashed and synced. Only to be asked for after it was.
    pub fn receipt(&self, pool: PoolId, root: PackRoot, bytes: u64, now: Timestamp) -> String {
        self.key.receipt(&PackReceipt { pool, node: self.id.clone(), root, bytes, synced: now.as_second() })
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn state(file: &'static str) -> impl FnOnce(std::io::Error) -> IdentityError {
    move |source| IdentityError::State { file, source }
}

fn save(disk: &dyn Disk, stored: &Stored) -> Result<(), IdentityError> {
    let text = serde_json::to_vec_pretty(stored).expect("the state is plain data");
    write_private(disk, Path::new(STATE), &text).map_err(state(STATE))
}

fn read_code(disk: &dyn Disk) -> Result<Option<String>, IdentityError> {
    let found = read_private(disk, Path::new(CODE), 256).map_err(state(CODE))?;
    found
        .map(|bytes| String::from_utf8(bytes).map_err(|_| IdentityError::Damaged { file: CODE }))
        .transpose()
        .map(|code| code.map(|code| code.trim().to_owned()).filter(|code| !code.is_empty()))
}

fn remove_code(disk: &dyn Disk) -> Result<(), IdentityError> {
    match disk.remove(Path::new(CODE)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(state(CODE)(error)),
        _ => Ok(()),
    }
}

fn instance(text: &str) -> Result<String, IdentityError> {
    if text.is_empty() || text.len() > MAX_INSTANCE_BYTES || text.chars().any(char::is_control) {
        return Err(IdentityError::Invalid("the coordinator's instance must be 1 to 128 plain characters"));
    }
    Ok(text.to_owned())
}
