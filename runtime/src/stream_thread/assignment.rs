//! Partitions coming and going: opening tasks, restoring their stores, giving them up. Never processes a record.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::report::About;
use super::{Followed, NOT_YET_PAUSE_MS, STILL_WAITS_MS, StreamThread, Trouble};
use crate::global::GlobalTable;
use crate::io::{Broker, BrokerError, Call, Flow};
use crate::processor::{Failure, TaskContext};
use crate::record::{Offset, ProcessorId, Record, SubTopologyId, TaskId, TopicId, TopicPartition};
use crate::task::{AssignedPartition, DeadLetterWindow, Input, Need, Source, Task, TaskState};

impl<B: Broker> StreamThread<B> {
    /// Partitions came: opens their tasks. Restoring begins with the next turn's work.
    pub(super) fn assign(&mut self, sub_topology: SubTopologyId, partitions: &[i32]) -> Result<(), Trouble> {
        for partition in partitions {
            if self.assigned.contains_key(&(sub_topology, *partition)) {
                continue;
            }
            let processors = self.topology.sub_topology(sub_topology).processors.clone();
            let tasks = processors
                .into_iter()
                .map(|processor| self.open_task(TaskId { processor, partition: *partition }))
                .collect::<Result<Vec<_>, _>>()?;
            let assigned = AssignedPartition::new(sub_topology, *partition, tasks);
            self.assigned.insert((sub_topology, *partition), assigned);
        }
        self.find_writers();
        if !partitions.is_empty() {
            let name = &self.topology.sub_topology(sub_topology).name;
            let text = format!("sub-topology {name}: partitions {partitions:?} assigned");
            self.report.info(About::default(), text);
        }
        self.begin_restores()
    }

    fn open_task(&mut self, id: TaskId) -> Result<Task, Trouble> {
        let definition = self.definitions[usize::from(id.processor.0)].clone();
        let spec = self.topology.processor(id.processor);
        let mut stores = Vec::with_capacity(spec.stores.len());
        for place in 0..spec.stores.len() {
            let opened = crate::task::open_store(&self.topology, &definition, id, place, &mut |name| {
                self.storage.open(name).map(Some)
            });
            let opened = opened.map_err(|error| Trouble::Stop(error.to_string()))?;
            let (store, rebuilt) = opened.expect("a stream thread is given every store it opens");
            if let Some(why) = rebuilt {
                let about = About { processor: Some(spec.name.clone()), ..About::partition(id.partition) };
                self.report.warn(about, why);
                self.report.rebuilt += 1;
            }
            stores.push(store);
        }
        let context = TaskContext {
            partition: id.partition,
            partitions: self.topology.topics.iter().map(|t| (t.name.to_string(), t.partitions)).collect(),
            settings: spec.settings.clone(),
        };
        let parked = (stores.len() > definition.stores.len()).then_some(definition.stores.len());
        let processor = (definition.build)(&context);
        Ok(Task {
            id,
            definition,
            processor,
            stores,
            parked,
            undo: Vec::new(),
            letters: DeadLetterWindow::default(),
            processed: 0,
            ages_ms: Vec::new(),
            newest: 0,
        })
    }

    /// Finds out where the inputs of new or interrupted partitions stand and what their stores lack, and starts
    /// reading that.
    pub(super) fn begin_restores(&mut self) -> Result<(), Trouble> {
        if self.clock.now() < self.ask_again_at {
            return if self.globals_expected { self.finish_restores() } else { Ok(()) };
        }
        if !self.globals_expected {
            match self.follow_globals() {
                Err(Trouble::Broker(BrokerError::Retry(reason))) => {
                    self.ask_again(&reason);
                    return Ok(());
                }
                other => other?,
            }
        }
        let created: Vec<_> =
            self.assigned.iter().filter(|(_, a)| a.state() == TaskState::Created).map(|(key, _)| *key).collect();
        let mut by_group: BTreeMap<SubTopologyId, Vec<i32>> = BTreeMap::new();
        for (sub_topology, partition) in created {
            by_group.entry(sub_topology).or_default().push(partition);
        }
        for (sub_topology, partitions) in by_group {
            match self.locate(sub_topology, &partitions) {
                Err(Trouble::Broker(BrokerError::Retry(reason))) => self.ask_again(&reason),
                other => other?,
            }
        }
        self.finish_restores()
    }

    /// The broker cannot tell yet where something stands: it is asked again after a pause.
    fn ask_again(&mut self, reason: &str) {
        let now = self.clock.now();
        self.ask_again_at = now + NOT_YET_PAUSE_MS;
        if self.waits_said_at.is_none_or(|said| now - said >= STILL_WAITS_MS) {
            self.waits_said_at = Some(now);
            self.report.info(About::default(), format!("restoring waits: {reason}"));
        }
    }

    /// One question to the broker for all partitions of a group.
    fn locate(&mut self, sub_topology: SubTopologyId, partitions: &[i32]) -> Result<(), Trouble> {
        let topics = self.topology.sub_topology(sub_topology).inputs.clone();
        let inputs: Vec<TopicPartition> = partitions
            .iter()
            .flat_map(|partition| topics.iter().map(|topic| TopicPartition { topic: *topic, partition: *partition }))
            .collect();
        // Committed positions first, ends after: whatever a committed position stands for is then below the end.
        let committed = self.broker.committed(sub_topology, &inputs)?;
        let input_bounds = self.broker.bounds(&inputs)?;
        let mut positions = Vec::with_capacity(inputs.len());
        for ((at, committed), bounds) in inputs.iter().zip(&committed).zip(&input_bounds) {
            let next = committed.unwrap_or(bounds.start);
            if next < bounds.start {
                return Err(Trouble::Stop(format!(
                    "{}: the group {} stands at offset {next}, but the topic now begins at {}: records were deleted before \
                     they were processed. Raise the topic's retention; to go on without them, move the group's offsets",
                    self.topology.name_of(*at),
                    self.topology.group(sub_topology),
                    bounds.start
                )));
            }
            positions.push((*at, next));
        }
        for partition in partitions {
            let mine: Vec<_> = positions.iter().filter(|(at, _)| at.partition == *partition).copied().collect();
            let never = inputs.iter().zip(&committed).all(|(at, c)| at.partition != *partition || c.is_none());
            self.find_needs(sub_topology, *partition, &mine, never)?;
        }
        let keys = |p: &i32| (sub_topology, *p);
        let (known, new): (Vec<i32>, Vec<i32>) =
            partitions.iter().partition(|p| self.assigned.get(&keys(p)).is_some_and(|a| a.started));
        let of = |some: &[i32]| -> Vec<_> {
            positions.iter().filter(|(at, _)| some.contains(&at.partition)).copied().collect()
        };
        if !new.is_empty() {
            self.broker.start(sub_topology, &of(&new))?;
        }
        if !known.is_empty() {
            let paused: Vec<_> = of(&known).iter().map(|(at, _)| *at).collect();
            self.broker.set_flow(sub_topology, &paused, Flow::Paused)?;
            self.broker.rewind(sub_topology, &of(&known))?;
        }
        for partition in partitions {
            if let Some(assigned) = self.assigned.get_mut(&keys(partition)) {
                assigned.started = true;
                self.report.moved(assigned.enter(TaskState::Restoring));
            }
        }
        let needs: Vec<Need> =
            partitions.iter().filter_map(|p| self.assigned.get(&keys(p))).flat_map(|a| a.needs.clone()).collect();
        for need in needs {
            self.follow_for_restore(need.from)?;
        }
        Ok(())
    }

    /// What the stores of a partition lack: tables of outputs and changelogs up to the end of their topics, tables of
    /// inputs up to the committed position.
    fn find_needs(
        &mut self,
        sub_topology: SubTopologyId,
        partition: i32,
        positions: &[(TopicPartition, Offset)],
        never_committed: bool,
    ) -> Result<(), Trouble> {
        let assigned = &self.assigned[&(sub_topology, partition)];
        let mut wanted: Vec<(usize, usize, TopicPartition, bool)> = Vec::new();
        for (task_at, task) in assigned.tasks.iter().enumerate() {
            let spec = self.topology.processor(task.id.processor);
            for (store, wiring) in spec.stores.iter().enumerate() {
                for topic in wiring.tables.iter().chain(&wiring.changelog) {
                    let from = TopicPartition { topic: *topic, partition };
                    wanted.push((task_at, store, from, spec.inputs.contains(topic)));
                }
            }
        }
        let ends: Vec<TopicPartition> = wanted.iter().map(|(_, _, from, _)| *from).collect();
        let bounds = if ends.is_empty() { Vec::new() } else { self.broker.bounds(&ends)? };
        let mut needs = Vec::new();
        for ((task, store, from, is_input), bounds) in wanted.into_iter().zip(bounds) {
            let input = positions.iter().find(|(at, _)| is_input && *at == from).map(|(_, next)| *next);
            let until = input.unwrap_or(bounds.end);
            let assigned = self.assigned.get_mut(&(sub_topology, partition)).expect("it was there above");
            let held = &mut assigned.tasks[task].stores[store];
            if held.position(from).is_some_and(|position| position > until) {
                let text = format!(
                    "store {} stands at {} of {}, which ends at {until}: the topic was made anew; the store is rebuilt",
                    held.name(),
                    held.position(from).unwrap_or_default(),
                    self.topology.name_of(from)
                );
                self.report.warn(About::topic(&self.topology, from), text);
                self.report.rebuilt += 1;
                held.clear().map_err(|error| Trouble::Stop(error.to_string()))?;
                needs.retain(|need: &Need| (need.task, need.store) != (task, store));
                return self.find_needs(sub_topology, partition, positions, never_committed);
            }
            if held.position(from).is_none() {
                held.set_position(from, bounds.start.min(until));
            }
            if held.position(from).is_some_and(|position| position < until) {
                needs.push(Need { task, store, from, until });
            }
        }
        let assigned = self.assigned.get_mut(&(sub_topology, partition)).expect("it was there above");
        assigned.needs = needs;
        assigned.restored = 0;
        assigned.never_committed = never_committed;
        let input =
            |(at, next): &(TopicPartition, Offset)| Input { topic: at.topic, position: *next, source: Source::Broker };
        assigned.inputs = positions.iter().map(input).collect();
        Ok(())
    }

    /// Follows a partition from the earliest position that some restoring store or global table stands at.
    fn follow_for_restore(&mut self, from: TopicPartition) -> Result<(), Trouble> {
        let restoring = self
            .assigned
            .values()
            .flat_map(|a| a.needs.iter().map(move |need| (a, need)))
            .filter(|(_, need)| need.from == from)
            .filter_map(|(a, need)| a.tasks[need.task].stores[need.store].position(from));
        let tables = self.globals_of(from).filter_map(|table| table.position(from.partition));
        if let Some(lowest) = restoring.chain(tables).min() {
            self.broker.follow(from, lowest)?;
            self.following.insert(from);
        }
        Ok(())
    }

    /// The global tables over a topic.
    fn globals_of(&self, from: TopicPartition) -> impl Iterator<Item = &GlobalTable> {
        self.topology.processors.iter().zip(&self.globals).flat_map(move |(spec, tables)| {
            spec.globals.iter().zip(tables).filter(move |(topic, _)| **topic == from.topic).map(|(_, table)| table)
        })
    }

    /// Reads every global table on from what the disk has of it.
    fn follow_globals(&mut self) -> Result<(), Trouble> {
        let mut wanted: Vec<(ProcessorId, usize, TopicId)> = Vec::new();
        for processor in self.hosted.iter().flat_map(|sub| &self.topology.sub_topology(*sub).processors) {
            let topics = self.topology.processor(*processor).globals.iter().enumerate();
            wanted.extend(topics.map(|(place, topic)| (*processor, place, *topic)));
        }
        let topology = &self.topology;
        let partitions =
            |topic| (0..topology.topic(topic).partitions).map(move |partition| TopicPartition { topic, partition });
        let all: Vec<_> = wanted.iter().flat_map(|(_, _, topic)| partitions(*topic)).collect();
        let bounds = if all.is_empty() { Vec::new() } else { self.broker.bounds(&all)? };
        let bounds: BTreeMap<_, _> = all.into_iter().zip(bounds).collect();
        for (processor, place, topic) in wanted {
            let own = bounds.iter().filter(|(at, _)| at.topic == topic);
            let mut table = self.open_global(processor, place, topic);
            table.expect(&own.map(|(at, bounds)| (at.partition, *bounds)).collect());
            self.globals[usize::from(processor.0)][place] = table;
        }
        for at in bounds.into_keys() {
            self.follow_for_restore(at)?;
        }
        self.globals_expected = true;
        Ok(())
    }

    fn open_global(&mut self, processor: ProcessorId, place: usize, topic: TopicId) -> GlobalTable {
        let definition = &self.definitions[usize::from(processor.0)];
        let opened = crate::task::open_global(&self.topology, definition, place, &*self.storage);
        let kept = opened.and_then(|(store, emptied)| Ok((GlobalTable::kept_in(topic, store)?, emptied)));
        let (table, trouble) = kept.unwrap_or_else(|error| {
            (GlobalTable::default(), Some(format!("{error}: the table is read in full, into memory alone")))
        });
        if let Some(text) = trouble {
            self.report.warn(About::default(), text);
        }
        table
    }

    /// Records of a followed partition: to the global tables and to the stores that restore from it.
    pub(super) fn apply_followed(&mut self, mut followed: Followed) -> Result<(), Trouble> {
        let Followed { from, begin, next, .. } = followed;
        if self.held.iter().any(|held| held.from == from) {
            self.held.push(followed);
            return Ok(());
        }
        let topic = self.topology.topic(from.topic).name.clone();
        for (at, input) in followed.records.iter().enumerate() {
            match self.apply_one(from, begin, &Record::of(&topic, from.partition, input)) {
                Ok(()) => {}
                Err(Failure::NotYet(_)) => {
                    followed.records.drain(..at);
                    self.held.push(followed);
                    return Ok(());
                }
                Err(failure) => {
                    let place = self.topology.name_of(from);
                    return Err(Trouble::Stop(format!("{place} offset {}: {failure}", input.offset)));
                }
            }
        }
        for (spec, tables) in self.topology.processors.iter().zip(&mut self.globals) {
            for (topic, table) in spec.globals.iter().zip(tables) {
                if *topic == from.topic && table.position(from.partition).is_some_and(|position| position >= begin) {
                    table.reached(from.partition, next);
                }
            }
        }
        for assigned in self.assigned.values_mut().filter(|a| a.state() == TaskState::Restoring) {
            for need in assigned.needs.iter().filter(|need| need.from == from) {
                let store = &mut assigned.tasks[need.task].stores[need.store];
                // A store that stands before this piece waits for the one that begins where it stands.
                if store.position(from).is_some_and(|position| position >= begin) {
                    store.set_position(from, next.min(need.until));
                }
            }
        }
        self.finish_restores()
    }

    fn apply_one(&mut self, from: TopicPartition, begin: Offset, record: &Record<'_>) -> Result<(), Failure> {
        for (processor, definition) in self.definitions.iter().enumerate() {
            for (place, table) in definition.globals.iter().enumerate() {
                let table = &table.table;
                let known = self.globals[processor][place].position(from.partition);
                if table.topic == record.topic && known.is_some_and(|position| position >= begin) {
                    match self.globals[processor][place].apply(&table.fold, record) {
                        Err(Failure::Poison(reason)) => {
                            let (place, name) = (self.topology.name_of(from), definition.name);
                            let text = format!("{place} offset {} is passed over by {name}: {reason}", record.offset);
                            self.report.warn(About::record(name, record), text);
                        }
                        other => other?,
                    }
                }
            }
        }
        for assigned in self.assigned.values_mut().filter(|a| a.state() == TaskState::Restoring) {
            for need in assigned.needs.iter().filter(|need| need.from == from) {
                let task = &mut assigned.tasks[need.task];
                let store = &mut task.stores[need.store];
                let position = store.position(from).unwrap_or_default();
                if record.offset >= need.until || record.offset < position || position < begin {
                    continue;
                }
                let spec = self.topology.processor(task.id.processor);
                crate::step::restore(store, task.definition.stores.get(need.store), spec, from.topic, record)?;
                store.set_position(from, record.offset + 1);
                assigned.restored += 1;
                self.report.restored += 1;
            }
        }
        Ok(())
    }

    /// Tries held records again: the schema they wait for may be known by now.
    pub(super) fn retry_held(&mut self) -> Result<(), Trouble> {
        for followed in std::mem::take(&mut self.held) {
            self.apply_followed(followed)?;
        }
        Ok(())
    }

    /// Lets the partitions run whose stores have caught up.
    pub(super) fn finish_restores(&mut self) -> Result<(), Trouble> {
        let mut ready = Vec::new();
        for (key, assigned) in &mut self.assigned {
            if assigned.state() != TaskState::Restoring {
                continue;
            }
            let tasks = &assigned.tasks;
            assigned.needs.retain(|need| {
                tasks[need.task].stores[need.store].position(need.from).is_none_or(|position| position < need.until)
            });
            let globals = tasks.iter().flat_map(|task| &self.globals[usize::from(task.id.processor.0)]);
            if assigned.needs.is_empty() && globals.into_iter().all(GlobalTable::is_ready) {
                ready.push(*key);
            }
        }
        for key in ready {
            self.run(key)?;
        }
        let idle: Vec<_> = self.following.iter().filter(|at| !self.is_followed(**at)).copied().collect();
        for at in idle {
            self.broker.unfollow(at)?;
            self.following.remove(&at);
        }
        Ok(())
    }

    fn is_followed(&self, at: TopicPartition) -> bool {
        let global = self.hosted.iter().flat_map(|sub| &self.topology.sub_topology(*sub).processors);
        let mut global = global.flat_map(|id| &self.topology.processor(*id).globals);
        global.any(|topic| *topic == at.topic)
            || self.assigned.values().flat_map(|a| &a.needs).any(|need| need.from == at)
    }

    fn run(&mut self, key: (SubTopologyId, i32)) -> Result<(), Trouble> {
        let assigned = self.assigned.get_mut(&key).expect("a partition that restores is assigned");
        if assigned.never_committed && hold_state(key, &assigned.tasks)? {
            let group = self.topology.group(key.0);
            // Since it was asked, another member may have begun the partition: then this one comes late, not anew.
            let inputs = assigned.inputs.iter().map(|input| TopicPartition { topic: input.topic, partition: key.1 });
            if self.broker.committed(key.0, &inputs.collect::<Vec<_>>())?.iter().any(Option::is_some) {
                let reason = format!("another member of {group} began partition {} meanwhile", key.1);
                return Err(Trouble::Broker(BrokerError::Abort(reason)));
            }
            return Err(Trouble::Stop(format!(
                "the group {group} has no committed offsets for partition {}, but its stores hold state: the offsets have \
                 expired (offsets.retention.minutes of the broker), or were deleted. Set the group's offsets before starting \
                 again",
                key.1
            )));
        }
        self.report.moved(assigned.enter(TaskState::Running));
        let name = &self.topology.sub_topology(key.0).name;
        let text = format!("sub-topology {name} partition {}: running, {} records restored", key.1, assigned.restored);
        self.report.info(About::partition(key.1), text);
        self.steer(key)?;
        // Calls that were open before may have been made: they are asked about first.
        let mut opened = Vec::new();
        for task in self.assigned.get(&key).into_iter().flat_map(|assigned| &assigned.tasks) {
            for store in &task.stores {
                for (at, request) in store.open_calls() {
                    if self.in_flight.insert((task.id, at.clone()), request.id.clone()).as_ref() == Some(&request.id) {
                        continue;
                    }
                    *self.report.calls.entry(task.id.processor).or_default() += 1;
                    opened.push(Call {
                        task: task.id,
                        processor: task.definition.name.to_owned(),
                        key: at.to_vec(),
                        id: request.id.clone(),
                        request: request.request.clone(),
                        repeated: true,
                    });
                }
            }
        }
        self.caller.start(opened);
        Ok(())
    }

    /// Partitions must go: what is done is committed, then they are closed and given up.
    pub(super) fn revoke(&mut self, sub_topology: SubTopologyId, partitions: &[i32]) -> Result<(), Trouble> {
        let committed = self.commit();
        if let Err(trouble) = committed {
            self.recover(trouble)?;
        }
        for partition in partitions {
            self.close_partition(sub_topology, *partition)?;
        }
        self.broker.release(sub_topology, partitions)?;
        if !partitions.is_empty() {
            let name = &self.topology.sub_topology(sub_topology).name;
            let text = format!("sub-topology {name}: partitions {partitions:?} revoked");
            self.report.info(About::default(), text);
        }
        Ok(())
    }

    /// Partitions are gone already: nothing of them may be committed.
    pub(super) fn lose(&mut self, sub_topology: SubTopologyId, partitions: &[i32]) -> Result<(), Trouble> {
        if self.transaction.is_some() {
            self.recover(Trouble::Broker(BrokerError::Abort("partitions were lost".into())))?;
        }
        for partition in partitions {
            self.close_partition(sub_topology, *partition)?;
        }
        self.broker.release(sub_topology, partitions)?;
        if !partitions.is_empty() {
            let name = &self.topology.sub_topology(sub_topology).name;
            let text =
                format!("sub-topology {name}: partitions {partitions:?} lost: this member was too slow or cut off");
            self.report.warn(About::default(), text);
        }
        Ok(())
    }

    /// Drops what is uncommitted, writes the stores out, and forgets the tasks.
    pub(super) fn close_partition(&mut self, sub_topology: SubTopologyId, partition: i32) -> Result<(), Trouble> {
        let Some(mut assigned) = self.assigned.remove(&(sub_topology, partition)) else {
            return Ok(());
        };
        assigned.drop_uncommitted();
        self.report.moved(assigned.enter(TaskState::Closed));
        self.hand_over.close((sub_topology, partition));
        self.find_writers();
        self.in_flight.retain(|(task, _), _| !assigned.tasks.iter().any(|t| t.id == *task));
        self.storage.settle();
        let now = self.clock.now();
        self.write_out_partition(&mut assigned, now);
        self.storage.settle();
        self.finish_restores()
    }

    /// Writes memtables out in the background: one partition after the other, each once in `write_out`, so that neither
    /// the disk nor memory has to take all at once; all of them when they are large.
    pub(super) fn write_out(&mut self, now: i64) {
        let engine = &self.topology.engine;
        let large = self.memtable_bytes() > engine.memtable_bytes / self.threads;
        let between = engine.write_out_ms / i64::try_from(self.assigned.len()).unwrap_or(i64::MAX).max(1);
        if !large && now - self.written_out_at < between {
            return;
        }
        // A turn that came late lets no partition wait longer; what was missed long ago is not made up for.
        self.written_out_at = (self.written_out_at + between).max(now - engine.write_out_ms);
        let after = self.written_out.map_or(Bound::Unbounded, Bound::Excluded);
        self.written_out =
            self.assigned.range((after, Bound::Unbounded)).chain(&self.assigned).next().map(|(key, _)| *key);
        let mut assigned = std::mem::take(&mut self.assigned);
        for (key, partition) in &mut assigned {
            if large || Some(*key) == self.written_out {
                self.write_out_partition(partition, now);
            }
        }
        self.assigned = assigned;
        if large || self.written_out == self.assigned.keys().next().copied() {
            self.write_out_globals(now);
        }
    }

    pub(super) fn write_out_globals(&mut self, now: i64) {
        let name = |at: TopicPartition| self.topology.name_of(at);
        for table in self.globals.iter_mut().flatten() {
            if let Err(error) = table.write_out(now, &name, &*self.storage) {
                let text = format!("{error}: the global table is in memory alone, and read in full after a restart");
                self.report.info(About::default(), text);
            }
        }
    }

    fn write_out_partition(&mut self, partition: &mut AssignedPartition, now: i64) {
        let name = |at: TopicPartition| self.topology.name_of(at);
        for store in partition.tasks.iter_mut().flat_map(|task| &mut task.stores) {
            if let Err(error) = store.write_out(now, &name, &*self.storage) {
                let text = format!("{error}: its states stay in memory and are written later");
                self.report.warn(About::default(), text);
            }
        }
    }
}

/// Whether any store of a partition's tasks holds state. One that cannot be read says nothing of positions: it is rebuilt
/// first.
fn hold_state(key: (SubTopologyId, i32), tasks: &[Task]) -> Result<bool, Trouble> {
    let mut hold = false;
    for task in tasks {
        for store in &task.stores {
            let empty = store.is_empty();
            hold |= !empty.map_err(|e| Trouble::Rebuild(key.0, key.1, task.id.processor, e.to_string()))?;
        }
    }
    Ok(hold)
}
