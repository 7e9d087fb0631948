//! Consumer groups and their offsets on the wire.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::Shared;
use crate::core::groups::{Join, JoinRefused};
use crate::core::journal::CommittedOffset;
use crate::core::{CommitAs, Core, ErrorCode, FetchedOffset, Reply, TopicPartition};

/// Longest note a client may attach to an offset.
const MAX_METADATA_BYTES: usize = 4096;

fn text(string: impl Into<String>) -> StrBytes {
    StrBytes::from_string(string.into())
}

fn code(result: Result<(), ErrorCode>) -> i16 {
    result.err().map_or(0, |code| code.code())
}

pub(super) async fn join(
    shared: &Shared,
    request: JoinGroupRequest,
    client: String,
    version: i16,
) -> JoinGroupResponse {
    let session_timeout = i64::from(request.session_timeout_ms);
    let join = Join {
        member: request.member_id.to_string(),
        instance: request.group_instance_id.map(|id| id.to_string()),
        client,
        session_timeout,
        rebalance_timeout: if version >= 1 { i64::from(request.rebalance_timeout_ms) } else { session_timeout },
        protocol_type: request.protocol_type.to_string(),
        protocols: request
            .protocols
            .into_iter()
            .map(|protocol| (protocol.name.to_string(), protocol.metadata))
            .collect(),
        wants_id_first: version >= 4,
    };
    let group = request.group_id;
    let reply = shared.ask(|core, now, token| core.join_group(now, token, &group, join)).await;
    let refused = |refused: JoinRefused| {
        JoinGroupResponse::default()
            .with_error_code(refused.code.code())
            .with_generation_id(-1)
            .with_protocol_name(Some(StrBytes::new()))
            .with_member_id(text(refused.member))
    };
    match reply {
        Ok(Reply::Join(Ok(joined))) => {
            let members = joined.members.into_iter().map(|(id, instance, metadata)| {
                JoinGroupResponseMember::default()
                    .with_member_id(text(id))
                    .with_group_instance_id(instance.map(text).filter(|_| version >= 5))
                    .with_metadata(metadata)
            });
            JoinGroupResponse::default()
                .with_generation_id(joined.generation)
                .with_protocol_name(Some(text(joined.protocol)))
                .with_leader(text(joined.leader))
                .with_member_id(text(joined.member))
                .with_members(members.collect())
        }
        Ok(Reply::Join(Err(why))) => refused(why),
        Ok(Reply::Sync(_)) | Err(_) => {
            refused(JoinRefused { code: ErrorCode::CoordinatorNotAvailable, member: String::new() })
        }
    }
}

pub(super) async fn sync(shared: &Shared, request: SyncGroupRequest) -> SyncGroupResponse {
    let assignments = request
        .assignments
        .into_iter()
        .map(|assignment| (assignment.member_id.to_string(), assignment.assignment))
        .collect();
    let reply = shared
        .ask(|core, now, token| {
            core.sync_group(
                now,
                token,
                &request.group_id,
                request.generation_id,
                &request.member_id,
                request.group_instance_id.as_deref(),
                assignments,
            );
        })
        .await;
    let refused = |code: ErrorCode| SyncGroupResponse::default().with_error_code(code.code());
    match reply {
        Ok(Reply::Sync(Ok(assignment))) => SyncGroupResponse::default().with_assignment(assignment),
        Ok(Reply::Sync(Err(code))) => refused(code),
        Ok(Reply::Join(_)) | Err(_) => refused(ErrorCode::CoordinatorNotAvailable),
    }
}

pub(super) fn heartbeat(shared: &Shared, request: &HeartbeatRequest) -> HeartbeatResponse {
    let result = shared.with_core(|core, now| {
        core.heartbeat(
            now,
            &request.group_id,
            request.generation_id,
            &request.member_id,
            request.group_instance_id.as_deref(),
        )
    });
    HeartbeatResponse::default().with_error_code(code(result))
}

pub(super) fn leave(shared: &Shared, request: &LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
    let group = &request.group_id;
    if version < 3 {
        let member = &request.member_id;
        let result = shared.with_core(|core, now| core.leave_group(now, group, member, None));
        return LeaveGroupResponse::default().with_error_code(code(result));
    }
    let members = shared.with_core(|core, now| {
        let members = request.members.iter().map(|member| {
            let instance = member.group_instance_id.as_deref();
            let result = core.leave_group(now, group, &member.member_id, instance);
            MemberResponse::default()
                .with_member_id(member.member_id.clone())
                .with_group_instance_id(member.group_instance_id.clone())
                .with_error_code(code(result))
        });
        members.collect()
    });
    LeaveGroupResponse::default().with_members(members)
}

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
pub(super) fn committable(
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

pub(super) fn fetch_offsets(shared: &Shared, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let group = &request.group_id;
    let topics = shared.read(|core| {
        let wanted: Vec<(TopicName, Vec<i32>)> = match request.topics {
            Some(topics) => topics.into_iter().map(|topic| (topic.name, topic.partition_indexes)).collect(),
            None => all_committed(core, group),
        };
        let topics = wanted.into_iter().map(|(name, partitions)| {
            let partitions = partitions.into_iter().map(|number| {
                let at = TopicPartition::new(name.as_str(), number);
                let response = OffsetFetchResponsePartition::default()
                    .with_partition_index(number)
                    .with_committed_offset(-1)
                    .with_committed_leader_epoch(-1)
                    .with_metadata(Some(StrBytes::new()));
                match core.fetch_offset(group, &at, request.require_stable) {
                    FetchedOffset::None => response,
                    FetchedOffset::Unstable => response.with_error_code(ErrorCode::UnstableOffsetCommit.code()),
                    FetchedOffset::Committed(offset) => response
                        .with_committed_offset(offset.offset)
                        .with_committed_leader_epoch(offset.leader_epoch)
                        .with_metadata(Some(text(offset.metadata))),
                }
            });
            let partitions = partitions.collect();
            OffsetFetchResponseTopic::default().with_partitions(partitions).with_name(name)
        });
        topics.collect()
    });
    OffsetFetchResponse::default().with_topics(topics)
}

fn all_committed(core: &Core, group: &str) -> Vec<(TopicName, Vec<i32>)> {
    let mut topics: Vec<(TopicName, Vec<i32>)> = Vec::new();
    for at in core.committed_partitions(group) {
        match topics.last_mut() {
            Some((name, numbers)) if name.as_str() == at.topic => numbers.push(at.partition),
            _ => topics.push((TopicName(text(at.topic)), vec![at.partition])),
        }
    }
    topics
}

pub(super) fn describe(shared: &Shared, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let groups = shared.read(|core| {
        let groups = request.groups.into_iter().map(|id| {
            let described = DescribedGroup::default().with_authorized_operations(i32::MIN);
            let Some(group) = core.group(&id) else {
                return described.with_group_id(id).with_group_state(StrBytes::from_static_str("Dead"));
            };
            let members = group.members.into_iter().map(|member| {
                DescribedGroupMember::default()
                    .with_member_id(text(member.id))
                    .with_group_instance_id(member.instance.map(text))
                    .with_client_id(text(member.client))
                    .with_client_host(StrBytes::from_static_str("/127.0.0.1"))
                    .with_member_metadata(member.metadata)
                    .with_member_assignment(member.assignment)
            });
            described
                .with_group_id(id)
                .with_group_state(StrBytes::from_static_str(group.state.name()))
                .with_protocol_type(text(group.protocol_type))
                .with_protocol_data(text(group.protocol))
                .with_members(members.collect())
        });
        groups.collect()
    });
    DescribeGroupsResponse::default().with_groups(groups)
}

pub(super) fn list(shared: &Shared, request: &ListGroupsRequest, version: i16) -> ListGroupsResponse {
    let groups = shared.read(|core| {
        let mut groups = Vec::new();
        for id in core.group_ids() {
            let Some(group) = core.group(&id) else {
                continue;
            };
            let state = group.state.name();
            let wanted = request.states_filter.is_empty()
                || request.states_filter.iter().any(|filter| filter.as_str().eq_ignore_ascii_case(state));
            if !wanted {
                continue;
            }
            let listed =
                ListedGroup::default().with_group_id(GroupId(text(id))).with_protocol_type(text(group.protocol_type));
            groups.push(if version >= 4 { listed.with_group_state(StrBytes::from_static_str(state)) } else { listed });
        }
        groups
    });
    ListGroupsResponse::default().with_groups(groups)
}

pub(super) fn delete(shared: &Shared, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let results = shared.with_core(|core, _| {
        let results = request.groups_names.into_iter().map(|id| {
            let result = core.delete_group(&id);
            DeletableGroupResult::default().with_group_id(id).with_error_code(code(result))
        });
        results.collect()
    });
    DeleteGroupsResponse::default().with_results(results)
}
