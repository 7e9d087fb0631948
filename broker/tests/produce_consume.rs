//! Records go in and come out as they were: keys, headers, timestamps, codecs, order, sizes; offsets are found.

mod clients;

use std::time::{Duration, Instant};

use clients::*;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

#[test]
fn keys_headers_and_timestamps_survive_every_codec() {
    let broker = start();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        // The records are older than the default retention.
        create_topic(&broker.servers(), codec, 1, &[("retention.ms", "-1")]);
        let producer: Result<BaseProducer, KafkaError> = client(&broker.servers())
            .set("enable.idempotence", "true")
            .set("compression.codec", codec)
            .set("linger.ms", "50")
            .create();
        let Ok(producer) = producer else {
            // This build of the client library knows no zstd.
            assert_eq!(codec, "zstd");
            continue;
        };
        for number in 0..100 {
            let headers = OwnedHeaders::new()
                .insert(Header { key: "number", value: Some(&number.to_string()) })
                .insert(Header { key: "empty", value: None::<&str> });
            producer
                .send(
                    BaseRecord::to(codec)
                        .key(&format!("key {number}"))
                        .payload(&format!("value {number} {}", "x".repeat(100)))
                        .timestamp(1_700_000_000_000 + number)
                        .headers(headers),
                )
                .map_err(|(error, _)| error)
                .expect("enqueued");
        }
        drain(&producer);
        let reader = reader(&broker.servers(), codec, 0, "read_committed");
        for number in 0..100i64 {
            let deadline = Instant::now() + PATIENCE;
            let message = loop {
                assert!(Instant::now() < deadline, "{codec}: record {number} is missing");
                match reader.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => break message,
                    Some(Err(error)) => panic!("{codec}: record {number}: {error}"),
                    None => {}
                }
            };
            assert_eq!(message.offset(), number);
            assert_eq!(key(&message), format!("key {number}"));
            assert!(value(&message).starts_with(&format!("value {number} ")));
            let stamp = message.timestamp().to_millis();
            assert_eq!(stamp, Some(1_700_000_000_000 + number));
            let headers = message.headers().expect("headers");
            assert_eq!(headers.count(), 2);
            let expected = number.to_string();
            assert_eq!(headers.get(0).value, Some(expected.as_bytes()));
            assert_eq!(headers.get(1).value, None);
        }
    }
}

#[test]
fn large_records_pass_and_too_large_ones_are_refused() {
    let broker = start();
    create_topic(&broker.servers(), "large", 1, &[]);
    let producer: BaseProducer = client(&broker.servers())
        .set("message.max.bytes", "5000000")
        .set("enable.idempotence", "true")
        .create()
        .expect("a producer");
    let fits = "x".repeat(900_000);
    for _ in 0..5 {
        send(&producer, "large", 0, "k", &fits);
    }
    drain(&producer);
    let read = values(&broker.servers(), "large", 0, "read_uncommitted");
    assert_eq!(read.len(), 5);
    assert!(read.iter().all(|value| *value == fits));

    let refused: BaseProducer<_> = client(&broker.servers())
        .set("message.max.bytes", "5000000")
        .create_with_context(Refusals::default())
        .expect("a producer");
    let large = "x".repeat(2_000_000);
    refused
        .send(BaseRecord::with_opaque_to("large", ()).key("k").payload(&large))
        .map_err(|(error, _)| error)
        .expect("enqueued");
    let deadline = Instant::now() + PATIENCE;
    while refused.in_flight_count() > 0 {
        refused.poll(Duration::from_millis(1));
        assert!(Instant::now() < deadline);
    }
    let errors = refused.context().errors.lock().expect("a lock").clone();
    assert_eq!(errors, [RDKafkaErrorCode::MessageSizeTooLarge]);
}

/// Collects the errors of delivery reports.
#[derive(Default)]
struct Refusals {
    errors: std::sync::Mutex<Vec<RDKafkaErrorCode>>,
}

impl rdkafka::ClientContext for Refusals {}

impl rdkafka::producer::ProducerContext for Refusals {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let code = error.rdkafka_error_code().expect("a code");
            self.errors.lock().expect("a lock").push(code);
        }
    }
}

#[test]
fn a_topic_that_does_not_exist_is_not_created() {
    let broker = start();
    let consumer: BaseConsumer = consumer(&broker.servers(), "g").create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some("nowhere"), PATIENCE).expect("answered");
    let error = metadata.topics()[0].error().expect("an error");
    assert_eq!(RDKafkaErrorCode::from(error), RDKafkaErrorCode::UnknownTopicOrPartition);
    let all = consumer.fetch_metadata(None, PATIENCE).expect("answered");
    assert!(all.topics().iter().all(|topic| topic.name() != "nowhere"));
}

#[test]
fn a_waiting_fetch_wakes_up_at_once() {
    let broker = start();
    create_topic(&broker.servers(), "wake", 1, &[]);
    let consumer: BaseConsumer = ClientConfig::clone(&consumer(&broker.servers(), "g"))
        .set("fetch.wait.max.ms", "5000")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("wake", 0, Offset::Beginning).expect("an offset");
    consumer.assign(&list).expect("assigned");
    let producer = producer(&broker.servers());
    send(&producer, "wake", 0, "k", "first");
    drain(&producer);
    until("first record", || matches!(consumer.poll(Duration::from_millis(50)), Some(Ok(_))));
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        // The client is in a fetch that would wait for 5 s.
        assert!(consumer.poll(Duration::from_millis(20)).is_none());
        let sent = Instant::now();
        send(&producer, "wake", 0, "k", &round.to_string());
        drain(&producer);
        until("record", || matches!(consumer.poll(Duration::from_millis(50)), Some(Ok(_))));
        slowest = slowest.max(sent.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "woke up after {slowest:?}");
}

#[test]
fn offsets_are_found_by_time_and_at_both_ends() {
    let broker = start();
    create_topic(&broker.servers(), "times", 1, &[("segment.bytes", "4096"), ("retention.ms", "-1")]);
    let producer: BaseProducer = client(&broker.servers())
        .set("compression.codec", "lz4")
        .set("batch.num.messages", "10")
        .set("linger.ms", "100")
        .create()
        .expect("a producer");
    for number in 0..1000i64 {
        producer
            .send(BaseRecord::<str, str>::to("times").payload(&"y".repeat(50)).timestamp(1_000_000 + number * 10))
            .map_err(|(error, _)| error)
            .expect("enqueued");
    }
    drain(&producer);
    let consumer: BaseConsumer = consumer(&broker.servers(), "g").create().expect("a consumer");
    for (time, offset) in [
        (0, Offset::Offset(0)),
        (1_000_000, Offset::Offset(0)),
        (1_000_001, Offset::Offset(1)),
        (1_003_335, Offset::Offset(334)),
        (1_009_990, Offset::Offset(999)),
        (1_009_991, Offset::End),
    ] {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("times", 0, Offset::Offset(time)).expect("an offset");
        let found = consumer.offsets_for_times(list, PATIENCE).expect("answered");
        assert_eq!(found.elements()[0].offset(), offset, "time {time}");
    }
    let ends = consumer.fetch_watermarks("times", 0, PATIENCE).expect("answered");
    assert_eq!(ends, (0, 1000));
}

#[test]
fn a_simple_consumer_commits_and_finds_its_offset_again() {
    let broker = start();
    create_topic(&broker.servers(), "t", 2, &[]);
    let consumer: BaseConsumer = consumer(&broker.servers(), "simple").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("t", 1, Offset::Offset(0)).expect("an offset");
    consumer.commit(&list, CommitMode::Sync).expect("committed");
    assert_eq!(committed(&broker.servers(), "simple", "t", 1), Some(0));
    assert_eq!(committed(&broker.servers(), "simple", "t", 0), None);
}
