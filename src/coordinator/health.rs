//! Health: ask every node for every replica, say what is wrong, plan what mends it. Nothing here changes anything; what
//! is planned is exactly what [`super::repair`] executes.

pub(super) mod acts;
mod copies;
mod doubt;
mod listed;
mod rows;
mod spread;
mod standing;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt};
use jiff::{SignedDuration, Timestamp};

use self::acts::{Batch, plan_copies};
use self::copies::{Copies, crowded, finding_kinds};
use self::listed::Listed;
use self::rows::{ChunkState, ReplicaRow, chunk_page};
use self::standing::{Answers, Said, Standing};
use super::Coordinator;
use super::registry::{Member, View};
use super::tasks::Handle;
use crate::admin::{Finding, FindingKind, HealthReport, NodeState, Verdict};
use crate::api::{ApiResult, NodeKind};
use crate::catalog::spread::Spread;
use crate::catalog::{micros, packs, scrub, time, trace};
use crate::id::{PackId, PackRoot};
use crate::node::{ChunkAt, NodeError, NodeFailure};

/// Findings and actions that a report carries; all are counted.
pub(super) const MAX_REPORTED: usize = 10_000;

/// What a check takes for granted.
#[derive(Debug, Clone, Default)]
pub struct Check {
    /// Nodes that do not answer are lost now.
    pub now: bool,
    /// Every replica is read and hashed first.
    pub read: bool,
    /// Copies on this node (by row) are to go elsewhere, as on one that is drained.
    pub leaving: Option<i64>,
    /// This node (by row) does not come back: it is not asked.
    pub lost: Option<i64>,
    /// Nodes (by row) that did not take a chunk (by row) from this repair: others do.
    pub failed: HashSet<(i64, i64)>,
    /// What is wrong was looked for once, and is being mended: only that is looked at.
    pub looked: bool,
    /// What this is done for.
    pub task: Handle,
    /// The task counts its steps by itself.
    pub quiet: bool,
}

impl Check {
    /// Whether a replica is good as it stands, or will be when it is protected again, which has not failed yet.
    fn takes_for_good(&self, chunk: &ChunkState, replica: &ReplicaRow, standing: Standing) -> bool {
        match standing {
            Standing::Good => true,
            Standing::Unprotected => !self.failed.contains(&(replica.node, chunk.row)),
            _ => false,
        }
    }
}

/// A check's outcome.
#[derive(Default)]
pub(super) struct Diagnosis {
    pub batch: Batch,
    pub findings: Vec<Finding>,
    pub findings_total: u64,
    pub remaining: u64,
    pub chunks: u64,
    pub replicas: u64,
    pub at_risk: u64,
    pub under: u64,
    pub lost: u64,
    pub oldest: Option<i64>,
    /// When that pack was read whole whose last whole reading is the oldest.
    pub oldest_read: Option<i64>,
    /// Packs that were not read whole since they came.
    pub unread: u64,
    /// Packs whose presence and protection were seen, and how many of their chunks were read and right.
    pub seen: BTreeMap<PackId, u64>,
    /// Packs that were not protected.
    pub unprotected: BTreeSet<PackId>,
    /// Whether those of them that were looked at are there as a whole, so that they can be protected.
    whole: BTreeMap<PackId, bool>,
    /// When the check began: what was proved later is not its business.
    pub began: Timestamp,
    /// Replicas that their nodes did not list.
    pub missing: Vec<(PackId, i64)>,
    /// Replicas that were read and are missing or wrong.
    pub wrong: Vec<(PackId, i64)>,
    /// Chunks with fewer good copies than wanted, and how many they have.
    pub short: Vec<(i64, u32)>,
    /// Packs that were dropped and are still protected.
    pub orphans: Vec<PackRoot>,
    /// Replicas that were marked bad and are good again.
    pub mended: Vec<(PackId, i64)>,
    /// Findings of copies that are to go elsewhere: there are enough of them all the same.
    pub moving: u64,
    /// What people should know.
    pub notices: Vec<String>,
    /// Why nothing may be changed, if so.
    pub read_only: Option<String>,
    /// Versions that are spread no more, or that are again,
    pub spread: Vec<Spread>,
    /// and whether another check may find something to do about some.
    pub unspread: bool,
    /// Nodes (by row) that did not answer, and are waited for.
    pub awaited: BTreeSet<i64>,
}

/// How often running each node did not answer a read, by row.
type Hung = HashMap<i64, u32>;
/// Reads running without an answer after which a check asks a node for no more bytes.
const PATIENCE: u32 = 3;
/// Chunks whose copies are read at once: each is held in memory meanwhile.
const READING: usize = 8;
/// How long a wall clock may show the same time.
const TICK: Duration = Duration::from_millis(20);

impl Coordinator {
    /// Asks every node, and works out what is wrong and what to do.
    pub(super) async fn diagnose(&self, check: &Check) -> ApiResult<(Diagnosis, Arc<View>)> {
        // Before any node is asked: a pack that arrives meanwhile may be missing from what the node lists. No proof from
        // here on is of this very moment, so that those of it are older than what the nodes say.
        let began = self.seam.now();
        tokio::time::sleep(TICK).await;
        let said = self.ask_all(check).await;
        let view = Arc::new(self.nodes.view(self.policy.replicas));
        let mut leaving = self.leaving_nodes();
        leaving.extend(check.leaving);
        let unlisted = BTreeSet::new();
        let mut answers = Answers { said, leaving, lost: check.lost, unlisted };
        let mut found = Diagnosis { began, ..Diagnosis::default() };
        self.doubt_listings(check, &mut answers, &mut found).await?;
        answers.unlisted = answers.silent().chain(check.lost).collect();
        let hold = if check.now { None } else { self.nodes.vanished() };
        let silent = |row: &i64| self.nodes.get(*row).is_some_and(|member| !member.answers());
        found.awaited = answers.silent().filter(silent).collect();
        self.find_silent(&view, &answers, &mut found).await?;
        self.find_orphans(&view, &answers, &mut found).await?;
        let (mut after, hung) = (0, Mutex::new(Hung::default()));
        loop {
            check.task.check()?;
            let page = self.read(move |c| chunk_page(c, after)).await?;
            let Some(last) = page.last() else { break };
            after = last.row;
            let meanwhile = self.times_since(micros(began) + 1);
            let reads = if check.read { self.read_page(&page, &answers, &hung).await } else { Vec::new() };
            let mut reads = reads.into_iter();
            for chunk in page {
                let mut read = reads.next().unwrap_or_default();
                let mut standings = answers.standings(&chunk, &read, &meanwhile);
                if !check.read && !standings.iter().any(|(_, standing)| standing.can_be_read()) {
                    // What was missing or wrong once may be there by now: nothing is lost before it was read again.
                    self.read_replicas(&chunk, &answers, &hung, &mut read, |replica| replica.bad).await;
                    standings = answers.standings(&chunk, &read, &meanwhile);
                }
                found.note(&chunk, &standings, &read, &answers);
                self.look_at(&view, &chunk, &standings, &answers, (check, hold.is_some()), &mut found).await?;
            }
        }
        self.find_unspread(&view, &answers, check, &mut found).await?;
        found.batch.settle();
        found.notices.extend(hold);
        for member in &view.members {
            let row = member.row.row;
            let (oldest, unread) = self.read(move |c| scrub::oldest(c, row)).await?;
            found.oldest_read = [found.oldest_read, oldest].into_iter().flatten().min();
            found.unread += unread;
        }
        found.read_only = self.read_only();
        Ok((found, view))
    }

    async fn ask_all(&self, check: &Check) -> HashMap<i64, Said> {
        let members = self.nodes.all();
        let ask = members.iter().map(|member| async move {
            if check.lost == Some(member.row.row) {
                return (member.row.row, Said::Silent { lost: true });
            }
            let listed = async {
                self.ask(member).await?;
                let (mut packs, mut chunks) = (HashSet::new(), Listed::default());
                member
                    .node
                    .list_packs(&mut |root| {
                        packs.insert(root);
                    })
                    .await?;
                member.node.list_chunks(&mut |chunk| chunks.add(&chunk)).await?;
                chunks.settle();
                let roots = member.row.kind == NodeKind::Kubo;
                Ok::<_, NodeError>(Said::Listed { packs, chunks, roots })
            };
            let said = listed.await.unwrap_or_else(|error| {
                member.failed(&error);
                self.unlisted(member, check)
            });
            (member.row.row, said)
        });
        join_all(ask).await.into_iter().collect()
    }

    /// What counts of a node that did not list what it has: nothing, once that has been so for longer than the grace.
    fn unlisted(&self, member: &Member, check: &Check) -> Said {
        let over = member.listed(false) >= self.policy.grace;
        let lost = check.now || over || member.seen(self.policy.grace).state == NodeState::Offline;
        Said::Silent { lost }
    }

    /// A finding for each node that does not answer.
    async fn find_silent(
        &self,
        view: &View,
        Answers { said, lost, .. }: &Answers,
        found: &mut Diagnosis,
    ) -> ApiResult<()> {
        for member in &view.members {
            let row = member.row.row;
            if *lost != Some(row) && matches!(said.get(&row), Some(Said::Silent { .. }) | None) {
                let (path, files) = self.read(move |c| trace::files_of_node(c, row)).await?;
                found.add(Finding {
                    kind: FindingKind::Offline,
                    path,
                    files,
                    chunk: None,
                    node: Some(member.row.name.clone()),
                });
                // A node given up for lost is no problem of its own: what it held shows chunk by chunk.
                let lost = matches!(said.get(&row), Some(Said::Silent { lost: true }));
                found.notices.extend(told(member, files, self.policy.grace, lost));
                found.remaining -= u64::from(lost);
            }
        }
        Ok(())
    }

    /// A finding for each pack that a node protects, and that this catalog recorded as dropped or does not know.
    async fn find_orphans(&self, view: &View, answers: &Answers, found: &mut Diagnosis) -> ApiResult<()> {
        for member in &view.members {
            let Some(Said::Listed { packs, .. }) = answers.said.get(&member.row.row) else { continue };
            let mut roots: Vec<PackRoot> = packs.iter().copied().collect();
            roots.sort_unstable();
            let listed = roots.clone();
            let orphans = self.read(move |c| trace::orphans(c, &roots)).await?;
            found.orphans.extend_from_slice(&orphans);
            // What cannot be read now is found by the next check.
            let unknown = self.compare_packs(member, listed).await.unwrap_or_default();
            for _ in orphans.into_iter().chain(unknown) {
                found.add(Finding {
                    kind: FindingKind::Orphan,
                    path: None,
                    files: 0,
                    chunk: None,
                    node: Some(member.row.name.clone()),
                });
            }
        }
        Ok(())
    }

    /// How all replicas of these chunks stand, now that they are read, those of several chunks at once.
    async fn read_page(
        &self,
        page: &[ChunkState],
        answers: &Answers,
        hung: &Mutex<Hung>,
    ) -> Vec<HashMap<PackId, Standing>> {
        let read = |nth: usize| async move {
            let mut read = HashMap::new();
            self.read_replicas(&page[nth], answers, hung, &mut read, |_| true).await;
            read
        };
        stream::iter((0..page.len()).map(read)).buffered(READING).collect().await
    }

    /// How some replicas stand whose nodes were listed, now that they are read. A node that did not answer a few times
    /// running is asked no more.
    async fn read_replicas(
        &self,
        chunk: &ChunkState,
        answers: &Answers,
        hung: &Mutex<Hung>,
        read: &mut HashMap<PackId, Standing>,
        which: impl Fn(&ReplicaRow) -> bool,
    ) {
        for replica in chunk.replicas.iter().filter(|replica| which(replica)) {
            let Some(member) = self.nodes.get(replica.node) else { continue };
            if !answers.is_listed(replica.node) {
                continue;
            }
            let lock = || hung.lock().unwrap_or_else(PoisonError::into_inner);
            if lock().get(&replica.node).is_some_and(|failures| *failures >= PATIENCE) {
                read.insert(replica.pack, Standing::Waiting);
                continue;
            }
            let at = ChunkAt { chunk: chunk.entry.chunk, bytes: chunk.entry.bytes, pack: replica.root };
            let found = member.node.read_chunk(&at, None, None).await;
            let hangs = matches!(&found, Err(error) if error.reason.is_temporary());
            {
                let mut hung = lock();
                let failures = hung.entry(replica.node).or_default();
                *failures = if hangs { *failures + 1 } else { 0 };
            }
            let standing = match found.map_err(|error| error.reason) {
                Ok(_) => Standing::Good,
                Err(NodeFailure::Absent(_)) => Standing::Missing,
                Err(NodeFailure::Corrupt(_)) => Standing::Corrupt,
                Err(_) => Standing::Waiting,
            };
            read.insert(replica.pack, standing);
        }
    }

    async fn look_at(
        &self,
        view: &View,
        chunk: &ChunkState,
        standings: &[(&ReplicaRow, Standing)],
        answers: &Answers,
        (check, held): (&Check, bool),
        found: &mut Diagnosis,
    ) -> ApiResult<()> {
        let nodes = |which: &dyn Fn(&ReplicaRow, Standing) -> bool| -> BTreeSet<i64> {
            let chosen = standings.iter().filter(|(replica, standing)| which(replica, *standing));
            chosen.map(|(replica, _)| replica.node).collect()
        };
        let good = nodes(&|replica, standing| check.takes_for_good(chunk, replica, standing));
        let copies = Copies {
            target: chunk.target as usize,
            staying: good.difference(&answers.leaving).copied().collect(),
            good,
            waiting: nodes(&|_, standing| standing == Standing::Waiting),
            leaving: &answers.leaving,
            unlisted: &answers.unlisted,
            spoilt: nodes(&|replica, standing| {
                answers.leaving.contains(&replica.node) && matches!(standing, Standing::Missing | Standing::Corrupt)
            }),
            broken: self.broken(standings, answers, found).await?,
        };
        let good = copies.good.len();
        // Those that count, though some others can be made to.
        let sure = nodes(&|_, standing| standing == Standing::Good).len();
        if good < copies.target {
            found.short.push((chunk.row, u32::try_from(good).unwrap_or(u32::MAX)));
        }
        let kinds = finding_kinds(standings, &copies, crowded(view, &copies));
        if kinds.is_empty() && copies.short() == 0 {
            return Ok(());
        }
        let row = chunk.row;
        let (path, files) = self.read(move |c| trace::files_of_chunk(c, row)).await?;
        for (kind, node) in kinds {
            let node = node.map(|node| view.name(node));
            found.add(Finding { kind, path: path.clone(), files, chunk: Some(chunk.entry.chunk), node });
        }
        // One that cannot be protected again can still be read.
        let bare = good == 0 && standings.iter().any(|(_, standing)| standing.can_be_read());
        if good == 0 && !bare {
            if copies.waiting.is_empty() {
                found.lost += 1;
            } else {
                found.at_risk += 1;
            }
            return Ok(());
        }
        found.under += u64::from(good < copies.target);
        found.at_risk += u64::from(bare || (sure <= 1 && copies.target > 1));
        // While many nodes are away at once, only what is down to its last copy is worth a storm.
        let held = held && !(sure <= 1 && copies.target > 1);
        found.batch.extend(plan_copies(view, chunk, standings, &copies, (check, held)));
        Ok(())
    }

    /// Those of a chunk's unprotected packs that are not there as a whole.
    async fn broken(
        &self,
        standings: &[(&ReplicaRow, Standing)],
        answers: &Answers,
        found: &mut Diagnosis,
    ) -> ApiResult<BTreeSet<PackId>> {
        let mut broken = BTreeSet::new();
        for (replica, _) in standings.iter().filter(|(_, standing)| *standing == Standing::Unprotected) {
            let id = replica.pack;
            let whole = match found.whole.get(&id) {
                Some(whole) => *whole,
                None => {
                    let held = self.read(move |c| packs::chunks(c, id)).await?;
                    *found.whole.entry(id).or_insert(answers.is_whole(replica, &held))
                }
            };
            if !whole {
                broken.insert(id);
            }
        }
        Ok(broken)
    }
}

/// What becomes of what a silent node has, which may be given up for lost.
fn told(member: &Member, files: u64, grace: Duration, lost: bool) -> Option<String> {
    let (failing, name) = (member.seen(grace).failing?, &member.row.name);
    Some(match grace.checked_sub(failing).filter(|left| !lost && !left.is_zero()) {
        Some(left) => format!(
            "{name} has not answered for {:#}: its copies, of {} in all, are waited for {:#} more",
            rough(failing),
            if files == 1 { "1 file".to_owned() } else { format!("{files} files") },
            rough(left),
        ),
        None => format!("{name} has not answered for {:#}: its copies are made anew elsewhere", rough(failing)),
    })
}

/// In whole minutes, where it is some; else in seconds, at least one.
fn rough(time: Duration) -> SignedDuration {
    let seconds = match time.as_secs_f64().round() as i64 {
        seconds @ ..90 => seconds.max(1),
        seconds => (seconds + 30) / 60 * 60,
    };
    SignedDuration::from_secs(seconds)
}

impl Diagnosis {
    fn add(&mut self, finding: Finding) {
        self.findings_total += 1;
        self.remaining += u64::from(!matches!(finding.kind, FindingKind::Orphan | FindingKind::Surplus));
        self.moving += u64::from(matches!(finding.kind, FindingKind::Misplaced | FindingKind::Spread));
        if self.findings.len() < MAX_REPORTED {
            self.findings.push(finding);
        }
    }

    /// Takes down what was learned of a chunk's replicas.
    fn note(
        &mut self,
        chunk: &ChunkState,
        standings: &[(&ReplicaRow, Standing)],
        read: &HashMap<PackId, Standing>,
        answers: &Answers,
    ) {
        self.chunks += 1;
        for (replica, standing) in standings {
            self.replicas += u64::from(answers.is_listed(replica.node));
            let was_read = read.get(&replica.pack).is_some_and(|read| *read != Standing::Waiting);
            match standing {
                Standing::Good => {
                    *self.seen.entry(replica.pack).or_default() += u64::from(was_read);
                    if replica.bad {
                        self.mended.push((replica.pack, chunk.row));
                    }
                    self.oldest = match (self.oldest, replica.proved) {
                        (Some(oldest), Some(proved)) => Some(oldest.min(proved)),
                        (oldest, proved) => oldest.or(proved),
                    };
                }
                Standing::Missing | Standing::Corrupt if was_read && !replica.bad => {
                    self.wrong.push((replica.pack, chunk.row))
                }
                Standing::Missing if !replica.bad => self.missing.push((replica.pack, chunk.row)),
                Standing::Unprotected => drop(self.unprotected.insert(replica.pack)),
                _ => {}
            }
        }
    }

    /// The verdict on what was found.
    pub(super) fn verdict(&self) -> Verdict {
        if self.lost > 0 {
            Verdict::Lost
        } else if self.at_risk > 0 {
            Verdict::AtRisk
        } else if self.under > 0 || self.remaining > self.moving {
            Verdict::Degraded
        } else {
            Verdict::Healthy
        }
    }

    /// The report on what was found and planned.
    pub(super) fn report(&self, view: &View) -> HealthReport {
        HealthReport {
            findings: self.findings.clone(),
            actions_total: self.batch.total(),
            actions: self.batch.acts().iter().map(|act| act.show(view)).collect(),
            findings_total: self.findings_total,
            verdict: self.verdict(),
            chunks: self.chunks,
            replicas_checked: self.replicas,
            repaired: 0,
            remaining: self.remaining + u64::from(self.read_only.is_some()),
            oldest_verified: self.oldest.map(time),
            oldest_read: self.oldest_read.map(time),
            unread_packs: self.unread,
            notices: {
                let read_only = self.read_only.iter().map(|why| format!("the coordinator takes no changes: {why}"));
                read_only.chain(self.notices.iter().cloned()).collect()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_node_is_away_is_told_roughly() {
        let told = |seconds: f64| format!("{:#}", rough(Duration::from_secs_f64(seconds)));
        assert_eq!([0.1, 2.4, 89.4, 90.0, 150.0].map(told), ["1s", "2s", "1m 29s", "2m", "3m"]);
        assert_eq!([3_600.0, 14_370.0, 1e6].map(told), ["1h", "4h", "277h 47m"]);
    }
}
