//! The checked topology: topics, processors, stores, sub-topologies and numbers, each named once. Owns what is wired to
//! what; never conditions, and never what a processor decides.

mod check;
mod draw;
mod parse;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use check::{Fault, check_definitions};
pub use parse::parse;

use crate::record::{ProcessorId, SubTopologyId, TopicId, TopicPartition};

/// Everything `topology.toml` says, resolved and checked.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Prefix of consumer groups and transactional ids.
    pub application: String,
    /// Every topic: those of the file, then the dead letters and changelogs that follow from it.
    pub topics: Vec<Topic>,
    /// Every processor, in the file's order.
    pub processors: Vec<ProcessorSpec>,
    /// Every sub-topology, in the file's order.
    pub sub_topologies: Vec<SubTopology>,
    /// The engine's numbers.
    pub engine: EngineSettings,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// How many partitions it has, for ever.
    pub partitions: i32,
    /// What the broker does with old records.
    pub cleanup: Cleanup,
    /// How long records are kept, milliseconds; `None` for compacted topics.
    pub retention_ms: Option<i64>,
    /// How long every record of a compacted topic is kept at least, milliseconds.
    pub compaction_lag_ms: Option<i64>,
    /// How many replicas must have a record before it is acknowledged; `None` for what the number of replicas asks for.
    pub min_in_sync_replicas: Option<i32>,
    /// The record's schema: a file name in `schemas/avro` without its ending. `None` for bytes.
    pub schema: Option<String>,
    /// Whether people read it, so that no processor needs to.
    pub sink: bool,
    /// Who made it part of the topology.
    pub origin: Origin,
}

/// What the broker does with old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Deletes them after the retention.
    Delete,
    /// Keeps the newest of each key.
    Compact,
}

impl Cleanup {
    /// The value of Kafka's `cleanup.policy`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Compact => "compact",
        }
    }
}

/// Who made a topic part of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file names it.
    Named,
    /// It is the dead-letter topic of a processor.
    DeadLetters,
    /// It is the changelog of a store.
    Changelog,
    /// It says which process owns which task.
    TaskOwners,
    /// It says which processors form which sub-topology.
    Grouping,
}

/// A processor's wiring and numbers.
#[derive(Clone, Debug)]
pub struct ProcessorSpec {
    /// Its name.
    pub name: String,
    /// What it reads, co-partitioned; the first is its leading input.
    pub inputs: Vec<TopicId>,
    /// What it may write.
    pub outputs: Vec<TopicId>,
    /// What it reads in full, every partition.
    pub globals: Vec<TopicId>,
    /// Its stores, in the order of its definition once checked against it.
    pub stores: Vec<StoreSpec>,
    /// What becomes of a poison record.
    pub on_poison: OnPoison,
    /// Where its poison records go.
    pub dead_letters: TopicId,
    /// Its numbers.
    pub settings: BTreeMap<String, i64>,
}

/// A store's wiring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSpec {
    /// Its name.
    pub name: String,
    /// The topics it is a table of.
    pub tables: Vec<TopicId>,
    /// Its own changelog, where it is a table of none.
    pub changelog: Option<TopicId>,
    /// How long a state is kept after its last change, milliseconds.
    pub ttl_ms: Option<i64>,
}

/// What becomes of a poison record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPoison {
    /// It goes to the dead-letter topic, in the same transaction.
    DeadLetter,
    /// It is parked, and later records of its key behind it, in order; others flow.
    Park,
    /// The process stops.
    Stop,
}

/// Processors that are assigned together: one consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubTopology {
    /// Its name.
    pub name: String,
    /// Its processors.
    pub processors: Vec<ProcessorId>,
    /// Every input of them once; the first is the leading input, which the group subscribes to.
    pub inputs: Vec<TopicId>,
    /// How many partitions each of its inputs has.
    pub partitions: i32,
}

/// The engine's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    /// Whether records between tasks of one stream thread are passed on in memory.
    pub hand_over: bool,
    /// A transaction is committed when it holds this many records.
    pub commit_records: usize,
    /// A transaction is committed when it is this old, milliseconds.
    pub commit_latency_ms: i64,
    /// The memtables of a process are written out when they hold this many bytes.
    pub memtable_bytes: usize,
    /// The memtables are written out at least this often, milliseconds.
    pub write_out_ms: i64,
    /// A processor that dead-letters more than this many records in a minute stops.
    pub dead_letters_per_minute_max: u64,
    /// First pause before a parked record is tried again, milliseconds; doubles with every try.
    pub park_retry_ms: i64,
    /// After this many tries a parked record is dead-lettered.
    pub park_tries_max: u32,
    /// How many other processes keep a warm copy of a partition's stores.
    pub standbys: usize,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            hand_over: true,
            commit_records: 30_000,
            commit_latency_ms: 100,
            memtable_bytes: 256 << 20,
            write_out_ms: 10_000,
            dead_letters_per_minute_max: 1_000,
            park_retry_ms: 1_000,
            park_tries_max: 8,
            standbys: 0,
        }
    }
}

/// How processors are put together into sub-topologies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// As the file says.
    AsNamed,
    /// Each processor is a sub-topology of its own.
    OnePerProcessor,
}

impl Topology {
    /// A topic by id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> &Topic {
        &self.topics[usize::from(id.0)]
    }

    /// A topic by name.
    #[must_use]
    pub fn find_topic(&self, name: &str) -> Option<TopicId> {
        self.topics.iter().position(|topic| *topic.name == *name).map(topic_id)
    }

    /// A processor by id.
    #[must_use]
    pub fn processor(&self, id: ProcessorId) -> &ProcessorSpec {
        &self.processors[usize::from(id.0)]
    }

    /// A processor by name.
    #[must_use]
    pub fn find_processor(&self, name: &str) -> Option<ProcessorId> {
        self.processors.iter().position(|p| p.name == name).map(|at| ProcessorId(small(at)))
    }

    /// A sub-topology by id.
    #[must_use]
    pub fn sub_topology(&self, id: SubTopologyId) -> &SubTopology {
        &self.sub_topologies[usize::from(id.0)]
    }

    /// A sub-topology by its own name or by that of a processor in it.
    #[must_use]
    pub fn find_sub_topology(&self, name: &str) -> Option<SubTopologyId> {
        let named = self.sub_topologies.iter().position(|sub| sub.name == name);
        let holding = || {
            let processor = self.find_processor(name)?;
            self.sub_topologies.iter().position(|sub| sub.processors.contains(&processor))
        };
        named.or_else(holding).map(|at| SubTopologyId(small(at)))
    }

    /// Every sub-topology's id.
    pub fn sub_topology_ids(&self) -> impl Iterator<Item = SubTopologyId> {
        (0..self.sub_topologies.len()).map(|at| SubTopologyId(small(at)))
    }

    /// Name of the compacted topic on which processes announce the tasks they own.
    #[must_use]
    pub fn task_owners(&self) -> String {
        format!("{}.task-owners", self.application)
    }

    /// Name of the compacted topic that says how processors are grouped into sub-topologies.
    #[must_use]
    pub fn grouping_topic(&self) -> String {
        format!("{}.grouping", self.application)
    }

    /// Name of the consumer group of a sub-topology.
    #[must_use]
    pub fn group(&self, id: SubTopologyId) -> String {
        format!("{}.{}", self.application, self.sub_topology(id).name)
    }

    /// The same topology with its processors put together otherwise.
    #[must_use]
    pub fn regrouped(mut self, grouping: Grouping) -> Self {
        if grouping == Grouping::OnePerProcessor {
            self.sub_topologies = (0..self.processors.len())
                .map(|at| sub_topology_of(&self, self.processors[at].name.clone(), vec![ProcessorId(small(at))]))
                .collect();
        }
        self
    }

    /// `topic-partition`, for messages and for the disk.
    #[must_use]
    pub fn name_of(&self, at: TopicPartition) -> String {
        format!("{}-{}", self.topic(at.topic).name, at.partition)
    }

    /// The reverse of [`Topology::name_of`].
    #[must_use]
    pub fn find_partition(&self, name: &str) -> Option<TopicPartition> {
        let (topic, partition) = name.rsplit_once('-')?;
        Some(TopicPartition { topic: self.find_topic(topic)?, partition: partition.parse().ok()? })
    }
}

fn sub_topology_of(topology: &Topology, name: String, processors: Vec<ProcessorId>) -> SubTopology {
    let mut inputs: Vec<TopicId> = Vec::new();
    for input in processors.iter().flat_map(|id| &topology.processor(*id).inputs) {
        if !inputs.contains(input) {
            inputs.push(*input);
        }
    }
    let partitions = inputs.first().map_or(0, |leading| topology.topic(*leading).partitions);
    SubTopology { name, processors, inputs, partitions }
}

pub(crate) fn topic_id(at: usize) -> TopicId {
    TopicId(small(at))
}

fn small(at: usize) -> u16 {
    u16::try_from(at).expect("the parser refuses more than 1,000 topics or processors")
}
