//! Writes down what a check saw, in small steps.

use std::collections::HashSet;

use crate::api::ApiResult;
use crate::catalog::packs::{self, PackState, Proof, Reach};
use crate::catalog::{chunks, micros, spread};
use crate::coordinator::Coordinator;
use crate::coordinator::health::Diagnosis;
use crate::id::PackId;

/// Rows of versions, packs or chunks that one step touches.
const STEP: usize = 500;

impl Coordinator {
    /// Writes down what a check saw: what was listed, what was read, bad replicas, and copies of each file.
    pub(super) async fn keep(&self, found: &Diagnosis) -> ApiResult<()> {
        let (began, meanwhile) = (found.began, self.times_since(micros(found.began) + 1));
        for some in found.wrong.chunks(STEP) {
            let some = some.to_vec();
            self.write(move |c| {
                some.iter().try_for_each(|(pack, chunk)| packs::mark(c, *pack, *chunk, began).map(drop))
            })
            .await?;
        }
        for some in found.missing.chunks(STEP) {
            let (some, meanwhile) = (some.to_vec(), meanwhile.clone());
            self.write(move |c| {
                some.iter().try_for_each(|(pack, chunk)| match packs::proved_within(c, *pack, &meanwhile)? {
                    true => Ok(()),
                    false => packs::mark(c, *pack, *chunk, began).map(drop),
                })
            })
            .await?;
        }
        for some in found.mended.chunks(STEP) {
            let some = some.to_vec();
            self.write(move |c| some.iter().try_for_each(|(pack, chunk)| packs::mended(c, *pack, *chunk, began)))
                .await?;
        }
        let unprotected: Vec<PackId> = found.unprotected.iter().copied().collect();
        for some in unprotected.chunks(STEP) {
            let (some, meanwhile) = (some.to_vec(), meanwhile.clone());
            self.write(move |c| some.iter().try_for_each(|pack| packs::unprotected(c, *pack, &meanwhile).map(drop)))
                .await?;
        }
        let seen: Vec<(PackId, u64)> = found.seen.iter().map(|(pack, read)| (*pack, *read)).collect();
        for some in seen.chunks(STEP) {
            let (some, meanwhile) = (some.to_vec(), meanwhile.clone());
            let cached: HashSet<i64> =
                self.nodes.all().iter().filter(|m| m.row.cache_live).map(|m| m.row.row).collect();
            self.write(move |c| {
                for (id, read) in &some {
                    let Some(pack) = packs::get(c, *id)?.filter(|pack| pack.state == PackState::Live) else { continue };
                    // A proof of since then is worth more than what was seen then.
                    if packs::proved_within(c, *id, &meanwhile)? {
                        continue;
                    }
                    packs::listed(c, *id, began)?;
                    let reach = match *read {
                        0 => continue,
                        read if read >= packs::good(c, *id)? => Reach::Whole,
                        _ if cached.contains(&pack.node) => continue,
                        _ => Reach::Sampled,
                    };
                    packs::proved(c, *id, Proof { reach, at: began })?;
                }
                Ok(())
            })
            .await?;
        }
        for some in found.spread.chunks(STEP) {
            let some = some.to_vec();
            self.write(move |c| some.iter().try_for_each(|version| spread::note(c, *version))).await?;
        }
        let orphans = found.orphans.clone();
        self.write(move |c| orphans.iter().try_for_each(|root| packs::drop_again(c, root))).await?;
        self.note_copies(&found.short, micros(found.began)).await
    }

    /// Writes down what listings show of copies, in small steps: first what was short before, then what is short now.
    async fn note_copies(&self, short: &[(i64, u32)], began: i64) -> ApiResult<()> {
        let now = self.seam.now();
        let step = STEP as u32;
        let mut after = Some(0);
        while let Some(from) = after {
            after = self.write(move |c| chunks::refresh_copies(c, from, step, now)).await?;
        }
        for some in short.chunks(STEP) {
            let some = some.to_vec();
            self.write(move |c| some.iter().try_for_each(|(chunk, good)| chunks::note_short(c, *chunk, *good))).await?;
        }
        self.write(move |c| chunks::note_checked(c, began)).await
    }
}
