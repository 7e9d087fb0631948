//! What operators ask of producers and transactions: who writes to a partition, what is open and since when, and the one
//! thing they may do about it, end what hangs. Decides nothing else.

use serde::Serialize;

use super::{Core, ErrorCode, TopicPartition};

/// A producer as a partition remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProducerView {
    /// Producer id.
    #[serde(rename = "producer")]
    pub id: i64,
    /// Newest epoch seen.
    pub epoch: i16,
    /// Sequence number of its last record, if one is remembered.
    pub last_sequence: Option<i32>,
    /// When the broker last had something of it, milliseconds.
    pub last_seen: i64,
    /// The time that its last batch or marker gives, milliseconds; -1 when it gives none.
    pub last_timestamp: i64,
    /// First offset of its open transaction.
    pub open_since: Option<i64>,
}

/// Where a transaction is, by Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum TransactionStatus {
    /// The producer has its id; nothing was done yet.
    Empty,
    /// Open.
    Ongoing,
    /// To be committed; markers are being written.
    PrepareCommit,
    /// To be aborted; markers are being written.
    PrepareAbort,
    /// Committed.
    CompleteCommit,
    /// Aborted.
    CompleteAbort,
}

impl TransactionStatus {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
    ];

    /// Kafka's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }
}

/// The transaction of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransactionView {
    /// Transactional id.
    pub id: String,
    /// Where it is.
    pub state: TransactionStatus,
    /// When it was opened, milliseconds, if it is open.
    pub since: Option<i64>,
    /// Its time-out, milliseconds.
    pub timeout: i64,
    /// Producer id.
    pub producer: i64,
    /// Producer epoch.
    pub epoch: i16,
    /// Partitions that take part.
    pub partitions: Vec<TopicPartition>,
    /// Groups whose offsets take part.
    pub groups: Vec<String>,
}

/// The broker in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Topics.
    pub topics: usize,
    /// Partitions of all topics.
    pub partitions: usize,
    /// Partitions whose files were found broken.
    pub set_aside: usize,
    /// Bytes of all segments.
    pub log_bytes: u64,
    /// Groups, those without members included.
    pub groups: usize,
    /// Transactions that are not decided.
    pub open_transactions: usize,
    /// When the oldest of them began, milliseconds.
    pub oldest_transaction: Option<i64>,
}

impl Core {
    /// The broker in numbers. Looks at every partition, group and transactional id once.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals { topics: self.topics.len(), groups: self.groups.len(), ..Totals::default() };
        for partition in self.topics.values().flat_map(|topic| &topic.partitions) {
            totals.partitions += 1;
            totals.set_aside += usize::from(partition.log.is_set_aside());
            totals.log_bytes += partition.log.size();
        }
        for since in self.transactions.open_since() {
            totals.open_transactions += 1;
            totals.oldest_transaction = Some(totals.oldest_transaction.map_or(since, |oldest| oldest.min(since)));
        }
        totals
    }

    /// Whether the disk has kept all that was written; once it has not, nothing is acknowledged until a new start.
    #[must_use]
    pub fn keeps_what_is_written(&self) -> bool {
        self.may_write().is_ok()
    }

    /// Producers a partition remembers, by id.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`.
    pub fn producers(&self, topic: &str, number: i32) -> Result<Vec<ProducerView>, ErrorCode> {
        let (partition, _) = self.partition(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        Ok(partition.log.producers.views())
    }

    /// The transaction of a transactional id.
    #[must_use]
    pub fn transaction(&self, id: &str) -> Option<TransactionView> {
        self.transactions.view(id)
    }

    /// All transactional ids, sorted.
    #[must_use]
    pub fn transactional_ids(&self) -> Vec<String> {
        self.transactions.ids().cloned().collect()
    }

    /// Ends what a producer has open in one partition, past its coordinator. For a transaction that no coordinator knows
    /// any more and that holds the last stable offset.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_PRODUCER_EPOCH` if the partition has seen a newer one,
    /// `KAFKA_STORAGE_ERROR`.
    pub fn write_marker(
        &mut self,
        now: i64,
        at: &TopicPartition,
        producer: i64,
        epoch: i16,
        commit: bool,
    ) -> Result<(), ErrorCode> {
        self.may_write()?;
        let (partition, settings) =
            self.partition_mut(&at.topic, at.partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if partition.log.producers.epoch(producer).is_some_and(|newest| epoch < newest) {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        partition.log.append_marker(now, &settings.log, producer, epoch, commit)?;
        let key = partition.key;
        self.advanced.push(key);
        Ok(())
    }
}
