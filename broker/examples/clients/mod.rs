//! What the measuring examples ask of any broker alike, by librdkafka: a topic, and many records in it.

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
