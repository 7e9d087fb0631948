//! The records of Millrace: Avro schemas, their Rust types and the codec.
//!
//! `avro/*.avsc` is the truth, one file per record; the types here are the same by test. [`Codec`] turns records into
//! the bytes on topics and back; [`TOPICS`] says which record is on which topic.

mod codec;
mod datum;
mod define;
mod error;
mod fingerprint;
mod fulfillment;
mod intake;
mod money;
mod partition;
mod payments;
mod stock;
#[cfg(test)]
mod tests;
mod versions;
mod writer;

pub mod provider;
#[cfg(feature = "registry")]
pub mod registry;
pub mod topics;

pub use codec::{AvroRecord, Codec, decode_json, encode_json};
pub use error::{DecodeError, EncodeError, MAX_RECORD_BYTES};
pub use fulfillment::*;
pub use intake::*;
pub use money::Money;
pub use partition::{murmur2, murmur2_partition};
pub use payments::*;
pub use stock::*;
pub use topics::{Compatibility, TOPICS, Topic, all_schemas};
pub use versions::{compatibility, lint};
