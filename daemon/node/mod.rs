//! The built-in node's HTTP face: the part of Kubo's interface that ByteNode uses, so that one client drives both.
//!
//! Invariants: everything but identity, version and joining needs a grant of the coordinator that the node has joined;
//! every wait has a limit and everything held for a client has a bound ([`NodeLimits`]); file work is off the async
//! threads. Differences from Kubo: `dag/import` protects what it writes and adds a line with a signed receipt; `pin/add`
//! only tells whether the pack is held; free space is told less the reserve; reads never leave the node.

mod face;
mod gateway;
mod import;
mod join;
mod rpc;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;

use super::accept::{ConnectionLimits, accept};
use crate::node::builtin::disk::Disk;
use crate::node::builtin::identity::{Identity, Reset};
use crate::node::builtin::local_disk::LocalDisk;
use crate::node::builtin::{Store, StoreLimits};
use crate::seam::Seam;
use face::{Face, SharedFace};

/// The most of a request that is held before it is asked for, in bytes.
const BUFFER_BYTES: usize = 256 << 10;

/// How to run a node.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Its data directory.
    pub data: PathBuf,
    /// The most bytes that packs may use; nothing for what the disk has.
    pub capacity_bytes: Option<u64>,
    /// A name for people.
    pub name: Option<String>,
    /// Forget the pool and make a new join code.
    pub reset_join: bool,
    /// Serve on an address that is not loopback, without TLS.
    pub insecure_http: bool,
}

/// The bounds of what clients can hold and how long they can wait.
#[derive(Debug, Clone, Copy)]
pub struct NodeLimits {
    /// For the head of a request, and for an idle connection.
    pub head: Duration,
    /// For the next byte of a body, in either direction.
    pub progress: Duration,
    /// For a turn to write or read.
    pub turn: Duration,
    /// For requests under way when the node is stopped.
    pub stop: Duration,
    /// Connections at a time.
    pub connections: usize,
    /// Packs that are written at a time.
    pub writes: usize,
    /// Memory for chunks on their way out, in bytes.
    pub read_bytes: usize,
    /// Failed tries to join in a minute.
    pub join_tries: usize,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            progress: Duration::from_secs(20),
            turn: Duration::from_secs(10),
            stop: Duration::from_secs(30),
            connections: 512,
            writes: 16,
            read_bytes: 128 << 20,
            join_tries: 5,
        }
    }
}

/// Runs a node on a socket until `shutdown` is done, then lets requests under way end.
///
/// # Errors
/// When the socket is not loopback and that was not allowed, or the data directory cannot be used: another process has
/// it, the disk fails, or its state is damaged.
pub async fn run(
    listener: TcpListener,
    options: NodeOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    check_address(listener.local_addr()?, &options)?;
    let data = options.data.clone();
    let disk = Seam::real()
        .offload(move || LocalDisk::open(&data))
        .await
        .with_context(|| format!("cannot use the data directory {}", options.data.display()))?;
    run_on(Arc::new(disk), listener, options, NodeLimits::default(), shutdown).await
}

/// Runs a node on any disk, within any limits. Otherwise as [`run`], without its check of the address.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    disk: Arc<dyn Disk>,
    listener: TcpListener,
    options: NodeOptions,
    limits: NodeLimits,
    shutdown: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let seam = Seam::real();
    let face = seam.offload(move || open(disk, options, limits)).await?;
    let allowed = ConnectionLimits {
        connections: limits.connections,
        head: limits.head,
        progress: limits.progress,
        buffer_bytes: BUFFER_BYTES,
    };
    let mut open = accept(listener, routes(face), allowed, shutdown).await;
    if tokio::time::timeout(limits.stop, async { while open.join_next().await.is_some() {} }).await.is_err() {
        tracing::warn!(connections = open.len(), "requests under way are cut");
        open.shutdown().await;
    }
    Ok(())
}

fn check_address(address: SocketAddr, options: &NodeOptions) -> anyhow::Result<()> {
    anyhow::ensure!(
        address.ip().is_loopback() || options.insecure_http,
        "{address} is not a loopback address; without TLS that needs --insecure-http"
    );
    Ok(())
}

fn open(disk: Arc<dyn Disk>, options: NodeOptions, limits: NodeLimits) -> anyhow::Result<SharedFace> {
    let seam = Seam::real();
    let reset = if options.reset_join { Reset::Forget } else { Reset::Keep };
    let bounds = StoreLimits { capacity_bytes: options.capacity_bytes, ..StoreLimits::default() };
    let (store, report) = Store::open(Arc::clone(&disk), bounds).context("cannot open the node's store")?;
    let identity = Identity::open(disk, &seam, reset).context("cannot open the node's identity")?;
    tracing::info!(id = %identity.id(), packs = report.packs, "node opened");
    if report.unreadable > 0 {
        let packs = report.unreadable;
        tracing::error!(
            packs,
            "the disk cannot read the beginning of some packs: copies elsewhere stand in, replace the disk"
        );
    }
    if report.set_aside > 0 {
        tracing::warn!(files = report.set_aside, "foreign or damaged files were set aside, under aside/");
    }
    if identity.pool().is_none() {
        tracing::info!("the node has joined no pool; its one-time join code is in join.code of its data directory");
    }
    Ok(Arc::new(Face::new(store, report, identity, options.name, seam, limits)))
}

fn routes(face: SharedFace) -> Router {
    Router::new()
        .route("/api/v0/id", post(rpc::id))
        .route("/api/v0/version", post(rpc::version))
        .route("/api/v0/dag/import", post(import::import))
        .route("/api/v0/pin/add", post(rpc::pin_add))
        .route("/api/v0/pin/ls", post(rpc::pin_ls))
        .route("/api/v0/pin/rm", post(rpc::pin_rm))
        .route("/api/v0/pin/update", post(rpc::pin_update))
        .route("/api/v0/refs/local", post(rpc::refs_local))
        .route("/api/v0/repo/stat", post(rpc::repo_stat))
        .route("/api/v0/repo/gc", post(rpc::repo_gc))
        .route("/api/v0/diag/sys", post(rpc::diag_sys))
        .route("/api/v0/bytenode/join", post(join::join))
        .route("/api/v0/bytenode/hello", post(join::hello))
        .route("/api/v0/bytenode/seen", post(join::seen))
        .route("/ipfs/{cid}", get(gateway::read))
        .with_state(face)
}
