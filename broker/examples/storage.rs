//! Writes many records with a client, then measures how long a start takes and what it needs: after a clean stop, and after
//! `kill -9` of the example `serve` (built the same way). `storage [RECORDS [BATCH]]`, 10 million records of 200 B in
//! batches of 20 unless told otherwise; results go to standard output.

mod clients;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::BaseProducer;
use rdkafka::{Offset, TopicPartitionList};

use clients::{Failure, PARTITIONS, PATIENCE, PAYLOAD, client, create, send};

struct Server {
    child: Child,
    servers: String,
    took: Duration,
}

impl Server {
    fn start(dir: &Path) -> Result<Self, Failure> {
        let serve = std::env::current_exe()?.with_file_name("serve");
        let begun = Instant::now();
        let mut child = Command::new(serve).arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let took = begun.elapsed();
        let addresses: serde_json::Value = serde_json::from_str(&line)?;
        let servers = addresses["kafka"].as_str().ok_or("no address")?.to_owned();
        Ok(Self { child, servers, took })
    }

    fn stop(mut self) -> Result<(), Failure> {
        drop(self.child.stdin.take());
        self.child.wait()?;
        Ok(())
    }

    fn kill(mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Resident memory, MiB: now and at most (Linux).
    fn memory(&self) -> Result<(u64, u64), Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> Result<u64, Failure> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field")?;
            Ok(line.split_whitespace().next().ok_or("no number")?.parse::<u64>()? / 1024)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let records: usize = arguments.next().map_or(Ok(10_000_000), |number| number.parse())?;
    let batch: usize = arguments.next().map_or(Ok(20), |number| number.parse())?;
    let dir = tempfile::tempdir()?;
    let mut out = std::io::stdout();
    let server = Server::start(dir.path())?;
    create(&server.servers, "t")?;
    produce(&server.servers, records, batch)?;
    let (now, most) = server.memory()?;
    writeln!(out, "{records} records of {PAYLOAD} B in batches of {batch}: {now} MiB resident, at most {most}")?;
    server.kill()?;
    for how in ["kill -9", "kill -9 once more", "kill -9 at rest", "clean stop"] {
        let server = Server::start(dir.path())?;
        let (now, most) = server.memory()?;
        writeln!(out, "start after {how}: {:.3} s, {now} MiB resident, at most {most}", server.took.as_secs_f64())?;
        if how == "kill -9" {
            // A tail for the next one to verify.
            produce(&server.servers, records / 100, batch)?;
        }
        if how == "kill -9 at rest" { server.stop()? } else { server.kill()? }
    }
    let server = Server::start(dir.path())?;
    let read = consume(&server.servers)?;
    let (now, most) = server.memory()?;
    writeln!(out, "read from the beginning: {read} records, {now} MiB resident, at most {most}")?;
    server.stop()?;
    if read != records + records / 100 {
        return Err(format!("{read} records were read").into());
    }
    Ok(())
}

fn produce(servers: &str, records: usize, batch: usize) -> Result<(), Failure> {
    let producer: BaseProducer = client(servers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("batch.num.messages", batch.to_string())
        .set("queue.buffering.max.messages", "500000")
        .create()?;
    send(&producer, "t", records)
}

fn consume(servers: &str) -> Result<usize, Failure> {
    let consumer: BaseConsumer = client(servers)
        .set("group.id", "storage")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset("t", partition, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut read, mut ends) = (0, 0);
    let mut last = Instant::now();
    while ends < PARTITIONS {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                if message.payload().map_or(0, <[u8]>::len) != PAYLOAD {
                    return Err(format!("broken record at {}", message.offset()).into());
                }
                read += 1;
                last = Instant::now();
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(error)) => return Err(error.into()),
            None if last.elapsed() > PATIENCE => return Err(format!("only {read} read").into()),
            None => {}
        }
    }
    Ok(read)
}
