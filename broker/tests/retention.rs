//! Retention removes whole old segments, by age and by size, and never what an open transaction still reaches into.

use std::sync::Arc;

use millrace_broker::core::batch::{self, BatchHeader, HEADER_BYTES};
use millrace_broker::core::configs::Configs;
use millrace_broker::core::disk::MemoryDisk;
use millrace_broker::core::{Core, ErrorCode, Isolation, Settings, TopicPartition};

const HOUR: i64 = 3_600_000;

fn core(disk: &Arc<MemoryDisk>, now: i64) -> Core {
    Core::open(disk.clone(), Settings::default(), now).expect("opens")
}

fn create(core: &mut Core, extra: &[(&str, &str)]) {
    let mut configs = Configs::from([("segment.bytes".to_owned(), "1024".to_owned())]);
    for (key, value) in extra {
        configs.insert((*key).to_owned(), (*value).to_owned());
    }
    core.create_topic(0, "t", 1, configs, false).expect("created");
}

fn write(core: &mut Core, now: i64, count: usize) {
    for _ in 0..count {
        let bytes = batch::single_record(now, b"key", Some(&[b'v'; 40]));
        let headers = batch::check_produced(&bytes).expect("valid");
        core.append(now, "t", 0, &bytes, &headers).expect("appended");
    }
}

fn ends(core: &Core) -> (i64, i64) {
    let start = core.earliest_offset("t", 0).expect("a start");
    let end = core.latest_offset("t", 0, Isolation::ReadUncommitted).expect("an end");
    (start, end)
}

#[test]
fn old_segments_go_and_young_ones_stay() {
    let disk = Arc::new(MemoryDisk::new());
    let mut core = core(&disk, 0);
    create(&mut core, &[("retention.ms", "3600000")]);
    write(&mut core, 0, 100);
    write(&mut core, 2 * HOUR, 100);
    core.tick(HOUR);
    assert_eq!(ends(&core), (0, 200), "nothing is old enough");
    core.tick(2 * HOUR);
    let (start, end) = ends(&core);
    assert!((91..=100).contains(&start), "{start}");
    assert_eq!(end, 200);
    let below = core.fetch("t", 0, 0, 1000, true, Isolation::ReadUncommitted);
    assert_eq!(below.expect_err("gone"), ErrorCode::OffsetOutOfRange);
    // In the end all is old, the newest segment included; offsets go on.
    core.tick(4 * HOUR);
    assert_eq!(ends(&core), (200, 200));
    drop(core);
    let mut core = self::core(&disk, 4 * HOUR);
    assert_eq!(ends(&core), (200, 200));
    write(&mut core, 4 * HOUR, 1);
    assert_eq!(ends(&core), (200, 201));
}

#[test]
fn a_partition_is_kept_to_its_size() {
    let disk = Arc::new(MemoryDisk::new());
    let mut core = core(&disk, 0);
    create(&mut core, &[("retention.ms", "-1"), ("retention.bytes", "5000")]);
    write(&mut core, 0, 200);
    core.tick(HOUR);
    let (start, end) = ends(&core);
    let batch = batch::single_record(0, b"key", Some(&[b'v'; 40])).len() as i64;
    let bytes = (end - start) * batch;
    assert!((5000..=6024).contains(&bytes), "{bytes} bytes are left");
}

#[test]
fn an_open_transaction_holds_retention_back() {
    let disk = Arc::new(MemoryDisk::new());
    let mut core = core(&disk, 0);
    create(&mut core, &[("retention.ms", "1000")]);
    write(&mut core, 0, 20);
    let (producer, epoch) = core.init_producer(0, Some("p"), 900_000, None).expect("a producer");
    let at = [TopicPartition::new("t", 0)];
    core.add_partitions_to_transaction(0, "p", producer, epoch, &at).expect("added");
    let plain = batch::single_record(0, b"key", Some(b"open"));
    let mut header = BatchHeader::parse(&plain).expect("a batch");
    header.attributes = 0x10;
    (header.producer_id, header.producer_epoch, header.base_sequence) = (producer, epoch, 0);
    let bytes = batch::assemble(&header, &plain[HEADER_BYTES..]);
    let headers = batch::check_produced(&bytes).expect("valid");
    let open = core.append(0, "t", 0, &bytes, &headers).expect("appended");
    write(&mut core, 0, 100);
    core.tick(400_000);
    let (start, _) = ends(&core);
    assert!(start > 0 && start <= open.base_offset, "{start}");
    // The transaction times out, and retention goes on.
    core.tick(1_000_000);
    // Only its marker is young.
    assert_eq!(ends(&core), (121, 122));
}

#[test]
fn deleted_records_stay_deleted() {
    let disk = Arc::new(MemoryDisk::new());
    let mut core = core(&disk, 0);
    create(&mut core, &[]);
    write(&mut core, 0, 100);
    assert_eq!(core.delete_records("t", 0, 55), Ok(55));
    assert_eq!(core.delete_records("t", 0, 101), Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(ends(&core), (55, 100));
    drop(core);
    let mut core = self::core(&disk, 0);
    assert_eq!(ends(&core), (55, 100));
    assert_eq!(core.delete_records("t", 0, -1), Ok(100));
    drop(core);
    assert_eq!(ends(&self::core(&disk, 0)), (100, 100));
}
