//! Whether a new version of a schema may follow the old ones. Pure.

use apache_avro::Schema;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use serde::{Deserialize, Serialize};

/// Rules for new versions, by Confluent's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Level {
    /// Anything goes.
    None,
    /// The new schema reads data of the last version.
    #[default]
    Backward,
    /// The new schema reads data of all versions.
    BackwardTransitive,
    /// The last version reads data of the new schema.
    Forward,
    /// All versions read data of the new schema.
    ForwardTransitive,
    /// Both, for the last version.
    Full,
    /// Both, for all versions.
    FullTransitive,
}

impl Level {
    /// Reads Confluent's name of a level, in any case.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        serde_json::from_value(name.to_ascii_uppercase().into()).ok()
    }

    fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }

    fn backward(self) -> bool {
        matches!(self, Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive)
    }

    fn forward(self) -> bool {
        matches!(self, Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive)
    }

    /// Which of the old versions (oldest first) count under this level.
    pub(crate) fn relevant<T>(self, old: &[T]) -> &[T] {
        match (self, old) {
            (Self::None, _) | (_, []) => &[],
            (level, old) if level.is_transitive() => old,
            (_, old) => &old[old.len() - 1..],
        }
    }
}

/// Reasons why `new` must not stand beside `old` under `level`; none if it may.
pub(crate) fn objections(level: Level, new: &Schema, old: &Schema) -> Vec<String> {
    let mut objections = Vec::new();
    if level.backward()
        && let Some(why) = cannot_read(old, new)
    {
        objections.push(format!("the new schema cannot read data of the old: {why}"));
    }
    if level.forward()
        && let Some(why) = cannot_read(new, old)
    {
        objections.push(format!("the old schema cannot read data of the new: {why}"));
    }
    objections
}

fn cannot_read(writer: &Schema, reader: &Schema) -> Option<String> {
    match SchemaCompatibility::can_read(writer, reader) {
        Ok(Compatibility::Full) => None,
        Ok(Compatibility::Partial) => {
            Some("some values of a union or enum have no place in the reader's schema".to_owned())
        }
        Err(error) => Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: &str) -> Schema {
        let json = format!(r#"{{"type":"record","name":"R","fields":[{fields}]}}"#);
        Schema::parse_str(&json).expect("valid")
    }

    #[test]
    fn each_level_looks_in_its_direction() {
        let old = schema(r#"{"name":"a","type":"int"}"#);
        let added = schema(r#"{"name":"a","type":"int"},{"name":"b","type":"int"}"#);
        let optional = schema(r#"{"name":"a","type":"int"},{"name":"b","type":"int","default":0}"#);
        let allowed = |level, new: &Schema| objections(level, new, &old).is_empty();
        // A new field without a default: old data cannot be read, but old readers do not mind.
        assert!(!allowed(Level::Backward, &added));
        assert!(allowed(Level::Forward, &added));
        assert!(!allowed(Level::Full, &added));
        assert!(allowed(Level::None, &added));
        for level in [Level::Backward, Level::Forward, Level::Full] {
            assert!(allowed(level, &optional), "{level:?}");
        }
        // And the other way round for a removed one.
        let back = objections(Level::Backward, &old, &added);
        let forth = objections(Level::Forward, &old, &added);
        assert!(back.is_empty() && !forth.is_empty());
    }

    #[test]
    fn transitive_levels_look_at_all_versions() {
        let versions = [1, 2, 3];
        assert_eq!(Level::FullTransitive.relevant(&versions), [1, 2, 3]);
        assert_eq!(Level::Full.relevant(&versions), [3]);
        assert_eq!(Level::None.relevant(&versions), [0; 0]);
    }

    #[test]
    fn names_are_confluents() {
        for name in
            ["NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"]
        {
            let level = Level::parse(name).expect("a level");
            assert_eq!(serde_json::json!(level), name);
        }
        assert_eq!(Level::parse("SIDEWAYS"), None);
    }
}
