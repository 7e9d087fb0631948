//! Hand-over: the same result with and without it, through faults, strangers, waits, poison, moves and zombies.

mod relay;

use std::sync::atomic::Ordering;

use millrace_runtime::testing::{Before, Driver, Fault};
use millrace_runtime::{Report, SubTopologyId, partition_of};
use relay::{at, check, driver, feed, seen, stranger};

fn on(text: &str) -> String {
    text.to_owned()
}

fn off(text: &str) -> String {
    text.replace("hand_over = true", "hand_over = false")
}

fn report(driver: &mut Driver) -> Report {
    driver.thread(1).take_report()
}

/// A driver whose member has passed records on already.
fn warm(change: impl FnOnce(&str) -> String) -> Driver {
    let (mut driver, _) = driver(change);
    driver.start_with_all(1);
    feed(&mut driver, 0, 70);
    driver.settle().expect("it settles");
    feed(&mut driver, 70, 140);
    driver.settle().expect("it settles");
    check(&driver, 140).expect("all of it is told");
    driver
}

#[test]
fn the_chain_is_one_transaction_instead_of_four() {
    let run = |change: fn(&str) -> String| {
        let mut driver = warm(change);
        report(&mut driver);
        let before = driver.cluster.transactions();
        driver.produce("words", b"key-1", b"one more");
        driver.settle().unwrap();
        (driver.cluster.transactions() - before, report(&mut driver), seen(&driver))
    };
    let (transactions_on, report_on, seen_on) = run(on);
    let (transactions_off, report_off, seen_off) = run(off);
    assert_eq!(seen_on, seen_off);
    assert_eq!((transactions_on, report_on.handed_over), (1, 3), "number to ask, ask to tell, tell to ask");
    assert_eq!((transactions_off, report_off.handed_over), (4, 0));
}

#[test]
fn readers_catch_up_under_load_and_then_nothing_is_read_twice() {
    let mut driver = warm(on);
    report(&mut driver);
    feed(&mut driver, 140, 1_000);
    driver.settle().unwrap();
    check(&driver, 1_000).unwrap();
    let report = report(&mut driver);
    assert_eq!(report.handed_over, 3 * 860, "all of it in memory");
    assert_eq!((report.aborts, report.strangers), (0, 0));
}

#[test]
fn a_chain_longer_than_a_transaction_goes_on_in_the_next() {
    let mut driver = warm(|text| text.replace("commit_records = 40", "commit_records = 1"));
    feed(&mut driver, 140, 300);
    driver.settle().unwrap();
    check(&driver, 300).unwrap();
    assert!(report(&mut driver).handed_over > 0);
}

#[test]
fn every_fault_at_every_commit_changes_nothing() {
    for fault in [Fault::AbortCommit, Fault::LoseCommit, Fault::LoseCommitAnswer, Fault::FailSend] {
        for after in 0..12 {
            let mut driver = warm(on);
            feed(&mut driver, 140, 140 + after * 5);
            driver.settle().unwrap();
            driver.inject(1, fault);
            feed(&mut driver, 140 + after * 5, 300);
            driver.settle().unwrap();
            check(&driver, 300).unwrap_or_else(|wrong| panic!("{fault:?} after {after} rounds: {wrong}"));
            let report = report(&mut driver);
            assert_eq!(report.aborts, 1, "{fault:?} must have happened");
            assert!(report.handed_over > 0);
        }
    }
}

#[test]
fn a_crash_at_any_commit_loses_and_doubles_nothing() {
    for fault in [Fault::CrashBeforeCommit, Fault::CrashAfterCommit] {
        for wipe in [false, true] {
            for after in 0..12 {
                let mut driver = warm(on);
                feed(&mut driver, 140, 140 + after * 5);
                driver.settle().unwrap();
                driver.clock.advance(60_000);
                driver.settle().unwrap();
                driver.inject(1, fault);
                feed(&mut driver, 140 + after * 5, 300);
                assert!(driver.settle().is_err(), "the process must end");
                driver.crash(1);
                if wipe {
                    driver.wipe_disk(1);
                }
                driver.start_with_all(1);
                driver.settle().unwrap();
                check(&driver, 300).unwrap_or_else(|wrong| panic!("{fault:?} after {after}, wiped {wipe}: {wrong}"));
            }
        }
    }
}

/// Lets a stranger's record land between two of the thread's own on each partition of a topic.
fn with_strangers(driver: &mut Driver, topic: &str, value: &str) {
    for partition in 0..2 {
        let key = (0..).map(|n| format!("stranger-{n}")).find(|key| partition_of(key.as_bytes(), 2) == partition);
        let key = key.expect("some number has it");
        driver.cluster.interpose(at(driver, topic, partition), stranger(&key, value));
    }
    feed(driver, 140, 300);
}

#[test]
fn a_stranger_between_two_records_is_seen_before_the_commit_and_read_in_its_turn() {
    for (topic, value) in [("first", "1 a stranger's"), ("asks", "7 key-0"), ("told", "7")] {
        let mut driver = warm(on);
        report(&mut driver);
        with_strangers(&mut driver, topic, value);
        driver.settle().unwrap();
        let report = report(&mut driver);
        assert!((1..=2).contains(&report.strangers), "{topic}: one transaction or two, not {}", report.strangers);
        assert_eq!(report.aborts, report.strangers);
        let extra = driver.records(topic).len() - 300;
        assert_eq!(extra, 2, "both strangers stand");
        let told: u64 = seen(&driver).values().map(|(_, told)| told).sum();
        let numbered: u64 = seen(&driver).values().map(|(numbered, _)| numbered).sum();
        let expected = if topic == "first" { (302, 302) } else { (300, 302) };
        assert_eq!((numbered, told), expected, "{topic}: each stranger was read once, and nothing else twice");
    }
}

/// The negative control of the check: an engine that believes its expectation loses the stranger's record or its own.
#[test]
fn without_the_check_a_stranger_is_noticed_in_the_result() {
    let mut driver = warm(on);
    driver.thread(1).believe_what_is_expected();
    with_strangers(&mut driver, "told", "7");
    let settled = driver.settle();
    let told: u64 = seen(&driver).values().map(|(_, told)| told).sum();
    assert!(settled.is_err() || told != 302, "two strangers went unread, and nobody noticed");
}

#[test]
fn a_stranger_is_read_soon_when_nothing_else_happens() {
    let mut driver = warm(on);
    let key = (0..).map(|n| format!("stranger-{n}")).find(|key| partition_of(key.as_bytes(), 2) == 0).unwrap();
    let told = at(&driver, "told", 0);
    driver.cluster.append(told, stranger(&key, "7"));
    driver.clock.advance(1_000);
    driver.settle().unwrap();
    assert_eq!(seen(&driver)[&key], (0, 1));
    // And the chain goes on.
    feed(&mut driver, 140, 200);
    driver.settle().unwrap();
    driver.clock.advance(10_000);
    report(&mut driver);
    feed(&mut driver, 200, 300);
    driver.settle().unwrap();
    assert_eq!(seen(&driver).values().map(|(_, told)| told).sum::<u64>(), 301);
    assert!(report(&mut driver).handed_over > 0, "in memory again after a while");
}

#[test]
fn strangers_again_and_again_do_not_make_it_thrash() {
    let mut driver = warm(on);
    report(&mut driver);
    let mut strangers = 0;
    for round in 0..200 {
        let key = (0..).map(|n| format!("stranger-{n}")).find(|key| partition_of(key.as_bytes(), 2) == 0).unwrap();
        driver.cluster.interpose(at(&driver, "told", 0), stranger(&key, "7"));
        let from = 140 + round * 4;
        feed(&mut driver, from, from + 4);
        driver.settle().unwrap();
        driver.clock.advance(100);
        strangers += 1;
    }
    driver.clock.advance(1_000);
    driver.settle().unwrap();
    let report = report(&mut driver);
    assert!(report.strangers <= 6, "20 seconds: after 1, 2, 4, 8 of them, not {}", report.strangers);
    let told: u64 = seen(&driver).values().map(|(_, told)| told).sum();
    assert_eq!(told, 940 + strangers - remaining_strangers(&driver));
}

/// Strangers that were to land before the next record, and none came.
fn remaining_strangers(driver: &Driver) -> u64 {
    940 + 200 - driver.records("told").len() as u64
}

#[test]
fn a_record_that_must_wait_holds_its_partition_and_keeps_order() {
    let (mut driver, open) = driver(on);
    driver.start_with_all(1);
    feed(&mut driver, 0, 140);
    driver.settle().unwrap();
    for n in 0..50 {
        let word = if n == 10 { "?later".to_owned() } else { format!("word {n}") };
        driver.produce("words", b"key-1", word.as_bytes());
    }
    driver.settle().unwrap();
    assert_eq!(seen(&driver)["key-1"].0, 20 + 10, "the eleventh waits, and those behind it");
    for n in 0..50 {
        driver.produce("words", b"key-1", format!("word {n}").as_bytes());
        driver.clock.advance(10);
        driver.settle().unwrap();
    }
    open.store(true, Ordering::Relaxed);
    driver.clock.advance(1_000);
    driver.settle().unwrap();
    check(&driver, 240).unwrap();
}

#[test]
fn a_crash_while_records_wait_loses_none() {
    let (mut driver, open) = driver(on);
    driver.start_with_all(1);
    feed(&mut driver, 0, 140);
    driver.settle().unwrap();
    for n in 0..20 {
        driver.produce("words", b"key-1", if n == 10 { b"?later" } else { b"a word" });
    }
    driver.settle().unwrap();
    driver.crash(1);
    driver.start_with_all(1);
    driver.settle().unwrap();
    open.store(true, Ordering::Relaxed);
    driver.clock.advance(1_000);
    driver.settle().unwrap();
    check(&driver, 160).unwrap();
}

#[test]
fn the_dead_letter_of_a_record_passed_on_names_where_it_stands() {
    let mut driver = warm(on);
    report(&mut driver);
    driver.produce("words", b"key-1", b"!poison");
    driver.settle().unwrap();
    assert_eq!(report(&mut driver).handed_over, 1);
    let letters = driver.records("dead-letters.ask");
    assert_eq!(letters.len(), 1);
    let header = |name: &str| {
        let found = letters[0].1.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        String::from_utf8(found.expect("a dead letter has its place")).unwrap()
    };
    let (partition, offset) = (header("millrace.partition"), header("millrace.offset"));
    let records = driver.cluster.records(at(&driver, "first", partition.parse().unwrap()));
    let there = records.iter().find(|record| record.offset.to_string() == offset).expect("a record stands there");
    assert_eq!(there.value, letters[0].1.value);
    assert!(letters[0].1.headers.starts_with(&there.headers), "with the headers it stands there with");
}

#[test]
fn what_crosses_members_goes_through_the_broker_without_aborts() {
    let (mut driver, _) = driver(on);
    driver.start_with_all(1);
    driver.start(2);
    feed(&mut driver, 0, 70);
    driver.settle().unwrap();
    for sub in [SubTopologyId(0), SubTopologyId(1)] {
        driver.cluster.revoke(sub, 1, 1);
        driver.turn(1).unwrap();
        driver.give(sub, 1, 2, Before::IsTold);
    }
    driver.settle().unwrap();
    for member in [1, 2] {
        driver.thread(member).take_report();
    }
    for round in 0..20 {
        feed(&mut driver, 70 + round * 10, 80 + round * 10);
        driver.settle().unwrap();
        driver.clock.advance(500);
    }
    check(&driver, 270).unwrap();
    for member in [1, 2] {
        let report = driver.thread(member).take_report();
        assert_eq!((report.strangers, report.aborts), (0, 0), "member {member} guessed");
        assert!(report.handed_over > 0, "what stays within member {member} is passed on");
    }
}

#[test]
fn partitions_move_between_members_and_back() {
    let mut driver = warm(on);
    driver.start(2);
    for round in 0..12 {
        let from_word = 140 + round * 20;
        feed(&mut driver, from_word, from_word + 10);
        for _ in 0..round % 4 {
            driver.turn(1).unwrap();
            driver.turn(2).unwrap();
        }
        let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        let sub = SubTopologyId(u16::from(round % 4 >= 2));
        driver.cluster.revoke(sub, 0, from);
        driver.turn(from).unwrap();
        driver.give(sub, 0, to, Before::IsTold);
        feed(&mut driver, from_word + 10, from_word + 20);
        driver.settle().unwrap();
    }
    check(&driver, 140 + 240).unwrap();
}

#[test]
fn a_zombie_commits_nothing() {
    let mut driver = warm(on);
    driver.start(2);
    feed(&mut driver, 140, 200);
    for (sub, partition) in driver.all_partitions() {
        driver.give(sub, partition, 2, Before::IsAsleep);
    }
    for _ in 0..200 {
        driver.turn(2).unwrap();
    }
    check(&driver, 200).unwrap();
    for _ in 0..5 {
        let _ = driver.turn(1);
    }
    check(&driver, 200).unwrap();
    assert!(driver.thread(1).take_report().aborts > 0, "the zombie tried");
}
