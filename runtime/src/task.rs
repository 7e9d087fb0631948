//! A task: one processor on one partition, with its stores. And the partition of a sub-topology, whose tasks share their
//! inputs' positions and so live and restore together. Owns the life cycle; never talks to a broker.
//!
//! ```text
//!             positions known          caught up
//!   Created ───────────────▶ Restoring ────────▶ Running
//!      ▲                         │                  │
//!      └───────── aborted ───────┴──────────────────┘
//!   any ── revoked, lost, stopped ──▶ Closed
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use crate::io::{Disk, Storage, StorageError};
use crate::planted;
use crate::processor::{GlobalDefinition, Processor, ProcessorDefinition, StoreDefinition};
use crate::record::{InputRecord, Offset, ProcessorId, SubTopologyId, TaskId, Timestamp, TopicId, TopicPartition};
use crate::step::Undo;
use crate::store::Store;
use crate::topology::Topology;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TaskState {
    /// Its stores are open; where its inputs stand is not known (any more).
    Created,
    /// Its stores are catching up with their topics; its inputs are paused.
    Restoring,
    /// It processes.
    Running,
    /// It is gone.
    Closed,
}

impl TaskState {
    /// Every allowed move.
    pub const TRANSITIONS: &'static [(Self, Self)] = &[
        (Self::Created, Self::Restoring),
        (Self::Restoring, Self::Running),
        (Self::Restoring, Self::Created),
        (Self::Running, Self::Created),
        (Self::Created, Self::Closed),
        (Self::Restoring, Self::Closed),
        (Self::Running, Self::Closed),
    ];
}

/// One processor on one partition.
pub(crate) struct Task {
    pub(crate) id: TaskId,
    pub(crate) definition: Arc<ProcessorDefinition>,
    pub(crate) processor: Box<dyn Processor>,
    pub(crate) stores: Vec<Store>,
    /// Place of the store of parked records, where the policy is to park.
    pub(crate) parked: Option<usize>,
    pub(crate) undo: Vec<Undo>,
    pub(crate) letters: DeadLetterWindow,
    pub(crate) processed: u64,
    /// How old the records were that it handled since the last report, milliseconds; bounded.
    pub(crate) ages_ms: Vec<u32>,
    pub(crate) newest: Timestamp,
}

/// How many dead letters this minute has seen.
#[derive(Default)]
pub(crate) struct DeadLetterWindow {
    since: Timestamp,
    count: u64,
    /// Of these, in the open transaction.
    uncommitted: u64,
}

impl DeadLetterWindow {
    /// Counts one; gives how many this minute has seen.
    pub(crate) fn add(&mut self, now: Timestamp) -> u64 {
        if now - self.since >= 60_000 {
            *self = Self { since: now, ..Self::default() };
        }
        self.count += 1;
        self.uncommitted += 1;
        self.count
    }

    /// The transaction stands, and its letters with it.
    pub(crate) fn committed(&mut self) {
        self.uncommitted = 0;
    }

    /// The transaction is gone: its letters were never written, and will be counted when they are.
    pub(crate) fn dropped(&mut self) {
        self.count = self.count.saturating_sub(std::mem::take(&mut self.uncommitted));
    }
}

/// Gives the disk of a store by its name; `None` to a standby copy while a task has it.
pub(crate) type OpenDisk<'a> = &'a mut dyn FnMut(&str) -> Result<Option<Arc<dyn Disk>>, StorageError>;

/// Opens a store of a task on the disk that `open` gives for its name, and says why it was emptied, if it was: what
/// cannot be trusted is rebuilt from its topics. `None` where no disk is given.
///
/// # Errors
/// [`StorageError`]: it can neither be used nor emptied.
pub(crate) fn open_store(
    topology: &Topology,
    definition: &ProcessorDefinition,
    id: TaskId,
    place: usize,
    open: OpenDisk<'_>,
) -> Result<Option<(Store, Option<String>)>, StorageError> {
    let spec = topology.processor(id.processor);
    let wiring = &spec.stores[place];
    let parking = crate::parking::definition();
    let of = definition.stores.get(place).unwrap_or(&parking);
    let name = format!("{}-{}-{}", spec.name, wiring.name, id.partition);
    let Some(disk) = open(&name)? else { return Ok(None) };
    open_trusted(topology, name, &disk, of, wiring.ttl_ms).map(Some)
}

/// Opens the store that a processor's global table is kept in, as [`open_store`] does.
///
/// # Errors
/// [`StorageError`]: it can neither be used nor emptied.
pub(crate) fn open_global(
    topology: &Topology,
    definition: &ProcessorDefinition,
    place: usize,
    storage: &dyn Storage,
) -> Result<(Store, Option<String>), StorageError> {
    let GlobalDefinition { table, format } = &definition.globals[place];
    let name = format!("{}-{}-all", definition.name, table.topic);
    let of = StoreDefinition { name: table.topic, tables: Vec::new(), format: format.clone(), open: None };
    let disk = storage.open(&name)?;
    open_trusted(topology, name, &disk, &of, None)
}

fn open_trusted(
    topology: &Topology,
    name: String,
    disk: &Arc<dyn Disk>,
    definition: &StoreDefinition,
    ttl_ms: Option<i64>,
) -> Result<(Store, Option<String>), StorageError> {
    let find = |name: &str| topology.find_partition(name);
    let store = || Store::open(name.clone(), disk.clone(), definition, ttl_ms, &find);
    match store() {
        Ok(opened) => Ok((opened, None)),
        Err(error @ StorageError::Corrupt { .. }) => {
            disk.clear()?;
            Ok((store()?, Some(format!("{error}: it is emptied and rebuilt from its topics"))))
        }
        Err(error) => Err(error),
    }
}

impl Task {
    /// Takes back what the current record did.
    pub(crate) fn roll_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            self.stores[undo.store].undo(&undo.key, undo.before);
        }
    }
}

/// One partition of a sub-topology on this thread: its tasks, and where its inputs stand.
pub(crate) struct AssignedPartition {
    pub(crate) sub_topology: SubTopologyId,
    pub(crate) partition: i32,
    state: TaskState,
    /// Whether the broker already reads for it (an assignment is accepted once).
    pub(crate) started: bool,
    pub(crate) tasks: Vec<Task>,
    /// Where each input stands; none while that is not known.
    pub(crate) inputs: Vec<Input>,
    /// Whether the group never committed a position of one.
    pub(crate) never_committed: bool,
    /// What the stores still lack: task, store, topic, and the position to reach.
    pub(crate) needs: Vec<Need>,
    /// Records taken from the broker that wait for something ([`crate::Failure::NotYet`]), in order.
    pub(crate) backlog: VecDeque<(TopicId, InputRecord)>,
    pub(crate) retry_at: Timestamp,
    pub(crate) restored: u64,
}

/// One input of a partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub(crate) topic: TopicId,
    /// Its next offset: everything below it has been handled.
    pub(crate) position: Offset,
    pub(crate) source: Source,
}

/// Where the records of an input come from.
///
/// ```text
///            caught up                   its records wait, or a stranger wrote
///   Broker ───────────▶ Memory ──────────────────────────────▶ Returning ──────────▶ Broker
///                                                              transaction ended
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The broker's reader gives them.
    Broker,
    /// The tasks of this thread that write them; the broker's reader is paused. Everything below `given` was given.
    Memory { given: Offset },
    /// As before until the transaction has ended; then the broker's reader goes on from `given`.
    Returning { given: Offset },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) task: usize,
    pub(crate) store: usize,
    pub(crate) from: TopicPartition,
    pub(crate) until: Offset,
}

impl AssignedPartition {
    pub(crate) fn new(sub_topology: SubTopologyId, partition: i32, tasks: Vec<Task>) -> Self {
        Self {
            sub_topology,
            partition,
            state: TaskState::Created,
            started: false,
            tasks,
            inputs: Vec::new(),
            never_committed: false,
            needs: Vec::new(),
            backlog: VecDeque::new(),
            retry_at: 0,
            restored: 0,
        }
    }

    pub(crate) fn state(&self) -> TaskState {
        self.state
    }

    /// Gives the move that was made.
    ///
    /// # Panics
    /// When the life cycle does not allow the move: an engine in an unknown state must not go on.
    pub(crate) fn enter(&mut self, next: TaskState) -> (TaskState, TaskState) {
        assert!(
            TaskState::TRANSITIONS.contains(&(self.state, next)),
            "partition {} of sub-topology {} cannot go from {:?} to {next:?}",
            self.partition,
            self.sub_topology.0,
            self.state
        );
        (std::mem::replace(&mut self.state, next), next)
    }

    /// One of its inputs, once its position is known.
    pub(crate) fn input_mut(&mut self, topic: TopicId) -> Option<&mut Input> {
        self.inputs.iter_mut().find(|input| input.topic == topic)
    }

    /// The next offset of an input.
    pub(crate) fn position(&self, topic: TopicId) -> Option<Offset> {
        self.inputs.iter().find(|input| input.topic == topic).map(|input| input.position)
    }

    /// Where the inputs stand, for a commit.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = (TopicPartition, Offset)> {
        let partition = self.partition;
        self.inputs.iter().map(move |input| (TopicPartition { topic: input.topic, partition }, input.position))
    }

    pub(crate) fn task_mut(&mut self, processor: ProcessorId) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|task| task.id.processor == processor)
    }

    /// Drops everything uncommitted.
    pub(crate) fn drop_uncommitted(&mut self) {
        self.backlog.clear();
        for input in &mut self.inputs {
            input.source = Source::Broker;
        }
        for task in &mut self.tasks {
            task.undo.clear();
            task.letters.dropped();
            for store in &mut task.stores {
                if planted::is(planted::Defect::OverlayKept) {
                    continue;
                }
                store.drop_overlay();
            }
        }
    }
}
