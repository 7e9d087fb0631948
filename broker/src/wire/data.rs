//! Records in and out: Produce, Fetch, ListOffsets, DeleteRecords, OffsetForLeaderEpoch.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    BrokerId, DeleteRecordsRequest, DeleteRecordsResponse, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, ProduceRequest, ProduceResponse,
    ProducerId,
};

use super::Shared;
use super::cluster::LEADER_EPOCH;
use crate::core::batch::{self, BatchHeader};
use crate::core::{Core, ErrorCode, Isolation, PartitionKey};

/// The times that stand for places: what each means, and since which version of ListOffsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// Most bytes of records in one answer, whatever the client would take (Kafka's own limit).
const MAX_FETCH_BYTES: usize = 55 << 20;

fn isolation(level: i8) -> Isolation {
    if level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted }
}

pub(super) fn produce(shared: &Shared, request: ProduceRequest) -> ProduceResponse {
    // Checksums are verified before the core is locked.
    type Checked = Result<(Bytes, Vec<BatchHeader>), ErrorCode>;
    let without_id = request.transactional_id.is_none();
    let acks_allowed = matches!(request.acks, -1..=1);
    let check = |records: Option<Bytes>| -> Checked {
        if !acks_allowed {
            return Err(ErrorCode::InvalidRequiredAcks);
        }
        let records = records.ok_or(ErrorCode::InvalidRecord)?;
        // One whole batch for each partition, no more and no less.
        let first = BatchHeader::parse(&records).filter(|first| first.length == records.len());
        let first = first.ok_or(ErrorCode::InvalidRecord)?;
        if first.is_transactional() && without_id {
            return Err(ErrorCode::TransactionalIdAuthorizationFailed);
        }
        let headers = batch::check_produced(&records)?;
        Ok((records, headers))
    };
    let checked: Vec<(_, Vec<(i32, Checked)>)> = request
        .topic_data
        .into_iter()
        .map(|topic| {
            let partitions =
                topic.partition_data.into_iter().map(|partition| (partition.index, check(partition.records)));
            (topic.name, partitions.collect())
        })
        .collect();
    let responses = shared.with_core(|core, now| {
        checked
            .into_iter()
            .map(|(name, partitions)| {
                let partitions = partitions.into_iter().map(|(index, checked)| {
                    let appended =
                        checked.and_then(|(bytes, headers)| core.append(now, &name, index, &bytes, &headers));
                    let response = PartitionProduceResponse::default().with_index(index);
                    match appended {
                        Ok(appended) => response
                            .with_base_offset(appended.base_offset)
                            .with_log_append_time_ms(appended.log_append_time)
                            .with_log_start_offset(appended.log_start),
                        Err(code) => response
                            .with_error_code(code.code())
                            .with_base_offset(-1)
                            .with_log_append_time_ms(-1)
                            .with_log_start_offset(-1),
                    }
                });
                let partition_responses = partitions.collect();
                TopicProduceResponse::default().with_partition_responses(partition_responses).with_name(name)
            })
            .collect()
    });
    ProduceResponse::default().with_responses(responses)
}

/// There are no elections, so nobody can know of a newer leader than the first.
fn known_epoch(current: i32) -> Result<(), ErrorCode> {
    if current > LEADER_EPOCH { Err(ErrorCode::UnknownLeaderEpoch) } else { Ok(()) }
}

pub(super) async fn fetch(shared: &Shared, request: FetchRequest, version: i16) -> FetchResponse {
    // No session is ever given out. A client that opens or closes one is served without; one that continues one errs.
    if version >= 7 && request.session_epoch > 0 {
        let code = ErrorCode::FetchSessionIdNotFound.code();
        return FetchResponse::default().with_error_code(code);
    }
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let (found, watch) = match shared.read_or_watch(|core| read(core, &request)) {
            Ok(found) => return found,
            Err(too_little) => too_little,
        };
        if tokio::time::timeout_at(deadline, watch.changed()).await.is_err() {
            return found;
        }
    }
}

/// Reads what the request asks for; `Err` if it is less than the client wants to be answered with.
fn read(core: &Core, request: &FetchRequest) -> Result<FetchResponse, (FetchResponse, Vec<PartitionKey>)> {
    let isolation = isolation(request.isolation_level);
    let mut left = usize::try_from(request.max_bytes).unwrap_or(0).min(MAX_FETCH_BYTES);
    let mut bytes = 0;
    let mut failed = false;
    let mut keys = Vec::new();
    let mut responses = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let limit = usize::try_from(wanted.partition_max_bytes).unwrap_or(0);
            let fetched = known_epoch(wanted.current_leader_epoch).and_then(|()| {
                let at_least_one = bytes == 0;
                core.fetch(
                    &topic.topic,
                    wanted.partition,
                    wanted.fetch_offset,
                    limit.min(left),
                    at_least_one,
                    isolation,
                )
            });
            let data = PartitionData::default().with_partition_index(wanted.partition);
            partitions.push(match fetched {
                Ok(fetched) => {
                    left = left.saturating_sub(fetched.records.len());
                    bytes += fetched.records.len();
                    keys.extend(core.partition_key(&topic.topic, wanted.partition));
                    let aborted = fetched.aborted.iter().map(|aborted| {
                        AbortedTransaction::default()
                            .with_producer_id(ProducerId(aborted.producer_id))
                            .with_first_offset(aborted.first_offset)
                    });
                    let aborted = match isolation {
                        Isolation::ReadCommitted => Some(aborted.collect()),
                        Isolation::ReadUncommitted => None,
                    };
                    data.with_high_watermark(fetched.high_watermark)
                        .with_last_stable_offset(fetched.last_stable)
                        .with_log_start_offset(fetched.log_start)
                        .with_aborted_transactions(aborted)
                        .with_preferred_read_replica(BrokerId(-1))
                        .with_records(Some(fetched.records))
                }
                Err(code) => {
                    failed = true;
                    data.with_error_code(code.code())
                        .with_high_watermark(-1)
                        .with_last_stable_offset(-1)
                        .with_log_start_offset(-1)
                        .with_preferred_read_replica(BrokerId(-1))
                        .with_records(Some(Bytes::new()))
                }
            });
        }
        responses.push(FetchableTopicResponse::default().with_topic(topic.topic.clone()).with_partitions(partitions));
    }
    let response = FetchResponse::default().with_responses(responses);
    let enough = bytes >= usize::try_from(request.min_bytes).unwrap_or(0);
    if enough || failed || request.max_wait_ms <= 0 || keys.is_empty() { Ok(response) } else { Err((response, keys)) }
}

pub(super) fn list_offsets(shared: &Shared, request: ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
    let isolation = isolation(request.isolation_level);
    let topics = shared.read(|core| {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|wanted| {
                let number = wanted.partition_index;
                let found = known_epoch(wanted.current_leader_epoch)
                    .and_then(|()| place(core, &topic.name, number, wanted.timestamp, isolation, version));
                let response = ListOffsetsPartitionResponse::default().with_partition_index(number);
                match found {
                    Ok((-1, _)) => response.with_offset(-1).with_timestamp(-1),
                    Ok((offset, timestamp)) => {
                        let epoch = if version >= 4 { LEADER_EPOCH } else { -1 };
                        response.with_offset(offset).with_timestamp(timestamp).with_leader_epoch(epoch)
                    }
                    Err(code) => response.with_error_code(code.code()).with_offset(-1).with_timestamp(-1),
                }
            });
            let partitions = partitions.collect();
            ListOffsetsTopicResponse::default().with_partitions(partitions).with_name(topic.name)
        });
        topics.collect()
    });
    ListOffsetsResponse::default().with_topics(topics)
}

/// The offset a time stands for and the timestamp there; offset -1 if there is none.
fn place(
    core: &Core,
    topic: &str,
    number: i32,
    time: i64,
    isolation: Isolation,
    version: i16,
) -> Result<(i64, i64), ErrorCode> {
    let record = |found: Option<(i64, i64)>| found.unwrap_or((-1, -1));
    match time {
        LATEST => core.latest_offset(topic, number, isolation).map(|offset| (offset, -1)),
        EARLIEST => core.earliest_offset(topic, number).map(|offset| (offset, -1)),
        MAX_TIMESTAMP if version >= 7 => core.offset_of_max_timestamp(topic, number, isolation).map(record),
        EARLIEST_LOCAL if version >= 8 => core.earliest_offset(topic, number).map(|offset| (offset, -1)),
        // Nothing is ever moved elsewhere.
        LATEST_TIERED if version >= 9 => core.earliest_offset(topic, number).map(|_| (-1, -1)),
        time if time >= 0 => core.offset_for_timestamp(topic, number, time, isolation).map(record),
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

pub(super) fn delete_records(shared: &Shared, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let topics = shared.with_core(|core, _| {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|wanted| {
                let number = wanted.partition_index;
                let result = DeleteRecordsPartitionResult::default().with_partition_index(number);
                match core.delete_records(&topic.name, number, wanted.offset) {
                    Ok(start) => result.with_low_watermark(start),
                    Err(code) => result.with_low_watermark(-1).with_error_code(code.code()),
                }
            });
            let partitions = partitions.collect();
            DeleteRecordsTopicResult::default().with_partitions(partitions).with_name(topic.name)
        });
        topics.collect()
    });
    DeleteRecordsResponse::default().with_topics(topics)
}

pub(super) fn offset_for_leader_epoch(
    shared: &Shared,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let topics = shared.read(|core| {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|wanted| {
                let number = wanted.partition;
                let end = core.latest_offset(&topic.topic, number, Isolation::ReadUncommitted);
                let result = EpochEndOffset::default().with_partition(number);
                match end {
                    Err(code) => result.with_error_code(code.code()),
                    Ok(_) if wanted.current_leader_epoch > LEADER_EPOCH => {
                        result.with_error_code(ErrorCode::UnknownLeaderEpoch.code())
                    }
                    Ok(end) if wanted.leader_epoch == LEADER_EPOCH => {
                        result.with_leader_epoch(LEADER_EPOCH).with_end_offset(end)
                    }
                    Ok(_) => result,
                }
            });
            let partitions = partitions.collect();
            OffsetForLeaderTopicResult::default().with_partitions(partitions).with_topic(topic.topic)
        });
        topics.collect()
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}
