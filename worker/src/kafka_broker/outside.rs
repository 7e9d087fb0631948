//! What standby copies ask of Kafka: records and positions, from outside of every group. Never joins, never commits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_runtime::{Bounds, BrokerError, Event, Offset, Reader, SubTopologyId, TopicPartition, Topology};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::SLICE;
use super::bounds::BoundsReader;
use super::context::QuietContext;
use super::errors::of_question;
use super::follower::Follower;
use crate::config::KafkaConfig;
use crate::waker::Waker;

/// How long the answer about a group's positions may take; it waits for transactional commits that are pending.
const QUESTION: Duration = Duration::from_secs(5);

/// [`Reader`] on a Kafka cluster.
pub struct OutsideReader {
    config: KafkaConfig,
    topology: Arc<Topology>,
    follower: Follower,
    bounds: BoundsReader,
    /// One client for each group asked about: it has the group's name, and is in none.
    groups: BTreeMap<SubTopologyId, BaseConsumer<QuietContext>>,
    waker: Waker,
}

impl OutsideReader {
    /// Makes the clients.
    ///
    /// # Errors
    /// [`BrokerError::Fatal`]: a configuration that cannot work.
    pub fn connect(config: &KafkaConfig, topology: &Arc<Topology>) -> Result<Self, BrokerError> {
        config.check().map_err(|error| BrokerError::Fatal(error.to_string()))?;
        let waker = Waker::default();
        Ok(Self {
            config: config.clone(),
            topology: topology.clone(),
            follower: Follower::open(config, topology, waker.clone())?,
            bounds: BoundsReader::open(config, topology)?,
            groups: BTreeMap::new(),
            waker,
        })
    }

    fn client(&mut self, sub_topology: SubTopologyId) -> Result<&BaseConsumer<QuietContext>, BrokerError> {
        if !self.groups.contains_key(&sub_topology) {
            let group = self.topology.group(sub_topology);
            let mut config = self.config.follower(&self.topology.application);
            let client = config.set("group.id", &group).create_with_context(QuietContext("positions"));
            let client = client.map_err(|error| BrokerError::Fatal(format!("the reader of {group}: {error}")))?;
            self.groups.insert(sub_topology, client);
        }
        Ok(&self.groups[&sub_topology])
    }
}

impl Reader for OutsideReader {
    fn poll(&mut self, wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        let until = Instant::now() + wait;
        self.bounds.serve();
        for client in self.groups.values() {
            client.poll(Duration::ZERO);
        }
        let before = events.len();
        loop {
            self.follower.poll(max_records, events)?;
            let left = until.saturating_duration_since(Instant::now());
            if events.len() > before || left.is_zero() {
                return Ok(());
            }
            self.waker.wait(left.min(SLICE));
        }
    }

    fn committed(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<Arc<str>> = partitions.iter().map(|at| self.topology.topic(at.topic).name.clone()).collect();
        let mut asked = TopicPartitionList::new();
        for (at, name) in partitions.iter().zip(&names) {
            asked.add_partition(name, at.partition);
        }
        let what = format!("positions of {}", self.topology.group(sub_topology));
        let found = self.client(sub_topology)?.committed_offsets(asked, QUESTION);
        let found = found.map_err(|error| of_question(&what, &error))?;
        let mut positions = BTreeMap::new();
        for element in found.elements() {
            element.error().map_err(|error| of_question(&what, &error))?;
            if let rdkafka::Offset::Offset(next) = element.offset() {
                positions.insert((element.topic().to_owned(), element.partition()), next);
            }
        }
        let place = |(at, name): (&TopicPartition, &Arc<str>)| (name.to_string(), at.partition);
        Ok(partitions.iter().zip(&names).map(|pair| positions.get(&place(pair)).copied()).collect())
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        self.bounds.of(partitions)
    }

    fn follow(&mut self, partition: TopicPartition, from: Offset) -> Result<(), BrokerError> {
        self.follower.follow(partition, from)
    }

    fn unfollow(&mut self, partition: TopicPartition) -> Result<(), BrokerError> {
        self.follower.unfollow(partition)
    }
}
