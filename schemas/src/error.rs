//! What can go wrong between bytes, JSON and records, each saying what now. Owns the words; never logs.

use thiserror::Error;

use crate::datum::Fault;

/// The most bytes a record may have, header included: 1 MiB, as Kafka's default for a batch.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Why bytes are not a record. Only [`DecodeError::UnknownSchema`] can change by waiting.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes do not begin with a zero byte and a schema id.
    #[error(
        "not a record of a schema registry: wants a zero byte and a 4-byte schema id first, has {bytes} bytes \
         beginning with {first:?}; write it with a registry-aware Avro serializer"
    )]
    NotFramed {
        /// How many bytes there are.
        bytes: usize,
        /// The first of them, if there is one.
        first: Option<u8>,
    },
    /// The record is above the limit.
    #[error("{bytes} bytes, more than the {MAX_RECORD_BYTES} a record may have; split it where it is written")]
    TooLarge {
        /// How many bytes there are.
        bytes: usize,
    },
    /// The schema was not fetched yet: it is wanted now, decode again later.
    #[error("schema {id} is not fetched from the registry yet; try again once it is")]
    UnknownSchema {
        /// The schema's id.
        id: u32,
    },
    /// The registry says that there is no such schema.
    #[error("the registry has no schema {id}; the record was written against another registry or by hand")]
    NoSuchSchema {
        /// The schema's id.
        id: u32,
    },
    /// The bytes do not follow the schema.
    #[error("malformed {record}{}: {problem}; its writer does not write what its schema says", dotted(.field))]
    Malformed {
        /// The record's name.
        record: &'static str,
        /// Path of the field; empty for the whole record.
        field: String,
        /// What is wrong there.
        problem: String,
    },
    /// Bytes are left behind the record.
    #[error("{bytes} bytes are left behind the {record}; its writer does not write what its schema says")]
    TrailingBytes {
        /// The record's name.
        record: &'static str,
        /// How many.
        bytes: usize,
    },
    /// The schema it was written with cannot be read as the record wanted.
    #[error("schema {id} cannot be read as {record}: {problem}; see what the writer registered under that id")]
    Unresolvable {
        /// The record's name.
        record: &'static str,
        /// The id of the schema it was written with.
        id: u32,
        /// Why not.
        problem: String,
    },
    /// The topic carries no record of ours.
    #[error("topic {topic} carries no record that is known here; known are the topics of `TOPICS`")]
    UnknownTopic {
        /// The topic.
        topic: String,
    },
}

impl DecodeError {
    /// Whether the same bytes may be readable later: true only for [`DecodeError::UnknownSchema`].
    pub fn is_not_yet(&self) -> bool {
        matches!(self, Self::UnknownSchema { .. })
    }

    pub(crate) fn malformed(record: &'static str, fault: Fault) -> Self {
        Self::Malformed { record, field: fault.field, problem: fault.problem }
    }
}

/// Why a value is not written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// The record would be above the limit; nothing was written.
    #[error("a {record} of {bytes} bytes, more than the {MAX_RECORD_BYTES} a record may have; make it smaller")]
    TooLarge {
        /// The record's name.
        record: &'static str,
        /// How many bytes it would have.
        bytes: usize,
    },
    /// The JSON is not a value of the record.
    #[error("not a {record}: {}{problem}", spaced(.field))]
    BadJson {
        /// The record's name.
        record: &'static str,
        /// Path of the field; empty for the whole record.
        field: String,
        /// What is wrong there.
        problem: String,
    },
    /// The topic carries no record of ours.
    #[error("topic {topic} carries no record that is known here; known are the topics of `TOPICS`")]
    UnknownTopic {
        /// The topic.
        topic: String,
    },
}

fn dotted(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(".{field}") }
}

fn spaced(field: &str) -> String {
    if field.is_empty() { "it ".to_owned() } else { format!("`{field}` ") }
}
