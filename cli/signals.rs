//! Ctrl-C and SIGTERM: the first ends the command by dropping its work, the second ends the process at once.

use crate::error::Exit;

/// Ends when the first signal comes. From then on a second one ends the process.
#[cfg(unix)]
pub async fn first() -> Exit {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let exit = tokio::select! {
        _ = interrupt.recv() => Exit::Interrupted,
        _ = terminate.recv() => Exit::Terminated,
    };
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        std::process::exit(i32::from(exit.number()));
    });
    exit
}

/// Ends when the first Ctrl-C comes.
#[cfg(not(unix))]
pub async fn first() -> Exit {
    match tokio::signal::ctrl_c().await {
        Ok(()) => Exit::Interrupted,
        Err(_) => std::future::pending().await,
    }
}
