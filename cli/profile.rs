//! Where things are kept, and what the user file says. Precedence: option, environment, user file, default.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bytenode::machine::is_loopback;
use serde::Deserialize;

use crate::error::{Failure, Outcome};
use crate::ui::text::nearest;

/// ByteNode's directories of this user. XDG variables win on every platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirs {
    /// What the user writes.
    pub config: PathBuf,
    /// What `up` stores.
    pub data: PathBuf,
    /// Credentials, logs, and what runs.
    pub state: PathBuf,
}

impl Dirs {
    /// Finds them; makes nothing.
    pub fn find() -> Outcome<Self> {
        let of = |variable: &str, fallback: Option<PathBuf>| {
            env::var_os(variable)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or(fallback)
                .map(|path| path.join("bytenode"))
                .ok_or_else(|| Failure::other(format!("no home directory: neither HOME nor {variable} is set")))
        };
        Ok(Self {
            config: of("XDG_CONFIG_HOME", dirs::config_dir())?,
            data: of("XDG_DATA_HOME", dirs::data_local_dir())?,
            state: of("XDG_STATE_HOME", dirs::state_dir().or_else(dirs::data_local_dir))?,
        })
    }
}

/// The user file.
#[derive(Debug, Clone, Default, Deserialize)]
struct Config {
    profile: Option<String>,
    #[serde(default)]
    profiles: BTreeMap<String, ConfigProfile>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ConfigProfile {
    url: Option<String>,
}

/// Keys of the user file, and of each profile in it.
const KEYS: [&str; 2] = ["profile", "profiles"];
const PROFILE_KEYS: [&str; 1] = ["url"];

/// One pool as this user knows it.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Where things are kept.
    pub dirs: Dirs,
    /// The coordinator, where environment or user file names one.
    pub url: Option<String>,
    /// The user file.
    pub config_path: PathBuf,
}

impl Profile {
    /// Reads the environment and the user file.
    pub fn load(name: Option<&str>, config: Option<&Path>) -> Outcome<Self> {
        let dirs = Dirs::find()?;
        let config_path = config.map_or_else(|| dirs.config.join("config.toml"), Path::to_owned);
        let file = match fs::read_to_string(&config_path) {
            Ok(text) => parse(&text, &config_path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && config.is_none() => Config::default(),
            Err(error) => return Err(Failure::io(format!("cannot read {}", config_path.display()), &error)),
        };
        let name = name
            .map(str::to_owned)
            .or(variable("BYTENODE_PROFILE")?)
            .or(file.profile)
            .unwrap_or_else(|| "default".to_owned());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(Failure::usage(format!("{name:?} is no profile name: use letters, digits, - and _")));
        }
        let from_file = file.profiles.get(&name).and_then(|profile| profile.url.clone());
        let url = variable("BYTENODE_URL")?.or(from_file).map(|url| normal_url(&url)).transpose()?;
        Ok(Self { name, dirs, url, config_path })
    }

    /// Where `up` keeps this profile's data unless told otherwise.
    pub fn default_data(&self) -> PathBuf {
        if self.name == "default" {
            return self.dirs.data.clone();
        }
        self.dirs.data.with_file_name("bytenode-profiles").join(&self.name)
    }

    /// Where the logs of this profile's processes go.
    pub fn logs(&self) -> PathBuf {
        let logs = self.dirs.state.join("log");
        if self.name == "default" { logs } else { logs.join(&self.name) }
    }
}

/// An environment variable; nothing when unset or empty.
pub fn variable(name: &str) -> Outcome<Option<String>> {
    match env::var_os(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok((!value.is_empty()).then_some(value)),
        Some(Err(_)) => Err(Failure::usage(format!("{name} is not UTF-8"))),
    }
}

fn parse(text: &str, path: &Path) -> Outcome<Config> {
    let wrong = |error: toml::de::Error| Failure::usage(format!("{} is wrong", path.display())).cause(&error);
    let table: toml::Table = text.parse().map_err(wrong)?;
    known(&table, &KEYS, "", path)?;
    for (name, profile) in table.get("profiles").and_then(toml::Value::as_table).into_iter().flatten() {
        if let Some(profile) = profile.as_table() {
            known(profile, &PROFILE_KEYS, &format!("profiles.{name}."), path)?;
        }
    }
    toml::from_str(text).map_err(wrong)
}

fn known(table: &toml::Table, keys: &[&str], prefix: &str, path: &Path) -> Outcome<()> {
    let Some(unknown) = table.keys().find(|key| !keys.contains(&key.as_str())) else { return Ok(()) };
    let failure = Failure::usage(format!("unknown key {prefix}{unknown} in {}", path.display()));
    Err(match nearest(unknown, keys.iter().copied()) {
        Some(key) => failure.hint(format!("did you mean {prefix}{key}?")),
        None => failure.hint(format!("known keys: {}", keys.join(", "))),
    })
}

/// The one form of a coordinator's address, by which its credential is kept.
pub fn normal_url(text: &str) -> Outcome<String> {
    let wrong = || {
        Failure::usage(format!("{text:?} is no address of a coordinator")).hint("write it like http://127.0.0.1:7420")
    };
    let url = url::Url::parse(text).map_err(|_| wrong())?;
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() || !plain || url.path() != "/" {
        return Err(wrong());
    }
    if url.scheme() == "http" && !is_loopback(url.as_str()) {
        return Err(Failure::usage(format!("{text} would carry your token unencrypted to another machine")).hint(
            format!(
                "ssh -L 7420:127.0.0.1:7420 {} and then use http://127.0.0.1:7420",
                url.host_str().unwrap_or("HOST")
            ),
        ));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_form() {
        assert_eq!(normal_url("http://127.0.0.1:7420/").unwrap(), "http://127.0.0.1:7420");
        assert_eq!(normal_url("https://pool.example").unwrap(), "https://pool.example");
        assert_eq!(normal_url("http://[::1]:7420").unwrap(), "http://[::1]:7420");
        for wrong in ["", "pool", "ftp://x", "http://u:p@127.0.0.1", "http://127.0.0.1/x", "http://127.0.0.1/?a=b"] {
            assert_eq!(normal_url(wrong).unwrap_err().hint.unwrap(), "write it like http://127.0.0.1:7420", "{wrong}");
        }
        assert!(normal_url("http://pool.example:7420").unwrap_err().hint.unwrap().starts_with("ssh -L"));
    }

    #[test]
    fn unknown_keys_are_told_with_the_nearest() {
        let path = Path::new("config.toml");
        let hint = |text: &str| parse(text, path).unwrap_err().hint.unwrap();
        assert_eq!(hint("profil = 'x'"), "did you mean profile?");
        assert_eq!(hint("[profiles.a]\nulr = 'x'"), "did you mean profiles.a.url?");
        assert_eq!(hint("zzz = 1"), "known keys: profile, profiles");
        assert!(parse("profile = 'a'\n[profiles.a]\nurl = 'http://127.0.0.1:1'", path).is_ok());
        assert!(parse("profile = 1", path).is_err());
    }
}
