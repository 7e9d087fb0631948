//! Consumer groups on the wire: who is in, who leads, who is alive. Their offsets are in `offsets`.

use bytes::Bytes;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::Shared;
use crate::core::groups::{GroupState, Join, JoinRefused};
use crate::core::{ErrorCode, Reply};

/// The only type of group there is.
const CLASSIC: &str = "classic";

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
    let protocol_type = request.protocol_type;
    let join = Join {
        member: request.member_id.to_string(),
        instance: request.group_instance_id.map(|id| id.to_string()),
        client,
        session_timeout,
        rebalance_timeout: if version >= 1 { i64::from(request.rebalance_timeout_ms) } else { session_timeout },
        protocol_type: protocol_type.to_string(),
        protocols: request
            .protocols
            .into_iter()
            .map(|protocol| (protocol.name.to_string(), protocol.metadata))
            .collect(),
        wants_id_first: version >= 4,
        can_skip_assignment: version >= 9,
    };
    let group = request.group_id;
    let reply = shared.ask(|core, now, token| core.join_group(now, token, &group, join)).await;
    let refused = |refused: JoinRefused| {
        JoinGroupResponse::default()
            .with_error_code(refused.code.code())
            .with_generation_id(-1)
            .with_protocol_type(None)
            .with_protocol_name((version < 7).then(StrBytes::new))
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
                .with_protocol_type(Some(protocol_type))
                .with_protocol_name(Some(text(joined.protocol)))
                .with_skip_assignment(joined.skip_assignment)
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

pub(super) async fn sync(shared: &Shared, request: SyncGroupRequest, version: i16) -> SyncGroupResponse {
    let group = request.group_id;
    let refused = |code: ErrorCode| {
        SyncGroupResponse::default().with_error_code(code.code()).with_protocol_type(None).with_protocol_name(None)
    };
    let protocol = shared.read(|core| {
        core.group_protocol(&group).map(|(kind, assignor)| (text(kind.to_owned()), text(assignor.to_owned())))
    });
    // Since version 5 a client says what it believes the group speaks.
    if let Some((kind, assignor)) = &protocol {
        let differs = |told: &Option<StrBytes>, known: &StrBytes| told.as_ref().is_some_and(|told| told != known);
        if version >= 5 && (differs(&request.protocol_type, kind) || differs(&request.protocol_name, assignor)) {
            return refused(ErrorCode::InconsistentGroupProtocol);
        }
    }
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
                &group,
                request.generation_id,
                &request.member_id,
                request.group_instance_id.as_deref(),
                assignments,
            );
        })
        .await;
    match reply {
        Ok(Reply::Sync(Ok(assignment))) => {
            let (kind, assignor) = protocol.unzip();
            SyncGroupResponse::default()
                .with_assignment(assignment)
                .with_protocol_type(kind)
                .with_protocol_name(assignor)
        }
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

pub(super) fn describe(shared: &Shared, request: DescribeGroupsRequest, version: i16) -> DescribeGroupsResponse {
    let groups = shared.read(|core| {
        let groups = request.groups.into_iter().map(|id| {
            let described = DescribedGroup::default().with_authorized_operations(i32::MIN);
            let Some(group) = core.group(&id) else {
                let dead = described.with_group_state(StrBytes::from_static_str("Dead"));
                // Before version 6 a group that is not there was no error.
                let dead = if version >= 6 {
                    let why = format!("Group {} not found.", id.as_str());
                    dead.with_error_code(ErrorCode::GroupIdNotFound.code()).with_error_message(Some(text(why)))
                } else {
                    dead
                };
                return dead.with_group_id(id);
            };
            let stable = group.state == GroupState::Stable;
            let members = group.members.into_iter().map(|member| {
                DescribedGroupMember::default()
                    .with_member_id(text(member.id))
                    .with_group_instance_id(member.instance.map(text).filter(|_| version >= 4))
                    .with_client_id(text(member.client))
                    .with_client_host(StrBytes::from_static_str("/127.0.0.1"))
                    .with_member_metadata(if stable { member.metadata } else { Bytes::new() })
                    .with_member_assignment(member.assignment)
            });
            described
                .with_group_id(id)
                .with_group_state(StrBytes::from_static_str(group.state.name()))
                .with_protocol_type(text(group.protocol_type))
                .with_protocol_data(if stable { text(group.protocol) } else { StrBytes::new() })
                .with_members(members.collect())
                .with_error_message(None)
        });
        groups.collect()
    });
    DescribeGroupsResponse::default().with_groups(groups)
}

pub(super) fn list(shared: &Shared, request: &ListGroupsRequest, version: i16) -> ListGroupsResponse {
    let matches = |filters: &[StrBytes], name: &str| {
        filters.is_empty() || filters.iter().any(|filter| filter.as_str().eq_ignore_ascii_case(name))
    };
    if !matches(&request.types_filter, CLASSIC) {
        return ListGroupsResponse::default();
    }
    let groups = shared.read(|core| {
        let mut groups = Vec::new();
        for id in core.group_ids() {
            let Some(group) = core.group(&id) else {
                continue;
            };
            let state = group.state.name();
            if !matches(&request.states_filter, state) {
                continue;
            }
            let mut listed =
                ListedGroup::default().with_group_id(GroupId(text(id))).with_protocol_type(text(group.protocol_type));
            if version >= 4 {
                listed = listed.with_group_state(StrBytes::from_static_str(state));
            }
            if version >= 5 {
                listed = listed.with_group_type(StrBytes::from_static_str(CLASSIC));
            }
            groups.push(listed);
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
