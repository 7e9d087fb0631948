//! Warm copies of the stores of partitions that others process: followed at a distance, so that a partition which moves
//! here restores its tail only. Owns no partition, processes nothing, and shares nothing with a stream thread but disks.
//!
//! A copy is a restore that does not end. Each look at the broker says how far each topic may be applied: a table of an
//! input to the group's committed position, because whoever takes the partition over processes the records from there on
//! and each must be folded once; outputs and changelogs to the end, of which the reader gives what is decided. Then the
//! copy catches up to there and waits for the next look.
//!
//! Promotion needs no word between the two: the stream thread that is given the partition opens the stores as ever, which
//! takes them from the copy ([`Storage::open_copy`]); what the copy had not written out yet is restored again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::io::{Bounds, BrokerError, Clock, Event, Storage, StorageError};
use crate::processor::{Failure, ProcessorDefinition};
use crate::record::{Offset, Record, SubTopologyId, TaskId, Timestamp, TopicPartition};
use crate::store::Store;
use crate::stream_thread::{About, Note, NoteLevel};
use crate::topology::Topology;

const RECORDS_PER_POLL: usize = 4_000;
/// Between two looks how far the topics may be applied.
const LOOK_EVERY_MS: i64 = 1_000;

/// What a standby asks of the broker; all reads are `read_committed`. Each call as in [`crate::Broker`].
#[allow(clippy::missing_errors_doc)]
pub trait Reader {
    /// [`crate::Broker::poll`]; gives [`Event::Followed`] only.
    fn poll(&mut self, wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError>;
    /// [`crate::Broker::committed`], of a group this reader is no member of.
    fn committed(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError>;
    /// [`crate::Broker::bounds`].
    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError>;
    /// [`crate::Broker::follow`].
    fn follow(&mut self, partition: TopicPartition, from: Offset) -> Result<(), BrokerError>;
    /// [`crate::Broker::unfollow`].
    fn unfollow(&mut self, partition: TopicPartition) -> Result<(), BrokerError>;
}

/// What a standby thread is made of.
pub struct StandbyParts<R> {
    /// The wiring, checked against the definitions.
    pub topology: Arc<Topology>,
    /// Every processor of the topology.
    pub definitions: Vec<ProcessorDefinition>,
    /// Door to the broker.
    pub reader: R,
    /// Door to the disk; the same as that of the process's stream threads.
    pub storage: Box<dyn Storage>,
    /// Door to the time.
    pub clock: Box<dyn Clock>,
    /// How many threads of this process share its memory budget, this one included.
    pub threads: usize,
}

/// See the module.
pub struct StandbyThread<R> {
    topology: Arc<Topology>,
    definitions: Vec<ProcessorDefinition>,
    reader: R,
    storage: Box<dyn Storage>,
    clock: Box<dyn Clock>,
    threads: usize,
    wanted: BTreeSet<(SubTopologyId, i32)>,
    copies: BTreeMap<(SubTopologyId, i32), Copy>,
    /// What is read now, and the next offset the reader gives.
    following: BTreeMap<TopicPartition, Offset>,
    /// The last trouble with the broker, so that it is told once.
    trouble: Option<String>,
    looked_at: Option<Timestamp>,
    written_out_at: Timestamp,
    applied: u64,
    notes: Vec<Note>,
}

/// The copy of one partition's stores.
struct Copy {
    stores: Vec<Copied>,
    /// It has been where the topics stood once; said once.
    caught_up: bool,
    records: u64,
}

/// One store, and how far each of its topics may be applied.
struct Copied {
    task: TaskId,
    /// Its place in the processor's definition.
    place: usize,
    store: Store,
    until: BTreeMap<TopicPartition, Offset>,
}

/// What a standby thread did since it was last asked, and how its copies are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandbyReport {
    /// For each task that is copied, how many offsets its stores lack of what they may have.
    pub lag: BTreeMap<TaskId, i64>,
    /// Records applied.
    pub applied: u64,
    /// Memory of states not yet written out, now.
    pub memtable_bytes: usize,
    /// What somebody should read.
    pub notes: Vec<Note>,
}

impl<R: Reader> StandbyThread<R> {
    /// A thread without copies.
    #[must_use]
    pub fn new(parts: StandbyParts<R>) -> Self {
        Self {
            written_out_at: parts.clock.now(),
            topology: parts.topology,
            definitions: parts.definitions,
            reader: parts.reader,
            storage: parts.storage,
            clock: parts.clock,
            threads: parts.threads.max(1),
            wanted: BTreeSet::new(),
            copies: BTreeMap::new(),
            following: BTreeMap::new(),
            trouble: None,
            looked_at: None,
            applied: 0,
            notes: Vec::new(),
        }
    }

    /// Keeps copies of these partitions, and of no others: those no longer wanted are written out and closed.
    pub fn keep(&mut self, wanted: BTreeSet<(SubTopologyId, i32)>) {
        let gone: Vec<_> = self.copies.keys().filter(|key| !wanted.contains(key)).copied().collect();
        for key in gone {
            if let Some(mut copy) = self.copies.remove(&key) {
                // One that a stream thread has taken cannot be written any more, and need not be.
                let _ = self.write_out(&mut copy);
                self.note(NoteLevel::Info, key, "the standby copy is no longer kept".into());
            }
        }
        if self.wanted != wanted {
            self.looked_at = None;
        }
        self.wanted = wanted;
    }

    /// One turn: looks, applies what came, writes out. Waits at most `wait` when nothing came. Trouble of the broker
    /// passes or goes on: a copy is only late then.
    pub fn turn(&mut self, wait: Duration) {
        let now = self.clock.now();
        if self.looked_at.is_none_or(|at| now - at >= LOOK_EVERY_MS) {
            self.looked_at = Some(now);
            self.drop_taken();
            self.open_wanted();
            match self.look() {
                Ok(()) => self.trouble = None,
                Err(error) => self.wait(&error),
            }
        }
        let mut events = Vec::new();
        let most = if self.memtable_bytes() > 2 * self.share() { 0 } else { RECORDS_PER_POLL };
        if let Err(error) = self.reader.poll(wait, most, &mut events) {
            self.wait(&error);
        }
        for event in events {
            if let Event::Followed { from, begin, records, next } = event {
                self.apply(from, begin, &records, next);
            }
        }
        self.settle_followed();
        let large = self.memtable_bytes() > self.share();
        if large || now - self.written_out_at >= self.topology.engine.write_out_ms {
            self.written_out_at = now;
            for key in self.copies.keys().copied().collect::<Vec<_>>() {
                let Some(mut copy) = self.copies.remove(&key) else { continue };
                match self.write_out(&mut copy) {
                    Ok(()) => drop(self.copies.insert(key, copy)),
                    Err(error) => self.given_up(key, &error.to_string()),
                }
            }
        }
    }

    /// Writes every copy out and closes it.
    pub fn close(&mut self) {
        self.keep(BTreeSet::new());
        self.storage.settle();
    }

    /// Takes what happened since the last call, for metrics and logs.
    pub fn take_report(&mut self) -> StandbyReport {
        let mut lag: BTreeMap<TaskId, i64> = BTreeMap::new();
        for copied in self.copies.values().flat_map(|copy| &copy.stores) {
            *lag.entry(copied.task).or_default() += copied.lag();
        }
        StandbyReport {
            lag,
            applied: std::mem::take(&mut self.applied),
            memtable_bytes: self.memtable_bytes(),
            notes: std::mem::take(&mut self.notes),
        }
    }

    fn note(&mut self, level: NoteLevel, key: (SubTopologyId, i32), what: String) {
        let name = &self.topology.sub_topology(key.0).name;
        self.notes.push(Note {
            level,
            text: format!("sub-topology {name} partition {}: {what}", key.1),
            about: About::partition(key.1),
        });
    }

    fn memtable_bytes(&self) -> usize {
        self.copies.values().flat_map(|copy| &copy.stores).map(|copied| copied.store.memtable_bytes()).sum()
    }

    fn share(&self) -> usize {
        self.topology.engine.memtable_bytes / self.threads
    }

    /// Lets go of copies whose stores a stream thread has taken.
    fn drop_taken(&mut self) {
        let check = |copy: &Copy| copy.stores.iter().find_map(|copied| copied.store.check_disk().err());
        let taken: Vec<_> = self.copies.iter().filter_map(|(key, copy)| Some((*key, check(copy)?))).collect();
        for (key, error) in taken {
            self.copies.remove(&key);
            self.given_up(key, &error.to_string());
        }
    }

    /// Opens the copies that are wanted and not there. One whose stores a stream thread has is tried again later.
    fn open_wanted(&mut self) {
        let missing: Vec<_> = self.wanted.iter().filter(|key| !self.copies.contains_key(key)).copied().collect();
        for key in missing {
            match self.open(key) {
                Ok(Some(copy)) => {
                    self.copies.insert(key, copy);
                    self.note(NoteLevel::Info, key, "a standby copy is kept".into());
                }
                Ok(None) => {}
                Err(error) => self.note(NoteLevel::Warn, key, format!("no standby copy can be kept: {error}")),
            }
        }
    }

    fn open(&mut self, key: (SubTopologyId, i32)) -> Result<Option<Copy>, StorageError> {
        let mut stores = Vec::new();
        for processor in &self.topology.sub_topology(key.0).processors {
            let spec = self.topology.processor(*processor);
            let task = TaskId { processor: *processor, partition: key.1 };
            let definition = self.definitions.iter().find(|definition| definition.name == spec.name);
            let Some(definition) = definition else { continue };
            for place in 0..spec.stores.len() {
                let opened = crate::task::open_store(&self.topology, definition, task, place, &mut |name| {
                    self.storage.open_copy(name)
                })?;
                let Some((store, rebuilt)) = opened else { return Ok(None) };
                let about = About { processor: Some(spec.name.clone()), ..About::partition(task.partition) };
                self.notes.extend(rebuilt.map(|text| Note { level: NoteLevel::Warn, text, about }));
                stores.push(Copied { task, place, store, until: BTreeMap::new() });
            }
        }
        Ok(Some(Copy { stores, caught_up: false, records: 0 }))
    }

    /// How far each topic may be applied now, and reading what is lacking.
    fn look(&mut self) -> Result<(), BrokerError> {
        let mut rebuilt = Vec::new();
        for ((sub_topology, partition), copy) in &mut self.copies {
            let mut inputs: BTreeSet<TopicPartition> = BTreeSet::new();
            let mut all: BTreeSet<TopicPartition> = BTreeSet::new();
            for copied in &copy.stores {
                let spec = self.topology.processor(copied.task.processor);
                let wiring = &spec.stores[copied.place];
                for topic in wiring.tables.iter().chain(&wiring.changelog) {
                    let from = TopicPartition { topic: *topic, partition: *partition };
                    all.insert(from);
                    if spec.inputs.contains(topic) {
                        inputs.insert(from);
                    }
                }
            }
            let (inputs, all): (Vec<_>, Vec<_>) = (inputs.into_iter().collect(), all.into_iter().collect());
            // Committed positions first, ends after, as when a partition is restored.
            let committed = self.reader.committed(*sub_topology, &inputs)?;
            let committed: BTreeMap<_, _> = inputs.into_iter().zip(committed).collect();
            let bounds: BTreeMap<_, _> = all.iter().copied().zip(self.reader.bounds(&all)?).collect();
            for copied in &mut copy.stores {
                let spec = self.topology.processor(copied.task.processor);
                let wiring = &spec.stores[copied.place];
                for topic in wiring.tables.iter().chain(&wiring.changelog) {
                    let from = TopicPartition { topic: *topic, partition: *partition };
                    let Bounds { start, end } = bounds[&from];
                    // Of an input never more than the group has processed; where it has processed nothing, nothing.
                    let until = if spec.inputs.contains(topic) { committed[&from].unwrap_or(start) } else { end };
                    // Made anew, set back, or gone on without it: as when a partition is restored, it is rebuilt.
                    if copied
                        .store
                        .position(from)
                        .is_some_and(|position| position > until || position < start.min(until))
                    {
                        rebuilt.push(copied.store.name().to_owned());
                        copied.store.clear().map_err(|error| BrokerError::Retry(error.to_string()))?;
                        copied.until.clear();
                    }
                    if copied.store.position(from).is_none() {
                        copied.store.set_position(from, start.min(until));
                    }
                    copied.until.insert(from, until);
                }
            }
        }
        self.notes.extend(rebuilt.into_iter().map(|store| Note {
            level: NoteLevel::Warn,
            text: format!("the standby copy {store} stands outside of its topics; it is rebuilt"),
            about: About::default(),
        }));
        let mut lacking: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        for copied in self.copies.values().flat_map(|copy| &copy.stores) {
            for from in copied.until.keys().filter(|from| copied.lacks(**from)) {
                let position = copied.store.position(*from).unwrap_or_default();
                lacking.entry(*from).and_modify(|lowest| *lowest = position.min(*lowest)).or_insert(position);
            }
        }
        for (from, lowest) in lacking {
            // Read from the lowest on, also again: a store that came later, or may have more now, stands before the rest.
            if self.following.get(&from).is_none_or(|next| *next > lowest) {
                self.reader.follow(from, lowest)?;
                self.following.insert(from, lowest);
            }
        }
        Ok(())
    }

    fn apply(&mut self, from: TopicPartition, begin: Offset, records: &[crate::record::InputRecord], next: Offset) {
        let name = self.topology.topic(from.topic).name.clone();
        let Some(reached) = self.following.get_mut(&from) else { return };
        *reached = next;
        let mut lost: Vec<((SubTopologyId, i32), String)> = Vec::new();
        for (key, copy) in self.copies.iter_mut().filter(|(key, _)| key.1 == from.partition) {
            for copied in copy.stores.iter_mut().filter(|copied| copied.until.contains_key(&from)) {
                let until = copied.until[&from];
                // A store that stands before this piece waits for the one that begins where it stands.
                if copied.store.position(from).is_none_or(|position| position < begin) {
                    continue;
                }
                let spec = self.topology.processor(copied.task.processor);
                let definition = self.definitions.iter().find(|definition| definition.name == spec.name);
                let of = definition.and_then(|definition| definition.stores.get(copied.place));
                let mut outcome = Ok(());
                for input in records.iter().filter(|input| input.offset < until) {
                    if copied.store.position(from).is_some_and(|position| input.offset < position) {
                        continue;
                    }
                    let record = Record::of(&name, from.partition, input);
                    outcome = crate::step::restore(&mut copied.store, of, spec, from.topic, &record);
                    if outcome.is_err() {
                        break;
                    }
                    copied.store.set_position(from, input.offset + 1);
                    copy.records += 1;
                    self.applied += 1;
                }
                match outcome {
                    Ok(()) => copied.store.set_position(from, next.min(until)),
                    // Its schema is being fetched: read again from here at the next look.
                    Err(Failure::NotYet(_)) => {}
                    Err(failure) => lost.push((*key, format!("{}: {failure}", self.topology.name_of(from)))),
                }
            }
        }
        for (key, why) in lost {
            if self.copies.remove(&key).is_some() {
                self.given_up(key, &why);
            }
        }
    }

    /// While it is wanted, it is opened again at a later look, unless a stream thread has the stores.
    fn given_up(&mut self, key: (SubTopologyId, i32), why: &str) {
        self.note(NoteLevel::Info, key, format!("the standby copy is given up: {why}"));
    }

    fn wait(&mut self, error: &BrokerError) {
        let text = format!("standby copies wait: {error}");
        if self.trouble.as_ref() != Some(&text) {
            self.notes.push(Note { level: NoteLevel::Info, text: text.clone(), about: About::default() });
            self.trouble = Some(text);
        }
    }

    /// Stops reading what nobody lacks, and says which copies have caught up for the first time.
    fn settle_followed(&mut self) {
        let stores = || self.copies.values().flat_map(|copy| &copy.stores);
        let idle = self.following.keys().filter(|from| !stores().any(|copied| copied.lacks(**from)));
        let idle: Vec<_> = idle.copied().collect();
        for from in idle {
            self.following.remove(&from);
            if let Err(error) = self.reader.unfollow(from) {
                self.wait(&error);
            }
        }
        let there = |copy: &Copy| {
            !copy.caught_up && copy.stores.iter().all(|copied| !copied.until.is_empty() && copied.lag() == 0)
        };
        let new: Vec<_> = self.copies.iter().filter(|(_, copy)| there(copy)).map(|(key, _)| *key).collect();
        for key in new {
            let Some(mut copy) = self.copies.remove(&key) else { continue };
            copy.caught_up = true;
            if let Err(error) = self.write_out(&mut copy) {
                self.given_up(key, &error.to_string());
                continue;
            }
            self.storage.settle();
            self.note(NoteLevel::Info, key, format!("the standby copy has caught up, {} records", copy.records));
            self.copies.insert(key, copy);
        }
    }

    fn write_out(&self, copy: &mut Copy) -> Result<(), StorageError> {
        let now = self.clock.now();
        for copied in &mut copy.stores {
            copied.store.write_out(now, &|at| self.topology.name_of(at), &*self.storage)?;
        }
        Ok(())
    }
}

impl Copied {
    fn lacks(&self, from: TopicPartition) -> bool {
        let position = self.store.position(from).unwrap_or_default();
        self.until.get(&from).is_some_and(|until| position < *until)
    }

    fn lag(&self) -> i64 {
        let lacks = |(from, until): (&TopicPartition, &Offset)| until - self.store.position(*from).unwrap_or_default();
        self.until.iter().map(lacks).filter(|lag| *lag > 0).sum()
    }
}
