//! Takes the one part out of a `multipart/form-data` body (RFC 7578) as it arrives.
//!
//! With exactly one part the end of the body is known, so nothing is searched for in the payload and only the last few
//! bytes are held back. (The usual library buffers whatever the socket has ready, which is not bounded.) A second part
//! would end up in the payload, which its reader refuses.

use bytes::{Bytes, BytesMut};

/// The longest head of a part, in bytes.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// The longest boundary (RFC 2046, 5.1.1).
const MAX_BOUNDARY_BYTES: usize = 70;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not multipart/form-data with one part")]
pub(crate) struct NotOnePart;

#[derive(Debug)]
pub(crate) struct PartReader {
    buffer: BytesMut,
    first: Vec<u8>,
    last: Vec<u8>,
    headed: bool,
}

impl PartReader {
    /// Takes the request's content type.
    pub(crate) fn new(content_type: &str) -> Result<Self, NotOnePart> {
        let (kind, parameters) = content_type.split_once(';').ok_or(NotOnePart)?;
        if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
            return Err(NotOnePart);
        }
        let boundary = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
        });
        let boundary = boundary.filter(|text| (1..=MAX_BOUNDARY_BYTES).contains(&text.len())).ok_or(NotOnePart)?;
        Ok(Self {
            buffer: BytesMut::new(),
            first: format!("--{boundary}\r\n").into_bytes(),
            last: format!("\r\n--{boundary}--").into_bytes(),
            headed: false,
        })
    }

    /// Takes bytes as they arrive; gives the payload that is known to be payload.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Bytes, NotOnePart> {
        self.buffer.extend_from_slice(bytes);
        if !self.headed {
            let start = &self.buffer[..self.buffer.len().min(self.first.len())];
            if !self.first.starts_with(start) {
                return Err(NotOnePart);
            }
            let head = &self.buffer[..self.buffer.len().min(MAX_HEAD_BYTES)];
            let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                return if head.len() < MAX_HEAD_BYTES { Ok(Bytes::new()) } else { Err(NotOnePart) };
            };
            let _head = self.buffer.split_to(end + 4);
            self.headed = true;
        }
        // The end may be followed by one line break.
        let payload = self.buffer.len().saturating_sub(self.last.len() + 2);
        Ok(self.buffer.split_to(payload).freeze())
    }

    /// Ends the body; gives the rest of the payload.
    pub(crate) fn finish(self) -> Result<Bytes, NotOnePart> {
        let rest = self.buffer.strip_suffix(b"\r\n").filter(|rest| rest.ends_with(&self.last)).unwrap_or(&self.buffer);
        let payload = rest.strip_suffix(&self.last[..]).filter(|_| self.headed).ok_or(NotOnePart)?;
        Ok(Bytes::copy_from_slice(payload))
    }
}

#[cfg(test)]
mod tests {
    use super::{NotOnePart, PartReader};

    fn read(body: &[u8], step: usize) -> Result<Vec<u8>, NotOnePart> {
        let mut reader = PartReader::new("multipart/form-data; boundary=\"xyz\"")?;
        let mut out = Vec::new();
        for bytes in body.chunks(step) {
            out.extend_from_slice(&reader.push(bytes)?);
        }
        out.extend_from_slice(&reader.finish()?);
        Ok(out)
    }

    #[test]
    fn the_part_comes_out_however_it_arrives_and_all_else_is_refused() {
        let body = b"--xyz\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n\r\n--xy payload\r\n\r\n--xyz--\r\n";
        for step in 1..body.len() {
            assert_eq!(read(body, step).unwrap(), b"\r\n--xy payload\r\n", "{step}");
            assert_eq!(read(&body[..body.len() - 2], step).unwrap(), b"\r\n--xy payload\r\n", "{step}");
        }
        for bad in [&body[..body.len() - 3], b"--xyz--", b"", &[b'a'; 9000], &[&body[..9], &[b'a'; 9000]].concat()] {
            assert_eq!(read(bad, 7), Err(NotOnePart));
        }
        for bad in ["", "text/plain", "multipart/form-data", "multipart/form-data; boundary="] {
            assert!(PartReader::new(bad).is_err(), "{bad}");
        }
    }
}
