//! The transaction coordinator: producer ids, epochs, and the state of each transactional id.
//!
//! ```text
//!            init                add partitions or group             end            all markers written
//!   (none) ───────▶ Empty ─────────────────────────────▶ Ongoing ────────▶ Prepared ────────────────────▶ Ended
//!                     ▲                                     ▲ │ init, time-out: abort with a newer epoch     │ │
//!                     │                                     │ └────────────────▶ Prepared                    │ │
//!                     │ init                                └────────────────────────────────────────────────┘ │
//!                     └────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::batch::BatchHeader;
use super::durability::Rounds;
use super::journal::{CommittedOffset, Entry, Offsets};
use super::views::{TransactionStatus, TransactionView};
use super::{CommitAs, Core, ErrorCode, TopicPartition};
use crate::planted;

/// Producer ids are reserved in the journal by so many at a time.
const ID_BLOCK: i64 = 1000;
/// A producer id is replaced before its epoch reaches the largest number.
const LAST_EPOCH: i16 = i16::MAX - 1;

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its records become visible and its offsets committed.
    Commit,
    /// As if it had never been.
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Empty,
    Ongoing {
        since: i64,
    },
    /// The next step, the markers or the entry that says all are written, waits for this round of syncs; 0 is at once.
    Prepared {
        outcome: Outcome,
        epoch: i16,
        round: u64,
    },
    Ended(Outcome),
}

#[derive(Debug, Clone)]
struct Transaction {
    producer: i64,
    epoch: i16,
    last_epoch: i16,
    timeout: i64,
    state: State,
    partitions: BTreeSet<TopicPartition>,
    /// Partitions whose marker is not written yet; follows from `partitions` when the outcome is decided.
    unmarked: Option<BTreeSet<TopicPartition>>,
    groups: BTreeSet<String>,
    offsets: BTreeMap<String, BTreeMap<TopicPartition, CommittedOffset>>,
    /// When a transaction last began or ended, or the producer was initialised, milliseconds.
    active_at: i64,
}

impl Transaction {
    fn clear(&mut self) {
        self.partitions.clear();
        self.unmarked = None;
        self.groups.clear();
        self.offsets.clear();
    }

    fn join(&mut self, time: i64, partitions: &[TopicPartition], groups: &[String]) {
        if !matches!(self.state, State::Ongoing { .. }) {
            self.clear();
            self.state = State::Ongoing { since: time };
            self.active_at = time;
        }
        self.partitions.extend(partitions.iter().cloned());
        self.groups.extend(groups.iter().cloned());
    }

    fn view(&self, id: &str) -> TransactionView {
        let (state, since) = match self.state {
            State::Empty => (TransactionStatus::Empty, None),
            State::Ongoing { since } => (TransactionStatus::Ongoing, Some(since)),
            State::Prepared { outcome: Outcome::Commit, .. } => (TransactionStatus::PrepareCommit, None),
            State::Prepared { outcome: Outcome::Abort, .. } => (TransactionStatus::PrepareAbort, None),
            State::Ended(Outcome::Commit) => (TransactionStatus::CompleteCommit, None),
            State::Ended(Outcome::Abort) => (TransactionStatus::CompleteAbort, None),
        };
        TransactionView {
            id: id.to_owned(),
            state,
            since,
            timeout: self.timeout,
            producer: self.producer,
            epoch: self.epoch,
            partitions: self.partitions.iter().cloned().collect(),
            groups: self.groups.iter().cloned().collect(),
        }
    }
}

/// All transactional ids.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    by_id: BTreeMap<String, Transaction>,
    id_of_producer: HashMap<i64, String>,
    next_producer: i64,
    reserved_producers: i64,
}

impl Transactions {
    fn get(&self, id: &str) -> Option<&Transaction> {
        self.by_id.get(id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        self.by_id.keys()
    }

    /// When each transaction began that is not decided.
    pub(super) fn open_since(&self) -> impl Iterator<Item = i64> {
        self.by_id.values().filter_map(|transaction| match transaction.state {
            State::Ongoing { since } => Some(since),
            _ => None,
        })
    }

    pub(super) fn view(&self, id: &str) -> Option<TransactionView> {
        self.get(id).map(|transaction| transaction.view(id))
    }

    /// Whether a transactional batch may be written to a partition.
    pub(super) fn may_write(&self, header: &BatchHeader, topic: &str, partition: i32) -> Result<(), ErrorCode> {
        let transaction = self
            .id_of_producer
            .get(&header.producer_id)
            .and_then(|id| self.get(id))
            .ok_or(ErrorCode::InvalidProducerIdMapping)?;
        if header.producer_epoch != transaction.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        let ongoing = matches!(transaction.state, State::Ongoing { .. });
        let added = || {
            let mut all = transaction.partitions.iter();
            all.any(|at| at.partition == partition && at.topic == topic)
        };
        if ongoing && added() { Ok(()) } else { Err(ErrorCode::InvalidTxnState) }
    }

    /// All of them, by id.
    pub(super) fn views(&self) -> Vec<TransactionView> {
        self.by_id.iter().map(|(id, transaction)| transaction.view(id)).collect()
    }

    /// Whether an open transaction holds back an offset of the group.
    pub(super) fn has_pending_offset(&self, group: &str, at: &TopicPartition) -> bool {
        self.by_id.values().any(|transaction| {
            let open = matches!(transaction.state, State::Ongoing { .. } | State::Prepared { .. });
            let offsets = transaction.offsets.get(group);
            open && offsets.is_some_and(|offsets| offsets.contains_key(at))
        })
    }

    pub(super) fn forget_topic(&mut self, topic: &str) {
        for transaction in self.by_id.values_mut() {
            transaction.partitions.retain(|at| at.topic != topic);
            if let Some(unmarked) = &mut transaction.unmarked {
                unmarked.retain(|at| at.topic != topic);
            }
            for offsets in transaction.offsets.values_mut() {
                offsets.retain(|at, _| at.topic != topic);
            }
        }
    }

    /// Replays an entry of the journal about transactions.
    pub(super) fn apply(&mut self, entry: Entry, now: i64) {
        match entry {
            Entry::ProducerIds { next } => {
                self.next_producer = next;
                self.reserved_producers = next;
            }
            Entry::Producer { id, producer, epoch, last_epoch, timeout, time } => {
                let time = if time == 0 { now } else { time };
                self.set_producer(&id, producer, epoch, last_epoch, timeout, time);
            }
            Entry::TransactionalIdExpired { id } => self.forget(&id),
            Entry::Joined { id, time, partitions, groups } => {
                if let Some(transaction) = self.by_id.get_mut(&id) {
                    transaction.join(time, &partitions, &groups);
                }
            }
            Entry::PendingOffsets { id, group, offsets } => {
                if let Some(transaction) = self.by_id.get_mut(&id) {
                    transaction.offsets.entry(group).or_default().extend(offsets);
                }
            }
            Entry::Prepare { id, commit, epoch } => {
                if let Some(transaction) = self.by_id.get_mut(&id) {
                    let outcome = if commit { Outcome::Commit } else { Outcome::Abort };
                    transaction.state = State::Prepared { outcome, epoch, round: 0 };
                }
            }
            _ => {}
        }
    }

    pub(super) fn forget(&mut self, id: &str) {
        if let Some(old) = self.by_id.remove(id) {
            self.id_of_producer.remove(&old.producer);
        }
    }

    /// Ids that have nothing open and did nothing since `before`.
    pub(super) fn idle_since(&self, before: i64) -> Vec<String> {
        let idle = |transaction: &Transaction| {
            matches!(transaction.state, State::Empty | State::Ended(_)) && transaction.active_at < before
        };
        self.by_id.iter().filter(|(_, transaction)| idle(transaction)).map(|(id, _)| id.clone()).collect()
    }

    /// Whether an open transaction holds offsets of the group.
    pub(super) fn has_group(&self, group: &str) -> bool {
        self.by_id.values().any(|transaction| transaction.groups.contains(group))
    }

    fn set_producer(&mut self, id: &str, producer: i64, epoch: i16, last_epoch: i16, timeout: i64, now: i64) {
        let transaction = Transaction {
            producer,
            epoch,
            last_epoch,
            timeout,
            state: State::Empty,
            partitions: BTreeSet::new(),
            unmarked: None,
            groups: BTreeSet::new(),
            offsets: BTreeMap::new(),
            active_at: now,
        };
        if let Some(old) = self.by_id.insert(id.to_owned(), transaction) {
            self.id_of_producer.remove(&old.producer);
        }
        self.id_of_producer.insert(producer, id.to_owned());
    }

    /// A prepared transaction is finished: returns the offsets that are committed now.
    pub(super) fn done(&mut self, id: &str, now: i64) -> Vec<(String, Offsets)> {
        let Some(transaction) = self.by_id.get_mut(id) else {
            return Vec::new();
        };
        let State::Prepared { outcome, epoch, .. } = transaction.state else {
            return Vec::new();
        };
        transaction.state = State::Ended(outcome);
        transaction.active_at = now;
        if epoch != transaction.epoch {
            transaction.epoch = epoch;
            transaction.last_epoch = -1;
        }
        let offsets = std::mem::take(&mut transaction.offsets);
        transaction.clear();
        match outcome {
            Outcome::Abort if !planted::is(planted::Defect::OffsetsOfAborted) => Vec::new(),
            Outcome::Commit | Outcome::Abort => {
                offsets.into_iter().map(|(group, offsets)| (group, offsets.into_iter().collect())).collect()
            }
        }
    }

    pub(super) fn snapshot(&self, entries: &mut Vec<Entry>) {
        entries.push(Entry::ProducerIds { next: self.reserved_producers });
        for (id, transaction) in &self.by_id {
            entries.push(Entry::Producer {
                id: id.clone(),
                producer: transaction.producer,
                epoch: transaction.epoch,
                last_epoch: transaction.last_epoch,
                timeout: transaction.timeout,
                time: transaction.active_at,
            });
            let join = |time| Entry::Joined {
                id: id.clone(),
                time,
                partitions: transaction.partitions.iter().cloned().collect(),
                groups: transaction.groups.iter().cloned().collect(),
            };
            let prepare = |outcome, epoch| Entry::Prepare { id: id.clone(), commit: outcome == Outcome::Commit, epoch };
            match transaction.state {
                State::Empty => {}
                State::Ongoing { since } => entries.push(join(since)),
                State::Prepared { outcome, epoch, .. } => {
                    entries.extend([join(0), prepare(outcome, epoch)]);
                }
                State::Ended(outcome) => {
                    let done = Entry::Done { id: id.clone(), time: transaction.active_at };
                    entries.extend([prepare(outcome, transaction.epoch), done]);
                }
            }
            for (group, offsets) in &transaction.offsets {
                let offsets = offsets.iter();
                entries.push(Entry::PendingOffsets {
                    id: id.clone(),
                    group: group.clone(),
                    offsets: offsets.map(|(at, o)| (at.clone(), o.clone())).collect(),
                });
            }
        }
    }
}

impl Core {
    fn new_producer_id(&mut self) -> Result<i64, ErrorCode> {
        if self.transactions.next_producer >= self.transactions.reserved_producers {
            let next = self.transactions.next_producer + ID_BLOCK;
            self.remember(&Entry::ProducerIds { next })?;
            self.transactions.reserved_producers = next;
        }
        let id = self.transactions.next_producer;
        self.transactions.next_producer += 1;
        Ok(id)
    }

    /// Gives a producer its id and epoch. With a transactional id, aborts what an earlier instance left open and fences
    /// it. `expected` is the id and epoch the client believes to have.
    ///
    /// # Errors
    /// `INVALID_TRANSACTION_TIMEOUT`, `PRODUCER_FENCED` if `expected` is not current, `COORDINATOR_NOT_AVAILABLE`,
    /// `CONCURRENT_TRANSACTIONS` while markers cannot be written.
    pub fn init_producer(
        &mut self,
        now: i64,
        id: Option<&str>,
        timeout: i64,
        expected: Option<(i64, i16)>,
    ) -> Result<(i64, i16), ErrorCode> {
        let Some(id) = id else {
            return Ok((self.new_producer_id()?, 0));
        };
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        if timeout <= 0 || timeout > self.settings.max_transaction_timeout {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        let Some(transaction) = self.transactions.get(id) else {
            let producer = self.new_producer_id()?;
            return self.set_producer(now, id, producer, 0, -1, timeout);
        };
        if let Some((producer, epoch)) = expected {
            if producer != transaction.producer {
                return Err(ErrorCode::ProducerFenced);
            }
            if epoch == transaction.last_epoch && transaction.state == State::Empty {
                // The answer to the same request was lost.
                return Ok((transaction.producer, transaction.epoch));
            }
            if epoch != transaction.epoch {
                return Err(ErrorCode::ProducerFenced);
            }
        }
        match transaction.state {
            State::Prepared { .. } => return Err(ErrorCode::ConcurrentTransactions),
            State::Ongoing { .. } => {
                self.abort_and_fence(now, id)?;
                let state = self.transactions.get(id).map(|transaction| transaction.state);
                if matches!(state, Some(State::Prepared { .. })) {
                    return Err(ErrorCode::ConcurrentTransactions);
                }
            }
            State::Empty | State::Ended(_) => {}
        }
        let Some(transaction) = self.transactions.get(id) else {
            return Err(ErrorCode::UnknownServerError);
        };
        let (producer, epoch) = (transaction.producer, transaction.epoch);
        if epoch >= LAST_EPOCH {
            let producer = self.new_producer_id()?;
            return self.set_producer(now, id, producer, 0, -1, timeout);
        }
        if planted::is(planted::Defect::NoFencing) {
            return self.set_producer(now, id, producer, epoch, -1, timeout);
        }
        let last_epoch = if expected.is_some() { epoch } else { -1 };
        self.set_producer(now, id, producer, epoch + 1, last_epoch, timeout)
    }

    fn set_producer(
        &mut self,
        now: i64,
        id: &str,
        producer: i64,
        epoch: i16,
        last_epoch: i16,
        timeout: i64,
    ) -> Result<(i64, i16), ErrorCode> {
        self.remember(&Entry::Producer { id: id.to_owned(), producer, epoch, last_epoch, timeout, time: now })?;
        self.transactions.set_producer(id, producer, epoch, last_epoch, timeout, now);
        Ok((producer, epoch))
    }

    /// The transaction of a producer that speaks for it rightly.
    fn transaction_of(&self, id: &str, producer: i64, epoch: i16) -> Result<&Transaction, ErrorCode> {
        let transaction = self.transactions.get(id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        if transaction.producer != producer {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if transaction.epoch != epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        if matches!(transaction.state, State::Prepared { .. }) {
            return Err(ErrorCode::ConcurrentTransactions);
        }
        Ok(transaction)
    }

    /// Adds partitions to the producer's transaction, opening it if none is open. The caller has checked that they exist.
    ///
    /// # Errors
    /// `INVALID_PRODUCER_ID_MAPPING`, `PRODUCER_FENCED`, `CONCURRENT_TRANSACTIONS`, `COORDINATOR_NOT_AVAILABLE`.
    pub fn add_partitions_to_transaction(
        &mut self,
        now: i64,
        id: &str,
        producer: i64,
        epoch: i16,
        partitions: &[TopicPartition],
    ) -> Result<(), ErrorCode> {
        let transaction = self.transaction_of(id, producer, epoch)?;
        let ongoing = matches!(transaction.state, State::Ongoing { .. });
        let known = |at| transaction.partitions.contains(at);
        if ongoing && partitions.iter().all(known) {
            return Ok(());
        }
        self.join_transaction(now, id, partitions, &[])
    }

    /// Adds a group to the producer's transaction, opening it if none is open.
    ///
    /// # Errors
    /// As for [`Core::add_partitions_to_transaction`].
    pub fn add_group_to_transaction(
        &mut self,
        now: i64,
        id: &str,
        producer: i64,
        epoch: i16,
        group: &str,
    ) -> Result<(), ErrorCode> {
        self.transaction_of(id, producer, epoch)?;
        self.join_transaction(now, id, &[], &[group.to_owned()])
    }

    fn join_transaction(
        &mut self,
        now: i64,
        id: &str,
        partitions: &[TopicPartition],
        groups: &[String],
    ) -> Result<(), ErrorCode> {
        self.remember(&Entry::Joined {
            id: id.to_owned(),
            time: now,
            partitions: partitions.to_vec(),
            groups: groups.to_vec(),
        })?;
        if let Some(transaction) = self.transactions.by_id.get_mut(id) {
            transaction.join(now, partitions, groups);
        }
        Ok(())
    }

    /// Offsets of a group that become committed with the producer's transaction.
    ///
    /// # Errors
    /// `INVALID_TXN_STATE` if the group was not added; the member errors `ILLEGAL_GENERATION`, `UNKNOWN_MEMBER_ID`,
    /// `FENCED_INSTANCE_ID`; those of [`Core::add_partitions_to_transaction`].
    pub fn commit_in_transaction(
        &mut self,
        id: &str,
        producer: i64,
        epoch: i16,
        group: &str,
        who: &CommitAs,
        offsets: Offsets,
    ) -> Result<(), ErrorCode> {
        let transaction = self.transaction_of(id, producer, epoch)?;
        let ongoing = matches!(transaction.state, State::Ongoing { .. });
        if !ongoing || !transaction.groups.contains(group) {
            return Err(ErrorCode::InvalidTxnState);
        }
        self.may_commit(group, who, true)?;
        self.remember(&Entry::PendingOffsets { id: id.to_owned(), group: group.to_owned(), offsets: offsets.clone() })?;
        if let Some(transaction) = self.transactions.by_id.get_mut(id) {
            let pending = transaction.offsets.entry(group.to_owned()).or_default();
            pending.extend(offsets);
        }
        Ok(())
    }

    /// Ends the producer's transaction. A repeat of the last end is answered as the first was.
    ///
    /// # Errors
    /// `INVALID_TXN_STATE` if none is open; those of [`Core::add_partitions_to_transaction`].
    pub fn end_transaction(
        &mut self,
        now: i64,
        id: &str,
        producer: i64,
        epoch: i16,
        outcome: Outcome,
    ) -> Result<(), ErrorCode> {
        match self.transaction_of(id, producer, epoch)?.state {
            State::Ongoing { .. } => self.decide(now, id, outcome, epoch),
            State::Ended(ended) if ended == outcome => Ok(()),
            State::Empty | State::Ended(_) | State::Prepared { .. } => Err(ErrorCode::InvalidTxnState),
        }
    }

    fn abort_and_fence(&mut self, now: i64, id: &str) -> Result<(), ErrorCode> {
        let Some(transaction) = self.transactions.get(id) else {
            return Ok(());
        };
        let epoch = transaction.epoch.saturating_add(1);
        self.decide(now, id, Outcome::Abort, epoch)
    }

    /// Writes down the outcome; from here on it is certain, whatever happens.
    fn decide(&mut self, now: i64, id: &str, outcome: Outcome, epoch: i16) -> Result<(), ErrorCode> {
        self.remember(&Entry::Prepare { id: id.to_owned(), commit: outcome == Outcome::Commit, epoch })?;
        let round = self.rounds.as_ref().map_or(0, Rounds::next);
        if let Some(transaction) = self.transactions.by_id.get_mut(id) {
            transaction.state = State::Prepared { outcome, epoch, round };
        }
        if let Err(error) = self.finish(now, id) {
            // The decision stands; its markers follow when the disk takes them.
            tracing::error!(transactional_id = id, %error, "transaction not finished yet");
        }
        Ok(())
    }

    /// What an earlier process decided may not have reached the disk either.
    pub(super) fn await_sync_of_decisions(&mut self) {
        let next = self.rounds.as_ref().map_or(0, Rounds::next);
        for transaction in self.transactions.by_id.values_mut() {
            if let State::Prepared { round, .. } = &mut transaction.state {
                *round = next;
            }
        }
    }

    /// Writes the markers of a decided transaction and applies its offsets.
    fn finish(&mut self, now: i64, id: &str) -> Result<(), ErrorCode> {
        let Some(transaction) = self.transactions.by_id.get_mut(id) else {
            return Ok(());
        };
        let State::Prepared { outcome, epoch, round } = transaction.state else {
            return Ok(());
        };
        if self.rounds.as_ref().is_some_and(|rounds| !rounds.has_finished(round)) {
            return Ok(());
        }
        let producer = transaction.producer;
        // Kept until the end: a crash may still take the markers away, and then all are written again.
        let mut partitions = transaction.unmarked.take().unwrap_or_else(|| transaction.partitions.clone());
        let marked_before = partitions.is_empty();
        let mut failed = None;
        if planted::is(planted::Defect::MarkerMissing) && partitions.len() > 3 {
            partitions.pop_first();
        }
        while let Some(at) = partitions.pop_first() {
            let Some((partition, settings)) = self.partition_mut(&at.topic, at.partition) else {
                continue;
            };
            let commit = outcome == Outcome::Commit;
            let written = partition.log.append_marker(now, &settings.log, producer, epoch, commit);
            let key = partition.key;
            self.advanced.push(key);
            if let Err(code) = written {
                partitions.insert(at);
                failed = Some(code);
                break;
            }
        }
        if let Some(transaction) = self.transactions.by_id.get_mut(id) {
            transaction.unmarked = Some(partitions);
        }
        if let Some(code) = failed {
            return Err(code);
        }
        if let Some(next) = self.rounds.as_ref().map(Rounds::next).filter(|_| !marked_before)
            && let Some(transaction) = self.transactions.by_id.get_mut(id)
        {
            // That all markers are written must not be on disk before they are.
            transaction.state = State::Prepared { outcome, epoch, round: next };
            return Ok(());
        }
        self.remember(&Entry::Done { id: id.to_owned(), time: now })?;
        for (group, offsets) in self.transactions.done(id, now) {
            self.group_mut(&group).commit(offsets, now);
        }
        Ok(())
    }

    /// Finishes what a crash or a refusing disk interrupted.
    pub(super) fn finish_decided_transactions(&mut self, now: i64) {
        let decided = self.ids_where(|transaction| matches!(transaction.state, State::Prepared { .. }));
        for id in decided {
            if let Err(error) = self.finish(now, &id) {
                tracing::error!(transactional_id = id, %error, "transaction not finished");
            }
        }
    }

    pub(super) fn abort_overdue_transactions(&mut self, now: i64) {
        let overdue = self.ids_where(|transaction| match transaction.state {
            State::Ongoing { since } => now - since >= transaction.timeout,
            _ => false,
        });
        for id in overdue {
            tracing::warn!(transactional_id = id, "transaction timed out");
            if let Err(error) = self.abort_and_fence(now, &id) {
                tracing::error!(transactional_id = id, %error, "transaction not aborted");
            }
        }
    }

    fn ids_where(&self, wanted: impl Fn(&Transaction) -> bool) -> Vec<String> {
        let all = self.transactions.by_id.iter();
        let found = all.filter(|(_, transaction)| wanted(transaction));
        found.map(|(id, _)| id.clone()).collect()
    }
}
