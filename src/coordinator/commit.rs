//! Commit: a version becomes visible, whole, in one transaction that touches few rows; or the file is refused.

use std::ops::RangeInclusive;

use rusqlite::{Connection, params};

use super::leases::{Lease, Shortfall, check_alive};
use super::{Coordinator, Policy};
use crate::api::{ApiError, ApiResult, Code, CommitFile, CommitFiles, Committed, Entry, Expect, MAX_FILES};
use crate::catalog::chunks::{self, Weighed};
use crate::catalog::files::{self, LinkTime};
use crate::catalog::{CatalogError, CatalogResult, micros, signed};
use crate::id::UploadId;

/// The longest wrapped key of a file.
const MAX_KEY_BYTES: usize = 256;
/// Failed nodes that a refusal names, at most.
const MAX_NAMED: usize = 4;
/// The longest text of a CID.
const MAX_CID_BYTES: usize = 128;

/// What a commit needs to know of its put.
#[derive(Clone)]
struct Committing {
    upload: UploadId,
    vault: i64,
    replicas: u32,
    public: bool,
    chunk_size: u32,
    /// Proofs of other times do not count.
    counted: RangeInclusive<i64>,
    /// Nodes that failed the put, by name, and how.
    failed: Vec<(String, Shortfall)>,
    at: LinkTime,
}

impl Coordinator {
    pub(super) async fn commit_files(&self, lease: &Lease, request: CommitFiles) -> ApiResult<Vec<Committed>> {
        if request.files.len() > MAX_FILES {
            return Err(ApiError::new(Code::Usage, format!("at most {MAX_FILES} files can be committed at once")));
        }
        let now = self.seam.now();
        let at = LinkTime { now, expires: now.checked_add(self.policy.retention).unwrap_or(now) };
        let commit = Committing {
            upload: lease.upload,
            vault: lease.vault,
            replicas: lease.replicas,
            public: lease.public,
            chunk_size: self.policy.chunk_size,
            counted: self.counted(lease),
            failed: self.failed_nodes(lease),
            at,
        };
        let numbers: Vec<u32> = request.files.iter().map(|file| file.file).collect();
        check_request(&request)?;
        let (of, by) = (numbers.clone(), commit.clone());
        let weigh = move |c: &_| of.iter().map(|file| chunks::weigh(c, by.upload, *file, &by.counted)).collect();
        let weighed: Vec<Option<Weighed>> = self.read(weigh).await?;
        let done: Vec<Committed> = self
            .write(move |c| {
                check_alive(c, commit.upload)?;
                request.files.into_iter().zip(weighed).map(|(file, weighed)| one(c, &commit, file, weighed)).collect()
            })
            .await?;
        for number in numbers {
            lease.forget_file(number);
        }
        let short = |one: &Committed| match one {
            Committed::Done { entry, .. } => entry.copies_min.is_some_and(|copies| copies < entry.copies_target),
            Committed::Refused { .. } => false,
        };
        if done.iter().any(short) {
            self.repair_wanted.notify_one();
        }
        Ok(done)
    }
}

impl Coordinator {
    fn failed_nodes(&self, lease: &Lease) -> Vec<(String, Shortfall)> {
        let named = |(node, how)| {
            let name = self.nodes.get(node).map_or_else(|| "a removed node".to_owned(), |node| node.row.name.clone());
            (name, how)
        };
        lease.avoided().into_iter().map(named).collect()
    }
}

/// Fewer copies than the write rule demands: which nodes it was, and that they are full if all of them are.
fn too_few_copies(copies: u32, rule: u32, failed: &[(String, Shortfall)]) -> ApiError {
    let mut what = format!("only {copies} of the {rule} copies that are needed could be proved");
    for (at, (name, how)) in failed.iter().take(MAX_NAMED).enumerate() {
        what.push_str(if at == 0 { ": " } else { "; " });
        what.push_str(&format!("{name} {}", how.why));
    }
    if failed.len() > MAX_NAMED {
        what.push_str(&format!("; and {} more nodes", failed.len() - MAX_NAMED));
    }
    if !failed.is_empty() && failed.iter().all(|(_, how)| how.full) {
        return ApiError::new(Code::NoRoom, what).hint("bytenode admin node ls, then bytenode admin node add URL");
    }
    ApiError::new(Code::Temporary, what)
        .hint("bytenode admin node ls; then run the same command again: only the rest is sent")
}

fn check_request(request: &CommitFiles) -> ApiResult<()> {
    for file in &request.files {
        let cid = file.cid.as_ref().map_or(0, String::len);
        if file.wrapped_key.0.len() > MAX_KEY_BYTES || cid > MAX_CID_BYTES {
            let what = format!("{}: its key or its CID is longer than such a thing can be", file.path);
            return Err(ApiError::new(Code::Usage, what));
        }
    }
    Ok(())
}

fn one(c: &Connection, commit: &Committing, file: CommitFile, weighed: Option<Weighed>) -> CatalogResult<Committed> {
    let number = file.file;
    match make_visible(c, commit, file, weighed) {
        Ok(done) => Ok(done),
        Err(CatalogError::Refused(error)) => Ok(Committed::Refused { file: number, error }),
        Err(error) => Err(error),
    }
}

/// Makes a file visible that was weighed outside the writer, so that this touches few rows however long the file is; it
/// is weighed again here only if something happened to it, or to any copy, since then.
fn make_visible(
    c: &Connection,
    commit: &Committing,
    file: CommitFile,
    weighed: Option<Weighed>,
) -> CatalogResult<Committed> {
    let now = chunks::generation(c, commit.upload, file.file)?;
    let weighed = match weighed {
        Some(weighed) if now == Some((weighed.version, weighed.state, weighed.of)) => Some(weighed),
        _ => chunks::weigh(c, commit.upload, file.file, &commit.counted)?,
    };
    let weighed = match weighed {
        Some(weighed) => weighed,
        None if file.chunks == 0 => empty_version(c, commit, file.file)?,
        None => return Err(ApiError::new(Code::Replan, "none of its chunks were planned").into()),
    };
    let found = files::find(c, commit.vault, &file.path)?;
    let shown = found.as_ref().and_then(|found| found.entry.version).map(|version| version.0);
    if weighed.state != 0 {
        // A repetition after a lost answer: the same, if it is still what is shown.
        return match found {
            Some(found) if shown == Some(weighed.version) => Ok(done(file.file, found.entry, &weighed)),
            _ => Err(ApiError::new(Code::Changed, format!("{} changed meanwhile", file.path)).into()),
        };
    }
    // Somebody stored the same meanwhile: the same command run again, perhaps, whose first run was stopped while it committed.
    if let Some(found) = found.as_ref().filter(|found| is_same(commit, &file, &found.entry)) {
        return Ok(Committed::Done { file: file.file, entry: Box::new(found.entry.clone()), new_chunks: 0 });
    }
    check_expected(&file, found.as_ref())?;
    check_whole(commit, &file, &weighed)?;
    // Before anything else is written: when this refuses, nothing of the file may stay, and the others go on.
    files::link(c, commit.vault, &file.path, weighed.version, commit.at)?;
    c.prepare_cached(
        "UPDATE version SET state = 1, size = ?2, sha256 = ?3, modified = ?4, executable = ?5, cid = ?6, wrapped_key = ?7,
             chunks = ?8, copies_min = ?9, checked_at = ?10, spread = ?11 WHERE id = ?1 AND state = 0",
    )?
    .execute(params![
        weighed.version,
        signed(file.size),
        file.sha256.0,
        micros(file.modified),
        file.executable,
        file.cid,
        (!file.wrapped_key.0.is_empty()).then_some(&file.wrapped_key.0),
        signed(weighed.chunks),
        weighed.copies_min,
        micros(commit.at.now),
        weighed.spread
    ])?;
    let entry = files::need(c, commit.vault, &file.path)?.entry;
    Ok(done(file.file, entry, &weighed))
}

fn done(file: u32, entry: Entry, weighed: &Weighed) -> Committed {
    Committed::Done { file, entry: Box::new(entry), new_chunks: weighed.new_chunks }
}

/// The version of an empty file, which has no chunk to plan.
fn empty_version(c: &Connection, commit: &Committing, file: u32) -> CatalogResult<Weighed> {
    c.prepare_cached(
        "INSERT INTO version(vault_id, upload, file, state, chunk_size, public, replicas, created_at)
             VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        commit.vault,
        commit.upload.as_bytes(),
        file,
        commit.chunk_size,
        commit.public,
        commit.replicas,
        micros(commit.at.now)
    ])?;
    let weighed = chunks::weigh(c, commit.upload, file, &commit.counted)?;
    weighed.ok_or_else(|| CatalogError::Damaged("a version that was just made is not there".into()))
}

/// Whether a file that nothing was expected in the place of is there already, with all its copies that a put needs.
fn is_same(commit: &Committing, file: &CommitFile, there: &Entry) -> bool {
    let rule = Policy::write_rule(commit.replicas.max(there.copies_target));
    file.expect == Expect::Absent
        && there.sha256 == Some(file.sha256)
        && (there.size, there.public) == (file.size, commit.public)
        && there.copies_target >= commit.replicas
        && there.copies_min.is_none_or(|copies| copies >= rule)
}

fn check_expected(file: &CommitFile, found: Option<&files::Found>) -> CatalogResult<()> {
    let path = &file.path;
    let refused = match (file.expect, found) {
        (_, Some(found)) if found.entry.version.is_none() => {
            ApiError::new(Code::WrongKind, format!("{path} is a directory"))
        }
        (Expect::Absent, Some(_)) => {
            ApiError::new(Code::Exists, format!("{path} exists already")).hint("add --overwrite always")
        }
        (Expect::Version(expected), Some(found)) if found.entry.version == Some(expected) => return Ok(()),
        (Expect::Version(_), _) => ApiError::new(Code::Changed, format!("{path} changed meanwhile")),
        (Expect::Absent, None) => return Ok(()),
    };
    Err(refused.into())
}

/// Whether all of the file was planned, and every chunk has enough counted copies.
fn check_whole(commit: &Committing, file: &CommitFile, weighed: &Weighed) -> CatalogResult<()> {
    if weighed.chunks != file.chunks || weighed.size != file.size {
        let what = format!(
            "{} has {} chunks with {} bytes here, not {} with {}",
            file.path, weighed.chunks, weighed.size, file.chunks, file.size
        );
        return Err(ApiError::new(Code::Usage, what).into());
    }
    let rule = Policy::write_rule(commit.replicas);
    if weighed.copies_min.is_some_and(|copies| copies < rule) {
        return Err(too_few_copies(weighed.copies_min.unwrap_or(0), rule, &commit.failed).into());
    }
    Ok(())
}
