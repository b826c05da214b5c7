//! What the catalog of the benchmark looks like: directories of many sizes in turn, every file of as many chunks.

use anyhow::{Context, Result};

/// Entries of directories, in turn; the first is the largest.
const SIZES: [u64; 7] = [10_000, 100, 1000, 200, 5000, 500, 2000];

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Files.
    pub files: u64,
    /// Chunks of each.
    pub chunks: u64,
}

impl Shape {
    /// The directories: number and entries of each.
    pub fn dirs(self) -> impl Iterator<Item = (u64, u64)> {
        let mut left = self.files;
        (0..).zip(SIZES.into_iter().cycle()).map_while(move |(dir, size)| {
            let size = size.min(left);
            left -= size;
            (size > 0).then_some((dir, size))
        })
    }

    /// A directory with so many entries.
    pub fn dir_of(self, entries: u64) -> Result<String> {
        let found = self.dirs().find(|(_, size)| *size == entries);
        let (dir, _) = found.with_context(|| format!("no directory has {entries} entries: ask for more files"))?;
        Ok(format!("bn:/{}", dir_name(dir)))
    }
}

/// The name of a directory.
pub fn dir_name(dir: u64) -> String {
    format!("session-{dir:05}")
}

/// The name of a file in its directory.
pub fn file_name(index: u64) -> String {
    format!("image-{index:07}.raw")
}
