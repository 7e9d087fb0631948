//! Reads topics from end to end outside any group: for the audit, the console, the warehouse and whoever wants to look.
//! Every read is `read_committed`. Never commits a position.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_runtime::InputRecord;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

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
        Ok(Self { consumer, names, partitions })
    }

    /// The next records, at most `most`; waits at most `wait` for the first.
    ///
    /// # Errors
    /// [`ReadError`] when the client gives up; passing trouble is waited out.
    pub fn read(&mut self, wait: Duration, most: usize) -> Result<Vec<PlacedRecord>, ReadError> {
        let mut records = Vec::new();
        let deadline = Instant::now() + wait;
        while records.len() < most {
            let left = if records.is_empty() { deadline.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match self.consumer.poll(left) {
                None => break,
                Some(Ok(message)) => {
                    let Some(topic) = self.names.get(message.topic()) else { continue };
                    let key = (topic.clone(), message.partition());
                    if let Some(progress) = self.partitions.get_mut(&key) {
                        progress.next = message.offset() + 1;
                    }
                    let headers = message.headers().map_or_else(Vec::new, |headers| {
                        headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect()
                    });
                    let record = InputRecord {
                        offset: message.offset(),
                        timestamp: message.timestamp().to_millis().unwrap_or(0),
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.payload().map(<[u8]>::to_vec),
                        headers,
                    };
                    records.push(PlacedRecord { topic: key.0, partition: key.1, record });
                }
                // The end as this reader may see it: what stands between here and the end are markers.
                Some(Err(KafkaError::PartitionEOF(_))) => self.settle_ends(),
                Some(Err(error)) if is_fatal(&error) => {
                    return Err(ReadError::Unreachable {
                        topic: "topics".into(),
                        bootstrap: String::new(),
                        reason: error.to_string(),
                    });
                }
                Some(Err(_)) => {}
            }
        }
        Ok(records)
    }

    fn settle_ends(&mut self) {
        let Ok(position) = self.consumer.position() else { return };
        for element in position.elements() {
            let (Some(topic), Offset::Offset(next)) = (self.names.get(element.topic()), element.offset()) else { continue };
            if let Some(progress) = self.partitions.get_mut(&(topic.clone(), element.partition())) {
                progress.next = progress.next.max(next);
            }
        }
        // A position stays at the last record although markers follow: the end-of-partition event says that no record
        // is left below the last stable offset, so one marker short of the end is the end.
        for progress in self.partitions.values_mut() {
            if progress.end - progress.next <= 1 {
                progress.next = progress.next.max(progress.end);
            }
        }
    }

    /// Whether the topics held nothing when the reader was made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partitions.values().all(|progress| progress.end == 0)
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
                bootstrap: String::new(),
                reason: error.to_string(),
            })?;
            progress.end = high;
        }
        Ok(())
    }
}

fn is_fatal(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::Fatal | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset))
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
