//! Writes records outside any transaction, each durable before it is acknowledged: for the ingress, replay, the
//! warehouse and `produce`. Idempotent, acks=all, murmur2. Never reads.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millrace_runtime::partition_of;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryFuture, DeliveryResult, FutureProducer, FutureRecord, Producer, ProducerContext,
    ThreadedProducer,
};

/// Why a record is not known to be durable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The queue to the broker is full: nothing was sent.
    #[error("the queue to the broker is full; nothing was sent, try again")]
    QueueFull,
    /// It was sent, but not acknowledged in time: it may or may not be stored.
    #[error("the broker did not acknowledge the record: {0}")]
    NotAcknowledged(String),
    /// The topic is not there.
    #[error("topic {0} cannot be written: {1}. Run `millrace apply` first")]
    NoTopic(String, String),
}

fn config(bootstrap: &str, delivery_timeout: Duration) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("allow.auto.create.topics", "false")
        .set("retry.backoff.ms", "10")
        .set("delivery.timeout.ms", delivery_timeout.as_millis().to_string());
    config
}

/// Writes one record at a time and answers when it is durable.
pub struct RecordProducer {
    producer: FutureProducer,
    partitions: Mutex<HashMap<String, i32>>,
    timeout: Duration,
}

impl RecordProducer {
    /// A producer whose records are acknowledged or given up within `timeout`.
    ///
    /// # Errors
    /// The client's configuration is refused.
    pub fn connect(bootstrap: &str, timeout: Duration) -> Result<Self, KafkaError> {
        let producer = config(bootstrap, timeout).set("linger.ms", "0").create()?;
        Ok(Self { producer, partitions: Mutex::default(), timeout })
    }

    fn partitions(&self, topic: &str) -> Result<i32, ProduceError> {
        let known = self.partitions.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(topic).copied();
        if let Some(count) = known {
            return Ok(count);
        }
        let count = partition_count(self.producer.client(), topic, self.timeout)?;
        self.partitions.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(topic.to_owned(), count);
        Ok(count)
    }

    /// Looks the topic up, so that the first record need not wait for it.
    ///
    /// # Errors
    /// [`ProduceError::NoTopic`].
    pub fn prepare(&self, topic: &str) -> Result<(), ProduceError> {
        self.partitions(topic).map(|_| ())
    }

    /// Writes a record.
    ///
    /// # Errors
    /// [`ProduceError`].
    pub async fn produce(
        &self,
        topic: &str,
        key: &[u8],
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> Result<(), ProduceError> {
        let sent = self.send(topic, key, value, headers)?;
        match tokio::time::timeout(self.timeout, sent).await {
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err((error, _)))) => Err(ProduceError::NotAcknowledged(error.to_string())),
            Ok(Err(_)) | Err(_) => Err(ProduceError::NotAcknowledged("no answer in time".into())),
        }
    }

    fn send(
        &self,
        topic: &str,
        key: &[u8],
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> Result<DeliveryFuture, ProduceError> {
        let partition = partition_of(key, self.partitions(topic)?);
        let mut kept = OwnedHeaders::new_with_capacity(headers.len());
        for (name, value) in headers {
            kept = kept.insert(Header { key: name, value: Some(value.as_bytes()) });
        }
        let mut record = FutureRecord::to(topic).key(key).partition(partition).headers(kept);
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.producer.send_result(record).map_err(|(error, _)| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => ProduceError::QueueFull,
            _ => ProduceError::NotAcknowledged(error.to_string()),
        })
    }
}

/// Writes many records and answers once all are durable.
pub struct BulkProducer {
    producer: ThreadedProducer<Tally>,
    partitions: HashMap<String, i32>,
    sent: u64,
}

#[derive(Default)]
struct Tally {
    delivered: AtomicU64,
    failed: AtomicU64,
    reason: Mutex<Option<String>>,
}

impl rdkafka::ClientContext for Tally {}

impl ProducerContext for Tally {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                *self.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error.to_string());
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl BulkProducer {
    /// A producer for large amounts.
    ///
    /// # Errors
    /// The client's configuration is refused.
    pub fn connect(bootstrap: &str) -> Result<Self, KafkaError> {
        let mut config = config(bootstrap, Duration::from_secs(120));
        config.set("linger.ms", "5").set("batch.size", "1000000").set("queue.buffering.max.messages", "200000");
        let producer = config.create_with_context(Tally::default())?;
        Ok(Self { producer, partitions: HashMap::new(), sent: 0 })
    }

    /// Queues a record; waits while the queue is full.
    ///
    /// # Errors
    /// [`ProduceError`], also of a record queued before.
    pub fn queue(&mut self, topic: &str, key: &[u8], value: &[u8]) -> Result<(), ProduceError> {
        let partitions = match self.partitions.get(topic) {
            Some(count) => *count,
            None => {
                let count = partition_count(self.producer.client(), topic, Duration::from_secs(30))?;
                self.partitions.insert(topic.to_owned(), count);
                count
            }
        };
        let mut record = BaseRecord::to(topic).key(key).payload(value).partition(partition_of(key, partitions));
        loop {
            self.check()?;
            match self.producer.send(record) {
                Ok(()) => break,
                Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err((error, _)) => return Err(ProduceError::NotAcknowledged(error.to_string())),
            }
        }
        self.sent += 1;
        Ok(())
    }

    /// Waits until everything queued is durable.
    ///
    /// # Errors
    /// [`ProduceError::NotAcknowledged`] when a record was given up.
    pub fn finish(&mut self) -> Result<(), ProduceError> {
        while self.delivered() < self.sent {
            self.check()?;
            std::thread::sleep(Duration::from_millis(2));
        }
        self.check()
    }

    /// How many records are durable.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.producer.context().delivered.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), ProduceError> {
        let tally = self.producer.context();
        if tally.failed.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let reason = tally.reason.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Err(ProduceError::NotAcknowledged(reason.unwrap_or_default()))
    }
}

fn partition_count<C: rdkafka::ClientContext>(
    client: &rdkafka::client::Client<C>,
    topic: &str,
    patience: Duration,
) -> Result<i32, ProduceError> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let found = client.fetch_metadata(Some(topic), left.min(Duration::from_secs(5)));
        let reason = match found {
            Ok(metadata) => match metadata.topics().first() {
                Some(t) if t.error().is_none() && !t.partitions().is_empty() => {
                    return Ok(i32::try_from(t.partitions().len()).unwrap_or(i32::MAX));
                }
                Some(t) if t.error().is_some() => "the broker does not have it".to_owned(),
                _ => "the broker does not say how many partitions it has".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(ProduceError::NoTopic(topic.to_owned(), reason));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
