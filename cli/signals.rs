//! Ctrl-C and SIGTERM: the first ends the command by dropping its work, the second ends the process at once. SIGUSR1, and
//! Ctrl-T where there is SIGINFO, ask how far it is.

use crate::error::Exit;

/// How long a command has to end after the first signal; one that writes to a pipe that nobody reads never would.
const GRACE: std::time::Duration = std::time::Duration::from_secs(5);

/// Listens to signals from now on; ends when the first comes. After that, a second one or [`GRACE`] ends the process, even
/// if the thread that waits for this is stuck. Must be called on a runtime.
#[cfg(unix)]
pub fn first() -> impl Future<Output = Exit> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tell, told) = tokio::sync::oneshot::channel();
    if let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        tokio::spawn(async move {
            let exit = tokio::select! {
                _ = interrupt.recv() => Exit::Interrupted,
                _ = terminate.recv() => Exit::Terminated,
            };
            // Nobody hears it when the command has ended by itself.
            let _ = tell.send(exit);
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                () = tokio::time::sleep(GRACE) => {}
            }
            std::process::exit(i32::from(exit.number()));
        });
    }
    async {
        match told.await {
            Ok(exit) => exit,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Answers whenever it is asked how far the command is, from now on. Must be called on a runtime.
#[cfg(unix)]
pub fn answer(how_far: impl Fn() + Send + Sync + 'static) {
    use tokio::signal::unix::{SignalKind, signal};
    #[cfg(any(target_os = "macos", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
    let kinds = [SignalKind::user_defined1(), SignalKind::info()];
    #[cfg(not(any(target_os = "macos", target_os = "freebsd", target_os = "netbsd", target_os = "openbsd")))]
    let kinds = [SignalKind::user_defined1()];
    let how_far = std::sync::Arc::new(how_far);
    for mut asked in kinds.into_iter().filter_map(|kind| signal(kind).ok()) {
        let how_far = how_far.clone();
        tokio::spawn(async move {
            while asked.recv().await.is_some() {
                how_far();
            }
        });
    }
}

/// Nobody can ask.
#[cfg(not(unix))]
pub fn answer(_how_far: impl Fn() + Send + 'static) {}

/// Ends when the first Ctrl-C comes.
#[cfg(not(unix))]
pub async fn first() -> Exit {
    match tokio::signal::ctrl_c().await {
        Ok(()) => Exit::Interrupted,
        Err(_) => std::future::pending().await,
    }
}
