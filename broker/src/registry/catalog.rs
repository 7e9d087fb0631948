//! What the registry knows and what it answers. Pure: every change is a list of facts for the caller to store first.

use std::collections::BTreeMap;

use apache_avro::Schema;
use serde_json::Value;

use super::compatibility::{Level, objections};
use super::records::{Fact, SchemaValue};

/// Why a request is refused, with Confluent's number for it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("Subject '{0}' not found.")]
    NoSubject(String),
    #[error("Version {0} not found.")]
    NoVersion(String),
    #[error("Schema not found.")]
    NoSchema,
    #[error("Subject '{0}' was not deleted first before being permanently deleted.")]
    NotSoftDeleted(String),
    #[error("Subject '{0}' does not have subject-level compatibility configured.")]
    NoSubjectLevel(String),
    #[error("Schema being registered is incompatible with an earlier schema: {0}")]
    Incompatible(String),
    #[error("Invalid schema: {0}")]
    InvalidSchema(String),
    #[error(
        "The specified version '{0}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"."
    )]
    InvalidVersion(String),
    #[error("Invalid compatibility level: {0}")]
    InvalidLevel(String),
    #[error("Could not store: {0}")]
    Storage(String),
}

impl Refused {
    /// Confluent's error code; its first three digits are the HTTP status.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::NoSubject(_) => 40401,
            Self::NoVersion(_) => 40402,
            Self::NoSchema => 40403,
            Self::NotSoftDeleted(_) => 40405,
            Self::NoSubjectLevel(_) => 40408,
            Self::Incompatible(_) => 409,
            Self::InvalidSchema(_) => 42201,
            Self::InvalidVersion(_) => 42202,
            Self::InvalidLevel(_) => 42203,
            Self::Storage(_) => 50001,
        }
    }
}

/// A version number or `latest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Latest,
    Number(i32),
}

impl Wanted {
    pub(crate) fn parse(text: &str) -> Result<Self, Refused> {
        match text {
            "latest" | "-1" => Ok(Self::Latest),
            number => match number.parse() {
                Ok(number) if number >= 1 => Ok(Self::Number(number)),
                _ => Err(Refused::InvalidVersion(text.to_owned())),
            },
        }
    }
}

#[derive(Debug, Clone)]
struct Version {
    id: i32,
    deleted: bool,
}

#[derive(Debug)]
struct Known {
    text: String,
    /// Text with sorted keys and without spaces: two schemas are the same if these are.
    normal: String,
}

/// The registry's state.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    subjects: BTreeMap<String, BTreeMap<i32, Version>>,
    schemas: BTreeMap<i32, Known>,
    levels: BTreeMap<String, Level>,
    global: Level,
    next_id: i32,
}

/// A registered version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) subject: String,
    pub(crate) version: i32,
    pub(crate) id: i32,
    pub(crate) schema: String,
}

/// A schema a client sent, checked.
#[derive(Debug)]
pub(crate) struct Offered {
    text: String,
    normal: String,
    schema: Schema,
}

impl Offered {
    /// Parses Avro schema text.
    pub(crate) fn parse(text: &str) -> Result<Self, Refused> {
        let schema = Schema::parse_str(text).map_err(|error| Refused::InvalidSchema(error.to_string()))?;
        Ok(Self { text: text.to_owned(), normal: normalize(text), schema })
    }
}

fn normalize(text: &str) -> String {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let sorted_map: BTreeMap<String, Value> =
                    map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
                Value::Object(sorted_map.into_iter().collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
            other => other,
        }
    }
    // Names of primitive types may come without quotes; they are what they are.
    serde_json::from_str(text).map_or(text.trim().to_owned(), |value| sorted(value).to_string())
}

impl Catalog {
    pub(crate) fn new() -> Self {
        Self { next_id: 1, ..Self::default() }
    }

    /// Takes a stored fact in.
    pub(crate) fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Schema(value) => {
                self.next_id = self.next_id.max(value.id + 1);
                let normal = normalize(&value.schema);
                self.schemas.entry(value.id).or_insert(Known { text: value.schema, normal });
                let version = Version { id: value.id, deleted: value.deleted };
                let versions = self.subjects.entry(value.subject).or_default();
                versions.insert(value.version, version);
            }
            Fact::SchemaGone { subject, version } => {
                if let Some(versions) = self.subjects.get_mut(&subject) {
                    versions.remove(&version);
                    if versions.is_empty() {
                        self.subjects.remove(&subject);
                    }
                }
            }
            Fact::Level { subject: None, level } => self.global = level.unwrap_or_default(),
            Fact::Level { subject: Some(subject), level: Some(level) } => {
                self.levels.insert(subject, level);
            }
            Fact::Level { subject: Some(subject), level: None } => {
                self.levels.remove(&subject);
            }
            Fact::NextId(next) => self.next_id = self.next_id.max(next),
        }
    }

    fn live(&self, subject: &str, deleted: bool) -> Result<Vec<(i32, i32)>, Refused> {
        let versions = self.subjects.get(subject).into_iter().flatten();
        let live: Vec<(i32, i32)> = versions
            .filter(|(_, version)| deleted || !version.deleted)
            .map(|(number, version)| (*number, version.id))
            .collect();
        if live.is_empty() {
            return Err(Refused::NoSubject(subject.to_owned()));
        }
        Ok(live)
    }

    fn registered(&self, subject: &str, version: i32, id: i32) -> Registered {
        let schema = self.schemas.get(&id);
        Registered {
            subject: subject.to_owned(),
            version,
            id,
            schema: schema.map_or(String::new(), |known| known.text.clone()),
        }
    }

    /// Names of subjects with at least one version.
    pub(crate) fn subjects(&self, deleted: bool) -> Vec<String> {
        let subjects =
            self.subjects.iter().filter(|(_, versions)| deleted || versions.values().any(|version| !version.deleted));
        subjects.map(|(name, _)| name.clone()).collect()
    }

    /// Version numbers of a subject.
    pub(crate) fn versions(&self, subject: &str, deleted: bool) -> Result<Vec<i32>, Refused> {
        let live = self.live(subject, deleted)?;
        Ok(live.into_iter().map(|(number, _)| number).collect())
    }

    /// One version.
    pub(crate) fn version(&self, subject: &str, wanted: Wanted, deleted: bool) -> Result<Registered, Refused> {
        let live = self.live(subject, deleted)?;
        let found = match wanted {
            Wanted::Latest => live.last(),
            Wanted::Number(number) => live.iter().find(|(version, _)| *version == number),
        };
        match (found, wanted) {
            (Some((version, id)), _) => Ok(self.registered(subject, *version, *id)),
            (None, Wanted::Number(number)) => Err(Refused::NoVersion(number.to_string())),
            (None, Wanted::Latest) => Err(Refused::NoVersion("latest".to_owned())),
        }
    }

    /// Schema text by id.
    pub(crate) fn schema(&self, id: i32) -> Result<&str, Refused> {
        let known = self.schemas.get(&id).ok_or(Refused::NoSchema)?;
        Ok(&known.text)
    }

    /// Subjects and versions that use an id.
    pub(crate) fn uses(&self, id: i32) -> Vec<(String, i32)> {
        let mut uses = Vec::new();
        for (subject, versions) in &self.subjects {
            let live = versions.iter().filter(|(_, version)| !version.deleted);
            let same = live.filter(|(_, version)| version.id == id);
            uses.extend(same.map(|(number, _)| (subject.clone(), *number)));
        }
        uses
    }

    /// The version of a subject that is this schema.
    pub(crate) fn find(&self, subject: &str, offered: &Offered) -> Result<Registered, Refused> {
        let live = self.live(subject, false)?;
        let is_same = |id: &i32| {
            let known = self.schemas.get(id);
            known.is_some_and(|known| known.normal == offered.normal)
        };
        let found = live.iter().rev().find(|(_, id)| is_same(id));
        let (version, id) = found.ok_or(Refused::NoSchema)?;
        Ok(self.registered(subject, *version, *id))
    }

    /// Registers a schema: the id, and the fact to store unless it is registered already.
    pub(crate) fn register(&self, subject: &str, offered: &Offered) -> Result<(i32, Option<Fact>), Refused> {
        if let Ok(found) = self.find(subject, offered) {
            return Ok((found.id, None));
        }
        let level = self.level(subject);
        let live = self.live(subject, false).unwrap_or_default();
        let problems = self.problems(level, offered, level.relevant(&live))?;
        if !problems.is_empty() {
            return Err(Refused::Incompatible(problems.join("; ")));
        }
        let mut same = self.schemas.iter();
        let same = same.find(|(_, known)| known.normal == offered.normal);
        let id = same.map_or(self.next_id, |(id, _)| *id);
        let highest = self.subjects.get(subject).and_then(|all| all.last_key_value());
        let fact = Fact::Schema(SchemaValue {
            subject: subject.to_owned(),
            version: highest.map_or(1, |(number, _)| number + 1),
            id,
            schema: offered.text.clone(),
            deleted: false,
        });
        Ok((id, Some(fact)))
    }

    fn problems(&self, level: Level, offered: &Offered, old: &[(i32, i32)]) -> Result<Vec<String>, Refused> {
        let mut problems = Vec::new();
        for (version, id) in old {
            let text = self.schema(*id)?;
            let old = Offered::parse(text)?;
            for objection in objections(level, &offered.schema, &old.schema) {
                problems.push(format!("version {version}: {objection}"));
            }
        }
        Ok(problems)
    }

    /// What speaks against a schema beside one version, or beside those the subject's level looks at.
    pub(crate) fn test(
        &self,
        subject: &str,
        against: Option<Wanted>,
        offered: &Offered,
    ) -> Result<Vec<String>, Refused> {
        let level = self.level(subject);
        match against {
            Some(wanted) => {
                let version = self.version(subject, wanted, false)?;
                self.problems(level, offered, &[(version.version, version.id)])
            }
            None => {
                let live = self.live(subject, false).unwrap_or_default();
                self.problems(level, offered, level.relevant(&live))
            }
        }
    }

    /// Level that applies to a subject.
    pub(crate) fn level(&self, subject: &str) -> Level {
        self.levels.get(subject).copied().unwrap_or(self.global)
    }

    /// Level that applies where a subject has none of its own.
    pub(crate) fn global_level(&self) -> Level {
        self.global
    }

    /// Level of a subject's own.
    pub(crate) fn subject_level(&self, subject: &str) -> Result<Level, Refused> {
        let level = self.levels.get(subject).copied();
        level.ok_or_else(|| Refused::NoSubjectLevel(subject.to_owned()))
    }

    /// Deletes one version or all of a subject: softly first, for good only after that. Returns the version numbers.
    pub(crate) fn delete(
        &self,
        subject: &str,
        wanted: Option<Wanted>,
        permanent: bool,
    ) -> Result<(Vec<i32>, Vec<Fact>), Refused> {
        let chosen: Vec<(i32, i32)> = match wanted {
            None => self.live(subject, permanent)?,
            Some(wanted) => {
                let version = self.version(subject, wanted, permanent)?;
                vec![(version.version, version.id)]
            }
        };
        let versions = &self.subjects[subject];
        let mut facts = Vec::new();
        if permanent {
            if chosen.iter().any(|(number, _)| !versions[number].deleted) {
                return Err(Refused::NotSoftDeleted(subject.to_owned()));
            }
            facts.push(Fact::NextId(self.next_id));
        }
        for (number, id) in &chosen {
            facts.push(if permanent {
                Fact::SchemaGone { subject: subject.to_owned(), version: *number }
            } else {
                let version = self.registered(subject, *number, *id);
                Fact::Schema(SchemaValue {
                    subject: version.subject,
                    version: version.version,
                    id: version.id,
                    schema: version.schema,
                    deleted: true,
                })
            });
        }
        Ok((chosen.into_iter().map(|(number, _)| number).collect(), facts))
    }
}
