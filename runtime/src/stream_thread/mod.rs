//! A stream thread: the tasks assigned to it, one transactional producer, and the loop that takes records in, lets the
//! tasks work, and commits when it pays. Owns the order in which things happen; never a thread or a socket.
//!
//! One turn: what happened at the broker ▶ records ▶ answers ▶ deadlines ▶ commit when due ▶ write stores out.
//! Everything the tasks of a thread do between two commits is one transaction: outputs, changelogs, dead letters and
//! input positions of all consumer groups the thread hosts.

mod assignment;
mod commit;
mod hand_over;
mod process;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hand_over::HandOver;
pub use report::{About, Note, NoteLevel, Report};

use crate::global::GlobalTable;
use crate::io::{Answer, Broker, BrokerError, Caller, Clock, Event, Storage};
use crate::planted;
use crate::processor::ProcessorDefinition;
use crate::record::{Headers, InputRecord, Offset, ProcessorId, SubTopologyId, TaskId, Timestamp, TopicPartition};
use crate::step::Outbox;
use crate::store::{Key, Value};
use crate::task::{AssignedPartition, Source, TaskState};
use crate::topology::Topology;

const RECORDS_PER_POLL: usize = 4_000;
const DUE_PER_TURN: usize = 500;
const NOT_YET_PAUSE_MS: i64 = 50;
/// How often it is said that a restore waits for the same thing.
const STILL_WAITS_MS: i64 = 5_000;

/// Why a thread cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ThreadError {
    /// Another process runs with this one's transactional id, or the group gave its place away.
    #[error("fenced: {0}; start this process again, and give each process an instance name of its own")]
    Fenced(String),
    /// Something that must hold does not. The process must stop: nothing uncommitted was done.
    #[error("stopped: {0}")]
    Stopped(String),
}

/// What a turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Records, answers and deadlines handled, and records read for tables.
    pub handled: usize,
    /// Whether a transaction was committed.
    pub committed: bool,
}

/// What a stream thread is made of.
pub struct Parts<B> {
    /// The wiring, checked against the definitions ([`crate::check_definitions`]).
    pub topology: Arc<Topology>,
    /// Every processor of the topology.
    pub definitions: Vec<ProcessorDefinition>,
    /// The sub-topologies this thread hosts.
    pub sub_topologies: Vec<SubTopologyId>,
    /// Door to the broker.
    pub broker: B,
    /// Door to the disk.
    pub storage: Box<dyn Storage>,
    /// Door to the time.
    pub clock: Box<dyn Clock>,
    /// Door to external services.
    pub caller: Box<dyn Caller>,
    /// How many threads of this process share its memory budget.
    pub threads: usize,
}

/// See the module.
pub struct StreamThread<B> {
    topology: Arc<Topology>,
    definitions: Vec<Arc<ProcessorDefinition>>,
    hosted: Vec<SubTopologyId>,
    broker: B,
    storage: Box<dyn Storage>,
    clock: Box<dyn Clock>,
    caller: Box<dyn Caller>,
    threads: usize,
    /// Global tables by processor.
    globals: Vec<Vec<GlobalTable>>,
    globals_expected: bool,
    assigned: BTreeMap<(SubTopologyId, i32), AssignedPartition>,
    following: BTreeSet<TopicPartition>,
    /// Followed records that wait for a schema.
    held: Vec<Followed>,
    transaction: Option<Transaction>,
    outbox: Outbox,
    hand_over: HandOver,
    /// Records passed on in memory since the broker was polled.
    handed_this_turn: usize,
    headers: Headers,
    counts: Vec<(&'static str, &'static str)>,
    in_flight: HashMap<(TaskId, Key), String>,
    /// Answers that have come and are not taken yet. They outlive an abort: only who is told that its partition restores
    /// has its call made again.
    answers: VecDeque<Answer>,
    written_out_at: Timestamp,
    /// The partition whose stores were written out last.
    written_out: Option<(SubTopologyId, i32)>,
    /// When the broker is asked again where partitions stand, after it could not tell.
    ask_again_at: Timestamp,
    /// When it was last said that it could not.
    waits_said_at: Option<Timestamp>,
    /// How often every partition was put back to where the broker says it stands.
    rewinds: u64,
    report: Report,
    events: Vec<Event>,
}

/// A piece of a followed partition: every committed record from `begin` on and below `next`.
struct Followed {
    from: TopicPartition,
    begin: Offset,
    records: Vec<InputRecord>,
    next: Offset,
}

/// The open transaction.
struct Transaction {
    since: Timestamp,
    /// Whether the broker was told.
    begun: bool,
    records: usize,
    touched: BTreeSet<(SubTopologyId, i32)>,
}

/// What interrupts the work of a turn.
#[derive(Debug)]
enum Trouble {
    Broker(BrokerError),
    /// The stores of a task cannot be trusted.
    Rebuild(SubTopologyId, i32, ProcessorId, String),
    Stop(String),
}

impl From<BrokerError> for Trouble {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

/// The answer to a query for a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The committed state; `None` where there is none.
    State(Option<Value>),
    /// The task is not on this thread.
    NotHere,
    /// The task is here, but still catching up.
    Restoring,
}

impl<B: Broker> StreamThread<B> {
    /// A thread that waits for its first assignment.
    ///
    /// # Panics
    /// When a processor of the topology has no definition: [`crate::check_definitions`] finds that first.
    #[must_use]
    pub fn new(parts: Parts<B>) -> Self {
        let topology = parts.topology;
        let definitions: Vec<_> = topology
            .processors
            .iter()
            .map(|spec| {
                let found = parts.definitions.iter().find(|definition| definition.name == spec.name);
                Arc::new(found.expect("checked against the definitions").clone())
            })
            .collect();
        let globals = definitions.iter().map(|d| d.globals.iter().map(|_| GlobalTable::default()).collect()).collect();
        Self {
            written_out_at: parts.clock.now(),
            written_out: None,
            ask_again_at: 0,
            waits_said_at: None,
            hand_over: HandOver::new(&topology, &parts.sub_topologies),
            handed_this_turn: 0,
            topology,
            definitions,
            hosted: parts.sub_topologies,
            broker: parts.broker,
            storage: parts.storage,
            clock: parts.clock,
            caller: parts.caller,
            threads: parts.threads.max(1),
            globals,
            globals_expected: false,
            assigned: BTreeMap::new(),
            following: BTreeSet::new(),
            held: Vec::new(),
            transaction: None,
            outbox: Outbox::default(),
            headers: Headers::new(),
            counts: Vec::new(),
            in_flight: HashMap::new(),
            answers: VecDeque::new(),
            rewinds: 0,
            report: Report::default(),
            events: Vec::new(),
        }
    }

    /// One turn of the loop. Waits at most `wait` when there is nothing to do.
    ///
    /// # Errors
    /// [`ThreadError`]: the process must stop or start again. Every lesser trouble is handled here: the transaction is
    /// aborted, the overlay dropped, and the work done again.
    pub fn turn(&mut self, wait: Duration) -> Result<Turn, ThreadError> {
        let mut turn = Turn::default();
        let rewinds = self.rewinds;
        let mut events = std::mem::take(&mut self.events);
        let wait = self.patience(wait);
        let most = if self.over_budget() { 0 } else { RECORDS_PER_POLL };
        if let Err(error) = self.broker.poll(wait, most, &mut events) {
            self.settle_trouble(Trouble::Broker(error))?;
        }
        let idle = self.hand_over.is_idle() && !events.iter().any(|event| matches!(event, Event::Records { .. }));
        self.handed_this_turn = 0;
        for event in events.drain(..) {
            // Records polled before a rewind come again, from where their partition stands now. Taken in here they would
            // jump over those that were rewound, and offsets cannot tell: they have gaps.
            let old = self.rewinds != rewinds && !planted::is(planted::Defect::OldRecordsTaken);
            if old && matches!(event, Event::Records { .. }) {
                continue;
            }
            match self.take_in(event) {
                Ok(handled) => turn.handled += handled,
                Err(trouble) => self.settle_trouble(trouble)?,
            }
        }
        self.events = events;
        if let Err(trouble) = self.work(idle, &mut turn) {
            self.settle_trouble(trouble)?;
        }
        Ok(turn)
    }

    fn work(&mut self, idle: bool, turn: &mut Turn) -> Result<(), Trouble> {
        let now = self.clock.now();
        self.begin_restores()?;
        self.retry_held()?;
        turn.handled += self.take_handed()?;
        turn.handled += self.retry_backlogs(now)?;
        if !self.hand_over.is_catching_up() {
            turn.handled += self.take_answers()?;
            turn.handled += self.fire_deadlines(now)?;
        }
        if self.commit_is_due(now, idle) {
            turn.committed = self.commit()?;
        }
        self.look_after_readers(now)?;
        self.write_out(now);
        Ok(())
    }

    fn take_in(&mut self, event: Event) -> Result<usize, Trouble> {
        match event {
            Event::Records { sub_topology, from, records } => self.process_records(sub_topology, from, records),
            Event::Followed { from, begin, records, next } => {
                let read = records.len().max(1); // at least a position moved
                self.apply_followed(Followed { from, begin, records, next }).map(|()| read)
            }
            Event::Assigned { sub_topology, partitions } => self.assign(sub_topology, &partitions).map(|()| 0),
            Event::Revoked { sub_topology, partitions } => self.revoke(sub_topology, &partitions).map(|()| 0),
            Event::Lost { sub_topology, partitions } => self.lose(sub_topology, &partitions).map(|()| 0),
        }
    }

    /// How long the broker may keep us waiting: not at all while a transaction is open or work is ready. An answer to a
    /// call ends the wait by itself ([`Caller`]).
    fn patience(&self, wait: Duration) -> Duration {
        let now = self.clock.now();
        if self.transaction.is_some() || !self.hand_over.is_idle() {
            return Duration::ZERO;
        }
        let unlocated = self.assigned.values().any(|a| a.state() == TaskState::Created);
        let ask = u64::try_from(self.ask_again_at - now).unwrap_or(0);
        let ask = if unlocated { Duration::from_millis(ask) } else { wait };
        // A deadline that cannot fire yet, overdue as it may be, is nothing to hurry for.
        let fires = |a: &&AssignedPartition| a.state() == TaskState::Running && !self.hand_over.is_catching_up();
        let stores = self.assigned.values().filter(fires).flat_map(|a| &a.tasks).flat_map(|t| &t.stores);
        let next = stores.filter_map(|store| store.next_deadline().map(|(at, _)| at)).min();
        let next = next.map_or(wait, |at| Duration::from_millis(u64::try_from(at - now).unwrap_or(0)));
        let backlog = self.assigned.values().any(|a| !a.backlog.is_empty()) || !self.held.is_empty();
        let backlog = if backlog { Duration::from_millis(NOT_YET_PAUSE_MS.unsigned_abs()) } else { wait };
        wait.min(next).min(backlog).min(ask)
    }

    /// Finishes and leaves: commits, writes every store out, gives every partition up.
    ///
    /// # Errors
    /// [`ThreadError`].
    pub fn close(&mut self) -> Result<(), ThreadError> {
        if let Err(trouble) = self.commit() {
            self.settle_trouble(trouble)?;
        }
        let held: Vec<_> = self.assigned.keys().copied().collect();
        for (sub_topology, partition) in held {
            if let Err(trouble) = self.close_partition(sub_topology, partition) {
                self.settle_trouble(trouble)?;
            }
        }
        self.storage.settle();
        self.write_out_globals(self.clock.now());
        self.storage.settle();
        Ok(())
    }

    /// The committed state of a key, by names.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn query(&self, processor: &str, store: &str, partition: i32, key: &[u8]) -> Result<Query, String> {
        let Some(id) = self.topology.find_processor(processor) else {
            return Ok(Query::NotHere);
        };
        let here = self.assigned.values().filter(|a| a.partition == partition);
        let Some((assigned, task)) =
            here.filter_map(|a| a.tasks.iter().find(|t| t.id.processor == id).map(|t| (a, t))).next()
        else {
            return Ok(Query::NotHere);
        };
        if assigned.state() != TaskState::Running {
            return Ok(Query::Restoring);
        }
        let Some(at) = task.definition.stores.iter().position(|s| s.name == store) else {
            return Ok(Query::NotHere);
        };
        task.stores[at].get_committed(key).map(Query::State).map_err(|error| error.to_string())
    }

    /// Visits every committed state of a store, for inspection and verification. False when it is not here and running.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn scan(
        &self,
        processor: &str,
        store: &str,
        partition: i32,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool, String> {
        for assigned in self.assigned.values().filter(|a| a.partition == partition) {
            for task in assigned.tasks.iter().filter(|t| t.definition.name == processor) {
                let at = task.definition.stores.iter().position(|s| s.name == store);
                if let (Some(at), TaskState::Running) = (at, assigned.state()) {
                    return task.stores[at].scan_committed(visit).map(|()| true).map_err(|error| error.to_string());
                }
            }
        }
        Ok(false)
    }

    /// The tasks here and where they are in their life.
    pub fn tasks(&self) -> impl Iterator<Item = (TaskId, TaskState)> {
        self.assigned.values().flat_map(|a| a.tasks.iter().map(|task| (task.id, a.state())))
    }

    /// Whether the next report has something for the log.
    pub fn has_notes(&self) -> bool {
        !self.report.notes.is_empty()
    }

    /// Takes what happened since the last call, for metrics and logs.
    pub fn take_report(&mut self) -> Report {
        let mut report = std::mem::take(&mut self.report);
        for assigned in self.assigned.values_mut() {
            for need in &assigned.needs {
                let task = &assigned.tasks[need.task];
                let position = task.stores[need.store].position(need.from).unwrap_or_default();
                *report.restore_remaining.entry(task.id).or_default() += need.until - position;
            }
            for task in &mut assigned.tasks {
                let processed = std::mem::take(&mut task.processed);
                if processed > 0 {
                    *report.processed.entry(task.id).or_default() += processed;
                    report.newest.insert(task.id, task.newest);
                    report.ages_ms.entry(task.id.processor).or_default().append(&mut task.ages_ms);
                }
            }
        }
        for task in self.assigned.values().flat_map(|a| &a.tasks) {
            for (state, count, oldest) in task.stores.iter().flat_map(crate::store::Store::waiting) {
                let of = report.waiting.entry((task.id.processor, state)).or_insert((0, oldest));
                *of = (of.0 + count, of.1.min(oldest));
            }
        }
        for assigned in self.assigned.values() {
            let in_memory = assigned.inputs.iter().filter(|input| input.source != Source::Broker);
            report.in_memory.extend(in_memory.map(|input| {
                (assigned.sub_topology, TopicPartition { topic: input.topic, partition: assigned.partition })
            }));
        }
        for ((number, spec), tables) in (0..).zip(&self.topology.processors).zip(&self.globals) {
            for (topic, table) in spec.globals.iter().zip(tables) {
                for partition in 0..self.topology.topic(*topic).partitions {
                    if let Some(next) = table.position(partition) {
                        let from = TopicPartition { topic: *topic, partition };
                        report.globals.insert((ProcessorId(number), from), next);
                    }
                }
            }
        }
        report.calls_in_flight = self.in_flight.len();
        report.memtable_bytes = self.memtable_bytes();
        report
    }

    /// Breaks the engine: what was passed on in memory is believed to have landed where it was expected. For negative
    /// controls.
    #[cfg(any(test, feature = "testing"))]
    pub fn believe_what_is_expected(&mut self) {
        self.hand_over.unchecked = true;
    }

    /// The door to the broker, for tests.
    pub fn broker_mut(&mut self) -> &mut B {
        &mut self.broker
    }

    fn memtable_bytes(&self) -> usize {
        let stores = self.assigned.values().flat_map(|a| &a.tasks).flat_map(|t| &t.stores);
        let globals = self.globals.iter().flatten().map(GlobalTable::memtable_bytes);
        stores.map(crate::store::Store::memtable_bytes).chain(globals).sum()
    }

    fn over_budget(&self) -> bool {
        self.memtable_bytes() > 2 * self.topology.engine.memtable_bytes / self.threads
    }
}
