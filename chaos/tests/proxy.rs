//! The proxy before an embedded broker: what clients see and what the broker does under each rule.
#![allow(clippy::unwrap_used)]

use std::thread;
use std::time::{Duration, Instant};

use millrace_broker::{Broker, BrokerConfig, BrokerHandle};
use millrace_chaos::proxy::ApiKey;
use millrace_chaos::{Proxy, Routes};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const PATIENCE: Duration = Duration::from_secs(40);
const TOPIC: &str = "things";

struct Ground {
    proxy: Proxy,
    broker: BrokerHandle,
    _dir: tempfile::TempDir,
}

fn ground() -> Ground {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = BrokerConfig { data_dir: dir.path().to_owned(), ..BrokerConfig::default() };
    let broker = runtime.block_on(Broker::start(config)).unwrap();
    let proxy = Proxy::start(broker.kafka_addr().port(), &Routes::default()).unwrap();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", proxy.address()).create().unwrap();
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(1));
    runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap().remove(0).unwrap();
    Ground { proxy, broker, _dir: dir }
}

impl Ground {
    fn producer(&self) -> BaseProducer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.proxy.address())
            .set("transactional.id", "t")
            .set("retry.backoff.ms", "1")
            .set("reconnect.backoff.ms", "10")
            .set("reconnect.backoff.max.ms", "50");
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer
    }

    /// The end of the topic for readers of this kind, asked of the broker itself.
    fn end(&self, isolation: &str) -> i64 {
        let reader: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.broker.kafka_addr().to_string())
            .set("isolation.level", isolation)
            .create()
            .unwrap();
        reader.fetch_watermarks(TOPIC, 0, PATIENCE).unwrap().1
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn send(producer: &BaseProducer, value: &str) {
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<(), str>::to(TOPIC).partition(0).payload(value)).unwrap();
}

/// Serves the producer until nothing is in flight, or the time is over; how much is.
fn serve(producer: &BaseProducer, wait: Duration) -> i32 {
    let since = Instant::now();
    while producer.in_flight_count() > 0 && since.elapsed() < wait {
        producer.poll(Duration::from_millis(5));
    }
    producer.in_flight_count()
}

#[test]
fn clients_are_led_through_the_proxy() {
    let ground = ground();
    let producer = ground.producer();
    send(&producer, "one");
    producer.commit_transaction(PATIENCE).unwrap();
    let metadata = producer.client().fetch_metadata(None, PATIENCE).unwrap();
    let brokers: Vec<String> =
        metadata.brokers().iter().map(|broker| format!("{}:{}", broker.host(), broker.port())).collect();
    assert_eq!(brokers, [ground.proxy.address()]);
    until("the marker is written", || ground.end("read_committed") == 2);
}

#[test]
fn nothing_passes_while_traffic_is_stalled() {
    let ground = ground();
    let producer = ground.producer();
    ground.proxy.stall();
    send(&producer, "late");
    assert_eq!(serve(&producer, Duration::from_millis(300)), 1);
    assert_eq!(ground.end("read_uncommitted"), 0);
    ground.proxy.resume();
    assert_eq!(serve(&producer, PATIENCE), 0);
    producer.commit_transaction(PATIENCE).unwrap();
}

#[test]
fn a_request_whose_answer_is_lost_was_executed() {
    let ground = ground();
    let producer = ground.producer();
    ground.proxy.lose_answers(ApiKey::Produce, 1);
    send(&producer, "once");
    assert_eq!(serve(&producer, PATIENCE), 0);
    assert_eq!(ground.proxy.lost(), 1);
    assert_eq!(ground.end("read_uncommitted"), 1, "the repetition is known as one");
    producer.commit_transaction(PATIENCE).unwrap();
}

#[test]
fn a_held_request_goes_to_the_broker_after_its_client_has_gone_on() {
    let ground = ground();
    let producer = ground.producer();
    send(&producer, "one");
    assert_eq!(serve(&producer, PATIENCE), 0);
    ground.proxy.hold(ApiKey::EndTxn, 1);
    thread::scope(|scope| {
        let commit = scope.spawn(|| producer.commit_transaction(PATIENCE));
        until("the request is held", || ground.proxy.held() == 1);
        assert_eq!(ground.end("read_committed"), 0, "it has not reached the broker");
        ground.proxy.cut();
        commit.join().unwrap().unwrap();
    });
    until("the repetition has committed", || ground.end("read_committed") == 2);
    assert_eq!((ground.proxy.held(), ground.proxy.late_answers().len()), (1, 0));
    assert_eq!(ground.proxy.release(), 1);
    until("the broker has answered the old request", || ground.proxy.late_answers().len() == 1);
    assert_eq!(ground.proxy.late_answers()[0].api, ApiKey::EndTxn);
    assert_eq!(ground.proxy.held(), 0);
}

#[test]
fn nobody_gets_in_while_connections_are_refused() {
    let ground = ground();
    let producer = ground.producer();
    ground.proxy.refuse(true);
    ground.proxy.cut();
    send(&producer, "waits");
    assert_eq!(serve(&producer, Duration::from_millis(300)), 1);
    ground.proxy.heal();
    assert_eq!(serve(&producer, PATIENCE), 0);
    producer.commit_transaction(PATIENCE).unwrap();
}

#[test]
fn a_delay_is_no_fault() {
    let ground = ground();
    ground.proxy.delay(Duration::from_millis(20));
    let producer = ground.producer();
    for value in ["one", "two"] {
        send(&producer, value);
        producer.commit_transaction(PATIENCE).unwrap();
    }
    ground.proxy.heal();
    until("both markers are written", || ground.end("read_committed") == 4);
}
