//! Negative controls: defects are planted on purpose, and the simulation must find them. `tests/planted-defects.md` has a row
//! of each: which seed found it, and by what. Here each is found again, all in one test, since a defect is planted in a whole
//! process. The table itself is written by `examples/planted.rs`.

use std::io::Write;

use millrace_sim::{Defect, Options, Trace, check_of, plant, run};

const WRITE_ANEW: &str = "write it anew: cargo run --release -p millrace-sim --example planted --features planted";
/// A defect that takes more seeds is not found.
const SEEDS_MAX: u64 = 2_000;
/// Whatever changes the run of a row's seed may let it miss its defect: then one of so many must find it.
const SEEDS: u64 = 500;

struct Row {
    name: String,
    /// `None` where none found it.
    seed: Option<u64>,
    found_by: String,
}

fn rows() -> Vec<Row> {
    let row = |line: &str| {
        let (name, rest) = line.strip_prefix("| `")?.split_once("` | ")?;
        let (seed, found_by) = rest.split_once(" | ")?;
        Some(Row { name: name.to_owned(), seed: seed.parse().ok(), found_by: found_by.to_owned() })
    };
    include_str!("../../tests/planted-defects.md").lines().filter_map(row).collect()
}

fn found_by(seed: u64) -> Option<String> {
    run(Options::of_seed(seed), Trace::Left).violations.into_iter().next()
}

#[test]
fn planted_defects_are_found() {
    std::panic::set_hook(Box::new(|_| {}));
    let (mut stale, mut missed) = (Vec::new(), Vec::new());
    for row in rows() {
        plant(Some(Defect::find(&row.name).expect("a defect of this name")));
        let again = row.seed.and_then(found_by);
        if again.as_deref().is_some_and(|again| check_of(again) == check_of(&row.found_by)) {
            continue;
        }
        if again.is_none() && (1..=SEEDS).find_map(found_by).is_none() {
            missed.push(row.name.clone());
        }
        stale.push(row.name);
    }
    plant(None);
    let _ = std::panic::take_hook();
    // Seen whatever captures the output of tests.
    writeln!(std::io::stderr(), "{} rows are no longer what happens: {stale:?} ({WRITE_ANEW})", stale.len()).unwrap();
    assert!(missed.is_empty(), "neither the seed of the table nor one of the first {SEEDS} finds {missed:?}");
}

/// The table is of the defects there are, and tells of each that it was found in time.
#[test]
fn the_table_tells_of_every_defect_that_it_was_found() {
    let rows = rows();
    let named: Vec<&str> = rows.iter().map(|row| &*row.name).collect();
    let all: Vec<String> = Defect::all().into_iter().map(Defect::name).collect();
    assert_eq!(named, all, "{WRITE_ANEW}");
    assert!(rows.len() >= 25, "{} rows", rows.len());
    let late = |row: &&Row| row.seed.is_none_or(|seed| seed > SEEDS_MAX);
    let missed: Vec<&str> = rows.iter().filter(late).map(|row| &*row.name).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
