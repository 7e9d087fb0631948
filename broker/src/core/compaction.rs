//! Compaction: of each key, only the latest record stays. Three steps, so that the long one needs no lock:
//! [`Core::next_compaction`] plans, [`CompactionJob::run`] rewrites closed segments into drafts, and
//! [`Core::finish_compaction`] puts the drafts in place.
//!
//! Only segments below the last stable offset are touched, so every transaction in them is decided: aborted records go,
//! committed ones become ordinary ones, and an open transaction can make nothing vanish. Tombstones and markers stay
//! until a pass that comes `delete.retention.ms` after the first that saw them. Offsets never change.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;

use super::batch::{self, BatchHeader, HEADER_BYTES, RecordView, Records};
use super::codec::{compress, decompress};
use super::disk::Disk;
use super::journal::Entry;
use super::log::{AbortedTransaction, CleanedUpTo, PartitionLog};
use super::merge::{Merge, draft_file};
use super::segment::Segment;
use super::topics::Topic;
use super::{Core, StorageError, TopicPartition};

const CHUNK_BYTES: usize = 1 << 20;

/// A planned pass over the closed segments of one partition.
pub struct CompactionJob {
    disk: Arc<dyn Disk>,
    at: TopicPartition,
    dir: String,
    incarnation: u64,
    segments: Vec<Segment>,
    /// First offset that is not looked at.
    end: i64,
    /// What lies below is clean: no key is there twice.
    dirty_from: i64,
    /// The pass ends with the segment that brings it to so many keys.
    max_keys: usize,
    /// By producer: first offsets and markers of its aborted transactions, in order.
    aborted: HashMap<i64, Vec<(i64, i64)>>,
    /// Tombstones and markers below have been kept long enough.
    expired_below: i64,
    segment_bytes: u64,
}

/// The drafts a job has written.
pub struct Compacted {
    job: CompactionJob,
    outputs: Vec<Output>,
}

struct Output {
    draft: String,
    segment: Segment,
    /// How many of the job's segments it replaces.
    replaces: usize,
}

impl Core {
    /// Plans the next pass that pays, if there is one. The partition is left alone until the pass is finished.
    pub fn next_compaction(&mut self, now: i64) -> Option<CompactionJob> {
        let max_keys = self.settings.compaction_keys;
        for (name, topic) in &mut self.topics {
            if !topic.settings.compact {
                continue;
            }
            for number in 0..topic.partitions.len() {
                if let Some(mut job) = plan(topic, number, now, max_keys, &self.disk) {
                    topic.partitions[number].compacting = true;
                    job.at = TopicPartition::new(name.clone(), number as i32);
                    return Some(job);
                }
            }
        }
        None
    }

    /// Puts the drafts of a pass in place; they are discarded if the partition's segments have changed meanwhile.
    pub fn finish_compaction(&mut self, now: i64, at: &TopicPartition, result: Result<Compacted, StorageError>) {
        let Some((partition, _)) = self.partition_mut(&at.topic, at.partition) else {
            return;
        };
        partition.compacting = false;
        let compacted = match result {
            Ok(compacted) => compacted,
            Err(error) => {
                tracing::error!(%error, "compaction failed");
                return;
            }
        };
        let incarnation = self.topics.get(&at.topic).map(|topic| topic.incarnation);
        let job = &compacted.job;
        if incarnation != Some(job.incarnation) {
            return;
        }
        let (expired, end) = (job.expired_below, job.end);
        let Some((partition, _)) = self.partition_mut(&at.topic, at.partition) else {
            return;
        };
        match partition.log.install(&compacted) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "compaction not completed");
                return;
            }
        }
        let log = &mut partition.log;
        log.aborted.retain(|aborted| aborted.marker_offset >= expired);
        // Of the passes whose tombstones have expired, the latest says it all.
        log.cleaned.retain(|cleaned| cleaned.offset >= expired);
        log.cleaned.push(CleanedUpTo { offset: end, at: now });
        let entry = Entry::Cleaned { at: at.clone(), offset: end, time: now };
        if let Err(error) = self.record(&entry) {
            tracing::warn!(%error, "tombstones are kept longer after a restart");
        }
    }
}

fn plan(topic: &Topic, number: usize, now: i64, max_keys: usize, disk: &Arc<dyn Disk>) -> Option<CompactionJob> {
    let settings = &topic.settings;
    let partition = &topic.partitions[number];
    if partition.compacting {
        return None;
    }
    let log = &partition.log;
    let stable = log.last_stable();
    let young = now - settings.min_compaction_lag_ms;
    let closed = log.segments.windows(2).take_while(|pair| {
        pair[1].base <= stable && (settings.min_compaction_lag_ms == 0 || pair[0].max_timestamp <= young)
    });
    let count = closed.count();
    let segments = &log.segments[..count];
    let end = log.segments.get(count)?.base;
    let cleaned_to = log.cleaned.last().map_or(0, |cleaned| cleaned.offset);
    let total: u64 = segments.iter().map(|segment| segment.length).sum();
    let first_dirty = segments.partition_point(|segment| segment.base < cleaned_to);
    let dirty: u64 = segments[first_dirty..].iter().map(|segment| segment.length).sum();
    let pays = dirty as f64 >= settings.min_dirty_ratio * total as f64;
    let overdue = || {
        let limited = settings.max_compaction_lag_ms < i64::MAX;
        let first = segments.get(first_dirty).filter(|_| limited)?.first_timestamp(&**disk);
        first.map(|first| now.saturating_sub(first) >= settings.max_compaction_lag_ms)
    };
    if dirty == 0 || !(pays || overdue().unwrap_or(false)) {
        return None;
    }
    let kept_since = now - settings.delete_retention_ms;
    let expired = log.cleaned.iter().filter(|cleaned| cleaned.at <= kept_since);
    Some(CompactionJob {
        disk: disk.clone(),
        at: TopicPartition::new("", 0),
        dir: log.dir.clone(),
        incarnation: topic.incarnation,
        segments: segments.to_vec(),
        end,
        dirty_from: cleaned_to,
        max_keys,
        aborted: by_producer(&log.aborted),
        expired_below: expired.map(|cleaned| cleaned.offset).max().unwrap_or(0),
        segment_bytes: settings.log.segment_bytes,
    })
}

fn by_producer(aborted: &[AbortedTransaction]) -> HashMap<i64, Vec<(i64, i64)>> {
    let mut ranges: HashMap<i64, Vec<(i64, i64)>> = HashMap::new();
    for transaction in aborted {
        let range = (transaction.first_offset, transaction.marker_offset);
        ranges.entry(transaction.producer_id).or_default().push(range);
    }
    ranges
}

impl PartitionLog {
    /// Replaces segments by drafts, oldest first: what a younger segment supersedes is gone from the older ones before the
    /// younger one changes. `false` if the segments are not those the drafts were made from.
    fn install(&mut self, compacted: &Compacted) -> Result<bool, StorageError> {
        let job = &compacted.job;
        let same = self.segments.len() > job.segments.len()
            && job
                .segments
                .iter()
                .zip(&self.segments)
                .all(|(planned, present)| planned.base == present.base && planned.length == present.length);
        if !same {
            for output in &compacted.outputs {
                self.disk.delete(&output.draft).ok();
            }
            return Ok(false);
        }
        self.discard_snapshot()?;
        for (place, output) in compacted.outputs.iter().enumerate() {
            let mut segment = output.segment.clone();
            let replaced = place..place + output.replaces;
            let gone: Vec<i64> = self.segments[replaced.clone()][1..].iter().map(|merged| merged.base).collect();
            let merges = !gone.is_empty();
            if merges {
                Merge { into: segment.base, gone }.note(&*self.disk, &self.dir)?;
            }
            let io = |error| StorageError::io(&segment.file, error);
            self.disk.delete(&segment.index_file()).map_err(io)?;
            self.disk.rename(&output.draft, &segment.file).map_err(io)?;
            segment.close(&*self.disk);
            self.segments.splice(replaced, [segment]);
            if merges {
                Merge::settle(&*self.disk, &self.dir)?;
            }
        }
        Ok(true)
    }
}

/// What the first reading finds.
#[derive(Default)]
struct Latest {
    /// The latest committed offset of each key in the dirty part. Keys are kept as 128-bit hashes.
    by_key: HashMap<u128, i64>,
    /// Where the last batch of each producer begins. It stays, if need be without records: after a restart it tells
    /// which sequence number comes next.
    by_producer: HashMap<i64, i64>,
}

fn hash(key: &[u8]) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        hasher.write(key);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// What becomes of a batch.
enum Fate {
    Drop,
    Keep,
    /// The same batch with fewer records, or without its transactional mark.
    Rewrite(Vec<u8>),
}

impl CompactionJob {
    /// The partition this is about.
    #[must_use]
    pub fn partition(&self) -> &TopicPartition {
        &self.at
    }

    /// Reads the segments twice, first to find the latest record of each key, then to write the drafts.
    ///
    /// # Errors
    /// If the disk refuses or a batch cannot be read. Nothing has changed then; drafts are deleted at the next start.
    pub fn run(mut self) -> Result<Compacted, StorageError> {
        // An earlier pass may have been stopped by the disk; its drafts are about to be written over.
        Merge::settle(&*self.disk, &self.dir)?;
        let mut latest = Latest::default();
        let mut done = 0;
        for segment in &self.segments {
            let dirty = segment.base >= self.dirty_from;
            if dirty && latest.by_key.len() >= self.max_keys {
                // The rest is left to the next pass.
                break;
            }
            done += 1;
            self.each_batch(segment, |header, bytes| {
                if header.is_control() {
                    return Ok(());
                }
                if header.has_producer() {
                    let last = (header.producer_id, header.base_offset);
                    latest.by_producer.extend([last]);
                }
                if !dirty || self.is_aborted(header) {
                    return Ok(());
                }
                for record in Records::new(&records_of(header, bytes)?) {
                    let record = record.map_err(|_| "malformed record")?;
                    if let Some(key) = record.key {
                        let offset = header.base_offset + record.offset_delta;
                        latest.by_key.insert(hash(key), offset);
                    }
                }
                Ok(())
            })?;
        }
        if let Some(rest) = self.segments.get(done) {
            self.end = rest.base;
            self.segments.truncate(done);
        }
        let mut outputs: Vec<Output> = Vec::new();
        for segment in &self.segments {
            let mut pending = Vec::new();
            let mut kept = Vec::new();
            self.each_batch(segment, |header, bytes| {
                let start = pending.len();
                match self.fate(header, bytes, &latest)? {
                    Fate::Drop => {}
                    Fate::Keep => pending.extend_from_slice(bytes),
                    Fate::Rewrite(bytes) => pending.extend_from_slice(&bytes),
                }
                kept.extend(BatchHeader::parse(&pending[start..]));
                Ok(())
            })?;
            self.place(&mut outputs, segment, &pending, &kept)?;
        }
        for Output { draft, .. } in &outputs {
            // It replaces records that have reached the disk long ago.
            self.disk.sync(draft).map_err(|error| StorageError::io(draft, error))?;
        }
        Ok(Compacted { job: self, outputs })
    }

    /// Appends what is left of a segment to the current draft if it fits, or begins the next.
    fn place(
        &self,
        outputs: &mut Vec<Output>,
        segment: &Segment,
        bytes: &[u8],
        headers: &[BatchHeader],
    ) -> Result<(), StorageError> {
        let fits =
            outputs.last().is_some_and(|output| output.segment.length + bytes.len() as u64 <= self.segment_bytes);
        if !fits {
            let draft = draft_file(&segment.file);
            let io = |error| StorageError::io(&draft, error);
            self.disk.delete(&draft).map_err(io)?;
            self.disk.write_at(&draft, 0, &[]).map_err(io)?;
            outputs.push(Output { draft, segment: Segment::new(segment.file.clone(), segment.base), replaces: 0 });
        }
        let Some(output) = outputs.last_mut() else {
            return Ok(());
        };
        output.replaces += 1;
        self.disk
            .write_at(&output.draft, output.segment.length, bytes)
            .map_err(|error| StorageError::io(&output.draft, error))?;
        for header in headers {
            output.segment.add(header);
        }
        Ok(())
    }

    fn is_aborted(&self, header: &BatchHeader) -> bool {
        let offset = header.base_offset;
        let ranges = self.aborted.get(&header.producer_id);
        header.is_transactional()
            && ranges.is_some_and(|ranges| {
                let next = ranges.partition_point(|(_, marker)| *marker < offset);
                ranges.get(next).is_some_and(|(first, _)| *first <= offset)
            })
    }

    fn fate(&self, header: &BatchHeader, bytes: &[u8], latest: &Latest) -> Result<Fate, &'static str> {
        if header.is_control() {
            let expired = header.base_offset < self.expired_below;
            return Ok(if expired { Fate::Drop } else { Fate::Keep });
        }
        if self.is_aborted(header) {
            return Ok(emptied(header, latest));
        }
        let records = records_of(header, bytes)?;
        let mut left = Vec::new();
        let mut count = 0;
        for record in Records::new(&records) {
            let record = record.map_err(|_| "malformed record")?;
            if self.stays(header, &record, latest) {
                left.extend_from_slice(record.raw);
                count += 1;
            }
        }
        if count == 0 {
            return Ok(emptied(header, latest));
        }
        let mut batch = if count == header.record_count {
            if !header.is_transactional() {
                return Ok(Fate::Keep);
            }
            bytes.to_vec()
        } else {
            let mut header = *header;
            header.record_count = count;
            let packed = compress(header.codec(), &left).map_err(|_| "records do not compress")?;
            batch::assemble(&header, &packed)
        };
        if header.is_transactional() {
            batch::clear_transactional(&mut batch);
        }
        Ok(Fate::Rewrite(batch))
    }

    fn stays(&self, header: &BatchHeader, record: &RecordView<'_>, latest: &Latest) -> bool {
        // Without a key there is nothing to supersede it.
        let Some(key) = record.key else {
            return true;
        };
        let offset = header.base_offset + record.offset_delta;
        // What is not known here lies in the clean part and was not superseded.
        let is_latest = latest.by_key.get(&hash(key)).is_none_or(|newest| *newest == offset);
        is_latest && (record.value.is_some() || offset >= self.expired_below)
    }

    fn each_batch(
        &self,
        segment: &Segment,
        mut visit: impl FnMut(&BatchHeader, &[u8]) -> Result<(), &'static str>,
    ) -> Result<(), StorageError> {
        let io = |error| StorageError::io(&segment.file, error);
        let mut position = 0;
        let mut want = CHUNK_BYTES;
        while position < segment.length {
            let mut buffer = vec![0; want.min((segment.length - position) as usize)];
            let count = self.disk.read_at(&segment.file, position, &mut buffer).map_err(io)?;
            buffer.truncate(count);
            let mut at = 0;
            while let Some(header) = BatchHeader::parse(&buffer[at..]) {
                if at + header.length > buffer.len() {
                    want = want.max(header.length);
                    break;
                }
                let bytes = &buffer[at..at + header.length];
                // Else what is damaged would be given a checksum that fits, or hide a record that is whole.
                let intact = batch::is_intact(bytes).then_some(()).ok_or("checksum does not match");
                intact.and_then(|()| visit(&header, bytes)).map_err(|what| StorageError::Corrupt {
                    file: segment.file.clone(),
                    position: position + at as u64,
                    what,
                })?;
                at += header.length;
            }
            if at == 0 && (buffer.len() >= want || count as u64 == segment.length - position) {
                return Err(StorageError::Corrupt {
                    file: segment.file.clone(),
                    position,
                    what: "no batch where one should be",
                });
            }
            position += at as u64;
        }
        Ok(())
    }
}

/// A batch whose records are all superseded.
fn emptied(header: &BatchHeader, latest: &Latest) -> Fate {
    if latest.by_producer.get(&header.producer_id) != Some(&header.base_offset) {
        return Fate::Drop;
    }
    if header.record_count == 0 {
        return Fate::Keep;
    }
    let mut header = *header;
    header.record_count = 0;
    header.attributes = 0;
    Fate::Rewrite(batch::assemble(&header, &[]))
}

fn records_of(header: &BatchHeader, bytes: &[u8]) -> Result<Bytes, &'static str> {
    let records = Bytes::copy_from_slice(&bytes[HEADER_BYTES..]);
    decompress(header.codec(), records).map_err(|_| "records do not decompress")
}
