//! What a broker remembers after a stop and after `kill -9`: records, offsets, groups, transactions.

mod clients;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clients::process::Process;
use clients::*;
use millrace_broker::core::{Durability, Settings};
use millrace_broker::{Broker, BrokerConfig};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};

fn offset(topic: &str, partition: i32, offset: i64) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
    list
}

#[test]
fn a_stopped_broker_comes_back_with_everything() {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = start_in(dir.path());
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "t", 2, &[("segment.bytes", "2000")]);
    let idempotent = producer(&servers);
    for number in 0..200 {
        send(&idempotent, "t", 0, "k", &number.to_string());
        if number % 10 == 0 {
            drain(&idempotent);
        }
    }
    drain(&idempotent);
    let reader: BaseConsumer = consumer(&servers, "g").create().expect("a consumer");
    reader.commit(&offset("t", 0, 77), CommitMode::Sync).expect("committed");
    let address = broker.kafka_addr();
    block_on(broker.stop());

    let broker = start_on(dir.path(), address);
    // The same producer goes on where it was: its sequence is known.
    for number in 200..300 {
        send(&idempotent, "t", 0, "k", &number.to_string());
    }
    drain(&idempotent);
    let expected: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let servers = broker.kafka_addr().to_string();
    assert_eq!(values(&servers, "t", 0, "read_committed"), expected);
    assert_eq!(committed(&servers, "g", "t", 0), Some(77));
}

#[test]
fn one_data_folder_serves_one_broker() {
    let broker = start();
    let config = millrace_broker::BrokerConfig {
        data_dir: broker.dir.path().to_owned(),
        ..millrace_broker::BrokerConfig::default()
    };
    let second = block_on(millrace_broker::Broker::start(config));
    assert!(matches!(second, Err(millrace_broker::BrokerError::InUse(_))));
    let other = start();
    assert_ne!(other.servers(), broker.servers());
    let dir = broker.dir;
    block_on(broker.handle.stop());
    block_on(start_in(dir.path()).stop());
}

#[test]
fn a_killed_broker_keeps_what_it_acknowledged() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut process = Process::start(dir.path(), 0);
    let servers = process.servers();
    create_topic(&servers, "in", 1, &[]);
    create_topic(&servers, "out", 1, &[]);

    let committing = transactional(&servers, "committing");
    committing.begin_transaction().expect("begun");
    send(&committing, "out", 0, "k", "committed");
    drain(&committing);
    let group_reader: BaseConsumer = consumer(&servers, "g").create().expect("a consumer");
    let group = group_reader.group_metadata().expect("metadata");
    committing.send_offsets_to_transaction(&offset("in", 0, 5), &group, PATIENCE).expect("sent");
    committing.commit_transaction(PATIENCE).expect("committed");

    let aborting = transactional(&servers, "aborting");
    aborting.begin_transaction().expect("begun");
    send(&aborting, "out", 0, "k", "aborted");
    drain(&aborting);
    aborting.abort_transaction(PATIENCE).expect("aborted");

    let lost = transactional(&servers, "lost");
    lost.begin_transaction().expect("begun");
    send(&lost, "out", 0, "k", "open when killed, client gone");
    drain(&lost);
    drop(lost);

    let living = transactional(&servers, "living");
    living.begin_transaction().expect("begun");
    send(&living, "out", 0, "k", "open when killed, client alive");
    drain(&living);
    living.send_offsets_to_transaction(&offset("in", 0, 9), &group, PATIENCE).expect("sent");

    let address = process.kill();
    let _process = Process::start(dir.path(), address.port());

    assert_eq!(values(&servers, "out", 0, "read_committed"), ["committed"]);
    // The client that lives may still commit what it has open, offsets included.
    living.commit_transaction(PATIENCE).expect("committed");
    // The next instance of the other ends what was left open.
    let next = transactional(&servers, "lost");
    drop(next);
    assert_eq!(values(&servers, "out", 0, "read_committed"), ["committed", "open when killed, client alive"]);
    assert_eq!(committed(&servers, "g", "in", 0), Some(9));
}

#[test]
fn a_broker_that_syncs_before_it_answers_serves_clients_and_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let start = || {
        let settings = Settings { durability: Durability::Power, ..Settings::DEFAULT };
        let config = BrokerConfig { data_dir: dir.path().to_owned(), settings, ..BrokerConfig::default() };
        block_on(Broker::start(config)).expect("starts")
    };
    let broker = start();
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "in", 1, &[]);
    create_topic(&servers, "out", 2, &[]);
    let group_reader: BaseConsumer = consumer(&servers, "g").create().expect("a consumer");
    let group = group_reader.group_metadata().expect("metadata");
    let worker = transactional(&servers, "worker");
    for round in 0..20 {
        worker.begin_transaction().expect("begun");
        send(&worker, "out", 0, "k", &round.to_string());
        send(&worker, "out", 1, "k", &round.to_string());
        drain(&worker);
        worker.send_offsets_to_transaction(&offset("in", 0, round), &group, PATIENCE).expect("sent");
        if round % 2 == 0 {
            worker.commit_transaction(PATIENCE).expect("committed");
        } else {
            worker.abort_transaction(PATIENCE).expect("aborted");
        }
    }
    let expected: Vec<String> = (0..10).map(|round| (2 * round).to_string()).collect();
    assert_eq!(values(&servers, "out", 0, "read_committed"), expected);
    block_on(broker.stop());
    let broker = start();
    let servers = broker.kafka_addr().to_string();
    assert_eq!(values(&servers, "out", 1, "read_committed"), expected);
    assert_eq!(committed(&servers, "g", "in", 0), Some(18));
}

#[test]
fn an_open_transaction_times_out_after_a_kill() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut process = Process::start(dir.path(), 0);
    let servers = process.servers();
    create_topic(&servers, "t", 1, &[]);
    let slow: BaseProducer = client(&servers)
        .set("transactional.id", "slow")
        .set("transaction.timeout.ms", "2000")
        .create()
        .expect("a producer");
    slow.init_transactions(PATIENCE).expect("initialised");
    slow.begin_transaction().expect("begun");
    send(&slow, "t", 0, "k", "never");
    drain(&slow);
    drop(slow);
    let plain = producer(&servers);
    send(&plain, "t", 0, "k", "later");
    drain(&plain);
    let address = process.kill();
    let _process = Process::start(dir.path(), address.port());
    until("the time-out", || values(&servers, "t", 0, "read_committed") == ["later"]);
}

#[test]
fn a_group_lives_through_a_kill_without_a_rebalance() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut process = Process::start(dir.path(), 0);
    let servers = process.servers();
    create_topic(&servers, "t", 2, &[]);
    let member: BaseConsumer = consumer(&servers, "g").set("session.timeout.ms", "20000").create().expect("a consumer");
    member.subscribe(&["t"]).expect("subscribed");
    poll_until(&[&member], "both", |assigned| assigned[0].len() == 2);
    let address = process.kill();
    let _process = Process::start(dir.path(), address.port());
    let deadline = Instant::now() + PATIENCE;
    // The commit is accepted only from a member of the present generation.
    while member.commit(&offset("t", 1, 1), CommitMode::Sync).is_err() {
        assert!(Instant::now() < deadline, "the member was forgotten");
        member.poll(Duration::from_millis(10));
        assert_eq!(assignment(&member).len(), 2, "the member lost its partitions");
    }
    let listed = member.fetch_group_list(Some("g"), PATIENCE).expect("answered");
    assert_eq!(listed.groups()[0].state(), "Stable");
}

#[test]
fn a_torn_end_is_cut_and_other_damage_is_set_aside() {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = start_in(dir.path());
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "t", 1, &[("segment.bytes", "1024")]);
    let p = producer(&servers);
    for number in 0..100 {
        send(&p, "t", 0, "k", &format!("{number} {}", "x".repeat(100)));
        drain(&p);
    }
    block_on(broker.stop());

    let folder = dir.path().join("topics").join("t@2").join("0");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the partition's folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    assert!(files.len() > 3, "{files:?}");
    let last = files.last().expect("a file");
    let whole = std::fs::read(last).expect("read");
    std::fs::write(last, &whole[..whole.len() - 7]).expect("written");
    let broker = start_in(dir.path());
    let servers = broker.kafka_addr().to_string();
    assert_eq!(values(&servers, "t", 0, "read_committed").len(), 99);
    block_on(broker.stop());

    let mut bytes = std::fs::read(&files[1]).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&files[1], bytes).expect("written");
    // The broken partition is set aside, all else goes on.
    let broker = start_in(dir.path());
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "other", 1, &[]);
    let p = producer(&servers);
    send(&p, "other", 0, "k", "fine");
    drain(&p);
    assert_eq!(values(&servers, "other", 0, "read_committed"), ["fine"]);
    let refused: rdkafka::error::KafkaResult<_> = p.client().fetch_watermarks("t", 0, Duration::from_secs(1));
    refused.expect_err("set aside");
    block_on(broker.stop());
    bytes_back(&files[1], middle);
    let broker = start_in(dir.path());
    assert_eq!(values(&broker.kafka_addr().to_string(), "t", 0, "read_committed").len(), 99);
}

fn bytes_back(file: &std::path::Path, at: usize) {
    let mut bytes = std::fs::read(file).expect("read");
    bytes[at] ^= 0xff;
    std::fs::write(file, bytes).expect("written");
}
