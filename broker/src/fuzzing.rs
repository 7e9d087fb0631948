//! The doors through which bytes of strangers come, each as a function of bytes, for fuzzing (`fuzz/`) and for the test
//! that repeats what fuzzing has found. Whatever the bytes are, they must neither panic nor take memory or time out of
//! proportion. The broker itself never calls these.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::core::batch::{self, BatchHeader, HEADER_BYTES, Records};
use crate::core::configs::Configs;
use crate::core::disk::{Disk, MemoryDisk};
use crate::core::{Core, Isolation, Settings, TopicPartition};
use crate::wire::{Request, Shared, answer};

pub use crate::core::fuzzing::{journal, subscription};
pub use crate::registry::fuzzing::registry;

fn core_with_topic(configs: &[(&str, &str)]) -> Option<Core> {
    let mut core = Core::open(Arc::new(MemoryDisk::new()), Settings::DEFAULT, 0).ok()?;
    let configs = configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    core.create_topic(0, "t", 2, Configs::from_iter(configs), false).ok()?;
    Some(core)
}

/// What a client sends: frames, each after its length, answered one after the other by a broker with a topic `t`. One
/// that makes no sense ends the connection.
pub fn frames(mut bytes: &[u8]) {
    let Some(core) = core_with_topic(&[]) else { return };
    let shared = Arc::new(Shared::new(core, SocketAddr::from((Ipv4Addr::LOCALHOST, 9092)), "127.0.0.1".to_owned()));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let Some(frame) = usize::try_from(i32::from_be_bytes(*length)).ok().and_then(|length| rest.get(..length))
        else {
            return;
        };
        bytes = &rest[frame.len()..];
        let Ok(request) = Request::read(Bytes::copy_from_slice(frame)) else { return };
        // An answer that has to wait is not waited for.
        let answered = runtime.block_on(async {
            let answer = answer(&shared, request);
            tokio::time::timeout(Duration::ZERO, answer).await
        });
        if let Ok(Err(_)) = answered {
            return;
        }
    }
}

/// Record batches: as a client sends them, with their lengths and checksums put right so that more than those is tried,
/// and as a start finds them in a segment. What is accepted is read, looked up by time and compacted.
pub fn batches(bytes: &[u8]) {
    segment(bytes);
    let mut bytes = bytes.to_vec();
    mend(&mut bytes);
    segment(&bytes);
    let configs = [("cleanup.policy", "compact"), ("segment.bytes", "1024"), ("min.cleanable.dirty.ratio", "0")];
    let Some(mut core) = core_with_topic(&configs) else { return };
    for now in 0..2 {
        let Ok(headers) = batch::check_produced(&bytes) else { return };
        if core.append(now, "t", 0, &bytes, &headers).is_err() {
            break;
        }
    }
    let end = core.latest_offset("t", 0, Isolation::ReadUncommitted).unwrap_or(0);
    // One more batch closes the segment.
    let filler = batch::single_record(2, b"filler", Some(&[0; 1024]));
    if let Ok(headers) = batch::check_produced(&filler) {
        core.append(2, "t", 0, &filler, &headers).ok();
    }
    read(&core, end);
    if let Some(job) = core.next_compaction(3) {
        core.finish_compaction(3, &TopicPartition::new("t", 0), job.run());
    }
    read(&core, end);
}

fn read(core: &Core, end: i64) {
    for offset in [0, end / 2, end.saturating_sub(1)] {
        let Ok(fetched) = core.fetch("t", 0, offset, 1 << 20, true, Isolation::ReadCommitted) else { continue };
        let mut rest = &fetched.records[..];
        while let Some(header) = BatchHeader::parse(rest) {
            assert!(batch::is_intact(&rest[..header.length]), "what is stored is intact");
            Records::new(&rest[HEADER_BYTES..header.length]).for_each(drop);
            rest = &rest[header.length..];
        }
        for time in [i64::MIN, -1, 0, offset, i64::MAX] {
            core.offset_for_timestamp("t", 0, time, Isolation::ReadUncommitted).ok();
        }
    }
}

/// Puts length, format and checksum of each batch right. The length is taken from the bytes, within what is there.
fn mend(bytes: &mut [u8]) {
    let mut rest = bytes;
    while rest.len() >= HEADER_BYTES {
        let left = rest.len();
        let claimed = BatchHeader::parse(rest).map_or(left, |header| header.length);
        let length = if claimed > left { left } else { claimed };
        let (this, after) = rest.split_at_mut(length);
        batch::mend(this);
        rest = after;
    }
}

/// What a start makes of the bytes as the newest segment, and as an older one.
fn segment(bytes: &[u8]) {
    for older in [false, true] {
        let disk = Arc::new(MemoryDisk::new());
        let Ok(mut core) = Core::open(disk.clone(), Settings::DEFAULT, 0) else { return };
        if core.create_topic(0, "t", 1, Configs::new(), false).is_err() {
            return;
        }
        drop(core);
        let write = |file: &str, bytes: &[u8]| disk.write_at(&format!("topics/t@1/0/{file}"), 0, bytes);
        write("00000000000000000000.log", bytes).ok();
        if older {
            write("00000000000000000100.log", &[]).ok();
        }
        let Ok(core) = Core::open(disk, Settings::DEFAULT, 0) else { return };
        if let Ok(end) = core.latest_offset("t", 0, Isolation::ReadUncommitted) {
            read(&core, end);
        }
    }
}
