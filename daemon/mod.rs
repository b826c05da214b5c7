//! What serves: HTTP faces and their servers. Everything here is behind the feature `daemon`.

mod accept;
pub mod config;
pub mod connect;
pub mod coordinator;
pub(crate) mod kubo;
#[cfg(unix)]
pub mod node;
pub(crate) mod openapi;
mod problem;
pub mod relay;
pub mod restore;
mod routes;
pub mod server;
