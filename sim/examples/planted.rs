//! Writes the table of planted defects: how many seeds it took to find each, and which check found it.
//!
//! `cargo run -p millrace-sim --example planted --features planted > tests/planted-defects.md`

use millrace_sim::{Defect, Options, Trace, plant, run};

const SEEDS_MAX: u64 = 2_000;

fn main() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut lines = Vec::new();
    let mut missed = 0;
    for defect in Defect::all() {
        plant(Some(defect));
        let found = (1..=SEEDS_MAX).find_map(|seed| {
            let violation = run(Options::of_seed(seed), Trace::Left).violations.into_iter().next()?;
            Some((seed, violation))
        });
        eprintln!("{:40} {found:?}", defect.name());
        lines.push(match found {
            Some((seed, violation)) => {
                let violation: String = violation.replace('|', "/").chars().take(150).collect();
                format!("| `{}` | {seed} | {violation} |", defect.name())
            }
            None => {
                missed += 1;
                format!("| `{}` | **not within {SEEDS_MAX}** | |", defect.name())
            }
        });
    }
    let table = lines.join("\n");
    let text = format!(
        "# Planted defects\n\nWritten by `cargo run -p millrace-sim --example planted --features planted`; not by hand. Each defect \
         is planted alone,\nseeds are run from 1 on, and the first that fails is noted with what failed first.\n\n\
         | defect | seeds needed | found by |\n| --- | --- | --- |\n{table}\n"
    );
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
    std::process::exit(i32::from(missed > 0));
}
