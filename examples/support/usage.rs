//! What processes used: CPU time and peak memory, from `/proc`. Zero where there is none.

use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Ticks of `/proc/PID/stat` in a second, on every Linux.
const TICKS: f64 = 100.0;

/// CPU seconds that a process has used, and those of the children that it has collected.
pub fn cpu(pid: &str) -> (f64, f64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may itself hold anything, so what follows the last one counts: field 3 is first.
    let fields: Vec<f64> = text
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect())
        .unwrap_or_default();
    let at = |field: usize| fields.get(field - 3).copied().unwrap_or(0.0);
    ((at(14) + at(15)) / TICKS, (at(16) + at(17)) / TICKS)
}

/// The most memory that a process has held since it began or its mark was set back, in bytes.
pub fn peak(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// The memory that a process holds now, in bytes.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// What one command took, and what others used meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// Wall clock.
    pub seconds: f64,
    /// CPU seconds of the command.
    pub client_cpu: f64,
    /// Its peak memory in bytes.
    pub client_peak: u64,
    /// For each of the processes beside it: CPU seconds and peak memory in bytes.
    pub beside: Vec<(f64, u64)>,
}

impl Taken {
    /// Keeps the faster of two.
    pub fn keep_best(self, best: &mut Option<Self>) {
        if best.as_ref().is_none_or(|best| self.seconds < best.seconds) {
            *best = Some(self);
        }
    }
}

/// Runs a command to its end and measures it together with processes beside it.
pub fn measure(command: &mut Command, beside: &[u32]) -> Result<Taken> {
    settle();
    for pid in beside {
        // Sets the peak back (proc(5)); where that is not allowed, the peak is since the start.
        let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
    let before: Vec<f64> = beside.iter().map(|pid| cpu(&pid.to_string()).0).collect();
    let children = cpu("self").1;
    let begun = Instant::now();
    let mut child = command.spawn()?;
    let mut taken = Taken::default();
    let status: ExitStatus = loop {
        taken.client_peak = taken.client_peak.max(peak(child.id()));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    taken.seconds = begun.elapsed().as_secs_f64();
    // Its name alone: its environment holds a token.
    ensure!(status.success(), "{} failed: {status}", command.get_program().to_string_lossy());
    taken.client_cpu = cpu("self").1 - children;
    taken.beside =
        beside.iter().zip(before).map(|(pid, before)| (cpu(&pid.to_string()).0 - before, peak(*pid))).collect();
    Ok(taken)
}

/// Lets the disk finish what others wrote, so that it does not count here.
pub fn settle() {
    #[cfg(unix)]
    rustix::fs::sync();
}
