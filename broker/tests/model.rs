//! The core against a naive model, through random requests and deaths at any write: two topics, one compacted and one
//! with retention, written by an idempotent producer and by transactions that span both and carry a group's offset. The
//! client repeats what was not acknowledged; whatever was acknowledged must hold, whatever happened since.

mod core_bench;

use std::collections::BTreeMap;
use std::sync::Arc;

use core_bench::batch as record;
use core_bench::crash_disk::{CrashDisk, Death};
use millrace_broker::core::batch::{self, BatchHeader, HEADER_BYTES, Records};
use millrace_broker::core::configs::Configs;
use millrace_broker::core::journal::CommittedOffset;
use millrace_broker::core::{
    CommitAs, Core, Durability, ErrorCode, FetchedOffset, Isolation, Outcome, Settings, TopicPartition,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

const TOPICS: [&str; 2] = ["compacted", "retained"];
const COMPACTED: usize = 0;
const TOMBSTONE_TIME: i64 = 1000;
const RETAINED_BYTES: usize = 3000;

#[derive(Debug, Clone)]
enum Op {
    Plain { topic: usize, key: u8, tombstone: bool },
    InTransaction { producer: usize, topic: usize, key: u8, tombstone: bool },
    Offset { producer: usize },
    End { producer: usize, commit: bool },
    Restart { producer: usize },
    Compact,
    Snapshot,
    Wait { time: i64 },
    DeleteRecords { percent: u8 },
    Die { after: u64 },
    Stop,
}

fn op() -> impl Strategy<Value = Op> {
    let producer = 0..2usize;
    prop_oneof![
        8 => (0..2usize, 0..5u8, prop::bool::weighted(0.2))
            .prop_map(|(topic, key, tombstone)| Op::Plain { topic, key, tombstone }),
        10 => (producer.clone(), 0..2usize, 0..5u8, prop::bool::weighted(0.2))
            .prop_map(|(producer, topic, key, tombstone)| Op::InTransaction { producer, topic, key, tombstone }),
        2 => producer.clone().prop_map(|producer| Op::Offset { producer }),
        5 => (producer.clone(), any::<bool>()).prop_map(|(producer, commit)| Op::End { producer, commit }),
        1 => producer.prop_map(|producer| Op::Restart { producer }),
        3 => Just(Op::Compact),
        3 => Just(Op::Snapshot),
        2 => (1..2 * TOMBSTONE_TIME).prop_map(|time| Op::Wait { time }),
        1 => (0..=100u8).prop_map(|percent| Op::DeleteRecords { percent }),
        5 => (0..25u64).prop_map(|after| Op::Die { after }),
        1 => Just(Op::Stop),
    ]
}

/// A record that was acknowledged, or will be committed with its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    offset: i64,
    key: u8,
    /// `None` for a tombstone.
    id: Option<u32>,
}

#[derive(Default)]
struct Producer {
    id: i64,
    epoch: i16,
    sequences: [i32; 2],
    open: [Vec<Seen>; 2],
    is_open: bool,
    offset: Option<i64>,
}

struct Bench {
    disk: Arc<CrashDisk>,
    settings: Settings,
    death: Death,
    core: Core,
    now: i64,
    next_id: u32,
    plain: Producer,
    producers: Vec<Producer>,
    committed: [Vec<Seen>; 2],
    buried: BTreeMap<(usize, i64), i64>,
    group_offset: Option<i64>,
    deleted_to: i64,
    deaths: usize,
}

fn settings(durability: Durability) -> Settings {
    Settings {
        durability,
        journal_rotation_bytes: 2048,
        max_recovery_bytes: 600,
        compaction_keys: 2,
        retention_interval: 500,
        max_transaction_timeout: i64::MAX / 4,
        ..Settings::DEFAULT
    }
}

fn create_topics(core: &mut Core) -> Result<(), ErrorCode> {
    let configs = |all: &[(&str, String)]| -> Configs {
        all.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    };
    let compacted = configs(&[
        ("cleanup.policy", "compact".to_owned()),
        ("segment.bytes", "1024".to_owned()),
        ("min.cleanable.dirty.ratio", "0".to_owned()),
        ("delete.retention.ms", TOMBSTONE_TIME.to_string()),
    ]);
    let retained = configs(&[
        ("segment.bytes", "1024".to_owned()),
        ("retention.ms", "-1".to_owned()),
        ("retention.bytes", RETAINED_BYTES.to_string()),
    ]);
    for (name, configs) in [(TOPICS[0], compacted), (TOPICS[1], retained)] {
        core.create_topic(0, name, 1, configs, false).map_err(|refusal| refusal.code)?;
    }
    Ok(())
}

impl Bench {
    fn new(disk: CrashDisk, durability: Durability, death: Death) -> Self {
        let disk = Arc::new(disk);
        let settings = settings(durability);
        let mut core = Core::open(disk.clone(), settings, 0).expect("opens");
        create_topics(&mut core).expect("created");
        let (id, epoch) = core.init_producer(0, None, 0, None).expect("a producer");
        let mut bench = Self {
            disk,
            settings,
            death,
            core,
            now: 0,
            next_id: 0,
            plain: Producer { id, epoch, ..Producer::default() },
            producers: Vec::new(),
            committed: Default::default(),
            buried: BTreeMap::new(),
            group_offset: None,
            deleted_to: 0,
            deaths: 0,
        };
        for number in 0..2 {
            bench.producers.push(Producer::default());
            bench.init(number);
        }
        bench
    }

    /// Brings everything to disk that must be there before an acknowledgement; `false` if the disk died.
    fn settle(&mut self) -> bool {
        while let Some(job) = self.core.next_sync() {
            let result = job.run();
            self.core.finish_sync(self.now, job.round(), result);
        }
        !self.disk.is_dead()
    }

    fn reopen(&mut self) {
        self.deaths += 1;
        self.disk.revive(self.death);
        self.core = Core::open(self.disk.clone(), self.settings, self.now).expect("opens after a death");
    }

    /// Asks until it is acknowledged, through deaths of the disk, as a client does.
    fn ask<R>(&mut self, mut request: impl FnMut(&mut Core, i64) -> Result<R, ErrorCode>) -> Result<R, ErrorCode> {
        for _ in 0..20 {
            let result = request(&mut self.core, self.now);
            if !self.settle() {
                self.reopen();
                continue;
            }
            match result {
                Err(ErrorCode::ConcurrentTransactions) => self.core.tick(self.now),
                other => return other,
            }
        }
        panic!("asked twenty times");
    }

    fn init(&mut self, number: usize) {
        let id = format!("p{number}");
        let (producer, epoch) =
            self.ask(|core, now| core.init_producer(now, Some(&id), i64::MAX / 8, None)).expect("a producer");
        self.producers[number] = Producer { id: producer, epoch, ..Producer::default() };
    }

    fn append(&mut self, producer: Option<usize>, topic: usize, key: u8, tombstone: bool) -> Seen {
        let id = (!tombstone).then_some(self.next_id);
        self.next_id += 1;
        let writer = producer.map_or(&self.plain, |number| &self.producers[number]);
        let identity = (writer.id, writer.epoch, writer.sequences[topic]);
        let bytes = match id {
            Some(id) => record(
                self.now,
                &[key],
                &[id.to_be_bytes(), [0; 4], [0; 4]].concat(),
                Some(identity),
                producer.is_some(),
            ),
            None => tombstone_record(self.now, key, identity, producer.is_some()),
        };
        let headers = batch::check_produced(&bytes).expect("valid");
        let appended = self.ask(|core, now| {
            if let Some(number) = producer {
                let at = [TopicPartition::new(TOPICS[topic], 0)];
                core.add_partitions_to_transaction(now, &format!("p{number}"), identity.0, identity.1, &at)?;
            }
            core.append(now, TOPICS[topic], 0, &bytes, &headers)
        });
        let offset = appended.expect("appended").base_offset;
        let writer = producer.map_or(&mut self.plain, |number| &mut self.producers[number]);
        writer.sequences[topic] += 1;
        if tombstone {
            self.buried.insert((topic, offset), self.now);
        }
        Seen { offset, key, id }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Plain { topic, key, tombstone } => {
                let seen = self.append(None, topic, key, tombstone);
                self.committed[topic].push(seen);
            }
            Op::InTransaction { producer, topic, key, tombstone } => {
                let seen = self.append(Some(producer), topic, key, tombstone);
                self.producers[producer].open[topic].push(seen);
                self.producers[producer].is_open = true;
            }
            Op::Offset { producer } => {
                let (id, epoch) = (self.producers[producer].id, self.producers[producer].epoch);
                let offset = i64::from(self.next_id);
                let name = format!("p{producer}");
                self.ask(|core, now| {
                    core.add_group_to_transaction(now, &name, id, epoch, "g")?;
                    let committed = CommittedOffset { offset, leader_epoch: -1, metadata: String::new() };
                    let offsets = vec![(TopicPartition::new(TOPICS[0], 0), committed)];
                    let who = CommitAs { generation: -1, ..CommitAs::default() };
                    core.commit_in_transaction(&name, id, epoch, "g", &who, offsets)
                })
                .expect("offsets taken");
                self.producers[producer].is_open = true;
                self.producers[producer].offset = Some(offset);
            }
            Op::End { producer, commit } => {
                if !self.producers[producer].is_open {
                    return;
                }
                let (id, epoch) = (self.producers[producer].id, self.producers[producer].epoch);
                let outcome = if commit { Outcome::Commit } else { Outcome::Abort };
                let name = format!("p{producer}");
                self.ask(|core, now| core.end_transaction(now, &name, id, epoch, outcome)).expect("ended");
                self.close(producer, commit);
            }
            Op::Restart { producer } => {
                // A new instance of the client: what was open is aborted.
                self.init(producer);
            }
            Op::Compact => {
                while let Some(job) = self.core.next_compaction(self.now) {
                    let at = job.partition().clone();
                    let result = job.run();
                    let failed = result.is_err();
                    self.core.finish_compaction(self.now, &at, result);
                    if failed {
                        break;
                    }
                }
            }
            Op::Snapshot => {
                while let Some(job) = self.core.next_snapshot() {
                    let at = job.partition().clone();
                    let result = job.run();
                    let failed = result.is_err();
                    self.core.finish_snapshot(&at, result);
                    if failed {
                        break;
                    }
                }
            }
            Op::Wait { time } => {
                self.now += time;
                self.core.tick(self.now);
            }
            Op::DeleteRecords { percent } => {
                let topic = TOPICS[1];
                let start = self.ask(|core, _| core.earliest_offset(topic, 0)).expect("a start");
                let stable =
                    self.ask(|core, _| core.latest_offset(topic, 0, Isolation::ReadCommitted)).expect("an end");
                let to = start + (stable - start) * i64::from(percent) / 100;
                // Retention may have come further when this is asked again.
                let result = self.ask(|core, _| core.delete_records(topic, 0, to)).expect("deleted");
                assert!(result >= to);
                self.deleted_to = self.deleted_to.max(to);
            }
            Op::Die { after } => self.disk.die_after(after),
            Op::Stop => {
                while let Some(job) = self.core.next_snapshot_before_stop() {
                    let at = job.partition().clone();
                    let result = job.run();
                    let failed = result.is_err();
                    self.core.finish_snapshot(&at, result);
                    if failed {
                        break;
                    }
                }
                self.settle();
                self.reopen();
            }
        }
        if !self.settle() {
            self.reopen();
            self.check();
        }
    }

    fn close(&mut self, producer: usize, commit: bool) {
        let producer = &mut self.producers[producer];
        producer.is_open = false;
        let open = std::mem::take(&mut producer.open);
        let offset = producer.offset.take();
        if commit {
            for (topic, records) in open.into_iter().enumerate() {
                self.committed[topic].extend(records);
            }
            self.group_offset = offset.or(self.group_offset);
        }
    }

    /// What a read-committed client makes of a topic.
    fn visible(&self, topic: usize) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut offset = self.core.earliest_offset(TOPICS[topic], 0).expect("a start");
        loop {
            let fetched =
                self.core.fetch(TOPICS[topic], 0, offset, 700, true, Isolation::ReadCommitted).expect("fetched");
            if fetched.records.is_empty() {
                return seen;
            }
            let mut rest = &fetched.records[..];
            // As clients do: from the first offset of an aborted transaction to the producer's next abort marker.
            let mut to_come = fetched.aborted.clone();
            to_come.sort_by_key(|aborted| aborted.first_offset);
            let mut aborting: Vec<i64> = Vec::new();
            while let Some(header) = BatchHeader::parse(rest) {
                let (whole, tail) = rest.split_at(header.length);
                assert!(batch::is_intact(whole), "checksum at {}", header.base_offset);
                rest = tail;
                let first = offset;
                offset = header.last_offset() + 1;
                while to_come.first().is_some_and(|aborted| aborted.first_offset <= header.last_offset()) {
                    aborting.push(to_come.remove(0).producer_id);
                }
                if header.is_control() {
                    if batch::marker_commits(whole) == Some(false) {
                        aborting.retain(|producer| *producer != header.producer_id);
                    }
                    continue;
                }
                if header.is_transactional() && aborting.contains(&header.producer_id) {
                    continue;
                }
                for record in Records::new(&whole[HEADER_BYTES..]) {
                    let record = record.expect("well-formed");
                    let id = record.value.map(|value| u32::from_be_bytes(value[..4].try_into().expect("an id")));
                    let at = header.base_offset + record.offset_delta;
                    if at >= first {
                        seen.push(Seen { offset: at, key: record.key.expect("a key")[0], id });
                    }
                }
            }
        }
    }

    fn check(&self) {
        // Reading writes an index that is missing; looking must not kill.
        self.disk.spare();
        for (topic, name) in TOPICS.iter().enumerate() {
            let stable = self.core.latest_offset(name, 0, Isolation::ReadCommitted).expect("an offset");
            let end = self.core.latest_offset(name, 0, Isolation::ReadUncommitted).expect("an offset");
            let start = self.core.earliest_offset(name, 0).expect("an offset");
            let open = self.producers.iter().flat_map(|producer| &producer.open[topic]).map(|seen| seen.offset).min();
            assert_eq!(stable, open.unwrap_or(end), "{name}: last stable offset of {end}");
            let visible = self.visible(topic);
            assert!(visible.is_sorted_by(|a, b| a.offset < b.offset), "{name}");
            for seen in &visible {
                assert!(self.committed[topic].contains(seen), "{name}: {seen:?} was not committed");
            }
            let expected: Vec<Seen> =
                self.committed[topic].iter().copied().filter(|seen| seen.offset < stable).collect();
            if topic == COMPACTED {
                self.check_compacted(&visible, &expected);
                continue;
            }
            assert!(start >= self.deleted_to && start <= stable, "{name}: {} <= {start} <= {stable}", self.deleted_to);
            for seen in expected.iter().filter(|seen| seen.offset >= start) {
                assert!(visible.contains(seen), "{name}: {seen:?} vanished");
            }
        }
        let stored = self.core.fetch_offset("g", &TopicPartition::new(TOPICS[0], 0), false);
        let stored = match stored {
            FetchedOffset::Committed(offset) => Some(offset.offset),
            _ => None,
        };
        assert_eq!(stored, self.group_offset, "the group's offset");
    }

    fn check_compacted(&self, visible: &[Seen], expected: &[Seen]) {
        let mut latest: BTreeMap<u8, Seen> = BTreeMap::new();
        for seen in expected {
            let newest = latest.entry(seen.key).or_insert(*seen);
            if seen.offset > newest.offset {
                *newest = *seen;
            }
        }
        for (key, newest) in latest {
            if visible.contains(&newest) {
                continue;
            }
            assert_eq!(newest.id, None, "{newest:?} vanished");
            let buried = self.buried[&(COMPACTED, newest.offset)];
            assert!(self.now - buried >= TOMBSTONE_TIME, "{newest:?} went too early");
            let older: Vec<_> = visible.iter().filter(|seen| seen.key == key).collect();
            assert!(older.is_empty(), "{older:?} came back from the dead");
        }
    }

    /// Ends everything and looks once more.
    fn finish(mut self) -> usize {
        for producer in 0..2 {
            self.apply(&Op::End { producer, commit: true });
        }
        self.apply(&Op::Compact);
        self.check();
        self.apply(&Op::Stop);
        self.check();
        for name in TOPICS {
            let stable = self.core.latest_offset(name, 0, Isolation::ReadCommitted).expect("an offset");
            assert_eq!(self.core.latest_offset(name, 0, Isolation::ReadUncommitted), Ok(stable), "nothing is open");
        }
        self.deaths
    }
}

fn tombstone_record(now: i64, key: u8, (id, epoch, sequence): (i64, i16, i32), transactional: bool) -> Vec<u8> {
    let plain = batch::single_record(now, &[key], None);
    let mut header = BatchHeader::parse(&plain).expect("a batch");
    (header.producer_id, header.producer_epoch, header.base_sequence) = (id, epoch, sequence);
    header.attributes |= if transactional { 0x10 } else { 0 };
    batch::assemble(&header, &plain[HEADER_BYTES..])
}

fn run(ops: &[Op], disk: CrashDisk, durability: Durability, death: Death) -> usize {
    let mut bench = Bench::new(disk, durability, death);
    for op in ops {
        bench.apply(op);
    }
    bench.finish()
}

fn ops() -> impl Strategy<Value = (u64, Vec<Op>)> {
    (any::<u64>(), prop::collection::vec(op(), 1..150))
}

fn cases(cases: u32) -> Config {
    Config { cases, ..Config::default() }
}

proptest! {
    #![proptest_config(cases(250))]

    #[test]
    fn what_was_acknowledged_survives_the_death_of_the_process((seed, ops) in ops()) {
        run(&ops, CrashDisk::new(seed), Durability::Process, Death::Process);
    }

    #[test]
    fn what_was_acknowledged_survives_a_power_cut((seed, ops) in ops()) {
        run(&ops, CrashDisk::new(seed), Durability::Power, Death::Power);
    }
}

/// Whether random runs find a defect that `plant` puts into the disk.
fn is_found(durability: Durability, death: Death, plant: fn(&CrashDisk)) -> bool {
    let config = Config { failure_persistence: None, max_shrink_iters: 0, ..cases(400) };
    let result = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    )
    .run(&ops(), |(seed, ops)| {
        let disk = CrashDisk::new(seed);
        plant(&disk);
        run(&ops, disk, durability, death);
        Ok(())
    });
    matches!(result, Err(TestError::Fail(..)))
}

#[test]
fn planted_defects_are_found() {
    assert!(is_found(Durability::Power, Death::Power, CrashDisk::lie), "a disk that does not sync");
    assert!(is_found(Durability::Process, Death::Power, |_| ()), "a power cut without syncing");
    assert!(is_found(Durability::Process, Death::Process, |disk| disk.keep("/snapshot")), "a stale snapshot");
}

#[test]
fn the_runs_are_as_hard_as_they_claim() {
    let mut ops = Vec::new();
    for number in 0..400u64 {
        ops.push(Op::InTransaction {
            producer: 0,
            topic: (number % 2) as usize,
            key: (number % 5) as u8,
            tombstone: false,
        });
        if number % 7 == 0 {
            ops.extend([Op::Die { after: number % 11 }, Op::End { producer: 0, commit: number % 3 > 0 }]);
        }
        if number % 20 == 0 {
            ops.extend([Op::Compact, Op::Snapshot]);
        }
    }
    let deaths = run(&ops, CrashDisk::new(1), Durability::Process, Death::Process);
    assert!(deaths > 30, "{deaths}");
}
