//! The built-in node: a store of packs in one directory, and the identity that answers for it. Its HTTP face is in
//! `daemon::node`.
//!
//! Invariants, all kept through the small [`disk::Disk`] trait so that a double can record, fail and replay:
//! - a pack is a file of its own, `packs/<first byte of the digest>/<root>.car`, and holds exactly the pack's CARv1
//!   bytes; it appears under that name only after every block was hashed and the file synced, and is acknowledged only
//!   after its directory was synced too (two syncs a pack);
//! - bytes leave the store only after they were read and hashed, but for those that a reader asks for who proves them;
//! - a pack is unlinked only when asked to, and its replacement was synced before;
//! - memory holds a list of packs and a bounded cache of parsed headers; never a whole pack.
//!
//! Everything here blocks; callers run it off their async threads.

pub mod disk;
pub mod identity;
mod layout;
#[cfg(unix)]
pub mod local_disk;
pub mod memory_disk;
pub mod store;
mod write;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use identity::{Identity, JoinRequest};
pub use store::{OpenReport, Store, StoreError, StoreLimits, Usage};
pub use write::{PackWriter, Scope, Written};
