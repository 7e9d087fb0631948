//! Doors of the core for fuzzing: see [`crate::fuzzing`].

use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, MemoryDisk};
use super::journal::{Entry, first_file, frame};
use super::members::subscribes_to;
use super::{Core, Settings};

/// Metadata of a group's member, as a consumer describes its subscription.
pub fn subscription(bytes: &[u8]) {
    subscribes_to(&Bytes::copy_from_slice(bytes), "t");
}

/// What a start makes of a journal: the bytes as they are, and each line of them as an entry with the right checksum.
/// Groups, offsets and transactions live on in what it says.
pub fn journal(bytes: &[u8]) {
    live(bytes);
    let mut framed = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
            frame(&entry, &mut framed);
        }
    }
    live(&framed);
}

fn live(journal: &[u8]) {
    let disk = Arc::new(MemoryDisk::new());
    disk.write_at(&first_file(), 0, journal).ok();
    let Ok(mut core) = Core::open(disk.clone(), Settings { max_partitions: 100, ..Settings::DEFAULT }, 1_000) else {
        return;
    };
    for now in [1_000, 100_000, 10_000_000, 10_000_000_000] {
        core.tick(now);
        core.take_replies();
    }
    for id in core.transactional_ids() {
        assert!(core.transaction(&id).is_some(), "a listed id is known");
        core.init_producer(10_000_000_000, Some(&id), 1_000, None).ok();
    }
    drop(core);
    Core::open(disk, Settings::DEFAULT, 10_000_000_000).ok();
}
