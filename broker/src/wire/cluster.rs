//! Who is there: versions, brokers, topics, coordinators. There is one broker, and it coordinates everything.

use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, DescribeClusterResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::Shared;
use super::apis::APIS;
use crate::core::{ErrorCode, TopicView};

/// Id of the only broker.
pub(super) const BROKER: BrokerId = BrokerId(1);
const CLUSTER_ID: &str = "millrace";
/// No replicas, no elections: the leader epoch never changes.
pub(super) const LEADER_EPOCH: i32 = 0;

fn host(shared: &Shared) -> StrBytes {
    StrBytes::from_string(shared.address.ip().to_string())
}

fn port(shared: &Shared) -> i32 {
    i32::from(shared.address.port())
}

pub(super) fn api_versions() -> ApiVersionsResponse {
    let keys = APIS.iter().map(|api| {
        ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.min).with_max_version(api.max)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}

/// Tells a client that asked in too new a version which versions there are.
pub(super) fn api_versions_refused() -> ApiVersionsResponse {
    api_versions().with_error_code(ErrorCode::UnsupportedVersion.code())
}

pub(super) fn metadata(shared: &Shared, request: MetadataRequest, version: i16) -> MetadataResponse {
    // Before version 1 an empty list asked for all topics; later, none does.
    let wanted = request.topics.filter(|topics| version > 0 || !topics.is_empty());
    let topics = shared.read(|core| match wanted {
        None => core.topics().map(|topic| described(&topic)).collect(),
        Some(topics) => topics
            .into_iter()
            .filter_map(|topic| topic.name)
            .map(|name| match core.topic(&name) {
                Some(topic) => described(&topic),
                None => MetadataResponseTopic::default()
                    .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
                    .with_name(Some(name)),
            })
            .collect(),
    });
    let broker = MetadataResponseBroker::default().with_node_id(BROKER).with_host(host(shared)).with_port(port(shared));
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_cluster_id(Some(StrBytes::from_static_str(CLUSTER_ID)))
        .with_controller_id(BROKER)
        .with_topics(topics)
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
        .with_is_internal(false)
        .with_partitions(partitions.collect())
}

pub(super) fn find_coordinator(shared: &Shared, request: &FindCoordinatorRequest) -> FindCoordinatorResponse {
    let response = FindCoordinatorResponse::default();
    if request.key_type != 0 && request.key_type != 1 {
        return response.with_error_code(ErrorCode::InvalidRequest.code()).with_node_id(BrokerId(-1));
    }
    response.with_node_id(BROKER).with_host(host(shared)).with_port(port(shared))
}

pub(super) fn describe_cluster(shared: &Shared) -> DescribeClusterResponse {
    let broker =
        DescribeClusterBroker::default().with_broker_id(BROKER).with_host(host(shared)).with_port(port(shared));
    DescribeClusterResponse::default()
        .with_cluster_id(StrBytes::from_static_str(CLUSTER_ID))
        .with_controller_id(BROKER)
        .with_brokers(vec![broker])
}
