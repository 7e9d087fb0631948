//! This broker and Apache Kafka in turn, each started anew for every round and never at the same time; what is compared
//! is of the same round. Whose turn comes first alternates.

use std::io::Write;
use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::clients::server::Server;
use super::clients::{self, Failure, PATIENCE, memory};
use super::node::ApacheKafka;
use super::workload::{self, percentile};

/// Apache Kafka with the memory its start script gives it at most, and with its compilers.
const JVM: &[&str] = &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"];
/// Records of each transaction.
const IN_TRANSACTION: usize = 10;

/// What is measured: name, unit, and whether more is better.
const KINDS: [(&str, &str, bool); 9] = [
    ("start on data, to the first answer", "s", false),
    ("produce", "records/s", true),
    ("consume", "records/s", true),
    ("end to end, p50", "ms", false),
    ("end to end, p99", "ms", false),
    ("transaction of 10, p50", "ms", false),
    ("its commit, p50", "ms", false),
    ("its commit, p99", "ms", false),
    ("resident memory afterwards", "MiB", false),
];

type Figures = [f64; KINDS.len()];

pub fn measure(records: usize, rounds: usize) -> Result<(), Failure> {
    let (mut ours, mut theirs): (Vec<Figures>, Vec<Figures>) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for turn in 0..2 {
            if (round + turn) % 2 == 0 {
                eprintln!(" this broker");
                ours.push(this_broker(records)?);
            } else {
                eprintln!(" Apache Kafka");
                theirs.push(apache_kafka(records)?);
            }
        }
    }
    let mut out = std::io::stdout();
    writeln!(
        out,
        "| {records} records of {} B, {rounds} rounds, medians | this broker | Apache Kafka | ratio |",
        clients::PAYLOAD
    )?;
    writeln!(out, "| --- | --- | --- | --- |")?;
    for (kind, (name, unit, more_is_better)) in KINDS.iter().enumerate() {
        let median_of = |all: &mut dyn Iterator<Item = f64>| {
            let mut all: Vec<f64> = all.collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let mine = median_of(&mut ours.iter().map(|figures| figures[kind]));
        let other = median_of(&mut theirs.iter().map(|figures| figures[kind]));
        let ratio = median_of(&mut ours.iter().zip(&theirs).map(|(ours, theirs)| ours[kind] / theirs[kind]));
        let digits = if mine >= 1000.0 {
            0
        } else if mine < 1.0 {
            3
        } else {
            2
        };
        let better = if (ratio > 1.0) == *more_is_better { "" } else { " (worse)" };
        writeln!(out, "| {name}, {unit} | {mine:.digits$} | {other:.digits$} | {ratio:.2}{better} |")?;
    }
    Ok(())
}

/// When a client has its first answer.
fn await_answer(servers: &str) -> Result<(), Failure> {
    let consumer: BaseConsumer = clients::client(servers).create()?;
    consumer.fetch_metadata(None, PATIENCE)?;
    Ok(())
}

fn this_broker(records: usize) -> Result<Figures, Failure> {
    let dir = tempfile::tempdir()?;
    drop(Server::start(dir.path())?);
    let begun = Instant::now();
    let server = Server::start(dir.path())?;
    await_answer(&server.servers)?;
    let start = begun.elapsed().as_secs_f64();
    figures(start, &server.servers, server.pid(), records)
}

fn apache_kafka(records: usize) -> Result<Figures, Failure> {
    let mut kafka = ApacheKafka::start_with(JVM).map_err(|skipped| skipped.why)?;
    kafka.stop();
    let begun = Instant::now();
    kafka.restart();
    await_answer(&kafka.bootstrap())?;
    let start = begun.elapsed().as_secs_f64();
    let pid = kafka.pid().ok_or("Apache Kafka has ended")?;
    figures(start, &kafka.bootstrap(), pid, records)
}

fn figures(start: f64, servers: &str, pid: u32, records: usize) -> Result<Figures, Failure> {
    for topic in ["warm", "t", "out", "latency"] {
        clients::create(servers, topic)?;
    }
    // A first turn that does not count: connections, coordinators, and what a compiler learns at run time.
    eprintln!("  warming up");
    workload::transactions(servers, IN_TRANSACTION)?;
    workload::produce(servers, "warm", records)?;
    eprintln!("  producing and consuming");
    let produce = workload::produce(servers, "t", records)?;
    let consume = workload::consume(servers, records)?;
    eprintln!("  end to end");
    let latency = workload::end_to_end(servers)?;
    eprintln!("  transactions");
    let transactions = workload::transactions(servers, IN_TRANSACTION)?;
    Ok([
        start,
        produce,
        consume,
        percentile(&latency, 50),
        percentile(&latency, 99),
        percentile(&transactions.whole, 50),
        percentile(&transactions.commits, 50),
        percentile(&transactions.commits, 99),
        memory(pid)?.0 as f64,
    ])
}
