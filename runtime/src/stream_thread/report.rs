//! What a stream thread did since it was last asked, in plain numbers. Never where they go.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{Offset, ProcessorId, Record, SubTopologyId, TaskId, Timestamp, TopicPartition};
use crate::task::TaskState;
use crate::topology::Topology;

/// Most ages a processor keeps between two reports.
pub const AGES_MAX: usize = 20_000;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records handled, by task.
    pub processed: BTreeMap<TaskId, u64>,
    /// How old records were when they were handled, milliseconds, by processor: at most [`AGES_MAX`] each.
    pub ages_ms: BTreeMap<ProcessorId, Vec<u32>>,
    /// Time of the newest record handled, by task: what the task's lag in time counts from.
    pub newest: BTreeMap<TaskId, Timestamp>,
    /// Records that restoring tasks still lack, by task, now.
    pub restore_remaining: BTreeMap<TaskId, i64>,
    /// Records given to the dead letters, by processor.
    pub dead_letters: BTreeMap<ProcessorId, u64>,
    /// Records parked, by processor.
    pub parked: BTreeMap<ProcessorId, u64>,
    /// Deadlines fired, by processor.
    pub deadlines: BTreeMap<ProcessorId, u64>,
    /// Calls started, by processor.
    pub calls: BTreeMap<ProcessorId, u64>,
    /// Calls answered, by processor.
    pub answers: BTreeMap<ProcessorId, u64>,
    /// Transactions committed.
    pub commits: u64,
    /// Records those held.
    pub committed_records: u64,
    /// How long each took from its first record to its commit, milliseconds.
    pub transaction_ms: Vec<i64>,
    /// Records that tasks of this thread passed on to each other in memory.
    pub handed_over: u64,
    /// Transactions aborted because somebody else wrote between two records of this thread.
    pub strangers: u64,
    /// Transactions aborted.
    pub aborts: u64,
    /// Producers replaced because the outcome of a commit was unknown.
    pub recreated: u64,
    /// Moves of partitions in their life cycle, from where to where.
    pub moves: BTreeMap<(TaskState, TaskState), u64>,
    /// Records applied while restoring.
    pub restored: u64,
    /// Stores emptied and rebuilt from their topics.
    pub rebuilt: u64,
    /// What processors counted, by metric and label.
    pub counts: BTreeMap<(&'static str, &'static str), u64>,
    /// Calls that wait for their answer, now.
    pub calls_in_flight: usize,
    /// States that wait, now: by processor and by what they wait in, how many and since when the oldest of them.
    pub waiting: BTreeMap<(ProcessorId, &'static str), (usize, Timestamp)>,
    /// Inputs whose records tasks of this thread pass on in memory, now: the broker's reader stands still, and how far it is
    /// behind says nothing.
    pub in_memory: BTreeSet<(SubTopologyId, TopicPartition)>,
    /// How far each global table has read, now: the next offset, by processor and partition of its topic.
    pub globals: BTreeMap<(ProcessorId, TopicPartition), Offset>,
    /// Memory of states not yet written out, now.
    pub memtable_bytes: usize,
    /// What somebody should read: one line each, for the log.
    pub notes: Vec<Note>,
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub level: NoteLevel,
    /// What happened, with its place.
    pub text: String,
    /// The same place in parts, for whoever searches.
    pub about: About,
}

/// What a note is about, as far as it is about one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// A processor's name.
    pub processor: Option<String>,
    /// A topic's name.
    pub topic: Option<String>,
    /// A partition, of the topic or of a sub-topology.
    pub partition: Option<i32>,
    /// A record of it.
    pub offset: Option<Offset>,
    /// The record's key, as text.
    pub key: Option<String>,
}

/// How much a note matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteLevel {
    /// It is good to know.
    Info,
    /// Somebody should look when there is time.
    Warn,
}

impl About {
    /// A partition of a sub-topology.
    pub(crate) fn partition(partition: i32) -> Self {
        Self { partition: Some(partition), ..Self::default() }
    }

    /// A partition of a topic.
    pub(super) fn topic(topology: &Topology, at: TopicPartition) -> Self {
        let topic = Some(topology.topic(at.topic).name.to_string());
        Self { topic, partition: Some(at.partition), ..Self::default() }
    }

    /// A record that a processor reads.
    pub(super) fn record(processor: &str, record: &Record<'_>) -> Self {
        Self {
            processor: Some(processor.to_owned()),
            topic: Some(record.topic.to_owned()),
            partition: Some(record.partition),
            offset: Some(record.offset),
            key: Some(String::from_utf8_lossy(record.key).into_owned()),
        }
    }
}

impl Report {
    pub(super) fn moved(&mut self, moved: (TaskState, TaskState)) {
        *self.moves.entry(moved).or_default() += 1;
    }

    pub(super) fn info(&mut self, about: About, text: String) {
        self.notes.push(Note { level: NoteLevel::Info, text, about });
    }

    pub(super) fn warn(&mut self, about: About, text: String) {
        self.notes.push(Note { level: NoteLevel::Warn, text, about });
    }
}
