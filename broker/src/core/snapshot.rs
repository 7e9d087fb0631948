//! Snapshots of partitions: what a start must know without reading the log. A start verifies only what came after.
//!
//! Like compaction in three steps, so that the slow one needs no lock: [`Core::next_snapshot`] notes the state,
//! [`SnapshotJob::run`] brings the log and then the note to disk, [`Core::finish_snapshot`] puts it in place. A snapshot
//! is never ahead of a log that has reached the disk, and compaction deletes it before it changes a segment. One that is
//! missing, broken or does not fit the segments costs a start the reading of the whole log, and nothing else.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::disk::Disk;
use super::log::{AbortedTransaction, PartitionLog};
use super::producers::Producers;
use super::segment::Segment;
use super::{Core, StorageError, TopicPartition};

/// File name of a partition's snapshot.
pub(super) const SNAPSHOT_FILE: &str = "snapshot";
const DRAFT_FILE: &str = "snapshot.draft";
const VERSION: u32 = 1;
/// Version, checksum.
const HEAD_BYTES: usize = 8;
/// A partition whose log grew by less than this part of the limit is not worth a snapshot.
const WORTH: u64 = 64;

/// A segment as a snapshot knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownSegment {
    #[serde(rename = "b")]
    pub(super) base: i64,
    #[serde(rename = "l")]
    pub(super) length: u64,
    #[serde(rename = "n")]
    pub(super) next_offset: i64,
    #[serde(rename = "t")]
    pub(super) max_timestamp: i64,
}

/// A partition's state at an offset.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Oldest first. The last was the newest segment then, and may have grown.
    pub(super) segments: Vec<KnownSegment>,
    /// When the newest segment got its first batch.
    pub(super) active_since: Option<i64>,
    pub(super) producers: Producers,
    pub(super) aborted: Vec<AbortedTransaction>,
}

impl Snapshot {
    /// Reads the snapshot in `dir`; `None` if there is none that is whole.
    pub(super) fn read(disk: &dyn Disk, dir: &str) -> Result<Option<Self>, StorageError> {
        read_sealed(disk, &format!("{dir}/{SNAPSHOT_FILE}"))
    }

    /// Offset up to which it speaks.
    pub(super) fn end(&self) -> i64 {
        self.segments.last().map_or(0, |segment| segment.next_offset)
    }
}

/// A note as bytes that tell whether they are whole: version, checksum, JSON.
pub(super) fn seal(note: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    if let Err(error) = serde_json::to_writer(&mut bytes, note) {
        // Plain numbers, and a writer that never fails.
        unreachable!("note not serializable: {error}");
    }
    let crc = crc32c::crc32c(&bytes[HEAD_BYTES..]);
    bytes[..4].copy_from_slice(&VERSION.to_be_bytes());
    bytes[4..HEAD_BYTES].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// What [`seal`] was given; `None` if the bytes are not whole.
pub(super) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (head, body) = bytes.split_at_checked(HEAD_BYTES)?;
    let (version, crc) = head.split_at(4);
    let known = version == VERSION.to_be_bytes() && crc == crc32c::crc32c(body).to_be_bytes();
    if known { serde_json::from_slice(body).ok() } else { None }
}

/// Reads a sealed note; `None` if there is none that is whole.
pub(super) fn read_sealed<T: DeserializeOwned>(disk: &dyn Disk, file: &str) -> Result<Option<T>, StorageError> {
    let io = |error| StorageError::io(file, error);
    let length = match disk.length(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io)?,
    };
    let mut bytes = vec![0; length as usize];
    let count = disk.read_at(file, 0, &mut bytes).map_err(io)?;
    bytes.truncate(count);
    let note = unseal(&bytes);
    if note.is_none() {
        tracing::warn!(file, "not whole, so not used");
    }
    Ok(note)
}

/// A noted state on its way to disk.
pub struct SnapshotJob {
    disk: Arc<dyn Disk>,
    at: TopicPartition,
    incarnation: u64,
    dir: String,
    /// Segments that may not have reached the disk.
    unsynced: Vec<String>,
    /// Newest segment's base, and its index.
    index: Option<(i64, Vec<u8>)>,
    state: Snapshot,
    covered: u64,
    compactions: u64,
}

/// A snapshot that is on disk, not yet in place.
pub struct Snapshotted(SnapshotJob);

impl SnapshotJob {
    /// The partition this is about.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.at
    }

    /// Brings the log to disk, then the snapshot beside it.
    ///
    /// # Errors
    /// If the disk refuses. Nothing has changed then.
    pub fn run(self) -> Result<Snapshotted, StorageError> {
        for file in &self.unsynced {
            match self.disk.sync(file) {
                // Retention may have deleted it since.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(|error| StorageError::io(file, error))?,
            }
        }
        let draft = format!("{}/{DRAFT_FILE}", self.dir);
        let io = |error| StorageError::io(&draft, error);
        self.disk.delete(&draft).map_err(io)?;
        self.disk.write_at(&draft, 0, &seal(&self.state)).map_err(io)?;
        self.disk.sync(&draft).map_err(io)?;
        Ok(Snapshotted(self))
    }
}

impl PartitionLog {
    fn note_snapshot(&mut self, at: TopicPartition, incarnation: u64) -> SnapshotJob {
        let segments = self.segments.iter().map(|segment| KnownSegment {
            base: segment.base,
            length: segment.length,
            next_offset: segment.next_offset,
            max_timestamp: segment.max_timestamp,
        });
        let active = self.active();
        SnapshotJob {
            disk: self.disk.clone(),
            at,
            incarnation,
            dir: self.dir.clone(),
            unsynced: self.maybe_unsynced(),
            index: active.encoded_index().map(|bytes| (active.base, bytes)),
            state: Snapshot {
                segments: segments.collect(),
                active_since: self.active_since,
                producers: self.producers.clone(),
                aborted: self.aborted.clone(),
            },
            covered: self.snapshotted.bytes_since,
            compactions: self.snapshotted.compactions,
        }
    }

    fn install_snapshot(&mut self, job: &SnapshotJob) -> Result<(), StorageError> {
        let draft = format!("{}/{DRAFT_FILE}", self.dir);
        let file = format!("{}/{SNAPSHOT_FILE}", self.dir);
        if job.compactions != self.snapshotted.compactions {
            return self.disk.delete(&draft).map_err(|error| StorageError::io(&draft, error));
        }
        self.disk.rename(&draft, &file).map_err(|error| StorageError::io(&file, error))?;
        self.snapshotted.offset = job.state.end();
        self.snapshotted.bytes_since -= job.covered;
        let active: &Segment = self.active();
        if let Some((base, bytes)) = &job.index
            && *base == active.base
            && let Err(error) = self.disk.write_at(&active.index_file(), 0, bytes)
        {
            tracing::warn!(file = active.index_file(), %error, "index not written");
        }
        Ok(())
    }

    /// Deletes the snapshot, for the segments it speaks of are about to change.
    pub(super) fn discard_snapshot(&mut self) -> Result<(), StorageError> {
        let file = format!("{}/{SNAPSHOT_FILE}", self.dir);
        let io = |error| StorageError::io(&file, error);
        self.disk.delete(&file).map_err(io)?;
        self.disk.sync_dir(&self.dir).map_err(io)?;
        self.snapshotted.offset = 0;
        self.snapshotted.bytes_since = self.size();
        self.snapshotted.compactions += 1;
        Ok(())
    }
}

impl Core {
    /// Notes the state of the partition that has grown most since its last snapshot, if a start after a crash would
    /// have to verify more than [`super::Settings::max_recovery_bytes`] in all.
    pub fn next_snapshot(&mut self) -> Option<SnapshotJob> {
        self.snapshot_if_over(self.settings.max_recovery_bytes)
    }

    /// The same before a planned stop, after which a start should verify next to nothing.
    pub fn next_snapshot_before_stop(&mut self) -> Option<SnapshotJob> {
        self.snapshot_if_over(self.settings.max_recovery_bytes / 32)
    }

    fn snapshot_if_over(&mut self, limit: u64) -> Option<SnapshotJob> {
        let mut total = 0;
        let mut most: Option<(u64, &str, usize)> = None;
        for (name, topic) in &self.topics {
            for (number, partition) in topic.partitions.iter().enumerate() {
                let grown = partition.log.snapshotted.bytes_since;
                if grown <= limit / WORTH || partition.snapshotting || partition.log.is_set_aside() {
                    continue;
                }
                total += grown;
                if most.is_none_or(|(least, _, _)| grown > least) {
                    most = Some((grown, name, number));
                }
            }
        }
        let (_, name, number) = most.filter(|_| total > limit)?;
        let name = name.to_owned();
        let topic = self.topics.get_mut(&name)?;
        let incarnation = topic.incarnation;
        let partition = &mut topic.partitions[number];
        partition.snapshotting = true;
        Some(partition.log.note_snapshot(TopicPartition::new(name, number as i32), incarnation))
    }

    /// Puts a snapshot in place; it is discarded if compaction has changed the segments meanwhile.
    pub fn finish_snapshot(&mut self, at: &TopicPartition, result: Result<Snapshotted, StorageError>) {
        let incarnation = self.topics.get(&at.topic).map(|topic| topic.incarnation);
        let Some((partition, _)) = self.partition_mut(&at.topic, at.partition) else {
            return;
        };
        let job = match result {
            Ok(Snapshotted(job)) if incarnation == Some(job.incarnation) => job,
            // Of a topic that was deleted and made again.
            Ok(_) => return,
            Err(error) => {
                partition.snapshotting = false;
                tracing::error!(%error, "snapshot not written; the next start may take longer");
                return;
            }
        };
        partition.snapshotting = false;
        if let Err(error) = partition.log.install_snapshot(&job) {
            tracing::error!(%error, "snapshot not put in place; the next start may take longer");
        }
    }
}
