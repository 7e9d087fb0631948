//! Measures a broker in a process of its own (the example `serve`, built the same way) with real clients: produce, consume,
//! latency, transactions, start, resident memory. Results go to standard output.
//!
//! `measure [RECORDS]` measures this broker alone. `measure --beside-kafka [RECORDS [ROUNDS]]` measures it and Apache Kafka
//! in turn, on the same machine with the same client and the same settings, and prints the medians and their ratios. That
//! needs Java 17 and what `setup/kafka.sh` fetches.

mod beside;
mod workload;

#[path = "../clients/mod.rs"]
mod clients;
#[path = "../../../tests/kafka/node.rs"]
mod node;

use std::io::Write;

use clients::server::Server;
use clients::{Failure, PAYLOAD, memory};
use workload::{cpu_seconds, percentile};

fn main() -> Result<(), Failure> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let beside_kafka = arguments.first().is_some_and(|first| first == "--beside-kafka");
    if beside_kafka {
        arguments.remove(0);
    }
    let number = |at: usize, otherwise| arguments.get(at).map_or(Ok(otherwise), |text| text.parse::<usize>());
    if beside_kafka {
        return beside::measure(number(0, 500_000)?, number(1, 5)?);
    }
    let dir = tempfile::tempdir()?;
    alone(&Server::start(dir.path())?, number(0, 1_000_000)?)
}

fn alone(server: &Server, records: usize) -> Result<(), Failure> {
    let (servers, pid) = (server.servers.as_str(), server.pid());
    let mut out = std::io::stdout();
    writeln!(out, "idle: {} MiB resident", memory(pid)?.0)?;
    clients::create(servers, "t")?;
    clients::create(servers, "out")?;
    let cpu = cpu_seconds(pid)?;
    let rate = workload::produce(servers, "t", records)?;
    let spent = (cpu_seconds(pid)? - cpu) * 1e6 / records as f64;
    writeln!(out, "produce: {rate:.0} records/s of {PAYLOAD} B, broker {spent:.2} CPU s per million")?;
    let cpu = cpu_seconds(pid)?;
    let rate = workload::consume(servers, records)?;
    let spent = (cpu_seconds(pid)? - cpu) * 1e6 / records as f64;
    writeln!(out, "consume: {rate:.0} records/s, broker {spent:.2} CPU s per million")?;
    writeln!(out, "after {records} records: {} MiB resident", memory(pid)?.0)?;

    for count in [1, 10, 200, 1000] {
        let cpu = cpu_seconds(pid)?;
        let done = workload::transactions(servers, count)?;
        let rounds = done.whole.len() as f64;
        writeln!(
            out,
            "transaction of {count}: {:.2} / {:.2} ms (p50 / p99), commit alone {:.2} / {:.2} ms, {:.0}/s, broker {:.2} CPU ms each",
            percentile(&done.whole, 50),
            percentile(&done.whole, 99),
            percentile(&done.commits, 50),
            percentile(&done.commits, 99),
            rounds / done.elapsed.as_secs_f64(),
            (cpu_seconds(pid)? - cpu) * 1e3 / rounds
        )?;
    }
    writeln!(out, "at the end: {} MiB resident", memory(pid)?.0)?;
    Ok(())
}
