//! A request body of shared pieces that records when the connection last took some of it. Pieces may still be coming.
//!
//! Pieces are never copied; large ones are handed over in slices, so that a slow connection shows progress.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::incoming::Coming;

/// The most bytes that are handed over at once.
const SLICE_BYTES: usize = 64 << 10;

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing of the body has been taken.
    Connecting,
    /// Some of it was taken last at this time.
    Sending(Instant),
    /// It waits for pieces that are coming.
    Waiting,
    /// All of it was taken at this time.
    Sent(Instant),
}

/// Shares the phase of a request with whoever waits for it.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Mutex<Phase>>);

impl Progress {
    pub(super) fn phase(&self) -> Phase {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }
}

/// The body.
#[derive(Debug)]
pub(super) struct Upload {
    pieces: VecDeque<Bytes>,
    left: u64,
    coming: Option<Coming>,
    progress: Progress,
}

/// The pieces that were coming ended too early, or are more than was said.
#[derive(Debug, thiserror::Error)]
#[error("what was to be sent on was cut")]
pub(super) struct Cut;

impl Upload {
    /// A body of these pieces in their order, then what is coming, and its progress.
    pub(super) fn new(pieces: Vec<Bytes>, coming: Option<Coming>) -> (Self, Progress) {
        let pieces: VecDeque<Bytes> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let here: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let left = here + coming.as_ref().map_or(0, |coming| coming.bytes);
        let progress = Progress(Arc::new(Mutex::new(Phase::Connecting)));
        (Self { pieces, left, coming, progress: progress.clone() }, progress)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = match self.pieces.pop_front() {
            Some(piece) => piece,
            None => {
                let polled = self.coming.as_mut().map_or(Poll::Ready(None), |coming| coming.pieces.poll_recv(cx));
                if polled.is_pending() {
                    self.progress.set(Phase::Waiting);
                }
                match ready!(polled).filter(|piece| piece.len() as u64 <= self.left) {
                    Some(piece) => piece,
                    None => return Poll::Ready(Some(Err(Cut))),
                }
            }
        };
        let slice = piece.split_to(piece.len().min(SLICE_BYTES));
        if !piece.is_empty() {
            self.pieces.push_front(piece);
        }
        self.left -= slice.len() as u64;
        let now = Instant::now();
        self.progress.set(if self.left == 0 { Phase::Sent(now) } else { Phase::Sending(now) });
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
