//! What is printed: a line for each figure, with what it must reach in brackets.

use crate::Args;

/// Bytes of a MiB.
pub const MIB: f64 = (1 << 20) as f64;
/// Bytes of a GiB.
pub const GIB: f64 = (1 << 30) as f64;

/// What a figure must reach.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
}

/// Says what the figures are of.
pub fn head(args: &Args) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    println!("{} {} nodes, {} copies; load before {}", args.nodes, args.kind, args.copies, load.join(" "));
}

/// Begins a part.
pub fn part(what: &str) {
    println!("\n{what}");
}

/// One figure that is only told.
pub fn told(name: &str, value: f64, unit: &str) {
    println!("  {name:<34}{value:>10.2} {unit}");
}

/// One figure that must reach something.
pub fn aimed(name: &str, value: f64, unit: &str, target: Target) {
    let (sign, bound, reached) = match target {
        Target::AtLeast(bound) => (">=", bound, value >= bound),
        Target::AtMost(bound) => ("<=", bound, value <= bound),
    };
    let missed = if reached { "" } else { ", missed" };
    println!("  {name:<34}{value:>10.2} {unit:<8} [{sign} {bound}{missed}]");
}
