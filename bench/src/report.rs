//! The report of a run: raw numbers as JSON, a page of Markdown, a page of HTML with plots that needs nothing else. Owns
//! the words; every number in it is in the JSON.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;

use crate::plot::{Bar, Line, bars, escaped, lines, number_text};
use crate::result::{Block, CONTROL_MAX, Comparison, Outcome, Run};
use crate::statistics::Side;

const RAW: &str = "run.json";

/// Writes `run.json`, `report.md` and `report.html`.
pub(crate) fn write(dir: &Path, run: &Run) -> anyhow::Result<()> {
    let raw = serde_json::to_string_pretty(run)?;
    for (name, text) in [(RAW, raw), ("report.md", markdown(run)), ("report.html", html(run))] {
        let file = dir.join(name);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Makes the pages of a run again.
pub(crate) fn again(dir: &Path) -> anyhow::Result<()> {
    write(dir, &read(dir)?)
}

/// The raw numbers of a run.
pub(crate) fn read(dir: &Path) -> anyhow::Result<Run> {
    let file = dir.join(RAW);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not of this harness", file.display()))
}

/// How a comparison reads: the ratio with its interval.
pub(crate) fn ratio_text(comparison: &Comparison) -> String {
    let Some(ratio) = &comparison.ratio else { return "-".to_owned() };
    match ratio.interval {
        Some((low, high)) => {
            format!("{} ({} to {})", number_text(ratio.geometric_mean), number_text(low), number_text(high))
        }
        None => number_text(ratio.geometric_mean),
    }
}

fn preamble(run: &Run) -> Vec<(String, String)> {
    let machine = &run.machine;
    let row = |name: &str, value: String| (name.to_owned(), value);
    vec![
        row("started", run.started.clone()),
        row("command", format!("bench {}", run.command)),
        row("effort", run.effort.clone()),
        row("machine", format!("{} x {}, {} GiB", machine.cpus, machine.cpu, machine.memory_gib)),
        row("load before", format!("{:.2}", machine.load_before)),
        row("kernel", machine.kernel.clone()),
        row("java", machine.java.clone()),
        row("rust", machine.rustc.clone()),
        row("commit", machine.commit.clone()),
        row("broker", format!("one Apache Kafka, replication 1, {}", run.broker.join(" "))),
        row("records of the relay", format!("{} an order", crate::relay::records_per_order())),
    ]
}

const HOW_TO_READ: &str = "Ratios are Millrace to the peer, as the geometric mean of pairs of neighbouring blocks (A B \
    B A), with their 95 % interval. Control is how far blocks of one side that follow each other differ; past the bound \
    the comparison is void. Latency runs from the time an order was meant to be sent to the time a read_committed reader \
    saw it confirmed. Every block of a contender with promises was audited by `millrace audit`; one that does not pass \
    voids the comparison. One broker on the same machine: nothing here speaks of replication.";

/// What the peer is, and what is in its favour.
const THE_PEER: &str = "The peer does what the orders here need: intake, payment, stock, fulfillment up to the \
    confirmation or the cancellation, and tracking; shipping, dead letters, deadlines and retries of lost provider calls \
    it leaves out, which costs it nothing. Its provider is asked within the step. A rate counts as sustained when the \
    backlog grows by less than 2 % of it (and 150 ms worth of it over the window, for noise) and p99 stays below 2 s; \
    below 20 s for the peer when it is tuned for throughput. In the summary, the rate of that one is what it does under \
    pressure, which is more than it could sustain: where each hop waits two seconds no short window tells. Rates under \
    pressure leave the first half of their window out.";

fn markdown(run: &Run) -> String {
    let mut text = String::from("# Measured\n\n| | |\n| --- | --- |\n");
    for (name, value) in preamble(run) {
        let _ = writeln!(text, "| {name} | {value} |");
    }
    let _ = write!(text, "\n{HOW_TO_READ}\n\n{THE_PEER}\n");
    if run.effort == "smoke" {
        text.push_str("\n**A smoke run: it shows that everything runs; its figures say nothing.**\n");
    }
    for outcome in &run.outcomes {
        let _ = write!(
            text,
            "\n## {}: {} against {}\n\n| | unit | {} | {} | ratio | control |\n| --- | --- | ---: | ---: | ---: | ---: |\n",
            outcome.title, outcome.ours.name, outcome.theirs.name, outcome.ours.name, outcome.theirs.name
        );
        for comparison in &outcome.comparisons {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                comparison.figure,
                comparison.unit,
                number_text(comparison.ours),
                number_text(comparison.theirs),
                ratio_text(comparison),
                comparison.control.map_or("-".to_owned(), number_text),
            );
        }
        for why in &outcome.void {
            let _ = writeln!(text, "\nVoid: {}", first_line(why));
        }
    }
    text
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

const STYLE: &str = "body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;\
    background:#fff}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;\
    text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}.void{color:#a3341f}svg{display:block;\
    margin:1.2rem 0;max-width:100%;height:auto}@media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}\
    td,th{border-color:#444}}";

fn html(run: &Run) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' \
         content='width=device-width'><title>Measured</title><style>{STYLE}</style></head><body>\n<h1>Measured</h1>\n<table>"
    );
    for (name, value) in preamble(run) {
        let _ = write!(text, "<tr><th>{}</th><td>{}</td></tr>", escaped(&name), escaped(&value));
    }
    let _ = write!(text, "</table>\n<p>{}</p>\n<p>{}</p>\n", escaped(HOW_TO_READ), escaped(THE_PEER));
    if run.effort == "smoke" {
        text.push_str("<p class='void'>A smoke run: it shows that everything runs; its figures say nothing.</p>\n");
    }
    for outcome in &run.outcomes {
        section(&mut text, outcome);
    }
    text + "</body></html>\n"
}

fn section(text: &mut String, outcome: &Outcome) {
    let (ours, theirs) = (escaped(&outcome.ours.name), escaped(&outcome.theirs.name));
    let _ = write!(
        text,
        "<h2>{}: {ours} against {theirs}</h2>\n<table><tr><th></th><th>{ours}</th><th>{theirs}</th><th>ratio</th>\
         <th>control (at most {CONTROL_MAX})</th></tr>",
        escaped(&outcome.title)
    );
    for comparison in &outcome.comparisons {
        let _ = write!(
            text,
            "<tr><td>{}, {}</td><td class='n'>{}</td><td class='n'>{}</td><td class='n'>{}</td><td class='n'>{}</td></tr>",
            escaped(&comparison.figure),
            escaped(&comparison.unit),
            number_text(comparison.ours),
            number_text(comparison.theirs),
            ratio_text(comparison),
            comparison.control.map_or("-".to_owned(), number_text),
        );
    }
    text.push_str("</table>\n");
    for why in &outcome.void {
        let _ = writeln!(text, "<p class='void'>Void: {}</p>", escaped(why));
    }
    for comparison in &outcome.comparisons {
        let bar = |label: &str, colour: usize, value: f64| Bar { label: label.to_owned(), colour, value };
        let both = [bar(&outcome.ours.name, 0, comparison.ours), bar(&outcome.theirs.name, 1, comparison.theirs)];
        text.push_str(&bars(&comparison.figure, &comparison.unit, &both));
    }
    text.push_str(&over_time(outcome));
    text.push_str(&frontier(outcome));
    text.push_str(&settings(outcome));
}

/// Memory and throughput along the longest window of each side's first block.
fn over_time(outcome: &Outcome) -> String {
    let mut memory = Vec::new();
    let mut decided = Vec::new();
    for (colour, side) in [Side::A, Side::B].into_iter().enumerate() {
        let Some(block) = outcome.blocks.iter().find(|block| block.side == side) else { continue };
        let longest = block.windows.iter().max_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        let Some((what, window)) = longest else { continue };
        let name = format!("{}, {what}", block.contender);
        let points = window.looks.iter().map(|look| (look.at, look.app.resident_mib)).collect();
        memory.push(Line { name: name.clone(), colour, points });
        let pairs = window.looks.windows(5).map(|looks| (looks[0], looks[4]));
        let rate = pairs
            .filter(|(first, last)| last.at > first.at)
            .map(|(first, last)| (last.at, (last.decided - first.decided) as f64 / (last.at - first.at)));
        decided.push(Line { name, colour, points: rate.collect() });
    }
    if memory.is_empty() {
        return String::new();
    }
    lines("Resident memory", "seconds", "MiB", &memory) + &lines("Decided", "seconds", "orders/s", &decided)
}

/// Latency against throughput, where commit intervals were swept.
fn frontier(outcome: &Outcome) -> String {
    let of = |block: &Block, start: &str| -> Vec<f64> {
        let figures = block.figures.iter().filter(|figure| figure.name.starts_with(start));
        figures.map(|figure| figure.value).collect()
    };
    let mut both = Vec::new();
    for (colour, side) in [Side::A, Side::B].into_iter().enumerate() {
        let Some(block) = outcome.blocks.iter().find(|block| block.side == side) else { continue };
        let rates = of(block, "rate under pressure, commit every");
        let points: Vec<(f64, f64)> = rates.into_iter().zip(of(block, "p99 at half of it, commit every")).collect();
        if !points.is_empty() {
            both.push(Line { name: block.contender.clone(), colour, points });
        }
    }
    if both.is_empty() {
        return String::new();
    }
    lines("Frontier: p99 at half load against throughput", "orders/s under pressure", "ms", &both)
}

fn settings(outcome: &Outcome) -> String {
    let of = |contender| serde_json::to_string_pretty(contender).unwrap_or_default();
    let setup = outcome.blocks.first().map(|block| serde_json::to_string_pretty(&block.setup).unwrap_or_default());
    format!(
        "<details><summary>Settings</summary><pre>{}\n{}\n{}</pre></details>\n",
        escaped(&of(&outcome.ours)),
        escaped(&of(&outcome.theirs)),
        escaped(&setup.unwrap_or_default())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Contender;
    use crate::machine::Machine;
    use crate::result::{Better, compare};
    use crate::session::Setup;

    fn run() -> Run {
        let contenders = ["millrace", "kafka-streams"].map(|name| Contender::named(name).unwrap());
        let block = |side: Side, value: f64| {
            let mut block = Block::new(&contenders[usize::from(side == Side::B)], side, &Setup::default());
            block.figure("sustainable rate", "orders/s", Better::Higher, value);
            block
        };
        let blocks =
            vec![block(Side::A, 20_000.0), block(Side::B, 5_000.0), block(Side::B, 5_000.0), block(Side::A, 20_000.0)];
        let outcome = Outcome {
            scenario: "orders".into(),
            title: "Sustainable rate".into(),
            ours: contenders[0].clone(),
            theirs: contenders[1].clone(),
            comparisons: compare(&blocks),
            void: vec!["block 1: <late>".into()],
            blocks,
        };
        Run {
            started: "2026-01-31T12:00:00Z".into(),
            command: "orders".into(),
            effort: "short".into(),
            machine: Machine::here(),
            broker: vec!["-Xmx1g".into()],
            outcomes: vec![outcome],
        }
    }

    #[test]
    fn the_pages_say_what_the_numbers_say() {
        let run = run();
        let page = markdown(&run);
        assert!(page.contains("| sustainable rate | orders/s | 20,000 | 5,000 | 4.00 (4.00 to 4.00) |"), "{page}");
        assert!(page.contains("Void: block 1"));
        let page = html(&run);
        assert!(page.contains("4.00 (4.00 to 4.00)") && page.contains("<svg") && page.contains("&lt;late&gt;"));
        assert!(!page.contains("src=") && !page.contains("href="), "it needs nothing else");
    }

    #[test]
    fn the_pages_can_be_made_again_from_the_raw_numbers() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &run()).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        let before = (read(RAW), read("report.md"), read("report.html"));
        again(dir.path()).unwrap();
        assert_eq!(before, (read(RAW), read("report.md"), read("report.html")));
    }
}
