//! A stream thread of a simulated process: the production loop in a coroutine, with the doors of the world. Owns how it
//! starts and how it ends; never what it does.

use std::sync::Arc;
use std::time::Duration;

use corosensei::{Coroutine, Yielder};
use millrace_runtime::{
    Answer, BrokerError, Call, Caller, Clock, Parts, ProcessorDefinition, Report, StandbyParts, StandbyThread,
    StreamThread, ThreadError, Timestamp, Topology,
};

use crate::client::{Line, SimBroker, SimReader};
use crate::plan::{Micros, SECOND};
use crate::world::{Shared, ThreadId, trace};

/// Longest wait of a thread with nothing to do.
const IDLE: Duration = Duration::from_millis(800);
/// A standby thread keeps the same copies for so long.
const CHOSEN_FOR: Micros = 8 * SECOND;

/// A stream thread between two of its steps.
pub(crate) type Thread = Coroutine<(), (), Result<(), ThreadError>>;

struct ProcessClock {
    world: Shared,
    process: usize,
}

impl Clock for ProcessClock {
    fn now(&self) -> Timestamp {
        let world = self.world.borrow();
        world.now_ms() + world.processes[self.process].clock_ahead
    }
}

struct ProcessCaller {
    world: Shared,
    thread: ThreadId,
}

impl Caller for ProcessCaller {
    fn start(&mut self, calls: Vec<Call>) {
        let mut world = self.world.borrow_mut();
        calls.into_iter().for_each(|call| world.call(self.thread, call));
    }

    fn answers(&mut self, answers: &mut Vec<Answer>) {
        if let Some(slot) = self.world.borrow_mut().slots.get_mut(&self.thread) {
            answers.append(&mut slot.answers);
        }
    }
}

/// What a thread is made of.
#[derive(Clone)]
pub(crate) struct Make {
    pub(crate) world: Shared,
    pub(crate) thread: ThreadId,
    pub(crate) process: usize,
    pub(crate) topology: Arc<Topology>,
    pub(crate) definitions: Vec<ProcessorDefinition>,
    pub(crate) threads: usize,
}

/// A thread that has not begun.
pub(crate) fn start(make: Make) -> Thread {
    Coroutine::new(move |yielder: &Yielder<(), ()>, ()| live(make, yielder))
}

/// A thread of standby copies that has not begun.
pub(crate) fn start_standby(make: Make) -> Thread {
    Coroutine::new(move |yielder: &Yielder<(), ()>, ()| {
        keep_copies(&make, yielder);
        Ok(())
    })
}

fn keep_copies(make: &Make, yielder: &Yielder<(), ()>) {
    let storage = make.world.borrow().processes[make.process].disk.clone();
    let mut thread = StandbyThread::new(StandbyParts {
        topology: make.topology.clone(),
        definitions: make.definitions.clone(),
        reader: SimReader::new(Line::new(make.world.clone(), make.thread, yielder)),
        storage: Box::new(storage),
        clock: Box::new(ProcessClock { world: make.world.clone(), process: make.process }),
        threads: make.threads,
    });
    let subs = make.topology.sub_topology_ids().map(|id| (id, make.topology.sub_topology(id).partitions));
    let all: Vec<_> = subs.flat_map(|(id, count)| (0..count).map(move |partition| (id, partition))).collect();
    let mut chosen_at = None;
    loop {
        {
            let mut world = make.world.borrow_mut();
            // What it shall copy changes as members come and go.
            if chosen_at.is_none_or(|at| world.now > at + CHOSEN_FOR) {
                chosen_at = Some(world.now);
                let wanted = all.iter().filter(|_| world.rng.bool()).copied().collect();
                drop(world);
                thread.keep(wanted);
            }
        }
        thread.turn(IDLE);
        let report = thread.take_report();
        let mut world = make.world.borrow_mut();
        for note in &report.notes {
            trace!(world, "{:<5} says    {}", world.name_of(make.thread), note.text);
        }
        world.coverage.count("records copied", report.applied);
        world.background_soon(make.process);
        let Some(slot) = world.slots.get_mut(&make.thread) else { return };
        slot.inspect = false;
        if slot.must_stop {
            drop(world);
            return thread.close();
        }
    }
}

fn live(make: Make, yielder: &Yielder<(), ()>) -> Result<(), ThreadError> {
    let hosted: Vec<_> = make.topology.sub_topology_ids().collect();
    let broker = loop {
        let line = Line::new(make.world.clone(), make.thread, yielder);
        match SimBroker::connect(line, &hosted) {
            Err(BrokerError::Retry(_)) => {}
            Err(error) => return Err(ThreadError::Stopped(error.to_string())),
            Ok(broker) => break broker,
        }
    };
    let storage = make.world.borrow().processes[make.process].disk.clone();
    let mut thread = StreamThread::new(Parts {
        topology: make.topology.clone(),
        definitions: make.definitions.clone(),
        sub_topologies: hosted,
        broker,
        storage: Box::new(storage),
        clock: Box::new(ProcessClock { world: make.world.clone(), process: make.process }),
        caller: Box::new(ProcessCaller { world: make.world.clone(), thread: make.thread }),
        threads: make.threads,
    });
    loop {
        let turn = thread.turn(IDLE);
        // As the worker does: a turn without work says nothing.
        if turn.as_ref().map_or(true, |turn| turn.handled > 0 || turn.committed) || thread.has_notes() {
            note(&make, &thread.take_report());
        }
        turn?;
        let (stop, inspect) = {
            let mut world = make.world.borrow_mut();
            world.background_soon(make.process);
            let slot = world.slots.get_mut(&make.thread);
            slot.map_or((false, false), |slot| (slot.must_stop, std::mem::take(&mut slot.inspect)))
        };
        if inspect {
            show(&make, &thread)?;
        }
        if stop {
            let closed = thread.close();
            note(&make, &thread.take_report());
            return closed;
        }
    }
}

fn note(make: &Make, report: &Report) {
    let mut world = make.world.borrow_mut();
    for note in &report.notes {
        trace!(world, "{:<5} says    {}", world.name_of(make.thread), note.text);
    }
    let coverage = &mut world.coverage;
    coverage.count("commits", report.commits);
    coverage.count("aborts", report.aborts);
    coverage.count("producers replaced", report.recreated);
    for (moved, times) in &report.moves {
        coverage.task_moved(*moved, *times);
    }
    coverage.count("records handed over", report.handed_over);
    coverage.count("foreign records between", report.strangers);
    coverage.count("records restored", report.restored);
    coverage.count("stores rebuilt", report.rebuilt);
    coverage.count("records processed", report.processed.values().sum());
    coverage.count("dead letters", report.dead_letters.values().sum());
    coverage.count("records parked", report.parked.values().sum());
    coverage.count("deadlines", report.deadlines.values().sum());
    coverage.count("calls", report.calls.values().sum());
    coverage.count("answers", report.answers.values().sum());
}

/// Lays open what every task that runs here holds.
fn show(make: &Make, thread: &StreamThread<SimBroker<'_>>) -> Result<(), ThreadError> {
    for (task, state) in thread.tasks() {
        if state != millrace_runtime::TaskState::Running {
            continue;
        }
        let definition =
            &make.definitions.iter().find(|definition| definition.name == make.topology.processor(task.processor).name);
        let Some(definition) = definition else { continue };
        for store in &definition.stores {
            let mut held = std::collections::BTreeMap::new();
            thread
                .scan(definition.name, store.name, task.partition, &mut |key, value| {
                    held.insert(key.to_vec(), value.to_vec());
                    true
                })
                .map_err(ThreadError::Stopped)?;
            let place = (definition.name.to_owned(), store.name.to_owned(), task.partition);
            make.world.borrow_mut().held.insert(place, held);
        }
    }
    Ok(())
}
