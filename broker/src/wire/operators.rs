//! What operators' tools ask: producers of a partition, transactions, sizes on disk; and ending what hangs.

use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState as Described};
use kafka_protocol::messages::list_transactions_response::TransactionState as Listed;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{
    DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeProducersRequest, DescribeProducersResponse,
    DescribeTransactionsRequest, DescribeTransactionsResponse, ListTransactionsRequest, ListTransactionsResponse,
    ProducerId, TopicName, TransactionalId, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::Shared;
use crate::core::views::{ProducerView, TransactionStatus, TransactionView};
use crate::core::{Core, ErrorCode, TopicPartition};

/// The only folder of data, as tools are told.
const LOG_DIR: StrBytes = StrBytes::from_static_str("data");

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn code(result: Result<(), ErrorCode>) -> i16 {
    result.err().map_or(0, |code| code.code())
}

pub(super) fn producers(shared: &Shared, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let topics = shared.read(|core| {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|number| {
                let response = PartitionResponse::default().with_partition_index(*number).with_error_message(None);
                match core.producers(&topic.name, *number) {
                    Ok(producers) => response.with_active_producers(producers.iter().map(state).collect()),
                    Err(code) => response.with_error_code(code.code()),
                }
            });
            let partitions = partitions.collect();
            TopicResponse::default().with_partitions(partitions).with_name(topic.name)
        });
        topics.collect()
    });
    DescribeProducersResponse::default().with_topics(topics)
}

fn state(producer: &ProducerView) -> ProducerState {
    ProducerState::default()
        .with_producer_id(ProducerId(producer.id))
        .with_producer_epoch(i32::from(producer.epoch))
        .with_last_sequence(producer.last_sequence.unwrap_or(-1))
        .with_last_timestamp(producer.last_timestamp)
        .with_coordinator_epoch(-1)
        .with_current_txn_start_offset(producer.open_since.unwrap_or(-1))
}

pub(super) fn describe_transactions(
    shared: &Shared,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let states = shared.read(|core| {
        let states = request.transactional_ids.into_iter().map(|id| match core.transaction(&id) {
            Some(transaction) => described(&transaction).with_transactional_id(id),
            None => Described::default()
                .with_error_code(ErrorCode::TransactionalIdNotFound.code())
                .with_transactional_id(id),
        });
        states.collect()
    });
    DescribeTransactionsResponse::default().with_transaction_states(states)
}

fn described(transaction: &TransactionView) -> Described {
    let mut topics: Vec<TopicData> = Vec::new();
    for at in &transaction.partitions {
        match topics.last_mut() {
            Some(topic) if topic.topic.as_str() == at.topic => topic.partitions.push(at.partition),
            _ => topics.push(TopicData::default().with_topic(name(&at.topic)).with_partitions(vec![at.partition])),
        }
    }
    Described::default()
        .with_transaction_state(StrBytes::from_static_str(transaction.state.name()))
        .with_transaction_timeout_ms(i32::try_from(transaction.timeout).unwrap_or(i32::MAX))
        .with_transaction_start_time_ms(transaction.since.unwrap_or(-1))
        .with_producer_id(ProducerId(transaction.producer))
        .with_producer_epoch(transaction.epoch)
        .with_topics(topics)
}

pub(super) fn list_transactions(shared: &Shared, request: &ListTransactionsRequest) -> ListTransactionsResponse {
    let known = |filter: &&StrBytes| TransactionStatus::ALL.iter().any(|state| state.name() == filter.as_str());
    let unknown: Vec<StrBytes> = request.state_filters.iter().filter(|filter| !known(filter)).cloned().collect();
    let states = shared.with_core(|core, now| {
        let wanted = |transaction: &TransactionView| {
            let states = &request.state_filters;
            let producers = &request.producer_id_filters;
            let running = transaction.since.map_or(-1, |since| now - since);
            (states.is_empty() || states.iter().any(|state| state.as_str() == transaction.state.name()))
                && (producers.is_empty() || producers.contains(&ProducerId(transaction.producer)))
                && (request.duration_filter < 0 || running > request.duration_filter)
        };
        let all = core.transactional_ids().into_iter().filter_map(|id| core.transaction(&id));
        let listed = all.filter(wanted).map(|transaction| {
            Listed::default()
                .with_transactional_id(TransactionalId(StrBytes::from_string(transaction.id)))
                .with_producer_id(ProducerId(transaction.producer))
                .with_transaction_state(StrBytes::from_static_str(transaction.state.name()))
        });
        listed.collect()
    });
    ListTransactionsResponse::default().with_unknown_state_filters(unknown).with_transaction_states(states)
}

pub(super) fn write_markers(shared: &Shared, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    let markers = shared.with_core(|core, now| {
        let markers = request.markers.into_iter().map(|marker| {
            let topics = marker.topics.into_iter().map(|topic| {
                let partitions = topic.partition_indexes.iter().map(|number| {
                    let at = TopicPartition::new(topic.name.as_str(), *number);
                    let (producer, epoch) = (marker.producer_id.0, marker.producer_epoch);
                    let result = core.write_marker(now, &at, producer, epoch, marker.transaction_result);
                    WritableTxnMarkerPartitionResult::default()
                        .with_partition_index(*number)
                        .with_error_code(code(result))
                });
                let partitions = partitions.collect();
                WritableTxnMarkerTopicResult::default().with_partitions(partitions).with_name(topic.name)
            });
            let topics = topics.collect();
            WritableTxnMarkerResult::default().with_producer_id(marker.producer_id).with_topics(topics)
        });
        markers.collect()
    });
    WriteTxnMarkersResponse::default().with_markers(markers)
}

pub(super) fn log_dirs(shared: &Shared, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let topics = shared.read(|core| {
        let wanted: Vec<(TopicName, Vec<i32>)> = match request.topics {
            Some(topics) => topics.into_iter().map(|topic| (topic.topic, topic.partitions)).collect(),
            None => core.topics().map(|topic| (name(&topic.name), (0..topic.partitions).collect())).collect(),
        };
        let topics = wanted.into_iter().filter_map(|(name, numbers)| log_dir_topic(core, name, &numbers));
        topics.collect()
    });
    // Sizes of the whole disk are not told.
    let dir = DescribeLogDirsResult::default()
        .with_log_dir(LOG_DIR)
        .with_topics(topics)
        .with_total_bytes(-1)
        .with_usable_bytes(-1);
    DescribeLogDirsResponse::default().with_results(vec![dir])
}

fn log_dir_topic(core: &Core, name: TopicName, numbers: &[i32]) -> Option<DescribeLogDirsTopic> {
    let partitions: Vec<DescribeLogDirsPartition> = numbers
        .iter()
        .filter_map(|number| {
            let bytes = core.partition_bytes(&name, *number).ok()?;
            let size = i64::try_from(bytes).unwrap_or(i64::MAX);
            Some(DescribeLogDirsPartition::default().with_partition_index(*number).with_partition_size(size))
        })
        .collect();
    (!partitions.is_empty()).then(|| DescribeLogDirsTopic::default().with_name(name).with_partitions(partitions))
}
