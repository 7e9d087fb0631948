//! What may be done to subjects: everything, nothing, or bringing in schemas under ids they have elsewhere.

use serde::{Deserialize, Serialize};

/// A mode, by Confluent's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Mode {
    /// Schemas may be registered and deleted.
    #[default]
    Readwrite,
    /// Only reading.
    Readonly,
    /// Only reading, whatever subjects say.
    ReadonlyOverride,
    /// Schemas come with the ids and versions they have elsewhere.
    Import,
}

impl Mode {
    /// Reads Confluent's name of a mode, in any case.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        serde_json::from_value(name.to_ascii_uppercase().into()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_confluents() {
        for name in ["READWRITE", "READONLY", "READONLY_OVERRIDE", "IMPORT"] {
            assert_eq!(serde_json::json!(Mode::parse(name).expect("a mode")), name);
        }
        assert_eq!(Mode::parse("WRITEONLY"), None);
    }
}
