//! Moving and copying trees of any size, in changes of limited size.

use std::sync::Arc;

use super::Coordinator;
use super::leases::Site;
use crate::api::{ApiError, ApiResult, Code, Entry};
use crate::catalog::files::{self, Copying};
use crate::path::RemotePath;

/// How often a large directory is measured anew because its vault changed meanwhile.
const MEASURES: usize = 5;

/// What became of a copy's first change.
enum Begun {
    Done(Box<Entry>),
    Going(Copying, Site),
}

/// What became of a later one.
enum Gone {
    Done(Box<Entry>),
    On(Copying),
}

impl Coordinator {
    /// Moves an entry, at once.
    pub(super) async fn rename(&self, vault: i64, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        let now = self.seam.now();
        let mut measured = None;
        for _ in 0..MEASURES {
            let (of, onto) = (from.clone(), to.clone());
            if let Some(entry) = self.write(move |c| files::rename(c, vault, (&of, &onto), measured, now)).await? {
                return Ok(entry);
            }
            let of = from.clone();
            measured = Some(self.read(move |c| files::measure(c, vault, &of)).await?);
        }
        let what = format!("{from} is large, and files are being added all the time");
        Err(ApiError::new(Code::Temporary, what).hint("try again when less is going on"))
    }

    /// Copies an entry; the copy becomes visible whole.
    pub(super) async fn copy(&self, vault: i64, from: &RemotePath, to: &RemotePath) -> ApiResult<Entry> {
        let (from, to, now) = (from.clone(), to.clone(), self.seam.now());
        let building = Arc::clone(&self.building);
        let begun = self
            .write(move |c| {
                let mut copying = Copying::begin(c, vault, (&from, &to), now)?;
                if copying.step(c)? {
                    // Within the change, so that no sweep comes between.
                    let site = building.enter(copying.root());
                    return Ok(Begun::Going(copying, site));
                }
                Ok(Begun::Done(Box::new(copying.finish(c)?)))
            })
            .await?;
        let (mut copying, _site) = match begun {
            Begun::Done(entry) => return Ok(*entry),
            Begun::Going(copying, site) => (copying, site),
        };
        loop {
            let gone = self
                .write(move |c| {
                    if copying.step(c)? {
                        return Ok(Gone::On(copying));
                    }
                    Ok(Gone::Done(Box::new(copying.finish(c)?)))
                })
                .await?;
            copying = match gone {
                Gone::Done(entry) => return Ok(*entry),
                Gone::On(copying) => copying,
            };
        }
    }
}
