//! One payment event in the making. Knows how a request is opened, let rest and closed; whether, is up to
//! [`super::decide`].

use millrace_schemas::{OpenCall, PaymentEvent, PaymentEventKind, PaymentState, ProviderOperation, WaitsFor};

use super::decide::Policy;

/// The caller answers every request it is given, also with "unknown"; past this the request is asked about anyway.
const ANSWER_WITHIN_MS: i64 = 60_000;
/// Longest pause between two requests.
const PAUSE_MAX_MS: i64 = 60_000;

/// One event in the making.
pub(super) struct Turn<'a> {
    pub(super) next: PaymentEvent,
    policy: &'a Policy,
    now: i64,
}

impl<'a> Turn<'a> {
    pub(super) fn new(payment: PaymentEvent, now: i64, policy: &'a Policy) -> Self {
        Self { next: payment, policy, now }
    }

    /// A new operation: its first request, under a key of its own.
    pub(super) fn begin(mut self, operation: ProviderOperation, amount_minor: i64, detail: &str) -> PaymentEvent {
        self.next.attempt = 1;
        self.next.state = state_during(operation);
        self.next.decline_kind = None;
        self.next.decline_code = None;
        self.next.call = Some(OpenCall {
            operation,
            idempotency_key: key(&self.next.order_id, operation, 1),
            amount_minor,
            ask: false,
            tries: 1,
            since: self.now,
        });
        self.wait_for_provider();
        self.finish(requested(operation), detail)
    }

    /// The outcome of the open request is known, and it is no: another one, under another key, after a pause.
    pub(super) fn plan_another(mut self, detail: &str) -> PaymentEvent {
        self.next.attempt += 1;
        let attempt = self.next.attempt;
        if let Some(call) = &mut self.next.call {
            call.idempotency_key = key(&self.next.order_id, call.operation, attempt);
            call.ask = false;
            call.tries = 0;
        }
        self.rest(attempt);
        self.finish(PaymentEventKind::Declined, detail)
    }

    /// The outcome of the open request is unknown: after a pause the provider is asked.
    pub(super) fn let_rest(mut self, detail: &str) -> PaymentEvent {
        let mut tries = 0;
        if let Some(call) = &mut self.next.call {
            call.ask = true;
            tries = call.tries;
        }
        self.rest(tries);
        self.finish(PaymentEventKind::OutcomeUnknown, detail)
    }

    /// Makes the request again under the same key: to `ask` for its outcome, or to act.
    pub(super) fn send_again(mut self, ask: bool, detail: &str) -> PaymentEvent {
        let mut kind = PaymentEventKind::OutcomeUnknown;
        if let Some(call) = &mut self.next.call {
            call.ask = ask;
            call.tries = call.tries.saturating_add(1);
            if call.tries == 1 {
                call.since = self.now;
            }
            if !ask {
                kind = requested(call.operation);
            }
        }
        self.wait_for_provider();
        self.finish(kind, detail)
    }

    /// Nothing is open any more.
    pub(super) fn settle(mut self, state: PaymentState, kind: PaymentEventKind, detail: &str) -> PaymentEvent {
        self.next.state = state;
        self.next.call = None;
        (self.next.waits_for, self.next.until) = match state {
            PaymentState::Authorized => {
                (WaitsFor::Fulfillment, Some(self.now.saturating_add(self.policy.authorization_valid_ms)))
            }
            PaymentState::Unknown => {
                (WaitsFor::Intake, Some(self.now.saturating_add(self.policy.authorization_valid_ms)))
            }
            _ => (WaitsFor::Nobody, None),
        };
        self.finish(kind, detail)
    }

    /// Only says something: the payment stays as it is.
    pub(super) fn finish(mut self, kind: PaymentEventKind, detail: &str) -> PaymentEvent {
        self.next.kind = kind;
        self.next.version += 1;
        self.next.at = self.now;
        self.next.detail.clear();
        self.next.detail.push_str(detail);
        self.next
    }

    fn wait_for_provider(&mut self) {
        self.next.waits_for = WaitsFor::Provider;
        self.next.until = Some(self.now.saturating_add(ANSWER_WITHIN_MS));
    }

    /// A pause that grows once `tries` is past what is usual.
    fn rest(&mut self, tries: i32) {
        let over = tries.saturating_sub(self.policy.provider_tries_max).clamp(0, 16);
        let longest = PAUSE_MAX_MS.max(self.policy.provider_ask_ms);
        let pause = self.policy.provider_ask_ms.saturating_mul(1 << over).min(longest);
        self.next.waits_for = WaitsFor::Payment;
        self.next.until = Some(self.now.saturating_add(pause));
    }
}

/// The same order, operation and attempt, the same key: for ever.
fn key(order_id: &str, operation: ProviderOperation, attempt: i32) -> String {
    format!("{order_id}/{}/{attempt}", word(operation))
}

pub(super) fn word(operation: ProviderOperation) -> &'static str {
    match operation {
        ProviderOperation::Authorize => "authorize",
        ProviderOperation::Capture => "capture",
        ProviderOperation::Void => "void",
        ProviderOperation::Refund => "refund",
        ProviderOperation::Unknown => "unknown",
    }
}

fn state_during(operation: ProviderOperation) -> PaymentState {
    match operation {
        ProviderOperation::Authorize => PaymentState::Authorizing,
        ProviderOperation::Capture => PaymentState::Capturing,
        ProviderOperation::Void => PaymentState::Voiding,
        ProviderOperation::Refund => PaymentState::Refunding,
        ProviderOperation::Unknown => PaymentState::Unknown,
    }
}

fn requested(operation: ProviderOperation) -> PaymentEventKind {
    match operation {
        ProviderOperation::Authorize => PaymentEventKind::AuthorizationRequested,
        ProviderOperation::Capture => PaymentEventKind::CaptureRequested,
        ProviderOperation::Void => PaymentEventKind::VoidRequested,
        ProviderOperation::Refund => PaymentEventKind::RefundRequested,
        ProviderOperation::Unknown => PaymentEventKind::Unknown,
    }
}
