//! What follows for a payment from what is known of it and what happened: the whole policy. Pure; time comes in with the
//! call. It says what to ask of the provider; it never asks.

use millrace_schemas::provider::{AUTHORIZATION_EXPIRED, ProviderResponse};
use millrace_schemas::{
    DeclineKind, OrderAccepted, PaymentCommand, PaymentCommandKind, PaymentEvent, PaymentEventKind, PaymentState,
    ProviderOperation, WaitsFor,
};

use super::state::{Cause, TRANSITIONS, nothing_known, state_of};
use super::turn::{Turn, word};
use crate::planted;

/// An order's authorization is attempted this often when it is declined softly.
const AUTHORIZE_ATTEMPTS_MAX: i32 = 2;

/// The numbers payment is run with; times in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Pause before the provider is asked about an unknown outcome, or tried again after a refusal that may pass.
    pub provider_ask_ms: i64,
    /// After so many tries the pauses grow, up to a minute, and the event says that a person should look.
    pub provider_tries_max: i32,
    /// An authorization that is not captured within this is voided.
    pub authorization_valid_ms: i64,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The order was accepted.
    Accepted(&'a OrderAccepted),
    /// Fulfillment wants something.
    Command(&'a PaymentCommand),
    /// The provider answered the request that is open.
    Answer(&'a ProviderResponse),
    /// The deadline of the state passed.
    Deadline,
}

/// The payment's next event, or none when nothing changes.
///
/// - A new idempotency key is made only when the outcome of the one before is known.
/// - Commands may repeat and may come late: what was done is not done again, what cannot be done is refused once.
/// - A void that comes before the order is remembered; the order is then never authorized.
///
/// # Errors
/// What is wrong with the input; it can never be carried out.
pub fn decide(
    payment: Option<&PaymentEvent>,
    input: Input<'_>,
    now: i64,
    policy: &Policy,
) -> Result<Option<PaymentEvent>, String> {
    let next = match (input, payment) {
        (Input::Accepted(order), _) => accepted(payment, order, now, policy)?,
        (Input::Command(command), _) => {
            check(command)?;
            match command.kind {
                PaymentCommandKind::Void => void(payment, command, now, policy),
                PaymentCommandKind::Capture => capture(known(payment)?, command, now, policy),
                PaymentCommandKind::Refund => refund(known(payment)?, command, now, policy),
                PaymentCommandKind::Unknown => return Err("this kind of payment command is not known here".into()),
            }
        }
        (Input::Answer(response), Some(payment)) => answered(payment, response, now, policy),
        (Input::Deadline, Some(payment)) => overdue(payment, now, policy),
        (Input::Answer(_) | Input::Deadline, None) => None,
    };
    if let Some(next) = &next {
        assert!(
            is_allowed(state_of(payment), cause(&input), next),
            "{:?} may not become {next:?} by {:?}",
            state_of(payment),
            cause(&input),
        );
    }
    Ok(next)
}

/// What moves the payment, in the words of the transition table.
#[must_use]
pub fn cause(input: &Input<'_>) -> Cause {
    match input {
        Input::Accepted(_) => Cause::Accepted,
        Input::Command(command) => match command.kind {
            PaymentCommandKind::Capture => Cause::Capture,
            PaymentCommandKind::Void | PaymentCommandKind::Unknown => Cause::Void,
            PaymentCommandKind::Refund => Cause::Refund,
        },
        Input::Answer(ProviderResponse::Approved { .. }) => Cause::Approved,
        Input::Answer(ProviderResponse::Declined { .. }) => Cause::Declined,
        Input::Answer(ProviderResponse::Unknown { .. }) => Cause::OutcomeUnknown,
        Input::Answer(ProviderResponse::NotFound) => Cause::NotFound,
        Input::Deadline => Cause::Deadline,
    }
}

fn is_allowed(from: PaymentState, cause: Cause, next: &PaymentEvent) -> bool {
    match next.kind {
        PaymentEventKind::CommandRefused => next.state == from,
        _ => TRANSITIONS.contains(&(from, cause, next.state)),
    }
}

fn check(command: &PaymentCommand) -> Result<(), String> {
    match &command.amount {
        Some(amount) if amount.minor <= 0 && command.kind != PaymentCommandKind::Void => {
            Err(format!("an amount of {} cannot be moved", amount.minor))
        }
        _ => Ok(()),
    }
}

/// Nothing was ever authorized that a capture or a refund could be about: only a stranger sends one.
fn known(payment: Option<&PaymentEvent>) -> Result<&PaymentEvent, String> {
    payment
        .filter(|payment| payment.state != PaymentState::Unknown)
        .ok_or_else(|| "no payment of this order is known, so there is nothing to capture or refund".to_owned())
}

fn accepted(
    payment: Option<&PaymentEvent>,
    order: &OrderAccepted,
    now: i64,
    policy: &Policy,
) -> Result<Option<PaymentEvent>, String> {
    if state_of(payment) != PaymentState::Unknown {
        return Ok(None);
    }
    if order.total.minor < 0 {
        return Err(format!("an order for {} cannot be paid", order.total.minor));
    }
    let mut next = payment.cloned().unwrap_or_else(|| nothing_known(&order.order_id));
    next.currency.clone_from(&order.total.currency);
    next.requested_minor = order.total.minor;
    next.payment_method.clone_from(&order.payment_method);
    let turn = Turn::new(next, now, policy);
    if turn.next.void_wanted {
        let detail = "the void came before the order; the provider was never asked";
        return Ok(Some(turn.settle(PaymentState::Voided, PaymentEventKind::Voided, detail)));
    }
    Ok(Some(turn.begin(ProviderOperation::Authorize, order.total.minor, "")))
}

fn void(payment: Option<&PaymentEvent>, command: &PaymentCommand, now: i64, policy: &Policy) -> Option<PaymentEvent> {
    let mut next = payment.cloned().unwrap_or_else(|| nothing_known(&command.order_id));
    let repeated = std::mem::replace(&mut next.void_wanted, true);
    let turn = Turn::new(next, now, policy);
    match state_of(payment) {
        PaymentState::Unknown if repeated => None,
        PaymentState::Unknown => Some(turn.settle(
            PaymentState::Unknown,
            PaymentEventKind::VoidRequested,
            "remembered until the order comes",
        )),
        PaymentState::Authorizing if repeated => None,
        PaymentState::Authorizing if turn.next.call.as_ref().is_some_and(|call| call.tries == 0) => {
            let detail = "a void is wanted; no other attempt is made";
            Some(turn.settle(PaymentState::Declined, PaymentEventKind::Declined, detail))
        }
        PaymentState::Authorizing => {
            Some(turn.finish(PaymentEventKind::VoidRequested, "remembered until the authorization is settled"))
        }
        PaymentState::Authorized => {
            let held = turn.next.authorized_minor;
            Some(turn.begin(ProviderOperation::Void, held, &command.reason))
        }
        PaymentState::Voiding
        | PaymentState::Voided
        | PaymentState::Declined
        | PaymentState::Expired
        | PaymentState::Refunded => None,
        PaymentState::Capturing | PaymentState::Captured | PaymentState::Refunding => {
            refused(payment?, "void refused: the money is being taken or was; it can only be refunded", now, policy)
        }
    }
}

fn capture(payment: &PaymentEvent, command: &PaymentCommand, now: i64, policy: &Policy) -> Option<PaymentEvent> {
    let amount = match amount(command, payment, payment.authorized_minor) {
        Ok(amount) => amount,
        Err(why) => return refused(payment, &format!("capture refused: {why}"), now, policy),
    };
    match payment.state {
        PaymentState::Authorized if amount > payment.authorized_minor => {
            let detail = format!("capture refused: {amount} wanted, {} authorized", payment.authorized_minor);
            refused(payment, &detail, now, policy)
        }
        PaymentState::Authorized => {
            Some(Turn::new(payment.clone(), now, policy).begin(ProviderOperation::Capture, amount, &command.reason))
        }
        PaymentState::Capturing if payment.call.as_ref().is_some_and(|call| call.amount_minor == amount) => None,
        PaymentState::Captured | PaymentState::Refunding | PaymentState::Refunded
            if payment.captured_minor == amount =>
        {
            None
        }
        state => refused(payment, &format!("capture refused: the payment is {}", state.as_str()), now, policy),
    }
}

fn refund(payment: &PaymentEvent, command: &PaymentCommand, now: i64, policy: &Policy) -> Option<PaymentEvent> {
    let amount = match amount(command, payment, payment.captured_minor) {
        Ok(amount) => amount,
        Err(why) => return refused(payment, &format!("refund refused: {why}"), now, policy),
    };
    match payment.state {
        PaymentState::Captured if amount > payment.captured_minor => {
            let detail = format!("refund refused: {amount} wanted, {} captured", payment.captured_minor);
            refused(payment, &detail, now, policy)
        }
        PaymentState::Captured => {
            Some(Turn::new(payment.clone(), now, policy).begin(ProviderOperation::Refund, amount, &command.reason))
        }
        PaymentState::Refunding if payment.call.as_ref().is_some_and(|call| call.amount_minor == amount) => None,
        PaymentState::Refunded if payment.refunded_minor == amount => None,
        state => refused(payment, &format!("refund refused: the payment is {}", state.as_str()), now, policy),
    }
}

/// How much a command is about: all there is where it names no amount.
fn amount(command: &PaymentCommand, payment: &PaymentEvent, all: i64) -> Result<i64, String> {
    match &command.amount {
        None => Ok(all),
        Some(amount) if amount.currency == payment.currency => Ok(amount.minor),
        Some(amount) => Err(format!("it is in {:?}, the payment in {:?}", amount.currency, payment.currency)),
    }
}

/// Says so once; a repeated command gets no second refusal.
fn refused(payment: &PaymentEvent, detail: &str, now: i64, policy: &Policy) -> Option<PaymentEvent> {
    if payment.kind == PaymentEventKind::CommandRefused && payment.detail == detail {
        return None;
    }
    Some(Turn::new(payment.clone(), now, policy).finish(PaymentEventKind::CommandRefused, detail))
}

fn answered(payment: &PaymentEvent, response: &ProviderResponse, now: i64, policy: &Policy) -> Option<PaymentEvent> {
    let call = payment.call.as_ref()?;
    let turn = Turn::new(payment.clone(), now, policy);
    match response {
        ProviderResponse::Approved { reference, amount_minor } => {
            approved(turn, call.operation, reference, *amount_minor)
        }
        ProviderResponse::Declined { kind, code } => Some(declined(turn, call.operation, *kind, code)),
        // Only an answer to an ask can say so; what acted and found nothing is as good as unknown.
        ProviderResponse::NotFound if call.ask => {
            Some(turn.send_again(false, "the provider never had the request; made again with the same key"))
        }
        ProviderResponse::NotFound => Some(turn.let_rest("the provider acted on nothing")),
        ProviderResponse::Unknown { detail } if planted::is(planted::Defect::NewKeyAfterTimeout) => {
            let planned = turn.plan_another(detail);
            Some(PaymentEvent { kind: PaymentEventKind::OutcomeUnknown, ..planned })
        }
        ProviderResponse::Unknown { .. }
            if planted::is(planted::Defect::UnknownIsDeclined) && call.operation == ProviderOperation::Authorize =>
        {
            Some(turn.settle(PaymentState::Declined, PaymentEventKind::Declined, "no answer"))
        }
        ProviderResponse::Unknown { detail } if call.tries >= policy.provider_tries_max => {
            Some(turn.let_rest(&format!("{} tries, a person should look: {detail}", call.tries)))
        }
        ProviderResponse::Unknown { detail } => Some(turn.let_rest(detail)),
    }
}

fn approved(mut turn: Turn<'_>, operation: ProviderOperation, reference: &str, amount: i64) -> Option<PaymentEvent> {
    turn.next.decline_kind = None;
    turn.next.decline_code = None;
    match operation {
        ProviderOperation::Authorize => {
            turn.next.authorized_minor = amount;
            turn.next.provider_reference = Some(reference.to_owned());
            if amount != turn.next.requested_minor {
                turn.next.void_wanted = true;
                let detail = format!("{amount} authorized, but {} needed", turn.next.requested_minor);
                return Some(turn.begin(ProviderOperation::Void, amount, &detail));
            }
            if turn.next.void_wanted {
                return Some(turn.begin(ProviderOperation::Void, amount, "authorized, but a void is wanted"));
            }
            Some(turn.settle(PaymentState::Authorized, PaymentEventKind::Authorized, ""))
        }
        ProviderOperation::Capture => {
            turn.next.captured_minor = amount;
            turn.next.voided_minor = turn.next.authorized_minor.saturating_sub(amount).max(0);
            if planted::is(planted::Defect::VoidedAndCaptured) {
                turn.next.voided_minor = turn.next.authorized_minor;
            }
            Some(turn.settle(PaymentState::Captured, PaymentEventKind::Captured, ""))
        }
        ProviderOperation::Void => Some(let_go(turn, "")),
        ProviderOperation::Refund => {
            turn.next.refunded_minor = turn.next.refunded_minor.saturating_add(amount);
            Some(turn.settle(PaymentState::Refunded, PaymentEventKind::Refunded, ""))
        }
        ProviderOperation::Unknown => None,
    }
}

fn declined(mut turn: Turn<'_>, operation: ProviderOperation, kind: DeclineKind, code: &str) -> PaymentEvent {
    turn.next.decline_kind = Some(kind);
    turn.next.decline_code = Some(code.to_owned());
    let gone = code == AUTHORIZATION_EXPIRED;
    match operation {
        ProviderOperation::Authorize => {
            let again =
                kind == DeclineKind::Soft && turn.next.attempt < AUTHORIZE_ATTEMPTS_MAX && !turn.next.void_wanted;
            if again {
                return turn.plan_another("declined for now, tried once more");
            }
            turn.settle(PaymentState::Declined, PaymentEventKind::Declined, "")
        }
        ProviderOperation::Void if gone => let_go(turn, "the provider had let it go before"),
        ProviderOperation::Capture if gone => {
            turn.next.void_wanted = false;
            let_go(turn, "the provider let the authorization go before it was captured")
        }
        _ => turn.plan_another(&format!("{} declined by the provider, tried again later", word(operation))),
    }
}

/// Nothing is held any more: voided as it was wanted, or expired.
fn let_go(mut turn: Turn<'_>, detail: &str) -> PaymentEvent {
    turn.next.voided_minor = turn.next.authorized_minor;
    if turn.next.void_wanted {
        turn.settle(PaymentState::Voided, PaymentEventKind::Voided, detail)
    } else {
        turn.settle(PaymentState::Expired, PaymentEventKind::AuthorizationExpired, detail)
    }
}

fn overdue(payment: &PaymentEvent, now: i64, policy: &Policy) -> Option<PaymentEvent> {
    let turn = Turn::new(payment.clone(), now, policy);
    match (&payment.call, payment.state) {
        (Some(call), _) if call.tries == 0 => Some(turn.send_again(false, "tried again")),
        (Some(_), _) if payment.waits_for == WaitsFor::Provider => {
            Some(turn.send_again(true, "no answer in time; the provider is asked"))
        }
        (Some(_), _) => Some(turn.send_again(true, "the provider is asked what became of it")),
        (None, PaymentState::Authorized) => {
            let held = payment.authorized_minor;
            Some(turn.begin(ProviderOperation::Void, held, "not captured while it was valid"))
        }
        (None, PaymentState::Unknown) => {
            Some(turn.settle(PaymentState::Voided, PaymentEventKind::Voided, "the order of this void never came"))
        }
        (None, _) => None,
    }
}
