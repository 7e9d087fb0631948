//! A client whose broker does not answer any more: what it lost is told as lost, it asks again, and it can be closed. Each case on the
//! embedded broker and, where it is installed, on Apache Kafka, behind a proxy that lets nothing pass.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cluster::*;
use millrace_chaos::proxy::ApiKey;
use millrace_chaos::{Proxy, Routes};
use millrace_runtime::{Broker, Event};
use millrace_worker::{KafkaBroker, Waker};

mod embedded {
    #[test]
    fn an_assignment_that_was_lost_is_told_as_lost() {
        super::an_assignment_that_was_lost_is_told_as_lost(super::embedded);
    }

    #[test]
    fn a_client_whose_broker_is_silent_can_be_closed() {
        super::a_client_whose_broker_is_silent_can_be_closed(super::embedded);
    }

    #[test]
    fn what_is_never_answered_is_asked_again() {
        super::what_is_never_answered_is_asked_again(super::embedded);
    }
}

mod apache {
    #[test]
    fn an_assignment_that_was_lost_is_told_as_lost() {
        if super::apache_is_here() {
            super::an_assignment_that_was_lost_is_told_as_lost(super::apache);
        }
    }

    #[test]
    fn a_client_whose_broker_is_silent_can_be_closed() {
        if super::apache_is_here() {
            super::a_client_whose_broker_is_silent_can_be_closed(super::apache);
        }
    }

    #[test]
    fn what_is_never_answered_is_asked_again() {
        if super::apache_is_here() {
            super::what_is_never_answered_is_asked_again(super::apache);
        }
    }
}

/// A member with all partitions, behind a proxy.
fn member_behind_proxy(cluster: &Cluster) -> (Proxy, Member) {
    let (_, port) = cluster.bootstrap.rsplit_once(':').unwrap();
    let proxy = Proxy::start(port.parse().unwrap(), &Routes::default()).unwrap();
    let mut config = cluster.config("far");
    config.bootstrap = proxy.address();
    let mut member = Member::new(KafkaBroker::connect(&config, &cluster.topology, &[S], &Waker::default()).unwrap());
    until("the partition", || {
        member.turn();
        (member.owned.len() == 1).then_some(())
    });
    (proxy, member)
}

fn an_assignment_that_was_lost_is_told_as_lost(make: Make) {
    let cluster = make(1);
    let (proxy, mut member) = member_behind_proxy(&cluster);
    proxy.stall();
    let mut heir = Member::new(cluster.connect("heir"));
    until("the heir takes over", || {
        heir.turn();
        (heir.owned.len() == 1).then_some(())
    });
    proxy.resume();
    let told = until("the member is told", || {
        let mut events = Vec::new();
        member.broker.poll(Duration::from_millis(20), 10, &mut events).unwrap();
        events.into_iter().find(|event| matches!(event, Event::Lost { .. } | Event::Revoked { .. }))
    });
    assert!(matches!(&told, Event::Lost { partitions, .. } if partitions == &[0]), "{told:?}");
    member.broker.release(S, &[0]).unwrap();
}

fn a_client_whose_broker_is_silent_can_be_closed(make: Make) {
    let cluster = make(1);
    let (proxy, mut member) = member_behind_proxy(&cluster);
    member.broker.begin().unwrap();
    proxy.stall();
    member.broker.send(record(at(OUT, 0), "never arrives")).unwrap();
    let (closed, done) = mpsc::channel();
    thread::spawn(move || {
        drop(member);
        closed.send(()).unwrap();
    });
    done.recv_timeout(WAIT).expect("it is closed although nobody answers");
    proxy.resume();
    assert_eq!(cluster.committed_values(OUT, Rest::Yes), vec![]);
}

/// The library by itself would wait for the answer for a minute, which is longer than `until` does.
fn what_is_never_answered_is_asked_again(make: Make) {
    let cluster = make(1);
    let (proxy, mut member) = member_behind_proxy(&cluster);
    proxy.hold(ApiKey::Fetch, 1);
    until("a fetch is held", || {
        member.turn();
        (proxy.held_of(ApiKey::Fetch) == 1).then_some(())
    });
    cluster.produce(at(LEADING, 0), ["late".to_owned()]);
    until("the record", || {
        member.turn();
        (!member.seen.is_empty()).then_some(())
    });
    proxy.release();
}
