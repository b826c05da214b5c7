//! Spread kept: copies that were made anew may have left some node with all chunks of a file that none had all of before.
//! One chunk of it goes elsewhere then, as soon as there is a place for it and nothing else to be done. Files that were never
//! spread stay as they are: a node that joins starts no storm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::Connection;

use super::acts::{Act, Means, Source, Spare};
use super::rows::{self, ChunkState};
use super::standing::Answers;
use super::{Check, Diagnosis, MAX_REPORTED};
use crate::admin::{Do, Finding, FindingKind};
use crate::api::ApiResult;
use crate::catalog::spread::{self, Spread};
use crate::catalog::{CatalogResult, trace};
use crate::coordinator::Coordinator;
use crate::coordinator::registry::View;
use crate::path::RemotePath;

/// Versions looked at in one question to the catalog.
const PAGE: u32 = 500;
/// Files for which no move was found, after which a check looks for no more moves.
const PATIENCE: usize = 1_000;
/// Of the other files that a chunk is in, how many are looked at: where it goes should not hold all of one of them. If it
/// does, a chunk of that one moves in its turn; it comes to an end, since a chunk never goes back where it was.
const SHARED: u32 = 16;

/// Nodes (by row) with copies of the chunks (by row) that are to be moved, once they are.
#[derive(Default)]
struct After(BTreeMap<i64, BTreeSet<i64>>);

impl After {
    fn of(&self, c: &Connection, chunk: i64) -> CatalogResult<BTreeSet<i64>> {
        self.0.get(&chunk).map_or_else(|| spread::holders(c, chunk), |nodes| Ok(nodes.clone()))
    }
}

/// How one file is.
enum Parting {
    /// No node has all of it.
    Spread,
    /// Some have, and what is moved off which of them (by row).
    Moves(Option<RemotePath>, Vec<(i64, Act)>),
    /// Some have, and nothing is done about it now.
    Whole,
}

/// Who may get what.
struct Sites {
    view: Arc<View>,
    /// Nodes (by row) that get nothing of this and give nothing up for it.
    shut: BTreeSet<i64>,
}

impl Coordinator {
    /// Looks for files that some node has all chunks of though none had all before. In a check's first look, a finding and a
    /// move for each such node, if nothing of more weight is to be done; later, only whether files are spread by now.
    pub(super) async fn find_unspread(
        &self,
        view: &Arc<View>,
        answers: &Answers,
        check: &Check,
        found: &mut Diagnosis,
    ) -> ApiResult<()> {
        let of_one_node = check.leaving.is_some() || check.lost.is_some();
        let first = !check.looked;
        // What a node has that may come back, nobody knows.
        if answers.are_awaited() || (first && (of_one_node || found.batch.total() > 0)) {
            return Ok(());
        }
        // With no more nodes than copies, each has all.
        let hopeless = view.seen.iter().filter(|seen| seen.open).count() <= view.replicas as usize;
        let shut: BTreeSet<i64> = answers.leaving.union(&answers.unlisted).copied().collect();
        let (mut at, mut after, mut stuck) = (0, After::default(), 0);
        loop {
            check.task.check()?;
            let sites = Sites { view: Arc::clone(view), shut: shut.clone() };
            let plans = first && !hopeless && stuck < PATIENCE && found.batch.total() < MAX_REPORTED as u64;
            let look = move |c: &Connection| {
                let versions = spread::versions(c, at, PAGE)?;
                let mut partings = Vec::new();
                for version in versions.iter().filter(|version| version.still || !hopeless) {
                    partings.push((*version, sites.part(c, *version, plans.then_some(&mut after))?));
                }
                Ok((versions.last().map(|last| last.version), partings, after))
            };
            let partings;
            (at, partings, after) = match self.read(look).await {
                Ok((Some(last), partings, after)) => (last, partings, after),
                Ok((None, ..)) => return Ok(()),
                // Nothing else waits for this.
                Err(error) => {
                    found.notices.push(format!("whether files are spread is not known: {error}"));
                    return Ok(());
                }
            };
            stuck += partings.iter().filter(|(_, parting)| matches!(parting, Parting::Whole)).count();
            partings.into_iter().for_each(|(version, parting)| found.note_parting(version, parting, view));
            found.unspread |= !first && stuck > 0;
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
                self.batch.add(act);
            }
        }
        if still != version.still {
            self.spread.push(Spread { still, ..version });
        }
    }
}

impl Sites {
    fn part(&self, c: &Connection, version: Spread, plan: Option<&mut After>) -> CatalogResult<Parting> {
        let nothing = After::default();
        let after = plan.as_deref().unwrap_or(&nothing);
        let whole = spread::held_whole_by(c, version.version, None, None, &|chunk| after.of(c, chunk))?;
        // What leaves a node that is emptied is not there for long.
        let whole: Vec<i64> = whole.difference(&self.shut).copied().collect();
        if whole.is_empty() {
            return Ok(Parting::Spread);
        }
        let Some(after) = plan else { return Ok(Parting::Whole) };
        let (chunks, mut moves) = (spread::first_chunks(c, version.version)?, Vec::new());
        for node in whole {
            // A file of few chunks may take more checks than one: each chunk moves once.
            moves.extend(self.move_off(c, (&chunks, version.replicas), node, after)?.map(|act| (node, act)));
        }
        if moves.is_empty() {
            return Ok(Parting::Whole);
        }
        Ok(Parting::Moves(trace::file_of(c, version.version)?, moves))
    }

    /// The move of one of these chunks (by row), of which so many copies are wanted, off a node.
    fn move_off(
        &self,
        c: &Connection,
        (chunks, wanted): (&[i64], u32),
        node: i64,
        after: &mut After,
    ) -> CatalogResult<Option<Act>> {
        for row in chunks {
            if after.0.contains_key(row) {
                continue;
            }
            let Some(mut chunk) = rows::one(c, *row, wanted)? else { continue };
            chunk.replicas.retain(|replica| !self.shut.contains(&replica.node));
            let Some(to) = self.target(c, &chunk, node, after)? else { continue };
            let mut nodes: BTreeSet<i64> = chunk.replicas.iter().map(|replica| replica.node).collect();
            nodes.remove(&node);
            nodes.insert(to);
            after.0.insert(*row, nodes);
            return Ok(Some(moving(&chunk, node, to)));
        }
        Ok(None)
    }

    fn target(&self, c: &Connection, chunk: &ChunkState, from: i64, after: &After) -> CatalogResult<Option<i64>> {
        let view = &self.view;
        let holders: BTreeSet<i64> = chunk.replicas.iter().map(|replica| replica.node).collect();
        let is_plain = holders.len() == chunk.replicas.len()
            && holders.len() >= chunk.target as usize
            && holders.contains(&from)
            && !chunk.replicas.iter().any(|replica| replica.bad || replica.proved.is_none());
        if !is_plain {
            return Ok(None);
        }
        let row = |at: usize| view.members[at].row.row;
        let is_out = |at: &usize| {
            let member = &view.members[*at].row;
            holders.contains(&member.row) || self.shut.contains(&member.row) || chunk.is_kept_off(&member.id)
        };
        let mut excluded: Vec<usize> = (0..view.members.len()).filter(is_out).collect();
        let open: BTreeSet<i64> =
            (0..view.members.len()).filter(|at| view.seen[*at].open && !excluded.contains(at)).map(row).collect();
        if open.is_empty() {
            return Ok(None);
        }
        for version in spread::versions_of(c, chunk.row, SHARED)? {
            let full = spread::held_whole_by(c, version, Some(chunk.row), Some(open.clone()), &|one| after.of(c, one))?;
            excluded.extend(full.iter().filter_map(|node| view.at(*node)));
        }
        let beside: Vec<usize> =
            holders.iter().filter(|holder| **holder != from).filter_map(|node| view.at(*node)).collect();
        let chosen = view.topology.choose_beside(&chunk.entry.chunk, &beside, &[], &excluded, 1);
        let zone = |at: usize| view.members[at].row.zone.as_str();
        let alone = |at: usize| beside.iter().all(|other| zone(*other) != zone(at));
        // Zones come before spread.
        let may = |to: &usize| alone(*to) || view.at(from).is_some_and(|from| zone(from) == zone(*to) || !alone(from));
        Ok(chosen.into_iter().find(may).map(row))
    }
}

fn moving(chunk: &ChunkState, node: i64, to: i64) -> Act {
    let mut from: Vec<Source> = chunk.replicas.iter().map(Source::from).collect();
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
