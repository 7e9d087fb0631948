//! The ledger: on hand and reserved per SKU, and the reservations. The only writer of every balance; never decides
//! what becomes of an order.
//!
//! [`decide`] is the policy, [`state`] what is remembered; here is what stands around them: read, decide, emit.

pub mod decide;
#[cfg(test)]
mod glue_tests;
pub mod state;
pub mod stored;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use millrace_runtime::{
    Due, Failure, Open, Outcome, Processor, ProcessorDefinition, Record, Step, StoreDefinition, TaskContext,
};
use millrace_schemas::{AdjustmentKind, Codec, StockAdjustment, StockCommand, StockEvent, StockLevel, topics};

use crate::planted;
use crate::wire::{Table, Wire, key, key_is, latest_format, owned};
use state::{adjusted, available, empty_level, moved};

const LEVELS: usize = 0;
const RESERVATIONS: usize = 1;

/// The processor as the engine needs to know it.
#[must_use]
pub fn definition(codec: &Codec) -> ProcessorDefinition {
    let wire = Wire::new(codec);
    ProcessorDefinition {
        name: "stock",
        stores: vec![
            StoreDefinition {
                name: "levels",
                tables: vec![wire.latest::<StockLevel>(topics::STOCK_LEVELS)],
                format: latest_format::<StockLevel>(),
                open: None,
            },
            StoreDefinition {
                name: "reservations",
                tables: Vec::new(),
                format: "reservations 1".to_owned(),
                open: Some(|_, value| Open { deadline: stored::deadline(value), ..Open::default() }),
            },
        ],
        globals: Vec::new(),
        settings: &["fence_ttl_ms"],
        build: Arc::new(move |context: &TaskContext| {
            Box::new(Stock {
                wire: wire.clone(),
                levels: Table::at(LEVELS),
                partitions: context.partitions_of(topics::STOCK_COMMANDS),
                fence_ttl: context.setting("fence_ttl_ms"),
            })
        }),
    }
}

struct Stock {
    wire: Wire,
    levels: Table<StockLevel>,
    partitions: i32,
    fence_ttl: i64,
}

impl Processor for Stock {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        match record.topic {
            topics::STOCK_COMMANDS => self.command(record, step),
            topics::STOCK_ADJUSTMENTS => self.adjustment(record, step),
            other => Err(Failure::fatal(format!("{other} is not an input of stock"))),
        }
    }

    /// The time of a fence is over.
    fn on_deadline(&mut self, due: &Due<'_>, step: &mut Step<'_>) -> Outcome {
        step.delete(due.store, due.key)
    }
}

impl Stock {
    fn command(&self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        let command: StockCommand = self.wire.read(record)?;
        owned(step, key(record)?, self.partitions)?;
        for line in &command.lines {
            owned(step, &line.sku, self.partitions)?;
        }
        if command.order_id.is_empty() {
            return Err(Failure::poison("a stock command that names no order"));
        }
        let reservation_key = stored::reservation_key(&command.order_id, command.attempt);
        let reservation = match step.get(RESERVATIONS, reservation_key.as_bytes())? {
            None => None,
            Some(value) => Some(stored::read_reservation(&value).ok_or_else(|| {
                Failure::Storage(format!("what is kept under {reservation_key} is not a reservation"))
            })?),
        };
        let mut levels = Vec::new();
        if decide::needs_levels(reservation.as_ref(), &command) {
            levels.reserve(command.lines.len());
            for line in &command.lines {
                levels.push(self.levels.get(step, &line.sku)?);
            }
        }
        let now = step.now();
        let decision = decide::decide(reservation.as_ref(), &command, &levels, now + self.fence_ttl)
            .map_err(|reason| poison(&command, &reason))?;
        let mut levels = levels.into_iter();
        for (sku, movement) in &decision.movements {
            let read = match levels.next() {
                Some(level) => level, // of a first reserve, whose movements are its lines
                None => self.levels.get(step, sku)?,
            };
            let before = read.ok_or_else(|| Failure::Storage(format!("{sku} is reserved but has no balance")))?;
            self.emit_level(step, &moved(before, *movement, &command.order_id, now))?;
        }
        if let Some(next) = &decision.reservation {
            step.put(RESERVATIONS, reservation_key.as_bytes(), &stored::write_reservation(next))?;
        }
        let kind = decision.answer.as_str();
        let event = StockEvent {
            order_id: command.order_id,
            attempt: command.attempt,
            stock_partition: step.partition(),
            kind: decision.answer,
            command_id: command.command_id,
            lines: decision.lines,
            short: decision.short,
            at: now,
        };
        self.wire.emit(step, topics::STOCK_EVENTS, &event.order_id, kind, &event)?;
        step.count("stock_answers", kind);
        Ok(())
    }

    fn adjustment(&self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        let adjustment: StockAdjustment = self.wire.read(record)?;
        key_is(record, &adjustment.sku)?;
        owned(step, &adjustment.sku, self.partitions)?;
        if adjustment.adjustment_id.is_empty() {
            return Err(Failure::poison(format!("an adjustment of {} without an id", adjustment.sku)));
        }
        let applied = stored::adjustment_key(&adjustment.sku, &adjustment.adjustment_id);
        let twice = planted::is(planted::Defect::AdjustmentTwice);
        if step.get(RESERVATIONS, applied.as_bytes())?.is_some() && !twice {
            step.count("stock_adjustments", "repeated");
            return Ok(());
        }
        let before = self.levels.get(step, &adjustment.sku)?.unwrap_or_else(|| empty_level(&adjustment.sku));
        let level = adjusted(before, &adjustment, step.now()).map_err(|reason| {
            let id = &adjustment.adjustment_id;
            Failure::poison(format!("adjustment {id} of {}: {reason}", adjustment.sku))
        })?;
        self.emit_level(step, &level)?;
        step.put(RESERVATIONS, applied.as_bytes(), &stored::write_adjustment(step.now() + self.fence_ttl))?;
        step.count("stock_adjustments", adjustment.kind.as_str());
        if available(&level) < 0 {
            step.count("stock_short", if adjustment.kind == AdjustmentKind::Count { "count" } else { "write_off" });
        }
        Ok(())
    }

    fn emit_level(&self, step: &mut Step<'_>, level: &StockLevel) -> Outcome {
        self.wire.emit(step, topics::STOCK_LEVELS, &level.sku, level.cause.as_str(), level)
    }
}

fn poison(command: &StockCommand, reason: &str) -> Failure {
    Failure::poison(format!("stock command {} of order {}: {reason}", command.kind.as_str(), command.order_id))
}
