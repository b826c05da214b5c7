//! Files of random bytes, for examples that measure.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Result;

const MIB: usize = 1 << 20;

/// Bytes that do not repeat and do not compress, as fast as memory takes them (xorshift64*, Vigna 2014).
pub struct Generator(u64);

impl Generator {
    /// Other seeds give other bytes.
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for piece in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            piece.copy_from_slice(&self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()[..piece.len()]);
        }
    }

    /// Writes a file of so many bytes.
    pub fn file(&mut self, path: &Path, bytes: u64) -> Result<()> {
        let mut file = File::create(path)?;
        let mut buffer = vec![0; usize::try_from(bytes).map_or(MIB, |bytes| bytes.min(MIB))];
        let mut left = bytes;
        while left > 0 {
            self.fill(&mut buffer);
            let some = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            file.write_all(&buffer[..some])?;
            left -= some as u64;
        }
        Ok(())
    }
}

/// Fills a directory with so many files of so many bytes each, 256 in each of its directories.
pub fn files(dir: &Path, count: u64, bytes: u64) -> Result<()> {
    for number in 0..count {
        let place = dir.join(format!("{:03}", number / 256));
        if number % 256 == 0 {
            std::fs::create_dir_all(&place)?;
        }
        Generator::new(1000 + number).file(&place.join(format!("{number:07}")), bytes)?;
    }
    Ok(())
}
