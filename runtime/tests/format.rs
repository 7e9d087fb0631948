//! A program whose states look otherwise than those on its disk: the store is rebuilt, not misread.

#![allow(clippy::unwrap_used)]

mod counting;

use std::sync::Arc;

use counting::{counts, driver};
use millrace_runtime::{Change, Fold, Query, partition_of};

/// The counting processor of a later version: it keeps counts with a mark behind them.
fn later(format: &str) -> millrace_runtime::ProcessorDefinition {
    let mut definition = counting::definition().0;
    let fold: Fold = Arc::new(|record, _| {
        let marked = |value: &[u8]| Change::Put([value, b" marked"].concat());
        Ok(record.value.map_or(Change::Delete, marked))
    });
    definition.stores[0].tables[0].fold = fold;
    definition.stores[0].format = format.to_owned();
    definition
}

/// How many states the later version finds with and without its mark, after a restart on the disk of the earlier one;
/// and how many stores it rebuilt.
fn after_an_upgrade(format: &str) -> (usize, usize, u64) {
    let (mut driver, _) = driver(str::to_owned);
    driver.start_with_all(1);
    for n in 0..40 {
        driver.produce("words", format!("key-{}", n % 7).as_bytes(), b"word");
    }
    driver.settle().unwrap();
    driver.stop(1).unwrap();
    driver.upgrade(vec![later(format)]);
    driver.start_with_all(1);
    driver.settle().unwrap();
    let report = driver.thread(1).take_report();
    if report.rebuilt > 0 {
        let told = report.notes.iter().any(|note| note.text.contains("of the format \"text 1\""));
        assert!(told, "a rebuild says why: {:?}", report.notes);
    }
    let (mut marked, mut unmarked) = (0, 0);
    for key in counts(&driver).into_keys() {
        let partition = partition_of(&key, 2);
        let Query::State(Some(state)) = driver.thread(1).query("count", "counts", partition, &key).unwrap() else {
            panic!("the state is there");
        };
        if state.ends_with(b" marked") { marked += 1 } else { unmarked += 1 }
    }
    (marked, unmarked, report.rebuilt)
}

#[test]
fn a_store_of_another_format_is_rebuilt_from_its_topics() {
    assert_eq!(after_an_upgrade("text 2"), (7, 0, 2), "one store on each of two partitions");
}

/// The negative control: the fold changed, the format did not, and the old bytes are taken for new ones.
#[test]
fn without_a_new_format_old_states_are_misread() {
    assert_eq!(after_an_upgrade("text 1"), (0, 7, 0));
}
