//! Real Kafka clients and a broker in a folder of its own, for the tests. Waits for conditions, never for time.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod process;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_broker::{Broker, BrokerConfig, BrokerHandle};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs an async call of the broker or an admin client from a test that otherwise blocks.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

pub fn start_in(dir: &Path) -> BrokerHandle {
    start_on(dir, SocketAddr::from(([127, 0, 0, 1], 0)))
}

pub fn start_on(dir: &Path, listen: SocketAddr) -> BrokerHandle {
    block_on(Broker::start(BrokerConfig { listen, data_dir: dir.to_owned(), ..BrokerConfig::default() }))
        .expect("the broker starts")
}

/// A broker with a temporary folder.
pub struct TestBroker {
    pub handle: BrokerHandle,
    pub dir: tempfile::TempDir,
}

pub fn start() -> TestBroker {
    let dir = tempfile::tempdir().expect("a folder");
    TestBroker { handle: start_in(dir.path()), dir }
}

impl TestBroker {
    pub fn servers(&self) -> String {
        self.handle.kafka_addr().to_string()
    }
}

pub fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("retry.backoff.ms", "1")
        .set("reconnect.backoff.ms", "10")
        .set("reconnect.backoff.max.ms", "100")
        .set("topic.metadata.refresh.interval.ms", "1000");
    config
}

pub fn admin(servers: &str) -> AdminClient<DefaultClientContext> {
    client(servers).create().expect("an admin client")
}

pub fn create_topic(servers: &str, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    for (key, value) in configs {
        topic = topic.set(key, value);
    }
    let results =
        block_on(admin(servers).create_topics([&topic], &AdminOptions::new())).expect("the request is answered");
    for result in results {
        result.expect("the topic is created");
    }
}

pub fn producer(servers: &str) -> BaseProducer {
    client(servers).set("enable.idempotence", "true").set("linger.ms", "0").create().expect("a producer")
}

pub fn transactional(servers: &str, id: &str) -> BaseProducer {
    let producer: BaseProducer = client(servers)
        .set("transactional.id", id)
        .set("linger.ms", "0")
        .set("transaction.timeout.ms", "60000")
        .create()
        .expect("a producer");
    producer.init_transactions(PATIENCE).expect("initialised");
    producer
}

/// Waits until all records of a producer are delivered, without the client's 100 ms steps.
pub fn drain(producer: &BaseProducer) {
    let deadline = Instant::now() + PATIENCE;
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_micros(200));
        assert!(Instant::now() < deadline, "records are not delivered");
    }
}

pub fn send(producer: &BaseProducer, topic: &str, partition: i32, key: &str, value: &str) {
    producer
        .send(BaseRecord::to(topic).partition(partition).key(key).payload(value))
        .map_err(|(error, _)| error)
        .expect("enqueued");
}

pub fn consumer(servers: &str, group: &str) -> ClientConfig {
    let mut config = client(servers);
    config
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "200")
        .set("fetch.wait.max.ms", "100")
        .set("enable.partition.eof", "false");
    config
}

/// A consumer of one partition from the beginning, outside any group.
pub fn reader(servers: &str, topic: &str, partition: i32, isolation: &str) -> BaseConsumer {
    let consumer: BaseConsumer = consumer(servers, "reader")
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    consumer
}

/// All values a reader sees until it reports the end of the partition, with their offsets.
pub fn read_to_end(servers: &str, topic: &str, partition: i32, isolation: &str) -> Vec<(i64, String)> {
    let consumer = reader(servers, topic, partition, isolation);
    let deadline = Instant::now() + PATIENCE;
    let mut values = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "no end of {topic}/{partition}: {values:?}");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => values.push((message.offset(), value(&message))),
            Some(Err(KafkaError::PartitionEOF(_))) => return values,
            Some(Err(error)) => panic!("{error}"),
        }
    }
}

pub fn values(servers: &str, topic: &str, partition: i32, isolation: &str) -> Vec<String> {
    let all = read_to_end(servers, topic, partition, isolation);
    all.into_iter().map(|(_, value)| value).collect()
}

pub fn value(message: &BorrowedMessage<'_>) -> String {
    String::from_utf8_lossy(message.payload().unwrap_or(b"<none>")).into_owned()
}

pub fn key(message: &BorrowedMessage<'_>) -> String {
    String::from_utf8_lossy(message.key().unwrap_or(b"<none>")).into_owned()
}

/// Polls until the condition holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls several consumers until the condition on their assignments holds; returns what they read on the way.
pub fn poll_until(
    consumers: &[&BaseConsumer],
    what: &str,
    mut condition: impl FnMut(&[Vec<(String, i32)>]) -> bool,
) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut read = Vec::new();
    loop {
        for consumer in consumers {
            if let Some(Ok(message)) = consumer.poll(Duration::from_millis(5)) {
                read.push(value(&message));
            }
        }
        let assigned: Vec<_> = consumers.iter().map(|c| assignment(c)).collect();
        if condition(&assigned) {
            return read;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}: {assigned:?}");
    }
}

pub fn assignment(consumer: &BaseConsumer) -> Vec<(String, i32)> {
    let list = consumer.assignment().expect("an assignment");
    let mut all: Vec<_> =
        list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
    all.sort();
    all
}

pub fn committed(servers: &str, group: &str, topic: &str, partition: i32) -> Option<i64> {
    let consumer: BaseConsumer =
        consumer(servers, group).set("isolation.level", "read_committed").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let list = consumer.committed_offsets(list, PATIENCE).expect("answered");
    match list.elements()[0].offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

pub fn counts(values: &[String]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for value in values {
        *counts.entry(value.as_str()).or_default() += 1;
    }
    counts
}
