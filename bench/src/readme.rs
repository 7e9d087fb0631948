//! The table of a run in the repository's README: the figures of its summary, between two markers. Owns that table and
//! where it stands; never measures, and leaves nothing out that speaks against it.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, bail};

use crate::plot::number_text;
use crate::report::ratio_text;
use crate::result::{Comparison, Outcome, Run};
use crate::scenario::Scenario;

const BEGIN: &str = "<!-- measured:begin -->";
const END: &str = "<!-- measured:end -->";
/// Where the section goes when there is none yet.
const BEFORE: &str = "## Read on\n";

/// What is told, in this order; the report has the rest.
const FIGURES: &[&str] = &[
    "sustainable rate",
    "application CPU",
    "broker CPU",
    "peak resident memory",
    "p50 at half of the peer's rate",
    "p99 at half of the peer's rate",
    "p50 at 100 orders/s",
    "p99 at 100 orders/s",
    "CPU at 100 orders/s",
    "start to first confirmed order",
    "SIGKILL to next confirmed order",
];

/// Puts the table of this run into the README, in place of the one before.
pub(crate) fn update(readme: &Path, dir: &Path, run: &Run) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(readme).with_context(|| format!("cannot read {}", readme.display()))?;
    let name = dir.file_name().context("the run has no name")?.to_string_lossy();
    let made = section(&name, run)?;
    std::fs::write(readme, put(&text, &made)?).with_context(|| format!("cannot write {}", readme.display()))
}

fn put(readme: &str, section: &str) -> anyhow::Result<String> {
    if let Some((before, rest)) = readme.split_once(BEGIN) {
        let (_, after) = rest.split_once(END).with_context(|| format!("{END} is missing"))?;
        return Ok(format!("{before}{BEGIN}\n{section}{END}{after}"));
    }
    let (before, after) =
        readme.split_once(BEFORE).with_context(|| format!("neither {BEGIN} nor {BEFORE:?} is there"))?;
    Ok(format!("{before}{BEGIN}\n{section}{END}\n\n{BEFORE}{after}"))
}

fn section(name: &str, run: &Run) -> anyhow::Result<String> {
    let summary = Scenario::Summary.name();
    let outcomes: Vec<&Outcome> = run.outcomes.iter().filter(|outcome| outcome.scenario == summary).collect();
    let [first, ..] = outcomes.as_slice() else { bail!("this run has no scenario {summary}") };
    let mut text = String::from("## Measured\n\n| | unit | millrace |");
    for outcome in &outcomes {
        let _ = write!(text, " {} | ratio |", outcome.theirs.name);
    }
    text.push_str("\n| --- | --- | ---: |");
    text.push_str(&" ---: | ---: |".repeat(outcomes.len()));
    text.push('\n');
    for figure in FIGURES {
        let of = |outcome: &&Outcome| -> Option<Comparison> {
            outcome.comparisons.iter().find(|comparison| comparison.figure == *figure).cloned()
        };
        let Some(own) = of(first) else { continue };
        let _ = write!(text, "| {figure} | {} | {} |", own.unit, number_text(own.ours));
        for outcome in &outcomes {
            match of(outcome) {
                Some(other) => _ = write!(text, " {} | {} |", number_text(other.theirs), ratio_text(&other)),
                None => text.push_str(" - | - |"),
            }
        }
        text.push('\n');
    }
    let machine = &run.machine;
    let _ = write!(
        text,
        "\nRatios are Millrace to the peer, with their 95 % interval. One run of effort {}, {}, commit {}, {} x {}, one \
         Apache Kafka on the same CPUs; every block audited. What was done, and all figures: \
         [`bench/runs/{name}/report.md`](bench/runs/{name}/report.md), [`bench/`](bench/README.md).\n",
        run.effort,
        run.started.split('T').next().unwrap_or_default(),
        machine.commit,
        machine.cpus,
        machine.cpu,
    );
    for outcome in &outcomes {
        for why in &outcome.void {
            let why = why.lines().next().unwrap_or_default();
            let _ = writeln!(text, "\nAgainst {} the run does not count: {why}", outcome.theirs.name);
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Contender;
    use crate::machine::Machine;
    use crate::result::{Better, Block, compare};
    use crate::session::Setup;
    use crate::statistics::Side;

    fn run() -> Run {
        let outcome = |peer: &str, theirs: f64, void: Vec<String>| {
            let sides = [("millrace", Side::A, 20_000.0), (peer, Side::B, theirs)].map(|(name, side, value)| {
                let mut block = Block::new(&Contender::named(name).unwrap(), side, &Setup::default());
                block.figure("sustainable rate", "orders/s", Better::Higher, value);
                block
            });
            Outcome {
                scenario: "summary".into(),
                title: String::new(),
                ours: Contender::named("millrace").unwrap(),
                theirs: Contender::named(peer).unwrap(),
                comparisons: compare(&sides),
                void,
                blocks: sides.to_vec(),
            }
        };
        Run {
            started: "2026-01-31T12:00:00Z".into(),
            command: String::new(),
            effort: "short".into(),
            machine: Machine::here(),
            broker: Vec::new(),
            outcomes: vec![
                outcome("kafka-streams", 5_000.0, Vec::new()),
                outcome("kafka-streams-tuned", 10_000.0, vec!["not quiet".into()]),
            ],
        }
    }

    #[test]
    fn the_table_has_all_peers_and_says_what_does_not_count() {
        let text = section("2026-01-31-machine", &run()).unwrap();
        assert!(text.contains("| sustainable rate | orders/s | 20,000 | 5,000 | 4.00 | 10,000 | 2.00 |"), "{text}");
        assert!(text.contains("Against kafka-streams-tuned the run does not count: not quiet"), "{text}");
        assert!(text.contains("bench/runs/2026-01-31-machine/report.md"));
        let nothing = Run { outcomes: Vec::new(), ..run() };
        assert!(section("x", &nothing).is_err());
    }

    #[test]
    fn a_second_table_takes_the_place_of_the_first() {
        let once = put("# A\n\n## Read on\nmore\n", "one\n").unwrap();
        assert_eq!(once, format!("# A\n\n{BEGIN}\none\n{END}\n\n## Read on\nmore\n"));
        assert_eq!(put(&once, "two\n").unwrap(), once.replace("one", "two"));
        assert!(put("nothing", "one\n").is_err());
    }
}
