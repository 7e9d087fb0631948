//! Topics and settings: created, described, changed, grown, deleted, and every way to ask for it wrongly.

use kafka_protocol::messages as m;
use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{BrokerId, incremental_alter_configs_request as incremental};

use crate::Run;
use crate::wire::{Case, named, text, topic_name};

fn wanted(name: &str) -> CreatableTopic {
    CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(1).with_replication_factor(1)
}

fn config(name: &str, value: Option<&str>) -> CreatableTopicConfig {
    CreatableTopicConfig::default().with_name(text(name)).with_value(value.map(text))
}

fn assigned(pairs: &[(i32, &[i32])]) -> Vec<CreatableReplicaAssignment> {
    let assignment = |(partition, brokers): &(i32, &[i32])| {
        CreatableReplicaAssignment::default()
            .with_partition_index(*partition)
            .with_broker_ids(brokers.iter().map(|id| BrokerId(*id)).collect())
    };
    pairs.iter().map(assignment).collect()
}

fn create(c: &mut Case, topics: Vec<CreatableTopic>, validate_only: bool) -> String {
    let request =
        m::CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(10_000).with_validate_only(validate_only);
    let answer = c.wire.call(7, &request);
    let told: Vec<String> = answer
        .topics
        .iter()
        .map(|topic| format!("{} {}x{}", named(topic.error_code), topic.num_partitions, topic.replication_factor))
        .collect();
    told.join(", ")
}

fn create_with(c: &mut Case, name: &str, value: &str) -> String {
    let configs = vec![config(name, Some(value))];
    let topic = wanted(&c.name).with_configs(configs);
    create(c, vec![topic], true)
}

fn delete(c: &mut Case, name: Option<&str>, id: uuid::Uuid) -> String {
    let state = DeleteTopicState::default().with_name(name.map(topic_name)).with_topic_id(id);
    let request = m::DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(10_000);
    named(c.wire.call(6, &request).responses[0].error_code)
}

fn grow(c: &mut Case, count: i32, assignments: Option<&[&[i32]]>, validate_only: bool) -> String {
    let assignments = assignments.map(|all| {
        let of = |ids: &&[i32]| {
            CreatePartitionsAssignment::default().with_broker_ids(ids.iter().map(|id| BrokerId(*id)).collect())
        };
        all.iter().map(of).collect()
    });
    let topic =
        CreatePartitionsTopic::default().with_name(topic_name(&c.name)).with_count(count).with_assignments(assignments);
    let request = m::CreatePartitionsRequest::default()
        .with_topics(vec![topic])
        .with_timeout_ms(10_000)
        .with_validate_only(validate_only);
    named(c.wire.call(3, &request).results[0].error_code)
}

fn metadata(
    c: &mut Case,
    version: i16,
    name: Option<&str>,
    id: uuid::Uuid,
) -> m::metadata_response::MetadataResponseTopic {
    let topic = MetadataRequestTopic::default().with_name(name.map(topic_name)).with_topic_id(id);
    let request =
        m::MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(version < 4);
    c.wire.call(version, &request).topics.remove(0)
}

fn partitions(c: &mut Case) -> usize {
    let name = c.name.clone();
    metadata(c, 12, Some(&name), uuid::Uuid::nil()).partitions.len()
}

/// Value and source of some settings of a resource.
fn settings(c: &mut Case, kind: i8, resource: &str, names: Option<&[&str]>) -> String {
    let keys = names.map(|names| names.iter().map(|name| text(name)).collect());
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(resource))
        .with_configuration_keys(keys);
    let request = m::DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    let answer = c.wire.call(4, &request);
    let mut configs: Vec<String> = answer.results[0]
        .configs
        .iter()
        .map(|config| {
            let value = config.value.as_ref().map_or("null", |value| value.as_str());
            // Where a default comes from is the cluster's own affair.
            let given = if config.config_source == 1 { "topic" } else { "default" };
            format!("{}={value} ({given}, type {})", config.name.as_str(), config.config_type)
        })
        .collect();
    configs.sort();
    format!("{} {}", named(answer.results[0].error_code), configs.join(" "))
}

fn topic_settings(c: &mut Case, names: &[&str]) -> String {
    let name = c.name.clone();
    settings(c, 2, &name, Some(names))
}

fn change(c: &mut Case, changes: &[(&str, i8, Option<&str>)], validate_only: bool) -> String {
    let name = c.name.clone();
    change_of(c, 2, &name, changes, validate_only)
}

fn change_of(c: &mut Case, kind: i8, name: &str, changes: &[(&str, i8, Option<&str>)], validate_only: bool) -> String {
    let configs = changes.iter().map(|(name, operation, value)| {
        incremental::AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    });
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.collect());
    let request =
        m::IncrementalAlterConfigsRequest::default().with_resources(vec![resource]).with_validate_only(validate_only);
    named(c.wire.call(1, &request).responses[0].error_code)
}

fn replace(c: &mut Case, configs: &[(&str, &str)]) -> String {
    let configs = configs
        .iter()
        .map(|(name, value)| AlterableConfig::default().with_name(text(name)).with_value(Some(text(value))));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(&c.name))
        .with_configs(configs.collect());
    let request = m::AlterConfigsRequest::default().with_resources(vec![resource]);
    named(c.wire.call(2, &request).responses[0].error_code)
}

const NIL: uuid::Uuid = uuid::Uuid::nil();
const OTHER: uuid::Uuid = uuid::Uuid::from_u128(77);
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub const CASES: &[(&str, Run)] = &[
    ("topic is created", |c| {
        let topic = wanted(&c.name).with_num_partitions(3);
        create(c, vec![topic], false)
    }),
    ("topic exists already", |c| {
        c.create(1, &[]);
        let topic = wanted(&c.name);
        create(c, vec![topic], false)
    }),
    ("topic exists already, only asked", |c| {
        c.create(1, &[]);
        let topic = wanted(&c.name);
        create(c, vec![topic], true)
    }),
    ("topic only validated is not there", |c| {
        let topic = wanted(&c.name);
        format!("{} then {} partitions", create(c, vec![topic], true), partitions(c))
    }),
    ("topic name empty", |c| create(c, vec![wanted("")], false)),
    ("topic name dot", |c| create(c, vec![wanted(".")], false)),
    ("topic name two dots", |c| create(c, vec![wanted("..")], false)),
    ("topic name with space", |c| create(c, vec![wanted("a b")], false)),
    ("topic name with slash", |c| create(c, vec![wanted("a/b")], false)),
    ("topic name of 249", |c| create(c, vec![wanted(&"x".repeat(249))], true)),
    ("topic name of 250", |c| create(c, vec![wanted(&"x".repeat(250))], true)),
    ("topic names that collide in metrics", |c| {
        c.create_named("collide.a_b", 1, &[]);
        create(c, vec![wanted("collide_a.b")], false)
    }),
    ("no partitions", |c| {
        let topic = wanted(&c.name).with_num_partitions(0);
        create(c, vec![topic], false)
    }),
    ("fewer than no partitions", |c| {
        let topic = wanted(&c.name).with_num_partitions(-2);
        create(c, vec![topic], false)
    }),
    ("default partitions and replicas", |c| {
        let topic = wanted(&c.name).with_num_partitions(-1).with_replication_factor(-1);
        create(c, vec![topic], false)
    }),
    ("no replicas", |c| {
        let topic = wanted(&c.name).with_replication_factor(0);
        create(c, vec![topic], false)
    }),
    ("more replicas than brokers", |c| {
        let topic = wanted(&c.name).with_replication_factor(2);
        create(c, vec![topic], false)
    }),
    ("topic named twice in a request", |c| {
        let topics = vec![wanted(&c.name), wanted(&c.name)];
        create(c, topics, false)
    }),
    ("replicas assigned by hand", |c| {
        let topic = wanted(&c.name).with_num_partitions(-1).with_replication_factor(-1);
        let topic = topic.with_assignments(assigned(&[(0, &[1]), (1, &[1])]));
        create(c, vec![topic], false)
    }),
    ("replicas assigned by hand and counted", |c| {
        let topic = wanted(&c.name).with_assignments(assigned(&[(0, &[1])]));
        create(c, vec![topic], false)
    }),
    ("replicas assigned to nobody", |c| {
        let topic = wanted(&c.name).with_num_partitions(-1).with_replication_factor(-1);
        let topic = topic.with_assignments(assigned(&[(0, &[99])]));
        create(c, vec![topic], false)
    }),
    ("replicas assigned with a gap", |c| {
        let topic = wanted(&c.name).with_num_partitions(-1).with_replication_factor(-1);
        let topic = topic.with_assignments(assigned(&[(0, &[1]), (2, &[1])]));
        create(c, vec![topic], false)
    }),
    ("unknown setting", |c| create_with(c, "no.such.setting", "1")),
    ("setting without value", |c| {
        let topic = wanted(&c.name).with_configs(vec![config("retention.ms", None)]);
        create(c, vec![topic], true)
    }),
    ("retention.ms soon", |c| create_with(c, "retention.ms", "soon")),
    ("retention.ms -2", |c| create_with(c, "retention.ms", "-2")),
    ("retention.ms -1", |c| create_with(c, "retention.ms", "-1")),
    ("cleanup.policy shred", |c| create_with(c, "cleanup.policy", "shred")),
    ("cleanup.policy compact,delete", |c| create_with(c, "cleanup.policy", "compact,delete")),
    ("cleanup.policy empty", |c| create_with(c, "cleanup.policy", "")),
    ("min.cleanable.dirty.ratio 1.5", |c| create_with(c, "min.cleanable.dirty.ratio", "1.5")),
    ("min.cleanable.dirty.ratio 0.01", |c| create_with(c, "min.cleanable.dirty.ratio", "0.01")),
    ("segment.bytes too small", |c| create_with(c, "segment.bytes", "13")),
    ("segment.bytes too large", |c| create_with(c, "segment.bytes", "2147483648")),
    ("segment.ms 0", |c| create_with(c, "segment.ms", "0")),
    ("message.timestamp.type", |c| create_with(c, "message.timestamp.type", "Whenever")),
    ("compression.type", |c| create_with(c, "compression.type", "snappy")),
    ("compression.type unknown", |c| create_with(c, "compression.type", "middle-out")),
    ("max.message.bytes negative", |c| create_with(c, "max.message.bytes", "-1")),
    ("min.insync.replicas 0", |c| create_with(c, "min.insync.replicas", "0")),
    ("boolean that is none", |c| create_with(c, "preallocate", "maybe")),
    ("boolean in capitals", |c| create_with(c, "preallocate", "TRUE")),
    ("topic deleted", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        let deleted = delete(c, Some(&name), NIL);
        c.until("it is gone", |c| partitions(c) == 0);
        format!("{deleted}, again {}", delete(c, Some(&name), NIL))
    }),
    ("topic deleted by id", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        let id = metadata(c, 12, Some(&name), NIL).topic_id;
        format!("{}, again {}", delete(c, None, id), delete(c, None, id))
    }),
    ("topic deleted by unknown id", |c| delete(c, None, OTHER)),
    ("topic deleted by name and id", |c| {
        c.create(1, &[]);
        let name = c.name.clone();
        delete(c, Some(&name), OTHER)
    }),
    ("topic made again has another id and no records", |c| {
        c.create(1, &[]);
        c.produce(&crate::wire::Batch::of(&["old"]));
        let name = c.name.clone();
        let before = metadata(c, 12, Some(&name), NIL).topic_id;
        delete(c, Some(&name), NIL);
        c.until("it is gone", |c| partitions(c) == 0);
        c.create(1, &[]);
        let after = metadata(c, 12, Some(&name), NIL).topic_id;
        format!("other id: {}, {}", before != after, c.bounds())
    }),
    ("partitions grow", |c| {
        c.create(1, &[]);
        let grown = grow(c, 3, None, false);
        c.until("there are three", |c| partitions(c) == 3);
        grown
    }),
    ("partitions only asked to grow", |c| {
        c.create(1, &[]);
        format!("{} {}", grow(c, 3, None, true), partitions(c))
    }),
    ("partitions as many as there are", |c| {
        c.create(2, &[]);
        grow(c, 2, None, false)
    }),
    ("partitions fewer than there are", |c| {
        c.create(2, &[]);
        grow(c, 1, None, false)
    }),
    ("partitions of no topic", |c| grow(c, 2, None, false)),
    ("partitions assigned by hand", |c| {
        c.create(1, &[]);
        grow(c, 2, Some(&[&[1]]), false)
    }),
    ("partitions assigned to nobody", |c| {
        c.create(1, &[]);
        grow(c, 2, Some(&[&[99]]), false)
    }),
    ("partitions assigned too often", |c| {
        c.create(1, &[]);
        grow(c, 2, Some(&[&[1], &[1]]), false)
    }),
    ("metadata of no topic", |c| {
        let name = c.name.clone();
        named(metadata(c, 12, Some(&name), NIL).error_code)
    }),
    ("metadata of an impossible name", |c| named(metadata(c, 12, Some("a b"), NIL).error_code)),
    ("metadata by unknown id", |c| {
        let topic = metadata(c, 12, None, OTHER);
        format!("{} name {:?} id {}", named(topic.error_code), topic.name, topic.topic_id == OTHER)
    }),
    ("metadata by id", |c| {
        c.create(2, &[]);
        let name = c.name.clone();
        let id = metadata(c, 12, Some(&name), NIL).topic_id;
        let topic = metadata(c, 12, None, id);
        let told = topic.name.as_ref().is_some_and(|told| told.as_str() == name);
        format!("{} named {told} {} partitions", named(topic.error_code), topic.partitions.len())
    }),
    ("metadata in every version", |c| {
        c.create(2, &[]);
        let name = c.name.clone();
        let told = (0..=12).map(|version| {
            let topic = metadata(c, version, Some(&name), NIL);
            let leader = topic.partitions.iter().all(|partition| partition.leader_id == BrokerId(1));
            format!("{version}:{}/{}/{leader}", named(topic.error_code), topic.partitions.len())
        });
        told.collect::<Vec<_>>().join(" ")
    }),
    ("metadata of no topics in version 1", |c| {
        let request = m::MetadataRequest::default().with_topics(Some(Vec::new()));
        c.wire.call(1, &request).topics.len().to_string()
    }),
    ("settings of a new topic", |c| {
        c.create(1, &[("cleanup.policy", "compact"), ("retention.ms", "-1")]);
        topic_settings(c, &["cleanup.policy", "retention.ms", "delete.retention.ms", "min.cleanable.dirty.ratio"])
    }),
    ("settings asked for by unknown name", |c| {
        c.create(1, &[]);
        topic_settings(c, &["no.such.setting"])
    }),
    ("settings of no topic", |c| topic_settings(c, &["retention.ms"])),
    ("settings of an unknown kind of resource", |c| settings(c, 77, "x", None)),
    ("settings of an unknown broker", |c| settings(c, 4, "99", Some(&["log.dirs"]))),
    ("defaults of the settings", |c| {
        c.create(1, &[]);
        topic_settings(
            c,
            &[
                "retention.ms",
                "retention.bytes",
                "max.message.bytes",
                "message.timestamp.type",
                "compression.type",
                "min.insync.replicas",
                "min.compaction.lag.ms",
                "max.compaction.lag.ms",
                "unclean.leader.election.enable",
                "flush.messages",
                "index.interval.bytes",
                "preallocate",
                "segment.ms",
                "segment.jitter.ms",
                "message.timestamp.before.max.ms",
            ],
        )
    }),
    ("default segment.bytes", |c| {
        c.create(1, &[]);
        topic_settings(c, &["segment.bytes"])
    }),
    ("setting changed and taken back", |c| {
        c.create(1, &[]);
        let set = change(c, &[("retention.ms", SET, Some("5000"))], false);
        c.until("it shows", |c| topic_settings(c, &["retention.ms"]).contains("=5000 (topic"));
        let taken = change(c, &[("retention.ms", DELETE, None)], false);
        c.until("it shows", |c| topic_settings(c, &["retention.ms"]).contains("(default"));
        format!("{set} {taken}")
    }),
    ("setting only asked to change", |c| {
        c.create(1, &[]);
        let asked = change(c, &[("retention.ms", SET, Some("5000"))], true);
        format!("{asked} {}", topic_settings(c, &["retention.ms"]))
    }),
    ("list grows and shrinks", |c| {
        c.create(1, &[]);
        let grown = change(c, &[("cleanup.policy", APPEND, Some("compact"))], false);
        c.until("it shows", |c| topic_settings(c, &["cleanup.policy"]).contains("compact"));
        let both = topic_settings(c, &["cleanup.policy"]);
        let shrunk = change(c, &[("cleanup.policy", SUBTRACT, Some("delete"))], false);
        c.until("it shows", |c| !topic_settings(c, &["cleanup.policy"]).contains("delete"));
        format!("{grown} {both} {shrunk}")
    }),
    ("number cannot grow like a list", |c| {
        c.create(1, &[]);
        change(c, &[("retention.ms", APPEND, Some("1"))], false)
    }),
    ("change of an unknown setting", |c| {
        c.create(1, &[]);
        change(c, &[("no.such.setting", SET, Some("1"))], false)
    }),
    ("change to a bad value", |c| {
        c.create(1, &[]);
        change(c, &[("retention.ms", SET, Some("soon"))], false)
    }),
    ("change to no value", |c| {
        c.create(1, &[]);
        change(c, &[("retention.ms", SET, None)], false)
    }),
    ("change by an unknown operation", |c| {
        c.create(1, &[]);
        change(c, &[("retention.ms", 9, Some("1"))], false)
    }),
    ("one setting changed twice in a request", |c| {
        c.create(1, &[]);
        change(c, &[("retention.ms", SET, Some("1")), ("retention.ms", SET, Some("2"))], false)
    }),
    ("change of no topic", |c| change(c, &[("retention.ms", SET, Some("1"))], false)),
    ("change of an unknown kind of resource", |c| change_of(c, 77, "x", &[("a", SET, Some("1"))], false)),
    ("one bad change spoils the others", |c| {
        c.create(1, &[]);
        let changed = change(c, &[("retention.ms", SET, Some("5000")), ("segment.ms", SET, Some("x"))], false);
        format!("{changed} {}", topic_settings(c, &["retention.ms"]))
    }),
    ("settings replaced as a whole", |c| {
        c.create(1, &[("retention.ms", "1000"), ("segment.ms", "1000")]);
        let replaced = replace(c, &[("segment.ms", "2000")]);
        c.until("it shows", |c| topic_settings(c, &["segment.ms"]).contains("2000"));
        format!("{replaced} {}", topic_settings(c, &["retention.ms", "segment.ms"]))
    }),
    ("settings replaced by a bad value", |c| {
        c.create(1, &[]);
        replace(c, &[("segment.ms", "x")])
    }),
    ("cluster described", |c| {
        let answer = c.wire.call(1, &m::DescribeClusterRequest::default().with_endpoint_type(1));
        let ids: Vec<i32> = answer.brokers.iter().map(|broker| broker.broker_id.0).collect();
        format!("{} {ids:?} controller {}", named(answer.error_code), answer.controller_id.0)
    }),
    ("cluster of an unknown kind", |c| {
        let answer = c.wire.call(1, &m::DescribeClusterRequest::default().with_endpoint_type(3));
        named(answer.error_code)
    }),
    ("no reassignments", |c| {
        let request = m::ListPartitionReassignmentsRequest::default().with_topics(None);
        let answer = c.wire.call(0, &request);
        format!("{} {}", named(answer.error_code), answer.topics.len())
    }),
    ("sizes on disk", |c| {
        c.create(2, &[]);
        c.produce(&crate::wire::Batch::of(&["some", "records"]));
        let topic = m::describe_log_dirs_request::DescribableLogDirTopic::default()
            .with_topic(topic_name(&c.name))
            .with_partitions(vec![0, 1, 9]);
        let answer = c.wire.call(4, &m::DescribeLogDirsRequest::default().with_topics(Some(vec![topic])));
        let topic = &answer.results[0].topics[0];
        let mut sizes: Vec<(i32, bool)> =
            topic.partitions.iter().map(|p| (p.partition_index, p.partition_size > 0)).collect();
        sizes.sort_unstable();
        format!("{} {sizes:?}", named(answer.results[0].error_code))
    }),
    ("client that names itself badly", |c| {
        let request = m::ApiVersionsRequest::default()
            .with_client_software_name(text("bad name!"))
            .with_client_software_version(text("1"));
        named(c.wire.call(3, &request).error_code)
    }),
];
