//! Backups: everything of a coordinator that cannot be made again, in one file, sealed under a passphrase.
//!
//! What opens is what was sealed, to the bit and to the end: a changed, cut, lengthened or reordered file is refused, as
//! is a wrong passphrase, and each says which it is. Memory is bounded whatever the size. Nobody without the passphrase
//! learns more than when the file was made and how long it is; how hard guessing is depends on the passphrase, of which
//! each guess costs 64 MiB of memory and three passes over it.
//!
//! # The file
//!
//! Numbers are big-endian.
//!
//! ```text
//! preamble   "bytenode backup\n"   version: u32 (1)
//!            Argon2id: memory in KiB: u32, passes: u32, lanes: u32, salt: 32 bytes
//!            check: 32 bytes       SHA-256 of the 96 bytes before
//! segments   AES-256-GCM of 64 KiB each, the last of fewer or as many; each followed by its tag of 16 bytes
//! ```
//!
//! Argon2id (RFC 9106) makes 64 bytes of passphrase and salt: the key, then the check, which tells a wrong passphrase from
//! a damaged file. The segments are STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015), as in age: the nonce of each is
//! its number (11 bytes) and a byte that is 1 for the last and 0 for others, the associated data is the preamble. What is
//! sealed begins with the length (u32) of a JSON object, the object ([`Facts`], and the name and length of each part),
//! and then the parts themselves in that order.
//!
//! # Who seals
//!
//! The coordinator does, with the passphrase from the body of the request: so the master key leaves its process only
//! sealed, and no client, log or proxy on the way sees it in plain. An admin's token is power over all files all the same:
//! whoever has it can ask for a backup under a passphrase of his own.

mod sealed;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::api::{ApiError, Code};
use crate::id::PoolId;
use crate::seam::Seam;
use sealed::{Cost, OpeningReader, SEGMENT, SealingWriter};

/// What newer files need.
const NEWER: &str = "use the version of ByteNode that made it, or a later one";
/// The most bytes of a passphrase.
const MAX_PASSPHRASE: usize = 1024;
/// The fewest characters of a passphrase.
const MIN_PASSPHRASE: usize = 8;
/// The most bytes of the JSON object in front of the parts.
const MAX_HEAD: u32 = 64 << 10;

/// Why a backup cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or stream failed.
    #[error("the backup cannot be read or written")]
    Io(#[source] io::Error),
    /// What it holds cannot be put where it should be.
    #[error("what the backup holds cannot be written")]
    Place(#[source] io::Error),
    /// It does not begin like a backup.
    #[error("this is not a backup of ByteNode")]
    Foreign,
    /// It is not what was written.
    #[error("the backup is damaged: {0}")]
    Damaged(&'static str),
    /// A newer build wrote it.
    #[error("the backup has version {found}, this build knows {known}")]
    Newer {
        /// Its version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// It was sealed under another passphrase.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// No backup is sealed under such a passphrase.
    #[error("{0}")]
    Unfit(&'static str),
}

impl From<io::Error> for BackupError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(Self::Damaged(why)) => Self::Damaged(why),
            _ => Self::Io(error),
        }
    }
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        let code = match &error {
            BackupError::Io(source) | BackupError::Place(source) if source.kind() == io::ErrorKind::StorageFull => {
                Code::NoRoom
            }
            BackupError::Io(_) | BackupError::Place(_) | BackupError::Newer { .. } => Code::Internal,
            BackupError::Foreign | BackupError::Damaged(_) => Code::Integrity,
            BackupError::WrongPassphrase => Code::NotAllowed,
            BackupError::Unfit(_) => Code::Usage,
        };
        let failure = Self::new(code, error.to_string());
        match error {
            BackupError::Io(source) | BackupError::Place(source) => {
                Self::new(code, format!("{} ({source})", failure.message))
            }
            BackupError::Newer { .. } => failure.hint(NEWER),
            _ => failure,
        }
    }
}

/// What a backup is sealed under: one line of 8 characters to 1,024 bytes, so that it can be typed. Wiped when dropped,
/// never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "daemon", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "daemon", schema(value_type = String))]
#[serde(try_from = "String", into = "String")]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes a passphrase; a line end behind it is none of it.
    ///
    /// # Errors
    /// [`BackupError::Unfit`].
    pub fn new(text: &str) -> Result<Self, BackupError> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.chars().count() < MIN_PASSPHRASE {
            return Err(BackupError::Unfit("the passphrase has fewer than 8 characters"));
        }
        if line.len() > MAX_PASSPHRASE || line.chars().any(char::is_control) {
            return Err(BackupError::Unfit("the passphrase is not one line of at most 1,024 bytes"));
        }
        Ok(Self(Zeroizing::new(line.to_owned())))
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

impl TryFrom<String> for Passphrase {
    type Error = BackupError;

    fn try_from(text: String) -> Result<Self, BackupError> {
        Self::new(&Zeroizing::new(text))
    }
}

impl From<Passphrase> for String {
    fn from(passphrase: Passphrase) -> Self {
        passphrase.expose().to_owned()
    }
}

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Of which moment it is.
    pub made: Timestamp,
    /// Which version of ByteNode made it.
    pub bytenode: String,
    /// The pool.
    pub pool: PoolId,
    /// Version of the catalog.
    pub catalog: u64,
    /// Files in it.
    pub files: u64,
    /// Chunks in it.
    pub chunks: u64,
}

/// A file of the coordinator's directory that is backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// The key that wraps all others.
    #[serde(rename = "master.key")]
    Master,
    /// The key that signs grants.
    #[serde(rename = "signing.key")]
    Signing,
    /// Credentials of nodes.
    #[serde(rename = "nodes.json")]
    Nodes,
    /// The catalog. Always the last.
    #[serde(rename = "catalog.db")]
    Catalog,
}

impl Part {
    /// Its name in the coordinator's directory.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Master => "master.key",
            Self::Signing => "signing.key",
            Self::Nodes => "nodes.json",
            Self::Catalog => "catalog.db",
        }
    }
}

/// What stands in front of the parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    #[serde(flatten)]
    facts: Facts,
    parts: Vec<(Part, u64)>,
}

impl Head {
    /// Every part once, in order.
    fn is_whole(&self) -> bool {
        self.parts.iter().map(|(part, _)| *part).eq([Part::Master, Part::Signing, Part::Nodes, Part::Catalog])
    }
}

/// A part that is to be backed up.
pub struct Source<'a> {
    /// Which.
    pub part: Part,
    /// How long it is.
    pub bytes: u64,
    /// What it holds.
    pub input: &'a mut dyn Read,
}

/// Writes a backup; takes the parts in the order of [`Part`].
///
/// # Errors
/// [`BackupError::Io`], also when a part is not as long as it was said to be. What was written then does not open.
pub fn write(
    out: impl Write,
    passphrase: &Passphrase,
    facts: Facts,
    parts: &mut [Source<'_>],
    seam: &Seam,
) -> Result<(), BackupError> {
    write_at(Cost::USUAL, out, passphrase, facts, parts, seam)
}

fn write_at(
    cost: Cost,
    out: impl Write,
    passphrase: &Passphrase,
    facts: Facts,
    parts: &mut [Source<'_>],
    seam: &Seam,
) -> Result<(), BackupError> {
    let head = Head { facts, parts: parts.iter().map(|source| (source.part, source.bytes)).collect() };
    assert!(head.is_whole(), "every part is given once, in order");
    let mut out = SealingWriter::new(out, passphrase, cost, seam)?;
    let head = serde_json::to_vec(&head).expect("a head is plain data");
    let length = u32::try_from(head.len()).ok().filter(|length| *length <= MAX_HEAD).expect("a head is short");
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&head)?;
    for source in parts {
        // One byte more would show that it grew.
        let written = io::copy(&mut (&mut *source.input).take(source.bytes.saturating_add(1)), &mut out)?;
        if written != source.bytes {
            let what = format!("{} is not as long as it was", source.part.file_name());
            return Err(BackupError::Io(io::Error::other(what)));
        }
    }
    Ok(out.finish()?)
}

/// A backup that was opened: its head proved true, its parts are still to be read.
pub struct Backup<R> {
    head: Head,
    reader: OpeningReader<R>,
}

impl<R: Read> Backup<R> {
    /// Opens a backup. Nothing that it says was changed.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn open(input: R, passphrase: &Passphrase) -> Result<Self, BackupError> {
        let mut reader = OpeningReader::new(input, passphrase)?;
        let mut length = [0; 4];
        exactly(&mut reader, &mut length)?;
        let length = Some(u32::from_be_bytes(length)).filter(|length| *length <= MAX_HEAD).ok_or(ODD)?;
        let mut head = vec![0; length as usize];
        exactly(&mut reader, &mut head)?;
        let head: Head = serde_json::from_slice(&head).map_err(|_| ODD)?;
        if !head.is_whole() {
            return Err(ODD);
        }
        Ok(Self { head, reader })
    }

    /// What it says of itself.
    pub const fn facts(&self) -> &Facts {
        &self.head.facts
    }

    /// Writes every part to where `place` says. Only when this succeeds is any of it whole.
    ///
    /// # Errors
    /// [`BackupError::Io`], [`BackupError::Damaged`], [`BackupError::Place`].
    pub fn extract<W: Write>(mut self, mut place: impl FnMut(Part) -> io::Result<W>) -> Result<Facts, BackupError> {
        let mut buffer = Zeroizing::new(vec![0; SEGMENT]);
        for (part, mut left) in std::mem::take(&mut self.head.parts) {
            let mut out = place(part).map_err(BackupError::Place)?;
            while left > 0 {
                let most = left.min(SEGMENT as u64) as usize;
                let got = self.reader.read(&mut buffer[..most])?;
                if got == 0 {
                    return Err(ODD);
                }
                out.write_all(&buffer[..got]).map_err(BackupError::Place)?;
                left -= got as u64;
            }
            out.flush().map_err(BackupError::Place)?;
        }
        match io::copy(&mut self.reader, &mut io::sink())? {
            0 => Ok(self.head.facts),
            _ => Err(ODD),
        }
    }

    /// Reads it to its end, which proves every byte of it.
    ///
    /// # Errors
    /// As [`Self::extract`].
    pub fn verify(self) -> Result<Facts, BackupError> {
        self.extract(|_| Ok(io::sink()))
    }
}

/// What proves true and yet is not what [`write`] writes.
const ODD: BackupError = BackupError::Damaged("it was not written by ByteNode");

fn exactly(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), BackupError> {
    reader.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ODD,
        _ => error.into(),
    })
}
