//! Consumer groups: rebalances, static members, what operators see and change.

mod clients;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clients::*;
use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

fn member(servers: &str, group: &str, extra: &[(&str, &str)]) -> BaseConsumer {
    let mut config = consumer(servers, group);
    for (key, value) in extra {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().expect("a consumer");
    consumer.subscribe(&["t"]).expect("subscribed");
    consumer
}

/// Everybody has something, nobody has the same, nothing is left over.
fn shared_out(assigned: &[Vec<(String, i32)>], partitions: usize) -> bool {
    let all: Vec<_> = assigned.iter().flatten().collect();
    let distinct: BTreeSet<_> = all.iter().collect();
    assigned.iter().all(|one| !one.is_empty()) && all.len() == partitions && distinct.len() == partitions
}

#[test]
fn members_share_out_the_partitions_with_every_assignor() {
    for assignor in ["range", "roundrobin", "cooperative-sticky"] {
        let broker = start();
        let servers = broker.servers();
        create_topic(&servers, "t", 6, &[]);
        let extra = [("partition.assignment.strategy", assignor)];
        let one = member(&servers, "g", &extra);
        poll_until(&[&one], "one has all", |assigned| shared_out(assigned, 6));
        let two = member(&servers, "g", &extra);
        poll_until(&[&one, &two], "two share", |assigned| shared_out(assigned, 6));
        let three = member(&servers, "g", &extra);
        poll_until(&[&one, &two, &three], "three share", |assigned| {
            assigned.iter().all(|one| one.len() == 2) && shared_out(assigned, 6)
        });
        drop(two);
        poll_until(&[&one, &three], "two are left", |assigned| shared_out(assigned, 6));
    }
}

#[test]
fn a_silent_member_is_evicted() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 2, &[]);
    let one = member(&servers, "g", &[]);
    // The client library heartbeats on a thread of its own; what stops it is too long a gap between polls.
    let silent = member(&servers, "g", &[("session.timeout.ms", "1000"), ("max.poll.interval.ms", "1000")]);
    poll_until(&[&one, &silent], "both have one", |assigned| shared_out(assigned, 2));
    poll_until(&[&one], "one has both", |assigned| assigned[0].len() == 2);
    drop(silent);
}

#[test]
fn a_restarted_static_member_takes_over_without_a_rebalance() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 4, &[]);
    let static_member = |id| member(&servers, "g", &[("group.instance.id", id), ("session.timeout.ms", "20000")]);
    let one = static_member("one");
    let two = static_member("two");
    poll_until(&[&one, &two], "both have two", |assigned| shared_out(assigned, 4));
    let before = assignment(&two);
    let stale = two.group_metadata().expect("metadata");
    drop(two); // static members do not leave when they close
    let again = static_member("two");
    let mut disturbed = false;
    poll_until(&[&one, &again], "taken over", |assigned| {
        disturbed |= assigned[0].len() != 2;
        assigned[1] == before
    });
    assert!(!disturbed, "the other member was disturbed");

    // The member before the restart is fenced.
    let worker = transactional(&servers, "worker");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("t", before[0].1, Offset::Offset(1)).expect("an offset");
    worker.begin_transaction().expect("begun");
    let error = worker.send_offsets_to_transaction(&list, &stale, PATIENCE).expect_err("fenced");
    let KafkaError::Transaction(error) = error else { panic!("{error}") };
    assert_eq!(error.code(), RDKafkaErrorCode::FencedInstanceId);
    worker.abort_transaction(PATIENCE).expect("aborted");

    // The negative control: the present one is not.
    let fresh = again.group_metadata().expect("metadata");
    worker.begin_transaction().expect("begun");
    worker.send_offsets_to_transaction(&list, &fresh, PATIENCE).expect("accepted");
    worker.commit_transaction(PATIENCE).expect("committed");
}

#[test]
fn two_members_with_one_instance_id_do_not_both_live() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 2, &[]);
    let extra = [("group.instance.id", "same")];
    let old = member(&servers, "g", &extra);
    poll_until(&[&old], "old has both", |assigned| assigned[0].len() == 2);
    let new = member(&servers, "g", &extra);
    let deadline = Instant::now() + PATIENCE;
    let mut fenced = false;
    while !fenced || assignment(&new).len() != 2 {
        assert!(Instant::now() < deadline, "fenced: {fenced}");
        new.poll(Duration::from_millis(10));
        old.poll(Duration::from_millis(10));
        let fatal = old.client().fatal_error();
        fenced = fatal.is_some_and(|(code, _)| code == RDKafkaErrorCode::FencedInstanceId);
    }
}

#[test]
fn groups_are_listed_described_and_deleted() {
    let broker = start();
    let servers = broker.servers();
    create_topic(&servers, "t", 2, &[]);
    let one = member(&servers, "g", &[("client.id", "somebody")]);
    poll_until(&[&one], "both partitions", |assigned| assigned[0].len() == 2);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset("t", 0, Offset::Offset(3)).expect("an offset");
    one.commit(&list, CommitMode::Sync).expect("committed");

    let listed = one.fetch_group_list(Some("g"), PATIENCE).expect("answered");
    let group = &listed.groups()[0];
    assert_eq!((group.name(), group.state()), ("g", "Stable"));
    assert_eq!(group.protocol(), "range");
    assert_eq!(group.members().len(), 1);
    assert_eq!(group.members()[0].client_id(), "somebody");
    assert!(group.members()[0].assignment().is_some_and(|bytes| !bytes.is_empty()));

    let admin = admin(&servers);
    let options = AdminOptions::new();
    let results = block_on(admin.delete_groups(&["g"], &options)).expect("answered");
    let (_, code) = results[0].as_ref().expect_err("it has a member");
    assert_eq!(*code, RDKafkaErrorCode::NonEmptyGroup);
    drop(one);
    until("the group is empty", || block_on(admin.delete_groups(&["g"], &options)).expect("answered")[0].is_ok());
    assert_eq!(committed(&servers, "g", "t", 0), None);
}
