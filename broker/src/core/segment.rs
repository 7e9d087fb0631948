//! One file of a partition's log. The newest segment keeps its index in memory, the others beside them on disk.
//!
//! Knows where batches lie in the file; never what they mean.

use std::io;

use bytes::Bytes;

use super::batch::{BatchHeader, HEADER_BYTES};
use super::disk::Disk;
use super::index::Index;

/// Read at a time when headers are walked through.
const WALK_BYTES: u64 = 1 << 20;

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

/// The base offset in the file name of a segment's index, `None` for other files.
#[must_use]
pub fn index_base(name: &str) -> Option<i64> {
    name.strip_suffix(".index")?.parse().ok()
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
    /// In memory while the segment grows; `None` is on disk.
    index: Option<Index>,
}

impl Segment {
    /// An empty segment.
    #[must_use]
    pub fn new(file: String, base: i64) -> Self {
        Self { file, base, length: 0, next_offset: base, max_timestamp: i64::MIN, index: Some(Index::new()) }
    }

    /// A segment that is known, with its index on disk or to be built when it is needed.
    #[must_use]
    pub fn known(file: String, base: i64, length: u64, next_offset: i64, max_timestamp: i64) -> Self {
        Self { file, base, length, next_offset, max_timestamp, index: None }
    }

    /// Takes note of a batch at the end of the file.
    pub fn add(&mut self, header: &BatchHeader) {
        if let Some(index) = &mut self.index {
            index.add(self.base, header, self.length, self.max_timestamp);
        }
        self.length += header.length as u64;
        self.next_offset = header.last_offset() + 1;
        self.max_timestamp = self.max_timestamp.max(header.max_timestamp);
    }

    /// Largest timestamp of its first batch, milliseconds; `None` if there is none or the disk refuses.
    #[must_use]
    pub fn first_timestamp(&self, disk: &dyn Disk) -> Option<i64> {
        let mut head = [0; HEADER_BYTES];
        let count = disk.read_at(&self.file, 0, &mut head).ok()?;
        BatchHeader::parse(&head[..count]).map(|header| header.max_timestamp)
    }

    /// Path of its index.
    #[must_use]
    pub fn index_file(&self) -> String {
        format!("{}.index", self.file.trim_end_matches(".log"))
    }

    /// The bytes of its index file as of now, while the index is in memory.
    #[must_use]
    pub fn encoded_index(&self) -> Option<Vec<u8>> {
        self.index.as_ref().map(|index| index.encode(self.length))
    }

    /// Writes the index to disk, as the segment grows no more. If the disk refuses, the index stays in memory.
    pub fn close(&mut self, disk: &dyn Disk) {
        let Some(bytes) = self.encoded_index() else {
            return;
        };
        match disk.write_at(&self.index_file(), 0, &bytes) {
            Ok(()) => self.index = None,
            Err(error) => tracing::warn!(file = self.index_file(), %error, "index not written"),
        }
    }

    /// Takes the index into memory, because the segment is to grow.
    ///
    /// # Errors
    /// If the disk refuses, or the segment does not hold whole batches.
    pub fn open_index(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.index.is_none() {
            self.index = Some(self.index_from_disk(disk)?);
        }
        Ok(())
    }

    fn index_from_disk(&self, disk: &dyn Disk) -> io::Result<Index> {
        let file = self.index_file();
        if let Some(index) = Index::read(disk, &file, self.length)? {
            return Ok(index);
        }
        let index = self.build_index(disk)?;
        if let Err(error) = disk.write_at(&file, 0, &index.encode(self.length)) {
            tracing::warn!(file, %error, "index not written");
        }
        Ok(index)
    }

    /// Builds the index from the headers of all batches.
    fn build_index(&self, disk: &dyn Disk) -> io::Result<Index> {
        let mut index = Index::new();
        let mut max_timestamp = i64::MIN;
        let mut position = 0;
        while position < self.length {
            let mut buffer = vec![0; WALK_BYTES.min(self.length - position) as usize];
            let count = disk.read_at(&self.file, position, &mut buffer)?;
            buffer.truncate(count);
            let mut at = 0;
            while let Some(header) = buffer.get(at..).and_then(BatchHeader::parse) {
                index.add(self.base, &header, position + at as u64, max_timestamp);
                max_timestamp = max_timestamp.max(header.max_timestamp);
                at += header.length;
            }
            if at == 0 {
                return Err(self.damaged(position));
            }
            position += at as u64;
        }
        Ok(index)
    }

    fn damaged(&self, position: u64) -> io::Error {
        let what = format!("{} is corrupt at byte {position}: no batch where one should be", self.file);
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    fn with_index<R>(&self, disk: &dyn Disk, ask: impl FnOnce(&Index) -> R) -> io::Result<R> {
        match &self.index {
            Some(index) => Ok(ask(index)),
            None => Ok(ask(&self.index_from_disk(disk)?)),
        }
    }

    /// An offset at or before the first batch whose largest timestamp reaches `timestamp`.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn offset_before_timestamp(&self, disk: &dyn Disk, timestamp: i64) -> io::Result<i64> {
        self.with_index(disk, |index| self.base + index.offset_before_timestamp(timestamp))
    }

    /// Whole batches from the one that contains `offset` (or the next after it) up to `limit`, at most `max_bytes`,
    /// and the offset after them. Nothing if the segment has no such batch, or if the first is larger than `max_bytes`
    /// and `at_least_one` is not set.
    ///
    /// # Errors
    /// If the disk refuses, or the file does not hold what it should; the text names file and position.
    pub fn read(
        &self,
        disk: &dyn Disk,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
        limit: i64,
    ) -> io::Result<(Bytes, i64)> {
        let (mut position, slack) =
            self.with_index(disk, |index| (index.position_before(offset - self.base), index.interval()))?;
        let mut want = max_bytes as u64 + slack + HEADER_BYTES as u64;
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
                    let short = (count as u64) < want.min(self.length - position);
                    let stuck = skip == 0 && (need <= buffer.len() || count as u64 == self.length - position);
                    if short || stuck {
                        return Err(self.damaged(position));
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
