//! The engine over the doors in memory: exactly once through every crash, restart, hand-over and zombie.

mod counting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use counting::{counts, driver};
use millrace_runtime::testing::{Before, Driver, Fault, IDLE};
use millrace_runtime::{Query, SubTopologyId, TaskState};

const SUB: SubTopologyId = SubTopologyId(0);

fn feed(driver: &mut Driver, from: usize, to: usize) {
    for n in from..to {
        driver.produce("words", format!("key-{}", n % 7).as_bytes(), format!("word {n}").as_bytes());
    }
}

/// One whose processor parks what it cannot process.
fn parking_driver() -> (Driver, Arc<AtomicBool>) {
    driver(|text| text.replace("\"dead-letter\"", "\"park\""))
}

/// What records wait for comes; so long later they have been tried again.
fn heal(driver: &mut Driver, open: &AtomicBool, ms: i64) {
    open.store(true, Ordering::Relaxed);
    driver.clock.advance(ms);
    driver.settle().expect("it goes on");
}

fn texts_of(driver: &Driver, key: &[u8]) -> Vec<String> {
    let of_key = driver.records("counts").into_iter().filter(|(_, record)| record.key.as_deref() == Some(key));
    of_key.map(|(_, record)| String::from_utf8(record.value.expect("no deletion")).expect("text")).collect()
}

fn total(driver: &Driver) -> u64 {
    counts(driver).values().sum()
}

#[test]
fn records_are_counted_once_in_batches() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    feed(&mut driver, 0, 100);
    driver.settle().unwrap();
    assert_eq!(total(&driver), 100);
    let transactions = driver.cluster.transactions();
    assert!((20..=60).contains(&transactions), "100 words at 5 records a transaction: {transactions} transactions");
    assert_eq!(driver.thread(1).take_report().counts[&("words", "counted")], 100);
}

/// An event says what it is and where it comes from; a change of a store is no event, and says which step wrote it.
#[test]
fn events_have_all_headers_and_changes_of_stores_have_their_id() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    feed(&mut driver, 0, 20);
    driver.settle().unwrap();
    let names = |topic: &str| -> Vec<Vec<String>> {
        let names_of = |headers: &millrace_runtime::Headers| headers.iter().map(|(name, _)| name.to_string()).collect();
        driver.records(topic).iter().map(|(_, record)| names_of(&record.headers)).collect()
    };
    let all = ["ce_specversion", "ce_id", "ce_source", "ce_type", "content-type"];
    assert_eq!(names("counts"), vec![all.map(str::to_owned).to_vec(); 20]);
    assert_eq!(names("count-last-changelog"), vec![["ce_id".to_owned()].to_vec(); 20]);
}

/// Each fault at each of the first commits: the result is the same as without.
#[test]
fn every_fault_at_every_commit_changes_nothing() {
    for fault in [Fault::AbortCommit, Fault::LoseCommit, Fault::LoseCommitAnswer, Fault::FailSend] {
        for after in 0..12 {
            let (mut driver, _) = driver(str::to_owned);
            driver.start_with_all(1);
            feed(&mut driver, 0, after * 5);
            driver.settle().unwrap();
            driver.inject(1, fault);
            feed(&mut driver, after * 5, 100);
            driver.settle().unwrap();
            assert_eq!(total(&driver), 100, "{fault:?} after {after} rounds");
            let report = driver.thread(1).take_report();
            assert_eq!(report.aborts, 1, "{fault:?} must have happened");
            assert_eq!(report.recreated > 0, matches!(fault, Fault::LoseCommit | Fault::LoseCommitAnswer));
        }
    }
}

#[test]
fn a_crash_at_any_commit_loses_and_doubles_nothing() {
    for fault in [Fault::CrashBeforeCommit, Fault::CrashAfterCommit] {
        for wipe in [false, true] {
            for after in 0..12 {
                let (mut driver, _) = driver(str::to_owned);
                driver.start_with_all(1);
                feed(&mut driver, 0, after * 5);
                driver.settle().unwrap();
                driver.clock.advance(60_000);
                driver.settle().unwrap();
                driver.inject(1, fault);
                feed(&mut driver, after * 5, 100);
                assert!(driver.settle().is_err(), "the process must end");
                driver.crash(1);
                if wipe {
                    driver.wipe_disk(1);
                }
                driver.start_with_all(1);
                driver.settle().unwrap();
                assert_eq!(total(&driver), 100, "{fault:?} after {after} rounds, disk wiped: {wipe}");
            }
        }
    }
}

#[test]
fn state_equals_the_fold_of_the_topic_after_a_crash_and_is_not_wiped() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    feed(&mut driver, 0, 50);
    driver.settle().unwrap();
    driver.clock.advance(60_000);
    driver.settle().unwrap();
    feed(&mut driver, 50, 60);
    driver.settle().unwrap();
    driver.crash(1);
    driver.start_with_all(1);
    driver.settle().unwrap();
    let report = driver.thread(1).take_report();
    assert!(report.restored > 0 && report.restored <= 2 * 10 + 2, "only the tail is restored: {}", report.restored);
    for (key, count) in counts(&driver) {
        let partition = millrace_runtime::partition_of(&key, 2);
        let Query::State(Some(value)) = driver.thread(1).query("count", "counts", partition, &key).unwrap() else {
            panic!("the state is there");
        };
        assert_eq!(counting::count_of(&value), count);
        let Query::State(Some(last)) = driver.thread(1).query("count", "last", partition, &key).unwrap() else {
            panic!("the state is there");
        };
        assert!(last.starts_with(b"word"));
    }
}

#[test]
fn partitions_are_written_out_one_after_the_other() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    feed(&mut driver, 0, 100);
    driver.settle().unwrap();
    let every = driver.topology().engine.write_out_ms;
    let bytes = |driver: &mut Driver| {
        driver.settle().unwrap();
        driver.thread(1).take_report().memtable_bytes
    };
    let before = bytes(&mut driver);
    driver.clock.advance(every / 2);
    let between = bytes(&mut driver);
    driver.clock.advance(every / 2);
    assert!(0 < between && between < before, "{between} of {before} bytes after the first of two partitions");
    assert_eq!(bytes(&mut driver), 0);
}

#[test]
fn partitions_move_between_members_and_back() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    driver.start(2);
    for round in 0..10 {
        feed(&mut driver, round * 10, round * 10 + 5);
        for _ in 0..3 {
            driver.turn(1).unwrap();
            driver.turn(2).unwrap();
        }
        let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        driver.cluster.revoke(SUB, 0, from);
        driver.turn(from).unwrap();
        driver.give(SUB, 0, to, Before::IsTold);
        feed(&mut driver, round * 10 + 5, round * 10 + 10);
        driver.settle().unwrap();
    }
    assert_eq!(total(&driver), 100);
}

#[test]
fn a_zombie_commits_nothing() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    feed(&mut driver, 0, 20);
    driver.settle().unwrap();
    driver.start(2);
    feed(&mut driver, 20, 60);
    // Member 1 sleeps with records in its hands; member 2 takes over and finishes.
    for (sub, partition) in driver.all_partitions() {
        driver.give(sub, partition, 2, Before::IsAsleep);
    }
    while driver.turn(2).unwrap() > 0 {}
    for _ in 0..5 {
        driver.turn(2).unwrap();
    }
    let before = total(&driver);
    assert_eq!(before, 60);
    for _ in 0..5 {
        let _ = driver.turn(1);
    }
    assert_eq!(total(&driver), 60, "the zombie woke and committed");
    assert!(driver.thread(1).take_report().aborts > 0, "the zombie tried");
}

#[test]
fn poison_goes_to_the_dead_letters_whole_and_blocks_nothing() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    driver.produce("words", b"key-1", b"first");
    driver.produce_raw("words", b"key-1", Some(b"!bad"), vec![("from".into(), b"a stranger".to_vec())]);
    driver.produce_raw("words", b"key-1", None, vec![]);
    driver.produce("words", b"key-1", b"third");
    driver.settle().unwrap();
    assert_eq!(counts(&driver)[&b"key-1".to_vec()], 2);
    let letters = driver.records("dead-letters.count");
    assert_eq!(letters.len(), 2);
    let letter = &letters[0].1;
    assert_eq!(letter.value.as_deref(), Some(&b"!bad"[..]));
    let header =
        |name: &str| letter.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).unwrap_or_default();
    assert_eq!(header("from"), b"a stranger");
    assert_eq!(header("millrace.topic"), b"words");
    assert_eq!(header("millrace.offset"), b"1");
    assert_eq!(header("millrace.processor"), b"count");
    assert_eq!(header("millrace.reason"), b"it is poison");
    let partition = millrace_runtime::partition_of(b"key-1", 2);
    let Query::State(Some(last)) = driver.thread(1).query("count", "last", partition, b"key-1").unwrap() else {
        panic!()
    };
    assert_eq!(&*last, b"third", "what the poison record wrote was taken back");
}

#[test]
fn too_many_dead_letters_stop_the_processor() {
    let (mut driver, _) = driver(|text| text.replace("park_tries_max = 3", "dead_letters_per_minute_max = 10"));
    driver.start_with_all(1);
    for n in 0..30 {
        driver.produce("words", b"key", format!("!{n}").as_bytes());
    }
    let error = driver.settle().unwrap_err();
    assert!(error.to_string().contains("dead-letters.count"), "{error}");
}

#[test]
fn a_parked_key_keeps_its_order_while_others_flow() {
    let (mut driver, open) = parking_driver();
    driver.start_with_all(1);
    driver.produce("words", b"stuck", b"one");
    driver.produce("words", b"stuck", b"!two");
    driver.produce("words", b"stuck", b"three");
    driver.produce("words", b"other", b"one");
    driver.settle().unwrap();
    assert_eq!(counts(&driver)[&b"stuck".to_vec()], 1);
    assert_eq!(counts(&driver)[&b"other".to_vec()], 1);
    driver.crash(1);
    driver.wipe_disk(1);
    driver.start_with_all(1);
    driver.produce("words", b"stuck", b"four");
    driver.settle().unwrap();
    assert_eq!(counts(&driver)[&b"stuck".to_vec()], 1, "still parked after a restart without a disk");
    heal(&mut driver, &open, 60_000);
    assert_eq!(texts_of(&driver, b"stuck"), ["1 0 one", "2 0 !two", "3 0 three", "4 0 four"]);
}

#[test]
fn a_key_whose_queue_cannot_be_read_is_not_overtaken() {
    let (mut driver, open) = parking_driver();
    driver.start_with_all(1);
    driver.produce("words", b"stuck", b"one");
    driver.produce("words", b"stuck", b"!two");
    driver.settle().unwrap();
    // From here on the queue is on the disk alone.
    driver.stop(1).unwrap();
    driver.start_with_all(1);
    driver.settle().unwrap();
    driver.break_reads(1, "parked");
    driver.produce("words", b"stuck", b"three");
    driver.settle().unwrap();
    assert!(driver.thread(1).take_report().rebuilt >= 3, "every store of the task was rebuilt");
    heal(&mut driver, &open, 60_000);
    assert_eq!(texts_of(&driver, b"stuck"), ["1 0 one", "2 0 !two", "3 0 three"]);
}

#[test]
fn a_parked_record_that_never_heals_ends_in_the_dead_letters() {
    let (mut driver, _) = parking_driver();
    driver.start_with_all(1);
    driver.produce("words", b"stuck", b"!two");
    driver.produce("words", b"stuck", b"three");
    for _ in 0..5 {
        driver.settle().unwrap();
        driver.clock.advance(60_000);
    }
    assert_eq!(driver.records("dead-letters.count").len(), 1);
    assert_eq!(counts(&driver)[&b"stuck".to_vec()], 1, "the record behind it was processed");
}

#[test]
fn a_record_that_must_wait_holds_its_partition_and_keeps_order() {
    let (mut driver, open) = driver(str::to_owned);
    driver.start_with_all(1);
    driver.produce("words", b"key", b"one");
    driver.produce("words", b"key", b"?two");
    driver.produce("words", b"key", b"three");
    driver.settle().unwrap();
    assert_eq!(counts(&driver)[&b"key".to_vec()], 1);
    heal(&mut driver, &open, 1_000);
    assert_eq!(counts(&driver)[&b"key".to_vec()], 3);
}

#[test]
fn deadlines_and_calls_survive_a_crash_and_happen_once() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    driver.produce("words", b"timer", b"wait: a while");
    driver.settle().unwrap();
    driver.crash(1);
    driver.start_with_all(1);
    driver.settle().unwrap();
    assert_eq!(counts(&driver)[&b"timer".to_vec()], 1, "not due yet");
    driver.clock.advance(1_001);
    driver.settle().unwrap();
    driver.clock.advance(100_000);
    driver.settle().unwrap();
    assert_eq!(counts(&driver)[&b"timer".to_vec()], 2, "fired once");

    driver.produce("words", b"caller", b"ask:how much");
    while driver.records("counts").iter().all(|(_, r)| r.key.as_deref() != Some(b"caller")) {
        driver.turn(1).unwrap();
    }
    driver.crash(1);
    driver.start_with_all(1);
    driver.settle().unwrap();
    let last = driver.records("counts").into_iter().rev().find(|(_, r)| r.key.as_deref() == Some(b"caller")).unwrap();
    assert_eq!(
        last.1.value.as_deref(),
        Some(&b"2 0 answered again how much"[..]),
        "after the crash it was asked as repeated"
    );
}

/// How long the thread would have waited for news of the broker in its last turn.
fn waits(driver: &mut Driver) -> Duration {
    driver.turn(1).expect("it goes on");
    driver.thread(1).broker_mut().may_wait()
}

#[test]
fn only_a_deadline_that_can_fire_hurries_a_thread() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    driver.produce("words", b"timer", b"wait: a while");
    driver.settle().unwrap();
    assert_eq!(waits(&mut driver), IDLE);
    driver.clock.advance(400);
    assert_eq!(waits(&mut driver), Duration::from_millis(600));
    driver.stop(1).unwrap();
    // Overdue, and nobody can say yet what the store lacks.
    driver.clock.advance(100_000);
    driver.cluster.lead(false);
    driver.start_with_all(1);
    driver.turn(1).unwrap();
    assert_eq!(waits(&mut driver), Duration::from_millis(50), "until it asks again");
    driver.cluster.lead(true);
    driver.clock.advance(50);
    driver.settle().unwrap();
    assert_eq!(counts(&driver)[&b"timer".to_vec()], 2);
}

/// Its answer ends the wait: nobody needs to look for it.
#[test]
fn an_open_call_hurries_nobody() {
    let (mut driver, _) = counting::driver_that_answers(str::to_owned, Box::new(|_| None));
    driver.start_with_all(1);
    driver.produce("words", b"caller", b"ask:how much");
    driver.settle().unwrap();
    assert_eq!(driver.thread(1).take_report().calls_in_flight, 1);
    assert_eq!(waits(&mut driver), IDLE);
}

#[test]
fn a_state_whose_deadline_fires_in_an_aborted_transaction_fires_again() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    driver.produce("words", b"timer", b"wait: a while");
    driver.settle().unwrap();
    driver.inject(1, Fault::AbortCommit);
    driver.clock.advance(1_001);
    driver.settle().unwrap();
    assert_eq!(counts(&driver)[&b"timer".to_vec()], 2);
}

#[test]
fn answers_that_wait_while_a_transaction_is_aborted_are_not_lost() {
    let (mut driver, _) = driver(|text| text.replace("commit_records = 5", "commit_records = 1000"));
    driver.start_with_all(1);
    for n in 0..20 {
        driver.produce("words", format!("caller-{n}").as_bytes(), b"ask:how much");
    }
    while counts(&driver).len() < 20 {
        driver.turn(1).unwrap();
    }
    // All twenty are answered now; the first one taken cannot be written.
    driver.inject(1, Fault::FailSend);
    driver.settle().unwrap();
    assert_eq!(driver.thread(1).take_report().aborts, 1);
    assert_eq!(counts(&driver).values().filter(|count| **count == 2).count(), 20, "each asked once and answered once");
}

#[test]
fn it_refuses_to_begin_again_over_state_when_the_offsets_are_gone() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    feed(&mut driver, 0, 20);
    driver.settle().unwrap();
    driver.crash(1);
    let (fresh, _) = counting::driver(str::to_owned);
    let empty = fresh.cluster.clone();
    // The same topics under a group that never committed.
    for (partition, record) in driver.records("counts") {
        let topic = driver.topology().find_topic("counts").unwrap();
        empty.append(millrace_runtime::TopicPartition { topic, partition }, record);
    }
    let mut fresh = fresh;
    fresh.start_with_all(1);
    let error = fresh.settle().unwrap_err();
    assert!(error.to_string().contains("no committed offsets"), "{error}");
}

#[test]
fn the_life_of_a_task_knows_no_other_moves() {
    use TaskState::{Closed, Created, Restoring, Running};
    for from in [Created, Restoring, Running, Closed] {
        for to in [Created, Restoring, Running, Closed] {
            let allowed = TaskState::TRANSITIONS.contains(&(from, to));
            assert_eq!(
                allowed,
                from != to && from != Closed && !matches!((from, to), (Created, Running) | (Running, Restoring)),
                "{from:?} to {to:?}"
            );
        }
    }
}

/// The negative controls: each breaks one mechanism, and the check above must see it.
mod broken {
    use super::*;

    /// Feeds, breaks one commit, crashes so that what the broker holds is what counts, and gives the sum; `Err` when a
    /// count was skipped or repeated.
    fn after_a_broken_commit(fault: Fault) -> Result<u64, String> {
        let (mut driver, _) = driver(str::to_owned);
        driver.start_with_all(1);
        feed(&mut driver, 0, 20);
        driver.settle().expect("it settles");
        driver.inject(1, fault);
        feed(&mut driver, 20, 100);
        driver.settle().expect("it settles");
        driver.crash(1);
        driver.wipe_disk(1);
        driver.start_with_all(1);
        feed(&mut driver, 100, 107);
        driver.settle().expect("it settles");
        counting::try_counts(&driver).map(|counts| counts.values().sum())
    }

    #[test]
    fn positions_without_records_are_seen_as_a_loss() {
        assert_ne!(after_a_broken_commit(Fault::CommitOffsetsOnly), Ok(107));
    }

    #[test]
    fn records_without_positions_are_seen_as_a_repetition() {
        let (mut driver, _) = driver(str::to_owned);
        driver.start_with_all(1);
        feed(&mut driver, 0, 20);
        driver.settle().unwrap();
        driver.inject(1, Fault::CommitRecordsOnly);
        feed(&mut driver, 20, 25);
        driver.settle().unwrap();
        driver.crash(1);
        driver.start_with_all(1);
        driver.settle().unwrap();
        assert_ne!(
            counting::try_counts(&driver).map(|counts| counts.values().sum()),
            Ok(5),
            "words were counted again"
        );
    }

    #[test]
    fn a_whole_commit_passes_the_same_check() {
        assert_eq!(after_a_broken_commit(Fault::AbortCommit), Ok(107));
    }

    #[test]
    fn a_zombie_is_seen_where_nobody_fences_it() {
        let (mut driver, _) = driver(str::to_owned);
        driver.cluster.fence_nobody();
        driver.start_with_all(1);
        feed(&mut driver, 0, 20);
        driver.settle().unwrap();
        driver.start(2);
        feed(&mut driver, 20, 60);
        for (sub, partition) in driver.all_partitions() {
            driver.give(sub, partition, 2, Before::IsAsleep);
        }
        while driver.turn(2).unwrap() > 0 {}
        for _ in 0..20 {
            let _ = driver.turn(2);
            let _ = driver.turn(1);
        }
        let seen = counting::try_counts(&driver).map(|counts| counts.values().sum());
        assert_ne!(seen, Ok(60), "the zombie's commit went unnoticed");
    }
}

#[test]
fn while_a_partition_has_no_leader_the_broker_is_asked_now_and_then_and_it_is_said_once() {
    let (mut driver, _) = driver(str::to_owned);
    driver.cluster.lead(false);
    driver.start_with_all(1);
    for _ in 0..100 {
        driver.turn(1).unwrap();
    }
    assert_eq!(driver.cluster.asked_in_vain(), 1);
    for _ in 0..100 {
        driver.clock.advance(10);
        driver.turn(1).unwrap();
    }
    assert_eq!(driver.cluster.asked_in_vain(), 1 + 1_000 / 50);
    assert!(driver.thread(1).has_notes());
    let notes = driver.thread(1).take_report().notes;
    assert_eq!(notes.iter().filter(|note| note.text.contains("no leader")).count(), 1, "{notes:?}");
    driver.cluster.lead(true);
    driver.produce("words", b"k", b"x");
    driver.clock.advance(50);
    driver.settle().unwrap();
    assert_eq!(counts(&driver).len(), 1);
}
