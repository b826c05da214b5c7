//! Tokens, one for each coordinator, in a file that nobody else can read. A token is sent to its own address only.
//!
//! The file is replaced whole, under a lock, and synced; a file that others could read is refused, never mended silently.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytenode::api::Code;
use serde::{Deserialize, Serialize};

use crate::error::{Failure, Outcome};

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The coordinator that each profile signed in to last.
    #[serde(default)]
    pub profiles: BTreeMap<String, String>,
    /// The token for each address.
    #[serde(default)]
    tokens: BTreeMap<String, Secret>,
}

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The file, in the state directory.
pub fn path(state: &Path) -> PathBuf {
    state.join("credentials.toml")
}

impl Credentials {
    /// Reads the file; one that does not exist holds nothing.
    pub fn load(state: &Path) -> Outcome<Self> {
        let path = path(state);
        let text = match read_private(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Failure::io(format!("{} is not used", path.display()), &error)
                    .hint(format!("chmod 600 {}", path.display())));
            }
            Err(error) => return Err(Failure::io(format!("cannot read {}", path.display()), &error)),
        };
        toml::from_str(&text).map_err(|_| {
            // The parser's own message would quote the line, and with it the secret.
            Failure::other(format!("{} is damaged", path.display())).hint("remove it and sign in again: bytenode login")
        })
    }

    /// Reads, changes and writes the file, alone.
    pub fn update(state: &Path, change: impl FnOnce(&mut Self)) -> Outcome<()> {
        let lock = make_private_dir(state).and_then(|()| private_file(&state.join("credentials.lock")));
        let lock = lock.map_err(|error| Failure::io(format!("cannot write in {}", state.display()), &error))?;
        lock.lock().map_err(|error| Failure::io("cannot lock the credentials", &error))?;
        let mut credentials = Self::load(state)?;
        change(&mut credentials);
        let text = toml::to_string(&credentials)
            .map_err(|_| Failure::new(Code::Internal, "the credentials cannot be written as TOML"))?;
        replace(&path(state), text.as_bytes())
            .map_err(|error| Failure::io(format!("cannot write {}", path(state).display()), &error))
    }

    /// The token for an address.
    pub fn token(&self, url: &str) -> Option<&Secret> {
        self.tokens.get(url)
    }

    /// Keeps a token.
    pub fn sign_in(&mut self, profile: &str, url: &str, token: Secret) {
        self.profiles.insert(profile.to_owned(), url.to_owned());
        self.tokens.insert(url.to_owned(), token);
    }

    /// Forgets the token of a profile whose coordinator is at that address no more, and gives it; not one that another
    /// profile has for that address by now.
    pub fn leave(&mut self, profile: &str, url: &str) -> Option<Secret> {
        let others = self.profiles.iter().any(|(name, at)| name != profile && at == url);
        if others { None } else { self.tokens.remove(url) }
    }

    /// Forgets a token.
    pub fn sign_out(&mut self, url: &str) {
        self.tokens.remove(url);
    }
}

/// Reads a small file that nobody else may read; a wider mode is [`io::ErrorKind::PermissionDenied`].
pub fn read_private(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let why = format!("others could read it (mode {mode:04o}, needs 0600)");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, 1 << 20), &mut text)?;
    Ok(text)
}

/// Replaces a file with one that nobody else may read; whole or not at all, and synced.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // A temporary file is made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    #[cfg(unix)]
    File::open(dir)?.sync_all()?;
    Ok(())
}

/// Makes a directory, and those above it, for this user alone; leaves one that exists as it is.
pub fn make_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Opens a file for appending that nobody else may read.
pub fn private_file(path: &Path) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const URL: &str = "http://127.0.0.1:7420";

    #[test]
    fn tokens_are_kept_private_and_by_address() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(Credentials::load(state.path()).unwrap(), Credentials::default());
        Credentials::update(state.path(), |c| c.sign_in("default", URL, Secret::new("bnt_x"))).unwrap();
        let mode = fs::metadata(path(state.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let read = Credentials::load(state.path()).unwrap();
        assert_eq!(read.token(URL).unwrap().expose(), "bnt_x");
        assert_eq!(read.token("http://127.0.0.1:1"), None);
        assert!(!format!("{read:?}").contains("bnt_x"));
        Credentials::update(state.path(), |c| c.sign_out(URL)).unwrap();
        assert_eq!(Credentials::load(state.path()).unwrap().token(URL), None);
    }

    #[test]
    fn a_wider_mode_is_refused_and_a_damaged_file_shows_no_secret() {
        let state = tempfile::tempdir().unwrap();
        fs::write(path(state.path()), "tokens = bnt_secret").unwrap();
        fs::set_permissions(path(state.path()), fs::Permissions::from_mode(0o640)).unwrap();
        let refused = Credentials::load(state.path()).unwrap_err();
        assert_eq!(refused.exit.number(), 4);
        assert!(refused.hint.unwrap().starts_with("chmod 600 "));
        fs::set_permissions(path(state.path()), fs::Permissions::from_mode(0o600)).unwrap();
        let damaged = Credentials::load(state.path()).unwrap_err();
        assert!(!format!("{damaged:?}").contains("bnt_secret"));
    }

    #[test]
    fn who_leaves_an_address_takes_no_other_ones_token() {
        let mut credentials = Credentials::default();
        credentials.sign_in("a", URL, Secret::new("of a"));
        assert_eq!(credentials.leave("a", URL).unwrap().expose(), "of a");
        assert!(credentials.token(URL).is_none());
        credentials.sign_in("b", URL, Secret::new("of b"));
        assert!(credentials.leave("a", URL).is_none());
        assert_eq!(credentials.token(URL).unwrap().expose(), "of b");
        assert_eq!(credentials.profiles["b"], URL);
    }
}
