//! How fast repair goes: so many bytes a second over the whole pool, a quarter of that while clients are at work.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::coordinator::Coordinator;

/// A put or read that gave a sign of life within this time is under way: each gives one a minute.
const AT_WORK: Duration = Duration::from_secs(90);
/// What repair leaves to clients that are at work: all but one part in so many.
const SHARE: u64 = 4;
/// The longest that one pack waits for its turn: the rate may have become another one.
const TURN: Duration = Duration::from_secs(60);

/// Spreads bytes over time.
#[derive(Debug, Default)]
pub(in crate::coordinator) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// When so many bytes more may be moved, at so many a second.
    pub fn turn(&self, now: Instant, bytes: u64, rate: u64) -> Instant {
        let took = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free.map_or(now, |free| free.clamp(now, now + TURN));
        *free = Some(start + took);
        start
    }
}

impl Coordinator {
    /// Bytes a second that repair moves now.
    pub(super) fn repair_rate(&self) -> u64 {
        let busy = self.leases.is_heard(AT_WORK) || self.reads.is_heard(AT_WORK);
        if busy { self.policy.repair_rate / SHARE } else { self.policy.repair_rate }
    }
}
