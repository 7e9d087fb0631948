//! Writes many records with a client, then measures how long a start takes and what it needs: after a clean stop, and after
//! `kill -9` of the example `serve` (built the same way). `storage [RECORDS [BATCH]]`, 10 million records of 200 B in
//! batches of 20 unless told otherwise; results go to standard output.

mod clients;

use std::io::Write;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::BaseProducer;
use rdkafka::{Offset, TopicPartitionList};

use clients::server::Server;
use clients::{Failure, PARTITIONS, PATIENCE, PAYLOAD, client, create, memory, send};

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let records: usize = arguments.next().map_or(Ok(10_000_000), |number| number.parse())?;
    let batch: usize = arguments.next().map_or(Ok(20), |number| number.parse())?;
    let dir = tempfile::tempdir()?;
    let mut out = std::io::stdout();
    let mut server = Server::start(dir.path())?;
    create(&server.servers, "t")?;
    produce(&server.servers, records, batch)?;
    let (now, most) = memory(server.pid())?;
    writeln!(out, "{records} records of {PAYLOAD} B in batches of {batch}: {now} MiB resident, at most {most}")?;
    server.child.kill()?;
    drop(server);
    for how in ["kill -9", "kill -9 once more", "kill -9 at rest", "clean stop"] {
        let begun = Instant::now();
        let mut server = Server::start(dir.path())?;
        let took = begun.elapsed();
        let (now, most) = memory(server.pid())?;
        writeln!(out, "start after {how}: {:.3} s, {now} MiB resident, at most {most}", took.as_secs_f64())?;
        if how == "kill -9" {
            // A tail for the next one to verify.
            produce(&server.servers, records / 100, batch)?;
        }
        // Else it is stopped, as it goes.
        if how != "kill -9 at rest" {
            server.child.kill()?;
        }
    }
    let server = Server::start(dir.path())?;
    let read = consume(&server.servers)?;
    let (now, most) = memory(server.pid())?;
    writeln!(out, "read from the beginning: {read} records, {now} MiB resident, at most {most}")?;
    drop(server);
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
