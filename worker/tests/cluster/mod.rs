//! A cluster for a test, its topics, and a member that copies its inputs to an output exactly once.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../../../tests/kafka/node.rs"]
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millrace_broker::{Broker as Embedded, BrokerConfig, BrokerHandle};
use millrace_runtime::{
    Broker, BrokerError, Cleanup, Clock, EngineSettings, Event, Flow, GroupOffsets, Offset, Origin, OutgoingRecord,
    SubTopology, SubTopologyId, Topic, TopicId, TopicPartition, Topology,
};
use millrace_worker::topics::{self, TopicSpec};
use millrace_worker::{KafkaBroker, KafkaConfig, SystemClock, Waker};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

pub const S: SubTopologyId = SubTopologyId(0);
pub const LEADING: TopicId = TopicId(0);
pub const COMPANION: TopicId = TopicId(1);
pub const SECOND: TopicId = TopicId(2);
pub const OUT: TopicId = TopicId(3);
pub const WAIT: Duration = Duration::from_secs(40);

pub fn at(topic: TopicId, partition: i32) -> TopicPartition {
    TopicPartition { topic, partition }
}

pub struct Cluster {
    pub bootstrap: String,
    pub topology: Topology,
    _embedded: Option<(BrokerHandle, tempfile::TempDir)>,
}

/// Whether to wait until no transaction is open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    Yes,
    No,
}

/// Makes a cluster whose inputs have so many partitions.
pub type Make = fn(i32) -> Cluster;

/// An embedded broker of the test's own.
pub fn embedded(partitions: i32) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = BrokerConfig { data_dir: dir.path().to_owned(), ..BrokerConfig::default() };
    let handle = runtime.block_on(Embedded::start(config)).unwrap();
    with_topics(handle.kafka_addr().to_string(), topology(partitions), Some((handle, dir)))
}

/// Whether Apache Kafka can be started; says so when not.
pub fn apache_is_here() -> bool {
    node::ApacheKafka::shared().is_ok()
}

/// Topics and groups of the test's own on the one Apache Kafka of this test binary.
pub fn apache(partitions: i32) -> Cluster {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut topology = topology(partitions);
    topology.application = format!("app-{number}");
    for topic in &mut topology.topics {
        topic.name = format!("{}-{number}", topic.name).into();
    }
    with_topics(node::ApacheKafka::shared().unwrap().bootstrap(), topology, None)
}

fn with_topics(bootstrap: String, topology: Topology, embedded: Option<(BrokerHandle, tempfile::TempDir)>) -> Cluster {
    let specs: Vec<_> = topology
        .topics
        .iter()
        .map(|topic| TopicSpec {
            name: topic.name.to_string(),
            partitions: topic.partitions,
            replication: 1,
            configs: BTreeMap::from([("retention.ms".to_owned(), "100000000".to_owned())]),
        })
        .collect();
    let config = KafkaConfig::new(&bootstrap, "test", 0);
    let report = topics::ensure(&config, &specs).unwrap();
    assert_eq!((report.created.len(), report.differences), (specs.len(), vec![]));
    assert_eq!(topics::ensure(&config, &specs).unwrap(), topics::Report::default(), "again changes nothing");
    Cluster { bootstrap, topology, _embedded: embedded }
}

pub fn topology(partitions: i32) -> Topology {
    let topic = |name: &str, partitions| Topic {
        name: name.into(),
        partitions,
        cleanup: Cleanup::Delete,
        retention_ms: None,
        compaction_lag_ms: None,
        min_in_sync_replicas: None,
        schema: None,
        sink: true,
        origin: Origin::Named,
    };
    Topology {
        application: "app".into(),
        topics: vec![
            topic("leading", partitions),
            topic("companion", partitions),
            topic("second", partitions),
            topic("out", 2),
        ],
        processors: vec![],
        sub_topologies: vec![SubTopology {
            name: "s".into(),
            processors: vec![],
            inputs: vec![LEADING, COMPANION, SECOND],
            partitions,
        }],
        engine: EngineSettings::default(),
    }
}

impl Cluster {
    pub fn config(&self, instance: &str) -> KafkaConfig {
        let mut config = KafkaConfig::new(&self.bootstrap, instance, 0);
        config.session_timeout_ms = 6_000;
        config.static_membership = false;
        config
    }

    pub fn connect(&self, instance: &str) -> KafkaBroker {
        KafkaBroker::connect(&self.config(instance), &self.topology, &[S], &Waker::default()).unwrap()
    }

    /// Writes records with the given values, outside any transaction.
    pub fn produce(&self, to: TopicPartition, values: impl IntoIterator<Item = String>) {
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", &self.bootstrap).set("linger.ms", "1").create().unwrap();
        for value in values {
            let name = &self.topology.topic(to.topic).name;
            producer.send(BaseRecord::to(name).partition(to.partition).key("k").payload(&value)).unwrap();
            producer.poll(Duration::ZERO);
        }
        producer.flush(Duration::from_secs(20)).unwrap();
    }

    /// Every committed value of a topic, with its partition, in order; now, or once no transaction is open in it. A
    /// commit is answered before its marker is written, so what was just committed may be visible a moment later.
    pub fn committed_values(&self, topic: TopicId, rest: Rest) -> Vec<(i32, String)> {
        let spec = self.topology.topic(topic);
        if rest == Rest::Yes {
            let reader = |isolation: &str| -> BaseConsumer {
                let mut config = ClientConfig::new();
                config.set("bootstrap.servers", &self.bootstrap).set("isolation.level", isolation).create().unwrap()
            };
            let (committed, all) = (reader("read_committed"), reader("read_uncommitted"));
            let end = |of: &BaseConsumer, p| of.fetch_watermarks(&spec.name, p, WAIT).unwrap().1;
            until("no transaction is open", || {
                (0..spec.partitions).all(|p| end(&all, p) == end(&committed, p)).then_some(())
            });
        }
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "reader")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()
            .unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        for partition in 0..spec.partitions {
            list.add_partition_offset(&spec.name, partition, rdkafka::Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let (mut values, mut ended) = (Vec::new(), BTreeSet::new());
        let since = Instant::now();
        while ended.len() < spec.partitions as usize {
            assert!(since.elapsed() < WAIT, "the end was not reached");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let value = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
                    values.push((message.partition(), value));
                }
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                    ended.insert(partition);
                }
                _ => {}
            }
        }
        values
    }
}

pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < WAIT, "waited in vain: {what}");
    }
}

pub fn record(to: TopicPartition, value: &str) -> OutgoingRecord<'_> {
    // A record of 1970 is past its retention: a broker may delete it while the test runs.
    let timestamp = SystemClock::default().now();
    OutgoingRecord { to, key: b"k", value: Some(value.as_bytes()), timestamp, headers: &[] }
}

/// Delivers the open transaction and commits it.
pub fn finish(broker: &mut KafkaBroker, offsets: &[GroupOffsets]) -> Result<(), BrokerError> {
    broker.flush()?;
    broker.commit(offsets)
}

/// Copies every record of its inputs to `out`, exactly once.
pub struct Member {
    pub broker: KafkaBroker,
    pub owned: BTreeSet<i32>,
    pub next: BTreeMap<TopicPartition, Offset>,
    pub aborts: u64,
    /// What was copied and committed, as `topic:value`.
    pub seen: Vec<(TopicPartition, String)>,
    /// What was copied in the open transaction.
    open: Vec<(TopicPartition, String)>,
}

impl Member {
    pub fn new(broker: KafkaBroker) -> Self {
        Self { broker, owned: BTreeSet::new(), next: BTreeMap::new(), aborts: 0, seen: Vec::new(), open: Vec::new() }
    }

    fn inputs(partitions: &[i32]) -> Vec<TopicPartition> {
        let topics = [LEADING, COMPANION, SECOND];
        partitions.iter().flat_map(|p| topics.iter().map(|t| at(*t, *p))).collect()
    }

    pub fn locate(&mut self, inputs: &[TopicPartition]) -> Vec<(TopicPartition, Offset)> {
        let committed = until("committed offsets", || match self.broker.committed(S, inputs) {
            Ok(found) => Some(found),
            Err(BrokerError::Retry(_)) => None,
            Err(error) => panic!("{error}"),
        });
        let bounds = until("bounds", || self.broker.bounds(inputs).ok());
        inputs.iter().zip(committed).zip(bounds).map(|((at, c), b)| (*at, c.unwrap_or(b.start))).collect()
    }

    /// One turn: what came in goes out in one transaction.
    pub fn turn(&mut self) {
        self.turn_and(|_| {});
    }

    pub fn turn_and(&mut self, before_commit: impl FnOnce(&mut KafkaBroker)) {
        let mut events = Vec::new();
        self.broker.poll(Duration::from_millis(20), 500, &mut events).unwrap();
        let mut open = false;
        let mut touched: BTreeSet<TopicPartition> = BTreeSet::new();
        for event in events {
            match event {
                Event::Assigned { partitions, .. } => {
                    let inputs = Self::inputs(&partitions);
                    let positions = self.locate(&inputs);
                    self.broker.start(S, &positions).unwrap();
                    self.broker.set_flow(S, &inputs, Flow::Open).unwrap();
                    self.next.extend(positions);
                    self.owned.extend(partitions);
                }
                Event::Revoked { partitions, .. } => {
                    if open {
                        self.finish(&touched);
                        open = false;
                        touched.clear();
                    }
                    self.forget(&partitions);
                    self.broker.release(S, &partitions).unwrap();
                }
                Event::Lost { partitions, .. } => {
                    if open {
                        self.broker.abort().unwrap();
                        self.open.clear();
                        open = false;
                        touched.clear();
                        self.aborts += 1;
                    }
                    self.forget(&partitions);
                    self.broker.release(S, &partitions).unwrap();
                    self.rewind_all();
                }
                Event::Records { from, records, .. } => {
                    if !self.owned.contains(&from.partition) {
                        continue;
                    }
                    if !open {
                        self.broker.begin().unwrap();
                        open = true;
                    }
                    for record in records {
                        assert!(record.offset >= self.next[&from], "{from:?}: {} came again", record.offset);
                        let value =
                            format!("{}:{}", from.topic.0, String::from_utf8_lossy(record.value.as_ref().unwrap()));
                        self.broker.send(super::cluster::record(at(OUT, from.partition % 2), &value)).unwrap();
                        self.next.insert(from, record.offset + 1);
                        self.open.push((from, value));
                    }
                    touched.insert(from);
                }
                Event::Followed { .. } => {}
            }
        }
        if open {
            before_commit(&mut self.broker);
            self.finish(&touched);
        }
    }

    fn forget(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.owned.remove(partition);
        }
        let owned = self.owned.clone();
        self.next.retain(|at, _| owned.contains(&at.partition));
    }

    fn finish(&mut self, touched: &BTreeSet<TopicPartition>) {
        let offsets = touched.iter().filter_map(|at| self.next.get(at).map(|next| (*at, *next))).collect();
        match finish(&mut self.broker, &[GroupOffsets { sub_topology: S, offsets }]) {
            Ok(_) => self.seen.append(&mut self.open),
            Err(BrokerError::Abort(_)) => {
                self.aborts += 1;
                self.broker.abort().unwrap();
                self.rewind_all();
            }
            Err(BrokerError::Unknown(_)) => {
                self.aborts += 1;
                until("a new producer", || self.broker.recreate().ok());
                self.rewind_all();
            }
            // The group has forgotten it. What follows, new clients, is not this member's to do: it has nothing any more.
            Err(BrokerError::Fenced(_)) => {
                self.aborts += 1;
                self.owned.clear();
                self.next.clear();
            }
            Err(error) => panic!("{error}"),
        }
        self.open.clear();
    }

    pub fn rewind_all(&mut self) {
        let owned: Vec<_> = self.owned.iter().copied().collect();
        if owned.is_empty() {
            return;
        }
        let inputs = Self::inputs(&owned);
        let positions = self.locate(&inputs);
        self.broker.rewind(S, &positions).unwrap();
        self.next = positions.into_iter().collect();
    }
}
