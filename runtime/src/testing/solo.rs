//! One processor on one partition, without an engine: real steps, real tables, no broker.

use std::sync::Arc;

use super::doors::MemoryDisk;
use crate::global::GlobalTable;
use crate::processor::{Answered, CallRequest, Due, Failure, Outcome, Processor, ProcessorDefinition, TaskContext};
use crate::record::{Record, Timestamp};
use crate::step::{Outbox, Step, Undo};
use crate::store::{Entry, Store, Value};
use crate::topology::topic_id;
use crate::topology::{Cleanup, EngineSettings, OnPoison, Origin, ProcessorSpec, StoreSpec, Topic, Topology};

/// A record a processor emitted, or a change of a store with a changelog of its own (kind `changelog`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Where to.
    pub topic: String,
    /// Its key.
    pub key: Vec<u8>,
    /// What happened, as given to [`Step::emit`].
    pub kind: String,
    /// Its value; empty for a tombstone.
    pub value: Vec<u8>,
}

/// A record that stood: topic, key, value, time, offset.
type Past = (String, Vec<u8>, Option<Vec<u8>>, Timestamp, i64);

/// See the module.
pub struct Solo {
    definition: ProcessorDefinition,
    context: TaskContext,
    topology: Topology,
    processor: Box<dyn Processor>,
    stores: Vec<Store>,
    globals: Vec<GlobalTable>,
    now: Timestamp,
    offset: i64,
    emitted: Vec<Emitted>,
    /// Everything a rebuilt store would read: inputs that stood and everything emitted.
    history: Vec<Past>,
}

impl Solo {
    /// A fresh task. Topics are taken from the context's partition counts; every topic is input and output alike.
    #[must_use]
    pub fn new(definition: ProcessorDefinition, context: TaskContext) -> Self {
        let topics: Vec<Topic> = context
            .partitions
            .iter()
            .map(|(name, partitions)| Topic {
                name: Arc::from(name.as_str()),
                partitions: *partitions,
                cleanup: Cleanup::Delete,
                retention_ms: None,
                compaction_lag_ms: None,
                min_in_sync_replicas: None,
                schema: None,
                sink: false,
                origin: Origin::Named,
            })
            .collect();
        let mut topology = Topology {
            application: "solo".into(),
            topics,
            processors: Vec::new(),
            sub_topologies: Vec::new(),
            engine: EngineSettings::default(),
        };
        let all: Vec<_> = (0..topology.topics.len()).map(topic_id).collect();
        let mut stores = Vec::new();
        for store in &definition.stores {
            let tables: Vec<_> = store.tables.iter().filter_map(|table| topology.find_topic(table.topic)).collect();
            assert_eq!(tables.len(), store.tables.len(), "the context gives no partitions for a table's topic");
            let changelog = store.tables.is_empty().then(|| {
                let mut topic = topology.topics.first().expect("a context names topics").clone();
                topic.name = Arc::from(format!("{}-{}-changelog", definition.name, store.name));
                topology.topics.push(topic);
                topic_id(topology.topics.len() - 1)
            });
            stores.push(StoreSpec { name: store.name.into(), tables, changelog, ttl_ms: None });
        }
        topology.processors.push(ProcessorSpec {
            name: definition.name.into(),
            inputs: all.clone(),
            outputs: all.clone(),
            globals: Vec::new(),
            stores,
            on_poison: OnPoison::DeadLetter,
            dead_letters: all[0],
            settings: context.settings.clone(),
        });
        let mut solo = Self {
            processor: (definition.build)(&context),
            globals: definition.globals.iter().map(|_| GlobalTable::default()).collect(),
            stores: Vec::new(),
            definition,
            context,
            topology,
            now: 0,
            offset: 0,
            emitted: Vec::new(),
            history: Vec::new(),
        };
        solo.stores = solo.empty_stores();
        solo
    }

    fn empty_stores(&self) -> Vec<Store> {
        let open = |definition: &crate::StoreDefinition| {
            let disk = Arc::new(MemoryDisk::default());
            Store::open(definition.name.into(), disk, definition, None, &|_| None).expect("an empty disk opens")
        };
        self.definition.stores.iter().map(open).collect()
    }

    /// Sets the clock.
    pub fn at(&mut self, now: Timestamp) {
        self.now = now;
    }

    /// Gives the processor a record.
    ///
    /// # Errors
    /// What the processor gives; then nothing was done.
    pub fn record(&mut self, topic: &str, key: &[u8], value: &[u8]) -> Outcome {
        self.raw(topic, key, Some(value))
    }

    /// Gives the processor a record that may be a tombstone.
    ///
    /// # Errors
    /// As [`Solo::record`].
    pub fn raw(&mut self, topic: &str, key: &[u8], value: Option<&[u8]>) -> Outcome {
        let topic = topic.to_owned();
        let record = Record {
            topic: &topic,
            partition: self.context.partition,
            offset: self.offset,
            timestamp: self.now,
            key,
            value,
            headers: &[],
        };
        self.offset += 1;
        self.step(Some(&record), |processor, step| processor.process(&record, step))?;
        self.history.push((topic.clone(), key.to_vec(), value.map(<[u8]>::to_vec), self.now, record.offset));
        Ok(())
    }

    /// The deadlines of the current states, earliest first: store, key, time.
    #[must_use]
    pub fn due(&self) -> Vec<(usize, Vec<u8>, Timestamp)> {
        let mut due: Vec<_> = (0..self.stores.len())
            .flat_map(|at| {
                self.stores[at].due(Timestamp::MAX, usize::MAX).into_iter().map(move |(t, k)| (at, k.to_vec(), t))
            })
            .collect();
        due.sort_by_key(|(_, _, at)| *at);
        due
    }

    /// Lets the deadline of a state pass.
    ///
    /// # Errors
    /// As [`Solo::record`].
    pub fn fire(&mut self, store: usize, key: &[u8]) -> Outcome {
        let deadline = self.due().into_iter().find(|(at, k, _)| *at == store && k == key).map(|(_, _, at)| at);
        let Some(deadline) = deadline else {
            return Err(Failure::fatal("this state has no deadline"));
        };
        self.step(None, |processor, step| processor.on_deadline(&Due { store, key, deadline }, step))
    }

    /// The calls that the current states have open.
    #[must_use]
    pub fn calls(&self) -> Vec<(Vec<u8>, CallRequest)> {
        self.stores.iter().flat_map(|s| s.open_calls().map(|(key, call)| (key.to_vec(), call.clone()))).collect()
    }

    /// Answers a call; one that is not open is passed over, as the engine does.
    ///
    /// # Errors
    /// As [`Solo::record`].
    pub fn answer(&mut self, store: usize, key: &[u8], id: &str, response: &[u8]) -> Outcome {
        let open = self.stores[store].open_calls().any(|(k, call)| **k == *key && call.id == id);
        if !open {
            return Ok(());
        }
        self.step(None, |processor, step| processor.on_answer(&Answered { store, key, id, response }, step))
    }

    /// What was emitted since the last call.
    pub fn emitted(&mut self) -> Vec<Emitted> {
        std::mem::take(&mut self.emitted)
    }

    /// Sets an entry of a global table.
    pub fn global(&mut self, global: usize, key: &[u8], value: &[u8]) {
        let definition = &self.definition.globals[global].table;
        let record = Record {
            topic: definition.topic,
            partition: 0,
            offset: self.offset,
            timestamp: self.now,
            key,
            value: Some(value),
            headers: &[],
        };
        self.offset += 1;
        self.globals[global].apply(&definition.fold, &record).expect("a test gives well-formed global records");
    }

    /// A committed state.
    #[must_use]
    pub fn get(&self, store: usize, key: &[u8]) -> Option<Value> {
        self.stores[store].get_committed(key).expect("memory can be read")
    }

    /// Starts anew: stores are rebuilt from the topics, as after the loss of a disk.
    pub fn restart(&mut self) {
        self.stores = self.empty_stores();
        self.processor = (self.definition.build)(&self.context);
        for (topic, key, value, at, offset) in &self.history {
            let record = Record {
                topic,
                partition: self.context.partition,
                offset: *offset,
                timestamp: *at,
                key,
                value: value.as_deref(),
                headers: &[],
            };
            for (place, definition) in self.definition.stores.iter().enumerate() {
                let store = &mut self.stores[place];
                let entry = match definition.tables.iter().find(|table| table.topic == *topic) {
                    Some(table) => crate::step::change(store, &table.fold, &record).ok().flatten(),
                    None if *topic == format!("{}-{}-changelog", self.definition.name, definition.name) => {
                        Some(Entry { value: record.value.map(Into::into), at: *at })
                    }
                    None => None,
                };
                if let Some(entry) = entry {
                    store.restore(key, entry);
                }
            }
        }
    }

    fn step(
        &mut self,
        record: Option<&Record<'_>>,
        act: impl FnOnce(&mut dyn Processor, &mut Step<'_>) -> Outcome,
    ) -> Outcome {
        let mut outbox = Outbox::default();
        let mut undo: Vec<Undo> = Vec::new();
        let mut counts = Vec::new();
        let outcome = self.attempt(record, act, &mut outbox, &mut undo, &mut counts);
        if outcome.is_err() {
            for store in &mut self.stores {
                store.drop_overlay();
            }
            return outcome;
        }
        for store in &mut self.stores {
            store.commit_overlay(|_, _| {});
        }
        for out in &outbox.records {
            let topic = self.topology.topic(out.to.topic).name.to_string();
            let key = outbox.bytes[out.key.clone()].to_vec();
            let value = out.value.clone().map(|range| outbox.bytes[range].to_vec());
            self.history.push((topic.clone(), key.clone(), value.clone(), out.timestamp, -1));
            self.emitted.push(Emitted {
                topic,
                key,
                kind: out.kind.unwrap_or("changelog").into(),
                value: value.unwrap_or_default(),
            });
        }
        Ok(())
    }

    fn attempt(
        &mut self,
        record: Option<&Record<'_>>,
        act: impl FnOnce(&mut dyn Processor, &mut Step<'_>) -> Outcome,
        outbox: &mut Outbox,
        undo: &mut Vec<Undo>,
        counts: &mut Vec<(&'static str, &'static str)>,
    ) -> Outcome {
        if let Some(record) = record {
            for (place, definition) in self.definition.stores.iter().enumerate() {
                for table in definition.tables.iter().filter(|table| table.topic == record.topic) {
                    if let Some(entry) = crate::step::change(&self.stores[place], &table.fold, record)? {
                        self.stores[place].write(record.key, entry);
                    }
                }
            }
        }
        let mut step = Step {
            now: self.now,
            partition: self.context.partition,
            topology: &self.topology,
            spec: &self.topology.processors[0],
            definition: &self.definition,
            stores: &mut self.stores,
            globals: &self.globals,
            outbox,
            undo,
            counts,
        };
        act(&mut *self.processor, &mut step)
    }
}
