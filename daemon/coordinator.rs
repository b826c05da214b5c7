//! Runs a coordinator: opens its data directory, serves its API, and keeps the pool in order in the background.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;

use super::connect::HttpConnect;
use super::relay::{RelayLimits, routes};
use super::restore::UNFINISHED;
use super::server::{ServerLimits, serve};
use crate::catalog::Catalog;
use crate::config::Schedule;
use crate::coordinator::keys::{Keys, check_mode, write_secret};
use crate::coordinator::{Coordinator, Parts, Policy, Until};
use crate::machine::{self, lock_alone};
use crate::node::http::Limits;
use crate::seam::Seam;

/// How long a start waits for nodes to answer, before it serves without those that hang.
const GREET: Duration = Duration::from_secs(3);
/// How often it is looked whether the last backup is old.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// The file that whoever uses a data directory has locked.
pub(super) const LOCK: &str = "lock";

/// How to run a coordinator.
#[derive(Debug, Clone, Default)]
pub struct CoordinatorOptions {
    /// Its data directory: catalog, keys, the first admin's token.
    pub data: PathBuf,
    /// How it behaves.
    pub policy: Policy,
    /// What it does when.
    pub schedule: Schedule,
    /// How long nodes may take.
    pub limits: Limits,
    /// What the API allows.
    pub server: ServerLimits,
}

/// Runs a coordinator on a socket until `shutdown` is done, then lets requests under way end.
///
/// # Errors
/// When the socket is not loopback, or the data directory cannot be used: another process has it, a secret may be read
/// by others, or the catalog is newer or damaged.
pub async fn run(
    listener: TcpListener,
    options: CoordinatorOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        bail!(
            "{address} is not a loopback address: until TLS exists, listen on 127.0.0.1 and use ssh -L from elsewhere"
        );
    }
    let (data, allowed, schedule) = (options.data.clone(), options.server, options.schedule);
    let _lock = open_data(&data)?;
    let seam = Seam::real();
    let coordinator = start(options, &seam).await?;
    keep_admin_token(&coordinator, &data.join("admin.token")).await?;
    let greeter = Arc::clone(&coordinator);
    let mut greeting = tokio::spawn(async move { greeter.ask_nodes().await });
    // What is still under way then goes on while the first requests are answered.
    drop(tokio::time::timeout(GREET, &mut greeting).await);
    coordinator.resume_tasks().await?;
    let mut workers = work(&coordinator, schedule);
    workers.push(greeting);
    let gate = Arc::new(Arc::clone(&coordinator));
    let relay = routes(Arc::clone(&coordinator) as Arc<_>, RelayLimits::default());
    serve(listener, gate, relay, allowed, shutdown).await;
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    coordinator.abandon_tasks();
    Ok(())
}

async fn start(options: CoordinatorOptions, seam: &Seam) -> Result<Arc<Coordinator>> {
    let CoordinatorOptions { data, policy, schedule: _, limits, server: _ } = options;
    let keys = Arc::new(Keys::open(&data, seam)?);
    let catalog = Catalog::open(&data.join("catalog.db"), seam.clone())
        .with_context(|| format!("cannot use the catalog in {}", data.display()))?;
    let machine = machine::identity(seam);
    let zone = format!("machine-{}", machine.get(..8).unwrap_or("here"));
    let connect = Arc::new(HttpConnect::new(Arc::clone(&keys), limits, seam.clone(), zone));
    let parts = Parts { catalog, seam: seam.clone(), keys, policy, connect, machine };
    Ok(Coordinator::start(parts).await?)
}

/// Sees to it that whoever can read the data directory is admin: makes the token anew when it is missing or does not let
/// an admin in.
async fn keep_admin_token(coordinator: &Arc<Coordinator>, path: &Path) -> Result<()> {
    let kept = match std::fs::read_to_string(path) {
        Ok(text) => {
            check_mode(path)?;
            Some(text)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    if let Some(token) = coordinator.admin_token(kept.as_deref().map(str::trim)).await? {
        write_secret(path, format!("{}\n", token.expose()).as_bytes())?;
    }
    Ok(())
}

/// Makes the data directory, for its owner alone, and locks it.
fn open_data(data: &Path) -> Result<File> {
    std::fs::create_dir_all(data).with_context(|| format!("cannot make {}", data.display()))?;
    #[cfg(unix)]
    std::fs::set_permissions(data, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let Some(lock) = lock(data)? else { bail!("another coordinator uses {}", data.display()) };
    if data.join(UNFINISHED).exists() {
        bail!("a restore into {} did not end: empty that directory and restore again", data.display());
    }
    Ok(lock)
}

/// Locks a data directory that exists; nothing when another process has it.
pub(super) fn lock(data: &Path) -> std::io::Result<Option<File>> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let lock = options.open(data.join(LOCK))?;
    Ok(lock_alone(&lock).is_ok().then_some(lock))
}

/// Starts the background work: probing, sweeping, repair, scrub, and calling a missing backup to mind.
fn work(coordinator: &Arc<Coordinator>, schedule: Schedule) -> Vec<tokio::task::JoinHandle<()>> {
    let [probing, sweeping, repairing, scrubbing, reminding] = std::array::from_fn(|_| Arc::clone(coordinator));
    vec![
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(probing.about(schedule.probe.get())).await;
                // A node that has much to be compared holds no other up.
                let probing = Arc::clone(&probing);
                tokio::spawn(async move { probing.ask_nodes().await });
            }
        }),
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(sweeping.about(schedule.sweep.get())).await;
                if let Err(error) = sweeping.sweep(Until::Retention).await {
                    tracing::warn!(%error, "sweep");
                }
            }
        }),
        tokio::spawn(async move { repairing.keep_in_repair().await }),
        tokio::spawn(async move { scrubbing.keep_scrubbing().await }),
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(reminding.about(REMIND)).await;
                reminding.remind_of_backup(schedule.backup.get());
            }
        }),
    ]
}
