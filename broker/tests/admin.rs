//! Topics are created, described, changed, grown, emptied and deleted through an admin client.

mod clients;

use clients::*;
use rdkafka::admin::{AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

fn partitions(servers: &str, topic: &str) -> usize {
    let consumer: BaseConsumer = consumer(servers, "g").create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("answered");
    metadata.topics()[0].partitions().len()
}

fn setting(servers: &str, topic: &str, name: &str) -> Option<String> {
    let wanted = ResourceSpecifier::Topic(topic);
    let described = block_on(admin(servers).describe_configs([&wanted], &AdminOptions::new()));
    let described = described.expect("answered").remove(0).expect("described");
    described.get(name)?.value.clone()
}

#[test]
fn topics_are_created_once_and_with_valid_settings() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 3, &[("cleanup.policy", "compact"), ("retention.ms", "-1")]);
    assert_eq!(partitions(&servers, "t"), 3);
    assert_eq!(setting(&servers, "t", "cleanup.policy").as_deref(), Some("compact"));
    assert_eq!(setting(&servers, "t", "delete.retention.ms").as_deref(), Some("86400000"));
    let one = || TopicReplication::Fixed(1);
    for (topic, code) in [
        (NewTopic::new("t", 1, one()), RDKafkaErrorCode::TopicAlreadyExists),
        (NewTopic::new("bad name", 1, one()), RDKafkaErrorCode::InvalidTopic),
        (NewTopic::new("u", 1, one()).set("no.such", "1"), RDKafkaErrorCode::InvalidConfig),
        (NewTopic::new("u", 1, one()).set("retention.ms", "soon"), RDKafkaErrorCode::InvalidConfig),
        (NewTopic::new("u", 1, TopicReplication::Fixed(3)), RDKafkaErrorCode::InvalidReplicationFactor),
    ] {
        let results = block_on(admin(&servers).create_topics([&topic], &AdminOptions::new()));
        let (_, refused) = results.expect("answered")[0].clone().expect_err("refused");
        assert_eq!(refused, code);
    }
    let valid = NewTopic::new("u", 1, one());
    let only = AdminOptions::new().validate_only(true);
    let results = block_on(admin(&servers).create_topics([&valid], &only)).expect("answered");
    assert!(results[0].is_ok());
    assert_eq!(partitions(&servers, "u"), 0, "it was only to be validated");
}

#[test]
fn settings_and_partition_counts_change_and_survive() {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = start_in(dir.path());
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "t", 2, &[]);
    let change = AlterConfig::new(ResourceSpecifier::Topic("t")).set("retention.ms", "1234");
    let changed = block_on(admin(&servers).alter_configs([&change], &AdminOptions::new()));
    changed.expect("answered")[0].as_ref().expect("changed");
    let grow = |count| {
        let more = NewPartitions::new("t", count);
        let grown = block_on(admin(&servers).create_partitions([&more], &AdminOptions::new()));
        grown.expect("answered")[0].clone()
    };
    grow(5).expect("grown");
    let (_, refused) = grow(4).expect_err("fewer");
    assert_eq!(refused, RDKafkaErrorCode::InvalidPartitions);
    block_on(broker.stop());
    let broker = start_in(dir.path());
    let servers = broker.kafka_addr().to_string();
    assert_eq!(partitions(&servers, "t"), 5);
    assert_eq!(setting(&servers, "t", "retention.ms").as_deref(), Some("1234"));
}

#[test]
fn records_and_topics_are_deleted() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 1, &[]);
    let p = producer(&servers);
    for number in 0..10 {
        send(&p, "t", 0, "k", &number.to_string());
    }
    drain(&p);
    let mut before = TopicPartitionList::new();
    before.add_partition_offset("t", 0, Offset::Offset(7)).expect("an offset");
    let deleted = block_on(admin(&servers).delete_records(&before, &AdminOptions::new()));
    assert_eq!(deleted.expect("answered").elements()[0].offset(), Offset::Offset(7));
    assert_eq!(values(&servers, "t", 0, "read_committed"), ["7", "8", "9"]);

    let deleted = block_on(admin(&servers).delete_topics(&["t"], &AdminOptions::new()));
    assert!(deleted.expect("answered")[0].is_ok());
    assert_eq!(partitions(&servers, "t"), 0);
    // A new topic of the same name begins empty.
    create_topic(&servers, "t", 1, &[]);
    assert_eq!(values(&servers, "t", 0, "read_committed"), [""; 0]);
}
