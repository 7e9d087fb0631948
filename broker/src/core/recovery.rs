//! Rebuilding a partition's log at start. What a snapshot covers is taken as it stands; every batch after it is read and
//! its checksum verified.
//!
//! A torn end of the newest segment is cut off. Anything else that is broken is an error; nothing is repaired silently.

use std::collections::BTreeMap;

use super::StorageError;
use super::batch::{self, BatchHeader, HEADER_BYTES};
use super::log::PartitionLog;
use super::producers::Producers;
use super::segment::{Segment, index_base, segment_base, segment_file};
use super::snapshot::{KnownSegment, SNAPSHOT_FILE, Snapshot};

const CHUNK_BYTES: usize = 4 << 20;

impl PartitionLog {
    pub(super) fn recover(&mut self, now: i64) -> Result<(), StorageError> {
        let names = self.disk.list(&self.dir).map_err(|error| StorageError::io(&self.dir, error))?;
        let mut lengths: BTreeMap<i64, u64> = BTreeMap::new();
        for base in names.iter().filter_map(|name| segment_base(name)) {
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
        let newest = lengths.last_key_value().map(|(base, _)| *base);
        let known_to = self.segments.last().map(|segment| segment.base);
        for base in lengths.into_keys().filter(|base| known_to.is_none_or(|known| *base > known)) {
            let file = segment_file(&self.dir, base);
            if base < self.end {
                // Compaction had merged this segment into the one before and died before deleting it.
                self.delete(&file)?;
                continue;
            }
            self.end = base;
            self.active_since = None;
            let mut segment = Segment::new(file, base);
            self.verify(&mut segment, Some(base) == newest, now)?;
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
        let newest = lengths.last_key_value().map(|(base, _)| *base) == Some(last.base);
        self.verify(&mut last, newest, now)?;
        self.segments.push(last);
        Ok(())
    }

    fn delete(&self, file: &str) -> Result<(), StorageError> {
        self.disk.delete(file).map_err(|error| StorageError::io(file, error))
    }

    /// Reads what the file of `segment` holds behind its known length.
    fn verify(&mut self, segment: &mut Segment, newest: bool, now: i64) -> Result<(), StorageError> {
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
            match judge(&buffer[at..], left, segment.next_offset) {
                Judgement::Whole(header) => {
                    let bytes = &buffer[at..at + header.length];
                    self.recover_batch(&header, bytes, now)
                        .map_err(|()| StorageError::corrupt(segment, "unknown control record"))?;
                    segment.add(&header);
                    self.snapshotted.bytes_since += header.length as u64;
                    at += header.length;
                }
                Judgement::Torn if newest => {
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
    /// Whether a whole batch follows somewhere behind the known length: then what is there is no unfinished write.
    fn holds_batch_behind(&self, segment: &Segment, length: u64) -> Result<bool, StorageError> {
        let io = |error| StorageError::io(&segment.file, error);
        let mut bytes = vec![0; (length - segment.length) as usize];
        let count = self.disk.read_at(&segment.file, segment.length, &mut bytes).map_err(io)?;
        let expected = segment.next_offset..segment.next_offset + i64::from(u32::MAX);
        Ok((1..count).any(|at| {
            let rest = &bytes[at..count];
            BatchHeader::parse(rest).is_some_and(|header| {
                expected.contains(&header.base_offset)
                    && header.length <= rest.len()
                    && batch::is_intact(&rest[..header.length])
            })
        }))
    }
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

enum Judgement {
    Whole(BatchHeader),
    Torn,
    Broken(&'static str),
}

/// Judges the batch at the start of `bytes`; `left` is how much of the file is left, `next_offset` the least it may begin at.
fn judge(bytes: &[u8], left: usize, next_offset: i64) -> Judgement {
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
    if header.base_offset < next_offset || header.last_offset_delta < 0 {
        return Judgement::Broken("offsets go backwards");
    }
    Judgement::Whole(header)
}
