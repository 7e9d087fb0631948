//! Writes records outside any transaction, each durable before it is acknowledged: for the ingress, replay, the
//! warehouse and `produce`. Idempotent, acks=all, murmur2. Never reads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use millrace_runtime::partition_of;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tokio::sync::oneshot;

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

/// How long a producer's thread waits for something to serve.
const SERVING: Duration = Duration::from_secs(1);

/// A client with a thread of its own that serves it. The library's `ThreadedProducer` would do, but each of its polls
/// spins through the last part of a millisecond, and it polls ten times a second: idle, most of a percent of a core.
struct Served<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stop: Arc<AtomicBool>,
}

impl<C: ProducerContext + 'static> Served<C> {
    fn start(config: &ClientConfig, context: C) -> Result<Self, KafkaError> {
        let producer: Arc<BaseProducer<C>> = Arc::new(config.create_with_context(context)?);
        let stop = Arc::new(AtomicBool::new(false));
        let (served, stopping) = (producer.clone(), stop.clone());
        thread::Builder::new()
            .name("producer".into())
            .spawn(move || {
                while !stopping.load(Ordering::Relaxed) {
                    served.poll(SERVING);
                }
            })
            .map_err(|error| KafkaError::ClientCreation(format!("no thread to serve it: {error}")))?;
        Ok(Self { producer, stop })
    }
}

impl<C: ProducerContext + 'static> Drop for Served<C> {
    /// The thread ends by itself, and the client with it; what was not acknowledged by then is given up.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Hands each record's fate to whoever waits for it.
struct Fates;

impl rdkafka::ClientContext for Fates {}

impl ProducerContext for Fates {
    type DeliveryOpaque = Box<oneshot::Sender<Result<(), KafkaError>>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        // Nobody waits any more where the record came too late.
        let _ = waiting.send(result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone()));
    }
}

/// Writes one record at a time and answers when it is durable.
pub struct RecordProducer {
    served: Served<Fates>,
    partitions: Mutex<HashMap<String, i32>>,
    timeout: Duration,
}

impl RecordProducer {
    /// A producer whose records are acknowledged or given up within `timeout`.
    ///
    /// # Errors
    /// The client's configuration is refused.
    pub fn connect(bootstrap: &str, timeout: Duration) -> Result<Self, KafkaError> {
        let served = Served::start(config(bootstrap, timeout).set("linger.ms", "0"), Fates)?;
        Ok(Self { served, partitions: Mutex::default(), timeout })
    }

    fn partitions(&self, topic: &str) -> Result<i32, ProduceError> {
        let known = self.partitions.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(topic).copied();
        if let Some(count) = known {
            return Ok(count);
        }
        let count = partition_count(self.served.producer.client(), topic, self.timeout)?;
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
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(ProduceError::NotAcknowledged(error.to_string())),
            Ok(Err(_)) | Err(_) => Err(ProduceError::NotAcknowledged("no answer in time".into())),
        }
    }

    fn send(
        &self,
        topic: &str,
        key: &[u8],
        value: Option<&[u8]>,
        headers: &[(&str, &str)],
    ) -> Result<oneshot::Receiver<Result<(), KafkaError>>, ProduceError> {
        let partition = partition_of(key, self.partitions(topic)?);
        let mut kept = OwnedHeaders::new_with_capacity(headers.len());
        for (name, value) in headers {
            kept = kept.insert(Header { key: name, value: Some(value.as_bytes()) });
        }
        let (waiting, fate) = oneshot::channel();
        let mut record =
            BaseRecord::with_opaque_to(topic, Box::new(waiting)).key(key).partition(partition).headers(kept);
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.served.producer.send(record).map_err(|(error, _)| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => ProduceError::QueueFull,
            _ => ProduceError::NotAcknowledged(error.to_string()),
        })?;
        Ok(fate)
    }
}

/// Writes many records and answers once all are durable.
pub struct BulkProducer {
    served: Served<Tally>,
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
        let served = Served::start(&config, Tally::default())?;
        Ok(Self { served, partitions: HashMap::new(), sent: 0 })
    }

    /// Queues a record; waits while the queue is full.
    ///
    /// # Errors
    /// [`ProduceError`], also of a record queued before.
    pub fn queue(&mut self, topic: &str, key: &[u8], value: &[u8]) -> Result<(), ProduceError> {
        let partitions = match self.partitions.get(topic) {
            Some(count) => *count,
            None => {
                let count = partition_count(self.served.producer.client(), topic, Duration::from_secs(30))?;
                self.partitions.insert(topic.to_owned(), count);
                count
            }
        };
        let mut record = BaseRecord::to(topic).key(key).payload(value).partition(partition_of(key, partitions));
        loop {
            self.check()?;
            match self.served.producer.send(record) {
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
        self.served.producer.client().context().delivered.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), ProduceError> {
        let tally = self.served.producer.client().context();
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
