//! Topics as the topology wants them: made where they are missing, compared where they are. Never deletes, never
//! changes the partition count or the settings of a topic that exists.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use crate::config::KafkaConfig;

/// How long the cluster may take for one answer.
const ANSWER: Duration = Duration::from_secs(15);

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas; -1 leaves it to the broker. Used when the topic is made, not compared.
    pub replication: i32,
    /// Topic configs, such as `cleanup.policy`, `retention.ms`, `min.insync.replicas`.
    pub configs: BTreeMap<String, String>,
}

/// How a topic that exists differs from what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It does not exist.
    Missing {
        /// Its name.
        topic: String,
    },
    /// Another number of partitions: keys would land elsewhere. The engine must not start.
    Partitions {
        /// Its name.
        topic: String,
        /// As the topology says.
        wanted: i32,
        /// As the cluster says.
        found: i32,
    },
    /// Another value of a config.
    Config {
        /// Its name.
        topic: String,
        /// Which config.
        config: String,
        /// As the topology says.
        wanted: String,
        /// As the cluster says; `None` when it does not say.
        found: Option<String>,
    },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing { topic } => write!(f, "topic {topic} does not exist"),
            Self::Partitions { topic, wanted, found } => {
                write!(f, "topic {topic} has {found} partitions, the topology says {wanted}")
            }
            Self::Config { topic, config, wanted, found } => {
                let found = found.as_deref().unwrap_or("(not set)");
                write!(f, "topic {topic} has {config}={found}, the topology says {wanted}")
            }
        }
    }
}

/// What was done and what is left to a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Topics that were made.
    pub created: Vec<String>,
    /// How the others differ; empty when all is as wanted.
    pub differences: Vec<Difference>,
}

/// The cluster did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TopicsError {
    /// No client could be made, or no answer came.
    #[error("{what}: {source}")]
    Cluster {
        /// What was asked.
        what: String,
        /// What the client said.
        source: KafkaError,
    },
    /// A topic could not be made.
    #[error("topic {topic} cannot be made: {code}")]
    Create {
        /// Its name.
        topic: String,
        /// Why.
        code: RDKafkaErrorCode,
    },
    /// The operating system gave no event loop.
    #[error("no event loop: {0}")]
    Runtime(String),
}

/// Makes the topics that are missing, then compares all. Doing it again changes nothing.
///
/// # Errors
/// [`TopicsError`]. Topics made before the error stay.
pub fn ensure(config: &KafkaConfig, wanted: &[TopicSpec]) -> Result<Report, TopicsError> {
    with_admin(config, async |admin| {
        let mut report = Report::default();
        let known = found(admin)?;
        let missing: Vec<&TopicSpec> = wanted.iter().filter(|spec| !known.contains_key(&spec.name)).collect();
        let new = missing.iter().map(|spec| {
            let topic = NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(spec.replication));
            spec.configs.iter().fold(topic, |topic, (name, value)| topic.set(name, value))
        });
        let new: Vec<_> = new.collect();
        if !new.is_empty() {
            let made = admin.create_topics(&new, &options()).await.map_err(|e| of("creating topics", e))?;
            for one in made {
                match one {
                    Ok(topic) => report.created.push(topic),
                    Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                    Err((topic, code)) => return Err(TopicsError::Create { topic, code }),
                }
            }
        }
        // The metadata follow the creation by a moment.
        let since = std::time::Instant::now();
        loop {
            report.differences = differences(admin, wanted).await?;
            let missing = report.differences.iter().any(|d| matches!(d, Difference::Missing { .. }));
            if !missing || since.elapsed() > ANSWER {
                return Ok(report);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

/// Compares only.
///
/// # Errors
/// [`TopicsError`].
pub fn compare(config: &KafkaConfig, wanted: &[TopicSpec]) -> Result<Vec<Difference>, TopicsError> {
    with_admin(config, async |admin| differences(admin, wanted).await)
}

type Admin = AdminClient<DefaultClientContext>;

async fn differences(admin: &Admin, wanted: &[TopicSpec]) -> Result<Vec<Difference>, TopicsError> {
    let known = found(admin)?;
    let mut differences = Vec::new();
    let mut present = Vec::new();
    for spec in wanted {
        match known.get(&spec.name) {
            None => differences.push(Difference::Missing { topic: spec.name.clone() }),
            Some(partitions) => {
                if *partitions != spec.partitions {
                    differences.push(Difference::Partitions {
                        topic: spec.name.clone(),
                        wanted: spec.partitions,
                        found: *partitions,
                    });
                }
                present.push(spec);
            }
        }
    }
    let asked: Vec<_> = present.iter().filter(|spec| !spec.configs.is_empty()).collect();
    if asked.is_empty() {
        return Ok(differences);
    }
    let resources: Vec<_> = asked.iter().map(|spec| ResourceSpecifier::Topic(&spec.name)).collect();
    let described = admin.describe_configs(&resources, &options()).await.map_err(|e| of("describing configs", e))?;
    for (spec, resource) in asked.iter().zip(described) {
        let what = || format!("configs of {}", spec.name);
        let resource = resource.map_err(|code| of(&what(), KafkaError::AdminOp(code)))?;
        for (name, value) in &spec.configs {
            let found = resource.get(name).and_then(|entry| entry.value.clone());
            if found.as_ref() != Some(value) {
                differences.push(Difference::Config {
                    topic: spec.name.clone(),
                    config: name.clone(),
                    wanted: value.clone(),
                    found,
                });
            }
        }
    }
    Ok(differences)
}

fn found(admin: &Admin) -> Result<BTreeMap<String, i32>, TopicsError> {
    let metadata: Metadata = admin.inner().fetch_metadata(None, ANSWER).map_err(|e| of("listing topics", e))?;
    let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
    Ok(topics
        .map(|topic| (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX)))
        .collect())
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER))
}

fn of(what: &str, source: KafkaError) -> TopicsError {
    TopicsError::Cluster { what: what.to_owned(), source }
}

fn with_admin<T>(
    config: &KafkaConfig,
    work: impl AsyncFnOnce(&Admin) -> Result<T, TopicsError>,
) -> Result<T, TopicsError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| TopicsError::Runtime(error.to_string()))?;
    let admin: Admin = config.admin().create().map_err(|e| of("making an admin client", e))?;
    let done = runtime.block_on(work(&admin));
    // Aside: its thread looks every tenth of a second whether it is to end, and nobody need wait for that.
    let _ = thread::Builder::new().name("admin-ends".into()).spawn(move || drop(admin));
    done
}
