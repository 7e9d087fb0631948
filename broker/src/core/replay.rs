//! What the journal's entries add up to, and the way back: the entries that say all that is true now.

use std::collections::BTreeMap;

use super::Core;
use super::TopicPartition;
use super::configs::Configs;
use super::groups::Group;
use super::journal::Entry;
use super::log::CleanedUpTo;
use super::transactions::Transactions;

/// A topic as the journal knows it.
#[derive(Debug, Default)]
pub(super) struct TopicEntry {
    pub(super) incarnation: u64,
    pub(super) partitions: i32,
    pub(super) configs: Configs,
    pub(super) log_starts: BTreeMap<i32, i64>,
    pub(super) cleaned: BTreeMap<i32, Vec<CleanedUpTo>>,
}

/// The sum of all entries read so far.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) starts: u64,
    pub(super) next_incarnation: u64,
    pub(super) topics: BTreeMap<String, TopicEntry>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) transactions: Transactions,
}

/// Entries of earlier versions do not tell their time.
fn known(time: i64, now: i64) -> i64 {
    if time == 0 { now } else { time }
}

impl Replayed {
    fn group(&mut self, id: &str) -> &mut Group {
        self.groups.entry(id.to_owned()).or_insert_with(|| Group::new(id))
    }

    pub(super) fn apply(&mut self, entry: Entry, now: i64) {
        match entry {
            Entry::Started { count } => self.starts = count,
            Entry::Topic { name, incarnation, partitions, configs } => {
                self.next_incarnation = self.next_incarnation.max(incarnation);
                let topic = self.topics.entry(name).or_default();
                topic.incarnation = incarnation;
                topic.partitions = partitions;
                topic.configs = configs;
            }
            Entry::TopicDeleted { name } => {
                self.topics.remove(&name);
                for group in self.groups.values_mut() {
                    group.offsets.retain(|at, _| at.topic != name);
                }
                self.transactions.forget_topic(&name);
            }
            Entry::LogStart { at, offset } => {
                if let Some(topic) = self.topics.get_mut(&at.topic) {
                    topic.log_starts.insert(at.partition, offset);
                }
            }
            Entry::Cleaned { at, offset, time } => {
                if let Some(topic) = self.topics.get_mut(&at.topic) {
                    let cleaned = topic.cleaned.entry(at.partition).or_default();
                    cleaned.push(CleanedUpTo { offset, at: time });
                }
            }
            Entry::Committed { group, time, offsets } => {
                self.group(&group).commit(offsets, known(time, now));
            }
            Entry::OffsetsDeleted { group, partitions } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.offsets.retain(|at, _| !partitions.contains(at));
                }
            }
            Entry::Group(entry) => {
                let id = entry.group.clone();
                self.group(&id).restore(entry, now);
            }
            Entry::GroupDeleted { group } => {
                self.groups.remove(&group);
            }
            Entry::Done { id, time } => {
                let time = known(time, now);
                for (group, offsets) in self.transactions.done(&id, time) {
                    self.group(&group).commit(offsets, time);
                }
            }
            Entry::ProducerIds { .. }
            | Entry::Producer { .. }
            | Entry::Joined { .. }
            | Entry::PendingOffsets { .. }
            | Entry::TransactionalIdExpired { .. }
            | Entry::Prepare { .. } => self.transactions.apply(entry, now),
        }
    }
}

impl Core {
    /// Entries that lead to the present state.
    pub(super) fn snapshot(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::Started { count: self.starts }];
        for (name, topic) in &self.topics {
            entries.push(Entry::Topic {
                name: name.clone(),
                incarnation: topic.incarnation,
                partitions: topic.partitions.len() as i32,
                configs: topic.configs.clone(),
            });
            for (number, partition) in topic.partitions.iter().enumerate() {
                let at = TopicPartition::new(name.clone(), number as i32);
                let offset = partition.log.start();
                if offset > 0 {
                    entries.push(Entry::LogStart { at: at.clone(), offset });
                }
                for cleaned in &partition.log.cleaned {
                    entries.push(Entry::Cleaned { at: at.clone(), offset: cleaned.offset, time: cleaned.at });
                }
            }
        }
        for (id, group) in &self.groups {
            entries.extend(group.stored().cloned().map(Entry::Group));
            if !group.offsets.is_empty() {
                let offsets = group.offsets.iter();
                entries.push(Entry::Committed {
                    group: id.clone(),
                    time: group.active_at(),
                    offsets: offsets.map(|(at, o)| (at.clone(), o.clone())).collect(),
                });
            }
        }
        self.transactions.snapshot(&mut entries);
        entries
    }
}
