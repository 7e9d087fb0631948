//! A cluster in memory: logs with records and markers, groups with positions and owners. A transaction's records take
//! their places when it is flushed; readers stop before them until it has ended. Faults are injected per member, and
//! records of strangers between its own. What else a broker may do belongs to the simulation, on the real broker core.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::io::{Bounds, Broker, BrokerError, Event, Flow, GroupOffsets, Landed};
use crate::record::{InputRecord, Offset, OutgoingRecord, SubTopologyId, TopicPartition};
use crate::standby::Reader as OutsideReader;

/// A record as it stands in a log.
pub type Stored = InputRecord;

/// What goes wrong next for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The commit fails and nothing of it stands.
    AbortCommit,
    /// The commit stands, but its answer is lost.
    LoseCommitAnswer,
    /// The commit neither stands nor is answered.
    LoseCommit,
    /// A record cannot be sent.
    FailSend,
    /// A broken broker: the positions are committed, the records are not. For negative controls.
    CommitOffsetsOnly,
    /// A broken broker: the records are committed, the positions are not. For negative controls.
    CommitRecordsOnly,
    /// The process ends in the middle of its transaction: see [`super::Driver::crash`].
    CrashBeforeCommit,
    /// The process ends after its commit stands, before it knows.
    CrashAfterCommit,
}

/// What stands at an offset.
enum Entry {
    /// A record that readers of committed records see.
    Record(Stored),
    /// A record of this member's open transaction: readers stop before it.
    Open(usize, Stored),
    /// A marker, or a record whose transaction was aborted.
    Gap,
}

#[derive(Default)]
struct State {
    logs: BTreeMap<TopicPartition, Vec<Entry>>,
    /// Records that land just before the next ones a member sends there.
    strangers: BTreeMap<TopicPartition, Vec<Stored>>,
    positions: BTreeMap<(SubTopologyId, TopicPartition), Offset>,
    owners: BTreeMap<(SubTopologyId, i32), usize>,
    queues: BTreeMap<usize, VecDeque<Event>>,
    transactions: u64,
    /// A broken broker: it takes commits from whoever lost its partitions. For negative controls.
    fences_nobody: bool,
    /// A broken broker: it tells standbys that groups have processed everything. For negative controls.
    overstates: bool,
    /// No partition has a leader.
    leaderless: bool,
    asked_in_vain: u64,
}

/// The cluster; clones share it.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<State>>);

impl State {
    fn append(&mut self, to: TopicPartition, entry: impl FnOnce(Offset) -> Entry) -> Offset {
        let log = self.logs.entry(to).or_default();
        let offset = offset_of(log.len());
        log.push(entry(offset));
        offset
    }

    /// What readers of committed records may see of a partition from an offset on.
    fn readable(&self, at: TopicPartition, from: Offset) -> &[Entry] {
        let log = self.logs.get(&at).map(Vec::as_slice).unwrap_or_default();
        let log = log.get(usize::try_from(from).unwrap_or(usize::MAX)..).unwrap_or_default();
        let end = log.iter().position(|entry| matches!(entry, Entry::Open(..))).unwrap_or(log.len());
        &log[..end]
    }

    /// Ends the open transaction of a member: its records become `as_what`, a marker in each partition written.
    fn end(&mut self, member: usize, as_what: impl Fn(Stored) -> Entry) {
        for log in self.logs.values_mut() {
            let mut written = false;
            for entry in log.iter_mut().filter(|entry| matches!(entry, Entry::Open(by, _) if *by == member)) {
                written = true;
                if let Entry::Open(_, record) = std::mem::replace(entry, Entry::Gap) {
                    *entry = as_what(record);
                }
            }
            if written {
                log.push(Entry::Gap);
            }
        }
    }
}

fn offset_of(place: usize) -> Offset {
    Offset::try_from(place).unwrap_or(Offset::MAX)
}

fn records_of(entries: &[Entry]) -> impl Iterator<Item = &Stored> {
    entries.iter().filter_map(|entry| match entry {
        Entry::Record(record) => Some(record),
        Entry::Open(..) | Entry::Gap => None,
    })
}

impl Cluster {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends a record, as any producer would. Gives its offset.
    pub fn append(&self, to: TopicPartition, record: Stored) -> Offset {
        self.state().append(to, |offset| Entry::Record(Stored { offset, ..record }))
    }

    /// Lets a stranger's record land just before the next ones that a member sends to this partition.
    pub fn interpose(&self, to: TopicPartition, record: Stored) {
        self.state().strangers.entry(to).or_default().push(record);
    }

    /// Every committed record of a partition.
    #[must_use]
    pub fn records(&self, at: TopicPartition) -> Vec<Stored> {
        records_of(self.state().readable(at, 0)).cloned().collect()
    }

    /// How many transactions have committed.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.state().transactions
    }

    /// The committed position of a group.
    #[must_use]
    pub fn position(&self, sub_topology: SubTopologyId, at: TopicPartition) -> Option<Offset> {
        self.state().positions.get(&(sub_topology, at)).copied()
    }

    /// Gives a partition of a group to a member; whoever had it is told to give it up, or not told at all (a zombie).
    pub fn assign(&self, sub_topology: SubTopologyId, partition: i32, member: usize, before: Before) {
        let mut state = self.state();
        let old = state.owners.insert((sub_topology, partition), member);
        if let Some(old) = old.filter(|old| *old != member) {
            let event = match before {
                Before::IsTold => Some(Event::Lost { sub_topology, partitions: vec![partition] }),
                Before::IsAsleep => None,
            };
            state.queues.entry(old).or_default().extend(event);
        }
        state
            .queues
            .entry(member)
            .or_default()
            .push_back(Event::Assigned { sub_topology, partitions: vec![partition] });
    }

    /// Asks a member to give a partition up in good order.
    pub fn revoke(&self, sub_topology: SubTopologyId, partition: i32, member: usize) {
        let event = Event::Revoked { sub_topology, partitions: vec![partition] };
        self.state().queues.entry(member).or_default().push_back(event);
    }

    /// The committed positions of every group expire.
    pub fn forget_positions(&self) {
        self.state().positions.clear();
    }

    /// Breaks the broker: from now on it takes commits from members that have lost their partitions.
    pub fn fence_nobody(&self) {
        self.state().fences_nobody = true;
    }

    /// Breaks the broker: from now on it tells standbys that every group has processed everything.
    pub fn overstate_positions(&self) {
        self.state().overstates = true;
    }

    /// From now on nobody can tell where a partition begins and ends, or everybody can again.
    pub fn lead(&self, leads: bool) {
        self.state().leaderless = !leads;
    }

    /// How often that was asked in vain.
    #[must_use]
    pub fn asked_in_vain(&self) -> u64 {
        self.state().asked_in_vain
    }

    /// Forgets what a member was still to be told: its process is gone, and its open transaction with it.
    pub fn forget(&self, member: usize) {
        let mut state = self.state();
        state.end(member, |_| Entry::Gap);
        state.queues.remove(&member);
        state.owners.retain(|_, owner| *owner != member);
    }
}

/// What the owner before knows when a partition is given to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It is told that it lost the partition.
    IsTold,
    /// It sleeps and knows nothing.
    IsAsleep,
}

struct Reader {
    next: Offset,
    flow: Flow,
}

/// The door of one member to the cluster.
pub struct MemoryBroker {
    cluster: Cluster,
    member: usize,
    readers: BTreeMap<(SubTopologyId, TopicPartition), Reader>,
    followed: BTreeMap<TopicPartition, Offset>,
    /// What the open transaction holds and has not flushed.
    open: Option<Vec<(TopicPartition, Stored)>>,
    landed: BTreeMap<TopicPartition, Range<Offset>>,
    may_wait: Duration,
    fault: Option<Fault>,
    crashed: bool,
    inputs: BTreeMap<SubTopologyId, Vec<crate::record::TopicId>>,
}

impl MemoryBroker {
    /// The door of a member.
    #[must_use]
    pub fn new(cluster: &Cluster, member: usize, topology: &crate::Topology) -> Self {
        let inputs = topology.sub_topology_ids().map(|id| (id, topology.sub_topology(id).inputs.clone())).collect();
        Self {
            cluster: cluster.clone(),
            member,
            readers: BTreeMap::new(),
            followed: BTreeMap::new(),
            open: None,
            landed: BTreeMap::new(),
            may_wait: Duration::ZERO,
            fault: None,
            crashed: false,
            inputs,
        }
    }

    /// Lets this go wrong the next time it can.
    pub fn inject(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// How long the last poll was allowed to wait. It never waits.
    #[must_use]
    pub fn may_wait(&self) -> Duration {
        self.may_wait
    }

    /// Whether an injected crash has happened.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.crashed
    }

    fn take_fault(&mut self, which: &[Fault]) -> Option<Fault> {
        self.fault.take_if(|fault| which.contains(fault))
    }
}

impl Broker for MemoryBroker {
    fn poll(&mut self, wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        self.may_wait = wait;
        let mut state = self.cluster.state();
        if let Some(queue) = state.queues.get_mut(&self.member) {
            events.extend(queue.drain(..));
        }
        for (from, next) in &mut self.followed {
            let entries = state.readable(*from, *next);
            if !entries.is_empty() {
                let end = *next + offset_of(entries.len());
                let records = records_of(entries).cloned().collect();
                events.push(Event::Followed { from: *from, begin: *next, records, next: end });
                *next = end;
            }
        }
        let mut left = max_records;
        for ((sub_topology, from), reader) in &mut self.readers {
            if reader.flow == Flow::Paused {
                continue;
            }
            let mut records = Vec::new();
            for entry in state.readable(*from, reader.next) {
                if left == 0 {
                    break;
                }
                reader.next += 1;
                if let Entry::Record(record) = entry {
                    records.push(record.clone());
                    left -= 1;
                }
            }
            if !records.is_empty() {
                events.push(Event::Records { sub_topology: *sub_topology, from: *from, records });
            }
        }
        Ok(())
    }

    fn committed(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError> {
        let state = self.cluster.state();
        Ok(partitions.iter().map(|at| state.positions.get(&(sub_topology, *at)).copied()).collect())
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        let mut state = self.cluster.state();
        if state.leaderless {
            state.asked_in_vain += 1;
            return Err(BrokerError::Retry("there is no leader".into()));
        }
        let end = |at| state.logs.get(at).map_or(0, |log| offset_of(log.len()));
        Ok(partitions.iter().map(|at| Bounds { start: 0, end: end(at) }).collect())
    }

    fn start(
        &mut self,
        sub_topology: SubTopologyId,
        positions: &[(TopicPartition, Offset)],
    ) -> Result<(), BrokerError> {
        for (at, next) in positions {
            assert!(self.inputs[&sub_topology].contains(&at.topic), "only inputs are started");
            self.readers.insert((sub_topology, *at), Reader { next: *next, flow: Flow::Paused });
        }
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
        Ok(())
    }

    fn rewind(
        &mut self,
        sub_topology: SubTopologyId,
        positions: &[(TopicPartition, Offset)],
    ) -> Result<(), BrokerError> {
        for (at, next) in positions {
            if let Some(reader) = self.readers.get_mut(&(sub_topology, *at)) {
                reader.next = *next;
            }
        }
        Ok(())
    }

    fn release(&mut self, sub_topology: SubTopologyId, partitions: &[i32]) -> Result<(), BrokerError> {
        self.readers.retain(|(sub, at), _| *sub != sub_topology || !partitions.contains(&at.partition));
        Ok(())
    }

    fn follow(&mut self, partition: TopicPartition, from: Offset) -> Result<(), BrokerError> {
        self.followed.insert(partition, from);
        Ok(())
    }

    fn unfollow(&mut self, partition: TopicPartition) -> Result<(), BrokerError> {
        self.followed.remove(&partition);
        Ok(())
    }

    fn begin(&mut self) -> Result<(), BrokerError> {
        assert!(self.open.is_none(), "one transaction at a time");
        self.open = Some(Vec::new());
        self.landed.clear();
        Ok(())
    }

    fn send(&mut self, record: OutgoingRecord<'_>) -> Result<(), BrokerError> {
        if self.take_fault(&[Fault::FailSend]).is_some() {
            return Err(BrokerError::Abort("injected: a record could not be sent".into()));
        }
        let stored = Stored {
            offset: -1,
            timestamp: record.timestamp,
            key: Some(record.key.to_vec()),
            value: record.value.map(<[u8]>::to_vec),
            headers: record.headers.to_vec(),
        };
        self.open.as_mut().expect("a transaction is open").push((record.to, stored));
        Ok(())
    }

    fn flush(&mut self) -> Result<Landed, BrokerError> {
        let mut state = self.cluster.state();
        for (to, record) in self.open.as_mut().expect("a transaction is open").drain(..) {
            for stranger in state.strangers.remove(&to).unwrap_or_default() {
                state.append(to, |offset| Entry::Record(Stored { offset, ..stranger }));
            }
            let offset = state.append(to, |offset| Entry::Open(self.member, Stored { offset, ..record }));
            self.landed.entry(to).or_insert(offset..offset).end = offset + 1;
        }
        Ok(Landed(self.landed.iter().map(|(at, places)| (*at, places.clone())).collect()))
    }

    fn commit(&mut self, offsets: &[GroupOffsets]) -> Result<(), BrokerError> {
        let unflushed = self.open.take().expect("a transaction is open");
        assert!(unflushed.is_empty(), "a transaction is flushed before it is committed");
        let fault = self.take_fault(&[
            Fault::AbortCommit,
            Fault::LoseCommitAnswer,
            Fault::LoseCommit,
            Fault::CrashBeforeCommit,
            Fault::CrashAfterCommit,
            Fault::CommitOffsetsOnly,
            Fault::CommitRecordsOnly,
        ]);
        match fault {
            Some(Fault::AbortCommit) => {
                self.open = Some(Vec::new());
                return Err(BrokerError::Abort("injected: the commit was refused".into()));
            }
            Some(Fault::LoseCommit) => {
                return Err(BrokerError::Unknown("injected: no answer".into()));
            }
            Some(Fault::CrashBeforeCommit) => {
                self.crashed = true;
                return Err(BrokerError::Fatal("injected: crashed".into()));
            }
            _ => {}
        }
        let mut state = self.cluster.state();
        let foreign = offsets.iter().filter(|_| !state.fences_nobody).find(|group| {
            let owns =
                |at: &TopicPartition| state.owners.get(&(group.sub_topology, at.partition)) == Some(&self.member);
            !group.offsets.iter().all(|(at, _)| owns(at))
        });
        if let Some(group) = foreign {
            self.open = Some(Vec::new());
            return Err(BrokerError::Abort(format!("illegal generation in group {}", group.sub_topology.0)));
        }
        let records_count = fault != Some(Fault::CommitOffsetsOnly);
        state.end(self.member, |record| if records_count { Entry::Record(record) } else { Entry::Gap });
        for group in offsets.iter().filter(|_| fault != Some(Fault::CommitRecordsOnly)) {
            for (at, next) in &group.offsets {
                state.positions.insert((group.sub_topology, *at), *next);
            }
        }
        state.transactions += 1;
        match fault {
            Some(Fault::LoseCommitAnswer) => Err(BrokerError::Unknown("injected: the answer was lost".into())),
            Some(Fault::CrashAfterCommit) => {
                self.crashed = true;
                Err(BrokerError::Fatal("injected: crashed".into()))
            }
            _ => Ok(()),
        }
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        self.open = None;
        self.cluster.state().end(self.member, |_| Entry::Gap);
        Ok(())
    }

    fn recreate(&mut self) -> Result<(), BrokerError> {
        self.abort()
    }
}

impl OutsideReader for MemoryBroker {
    fn poll(&mut self, wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        Broker::poll(self, wait, max_records, events)
    }

    fn committed(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError> {
        if self.cluster.state().overstates {
            return Ok(Broker::bounds(self, partitions)?.into_iter().map(|bounds| Some(bounds.end)).collect());
        }
        Broker::committed(self, sub_topology, partitions)
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        Broker::bounds(self, partitions)
    }

    fn follow(&mut self, partition: TopicPartition, from: Offset) -> Result<(), BrokerError> {
        Broker::follow(self, partition, from)
    }

    fn unfollow(&mut self, partition: TopicPartition) -> Result<(), BrokerError> {
        Broker::unfollow(self, partition)
    }
}
