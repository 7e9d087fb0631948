//! What one record, deadline or answer may do: read tables, emit records, write own stores. All of it can be taken
//! back until the engine says the step stands; nothing here reaches the broker.

use crate::global::GlobalTable;
use crate::partitioner::partition_of;
use crate::planted;
use crate::processor::{Change, Failure, ProcessorDefinition};
use crate::record::{Headers, Record, Timestamp, TopicId, TopicPartition};
use crate::store::{Entry, Key, Store, Value};
use crate::topology::{ProcessorSpec, Topology};

/// What a processor may do while it handles one record, deadline or answer.
pub struct Step<'a> {
    pub(crate) now: Timestamp,
    pub(crate) partition: i32,
    pub(crate) topology: &'a Topology,
    pub(crate) spec: &'a ProcessorSpec,
    pub(crate) definition: &'a ProcessorDefinition,
    pub(crate) stores: &'a mut [Store],
    pub(crate) globals: &'a [GlobalTable],
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) undo: &'a mut Vec<Undo>,
    pub(crate) counts: &'a mut Vec<(&'static str, &'static str)>,
}

/// A write that may have to be taken back.
pub(crate) struct Undo {
    pub(crate) store: usize,
    pub(crate) key: Key,
    pub(crate) before: Option<Entry>,
}

/// Records on their way out: one buffer for the bytes of all, so that a record costs no allocation.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<Outbound>,
}

pub(crate) struct Outbound {
    pub(crate) to: TopicPartition,
    /// What happened. A change of a store is no event: none.
    pub(crate) kind: Option<&'static str>,
    pub(crate) key: std::ops::Range<usize>,
    pub(crate) value: Option<std::ops::Range<usize>>,
    pub(crate) timestamp: Timestamp,
    /// Headers of its own instead of the usual ones: a dead letter keeps those it came with.
    pub(crate) headers: Option<Headers>,
}

impl Outbox {
    pub(crate) fn mark(&self) -> (usize, usize) {
        (self.bytes.len(), self.records.len())
    }

    pub(crate) fn truncate(&mut self, (bytes, records): (usize, usize)) {
        self.bytes.truncate(bytes);
        self.records.truncate(records);
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

impl Step<'_> {
    /// The time of this step, milliseconds since 1970 UTC.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The partition of this task.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// The state of a key, this transaction's writes included.
    ///
    /// # Errors
    /// [`Failure::Storage`].
    pub fn get(&mut self, store: usize, key: &[u8]) -> Result<Option<Value>, Failure> {
        self.stores[store].get(key).map_err(|error| Failure::Storage(error.to_string()))
    }

    /// Sets a state in a store with a changelog of its own.
    ///
    /// # Errors
    /// [`Failure::Fatal`] when the store is a table of topics: those change only by their records.
    pub fn put(&mut self, store: usize, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        self.log(store, key, Some(value))
    }

    /// Deletes a state in a store with a changelog of its own.
    ///
    /// # Errors
    /// As [`Step::put`].
    pub fn delete(&mut self, store: usize, key: &[u8]) -> Result<(), Failure> {
        self.log(store, key, None)
    }

    /// Writes a record to one of the processor's outputs. `kind` is what happened, for the `ce_type` header. Where the
    /// topic is one this processor keeps as a table, the table holds the new state at once.
    ///
    /// # Errors
    /// [`Failure::Fatal`] when the topic is not among the processor's outputs or a table would change on another
    /// partition; what the table's fold gives.
    pub fn emit(
        &mut self,
        topic: &'static str,
        key: &[u8],
        kind: &'static str,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Failure> {
        let Some(id) = self.spec.outputs.iter().copied().find(|id| *self.topology.topic(*id).name == *topic) else {
            return Err(Failure::fatal(format!(
                "{topic} is not among the outputs of {} in the topology",
                self.spec.name
            )));
        };
        let to = TopicPartition { topic: id, partition: partition_of(key, self.topology.topic(id).partitions) };
        let key_at = self.outbox.append(key);
        let start = self.outbox.bytes.len();
        write(&mut self.outbox.bytes);
        let value_at = start..self.outbox.bytes.len();
        for store in 0..self.definition.stores.len() {
            for table in &self.definition.stores[store].tables {
                if table.topic != topic {
                    continue;
                }
                if to.partition != self.partition {
                    return Err(Failure::fatal(format!(
                        "{topic} is a table of {} on partition {}, but this key belongs to partition {}",
                        self.spec.name, self.partition, to.partition
                    )));
                }
                let record = Record {
                    topic,
                    partition: to.partition,
                    offset: -1,
                    timestamp: self.now,
                    key,
                    value: Some(&self.outbox.bytes[value_at.clone()]),
                    headers: &[],
                };
                let (key, before) = match change(&self.stores[store], &table.fold, &record)? {
                    Some(entry) => self.stores[store].write(key, entry),
                    None => continue,
                };
                self.undo.push(Undo { store, key, before });
            }
        }
        self.outbox.records.push(Outbound {
            to,
            kind: Some(kind),
            key: key_at,
            value: Some(value_at),
            timestamp: self.now,
            headers: None,
        });
        Ok(())
    }

    /// The value of a key in a global table, by its place in [`ProcessorDefinition::globals`].
    #[must_use]
    pub fn global(&self, global: usize, key: &[u8]) -> Option<&Value> {
        self.globals[global].get(key)
    }

    /// Counts something that happened; it counts once the transaction has committed. `label` comes from a small fixed
    /// set: never an order, a customer or a SKU.
    pub fn count(&mut self, metric: &'static str, label: &'static str) {
        self.counts.push((metric, label));
    }

    fn log(&mut self, store: usize, key: &[u8], value: Option<&[u8]>) -> Result<(), Failure> {
        let spec = self.spec;
        if spec.stores[store].changelog.is_none() {
            return Err(Failure::fatal(format!(
                "store {} of {} is a table of topics and changes only by their records",
                spec.stores[store].name, spec.name
            )));
        }
        log(spec, self.stores, self.outbox, self.undo, self.partition, self.now, store, key, value);
        Ok(())
    }
}

/// Changes a state of a store with a changelog of its own, and writes the change to that changelog.
#[allow(clippy::too_many_arguments)]
pub(crate) fn log(
    spec: &ProcessorSpec,
    stores: &mut [Store],
    outbox: &mut Outbox,
    undo: &mut Vec<Undo>,
    partition: i32,
    now: Timestamp,
    store: usize,
    key: &[u8],
    value: Option<&[u8]>,
) {
    let changelog = spec.stores[store].changelog.expect("only stores with a changelog of their own are logged");
    let entry = Entry { value: value.map(Value::from), at: now };
    let (owned, before) = stores[store].write(key, entry);
    undo.push(Undo { store, key: owned, before });
    let to = TopicPartition { topic: changelog, partition };
    let key = outbox.append(key);
    let value = value.map(|value| outbox.append(value));
    outbox.records.push(Outbound { to, kind: None, key, value, timestamp: now, headers: None });
}

/// What a record makes of the state of its key; `None` when nothing changes.
pub(crate) fn change(
    store: &Store,
    fold: &crate::processor::Fold,
    record: &Record<'_>,
) -> Result<Option<Entry>, Failure> {
    let before = store.get(record.key).map_err(|error| Failure::Storage(error.to_string()))?;
    Ok(match fold(record, before.as_deref())? {
        Change::Keep => None,
        Change::Put(value) => Some(Entry { value: Some(value.into()), at: record.timestamp }),
        Change::Delete => Some(Entry { value: None, at: record.timestamp }),
    })
}

/// Applies a committed record to a store that catches up with its topics: through the table's fold, or as it is where it
/// is of the store's own changelog.
///
/// # Errors
/// [`Failure::NotYet`] or [`Failure::Storage`]; then nothing changed. A record that is poison to the table is none of it:
/// it went to the dead letters when it was processed.
pub(crate) fn restore(
    store: &mut Store,
    definition: Option<&crate::processor::StoreDefinition>,
    spec: &ProcessorSpec,
    topic: TopicId,
    record: &Record<'_>,
) -> Result<(), Failure> {
    let table = definition.and_then(|definition| definition.tables.iter().find(|table| table.topic == record.topic));
    // Its own writer did not put it there again: for whom it is the output of, it says nothing new.
    let passed_over = table.is_some() && crate::dead_letters::is_replayed(record) && !spec.inputs.contains(&topic);
    let missed = planted::is(planted::Defect::TombstoneMissed) && record.value.is_none();
    let entry = match table {
        _ if passed_over => None,
        None if missed => None,
        None => Some(Entry { value: record.value.map(Into::into), at: record.timestamp }),
        Some(table) => match change(store, &table.fold, record) {
            Err(Failure::Poison(_)) => None,
            other => other?,
        },
    };
    if let Some(entry) = entry {
        store.restore(record.key, entry);
    }
    Ok(())
}
