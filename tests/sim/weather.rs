//! What ails nodes for a while: everything here passes when it is taken back.

use std::time::Duration;

use bytenode::admin::{Admin, NodeSet};
use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};

use super::world::World;
use crate::support::pool::{CAPACITY, Like};

/// Nodes that a pool has at most.
const MOST: usize = 9;
/// A node that gives no answer is waited for so long, as over HTTP.
const LIMIT: Duration = Duration::from_secs(20);

impl World {
    /// Changes the weather: all is well again, something ails one more node, or bytes are destroyed.
    pub async fn change_weather(&mut self) {
        if self.once_in(3) {
            self.calm().await;
        }
        if self.once_in(4) {
            let node = self.dice.below(self.pool.nodes.len() as u64) as usize;
            self.trouble(node);
        }
        if self.once_in(30) {
            self.losing = true;
            self.host.lose_answers(6);
        }
        if self.once_in(5) {
            self.destroy().await;
        }
        if self.once_in(12) {
            let node = self.dice.below(self.pool.nodes.len() as u64) as usize;
            self.pool.nodes[node].memory.collect_garbage();
        }
        if self.once_in(8) {
            self.change_nodes().await;
        }
        if self.once_in(2) {
            self.probe().await;
        }
    }

    /// A node is to be emptied, or is used again; one comes; one is said to share its fate with others; or all that do fall
    /// silent at once.
    async fn change_nodes(&mut self) {
        let Some(coordinator) = self.host.running() else { return };
        self.pool.coordinator = coordinator;
        let node = self.dice.below(self.pool.nodes.len() as u64) as usize;
        let change = match self.dice.below(8) {
            0..3 if self.draining.remove(&node) => NodeSet { draining: Some(false), ..NodeSet::default() },
            // Enough stay for every copy.
            0..3 if self.pool.nodes.len() > self.draining.len() + 3 => {
                self.draining.insert(node);
                NodeSet { draining: Some(true), ..NodeSet::default() }
            }
            3..5 => NodeSet { zone: Some(format!("zone{}", self.dice.below(4))), ..NodeSet::default() },
            5 => NodeSet { weight: Some(1 + self.dice.below(300) as u32), ..NodeSet::default() },
            6 if self.pool.nodes.len() < MOST => {
                let like = if self.once_in(2) { Like::Builtin } else { Like::Kubo };
                let node = self.pool.add_node(like, CAPACITY).await;
                self.note(|| format!("n{} comes", node + 1));
                return;
            }
            _ => return self.lose_zone(node),
        };
        self.note(|| format!("n{}: {change:?}", node + 1));
        let name = self.pool.nodes[node].name.clone();
        self.host.session(0).await.unwrap().node_set(&name, &change).await.unwrap();
    }

    /// Everything in a node's zone falls silent, unless that is all.
    fn lose_zone(&mut self, node: usize) {
        let zones: Vec<String> = {
            let members = self.pool.coordinator.nodes();
            self.pool.nodes.iter().map(|one| members.named(&one.name).unwrap().row.zone.clone()).collect()
        };
        let together: Vec<usize> = (0..zones.len()).filter(|at| zones[*at] == zones[node]).collect();
        if together.len() + 1 < zones.len() {
            self.note(|| format!("{} is lost: {together:?}", zones[node]));
            for at in together {
                self.ailing.insert(at);
                self.pool.nodes[at].memory.kill();
            }
        }
    }

    /// Nothing ails any node any more, and the coordinator knows.
    pub async fn calm(&mut self) {
        for node in &self.pool.nodes {
            node.memory.revive();
            node.fault.heal();
        }
        self.ailing.clear();
        self.damage.misreading.clear();
        self.losing = false;
        self.host.lose_answers(0);
        self.probe().await;
    }

    async fn probe(&self) {
        if let Some(coordinator) = self.host.running() {
            coordinator.ask_nodes().await;
        }
    }

    /// Something ails a node from now on.
    pub fn trouble(&mut self, node: usize) {
        let kind = self.dice.below(11);
        self.ailing.insert(node);
        self.note(|| format!("n{} is ailing in way {kind}", node + 1));
        let some = When::Next(1 + self.dice.below(3));
        let often = if self.once_in(2) { When::Always } else { some };
        let call = *self.pick(&Call::ALL);
        let wait = Duration::from_millis(self.dice.below(5_000));
        let (memory, fault) = (&self.pool.nodes[node].memory, &self.pool.nodes[node].fault);
        let silent = || Fault::Fail(NodeFailure::Timeout { seconds: LIMIT.as_secs(), doing: "waiting" });
        let reset = || NodeFailure::Unreachable("connection reset".into());
        match kind {
            0 => memory.kill(),
            1 => fault.refuse(),
            2 => {
                fault.order_all(&Fault::Delay(LIMIT));
                fault.order_all(&silent());
            }
            3 => {
                fault.order(call, often, Fault::Delay(LIMIT));
                fault.order(call, often, silent());
            }
            4 => fault.order_all(&Fault::Delay(wait)),
            5 => fault.order(call, often, Fault::LoseAnswer(reset())),
            6 => {
                self.damage.misreads(node);
                fault.order(Call::Read, often, Fault::Fail(NodeFailure::Corrupt("a chunk".into())));
            }
            7 if self.pool.like(node) == Like::Kubo => {
                fault.order(Call::Write, often, Fault::Lie);
            }
            7 | 8 => fault.fill(),
            9 => fault.pretend("somebody-else".parse().unwrap()),
            _ => fault.order(call, often, Fault::Fail(NodeFailure::Answer("500: it cannot".into()))),
        }
    }
}
