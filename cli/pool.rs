//! A pool on this machine: the processes behind `up`, `down` and `demo`, all of them this executable.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytenode::admin::{CheckResult, NodeAdd, NodeReport, Session};
use bytenode::node::GrantToken;

use crate::credentials::{Secret, make_private_dir, read_private};
use crate::error::{Failure, Outcome};

pub mod erase;
pub mod process;
pub mod state;

use process::{Bond, Launched, launch};

/// Where the coordinator listens if it can.
const PORT: u16 = 7420;

/// Where a pool lives.
#[derive(Debug, Clone)]
pub struct Ground {
    /// Its data.
    pub data: PathBuf,
    /// Its logs.
    pub logs: PathBuf,
    /// What becomes of its processes when this one ends.
    pub bond: Bond,
}

impl Ground {
    /// Starts the coordinator, at the address that it had, else the usual one, else any.
    pub async fn coordinator(&self, before: Option<&str>) -> Outcome<Launched> {
        let usual = match self.bond {
            Bond::Detached => SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
            Bond::Tied => ANY,
        };
        let listen = [before.and_then(address_of), Some(usual)].into_iter().flatten().find(is_free).unwrap_or(ANY);
        let data = self.dir("coordinator")?;
        self.start("coordinator", "internal-coordinator", &data, listen, &[]).await
    }

    /// Starts a node, at the address that it had, else any.
    pub async fn node(&self, name: &str, before: Option<&str>) -> Outcome<Launched> {
        let listen = before.and_then(address_of).filter(is_free).unwrap_or(ANY);
        let data = self.node_data(name)?;
        self.start(name, "internal-node", &data, listen, &["--name".into(), name.into()]).await
    }

    async fn start(
        &self,
        name: &str,
        role: &str,
        data: &Path,
        listen: SocketAddr,
        more: &[OsString],
    ) -> Outcome<Launched> {
        let mut arguments: Vec<OsString> =
            vec![role.into(), "--data".into(), data.into(), "--listen".into(), listen.to_string().into()];
        arguments.extend_from_slice(more);
        // Somebody else may take the address in the moment since it was found free.
        arguments.push("--any-port".into());
        launch(name, &arguments, &self.logs.join(format!("{name}.log")), self.bond).await
    }

    fn dir(&self, name: &str) -> Outcome<PathBuf> {
        let dir = self.data.join(name);
        make_private_dir(&dir).map_err(|error| Failure::io(format!("cannot make {}", dir.display()), &error))?;
        Ok(dir)
    }

    fn node_data(&self, name: &str) -> Outcome<PathBuf> {
        self.dir("nodes").and_then(|_| self.dir(&format!("nodes/{name}")))
    }

    /// The first admin's token: who can read the data directory is admin.
    pub fn admin_token(&self) -> Outcome<Secret> {
        self.secret(&self.data.join("coordinator").join("admin.token"))
    }

    fn secret(&self, path: &Path) -> Outcome<Secret> {
        let text =
            read_private(path).map_err(|error| Failure::io(format!("cannot read {}", path.display()), &error))?;
        Ok(Secret::new(text.trim()))
    }

    /// Has a node join the pool.
    ///
    /// # Errors
    /// Also when its test fails, with the step that failed.
    pub async fn join(&self, session: &Arc<dyn Session>, name: &str, url: &str) -> Outcome<NodeReport> {
        let code = self.secret(&self.node_data(name)?.join("join.code"))?;
        let request = NodeAdd {
            url: url.to_owned(),
            name: Some(name.to_owned()),
            zone: None,
            capacity_bytes: None,
            token: Some(GrantToken::new(code.expose().to_owned())),
            client_token: None,
            gateway: None,
            access: None,
            gc: None,
            insecure_http: false,
            dry_run: false,
        };
        let report = session.node_add(&request).await?;
        if report.node.is_some() {
            return Ok(report);
        }
        let mut failure = Failure::other(format!("node {name} did not pass its test"));
        for check in report.checks.iter().filter(|check| check.result == CheckResult::Failed) {
            failure.causes.push(format!("{}: {}", check.check, check.message));
            if let Some(hint) = &check.hint {
                failure = failure.hint(hint);
            }
        }
        Err(failure)
    }
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn address_of(url: &str) -> Option<SocketAddr> {
    url.strip_prefix("http://")?.parse().ok()
}

fn is_free(address: &SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}
