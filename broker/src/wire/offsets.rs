//! Offsets of groups on the wire: committed, committed with a transaction, fetched, forgotten.

use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::Shared;
use super::transaction::fenced_since;
use crate::core::journal::{CommittedOffset, Offsets};
use crate::core::{CommitAs, Core, ErrorCode, FetchedOffset, TopicPartition};

/// Longest note a client may attach to an offset.
const MAX_METADATA_BYTES: usize = 4096;

type Wanted = Vec<(TopicName, Vec<i32>)>;

pub(super) fn commit(shared: &Shared, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let who = CommitAs {
        generation: request.generation_id_or_member_epoch,
        member: request.member_id.to_string(),
        instance: request.group_instance_id.map(|id| id.to_string()),
    };
    let asked = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| Asked {
            number: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata,
        });
        (topic.name, partitions.collect())
    });
    let asked = asked.collect();
    let codes = shared.with_core(|core, now| {
        commit_each(core, asked, |core, offsets| core.commit_offsets(now, &request.group_id, &who, offsets))
    });
    let topics = codes.into_iter().map(|(name, codes)| {
        let partitions = codes.into_iter().map(|(number, code)| {
            OffsetCommitResponsePartition::default().with_partition_index(number).with_error_code(code)
        });
        OffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// An offset as a client wants it committed.
struct Asked {
    number: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
}

/// Checks each offset, lets `commit` commit those that may be committed, and says of each partition what became of it.
fn commit_each(
    core: &mut Core,
    topics: Vec<(TopicName, Vec<Asked>)>,
    commit: impl FnOnce(&mut Core, Offsets) -> Result<(), ErrorCode>,
) -> Vec<(TopicName, Vec<(i32, i16)>)> {
    let mut offsets = Offsets::new();
    let mut codes = Vec::with_capacity(topics.len());
    for (name, partitions) in topics {
        let partitions = partitions.into_iter().map(|asked| {
            let number = asked.number;
            let at = TopicPartition::new(name.as_str(), number);
            match committable(core, at, asked) {
                Ok(offset) => {
                    offsets.push(offset);
                    (number, 0)
                }
                Err(code) => (number, code.code()),
            }
        });
        let partitions = partitions.collect();
        codes.push((name, partitions));
    }
    if let Err(code) = commit(core, offsets) {
        let all = codes.iter_mut().flat_map(|(_, partitions): &mut (_, Vec<(i32, i16)>)| partitions);
        all.filter(|(_, told)| *told == 0).for_each(|(_, told)| *told = code.code());
    }
    codes
}

/// Checks one offset of a commit request.
fn committable(core: &Core, at: TopicPartition, asked: Asked) -> Result<(TopicPartition, CommittedOffset), ErrorCode> {
    if !core.has_partition(&at.topic, at.partition) {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    let metadata = asked.metadata.map_or(String::new(), |metadata| metadata.to_string());
    if metadata.len() > MAX_METADATA_BYTES {
        return Err(ErrorCode::OffsetMetadataTooLarge);
    }
    let committed = CommittedOffset { offset: asked.offset, leader_epoch: asked.leader_epoch, metadata };
    Ok((at, committed))
}

pub(super) fn commit_in_transaction(shared: &Shared, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
    let who = CommitAs {
        generation: request.generation_id,
        member: request.member_id.to_string(),
        instance: request.group_instance_id.map(|id| id.to_string()),
    };
    let asked = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|partition| Asked {
            number: partition.partition_index,
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: partition.committed_metadata,
        });
        (topic.name, partitions.collect())
    });
    let asked = asked.collect();
    let codes = shared.with_core(|core, _| {
        commit_each(core, asked, |core, offsets| {
            let (producer, epoch) = (request.producer_id.0, request.producer_epoch);
            core.commit_in_transaction(&request.transactional_id, producer, epoch, &request.group_id, &who, offsets)
                .map_err(|code| fenced_since(code, 0, 1))
        })
    });
    let topics = codes.into_iter().map(|(name, codes)| {
        let partitions = codes.into_iter().map(|(number, code)| {
            TxnOffsetCommitResponsePartition::default().with_partition_index(number).with_error_code(code)
        });
        TxnOffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions.collect())
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

/// An offset as it is told: offset, leader epoch, note, error.
struct Told {
    offset: i64,
    leader_epoch: i32,
    metadata: StrBytes,
    error: i16,
}

fn told(core: &Core, group: &str, topic: &TopicName, number: i32, stable: bool) -> Told {
    let none = Told { offset: -1, leader_epoch: -1, metadata: StrBytes::new(), error: 0 };
    match core.fetch_offset(group, &TopicPartition::new(topic.as_str(), number), stable) {
        FetchedOffset::None => none,
        FetchedOffset::Unstable => Told { error: ErrorCode::UnstableOffsetCommit.code(), ..none },
        FetchedOffset::Committed(found) => Told {
            offset: found.offset,
            leader_epoch: found.leader_epoch,
            metadata: StrBytes::from_string(found.metadata),
            error: 0,
        },
    }
}

pub(super) fn fetch(shared: &Shared, request: OffsetFetchRequest, version: i16) -> OffsetFetchResponse {
    let stable = request.require_stable;
    if version < 8 {
        let group = request.group_id.as_str();
        let wanted = request
            .topics
            .map(|topics| topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect::<Wanted>());
        let topics = shared.read(|core| {
            let wanted = wanted.unwrap_or_else(|| all_committed(core, group));
            let topics = wanted.into_iter().map(|(name, numbers)| {
                let partitions = numbers.into_iter().map(|number| {
                    let told = told(core, group, &name, number, stable);
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(number)
                        .with_committed_offset(told.offset)
                        .with_committed_leader_epoch(told.leader_epoch)
                        .with_metadata(Some(told.metadata))
                        .with_error_code(told.error)
                });
                let partitions = partitions.collect();
                OffsetFetchResponseTopic::default().with_partitions(partitions).with_name(name)
            });
            topics.collect()
        });
        return OffsetFetchResponse::default().with_topics(topics);
    }
    let groups = shared.read(|core| {
        let groups = request.groups.into_iter().map(|group| {
            let id = group.group_id;
            let wanted = match group.topics {
                Some(topics) => topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect(),
                None => all_committed(core, &id),
            };
            let topics = wanted.into_iter().map(|(name, numbers)| {
                let partitions = numbers.into_iter().map(|number| {
                    let told = told(core, &id, &name, number, stable);
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(number)
                        .with_committed_offset(told.offset)
                        .with_committed_leader_epoch(told.leader_epoch)
                        .with_metadata(Some(told.metadata))
                        .with_error_code(told.error)
                });
                let partitions = partitions.collect();
                OffsetFetchResponseTopics::default().with_partitions(partitions).with_name(name)
            });
            let topics = topics.collect();
            OffsetFetchResponseGroup::default().with_topics(topics).with_group_id(id)
        });
        groups.collect()
    });
    OffsetFetchResponse::default().with_groups(groups)
}

fn all_committed(core: &Core, group: &str) -> Wanted {
    let mut topics = Wanted::new();
    for at in core.committed_partitions(group) {
        match topics.last_mut() {
            Some((name, numbers)) if name.as_str() == at.topic => numbers.push(at.partition),
            _ => topics.push((TopicName(StrBytes::from_string(at.topic)), vec![at.partition])),
        }
    }
    topics
}

pub(super) fn delete(shared: &Shared, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let wanted = request.topics.iter().flat_map(|topic| {
        let name = topic.name.as_str();
        topic.partitions.iter().map(move |partition| TopicPartition::new(name, partition.partition_index))
    });
    let wanted: Vec<TopicPartition> = wanted.collect();
    let results = match shared.with_core(|core, _| core.delete_offsets(&request.group_id, &wanted)) {
        Ok(results) => results,
        Err(code) => return OffsetDeleteResponse::default().with_error_code(code.code()),
    };
    let mut codes = results.into_iter().map(|result| result.err().map_or(0, |code| code.code()));
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(codes.next().unwrap_or_default())
        });
        let partitions = partitions.collect();
        topics.push(OffsetDeleteResponseTopic::default().with_partitions(partitions).with_name(topic.name));
    }
    OffsetDeleteResponse::default().with_topics(topics)
}
