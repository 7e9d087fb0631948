//! Hand-over: a record that a task writes to an input of another task of this thread is passed on in memory, within the
//! same transaction. Owns when that is right and the check that it was; never what a record means.
//!
//! A reader may be given a record in memory when it has handled everything before the place where the record will land:
//!
//! ```text
//!   ─ our last record │ marker │ our next record ─▶
//!                     ▲ ours   ▲ expected = ours + 1 + what the open transaction has sent there
//!                     the reader's position when it has caught up
//! ```
//! Where the records landed is known before the commit is decided. Had anybody else written in between, they stand
//! elsewhere than expected: the transaction is aborted, everything is put back to where the broker says it stands, and
//! the partition is read from the broker until its readers have caught up again. So it matters for speed alone that
//! [`Log::is_ours`] is right.

use std::collections::VecDeque;
use std::ops::Range;

use super::{StreamThread, Trouble};
use crate::io::{Broker, BrokerError, Flow, Landed};
use crate::record::{
    HeaderName, Headers, InputRecord, Offset, OutgoingRecord, SubTopologyId, Timestamp, TopicId, TopicPartition,
};
use crate::task::{AssignedPartition, Source, TaskState};
use crate::topology::Topology;

/// Records passed on in one turn, at most: the broker wants to be polled now and then.
const HANDED_PER_TURN: usize = 20_000;
/// How long everything else waits for readers that lag behind what this thread wrote, milliseconds.
const CATCH_UP_MS: i64 = 1_000;
/// How long a partition whose readers did not catch up is read from the broker, milliseconds.
const LAGGED_PAUSE_MS: i64 = 5_000;
/// How long a partition is read from the broker after a stranger wrote to it, milliseconds; doubles each time.
const STRANGER_PAUSE_MS: i64 = 1_000;
const STRANGER_PAUSE_MAX_MS: i64 = 300_000;
/// How often partitions whose readers are paused are looked at for records of strangers, milliseconds.
const LOOK_EVERY_MS: i64 = 1_000;

/// What is on its way in memory, and what this thread knows of the partitions it writes.
pub(super) struct HandOver {
    is_on: bool,
    topics: Vec<Readers>,
    logs: Vec<Log>,
    /// Partitions the open transaction has written, of those with readers here.
    written: Vec<TopicPartition>,
    queue: VecDeque<Handed>,
    /// Records whose buffers can be used again.
    spare: Vec<InputRecord>,
    /// Readers that have not caught up with what this thread wrote, and until when all else waits for them.
    lagging: Vec<(SubTopologyId, TopicPartition)>,
    wait_until: Option<Timestamp>,
    /// The sum of their positions when it last changed.
    reached: Offset,
    looked_at: Timestamp,
    /// A broken engine: it believes what it expects. For negative controls.
    #[cfg(any(test, feature = "testing"))]
    pub(super) unchecked: bool,
}

/// Who reads a topic on this thread.
struct Readers {
    /// Place of partition 0 among the logs.
    base: usize,
    sub_topologies: Vec<SubTopologyId>,
    /// Whether no processor of this thread writes it: its records come from outside.
    is_entry: bool,
}

/// A partition that a sub-topology of this thread reads.
#[derive(Clone, Default)]
struct Log {
    /// One past this thread's last committed record; `None` where that is not known.
    ours: Option<Offset>,
    /// Records the open transaction has sent.
    sent: Offset,
    /// Some of them were passed on: they must land where they are expected.
    passed_on: bool,
    /// Every processor that may write it here is on this thread.
    is_ours: bool,
    /// Not to be tried before.
    not_before: Timestamp,
    /// How often in a row a stranger wrote.
    strangers: u32,
}

/// A record that waits for its reader.
struct Handed {
    key: (SubTopologyId, i32),
    topic: TopicId,
    record: InputRecord,
}

impl HandOver {
    pub(super) fn new(topology: &Topology, hosted: &[SubTopologyId]) -> Self {
        let mut logs = 0;
        let topics = (0..topology.topics.len()).map(crate::topology::topic_id);
        let topics = topics.map(|topic| {
            let base = logs;
            logs += usize::try_from(topology.topic(topic).partitions).unwrap_or(0);
            let reads = |sub: &&SubTopologyId| topology.sub_topology(**sub).inputs.contains(&topic);
            let mut processors = hosted.iter().flat_map(|sub| &topology.sub_topology(*sub).processors);
            Readers {
                base,
                sub_topologies: hosted.iter().filter(reads).copied().collect(),
                is_entry: !processors.any(|id| topology.processor(*id).outputs.contains(&topic)),
            }
        });
        Self {
            is_on: topology.engine.hand_over,
            topics: topics.collect(),
            logs: vec![Log::default(); logs],
            written: Vec::new(),
            queue: VecDeque::new(),
            spare: Vec::new(),
            lagging: Vec::new(),
            wait_until: None,
            reached: 0,
            looked_at: 0,
            #[cfg(any(test, feature = "testing"))]
            unchecked: false,
        }
    }

    fn log(&mut self, at: TopicPartition) -> &mut Log {
        let place = self.topics[usize::from(at.topic.0)].base + usize::try_from(at.partition).unwrap_or(0);
        &mut self.logs[place]
    }

    /// Whether records wait for their readers.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether readers are to catch up before anything else happens.
    pub(super) fn is_catching_up(&self) -> bool {
        self.wait_until.is_some()
    }

    /// Whether the flow of an input is held back until readers have caught up.
    pub(super) fn holds(&self, topic: TopicId) -> bool {
        self.is_catching_up() && self.topics[usize::from(topic.0)].is_entry
    }

    /// Everything uncommitted is dropped; what stands at the end of which partition is to be learnt anew.
    pub(super) fn forget(&mut self) {
        self.queue.clear();
        self.written.clear();
        self.lagging.clear();
        self.wait_until = None;
        for log in &mut self.logs {
            (log.ours, log.sent, log.passed_on) = (None, 0, false);
        }
    }

    /// A partition is not this thread's any more.
    pub(super) fn close(&mut self, key: (SubTopologyId, i32)) {
        self.queue.retain(|handed| handed.key != key);
        self.lagging.retain(|(sub_topology, at)| (*sub_topology, at.partition) != key);
    }

    /// Holds what was passed on against where it landed.
    ///
    /// # Errors
    /// A partition where somebody else wrote in between.
    fn check(&mut self, landed: &Landed, now: Timestamp) -> Result<(), TopicPartition> {
        #[cfg(any(test, feature = "testing"))]
        if self.unchecked {
            return Ok(());
        }
        let mut result = Ok(());
        for at in 0..self.written.len() {
            let at = self.written[at];
            let log = self.log(at);
            let Some(expected) = log.ours.map(|ours| ours + 1..ours + 1 + log.sent).filter(|_| log.passed_on) else {
                continue;
            };
            if places(landed, at) != Some(&expected) {
                log.a_stranger_wrote(now);
                result = Err(at);
            }
        }
        result
    }

    /// The transaction stands: the next one begins behind its markers.
    fn committed(&mut self, landed: &Landed, now: Timestamp) {
        for at in std::mem::take(&mut self.written) {
            let log = self.log(at);
            log.ours = Some(places(landed, at).expect("the broker tells where every record sent has landed").end);
            if log.passed_on && now - log.not_before > STRANGER_PAUSE_MAX_MS {
                log.strangers = 0;
            }
            (log.sent, log.passed_on) = (0, false);
        }
    }

    fn give(&mut self, key: (SubTopologyId, i32), offset: Offset, sent: &OutgoingRecord<'_>) {
        let mut record = self.spare.pop().unwrap_or_default();
        record.offset = offset;
        record.timestamp = sent.timestamp;
        fill(record.key.get_or_insert_default(), sent.key);
        match sent.value {
            Some(value) => fill(record.value.get_or_insert_default(), value),
            None => record.value = None,
        }
        fill_headers(&mut record.headers, sent.headers);
        self.queue.push_back(Handed { key, topic: sent.to.topic, record });
    }
}

impl Log {
    fn a_stranger_wrote(&mut self, now: Timestamp) {
        let pause = STRANGER_PAUSE_MS << self.strangers.min(10);
        self.not_before = now + pause.min(STRANGER_PAUSE_MAX_MS);
        self.strangers += 1;
    }
}

fn places(landed: &Landed, at: TopicPartition) -> Option<&Range<Offset>> {
    landed.0.iter().find(|(to, _)| *to == at).map(|(_, places)| places)
}

fn fill(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(bytes);
}

fn fill_headers(headers: &mut Headers, from: &[(HeaderName, Vec<u8>)]) {
    headers.truncate(from.len());
    for (own, (name, value)) in headers.iter_mut().zip(from) {
        own.0.clone_from(name);
        own.1.clone_from(value);
    }
    headers.extend_from_slice(&from[headers.len()..]);
}

impl<B: Broker> StreamThread<B> {
    /// A record was sent: gives it to its readers on this thread that have handled everything before it.
    pub(super) fn pass_on(&mut self, sent: &OutgoingRecord<'_>) -> Result<(), Trouble> {
        let to = sent.to;
        let readers = self.hand_over.topics[usize::from(to.topic.0)].sub_topologies.len();
        if readers == 0 || !self.hand_over.is_on {
            return Ok(());
        }
        let log = self.hand_over.log(to);
        let (before, is_ours, not_before) = (log.sent, log.is_ours, log.not_before);
        log.sent += 1;
        let ours = log.ours;
        if before == 0 {
            self.hand_over.written.push(to);
        }
        let Some(ours) = ours else { return Ok(()) };
        let expected = ours + 1 + before;
        for reader in 0..readers {
            let sub_topology = self.hand_over.topics[usize::from(to.topic.0)].sub_topologies[reader];
            let key = (sub_topology, to.partition);
            let Some(assigned) = self.assigned.get_mut(&key).filter(|a| a.state() == TaskState::Running) else {
                continue;
            };
            let waits = !assigned.backlog.is_empty();
            let Some(input) = assigned.input_mut(to.topic) else { continue };
            match input.source {
                Source::Memory { given } if waits => {
                    input.source = Source::Returning { given };
                    continue;
                }
                Source::Memory { given } => assert!(given <= expected, "a record before the last one given"),
                Source::Broker if !waits && before == 0 && input.position == ours && is_ours => {
                    if self.clock.now() < not_before {
                        continue;
                    }
                    self.broker.set_flow(sub_topology, &[to], Flow::Paused)?;
                }
                Source::Broker | Source::Returning { .. } => continue,
            }
            input.source = Source::Memory { given: expected + 1 };
            self.hand_over.log(to).passed_on = true;
            self.hand_over.give(key, expected, sent);
        }
        Ok(())
    }

    /// The readers take what was passed on, and what follows from that.
    pub(super) fn take_handed(&mut self) -> Result<usize, Trouble> {
        let mut handled = 0;
        while self.handed_this_turn < HANDED_PER_TURN
            && let Some(handed) = self.hand_over.queue.pop_front()
        {
            if let Some(record) = self.take_record(handed.key, handed.topic, handed.record)? {
                self.hand_over.spare.push(record);
            }
            handled += 1;
            self.report.handed_over += 1;
            self.commit_if_full()?;
            self.handed_this_turn += 1;
        }
        Ok(handled)
    }

    /// Before the commit is decided: everything passed on must have landed where it was expected.
    pub(super) fn check_landing(&mut self, landed: &Landed) -> Result<(), Trouble> {
        let now = self.clock.now();
        self.hand_over.check(landed, now).map_err(|at| self.stranger(at))
    }

    /// Somebody else wrote between what was passed on.
    pub(super) fn stranger(&mut self, at: TopicPartition) -> Trouble {
        self.report.strangers += 1;
        let name = self.topology.name_of(at);
        Trouble::Broker(BrokerError::Abort(format!("somebody else wrote to {name} between two records of this thread")))
    }

    /// After the commit: readers that lag behind what was written are given time to catch up.
    pub(super) fn settle_readers(&mut self, landed: &Landed, now: Timestamp) -> Result<(), Trouble> {
        self.hand_over.committed(landed, now);
        if !self.hand_over.is_on {
            return Ok(());
        }
        for (at, _) in &landed.0 {
            for reader in 0..self.hand_over.topics[usize::from(at.topic.0)].sub_topologies.len() {
                let sub_topology = self.hand_over.topics[usize::from(at.topic.0)].sub_topologies[reader];
                let lag = (sub_topology, *at);
                if self.lags(lag, now) && !self.hand_over.lagging.contains(&lag) {
                    self.hand_over.lagging.push(lag);
                }
            }
        }
        if self.hand_over.wait_until.is_none() && !self.hand_over.lagging.is_empty() {
            self.hand_over.wait_until = Some(now + CATCH_UP_MS);
            self.steer_all()?;
        }
        Ok(())
    }

    /// Whether a reader could be given records in memory, if only it had read what this thread wrote.
    fn lags(&mut self, (sub_topology, at): (SubTopologyId, TopicPartition), now: Timestamp) -> bool {
        let log = self.hand_over.log(at);
        let Some(ours) = log.ours.filter(|_| log.is_ours && log.not_before <= now) else {
            return false;
        };
        self.assigned.get_mut(&(sub_topology, at.partition)).is_some_and(|assigned| {
            assigned.state() == TaskState::Running
                && assigned.backlog.is_empty()
                && assigned.input_mut(at.topic).is_some_and(|i| i.source == Source::Broker && i.position < ours)
        })
    }

    /// Between two transactions: readers that go back to the broker, those that have caught up or never will, and
    /// records of strangers where nobody reads.
    pub(super) fn look_after_readers(&mut self, now: Timestamp) -> Result<(), Trouble> {
        if !self.hand_over.is_on || self.transaction.is_some() || !self.hand_over.is_idle() {
            return Ok(());
        }
        if let Some(until) = self.hand_over.wait_until {
            self.look_after_lagging(now, until)?;
        }
        if now - self.hand_over.looked_at >= LOOK_EVERY_MS {
            self.hand_over.looked_at = now;
            self.look_for_strangers(now)?;
        }
        self.return_readers()
    }

    /// Goes on as soon as all have caught up, or none has got on for a while.
    fn look_after_lagging(&mut self, now: Timestamp, until: Timestamp) -> Result<(), Trouble> {
        let mut lagging = std::mem::take(&mut self.hand_over.lagging);
        lagging.retain(|lag| self.lags(*lag, now));
        let position = |(sub_topology, at): &(SubTopologyId, TopicPartition)| {
            self.assigned.get(&(*sub_topology, at.partition)).and_then(|assigned| assigned.position(at.topic))
        };
        let reached = lagging.iter().filter_map(position).sum();
        if reached != self.hand_over.reached {
            self.hand_over.reached = reached;
            self.hand_over.wait_until = Some(now + CATCH_UP_MS);
        } else if now >= until {
            for (_, at) in lagging.drain(..) {
                self.hand_over.log(at).not_before = now + LAGGED_PAUSE_MS;
            }
        }
        self.hand_over.lagging = lagging;
        if self.hand_over.lagging.is_empty() {
            self.hand_over.wait_until = None;
            self.steer_all()?;
        }
        Ok(())
    }

    /// A reader that is paused sees nothing of what others write: the end of its partition tells.
    fn look_for_strangers(&mut self, now: Timestamp) -> Result<(), Trouble> {
        let mut watched: Vec<TopicPartition> = Vec::new();
        for assigned in self.assigned.values() {
            watched.extend(assigned.in_memory());
        }
        watched.sort_unstable();
        watched.dedup();
        if watched.is_empty() {
            return Ok(());
        }
        let bounds = match self.broker.bounds(&watched) {
            Ok(bounds) => bounds,
            Err(BrokerError::Retry(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for (at, bounds) in watched.into_iter().zip(bounds) {
            let log = self.hand_over.log(at);
            // Behind the last record there is its marker, or not yet.
            if log.ours.is_some_and(|ours| bounds.end <= ours + 1) {
                continue;
            }
            log.a_stranger_wrote(now);
            for assigned in self.assigned.values_mut().filter(|assigned| assigned.partition == at.partition) {
                assigned.leave_memory(at.topic);
            }
        }
        Ok(())
    }

    /// Lets the broker's readers go on where the records passed on in memory end.
    fn return_readers(&mut self) -> Result<(), Trouble> {
        let returning: Vec<_> = self.assigned.iter().filter(|(_, a)| a.is_returning()).map(|(key, _)| *key).collect();
        for key in returning {
            let Some(assigned) = self.assigned.get_mut(&key) else { continue };
            let positions = assigned.returned();
            self.broker.rewind(key.0, &positions)?;
            self.steer(key)?;
        }
        Ok(())
    }

    fn steer_all(&mut self) -> Result<(), Trouble> {
        let running: Vec<_> =
            self.assigned.iter().filter(|(_, a)| a.state() == TaskState::Running).map(|(key, _)| *key).collect();
        running.into_iter().try_for_each(|key| self.steer(key))
    }

    /// Opens the inputs of a running partition that may flow, and holds the others back: all while records wait, those
    /// that come in memory, and those from outside while readers catch up.
    pub(super) fn steer(&mut self, key: (SubTopologyId, i32)) -> Result<(), Trouble> {
        let Some(assigned) = self.assigned.get(&key) else { return Ok(()) };
        let waits = !assigned.backlog.is_empty();
        let flows = |input: &&crate::task::Input| {
            !waits && input.source == Source::Broker && !self.hand_over.holds(input.topic)
        };
        let (open, paused): (Vec<_>, Vec<_>) = assigned.inputs.iter().partition(flows);
        let named = |inputs: Vec<&crate::task::Input>| -> Vec<TopicPartition> {
            inputs.iter().map(|input| TopicPartition { topic: input.topic, partition: key.1 }).collect()
        };
        let (open, paused) = (named(open), named(paused));
        self.broker.set_flow(key.0, &paused, Flow::Paused)?;
        self.broker.set_flow(key.0, &open, Flow::Open)?;
        Ok(())
    }

    /// Partitions came or went: which of the logs here only this thread's processors write. Readers of the others go
    /// back to the broker.
    pub(super) fn find_writers(&mut self) {
        let topology = self.topology.clone();
        for topic in (0..topology.topics.len()).map(crate::topology::topic_id) {
            if self.hand_over.topics[usize::from(topic.0)].sub_topologies.is_empty() {
                continue;
            }
            for partition in 0..topology.topic(topic).partitions {
                let at = TopicPartition { topic, partition };
                let is_ours = writers_are_here(&topology, at, |key| self.assigned.contains_key(key));
                self.hand_over.log(at).is_ours = is_ours;
                for assigned in self.assigned.values_mut().filter(|a| !is_ours && a.partition == partition) {
                    assigned.leave_memory(topic);
                }
            }
        }
    }
}

/// Whether every task that may write a partition is here. A table of its writer is written on the writer's own partition
/// only; any other topic by all partitions of its writers.
fn writers_are_here(topology: &Topology, at: TopicPartition, is_here: impl Fn(&(SubTopologyId, i32)) -> bool) -> bool {
    topology.sub_topology_ids().all(|id| {
        let sub_topology = topology.sub_topology(id);
        sub_topology.processors.iter().map(|id| topology.processor(*id)).all(|writer| {
            if !writer.outputs.contains(&at.topic) {
                return true;
            }
            let is_own_table = writer.stores.iter().any(|store| store.tables.contains(&at.topic));
            let mut partitions = if is_own_table { at.partition..at.partition + 1 } else { 0..sub_topology.partitions };
            partitions.all(|partition| is_here(&(id, partition)))
        })
    })
}

impl AssignedPartition {
    /// Inputs whose records come in memory.
    fn in_memory(&self) -> impl Iterator<Item = TopicPartition> {
        let inputs = self.inputs.iter().filter(|input| matches!(input.source, Source::Memory { .. }));
        inputs.map(|input| TopicPartition { topic: input.topic, partition: self.partition })
    }

    /// An input goes back to the broker once the transaction has ended.
    fn leave_memory(&mut self, topic: TopicId) {
        if let Some(input) = self.input_mut(topic)
            && let Source::Memory { given } = input.source
        {
            input.source = Source::Returning { given };
        }
    }

    fn is_returning(&self) -> bool {
        self.inputs.iter().any(|input| matches!(input.source, Source::Returning { .. }))
    }

    /// Where the broker's readers go on that come back now.
    fn returned(&mut self) -> Vec<(TopicPartition, Offset)> {
        let partition = self.partition;
        let mut positions = Vec::new();
        for input in &mut self.inputs {
            if let Source::Returning { given } = input.source {
                positions.push((TopicPartition { topic: input.topic, partition }, given));
                input.source = Source::Broker;
            }
        }
        positions
    }
}
