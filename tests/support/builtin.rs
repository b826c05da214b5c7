//! A built-in node in this process, on a temporary directory and a free port, that has joined a pool.

#![allow(clippy::unwrap_used, reason = "a failed expectation is how a test fails")]

use std::sync::Arc;

use bytenode::api::NodeKind;
use bytenode::daemon::node::{NodeOptions, run};
use bytenode::grant::{Grant, SigningKey, Start, Verb};
use bytenode::id::{NodeId, PoolId};
use bytenode::node::builtin::JoinRequest;
use bytenode::node::http::{Credential, HttpNode, HttpNodeOptions, Limits, MintGrant};
use bytenode::seam::Seam;
use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The pool that every node of the tests joins.
pub const POOL: PoolId = PoolId::from_bytes([0x5a; 16]);

/// A running node. It ends when dropped.
pub struct Builtin {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// Its identity.
    pub id: NodeId,
    task: JoinHandle<anyhow::Result<()>>,
    dir: TempDir,
}

/// The key of the coordinator that the nodes obey.
pub fn coordinator() -> SigningKey {
    SigningKey::from_seed(&[5; 32])
}

/// A grant for ten minutes.
pub fn grant(node: &NodeId, what: Verb) -> Grant {
    let by = Start { epoch: 1, instance: "one".to_owned() };
    Grant { by, pool: POOL, node: node.clone(), what, until: Timestamp::now().as_second() + 600 }
}

impl Builtin {
    /// Starts a node that has joined no pool.
    pub async fn fresh() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let options = NodeOptions { data: dir.path().to_owned(), ..NodeOptions::default() };
        let task = tokio::spawn(run(listener, options, std::future::pending()));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let told = client.post(format!("{url}/api/v0/id")).send().await.unwrap().json::<Value>().await.unwrap();
        Self { url, id: told["ID"].as_str().unwrap().parse().unwrap(), task, dir }
    }

    /// The code with which it joins.
    pub fn code(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("join.code")).unwrap()
    }

    /// Starts a node and takes it into [`POOL`].
    pub async fn start() -> Self {
        let node = Self::fresh().await;
        let join = JoinRequest {
            code: node.code(),
            pool: POOL,
            coordinator: coordinator().public().to_string(),
            epoch: 1,
            instance: "one".to_owned(),
        };
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let joined = client.post(format!("{}/api/v0/bytenode/join", node.url)).json(&join).send().await.unwrap();
        assert!(joined.status().is_success(), "{}", joined.text().await.unwrap());
        node
    }

    /// What reaches it as the coordinator does.
    pub fn options(&self) -> HttpNodeOptions {
        let id = self.id.clone();
        let mint: MintGrant = Arc::new(move || coordinator().grant(&grant(&id, Verb::Manage)));
        HttpNodeOptions {
            name: "builtin1".to_owned(),
            expected_id: Some(self.id.clone()),
            kind: NodeKind::Builtin,
            url: self.url.clone(),
            gateway: self.url.clone(),
            credential: Credential::Mint(mint),
            limits: Limits::default(),
            seam: Seam::real(),
        }
    }

    /// The same, as a node.
    pub fn node(&self) -> Arc<HttpNode> {
        HttpNode::new(self.options()).unwrap()
    }

    /// Files of packs that it has, finished or not.
    pub fn files(&self) -> usize {
        let in_dir = |name: &str| {
            let dirs = std::fs::read_dir(self.dir.path().join(name)).unwrap().map(|entry| entry.unwrap().path());
            dirs.map(|path| if path.is_dir() { std::fs::read_dir(path).unwrap().count() } else { 1 }).sum::<usize>()
        };
        in_dir("packs") + in_dir("incoming")
    }
}

impl Drop for Builtin {
    fn drop(&mut self) {
        self.task.abort();
    }
}
