//! Steps at which a test lets a process end as by `kill -9`. In release builds there is nothing of it.

/// What a process is about to do, or has just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A transaction of the catalog.
    Commit,
    /// A change of a built-in node's disk.
    Disk,
    /// A call to the coordinator.
    Call,
    /// A call to a node that changes what it keeps.
    Node,
    /// A change of a file that a get writes.
    File,
}

#[cfg(debug_assertions)]
mod armed {
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::Step;

    struct Armed {
        step: Step,
        left: AtomicU64,
        once: PathBuf,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();

    /// Has this process abort at the n-th of these steps that it reaches while a file exists, given as
    /// `STEP:N:FILE`. Nothing that cannot be read as that has an effect.
    pub fn arm(text: &str) {
        let mut parts = text.splitn(3, ':');
        let step = match parts.next() {
            Some("commit") => Step::Commit,
            Some("disk") => Step::Disk,
            Some("call") => Step::Call,
            Some("node") => Step::Node,
            Some("file") => Step::File,
            _ => return,
        };
        let Some(left) = parts.next().and_then(|count| count.parse().ok()) else { return };
        let Some(once) = parts.next().map(PathBuf::from) else { return };
        ARMED.get_or_init(|| Armed { step, left: AtomicU64::new(left), once });
    }

    /// Ends the process if it is to end here.
    pub(crate) fn reached(step: Step) {
        let Some(armed) = ARMED.get().filter(|armed| armed.step == step && armed.once.exists()) else { return };
        if armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::abort();
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::arm;
#[cfg(debug_assertions)]
pub(crate) use armed::reached;

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) const fn reached(_step: Step) {}
