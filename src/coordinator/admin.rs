//! A session's administrative half: nodes, health, sweeps, tokens.

use std::sync::Arc;

use async_trait::async_trait;

use super::health::Check;
use super::registry::Member;
use super::sweep::Until;
use super::tasks::Handle;
use super::{Coordinator, LocalSession};
use crate::admin::{
    Access, Action, Admin, Adopt, Adopted, ChunkRow, HealthReport, HealthRequest, NewToken, NodeAdd, NodeEvent,
    NodeInfo, NodeReport, NodeRisks, NodeScrubbed, NodeSet, NodeWay, SealedBackup, Status, Steer, Swept, Task,
    TaskReport, TaskRequest, WhoAmI,
};
use crate::api::{ApiError, ApiResult, Code, Kind, MAX_FILES, Page};
use crate::backup::Passphrase;
use crate::catalog::chunks;
use crate::catalog::nodes::{self, Usage};
use crate::catalog::{files, users};
use crate::path::RemotePath;

impl Coordinator {
    pub(super) async fn info(&self, member: &Member) -> ApiResult<NodeInfo> {
        let row = member.row.row;
        let usage: Usage = self.read(move |c| nodes::usage(c, row)).await?;
        let seen = member.seen(self.policy.grace);
        let capacity = member.row.capacity_bytes;
        let load = u128::from(usage.bytes) * 1000 / u128::from(capacity.max(1));
        let reclaimable = seen.answers.then(|| seen.used_bytes.saturating_sub(usage.bytes));
        Ok(NodeInfo {
            name: member.row.name.clone(),
            id: member.row.id.clone(),
            url: member.row.url.clone(),
            kind: member.row.kind,
            zone: member.row.zone.clone(),
            access: self.access(&member.row),
            state: seen.state,
            used_bytes: usage.bytes,
            reclaimable_bytes: reclaimable,
            capacity_bytes: capacity,
            chunks: usage.chunks,
            load_permille: u32::try_from(load).unwrap_or(u32::MAX),
            latency_ms: seen.latency.map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            last_seen: member.row.last_seen,
            version: seen.version,
            free_bytes: seen.free_bytes,
            failure: seen.failure,
            clock_skew_ms: seen.clock_skew.map(|skew| i64::try_from(skew.as_millis()).unwrap_or(i64::MAX)),
        })
    }

    async fn infos(&self) -> ApiResult<Vec<NodeInfo>> {
        self.ask_nodes().await;
        self.last_infos().await
    }

    /// The nodes as they were when they were asked last.
    async fn last_infos(&self) -> ApiResult<Vec<NodeInfo>> {
        let mut infos = Vec::new();
        for member in self.nodes.all() {
            infos.push(self.info(&member).await?);
        }
        Ok(infos)
    }

    pub(super) fn member(&self, name: &str) -> ApiResult<Arc<Member>> {
        self.nodes.named(name).ok_or_else(|| {
            let known: Vec<String> = self.nodes.all().iter().map(|member| member.row.name.clone()).collect();
            unknown_node(name, &known)
        })
    }

    /// The pool as a whole, and the files of one vault, or of all.
    async fn status(&self, vault: Option<i64>) -> ApiResult<Status> {
        // This asks every node, which takes its time where one hangs: not twice.
        let (found, _) = self.diagnose(&Check::default()).await?;
        let nodes = self.last_infos().await?;
        let (files, bytes) = self.read(move |c| files::totals(c, vault)).await?;
        Ok(Status {
            usable_bytes: usable(&nodes, self.policy.replicas),
            replicas: self.policy.replicas,
            files,
            bytes,
            verdict: found.verdict(),
            under_replicated: found.under + found.lost,
            oldest_verified: found.oldest.map(crate::catalog::time),
            oldest_read: found.oldest_read.map(crate::catalog::time),
            unread_packs: found.unread,
            hold: self.nodes.vanished(),
            tasks: self.open_tasks(),
            read_only: self.read_only(),
            backed_up: self.backups.last(),
            disk: None,
            nodes,
        })
    }
}

/// Plaintext that can still be stored at the target copies: the largest amount of which no node would have to hold more
/// than one copy.
fn usable(nodes: &[NodeInfo], replicas: u32) -> u64 {
    let mut free: Vec<u64> = nodes
        .iter()
        .filter(|node| node.state == crate::admin::NodeState::Online)
        .map(|node| node.capacity_bytes.saturating_sub(node.used_bytes))
        .collect();
    free.sort_unstable();
    let wanted = u64::from(replicas.max(1));
    if (free.len() as u64) < wanted {
        return 0;
    }
    // With the k largest capped at x: x is what fits when the smaller ones together fill the other copies.
    let mut best = 0;
    for capped in 0..wanted {
        let split = free.len() - usize::try_from(capped).unwrap_or(0);
        let rest: u64 = free[..split].iter().fold(0, |sum, node| sum.saturating_add(*node));
        let x = rest / (wanted - capped);
        let bound = free.get(split).copied().unwrap_or(u64::MAX);
        if x <= bound {
            best = best.max(x.min(bound));
            break;
        }
    }
    best
}

#[async_trait]
impl Admin for LocalSession {
    async fn whoami(&self) -> ApiResult<WhoAmI> {
        Ok(WhoAmI {
            user: self.user.name.clone(),
            role: self.user.role,
            token: self.token.clone(),
            pool: self.coordinator.pool,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: Some(self.coordinator.seam.now()),
        })
    }

    async fn create_token(&self, name: &str) -> ApiResult<NewToken> {
        self.coordinator.create_token_for(self.user.id, name).await
    }

    async fn revoke_own_token(&self) -> ApiResult<()> {
        let (id, now) = (self.token.clone(), self.coordinator.seam.now());
        self.coordinator.write(move |c| users::revoke(c, &id, now)).await
    }

    async fn chunk_rows(&self, path: &RemotePath, cursor: Option<&str>, limit: u32) -> ApiResult<Page<ChunkRow>> {
        let bad = || ApiError::new(Code::Usage, "the cursor is not one that this listing gave");
        let first: u64 = cursor.map_or(Ok(0), str::parse).map_err(|_| bad())?;
        let limit = u64::from(limit).clamp(1, MAX_FILES as u64);
        let (vault, path) = (self.user.vault, path.clone());
        let rows = self
            .coordinator
            .read(move |c| {
                let entry = files::need(c, vault, &path)?.entry;
                let Some(version) = entry.version.filter(|_| entry.kind == Kind::File) else {
                    return Err(ApiError::new(Code::WrongKind, format!("{path} is a directory")).into());
                };
                let mut rows = Vec::new();
                for row in chunks::manifest(c, version.0, first, limit)? {
                    rows.push((row.desc, chunks::copies(c, row.row, None)?));
                }
                Ok(rows)
            })
            .await?;
        let view = self.coordinator.nodes.view(self.coordinator.policy.replicas);
        let full = rows.len() as u64 == limit;
        let items = rows.into_iter().zip(first..).map(|((desc, copies), index)| {
            let answering = copies.iter().filter(|copy| view.answers(copy.node));
            let names: std::collections::BTreeSet<String> = answering.map(|copy| view.name(copy.node)).collect();
            ChunkRow { index, cid: desc.chunk, size: desc.bytes, nodes: names.into_iter().collect() }
        });
        let items: Vec<ChunkRow> = items.collect();
        let next_cursor = full.then(|| (first + limit).to_string());
        Ok(Page { items, next_cursor })
    }

    async fn status(&self) -> ApiResult<Status> {
        if self.is_admin() {
            let disk = self.coordinator.catalog_disk().await?;
            return Ok(Status { disk, ..self.coordinator.status(None).await? });
        }
        let mut status = self.coordinator.status(Some(self.user.vault)).await?;
        status.tasks.clear();
        for node in status.nodes.iter_mut().filter(|node| node.access == Access::Relay) {
            node.url.clear();
        }
        Ok(status)
    }

    async fn nodes(&self) -> ApiResult<Vec<NodeInfo>> {
        self.must_be_admin()?;
        self.coordinator.infos().await
    }

    async fn ways(&self, machine: &str) -> ApiResult<Vec<NodeWay>> {
        self.coordinator.ways(machine)
    }

    async fn risks(&self) -> ApiResult<Vec<NodeRisks>> {
        self.must_be_admin()?;
        Ok(self.coordinator.risks().await)
    }

    async fn node_add(&self, request: &NodeAdd) -> ApiResult<NodeReport> {
        self.must_be_admin()?;
        self.coordinator.node_add(request).await
    }

    async fn node_test(&self, name: &str) -> ApiResult<NodeReport> {
        self.must_be_admin()?;
        let member = self.coordinator.member(name)?;
        let secret = self.coordinator.keys.node(&member.row.id);
        let request = NodeAdd {
            url: member.row.url.clone(),
            name: Some(member.row.name.clone()),
            zone: Some(member.row.zone.clone()),
            capacity_bytes: Some(member.row.capacity_bytes),
            token: secret.own,
            client_token: secret.client,
            gateway: Some(member.row.gateway.clone()).filter(|gateway| !gateway.is_empty()),
            access: member.row.access,
            gc: Some(member.row.gc),
            insecure_http: true,
            dry_run: true,
        };
        let pool = self.coordinator.introduction_for_test().await?;
        let examined = self.coordinator.connect.examine(&request, Some(&member.row.id), &pool).await?;
        drop(self.coordinator.ask(&member).await);
        Ok(NodeReport { checks: examined.checks, node: Some(self.coordinator.info(&member).await?), known: true })
    }

    async fn node_set(&self, name: &str, change: &NodeSet) -> ApiResult<NodeReport> {
        self.must_be_admin()?;
        self.coordinator.node_set(name, change).await
    }

    async fn node_events(&self, name: &str) -> ApiResult<Vec<NodeEvent>> {
        self.must_be_admin()?;
        let row = self.coordinator.member(name)?.row.row;
        self.coordinator.read(move |c| crate::catalog::tasks::node_events(c, row)).await
    }

    async fn node_remove(&self, name: &str, lost: bool, dry_run: bool) -> ApiResult<HealthReport> {
        self.must_be_admin()?;
        self.coordinator.node_remove(name, lost, dry_run).await
    }

    async fn health(&self, request: &HealthRequest) -> ApiResult<HealthReport> {
        self.must_be_admin()?;
        let mut report = self.coordinator.health(request).await?;
        in_order(&mut report);
        Ok(report)
    }

    async fn gc(&self, now: bool, dry_run: bool) -> ApiResult<Swept> {
        self.must_be_admin()?;
        if dry_run {
            return self.coordinator.weigh_sweep(now).await;
        }
        self.coordinator.sweep(if now { Until::Now } else { Until::Retention }).await
    }

    async fn scrub(&self, all: bool, dry_run: bool) -> ApiResult<Vec<NodeScrubbed>> {
        self.must_be_admin()?;
        let since = all.then(|| self.coordinator.seam.now());
        self.coordinator.scrub_now(since, dry_run, &Handle::default()).await
    }

    async fn task_start(&self, request: &TaskRequest) -> ApiResult<Task> {
        self.must_be_admin()?;
        self.coordinator.task_start(&self.user.name, request).await
    }

    async fn tasks(&self) -> ApiResult<Vec<Task>> {
        self.must_be_admin()?;
        self.coordinator.tasks().await
    }

    async fn task(&self, id: u64, wait: u64, done: u64) -> ApiResult<TaskReport> {
        self.must_be_admin()?;
        self.coordinator.task(id, wait, done).await
    }

    async fn task_steer(&self, id: u64, steer: Steer) -> ApiResult<Task> {
        self.must_be_admin()?;
        self.coordinator.task_steer(id, steer).await
    }

    async fn backup(&self, passphrase: &Passphrase) -> ApiResult<SealedBackup> {
        self.must_be_admin()?;
        self.coordinator.backup(passphrase).await
    }

    async fn backup_kept(&self, made: jiff::Timestamp) -> ApiResult<()> {
        self.must_be_admin()?;
        self.coordinator.backup_kept(made).await
    }

    async fn adopt(&self, request: &Adopt) -> ApiResult<Adopted> {
        self.must_be_admin()?;
        self.coordinator.adopt(request).await
    }
}

/// Puts the actions of a report into an order that does not depend on how they came about.
pub(super) fn in_order(report: &mut HealthReport) {
    report.actions.sort_by(|a: &Action, b| (&a.to, a.chunk).cmp(&(&b.to, b.chunk)));
}

/// No member has this name.
fn unknown_node(name: &str, known: &[String]) -> ApiError {
    let hint = match known.iter().min_by_key(|other| distance(name, other)) {
        Some(near) if distance(name, near) <= 3 => format!("did you mean {near}?"),
        _ => "bytenode admin node ls".to_owned(),
    };
    ApiError::new(Code::NotFound, format!("no node is called {name:?}")).hint(hint)
}

/// Levenshtein's distance between two short names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
