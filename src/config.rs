//! The coordinator's configuration as typed values: every key, its default, its bounds.
//!
//! Reads no file and no environment; whoever does hands the values over. Each section maps onto the type that the part
//! of the code concerned takes, whose defaults are the defaults here, so that there is one place for each number.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::coordinator::Policy;
use crate::node::http::Limits;

/// The port of a coordinator, unless told otherwise.
pub const PORT: u16 = 7420;

/// The most copies that can be asked for.
const MAX_REPLICAS: u32 = 16;
/// The longest time that any key takes: nothing here is meant to wait for years.
const MAX_TIME: Duration = Duration::from_secs(366 * 24 * 3600);
/// How long a stop may take, whatever is under way.
const MAX_STOP: Duration = Duration::from_secs(30);

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The data directory; it must be given here or on the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// How the pool behaves.
    pub pool: Pool,
    /// What is done when.
    pub schedule: Schedule,
    /// How long nodes may take.
    pub nodes: Nodes,
    /// What the API allows.
    pub server: Server,
}

/// How the pool behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pool {
    /// Copies of every chunk.
    pub replicas: u32,
    /// How long a node may be away before its copies are made anew.
    pub grace: Time,
    /// How long a removed or replaced version stays readable.
    pub retention: Time,
    /// How long an upload's chunks are kept after its last sign of life.
    pub lease: Time,
    /// How long a permit for a node is good.
    pub grant: Time,
    /// How old a proof may be for a chunk to count as stored already.
    pub fresh: Time,
    /// Within which time every copy is read and hashed.
    pub scrub: Time,
    /// How many MiB a second are read of each node for that.
    pub scrub_rate: u32,
    /// How many MiB a second repair moves in all.
    pub repair_rate: u32,
}

/// How often the coordinator does what it does by itself; each time a tenth earlier or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Asks every node how it is.
    pub probe: Time,
    /// Asks all nodes for every copy, though nothing seems to be missing.
    pub check: Time,
    /// Releases what nothing needs any more.
    pub sweep: Time,
    /// How old the last backup may become before it is called to mind.
    pub backup: Time,
}

/// How long nodes may take. None of them is a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nodes {
    /// Until a connection stands.
    pub connect: Time,
    /// From the end of a request to the head of the answer.
    pub first_byte: Time,
    /// From one byte to the next.
    pub progress: Time,
    /// For protecting a pack.
    pub pin: Time,
    /// More for every MiB of it.
    pub pin_per_mib: Time,
}

/// What the API allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// For the call behind a request.
    pub call: Time,
    /// For calls that work with nodes.
    pub long_call: Time,
    /// For a request's headers, and for a connection without request.
    pub header: Time,
    /// Since the last byte of a body.
    pub progress: Time,
    /// For a whole request body.
    pub body: Time,
    /// For requests under way at a stop.
    pub stop: Time,
    /// Connections at a time.
    pub connections: usize,
    /// Calls at a time.
    pub calls: u32,
    /// Long calls at a time.
    pub long_calls: u32,
}

/// A length of time, written like `20s`, `10m` or `4h`. Never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(Duration);

impl Time {
    /// The length.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Time {
    fn from(time: Duration) -> Self {
        Self(time)
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let time = SignedDuration::try_from(self.0).map_err(serde::ser::Error::custom)?;
        serializer.collect_str(&format_args!("{time:#}"))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
        time.map(Self).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no time: write 20s, 10m or 4h")))
    }
}

impl Default for Config {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        Self {
            data: None,
            listen,
            pool: Pool::default(),
            schedule: Schedule::default(),
            nodes: Nodes::default(),
            server: Server::default(),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        let Policy {
            replicas,
            chunk_size: _,
            lease,
            retention,
            fresh,
            grace,
            grant,
            scrub,
            scrub_rate,
            repair_rate,
            check: _,
        } = Policy::default();
        Self {
            replicas,
            grace: grace.into(),
            retention: retention.into(),
            lease: lease.into(),
            grant: grant.into(),
            fresh: fresh.into(),
            scrub: scrub.into(),
            scrub_rate: u32::try_from(scrub_rate >> 20).unwrap_or(u32::MAX),
            repair_rate: u32::try_from(repair_rate >> 20).unwrap_or(u32::MAX),
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        let time = |seconds| Time(Duration::from_secs(seconds));
        Self { probe: time(15), check: Policy::default().check.into(), sweep: time(60), backup: time(7 * 24 * 3600) }
    }
}

impl Default for Nodes {
    fn default() -> Self {
        let Limits { connect, first_byte, progress, pin, pin_per_mib } = Limits::default();
        Self {
            connect: connect.into(),
            first_byte: first_byte.into(),
            progress: progress.into(),
            pin: pin.into(),
            pin_per_mib: pin_per_mib.into(),
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        let time = |seconds| Time(Duration::from_secs(seconds));
        Self {
            call: time(30),
            long_call: time(24 * 3600),
            header: time(10),
            progress: time(20),
            body: time(120),
            stop: time(30),
            connections: 512,
            calls: 128,
            long_calls: 16,
        }
    }
}

/// A value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} must be {must}")]
pub struct ConfigError {
    /// The key, with its section.
    pub key: &'static str,
    /// What it must be.
    pub must: String,
}

impl Config {
    /// Refuses values with which nothing could work. Types have been checked already.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, must: String| Err(ConfigError { key, must });
        if !(1..=MAX_REPLICAS).contains(&self.pool.replicas) {
            return refuse("pool.replicas", format!("1 to {MAX_REPLICAS}"));
        }
        for (key, time) in self.times() {
            if time.get().is_zero() || time.get() > MAX_TIME {
                return refuse(key, "more than 0 and at most a year".into());
            }
        }
        for (key, rate) in [("pool.scrub_rate", self.pool.scrub_rate), ("pool.repair_rate", self.pool.repair_rate)] {
            if !(1..=65_536).contains(&rate) {
                return refuse(key, "1 to 65,536".into());
            }
        }
        if self.server.stop.get() > MAX_STOP {
            return refuse("server.stop", format!("at most {} s", MAX_STOP.as_secs()));
        }
        let counts = [
            ("server.connections", self.server.connections),
            ("server.calls", self.server.calls as usize),
            ("server.long_calls", self.server.long_calls as usize),
        ];
        match counts.into_iter().find(|(_, count)| !(1..=65_536).contains(count)) {
            Some((key, _)) => refuse(key, "1 to 65,536".into()),
            None => Ok(()),
        }
    }

    /// The times that must not be zero: all but the retention, which may be.
    fn times(&self) -> [(&'static str, Time); 20] {
        let Self { pool, schedule, nodes, server, .. } = self;
        [
            ("pool.grace", pool.grace),
            ("pool.lease", pool.lease),
            ("pool.grant", pool.grant),
            ("pool.fresh", pool.fresh),
            ("pool.scrub", pool.scrub),
            ("schedule.probe", schedule.probe),
            ("schedule.check", schedule.check),
            ("schedule.sweep", schedule.sweep),
            ("schedule.backup", schedule.backup),
            ("nodes.connect", nodes.connect),
            ("nodes.first_byte", nodes.first_byte),
            ("nodes.progress", nodes.progress),
            ("nodes.pin", nodes.pin),
            ("nodes.pin_per_mib", nodes.pin_per_mib),
            ("server.call", server.call),
            ("server.long_call", server.long_call),
            ("server.header", server.header),
            ("server.progress", server.progress),
            ("server.body", server.body),
            ("server.stop", server.stop),
        ]
    }

    /// How the coordinator behaves.
    pub fn policy(&self) -> Policy {
        let Pool { replicas, grace, retention, lease, grant, fresh, scrub, scrub_rate, repair_rate } = self.pool;
        Policy {
            replicas,
            grace: grace.get(),
            retention: retention.get(),
            lease: lease.get(),
            grant: grant.get(),
            fresh: fresh.get(),
            scrub: scrub.get(),
            scrub_rate: u64::from(scrub_rate) << 20,
            repair_rate: u64::from(repair_rate) << 20,
            check: self.schedule.check.get(),
            ..Policy::default()
        }
    }

    /// How long nodes may take.
    pub fn node_limits(&self) -> Limits {
        let Nodes { connect, first_byte, progress, pin, pin_per_mib } = self.nodes;
        Limits {
            connect: connect.get(),
            first_byte: first_byte.get(),
            progress: progress.get(),
            pin: pin.get(),
            pin_per_mib: pin_per_mib.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_parts() {
        let config = Config::default();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(format!("{:?}", config.policy()), format!("{:?}", Policy::default()));
        assert_eq!(config.node_limits(), Limits::default());
    }

    #[test]
    fn bounds_are_kept() {
        let mut config = Config::default();
        config.pool.retention = Time(Duration::ZERO);
        assert_eq!(config.check(), Ok(()));
        config.server.calls = 0;
        assert_eq!(config.check().unwrap_err().to_string(), "server.calls must be 1 to 65,536");
        config.nodes.pin = Time(Duration::ZERO);
        assert_eq!(config.check().unwrap_err().key, "nodes.pin");
        config.pool.replicas = 0;
        assert_eq!(config.check().unwrap_err().to_string(), "pool.replicas must be 1 to 16");
    }

    #[test]
    fn times_are_written_as_people_do() {
        let read = |text: &str| serde_json::from_value::<Time>(text.into());
        assert_eq!(read("4h").unwrap().get(), Duration::from_secs(14_400));
        assert_eq!(read("10 min").unwrap().get(), Duration::from_secs(600));
        assert_eq!(serde_json::to_value(Time(Duration::from_secs(90))).unwrap(), "1m 30s");
        for wrong in ["", "4", "-1s", "soon", "1 month"] {
            assert!(read(wrong).unwrap_err().to_string().contains("write 20s"), "{wrong}");
        }
    }
}
