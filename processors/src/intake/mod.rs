//! Takes orders in: each order id once, valid, priced from the catalog. Never trusts a price, never touches stock or
//! money.
//!
//! A refusal is business and goes to `orders.rejected`; only a record that is no order at all (unreadable, or under a
//! key that is not its id) is poison.

mod decide;
mod tables;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use millrace_runtime::{GlobalDefinition, Outcome, Processor, ProcessorDefinition, Record, Step, StoreDefinition};
use millrace_schemas::{AvroRecord, Codec, OrderAccepted, OrderPlaced, OrderRejected, topics};

use crate::wire::{self, Wire};
pub use decide::{Answer, Decision, Offer, Rules, Shop, decide};
use tables::{Seen, available, offer};

const SEEN: usize = 0;
const PRODUCTS: usize = 0;
const LEVELS: usize = 1;

/// Intake, as the engine needs to know it.
#[must_use]
pub fn definition(codec: &Codec) -> ProcessorDefinition {
    let wire = Wire::new(codec);
    ProcessorDefinition {
        name: "intake",
        stores: vec![StoreDefinition {
            name: "seen",
            tables: vec![tables::accepted(&wire), tables::rejected(&wire)],
            format: "fingerprint 1".to_owned(),
            open: None,
        }],
        globals: vec![
            GlobalDefinition { table: tables::products(&wire), format: "products 1".to_owned() },
            GlobalDefinition { table: tables::levels(&wire), format: "levels 1".to_owned() },
        ],
        settings: &["lines_max", "quantity_max", "sold_out_advice"],
        build: Arc::new(move |context| {
            Box::new(Intake {
                wire: wire.clone(),
                partitions: context.partitions_of(topics::ORDERS_ACCEPTED),
                rules: Rules {
                    lines_max: usize::try_from(context.setting("lines_max")).unwrap_or(0),
                    quantity_max: context.setting("quantity_max"),
                    sold_out_advice: context.setting("sold_out_advice") != 0,
                },
            })
        }),
    }
}

struct Intake {
    wire: Wire,
    partitions: i32,
    rules: Rules,
}

impl Processor for Intake {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        let order: OrderPlaced = self.wire.read(record)?;
        wire::key_is(record, &order.order_id)?;
        wire::owned(step, &order.order_id, self.partitions)?;
        let seen = step.get(SEEN, record.key)?;
        let seen = seen.as_deref().map(Seen::read).transpose()?;
        let id = order.order_id.clone();
        let decision = decide(seen.map(|seen| seen.fingerprint), order, &Globals { step }, &self.rules, step.now());
        match decision {
            Decision::Repeated => step.count("orders_repeated", "repeated"),
            Decision::Accepted(order) => {
                step.count("orders_decided", "ACCEPTED");
                self.wire.emit(step, topics::ORDERS_ACCEPTED, &id, OrderAccepted::NAME, &order)?;
            }
            Decision::Rejected(order) => {
                step.count("orders_decided", order.reason.as_str());
                self.wire.emit(step, topics::ORDERS_REJECTED, &id, OrderRejected::NAME, &order)?;
            }
        }
        Ok(())
    }
}

/// The shop as this step sees it: the two global tables.
struct Globals<'a, 'b> {
    step: &'a Step<'b>,
}

impl Shop for Globals<'_, '_> {
    fn offer(&self, sku: &str) -> Option<Offer<'_>> {
        self.step.global(PRODUCTS, sku.as_bytes()).and_then(|value| offer(value))
    }

    fn available(&self, sku: &str) -> Option<i64> {
        self.step.global(LEVELS, sku.as_bytes()).and_then(|value| available(value))
    }
}
