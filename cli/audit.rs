//! `audit`: reads the topics and the provider's ledger, lets `audit` recompute what must be true, prints it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use millrace_audit::{Audit, Phase, ProviderEntry, Record, Report};
use millrace_psp::LedgerEntry;
use millrace_runtime::{Cleanup, Origin, Topology};
use millrace_schemas::{Codec, TOPICS, topics};
use millrace_worker::{From, TopicReader};

use crate::connection::{Connection, TopologyFile};
use crate::output::{self, Form};
use crate::records::Decoder;

/// Arguments of `millrace audit`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    topology: TopologyFile,
    /// The payment service provider's ledger: `millrace dev` and `millrace psp` serve it. `none` leaves it out.
    #[arg(long, env = "MILLRACE_PSP", default_value = "http://127.0.0.1:8080/psp", value_name = "URL")]
    psp: String,
    /// The form of the result.
    #[arg(short, long, default_value = "table", value_name = "FORM")]
    output: Form,
    /// Waits until this many orders have ended before it judges.
    #[arg(long, value_name = "ORDERS", conflicts_with_all = ["follow", "running"])]
    until: Option<u64>,
    /// Goes on reading, and reports every few seconds.
    #[arg(long)]
    follow: bool,
    /// Orders may still be on their way: judge only what must be true at any moment.
    #[arg(long)]
    running: bool,
}

const READ_AT_ONCE: usize = 20_000;
const REPORT_EVERY: Duration = Duration::from_secs(5);

/// Everything the audit reads.
struct Reading {
    audit: Audit,
    reader: TopicReader,
}

impl Reading {
    fn open(kafka: &str, codec: &Codec, audited: &Audited) -> anyhow::Result<Self> {
        let mut names: Vec<&str> = TOPICS.iter().map(|topic| topic.topic).collect();
        names.extend(audited.dead_letters.iter().map(String::as_str));
        let reader = TopicReader::open(kafka, &names, From::Beginning)?;
        Ok(Self { audit: Audit::new(codec.clone()).levels_compact_after(audited.compaction_lag_ms), reader })
    }

    /// Reads what is there; gives how many records that was.
    fn step(&mut self, wait: Duration) -> anyhow::Result<usize> {
        let records = self.reader.read(wait, READ_AT_ONCE)?;
        for placed in &records {
            let record = &placed.record;
            let record = Record {
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key.as_deref().unwrap_or_default(),
                value: record.value.as_deref(),
                headers: &record.headers,
            };
            self.audit.record(&placed.topic, placed.partition, &record);
        }
        Ok(records.len())
    }

    fn ledger(&mut self, entries: Vec<LedgerEntry>) {
        for entry in entries {
            self.audit.provider(&ProviderEntry {
                order_id: entry.order_id,
                currency: entry.currency,
                authorized_minor: entry.authorized_minor,
                captured_minor: entry.captured_minor,
                voided_minor: entry.voided_minor,
                refunded_minor: entry.refunded_minor,
                authorizations: entry.authorizations,
                captures: entry.captures,
                live: u32::from(entry.live),
            });
        }
    }
}

/// What an audit must know of the topology.
#[derive(Clone)]
pub(crate) struct Audited {
    dead_letters: Vec<String>,
    compaction_lag_ms: Option<i64>,
}

impl Audited {
    /// Of this topology.
    pub(crate) fn of(topology: &Topology) -> Self {
        let levels = topology.find_topic(topics::STOCK_LEVELS).map(|id| topology.topic(id));
        let compacted = levels.filter(|levels| levels.cleanup == Cleanup::Compact);
        let compaction_lag_ms = compacted.map(|levels| levels.compaction_lag_ms.unwrap_or(0));
        Self { dead_letters: dead_letter_topics(topology), compaction_lag_ms }
    }
}

/// The dead-letter topics of a topology.
pub(crate) fn dead_letter_topics(topology: &Topology) -> Vec<String> {
    let letters = topology.topics.iter().filter(|topic| topic.origin == Origin::DeadLetters);
    letters.map(|topic| topic.name.to_string()).collect()
}

/// Audits what is there.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let decoder = Decoder::connect(&args.connection)?;
    let audited = Audited::of(&args.topology.load(decoder.codec())?);
    if let Some(orders) = args.until {
        let ledger = || {
            if args.psp == "none" {
                return Ok(Vec::new());
            }
            crate::run::runtime()?.block_on(crate::psp::fetch_ledger(&args.psp))
        };
        let report = until_settled(&args.connection.kafka, decoder.codec(), &audited, orders, ledger)?;
        print(&report, args.output)?;
        return Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(crate::DOES_NOT_HOLD) });
    }
    let mut reading = Reading::open(&args.connection.kafka, decoder.codec(), &audited)?;
    let phase = if args.running || args.follow { Phase::Running } else { Phase::Settled };
    let progress = spinner("records read");
    let mut reported = Instant::now();
    loop {
        let read = reading.step(Duration::from_millis(200))?;
        progress.inc(read as u64);
        let ended = !args.follow && reading.reader.has_caught_up();
        if ended || (args.follow && reported.elapsed() >= REPORT_EVERY) {
            if args.psp != "none" {
                reading.ledger(crate::run::runtime()?.block_on(crate::psp::fetch_ledger(&args.psp))?);
            }
            let report = reading.audit.report(phase);
            print(&report, args.output)?;
            reported = Instant::now();
            if !report.holds() || ended {
                progress.finish_and_clear();
                return Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(crate::DOES_NOT_HOLD) });
            }
        }
    }
}

/// Reads along until every one of `orders` orders has ended, then reads to the end once more and reports.
pub(crate) fn until_settled(
    kafka: &str,
    codec: &Codec,
    audited: &Audited,
    orders: u64,
    ledger: impl FnOnce() -> anyhow::Result<Vec<LedgerEntry>>,
) -> anyhow::Result<Report> {
    let mut reading = Reading::open(kafka, codec, audited)?;
    let progress = ProgressBar::new(orders);
    progress.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} orders ended  {elapsed_precise}")?);
    loop {
        let read = reading.step(Duration::from_millis(200))?;
        let (placed, open) = reading.audit.progress();
        progress.set_position(placed.saturating_sub(open));
        if read == 0 && placed >= orders && reading.audit.settled() {
            reading.reader.extend_to_now()?;
            if reading.reader.has_caught_up() {
                break;
            }
        }
    }
    progress.finish_and_clear();
    reading.ledger(ledger()?);
    Ok(reading.audit.report(Phase::Settled))
}

/// Prints a report.
pub(crate) fn print(report: &Report, form: Form) -> anyhow::Result<()> {
    match form {
        Form::Table => output::print(&report.to_string()),
        Form::Json => output::print_json(report),
    }
}

fn spinner(what: &str) -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template(&format!("{{spinner}} {{pos}} {what}  {{elapsed_precise}}")) {
        progress.set_style(style);
    }
    progress
}
