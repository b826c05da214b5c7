//! Writing one new file from its beginning to its end.
//!
//! Long files go past the system's cache where it can be told to (`O_DIRECT` on Linux): what is stored or fetched is
//! not read again soon, a sync at the end finds nothing left to do, and no copy of it pushes out what others use. Where
//! a file system refuses that, it is written the usual way. Nothing is durable before the caller has synced the file.

use std::fs::File;
use std::io;

use crate::files;

/// Bytes gathered to one write. A shorter file is written the usual way, at its end.
const BUFFER_BYTES: usize = 1 << 20;
/// What addresses, lengths and offsets of direct writes are multiples of: no disk has larger blocks.
const ALIGN_BYTES: usize = 4096;

/// A file that is being written. Holds at most one buffer of a mebibyte.
#[derive(Debug)]
pub(crate) struct FileWriter {
    file: File,
    /// What is not written yet, behind so many unused bytes that it begins at an aligned address.
    buffer: Vec<u8>,
    unused: usize,
    written: u64,
    direct: Direct,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direct {
    Untried,
    On,
    Refused,
}

impl FileWriter {
    /// Takes a file that is empty.
    pub(crate) fn new(file: File) -> Self {
        Self { file, buffer: Vec::new(), unused: 0, written: 0, direct: Direct::Untried }
    }

    /// Cuts the file off after so many bytes, and goes on there. Only before anything was appended.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn start_at(&mut self, at: u64) -> io::Result<()> {
        files::end_at(&self.file, at)?;
        self.written = at;
        if !at.is_multiple_of(ALIGN_BYTES as u64) {
            self.direct = Direct::Refused;
        }
        Ok(())
    }

    /// Appends bytes; they reach the file at the latest with [`Self::flush`].
    ///
    /// # Errors
    /// When the disk fails; the file then ends with a part of what was appended.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(BUFFER_BYTES + ALIGN_BYTES);
            self.unused = self.buffer.as_ptr().align_offset(ALIGN_BYTES);
            self.buffer.resize(self.unused, 0);
        }
        while !bytes.is_empty() {
            let full = self.unused + BUFFER_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(full - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == full {
                self.write_out()?;
            }
        }
        Ok(())
    }

    /// Appends so many zeros, as a hole where nothing waits to be written before it.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub(crate) fn skip(&mut self, bytes: usize) -> io::Result<()> {
        if self.buffer.len() > self.unused {
            return self.write(&vec![0; bytes]);
        }
        self.written += bytes as u64;
        files::end_at(&self.file, self.written)
    }

    /// Writes what is left, and asks the system to begin carrying it to the disk, so that a sync, or one of many syncs
    /// of small files, finds it under way. Only for the end of the file: what is appended afterwards goes the usual way.
    ///
    /// # Errors
    /// As for [`Self::write`].
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.direct == Direct::On {
            set_direct(&self.file, false)?;
        }
        self.direct = Direct::Refused;
        self.write_out()
    }

    /// The file, without what [`Self::flush`] has yet to write.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn write_out(&mut self) -> io::Result<()> {
        if self.direct == Direct::Untried {
            self.direct = if set_direct(&self.file, true).is_ok() { Direct::On } else { Direct::Refused };
        }
        let mut rest = &self.buffer[self.unused..];
        let bytes = rest.len() as u64;
        while !rest.is_empty() {
            match files::write(&self.file, rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A file system may agree to it and refuse the write, or what is left after a short one.
                Err(error) if self.direct == Direct::On && error.kind() == io::ErrorKind::InvalidInput => {
                    set_direct(&self.file, false)?;
                    self.direct = Direct::Refused;
                }
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(self.unused);
        if self.direct == Direct::Refused {
            begin_writeback(&self.file, self.written, bytes);
        }
        self.written += bytes;
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(rustix::fs::OFlags::DIRECT, on);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn set_direct(_file: &File, _on: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// On Linux, "not needed" begins writing dirty pages back without waiting (mm/fadvise.c). A hint, which changes no
/// content, makes nothing durable and reports no error: that stays with the sync.
#[cfg(target_os = "linux")]
fn begin_writeback(file: &File, from: u64, bytes: u64) {
    if let Some(bytes) = std::num::NonZeroU64::new(bytes) {
        // A system that refuses the hint only syncs later.
        let _ = rustix::fs::fadvise(file, from, Some(bytes), rustix::fs::Advice::DontNeed);
    }
}

#[cfg(not(target_os = "linux"))]
fn begin_writeback(_file: &File, _from: u64, _bytes: u64) {}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Writes in pieces of `step` bytes and reads everything back.
    fn written(direct: Direct, bytes: &[u8], step: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut writer = FileWriter { direct, ..FileWriter::new(tempfile::tempfile().unwrap()) };
        for piece in bytes.chunks(step) {
            writer.write(piece).unwrap();
        }
        writer.flush().unwrap();
        let mut back = vec![0; bytes.len()];
        writer.file().read_exact_at(&mut back, 0).unwrap();
        assert_eq!(writer.file().metadata().unwrap().len(), bytes.len() as u64);
        back
    }

    #[test]
    fn holes_read_back_as_zeros_wherever_they_are() {
        use std::os::unix::fs::FileExt;
        let mut writer = FileWriter::new(tempfile::tempfile().unwrap());
        let mut whole = Vec::new();
        for (bytes, holes) in
            [(0, BUFFER_BYTES), (BUFFER_BYTES, 5000), (3, BUFFER_BYTES), (BUFFER_BYTES - 3, 1), (9, 0)]
        {
            writer.write(&vec![7; bytes]).unwrap();
            writer.skip(holes).unwrap();
            whole.resize(whole.len() + bytes, 7);
            whole.resize(whole.len() + holes, 0);
        }
        writer.flush().unwrap();
        let mut back = vec![0; whole.len()];
        writer.file().read_exact_at(&mut back, 0).unwrap();
        assert!(back == whole);
        assert_eq!(writer.file().metadata().unwrap().len(), whole.len() as u64);
    }

    #[test]
    fn a_file_goes_on_wherever_it_was_cut_off() {
        use std::os::unix::fs::FileExt;
        let bytes: Vec<u8> = (0..3 * BUFFER_BYTES).map(|at| (at / 7 + at / 4096) as u8).collect();
        for at in [0, 1, 4095, 4096, BUFFER_BYTES, BUFFER_BYTES + 5, 3 * BUFFER_BYTES] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes[..at]).unwrap();
            file.write_all(b"what was cut off").unwrap();
            let mut writer = FileWriter::new(file);
            writer.start_at(at as u64).unwrap();
            writer.write(&bytes[at..]).unwrap();
            writer.flush().unwrap();
            let mut back = vec![0; bytes.len()];
            writer.file().read_exact_at(&mut back, 0).unwrap();
            assert!(back == bytes, "cut off at {at}");
            assert_eq!(writer.file().metadata().unwrap().len(), bytes.len() as u64);
        }
    }

    #[test]
    fn every_length_in_every_step_reads_back() {
        let bytes: Vec<u8> = (0..3 * BUFFER_BYTES + 4097).map(|at| (at / 7 + at / 4096) as u8).collect();
        for length in [0, 1, 4096, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES + 4097] {
            for step in [1000, 4096, BUFFER_BYTES + 36, 4 * BUFFER_BYTES] {
                for direct in [Direct::Untried, Direct::Refused] {
                    let back = written(direct, &bytes[..length], step);
                    assert!(back == bytes[..length], "{length} bytes in steps of {step}, {direct:?}");
                }
            }
        }
    }
}
