//! The library in one process: a coordinator over memory nodes. Store some bytes, lose a node, get them back.
//!
//!     cargo run --example quickstart

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytenode::admin::{Access, Gc, NodeAdd};
use bytenode::api::{ApiError, ApiResult, Code, NodeAddress, NodeKind};
use bytenode::catalog::{Catalog, nodes::NodeRow};
use bytenode::coordinator::keys::{Keys, NodeSecret};
use bytenode::coordinator::{Connect, Coordinator, Examined, Introduction, Parts, Policy};
use bytenode::dial::Dial;
use bytenode::get::{self, GetOptions};
use bytenode::grant::Start;
use bytenode::id::NodeId;
use bytenode::monitor::Silent;
use bytenode::node::memory::MemoryNode;
use bytenode::node::{NodeError, NodeFailure, SharedNode};
use bytenode::put::{self, Context, PutOptions};
use bytenode::seam::Seam;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    // Time and chance come from one seam; a simulation would give a seed instead.
    let seam = Seam::real();
    let names = ["attic", "cellar", "office", "nas", "shed"];
    let nodes: Vec<Arc<MemoryNode>> =
        names.iter().map(|name| MemoryNode::builtin_like(&seam.bytes(), *name, 1 << 30, seam.clone())).collect();
    let ways = Arc::new(Ways(nodes.iter().map(|node| (node.id().clone(), node.clone())).collect()));

    // The coordinator: catalog and keys in memory, three copies of every chunk unless told otherwise.
    let coordinator = Coordinator::start(Parts {
        catalog: Catalog::in_memory(seam.clone())?,
        keys: Arc::new(Keys::in_memory(&seam)),
        policy: Policy::default(),
        connect: ways.clone(),
        machine: "here".into(),
        seam: seam.clone(),
    })
    .await?;
    for node in &nodes {
        coordinator.register(row(node), NodeSecret::default()).await?;
    }

    // The first user signs in, and stores 10 MB. The bytes go from here to the nodes; the coordinator sees hashes.
    let token = coordinator.admin_token(None).await?.ok_or("the pool has an admin already")?;
    let api = Arc::new(coordinator.local_session(token.expose()).await?);
    let context = Context { api, dial: ways, seam: seam.clone(), watch: Arc::new(Silent) };
    let mut bytes = vec![0; 10_000_000];
    seam.fill(&mut bytes);
    let path = "bn:/holiday/film.raw".parse()?;
    let input = Box::new(std::io::Cursor::new(bytes.clone()));
    let options = PutOptions { machine: "here".into(), ..PutOptions::default() };
    let stored = put::put_stream(&context, input, "-", &path, seam.now(), &options, &mut |_| {}).await?;
    println!("stored {} bytes as {} chunks on {} nodes", stored.bytes, stored.chunks, stored.nodes);
    for (node, name) in nodes.iter().zip(names) {
        println!("  {name}: {} chunks", node.chunk_count());
    }

    // A node dies without a word.
    nodes[0].kill();
    println!("killed {}", names[0]);

    // Every chunk comes from a node that is left, and is proved before it counts.
    let mut back = Vec::new();
    let options = GetOptions { machine: "here".into(), ..GetOptions::default() };
    let fetched = get::cat(&context, &path, 0, None, &options, &mut back).await?;
    println!("fetched {} bytes, {} copies could not be read", fetched.bytes, fetched.bad_replicas);
    if back != bytes {
        return Err("the bytes came back different".into());
    }
    println!("the same, byte for byte");
    Ok(())
}

/// The way to every node, for the coordinator and for clients.
struct Ways(BTreeMap<NodeId, Arc<MemoryNode>>);

impl Ways {
    fn find(&self, id: &NodeId, name: &str) -> Result<SharedNode, NodeError> {
        let found = self.0.get(id).ok_or_else(|| NodeFailure::Unreachable("no such node".into()).at(name))?;
        Ok(found.clone())
    }
}

impl Dial for Ways {
    fn dial(&self, address: &NodeAddress) -> Result<SharedNode, NodeError> {
        self.find(&address.id, &address.name)
    }
}

#[async_trait]
impl Connect for Ways {
    fn connect(&self, row: &NodeRow, _secret: &NodeSecret) -> Result<SharedNode, NodeError> {
        self.find(&row.id, &row.name)
    }

    async fn examine(&self, _: &NodeAdd, _: Option<&NodeId>, _: &Introduction) -> ApiResult<Examined> {
        Err(ApiError::new(Code::Internal, "these nodes are registered without a test"))
    }

    fn serve(&self, _pool: &Introduction) {}

    async fn shown(&self, _row: &NodeRow) -> Result<Option<Start>, NodeError> {
        Ok(None)
    }

    async fn greet(&self, _row: &NodeRow, _pool: &Introduction) -> Result<Option<Start>, NodeError> {
        Ok(None)
    }
}

/// What the catalog keeps of a node.
fn row(node: &MemoryNode) -> NodeRow {
    NodeRow {
        row: 0,
        id: node.id().clone(),
        name: node.name().to_owned(),
        kind: NodeKind::Builtin,
        url: format!("memory://{}", node.name()),
        gateway: String::new(),
        zone: node.name().to_owned(),
        capacity_bytes: 1 << 30,
        access: Some(Access::Direct),
        gc: Gc::Bytenode,
        cache_live: false,
        draining: bytenode::catalog::nodes::Draining::No,
        weight: None,
        version: None,
        last_seen: None,
    }
}
