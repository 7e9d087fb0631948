//! Topics and their settings on the wire.

use std::collections::{HashMap, HashSet};

use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::incremental_alter_configs_response;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, BrokerId, CreatePartitionsRequest, CreatePartitionsResponse,
    CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest,
    DescribeConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::Shared;
use super::cluster::{BROKER as BROKER_ID, topic_id, topic_of_id};
use crate::core::configs::{self, ConfigChange, ConfigKind, Configs, TOPIC_CONFIGS};
use crate::core::{Core, ErrorCode, Refusal};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Where a setting's value comes from, as DescribeConfigs tells it.
const FROM_TOPIC: i8 = 1;
const FROM_DEFAULT: i8 = 5;

const DEFAULT_PARTITIONS: i32 = 1;

fn told(result: Result<(), Refusal>) -> (i16, Option<StrBytes>) {
    match result {
        Ok(()) => (0, None),
        Err(refusal) => (refusal.code.code(), Some(StrBytes::from_string(refusal.message))),
    }
}

fn refusal(code: ErrorCode, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

pub(super) fn create_topics(shared: &Shared, request: CreateTopicsRequest, version: i16) -> CreateTopicsResponse {
    let mut seen = HashMap::new();
    for topic in &request.topics {
        *seen.entry(topic.name.clone()).or_insert(0) += 1;
    }
    let topics = shared.with_core(|core, now| {
        let topics = request.topics.into_iter().filter_map(|topic| {
            let result = match seen.remove(&topic.name)? {
                1 => create_topic(core, now, &topic, request.validate_only),
                _ => Err(refusal(ErrorCode::InvalidRequest, "the topic is named more than once in the request")),
            };
            let (response, result) = match result {
                Ok(()) => (created(core, &topic, request.validate_only, version), Ok(())),
                Err(why) => (CreatableTopicResult::default().with_configs(None), Err(why)),
            };
            let (code, message) = told(result);
            Some(response.with_name(topic.name).with_error_code(code).with_error_message(message))
        });
        topics.collect()
    });
    CreateTopicsResponse::default().with_topics(topics)
}

fn create_topic(core: &mut Core, now: i64, topic: &CreatableTopic, validate_only: bool) -> Result<(), Refusal> {
    if !topic.assignments.is_empty() {
        if topic.num_partitions != -1 || topic.replication_factor != -1 {
            let why = "with replicas assigned by hand, partitions and replication factor must be -1";
            return Err(refusal(ErrorCode::InvalidRequest, why));
        }
        let mut numbers: Vec<i32> = topic.assignments.iter().map(|given| given.partition_index).collect();
        numbers.sort_unstable();
        if numbers.iter().copied().ne(0..numbers.len() as i32) {
            let why = "partitions must be numbered from 0 without gaps";
            return Err(refusal(ErrorCode::InvalidReplicaAssignment, why));
        }
        for given in &topic.assignments {
            only_this_broker(&given.broker_ids)?;
        }
    }
    if !matches!(topic.replication_factor, -1 | 1) {
        let why = "there is one broker, so the replication factor is 1";
        return Err(refusal(ErrorCode::InvalidReplicationFactor, why));
    }
    core.create_topic(now, &topic.name, partitions_wanted(topic), configs_wanted(topic)?, validate_only)
}

fn partitions_wanted(topic: &CreatableTopic) -> i32 {
    match topic.num_partitions {
        -1 if topic.assignments.is_empty() => DEFAULT_PARTITIONS,
        -1 => i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX),
        count => count,
    }
}

fn configs_wanted(topic: &CreatableTopic) -> Result<Configs, Refusal> {
    let pairs = topic.configs.iter().map(|config| match &config.value {
        Some(value) => Ok((config.name.to_string(), value.to_string())),
        None => Err(refusal(ErrorCode::InvalidConfig, format!("{} has no value", config.name.as_str()))),
    });
    pairs.collect()
}

fn only_this_broker(brokers: &[BrokerId]) -> Result<(), Refusal> {
    if brokers == [BROKER_ID] {
        return Ok(());
    }
    let why = format!("there is one broker, {}, so it has every replica", BROKER_ID.0);
    Err(refusal(ErrorCode::InvalidReplicaAssignment, why))
}

/// What a client is told of a new topic since version 5.
fn created(core: &Core, topic: &CreatableTopic, validate_only: bool, version: i16) -> CreatableTopicResult {
    let result = CreatableTopicResult::default();
    if version < 5 {
        return result;
    }
    let id = core.topic(&topic.name).filter(|_| !validate_only && version >= 7).map(|topic| topic_id(&topic));
    let given = configs_wanted(topic).unwrap_or_default();
    let configs = described(&given, |_| true, false).into_iter().map(|config| {
        CreatableTopicConfigs::default()
            .with_name(config.name)
            .with_value(config.value)
            .with_config_source(config.config_source)
    });
    result
        .with_topic_id(id.unwrap_or_default())
        .with_num_partitions(partitions_wanted(topic))
        .with_replication_factor(1)
        .with_configs(Some(configs.collect()))
}

pub(super) fn delete_topics(shared: &Shared, request: DeleteTopicsRequest, version: i16) -> DeleteTopicsResponse {
    let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil()));
    let by_either = request.topics.into_iter().map(|topic| (topic.name, topic.topic_id));
    let wanted: Vec<(Option<TopicName>, Uuid)> = by_name.chain(by_either).collect();
    let responses = shared.with_core(|core, _| {
        let responses = wanted.into_iter().map(|(name, id)| {
            let response = DeletableTopicResult::default();
            let known = match &name {
                Some(name) => core.topic(name),
                None => topic_of_id(core, id),
            };
            let result = match (&known, &name) {
                _ if name.is_some() && !id.is_nil() => {
                    Err(refusal(ErrorCode::InvalidRequest, "a topic is named by its name or by its id, not by both"))
                }
                (Some(topic), _) => core.delete_topic(&topic.name),
                (None, Some(name)) => core.delete_topic(name),
                (None, None) => Err(refusal(ErrorCode::UnknownTopicId, "there is no topic with this id")),
            };
            let (code, message) = told(result);
            let id = known.as_ref().map_or(id, topic_id);
            let name = name.or_else(|| known.map(|topic| TopicName(StrBytes::from_string(topic.name))));
            let response = if version >= 6 { response.with_topic_id(id) } else { response };
            response.with_name(name).with_error_code(code).with_error_message(message)
        });
        responses.collect()
    });
    DeleteTopicsResponse::default().with_responses(responses)
}

pub(super) fn create_partitions(shared: &Shared, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let results = shared.with_core(|core, now| {
        let results = request.topics.into_iter().map(|topic| {
            let result = assigned_to_this_broker(core, &topic)
                .and_then(|()| core.add_partitions(now, &topic.name, topic.count, request.validate_only));
            let (code, message) = told(result);
            CreatePartitionsTopicResult::default()
                .with_name(topic.name)
                .with_error_code(code)
                .with_error_message(message)
        });
        results.collect()
    });
    CreatePartitionsResponse::default().with_results(results)
}

fn assigned_to_this_broker(core: &Core, topic: &CreatePartitionsTopic) -> Result<(), Refusal> {
    let (Some(assignments), Some(known)) = (&topic.assignments, core.topic(&topic.name)) else {
        return Ok(());
    };
    if topic.count > known.partitions && assignments.len() as i32 != topic.count - known.partitions {
        let why = format!("{} new partitions, {} assignments", topic.count - known.partitions, assignments.len());
        return Err(refusal(ErrorCode::InvalidReplicaAssignment, why));
    }
    assignments.iter().try_for_each(|given| only_this_broker(&given.broker_ids))
}

pub(super) fn describe_configs(shared: &Shared, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let results = shared.read(|core| {
        let results = request.resources.into_iter().map(|resource| {
            let result = DescribeConfigsResult::default().with_resource_type(resource.resource_type);
            let wanted = |name: &str| {
                let keys = resource.configuration_keys.as_ref();
                keys.is_none_or(|keys| keys.iter().any(|key| key.as_str() == name))
            };
            let result = match resource.resource_type {
                TOPIC => match core.topic_configs(&resource.resource_name) {
                    Some(configs) => result.with_configs(described(configs, wanted, request.include_synonyms)),
                    None => result
                        .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
                        .with_error_message(Some(StrBytes::from_static_str("no such topic"))),
                },
                // The broker itself has no settings a client could see.
                BROKER if matches!(resource.resource_name.as_str(), "" | "1") => result,
                _ => result.with_error_code(ErrorCode::InvalidRequest.code()),
            };
            result.with_resource_name(resource.resource_name)
        });
        results.collect()
    });
    DescribeConfigsResponse::default().with_results(results)
}

fn described(
    configs: &Configs,
    wanted: impl Fn(&str) -> bool,
    with_synonyms: bool,
) -> Vec<DescribeConfigsResourceResult> {
    let all = TOPIC_CONFIGS.iter().filter(|config| wanted(config.name));
    all.map(|config| {
        let given = configs.get(config.name);
        let value = given.map_or(config.default, String::as_str);
        let config_type = match config.kind {
            ConfigKind::Bool => 1,
            ConfigKind::Word(_) => 2,
            ConfigKind::Int(_) => 3,
            ConfigKind::Long(_) => 5,
            ConfigKind::Ratio => 6,
            ConfigKind::Words(_) => 7,
        };
        let text = |value: &str| StrBytes::from_string(value.to_owned());
        let synonym = |value: &str, source| {
            DescribeConfigsSynonym::default()
                .with_name(StrBytes::from_static_str(config.name))
                .with_value(Some(text(value)))
                .with_source(source)
        };
        let of_topic = given.map(|value| synonym(value, FROM_TOPIC));
        let synonyms = of_topic.into_iter().chain([synonym(config.default, FROM_DEFAULT)]);
        DescribeConfigsResourceResult::default()
            .with_name(StrBytes::from_static_str(config.name))
            .with_value(Some(text(value)))
            .with_synonyms(if with_synonyms { synonyms.collect() } else { Vec::new() })
            .with_documentation(None)
            .with_config_source(if given.is_some() { FROM_TOPIC } else { FROM_DEFAULT })
            .with_config_type(config_type)
    })
    .collect()
}

fn only_topics(resource_type: i8) -> Result<(), Refusal> {
    if resource_type == TOPIC {
        return Ok(());
    }
    Err(Refusal {
        code: ErrorCode::InvalidRequest,
        message: "only topics have settings that can be changed".to_owned(),
    })
}

pub(super) fn alter_configs(shared: &Shared, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let responses = shared.with_core(|core, _| {
        let responses = request.resources.into_iter().map(|resource| {
            let configs: Configs = resource
                .configs
                .iter()
                .filter_map(|config| {
                    let value = config.value.as_ref()?;
                    Some((config.name.to_string(), value.to_string()))
                })
                .collect();
            let name = &resource.resource_name;
            let result = only_topics(resource.resource_type)
                .and_then(|()| core.configure_topic(name, configs, request.validate_only));
            let (code, message) = told(result);
            AlterConfigsResourceResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name)
        });
        responses.collect()
    });
    AlterConfigsResponse::default().with_responses(responses)
}

pub(super) fn incremental_alter_configs(
    shared: &Shared,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let responses = shared.with_core(|core, _| {
        let responses = request.resources.into_iter().map(|resource| {
            let changes = resource.configs.iter().map(|config| {
                let value = config.value.as_ref().map(|value| value.to_string());
                let change = match (config.config_operation, value) {
                    (0, Some(value)) => Some(ConfigChange::Set(value)),
                    (1, _) => Some(ConfigChange::Delete),
                    (2, Some(value)) => Some(ConfigChange::Append(value)),
                    (3, Some(value)) => Some(ConfigChange::Subtract(value)),
                    _ => None,
                };
                (config.name.to_string(), change)
            });
            let name = &resource.resource_name;
            let result = only_topics(resource.resource_type)
                .and_then(|()| change_configs(core, name, changes, request.validate_only));
            let (code, message) = told(result);
            incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_error_code(code)
                .with_error_message(message)
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name)
        });
        responses.collect()
    });
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

fn change_configs(
    core: &mut Core,
    topic: &str,
    changes: impl Iterator<Item = (String, Option<ConfigChange>)>,
    validate_only: bool,
) -> Result<(), Refusal> {
    let Some(configs) = core.topic_configs(topic) else {
        return Err(Refusal {
            code: ErrorCode::UnknownTopicOrPartition,
            message: format!("there is no topic {topic}"),
        });
    };
    let mut configs = configs.clone();
    let mut seen = HashSet::new();
    for (name, change) in changes {
        if !seen.insert(name.clone()) {
            return Err(refusal(ErrorCode::InvalidRequest, format!("{name} is changed more than once")));
        }
        let change = change.ok_or(Refusal {
            code: ErrorCode::InvalidRequest,
            message: format!("{name}: an unknown operation, or one without a value"),
        })?;
        configs::apply(&mut configs, &name, change)?;
    }
    core.configure_topic(topic, configs, validate_only)
}
