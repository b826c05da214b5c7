//! What ails nodes for a while: everything here passes when it is taken back.

use std::time::Duration;

use bytenode::node::NodeFailure;
use bytenode::node::call::Call;
use bytenode::node::fault::{Fault, When};

use super::world::World;
use crate::support::pool::Like;

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
        if self.once_in(2) {
            self.probe().await;
        }
    }

    /// Nothing ails any node any more, and the coordinator knows.
    pub async fn calm(&mut self) {
        for node in &self.pool.nodes {
            node.memory.revive();
            node.fault.heal();
        }
        self.ailing.clear();
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
            6 => fault.order(Call::Read, often, Fault::Fail(NodeFailure::Corrupt("a chunk".into()))),
            7 if self.pool.like(node) == Like::Kubo => {
                fault.order(Call::Write, often, Fault::Lie);
            }
            7 | 8 => fault.fill(),
            9 => fault.pretend("somebody-else".parse().unwrap()),
            _ => fault.order(call, often, Fault::Fail(NodeFailure::Answer("500: it cannot".into()))),
        }
    }
}
