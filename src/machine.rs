//! Which machine this is: what decides whether a loopback address of the coordinator means the same thing to a client.
//!
//! Two processes have equal identities only if a loopback address leads both to the same place: same machine, same
//! start, same network namespace. Where that cannot be known, the identity is random and equals no other.

use std::fs::{self, File, TryLockError};
use std::time::{Duration, Instant};

use crate::id::sha256;
use crate::seam::Seam;

/// Names this machine and its current start, as 64 lower-case hex digits. Reveals neither the machine's id nor its name.
pub fn identity(seam: &Seam) -> String {
    let start = read("/proc/sys/kernel/random/boot_id");
    let machine = read("/etc/machine-id").or_else(hostname);
    let network = fs::read_link("/proc/self/ns/net").ok().map(|link| link.to_string_lossy().into_owned());
    let known = match (machine, start, network) {
        (Some(machine), Some(start), network) => {
            format!("{machine}\n{start}\n{}", network.unwrap_or_default())
        }
        // No boot id outside Linux: the name alone tells machines apart well enough on one desk.
        (Some(machine), None, _) if cfg!(target_os = "macos") => machine,
        _ => data_encoding::HEXLOWER.encode(&seam.bytes::<32>()),
    };
    data_encoding::HEXLOWER.encode(&sha256(known.as_bytes()))
}

/// How long a lock is waited for: a process that was killed holds its own until the system has taken down all of it.
const DYING: Duration = Duration::from_secs(3);

/// Locks a file for this process alone. Blocks for three seconds at most, while another that has it may be ending.
///
/// # Errors
/// [`TryLockError::WouldBlock`] when another process keeps it.
pub fn lock_alone(file: &File) -> Result<(), TryLockError> {
    let end = Instant::now() + DYING;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            tried => return tried,
        }
    }
}

/// Whether an address leads to this machine itself, whoever resolves it: a loopback address, or `localhost`.
pub fn is_loopback(url: &str) -> bool {
    match url::Url::parse(url).ok().as_ref().and_then(url::Url::host) {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(unix)]
fn hostname() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty() && name != "localhost").then_some(name)
}

#[cfg(not(unix))]
fn hostname() -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_all_of_it() {
        for here in ["http://127.0.0.1:1", "http://127.0.0.9", "https://[::1]:1", "http://LOCALHOST:5001"] {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["http://10.0.0.1:1", "http://localhost.example", "http://127.0.0.1.example", "nonsense", ""] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn a_lock_is_had_once_another_lets_go_of_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().write(true).open(file.path()).unwrap();
        let (held, mine) = (open(), open());
        held.lock().unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            let begun: Instant = told.recv().unwrap();
            while begun.elapsed() < DYING / 10 {
                std::thread::yield_now();
            }
            drop(held);
        });
        tell.send(Instant::now()).unwrap();
        lock_alone(&mine).unwrap();
        other.join().unwrap();
        assert!(matches!(lock_alone(&open()), Err(TryLockError::WouldBlock)));
    }

    #[test]
    fn it_is_stable_and_says_nothing_readable() {
        let name = identity(&Seam::real());
        assert_eq!(name.len(), 64);
        if cfg!(target_os = "linux") {
            assert_eq!(name, identity(&Seam::real()));
        }
    }
}
