//! What this machine could do at best: the disk, and the passes over the bytes that sealing needs.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use bytenode::chunk::FileHash;
use bytenode::seal::{self, Key};
use bytes::BytesMut;

use crate::random::Generator;
use crate::usage::{cpu, settle};

const MIB: usize = 1 << 20;
/// How often the disk is made to keep what was written.
const SYNC_EACH: u64 = 64 << 20;

/// Bytes a second that the disk takes, synced every 64 MiB. The file stays: memory that its removal gave back would make
/// what is measured afterwards look faster than the disk.
pub fn disk(path: &Path, bytes: u64) -> Result<f64> {
    let mut buffer = vec![0; MIB];
    Generator::new(77).fill(&mut buffer);
    settle();
    let begun = Instant::now();
    let mut file = File::create(path)?;
    let mut written = 0;
    while written < bytes {
        file.write_all(&buffer)?;
        written += MIB as u64;
        if written % SYNC_EACH == 0 {
            file.sync_data()?;
        }
    }
    file.sync_data()?;
    Ok(written as f64 / begun.elapsed().as_secs_f64())
}

/// CPU seconds for each GiB of the passes alone: of put (two SHA-256, one keyed BLAKE3, AES-GCM), and of get (one
/// SHA-256, AES-GCM; two SHA-256 where nothing is sealed).
pub fn passes(sealed: bool) -> (f64, f64) {
    const ROUNDS: usize = 256;
    let mut plain = vec![0; MIB];
    Generator::new(78).fill(&mut plain);
    let dedup = Key::from_bytes([1; 32]);
    let buffer = || {
        let mut buffer = BytesMut::with_capacity(MIB + seal::OVERHEAD);
        buffer.extend_from_slice(&plain);
        buffer
    };
    let gib = (1 << 30) as f64 / (ROUNDS * MIB) as f64;
    let timed = |work: &mut dyn FnMut()| {
        let before = cpu("self").0;
        (0..ROUNDS).for_each(|_| work());
        (cpu("self").0 - before) * gib
    };
    let copy = timed(&mut || drop(std::hint::black_box(buffer())));
    let hash = timed(&mut || {
        let mut hash = FileHash::new();
        hash.update(&plain);
        std::hint::black_box(hash.finish());
    });
    if !sealed {
        return (2.0 * hash, 2.0 * hash);
    }
    let seal = timed(&mut || drop(std::hint::black_box(seal::seal(&dedup, buffer())))) - copy;
    let sealed = seal::seal(&dedup, buffer());
    let open = timed(&mut || {
        let stored = BytesMut::from(&sealed.bytes[..]);
        drop(std::hint::black_box(seal::unseal(&sealed.key, stored)));
    }) - copy;
    (hash + seal, hash + open)
}
