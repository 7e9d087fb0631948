//! The log of one partition: segment files of raw batches, their sparse index, open and aborted transactions.
//!
//! Owns offsets and what a reader may see. Never decodes records and never decides about transactions.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::batch::{self, BatchHeader, HEADER_BYTES};
use super::disk::Disk;
use super::producers::{Producers, SequenceCheck};
use super::segment::{Segment, segment_file};
use super::{ErrorCode, Isolation, StorageError};

/// A transaction that ended by abort and whose records may still be in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortedTransaction {
    /// Producer that wrote the records.
    #[serde(rename = "p")]
    pub producer_id: i64,
    /// Offset of its first record.
    #[serde(rename = "f")]
    pub first_offset: i64,
    /// Offset of the abort marker.
    #[serde(rename = "m")]
    pub marker_offset: i64,
}

/// Where appended records landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Time of the append when the topic stamps records itself, otherwise -1.
    pub log_append_time: i64,
    /// Oldest offset of the partition.
    pub log_start: i64,
}

/// What a fetch returns for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Whole batches; the first one contains the wanted offset.
    pub records: Bytes,
    /// End of the log.
    pub high_watermark: i64,
    /// Everything below is decided: committed, aborted or not transactional.
    pub last_stable: i64,
    /// Oldest offset.
    pub log_start: i64,
    /// Aborted transactions that overlap the returned records; read-committed only.
    pub aborted: Vec<AbortedTransaction>,
}

/// The log-related settings of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// A segment is closed before it grows past this many bytes.
    pub segment_bytes: u64,
    /// A segment is closed when it is this old, milliseconds.
    pub segment_ms: i64,
    /// Largest batch accepted, bytes.
    pub max_message_bytes: usize,
    /// Whether the broker stamps records with the time of the append.
    pub log_append_time: bool,
    /// Records older than this are refused, milliseconds.
    pub timestamp_before_max: i64,
    /// Records from further in the future than this are refused, milliseconds.
    pub timestamp_after_max: i64,
}

/// One partition's log.
pub struct PartitionLog {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: String,
    pub(super) segments: Vec<Segment>,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) producers: Producers,
    pub(super) aborted: Vec<AbortedTransaction>,
    /// When the newest segment got its first batch.
    pub(super) active_since: Option<i64>,
    /// Up to which offset compaction has come, and when: see `compaction`.
    pub(super) cleaned: Vec<CleanedUpTo>,
    pub(super) snapshotted: SnapshottedUpTo,
    /// Whether a segment is synced before the next begins, so that no power cut leaves it shorter than its successor
    /// knows.
    pub(super) sync_closed: bool,
    /// A write failed and what it left behind could not be cut off: byte position.
    ragged: bool,
    set_aside: bool,
    scratch: Vec<u8>,
}

/// How much of the log the last snapshot stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SnapshottedUpTo {
    /// Offset up to which it speaks.
    pub(super) offset: i64,
    /// Bytes appended since.
    pub(super) bytes_since: u64,
    /// Counts the passes that changed segments: a snapshot from before one is worthless after it.
    pub(super) compactions: u64,
}

/// A finished compaction pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanedUpTo {
    /// Records below this offset were looked at.
    pub offset: i64,
    /// Time of the pass, milliseconds.
    pub at: i64,
}

impl PartitionLog {
    /// Opens the log in `dir`, reading what the last snapshot does not cover. A torn end is cut off.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] names file and position of anything else that is broken.
    pub fn open(disk: Arc<dyn Disk>, dir: String, log_start: i64, now: i64) -> Result<Self, StorageError> {
        let mut log = Self::empty(disk, dir, log_start);
        log.recover(now)?;
        if log.segments.is_empty() {
            log.end = log_start;
            log.add_segment(log_start).map_err(|error| StorageError::io(&log.dir, error))?;
        }
        log.start = log.start.max(log.segments[0].base);
        log.end = log.end.max(log.start);
        let start = log.start;
        log.aborted.retain(|aborted| aborted.marker_offset >= start);
        Ok(log)
    }

    fn empty(disk: Arc<dyn Disk>, dir: String, start: i64) -> Self {
        Self {
            disk,
            dir,
            segments: Vec::new(),
            start,
            end: 0,
            producers: Producers::default(),
            aborted: Vec::new(),
            active_since: None,
            cleaned: Vec::new(),
            snapshotted: SnapshottedUpTo::default(),
            sync_closed: false,
            ragged: false,
            set_aside: false,
            scratch: Vec::new(),
        }
    }

    /// A log whose files are broken. They stay as they are, and whatever is asked of it is refused with
    /// `KAFKA_STORAGE_ERROR`.
    #[must_use]
    pub fn set_aside(disk: Arc<dyn Disk>, dir: String, start: i64) -> Self {
        Self { set_aside: true, ..Self::empty(disk, dir, start) }
    }

    /// Whether its files were found broken.
    #[must_use]
    pub fn is_set_aside(&self) -> bool {
        self.set_aside
    }

    /// Refuses if the files were found broken.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR`.
    pub fn usable(&self) -> Result<&Self, ErrorCode> {
        if self.set_aside { Err(ErrorCode::KafkaStorageError) } else { Ok(self) }
    }

    pub(super) fn add_segment(&mut self, base: i64) -> io::Result<()> {
        let segment = Segment::new(segment_file(&self.dir, base), base);
        if let Some(closed) = self.segments.last().filter(|_| self.sync_closed) {
            self.disk.sync(&closed.file)?;
        }
        self.disk.write_at(&segment.file, 0, &[])?;
        if let Some(closed) = self.segments.last_mut() {
            closed.close(&*self.disk);
        }
        self.segments.push(segment);
        self.active_since = None;
        Ok(())
    }

    /// Oldest offset.
    #[must_use]
    pub fn start(&self) -> i64 {
        self.start
    }

    /// Offset the next record will get; also the high watermark, for there are no replicas.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Offset below which every transaction is decided.
    #[must_use]
    pub fn last_stable(&self) -> i64 {
        self.producers.first_open_offset().map_or(self.end, |first| first.clamp(self.start, self.end))
    }

    /// Bytes in all segments.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.length).sum()
    }

    /// Producers with a transaction open in this partition.
    pub fn open_producers(&self) -> impl Iterator<Item = i64> + '_ {
        self.producers.open_producers()
    }

    /// Appends batches a client sent, already checked by [`batch::check_produced`]. All or nothing.
    ///
    /// # Errors
    /// `MESSAGE_TOO_LARGE`, `INVALID_TIMESTAMP`, the sequence errors of [`Producers::check`], `KAFKA_STORAGE_ERROR` if the disk refused.
    pub fn append(
        &mut self,
        now: i64,
        settings: &LogSettings,
        bytes: &[u8],
        headers: &[BatchHeader],
    ) -> Result<Appended, ErrorCode> {
        self.usable()?;
        let mut previous = None;
        for (position, header) in headers.iter().enumerate() {
            if header.length > settings.max_message_bytes {
                return Err(ErrorCode::MessageTooLarge);
            }
            let too_new = header.max_timestamp.saturating_sub(now) > settings.timestamp_after_max;
            let too_old = now.saturating_sub(header.base_timestamp) > settings.timestamp_before_max;
            if !settings.log_append_time && (too_new || too_old) {
                return Err(ErrorCode::InvalidTimestamp);
            }
            if !header.has_producer() {
                continue;
            }
            match self.producers.check(header, previous)? {
                SequenceCheck::Next => previous = Some(header),
                SequenceCheck::Duplicate { base_offset } if position == 0 => {
                    return Ok(self.appended(base_offset, -1));
                }
                SequenceCheck::Duplicate { .. } => {
                    return Err(ErrorCode::OutOfOrderSequenceNumber);
                }
            }
        }

        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(bytes);
        let base_offset = self.end;
        let mut placed = Vec::with_capacity(headers.len());
        let mut position = 0;
        let mut offset = base_offset;
        for header in headers {
            let batch = &mut scratch[position..position + header.length];
            let mut header = *header;
            header.base_offset = offset;
            batch::set_base_offset(batch, offset);
            if settings.log_append_time {
                batch::set_log_append_time(batch, now);
                header.max_timestamp = now;
            }
            position += header.length;
            offset = header.last_offset() + 1;
            placed.push(header);
        }
        let written = self.write(now, settings, &scratch, &placed);
        scratch.shrink_to(1 << 16);
        self.scratch = scratch;
        written?;
        for header in placed.iter().filter(|header| header.has_producer()) {
            self.producers.written(header, now);
        }
        let stamped = if settings.log_append_time { now } else { -1 };
        Ok(self.appended(base_offset, stamped))
    }

    fn appended(&self, base_offset: i64, log_append_time: i64) -> Appended {
        Appended { base_offset, log_append_time, log_start: self.start }
    }

    /// Writes the marker that ends a producer's transaction here, and returns its offset.
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` if the disk refused; nothing has changed then.
    pub fn append_marker(
        &mut self,
        now: i64,
        settings: &LogSettings,
        producer_id: i64,
        epoch: i16,
        commit: bool,
    ) -> Result<i64, ErrorCode> {
        self.usable()?;
        let offset = self.end;
        let bytes = batch::marker(offset, now, producer_id, epoch, commit);
        let header = BatchHeader::parse(&bytes).ok_or(ErrorCode::UnknownServerError)?;
        self.write(now, settings, &bytes, &[header])?;
        self.note_marker(&header, commit, now);
        Ok(offset)
    }

    pub(super) fn note_marker(&mut self, header: &BatchHeader, commit: bool, now: i64) {
        let first = self.producers.ended(header, now);
        if let (Some(first_offset), false) = (first, commit) {
            self.aborted.push(AbortedTransaction {
                producer_id: header.producer_id,
                first_offset,
                marker_offset: header.base_offset,
            });
        }
    }

    /// One write for all batches of a request; the state changes only after it succeeded.
    fn write(
        &mut self,
        now: i64,
        settings: &LogSettings,
        bytes: &[u8],
        headers: &[BatchHeader],
    ) -> Result<(), ErrorCode> {
        self.write_to_disk(now, settings, bytes, headers).map_err(|error| {
            tracing::error!(dir = self.dir, %error, "append failed");
            ErrorCode::KafkaStorageError
        })
    }

    fn write_to_disk(
        &mut self,
        now: i64,
        settings: &LogSettings,
        bytes: &[u8],
        headers: &[BatchHeader],
    ) -> io::Result<()> {
        let active = self.active();
        let full = active.length > 0 && active.length + bytes.len() as u64 > settings.segment_bytes;
        let old = self.active_since.is_some_and(|since| now - since >= settings.segment_ms);
        if self.ragged {
            self.disk.truncate(&active.file, active.length)?;
            self.ragged = false;
        }
        if full || old {
            self.add_segment(self.end)?;
        }
        let position = self.active().length;
        let file = &self.active().file;
        if let Err(error) = self.disk.write_at(file, position, bytes) {
            // What was written of it must not be taken for records after a restart.
            self.ragged = self.disk.truncate(file, position).is_err();
            return Err(error);
        }
        self.active_since.get_or_insert(now);
        self.snapshotted.bytes_since += bytes.len() as u64;
        let last = self.segments.len() - 1;
        for header in headers {
            self.segments[last].add(header);
            self.end = header.last_offset() + 1;
        }
        Ok(())
    }

    pub(super) fn active(&self) -> &Segment {
        // `open` leaves at least one segment, and the newest is never removed.
        &self.segments[self.segments.len() - 1]
    }

    /// Segments that an earlier process may have written without syncing them.
    pub(super) fn maybe_unsynced(&self) -> Vec<String> {
        let since = self.snapshotted.offset;
        let segments = self.segments.iter().filter(|segment| segment.next_offset >= since);
        segments.map(|segment| segment.file.clone()).collect()
    }

    /// Closes the newest segment, so that retention and compaction may touch it, if it holds anything.
    ///
    /// # Errors
    /// Whatever the disk answers.
    pub fn roll(&mut self) -> io::Result<()> {
        if self.active().length > 0 {
            self.add_segment(self.end)?;
        }
        Ok(())
    }

    /// Reads whole batches from `offset` on, at most `max_bytes` unless the first batch alone is larger and
    /// `at_least_one` is set.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` below the start or above the end, `KAFKA_STORAGE_ERROR` if the disk refused.
    pub fn fetch(
        &self,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
        isolation: Isolation,
    ) -> Result<Fetched, ErrorCode> {
        self.usable()?;
        if offset < self.start || offset > self.end {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        let last_stable = self.last_stable();
        let limit = match isolation {
            Isolation::ReadUncommitted => self.end,
            Isolation::ReadCommitted => last_stable,
        };
        let (records, next) = self.read(offset, max_bytes, at_least_one, limit).map_err(|error| {
            tracing::error!(dir = self.dir, offset, %error, "read failed");
            ErrorCode::KafkaStorageError
        })?;
        let aborted = match isolation {
            Isolation::ReadCommitted if !records.is_empty() => self.aborted_between(offset, next),
            _ => Vec::new(),
        };
        Ok(Fetched { records, high_watermark: self.end, last_stable, log_start: self.start, aborted })
    }

    fn aborted_between(&self, offset: i64, end: i64) -> Vec<AbortedTransaction> {
        // Markers are appended in order, so the list is sorted by marker offset.
        let from = self.aborted.partition_point(|aborted| aborted.marker_offset < offset);
        self.aborted[from..].iter().filter(|aborted| aborted.first_offset < end).copied().collect()
    }

    /// Whole batches from `offset` on and below `limit`, from one segment, and the offset after them.
    fn read(&self, offset: i64, max_bytes: usize, at_least_one: bool, limit: i64) -> io::Result<(Bytes, i64)> {
        if offset >= limit || (max_bytes == 0 && !at_least_one) {
            return Ok((Bytes::new(), offset));
        }
        let after = self.segments.partition_point(|segment| segment.base <= offset);
        for segment in &self.segments[after.saturating_sub(1)..] {
            if segment.base >= limit {
                break;
            }
            let found = segment.read(&*self.disk, offset, max_bytes, at_least_one, limit)?;
            if !found.0.is_empty() {
                return Ok(found);
            }
        }
        Ok((Bytes::new(), offset))
    }

    /// First record with a timestamp of at least `timestamp`, as (offset, timestamp).
    ///
    /// # Errors
    /// `KAFKA_STORAGE_ERROR` if the disk refused or a batch cannot be decompressed.
    pub fn offset_for_timestamp(&self, timestamp: i64, limit: i64) -> Result<Option<(i64, i64)>, ErrorCode> {
        self.usable()?;
        let failed = |error: io::Error| {
            tracing::error!(dir = self.dir, timestamp, %error, "read failed");
            ErrorCode::KafkaStorageError
        };
        for segment in &self.segments {
            if segment.max_timestamp < timestamp || segment.base >= limit {
                continue;
            }
            let before = segment.offset_before_timestamp(&*self.disk, timestamp).map_err(failed)?;
            let mut offset = before.max(self.start);
            while offset < limit.min(segment.next_offset) {
                let (batches, next) = segment.read(&*self.disk, offset, 1 << 16, true, limit).map_err(failed)?;
                if batches.is_empty() {
                    break;
                }
                if let Some(found) = super::timestamps::first_at_least(&batches, timestamp, offset)? {
                    return Ok(Some(found));
                }
                offset = next;
            }
        }
        Ok(None)
    }

    /// The first record below `limit` with the largest timestamp, as (offset, timestamp).
    ///
    /// # Errors
    /// As for [`Self::offset_for_timestamp`].
    pub fn offset_of_max_timestamp(&self, limit: i64) -> Result<Option<(i64, i64)>, ErrorCode> {
        let mut best = None;
        // A segment's largest timestamp may be that of a marker or of a record above the limit, so it is only a bound.
        for segment in self.segments.iter().rev() {
            let beaten = best.is_some_and(|(_, timestamp)| segment.max_timestamp < timestamp);
            if segment.length == 0 || segment.base >= limit || beaten {
                continue;
            }
            let mut offset = segment.base.max(self.start);
            while offset < limit.min(segment.next_offset) {
                let (batches, next) = segment
                    .read(&*self.disk, offset, 1 << 20, true, limit)
                    .map_err(|_| ErrorCode::KafkaStorageError)?;
                if batches.is_empty() {
                    break;
                }
                let found = super::timestamps::largest(&batches, offset)?;
                let better = |(at, timestamp): &(i64, i64)| {
                    best.is_none_or(|(first, most)| *timestamp > most || (*timestamp == most && *at < first))
                };
                best = found.filter(better).or(best);
                offset = next;
            }
        }
        Ok(best)
    }

    /// Makes `offset` the oldest offset and deletes the segments wholly below it. Returns the new start.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE` above the end.
    pub fn delete_before(&mut self, offset: i64) -> Result<i64, ErrorCode> {
        self.usable()?;
        if offset > self.end {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        self.start = self.start.max(offset);
        self.drop_segments_below_start();
        Ok(self.start)
    }

    /// Deletes files of closed segments that lie wholly below the start.
    pub(super) fn drop_segments_below_start(&mut self) {
        let start = self.start;
        // A segment ends where its successor begins, also if compaction took its last records.
        let count = self.segments.windows(2).take_while(|pair| pair[1].base <= start).count();
        for segment in self.segments.drain(..count) {
            if let Err(error) = self.disk.delete(&segment.file) {
                tracing::warn!(file = segment.file, %error, "segment not deleted");
            }
            if let Err(error) = self.disk.delete(&segment.index_file()) {
                tracing::warn!(file = segment.index_file(), %error, "index not deleted");
            }
        }
        self.aborted.retain(|aborted| aborted.marker_offset >= start);
    }

    pub(super) fn recover_batch(&mut self, header: &BatchHeader, bytes: &[u8], now: i64) -> Result<(), ()> {
        debug_assert!(bytes.len() >= HEADER_BYTES);
        if header.is_control() {
            let commit = batch::marker_commits(bytes).ok_or(())?;
            self.note_marker(header, commit, now);
        } else if header.has_producer() {
            self.producers.written(header, now);
        }
        self.end = header.last_offset() + 1;
        // A segment's age counts from its first record, as far as its clock can be believed.
        self.active_since.get_or_insert(header.max_timestamp.min(now));
        Ok(())
    }
}
