//! Who is there: versions, brokers, topics, coordinators. There is one broker, and it coordinates everything.

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeClusterRequest, DescribeClusterResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::Shared;
use super::apis::APIS;
use crate::core::{Core, ErrorCode, TopicView, is_valid_name};

/// Id of the only broker.
pub(super) const BROKER: BrokerId = BrokerId(1);
const CLUSTER_ID: &str = "millrace";
/// No replicas, no elections: the leader epoch never changes.
pub(super) const LEADER_EPOCH: i32 = 0;

fn host(shared: &Shared) -> StrBytes {
    StrBytes::from_string(shared.host.clone())
}

fn port(shared: &Shared) -> i32 {
    i32::from(shared.address.port())
}

/// How a client names itself since version 3.
fn is_software_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().copied().all(inner)
}

pub(super) fn api_versions(request: &ApiVersionsRequest, version: i16) -> ApiVersionsResponse {
    let named = is_software_name(&request.client_software_name) && is_software_name(&request.client_software_version);
    if version >= 3 && !named {
        return ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
    }
    all_versions()
}

fn all_versions() -> ApiVersionsResponse {
    let keys = APIS.iter().map(|api| {
        ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.min).with_max_version(api.max)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}

/// Tells a client that asked in too new a version which versions there are.
pub(super) fn api_versions_refused() -> ApiVersionsResponse {
    all_versions().with_error_code(ErrorCode::UnsupportedVersion.code())
}

/// The id clients know a topic by: the incarnation under a fixed prefix.
pub(super) fn topic_id(topic: &TopicView) -> Uuid {
    const PREFIX: u64 = u64::from_be_bytes(*b"millrace");
    Uuid::from_u64_pair(PREFIX, topic.incarnation)
}

/// The topic with this id.
pub(super) fn topic_of_id(core: &Core, id: Uuid) -> Option<TopicView> {
    core.topics().find(|topic| topic_id(topic) == id)
}

pub(super) fn metadata(shared: &Shared, request: MetadataRequest, version: i16) -> MetadataResponse {
    // Before version 1 an empty list asked for all topics; later, none does.
    let wanted = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let topics = shared.read(|core| match wanted {
        None => core.topics().map(|topic| described(&topic)).collect(),
        Some(topics) => topics.into_iter().map(|topic| found(core, topic.name, topic.topic_id, version)).collect(),
    });
    let broker = MetadataResponseBroker::default().with_node_id(BROKER).with_host(host(shared)).with_port(port(shared));
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(StrBytes::from_static_str(CLUSTER_ID)))
        .with_controller_id(BROKER)
        .with_topics(topics)
}

fn found(core: &Core, name: Option<TopicName>, id: Uuid, version: i16) -> MetadataResponseTopic {
    let unknown = |code: ErrorCode| MetadataResponseTopic::default().with_error_code(code.code());
    // Some clients leave the name empty, others null, when they ask by id.
    match name.filter(|_| id.is_nil()) {
        Some(name) => match core.topic(&name) {
            Some(topic) => described(&topic),
            None if is_valid_name(&name) => unknown(ErrorCode::UnknownTopicOrPartition).with_name(Some(name)),
            None => unknown(ErrorCode::InvalidTopicException).with_name(Some(name)),
        },
        None => match topic_of_id(core, id) {
            Some(topic) => described(&topic),
            // A topic without a name can be told since version 12.
            None => {
                let name = (version < 12).then(TopicName::default);
                unknown(ErrorCode::UnknownTopicId).with_name(name).with_topic_id(id)
            }
        },
    }
}

fn described(topic: &TopicView) -> MetadataResponseTopic {
    let partitions = (0..topic.partitions).map(|number| {
        MetadataResponsePartition::default()
            .with_partition_index(number)
            .with_leader_id(BROKER)
            .with_leader_epoch(LEADER_EPOCH)
            .with_replica_nodes(vec![BROKER])
            .with_isr_nodes(vec![BROKER])
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.clone()))))
        .with_topic_id(topic_id(topic))
        .with_is_internal(false)
        .with_partitions(partitions.collect())
}

pub(super) fn find_coordinator(
    shared: &Shared,
    request: FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    // Groups and transactions; share groups have none.
    let known = matches!(request.key_type, 0 | 1);
    let code = if known { 0 } else { ErrorCode::InvalidRequest.code() };
    let (node, host, port) = if known { (BROKER, host(shared), port(shared)) } else { NOBODY };
    if version < 4 {
        return FindCoordinatorResponse::default()
            .with_error_code(code)
            .with_node_id(node)
            .with_host(host)
            .with_port(port);
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| {
        Coordinator::default()
            .with_key(key)
            .with_error_code(code)
            .with_node_id(node)
            .with_host(host.clone())
            .with_port(port)
    });
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}

const NOBODY: (BrokerId, StrBytes, i32) = (BrokerId(-1), StrBytes::from_static_str(""), -1);

pub(super) fn describe_cluster(
    shared: &Shared,
    request: &DescribeClusterRequest,
    version: i16,
) -> DescribeClusterResponse {
    // Brokers are endpoint type 1; controllers, which this broker does not show, are 2.
    if version >= 1 && request.endpoint_type != 1 {
        let code = match request.endpoint_type {
            2 => ErrorCode::MismatchedEndpointType,
            _ => ErrorCode::UnsupportedEndpointType,
        };
        return DescribeClusterResponse::default().with_error_code(code.code());
    }
    let broker =
        DescribeClusterBroker::default().with_broker_id(BROKER).with_host(host(shared)).with_port(port(shared));
    DescribeClusterResponse::default()
        .with_cluster_id(StrBytes::from_static_str(CLUSTER_ID))
        .with_controller_id(BROKER)
        .with_brokers(vec![broker])
}
