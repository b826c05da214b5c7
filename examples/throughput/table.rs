//! The table that is printed.

use std::time::Duration;

use crate::probe::Best;
use crate::tail::{LARGE, SMALL, Times};
use crate::usage::Taken;
use crate::{Args, Results};

const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;

/// Prints everything, with the ratios.
pub fn print(args: &Args, results: &Results) {
    let how = if args.public { "public" } else { "sealed" };
    let size = args.size as f64;
    println!("\n{} MiB, {} {} nodes, {} copies, {how}\n", args.size >> 20, args.nodes, args.kind, args.copies);
    head("MiB/s");
    for (name, taken) in [("put", &results.put), ("get", &results.get), ("cat", &results.cat)] {
        row(name, size / taken.seconds / MIB, size, taken);
    }
    if let Some((put, get)) = &results.small {
        println!("\n{} files of {} bytes", args.small, args.small_size);
        head("files/s");
        let bytes = (args.small * args.small_size) as f64;
        row("put", args.small as f64 / put.seconds, bytes, put);
        row("get", args.small as f64 / get.seconds, bytes, get);
    }
    if let Some((well, stopped)) = &results.tail {
        tail(well, stopped);
    }
    bounds(args, results);
    ratios(args, results);
}

fn head(unit: &str) {
    println!("{:<12}{unit:>9}  {:^26}  {:^26}", "", "CPU s/GiB", "peak MiB");
    println!(
        "{:<12}{:>9}  {:>8} {:>8} {:>8}  {:>8} {:>8} {:>8}",
        "", "", "client", "coord.", "nodes", "client", "coord.", "node"
    );
}

fn row(name: &str, rate: f64, bytes: f64, taken: &Taken) {
    let per_gib = |seconds: f64| seconds * GIB / bytes;
    let coordinator = taken.beside.first().copied().unwrap_or_default();
    let nodes = taken.beside.get(1..).unwrap_or_default();
    let nodes_cpu: f64 = nodes.iter().map(|(cpu, _)| cpu).sum();
    let node_peak = nodes.iter().map(|(_, peak)| *peak).max().unwrap_or(0);
    println!(
        "{name:<12}{rate:>9.0}  {:>8.2} {:>8.2} {:>8.2}  {:>8.0} {:>8.0} {:>8.0}",
        per_gib(taken.client_cpu),
        per_gib(coordinator.0),
        per_gib(nodes_cpu),
        taken.client_peak as f64 / MIB,
        coordinator.1 as f64 / MIB,
        node_peak as f64 / MIB,
    );
}

fn tail(well: &Times, stopped: &Times) {
    println!("\n{:<24}{:>20}{:>24}", "ms, p50 and p99", "all nodes well", "one node stopped");
    for (name, well, stopped) in [
        (format!("cat, {} MiB", LARGE >> 20), &well.large, &stopped.large),
        (format!("cat, {SMALL} bytes"), &well.small, &stopped.small),
    ] {
        let at = |times: &[Duration], part: usize| {
            let at = (times.len() * part / 100).min(times.len().saturating_sub(1));
            times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        let (a, b, c, d) = (at(well, 50), at(well, 99), at(stopped, 50), at(stopped, 99));
        println!("{name:<24}{a:>10.0}{b:>10.0}{c:>14.0}{d:>10.0}    p99 x {:.2}, + {:.0}", d / b, d - b);
    }
}

fn bounds(args: &Args, results: &Results) {
    println!("\nWhat bounds it");
    println!("{:<24}{:>9.0} MiB/s", "disk, fdatasync", results.disk / MIB);
    let best = |name: &str, best: &Best| {
        let Best { rate, at_once, pack, cpu_per_gib, nodes_cpu_per_gib } = best;
        let rate = rate / MIB;
        let cpu = format!("CPU s/GiB {cpu_per_gib:.2}, nodes {nodes_cpu_per_gib:.2}");
        println!("{name:<24}{rate:>9.0} MiB/s  {at_once:>2} at once, packs of {pack:>3}, {cpu}");
    };
    if let Some((write, read)) = &results.probe {
        best("probe write", write);
        best("probe read", read);
    }
    if let Some((write, read)) = &results.small_probe {
        best("probe write, small", write);
        best("probe read, small", read);
    }
    if let Some((add, cat)) = &results.ipfs {
        let rate = |taken: &Taken| args.size as f64 / taken.seconds / MIB;
        println!("{:<24}{:>9.0} MiB/s  one copy", "ipfs add", rate(add));
        println!("{:<24}{:>9.0} MiB/s", "ipfs cat", rate(cat));
    }
    let (put, get) = results.passes;
    println!("{:<24}{put:>9.2} CPU s/GiB for put, {get:.2} for get", "hash and AEAD alone");
}

fn ratios(args: &Args, results: &Results) {
    println!("\nRatios");
    let size = args.size as f64;
    let rate = |taken: &Taken| size / taken.seconds;
    let show = |name: &str, ratio: f64| println!("{name:<44}{ratio:>7.2}");
    if let Some((write, read)) = &results.probe {
        let disk = results.disk / f64::from(args.copies);
        show("put / probe", rate(&results.put) / write.rate);
        show("put / min(probe, disk / copies)", rate(&results.put) / write.rate.min(disk));
        show("cat / probe", rate(&results.cat) / read.rate);
        show("get / probe", rate(&results.get) / read.rate);
        show("get / min(probe, disk)", rate(&results.get) / read.rate.min(results.disk));
        let cpu = |taken: &Taken| taken.client_cpu * GIB / size;
        show("put client CPU / (passes + probe)", cpu(&results.put) / (results.passes.0 + write.cpu_per_gib));
        show("cat client CPU / (passes + probe)", cpu(&results.cat) / (results.passes.1 + read.cpu_per_gib));
    }
    if let Some((add, cat)) = &results.ipfs {
        show("put / ipfs add", rate(&results.put) / rate(add));
        show("cat / ipfs cat", rate(&results.cat) / rate(cat));
    }
    if let (Some((put, get)), Some((write, read))) = (&results.small, &results.small_probe) {
        let bytes = (args.small * args.small_size) as f64;
        show("small put / probe", bytes / put.seconds / write.rate);
        show("small get / probe", bytes / get.seconds / read.rate);
    }
}
