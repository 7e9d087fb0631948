//! Which requests the broker understands, in which versions, and who answers them.
//!
//! What is not in the table is not announced and not answered.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AlterConfigsRequest, ApiKey, ApiVersionsRequest,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest, EndTxnRequest, FetchRequest,
    FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest,
    LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, RequestHeader, ResponseHeader, SyncGroupRequest,
    TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

use super::connection::Malformed;
use super::{Shared, admin, cluster, data, group, shape, transaction};

/// Versions of one request that are understood.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Api {
    pub(crate) key: ApiKey,
    pub(crate) min: i16,
    pub(crate) max: i16,
}

const fn api(key: ApiKey, min: i16, max: i16) -> Api {
    Api { key, min, max }
}

/// Everything the broker understands.
pub(crate) const APIS: &[Api] = &[
    api(ApiKey::Produce, 3, 8),
    api(ApiKey::Fetch, 4, 11),
    api(ApiKey::ListOffsets, 1, 5),
    api(ApiKey::Metadata, 0, 8),
    api(ApiKey::OffsetCommit, 2, 7),
    api(ApiKey::OffsetFetch, 1, 7),
    api(ApiKey::FindCoordinator, 0, 2),
    api(ApiKey::JoinGroup, 0, 5),
    api(ApiKey::Heartbeat, 0, 3),
    api(ApiKey::LeaveGroup, 0, 3),
    api(ApiKey::SyncGroup, 0, 3),
    api(ApiKey::DescribeGroups, 0, 4),
    api(ApiKey::ListGroups, 0, 4),
    api(ApiKey::ApiVersions, 0, 3),
    api(ApiKey::CreateTopics, 2, 4),
    api(ApiKey::DeleteTopics, 1, 3),
    api(ApiKey::DeleteRecords, 0, 1),
    api(ApiKey::InitProducerId, 0, 4),
    api(ApiKey::OffsetForLeaderEpoch, 2, 3),
    api(ApiKey::AddPartitionsToTxn, 0, 2),
    api(ApiKey::AddOffsetsToTxn, 0, 2),
    api(ApiKey::EndTxn, 0, 2),
    api(ApiKey::TxnOffsetCommit, 0, 3),
    api(ApiKey::DescribeConfigs, 1, 3),
    api(ApiKey::AlterConfigs, 0, 1),
    api(ApiKey::CreatePartitions, 0, 1),
    api(ApiKey::DeleteGroups, 0, 1),
    api(ApiKey::IncrementalAlterConfigs, 0, 0),
    api(ApiKey::DescribeCluster, 0, 0),
];

/// A request as it came.
pub(crate) struct Request {
    pub(crate) key: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation: i32,
    pub(crate) client: String,
    pub(crate) body: Bytes,
}

impl Request {
    /// Reads the header of a frame. `Err` closes the connection.
    pub(crate) fn read(mut frame: Bytes) -> Result<Self, Malformed> {
        let (Some(key), Some(version)) = (int16(&frame, 0), int16(&frame, 2)) else {
            return Err(Malformed::new("frame shorter than a request header"));
        };
        let key = ApiKey::try_from(key).map_err(|()| Malformed::new(format!("unknown request {key}")))?;
        let api = APIS.iter().find(|api| api.key == key);
        let known = api.is_some_and(|api| (api.min..=api.max).contains(&version));
        if key == ApiKey::ApiVersions && !known {
            // Answered in version 0, so only the correlation id must be understood.
            let correlation = frame.get(4..8).ok_or(Malformed::new("no correlation id"))?;
            return Ok(Self {
                key,
                version: -1,
                correlation: i32::from_be_bytes([correlation[0], correlation[1], correlation[2], correlation[3]]),
                client: String::new(),
                body: Bytes::new(),
            });
        }
        if !known {
            let what = format!("request {key:?} version {version} is not supported");
            return Err(Malformed::new(what));
        }
        let header = RequestHeader::decode(&mut frame, key.request_header_version(version))
            .map_err(|error| Malformed::new(format!("header: {error:#}")))?;
        shape::check(key, version, &frame)?;
        Ok(Self {
            key,
            version,
            correlation: header.correlation_id,
            client: header.client_id.map_or(String::new(), |id| id.to_string()),
            body: frame,
        })
    }

    fn decode<T: Decodable>(&mut self) -> Result<T, Malformed> {
        T::decode(&mut self.body, self.version).map_err(|error| Malformed::new(format!("{:?}: {error:#}", self.key)))
    }

    fn encode<T: Encodable + HeaderVersion>(&self, response: &T) -> Result<BytesMut, Malformed> {
        encode(response, self.correlation, self.version)
            .map_err(|error| Malformed::new(format!("answer to {:?}: {error:#}", self.key)))
    }
}

fn int16(bytes: &[u8], at: usize) -> Option<i16> {
    let raw = bytes.get(at..at + 2)?;
    Some(i16::from_be_bytes([raw[0], raw[1]]))
}

/// A whole frame: length, header, body.
fn encode<T: Encodable + HeaderVersion>(
    response: &T,
    correlation: i32,
    version: i16,
) -> Result<BytesMut, anyhow_free::Error> {
    let size = response.compute_size(version)?;
    let mut frame = BytesMut::with_capacity(size + 16);
    frame.put_i32(0);
    ResponseHeader::default().with_correlation_id(correlation).encode(&mut frame, T::header_version(version))?;
    response.encode(&mut frame, version)?;
    let length = (frame.len() - 4) as i32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// The codec's errors, without naming their crate.
mod anyhow_free {
    pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;
}

/// Answers one request; `None` if the client wants no answer.
pub(crate) async fn answer(shared: &Arc<Shared>, mut request: Request) -> Result<Option<BytesMut>, Malformed> {
    let version = request.version;
    let r = &mut request;
    let frame = match r.key {
        ApiKey::Produce => {
            let decoded: ProduceRequest = r.decode()?;
            let wants_answer = decoded.acks != 0;
            let response = data::produce(shared, decoded);
            if !wants_answer {
                return Ok(None);
            }
            r.encode(&response)
        }
        ApiKey::Fetch => {
            let decoded: FetchRequest = r.decode()?;
            r.encode(&data::fetch(shared, decoded).await)
        }
        ApiKey::ListOffsets => {
            let decoded: ListOffsetsRequest = r.decode()?;
            r.encode(&data::list_offsets(shared, decoded))
        }
        ApiKey::DeleteRecords => {
            let decoded: DeleteRecordsRequest = r.decode()?;
            r.encode(&data::delete_records(shared, decoded))
        }
        ApiKey::OffsetForLeaderEpoch => {
            let decoded: OffsetForLeaderEpochRequest = r.decode()?;
            r.encode(&data::offset_for_leader_epoch(shared, decoded))
        }
        ApiKey::Metadata => {
            let decoded: MetadataRequest = r.decode()?;
            r.encode(&cluster::metadata(shared, decoded, version))
        }
        ApiKey::FindCoordinator => {
            let decoded: FindCoordinatorRequest = r.decode()?;
            r.encode(&cluster::find_coordinator(shared, &decoded))
        }
        ApiKey::DescribeCluster => {
            let _: DescribeClusterRequest = r.decode()?;
            r.encode(&cluster::describe_cluster(shared))
        }
        ApiKey::ApiVersions if version < 0 => {
            let response = cluster::api_versions_refused();
            encode(&response, r.correlation, 0).map_err(|error| Malformed::new(error.to_string()))
        }
        ApiKey::ApiVersions => {
            let _: ApiVersionsRequest = r.decode()?;
            r.encode(&cluster::api_versions())
        }
        ApiKey::JoinGroup => {
            let decoded: JoinGroupRequest = r.decode()?;
            let client = std::mem::take(&mut r.client);
            r.encode(&group::join(shared, decoded, client, version).await)
        }
        ApiKey::SyncGroup => {
            let decoded: SyncGroupRequest = r.decode()?;
            r.encode(&group::sync(shared, decoded).await)
        }
        ApiKey::Heartbeat => {
            let decoded: HeartbeatRequest = r.decode()?;
            r.encode(&group::heartbeat(shared, &decoded))
        }
        ApiKey::LeaveGroup => {
            let decoded: LeaveGroupRequest = r.decode()?;
            r.encode(&group::leave(shared, &decoded, version))
        }
        ApiKey::OffsetCommit => {
            let decoded: OffsetCommitRequest = r.decode()?;
            r.encode(&group::commit(shared, decoded))
        }
        ApiKey::OffsetFetch => {
            let decoded: OffsetFetchRequest = r.decode()?;
            r.encode(&group::fetch_offsets(shared, decoded))
        }
        ApiKey::DescribeGroups => {
            let decoded: DescribeGroupsRequest = r.decode()?;
            r.encode(&group::describe(shared, decoded))
        }
        ApiKey::ListGroups => {
            let decoded: ListGroupsRequest = r.decode()?;
            r.encode(&group::list(shared, &decoded, version))
        }
        ApiKey::DeleteGroups => {
            let decoded: DeleteGroupsRequest = r.decode()?;
            r.encode(&group::delete(shared, decoded))
        }
        ApiKey::InitProducerId => {
            let decoded: InitProducerIdRequest = r.decode()?;
            r.encode(&transaction::init_producer(shared, &decoded, version))
        }
        ApiKey::AddPartitionsToTxn => {
            let decoded: AddPartitionsToTxnRequest = r.decode()?;
            r.encode(&transaction::add_partitions(shared, decoded, version))
        }
        ApiKey::AddOffsetsToTxn => {
            let decoded: AddOffsetsToTxnRequest = r.decode()?;
            r.encode(&transaction::add_offsets(shared, &decoded, version))
        }
        ApiKey::TxnOffsetCommit => {
            let decoded: TxnOffsetCommitRequest = r.decode()?;
            r.encode(&transaction::commit_offsets(shared, decoded))
        }
        ApiKey::EndTxn => {
            let decoded: EndTxnRequest = r.decode()?;
            r.encode(&transaction::end(shared, &decoded, version))
        }
        ApiKey::CreateTopics => {
            let decoded: CreateTopicsRequest = r.decode()?;
            r.encode(&admin::create_topics(shared, decoded))
        }
        ApiKey::DeleteTopics => {
            let decoded: DeleteTopicsRequest = r.decode()?;
            r.encode(&admin::delete_topics(shared, decoded))
        }
        ApiKey::CreatePartitions => {
            let decoded: CreatePartitionsRequest = r.decode()?;
            r.encode(&admin::create_partitions(shared, decoded))
        }
        ApiKey::DescribeConfigs => {
            let decoded: DescribeConfigsRequest = r.decode()?;
            r.encode(&admin::describe_configs(shared, decoded))
        }
        ApiKey::AlterConfigs => {
            let decoded: AlterConfigsRequest = r.decode()?;
            r.encode(&admin::alter_configs(shared, decoded))
        }
        ApiKey::IncrementalAlterConfigs => {
            let decoded: IncrementalAlterConfigsRequest = r.decode()?;
            r.encode(&admin::incremental_alter_configs(shared, decoded))
        }
        other => return Err(Malformed::new(format!("request {other:?} has no answer"))),
    };
    frame.map(Some)
}
