//! Bounds on what requests hold together: packs that are written, and memory for chunks on their way out.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::answer::Refusal;

/// Turns to write and read; waiting for one has a limit.
#[derive(Debug)]
pub(crate) struct Turns {
    limit: Duration,
    writes: Arc<Semaphore>,
    /// One permit a KiB.
    reads: Arc<Semaphore>,
}

impl Turns {
    /// So many writes at a time, and so many bytes of chunks on their way out.
    pub(crate) fn new(limit: Duration, writes: usize, read_bytes: usize) -> Self {
        Self { limit, writes: Arc::new(Semaphore::new(writes)), reads: Arc::new(Semaphore::new(read_bytes >> 10)) }
    }

    /// Waits for a turn to write.
    pub(crate) async fn write(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.turn(&self.writes, 1).await
    }

    /// Waits for memory for so many bytes on their way out.
    pub(crate) async fn read(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Refusal> {
        self.turn(&self.reads, kib(bytes)).await
    }

    async fn turn(&self, of: &Arc<Semaphore>, permits: u32) -> Result<OwnedSemaphorePermit, Refusal> {
        let acquired = Arc::clone(of).acquire_many_owned(permits);
        let permit = timeout(self.limit, acquired).await.map_err(|_| Refusal::Overloaded)?;
        Ok(permit.expect("the semaphore is never closed"))
    }
}

/// How many permits so many bytes of reading take.
pub(crate) fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
