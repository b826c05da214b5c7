//! Which clients reach a node through the coordinator, and what the relay that serves them must know.
//!
//! Kubo's credentials cannot be scoped to a user, so clients get them only while the pool has one, unless the node's
//! owner said otherwise; and a loopback address is given only to clients on this machine. Both are decided anew for each
//! request. The relay itself is in `daemon`.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::Coordinator;
use super::registry::Member;
use crate::admin::Access;
use crate::api::{ApiResult, NodeAddress, NodeKind};
use crate::catalog::{nodes::NodeRow, packs};
use crate::grant::PublicKey;
use crate::id::{NodeId, PackId, PackRoot, PoolId};
use crate::machine::is_loopback;
use crate::pack::PackEntry;

/// What a relay asks of a coordinator.
#[async_trait]
pub trait Relay: Send + Sync {
    /// The pool.
    fn pool(&self) -> PoolId;

    /// The key that must have signed a grant.
    fn key(&self) -> PublicKey;

    /// The coordinator's clock.
    fn now(&self) -> Timestamp;

    /// How the coordinator itself reaches a node: with its own credential where it is Kubo, with the client's grant where
    /// it is a built-in node. Nothing for a node that is not registered.
    fn upstream(&self, node: &NodeId) -> Option<NodeAddress>;

    /// The chunks of a pack that was issued for this node and is not gone; nothing for any other.
    ///
    /// # Errors
    /// The catalog's.
    async fn entries(&self, node: &NodeId, pack: PackRoot) -> ApiResult<Option<Vec<PackEntry>>>;
}

impl Coordinator {
    /// How clients reach a node: as its owner said; else directly, but Kubo only while the pool has one user. With
    /// several users, none gets the coordinator's own credential: without one for clients, a Kubo is relayed.
    pub(super) fn access(&self, node: &NodeRow) -> Access {
        let several = self.users.load(Ordering::Relaxed) > 1;
        let only_own = || {
            let secret = self.keys.node(&node.id);
            secret.own.is_some() && secret.client.is_none()
        };
        match (node.access, node.kind) {
            (Some(_), NodeKind::Kubo) if several && only_own() => Access::Relay,
            (Some(access), _) => access,
            (None, NodeKind::Kubo) if several => Access::Relay,
            (None, _) => Access::Direct,
        }
    }

    /// Whether a client on `machine` reaches a node through the coordinator.
    pub(super) fn relayed(&self, node: &NodeRow, machine: &str) -> bool {
        self.access(node) == Access::Relay || (is_loopback(&node.url) && machine != self.machine)
    }

    fn member_of(&self, node: &NodeId) -> Option<std::sync::Arc<Member>> {
        self.nodes.all().into_iter().find(|member| member.row.id == *node)
    }
}

#[async_trait]
impl Relay for Coordinator {
    fn pool(&self) -> PoolId {
        self.pool
    }

    fn key(&self) -> PublicKey {
        self.keys.signing().public()
    }

    fn now(&self) -> Timestamp {
        self.seam.now()
    }

    fn upstream(&self, node: &NodeId) -> Option<NodeAddress> {
        let member = self.member_of(node)?;
        let NodeRow { id, name, kind, url, gateway, .. } = member.row.clone();
        let authorization = if kind == NodeKind::Kubo { self.keys.node(&id).own } else { None };
        Some(NodeAddress { id, name, kind, url, gateway, authorization })
    }

    async fn entries(&self, node: &NodeId, pack: PackRoot) -> ApiResult<Option<Vec<PackEntry>>> {
        let Some(member) = self.member_of(node) else { return Ok(None) };
        let row = member.row.row;
        self.read(move |c| {
            let id = c
                .prepare_cached("SELECT id FROM pack WHERE root = ?1 AND node_id = ?2 AND state < 4")?
                .query_row(params![pack.digest(), row], |row| row.get::<_, i64>(0))
                .optional()?;
            let Some(id) = id.and_then(|id| u64::try_from(id).ok()) else { return Ok(None) };
            let held = packs::chunks(c, PackId::new(id))?;
            Ok(Some(held.into_iter().map(|held| held.entry).collect()))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::{Gc, NodeAdd, Role};
    use crate::catalog::Catalog;
    use crate::coordinator::keys::{Keys, NodeSecret};
    use crate::coordinator::{Connect, Examined, Introduction, Parts, Policy};
    use crate::grant::Start;
    use crate::node::memory::MemoryNode;
    use crate::node::{GrantToken, NodeError, SharedNode};
    use crate::seam::Seam;

    struct Memory;

    #[async_trait]
    impl Connect for Memory {
        fn serve(&self, _: &Introduction) {}

        fn connect(&self, row: &NodeRow, _: &NodeSecret) -> Result<SharedNode, NodeError> {
            Ok(MemoryNode::new(row.id.clone(), &row.name, 1 << 30))
        }

        async fn examine(&self, _: &NodeAdd, _: Option<&NodeId>, _: &Introduction) -> ApiResult<Examined> {
            Ok(Examined { checks: Vec::new(), node: None })
        }

        async fn shown(&self, _: &NodeRow) -> Result<Option<Start>, NodeError> {
            Ok(None)
        }

        async fn greet(&self, _: &NodeRow, _: &Introduction) -> Result<Option<Start>, NodeError> {
            Ok(None)
        }
    }

    fn row(name: &str, kind: NodeKind, url: &str, access: Option<Access>) -> NodeRow {
        NodeRow {
            row: 0,
            id: name.parse().unwrap(),
            name: name.to_owned(),
            kind,
            url: url.to_owned(),
            gateway: url.to_owned(),
            zone: name.to_owned(),
            capacity_bytes: 1 << 30,
            access,
            gc: Gc::Owner,
            cache_live: false,
            draining: crate::catalog::nodes::Draining::No,
            weight: None,
            version: None,
            last_seen: None,
        }
    }

    /// The default of a node follows the users that there are when a client asks, not those at its registration, and
    /// outlives a restart; a credential goes to no client that is relayed.
    #[tokio::test(start_paused = true)]
    async fn the_default_access_follows_the_number_of_users() {
        let seam = Seam::simulated(1);
        let catalog = Catalog::in_memory(seam.clone()).unwrap();
        let keys = Arc::new(Keys::in_memory(&seam));
        let start = || {
            let (catalog, seam, keys) = (catalog.clone(), seam.clone(), keys.clone());
            let machine = "here".to_owned();
            let connect = Arc::new(Memory);
            Coordinator::start(Parts { catalog, seam, keys, policy: Policy::default(), connect, machine })
        };
        let coordinator = start().await.unwrap();
        let own = NodeSecret { own: Some(GrantToken::new("bearer:own".to_owned())), client: None };
        let far = "http://192.0.2.1:5001";
        for (name, kind, url, access) in [
            ("kubo", NodeKind::Kubo, far, None),
            ("always", NodeKind::Kubo, far, Some(Access::Relay)),
            ("never", NodeKind::Kubo, far, Some(Access::Direct)),
            ("own", NodeKind::Kubo, far, Some(Access::Direct)),
            ("builtin", NodeKind::Builtin, far, None),
            ("local", NodeKind::Kubo, "http://127.0.0.1:5001", None),
        ] {
            // A Kubo with a credential for clients stays direct, one with the coordinator's own alone does not.
            let client = (name == "never").then(|| GrantToken::new("bearer:client".to_owned()));
            let secret = NodeSecret { client, ..own.clone() };
            coordinator.register(row(name, kind, url, access), secret).await.unwrap();
        }
        let relayed = |coordinator: &Coordinator, machine: &str| -> Vec<String> {
            let mut names = Vec::new();
            for member in coordinator.nodes.all() {
                let address = coordinator.address(&member, machine);
                let granted = coordinator.read_grant(&member, machine, PackRoot::of(b"r")).is_some();
                if address.url.starts_with('/') {
                    assert_eq!((address.kind, &address.authorization, granted), (NodeKind::Builtin, &None, true));
                    names.push(address.name);
                } else {
                    assert_eq!(granted, address.kind == NodeKind::Builtin);
                    assert_eq!(address.authorization.is_some(), address.kind == NodeKind::Kubo);
                }
            }
            names
        };
        coordinator.create_user("one", Role::Admin).await.unwrap();
        assert_eq!(relayed(&coordinator, "here"), ["always"]);
        assert_eq!(relayed(&coordinator, "elsewhere"), ["always", "local"]);
        coordinator.create_user("two", Role::User).await.unwrap();
        assert_eq!(relayed(&coordinator, "here"), ["always", "kubo", "local", "own"]);
        let again = start().await.unwrap();
        assert_eq!(relayed(&again, "here"), ["always", "kubo", "local", "own"]);
        let upstream = again.upstream(&"kubo".parse().unwrap()).unwrap();
        assert_eq!((upstream.kind, upstream.authorization), (NodeKind::Kubo, own.own));
        assert!(again.upstream(&"gone".parse().unwrap()).is_none());
        assert_eq!(again.entries(&"kubo".parse().unwrap(), PackRoot::of(b"r")).await.unwrap(), None);
    }
}
