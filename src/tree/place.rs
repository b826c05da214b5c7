//! Where things land: the destination rules of put, get, mv and cp. Pure; the callers look at disk and catalog first.
//!
//! The same command again always means the same thing: only a *file* looks at whether its destination exists.

use std::path::{Path, PathBuf};

use crate::api::Kind;
use crate::path::{PathError, RemotePath};

/// Why something has no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Several sources, and the destination is no directory.
    #[error("several sources need a destination that is a directory or ends in /, and {0} is neither")]
    NeedsDirectory(String),
    /// Two sources would land on one path.
    #[error("two of the sources would both become {0}")]
    SameName(String),
    /// A source without a name of its own goes into a directory.
    #[error("{0} has no name of its own to take: name the destination")]
    NoName(String),
    /// The name cannot be stored.
    #[error("the name of {0} is not UTF-8")]
    NotUtf8(String),
    /// Standard input goes into a directory, or is one of several.
    #[error("a stream has no name of its own: say what it becomes, as in bn:/FILE")]
    InputNeedsName,
    /// A file is where a directory must be.
    #[error("{0} is a file, not a directory")]
    IsFile(String),
    /// A directory is where a file must be.
    #[error("{0} is a directory")]
    IsDir(String),
    /// The path that results is not allowed.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// The name that a source brings along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// It has one.
    Known(String),
    /// It has one that cannot be stored.
    NotUtf8,
    /// It has none, like `/` or `bn:/`.
    None,
}

/// Something to put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Standard input.
    Input,
    /// A file or directory.
    Local {
        /// As the user wrote it.
        shown: String,
        /// The name it brings along.
        name: Name,
        /// What it is (what is not there counts as a file).
        kind: Kind,
    },
}

/// A destination in the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path.
    pub path: RemotePath,
    /// Whether a slash followed it.
    pub slash: bool,
    /// What is there now.
    pub kind: Option<Kind>,
}

/// A destination on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTarget {
    /// The path.
    pub path: PathBuf,
    /// Whether a slash followed it, or it is `.` or `..`, which name a directory and no new thing.
    pub slash: bool,
    /// What is there now.
    pub kind: Option<Kind>,
}

/// The name of a local source; `resolved` is its absolute path, for `.`, `..` and what ends in them.
pub fn local_name(given: &Path, resolved: Option<&Path>) -> Name {
    let name = given.file_name().or_else(|| resolved.and_then(Path::file_name));
    match name {
        Some(name) => name.to_str().map_or(Name::NotUtf8, |name| Name::Known(name.to_owned())),
        None => Name::None,
    }
}

/// Says where each source of a put goes, in their order; an inner error concerns that source alone.
///
/// # Errors
/// What makes the command as a whole wrong; nothing may be sent then.
pub fn place_put(sources: &[Source], dest: &Target) -> Result<Vec<Result<RemotePath, PlaceError>>, PlaceError> {
    let several = sources.len() > 1;
    if sources.contains(&Source::Input) && (several || dest.slash || dest.kind == Some(Kind::Dir)) {
        return Err(PlaceError::InputNeedsName);
    }
    if several && !dest.slash && dest.kind != Some(Kind::Dir) {
        return Err(PlaceError::NeedsDirectory(dest.path.to_string()));
    }
    let placed: Vec<_> = sources
        .iter()
        .map(|source| match source {
            Source::Input => Ok(dest.path.clone()),
            Source::Local { shown, name, kind } => place_remote(shown, name, *kind, dest, several),
        })
        .collect();
    distinct(placed.iter().flatten().map(ToString::to_string))?;
    Ok(placed)
}

fn place_remote(shown: &str, name: &Name, kind: Kind, dest: &Target, several: bool) -> Result<RemotePath, PlaceError> {
    if goes_into(kind, dest.slash, dest.kind, several) {
        if dest.kind == Some(Kind::File) {
            return Err(PlaceError::IsFile(dest.path.to_string()));
        }
        return match name {
            Name::Known(name) => Ok(dest.path.join(name)?),
            Name::NotUtf8 => Err(PlaceError::NotUtf8(shown.to_owned())),
            Name::None => Err(PlaceError::NoName(shown.to_owned())),
        };
    }
    if kind == Kind::Dir && dest.kind == Some(Kind::File) {
        return Err(PlaceError::IsFile(dest.path.to_string()));
    }
    Ok(dest.path.clone())
}

/// Whether something keeps its own name inside the destination.
fn goes_into(kind: Kind, slash: bool, there: Option<Kind>, several: bool) -> bool {
    several || slash || (kind == Kind::File && there == Some(Kind::Dir))
}

fn distinct(placed: impl Iterator<Item = String>) -> Result<(), PlaceError> {
    let mut placed: Vec<String> = placed.collect();
    placed.sort_unstable();
    match placed.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(PlaceError::SameName(pair[0].clone())),
        None => Ok(()),
    }
}

/// Says where each source of a get goes, in their order; an inner error concerns that source alone. The remote root has
/// no name: its contents always become those of the destination.
///
/// # Errors
/// What makes the command as a whole wrong.
pub fn place_get(
    sources: &[(RemotePath, Kind)],
    dest: &LocalTarget,
) -> Result<Vec<Result<PathBuf, PlaceError>>, PlaceError> {
    let several = sources.len() > 1;
    let shown = dest.path.display().to_string();
    if several && !dest.slash && dest.kind != Some(Kind::Dir) {
        return Err(PlaceError::NeedsDirectory(shown));
    }
    let placed: Vec<_> = sources
        .iter()
        .map(|(path, kind)| {
            let into = goes_into(*kind, dest.slash, dest.kind, several);
            if dest.kind == Some(Kind::File) && (into || *kind == Kind::Dir) {
                return Err(PlaceError::IsFile(shown.clone()));
            }
            match path.name() {
                Some(name) if into => Ok(dest.path.join(name)),
                None if several => Err(PlaceError::NoName(path.to_string())),
                Some(_) | None => Ok(dest.path.clone()),
            }
        })
        .collect();
    distinct(placed.iter().flatten().map(|path| path.display().to_string()))?;
    Ok(placed)
}

/// Says where one path goes that is moved or copied within the catalog: the rule of a file, also for directories.
///
/// # Errors
/// When the destination is a file but must be a directory, or the source is the root.
pub fn place_within(from: &RemotePath, dest: &Target) -> Result<RemotePath, PlaceError> {
    let name = from.name().ok_or_else(|| PlaceError::NoName(from.to_string()))?;
    match dest.kind {
        Some(Kind::Dir) => Ok(dest.path.join(name)?),
        Some(Kind::File) if dest.slash => Err(PlaceError::IsFile(dest.path.to_string())),
        None if dest.slash => Ok(dest.path.join(name)?),
        Some(Kind::File) | None => Ok(dest.path.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Kind = Kind::File;
    const DIR: Kind = Kind::Dir;

    fn source(name: &str, kind: Kind) -> Source {
        Source::Local { shown: name.into(), name: Name::Known(name.into()), kind }
    }

    fn target(typed: &str, kind: Option<Kind>) -> Target {
        let (path, slash) = RemotePath::parse_typed(typed).unwrap();
        Target { path, slash, kind }
    }

    fn put(sources: &[Source], dest: &str, there: Option<Kind>) -> String {
        match place_put(sources, &target(dest, there)) {
            Err(error) => format!("all: {error}"),
            Ok(placed) => placed
                .into_iter()
                .map(|one| one.map_or_else(|error| error.to_string(), |path| path.to_string()))
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn put_lands_by_the_table() {
        for (kind, dest, there, lands) in [
            (FILE, "bn:/x", None, "bn:/x"),
            (FILE, "bn:/x", Some(FILE), "bn:/x"),
            (FILE, "bn:/x", Some(DIR), "bn:/x/s"),
            (FILE, "bn:/x/", None, "bn:/x/s"),
            (FILE, "bn:/x/", Some(DIR), "bn:/x/s"),
            (FILE, "bn:/x/", Some(FILE), "bn:/x is a file, not a directory"),
            (FILE, "bn:/", Some(DIR), "bn:/s"),
            (DIR, "bn:/x", None, "bn:/x"),
            (DIR, "bn:/x", Some(DIR), "bn:/x"),
            (DIR, "bn:/x", Some(FILE), "bn:/x is a file, not a directory"),
            (DIR, "bn:/x/", None, "bn:/x/s"),
            (DIR, "bn:/x/", Some(DIR), "bn:/x/s"),
            (DIR, "bn:/", Some(DIR), "bn:/s"),
        ] {
            assert_eq!(put(&[source("s", kind)], dest, there), lands, "{kind:?} to {dest} where {there:?} is");
        }
    }

    #[test]
    fn several_sources_go_into_a_directory() {
        let both = [source("a", DIR), source("b", FILE)];
        assert_eq!(put(&both, "bn:/x/", None), "bn:/x/a bn:/x/b");
        assert_eq!(put(&both, "bn:/x", Some(DIR)), "bn:/x/a bn:/x/b");
        assert!(put(&both, "bn:/x", None).starts_with("all: several sources need"));
        assert!(put(&both, "bn:/x", Some(FILE)).starts_with("all: several sources need"));
        assert_eq!(
            put(&[source("a", DIR), source("a", FILE)], "bn:/", Some(DIR)),
            "all: two of the sources would both become bn:/a"
        );
    }

    #[test]
    fn what_has_no_name_needs_one() {
        assert_eq!(put(&[Source::Input], "bn:/x", None), "bn:/x");
        for (dest, there) in [("bn:/", Some(DIR)), ("bn:/x/", None), ("bn:/x", Some(DIR))] {
            assert!(put(&[Source::Input], dest, there).starts_with("all: a stream"));
        }
        let root = Source::Local { shown: "/".into(), name: Name::None, kind: DIR };
        assert!(put(std::slice::from_ref(&root), "bn:/", Some(DIR)).starts_with("/ has no name"));
        assert_eq!(put(&[root], "bn:/x", None), "bn:/x");
        let odd = Source::Local { shown: "�".into(), name: Name::NotUtf8, kind: FILE };
        assert_eq!(put(std::slice::from_ref(&odd), "bn:/x", None), "bn:/x");
        assert_eq!(put(&[odd, source("b", FILE)], "bn:/", Some(DIR)), "the name of � is not UTF-8 bn:/b");
    }

    #[test]
    fn names_come_from_what_a_path_resolves_to() {
        let home = Path::new("/srv/me");
        assert_eq!(local_name(Path::new("."), Some(home)), Name::Known("me".into()));
        assert_eq!(local_name(Path::new(".."), Some(Path::new("/"))), Name::None);
        assert_eq!(local_name(Path::new("a/"), None), Name::Known("a".into()));
        assert_eq!(local_name(Path::new("a/.."), Some(home)), Name::Known("me".into()));
    }

    fn get(sources: &[(&str, Kind)], dest: &str, slash: bool, there: Option<Kind>) -> String {
        let sources: Vec<_> = sources.iter().map(|(path, kind)| (path.parse().unwrap(), *kind)).collect();
        match place_get(&sources, &LocalTarget { path: dest.into(), slash, kind: there }) {
            Err(error) => format!("all: {error}"),
            Ok(placed) => placed
                .into_iter()
                .map(|one| one.map_or_else(|error| error.to_string(), |path| path.display().to_string()))
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    #[test]
    fn get_mirrors_put() {
        for (kind, slash, there, lands) in [
            (FILE, false, None, "x"),
            (FILE, false, Some(FILE), "x"),
            (FILE, false, Some(DIR), "x/s"),
            (FILE, true, None, "x/s"),
            (FILE, true, Some(FILE), "x is a file, not a directory"),
            (DIR, false, None, "x"),
            (DIR, false, Some(DIR), "x"),
            (DIR, false, Some(FILE), "x is a file, not a directory"),
            (DIR, true, None, "x/s"),
            (DIR, true, Some(DIR), "x/s"),
        ] {
            assert_eq!(get(&[("bn:/s", kind)], "x", slash, there), lands, "{kind:?} {slash} {there:?}");
        }
        assert_eq!(get(&[("bn:/", DIR)], "x", true, Some(DIR)), "x");
        assert_eq!(get(&[("bn:/a", FILE), ("bn:/b", DIR)], "x", false, Some(DIR)), "x/a x/b");
        assert!(get(&[("bn:/a", FILE), ("bn:/b", DIR)], "x", false, None).starts_with("all: several"));
        assert!(get(&[("bn:/a", FILE), ("bn:/d/a", DIR)], "x", true, None).starts_with("all: two of the sources"));
    }

    #[test]
    fn moves_follow_the_rule_of_a_file() {
        let from: RemotePath = "bn:/d/s".parse().unwrap();
        let to = |dest: &str, there| place_within(&from, &target(dest, there)).map(|path| path.to_string());
        assert_eq!(to("bn:/x", None), Ok("bn:/x".into()));
        assert_eq!(to("bn:/x", Some(DIR)), Ok("bn:/x/s".into()));
        assert_eq!(to("bn:/x/", None), Ok("bn:/x/s".into()));
        assert_eq!(to("bn:/x", Some(FILE)), Ok("bn:/x".into()));
        assert!(to("bn:/x/", Some(FILE)).is_err());
        assert!(place_within(&RemotePath::root(), &target("bn:/x", None)).is_err());
    }
}
