//! The promises of payment: at most one authorization and one capture, every unknown outcome settled by asking, every
//! command safe to repeat.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use millrace_runtime::testing::Solo;
use millrace_runtime::{Failure, TaskContext};
use millrace_schemas::provider::{AUTHORIZATION_EXPIRED, ProviderRequest, ProviderResponse};
use millrace_schemas::{
    Codec, DeclineKind, Money, OrderAccepted, PaymentCommand, PaymentCommandKind, PaymentEvent, PaymentEventKind,
    PaymentState, PricedLine, ProviderOperation, WaitsFor, topics,
};
use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy { provider_ask_ms: 2_000, provider_tries_max: 3, authorization_valid_ms: 100_000 };

fn order(minor: i64) -> OrderAccepted {
    OrderAccepted {
        order_id: "o-1".into(),
        customer_id: "c-1".into(),
        lines: vec![PricedLine { sku: "A".into(), quantity: 1, unit_price_minor: minor, line_total_minor: minor }],
        total: euros(minor),
        payment_method: "tok_visa".into(),
        fingerprint: "f".into(),
        channel: "web".into(),
        placed_at: 0,
        accepted_at: 0,
    }
}

fn euros(minor: i64) -> Money {
    Money { minor, currency: "EUR".into() }
}

fn command(kind: PaymentCommandKind, minor: Option<i64>) -> PaymentCommand {
    PaymentCommand { order_id: "o-1".into(), kind, amount: minor.map(euros), reason: "test".into(), at: 0 }
}

fn approved(amount_minor: i64) -> ProviderResponse {
    ProviderResponse::Approved { reference: "ref-1".into(), amount_minor }
}

fn declined(kind: DeclineKind, code: &str) -> ProviderResponse {
    ProviderResponse::Declined { kind, code: code.into() }
}

fn unknown() -> ProviderResponse {
    ProviderResponse::Unknown { detail: "time-out".into() }
}

/// One payment and a clock, without an engine.
#[derive(Clone, Default)]
struct Desk {
    payment: Option<PaymentEvent>,
    now: i64,
}

impl Desk {
    fn feed(&mut self, input: Input<'_>) -> Option<PaymentEvent> {
        let next = decide(self.payment.as_ref(), input, self.now, &POLICY).unwrap();
        if let Some(next) = &next {
            let before = self.payment.as_ref().map_or(0, |payment| payment.version);
            assert_eq!(next.version, before + 1);
            self.payment = Some(next.clone());
        }
        next
    }

    fn accepted(minor: i64) -> Self {
        let mut desk = Self::default();
        desk.feed(Input::Accepted(&order(minor)));
        desk
    }

    fn authorized(minor: i64) -> Self {
        let mut desk = Self::accepted(minor);
        desk.answer(&approved(minor));
        desk
    }

    fn captured(authorized: i64, captured: i64) -> Self {
        let mut desk = Self::authorized(authorized);
        desk.command(PaymentCommandKind::Capture, Some(captured));
        desk.answer(&approved(captured));
        desk
    }

    fn command(&mut self, kind: PaymentCommandKind, minor: Option<i64>) -> Option<PaymentEvent> {
        self.feed(Input::Command(&command(kind, minor)))
    }

    fn answer(&mut self, response: &ProviderResponse) -> Option<PaymentEvent> {
        self.feed(Input::Answer(response))
    }

    /// Lets the time of the state pass.
    fn wait(&mut self) -> Option<PaymentEvent> {
        self.now = self.get().until.expect("a state that waits has an end");
        self.feed(Input::Deadline)
    }

    fn get(&self) -> &PaymentEvent {
        self.payment.as_ref().unwrap()
    }

    fn request(&self) -> ProviderRequest {
        ProviderRequest::from_json(&request(self.get()).expect("a request is open").request).unwrap()
    }

    fn state(&self) -> PaymentState {
        self.get().state
    }
}

#[test]
fn an_accepted_order_is_authorized_under_a_key_of_its_own() {
    let mut desk = Desk::accepted(500);
    let asked = desk.request();
    assert_eq!(asked.idempotency_key, "o-1/authorize/1");
    assert_eq!((asked.operation, asked.amount_minor, asked.ask), (ProviderOperation::Authorize, 500, false));
    assert_eq!(desk.get().waits_for, WaitsFor::Provider);
    desk.answer(&approved(500));
    assert_eq!(desk.state(), PaymentState::Authorized);
    assert_eq!((desk.get().authorized_minor, desk.get().call.clone()), (500, None));
    assert_eq!((desk.get().waits_for, desk.get().until), (WaitsFor::Fulfillment, Some(100_000)));
}

#[test]
fn the_same_order_again_changes_nothing_in_any_state() {
    for mut desk in [Desk::accepted(5), Desk::authorized(5), Desk::captured(5, 5)] {
        assert_eq!(desk.feed(Input::Accepted(&order(5))), None);
        assert_eq!(desk.feed(Input::Accepted(&order(6))), None);
    }
}

#[test]
fn a_hard_decline_ends_the_payment() {
    let mut desk = Desk::accepted(5);
    desk.answer(&declined(DeclineKind::Hard, "card_declined"));
    assert_eq!(desk.state(), PaymentState::Declined);
    assert_eq!(desk.get().decline_code.as_deref(), Some("card_declined"));
    assert_eq!((desk.get().waits_for, desk.get().until), (WaitsFor::Nobody, None));
}

#[test]
fn a_soft_decline_is_tried_once_more_under_another_key_after_a_pause() {
    let mut desk = Desk::accepted(5);
    desk.answer(&declined(DeclineKind::Soft, "insufficient_funds"));
    assert_eq!(desk.state(), PaymentState::Authorizing);
    assert_eq!(open_call(desk.get()), None);
    assert_eq!(desk.get().until, Some(2_000));
    desk.wait();
    assert_eq!(desk.request().idempotency_key, "o-1/authorize/2");
    let mut second = desk.clone();
    second.answer(&approved(5));
    assert_eq!((second.state(), second.get().decline_code.clone()), (PaymentState::Authorized, None));
    desk.answer(&declined(DeclineKind::Soft, "insufficient_funds"));
    assert_eq!(desk.state(), PaymentState::Declined);
}

#[test]
fn a_timeout_is_settled_by_asking_under_the_same_key_when_the_payment_was_done() {
    let mut desk = Desk::accepted(5);
    let first = request(desk.get()).unwrap();
    assert_eq!(desk.answer(&unknown()).unwrap().kind, PaymentEventKind::OutcomeUnknown);
    assert_eq!(desk.state(), PaymentState::Authorizing);
    assert_eq!(open_call(desk.get()), None, "it is let rest before it is asked about");
    desk.wait();
    let asked = desk.request();
    assert!(asked.ask);
    assert_eq!(asked.idempotency_key, "o-1/authorize/1");
    assert_ne!(request(desk.get()).unwrap().id, first.id, "another call, so that it is made");
    desk.answer(&approved(5));
    assert_eq!((desk.state(), desk.get().authorized_minor), (PaymentState::Authorized, 5));
}

#[test]
fn a_timeout_is_settled_by_asking_when_the_payment_was_not_done() {
    let mut desk = Desk::accepted(5);
    desk.answer(&unknown());
    desk.wait();
    desk.answer(&ProviderResponse::NotFound);
    let again = desk.request();
    assert!(!again.ask);
    assert_eq!(again.idempotency_key, "o-1/authorize/1");
    desk.answer(&approved(5));
    assert_eq!(desk.state(), PaymentState::Authorized);
}

#[test]
fn a_provider_that_stays_silent_is_asked_ever_more_rarely_and_never_guessed_about() {
    let mut desk = Desk::accepted(5);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        desk.answer(&unknown());
        assert_eq!(desk.state(), PaymentState::Authorizing);
        pauses.push(desk.get().until.unwrap() - desk.now);
        desk.wait();
        assert!(desk.request().ask);
        assert_eq!(desk.request().idempotency_key, "o-1/authorize/1");
    }
    assert_eq!(pauses, [2_000, 2_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
    assert!(desk.answer(&unknown()).unwrap().detail.contains("a person should look"));
}

#[test]
fn a_call_that_is_never_answered_is_asked_about() {
    let mut desk = Desk::accepted(5);
    desk.wait();
    assert!(desk.request().ask);
    assert_eq!(desk.request().idempotency_key, "o-1/authorize/1");
}

#[test]
fn an_authorization_that_is_not_captured_in_time_is_voided_and_expires() {
    let mut desk = Desk::authorized(5);
    desk.wait();
    assert_eq!((desk.state(), desk.request().operation), (PaymentState::Voiding, ProviderOperation::Void));
    desk.answer(&approved(5));
    assert_eq!((desk.state(), desk.get().voided_minor), (PaymentState::Expired, 5));
}

#[test]
fn an_authorization_the_provider_let_go_expires_when_it_is_captured() {
    let mut desk = Desk::authorized(5);
    desk.command(PaymentCommandKind::Capture, Some(5));
    desk.answer(&declined(DeclineKind::Hard, AUTHORIZATION_EXPIRED));
    assert_eq!((desk.state(), desk.get().captured_minor, desk.get().voided_minor), (PaymentState::Expired, 0, 5));
}

#[test]
fn a_void_while_authorizing_waits_for_the_answer_then_voids() {
    let mut desk = Desk::accepted(5);
    let open = request(desk.get());
    desk.command(PaymentCommandKind::Void, None);
    assert_eq!(desk.state(), PaymentState::Authorizing);
    assert_eq!(request(desk.get()), open, "the open request stays the same request");
    assert_eq!(desk.command(PaymentCommandKind::Void, None), None);
    let mut refused = desk.clone();
    desk.answer(&approved(5));
    assert_eq!((desk.state(), desk.get().authorized_minor), (PaymentState::Voiding, 5));
    assert_eq!(desk.request().provider_reference.as_deref(), Some("ref-1"));
    desk.answer(&approved(5));
    assert_eq!((desk.state(), desk.get().voided_minor), (PaymentState::Voided, 5));
    // Softly declined, but nobody wants another attempt.
    refused.answer(&declined(DeclineKind::Soft, "try_again_later"));
    assert_eq!(refused.state(), PaymentState::Declined);
}

#[test]
fn a_void_while_the_outcome_is_unknown_still_asks_before_it_voids() {
    let mut desk = Desk::accepted(5);
    desk.answer(&unknown());
    desk.command(PaymentCommandKind::Void, None);
    desk.wait();
    assert!(desk.request().ask);
    desk.answer(&approved(5));
    assert_eq!(desk.state(), PaymentState::Voiding);
}

#[test]
fn a_void_between_two_attempts_ends_the_payment_at_once() {
    let mut desk = Desk::accepted(5);
    desk.answer(&declined(DeclineKind::Soft, "try_again_later"));
    desk.command(PaymentCommandKind::Void, None);
    assert_eq!((desk.state(), desk.get().call.clone()), (PaymentState::Declined, None));
}

#[test]
fn a_void_before_the_order_is_remembered_and_the_provider_never_asked() {
    let mut desk = Desk::default();
    desk.command(PaymentCommandKind::Void, None);
    assert_eq!((desk.state(), desk.get().waits_for), (PaymentState::Unknown, WaitsFor::Intake));
    assert_eq!(desk.command(PaymentCommandKind::Void, None), None);
    let mut never = desk.clone();
    desk.feed(Input::Accepted(&order(5)));
    assert_eq!((desk.state(), desk.get().authorized_minor), (PaymentState::Voided, 0));
    assert_eq!(request(desk.get()), None);
    never.wait();
    assert_eq!(never.state(), PaymentState::Voided);
}

#[test]
fn a_capture_or_refund_of_nothing_known_is_an_error() {
    for kind in [PaymentCommandKind::Capture, PaymentCommandKind::Refund, PaymentCommandKind::Unknown] {
        let command = command(kind, Some(1));
        assert!(decide(None, Input::Command(&command), 0, &POLICY).is_err(), "{kind:?}");
    }
}

#[test]
fn a_capture_takes_what_shipped_and_lets_the_rest_go() {
    let mut desk = Desk::authorized(500);
    desk.command(PaymentCommandKind::Capture, Some(300));
    assert_eq!(desk.request().idempotency_key, "o-1/capture/1");
    assert_eq!(desk.command(PaymentCommandKind::Capture, Some(300)), None, "repeated");
    desk.answer(&approved(300));
    let payment = desk.get();
    assert_eq!((payment.state, payment.captured_minor, payment.voided_minor), (PaymentState::Captured, 300, 200));
    assert_eq!(desk.command(PaymentCommandKind::Capture, Some(300)), None, "late");
}

#[test]
fn a_capture_of_more_than_authorized_is_refused_once() {
    let mut desk = Desk::authorized(500);
    let refusal = desk.command(PaymentCommandKind::Capture, Some(501)).unwrap();
    assert_eq!((refusal.kind, refusal.state), (PaymentEventKind::CommandRefused, PaymentState::Authorized));
    assert_eq!(request(&refusal), None);
    assert_eq!(desk.command(PaymentCommandKind::Capture, Some(501)), None);
    let mut dollars = command(PaymentCommandKind::Capture, Some(5));
    dollars.amount = Some(Money { minor: 5, currency: "USD".into() });
    assert_eq!(desk.feed(Input::Command(&dollars)).unwrap().kind, PaymentEventKind::CommandRefused);
    desk.command(PaymentCommandKind::Capture, None);
    assert_eq!(desk.request().amount_minor, 500, "no amount is all of it");
}

#[test]
fn a_refused_capture_is_tried_again_later_under_another_key() {
    let mut desk = Desk::authorized(5);
    desk.command(PaymentCommandKind::Capture, Some(5));
    desk.answer(&declined(DeclineKind::Soft, "try_again_later"));
    assert_eq!((desk.state(), open_call(desk.get())), (PaymentState::Capturing, None));
    desk.wait();
    assert_eq!((desk.request().idempotency_key.as_str(), desk.request().amount_minor), ("o-1/capture/2", 5));
}

#[test]
fn a_refund_is_at_most_what_was_captured() {
    let mut desk = Desk::captured(500, 300);
    let refusal = desk.command(PaymentCommandKind::Refund, Some(301)).unwrap();
    assert_eq!((refusal.kind, refusal.state), (PaymentEventKind::CommandRefused, PaymentState::Captured));
    desk.command(PaymentCommandKind::Refund, Some(300));
    assert_eq!(desk.command(PaymentCommandKind::Refund, Some(300)), None, "repeated");
    desk.answer(&approved(300));
    assert_eq!((desk.state(), desk.get().refunded_minor), (PaymentState::Refunded, 300));
    assert_eq!(desk.command(PaymentCommandKind::Refund, Some(300)), None, "late");
    assert_eq!(desk.command(PaymentCommandKind::Refund, Some(1)).unwrap().kind, PaymentEventKind::CommandRefused);
}

#[test]
fn captured_money_cannot_be_voided_and_ended_payments_take_a_void_silently() {
    let mut desk = Desk::captured(5, 5);
    assert_eq!(desk.command(PaymentCommandKind::Void, None).unwrap().kind, PaymentEventKind::CommandRefused);
    assert_eq!((desk.state(), desk.get().void_wanted), (PaymentState::Captured, false));
    let mut desk = Desk::accepted(5);
    desk.answer(&declined(DeclineKind::Hard, "card_declined"));
    assert_eq!(desk.command(PaymentCommandKind::Void, None), None);
    assert_eq!(desk.command(PaymentCommandKind::Capture, None).unwrap().kind, PaymentEventKind::CommandRefused);
}

#[test]
fn a_part_authorization_is_let_go() {
    let mut desk = Desk::accepted(500);
    desk.answer(&approved(200));
    assert_eq!((desk.state(), desk.request().amount_minor), (PaymentState::Voiding, 200));
    desk.answer(&approved(200));
    assert_eq!((desk.state(), desk.get().voided_minor), (PaymentState::Voided, 200));
}

/// Every input that makes a difference.
fn alphabet() -> Vec<ProviderResponse> {
    vec![
        approved(5),
        approved(3),
        declined(DeclineKind::Hard, "card_declined"),
        declined(DeclineKind::Soft, "try_again_later"),
        declined(DeclineKind::Hard, AUTHORIZATION_EXPIRED),
        unknown(),
        ProviderResponse::NotFound,
    ]
}

fn commands() -> Vec<PaymentCommand> {
    use PaymentCommandKind::{Capture, Refund, Void};
    let amounts = [Some(3), Some(5), Some(9), None];
    let mut all = vec![command(Void, None)];
    all.extend([Capture, Refund].into_iter().flat_map(|kind| amounts.map(|amount| command(kind, amount))));
    all
}

/// What of a payment decides its future; counters only as far as they matter.
fn shape(payment: Option<&PaymentEvent>) -> String {
    payment.map_or_else(String::new, |p| {
        let call = p.call.as_ref().map(|c| (c.operation, c.ask, c.tries.min(4), c.amount_minor));
        let money = (p.authorized_minor, p.captured_minor, p.voided_minor, p.refunded_minor);
        format!("{:?} {call:?} {} {money:?} {} {:?}", p.state, p.attempt.min(4), p.void_wanted, p.waits_for)
    })
}

#[test]
fn exactly_the_transitions_of_the_table_can_happen() {
    let (responses, commands, order) = (alphabet(), commands(), order(5));
    let mut taken = BTreeSet::new();
    let mut seen = BTreeSet::from([String::new()]);
    let mut open = VecDeque::from([None::<PaymentEvent>]);
    while let Some(payment) = open.pop_front() {
        let mut inputs = vec![Input::Accepted(&order)];
        inputs.extend(commands.iter().map(Input::Command));
        if payment.as_ref().is_some_and(|p| p.until.is_some()) {
            inputs.push(Input::Deadline);
        }
        if payment.as_ref().is_some_and(|p| open_call(p).is_some()) {
            inputs.extend(responses.iter().map(Input::Answer));
        }
        for input in inputs {
            let Ok(Some(next)) = decide(payment.as_ref(), input, 0, &POLICY) else { continue };
            let from = payment.as_ref().map_or(PaymentState::Unknown, |p| p.state);
            if next.kind == PaymentEventKind::CommandRefused {
                assert_eq!((next.state, &next.call), (from, &payment.as_ref().unwrap().call));
            } else {
                taken.insert((from, cause(&input), next.state));
            }
            check_invariants(payment.as_ref(), &next);
            if seen.insert(shape(Some(&next))) {
                open.push_back(Some(next));
            }
        }
    }
    assert_eq!(taken, TRANSITIONS.iter().copied().collect());
    assert!(seen.len() > 50, "{}", seen.len());
}

fn check_invariants(before: Option<&PaymentEvent>, next: &PaymentEvent) {
    let ended = matches!(
        next.state,
        PaymentState::Declined
            | PaymentState::Captured
            | PaymentState::Voided
            | PaymentState::Refunded
            | PaymentState::Expired
    );
    assert_eq!(ended, next.until.is_none(), "{next:?}");
    assert_eq!(ended, next.waits_for == WaitsFor::Nobody, "{next:?}");
    if ended {
        assert_eq!(next.call, None);
        // The made-up provider may capture another amount than asked; an honest one makes this an equality.
        assert!(next.authorized_minor <= next.captured_minor + next.voided_minor, "{next:?}");
    }
    let (Some(old), Some(new)) = (before.and_then(|before| before.call.as_ref()), next.call.as_ref()) else { return };
    if old.operation == new.operation && old.idempotency_key != new.idempotency_key {
        assert_eq!(next.kind, PaymentEventKind::Declined, "a new key only after a known no: {next:?}");
    }
}

/// A provider of the test: acts once per key, loses requests and answers as it is told.
#[derive(Default)]
struct Bank {
    decided: BTreeMap<String, ProviderResponse>,
    authorized: Vec<i64>,
    captured: Vec<i64>,
    voided: i64,
    refunded: i64,
}

impl Bank {
    fn handle(&mut self, request: &ProviderRequest, luck: u8) -> ProviderResponse {
        let known = self.decided.get(&request.idempotency_key).cloned();
        if request.ask {
            return if luck == 0 { unknown() } else { known.unwrap_or(ProviderResponse::NotFound) };
        }
        if luck == 0 {
            return unknown();
        }
        let response = known.unwrap_or_else(|| self.act(request, luck));
        self.decided.insert(request.idempotency_key.clone(), response.clone());
        if luck == 1 { unknown() } else { response }
    }

    fn act(&mut self, request: &ProviderRequest, luck: u8) -> ProviderResponse {
        if luck == 2 {
            return declined(DeclineKind::Soft, "try_again_later");
        }
        match request.operation {
            ProviderOperation::Authorize => self.authorized.push(request.amount_minor),
            ProviderOperation::Capture => self.captured.push(request.amount_minor),
            ProviderOperation::Void => self.voided += request.amount_minor,
            ProviderOperation::Refund => self.refunded += request.amount_minor,
            ProviderOperation::Unknown => panic!("nobody asks for this"),
        }
        approved(request.amount_minor)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever comes in whatever order, whatever gets lost: the money at the bank is what the payment says, charged
    /// at most once, and nothing stays held once the payment has ended.
    #[test]
    fn the_bank_and_the_payment_agree_in_the_end(
        script in proptest::collection::vec((0_u8..12, 0_usize..9, 0_u8..8), 0..60),
        total in 0_i64..10,
    ) {
        let (mut desk, mut bank) = (Desk::default(), Bank::default());
        let (order, commands) = (order(total), commands());
        for (act, which, luck) in script {
            desk.now += 1;
            match act {
                0 => drop(desk.feed(Input::Accepted(&order))),
                1..=3 => {
                    if let Ok(Some(next)) = decide(desk.payment.as_ref(), Input::Command(&commands[which]), desk.now, &POLICY) {
                        desk.payment = Some(next);
                    }
                }
                _ => turn(&mut desk, &mut bank, luck),
            }
        }
        // From here on nothing gets lost, and nobody wants anything more.
        desk.feed(Input::Accepted(&order));
        for _ in 0..20 {
            turn(&mut desk, &mut bank, 7);
        }
        let payment = desk.get();
        prop_assert!(payment.until.is_none(), "{:?} has not ended", payment);
        prop_assert!(bank.authorized.len() <= 1 && bank.captured.len() <= 1);
        let sum = |amounts: &[i64]| amounts.iter().sum::<i64>();
        prop_assert_eq!(sum(&bank.authorized), payment.authorized_minor);
        prop_assert_eq!(sum(&bank.captured), payment.captured_minor);
        prop_assert_eq!(bank.refunded, payment.refunded_minor);
        prop_assert_eq!(payment.authorized_minor, payment.captured_minor + payment.voided_minor);
        let released = if bank.captured.is_empty() { bank.voided } else { payment.authorized_minor - sum(&bank.captured) };
        prop_assert_eq!(released, payment.voided_minor);
        prop_assert!(payment.refunded_minor <= payment.captured_minor);
    }
}

/// The open request is made, or else the time of the state passes. A crash between the two makes a request twice.
fn turn(desk: &mut Desk, bank: &mut Bank, luck: u8) {
    let Some(payment) = &desk.payment else { return };
    if open_call(payment).is_some() {
        let request = desk.request();
        if luck == 3 {
            bank.handle(&request, 7);
        }
        let response = bank.handle(&request, luck);
        desk.answer(&response);
    } else if payment.until.is_some() {
        desk.wait();
    }
}

// ---- the glue --------------------------------------------------------------------------------------------------

fn bench(codec: &Codec) -> Solo {
    let topics = [topics::ORDERS_ACCEPTED, topics::PAYMENTS_COMMANDS, topics::PAYMENTS_EVENTS];
    let settings = [("provider_ask_ms", 2_000), ("provider_tries_max", 3), ("authorization_valid_ms", 100_000)];
    let context = TaskContext {
        partition: 0,
        partitions: topics.iter().map(|topic| ((*topic).to_owned(), 1)).collect(),
        settings: settings.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
    };
    Solo::new(definition(codec), context)
}

fn encoded<T: millrace_schemas::AvroRecord>(codec: &Codec, topic: &str, value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec.encode(topic, value, &mut bytes);
    bytes
}

fn kinds(bench: &mut Solo) -> Vec<String> {
    bench.emitted().into_iter().map(|emitted| emitted.kind).collect()
}

#[test]
fn calls_deadlines_and_answers_go_through_the_engine_and_survive_a_restart() {
    let codec = Codec::offline();
    let mut bench = bench(&codec);
    bench.at(1_000);
    bench.record(topics::ORDERS_ACCEPTED, b"o-1", &encoded(&codec, topics::ORDERS_ACCEPTED, &order(5))).unwrap();
    let (key, call) = bench.calls().remove(0);
    assert_eq!((key.as_slice(), call.id.as_str()), (b"o-1".as_slice(), "o-1/authorize/1#1"));
    bench.answer(0, b"o-1", &call.id, &unknown().to_json()).unwrap();
    assert!(bench.calls().is_empty());
    assert_eq!(bench.due(), [(0, b"o-1".to_vec(), 3_000)]);
    bench.restart();
    assert_eq!(bench.due(), [(0, b"o-1".to_vec(), 3_000)]);
    bench.at(3_000);
    bench.fire(0, b"o-1").unwrap();
    let (_, asked) = bench.calls().remove(0);
    assert_eq!(asked.id, "o-1/authorize/1#2");
    // The late answer to the first call is no answer to this one.
    bench.answer(0, b"o-1", &call.id, &approved(5).to_json()).unwrap();
    bench.answer(0, b"o-1", &asked.id, &approved(5).to_json()).unwrap();
    assert_eq!(kinds(&mut bench), ["AUTHORIZATION_REQUESTED", "OUTCOME_UNKNOWN", "OUTCOME_UNKNOWN", "AUTHORIZED"]);
    let capture = command(PaymentCommandKind::Capture, Some(5));
    bench.record(topics::PAYMENTS_COMMANDS, b"o-1", &encoded(&codec, topics::PAYMENTS_COMMANDS, &capture)).unwrap();
    let (_, call) = bench.calls().remove(0);
    bench.answer(0, b"o-1", &call.id, b"<html>").unwrap();
    assert_eq!(kinds(&mut bench), ["CAPTURE_REQUESTED", "OUTCOME_UNKNOWN"], "an answer nobody can read is none");
}

#[test]
fn what_is_no_record_of_its_key_is_poison() {
    let codec = Codec::offline();
    let mut bench = bench(&codec);
    let accepted = encoded(&codec, topics::ORDERS_ACCEPTED, &order(5));
    let capture = command(PaymentCommandKind::Capture, Some(5));
    let capture = encoded(&codec, topics::PAYMENTS_COMMANDS, &capture);
    for (topic, key, value) in [
        (topics::ORDERS_ACCEPTED, b"o-2".as_slice(), Some(accepted.as_slice())),
        (topics::ORDERS_ACCEPTED, b"", Some(&accepted)),
        (topics::ORDERS_ACCEPTED, b"o-1", Some(b"{}")),
        (topics::ORDERS_ACCEPTED, b"o-1", None),
        (topics::PAYMENTS_COMMANDS, b"o-1", Some(&capture)),
    ] {
        assert!(matches!(bench.raw(topic, key, value), Err(Failure::Poison(_))), "{topic} {key:?}");
    }
    assert!(bench.emitted().is_empty());
}
