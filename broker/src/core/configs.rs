//! Topic settings: which exist, their defaults, and what their values mean. Kafka's names throughout.

use std::collections::BTreeMap;

use super::log::LogSettings;
use super::{ErrorCode, Refusal};

/// What a setting's value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigKind {
    /// A whole number of at least this much.
    Long(i64),
    /// A whole number of at least this much that fits 32 bits.
    Int(i64),
    /// A number between 0 and 1.
    Ratio,
    /// True or false.
    Bool,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any of these words, separated by commas, none of them twice; none at all, too.
    Words(&'static [&'static str]),
}

/// A setting of a topic.
#[derive(Debug, Clone, Copy)]
pub struct ConfigKey {
    /// Kafka's name.
    pub name: &'static str,
    /// Value when none was given.
    pub default: &'static str,
    /// Shape of its values.
    pub kind: ConfigKind,
}

const fn key(name: &'static str, default: &'static str, kind: ConfigKind) -> ConfigKey {
    ConfigKey { name, default, kind }
}

/// Every setting a topic can have. Those after `message.timestamp.after.max.ms` are accepted for the sake of clients and have
/// no effect: there are no replicas, no flushes and one message format.
pub const TOPIC_CONFIGS: &[ConfigKey] = &[
    key("cleanup.policy", "delete", ConfigKind::Words(&["delete", "compact"])),
    key("retention.ms", "604800000", ConfigKind::Long(-1)),
    key("retention.bytes", "-1", ConfigKind::Long(-1)),
    key("segment.bytes", "134217728", ConfigKind::Int(1024)),
    key("segment.ms", "604800000", ConfigKind::Long(1)),
    key("delete.retention.ms", "86400000", ConfigKind::Long(0)),
    key("min.cleanable.dirty.ratio", "0.5", ConfigKind::Ratio),
    key("min.compaction.lag.ms", "0", ConfigKind::Long(0)),
    key("max.compaction.lag.ms", "9223372036854775807", ConfigKind::Long(1)),
    key("max.message.bytes", "1048588", ConfigKind::Int(0)),
    key("message.timestamp.type", "CreateTime", ConfigKind::Word(&["CreateTime", "LogAppendTime"])),
    key("message.timestamp.before.max.ms", "9223372036854775807", ConfigKind::Long(0)),
    key("message.timestamp.after.max.ms", "9223372036854775807", ConfigKind::Long(0)),
    key(
        "compression.type",
        "producer",
        ConfigKind::Word(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
    ),
    key("min.insync.replicas", "1", ConfigKind::Int(1)),
    key("unclean.leader.election.enable", "false", ConfigKind::Bool),
    key("flush.messages", "9223372036854775807", ConfigKind::Long(1)),
    key("flush.ms", "9223372036854775807", ConfigKind::Long(0)),
    key("file.delete.delay.ms", "0", ConfigKind::Long(0)),
    key("index.interval.bytes", "4096", ConfigKind::Int(0)),
    key("segment.index.bytes", "10485760", ConfigKind::Int(4)),
    key("segment.jitter.ms", "0", ConfigKind::Long(0)),
    key("preallocate", "false", ConfigKind::Bool),
];

/// Settings given for a topic, by name.
pub type Configs = BTreeMap<String, String>;

/// A topic's settings, understood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopicSettings {
    /// What the log needs on append.
    pub log: LogSettings,
    /// Old segments are deleted.
    pub delete: bool,
    /// Superseded records are removed.
    pub compact: bool,
    /// Records older than this may go, milliseconds; `None` keeps them.
    pub retention_ms: Option<i64>,
    /// Oldest segments go while the partition is larger than this; `None` for no limit.
    pub retention_bytes: Option<u64>,
    /// Tombstones stay at least this long after compaction first saw them, milliseconds.
    pub delete_retention_ms: i64,
    /// Compaction runs when at least this part of the closed segments is new.
    pub min_dirty_ratio: f64,
    /// Records younger than this are not compacted, milliseconds.
    pub min_compaction_lag_ms: i64,
    /// Compaction runs over records this old whatever part of the segments they are, milliseconds.
    pub max_compaction_lag_ms: i64,
}

fn find(name: &str) -> Option<&'static ConfigKey> {
    TOPIC_CONFIGS.iter().find(|config| config.name == name)
}

fn is_valid(kind: ConfigKind, value: &str) -> bool {
    match kind {
        ConfigKind::Long(least) => value.parse::<i64>().is_ok_and(|number| number >= least),
        ConfigKind::Int(least) => value.parse::<i32>().is_ok_and(|number| i64::from(number) >= least),
        ConfigKind::Ratio => value.parse::<f64>().is_ok_and(|number| (0.0..=1.0).contains(&number)),
        ConfigKind::Bool => value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false"),
        ConfigKind::Word(words) => words.contains(&value),
        ConfigKind::Words(words) => {
            let given: Vec<&str> = value.split(',').map(str::trim).collect();
            let is_new = |(at, word): (usize, &&str)| words.contains(word) && !given[..at].contains(word);
            value.is_empty() || given.iter().enumerate().all(is_new)
        }
    }
}

/// Checks names and values and returns their meaning.
///
/// # Errors
/// `INVALID_CONFIG` names the setting that is unknown or the value that is not allowed.
pub fn understand(configs: &Configs) -> Result<TopicSettings, Refusal> {
    for (name, value) in configs {
        let Some(config) = find(name) else {
            return Err(Refusal::new(ErrorCode::InvalidConfig, format!("unknown topic setting {name}")));
        };
        if !is_valid(config.kind, value) {
            return Err(Refusal::new(ErrorCode::InvalidConfig, format!("{value} is not a value for {name}")));
        }
    }
    let text = |name: &str| -> &str {
        match (configs.get(name), find(name)) {
            (Some(value), _) => value,
            (None, Some(config)) => config.default,
            (None, None) => "",
        }
    };
    // Values and defaults were checked above, so the fallback numbers are never used.
    let long = |name: &str| text(name).parse::<i64>().unwrap_or(0);
    let policy = |word: &str| text("cleanup.policy").split(',').any(|p| p.trim() == word);
    let compact = policy("compact");
    let max_compaction_lag_ms = long("max.compaction.lag.ms");
    // Only closed segments are compacted, so they close in time for it.
    let oldest = if compact { max_compaction_lag_ms } else { i64::MAX };
    Ok(TopicSettings {
        log: LogSettings {
            segment_bytes: u64::try_from(long("segment.bytes").min(i64::from(i32::MAX))).unwrap_or(1024),
            segment_ms: long("segment.ms").min(oldest),
            max_message_bytes: usize::try_from(long("max.message.bytes")).unwrap_or(usize::MAX),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            timestamp_before_max: long("message.timestamp.before.max.ms"),
            timestamp_after_max: long("message.timestamp.after.max.ms"),
        },
        delete: policy("delete"),
        compact,
        retention_ms: Some(long("retention.ms")).filter(|limit| *limit >= 0),
        retention_bytes: u64::try_from(long("retention.bytes")).ok(),
        delete_retention_ms: long("delete.retention.ms"),
        min_dirty_ratio: text("min.cleanable.dirty.ratio").parse().unwrap_or(0.5),
        min_compaction_lag_ms: long("min.compaction.lag.ms"),
        max_compaction_lag_ms,
    })
}

/// One changed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// Give it this value.
    Set(String),
    /// Go back to the default.
    Delete,
    /// Add these words to its list.
    Append(String),
    /// Remove these words from its list.
    Subtract(String),
}

/// Applies one change to `configs`.
///
/// # Errors
/// `INVALID_CONFIG` if words are added to a setting that is not a list.
pub fn apply(configs: &mut Configs, name: &str, change: ConfigChange) -> Result<(), Refusal> {
    let current = |configs: &Configs| -> Vec<String> {
        let default = find(name).map_or("", |config| config.default);
        let value = configs.get(name).map_or(default, String::as_str);
        value.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    };
    let list = |words: &str| -> Result<Vec<String>, Refusal> {
        match find(name).map(|config| config.kind) {
            Some(ConfigKind::Words(_)) => Ok(words.split(',').map(|word| word.trim().to_owned()).collect()),
            _ => Err(Refusal::new(ErrorCode::InvalidConfig, format!("{name} is not a list"))),
        }
    };
    match change {
        ConfigChange::Set(value) => {
            configs.insert(name.to_owned(), value);
        }
        ConfigChange::Delete => {
            configs.remove(name);
        }
        ConfigChange::Append(words) => {
            let mut value = current(configs);
            for word in list(&words)? {
                if !value.contains(&word) {
                    value.push(word);
                }
            }
            configs.insert(name.to_owned(), value.join(","));
        }
        ConfigChange::Subtract(words) => {
            let removed = list(&words)?;
            let mut value = current(configs);
            value.retain(|word| !removed.contains(word));
            configs.insert(name.to_owned(), value.join(","));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        for config in TOPIC_CONFIGS {
            assert!(is_valid(config.kind, config.default), "{}", config.name);
        }
    }

    #[test]
    fn unknown_names_and_bad_values_are_refused() {
        for (name, value) in [
            ("no.such.setting", "1"),
            ("retention.ms", "soon"),
            ("cleanup.policy", "shred"),
            ("min.cleanable.dirty.ratio", "2"),
        ] {
            let configs = Configs::from([(name.to_owned(), value.to_owned())]);
            let refusal = understand(&configs).expect_err("must be refused");
            assert_eq!(refusal.code, ErrorCode::InvalidConfig);
            assert!(refusal.message.contains(name), "{}", refusal.message);
        }
    }

    #[test]
    fn lists_grow_and_shrink() {
        let mut configs = Configs::new();
        apply(&mut configs, "cleanup.policy", ConfigChange::Append("compact".to_owned())).expect("a list");
        assert_eq!(configs["cleanup.policy"], "delete,compact");
        apply(&mut configs, "cleanup.policy", ConfigChange::Subtract("delete".to_owned())).expect("a list");
        let settings = understand(&configs).expect("valid");
        assert!(settings.compact && !settings.delete);
    }
}
