//! The sealed stream around a backup: a passphrase in front, segments that prove true or are refused behind. Its byte
//! form is told in [`super`].

use std::io::{self, ErrorKind, Read, Write};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use zeroize::{Zeroize, Zeroizing};

use super::{BackupError, Passphrase};
use crate::seam::Seam;

/// What every backup begins with.
const MAGIC: &[u8; 16] = b"bytenode backup\n";
/// The version of the form that is written here.
const VERSION: u32 = 1;
/// What stands before the segments.
pub(super) const PREAMBLE: usize = 128;
/// Of the preamble, what its own hash covers.
const HASHED: usize = PREAMBLE - 32;
/// Plaintext bytes of every segment but the last, which may have fewer.
pub(super) const SEGMENT: usize = 64 << 10;
/// Bytes that a segment has more than its plaintext.
const TAG: usize = 16;
/// Bounds on what a file may ask of the machine that opens it.
const MOST: Cost = Cost { memory_kib: 1 << 20, passes: 64, lanes: 64 };

/// What a guess at the passphrase costs: parameters of Argon2id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) memory_kib: u32,
    pub(super) passes: u32,
    pub(super) lanes: u32,
}

impl Cost {
    /// The second choice of RFC 9106, for where memory is not plenty.
    pub(super) const USUAL: Self = Self { memory_kib: 64 << 10, passes: 3, lanes: 4 };

    fn is_bearable(self) -> bool {
        self.memory_kib <= MOST.memory_kib && self.passes <= MOST.passes && self.lanes <= MOST.lanes
    }
}

/// The key of one file, and what shows that a passphrase is the right one.
struct Derived {
    key: LessSafeKey,
    check: [u8; 32],
}

fn derive(passphrase: &Passphrase, salt: &[u8], cost: Cost) -> Result<Derived, BackupError> {
    let mut both = Zeroizing::new([0; 64]);
    let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(both.len()));
    let params = params.map_err(|_| BackupError::Damaged("its beginning was changed"))?;
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(passphrase.expose().as_bytes(), salt, &mut *both)
        .map_err(|_| BackupError::Io(io::Error::from(ErrorKind::OutOfMemory)))?;
    let key = UnboundKey::new(&AES_256_GCM, &both[..32]).expect("the key has 32 bytes");
    Ok(Derived { key: LessSafeKey::new(key), check: both[32..].try_into().expect("thirty-two bytes") })
}

/// The nonce of a segment: its number, and whether it is the last. No other segment of the file has it, and no other file
/// has the key.
fn nonce(number: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    bytes[3..11].copy_from_slice(&number.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// Seals what is written to it. Only what [`Self::finish`] has ended can be opened.
pub(super) struct SealingWriter<W> {
    out: W,
    key: LessSafeKey,
    preamble: [u8; PREAMBLE],
    number: u64,
    buffer: Vec<u8>,
}

impl<W: Write> SealingWriter<W> {
    /// Begins a stream with a new salt.
    pub(super) fn new(mut out: W, passphrase: &Passphrase, cost: Cost, seam: &Seam) -> Result<Self, BackupError> {
        let salt: [u8; 32] = seam.bytes();
        let derived = derive(passphrase, &salt, cost)?;
        let mut front = Vec::with_capacity(PREAMBLE);
        front.extend_from_slice(MAGIC);
        for number in [VERSION, cost.memory_kib, cost.passes, cost.lanes] {
            front.extend_from_slice(&number.to_be_bytes());
        }
        front.extend_from_slice(&salt);
        front.extend_from_slice(&derived.check);
        front.extend_from_slice(digest(&SHA256, &front).as_ref());
        let preamble: [u8; PREAMBLE] = front.try_into().expect("the parts of the preamble fill it");
        out.write_all(&preamble)?;
        Ok(Self { out, key: derived.key, preamble, number: 0, buffer: Vec::with_capacity(SEGMENT + TAG) })
    }

    /// Writes the last segment, and flushes.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.segment(true)?;
        self.out.flush()
    }

    fn segment(&mut self, last: bool) -> io::Result<()> {
        let sealed =
            self.key.seal_in_place_append_tag(nonce(self.number, last), Aad::from(&self.preamble), &mut self.buffer);
        sealed.map_err(|_| io::Error::other("a segment cannot be sealed"))?;
        self.number += 1;
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Write for SealingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full segment waits until it is known not to be the last.
        if self.buffer.len() == SEGMENT && !bytes.is_empty() {
            self.segment(false)?;
        }
        let taken = bytes.len().min(SEGMENT - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W> Drop for SealingWriter<W> {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

/// Gives what was sealed, each segment only once it has proved true; the end only where the last segment ended.
pub(super) struct OpeningReader<R> {
    input: R,
    key: LessSafeKey,
    preamble: [u8; PREAMBLE],
    number: u64,
    /// What was read of the next segment, and then one byte, which says that another follows.
    ahead: Vec<u8>,
    plain: Vec<u8>,
    given: usize,
    ended: bool,
}

impl<R: Read> OpeningReader<R> {
    /// Begins to open a stream.
    pub(super) fn new(mut input: R, passphrase: &Passphrase) -> Result<Self, BackupError> {
        let mut preamble = [0; PREAMBLE];
        let got = fill(&mut input, &mut preamble)?;
        if got < MAGIC.len() || !preamble.starts_with(MAGIC) {
            return Err(BackupError::Foreign);
        }
        if got < PREAMBLE {
            return Err(BackupError::Damaged("it is cut short"));
        }
        let (front, hash) = preamble.split_at(HASHED);
        if digest(&SHA256, front).as_ref() != hash {
            return Err(BackupError::Damaged("its beginning was changed"));
        }
        let number = |at: usize| u32::from_be_bytes(front[at..at + 4].try_into().expect("four bytes"));
        if number(16) != VERSION {
            return Err(BackupError::Newer { found: number(16), known: VERSION });
        }
        let cost = Cost { memory_kib: number(20), passes: number(24), lanes: number(28) };
        if !cost.is_bearable() {
            return Err(BackupError::Damaged("its beginning was changed"));
        }
        let derived = derive(passphrase, &front[32..64], cost)?;
        if derived.check != front[64..96] {
            return Err(BackupError::WrongPassphrase);
        }
        let (ahead, plain) = (Vec::with_capacity(SEGMENT + TAG + 1), Vec::with_capacity(SEGMENT + TAG));
        Ok(Self { input, key: derived.key, preamble, number: 0, ahead, plain, given: 0, ended: false })
    }

    /// Opens the next segment.
    fn segment(&mut self) -> io::Result<()> {
        let full = SEGMENT + TAG;
        let before = self.ahead.len();
        self.ahead.resize(full + 1, 0);
        let got = before + fill(&mut self.input, &mut self.ahead[before..])?;
        let last = got <= full;
        self.plain.clear();
        self.plain.extend_from_slice(&self.ahead[..got.min(full)]);
        let next = self.ahead.pop().filter(|_| !last);
        self.ahead.clear();
        self.ahead.extend(next);
        if !self.prove(last) {
            return Err(damaged(if last { "it is cut short, or was changed" } else { "it was changed" }));
        }
        if last && self.plain.is_empty() && self.number > 0 {
            return Err(damaged("it was changed"));
        }
        self.number += 1;
        self.ended = last;
        self.given = 0;
        Ok(())
    }

    /// Decrypts in place; leaves nothing when it does not prove true.
    fn prove(&mut self, last: bool) -> bool {
        let opened = self
            .key
            .open_in_place(nonce(self.number, last), Aad::from(&self.preamble), &mut self.plain)
            .map(|p| p.len());
        self.plain.truncate(opened.unwrap_or(0));
        opened.is_ok()
    }
}

impl<R: Read> Read for OpeningReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.plain.len() {
            if self.ended || out.is_empty() {
                return Ok(0);
            }
            self.segment()?;
        }
        let given = out.len().min(self.plain.len() - self.given);
        out[..given].copy_from_slice(&self.plain[self.given..self.given + given]);
        self.given += given;
        Ok(given)
    }
}

impl<R> Drop for OpeningReader<R> {
    fn drop(&mut self) {
        self.plain.zeroize();
    }
}

/// What a reader of a damaged stream gets.
fn damaged(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, BackupError::Damaged(why))
}

/// Reads until the buffer is full or the input ends; says how much there was.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match input.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
