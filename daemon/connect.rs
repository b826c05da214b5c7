//! How the coordinator reaches real nodes: over HTTP, with its own credential, after a whole test.
//!
//! What a built-in node says of itself is a claim, and only chooses whom to ask for a proof: join code, grants and
//! greetings go over connections whose other end proved that it has the claimed (or registered) identity's key. Who is
//! asked to join for the first time may be anybody, since nothing is known of it yet but the code that its owner gave.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admin::{CheckResult, Gc, NodeAdd, NodeCheck};
use crate::api::{ApiError, ApiResult, Code, NodeKind};
use crate::catalog::nodes::NodeRow;
use crate::coordinator::keys::{Keys, NodeSecret};
use crate::coordinator::{Connect, Examined, Introduction};
use crate::grant::{Grant, PublicKey, Start, Verb};
use crate::id::{NodeId, PoolId};
use crate::machine::is_loopback;
use crate::node::builtin::identity::Seen;
use crate::node::http::{Credential, HttpNode, HttpNodeOptions, Limits};
use crate::node::probe::{IMPOSTOR_HINT, ProbeOptions, Probed, find_risks, parse_address, probe};
use crate::node::{GrantToken, NodeError, NodeFailure, SharedNode};
use crate::seam::Seam;

/// How long the coordinator's own grants are good for.
const OWN_GRANT: Duration = Duration::from_secs(600);

/// The call with which a built-in node joins.
const JOIN: &str = "bytenode/join";
/// The call with which the coordinator makes a start known to it.
const HELLO: &str = "bytenode/hello";
/// The call with which it asks for the start that was made known last.
const SEEN: &str = "bytenode/seen";

/// For whom grants are given.
#[derive(Clone)]
struct Serving {
    pool: PoolId,
    by: Start,
}

/// Connects over HTTP.
pub struct HttpConnect {
    keys: Arc<Keys>,
    serving: Arc<Mutex<Serving>>,
    limits: Limits,
    seam: Seam,
    /// The zone of nodes on this machine.
    machine: String,
}

impl HttpConnect {
    /// Makes one, which serves no pool yet.
    pub fn new(keys: Arc<Keys>, limits: Limits, seam: Seam, machine: String) -> Self {
        let nobody = Serving { pool: PoolId::from_bytes([0; 16]), by: Start::default() };
        Self { keys, serving: Arc::new(Mutex::new(nobody)), limits, seam, machine }
    }

    fn credential(&self, kind: NodeKind, id: &NodeId, secret: &NodeSecret) -> Credential {
        match (kind, &secret.own) {
            (NodeKind::Builtin, _) => {
                let (keys, seam, node) = (Arc::clone(&self.keys), self.seam.clone(), id.clone());
                let serving = Arc::clone(&self.serving);
                Credential::Mint(Arc::new(move || {
                    let Serving { pool, by } = serving.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let life = i64::try_from(OWN_GRANT.as_secs()).expect("ten minutes");
                    let until = seam.now().as_second() + life;
                    keys.signing().grant(&Grant { by, pool, node: node.clone(), what: Verb::Manage, until })
                }))
            }
            (_, Some(own)) => Credential::Kubo(own.clone()),
            (_, None) => Credential::None,
        }
    }

    /// A built-in node at an address: the expected one, or whichever answers.
    fn builtin(
        &self,
        name: &str,
        url: &str,
        expected_id: Option<NodeId>,
        credential: Credential,
    ) -> Result<Arc<HttpNode>, NodeError> {
        HttpNode::new(HttpNodeOptions {
            name: name.to_owned(),
            expected_id,
            kind: NodeKind::Builtin,
            url: url.to_owned(),
            gateway: url.to_owned(),
            credential,
            limits: self.limits,
            seam: self.seam.clone(),
        })
    }

    /// Which built-in node somebody at an address says to be; nothing when it says something else.
    async fn claimed(&self, url: &str) -> Option<NodeId> {
        let said: Value = self.builtin("", url, None, Credential::None).ok()?.ask_json("id").await.ok()?;
        let agent = said.get("AgentVersion")?.as_str()?;
        let id = said.get("ID")?.as_str()?.parse().ok()?;
        (agent.starts_with("bytenode/") && PublicKey::of_node(&id).is_some()).then_some(id)
    }

    /// Has a built-in node join the pool; gives its check.
    async fn join(&self, url: &str, id: &NodeId, code: &GrantToken, pool: &Introduction) -> NodeCheck {
        let body = json!({
            "code": code.expose().trim(),
            "pool": pool.pool,
            "coordinator": pool.key.to_string(),
            "epoch": pool.epoch,
            "instance": data_encoding::HEXLOWER.encode(&pool.instance),
        });
        let joined = async { self.builtin("", url, Some(id.clone()), Credential::None)?.tell_json(JOIN, &body).await };
        match joined.await.map_err(|error| error.reason) {
            Ok(_) => check("join", CheckResult::Ok, "it obeys this pool's coordinator", None),
            Err(reason @ (NodeFailure::Unproved(_) | NodeFailure::OtherIdentity { .. })) => {
                check("identity", CheckResult::Failed, format!("it {reason}"), Some(IMPOSTOR_HINT))
            }
            Err(reason) => {
                let hint = "use the code in its DATA/join.code, or restart it with --reset-join for a new one";
                check("join", CheckResult::Failed, format!("it {reason}"), Some(hint))
            }
        }
    }

    fn registered(&self, request: &NodeAdd, probed: Probed) -> (NodeRow, NodeSecret) {
        let local = url::Url::parse(&probed.url).ok();
        let host = local.as_ref().and_then(url::Url::host_str).unwrap_or("unknown").to_owned();
        let here = is_loopback(&probed.url);
        let zone = request.zone.clone().unwrap_or_else(|| if here { self.machine.clone() } else { host });
        let builtin = probed.kind == NodeKind::Builtin;
        let secret = if builtin {
            NodeSecret::default()
        } else {
            NodeSecret { own: request.token.clone(), client: request.client_token.clone() }
        };
        let all = probed.status.used_bytes.saturating_add(probed.status.free_bytes);
        let row = NodeRow {
            row: 0,
            id: probed.status.id,
            name: request.name.clone().unwrap_or_default(),
            kind: probed.kind,
            url: probed.url,
            gateway: probed.gateway,
            zone,
            capacity_bytes: request.capacity_bytes.unwrap_or(all),
            access: request.access,
            gc: request.gc.unwrap_or(Gc::Owner),
            cache_live: false,
            draining: crate::catalog::nodes::Draining::No,
            weight: None,
            version: Some(probed.status.version),
            last_seen: None,
        };
        (row, secret)
    }
}

impl HttpConnect {
    /// Makes a call that a built-in node answers with the start that it was told of before.
    async fn tell_start(&self, row: &NodeRow, path: &str, body: &Value) -> Result<Option<Start>, NodeError> {
        if row.kind != NodeKind::Builtin {
            return Ok(None);
        }
        let credential = self.credential(row.kind, &row.id, &NodeSecret::default());
        let said = self.builtin(&row.name, &row.url, Some(row.id.clone()), credential)?.tell_json(path, body).await?;
        let start = serde_json::from_value(said);
        start.map(Some).map_err(|_| NodeFailure::Answer("something else than a start".to_owned()).at(&row.name))
    }
}

fn check(name: &str, result: CheckResult, message: impl Into<String>, hint: Option<&str>) -> NodeCheck {
    NodeCheck { check: name.to_owned(), result, message: message.into(), hint: hint.map(str::to_owned) }
}

/// Whether anybody on the way may read and change what is sent.
fn is_exposed(url: &str) -> bool {
    !url.starts_with("https://") && !is_loopback(url)
}

#[async_trait]
impl Connect for HttpConnect {
    fn serve(&self, pool: &Introduction) {
        let serving = Serving { pool: pool.pool, by: pool.start() };
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = serving;
    }

    fn connect(&self, row: &NodeRow, secret: &NodeSecret) -> Result<SharedNode, NodeError> {
        let node = HttpNode::new(HttpNodeOptions {
            name: row.name.clone(),
            expected_id: Some(row.id.clone()),
            kind: row.kind,
            url: row.url.clone(),
            gateway: row.gateway.clone(),
            credential: self.credential(row.kind, &row.id, secret),
            limits: self.limits,
            seam: self.seam.clone(),
        })?;
        Ok(node)
    }

    async fn examine(&self, request: &NodeAdd, expected: Option<&NodeId>, pool: &Introduction) -> ApiResult<Examined> {
        let url = parse_address(&request.url).map_err(|error| ApiError::new(Code::Usage, error.to_string()))?;
        if is_exposed(&url) && !request.insecure_http {
            return Err(ApiError::new(Code::Usage, format!("{url} would be reached without encryption"))
                .hint("use https://, or ssh -L 5001:127.0.0.1:5001 HOST, or --insecure-http on a network you trust"));
        }
        let mut checks = Vec::new();
        let registered = expected.cloned().filter(|id| PublicKey::of_node(id).is_some());
        let builtin = match registered {
            None => self.claimed(&url).await,
            registered => registered,
        };
        if let (Some(_), Some(_), true) = (&builtin, &request.token, request.dry_run) {
            // It obeys whom it has joined, for ever, so a dry run ends here.
            let message = "it would be asked to join this pool; only then can the rest be tested";
            checks.push(check("join", CheckResult::Ok, message, None));
            return Ok(Examined { checks, node: None });
        }
        if let (Some(id), Some(code)) = (&builtin, &request.token) {
            let joined = self.join(&url, id, code, pool).await;
            let failed = joined.result == CheckResult::Failed;
            checks.push(joined);
            if failed {
                return Ok(Examined { checks, node: None });
            }
        }
        let secret = NodeSecret { own: request.token.clone(), client: None };
        let credential = match &builtin {
            Some(id) => self.credential(NodeKind::Builtin, id, &secret),
            None => self.credential(NodeKind::Kubo, &"kubo".parse().expect("letters"), &secret),
        };
        let found = probe(&ProbeOptions {
            name: request.name.clone().unwrap_or_default(),
            address: request.url.clone(),
            gateway: request.gateway.clone(),
            credential,
            expected_id: builtin.or_else(|| expected.cloned()),
            pool: pool.pool,
            epoch: pool.epoch,
            pack: pool.pack,
            limits: self.limits,
            seam: self.seam.clone(),
        })
        .await;
        let cache_live =
            found.checks.iter().any(|check| check.check == "block_cache" && check.result != CheckResult::Ok);
        checks.extend(found.checks);
        let node = found.node.map(|probed| {
            let (mut row, secret) = self.registered(request, probed);
            row.cache_live = cache_live;
            (row, secret)
        });
        Ok(Examined { checks, node })
    }

    async fn risks(&self, row: &NodeRow, secret: &NodeSecret) -> Vec<NodeCheck> {
        if row.kind != NodeKind::Kubo {
            return Vec::new();
        }
        let node = HttpNode::new(HttpNodeOptions {
            name: row.name.clone(),
            expected_id: Some(row.id.clone()),
            kind: row.kind,
            url: row.url.clone(),
            gateway: String::new(),
            credential: self.credential(row.kind, &row.id, secret),
            limits: self.limits,
            seam: self.seam.clone(),
        });
        match node {
            Ok(node) => find_risks(&node, &row.url).await,
            // It cannot be asked at all, which its state says.
            Err(_) => Vec::new(),
        }
    }

    async fn shown(&self, row: &NodeRow) -> Result<Option<Start>, NodeError> {
        self.tell_start(row, SEEN, &json!({})).await
    }

    async fn greet(&self, row: &NodeRow, pool: &Introduction) -> Result<Option<Start>, NodeError> {
        let told = Seen { start: pool.start(), earlier_until: pool.earlier_until };
        self.tell_start(row, HELLO, &json!(told)).await
    }
}
