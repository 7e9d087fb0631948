//! The clients of the shop and the ingress they ask, over a road that loses. What a submit is, its id and its record are
//! the code of `ingress`; modelled here are two processes of it that end at any moment and forget what they remembered,
//! the producer under it, and clients that ask again under the same key until they have heard an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_ingress::{Accepted, IdempotencyKey, PublishError, Settings, Submits, Taken, Verdict, placed};
use millrace_runtime::{Headers, TopicPartition, partition_of};
use millrace_schemas::{OrderAccepted, OrderRejected, topics};
use serde_json::Value;

use crate::batches::{ANONYMOUS, Draft};
use crate::network::{Reply, Request};
use crate::plan::{Fault, MS, Micros, SECOND};
use crate::world::{Asker, Event, REQUEST_TIMEOUT, World, trace};

pub(crate) const INGRESSES: usize = 2;
/// How often, of a million, what passes between a client and the ingress is lost.
const LOST: u32 = 30_000;
/// How often, of a million, an ingress ends at a step of a submit.
const ENDS: u32 = 8_000;

/// A client that wants one order, or the same order again, or another one under a key that it has used.
#[derive(Clone, Debug)]
pub(crate) struct Submit {
    pub(crate) at: Micros,
    pub(crate) key: IdempotencyKey,
    pub(crate) order: String,
    pub(crate) body: Value,
    pub(crate) fault: Option<Fault>,
    /// Nobody ever sends another body under its key.
    pub(crate) alone: bool,
    /// How often it was asked.
    pub(crate) tries: u32,
    pub(crate) is_answered: bool,
}

/// What a client hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Accepted(Accepted),
    KeyReused,
    /// 409 or 503, or a connection refused: asks again.
    Again,
}

/// One process of the ingress.
pub(crate) struct Ingress {
    submits: Arc<Submits>,
    /// Counts its lives.
    life: u32,
    is_up: bool,
    next: u64,
    flights: BTreeMap<u64, Flight>,
}

/// A submit on its way through an ingress.
struct Flight {
    submit: usize,
    taken: Taken,
    fingerprint: String,
    to: TopicPartition,
    batch: Vec<u8>,
    since: Micros,
    /// How often the broker was asked.
    asked: u32,
}

/// A flight of a life of an ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlightId {
    pub(crate) ingress: usize,
    life: u32,
    pub(crate) number: u64,
}

impl Ingress {
    pub(crate) fn new() -> Self {
        let submits = Submits::new(Settings::default().remembered_max);
        Self { submits, life: 0, is_up: true, next: 0, flights: BTreeMap::new() }
    }
}

impl World {
    /// A client asks, for the first time or again.
    pub(crate) fn client_asks(&mut self, submit: usize) {
        let this = &mut self.shop.submits[submit];
        if this.is_answered {
            return;
        }
        this.tries += 1;
        let (tries, fault) = (this.tries, this.fault.filter(|_| this.tries == 1));
        if let Some(fault) = fault {
            self.coverage.fired(fault);
        }
        if tries > 1 {
            self.coverage.count("submits asked again", 1);
        }
        let patience = self.rng.u64(2 * SECOND..7 * SECOND);
        self.after(patience, Event::ClientTires(submit, tries));
        if self.strikes(Fault::SubmitLost, LOST) {
            return;
        }
        let ingress = self.rng.usize(..INGRESSES);
        let there = self.rng.u64(MS..40 * MS);
        self.after(there, Event::Submitted(submit, ingress));
    }

    /// No answer for long: was it the last time it asked?
    pub(crate) fn client_tires(&mut self, submit: usize, tries: u32) {
        if self.shop.submits[submit].tries == tries {
            self.client_asks(submit);
        }
    }

    /// A submit has reached an ingress.
    pub(crate) fn submitted(&mut self, submit: usize, ingress: usize) {
        if !self.ingresses[ingress].is_up || self.ingress_ends(ingress) {
            return self.reply(submit, Heard::Again);
        }
        let now_ms = self.now_ms();
        let this = &self.shop.submits[submit];
        let (id, order) = match placed(&this.body, &this.key, &Settings::default(), now_ms) {
            Ok(placed) => placed,
            Err(problem) => return self.violate(format!("order {}: its form is refused: {problem:?}", this.order)),
        };
        let fingerprint = order.fingerprint();
        let Some(taken) = Taken::claim(&self.ingresses[ingress].submits, id, fingerprint.clone()) else {
            return self.reply(submit, Heard::Again);
        };
        let mut value = Vec::new();
        self.codec.encode(topics::ORDERS_PLACED, &order, &mut value);
        let topic = self.topology.find_topic(topics::ORDERS_PLACED).expect("the topology has the topic");
        let key = order.order_id.as_bytes();
        let to = TopicPartition { topic, partition: partition_of(key, self.topology.topic(topic).partitions) };
        let mut draft = Draft::default();
        draft.push(now_ms, Some(key), Some(&value), &Headers::new());
        let batch = draft.seal(ANONYMOUS);
        let since = self.now;
        let gate = &mut self.ingresses[ingress];
        gate.next += 1;
        let id = FlightId { ingress, life: gate.life, number: gate.next };
        gate.flights.insert(id.number, Flight { submit, taken, fingerprint, to, batch, since, asked: 0 });
        let pause = self.rng.u64(MS..20 * MS);
        self.after(pause, Event::OwnerAnswers(id));
    }

    /// The order's owner was asked whether it is known; it may be behind, or silent.
    pub(crate) fn owner_answers(&mut self, id: FlightId) {
        if self.ingress_ends(id.ingress) {
            return;
        }
        let Some((submit, taken)) = self.flight(id).map(|flight| (flight.submit, &flight.taken)) else { return };
        let order = &self.shop.submits[submit].order;
        let behind = self.now.is_multiple_of(4);
        let known = if behind { None } else { self.known_fingerprint(order) };
        let verdict = taken.judge(known.as_deref());
        trace!(self, "ingress {} takes   {order} as {verdict:?}", id.ingress);
        match verdict {
            Verdict::Publish => self.publish(id),
            Verdict::Repetition => self.lands(id, Heard::Accepted(Accepted::Repeated)),
            Verdict::OtherBody => self.lands(id, Heard::KeyReused),
        }
    }

    fn flight(&self, id: FlightId) -> Option<&Flight> {
        let gate = &self.ingresses[id.ingress];
        gate.flights.get(&id.number).filter(|_| gate.life == id.life)
    }

    /// What intake said of an order: as much as tracking may know of it.
    fn known_fingerprint(&self, order: &str) -> Option<String> {
        let read = |name| {
            let topic = self.topology.find_topic(name)?;
            let partition = partition_of(order.as_bytes(), self.topology.topic(topic).partitions);
            let records = self.all_records(TopicPartition { topic, partition });
            records.into_iter().find(|record| record.key.as_deref() == Some(order.as_bytes()))?.value
        };
        let accepted = read(topics::ORDERS_ACCEPTED).and_then(|value| self.codec.decode::<OrderAccepted>(&value).ok());
        let rejected =
            || read(topics::ORDERS_REJECTED).and_then(|value| self.codec.decode::<OrderRejected>(&value).ok());
        accepted.map(|order| order.fingerprint).or_else(|| Some(rejected()?.fingerprint))
    }

    fn publish(&mut self, id: FlightId) {
        if self.ingress_ends(id.ingress) {
            return;
        }
        let Some(flight) = self.ingresses[id.ingress].flights.get_mut(&id.number) else { return };
        flight.asked += 1;
        let (asked, to, batch) = (flight.asked, flight.to, flight.batch.clone());
        let place = millrace_broker::core::TopicPartition::new(&*self.topology.topic(to.topic).name, to.partition);
        self.send(Asker::Ingress(id), Request::Produce { batches: vec![(place, batch)] });
        self.after(REQUEST_TIMEOUT, Event::PublishSilent(id, asked));
    }

    /// No answer of the broker for so long: was it the last time it was asked?
    pub(crate) fn publish_silent(&mut self, id: FlightId, asked: u32) {
        let Some(flight) = self.flight(id).filter(|flight| flight.asked == asked) else { return };
        let patience = u64::try_from(Settings::default().publish_timeout.as_micros()).unwrap_or(0);
        if self.now < flight.since + patience {
            return self.publish(id);
        }
        self.published(id, Err(PublishError::NotAcknowledged));
    }

    /// The broker has answered an ingress.
    pub(crate) fn ingress_hears(&mut self, id: FlightId, reply: &Reply) {
        let Some(asked) = self.flight(id).map(|flight| flight.asked) else { return };
        match reply {
            Reply::Produced(places) if places.iter().all(Result::is_ok) => self.published(id, Ok(())),
            _ => self.after(100 * MS, Event::PublishSilent(id, asked)),
        }
    }

    fn published(&mut self, id: FlightId, outcome: Result<(), PublishError>) {
        if self.ingress_ends(id.ingress) {
            return;
        }
        let Some(flight) = self.ingresses[id.ingress].flights.remove(&id.number) else { return };
        let heard = flight.taken.published(outcome).map_or(Heard::Again, Heard::Accepted);
        self.tell(flight.submit, &flight.fingerprint, heard);
    }

    fn lands(&mut self, id: FlightId, heard: Heard) {
        let Some(flight) = self.ingresses[id.ingress].flights.remove(&id.number) else { return };
        self.tell(flight.submit, &flight.fingerprint, heard);
    }

    /// Whoever is told that an order is taken may rely on it, also when the answer is lost.
    fn tell(&mut self, submit: usize, fingerprint: &str, heard: Heard) {
        let order = self.shop.submits[submit].order.clone();
        match heard {
            Heard::Accepted(accepted) => {
                let what = if accepted == Accepted::New { "submits taken" } else { "submits taken before" };
                self.coverage.count(what, 1);
                self.shop.taken.push((order, fingerprint.to_owned()));
            }
            Heard::KeyReused if self.shop.submits[submit].alone => {
                self.violate(format!("order {order}: a repetition passed for another body"));
            }
            Heard::KeyReused => self.coverage.count("submits of another body refused", 1),
            Heard::Again => {}
        }
        self.reply(submit, heard);
    }

    fn reply(&mut self, submit: usize, heard: Heard) {
        if self.strikes(Fault::SubmitAnswerLost, LOST) {
            return;
        }
        let pause = self.rng.u64(MS..40 * MS);
        self.after(pause, Event::ClientHears(submit, heard));
    }

    pub(crate) fn client_hears(&mut self, submit: usize, heard: Heard) {
        if heard == Heard::Again {
            let pause = self.rng.u64(300 * MS..2 * SECOND);
            let tries = self.shop.submits[submit].tries;
            return self.after(pause, Event::ClientTires(submit, tries));
        }
        self.shop.submits[submit].is_answered = true;
    }

    /// Now and then an ingress ends, and with it all that it remembers.
    fn ingress_ends(&mut self, ingress: usize) -> bool {
        if !self.strikes(Fault::IngressCrash, ENDS) {
            return false;
        }
        trace!(self, "ingress {ingress} ends");
        let life = self.ingresses[ingress].life + 1;
        self.ingresses[ingress] = Ingress { life, is_up: false, ..Ingress::new() };
        let pause = self.rng.u64(100 * MS..4 * SECOND);
        self.after(pause, Event::IngressStarts(ingress));
        true
    }

    pub(crate) fn ingress_starts(&mut self, ingress: usize) {
        self.ingresses[ingress].is_up = true;
    }
}
