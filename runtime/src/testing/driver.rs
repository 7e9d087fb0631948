//! Whole topologies in memory, with the real engine: members are stream threads that start, stop, crash and fall asleep.
//! Commit intervals are those of the topology, so that batches and overlays are as in production.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::cluster::{Before, Cluster, Fault, MemoryBroker, Stored};
use super::doors::{ManualClock, MemoryStorage, QueuedCaller};
use crate::io::Call;
use crate::partitioner::partition_of;
use crate::processor::ProcessorDefinition;
use crate::record::{Headers, SubTopologyId, TopicPartition};
use crate::standby::{StandbyParts, StandbyReport, StandbyThread};
use crate::stream_thread::{Parts, StreamThread, ThreadError};
use crate::topology::Topology;

/// How long a member with nothing to do may wait at the broker, which never waits in memory.
pub const IDLE: Duration = Duration::from_secs(1);

/// Answers calls, so that a test need not.
pub type Handler = Box<dyn FnMut(&Call) -> Option<Vec<u8>>>;

struct Member {
    thread: StreamThread<MemoryBroker>,
    storage: MemoryStorage,
    caller: QueuedCaller,
}

/// See the module.
pub struct Driver {
    topology: Arc<Topology>,
    definitions: Vec<ProcessorDefinition>,
    /// The cluster all members share.
    pub cluster: Cluster,
    /// The clock all members share.
    pub clock: ManualClock,
    members: BTreeMap<usize, Member>,
    standbys: BTreeMap<usize, StandbyThread<MemoryBroker>>,
    storages: BTreeMap<usize, MemoryStorage>,
    handler: Handler,
}

impl Driver {
    /// A cluster without members.
    #[must_use]
    pub fn new(topology: Topology, definitions: Vec<ProcessorDefinition>, handler: Handler) -> Self {
        Self {
            topology: Arc::new(topology),
            definitions,
            cluster: Cluster::default(),
            clock: ManualClock::default(),
            members: BTreeMap::new(),
            standbys: BTreeMap::new(),
            storages: BTreeMap::new(),
            handler,
        }
    }

    /// The topology.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Members started from now on run another version of the program.
    pub fn upgrade(&mut self, definitions: Vec<ProcessorDefinition>) {
        self.definitions = definitions;
    }

    /// Starts a member; its disk is the one it had before, if any. It owns nothing until [`Driver::give`].
    pub fn start(&mut self, member: usize) {
        let storage = self.storages.entry(member).or_default().clone();
        let caller = QueuedCaller::default();
        let thread = StreamThread::new(Parts {
            topology: self.topology.clone(),
            definitions: self.definitions.clone(),
            sub_topologies: self.topology.sub_topology_ids().collect(),
            broker: MemoryBroker::new(&self.cluster, member, &self.topology),
            storage: Box::new(storage.clone()),
            clock: Box::new(self.clock.clone()),
            caller: Box::new(caller.clone()),
            threads: 1,
        });
        self.members.insert(member, Member { thread, storage, caller });
    }

    /// Starts a member that owns every partition of every sub-topology.
    pub fn start_with_all(&mut self, member: usize) {
        self.start(member);
        for (sub_topology, partition) in self.all_partitions() {
            self.cluster.assign(sub_topology, partition, member, Before::IsTold);
        }
    }

    /// Lets a member keep standby copies of these partitions, and of no others.
    pub fn keep_copies(&mut self, member: usize, of: impl IntoIterator<Item = (SubTopologyId, i32)>) {
        let storage = self.storages.entry(member).or_default().clone();
        let standby = self.standbys.entry(member).or_insert_with(|| {
            StandbyThread::new(StandbyParts {
                topology: self.topology.clone(),
                definitions: self.definitions.clone(),
                // A reader outside of every group: what the member is told is not for it.
                reader: MemoryBroker::new(&self.cluster, usize::MAX - member, &self.topology),
                storage: Box::new(storage.clone()),
                clock: Box::new(self.clock.clone()),
                threads: 2,
            })
        });
        standby.keep(of.into_iter().collect::<BTreeSet<_>>());
        self.settle_disk(member);
    }

    fn settle_disk(&mut self, member: usize) {
        if let Some(storage) = self.storages.get(&member) {
            storage.run_background();
        }
    }

    /// One turn of a member's standby copies; what they did since they were last asked.
    ///
    /// # Panics
    /// When the member keeps none.
    pub fn turn_copies(&mut self, member: usize) -> StandbyReport {
        let standby = self.standbys.get_mut(&member).expect("the member keeps copies");
        standby.turn(Duration::ZERO);
        let report = standby.take_report();
        self.settle_disk(member);
        report
    }

    /// Gives a partition of a sub-topology to a member.
    pub fn give(&mut self, sub_topology: SubTopologyId, partition: i32, member: usize, before: Before) {
        self.cluster.assign(sub_topology, partition, member, before);
    }

    /// Every partition of every sub-topology.
    #[must_use]
    pub fn all_partitions(&self) -> Vec<(SubTopologyId, i32)> {
        let of = |id| (0..self.topology.sub_topology(id).partitions).map(move |partition| (id, partition));
        self.topology.sub_topology_ids().flat_map(of).collect()
    }

    /// A record from outside, placed as every producer places it.
    pub fn produce(&mut self, topic: &str, key: &[u8], value: &[u8]) {
        self.produce_raw(topic, key, Some(value), Headers::new());
    }

    /// A record from outside that may be a tombstone.
    pub fn produce_raw(&mut self, topic: &str, key: &[u8], value: Option<&[u8]>, headers: Headers) {
        use crate::io::Clock;
        let id = self.topology.find_topic(topic).expect("the topology has the topic");
        let to = TopicPartition { topic: id, partition: partition_of(key, self.topology.topic(id).partitions) };
        let (key, value) = (Some(key.to_vec()), value.map(<[u8]>::to_vec));
        self.cluster.append(to, Stored { offset: 0, timestamp: self.clock.now(), key, value, headers });
    }

    /// Every committed record of a topic, partition after partition.
    #[must_use]
    pub fn records(&self, topic: &str) -> Vec<(i32, Stored)> {
        let id = self.topology.find_topic(topic).expect("the topology has the topic");
        (0..self.topology.topic(id).partitions)
            .flat_map(|partition| {
                let records = self.cluster.records(TopicPartition { topic: id, partition });
                records.into_iter().map(move |record| (partition, record))
            })
            .collect()
    }

    /// One turn of one member, its calls answered by the handler. What it says when it must stop.
    ///
    /// # Errors
    /// [`ThreadError`]; the member is still there, as a process that hangs would be.
    pub fn turn(&mut self, member: usize) -> Result<usize, ThreadError> {
        let Some(here) = self.members.get_mut(&member) else {
            return Ok(0);
        };
        let turn = here.thread.turn(IDLE)?;
        here.storage.run_background();
        let mut handled = turn.handled + usize::from(turn.committed);
        for call in here.caller.take() {
            if let Some(response) = (self.handler)(&call) {
                here.caller.answer(&call, response);
            }
            handled += 1;
        }
        Ok(handled)
    }

    /// Turns every member until nothing moves any more; time stands still.
    ///
    /// # Errors
    /// [`ThreadError`] of the first member that must stop.
    ///
    /// # Panics
    /// When it does not come to rest within a million turns.
    pub fn settle(&mut self) -> Result<(), ThreadError> {
        let mut quiet = 0;
        for _ in 0..1_000_000 {
            let mut moved = 0;
            for member in self.members.keys().copied().collect::<Vec<_>>() {
                moved += self.turn(member)?;
            }
            quiet = if moved == 0 { quiet + 1 } else { 0 };
            if quiet > 3 {
                return Ok(());
            }
        }
        panic!("the topology does not come to rest");
    }

    /// Lets the next thing of this kind go wrong for a member.
    pub fn inject(&mut self, member: usize, fault: Fault) {
        self.members.get_mut(&member).expect("the member runs").thread.broker_mut().inject(fault);
    }

    /// Ends a member as `kill -9` does: what is in memory is gone, its disk stays.
    pub fn crash(&mut self, member: usize) {
        if let Some(gone) = self.members.remove(&member) {
            gone.storage.crash();
        }
        self.standbys.remove(&member);
        self.cluster.forget(member);
    }

    /// Ends a member in good order.
    ///
    /// # Errors
    /// [`ThreadError`].
    pub fn stop(&mut self, member: usize) -> Result<(), ThreadError> {
        if let Some(mut gone) = self.members.remove(&member) {
            gone.thread.close()?;
        }
        self.cluster.forget(member);
        Ok(())
    }

    /// Loses the disk of a member that does not run.
    pub fn wipe_disk(&mut self, member: usize) {
        self.storages.entry(member).or_default().wipe();
    }

    /// Lets reads of a member's stores with this in their names fail, until they are emptied.
    pub fn break_reads(&mut self, member: usize, of: &str) {
        self.storages.entry(member).or_default().break_reads(of);
    }

    /// The stream thread of a member.
    #[must_use]
    pub fn thread(&mut self, member: usize) -> &mut StreamThread<MemoryBroker> {
        &mut self.members.get_mut(&member).expect("the member runs").thread
    }
}
