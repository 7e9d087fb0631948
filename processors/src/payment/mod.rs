//! Keeps the one payment of an order. Decides what to ask of the provider; never asks: the state it emits says which
//! request is open, the engine has it made, and the answer comes back as an input.
//!
//! Never a new idempotency key while an outcome is unknown: it is settled by asking.

mod decide;
mod state;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;

use millrace_runtime::{
    Answered, CallRequest, Due, Failure, Open, Outcome, Processor, ProcessorDefinition, Record, Step, StoreDefinition,
};
use millrace_schemas::provider::{ProviderRequest, ProviderResponse};
use millrace_schemas::{
    AvroRecord, Codec, OrderAccepted, PaymentCommand, PaymentEvent, PaymentState, WaitsFor, topics,
};

use crate::planted;
use crate::wire::{self, Table, Wire, datum, latest_format};
pub use decide::{Input, Policy, cause, decide};
pub use state::{Cause, TRANSITIONS, deadline, open_call};

const PAYMENTS: Table<PaymentEvent> = Table::at(0);

/// Payment, as the engine needs to know it.
#[must_use]
pub fn definition(codec: &Codec) -> ProcessorDefinition {
    let wire = Wire::new(codec);
    ProcessorDefinition {
        name: "payment",
        stores: vec![StoreDefinition {
            name: "payments",
            tables: vec![wire.latest::<PaymentEvent>(topics::PAYMENTS_EVENTS)],
            format: latest_format::<PaymentEvent>(),
            open: Some(|_, value| open(value)),
        }],
        globals: Vec::new(),
        settings: &["provider_ask_ms", "provider_tries_max", "authorization_valid_ms"],
        build: Arc::new(move |context| {
            Box::new(Payment {
                wire: wire.clone(),
                partitions: context.partitions_of(topics::PAYMENTS_EVENTS),
                policy: Policy {
                    provider_ask_ms: context.setting("provider_ask_ms"),
                    provider_tries_max: i32::try_from(context.setting("provider_tries_max")).unwrap_or(i32::MAX),
                    authorization_valid_ms: context.setting("authorization_valid_ms"),
                },
            })
        }),
    }
}

/// What the payment leaves open. All of it is read only where a request may be.
fn open(value: &[u8]) -> Open {
    let Ok(fields) = PaymentEvent::fields(value) else { return Open::default() };
    let (state, until) = (fields.state.get(), fields.until.get());
    let call = match fields.waits_for.get() {
        WaitsFor::Provider => datum(value).ok().as_ref().and_then(request),
        _ => None,
    };
    // A void that is remembered for an order which may never come waits for nothing.
    let waits = state != PaymentState::Unknown && until.is_some();
    Open { deadline: until, call, waiting: waits.then(|| (state.as_str(), fields.at.get())) }
}

/// The request the payment's state calls for, in the form the connector reads. Another try is another call.
fn request(payment: &PaymentEvent) -> Option<CallRequest> {
    let call = open_call(payment)?;
    let request = ProviderRequest {
        operation: call.operation,
        idempotency_key: call.idempotency_key.clone(),
        order_id: payment.order_id.clone(),
        amount_minor: call.amount_minor + i64::from(planted::is(planted::Defect::SameKeyOtherAmount) && call.tries > 1),
        currency: payment.currency.clone(),
        payment_method: payment.payment_method.clone(),
        provider_reference: payment.provider_reference.clone(),
        ask: call.ask,
    };
    Some(CallRequest { id: format!("{}#{}", call.idempotency_key, call.tries), request: request.to_json() })
}

struct Payment {
    wire: Wire,
    partitions: i32,
    policy: Policy,
}

impl Payment {
    fn step(&self, order_id: &str, input: Input<'_>, step: &mut Step<'_>) -> Outcome {
        wire::owned(step, order_id, self.partitions)?;
        let payment = PAYMENTS.get(step, order_id)?;
        let next = decide(payment.as_ref(), input, step.now(), &self.policy)
            .map_err(|reason| Failure::poison(format!("order {order_id:?}: {reason}")))?;
        if let Some(next) = next {
            let kind = next.kind.as_str();
            step.count("payments", kind);
            if next.call.as_ref().is_some_and(|call| call.tries == self.policy.provider_tries_max) {
                step.count("payments_unsettled", kind);
            }
            self.wire.emit(step, topics::PAYMENTS_EVENTS, order_id, kind, &next)?;
        }
        Ok(())
    }
}

impl Processor for Payment {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        match record.topic {
            topics::ORDERS_ACCEPTED => {
                let order: OrderAccepted = self.wire.read(record)?;
                wire::key_is(record, &order.order_id)?;
                self.step(&order.order_id, Input::Accepted(&order), step)
            }
            topics::PAYMENTS_COMMANDS => {
                let command: PaymentCommand = self.wire.read(record)?;
                wire::key_is(record, &command.order_id)?;
                self.step(&command.order_id, Input::Command(&command), step)
            }
            other => Err(Failure::fatal(format!("payment was given a record of {other}, which is not its input"))),
        }
    }

    fn on_deadline(&mut self, due: &Due<'_>, step: &mut Step<'_>) -> Outcome {
        self.step(text(due.key)?, Input::Deadline, step)
    }

    fn on_answer(&mut self, answer: &Answered<'_>, step: &mut Step<'_>) -> Outcome {
        let response = ProviderResponse::from_json(answer.response);
        let outcome = match &response {
            ProviderResponse::Approved { .. } => "approved",
            ProviderResponse::Declined { .. } => "declined",
            ProviderResponse::Unknown { .. } => "unknown",
            ProviderResponse::NotFound => "not_found",
        };
        step.count("provider_answers", outcome);
        self.step(text(answer.key)?, Input::Answer(&response), step)
    }
}

/// A key of the own store, which only ever holds order ids.
fn text(key: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(key).map_err(|_| Failure::Storage("a key of payment's store is not text".to_owned()))
}
