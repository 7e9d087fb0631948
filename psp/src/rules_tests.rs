//! The rules of the simulated provider, case by case.

use super::*;
use crate::{CallBytes, MemoryProvider, Provider, handle_all_bytes, handle_bytes};

fn request(operation: ProviderOperation, attempt: i32, amount_minor: i64, token: &str) -> ProviderRequest {
    let reference = (operation != ProviderOperation::Authorize).then(|| "sim_o-1_1".to_owned());
    ProviderRequest {
        operation,
        idempotency_key: format!("o-1/{}/{attempt}", operation.as_str().to_lowercase()),
        order_id: "o-1".into(),
        amount_minor,
        currency: "EUR".into(),
        payment_method: token.into(),
        provider_reference: reference,
        ask: false,
    }
}

fn authorize(amount: i64, token: &str) -> ProviderRequest {
    request(ProviderOperation::Authorize, 1, amount, token)
}

fn code(response: &ProviderResponse) -> &str {
    match response {
        ProviderResponse::Approved { .. } => "approved",
        ProviderResponse::Declined { code, .. } => code,
        ProviderResponse::Unknown { .. } => "unknown",
        ProviderResponse::NotFound => "not_found",
    }
}

#[test]
fn the_same_key_is_the_same_request() {
    let provider = MemoryProvider::default();
    let first = provider.handle(&authorize(500, "tok_visa"));
    assert_eq!(code(&first), "approved");
    assert_eq!(provider.handle(&authorize(500, "tok_visa")), first);
    assert_eq!(provider.ledger()[0].authorizations, 1);
    // Another key is another authorization: the ledger shows what a double charge looks like.
    provider.handle(&request(ProviderOperation::Authorize, 2, 500, "tok_visa"));
    assert_eq!(provider.ledger()[0].authorizations, 2);
}

#[test]
fn the_same_key_with_another_amount_changes_nothing() {
    let provider = MemoryProvider::default();
    provider.handle(&authorize(500, "tok_visa"));
    let before = provider.ledger();
    assert_eq!(code(&provider.handle(&authorize(501, "tok_visa"))), IDEMPOTENCY_MISMATCH);
    assert_eq!(provider.ledger(), before);
}

#[test]
fn a_capture_is_final_and_releases_the_remainder() {
    let provider = MemoryProvider::default();
    provider.handle(&authorize(500, "tok_visa"));
    let too_much = provider.handle(&request(ProviderOperation::Capture, 1, 501, "tok_visa"));
    assert_eq!(code(&too_much), "amount_too_large");
    assert!(provider.ledger()[0].live);
    assert_eq!(code(&provider.handle(&request(ProviderOperation::Capture, 2, 300, "tok_visa"))), "approved");
    let entry = &provider.ledger()[0];
    assert_eq!((entry.captured_minor, entry.voided_minor, entry.live), (300, 200, false));
    let again = provider.handle(&request(ProviderOperation::Capture, 3, 100, "tok_visa"));
    assert_eq!(code(&again), "already_captured");
    assert_eq!(code(&provider.handle(&request(ProviderOperation::Void, 1, 500, "tok_visa"))), "already_captured");
    assert_eq!(provider.ledger()[0].captures, 1);
}

#[test]
fn a_void_lets_go_of_everything_once() {
    let provider = MemoryProvider::default();
    provider.handle(&authorize(500, "tok_visa"));
    assert_eq!(code(&provider.handle(&request(ProviderOperation::Void, 1, 500, "tok_visa"))), "approved");
    let entry = &provider.ledger()[0];
    assert_eq!((entry.voided_minor, entry.captured_minor, entry.live), (500, 0, false));
    let capture = provider.handle(&request(ProviderOperation::Capture, 1, 500, "tok_visa"));
    assert_eq!(code(&capture), AUTHORIZATION_EXPIRED);
}

#[test]
fn refunds_are_at_most_what_was_captured() {
    let provider = MemoryProvider::default();
    provider.handle(&authorize(500, "tok_visa"));
    assert_eq!(code(&provider.handle(&request(ProviderOperation::Refund, 1, 1, "tok_visa"))), "not_captured");
    provider.handle(&request(ProviderOperation::Capture, 1, 300, "tok_visa"));
    assert_eq!(code(&provider.handle(&request(ProviderOperation::Refund, 2, 200, "tok_visa"))), "approved");
    assert_eq!(code(&provider.handle(&request(ProviderOperation::Refund, 3, 101, "tok_visa"))), "amount_too_large");
    assert_eq!(code(&provider.handle(&request(ProviderOperation::Refund, 4, 100, "tok_visa"))), "approved");
    assert_eq!(provider.ledger()[0].refunded_minor, 300);
}

#[test]
fn nothing_moves_without_an_authorization_or_in_another_currency() {
    let provider = MemoryProvider::default();
    let capture = request(ProviderOperation::Capture, 1, 1, "tok_visa");
    assert_eq!(code(&provider.handle(&capture)), "no_such_authorization");
    provider.handle(&authorize(500, "tok_visa"));
    let mut dollars = request(ProviderOperation::Capture, 2, 1, "tok_visa");
    dollars.currency = "USD".into();
    assert_eq!(code(&provider.handle(&dollars)), "currency_mismatch");
    assert_eq!(code(&provider.handle(&request(ProviderOperation::Capture, 3, -1, "tok_visa"))), "invalid_amount");
    assert_eq!(provider.ledger()[0].captured_minor, 0);
}

#[test]
fn the_declining_tokens_decline_as_documented() {
    for (token, first, second) in [
        ("tok_declined", "card_declined", "card_declined"),
        ("tok_expired", "expired_card", "expired_card"),
        ("tok_soft_decline", "try_again_later", "try_again_later"),
        ("tok_insufficient_funds", "insufficient_funds", "approved"),
    ] {
        let provider = MemoryProvider::default();
        assert_eq!(code(&provider.handle(&authorize(5, token))), first, "{token}");
        let again = provider.handle(&request(ProviderOperation::Authorize, 2, 5, token));
        assert_eq!(code(&again), second, "{token}");
        assert_eq!(provider.ledger()[0].live, second == "approved", "{token}");
    }
}

#[test]
fn a_lost_answer_is_found_by_asking_and_a_lost_request_is_not() {
    for (token, asked, authorizations) in [("tok_timeout_after", "approved", 1), ("tok_timeout_before", "not_found", 0)]
    {
        let provider = MemoryProvider::default();
        assert_eq!(code(&provider.handle(&authorize(5, token))), "unknown", "{token}");
        let mut ask = authorize(5, token);
        ask.ask = true;
        assert_eq!(code(&provider.handle(&ask)), asked, "{token}");
        assert_eq!(provider.ledger()[0].authorizations, authorizations, "{token}");
        assert_eq!(code(&provider.handle(&authorize(5, token))), "approved", "{token}");
        assert_eq!(provider.ledger()[0].authorizations, 1, "{token}");
    }
}

#[test]
fn captures_can_be_lost_and_declined_too() {
    for (token, answers) in [
        ("tok_capture_timeout_after", ["unknown", "approved"]),
        ("tok_capture_timeout_before", ["unknown", "approved"]),
    ] {
        let provider = MemoryProvider::default();
        provider.handle(&authorize(5, token));
        let capture = request(ProviderOperation::Capture, 1, 5, token);
        let given = [provider.handle(&capture), provider.handle(&capture)];
        assert_eq!([code(&given[0]), code(&given[1])], answers, "{token}");
        assert_eq!(provider.ledger()[0].captures, 1, "{token}");
    }
    let provider = MemoryProvider::default();
    provider.handle(&authorize(5, "tok_capture_declined"));
    let first = request(ProviderOperation::Capture, 1, 5, "tok_capture_declined");
    assert_eq!(code(&provider.handle(&first)), "try_again_later");
    let second = request(ProviderOperation::Capture, 2, 5, "tok_capture_declined");
    assert_eq!(code(&provider.handle(&second)), "approved");
}

#[test]
fn an_authorization_can_expire_at_the_provider() {
    let provider = MemoryProvider::default();
    provider.handle(&authorize(5, "tok_authorization_expires"));
    assert!(provider.ledger()[0].live);
    let capture = request(ProviderOperation::Capture, 1, 5, "tok_authorization_expires");
    assert_eq!(code(&provider.handle(&capture)), AUTHORIZATION_EXPIRED);
    let entry = &provider.ledger()[0];
    assert_eq!((entry.live, entry.voided_minor, entry.captured_minor), (false, 5, 0));
}

#[test]
fn an_ask_leaves_no_trace() {
    let provider = MemoryProvider::default();
    let mut ask = authorize(5, "tok_visa");
    ask.ask = true;
    assert_eq!(code(&provider.handle(&ask)), "not_found");
    assert!(provider.ledger().is_empty());
}

/// Counts what reaches the provider.
struct Counting {
    inner: MemoryProvider,
    acts: std::sync::atomic::AtomicU32,
    rounds: std::sync::atomic::AtomicU32,
}

impl Provider for Counting {
    fn handle(&self, request: &ProviderRequest) -> ProviderResponse {
        if !request.ask {
            self.acts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        self.inner.handle(request)
    }

    fn handle_all(&self, requests: &[ProviderRequest], answer: &mut dyn FnMut(usize, ProviderResponse)) {
        self.rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        requests.iter().enumerate().for_each(|(place, request)| answer(place, self.handle(request)));
    }
}

#[test]
fn a_repeated_call_asks_before_it_acts() {
    let provider = Counting { inner: MemoryProvider::default(), acts: 0.into(), rounds: 0.into() };
    let bytes = authorize(5, "tok_visa").to_json();
    let acted = |provider: &Counting| provider.acts.load(std::sync::atomic::Ordering::Relaxed);
    // Never made before after all: nothing is found, so it acts.
    let first = handle_bytes(&provider, CallBytes { request: &bytes, repeated: true });
    assert_eq!(code(&ProviderResponse::from_json(&first)), "approved");
    assert_eq!(acted(&provider), 1);
    // Made before: its outcome is found, and nothing is asked for twice.
    assert_eq!(handle_bytes(&provider, CallBytes { request: &bytes, repeated: true }), first);
    assert_eq!(acted(&provider), 1);
    // The first time it acts at once, on what is asked now.
    let other = request(ProviderOperation::Capture, 1, 4, "tok_visa").to_json();
    assert_ne!(handle_bytes(&provider, CallBytes { request: &other, repeated: false }), first, "it is another amount");
    assert_eq!(acted(&provider), 2);
}

#[test]
fn what_cannot_be_read_is_answered_with_unknown() {
    let answer = handle_bytes(&MemoryProvider::default(), CallBytes { request: b"not json", repeated: false });
    assert_eq!(code(&ProviderResponse::from_json(&answer)), "unknown");
}

#[test]
fn calls_made_together_are_answered_each_in_its_place() {
    let provider = Counting { inner: MemoryProvider::default(), acts: 0.into(), rounds: 0.into() };
    let authorize = |order: &str| {
        let request =
            ProviderRequest { order_id: order.into(), ..request(ProviderOperation::Authorize, 1, 5, "tok_visa") };
        ProviderRequest { idempotency_key: format!("{order}/authorize/1"), ..request }.to_json()
    };
    let (known, new, first) = (authorize("known"), authorize("new"), authorize("first"));
    let before = handle_bytes(&provider, CallBytes { request: &known, repeated: false });
    let calls = [(&known, true), (&b"not json".to_vec(), false), (&new, true), (&first, false)];
    let calls = calls.map(|(request, repeated)| CallBytes { request, repeated });
    let mut answers = vec![Vec::new(); calls.len()];
    handle_all_bytes(&provider, &calls, &mut |place, answer| {
        assert!(answers[place].is_empty(), "{place} is answered once");
        answers[place] = answer;
    });
    let codes: Vec<_> = answers.iter().map(|answer| code(&ProviderResponse::from_json(answer)).to_owned()).collect();
    assert_eq!(codes, ["approved", "unknown", "approved", "approved"]);
    assert_eq!(answers[0], before, "what was done before is not done again");
    let acted = provider.acts.load(std::sync::atomic::Ordering::Relaxed);
    let asked = provider.rounds.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(asked, 3, "one round before, one of questions, one of requests; none about nothing");
    assert_eq!(acted, 3, "one before, and of the four only those that nobody had made");
}
