//! Reads `topology.toml`. Every fault is reported with its line, all of them at once; never the first alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;

use super::check::{Fault, check_wiring};
use super::{
    Cleanup, EngineSettings, OnPoison, Origin, ProcessorSpec, StoreSpec, SubTopology, Topic, Topology, small,
    sub_topology_of, topic_id,
};
use crate::record::{ProcessorId, TopicId};

const NAMES_MAX: usize = 1_000;
const SIZE_MAX: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawTopology {
    application: Spanned<String>,
    #[serde(default)]
    engine: RawEngine,
    topics: BTreeMap<Spanned<String>, RawTopic>,
    #[serde(default)]
    changelogs: RawDerived,
    #[serde(default)]
    dead_letters: RawDerived,
    processors: BTreeMap<Spanned<String>, RawProcessor>,
    sub_topologies: BTreeMap<Spanned<String>, Vec<Spanned<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawEngine {
    hand_over: Option<bool>,
    commit_records: Option<usize>,
    commit_latency: Option<Spanned<String>>,
    memtable_mb: Option<usize>,
    write_out: Option<Spanned<String>>,
    dead_letters_per_minute_max: Option<u64>,
    park_retry: Option<Spanned<String>>,
    park_tries_max: Option<u32>,
    standbys: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawTopic {
    partitions: Spanned<i32>,
    #[serde(default)]
    cleanup: Option<Spanned<String>>,
    retention: Option<Spanned<String>>,
    compaction_lag: Option<Spanned<String>>,
    min_in_sync_replicas: Option<i32>,
    schema: Option<String>,
    #[serde(default)]
    sink: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawDerived {
    retention: Option<Spanned<String>>,
    min_in_sync_replicas: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawProcessor {
    inputs: Vec<Spanned<String>>,
    #[serde(default)]
    outputs: Vec<Spanned<String>>,
    #[serde(default)]
    globals: Vec<Spanned<String>>,
    on_poison: Option<Spanned<String>>,
    #[serde(default)]
    stores: BTreeMap<Spanned<String>, RawStore>,
    #[serde(default)]
    settings: BTreeMap<String, i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawStore {
    #[serde(default)]
    table_of: Vec<Spanned<String>>,
    ttl: Option<Spanned<String>>,
}

/// Reads and checks a topology.
///
/// # Errors
/// Every fault found, each with its place.
pub fn parse(text: &str) -> Result<Topology, Vec<Fault>> {
    if text.len() > SIZE_MAX {
        return Err(vec![Fault::new(text, None, format!("the topology is larger than {SIZE_MAX} bytes"))]);
    }
    let raw: RawTopology =
        toml::from_str(text).map_err(|error| vec![Fault::new(text, error.span(), error.message().to_owned())])?;
    let mut reader = Reader { text, faults: Vec::new() };
    let (topology, spans) = reader.read(raw);
    let mut faults = reader.faults;
    faults.extend(check_wiring(&topology, &spans, text));
    if faults.is_empty() { Ok(topology) } else { Err(faults) }
}

/// Where each named thing stands in the text.
#[derive(Default)]
pub(super) struct Spans {
    pub(super) topics: Vec<Range<usize>>,
    pub(super) processors: Vec<Range<usize>>,
    pub(super) sub_topologies: Vec<Range<usize>>,
}

struct Reader<'a> {
    text: &'a str,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, span: Range<usize>, message: String) {
        self.faults.push(Fault::new(self.text, Some(span), message));
    }

    fn read(&mut self, raw: RawTopology) -> (Topology, Spans) {
        let mut spans = Spans::default();
        let mut topology = Topology {
            application: raw.application.get_ref().clone(),
            topics: Vec::new(),
            processors: Vec::new(),
            sub_topologies: Vec::new(),
            engine: self.engine(&raw.engine),
        };
        self.name(raw.application.span(), raw.application.get_ref());
        if raw.topics.len() + raw.processors.len() > NAMES_MAX {
            self.fault(0..0, format!("more than {NAMES_MAX} topics and processors"));
            return (topology, spans);
        }
        for (name, topic) in in_order(raw.topics) {
            self.name(name.span(), name.get_ref());
            spans.topics.push(name.span());
            let topic = self.topic(name.get_ref(), &topic);
            topology.topics.push(topic);
        }
        let derived = |raw: &RawDerived, reader: &mut Self| {
            (raw.retention.as_ref().and_then(|text| reader.duration(text)), raw.min_in_sync_replicas)
        };
        let (changelog_retention, changelog_isr) = derived(&raw.changelogs, self);
        if changelog_retention.is_some() {
            self.fault(0..0, "a changelog is compacted and has no retention: remove changelogs.retention".into());
        }
        let (letters_retention, letters_isr) = derived(&raw.dead_letters, self);
        for (name, processor) in in_order(raw.processors) {
            self.name(name.span(), name.get_ref());
            spans.processors.push(name.span());
            let spec =
                self.processor(&mut topology, name.get_ref(), processor, letters_retention, letters_isr, changelog_isr);
            topology.processors.push(spec);
        }
        let of_the_program =
            [(topology.task_owners(), Origin::TaskOwners), (topology.grouping_topic(), Origin::Grouping)];
        topology.topics.extend(of_the_program.map(|(name, origin)| Topic {
            name: Arc::from(name),
            partitions: 1,
            cleanup: Cleanup::Compact,
            retention_ms: None,
            compaction_lag_ms: None,
            min_in_sync_replicas: changelog_isr,
            schema: None,
            sink: true,
            origin,
        }));
        spans.topics.resize(topology.topics.len(), 0..0);
        for (name, members) in in_order(raw.sub_topologies) {
            self.name(name.span(), name.get_ref());
            spans.sub_topologies.push(name.span());
            let sub = self.sub_topology(&topology, name.get_ref(), &members);
            topology.sub_topologies.push(sub);
        }
        (topology, spans)
    }

    fn topic(&mut self, name: &str, raw: &RawTopic) -> Topic {
        if *raw.partitions.get_ref() < 1 {
            self.fault(raw.partitions.span(), format!("topic {name} needs at least one partition"));
        }
        let cleanup = match raw.cleanup.as_ref().map(|c| (c.get_ref().as_str(), c.span())) {
            None | Some(("delete", _)) => Cleanup::Delete,
            Some(("compact", _)) => Cleanup::Compact,
            Some((other, span)) => {
                self.fault(span, format!("cleanup is \"delete\" or \"compact\", not {other:?}"));
                Cleanup::Delete
            }
        };
        let retention_ms = raw.retention.as_ref().and_then(|text| self.duration(text));
        match (cleanup, &raw.retention) {
            (Cleanup::Compact, Some(retention)) => {
                self.fault(
                    retention.span(),
                    format!("topic {name} is compacted and has no retention: remove this line"),
                );
            }
            (Cleanup::Delete, None) => {
                self.fault(
                    raw.partitions.span(),
                    format!("topic {name} needs a retention, such as retention = \"14d\""),
                );
            }
            _ => {}
        }
        let compaction_lag_ms = raw.compaction_lag.as_ref().and_then(|text| self.duration(text));
        if let (Cleanup::Delete, Some(lag)) = (cleanup, &raw.compaction_lag) {
            self.fault(
                lag.span(),
                format!("topic {name} is not compacted and has no compaction-lag: remove this line"),
            );
        }
        Topic {
            name: Arc::from(name),
            partitions: *raw.partitions.get_ref(),
            cleanup,
            retention_ms,
            compaction_lag_ms,
            min_in_sync_replicas: raw.min_in_sync_replicas,
            schema: raw.schema.clone(),
            sink: raw.sink,
            origin: Origin::Named,
        }
    }

    fn processor(
        &mut self,
        topology: &mut Topology,
        name: &str,
        raw: RawProcessor,
        letters_retention: Option<i64>,
        letters_isr: Option<i32>,
        changelog_isr: Option<i32>,
    ) -> ProcessorSpec {
        let mut resolve = |names: &[Spanned<String>]| -> Vec<TopicId> {
            names.iter().filter_map(|name| self.resolve(topology, name)).collect()
        };
        let inputs = resolve(&raw.inputs);
        let outputs = resolve(&raw.outputs);
        let globals = resolve(&raw.globals);
        let partitions = inputs.first().map_or(1, |input| topology.topic(*input).partitions);
        let derived = |name: String, origin, cleanup, retention_ms, min_in_sync_replicas| Topic {
            name: Arc::from(name),
            partitions,
            cleanup,
            retention_ms,
            compaction_lag_ms: None,
            min_in_sync_replicas,
            schema: None,
            sink: true,
            origin,
        };
        let on_poison = match raw.on_poison.as_ref().map(|p| (p.get_ref().as_str(), p.span())) {
            None | Some(("dead-letter", _)) => OnPoison::DeadLetter,
            Some(("park", _)) => OnPoison::Park,
            Some(("stop", _)) => OnPoison::Stop,
            Some((other, span)) => {
                self.fault(span, format!("on-poison is \"dead-letter\", \"park\" or \"stop\", not {other:?}"));
                OnPoison::DeadLetter
            }
        };
        let mut stores = Vec::new();
        for (store, wiring) in in_order(raw.stores) {
            self.name(store.span(), store.get_ref());
            let tables: Vec<TopicId> = wiring.table_of.iter().filter_map(|name| self.resolve(topology, name)).collect();
            let changelog = wiring.table_of.is_empty().then(|| {
                let name = format!("{name}-{}-changelog", store.get_ref());
                topology.topics.push(derived(name, Origin::Changelog, Cleanup::Compact, None, changelog_isr));
                topic_id(topology.topics.len() - 1)
            });
            let ttl_ms = wiring.ttl.as_ref().and_then(|text| self.duration(text));
            stores.push(StoreSpec { name: store.get_ref().clone(), tables, changelog, ttl_ms });
        }
        let retention = Some(letters_retention.unwrap_or(30 * 86_400_000));
        topology.topics.push(derived(
            format!("dead-letters.{name}"),
            Origin::DeadLetters,
            Cleanup::Delete,
            retention,
            letters_isr,
        ));
        let dead_letters = topic_id(topology.topics.len() - 1);
        if on_poison == OnPoison::Park {
            let name = format!("{name}-{}-changelog", crate::parking::STORE);
            topology.topics.push(derived(name, Origin::Changelog, Cleanup::Compact, None, changelog_isr));
            let changelog = Some(topic_id(topology.topics.len() - 1));
            stores.push(StoreSpec { name: crate::parking::STORE.into(), tables: Vec::new(), changelog, ttl_ms: None });
        }
        ProcessorSpec {
            name: name.to_owned(),
            inputs,
            outputs,
            globals,
            stores,
            on_poison,
            dead_letters,
            settings: raw.settings,
        }
    }

    fn sub_topology(&mut self, topology: &Topology, name: &str, members: &[Spanned<String>]) -> SubTopology {
        let mut processors: Vec<ProcessorId> = Vec::new();
        for member in members {
            match topology.processors.iter().position(|p| p.name == *member.get_ref()) {
                Some(at) => processors.push(ProcessorId(small(at))),
                None => self.fault(member.span(), format!("there is no processor {}", member.get_ref())),
            }
        }
        sub_topology_of(topology, name.to_owned(), processors)
    }

    fn resolve(&mut self, topology: &Topology, name: &Spanned<String>) -> Option<TopicId> {
        let found = topology.find_topic(name.get_ref());
        if found.is_none() {
            self.fault(name.span(), format!("there is no topic {}: name it under [topics]", name.get_ref()));
        }
        found
    }

    fn engine(&mut self, raw: &RawEngine) -> EngineSettings {
        let default = EngineSettings::default();
        let mut duration = |text: &Option<Spanned<String>>, default| {
            text.as_ref().and_then(|text| self.duration(text)).unwrap_or(default)
        };
        EngineSettings {
            hand_over: raw.hand_over.unwrap_or(default.hand_over),
            commit_records: raw.commit_records.unwrap_or(default.commit_records).max(1),
            commit_latency_ms: duration(&raw.commit_latency, default.commit_latency_ms),
            memtable_bytes: raw.memtable_mb.map_or(default.memtable_bytes, |mb| mb << 20),
            write_out_ms: duration(&raw.write_out, default.write_out_ms),
            dead_letters_per_minute_max: raw.dead_letters_per_minute_max.unwrap_or(default.dead_letters_per_minute_max),
            park_retry_ms: duration(&raw.park_retry, default.park_retry_ms),
            park_tries_max: raw.park_tries_max.unwrap_or(default.park_tries_max),
            standbys: raw.standbys.unwrap_or(default.standbys),
        }
    }

    /// Kafka's own rule for names: letters, digits, `.`, `_`, `-`, at most 249.
    fn name(&mut self, span: Range<usize>, name: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > 200 || name == "." || name == ".." || !name.chars().all(fits) {
            self.fault(span, format!("{name:?} is no name: use letters, digits, '.', '_' and '-', at most 200"));
        }
    }

    fn duration(&mut self, text: &Spanned<String>) -> Option<i64> {
        let parsed = milliseconds(text.get_ref());
        if parsed.is_none() {
            self.fault(
                text.span(),
                format!("{:?} is no duration: write \"250ms\", \"30s\", \"15m\", \"12h\" or \"7d\"", text.get_ref()),
            );
        }
        parsed
    }
}

/// Tables come sorted by name; the file's own order is the one people chose.
fn in_order<V>(table: BTreeMap<Spanned<String>, V>) -> Vec<(Spanned<String>, V)> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn milliseconds(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(factor)
}
