//! The records of Millrace: Avro schemas, their Rust types and the codec.
