//! Writes the table of planted defects: how many seeds it took to find each, and which check found it.
//!
//! `cargo run --release -p millrace-sim --example planted --features planted [DEFECT]...` tries all of them, or those
//! named; of the others the table keeps its rows.

use std::collections::BTreeMap;
use std::path::Path;

use millrace_sim::{Defect, Options, campaign, plant};

const SEEDS_MAX: u64 = 2_000;
/// Seeds that are run before it is looked whether one has failed.
const AT_ONCE: u64 = 8;

/// The first seed that fails, and what failed first.
fn find() -> Option<(u64, String)> {
    (1..=SEEDS_MAX).step_by(AT_ONCE as usize).find_map(|from| {
        let found = campaign(from, AT_ONCE, 2, Options::of_seed, || {}).failures.into_iter().next()?;
        Some((found.seed, found.violations.into_iter().next()?))
    })
}

fn main() -> std::io::Result<()> {
    std::panic::set_hook(Box::new(|_| {}));
    let named: Vec<String> = std::env::args().skip(1).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/planted-defects.md");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let name_of = |row: &str| row.strip_prefix("| `")?.split_once('`').map(|(name, _)| name.to_owned());
    let mut rows: BTreeMap<String, String> =
        before.lines().filter_map(|row| Some((name_of(row)?, row.to_owned()))).collect();
    for defect in Defect::all() {
        let name = defect.name();
        if !named.is_empty() && !named.iter().any(|wanted| Defect::find(wanted) == Some(defect)) {
            continue;
        }
        plant(Some(defect));
        let found = find();
        eprintln!("{name:40} {found:?}");
        let row = match found {
            Some((seed, violation)) => {
                let violation: String = violation.replace(['|', '\n'], "/").chars().take(150).collect();
                format!("| `{name}` | {seed} | {violation} |")
            }
            None => format!("| `{name}` | **not within {SEEDS_MAX}** | |"),
        };
        rows.insert(name, row);
    }
    let table: Vec<String> = Defect::all().iter().filter_map(|defect| rows.remove(&defect.name())).collect();
    std::fs::write(
        &path,
        format!(
            "# Planted defects\n\nWritten by `cargo run --release -p millrace-sim --example planted --features planted`; not by hand. \
             Each defect\nis planted alone, seeds are run from 1 on, and the first that fails is noted with what failed first.\n\
             Whatever changes a seed's run changes these numbers: they are those of the day a row was written.\n\n\
             | defect | seeds needed | found by |\n| --- | --- | --- |\n{}\n",
            table.join("\n")
        ),
    )
}
