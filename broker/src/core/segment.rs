//! One file of a partition's log and its sparse index.
//!
//! Knows where batches lie in the file; never what they mean.

use std::io;

use bytes::Bytes;

use super::batch::{BatchHeader, HEADER_BYTES};
use super::disk::Disk;

/// One index entry for about so many bytes of log.
const INDEX_INTERVAL: u64 = 4096;
/// Read ahead of the wanted batch when its exact position is not indexed.
const READ_SLACK: u64 = INDEX_INTERVAL + HEADER_BYTES as u64;

/// Path of the segment of `dir` that begins at `base`.
#[must_use]
pub fn segment_file(dir: &str, base: i64) -> String {
    format!("{dir}/{base:020}.log")
}

/// The base offset in a segment's file name, `None` for other files.
#[must_use]
pub fn segment_base(name: &str) -> Option<i64> {
    name.strip_suffix(".log")?.parse().ok()
}

#[derive(Debug, Clone, Copy)]
struct IndexEntry {
    offset_delta: u32,
    position: u32,
    /// Largest timestamp of all batches of the segment before this position.
    max_timestamp_before: i64,
}

/// A segment file.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Path of the file.
    pub file: String,
    /// First offset the segment may hold.
    pub base: i64,
    /// Bytes of whole batches in the file.
    pub length: u64,
    /// Offset after the last batch, `base` if there is none.
    pub next_offset: i64,
    /// Largest timestamp of any batch, milliseconds; `i64::MIN` if empty.
    pub max_timestamp: i64,
    index: Vec<IndexEntry>,
}

impl Segment {
    /// An empty segment.
    #[must_use]
    pub fn new(file: String, base: i64) -> Self {
        Self { file, base, length: 0, next_offset: base, max_timestamp: i64::MIN, index: Vec::new() }
    }

    /// Takes note of a batch at the end of the file.
    pub fn add(&mut self, header: &BatchHeader) {
        let indexed = self.index.last().map(|entry| u64::from(entry.position));
        if indexed.is_none_or(|position| self.length - position >= INDEX_INTERVAL) {
            let offset_delta = u32::try_from(header.base_offset - self.base);
            let position = u32::try_from(self.length);
            // Segments are limited to 2 GiB and offsets to fewer than bytes; a gap too wide is merely not indexed.
            if let (Ok(offset_delta), Ok(position)) = (offset_delta, position) {
                self.index.push(IndexEntry { offset_delta, position, max_timestamp_before: self.max_timestamp });
            }
        }
        self.length += header.length as u64;
        self.next_offset = header.last_offset() + 1;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    fn entry_offset(&self, entry: &IndexEntry) -> i64 {
        self.base + i64::from(entry.offset_delta)
    }

    /// A position at or before the batch that contains `offset`.
    fn position_before(&self, offset: i64) -> u64 {
        let after = self.index.partition_point(|entry| self.entry_offset(entry) <= offset);
        after.checked_sub(1).map_or(0, |at| u64::from(self.index[at].position))
    }

    /// An offset at or before the first batch whose largest timestamp reaches `timestamp`.
    #[must_use]
    pub fn offset_before_timestamp(&self, timestamp: i64) -> i64 {
        let after = self.index.partition_point(|entry| entry.max_timestamp_before < timestamp);
        after.checked_sub(1).map_or(self.base, |at| self.entry_offset(&self.index[at]))
    }

    /// Whole batches from the one that contains `offset` (or the next after it) up to `limit`, at most `max_bytes`,
    /// and the offset after them. Nothing if the segment has no such batch, or if the first is larger than `max_bytes`
    /// and `at_least_one` is not set.
    pub fn read(
        &self,
        disk: &dyn Disk,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
        limit: i64,
    ) -> io::Result<(Bytes, i64)> {
        let mut position = self.position_before(offset);
        let mut want = max_bytes as u64 + READ_SLACK;
        while position < self.length {
            let mut buffer = vec![0; want.min(self.length - position) as usize];
            let count = disk.read_at(&self.file, position, &mut buffer)?;
            buffer.truncate(count);
            match select(&buffer, offset, max_bytes, at_least_one, limit) {
                Selection::Batches { range, next } => {
                    return Ok((Bytes::from(buffer).slice(range), next));
                }
                Selection::None => break,
                Selection::Later { skip, need } => {
                    if skip == 0 && need <= buffer.len() {
                        let at = position;
                        let what = format!("{} is shorter than known at {at}", self.file);
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
                    }
                    if skip == 0 && count as u64 == self.length - position {
                        break;
                    }
                    position += skip as u64;
                    want = want.max(need as u64);
                }
            }
        }
        Ok((Bytes::new(), offset))
    }
}

enum Selection {
    /// These bytes are the answer.
    Batches { range: std::ops::Range<usize>, next: i64 },
    /// There is nothing to return.
    None,
    /// The wanted batch lies further on: skip so many bytes, then read at least so many.
    Later { skip: usize, need: usize },
}

fn select(buffer: &[u8], offset: i64, max_bytes: usize, at_least_one: bool, limit: i64) -> Selection {
    let mut at = 0;
    let mut first = None;
    let mut next = offset;
    let need = loop {
        let Some(header) = BatchHeader::parse(&buffer[at..]) else {
            break HEADER_BYTES;
        };
        if header.last_offset() < offset {
            at += header.length;
            if at > buffer.len() {
                break HEADER_BYTES;
            }
            continue;
        }
        if header.base_offset >= limit {
            return finish(first, at, next);
        }
        let begin = first.unwrap_or(at);
        let too_large = at + header.length - begin > max_bytes;
        if too_large && (first.is_some() || !at_least_one) {
            return finish(first, at, next);
        }
        if at + header.length > buffer.len() {
            break header.length;
        }
        first = Some(begin);
        at += header.length;
        next = header.last_offset() + 1;
        if too_large {
            break 0;
        }
    };
    match first {
        Some(begin) => Selection::Batches { range: begin..at, next },
        None => Selection::Later { skip: at, need },
    }
}

fn finish(first: Option<usize>, at: usize, next: i64) -> Selection {
    match first {
        Some(begin) => Selection::Batches { range: begin..at, next },
        None => Selection::None,
    }
}
