//! A schema registry that answers like Confluent's, for Avro. Its state is the compacted topic `_schemas` of the broker,
//! written straight through the core, so it survives what the broker survives.

mod catalog;
mod compatibility;
pub(crate) mod fuzzing;
mod mode;
mod offered;
mod records;
mod refused;
mod routes;
mod store;

pub(crate) use routes::routes;
pub(crate) use store::Registry;
