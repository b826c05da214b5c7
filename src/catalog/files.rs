//! Names: directories, files, and which version is visible where. Every function works within the caller's transaction.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::{CatalogError, CatalogResult, damaged, digest, micros, time, unsigned};
use crate::api::{ApiError, Code, Entry, Kind, ListRequest, MAX_FILES, Page, Removed, Sha256, VersionId};
use crate::path::{MAX_PATH_BYTES, RemotePath};

const ENTRY: &str =
    "SELECT e.id, e.name, e.version_id, e.created_at, v.size, v.modified, v.executable, v.sha256, v.chunks,
    v.copies_min, v.replicas, v.public, v.spread = 1 spread, v.cid,
    max(v.checked_at, coalesce((SELECT checked_at FROM pool), v.checked_at)) checked_at
    FROM entry e LEFT JOIN version v ON v.id = e.version_id ";

/// The most files and directories that one user may have, with removed ones that the sweeper has not come to yet.
pub const MAX_ENTRIES: u64 = 10_000_000;
/// Entries that one change looks at, at most.
const STEP: u32 = 2_000;

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
    dir.join(name).map_err(|_| CatalogError::Damaged(format!("{name:?} in {dir} is no name that can be")))
}

fn entry_row(row: &Row<'_>, path: RemotePath) -> CatalogResult<Found> {
    let id = row.get("id")?;
    let version: Option<i64> = row.get("version_id")?;
    let Some(version) = version else {
        let created: i64 = row.get("created_at")?;
        return Ok(Found { id, entry: dir_entry(path, time(created)) });
    };
    let entry = file_entry(row, path, version).map_err(|error| match error {
        CatalogError::Sqlite(error) => damaged("version", version, error),
        other => other,
    })?;
    Ok(Found { id, entry })
}

fn file_entry(row: &Row<'_>, path: RemotePath, version: i64) -> CatalogResult<Entry> {
    let count = |name: &str| -> CatalogResult<u64> {
        let value: i64 = row.get(name)?;
        u64::try_from(value).map_err(|_| damaged("version", version, format_args!("{name} below 0")))
    };
    let sha256: Option<Vec<u8>> = row.get("sha256")?;
    Ok(Entry {
        path,
        kind: Kind::File,
        size: count("size")?,
        modified: time(row.get("modified")?),
        executable: row.get("executable")?,
        sha256: sha256.map(|blob| digest("version", version, &blob)).transpose()?.map(Sha256),
        version: Some(VersionId(version)),
        chunks: count("chunks")?,
        copies_min: row.get("copies_min")?,
        copies_target: row.get("replicas")?,
        checked: row.get::<_, Option<i64>>("checked_at")?.map(time),
        public: row.get("public")?,
        spread: row.get("spread")?,
        cid: row.get("cid")?,
    })
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
            None => make_entry(c, &New { vault, parent: at, name, version: None, now })?,
        };
    }
    Ok(at)
}

/// An entry to make.
struct New<'a> {
    vault: i64,
    parent: i64,
    name: &'a str,
    version: Option<i64>,
    now: Timestamp,
}

fn make_entry(c: &Connection, new: &New<'_>) -> CatalogResult<i64> {
    check_room(c, new.vault)?;
    let New { vault, parent, name, version, now } = new;
    Ok(c.prepare_cached(
        "INSERT INTO entry(vault_id, parent_id, name, version_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .insert(params![vault, parent, name, version, micros(*now)])?)
}

/// Whether a vault may have one more entry.
fn check_room(c: &Connection, vault: i64) -> CatalogResult<()> {
    let entries: i64 =
        c.prepare_cached("SELECT entries FROM vault WHERE id = ?1")?.query_row([vault], |row| row.get(0))?;
    if unsigned(entries) < MAX_ENTRIES {
        return Ok(());
    }
    let what = format!("there are {MAX_ENTRIES} files and directories already, as many as one user may have");
    Err(ApiError::new(Code::NoRoom, what)
        .hint("bytenode rm what is not needed, then try again in a few minutes")
        .into())
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
            make_entry(c, &New { vault, parent: dir, name, version: Some(version), now: at.now })?;
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

/// Moves an entry to a path where nothing is. Gives nothing where the paths below it may become too long and there are
/// too many to look at here: then [`measure`] it elsewhere, and give what that gave.
///
/// # Errors
/// [`Code::NotFound`], [`Code::Exists`], [`Code::WrongKind`], [`Code::Usage`] into itself.
pub fn rename(
    c: &Connection,
    vault: i64,
    (from, to): (&RemotePath, &RemotePath),
    measured: Option<Measured>,
    now: Timestamp,
) -> CatalogResult<Option<Entry>> {
    let source = transfer_source(c, vault, from, to)?;
    if source.entry.kind == Kind::Dir && path_bytes(to) > path_bytes(from) {
        let known = match measured {
            Some(known) if known.changes == changes(c, vault)? => Some(known.deepest),
            _ => deepest_of_few(c, source.id)?,
        };
        let Some(deepest) = known else { return Ok(None) };
        check_length(from, to, deepest)?;
    }
    let (parent, name) = target(c, vault, to, now)?;
    c.prepare_cached("UPDATE entry SET parent_id = ?2, name = ?3 WHERE id = ?1")?
        .execute(params![source.id, parent, name])?;
    Ok(Some(need(c, vault, to)?.entry))
}

/// The longest path below a directory, as long as nothing is made or moved in its vault.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    deepest: u64,
    changes: (i64, i64),
}

/// Measures a directory of any size.
///
/// # Errors
/// [`Code::NotFound`].
pub fn measure(c: &Connection, vault: i64, dir: &RemotePath) -> CatalogResult<Measured> {
    Ok(Measured { deepest: deepest(c, need(c, vault, dir)?.id)?, changes: changes(c, vault)? })
}

/// How often entries of a vault were made, and how often one was moved.
fn changes(c: &Connection, vault: i64) -> CatalogResult<(i64, i64)> {
    Ok(c.prepare_cached("SELECT made, moved FROM vault WHERE id = ?1")?
        .query_row([vault], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

fn transfer_source(c: &Connection, vault: i64, from: &RemotePath, to: &RemotePath) -> CatalogResult<Found> {
    let source = need(c, vault, from)?;
    if to.is_within(from) {
        return Err(ApiError::new(Code::Usage, format!("{to} is {from} itself, or in it")).into());
    }
    if find(c, vault, to)?.is_some() {
        return Err(ApiError::new(Code::Exists, format!("{to} exists already")).into());
    }
    Ok(source)
}

/// Whether what is below `from`, with paths of so many bytes from there, may be below `to`.
fn check_length(from: &RemotePath, to: &RemotePath, deepest: u64) -> CatalogResult<()> {
    if path_bytes(to) + deepest <= MAX_PATH_BYTES as u64 {
        return Ok(());
    }
    let what = format!("what is in {from} would have paths of more than {MAX_PATH_BYTES} bytes in {to}");
    Err(ApiError::new(Code::Usage, what).into())
}

/// A copy of a file or directory under way: out of sight, until [`Copying::finish`] puts it where it belongs. Of a file
/// or a small directory it is made in one go. A large one takes several steps, with other changes between them: what is
/// there all the while is in it, as it was at some time meanwhile.
#[derive(Debug)]
pub struct Copying {
    vault: i64,
    from: RemotePath,
    to: RemotePath,
    source: i64,
    /// The copy, a detached entry.
    root: i64,
    /// How often entries had been moved when it began.
    moved: i64,
    now: Timestamp,
    levels: Vec<CopyLevel>,
}

/// A directory that is being copied.
#[derive(Debug)]
struct CopyLevel {
    from: i64,
    to: i64,
    after: String,
    /// Bytes of its path, counted from the copy's.
    bytes: u64,
}

impl Copying {
    /// Begins a copy of an entry, to a path where nothing is.
    ///
    /// # Errors
    /// As [`rename`].
    pub fn begin(
        c: &Connection,
        vault: i64,
        (from, to): (&RemotePath, &RemotePath),
        now: Timestamp,
    ) -> CatalogResult<Self> {
        let source = transfer_source(c, vault, from, to)?;
        check_room(c, vault)?;
        let root = c
            .prepare_cached(
                "INSERT INTO entry(vault_id, name, version_id, created_at, detached_at) VALUES (?1, '', ?2, ?3, ?3)",
            )?
            .insert(params![vault, source.entry.version.map(|version| version.0), micros(now)])?;
        let levels = match source.entry.kind {
            Kind::Dir => vec![CopyLevel { from: source.id, to: root, after: String::new(), bytes: 0 }],
            Kind::File => Vec::new(),
        };
        let (_, moved) = changes(c, vault)?;
        Ok(Self { vault, from: from.clone(), to: to.clone(), source: source.id, root, moved, now, levels })
    }

    /// The row of the copy, which the sweeper must leave alone.
    pub const fn root(&self) -> i64 {
        self.root
    }

    /// Copies a limited number of entries; whether there may be more.
    ///
    /// # Errors
    /// [`Code::Usage`] when a path becomes too long, [`Code::NoRoom`] beyond [`MAX_ENTRIES`].
    pub fn step(&mut self, c: &Connection) -> CatalogResult<bool> {
        let mut next = c.prepare_cached(
            "SELECT id, name, version_id FROM entry WHERE parent_id = ?1 AND name > ?2 ORDER BY name LIMIT 1",
        )?;
        for _ in 0..STEP {
            let Some(level) = self.levels.last_mut() else { return Ok(false) };
            let found: Option<(i64, String, Option<i64>)> = next
                .query_row(params![level.from, level.after], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            let Some((child, name, version)) = found else {
                self.levels.pop();
                continue;
            };
            let bytes = level.bytes + 1 + name.len() as u64;
            check_length(&self.from, &self.to, bytes)?;
            let new = New { vault: self.vault, parent: level.to, name: &name, version, now: self.now };
            let copied = make_entry(c, &new)?;
            level.after = name;
            if version.is_none() {
                self.levels.push(CopyLevel { from: child, to: copied, after: String::new(), bytes });
            }
        }
        Ok(true)
    }

    /// Makes the copy visible.
    ///
    /// # Errors
    /// As [`rename`]; [`Code::Changed`] when something was moved since the copy began, and may have been missed.
    pub fn finish(&self, c: &Connection) -> CatalogResult<Entry> {
        let source = transfer_source(c, self.vault, &self.from, &self.to)?;
        if source.id != self.source || changes(c, self.vault)?.1 != self.moved {
            let what = format!("something was moved while {} was copied", self.from);
            return Err(ApiError::new(Code::Changed, what).hint("run the same command again").into());
        }
        let (parent, name) = target(c, self.vault, &self.to, self.now)?;
        c.prepare_cached("UPDATE entry SET parent_id = ?2, name = ?3, detached_at = NULL WHERE id = ?1")?
            .execute(params![self.root, parent, name])?;
        Ok(need(c, self.vault, &self.to)?.entry)
    }
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

/// The same where there is not much below it; else nothing.
fn deepest_of_few(c: &Connection, dir: i64) -> CatalogResult<Option<u64>> {
    let mut below = c.prepare_cached("SELECT id, octet_length(name), version_id FROM entry WHERE parent_id = ?1")?;
    let (mut deepest, mut left, mut dirs) = (0, STEP, vec![(dir, 0)]);
    while let Some((dir, above)) = dirs.pop() {
        let mut rows = below.query([dir])?;
        while let Some(row) = rows.next()? {
            let bytes = above + 1 + unsigned(row.get(1)?);
            deepest = bytes.max(deepest);
            if row.get::<_, Option<i64>>(2)?.is_none() {
                dirs.push((row.get(0)?, bytes));
            }
            left -= 1;
            if left == 0 {
                return Ok(None);
            }
        }
    }
    Ok(Some(deepest))
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
/// root itself stays, empty.
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
    c.prepare_cached("UPDATE entry SET parent_id = NULL, detached_at = ?2 WHERE id = ?1")?
        .execute(params![found.id, micros(at.now)])?;
    if path.is_root() {
        // Another root takes its place, however much it holds.
        c.prepare_cached(
            "INSERT INTO entry(vault_id, name, created_at) SELECT vault_id, '', created_at FROM entry WHERE id = ?1",
        )?
        .execute([found.id])?;
    }
    Ok(())
}

/// Files and their plaintext bytes, in one vault or in all; with those of removed directories until they are emptied.
///
/// # Errors
/// [`CatalogError`].
pub fn totals(c: &Connection, vault: Option<i64>) -> CatalogResult<(u64, u64)> {
    let found: (i64, i64) = c
        .prepare_cached(
            "SELECT coalesce(sum(files), 0), coalesce(sum(bytes), 0) FROM vault WHERE ?1 IS NULL OR id = ?1",
        )?
        .query_row([vault], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((unsigned(found.0), unsigned(found.1)))
}
