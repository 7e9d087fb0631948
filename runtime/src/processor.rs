//! What a processor is: tables it reads, records it emits, deadlines and calls that follow from its state.
//! Never how that reaches a broker or a disk.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::record::{Record, Timestamp};
use crate::step::Step;

/// A decision maker for one partition of its inputs. Pure: everything it may know comes in with the call.
pub trait Processor: Send {
    /// A record of one of the inputs. Tables over that input already hold it.
    ///
    /// # Errors
    /// A [`Failure`]; then nothing of this step was done.
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome;

    /// The deadline of a state has passed. The state must change so that the deadline moves or goes, or it fires again.
    ///
    /// # Errors
    /// As [`Processor::process`].
    fn on_deadline(&mut self, due: &Due<'_>, step: &mut Step<'_>) -> Outcome {
        let _ = step;
        Err(Failure::fatal(format!("a deadline of store {} is due, but this processor has none", due.store)))
    }

    /// The answer to the call that a state has open. Never given for a call the state no longer has.
    ///
    /// # Errors
    /// As [`Processor::process`].
    fn on_answer(&mut self, answer: &Answered<'_>, step: &mut Step<'_>) -> Outcome {
        let _ = step;
        Err(Failure::fatal(format!("call {} was answered, but this processor makes none", answer.id)))
    }
}

/// A state whose deadline has passed.
#[derive(Clone, Copy, Debug)]
pub struct Due<'a> {
    /// Index of the store, as in [`ProcessorDefinition::stores`].
    pub store: usize,
    /// Key of the state.
    pub key: &'a [u8],
    /// When it was due.
    pub deadline: Timestamp,
}

/// An answered call.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// Index of the store, as in [`ProcessorDefinition::stores`].
    pub store: usize,
    /// Key of the state that asked.
    pub key: &'a [u8],
    /// Id of the call, as [`CallRequest::id`].
    pub id: &'a str,
    /// What was answered.
    pub response: &'a [u8],
}

/// What came of one record, deadline or answer.
pub type Outcome = Result<(), Failure>;

/// Why a step could not be done, named by what happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The record can never be processed: it goes where the processor's policy says (dead letters, parked, stop).
    Poison(String),
    /// It cannot be processed yet (a writer schema is being fetched): the partition waits, then it is tried again.
    NotYet(String),
    /// Local state cannot be read: the task's stores are rebuilt.
    Storage(String),
    /// An invariant is broken: the process stops and says so.
    Fatal(String),
}

impl Failure {
    /// A [`Failure::Poison`].
    pub fn poison(reason: impl Into<String>) -> Self {
        Self::Poison(reason.into())
    }

    /// A [`Failure::Fatal`].
    pub fn fatal(reason: impl Into<String>) -> Self {
        Self::Fatal(reason.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poison(reason) => write!(f, "cannot be processed: {reason}"),
            Self::NotYet(reason) => write!(f, "cannot be processed yet: {reason}"),
            Self::Storage(reason) => write!(f, "local state cannot be read: {reason}"),
            Self::Fatal(reason) => write!(f, "invariant broken: {reason}"),
        }
    }
}

impl std::error::Error for Failure {}

/// A processor as the engine needs to know it. Wiring (inputs, outputs, which topic a store is a table of) and numbers
/// stand in `topology.toml`; both must name the same stores, tables and settings.
#[derive(Clone)]
pub struct ProcessorDefinition {
    /// Its name in the topology.
    pub name: &'static str,
    /// Its stores; [`Step`] names them by their place here.
    pub stores: Vec<StoreDefinition>,
    /// Topics it reads in full, every partition, into memory; [`Step::global`] names them by their place here.
    pub globals: Vec<GlobalDefinition>,
    /// Names of the numbers it needs from the topology's `settings`.
    pub settings: &'static [&'static str],
    /// Makes the processor of one task.
    pub build: Build,
}

/// Makes the processor of one task.
pub type Build = Arc<dyn Fn(&TaskContext) -> Box<dyn Processor> + Send + Sync>;
/// What a state leaves open, from its key and value: asked of every state that is committed, so it reads the value once.
pub type OpenOf = fn(key: &[u8], value: &[u8]) -> Open;

/// What a state leaves open; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// When somebody must look at it again.
    pub deadline: Option<Timestamp>,
    /// The external request it calls for.
    pub call: Option<CallRequest>,
    /// What it waits in, one of a few names, and since when: told to people, never acted upon.
    pub waiting: Option<(&'static str, Timestamp)>,
}

/// A state store of a processor.
#[derive(Clone)]
pub struct StoreDefinition {
    /// Its name in the topology.
    pub name: &'static str,
    /// The topics it is a table of: outputs or inputs of the processor, co-partitioned with it. Empty: the store has a
    /// changelog topic of its own, `<processor>-<store>-changelog`, and is written with [`Step::put`].
    pub tables: Vec<TableDefinition>,
    /// What the bytes of its states depend on: the schema they are written in and the version of the fold. A store on
    /// disk of another format is emptied and rebuilt from its topics instead of being misread, so change this with
    /// either. Of a store with a changelog of its own, the changelog holds the same bytes: there, what was written
    /// before must stay readable.
    pub format: String,
    /// What its states leave open; none where no state ever leaves anything.
    pub open: Option<OpenOf>,
}

/// A topic read as a table: how a record changes the value of its key.
#[derive(Clone)]
pub struct TableDefinition {
    /// The topic.
    pub topic: &'static str,
    /// What the record makes of the value before it. Must be pure.
    pub fold: Fold,
}

/// A topic read in full by a processor: a table of all its partitions.
#[derive(Clone)]
pub struct GlobalDefinition {
    /// The topic and its fold.
    pub table: TableDefinition,
    /// As [`StoreDefinition::format`]: the table is kept on disk, too.
    pub format: String,
}

/// What a record makes of the value of its key.
pub type Fold = Arc<dyn Fn(&Record<'_>, Option<&[u8]>) -> Result<Change, Failure> + Send + Sync>;

/// A change of one key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The value stays as it is.
    Keep,
    /// The value is this.
    Put(Vec<u8>),
    /// The key goes.
    Delete,
}

/// An external request, as a state calls for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRequest {
    /// Deterministic: the same state gives the same id, another request another.
    pub id: String,
    /// What is asked, in the form the caller reads.
    pub request: Vec<u8>,
}

/// What a processor may know of its place when it is built.
#[derive(Clone, Debug, Default)]
pub struct TaskContext {
    /// Its partition.
    pub partition: i32,
    /// Partition counts of every topic of the topology, by name.
    pub partitions: BTreeMap<String, i32>,
    /// The processor's numbers from the topology.
    pub settings: BTreeMap<String, i64>,
}

impl TaskContext {
    /// A number of the topology. The topology is checked against [`ProcessorDefinition::settings`] before any task is
    /// built.
    ///
    /// # Panics
    /// When the processor asks for a number it did not declare.
    #[must_use]
    pub fn setting(&self, name: &str) -> i64 {
        *self.settings.get(name).unwrap_or_else(|| panic!("setting {name} is not among the declared settings"))
    }

    /// How many partitions a topic has.
    ///
    /// # Panics
    /// When the topology has no such topic.
    #[must_use]
    pub fn partitions_of(&self, topic: &str) -> i32 {
        *self.partitions.get(topic).unwrap_or_else(|| panic!("the topology has no topic {topic}"))
    }
}
