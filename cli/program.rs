//! A program whose output is stored.

use std::ffi::OsString;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::process::{Child, ChildStdout, Command};

use crate::error::{Failure, Outcome};

/// Reads what a program prints. Where that ends, the program must end too, and well: else reading fails, so that half of
/// an output is never taken for the whole. The program is killed when this is dropped before its end.
pub struct Program {
    name: String,
    child: Child,
    stdout: ChildStdout,
    ended: bool,
}

impl Program {
    /// Starts it, with our standard input and standard error.
    pub fn start(words: &[OsString]) -> Outcome<Self> {
        let name = words[0].to_string_lossy().into_owned();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdout(Stdio::piped()).kill_on_drop(true);
        let broken = |error: io::Error| Failure::io(format!("cannot start {name}"), &error);
        let mut child = command.spawn().map_err(broken)?;
        let stdout = child.stdout.take().expect("standard output is a pipe");
        Ok(Self { name, child, stdout, ended: false })
    }
}

impl AsyncRead for Program {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stdout).poll_read(cx, buffer))?;
        if buffer.filled().len() > before || buffer.remaining() == 0 || this.ended {
            return Poll::Ready(Ok(()));
        }
        let status = ready!(std::pin::pin!(this.child.wait()).poll(cx))?;
        this.ended = status.success();
        if this.ended {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(io::Error::other(format!("{} failed ({status}), so nothing is stored", this.name))))
    }
}
