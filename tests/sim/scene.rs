//! A scene: one to three clients at work side by side, with whatever else happens meanwhile; then a pause, in which what
//! was seen must have an explanation.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;

use bytenode::admin::{Admin, HealthRequest, Verdict};
use bytenode::api::Code;
use bytenode::coordinator::Until;

use super::client::{Op, Part};
use super::damage::Truth;
use super::model::{Act, Seen, Step, explains};
use super::world::{USERS, World, pass, step_aside};

/// No scene may take longer, of simulated time, beside the time that it skips itself.
const LONGEST: Duration = Duration::from_secs(3600);

/// When something begins, or ends: after some time, and then after others went first so often.
#[derive(Debug, Clone, Copy)]
struct Moment {
    time: Duration,
    steps: u64,
}

impl Moment {
    async fn come(self) {
        pass(self.time).await;
        step_aside(self.steps).await;
    }
}

/// What else happens in a scene.
#[derive(Debug, Clone)]
enum Event {
    Sweep,
    Gc,
    Health(HealthRequest),
    Status,
    Crash { down: Duration },
    Skip(Duration),
}

/// A client's part in a scene.
struct Client {
    user: usize,
    ops: Vec<Op>,
    dies: Option<Moment>,
    /// What became of each operation, so far.
    parts: Vec<Mutex<Vec<Part>>>,
}

/// What may excuse a failure.
struct Excuses {
    crashed: bool,
    losing: bool,
    skipped: bool,
    overlap: bool,
    /// A check asked or read the nodes meanwhile.
    checked: bool,
    /// A copy was destroyed, and whoever reads it may find that out between a plan that counts on it and its commit.
    damaged: bool,
    ailing: BTreeSet<usize>,
    /// Nodes that take what they are given.
    well: usize,
    nodes: usize,
    /// By user: files that can be read whatever ails the pool.
    readable: Vec<BTreeSet<String>>,
}

type Actor<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

impl World {
    fn moment(&self) -> Moment {
        let time = Duration::from_micros(if self.once_in(3) { 0 } else { self.dice.below(200_000) });
        Moment { time, steps: self.dice.below(40) }
    }

    fn client(&self) -> Client {
        let user = self.dice.below(USERS as u64) as usize;
        let count = 1 + self.dice.below(3);
        let ops: Vec<Op> = (0..count).map(|_| self.op()).collect();
        let dies = self.once_in(10).then(|| self.moment());
        let parts = ops.iter().map(|op| Mutex::new(op.parts())).collect();
        Client { user, ops, dies, parts }
    }

    fn event(&self) -> Event {
        match self.dice.below(12) {
            0..2 => Event::Sweep,
            2..5 => Event::Gc,
            5..8 => Event::Health(HealthRequest { dry_run: false, now: self.once_in(3), read: self.once_in(3) }),
            8 => Event::Status,
            9 => Event::Crash { down: Duration::from_millis(self.dice.below(1500)) },
            10 => Event::Skip(Duration::from_secs(1 + self.dice.below(3000))),
            _ => Event::Skip(Duration::from_secs(if self.once_in(3) { 25 * 3600 } else { 3700 })),
        }
    }

    /// One scene.
    pub async fn scene(&mut self) {
        self.change_weather().await;
        let clients: Vec<Client> = match self.dice.below(10) {
            0 => Vec::new(),
            1..6 => vec![self.client()],
            6..9 => vec![self.client(), self.client()],
            _ => vec![self.client(), self.client(), self.client()],
        };
        let events = if clients.is_empty() { 1 } else { [0, 0, 1, 1, 2, 3][self.dice.below(6) as usize] };
        let events: Vec<(Moment, Event)> = (0..events).map(|_| (self.moment(), self.event())).collect();
        for client in &clients {
            self.note(|| format!("user {} dies {:?}: {:?}", client.user, client.dies, client.ops));
        }
        self.note(|| format!("{events:?}"));
        let mut readable = Vec::new();
        for user in 0..USERS {
            readable.push(self.readable(user, &self.ailing).await);
        }
        let crashes = self.host.crashes();
        let alone = clients.is_empty() && events.len() == 1;
        let mut actors: Vec<Actor<'_>> =
            clients.iter().map(|client| Box::pin(self.play(client)) as Actor<'_>).collect();
        actors.extend(events.iter().map(|(moment, event)| Box::pin(self.happen(*moment, event, alone)) as Actor<'_>));
        let skips = events.iter().map(|(_, event)| if let Event::Skip(time) = event { *time } else { Duration::ZERO });
        let longest = LONGEST + skips.sum::<Duration>();
        let over = tokio::time::timeout(longest, join_all(actors)).await;
        assert!(over.is_ok(), "something hangs");
        let excuses = Excuses {
            crashed: self.host.crashes() != crashes,
            losing: self.losing,
            skipped: events.iter().any(|(_, event)| matches!(event, Event::Skip(_))),
            overlap: clients.len() > 1,
            checked: events.iter().any(|(_, event)| matches!(event, Event::Health(_))),
            damaged: self.damage.is_any(),
            ailing: self.ailing.clone(),
            well: self.pool.nodes.len() - self.ailing.union(&self.draining).count(),
            nodes: self.pool.nodes.len(),
            readable,
        };
        self.understand(clients, &excuses).await;
        let truth = Truth::of(&self.pool).await;
        self.damage.note_misread(&truth);
        self.check().await;
    }

    /// A client does one thing after the other, until it is done or dies.
    async fn play(&self, client: &Client) {
        let work = async {
            for (op, parts) in client.ops.iter().zip(&client.parts) {
                op.run(&self.users[client.user], parts).await;
            }
        };
        match client.dies {
            None => work.await,
            Some(moment) => {
                tokio::select! {
                    biased;
                    () = moment.come() => {}
                    () = work => {}
                }
            }
        }
    }

    async fn happen(&self, moment: Moment, event: &Event, alone: bool) {
        moment.come().await;
        match event {
            Event::Crash { down } => {
                if self.host.running().is_some() {
                    self.host.crash();
                    pass(*down).await;
                    self.start().await;
                }
            }
            Event::Skip(time) => tokio::time::advance(*time).await,
            event => {
                let Ok(session) = self.host.session(0).await else { return };
                let work = async {
                    match event {
                        Event::Sweep => {
                            session.coordinator().sweep(Until::Retention).await?;
                            session.scrub(false, false).await.map(drop)
                        }
                        Event::Gc => session.gc(true, false).await.map(drop),
                        Event::Status => session.status().await.map(drop),
                        Event::Health(request) => {
                            let report = session.health(request).await?;
                            self.note(|| format!("{request:?} -> {:?}", report.verdict));
                            assert!(report.verdict != Verdict::Lost || self.may_seem_lost(), "{report:?}");
                            if alone {
                                self.check_verdict(request, &report).await;
                            }
                            Ok(())
                        }
                        Event::Crash { .. } | Event::Skip(_) => Ok(()),
                    }
                };
                if let Some(Err(error)) = self.host.until_crash(work).await {
                    panic!("{event:?} failed: {error:?}");
                }
            }
        }
    }

    /// Copies may seem to be lost while something ails a node that has the last one.
    fn may_seem_lost(&self) -> bool {
        !self.ailing.is_empty() || self.damage.is_any()
    }

    /// Finds out what the vaults show now, and that what was seen leads there.
    async fn understand(&mut self, clients: Vec<Client>, excuses: &Excuses) {
        for user in 0..USERS {
            let mut steps: Vec<Step> = Vec::new();
            for (number, client) in clients.iter().filter(|client| client.user == user).enumerate() {
                let mut before = 0u64;
                for (op, parts) in client.parts.iter().enumerate() {
                    let first = steps.len();
                    for part in parts.lock().unwrap().iter().cloned() {
                        excuses.judge(user, &part);
                        let seen = if excuses.unsure(&part) { Seen::Unknown } else { part.seen };
                        let dirs = (first..steps.len()).filter(|at| matches!(steps[*at].act, Act::MakeDir { .. }));
                        let mut after = before | dirs.fold(0, |bits, at| bits | 1 << at);
                        let of = number * 10 + op;
                        if excuses.may_be_earlier(&part.act) {
                            let earlier = Step { of, after, act: part.act.clone(), seen: Seen::Unknown };
                            after |= 1 << steps.len();
                            steps.push(earlier);
                        }
                        steps.push(Step { of, after, act: part.act, seen });
                    }
                    before |= (first..steps.len()).fold(0, |bits, at| bits | 1 << at);
                }
            }
            let shown = self.shown(user).await;
            let steps_of: Vec<&Step> = steps.iter().collect();
            let right = explains(&self.trees[user], &steps_of, &shown);
            let before = &self.trees[user];
            assert!(right, "nothing explains what user {user} saw:\nbefore {before:#?}\n{steps:#?}\nafter {shown:#?}");
            self.trees[user] = shown;
        }
    }
}

impl Excuses {
    /// Whether what was seen of a put may be of an earlier try whose answer was lost.
    fn unsure(&self, part: &Part) -> bool {
        matches!(part.act, Act::Put { .. }) && part.error.is_some() && (self.crashed || self.losing)
    }

    /// Whether an earlier try, whose answer was lost, may have done this before: what makes directories is tried again, and
    /// somebody may have moved or removed them in between.
    fn may_be_earlier(&self, act: &Act) -> bool {
        matches!(act, Act::MakeDir { .. }) && (self.crashed || self.losing)
    }

    /// Fails for an error that nothing excuses.
    fn judge(&self, user: usize, part: &Part) {
        // Where the answer was lost and a commit repeated, it tells what a check has found since.
        let found_since = (self.crashed || self.losing) && (self.damaged || !self.ailing.is_empty());
        assert!(!part.below_rule || found_since, "acknowledged below the rule: {part:?}");
        let Some(error) = &part.error else { return };
        if matches!(part.seen, Seen::Refused(_))
            && !matches!((&part.act, error.code), (Act::Read { .. }, Code::Changed))
        {
            return;
        }
        let cut = self.crashed || self.losing;
        let excused = match (&part.act, error.code) {
            (_, Code::Replan) => cut || self.skipped,
            (Act::Put { .. } | Act::MakeDir { .. }, Code::Temporary | Code::NoRoom) => {
                // What was here already may be found bad before it is committed; the same put again sends it.
                let found_bad =
                    (self.damaged && self.overlap) || (self.checked && (self.damaged || !self.ailing.is_empty()));
                // A skip lets every limit pass at once, before a node could have said a word.
                cut || self.skipped || self.well < 2 || found_bad
            }
            (Act::Read { path }, Code::Temporary | Code::Integrity) => {
                cut || self.overlap || !self.readable[user].contains(path)
            }
            (Act::Read { .. }, Code::Changed | Code::NotFound) => self.overlap || self.skipped,
            (_, Code::Temporary) => cut,
            _ => false,
        };
        assert!(excused, "{part:?} failed with {} ailing of {} nodes", self.ailing.len(), self.nodes);
    }
}
