//! What a start reads, and what it makes of files that are not as they were left: snapshots are believed only when they
//! fit, a torn end is cut, and everything else that is broken is set aside with its place named, never dropped.

mod core_bench;

use std::sync::Arc;

use core_bench::*;
use millrace_broker::core::disk::Disk;
use millrace_broker::core::{Core, ErrorCode, Isolation, Outcome, Settings};

/// Snapshots whenever a kilobyte or so is new.
const SNAPSHOTS: Settings = Settings { max_recovery_bytes: 1024, ..DEFAULT };
const DEFAULT: Settings = Settings::DEFAULT;

const SEGMENTS: &[(&str, &str)] = &[("segment.bytes", "20000")];

fn log_bytes(disk: &CountingDisk, dir: &str) -> u64 {
    let names = disk.list(dir).expect("listed");
    let logs = names.iter().filter(|name| name.ends_with(".log"));
    logs.map(|name| disk.length(&format!("{dir}/{name}")).expect("a length")).sum()
}

fn segments(disk: &CountingDisk, dir: &str) -> Vec<String> {
    let names = disk.list(dir).expect("listed").into_iter().filter(|name| name.ends_with(".log"));
    names.map(|name| format!("{dir}/{name}")).collect()
}

/// A topic with plain, committed, aborted and open records, and the state it left behind.
fn busy(disk: &Arc<CountingDisk>) -> ((i64, i16), Vec<i64>, i64) {
    let mut core = open(disk, SNAPSHOTS);
    create(&mut core, "t", SEGMENTS);
    fill(&mut core, "t", 300);
    let mut producers = Vec::new();
    for id in ["committed", "aborted", "open"] {
        let producer = core.init_producer(0, Some(id), 600_000, None).expect("a producer");
        core.add_partitions_to_transaction(0, id, producer.0, producer.1, &[at("t")]).expect("added");
        for sequence in 0..3 {
            let bytes = batch(0, b"k", b"v", Some((producer.0, producer.1, sequence)), true);
            append(&mut core, 0, "t", &bytes).expect("appended");
        }
        producers.push(producer);
    }
    core.end_transaction(0, "committed", producers[0].0, producers[0].1, Outcome::Commit).expect("ended");
    core.end_transaction(0, "aborted", producers[1].0, producers[1].1, Outcome::Abort).expect("ended");
    fill(&mut core, "t", 300);
    snapshot(&mut core);
    // Something after the snapshot, so that there is a tail.
    let bytes = batch(0, b"k", b"v", Some((producers[2].0, producers[2].1, 3)), true);
    append(&mut core, 0, "t", &bytes).expect("appended");
    let seen = offsets(&core, "t", Isolation::ReadCommitted);
    let end = core.latest_offset("t", 0, Isolation::ReadUncommitted).expect("an end");
    (producers[2], seen, end)
}

/// Everything is as `busy` left it.
fn check(core: &mut Core, (open, seen, end): &((i64, i16), Vec<i64>, i64)) {
    assert_eq!(offsets(core, "t", Isolation::ReadCommitted), *seen);
    assert_eq!(core.latest_offset("t", 0, Isolation::ReadUncommitted), Ok(*end));
    assert_eq!(core.latest_offset("t", 0, Isolation::ReadCommitted), Ok(306), "the open transaction begins here");
    let again = batch(0, b"k", b"v", Some((open.0, open.1, 3)), true);
    assert_eq!(append(core, 0, "t", &again).expect("known").base_offset, end - 1, "a repeat is recognised");
    let gap = batch(0, b"k", b"v", Some((open.0, open.1, 9)), true);
    assert_eq!(append(core, 0, "t", &gap), Err(ErrorCode::OutOfOrderSequenceNumber));
    core.end_transaction(0, "open", open.0, open.1, Outcome::Commit).expect("ended");
    let all = offsets(core, "t", Isolation::ReadCommitted);
    assert!(all.starts_with(seen) && all.contains(&306) && all.contains(&(end - 1)) && !all.contains(&303), "{all:?}");
}

#[test]
fn a_start_reads_what_came_after_the_snapshot_and_knows_everything() {
    let disk = Arc::new(CountingDisk::default());
    let left = busy(&disk);
    let log = log_bytes(&disk, "topics/t@1/0");
    disk.take_read();
    let mut core = open(&disk, SNAPSHOTS);
    let read = disk.take_read();
    assert!(log > 150_000 && read < 10_000, "{read} bytes read at start, the log has {log}");
    check(&mut core, &left);
}

#[test]
fn without_a_snapshot_that_fits_the_whole_log_is_read_and_all_is_the_same() {
    type Damage = fn(&CountingDisk);
    let damage: [(&str, Damage); 4] = [
        ("none", |disk| disk.delete("topics/t@1/0/snapshot").expect("deleted")),
        ("torn", |disk| disk.truncate("topics/t@1/0/snapshot", 100).expect("cut")),
        ("damaged", |disk| disk.write_at("topics/t@1/0/snapshot", 50, b"#").expect("written")),
        ("of another time", |disk| {
            // As if the newest segment had lost what had not reached the disk.
            let newest = segments(disk, "topics/t@1/0").pop().expect("a segment");
            let length = disk.length(&newest).expect("a length");
            disk.truncate(&newest, length - 1).expect("cut");
        }),
    ];
    for (what, damage) in damage {
        let disk = Arc::new(CountingDisk::default());
        let left = busy(&disk);
        if what == "of another time" {
            // The tail is a batch of its own; cutting into the snapshot's part takes one more.
            let newest = segments(&disk, "topics/t@1/0").pop().expect("a segment");
            let tail = batch(0, b"k", b"v", Some((left.0.0, left.0.1, 3)), true).len() as u64;
            let length = disk.length(&newest).expect("a length");
            disk.truncate(&newest, length - tail).expect("cut");
        }
        damage(&disk);
        let log = log_bytes(&disk, "topics/t@1/0");
        disk.take_read();
        let mut core = open(&disk, SNAPSHOTS);
        let read = disk.take_read();
        assert!(read > log * 9 / 10, "{what}: {read} bytes read, the log has {log}");
        if what == "of another time" {
            assert_eq!(core.latest_offset("t", 0, Isolation::ReadUncommitted), Ok(left.2 - 2));
        } else {
            check(&mut core, &left);
        }
    }
}

#[test]
fn segments_that_retention_deleted_after_the_snapshot_are_not_missed() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, SNAPSHOTS);
    create(&mut core, "t", &[("segment.bytes", "20000"), ("retention.bytes", "40000"), ("retention.ms", "-1")]);
    fill(&mut core, "t", 400);
    snapshot(&mut core);
    core.tick(1_000_000);
    let start = core.earliest_offset("t", 0).expect("a start");
    assert!(start > 0);
    drop(core);
    let log = log_bytes(&disk, "topics/t@1/0");
    disk.take_read();
    let core = open(&disk, SNAPSHOTS);
    assert!(disk.take_read() < log / 2);
    assert_eq!(core.earliest_offset("t", 0), Ok(start));
    assert_eq!(offsets(&core, "t", Isolation::ReadCommitted), (start..400).collect::<Vec<_>>());
}

#[test]
fn what_was_written_and_deleted_after_the_snapshot_is_not_missed() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, SNAPSHOTS);
    create(&mut core, "t", &[("segment.bytes", "2000")]);
    let producer = core.init_producer(0, Some("p"), 600_000, None).expect("a producer");
    core.add_partitions_to_transaction(0, "p", producer.0, producer.1, &[at("t")]).expect("added");
    let bytes = batch(0, b"k", b"v", Some((producer.0, producer.1, 0)), true);
    fill(&mut core, "t", 20);
    append(&mut core, 0, "t", &bytes).expect("appended");
    snapshot(&mut core);
    core.end_transaction(0, "p", producer.0, producer.1, Outcome::Commit).expect("ended");
    let (idempotent, epoch) = core.init_producer(0, None, 0, None).expect("a producer");
    for sequence in 0..5 {
        let bytes = batch(0, b"k", b"v", Some((idempotent, epoch, sequence)), false);
        append(&mut core, 0, "t", &bytes).expect("appended");
        if sequence == 2 {
            snapshot(&mut core);
        }
    }
    fill(&mut core, "t", 50);
    core.delete_records("t", 0, 60).expect("deleted");
    drop(core);
    let mut core = open(&disk, SNAPSHOTS);
    assert_eq!(core.latest_offset("t", 0, Isolation::ReadCommitted), Ok(77));
    let next = batch(0, b"k", b"v", Some((idempotent, epoch, 5)), false);
    append(&mut core, 0, "t", &next).expect("it goes on where it was");
}

#[test]
fn a_segment_ages_over_restarts() {
    for settings in [DEFAULT, SNAPSHOTS] {
        let disk = Arc::new(CountingDisk::default());
        let mut core = open(&disk, settings);
        create(&mut core, "t", &[("segment.ms", "1000")]);
        fill(&mut core, "t", 10);
        snapshot(&mut core);
        for now in [500, 900] {
            let mut core = Core::open(disk.clone(), settings, now).expect("opens");
            append(&mut core, now, "t", &batch(now, b"k", b"v", None, false)).expect("appended");
            assert_eq!(segments(&disk, "topics/t@1/0").len(), 1, "at {now}");
        }
        let mut core = Core::open(disk.clone(), settings, 1100).expect("opens");
        append(&mut core, 1100, "t", &batch(1100, b"k", b"v", None, false)).expect("appended");
        assert_eq!(segments(&disk, "topics/t@1/0").len(), 2);
    }
}

#[test]
fn an_index_that_is_gone_or_broken_is_built_anew() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, SNAPSHOTS);
    create(&mut core, "t", SEGMENTS);
    fill(&mut core, "t", 400);
    snapshot(&mut core);
    for core in [core, open(&disk, SNAPSHOTS)] {
        for (number, name) in disk.list("topics/t@1/0").expect("listed").iter().enumerate() {
            let file = format!("topics/t@1/0/{name}");
            if name.ends_with(".index") && number % 2 == 0 {
                disk.delete(&file).expect("deleted");
            } else if name.ends_with(".index") {
                disk.write_at(&file, 30, b"###").expect("written");
            }
        }
        for offset in 0..400 {
            let fetched = core.fetch("t", 0, offset, 1, true, Isolation::ReadCommitted).expect("fetched");
            let first = i64::from_be_bytes(fetched.records[..8].try_into().expect("eight bytes"));
            assert_eq!(first, offset);
            assert_eq!(core.offset_for_timestamp("t", 0, offset, Isolation::ReadCommitted), Ok(Some((offset, offset))));
        }
        assert!(disk.list("topics/t@1/0").expect("listed").iter().any(|name| name.ends_with(".index")));
    }
}

#[test]
fn a_broken_partition_is_set_aside_and_the_others_go_on() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, DEFAULT);
    create(&mut core, "broken", SEGMENTS);
    create(&mut core, "whole", SEGMENTS);
    fill(&mut core, "broken", 300);
    fill(&mut core, "whole", 300);
    drop(core);
    let second = &segments(&disk, "topics/broken@1/0")[1];
    let before = disk.content(second);
    disk.write_at(second, 5000, b"#").expect("written");
    let mut core = open(&disk, DEFAULT);
    let refused = Err(ErrorCode::KafkaStorageError);
    let bytes = batch(0, b"k", b"v", None, false);
    assert_eq!(append(&mut core, 0, "broken", &bytes), refused.map(|()| unreachable!()));
    assert_eq!(core.earliest_offset("broken", 0), Err(ErrorCode::KafkaStorageError));
    assert_eq!(core.delete_records("broken", 0, -1), Err(ErrorCode::KafkaStorageError));
    let fetched = core.fetch("broken", 0, 0, 1000, true, Isolation::ReadCommitted);
    assert_eq!(fetched.map(|_| ()), Err(ErrorCode::KafkaStorageError));
    assert_eq!(offsets(&core, "whole", Isolation::ReadCommitted).len(), 300);
    append(&mut core, 0, "whole", &bytes).expect("appended");
    core.tick(1_000_000_000_000);
    assert!(core.next_compaction(0).is_none() && core.next_snapshot().is_none());
    drop(core);
    // Nothing of it was touched, so that with the byte put right everything is there again.
    disk.write_at(second, 5000, &before[5000..5001]).expect("written");
    let core = open(&disk, DEFAULT);
    assert_eq!(offsets(&core, "broken", Isolation::ReadCommitted).len(), 300);
}

/// Else its records would be written anew with checksums that fit, and what was damaged be believed.
#[test]
fn what_is_damaged_is_not_compacted() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, DEFAULT);
    let compacted = [("cleanup.policy", "compact"), ("segment.bytes", "20000"), ("min.cleanable.dirty.ratio", "0")];
    create(&mut core, "t", &compacted);
    for _ in 0..10 {
        fill(&mut core, "t", 50);
    }
    let files = segments(&disk, "topics/t@1/0");
    // In the value of the first record.
    disk.write_at(&files[0], 150, b"#").expect("written");
    let before: Vec<Vec<u8>> = files.iter().map(|file| disk.content(file)).collect();
    let refused = core.next_compaction(0).expect("due").run();
    let told = refused.as_ref().map(|_| ()).map_err(ToString::to_string).expect_err("it is damaged");
    assert!(told.contains(&files[0]) && told.contains("byte 0"), "{told}");
    core.finish_compaction(0, &at("t"), refused);
    assert!(files.iter().map(|file| disk.content(file)).eq(before), "nothing is touched");
}

#[test]
fn only_an_unfinished_write_is_cut_off() {
    // (what, where the newest segment is damaged, whether that is a torn end)
    let length_of_last = batch(0, b"12345678", &[b'v'; 200], None, false).len();
    let damage = [
        ("a cut", length_of_last - 7, true),
        ("the last batch's checksum", length_of_last, true),
        ("a length in the middle", 10 * length_of_last, false),
    ];
    for (what, from_end, torn) in damage {
        let disk = Arc::new(CountingDisk::default());
        let mut core = open(&disk, DEFAULT);
        create(&mut core, "t", &[]);
        fill(&mut core, "t", 50);
        drop(core);
        let newest = segments(&disk, "topics/t@1/0").pop().expect("a segment");
        let length = disk.length(&newest).expect("a length");
        match what {
            "a cut" => disk.truncate(&newest, length - 7).expect("cut"),
            "a length in the middle" => {
                disk.write_at(&newest, length - from_end as u64 + 8, &[0x10]).expect("written");
            }
            _ => disk.write_at(&newest, length - from_end as u64 + 18, b"####").expect("written"),
        }
        let core = open(&disk, DEFAULT);
        let end = core.latest_offset("t", 0, Isolation::ReadUncommitted);
        assert_eq!(end, if torn { Ok(49) } else { Err(ErrorCode::KafkaStorageError) }, "{what}");
    }
}

#[test]
fn a_snapshot_from_before_a_compaction_is_never_used_after_it() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, SNAPSHOTS);
    let compacted = [("cleanup.policy", "compact"), ("segment.bytes", "20000"), ("min.cleanable.dirty.ratio", "0")];
    create(&mut core, "t", &compacted);
    for _ in 0..20 {
        fill(&mut core, "t", 20);
    }
    snapshot(&mut core);
    // Noted before the compaction, finished after it.
    fill(&mut core, "t", 20);
    let late = core.next_snapshot().expect("due");
    let job = core.next_compaction(0).expect("due");
    core.finish_compaction(0, &at("t"), job.run());
    let left = offsets(&core, "t", Isolation::ReadCommitted);
    assert!(left.len() < 200, "{}", left.len());
    assert!(!disk.list("topics/t@1/0").expect("listed").contains(&"snapshot".to_owned()));
    core.finish_snapshot(&at("t"), late.run());
    assert!(!disk.list("topics/t@1/0").expect("listed").contains(&"snapshot".to_owned()));
    assert_eq!(offsets(&open(&disk, SNAPSHOTS), "t", Isolation::ReadCommitted), left);
    // The next one is of the segments as they are.
    snapshot(&mut core);
    disk.take_read();
    let core = open(&disk, SNAPSHOTS);
    let (read, log) = (disk.take_read(), log_bytes(&disk, "topics/t@1/0"));
    assert!(read < log / 2, "{read} of {log}");
    assert_eq!(offsets(&core, "t", Isolation::ReadCommitted), left);
}

/// Sets the offset of the batch at `position`, which leaves its checksum right.
fn set_offset(disk: &CountingDisk, file: &str, position: u64, offset: i64) {
    disk.write_at(file, position, &offset.to_be_bytes()).expect("written");
}

/// Where the last batch of a segment begins; all batches of `fill` are of one length.
fn last_batch(disk: &CountingDisk, file: &str) -> u64 {
    disk.length(file).expect("a length") - batch(0, b"12345678", &[b'v'; 200], None, false).len() as u64
}

#[test]
fn a_damaged_offset_deletes_no_segment_and_hides_no_record() {
    // In all segments, without and with a snapshot that covers the start of the damaged one.
    for settings in [DEFAULT, SNAPSHOTS] {
        for offset in [0, i64::MAX, 1 << 40, 301, 299] {
            for place in 0..3 {
                let disk = Arc::new(CountingDisk::default());
                let mut core = open(&disk, settings);
                create(&mut core, "t", SEGMENTS);
                fill(&mut core, "t", 10);
                if place == 0 {
                    // A snapshot of the first segment, which then grows on.
                    snapshot(&mut core);
                }
                for number in 10..300 {
                    let bytes = batch(number, &number.to_be_bytes(), &[b'v'; 200], None, false);
                    append(&mut core, number, "t", &bytes).expect("appended");
                }
                drop(core);
                let before = segments(&disk, "topics/t@1/0");
                assert!(before.len() > 3);
                let damaged = if place == 2 { &before[before.len() - 1] } else { &before[place] };
                let position = last_batch(&disk, damaged);
                let mut right = [0; 8];
                disk.read_at(damaged, position, &mut right).expect("read");
                set_offset(&disk, damaged, position, offset);
                let core = open(&disk, settings);
                let what = format!("{offset} in segment {place}");
                let end = core.latest_offset("t", 0, Isolation::ReadUncommitted);
                if place == 2 && offset == 299 {
                    assert_eq!(end, Ok(300), "{what}: it is the right one");
                } else {
                    assert_eq!(end, Err(ErrorCode::KafkaStorageError), "{what}");
                }
                drop(core);
                assert_eq!(segments(&disk, "topics/t@1/0"), before, "{what}");
                set_offset(&disk, damaged, position, i64::from_be_bytes(right));
                let core = open(&disk, settings);
                assert_eq!(offsets(&core, "t", Isolation::ReadCommitted).len(), 300, "{what}");
            }
        }
    }
}

#[test]
fn a_batch_whose_length_is_damaged_is_no_torn_end_whatever_offsets_follow() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, DEFAULT);
    create(&mut core, "t", &[]);
    fill(&mut core, "t", 50);
    drop(core);
    let file = segments(&disk, "topics/t@1/0").pop().expect("a segment");
    let length = disk.length(&file).expect("a length") - last_batch(&disk, &file);
    disk.write_at(&file, 40 * length + 8, &[0x10]).expect("written");
    for number in 41..50 {
        set_offset(&disk, &file, number * length, -1);
    }
    let core = open(&disk, DEFAULT);
    assert_eq!(core.latest_offset("t", 0, Isolation::ReadUncommitted), Err(ErrorCode::KafkaStorageError));
    assert_eq!(disk.length(&file).expect("a length"), 50 * length);
}

#[test]
fn a_torn_batch_that_carries_batches_as_values_is_a_torn_end() {
    let disk = Arc::new(CountingDisk::default());
    let mut core = open(&disk, DEFAULT);
    create(&mut core, "t", &[]);
    fill(&mut core, "t", 50);
    // As a mirror of another topic would write it.
    let carried = batch(0, b"k", &[b'w'; 100], None, false);
    let bytes = batch(0, b"k", &[carried.clone(), carried].concat(), None, false);
    append(&mut core, 0, "t", &bytes).expect("appended");
    drop(core);
    let file = segments(&disk, "topics/t@1/0").pop().expect("a segment");
    let length = disk.length(&file).expect("a length");
    disk.truncate(&file, length - 30).expect("cut");
    let core = open(&disk, DEFAULT);
    assert_eq!(core.latest_offset("t", 0, Isolation::ReadUncommitted), Ok(50));
}

#[test]
fn records_are_compacted_within_the_largest_lag_however_few_they_are() {
    for (lag, is_due) in [("1000", true), ("9223372036854775807", false)] {
        let disk = Arc::new(CountingDisk::default());
        let mut core = open(&disk, DEFAULT);
        let limited =
            [("max.compaction.lag.ms", lag), ("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "1")];
        create(&mut core, "t", &limited);
        let write = |core: &mut Core, now: i64| {
            append(core, now, "t", &batch(now, b"k", &[b'v'; 200], None, false)).expect("appended");
        };
        for now in 0..10 {
            write(&mut core, now);
        }
        assert!(core.next_compaction(900).is_none(), "nothing is closed yet");
        // Old enough to be closed, which the next append does.
        write(&mut core, 1_100);
        let all = core.next_compaction(1_100);
        assert_eq!(all.is_some(), is_due);
        let Some(job) = all else { continue };
        core.finish_compaction(1_100, &at("t"), job.run());
        assert_eq!(offsets(&core, "t", Isolation::ReadCommitted), [9, 10]);
        // What is new is less than all there is, so only its age counts.
        write(&mut core, 2_200);
        assert!(core.next_compaction(2_099).is_none());
        let job = core.next_compaction(2_200).expect("overdue");
        core.finish_compaction(2_200, &at("t"), job.run());
        assert_eq!(offsets(&core, "t", Isolation::ReadCommitted), [10, 11]);
    }
}

#[test]
fn a_merge_that_was_interrupted_anywhere_is_ended_by_the_next_start() {
    let mut interrupted = 0;
    for changes in 0.. {
        let disk = Arc::new(crash_disk::CrashDisk::new(1));
        let mut core = Core::open(disk.clone(), DEFAULT, 0).expect("opens");
        let compacted = [("cleanup.policy", "compact"), ("segment.bytes", "20000"), ("min.cleanable.dirty.ratio", "0")];
        create(&mut core, "t", &compacted);
        for _ in 0..20 {
            fill(&mut core, "t", 20);
        }
        let job = core.next_compaction(0).expect("due");
        disk.die_after(changes);
        core.finish_compaction(0, &at("t"), job.run());
        let dead = disk.is_dead();
        interrupted += u64::from(dead);
        drop(core);
        disk.revive(crash_disk::Death::Process);
        for newest in [380..400, 400..500] {
            let mut core = Core::open(disk.clone(), DEFAULT, 0).expect("opens");
            let left = offsets(&core, "t", Isolation::ReadCommitted);
            assert!(newest.clone().all(|offset| left.contains(&offset)), "after {changes} changes: {left:?}");
            assert!(dead || left.len() < 200, "{left:?}");
            // The next pass finds all as it should be.
            fill(&mut core, "t", 100);
            if let Some(job) = core.next_compaction(0) {
                core.finish_compaction(0, &at("t"), job.run());
            }
        }
        if !dead {
            break;
        }
    }
    assert!(interrupted > 20, "{interrupted}");
}
