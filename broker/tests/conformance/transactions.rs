//! Transactions: producers and their epochs, what may be written, how it ends, what readers and operators see of it.

use kafka_protocol::messages as m;
use kafka_protocol::messages::ProducerId;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::PartitionResponse;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};

use crate::Run;
use crate::groups::{self, Member};
use crate::wire::{Batch, Case, group_id, named, now, text, topic_name, txn_id};

/// A producer and its epoch.
#[derive(Clone, Copy, PartialEq)]
struct Producer {
    id: i64,
    epoch: i16,
}

const NEW: Producer = Producer { id: -1, epoch: -1 };

fn init_as(c: &mut Case, id: Option<&str>, timeout: i32, known: Producer, version: i16) -> (String, Producer) {
    let request = m::InitProducerIdRequest::default()
        .with_transactional_id(id.map(txn_id))
        .with_transaction_timeout_ms(timeout)
        .with_producer_id(ProducerId(known.id))
        .with_producer_epoch(known.epoch);
    loop {
        let answer = c.wire.call(version, &request);
        let told = named(answer.error_code);
        // Apache Kafka writes markers in the background.
        if told != "ConcurrentTransactions" {
            return (told, Producer { id: answer.producer_id.0, epoch: answer.producer_epoch });
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn init(c: &mut Case) -> Producer {
    let name = c.name.clone();
    let (told, producer) = init_as(c, Some(&name), 60_000, NEW, 4);
    assert_eq!(told, "ok");
    producer
}

fn add(c: &mut Case, producer: Producer, topics: &[(&str, &[i32])], version: i16) -> String {
    let topics = topics.iter().map(|(name, partitions)| {
        AddPartitionsToTxnTopic::default().with_name(topic_name(name)).with_partitions(partitions.to_vec())
    });
    let request = m::AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(txn_id(&c.name))
        .with_v3_and_below_producer_id(ProducerId(producer.id))
        .with_v3_and_below_producer_epoch(producer.epoch)
        .with_v3_and_below_topics(topics.collect());
    loop {
        let answer = c.wire.call(version, &request);
        let told = answer
            .results_by_topic_v3_and_below
            .iter()
            .flat_map(|topic| topic.results_by_partition.iter().map(|partition| named(partition.partition_error_code)));
        let told = told.collect::<Vec<_>>().join(" ");
        if !told.contains("ConcurrentTransactions") {
            return told;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn add_own(c: &mut Case, producer: Producer) -> String {
    let name = c.name.clone();
    add(c, producer, &[(&name, &[0])], 3)
}

fn add_group(c: &mut Case, producer: Producer) -> String {
    let request = m::AddOffsetsToTxnRequest::default()
        .with_transactional_id(txn_id(&c.name))
        .with_producer_id(ProducerId(producer.id))
        .with_producer_epoch(producer.epoch)
        .with_group_id(group_id(&c.name));
    loop {
        let told = named(c.wire.call(3, &request).error_code);
        if told != "ConcurrentTransactions" {
            return told;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn commit_offset(c: &mut Case, producer: Producer, member: &Member, offset: i64) -> String {
    let partition = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text("")));
    let topic = TxnOffsetCommitRequestTopic::default().with_name(topic_name(&c.name)).with_partitions(vec![partition]);
    let request = m::TxnOffsetCommitRequest::default()
        .with_transactional_id(txn_id(&c.name))
        .with_group_id(group_id(&c.name))
        .with_producer_id(ProducerId(producer.id))
        .with_producer_epoch(producer.epoch)
        .with_generation_id(member.generation)
        .with_member_id(text(&member.id))
        .with_topics(vec![topic]);
    named(c.wire.call(3, &request).topics[0].partitions[0].error_code)
}

fn end(c: &mut Case, producer: Producer, commit: bool) -> String {
    let request = m::EndTxnRequest::default()
        .with_transactional_id(txn_id(&c.name))
        .with_producer_id(ProducerId(producer.id))
        .with_producer_epoch(producer.epoch)
        .with_committed(commit);
    loop {
        let told = named(c.wire.call(3, &request).error_code);
        if told != "ConcurrentTransactions" {
            return told;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Ends and waits until the markers are written.
fn ended(c: &mut Case, producer: Producer, commit: bool) -> String {
    let told = end(c, producer, commit);
    c.until("it is complete", |c| state(c).starts_with("ok Complete"));
    told
}

fn state(c: &mut Case) -> String {
    let request = m::DescribeTransactionsRequest::default().with_transactional_ids(vec![txn_id(&c.name)]);
    let answer = c.wire.call(0, &request);
    let state = &answer.transaction_states[0];
    let topics: Vec<String> =
        state.topics.iter().map(|topic| format!("{}{:?}", topic.topic.as_str(), topic.partitions)).collect();
    let topics = topics.join(" ").replace(&c.name, "T");
    let (code, timeout) = (named(state.error_code), state.transaction_timeout_ms);
    format!("{code} {} epoch {} {timeout} [{topics}]", state.transaction_state.as_str(), state.producer_epoch)
}

fn batch(value: &str, producer: Producer, sequence: i32) -> Batch {
    Batch::of(&[value]).by(producer.id, producer.epoch, sequence).in_transaction()
}

fn nobody() -> Member {
    Member { id: String::new(), instance: None, generation: -1 }
}

/// A transaction with one record written, still open.
fn open(c: &mut Case) -> Producer {
    c.create(1, &[]);
    let producer = init(c);
    assert_eq!(add_own(c, producer), "ok");
    assert_eq!(c.produce_in_transaction(&batch("first", producer, 0)), "ok@0");
    producer
}

fn described_producers(c: &mut Case) -> PartitionResponse {
    let topic = TopicRequest::default().with_name(topic_name(&c.name)).with_partition_indexes(vec![0]);
    let answer = c.wire.call(0, &m::DescribeProducersRequest::default().with_topics(vec![topic]));
    answer.topics[0].partitions[0].clone()
}

/// Of the only producer.
fn last_timestamp(c: &mut Case) -> i64 {
    described_producers(c).active_producers[0].last_timestamp
}

fn producers(c: &mut Case) -> String {
    let partition = described_producers(c);
    let told = partition.active_producers.iter().map(|producer| {
        let (epoch, last, open) = (producer.producer_epoch, producer.last_sequence, producer.current_txn_start_offset);
        format!("epoch {epoch} last {last} open {open}")
    });
    format!("{} [{}]", named(partition.error_code), told.collect::<Vec<_>>().join(", "))
}

fn listed(c: &mut Case, states: &[&str], producers: &[i64], longer_than: i64) -> String {
    let request = m::ListTransactionsRequest::default()
        .with_state_filters(states.iter().map(|state| text(state)).collect())
        .with_producer_id_filters(producers.iter().map(|id| ProducerId(*id)).collect())
        .with_duration_filter(longer_than);
    let answer = c.wire.call(1, &request);
    let found = answer.transaction_states.iter().find(|state| state.transactional_id.as_str() == c.name);
    let found = found.map_or("not there".to_owned(), |state| state.transaction_state.to_string());
    let unknown: Vec<&str> = answer.unknown_state_filters.iter().map(|filter| filter.as_str()).collect();
    format!("{} {found} {unknown:?}", named(answer.error_code))
}

fn marker(c: &mut Case, producer: Producer, topic: &str, commit: bool) -> String {
    let topic = WritableTxnMarkerTopic::default().with_name(topic_name(topic)).with_partition_indexes(vec![0]);
    let marker = WritableTxnMarker::default()
        .with_producer_id(ProducerId(producer.id))
        .with_producer_epoch(producer.epoch)
        .with_transaction_result(commit)
        .with_topics(vec![topic]);
    let answer = c.wire.call(1, &m::WriteTxnMarkersRequest::default().with_markers(vec![marker]));
    named(answer.markers[0].topics[0].partitions[0].error_code)
}

pub const CASES: &[(&str, Run)] = &[
    ("producer without transactions", |c| {
        let (told, first) = init_as(c, None, 60_000, NEW, 4);
        let (_, second) = init_as(c, None, 60_000, NEW, 4);
        format!("{told} epoch {} another id {}", first.epoch, first.id != second.id)
    }),
    ("producer with an empty transactional id", |c| init_as(c, Some(""), 60_000, NEW, 4).0),
    ("producer with too long a time-out", |c| {
        let name = c.name.clone();
        init_as(c, Some(&name), 3_600_000, NEW, 4).0
    }),
    ("producer with no time-out", |c| {
        let name = c.name.clone();
        init_as(c, Some(&name), 0, NEW, 4).0
    }),
    ("producer comes back", |c| {
        let first = init(c);
        let second = init(c);
        format!("same id {} epochs {} {}", first.id == second.id, first.epoch, second.epoch)
    }),
    ("producer raises its epoch", |c| {
        let name = c.name.clone();
        let first = init(c);
        let (told, second) = init_as(c, Some(&name), 60_000, first, 4);
        // The answer was lost, so it asks again.
        let (again, third) = init_as(c, Some(&name), 60_000, first, 4);
        format!("{told} {} {again} {}", second.epoch, third.epoch)
    }),
    ("producer raises an old epoch", |c| {
        let name = c.name.clone();
        let first = init(c);
        init(c);
        init(c);
        let told = [4, 3].map(|version| init_as(c, Some(&name), 60_000, first, version).0);
        told.join(" ")
    }),
    ("producer raises the epoch of another id", |c| {
        let name = c.name.clone();
        let first = init(c);
        init_as(c, Some(&name), 60_000, Producer { id: first.id + 1_000_000, ..first }, 4).0
    }),
    ("producer in every version", |c| {
        let name = c.name.clone();
        let told = (0..=5).map(|version| {
            let (told, producer) = init_as(c, Some(&name), 60_000, NEW, version);
            format!("{version}:{told}/{}", producer.epoch)
        });
        told.collect::<Vec<_>>().join(" ")
    }),
    ("partition added", |c| {
        c.create(1, &[]);
        let producer = init(c);
        format!("{} {}", add_own(c, producer), state(c))
    }),
    ("partition added twice", |c| {
        c.create(1, &[]);
        let producer = init(c);
        format!("{} {} {}", add_own(c, producer), add_own(c, producer), state(c))
    }),
    ("partition of no topic added with another", |c| {
        c.create(1, &[]);
        let producer = init(c);
        let name = c.name.clone();
        format!("{} {}", add(c, producer, &[(&name, &[0]), ("no-such-topic", &[0])], 3), state(c))
    }),
    ("partition added by a stranger", |c| {
        c.create(1, &[]);
        let told = add_own(c, Producer { id: 4711, epoch: 0 });
        let producer = init(c);
        format!("{told} {}", add_own(c, Producer { id: producer.id + 1_000_000, ..producer }))
    }),
    ("partition added by a fenced producer", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        let old = init(c);
        init(c);
        let told = [1, 2, 3].map(|version| add(c, old, &[(&name, &[0])], version));
        told.join(" ")
    }),
    ("partition added by a producer from the future", |c| {
        c.create(1, &[]);
        let producer = init(c);
        add_own(c, Producer { epoch: producer.epoch + 1, ..producer })
    }),
    ("write without a transaction", |c| {
        c.create(1, &[]);
        let producer = init(c);
        format!("{} {}", c.produce_in_transaction(&batch("a", producer, 0)), c.bounds())
    }),
    ("write to a partition not added", |c| {
        let other = format!("{}-other", c.name);
        c.create_named(&other, 1, &[]);
        c.create(1, &[]);
        let producer = init(c);
        add(c, producer, &[(&other, &[0])], 3);
        c.produce_in_transaction(&batch("a", producer, 0))
    }),
    ("write as a stranger", |c| {
        c.create(1, &[]);
        init(c);
        c.produce_in_transaction(&batch("a", Producer { id: 999_999_999, epoch: 0 }, 0))
    }),
    ("write by a fenced producer", |c| {
        let old = open(c);
        init(c);
        c.until("it is complete", |c| c.bounds() == "0..2 stable 2");
        c.produce_in_transaction(&batch("late", old, 1))
    }),
    ("write after the end", |c| {
        let producer = open(c);
        ended(c, producer, true);
        c.produce_in_transaction(&batch("late", producer, 1))
    }),
    ("write without transaction by a producer with one", |c| {
        let producer = open(c);
        let plain = Batch::of(&["plain"]).by(producer.id, producer.epoch, 1);
        c.produce(&plain)
    }),
    ("open transaction holds readers back", |c| {
        open(c);
        c.produce(&Batch::of(&["later"]));
        format!("{} committed [{}] all [{}]", c.bounds(), c.read(1), c.read(0))
    }),
    ("committed", |c| {
        let producer = open(c);
        format!("{} {} [{}] {}", ended(c, producer, true), c.bounds(), c.read(1), state(c))
    }),
    ("aborted", |c| {
        let producer = open(c);
        let told = ended(c, producer, false);
        format!("{told} {} committed [{}] all [{}] {}", c.bounds(), c.read(1), c.read(0), state(c))
    }),
    ("two transactions cross", |c| {
        let first = open(c);
        let name = c.name.clone();
        c.name = format!("{name}-2");
        let second = init(c);
        add(c, second, &[(&name, &[0])], 3);
        let id = c.name.clone();
        c.produce_bytes(&name, 0, -1, Some(&id), batch("second", second, 0).encode());
        ended(c, second, false);
        c.name = name;
        let between = format!("{} [{}]", c.bounds(), c.read(1));
        ended(c, first, true);
        format!("{between}; {} [{}]", c.bounds(), c.read(1))
    }),
    ("aborted transactions are told of", |c| {
        let producer = open(c);
        ended(c, producer, false);
        let of = |data: m::fetch_response::PartitionData| {
            data.aborted_transactions.map(|all| all.iter().map(|aborted| aborted.first_offset).collect::<Vec<_>>())
        };
        format!("{:?} {:?}", of(c.fetch(0, 1)), of(c.fetch(0, 0)))
    }),
    ("end of none", |c| {
        let producer = init(c);
        format!("{} {}", end(c, producer, true), end(c, producer, false))
    }),
    ("end of an empty one", |c| {
        c.create(1, &[]);
        let producer = init(c);
        add_own(c, producer);
        format!("{} {}", ended(c, producer, true), c.bounds())
    }),
    ("end twice", |c| {
        let producer = open(c);
        ended(c, producer, true);
        format!("{} {}", end(c, producer, true), end(c, producer, false))
    }),
    ("abort twice", |c| {
        let producer = open(c);
        ended(c, producer, false);
        format!("{} {}", end(c, producer, false), end(c, producer, true))
    }),
    ("end by a stranger", |c| {
        let told = end(c, Producer { id: 4711, epoch: 0 }, true);
        let producer = init(c);
        format!("{told} {}", end(c, Producer { id: producer.id + 1_000_000, ..producer }, true))
    }),
    ("end by a fenced producer", |c| {
        let old = open(c);
        init(c);
        format!("{} [{}]", end(c, old, true), c.read(1))
    }),
    ("coming back aborts", |c| {
        let old = open(c);
        let new = init(c);
        c.until("it is complete", |c| c.bounds() == "0..2 stable 2");
        format!("same id {} [{}] {}", old.id == new.id, c.read(1), state(c))
    }),
    ("several in a row", |c| {
        let producer = open(c);
        ended(c, producer, true);
        for sequence in 1..4 {
            add_own(c, producer);
            c.produce_in_transaction(&batch("more", producer, sequence));
            ended(c, producer, sequence % 2 == 0);
        }
        format!("{} [{}]", c.bounds(), c.read(1))
    }),
    ("sequence goes on over transactions", |c| {
        let producer = open(c);
        ended(c, producer, true);
        add_own(c, producer);
        let gap = c.produce_in_transaction(&batch("gap", producer, 5));
        format!("{gap} {}", c.produce_in_transaction(&batch("next", producer, 1)))
    }),
    ("sequence starts anew with the epoch", |c| {
        let old = open(c);
        ended(c, old, true);
        let producer = init(c);
        add_own(c, producer);
        let wrong = c.produce_in_transaction(&batch("on", producer, 1));
        format!("{wrong} {}", c.produce_in_transaction(&batch("anew", producer, 0)))
    }),
    ("offsets committed with a transaction", |c| {
        let producer = open(c);
        let told = [add_group(c, producer), commit_offset(c, producer, &nobody(), 5)].join(" ");
        let during = [groups::fetched(c, false), groups::fetched(c, true)].join("; ");
        ended(c, producer, true);
        c.until("they are stable", |c| groups::fetched(c, true).starts_with("ok ok"));
        format!("{told}; {during}; {}", groups::fetched(c, true))
    }),
    ("offsets of an aborted transaction", |c| {
        let producer = open(c);
        groups::commit(c, &nobody(), 3);
        add_group(c, producer);
        commit_offset(c, producer, &nobody(), 5);
        ended(c, producer, false);
        c.until("they are stable", |c| groups::fetched(c, true).starts_with("ok ok"));
        groups::fetched(c, true)
    }),
    ("offsets of a group not added", |c| {
        let producer = open(c);
        commit_offset(c, producer, &nobody(), 5)
    }),
    ("offsets by a fenced producer", |c| {
        let old = open(c);
        add_group(c, old);
        init(c);
        commit_offset(c, old, &nobody(), 5)
    }),
    ("offsets by a member", |c| {
        let producer = open(c);
        let member = groups::stable(c);
        add_group(c, producer);
        commit_offset(c, producer, &member, 5)
    }),
    ("offsets by a stranger to the group", |c| {
        let producer = open(c);
        let member = groups::stable(c);
        add_group(c, producer);
        commit_offset(c, producer, &Member { id: "made-up".to_owned(), ..member }, 5)
    }),
    ("offsets of another generation", |c| {
        let producer = open(c);
        let member = groups::stable(c);
        add_group(c, producer);
        commit_offset(c, producer, &Member { generation: member.generation - 1, ..member }, 5)
    }),
    ("offsets of a group with members, by nobody", |c| {
        let producer = open(c);
        groups::stable(c);
        add_group(c, producer);
        commit_offset(c, producer, &nobody(), 5)
    }),
    ("transaction times out", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        let (_, producer) = init_as(c, Some(&name), 1000, NEW, 4);
        add_own(c, producer);
        c.produce_in_transaction(&batch("a", producer, 0));
        c.until("it is aborted", |c| c.bounds() == "0..2 stable 2");
        c.until("it is complete", |c| state(c).starts_with("ok Complete"));
        format!("[{}] {} {}", c.read(1), state(c), end(c, producer, true))
    }),
    ("transaction of no id", |c| {
        let request = m::DescribeTransactionsRequest::default().with_transactional_ids(vec![txn_id("no such id")]);
        named(c.wire.call(0, &request).transaction_states[0].error_code)
    }),
    ("transaction before its first", |c| {
        init(c);
        state(c)
    }),
    ("transactions listed by state", |c| {
        open(c);
        let told = [&["Ongoing"][..], &["Empty"], &[], &["Nonsense"]].map(|states| listed(c, states, &[], -1));
        told.join("; ")
    }),
    ("transactions listed by producer", |c| {
        let producer = open(c);
        format!("{}; {}", listed(c, &[], &[producer.id], -1), listed(c, &[], &[4711], -1))
    }),
    ("transactions listed by duration", |c| {
        open(c);
        std::thread::sleep(std::time::Duration::from_millis(30));
        format!("{}; {}", listed(c, &[], &[], 10), listed(c, &[], &[], 3_600_000))
    }),
    ("producers of a partition", |c| {
        let producer = open(c);
        let during = producers(c);
        ended(c, producer, true);
        format!("{during}; {}", producers(c))
    }),
    ("time of a producer's last record", |c| {
        let producer = open(c);
        let hour_ago = now() - 3_600_000;
        let told = c.produce_in_transaction(&batch("older", producer, 1).at(hour_ago));
        let during = last_timestamp(c) == hour_ago;
        ended(c, producer, true);
        format!("{told}; the record's: {during}; then the marker's: {}", last_timestamp(c) > hour_ago)
    }),
    ("producers of no topic", |c| producers(c)),
    ("hanging transaction ended by hand", |c| {
        let producer = open(c);
        let told = marker(c, producer, &c.name.clone(), false);
        c.until("it is ended", |c| c.bounds() == "0..2 stable 2");
        format!("{told} [{}] {}", c.read(1), producers(c))
    }),
    ("marker of an old epoch", |c| {
        let old = open(c);
        init(c);
        c.until("it is complete", |c| c.bounds() == "0..2 stable 2");
        marker(c, old, &c.name.clone(), false)
    }),
    ("marker for no topic", |c| {
        let producer = init(c);
        marker(c, producer, "no-such-topic", false)
    }),
];
