//! Topics and their partitions: create, delete, grow, configure, write, read.

use std::collections::BTreeMap;

use super::batch::BatchHeader;
use super::configs::{self, Configs, TopicSettings};
use super::journal::Entry;
use super::log::{Appended, CleanedUpTo, Fetched, PartitionLog};
use super::replay::TopicEntry;
use super::{Core, ErrorCode, Isolation, PartitionKey, Refusal, StorageError, TopicPartition};

/// Folder of all partitions.
const TOPICS_DIR: &str = "topics";
/// Most partitions a topic may have; each costs files and memory.
const MAX_PARTITIONS: i32 = 1024;
const MAX_NAME_BYTES: usize = 249;

/// A topic.
pub(super) struct Topic {
    pub(super) incarnation: u64,
    pub(super) configs: Configs,
    pub(super) settings: TopicSettings,
    pub(super) partitions: Vec<Partition>,
}

/// A partition.
pub(super) struct Partition {
    pub(super) key: PartitionKey,
    pub(super) log: PartitionLog,
    /// Whether a compaction job of it is on its way.
    pub(super) compacting: bool,
    /// Whether a snapshot job of it is on its way.
    pub(super) snapshotting: bool,
}

/// A topic as told to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicView {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Tells the topic from an earlier one of the same name; never zero.
    pub incarnation: u64,
}

impl Topic {
    fn view(&self, name: &str) -> TopicView {
        TopicView { name: name.to_owned(), partitions: self.partitions.len() as i32, incarnation: self.incarnation }
    }
}

/// Kafka's rule for topic names.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

pub(super) fn topic_dir(name: &str, incarnation: u64) -> String {
    format!("{TOPICS_DIR}/{name}@{incarnation}")
}

impl Core {
    pub(super) fn open_topic(&mut self, name: String, entry: TopicEntry, now: i64) -> Result<(), StorageError> {
        let settings = configs::understand(&entry.configs)
            .or_else(|refusal| {
                tracing::error!(topic = name, refusal.message, "settings ignored");
                configs::understand(&Configs::new())
            })
            .map_err(|_| StorageError::Corrupt { file: "journal".to_owned(), position: 0, what: "topic settings" })?;
        let mut topic =
            Topic { incarnation: entry.incarnation, configs: entry.configs, settings, partitions: Vec::new() };
        for number in 0..entry.partitions {
            let start = entry.log_starts.get(&number).copied().unwrap_or(0);
            let cleaned = entry.cleaned.get(&number).cloned().unwrap_or_default();
            self.open_partition(&name, &mut topic, number, start, cleaned, now)?;
        }
        self.topics.insert(name, topic);
        Ok(())
    }

    fn open_partition(
        &mut self,
        name: &str,
        topic: &mut Topic,
        number: i32,
        start: i64,
        cleaned: Vec<CleanedUpTo>,
        now: i64,
    ) -> Result<(), StorageError> {
        let dir = format!("{}/{number}", topic_dir(name, topic.incarnation));
        let opened = PartitionLog::open(self.disk.clone(), dir.clone(), start, now);
        let mut log = opened.or_else(|error| match error {
            StorageError::Corrupt { .. } => {
                tracing::error!(
                    topic = name,
                    partition = number,
                    %error,
                    "partition set aside: its files stay as they are and its requests are refused. Restore the file \
                     from a copy, or cut it at that byte to give up what follows, and start again"
                );
                Ok(PartitionLog::set_aside(self.disk.clone(), dir, start))
            }
            other => Err(other),
        })?;
        log.cleaned = cleaned;
        if let Some(rounds) = &self.rounds {
            log.sync_closed = true;
            for file in log.maybe_unsynced() {
                rounds.ledger().note(&file);
            }
        }
        self.next_key += 1;
        let key = PartitionKey(self.next_key);
        topic.partitions.push(Partition { key, log, compacting: false, snapshotting: false });
        Ok(())
    }

    /// Folders of topics whose deletion was recorded but not finished.
    pub(super) fn delete_unknown_topic_dirs(&mut self) -> Result<(), StorageError> {
        let known: Vec<String> =
            self.topics.iter().map(|(name, topic)| format!("{name}@{}", topic.incarnation)).collect();
        let io = |error| StorageError::io(TOPICS_DIR, error);
        for dir in self.disk.list(TOPICS_DIR).map_err(io)? {
            if !known.contains(&dir) {
                let dir = format!("{TOPICS_DIR}/{dir}");
                self.disk.delete_dir(&dir).map_err(io)?;
            }
        }
        Ok(())
    }

    fn has_room_for(&self, more: i32) -> Result<(), Refusal> {
        let present: usize = self.topics.values().map(|topic| topic.partitions.len()).sum();
        let limit = self.settings.max_partitions;
        if present + usize::try_from(more).unwrap_or(0) <= limit {
            return Ok(());
        }
        let why = format!("{more} more partitions would be over {limit}; there are {present}. Delete topics first");
        Err(Refusal::new(ErrorCode::PolicyViolation, why))
    }

    /// Creates a topic; with `validate_only`, only says whether it could be.
    ///
    /// # Errors
    /// `TOPIC_ALREADY_EXISTS`, `INVALID_TOPIC_EXCEPTION`, `INVALID_PARTITIONS`, `INVALID_CONFIG`, `POLICY_VIOLATION`.
    pub fn create_topic(
        &mut self,
        now: i64,
        name: &str,
        partitions: i32,
        configs: Configs,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        if !is_valid_name(name) {
            let why = format!("{name:?} is not a topic name: letters, digits, '.', '_', '-'");
            return Err(Refusal::new(ErrorCode::InvalidTopicException, why));
        }
        if self.topics.contains_key(name) {
            let why = format!("topic {name} exists");
            return Err(Refusal::new(ErrorCode::TopicAlreadyExists, why));
        }
        // Kafka's metrics cannot tell '.' from '_', so two such names may not live together.
        let as_metric = name.replace('.', "_");
        if let Some(other) = self.topics.keys().find(|other| other.replace('.', "_") == as_metric) {
            let why = format!("topic {name} differs from {other} only in '.' and '_'");
            return Err(Refusal::new(ErrorCode::InvalidTopicException, why));
        }
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            let why = format!("partitions must be 1 to {MAX_PARTITIONS}, not {partitions}");
            return Err(Refusal::new(ErrorCode::InvalidPartitions, why));
        }
        configs::understand(&configs)?;
        self.has_room_for(partitions)?;
        if validate_only {
            return Ok(());
        }
        self.next_incarnation += 1;
        let incarnation = self.next_incarnation;
        let entry = Entry::Topic { name: name.to_owned(), incarnation, partitions, configs: configs.clone() };
        self.record(&entry).map_err(not_stored)?;
        let entry =
            TopicEntry { incarnation, partitions, configs, log_starts: BTreeMap::new(), cleaned: BTreeMap::new() };
        self.open_topic(name.to_owned(), entry, now)
            .map_err(|error| Refusal::new(ErrorCode::KafkaStorageError, error.to_string()))
    }

    /// Deletes a topic, its records and all offsets committed for it.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`.
    pub fn delete_topic(&mut self, name: &str) -> Result<(), Refusal> {
        if !self.topics.contains_key(name) {
            return Err(unknown_topic(name));
        }
        let entry = Entry::TopicDeleted { name: name.to_owned() };
        self.record(&entry).map_err(not_stored)?;
        if let Some(topic) = self.topics.remove(name) {
            let keys = topic.partitions.iter().map(|partition| partition.key);
            self.advanced.extend(keys);
            let dir = topic_dir(name, topic.incarnation);
            if let Err(error) = self.disk.delete_dir(&dir) {
                tracing::warn!(dir, %error, "topic files not deleted; tried again at next start");
            }
        }
        for group in self.groups.values_mut() {
            group.offsets.retain(|at, _| at.topic != name);
        }
        self.transactions.forget_topic(name);
        Ok(())
    }

    /// Makes a topic have `count` partitions.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_PARTITIONS` if that is not more than it has.
    pub fn add_partitions(&mut self, now: i64, name: &str, count: i32, validate_only: bool) -> Result<(), Refusal> {
        let topic = self.topics.get(name).ok_or_else(|| unknown_topic(name))?;
        let existing = topic.partitions.len() as i32;
        if count <= existing || count > MAX_PARTITIONS {
            let why = format!("topic {name} has {existing} partitions; {count} is not more, or over {MAX_PARTITIONS}");
            return Err(Refusal::new(ErrorCode::InvalidPartitions, why));
        }
        self.has_room_for(count - existing)?;
        if validate_only {
            return Ok(());
        }
        let entry = Entry::Topic {
            name: name.to_owned(),
            incarnation: topic.incarnation,
            partitions: count,
            configs: topic.configs.clone(),
        };
        self.record(&entry).map_err(not_stored)?;
        let Some(mut topic) = self.topics.remove(name) else {
            return Err(unknown_topic(name));
        };
        let mut result = Ok(());
        for number in existing..count {
            result = self.open_partition(name, &mut topic, number, 0, Vec::new(), now);
            if result.is_err() {
                break;
            }
        }
        self.topics.insert(name.to_owned(), topic);
        result.map_err(|error| Refusal::new(ErrorCode::KafkaStorageError, error.to_string()))
    }

    /// Replaces the settings of a topic.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_CONFIG`.
    pub fn configure_topic(&mut self, name: &str, configs: Configs, validate_only: bool) -> Result<(), Refusal> {
        let topic = self.topics.get(name).ok_or_else(|| unknown_topic(name))?;
        let settings = configs::understand(&configs)?;
        if validate_only {
            return Ok(());
        }
        let entry = Entry::Topic {
            name: name.to_owned(),
            incarnation: topic.incarnation,
            partitions: topic.partitions.len() as i32,
            configs: configs.clone(),
        };
        self.record(&entry).map_err(not_stored)?;
        if let Some(topic) = self.topics.get_mut(name) {
            topic.configs = configs;
            topic.settings = settings;
        }
        Ok(())
    }

    /// The settings given for a topic, without the defaults.
    #[must_use]
    pub fn topic_configs(&self, name: &str) -> Option<&Configs> {
        self.topics.get(name).map(|topic| &topic.configs)
    }

    /// One topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<TopicView> {
        self.topics.get(name).map(|topic| topic.view(name))
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = TopicView> + '_ {
        self.topics.iter().map(|(name, topic)| topic.view(name))
    }

    pub(super) fn partition(&self, topic: &str, number: i32) -> Option<(&Partition, &TopicSettings)> {
        let topic = self.topics.get(topic)?;
        let partition = topic.partitions.get(usize::try_from(number).ok()?)?;
        Some((partition, &topic.settings))
    }

    pub(super) fn partition_mut(&mut self, topic: &str, number: i32) -> Option<(&mut Partition, TopicSettings)> {
        let topic = self.topics.get_mut(topic)?;
        let settings = topic.settings;
        let partition = topic.partitions.get_mut(usize::try_from(number).ok()?)?;
        Some((partition, settings))
    }

    /// Whether the partition exists.
    #[must_use]
    pub fn has_partition(&self, topic: &str, number: i32) -> bool {
        self.partition(topic, number).is_some()
    }

    /// The key under which [`Core::take_advanced`] reports the partition.
    #[must_use]
    pub fn partition_key(&self, topic: &str, number: i32) -> Option<PartitionKey> {
        self.partition(topic, number).map(|(partition, _)| partition.key)
    }

    /// Appends batches checked by [`super::batch::check_produced`]. Transactional batches must belong to a transaction
    /// that is open and has been told of this partition.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_TXN_STATE`, `INVALID_PRODUCER_EPOCH`, those of [`PartitionLog::append`].
    pub fn append(
        &mut self,
        now: i64,
        topic: &str,
        number: i32,
        bytes: &[u8],
        headers: &[BatchHeader],
    ) -> Result<Appended, ErrorCode> {
        if !self.has_partition(topic, number) {
            return Err(ErrorCode::UnknownTopicOrPartition);
        }
        self.may_write()?;
        for header in headers.iter().filter(|header| header.is_transactional()) {
            self.transactions.may_write(header, topic, number)?;
        }
        let Some((partition, settings)) = self.partition_mut(topic, number) else {
            return Err(ErrorCode::UnknownTopicOrPartition);
        };
        let appended = partition.log.append(now, &settings.log, bytes, headers)?;
        let key = partition.key;
        self.advanced.push(key);
        Ok(appended)
    }

    /// Reads whole batches from `offset` on. See [`PartitionLog::fetch`].
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, those of [`PartitionLog::fetch`].
    pub fn fetch(
        &self,
        topic: &str,
        number: i32,
        offset: i64,
        max_bytes: usize,
        at_least_one: bool,
        isolation: Isolation,
    ) -> Result<Fetched, ErrorCode> {
        let (partition, _) = self.partition(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        partition.log.fetch(offset, max_bytes, at_least_one, isolation)
    }

    /// Oldest offset.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR` if its files were found broken.
    pub fn earliest_offset(&self, topic: &str, number: i32) -> Result<i64, ErrorCode> {
        let (partition, _) = self.partition(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        Ok(partition.log.usable()?.start())
    }

    /// Offset after the last record the reader may see.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR` if its files were found broken.
    pub fn latest_offset(&self, topic: &str, number: i32, isolation: Isolation) -> Result<i64, ErrorCode> {
        let (partition, _) = self.partition(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let log = partition.log.usable()?;
        Ok(match isolation {
            Isolation::ReadUncommitted => log.end(),
            Isolation::ReadCommitted => log.last_stable(),
        })
    }

    /// The first record with the largest timestamp, as (offset, timestamp).
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub fn offset_of_max_timestamp(
        &self,
        topic: &str,
        number: i32,
        isolation: Isolation,
    ) -> Result<Option<(i64, i64)>, ErrorCode> {
        let limit = self.latest_offset(topic, number, isolation)?;
        let (partition, _) = self.partition(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        partition.log.offset_of_max_timestamp(limit)
    }

    /// Bytes of a partition's segments.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`.
    pub fn partition_bytes(&self, topic: &str, number: i32) -> Result<u64, ErrorCode> {
        let (partition, _) = self.partition(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        Ok(partition.log.size())
    }

    /// First record not older than `timestamp`, as (offset, timestamp).
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub fn offset_for_timestamp(
        &self,
        topic: &str,
        number: i32,
        timestamp: i64,
        isolation: Isolation,
    ) -> Result<Option<(i64, i64)>, ErrorCode> {
        let limit = self.latest_offset(topic, number, isolation)?;
        let (partition, _) = self.partition(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        partition.log.offset_for_timestamp(timestamp, limit)
    }

    /// Deletes the records below `offset` (-1: all) and returns the new oldest offset.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC_OR_PARTITION`, `POLICY_VIOLATION` if the topic is only compacted, `OFFSET_OUT_OF_RANGE`,
    /// `KAFKA_STORAGE_ERROR`.
    pub fn delete_records(&mut self, topic: &str, number: i32, offset: i64) -> Result<i64, ErrorCode> {
        let (partition, settings) = self.partition(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if !settings.delete {
            return Err(ErrorCode::PolicyViolation);
        }
        partition.log.usable()?;
        let offset = if offset == -1 { partition.log.end() } else { offset };
        if offset < 0 || offset > partition.log.end() {
            return Err(ErrorCode::OffsetOutOfRange);
        }
        if offset > partition.log.start() {
            self.record(&Entry::LogStart { at: TopicPartition::new(topic, number), offset })?;
        }
        let (partition, _) = self.partition_mut(topic, number).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        partition.log.delete_before(offset)
    }
}

fn unknown_topic(name: &str) -> Refusal {
    let why = format!("there is no topic {name}");
    Refusal::new(ErrorCode::UnknownTopicOrPartition, why)
}

fn not_stored(code: ErrorCode) -> Refusal {
    Refusal::new(code, "the journal could not be written")
}
