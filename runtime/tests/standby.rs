//! Standby copies: a partition that moves to where its copy is restores its tail only, ends in the same state, and is
//! never ahead of what its group has processed.

#![allow(clippy::unwrap_used)]

mod counting;

use std::sync::Arc;

use counting::counts;
use millrace_runtime::testing::{Before, Driver, Fault};
use millrace_runtime::{Change, Fold, Query, StoreDefinition, SubTopologyId, TableDefinition, partition_of};

const SUB: SubTopologyId = SubTopologyId(0);

/// The counting topology with a table over its input as well: how many words of a key there were. Its fold is wrong as
/// soon as a record is folded twice or never.
fn with_an_input_table() -> Driver {
    let mut definition = counting::definition().0;
    let fold: Fold = Arc::new(|_, before| {
        let count = before.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().expect("eight bytes")));
        Ok(Change::Put((count + 1).to_be_bytes().to_vec()))
    });
    definition.stores.push(StoreDefinition {
        name: "words",
        tables: vec![TableDefinition { topic: "words", fold }],
        format: "count 1".into(),
        open: None,
    });
    let text = counting::TOPOLOGY.replace(
        "[processors.count.stores.last]",
        "[processors.count.stores.words]\ntable-of = [\"words\"]\nttl = \"7d\"\n[processors.count.stores.last]",
    );
    let mut topology = millrace_runtime::parse(&text).expect("the topology is right");
    let definitions = vec![definition];
    millrace_runtime::check_definitions(&mut topology, &definitions).expect("code and file agree");
    Driver::new(topology, definitions, Box::new(|_| None))
}

fn feed(driver: &mut Driver, from: usize, to: usize) {
    for n in from..to {
        driver.produce("words", format!("key-{}", n % 7).as_bytes(), format!("word {n}").as_bytes());
    }
}

/// Lets the copies of a member look, and take what they may.
fn look(driver: &mut Driver, member: usize) {
    driver.clock.advance(1_000);
    for _ in 0..3 {
        driver.turn_copies(member);
    }
}

/// Every state of a member equals the fold of the topics.
fn states_are_right(driver: &mut Driver, member: usize, words: usize) {
    let counts = counts(driver);
    assert_eq!(counts.values().sum::<u64>(), words as u64);
    for (key, count) in counts {
        let partition = partition_of(&key, 2);
        let mut state = |store: &str| match driver.thread(member).query("count", store, partition, &key).unwrap() {
            Query::State(Some(state)) => state,
            other => panic!("{store}: {other:?}"),
        };
        assert_eq!(counting::count_of(&state("counts")), count);
        assert_eq!(u64::from_be_bytes(state("words")[..].try_into().unwrap()), count, "each word is folded once");
        assert!(state("last").starts_with(b"word"));
    }
}

/// Member 1 works, member 2 keeps copies or does not; 1 dies and 2 takes over. How many records 2 restored, and how many
/// stores it rebuilt.
fn taken_over(copies: bool) -> (u64, u64) {
    let mut driver = with_an_input_table();
    driver.start_with_all(1);
    driver.start(2);
    if copies {
        driver.keep_copies(2, [(SUB, 0), (SUB, 1)]);
    }
    feed(&mut driver, 0, 300);
    driver.settle().unwrap();
    if copies {
        look(&mut driver, 2);
        driver.clock.advance(20_000);
        driver.turn_copies(2);
    }
    feed(&mut driver, 300, 310);
    driver.settle().unwrap();
    driver.crash(1);
    for (sub, partition) in driver.all_partitions() {
        driver.give(sub, partition, 2, Before::IsTold);
    }
    driver.settle().unwrap();
    let report = driver.thread(2).take_report();
    states_are_right(&mut driver, 2, 310);
    feed(&mut driver, 310, 320);
    driver.settle().unwrap();
    states_are_right(&mut driver, 2, 320);
    (report.restored, report.rebuilt)
}

#[test]
fn whoever_has_a_copy_restores_the_tail_only() {
    // Three stores, each with ten records since the copy was written out.
    assert_eq!(taken_over(true), (30, 0));
}

/// The negative control.
#[test]
fn whoever_has_none_restores_everything() {
    assert_eq!(taken_over(false), (930, 0));
}

/// Words wait that the group has not processed: the copy of the input's table must not have them.
fn ahead(overstated: bool) -> u64 {
    let mut driver = with_an_input_table();
    driver.start_with_all(1);
    driver.start(2);
    driver.keep_copies(2, [(SUB, 0), (SUB, 1)]);
    feed(&mut driver, 0, 50);
    driver.settle().unwrap();
    if overstated {
        driver.cluster.overstate_positions();
    }
    feed(&mut driver, 50, 100);
    look(&mut driver, 2);
    driver.clock.advance(20_000);
    driver.turn_copies(2);
    driver.crash(1);
    for (sub, partition) in driver.all_partitions() {
        driver.give(sub, partition, 2, Before::IsTold);
    }
    driver.settle().unwrap();
    states_are_right(&mut driver, 2, 100);
    driver.thread(2).take_report().rebuilt
}

#[test]
fn a_copy_of_an_inputs_table_waits_for_its_group() {
    assert_eq!(ahead(false), 0);
}

/// The negative control: told more than the group has processed, the copy runs ahead, and what restores the stores finds
/// that they cannot be used.
#[test]
fn a_copy_that_ran_ahead_is_noticed_and_rebuilt() {
    assert_eq!(ahead(true), 2);
}

#[test]
fn copies_follow_through_faults_and_crashes_at_any_moment() {
    for fault in [None, Some(Fault::AbortCommit), Some(Fault::LoseCommit), Some(Fault::LoseCommitAnswer)] {
        for after in 0..8 {
            let mut driver = with_an_input_table();
            driver.start_with_all(1);
            driver.start(2);
            driver.keep_copies(2, [(SUB, 1)]);
            for round in 0..8 {
                feed(&mut driver, round * 10, (round + 1) * 10);
                for turn in 0..4 {
                    driver.turn(1).unwrap();
                    driver.clock.advance(300);
                    if turn == round % 4 {
                        driver.turn_copies(2);
                    }
                }
                if round == after {
                    if let Some(fault) = fault {
                        driver.inject(1, fault);
                    }
                    driver.keep_copies(2, [(SUB, 0), (SUB, 1)]);
                }
            }
            driver.crash(1);
            for (sub, partition) in driver.all_partitions() {
                driver.give(sub, partition, 2, Before::IsTold);
            }
            driver.settle().unwrap();
            assert_eq!(driver.thread(2).take_report().rebuilt, 0, "{fault:?} after {after}");
            states_are_right(&mut driver, 2, 80);
        }
    }
}

/// A partition comes, goes and comes again, while the copy is wanted all the time: it gives way, and is kept again.
#[test]
fn a_task_takes_the_stores_from_the_copy_and_gives_them_back() {
    let mut driver = with_an_input_table();
    driver.start_with_all(1);
    driver.start(2);
    driver.keep_copies(2, [(SUB, 0), (SUB, 1)]);
    for round in 0..6 {
        feed(&mut driver, round * 20, (round + 1) * 20);
        driver.settle().unwrap();
        look(&mut driver, 2);
        let (from, to) = if round % 2 == 0 { (1, 2) } else { (2, 1) };
        driver.cluster.revoke(SUB, 0, from);
        driver.turn(from).unwrap();
        driver.give(SUB, 0, to, Before::IsTold);
        driver.settle().unwrap();
        look(&mut driver, 2);
        let kept = driver.turn_copies(2).lag.len();
        assert_eq!(kept, if to == 2 { 1 } else { 2 }, "round {round}: a copy is kept of what is not processed here");
    }
    assert_eq!(counts(&driver).values().sum::<u64>(), 120);
}
