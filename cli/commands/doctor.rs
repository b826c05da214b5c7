//! `doctor`: what could be wrong, with the command that mends it.
//!
//! It ends within half a minute, whatever hangs: what needs no other is asked at once, and everything has a limit. What
//! the user may not see is left out.

mod finding;
mod judge;
mod local;
mod reach;

use std::time::Duration;

use bytenode::admin::{NodeInfo, NodeRisks, Role, Session, Status, WhoAmI};
use bytenode::api::{ApiResult, Code};
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout;

use self::finding::{Finding, Weight};
use self::reach::Tried;
use crate::args::{examples, exits};
use crate::commands::Ctx;
use crate::commands::admin::backup;
use crate::error::{Exit, Failure, Outcome};
use crate::pool::state::State;
use crate::ui::text::{age, plural};

/// How long the coordinator may take to say who one is, which it knows by itself.
const FIRST: Duration = Duration::from_secs(7);
/// How long each further call may take; it asks all nodes, which may hang. They run at once.
const FURTHER: Duration = Duration::from_secs(20);

/// Look for everything that could be wrong, and say what mends it
#[derive(Debug, clap::Args)]
#[command(before_help = examples(&["bytenode doctor"]), after_help = exits(&[Exit::Problems]))]
pub struct Args {}

#[derive(Serialize)]
struct SummaryRecord {
    #[serde(rename = "type")]
    kind: &'static str,
    checks: u64,
    risks: u64,
    failed: u64,
}

/// What the coordinator and the nodes said.
struct Asked {
    me: WhoAmI,
    status: ApiResult<Status>,
    tried: ApiResult<Vec<Tried>>,
    risks: ApiResult<Vec<NodeRisks>>,
}

/// What `up` knows of the nodes.
struct Started {
    stopped: Vec<String>,
    nodes: Vec<String>,
    data: Option<String>,
}

/// Runs it.
pub async fn run(ctx: &Ctx, _args: &Args) -> Outcome<Exit> {
    let pool = State::load(&ctx.profile);
    let mut all = local::look(ctx, &pool);
    tell(ctx, &all)?;
    let found = examine(ctx, pool.ok().flatten()).await;
    tell(ctx, &found)?;
    all.extend(found);
    let count = |weight| all.iter().filter(|finding| finding.result == weight).count() as u64;
    let (checks, risks, failed) = (all.len() as u64, count(Weight::Risk), count(Weight::Failed));
    ctx.ui.note(&format!("{}, {}, {failed} failed.", plural(checks, "check"), plural(risks, "risk")));
    ctx.ui.record(&SummaryRecord { kind: "summary", checks, risks, failed })?;
    Ok(if failed > 0 { Exit::Problems } else { Exit::Done })
}

fn tell(ctx: &Ctx, findings: &[Finding]) -> Outcome<()> {
    if !findings.is_empty() {
        ctx.ui.data(finding::text(findings).trim_end())?;
    }
    findings.iter().try_for_each(|finding| ctx.ui.record(&finding.record()))
}

/// What the coordinator and the nodes say.
async fn examine(ctx: &Ctx, pool: Option<State>) -> Vec<Finding> {
    let session = match ctx.session() {
        Ok(session) => session,
        Err(failure) => return vec![Finding::failure("coordinator", &failure)],
    };
    let before = ctx.seam.now();
    let me = match within(FIRST, session.whoami()).await {
        Ok(me) => me,
        Err(error) => {
            let failure = crate::commands::hinted(ctx, error.into());
            return vec![Finding::failure("coordinator", &failure)];
        }
    };
    let after = ctx.seam.now();
    let mut found = coordinator(&me, before, after);
    let asked = ask(ctx, &*session, me).await;
    let started = Started {
        stopped: pool.iter().flat_map(State::stopped).map(str::to_owned).collect(),
        nodes: pool.iter().flat_map(|pool| &pool.nodes).map(|node| node.name.clone()).collect(),
        data: pool.as_ref().map(|pool| pool.data.join("coordinator").display().to_string()),
    };
    found.extend(judged(&asked, &started));
    if let Ok(status) = &asked.status {
        if asked.me.role == Role::Admin {
            found.push(backed_up(ctx, status.backed_up));
        }
        found.push(judge::copies(status));
    }
    found
}

/// Asks everything else at once.
async fn ask(ctx: &Ctx, session: &dyn Session, me: WhoAmI) -> Asked {
    let tried = async {
        let ways = within(Duration::from_secs(5), session.ways(&ctx.machine())).await?;
        Ok(reach::try_all(ways, &ctx.seam).await)
    };
    let risks = async {
        match me.role {
            Role::Admin => within(FURTHER, session.risks()).await,
            Role::User => Ok(Vec::new()),
        }
    };
    let (status, tried, risks) = tokio::join!(within(FURTHER, session.status()), tried, risks);
    Asked { me, status, tried, risks }
}

async fn within<T>(limit: Duration, call: impl Future<Output = ApiResult<T>>) -> ApiResult<T> {
    timeout(limit, call).await.unwrap_or_else(|_| {
        let message = format!("the coordinator did not answer within {} s", limit.as_secs());
        Err(bytenode::api::ApiError::new(Code::Temporary, message))
    })
}

/// What its first answer tells, which came between these moments.
fn coordinator(me: &WhoAmI, before: Timestamp, after: Timestamp) -> Vec<Finding> {
    let way = u64::try_from(after.duration_since(before).as_millis()).unwrap_or(0);
    let mut found = vec![
        Finding::ok("coordinator", format!("answers in {way} ms; signed in as {}", me.user)),
        judge::version(env!("CARGO_PKG_VERSION"), &me.version),
    ];
    if let Some(clock) = me.clock {
        let middle = before + after.duration_since(before) / 2;
        let ahead = i64::try_from(clock.duration_since(middle).as_millis()).unwrap_or(i64::MAX);
        found.push(judge::own_clock(ahead, way.div_ceil(2)));
    }
    found
}

/// The pool, then each node.
fn judged(asked: &Asked, started: &Started) -> Vec<Finding> {
    let unasked = |check: &str, error: &bytenode::api::ApiError, hint: &str| {
        Finding::risk(check, format!("cannot be told: {}", error.message), error.hint.as_deref().unwrap_or(hint))
    };
    let admin = asked.me.role == Role::Admin;
    let for_them = |finding: Finding| if admin { finding } else { finding.for_admins() };
    let mut found = Vec::new();
    let nodes = match &asked.status {
        Ok(status) => {
            found.push(charge(status));
            found.extend(status.disk.map(|disk| judge::catalog_disk(&disk, started.data.as_deref())));
            found.extend(judge::pool(status).into_iter().map(for_them));
            status.nodes.as_slice()
        }
        Err(error) => {
            found.push(Finding::failure("pool", &Failure::from(error.clone())));
            &[]
        }
    };
    let none = Vec::new();
    let tried = asked.tried.as_ref().unwrap_or_else(|error| {
        found.push(for_them(unasked("reach", error, "bytenode admin node test --all")));
        &none
    });
    let all = Vec::new();
    let risks = asked.risks.as_ref().unwrap_or_else(|error| {
        found.push(unasked("risks", error, "bytenode admin node test --all"));
        &all
    });
    for info in nodes {
        let tried = tried.iter().find(|tried| tried.way.address.id == info.id);
        let risks = risks.iter().find(|risks| risks.node == info.name);
        found.extend(node(info, tried, risks, &asked.me, started).into_iter().map(for_them));
    }
    // Whether this machine reaches them is known even where the coordinator does not know how they are.
    let unknown = tried.iter().filter(|tried| nodes.iter().all(|info| info.id != tried.way.address.id));
    found.extend(unknown.map(|tried| {
        let name = &tried.way.address.name;
        for_them(reach::judge(tried, Some(&mend(name, started))).of(name))
    }));
    found
}

/// The command for a node that does not answer.
fn mend(name: &str, started: &Started) -> String {
    match started.stopped.iter().any(|stopped| stopped == name) {
        true => "bytenode up".to_owned(),
        false => format!("bytenode admin node test {name}"),
    }
}

/// Everything of one node. Of one that does not answer, nothing is told that it said before.
fn node(
    info: &NodeInfo,
    tried: Option<&Tried>,
    risks: Option<&NodeRisks>,
    me: &WhoAmI,
    started: &Started,
) -> Vec<Finding> {
    let mend = mend(&info.name, started);
    let answers = info.failure.is_none();
    let mut found = vec![judge::state(info, &mend)];
    if answers {
        found.extend(judge::node_version(info, &me.version, started.nodes.contains(&info.name)));
    }
    found.extend(tried.map(|tried| reach::judge(tried, (!answers).then_some(&mend))));
    if answers {
        found.extend(judge::node_clock(info));
        found.extend(judge::node_room(info));
        found.extend(risks.iter().flat_map(|risks| judge::risks(&risks.checks)));
    }
    found.into_iter().map(|finding| finding.of(&info.name)).collect()
}

/// Whether the coordinator is in charge.
fn charge(status: &Status) -> Finding {
    match &status.read_only {
        Some(why) => {
            let message = format!("the coordinator takes no changes: {why}");
            Finding::failed("charge", message, "bytenode admin adopt --help")
        }
        None => Finding::ok("charge", "the coordinator takes changes"),
    }
}

/// When the coordinator was last backed up.
fn backed_up(ctx: &Ctx, last: Option<Timestamp>) -> Finding {
    let now = ctx.seam.now();
    match (backup::complaint(last, now), last) {
        (None, Some(made)) => Finding::ok("backup", format!("the last is of {}", age(made, now))),
        (what, _) => {
            let what = what.unwrap_or_default();
            let message = format!("{what}; losing the coordinator's directory without one loses everything");
            Finding::risk("backup", message, format!("each night, from cron: {}", backup::cron_line(ctx)))
        }
    }
}

#[cfg(test)]
#[path = "doctor/tests.rs"]
mod tests;
