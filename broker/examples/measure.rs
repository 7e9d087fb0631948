//! Measures a broker in a process of its own (the example `serve`, built the same way) with real clients: produce, consume,
//! transactions, resident memory. `measure [RECORDS]`; results go to standard output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

type Failure = Box<dyn std::error::Error>;

const PARTITIONS: i32 = 4;
const PAYLOAD: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Failure> {
    let records: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let serve = std::env::current_exe()?.with_file_name("serve");
    let mut child = Command::new(serve).arg(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let result = measure(&mut child, records);
    child.kill()?;
    child.wait()?;
    result
}

fn measure(child: &mut Child, records: usize) -> Result<(), Failure> {
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let addresses: serde_json::Value = serde_json::from_str(&line)?;
    let servers = addresses["kafka"].as_str().ok_or("no address")?.to_owned();
    let mut out = std::io::stdout();
    let pid = child.id();
    writeln!(out, "idle: {} MiB resident", resident(pid)?)?;

    create(&servers, "t")?;
    create(&servers, "out")?;
    let cpu = cpu_seconds(pid)?;
    let rate = produce(&servers, records)?;
    writeln!(
        out,
        "produce: {rate:.0} records/s of {PAYLOAD} B, broker {:.2} CPU s per million",
        (cpu_seconds(pid)? - cpu) * 1e6 / records as f64
    )?;
    let cpu = cpu_seconds(pid)?;
    let rate = consume(&servers, records)?;
    writeln!(
        out,
        "consume: {rate:.0} records/s, broker {:.2} CPU s per million",
        (cpu_seconds(pid)? - cpu) * 1e6 / records as f64
    )?;
    writeln!(out, "after {records} records: {} MiB resident", resident(pid)?)?;

    for count in [1, 10, 200, 1000] {
        let cpu = cpu_seconds(pid)?;
        let (rounds, mut times, mut commits, elapsed) = transactions(&servers, count)?;
        times.sort();
        commits.sort();
        let at = |times: &[Duration], q: usize| times[times.len() * q / 100].as_secs_f64() * 1e3;
        writeln!(
            out,
            "transaction of {count}: {:.2} / {:.2} ms (p50 / p99), commit alone {:.2} / {:.2} ms, {:.0}/s, broker {:.2} CPU ms each",
            at(&times, 50),
            at(&times, 99),
            at(&commits, 50),
            at(&commits, 99),
            rounds as f64 / elapsed.as_secs_f64(),
            (cpu_seconds(pid)? - cpu) * 1e3 / rounds as f64
        )?;
    }
    writeln!(out, "at the end: {} MiB resident", resident(pid)?)?;
    Ok(())
}

fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("retry.backoff.ms", "1");
    config
}

fn create(servers: &str, name: &str) -> Result<(), Failure> {
    let admin: AdminClient<DefaultClientContext> = client(servers).create()?;
    let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new()))?;
    for result in results {
        result.map_err(|(name, code)| format!("{name}: {code}"))?;
    }
    Ok(())
}

fn produce(servers: &str, records: usize) -> Result<f64, Failure> {
    let producer: BaseProducer = client(servers)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "500000")
        .create()?;
    let payload = vec![b'x'; PAYLOAD];
    let started = Instant::now();
    for number in 0..records {
        let mut record = BaseRecord::<(), [u8]>::to("t").partition(number as i32 % PARTITIONS).payload(&payload);
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
    drain(&producer);
    Ok(records as f64 / started.elapsed().as_secs_f64())
}

fn drain(producer: &BaseProducer) {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_micros(200));
    }
}

fn consume(servers: &str, records: usize) -> Result<f64, Failure> {
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

type Times = (usize, Vec<Duration>, Vec<Duration>, Duration);

/// Produce, send offsets, commit, again and again for five seconds.
fn transactions(servers: &str, count: usize) -> Result<Times, Failure> {
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
    Ok((times.len(), times, commits, started.elapsed()))
}

/// Resident memory of a process, MiB (Linux).
fn resident(pid: u32) -> Result<u64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.ok_or("no VmRSS")?.parse::<u64>()? / 1024)
}

/// Processor time a process has used, in steps of 10 ms (Linux).
fn cpu_seconds(pid: u32) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("no stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
