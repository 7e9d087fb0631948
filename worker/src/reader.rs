//! Reads topics from end to end outside any group: for the audit, the console, the warehouse and whoever wants to look.
//! Every read is `read_committed`. Never commits a position.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_runtime::InputRecord;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::kafka_broker::raw::{self, Polled};

const PATIENCE: Duration = Duration::from_secs(30);

/// What reading came to.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The broker could not be asked.
    #[error("cannot read {topic} at {bootstrap}: {reason}. Is the broker up, and were the topics applied?")]
    Unreachable {
        /// Which topic.
        topic: String,
        /// Which broker.
        bootstrap: String,
        /// What the client says.
        reason: String,
    },
}

/// A record with its place.
#[derive(Clone, Debug)]
pub struct PlacedRecord {
    /// Topic it stands in.
    pub topic: Arc<str>,
    /// Partition it stands in.
    pub partition: i32,
    /// The record.
    pub record: InputRecord,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the first record there is.
    Beginning,
    /// After the last record there is now.
    End,
}

/// See the module.
pub struct TopicReader {
    bootstrap: String,
    consumer: BaseConsumer,
    names: HashMap<String, Arc<str>>,
    /// Per partition: the position everything below which was read, and the end seen when the reader was made.
    partitions: BTreeMap<(Arc<str>, i32), Progress>,
}

#[derive(Clone, Copy)]
struct Progress {
    next: i64,
    end: i64,
}

impl TopicReader {
    /// A reader over every partition of these topics.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(bootstrap: &str, topics: &[&str], from: From) -> Result<Self, ReadError> {
        let fail = |topic: &str, error: KafkaError| ReadError::Unreachable {
            topic: topic.to_owned(),
            bootstrap: bootstrap.to_owned(),
            reason: error.to_string(),
        };
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "millrace.reader")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "100")
            .set("queued.max.messages.kbytes", "32768")
            .create()
            .map_err(|error| fail("topics", error))?;
        let mut assignment = TopicPartitionList::new();
        let mut names = HashMap::new();
        let mut partitions = BTreeMap::new();
        for topic in topics {
            let found = retried(|| {
                let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(5))?;
                let of = metadata.topics().first();
                let count = of.filter(|t| t.error().is_none()).map_or(0, |t| t.partitions().len());
                if count == 0 {
                    return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
                }
                (0..i32::try_from(count).unwrap_or(0))
                    .map(|p| consumer.fetch_watermarks(topic, p, Duration::from_secs(5)).map(|w| (p, w)))
                    .collect::<Result<Vec<_>, _>>()
            })
            .map_err(|error| fail(topic, error))?;
            let name: Arc<str> = Arc::from(*topic);
            names.insert((*topic).to_owned(), name.clone());
            for (partition, (low, high)) in found {
                let start = if from == From::Beginning { low } else { high };
                partitions.insert((name.clone(), partition), Progress { next: start, end: high });
                assignment.add_partition_offset(topic, partition, Offset::Offset(start)).map_err(|e| fail(topic, e))?;
            }
        }
        consumer.assign(&assignment).map_err(|error| fail("topics", error))?;
        Ok(Self { bootstrap: bootstrap.to_owned(), consumer, names, partitions })
    }

    /// The next records, at most `most`; waits at most `wait` for the first.
    ///
    /// # Errors
    /// [`ReadError`] when the client gives up; passing trouble is waited out.
    pub fn read(&mut self, wait: Duration, most: usize) -> Result<Vec<PlacedRecord>, ReadError> {
        let mut records = Vec::new();
        let deadline = Instant::now() + wait;
        while records.len() < most {
            let left =
                if records.is_empty() { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match raw::poll(&self.consumer, left) {
                Polled::Nothing => break,
                Polled::Record { topic, partition, record } => {
                    if let Some(topic) = self.reached(&topic, partition, record.offset + 1) {
                        records.push(PlacedRecord { topic, partition, record });
                    }
                }
                Polled::End { topic, partition, offset } => {
                    self.reached(&topic, partition, offset);
                    if records.is_empty() && self.has_caught_up() {
                        break;
                    }
                }
                Polled::Error { code, topic, partition } if is_fatal(code) => {
                    return Err(ReadError::Unreachable {
                        topic: format!("{topic}-{partition}"),
                        bootstrap: self.bootstrap.clone(),
                        reason: code.to_string(),
                    });
                }
                Polled::Error { .. } => {}
            }
        }
        Ok(records)
    }

    /// Everything committed below `next` has been read.
    fn reached(&mut self, topic: &str, partition: i32, next: i64) -> Option<Arc<str>> {
        let topic = self.names.get(topic)?.clone();
        let progress = self.partitions.get_mut(&(topic.clone(), partition))?;
        progress.next = progress.next.max(next);
        Some(topic)
    }

    /// Whether the topics held nothing when the reader was made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partitions.values().all(|progress| progress.end == 0)
    }

    /// Where each partition ended when the reader was made, or last looked.
    pub fn ends(&self) -> impl Iterator<Item = (&str, i32, i64)> {
        self.partitions.iter().map(|((topic, partition), progress)| (&**topic, *partition, progress.end))
    }

    /// Whether everything that stood in the topics when the reader was made has been read.
    #[must_use]
    pub fn has_caught_up(&self) -> bool {
        self.partitions.values().all(|progress| progress.next >= progress.end)
    }

    /// Looks for the ends again: what was written since counts as not yet read.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn extend_to_now(&mut self) -> Result<(), ReadError> {
        for ((topic, partition), progress) in &mut self.partitions {
            let ends = retried(|| self.consumer.fetch_watermarks(topic, *partition, Duration::from_secs(5)));
            let (_, high) = ends.map_err(|error| ReadError::Unreachable {
                topic: topic.to_string(),
                bootstrap: self.bootstrap.clone(),
                reason: error.to_string(),
            })?;
            progress.end = high;
        }
        Ok(())
    }
}

fn is_fatal(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::Fatal | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset)
}

fn retried<T>(mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            other => return other,
        }
    }
}
