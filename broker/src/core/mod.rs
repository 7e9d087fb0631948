//! The broker as a state machine: topics, logs, groups, transactions. No sockets, files, clocks, tasks or randomness:
//! bytes go to a [`disk::Disk`], time comes in as milliseconds, answers that must wait come out as replies.
//!
//! The wire server and the deterministic simulation are two users of [`Core`].

pub mod batch;
pub mod codec;
pub mod compaction;
pub mod configs;
pub mod disk;
mod durability;
mod expiry;
pub(crate) mod fuzzing;
pub mod groups;
mod index;
pub(crate) mod inspect;
pub mod journal;
pub mod log;
mod members;
mod membership;
mod merge;
mod producers;
mod recovery;
mod replay;
mod retention;
mod segment;
mod snapshot;
mod timestamps;
mod topics;
mod transactions;
pub mod views;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use kafka_protocol::error::ResponseError as ErrorCode;

use self::disk::Disk;
use self::durability::{Ledger, Rounds};
use self::groups::{Group, JoinRefused, Joined};
use self::journal::{Entry, Journal};
use self::segment::Segment;
use self::topics::Topic;
use self::transactions::Transactions;

pub use self::durability::{Durability, SyncJob};
pub use self::membership::{CommitAs, FetchedOffset};
pub use self::snapshot::{SnapshotJob, Snapshotted};
pub use self::topics::{TopicView, is_valid_name};
pub use self::transactions::Outcome;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Topic name.
    #[serde(rename = "t")]
    pub topic: String,
    /// Partition number.
    #[serde(rename = "p")]
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition.
    #[must_use]
    pub fn new(topic: impl Into<String>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

/// What a reader may see of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything written.
    ReadUncommitted,
    /// Only what is decided.
    ReadCommitted,
}

/// Identifies a request whose answer comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Identifies a partition to those who wait for its records. Never reused while the core lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey(pub u64);

/// A late answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To a join.
    Join(Result<Joined, JoinRefused>),
    /// To a sync: the assignment.
    Sync(Result<Bytes, ErrorCode>),
}

/// A request the broker will not do, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Error for the client.
    pub code: ErrorCode,
    /// Reason for people.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// The disk refused, or holds something broken.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The disk refused.
    #[error("{file}: {source}")]
    Io {
        /// File or folder.
        file: String,
        /// What the disk said.
        source: std::io::Error,
    },
    /// A file is broken in a place where no crash could have left it so.
    #[error("{file} is corrupt at byte {position}: {what}")]
    Corrupt {
        /// File.
        file: String,
        /// Where.
        position: u64,
        /// What is wrong.
        what: &'static str,
    },
}

impl StorageError {
    fn io(file: &str, source: std::io::Error) -> Self {
        Self::Io { file: file.to_owned(), source }
    }

    fn corrupt(segment: &Segment, what: &'static str) -> Self {
        Self::Corrupt { file: segment.file.clone(), position: segment.length, what }
    }
}

/// Numbers of the core.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What acknowledged writes survive.
    pub durability: Durability,
    /// The journal is rewritten when it is larger than this many bytes and four times its last snapshot.
    pub journal_rotation_bytes: u64,
    /// A transactional producer may not ask for a longer time-out, milliseconds.
    pub max_transaction_timeout: i64,
    /// Most partitions of all topics together; each costs files and memory.
    pub max_partitions: usize,
    /// Shortest session time-out a group member may ask for, milliseconds.
    pub min_session_timeout: i64,
    /// Longest session time-out a group member may ask for, milliseconds.
    pub max_session_timeout: i64,
    /// A start after a crash verifies at most about so many bytes of log; snapshots see to it.
    pub max_recovery_bytes: u64,
    /// A producer that has not written to a partition for this long is forgotten there, milliseconds.
    pub producer_expiry: i64,
    /// A group without members for this long is forgotten with its offsets, milliseconds.
    pub offsets_retention: i64,
    /// A transactional id that has been idle for this long is forgotten, milliseconds.
    pub transactional_id_expiry: i64,
    /// A compaction pass ends with the segment that brings it to so many different keys; each needs about 64 bytes of
    /// memory meanwhile.
    pub compaction_keys: usize,
    /// How often the journal's size and the need for compaction are looked at, milliseconds.
    pub housekeeping_interval: i64,
    /// How often retention and expiry are looked at, milliseconds. As in Kafka, a record's age counts from its own timestamp.
    pub retention_interval: i64,
}

impl Settings {
    /// What [`Settings::default`] gives, for constants.
    pub const DEFAULT: Self = Self {
        durability: Durability::Process,
        journal_rotation_bytes: 16 << 20,
        max_recovery_bytes: 64 << 20,
        max_transaction_timeout: 15 * 60 * 1000,
        max_partitions: 10_000,
        min_session_timeout: 10,
        max_session_timeout: 30 * 60 * 1000,
        producer_expiry: 24 * 60 * 60 * 1000,
        offsets_retention: 7 * 24 * 60 * 60 * 1000,
        transactional_id_expiry: 7 * 24 * 60 * 60 * 1000,
        compaction_keys: 500_000,
        housekeeping_interval: 1000,
        retention_interval: 5 * 60 * 1000,
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The whole state of a broker.
pub struct Core {
    disk: Arc<dyn Disk>,
    settings: Settings,
    journal: Journal,
    starts: u64,
    next_member: u64,
    next_key: u64,
    next_incarnation: u64,
    topics: BTreeMap<String, Topic>,
    groups: BTreeMap<String, Group>,
    transactions: Transactions,
    /// With [`Durability::Power`] only.
    rounds: Option<Rounds>,
    replies: Vec<(Token, Reply)>,
    advanced: Vec<PartitionKey>,
    next_housekeeping: i64,
    next_retention: i64,
}

impl Core {
    /// Opens what `disk` holds, finishes decided transactions and starts the sessions of all group members anew.
    ///
    /// # Errors
    /// If the disk refuses or holds something broken.
    pub fn open(disk: Arc<dyn Disk>, settings: Settings, now: i64) -> Result<Self, StorageError> {
        let (disk, rounds): (Arc<dyn Disk>, _) = match settings.durability {
            Durability::Process => (disk, None),
            Durability::Power => {
                let ledger = Arc::new(Ledger::new(disk));
                (ledger.clone(), Some(Rounds::new(ledger)))
            }
        };
        let mut state = replay::Replayed::default();
        let journal = Journal::open(disk.clone(), |entry| state.apply(entry, now))?;
        let mut core = Self {
            disk,
            settings,
            journal,
            starts: state.starts + 1,
            next_member: 0,
            next_key: 0,
            next_incarnation: state.next_incarnation,
            topics: BTreeMap::new(),
            groups: state.groups,
            transactions: state.transactions,
            rounds,
            replies: Vec::new(),
            advanced: Vec::new(),
            next_housekeeping: now + settings.housekeeping_interval,
            next_retention: now + settings.retention_interval,
        };
        for (name, topic) in state.topics {
            core.open_topic(name, topic, now)?;
        }
        core.delete_unknown_topic_dirs()?;
        core.journal.write(&Entry::Started { count: core.starts })?;
        core.await_sync_of_decisions();
        core.finish_decided_transactions(now);
        Ok(core)
    }

    /// Answers that have become ready since the last call.
    pub fn take_replies(&mut self) -> Vec<(Token, Reply)> {
        std::mem::take(&mut self.replies)
    }

    /// Partitions that have got something new to read since the last call; may contain repeats.
    pub fn take_advanced(&mut self) -> Vec<PartitionKey> {
        std::mem::take(&mut self.advanced)
    }

    /// Does what is due at `now`: sessions, rebalance deadlines, transaction time-outs, retention. Call it several times
    /// a second.
    pub fn tick(&mut self, now: i64) {
        self.tick_groups(now);
        self.finish_decided_transactions(now);
        self.abort_overdue_transactions(now);
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + self.settings.housekeeping_interval;
            self.rotate_journal_if_due();
        }
        if now >= self.next_retention {
            self.next_retention = now + self.settings.retention_interval;
            self.enforce_retention(now);
            self.expire(now);
        }
    }

    fn rotate_journal_if_due(&mut self) {
        if !self.journal.wants_rotation(self.settings.journal_rotation_bytes) {
            return;
        }
        let snapshot = self.snapshot();
        if let Err(error) = self.journal.rotate(&snapshot) {
            tracing::error!(%error, "journal not rotated");
        }
    }

    /// Refuses after the disk has failed to keep what was written.
    fn may_write(&self) -> Result<(), ErrorCode> {
        let failed = self.rounds.as_ref().is_some_and(Rounds::has_failed);
        if failed { Err(ErrorCode::KafkaStorageError) } else { Ok(()) }
    }

    /// Writes `entry` to the journal for a coordinator; the error is one that makes a client try again.
    fn remember(&mut self, entry: &Entry) -> Result<(), ErrorCode> {
        self.record(entry).map_err(|_| ErrorCode::CoordinatorNotAvailable)
    }

    /// Writes `entry` to the journal; the error is what a client is told.
    fn record(&mut self, entry: &Entry) -> Result<(), ErrorCode> {
        self.may_write()?;
        self.journal.write(entry).map_err(|error| {
            tracing::error!(%error, "journal not written");
            ErrorCode::KafkaStorageError
        })
    }
}
