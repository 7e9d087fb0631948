//! Negative controls: defects are planted on purpose, and the simulation must find them. `examples/planted.rs` tries all of
//! them; here are those that are found quickly, in one process and one test, since a defect is planted in all of it.

use millrace_sim::{Defect, Options, Trace, plant, run};

const QUICK: &[&str] = &[
    "SuspectKept",
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
