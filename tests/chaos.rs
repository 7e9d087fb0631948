//! `make chaos`, and one campaign in `make test`: every kind of fault twice, under load, and the verdict. Has no test
//! harness, so that progress is seen and arguments are its own.

#![allow(clippy::unwrap_used)]

mod campaign;
mod support;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use campaign::{Length, Settings, planted, recovery, say, verdict};
use clap::{Parser, ValueEnum};
use millrace_chaos::Kind;

const EXAMPLES: &str = "\
Examples:
  make chaos ARGS=\"--minutes 8 --orders 50000\"
  make chaos ARGS=\"--minutes 120 --orders 1000000 --brokers 3\"
  make chaos ARGS=\"--faults hold-end-txn,kill-broker --seed 7\"
  make chaos ARGS=\"--minutes 5 --orders 30000 --no-hand-over\"
  make chaos ARGS=\"--recovery 20\"
  make chaos-planted                                 one campaign for each defect planted on purpose";

/// The campaign of `make test`.
const IN_TESTS: Settings = Settings {
    seed: 7,
    brokers: 1,
    workers: 2,
    hand_over: true,
    kinds: Vec::new(),
    length: Length::Rounds(2),
    // More than it comes to: without load a fault meets nothing.
    orders: 100_000,
    at_least: 50_000,
    rate: 125.0,
    hurry: 60,
};

/// Real faults on real processes, and whether every promise holds.
#[derive(Parser)]
#[command(name = "make chaos", before_help = EXAMPLES)]
struct Args {
    /// How long faults come.
    #[arg(long, default_value_t = 8.0)]
    minutes: f64,
    /// What is drawn is drawn from this; a campaign of its own without it.
    #[arg(long)]
    seed: Option<u64>,
    /// Orders, spread over the time.
    #[arg(long, default_value_t = 50_000)]
    orders: usize,
    /// Kinds of faults, with commas between, or all.
    #[arg(long, default_value = "all")]
    faults: String,
    /// Nodes of Apache Kafka: one, or three with replication three and two in sync.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3))]
    brokers: u8,
    /// Workers that share the partitions.
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Every record between two tasks goes through the broker.
    #[arg(long)]
    no_hand_over: bool,
    /// Instead of a campaign: measures recovery from each fault this many times.
    #[arg(long, value_name = "TRIES")]
    recovery: Option<usize>,
    /// Of recovery, only the cases that have these words in their name, in this order.
    #[arg(long, value_name = "WORDS", num_args = 1.., requires = "recovery")]
    only: Vec<String>,
    /// Instead of a campaign: one for each of these defects, with commas between, or all; each must be found.
    #[arg(long, value_name = "DEFECTS", conflicts_with = "recovery")]
    planted: Option<String>,
    /// Orders a second while recovery is measured.
    #[arg(long, default_value_t = 100.0)]
    rate: f64,
    /// The form of the result on stdout.
    #[arg(short, long, default_value = "table")]
    output: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Table,
    Json,
}

fn main() -> ExitCode {
    // `cargo test` gives every test binary its own arguments; `make chaos` sets this.
    match std::env::var("MILLRACE_CHAOS") {
        Ok(args) => by_hand(Args::parse_from(std::iter::once("make chaos").chain(args.split_whitespace()))),
        Err(_) => as_test(),
    }
}

fn by_hand(args: Args) -> ExitCode {
    if let Some(defects) = &args.planted {
        return planted::run(defects);
    }
    let seed = args.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    });
    let skipped = |_| {
        say("there is no Apache Kafka here; the line above says why");
        ExitCode::from(3)
    };
    if let Some(tries) = args.recovery {
        return match recovery::run(&recovery::Asked {
            seed,
            brokers: args.brokers.into(),
            tries,
            before: args.orders,
            rate: args.rate,
            only: args.only.join(" "),
        }) {
            Ok(measured) => {
                print(args.output, &measured);
                ExitCode::SUCCESS
            }
            Err(why) => skipped(why),
        };
    }
    let kinds = match Kind::list(&args.faults) {
        Ok(kinds) => kinds,
        Err(error) => {
            say(&error);
            return ExitCode::from(2);
        }
    };
    let length = Duration::from_secs_f64(args.minutes * 60.0);
    let settings = Settings {
        seed,
        brokers: args.brokers.into(),
        workers: args.workers.max(1),
        hand_over: !args.no_hand_over,
        kinds,
        length: Length::For(length),
        orders: args.orders,
        at_least: 0,
        rate: args.orders as f64 / length.as_secs_f64(),
        hurry: 100,
    };
    match campaign::run(&settings) {
        Ok(verdict) => {
            print(args.output, &verdict);
            ExitCode::from(u8::from(!verdict.holds()))
        }
        Err(why) => skipped(why),
    }
}

fn print<T: serde::Serialize + std::fmt::Display>(form: Form, what: &T) {
    let text = match form {
        Form::Table => what.to_string(),
        Form::Json => serde_json::to_string_pretty(what).unwrap(),
    };
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Says what a test harness would say of one test.
fn as_test() -> ExitCode {
    const NAME: &str = "every_kind_of_fault";
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = filters.is_empty() || filters.iter().any(|filter| NAME.contains(filter.as_str()));
    let mut out = std::io::stdout();
    if std::env::args().any(|arg| arg == "--list") {
        let _ = writeln!(out, "{NAME}: test");
        return ExitCode::SUCCESS;
    }
    let held =
        if wanted { campaign::run(&Settings { kinds: Kind::ALL.to_vec(), ..IN_TESTS }) } else { Err(not_asked()) };
    let (passed, failed) = match held {
        Ok(verdict) => {
            verdict::print(&verdict);
            (usize::from(verdict.holds()), usize::from(!verdict.holds()))
        }
        // A skipped test counts as passed and is taken off by setup/test.sh.
        Err(_) => (usize::from(wanted), 0),
    };
    let word = if failed == 0 { "ok" } else { "FAILED" };
    if wanted {
        let _ = writeln!(out, "test {NAME} ... {word}");
    }
    let _ = writeln!(out, "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured");
    ExitCode::from(u8::from(failed > 0))
}

fn not_asked() -> support::node::Skipped {
    support::node::Skipped { why: "another test was asked for".into() }
}
