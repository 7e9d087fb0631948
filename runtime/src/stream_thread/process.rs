//! One record, one deadline or one answer at a time: the tasks work, and what they did either stands or is taken back.
//! Never commits.

use super::report::About;
use super::{DUE_PER_TURN, NOT_YET_PAUSE_MS, StreamThread, Trouble};
use crate::dead_letters;
use crate::io::{Answer, Broker};
use crate::parking::{self, Parked, Queue};
use crate::planted;
use crate::processor::{Answered, Due, Failure, Outcome};
use crate::record::{
    HeaderName, Headers, InputRecord, Offset, OutgoingRecord, ProcessorId, Record, SubTopologyId, Timestamp, TopicId,
    TopicPartition,
};
use crate::step::{Outbound, Outbox, Step};
use crate::store::Key;
use crate::task::{AssignedPartition, Source, Task, TaskState};
use crate::topology::{OnPoison, Topology};

/// Where a step came from; its outputs carry it in their `ce_id`.
#[derive(Clone, Copy)]
pub(super) enum Cause<'a> {
    Record(&'a Record<'a>),
    /// Key, partition and store of the state, and when it was due.
    Deadline(&'a [u8], i32, usize, Timestamp),
    Answer(&'a [u8], &'a str),
}

/// What became of a record.
enum Taken {
    Done,
    /// It must be tried again later; nothing of it was done.
    Wait(String),
}

impl<B: Broker> StreamThread<B> {
    /// Takes records of an input in. Those of a partition that does not run are dropped: its position is found anew.
    pub(super) fn process_records(
        &mut self,
        sub_topology: SubTopologyId,
        from: TopicPartition,
        records: Vec<InputRecord>,
    ) -> Result<usize, Trouble> {
        let key = (sub_topology, from.partition);
        let mut handled = 0;
        for record in records {
            let Some(assigned) = self.assigned.get_mut(&key).filter(|a| a.state() == TaskState::Running) else {
                return Ok(handled);
            };
            // A reader that is paused gives nothing. What it was polled with before must be of somebody else, unless it
            // has been handled.
            if let Some(input) = assigned.input_mut(from.topic)
                && input.source != Source::Broker
            {
                if record.offset < input.position {
                    continue;
                }
                return Err(self.stranger(from));
            }
            handled += usize::from(self.take_record(key, from.topic, record)?.is_some());
            handled += self.take_handed()?;
            self.commit_if_full()?;
        }
        Ok(handled)
    }

    /// Takes one record in, behind those of its partition that wait. Gives it back when it is done with.
    pub(super) fn take_record(
        &mut self,
        key: (SubTopologyId, i32),
        topic: TopicId,
        record: InputRecord,
    ) -> Result<Option<InputRecord>, Trouble> {
        let Some(assigned) = self.assigned.get_mut(&key).filter(|a| a.state() == TaskState::Running) else {
            return Ok(None);
        };
        if !assigned.backlog.is_empty() {
            assigned.backlog.push_back((topic, record));
            return Ok(None);
        }
        match self.process_one(key, topic, &record)? {
            Taken::Done => Ok(Some(record)),
            Taken::Wait(reason) => {
                let now = self.clock.now();
                let assigned = self.assigned.get_mut(&key).expect("it was there above");
                assigned.backlog.push_back((topic, record));
                assigned.retry_at = now + NOT_YET_PAUSE_MS;
                let from = TopicPartition { topic, partition: key.1 };
                let about = About::topic(&self.topology, from);
                self.report.info(about, format!("{} waits: {reason}", self.topology.name_of(from)));
                self.steer(key)?;
                Ok(None)
            }
        }
    }

    /// Tries records again that had to wait.
    pub(super) fn retry_backlogs(&mut self, now: Timestamp) -> Result<usize, Trouble> {
        let waiting: Vec<_> = self
            .assigned
            .iter()
            .filter(|(_, a)| !a.backlog.is_empty() && a.retry_at <= now && a.state() == TaskState::Running)
            .map(|(key, _)| *key)
            .collect();
        let mut handled = 0;
        for key in waiting {
            loop {
                let assigned = self.assigned.get_mut(&key).expect("collected above");
                let Some((topic, record)) = assigned.backlog.pop_front() else {
                    self.steer(key)?;
                    break;
                };
                match self.process_one(key, topic, &record)? {
                    Taken::Done => handled += 1 + self.take_handed()?,
                    Taken::Wait(_) => {
                        let assigned = self.assigned.get_mut(&key).expect("collected above");
                        assigned.backlog.push_front((topic, record));
                        assigned.retry_at = now + NOT_YET_PAUSE_MS;
                        break;
                    }
                }
            }
        }
        Ok(handled)
    }

    /// Every task that reads the topic works on the record; it stands for all of them or for none.
    fn process_one(
        &mut self,
        key: (SubTopologyId, i32),
        topic: TopicId,
        input: &InputRecord,
    ) -> Result<Taken, Trouble> {
        let topology = self.topology.clone();
        let now = self.clock.now();
        let partition = key.1;
        let assigned = self.assigned.get_mut(&key).expect("the caller looked");
        if assigned.position(topic).is_some_and(|position| input.offset < position) {
            return Ok(Taken::Done);
        }
        let record = Record::of(&topology.topic(topic).name, partition, input);
        let counted = self.counts.len();
        for at in 0..assigned.tasks.len() {
            let task = &mut assigned.tasks[at];
            let spec = topology.processor(task.id.processor);
            if !spec.inputs.contains(&topic) {
                continue;
            }
            let mark = self.outbox.mark();
            let counted_here = self.counts.len();
            let mut desk = Desk { topology: &topology, now, outbox: &mut self.outbox, counts: &mut self.counts };
            let globals = &self.globals[usize::from(task.id.processor.0)];
            let outcome = match queue_of(task, record.key) {
                Err(failure) => Err(failure),
                Ok(Some(queue)) if !planted::is(planted::Defect::QueueOvertaken) => {
                    keep_input(task, &record, &topology)
                        .map(|()| desk.park(task, queue, &record, "an earlier record of this key is parked"))
                }
                Ok(_) => fold_input(task, &record, &topology)
                    .and_then(|()| desk.work(task, globals, |processor, step| processor.process(&record, step))),
            };
            task.processed += 1;
            task.newest = task.newest.max(record.timestamp);
            if task.ages_ms.len() < super::report::AGES_MAX {
                task.ages_ms.push(u32::try_from((now - record.timestamp).max(0)).unwrap_or(u32::MAX));
            }
            let Err(mut failure) = outcome else { continue };
            task.roll_back();
            self.outbox.truncate(mark);
            self.counts.truncate(counted_here);
            // What the processor refuses stays in the tables nevertheless: they hold what their topics hold.
            if matches!(failure, Failure::Poison(_))
                && let Err(other) = keep_input(task, &record, &topology)
            {
                failure = other;
            }
            match failure {
                Failure::NotYet(reason) => {
                    for task in &mut assigned.tasks {
                        task.roll_back();
                    }
                    self.outbox.truncate((0, 0));
                    self.counts.truncate(counted);
                    return Ok(Taken::Wait(reason));
                }
                Failure::Storage(reason) => {
                    return Err(Trouble::Rebuild(key.0, partition, task.id.processor, reason));
                }
                Failure::Fatal(reason) => {
                    let place = format!(
                        "processor {} at {} offset {}",
                        spec.name,
                        topology.name_of(TopicPartition { topic, partition }),
                        input.offset
                    );
                    return Err(Trouble::Stop(format!("{place}: {reason}")));
                }
                Failure::Poison(reason) => {
                    let mut desk =
                        Desk { topology: &topology, now, outbox: &mut self.outbox, counts: &mut self.counts };
                    match spec.on_poison {
                        OnPoison::Stop => {
                            return Err(Trouble::Stop(format!(
                                "processor {} at {} offset {}: {reason} (its policy for poison records is to stop)",
                                spec.name,
                                topology.name_of(TopicPartition { topic, partition }),
                                input.offset
                            )));
                        }
                        OnPoison::Park if !record.key.is_empty() => {
                            desk.park(task, Queue::default(), &record, &reason);
                            *self.report.parked.entry(task.id.processor).or_default() += 1;
                        }
                        OnPoison::Park | OnPoison::DeadLetter => {
                            desk.dead_letter(task, &Parked::of(&record, &reason));
                            *self.report.dead_letters.entry(task.id.processor).or_default() += 1;
                            check_window(task, &topology, now)?;
                        }
                    }
                    let place = topology.name_of(TopicPartition { topic, partition });
                    self.report.warn(
                        About::record(&spec.name, &record),
                        format!("processor {}: {place} offset {}: {reason}", spec.name, input.offset),
                    );
                }
            }
        }
        if let Some(at) = assigned.input_mut(topic) {
            at.position = input.offset + 1;
        }
        self.stand(key, Cause::Record(&record))?;
        Ok(Taken::Done)
    }

    /// The step stands: its records go to the broker, its writes stay in the overlay until the commit.
    fn stand(&mut self, key: (SubTopologyId, i32), cause: Cause<'_>) -> Result<(), Trouble> {
        for task in &mut self.assigned.get_mut(&key).expect("the caller looked").tasks {
            task.undo.clear();
        }
        for counted in self.counts.drain(..) {
            *self.report.counts.entry(counted).or_default() += 1;
        }
        self.touch(key);
        self.send_outbox(cause)
    }

    /// Deadlines of committed states that have passed.
    pub(super) fn fire_deadlines(&mut self, now: Timestamp) -> Result<usize, Trouble> {
        let mut due = Vec::new();
        for (key, assigned) in self.assigned.iter().filter(|(_, a)| a.state() == TaskState::Running) {
            for task in &assigned.tasks {
                for (store, held) in task.stores.iter().enumerate() {
                    if held.next_deadline().is_some_and(|(at, _)| at <= now) {
                        let some = held.due(now, DUE_PER_TURN);
                        due.extend(some.into_iter().map(|(at, k)| (*key, task.id.processor, store, at, k)));
                    }
                }
            }
        }
        let handled = due.len();
        if planted::is(planted::Defect::TimerTwice) {
            due.extend(due.clone());
        }
        for (key, processor, store, deadline, state) in due {
            self.fire(key, processor, store, deadline, &state)?;
            self.take_handed()?;
        }
        Ok(handled)
    }

    fn fire(
        &mut self,
        key: (SubTopologyId, i32),
        processor: ProcessorId,
        store: usize,
        deadline: Timestamp,
        state: &Key,
    ) -> Result<(), Trouble> {
        let topology = self.topology.clone();
        let now = self.clock.now();
        let Some(assigned) = self.assigned.get_mut(&key).filter(|a| a.state() == TaskState::Running) else {
            return Ok(());
        };
        let Some(task) = assigned.task_mut(processor) else {
            return Ok(());
        };
        // The state may have changed in the open transaction: then this deadline is no longer its deadline.
        let current =
            task.stores[store].get(state).map_err(|e| Trouble::Rebuild(key.0, key.1, processor, e.to_string()))?;
        let moved = current.and_then(|value| task.stores[store].deadline_of(state, &value)) != Some(deadline);
        if moved && !planted::is(planted::Defect::TimerTwice) {
            return Ok(());
        }
        let mut desk = Desk { topology: &topology, now, outbox: &mut self.outbox, counts: &mut self.counts };
        let globals = &self.globals[usize::from(processor.0)];
        let outcome = if task.parked == Some(store) {
            desk.retry_parked(task, globals, state, &mut self.report)
        } else {
            let due = Due { store, key: state, deadline };
            desk.work(task, globals, |processor, step| processor.on_deadline(&due, step))
        };
        *self.report.deadlines.entry(processor).or_default() += 1;
        self.conclude(key, processor, outcome, Cause::Deadline(state, key.1, store, deadline))
    }

    /// Answers to calls that the states still have open.
    pub(super) fn take_answers(&mut self) -> Result<usize, Trouble> {
        let mut answers = Vec::new();
        self.caller.answers(&mut answers);
        self.answers.extend(answers);
        let handled = self.answers.len();
        while let Some(answer) = self.answers.pop_front() {
            self.take_answer(&answer)?;
            self.take_handed()?;
            self.commit_if_full()?;
        }
        Ok(handled)
    }

    fn take_answer(&mut self, answer: &Answer) -> Result<(), Trouble> {
        let topology = self.topology.clone();
        let now = self.clock.now();
        let processor = answer.task.processor;
        let here = |a: &&mut AssignedPartition| {
            a.partition == answer.task.partition && a.tasks.iter().any(|task| task.id == answer.task)
        };
        let Some(assigned) = self.assigned.values_mut().find(here).filter(|a| a.state() == TaskState::Running) else {
            // Restoring: the call is in the state and is asked about again when the partition runs.
            self.in_flight.retain(|(task, key), _| *task != answer.task || **key != *answer.key);
            return Ok(());
        };
        let key = (assigned.sub_topology, assigned.partition);
        let Some(task) = assigned.task_mut(processor) else {
            return Ok(());
        };
        *self.report.answers.entry(processor).or_default() += 1;
        let state: Key = answer.key.as_slice().into();
        self.in_flight.remove(&(answer.task, state.clone()));
        for store in 0..task.definition.stores.len() {
            let open = task.stores[store].open_call(&state);
            let unchecked = planted::is(planted::Defect::AnswerUnchecked);
            if open.is_none_or(|open| open.id != answer.id && !unchecked) {
                continue;
            }
            let mut desk = Desk { topology: &topology, now, outbox: &mut self.outbox, counts: &mut self.counts };
            let answered = Answered { store, key: &state, id: &answer.id, response: &answer.response };
            let globals = &self.globals[usize::from(processor.0)];
            let outcome = desk.work(task, globals, |processor, step| processor.on_answer(&answered, step));
            return self.conclude(key, processor, outcome, Cause::Answer(&state, &answer.id));
        }
        Ok(())
    }

    /// A step without a record must not fail: there is nothing that could be put aside.
    fn conclude(
        &mut self,
        key: (SubTopologyId, i32),
        processor: ProcessorId,
        outcome: Outcome,
        cause: Cause<'_>,
    ) -> Result<(), Trouble> {
        let Err(failure) = outcome else {
            return self.stand(key, cause);
        };
        let name = &self.topology.processor(processor).name;
        Err(match failure {
            Failure::Storage(reason) => Trouble::Rebuild(key.0, key.1, processor, reason),
            other => Trouble::Stop(format!("processor {name} partition {}: {other}", key.1)),
        })
    }

    /// Hands the records of a step to the broker, with their headers.
    fn send_outbox(&mut self, cause: Cause<'_>) -> Result<(), Trouble> {
        if self.outbox.records.is_empty() {
            return Ok(());
        }
        let topology = self.topology.clone();
        self.ensure_begun()?;
        let outbox = std::mem::take(&mut self.outbox);
        let mut usual = std::mem::take(&mut self.headers);
        for (number, outbound) in outbox.records.iter().enumerate() {
            let headers = match &outbound.headers {
                Some(own) => own,
                None => write_headers(&mut usual, &topology, outbound, cause, number),
            };
            let record = OutgoingRecord {
                to: outbound.to,
                key: &outbox.bytes[outbound.key.clone()],
                value: outbound.value.clone().map(|range| &outbox.bytes[range]),
                timestamp: outbound.timestamp,
                headers,
            };
            self.broker.send(record)?;
            self.pass_on(&record)?;
        }
        self.sent(outbox.records.len());
        self.headers = usual;
        self.outbox = outbox;
        self.outbox.truncate((0, 0));
        Ok(())
    }
}

/// What a task needs beside its own state to work on one thing.
struct Desk<'a> {
    topology: &'a Topology,
    now: Timestamp,
    outbox: &'a mut Outbox,
    counts: &'a mut Vec<(&'static str, &'static str)>,
}

impl Desk<'_> {
    /// Lets the processor work.
    fn work(
        &mut self,
        task: &mut Task,
        globals: &[crate::global::GlobalTable],
        act: impl FnOnce(&mut dyn crate::processor::Processor, &mut Step<'_>) -> Outcome,
    ) -> Outcome {
        let spec = self.topology.processor(task.id.processor);
        let mut step = Step {
            now: self.now,
            partition: task.id.partition,
            topology: self.topology,
            spec,
            definition: &task.definition,
            stores: &mut task.stores,
            globals,
            outbox: self.outbox,
            undo: &mut task.undo,
            counts: self.counts,
        };
        act(&mut *task.processor, &mut step)
    }

    /// Puts a record at the end of its key's queue. A queue that is too long gives its head to the dead letters.
    fn park(&mut self, task: &mut Task, mut queue: Queue, record: &Record<'_>, reason: &str) {
        if queue.records.is_empty() {
            queue.next_try = self.now + self.topology.engine.park_retry_ms;
        }
        queue.records.push(Parked::of(record, reason));
        while queue.records.len() > parking::QUEUE_MAX || queue.bytes() > parking::QUEUE_BYTES_MAX {
            let head = queue.records.remove(0);
            self.dead_letter(task, &head);
            if queue.records.is_empty() {
                break;
            }
        }
        self.put_queue(task, record.key, &queue);
    }

    fn put_queue(&mut self, task: &mut Task, key: &[u8], queue: &Queue) {
        let store = task.parked.expect("only a task that parks has queues");
        let spec = self.topology.processor(task.id.processor);
        let value = (!queue.records.is_empty()).then(|| queue.encode());
        let partition = task.id.partition;
        crate::step::log(
            spec,
            &mut task.stores,
            self.outbox,
            &mut task.undo,
            partition,
            self.now,
            store,
            key,
            value.as_deref(),
        );
    }

    /// Works through a queue from its head until a record fails again.
    fn retry_parked(
        &mut self,
        task: &mut Task,
        globals: &[crate::global::GlobalTable],
        key: &Key,
        report: &mut super::Report,
    ) -> Outcome {
        let Some(mut queue) = queue_of(task, key)? else {
            return Ok(());
        };
        while !queue.records.is_empty() {
            let head = queue.records[0].clone();
            let record = Record::of(&head.topic, head.partition, &head.record);
            let (mark, undone, counted) = (self.outbox.mark(), task.undo.len(), self.counts.len());
            // The tables took it up when it was parked.
            match self.work(task, globals, |processor, step| processor.process(&record, step)) {
                Ok(()) => {
                    queue.records.remove(0);
                    queue.tries = 0;
                }
                Err(failure @ (Failure::Poison(_) | Failure::NotYet(_))) => {
                    self.outbox.truncate(mark);
                    self.counts.truncate(counted);
                    while task.undo.len() > undone {
                        let undo = task.undo.pop().expect("it is longer");
                        task.stores[undo.store].undo(&undo.key, undo.before);
                    }
                    queue.tries += 1;
                    if queue.tries >= self.topology.engine.park_tries_max && matches!(failure, Failure::Poison(_)) {
                        self.dead_letter(task, &head);
                        *report.dead_letters.entry(task.id.processor).or_default() += 1;
                        let name = &self.topology.processor(task.id.processor).name;
                        report.warn(
                            About::record(name, &record),
                            format!("processor {name}: a parked record goes to the dead letters: {failure}"),
                        );
                        queue.records.remove(0);
                        queue.tries = 0;
                        continue;
                    }
                    let pause = self.topology.engine.park_retry_ms << queue.tries.min(10);
                    queue.next_try = self.now + pause;
                    break;
                }
                Err(other) => return Err(other),
            }
        }
        self.put_queue(task, key, &queue);
        Ok(())
    }

    /// A record that will never be processed, raw and with its place.
    fn dead_letter(&mut self, task: &Task, letter: &Parked) {
        let spec = self.topology.processor(task.id.processor);
        let headers = dead_letters::headers_of(letter, &spec.name);
        let to = TopicPartition { topic: spec.dead_letters, partition: task.id.partition };
        let key = self.outbox.append(letter.record.key.as_deref().unwrap_or_default());
        let value = letter.record.value.as_deref().map(|value| self.outbox.append(value));
        let timestamp = self.now;
        self.outbox.records.push(Outbound {
            to,
            kind: Some("dead-letter"),
            key,
            value,
            timestamp,
            headers: Some(headers),
        });
    }
}

/// The input's own tables take the record up, once and where it stands, as a restore would: before the processor sees it,
/// and whatever becomes of it then. A record that is poison to one of them is so to that one only.
fn fold_input(task: &mut Task, record: &Record<'_>, topology: &Topology) -> Outcome {
    let spec = topology.processor(task.id.processor);
    let mut refused = Ok(());
    for (store, definition) in task.definition.stores.iter().enumerate() {
        for table in definition.tables.iter().filter(|table| table.topic == record.topic) {
            // A record the table already holds: read before the commit position was moved back.
            let at = spec.inputs.iter().find(|id| *topology.topic(**id).name == *record.topic);
            let applied = at.and_then(|topic| {
                task.stores[store].position(TopicPartition { topic: *topic, partition: record.partition })
            });
            if applied.is_some_and(|next: Offset| record.offset < next) {
                continue;
            }
            match crate::step::change(&task.stores[store], &table.fold, record) {
                Ok(None) => {}
                Ok(Some(entry)) => {
                    let (key, before) = task.stores[store].write(record.key, entry);
                    task.undo.push(crate::step::Undo { store, key, before });
                }
                Err(poison @ Failure::Poison(_)) => refused = Err(poison),
                Err(failure) => return Err(failure),
            }
        }
    }
    refused
}

/// As [`fold_input`] for a record that is not processed, or not now: what is poison to a table is none of it.
fn keep_input(task: &mut Task, record: &Record<'_>, topology: &Topology) -> Outcome {
    match fold_input(task, record, topology) {
        Err(Failure::Poison(_)) => Ok(()),
        outcome => outcome,
    }
}

/// What is parked of a key. A queue that cannot be read is not an empty one: the key would be overtaken.
fn queue_of(task: &Task, key: &[u8]) -> Result<Option<Queue>, Failure> {
    let Some(store) = task.parked.map(|parked| &task.stores[parked]) else { return Ok(None) };
    if store.open_states() == 0 && !store.has_overlay() {
        return Ok(None);
    }
    let value = store.get(key).map_err(|error| Failure::Storage(error.to_string()))?;
    let unreadable = || Failure::Storage("the parked records of a key cannot be read".into());
    let queue = value.map(|value| Queue::decode(&value).ok_or_else(unreadable)).transpose()?;
    Ok(queue.filter(|queue| !queue.records.is_empty()))
}

fn check_window(task: &mut Task, topology: &Topology, now: Timestamp) -> Result<(), Trouble> {
    let most = topology.engine.dead_letters_per_minute_max;
    if task.letters.add(now) <= most {
        return Ok(());
    }
    let name = &topology.processor(task.id.processor).name;
    Err(Trouble::Stop(format!(
        "processor {name} partition {} gave more than {most} records to the dead letters within a minute and takes no more: look \
         at {} before starting again",
        task.id.partition,
        topology.topic(topology.processor(task.id.processor).dead_letters).name
    )))
}

/// CloudEvents attributes and the trace of the cause; of a change of a store, its `ce_id` alone. Names are fixed, so only
/// the values' bytes are written anew.
fn write_headers<'h>(
    headers: &'h mut Headers,
    topology: &Topology,
    outbound: &Outbound,
    cause: Cause<'_>,
    number: usize,
) -> &'h [(HeaderName, Vec<u8>)] {
    const CE_ID: usize = 1;
    const NAMES: [&str; 5] = ["ce_specversion", "ce_id", "ce_source", "ce_type", "content-type"];
    if headers.len() < NAMES.len() {
        *headers = NAMES.map(|name| (name.into(), Vec::new())).into();
        headers[0].1.extend_from_slice(b"1.0");
        headers[4].1.extend_from_slice(b"application/avro");
    }
    headers.truncate(NAMES.len());
    for value in &mut headers[1..4] {
        value.1.clear();
    }
    let id = &mut headers[CE_ID].1;
    match cause {
        Cause::Record(record) => {
            id.extend_from_slice(record.topic.as_bytes());
            slash_number(id, record.partition.into());
            slash_number(id, record.offset);
        }
        // The same key may be due at the same moment in two stores, and in two partitions.
        Cause::Deadline(key, partition, store, at) => {
            id.extend_from_slice(String::from_utf8_lossy(key).as_bytes());
            id.extend_from_slice(b"/due");
            slash_number(id, partition.into());
            slash_number(id, i64::try_from(store).unwrap_or(i64::MAX));
            slash_number(id, at);
        }
        Cause::Answer(key, call) => {
            id.extend_from_slice(String::from_utf8_lossy(key).as_bytes());
            id.extend_from_slice(b"/answer/");
            id.extend_from_slice(call.as_bytes());
        }
    }
    slash_number(id, i64::try_from(number).unwrap_or(i64::MAX));
    // Nobody but its store reads a change: which step wrote it is all there is to say.
    let Some(kind) = outbound.kind else { return &headers[CE_ID..=CE_ID] };
    for part in [topology.application.as_str(), &topology.topic(outbound.to.topic).name] {
        headers[2].1.push(b'/');
        headers[2].1.extend_from_slice(part.as_bytes());
    }
    headers[3].1.extend_from_slice(kind.as_bytes());
    if let Cause::Record(record) = cause
        && let Some(trace) = record.headers.iter().find(|(name, _)| name == "traceparent")
    {
        headers.push(trace.clone());
    }
    headers
}

fn slash_number(out: &mut Vec<u8>, number: i64) {
    out.push(b'/');
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}
