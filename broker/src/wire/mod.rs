//! The network side: connections, frames, and the translation between Kafka's requests and the core.
//!
//! Takes no decision of its own about topics, groups or transactions.

mod admin;
mod apis;
mod cluster;
mod connection;
mod data;
mod group;
mod shape;
mod shared;
mod transaction;

pub(crate) use connection::accept_connections;
pub(crate) use shared::{Shared, now};
