//! Names: directories, files, and which version is visible where. Every function works within the caller's transaction.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{CatalogError, CatalogResult, digest, micros, time, unsigned};
use crate::api::{ApiError, Code, Entry, Kind, ListRequest, MAX_FILES, Page, Removed, Sha256, VersionId};
use crate::path::{MAX_PATH_BYTES, RemotePath};

const ENTRY: &str =
    "SELECT e.id, e.name, e.version_id, e.created_at, v.size, v.modified, v.executable, v.sha256, v.chunks,
    v.copies_min, v.replicas, v.checked_at, v.public, v.spread, v.cid
    FROM entry e LEFT JOIN version v ON v.id = e.version_id ";

/// An entry and its row id.
#[derive(Debug, Clone)]
pub struct Found {
    /// The row.
    pub id: i64,
    /// What it is.
    pub entry: Entry,
}

/// The row id of a vault's root directory, which is made with the vault.
///
/// # Errors
/// [`CatalogError::Damaged`] when it is not there.
pub fn root(c: &Connection, vault: i64) -> CatalogResult<i64> {
    c.prepare_cached("SELECT id FROM entry WHERE vault_id = ?1 AND parent_id IS NULL AND detached_at IS NULL")?
        .query_row([vault], |row| row.get(0))
        .optional()?
        .ok_or_else(|| CatalogError::Damaged("a vault has no root directory".into()))
}

/// Finds the entry at a path.
///
/// # Errors
/// [`CatalogError`].
pub fn find(c: &Connection, vault: i64, path: &RemotePath) -> CatalogResult<Option<Found>> {
    let mut at = by_id(c, root(c, vault)?, RemotePath::root())?;
    let mut here = RemotePath::root();
    for name in path.segments() {
        let Some(dir) = at else { return Ok(None) };
        here = join(&here, name)?;
        at = c
            .prepare_cached(&format!("{ENTRY} WHERE e.parent_id = ?1 AND e.name = ?2"))?
            .query_row(params![dir.id, name], |row| Ok(entry_row(row, here.clone())))
            .optional()?
            .transpose()?;
    }
    Ok(at)
}

fn by_id(c: &Connection, id: i64, path: RemotePath) -> CatalogResult<Option<Found>> {
    c.prepare_cached(&format!("{ENTRY} WHERE e.id = ?1"))?
        .query_row([id], |row| Ok(entry_row(row, path)))
        .optional()?
        .transpose()
}

fn join(dir: &RemotePath, name: &str) -> CatalogResult<RemotePath> {
    dir.join(name).map_err(|_| CatalogError::Damaged("an entry has an impossible name".into()))
}

fn entry_row(row: &Row<'_>, path: RemotePath) -> CatalogResult<Found> {
    let version: Option<i64> = row.get("version_id")?;
    let created: i64 = row.get("created_at")?;
    let id = row.get("id")?;
    if version.is_none() {
        return Ok(Found { id, entry: dir_entry(path, time(created)) });
    }
    let sha256: Option<Vec<u8>> = row.get("sha256")?;
    let entry = Entry {
        path,
        kind: Kind::File,
        size: unsigned(row.get("size")?),
        modified: time(row.get("modified")?),
        executable: row.get("executable")?,
        sha256: sha256.map(|blob| digest(&blob)).transpose()?.map(Sha256),
        version: version.map(VersionId),
        chunks: unsigned(row.get("chunks")?),
        copies_min: row.get("copies_min")?,
        copies_target: row.get("replicas")?,
        checked: row.get::<_, Option<i64>>("checked_at")?.map(time),
        public: row.get("public")?,
        spread: row.get("spread")?,
        cid: row.get("cid")?,
    };
    Ok(Found { id, entry })
}

fn dir_entry(path: RemotePath, modified: Timestamp) -> Entry {
    Entry {
        path,
        kind: Kind::Dir,
        size: 0,
        modified,
        executable: false,
        sha256: None,
        version: None,
        chunks: 0,
        copies_min: None,
        copies_target: 0,
        checked: None,
        public: false,
        spread: None,
        cid: None,
    }
}

/// Finds the entry at a path, or says that it is not there.
///
/// # Errors
/// [`Code::NotFound`].
pub fn need(c: &Connection, vault: i64, path: &RemotePath) -> CatalogResult<Found> {
    find(c, vault, path)?.ok_or_else(|| ApiError::new(Code::NotFound, format!("{path} does not exist")).into())
}

/// Lists a directory; see [`ListRequest`]. The cursor is the path of the last entry given.
///
/// # Errors
/// [`Code::NotFound`], [`Code::WrongKind`] for a file, [`Code::Usage`] for a bad cursor.
pub fn list(c: &Connection, vault: i64, request: &ListRequest) -> CatalogResult<Page<Entry>> {
    let dir = need(c, vault, &request.path)?;
    if dir.entry.kind != Kind::Dir {
        return Err(ApiError::new(Code::WrongKind, format!("{} is a file", request.path)).into());
    }
    let limit = usize::try_from(request.limit).unwrap_or(MAX_FILES).clamp(1, MAX_FILES);
    let mut stack = resume(c, vault, &dir, request)?;
    let mut items = Vec::new();
    let mut next =
        c.prepare_cached(&format!("{ENTRY} WHERE e.parent_id = ?1 AND e.name > ?2 ORDER BY e.name LIMIT 1"))?;
    while let Some(level) = stack.last_mut() {
        let name = |row: &Row<'_>| row.get::<_, String>("name");
        let found = next
            .query_row(params![level.dir, level.after], |row| {
                let name = name(row)?;
                Ok(join(&level.path, &name).and_then(|path| entry_row(row, path)).map(|found| (name, found)))
            })
            .optional()?
            .transpose()?;
        let Some((name, found)) = found else {
            stack.pop();
            continue;
        };
        if items.len() == limit {
            let last: &Entry = items.last().expect("a full page has a last entry");
            let next_cursor = Some(data_encoding::BASE64URL_NOPAD.encode(last.path.to_string().as_bytes()));
            return Ok(Page { items, next_cursor });
        }
        level.after = name;
        if request.recursive && found.entry.kind == Kind::Dir {
            stack.push(Level { dir: found.id, path: found.entry.path.clone(), after: String::new() });
        }
        items.push(found.entry);
    }
    Ok(Page { items, next_cursor: None })
}

struct Level {
    dir: i64,
    path: RemotePath,
    after: String,
}

/// The directories that a listing is in the middle of, outermost first.
fn resume(c: &Connection, vault: i64, dir: &Found, request: &ListRequest) -> CatalogResult<Vec<Level>> {
    let mut stack = vec![Level { dir: dir.id, path: request.path.clone(), after: String::new() }];
    let Some(cursor) = &request.cursor else { return Ok(stack) };
    let bad = || ApiError::new(Code::Usage, "the cursor is not one that this listing gave");
    let text = data_encoding::BASE64URL_NOPAD.decode(cursor.as_bytes()).map_err(|_| bad())?;
    let last: RemotePath = String::from_utf8(text).map_err(|_| bad())?.parse().map_err(|_| bad())?;
    if !last.is_within(&request.path) || last == request.path {
        return Err(bad().into());
    }
    for name in &last.segments()[request.path.segments().len()..] {
        let level = stack.last_mut().expect("never empty");
        level.after.clone_from(name);
        if !request.recursive {
            break;
        }
        let path = join(&level.path, name)?;
        match find(c, vault, &path)? {
            Some(found) if found.entry.kind == Kind::Dir => {
                stack.push(Level { dir: found.id, path, after: String::new() });
            }
            _ => break,
        }
    }
    Ok(stack)
}

/// Makes a directory and its parents; gives its row.
///
/// # Errors
/// [`Code::WrongKind`] when a file is in the way.
pub fn make_dir(c: &Connection, vault: i64, path: &RemotePath, now: Timestamp) -> CatalogResult<i64> {
    let mut at = root(c, vault)?;
    let mut here = RemotePath::root();
    for name in path.segments() {
        here = join(&here, name)?;
        let found: Option<(i64, Option<i64>)> = c
            .prepare_cached("SELECT id, version_id FROM entry WHERE parent_id = ?1 AND name = ?2")?
            .query_row(params![at, name], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        at = match found {
            Some((id, None)) => id,
            Some((_, Some(_))) => return Err(ApiError::new(Code::WrongKind, format!("{here} is a file")).into()),
            None => c
                .prepare_cached("INSERT INTO entry(vault_id, parent_id, name, created_at) VALUES (?1, ?2, ?3, ?4)")?
                .insert(params![vault, at, name, micros(now)])?,
        };
    }
    Ok(at)
}

/// Makes a version visible at a path, in the place of what is there. The caller has checked what is there.
///
/// # Errors
/// [`Code::WrongKind`] when a parent is a file or the path is a directory.
pub fn link(c: &Connection, vault: i64, path: &RemotePath, version: i64, at: LinkTime) -> CatalogResult<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
        return Err(ApiError::new(Code::WrongKind, "bn:/ is a directory").into());
    };
    let dir = make_dir(c, vault, &parent, at.now)?;
    let found: Option<(i64, Option<i64>)> = c
        .prepare_cached("SELECT id, version_id FROM entry WHERE parent_id = ?1 AND name = ?2")?
        .query_row(params![dir, name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((_, None)) => return Err(ApiError::new(Code::WrongKind, format!("{path} is a directory")).into()),
        Some((id, Some(old))) => {
            c.prepare_cached("UPDATE entry SET version_id = ?2 WHERE id = ?1")?.execute([id, version])?;
            expire_unlinked(c, old, at.expires)?;
        }
        None => {
            c.prepare_cached(
                "INSERT INTO entry(vault_id, parent_id, name, version_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![vault, dir, name, version, micros(at.now)])?;
        }
    }
    Ok(())
}

/// When something is linked, and when what it displaces may be released.
#[derive(Debug, Clone, Copy)]
pub struct LinkTime {
    /// Now.
    pub now: Timestamp,
    /// When a displaced version's retention ends.
    pub expires: Timestamp,
}

/// Sets the end of a version that no entry shows any more.
///
/// # Errors
/// [`CatalogError`].
pub fn expire_unlinked(c: &Connection, version: i64, expires: Timestamp) -> CatalogResult<()> {
    c.prepare_cached(
        "UPDATE version SET expires_at = ?2 WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM entry WHERE version_id = ?1)",
    )?
    .execute(params![version, micros(expires)])?;
    Ok(())
}

/// Moves an entry to a path where nothing is.
///
/// # Errors
/// [`Code::NotFound`], [`Code::Exists`], [`Code::WrongKind`], [`Code::Usage`] into itself.
pub fn rename(c: &Connection, vault: i64, from: &RemotePath, to: &RemotePath, now: Timestamp) -> CatalogResult<Entry> {
    let source = transfer_source(c, vault, from, to)?;
    let (parent, name) = target(c, vault, to, now)?;
    c.prepare_cached("UPDATE entry SET parent_id = ?2, name = ?3 WHERE id = ?1")?
        .execute(params![source.id, parent, name])?;
    Ok(need(c, vault, to)?.entry)
}

/// Makes another entry, or tree of entries, that shows the same versions.
///
/// # Errors
/// As [`rename`].
pub fn copy(c: &Connection, vault: i64, from: &RemotePath, to: &RemotePath, now: Timestamp) -> CatalogResult<Entry> {
    let source = transfer_source(c, vault, from, to)?;
    let (parent, name) = target(c, vault, to, now)?;
    let made = c
        .prepare_cached(
            "INSERT INTO entry(vault_id, parent_id, name, version_id, created_at)
             SELECT vault_id, ?2, ?3, version_id, ?4 FROM entry WHERE id = ?1",
        )?
        .insert(params![source.id, parent, name, micros(now)])?;
    let mut pending = vec![(source.id, made)];
    while let Some((old, new)) = pending.pop() {
        let mut children = c.prepare_cached("SELECT id, name, version_id FROM entry WHERE parent_id = ?1")?;
        let rows = children.query_map([old], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        for row in rows {
            let (child, name, version): (i64, String, Option<i64>) = row?;
            let copied = c
                .prepare_cached(
                    "INSERT INTO entry(vault_id, parent_id, name, version_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .insert(params![vault, new, name, version, micros(now)])?;
            if version.is_none() {
                pending.push((child, copied));
            }
        }
    }
    Ok(need(c, vault, to)?.entry)
}

fn transfer_source(c: &Connection, vault: i64, from: &RemotePath, to: &RemotePath) -> CatalogResult<Found> {
    let source = need(c, vault, from)?;
    if to.is_within(from) {
        return Err(ApiError::new(Code::Usage, format!("{to} is {from} itself, or in it")).into());
    }
    if find(c, vault, to)?.is_some() {
        return Err(ApiError::new(Code::Exists, format!("{to} exists already")).into());
    }
    let (before, after) = (path_bytes(from), path_bytes(to));
    if source.entry.kind == Kind::Dir && after > before && after + deepest(c, source.id)? > MAX_PATH_BYTES as u64 {
        let what = format!("what is in {from} would have paths of more than {MAX_PATH_BYTES} bytes in {to}");
        return Err(ApiError::new(Code::Usage, what).into());
    }
    Ok(source)
}

fn path_bytes(path: &RemotePath) -> u64 {
    path.segments().iter().map(|segment| segment.len() as u64 + 1).sum()
}

/// The bytes of the longest path below a directory, counted from there.
fn deepest(c: &Connection, dir: i64) -> CatalogResult<u64> {
    let bytes: i64 = c
        .prepare_cached(
            "WITH RECURSIVE below(id, bytes) AS (
                 SELECT ?1, 0
                 UNION ALL SELECT e.id, b.bytes + 1 + octet_length(e.name) FROM entry e JOIN below b ON e.parent_id = b.id)
             SELECT max(bytes) FROM below",
        )?
        .query_row([dir], |row| row.get(0))?;
    Ok(unsigned(bytes))
}

fn target<'a>(c: &Connection, vault: i64, to: &'a RemotePath, now: Timestamp) -> CatalogResult<(i64, &'a str)> {
    match (to.parent(), to.name()) {
        (Some(parent), Some(name)) => Ok((make_dir(c, vault, &parent, now)?, name)),
        _ => Err(ApiError::new(Code::Exists, "bn:/ exists already").into()),
    }
}

/// Counts what is at and below an entry.
///
/// # Errors
/// [`CatalogError`].
pub fn weigh(c: &Connection, id: i64) -> CatalogResult<Removed> {
    let sums = c
        .prepare_cached(
            "WITH RECURSIVE below(id, version_id) AS (
                 SELECT id, version_id FROM entry WHERE id = :id
                 UNION ALL SELECT e.id, e.version_id FROM entry e JOIN below b ON e.parent_id = b.id)
             SELECT count(b.version_id), count(*) - count(b.version_id), coalesce(sum(v.size), 0)
             FROM below b LEFT JOIN version v ON v.id = b.version_id",
        )?
        .query_row(named_params! {":id": id}, |row| {
            Ok(Removed { files: unsigned(row.get(0)?), dirs: unsigned(row.get(1)?), bytes: unsigned(row.get(2)?) })
        })?;
    Ok(sums)
}

/// Takes an entry away from its path: a file at once, a directory as a whole, to be emptied later by the sweeper. The
/// root itself stays; all in it goes.
///
/// # Errors
/// [`Code::NotFound`]; [`Code::NotEmpty`] for a directory unless `recursive`.
pub fn remove(c: &Connection, vault: i64, path: &RemotePath, recursive: bool, at: LinkTime) -> CatalogResult<()> {
    let found = need(c, vault, path)?;
    if let Some(version) = found.entry.version {
        c.prepare_cached("DELETE FROM entry WHERE id = ?1")?.execute([found.id])?;
        return expire_unlinked(c, version.0, at.expires);
    }
    if !recursive {
        return Err(ApiError::new(Code::NotEmpty, format!("{path} is a directory")).into());
    }
    let detach = if path.is_root() { "parent_id = ?1" } else { "id = ?1" };
    let detach = format!("UPDATE entry SET parent_id = NULL, detached_at = ?2 WHERE {detach}");
    c.prepare_cached(&detach)?.execute(params![found.id, micros(at.now)])?;
    Ok(())
}

/// Visible files and their plaintext bytes, in one vault or in all.
///
/// # Errors
/// [`CatalogError`].
pub fn totals(c: &Connection, vault: Option<i64>) -> CatalogResult<(u64, u64)> {
    let found: (i64, i64) = c
        .prepare_cached(
            "SELECT count(*), coalesce(sum(v.size), 0) FROM entry e JOIN version v ON v.id = e.version_id
             WHERE ?1 IS NULL OR e.vault_id = ?1",
        )?
        .query_row([vault], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((unsigned(found.0), unsigned(found.1)))
}
