//! Our own processes for examples that measure: the `bytenode` executable built beside them, which starts itself again
//! as whatever is needed. Each ends when its standard input does, so nothing outlives the example.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// An executable that is built beside the examples.
pub fn executable(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // target/release/examples/NAME
    let dir = own.parent().and_then(Path::parent).context("the example is not where cargo builds it")?;
    let found = dir.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    ensure!(found.is_file(), "{} is not there; build it first: cargo build{profile}", found.display());
    Ok(found)
}

/// Starts one of our own processes, and gives its URL once it serves; it ends with this one.
pub fn serve(executable: &Path, role: &str, data: &Path, more: &[&str]) -> Result<(Child, String)> {
    let mut command = Command::new(executable);
    command.args([role, "--stop-on-eof"]).args(more);
    served(&mut command, data)
}

/// Starts a daemon over a data directory, with its log beside that, and gives its URL once it serves.
pub fn served(command: &mut Command, data: &Path) -> Result<(Child, String)> {
    std::fs::create_dir_all(data)?;
    private(data)?;
    let log = std::fs::File::create(data.with_extension("log"))?;
    command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("standard output is a pipe")?;
    BufReader::new(stdout).read_line(&mut line)?;
    if !line.starts_with("http://") {
        let _ = child.kill();
        let _ = child.wait();
        bail!("a daemon did not start; see {}", data.with_extension("log").display());
    }
    Ok((child, line.trim().to_owned()))
}

/// Ends a process when this one has ended: a shell that waits for the end of its input.
pub fn watch(pid: u32) -> Option<Child> {
    let script = format!("read _; kill {pid} 2>/dev/null");
    Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().ok()
}

/// Asks a process to end, and waits until it has.
pub fn stop(child: &mut Child) -> Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process};
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a number of a process")?;
        kill_process(pid, Signal::TERM)?;
    }
    #[cfg(not(unix))]
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Ends when this process is told to end.
#[cfg(unix)]
pub async fn stopped() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

/// Ends when this process is told to end.
#[cfg(not(unix))]
pub async fn stopped() {
    // Without a handler the system ends the process.
    let _ = tokio::signal::ctrl_c().await;
}

/// A `bytenode` command, signed in, that reads nothing of the user's own profile.
pub fn client(executable: &Path, url: &str, coordinator_data: &Path, home: &Path) -> Result<Command> {
    let mut command = Command::new(executable);
    command.env("BYTENODE_URL", url).env("BYTENODE_TOKEN", token(coordinator_data)?);
    command.env("HOME", home).stdin(Stdio::null());
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "BYTENODE_PROFILE"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// The admin's token.
pub fn token(coordinator_data: &Path) -> Result<String> {
    Ok(std::fs::read_to_string(coordinator_data.join("admin.token"))?.trim().to_owned())
}

#[cfg(unix)]
fn private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700))?)
}

#[cfg(not(unix))]
fn private(_dir: &Path) -> Result<()> {
    bail!("the pool runs on Linux and macOS")
}
