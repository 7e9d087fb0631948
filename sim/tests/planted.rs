//! Negative controls: defects are planted on purpose, and the simulation must find them. `examples/planted.rs` tries all of
//! them; here are those that are found quickly, in one process and one test, since a defect is planted in all of it.

use millrace_sim::{Defect, Options, Trace, plant, run};

const QUICK: &[&str] = &[
    "SilenceIsSuccess",
    "ZombieNotFenced",
    "PositionsOutsideTransaction",
    "ReadersNotRewound",
    "AbortedRecordsRead",
    "OverlayBeforeCommit",
    "OverlayKept",
    "NoRewind",
    "CheckpointAhead",
    "TimerTwice",
    "TombstoneMissed",
    "AnswerUnchecked",
    "OrderAcceptedTwice",
    "ConflictTaken",
    "NewKeyAfterTimeout",
    "SameKeyOtherAmount",
    "ReserveAppliedTwice",
    "BalanceClamped",
    "GroupNotReleased",
    "MoneyKept",
    "KeyForgotten",
    "NoFencing",
    "OffsetsOfAborted",
    "RestoredToHighWatermark",
];
const SEEDS: u64 = 60;

#[test]
fn planted_defects_are_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for name in QUICK {
        plant(Some(Defect::find(name).expect("a defect of this name")));
        if !(1..=SEEDS).any(|seed| !run(Options::of_seed(seed), Trace::Left).violations.is_empty()) {
            missed.push(*name);
        }
    }
    plant(None);
    let _ = std::panic::take_hook();
    assert!(missed.is_empty(), "not found within {SEEDS} seeds: {missed:?}");
}

/// Every row of the table is of a defect there is, and tells that it was found in time.
#[test]
fn the_table_tells_of_each_of_its_defects_that_it_was_found() {
    let table = include_str!("../../tests/planted-defects.md");
    let rows: Vec<(&str, &str)> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name, rest.split(' ').next().unwrap_or_default()))
        .collect();
    let all: Vec<String> = Defect::all().into_iter().map(Defect::name).collect();
    let strangers: Vec<_> = rows.iter().filter(|(name, _)| !all.iter().any(|known| known == name)).collect();
    assert!(strangers.is_empty(), "there are no such defects: {strangers:?}");
    let found = |seeds: &str| seeds.parse().is_ok_and(|seeds: u64| seeds <= 2_000);
    let missed: Vec<_> = rows.iter().filter(|(_, seeds)| !found(seeds)).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
    assert!(rows.len() >= 25, "{} rows", rows.len());
}
