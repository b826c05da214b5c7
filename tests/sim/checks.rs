//! What must hold, whatever happened. While nothing is under way: at every pause, and more at the end.

use std::collections::{BTreeMap, BTreeSet};

use bytenode::admin::{HealthReport, HealthRequest, Verdict};
use bytenode::api::{Api, Kind, ListRequest};

use super::damage::{Replica, Truth};
use super::model::{CHUNK, Content, Thing, Tree};
use super::world::World;
use crate::support::pool::path;

/// Chunk rows that nothing refers to and nobody means to release.
const LEAKED: &str = "
SELECT count(*) FROM chunk c WHERE NOT EXISTS (SELECT 1 FROM manifest m WHERE m.chunk_id = c.id)
AND NOT EXISTS (SELECT 1 FROM loose_chunk l WHERE l.chunk_id = c.id)";
/// Visible files whose bytes, or whose place, are not what they say.
const UNSOUND: &str = "
SELECT count(*) FROM entry e JOIN version v ON v.id = e.version_id
WHERE v.state <> 1 OR v.expires_at IS NOT NULL OR v.vault_id <> e.vault_id
OR v.size <> (SELECT coalesce(sum(length), 0) FROM manifest m WHERE m.version_id = v.id)
OR v.chunks <> (SELECT count(*) FROM manifest m WHERE m.version_id = v.id)";
/// Versions that no entry shows, and that would stay forever.
const FORGOTTEN: &str = "
SELECT count(*) FROM version v WHERE state = 1 AND expires_at IS NULL
AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.version_id = v.id)";
/// Vaults whose counters are not what they count.
const MISCOUNTED: &str = "
SELECT count(*) FROM vault v WHERE (entries, files, bytes) IS NOT (
    SELECT count(*), count(e.version_id), coalesce(sum(w.size), 0)
    FROM entry e LEFT JOIN version w ON w.id = e.version_id WHERE e.vault_id = v.id)";
/// Files that are said to be spread, and of which some node has all.
const HELD_WHOLE: &str = "
SELECT count(*) FROM version v WHERE v.state = 1 AND v.expires_at IS NULL AND v.spread = 1 AND EXISTS (
    SELECT 1 FROM manifest m JOIN replica r ON r.chunk_id = m.chunk_id AND r.bad_at IS NULL
    JOIN pack p ON p.id = r.pack_id AND p.state = 2 WHERE m.version_id = v.id
    GROUP BY p.node_id HAVING count(DISTINCT m.chunk_id) =
        (SELECT count(DISTINCT w.chunk_id) FROM manifest w WHERE w.version_id = v.id))";
/// Chunks of visible files, with the copies wanted.
const NEEDED: &str = "
SELECT m.chunk_id, max(v.replicas) FROM entry e JOIN version v ON v.id = e.version_id
JOIN manifest m ON m.version_id = v.id GROUP BY m.chunk_id";

impl World {
    async fn count(&self, sql: &'static str) -> i64 {
        self.pool.count(sql).await
    }

    /// Rows of the chunks of visible files, and how many copies are wanted.
    async fn needed(&self) -> BTreeMap<i64, usize> {
        let ask = |c: &rusqlite::Connection| {
            let mut statement = c.prepare_cached(NEEDED)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as usize)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        self.pool.coordinator.catalog().read(ask).await.unwrap()
    }

    /// What a vault shows, by one listing.
    pub async fn shown(&self, user: usize) -> Tree {
        let request = ListRequest { path: path("bn:/"), recursive: true, cursor: None, limit: 1024 };
        let page = self.host.session(user).await.unwrap().list(&request).await.unwrap();
        assert!(page.next_cursor.is_none());
        page.items.iter().map(|entry| (name(&entry.path.to_string()), thing(entry))).collect()
    }

    /// What must hold whenever nothing is under way.
    pub async fn check(&self) {
        let truth = Truth::of(&self.pool).await;
        for replica in truth.replicas.iter().filter(|replica| replica.state == 2) {
            let right = truth.stands(replica) || self.damage.excuses(&truth, replica);
            assert!(right, "a copy that counts is not there, and nobody took it: {replica:?}");
        }
        let by_chunk = by_chunk(truth.replicas.iter().filter(|replica| replica.state == 2));
        for (row, wanted) in self.needed().await {
            let copies = by_chunk.get(&row).map_or(&[][..], Vec::as_slice);
            let nodes: BTreeSet<usize> = copies.iter().map(|replica| replica.node).collect();
            // Wrong bytes that stood in the way are forgotten with their pack before right ones are written.
            let spoilt = copies.first().is_some_and(|one| self.damage.was_of(&one.chunk));
            assert!(nodes.len() >= wanted.min(2) || spoilt, "a visible file's chunk {row} is on {nodes:?} alone");
            assert!(copies.iter().any(|one| truth.stands(one)), "no good copy is left of chunk {row}: {copies:?}");
        }
        assert_eq!(self.count(LEAKED).await, 0, "chunks without reference that nobody releases");
        assert_eq!(self.count(UNSOUND).await, 0, "visible files that are not whole");
        assert_eq!(self.count(FORGOTTEN).await, 0, "versions that nobody sees, and that stay");
        assert_eq!(self.count(MISCOUNTED).await, 0, "vaults whose counters are wrong");
        assert_eq!(self.count("SELECT count(*) FROM pragma_foreign_key_check").await, 0);
    }

    /// A verdict of health, given when nothing else was under way, is what the nodes really have.
    pub async fn check_verdict(&self, request: &HealthRequest, report: &HealthReport) {
        if report.verdict != Verdict::Healthy {
            return;
        }
        let truth = Truth::of(&self.pool).await;
        let there = |replica: &&Replica| {
            let right = !request.read || truth.is_good(replica);
            replica.state == 2 && truth.is_present(replica) && right
        };
        let by_chunk = by_chunk(truth.replicas.iter().filter(there));
        for (row, wanted) in self.needed().await {
            let copies = by_chunk.get(&row).map_or(&[][..], Vec::as_slice);
            let nodes: BTreeSet<usize> = copies.iter().map(|replica| replica.node).collect();
            assert!(nodes.len() >= wanted, "healthy was said ({request:?}), chunk {row} is on {nodes:?} alone");
        }
    }

    /// Files of a vault that must be readable now, because every chunk has a good copy on a node that nothing ails.
    pub async fn readable(&self, user: usize, ailing: &BTreeSet<usize>) -> BTreeSet<String> {
        let truth = Truth::of(&self.pool).await;
        let good = |one: &&Replica| one.state == 2 && !one.bad && !ailing.contains(&one.node) && truth.is_good(one);
        let rows: BTreeSet<i64> = truth.replicas.iter().filter(good).map(|replica| replica.row).collect();
        let mut found = BTreeSet::new();
        for name in self.trees[user].iter().filter(|(_, thing)| **thing != Thing::Dir).map(|(name, _)| name) {
            let entry = self.host.session(user).await.unwrap().stat(&path(&format!("bn:/{name}"))).await.unwrap();
            let version = entry.version.unwrap().0;
            let ask = move |c: &rusqlite::Connection| {
                let mut statement = c.prepare_cached("SELECT chunk_id FROM manifest WHERE version_id = ?1")?;
                let rows = statement.query_map([version], |row| row.get::<_, i64>(0))?;
                Ok(rows.collect::<Result<Vec<_>, _>>()?)
            };
            let chunks = self.pool.coordinator.catalog().read(ask).await.unwrap();
            if chunks.iter().all(|row| rows.contains(row)) {
                found.insert(name.clone());
            }
        }
        found
    }

    /// What must hold when every fault is over, everything was repaired, and what nobody needs was released.
    pub async fn check_rest(&self) {
        let truth = Truth::of(&self.pool).await;
        let by_chunk = by_chunk(truth.replicas.iter().filter(|replica| truth.is_good(replica)));
        for (row, wanted) in self.needed().await {
            let nodes: BTreeSet<usize> = by_chunk[&row].iter().map(|replica| replica.node).collect();
            assert_eq!(nodes.len(), wanted, "chunk {row} is on {nodes:?}");
        }
        assert_eq!(self.count(HELD_WHOLE).await, 0, "files that are said to be spread and are not");
        for node in 0..self.pool.nodes.len() {
            let known = truth.replicas.iter().filter(|replica| replica.node == node);
            let known: BTreeSet<_> = known.map(|replica| replica.root).collect();
            let unknown: Vec<_> = truth.packs(node).difference(&known).copied().collect();
            assert!(unknown.is_empty(), "n{} has packs that nobody needs: {unknown:?}", node + 1);
        }
        // One that is known to be bad stands for nothing, and goes with its pack.
        let gone = truth.replicas.iter().find(|replica| !replica.bad && !truth.is_good(replica));
        assert!(gone.is_none(), "a copy that counts is not there: {gone:?}");
        for sql in [
            "SELECT count(*) FROM pack WHERE state IN (0, 1, 3)",
            "SELECT count(*) FROM lease",
            "SELECT count(*) FROM loose_chunk",
            "SELECT count(*) FROM version WHERE state <> 1 OR expires_at IS NOT NULL",
            "SELECT count(*) FROM entry WHERE detached_at IS NOT NULL",
            "SELECT count(*) FROM version v WHERE NOT EXISTS (SELECT 1 FROM entry e WHERE e.version_id = v.id)",
            "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
        ] {
            assert_eq!(self.count(sql).await, 0, "{sql}");
        }
        let copies = "SELECT count(*) FROM version WHERE copies_min < replicas";
        assert_eq!(self.count(copies).await, 0, "files that are said to be short of copies");
        self.check_space().await;
    }

    /// What the catalog has on a node.
    pub async fn left_on(&self, node: usize) -> Vec<Replica> {
        Truth::of(&self.pool).await.replicas.into_iter().filter(|replica| replica.node == node).collect()
    }

    /// Used space, and chunks that are kept: what the model says, once for each vault, links of public files apart.
    async fn check_space(&self) {
        let (mut sealed, mut plain) = (0, BTreeSet::new());
        for (user, tree) in self.trees.iter().enumerate() {
            let files = || {
                tree.values().filter_map(|thing| {
                    if let Thing::File { content, public } = thing { Some((*content, *public)) } else { None }
                })
            };
            let mut own = BTreeSet::new();
            for (content, public) in files() {
                let chunks = content.bytes().chunks(CHUNK).map(<[u8]>::to_vec);
                if public { plain.extend(chunks) } else { own.extend(chunks) }
            }
            sealed += own.len();
            let bytes: u64 = files().map(|(content, _)| content.bytes().len() as u64).sum();
            let vault = user as i64 + 1;
            let totals =
                self.pool.coordinator.catalog().read(move |c| bytenode::catalog::files::totals(c, Some(vault)));
            assert_eq!(totals.await.unwrap(), (files().count() as u64, bytes), "used space of vault {vault}");
        }
        assert_eq!(self.count("SELECT count(*) FROM chunk WHERE vault_id <> 0").await, sealed as i64);
        let data = "SELECT count(DISTINCT chunk_id) FROM manifest WHERE part = 1";
        assert_eq!(self.count(data).await, plain.len() as i64, "plain chunks");
    }
}

fn by_chunk<'a>(replicas: impl Iterator<Item = &'a Replica>) -> BTreeMap<i64, Vec<&'a Replica>> {
    let mut found: BTreeMap<i64, Vec<&Replica>> = BTreeMap::new();
    replicas.for_each(|replica| found.entry(replica.row).or_default().push(replica));
    found
}

/// A path as the model has it.
pub fn name(path: &str) -> String {
    path.strip_prefix("bn:/").unwrap().to_owned()
}

/// What an entry shows; bytes that nobody ever put are a failure.
pub fn thing(entry: &bytenode::api::Entry) -> Thing {
    if entry.kind == Kind::Dir {
        return Thing::Dir;
    }
    let content = entry.sha256.and_then(|sha256| Content::of(&sha256.0));
    let content = content.unwrap_or_else(|| panic!("nobody ever put {entry:?}"));
    assert_eq!(entry.size, content.bytes().len() as u64, "{entry:?}");
    assert_eq!(entry.modified.as_second(), content.modified(), "{entry:?}");
    assert_eq!(entry.cid.is_some(), entry.public, "{entry:?}");
    Thing::File { content, public: entry.public }
}
