//! The copies of a pool: what the catalog says of them, and how a node loses some.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use bytenode::catalog::nodes;
use bytenode::id::{ChunkId, PackRoot, PoolId};
use bytenode::pack::PackEntry;
use rusqlite::{Connection, OpenFlags};

use crate::pool::{Kind, Pool};
use crate::usage::settle;
use crate::wire::{self, Targets, Task};

/// One copy.
#[derive(Debug, Clone, Copy)]
pub struct Copy {
    /// Which of the pool's nodes has it.
    pub node: usize,
    /// The pack that it is in.
    pub root: PackRoot,
    /// The chunk.
    pub entry: PackEntry,
}

fn catalog(pool: &Pool) -> Result<Connection> {
    Ok(Connection::open_with_flags(pool.catalog(), OpenFlags::SQLITE_OPEN_READ_ONLY)?)
}

/// All copies, those of one chunk beside one another.
pub fn all(pool: &Pool) -> Result<Vec<Copy>> {
    let c = catalog(pool)?;
    let mut rows = c.prepare(
        "SELECT n.name, p.root, c.digest, c.bytes FROM replica r JOIN pack p ON p.id = r.pack_id
         JOIN chunk c ON c.id = r.chunk_id JOIN node n ON n.id = p.node_id WHERE p.state = 2 ORDER BY c.id, p.id",
    )?;
    let mut rows = rows.query([])?;
    let mut copies = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let node = pool.nodes.iter().position(|node| node.name == name).context("a node of the pool")?;
        let bytes = u64::try_from(row.get::<_, i64>(3)?)?;
        let entry = PackEntry { chunk: ChunkId::from_digest(row.get(2)?), bytes };
        copies.push(Copy { node, root: PackRoot::from_digest(row.get(1)?), entry });
    }
    Ok(copies)
}

/// The packs in which a node has any of these copies.
pub fn packs(copies: &[Copy], node: usize) -> BTreeSet<PackRoot> {
    copies.iter().filter(|copy| copy.node == node).map(|copy| copy.root).collect()
}

/// Bytes of them all.
pub fn bytes<'a>(copies: impl IntoIterator<Item = &'a Copy>) -> u64 {
    copies.into_iter().map(|copy| copy.entry.bytes).sum()
}

/// The way to the nodes, past the coordinator that runs now, and the pool's name.
pub async fn targets(pool: &Pool, kind: Kind) -> Result<(Targets, PoolId)> {
    let c = catalog(pool)?;
    let epoch: i64 = c.query_row("SELECT epoch FROM pool", [], |row| row.get(0))?;
    let id = nodes::pool(&c)?;
    drop(c);
    Ok((wire::targets(pool, kind, id, u64::try_from(epoch)?).await?, id))
}

/// Has a node lose packs, bytes and all, without a word to the coordinator.
pub async fn lose(targets: &Targets, kind: Kind, node: usize, packs: impl IntoIterator<Item = PackRoot>) -> Result<()> {
    let drops = packs.into_iter().map(|root| Task::drop_pack(node, root)).collect();
    wire::run(targets, drops, 1).await?;
    if kind == Kind::Kubo {
        wire::run(targets, vec![Task::post(node, "/api/v0/repo/gc?quiet=true".into())], 1).await?;
    }
    settle();
    Ok(())
}
