//! Weights that make nodes fill in proportion to their capacity. Pure.
//!
//! Drawing R distinct nodes by weight favours small nodes: the large one can be drawn only once. So the weights are not
//! the capacities, but those for which every node's chance to get a chunk is its due share: proportional to its
//! capacity, at most 1 (this caps a capacity at total/R), and within what its zone may hold. The chance follows from the
//! weights by one integral over time, in which arrivals of different nodes are independent; weights are corrected until
//! it is right. Only `+ - * /` on f64, which IEEE 754 defines to the bit, and [`super::log`] are used, so every platform
//! computes the same weights.

use super::log::{FRACTION, neg_log2};

/// Capacities below this part of the largest count as this.
const LEAST: f64 = 1.0 / 1_048_576.0;
/// Weights below this part of the largest count as this.
const LEAST_WEIGHT: f64 = 1.0 / 1_073_741_824.0;
/// No chance is aimed at above this where weights decide: certainty would need an infinite weight.
const CERTAIN: f64 = 1.0 - 1.0 / 4096.0;
/// Corrections end when none changes a weight by more than this part, or after [`ROUNDS`].
const TOLERANCE: f64 = 1e-4;
const ROUNDS: usize = 60;
/// Ratio of consecutive points of time in the integral, and its natural logarithm.
const STEP: f64 = 1.2;
const LN_STEP: f64 = 0.182_321_556_793_954_6;

/// For every node the largest weight over its own, with 32 fractional bits.
pub(super) fn slowness(capacities: &[u64], zone_of: &[usize], replicas: usize) -> Vec<u64> {
    let Some(largest) = capacities.iter().max() else { return Vec::new() };
    let largest = (*largest).max(1) as f64;
    let capacities: Vec<f64> = capacities.iter().map(|bytes| (*bytes as f64 / largest).max(LEAST)).collect();
    let zones = zones(zone_of, replicas.clamp(1, capacities.len()));
    let weights = weights(&capacities, &zones);
    let heaviest = weights.iter().fold(0.0, |most: f64, weight| most.max(*weight));
    let slowness = |weight: &f64| (heaviest / weight.max(heaviest * LEAST_WEIGHT) * 4_294_967_296.0 + 0.5) as u64;
    weights.iter().map(slowness).collect()
}

/// How a chunk's copies fall on zones when all nodes are open.
struct Zones {
    members: Vec<Zone>,
    /// How many zones with [`Zone::more`] get one copy besides [`Zone::sure`].
    extra: usize,
}

struct Zone {
    nodes: Vec<usize>,
    /// Copies that it gets of every chunk.
    sure: usize,
    /// Whether it may get one more.
    more: bool,
}

impl Zone {
    /// The least and the most copies of a chunk to aim at, on average.
    fn bounds(&self) -> (f64, f64) {
        let sure = self.sure as f64;
        if self.more { (sure + 1.0 - CERTAIN, (sure + 1.0) * CERTAIN) } else { (sure, sure) }
    }

    /// The highest chance of one node to aim at.
    fn highest(&self) -> f64 {
        if self.nodes.len() > self.sure { CERTAIN } else { 1.0 }
    }

    /// Whether it may get one copy, and none for sure. Then its nodes share by weight as it is: the chance that one is
    /// the first of them does not depend on when that is. Only the weight of the whole zone needs correction.
    fn shares_one(&self) -> bool {
        self.more && self.sure == 0
    }
}

fn zones(zone_of: &[usize], replicas: usize) -> Zones {
    let count = zone_of.iter().max().map_or(0, |last| last + 1);
    let mut nodes = vec![Vec::new(); count];
    for (at, zone) in zone_of.iter().enumerate() {
        nodes[*zone].push(at);
    }
    let filled = |level: usize| nodes.iter().map(|nodes| nodes.len().min(level)).sum::<usize>();
    let level = (0..=replicas).take_while(|level| filled(*level) <= replicas).last().unwrap_or(0);
    let extra = replicas - filled(level);
    let zone = |nodes: Vec<usize>| Zone { sure: nodes.len().min(level), more: extra > 0 && nodes.len() > level, nodes };
    Zones { extra, members: nodes.iter().cloned().map(zone).collect() }
}

fn weights(capacities: &[f64], zones: &Zones) -> Vec<f64> {
    let due = due(capacities, zones);
    let mut weights: Vec<f64> = due.iter().map(|chance| hazard(*chance)).collect();
    for zone in zones.members.iter().filter(|zone| zone.shares_one()) {
        let whole: f64 = zone.nodes.iter().map(|at| due[*at]).sum();
        for at in &zone.nodes {
            weights[*at] = hazard(whole) * due[*at] / whole;
        }
    }
    for _ in 0..ROUNDS {
        let found = chances(&weights, zones);
        let mut largest: f64 = 0.0;
        for zone in &zones.members {
            let sum = |of: &[f64]| zone.nodes.iter().map(|at| of[*at]).sum::<f64>();
            let (zone_due, zone_found) = (sum(&due), sum(&found));
            let sure = zone.sure as f64;
            let whole = if zone.more { hazard(zone_due - sure) / hazard(zone_found - sure) } else { 1.0 };
            let whole = 1.0 + (whole - 1.0) / (sure + 1.0);
            for at in &zone.nodes {
                let part =
                    if zone.shares_one() { 1.0 } else { hazard(due[*at]) / hazard(found[*at] * zone_due / zone_found) };
                let factor = (whole * part).clamp(0.25, 4.0);
                weights[*at] *= factor;
                largest = largest.max((factor - 1.0).abs());
            }
        }
        let heaviest = weights.iter().fold(0.0, |most: f64, weight| most.max(*weight));
        for weight in &mut weights {
            *weight = (*weight / heaviest).max(LEAST_WEIGHT);
        }
        if largest < TOLERANCE {
            break;
        }
    }
    weights
}

/// The chance of every node to get a chunk that fills all evenly, as far as zones allow. They sum up to R.
fn due(capacities: &[f64], zones: &Zones) -> Vec<f64> {
    let chance = |zone: &Zone, at: usize, scale: f64| (scale * capacities[at]).min(zone.highest());
    let part = |zone: &Zone, scale: f64| zone.nodes.iter().map(|at| chance(zone, *at, scale)).sum::<f64>();
    let bounded = |zone: &Zone, scale: f64| part(zone, scale).clamp(zone.bounds().0, zone.bounds().1);
    let replicas = zones.extra + zones.members.iter().map(|zone| zone.sure).sum::<usize>();
    let all = |scale: f64| zones.members.iter().map(|zone| bounded(zone, scale)).sum::<f64>();
    let scale = rising_to(replicas as f64, all);
    let mut due = vec![0.0; capacities.len()];
    for zone in &zones.members {
        let own = rising_to(bounded(zone, scale), |scale| part(zone, scale));
        for at in &zone.nodes {
            due[*at] = chance(zone, *at, own);
        }
    }
    due
}

/// Where a rising function of a scale reaches a value, by bisection.
fn rising_to(value: f64, function: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 2.0 / LEAST);
    for _ in 0..90 {
        let middle = (low + high) / 2.0;
        if function(middle) < value { low = middle } else { high = middle }
    }
    high
}

/// The chance of every node to be among those that a chunk chooses.
///
/// At the moment a node arrives, it is chosen if fewer of its zone arrived before than the zone's sure copies, or just
/// as many while an extra copy is still to be had: fewer other zones than extra copies have arrivals enough for one.
fn chances(weights: &[f64], zones: &Zones) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    let lightest = weights.iter().fold(f64::INFINITY, |least: f64, weight| least.min(*weight));
    let mut chances = vec![0.0; weights.len()];
    let mut time = 1e-6 / total;
    while time < 50.0 / lightest {
        let alive: Vec<f64> = weights.iter().map(|weight| exp_neg(weight * time)).collect();
        let mut full = Vec::with_capacity(zones.members.len());
        let mut peers = Vec::with_capacity(zones.members.len());
        for zone in &zones.members {
            let arrived: Vec<f64> = zone.nodes.iter().map(|at| 1.0 - alive[*at]).collect();
            let (each, all) = leave_one_out(&arrived, zone.sure);
            full.push(if zone.more { 1.0 - all } else { 0.0 });
            peers.push(each);
        }
        let others = leave_one_out(&full, zones.extra).0;
        for ((zone, peers), others) in zones.members.iter().zip(&peers).zip(&others) {
            let open = if zone.more { others.below } else { 0.0 };
            for (at, peers) in zone.nodes.iter().zip(peers) {
                let density = weights[*at] * time * alive[*at] * LN_STEP;
                chances[*at] += density * (peers.below + peers.exactly * open);
            }
        }
        time *= STEP;
    }
    chances
}

/// Of independent events other than one: the chance that fewer than a limit happen, and that exactly so many do.
struct Others {
    below: f64,
    exactly: f64,
}

/// [`Others`] for each event, and the chance that at most `limit` of all happen.
fn leave_one_out(happens: &[f64], limit: usize) -> (Vec<Others>, f64) {
    let start = || {
        let mut counts = vec![0.0; limit + 1];
        counts[0] = 1.0;
        counts
    };
    let add = |counts: &[f64], chance: f64| -> Vec<f64> {
        let before = |at: usize| if at == 0 { 0.0 } else { counts[at - 1] };
        (0..=limit).map(|at| counts[at] * (1.0 - chance) + before(at) * chance).collect()
    };
    let mut after = vec![start()];
    for chance in happens.iter().rev() {
        let next = add(&after[after.len() - 1], *chance);
        after.push(next);
    }
    let mut before = start();
    let mut others = Vec::with_capacity(happens.len());
    for (at, chance) in happens.iter().enumerate() {
        let rest = &after[happens.len() - 1 - at];
        let together = |sum: usize| (0..=sum).map(|one| before[one] * rest[sum - one]).sum::<f64>();
        others.push(Others { below: (0..limit).map(together).sum(), exactly: together(limit) });
        before = add(&before, *chance);
    }
    (others, before.iter().sum())
}

/// The weight (up to a factor) that alone would give about this chance: `-log2(1 - chance)`.
fn hazard(chance: f64) -> f64 {
    let survives = 1.0 - chance.clamp(LEAST * LEAST_WEIGHT, CERTAIN);
    // A product below 2^64 by at least 2^11, which the conversion cuts to an integer exactly.
    let log = neg_log2((survives * 18_446_744_073_709_549_568.0) as u64);
    log as f64 / (1u64 << FRACTION) as f64
}

/// `e^-x` for x >= 0, by basic operations: a series for x/1024, squared ten times.
fn exp_neg(x: f64) -> f64 {
    if x > 64.0 {
        return 0.0;
    }
    let small = x / 1024.0;
    let mut power = (1..=8).rev().fold(1.0, |sum, at| 1.0 + sum * small / f64::from(at));
    for _ in 0..10 {
        power *= power;
    }
    1.0 / power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_one() {
        for at in 0..6400 {
            let x = f64::from(at) / 100.0;
            assert!((exp_neg(x) / (-x).exp() - 1.0).abs() < 1e-9, "{x}");
        }
    }

    #[test]
    fn chances_become_what_is_due() {
        let cases: [(&[f64], &[usize], usize); 9] = [
            (&[1.0, 1.0, 2.0, 4.0], &[0, 1, 2, 3], 2),
            (&[1.0, 1.0, 2.0, 4.0], &[0, 0, 0, 0], 3),
            (&[1.0, 0.5, 0.25, 0.125, 1.0], &[0, 0, 1, 1, 2], 3),
            (&[1.0, 0.5, 0.25, 0.125, 1.0, 0.3], &[0, 0, 1, 1, 1, 0], 3),
            (&[1.0, 0.9, 0.8, 0.7, 0.6, 0.5], &[0, 0, 0, 1, 1, 1], 3),
            (&[1.0, 0.01, 0.01, 0.01], &[0, 1, 2, 3], 2),
            (&[1.0; 30], &[0; 30], 3),
            (&[1.0, 0.5, 0.4, 0.3, 0.9, 0.8, 0.2, 0.1], &[0, 0, 0, 1, 1, 2, 2, 3], 3),
            (&[1.0, 0.5], &[0, 1], 3),
        ];
        for (capacities, zone_of, replicas) in cases {
            let zones = zones(zone_of, replicas.min(capacities.len()));
            let due = due(capacities, &zones);
            assert!((due.iter().sum::<f64>() - replicas.min(capacities.len()) as f64).abs() < 1e-6, "{due:?}");
            let found = chances(&weights(capacities, &zones), &zones);
            for (due, found) in due.iter().zip(&found) {
                assert!((due - found).abs() < 1e-3 * due, "{capacities:?} {zone_of:?} {replicas}: {due} got {found}");
            }
        }
    }
}
