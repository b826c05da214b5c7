//! The coordinator, put and get together, in process over memory nodes: what must hold.

#![allow(clippy::unwrap_used, reason = "whole modules are tests")]

mod again;
mod answers;
mod backup;
mod calls;
mod charge;
mod faults;
mod health;
mod hedging;
mod hostile;
mod hostile_rows;
mod hostile_size;
mod inputs;
mod life;
mod matrix;
mod names;
mod nodes;
mod plans;
#[cfg(all(unix, debug_assertions))]
mod power;
mod races;
mod reading;
mod removal;
mod repair;
mod resume;
mod scrub;
mod spread;
mod straggling;
mod streaming;
mod tasks;
mod unasked;
