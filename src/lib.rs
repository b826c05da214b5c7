//! ByteNode: one private, self-healing file store from the storage nodes you already have.
//!
//! # Bird's eye
//!
//! A file is cut into chunks of 1 MiB. Each chunk is sealed under a key made from its content, named by the hash of its
//! stored bytes, and kept in R copies on R different **nodes**: Kubo daemons, built-in nodes, or, for tests, memory.
//! The chunks that one write puts on one node travel as one **pack**. The **coordinator** owns the **catalog** and
//! decides where chunks go, what counts as a copy, and what is repaired; the bytes themselves go straight between client
//! and nodes.
//!
//! ```text
//! put   tree -> chunk -> seal -> descriptors -> coordinator: here already, or pack + node + grant
//!                           \--> packs, to R nodes in parallel -> coordinator: prove, commit in one transaction
//! get   coordinator: manifest, addresses, grants -> any good copy -> prove, unseal -> whole-file hash -> rename
//! ```
//!
//! # Code map
//!
//! From the inside out; nothing refers to what stands below it.
//!
//! | | |
//! |---|---|
//! | [`id`], [`size`], [`path`] | names of things: newtypes, sizes, remote paths |
//! | [`chunk`], [`seal`], [`unixfs`], [`car`], [`pack`], [`grant`] | forms of bytes; pure, with fixed vectors |
//! | [`place`] | which node gets which chunk: a pure function of chunks, nodes and policy |
//! | [`seam`], [`monitor`], [`machine`], [`failpoint`], [`files`] | the seam for time and chance; the way out for progress; who this machine is; where tests end a process; changes of local files |
//! | [`backup`] | the form of a coordinator's backup |
//! | [`node`] | the trait of a storage node, its kinds, and the one suite that all of them pass |
//! | [`catalog`] | SQLite: the only truth about files, chunks, packs, nodes and users |
//! | [`api`], [`admin`], [`client`], [`dial`] | what the coordinator offers, as types and traits; the same over HTTP |
//! | [`tree`], [`mod@put`], [`mod@get`] | what a client does: walk, store, fetch |
//! | [`coordinator`] | uploads, leases, proof, commit, health, repair |
//! | [`config`] | the coordinator's configuration as typed values |
//!
//! Behind the feature `daemon` stand the HTTP servers; the command line is a program of its own in `cli/`. To read the
//! code, begin with [`put::put`], follow a chunk into the coordinator's `uploads` and `commit`, and then read
//! [`get::get`].
//!
//! # What always holds
//!
//! - No wrong bytes are returned: a chunk is proved by its hash or its seal before anything uses it.
//! - A copy counts only once it was proved, and only the coordinator says so.
//! - Nothing is acknowledged below min(R, 2) counted copies of every chunk.
//! - A file is visible whole or not at all: one transaction makes it so.
//! - No counted copy is dropped before its replacement counts; a pack is dropped only in a transaction that sees no
//!   reference to it.
//! - Every queue, retry and wait has a named limit; memory does not grow with what comes from outside.
//! - Secrets are in no log, error or URL.
//!
//! # What is deliberately absent
//!
//! - The library prints nothing, reads no environment and parses no arguments: it reports to a [`monitor::Monitor`].
//! - It takes time, timers and randomness from [`seam::Seam`] alone, so that one seed replays one history.
//! - No clean-up happens in `Drop`: what a crash leaves is found by the sweeper.
//! - Nodes never speak to each other, and none of them holds a key.
//!
//! `examples/quickstart.rs` shows all of it in process, without a network.

#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod api;
pub mod backup;
mod buffers;
pub mod car;
pub mod catalog;
pub mod chunk;
pub mod client;
pub mod config;
pub mod coordinator;
pub mod dial;
pub mod failpoint;
mod file_writer;
pub mod files;
pub mod get;
pub mod grant;
pub mod id;
pub mod machine;
pub mod monitor;
pub mod node;
pub mod pack;
pub mod pack_reader;
pub mod path;
pub mod place;
pub mod put;
pub mod seal;
pub mod seam;
pub mod size;
pub mod space;
pub mod tree;
pub mod unixfs;

#[cfg(feature = "daemon")]
#[path = "../daemon/mod.rs"]
pub mod daemon;
