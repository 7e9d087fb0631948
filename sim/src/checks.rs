//! What must hold. After every step: what must hold at any moment, as soon as a record is visible that breaks it. When a
//! run has drained: the audit of every topic, nothing left open at the broker, every position at its end, every store what
//! its topics say. Never changes the world, but for writing down what does not hold.

use std::collections::BTreeMap;

use millrace_audit::{Audit, Phase, ProviderEntry};
use millrace_broker::core::{FetchedOffset, Isolation, TopicPartition as Place};
use millrace_processors::stock::state::ReservationState;
use millrace_processors::stock::stored::read_reservation;
use millrace_runtime::{
    Change, InputRecord, Offset, Origin, ProcessorDefinition, Record, Topic, TopicId, TopicPartition, Topology,
};
use millrace_schemas::{
    Codec, OrderEvent, OrderPlaced, OrderStatus, PaymentEvent, PaymentState, StockEvent, StockEventKind, topics,
};

use crate::coverage::Coverage;
use crate::plan::Fault;
use crate::shop;
use crate::world::{World, trace};

const READ_AT_ONCE: usize = 2_000;

/// Names the check that a violation is by: its words, or the audit's promise. What is judged by the same check has the same
/// name.
#[must_use]
pub fn check_of(violation: &str) -> &str {
    const WORDS: [&str; 13] = [
        "is there twice",
        "does not drain",
        "goes on and on",
        "panicked",
        "granted after it was released",
        "is not what its topics say",
        "no thread holds it",
        "took effect before",
        "is not on its topic",
        "its form is refused",
        "passed for another body",
        "does not start again",
        "stopped",
    ];
    let words = WORDS.into_iter().find(|words| violation.contains(words));
    words.unwrap_or_else(|| violation.split(':').next().unwrap_or_default())
}

/// Topic, partition and key of a record that somebody outside wrote.
type Source = (String, i32, Vec<u8>);

/// The audit, reading along: after every step it has read whatever committed record there is.
pub(crate) struct Reading {
    audit: Audit,
    at: BTreeMap<TopicPartition, Offset>,
    codec: Codec,
    known: std::collections::BTreeSet<String>,
    /// Orders as they were placed, by id and the body's fingerprint.
    placed: std::collections::BTreeSet<(String, String)>,
    /// Ids of events, which follow from their causes: one cause has one effect.
    ids: std::collections::HashSet<(TopicId, Vec<u8>)>,
    twice: Vec<String>,
    /// What each record of an order's inputs led to, by topic, partition and key: its offset, and when.
    effects: BTreeMap<Source, Vec<(Offset, i64)>>,
    /// Records that went to the dead letters, the same way.
    letters: Vec<(Source, Offset, i64)>,
    /// Reservations that were released, by order, attempt and stock partition.
    released: std::collections::BTreeSet<(String, i32, i32)>,
    payments: BTreeMap<Vec<u8>, PaymentState>,
    orders: BTreeMap<Vec<u8>, OrderStatus>,
    reservations: BTreeMap<(i32, Vec<u8>), ReservationState>,
    moves: Coverage,
    /// Records that were read since it was last judged what must hold at any moment.
    unjudged: usize,
}

impl Reading {
    pub(crate) fn new() -> Self {
        // It knows every schema from the start: it does not wait for a registry.
        let codec = Codec::offline();
        shop::teach(&codec);
        Self {
            audit: Audit::new(codec.clone()),
            at: BTreeMap::new(),
            codec,
            known: std::collections::BTreeSet::new(),
            placed: std::collections::BTreeSet::new(),
            ids: std::collections::HashSet::new(),
            twice: Vec::new(),
            effects: BTreeMap::new(),
            letters: Vec::new(),
            released: std::collections::BTreeSet::new(),
            payments: BTreeMap::new(),
            orders: BTreeMap::new(),
            reservations: BTreeMap::new(),
            moves: Coverage::default(),
            unjudged: 0,
        }
    }

    /// Reads what has just become visible, and says at once what must not be at any moment.
    pub(crate) fn follow(&mut self, world: &mut World) {
        if world.advanced.is_empty() {
            return;
        }
        for at in std::mem::take(&mut world.advanced) {
            self.read_on(world, at);
        }
        if !self.twice.is_empty() || self.audit.breaks_a_promise() {
            self.judge_running(world);
        }
    }

    /// Reads what is new of a partition.
    fn read_on(&mut self, world: &World, at: TopicPartition) {
        let topic = world.topology.topic(at.topic);
        let mut next = self.at.get(&at).copied().unwrap_or(0);
        loop {
            let (records, after) = world.fetch(at, next, READ_AT_ONCE);
            for record in &records {
                self.read(topic, at, record);
            }
            self.unjudged += records.len();
            if after == next {
                break;
            }
            next = after;
        }
        self.at.insert(at, next);
    }

    fn read(&mut self, topic: &Topic, at: TopicPartition, record: &InputRecord) {
        let key = record.key.as_deref().unwrap_or_default();
        let id = record.headers.iter().find(|(name, _)| name == "ce_id").map(|(_, id)| id);
        if let Some(id) = id
            && !self.ids.insert((at.topic, id.clone()))
        {
            let id = String::from_utf8_lossy(id);
            let place = format!("{}-{} offset {}", topic.name, at.partition, record.offset);
            self.twice.push(format!("{place}: the event {id} is there twice"));
        }
        // A record that is parked behind another of its key stands in a changelog, and has had no effect yet.
        if topic.origin == Origin::Named
            && let Some((from, partition, offset)) = id.and_then(|id| cause_of(id))
        {
            let place = (from.to_owned(), partition, key.to_vec());
            self.effects.entry(place).or_default().push((offset, record.timestamp));
        }
        if topic.origin == Origin::DeadLetters {
            self.read_letter(key, record);
        }
        let value = record.value.as_deref();
        let seen = millrace_audit::Record {
            offset: record.offset,
            timestamp: record.timestamp,
            key,
            value,
            headers: &record.headers,
        };
        self.audit.record(&topic.name, at.partition, &seen);
        if topic.name.ends_with("-reservations-changelog") {
            let to = value.and_then(read_reservation).map(|reservation| reservation.state);
            let from = match to {
                Some(state) => self.reservations.insert((at.partition, key.to_vec()), state),
                None => self.reservations.remove(&(at.partition, key.to_vec())),
            };
            // What is neither was an adjustment.
            if from.or(to).is_some() {
                self.moves.reservation_moved(from, to);
            }
        }
        if let Some(value) = value {
            self.read_value(&topic.name, key, value);
        }
    }

    fn read_letter(&mut self, key: &[u8], record: &InputRecord) {
        let header = |wanted: &str| {
            let found = record.headers.iter().find(|(name, _)| name == wanted);
            found.and_then(|(_, value)| std::str::from_utf8(value).ok())
        };
        let number = |wanted| header(wanted).and_then(|text| text.parse::<i64>().ok());
        if let (Some(from), Some(partition), Some(offset)) =
            (header("millrace.topic"), number("millrace.partition"), number("millrace.offset"))
        {
            let partition = i32::try_from(partition).unwrap_or(-1);
            let place = (from.to_owned(), partition, key.to_vec());
            self.letters.push((place, offset, record.timestamp));
        }
    }

    fn read_value(&mut self, topic: &str, key: &[u8], value: &[u8]) {
        match topic {
            topics::PAYMENTS_EVENTS => {
                let Ok(event) = self.codec.decode::<PaymentEvent>(value) else { return };
                let from = self.payments.insert(key.to_vec(), event.state).unwrap_or_default();
                self.moves.payment_moved(from, event.state);
            }
            topics::ORDERS_EVENTS => {
                let Ok(event) = self.codec.decode::<OrderEvent>(value) else { return };
                let from = self.orders.insert(key.to_vec(), event.status).unwrap_or_default();
                self.moves.order_moved(from, event.status);
            }
            topics::STOCK_EVENTS => {
                let Ok(event) = self.codec.decode::<StockEvent>(value) else { return };
                let group = (event.order_id, event.attempt, event.stock_partition);
                match event.kind {
                    StockEventKind::Released => drop(self.released.insert(group)),
                    StockEventKind::Reserved if self.released.contains(&group) => {
                        self.twice.push(format!("order {}: granted after it was released", group.0));
                    }
                    _ => {}
                }
            }
            topics::ORDERS_PLACED => {
                let Ok(order) = self.codec.decode::<OrderPlaced>(value) else { return };
                self.placed.insert((order.order_id.clone(), order.fingerprint()));
                self.known.insert(order.order_id);
            }
            _ => {}
        }
    }

    pub(crate) fn settled(&self) -> bool {
        self.audit.settled()
    }

    /// What must hold at any moment; gives how many records were read since it was last judged.
    pub(crate) fn judge_running(&mut self, world: &mut World) -> usize {
        for twice in std::mem::take(&mut self.twice) {
            world.violate(twice);
        }
        self.tell(world, Phase::Running);
        std::mem::take(&mut self.unjudged)
    }

    fn tell(&mut self, world: &mut World, phase: Phase) {
        let report = self.audit.report(phase);
        for verdict in report.promises.iter().filter(|verdict| !verdict.holds) {
            for example in verdict.examples.iter().take(3) {
                world.violate(format!(
                    "audit {}: {} at {}-{} offset {}: {}",
                    verdict.promise, example.subject, example.topic, example.partition, example.offset, example.what
                ));
            }
        }
    }

    /// What moved since it was last asked.
    pub(crate) fn take_moves(&mut self) -> Coverage {
        std::mem::take(&mut self.moves)
    }

    /// For a run that does not drain.
    pub(crate) fn what_waits(&self, world: &World) -> String {
        let (orders, pending) = self.audit.progress();
        let mut what = format!("{pending} of {orders} orders have not ended, {} calls are open", world.calls_in_flight);
        for line in undrained(world).into_iter().take(6) {
            what.push_str("; ");
            what.push_str(&line);
        }
        what
    }

    pub(crate) fn judge(&mut self, world: &mut World) {
        for entry in world.provider.ledger() {
            self.audit.provider(&ProviderEntry {
                order_id: entry.order_id,
                currency: entry.currency,
                authorized_minor: entry.authorized_minor,
                captured_minor: entry.captured_minor,
                voided_minor: entry.voided_minor,
                refunded_minor: entry.refunded_minor,
                authorizations: entry.authorizations,
                captures: entry.captures,
                live: u32::from(entry.live),
            });
        }
        self.tell(world, Phase::Settled);
        // Where clocks differ, times say nothing of the order.
        let clocks = [Fault::ClockJump, Fault::ClockSetBack];
        if !clocks.iter().any(|fault| world.coverage.faults.contains_key(fault)) {
            for (place, offset, at) in &self.letters {
                let later = self.effects.get(place).into_iter().flatten();
                if let Some((overtook, _)) = later.into_iter().find(|(other, when)| other > offset && when < at) {
                    let (topic, partition, key) = place;
                    let key = String::from_utf8_lossy(key);
                    world.violate(format!(
                        "{topic}-{partition}: offset {overtook} of key {key} took effect before offset {offset} was settled"
                    ));
                }
            }
        }
        for twice in std::mem::take(&mut self.twice) {
            world.violate(twice);
        }
        for (order, fingerprint) in std::mem::take(&mut world.shop.taken) {
            if !self.placed.contains(&(order.clone(), fingerprint)) {
                world.violate(format!("order {order}: the ingress said that it has it, and it is not on its topic"));
            }
        }
        for order in world.shop.acknowledged.clone() {
            if !self.known.contains(&order) {
                world.violate(format!("order {order} was acknowledged and is not on its topic"));
            }
        }
    }
}

/// The record an event follows from, by its id: topic, partition, offset. `None` where it follows from something else.
fn cause_of(id: &[u8]) -> Option<(&str, i32, Offset)> {
    let mut parts = std::str::from_utf8(id).ok()?.split('/');
    let topic = parts.next()?;
    let (partition, offset) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let of_an_order =
        [topics::ORDERS_PLACED, topics::ORDERS_CANCEL_REQUESTED, topics::SHIPMENTS_UPDATES].contains(&topic);
    of_an_order.then_some((topic, partition, offset))
}

fn all_partitions(topology: &Topology) -> Vec<TopicPartition> {
    (0..)
        .zip(&topology.topics)
        .flat_map(|(topic, spec)| {
            (0..spec.partitions).map(move |partition| TopicPartition { topic: TopicId(topic), partition })
        })
        .collect()
}

/// Whether no transaction is open and every group has read its inputs to their ends.
pub(crate) fn is_drained(world: &World) -> bool {
    undrained(world).is_empty()
}

fn undrained(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    let asking = world.shop.submits.iter().filter(|submit| !submit.is_answered).count();
    if asking > 0 {
        left.push(format!("{asking} clients still ask the ingress"));
    }
    let coming = world.shop.outside.iter().filter(|outside| !outside.is_settled).count();
    if coming > 0 {
        left.push(format!("{coming} records from outside are still to be written"));
    }
    let Some(core) = &world.core else { return vec!["the broker is down".into()] };
    for at in all_partitions(&world.topology) {
        let name = &world.topology.topic(at.topic).name;
        let end = |isolation| core.latest_offset(name, at.partition, isolation).unwrap_or(-1);
        let (stable, end) = (end(Isolation::ReadCommitted), end(Isolation::ReadUncommitted));
        if stable != end {
            left.push(format!("{name}-{} is stable up to {stable} of {end}", at.partition));
        }
    }
    for at in all_partitions(&world.topology) {
        let topic = world.topology.topic(at.topic);
        if topic.origin == Origin::Changelog && topic.name.ends_with("-parked-changelog") {
            let mut parked: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
            for record in world.all_records(at) {
                parked.insert(record.key.unwrap_or_default(), record.value.is_some());
            }
            if parked.values().any(|is_parked| *is_parked) {
                left.push(format!("{}-{}: records are parked", topic.name, at.partition));
            }
        }
    }
    // Who believes that it owns what another does is powerless, but what it holds says nothing.
    let mut generations: BTreeMap<&str, Option<i32>> = BTreeMap::new();
    for member in world.slots.values().flat_map(|slot| slot.members.values()) {
        let (group, generation) = member.at_rest();
        let known = generations.entry(group).or_insert(generation);
        if generation.is_none() || *known != generation {
            *known = None;
        }
    }
    let unsettled = generations.iter().filter(|(_, generation)| generation.is_none());
    left.extend(unsettled.map(|(group, _)| format!("group {group} has members that are not in its generation")));
    for id in world.topology.sub_topology_ids() {
        let sub = world.topology.sub_topology(id);
        let group = world.topology.group(id);
        for (topic, partition) in sub.inputs.iter().flat_map(|topic| (0..sub.partitions).map(move |p| (*topic, p))) {
            let at = TopicPartition { topic, partition };
            let name = &world.topology.topic(topic).name;
            let next = match core.fetch_offset(&group, &Place::new(&**name, partition), false) {
                FetchedOffset::Committed(offset) => offset.offset,
                FetchedOffset::None | FetchedOffset::Unstable => 0,
            };
            let (records, _) = world.fetch(at, next, 1);
            if !records.is_empty() {
                left.push(format!("group {group} stands at {next} of {name}-{partition}, and there is more"));
            }
        }
    }
    left
}

/// Whether every store of every task was shown by some thread.
pub(crate) fn is_all_held(world: &World) -> bool {
    let topology = &world.topology;
    topology.processors.iter().all(|spec| {
        let partitions = spec.inputs.first().map_or(0, |topic| topology.topic(*topic).partitions);
        spec.stores
            .iter()
            .filter(|store| store.name != "parked")
            .all(|store| (0..partitions).all(|p| world.held.contains_key(&(spec.name.clone(), store.name.clone(), p))))
    })
}

/// Compares every store of every task key by key with the fold of its topics.
pub(crate) fn stores_equal_their_topics(world: &mut World, definitions: &[ProcessorDefinition]) {
    let topology = world.topology.clone();
    for spec in &topology.processors {
        let Some(definition) = definitions.iter().find(|definition| definition.name == spec.name) else { continue };
        for (store, wiring) in definition.stores.iter().zip(&spec.stores) {
            let leading = spec.inputs.first().map_or(0, |topic| topology.topic(*topic).partitions);
            for partition in 0..leading {
                let mut wanted: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
                for topic in wiring.tables.iter().chain(&wiring.changelog) {
                    let name = &topology.topic(*topic).name;
                    let fold = store.tables.iter().find(|table| *table.topic == **name).map(|table| &table.fold);
                    let at = TopicPartition { topic: *topic, partition };
                    for record in world.all_records(at) {
                        let key = record.key.clone().unwrap_or_default();
                        let change = match fold {
                            Some(fold) => {
                                let before = wanted.get(&key).map(Vec::as_slice);
                                fold(&Record::of(name, partition, &record), before).unwrap_or(Change::Keep)
                            }
                            None => record.value.clone().map_or(Change::Delete, Change::Put),
                        };
                        match change {
                            Change::Keep => {}
                            Change::Put(value) => {
                                wanted.insert(key, value);
                            }
                            Change::Delete => {
                                wanted.remove(&key);
                            }
                        }
                    }
                }
                let place = format!("{}-{}-{partition}", spec.name, wiring.name);
                let held = world.held.remove(&(spec.name.clone(), store.name.to_owned(), partition));
                match held {
                    None => world.violate(format!("store {place}: no thread holds it")),
                    Some(held) if held != wanted => {
                        let keys = wanted.keys().chain(held.keys());
                        let key = keys.into_iter().find(|key| wanted.get(*key) != held.get(*key));
                        let key = key.cloned().unwrap_or_default();
                        for (what, of) in [("topics say", &wanted), ("is held", &held)] {
                            let value = of.get(&key).map(|value| value.escape_ascii().to_string());
                            trace!(world, "{place}: {what} {}", value.unwrap_or_else(|| "nothing".into()));
                        }
                        let key = String::from_utf8_lossy(&key).into_owned();
                        world.violate(format!("store {place} is not what its topics say, for one at key {key}"));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
