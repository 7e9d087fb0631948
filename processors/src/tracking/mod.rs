//! The readable order and its history. Decides nothing: it folds the events of an order for readers, in whatever order
//! they come, each once.
//!
//! [`OrderView`] is what people are shown; [`stored`] is how it is kept.

mod stored;
#[cfg(test)]
mod tests;
mod view;

use std::borrow::Cow;
use std::sync::Arc;

use millrace_runtime::{
    Change, Failure, Outcome, Processor, ProcessorDefinition, Record, Step, StoreDefinition, TableDefinition,
};
use millrace_schemas::{
    AvroRecord, Codec, Field, OrderAccepted, OrderEvent, OrderRejected, PaymentEvent, RejectReason, topics,
};

use crate::wire::{self, Wire};
pub use stored::HISTORY_MAX;
use stored::{Line, Source, Stored};
pub use view::{Amount, Happened, Line as OrderLine, OrderView, Payment, Status, Unreadable};

/// Tracking, as the engine needs to know it.
#[must_use]
pub fn definition(codec: &Codec) -> ProcessorDefinition {
    let wire = Wire::new(codec);
    ProcessorDefinition {
        name: "tracking",
        stores: vec![StoreDefinition {
            name: "orders-view",
            tables: vec![
                table::<OrderAccepted>(&wire, topics::ORDERS_ACCEPTED, accepted),
                table::<OrderRejected>(&wire, topics::ORDERS_REJECTED, rejected),
                table::<PaymentEvent>(&wire, topics::PAYMENTS_EVENTS, payment),
                table::<OrderEvent>(&wire, topics::ORDERS_EVENTS, order),
            ],
            format: format!(
                "view {} {} {} {} {}",
                stored::FORMAT,
                OrderAccepted::schema_fingerprint(),
                OrderRejected::schema_fingerprint(),
                PaymentEvent::schema_fingerprint(),
                OrderEvent::schema_fingerprint()
            ),
            open: None,
        }],
        globals: Vec::new(),
        settings: &[],
        build: Arc::new(|_| Box::new(Tracking)),
    }
}

struct Tracking;

impl Processor for Tracking {
    /// The table has taken the record in already, and nothing else follows.
    fn process(&mut self, _: &Record<'_>, _: &mut Step<'_>) -> Outcome {
        Ok(())
    }
}

/// An event on its way into a view.
struct Event<'a> {
    order_id: &'a str,
    source: Source,
    /// Its place among the events of its source, from 1; 0 for one that changes nothing but the history.
    version: i64,
    at: i64,
    event: Cow<'a, str>,
    detail: Cow<'a, str>,
    datum: Cow<'a, [u8]>,
}

fn accepted<'a>(topic: &str, datum: &'a [u8]) -> Result<Event<'a>, Failure> {
    let mut order = wire::fields::<OrderAccepted>(topic, datum)?;
    order.payment_method = Field::EMPTY; // nobody is shown it
    let mut shown = Vec::with_capacity(datum.len());
    OrderAccepted::encode_fields(&order, &mut shown);
    Ok(Event {
        order_id: order.order_id.text(),
        source: Source::Accepted,
        version: 1,
        at: order.accepted_at.get(),
        event: "order.accepted".into(),
        detail: "".into(),
        datum: shown.into(),
    })
}

/// A refused duplicate is told in the history and changes nothing of the order that holds the id.
fn rejected<'a>(topic: &str, datum: &'a [u8]) -> Result<Event<'a>, Failure> {
    let order = wire::fields::<OrderRejected>(topic, datum)?;
    let duplicate = order.reason.get() == RejectReason::ConflictingDuplicate;
    let reason = order.reason.get().as_str().to_ascii_lowercase();
    Ok(Event {
        order_id: order.order_id.text(),
        source: Source::Rejected,
        version: if duplicate { 0 } else { 1 },
        at: order.rejected_at.get(),
        event: if duplicate { "order.duplicate_refused" } else { "order.rejected" }.into(),
        detail: match order.detail.text() {
            "" => reason.into(),
            detail => format!("{reason}: {detail}").into(),
        },
        datum: datum.into(),
    })
}

fn payment<'a>(topic: &str, datum: &'a [u8]) -> Result<Event<'a>, Failure> {
    let payment = wire::fields::<PaymentEvent>(topic, datum)?;
    let detail = payment.detail.text();
    Ok(Event {
        order_id: payment.order_id.text(),
        source: Source::Payment,
        version: payment.version.get().max(0),
        at: payment.at.get(),
        event: named("payment.", payment.kind.get().as_str()).into(),
        detail: match payment.decline_code.text() {
            Some(code) if detail.is_empty() => code.into(),
            Some(code) => format!("{detail}: {code}").into(),
            None => detail.into(),
        },
        datum: datum.into(),
    })
}

fn order<'a>(topic: &str, datum: &'a [u8]) -> Result<Event<'a>, Failure> {
    let order = wire::fields::<OrderEvent>(topic, datum)?;
    Ok(Event {
        order_id: order.order_id.text(),
        source: Source::Order,
        version: order.version.get().max(0),
        at: order.at.get(),
        event: named("order.", order.kind.get().as_str()).into(),
        detail: order.detail.text().into(),
        datum: datum.into(),
    })
}

/// Such as `order.confirmed`.
fn named(of: &str, kind: &str) -> String {
    let mut name = String::with_capacity(of.len() + kind.len());
    name.push_str(of);
    name.push_str(kind);
    name.make_ascii_lowercase();
    name
}

/// Makes an event of the datum of a record of this topic.
type FromDatum = for<'a> fn(&str, &'a [u8]) -> Result<Event<'a>, Failure>;

/// A topic folded into the views. Its tombstones are passed over: a view is forgotten by its time to live.
fn table<T: AvroRecord + 'static>(wire: &Wire, topic: &'static str, event: FromDatum) -> TableDefinition {
    let wire = wire.clone();
    TableDefinition {
        topic,
        fold: Arc::new(move |record, before| {
            if record.value.is_none() {
                return Ok(Change::Keep);
            }
            let datum = wire.datum::<T>(record)?;
            let event = event(topic, &datum)?;
            wire::key_is(record, event.order_id)?;
            let stored = match before {
                None => Stored::empty(),
                Some(value) => Stored::read(value).ok_or_else(|| {
                    Failure::Storage(format!("the stored view of order {:?} cannot be read", event.order_id))
                })?,
            };
            Ok(folded(stored, &event).map_or(Change::Keep, Change::Put))
        }),
    }
}

/// The view after the event; `None` when it is in there already.
fn folded<'a>(mut stored: Stored<'a>, event: &'a Event<'_>) -> Option<Vec<u8>> {
    if event.version > 0 && !stored.replace(event.source, event.version, &event.datum) {
        return None;
    }
    let noted = stored.note(Line::new(event.at, event.source, event.version, &event.event, &event.detail));
    (noted || event.version > 0).then(|| stored.write())
}
