//! The doors to the world: a broker, a storage, a clock, a caller of external services.
//! `worker` implements them for real, [`crate::testing`] and the simulation in memory.
//! The engine is synchronous: every door answers before it returns, or hands its answer over at a later poll.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::record::{InputRecord, Offset, OutgoingRecord, SubTopologyId, TaskId, Timestamp, TopicPartition};

/// What went wrong at the broker, named by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// Nothing was done; the same call may be made again.
    #[error("not now, try again: {0}")]
    Retry(String),
    /// The transaction is lost: abort it, drop the overlay, rewind.
    #[error("the transaction must be aborted: {0}")]
    Abort(String),
    /// Whether the transaction committed is not known: recreate the producer, catch up from the changelog, rewind.
    #[error("the outcome of the transaction is unknown: {0}")]
    Unknown(String),
    /// Somebody else owns what this thread believed to own: drop everything and rejoin.
    #[error("fenced: {0}")]
    Fenced(String),
    /// Nothing can be done here: stop the process.
    #[error("fatal: {0}")]
    Fatal(String),
}

/// What happened at the broker since the last poll, in order.
#[derive(Debug)]
pub enum Event {
    /// These partitions of every input of the sub-topology are this thread's from now on.
    /// Nothing is fetched until [`Broker::start`].
    Assigned {
        /// The consumer group it happened in.
        sub_topology: SubTopologyId,
        /// Partition numbers; may be empty.
        partitions: Vec<i32>,
    },
    /// These partitions must be given up. They stay this thread's until [`Broker::release`].
    Revoked {
        /// The consumer group it happened in.
        sub_topology: SubTopologyId,
        /// Partition numbers; may be empty.
        partitions: Vec<i32>,
    },
    /// These partitions are already somebody else's: never commit, drop, then [`Broker::release`].
    Lost {
        /// The consumer group it happened in.
        sub_topology: SubTopologyId,
        /// Partition numbers; may be empty.
        partitions: Vec<i32>,
    },
    /// Records of an input, in offset order, none left out.
    Records {
        /// The consumer group that reads it.
        sub_topology: SubTopologyId,
        /// Where they stand.
        from: TopicPartition,
        /// At least one.
        records: Vec<InputRecord>,
    },
    /// Records of a partition that is followed ([`Broker::follow`]); may be empty when only the position moved
    /// (transaction markers, aborted records).
    Followed {
        /// Where they stand.
        from: TopicPartition,
        /// Every committed record from this position on, and below `next`, is here.
        begin: Offset,
        /// In offset order.
        records: Vec<InputRecord>,
        /// See `begin`.
        next: Offset,
    },
}

/// Where a partition begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first offset that can still be read.
    pub start: Offset,
    /// The high watermark: one past the last record, committed or not.
    pub end: Offset,
}

/// Input positions to commit for one consumer group: the offset after the last record processed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffsets {
    /// Which group.
    pub sub_topology: SubTopologyId,
    /// Next offset of each partition.
    pub offsets: Vec<(TopicPartition, Offset)>,
}

/// Where the records of the open transaction landed, as the broker said: for each partition written, the offset of the
/// first and one past the last. Records of others may stand between them: then there are more offsets than were sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Landed(pub Vec<(TopicPartition, Range<Offset>)>);

/// Everything one stream thread asks of the broker: one consumer per sub-topology it hosts, one transactional
/// producer, and readers outside any group. All reads are `read_committed`.
pub trait Broker {
    /// What happened since the last call; waits at most `wait` when nothing did. Keeps group membership alive.
    /// Gives at most about `max_records` records; none at all for 0.
    ///
    /// # Errors
    /// [`BrokerError::Retry`] for passing trouble, [`BrokerError::Fatal`] otherwise.
    fn poll(&mut self, wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError>;

    /// The group's committed positions, in the order asked. Waits until no transactional commit of them is pending
    /// (KIP-447). `None` where the group never committed.
    ///
    /// # Errors
    /// As [`Broker::poll`].
    fn committed(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError>;

    /// Where the partitions begin and end now, in the order asked.
    ///
    /// # Errors
    /// As [`Broker::poll`].
    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError>;

    /// Accepts an assignment: every input of the sub-topology on the given partitions, at the given positions, paused.
    ///
    /// # Errors
    /// As [`Broker::poll`].
    fn start(&mut self, sub_topology: SubTopologyId, positions: &[(TopicPartition, Offset)])
    -> Result<(), BrokerError>;

    /// Lets records flow, or holds them back without leaving the group.
    ///
    /// # Errors
    /// As [`Broker::poll`].
    fn set_flow(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
        flow: Flow,
    ) -> Result<(), BrokerError>;

    /// Moves the group's readers to these positions; nothing read before is given afterwards.
    /// Flow stays as it was.
    ///
    /// # Errors
    /// As [`Broker::poll`].
    fn rewind(
        &mut self,
        sub_topology: SubTopologyId,
        positions: &[(TopicPartition, Offset)],
    ) -> Result<(), BrokerError>;

    /// Gives up partitions after [`Event::Revoked`] or [`Event::Lost`], so that the rebalance can go on.
    ///
    /// # Errors
    /// As [`Broker::poll`].
    fn release(&mut self, sub_topology: SubTopologyId, partitions: &[i32]) -> Result<(), BrokerError>;

    /// Reads a partition outside any group from a position on, giving [`Event::Followed`], until
    /// [`Broker::unfollow`]. Following it again moves it.
    ///
    /// # Errors
    /// As [`Broker::poll`].
    fn follow(&mut self, partition: TopicPartition, from: Offset) -> Result<(), BrokerError>;

    /// Stops following.
    ///
    /// # Errors
    /// As [`Broker::poll`].
    fn unfollow(&mut self, partition: TopicPartition) -> Result<(), BrokerError>;

    /// Opens a transaction.
    ///
    /// # Errors
    /// Any class.
    fn begin(&mut self) -> Result<(), BrokerError>;

    /// Adds a record to the open transaction. When the client's queue is full it serves the client until there is room.
    ///
    /// # Errors
    /// Any class.
    fn send(&mut self, record: OutgoingRecord<'_>) -> Result<(), BrokerError>;

    /// Waits until every record of the open transaction is delivered, and tells where they stand now. The transaction
    /// stays open: whether it is committed can still be decided.
    ///
    /// # Errors
    /// Any class.
    fn flush(&mut self) -> Result<Landed, BrokerError>;

    /// Commits the open transaction, after [`Broker::flush`], together with these input positions; waits until it is
    /// committed.
    ///
    /// # Errors
    /// Any class. After `Ok` all of it is committed; after [`BrokerError::Unknown`] it may be.
    fn commit(&mut self, offsets: &[GroupOffsets]) -> Result<(), BrokerError>;

    /// Aborts the open transaction.
    ///
    /// # Errors
    /// [`BrokerError::Unknown`]: recreate. [`BrokerError::Fenced`], [`BrokerError::Fatal`].
    fn abort(&mut self) -> Result<(), BrokerError>;

    /// Replaces the producer by a new one of the same `transactional.id`: whatever the old one left open is resolved.
    ///
    /// # Errors
    /// [`BrokerError::Retry`] or [`BrokerError::Fatal`].
    fn recreate(&mut self) -> Result<(), BrokerError>;
}

/// Whether records of a partition are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// They are.
    Open,
    /// They are not, for now.
    Paused,
}

/// What went wrong at the disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The store cannot be trusted: set it aside and rebuild it from its topics.
    #[error("store {store} cannot be trusted: {reason}")]
    Corrupt {
        /// Which store.
        store: String,
        /// What was seen.
        reason: String,
    },
    /// It cannot be read or written now (disk full, permissions).
    #[error("store {store} cannot be used: {reason}")]
    Unavailable {
        /// Which store.
        store: String,
        /// What was seen.
        reason: String,
    },
}

/// The disk of one store: an ordered map of bytes with atomic batches. Keys and values are the engine's own.
pub trait Disk: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StorageError`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// Visits keys from `from` on, ascending, until `visit` answers false.
    ///
    /// # Errors
    /// [`StorageError`].
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StorageError>;

    /// Writes all or nothing; `None` deletes.
    ///
    /// # Errors
    /// [`StorageError`].
    fn write(&self, batch: &mut dyn Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError>;

    /// Empties the store.
    ///
    /// # Errors
    /// [`StorageError`].
    fn clear(&self) -> Result<(), StorageError>;
}

/// A piece of work for a background thread: write one frozen memtable out. See [`crate::store`].
pub type BackgroundJob = Box<dyn FnOnce() + Send>;

/// The stores of one process.
pub trait Storage {
    /// Opens (or makes) the store of this name; a store that cannot be trusted is set aside and an empty one given. Whoever
    /// opens it has it: another thread of this process that had it, and does not know yet that its partition has moved, may
    /// read on, but what it writes is answered [`StorageError::Unavailable`].
    ///
    /// # Errors
    /// [`StorageError::Unavailable`].
    fn open(&self, name: &str) -> Result<Arc<dyn Disk>, StorageError>;

    /// Opens the store of this name for a standby copy; `None` while somebody else in this process has it open, and
    /// always where no copies are kept.
    /// [`Storage::open`] takes it from the copy: from then on the copy's disk answers [`StorageError::Unavailable`] and
    /// writes nothing.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`].
    fn open_copy(&self, name: &str) -> Result<Option<Arc<dyn Disk>>, StorageError> {
        let _ = name;
        Ok(None)
    }

    /// Runs the job soon, off this thread; jobs run one at a time, in order.
    fn in_background(&self, job: BackgroundJob);

    /// Waits until every job given before has run.
    fn settle(&self);
}

/// The time.
pub trait Clock {
    /// Milliseconds since 1970 UTC; never goes back.
    fn now(&self) -> Timestamp;
}

/// A request to an external service that some task's state says is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Who asks.
    pub task: TaskId,
    /// Name of the processor, for messages.
    pub processor: String,
    /// Key of the state that says so.
    pub key: Vec<u8>,
    /// Deterministic id of the call: the same state gives the same id.
    pub id: String,
    /// What is asked, as the processor wrote it.
    pub request: Vec<u8>,
    /// It may have been made before (a restart or a moved partition): ask for its outcome before acting.
    pub repeated: bool,
}

/// What came of a call. A caller always answers, also with "unknown".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whose call it was.
    pub task: TaskId,
    /// Key of the state that asked.
    pub key: Vec<u8>,
    /// Id of the call.
    pub id: String,
    /// What was answered, for the processor to read.
    pub response: Vec<u8>,
}

/// Makes calls, many in flight, and gives their answers back later. An answer that comes while the thread waits in
/// [`Broker::poll`] ends the wait: the thread does not look by itself.
pub trait Caller {
    /// Takes calls up, all that became open together, which may be none; their answers come through [`Caller::answers`], in any order.
    fn start(&mut self, calls: Vec<Call>);

    /// Takes the answers that have come in.
    fn answers(&mut self, answers: &mut Vec<Answer>);
}
