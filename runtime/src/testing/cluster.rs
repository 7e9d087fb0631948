//! A cluster in memory: logs with committed records and markers, groups with positions and owners, transactions that are
//! whole or not there. Faults are injected per member. It has no open transactions that others could see: those belong
//! to the simulation, on the real broker core.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::io::{Bounds, Broker, BrokerError, Event, Flow, GroupOffsets, Landed};
use crate::record::{InputRecord, Offset, OutgoingRecord, SubTopologyId, TopicPartition};

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

#[derive(Default)]
struct State {
    logs: BTreeMap<TopicPartition, Vec<Option<Stored>>>,
    positions: BTreeMap<(SubTopologyId, TopicPartition), Offset>,
    owners: BTreeMap<(SubTopologyId, i32), usize>,
    queues: BTreeMap<usize, VecDeque<Event>>,
    transactions: u64,
    /// A broken broker: it takes commits from whoever lost its partitions. For negative controls.
    fences_nobody: bool,
}

/// The cluster; clones share it.
#[derive(Clone, Default)]
pub struct Cluster(Arc<Mutex<State>>);

impl Cluster {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Appends a record, as any producer would. Gives its offset.
    pub fn append(&self, to: TopicPartition, mut record: Stored) -> Offset {
        let mut state = self.state();
        let log = state.logs.entry(to).or_default();
        record.offset = Offset::try_from(log.len()).unwrap_or(Offset::MAX);
        log.push(Some(record));
        Offset::try_from(log.len() - 1).unwrap_or(Offset::MAX)
    }

    /// Every committed record of a partition.
    #[must_use]
    pub fn records(&self, at: TopicPartition) -> Vec<Stored> {
        self.state().logs.get(&at).map(|log| log.iter().flatten().cloned().collect()).unwrap_or_default()
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

    /// Forgets what a member was still to be told: its process is gone.
    pub fn forget(&self, member: usize) {
        let mut state = self.state();
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
    open: Option<Vec<(TopicPartition, Stored)>>,
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
            fault: None,
            crashed: false,
            inputs,
        }
    }

    /// Lets this go wrong the next time it can.
    pub fn inject(&mut self, fault: Fault) {
        self.fault = Some(fault);
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
    fn poll(&mut self, _wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        let mut state = self.cluster.state();
        if let Some(queue) = state.queues.get_mut(&self.member) {
            events.extend(queue.drain(..));
        }
        for (from, next) in &mut self.followed {
            let log = state.logs.get(from).map(Vec::as_slice).unwrap_or_default();
            let end = Offset::try_from(log.len()).unwrap_or(Offset::MAX);
            if *next < end {
                let records = log[usize::try_from(*next).unwrap_or(0)..].iter().flatten().cloned().collect();
                events.push(Event::Followed { from: *from, begin: *next, records, next: end });
                *next = end;
            }
        }
        let mut left = max_records;
        for ((sub_topology, from), reader) in &mut self.readers {
            let log = state.logs.get(from).map(Vec::as_slice).unwrap_or_default();
            let mut records = Vec::new();
            while reader.flow == Flow::Open && left > 0 {
                let Some(entry) = log.get(usize::try_from(reader.next).unwrap_or(usize::MAX)) else {
                    break;
                };
                reader.next += 1;
                if let Some(record) = entry {
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
        let state = self.cluster.state();
        let end = |at| state.logs.get(at).map_or(0, |log| Offset::try_from(log.len()).unwrap_or(Offset::MAX));
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

    fn commit(&mut self, offsets: &[GroupOffsets]) -> Result<Landed, BrokerError> {
        let records = self.open.take().expect("a transaction is open");
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
        let mut landed: BTreeMap<TopicPartition, Offset> = BTreeMap::new();
        let records = if fault == Some(Fault::CommitOffsetsOnly) { Vec::new() } else { records };
        for (to, mut record) in records {
            let log = state.logs.entry(to).or_default();
            record.offset = Offset::try_from(log.len()).unwrap_or(Offset::MAX);
            log.push(Some(record));
            landed.insert(to, Offset::try_from(log.len()).unwrap_or(Offset::MAX));
        }
        for to in landed.keys() {
            state.logs.entry(*to).or_default().push(None);
        }
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
            _ => Ok(Landed(landed.into_iter().collect())),
        }
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        self.open = None;
        Ok(())
    }

    fn recreate(&mut self) -> Result<(), BrokerError> {
        self.open = None;
        Ok(())
    }
}
