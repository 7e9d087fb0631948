//! Consumer groups: joining, assigning, staying alive, leaving, being fenced; their offsets; and how they are told of.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;

use crate::Run;
use crate::wire::{Case, Wire, group_id, named, text, topic_name};

/// A consumer's subscription to one topic.
fn subscription(topic: &str) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    bytes.put_i16(topic.len() as i16);
    bytes.put_slice(topic.as_bytes());
    bytes.put_i32(-1);
    bytes.freeze()
}

fn join_request(c: &Case, member: &str, instance: Option<&str>, assignors: &[&str]) -> m::JoinGroupRequest {
    let protocols = assignors
        .iter()
        .map(|name| JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(subscription(&c.name)));
    m::JoinGroupRequest::default()
        .with_group_id(group_id(&c.name))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text))
        .with_protocol_type(text("consumer"))
        .with_protocols(protocols.collect())
}

/// What a member of a group knows of itself.
#[derive(Clone)]
pub struct Member {
    pub id: String,
    pub instance: Option<String>,
    pub generation: i32,
}

/// Joins in version 3, which gives a member in one step.
fn join(c: &mut Case) -> Member {
    let request = join_request(c, "", None, &["range"]);
    joined(c.wire.call(3, &request), None)
}

fn joined(answer: m::JoinGroupResponse, instance: Option<&str>) -> Member {
    assert_eq!(named(answer.error_code), "ok");
    Member { id: answer.member_id.to_string(), instance: instance.map(str::to_owned), generation: answer.generation_id }
}

fn join_static(c: &mut Case, instance: &str, version: i16) -> m::JoinGroupResponse {
    let request = join_request(c, "", Some(instance), &["range"]);
    c.wire.call(version, &request)
}

fn sync_request(c: &Case, member: &Member, given: &[(&str, &str)]) -> m::SyncGroupRequest {
    let assignments = given.iter().map(|(id, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(id))
            .with_assignment(Bytes::copy_from_slice(assignment.as_bytes()))
    });
    m::SyncGroupRequest::default()
        .with_group_id(group_id(&c.name))
        .with_generation_id(member.generation)
        .with_member_id(text(&member.id))
        .with_group_instance_id(member.instance.as_deref().map(text))
        .with_assignments(assignments.collect())
}

fn sync(c: &mut Case, member: &Member, given: &[(&str, &str)]) -> String {
    let request = sync_request(c, member, given);
    let answer = c.wire.call(4, &request);
    format!("{} {}", named(answer.error_code), String::from_utf8_lossy(&answer.assignment))
}

/// A stable group of one.
pub fn stable(c: &mut Case) -> Member {
    let member = join(c);
    let id = member.id.clone();
    assert_eq!(sync(c, &member, &[(&id, "all")]), "ok all");
    member
}

fn heartbeat(c: &mut Case, member: &Member) -> String {
    let request = m::HeartbeatRequest::default()
        .with_group_id(group_id(&c.name))
        .with_generation_id(member.generation)
        .with_member_id(text(&member.id))
        .with_group_instance_id(member.instance.as_deref().map(text));
    named(c.wire.call(4, &request).error_code)
}

fn leave(c: &mut Case, member: &str, instance: Option<&str>) -> String {
    let identity = MemberIdentity::default()
        .with_member_id(text(member))
        .with_group_instance_id(instance.map(text))
        .with_reason(None);
    let request = m::LeaveGroupRequest::default().with_group_id(group_id(&c.name)).with_members(vec![identity]);
    let answer = c.wire.call(5, &request);
    let inner = answer.members.first().map_or("nobody".to_owned(), |member| named(member.error_code));
    format!("{} {inner}", named(answer.error_code))
}

fn nobody() -> Member {
    Member { id: String::new(), instance: None, generation: -1 }
}

fn commit_with(c: &mut Case, member: &Member, topic: &str, partition: i32, offset: i64, note: &str) -> String {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(-1)
        .with_committed_metadata(Some(text(note)));
    let topic = OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = m::OffsetCommitRequest::default()
        .with_group_id(group_id(&c.name))
        .with_generation_id_or_member_epoch(member.generation)
        .with_member_id(text(&member.id))
        .with_group_instance_id(member.instance.as_deref().map(text))
        .with_topics(vec![topic]);
    named(c.wire.call(8, &request).topics[0].partitions[0].error_code)
}

pub fn commit(c: &mut Case, member: &Member, offset: i64) -> String {
    let name = c.name.clone();
    commit_with(c, member, &name, 0, offset, "")
}

/// The group's offset of partition 0 of the case's topic, with its note.
pub fn fetched(c: &mut Case, stable: bool) -> String {
    let topic = OffsetFetchRequestTopic::default().with_name(topic_name(&c.name)).with_partition_indexes(vec![0]);
    let request = m::OffsetFetchRequest::default()
        .with_group_id(group_id(&c.name))
        .with_topics(Some(vec![topic]))
        .with_require_stable(stable);
    let answer = c.wire.call(7, &request);
    let found = &answer.topics[0].partitions[0];
    let note = found.metadata.as_ref().map_or("null", |note| note.as_str());
    format!("{} {} {} '{note}'", named(answer.error_code), named(found.error_code), found.committed_offset)
}

fn describe(c: &mut Case, version: i16) -> String {
    let request = m::DescribeGroupsRequest::default().with_groups(vec![group_id(&c.name)]);
    let answer = c.wire.call(version, &request);
    let group = &answer.groups[0];
    let mut members: Vec<String> = group
        .members
        .iter()
        .map(|member| {
            let assignment = String::from_utf8_lossy(&member.member_assignment).into_owned();
            let instance = member.group_instance_id.as_ref().map_or("-", |id| id.as_str());
            format!("{}/{instance}/{}/'{assignment}'", member.client_id.as_str(), member.member_metadata.len())
        })
        .collect();
    members.sort();
    let (state, kind, data) = (group.group_state.as_str(), group.protocol_type.as_str(), group.protocol_data.as_str());
    // The length of a subscription is that of the case's name and a constant.
    let members = members.join(" ").replace(&format!("/{}/", c.name.len() + 12), "/subscription/");
    format!("{} {state} '{kind}' '{data}' [{members}]", named(group.error_code))
}

/// Whether the case's group is listed under these filters, and as what.
fn listed(c: &mut Case, version: i16, states: &[&str], types: &[&str]) -> String {
    let request = m::ListGroupsRequest::default()
        .with_states_filter(states.iter().map(|state| text(state)).collect())
        .with_types_filter(types.iter().map(|kind| text(kind)).collect());
    let answer = c.wire.call(version, &request);
    let found = answer.groups.iter().find(|group| group.group_id.as_str() == c.name);
    let found = found.map(|group| {
        let (kind, state, of) = (group.protocol_type.as_str(), group.group_state.as_str(), group.group_type.as_str());
        format!("'{kind}' '{state}' '{of}'")
    });
    format!("{} {}", named(answer.error_code), found.unwrap_or("not there".to_owned()))
}

fn delete(c: &mut Case) -> String {
    let request = m::DeleteGroupsRequest::default().with_groups_names(vec![group_id(&c.name)]);
    named(c.wire.call(2, &request).results[0].error_code)
}

fn delete_offset(c: &mut Case, topic: &str) -> String {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(0);
    let topic = OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let request = m::OffsetDeleteRequest::default().with_group_id(group_id(&c.name)).with_topics(vec![topic]);
    let answer = c.wire.call(0, &request);
    let inner = answer.topics.first().map_or("nothing".to_owned(), |topic| named(topic.partitions[0].error_code));
    format!("{} {inner}", named(answer.error_code))
}

fn refused_join(c: &mut Case, version: i16, change: impl Fn(m::JoinGroupRequest) -> m::JoinGroupRequest) -> String {
    let request = change(join_request(c, "", None, &["range"]));
    let answer = c.wire.call(version, &request);
    format!("{} generation {}", named(answer.error_code), answer.generation_id)
}

/// Two members of a stable group on two connections, the first of them the leader.
fn two(c: &mut Case) -> (Member, Member, Wire) {
    let first = stable(c);
    let mut other = c.another();
    other.send(3, &join_request(c, "", None, &["range"]));
    c.until("a rebalance begins", |c| heartbeat(c, &first) == "RebalanceInProgress");
    let again = join_request(c, &first.id, None, &["range"]);
    let first = joined(c.wire.call(3, &again), None);
    let second = joined(other.receive::<m::JoinGroupRequest>(3), None);
    let request = sync_request(c, &second, &[]);
    other.send(4, &request);
    let given = sync(c, &first, &[(&first.id.clone(), "left"), (&second.id.clone(), "right")]);
    assert_eq!(given, "ok left");
    let answer = other.receive::<m::SyncGroupRequest>(4);
    assert_eq!(&answer.assignment[..], b"right");
    (first, second, other)
}

pub const CASES: &[(&str, Run)] = &[
    ("join in every version", |c| {
        let told = (0..=3).map(|version| {
            let request = join_request(c, "", None, &["range"]);
            let answer = c.wire.call(version, &request);
            let member = answer.member_id.to_string();
            let told = format!("{version}:{} {}", named(answer.error_code), answer.generation_id);
            leave(c, &member, None);
            told
        });
        told.collect::<Vec<_>>().join(" ")
    }),
    ("join gives an id first", |c| {
        let request = join_request(c, "", None, &["range"]);
        let told = [4, 5, 6, 7, 8, 9].map(|version| {
            let answer = c.wire.call(version, &request);
            let first = format!("{} {}", named(answer.error_code), !answer.member_id.is_empty());
            let again = request.clone().with_member_id(answer.member_id.clone());
            let again = c.wire.call(version, &again);
            let same = again.member_id == answer.member_id;
            let leads = again.leader == again.member_id;
            let protocol = again.protocol_name.as_ref().map_or("null", |name| name.as_str());
            let told = format!("{version}:{first} {} {same} {leads} {protocol}", named(again.error_code));
            leave(c, &again.member_id, None);
            told
        });
        told.join(" | ")
    }),
    ("join under an id nobody gave", |c| {
        let told = refused_join(c, 5, |request| request.with_member_id(text("made-up")));
        stable(c);
        format!("{told}; {}", refused_join(c, 5, |request| request.with_member_id(text("made-up"))))
    }),
    ("join a group without a name", |c| refused_join(c, 5, |request| request.with_group_id(group_id("")))),
    ("join for too long a session", |c| refused_join(c, 5, |request| request.with_session_timeout_ms(3_600_000))),
    ("join for no session", |c| refused_join(c, 5, |request| request.with_session_timeout_ms(0))),
    ("join without an assignor", |c| refused_join(c, 3, |request| request.with_protocols(Vec::new()))),
    ("join without a protocol type", |c| refused_join(c, 3, |request| request.with_protocol_type(text("")))),
    ("join with another protocol type", |c| {
        stable(c);
        refused_join(c, 3, |request| request.with_protocol_type(text("connect")))
    }),
    ("join with an assignor nobody shares", |c| {
        stable(c);
        let request = join_request(c, "", None, &["sticky"]);
        named(c.wire.call(3, &request).error_code)
    }),
    ("leader gets all members", |c| {
        let request = join_request(c, "", None, &["range", "sticky"]);
        let answer = c.wire.call(3, &request);
        let leads = answer.leader == answer.member_id;
        let protocol = answer.protocol_name.map(|name| name.to_string());
        format!("{leads} {} {protocol:?}", answer.members.len())
    }),
    ("two members rebalance", |c| {
        let (first, second, _other) = two(c);
        let told = format!("{} {}", heartbeat(c, &first), heartbeat(c, &second));
        format!("{told} generation {} {}", first.generation, second.generation)
    }),
    ("assignor most members like", |c| {
        let request = join_request(c, "", None, &["range", "sticky"]);
        let first = joined(c.wire.call(3, &request), None);
        let id = first.id.clone();
        sync(c, &first, &[(&id, "all")]);
        let mut other = c.another();
        other.send(3, &join_request(c, "", None, &["sticky"]));
        c.until("a rebalance begins", |c| heartbeat(c, &first) == "RebalanceInProgress");
        let again = join_request(c, &first.id, None, &["range", "sticky"]);
        let answer = c.wire.call(3, &again);
        other.receive::<m::JoinGroupRequest>(3);
        format!("{:?} of {}", answer.protocol_name.map(|name| name.to_string()), answer.members.len())
    }),
    ("member repeats its join while stable", |c| {
        let member = stable(c);
        let request = join_request(c, &member.id, None, &["range"]);
        // The leader: its join makes a rebalance.
        let answer = c.wire.call(3, &request);
        format!("{} {}", named(answer.error_code), answer.generation_id)
    }),
    ("follower repeats its join while stable", |c| {
        let (_, second, _other) = two(c);
        let request = join_request(c, &second.id, None, &["range"]);
        let answer = c.wire.call(3, &request);
        format!("{} {} {}", named(answer.error_code), answer.generation_id, answer.members.len())
    }),
    ("sync of nobody", |c| sync(c, &nobody(), &[])),
    ("sync of another generation", |c| {
        let member = stable(c);
        let told = sync(c, &Member { generation: member.generation + 1, ..member.clone() }, &[]);
        format!("{told}; {}", sync(c, &Member { generation: member.generation - 1, ..member }, &[]))
    }),
    ("sync of a stranger", |c| {
        let member = stable(c);
        sync(c, &Member { id: "made-up".to_owned(), ..member }, &[])
    }),
    ("sync again", |c| {
        let member = stable(c);
        sync(c, &member, &[])
    }),
    ("sync tells protocol", |c| {
        let member = join(c);
        let id = member.id.clone();
        let request = sync_request(c, &member, &[(&id, "all")])
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")));
        let answer = c.wire.call(5, &request);
        format!("{} {:?} {:?}", named(answer.error_code), answer.protocol_type, answer.protocol_name)
    }),
    ("sync with another protocol type", |c| {
        let member = stable(c);
        let request = sync_request(c, &member, &[])
            .with_protocol_type(Some(text("connect")))
            .with_protocol_name(Some(text("range")));
        named(c.wire.call(5, &request).error_code)
    }),
    ("sync with another assignor", |c| {
        let member = stable(c);
        let request = sync_request(c, &member, &[])
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("sticky")));
        named(c.wire.call(5, &request).error_code)
    }),
    ("heartbeat of no group", |c| heartbeat(c, &Member { id: "x".to_owned(), generation: 1, instance: None })),
    ("heartbeat before the assignment", |c| {
        let member = join(c);
        heartbeat(c, &member)
    }),
    ("heartbeat of a stranger", |c| {
        let member = stable(c);
        heartbeat(c, &Member { id: "made-up".to_owned(), ..member })
    }),
    ("heartbeat of another generation", |c| {
        let member = stable(c);
        heartbeat(c, &Member { generation: member.generation + 1, ..member })
    }),
    ("heartbeat of an unknown instance", |c| {
        let member = stable(c);
        heartbeat(c, &Member { instance: Some("i".to_owned()), ..member })
    }),
    ("leave", |c| {
        let member = stable(c);
        let left = leave(c, &member.id, None);
        format!("{left}; {}; {}", heartbeat(c, &member), describe(c, 5))
    }),
    ("leave of a stranger", |c| {
        stable(c);
        leave(c, "made-up", None)
    }),
    ("leave no group", |c| leave(c, "made-up", None)),
    ("leave in an old version", |c| {
        let member = stable(c);
        let request =
            |id: &str| m::LeaveGroupRequest::default().with_group_id(group_id(&c.name)).with_member_id(text(id));
        let (stranger, own) = (request("made-up"), request(&member.id));
        format!("{} {}", named(c.wire.call(2, &stranger).error_code), named(c.wire.call(2, &own).error_code))
    }),
    ("leave by instance", |c| {
        let member = joined(join_static(c, "i", 5), Some("i"));
        format!("{}; {}", leave(c, "", Some("i")), heartbeat(c, &member))
    }),
    ("leave by unknown instance", |c| {
        stable(c);
        leave(c, "", Some("i"))
    }),
    ("leave by instance under another id", |c| {
        joined(join_static(c, "i", 5), Some("i"));
        leave(c, "made-up", Some("i"))
    }),
    ("one leaves, the other rebalances", |c| {
        let (first, second, _other) = two(c);
        let left = leave(c, &second.id, None);
        let told = heartbeat(c, &first);
        let request = join_request(c, &first.id, None, &["range"]);
        let answer = c.wire.call(3, &request);
        format!("{left}; {told}; {} of {}", answer.generation_id - first.generation, answer.members.len())
    }),
    ("static member comes back", |c| {
        let member = joined(join_static(c, "i", 5), Some("i"));
        let id = member.id.clone();
        sync(c, &member, &[(&id, "mine")]);
        let answer = join_static(c, "i", 5);
        let leads = answer.leader == answer.member_id;
        let back = joined(answer, Some("i"));
        let told =
            format!("other id {} same generation {}", back.id != member.id, back.generation == member.generation);
        format!("{told} leads {leads}; {}; old: {}", sync(c, &back, &[]), heartbeat(c, &member))
    }),
    ("static leader comes back in version 9", |c| {
        let member = joined(join_static(c, "i", 9), Some("i"));
        let id = member.id.clone();
        sync(c, &member, &[(&id, "mine")]);
        let answer = join_static(c, "i", 9);
        let told = format!("{} {}", answer.leader == answer.member_id, answer.skip_assignment);
        let members = answer.members.len();
        let back = joined(answer, Some("i"));
        format!("{told} {members} {}", sync(c, &back, &[]))
    }),
    ("static member is fenced", |c| {
        let member = joined(join_static(c, "i", 5), Some("i"));
        let id = member.id.clone();
        sync(c, &member, &[(&id, "mine")]);
        joined(join_static(c, "i", 5), Some("i"));
        c.create(1, &[]);
        let told = [heartbeat(c, &member), sync(c, &member, &[]), commit(c, &member, 1)];
        let request = join_request(c, &member.id, Some("i"), &["range"]);
        format!("{} {} {}", told.join("; "), named(c.wire.call(5, &request).error_code), leave(c, &id, Some("i")))
    }),
    ("commit by nobody of no group", |c| {
        c.create(1, &[]);
        format!("{}; {}", commit(c, &nobody(), 7), fetched(c, false))
    }),
    ("commit to a group without a name", |c| {
        c.create(1, &[]);
        let name = std::mem::take(&mut c.name);
        let told = commit_with(c, &nobody(), &name, 0, 1, "");
        c.name = name;
        told
    }),
    ("commit by nobody while there are members", |c| {
        c.create(1, &[]);
        stable(c);
        commit(c, &nobody(), 7)
    }),
    ("commit by a member", |c| {
        c.create(1, &[]);
        let member = stable(c);
        format!("{}; {}", commit(c, &member, 7), fetched(c, false))
    }),
    ("commit by a stranger", |c| {
        c.create(1, &[]);
        let member = stable(c);
        commit(c, &Member { id: "made-up".to_owned(), ..member }, 7)
    }),
    ("commit of another generation", |c| {
        c.create(1, &[]);
        let member = stable(c);
        commit(c, &Member { generation: member.generation - 1, ..member }, 7)
    }),
    ("commit of a generation to no group", |c| {
        c.create(1, &[]);
        commit(c, &Member { id: "x".to_owned(), instance: None, generation: 3 }, 7)
    }),
    ("commit before the assignment", |c| {
        c.create(1, &[]);
        let member = join(c);
        commit(c, &member, 7)
    }),
    ("commit while others join", |c| {
        c.create(1, &[]);
        let member = stable(c);
        let mut other = c.another();
        other.send(3, &join_request(c, "", None, &["range"]));
        c.until("a rebalance begins", |c| heartbeat(c, &member) == "RebalanceInProgress");
        commit(c, &member, 7)
    }),
    ("commit to no topic", |c| commit(c, &nobody(), 7)),
    ("commit to no partition", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        commit_with(c, &nobody(), &name, 9, 7, "")
    }),
    ("commit with a note", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        format!("{}; {}", commit_with(c, &nobody(), &name, 0, 7, "a note"), fetched(c, false))
    }),
    ("commit with too long a note", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        format!("{}; {}", commit_with(c, &nobody(), &name, 0, 7, &"x".repeat(4097)), fetched(c, false))
    }),
    ("commit of a negative offset", |c| {
        c.create(1, &[]);
        format!("{}; {}", commit(c, &nobody(), -2), fetched(c, false))
    }),
    ("offsets of no group", |c| fetched(c, false)),
    ("all offsets of a group", |c| {
        c.create(3, &[]);
        let name = c.name.clone();
        for partition in [2, 0] {
            commit_with(c, &nobody(), &name, partition, 5, "");
        }
        let request = m::OffsetFetchRequest::default().with_group_id(group_id(&name)).with_topics(None);
        let answer = c.wire.call(7, &request);
        let mut numbers: Vec<i32> = answer.topics[0].partitions.iter().map(|p| p.partition_index).collect();
        numbers.sort_unstable();
        format!("{} {numbers:?}", named(answer.error_code))
    }),
    ("offsets of several groups", |c| {
        c.create(1, &[]);
        commit(c, &nobody(), 5);
        let group = |id: &str| {
            let topic =
                OffsetFetchRequestTopics::default().with_name(topic_name(&c.name)).with_partition_indexes(vec![0]);
            OffsetFetchRequestGroup::default().with_group_id(group_id(id)).with_topics(Some(vec![topic]))
        };
        let groups = vec![group(&c.name), group("no such group")];
        let request = m::OffsetFetchRequest::default().with_groups(groups);
        let answer = c.wire.call(8, &request);
        let told = answer.groups.iter().map(|group| {
            let partition = &group.topics[0].partitions[0];
            format!("{} {} {}", named(group.error_code), named(partition.error_code), partition.committed_offset)
        });
        told.collect::<Vec<_>>().join("; ")
    }),
    ("offsets go with their topic", |c| {
        c.create(1, &[]);
        commit(c, &nobody(), 5);
        let name = c.name.clone();
        let state = m::delete_topics_request::DeleteTopicState::default().with_name(Some(topic_name(&name)));
        c.wire.call(6, &m::DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(10_000));
        c.until("they are gone", |c| fetched(c, false).contains(" -1 "));
        fetched(c, false)
    }),
    ("describe no group", |c| describe(c, 5)),
    ("describe no group in version 6", |c| describe(c, 6)),
    ("describe a group of offsets", |c| {
        c.create(1, &[]);
        commit(c, &nobody(), 5);
        describe(c, 6)
    }),
    ("describe a stable group", |c| {
        stable(c);
        describe(c, 6)
    }),
    ("describe a static member", |c| {
        let member = joined(join_static(c, "i", 5), Some("i"));
        let id = member.id.clone();
        sync(c, &member, &[(&id, "mine")]);
        describe(c, 4)
    }),
    ("describe a group that waits for its leader", |c| {
        join(c);
        describe(c, 5)
    }),
    ("describe a group that rebalances", |c| {
        let member = stable(c);
        let mut other = c.another();
        other.send(3, &join_request(c, "", None, &["range"]));
        c.until("a rebalance begins", |c| heartbeat(c, &member) == "RebalanceInProgress");
        describe(c, 5)
    }),
    ("list by state", |c| {
        stable(c);
        let told = [&["Stable"][..], &["stable"], &["Empty"], &["Empty", "Stable"], &["Nonsense"]]
            .map(|states| listed(c, 4, states, &[]));
        told.join("; ")
    }),
    ("list by type", |c| {
        stable(c);
        let told = [&["classic"][..], &["Classic"], &["consumer"], &["nonsense"]].map(|types| listed(c, 5, &[], types));
        told.join("; ")
    }),
    ("list in every version", |c| {
        stable(c);
        (0..=5).map(|version| listed(c, version, &[], &[])).collect::<Vec<_>>().join("; ")
    }),
    ("list a group of offsets", |c| {
        c.create(1, &[]);
        commit(c, &nobody(), 5);
        listed(c, 5, &[], &[])
    }),
    ("delete no group", |c| delete(c)),
    ("delete a group with members", |c| {
        stable(c);
        delete(c)
    }),
    ("delete an empty group", |c| {
        c.create(1, &[]);
        let member = stable(c);
        commit(c, &member, 5);
        leave(c, &member.id, None);
        format!("{}; {}; {}", delete(c), fetched(c, false), describe(c, 5))
    }),
    ("forget offsets of no group", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        delete_offset(c, &name)
    }),
    ("forget an offset", |c| {
        c.create(1, &[]);
        commit(c, &nobody(), 5);
        let name = c.name.clone();
        format!("{}; {}", delete_offset(c, &name), fetched(c, false))
    }),
    ("forget an offset of a topic in use", |c| {
        c.create(1, &[]);
        let member = stable(c);
        commit(c, &member, 5);
        let name = c.name.clone();
        format!("{}; {}", delete_offset(c, &name), fetched(c, false))
    }),
    ("forget an offset of a topic not in use", |c| {
        let other = format!("{}-other", c.name);
        c.create_named(&other, 1, &[]);
        let member = stable(c);
        let committed = commit_with(c, &member, &other, 0, 5, "");
        format!("{committed}; {}", delete_offset(c, &other))
    }),
    ("forget an offset of no topic", |c| {
        c.create(1, &[]);
        commit(c, &nobody(), 5);
        delete_offset(c, "no-such-topic")
    }),
    ("session ends", |c| {
        let request = join_request(c, "", None, &["range"]).with_session_timeout_ms(1000);
        let member = joined(c.wire.call(3, &request), None);
        c.until("the group is empty", |c| describe(c, 5).contains("Empty"));
        format!("{}; {}", heartbeat(c, &member), describe(c, 5))
    }),
    ("rebalance does not wait for ever", |c| {
        let request = join_request(c, "", None, &["range"]).with_rebalance_timeout_ms(500);
        let first = joined(c.wire.call(3, &request), None);
        let id = first.id.clone();
        sync(c, &first, &[(&id, "all")]);
        let mut other = c.another();
        // The first never joins again.
        other.send(3, &join_request(c, "", None, &["range"]).with_rebalance_timeout_ms(500));
        let second = joined(other.receive::<m::JoinGroupRequest>(3), None);
        format!("{} {}", second.generation - first.generation, heartbeat(c, &first))
    }),
    ("coordinators of several groups", |c| {
        let keys = vec![text("a"), text("b")];
        let answer = c.wire.call(4, &m::FindCoordinatorRequest::default().with_coordinator_keys(keys));
        let told = answer.coordinators.iter().map(|found| format!("{} {}", named(found.error_code), found.node_id.0));
        told.collect::<Vec<_>>().join("; ")
    }),
    ("coordinator of an unknown kind", |c| {
        let keys = vec![text("a")];
        let request = m::FindCoordinatorRequest::default().with_key_type(9).with_coordinator_keys(keys);
        named(c.wire.call(4, &request).coordinators[0].error_code)
    }),
];
