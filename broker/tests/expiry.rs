//! What nobody uses is forgotten after its time, over restarts too; what is in use is not.

mod core_bench;

use std::sync::Arc;

use core_bench::{CountingDisk, append, at, batch, create, snapshot};
use millrace_broker::core::groups::Join;
use millrace_broker::core::journal::CommittedOffset;
use millrace_broker::core::{CommitAs, Core, ErrorCode, FetchedOffset, Outcome, Settings, Token};

const DAY: i64 = 24 * 3_600_000;

fn open(disk: &Arc<CountingDisk>, now: i64) -> Core {
    Core::open(disk.clone(), Settings::DEFAULT, now).expect("opens")
}

fn commit(core: &mut Core, now: i64, group: &str) {
    let who = CommitAs { generation: -1, ..CommitAs::default() };
    let offset = CommittedOffset { offset: 5, leader_epoch: -1, metadata: String::new() };
    core.commit_offsets(now, group, &who, vec![(at("t"), offset)]).expect("committed");
}

fn has_offset(core: &Core, group: &str) -> bool {
    core.fetch_offset(group, &at("t"), false) != FetchedOffset::None
}

#[test]
fn offsets_of_an_empty_group_go_after_their_time() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, 1);
    create(&mut core, "t", &[]);
    commit(&mut core, 1, "old");
    commit(&mut core, 1, "young");
    commit(&mut core, DAY, "young");
    core.tick(7 * DAY);
    assert!(has_offset(&core, "old"));
    // Restarts do not make it younger.
    let mut core = open(&disk, 7 * DAY);
    core.tick(7 * DAY + DAY / 2);
    assert!(!has_offset(&core, "old") && has_offset(&core, "young"));
    assert_eq!(core.group_ids(), ["young"]);
    let mut core = open(&disk, 7 * DAY + DAY / 2);
    assert_eq!(core.group_ids(), ["young"]);
    core.tick(9 * DAY);
    assert_eq!(core.group_ids(), [""; 0]);
}

#[test]
fn a_group_with_a_member_keeps_its_offsets() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, 1);
    create(&mut core, "t", &[]);
    commit(&mut core, 1, "g");
    let join = Join {
        member: String::new(),
        instance: None,
        client: "c".to_owned(),
        session_timeout: 30 * 60 * 1000,
        rebalance_timeout: 1000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Vec::new().into())],
        wants_id_first: false,
        can_skip_assignment: false,
    };
    core.join_group(1, Token(1), "g", join);
    let mut now = 1;
    let member = match core.take_replies().pop().expect("joined").1 {
        millrace_broker::core::Reply::Join(Ok(joined)) => joined,
        other => panic!("{other:?}"),
    };
    core.sync_group(1, Token(2), "g", member.generation, &member.member, None, Vec::new());
    while now < 20 * DAY {
        now += DAY / 100;
        core.heartbeat(now, "g", member.generation, &member.member, None).expect("alive");
        core.tick(now);
    }
    assert!(has_offset(&core, "g"));
    // It leaves; from then on it counts.
    core.leave_group(now, "g", &member.member, None).expect("left");
    core.tick(now + 6 * DAY);
    assert!(has_offset(&core, "g"));
    core.tick(now + 8 * DAY);
    assert!(!has_offset(&core, "g"));
}

#[test]
fn an_idle_transactional_id_goes_and_an_open_transaction_stays() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, 1);
    create(&mut core, "t", &[]);
    let idle = core.init_producer(1, Some("idle"), 900_000, None).expect("a producer");
    let used = core.init_producer(1, Some("used"), 900_000, None).expect("a producer");
    core.add_partitions_to_transaction(6 * DAY, "used", used.0, used.1, &[at("t")]).expect("added");
    let bytes = batch(0, b"k", b"v", Some((used.0, used.1, 0)), true);
    append(&mut core, 6 * DAY, "t", &bytes).expect("appended");
    core.end_transaction(6 * DAY, "used", used.0, used.1, Outcome::Commit).expect("ended");
    for restart in [false, true] {
        if restart {
            core = open(&disk, 7 * DAY);
        }
        core.tick(8 * DAY);
        let gone = core.add_partitions_to_transaction(8 * DAY, "idle", idle.0, idle.1, &[at("t")]);
        assert_eq!(gone, Err(ErrorCode::InvalidProducerIdMapping));
        core.end_transaction(8 * DAY, "used", used.0, used.1, Outcome::Commit).expect("still known");
    }
    // An id that comes back gets another producer, never the old one's.
    let again = core.init_producer(8 * DAY, Some("idle"), 900_000, None).expect("a producer");
    assert_ne!(again.0, idle.0);
    assert_ne!(again.0, used.0);
}

#[test]
fn a_producer_that_writes_no_more_is_forgotten_and_one_with_an_open_transaction_is_not() {
    const MINUTE: i64 = 60_000;
    let settings =
        Settings { producer_expiry: 2 * MINUTE, retention_interval: 1, max_recovery_bytes: 0, ..Settings::DEFAULT };
    let disk = Arc::new(CountingDisk::default());
    let mut core = Core::open(disk.clone(), settings, 0).expect("opens");
    create(&mut core, "t", &[]);
    let plain = core.init_producer(0, None, 0, None).expect("a producer");
    let within = core.init_producer(0, Some("within"), 15 * MINUTE, None).expect("a producer");
    let numbered = |now, sequence| batch(now, b"k", b"v", Some((plain.0, plain.1, sequence)), false);
    append(&mut core, 0, "t", &numbered(0, 0)).expect("appended");
    core.add_partitions_to_transaction(0, "within", within.0, within.1, &[at("t")]).expect("added");
    append(&mut core, 0, "t", &batch(0, b"k", b"v", Some((within.0, within.1, 0)), true)).expect("appended");
    let known = |core: &Core| -> Vec<i64> {
        core.producers("t", 0).expect("a partition").iter().map(|producer| producer.id).collect()
    };

    append(&mut core, MINUTE, "t", &numbered(MINUTE, 1)).expect("appended");
    core.tick(3 * MINUTE);
    assert_eq!(known(&core), [plain.0, within.0]);
    let gap = append(&mut core, 3 * MINUTE, "t", &numbered(3 * MINUTE, 3));
    assert_eq!(gap.map(|_| ()), Err(ErrorCode::OutOfOrderSequenceNumber), "refused, and no sign of life");
    core.tick(3 * MINUTE + 1);
    assert_eq!(known(&core), [within.0]);
    // A snapshot keeps it forgotten. (What a start has to read from the log counts as seen just then: the time in a record
    // is the client's.)
    snapshot(&mut core);
    drop(core);
    let mut core = Core::open(disk, settings, 4 * MINUTE).expect("opens");
    core.tick(4 * MINUTE);
    assert_eq!(known(&core), [within.0]);
    // As in Apache Kafka, a producer that nobody remembers goes on with whatever number it has reached.
    append(&mut core, 4 * MINUTE, "t", &numbered(4 * MINUTE, 7)).expect("appended");
    assert_eq!(known(&core), [plain.0, within.0]);
}
