//! The commands: each file has `Args` and `run`. What they share is here.

use std::sync::Arc;

use bytenode::admin::Session;
use bytenode::api::{Api, Code, Entry, Kind, ListRequest};
use bytenode::machine::is_loopback;
use bytenode::monitor::Watch;
use bytenode::path::RemotePath;
use bytenode::put::Context;
use bytenode::seam::Seam;

use crate::args::{Command, Global};
use crate::credentials::Credentials;
use crate::error::{Exit, Failure, Outcome};
use crate::pool::process::Process;
use crate::pool::state::State;
use crate::profile::{Profile, normal_url, variable};
use crate::ui::Ui;
use crate::ui::text::{escaped, nearest};
use crate::{session, signals};

pub mod admin;
pub mod cat;
pub mod check;
pub mod completion;
pub mod cp;
pub mod demo;
pub mod doctor;
pub mod down;
pub mod get;
pub mod help;
pub mod login;
pub mod logout;
pub mod ls;
pub mod man;
pub mod mkdir;
pub mod mv;
pub mod put;
pub mod rm;
pub mod stat;
pub mod status;
pub mod up;
pub mod whoami;

/// Entries in one page of a listing.
const PAGE: u32 = 1000;

/// What a command works with.
#[derive(Clone)]
pub struct Ctx {
    /// Where things are printed.
    pub ui: Arc<Ui>,
    /// The pool's settings.
    pub profile: Profile,
    /// Time and chance.
    pub seam: Seam,
    /// A session that is open already: the demo's.
    pub open: Option<Arc<dyn Session>>,
}

impl Ctx {
    /// The coordinator's address: environment, user file, or where this profile signed in last.
    pub fn url(&self, credentials: &Credentials) -> Option<String> {
        self.profile.url.clone().or_else(|| credentials.profiles.get(&self.profile.name).cloned())
    }

    /// A session with the coordinator. Contacts nobody yet.
    pub fn session(&self) -> Outcome<Arc<dyn Session>> {
        if let Some(open) = &self.open {
            return Ok(open.clone());
        }
        let from_environment = variable("BYTENODE_TOKEN")?;
        // With everything in the environment, the file is not even looked at.
        let credentials = match (&from_environment, &self.profile.url) {
            (Some(_), Some(_)) => Credentials::default(),
            _ => Credentials::load(&self.profile.dirs.state)?,
        };
        let Some(url) = self.url(&credentials) else {
            return Err(Failure::new(Code::Temporary, "no coordinator is known")
                .hint("bytenode up (or bytenode login URL for one that runs elsewhere)"));
        };
        let url = normal_url(&url)?;
        if let Some(token) = from_environment {
            return session::connect(&url, &token);
        }
        let ours = self.check_ours(&url)?;
        match (credentials.token(&url).map(|token| token.expose()), ours) {
            (Some(token), Some(process)) => session::follow(&url, token, process.locate(&self.profile)),
            (Some(token), None) => session::connect(&url, token),
            (None, _) => Err(Failure::new(Code::NotSignedIn, format!("not signed in to {url}"))
                .hint(format!("bytenode login {url}"))),
        }
    }

    /// Refuses the address at which `up` started this profile's coordinator, once that has ended: whoever listens there
    /// now must not be given a token. Gives the process where it is this profile's.
    pub fn check_ours(&self, url: &str) -> Outcome<Option<Process>> {
        let started = State::load(&self.profile)?.and_then(|pool| pool.coordinator);
        match started.filter(|process| process.url == url) {
            Some(process) if !process.runs() => {
                let message = format!("the coordinator at {url} does not run");
                Err(Failure::new(Code::Temporary, message).hint("bytenode up"))
            }
            ours => Ok(ours),
        }
    }

    /// What put and get work with.
    pub fn context(&self, session: &Arc<dyn Session>, watch: Watch) -> Outcome<Context> {
        let api: Arc<dyn Api> = session.clone();
        Ok(Context { api, dial: session::dialler(&self.seam), seam: self.seam.clone(), watch })
    }

    /// Names this machine for the coordinator.
    pub fn machine(&self) -> String {
        bytenode::machine::identity(&self.seam)
    }
}

/// Runs one command to its end, or to the first signal.
pub fn run(command: Command, global: &Global, ui: &Arc<Ui>) -> Outcome<Exit> {
    match command {
        Command::Completion(args) => return completion::run(ui, &args),
        Command::Man(args) => return man::run(ui, &args),
        Command::Help(args) => return help::run(ui, &args),
        _ => {}
    }
    let profile = Profile::load(global.profile.as_deref(), global.config.as_deref())?;
    let ctx = Ctx { ui: ui.clone(), profile, seam: Seam::real(), open: None };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("cannot start", &error))?;
    let resume = resume(&command);
    let outcome = runtime.block_on(async {
        // Listened to before the command does anything.
        let signal = signals::first();
        let (asked, started) = (ctx.ui.clone(), std::time::Instant::now());
        signals::answer(move || asked.how_far(started.elapsed()));
        tokio::select! {
            biased;
            exit = signal => Err(Failure::signal(exit, resume)),
            outcome = dispatch(&ctx, command) => outcome,
        }
    });
    // A thread that waits for standard input must not hold the process.
    runtime.shutdown_background();
    outcome.map_err(|failure| hinted(&ctx, failure))
}

async fn dispatch(ctx: &Ctx, command: Command) -> Outcome<Exit> {
    match command {
        Command::Up(args) => up::run(ctx, &args).await,
        Command::Down(args) => down::run(ctx, &args).await,
        Command::Demo(args) => demo::run(ctx, &args).await,
        Command::Status(args) => status::run(ctx, &args).await,
        Command::Login(args) => login::run(ctx, &args).await,
        Command::Logout(args) => logout::run(ctx, &args).await,
        Command::Whoami(args) => whoami::run(ctx, &args).await,
        Command::Put(args) => put::run(ctx, &args).await,
        Command::Get(args) => get::run(ctx, &args).await,
        Command::Cat(args) => cat::run(ctx, &args).await,
        Command::Ls(args) => ls::run(ctx, &args).await,
        Command::Stat(args) => stat::run(ctx, &args).await,
        Command::Check(args) => check::run(ctx, &args).await,
        Command::Rm(args) => rm::run(ctx, &args).await,
        Command::Mv(args) => mv::run(ctx, &args).await,
        Command::Cp(args) => cp::run(ctx, &args).await,
        Command::Mkdir(args) => mkdir::run(ctx, &args).await,
        Command::Admin(command) => admin::run(ctx, &command).await,
        Command::Doctor(args) => doctor::run(ctx, &args).await,
        Command::InternalComplete(word) => completion::complete(ctx, &word).await,
        Command::Completion(_) | Command::Man(_) | Command::Help(_) => unreachable!("handled before"),
        Command::InternalCoordinator(_) | Command::InternalNode(_) => unreachable!("handled before"),
    }
}

/// What to do after an interruption.
const fn resume(command: &Command) -> &'static str {
    match command {
        Command::Put(_) => "run the same command again: what is stored already is not sent again",
        Command::Get(_) => "run the same command again: what is here already is not fetched again",
        Command::Up(_) => "run the same command again: what runs already is left as it is",
        Command::Admin(admin::Command::Backup(_)) => "run the same command again: nothing was kept",
        Command::Admin(_) => "the coordinator goes on with it; see: bytenode admin task ls",
        _ => "",
    }
}

/// A coordinator on this machine that does not answer was probably never started; a token from the environment is not
/// mended by signing in.
fn hinted(ctx: &Ctx, mut failure: Failure) -> Failure {
    if failure.code == Code::NotSignedIn.as_str() && matches!(variable("BYTENODE_TOKEN"), Ok(Some(_))) {
        failure.hint =
            Some("the token is that of BYTENODE_TOKEN: unset it to use the one that bytenode login kept".into());
    }
    if failure.exit != Exit::Temporary || failure.hint.is_some() {
        return failure;
    }
    let url = Credentials::load(&ctx.profile.dirs.state).ok().and_then(|credentials| ctx.url(&credentials));
    match url {
        Some(url) if is_loopback(&url) => failure.hint("bytenode up"),
        _ => failure,
    }
}

/// A remote path as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// The path.
    pub path: RemotePath,
    /// Whether a slash followed it, which demands a directory.
    pub slash: bool,
}

/// Reads a remote path.
pub fn typed(text: &str) -> Outcome<Typed> {
    match RemotePath::parse_typed(text) {
        Ok((path, slash)) => Ok(Typed { path, slash }),
        Err(error) => {
            let failure = Failure::from(error);
            let meant = RemotePath::parse_typed(&format!("bn:/{}", text.trim_start_matches(['.', '/'])));
            Err(match meant {
                Ok((meant, _)) if !text.starts_with("bn:") && !meant.is_root() => {
                    failure.hint(format!("did you mean {meant}?"))
                }
                _ => failure,
            })
        }
    }
}

/// What is at a path; the root is always a directory.
pub async fn kind_at(session: &Arc<dyn Session>, path: &RemotePath) -> Outcome<Option<Kind>> {
    if path.is_root() {
        return Ok(Some(Kind::Dir));
    }
    let found = session.lookup(std::slice::from_ref(path)).await?;
    Ok(found.into_iter().next().flatten().map(|entry| entry.kind))
}

/// The entry at a typed path; a slash demands a directory. What is missing comes with what was probably meant.
pub async fn entry_at(session: &Arc<dyn Session>, typed: &Typed) -> Outcome<Entry> {
    let entry = match session.stat(&typed.path).await {
        Ok(entry) => entry,
        Err(error) if error.code == Code::NotFound => return Err(missing(session, &typed.path).await),
        Err(error) => return Err(error.into()),
    };
    if typed.slash && entry.kind == Kind::File {
        let path = typed.path.to_string();
        return Err(Failure::usage(format!("{path}/ is a file, not a directory")).hint(format!("did you mean {path}?")));
    }
    Ok(entry)
}

/// Says that nothing is there, and what was probably meant.
pub async fn missing(session: &Arc<dyn Session>, path: &RemotePath) -> Failure {
    let failure = Failure::new(Code::NotFound, format!("{path} does not exist"));
    let (Some(name), Some(parent)) = (path.name(), path.parent()) else { return failure };
    let request = ListRequest { path: parent.clone(), recursive: false, cursor: None, limit: PAGE };
    let Ok(page) = session.list(&request).await else { return failure };
    let near = nearest(name, page.items.iter().filter_map(|entry| entry.path.name()));
    match near.and_then(|near| parent.join(near).ok()) {
        Some(near) => failure.hint(format!("did you mean {near}?")),
        None => failure.hint(format!("bytenode ls {}", escaped(&parent.to_string()))),
    }
}

/// Refuses `--json` where the output is a stream of its own.
pub fn no_json(ui: &Ui, what: &str) -> Outcome<()> {
    if ui.json {
        return Err(Failure::usage(format!("--json cannot be used with {what}")));
    }
    Ok(())
}
