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
use crate::core::journal::CommittedOffset;
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
    let topics = shared.with_core(|core, now| {
        let mut offsets = Vec::new();
        let mut topics = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::new();
            for partition in topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                let result = committable(
                    core,
                    at,
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.committed_metadata,
                );
                let response = OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
                partitions.push(match result {
                    Ok(offset) => {
                        offsets.push(offset);
                        response
                    }
                    Err(code) => response.with_error_code(code.code()),
                });
            }
            topics.push(OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions));
        }
        if let Err(code) = core.commit_offsets(now, &request.group_id, &who, offsets) {
            let all = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            all.filter(|partition| partition.error_code == 0).for_each(|partition| partition.error_code = code.code());
        }
        topics
    });
    OffsetCommitResponse::default().with_topics(topics)
}

/// Checks one offset of a commit request.
fn committable(
    core: &Core,
    at: TopicPartition,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
) -> Result<(TopicPartition, CommittedOffset), ErrorCode> {
    if !core.has_partition(&at.topic, at.partition) {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    let metadata = metadata.map_or(String::new(), |metadata| metadata.to_string());
    if metadata.len() > MAX_METADATA_BYTES {
        return Err(ErrorCode::OffsetMetadataTooLarge);
    }
    let committed = CommittedOffset { offset, leader_epoch, metadata };
    Ok((at, committed))
}

pub(super) fn commit_in_transaction(shared: &Shared, request: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
    let who = CommitAs {
        generation: request.generation_id,
        member: request.member_id.to_string(),
        instance: request.group_instance_id.map(|id| id.to_string()),
    };
    let topics = shared.with_core(|core, _| {
        let mut offsets = Vec::new();
        let mut topics = Vec::new();
        for topic in request.topics {
            let mut partitions = Vec::new();
            for partition in topic.partitions {
                let at = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                let result = committable(
                    core,
                    at,
                    partition.committed_offset,
                    partition.committed_leader_epoch,
                    partition.committed_metadata,
                );
                let response =
                    TxnOffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
                partitions.push(match result {
                    Ok(offset) => {
                        offsets.push(offset);
                        response
                    }
                    Err(code) => response.with_error_code(code.code()),
                });
            }
            topics.push(TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions));
        }
        let result = core.commit_in_transaction(
            &request.transactional_id,
            request.producer_id.0,
            request.producer_epoch,
            &request.group_id,
            &who,
            offsets,
        );
        if let Err(code) = result {
            let code = fenced_since(code, 0, 1).code();
            let all = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
            all.filter(|partition| partition.error_code == 0).for_each(|partition| partition.error_code = code);
        }
        topics
    });
    TxnOffsetCommitResponse::default().with_topics(topics)
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
