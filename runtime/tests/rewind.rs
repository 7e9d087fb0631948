//! What was polled or kept before an interruption must not be mistaken for what comes after it.

mod counting;

use counting::{counts, driver};
use millrace_runtime::testing::{Before, Fault};

fn keys(partition: i32) -> Vec<String> {
    let on = |key: &String| millrace_runtime::partition_of(key.as_bytes(), 2) == partition;
    (0..200).map(|n| format!("key-{n}")).filter(on).take(20).collect()
}

#[test]
fn records_polled_before_an_abort_do_not_jump_over_what_was_rewound() {
    let (mut driver, _) = driver(|text| text.replace("commit_records = 5", "commit_records = 20"));
    driver.start_with_all(1);
    driver.settle().unwrap();
    let (zero, one) = (keys(0), keys(1));
    // Two words of partition 1 in the open transaction.
    for key in &one[..2] {
        driver.produce("words", key.as_bytes(), b"early");
    }
    driver.turn(1).unwrap();
    // One poll with enough of partition 0 to commit, which fails, and more of partition 1 behind it.
    driver.inject(1, Fault::AbortCommit);
    for key in &zero[..15] {
        driver.produce("words", key.as_bytes(), b"x");
    }
    for key in &one[2..5] {
        driver.produce("words", key.as_bytes(), b"late");
    }
    driver.settle().unwrap();
    assert_eq!(counts(&driver).values().sum::<u64>(), 20);
}

#[test]
fn warm_state_without_committed_positions_is_refused() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    for n in 0..20 {
        driver.produce("words", format!("k{n}").as_bytes(), b"x");
    }
    driver.settle().unwrap();
    driver.clock.advance(60_000);
    driver.settle().unwrap();
    driver.crash(1);
    driver.cluster.forget_positions();
    driver.start_with_all(1);
    let error = driver.settle().unwrap_err();
    assert!(error.to_string().contains("no committed offsets"), "{error}");
}

#[test]
fn an_aborted_first_transaction_is_no_state() {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    driver.inject(1, Fault::AbortCommit);
    driver.produce("words", b"k", b"x");
    driver.settle().unwrap();
    driver.give(millrace_runtime::SubTopologyId(0), 0, 1, Before::IsTold);
    driver.settle().unwrap();
    assert_eq!(counts(&driver).values().sum::<u64>(), 1);
}
