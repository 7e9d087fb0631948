//! The view comes out the same whatever arrives first, and says in every state what the order waits for.

use millrace_runtime::testing::Solo;
use millrace_runtime::{Failure, TaskContext};
use millrace_schemas::{
    CancelReason, Money, OpenCall, OrderEventKind, OrderStatus, PaymentEventKind, PaymentState, PricedLine,
    ProviderOperation, WaitsFor,
};
use proptest::prelude::*;

use super::*;

const TOPICS: [&str; 4] =
    [topics::ORDERS_ACCEPTED, topics::ORDERS_REJECTED, topics::PAYMENTS_EVENTS, topics::ORDERS_EVENTS];

fn bench(codec: &Codec) -> Solo {
    let partitions = TOPICS.iter().map(|topic| ((*topic).to_owned(), 1)).collect();
    Solo::new(definition(codec), TaskContext { partition: 0, partitions, settings: Default::default() })
}

fn accepted_order(at: i64) -> OrderAccepted {
    OrderAccepted {
        order_id: "o-1".into(),
        customer_id: "c-1".into(),
        lines: vec![PricedLine { sku: "A".into(), quantity: 2, unit_price_minor: 250, line_total_minor: 500 }],
        total: Money { minor: 500, currency: "EUR".into() },
        payment_method: "tok_visa".into(),
        fingerprint: "print".into(),
        channel: "web".into(),
        placed_at: 0,
        accepted_at: at,
    }
}

fn rejected_order(reason: RejectReason, at: i64) -> OrderRejected {
    OrderRejected {
        order_id: "o-1".into(),
        customer_id: "c-1".into(),
        reason,
        detail: "why".into(),
        skus: vec![],
        fingerprint: "print".into(),
        placed_at: 0,
        rejected_at: at,
    }
}

fn payment_event(version: i64, state: PaymentState, waits_for: WaitsFor, at: i64) -> PaymentEvent {
    PaymentEvent {
        order_id: "o-1".into(),
        kind: PaymentEventKind::ALL[usize::try_from(version).unwrap() % PaymentEventKind::ALL.len()],
        state,
        version,
        currency: "EUR".into(),
        requested_minor: 500,
        authorized_minor: 500,
        captured_minor: 0,
        voided_minor: 0,
        refunded_minor: 0,
        payment_method: "tok_visa".into(),
        provider_reference: None,
        attempt: 1,
        call: Some(OpenCall {
            operation: ProviderOperation::Authorize,
            idempotency_key: "o-1/authorize/1".into(),
            amount_minor: 500,
            ask: false,
            tries: 1,
            since: at,
        }),
        decline_kind: None,
        decline_code: None,
        void_wanted: false,
        waits_for,
        until: Some(at + 60),
        detail: String::new(),
        at,
    }
}

fn order_event(version: i64, status: OrderStatus, waits_for: WaitsFor, at: i64) -> OrderEvent {
    OrderEvent {
        order_id: "o-1".into(),
        kind: OrderEventKind::ALL[usize::try_from(version).unwrap() % OrderEventKind::ALL.len()],
        status,
        version,
        customer_id: "c-1".into(),
        payment: PaymentState::Authorized,
        total: None,
        captured_minor: 0,
        groups: vec![],
        progress: vec![],
        shipped_minor: 0,
        shipments: vec!["s-1".into()],
        cancel_wanted: status == OrderStatus::AwaitingPayment,
        delivered: false,
        cancel_reason: (status == OrderStatus::Cancelled).then_some(CancelReason::OutOfStock),
        waits_for,
        until: Some(at + 90),
        detail: format!("event {version}"),
        at,
    }
}

#[derive(Clone, Debug)]
struct Given {
    topic: &'static str,
    value: Vec<u8>,
}

fn given<T: AvroRecord>(topic: &'static str, value: &T) -> Given {
    let mut bytes = Vec::new();
    Codec::offline().encode(topic, value, &mut bytes);
    Given { topic, value: bytes }
}

fn accepted_at(at: i64) -> Given {
    given(topics::ORDERS_ACCEPTED, &accepted_order(at))
}

fn rejected_at(reason: RejectReason, at: i64) -> Given {
    given(topics::ORDERS_REJECTED, &rejected_order(reason, at))
}

fn payment_at(version: i64, state: PaymentState, waits_for: WaitsFor, at: i64) -> Given {
    given(topics::PAYMENTS_EVENTS, &payment_event(version, state, waits_for, at))
}

fn order_at(version: i64, status: OrderStatus, waits_for: WaitsFor, at: i64) -> Given {
    given(topics::ORDERS_EVENTS, &order_event(version, status, waits_for, at))
}

fn view_of(given: &[Given]) -> OrderView {
    let mut bench = bench(&Codec::offline());
    for record in given {
        bench.record(record.topic, b"o-1", &record.value).unwrap();
    }
    let value = bench.get(0, b"o-1").unwrap();
    bench.restart();
    assert_eq!(bench.get(0, b"o-1").unwrap(), value, "a rebuilt view is the same view");
    OrderView::from_stored("o-1", &value).unwrap()
}

#[test]
fn an_order_reads_as_its_status_says_in_every_state() {
    use OrderStatus as O;
    use PaymentState as P;
    let cases: [(&[Given], Status, &str); 13] = [
        (&[accepted_at(1)], Status::Received, "payment"),
        (&[rejected_at(RejectReason::SoldOut, 1)], Status::Rejected, "nobody"),
        (&[accepted_at(1), payment_at(1, P::Authorizing, WaitsFor::Provider, 2)], Status::Authorizing, "provider"),
        (&[accepted_at(1), payment_at(1, P::Authorized, WaitsFor::Fulfillment, 2)], Status::Reserving, "fulfillment"),
        (&[accepted_at(1), payment_at(1, P::Declined, WaitsFor::Nobody, 2)], Status::Cancelling, "fulfillment"),
        (&[accepted_at(1), order_at(1, O::Reserving, WaitsFor::Stock, 3)], Status::Reserving, "stock"),
        (&[accepted_at(1), order_at(1, O::Confirmed, WaitsFor::Warehouse, 3)], Status::Confirmed, "warehouse"),
        (&[order_at(1, O::AwaitingPayment, WaitsFor::Payment, 3)], Status::Cancelling, "payment"),
        (&[order_at(1, O::AwaitingOrder, WaitsFor::Intake, 3)], Status::Received, "intake"),
        (&[order_at(1, O::Shipped, WaitsFor::Carrier, 3)], Status::Shipped, "carrier"),
        // Fulfillment waits for payment, payment for the provider: so does the order.
        (
            &[payment_at(4, P::Capturing, WaitsFor::Provider, 2), order_at(1, O::Shipped, WaitsFor::Payment, 3)],
            Status::Shipped,
            "provider",
        ),
        (&[order_at(1, O::Completed, WaitsFor::Nobody, 3)], Status::Completed, "nobody"),
        (&[order_at(1, O::Cancelled, WaitsFor::Nobody, 3)], Status::Cancelled, "nobody"),
    ];
    for (given, status, waits_for) in cases {
        let view = view_of(given);
        assert_eq!((view.status, view.waits_for.as_str()), (status, waits_for), "{view:?}");
    }
}

#[test]
fn a_view_tells_what_people_ask() {
    let view = view_of(&[
        accepted_at(1),
        payment_at(1, PaymentState::Authorized, WaitsFor::Fulfillment, 2),
        order_at(1, OrderStatus::Confirmed, WaitsFor::Warehouse, 3),
    ]);
    assert_eq!((view.customer_id.as_str(), view.fingerprint.as_deref(), view.version), ("c-1", Some("print"), 3));
    assert_eq!(view.total, Some(Amount { minor: 500, currency: "EUR".into() }));
    assert_eq!((view.lines[0].sku.as_str(), view.lines[0].quantity), ("A", 2));
    assert_eq!((view.updated_at, view.until), (3, Some(93)));
    let payment = view.payment.as_ref().unwrap();
    assert_eq!((payment.state.as_str(), payment.authorized), ("authorized", 500));
    assert_eq!(view.history[0].event, "order.accepted");
    let json = view.to_json();
    assert!(json.contains("\"status\":\"confirmed\"") && !json.contains("tok_visa"), "{json}");
    assert_eq!(serde_json::from_str::<OrderView>(&json).unwrap(), view);
}

#[test]
fn a_rejection_tells_why() {
    let view = view_of(&[rejected_at(RejectReason::UnknownSku, 5)]);
    assert_eq!((view.reason.as_deref(), view.fingerprint.as_deref()), (Some("unknown_sku"), Some("print")));
    assert_eq!(view.history[0].detail, "unknown_sku: why");
}

#[test]
fn a_refused_duplicate_is_history_and_nothing_else() {
    let before = [accepted_at(1), order_at(1, OrderStatus::Confirmed, WaitsFor::Warehouse, 3)];
    let alone = view_of(&before);
    let duplicate = rejected_at(RejectReason::ConflictingDuplicate, 2);
    for place in 0..=before.len() {
        let mut given = before.to_vec();
        given.insert(place, duplicate.clone());
        let mut view = view_of(&given);
        assert_eq!(view.history[1].event, "order.duplicate_refused");
        view.history.remove(1);
        view.version -= 1;
        assert_eq!(view, alone);
    }
    // Even alone it makes no order of itself.
    let only = view_of(&[duplicate]);
    assert_eq!((only.status, only.fingerprint), (Status::Received, None));
}

#[test]
fn history_keeps_the_last_and_the_version_counts_all() {
    let given: Vec<_> =
        (1..=60).map(|version| order_at(version, OrderStatus::Reserving, WaitsFor::Stock, version)).collect();
    let view = view_of(&given);
    assert_eq!((view.history.len(), view.version), (HISTORY_MAX, 60));
    assert_eq!((view.history[0].at, view.updated_at), (11, 60));
}

#[test]
fn long_details_are_cut_at_a_character() {
    let mut event = order_event(1, OrderStatus::Reserving, WaitsFor::Stock, 1);
    event.detail = "ü".repeat(1_000);
    let view = view_of(&[given(topics::ORDERS_EVENTS, &event)]);
    assert_eq!(view.history[0].detail, "ü".repeat(100));
}

#[test]
fn a_stored_view_that_is_damaged_is_said_to_be_unreadable() {
    let mut bench = bench(&Codec::offline());
    let record = accepted_at(1);
    bench.record(record.topic, b"o-1", &record.value).unwrap();
    let value = bench.get(0, b"o-1").unwrap();
    for length in 0..value.len() {
        // Cut anywhere; only between two lines of history is it whole, with less history.
        if let Ok(view) = OrderView::from_stored("o-1", &value[..length]) {
            assert!(view.history.is_empty(), "{length}");
        }
    }
    assert!(OrderView::from_stored("o-1", &[9]).is_err());
}

#[test]
fn what_is_no_record_of_its_key_is_poison_and_a_tombstone_changes_nothing() {
    let mut bench = bench(&Codec::offline());
    let record = accepted_at(1);
    assert!(matches!(bench.record(record.topic, b"o-2", &record.value), Err(Failure::Poison(_))));
    assert!(matches!(bench.record(record.topic, b"o-1", b"garbage"), Err(Failure::Poison(_))));
    bench.record(record.topic, b"o-1", &record.value).unwrap();
    let before = bench.get(0, b"o-1");
    bench.raw(record.topic, b"o-1", None).unwrap();
    assert_eq!(bench.get(0, b"o-1"), before);
}

/// What each topic holds of one order, in its order.
fn topics_of_an_order() -> impl Strategy<Value = [Vec<Given>; 4]> {
    let statuses = proptest::collection::vec((0..OrderStatus::ALL.len(), 0_i64..30), 0..8);
    let states = proptest::collection::vec((0..PaymentState::ALL.len(), 0_i64..30), 0..8);
    let duplicates = proptest::collection::vec(0_i64..30, 0..3);
    (0..3_u8, states, statuses, duplicates).prop_map(|(intake, states, statuses, duplicates)| {
        let mut rejected: Vec<_> =
            duplicates.iter().map(|at| rejected_at(RejectReason::ConflictingDuplicate, *at)).collect();
        if intake == 1 {
            rejected.insert(0, rejected_at(RejectReason::Empty, 4));
        }
        let waits = |place: usize| WaitsFor::ALL[place % WaitsFor::ALL.len()];
        let payments = states
            .iter()
            .zip(1..)
            .map(|((place, at), version)| payment_at(version, PaymentState::ALL[*place], waits(place + 1), *at));
        let orders = statuses
            .iter()
            .zip(1..)
            .map(|((place, at), version)| order_at(version, OrderStatus::ALL[*place], waits(place + 2), *at));
        let accepted = if intake == 2 { vec![accepted_at(3)] } else { vec![] };
        [accepted, rejected, payments.collect(), orders.collect()]
    })
}

proptest! {
    /// Any way of shuffling the topics together, with repeats, gives the view that reading one after the other gives.
    #[test]
    fn the_order_of_the_topics_does_not_matter(
        topics in topics_of_an_order(),
        picks in proptest::collection::vec((0_usize..4, any::<bool>()), 0..80),
    ) {
        let straight: Vec<Given> = topics.iter().flatten().cloned().collect();
        prop_assume!(!straight.is_empty());
        let mut shuffled = Vec::new();
        let mut at = [0; 4];
        for (topic, repeat) in picks {
            if let Some(next) = topics[topic].get(at[topic]) {
                shuffled.push(next.clone());
                at[topic] += 1;
                if repeat {
                    shuffled.push(next.clone());
                }
            }
        }
        for (topic, from) in topics.iter().zip(at) {
            shuffled.extend_from_slice(&topic[from..]);
        }
        prop_assert_eq!(view_of(&shuffled), view_of(&straight));
    }
}
