//! From which copy a chunk is read: the nearest node first, of several the one with the least to do, another beside it when
//! it is late, the next when it fails.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep};

use super::fetch::Ways;
use super::pace::Pace;
use crate::api::{BadCopy, CopyAt, MAX_REPORTS, ManifestChunk, NodeAddress};
use crate::id::NodeId;
use crate::machine::is_loopback;
use crate::monitor::Event;
use crate::node::{ChunkAt, GrantToken, Node, NodeError, NodeFailure};
use crate::put::Context;
use crate::seal::{self, Key};

/// How often a read that is under way is compared with the pace of the others.
const LOOK: Duration = Duration::from_millis(25);

/// What a get knows of the nodes it reads from.
pub(super) struct Copies {
    context: Context,
    bad: Mutex<Bad>,
    pace: Mutex<Pace>,
}

/// Copies that could not be read.
#[derive(Default)]
struct Bad {
    count: u64,
    reports: Vec<BadCopy>,
    /// Nodes that people were told of.
    told: BTreeSet<NodeId>,
    /// Nodes that did not answer: asked last from then on, so that a hung one costs its limit once, not for each chunk,
    /// and reported once, since each report makes the coordinator ask them too.
    silent: BTreeSet<NodeId>,
}

/// A request under way, which its node has to do as long as it lasts.
struct Asked<'a> {
    copies: &'a Copies,
    copy: &'a CopyAt,
    since: Instant,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.copies.pace().end(&self.copy.node);
    }
}

/// A copy and how to reach it.
type Way<'a> = (&'a CopyAt, &'a NodeAddress);

impl Copies {
    pub(super) fn new(context: Context) -> Self {
        Self { context, bad: Mutex::default(), pace: Mutex::default() }
    }

    /// How many copies could not be read, and reports of them; none is told twice.
    pub(super) fn take_bad(&self) -> (u64, Vec<BadCopy>) {
        let bad = std::mem::take(&mut *self.bad());
        (bad.count, bad.reports)
    }

    /// The plaintext from the first good copy, or nothing if its bytes are right and the key does not open them. Else why
    /// no copy was good: what may be back later comes before other reasons, because then the bytes are not lost. A node
    /// that let a limit pass for this chunk is `late`: it is not waited for again.
    pub(super) async fn read(
        &self,
        chunk: &ManifestChunk,
        key: Option<&Key>,
        ways: &Ways,
        late: &mut BTreeSet<NodeId>,
    ) -> Result<Option<Bytes>, Option<NodeError>> {
        let mut last = None;
        let mut left: Vec<Way<'_>> = Vec::with_capacity(chunk.copies.len());
        for copy in &chunk.copies {
            match ways.nodes.get(&copy.node) {
                Some(address) => left.push((copy, address)),
                None => last = Some(NodeFailure::Unreachable("offline".into()).at(copy.node.to_string())),
            }
        }
        let mut reads = FuturesUnordered::new();
        let mut under_way: Vec<Asked<'_>> = Vec::new();
        loop {
            left.retain(|(copy, _)| !late.contains(&copy.node));
            if under_way.is_empty() || self.hedges(&under_way, &left, chunk) {
                let Some((copy, address)) = self.best(&left).map(|at| left.remove(at)) else { return Err(last) };
                under_way.push(self.begin(copy));
                reads.push(self.ask(chunk, key, (copy, address), ways));
            }
            let (copy, read) = tokio::select! {
                biased;
                Some(read) = reads.next() => read,
                () = sleep(LOOK), if !left.is_empty() => continue,
            };
            let Some(at) = under_way.iter().position(|asked| asked.copy == copy) else { continue };
            let ended = under_way.remove(at);
            match read {
                Ok(plain) => {
                    self.answered(&ended, &under_way);
                    return Ok(plain);
                }
                Err(error) => {
                    if matches!(error.reason, NodeFailure::Timeout { .. }) {
                        late.insert(copy.node.clone());
                    }
                    self.note_bad(chunk, copy, &error);
                    last = milder(last, Some(error));
                }
            }
        }
    }

    fn begin<'a>(&'a self, copy: &'a CopyAt) -> Asked<'a> {
        self.pace().begin(&copy.node);
        Asked { copies: self, copy, since: Instant::now() }
    }

    async fn ask<'a>(
        &self,
        chunk: &ManifestChunk,
        key: Option<&Key>,
        (copy, address): Way<'a>,
        ways: &Ways,
    ) -> (&'a CopyAt, Result<Option<Bytes>, NodeError>) {
        let at = ChunkAt { chunk: chunk.desc.chunk, bytes: chunk.desc.bytes, pack: copy.pack };
        let read = match self.context.dial.dial(address) {
            Ok(node) => read_and_open(&*node, &at, key, ways.grants.get(copy)).await,
            Err(error) => Err(error),
        };
        (copy, read)
    }

    /// Which copy is asked next. Looked at each time: what other chunks have met meanwhile counts too.
    fn best(&self, left: &[Way<'_>]) -> Option<usize> {
        let (bad, pace, now) = (self.bad(), self.pace(), Instant::now());
        let rank = |(copy, address): &Way<'_>| {
            let (rests, wait, reads) = pace.load(&copy.node, now);
            (bad.silent.contains(&copy.node), rests, distance(address), wait, reads)
        };
        (0..left.len()).min_by_key(|at| rank(&left[*at]))
    }

    /// Whether another node is asked for a chunk that is late: one that may well answer.
    fn hedges(&self, under_way: &[Asked<'_>], left: &[Way<'_>], chunk: &ManifestChunk) -> bool {
        let Some(asked) = under_way.last() else { return false };
        let Some((other, _)) = self.best(left).map(|at| left[at]) else { return false };
        if self.bad().silent.contains(&other.node) {
            return false;
        }
        let mut pace = self.pace();
        asked.since.elapsed() >= pace.patience(chunk.desc.bytes) && pace.may_hedge()
    }

    /// The first answer counts; those that were asked before it are slow.
    fn answered(&self, first: &Asked<'_>, others: &[Asked<'_>]) {
        let (mut pace, now) = (self.pace(), Instant::now());
        pace.answered(&first.copy.node, now - first.since, now);
        for other in others.iter().filter(|other| other.since < first.since) {
            pace.overtaken(&other.copy.node, now);
        }
    }

    fn note_bad(&self, chunk: &ManifestChunk, copy: &CopyAt, error: &NodeError) {
        let mut bad = self.bad();
        bad.count += 1;
        if bad.told.insert(copy.node.clone()) {
            self.context.watch.event(Event::Notice(format!("{error}; reading another copy")));
        }
        let known = error.reason.is_temporary() && !bad.silent.insert(copy.node.clone());
        if !known && bad.reports.len() < MAX_REPORTS {
            let message = error.reason.to_string();
            bad.reports.push(BadCopy { chunk: chunk.desc.chunk, at: copy.clone(), message });
        }
    }

    fn bad(&self) -> MutexGuard<'_, Bad> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a chunk and proves it: by its seal, or by its hash where it has none. What is not opened is read once more, by its
/// hash, to tell bytes that are wrong from a key that is.
async fn read_and_open(
    node: &dyn Node,
    at: &ChunkAt,
    key: Option<&Key>,
    grant: Option<&GrantToken>,
) -> Result<Option<Bytes>, NodeError> {
    let Some(key) = key else { return node.read_chunk(at, None, grant).await.map(Some) };
    let open = |stored: Bytes| {
        let stored = stored.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        seal::unseal(key, stored).ok()
    };
    match open(node.read_chunk(at, Some(0..at.bytes), grant).await?) {
        Some(plain) => Ok(Some(plain)),
        None => node.read_chunk(at, None, grant).await.map(open),
    }
}

/// How far away a node is: on this machine, elsewhere, or behind the coordinator.
fn distance(address: &NodeAddress) -> u8 {
    match address.url.contains("/relay/") {
        true => 2,
        false => u8::from(!is_loopback(&address.url)),
    }
}

/// The failure that is told of two: one that may pass by itself.
pub(super) fn milder(one: Option<NodeError>, other: Option<NodeError>) -> Option<NodeError> {
    match one {
        Some(one) if one.reason.is_temporary() => Some(one),
        _ if other.is_some() => other,
        one => one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::NodeKind;

    #[test]
    fn what_is_on_this_machine_is_near_and_what_is_relayed_is_far() {
        let at = |url: &str| NodeAddress {
            id: "n".parse().unwrap(),
            name: "n".to_owned(),
            kind: NodeKind::Builtin,
            gateway: url.to_owned(),
            url: url.to_owned(),
            authorization: None,
        };
        let far = ["http://127.0.0.1:5001", "http://10.0.0.7:5001", "http://127.0.0.1:4000/relay/n"];
        assert_eq!(far.map(|url| distance(&at(url))), [0, 1, 2]);
    }
}
