//! The engine's door to the simulated broker: the model of `worker/src/kafka_broker` and the client library under it.
//! Every call through it lets the others of the world go on. The rules are the worker's: a rebalance is held until the
//! engine has answered it, companion inputs sit with the leading one, nothing old is given after a rewind, positions of a
//! member in no generation are not sent, a producer that may have repeated itself is replaced.
//!
//! Simpler than the library: a poll reads straight from the log, and records are sent in few, whole requests.

pub(crate) mod assignor;
pub(crate) mod member;
mod producer;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use corosensei::Yielder;
use millrace_broker::core::{CommitAs, FetchedOffset, Isolation, TopicPartition as Place};
use millrace_runtime::{
    Bounds, Broker, BrokerError, Event, Flow, GroupOffsets, Landed, Offset, Origin, OutgoingRecord, SubTopologyId,
    TopicPartition, Topology,
};
use millrace_schemas::decode_json;

use self::member::{Member, Rebalance};
use self::producer::Producer;
pub(crate) use self::reader::SimReader;
use crate::batches::{ANONYMOUS, Draft};
use crate::defects::{self, ClientDefect};
use crate::network::{Reply, Request};
use crate::plan::{Fault, MS, Micros, Misfortune, SECOND};
use crate::world::{REQUEST_TIMEOUT, Shared, ThreadId, World, trace};

const QUESTION: Micros = 5 * SECOND;
const RETRY: Micros = 50 * MS;

/// How a thread waits and asks.
pub(crate) struct Line<'y> {
    pub(crate) world: Shared,
    pub(crate) thread: ThreadId,
    pub(crate) name: String,
    yielder: &'y Yielder<(), ()>,
    topology: Arc<Topology>,
    flush_at: usize,
}

impl<'y> Line<'y> {
    pub(crate) fn new(world: Shared, thread: ThreadId, yielder: &'y Yielder<(), ()>) -> Self {
        let (name, topology, flush_at) = {
            let world = world.borrow();
            (world.name_of(thread), world.topology.clone(), world.plan.flush_at)
        };
        Self { world, thread, name, yielder, topology, flush_at }
    }

    fn now(&self) -> Micros {
        self.world.borrow().now
    }

    fn has(&self, defect: ClientDefect) -> bool {
        defects::is_planted(defect)
    }

    /// Lets the others go on until `until`, or until somebody wakes this thread.
    fn wait(&self, until: Micros) {
        {
            let mut world = self.world.borrow_mut();
            let Some(slot) = world.slots.get_mut(&self.thread) else { return };
            slot.ticket += 1;
            let ticket = slot.ticket;
            world.at(until, crate::world::Event::Resume(self.thread, ticket));
        }
        self.yielder.suspend(());
    }

    /// Now and then a process falls asleep in the middle of a commit, and sends the rest of it when it wakes.
    fn doze(&self) {
        let nod = {
            let mut world = self.world.borrow_mut();
            let process = world.slots.get(&self.thread).map(|slot| slot.process);
            match process {
                Some(number) if world.strikes(Fault::ProcessPaused, 1_200) => {
                    let until = world.now + world.rng.u64(4 * SECOND..14 * SECOND);
                    trace!(world, "{:<5} falls asleep in a commit", self.name);
                    let process = &mut world.processes[number];
                    process.paused_until = process.paused_until.max(until);
                    succeed(&mut world, number);
                    true
                }
                _ => false,
            }
        };
        if nod {
            self.sleep(MS);
        }
    }

    pub(crate) fn sleep(&self, pause: Micros) {
        let until = self.now() + pause;
        while self.now() < until {
            self.wait(until);
        }
    }

    /// Asks the broker; no answer in time is `None`.
    fn ask(&self, request: Request) -> Option<Reply> {
        let (number, until) = {
            let mut world = self.world.borrow_mut();
            let until = world.now + REQUEST_TIMEOUT;
            (world.ask(self.thread, request), until)
        };
        loop {
            self.wait(until);
            let mut world = self.world.borrow_mut();
            let now = world.now;
            let slot = world.slots.get_mut(&self.thread)?;
            if let Some(reply) = slot.replies.remove(&number) {
                return Some(reply);
            }
            if now >= until {
                slot.asked.remove(&number);
                return None;
            }
        }
    }

    /// A question without consequences, asked again until it is answered.
    fn question<T>(&self, what: &str, request: &Request, read: impl Fn(Reply) -> Option<T>) -> Result<T, BrokerError> {
        let deadline = self.now() + QUESTION;
        loop {
            if let Some(answer) = self.ask(request.clone()).and_then(&read) {
                return Ok(answer);
            }
            if self.now() > deadline {
                return Err(BrokerError::Retry(format!("{what}: no answer")));
            }
            self.sleep(RETRY);
        }
    }

    /// For the trace: what a record says of whom.
    fn note_record(&self, record: &OutgoingRecord<'_>) {
        let mut world = self.world.borrow_mut();
        if world.trace.is_none() {
            return;
        }
        let name = world.topology.name_of(record.to);
        let topic = &world.topology.topic(record.to.topic).name;
        let json = record.value.and_then(|value| decode_json(&world.codec, topic, value).ok()).unwrap_or_default();
        let field = |field: &str| json.get(field).map(|value| format!(" {field}={value}")).unwrap_or_default();
        let what =
            ["kind", "state", "status", "version", "reason", "on_hand", "reserved", "detail"].map(field).concat();
        let key = String::from_utf8_lossy(record.key).into_owned();
        trace!(world, "{:<5} writes  {name} {key}{what}", self.name);
    }

    fn place(&self, at: TopicPartition) -> Place {
        Place::new(&*self.topology.topic(at.topic).name, at.partition)
    }

    fn committed(
        &self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError> {
        let request = Request::FetchOffsets {
            group: self.topology.group(sub_topology),
            partitions: partitions.iter().map(|at| self.place(*at)).collect(),
            stable: !self.has(ClientDefect::PendingPositionsIgnored),
        };
        self.question("committed offsets", &request, |reply| match reply {
            Reply::Offsets(offsets) if !offsets.contains(&FetchedOffset::Unstable) => Some(
                offsets
                    .into_iter()
                    .map(|offset| match offset {
                        FetchedOffset::Committed(offset) => Some(offset.offset),
                        FetchedOffset::None | FetchedOffset::Unstable => None,
                    })
                    .collect(),
            ),
            _ => None,
        })
    }

    fn bounds(&self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let early = self.has(ClientDefect::BoundsAtLastStable);
        let request = Request::Bounds {
            partitions: partitions.iter().map(|at| self.place(*at)).collect(),
            isolation: if early { Isolation::ReadCommitted } else { Isolation::ReadUncommitted },
        };
        self.question("bounds of partitions", &request, |reply| match reply {
            Reply::Bounds(bounds) => Some(bounds),
            _ => None,
        })
    }

    /// Says which partitions this thread waits for.
    fn wait_for(&self, partitions: impl Iterator<Item = TopicPartition>) {
        if let Some(slot) = self.world.borrow_mut().slots.get_mut(&self.thread) {
            slot.interests = partitions.collect();
        }
    }

    /// Waits as [`Line::wait`], and for records of the partitions it waits for.
    fn idle(&self, until: Micros) {
        self.set_polling(true);
        self.wait(until);
        self.set_polling(false);
    }

    fn set_polling(&self, polling: bool) {
        if let Some(slot) = self.world.borrow_mut().slots.get_mut(&self.thread) {
            slot.polling = polling;
        }
    }

    /// Whether something but records has come.
    fn has_news(&self) -> bool {
        let world = self.world.borrow();
        let slot = world.slots.get(&self.thread);
        slot.is_some_and(|slot| !slot.answers.is_empty() || slot.must_stop || slot.inspect)
    }
}

/// Reads on wherever something is followed.
fn read_followed(followed: &mut BTreeMap<TopicPartition, Offset>, world: &World, events: &mut Vec<Event>) {
    let isolation = if defects::is_planted(ClientDefect::RestoredToHighWatermark) {
        Isolation::ReadUncommitted
    } else {
        Isolation::ReadCommitted
    };
    for (from, begin) in followed {
        let (records, next) = world.fetch_as(*from, *begin, 200, isolation);
        if next > *begin {
            events.push(Event::Followed { from: *from, begin: *begin, records, next });
            *begin = next;
        }
    }
}

/// Whoever takes over from a process that sleeps in a commit may go before it knows where the sleeper's inputs stand.
fn succeed(world: &mut World, sleeper: usize) {
    if world.rng.bool() {
        return;
    }
    let count = world.plan.processes;
    let process = (sleeper + world.rng.usize(1..count)) % count;
    let at = world.now + world.rng.u64(6_500 * MS..12 * SECOND);
    let lasts = world.rng.u64(SECOND..6 * SECOND);
    if world.plan.options.faults.has(Fault::ProcessStopped) {
        world.at(at, crate::world::Event::Misfortune(Misfortune { at, fault: Fault::ProcessStopped, process, lasts }));
    }
}

struct Reader {
    next: Offset,
    flow: Flow,
}

/// See the module.
pub(crate) struct SimBroker<'y> {
    line: Line<'y>,
    producer: Producer,
    readers: BTreeMap<(SubTopologyId, TopicPartition), Reader>,
    followed: BTreeMap<TopicPartition, Offset>,
    /// Partitions of a revocation that are not released yet.
    unreleased: BTreeMap<SubTopologyId, BTreeSet<i32>>,
    records_at_once: usize,
}

impl<'y> SimBroker<'y> {
    /// Opens the producer, which fences an earlier one of the same name, and joins the groups.
    pub(crate) fn connect(line: Line<'y>, hosted: &[SubTopologyId]) -> Result<Self, BrokerError> {
        let mut producer = Producer::new(format!("{}-{}", line.topology.application, line.name));
        producer.replace(&line)?;
        let records_at_once = {
            let mut world = line.world.borrow_mut();
            for sub in hosted {
                let spec = line.topology.sub_topology(*sub);
                let instance = format!("{}-{}", line.name, spec.name);
                let is_static = world.plan.static_members;
                let member = Member::new(line.topology.group(*sub), instance, is_static, spec.partitions);
                if let Some(slot) = world.slots.get_mut(&line.thread) {
                    slot.members.insert(*sub, member);
                }
                world.member_begins(line.thread, *sub);
            }
            world.plan.records_at_once
        };
        Ok(Self {
            line,
            producer,
            readers: BTreeMap::new(),
            followed: BTreeMap::new(),
            unreleased: BTreeMap::new(),
            records_at_once,
        })
    }

    /// What is there now: rebalances behind records, as the client library gives them.
    fn look(&mut self, most: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        let shared = self.line.world.clone();
        let mut world = shared.borrow_mut();
        let world = &mut *world;
        if let Some(slot) = world.slots.get(&self.line.thread)
            && let Some(fenced) = slot.members.values().find_map(|member| member.fenced.clone())
        {
            return Err(BrokerError::Fenced(fenced));
        }
        if most > 0 {
            self.read(world, most, events);
            read_followed(&mut self.followed, world, events);
        }
        let Some(slot) = world.slots.get_mut(&self.line.thread) else { return Ok(()) };
        for (sub, member) in &mut slot.members {
            let sub_topology = *sub;
            let list = |partitions: &BTreeSet<i32>| partitions.iter().copied().collect();
            events.extend(member.tell().map(|rebalance| match rebalance {
                Rebalance::Assign(partitions) => Event::Assigned { sub_topology, partitions: list(&partitions) },
                Rebalance::Revoke(partitions) => {
                    let event = Event::Revoked { sub_topology, partitions: list(&partitions) };
                    self.unreleased.insert(sub_topology, partitions);
                    event
                }
                Rebalance::Lose(partitions) => {
                    let event = Event::Lost { sub_topology, partitions: list(&partitions) };
                    self.unreleased.insert(sub_topology, partitions);
                    event
                }
            }));
        }
        Ok(())
    }

    /// Begins anywhere, so that topics come in no order among themselves. Of some the second half comes after all others, as
    /// it may from a client with a queue: what happens in between must not let it jump over the first.
    fn read(&mut self, world: &mut World, most: usize, events: &mut Vec<Event>) {
        let open: Vec<_> =
            self.readers.iter().filter(|(_, reader)| reader.flow == Flow::Open).map(|(key, _)| *key).collect();
        if open.is_empty() {
            return;
        }
        let first = world.rng.usize(..open.len());
        let mut left = most;
        let mut behind = Vec::new();
        for step in 0..open.len() {
            let (sub_topology, from) = open[(first + step) % open.len()];
            if world.fetches_held.get(&(sub_topology, from)).is_some_and(|until| *until > world.now) {
                continue;
            }
            let Some(reader) = self.readers.get_mut(&(sub_topology, from)) else { continue };
            let (mut records, next) = world.fetch(from, reader.next, self.records_at_once.min(left));
            reader.next = next;
            if records.is_empty() {
                continue;
            }
            left -= records.len();
            if world.fetches_halting.get(&(sub_topology, from)).is_some_and(|until| *until > world.now)
                && world.rng.u8(..4) == 0
            {
                let until = world.now + world.rng.u64(6 * SECOND..12 * SECOND);
                world.fetches_held.insert((sub_topology, from), until);
            }
            if records.len() > 1 && world.rng.u8(..4) == 0 {
                let second = records.split_off(records.len() / 2);
                behind.push(Event::Records { sub_topology, from, records: second });
            }
            events.push(Event::Records { sub_topology, from, records });
            if left == 0 {
                break;
            }
        }
        events.extend(behind);
    }

    /// Tells the world which partitions this thread waits for.
    fn declare_interests(&self) {
        let open = self.readers.iter().filter(|(_, reader)| reader.flow == Flow::Open).map(|((_, at), _)| *at);
        self.line.wait_for(open.chain(self.followed.keys().copied()));
    }
}

impl Broker for SimBroker<'_> {
    fn poll(&mut self, wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        let until = self.line.now() + u64::try_from(wait.as_micros()).unwrap_or(0);
        let pause = self.line.world.borrow_mut().rng.u64(5..150);
        self.line.sleep(pause);
        let before = events.len();
        loop {
            self.look(max_records, events)?;
            if events.len() > before || self.line.now() >= until || self.line.has_news() {
                return Ok(());
            }
            self.line.idle(until);
        }
    }

    fn committed(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError> {
        self.line.committed(sub_topology, partitions)
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        self.line.bounds(partitions)
    }

    fn start(
        &mut self,
        sub_topology: SubTopologyId,
        positions: &[(TopicPartition, Offset)],
    ) -> Result<(), BrokerError> {
        for (at, next) in positions {
            self.readers.entry((sub_topology, *at)).or_insert(Reader { next: *next, flow: Flow::Paused });
        }
        self.line.world.borrow_mut().member_answered(self.line.thread, sub_topology);
        Ok(())
    }

    fn set_flow(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
        flow: Flow,
    ) -> Result<(), BrokerError> {
        for at in partitions {
            if let Some(reader) = self.readers.get_mut(&(sub_topology, *at)) {
                reader.flow = flow;
            }
        }
        self.declare_interests();
        Ok(())
    }

    fn rewind(
        &mut self,
        sub_topology: SubTopologyId,
        positions: &[(TopicPartition, Offset)],
    ) -> Result<(), BrokerError> {
        for (at, next) in positions.iter().filter(|_| !self.line.has(ClientDefect::ReadersNotRewound)) {
            if let Some(reader) = self.readers.get_mut(&(sub_topology, *at)) {
                reader.next = *next;
            }
        }
        Ok(())
    }

    fn release(&mut self, sub_topology: SubTopologyId, partitions: &[i32]) -> Result<(), BrokerError> {
        if partitions.is_empty() {
            return Ok(());
        }
        self.readers.retain(|(sub, at), _| *sub != sub_topology || !partitions.contains(&at.partition));
        let left = self.unreleased.entry(sub_topology).or_default();
        left.retain(|partition| !partitions.contains(partition));
        if left.is_empty() {
            self.line.world.borrow_mut().member_answered(self.line.thread, sub_topology);
        }
        self.declare_interests();
        Ok(())
    }

    fn follow(&mut self, partition: TopicPartition, from: Offset) -> Result<(), BrokerError> {
        self.followed.insert(partition, from);
        self.declare_interests();
        Ok(())
    }

    fn unfollow(&mut self, partition: TopicPartition) -> Result<(), BrokerError> {
        self.followed.remove(&partition);
        self.declare_interests();
        Ok(())
    }

    fn begin(&mut self) -> Result<(), BrokerError> {
        self.producer.begin(&self.line)
    }

    fn send(&mut self, record: OutgoingRecord<'_>) -> Result<(), BrokerError> {
        let letter = self.line.topology.topic(record.to.topic).origin == Origin::DeadLetters;
        if letter && self.line.has(ClientDefect::LettersOutsideTransaction) {
            let mut draft = Draft::default();
            draft.push(record.timestamp, Some(record.key), record.value, &record.headers.to_vec());
            let request = Request::Produce { batches: vec![(self.line.place(record.to), draft.seal(ANONYMOUS))] };
            return self.line.question("a letter", &request, |reply| matches!(reply, Reply::Produced(_)).then_some(()));
        }
        self.line.note_record(&record);
        self.producer.send(&record, &self.line)
    }

    fn flush(&mut self) -> Result<Landed, BrokerError> {
        self.producer.deliver(&self.line)?;
        Ok(self.producer.landed())
    }

    fn commit(&mut self, offsets: &[GroupOffsets]) -> Result<(), BrokerError> {
        for group in offsets.iter().filter(|group| !group.offsets.is_empty()) {
            let sub = group.sub_topology;
            let credentials = {
                let world = self.line.world.borrow();
                world.slots.get(&self.line.thread).and_then(|slot| slot.members.get(&sub)?.credentials())
            };
            let name = self.line.topology.group(sub);
            let who = match credentials {
                _ if self.line.has(ClientDefect::ZombieNotFenced) => CommitAs { generation: -1, ..CommitAs::default() },
                Some((generation, member, instance)) => CommitAs { generation, member, instance },
                None => {
                    return Err(BrokerError::Abort(format!(
                        "group {name}: the partitions are no longer this member's"
                    )));
                }
            };
            let list: Vec<_> = group.offsets.iter().map(|(at, next)| (self.line.place(*at), *next)).collect();
            if self.line.has(ClientDefect::PositionsOutsideTransaction) {
                let request = Request::CommitNow { group: name.clone(), who, offsets: list };
                self.line.question("positions", &request, |reply| matches!(reply, Reply::Done(_)).then_some(()))?;
                continue;
            }
            self.line.doze();
            self.producer.send_offsets(&self.line, &name, who, list)?;
        }
        self.line.doze();
        self.producer.commit(&self.line)?;
        trace!(self.line.world.borrow_mut(), "{:<5} knows   its commit stands", self.line.name);
        Ok(())
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        self.producer.abort(&self.line)
    }

    fn recreate(&mut self) -> Result<(), BrokerError> {
        self.producer.replace(&self.line)
    }
}
