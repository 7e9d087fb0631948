//! Topics and their settings on the wire.

use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult};
use kafka_protocol::messages::incremental_alter_configs_response;
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::Shared;
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

pub(super) fn create_topics(shared: &Shared, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let topics = shared.with_core(|core, now| {
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = match topic.num_partitions {
                -1 if topic.assignments.is_empty() => DEFAULT_PARTITIONS,
                -1 => i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX),
                count => count,
            };
            let configs: Configs = topic
                .configs
                .iter()
                .filter_map(|config| {
                    let value = config.value.as_ref()?;
                    Some((config.name.to_string(), value.to_string()))
                })
                .collect();
            let result = if matches!(topic.replication_factor, -1 | 1) {
                core.create_topic(now, &topic.name, partitions, configs, request.validate_only)
            } else {
                Err(Refusal {
                    code: ErrorCode::InvalidReplicationFactor,
                    message: "there is one broker, so the replication factor is 1".to_owned(),
                })
            };
            let (code, message) = told(result);
            CreatableTopicResult::default().with_name(topic.name).with_error_code(code).with_error_message(message)
        });
        topics.collect()
    });
    CreateTopicsResponse::default().with_topics(topics)
}

pub(super) fn delete_topics(shared: &Shared, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let responses = shared.with_core(|core, _| {
        let responses = request.topic_names.into_iter().map(|name| {
            let (code, _) = told(core.delete_topic(&name));
            DeletableTopicResult::default().with_name(Some(name)).with_error_code(code)
        });
        responses.collect()
    });
    DeleteTopicsResponse::default().with_responses(responses)
}

pub(super) fn create_partitions(shared: &Shared, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let results = shared.with_core(|core, now| {
        let results = request.topics.into_iter().map(|topic| {
            let result = core.add_partitions(now, &topic.name, topic.count, request.validate_only);
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
                    Some(configs) => result.with_configs(described(configs, wanted)),
                    None => result
                        .with_error_code(ErrorCode::UnknownTopicOrPartition.code())
                        .with_error_message(Some(StrBytes::from_static_str("no such topic"))),
                },
                // The broker itself has no settings a client could see.
                BROKER => result,
                _ => result.with_error_code(ErrorCode::InvalidRequest.code()),
            };
            result.with_resource_name(resource.resource_name)
        });
        results.collect()
    });
    DescribeConfigsResponse::default().with_results(results)
}

fn described(configs: &Configs, wanted: impl Fn(&str) -> bool) -> Vec<DescribeConfigsResourceResult> {
    let all = TOPIC_CONFIGS.iter().filter(|config| wanted(config.name));
    all.map(|config| {
        let given = configs.get(config.name);
        let value = given.map_or(config.default, String::as_str);
        let config_type = match config.kind {
            ConfigKind::Bool => 1,
            ConfigKind::Long(_) => 5,
            ConfigKind::Ratio => 6,
            ConfigKind::Words(_) => 7,
        };
        DescribeConfigsResourceResult::default()
            .with_name(StrBytes::from_static_str(config.name))
            .with_value(Some(StrBytes::from_string(value.to_owned())))
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
                let value = config.value.as_ref().map_or(String::new(), |v| v.to_string());
                let change = match config.config_operation {
                    0 => Some(ConfigChange::Set(value)),
                    1 => Some(ConfigChange::Delete),
                    2 => Some(ConfigChange::Append(value)),
                    3 => Some(ConfigChange::Subtract(value)),
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
    for (name, change) in changes {
        let change = change
            .ok_or(Refusal { code: ErrorCode::InvalidRequest, message: format!("unknown operation on {name}") })?;
        configs::apply(&mut configs, &name, change)?;
    }
    core.configure_topic(topic, configs, validate_only)
}
