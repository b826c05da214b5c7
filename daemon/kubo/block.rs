//! `GET` and `HEAD /ipfs/CID?format=raw`: what is asked, and one chunk's bytes or a range of them as the answer.

use std::ops::Range;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::answer::{Refusal, plain, typed};
use super::body::values;
use super::turns::kib;
use crate::id::{ChunkId, PackRoot};

/// Refuses every other form than the bytes as they are.
pub(crate) fn only_raw(uri: &Uri) -> Result<(), Refusal> {
    if values(uri, "format") == ["raw"] { Ok(()) } else { Err(Refusal::Bad("only format=raw is served".to_owned())) }
}

/// What `/ipfs/CID` names: a chunk's digest or a pack root's.
pub(crate) fn digest(cid: &str) -> Result<[u8; 32], Refusal> {
    let chunk = cid.parse::<ChunkId>().map(|chunk| *chunk.digest());
    let root = || cid.parse::<PackRoot>().map(|root| *root.digest());
    chunk.or_else(|_| root()).map_err(|error| Refusal::Bad(error.to_string()))
}

/// Names an answer by the CID.
pub(crate) fn tagged(mut response: Response<Body>, cid: &str) -> Result<Response<Body>, Refusal> {
    let tag = HeaderValue::from_str(&format!("\"{cid}.raw\"")).map_err(|_| Refusal::Bad("no CID".to_owned()))?;
    response.headers_mut().insert(header::ETAG, tag);
    Ok(response)
}

/// Something is not here, and is looked for nowhere else.
pub(crate) fn absent(what: &str) -> Response<Body> {
    plain(StatusCode::PRECONDITION_FAILED, format!("{what} is not here"))
}

/// A chunk's length alone.
pub(crate) fn length(bytes: u64) -> Response<Body> {
    let mut response = raw(StatusCode::OK, Body::empty());
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    response
}

/// A whole chunk, or the range of it that the request's headers ask for. The turn is given back as the bytes go.
pub(crate) fn part<B>(bytes: B, mut turn: OwnedSemaphorePermit, headers: &HeaderMap) -> Response<Body>
where
    B: AsRef<[u8]> + Send + 'static,
{
    // What the chunk does not take is given back at once, the rest when its bytes have been sent.
    let needed = kib(bytes.as_ref().len() as u64) as usize;
    drop(turn.split(turn.num_permits().saturating_sub(needed)));
    let whole = Bytes::from_owner(Held { bytes, _turn: turn });
    let total = whole.len() as u64;
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    match range.and_then(|range| wanted(range, total)) {
        None => raw(StatusCode::OK, Body::from(whole)),
        Some(None) => content_range(raw(StatusCode::RANGE_NOT_SATISFIABLE, Body::empty()), &format!("*/{total}")),
        Some(Some(part)) => {
            let place = format!("{}-{}/{total}", part.start, part.end - 1);
            let from = usize::try_from(part.start).expect("within the chunk");
            let until = usize::try_from(part.end).expect("within the chunk");
            content_range(raw(StatusCode::PARTIAL_CONTENT, Body::from(whole.slice(from..until))), &place)
        }
    }
}

/// A chunk's bytes and the turn that bounds how many there are.
struct Held<B> {
    bytes: B,
    _turn: OwnedSemaphorePermit,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Held<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

fn raw(status: StatusCode, body: Body) -> Response<Body> {
    typed(status, "application/vnd.ipld.raw", body)
}

fn content_range(mut response: Response<Body>, range: &str) -> Response<Body> {
    let value = HeaderValue::from_str(range).map(|range| format!("bytes {}", range.to_str().unwrap_or_default()));
    if let Ok(value) = value.and_then(|value| HeaderValue::from_str(&value)) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// Reads a `Range` header (RFC 9110, 14.2) with one range. Nothing when it is none, which means the whole; inner nothing
/// when it lies outside.
fn wanted(range: &str, total: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = match (first, last) {
        ("", last) => total.saturating_sub(number(last)?)..total,
        (first, "") => number(first)?..total,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(total)
        }
    };
    Some((range.start < range.end).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn ranges_read_as_rfc_9110_says() {
        let cases = [
            ("bytes=0-0", Some(Some(0..1))),
            ("bytes=2-", Some(Some(2..10))),
            ("bytes=-3", Some(Some(7..10))),
            ("bytes=-30", Some(Some(0..10))),
            ("bytes=5-99999999999999999999", None),
            ("bytes=5-18446744073709551615", Some(Some(5..10))),
            ("bytes=10-", Some(None)),
            ("bytes=-0", Some(None)),
            ("bytes=4-2", None),
            ("bytes=0-1,3-4", None),
            ("bytes=-", None),
            ("chunks=1-2", None),
        ];
        for (text, expected) in cases {
            assert_eq!(wanted(text, 10), expected, "{text}");
        }
        assert_eq!(wanted("bytes=0-", 0), Some(None));
    }
}
