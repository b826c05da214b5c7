//! Who is in charge. Whoever starts a coordinator on a copy of its data has the same pool and keys, and an older catalog:
//! it would drop what it does not know to be needed. So every node is asked, when it begins to answer, which start it was
//! told of last, and which packs of this pool it holds. A start or a pack that this catalog never made turns the
//! coordinator read-only, for good: nothing is written to nodes nor dropped from them until a person says, by
//! [`Coordinator::adopt`], that this catalog counts. Only a node that agrees is told to change or drop anything.

use std::collections::HashMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};

use super::checkup::clock_skew;
use super::registry::{Change, Member, Stranger};
use super::{Coordinator, Introduction};
use crate::admin::{Adopt, Adopted, AdoptedNode};
use crate::api::{ApiError, ApiResult, Code};
use crate::catalog::charge::{self, Highest};
use crate::catalog::{nodes, packs, tasks};
use crate::grant::{PublicKey, Start};
use crate::id::{PackId, PackRoot, PoolId};
use crate::node::{NodeError, NodeFailure, NodeStatus};

/// Roots that are read at once on a node.
const READING: usize = 8;
/// No coordinator counts so far: numbers from here on are made up.
const MADE_UP: u64 = 1 << 62;

/// What a coordinator knows of its own being in charge.
#[derive(Debug)]
pub(super) struct Charge {
    epoch: u64,
    earlier_until: i64,
    read_only: Option<String>,
}

impl Charge {
    /// Of a start: grants to write that were given before it are good for as long as they would have been.
    pub(super) fn new(epoch: u64, now: Timestamp, grant: Duration, read_only: Option<String>) -> Self {
        let life = i64::try_from(grant.as_secs()).unwrap_or(i64::MAX);
        Self { epoch, earlier_until: now.as_second().saturating_add(life), read_only }
    }

    pub(super) fn introduce(&self, pool: PoolId, key: PublicKey, instance: [u8; 16]) -> Introduction {
        let Self { epoch, earlier_until, .. } = *self;
        Introduction { pool, key, epoch, instance, earlier_until, pack: PackId::new(0) }
    }
}

/// What a node shows of who is in charge.
struct Shown {
    start: Option<Start>,
    strangers: HashMap<PackRoot, Stranger>,
}

/// By how much a node may have been started later than it seems: clocks and starts are told in whole seconds.
const UNSURE: SignedDuration = SignedDuration::from_secs(2);

impl Coordinator {
    pub(super) fn charge(&self) -> MutexGuard<'_, Charge> {
        self.charge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The epoch of this start.
    pub(super) fn epoch(&self) -> u64 {
        self.charge().epoch
    }

    /// This start, as grants and nodes name it.
    pub(super) fn start_name(&self) -> Start {
        charge::start_of(self.epoch(), &self.instance)
    }

    /// Why nothing may be changed, if so.
    pub fn read_only(&self) -> Option<String> {
        self.charge().read_only.clone()
    }

    /// Refuses changes while the coordinator is read-only: every act that changes something asks this first.
    ///
    /// # Errors
    /// [`Code::ReadOnly`].
    pub(super) fn may_change(&self) -> ApiResult<()> {
        match self.read_only() {
            None => Ok(()),
            Some(why) => Err(ApiError::new(Code::ReadOnly, format!("the coordinator takes no changes: {why}"))
                .hint("stop the other coordinator if there is one; to go on with this one: bytenode admin adopt")),
        }
    }

    /// Whether a node may be told to drop or replace something.
    pub(super) fn may_drop(&self, member: &Member) -> bool {
        member.agrees() && self.may_change().is_ok()
    }

    /// Takes no changes from now on, unless an adoption since that epoch has answered the reason already.
    async fn turn_read_only(&self, why: String, seen_by: u64) -> ApiResult<()> {
        let _alone = self.deciding.lock().await;
        if self.epoch() != seen_by {
            return Ok(());
        }
        let why = self.write(move |c| charge::turn_read_only(c, &why)).await?;
        tracing::error!(%why, "read-only");
        self.charge().read_only = Some(why);
        Ok(())
    }

    /// Asks every node how it is and who is in charge. Failures show in the nodes' states.
    pub async fn ask_nodes(&self) {
        let members = self.nodes.all();
        join_all(members.iter().map(|member| self.ask(member))).await;
        for member in members {
            let Some(Change { failing, text }) = member.change() else { continue };
            tracing::info!(node = %member.row.name, %text, "node");
            // What is down to its last copy now does not wait.
            self.repair_wanted.notify_one();
            let (row, now) = (member.row.row, self.seam.now());
            let written = self.write(move |c| {
                let since = failing.as_ref().map(|(since, _)| now.checked_sub(*since).unwrap_or(now));
                nodes::set_failing(c, row, since, failing.as_ref().map(|(_, why)| why.as_str()))?;
                tasks::note_node(c, row, &text, now)
            });
            if let Err(error) = written.await {
                tracing::warn!(%error, "writing down how a node is");
            }
        }
    }

    /// Asks a node how it is, and who is in charge: as soon as it answers it is compared with the catalog and told of this
    /// start, and later it is seen whether that still holds.
    ///
    /// # Errors
    /// Whatever keeps it from being used. That another one is in charge is none: it turns the coordinator read-only.
    pub(super) async fn ask(&self, member: &Member) -> Result<NodeStatus, NodeError> {
        let before = self.seam.now();
        let status = member.probe().await?;
        member.set_clock_skew(status.clock.map(|told| clock_skew(told, before, self.seam.now())));
        self.look_at_start(member, &status).await;
        if let Err(error) = self.agree(member).await {
            tracing::debug!(%error, "who is in charge");
            member.failed(&error);
            return Err(error);
        }
        Ok(status)
    }

    /// What came to a node shortly before it was started again counts no more until it was read: it may not have been
    /// synced.
    async fn look_at_start(&self, member: &Member, status: &NodeStatus) {
        let Some((told, clock)) = status.started.zip(status.clock) else { return };
        let now = self.seam.now();
        let started = now.checked_sub(clock.duration_since(told)).unwrap_or(now);
        let started = started.checked_add(UNSURE).unwrap_or(started);
        if !member.runs_since(told, started) {
            return;
        }
        let row = member.row.row;
        match self.write(move |c| packs::distrust(c, row, started)).await {
            Ok(0) => {}
            Ok(packs) => {
                tracing::warn!(node = %member.row.name, packs, "started again: its newest packs are read anew");
                let text = format!("was started again; packs that came shortly before and are read anew: {packs}");
                drop(self.write(move |c| tasks::note_node(c, row, &text, now)).await);
                self.repair_wanted.notify_one();
            }
            Err(error) => {
                member.forget_start();
                tracing::warn!(%error, "a node that was started again");
            }
        }
    }

    async fn agree(&self, member: &Member) -> Result<(), NodeError> {
        // A comparison may take long on a node that holds much: whoever else asks goes on, and takes it for one that was
        // not told yet.
        let Some(_alone) = member.begin_comparing() else { return Ok(()) };
        let us = self.introduction();
        let shown = self.connect.shown(&member.row).await?;
        let is_us = shown.as_ref().is_none_or(|shown| *shown == us.start());
        if member.is_compared() && is_us && (member.agrees() || self.read_only().is_some()) {
            return Ok(());
        }
        let compared = async {
            self.compare_start(member, shown).await?;
            self.compare_packs(member, listed(member).await?).await?;
            if self.read_only().is_some() {
                return Ok(false);
            }
            let before = self.connect.greet(&member.row, &us).await.map_err(Unasked::Node)?;
            self.compare_start(member, before).await?;
            Ok(self.read_only().is_none())
        };
        let agrees = compared.await.map_err(|error: Unasked| error.at(member))?;
        member.compared();
        // An adoption meanwhile has it told again.
        member.set_agrees(agrees && self.epoch() == us.epoch);
        Ok(())
    }

    /// Whether a node obeys this catalog's coordinator, or none yet.
    async fn compare_start(&self, member: &Member, shown: Option<Start>) -> Result<(), Unasked> {
        let Some(shown) = shown else { return Ok(()) };
        if shown.epoch >= MADE_UP {
            let said = format!("that it obeys epoch {}, which no coordinator reaches", shown.epoch);
            return Err(Unasked::Node(NodeFailure::Answer(said).at(&member.row.name)));
        }
        let (asked, epoch) = (shown.clone(), self.epoch());
        if !self.read(move |c| charge::knows(c, &asked)).await? {
            let name = &member.row.name;
            let what = format!(
                "node {name} obeys another coordinator of this pool, of epoch {} (this one has {epoch})",
                shown.epoch
            );
            self.turn_read_only(what, epoch).await?;
        }
        Ok(())
    }

    /// Which of the roots that a node listed are packs of this pool that no row of the catalog is of. One that is not
    /// accounted for turns the coordinator read-only.
    pub(super) async fn compare_packs(&self, member: &Member, roots: Vec<PackRoot>) -> Result<Vec<PackRoot>, Unasked> {
        let seen_by = self.epoch();
        let strangers = self.strangers(member, roots).await?;
        let all: Vec<Stranger> = strangers.values().copied().collect();
        let highest = all.iter().map(|one| one.id.get()).max();
        let (unaccounted, next) = self
            .read(move |c| {
                let mut found = Vec::new();
                for one in all {
                    if !charge::accounts_for(c, one.epoch, one.id)? {
                        found.push(one);
                    }
                }
                Ok((found, charge::next_pack(c)?))
            })
            .await?;
        if let Some(pack) = highest.filter(|highest| *highest >= next && unaccounted.is_empty()) {
            self.write(move |c| charge::rise(c, pack)).await?;
        }
        if let Some(one) = unaccounted.iter().max_by_key(|one| one.id) {
            let packs = match unaccounted.len() {
                1 => "a pack".to_owned(),
                count => format!("{count} packs"),
            };
            let (name, id, epoch) = (&member.row.name, one.id, one.epoch);
            let what = format!(
                "node {name} holds {packs} of this pool that this catalog never issued (number {id} of epoch {epoch})"
            );
            self.turn_read_only(what, seen_by).await?;
        }
        Ok(strangers.into_keys().collect())
    }

    /// The packs of this pool among these roots that no row of the catalog is of. What a root says is read once.
    async fn strangers(&self, member: &Member, roots: Vec<PackRoot>) -> Result<HashMap<PackRoot, Stranger>, Unasked> {
        let known = member.unknown();
        let without = self.read(move |c| charge::without_row(c, &roots)).await?;
        let read = without.into_iter().map(|root| {
            let before = known.get(&root).copied();
            async move {
                if let Some(before) = before {
                    return Ok(Some((root, before)));
                }
                match member.node.pack_header(root).await {
                    Ok(header) => {
                        let ours = header.filter(|header| header.pool == self.pool);
                        let stranger = ours.map(|header| Stranger { epoch: header.epoch, id: header.id });
                        let real = |one: &Stranger| (1..MADE_UP).contains(&one.epoch) && one.id.get() < MADE_UP;
                        Ok(Some((root, stranger.filter(real))))
                    }
                    // One that cannot be read says nothing now.
                    Err(error) if !error.reason.is_temporary() => Ok(None),
                    Err(error) => Err(Unasked::Node(error)),
                }
            }
        });
        let read: Vec<Result<_, Unasked>> = stream::iter(read).buffer_unordered(READING).collect().await;
        let found = read.into_iter().filter_map(Result::transpose).collect::<Result<HashMap<_, _>, _>>()?;
        member.set_unknown(found.clone());
        Ok(found.into_iter().filter_map(|(root, stranger)| Some((root, stranger?))).collect())
    }

    /// What a node shows, for a person who decides. Changes nothing.
    async fn look_at_charge(&self, member: &Member) -> Result<Shown, Unasked> {
        member.probe().await.map_err(Unasked::Node)?;
        let start = self.connect.shown(&member.row).await.map_err(Unasked::Node)?;
        Ok(Shown { start, strangers: self.strangers(member, listed(member).await?).await? })
    }

    /// Puts this coordinator in charge, over all that the nodes show; all of them are asked, but those that are left out
    /// need not answer. Nothing is dropped: packs that the catalog does not know stay where they are and count for nothing.
    pub(super) async fn adopt(&self, request: &Adopt) -> ApiResult<Adopted> {
        self.ask_nodes().await;
        let members = self.nodes.all();
        let name_of = |name: &&String| members.iter().all(|member| member.row.name != **name);
        if let Some(unknown) = request.without.iter().find(name_of) {
            return Err(
                ApiError::new(Code::NotFound, format!("no node is called {unknown:?}")).hint("bytenode admin node ls")
            );
        }
        let shown = join_all(members.iter().map(|member| self.look_at_charge(member))).await;
        let (mut nodes, mut highest, mut silent) = (Vec::new(), Highest::default(), Vec::new());
        for (member, shown) in members.iter().zip(shown) {
            let name = &member.row.name;
            match shown {
                Ok(shown) => {
                    let epoch = shown.start.map(|start| start.epoch).filter(|epoch| *epoch < MADE_UP);
                    let seen = shown.strangers.values().map(|one| (one.epoch, one.id.get()));
                    for (epoch, pack) in seen.chain(epoch.map(|epoch| (epoch, 0))) {
                        highest = Highest { epoch: highest.epoch.max(epoch), pack: highest.pack.max(pack) };
                    }
                    let unknown_packs = shown.strangers.len() as u64;
                    nodes.push(AdoptedNode { node: name.clone(), epoch, unknown_packs });
                }
                Err(_) if request.without.contains(name) => {}
                Err(error) => silent.push((name.clone(), error.at(member).reason.to_string())),
            }
        }
        if let Some((name, why)) = silent.first() {
            let out: Vec<String> = silent.iter().map(|(name, _)| format!("--without {name}")).collect();
            let what = format!("node {name} {why}: it may know more than the others");
            return Err(ApiError::new(Code::Temporary, what)
                .hint(format!("start it, or leave it out: bytenode admin adopt {}", out.join(" "))));
        }
        let needed = self.read_only();
        if needed.is_some() && !request.dry_run {
            self.take_charge(highest).await?;
        }
        Ok(Adopted { why: needed, epoch: self.epoch(), nodes })
    }

    async fn take_charge(&self, highest: Highest) -> ApiResult<()> {
        {
            let _alone = self.deciding.lock().await;
            let instance = self.instance;
            let epoch = self.write(move |c| charge::adopt(c, &instance, highest)).await?;
            // Nothing that an earlier start permitted is good any more.
            *self.charge() = Charge { epoch, earlier_until: 0, read_only: None };
            tracing::warn!(epoch, "adopted");
            self.connect.serve(&self.introduction());
        }
        for member in self.nodes.all() {
            member.set_agrees(false);
        }
        self.ask_nodes().await;
        self.repair_wanted.notify_one();
        // Another coordinator that is still at work shows at once.
        self.may_change()
    }
}

/// The roots of all packs that a node protects.
async fn listed(member: &Member) -> Result<Vec<PackRoot>, Unasked> {
    let mut roots = Vec::new();
    member.node.list_packs(&mut |root| roots.push(root)).await.map_err(Unasked::Node)?;
    Ok(roots)
}

/// Why a comparison came to no end.
pub(super) enum Unasked {
    Node(NodeError),
    Catalog(ApiError),
}

impl From<ApiError> for Unasked {
    fn from(error: ApiError) -> Self {
        Self::Catalog(error)
    }
}

impl Unasked {
    fn at(self, member: &Member) -> NodeError {
        match self {
            Self::Node(error) => error,
            Self::Catalog(error) => NodeFailure::Answer(error.message).at(&member.row.name),
        }
    }
}
