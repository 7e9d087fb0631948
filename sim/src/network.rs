//! What clients ask of the broker and what it answers, as the protocol has it: the requests of the worker's clients,
//! served by the broker's core. Never decides what is lost or late.

use bytes::Bytes;
use millrace_broker::core::batch::check_produced;
use millrace_broker::core::groups::{GroupState, Join, JoinRefused, Joined};
use millrace_broker::core::journal::CommittedOffset;
use millrace_broker::core::{
    CommitAs, Core, ErrorCode, FetchedOffset, Isolation, Outcome, Reply as Late, Token, TopicPartition,
};
use millrace_runtime::Bounds;

/// Whose transaction a request is about.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) id: String,
    pub(crate) producer: i64,
    pub(crate) epoch: i16,
}

/// A request to the broker.
#[derive(Clone, Debug)]
pub(crate) enum Request {
    InitProducer {
        id: String,
        timeout: i64,
    },
    AddPartitions {
        owner: Owner,
        partitions: Vec<TopicPartition>,
    },
    Produce {
        batches: Vec<(TopicPartition, Vec<u8>)>,
    },
    AddGroup {
        owner: Owner,
        group: String,
    },
    CommitOffsets {
        owner: Owner,
        group: String,
        who: CommitAs,
        offsets: Vec<(TopicPartition, i64)>,
    },
    End {
        owner: Owner,
        outcome: Outcome,
    },
    /// Positions committed at once, outside of any transaction. Only a planted defect asks so.
    CommitNow {
        group: String,
        who: CommitAs,
        offsets: Vec<(TopicPartition, i64)>,
    },
    FetchOffsets {
        group: String,
        partitions: Vec<TopicPartition>,
        stable: bool,
    },
    Bounds {
        partitions: Vec<TopicPartition>,
        isolation: Isolation,
    },
    Join {
        group: String,
        join: Join,
    },
    Sync {
        group: String,
        generation: i32,
        member: String,
        instance: Option<String>,
        assignments: Vec<(String, Bytes)>,
    },
    Heartbeat {
        group: String,
        generation: i32,
        member: String,
        instance: Option<String>,
    },
    Leave {
        group: String,
        member: String,
        instance: Option<String>,
    },
    Describe {
        group: String,
    },
}

/// What is asked of a group's description.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    pub(crate) stable: bool,
    pub(crate) instances: Vec<String>,
    pub(crate) assignments: Vec<Bytes>,
}

/// What comes back.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The connection broke.
    Disconnected,
    Producer(Result<(i64, i16), ErrorCode>),
    /// To everything that is only done or refused.
    Done(Result<(), ErrorCode>),
    /// Where each batch landed.
    Produced(Vec<Result<i64, ErrorCode>>),
    Offsets(Vec<FetchedOffset>),
    Bounds(Vec<Bounds>),
    Joined(Result<Joined, JoinRefused>),
    Synced(Result<Bytes, ErrorCode>),
    Described(Described),
}

impl From<Late> for Reply {
    fn from(late: Late) -> Self {
        match late {
            Late::Join(joined) => Self::Joined(joined),
            Late::Sync(assignment) => Self::Synced(assignment),
        }
    }
}

impl Request {
    /// Whether a late copy of it could end another transaction.
    pub(crate) fn ends_transaction(&self) -> bool {
        matches!(self, Self::End { .. })
    }

    /// What the broker makes of it; nothing where the answer comes later, under the token.
    pub(crate) fn serve(&self, core: &mut Core, now: i64, token: Token) -> Option<Reply> {
        Some(match self {
            Self::InitProducer { id, timeout } => Reply::Producer(core.init_producer(now, Some(id), *timeout, None)),
            Self::AddPartitions { owner, partitions } => {
                Reply::Done(core.add_partitions_to_transaction(now, &owner.id, owner.producer, owner.epoch, partitions))
            }
            Self::Produce { batches } => Reply::Produced(
                batches
                    .iter()
                    .map(|(at, bytes)| {
                        let headers = check_produced(bytes)?;
                        core.append(now, &at.topic, at.partition, bytes, &headers).map(|appended| appended.base_offset)
                    })
                    .collect(),
            ),
            Self::AddGroup { owner, group } => {
                Reply::Done(core.add_group_to_transaction(now, &owner.id, owner.producer, owner.epoch, group))
            }
            Self::CommitOffsets { owner, group, who, offsets } => {
                let (producer, epoch) = (owner.producer, owner.epoch);
                Reply::Done(core.commit_in_transaction(&owner.id, producer, epoch, group, who, committed(offsets)))
            }
            Self::End { owner, outcome } => {
                Reply::Done(core.end_transaction(now, &owner.id, owner.producer, owner.epoch, *outcome))
            }
            Self::CommitNow { group, who, offsets } => {
                Reply::Done(core.commit_offsets(now, group, who, committed(offsets)))
            }
            Self::FetchOffsets { group, partitions, stable } => {
                Reply::Offsets(partitions.iter().map(|at| core.fetch_offset(group, at, *stable)).collect())
            }
            Self::Bounds { partitions, isolation } => Reply::Bounds(
                partitions
                    .iter()
                    .map(|at| Bounds {
                        start: core.earliest_offset(&at.topic, at.partition).unwrap_or(0),
                        end: core.latest_offset(&at.topic, at.partition, *isolation).unwrap_or(0),
                    })
                    .collect(),
            ),
            Self::Join { group, join } => {
                core.join_group(now, token, group, join.clone());
                return None;
            }
            Self::Sync { group, generation, member, instance, assignments } => {
                let instance = instance.as_deref();
                core.sync_group(now, token, group, *generation, member, instance, assignments.clone());
                return None;
            }
            Self::Heartbeat { group, generation, member, instance } => {
                Reply::Done(core.heartbeat(now, group, *generation, member, instance.as_deref()))
            }
            Self::Leave { group, member, instance } => {
                Reply::Done(core.leave_group(now, group, member, instance.as_deref()))
            }
            Self::Describe { group } => {
                let view = core.group(group);
                Reply::Described(Described {
                    stable: view.as_ref().is_some_and(|view| view.state == GroupState::Stable),
                    instances: view.iter().flat_map(|v| &v.members).filter_map(|m| m.instance.clone()).collect(),
                    assignments: view.iter().flat_map(|v| &v.members).map(|m| m.assignment.clone()).collect(),
                })
            }
        })
    }

    /// For the trace.
    pub(crate) fn say(&self) -> String {
        match self {
            Self::InitProducer { id, .. } => format!("InitProducerId {id}"),
            Self::AddPartitions { owner, partitions } => format!(
                "AddPartitionsToTxn epoch {} {}",
                owner.epoch,
                partitions.iter().map(place).collect::<Vec<_>>().join(" ")
            ),
            Self::Produce { batches } => {
                let say = |(at, bytes): &(TopicPartition, Vec<u8>)| format!("{} ({} bytes)", place(at), bytes.len());
                format!("Produce {}", batches.iter().map(say).collect::<Vec<_>>().join(" "))
            }
            Self::AddGroup { owner, group } => format!("AddOffsetsToTxn epoch {} {group}", owner.epoch),
            Self::CommitOffsets { owner, group, who, offsets } => format!(
                "TxnOffsetCommit epoch {} {group} generation {} {}",
                owner.epoch,
                who.generation,
                offsets.iter().map(|(at, next)| format!("{}={next}", place(at))).collect::<Vec<_>>().join(" ")
            ),
            Self::End { owner, outcome } => format!("EndTxn epoch {} {outcome:?}", owner.epoch),
            Self::FetchOffsets { group, .. } => format!("OffsetFetch {group}"),
            Self::CommitNow { group, .. } => format!("OffsetCommit {group}"),
            Self::Bounds { partitions, .. } => format!("ListOffsets of {} partitions", partitions.len()),
            Self::Join { group, join } => format!("JoinGroup {group} {:?}", join.member),
            Self::Sync { group, generation, .. } => format!("SyncGroup {group} generation {generation}"),
            Self::Describe { group } => format!("DescribeGroups {group}"),
            Self::Leave { group, member, .. } => format!("LeaveGroup {group} {member}"),
            Self::Heartbeat { group, generation, .. } => format!("Heartbeat {group} generation {generation}"),
        }
    }
}

impl Reply {
    /// For the trace.
    pub(crate) fn say(&self) -> String {
        match self {
            Self::Disconnected => "disconnected".into(),
            Self::Producer(Ok((id, epoch))) => format!("producer {id} epoch {epoch}"),
            Self::Producer(Err(code)) | Self::Done(Err(code)) | Self::Synced(Err(code)) => format!("{code:?}"),
            Self::Done(Ok(())) => "done".into(),
            Self::Produced(places) => format!("{places:?}"),
            Self::Offsets(offsets) => {
                let say = |offset: &FetchedOffset| match offset {
                    FetchedOffset::None => "-".to_owned(),
                    FetchedOffset::Committed(offset) => offset.offset.to_string(),
                    FetchedOffset::Unstable => "pending".to_owned(),
                };
                offsets.iter().map(say).collect::<Vec<_>>().join(" ")
            }
            Self::Bounds(bounds) => {
                bounds.iter().map(|b| format!("{}..{}", b.start, b.end)).collect::<Vec<_>>().join(" ")
            }
            Self::Joined(Ok(joined)) => format!("generation {} leader {}", joined.generation, joined.leader),
            Self::Joined(Err(refused)) => format!("{:?}", refused.code),
            Self::Synced(Ok(assignment)) => format!("{assignment:?}"),
            Self::Described(group) => format!("stable {} {:?}", group.stable, group.assignments),
        }
    }
}

fn committed(offsets: &[(TopicPartition, i64)]) -> Vec<(TopicPartition, CommittedOffset)> {
    let offset = |offset| CommittedOffset { offset, leader_epoch: -1, metadata: String::new() };
    offsets.iter().map(|(at, next)| (at.clone(), offset(*next))).collect()
}

fn place(at: &TopicPartition) -> String {
    format!("{}-{}", at.topic, at.partition)
}
