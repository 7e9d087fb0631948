//! What is asked of a broker, by librdkafka, and what it takes of its process. The same for every broker.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::clients::{Failure, PARTITIONS, PATIENCE, PAYLOAD, client, drain, send};

/// Produces to a topic; records per second.
pub fn produce(servers: &str, topic: &str, records: usize) -> Result<f64, Failure> {
    let producer: BaseProducer = client(servers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "500000")
        .create()?;
    let started = Instant::now();
    send(&producer, topic, records)?;
    Ok(records as f64 / started.elapsed().as_secs_f64())
}

/// Reads all of `t`; records per second.
pub fn consume(servers: &str, records: usize) -> Result<f64, Failure> {
    let consumer: BaseConsumer = client(servers)
        .set("group.id", "measure")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "50")
        .set("queued.min.messages", "1000000")
        .create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset("t", partition, Offset::Beginning)?;
    }
    let started = Instant::now();
    consumer.assign(&all)?;
    let mut read = 0;
    while read < records {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            message?;
            read += 1;
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("only {read} of {records} read").into());
        }
    }
    Ok(records as f64 / started.elapsed().as_secs_f64())
}

/// What transactions took, sorted.
pub struct Transactions {
    /// Each as a whole.
    pub whole: Vec<Duration>,
    /// The commit of each.
    pub commits: Vec<Duration>,
    /// All of them together.
    pub elapsed: Duration,
}

/// The time that so many of a hundred do not exceed, milliseconds.
pub fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)].as_secs_f64() * 1e3
}

/// From sending a record to having it read, two hundred of them a second, sorted.
pub fn end_to_end(servers: &str) -> Result<Vec<Duration>, Failure> {
    const RECORDS: usize = 1_000;
    let consumer: BaseConsumer = client(servers).set("group.id", "measure").set("fetch.wait.max.ms", "100").create()?;
    let mut all = TopicPartitionList::new();
    all.add_partition_offset("latency", 0, Offset::Beginning)?;
    consumer.assign(&all)?;
    let producer: BaseProducer = client(servers).set("enable.idempotence", "true").set("linger.ms", "0").create()?;
    let begun = Instant::now();
    let mut times = Vec::with_capacity(RECORDS);
    for number in 0..RECORDS {
        let due = begun + Duration::from_millis(5) * number as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let payload = vec![number as u8; PAYLOAD];
        let sent = Instant::now();
        let record = BaseRecord::<(), [u8]>::to("latency").partition(0).payload(&payload);
        producer.send(record).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
        // A poll may end early, and with nothing: for an offset that was committed, for example.
        let message = loop {
            if let Some(message) = consumer.poll(PATIENCE) {
                break message?;
            }
            if sent.elapsed() > PATIENCE {
                let waiting = producer.in_flight_count();
                return Err(format!("record {number} did not arrive; {waiting} are not acknowledged").into());
            }
        };
        if message.payload() != Some(&payload) {
            return Err("another record arrived".into());
        }
        times.push(sent.elapsed());
    }
    // The first ones wait for connections.
    times.drain(..RECORDS / 10);
    times.sort();
    Ok(times)
}

/// Produce, send offsets, commit, again and again for five seconds.
pub fn transactions(servers: &str, count: usize) -> Result<Transactions, Failure> {
    let consumer: BaseConsumer = client(servers).set("group.id", "measure").create()?;
    let group = consumer.group_metadata().ok_or("no group")?;
    let producer: BaseProducer = client(servers).set("transactional.id", "measure").set("linger.ms", "0").create()?;
    producer.init_transactions(PATIENCE)?;
    let payload = vec![b'x'; PAYLOAD];
    let (mut times, mut commits) = (Vec::new(), Vec::new());
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let begun = Instant::now();
        producer.begin_transaction()?;
        for number in 0..count {
            let record = BaseRecord::<(), [u8]>::to("out").partition(number as i32 % PARTITIONS).payload(&payload);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset("t", 0, Offset::Offset(times.len() as i64))?;
        producer.send_offsets_to_transaction(&offsets, &group, PATIENCE)?;
        drain(&producer);
        let committing = Instant::now();
        producer.commit_transaction(PATIENCE)?;
        commits.push(committing.elapsed());
        times.push(begun.elapsed());
    }
    let elapsed = started.elapsed();
    times.sort();
    commits.sort();
    Ok(Transactions { whole: times, commits, elapsed })
}

/// Processor time a process has used, in steps of 10 ms (Linux).
pub fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("no stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
