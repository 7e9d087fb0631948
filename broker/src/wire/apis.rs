//! Which requests the broker understands, in which versions, and who answers them.
//!
//! What is not in the table is not announced and not answered.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion};

use super::connection::Malformed;
use super::{Shared, admin, cluster, data, group, offsets, operators, shape, transaction};

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
    api(ApiKey::Produce, 3, 11),
    api(ApiKey::Fetch, 4, 12),
    api(ApiKey::ListOffsets, 1, 9),
    api(ApiKey::Metadata, 0, 12),
    api(ApiKey::OffsetCommit, 2, 8),
    api(ApiKey::OffsetFetch, 1, 8),
    api(ApiKey::FindCoordinator, 0, 4),
    api(ApiKey::JoinGroup, 0, 9),
    api(ApiKey::Heartbeat, 0, 4),
    api(ApiKey::LeaveGroup, 0, 5),
    api(ApiKey::SyncGroup, 0, 5),
    api(ApiKey::DescribeGroups, 0, 6),
    api(ApiKey::ListGroups, 0, 5),
    api(ApiKey::ApiVersions, 0, 4),
    api(ApiKey::CreateTopics, 2, 7),
    api(ApiKey::DeleteTopics, 1, 6),
    api(ApiKey::DeleteRecords, 0, 2),
    api(ApiKey::InitProducerId, 0, 5),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4),
    api(ApiKey::AddPartitionsToTxn, 0, 3),
    api(ApiKey::AddOffsetsToTxn, 0, 4),
    api(ApiKey::EndTxn, 0, 4),
    api(ApiKey::WriteTxnMarkers, 1, 1),
    api(ApiKey::TxnOffsetCommit, 0, 4),
    api(ApiKey::DescribeConfigs, 1, 4),
    api(ApiKey::AlterConfigs, 0, 2),
    api(ApiKey::DescribeLogDirs, 1, 4),
    api(ApiKey::CreatePartitions, 0, 3),
    api(ApiKey::DeleteGroups, 0, 2),
    api(ApiKey::IncrementalAlterConfigs, 0, 1),
    api(ApiKey::ListPartitionReassignments, 0, 0),
    api(ApiKey::OffsetDelete, 0, 0),
    api(ApiKey::DescribeCluster, 0, 1),
    api(ApiKey::DescribeProducers, 0, 0),
    api(ApiKey::DescribeTransactions, 0, 0),
    api(ApiKey::ListTransactions, 0, 1),
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

    pub(super) fn decode<T: Decodable>(&mut self) -> Result<T, Malformed> {
        T::decode(&mut self.body, self.version).map_err(|error| Malformed::new(format!("{:?}: {error:#}", self.key)))
    }

    pub(super) fn encode<T: Encodable + HeaderVersion>(&self, response: &T) -> Result<BytesMut, Malformed> {
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
    /// Decodes the request, has it answered and encodes the answer.
    macro_rules! with {
        ($kind:ty, $answer:expr) => {{
            let decoded: $kind = r.decode()?;
            let response = $answer(decoded);
            r.encode(&response)
        }};
    }
    let frame = match r.key {
        ApiKey::Produce => {
            let decoded: m::ProduceRequest = r.decode()?;
            let wants_answer = decoded.acks != 0;
            let response = data::produce(shared, decoded);
            if !wants_answer {
                return Ok(None);
            }
            r.encode(&response)
        }
        ApiKey::Fetch => {
            let decoded: m::FetchRequest = r.decode()?;
            r.encode(&data::fetch(shared, decoded, version).await)
        }
        ApiKey::ListOffsets => with!(m::ListOffsetsRequest, |q| data::list_offsets(shared, q, version)),
        ApiKey::DeleteRecords => with!(m::DeleteRecordsRequest, |q| data::delete_records(shared, q)),
        ApiKey::OffsetForLeaderEpoch => {
            with!(m::OffsetForLeaderEpochRequest, |q| data::offset_for_leader_epoch(shared, q))
        }
        ApiKey::Metadata => with!(m::MetadataRequest, |q| cluster::metadata(shared, q, version)),
        ApiKey::FindCoordinator => {
            with!(m::FindCoordinatorRequest, |q| cluster::find_coordinator(shared, q, version))
        }
        ApiKey::DescribeCluster => {
            with!(m::DescribeClusterRequest, |q| cluster::describe_cluster(shared, &q, version))
        }
        ApiKey::ApiVersions if version < 0 => {
            let response = cluster::api_versions_refused();
            encode(&response, r.correlation, 0).map_err(|error| Malformed::new(error.to_string()))
        }
        ApiKey::ApiVersions => with!(m::ApiVersionsRequest, |q| cluster::api_versions(&q, version)),
        ApiKey::JoinGroup => {
            let decoded: m::JoinGroupRequest = r.decode()?;
            let client = std::mem::take(&mut r.client);
            r.encode(&group::join(shared, decoded, client, version).await)
        }
        ApiKey::SyncGroup => {
            let decoded: m::SyncGroupRequest = r.decode()?;
            r.encode(&group::sync(shared, decoded, version).await)
        }
        ApiKey::Heartbeat => with!(m::HeartbeatRequest, |q| group::heartbeat(shared, &q)),
        ApiKey::LeaveGroup => with!(m::LeaveGroupRequest, |q| group::leave(shared, &q, version)),
        ApiKey::OffsetCommit => with!(m::OffsetCommitRequest, |q| offsets::commit(shared, q)),
        ApiKey::OffsetFetch => with!(m::OffsetFetchRequest, |q| offsets::fetch(shared, q, version)),
        ApiKey::OffsetDelete => with!(m::OffsetDeleteRequest, |q| offsets::delete(shared, q)),
        ApiKey::DescribeGroups => with!(m::DescribeGroupsRequest, |q| group::describe(shared, q, version)),
        ApiKey::ListGroups => with!(m::ListGroupsRequest, |q| group::list(shared, &q, version)),
        ApiKey::DeleteGroups => with!(m::DeleteGroupsRequest, |q| group::delete(shared, q)),
        ApiKey::InitProducerId => {
            with!(m::InitProducerIdRequest, |q| transaction::init_producer(shared, &q, version))
        }
        ApiKey::AddPartitionsToTxn => {
            with!(m::AddPartitionsToTxnRequest, |q| transaction::add_partitions(shared, q, version))
        }
        ApiKey::AddOffsetsToTxn => {
            with!(m::AddOffsetsToTxnRequest, |q| transaction::add_offsets(shared, &q, version))
        }
        ApiKey::TxnOffsetCommit => with!(m::TxnOffsetCommitRequest, |q| offsets::commit_in_transaction(shared, q)),
        ApiKey::EndTxn => with!(m::EndTxnRequest, |q| transaction::end(shared, &q, version)),
        ApiKey::WriteTxnMarkers => with!(m::WriteTxnMarkersRequest, |q| operators::write_markers(shared, q)),
        ApiKey::DescribeProducers => with!(m::DescribeProducersRequest, |q| operators::producers(shared, q)),
        ApiKey::DescribeTransactions => {
            with!(m::DescribeTransactionsRequest, |q| operators::describe_transactions(shared, q))
        }
        ApiKey::ListTransactions => with!(m::ListTransactionsRequest, |q| operators::list_transactions(shared, &q)),
        ApiKey::DescribeLogDirs => with!(m::DescribeLogDirsRequest, |q| operators::log_dirs(shared, q)),
        ApiKey::ListPartitionReassignments => {
            with!(m::ListPartitionReassignmentsRequest, |_| m::ListPartitionReassignmentsResponse::default())
        }
        ApiKey::CreateTopics => with!(m::CreateTopicsRequest, |q| admin::create_topics(shared, q, version)),
        ApiKey::DeleteTopics => with!(m::DeleteTopicsRequest, |q| admin::delete_topics(shared, q, version)),
        ApiKey::CreatePartitions => with!(m::CreatePartitionsRequest, |q| admin::create_partitions(shared, q)),
        ApiKey::DescribeConfigs => with!(m::DescribeConfigsRequest, |q| admin::describe_configs(shared, q)),
        ApiKey::AlterConfigs => with!(m::AlterConfigsRequest, |q| admin::alter_configs(shared, q)),
        ApiKey::IncrementalAlterConfigs => {
            with!(m::IncrementalAlterConfigsRequest, |q| admin::incremental_alter_configs(shared, q))
        }
        other => return Err(Malformed::new(format!("request {other:?} has no answer"))),
    };
    frame.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_has_a_shape_and_an_answer_in_every_version() {
        use std::net::{Ipv4Addr, SocketAddr};

        use crate::core::{Core, Settings, disk::MemoryDisk};

        let core = Core::open(Arc::new(MemoryDisk::new()), Settings::default(), 0).expect("opens");
        let shared = Arc::new(Shared::new(core, SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), "localhost".to_owned()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        /// Appends a request without content, in a version.
        type Body = fn(&mut BytesMut, i16);
        fn bodies() -> Vec<(ApiKey, Body)> {
            macro_rules! all {
                ($($kind:ident $request:ident),* $(,)?) => {
                    vec![$((ApiKey::$kind, |frame: &mut BytesMut, version: i16| {
                        m::$request::default().encode(frame, version).expect("a body");
                    })),*]
                };
            }
            all![
                Produce ProduceRequest, Fetch FetchRequest, ListOffsets ListOffsetsRequest, Metadata MetadataRequest,
                OffsetCommit OffsetCommitRequest, OffsetFetch OffsetFetchRequest,
                FindCoordinator FindCoordinatorRequest, Heartbeat HeartbeatRequest, LeaveGroup LeaveGroupRequest,
                JoinGroup JoinGroupRequest, SyncGroup SyncGroupRequest, DescribeGroups DescribeGroupsRequest,
                ListGroups ListGroupsRequest, ApiVersions ApiVersionsRequest, CreateTopics CreateTopicsRequest,
                DeleteTopics DeleteTopicsRequest, DeleteRecords DeleteRecordsRequest,
                InitProducerId InitProducerIdRequest, OffsetForLeaderEpoch OffsetForLeaderEpochRequest,
                AddPartitionsToTxn AddPartitionsToTxnRequest, AddOffsetsToTxn AddOffsetsToTxnRequest,
                EndTxn EndTxnRequest, WriteTxnMarkers WriteTxnMarkersRequest, TxnOffsetCommit TxnOffsetCommitRequest,
                DescribeConfigs DescribeConfigsRequest, AlterConfigs AlterConfigsRequest,
                DescribeLogDirs DescribeLogDirsRequest, CreatePartitions CreatePartitionsRequest,
                DeleteGroups DeleteGroupsRequest, IncrementalAlterConfigs IncrementalAlterConfigsRequest,
                ListPartitionReassignments ListPartitionReassignmentsRequest, OffsetDelete OffsetDeleteRequest,
                DescribeCluster DescribeClusterRequest, DescribeProducers DescribeProducersRequest,
                DescribeTransactions DescribeTransactionsRequest, ListTransactions ListTransactionsRequest,
            ]
        }
        for api in APIS {
            let (_, body) = bodies().into_iter().find(|(key, _)| *key == api.key).expect("every API is here");
            for version in api.min..=api.max {
                let mut frame = BytesMut::new();
                let header =
                    RequestHeader::default().with_request_api_key(api.key as i16).with_request_api_version(version);
                header.encode(&mut frame, api.key.request_header_version(version)).expect("a header");
                body(&mut frame, version);
                let request = Request::read(frame.freeze()).expect("read");
                let answered = runtime.block_on(answer(&shared, request));
                assert!(answered.is_ok(), "{:?} {version}: {answered:?}", api.key);
            }
        }
    }
}
