//! Rebuilding a partition's log from its files at start: every batch is read and its checksum verified.
//!
//! A torn end of the newest segment is cut off. Anything else that is broken is an error; nothing is repaired silently.

use super::StorageError;
use super::batch::{self, BatchHeader, HEADER_BYTES};
use super::log::PartitionLog;
use super::segment::{Segment, segment_base, segment_file};

const CHUNK_BYTES: usize = 4 << 20;

impl PartitionLog {
    pub(super) fn recover(&mut self, now: i64) -> Result<(), StorageError> {
        let names = self.disk.list(&self.dir).map_err(|error| StorageError::io(&self.dir, error))?;
        let mut bases: Vec<i64> = names.iter().filter_map(|name| segment_base(name)).collect();
        bases.sort_unstable();
        for name in names.iter().filter(|name| segment_base(name).is_none()) {
            let leftover = format!("{}/{name}", self.dir);
            self.delete(&leftover)?;
        }
        let newest = bases.last().copied();
        for base in bases {
            let file = segment_file(&self.dir, base);
            if base < self.end {
                // Compaction had merged this segment into the one before and died before deleting it.
                self.delete(&file)?;
                continue;
            }
            self.end = base;
            let mut segment = Segment::new(file, base);
            self.recover_segment(&mut segment, Some(base) == newest, now)?;
            self.segments.push(segment);
        }
        // A merged newest segment cannot be: compaction never touches it. So the last one read is the active one.
        if self.segments.last().is_some_and(|active| active.length > 0) {
            self.active_since = Some(now);
        }
        Ok(())
    }

    fn delete(&self, file: &str) -> Result<(), StorageError> {
        self.disk.delete(file).map_err(|error| StorageError::io(file, error))
    }

    fn recover_segment(&mut self, segment: &mut Segment, newest: bool, now: i64) -> Result<(), StorageError> {
        let file = segment.file.clone();
        let io = |error| StorageError::io(&file, error);
        let length = self.disk.length(&segment.file).map_err(io)?;
        let mut buffer: Vec<u8> = Vec::new();
        let mut read_to = 0u64;
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
                    at += header.length;
                }
                Judgement::Torn if newest => {
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
