//! What is acknowledged is kept: group commit answers only what has been synced, and a full disk refuses writes, serves
//! reads, loses nothing, and is written to again when there is space.

mod core_bench;

use std::sync::Arc;

use core_bench::crash_disk::{CrashDisk, Death};
use core_bench::{append, at, batch, create, fill, offsets};
use millrace_broker::core::{CommitAs, journal::CommittedOffset};
use millrace_broker::core::{Core, Durability, ErrorCode, FetchedOffset, Isolation, Outcome, Settings};

const POWER: Settings = Settings { durability: Durability::Power, ..Settings::DEFAULT };

fn open(disk: &Arc<CrashDisk>, settings: Settings) -> Core {
    Core::open(disk.clone(), settings, 0).expect("opens")
}

fn sync(core: &mut Core) {
    while let Some(job) = core.next_sync() {
        core.finish_sync(0, job.round(), job.run());
    }
}

fn begin(core: &mut Core, id: &str) -> (i64, i16) {
    let producer = core.init_producer(0, Some(id), 600_000, None).expect("a producer");
    core.add_partitions_to_transaction(0, id, producer.0, producer.1, &[at("t")]).expect("added");
    let bytes = batch(0, b"k", b"v", Some((producer.0, producer.1, 0)), true);
    append(core, 0, "t", &bytes).expect("appended");
    producer
}

#[test]
fn one_round_syncs_for_all_who_wrote_before_it() {
    let disk = Arc::new(CrashDisk::new(1));
    let mut core = open(&disk, POWER);
    create(&mut core, "t", &[]);
    sync(&mut core);
    assert_eq!(core.unsynced_round(), None);
    fill(&mut core, "t", 3);
    let first = core.unsynced_round().expect("something is written");
    fill(&mut core, "t", 2);
    assert_eq!(core.unsynced_round(), Some(first), "the same round brings both");
    let job = core.next_sync().expect("due");
    assert_eq!(core.unsynced_round(), Some(first), "until it is over");
    fill(&mut core, "t", 1);
    assert_eq!(core.unsynced_round(), Some(first + 1), "what comes meanwhile waits for the next");
    core.finish_sync(0, job.round(), job.run());
    assert_eq!(core.unsynced_round(), Some(first + 1));
    sync(&mut core);
    assert_eq!(core.unsynced_round(), None);
    disk.revive(Death::Power);
    assert_eq!(offsets(&open(&disk, POWER), "t", Isolation::ReadCommitted).len(), 6);
}

#[test]
fn the_other_level_waits_for_nothing() {
    let disk = Arc::new(CrashDisk::new(1));
    let mut core = open(&disk, Settings::DEFAULT);
    create(&mut core, "t", &[]);
    fill(&mut core, "t", 3);
    assert_eq!(core.unsynced_round(), None);
    assert!(core.next_sync().is_none());
}

#[test]
fn a_marker_is_not_written_before_its_decision_is_on_disk() {
    let disk = Arc::new(CrashDisk::new(1));
    let mut core = open(&disk, POWER);
    create(&mut core, "t", &[]);
    let producer = begin(&mut core, "p");
    sync(&mut core);
    let end = core.latest_offset("t", 0, Isolation::ReadUncommitted);
    core.end_transaction(0, "p", producer.0, producer.1, Outcome::Commit).expect("decided");
    core.tick(1);
    assert_eq!(core.latest_offset("t", 0, Isolation::ReadUncommitted), end, "no marker yet");
    let round = core.next_sync().expect("due");
    core.finish_sync(0, round.round(), round.run());
    assert_eq!(offsets(&core, "t", Isolation::ReadCommitted), [0]);
    // Nor is it forgotten before its markers are on disk: the journal may come there first.
    drop(core);
    disk.revive(Death::Power);
    let mut core = open(&disk, POWER);
    sync(&mut core);
    assert_eq!(offsets(&core, "t", Isolation::ReadCommitted), [0]);
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    let disk = Arc::new(CrashDisk::new(1));
    let mut core = open(&disk, POWER);
    create(&mut core, "t", &[]);
    sync(&mut core);
    fill(&mut core, "t", 3);
    assert!(core.keeps_what_is_written());
    let job = core.next_sync().expect("due");
    disk.die_after(0);
    let result = job.run();
    assert!(result.is_err());
    core.finish_sync(0, job.round(), result);
    disk.revive(Death::Process);
    // The disk answers again, but what it lost nobody knows.
    let bytes = batch(0, b"k", b"v", None, false);
    assert_eq!(append(&mut core, 0, "t", &bytes), Err(ErrorCode::KafkaStorageError));
    assert!(core.unsynced_round().is_some() && core.next_sync().is_none());
    assert_eq!(core.init_producer(0, Some("p"), 1000, None), Err(ErrorCode::CoordinatorNotAvailable));
    assert!(!core.keeps_what_is_written(), "whoever watches is told");
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    // However much fits: the write that fails is torn at every possible place.
    for room in (0..700).step_by(7) {
        let disk = Arc::new(CrashDisk::new(room as u64));
        let mut core = open(&disk, Settings::DEFAULT);
        create(&mut core, "t", &[("segment.bytes", "2000")]);
        fill(&mut core, "t", 10);
        let producer = begin(&mut core, "p");
        disk.limit(Some(room));
        let bytes = batch(0, b"k", &[b'v'; 200], None, false);
        let mut written = 11;
        let refused = loop {
            match append(&mut core, 0, "t", &bytes) {
                Ok(_) => written += 1,
                Err(code) => break code,
            }
        };
        assert_eq!(refused, ErrorCode::KafkaStorageError);
        disk.limit(Some(0));
        // Coordinators refuse as well, with an error that clients repeat after; and reads go on.
        let who = CommitAs { generation: -1, ..CommitAs::default() };
        let offset = CommittedOffset { offset: 5, leader_epoch: -1, metadata: String::new() };
        let committed = core.commit_offsets(0, "g", &who, vec![(at("t"), offset)]);
        assert_eq!(committed, Err(ErrorCode::CoordinatorNotAvailable));
        let ended = core.end_transaction(0, "p", producer.0, producer.1, Outcome::Commit);
        assert_eq!(ended, Err(ErrorCode::CoordinatorNotAvailable));
        core.tick(1);
        assert_eq!(offsets(&core, "t", Isolation::ReadUncommitted).len(), written);
        // A crash now: nothing acknowledged is lost, nothing refused is found.
        drop(core);
        disk.limit(None);
        let mut core = open(&disk, Settings::DEFAULT);
        assert_eq!(offsets(&core, "t", Isolation::ReadUncommitted).len(), written);
        assert_eq!(core.fetch_offset("g", &at("t"), false), FetchedOffset::None);
        // There is space again.
        append(&mut core, 0, "t", &bytes).expect("appended");
        core.end_transaction(0, "p", producer.0, producer.1, Outcome::Commit).expect("ended");
        assert_eq!(offsets(&core, "t", Isolation::ReadCommitted).len(), written + 1);
    }
}

#[test]
fn without_a_restart_it_goes_on_when_there_is_space() {
    let disk = Arc::new(CrashDisk::new(1));
    let mut core = open(&disk, Settings::DEFAULT);
    create(&mut core, "t", &[]);
    let producer = begin(&mut core, "p");
    disk.limit(Some(100));
    let bytes = batch(0, b"k", &[b'v'; 200], None, false);
    assert_eq!(append(&mut core, 0, "t", &bytes), Err(ErrorCode::KafkaStorageError));
    // The decision fits, the marker does not: the commit is certain, and comes when it can.
    disk.limit(Some(60));
    assert_eq!(core.end_transaction(0, "p", producer.0, producer.1, Outcome::Commit), Ok(()));
    assert_eq!(offsets(&core, "t", Isolation::ReadCommitted), [0; 0]);
    disk.limit(None);
    core.tick(100);
    assert_eq!(offsets(&core, "t", Isolation::ReadCommitted), [0]);
    append(&mut core, 0, "t", &bytes).expect("appended");
    assert_eq!(offsets(&open(&disk, Settings::DEFAULT), "t", Isolation::ReadCommitted).len(), 2);
}
