//! The order after payment: what is reserved, what is outstanding, whom it waits for and until when. The only writer of
//! an order's events; never touches a balance or a payment itself.
//!
//! [`decide`] is the policy, [`state`] every state and transition, [`lines`] the arithmetic of lines; here is what
//! stands around them: read, decide, emit.

pub mod decide;
pub mod lines;
mod shipments;
pub mod state;
mod turn;

#[cfg(test)]
mod glue_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod shipment_tests;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millrace_runtime::{
    Change, Due, Failure, Outcome, Processor, ProcessorDefinition, Record, Step, StoreDefinition, TableDefinition,
    TaskContext,
};
use millrace_schemas::{
    AvroRecord, CancelRequested, Codec, Field, OrderAccepted, OrderEvent, OrderRejected, PaymentEvent, ShipmentUpdate,
    StockEvent, StockEventKind, topics,
};

use crate::wire::{Table, Wire, fields, key_is, latest_format, owned};
use decide::{Input, Paid, Policy, needs_intake};
use lines::Intake;

const LINES: usize = 0;
const REJECTED: usize = 1;
const ORDERS: usize = 2;

/// The processor as the engine needs to know it.
#[must_use]
pub fn definition(codec: &Codec) -> ProcessorDefinition {
    let wire = Wire::new(codec);
    ProcessorDefinition {
        name: "fulfillment",
        stores: vec![
            StoreDefinition {
                name: "lines",
                tables: vec![accepted_lines(&wire)],
                // With what `accepted_lines` leaves out.
                format: format!("lines 1 {}", latest_format::<OrderAccepted>()),
                open: None,
            },
            StoreDefinition {
                name: "rejected",
                tables: vec![rejected_ids(&wire)],
                format: format!("rejected 1 {}", latest_format::<OrderRejected>()),
                open: None,
            },
            StoreDefinition {
                name: "orders",
                tables: vec![wire.latest::<OrderEvent>(topics::ORDERS_EVENTS)],
                format: latest_format::<OrderEvent>(),
                open: Some(|_, value| state::open(value)),
            },
        ],
        globals: Vec::new(),
        settings: &[
            "reservation_timeout_ms",
            "payment_timeout_ms",
            "shipping_timeout_ms",
            "delivery_timeout_ms",
            "cancel_timeout_ms",
        ],
        build: Arc::new(move |context: &TaskContext| {
            Box::new(Fulfillment {
                wire: wire.clone(),
                lines: Table::at(LINES),
                orders: Table::at(ORDERS),
                partitions: context.partitions_of(topics::ORDERS_EVENTS),
                policy: Policy {
                    reservation_timeout: context.setting("reservation_timeout_ms"),
                    payment_timeout: context.setting("payment_timeout_ms"),
                    shipping_timeout: context.setting("shipping_timeout_ms"),
                    delivery_timeout: context.setting("delivery_timeout_ms"),
                    cancel_timeout: context.setting("cancel_timeout_ms"),
                    stock_partitions: context.partitions_of(topics::STOCK_COMMANDS),
                },
            })
        }),
    }
}

/// Accepted orders as a table of customer, total and lines; what only others need is left empty. The first word holds.
fn accepted_lines(wire: &Wire) -> TableDefinition {
    let wire = wire.clone();
    TableDefinition {
        topic: topics::ORDERS_ACCEPTED,
        fold: Arc::new(move |record, before| {
            let (None, Some(_)) = (before, record.value) else { return Ok(Change::Keep) };
            let datum = wire.datum::<OrderAccepted>(record)?;
            let mut accepted = fields::<OrderAccepted>(record.topic, &datum)?;
            if accepted.order_id.text().as_bytes() != record.key {
                return Ok(Change::Keep);
            }
            accepted.payment_method = Field::EMPTY;
            accepted.fingerprint = Field::EMPTY;
            accepted.channel = Field::EMPTY;
            let mut kept = Vec::with_capacity(datum.len());
            OrderAccepted::encode_fields(&accepted, &mut kept);
            Ok(Change::Put(kept))
        }),
    }
}

/// The ids of orders that intake rejected; nothing else of them matters.
fn rejected_ids(wire: &Wire) -> TableDefinition {
    let wire = wire.clone();
    TableDefinition {
        topic: topics::ORDERS_REJECTED,
        fold: Arc::new(move |record, before| {
            let (None, Some(_)) = (before, record.value) else { return Ok(Change::Keep) };
            let rejected: OrderRejected = wire.read(record)?;
            let own = rejected.order_id.as_bytes() == record.key && state::ends_the_order(rejected.reason);
            Ok(if own { Change::Put(Vec::new()) } else { Change::Keep })
        }),
    }
}

struct Fulfillment {
    wire: Wire,
    lines: Table<OrderAccepted>,
    orders: Table<OrderEvent>,
    partitions: i32,
    policy: Policy,
}

impl Processor for Fulfillment {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        match record.topic {
            topics::ORDERS_ACCEPTED => {
                // Its lines are in the table already, and most often that is all there is to do.
                let id = std::str::from_utf8(record.key).unwrap_or_default();
                key_is(record, id)?;
                if step.get(LINES, record.key)?.is_none() {
                    return Err(Failure::poison(format!("an accepted order under another key, {id:?}")));
                }
                self.apply(id, Input::Accepted, step)
            }
            topics::ORDERS_REJECTED => {
                let rejected: OrderRejected = self.wire.read(record)?;
                key_is(record, &rejected.order_id)?;
                self.apply(&rejected.order_id, Input::Rejected(rejected.reason), step)
            }
            topics::PAYMENTS_EVENTS => {
                let datum = self.wire.datum::<PaymentEvent>(record)?;
                let event = fields::<PaymentEvent>(record.topic, &datum)?;
                let id = event.order_id.text();
                key_is(record, id)?;
                let paid = Paid {
                    state: event.state.get(),
                    requested_minor: event.requested_minor.get(),
                    captured_minor: event.captured_minor.get(),
                    currency: event.currency.text(),
                };
                self.apply(id, Input::Payment(paid), step)
            }
            topics::STOCK_EVENTS => {
                let event: StockEvent = self.wire.read(record)?;
                key_is(record, &event.order_id)?;
                if event.kind == StockEventKind::Shipped {
                    return Ok(()); // the ledger holds all of a group: this answer tells nothing new
                }
                self.apply(&event.order_id, Input::Stock(&event), step)
            }
            topics::ORDERS_CANCEL_REQUESTED => {
                let request: CancelRequested = self.wire.read(record)?;
                key_is(record, &request.order_id)?;
                self.apply(&request.order_id, Input::Cancel(&request), step)
            }
            topics::SHIPMENTS_UPDATES => {
                let update: ShipmentUpdate = self.wire.read(record)?;
                key_is(record, &update.order_id)?;
                self.apply(&update.order_id, Input::Shipment(&update), step)
            }
            other => Err(Failure::fatal(format!("{other} is not an input of fulfillment"))),
        }
    }

    fn on_deadline(&mut self, due: &Due<'_>, step: &mut Step<'_>) -> Outcome {
        let id = std::str::from_utf8(due.key)
            .map_err(|_| Failure::Storage("the key of an order is not UTF-8".to_owned()))?;
        self.apply(id, Input::Deadline, step)
    }
}

impl Fulfillment {
    /// What was read of intake's word. An accepted order counts, whatever became of its id before.
    fn intake(&self, id: &str, step: &mut Step<'_>) -> Result<Intake, Failure> {
        if let Some(accepted) = self.lines.get(step, id)? {
            return Ok(Intake::Accepted(accepted.into()));
        }
        let rejected = step.get(REJECTED, id.as_bytes())?.is_some();
        Ok(if rejected { Intake::Rejected } else { Intake::Silent })
    }

    fn apply(&self, id: &str, input: Input<'_>, step: &mut Step<'_>) -> Outcome {
        owned(step, id, self.partitions)?;
        let order = self.orders.get(step, id)?;
        let intake = if needs_intake(order.as_ref(), input) { self.intake(id, step)? } else { Intake::Silent };
        let decision = decide::decide(id, order, intake, input, step.now(), &self.policy)
            .map_err(|reason| Failure::poison(format!("order {id}: {reason}")))?;
        if let Some(notice) = decision.notice {
            step.count("fulfillment_notices", notice);
        }
        let Some(event) = decision.event else { return Ok(()) };
        for (place, command) in &decision.stock {
            let group = &event.groups[*place];
            self.wire.emit(step, topics::STOCK_COMMANDS, &group.key, command.kind.as_str(), command)?;
        }
        if let Some(command) = &decision.payment {
            self.wire.emit(step, topics::PAYMENTS_COMMANDS, id, command.kind.as_str(), command)?;
        }
        let kind = event.kind.as_str();
        self.wire.emit(step, topics::ORDERS_EVENTS, id, kind, &event)?;
        step.count("order_events", kind);
        Ok(())
    }
}
