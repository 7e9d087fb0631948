//! What a payment service provider does with a request: the rules of authorizations and the test tokens. Pure; where
//! accounts are kept is [`crate::simulated`].
//!
//! The rules: an idempotency key is one request for ever, with one amount; what is captured is at most what is
//! authorized, in one final capture that releases the remainder; only what is uncaptured can be voided; what is refunded
//! is at most what was captured.
//!
//! | token | what happens |
//! |---|---|
//! | `tok_visa`, any other | approved |
//! | `tok_declined` | authorization declined, hard: `card_declined` |
//! | `tok_expired` | authorization declined, hard: `expired_card` |
//! | `tok_insufficient_funds` | first authorization of an order declined, soft: `insufficient_funds`; the next approved |
//! | `tok_soft_decline` | authorization declined, soft, always: `try_again_later` |
//! | `tok_timeout_after` | authorized, but the answer is lost: `Unknown` |
//! | `tok_timeout_before` | the first authorization request of a key is lost: `Unknown`, nothing done; then approved |
//! | `tok_capture_timeout_after` | authorized; captured, but that answer is lost |
//! | `tok_capture_timeout_before` | authorized; the first capture request of a key is lost |
//! | `tok_capture_declined` | authorized; the first capture declined, soft: `try_again_later`; the next approved |
//! | `tok_authorization_expires` | authorized; capture and void declined, hard: `authorization_expired` |

use millrace_schemas::provider::{AUTHORIZATION_EXPIRED, IDEMPOTENCY_MISMATCH, ProviderRequest, ProviderResponse};
use millrace_schemas::{DeclineKind, ProviderOperation};
use serde::{Deserialize, Serialize};

/// Everything the provider knows of one order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The merchant's order id.
    pub order_id: String,
    /// ISO 4217.
    pub currency: String,
    /// Every authorization that was approved, in order.
    pub authorizations: Vec<Authorization>,
    /// Every request that was decided, by idempotency key, in order.
    requests: Vec<Decided>,
    /// Idempotency keys whose first request was lost on the way, as some tokens want it.
    lost: Vec<String>,
}

/// An approved authorization and what became of it; all amounts in minor units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// The provider's name for it.
    pub reference: String,
    /// Held on the card.
    pub authorized_minor: i64,
    /// Taken, by the one final capture.
    pub captured_minor: i64,
    /// Let go: by a void, by the final capture (the remainder), or by expiry.
    pub voided_minor: i64,
    /// Given back.
    pub refunded_minor: i64,
    /// How many captures took effect: 0 or 1.
    pub captures: u32,
    /// Whether money is still held.
    pub live: bool,
}

/// A request that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Decided {
    key: String,
    operation: String,
    amount_minor: i64,
    response: ProviderResponse,
}

/// What a request changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The account is as it was.
    Nothing,
    /// The account must be kept before the answer is given.
    Changed,
}

/// Answers a request against the order's account.
pub(crate) fn answer(account: &mut Account, request: &ProviderRequest) -> (ProviderResponse, Effect) {
    let forgets = crate::planted::is(crate::planted::Defect::KeyForgotten) && !request.ask;
    if let Some(decided) = account.requests.iter().find(|d| d.key == request.idempotency_key && !forgets) {
        let same = decided.operation == request.operation.as_str() && decided.amount_minor == request.amount_minor;
        let response = if same { decided.response.clone() } else { declined(DeclineKind::Hard, IDEMPOTENCY_MISMATCH) };
        return (response, Effect::Nothing);
    }
    if request.ask {
        return (ProviderResponse::NotFound, Effect::Nothing);
    }
    let script = Script::of(&request.payment_method);
    if script.loses_request(request.operation) && !account.lost.contains(&request.idempotency_key) {
        keep_identity(account, request);
        account.lost.push(request.idempotency_key.clone());
        return (lost(), Effect::Changed);
    }
    let response = act(account, request, script);
    keep_identity(account, request);
    account.requests.push(Decided {
        key: request.idempotency_key.clone(),
        operation: request.operation.as_str().to_owned(),
        amount_minor: request.amount_minor,
        response: response.clone(),
    });
    if script.loses_answer(request.operation) { (lost(), Effect::Changed) } else { (response, Effect::Changed) }
}

fn keep_identity(account: &mut Account, request: &ProviderRequest) {
    if account.order_id.is_empty() {
        account.order_id.clone_from(&request.order_id);
        account.currency.clone_from(&request.currency);
    }
}

fn act(account: &mut Account, request: &ProviderRequest, script: Script) -> ProviderResponse {
    if request.amount_minor < 0 {
        return declined(DeclineKind::Hard, "invalid_amount");
    }
    if !account.currency.is_empty() && account.currency != request.currency {
        return declined(DeclineKind::Hard, "currency_mismatch");
    }
    match request.operation {
        ProviderOperation::Authorize => authorize(account, request, script),
        ProviderOperation::Capture => capture(account, request, script),
        ProviderOperation::Void => void(account, request, script),
        ProviderOperation::Refund => refund(account, request),
        ProviderOperation::Unknown => declined(DeclineKind::Hard, "unknown_operation"),
    }
}

fn authorize(account: &mut Account, request: &ProviderRequest, script: Script) -> ProviderResponse {
    match script {
        Script::Declined => return declined(DeclineKind::Hard, "card_declined"),
        Script::CardExpired => return declined(DeclineKind::Hard, "expired_card"),
        Script::SoftDecline => return declined(DeclineKind::Soft, "try_again_later"),
        Script::InsufficientOnce if !decided_before(account, ProviderOperation::Authorize) => {
            return declined(DeclineKind::Soft, "insufficient_funds");
        }
        _ => {}
    }
    let reference = format!("sim_{}_{}", request.order_id, account.authorizations.len() + 1);
    account.authorizations.push(Authorization {
        reference: reference.clone(),
        authorized_minor: request.amount_minor,
        live: true,
        ..Authorization::default()
    });
    ProviderResponse::Approved { reference, amount_minor: request.amount_minor }
}

fn capture(account: &mut Account, request: &ProviderRequest, script: Script) -> ProviderResponse {
    let declines = script == Script::CaptureDeclinedOnce && !decided_before(account, ProviderOperation::Capture);
    let Some(authorization) = named(account, request) else {
        return declined(DeclineKind::Hard, "no_such_authorization");
    };
    if let Some(refusal) = not_live(authorization, script) {
        return refusal;
    }
    if request.amount_minor > authorization.authorized_minor {
        return declined(DeclineKind::Hard, "amount_too_large");
    }
    if declines {
        return declined(DeclineKind::Soft, "try_again_later");
    }
    authorization.captured_minor = request.amount_minor;
    authorization.voided_minor = authorization.authorized_minor - request.amount_minor;
    authorization.captures += 1;
    authorization.live = false;
    approved(authorization, request.amount_minor)
}

fn void(account: &mut Account, request: &ProviderRequest, script: Script) -> ProviderResponse {
    let Some(authorization) = named(account, request) else {
        return declined(DeclineKind::Hard, "no_such_authorization");
    };
    if let Some(refusal) = not_live(authorization, script) {
        return refusal;
    }
    authorization.voided_minor = authorization.authorized_minor;
    authorization.live = false;
    approved(authorization, authorization.voided_minor)
}

fn refund(account: &mut Account, request: &ProviderRequest) -> ProviderResponse {
    let Some(authorization) = named(account, request) else {
        return declined(DeclineKind::Hard, "no_such_authorization");
    };
    if authorization.captures == 0 {
        return declined(DeclineKind::Hard, "not_captured");
    }
    if request.amount_minor > authorization.captured_minor - authorization.refunded_minor {
        return declined(DeclineKind::Hard, "amount_too_large");
    }
    authorization.refunded_minor += request.amount_minor;
    approved(authorization, request.amount_minor)
}

/// Why nothing can be captured or voided any more. An authorization that expires does so when it is next touched.
fn not_live(authorization: &mut Authorization, script: Script) -> Option<ProviderResponse> {
    if authorization.captures > 0 {
        return Some(declined(DeclineKind::Hard, "already_captured"));
    }
    if authorization.live && script == Script::AuthorizationExpires {
        authorization.live = false;
        authorization.voided_minor = authorization.authorized_minor;
    }
    (!authorization.live).then(|| declined(DeclineKind::Hard, AUTHORIZATION_EXPIRED))
}

fn named<'a>(account: &'a mut Account, request: &ProviderRequest) -> Option<&'a mut Authorization> {
    let reference = request.provider_reference.as_deref()?;
    account.authorizations.iter_mut().find(|authorization| authorization.reference == reference)
}

fn decided_before(account: &Account, operation: ProviderOperation) -> bool {
    account.requests.iter().any(|decided| decided.operation == operation.as_str())
}

fn approved(authorization: &Authorization, amount_minor: i64) -> ProviderResponse {
    ProviderResponse::Approved { reference: authorization.reference.clone(), amount_minor }
}

fn declined(kind: DeclineKind, code: &str) -> ProviderResponse {
    ProviderResponse::Declined { kind, code: code.to_owned() }
}

fn lost() -> ProviderResponse {
    ProviderResponse::Unknown { detail: "no answer within the time allowed".to_owned() }
}

/// What a test token makes happen; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Approved,
    Declined,
    CardExpired,
    InsufficientOnce,
    SoftDecline,
    TimeoutAfter,
    TimeoutBefore,
    CaptureTimeoutAfter,
    CaptureTimeoutBefore,
    CaptureDeclinedOnce,
    AuthorizationExpires,
}

impl Script {
    fn of(token: &str) -> Self {
        match token {
            "tok_declined" => Self::Declined,
            "tok_expired" => Self::CardExpired,
            "tok_insufficient_funds" => Self::InsufficientOnce,
            "tok_soft_decline" => Self::SoftDecline,
            "tok_timeout_after" => Self::TimeoutAfter,
            "tok_timeout_before" => Self::TimeoutBefore,
            "tok_capture_timeout_after" => Self::CaptureTimeoutAfter,
            "tok_capture_timeout_before" => Self::CaptureTimeoutBefore,
            "tok_capture_declined" => Self::CaptureDeclinedOnce,
            "tok_authorization_expires" => Self::AuthorizationExpires,
            _ => Self::Approved,
        }
    }

    /// The first request of a key never arrives.
    fn loses_request(self, operation: ProviderOperation) -> bool {
        matches!(
            (self, operation),
            (Self::TimeoutBefore, ProviderOperation::Authorize)
                | (Self::CaptureTimeoutBefore, ProviderOperation::Capture)
        )
    }

    /// It is done, but the answer to the request that did it is lost.
    fn loses_answer(self, operation: ProviderOperation) -> bool {
        matches!(
            (self, operation),
            (Self::TimeoutAfter, ProviderOperation::Authorize)
                | (Self::CaptureTimeoutAfter, ProviderOperation::Capture)
        )
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
