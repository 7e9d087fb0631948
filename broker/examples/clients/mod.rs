//! What the measuring examples ask of any broker alike, by librdkafka: a topic, and many records in it; what memory it takes;
//! and this broker as a process.

pub mod server;

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;

pub type Failure = Box<dyn std::error::Error>;

pub const PARTITIONS: i32 = 4;
pub const PAYLOAD: usize = 200;
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("retry.backoff.ms", "1");
    config
}

pub fn create(servers: &str, name: &str) -> Result<(), Failure> {
    let admin: AdminClient<DefaultClientContext> = client(servers).create()?;
    let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()))?;
    for result in results {
        result.map_err(|(name, code)| format!("{name}: {code}"))?;
    }
    Ok(())
}

/// Sends records to the partitions in turn, and waits until each is acknowledged.
pub fn send(producer: &BaseProducer, topic: &str, records: usize) -> Result<(), Failure> {
    let payload = vec![b'x'; PAYLOAD];
    for number in 0..records {
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(number as i32 % PARTITIONS).payload(&payload);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((error, back)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                    record = back;
                    producer.poll(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        if number % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    drain(producer);
    Ok(())
}

pub fn drain(producer: &BaseProducer) {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_micros(200));
    }
}

/// Resident memory of a process, MiB: now and at most (Linux).
pub fn memory(pid: u32) -> Result<(u64, u64), Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64, Failure> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such field")?;
        Ok(line.split_whitespace().next().ok_or("no number")?.parse::<u64>()? / 1024)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}
