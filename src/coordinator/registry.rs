//! The nodes as the coordinator knows them now: how to reach them, whether they answer, how full they are.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::admin::NodeState;
use crate::api::NodeKind;
use crate::catalog::nodes::{Draining, NodeRow};
use crate::grant::{MAX_SKEW, PublicKey};
use crate::id::{NodeId, PackId, PackRoot};
use crate::node::{NodeError, NodeFailure, NodeStatus, SharedNode};
use crate::pack::MAX_CHUNK_BYTES;
use crate::place::{PlaceNode, Topology};

/// Packs that repair writes to a member at once.
const WRITERS: usize = 3;
/// A member that came back so often within [`TOGETHER`]
const FLAPS: usize = 3;
/// after it had not answered for so long, comes and goes,
const OUTAGE: Duration = Duration::from_secs(10);
/// until it has answered for so long.
const STEADY: Duration = Duration::from_secs(60);
/// Members that fail within this time of each other are taken to fail for one reason.
const TOGETHER: Duration = Duration::from_secs(600);

/// A registered node and its present state.
#[derive(Debug)]
pub struct Member {
    /// As registered.
    pub row: NodeRow,
    /// The way to it, with the coordinator's own credential.
    pub node: SharedNode,
    now: Mutex<Now>,
    comparing: tokio::sync::Mutex<()>,
    /// Turns of repair to write to it.
    writing: Arc<tokio::sync::Semaphore>,
}

/// A pack of this pool that no row of the catalog is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stranger {
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub id: PackId,
}

#[derive(Debug, Clone, Default)]
struct Now {
    /// What it holds was compared with the catalog since it began to answer.
    compared: bool,
    /// Then it was told of this start, and nothing spoke against that.
    agrees: bool,
    /// Roots that the catalog does not know: what they are, if they are of this pool.
    unknown: HashMap<PackRoot, Option<Stranger>>,
    failing_since: Option<Instant>,
    /// Since when it answers, but does not list what it has so that it can be believed.
    unlisted_since: Option<Instant>,
    failure: Option<String>,
    full: bool,
    latency: Option<Duration>,
    free_bytes: Option<u64>,
    pending_bytes: u64,
    used_bytes: u64,
    version: Option<String>,
    clock_skew: Option<SignedDuration>,
    /// Since when it runs, if it may have lost what it was given shortly before: as it tells, and by this clock.
    started: Option<(Timestamp, Timestamp)>,
    /// What was written down of it last: since when it did not answer, and why, if it did not.
    noted: Option<(Instant, String)>,
    /// When the last few times ended that it did not answer for a while.
    outages: VecDeque<Instant>,
    /// Since when it answers, after the last of those.
    answering_since: Option<Instant>,
}

/// A change in a member's life.
#[derive(Debug, Clone)]
pub struct Change {
    /// How long it has not answered, and why; nothing if it answers again.
    pub failing: Option<(Duration, String)>,
    /// What happened, for people.
    pub text: String,
}

/// A copy of a member's state.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its state.
    pub state: NodeState,
    /// Whether it answered when it was last asked.
    pub answers: bool,
    /// Whether it was told, since it began to answer, who is in charge.
    pub agrees: bool,
    /// Whether new chunks may go to it.
    pub open: bool,
    /// How long it has not answered.
    pub failing: Option<Duration>,
    /// Why it does not answer.
    pub failure: Option<String>,
    /// Time of its last answer's way.
    pub latency: Option<Duration>,
    /// Bytes it can still take, as it said.
    pub free_bytes: Option<u64>,
    /// Bytes its store uses, as it said.
    pub used_bytes: u64,
    /// What it runs.
    pub version: Option<String>,
    /// How far its clock was ahead of this one.
    pub clock_skew: Option<SignedDuration>,
}

impl Member {
    /// A member that has not been asked yet, and is taken to answer.
    pub fn new(row: NodeRow, node: SharedNode) -> Self {
        let now = Mutex::new(Now { version: row.version.clone(), ..Now::default() });
        // A Kubo makes others wait while it writes anyway.
        let turns = if row.kind == NodeKind::Kubo { 1 } else { WRITERS };
        let writing = Arc::new(tokio::sync::Semaphore::new(turns));
        Self { row, node, now, comparing: tokio::sync::Mutex::default(), writing }
    }

    /// The same node, with its present state, registered otherwise.
    pub fn changed(&self, row: NodeRow) -> Self {
        self.reached(row, Arc::clone(&self.node))
    }

    /// The same, and reached in another way.
    pub fn reached(&self, row: NodeRow, node: SharedNode) -> Self {
        let (now, writing) = (Mutex::new(self.lock().clone()), Arc::clone(&self.writing));
        Self { row, node, now, comparing: tokio::sync::Mutex::default(), writing }
    }

    /// Waits for a turn of repair to write to it.
    pub async fn writing(&self) -> Turn<'_> {
        self.writing.acquire().await.expect("it is never closed")
    }

    /// Whether it answered when it was last asked.
    pub fn answers(&self) -> bool {
        self.lock().failing_since.is_none()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it for its status, and remembers what that shows. Another identity is a failure.
    ///
    /// # Errors
    /// Whatever keeps it from being used.
    pub async fn probe(&self) -> Result<NodeStatus, NodeError> {
        let before = Instant::now();
        let asked = self.node.status().await.and_then(|status| {
            if status.id == self.row.id {
                Ok(status)
            } else {
                Err(NodeFailure::OtherIdentity { found: status.id }.at(&self.row.name))
            }
        });
        match &asked {
            Ok(status) => {
                let mut now = self.lock();
                now.failing_since = None;
                now.failure = None;
                now.latency = Some(before.elapsed());
                now.free_bytes = Some(status.free_bytes);
                now.used_bytes = status.used_bytes;
                now.version = Some(status.version.clone());
                now.pending_bytes = 0;
                now.full = status.free_bytes < MAX_CHUNK_BYTES;
            }
            Err(error) => self.failed(error),
        }
        asked
    }

    /// How far its clock is ahead, in seconds, as it was last asked; 0 where it does not tell.
    pub fn seconds_ahead(&self) -> i64 {
        self.lock().clock_skew.map_or(0, |skew| skew.as_secs())
    }

    /// Remembers how far its clock is ahead; nothing where it does not tell.
    pub fn set_clock_skew(&self, skew: Option<SignedDuration>) {
        self.lock().clock_skew = skew;
    }

    /// Takes note since when it runs, as it tells and by the coordinator's clock; says whether it was started again since
    /// that was asked last, or may have been.
    pub fn runs_since(&self, told: Timestamp, ours: Timestamp) -> bool {
        let mut now = self.lock();
        if now.started.is_some_and(|(known, _)| told.duration_since(known).abs() < SignedDuration::from_millis(20)) {
            return false;
        }
        now.started = Some((told, ours));
        true
    }

    /// Has it be taken for started again when it is asked next.
    pub fn forget_start(&self) {
        self.lock().started = None;
    }

    /// Since when it runs, if it may have lost what it was given shortly before.
    pub fn started(&self) -> Option<Timestamp> {
        self.lock().started.map(|(_, ours)| ours)
    }

    /// Asks a node who it is that does not prove it with every call (a built-in node does): its address may lead to
    /// another by now, on which no copy counts, and whose word says nothing of a copy.
    ///
    /// # Errors
    /// As [`Self::probe`].
    pub async fn is_itself(&self) -> Result<(), NodeError> {
        match PublicKey::of_node(&self.row.id) {
            Some(_) => Ok(()),
            None => self.probe().await.map(drop),
        }
    }

    /// Remembers that it failed. Once it answers again, it is to be asked who is in charge.
    pub fn failed(&self, error: &NodeError) {
        let mut now = self.lock();
        now.compared = false;
        now.agrees = false;
        now.failing_since.get_or_insert_with(Instant::now);
        now.failure = Some(error.to_string());
    }

    /// Takes up what was written down before this start: it had not answered for so long.
    pub fn restore(&self, failing: Duration, why: &str) {
        let mut now = self.lock();
        now.failing_since = Some(Instant::now().checked_sub(failing).unwrap_or_else(Instant::now));
        now.failure = Some(why.to_owned());
        now.noted = now.failing_since.zip(now.failure.clone());
    }

    /// What changed since this was called last. To be called after it was asked how it is.
    pub fn change(&self) -> Option<Change> {
        let mut now = self.lock();
        match (now.failing_since, now.noted.is_some()) {
            (Some(since), false) => {
                let why = now.failure.clone().unwrap_or_default();
                now.noted = Some((since, why.clone()));
                now.answering_since = None;
                let text = format!("stopped answering: {why}");
                Some(Change { failing: Some((since.elapsed(), why)), text })
            }
            (None, true) => {
                let away = now.noted.take().map_or(Duration::ZERO, |(since, _)| since.elapsed());
                now.answering_since = Some(Instant::now());
                if away >= OUTAGE {
                    now.outages.push_back(Instant::now());
                    if now.outages.len() > FLAPS {
                        now.outages.pop_front();
                    }
                }
                let away = SignedDuration::from_secs(i64::try_from(away.as_secs()).unwrap_or(i64::MAX));
                Some(Change { failing: None, text: format!("answers again, after {away:#}") })
            }
            _ => None,
        }
    }

    /// Takes note whether it listed what it has; says how long it has not.
    pub fn listed(&self, listed: bool) -> Duration {
        let mut now = self.lock();
        if listed {
            now.unlisted_since = None;
            return Duration::ZERO;
        }
        now.unlisted_since.get_or_insert_with(Instant::now).elapsed()
    }

    /// Lets one at a time compare what it holds; nothing while another does.
    pub fn begin_comparing(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        self.comparing.try_lock().ok()
    }

    /// Whether what it holds was compared since it began to answer.
    pub fn is_compared(&self) -> bool {
        self.lock().compared
    }

    /// Remembers that it was.
    pub fn compared(&self) {
        self.lock().compared = true;
    }

    /// Whether it was told of this start of the coordinator since it began to answer, and nothing spoke against that.
    pub fn agrees(&self) -> bool {
        self.lock().agrees
    }

    /// Remembers whether it was.
    pub fn set_agrees(&self, agrees: bool) {
        self.lock().agrees = agrees;
    }

    /// What is remembered of roots that the catalog does not know.
    pub fn unknown(&self) -> HashMap<PackRoot, Option<Stranger>> {
        self.lock().unknown.clone()
    }

    /// Remembers what such roots are, and nothing else of others.
    pub fn set_unknown(&self, unknown: HashMap<PackRoot, Option<Stranger>>) {
        self.lock().unknown = unknown;
    }

    /// Remembers that it said it is full, until it is asked again.
    pub fn is_full(&self) {
        self.lock().full = true;
    }

    /// Remembers that so many bytes are on their way to it.
    pub fn pending(&self, bytes: u64) {
        let mut now = self.lock();
        now.pending_bytes = now.pending_bytes.saturating_add(bytes);
    }

    /// Whether what is on its way to it, and nothing else, leaves it no room.
    fn is_crowded(&self) -> bool {
        let now = self.lock();
        let room = now.free_bytes.map(|free| free.saturating_sub(now.pending_bytes));
        !now.full && now.failing_since.is_none() && room.is_some_and(|room| room < MAX_CHUNK_BYTES)
    }

    /// Its state now; `grace` is how long it may fail before it is lost.
    pub fn seen(&self, grace: Duration) -> Seen {
        let now = self.lock().clone();
        let answers = now.failing_since.is_none();
        let room = now.free_bytes.map(|free| free.saturating_sub(now.pending_bytes));
        let full = now.full || room.is_some_and(|room| room < MAX_CHUNK_BYTES);
        let state = match now.failing_since {
            Some(since) if since.elapsed() >= grace => NodeState::Offline,
            Some(_) => NodeState::Suspect,
            None if now.is_flapping() || now.is_out_of_time() => NodeState::Suspect,
            None if self.row.draining != Draining::No => NodeState::Draining,
            None if full => NodeState::Full,
            None => NodeState::Online,
        };
        Seen {
            state,
            answers,
            agrees: now.agrees,
            open: state == NodeState::Online && now.agrees,
            failing: now.failing_since.map(|since| since.elapsed()),
            failure: now.failure,
            latency: now.latency,
            free_bytes: now.free_bytes,
            used_bytes: now.used_bytes,
            version: now.version,
            clock_skew: now.clock_skew,
        }
    }
}

impl Now {
    /// Whether its clock is so wrong that grants and receipts are worth nothing.
    fn is_out_of_time(&self) -> bool {
        self.clock_skew.is_some_and(|skew| skew.abs() > MAX_SKEW)
    }

    /// Whether it comes and goes: then it gets nothing new until it has answered for a while.
    fn is_flapping(&self) -> bool {
        let lately = self.outages.len() >= FLAPS && self.outages.iter().all(|ended| ended.elapsed() < TOGETHER);
        lately && self.answering_since.is_some_and(|since| since.elapsed() < STEADY)
    }
}

/// All members.
#[derive(Debug)]
pub struct Registry {
    members: RwLock<Vec<Arc<Member>>>,
    /// By copies wanted; forgotten when a member comes, changes or goes.
    topologies: Mutex<BTreeMap<u32, Arc<Topology>>>,
    grace: Duration,
}

impl Registry {
    /// None yet.
    pub fn new(grace: Duration) -> Self {
        Self { members: RwLock::default(), topologies: Mutex::default(), grace }
    }

    /// Adds a member, or puts it in the place of the one with its identity.
    pub fn set(&self, member: Member) -> Arc<Member> {
        let member = Arc::new(member);
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        members.retain(|other| other.row.id != member.row.id);
        members.push(Arc::clone(&member));
        members.sort_by(|a, b| a.row.name.cmp(&b.row.name));
        self.forget_topologies();
        member
    }

    /// Takes a member away.
    pub fn remove(&self, row: i64) {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.row.row != row);
        self.forget_topologies();
    }

    /// To be called while the members are locked for writing.
    fn forget_topologies(&self) {
        self.topologies.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All members, by name.
    pub fn all(&self) -> Vec<Arc<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The member of a catalog row.
    pub fn get(&self, row: i64) -> Option<Arc<Member>> {
        self.all().into_iter().find(|member| member.row.row == row)
    }

    /// The member with a name.
    pub fn named(&self, name: &str) -> Option<Arc<Member>> {
        self.all().into_iter().find(|member| member.row.name == name)
    }

    /// The member with an identity.
    pub fn known(&self, id: &NodeId) -> Option<Arc<Member>> {
        self.all().into_iter().find(|member| member.row.id == *id)
    }

    /// A name that no member has: `node1` and so on.
    pub fn free_name(&self) -> String {
        let members = self.all();
        let mut names = (1u64..).map(|number| format!("node{number}"));
        let taken = |name: &String| members.iter().any(|member| member.row.name == *name);
        names.find(|name| !taken(name)).expect("there are more names than members")
    }

    /// How long a member may fail before it is lost.
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// Says so if more members went away within ten minutes than one network or power failure should be taken to break:
    /// more than a third of them, and more than one. They are more likely to come back together than to be lost.
    pub fn vanished(&self) -> Option<String> {
        let members = self.all();
        let mut since: Vec<Instant> = members.iter().filter_map(|member| member.lock().failing_since).collect();
        since.sort_unstable();
        let few = (members.len() / 3).max(1);
        let together = since.windows(few + 1).any(|some| some[few].duration_since(some[0]) <= TOGETHER);
        let (away, all) = (since.len(), members.len());
        together.then(|| {
            format!(
                "{away} of {all} nodes went away at about the same time: only chunks down to their last copy are copied. \
                 If the nodes are lost, bytenode admin health --now"
            )
        })
    }

    /// The weights of these members, which cost milliseconds to work out.
    fn topology(&self, members: &[Arc<Member>], replicas: u32) -> Arc<Topology> {
        let mut known = self.topologies.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Topology::new(members.iter().map(placed).collect(), replicas));
        Arc::clone(known.entry(replicas).or_insert_with(new))
    }

    /// Asks those members again that look full only because of what was on its way to them.
    pub async fn probe_crowded(&self) {
        let members = self.all();
        let crowded = members.iter().filter(|member| member.is_crowded());
        futures_util::future::join_all(crowded.map(|member| member.probe())).await;
    }

    /// The pool as placement sees it now.
    pub fn view(&self, replicas: u32) -> View {
        let locked = self.members.read().unwrap_or_else(PoisonError::into_inner);
        let known = self.topology(&locked, replicas);
        let members = locked.clone();
        drop(locked);
        let seen: Vec<Seen> = members.iter().map(|member| member.seen(self.grace)).collect();
        let topology = known.with_open(seen.iter().map(|seen| seen.open));
        let index = members.iter().enumerate().map(|(at, member)| (member.row.row, at)).collect();
        View { members, seen, topology, index, replicas }
    }
}

/// What decides a member's share of what is stored.
fn weighted(row: &NodeRow) -> u64 {
    let weighted = u128::from(row.capacity_bytes) * u128::from(row.weight.unwrap_or(100)) / 100;
    u64::try_from(weighted).unwrap_or(u64::MAX)
}

fn placed(member: &Arc<Member>) -> PlaceNode {
    PlaceNode {
        id: member.row.id.clone(),
        zone: member.row.zone.clone(),
        capacity_bytes: weighted(&member.row),
        open: true,
    }
}

/// A turn of repair to write to a node, for as long as it is held.
pub type Turn<'a> = tokio::sync::SemaphorePermit<'a>;

/// A snapshot of the pool for one decision.
#[derive(Debug)]
pub struct View {
    /// The members.
    pub members: Vec<Arc<Member>>,
    /// Their states.
    pub seen: Vec<Seen>,
    /// Where chunks belong.
    pub topology: Topology,
    /// Copies wanted.
    pub replicas: u32,
    index: HashMap<i64, usize>,
}

impl View {
    /// Whether as many copies fit on the other nodes that are open and not avoided, and in as many zones.
    pub fn can_spare<T>(&self, id: &NodeId, avoided: &BTreeMap<i64, T>) -> bool {
        let takes = |at: &usize| self.seen[*at].open && !avoided.contains_key(&self.members[*at].row.row);
        let all: Vec<usize> = (0..self.members.len()).filter(takes).collect();
        let others: Vec<usize> = all.iter().copied().filter(|at| self.members[*at].row.id != *id).collect();
        let copies = self.replicas as usize;
        let zones = |of: &[usize]| {
            let zones: BTreeSet<&str> = of.iter().map(|at| self.members[*at].row.zone.as_str()).collect();
            zones.len().min(copies)
        };
        others.len() >= copies && zones(&others) == zones(&all)
    }

    /// The index of the member with a catalog row.
    pub fn at(&self, row: i64) -> Option<usize> {
        self.index.get(&row).copied()
    }

    /// Whether the member with a catalog row answers.
    pub fn answers(&self, row: i64) -> bool {
        self.at(row).is_some_and(|at| self.seen[at].answers)
    }

    /// Whether it was told, since it began to answer, who is in charge.
    pub fn agrees(&self, row: i64) -> bool {
        self.at(row).is_some_and(|at| self.seen[at].answers && self.seen[at].agrees)
    }

    /// The name of the member with a catalog row.
    pub fn name(&self, row: i64) -> String {
        self.at(row).map_or_else(|| "a removed node".to_owned(), |at| self.members[at].row.name.clone())
    }
}
