//! Reads partitions outside any group, from given positions on: to restore stores and to fill global tables. Knows how
//! far each has been given, past transaction markers too; never commits and never joins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_runtime::{BrokerError, Event, InputRecord, Offset, TopicPartition, Topology};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::context::{QuietContext, mends_itself};
use super::leaders;
use super::raw::{self, Polled};
use crate::config::KafkaConfig;
use crate::waker::Waker;

pub(super) struct Follower {
    consumer: Option<Arc<BaseConsumer<QuietContext>>>,
    names: Vec<Arc<str>>,
    /// Next position to give of each partition followed.
    next: BTreeMap<TopicPartition, Offset>,
    /// The partition that is kept, not given: its newest record of one key.
    kept: Option<Kept>,
}

struct Kept {
    at: TopicPartition,
    key: &'static [u8],
    newest: Option<Vec<u8>>,
}

impl Follower {
    pub(super) fn open(config: &KafkaConfig, topology: &Topology, waker: Waker) -> Result<Self, BrokerError> {
        let mut consumer: BaseConsumer<QuietContext> = config
            .follower(&topology.application)
            .create_with_context(QuietContext("follower"))
            .map_err(|error| BrokerError::Fatal(format!("the follower cannot be made: {error}")))?;
        consumer.set_nonempty_callback(move || waker.wake());
        Ok(Self {
            consumer: Some(Arc::new(consumer)),
            names: topology.topics.iter().map(|topic| topic.name.clone()).collect(),
            next: BTreeMap::new(),
            kept: None,
        })
    }

    fn consumer(&self) -> Result<&Arc<BaseConsumer<QuietContext>>, BrokerError> {
        self.consumer.as_ref().ok_or_else(|| BrokerError::Fatal("the follower is closed".into()))
    }

    fn list(&self, at: TopicPartition, offset: Offset) -> Result<TopicPartitionList, BrokerError> {
        let mut list = TopicPartitionList::new();
        let name = &self.names[usize::from(at.topic.0)];
        list.add_partition_offset(name, at.partition, rdkafka::Offset::Offset(offset))
            .map_err(|error| BrokerError::Fatal(format!("{name}-{}: {error}", at.partition)))?;
        Ok(list)
    }

    pub(super) fn follow(&mut self, at: TopicPartition, from: Offset) -> Result<(), BrokerError> {
        if !self.next.keys().any(|followed| followed.topic == at.topic) {
            leaders::ask(self.consumer()?, &self.names, [at.topic]);
        }
        self.unfollow(at)?;
        let list = self.list(at, from)?;
        self.consumer()?.incremental_assign(&list).map_err(|error| retry("follow", &error))?;
        self.next.insert(at, from);
        Ok(())
    }

    /// Follows a partition from here on for the newest record of one key, which [`Follower::newest`] tells.
    pub(super) fn keep(&mut self, at: TopicPartition, from: Offset, key: &'static [u8]) -> Result<(), BrokerError> {
        self.kept = Some(Kept { at, key, newest: None });
        self.follow(at, from)
    }

    /// The newest kept record, once everything below `end` is decided and read; until then `None`.
    pub(super) fn newest(&self, end: Offset) -> Option<Option<&[u8]>> {
        let kept = self.kept.as_ref()?;
        let read = self.next.get(&kept.at).is_some_and(|next| *next >= end);
        read.then_some(kept.newest.as_deref())
    }

    pub(super) fn unfollow(&mut self, at: TopicPartition) -> Result<(), BrokerError> {
        if let Some(next) = self.next.remove(&at) {
            let list = self.list(at, next)?;
            self.consumer()?.incremental_unassign(&list).map_err(|error| retry("unfollow", &error))?;
        }
        Ok(())
    }

    fn find(&self, topic: &str, partition: i32) -> Option<TopicPartition> {
        self.next.keys().find(|at| at.partition == partition && *self.names[usize::from(at.topic.0)] == *topic).copied()
    }

    /// Gives at most `most` records, and positions that moved past markers. Never blocks.
    pub(super) fn poll(&mut self, most: usize, events: &mut Vec<Event>) -> Result<usize, BrokerError> {
        let consumer = self.consumer()?.clone();
        let mut batches: Vec<(TopicPartition, Offset, Vec<InputRecord>, Offset)> = Vec::new();
        let (mut taken, mut trouble) = (0, Ok(()));
        while taken < most {
            let (topic, partition, record, next) = match raw::poll(&consumer, Duration::ZERO) {
                Polled::Nothing => break,
                Polled::Record { topic, partition, record } => {
                    let next = record.offset + 1;
                    (topic, partition, Some(record), next)
                }
                Polled::End { topic, partition, offset } => (topic, partition, None, offset),
                Polled::Error { code, .. } if mends_itself(code) => continue,
                Polled::Error { code, topic, partition } => {
                    trouble = Err(of_reading(code, &topic, partition));
                    break;
                }
            };
            let Some(at) = self.find(&topic, partition) else {
                continue;
            };
            let given = self.next.get(&at).copied().unwrap_or(0);
            if next <= given {
                continue;
            }
            self.next.insert(at, next);
            if let Some(kept) = self.kept.as_mut().filter(|kept| kept.at == at) {
                if let Some(record) = record.filter(|record| record.key.as_deref() == Some(kept.key)) {
                    kept.newest = record.value;
                }
                continue;
            }
            let place = match batches.iter().rposition(|(from, ..)| *from == at) {
                Some(place) => place,
                None => {
                    batches.push((at, given, Vec::new(), given));
                    batches.len() - 1
                }
            };
            batches[place].3 = next;
            if let Some(record) = record {
                batches[place].2.push(record);
                taken += 1;
            }
        }
        events.extend(batches.into_iter().map(|(from, begin, records, next)| Event::Followed {
            from,
            begin,
            records,
            next,
        }));
        trouble.map(|()| taken)
    }

    pub(super) fn close(&mut self) -> Option<Arc<BaseConsumer<QuietContext>>> {
        let consumer = self.consumer.take()?;
        let _ = consumer.unassign();
        Some(consumer)
    }
}

fn retry(what: &str, error: &KafkaError) -> BrokerError {
    BrokerError::Retry(format!("{what}: {error}"))
}

fn of_reading(code: RDKafkaErrorCode, topic: &str, partition: i32) -> BrokerError {
    let text = format!("{topic}-{partition}: {code}");
    match code {
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
            BrokerError::Fatal(format!("{text}: a position to restore from is outside the topic"))
        }
        RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed => {
            BrokerError::Fatal(text)
        }
        _ => BrokerError::Retry(text),
    }
}
