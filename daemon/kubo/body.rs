//! Bodies that arrive from clients: every wait has a limit, every gathering a bound.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Uri, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::answer::Refusal;
use crate::grant::Nonce;
use crate::pack::MAX_BYTES;

/// The longest body that is read at all: well above any pack.
pub(crate) const MAX_BODY_BYTES: u64 = 2 * MAX_BYTES;
/// How long a refused body is read on, so that the client sees the refusal and not a reset connection.
const LINGER: Duration = Duration::from_secs(2);
/// A body is worked on in pieces of about this size.
const BATCH_BYTES: usize = 512 << 10;
/// A piece has at most so many frames, so that tiny ones take no memory worth the name.
const BATCH_FRAMES: usize = 64;

/// A body whose next byte must come within a limit.
#[derive(Debug)]
pub(crate) struct Arriving<'a> {
    body: &'a mut Body,
    progress: Duration,
    seen: u64,
}

impl<'a> Arriving<'a> {
    /// Watches over a body.
    pub(crate) const fn new(body: &'a mut Body, progress: Duration) -> Self {
        Self { body, progress, seen: 0 }
    }

    /// The next bytes; nothing at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let frame = timeout(self.progress, self.body.frame()).await.map_err(|_| Refusal::Stalled)?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(Refusal::Bad(format!("the body cannot be read: {error}"))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The next half a mebibyte or so; empty at the end. A body longer than any pack's is refused.
    pub(crate) async fn batch(&mut self) -> Result<Vec<Bytes>, Refusal> {
        let mut batch = Vec::new();
        let mut length = 0;
        while length < BATCH_BYTES && batch.len() < BATCH_FRAMES {
            let Some(bytes) = self.next().await? else { break };
            if !bytes.is_empty() {
                length += bytes.len();
                batch.push(bytes);
            }
        }
        self.seen += length as u64;
        if self.seen > MAX_BODY_BYTES {
            return Err(Refusal::Bad("the body is longer than any pack".to_owned()));
        }
        Ok(batch)
    }

    /// Reads what was refused on for a moment.
    pub(crate) async fn linger(&mut self) {
        let rest = async {
            let mut seen = 0;
            while let Ok(Some(bytes)) = self.next().await {
                seen += bytes.len() as u64;
                if seen > MAX_BODY_BYTES {
                    return;
                }
            }
        };
        // Whether the end came is all the same: the connection is closed if it did not.
        let _ = timeout(LINGER, rest).await;
    }
}

/// The bearer token of a request.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer "));
    token.ok_or_else(|| Refusal::Denied("the request has no grant".to_owned()))
}

/// The kind of a request's body.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default()
}

/// A grant for something else than was asked.
pub(crate) fn wrong_act() -> Refusal {
    Refusal::Denied("the grant is for something else (another act)".to_owned())
}

/// The number that a request wants to have an identity proved for.
pub(crate) fn nonce(uri: &Uri) -> Result<Option<Nonce>, Refusal> {
    let bad = |_| Refusal::Bad("the nonce must be 64 lower-case hex digits".to_owned());
    values(uri, "nonce").first().map(|text| text.parse().map_err(bad)).transpose()
}

/// The values of a query key, in order.
pub(crate) fn values(uri: &Uri, key: &str) -> Vec<String> {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.filter(|(name, _)| name == key).map(|(_, value)| value.into_owned()).collect()
}
