//! What a data folder holds, told without changing it: topics, segments, producers, transactions, groups, batches. For
//! people who look for the cause of something while no broker runs.

use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::StorageError;
use super::batch::{self, BatchHeader, HEADER_BYTES};
use super::disk::Disk;
use super::journal::Journal;
use super::log::{AbortedTransaction, PartitionLog};
use super::replay::Replayed;
use super::segment::segment_file;
use super::snapshot::SNAPSHOT_FILE;
use super::topics::topic_dir;
use super::views::{ProducerView, TransactionView};

/// A disk that takes no change and says so to nobody: whoever opens a log on it sees the log as a start would.
struct ReadOnly {
    disk: Arc<dyn Disk>,
    /// Whether snapshots are not to be believed.
    verify: bool,
}

impl Disk for ReadOnly {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn length(&self, file: &str) -> io::Result<u64> {
        if self.verify && file.ends_with(SNAPSHOT_FILE) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.disk.length(file)
    }
    fn write_at(&self, _: &str, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
    fn read_at(&self, file: &str, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(file, position, buffer)
    }
    fn truncate(&self, _: &str, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn delete(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn delete_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

/// Everything a data folder holds but the records.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Topics by name.
    pub topics: Vec<TopicReport>,
    /// Groups by id.
    pub groups: Vec<GroupReport>,
    /// Transactional ids.
    pub transactions: Vec<TransactionView>,
}

/// A topic.
#[derive(Debug, Clone, Serialize)]
pub struct TopicReport {
    /// Name.
    pub topic: String,
    /// Folder, below the data folder.
    pub dir: String,
    /// Settings that differ from the defaults.
    pub configs: super::configs::Configs,
    /// Partitions by number.
    pub partitions: Vec<PartitionReport>,
}

/// A partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionReport {
    /// Number.
    pub partition: i32,
    /// Oldest offset.
    pub start: i64,
    /// Offset after the last record.
    pub end: i64,
    /// Everything below is decided.
    pub last_stable: i64,
    /// Bytes in all segments.
    pub bytes: u64,
    /// What is broken, with file and byte; the partition is set aside then.
    pub damage: Option<String>,
    /// Oldest first.
    pub segments: Vec<SegmentReport>,
    /// By producer id.
    pub producers: Vec<ProducerView>,
    /// Aborted transactions whose records may still be there.
    pub aborted: Vec<AbortedTransaction>,
}

/// A segment.
#[derive(Debug, Clone, Serialize)]
pub struct SegmentReport {
    /// Path, below the data folder.
    pub file: String,
    /// First offset it may hold.
    pub base: i64,
    /// Offset after its last record.
    pub next_offset: i64,
    /// Bytes.
    pub bytes: u64,
    /// Largest timestamp, milliseconds; `None` if it is empty.
    pub max_timestamp: Option<i64>,
}

/// A group.
#[derive(Debug, Clone, Serialize)]
pub struct GroupReport {
    /// Id.
    pub group: String,
    /// Kafka's name of its state.
    pub state: &'static str,
    /// Generation.
    pub generation: i32,
    /// Member ids.
    pub members: Vec<String>,
    /// Committed offsets.
    pub offsets: Vec<OffsetReport>,
}

/// A committed offset.
#[derive(Debug, Clone, Serialize)]
pub struct OffsetReport {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset of the next record to read.
    pub offset: i64,
}

/// A batch of a partition.
#[derive(Debug, Clone, Serialize)]
pub struct BatchReport {
    /// Segment file, below the data folder.
    pub file: String,
    /// Byte at which it begins.
    pub position: u64,
    /// Bytes.
    pub bytes: usize,
    /// First offset.
    pub base_offset: i64,
    /// Last offset.
    pub last_offset: i64,
    /// Records in it.
    pub records: i32,
    /// Largest timestamp, milliseconds.
    pub max_timestamp: i64,
    /// `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub codec: &'static str,
    /// Producer id, -1 for none.
    pub producer: i64,
    /// Producer epoch, -1 for none.
    pub epoch: i16,
    /// First sequence number, -1 for none.
    pub base_sequence: i32,
    /// `data`, `transactional`, `commit`, `abort`.
    pub kind: &'static str,
    /// Whether its checksum is right.
    pub intact: bool,
}

/// Reads everything but the records; with `verify`, the records as well, and checks every checksum.
///
/// # Errors
/// If the disk refuses or the journal is broken. A broken partition is part of the report.
pub fn inspect(disk: Arc<dyn Disk>, now: i64, verify: bool) -> Result<Report, StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(ReadOnly { disk, verify });
    let mut state = Replayed::default();
    Journal::open(disk.clone(), |entry| state.apply(entry, now))?;
    let mut topics = Vec::new();
    for (name, entry) in state.topics {
        let dir = topic_dir(&name, entry.incarnation);
        let mut partitions = Vec::new();
        for number in 0..entry.partitions {
            let start = entry.log_starts.get(&number).copied().unwrap_or(0);
            partitions.push(partition(&disk, format!("{dir}/{number}"), number, start, now)?);
        }
        topics.push(TopicReport { topic: name, dir, configs: entry.configs, partitions });
    }
    let groups = state.groups.iter().map(|(id, group)| GroupReport {
        group: id.clone(),
        state: group.state().name(),
        generation: group.generation(),
        members: group.members().map(|member| member.id).collect(),
        offsets: group
            .offsets
            .iter()
            .map(|(at, committed)| OffsetReport {
                topic: at.topic.clone(),
                partition: at.partition,
                offset: committed.offset,
            })
            .collect(),
    });
    let groups = groups.collect();
    Ok(Report { topics, groups, transactions: state.transactions.views() })
}

fn partition(
    disk: &Arc<dyn Disk>,
    dir: String,
    number: i32,
    start: i64,
    now: i64,
) -> Result<PartitionReport, StorageError> {
    let (log, damage) = match PartitionLog::open(disk.clone(), dir.clone(), start, now) {
        Ok(log) => (log, None),
        Err(error @ StorageError::Corrupt { .. }) => {
            (PartitionLog::set_aside(disk.clone(), dir.clone(), start), Some(error.to_string()))
        }
        Err(error) => return Err(error),
    };
    let segments = log.segments.iter().map(|segment| SegmentReport {
        file: segment.file.clone(),
        base: segment.base,
        next_offset: segment.next_offset,
        bytes: segment.length,
        max_timestamp: (segment.max_timestamp != i64::MIN).then_some(segment.max_timestamp),
    });
    let segments = match damage {
        // Not all of them were come to.
        Some(_) => segments_on_disk(&**disk, &dir)?,
        None => segments.collect(),
    };
    Ok(PartitionReport {
        partition: number,
        start: log.start(),
        end: log.end(),
        last_stable: log.last_stable(),
        bytes: log.size(),
        damage,
        segments,
        producers: log.producers.views(),
        aborted: log.aborted.clone(),
    })
}

/// Up to `max` batches of a partition, from the one that holds `from` on.
///
/// # Errors
/// If the disk refuses. Where no batch can be made out, the list ends.
pub fn batches(
    disk: &dyn Disk,
    partition: &PartitionReport,
    from: i64,
    max: usize,
) -> Result<Vec<BatchReport>, StorageError> {
    let mut found = Vec::new();
    for segment in partition.segments.iter().filter(|segment| segment.next_offset > from) {
        let io = |error| StorageError::io(&segment.file, error);
        let mut position = 0;
        while position < segment.bytes && found.len() < max {
            let mut head = [0; HEADER_BYTES];
            let count = disk.read_at(&segment.file, position, &mut head).map_err(io)?;
            let Some(header) = BatchHeader::parse(&head[..count]) else {
                return Ok(found);
            };
            let length = header.length as u64;
            if header.last_offset() >= from && position + length <= segment.bytes {
                let mut bytes = vec![0; header.length];
                disk.read_at(&segment.file, position, &mut bytes).map_err(io)?;
                found.push(describe(&segment.file, position, &header, &bytes));
            }
            position += length;
        }
    }
    Ok(found)
}

/// The files of a partition that was set aside; what is in them is not known.
fn segments_on_disk(disk: &dyn Disk, dir: &str) -> Result<Vec<SegmentReport>, StorageError> {
    let names = disk.list(dir).map_err(|error| StorageError::io(dir, error))?;
    let mut bases: Vec<i64> = names.iter().filter_map(|name| super::segment::segment_base(name)).collect();
    bases.sort_unstable();
    let report = |base| {
        let file = segment_file(dir, base);
        let bytes = disk.length(&file).map_err(|error| StorageError::io(&file, error))?;
        Ok(SegmentReport { file, base, next_offset: i64::MAX, bytes, max_timestamp: None })
    };
    bases.into_iter().map(report).collect()
}

fn describe(file: &str, position: u64, header: &BatchHeader, bytes: &[u8]) -> BatchReport {
    let kind = match (header.is_control(), header.is_transactional()) {
        (true, _) if batch::marker_commits(bytes) == Some(true) => "commit",
        (true, _) => "abort",
        (false, true) => "transactional",
        (false, false) => "data",
    };
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    BatchReport {
        file: file.to_owned(),
        position,
        bytes: header.length,
        base_offset: header.base_offset,
        last_offset: header.last_offset(),
        records: header.record_count,
        max_timestamp: header.max_timestamp,
        codec: codecs.get(header.codec() as usize).copied().unwrap_or("unknown"),
        producer: header.producer_id,
        epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        kind,
        intact: batch::is_intact(bytes),
    }
}
