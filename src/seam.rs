//! The seam of time and chance: the only place where the library learns what time it is, draws random bytes or leaves
//! the current thread for heavy work. Timers and tasks are tokio's; on a paused single-threaded runtime with
//! [`Seam::simulated`], one seed replays one history.

use std::fmt;
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Where time and chance come from. Cheap to clone; clones share their source.
#[derive(Clone)]
pub struct Seam {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Real,
    Simulated { state: Arc<Mutex<u64>>, born: Instant, epoch: Arc<Mutex<Timestamp>> },
}

impl fmt::Debug for Seam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.source {
            Source::Real => "Seam::real",
            Source::Simulated { .. } => "Seam::simulated",
        })
    }
}

impl Seam {
    /// The machine's clock, the operating system's randomness, and tokio's blocking threads.
    pub const fn real() -> Self {
        Self { source: Source::Real }
    }

    /// A clock that follows tokio's (pause it), numbers that follow from the seed, and all work on the calling task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn simulated(seed: u64) -> Self {
        let epoch = Timestamp::from_second(1_700_000_000).expect("a time in range");
        let epoch = Arc::new(Mutex::new(epoch));
        Self { source: Source::Simulated { state: Arc::new(Mutex::new(seed)), born: Instant::now(), epoch } }
    }

    /// Whether work stays on the calling task.
    pub const fn is_simulated(&self) -> bool {
        matches!(self.source, Source::Simulated { .. })
    }

    /// The wall clock, to the microsecond. It may jump; for waiting and leases use [`Self::monotonic`].
    pub fn now(&self) -> Timestamp {
        let now = match &self.source {
            Source::Real => Timestamp::now(),
            Source::Simulated { born, epoch, .. } => {
                let passed = SignedDuration::try_from(born.elapsed()).unwrap_or(SignedDuration::MAX);
                let epoch = *epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                epoch.checked_add(passed).unwrap_or(Timestamp::MAX)
            }
        };
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }

    /// Sets the wall clock of a simulation forward, or back; nothing else.
    pub fn jump(&self, by: SignedDuration) {
        if let Source::Simulated { epoch, .. } = &self.source {
            let mut epoch = epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *epoch = epoch.saturating_add(by).unwrap_or(*epoch);
        }
    }

    /// A clock that never jumps.
    pub fn monotonic(&self) -> Instant {
        Instant::now()
    }

    /// Fills a buffer with random bytes fit for keys (in a simulation: bytes that follow from the seed).
    ///
    /// # Panics
    /// When the operating system gives no randomness, since nothing may go on without.
    pub fn fill(&self, buffer: &mut [u8]) {
        match &self.source {
            // Straight from the system: a generator that gathers entropy of its own costs every command 25 ms.
            Source::Real => getrandom::fill(buffer).expect("the operating system gives randomness"),
            Source::Simulated { state, .. } => {
                let mut state = state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                for piece in buffer.chunks_mut(8) {
                    piece.copy_from_slice(&next(&mut state).to_le_bytes()[..piece.len()]);
                }
            }
        }
    }

    /// An array of random bytes fit for keys.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// A number below `bound`, near enough to uniform for choosing samples and jitter; 0 when `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        let wide = u128::from(u64::from_le_bytes(self.bytes())) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the high half fits")
    }

    /// Does heavy or blocking work off the async threads (in a simulation: at once, here).
    ///
    /// # Panics
    /// When the work panics.
    pub async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.source {
            Source::Real => tokio::task::spawn_blocking(work).await.expect("offloaded work does not panic"),
            Source::Simulated { .. } => work(),
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): one step.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_seed_gives_one_sequence_and_one_clock() {
        let (one, two) = (Seam::simulated(9), Seam::simulated(9));
        assert_eq!(one.bytes::<40>(), two.bytes::<40>());
        assert_ne!(one.bytes::<8>(), Seam::simulated(8).bytes::<8>());
        let before = one.now();
        tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
        assert_eq!(one.now().duration_since(before), SignedDuration::from_hours(1));
        assert!((0..1000).all(|_| one.below(7) < 7));
        assert_eq!(one.below(0), 0);
    }
}
