//! The coordinator's secrets: the master key, the key that signs grants, and the credentials of nodes. All live in files
//! of mode 0600 beside the catalog, never in it; a file that others may read is refused.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::backup::Part;
use crate::grant::SigningKey;
use crate::id::NodeId;
use crate::node::GrantToken;
use crate::seal::{self, Key, VaultKeys};
use crate::seam::Seam;

/// The most bytes that are read of a secret for people.
const MAX_SECRET: u64 = 64 << 10;

/// Why a secret file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("{path} may be read by others: run chmod 600 {path}")]
    Mode {
        /// The file.
        path: PathBuf,
    },
    /// It does not hold what it must.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The master key is not the one that sealed this.
    #[error("the master key does not open this vault")]
    WrongKey,
}

/// Credentials of one node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSecret {
    /// The coordinator's own, in Kubo's AuthSecret form.
    #[serde(default)]
    pub own: Option<GrantToken>,
    /// The one that clients get.
    #[serde(default)]
    pub client: Option<GrantToken>,
}

/// All secrets.
#[derive(Debug)]
pub struct Keys {
    master: Key,
    signing: SigningKey,
    signing_seed: Key,
    nodes: std::sync::Mutex<BTreeMap<NodeId, NodeSecret>>,
    dir: Option<PathBuf>,
}

impl Keys {
    /// Reads the secrets in `dir`, making them on the first start.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn open(dir: &Path, seam: &Seam) -> Result<Self, KeyError> {
        let master = Zeroizing::new(read_or_make(&dir.join("master.key"), seam)?);
        let signing = Zeroizing::new(read_or_make(&dir.join("signing.key"), seam)?);
        let path = dir.join("nodes.json");
        let nodes = match std::fs::read(&path) {
            Ok(bytes) => {
                check_mode(&path)?;
                serde_json::from_slice(&bytes).map_err(|_| KeyError::Damaged { path })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(KeyError::Io { path, source }),
        };
        Ok(Self {
            master: Key::from_bytes(*master),
            signing: SigningKey::from_seed(&signing),
            signing_seed: Key::from_bytes(*signing),
            nodes: std::sync::Mutex::new(nodes),
            dir: Some(dir.to_owned()),
        })
    }

    /// Makes secrets that are kept nowhere, for a simulation.
    pub fn in_memory(seam: &Seam) -> Self {
        let (master, signing) = (Key::from_bytes(seam.bytes()), Key::from_bytes(seam.bytes()));
        Self {
            master,
            signing: SigningKey::from_seed(signing.expose()),
            signing_seed: signing,
            nodes: std::sync::Mutex::default(),
            dir: None,
        }
    }

    /// The key that signs grants.
    pub const fn signing(&self) -> &SigningKey {
        &self.signing
    }

    /// The directory in which they are kept; nothing when they are kept nowhere.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// What the files hold that [`Self::open`] reads: the secrets as they are in use, whatever became of the files.
    pub fn files(&self) -> Vec<(Part, Zeroizing<Vec<u8>>)> {
        let hex = |key: &Key| Zeroizing::new((data_encoding::HEXLOWER.encode(key.expose()) + "\n").into_bytes());
        let nodes = serde_json::to_vec_pretty(&*self.lock()).expect("secrets are plain data");
        vec![
            (Part::Master, hex(&self.master)),
            (Part::Signing, hex(&self.signing_seed)),
            (Part::Nodes, Zeroizing::new(nodes)),
        ]
    }

    /// Makes a vault's keys: themselves, and wrapped for the catalog.
    pub fn make_vault(&self, seam: &Seam) -> (VaultKeys, Vec<u8>) {
        let keys = VaultKeys { dedup: Key::from_bytes(seam.bytes()), wrap: Key::from_bytes(seam.bytes()) };
        let wrapped = seal::wrap(&self.master, seal::VAULT_KEYS, &*keys.to_bytes(), seam.bytes());
        (keys, wrapped)
    }

    /// Opens a vault's wrapped keys.
    ///
    /// # Errors
    /// [`KeyError::WrongKey`].
    pub fn open_vault(&self, wrapped: &[u8]) -> Result<VaultKeys, KeyError> {
        let bytes = seal::unwrap(&self.master, seal::VAULT_KEYS, wrapped).map_err(|_| KeyError::WrongKey)?;
        VaultKeys::from_bytes(&bytes).map_err(|_| KeyError::WrongKey)
    }

    /// The credentials of a node.
    pub fn node(&self, id: &NodeId) -> NodeSecret {
        self.lock().get(id).cloned().unwrap_or_default()
    }

    /// Keeps, or with nothing forgets, the credentials of a node; durable when it returns.
    ///
    /// # Errors
    /// [`KeyError::Io`].
    pub fn set_node(&self, id: &NodeId, secret: Option<NodeSecret>) -> Result<(), KeyError> {
        let mut nodes = self.lock();
        match secret {
            Some(secret) => drop(nodes.insert(id.clone(), secret)),
            None => drop(nodes.remove(id)),
        }
        let Some(dir) = &self.dir else { return Ok(()) };
        let json = Zeroizing::new(serde_json::to_vec_pretty(&*nodes).expect("secrets are plain data"));
        write_secret(&dir.join("nodes.json"), &json)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, NodeSecret>> {
        self.nodes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn read_or_make(path: &Path, seam: &Seam) -> Result<[u8; 32], KeyError> {
    let damaged = || KeyError::Damaged { path: path.to_owned() };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            check_mode(path)?;
            let bytes = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).map_err(|_| damaged())?;
            bytes.try_into().map_err(|_| damaged())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let bytes = seam.bytes();
            let text = Zeroizing::new(data_encoding::HEXLOWER.encode(&bytes) + "\n");
            write_secret(path, text.as_bytes())?;
            Ok(bytes)
        }
        Err(source) => Err(KeyError::Io { path: path.to_owned(), source }),
    }
}

/// Writes a file of mode 0600 so that after a crash it is whole or as before.
///
/// # Errors
/// [`KeyError::Io`].
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let fail = |source| KeyError::Io { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)?;
    #[cfg(unix)]
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(fail)?;
    Ok(())
}

/// Reads a short text, such as a passphrase, from a file that nobody else may read.
///
/// # Errors
/// [`KeyError::Mode`], [`KeyError::Io`].
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let fail = |source| KeyError::Io { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(fail)?;
    check_mode(path)?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_SECRET).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

/// Refuses a file that others may read.
///
/// # Errors
/// [`KeyError::Mode`].
pub fn check_mode(path: &Path) -> Result<(), KeyError> {
    #[cfg(unix)]
    {
        let metadata = std::fs::metadata(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
            return Err(KeyError::Mode { path: path.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_and_wide_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let seam = Seam::real();
        let keys = Keys::open(dir.path(), &seam).unwrap();
        let (vault, wrapped) = keys.make_vault(&seam);
        let again = Keys::open(dir.path(), &seam).unwrap();
        assert_eq!(again.open_vault(&wrapped).unwrap(), vault);
        assert_eq!(again.signing().public(), keys.signing().public());
        assert!(Keys::in_memory(&seam).open_vault(&wrapped).is_err());
        let secret = NodeSecret { own: Some(GrantToken::new("bearer:x".into())), client: None };
        keys.set_node(&"n".parse().unwrap(), Some(secret)).unwrap();
        for (part, bytes) in keys.files() {
            assert_eq!(std::fs::read(dir.path().join(part.file_name())).unwrap(), *bytes, "{part:?}");
        }
        #[cfg(unix)]
        {
            let path = dir.path().join("master.key");
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
            assert!(matches!(Keys::open(dir.path(), &seam), Err(KeyError::Mode { .. })));
        }
    }
}
