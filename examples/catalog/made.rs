//! The pool with the large catalog: made once, by the programs themselves as far as they go, and kept.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::pool::{Pool, catalog};
use crate::shape::Shape;
use crate::{COPIES, NODES, rows, say};

/// Sees to it that there is such a pool in a directory; says what it is.
pub fn made(dir: &Path, shape: Shape) -> Result<String> {
    let Shape { files, chunks } = shape;
    let what = format!(
        "{files} files of {chunks} chunks, {} copies on {NODES} nodes, {COPIES} of each",
        files * chunks * u64::from(COPIES)
    );
    let mark = dir.join("made");
    if let Ok(found) = std::fs::read_to_string(&mark) {
        ensure!(found == what, "{} holds {found}: remove it, or give another directory", dir.display());
        return described(dir, what);
    }
    ensure!(!dir.exists(), "{} is there, but was not made to its end: remove it", dir.display());
    say("making the catalog");
    let begun = Instant::now();
    Pool::make(dir)?.stop()?;
    rows::fill(&catalog(dir), shape).context("filling the catalog")?;
    std::fs::write(mark, &what)?;
    eprintln!("made in {:.0} s", begun.elapsed().as_secs_f64());
    described(dir, what)
}

fn described(dir: &Path, what: String) -> Result<String> {
    let bytes = std::fs::metadata(catalog(dir))?.len();
    Ok(format!("{what}; {:.2} GiB", bytes as f64 / f64::from(1 << 30)))
}
