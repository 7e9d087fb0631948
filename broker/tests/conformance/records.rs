//! Records in and out: what is written, refused, repeated, found by time, deleted.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::records::Compression;

use crate::Run;
use crate::wire::{Batch, Case, named, now, topic_name};

fn delete_records(c: &mut Case, offset: i64) -> String {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset);
    let topic = DeleteRecordsTopic::default().with_name(topic_name(&c.name)).with_partitions(vec![partition]);
    let request = m::DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let answer = c.wire.call(2, &request);
    let partition = &answer.topics[0].partitions[0];
    format!("{} {}", named(partition.error_code), partition.low_watermark)
}

fn produced(c: &mut Case, records: usize) {
    c.create(1, &[]);
    for number in 0..records {
        let value = number.to_string();
        assert_eq!(c.produce(&Batch::of(&[&value])), format!("ok@{number}"));
    }
}

fn epoch_end(c: &mut Case, current: i32, epoch: i32) -> String {
    let partition = OffsetForLeaderPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(current)
        .with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default().with_topic(topic_name(&c.name)).with_partitions(vec![partition]);
    let request = m::OffsetForLeaderEpochRequest::default().with_replica_id(m::BrokerId(-1)).with_topics(vec![topic]);
    let answer = c.wire.call(4, &request);
    let found = &answer.topics[0].partitions[0];
    format!("{} epoch {} end {}", named(found.error_code), found.leader_epoch, found.end_offset)
}

fn time(c: &mut Case, time: i64, version: i16) -> String {
    let (code, offset, _) = c.list_offset(time, 0, version);
    format!("{} {offset}", named(code))
}

pub const CASES: &[(&str, Run)] = &[
    ("records are written and read", |c| {
        produced(c, 3);
        format!("{} [{}]", c.bounds(), c.read(0))
    }),
    ("a batch of several records", |c| {
        c.create(1, &[]);
        let first = c.produce(&Batch::of(&["a", "b", "c"]));
        format!("{first} {} [{}]", c.produce(&Batch::of(&["d"])), c.read(0))
    }),
    ("every codec", |c| {
        c.create(1, &[]);
        for compression in
            [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd, Compression::None]
        {
            let batch = Batch { compression, ..Batch::of(&["squeezed"]) };
            c.produce(&batch);
        }
        c.read(0)
    }),
    ("tombstones and records without a key", |c| {
        c.create(1, &[]);
        c.produce(&Batch::keyed(&[("k", None)]));
        let mut batch = Batch::of(&["v"]);
        batch.records[0].0 = None;
        c.produce(&batch);
        c.read(0)
    }),
    ("record without a key on a compacted topic", |c| {
        c.create(1, &[("cleanup.policy", "compact")]);
        let mut batch = Batch::of(&["v"]);
        batch.records[0].0 = None;
        c.produce(&batch)
    }),
    ("produce with acks 2", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        c.produce_bytes(&name, 0, 2, None, Batch::of(&["a"]).encode())
    }),
    ("produce to no topic", |c| c.produce(&Batch::of(&["a"]))),
    ("produce to no partition", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        c.produce_bytes(&name, 7, 1, None, Batch::of(&["a"]).encode())
    }),
    ("produce a damaged batch", |c| {
        c.create(1, &[]);
        let mut bytes = BytesMut::from(&Batch::of(&["a"]).encode()[..]);
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        let name = c.name.clone();
        format!("{} {}", c.produce_bytes(&name, 0, 1, None, bytes.freeze()), c.bounds())
    }),
    ("produce half a batch", |c| {
        c.create(1, &[]);
        let bytes = Batch::of(&["a"]).encode();
        let name = c.name.clone();
        c.produce_bytes(&name, 0, 1, None, bytes.slice(..bytes.len() / 2))
    }),
    ("produce too large a batch", |c| {
        c.create(1, &[("max.message.bytes", "100")]);
        c.produce(&Batch::of(&["x".repeat(200).as_str()]))
    }),
    ("produce two batches for a partition at once", |c| {
        c.create(1, &[]);
        let mut bytes = BytesMut::from(&Batch::of(&["a"]).encode()[..]);
        bytes.extend_from_slice(&Batch::of(&["b"]).encode());
        let name = c.name.clone();
        format!("{} [{}]", c.produce_bytes(&name, 0, 1, None, bytes.freeze()), c.read(0))
    }),
    ("produce nothing", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        c.produce_bytes(&name, 0, 1, None, Bytes::new())
    }),
    ("produce a control batch", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        // A marker of a transaction, and a control batch outside of any.
        let told = [0x30, 0x20].map(|bits| {
            let mut bytes = BytesMut::from(&Batch::of(&["a"]).by(5, 0, 0).encode()[..]);
            bytes[22] |= bits;
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
            c.produce_bytes(&name, 0, 1, None, bytes.freeze())
        });
        told.join(" ")
    }),
    ("produce a transactional batch without a transactional id", |c| {
        c.create(1, &[]);
        c.produce(&Batch::of(&["a"]).by(5, 0, 0).in_transaction())
    }),
    ("idempotent sequence", |c| {
        c.create(1, &[]);
        let batch = |sequence| Batch::of(&["a", "b"]).by(900_001, 0, sequence);
        let told = [0, 2, 4].map(|sequence| c.produce(&batch(sequence)));
        told.join(" ")
    }),
    ("idempotent repeat", |c| {
        c.create(1, &[]);
        let batch = |sequence| Batch::of(&["a"]).by(900_002, 0, sequence);
        let told = [0, 1, 2, 1, 0].map(|sequence| c.produce(&batch(sequence)));
        format!("{} {}", told.join(" "), c.bounds())
    }),
    ("idempotent repeat of the sixth last", |c| {
        c.create(1, &[]);
        let batch = |sequence| Batch::of(&["a"]).by(900_003, 0, sequence);
        for sequence in 0..6 {
            c.produce(&batch(sequence));
        }
        c.produce(&batch(0))
    }),
    ("idempotent gap", |c| {
        c.create(1, &[]);
        let batch = |sequence| Batch::of(&["a"]).by(900_004, 0, sequence);
        let told = [0, 5].map(|sequence| c.produce(&batch(sequence)));
        told.join(" ")
    }),
    ("idempotent producer nobody remembers", |c| {
        c.create(1, &[]);
        c.produce(&Batch::of(&["a"]).by(900_005, 0, 17))
    }),
    ("idempotent epochs", |c| {
        c.create(1, &[]);
        let batch = |epoch, sequence| Batch::of(&["a"]).by(900_006, epoch, sequence);
        let told = [(1, 0), (0, 1), (2, 1), (2, 0)].map(|(epoch, sequence)| c.produce(&batch(epoch, sequence)));
        told.join(" ")
    }),
    ("idempotent partial repeat", |c| {
        c.create(1, &[]);
        c.produce(&Batch::of(&["a", "b", "c"]).by(900_007, 0, 0));
        c.produce(&Batch::of(&["a", "b"]).by(900_007, 0, 0))
    }),
    ("fetch at the end", |c| {
        produced(c, 2);
        let data = c.fetch(2, 0);
        let records = data.records.map_or(0, |records| records.len());
        format!("{} {records} bytes, high {}", named(data.error_code), data.high_watermark)
    }),
    ("fetch beyond the end", |c| {
        produced(c, 2);
        let data = c.fetch(3, 0);
        format!("{} {} {}", named(data.error_code), data.high_watermark, data.log_start_offset)
    }),
    ("fetch before the start", |c| {
        produced(c, 3);
        delete_records(c, 2);
        named(c.fetch(1, 0).error_code)
    }),
    ("fetch from no topic", |c| named(c.fetch(0, 0).error_code)),
    ("fetch from no partition", |c| {
        c.create(1, &[]);
        let partition = FetchPartition::default().with_partition(9).with_partition_max_bytes(1000);
        named(c.fetch_partition(partition.with_current_leader_epoch(-1).with_last_fetched_epoch(-1), 0).error_code)
    }),
    ("fetch of one byte gives a batch", |c| {
        produced(c, 2);
        let partition = FetchPartition::default().with_partition(0).with_partition_max_bytes(1);
        let data = c.fetch_partition(partition.with_current_leader_epoch(-1).with_last_fetched_epoch(-1), 0);
        let one = Batch::of(&["0"]).encode().len();
        format!("one batch: {}", data.records.is_some_and(|records| records.len() == one))
    }),
    ("fetch under a newer leader", |c| {
        produced(c, 1);
        let partition = FetchPartition::default().with_partition(0).with_current_leader_epoch(5);
        named(c.fetch_partition(partition.with_last_fetched_epoch(-1), 0).error_code)
    }),
    ("fetch in a session that is not", |c| {
        let request = m::FetchRequest::default().with_session_id(4711).with_session_epoch(3).with_max_bytes(1000);
        named(c.wire.call(12, &request).error_code)
    }),
    ("fetch closes a session that is not", |c| {
        let request = m::FetchRequest::default().with_session_id(4711).with_session_epoch(-1).with_max_bytes(1000);
        named(c.wire.call(12, &request).error_code)
    }),
    ("offsets by time", |c| {
        c.create(1, &[]);
        let start = now() - 60_000;
        for step in 0..3 {
            c.produce(&Batch::of(&["a", "b"]).at(start + step * 1000));
        }
        let told = [-1, 0, 1, 1000, 1500, 2000].map(|after| time(c, start + after, 7));
        format!("{}; later {}", told.join(" "), time(c, start + 2001, 7))
    }),
    ("offset of the largest timestamp", |c| {
        c.create(1, &[]);
        let start = now() - 60_000;
        for step in [5, 9, 2, 9] {
            c.produce(&Batch::of(&["a", "b"]).at(start + step));
        }
        let (code, offset, timestamp) = c.list_offset(-3, 0, 7);
        format!("{} {offset} +{}", named(code), timestamp - start)
    }),
    ("offset of the largest timestamp of nothing", |c| {
        c.create(1, &[]);
        time(c, -3, 7)
    }),
    ("offset of the largest timestamp, too old a version", |c| {
        produced(c, 1);
        time(c, -3, 6)
    }),
    ("offset of the first on this disk", |c| {
        produced(c, 3);
        delete_records(c, 1);
        time(c, -4, 8)
    }),
    ("offset of the last moved elsewhere", |c| {
        produced(c, 3);
        time(c, -5, 9)
    }),
    ("offset of an unknown place", |c| {
        produced(c, 1);
        time(c, -77, 9)
    }),
    ("offsets of no topic", |c| time(c, -1, 7)),
    ("offsets in every version", |c| {
        produced(c, 2);
        let told = (1..=9).map(|version| format!("{version}:{}/{}", time(c, -2, version), time(c, -1, version)));
        told.collect::<Vec<_>>().join(" ")
    }),
    ("records deleted up to an offset", |c| {
        produced(c, 4);
        format!("{} {} [{}]", delete_records(c, 2), c.bounds(), c.read(0))
    }),
    ("records deleted up to the end", |c| {
        produced(c, 4);
        format!("{} {}", delete_records(c, -1), c.bounds())
    }),
    ("records deleted beyond the end", |c| {
        produced(c, 4);
        delete_records(c, 5)
    }),
    ("records deleted before the start", |c| {
        produced(c, 4);
        delete_records(c, 3);
        delete_records(c, 1)
    }),
    ("records deleted of a compacted topic", |c| {
        c.create(1, &[("cleanup.policy", "compact")]);
        c.produce(&Batch::of(&["a"]));
        delete_records(c, 1)
    }),
    ("records deleted of no topic", |c| delete_records(c, 1)),
    ("records deleted at a negative offset", |c| {
        produced(c, 1);
        delete_records(c, -5)
    }),
    ("end of the leader's epoch", |c| {
        produced(c, 2);
        epoch_end(c, 0, 0)
    }),
    ("end of a newer epoch", |c| {
        produced(c, 2);
        epoch_end(c, -1, 3)
    }),
    ("end of an epoch under a newer leader", |c| {
        produced(c, 2);
        epoch_end(c, 5, 0)
    }),
    ("end of an epoch of no topic", |c| epoch_end(c, -1, 0)),
    ("timestamps of the broker", |c| {
        c.create(1, &[("message.timestamp.type", "LogAppendTime")]);
        let before = now();
        c.produce(&Batch::of(&["a"]).at(before - 3_600_000));
        let (code, offset, timestamp) = c.list_offset(before - 1000, 0, 7);
        format!("{} {offset} {}", named(code), timestamp >= before - 1000)
    }),
    ("timestamp too far in the future", |c| {
        c.create(1, &[("message.timestamp.after.max.ms", "3600000")]);
        c.produce(&Batch::of(&["a"]).at(now() + 7_200_000))
    }),
    ("timestamp too far in the past", |c| {
        c.create(1, &[("message.timestamp.before.max.ms", "3600000")]);
        c.produce(&Batch::of(&["a"]).at(now() - 7_200_000))
    }),
    ("produce in every version", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        let bytes = Batch::of(&["a"]).encode();
        let told = (3..=11).map(|version| {
            let data = m::produce_request::PartitionProduceData::default().with_records(Some(bytes.clone()));
            let data = m::produce_request::TopicProduceData::default()
                .with_name(topic_name(&name))
                .with_partition_data(vec![data]);
            let request = m::ProduceRequest::default().with_acks(-1).with_timeout_ms(5000).with_topic_data(vec![data]);
            let answer = c.wire.call(version, &request);
            let partition = &answer.responses[0].partition_responses[0];
            format!("{version}:{}@{}", named(partition.error_code), partition.base_offset)
        });
        told.collect::<Vec<_>>().join(" ")
    }),
];
