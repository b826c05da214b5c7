//! How fast repair goes: so many bytes a second over the whole pool, a quarter of that while clients are at work.

use std::time::Duration;

use tokio::time::Instant;

use crate::coordinator::Coordinator;
use crate::coordinator::tasks::Handle;

/// A put or read that gave a sign of life within this time is under way: each gives one a minute.
const AT_WORK: Duration = Duration::from_secs(90);
/// What repair leaves to clients that are at work: all but one part in so many.
const SHARE: u64 = 4;

/// Spreads bytes over time: whoever waits for its turn keeps others waiting.
#[derive(Debug, Default)]
pub(in crate::coordinator) struct Pace(tokio::sync::Mutex<Option<Instant>>);

impl Pace {
    /// Waits until so many bytes more may be moved, at so many a second as the rate is then, or the task is over.
    pub async fn wait(&self, bytes: u64, rate: impl Fn() -> u64, task: &Handle) {
        let mut free = tokio::select! {
            biased;
            free = self.0.lock() => free,
            () = task.is_to_stop() => return,
        };
        if let Some(then) = *free {
            task.rest_until(then).await;
        }
        let took = Duration::from_secs_f64(bytes as f64 / rate().max(1) as f64);
        *free = Some(Instant::now() + took);
    }
}

impl Coordinator {
    /// Bytes a second that repair moves now.
    pub(super) fn repair_rate(&self) -> u64 {
        let busy = self.leases.is_heard(AT_WORK) || self.reads.is_heard(AT_WORK);
        if busy { self.policy.repair_rate / SHARE } else { self.policy.repair_rate }
    }
}
