//! How the daemons start and stop: arguments, logs, signals. Shared by `bytenoded` and by `bytenode`, which starts
//! itself again for `up` and `demo`.
//!
//! Once it serves, a daemon prints its address as a bare URL on a line of its own on standard output; nothing else goes
//! there. SIGTERM and Ctrl-C let requests under way finish, for at most [`GRACE`].

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long a stop may take.
const GRACE: Duration = Duration::from_secs(30);

/// Options of the coordinator.
#[derive(Debug, Clone, clap::Args)]
pub struct CoordinatorArgs {
    /// Where the catalog and the keys are kept
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7420")]
    pub listen: SocketAddr,
    /// Everything else, as configured.
    #[arg(skip)]
    pub config: Box<bytenode::config::Config>,
}

/// Options of one built-in node.
#[derive(Debug, Clone, clap::Args)]
pub struct NodeArgs {
    /// Where the packs are kept
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "ADDR")]
    pub listen: SocketAddr,
    /// A name for people
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Bytes that it may be filled with, like 500G; without it, what its disk has free
    #[arg(long, value_name = "SIZE", value_parser = bytenode::size::parse)]
    pub capacity: Option<u64>,
    /// Forget the pool that it has joined, and make a new join code
    #[arg(long)]
    pub reset_join: bool,
    /// Serve on an address that is not loopback, though nothing is encrypted
    #[arg(long)]
    pub insecure_http: bool,
}

/// What to run.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one value a process")]
pub enum Role {
    /// The coordinator.
    Coordinator(CoordinatorArgs),
    /// A built-in node.
    Node(NodeArgs),
}

/// How a process stands to the one that started it.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Tie {
    /// Begin a session of its own, and stop when standard input ends before a line comes, which says that this process
    /// was written down; let go of standard output once the address is printed, and of standard input with that line
    #[arg(long)]
    pub detach: bool,
    /// Stop when standard input ends
    #[arg(long)]
    pub stop_on_eof: bool,
    /// Listen on any port where that one is taken
    #[arg(long)]
    pub any_port: bool,
}

/// Runs a daemon until it is told to stop.
pub fn run(role: Role, tie: Tie) -> Result<()> {
    if tie.detach {
        detach().context("cannot begin a session")?;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // A second start in one process, as in tests, keeps the first subscriber.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(serve(role, tie));
    // Blocking threads that hang, like a read of standard input, must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

#[cfg(unix)]
fn detach() -> Result<()> {
    // A process that leads its group already cannot begin a session, and then needs none.
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(unix))]
fn detach() -> Result<()> {
    bail!("the daemons run on Linux and macOS")
}

async fn serve(role: Role, tie: Tie) -> Result<()> {
    let listen = match &role {
        Role::Coordinator(args) => args.listen,
        Role::Node(args) => args.listen,
    };
    let mut listener = TcpListener::bind(listen).await;
    if listener.is_err() && tie.any_port {
        listener = TcpListener::bind((listen.ip(), 0)).await;
    }
    let listener = listener.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr().context("the socket has no address")?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let told = stopped.clone();
    let daemon = async move {
        match role {
            Role::Coordinator(args) => coordinator(listener, args, until(told)).await,
            Role::Node(args) => node(listener, args, until(told)).await,
        }
    };
    let told_to_stop = async {
        tokio::select! {
            signal = signalled() => tracing::info!(signal, "stopping"),
            () = input_ended(), if tie.stop_on_eof => tracing::info!("stopping: standard input ended"),
            () = abandoned(), if tie.detach => bail!("stopped: whoever started this ended before writing it down"),
        }
        stop.send_replace(true);
        tokio::select! {
            signal = signalled() => bail!("stopped at once: {signal} came twice"),
            () = tokio::time::sleep(GRACE) => bail!("stopped: requests under way took longer than {} s", GRACE.as_secs()),
        }
    };
    let announced = async {
        announce(address, tie).await?;
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        result = daemon => result,
        result = told_to_stop => result,
        result = announced => result,
    }
}

async fn until(mut stopped: tokio::sync::watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Runs the coordinator's library.
async fn coordinator(
    listener: TcpListener,
    args: CoordinatorArgs,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let options = bytenode::daemon::coordinator::CoordinatorOptions::configured(&args.config, args.data);
    bytenode::daemon::coordinator::run(listener, options, shutdown).await
}

/// Runs the built-in node's library.
#[cfg(unix)]
async fn node(
    listener: TcpListener,
    args: NodeArgs,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let options = bytenode::daemon::node::NodeOptions {
        data: args.data,
        capacity_bytes: args.capacity,
        name: args.name,
        reset_join: args.reset_join,
        insecure_http: args.insecure_http,
    };
    bytenode::daemon::node::run(listener, options, shutdown).await
}

/// The node's disk format is for systems that can sync a directory.
#[cfg(not(unix))]
async fn node(
    _listener: TcpListener,
    _args: NodeArgs,
    _shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    bail!("the built-in node runs on Linux and macOS")
}

/// Prints the address as soon as something answers there.
async fn announce(address: SocketAddr, tie: Tie) -> Result<()> {
    let answered = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET /livez HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        stream.read_u8().await
    };
    // Without a limit: whoever started this has one, and a catalog may take its time to be brought up to date.
    answered.await.context("does not serve")?;
    let mut out = std::io::stdout().lock();
    // Whoever started it may be gone, which is no reason to stop.
    let _ = writeln!(out, "http://{address}").and_then(|()| out.flush());
    #[cfg(unix)]
    if tie.detach {
        let nothing = std::fs::File::options().write(true).open("/dev/null").context("cannot open /dev/null")?;
        rustix::stdio::dup2_stdout(nothing).context("cannot let go of standard output")?;
    }
    #[cfg(not(unix))]
    let _ = tie;
    Ok(())
}

async fn input_ended() {
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 64];
    // An error ends it like the end of the stream: whoever held the other side is gone.
    while matches!(input.read(&mut buffer).await, Ok(1..)) {}
}

/// Ends when standard input ends without a line; never once one has come.
async fn abandoned() {
    if !matches!(tokio::io::stdin().read_u8().await, Ok(b'\n')) {
        return;
    }
    #[cfg(unix)]
    if let Ok(nothing) = std::fs::File::open("/dev/null") {
        // The pipe has said what it was for; one that stays open does no harm.
        let _ = rustix::stdio::dup2_stdin(nothing);
    }
    std::future::pending().await
}

#[cfg(unix)]
async fn signalled() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
            _ = interrupt.recv() => "interrupt",
            _ = terminate.recv() => "terminate",
        },
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn signalled() -> &'static str {
    match tokio::signal::ctrl_c().await {
        Ok(()) => "interrupt",
        Err(_) => std::future::pending().await,
    }
}
