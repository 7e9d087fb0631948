//! What the registry knows and what it answers. Pure: every change is a list of facts for the caller to store first.

use std::collections::BTreeMap;

use super::compatibility::{Level, objections};
use super::mode::Mode;
use super::offered::{Offered, normalize};
use super::records::{Fact, Reference, SchemaValue};
use super::refused::Refused;

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
    references: Vec<Reference>,
    /// Two schemas are the same if these are.
    normal: String,
}

/// The registry's state.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    subjects: BTreeMap<String, BTreeMap<i32, Version>>,
    schemas: BTreeMap<i32, Known>,
    levels: BTreeMap<String, Level>,
    global: Level,
    modes: BTreeMap<String, Mode>,
    global_mode: Mode,
    next_id: i32,
}

/// Which versions a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those not deleted.
    Live,
    /// The softly deleted ones as well.
    All,
    /// Only the softly deleted ones.
    Deleted,
}

impl Which {
    fn has(self, version: &Version) -> bool {
        match self {
            Self::Live => !version.deleted,
            Self::All => true,
            Self::Deleted => version.deleted,
        }
    }
}

/// A registered version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registered {
    pub(crate) subject: String,
    pub(crate) version: i32,
    pub(crate) id: i32,
    pub(crate) schema: String,
    pub(crate) references: Vec<Reference>,
}

impl Catalog {
    pub(crate) fn new() -> Self {
        Self { next_id: 1, ..Self::default() }
    }

    /// Takes a stored fact in.
    pub(crate) fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Schema(value) => {
                self.next_id = self.next_id.max(value.id.saturating_add(1));
                let normal = normalize(&value.schema, &value.references);
                let known = Known { text: value.schema, references: value.references, normal };
                self.schemas.entry(value.id).or_insert(known);
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
            Fact::Mode { subject: None, mode } => self.global_mode = mode.unwrap_or_default(),
            Fact::Mode { subject: Some(subject), mode: Some(mode) } => {
                self.modes.insert(subject, mode);
            }
            Fact::Mode { subject: Some(subject), mode: None } => {
                self.modes.remove(&subject);
            }
            Fact::NextId(next) => self.next_id = self.next_id.max(next),
        }
    }

    fn live(&self, subject: &str, which: Which) -> Result<Vec<(i32, i32)>, Refused> {
        let versions = self.subjects.get(subject).into_iter().flatten();
        let live: Vec<(i32, i32)> =
            versions.filter(|(_, version)| which.has(version)).map(|(number, version)| (*number, version.id)).collect();
        if live.is_empty() {
            return Err(Refused::NoSubject(subject.to_owned()));
        }
        Ok(live)
    }

    fn registered(&self, subject: &str, version: i32, id: i32) -> Registered {
        let (schema, references) = match self.schemas.get(&id) {
            Some(known) => (known.text.clone(), known.references.clone()),
            None => (String::new(), Vec::new()),
        };
        Registered { subject: subject.to_owned(), version, id, schema, references }
    }

    /// Names of subjects with at least one such version.
    pub(crate) fn subjects(&self, which: Which, prefix: &str) -> Vec<String> {
        let is_wanted = |name: &str, versions: &BTreeMap<i32, Version>| {
            let gone = versions.values().all(|version| version.deleted);
            name.starts_with(prefix)
                && match which {
                    Which::Live => !gone,
                    Which::All => true,
                    Which::Deleted => gone,
                }
        };
        let subjects = self.subjects.iter().filter(|(name, versions)| is_wanted(name, versions));
        subjects.map(|(name, _)| name.clone()).collect()
    }

    /// Every version of every subject, or only the latest of each.
    pub(crate) fn all(&self, which: Which, prefix: &str, latest_only: bool) -> Vec<Registered> {
        let mut all = Vec::new();
        for (subject, versions) in self.subjects.iter().filter(|(name, _)| name.starts_with(prefix)) {
            let mut wanted: Vec<_> = versions.iter().filter(|(_, version)| which.has(version)).collect();
            if latest_only {
                wanted.drain(..wanted.len().saturating_sub(1));
            }
            all.extend(wanted.into_iter().map(|(number, version)| self.registered(subject, *number, version.id)));
        }
        all
    }

    /// Version numbers of a subject.
    pub(crate) fn versions(&self, subject: &str, which: Which) -> Result<Vec<i32>, Refused> {
        let live = self.live(subject, which)?;
        Ok(live.into_iter().map(|(number, _)| number).collect())
    }

    /// One version.
    pub(crate) fn version(&self, subject: &str, wanted: Wanted, which: Which) -> Result<Registered, Refused> {
        let live = self.live(subject, which)?;
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

    /// Schema text and references by id.
    pub(crate) fn schema(&self, id: i32) -> Result<(&str, &[Reference]), Refused> {
        let known = self.schemas.get(&id).ok_or(Refused::NoSchema)?;
        Ok((&known.text, &known.references))
    }

    /// Largest id in use.
    pub(crate) fn max_id(&self) -> i32 {
        self.next_id - 1
    }

    /// Subjects and versions that use an id.
    pub(crate) fn uses(&self, id: i32, which: Which) -> Vec<(String, i32)> {
        let mut uses = Vec::new();
        for (subject, versions) in &self.subjects {
            let same = versions.iter().filter(|(_, version)| which.has(version) && version.id == id);
            uses.extend(same.map(|(number, _)| (subject.clone(), *number)));
        }
        uses
    }

    /// Ids of the schemas that refer to a version and are not deleted themselves.
    pub(crate) fn referenced_by(&self, subject: &str, number: i32) -> Vec<i32> {
        let refers = |known: &Known| known.references.iter().any(|r| r.subject == subject && r.version == number);
        let referring =
            self.schemas.iter().filter(|(id, known)| refers(known) && !self.uses(**id, Which::Live).is_empty());
        referring.map(|(id, _)| *id).collect()
    }

    /// Checks what a client sent.
    pub(crate) fn offer(&self, text: &str, references: Vec<Reference>) -> Result<Offered, Refused> {
        Offered::parse(text, references, &|reference| {
            let wanted = if reference.version == -1 { Wanted::Latest } else { Wanted::Number(reference.version) };
            let found = self.version(&reference.subject, wanted, Which::All).ok()?;
            Some((found.schema, found.references))
        })
    }

    /// The version of a subject that is this schema.
    pub(crate) fn find(&self, subject: &str, offered: &Offered, which: Which) -> Result<Registered, Refused> {
        let live = self.live(subject, which)?;
        let is_same = |id: &i32| {
            let known = self.schemas.get(id);
            known.is_some_and(|known| known.normal == offered.normal)
        };
        let found = live.iter().rev().find(|(_, id)| is_same(id));
        let (version, id) = found.ok_or(Refused::NoSchema)?;
        Ok(self.registered(subject, *version, *id))
    }

    /// Registers a schema: the id, and the fact to store unless it is registered already. `given` is the id and the
    /// version it has elsewhere; only a subject in mode `IMPORT` takes them.
    pub(crate) fn register(
        &self,
        subject: &str,
        offered: &Offered,
        given: (Option<i32>, Option<i32>),
    ) -> Result<(i32, Option<Fact>), Refused> {
        let mode = self.mode(subject);
        match mode {
            Mode::Readonly | Mode::ReadonlyOverride => return Err(self.not_writable(subject)),
            Mode::Readwrite if given.0.is_some() => {
                return Err(Refused::NotPermitted(format!("Subject '{subject}' is not in import mode")));
            }
            Mode::Readwrite | Mode::Import => {}
        }
        if let Ok(found) = self.find(subject, offered, Which::Live)
            && given.0.is_none_or(|id| id == found.id)
        {
            return Ok((found.id, None));
        }
        if mode == Mode::Readwrite {
            let level = self.level(subject);
            let live = self.live(subject, Which::Live).unwrap_or_default();
            let problems = self.problems(level, offered, level.relevant(&live))?;
            if !problems.is_empty() {
                return Err(Refused::Incompatible(subject.to_owned(), problems.join("; ")));
            }
        }
        let id = match given.0 {
            Some(id) => {
                let taken = self.schemas.get(&id).is_some_and(|known| known.normal != offered.normal);
                if taken {
                    let why = format!("Overwrite new schema with id {id} is not permitted.");
                    return Err(Refused::NotPermitted(why));
                }
                id
            }
            None => {
                let same = self.schemas.iter().find(|(_, known)| known.normal == offered.normal);
                same.map_or(self.next_id, |(id, _)| *id)
            }
        };
        let highest = self.subjects.get(subject).and_then(|all| all.last_key_value());
        let fact = Fact::Schema(SchemaValue {
            subject: subject.to_owned(),
            version: given.1.unwrap_or(highest.map_or(1, |(number, _)| number.saturating_add(1))),
            id,
            schema: offered.text.clone(),
            references: offered.references.clone(),
            deleted: false,
        });
        Ok((id, Some(fact)))
    }

    fn problems(&self, level: Level, offered: &Offered, old: &[(i32, i32)]) -> Result<Vec<String>, Refused> {
        let mut problems = Vec::new();
        for (version, id) in old {
            let (text, references) = self.schema(*id)?;
            let old = self.offer(text, references.to_vec())?;
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
                let version = self.version(subject, wanted, Which::Live)?;
                self.problems(level, offered, &[(version.version, version.id)])
            }
            None => {
                let live = self.live(subject, Which::Live).unwrap_or_default();
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

    fn not_writable(&self, subject: &str) -> Refused {
        Refused::NotPermitted(format!("Subject '{subject}' is in read-only mode"))
    }

    /// Mode that applies to a subject.
    pub(crate) fn mode(&self, subject: &str) -> Mode {
        match self.global_mode {
            Mode::ReadonlyOverride => Mode::ReadonlyOverride,
            global => self.modes.get(subject).copied().unwrap_or(global),
        }
    }

    /// Mode that applies where a subject has none of its own.
    pub(crate) fn global_mode(&self) -> Mode {
        self.global_mode
    }

    /// Mode of a subject's own.
    pub(crate) fn subject_mode(&self, subject: &str) -> Result<Mode, Refused> {
        let mode = self.modes.get(subject).copied();
        mode.ok_or_else(|| Refused::NoSubjectMode(subject.to_owned()))
    }

    /// Whether a mode may be set: importing into a place that holds schemas already must be forced.
    pub(crate) fn may_set_mode(&self, subject: Option<&str>, mode: Mode, force: bool) -> Result<(), Refused> {
        let is_empty = match subject {
            Some(subject) => self.live(subject, Which::Live).is_err(),
            None => self.subjects(Which::Live, "").is_empty(),
        };
        if mode == Mode::Import && !is_empty && !force {
            let why = "Cannot import since found existing subjects";
            return Err(Refused::NotPermitted(why.to_owned()));
        }
        Ok(())
    }

    /// Deletes one version or all of a subject: softly first, for good only after that. Returns the version numbers.
    pub(crate) fn delete(
        &self,
        subject: &str,
        wanted: Option<Wanted>,
        permanent: bool,
    ) -> Result<(Vec<i32>, Vec<Fact>), Refused> {
        if matches!(self.mode(subject), Mode::Readonly | Mode::ReadonlyOverride) {
            return Err(self.not_writable(subject));
        }
        let chosen = match wanted {
            None => self.all_to_delete(subject, permanent)?,
            Some(wanted) => vec![self.one_to_delete(subject, wanted, permanent)?],
        };
        if let Some((number, _)) = chosen.iter().find(|(number, _)| !self.referenced_by(subject, *number).is_empty()) {
            return Err(Refused::Referenced(subject.to_owned(), *number));
        }
        let mut facts = Vec::new();
        if permanent {
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
                    references: version.references,
                    deleted: true,
                })
            });
        }
        if wanted.is_none() {
            // What was set for the subject goes with it.
            let owned = || Some(subject.to_owned());
            let level = self.levels.contains_key(subject).then(|| Fact::Level { subject: owned(), level: None });
            let mode = self.modes.contains_key(subject).then(|| Fact::Mode { subject: owned(), mode: None });
            facts.extend(level.into_iter().chain(mode));
        }
        Ok((chosen.into_iter().map(|(number, _)| number).collect(), facts))
    }

    fn all_to_delete(&self, subject: &str, permanent: bool) -> Result<Vec<(i32, i32)>, Refused> {
        let all = self.live(subject, Which::All)?;
        let live = self.live(subject, Which::Live);
        match (permanent, live) {
            (true, Err(_)) => Ok(all),
            (true, Ok(_)) => Err(Refused::NotSoftDeleted(subject.to_owned())),
            (false, Err(_)) => Err(Refused::SoftDeleted(subject.to_owned())),
            (false, Ok(live)) => Ok(live),
        }
    }

    fn one_to_delete(&self, subject: &str, wanted: Wanted, permanent: bool) -> Result<(i32, i32), Refused> {
        let which = if wanted == Wanted::Latest && !permanent { Which::Live } else { Which::All };
        let found = self.version(subject, wanted, which)?;
        let number = found.version;
        match (permanent, self.subjects[subject][&number].deleted) {
            (true, false) => Err(Refused::VersionNotSoftDeleted(subject.to_owned(), number)),
            (false, true) => Err(Refused::VersionSoftDeleted(subject.to_owned(), number)),
            (true, true) | (false, false) => Ok((number, found.id)),
        }
    }
}
