//! The records of `_schemas`: keys and values as JSON, in Confluent's layout where it has one.

use serde::{Deserialize, Serialize};

use super::compatibility::Level;
use super::mode::Mode;

/// Key of a record; compaction keeps the latest of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "keytype")]
pub(crate) enum Key {
    /// A version of a subject.
    #[serde(rename = "SCHEMA")]
    Schema { subject: String, version: i32, magic: i8 },
    /// A compatibility level; no subject is the global one.
    #[serde(rename = "CONFIG")]
    Config { subject: Option<String>, magic: i8 },
    /// A mode; no subject is the global one.
    #[serde(rename = "MODE")]
    Mode { subject: Option<String>, magic: i8 },
    /// The next free schema id, kept when versions are deleted for good.
    #[serde(rename = "NEXT_ID")]
    NextId { magic: i8 },
}

/// A type that a schema takes from a version of another subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) version: i32,
}

/// Value under a [`Key::Schema`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchemaValue {
    pub(crate) subject: String,
    pub(crate) version: i32,
    pub(crate) id: i32,
    pub(crate) schema: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) references: Vec<Reference>,
    pub(crate) deleted: bool,
}

/// Value under a [`Key::Config`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConfigValue {
    #[serde(rename = "compatibilityLevel")]
    pub(crate) level: Level,
}

/// Value under a [`Key::Mode`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModeValue {
    pub(crate) mode: Mode,
}

/// Value under a [`Key::NextId`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NextIdValue {
    pub(crate) next: i32,
}

/// One record, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A version as it is now.
    Schema(SchemaValue),
    /// A version that is gone.
    SchemaGone { subject: String, version: i32 },
    /// A level; `None` means the default applies again.
    Level { subject: Option<String>, level: Option<Level> },
    /// A mode; `None` means the default applies again.
    Mode { subject: Option<String>, mode: Option<Mode> },
    /// Ids below were given out.
    NextId(i32),
}

impl Fact {
    /// Key and value bytes; no value is a tombstone.
    pub(crate) fn encode(&self) -> Result<(Vec<u8>, Option<Vec<u8>>), serde_json::Error> {
        let schema_key = |subject: &str, version| Key::Schema { subject: subject.to_owned(), version, magic: 1 };
        let (key, value) = match self {
            Self::Schema(value) => (schema_key(&value.subject, value.version), Some(serde_json::to_vec(value)?)),
            Self::SchemaGone { subject, version } => (schema_key(subject, *version), None),
            Self::Level { subject, level } => {
                let key = Key::Config { subject: subject.clone(), magic: 0 };
                let value = level.map(|level| serde_json::to_vec(&ConfigValue { level }));
                (key, value.transpose()?)
            }
            Self::Mode { subject, mode } => {
                let key = Key::Mode { subject: subject.clone(), magic: 0 };
                let value = mode.map(|mode| serde_json::to_vec(&ModeValue { mode }));
                (key, value.transpose()?)
            }
            Self::NextId(next) => {
                let value = serde_json::to_vec(&NextIdValue { next: *next })?;
                (Key::NextId { magic: 0 }, Some(value))
            }
        };
        Ok((serde_json::to_vec(&key)?, value))
    }

    /// Reads a record of the topic.
    pub(crate) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, serde_json::Error> {
        Ok(match (serde_json::from_slice(key)?, value) {
            (Key::Schema { .. }, Some(value)) => Self::Schema(serde_json::from_slice(value)?),
            (Key::Schema { subject, version, .. }, None) => Self::SchemaGone { subject, version },
            (Key::Config { subject, .. }, value) => {
                let value: Option<ConfigValue> = value.map(serde_json::from_slice).transpose()?;
                Self::Level { subject, level: value.map(|value| value.level) }
            }
            (Key::Mode { subject, .. }, value) => {
                let value: Option<ModeValue> = value.map(serde_json::from_slice).transpose()?;
                Self::Mode { subject, mode: value.map(|value| value.mode) }
            }
            (Key::NextId { .. }, value) => {
                let value: Option<NextIdValue> = value.map(serde_json::from_slice).transpose()?;
                Self::NextId(value.map_or(1, |value| value.next))
            }
        })
    }
}
