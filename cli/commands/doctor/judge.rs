//! What is fine, a risk or a failure. Pure: numbers and names in, findings out.

use bytenode::admin::{CatalogDisk, CheckResult, NodeCheck, NodeInfo, NodeState, Status, Verdict};
use bytenode::api::NodeKind;
use bytenode::node::probe::{OLD_KUBO_HINT, is_usable_kubo};

use super::finding::{Finding, Weight};
use crate::ui::text::{plural, size};

/// Clocks that differ by so much are a risk, in milliseconds.
const SKEWED_MS: u64 = 60_000;
/// From here on grants are refused, which are dated.
const REFUSED_MS: u64 = 300_000;
/// A disk with less is about to stop the coordinator.
const FULL_BYTES: u64 = 256 << 20;
/// A disk should have so much, or twice the catalog: one that is brought up to date is copied aside first.
const ROOM_BYTES: u64 = 1 << 30;
/// A node is nearly full when more than this of it is used, in percent.
const NEARLY_FULL: u64 = 90;
/// Files that a process should be able to open at once.
const OPEN_FILES: u64 = 1024;

/// How to set a clock.
const NTP: &str = "timedatectl set-ntp true";

/// Whether both sides are of one version.
pub fn version(own: &str, coordinator: &str) -> Finding {
    let coordinator = coordinator.trim_start_matches("bytenode ");
    if own == coordinator {
        return Finding::ok("version", format!("{own}, here and there"));
    }
    let message = format!("the coordinator runs {coordinator}, this is {own}");
    Finding::risk("version", message, "upgrade the older of the two, then: bytenode up")
}

/// Whether what a node runs fits; nothing where it has not said.
pub fn node_version(node: &NodeInfo, coordinator: &str, started_here: bool) -> Option<Finding> {
    let told = node.version.as_deref()?;
    let coordinator = coordinator.trim_start_matches("bytenode ");
    Some(match node.kind {
        NodeKind::Kubo => match is_usable_kubo(told.trim_start_matches("kubo ")) {
            Some(true) => Finding::ok("version", told),
            Some(false) => Finding::failed("version", format!("{told} is older than 0.33"), OLD_KUBO_HINT),
            None => Finding::risk("version", format!("it runs {told:?}, which is no version"), OLD_KUBO_HINT),
        },
        NodeKind::Builtin => {
            let told = told.trim_start_matches("bytenode ");
            let hint = match started_here {
                true => "bytenode up".to_owned(),
                false => format!("install {coordinator} on its machine, and restart its bytenoded node"),
            };
            match told == coordinator {
                true => Finding::ok("version", told),
                false => Finding::risk("version", format!("it runs {told}, the coordinator {coordinator}"), hint),
            }
        }
        _ => return None,
    })
}

/// How far a clock is off that was seen ahead by so much, give or take.
fn clock(ahead_ms: i64, unsure_ms: u64) -> (Weight, String) {
    let off = ahead_ms.unsigned_abs().saturating_sub(unsure_ms);
    let way = if ahead_ms < 0 { "behind" } else { "ahead of" };
    match off {
        REFUSED_MS.. => (Weight::Failed, format!("{} {way}", span(off))),
        SKEWED_MS.. => (Weight::Risk, format!("{} {way}", span(off))),
        _ => (Weight::Ok, format!("within {} s", off / 1000 + 1)),
    }
}

fn span(ms: u64) -> String {
    match ms / 1000 {
        seconds @ ..120 => plural(seconds, "second"),
        seconds @ 120..7200 => plural(seconds / 60, "minute"),
        seconds @ 7200..172_800 => plural(seconds / 3600, "hour"),
        seconds => plural(seconds / 86_400, "day"),
    }
}

/// Whether this machine's clock and the coordinator's agree.
pub fn own_clock(coordinator_ahead_ms: i64, unsure_ms: u64) -> Finding {
    let (weight, off) = clock(coordinator_ahead_ms.saturating_neg(), unsure_ms);
    match weight {
        Weight::Ok => Finding::ok("clock", format!("{off} of the coordinator's")),
        _ => Finding::ok("clock", format!("this machine's clock is {off} the coordinator's"))
            .weighing(weight, Some(format!("on both machines: {NTP}"))),
    }
}

/// Whether a node's clock and the coordinator's agree; nothing where it does not tell.
pub fn node_clock(node: &NodeInfo) -> Option<Finding> {
    // It tells whole seconds.
    let (weight, off) = clock(node.clock_skew_ms?, 500);
    Some(match weight {
        Weight::Ok => Finding::ok("clock", format!("clock {off}")),
        _ => {
            let refused = if weight == Weight::Failed { "; what is permitted by date is refused" } else { "" };
            let message = format!("its clock is {off} the coordinator's{refused}");
            Finding::ok("clock", message).weighing(weight, Some(format!("on its machine, or the coordinator's: {NTP}")))
        }
    })
}

/// Whether the catalog has room to grow, to be copied aside and to be backed up.
pub fn catalog_disk(disk: &CatalogDisk, dir: Option<&str>) -> Finding {
    let (free, catalog) = (disk.free_bytes, disk.catalog_bytes);
    let message = format!("{} free; the catalog has {}", size(free), size(catalog));
    let hint = match dir {
        Some(dir) => format!("make room on the disk of {dir}; what fills it: du -xh {dir} | sort -h | tail"),
        None => "make room on the disk of the coordinator's data directory (bytenoded --data)".to_owned(),
    };
    let needed = ROOM_BYTES.max(catalog.saturating_mul(2));
    match free {
        ..FULL_BYTES => Finding::failed("catalog disk", message, hint),
        free if free < needed => {
            Finding::risk("catalog disk", format!("{message}; an upgrade or a backup needs {}", size(needed)), hint)
        }
        _ => Finding::ok("catalog disk", message),
    }
}

/// Whether there are enough nodes, in more than one place, with room.
pub fn pool(status: &Status) -> Vec<Finding> {
    let (nodes, copies) = (status.nodes.len() as u64, u64::from(status.replicas));
    let message = format!("{nodes} for {copies} copies each");
    if nodes < copies {
        return vec![Finding::failed("nodes", message, "bytenode admin node add URL")];
    }
    let zones = status.nodes.iter().map(|node| node.zone.as_str()).collect::<std::collections::BTreeSet<_>>().len();
    let zones = match zones {
        1 => {
            let hint = "add nodes on other machines: bytenode admin node add URL";
            Finding::risk("zones", "all nodes share one machine, and its fate", hint)
        }
        _ => Finding::ok("zones", format!("nodes in {zones} places")),
    };
    let usable = status.usable_bytes;
    let add = "bytenode admin node add URL, or remove files";
    let online = status.nodes.iter().filter(|node| node.state == NodeState::Online).count() as u64;
    let room = match usable {
        _ if online < copies => {
            let message = format!("{} take new chunks now, and {copies} copies need {copies}", plural(online, "node"));
            Finding::failed("room", message, "mend those below, or add one: bytenode admin node add URL")
        }
        0 => Finding::failed("room", format!("nothing more can be stored at {copies} copies"), add),
        _ if usable < usable.saturating_add(status.bytes) / 10 => {
            Finding::risk("room", format!("only {} more can be stored at {copies} copies", size(usable)), add)
        }
        _ => Finding::ok("room", format!("{} more at {copies} copies each", size(usable))),
    };
    vec![Finding::ok("nodes", message), zones, room]
}

/// How a node is, as the coordinator sees it. `mend` is the command for one that does not answer.
pub fn state(node: &NodeInfo, mend: &str) -> Finding {
    let bad = |weight, what: &str| Finding::ok("node", what).weighing(weight, Some(mend.to_owned()));
    match node.state {
        NodeState::Online => Finding::ok("node", "online"),
        NodeState::Draining => Finding::ok("node", "draining"),
        NodeState::Full => {
            Finding::risk("node", "full", "bytenode admin node add URL (another), or make room on its disk")
        }
        NodeState::Suspect if node.failure.is_none() => {
            bad(Weight::Risk, "gets nothing new: it comes and goes, or its clock is wrong")
        }
        NodeState::Suspect => bad(Weight::Risk, "has not answered the coordinator for a moment"),
        NodeState::Offline => bad(Weight::Failed, "does not answer the coordinator"),
    }
}

/// Whether a node has room left: by its share of the pool, and on its disk.
pub fn node_room(node: &NodeInfo) -> Option<Finding> {
    if node.state == NodeState::Full || node.capacity_bytes == 0 {
        return None;
    }
    let left = node.capacity_bytes.saturating_sub(node.used_bytes);
    let left = left.min(node.free_bytes.unwrap_or(u64::MAX));
    let used = u128::from(node.capacity_bytes - left) * 100 / u128::from(node.capacity_bytes);
    let used = u64::try_from(used).unwrap_or(100);
    Some(match used {
        ..=NEARLY_FULL => Finding::ok("room", format!("{used}% full")),
        _ => {
            let message = format!("{used}% full: it takes {} more of {}", size(left), size(node.capacity_bytes));
            Finding::risk("room", message, "bytenode admin node add URL (another), or make room on its disk")
        }
    })
}

/// What can go wrong on a node, without what is known of it otherwise.
pub fn risks(checks: &[NodeCheck]) -> Vec<Finding> {
    let told = |check: &&NodeCheck| check.result != CheckResult::Ok && check.check != "version";
    let found: Vec<Finding> = checks
        .iter()
        .filter(told)
        .map(|check| {
            let weight = if check.result == CheckResult::Risk { Weight::Risk } else { Weight::Failed };
            Finding::ok(&check.check, &check.message).weighing(weight, check.hint.clone())
        })
        .collect();
    match (found.is_empty(), checks.is_empty()) {
        (true, false) => vec![Finding::ok("risks", "no risk found")],
        _ => found,
    }
}

/// Whether every chunk has its copies.
pub fn copies(status: &Status) -> Finding {
    match status.verdict {
        Verdict::Healthy => Finding::ok("copies", "every chunk has its copies"),
        _ => {
            let message = match status.under_replicated {
                0 => "none is known to be missing, but not every node could be asked".to_owned(),
                under => format!("{} with too few", plural(under, "chunk")),
            };
            Finding::failed("copies", message, "bytenode admin health")
        }
    }
}

/// Whether a command can open as many files as a get of small ones does.
pub fn open_files(limit: Option<u64>) -> Finding {
    match limit {
        Some(limit @ ..OPEN_FILES) => {
            let message = format!("at most {limit} at once, which many small files exceed");
            Finding::risk("open files", message, "ulimit -n 4096")
        }
        Some(limit) => Finding::ok("open files", format!("{limit} at once")),
        None => Finding::ok("open files", "any number at once"),
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
