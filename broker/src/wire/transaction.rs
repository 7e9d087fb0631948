//! Transactions on the wire. Offsets that go with one are in `offsets`.

use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse, ProducerId,
};

use super::Shared;
use crate::core::{ErrorCode, Outcome, TopicPartition};

/// Clients know the error "fenced" from some version of each request on; before, it had another name.
pub(super) fn fenced_since(code: ErrorCode, version: i16, since: i16) -> ErrorCode {
    if code == ErrorCode::ProducerFenced && version < since { ErrorCode::InvalidProducerEpoch } else { code }
}

pub(super) fn init_producer(shared: &Shared, request: &InitProducerIdRequest, version: i16) -> InitProducerIdResponse {
    let expected =
        (request.producer_id.0 >= 0 && version >= 3).then_some((request.producer_id.0, request.producer_epoch));
    let result = shared.with_core(|core, now| {
        core.init_producer(
            now,
            request.transactional_id.as_ref().map(|id| id.as_str()),
            i64::from(request.transaction_timeout_ms),
            expected,
        )
    });
    match result {
        Ok((id, epoch)) => {
            InitProducerIdResponse::default().with_producer_id(ProducerId(id)).with_producer_epoch(epoch)
        }
        Err(code) => InitProducerIdResponse::default()
            .with_error_code(fenced_since(code, version, 4).code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    }
}

pub(super) fn add_partitions(
    shared: &Shared,
    request: AddPartitionsToTxnRequest,
    version: i16,
) -> AddPartitionsToTxnResponse {
    let topics = request.v3_and_below_topics;
    let wanted: Vec<TopicPartition> = topics
        .iter()
        .flat_map(|topic| {
            let numbers = topic.partitions.iter();
            numbers.map(|number| TopicPartition::new(topic.name.as_str(), *number))
        })
        .collect();
    // All or none: with one unknown partition, the others are not attempted.
    let (unknown, result) = shared.with_core(|core, now| {
        let missing = |at: &&TopicPartition| !core.has_partition(&at.topic, at.partition);
        let unknown: Vec<TopicPartition> = wanted.iter().filter(missing).cloned().collect();
        if !unknown.is_empty() {
            return (unknown, Err(ErrorCode::OperationNotAttempted));
        }
        let result = core.add_partitions_to_transaction(
            now,
            &request.v3_and_below_transactional_id,
            request.v3_and_below_producer_id.0,
            request.v3_and_below_producer_epoch,
            &wanted,
        );
        (unknown, result)
    });
    let code = result.err().map_or(0, |code| fenced_since(code, version, 2).code());
    let topics = topics.into_iter().map(|topic| {
        let results = topic.partitions.iter().map(|number| {
            let is_unknown = |at: &TopicPartition| at.partition == *number && at.topic == topic.name.as_str();
            let code = if unknown.iter().any(is_unknown) { ErrorCode::UnknownTopicOrPartition.code() } else { code };
            AddPartitionsToTxnPartitionResult::default().with_partition_index(*number).with_partition_error_code(code)
        });
        let results = results.collect();
        AddPartitionsToTxnTopicResult::default().with_results_by_partition(results).with_name(topic.name)
    });
    AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics.collect())
}

pub(super) fn add_offsets(shared: &Shared, request: &AddOffsetsToTxnRequest, version: i16) -> AddOffsetsToTxnResponse {
    let result = shared.with_core(|core, now| {
        core.add_group_to_transaction(
            now,
            &request.transactional_id,
            request.producer_id.0,
            request.producer_epoch,
            &request.group_id,
        )
    });
    let code = result.err().map(|code| fenced_since(code, version, 2));
    AddOffsetsToTxnResponse::default().with_error_code(code.map_or(0, |code| code.code()))
}

pub(super) fn end(shared: &Shared, request: &EndTxnRequest, version: i16) -> EndTxnResponse {
    let outcome = if request.committed { Outcome::Commit } else { Outcome::Abort };
    let result = shared.with_core(|core, now| {
        core.end_transaction(now, &request.transactional_id, request.producer_id.0, request.producer_epoch, outcome)
    });
    let code = result.err().map(|code| fenced_since(code, version, 2));
    EndTxnResponse::default().with_error_code(code.map_or(0, |code| code.code()))
}
