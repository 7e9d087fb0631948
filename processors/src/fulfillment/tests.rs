//! The named cases of an order's life after payment, decided one input at a time, and the transition table.

use std::collections::BTreeSet;

use millrace_schemas::{
    CancelReason, CancelRequested, Money as Amount, OrderAccepted, OrderEvent, OrderEventKind, OrderStatus,
    PaymentCommandKind, PaymentEvent, PaymentEventKind, PaymentState, PricedLine, RejectReason, ShipmentUpdate,
    ShipmentUpdateKind, ShortLine, StockCommandKind, StockEvent, StockEventKind, StockLine, WaitsFor,
    murmur2_partition,
};

use super::decide::{Decision, Input, Paid, Policy, decide, needs_intake};
use super::lines::Intake;
use super::state::{Cause, deadline, ends_the_order, is_final, nothing_known};

pub(super) const POLICY: Policy = Policy {
    reservation_timeout: 30_000,
    payment_timeout: 60_000,
    shipping_timeout: 432_000_000,
    delivery_timeout: 1_209_600_000,
    cancel_timeout: 30_000,
    stock_partitions: 4,
};

pub(super) fn order_of(id: &str, lines: &[(&str, i32)]) -> OrderAccepted {
    let price = 250;
    let priced = lines.iter().map(|(sku, quantity)| PricedLine {
        sku: (*sku).to_owned(),
        quantity: *quantity,
        unit_price_minor: price,
        line_total_minor: price * i64::from(*quantity),
    });
    let lines: Vec<PricedLine> = priced.collect();
    OrderAccepted {
        order_id: id.to_owned(),
        customer_id: "c1".to_owned(),
        total: Amount { minor: lines.iter().map(|l| l.line_total_minor).sum(), currency: "EUR".to_owned() },
        lines,
        payment_method: "tok".to_owned(),
        fingerprint: String::new(),
        channel: "web".to_owned(),
        placed_at: 0,
        accepted_at: 0,
    }
}

/// What fulfillment reads of a payment's event.
pub(super) fn of(event: &PaymentEvent) -> Paid<'_> {
    let PaymentEvent { state, requested_minor, captured_minor, currency, .. } = event;
    Paid { state: *state, requested_minor: *requested_minor, captured_minor: *captured_minor, currency }
}

pub(super) fn paid(id: &str, state: PaymentState, captured_minor: i64) -> PaymentEvent {
    PaymentEvent {
        order_id: id.to_owned(),
        kind: PaymentEventKind::Unknown,
        state,
        version: 1,
        currency: "EUR".to_owned(),
        requested_minor: 0,
        authorized_minor: 0,
        captured_minor,
        voided_minor: 0,
        refunded_minor: 0,
        payment_method: String::new(),
        provider_reference: None,
        attempt: 1,
        call: None,
        decline_kind: None,
        decline_code: None,
        void_wanted: false,
        waits_for: WaitsFor::Nobody,
        until: None,
        detail: String::new(),
        at: 0,
    }
}

pub(super) fn cancel_of(id: &str) -> CancelRequested {
    CancelRequested {
        order_id: id.to_owned(),
        request_id: "r1".to_owned(),
        reason: "changed my mind".to_owned(),
        requested_by: "customer".to_owned(),
        at: 0,
    }
}

pub(super) fn word_of(id: &str, shipment: &str, kind: ShipmentUpdateKind, lines: &[(&str, i32)]) -> ShipmentUpdate {
    let lines = lines.iter().map(|(sku, quantity)| StockLine { sku: (*sku).to_owned(), quantity: *quantity });
    ShipmentUpdate { order_id: id.to_owned(), shipment_id: shipment.to_owned(), kind, lines: lines.collect(), at: 0 }
}

pub(super) fn answer(partition: i32, kind: StockEventKind, command_id: &str) -> StockEvent {
    let short = ShortLine { sku: "a".to_owned(), wanted: 2, available: 1 };
    StockEvent {
        order_id: "o".to_owned(),
        attempt: 1,
        stock_partition: partition,
        kind,
        command_id: command_id.to_owned(),
        lines: Vec::new(),
        short: if kind == StockEventKind::Insufficient { vec![short] } else { Vec::new() },
        at: 0,
    }
}

/// One order, by itself.
pub(super) struct Case {
    pub(super) order: Option<OrderEvent>,
    pub(super) accepted: Option<OrderAccepted>,
    /// A rejection that ends the order was read.
    pub(super) rejected: bool,
    pub(super) now: i64,
    pub(super) taken: BTreeSet<(OrderStatus, Cause, OrderStatus)>,
}

pub(super) const A: &str = "a";

impl Case {
    pub(super) fn nothing() -> Self {
        Self { order: None, accepted: None, rejected: false, now: 1_000, taken: BTreeSet::new() }
    }

    /// The accepted order is in its table but nothing else has happened.
    pub(super) fn accepted(lines: &[(&str, i32)]) -> Self {
        Self { accepted: Some(order_of("o", lines)), ..Self::nothing() }
    }

    pub(super) fn reserving(lines: &[(&str, i32)]) -> Self {
        let mut case = Self::accepted(lines);
        case.pay(PaymentState::Authorized);
        assert_eq!(case.status(), OrderStatus::Reserving);
        case
    }

    pub(super) fn confirmed(lines: &[(&str, i32)]) -> Self {
        let mut case = Self::reserving(lines);
        for partition in case.partitions() {
            case.stock(partition, StockEventKind::Reserved);
        }
        assert_eq!(case.status(), OrderStatus::Confirmed);
        case
    }

    pub(super) fn try_give(&mut self, input: Input<'_>) -> Result<Decision, String> {
        let intake = match &self.accepted {
            _ if !needs_intake(self.order.as_ref(), input) => Intake::Silent,
            Some(accepted) => Intake::Accepted(accepted.clone().into()),
            None if self.rejected => Intake::Rejected,
            None => Intake::Silent,
        };
        let decision = decide("o", self.order.clone(), intake, input, self.now, &POLICY)?;
        if let Some(next) = &decision.event {
            assert_eq!(next.version, self.order.as_ref().map_or(0, |o| o.version) + 1);
            assert_eq!(deadline(next).is_none(), is_final(next.status));
            assert_eq!(next.until.is_none(), is_final(next.status), "{next:?}");
            assert_eq!(next.waits_for == WaitsFor::Nobody, is_final(next.status));
            assert_ne!(next.waits_for, WaitsFor::Unknown);
            self.order = Some(next.clone());
        } else {
            assert_eq!((decision.stock.len(), &decision.payment), (0, &None), "no command without an event");
        }
        Ok(decision)
    }

    pub(super) fn give(&mut self, input: Input<'_>) -> Decision {
        self.try_give(input).unwrap()
    }

    /// Intake's rejection is read, into the table first.
    pub(super) fn reject(&mut self, reason: RejectReason) -> Decision {
        self.rejected |= ends_the_order(reason);
        self.give(Input::Rejected(reason))
    }

    pub(super) fn pay(&mut self, state: PaymentState) -> Decision {
        self.give(Input::Payment(of(&paid("o", state, 0))))
    }

    pub(super) fn captured(&mut self, minor: i64) -> Decision {
        self.give(Input::Payment(of(&paid("o", PaymentState::Captured, minor))))
    }

    pub(super) fn stock(&mut self, partition: i32, kind: StockEventKind) -> Decision {
        self.give(Input::Stock(&answer(partition, kind, "")))
    }

    pub(super) fn cancel(&mut self) -> Decision {
        self.give(Input::Cancel(&cancel_of("o")))
    }

    pub(super) fn word(&mut self, shipment: &str, kind: ShipmentUpdateKind, lines: &[(&str, i32)]) -> Decision {
        self.give(Input::Shipment(&word_of("o", shipment, kind, lines)))
    }

    pub(super) fn ship(&mut self, shipment: &str, lines: &[(&str, i32)]) -> Decision {
        self.word(shipment, ShipmentUpdateKind::Shipped, lines)
    }

    pub(super) fn time_out(&mut self) -> Decision {
        self.now = deadline(self.order.as_ref().unwrap()).expect("a final state has no deadline to pass");
        self.give(Input::Deadline)
    }

    pub(super) fn order(&self) -> &OrderEvent {
        self.order.as_ref().unwrap()
    }

    pub(super) fn status(&self) -> OrderStatus {
        self.order().status
    }

    pub(super) fn partitions(&self) -> Vec<i32> {
        self.order().groups.iter().map(|group| group.stock_partition).collect()
    }

    pub(super) fn release_all(&mut self) {
        for partition in self.partitions() {
            self.stock(partition, StockEventKind::Released);
        }
    }
}

pub(super) fn kinds(decision: &Decision) -> Vec<StockCommandKind> {
    decision.stock.iter().map(|(_, command)| command.kind).collect()
}

pub(super) fn payment(decision: &Decision) -> Option<(PaymentCommandKind, Option<i64>)> {
    decision.payment.as_ref().map(|command| (command.kind, command.amount.as_ref().map(|amount| amount.minor)))
}

/// SKUs on different partitions of the ledger, so that an order of them has several groups.
pub(super) fn skus_apart(count: usize) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for n in 0.. {
        let sku = format!("sku-{n}");
        let owner = murmur2_partition(sku.as_bytes(), 4);
        if found.iter().all(|known| murmur2_partition(known.as_bytes(), 4) != owner) {
            found.push(sku);
        }
        if found.len() == count {
            break;
        }
    }
    found.sort();
    found
}

#[test]
fn an_order_of_one_line_goes_all_the_way() {
    let mut case = Case::accepted(&[(A, 2)]);
    assert_eq!(case.give(Input::Accepted).event, None);
    assert_eq!(case.pay(PaymentState::Authorizing).event, None);
    let asked = case.pay(PaymentState::Authorized);
    assert_eq!(kinds(&asked), [StockCommandKind::Reserve]);
    assert_eq!(case.order().groups[0].key, A);
    assert_eq!((case.order().customer_id.as_str(), case.order().total.as_ref().unwrap().minor), ("c1", 500));
    assert_eq!(case.order().until, Some(1_000 + POLICY.reservation_timeout));
    let partition = case.partitions()[0];
    case.stock(partition, StockEventKind::Reserved);
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::Confirmed, WaitsFor::Warehouse));
    let shipped = case.ship("s1", &[]);
    assert_eq!(kinds(&shipped), [StockCommandKind::Ship]);
    assert_eq!(payment(&shipped), Some((PaymentCommandKind::Capture, Some(500))));
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::Shipped, WaitsFor::Payment));
    assert_eq!(case.stock(partition, StockEventKind::Shipped).event, None);
    assert_eq!(case.pay(PaymentState::Capturing).event, None);
    case.captured(500);
    assert_eq!((case.status(), case.order().kind), (OrderStatus::Shipped, OrderEventKind::Captured));
    assert_eq!(case.order().waits_for, WaitsFor::Carrier);
    case.word("s1", ShipmentUpdateKind::Delivered, &[]);
    assert_eq!((case.status(), case.order().captured_minor), (OrderStatus::Completed, 500));
}

#[test]
fn an_order_of_1114_lines_is_grouped_over_the_partitions_of_the_ledger() {
    let skus: Vec<String> = (0..1114).map(|n| format!("sku-{n:05}")).collect();
    let lines: Vec<(&str, i32)> = skus.iter().map(|sku| (sku.as_str(), 3)).collect();
    let mut case = Case::accepted(&lines);
    let asked = case.pay(PaymentState::Authorized);
    assert_eq!(case.partitions(), [0, 1, 2, 3]);
    let mut named = 0;
    for (place, command) in &asked.stock {
        let group = &case.order().groups[*place];
        assert_eq!(group.key, command.lines[0].sku);
        assert!(command.lines.windows(2).all(|pair| pair[0].sku < pair[1].sku));
        for line in &command.lines {
            assert_eq!(murmur2_partition(line.sku.as_bytes(), 4), group.stock_partition);
        }
        named += command.lines.len();
    }
    assert_eq!(named, 1114);
    case.release_all(); // nothing was to be released: taken for a refusal
    assert_eq!(case.status(), OrderStatus::Cancelling);

    let mut case = Case::confirmed(&lines);
    let first = case.ship("s1", &lines[..1000]);
    assert_eq!(first.stock.len(), 4);
    assert_eq!(case.order().progress.len(), 1000);
    assert_eq!(case.order().shipped_minor, 1000 * 750);
    let rest = case.ship("s2", &[]);
    let left: usize = rest.stock.iter().map(|(_, command)| command.lines.len()).sum();
    assert_eq!((left, case.order().progress.len()), (114, 0));
    assert_eq!(payment(&rest), Some((PaymentCommandKind::Capture, Some(1114 * 750))));
}

#[test]
fn the_same_sku_on_several_lines_is_added_up() {
    let mut case = Case::accepted(&[("b", 1), (A, 2), ("b", 4)]);
    let asked = case.pay(PaymentState::Authorized);
    let mut lines: Vec<_> = asked.stock.into_iter().flat_map(|(_, command)| command.lines).collect();
    lines.sort_by(|a, b| a.sku.cmp(&b.sku));
    assert_eq!(lines.iter().map(|l| (l.sku.as_str(), l.quantity)).collect::<Vec<_>>(), [(A, 2), ("b", 5)]);
    for partition in case.partitions() {
        case.stock(partition, StockEventKind::Reserved);
    }
    let shipped = case.ship("s1", &[("b", 2), ("b", 3), (A, 2)]);
    assert_eq!(payment(&shipped), Some((PaymentCommandKind::Capture, Some(7 * 250))));
    assert_eq!(case.status(), OrderStatus::Shipped);
}

#[test]
fn one_group_short_releases_the_others_voids_and_cancels() {
    let skus = skus_apart(3);
    let mut case = Case::reserving(&[(&skus[0], 1), (&skus[1], 1), (&skus[2], 1)]);
    let partitions = case.partitions();
    case.stock(partitions[0], StockEventKind::Reserved);
    assert_eq!(case.status(), OrderStatus::Reserving);
    let refused = case.stock(partitions[1], StockEventKind::Insufficient);
    assert_eq!(kinds(&refused), [StockCommandKind::Release, StockCommandKind::Release]);
    assert_eq!(payment(&refused), Some((PaymentCommandKind::Void, None)));
    assert_eq!(case.order().cancel_reason, Some(CancelReason::OutOfStock));
    assert!(case.order().detail.contains("wanted 2, available 1"), "{}", case.order().detail);
    // The answer to the third reserve was still on its way; its release is already behind it.
    assert_eq!(case.stock(partitions[2], StockEventKind::Reserved).event, None);
    case.stock(partitions[2], StockEventKind::Released);
    case.stock(partitions[0], StockEventKind::Released);
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::Cancelling, WaitsFor::Payment));
    case.pay(PaymentState::Voided);
    assert_eq!(case.status(), OrderStatus::Cancelled);
}

#[test]
fn a_cancel_before_payment_voids_once_authorized() {
    let mut case = Case::accepted(&[(A, 1)]);
    assert_eq!(payment(&case.cancel()), Some((PaymentCommandKind::Void, None)));
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::AwaitingPayment, WaitsFor::Payment));
    assert_eq!(case.cancel().event, None);
    assert_eq!(payment(&case.pay(PaymentState::Authorizing)), Some((PaymentCommandKind::Void, None)));
    assert_eq!(payment(&case.pay(PaymentState::Authorized)), Some((PaymentCommandKind::Void, None)));
    assert_eq!(case.status(), OrderStatus::Cancelling);
    case.pay(PaymentState::Voided);
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelled, Some(CancelReason::Customer)));
    assert!(case.order().groups.is_empty());
}

#[test]
fn a_cancel_that_payment_hears_before_the_order_never_touches_the_card() {
    let mut case = Case::nothing();
    assert_eq!(payment(&case.cancel()), Some((PaymentCommandKind::Void, None)));
    case.pay(PaymentState::Voided);
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelled, Some(CancelReason::Customer)));
}

#[test]
fn a_payment_on_its_way_moves_nothing() {
    for state in [PaymentState::Capturing, PaymentState::Voiding, PaymentState::Refunding] {
        for mut case in [Case::accepted(&[(A, 1)]), Case::reserving(&[(A, 1)]), Case::confirmed(&[(A, 1)])] {
            assert_eq!(case.pay(state).event, None, "{state:?}");
        }
    }
}

#[test]
fn a_cancel_during_authorization_that_is_then_declined_ends_at_once() {
    let mut case = Case::accepted(&[(A, 1)]);
    case.pay(PaymentState::Authorizing);
    case.cancel();
    case.time_out();
    assert_eq!((case.status(), case.order().kind), (OrderStatus::AwaitingPayment, OrderEventKind::DeadlineExtended));
    case.pay(PaymentState::Declined);
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelled, Some(CancelReason::Customer)));
}

#[test]
fn a_cancel_during_reservation_releases_outstanding_answers_too() {
    let skus = skus_apart(2);
    let mut case = Case::reserving(&[(&skus[0], 1), (&skus[1], 1)]);
    let partitions = case.partitions();
    case.stock(partitions[0], StockEventKind::Reserved);
    let cancelled = case.cancel();
    assert_eq!(kinds(&cancelled), [StockCommandKind::Release, StockCommandKind::Release]);
    assert_eq!(payment(&cancelled), Some((PaymentCommandKind::Void, None)));
    assert_eq!(case.cancel().event, None);
    case.pay(PaymentState::Voided);
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::Cancelling, WaitsFor::Stock));
    assert_eq!(case.stock(partitions[1], StockEventKind::Reserved).event, None);
    case.release_all();
    assert_eq!(case.status(), OrderStatus::Cancelled);
    assert_eq!(case.cancel().event, None);
}

#[test]
fn a_cancel_after_confirmation_releases_and_voids() {
    let mut case = Case::confirmed(&[(A, 1)]);
    let cancelled = case.cancel();
    assert_eq!((kinds(&cancelled).len(), payment(&cancelled)), (1, Some((PaymentCommandKind::Void, None))));
    // Nobody answers: the same is asked again, ever more rarely.
    let first = case.order().until.unwrap() - case.now;
    let again = case.time_out();
    assert_eq!((kinds(&again).len(), payment(&again)), (1, Some((PaymentCommandKind::Void, None))));
    assert!(case.order().until.unwrap() - case.now > first);
    case.release_all();
    case.pay(PaymentState::Voided);
    assert_eq!(case.status(), OrderStatus::Cancelled);
}

#[test]
fn a_cancel_after_shipping_is_refused_with_a_reason() {
    let mut case = Case::confirmed(&[(A, 2)]);
    let refused = |case: &mut Case| {
        let before = case.order().clone();
        let decision = case.cancel();
        assert_eq!((decision.stock.len(), decision.payment, decision.notice), (0, None, Some("cancel_refused")));
        let after = case.order();
        assert_eq!(
            (after.status, after.until, after.kind),
            (before.status, before.until, OrderEventKind::CancelRefused)
        );
        assert!(after.detail.contains("has left the house") && !after.cancel_wanted);
    };
    case.ship("s1", &[(A, 1)]);
    assert_eq!(case.status(), OrderStatus::PartiallyShipped);
    refused(&mut case);
    case.ship("s2", &[]);
    refused(&mut case);
    case.captured(500);
    refused(&mut case);
    case.word("s2", ShipmentUpdateKind::Delivered, &[]);
    assert_eq!(case.status(), OrderStatus::Completed);
    refused(&mut case);
}

#[test]
fn a_cancel_after_capture_refunds() {
    let mut case = Case::confirmed(&[(A, 2)]);
    case.captured(500);
    let cancelled = case.cancel();
    assert_eq!(payment(&cancelled), Some((PaymentCommandKind::Refund, Some(500))));
    case.release_all();
    case.pay(PaymentState::Refunded);
    assert_eq!(case.status(), OrderStatus::Cancelled);
}

#[test]
fn a_cancel_before_the_order_is_known_waits_for_it() {
    let mut case = Case::nothing();
    case.cancel();
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::AwaitingOrder, WaitsFor::Intake));
    assert_eq!(case.cancel().event, None);
    case.accepted = Some(order_of("o", &[(A, 1)]));
    case.give(Input::Accepted);
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::AwaitingPayment, WaitsFor::Payment));
    case.pay(PaymentState::Authorized);
    case.pay(PaymentState::Voided);
    assert_eq!((case.status(), case.order().groups.len()), (OrderStatus::Cancelled, 0));
}

#[test]
fn a_cancel_of_an_order_nobody_knows_ends_and_still_holds_when_the_order_turns_up() {
    let mut case = Case::nothing();
    case.cancel();
    case.time_out();
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelled, Some(CancelReason::Customer)));
    case.accepted = Some(order_of("o", &[(A, 1)]));
    assert_eq!(case.give(Input::Accepted).event, None);
    assert_eq!(payment(&case.pay(PaymentState::Authorizing)), Some((PaymentCommandKind::Void, None)));
    assert_eq!(case.status(), OrderStatus::AwaitingPayment);
    assert_eq!(payment(&case.pay(PaymentState::Authorized)), Some((PaymentCommandKind::Void, None)));
    case.pay(PaymentState::Voided);
    assert_eq!(case.status(), OrderStatus::Cancelled);
}

#[test]
fn a_cancel_of_a_rejected_order_ends_at_once_whichever_is_read_first() {
    for reason in RejectReason::ALL.iter().copied().filter(|reason| ends_the_order(*reason)) {
        let mut cancel_first = Case::nothing();
        cancel_first.cancel();
        let ended = cancel_first.reject(reason);
        assert_eq!((ended.stock.len(), &ended.payment), (0, &None));
        let mut cancel_last = Case::nothing();
        assert_eq!(cancel_last.reject(reason).event, None);
        let ended = cancel_last.cancel();
        assert_eq!((ended.stock.len(), &ended.payment), (0, &None), "there is no money to give back");
        for mut case in [cancel_first, cancel_last] {
            assert_eq!(
                (case.status(), case.order().cancel_reason),
                (OrderStatus::Cancelled, Some(CancelReason::Customer))
            );
            assert_eq!((case.order().waits_for, case.now), (WaitsFor::Nobody, 1_000));
            assert!(case.order().detail.contains("rejected by intake"), "{:?}", case.order());
            assert_eq!((case.cancel().event, case.reject(reason).event), (None, None));
        }
    }
}

#[test]
fn another_body_rejected_under_the_id_of_an_order_says_nothing_of_that_order() {
    for reason in [RejectReason::ConflictingDuplicate, RejectReason::Unknown] {
        // Before anything is known: the cancel goes on waiting for the order, and the order is cancelled when it comes.
        for rejected_first in [false, true] {
            let mut case = Case::nothing();
            if rejected_first {
                assert_eq!(case.reject(reason).event, None);
            }
            assert_eq!(payment(&case.cancel()), Some((PaymentCommandKind::Void, None)));
            assert_eq!(case.reject(reason).event, None);
            assert_eq!((case.status(), case.order().waits_for), (OrderStatus::AwaitingOrder, WaitsFor::Intake));
            case.accepted = Some(order_of("o", &[(A, 1)]));
            case.give(Input::Accepted);
            assert_eq!(case.status(), OrderStatus::AwaitingPayment);
        }
        // And an order on its way goes on, wherever it is.
        let mut shipped = Case::confirmed(&[(A, 1)]);
        shipped.ship("s1", &[]);
        for mut case in [Case::reserving(&[(A, 1)]), Case::confirmed(&[(A, 1)]), shipped] {
            let before = case.order().clone();
            assert_eq!((case.reject(reason).event, case.order()), (None, &before));
        }
    }
}

#[test]
fn an_accepted_order_counts_whatever_became_of_its_id_before() {
    let mut case = Case::nothing();
    case.reject(RejectReason::SoldOut);
    case.accepted = Some(order_of("o", &[(A, 1)]));
    case.pay(PaymentState::Authorized);
    assert_eq!((case.status(), case.reject(RejectReason::SoldOut).event), (OrderStatus::Reserving, None));
    let mut waiting = Case::nothing();
    waiting.pay(PaymentState::Authorized);
    assert_eq!((waiting.reject(RejectReason::SoldOut).event, waiting.status()), (None, OrderStatus::AwaitingOrder));
}

#[test]
fn a_payment_read_before_its_order_waits_for_the_order() {
    let mut case = Case::nothing();
    case.pay(PaymentState::Authorized);
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::AwaitingOrder, WaitsFor::Intake));
    case.time_out();
    assert_eq!(case.order().kind, OrderEventKind::DeadlineExtended);
    case.accepted = Some(order_of("o", &[(A, 1)]));
    let asked = case.give(Input::Accepted);
    assert_eq!((case.status(), kinds(&asked)), (OrderStatus::Reserving, vec![StockCommandKind::Reserve]));
    assert_eq!(case.order().customer_id, "c1");
}

#[test]
fn a_payment_whose_order_never_comes_is_given_back() {
    let mut case = Case::nothing();
    case.pay(PaymentState::Authorized);
    let last = loop {
        let decision = case.time_out();
        if case.status() != OrderStatus::AwaitingOrder {
            break decision;
        }
    };
    assert_eq!(payment(&last), Some((PaymentCommandKind::Void, None)));
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelling, Some(CancelReason::Timeout)));
    assert!(case.now > 30 * 60_000, "a lagging intake is waited for");
    case.pay(PaymentState::Voided);
    assert_eq!(case.status(), OrderStatus::Cancelled);
}

#[test]
fn a_cancel_of_a_payment_whose_order_was_not_read_needs_no_order() {
    let mut case = Case::nothing();
    case.pay(PaymentState::Authorized);
    assert_eq!(payment(&case.cancel()), Some((PaymentCommandKind::Void, None)));
    case.pay(PaymentState::Voided);
    assert_eq!(case.status(), OrderStatus::Cancelled);
    case.accepted = Some(order_of("o", &[(A, 1)]));
    assert_eq!(case.give(Input::Accepted).event, None);
}

#[test]
fn reserves_are_sent_again_to_whom_has_not_answered() {
    let skus = skus_apart(2);
    let mut case = Case::reserving(&[(&skus[0], 1), (&skus[1], 2)]);
    let partitions = case.partitions();
    case.stock(partitions[0], StockEventKind::Reserved);
    let until = case.order().until;
    assert_eq!(until, Some(1_000 + POLICY.reservation_timeout), "an answer does not extend the wait for the others");
    let again = case.time_out();
    assert_eq!(kinds(&again), [StockCommandKind::Reserve]);
    assert_eq!((again.stock[0].0, again.stock[0].1.attempt), (1, 1));
    assert_eq!(case.order().groups[1].key, again.stock[0].1.lines[0].sku);
    case.stock(partitions[1], StockEventKind::Reserved);
    assert_eq!(case.status(), OrderStatus::Confirmed);
    assert_eq!(case.stock(partitions[1], StockEventKind::Reserved).event, None, "repeated answers change nothing");
    assert_eq!(case.stock(9, StockEventKind::Reserved).notice, Some("stock_event_for_no_group"));
}

#[test]
fn a_reserve_that_meets_a_fence_is_a_refusal() {
    let mut case = Case::reserving(&[(A, 1)]);
    let partition = case.partitions()[0];
    case.stock(partition, StockEventKind::Released);
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelling, Some(CancelReason::OutOfStock)));
    case.pay(PaymentState::Voided);
    assert_eq!(case.status(), OrderStatus::Cancelled);
}

#[test]
fn a_refusal_that_arrives_after_the_cancel_settles_its_group() {
    let mut case = Case::reserving(&[(A, 1)]);
    let partition = case.partitions()[0];
    case.cancel();
    case.pay(PaymentState::Voided);
    case.stock(partition, StockEventKind::Insufficient);
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelled, Some(CancelReason::Customer)));
    assert_eq!(case.stock(partition, StockEventKind::Released).event, None);
}

#[test]
fn declined_and_expired_cancel_at_each_stage() {
    for (state, reason) in [
        (PaymentState::Declined, CancelReason::PaymentDeclined),
        (PaymentState::Expired, CancelReason::PaymentExpired),
        (PaymentState::Voided, CancelReason::PaymentExpired),
    ] {
        for mut case in [Case::nothing(), Case::accepted(&[(A, 1)])] {
            case.pay(state);
            assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelled, Some(reason)));
            assert_eq!(case.pay(state).event, None);
        }
        for mut case in [Case::reserving(&[(A, 1)]), Case::confirmed(&[(A, 1)])] {
            let ended = case.pay(state);
            assert_eq!((kinds(&ended), &ended.payment), (vec![StockCommandKind::Release], &None));
            case.release_all();
            assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelled, Some(reason)));
        }
    }
}

#[test]
fn lines_that_cannot_be_reserved_cancel_the_order() {
    for lines in [&[][..], &[(A, 0)], &[(A, -2)], &[(A, i32::MAX), (A, 1)]] {
        let mut case = Case::accepted(lines);
        let decision = case.pay(PaymentState::Authorized);
        assert_eq!(
            (case.status(), payment(&decision)),
            (OrderStatus::Cancelling, Some((PaymentCommandKind::Void, None)))
        );
        case.pay(PaymentState::Voided);
        assert_eq!(case.status(), OrderStatus::Cancelled);
    }
}

#[test]
fn a_state_has_a_deadline_exactly_if_it_is_not_final() {
    for status in OrderStatus::ALL.iter().copied() {
        for until in [None, Some(7)] {
            let order = OrderEvent { status, until, ..nothing_known("o") };
            let ends = matches!(status, OrderStatus::Completed | OrderStatus::Cancelled);
            assert_eq!(deadline(&order).is_none(), ends, "{status:?}");
        }
    }
}
