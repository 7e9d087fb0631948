//! `sim`: the whole pipeline under seeds, in this process alone. Runs them, makes a failing one smaller, says how to see it
//! again. What a seed does is in the room `sim`.

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use millrace_sim::{Campaign, Fault, Faults, Options, Trace, campaign, run, shrink};

use crate::output::{self, Form};

const EXAMPLES: &str = "\
Examples:
  millrace sim                                  some seeds, a minute or so
  millrace sim --seeds 10000 --from 1
  millrace sim --seed 42 --trace                one seed, step by step
  millrace sim --seed 42 --orders 8 --without broker-crash,disk-lost";

/// Arguments of `millrace sim`.
#[derive(clap::Args)]
#[command(before_help = EXAMPLES)]
pub(crate) struct Args {
    /// How many seeds are run.
    #[arg(long, default_value_t = 500, value_name = "COUNT")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    from: u64,
    /// Runs this seed alone.
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Prints every step of the seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// So many orders instead of the seed's own number.
    #[arg(long, value_name = "COUNT")]
    orders: Option<usize>,
    /// Faults that do not happen, such as broker-crash,disk-lost; `all` for a calm run.
    #[arg(long, value_delimiter = ',', value_name = "FAULTS")]
    without: Vec<String>,
    /// Seeds at the same time; as many as there are processors by default.
    #[arg(long, value_name = "COUNT")]
    jobs: Option<usize>,
    /// The form of the result.
    #[arg(short, long, default_value = "table", value_name = "FORM")]
    output: Form,
}

/// Runs seeds.
pub(crate) fn run_seeds(args: &Args) -> anyhow::Result<ExitCode> {
    let faults = faults_without(&args.without)?;
    let of = |seed| Options { seed, orders: args.orders, faults };
    // A panic of a simulated thread is an outcome like another, and is told with it.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = args.seed {
        let outcome = run(of(seed), if args.trace { Trace::Kept } else { Trace::Left });
        for line in &outcome.trace {
            output::print(&format!("{line}\n"))?;
        }
        let mut one = Campaign::default();
        one.take(outcome);
        return tell(args, &one, faults);
    }
    let progress = ProgressBar::new(args.seeds);
    progress.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} seeds  {elapsed_precise}")?);
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let result = campaign(args.from, args.seeds, jobs, of, || progress.inc(1));
    progress.finish_and_clear();
    tell(args, &result, faults)
}

fn faults_without(names: &[String]) -> anyhow::Result<Faults> {
    let mut faults = Faults::all();
    for name in names {
        if name == "all" {
            return Ok(Faults::none());
        }
        let Some(fault) = Fault::find(name) else {
            let all: Vec<String> = Fault::ALL.into_iter().map(Fault::name).collect();
            anyhow::bail!("there is no fault {name:?}; there are: {}", all.join(", "));
        };
        faults = faults.without(fault);
    }
    Ok(faults)
}

/// The command that shows a run again.
fn replay(options: Options) -> String {
    let mut command = format!("millrace sim --seed {} --trace", options.seed);
    if let Some(orders) = options.orders {
        command.push_str(&format!(" --orders {orders}"));
    }
    let without: Vec<String> = Fault::ALL.into_iter().filter(|f| !options.faults.has(*f)).map(Fault::name).collect();
    if !without.is_empty() {
        command.push_str(&format!(" --without {}", without.join(",")));
    }
    command
}

fn tell(args: &Args, campaign: &Campaign, faults: Faults) -> anyhow::Result<ExitCode> {
    let whole = faults == Faults::all() && args.orders.is_none();
    let gaps = if whole { campaign.gaps() } else { Vec::new() };
    let replays: Vec<String> = campaign
        .failures
        .iter()
        .map(|failure| replay(shrink(Options { orders: args.orders, faults, ..Options::of_seed(failure.seed) })))
        .collect();
    match args.output {
        Form::Table => {
            output::print(&table(campaign, &gaps, &replays))?;
        }
        Form::Json => output::print_json(&serde_json::json!({
            "seeds": campaign.seeds,
            "failed": campaign.failed,
            "small": campaign.small,
            "steps": campaign.steps,
            "simulated_ms": campaign.simulated_ms,
            "faults": campaign.coverage.faults.iter().map(|(f, n)| (f.name(), n)).collect::<std::collections::BTreeMap<_, _>>(),
            "counts": campaign.coverage.counts,
            "moves": campaign.coverage.moves.iter().map(|((what, from, to), n)| serde_json::json!({
                "what": what, "from": from, "to": to, "times": n,
            })).collect::<Vec<_>>(),
            "gaps": gaps,
            "failures": campaign.failures.iter().zip(&replays).map(|(failure, replay)| serde_json::json!({
                "seed": failure.seed, "violations": failure.violations, "replay": replay,
            })).collect::<Vec<_>>(),
        }))?,
    }
    let holds = campaign.failed == 0 && gaps.is_empty();
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::from(crate::DOES_NOT_HOLD) })
}

fn table(campaign: &Campaign, gaps: &[String], replays: &[String]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} seeds, {} failed, {} small; {} steps, {} hours of simulated time",
        campaign.seeds,
        campaign.failed,
        campaign.small,
        campaign.steps,
        campaign.simulated_ms / 3_600_000
    );
    for (fault, times) in &campaign.coverage.faults {
        let _ = writeln!(out, "  {:<44} {times:>10}", fault.name());
    }
    for (what, times) in &campaign.coverage.counts {
        let _ = writeln!(out, "  {what:<44} {times:>10}");
    }
    for ((what, from, to), times) in &campaign.coverage.moves {
        let _ = writeln!(out, "  {:<44} {times:>10}", format!("{what} {from} to {to}"));
    }
    for gap in gaps {
        let _ = writeln!(out, "not covered: {gap}");
    }
    for (failure, replay) in campaign.failures.iter().zip(replays) {
        let _ = writeln!(out, "\nseed {} failed:", failure.seed);
        for violation in failure.violations.iter().take(5) {
            let _ = writeln!(out, "  {violation}");
        }
        let _ = writeln!(out, "see it again: {replay}");
    }
    out
}
