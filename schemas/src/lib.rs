//! The records of Millrace: Avro schemas, their Rust types and the codec.
//!
//! `avro/*.avsc` is the truth, one file per record; the types here are the same by test. [`Codec`] turns records into
//! the bytes on topics and back; [`TOPICS`] says which record is on which topic. Nothing here does I/O but `registry`.
//!
//! # Adding a field
//!
//! 1. Add it to the record's `.avsc`, last, with a `doc` and a `default` (`["null", ..]` with default null, if in doubt):
//!    without a default neither old records nor old readers can be served.
//! 2. Add it to the Rust type at the same place, with the same default: `note: Option<String> = None,`.
//! 3. If it is one of `OrderPlaced`'s, let it count in `fingerprint` only when it is not the default.
//! 4. Store the schema as `versions/<file>.v<next>.avsc` with a `.json` of samples beside it, and list both, in
//!    `versions.rs` and in `tests/stored.rs`. Stored versions never change.
//! 5. `cargo test -p millrace-schemas`: types and schema compared, every old sample still read.
//! 6. `millrace lint`, then `millrace apply`, then roll the processors out: readers of both versions go on reading.
//!
//! A symbol is added the same way, last in its enum; readers that do not know it read `UNKNOWN`. Fields are never renamed
//! and never change their type; a field that is given up stays, unless it has a default.

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
pub use datum::Field;
pub use error::{DecodeError, EncodeError, MAX_RECORD_BYTES};
pub use fulfillment::*;
pub use intake::*;
pub use money::Money;
pub use partition::{murmur2, murmur2_partition};
pub use payments::*;
pub use stock::*;
pub use topics::{Compatibility, TOPICS, Topic, all_schemas};
pub use versions::{compatibility, lint};
