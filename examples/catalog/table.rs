//! The table that is printed: each figure beside what it must reach.

use std::time::Duration;

/// Times of one kind of call, sorted.
pub struct Times(Vec<Duration>);

impl Times {
    /// Sorts them.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time that so many per cent take at most, in milliseconds.
    fn at(&self, per_cent: usize) -> f64 {
        let index = (self.0.len() * per_cent).div_ceil(100).clamp(1, self.0.len().max(1)) - 1;
        self.0.get(index).copied().unwrap_or_default().as_secs_f64() * 1e3
    }
}

/// One line.
pub struct Row {
    name: String,
    figures: String,
    /// What counts, and what it may be at most.
    counts: f64,
    target: Option<f64>,
    unit: &'static str,
}

impl Row {
    /// Times, of which the 99th hundredth counts; of fewer than a hundred that is the longest.
    pub fn times(name: &str, times: Times, target_ms: Option<f64>) -> Self {
        let count = times.0.len();
        let (min, p50, p99, max) = (times.at(0), times.at(50), times.at(99), times.at(100));
        let figures = format!("{count:>6} {min:>9.2} {p50:>9.2} {p99:>9.2} {max:>9.2}");
        Self { name: name.to_owned(), figures, counts: p99, target: target_ms, unit: "ms" }
    }

    /// Bytes.
    pub fn mib(name: &str, bytes: u64, target: u64) -> Self {
        Self::one(name, bytes as f64 / f64::from(1 << 20), Some(target as f64), "MiB")
    }

    /// Any one figure.
    pub fn one(name: &str, value: f64, target: Option<f64>, unit: &'static str) -> Self {
        let figures = format!("{:>6} {:>9} {:>9} {value:>9.2} {:>9}", "", "", "", "");
        Self { name: name.to_owned(), figures, counts: value, target, unit }
    }
}

/// Prints all lines.
pub fn print(what: &str, rows: &[Row]) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    println!("\n{what}\nload {}\n", load.join(" "));
    println!("{:<34}{:>6} {:>9} {:>9} {:>9} {:>9}  target p99", "", "count", "min", "p50", "p99", "max");
    for Row { name, figures, counts, target, unit } in rows {
        let verdict = match target {
            None => unit.to_string(),
            Some(target) if counts <= target => format!("<= {target} {unit}"),
            Some(target) => format!("<= {target} {unit}  MISSED"),
        };
        println!("{name:<34}{figures}  {verdict}");
    }
}
