//! Remote paths: what stands after `bn:`. Pure.
//!
//! A path is literal UTF-8, kept as given without normalisation: `*`, `?` and `[` match only themselves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest segment, in bytes.
pub const MAX_SEGMENT_BYTES: usize = 255;
/// The longest path, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;

/// Why a text is no remote path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `bn:`.
    #[error("{0:?} is not a remote path: remote paths begin with bn:/")]
    NotRemote(String),
    /// There is no slash after `bn:`.
    #[error("{given:?} is not a remote path")]
    NoSlash {
        /// What was given.
        given: String,
        /// What was probably meant.
        corrected: String,
    },
    /// A segment is `.` or `..`.
    #[error("{given:?} has a . or .. in it")]
    Dots {
        /// What was given.
        given: String,
        /// What was probably meant.
        corrected: String,
    },
    /// It contains the character NUL.
    #[error("a remote path cannot contain the character NUL")]
    Nul,
    /// A segment or the whole is too long.
    #[error("{0:?} is too long: a remote path has at most 255 bytes a segment and 4,096 in all")]
    TooLong(String),
}

impl PathError {
    /// The path that was probably meant, as one can type it.
    pub fn corrected(&self) -> Option<&str> {
        match self {
            Self::NoSlash { corrected, .. } | Self::Dots { corrected, .. } => Some(corrected),
            Self::NotRemote(_) | Self::Nul | Self::TooLong(_) => None,
        }
    }
}

/// An absolute path in a vault: no empty, `.` or `..` segment, no NUL, within the length limits. The root has no segment.
///
/// `Display` writes what one can type (`bn:/dir/f`), and `FromStr` reads it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RemotePath(Vec<String>);

impl RemotePath {
    /// The root, `bn:/`.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads what a person typed: the path, and whether it ended in a slash (which demands a directory).
    ///
    /// # Errors
    /// [`PathError`], with the corrected path where one can be guessed.
    pub fn parse_typed(text: &str) -> Result<(Self, bool), PathError> {
        let Some(rest) = text.strip_prefix("bn:") else {
            return Err(PathError::NotRemote(shortened(text)));
        };
        if !rest.starts_with('/') {
            return Err(PathError::NoSlash { given: shortened(text), corrected: format!("bn:/{}", shortened(rest)) });
        }
        if rest.contains('\0') {
            return Err(PathError::Nul);
        }
        let segments: Vec<&str> = rest.split('/').filter(|segment| !segment.is_empty()).collect();
        if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
            return Err(PathError::Dots { given: shortened(text), corrected: shortened(&without_dots(&segments)) });
        }
        let length: usize = segments.iter().map(|segment| segment.len() + 1).sum();
        if length > MAX_PATH_BYTES || segments.iter().any(|segment| segment.len() > MAX_SEGMENT_BYTES) {
            return Err(PathError::TooLong(shortened(text)));
        }
        Ok((Self(segments.into_iter().map(str::to_owned).collect()), rest.ends_with('/')))
    }

    /// The segments from the root.
    pub fn segments(&self) -> &[String] {
        &self.0
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last segment; nothing for the root.
    pub fn name(&self) -> Option<&str> {
        self.0.last().map(String::as_str)
    }

    /// The directory that it is in; nothing for the root.
    pub fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        Some(Self(above.to_vec()))
    }

    /// The path of an entry in this directory.
    ///
    /// # Errors
    /// [`PathError`] when the name is empty, `.`, `..`, contains a slash or NUL, or makes the path too long.
    pub fn join(&self, name: &str) -> Result<Self, PathError> {
        let typed = format!("{self}/{name}");
        if name.is_empty() || name.contains('/') {
            return Err(PathError::Dots { given: shortened(&typed), corrected: self.to_string() });
        }
        Self::parse_typed(&typed).map(|(path, _)| path)
    }

    /// Whether it is `other` or lies somewhere below it.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

/// At most 200 characters of a text: enough to recognise it in a message.
fn shortened(text: &str) -> String {
    let mut out: String = text.chars().take(200).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

fn without_dots(segments: &[&str]) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in segments {
        match *segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    format!("bn:/{}", kept.join("/"))
}

impl fmt::Display for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bn:/")?;
        f.write_str(&self.0.join("/"))
    }
}

impl fmt::Debug for RemotePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl FromStr for RemotePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse_typed(text).map(|(path, _)| path)
    }
}

impl Serialize for RemotePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RemotePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, bool), PathError> {
        RemotePath::parse_typed(text).map(|(path, slash)| (path.to_string(), slash))
    }

    #[test]
    fn slashes_fold_and_the_last_one_is_told() {
        assert_eq!(parse("bn:/"), Ok(("bn:/".into(), true)));
        assert_eq!(parse("bn:/a//b"), Ok(("bn:/a/b".into(), false)));
        assert_eq!(parse("bn:///a/"), Ok(("bn:/a".into(), true)));
        assert_eq!(parse("bn:/*?[ \n-\\"), Ok(("bn:/*?[ \n-\\".into(), false)));
    }

    #[test]
    fn what_is_refused_comes_back_corrected() {
        assert_eq!(parse("bn:x").unwrap_err().corrected(), Some("bn:/x"));
        assert_eq!(parse("bn:/a/../b/.").unwrap_err().corrected(), Some("bn:/b"));
        assert!(matches!(parse("x"), Err(PathError::NotRemote(_))));
        assert_eq!(parse("bn:/a\0"), Err(PathError::Nul));
        assert!(matches!(parse(&format!("bn:/{}", "é".repeat(128))), Err(PathError::TooLong(_))));
        assert!(parse(&format!("bn:/{}", "a".repeat(255))).is_ok());
        assert!(matches!(parse(&format!("bn:/{}", "a/".repeat(2049))), Err(PathError::TooLong(_))));
    }

    #[test]
    fn joining_takes_one_name() {
        let dir: RemotePath = "bn:/d".parse().unwrap();
        assert_eq!(dir.join("f").unwrap().to_string(), "bn:/d/f");
        assert!(dir.join("..").is_err());
        assert!(dir.join("a/b").is_err());
        assert!(dir.join("").is_err());
        assert!(dir.join("f").unwrap().is_within(&dir));
        assert!(!"bn:/dd".parse::<RemotePath>().unwrap().is_within(&dir));
    }
}
