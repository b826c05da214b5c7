//! The configuration file of the coordinator: TOML, read strictly, told for people.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};

use super::coordinator::CoordinatorOptions;
use super::server::ServerLimits;
use crate::config::Config;

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a configuration file.
///
/// # Errors
/// When it cannot be read, has an unknown key (with the one that was probably meant), or a value out of its bounds.
pub fn read(path: &Path) -> Result<Config> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if metadata.len() > MAX_BYTES {
        bail!("{} is too large for a configuration", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is wrong", path.display()))
}

/// Reads a configuration from text.
///
/// # Errors
/// As [`read`].
pub fn parse(text: &str) -> Result<Config> {
    let table: toml::Table = text.parse()?;
    known(&table, &keys(), "")?;
    let config: Config = toml::from_str(text)?;
    config.check()?;
    Ok(config)
}

/// Every key: those of the defaults, and the one that has none.
fn keys() -> toml::Table {
    let mut keys = toml::Table::try_from(Config::default()).expect("the defaults are a table");
    keys.insert("data".into(), toml::Value::String(String::new()));
    keys
}

/// Refuses the first key that does not exist.
fn known(table: &toml::Table, keys: &toml::Table, section: &str) -> Result<()> {
    for (key, value) in table {
        let Some(expected) = keys.get(key) else { return Err(unknown(section, key, keys)) };
        if let (Some(inner), Some(expected)) = (value.as_table(), expected.as_table()) {
            known(inner, expected, &format!("{section}{key}."))?;
        }
    }
    Ok(())
}

fn unknown(section: &str, key: &str, keys: &toml::Table) -> anyhow::Error {
    let far = |own: &str| strsim::damerau_levenshtein(own, key);
    let best = keys.keys().min_by_key(|own| far(own)).filter(|own| far(own) <= (key.len() / 3).max(1));
    match best {
        Some(best) => anyhow!("unknown key {section}{key}; did you mean {section}{best}?"),
        None => {
            let all: Vec<&str> = keys.keys().map(String::as_str).collect();
            anyhow!("unknown key {section}{key}; there are: {}", all.join(", "))
        }
    }
}

/// What the API allows, as configured.
pub fn server_limits(config: &Config) -> ServerLimits {
    let server = &config.server;
    ServerLimits {
        call: server.call.get(),
        long_call: server.long_call.get(),
        header: server.header.get(),
        progress: server.progress.get(),
        body: server.body.get(),
        stop: server.stop.get(),
        connections: server.connections,
        calls: server.calls,
        long_calls: server.long_calls,
        ..ServerLimits::default()
    }
}

impl CoordinatorOptions {
    /// A coordinator as configured, with its data in this directory.
    pub fn configured(config: &Config, data: std::path::PathBuf) -> Self {
        let schedule = config.schedule;
        Self { data, policy: config.policy(), schedule, limits: config.node_limits(), server: server_limits(config) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../config.example.toml");

    #[test]
    fn the_example_lists_every_key_with_its_default() {
        assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
        let written: toml::Table = EXAMPLE.replace("# data =", "data =").parse().unwrap();
        let mut expected = keys();
        expected.insert("data".into(), written["data"].clone());
        let names = |table: &toml::Table| {
            let inner = |(key, value): (&String, &toml::Value)| match value.as_table() {
                Some(inner) => inner.keys().map(|own| format!("{key}.{own}")).collect(),
                None => vec![key.clone()],
            };
            let mut names: Vec<String> = table.iter().flat_map(inner).collect();
            names.sort();
            names
        };
        assert_eq!(names(&written), names(&expected));
        assert_eq!(server_limits(&Config::default()), ServerLimits::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let told = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(told("listn = 'x'"), "unknown key listn; did you mean listen?");
        assert_eq!(told("[pool]\nreplica = 2"), "unknown key pool.replica; did you mean pool.replicas?");
        assert!(told("[pool]\nzzz = 2").starts_with("unknown key pool.zzz; there are: "));
        assert_eq!(told("[pool]\nreplicas = 99"), "pool.replicas must be 1 to 16");
        assert!(told("[nodes]\nconnect = 5").contains("expected a string"));
        assert!(told("[nodes]\nconnect = '5'").contains("write 20s, 10m or 4h"));
        assert_eq!(parse("").unwrap(), Config::default());
    }
}
