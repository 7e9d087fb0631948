//! The `millrace` command: arguments in, exit code out. The only place where all rooms meet; wiring, no decisions.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done; 1 what was checked does not hold; 2 the arguments
//! are wrong; 3 something that is needed cannot be reached or used.

mod apply;
mod audit;
mod broker;
mod connection;
mod dev;
mod dlq;
mod ingress;
mod inspect;
mod orders;
mod output;
mod pipeline;
mod psp;
mod records;
mod replay;
mod run;
mod sim;
mod topology;
mod trace;
mod warehouse;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Records are made of many short-lived strings, so what an allocation costs is much of what an order costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What was checked does not hold.
pub(crate) const DOES_NOT_HOLD: u8 = 1;
/// Something that is needed cannot be reached or used.
pub(crate) const CANNOT: u8 = 3;

const EXAMPLES: &str = "\
Examples:
  millrace dev                                  the whole shop on this machine, nothing else needed
  millrace dev --kafka 127.0.0.1:9092           the same on an Apache Kafka that is there
  millrace replay bench/data/online_retail.csv.zst --stock 0.8
  millrace audit                                is every promise kept?
  millrace trace 0193...                        one order across all topics
  millrace topology show                        which topic feeds which processor";

/// An order pipeline on Kafka that loses nothing, doubles nothing and oversells nothing.
#[derive(Parser)]
#[command(name = "millrace", version, before_help = EXAMPLES, max_term_width = 110, infer_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log: off, error, warn, info, debug, or a filter such as millrace_worker=debug. Without it info, of `sim`
    /// nothing.
    #[arg(long, global = true, env = "MILLRACE_LOG", value_name = "FILTER")]
    log: Option<String>,
}

#[derive(Subcommand)]
enum Command {
    /// Everything in one process: broker, registry, topics, processors, ingress, a stocked shop.
    Dev(dev::Args),
    /// The embedded broker and schema registry alone.
    Broker(broker::Args),
    /// The HTTP ingress alone.
    Ingress(ingress::Args),
    /// Runs sub-topologies (or the ones that hold the named processors).
    Run(run::Args),
    /// Checks topology.toml and the schemas; reports every fault at once.
    Lint(topology::LintArgs),
    /// Shows the topology.
    Topology(topology::TopologyArgs),
    /// Creates topics and schema subjects; repeats safely, refuses on a mismatch.
    Apply(apply::Args),
    /// Turns a file of real orders into a catalog, stock and orders, and publishes them.
    Replay(replay::Args),
    /// Recomputes from the topics alone whether every promise is kept.
    Audit(audit::Args),
    /// Dead letters: lists and shows them, puts them back in order, lets them go.
    Dlq(dlq::Args),
    /// Runs the whole pipeline in simulated time under seeds, with everything that can go wrong.
    Sim(sim::Args),
    /// Writes records given as JSON lines on stdin.
    Produce(records::ProduceArgs),
    /// Prints the records of a topic as JSON lines.
    Consume(records::ConsumeArgs),
    /// Prints every record of one order, over all topics.
    Trace(trace::Args),
    /// The simulated payment service provider alone, for several processes to share.
    Psp(psp::Args),
    /// The simulated warehouse alone, for processors that run in processes of their own.
    Warehouse(warehouse::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // What simulated brokers have to say of simulated faults is in the trace.
    let unasked = if matches!(cli.command, Command::Sim(_)) { "off" } else { "info" };
    start_logging(cli.log.as_deref().unwrap_or(unasked));
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var("MILLRACE_PLANTED") {
        let Some(defect) = millrace_sim::Defect::find(&name) else {
            eprintln!("millrace: there is no defect {name:?} to plant");
            return ExitCode::from(2);
        };
        tracing::warn!(name, "a defect is planted");
        millrace_sim::plant(Some(defect));
    }
    let result = match cli.command {
        Command::Dev(args) => dev::run(args),
        Command::Broker(args) => broker::run(args),
        Command::Ingress(args) => ingress::run(args),
        Command::Run(args) => run::run(args),
        Command::Lint(args) => topology::lint(&args),
        Command::Topology(args) => topology::show(&args),
        Command::Apply(args) => apply::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Dlq(args) => dlq::run(&args),
        Command::Sim(args) => sim::run_seeds(&args),
        Command::Produce(args) => records::produce(&args),
        Command::Consume(args) => records::consume(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Psp(args) => psp::run(args),
        Command::Warehouse(args) => warehouse::run(&args),
    };
    match result {
        Ok(code) => code,
        // Whoever read our output has enough: that is no failure.
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace: {error:#}");
            ExitCode::from(CANNOT)
        }
    }
}

/// Readable lines on a terminal, JSON otherwise; always on stderr.
fn start_logging(filter: &str) {
    use std::io::IsTerminal;
    // The Kafka library talks of every lost connection; what matters of it is said by the code that uses it.
    let plain = !filter.contains(['=', ',']);
    let filter = if plain { format!("{filter},librdkafka=off,rdkafka=off") } else { filter.to_owned() };
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.with_target(false).with_ansi(std::env::var_os("NO_COLOR").is_none()).init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn every_command_can_be_parsed() {
        Cli::command().debug_assert();
    }
}
