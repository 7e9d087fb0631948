//! Sees what becomes of the orders, as any reader would: `orders.events` and `orders.rejected`, `read_committed`. Owns
//! when each order was first decided; never takes a contender's word for anything.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use millrace_schemas::topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::load::Clock;
use crate::workload::number_of;

/// When an order was decided and how long that took from the time it was meant to be sent, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) number: u32,
    pub(crate) at: u64,
    pub(crate) took: u64,
    /// It was confirmed, not cancelled or refused.
    pub(crate) confirmed: bool,
}

/// What became of the orders so far.
#[derive(Default)]
struct Seen {
    decided: Mutex<Vec<Decided>>,
    count: AtomicU64,
    confirmed: AtomicU64,
    /// Decided a second time: what must never happen.
    again: AtomicU64,
    stop: AtomicBool,
}

/// Reads along, on a thread of its own.
pub(crate) struct Watch {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

const CALL: Duration = Duration::from_secs(30);

impl Watch {
    /// Reads from the beginning of the topics.
    pub(crate) fn start(client: &ClientConfig, run: u16, clock: Arc<Clock>, orders: usize) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = client
            .clone()
            .set("group.id", "bench.watch")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "10")
            .set("queued.max.messages.kbytes", "16384")
            .create()?;
        let mut from = TopicPartitionList::new();
        for topic in [topics::ORDERS_EVENTS, topics::ORDERS_REJECTED] {
            let metadata = consumer.fetch_metadata(Some(topic), CALL).context("the broker does not answer")?;
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                from.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
            }
        }
        consumer.assign(&from)?;
        let seen = Arc::new(Seen::default());
        let reader = seen.clone();
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || reader.read(&consumer, run, &clock, orders))?;
        Ok(Self { seen, thread: Some(thread) })
    }

    /// How many orders were decided.
    pub(crate) fn count(&self) -> u64 {
        self.seen.count.load(Ordering::Relaxed)
    }

    /// How many of them were confirmed.
    pub(crate) fn confirmed(&self) -> u64 {
        self.seen.confirmed.load(Ordering::Relaxed)
    }

    /// How many were decided twice.
    pub(crate) fn again(&self) -> u64 {
        self.seen.again.load(Ordering::Relaxed)
    }

    /// The decided orders from this place on.
    pub(crate) fn since(&self, place: usize) -> Vec<Decided> {
        self.lock().get(place..).unwrap_or_default().to_vec()
    }

    /// How many [`Watch::since`] 0 would give.
    pub(crate) fn place(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Decided>> {
        self.seen.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Seen {
    fn read(&self, consumer: &BaseConsumer, run: u16, clock: &Clock, orders: usize) {
        let mut known = vec![false; orders];
        while !self.stop.load(Ordering::Relaxed) {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
            let Some(number) = message.key().and_then(|key| number_of(run, key)) else { continue };
            let outcome = match message.topic() {
                topics::ORDERS_REJECTED => Some(Outcome::Refused),
                _ => message.payload().and_then(outcome_of),
            };
            let (Some(outcome), Some(known)) = (outcome, known.get_mut(number as usize)) else { continue };
            if std::mem::replace(known, true) {
                // An order that was confirmed may be cancelled later; no other word may come twice.
                self.again.fetch_add(u64::from(outcome == Outcome::Confirmed), Ordering::Relaxed);
                continue;
            }
            let at = clock.now();
            let took = at.saturating_sub(clock.intended(number).unwrap_or(at));
            self.decided.lock().unwrap_or_else(PoisonError::into_inner).push(Decided {
                number,
                at,
                took,
                confirmed: outcome == Outcome::Confirmed,
            });
            self.confirmed.fetch_add(u64::from(outcome == Outcome::Confirmed), Ordering::Relaxed);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What an order came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Confirmed,
    Cancelled,
    Refused,
}

/// Of the bytes of an `OrderEvent`: only its first two fields are read, the id and what happened.
fn outcome_of(value: &[u8]) -> Option<Outcome> {
    const FRAME: usize = 5;
    let mut rest = value.get(FRAME..)?;
    let length = usize::try_from(varint(&mut rest)?).ok()?;
    rest = rest.get(length..)?;
    match varint(&mut rest)? {
        CONFIRMED => Some(Outcome::Confirmed),
        CANCELLED => Some(Outcome::Cancelled),
        _ => None,
    }
}

/// Places of the symbols in `OrderEventKind`.
const CONFIRMED: i64 = 3;
const CANCELLED: i64 = 12;

fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use millrace_schemas::{AvroRecord, Codec, OrderEvent, OrderEventKind};
    use serde_json::json;

    use super::*;

    fn event(kind: &str) -> Vec<u8> {
        let json = json!({
            "order_id": "o-1", "kind": kind, "status": "CONFIRMED", "version": 3, "customer_id": "c", "payment": "AUTHORIZED",
            "captured_minor": 0, "groups": [], "progress": [], "shipped_minor": 0, "shipments": [], "cancel_wanted": false,
            "delivered": false, "waits_for": "WAREHOUSE", "detail": "", "at": 1,
        });
        let mut bytes = Vec::new();
        Codec::offline().encode(topics::ORDERS_EVENTS, &OrderEvent::from_json(&json).unwrap(), &mut bytes);
        bytes
    }

    /// The short cut says what the codec says, for every kind there is.
    #[test]
    fn an_outcome_is_read_without_decoding_the_rest() {
        for kind in OrderEventKind::ALL {
            let expected = match kind {
                OrderEventKind::Confirmed => Some(Outcome::Confirmed),
                OrderEventKind::Cancelled => Some(Outcome::Cancelled),
                _ => None,
            };
            assert_eq!(outcome_of(&event(kind.as_str())), expected, "{kind:?}");
        }
    }

    #[test]
    fn what_is_no_event_has_no_outcome() {
        let whole = event("CONFIRMED");
        for length in 0..12.min(whole.len()) {
            assert!(matches!(outcome_of(&whole[..length]), None | Some(Outcome::Confirmed)));
        }
        assert_eq!(outcome_of(b""), None);
        assert_eq!(outcome_of(&[0, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), None);
    }
}
