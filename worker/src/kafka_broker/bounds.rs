//! Where partitions begin and end: asked by a client that sees what is not committed, too. Never reads a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_runtime::{Bounds, BrokerError, Offset, TopicPartition, Topology};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::context::QuietContext;
use super::errors::of_question;
use super::leaders::{self, QUESTION};
use crate::config::KafkaConfig;

pub(super) struct BoundsReader {
    /// Until it is closed.
    consumer: Option<Arc<BaseConsumer<QuietContext>>>,
    names: Vec<Arc<str>>,
}

impl BoundsReader {
    pub(super) fn open(config: &KafkaConfig, topology: &Topology) -> Result<Self, BrokerError> {
        let consumer = config
            .bounds()
            .create_with_context(QuietContext("bounds"))
            .map_err(|error| BrokerError::Fatal(format!("the reader of bounds cannot be made: {error}")))?;
        Ok(Self {
            consumer: Some(Arc::new(consumer)),
            names: topology.topics.iter().map(|topic| topic.name.clone()).collect(),
        })
    }

    /// Serves the client's own events.
    pub(super) fn serve(&self) {
        if let Some(consumer) = &self.consumer {
            consumer.poll(Duration::ZERO);
        }
    }

    /// Gives the client away, to be dropped where it may hang.
    pub(super) fn close(&mut self) -> Option<Arc<BaseConsumer<QuietContext>>> {
        self.consumer.take()
    }

    fn consumer(&self) -> Result<&BaseConsumer<QuietContext>, BrokerError> {
        self.consumer.as_deref().ok_or_else(|| BrokerError::Fatal("the reader of bounds is closed".into()))
    }

    /// The bounds of the partitions, in the order asked.
    pub(super) fn of(&self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut distinct = partitions.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        // The library goes on with what it heard last, also that nobody leads a partition.
        let consumer = self.consumer()?;
        let look_again = || leaders::ask(consumer, &self.names, distinct.iter().map(|at| at.topic));
        let ask = |end| self.offsets_at(&distinct, end).inspect_err(|_| look_again());
        let starts = ask(rdkafka::Offset::Beginning)?;
        let ends = ask(rdkafka::Offset::End)?;
        let found: BTreeMap<_, _> =
            distinct.iter().zip(starts.iter().zip(&ends)).map(|(at, (start, end))| (*at, (*start, *end))).collect();
        Ok(partitions.iter().map(|at| Bounds { start: found[at].0, end: found[at].1 }).collect())
    }

    fn offsets_at(&self, partitions: &[TopicPartition], end: rdkafka::Offset) -> Result<Vec<Offset>, BrokerError> {
        let mut list = TopicPartitionList::new();
        for at in partitions {
            let name = &self.names[usize::from(at.topic.0)];
            list.add_partition_offset(name, at.partition, end)
                .map_err(|error| BrokerError::Fatal(format!("{name}-{}: {error}", at.partition)))?;
        }
        let found = self
            .consumer()?
            .offsets_for_times(list, QUESTION)
            .map_err(|error| of_question("bounds of partitions", &error))?;
        let mut offsets = BTreeMap::new();
        for element in found.elements() {
            let place = format!("bounds of {}-{}", element.topic(), element.partition());
            element.error().map_err(|error| of_question(&place, &error))?;
            let rdkafka::Offset::Offset(offset) = element.offset() else {
                return Err(BrokerError::Retry(format!("{place}: no answer")));
            };
            offsets.insert((element.topic().to_owned(), element.partition()), offset);
        }
        partitions
            .iter()
            .map(|at| {
                let name = self.names[usize::from(at.topic.0)].to_string();
                let found = offsets.get(&(name, at.partition)).copied();
                found.ok_or_else(|| BrokerError::Retry("bounds of partitions: not all were answered".into()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    /// While a partition has no leader the library hears so, and does not ask again by itself.
    #[test]
    fn a_leader_that_comes_back_is_found_without_waiting_for_the_metadata_to_grow_old() {
        let cluster = MockCluster::new(3).unwrap();
        cluster.create_topic("orders.placed", 4, 3).unwrap();
        let topology = millrace_runtime::parse(include_str!("../../../topology.toml")).unwrap();
        let config = KafkaConfig::new(cluster.bootstrap_servers(), "one", 0);
        let reader = BoundsReader::open(&config, &topology).unwrap();
        let topic = topology.find_topic("orders.placed").unwrap();
        let all: Vec<TopicPartition> = (0..4).map(|partition| TopicPartition { topic, partition }).collect();
        cluster.partition_leader("orders.placed", 2, None).unwrap();
        let away = reader.of(&all).unwrap_err();
        assert!(matches!(away, BrokerError::Retry(_)), "{away}");
        cluster.partition_leader("orders.placed", 2, Some(1)).unwrap();
        let first = reader.of(&all);
        let second = reader.of(&all);
        assert!(first.is_ok() || second.is_ok(), "{first:?} {second:?}");
    }
}
