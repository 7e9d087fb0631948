//! One run from its first event to its last: starts and ends processes, lets the world happen, then waits until all has
//! drained. Owns the order of a run; what must hold is in [`crate::checks`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use corosensei::CoroutineResult;
use millrace_runtime::{
    Grouping, ProcessorDefinition, ThreadError, TopicPartition, Topology, check_definitions, parse,
};
use millrace_schemas::{Codec, topics};

use crate::Outcome;
use crate::checks::{self, Reading};
use crate::disk::Damage;
use crate::plan::{Fault, LateRead, MS, Micros, Misfortune, Options, Plan, SECOND, stream};
use crate::process::{Make, Thread, start, start_standby};
use crate::shop::Shop;
use crate::world::{Asker, Event, Shared, Slot, ThreadId, World, trace};

/// A run that has not drained by then never will.
const DRAINED_BY: Micros = 4_000 * SECOND;
const LOOK_EVERY: Micros = 2 * SECOND;
/// Longer than a session: who sleeps has been told by then.
const AWAKE: Micros = 9 * SECOND;
/// Longer than any command is repeated.
const FENCE_MS: i64 = 400_000;
/// The same in simulated time.
const FENCES: Micros = FENCE_MS.unsigned_abs() * MS;
/// The processes start again at some time so long before the last of them run out.
const FENCES_LEFT: Micros = 60 * SECOND;
/// Fifty times what a run takes on the average; with a defect that lets it go on for ever it grows slower with each step.
const STEPS_MAX: u64 = 4_000_000;

pub(crate) struct Simulation {
    world: Shared,
    topology: Arc<Topology>,
    definitions: Vec<ProcessorDefinition>,
    threads: BTreeMap<ThreadId, Thread>,
    next_thread: u32,
    reading: Reading,
    /// Everything has drained, and the threads were asked to show what they hold.
    showing: bool,
    stage: Stage,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until all has drained.
    Shop,
    /// Everything was judged. Every process ends, and starts when some fences are overdue and others about to run out; then
    /// every process starts again and must hold the same.
    Epilogue,
}

/// The project's topology in the size the plan wants, with deadlines short enough to pass.
pub(crate) fn topology_of(plan: &Plan) -> (Topology, Vec<ProcessorDefinition>, Codec) {
    let codec = Codec::offline();
    let mut text = include_str!("../../topology.toml").to_owned();
    if plan.park {
        text = text.replace("on-poison = \"dead-letter\"", "on-poison = \"park\"");
    }
    let mut topology = parse(&text).expect("the project's topology is checked by its tests");
    let definitions = millrace_processors::definitions(&codec);
    check_definitions(&mut topology, &definitions).expect("the project's topology is checked by its tests");
    for topic in &mut topology.topics {
        topic.partitions = plan.partitions;
    }
    for sub in &mut topology.sub_topologies {
        sub.partitions = plan.partitions;
    }
    let engine = &mut topology.engine;
    engine.commit_records = plan.commit_records;
    engine.commit_latency_ms = plan.commit_latency_ms;
    engine.write_out_ms = plan.write_out_ms;
    engine.memtable_bytes = plan.memtable_bytes;
    engine.hand_over = plan.hand_over;
    engine.park_retry_ms = 200;
    engine.park_tries_max = 3;
    for processor in &mut topology.processors {
        for (name, value) in &mut processor.settings {
            match name.as_str() {
                "shipping_timeout_ms" => *value = 90_000,
                "delivery_timeout_ms" => *value = 60_000,
                "reservation_timeout_ms" | "payment_timeout_ms" | "cancel_timeout_ms" => *value = 4_000,
                "authorization_valid_ms" => *value = plan.authorization_valid_ms,
                "provider_ask_ms" => *value = 1_000,
                "fence_ttl_ms" => *value = FENCE_MS,
                _ => {}
            }
        }
    }
    let grouping = if plan.apart { Grouping::OnePerProcessor } else { Grouping::AsNamed };
    (topology.regrouped(grouping), definitions, codec)
}

impl Simulation {
    pub(crate) fn new(options: Options, traced: bool) -> Self {
        let plan = Plan::draw(options);
        let (topology, definitions, codec) = topology_of(&plan);
        let topology = Arc::new(topology);
        let shop = Shop::draw(&plan, &topology, &codec);
        let reading = Reading::new();
        let world = World::new(plan, topology.clone(), codec, shop, traced);
        Self {
            world: Rc::new(RefCell::new(world)),
            topology,
            definitions,
            threads: BTreeMap::new(),
            next_thread: 0,
            reading,
            showing: false,
            stage: Stage::Shop,
        }
    }

    pub(crate) fn run(mut self) -> Outcome {
        self.begin();
        loop {
            let event = self.world.borrow_mut().next_event();
            let Some(event) = event else { break };
            self.happen(event);
            let mut world = self.world.borrow_mut();
            self.reading.follow(&mut world);
            if !world.violations.is_empty() {
                break;
            }
            if world.steps > STEPS_MAX {
                let steps = world.steps;
                world.violate(format!("it goes on and on: {steps} steps"));
                break;
            }
            if self.showing && world.slots.values().all(|slot| !slot.inspect) {
                self.showing = false;
                if checks::is_all_held(&world) {
                    drop(world);
                    if self.judge() == Stage::Epilogue {
                        break;
                    }
                } else {
                    // Partitions were on their way from one to another.
                    world.held.clear();
                    world.after(LOOK_EVERY, Event::Look);
                }
            }
        }
        // Threads go before the world they are in.
        self.threads.clear();
        let mut world = self.world.borrow_mut();
        let promoted = world.processes.iter().map(|process| process.disk.promoted()).sum();
        world.coverage.count("copies promoted", promoted);
        Outcome {
            seed: world.plan.options.seed,
            violations: std::mem::take(&mut world.violations),
            trace: world.trace.take().unwrap_or_default(),
            digest: world.digest,
            orders: world.plan.orders,
            workers: world.plan.processes,
            steps: world.steps,
            simulated_ms: world.now / MS,
            coverage: std::mem::take(&mut world.coverage),
        }
    }

    fn begin(&mut self) {
        let mut world = self.world.borrow_mut();
        let world = &mut *world;
        let shop: Vec<_> = (0..).zip(world.shop.outside.iter().map(|outside| outside.at)).collect();
        // The shelves are filled before anybody sells: intake begins with the catalog as it finds it.
        for (number, at) in shop {
            if at == 0 {
                world.write_outside(number);
            } else {
                world.at(at, Event::Outside(number));
            }
        }
        for submit in 0..world.shop.submits.len() {
            world.at(world.shop.submits[submit].at, Event::Submit(submit));
        }
        for process in 0..world.plan.processes {
            let pause = world.rng.u64(0..400 * MS);
            world.after(pause, Event::Start(process));
        }
        for misfortune in world.plan.misfortunes.clone() {
            world.at(misfortune.at, Event::Misfortune(misfortune));
        }
        if world.plan.options.faults.has(Fault::FetchHeld) {
            for (number, late) in (0..).zip(world.plan.late_reads.clone()) {
                world.at(late.at, Event::LateRead(number));
            }
        }
        let calm_at = world.plan.calm_at;
        let mut rng = stream(world.plan.options.seed, "repeats", 0);
        for _ in 0..rng.usize(0..8) {
            world.at(rng.u64(2 * SECOND..calm_at), Event::RepeatCommand);
        }
        for (at, event) in [
            (0, Event::Tick),
            (0, Event::Warehouse),
            (SECOND, Event::SchemasLearned),
            (3 * SECOND, Event::SnapshotDisks),
            (SECOND, Event::Compact),
            (calm_at, Event::Look),
        ] {
            world.at(at, event);
        }
    }

    fn happen(&mut self, event: Event) {
        let mut world = self.world.borrow_mut();
        match event {
            Event::Resume(thread, ticket) => {
                if world.slots.get(&thread).is_none_or(|slot| slot.ticket != ticket) {
                    return;
                }
                if let Some(until) = world.asleep_until(thread) {
                    let pause = world.rng.u64(0..20 * MS);
                    return world.at(until + pause, Event::Resume(thread, ticket));
                }
                drop(world);
                self.resume(thread);
            }
            Event::Arrive(asker, request, back) => world.arrive(asker, request, back),
            Event::Answer(asker, reply) => match asker {
                Asker::Door(thread, number) => {
                    if let Some(slot) = world.slots.get_mut(&thread)
                        && slot.asked.remove(&number)
                    {
                        slot.replies.insert(number, reply);
                        world.wake(thread);
                    }
                }
                Asker::Ingress(flight) => world.ingress_hears(flight, &reply),
                Asker::Member(thread, sub, number) => match world.asleep_until(thread) {
                    Some(until) => {
                        let pause = world.rng.u64(0..200 * MS);
                        world.at(until + pause, Event::Answer(asker, reply));
                    }
                    None => world.member_reply(thread, sub, number, reply),
                },
            },
            Event::Timer(thread, sub, timer, round) => match world.asleep_until(thread) {
                Some(until) => {
                    let pause = world.rng.u64(0..200 * MS);
                    world.at(until + pause, Event::Timer(thread, sub, timer, round));
                }
                None => world.member_timer(thread, sub, timer, round),
            },
            Event::Tick => world.tick(),
            Event::Background(process) => {
                world.processes[process].background_due = false;
                world.processes[process].disk.run_one();
                world.background_soon(process);
            }
            Event::Call(thread, call, back) => world.provider_acts(thread, &call, back),
            Event::CallAnswer(thread, answer) => world.call_answered(thread, answer),
            Event::OppositeAnswer(thread, answer, until) => world.opposite_answers(thread, answer, until),
            Event::Misfortune(misfortune) => {
                drop(world);
                self.strike(misfortune);
            }
            Event::LateRead(number) => {
                let late = world.plan.late_reads[number];
                world.read_late(late);
            }
            Event::Compact => {
                self.reading.judge_running(&mut world);
                world.compact();
            }
            Event::Compacted(life) => world.put_compacted(life),
            Event::Submit(submit) => world.client_asks(submit),
            Event::ClientTires(submit, tries) => world.client_tires(submit, tries),
            Event::Submitted(submit, ingress) => world.submitted(submit, ingress),
            Event::OwnerAnswers(flight) => world.owner_answers(flight),
            Event::PublishSilent(flight, asked) => world.publish_silent(flight, asked),
            Event::ClientHears(submit, heard) => world.client_hears(submit, heard),
            Event::IngressStarts(ingress) => world.ingress_starts(ingress),
            Event::Start(process) => {
                drop(world);
                self.start_process(process);
            }
            Event::BrokerStarts => world.start_broker(),
            Event::DiskHasRoom(process) => world.processes[process].disk.set_full(false),
            Event::SnapshotDisks => {
                for process in &mut world.processes {
                    process.snapshot = Some(process.disk.copy());
                }
                if !world.calm {
                    let pause = world.rng.u64(2 * SECOND..12 * SECOND);
                    world.after(pause, Event::SnapshotDisks);
                }
            }
            Event::Outside(number) => world.write_outside(number),
            Event::Warehouse => world.warehouse_works(),
            Event::SchemasLearned => world.learn_schemas(),
            Event::Look => {
                drop(world);
                self.look();
            }
            Event::RepeatCommand => world.repeat_command(),
            Event::EndAll => {
                drop(world);
                self.end_all();
            }
            Event::StartAllAgain => {
                drop(world);
                self.start_all_again();
            }
        }
    }

    fn start_process(&mut self, process: usize) {
        let (threads, standby) = {
            let world = self.world.borrow();
            if world.slots.values().any(|slot| slot.process == process) {
                return;
            }
            (world.plan.threads, world.plan.standbys)
        };
        for number in 0..threads {
            self.start_thread(process, &format!("w{process}.{number}"), start);
        }
        if standby {
            self.start_thread(process, &format!("w{process}.s"), start_standby);
        }
    }

    fn start_thread(&mut self, process: usize, name: &str, start: fn(Make) -> Thread) {
        self.next_thread += 1;
        let thread = ThreadId(self.next_thread);
        let mut world = self.world.borrow_mut();
        let slot = Slot {
            process,
            name: name.to_owned(),
            ticket: 0,
            polling: false,
            replies: BTreeMap::new(),
            asked: std::collections::BTreeSet::new(),
            answers: Vec::new(),
            members: BTreeMap::new(),
            interests: std::collections::BTreeSet::new(),
            must_stop: false,
            inspect: false,
        };
        world.slots.insert(thread, slot);
        trace!(world, "{name:<5} starts");
        world.wake(thread);
        let make = Make {
            world: self.world.clone(),
            thread,
            process,
            topology: self.topology.clone(),
            definitions: self.definitions.clone(),
            threads: world.plan.threads + usize::from(world.plan.standbys),
        };
        self.threads.insert(thread, start(make));
    }

    fn resume(&mut self, thread: ThreadId) {
        let Some(coroutine) = self.threads.get_mut(&thread) else { return };
        let went = catch_unwind(AssertUnwindSafe(|| coroutine.resume(())));
        let ended = match went {
            Ok(CoroutineResult::Yield(())) => return,
            Ok(CoroutineResult::Return(ended)) => ended,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                let mut world = self.world.borrow_mut();
                let name = world.name_of(thread);
                return world.violate(format!("{name} panicked: {}", text.unwrap_or_default()));
            }
        };
        self.threads.remove(&thread);
        let mut world = self.world.borrow_mut();
        world.members_leave(thread);
        let Some(slot) = world.slots.remove(&thread) else { return };
        let (process, name) = (slot.process, slot.name);
        match ended {
            Ok(()) => trace!(world, "{name:<5} has stopped"),
            Err(ThreadError::Fenced(reason)) => {
                trace!(world, "{name:<5} is fenced and starts anew: {reason}");
                world.coverage.count("threads fenced", 1);
                drop(world);
                self.start_thread(process, &name, start);
            }
            Err(ThreadError::Stopped(reason)) => {
                trace!(world, "{name:<5} gives up: {reason}");
                world.coverage.count("processes that gave up", 1);
                if !reason.contains("recovery failed again and again") {
                    return world.violate(format!("{name} stopped: {reason}"));
                }
                let pause = world.rng.u64(SECOND..4 * SECOND);
                world.after(pause, Event::Start(process));
                drop(world);
                self.kill(process);
            }
        }
    }

    /// Ends every thread of a process, wherever it is.
    fn kill(&mut self, process: usize) {
        let of = self.world.borrow().threads_of(process);
        for thread in of {
            // Unwinds the coroutine; nothing in it may reach the world any more.
            self.threads.remove(&thread);
            self.world.borrow_mut().slots.remove(&thread);
        }
        self.world.borrow().processes[process].disk.crash();
    }

    fn strike(&mut self, misfortune: Misfortune) {
        let Misfortune { fault, process, lasts, .. } = misfortune;
        let mut world = self.world.borrow_mut();
        if world.calm {
            return;
        }
        let runs = world.slots.values().any(|slot| slot.process == process);
        // Milliseconds behind the others, or right.
        let set_back = fault == Fault::ClockSetBack;
        let behind = if set_back && world.rng.bool() { world.rng.i64(1_000..20_000) } else { 0 };
        match fault {
            Fault::ClockSetBack if world.processes[process].clock_ahead <= -behind => return,
            Fault::BrokerCrash => {
                if world.core.is_none() {
                    return;
                }
                world.shop.broker_rests = lasts;
                if world.rng.bool() {
                    let writes = world.rng.i64(0..12);
                    world.broker_disk.die_after(writes);
                } else {
                    world.broker_ends();
                }
            }
            Fault::ProcessCrash | Fault::DiskLost | Fault::DiskStale | Fault::DiskCorrupt | Fault::ClockSetBack => {
                if !runs {
                    return;
                }
                trace!(world, "w{process}    ends by {fault:?}");
                world.after(lasts, Event::Start(process));
                drop(world);
                self.kill(process);
                world = self.world.borrow_mut();
                let world = &mut *world;
                world.coverage.fired(fault);
                match fault {
                    Fault::ClockSetBack => world.processes[process].clock_ahead = -behind,
                    Fault::DiskLost => world.processes[process].disk.wipe(),
                    Fault::DiskStale => {
                        if let Some(copy) = world.processes[process].snapshot.clone() {
                            world.processes[process].disk.put_back(copy);
                        }
                    }
                    Fault::DiskCorrupt => {
                        let rng = &mut world.rng;
                        let kinds = [Damage::Positions, Damage::OpenState, Damage::Reads];
                        world.processes[process].disk.damage(|| rng.bool().then(|| kinds[rng.usize(..3)]));
                    }
                    _ => {}
                }
                return;
            }
            Fault::DiskFull => {
                world.processes[process].disk.set_full(true);
                world.after(lasts, Event::DiskHasRoom(process));
            }
            Fault::ProcessPaused => {
                if !runs {
                    return;
                }
                trace!(world, "w{process}    sleeps for {} ms", lasts / MS);
                let until = world.now + lasts;
                let process = &mut world.processes[process];
                process.paused_until = process.paused_until.max(until);
            }
            Fault::ProcessStopped => {
                if !runs {
                    return;
                }
                world.ask_to_stop(process);
                world.after(lasts, Event::Start(process));
            }
            Fault::FetchHeld => {
                let topology = world.topology.clone();
                let subs = topology.sub_topology_ids().map(|id| (id, topology.sub_topology(id)));
                let inputs: Vec<_> = subs
                    .flat_map(|(id, sub)| sub.inputs.iter().map(move |topic| (id, *topic, sub.partitions)))
                    .flat_map(|(id, topic, count)| {
                        (0..count).map(move |partition| (id, TopicPartition { topic, partition }))
                    })
                    .collect();
                let input = inputs[world.rng.usize(..inputs.len())];
                let until = world.now + lasts;
                world.fetches_held.insert(input, until);
            }
            Fault::ClockJump => {
                world.processes[process].clock_ahead += i64::try_from(lasts / MS).unwrap_or(0);
            }
            _ => return,
        }
        world.coverage.fired(fault);
    }

    /// No more faults; has everything drained?
    fn look(&mut self) {
        let mut world = self.world.borrow_mut();
        let world = &mut *world;
        if !world.calm {
            world.calm = true;
            trace!(world, "------------ no more faults ------------");
        }
        for process in 0..world.plan.processes {
            world.at(world.now, Event::Start(process));
        }
        if self.showing {
            return;
        }
        if (world.now > DRAINED_BY && self.stage == Stage::Shop) || world.now > 2 * DRAINED_BY {
            let what = self.reading.what_waits(world);
            self.reading.judge_running(world);
            return world.violate(format!("it does not drain: {what}"));
        }
        // Whoever slept does not know yet what it has lost.
        let asleep = world.processes.iter().any(|process| process.paused_until + AWAKE > world.now);
        if asleep && self.stage == Stage::Shop {
            return world.after(LOOK_EVERY, Event::Look);
        }
        let quiet = self.reading.judge_running(world) == 0 || self.stage == Stage::Epilogue;
        if quiet && world.calls_in_flight == 0 && self.reading.settled() && checks::is_drained(world) {
            trace!(world, "------------ everything has drained ------------");
            let threads: Vec<_> = world.slots.keys().copied().collect();
            for thread in threads {
                if let Some(slot) = world.slots.get_mut(&thread) {
                    slot.inspect = true;
                }
                world.wake_poll(thread);
            }
            self.showing = true;
            return;
        }
        world.after(LOOK_EVERY, Event::Look);
    }

    /// Gives the stage that was judged.
    fn judge(&mut self) -> Stage {
        let mut world = self.world.borrow_mut();
        let judged = self.stage;
        if judged == Stage::Shop {
            self.reading.judge(&mut world);
            self.stage = Stage::Epilogue;
            world.after(0, Event::EndAll);
            world.after(FENCES + 5 * SECOND, Event::StartAllAgain);
        }
        world.coverage.add(&self.reading.take_moves());
        checks::stores_equal_their_topics(&mut world, &self.definitions);
        world.held.clear();
        judged
    }

    /// Every process ends, one way or the other, and starts some time before the last fences run out.
    fn end_all(&mut self) {
        let processes = self.world.borrow().plan.processes;
        for process in 0..processes {
            let stops = self.world.borrow_mut().rng.bool();
            if stops {
                self.world.borrow_mut().ask_to_stop(process);
            } else {
                self.kill(process);
            }
            let mut world = self.world.borrow_mut();
            let pause = FENCES - world.rng.u64(0..FENCES_LEFT);
            world.after(pause, Event::Start(process));
        }
    }

    /// Every process ends and starts again, some on an empty disk.
    fn start_all_again(&mut self) {
        let processes = self.world.borrow().plan.processes;
        for process in 0..processes {
            self.kill(process);
            let mut world = self.world.borrow_mut();
            if world.rng.bool() {
                world.processes[process].disk.wipe();
            }
            let pause = world.rng.u64(0..SECOND);
            world.after(pause, Event::Start(process));
        }
        self.world.borrow_mut().after(3 * SECOND, Event::Look);
    }
}

impl World {
    /// See [`LateRead`].
    fn read_late(&mut self, late: LateRead) {
        let topology = self.topology.clone();
        let Some(sub) = topology.sub_topology_ids().find(|id| topology.sub_topology(*id).name == "fulfillment") else {
            return;
        };
        let place = |topic| {
            let topic = topology.find_topic(topic).expect("the topology has every topic of the schemas");
            (sub, TopicPartition { topic, partition: late.partition })
        };
        let until = self.now + late.lasts;
        self.fetches_held.insert(place(topics::ORDERS_ACCEPTED), until);
        self.fetches_halting.insert(place(topics::PAYMENTS_EVENTS), until);
        self.coverage.fired(Fault::FetchHeld);
    }

    fn threads_of(&self, process: usize) -> Vec<ThreadId> {
        self.slots.iter().filter(|(_, slot)| slot.process == process).map(|(id, _)| *id).collect()
    }

    /// Tells a process to end in good order.
    fn ask_to_stop(&mut self, process: usize) {
        trace!(self, "w{process}    is asked to stop");
        for thread in self.threads_of(process) {
            if let Some(slot) = self.slots.get_mut(&thread) {
                slot.must_stop = true;
            }
            self.wake_poll(thread);
        }
    }

    /// Runs what waits in the background, if something does.
    pub(crate) fn background_soon(&mut self, process: usize) {
        if !self.processes[process].background_due && self.processes[process].disk.has_waiting() {
            self.processes[process].background_due = true;
            let pause = self.rng.u64(0..200 * MS);
            self.after(pause, Event::Background(process));
        }
    }
}
