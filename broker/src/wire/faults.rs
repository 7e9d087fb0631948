//! Faults on demand, for tests of clients: what is to go wrong with the next request of a kind. Off unless asked for.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::messages as m;
pub use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};

use super::apis::Request;
use super::connection::Malformed;
use crate::core::ErrorCode;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, and answered with this error.
    Error(ErrorCode),
    /// It is done after this time.
    Delay(Duration),
    /// It is not done, and its connection is closed.
    DropConnection,
    /// It is done, but its connection is closed instead of an answer.
    LoseAnswer,
}

/// A kind of request that cannot be answered with an error on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be made to fail with an error; use another fault")]
pub struct CannotFail(pub ApiKey);

/// The faults that are to come.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    next: Mutex<HashMap<i16, VecDeque<Fault>>>,
}

impl Faults {
    pub(crate) fn add(&self, kind: ApiKey, fault: Fault) -> Result<(), CannotFail> {
        if matches!(fault, Fault::Error(_)) && !can_fail(kind) {
            return Err(CannotFail(kind));
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.entry(kind as i16).or_default().push_back(fault);
        Ok(())
    }

    pub(crate) fn take(&self, kind: ApiKey) -> Option<Fault> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = next.get_mut(&(kind as i16))?;
        let fault = faults.pop_front();
        if faults.is_empty() {
            next.remove(&(kind as i16));
        }
        fault
    }
}

fn can_fail(kind: ApiKey) -> bool {
    matches!(
        kind,
        ApiKey::Produce
            | ApiKey::Fetch
            | ApiKey::FindCoordinator
            | ApiKey::JoinGroup
            | ApiKey::SyncGroup
            | ApiKey::Heartbeat
            | ApiKey::OffsetCommit
            | ApiKey::InitProducerId
            | ApiKey::AddPartitionsToTxn
            | ApiKey::AddOffsetsToTxn
            | ApiKey::TxnOffsetCommit
            | ApiKey::EndTxn
    )
}

/// The answer that says nothing but this error.
pub(super) fn refused(request: &mut Request, error: ErrorCode) -> Result<BytesMut, Malformed> {
    let code = error.code();
    match request.key {
        ApiKey::Produce => {
            let wanted: m::ProduceRequest = request.decode()?;
            let topics = wanted.topic_data.into_iter().map(|topic| {
                let partitions = topic.partition_data.iter().map(|partition| {
                    PartitionProduceResponse::default()
                        .with_index(partition.index)
                        .with_error_code(code)
                        .with_base_offset(-1)
                });
                let partitions = partitions.collect();
                TopicProduceResponse::default().with_name(topic.name).with_partition_responses(partitions)
            });
            request.encode(&m::ProduceResponse::default().with_responses(topics.collect()))
        }
        ApiKey::Fetch => {
            let wanted: m::FetchRequest = request.decode()?;
            let topics = wanted.topics.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    m::fetch_response::PartitionData::default()
                        .with_partition_index(partition.partition)
                        .with_error_code(code)
                        .with_high_watermark(-1)
                });
                m::fetch_response::FetchableTopicResponse::default()
                    .with_partitions(partitions.collect())
                    .with_topic(topic.topic)
            });
            request.encode(&m::FetchResponse::default().with_responses(topics.collect()))
        }
        ApiKey::OffsetCommit => {
            let wanted: m::OffsetCommitRequest = request.decode()?;
            let topics = wanted.topics.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    m::offset_commit_response::OffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code)
                });
                m::offset_commit_response::OffsetCommitResponseTopic::default()
                    .with_partitions(partitions.collect())
                    .with_name(topic.name)
            });
            request.encode(&m::OffsetCommitResponse::default().with_topics(topics.collect()))
        }
        ApiKey::TxnOffsetCommit => {
            let wanted: m::TxnOffsetCommitRequest = request.decode()?;
            let topics = wanted.topics.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    m::txn_offset_commit_response::TxnOffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code)
                });
                m::txn_offset_commit_response::TxnOffsetCommitResponseTopic::default()
                    .with_partitions(partitions.collect())
                    .with_name(topic.name)
            });
            request.encode(&m::TxnOffsetCommitResponse::default().with_topics(topics.collect()))
        }
        ApiKey::AddPartitionsToTxn => {
            use m::add_partitions_to_txn_response as response;
            let wanted: m::AddPartitionsToTxnRequest = request.decode()?;
            let topics = wanted.v3_and_below_topics.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|number| {
                    response::AddPartitionsToTxnPartitionResult::default()
                        .with_partition_index(*number)
                        .with_partition_error_code(code)
                });
                response::AddPartitionsToTxnTopicResult::default()
                    .with_results_by_partition(partitions.collect())
                    .with_name(topic.name)
            });
            let topics = topics.collect();
            request.encode(&m::AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics))
        }
        ApiKey::FindCoordinator => {
            let wanted: m::FindCoordinatorRequest = request.decode()?;
            let coordinators = wanted
                .coordinator_keys
                .into_iter()
                .map(|key| m::find_coordinator_response::Coordinator::default().with_key(key).with_error_code(code));
            let response = m::FindCoordinatorResponse::default();
            request.encode(&if request.version >= 4 {
                response.with_coordinators(coordinators.collect())
            } else {
                response.with_error_code(code)
            })
        }
        ApiKey::JoinGroup => request.encode(&m::JoinGroupResponse::default().with_error_code(code)),
        ApiKey::SyncGroup => request.encode(&m::SyncGroupResponse::default().with_error_code(code)),
        ApiKey::Heartbeat => request.encode(&m::HeartbeatResponse::default().with_error_code(code)),
        ApiKey::InitProducerId => request.encode(&m::InitProducerIdResponse::default().with_error_code(code)),
        ApiKey::AddOffsetsToTxn => request.encode(&m::AddOffsetsToTxnResponse::default().with_error_code(code)),
        ApiKey::EndTxn => request.encode(&m::EndTxnResponse::default().with_error_code(code)),
        other => Err(Malformed::new(format!("{other:?} has no answer that is only an error"))),
    }
}
