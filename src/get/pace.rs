//! How fast reads are: what tells a read that is late from one that is merely large, and which nodes have hung.
//!
//! A read that is late is asked of another node too (a hedged request: Dean and Barroso, The Tail at Scale, 2013), and the
//! first answer counts. Such requests are a bounded share of all.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::id::NodeId;

/// Reads whose times are remembered.
const SAMPLES: usize = 64;
/// Reads without which nothing is known of the pace.
const ENOUGH: usize = 4;
/// While nothing is known, a read is late after this time and that of its bytes at [`SLOW_LINE`].
const UNKNOWN: Duration = Duration::from_millis(80);
/// Bytes a second of a line that is still taken to be well.
const SLOW_LINE: f64 = (4 << 20) as f64;
/// No read is late before this.
const SOON: Duration = Duration::from_millis(50);
/// A read is late when it takes so many times as long as nine of ten did.
const TIMES: u32 = 2;
/// Hedges that may be sent one after the other, in whole numbers of requests.
const BURST: u32 = 8;
/// Reads that end for each hedge that may be sent besides.
const EACH: u32 = 10;
/// How long a node that a hedge overtook is asked after the others, and how long it counts what a read took.
const RESTS: Duration = Duration::from_secs(10);

/// The pace of one get.
#[derive(Debug)]
pub(super) struct Pace {
    times: VecDeque<Duration>,
    /// Hedges that may be sent, in parts of [`EACH`].
    hedges: u32,
    nodes: BTreeMap<NodeId, Load>,
}

/// What is asked of a node.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    reads: u32,
    /// What a read took lately, a moving average, and when this was last seen.
    usual: Option<(Duration, Instant)>,
    rests_until: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { times: VecDeque::with_capacity(SAMPLES), hedges: BURST * EACH, nodes: BTreeMap::new() }
    }
}

impl Pace {
    /// When a read of so many bytes is late.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        if self.times.len() < ENOUGH {
            return UNKNOWN + Duration::from_secs_f64(bytes as f64 / SLOW_LINE);
        }
        let mut times: Vec<Duration> = self.times.iter().copied().collect();
        let (_, of_most, _) = times.select_nth_unstable(self.times.len() * 9 / 10);
        (*of_most * TIMES).max(SOON)
    }

    /// Whether one more request may be sent beside another; if so, it is counted.
    pub(super) fn may_hedge(&mut self) -> bool {
        let may = self.hedges >= EACH;
        if may {
            self.hedges -= EACH;
        }
        may
    }

    /// How much a node is to be avoided: one that rests more than any other, else by how long it will take for what is
    /// asked of it already and one more; of those of which this is not known, by what is asked of them.
    pub(super) fn load(&self, node: &NodeId, now: Instant) -> (bool, Duration, u32) {
        let load = self.nodes.get(node).copied().unwrap_or_default();
        let usual = load.usual.filter(|(_, seen)| now < *seen + RESTS).map_or(Duration::ZERO, |(usual, _)| usual);
        (load.rests_until.is_some_and(|until| now < until), usual * (load.reads + 1), load.reads)
    }

    pub(super) fn begin(&mut self, node: &NodeId) {
        self.nodes.entry(node.clone()).or_default().reads += 1;
    }

    /// Ends what [`Self::begin`] began, with or without an answer.
    pub(super) fn end(&mut self, node: &NodeId) {
        if let Some(load) = self.nodes.get_mut(node) {
            load.reads = load.reads.saturating_sub(1);
        }
    }

    /// A node gave a chunk, after this time.
    pub(super) fn answered(&mut self, node: &NodeId, took: Duration, now: Instant) {
        if self.times.len() == SAMPLES {
            self.times.pop_front();
        }
        self.times.push_back(took);
        self.hedges = (self.hedges + 1).min(BURST * EACH);
        let load = self.nodes.entry(node.clone()).or_default();
        load.rests_until = None;
        let usual = load.usual.map_or(took, |(usual, _)| (usual * 3 + took) / 4);
        load.usual = Some((usual, now));
    }

    /// A node was overtaken by one that was asked later.
    pub(super) fn overtaken(&mut self, node: &NodeId, now: Instant) {
        self.nodes.entry(node.clone()).or_default().rests_until = Some(now + RESTS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn answer(pace: &mut Pace, name: &str, times: usize, took: Duration) {
        (0..times).for_each(|_| pace.answered(&node(name), took, Instant::now()));
    }

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn a_read_is_late_by_its_size_until_the_pace_is_known_and_then_by_the_pace() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(0), UNKNOWN);
        assert_eq!(pace.patience(MIB), Duration::from_millis(330));
        answer(&mut pace, "a", ENOUGH, Duration::from_millis(40));
        assert_eq!(pace.patience(MIB), Duration::from_millis(80));
        // What is as quick as it can be is not late at once.
        answer(&mut pace, "a", SAMPLES, Duration::from_millis(1));
        assert_eq!(pace.patience(MIB), SOON);
        // A slow line is no reason to ask twice.
        answer(&mut pace, "a", SAMPLES, Duration::from_secs(3));
        assert_eq!(pace.patience(MIB), Duration::from_secs(6));
        assert_eq!(pace.times.len(), SAMPLES);
    }

    #[test]
    fn one_that_is_late_among_many_does_not_make_the_others_wait() {
        let mut pace = Pace::default();
        answer(&mut pace, "a", 60, Duration::from_millis(40));
        answer(&mut pace, "b", 4, Duration::from_secs(9));
        assert_eq!(pace.patience(MIB), Duration::from_millis(80));
    }

    #[test]
    fn hedges_are_a_tenth_of_all_requests_after_the_first_few() {
        let mut pace = Pace::default();
        assert_eq!((0..100).filter(|_| pace.may_hedge()).count(), BURST as usize);
        let mut sent = 0;
        for _ in 0..1000 {
            answer(&mut pace, "a", 1, SOON);
            sent += usize::from(pace.may_hedge());
        }
        assert_eq!(sent, 100);
        // They are not saved up.
        answer(&mut pace, "a", 1000, SOON);
        assert_eq!((0..100).filter(|_| pace.may_hedge()).count(), BURST as usize);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_overtaken_rests_until_it_answers_or_time_is_over() {
        let (mut pace, a, now) = (Pace::default(), node("a"), Instant::now());
        pace.begin(&a);
        assert_eq!(pace.load(&a, now), (false, Duration::ZERO, 1));
        pace.overtaken(&a, now);
        pace.end(&a);
        assert_eq!(pace.load(&a, now), (true, Duration::ZERO, 0));
        assert_eq!(pace.load(&a, now + RESTS), (false, Duration::ZERO, 0));
        pace.answered(&a, SOON, now);
        assert_eq!(pace.load(&a, now), (false, SOON, 0));
        assert_eq!(pace.load(&node("b"), now), (false, Duration::ZERO, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_of_a_node_is_weighed_by_what_a_read_of_it_takes() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        answer(&mut pace, "slow", 1, Duration::from_millis(40));
        answer(&mut pace, "fast", 1, Duration::from_millis(10));
        (0..2).for_each(|_| pace.begin(&node("fast")));
        assert!(pace.load(&node("fast"), now) < pace.load(&node("slow"), now));
        (0..2).for_each(|_| pace.begin(&node("fast")));
        assert!(pace.load(&node("fast"), now) > pace.load(&node("slow"), now));
        // What it was long ago says nothing.
        assert!(pace.load(&node("slow"), now + RESTS) < pace.load(&node("fast"), now + RESTS));
    }
}
