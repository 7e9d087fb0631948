//! Transactions as a client sees them: atomic, isolated, fenced.

mod clients;

use std::time::Duration;

use clients::*;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{Offset, TopicPartitionList};

fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::Transaction(error) => Some(error.code()),
        other => other.rdkafka_error_code(),
    }
}

fn offset(topic: &str, partition: i32, offset: i64) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("an offset");
    list
}

#[test]
fn consume_process_produce_moves_everything_once() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "in", 1, &[]);
    create_topic(&servers, "out", 1, &[]);
    let source = producer(&servers);
    for number in 0..500 {
        send(&source, "in", 0, "k", &number.to_string());
    }
    drain(&source);

    let consumer: BaseConsumer = consumer(&servers, "work").create().expect("a consumer");
    consumer.subscribe(&["in"]).expect("subscribed");
    let worker = transactional(&servers, "worker");
    let mut moved = 0;
    while moved < 500 {
        worker.begin_transaction().expect("begun");
        let mut next = None;
        let mut count = 0;
        until("a batch", || {
            while count < 50 {
                match consumer.poll(Duration::from_millis(50)) {
                    Some(Ok(message)) => {
                        send(&worker, "out", 0, "k", &value(&message));
                        next = Some(message.offset() + 1);
                        count += 1;
                    }
                    Some(Err(error)) => panic!("{error}"),
                    None => break,
                }
            }
            count > 0
        });
        let group = consumer.group_metadata().expect("metadata");
        worker
            .send_offsets_to_transaction(&offset("in", 0, next.expect("read")), &group, PATIENCE)
            .expect("offsets sent");
        drain(&worker);
        worker.commit_transaction(PATIENCE).expect("committed");
        moved += count;
    }
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(values(&servers, "out", 0, "read_committed"), expected);
    assert_eq!(committed(&servers, "work", "in", 0), Some(500));
}

#[test]
fn an_aborted_transaction_is_hidden_from_read_committed_only() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 1, &[]);
    let p = transactional(&servers, "p");
    for (value, commit) in [("a", true), ("b", false), ("c", true), ("d", false)] {
        p.begin_transaction().expect("begun");
        send(&p, "t", 0, "k", value);
        drain(&p);
        if commit {
            p.commit_transaction(PATIENCE).expect("committed");
        } else {
            p.abort_transaction(PATIENCE).expect("aborted");
        }
    }
    // The last thing in the log is an abort marker: the reader must come to its end nevertheless.
    assert_eq!(values(&servers, "t", 0, "read_committed"), ["a", "c"]);
    assert_eq!(values(&servers, "t", 0, "read_uncommitted"), ["a", "b", "c", "d"]);
}

#[test]
fn an_open_transaction_holds_readers_back() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 1, &[]);
    let open = transactional(&servers, "open");
    open.begin_transaction().expect("begun");
    send(&open, "t", 0, "k", "open");
    drain(&open);
    let plain = producer(&servers);
    send(&plain, "t", 0, "k", "later");
    drain(&plain);
    assert_eq!(values(&servers, "t", 0, "read_committed"), [""; 0]);
    assert_eq!(values(&servers, "t", 0, "read_uncommitted"), ["open", "later"]);

    let waiting = reader(&servers, "t", 0, "read_committed");
    until("end of what is decided", || {
        matches!(waiting.poll(Duration::from_millis(50)), Some(Err(KafkaError::PartitionEOF(_))))
    });
    open.commit_transaction(PATIENCE).expect("committed");
    let mut seen = Vec::new();
    until("both records", || {
        if let Some(Ok(message)) = waiting.poll(Duration::from_millis(50)) {
            seen.push(value(&message));
        }
        seen.len() == 2
    });
    assert_eq!(seen, ["open", "later"]);
}

#[test]
fn interleaved_transactions_end_each_on_its_own() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 1, &[]);
    let one = transactional(&servers, "one");
    let two = transactional(&servers, "two");
    one.begin_transaction().expect("begun");
    two.begin_transaction().expect("begun");
    for round in 0..3 {
        send(&one, "t", 0, "k", &format!("one {round}"));
        drain(&one);
        send(&two, "t", 0, "k", &format!("two {round}"));
        drain(&two);
    }
    one.abort_transaction(PATIENCE).expect("aborted");
    one.begin_transaction().expect("begun");
    send(&one, "t", 0, "k", "one again");
    drain(&one);
    two.commit_transaction(PATIENCE).expect("committed");
    one.commit_transaction(PATIENCE).expect("committed");
    assert_eq!(values(&servers, "t", 0, "read_committed"), ["two 0", "two 1", "two 2", "one again"]);
}

#[test]
fn a_zombie_is_fenced() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 1, &[]);
    let zombie = transactional(&servers, "id");
    zombie.begin_transaction().expect("begun");
    send(&zombie, "t", 0, "k", "half done");
    drain(&zombie);

    let successor = transactional(&servers, "id");
    send(&zombie, "t", 0, "k", "from the grave");
    let error = zombie.commit_transaction(PATIENCE).expect_err("fenced");
    assert!(matches!(code(&error), Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::InvalidProducerEpoch)), "{error}");
    successor.begin_transaction().expect("begun");
    send(&successor, "t", 0, "k", "alive");
    drain(&successor);
    successor.commit_transaction(PATIENCE).expect("committed");
    assert_eq!(values(&servers, "t", 0, "read_committed"), ["alive"]);
}

#[test]
fn a_crashed_client_leaves_nothing_behind() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "in", 1, &[]);
    create_topic(&servers, "out", 1, &[]);
    let consumer: BaseConsumer = consumer(&servers, "g").create().expect("a consumer");
    for round in 0..5 {
        let crashing = transactional(&servers, "id");
        crashing.begin_transaction().expect("begun");
        send(&crashing, "out", 0, "k", &format!("lost {round}"));
        drain(&crashing);
        let group = consumer.group_metadata().expect("metadata");
        crashing.send_offsets_to_transaction(&offset("in", 0, round), &group, PATIENCE).expect("sent");
        drop(crashing);
    }
    let next = transactional(&servers, "id");
    next.begin_transaction().expect("begun");
    send(&next, "out", 0, "k", "kept");
    drain(&next);
    next.commit_transaction(PATIENCE).expect("committed");
    assert_eq!(values(&servers, "out", 0, "read_committed"), ["kept"]);
    assert_eq!(committed(&servers, "g", "in", 0), None);
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 1, &[]);
    let slow: BaseProducer = client(&servers)
        .set("transactional.id", "slow")
        .set("transaction.timeout.ms", "1000")
        .set("linger.ms", "0")
        .create()
        .expect("a producer");
    slow.init_transactions(PATIENCE).expect("initialised");
    slow.begin_transaction().expect("begun");
    send(&slow, "t", 0, "k", "too slow");
    drain(&slow);
    let plain = producer(&servers);
    send(&plain, "t", 0, "k", "later");
    drain(&plain);
    until("the time-out", || values(&servers, "t", 0, "read_committed") == ["later"]);
    slow.commit_transaction(PATIENCE).expect_err("the transaction is gone");
}

#[test]
fn offsets_of_a_stale_generation_are_refused() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "in", 2, &[]);
    create_topic(&servers, "out", 1, &[]);
    let first: BaseConsumer = consumer(&servers, "g").create().expect("a consumer");
    first.subscribe(&["in"]).expect("subscribed");
    poll_until(&[&first], "first has both", |assigned| assigned[0].len() == 2);
    let stale = first.group_metadata().expect("metadata");

    let second: BaseConsumer = consumer(&servers, "g").create().expect("a consumer");
    second.subscribe(&["in"]).expect("subscribed");
    poll_until(&[&first, &second], "one each", |assigned| assigned.iter().all(|one| one.len() == 1));

    let worker = transactional(&servers, "worker");
    worker.begin_transaction().expect("begun");
    send(&worker, "out", 0, "k", "by a zombie");
    drain(&worker);
    let error = worker.send_offsets_to_transaction(&offset("in", 0, 1), &stale, PATIENCE).expect_err("stale");
    assert_eq!(code(&error), Some(RDKafkaErrorCode::IllegalGeneration));
    worker.abort_transaction(PATIENCE).expect("aborted");

    // The negative control: the present generation is welcome.
    let fresh = first.group_metadata().expect("metadata");
    worker.begin_transaction().expect("begun");
    send(&worker, "out", 0, "k", "rightly");
    drain(&worker);
    worker.send_offsets_to_transaction(&offset("in", 0, 1), &fresh, PATIENCE).expect("accepted");
    worker.commit_transaction(PATIENCE).expect("committed");
    assert_eq!(values(&servers, "out", 0, "read_committed"), ["rightly"]);
    assert_eq!(committed(&servers, "g", "in", 0), Some(1));
}

#[test]
fn an_offset_about_to_change_is_not_told() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "in", 1, &[]);
    let member: BaseConsumer = consumer(&servers, "g").create().expect("a consumer");
    let worker = transactional(&servers, "worker");
    worker.begin_transaction().expect("begun");
    let group = member.group_metadata().expect("metadata");
    worker.send_offsets_to_transaction(&offset("in", 0, 7), &group, PATIENCE).expect("sent");
    let asking: BaseConsumer =
        consumer(&servers, "g").set("isolation.level", "read_committed").create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition("in", 0);
    asking.committed_offsets(list.clone(), Duration::from_millis(500)).expect_err("not stable yet");
    worker.commit_transaction(PATIENCE).expect("committed");
    let told = asking.committed_offsets(list, PATIENCE).expect("stable");
    assert_eq!(told.elements()[0].offset(), Offset::Offset(7));
}
