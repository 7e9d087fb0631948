//! The sparse index of a segment: where batches lie, by offset and by time. A hint that can always be built anew from
//! the segment itself; bounded in memory and on disk, however large the segment.
//!
//! On disk: magic, covered length, number of entries, CRC-32C of the entries, then 16 bytes an entry.

use std::io;

use super::batch::BatchHeader;
use super::disk::Disk;

/// One entry for about so many bytes of log, as long as the segment is small.
const FIRST_INTERVAL: u64 = 4096;
/// With more entries, every second one is dropped and the interval doubled.
const MAX_ENTRIES: usize = 4096;
const MAGIC: u32 = 0x4d52_4931; // "MRI1"
const HEAD_BYTES: usize = 28;
const ENTRY_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    offset_delta: u32,
    position: u32,
    /// Largest timestamp of all batches of the segment before this position.
    max_timestamp_before: i64,
}

/// Offsets, positions and times of some batches of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    interval: u64,
    entries: Vec<Entry>,
}

impl Index {
    /// The index of an empty segment.
    #[must_use]
    pub fn new() -> Self {
        Self { interval: FIRST_INTERVAL, entries: Vec::new() }
    }

    /// Takes note of a batch at `position` of a segment that begins at offset `base`.
    pub fn add(&mut self, base: i64, header: &BatchHeader, position: u64, max_timestamp_before: i64) {
        let indexed = self.entries.last().map(|entry| u64::from(entry.position));
        if indexed.is_some_and(|last| position - last < self.interval) {
            return;
        }
        let offset_delta = u32::try_from(header.base_offset - base);
        // Segments are limited to 2 GiB and offsets to fewer than bytes; a gap too wide is merely not indexed.
        let (Ok(offset_delta), Ok(position)) = (offset_delta, u32::try_from(position)) else {
            return;
        };
        if self.entries.len() >= MAX_ENTRIES {
            let mut place = 0;
            self.entries.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.interval *= 2;
        }
        self.entries.push(Entry { offset_delta, position, max_timestamp_before });
    }

    /// A position at or before the batch that contains `base + offset_delta`.
    #[must_use]
    pub fn position_before(&self, offset_delta: i64) -> u64 {
        let after = self.entries.partition_point(|entry| i64::from(entry.offset_delta) <= offset_delta);
        after.checked_sub(1).map_or(0, |at| u64::from(self.entries[at].position))
    }

    /// An offset, relative to the base, at or before the first batch whose largest timestamp reaches `timestamp`.
    #[must_use]
    pub fn offset_before_timestamp(&self, timestamp: i64) -> i64 {
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before < timestamp);
        after.checked_sub(1).map_or(0, |at| i64::from(self.entries[at].offset_delta))
    }

    /// About so many bytes lie between two entries.
    #[must_use]
    pub fn interval(&self) -> u64 {
        self.interval
    }

    /// The file of an index that covers the first `length` bytes of its segment.
    #[must_use]
    pub fn encode(&self, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_BYTES];
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.offset_delta.to_be_bytes());
            bytes.extend_from_slice(&entry.position.to_be_bytes());
            bytes.extend_from_slice(&entry.max_timestamp_before.to_be_bytes());
        }
        bytes[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[4..12].copy_from_slice(&length.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.interval.to_be_bytes());
        bytes[20..24].copy_from_slice(&(self.entries.len() as u32).to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..24]), &bytes[HEAD_BYTES..]);
        bytes[24..28].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads an index file; `None` if it is not there, not whole, or not about the first `length` bytes.
    ///
    /// # Errors
    /// Whatever the disk answers, but for a file that does not exist.
    pub fn read(disk: &dyn Disk, file: &str, length: u64) -> io::Result<Option<Self>> {
        let mut bytes = vec![0; HEAD_BYTES + MAX_ENTRIES * ENTRY_BYTES];
        let count = match disk.read_at(file, 0, &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        bytes.truncate(count);
        Ok(decode(&bytes, length))
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

fn decode(bytes: &[u8], length: u64) -> Option<Index> {
    let (head, body) = bytes.split_at_checked(HEAD_BYTES)?;
    let word = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let long = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    let count = word(20)? as usize;
    let body = body.get(..count.checked_mul(ENTRY_BYTES)?)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..24]), body);
    if word(0)? != MAGIC || long(4)? != length || word(24)? != crc {
        return None;
    }
    let entries = body.chunks_exact(ENTRY_BYTES).map(|entry| {
        let (deltas, time) = entry.split_at(8);
        let (offset, position) = deltas.split_at(4);
        Some(Entry {
            offset_delta: u32::from_be_bytes(offset.try_into().ok()?),
            position: u32::from_be_bytes(position.try_into().ok()?),
            max_timestamp_before: i64::from_be_bytes(time.try_into().ok()?),
        })
    });
    Some(Index { interval: long(12)?, entries: entries.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::batch;
    use crate::core::disk::MemoryDisk;

    fn filled(batches: i64, bytes: u64) -> Index {
        let mut index = Index::new();
        let plain = batch::single_record(0, b"k", None);
        for number in 0..batches {
            let mut header = BatchHeader::parse(&plain).expect("a batch");
            header.base_offset = 100 + number;
            index.add(100, &header, number as u64 * bytes, number - 1);
        }
        index
    }

    #[test]
    fn it_stays_small_and_every_batch_is_at_or_behind_its_entry() {
        let bytes = 300;
        let index = filled(1_000_000, bytes);
        assert!(index.entries.len() <= MAX_ENTRIES);
        for offset in (0..1_000_000).step_by(997) {
            let position = index.position_before(offset);
            assert!(position <= offset as u64 * bytes, "{offset}");
            // Entries lie a little further apart than the interval, more so each time every second one was dropped.
            assert!(offset as u64 * bytes - position <= 2 * index.interval(), "{offset}");
            assert!(index.offset_before_timestamp(offset) <= offset);
        }
    }

    #[test]
    fn its_file_is_read_back_or_refused_but_never_believed_wrongly() {
        let disk = MemoryDisk::new();
        let index = filled(5000, 1000);
        let mut bytes = index.encode(77);
        disk.write_at("i", 0, &bytes).expect("written");
        assert_eq!(Index::read(&disk, "i", 77).expect("read"), Some(index));
        assert_eq!(Index::read(&disk, "i", 78).expect("read"), None, "of another length");
        assert_eq!(Index::read(&disk, "none", 77).expect("read"), None);
        for at in [0, 13, 22, HEAD_BYTES + 5, bytes.len() - 1] {
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes, 77), None, "byte {at}");
            bytes[at] ^= 1;
        }
        assert_eq!(decode(&bytes[..bytes.len() - 1], 77), None);
    }
}
