//! The limits of calls to nodes over HTTP: how long each phase may take. Pure.

use std::time::Duration;

/// How long a node may take. None of them is a total: a slow transfer that moves goes on.
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
