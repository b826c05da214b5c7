//! What a wall clock that jumps may not do. Times in the catalog are the wall clock's, so that they hold over a restart; the
//! clock that never jumps tells, while the coordinator runs, when the other one was set.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::catalog::micros;
use crate::seam::Seam;

/// A smaller difference, in microseconds, is drift.
const JUMP: i64 = 60_000_000;

/// When the wall clock was set, as far as it was seen.
#[derive(Debug)]
pub(super) struct Clock(Mutex<Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    wall: i64,
    at: Instant,
    back: i64,
    ahead: Option<Instant>,
}

impl Clock {
    pub(super) fn new(seam: &Seam) -> Self {
        Self(Mutex::new(Seen { wall: micros(seam.now()), at: seam.monotonic(), back: i64::MIN, ahead: None }))
    }

    fn look(&self, seam: &Seam) -> Seen {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, at) = (micros(seam.now()), seam.monotonic());
        let passed = i64::try_from(at.saturating_duration_since(seen.at).as_micros()).unwrap_or(i64::MAX);
        let jumped = wall.saturating_sub(seen.wall).saturating_sub(passed);
        if jumped < -JUMP {
            tracing::warn!(seconds = -jumped / 1_000_000, "the clock went back");
            seen.back = wall;
        } else if jumped > JUMP {
            tracing::warn!(seconds = jumped / 1_000_000, "the clock went forward");
            seen.ahead = Some(at);
        }
        (seen.wall, seen.at) = (wall, at);
        *seen
    }

    /// When the clock went back last, by its time since then: what is of an earlier time by that clock may be far older than
    /// it looks.
    pub(super) fn went_back(&self, seam: &Seam) -> i64 {
        self.look(seam).back
    }

    /// The time up to which retentions are over. After the clock went forward none is, for as long as one lasts: whatever
    /// was removed before that has been kept so long by then.
    pub(super) fn retained_until(&self, seam: &Seam, retention: Duration) -> Timestamp {
        let seen = self.look(seam);
        match seen.ahead {
            Some(ahead) if seen.at.saturating_duration_since(ahead) < retention => Timestamp::MIN,
            _ => seam.now(),
        }
    }
}
