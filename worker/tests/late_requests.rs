//! Requests that reach the broker late, after the client library has quietly repeated them: the producer is replaced
//! before the next transaction, so they end no other transaction and move no position back. Each case on the embedded
//! broker and, where it is installed, on Apache Kafka, behind a proxy that holds requests and lets them go later.
//!
//! With the detection switched off, the same cases show the damage: it is real on both.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use cluster::*;
use millrace_chaos::proxy::ApiKey;
use millrace_chaos::{Proxy, Routes};
use millrace_runtime::Broker;
use millrace_worker::{KafkaBroker, KafkaConfig, Waker};

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
    a_late_end_of_a_transaction_ends_no_other,
    unnoticed_a_late_end_commits_what_was_aborted,
    late_positions_move_nothing_back,
    unnoticed_late_positions_move_a_group_back,
    a_connection_lost_again_is_noticed_again,
    a_request_that_times_out_is_noticed,
    a_lost_answer_replaces_the_producer,
}

/// Whether repeated requests are looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detection {
    On,
    Off,
}

/// A cluster and the proxy before it.
struct Ground {
    cluster: Cluster,
    proxy: Proxy,
}

fn ground(make: Make) -> Ground {
    let cluster = make(1);
    let (_, port) = cluster.bootstrap.rsplit_once(':').unwrap();
    let proxy = Proxy::start(port.parse().unwrap(), &Routes::default()).unwrap();
    Ground { cluster, proxy }
}

impl Ground {
    fn config(&self) -> KafkaConfig {
        let mut config = self.cluster.config("late");
        config.bootstrap = self.proxy.address();
        config
    }

    fn connect(&self, detection: Detection) -> KafkaBroker {
        let mut broker = KafkaBroker::connect(&self.config(), &self.cluster.topology, &[S], &Waker::default()).unwrap();
        if detection == Detection::Off {
            broker.trust_the_producer();
        }
        broker
    }

    /// Runs `work`, in which a request of this kind is sent; it is held, the connection cut, and the client library
    /// repeats the request on another one.
    fn with_one_held<T>(&self, api: ApiKey, work: impl FnOnce() -> T) -> T {
        self.proxy.hold(api, 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                waiting("the request is held", || self.proxy.held() > 0);
                self.proxy.cut();
            });
            work()
        })
    }

    /// Lets the held requests of this kind go and waits until the broker has answered them.
    fn let_go(&self, api: ApiKey) {
        let before = self.proxy.late_answers().len();
        assert!(self.proxy.release_only(api) > 0, "something was held");
        waiting("the broker answers the late request", || {
            self.proxy.late_answers()[before..].iter().any(|answer| answer.api == api)
        });
    }

    fn values(&self) -> Vec<String> {
        self.cluster.committed_values(OUT, Rest::Yes).into_iter().map(|(_, value)| value).collect()
    }
}

fn waiting(what: &str, mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(since.elapsed() < WAIT, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn transaction(broker: &mut KafkaBroker, value: &str) {
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), value)).unwrap();
    finish(broker, &[]).unwrap();
}

fn replaced(broker: &KafkaBroker) -> u64 {
    broker.counters().suspect.load(Ordering::Relaxed)
}

/// Commits `one`, the request to do so also arriving late, while a transaction with `two` is open, which is then
/// aborted; commits `three`. What readers see.
fn a_late_end(make: Make, detection: Detection) -> Vec<String> {
    let ground = ground(make);
    let mut broker = ground.connect(detection);
    ground.with_one_held(ApiKey::EndTxn, || transaction(&mut broker, "one"));
    let before = broker.bounds(&[at(OUT, 0)]).unwrap()[0].end;
    broker.begin().unwrap();
    broker.send(record(at(OUT, 0), "two")).unwrap();
    until("the record is in the log", || {
        broker.poll(Duration::from_millis(5), 0, &mut Vec::new()).unwrap();
        // Past the marker of the first as well, should that be written only now.
        (broker.bounds(&[at(OUT, 0)]).unwrap()[0].end >= (before + 1).max(3)).then_some(())
    });
    ground.let_go(ApiKey::EndTxn);
    match broker.abort() {
        Ok(()) => assert!(detection == Detection::On),
        Err(error) => {
            assert!(detection == Detection::Off, "{error}");
            until("a new producer", || broker.recreate().ok());
        }
    }
    transaction(&mut broker, "three");
    ground.values()
}

fn a_late_end_of_a_transaction_ends_no_other(make: Make) {
    assert_eq!(a_late_end(make, Detection::On), ["one", "three"]);
}

fn unnoticed_a_late_end_commits_what_was_aborted(make: Make) {
    assert_eq!(a_late_end(make, Detection::Off), ["one", "two", "three"]);
}

/// Commits positions up to 10, the request with them also arriving late, between the positions and the end of a
/// transaction that goes up to 20. The position that the group has then.
fn late_positions(make: Make, detection: Detection) -> Option<i64> {
    let ground = ground(make);
    let mut member = Member::new(ground.connect(detection));
    let leading = at(LEADING, 0);
    until("the partition", || {
        member.turn();
        (member.owned.len() == 1).then_some(())
    });
    let read = |member: &mut Member, count: usize| {
        until("records", || {
            member.turn();
            (member.seen.len() == count).then_some(())
        });
    };
    ground.with_one_held(ApiKey::TxnOffsetCommit, || {
        ground.cluster.produce(leading, ["first".to_owned()]);
        read(&mut member, 1);
    });
    ground.proxy.hold(ApiKey::EndTxn, 1);
    thread::scope(|scope| {
        scope.spawn(|| {
            waiting("the next end is held", || ground.proxy.held_of(ApiKey::EndTxn) > 0);
            ground.let_go(ApiKey::TxnOffsetCommit);
            assert!(ground.proxy.release_only(ApiKey::EndTxn) > 0);
        });
        ground.cluster.produce(leading, ["second".to_owned()]);
        read(&mut member, 2);
    });
    member.broker.committed(S, &[leading]).unwrap()[0]
}

fn late_positions_move_nothing_back(make: Make) {
    assert_eq!(late_positions(make, Detection::On), Some(2));
}

fn unnoticed_late_positions_move_a_group_back(make: Make) {
    assert_eq!(late_positions(make, Detection::Off), Some(1));
}

/// The library tells of the same trouble once in thirty seconds only, and to a connection that has stood for a while it
/// goes back at once.
fn a_connection_lost_again_is_noticed_again(make: Make) {
    const STOOD: Duration = Duration::from_millis(2_100);
    let ground = ground(make);
    let mut broker = ground.connect(Detection::On);
    transaction(&mut broker, "first");
    thread::sleep(STOOD);
    let before = ground.proxy.accepted();
    ground.proxy.cut();
    waiting("the clients are back", || ground.proxy.accepted() > before);
    transaction(&mut broker, "between");
    thread::sleep(STOOD);
    ground.with_one_held(ApiKey::EndTxn, || transaction(&mut broker, "repeated"));
    let before = replaced(&broker);
    transaction(&mut broker, "next");
    assert_eq!(replaced(&broker), before + 1);
}

fn a_request_that_times_out_is_noticed(make: Make) {
    let ground = ground(make);
    let mut config = ground.config();
    config.properties.insert("socket.timeout.ms".into(), "1000".into());
    let mut broker = KafkaBroker::connect(&config, &ground.cluster.topology, &[S], &Waker::default()).unwrap();
    ground.proxy.hold(ApiKey::EndTxn, 1);
    transaction(&mut broker, "repeated");
    assert_eq!(ground.proxy.held_of(ApiKey::EndTxn), 1, "the library gave up waiting and asked again");
    transaction(&mut broker, "next");
    assert_eq!(replaced(&broker), 1);
}

fn a_lost_answer_replaces_the_producer(make: Make) {
    let ground = ground(make);
    let mut broker = ground.connect(Detection::On);
    for (lost, api) in [ApiKey::AddPartitionsToTxn, ApiKey::EndTxn].into_iter().enumerate() {
        ground.proxy.lose_answers(api, 1);
        transaction(&mut broker, "repeated");
        transaction(&mut broker, "next");
        assert_eq!((ground.proxy.lost(), replaced(&broker)), (lost + 1, lost as u64 + 1), "{api:?}");
    }
    assert_eq!(ground.values().len(), 4, "nothing is lost or doubled");
}
