//! Compaction loses nothing: not the latest committed value of any key, not a tombstone before its time, and least of all
//! because of a transaction that is still open or was aborted. Checked against a model, and with real clients.

mod clients;

use std::collections::BTreeMap;
use std::sync::Arc;

use clients::*;
use millrace_broker::core::batch::{self, BatchHeader, HEADER_BYTES, Records};
use millrace_broker::core::configs::Configs;
use millrace_broker::core::disk::MemoryDisk;
use millrace_broker::core::{Core, Isolation, Outcome, Settings, TopicPartition};
use millrace_broker::{Broker, BrokerConfig};
use proptest::prelude::*;
use rdkafka::producer::{BaseRecord, Producer};

const TOMBSTONE_TIME: i64 = 1000;

type Value = Option<u8>;
type Seen = (i64, u8, Value);

#[derive(Debug, Clone)]
enum Op {
    Plain(u8, Value),
    InTransaction(usize, u8, Value),
    End(usize, bool),
    Compact,
    Restart,
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let value = || prop_oneof![3 => any::<u8>().prop_map(Some), 1 => Just(None)];
    prop_oneof![
        4 => (0..5u8, value()).prop_map(|(key, value)| Op::Plain(key, value)),
        6 => (0..2usize, 0..5u8, value()).prop_map(|(p, key, value)| Op::InTransaction(p, key, value)),
        4 => (0..2usize, any::<bool>()).prop_map(|(p, commit)| Op::End(p, commit)),
        3 => Just(Op::Compact),
        1 => Just(Op::Restart),
        1 => (1..2 * TOMBSTONE_TIME).prop_map(Op::Wait),
    ]
}

/// A broker's core and what it should hold.
struct Bench {
    disk: Arc<MemoryDisk>,
    core: Core,
    now: i64,
    producers: Vec<(i64, i16, i32)>,
    open: Vec<Option<Vec<Seen>>>,
    committed: Vec<Seen>,
    /// Time at which each tombstone was written.
    buried: BTreeMap<i64, i64>,
}

impl Bench {
    fn new() -> Self {
        let disk = Arc::new(MemoryDisk::new());
        let mut core = Core::open(disk.clone(), settings(), 0).expect("opens");
        let configs = [
            ("cleanup.policy", "compact".to_owned()),
            ("segment.bytes", "1024".to_owned()),
            ("min.cleanable.dirty.ratio", "0".to_owned()),
            ("delete.retention.ms", TOMBSTONE_TIME.to_string()),
        ];
        let configs = configs.map(|(key, value)| (key.to_owned(), value));
        core.create_topic(0, "t", 1, Configs::from(configs), false).expect("created");
        let producers = (0..2).map(|number| {
            let id = format!("p{number}");
            let (id, epoch) = core.init_producer(0, Some(&id), 600_000, None).expect("a producer");
            (id, epoch, 0)
        });
        Self {
            producers: producers.collect(),
            disk,
            core,
            now: 0,
            open: vec![None, None],
            committed: Vec::new(),
            buried: BTreeMap::new(),
        }
    }

    fn append(&mut self, producer: Option<usize>, key: u8, value: Value) -> Seen {
        let bytes = value.map(|value| vec![value; 20]);
        let plain = batch::single_record(self.now, &[key], bytes.as_deref());
        let mut header = BatchHeader::parse(&plain).expect("a batch");
        if let Some(producer) = producer {
            let (id, epoch, sequence) = self.producers[producer];
            header.attributes |= 0x10;
            (header.producer_id, header.producer_epoch) = (id, epoch);
            header.base_sequence = sequence;
            self.producers[producer].2 += 1;
        }
        let bytes = batch::assemble(&header, &plain[HEADER_BYTES..]);
        let headers = batch::check_produced(&bytes).expect("valid");
        let appended = self.core.append(self.now, "t", 0, &bytes, &headers).expect("appended");
        if value.is_none() {
            self.buried.insert(appended.base_offset, self.now);
        }
        (appended.base_offset, key, value)
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Plain(key, value) => {
                let seen = self.append(None, key, value);
                self.committed.push(seen);
            }
            Op::InTransaction(number, key, value) => {
                let (producer, epoch, _) = self.producers[number];
                let at = [TopicPartition::new("t", 0)];
                let id = format!("p{number}");
                self.core.add_partitions_to_transaction(self.now, &id, producer, epoch, &at).expect("added");
                let seen = self.append(Some(number), key, value);
                self.open[number].get_or_insert_default().push(seen);
            }
            Op::End(number, commit) => {
                let Some(records) = self.open[number].take() else {
                    return;
                };
                let (producer, epoch, _) = self.producers[number];
                let outcome = if commit { Outcome::Commit } else { Outcome::Abort };
                let id = format!("p{number}");
                self.core.end_transaction(self.now, &id, producer, epoch, outcome).expect("ended");
                if commit {
                    self.committed.extend(records);
                }
            }
            Op::Compact => {
                while let Some(job) = self.core.next_compaction(self.now) {
                    let at = job.partition().clone();
                    self.core.finish_compaction(self.now, &at, job.run());
                }
            }
            Op::Restart => {
                self.core = Core::open(self.disk.clone(), settings(), self.now).expect("opens");
            }
            Op::Wait(time) => {
                self.now += time;
                // Also rotates the journal, which is small here.
                self.core.tick(self.now);
            }
        }
    }

    /// What a read-committed client makes of the partition.
    fn visible(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut offset = 0;
        loop {
            let fetched = self.core.fetch("t", 0, offset, 700, true, Isolation::ReadCommitted).expect("fetched");
            if fetched.records.is_empty() {
                return seen;
            }
            let mut rest = &fetched.records[..];
            while let Some(header) = BatchHeader::parse(rest) {
                let (batch, tail) = rest.split_at(header.length);
                assert!(batch::is_intact(batch), "checksum at {}", header.base_offset);
                rest = tail;
                offset = header.last_offset() + 1;
                let aborted = fetched.aborted.iter().any(|aborted| {
                    aborted.producer_id == header.producer_id
                        && aborted.first_offset <= header.base_offset
                        && header.base_offset < aborted.marker_offset
                });
                if header.is_control() || (header.is_transactional() && aborted) {
                    continue;
                }
                for record in Records::new(&batch[HEADER_BYTES..]) {
                    let record = record.expect("well-formed");
                    let key = record.key.expect("a key")[0];
                    let value = record.value.map(|value| value[0]);
                    seen.push((header.base_offset + record.offset_delta, key, value));
                }
            }
        }
    }

    fn check(&self) {
        let stable = self.core.latest_offset("t", 0, Isolation::ReadCommitted).expect("an offset");
        let first_open = self.open.iter().flatten().flatten().map(|seen| seen.0).min();
        let end = self.core.latest_offset("t", 0, Isolation::ReadUncommitted).expect("an offset");
        assert_eq!(stable, first_open.unwrap_or(end), "last stable offset");

        let visible = self.visible();
        assert!(visible.is_sorted_by_key(|seen| seen.0));
        for seen in &visible {
            assert!(self.committed.contains(seen), "{seen:?} was not committed");
        }
        let mut latest: BTreeMap<u8, Seen> = BTreeMap::new();
        for seen in self.committed.iter().filter(|seen| seen.0 < stable) {
            let newest = latest.entry(seen.1).or_insert(*seen);
            if seen.0 > newest.0 {
                *newest = *seen;
            }
        }
        for (key, newest) in latest {
            if visible.contains(&newest) {
                continue;
            }
            assert_eq!(newest.2, None, "{newest:?} vanished");
            let buried = self.buried[&newest.0];
            assert!(self.now - buried >= TOMBSTONE_TIME, "{newest:?} went too early");
            let older: Vec<_> = visible.iter().filter(|seen| seen.1 == key).collect();
            assert!(older.is_empty(), "{older:?} came back from the dead");
        }
    }
}

fn settings() -> Settings {
    Settings { journal_rotation_bytes: 4096, ..Settings::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_committed_value_is_lost(ops in prop::collection::vec(op(), 1..150)) {
        let mut bench = Bench::new();
        for op in &ops {
            bench.apply(op);
            if matches!(op, Op::Compact | Op::Restart) {
                bench.check();
            }
        }
        for producer in 0..2 {
            bench.apply(&Op::End(producer, true));
        }
        bench.apply(&Op::Compact);
        bench.check();
        bench.apply(&Op::Restart);
        bench.check();
    }
}

#[test]
fn the_model_sees_compaction_at_work() {
    let mut bench = Bench::new();
    for round in 0..200 {
        bench.apply(&Op::Plain(round % 3, Some(round)));
    }
    assert_eq!(bench.visible().len(), 200);
    bench.apply(&Op::Compact);
    let left = bench.visible().len();
    assert!(left < 30, "{left} of 200 are left");
    bench.check();
}

#[test]
fn a_compacted_topic_with_an_open_transaction_keeps_the_committed_value() {
    let dir = tempfile::tempdir().expect("a folder");
    let broker = block_on(Broker::start(BrokerConfig {
        data_dir: dir.path().to_owned(),
        settings: Settings { housekeeping_interval: 20, ..Settings::default() },
        ..BrokerConfig::default()
    }))
    .expect("starts");
    let servers = broker.kafka_addr().to_string();
    let configs = [("cleanup.policy", "compact"), ("segment.bytes", "1024"), ("min.cleanable.dirty.ratio", "0.01")];
    create_topic(&servers, "t", 1, &configs);
    let plain = producer(&servers);
    let open = transactional(&servers, "open");
    for round in 0..50 {
        send(&plain, "t", 0, &format!("key {}", round % 5), &format!("old {round}"));
        drain(&plain);
    }
    for number in 0..5 {
        send(&plain, "t", 0, &format!("key {number}"), &format!("kept {number}"));
        drain(&plain);
    }
    // Written later, with the same keys, but not committed.
    open.begin_transaction().expect("begun");
    for number in 0..50 {
        send(&open, "t", 0, &format!("key {}", number % 5), "open");
        drain(&open);
    }
    until("compaction", || values(&servers, "t", 0, "read_committed").len() < 20);
    let left = values(&servers, "t", 0, "read_committed");
    for number in 0..5 {
        let kept = format!("kept {number}");
        assert!(left.contains(&kept), "{kept} vanished: {left:?}");
    }
    open.abort_transaction(PATIENCE).expect("aborted");
    for number in 0..50 {
        // More segments, so that the aborted ones are compacted.
        send(&plain, "t", 0, "other", &number.to_string());
        drain(&plain);
    }
    until("aborted records are gone", || !values(&servers, "t", 0, "read_uncommitted").contains(&"open".to_owned()));
    let left = values(&servers, "t", 0, "read_committed");
    for number in 0..5 {
        assert!(left.contains(&format!("kept {number}")), "{left:?}");
    }
    // Compressed batches are taken apart and put together again.
    for codec in ["gzip", "snappy", "lz4"] {
        create_topic(&servers, codec, 1, &configs);
        let producer: rdkafka::producer::BaseProducer =
            client(&servers).set("compression.codec", codec).set("linger.ms", "20").create().expect("a producer");
        for number in 0..2000 {
            let key = format!("key {}", number % 7);
            let value = format!("{number} {}", "z".repeat(50));
            let record = BaseRecord::to(codec).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| error).expect("enqueued");
            if number % 100 == 0 {
                drain(&producer);
            }
        }
        drain(&producer);
        until(codec, || values(&servers, codec, 0, "read_committed").len() < 400);
        let left = values(&servers, codec, 0, "read_committed");
        for number in 1993..2000 {
            let prefix = format!("{number} ");
            assert!(left.iter().any(|value| value.starts_with(&prefix)), "{codec} {number}");
        }
    }
}
