//! Where partitions begin and end: asked by a client that sees what is not committed, too. Never reads a record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_runtime::{Bounds, BrokerError, Offset, TopicPartition, Topology};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::context::QuietContext;
use super::errors::of_question;
use crate::config::KafkaConfig;

/// How long a question about a topic may take before the engine gets its turn again.
const QUESTION: Duration = Duration::from_secs(5);

pub(super) struct BoundsReader {
    consumer: BaseConsumer<QuietContext>,
    names: Vec<Arc<str>>,
}

impl BoundsReader {
    pub(super) fn open(config: &KafkaConfig, topology: &Topology) -> Result<Self, BrokerError> {
        let consumer = config
            .bounds()
            .create_with_context(QuietContext("bounds"))
            .map_err(|error| BrokerError::Fatal(format!("the reader of bounds cannot be made: {error}")))?;
        Ok(Self { consumer, names: topology.topics.iter().map(|topic| topic.name.clone()).collect() })
    }

    /// Serves the client's own events.
    pub(super) fn serve(&self) {
        self.consumer.poll(Duration::ZERO);
    }

    /// The bounds of the partitions, in the order asked.
    pub(super) fn of(&self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut distinct = partitions.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let starts = self.offsets_at(&distinct, rdkafka::Offset::Beginning)?;
        let ends = self.offsets_at(&distinct, rdkafka::Offset::End)?;
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
            .consumer
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
