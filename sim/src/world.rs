//! The simulated world: time, chance, the network, the broker, and what waits for what. Everything that happens is an
//! event with a time; events of one time happen in the order they were made. Never runs a stream thread itself.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::sync::Arc;

use fastrand::Rng;
use millrace_broker::core::compaction::Compacted;
use millrace_broker::core::{Core, Isolation, PartitionKey, Settings, StorageError, Token, TopicPartition as Place};
use millrace_psp::MemoryProvider;
use millrace_runtime::{Answer, Call, Cleanup, InputRecord, Offset, SubTopologyId, TopicPartition, Topology};
use millrace_schemas::Codec;

use crate::batches;
use crate::client::member::{Member, Timer};
use crate::coverage::Coverage;
use crate::disk::{Contents, DyingDisk, StateDisk};
use crate::ingress::{FlightId, Heard, INGRESSES, Ingress};
use crate::network::{Reply, Request};
use crate::plan::{Fault, MS, Micros, Misfortune, Plan, SECOND, stream};
use crate::shop::Shop;

/// The world, shared by everything in it.
pub(crate) type Shared = Rc<RefCell<World>>;

/// When simulated time begins: 2026-01-01 UTC, milliseconds.
pub(crate) const EPOCH_MS: i64 = 1_767_225_600_000;
/// A client takes a request for lost after this.
pub(crate) const REQUEST_TIMEOUT: Micros = SECOND;
const TICK: Micros = 200 * MS;
const FETCH_BYTES: usize = 1 << 16;

/// One life of one stream thread; a thread that starts again is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ThreadId(pub(crate) u32);

/// Who asked the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asker {
    /// A call through the door.
    Door(ThreadId, u64),
    /// A group member, by itself.
    Member(ThreadId, SubTopologyId, u64),
    /// An ingress, for a submit.
    Ingress(FlightId),
}

impl Asker {
    fn number(self) -> u64 {
        match self {
            Self::Door(thread, _) | Self::Member(thread, ..) => u64::from(thread.0),
            Self::Ingress(flight) => (1 << 40) | flight.number,
        }
    }
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    Resume(ThreadId, u64),
    Arrive(Asker, Request, Return),
    Answer(Asker, Reply),
    Timer(ThreadId, SubTopologyId, Timer, u64),
    Tick,
    Background(usize),
    Call(ThreadId, Call, Return),
    CallAnswer(ThreadId, Answer),
    OppositeAnswer(ThreadId, Answer, Micros),
    Misfortune(Misfortune),
    LateRead(usize),
    Compact,
    Compacted(u64),
    Submit(usize),
    ClientTires(usize, u32),
    Submitted(usize, usize),
    OwnerAnswers(FlightId),
    PublishSilent(FlightId, u32),
    ClientHears(usize, Heard),
    IngressStarts(usize),
    Start(usize),
    BrokerStarts,
    DiskHasRoom(usize),
    SnapshotDisks,
    Outside(usize),
    Warehouse,
    SchemasLearned,
    Look,
    EndAll,
    StartAllAgain,
    RepeatCommand,
}

/// Whether an answer finds its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    Comes,
    IsLost,
    ComesTwice,
    /// With another answer, before or after it, that says that nothing is known.
    ComesWithUnknown,
    /// With a later answer that says the opposite.
    ComesWithOpposite,
}

/// In a box: the queue moves these about, and events are large.
struct Scheduled {
    at: Micros,
    number: u64,
    event: Box<Event>,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What the world knows of a stream thread that runs.
pub(crate) struct Slot {
    pub(crate) process: usize,
    /// Its name as a client, the same in every life.
    pub(crate) name: String,
    /// Counts its waits: what was to end an earlier one is void.
    pub(crate) ticket: u64,
    /// It waits in a poll, for anything at all.
    pub(crate) polling: bool,
    pub(crate) replies: BTreeMap<u64, Reply>,
    pub(crate) asked: BTreeSet<u64>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) members: BTreeMap<SubTopologyId, Member>,
    /// Partitions whose new records end a poll.
    pub(crate) interests: BTreeSet<TopicPartition>,
    pub(crate) must_stop: bool,
    pub(crate) inspect: bool,
}

/// What a stream thread holds, by processor, store and partition.
pub(crate) type Held = BTreeMap<(String, String, i32), BTreeMap<Vec<u8>, Vec<u8>>>;

/// What the world knows of a process, running or not.
#[derive(Default)]
pub(crate) struct ProcessState {
    pub(crate) disk: StateDisk,
    pub(crate) snapshot: Option<Contents>,
    pub(crate) paused_until: Micros,
    /// How far its clock is ahead, milliseconds; behind where that is less than none.
    pub(crate) clock_ahead: i64,
    pub(crate) background_due: bool,
}

/// See the module.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) topology: Arc<Topology>,
    pub(crate) codec: Codec,
    pub(crate) now: Micros,
    pub(crate) rng: Rng,
    queue: BinaryHeap<Reverse<Scheduled>>,
    scheduled: u64,
    pub(crate) core: Option<Core>,
    pub(crate) broker_disk: Arc<DyingDisk>,
    waiting: BTreeMap<Token, Asker>,
    next_token: u64,
    /// Counts the lives of the broker.
    broker_life: u64,
    compacted: Option<(Place, Result<Compacted, StorageError>)>,
    next_request: u64,
    keys: BTreeMap<PartitionKey, TopicPartition>,
    /// Up to where each partition of each topic is decided: nothing committed is beyond. Whoever looks for records looks
    /// here first, and mostly in vain.
    stable: Vec<Vec<Offset>>,
    /// Partitions of which there may be something new to read for whoever judges the run.
    pub(crate) advanced: BTreeSet<TopicPartition>,
    pub(crate) slots: BTreeMap<ThreadId, Slot>,
    pub(crate) processes: Vec<ProcessState>,
    pub(crate) provider: Arc<MemoryProvider>,
    pub(crate) calls_in_flight: usize,
    pub(crate) shop: Shop,
    pub(crate) ingresses: Vec<Ingress>,
    /// Inputs that give nothing to this group until then.
    pub(crate) fetches_held: BTreeMap<(SubTopologyId, TopicPartition), Micros>,
    /// Inputs of which, until then, what is read is often the last for a while.
    pub(crate) fetches_halting: BTreeMap<(SubTopologyId, TopicPartition), Micros>,
    pub(crate) held: Held,
    pub(crate) coverage: Coverage,
    pub(crate) violations: Vec<String>,
    /// No more faults.
    pub(crate) calm: bool,
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) digest: u64,
    pub(crate) steps: u64,
}

/// Writes a line of the trace, if somebody wants one.
macro_rules! trace {
    ($world:expr, $($text:tt)*) => {
        if $world.trace.is_some() {
            let line = format!($($text)*);
            $world.write_trace(&line);
        }
    };
}
pub(crate) use trace;

impl World {
    pub(crate) fn new(plan: Plan, topology: Arc<Topology>, codec: Codec, shop: Shop, traced: bool) -> Self {
        let mut world = Self {
            now: 0,
            rng: stream(plan.options.seed, "world", 0),
            queue: BinaryHeap::new(),
            scheduled: 0,
            core: None,
            broker_disk: Arc::new(DyingDisk::new()),
            waiting: BTreeMap::new(),
            next_token: 0,
            broker_life: 0,
            compacted: None,
            next_request: 0,
            keys: BTreeMap::new(),
            stable: topology.topics.iter().map(|topic| vec![0; count(topic.partitions)]).collect(),
            advanced: BTreeSet::new(),
            slots: BTreeMap::new(),
            processes: (0..plan.processes).map(|_| ProcessState::default()).collect(),
            provider: Arc::default(),
            calls_in_flight: 0,
            shop,
            ingresses: (0..INGRESSES).map(|_| Ingress::new()).collect(),
            fetches_held: BTreeMap::new(),
            fetches_halting: BTreeMap::new(),
            held: Held::new(),
            coverage: Coverage::default(),
            violations: Vec::new(),
            calm: false,
            trace: traced.then(Vec::new),
            digest: 0xcbf2_9ce4_8422_2325,
            steps: 0,
            plan,
            topology,
            codec,
        };
        world.start_broker();
        world.create_topics();
        world
    }

    pub(crate) fn write_trace(&mut self, line: &str) {
        let line = format!("{:>4}.{:06} {line}", self.now / SECOND, self.now % SECOND);
        if let Some(trace) = &mut self.trace {
            trace.push(line);
        }
    }

    /// Mixes what happens into one number: two runs are the same exactly when it is.
    fn note_step(&mut self, of: u64) {
        self.steps += 1;
        for part in [self.now, of] {
            self.digest = (self.digest ^ part).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }

    pub(crate) fn violate(&mut self, what: String) {
        trace!(self, "VIOLATION {what}");
        if self.violations.len() < 20 {
            self.violations.push(what);
        }
    }

    pub(crate) fn at(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        let number = self.scheduled;
        self.queue.push(Reverse(Scheduled { at: at.max(self.now), number, event: Box::new(event) }));
    }

    pub(crate) fn after(&mut self, pause: Micros, event: Event) {
        self.at(self.now + pause, event);
    }

    /// The next thing that happens; time moves to it.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let Reverse(next) = self.queue.pop()?;
        self.now = next.at;
        let kind = match &*next.event {
            Event::Resume(thread, ticket) => (u64::from(thread.0) << 32) ^ ticket,
            Event::Arrive(asker, ..) => (1 << 60) | asker.number(),
            Event::Answer(asker, _) => (2 << 60) | asker.number(),
            _ => (3 << 60) | next.number,
        };
        self.note_step(kind);
        Some(*next.event)
    }

    pub(crate) fn chance(&mut self, of_a_million: u32) -> bool {
        of_a_million > 0 && self.rng.u32(..1_000_000) < of_a_million
    }

    /// Draws whether a fault happens now. Drawn also where it may not: the run is the same until it would have happened.
    pub(crate) fn strikes(&mut self, fault: Fault, of_a_million: u32) -> bool {
        let strikes = !self.calm && self.chance(of_a_million) && self.plan.options.faults.has(fault);
        if strikes {
            self.coverage.fired(fault);
        }
        strikes
    }

    /// Milliseconds since 1970 as the broker and the people outside have them.
    pub(crate) fn now_ms(&self) -> i64 {
        EPOCH_MS + i64::try_from(self.now / MS).unwrap_or(i64::MAX)
    }

    // ---- stream threads ------------------------------------------------------------------------------------------------

    /// Lets a thread go on soon.
    pub(crate) fn wake(&mut self, thread: ThreadId) {
        let pause = self.rng.u64(5..120);
        if let Some(slot) = self.slots.get(&thread) {
            let ticket = slot.ticket;
            self.after(pause, Event::Resume(thread, ticket));
        }
    }

    /// The same, if it waits in a poll.
    pub(crate) fn wake_poll(&mut self, thread: ThreadId) {
        if self.slots.get(&thread).is_some_and(|slot| slot.polling) {
            self.wake(thread);
        }
    }

    /// Until when the process of a thread sleeps, if it does.
    pub(crate) fn asleep_until(&self, thread: ThreadId) -> Option<Micros> {
        let process = self.slots.get(&thread)?.process;
        let until = self.processes[process].paused_until;
        (until > self.now).then_some(until)
    }

    // ---- the network ---------------------------------------------------------------------------------------------------

    fn distance(&mut self) -> Micros {
        let slow = self.plan.weather.slow;
        if self.strikes(Fault::RequestSlow, slow) { self.rng.u64(50 * MS..900 * MS) } else { self.rng.u64(60..400) }
    }

    /// Sends a request of a door call; its number is that of the reply.
    pub(crate) fn ask(&mut self, thread: ThreadId, request: Request) -> u64 {
        self.next_request += 1;
        let number = self.next_request;
        if let Some(slot) = self.slots.get_mut(&thread) {
            slot.asked.insert(number);
        }
        self.send(Asker::Door(thread, number), request);
        number
    }

    pub(crate) fn send(&mut self, asker: Asker, request: Request) {
        trace!(self, "{:<5} asks    {}", self.name_of_asker(asker), request.say());
        let weather = self.plan.weather;
        let there = self.distance();
        if self.strikes(Fault::RequestLost, weather.lost) {
            trace!(self, "{:<5}         is lost", self.name_of_asker(asker));
            return;
        }
        // Longer than the sender waits: its repetition overtakes it.
        let held = if request.ends_transaction() {
            self.strikes(Fault::EndHeld, weather.end_held)
        } else {
            self.strikes(Fault::RequestHeld, weather.held)
        };
        if held {
            let pause = self.rng.u64(REQUEST_TIMEOUT..12 * SECOND);
            trace!(self, "{:<5}         is held for {} ms", self.name_of_asker(asker), pause / MS);
            self.after(pause, Event::Arrive(asker, request, Return::IsLost));
            return;
        }
        let back = if self.strikes(Fault::AnswerLost, weather.answer_lost) { Return::IsLost } else { Return::Comes };
        self.after(there, Event::Arrive(asker, request, back));
    }

    /// A request has arrived at the broker.
    pub(crate) fn arrive(&mut self, asker: Asker, request: Request, back: Return) {
        let now = self.now_ms();
        let Some(core) = &mut self.core else {
            self.answer(asker, Reply::Disconnected, back);
            return;
        };
        self.next_token += 1;
        let token = Token(self.next_token);
        let reply = request.serve(core, now, token);
        if back == Return::IsLost && request.ends_transaction() {
            let refused = matches!(reply, Some(Reply::Done(Err(_))));
            let what = if refused { "late ends refused" } else { "late ends taken" };
            self.coverage.count(what, 1);
        }
        trace!(
            self,
            "broker does    {} of {}{}",
            request.say(),
            self.name_of_asker(asker),
            reply.as_ref().map_or(String::new(), |reply| format!(": {}", reply.say()))
        );
        if self.broker_disk.is_dead() {
            self.broker_ends();
            self.answer(asker, Reply::Disconnected, back);
            return;
        }
        match reply {
            Some(reply) => self.answer(asker, reply, back),
            None if back == Return::IsLost => {}
            None => {
                self.waiting.insert(token, asker);
            }
        }
        self.settle_core();
    }

    fn answer(&mut self, asker: Asker, reply: Reply, back: Return) {
        if back == Return::IsLost {
            trace!(self, "{:<5} gets    no answer", self.name_of_asker(asker));
            return;
        }
        let pause = self.distance();
        self.after(pause, Event::Answer(asker, reply));
    }

    /// Passes on what the core has to say by itself.
    pub(crate) fn settle_core(&mut self) {
        if self.broker_disk.is_dead() {
            self.broker_ends();
        }
        let Some(core) = &mut self.core else { return };
        let (replies, advanced) = (core.take_replies(), core.take_advanced());
        for (token, reply) in replies {
            if let Some(asker) = self.waiting.remove(&token) {
                self.answer(asker, reply.into(), Return::Comes);
            }
        }
        let advanced: BTreeSet<TopicPartition> =
            advanced.iter().filter_map(|key| self.keys.get(key)).copied().collect();
        if advanced.is_empty() {
            return;
        }
        self.note_stable(&advanced);
        self.advanced.extend(&advanced);
        let wanted = |slot: &Slot| slot.polling && advanced.iter().any(|at| slot.interests.contains(at));
        let threads: Vec<_> = self.slots.iter().filter(|(_, slot)| wanted(slot)).map(|(id, _)| *id).collect();
        for thread in threads {
            self.wake(thread);
        }
    }

    fn note_stable(&mut self, of: &BTreeSet<TopicPartition>) {
        let Some(core) = &self.core else { return };
        for at in of {
            let name = &self.topology.topic(at.topic).name;
            if let Ok(stable) = core.latest_offset(name, at.partition, Isolation::ReadCommitted) {
                self.stable[usize::from(at.topic.0)][count(at.partition)] = stable;
            }
        }
    }

    fn name_of_asker(&self, asker: Asker) -> String {
        match asker {
            Asker::Door(thread, _) | Asker::Member(thread, ..) => self.name_of(thread),
            Asker::Ingress(flight) => format!("ingress {}", flight.ingress),
        }
    }

    pub(crate) fn name_of(&self, thread: ThreadId) -> String {
        self.slots.get(&thread).map_or_else(|| format!("#{}", thread.0), |slot| slot.name.clone())
    }

    // ---- the broker ----------------------------------------------------------------------------------------------------

    pub(crate) fn start_broker(&mut self) {
        self.broker_disk.revive();
        let now = self.now_ms();
        let settings = Settings { min_session_timeout: 1, journal_rotation_bytes: 1 << 16, ..Settings::default() };
        let disk: Arc<dyn millrace_broker::core::disk::Disk> = self.broker_disk.clone();
        match Core::open(disk, settings, now) {
            Ok(mut core) => {
                core.renew_sessions(now);
                self.broker_life += 1;
                self.compacted = None;
                self.core = Some(core);
                trace!(self, "broker starts");
            }
            Err(error) => self.violate(format!("the broker does not start again: {error}")),
        }
        self.learn_keys();
        self.settle_core();
        // What it has not said before it ended.
        let all = self.keys.values().copied().collect();
        self.note_stable(&all);
        self.advanced.extend(all);
        let threads: Vec<_> = self.slots.keys().copied().collect();
        for thread in threads {
            self.wake_poll(thread);
        }
    }

    fn learn_keys(&mut self) {
        self.keys.clear();
        let Some(core) = &self.core else { return };
        for (topic, spec) in (0..).zip(&self.topology.topics) {
            for partition in 0..spec.partitions {
                if let Some(key) = core.partition_key(&spec.name, partition) {
                    self.keys.insert(key, TopicPartition { topic: millrace_runtime::TopicId(topic), partition });
                }
            }
        }
    }

    fn create_topics(&mut self) {
        let now = self.now_ms();
        let topology = self.topology.clone();
        for topic in &topology.topics {
            let mut configs = BTreeMap::new();
            configs.insert("cleanup.policy".to_owned(), topic.cleanup.as_str().to_owned());
            if topic.cleanup == Cleanup::Delete {
                configs.insert("retention.ms".to_owned(), "-1".to_owned());
            } else {
                configs.insert("segment.bytes".to_owned(), self.plan.segment_bytes.to_string());
                configs.insert("min.cleanable.dirty.ratio".to_owned(), "0.01".to_owned());
            }
            let core = self.core.as_mut().expect("the broker was just started");
            core.create_topic(now, &topic.name, topic.partitions, configs, false)
                .expect("an empty broker takes the topics of a checked topology");
        }
        self.learn_keys();
        if let Some(core) = &mut self.core {
            core.take_advanced();
        }
    }

    /// The broker's process is gone, and with it every answer on its way.
    pub(crate) fn broker_ends(&mut self) {
        if self.core.take().is_none() {
            return;
        }
        trace!(self, "broker ends");
        for asker in std::mem::take(&mut self.waiting).into_values() {
            self.answer(asker, Reply::Disconnected, Return::Comes);
        }
        let pause = self.shop.broker_rests;
        self.after(pause, Event::BrokerStarts);
    }

    pub(crate) fn tick(&mut self) {
        let now = self.now_ms();
        if let Some(core) = &mut self.core {
            core.tick(now);
        }
        self.settle_core();
        self.after(TICK, Event::Tick);
    }

    /// Rewrites one partition of a compacted topic. Whoever judges the run has read what goes: it has read everything.
    pub(crate) fn compact(&mut self) {
        let pause = self.rng.u64(SECOND / 2..3 * SECOND) * if self.calm { 8 } else { 1 };
        self.after(pause, Event::Compact);
        let now = self.now_ms();
        let Some(core) = self.core.as_mut().filter(|_| self.compacted.is_none()) else { return };
        let Some(job) = core.next_compaction(now) else { return };
        let at = job.partition().clone();
        self.compacted = Some((at, job.run()));
        let pause = self.rng.u64(MS..300 * MS);
        self.after(pause, Event::Compacted(self.broker_life));
        self.settle_core();
    }

    /// The rewritten segments take their place, if the broker still lives that wrote them.
    pub(crate) fn put_compacted(&mut self, life: u64) {
        if life != self.broker_life {
            return;
        }
        let now = self.now_ms();
        let Some((at, result)) = self.compacted.take() else { return };
        trace!(self, "broker compacts {}-{}", at.topic, at.partition);
        let Some(core) = &mut self.core else { return };
        self.coverage.count("compactions", u64::from(result.is_ok()));
        core.finish_compaction(now, &at, result);
        self.settle_core();
    }

    /// Every committed record of a partition.
    pub(crate) fn all_records(&self, at: TopicPartition) -> Vec<InputRecord> {
        let (mut all, mut next) = (Vec::new(), 0);
        loop {
            let (records, after) = self.fetch(at, next, usize::MAX);
            all.extend(records);
            if after == next {
                return all;
            }
            next = after;
        }
    }

    /// Committed records of a partition from a position on, at most so many, and where that leads.
    pub(crate) fn fetch(&self, at: TopicPartition, from: Offset, most: usize) -> (Vec<InputRecord>, Offset) {
        self.fetch_as(at, from, most, Isolation::ReadCommitted)
    }

    /// The same, or with whatever is there.
    pub(crate) fn fetch_as(
        &self,
        at: TopicPartition,
        from: Offset,
        most: usize,
        isolation: Isolation,
    ) -> (Vec<InputRecord>, Offset) {
        let Some(core) = &self.core else { return (Vec::new(), from) };
        if isolation == Isolation::ReadCommitted && self.stable[usize::from(at.topic.0)][count(at.partition)] <= from {
            return (Vec::new(), from);
        }
        let name = &self.topology.topic(at.topic).name;
        match core.fetch(name, at.partition, from, FETCH_BYTES, true, isolation) {
            Ok(fetched) => batches::committed_records(&fetched, from, most),
            Err(_) => (Vec::new(), from),
        }
    }
}

/// A number of partitions, or of one, as a place in a list.
fn count(of: i32) -> usize {
    usize::try_from(of).expect("partitions count from 0")
}
