//! A core on a disk that counts what is read of it, and small batches to write: for tests of storage without clients.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod crash_disk;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use millrace_broker::core::batch::{self, BatchHeader, HEADER_BYTES, Records};
use millrace_broker::core::configs::Configs;
use millrace_broker::core::disk::{Disk, MemoryDisk};
use millrace_broker::core::log::Appended;
use millrace_broker::core::{Core, ErrorCode, Isolation, Settings, TopicPartition};

/// A disk in memory that counts the bytes read.
#[derive(Default)]
pub struct CountingDisk {
    pub inner: MemoryDisk,
    read: AtomicU64,
}

impl CountingDisk {
    /// Bytes read since the last call.
    pub fn take_read(&self) -> u64 {
        self.read.swap(0, Ordering::SeqCst)
    }

    /// All of a file.
    pub fn content(&self, file: &str) -> Vec<u8> {
        let mut bytes = vec![0; self.inner.length(file).expect("a length") as usize];
        self.inner.read_at(file, 0, &mut bytes).expect("read");
        bytes
    }
}

impl Disk for CountingDisk {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn length(&self, file: &str) -> io::Result<u64> {
        self.inner.length(file)
    }
    fn write_at(&self, file: &str, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(file, position, bytes)
    }
    fn read_at(&self, file: &str, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read_at(file, position, buffer)?;
        self.read.fetch_add(count as u64, Ordering::SeqCst);
        Ok(count)
    }
    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        self.inner.truncate(file, length)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn delete(&self, file: &str) -> io::Result<()> {
        self.inner.delete(file)
    }
    fn delete_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.delete_dir(dir)
    }
}

pub fn open(disk: &Arc<CountingDisk>, settings: Settings) -> Core {
    Core::open(disk.clone(), settings, 0).expect("opens")
}

pub fn create(core: &mut Core, name: &str, configs: &[(&str, &str)]) {
    let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    core.create_topic(0, name, 1, Configs::from_iter(configs), false).expect("created");
}

/// A batch of one record; of a producer (id, epoch, sequence) if one is given.
pub fn batch(now: i64, key: &[u8], value: &[u8], producer: Option<(i64, i16, i32)>, transactional: bool) -> Vec<u8> {
    let plain = batch::single_record(now, key, Some(value));
    let mut header = BatchHeader::parse(&plain).expect("a batch");
    if let Some((id, epoch, sequence)) = producer {
        (header.producer_id, header.producer_epoch, header.base_sequence) = (id, epoch, sequence);
    }
    if transactional {
        header.attributes |= 0x10;
    }
    batch::assemble(&header, &plain[HEADER_BYTES..])
}

pub fn append(core: &mut Core, now: i64, topic: &str, bytes: &[u8]) -> Result<Appended, ErrorCode> {
    let headers = batch::check_produced(bytes).expect("valid");
    core.append(now, topic, 0, bytes, &headers)
}

/// Writes `count` records without a producer; the value is 200 bytes.
pub fn fill(core: &mut Core, topic: &str, count: usize) {
    for number in 0..count {
        let bytes = batch(number as i64, &number.to_be_bytes(), &[b'v'; 200], None, false);
        append(core, number as i64, topic, &bytes).expect("appended");
    }
}

/// Takes every snapshot that is due.
pub fn snapshot(core: &mut Core) {
    while let Some(job) = core.next_snapshot() {
        let at = job.partition().clone();
        core.finish_snapshot(&at, job.run());
    }
}

/// Offsets of all records a reader sees, from the start on.
pub fn offsets(core: &Core, topic: &str, isolation: Isolation) -> Vec<i64> {
    let mut offsets = Vec::new();
    let mut next = core.earliest_offset(topic, 0).expect("a start");
    loop {
        let fetched = core.fetch(topic, 0, next, 1 << 16, true, isolation).expect("fetched");
        if fetched.records.is_empty() {
            return offsets;
        }
        let mut rest = &fetched.records[..];
        while let Some(header) = BatchHeader::parse(rest) {
            let (whole, tail) = rest.split_at(header.length);
            assert!(batch::is_intact(whole), "checksum at {}", header.base_offset);
            rest = tail;
            next = header.last_offset() + 1;
            let aborted = fetched.aborted.iter().any(|aborted| {
                aborted.producer_id == header.producer_id
                    && (aborted.first_offset..aborted.marker_offset).contains(&header.base_offset)
            });
            if header.is_control() || (header.is_transactional() && aborted) {
                continue;
            }
            let records = Records::new(&whole[HEADER_BYTES..]).map(|record| record.expect("well-formed"));
            offsets.extend(records.map(|record| header.base_offset + record.offset_delta));
        }
    }
}

pub fn at(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}
