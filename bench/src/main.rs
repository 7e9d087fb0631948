//! Measures Millrace against peers that do the same job: the same orders, the same broker, one run. Drives everything from
//! outside, over Kafka and HTTP; links the records and the reader of the real orders, and nothing else of Millrace. Figures
//! go to files, progress to stderr.
//!
//! Reading order: [`scenario`] (what is done), [`contender`] (to whom), [`session`] (what a measurement is), [`result`]
//! and [`statistics`] (what counts, and how sure it is), [`report`].

mod contender;
mod effort;
mod ground;
mod load;
mod machine;
mod plot;
mod process;
mod processes;
mod rate;
mod readme;
mod real;
mod relay;
mod report;
mod result;
mod scenario;
mod session;
mod statistics;
mod watch;
mod workload;

#[path = "../../tests/kafka/node.rs"]
mod node;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::contender::{Contender, MILLRACE};
use crate::effort::Effort;
use crate::ground::Grounds;
use crate::machine::Machine;
use crate::result::{Block, Outcome, Run};
use crate::scenario::{Known, Scenario};
use crate::statistics::blocks;

const EXAMPLES: &str = "\
Examples:
  cargo run -p bench --release -- orders --peer kafka-streams
  cargo run -p bench --release -- light latency --peer kafka-streams-latency
  cargo run -p bench --release -- orders --peer relay              the limit: the same records, no logic
  cargo run -p bench --release                                     every scenario, as make bench does
  cargo run -p bench --release -- summary --peer kafka-streams --peer kafka-streams-tuned
  cargo run -p bench --release -- report bench/runs/2026-01-31-machine
  cargo run -p bench --release -- readme bench/runs/2026-01-31-machine";

/// Measures Millrace against peers that do the same job, on one Apache Kafka, in one run.
#[derive(Parser)]
#[command(name = "bench", before_help = EXAMPLES, max_term_width = 110, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to do; when none is named, all: the summary, which is five of them in one sitting, and the others; each by
    /// itself where the effort is full.
    #[arg(value_enum, value_name = "SCENARIO")]
    scenarios: Vec<Scenario>,
    /// Whom to compare with: kafka-streams, followed by any of -fused, one of -tuned, -latency, -at-least-once, and
    /// -session6; millrace-embedded; relay; raw; or millrace:program=<path> or millrace:commit_records=20000, to compare Millrace with itself.
    #[arg(long, default_value = "kafka-streams", value_name = "NAME")]
    peer: Vec<String>,
    /// How long to take.
    #[arg(long, default_value = "short")]
    effort: Effort,
    /// Begin no block that would not end within so many minutes from the start, going by the longest before.
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,
    /// Where results go; without it, to bench/runs/<date>-<machine>.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes the report of a run again from its raw numbers.
    Report {
        /// The folder of the run.
        dir: PathBuf,
    },
    /// Puts the table of a run's summary into the README.
    Readme {
        /// The folder of the run.
        dir: PathBuf,
    },
    /// The relay's own process; the harness starts it.
    #[command(hide = true)]
    Relay(relay::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Relay(args)) => relay::run(&args).map(|()| ExitCode::SUCCESS),
        Some(Command::Report { dir }) => report::again(&dir).map(|()| ExitCode::SUCCESS),
        Some(Command::Readme { dir }) => put_in_readme(&dir).map(|()| ExitCode::SUCCESS),
        None => measure(&cli),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::from(3)
    })
}

fn put_in_readme(dir: &Path) -> anyhow::Result<()> {
    readme::update(&ground::repository()?.join("README.md"), dir, &report::read(dir)?)
}

/// Exit codes: 0 every comparison counts; 1 one does not, and the report says why; 3 something could not be run.
fn measure(cli: &Cli) -> anyhow::Result<ExitCode> {
    let ours = Contender::named(MILLRACE)?;
    let peers = cli.peer.iter().map(|name| Contender::named(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut scenarios = cli.scenarios.clone();
    if scenarios.is_empty() {
        scenarios = cli.effort.scenarios();
    }
    let machine = Machine::here();
    let started = machine::now_utc();
    let out = match &cli.out {
        Some(dir) => dir.clone(),
        None => {
            let date = started.split('T').next().unwrap_or_default();
            ground::repository()?.join("bench/runs").join(format!("{date}-{}", machine::name(&machine)))
        }
    };
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let mut run = Run {
        started,
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        effort: format!("{:?}", cli.effort).to_lowercase(),
        machine,
        broker: ground::BROKER_JVM.iter().map(|option| (*option).to_owned()).collect(),
        outcomes: Vec::new(),
    };
    let mut time =
        Time { since: Instant::now(), limit: cli.minutes.map(|n| Duration::from_secs(n * 60)), block: Duration::ZERO };
    let mut grounds = Grounds::start()?;
    let mut known = Known::default();
    eprintln!("the broker is kept busy, so that its code is compiled");
    scenario::warm_broker(&mut grounds, cli.effort)?;
    for scenario in scenarios {
        let peers: Vec<&Contender> = peers.iter().filter(|peer| scenario.is_for(peer)).collect();
        // Two peers share the blocks of Millrace between them: that saves a third of the time.
        for peers in peers.chunks(if scenario == Scenario::Summary { 2 } else { 1 }) {
            let names: Vec<&str> = peers.iter().map(|peer| peer.name.as_str()).collect();
            eprintln!("{} against {}", scenario.name(), names.join(" and "));
            let before = run.outcomes.len();
            // Written after each block, so that a run that is cut short has something to show.
            let save = |outcomes: Vec<Outcome>| {
                run.outcomes.truncate(before);
                run.outcomes.extend(outcomes);
                report::write(&out, &run)
            };
            compare(&mut grounds, scenario, &ours, peers, cli.effort, &mut known, &mut time, save)?;
        }
    }
    eprintln!("report: {}", out.join("report.md").display());
    let counts = run.outcomes.iter().all(|outcome| outcome.void.is_empty());
    Ok(ExitCode::from(u8::from(!counts)))
}

/// Saves, after each block, one outcome for each of the one or two peers. In blocks that two share, the pairs are P A Q and Q A P: both peers have
/// Millrace as a neighbour.
#[expect(clippy::too_many_arguments)]
fn compare(
    grounds: &mut Grounds,
    scenario: Scenario,
    ours: &Contender,
    peers: &[&Contender],
    effort: Effort,
    known: &mut Known,
    time: &mut Time,
    mut save: impl FnMut(Vec<Outcome>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let [first, others @ ..] = peers else { return Ok(()) };
    let sides = effort.sides(scenario);
    let order: Vec<&Contender> = match scenario {
        // Latencies are measured at half of the first peer's rate, so that is found first.
        Scenario::Summary => {
            let forth = [*first, ours].into_iter().chain(others.iter().copied());
            let there_and_back: Vec<_> = forth.clone().chain(forth.rev()).collect();
            there_and_back.repeat(sides.len() / blocks(1).len())
        }
        _ => {
            let contender = |side: &statistics::Side| if *side == statistics::Side::A { ours } else { *first };
            sides.iter().map(contender).collect()
        }
    };
    let mut done = Vec::new();
    for (number, contender) in order.iter().enumerate() {
        if time.is_up() {
            eprintln!("  there is no time for block {} of {}: {}", number + 1, order.len(), contender.name);
            break;
        }
        eprintln!("  block {} of {}: {}", number + 1, order.len(), contender.name);
        let since = Instant::now();
        let side = if std::ptr::eq(*contender, ours) { statistics::Side::A } else { statistics::Side::B };
        let block = scenario
            .block(grounds, contender, side, first, effort, known)
            .with_context(|| format!("{}, {}", scenario.name(), contender.name))?;
        for figure in &block.figures {
            eprintln!("    {}: {:.4} {}", figure.name, figure.value, figure.unit);
        }
        for why in &block.void {
            eprintln!("    VOID: {why}");
        }
        eprintln!("    took {:.0} s", since.elapsed().as_secs_f64());
        time.block = time.block.max(since.elapsed());
        done.push(block);
        save(peers.iter().map(|theirs| outcome(scenario, ours, theirs, &done)).collect())?;
    }
    Ok(())
}

/// How long the run may take.
struct Time {
    since: Instant,
    limit: Option<Duration>,
    /// The longest block so far.
    block: Duration,
}

impl Time {
    fn is_up(&self) -> bool {
        self.limit.is_some_and(|limit| self.since.elapsed() + self.block > limit)
    }
}

fn outcome(scenario: Scenario, ours: &Contender, theirs: &Contender, done: &[Block]) -> Outcome {
    let of_both = |block: &&Block| block.contender == ours.name || block.contender == theirs.name;
    let blocks: Vec<Block> = done.iter().filter(of_both).cloned().collect();
    let comparisons = result::compare(&blocks);
    Outcome {
        scenario: scenario.name(),
        title: scenario.title(),
        ours: ours.clone(),
        theirs: theirs.clone(),
        void: result::void(&blocks, &comparisons),
        comparisons,
        blocks,
    }
}
