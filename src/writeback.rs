//! Writing behind: asks the system to begin carrying what was just written to the disk, so that the sync at the end of a
//! long file finds little left to do. A hint: it changes no content, makes nothing durable and reports no error, which
//! stays with the sync.

use std::fs::File;

/// After how many new bytes the system is asked.
const STEP_BYTES: u64 = 8 << 20;

/// How far the system was asked to carry one file.
#[derive(Debug, Default)]
pub(crate) struct WriteBehind {
    asked: u64,
}

impl WriteBehind {
    /// Says that a file has this length now. Returns at once, unless the disk's queue is full.
    pub(crate) fn reached(&mut self, file: &File, length: u64) {
        if length.saturating_sub(self.asked) >= STEP_BYTES {
            self.all(file, length);
        }
    }

    /// Asks for all that it has, before many files are synced one after the other: the first sync then commits what all
    /// of them changed, and the others find it done.
    pub(crate) fn all(&mut self, file: &File, length: u64) {
        begin(file, self.asked, length.saturating_sub(self.asked));
        self.asked = length;
    }
}

/// On Linux, "not needed" begins writing dirty pages back without waiting (mm/fadvise.c); pages on their way stay cached.
#[cfg(target_os = "linux")]
fn begin(file: &File, from: u64, bytes: u64) {
    // A system that refuses the hint only syncs later.
    let _ = rustix::fs::fadvise(file, from, std::num::NonZeroU64::new(bytes), rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn begin(_file: &File, _from: u64, _bytes: u64) {}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_written_behind_reads_back() {
        let mut file = tempfile::tempfile().unwrap();
        let mut behind = WriteBehind::default();
        for step in 1..=20_u8 {
            file.write_all(&vec![step; 1 << 20]).unwrap();
            behind.reached(&file, u64::from(step) << 20);
        }
        assert_eq!(behind.asked, 16 << 20);
        let mut back = Vec::new();
        std::io::Seek::rewind(&mut file).unwrap();
        std::io::Read::read_to_end(&mut file, &mut back).unwrap();
        assert!(back.chunks(1 << 20).zip(1..).all(|(mib, step): (_, u8)| mib.iter().all(|byte| *byte == step)));
    }
}
