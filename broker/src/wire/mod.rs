//! The network side: connections, frames, and the translation between Kafka's requests and the core.
//!
//! Takes no decision of its own about topics, groups or transactions.

mod admin;
mod apis;
mod cluster;
mod connection;
mod data;
mod faults;
mod group;
mod offsets;
mod operators;
mod shape;
mod shared;
mod transaction;

pub(crate) use apis::{APIS, Request, answer};
pub(crate) use connection::{Limits, accept_connections};
pub(crate) use faults::Faults;
pub use faults::{ApiKey, CannotFail, Fault};
pub(crate) use shared::{Shared, now};
