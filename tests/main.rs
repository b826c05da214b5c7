//! Tests of the whole, in one binary.

#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

#[cfg(unix)]
mod accounts;
#[cfg(unix)]
mod admin_node;
#[cfg(unix)]
mod adopt;
#[cfg(unix)]
mod again;
#[cfg(unix)]
mod archive;
#[cfg(unix)]
mod backup;
#[cfg(unix)]
mod behind;
mod cli;
#[cfg(unix)]
mod cli_daemon;
#[cfg(unix)]
mod completion;
#[cfg(unix)]
mod concurrency;
mod crashes;
#[cfg(unix)]
mod demo;
#[cfg(unix)]
mod doctor;
#[cfg(unix)]
mod exits;
mod fuzz;
#[cfg(unix)]
mod json;
#[cfg(unix)]
mod kubo_pool;
#[cfg(unix)]
mod kubo_repair;
mod kubo_unixfs;
#[cfg(unix)]
mod lifecycle;
#[cfg(unix)]
mod man;
#[cfg(unix)]
mod matrix_real;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(unix)]
mod node_builtin;
#[cfg(unix)]
mod node_identity;
mod node_kubo;
#[cfg(all(unix, debug_assertions))]
mod node_power;
mod node_probe;
mod node_recorded;
#[cfg(unix)]
mod nodes_see_nothing;
mod pool;
#[cfg(target_os = "linux")]
mod progress;
#[cfg(unix)]
mod readme;
#[cfg(unix)]
mod readme_servers;
#[cfg(unix)]
mod relay;
#[cfg(unix)]
mod rot;
mod sim;
#[cfg(unix)]
mod streams;
mod support;
mod tidy;
#[cfg(unix)]
mod trees;
