//! The Kafka door: transactions, rewinds, rebalances, fencing, bounds, following. Each test runs against the embedded
//! broker and, where it is installed, against Apache Kafka.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use cluster::*;
use millrace_runtime::{Bounds, Broker, BrokerError, Event, Flow, GroupOffsets};
use millrace_worker::topics::{self, Difference, TopicSpec};
use millrace_worker::{KafkaBroker, KafkaConfig, Waker, WhenStopped};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// Each test on both brokers.
macro_rules! on_both {
    ($($test:ident,)*) => {
        mod embedded {
            $(#[test]
            fn $test() {
                super::$test(super::cluster::embedded);
            })*
        }
        mod apache {
            $(#[test]
            fn $test() {
                if super::cluster::apache_is_here() {
                    super::$test(super::cluster::apache);
                }
            })*
        }
    };
}

on_both! {
    a_commit_is_seen_whole,
    an_abort_leaves_nothing,
    bounds_tell_the_true_end,
    following_goes_past_markers,
    nothing_old_comes_after_a_rewind,
    without_room_no_record_comes_and_none_is_lost,
    positions_are_committed_with_the_records,
    an_open_transaction_of_a_dead_producer_is_resolved_by_its_successor,
    a_zombie_whose_partitions_moved_commits_nothing,
    clean_commits_replace_nothing,
    partitions_sit_together_while_members_come_and_go,
    closing_does_not_hang_on_an_unanswered_rebalance,
    a_partition_given_up_by_a_static_member_that_died_is_read_again,
    a_static_member_that_leaves_is_missed_at_once,
}

/// Polls until the member has all partitions.
fn join(member: &mut Member, partitions: usize) {
    until("all partitions", || {
        member.turn();
        (member.owned.len() == partitions).then_some(())
    });
}

fn a_commit_is_seen_whole(make: Make) {
    let cluster = make(1);
    let mut broker = cluster.connect("a");
    broker.begin().unwrap();
    for value in ["one", "two", "three"] {
        broker.send(record(at(OUT, 0), value)).unwrap();
    }
    broker.send(record(at(OUT, 1), "four")).unwrap();
    assert_eq!(cluster.committed_values(OUT, Rest::No), vec![], "nothing is seen before the commit");
    let landed = broker.flush().unwrap();
    assert_eq!(landed.0, vec![(at(OUT, 0), 0..3), (at(OUT, 1), 0..1)]);
    assert_eq!(cluster.committed_values(OUT, Rest::No), vec![], "nothing is seen before the commit");
    broker.commit(&[]).unwrap();
    assert_eq!(cluster.committed_values(OUT, Rest::Yes).len(), 4);
    // The marker takes an offset: the next transaction lands behind it.
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "five")).unwrap();
    assert_eq!(broker.flush().unwrap().0, vec![(at(OUT, 0), 4..5)]);
    broker.commit(&[]).unwrap();
    // A stranger's record in between is told by more offsets than were sent.
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "six")).unwrap();
    assert_eq!(broker.flush().unwrap().0, vec![(at(OUT, 0), 6..7)]);
    cluster.produce(at(OUT, 0), ["a stranger".to_owned()]);
    broker.send(record(at(OUT, 0), "seven")).unwrap();
    assert_eq!(broker.flush().unwrap().0, vec![(at(OUT, 0), 6..9)]);
    broker.commit(&[]).unwrap();
}

fn an_abort_leaves_nothing(make: Make) {
    let cluster = make(1);
    let mut broker = cluster.connect("a");
    for round in 0..3 {
        broker.begin().unwrap();
        for number in 0..1_000 {
            broker.send(record(at(OUT, 0), &format!("aborted {round} {number}"))).unwrap();
        }
        broker.abort().unwrap();
    }
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "kept")).unwrap();
    finish(&mut broker, &[]).unwrap();
    assert_eq!(cluster.committed_values(OUT, Rest::Yes), vec![(0, "kept".to_owned())]);
}

fn bounds_tell_the_true_end(make: Make) {
    let cluster = make(1);
    let mut broker = cluster.connect("a");
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "open")).unwrap();
    let found = until("the record is in the log", || {
        let mut events = Vec::new();
        broker.poll(Duration::from_millis(5), 0, &mut events).unwrap();
        let found = broker.bounds(&[at(OUT, 1), at(OUT, 0), at(OUT, 1)]).unwrap();
        (found[1].end > 0).then_some(found)
    });
    let empty = Bounds { start: 0, end: 0 };
    assert_eq!(found, vec![empty, Bounds { start: 0, end: 1 }, empty]);
    finish(&mut broker, &[]).unwrap();
    // A commit is answered before its marker is written.
    until("the marker counts", || {
        (broker.bounds(&[at(OUT, 0)]).unwrap() == [Bounds { start: 0, end: 2 }]).then_some(())
    });
}

fn following_goes_past_markers(make: Make) {
    let cluster = make(1);
    let mut broker = cluster.connect("a");
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "one")).unwrap();
    finish(&mut broker, &[]).unwrap();
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "never")).unwrap();
    broker.abort().unwrap();
    // one, marker, never, marker
    let follow = |broker: &mut KafkaBroker, from: i64, to: i64| {
        broker.follow(at(OUT, 0), from).unwrap();
        let mut values = Vec::new();
        until("the end", || {
            let mut events = Vec::new();
            broker.poll(Duration::from_millis(20), 100, &mut events).unwrap();
            for event in events {
                if let Event::Followed { from, records, next, .. } = event {
                    assert_eq!(from, at(OUT, 0));
                    values.extend(records.into_iter().map(|r| (r.offset, r.value.unwrap())));
                    if next == to {
                        return Some(());
                    }
                }
            }
            None
        });
        values
    };
    assert_eq!(follow(&mut broker, 0, 4), vec![(0, b"one".to_vec())]);
    assert_eq!(follow(&mut broker, 0, 4), vec![(0, b"one".to_vec())], "following again moves it back");
    assert_eq!(follow(&mut broker, 1, 4), vec![]);
    broker.unfollow(at(OUT, 0)).unwrap();
}

fn nothing_old_comes_after_a_rewind(make: Make) {
    let cluster = make(2);
    cluster.produce(at(LEADING, 0), (0..5_000).map(|n| n.to_string()));
    cluster.produce(at(COMPANION, 0), (0..5_000).map(|n| n.to_string()));
    let mut member = Member::new(cluster.connect("a"));
    join(&mut member, 2);
    let both = [at(LEADING, 0), at(COMPANION, 0)];
    let read = |broker: &mut KafkaBroker| -> BTreeMap<_, Vec<i64>> {
        let mut offsets = BTreeMap::<_, Vec<i64>>::new();
        until("records", || {
            let mut events = Vec::new();
            broker.poll(Duration::from_millis(20), 100, &mut events).unwrap();
            for event in events {
                if let Event::Records { from, records, .. } = event {
                    offsets.entry(from).or_default().extend(records.iter().map(|r| r.offset));
                }
            }
            both.iter().all(|from| offsets.get(from).is_some_and(|o| o.len() >= 150)).then_some(())
        });
        offsets
    };
    // Back and forth, with records of the old position waiting in the client's queue each time.
    for (round, to) in [(0, 10), (1, 3_000), (2, 0), (3, 700), (4, 699), (5, 0)] {
        if round % 2 == 0 {
            member.broker.set_flow(S, &both, Flow::Paused).unwrap();
        }
        member.broker.rewind(S, &both.map(|from| (from, to))).unwrap();
        if round % 2 == 0 {
            let mut events = Vec::new();
            member.broker.poll(Duration::from_millis(30), 100, &mut events).unwrap();
            assert!(events.is_empty(), "paused, but {events:?} came");
            member.broker.set_flow(S, &both, Flow::Open).unwrap();
        }
        for (from, offsets) in read(&mut member.broker) {
            let wanted: Vec<i64> = (to..to + offsets.len() as i64).collect();
            assert_eq!(offsets, wanted, "{from:?} after a rewind to {to}");
        }
    }
}

fn without_room_no_record_comes_and_none_is_lost(make: Make) {
    let cluster = make(1);
    cluster.produce(at(LEADING, 0), (0..300).map(|n| n.to_string()));
    let mut member = Member::new(cluster.connect("a"));
    join(&mut member, 1);
    let mut offsets: Vec<i64> = Vec::new();
    member.broker.rewind(S, &[(at(LEADING, 0), 0)]).unwrap();
    for round in 0.. {
        let mut events = Vec::new();
        let most = if round % 2 == 0 { 0 } else { 40 };
        member.broker.poll(Duration::from_millis(20), most, &mut events).unwrap();
        for event in events {
            if let Event::Records { records, .. } = event {
                assert!(records.len() <= most);
                offsets.extend(records.iter().map(|r| r.offset));
            }
        }
        if offsets.len() >= 300 {
            break;
        }
        assert!(round < 2_000, "only {} records came", offsets.len());
    }
    assert_eq!(offsets, (0..300).collect::<Vec<_>>());
}

fn positions_are_committed_with_the_records(make: Make) {
    let cluster = make(1);
    cluster.produce(at(LEADING, 0), (0..10).map(|n| n.to_string()));
    let mut member = Member::new(cluster.connect("a"));
    join(&mut member, 1);
    until("ten records", || {
        member.turn();
        (member.seen.len() >= 10).then_some(())
    });
    let inputs = [at(COMPANION, 0), at(LEADING, 0)];
    assert_eq!(member.broker.committed(S, &inputs).unwrap(), vec![None, Some(10)]);
    assert_eq!(cluster.committed_values(OUT, Rest::Yes).len(), 10);
}

fn an_open_transaction_of_a_dead_producer_is_resolved_by_its_successor(make: Make) {
    let cluster = make(1);
    let mut first = cluster.connect("a");
    first.begin().unwrap();
    first.send(record(at(OUT, 0), "left open")).unwrap();
    until("the record is in the log", || {
        first.poll(Duration::from_millis(5), 0, &mut Vec::new()).unwrap();
        (first.bounds(&[at(OUT, 0)]).unwrap()[0].end > 0).then_some(())
    });
    let mut second = cluster.connect("a");
    second.begin().unwrap();
    second.send(record(at(OUT, 0), "new")).unwrap();
    finish(&mut second, &[]).unwrap();
    first.send(record(at(OUT, 0), "zombie")).ok();
    let error = finish(&mut first, &[]).unwrap_err();
    assert!(matches!(error, BrokerError::Fenced(_) | BrokerError::Abort(_)), "{error:?}");
    assert_eq!(cluster.committed_values(OUT, Rest::Yes), vec![(0, "new".to_owned())]);
}

fn a_zombie_whose_partitions_moved_commits_nothing(make: Make) {
    let cluster = make(1);
    cluster.produce(at(LEADING, 0), (0..10).map(|n| n.to_string()));
    let mut config = cluster.config("zombie");
    config.max_poll_interval_ms = 6_000;
    let mut zombie = Member::new(KafkaBroker::connect(&config, &cluster.topology, &[S], &Waker::default()).unwrap());
    let mut slept = false;
    until("the zombie sleeps with an open transaction", || {
        zombie.turn_and(|_| {
            // Longer than max.poll.interval: the group gives its partition to the next member meanwhile.
            let mut heir = Member::new(cluster.connect("heir"));
            until("the heir takes over", || {
                heir.turn();
                (heir.seen.len() == 10).then_some(())
            });
            slept = true;
        });
        slept.then_some(())
    });
    assert_eq!(zombie.aborts, 1, "its commit was refused");
    assert_eq!(cluster.committed_values(OUT, Rest::Yes).len(), 10, "every record once");
}

fn clean_commits_replace_nothing(make: Make) {
    let cluster = make(1);
    let mut broker = cluster.connect("a");
    for number in 0..50 {
        broker.begin().unwrap();
        broker.send(record(at(OUT, 0), &number.to_string())).unwrap();
        finish(&mut broker, &[]).unwrap();
    }
    let replaced = broker.counters().suspect.load(Ordering::Relaxed);
    assert_eq!(replaced, 0, "no connection was lost, and no answer");
    broker.recreate().unwrap();
    assert_eq!(broker.counters().asked.load(Ordering::Relaxed), 1);
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "after")).unwrap();
    finish(&mut broker, &[]).unwrap();
    assert_eq!(cluster.committed_values(OUT, Rest::Yes).len(), 51);
}

/// The client library's own mock broker.
fn on_mock() -> (MockCluster<'static, DefaultProducerContext>, KafkaBroker) {
    let mock = MockCluster::new(1).unwrap();
    let topology = topology(1);
    for topic in &topology.topics {
        mock.create_topic(&topic.name, topic.partitions, 1).unwrap();
    }
    let mut config = KafkaConfig::new(mock.bootstrap_servers(), "a", 0);
    config.static_membership = false; // the mock describes no groups
    let broker = KafkaBroker::connect(&config, &topology, &[S], &Waker::default()).unwrap();
    (mock, broker)
}

/// On the mock broker, because it can drop a connection instead of answering a request of one kind.
#[test]
fn a_lost_answer_to_a_commit_replaces_the_producer() {
    let (mock, mut broker) = on_mock();
    let mut commit = || {
        broker.begin().unwrap();
        broker.send(record(at(OUT, 0), "x")).unwrap();
        finish(&mut broker, &[]).unwrap();
        broker.counters().suspect.load(Ordering::Relaxed)
    };
    commit();
    let before = commit();
    mock.request_errors(RDKafkaApiKey::EndTxn, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT]);
    commit();
    assert_eq!(commit(), before + 1, "the library repeated the request and said nothing");
}

/// On the mock broker, because there a member can be forgotten while its heartbeats are answered.
#[test]
fn a_member_the_group_has_forgotten_is_fenced() {
    const FORGOTTEN: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID;
    const OVERTAKEN: RDKafkaRespErr = RDKafkaRespErr::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION;
    let (mock, broker) = on_mock();
    let mut member = Member::new(broker);
    join(&mut member, 1);
    let mut commit = |refused: &[RDKafkaRespErr]| {
        mock.request_errors(RDKafkaApiKey::TxnOffsetCommit, refused);
        member.broker.begin().unwrap();
        let offsets = vec![(at(LEADING, 0), 0)];
        let done = finish(&mut member.broker, &[GroupOffsets { sub_topology: S, offsets }]);
        if matches!(done, Err(BrokerError::Abort(_))) {
            member.broker.abort().unwrap();
        }
        done
    };
    commit(&[]).unwrap();
    // In a rebalance that is normal: the work is done again in the new generation.
    assert!(matches!(commit(&[OVERTAKEN]), Err(BrokerError::Abort(_))));
    commit(&[]).unwrap();
    let since = Instant::now();
    let ended = until("it counts as lost", || match commit(&[OVERTAKEN]) {
        Err(BrokerError::Abort(_)) => None,
        other => Some(other),
    });
    assert!(matches!(ended, Err(BrokerError::Fenced(_))), "{ended:?}");
    assert!(since.elapsed() > Duration::from_secs(5), "not before two heartbeats could have told it");
    assert!(matches!(commit(&[FORGOTTEN]), Err(BrokerError::Fenced(_))), "nobody knows it: no use to try again");
}

fn partitions_sit_together_while_members_come_and_go(make: Make) {
    const PARTITIONS: i32 = 5;
    let cluster = make(PARTITIONS);
    let topics = [LEADING, COMPANION, SECOND];
    let mut members: Vec<Member> = Vec::new();
    let mut gone_seen = 0;
    let mut produced = 0;
    let mut feed = |from: usize| {
        for partition in 0..PARTITIONS {
            for topic in topics {
                cluster
                    .produce(at(topic, partition), (from..from + 20).map(|n| format!("{}-{partition}-{n}", topic.0)));
            }
        }
        produced += 20 * topics.len() * PARTITIONS as usize;
        produced
    };
    let settle = |members: &mut Vec<Member>, wanted: usize, gone: usize| {
        until("the group settles and all is read", || {
            for member in members.iter_mut() {
                member.turn();
            }
            let owned: usize = members.iter().map(|m| m.owned.len()).sum();
            let all: BTreeSet<i32> = members.iter().flat_map(|m| m.owned.iter().copied()).collect();
            let each = members.iter().all(|m| !m.owned.is_empty());
            let read: usize = members.iter().map(|m| m.seen.len()).sum::<usize>() + gone;
            (owned == PARTITIONS as usize && all.len() == owned && each && read >= wanted).then_some(())
        });
    };
    for (step, name) in ["a", "b", "c"].into_iter().enumerate() {
        let wanted = feed(step * 20);
        members.push(Member::new(cluster.connect(name)));
        settle(&mut members, wanted, gone_seen);
    }
    let sizes: Vec<usize> = members.iter().map(|m| m.owned.len()).collect();
    assert_eq!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap(), 1, "five among three: {sizes:?}");
    let left = members.remove(0);
    gone_seen += left.seen.len();
    let gone: Vec<String> = left.seen.iter().map(|(_, value)| value.clone()).collect();
    drop(left);
    let wanted = feed(60);
    settle(&mut members, wanted, gone_seen);
    let values = cluster.committed_values(OUT, Rest::Yes);
    let distinct: BTreeSet<&String> = values.iter().map(|(_, value)| value).collect();
    let mut seen: Vec<&String> = members.iter().flat_map(|m| &m.seen).map(|(_, value)| value).chain(&gone).collect();
    let count = seen.len();
    seen.sort();
    seen.dedup();
    let unread: Vec<&&String> = seen.iter().filter(|value| !distinct.contains(**value)).collect();
    let aborts: Vec<u64> = members.iter().map(|m| m.aborts).collect();
    let told = format!("{} read, {count} committed, {} of them different; aborts {aborts:?}", values.len(), seen.len());
    assert_eq!(distinct.len(), wanted, "nothing is missing: {told}; committed, but not read: {unread:?}");
    assert_eq!(values.len(), wanted, "nothing is doubled: {told}");
}

fn closing_does_not_hang_on_an_unanswered_rebalance(make: Make) {
    let cluster = make(2);
    let mut broker = cluster.connect("a");
    until("an assignment", || {
        let mut events = Vec::new();
        broker.poll(Duration::from_millis(20), 10, &mut events).unwrap();
        events.iter().any(|event| matches!(event, Event::Assigned { .. })).then_some(())
    });
    let since = Instant::now();
    drop(broker);
    assert!(since.elapsed() < Duration::from_secs(6), "closing took {:?}", since.elapsed());
    let mut next = Member::new(cluster.connect("b"));
    join(&mut next, 2);
}

/// An answered call or a question must not wait until the broker has something to say.
#[test]
fn news_from_elsewhere_ends_a_wait() {
    const TIMES: usize = 50;
    let cluster = embedded(1);
    let waker = Waker::default();
    let mut broker = KafkaBroker::connect(&cluster.config("a"), &cluster.topology, &[S], &waker).unwrap();
    let (polled, done) = mpsc::channel();
    thread::spawn(move || {
        for _ in 0..TIMES {
            broker.poll(Duration::from_secs(3_600), 10, &mut Vec::new()).unwrap();
            polled.send(()).unwrap();
        }
    });
    for _ in 0..TIMES {
        waker.wake();
        done.recv_timeout(WAIT).expect("it does not wait for the hour to end");
    }
}

/// A static member whose session outlasts the test: whatever happens to its partitions is not by its time-out.
fn static_member(cluster: &Cluster, instance: &str, when_stopped: WhenStopped) -> KafkaBroker {
    let mut config = cluster.config(instance);
    config.static_membership = true;
    config.session_timeout_ms = 60_000;
    config.when_stopped = when_stopped;
    KafkaBroker::connect(&config, &cluster.topology, &[S], &Waker::default()).unwrap()
}

fn a_partition_given_up_by_a_static_member_that_died_is_read_again(make: Make) {
    let cluster = make(4);
    let mut first = Member::new(static_member(&cluster, "a", WhenStopped::Stay));
    join(&mut first, 4);
    let mut second = Member::new(static_member(&cluster, "b", WhenStopped::Stay));
    // From here on the first does nothing any more: it has been told what to give up, and never joins again.
    until("it is told to give partitions up", || {
        second.turn();
        let mut events = Vec::new();
        first.broker.poll(Duration::from_millis(20), 500, &mut events).unwrap();
        events.iter().any(|event| matches!(event, Event::Revoked { .. })).then_some(())
    });
    let settle = |back: &mut Member, second: &mut Member, owned: usize| {
        until("the group settles", || {
            back.turn();
            second.turn();
            let whole = back.broker.unread(S).unwrap().len() + owned == 4;
            (whole && back.owned.len() + second.owned.len() == owned && !back.owned.is_empty()).then_some(())
        });
    };
    // It comes back under its name and takes what it is given: the group is stable, and has left two to nobody.
    let mut trusting = static_member(&cluster, "a", WhenStopped::Stay);
    trusting.trust_the_groups();
    let mut trusting = Member::new(trusting);
    settle(&mut trusting, &mut second, 2);
    assert_eq!(trusting.broker.unread(S).unwrap().len(), 2, "the hole this is about");
    drop(trusting);
    let mut back = Member::new(static_member(&cluster, "a", WhenStopped::Stay));
    settle(&mut back, &mut second, 4);
    assert_eq!(back.owned.len(), 2);
}

fn a_static_member_that_leaves_is_missed_at_once(make: Make) {
    let cluster = make(2);
    let mut second = Member::new(static_member(&cluster, "b", WhenStopped::Stay));
    let both = |name: &str, when_stopped, second: &mut Member| {
        let mut first = Member::new(static_member(&cluster, name, when_stopped));
        until("one each", || {
            first.turn();
            second.turn();
            (first.owned.len() == 1 && second.owned.len() == 1).then_some(())
        });
        first
    };
    // One that keeps its place is still in the group when it is gone: nothing of its is unread, by the group's account.
    drop(both("a", WhenStopped::Stay, &mut second));
    assert_eq!(second.broker.unread(S).unwrap(), Vec::<i32>::new());
    second.turn();
    assert_eq!(second.owned.len(), 1);
    // The same one comes back, and this time it leaves.
    drop(both("a", WhenStopped::Leave, &mut second));
    join(&mut second, 2);
}

/// On the mock broker, where a first member waits three seconds for others: until then it is in no generation.
#[test]
fn offsets_of_a_member_in_no_generation_are_refused() {
    let (_mock, mut broker) = on_mock();
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "x")).unwrap();
    let offsets = vec![(at(LEADING, 0), 0)];
    let error = finish(&mut broker, &[GroupOffsets { sub_topology: S, offsets }]).unwrap_err();
    assert!(matches!(error, BrokerError::Abort(_)), "{error:?}");
    broker.abort().unwrap();
}

#[test]
fn topics_that_differ_are_told_and_left_alone() {
    let cluster = embedded(2);
    let config = cluster.config("admin");
    let wanted = |name: &str, partitions, retention: &str| TopicSpec {
        name: name.into(),
        partitions,
        replication: 1,
        configs: BTreeMap::from([("retention.ms".to_owned(), retention.to_owned())]),
    };
    let specs = [
        wanted("leading", 3, "100000000"),
        wanted("second", 2, "5"),
        wanted("companion", 2, "100000000"),
        wanted("new", 1, "7"),
    ];
    let differing = [
        Difference::Partitions { topic: "leading".into(), wanted: 3, found: 2 },
        Difference::Config {
            topic: "second".into(),
            config: "retention.ms".into(),
            wanted: "5".into(),
            found: Some("100000000".into()),
        },
    ];
    let found = topics::compare(&config, &specs).unwrap();
    assert_eq!(found.iter().filter(|d| matches!(d, Difference::Missing { topic } if topic == "new")).count(), 1);
    assert!(differing.iter().all(|d| found.contains(d)), "{found:?}");
    let report = topics::ensure(&config, &specs).unwrap();
    assert_eq!((report.created, report.differences), (vec!["new".to_owned()], differing.to_vec()));
}
