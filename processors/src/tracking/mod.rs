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
    AvroRecord, Codec, OrderAccepted, OrderEvent, OrderRejected, PaymentEvent, RejectReason, topics,
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
                table(&wire, topics::ORDERS_ACCEPTED, accepted),
                table(&wire, topics::ORDERS_REJECTED, rejected),
                table(&wire, topics::PAYMENTS_EVENTS, payment),
                table(&wire, topics::ORDERS_EVENTS, order),
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
    order_id: String,
    source: Source,
    /// Its place among the events of its source, from 1; 0 for one that changes nothing but the history.
    version: i64,
    at: i64,
    event: String,
    detail: String,
    datum: Cow<'a, [u8]>,
}

fn accepted<'a>(wire: &Wire, record: &Record<'a>) -> Result<Event<'a>, Failure> {
    let mut order: OrderAccepted = wire.read(record)?;
    order.payment_method.clear(); // nobody is shown it
    Ok(Event {
        source: Source::Accepted,
        version: 1,
        at: order.accepted_at,
        event: "order.accepted".to_owned(),
        detail: String::new(),
        datum: Cow::Owned(bytes(&order)),
        order_id: order.order_id,
    })
}

/// A refused duplicate is told in the history and changes nothing of the order that holds the id.
fn rejected<'a>(wire: &Wire, record: &Record<'a>) -> Result<Event<'a>, Failure> {
    let (order, datum): (OrderRejected, _) = wire.read_with_datum(record)?;
    let duplicate = order.reason == RejectReason::ConflictingDuplicate;
    let reason = order.reason.as_str().to_ascii_lowercase();
    Ok(Event {
        source: Source::Rejected,
        version: if duplicate { 0 } else { 1 },
        at: order.rejected_at,
        event: if duplicate { "order.duplicate_refused" } else { "order.rejected" }.to_owned(),
        datum,
        detail: if order.detail.is_empty() { reason } else { format!("{reason}: {}", order.detail) },
        order_id: order.order_id,
    })
}

fn payment<'a>(wire: &Wire, record: &Record<'a>) -> Result<Event<'a>, Failure> {
    let (payment, datum): (PaymentEvent, _) = wire.read_with_datum(record)?;
    let detail = match &payment.decline_code {
        Some(code) if payment.detail.is_empty() => code.clone(),
        Some(code) => format!("{}: {code}", payment.detail),
        None => payment.detail.clone(),
    };
    Ok(Event {
        source: Source::Payment,
        version: payment.version.max(0),
        at: payment.at,
        event: named("payment.", payment.kind.as_str()),
        detail,
        datum,
        order_id: payment.order_id,
    })
}

fn order<'a>(wire: &Wire, record: &Record<'a>) -> Result<Event<'a>, Failure> {
    let (order, datum): (OrderEvent, _) = wire.read_with_datum(record)?;
    Ok(Event {
        source: Source::Order,
        version: order.version.max(0),
        at: order.at,
        event: named("order.", order.kind.as_str()),
        detail: order.detail,
        datum,
        order_id: order.order_id,
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

fn bytes(record: &impl AvroRecord) -> Vec<u8> {
    let mut datum = Vec::new();
    record.encode_datum(&mut datum);
    datum
}

/// Makes an event of a record.
type FromRecord = for<'a> fn(&Wire, &Record<'a>) -> Result<Event<'a>, Failure>;

/// A topic folded into the views. Its tombstones are passed over: a view is forgotten by its time to live.
fn table(wire: &Wire, topic: &'static str, event: FromRecord) -> TableDefinition {
    let wire = wire.clone();
    TableDefinition {
        topic,
        fold: Arc::new(move |record, before| {
            if record.value.is_none() {
                return Ok(Change::Keep);
            }
            let event = event(&wire, record)?;
            wire::key_is(record, &event.order_id)?;
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
    let noted = stored.note(Line {
        at: event.at,
        source: event.source as u8,
        version: event.version,
        event: &event.event,
        detail: &event.detail,
    });
    (noted || event.version > 0).then(|| stored.write())
}
