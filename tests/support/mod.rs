//! What several tests share.

#![allow(clippy::unwrap_used, reason = "it serves tests alone")]
#![allow(dead_code, reason = "not every test uses every part")]

pub mod bent;
#[cfg(unix)]
pub mod builtin;
#[cfg(unix)]
pub mod cluster;
pub mod exchange;
pub mod kubo;
pub mod pool;
#[cfg(all(unix, debug_assertions))]
pub mod power;
pub mod proxy;
#[cfg(unix)]
pub mod served;
pub mod traced;
