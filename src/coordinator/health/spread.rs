//! Spread kept: copies that were made anew may have left some node with all chunks of a file that none had all of before.
//! One chunk of it goes elsewhere then, as soon as there is a place for it. Files that were never spread stay as they are: a
//! node that joins starts no storm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::Connection;

use super::acts::{Act, Means, Source, Spare};
use super::rows::{self, ChunkState};
use super::standing::{Answers, Standing};
use super::{Check, Diagnosis};
use crate::admin::{Do, Finding, FindingKind};
use crate::api::ApiResult;
use crate::catalog::spread::{self, Spread};
use crate::catalog::{CatalogResult, trace};
use crate::coordinator::Coordinator;
use crate::coordinator::registry::View;
use crate::path::RemotePath;

/// Versions looked at in one question to the catalog.
const PAGE: u32 = 500;
/// Chunks with something to do about them, with which one check keeps count of where copies will be.
const MOST: usize = 20_000;
/// Files for which no move was found, after which a check looks for those alone that were spread until now.
const PATIENCE: usize = 1_000;
/// Files that a chunk may be in for it to be moved for the sake of one: where it goes must not hold all of another.
const SHARED: usize = 16;

/// Nodes (by row) with copies of chunks (by row) once what is planned is done, where that is not as it stands.
#[derive(Debug, Default)]
pub(super) struct After {
    nodes: BTreeMap<i64, BTreeSet<i64>>,
    too_many: bool,
}

impl After {
    /// Takes down what acts make of a chunk.
    pub fn note(&mut self, chunk: i64, standings: &[(&rows::ReplicaRow, Standing)], acts: &[Act]) {
        if self.nodes.len() >= MOST {
            self.too_many = true;
            return;
        }
        let there = standings.iter().filter(|(_, standing)| standing.can_be_read());
        let mut nodes: BTreeSet<i64> = there.map(|(replica, _)| replica.node).collect();
        let (mut come, mut go) = (Vec::new(), Vec::new());
        for act in acts {
            match &act.means {
                Means::Write { to, then_drop, .. } => {
                    come.push(*to);
                    go.extend(then_drop.map(|spare| spare.node));
                }
                Means::Protect { .. } => {}
                Means::Drop(spare) => go.push(spare.node),
            }
        }
        nodes.retain(|node| !go.contains(node));
        nodes.extend(come);
        self.nodes.insert(chunk, nodes);
    }

    fn of(&self, c: &Connection, chunk: i64) -> CatalogResult<BTreeSet<i64>> {
        self.nodes.get(&chunk).map_or_else(|| spread::holders(c, chunk), |nodes| Ok(nodes.clone()))
    }
}

/// How one file is.
enum Parting {
    /// No node will have all of it.
    Spread,
    /// These nodes (by row) would, if nothing were moved off there.
    Moves(Option<RemotePath>, Vec<(i64, Act)>),
    /// One will, and nothing can be done about it.
    Stuck,
}

/// Who may get what.
struct Sites {
    view: Arc<View>,
    /// Nodes (by row) that get nothing of this and give nothing up for it.
    shut: BTreeSet<i64>,
    check: Check,
}

impl Coordinator {
    /// A finding and a move for each node that will hold all chunks of a file which none had all of before. Only while all
    /// nodes say what they have, and nothing of more weight takes all there is to do.
    pub(super) async fn find_unspread(
        &self,
        view: &Arc<View>,
        answers: &Answers,
        check: &Check,
        found: &mut Diagnosis,
    ) -> ApiResult<()> {
        let busy = found.after.too_many || found.batch.has_more();
        let of_one_node = check.leaving.is_some() || check.lost.is_some();
        if busy || of_one_node || !answers.unlisted.is_empty() {
            return Ok(());
        }
        let (mut at, mut stuck) = (0, 0);
        // With no more nodes than copies, each has all.
        let is_hopeless = view.seen.iter().filter(|seen| seen.open).count() <= view.replicas as usize;
        loop {
            check.task.check()?;
            let sites = Sites { view: Arc::clone(view), shut: answers.leaving.clone(), check: check.clone() };
            let (mut after, only_still) = (std::mem::take(&mut found.after), is_hopeless || stuck >= PATIENCE);
            let look = move |c: &Connection| {
                let versions = spread::versions(c, at, PAGE)?;
                let mut partings = Vec::new();
                for version in versions.iter().filter(|version| version.still || !only_still) {
                    partings.push((*version, sites.part(c, version.version, &mut after)?));
                }
                Ok((versions.last().map(|last| last.version), partings, after))
            };
            let (last, partings, after) = self.read(look).await?;
            found.after = after;
            stuck += partings.iter().filter(|(_, parting)| matches!(parting, Parting::Stuck)).count();
            partings.into_iter().for_each(|(version, parting)| found.note_parting(version, parting, view));
            let Some(last) = last.filter(|_| !found.batch.has_more()) else { return Ok(()) };
            at = last;
        }
    }
}

impl Diagnosis {
    fn note_parting(&mut self, version: Spread, parting: Parting, view: &View) {
        let still = matches!(parting, Parting::Spread);
        if let Parting::Moves(path, moves) = parting {
            for (node, act) in moves {
                let (path, node) = (path.clone(), Some(view.name(node)));
                self.add(Finding { kind: FindingKind::Spread, path, files: 1, chunk: Some(act.entry.chunk), node });
                self.batch.extend([act]);
            }
        }
        if still != version.still {
            self.spread.push(Spread { still, ..version });
        }
    }
}

impl Sites {
    fn part(&self, c: &Connection, version: i64, after: &mut After) -> CatalogResult<Parting> {
        let whole = spread::held_whole_by(c, version, None, None, &|chunk| after.of(c, chunk))?;
        // What leaves a node that is emptied is not there for long.
        let whole: Vec<i64> = whole.difference(&self.shut).copied().collect();
        if whole.is_empty() {
            return Ok(Parting::Spread);
        }
        let path = trace::file_of(c, version)?;
        let mut moves = Vec::new();
        for node in whole {
            let Some(act) = self.move_off(c, version, node, after)? else {
                moves.iter().for_each(|(_, act): &(i64, Act)| drop(after.nodes.remove(&act.chunk)));
                return Ok(Parting::Stuck);
            };
            moves.push((node, act));
        }
        Ok(Parting::Moves(path, moves))
    }

    /// The move of one chunk of a version off a node, to one that comes to hold all of no file by it.
    fn move_off(&self, c: &Connection, version: i64, node: i64, after: &mut After) -> CatalogResult<Option<Act>> {
        for row in spread::first_chunks(c, version)? {
            if after.nodes.contains_key(&row) {
                continue;
            }
            let Some(chunk) = rows::one(c, row)? else { continue };
            let Some(versions) = spread::versions_of(c, row, SHARED)? else { continue };
            let Some(to) = self.target(c, &chunk, node, &versions, after)? else { continue };
            let mut nodes: BTreeSet<i64> = chunk.replicas.iter().map(|replica| replica.node).collect();
            nodes.remove(&node);
            nodes.insert(to);
            after.nodes.insert(row, nodes);
            return Ok(Some(moving(&chunk, node, to)));
        }
        Ok(None)
    }

    fn target(
        &self,
        c: &Connection,
        chunk: &ChunkState,
        from: i64,
        versions: &[i64],
        after: &After,
    ) -> CatalogResult<Option<i64>> {
        let view = &self.view;
        let holders: BTreeSet<i64> = chunk.replicas.iter().map(|replica| replica.node).collect();
        let is_plain = holders.len() == chunk.replicas.len()
            && holders.len() == chunk.target as usize
            && !chunk.replicas.iter().any(|replica| replica.bad || replica.proved.is_none());
        if !is_plain || !holders.is_disjoint(&self.shut) {
            return Ok(None);
        }
        let others: BTreeSet<i64> = holders.iter().copied().filter(|holder| *holder != from).collect();
        let row = |at: usize| view.members[at].row.row;
        let is_out = |at: &usize| {
            let member = &view.members[*at].row;
            holders.contains(&member.row)
                || self.shut.contains(&member.row)
                || chunk.kept_off.iter().any(|id| *id == member.id.as_str())
                || self.check.failed.contains(&(member.row, chunk.row))
        };
        let mut excluded: Vec<usize> = (0..view.members.len()).filter(is_out).collect();
        let open: BTreeSet<i64> =
            (0..view.members.len()).filter(|at| view.seen[*at].open && !excluded.contains(at)).map(row).collect();
        for version in versions {
            let full =
                spread::held_whole_by(c, *version, Some(chunk.row), Some(open.clone()), &|one| after.of(c, one))?;
            excluded.extend(full.iter().filter_map(|node| view.at(*node)));
        }
        let beside: Vec<usize> = others.iter().filter_map(|node| view.at(*node)).collect();
        let chosen = view.topology.choose_beside(&chunk.entry.chunk, &beside, &[], &excluded, 1);
        let zone = |at: usize| view.members[at].row.zone.as_str();
        let alone = |at: usize| beside.iter().all(|other| zone(*other) != zone(at));
        // Zones come before spread.
        let may = |to: &usize| alone(*to) || view.at(from).is_some_and(|from| zone(from) == zone(*to) || !alone(from));
        Ok(chosen.into_iter().find(may).map(row))
    }
}

fn moving(chunk: &ChunkState, node: i64, to: i64) -> Act {
    let mut from: Vec<Source> =
        chunk.replicas.iter().map(|r| Source { node: r.node, pack: r.pack, root: r.root }).collect();
    from.sort_by_key(|source| source.node != node);
    let then_drop = from.first().map(|source| Spare { node, pack: source.pack });
    Act {
        means: Means::Write { act: Do::Move, from, to, instead: None, then_drop },
        chunk: chunk.row,
        vault: chunk.vault,
        entry: chunk.entry,
        good: chunk.replicas.len(),
        keep_off: true,
    }
}
