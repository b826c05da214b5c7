//! Since when a Kubo runs. A stock one does not sync what it is given: what came shortly before it was started again may
//! have a name and no bytes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::HttpNode;
use crate::api::NodeKind;

/// The metric of Go's process collector: seconds since 1970 UTC, by the node's clock.
const METRIC: &str = "process_start_time_seconds ";
/// The most bytes of a page of metrics that are read.
const MAX_BYTES: usize = 8 << 20;
/// How long an answer is good for, while the node answers.
const GOOD_FOR: Duration = Duration::from_secs(10);

/// What was answered last.
#[derive(Debug, Default)]
pub(super) struct Started(Mutex<Option<(Instant, Timestamp)>>);

impl Started {
    /// The node did not answer: it may have been started again.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl HttpNode {
    /// Since when it runs; nothing where it does not tell, or syncs what it is given.
    pub(super) async fn running_since(&self) -> Option<Timestamp> {
        if self.kind != NodeKind::Kubo {
            return None;
        }
        let known = *self.started.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, started)) = known.filter(|(at, _)| at.elapsed() < GOOD_FOR) {
            return Some(started);
        }
        let page = self.page("/debug/metrics/prometheus", MAX_BYTES).await.ok()?;
        let started = parse(&String::from_utf8_lossy(&page))?;
        *self.started.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), started));
        Some(started)
    }
}

fn parse(page: &str) -> Option<Timestamp> {
    let seconds: f64 = page.lines().find_map(|line| line.strip_prefix(METRIC))?.trim().parse().ok()?;
    let since = SignedDuration::try_from_secs_f64(seconds).ok()?;
    Timestamp::UNIX_EPOCH.checked_add(since).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_from_a_page_of_metrics() {
        let page = "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.76432161425e+09\nother 1\n";
        assert_eq!(parse(page).unwrap().as_millisecond(), 1_764_321_614_250);
        for wrong in ["", "process_start_time_seconds x", "process_start_time_seconds 1e300"] {
            assert_eq!(parse(wrong), None);
        }
    }
}
