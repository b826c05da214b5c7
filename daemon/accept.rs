//! Connections of a server: bounded in number, cut when idle or stuck, ended in good order when the server stops.
//!
//! A client must keep reading its answer: a write that makes no progress for a while fails, so that nobody can keep
//! answers in memory and connections open by not taking them.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};

/// The pause after a connection could not be accepted, as when file descriptors run out.
const PAUSE: Duration = Duration::from_millis(100);

/// What connections may do.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// How many at a time; further ones wait.
    pub(super) connections: usize,
    /// For a request's line and headers, and for a connection without request.
    pub(super) head: Duration,
    /// Since the client last took a byte of its answer.
    pub(super) progress: Duration,
    /// Bytes of a request that are held before they are asked for; its line and headers must fit.
    pub(super) buffer_bytes: usize,
}

/// Serves connections until `shutdown` is done; gives those that then still end the request they are in.
pub(super) async fn accept(
    listener: TcpListener,
    app: Router,
    limits: ConnectionLimits,
    shutdown: impl Future<Output = ()> + Send,
) -> JoinSet<()> {
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, app.clone(), limits, stopping.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(PAUSE).await;
                }
            },
        }
    }
    stop.send_replace(());
    connections
}

/// Serves one connection until it ends, or finishes its request once the server stops.
async fn connection(stream: TcpStream, app: Router, limits: ConnectionLimits, mut stopping: watch::Receiver<()>) {
    // Latency only; a connection without it works.
    let _ = stream.set_nodelay(true);
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(limits.buffer_bytes)
            .serve_connection(TokioIo::new(Guarded::new(stream, limits.progress)), TowerToHyperService::new(app))
    );
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        _ = stopping.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A stream whose other side must keep reading. Reads are left alone: the server bounds them by what it waits for.
struct Guarded<S> {
    stream: S,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    stuck: bool,
}

impl<S> Guarded<S> {
    /// Guards a stream.
    fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, deadline: Box::pin(sleep(limit)), stuck: false }
    }

    /// Passes a result on, unless it has been pending for too long.
    fn guard<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stuck = false;
            return result;
        }
        if !self.stuck {
            self.stuck = true;
            self.deadline.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not take the answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guard(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.guard(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.guard(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.guard(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_stops_is_given_up_and_a_slow_one_is_not() {
        let limit = Duration::from_secs(20);
        let (near, mut far) = tokio::io::duplex(8);
        let mut near = Guarded::new(near, limit);
        let slow = async {
            let mut bytes = [0; 8];
            for _ in 0..5 {
                tokio::time::sleep(limit - Duration::from_secs(1)).await;
                far.read_exact(&mut bytes).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(near.write_all(&[1; 40]), slow);
        written.unwrap();
        let begun = Instant::now();
        let error = near.write_all(&[2; 40]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
    }
}
