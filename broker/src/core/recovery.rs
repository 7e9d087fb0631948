//! Rebuilding a partition's log at start. What a snapshot covers is taken as it stands; every batch after it is read and
//! its checksum verified.
//!
//! A torn end of the newest segment is cut off. Anything else that is broken is an error; nothing is repaired silently.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::StorageError;
use super::batch::{self, BatchHeader, HEADER_BYTES};
use super::log::PartitionLog;
use super::merge::Merge;
use super::producers::Producers;
use super::segment::{Segment, index_base, segment_base, segment_file};
use super::snapshot::{KnownSegment, SNAPSHOT_FILE, Snapshot};

const CHUNK_BYTES: usize = 4 << 20;

impl PartitionLog {
    pub(super) fn recover(&mut self, now: i64) -> Result<(), StorageError> {
        let gone = Merge::settle(&*self.disk, &self.dir)?;
        let names = self.disk.list(&self.dir).map_err(|error| StorageError::io(&self.dir, error))?;
        let mut lengths: BTreeMap<i64, u64> = BTreeMap::new();
        for base in names.iter().filter_map(|name| segment_base(name)).filter(|base| !gone.contains(base)) {
            let file = segment_file(&self.dir, base);
            let length = self.disk.length(&file).map_err(|error| StorageError::io(&file, error))?;
            lengths.insert(base, length);
        }
        for name in &names {
            let is_index = index_base(name).is_some_and(|base| lengths.contains_key(&base));
            if segment_base(name).is_none() && !is_index && name != SNAPSHOT_FILE {
                let leftover = format!("{}/{name}", self.dir);
                self.delete(&leftover)?;
            }
        }
        let snapshot = match Snapshot::read(&*self.disk, &self.dir)? {
            Some(snapshot) if fits(&snapshot, &lengths) => Some(snapshot),
            Some(_) => {
                tracing::warn!(dir = self.dir, "snapshot does not fit the segments; reading all of them");
                None
            }
            None => None,
        };
        if let Some(snapshot) = snapshot {
            self.resume(snapshot, &lengths, now)?;
        }
        let known_to = self.segments.last().map(|segment| segment.base);
        for base in lengths.keys().copied().filter(|base| known_to.is_none_or(|known| *base > known)) {
            let file = segment_file(&self.dir, base);
            self.end = base;
            self.active_since = None;
            let mut segment = Segment::new(file, base);
            self.verify(&mut segment, next_base(&lengths, base), now)?;
            if let Some(older) = self.segments.last_mut() {
                older.close(&*self.disk);
            }
            self.segments.push(segment);
        }
        Ok(())
    }

    /// Takes the state from a snapshot that fits, and verifies what its newest segment has got since.
    fn resume(&mut self, snapshot: Snapshot, lengths: &BTreeMap<i64, u64>, now: i64) -> Result<(), StorageError> {
        self.end = snapshot.end();
        self.snapshotted.offset = self.end;
        self.producers = snapshot.producers;
        self.producers.reopen();
        self.aborted = snapshot.aborted;
        self.active_since = snapshot.active_since;
        let present = snapshot.segments.iter().filter(|known| lengths.contains_key(&known.base));
        self.segments = present.map(|known| known_segment(&self.dir, known)).collect();
        let Some(mut last) = self.segments.pop() else {
            // Everything it knew of is deleted, and maybe more: markers, batches and newer epochs of the same producers.
            // To know nothing of a producer is harmless, to know something outdated is not.
            self.producers = Producers::default();
            return Ok(());
        };
        last.open_index(&*self.disk).map_err(|error| StorageError::io(&last.file, error))?;
        let next = next_base(lengths, last.base);
        self.verify(&mut last, next, now)?;
        self.segments.push(last);
        Ok(())
    }

    fn delete(&self, file: &str) -> Result<(), StorageError> {
        self.disk.delete(file).map_err(|error| StorageError::io(file, error))
    }

    /// Reads what the file of `segment` holds behind its known length. `next` is where the next segment begins; the
    /// newest has none.
    fn verify(&mut self, segment: &mut Segment, next: Option<i64>, now: i64) -> Result<(), StorageError> {
        let file = segment.file.clone();
        let io = |error| StorageError::io(&file, error);
        let length = self.disk.length(&segment.file).map_err(io)?;
        let mut buffer: Vec<u8> = Vec::new();
        let mut read_to = segment.length;
        let mut at = 0usize;
        while segment.length < length {
            let need = match BatchHeader::parse(&buffer[at..]) {
                Some(header) => header.length,
                None => HEADER_BYTES,
            };
            if buffer.len() - at < need && read_to < length {
                buffer.drain(..at);
                at = 0;
                let want = need.max(CHUNK_BYTES).min((length - segment.length) as usize);
                let have = buffer.len();
                buffer.resize(have.max(want), 0);
                let count = self.disk.read_at(&segment.file, read_to, &mut buffer[have..]).map_err(io)?;
                buffer.truncate(have + count);
                read_to += count as u64;
                if count == 0 {
                    read_to = length;
                }
                continue;
            }
            let left = (length - segment.length) as usize;
            match judge(&buffer[at..], left, self.allowed(segment, next)) {
                Judgement::Whole(header) => {
                    let bytes = &buffer[at..at + header.length];
                    self.recover_batch(&header, bytes, now)
                        .map_err(|()| StorageError::corrupt(segment, "unknown control record"))?;
                    segment.add(&header);
                    self.snapshotted.bytes_since += header.length as u64;
                    at += header.length;
                }
                Judgement::Torn if next.is_none() => {
                    if self.holds_batch_behind(segment, length)? {
                        return Err(StorageError::corrupt(segment, "a broken batch before whole ones"));
                    }
                    tracing::warn!(file = segment.file, position = segment.length, bytes = left, "torn end cut off");
                    self.disk.truncate(&segment.file, segment.length).map_err(io)?;
                    return Ok(());
                }
                Judgement::Torn => {
                    return Err(StorageError::corrupt(segment, "ends in the middle of a batch"));
                }
                Judgement::Broken(what) => return Err(StorageError::corrupt(segment, what)),
            }
        }
        Ok(())
    }
}

impl PartitionLog {
    /// Where the next batch of `segment` may lie. No checksum covers a batch's own offset, so it has to fit what is around
    /// it: compaction leaves gaps only where another segment follows, and the newest has none above the oldest offset.
    fn allowed(&self, segment: &Segment, next: Option<i64>) -> Allowed {
        let least = segment.next_offset;
        Allowed { least, most: if next.is_some() { i64::MAX } else { least.max(self.start) }, end: next }
    }

    /// Whether whole batches follow somewhere behind the known length: then what is there is no unfinished write. Their
    /// offsets prove nothing by themselves, but neither does a batch that is a value inside the unfinished one: that a
    /// batch is one of the log is told by its offset, or by whole batches from there to the end of the file.
    fn holds_batch_behind(&self, segment: &Segment, length: u64) -> Result<bool, StorageError> {
        let io = |error| StorageError::io(&segment.file, error);
        let mut bytes = vec![0; (length - segment.length) as usize];
        let count = self.disk.read_at(&segment.file, segment.length, &mut bytes).map_err(io)?;
        bytes.truncate(count);
        let expected = segment.next_offset..segment.next_offset.saturating_add(i64::from(u32::MAX));
        Ok((1..count).any(|at| {
            whole_batch(&bytes[at..])
                .is_some_and(|header| expected.contains(&header.base_offset) || whole_to_the_end(&bytes[at..]))
        }))
    }
}

/// The header of the batch at the start of `bytes`, if all of it is there and intact.
fn whole_batch(bytes: &[u8]) -> Option<BatchHeader> {
    let header = BatchHeader::parse(bytes)?;
    bytes.get(..header.length).is_some_and(batch::is_intact).then_some(header)
}

fn whole_to_the_end(mut bytes: &[u8]) -> bool {
    while let Some(header) = whole_batch(bytes) {
        bytes = &bytes[header.length..];
    }
    bytes.is_empty()
}

fn next_base(lengths: &BTreeMap<i64, u64>, base: i64) -> Option<i64> {
    lengths.range((Bound::Excluded(base), Bound::Unbounded)).next().map(|(next, _)| *next)
}

fn known_segment(dir: &str, known: &KnownSegment) -> Segment {
    Segment::known(segment_file(dir, known.base), known.base, known.length, known.next_offset, known.max_timestamp)
}

/// Whether the segments on disk are those of the snapshot, but for those retention has deleted since and for what was
/// appended since.
fn fits(snapshot: &Snapshot, lengths: &BTreeMap<i64, u64>) -> bool {
    let Some((oldest, _)) = lengths.first_key_value() else {
        return false;
    };
    let Some((last, closed)) = snapshot.segments.split_last() else {
        return false;
    };
    let unknown = lengths.range(..last.base).filter(|(base, _)| !closed.iter().any(|known| known.base == **base));
    let deleted = |known: &KnownSegment| known.base < *oldest;
    unknown.count() == 0
        && closed.iter().all(|known| deleted(known) || lengths.get(&known.base) == Some(&known.length))
        && (deleted(last) || lengths.get(&last.base).is_some_and(|length| *length >= last.length))
}

/// Offsets a batch may have.
#[derive(Clone, Copy)]
struct Allowed {
    /// Least first offset.
    least: i64,
    /// Largest first offset.
    most: i64,
    /// Where the next segment begins.
    end: Option<i64>,
}

enum Judgement {
    Whole(BatchHeader),
    Torn,
    Broken(&'static str),
}

/// Judges the batch at the start of `bytes`; `left` is how much of the file is left.
fn judge(bytes: &[u8], left: usize, allowed: Allowed) -> Judgement {
    let Some(header) = BatchHeader::parse(bytes) else {
        let blank = bytes.iter().all(|byte| *byte == 0);
        return if left < HEADER_BYTES || blank {
            Judgement::Torn
        } else {
            Judgement::Broken("impossible batch length")
        };
    };
    if header.length > left {
        return Judgement::Torn;
    }
    if !batch::is_intact(&bytes[..header.length]) {
        // Damage in the very last batch is a write that did not finish; damage before it is not.
        return if header.length == left { Judgement::Torn } else { Judgement::Broken("checksum does not match") };
    }
    if header.base_offset < allowed.least || header.last_offset_delta < 0 {
        return Judgement::Broken("offsets go backwards");
    }
    let last = header.base_offset.checked_add(i64::from(header.last_offset_delta));
    if header.base_offset > allowed.most || last.is_none_or(|last| last >= allowed.end.unwrap_or(i64::MAX)) {
        return Judgement::Broken("offsets jump ahead");
    }
    Judgement::Whole(header)
}
