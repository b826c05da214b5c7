//! Nodes come, change and go.

use super::health::Check;
use super::keys::NodeSecret;
use super::registry::Member;
use super::{Coordinator, internal};
use crate::admin::{HealthReport, NodeAdd, NodeReport, NodeSet};
use crate::api::{ApiError, ApiResult, Code};
use crate::catalog::nodes::{self, Draining, NodeRow};
use crate::grant::PublicKey;

/// The most bytes of a node's name.
const MAX_NAME: usize = 255;

impl Coordinator {
    pub(super) async fn node_add(&self, request: &NodeAdd) -> ApiResult<NodeReport> {
        self.may_change()?;
        let examined = self.connect.examine(request, None, &self.introduction_for_test().await?).await?;
        let passed = examined.passed();
        let mut report = NodeReport { checks: examined.checks, node: None, known: false };
        let Some((mut row, mut secret)) = examined.node.filter(|_| passed) else { return Ok(report) };
        let _alone = self.membership.lock().await;
        if let Some(known) = self.nodes.known(&row.id) {
            report.known = true;
            keep(request, &known.row, &mut row);
            let kept = self.keys.node(&row.id);
            secret = NodeSecret { own: secret.own.or(kept.own), client: secret.client.or(kept.client) };
        }
        if row.name.is_empty() {
            row.name = self.nodes.free_name();
        }
        self.check_names(&row)?;
        if request.dry_run {
            let node = self.connect.connect(&row, &secret).map_err(|error| super::node_error(&error))?;
            report.node = Some(self.info(&Member::new(row, node)).await?);
            return Ok(report);
        }
        let member = self.register(row, secret).await?;
        report.node = Some(self.info(&member).await?);
        Ok(report)
    }

    /// Changes what the pool knows of a node; at another address, or with other credentials, it is tested wholly first.
    pub(super) async fn node_set(&self, name: &str, change: &NodeSet) -> ApiResult<NodeReport> {
        self.may_change()?;
        let member = self.member(name)?;
        if change.weight.is_some_and(|weight| !(1..=1000).contains(&weight)) {
            return Err(ApiError::new(Code::Usage, "a weight is 1 to 1,000 percent"));
        }
        if change.capacity_bytes == Some(0) {
            return Err(ApiError::new(Code::Usage, "a capacity of 0 is none: to empty a node, drain it")
                .hint(format!("bytenode admin node drain {name}")));
        }
        if change.token.is_some() && PublicKey::of_node(&member.row.id).is_some() {
            return Err(ApiError::new(
                Code::Usage,
                "a built-in node has no token that could be changed: it proves who it is",
            ));
        }
        let kept = self.keys.node(&member.row.id);
        let (mut secret, mut checks, mut found) = (kept.clone(), Vec::new(), None);
        let elsewhere = change.url.is_some() || change.gateway.is_some();
        if elsewhere || change.token.is_some() || change.client_token.is_some() {
            let request = self.tested(&member, &kept, change);
            let pool = self.introduction_for_test().await?;
            let examined = self.connect.examine(&request, Some(&member.row.id), &pool).await?;
            let passed = examined.passed();
            checks = examined.checks;
            let Some((row, own)) = examined.node.filter(|_| passed) else {
                return Ok(NodeReport { checks, node: None, known: true });
            };
            found = Some(row);
            secret = NodeSecret { own: own.own.or(kept.own), client: own.client.or(kept.client) };
        }
        // Others may have changed it meanwhile.
        let alone = self.membership.lock().await;
        let member = self.nodes.get(member.row.row).ok_or_else(|| ApiError::new(Code::NotFound, "it was removed"))?;
        let mut row = member.row.clone();
        let moved = found.is_some();
        if let Some(found) = found {
            (row.url, row.gateway, row.cache_live, row.version) =
                (found.url, found.gateway, found.cache_live, found.version);
        }
        row.name = change.name.clone().unwrap_or(row.name);
        row.zone = change.zone.clone().unwrap_or(row.zone);
        row.capacity_bytes = change.capacity_bytes.unwrap_or(row.capacity_bytes);
        row.weight = change.weight.or(row.weight);
        row.access = change.access.or(row.access);
        row.gc = change.gc.unwrap_or(row.gc);
        self.check_names(&row)?;
        if change.dry_run {
            let node = self.info(&member.changed(row)).await?;
            return Ok(NodeReport { checks, node: Some(node), known: true });
        }
        let id = row.row;
        if moved {
            self.register(row, secret).await?;
        } else {
            // Its name is in what it answers.
            let node = self.connect.connect(&row, &secret).map_err(|error| super::node_error(&error))?;
            let (kept, now) = (row.clone(), self.seam.now());
            self.write(move |c| nodes::upsert(c, &kept, now)).await?;
            self.nodes.set(member.reached(row, node));
        }
        drop(alone);
        match change.draining {
            Some(true) => self.set_draining(id, Draining::Yes).await?,
            Some(false) => self.set_draining(id, Draining::No).await?,
            None => {}
        }
        // Its copies may belong elsewhere now.
        self.repair_wanted.notify_one();
        let member = self.nodes.get(id).ok_or_else(|| ApiError::new(Code::NotFound, "it was removed"))?;
        Ok(NodeReport { checks, node: Some(self.info(&member).await?), known: true })
    }

    /// What a registered node is tested with, as it is to be from now on.
    fn tested(&self, member: &Member, kept: &NodeSecret, change: &NodeSet) -> NodeAdd {
        let row = &member.row;
        let same = Some(row.gateway.clone()).filter(|gateway| !gateway.is_empty() && change.url.is_none());
        NodeAdd {
            url: change.url.clone().unwrap_or_else(|| row.url.clone()),
            name: Some(row.name.clone()),
            zone: Some(row.zone.clone()),
            capacity_bytes: Some(row.capacity_bytes),
            token: change.token.clone().or_else(|| kept.own.clone()),
            client_token: change.client_token.clone().or_else(|| kept.client.clone()),
            gateway: change.gateway.clone().or(same),
            access: row.access,
            gc: Some(row.gc),
            insecure_http: change.insecure_http || change.url.is_none(),
            dry_run: true,
        }
    }

    /// Refuses a name that another node has, or a name or zone that cannot be typed.
    fn check_names(&self, row: &NodeRow) -> ApiResult<()> {
        let name = &row.name;
        for (text, what) in [(name, "name"), (&row.zone, "zone")] {
            if text.is_empty() || text.len() > MAX_NAME || text.chars().any(char::is_control) {
                let what = format!("a node's {what} has 1 to {MAX_NAME} bytes and no control characters");
                return Err(ApiError::new(Code::Usage, what));
            }
        }
        if self.nodes.named(name).is_some_and(|member| member.row.id != row.id) {
            return Err(ApiError::new(Code::Exists, format!("another node is called {name} already"))
                .hint("choose another with --name"));
        }
        Ok(())
    }

    /// Rebuilds elsewhere what is needed from a node, then forgets it. One that is given up for lost and does not answer is
    /// not waited for, and is forgotten even if chunks are lost with it; one that answers is lost to nobody.
    pub(super) async fn node_remove(&self, name: &str, lost: bool, dry_run: bool) -> ApiResult<HealthReport> {
        let member = self.member(name)?;
        let row = member.row.row;
        let gone = lost && self.ask(&member).await.is_err();
        let check = match gone {
            true => Check { lost: Some(row), ..Check::default() },
            false => Check { leaving: Some(row), ..Check::default() },
        };
        if dry_run {
            let (found, view) = self.diagnose(&check).await?;
            return Ok(found.report(&view));
        }
        self.may_change()?;
        // Closed to new chunks first, so that none arrives while the others are moved. In memory alone, so that a node
        // is open again after a start that follows a crash.
        let before = self.close(row, Draining::Yes).await;
        let removed = self.empty_and_forget(&member, check, gone).await;
        match before.filter(|_| self.nodes.get(row).is_some()) {
            Some(before) => drop(self.close(row, before).await),
            None => self.repair_wanted.notify_one(),
        }
        removed
    }

    /// Says of a node, in memory alone, whether it is being emptied; gives what was said before.
    async fn close(&self, row: i64, draining: Draining) -> Option<Draining> {
        let _alone = self.membership.lock().await;
        let member = self.nodes.get(row)?;
        self.nodes.set(member.changed(NodeRow { draining, ..member.row.clone() }));
        Some(member.row.draining)
    }

    async fn empty_and_forget(&self, member: &Member, check: Check, gone: bool) -> ApiResult<HealthReport> {
        let (row, name) = (member.row.row, &member.row.name);
        let alone = self.repairing.lock().await;
        let (mut report, since) = self.mend_alone(check, &alone).await?;
        if gone && self.ask(member).await.is_ok() {
            return Err(ApiError::new(Code::Changed, format!("{name} answers again, and may have what others lack"))
                .hint(format!("bytenode admin node remove {name}, without --lost")));
        }
        let roots = if gone { None } else { self.own_packs(member).await };
        self.may_change()?;
        let forgotten = self.write(move |c| nodes::forget_unless_needed(c, row, gone, since)).await?;
        if forgotten > 0 {
            let what = format!("{forgotten} chunks on {name} could not be given all their copies on the other nodes");
            return Err(ApiError::new(Code::TooFewNodes, what)
                .hint("add a node first; for one that never comes back see bytenode admin node remove --help"));
        }
        self.nodes.remove(row);
        self.keys.set_node(&member.row.id, None).map_err(internal)?;
        if roots.is_none() {
            report.notices.push(format!("{name} does not answer: what it holds stays on its disk"));
        }
        for root in roots.into_iter().flatten().take_while(|_| self.may_drop(member)) {
            // What stays behind on a node that fails now is no longer ours to count on.
            drop(member.node.drop_pack(root).await);
        }
        Ok(report)
    }

    /// The roots on a node that are ours; nothing when it does not answer.
    async fn own_packs(&self, member: &Member) -> Option<Vec<crate::id::PackRoot>> {
        self.ask(member).await.ok()?;
        let row = member.row.row;
        let mut roots = Vec::new();
        let mut after = crate::id::PackId::new(0);
        loop {
            let page = self.read(move |c| crate::catalog::packs::of_node(c, row, after, 1000)).await.ok()?;
            let Some(last) = page.last() else { return Some(roots) };
            after = last.id;
            roots.extend(page.iter().map(|pack| pack.root));
        }
    }
}

/// What was not given when a node was added again stays as it was.
fn keep(request: &NodeAdd, known: &NodeRow, row: &mut NodeRow) {
    if request.name.is_none() {
        row.name.clone_from(&known.name);
    }
    if request.zone.is_none() {
        row.zone.clone_from(&known.zone);
    }
    if request.capacity_bytes.is_none() {
        row.capacity_bytes = known.capacity_bytes;
    }
    // At another address, the gateway is where the node says.
    if request.gateway.is_none() && row.url == known.url {
        row.gateway.clone_from(&known.gateway);
    }
    row.access = request.access.or(known.access);
    row.gc = request.gc.unwrap_or(known.gc);
    row.draining = known.draining;
    row.weight = known.weight;
}
