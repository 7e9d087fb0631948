//! Exactly once, under duress: three workers move records from one topic to another in transactions while some
//! transactions are aborted, some clients crash, the broker is killed again and again, segments roll and are compacted.
//!
//! The long form, with a kill for every ten thousand records:
//! `MILLRACE_SOAK_RECORDS=1000000 cargo test --release -p millrace-broker --test exactly_once -- --nocapture`.

mod clients;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clients::process::Process;
use clients::*;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

const PARTITIONS: i32 = 6;
const RECORDS: usize = 12_000;
const KILLS: usize = 4;
const BATCH: usize = 100;
/// Nothing moved for so long: something is stuck.
const STUCK: Duration = Duration::from_secs(120);
/// Most memory the broker may need, MiB, however much has gone through it.
const MEMORY_MIB: u64 = 100;

/// How many records are moved, and how often the broker is killed meanwhile.
fn size() -> (usize, usize) {
    let long = std::env::var("MILLRACE_SOAK_RECORDS").ok();
    match long.map(|records| records.parse::<usize>().expect("MILLRACE_SOAK_RECORDS is a number")) {
        Some(records) => (records / PARTITIONS as usize * PARTITIONS as usize, records / 10_000),
        None => (RECORDS, KILLS),
    }
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn percent(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % 100
    }
}

/// Counts rebalances: a batch read across one must not be committed.
#[derive(Default)]
struct Rebalances(AtomicUsize);

impl ClientContext for Rebalances {}

impl ConsumerContext for Rebalances {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, _: &Rebalance<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Soak {
    servers: String,
    done: AtomicBool,
    moved: AtomicUsize,
    aborted: AtomicUsize,
    crashed: AtomicUsize,
    kills: AtomicUsize,
}

type Worker = (BaseConsumer<Rebalances>, BaseProducer);

impl Soak {
    fn connect(&self, id: usize) -> Result<Worker, KafkaError> {
        let consumer: BaseConsumer<Rebalances> = consumer(&self.servers, "soak")
            .set("isolation.level", "read_committed")
            .create_with_context(Rebalances::default())?;
        let producer: BaseProducer =
            client(&self.servers).set("transactional.id", format!("soak-{id}")).set("linger.ms", "0").create()?;
        producer.init_transactions(PATIENCE)?;
        consumer.subscribe(&["in"])?;
        Ok((consumer, producer))
    }

    /// Works until everything is moved; a client that fails in any way is replaced.
    fn work(&self, id: usize) {
        let mut numbers = Numbers(id as u64 + 1);
        while !self.done.load(Ordering::SeqCst) {
            let Ok(worker) = self.connect(id) else {
                continue;
            };
            let mut result = Ok(true);
            while matches!(result, Ok(true)) && !self.done.load(Ordering::SeqCst) {
                result = self.step(&worker, &mut numbers);
            }
            // Whatever is open now stays open, as if the process had died.
            // Closing a consumer can wait forever in the client library, when a rebalance reaches the application after the
            // group has been left; so nobody waits for it.
            std::thread::spawn(move || drop(worker));
            self.crashed.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// One transaction; `false` is a crash in the middle of it.
    fn step(&self, (consumer, producer): &Worker, numbers: &mut Numbers) -> Result<bool, KafkaError> {
        let kills = self.kills.load(Ordering::SeqCst);
        let rebalances = consumer.context().0.load(Ordering::SeqCst);
        producer.begin_transaction()?;
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        let mut count = 0;
        while count < BATCH {
            match consumer.poll(Duration::from_millis(20)) {
                Some(Ok(message)) => {
                    let payload = message.payload().unwrap_or_default();
                    // The record is its own key, so compaction must keep every one of them.
                    let record = BaseRecord::to("out").partition(message.partition()).key(payload).payload(payload);
                    producer.send(record).map_err(|(error, _)| error)?;
                    next.insert(message.partition(), message.offset() + 1);
                    count += 1;
                }
                Some(Err(KafkaError::MessageConsumption(code))) => {
                    return Err(KafkaError::MessageConsumption(code));
                }
                Some(Err(_)) | None => break,
            }
        }
        if count > 0 && numbers.percent() < 3 {
            return Ok(false);
        }
        let moved_away = consumer.context().0.load(Ordering::SeqCst) != rebalances;
        if count == 0 || moved_away || numbers.percent() < 10 {
            deliver(producer);
            producer.abort_transaction(PATIENCE)?;
            self.aborted.fetch_add(1, Ordering::SeqCst);
            rewind(consumer)?;
            return Ok(true);
        }
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in next {
            offsets.add_partition_offset("in", partition, Offset::Offset(offset))?;
        }
        let group = consumer.group_metadata().ok_or(KafkaError::Canceled)?;
        producer.send_offsets_to_transaction(&offsets, &group, PATIENCE)?;
        deliver(producer);
        producer.commit_transaction(PATIENCE)?;
        self.moved.fetch_add(count, Ordering::SeqCst);
        // A commit that may have been repeated across a lost connection makes the producer suspect.
        Ok(self.kills.load(Ordering::SeqCst) == kills)
    }
}

/// Waits for the delivery reports: the client library ends no transaction before they are fetched.
fn deliver(producer: &BaseProducer) {
    let deadline = Instant::now() + PATIENCE;
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        producer.poll(Duration::from_micros(200));
    }
}

/// Back to the committed offsets of everything owned.
fn rewind(consumer: &BaseConsumer<Rebalances>) -> Result<(), KafkaError> {
    for element in consumer.committed(PATIENCE)?.elements() {
        let offset = match element.offset() {
            Offset::Offset(offset) => Offset::Offset(offset),
            _ => Offset::Beginning,
        };
        consumer.seek(element.topic(), element.partition(), offset, PATIENCE)?;
    }
    Ok(())
}

fn fill(servers: &str, records: usize) {
    let segment = (records * 5 / 3).to_string();
    let compacted =
        [("segment.bytes", segment.as_str()), ("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.2")];
    create_topic(servers, "in", PARTITIONS, &compacted[..1]);
    create_topic(servers, "out", PARTITIONS, &compacted);
    let source = producer(servers);
    for number in 0..records {
        let partition = (number % PARTITIONS as usize) as i32;
        send(&source, "in", partition, "k", &format!("record {number}"));
        if number % 1000 == 0 {
            drain(&source);
        }
    }
    drain(&source);
}

fn all_committed(servers: &str, records: usize) -> bool {
    (0..PARTITIONS).all(|partition| {
        let expected = records as i64 / i64::from(PARTITIONS);
        committed(servers, "soak", "in", partition) == Some(expected)
    })
}

#[test]
fn every_record_moves_exactly_once_through_aborts_crashes_and_kills() {
    let (records, kills_planned) = size();
    let dir = tempfile::tempdir().expect("a folder");
    let mut process = Process::start(dir.path(), 0);
    let servers = process.servers();
    fill(&servers, records);
    let mut memory = 0;
    let soak = Soak {
        servers: servers.clone(),
        done: AtomicBool::new(false),
        moved: AtomicUsize::new(0),
        aborted: AtomicUsize::new(0),
        crashed: AtomicUsize::new(0),
        kills: AtomicUsize::new(0),
    };
    std::thread::scope(|scope| {
        for id in 0..3 {
            let soak = &soak;
            scope.spawn(move || soak.work(id));
        }
        let mut deadline = Instant::now() + STUCK;
        let mut moved_before = 0;
        let stop = || soak.done.store(true, Ordering::SeqCst);
        loop {
            let moved = soak.moved.load(Ordering::SeqCst);
            let kills = soak.kills.load(Ordering::SeqCst);
            if moved > moved_before {
                moved_before = moved;
                deadline = Instant::now() + STUCK;
            }
            if kills < kills_planned && moved > (kills + 1) * records / (kills_planned + 2) {
                soak.kills.fetch_add(1, Ordering::SeqCst);
                memory = memory.max(process.peak_memory_mib());
                let address = process.kill();
                process = Process::start(dir.path(), address.port());
            }
            if kills == kills_planned && moved > records / 2 && all_committed(&servers, records) {
                stop();
                break;
            }
            if Instant::now() > deadline {
                stop();
                panic!("only {moved} of {records} moved, {kills} kills");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });

    // The next instance of each worker ends what its last one left open.
    for id in 0..3 {
        drop(transactional(&servers, &format!("soak-{id}")));
    }
    let mut seen: Vec<String> = Vec::new();
    for partition in 0..PARTITIONS {
        seen.extend(values(&servers, "out", partition, "read_committed"));
        let end = |isolation| {
            let reader = reader(&servers, "out", partition, isolation);
            reader.fetch_watermarks("out", partition, PATIENCE).expect("answered").1
        };
        assert_eq!(end("read_committed"), end("read_uncommitted"), "nothing is open");
    }
    let counts = counts(&seen);
    let wrong: Vec<_> = (0..records)
        .map(|number| format!("record {number}"))
        .filter(|record| counts.get(record.as_str()) != Some(&1))
        .collect();
    assert!(wrong.is_empty(), "not exactly once: {wrong:?}");
    assert_eq!(seen.len(), records);
    memory = memory.max(process.peak_memory_mib());
    let disk = bytes_in(dir.path());
    eprintln!(
        "{records} records, {kills_planned} kills, {} aborted, {} clients crashed; broker at most {memory} MiB, {} KiB on disk",
        soak.aborted.load(Ordering::SeqCst),
        soak.crashed.load(Ordering::SeqCst),
        disk >> 10
    );
    assert!(memory < MEMORY_MIB, "{memory} MiB");
    // Two topics with everything, and what was aborted since the last compaction.
    assert!(disk < 1000 * records as u64 + (32 << 20), "{disk} bytes on disk");
    // The run was as hard as it claims to be.
    assert_eq!(soak.kills.load(Ordering::SeqCst), kills_planned);
    assert!(soak.aborted.load(Ordering::SeqCst) > 0);
    assert!(soak.crashed.load(Ordering::SeqCst) > 3);
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry"));
    let sizes = entries.map(|entry| {
        let metadata = entry.metadata().expect("metadata");
        if metadata.is_dir() { bytes_in(&entry.path()) } else { metadata.len() }
    });
    sizes.sum()
}
