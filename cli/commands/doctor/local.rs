//! What this machine knows by itself.

use std::path::Path;

use super::finding::Finding;
use super::judge;
use crate::commands::Ctx;
use crate::credentials::{self, Credentials};
use crate::error::Outcome;
use crate::pool::state::State;

/// All of it.
pub fn look(ctx: &Ctx, pool: &Outcome<Option<State>>) -> Vec<Finding> {
    // The user file was read before any command runs.
    let path = &ctx.profile.config_path;
    let none = if path.exists() { "" } else { " (there is none, and none is needed)" };
    let mut found = vec![Finding::ok("configuration", format!("{}{none}", path.display()))];
    let state = &ctx.profile.dirs.state;
    found.push(match Credentials::load(state) {
        Ok(_) => Finding::ok("credentials", credentials::path(state).display().to_string()),
        Err(failure) => Finding::failure("credentials", &failure),
    });
    found.extend(directory(state));
    found.extend(logs(&ctx.profile.logs()));
    #[cfg(unix)]
    found.push(judge::open_files(rustix::process::getrlimit(rustix::process::Resource::Nofile).current));
    found.push(processes(pool));
    found
}

/// Whether others can see what is kept: names of files, logs. The secrets have modes of their own.
#[cfg(unix)]
fn directory(state: &Path) -> Option<Finding> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(state).ok()?.permissions().mode() & 0o777;
    Some(match mode & 0o077 {
        0 => Finding::ok("state", format!("{} is yours alone", state.display())),
        _ => {
            let message = format!("others can look into {} (mode {mode:04o})", state.display());
            Finding::risk("state", message, format!("chmod 700 {}", state.display()))
        }
    })
}

/// Not asked on this system.
#[cfg(not(unix))]
fn directory(_state: &Path) -> Option<Finding> {
    None
}

/// Whether `up` could write its logs; nothing while it never did.
#[cfg(unix)]
fn logs(dir: &Path) -> Option<Finding> {
    use rustix::fs::{Access, access};
    let kind = std::fs::symlink_metadata(dir).ok()?;
    let usable = (kind.is_dir() || dir.is_dir()) && access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    Some(match usable {
        true => Finding::ok("logs", dir.display().to_string()),
        false => {
            let hint = format!("mkdir -p {0} && chmod u+rwx {0} (move away what is in its place)", dir.display());
            Finding::failed("logs", format!("nothing can be written in {}", dir.display()), hint)
        }
    })
}

/// Not asked on this system.
#[cfg(not(unix))]
fn logs(_dir: &Path) -> Option<Finding> {
    None
}

fn processes(pool: &Outcome<Option<State>>) -> Finding {
    match pool {
        Ok(None) => Finding::ok("processes", "none were started by up"),
        Ok(Some(pool)) => {
            let stopped: Vec<&str> = pool.stopped().collect();
            match stopped.is_empty() {
                true => Finding::ok("processes", "all that up started run"),
                false => Finding::failed("processes", format!("stopped: {}", stopped.join(", ")), "bytenode up"),
            }
        }
        Err(failure) => Finding::failure("processes", failure),
    }
}
