//! A disk that runs full under a broker that runs, and has space again later: writes of every kind are refused with an
//! error that clients repeat, reads go on, and without a restart everything goes on when there is space. Linux only, for
//! the disk is made full by a limit on the size of files.
#![cfg(target_os = "linux")]

mod clients;

use std::time::Duration;

use clients::process::Process;
use clients::*;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::Producer;
use rdkafka::{Offset, types::RDKafkaErrorCode};

fn register(registry: &str, subject: &str) -> u16 {
    let url = format!("{registry}/subjects/{subject}/versions");
    let body = format!(r#"{{"schema": "{{\"type\":\"fixed\",\"name\":\"{subject}\",\"size\":4}}"}}"#);
    let request = reqwest::Client::new().post(url).header("Content-Type", "application/json").body(body);
    block_on(async move { request.send().await.expect("an answer").status().as_u16() })
}

fn commit(consumer: &BaseConsumer, offset: i64) -> Result<(), Option<RDKafkaErrorCode>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("t", 0, Offset::Offset(offset)).expect("an offset");
    consumer.commit(&list, CommitMode::Sync).map_err(|error| error.rdkafka_error_code())
}

#[test]
fn everything_goes_on_without_a_restart_when_there_is_space_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut broker = Process::start(dir.path(), 0);
    let servers = broker.servers();
    create_topic(&servers, "t", 1, &[]);
    let plain = producer(&servers);
    let open = transactional(&servers, "open");
    let group: BaseConsumer = consumer(&servers, "g").create().expect("a consumer");
    for number in 0..20 {
        send(&plain, "t", 0, "k", &format!("before {number}"));
    }
    drain(&plain);
    open.begin_transaction().expect("begun");
    send(&open, "t", 0, "k", "in a transaction");
    drain(&open);
    assert_eq!(commit(&group, 1), Ok(()));
    assert_eq!(register(broker.registry(), "before"), 200);

    // Every file is over the limit now.
    broker.limit_files(Some(16));
    send(&plain, "t", 0, "k", "while it was full");
    // Whoever asks is told at once, and nothing that was refused has become true.
    assert_eq!(register(broker.registry(), "while"), 500);
    assert!(commit(&group, 2).is_err());
    assert_eq!(committed(&servers, "g", "t", 0), Some(1));
    assert_eq!(values(&servers, "t", 0, "read_uncommitted").len(), 21);
    assert!(open.commit_transaction(Duration::from_secs(1)).is_err());
    assert_eq!(values(&servers, "t", 0, "read_committed").len(), 20);
    plain.poll(Duration::from_millis(200));
    assert_eq!(plain.in_flight_count(), 1, "it is repeated, not given up and not acknowledged");

    broker.limit_files(None);
    drain(&plain);
    assert_eq!(commit(&group, 3), Ok(()));
    assert_eq!(register(broker.registry(), "after"), 200);
    open.commit_transaction(PATIENCE).expect("committed");
    open.begin_transaction().expect("begun");
    send(&open, "t", 0, "k", "in another transaction");
    open.commit_transaction(PATIENCE).expect("committed");
    let expected = |values: Vec<String>| {
        let mut expected: Vec<String> = (0..20).map(|number| format!("before {number}")).collect();
        expected.extend(["in a transaction", "while it was full", "in another transaction"].map(str::to_owned));
        assert_eq!(values, expected);
    };
    expected(values(&servers, "t", 0, "read_committed"));
    // And it is on disk as it should be.
    let address = broker.kill();
    let broker = Process::start(dir.path(), address.port());
    expected(values(&servers, "t", 0, "read_committed"));
    assert_eq!(committed(&servers, "g", "t", 0), Some(3));
    assert_eq!(register(broker.registry(), "before"), 200);
}
