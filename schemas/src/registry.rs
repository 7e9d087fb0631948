//! Between a schema registry and the codec: looks ids up, registers schemas when asked to, fetches what is wanted. Owns
//! every request to a registry. Registers in [`apply`] and nowhere else.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use schema_registry_converter::async_impl::schema_registry::{
    SrSettings, get_schema_by_id, perform_sr_call, post_schema,
};
use schema_registry_converter::error::SRCError;
use schema_registry_converter::schema_registry_common::{RawError, SchemaType, SrCall, SuppliedSchema};
use serde_json::{Value, json};
use thiserror::Error;

use crate::codec::Codec;
use crate::topics::{TOPICS, Topic};

/// How long any one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// What registries answer, in Confluent's numbers.
const NO_SUBJECT: u32 = 40401;
const NO_SCHEMA: u32 = 40403;
const INCOMPATIBLE: u32 = 409;

/// Why the registry and the program do not go together.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// No answer, or not the answer of a registry.
    #[error("no answer from the schema registry at {url} about {about}: {problem}; check the address and that it runs")]
    Unreachable {
        /// The registry.
        url: String,
        /// What was asked about: a subject or a schema id.
        about: String,
        /// What went wrong.
        problem: String,
    },
    /// The registry has nothing on a subject.
    #[error("subject {subject} is not registered at {url}; run `millrace apply` once before the processors")]
    Missing {
        /// The registry.
        url: String,
        /// The subject.
        subject: String,
    },
    /// The registry has other schemas on a subject, not this program's.
    #[error(
        "subject {subject} at {url} has no version that equals this program's schema; run `millrace apply` of this \
         version first"
    )]
    Differs {
        /// The registry.
        url: String,
        /// The subject.
        subject: String,
    },
    /// The schema may not follow the versions that the registry has.
    #[error("the schema of {subject} may not be registered at {url}: {reason}; nothing was registered for it")]
    Incompatible {
        /// The registry.
        url: String,
        /// The subject.
        subject: String,
        /// Why not, as the registry says.
        reason: String,
    },
    /// The registry refused for another reason.
    #[error("the schema registry at {url} refused {about}: {reason}")]
    Refused {
        /// The registry.
        url: String,
        /// What was asked about.
        about: String,
        /// Its words.
        reason: String,
    },
}

/// What [`apply`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Subjects that got a version.
    pub registered: Vec<String>,
    /// Subjects that had this program's schema already.
    pub existing: Vec<String>,
    /// Subjects whose compatibility was set; it was another one, or none, before.
    pub levels: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registered, existing, levels } = self;
        write!(f, "schemas   {} registered, {} were there", registered.len(), existing.len())?;
        write!(f, "; compatibility set on {}", levels.len())
    }
}

/// What a registry has of a schema.
enum Found {
    Id(u32),
    NoSubject,
    NoSchema,
}

struct Registry {
    url: String,
    settings: SrSettings,
    http: reqwest::Client,
}

impl Registry {
    fn new(url: &str) -> Result<Self, RegistryError> {
        let url = url.trim_end_matches('/').to_owned();
        let unusable =
            |problem: String| RegistryError::Unreachable { url: url.clone(), about: "anything".to_owned(), problem };
        let settings = SrSettings::new_builder(url.clone()).set_timeout(TIMEOUT).build();
        let settings = settings.map_err(|error| unusable(error.to_string()))?;
        let http = reqwest::Client::builder().timeout(TIMEOUT).build();
        let http = http.map_err(|error| unusable(error.to_string()))?;
        Ok(Self { url, settings, http })
    }

    fn unreachable(&self, about: &str, problem: impl fmt::Display) -> RegistryError {
        RegistryError::Unreachable { url: self.url.clone(), about: about.to_owned(), problem: problem.to_string() }
    }

    fn failed(&self, about: &str, error: &SRCError) -> RegistryError {
        match answer_of(error) {
            Some(answer) => RegistryError::Refused {
                url: self.url.clone(),
                about: about.to_owned(),
                reason: answer.message.clone(),
            },
            None => self.unreachable(about, error),
        }
    }

    /// The id of exactly this program's schema.
    async fn find(&self, topic: &Topic) -> Result<Found, RegistryError> {
        let subject = topic.subject();
        let body = json!({ "schema": topic.schema_json, "schemaType": "AVRO" }).to_string();
        match perform_sr_call(&self.settings, SrCall::PostForVersion(&subject, &body)).await {
            Ok(found) => match found.id {
                Some(id) => Ok(Found::Id(id)),
                None => Err(self.unreachable(&subject, "its answer has no schema id")),
            },
            Err(error) => match answer_of(&error).map(|answer| answer.error_code) {
                Some(NO_SUBJECT) => Ok(Found::NoSubject),
                Some(NO_SCHEMA) => Ok(Found::NoSchema),
                _ => Err(self.failed(&subject, &error)),
            },
        }
    }

    /// Sets the subject's compatibility, unless it is that already. Whether it was set.
    async fn set_level(&self, topic: &Topic) -> Result<Option<String>, RegistryError> {
        let subject = topic.subject();
        let place = format!("{}/config/{subject}", self.url);
        let level = topic.compatibility.as_str();
        let asked = self.http.get(&place).header("accept", CONTENT_TYPE);
        if let Ok(now) = self.answer(&subject, asked).await?
            && now["compatibilityLevel"] == level
        {
            return Ok(None);
        }
        let body = json!({ "compatibility": level }).to_string();
        let asked =
            self.http.put(&place).header("content-type", CONTENT_TYPE).header("accept", CONTENT_TYPE).body(body);
        match self.answer(&subject, asked).await? {
            Ok(_) => Ok(Some(subject)),
            Err(reason) => Err(RegistryError::Refused { url: self.url.clone(), about: subject, reason }),
        }
    }

    /// Why the registry would refuse the schema; `None` when it would not.
    async fn incompatibility(&self, topic: &Topic) -> Result<Option<String>, RegistryError> {
        let subject = topic.subject();
        let place = format!("{}/compatibility/subjects/{subject}/versions?verbose=true", self.url);
        let body = json!({ "schema": topic.schema_json, "schemaType": "AVRO" }).to_string();
        let asked =
            self.http.post(place).header("content-type", CONTENT_TYPE).header("accept", CONTENT_TYPE).body(body);
        Ok(match self.answer(&subject, asked).await? {
            Ok(answer) if answer["is_compatible"] == false => Some(match answer["messages"].as_array() {
                Some(messages) if !messages.is_empty() => messages
                    .iter()
                    .map(|message| message.as_str().map_or_else(|| message.to_string(), str::to_owned))
                    .collect::<Vec<_>>()
                    .join("; "),
                _ => "it is not compatible with the versions there; the registry says no more".to_owned(),
            }),
            // A registry that cannot test says so when the schema is registered.
            Ok(_) | Err(_) => None,
        })
    }

    async fn register(&self, topic: &Topic) -> Result<(), RegistryError> {
        let subject = topic.subject();
        let schema = SuppliedSchema::new(None, SchemaType::Avro, topic.schema_json.to_owned());
        match post_schema(&self.settings, subject.clone(), schema).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match answer_of(&error) {
                Some(answer) if answer.error_code == INCOMPATIBLE || answer.error_code / 100 == INCOMPATIBLE => {
                    RegistryError::Incompatible { url: self.url.clone(), subject, reason: answer.message.clone() }
                }
                _ => self.failed(&subject, &error),
            }),
        }
    }

    /// The JSON of an answer; inside, what the registry says when it refuses.
    async fn answer(
        &self,
        about: &str,
        asked: reqwest::RequestBuilder,
    ) -> Result<Result<Value, String>, RegistryError> {
        let answer = asked.send().await.map_err(|error| self.unreachable(about, Chain(&error)))?;
        let status = answer.status();
        let body = answer.text().await.map_err(|error| self.unreachable(about, Chain(&error)))?;
        match serde_json::from_str::<Value>(&body) {
            Ok(json) if status.is_success() => Ok(Ok(json)),
            Ok(json) if status.is_client_error() => {
                Ok(Err(json["message"].as_str().map_or_else(|| status.to_string(), str::to_owned)))
            }
            _ => Err(self.unreachable(about, format!("it answers {status}"))),
        }
    }
}

/// An error with what caused it.
struct Chain<'a>(&'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// What the registry itself said; `None` when something else failed.
fn answer_of(error: &SRCError) -> Option<&RawError> {
    error.source().and_then(|source| source.downcast_ref::<RawError>()).filter(|answer| answer.error_code != 0)
}

/// A codec with the ids that the registry gave to this program's schemas.
///
/// # Errors
/// [`RegistryError::Missing`] or [`RegistryError::Differs`] name the first subject that is not as this program needs it.
pub async fn check(url: &str) -> Result<Codec, RegistryError> {
    let registry = Registry::new(url)?;
    let mut ids = [0; TOPICS.len()];
    for (id, topic) in ids.iter_mut().zip(TOPICS) {
        *id = match registry.find(topic).await? {
            Found::Id(id) => id,
            Found::NoSubject => return Err(RegistryError::Missing { url: registry.url, subject: topic.subject() }),
            Found::NoSchema => return Err(RegistryError::Differs { url: registry.url, subject: topic.subject() }),
        };
    }
    Ok(Codec::with_ids(ids))
}

/// Sets the compatibility of every subject and registers every schema that is not there. Doing it again changes nothing.
/// Whether all schemas fit is asked before the first is registered.
///
/// # Errors
/// [`RegistryError::Incompatible`] names the subject and why; no schema was registered, unless another program changes
/// the same subjects at the same time.
pub async fn apply(url: &str) -> Result<Report, RegistryError> {
    let registry = Registry::new(url)?;
    let mut report = Report::default();
    let mut missing = Vec::new();
    for topic in TOPICS {
        let found = registry.find(topic).await?;
        report.levels.extend(registry.set_level(topic).await?);
        match found {
            Found::Id(_) => report.existing.push(topic.subject()),
            Found::NoSubject => missing.push(topic),
            Found::NoSchema => {
                if let Some(reason) = registry.incompatibility(topic).await? {
                    let subject = topic.subject();
                    return Err(RegistryError::Incompatible { url: registry.url, subject, reason });
                }
                missing.push(topic);
            }
        }
    }
    for topic in missing {
        registry.register(topic).await?;
        report.registered.push(topic.subject());
    }
    Ok(report)
}

/// Fetches every schema that the codec wants and teaches it. How many it learned.
///
/// # Errors
/// The last failure; the ids that failed stay wanted, the others are learned.
pub async fn fetch_wanted(codec: &Codec, url: &str) -> Result<usize, RegistryError> {
    let wanted = codec.wanted();
    if wanted.is_empty() {
        return Ok(0);
    }
    let registry = Registry::new(url)?;
    let mut failure = None;
    let mut learned = 0;
    for id in wanted {
        // Registries number with 31 bits, from 1: a record with any other id was not written through one.
        if id == 0 || id > i32::MAX as u32 {
            codec.learn(id, None);
            learned += 1;
            continue;
        }
        match get_schema_by_id(id, &registry.settings).await {
            Ok(found) if found.schema_type == SchemaType::Avro => codec.learn(id, Some(&found.schema)),
            Ok(found) => codec.learn(id, Some(&format!("a schema of type {:?}", found.schema_type))),
            Err(error) if answer_of(&error).is_some_and(|answer| answer.error_code == NO_SCHEMA) => {
                codec.learn(id, None);
            }
            Err(error) => {
                failure = Some(registry.failed(&format!("schema {id}"), &error));
                continue;
            }
        }
        learned += 1;
    }
    failure.map_or(Ok(learned), Err)
}
