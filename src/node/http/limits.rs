//! The limits of calls to nodes over HTTP: how long each phase may take. Pure.

use std::time::Duration;

/// Lines a second that a listing must bring on average, far below what any store gives: Kubo lists 360,000.
const LISTED_A_SECOND: u64 = 100;
/// The longest that a listing may take, however many lines it brings. For 10 million chunks that is 2,800 a
/// second.
const LONGEST_LISTING: Duration = Duration::from_secs(3600);

/// How long a node may take. None of them is a total, but for listings: a slow transfer that
/// moves goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until a connection stands, TLS and name lookup included.
    pub connect: Duration,
    /// From the end of the request to the head of the answer.
    pub first_byte: Duration,
    /// From one byte to the next, in either direction.
    pub progress: Duration,
    /// For protecting a pack: so much,
    pub pin: Duration,
    /// and so much more for every MiB that the node must read.
    pub pin_per_mib: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(10),
            progress: Duration::from_secs(20),
            pin: Duration::from_secs(30),
            pin_per_mib: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// For protecting a pack of so many bytes of chunks.
    pub fn pinning(&self, bytes: u64) -> Duration {
        let mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        self.pin.saturating_add(self.pin_per_mib.saturating_mul(mib))
    }

    /// For a listing that has brought so many lines: three times without progress, and time for each line.
    pub(super) fn listing(&self, lines: u64) -> Duration {
        let for_lines = Duration::from_millis(lines.saturating_mul(1000 / LISTED_A_SECOND));
        self.progress.saturating_mul(3).saturating_add(for_lines).min(LONGEST_LISTING)
    }

    /// From the last byte of an upload to the head of the answer: what was handed to the system may still be on its way,
    /// and the node commits what it took, so the limit is the one for progress.
    pub const fn after_upload(&self) -> Duration {
        self.progress
    }
}

/// A limit in whole seconds for messages, at least one.
pub(super) fn seconds(limit: Duration) -> u64 {
    limit.as_secs_f64().ceil().max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_has_time_by_what_it_brings_and_never_more_than_an_hour() {
        let limits = Limits::default();
        assert_eq!(limits.listing(0), Duration::from_secs(60));
        assert_eq!(limits.listing(104_000), Duration::from_secs(1100));
        assert_eq!(limits.listing(u64::MAX), Duration::from_secs(3600));
    }
}
