//! The journal: everything the broker must remember besides the records themselves, as a file of small entries.
//!
//! Owns the file format and its rotation. An entry is written before what it says becomes true.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::configs::Configs;
use super::disk::Disk;
use super::{StorageError, TopicPartition};

/// Length and checksum before each entry.
const FRAME_BYTES: usize = 8;
const PREFIX: &str = "journal-";

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedOffset {
    /// Offset of the next record to read.
    #[serde(rename = "o")]
    pub offset: i64,
    /// Leader epoch the client told, -1 for none.
    #[serde(rename = "e")]
    pub leader_epoch: i32,
    /// The client's note.
    #[serde(rename = "m", default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
}

/// Offsets of one group, as (partition, offset) pairs.
pub type Offsets = Vec<(TopicPartition, CommittedOffset)>;

/// A member as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// Member id.
    pub id: String,
    /// Static membership id.
    pub instance: Option<String>,
    /// Client id.
    pub client: String,
    /// Session time-out, milliseconds.
    pub session_timeout: i64,
    /// Rebalance time-out, milliseconds.
    pub rebalance_timeout: i64,
    /// Assignors and their metadata, in order of preference.
    pub protocols: Vec<(String, Vec<u8>)>,
    /// Assignment from the leader.
    pub assignment: Vec<u8>,
}

/// A stable generation of a group, or an empty group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// Group id.
    pub group: String,
    /// When, milliseconds; 0 is unknown.
    #[serde(default)]
    pub time: i64,
    /// Generation.
    pub generation: i32,
    /// `consumer` for consumer groups.
    pub protocol_type: String,
    /// Assignor in use.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Option<String>,
    /// Members.
    pub members: Vec<MemberEntry>,
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t")]
pub enum Entry {
    /// The broker started for the `count`-th time.
    Started {
        /// Number of starts.
        count: u64,
    },
    /// A topic exists.
    Topic {
        /// Name.
        name: String,
        /// Tells a topic from an earlier one of the same name.
        incarnation: u64,
        /// Number of partitions.
        partitions: i32,
        /// Settings that differ from the defaults.
        configs: Configs,
    },
    /// A topic is gone, and with it all groups' offsets for it.
    TopicDeleted {
        /// Name.
        name: String,
    },
    /// Records below `offset` were deleted on request.
    LogStart {
        /// Partition.
        at: TopicPartition,
        /// New oldest offset.
        offset: i64,
    },
    /// Compaction has come to `offset`.
    Cleaned {
        /// Partition.
        at: TopicPartition,
        /// Records below were looked at.
        offset: i64,
        /// When, milliseconds.
        time: i64,
    },
    /// Producer ids below `next` may be in use.
    ProducerIds {
        /// First id surely free.
        next: i64,
    },
    /// A transactional id has this producer; whatever it had open is over.
    Producer {
        /// Transactional id.
        id: String,
        /// Producer id.
        producer: i64,
        /// Epoch.
        epoch: i16,
        /// The epoch before, if the same client asked for the bump.
        last_epoch: i16,
        /// Transaction time-out, milliseconds.
        timeout: i64,
        /// When, milliseconds; 0 is unknown.
        #[serde(default)]
        time: i64,
    },
    /// Partitions and groups take part in the open transaction, which this opens if none is.
    Joined {
        /// Transactional id.
        id: String,
        /// When, milliseconds.
        time: i64,
        /// Partitions added.
        partitions: Vec<TopicPartition>,
        /// Groups added.
        groups: Vec<String>,
    },
    /// Offsets that become committed with the transaction.
    PendingOffsets {
        /// Transactional id.
        id: String,
        /// Group.
        group: String,
        /// Offsets.
        offsets: Offsets,
    },
    /// A group forgets its offsets for some partitions.
    OffsetsDeleted {
        /// Group.
        group: String,
        /// Partitions.
        partitions: Vec<TopicPartition>,
    },
    /// The outcome of the open transaction is decided; markers follow.
    Prepare {
        /// Transactional id.
        id: String,
        /// Commit or abort.
        commit: bool,
        /// Epoch of the markers.
        epoch: i16,
    },
    /// All markers are written.
    Done {
        /// Transactional id.
        id: String,
        /// When, milliseconds; 0 is unknown.
        #[serde(default)]
        time: i64,
    },
    /// A transactional id was idle for too long.
    TransactionalIdExpired {
        /// Transactional id.
        id: String,
    },
    /// Offsets are committed.
    Committed {
        /// Group.
        group: String,
        /// When, milliseconds; 0 is unknown.
        #[serde(default)]
        time: i64,
        /// Offsets.
        offsets: Offsets,
    },
    /// A group reached a stable generation, or became empty.
    Group(GroupEntry),
    /// A group and its offsets are gone.
    GroupDeleted {
        /// Group.
        group: String,
    },
}

/// The open journal.
pub struct Journal {
    disk: Arc<dyn Disk>,
    number: u64,
    length: u64,
    /// Length right after the last rotation.
    base_length: u64,
    /// A write failed and what it left behind could not be cut off.
    ragged: bool,
}

fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:010}")
}

/// Path of the journal of a new folder.
pub(super) fn first_file() -> String {
    file_name(0)
}

pub(super) fn frame(entry: &Entry, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    if let Err(error) = serde_json::to_writer(&mut *out, entry) {
        // Entries are plain data with string keys and a writer that never fails.
        unreachable!("journal entry not serializable: {error}");
    }
    let payload = &out[start + FRAME_BYTES..];
    let length = (payload.len() as u32).to_be_bytes();
    let crc = crc32c::crc32c(payload).to_be_bytes();
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + FRAME_BYTES].copy_from_slice(&crc);
}

impl Journal {
    /// Opens the newest journal and hands every entry to `replay`. A torn end is cut off.
    ///
    /// # Errors
    /// [`StorageError`] if the disk refuses or an entry before the end is broken.
    pub fn open(disk: Arc<dyn Disk>, mut replay: impl FnMut(Entry)) -> Result<Self, StorageError> {
        let io = |error| StorageError::io("journal", error);
        let numbers: BTreeMap<u64, String> = disk
            .list("")
            .map_err(io)?
            .into_iter()
            .filter_map(|name| {
                let number = name.strip_prefix(PREFIX)?;
                number.parse().ok().map(|number| (number, name))
            })
            .collect();
        let number = numbers.last_key_value().map_or(0, |(number, _)| *number);
        for (_, name) in numbers.range(..number) {
            disk.delete(name).map_err(io)?;
        }
        let file = file_name(number);
        let mut bytes = Vec::new();
        if !numbers.is_empty() {
            bytes.resize(disk.length(&file).map_err(io)? as usize, 0);
            let count = disk.read_at(&file, 0, &mut bytes).map_err(io)?;
            bytes.truncate(count);
        }
        let mut at = 0;
        while at < bytes.len() {
            match unframe(&bytes[at..]) {
                Ok((entry, length)) => {
                    replay(entry);
                    at += length;
                }
                Err(Torn::End) => {
                    tracing::warn!(file, position = at, "torn end cut off");
                    disk.truncate(&file, at as u64).map_err(io)?;
                    break;
                }
                Err(Torn::Broken(what)) => {
                    return Err(StorageError::Corrupt { file, position: at as u64, what });
                }
            }
        }
        Ok(Self { disk, number, length: at as u64, base_length: 0, ragged: false })
    }

    /// Writes `entry`. Nothing is written in part: a failed write is overwritten by the next.
    ///
    /// # Errors
    /// If the disk refuses; then what the entry says must not become true.
    pub fn write(&mut self, entry: &Entry) -> Result<(), StorageError> {
        let mut bytes = Vec::with_capacity(256);
        frame(entry, &mut bytes);
        let file = file_name(self.number);
        if self.ragged {
            self.disk.truncate(&file, self.length).map_err(|error| StorageError::io(&file, error))?;
            self.ragged = false;
        }
        if let Err(error) = self.disk.write_at(&file, self.length, &bytes) {
            // What was written of it must not be read as an entry after a restart.
            self.ragged = self.disk.truncate(&file, self.length).is_err();
            return Err(StorageError::io(&file, error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Whether the journal has grown enough beyond its last snapshot that a new one pays.
    #[must_use]
    pub fn wants_rotation(&self, limit: u64) -> bool {
        self.length > limit && self.length > self.base_length * 4
    }

    /// Starts a new journal with `snapshot`, which must say all that is true now, and deletes the old one.
    ///
    /// # Errors
    /// If the disk refuses; the old journal stays in use then.
    pub fn rotate(&mut self, snapshot: &[Entry]) -> Result<(), StorageError> {
        let mut bytes = Vec::new();
        for entry in snapshot {
            frame(entry, &mut bytes);
        }
        let next = file_name(self.number + 1);
        let draft = format!("{next}.new");
        let io = |error| StorageError::io(&next, error);
        self.disk.delete(&draft).map_err(io)?;
        self.disk.write_at(&draft, 0, &bytes).map_err(io)?;
        self.disk.sync(&draft).map_err(io)?;
        self.disk.rename(&draft, &next).map_err(io)?;
        // The old one goes only when the new one's name has come to stay.
        self.disk.sync_dir("").map_err(io)?;
        let old = file_name(self.number);
        self.number += 1;
        self.length = bytes.len() as u64;
        self.base_length = self.length;
        self.ragged = false;
        if let Err(error) = self.disk.delete(&old) {
            tracing::warn!(file = old, %error, "old journal not deleted");
        }
        Ok(())
    }
}

enum Torn {
    End,
    Broken(&'static str),
}

fn unframe(bytes: &[u8]) -> Result<(Entry, usize), Torn> {
    let Some((head, rest)) = bytes.split_at_checked(FRAME_BYTES) else {
        return Err(Torn::End);
    };
    let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let crc = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let Some(payload) = rest.get(..length) else {
        return Err(Torn::End);
    };
    if length == 0 || crc32c::crc32c(payload) != crc {
        let at_end = payload.len() == rest.len() || bytes.iter().all(|byte| *byte == 0);
        return Err(if at_end { Torn::End } else { Torn::Broken("checksum does not match") });
    }
    let entry = serde_json::from_slice(payload).map_err(|_| Torn::Broken("unknown entry"))?;
    Ok((entry, FRAME_BYTES + length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::disk::MemoryDisk;

    fn read(disk: &Arc<MemoryDisk>) -> Vec<Entry> {
        let mut entries = Vec::new();
        Journal::open(disk.clone(), |entry| entries.push(entry)).expect("opens");
        entries
    }

    fn done(id: &str) -> Entry {
        Entry::Done { id: id.to_owned(), time: 0 }
    }

    #[test]
    fn entries_survive_and_a_torn_end_is_cut() {
        let disk = Arc::new(MemoryDisk::new());
        let mut journal = Journal::open(disk.clone(), |_| ()).expect("opens");
        journal.write(&done("a")).expect("writes");
        journal.write(&done("b")).expect("writes");
        let length = disk.length(&file_name(0)).expect("exists");
        disk.truncate(&file_name(0), length - 3).expect("cuts");
        assert_eq!(read(&disk), [done("a")]);
        let mut journal = Journal::open(disk.clone(), |_| ()).expect("opens");
        journal.write(&done("c")).expect("writes");
        assert_eq!(read(&disk), [done("a"), done("c")]);
    }

    #[test]
    fn damage_before_the_end_is_an_error() {
        let disk = Arc::new(MemoryDisk::new());
        let mut journal = Journal::open(disk.clone(), |_| ()).expect("opens");
        journal.write(&done("a")).expect("writes");
        journal.write(&done("b")).expect("writes");
        disk.write_at(&file_name(0), 10, b"#").expect("writes");
        assert!(Journal::open(disk, |_| ()).is_err());
    }

    #[test]
    fn rotation_keeps_the_snapshot_only() {
        let disk = Arc::new(MemoryDisk::new());
        let mut journal = Journal::open(disk.clone(), |_| ()).expect("opens");
        journal.write(&done("old")).expect("writes");
        journal.rotate(&[done("snapshot")]).expect("rotates");
        journal.write(&done("new")).expect("writes");
        assert_eq!(read(&disk), [done("snapshot"), done("new")]);
        assert_eq!(disk.list("").expect("lists").len(), 1);
    }
}
