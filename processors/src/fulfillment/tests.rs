//! The named cases of an order's life after payment, decided one input at a time, and the transition table.

use std::collections::BTreeSet;

use millrace_schemas::{
    CancelReason, CancelRequested, GroupState, Money as Amount, OrderAccepted, OrderEvent, OrderEventKind, OrderStatus,
    PaymentCommandKind, PaymentEvent, PaymentEventKind, PaymentState, PricedLine, ShipmentUpdate, ShipmentUpdateKind,
    ShortLine, StockCommandKind, StockEvent, StockEventKind, StockLine, WaitsFor, murmur2_partition,
};
use proptest::prelude::*;

use super::decide::{Decision, Input, Policy, decide, needs_accepted};
use super::lines::Accepted;
use super::state::{Cause, TRANSITIONS, deadline, is_final, nothing_known};

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
    ShipmentUpdate {
        order_id: id.to_owned(),
        shipment_id: shipment.to_owned(),
        kind,
        lines: lines.collect(),
        at: 0,
    }
}

fn answer(partition: i32, kind: StockEventKind, command_id: &str) -> StockEvent {
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
struct Case {
    order: Option<OrderEvent>,
    accepted: Option<OrderAccepted>,
    now: i64,
    taken: BTreeSet<(OrderStatus, Cause, OrderStatus)>,
}

const A: &str = "a";

impl Case {
    fn nothing() -> Self {
        Self { order: None, accepted: None, now: 1_000, taken: BTreeSet::new() }
    }

    /// The accepted order is in its table but nothing else has happened.
    fn accepted(lines: &[(&str, i32)]) -> Self {
        Self { accepted: Some(order_of("o", lines)), ..Self::nothing() }
    }

    fn reserving(lines: &[(&str, i32)]) -> Self {
        let mut case = Self::accepted(lines);
        case.pay(PaymentState::Authorized);
        assert_eq!(case.status(), OrderStatus::Reserving);
        case
    }

    fn confirmed(lines: &[(&str, i32)]) -> Self {
        let mut case = Self::reserving(lines);
        for partition in case.partitions() {
            case.stock(partition, StockEventKind::Reserved);
        }
        assert_eq!(case.status(), OrderStatus::Confirmed);
        case
    }

    fn try_give(&mut self, input: Input<'_>) -> Result<Decision, String> {
        let needed = needs_accepted(self.order.as_ref(), input);
        let accepted = if needed { self.accepted.clone().map(Accepted::from) } else { None };
        let decision = decide("o", self.order.clone(), accepted, input, self.now, &POLICY)?;
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

    fn give(&mut self, input: Input<'_>) -> Decision {
        self.try_give(input).unwrap()
    }

    fn pay(&mut self, state: PaymentState) -> Decision {
        self.give(Input::Payment(&paid("o", state, 0)))
    }

    fn captured(&mut self, minor: i64) -> Decision {
        self.give(Input::Payment(&paid("o", PaymentState::Captured, minor)))
    }

    fn stock(&mut self, partition: i32, kind: StockEventKind) -> Decision {
        self.give(Input::Stock(&answer(partition, kind, "")))
    }

    fn cancel(&mut self) -> Decision {
        self.give(Input::Cancel(&cancel_of("o")))
    }

    fn word(&mut self, shipment: &str, kind: ShipmentUpdateKind, lines: &[(&str, i32)]) -> Decision {
        self.give(Input::Shipment(&word_of("o", shipment, kind, lines)))
    }

    fn ship(&mut self, shipment: &str, lines: &[(&str, i32)]) -> Decision {
        self.word(shipment, ShipmentUpdateKind::Shipped, lines)
    }

    fn time_out(&mut self) -> Decision {
        self.now = deadline(self.order.as_ref().unwrap()).expect("a final state has no deadline to pass");
        self.give(Input::Deadline)
    }

    fn order(&self) -> &OrderEvent {
        self.order.as_ref().unwrap()
    }

    fn status(&self) -> OrderStatus {
        self.order().status
    }

    fn partitions(&self) -> Vec<i32> {
        self.order().groups.iter().map(|group| group.stock_partition).collect()
    }

    fn release_all(&mut self) {
        for partition in self.partitions() {
            self.stock(partition, StockEventKind::Released);
        }
    }
}

fn kinds(decision: &Decision) -> Vec<StockCommandKind> {
    decision.stock.iter().map(|(_, command)| command.kind).collect()
}

fn payment(decision: &Decision) -> Option<(PaymentCommandKind, Option<i64>)> {
    decision.payment.as_ref().map(|command| (command.kind, command.amount.as_ref().map(|amount| amount.minor)))
}

/// SKUs on different partitions of the ledger, so that an order of them has several groups.
fn skus_apart(count: usize) -> Vec<String> {
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

use ShipmentUpdateKind::{Delivered, Short};

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
    case.word("s1", Delivered, &[]);
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
    case.cancel();
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
        assert_eq!((after.status, after.until, after.kind), (before.status, before.until, OrderEventKind::CancelRefused));
        assert!(after.detail.contains("has left the house") && !after.cancel_wanted);
    };
    case.ship("s1", &[(A, 1)]);
    assert_eq!(case.status(), OrderStatus::PartiallyShipped);
    refused(&mut case);
    case.ship("s2", &[]);
    refused(&mut case);
    case.captured(500);
    refused(&mut case);
    case.word("s2", Delivered, &[]);
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
fn a_part_ships_then_the_rest_and_the_sum_is_captured() {
    let mut case = Case::confirmed(&[(A, 3), ("b", 1)]);
    let until = case.order().until;
    let first = case.ship("s1", &[(A, 2)]);
    assert_eq!((first.stock.len(), payment(&first)), (1, None));
    assert_eq!((case.status(), case.order().until), (OrderStatus::PartiallyShipped, until), "shipping has one end");
    assert_eq!(case.ship("s1", &[(A, 2)]).event, None, "the same shipment again");
    let second = case.ship("s2", &[(A, 1), ("b", 1)]);
    assert_eq!(payment(&second), Some((PaymentCommandKind::Capture, Some(1000))));
    assert_eq!(case.status(), OrderStatus::Shipped);
    assert!(case.order().groups.iter().all(|group| group.state == GroupState::Shipped));
    assert_eq!(case.ship("s2", &[]).event, None);
}

#[test]
fn a_line_ships_unit_by_unit() {
    let mut case = Case::confirmed(&[(A, 3), ("b", 1)]);
    case.ship("s1", &[(A, 1)]);
    case.ship("s2", &[(A, 1)]);
    assert!(case.try_give(Input::Shipment(&word_of("o", "s3", ShipmentUpdateKind::Shipped, &[(A, 2)]))).is_err());
    case.ship("s3", &[(A, 1)]);
    let progress = case.order().progress.iter().map(|line| (line.sku.as_str(), line.shipped, line.short));
    assert_eq!(progress.collect::<Vec<_>>(), [(A, 3, 0)]);
    assert_eq!((case.status(), case.order().shipped_minor), (OrderStatus::PartiallyShipped, 750));
    assert_eq!(payment(&case.ship("s4", &[])), Some((PaymentCommandKind::Capture, Some(1000))));
}

#[test]
fn a_part_ships_and_the_rest_is_short() {
    let mut case = Case::confirmed(&[(A, 3)]);
    case.ship("s1", &[(A, 2)]);
    let short = case.word("s1", Short, &[(A, 1)]);
    assert_eq!(kinds(&short), [StockCommandKind::Release]);
    assert_eq!(payment(&short), Some((PaymentCommandKind::Capture, Some(500))));
    assert_eq!(case.word("s1", Short, &[(A, 1)]).event, None);
    case.captured(500);
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::Shipped, WaitsFor::Stock));
    assert_eq!(kinds(&case.time_out()), [StockCommandKind::Release]);
    case.release_all();
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::Shipped, WaitsFor::Carrier));
    case.word("s1", Delivered, &[]);
    assert_eq!(case.status(), OrderStatus::Completed);
}

#[test]
fn short_first_and_then_the_rest_ships() {
    let skus = skus_apart(2);
    let mut case = Case::confirmed(&[(&skus[0], 1), (&skus[1], 2)]);
    let short = case.word("s1", Short, &[(&skus[0], 1)]);
    assert_eq!((case.status(), kinds(&short)), (OrderStatus::Confirmed, vec![StockCommandKind::Release]));
    let group = case.partitions()[short.stock[0].0];
    case.stock(group, StockEventKind::Released);
    let shipped = case.ship("s2", &[]);
    assert_eq!(payment(&shipped), Some((PaymentCommandKind::Capture, Some(500))));
    assert_eq!(case.status(), OrderStatus::Shipped);
}

#[test]
fn nothing_that_can_be_shipped_cancels() {
    let mut case = Case::confirmed(&[(A, 3)]);
    let short = case.word("s1", Short, &[]);
    assert_eq!(kinds(&short), [StockCommandKind::Release]);
    assert_eq!(payment(&short), Some((PaymentCommandKind::Void, None)));
    case.release_all();
    case.pay(PaymentState::Voided);
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelled, Some(CancelReason::NeverShipped)));
}

#[test]
fn shipping_times_out_with_nothing_shipped() {
    let mut case = Case::confirmed(&[(A, 3)]);
    let late = case.time_out();
    assert_eq!((kinds(&late).len(), payment(&late)), (1, Some((PaymentCommandKind::Void, None))));
    assert_eq!((case.status(), case.order().cancel_reason), (OrderStatus::Cancelling, Some(CancelReason::NeverShipped)));
}

#[test]
fn shipping_times_out_with_a_part_shipped() {
    let mut case = Case::confirmed(&[(A, 3)]);
    case.ship("s1", &[(A, 1)]);
    let late = case.time_out();
    assert_eq!(kinds(&late), [StockCommandKind::Release]);
    assert_eq!(payment(&late), Some((PaymentCommandKind::Capture, Some(250))));
    assert_eq!(case.status(), OrderStatus::Shipped);
    // What the warehouse ships all the same is refused where everybody can see it.
    let refused = case.ship("s2", &[(A, 2)]);
    assert_eq!((refused.stock.len(), refused.notice), (0, Some("shipment_refused")));
    assert_eq!((case.status(), case.order().kind), (OrderStatus::Shipped, OrderEventKind::Noted));
    assert!(case.order().detail.contains("s2 refused"), "{}", case.order().detail);
    case.release_all();
    case.captured(250);
    case.time_out();
    assert_eq!(case.status(), OrderStatus::Completed, "the carrier never said a word");
}

#[test]
fn delivered_before_captured_completes_on_capture() {
    let mut case = Case::confirmed(&[(A, 1)]);
    case.ship("s1", &[]);
    case.word("s1", Delivered, &[]);
    assert_eq!((case.status(), case.order().waits_for), (OrderStatus::Delivered, WaitsFor::Payment));
    assert_eq!(case.word("s1", Delivered, &[]).event, None);
    assert_eq!(payment(&case.time_out()), Some((PaymentCommandKind::Capture, Some(250))));
    case.captured(250);
    assert_eq!(case.status(), OrderStatus::Completed);
}

#[test]
fn the_delivery_of_an_earlier_shipment_is_not_that_of_the_order() {
    let mut case = Case::confirmed(&[(A, 2)]);
    case.ship("s1", &[(A, 1)]);
    case.word("s1", Delivered, &[]);
    assert!(case.order().delivered);
    case.ship("s2", &[]);
    assert!(!case.order().delivered);
    case.captured(500);
    assert_eq!(case.word("s1", Delivered, &[]).event, None);
    case.word("s2", Delivered, &[]);
    assert_eq!(case.status(), OrderStatus::Completed);
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
fn an_authorization_that_expires_after_goods_left_is_counted_and_the_order_still_ends() {
    let mut case = Case::confirmed(&[(A, 2)]);
    case.ship("s1", &[(A, 1)]);
    let expired = case.pay(PaymentState::Expired);
    assert_eq!((kinds(&expired), expired.notice), (vec![StockCommandKind::Release], Some("uncollected")));
    assert_eq!((case.status(), &expired.payment), (OrderStatus::Shipped, &None));
    case.release_all();
    case.word("s1", Delivered, &[]);
    assert_eq!((case.status(), case.order().captured_minor), (OrderStatus::Completed, 0));

    let mut case = Case::confirmed(&[(A, 2)]);
    case.ship("s1", &[]);
    assert_eq!(case.pay(PaymentState::Expired).notice, Some("uncollected"));
    case.time_out();
    assert_eq!(case.status(), OrderStatus::Completed);
}

#[test]
fn goods_that_cost_nothing_are_not_captured_but_voided() {
    let mut free = order_of("o", &[(A, 1)]);
    free.total.minor = 0;
    free.lines[0].unit_price_minor = 0;
    free.lines[0].line_total_minor = 0;
    let mut case = Case::nothing();
    case.accepted = Some(free);
    case.pay(PaymentState::Authorized);
    let partition = case.partitions()[0];
    case.stock(partition, StockEventKind::Reserved);
    assert_eq!(payment(&case.ship("s1", &[])), Some((PaymentCommandKind::Void, None)));
    let voided = case.pay(PaymentState::Voided);
    assert_eq!((voided.notice, case.order().waits_for), (None, WaitsFor::Carrier));
}

#[test]
fn more_captured_than_shipped_is_refunded() {
    let mut case = Case::confirmed(&[(A, 2)]);
    case.captured(500);
    case.ship("s1", &[(A, 1)]);
    let closed = case.word("s2", Short, &[]);
    assert_eq!(payment(&closed), Some((PaymentCommandKind::Refund, Some(250))));
}

#[test]
fn a_shipment_before_confirmation_is_not_applied() {
    for mut case in [Case::nothing(), Case::accepted(&[(A, 1)]), Case::reserving(&[(A, 1)])] {
        let before = case.order.clone();
        for kind in [ShipmentUpdateKind::Shipped, Short, Delivered] {
            let reason = case.try_give(Input::Shipment(&word_of("o", "s1", kind, &[]))).unwrap_err();
            assert!(reason.contains("replay"), "{reason}");
            assert_eq!(case.order, before);
        }
    }
}

#[test]
fn a_shipment_of_an_order_that_never_will_be_confirmed_is_refused_visibly() {
    let mut wanted = Case::accepted(&[(A, 1)]);
    wanted.cancel();
    let mut unheard = Case::nothing();
    unheard.cancel();
    let mut cancelling = Case::reserving(&[(A, 1)]);
    cancelling.cancel();
    let mut cancelled = Case::nothing();
    cancelled.pay(PaymentState::Declined);
    for mut case in [wanted, unheard, cancelling, cancelled] {
        let before = case.order().clone();
        let refused = case.ship("s1", &[]);
        assert_eq!((refused.notice, refused.stock.len()), (Some("shipment_refused"), 0));
        assert_eq!((case.status(), case.order().until), (before.status, before.until));
        assert!(case.order().detail.contains("refused"));
        assert_eq!(case.word("s1", Short, &[]).notice, Some("late_short"));
    }
}

#[test]
fn a_word_that_cannot_be_true_is_not_applied() {
    let mut case = Case::confirmed(&[(A, 2), ("b", 1)]);
    case.ship("s0", &[(A, 1)]);
    let before = case.order.clone();
    for (id, lines) in [
        ("s1", vec![(A, 2)]),
        ("s1", vec![("c", 1)]),
        ("s1", vec![(A, 0)]),
        ("s1", vec![(A, -1)]),
        ("s1", vec![(A, i32::MAX), (A, 1)]),
        ("", vec![(A, 1)]),
    ] {
        for kind in [ShipmentUpdateKind::Shipped, Short] {
            assert!(case.try_give(Input::Shipment(&word_of("o", id, kind, &lines))).is_err(), "{id} {lines:?}");
        }
    }
    assert!(case.try_give(Input::Shipment(&word_of("o", "s1", ShipmentUpdateKind::Unknown, &[]))).is_err());
    assert_eq!(case.order, before);
}

#[test]
fn a_ship_that_the_ledger_refuses_is_seen_and_settled() {
    let mut case = Case::confirmed(&[(A, 1)]);
    case.ship("s1", &[]);
    let partition = case.partitions()[0];
    let refused = answer(partition, StockEventKind::Refused, "s1");
    let decision = case.give(Input::Stock(&refused));
    assert_eq!((kinds(&decision), decision.notice), (vec![StockCommandKind::Release], Some("ship_refused")));
    assert_eq!(case.give(Input::Stock(&refused)).event, None);
    case.captured(250);
    case.release_all();
    case.word("s1", Delivered, &[]);
    assert_eq!(case.status(), OrderStatus::Completed);
}

#[test]
fn lines_that_cannot_be_reserved_cancel_the_order() {
    for lines in [&[][..], &[(A, 0)], &[(A, -2)], &[(A, i32::MAX), (A, 1)]] {
        let mut case = Case::accepted(lines);
        let decision = case.pay(PaymentState::Authorized);
        assert_eq!((case.status(), payment(&decision)), (OrderStatus::Cancelling, Some((PaymentCommandKind::Void, None))));
        case.pay(PaymentState::Voided);
        assert_eq!(case.status(), OrderStatus::Cancelled);
    }
}

#[test]
fn a_state_has_a_deadline_exactly_if_it_is_not_final() {
    for status in OrderStatus::ALL {
        for until in [None, Some(7)] {
            let order = OrderEvent { status, until, ..nothing_known("o") };
            let ends = matches!(status, OrderStatus::Completed | OrderStatus::Cancelled);
            assert_eq!(deadline(&order).is_none(), ends, "{status:?}");
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Accept(Vec<(&'static str, i32)>),
    Pay(PaymentState),
    Stock(i32, StockEventKind),
    Cancel,
    Word(u8, ShipmentUpdateKind, Vec<(&'static str, i32)>),
    TimeOut,
}

const SKUS: [&str; 4] = ["a", "b", "c", "d"];

fn some_lines(least: usize) -> impl Strategy<Value = Vec<(&'static str, i32)>> {
    prop::collection::btree_map(0..SKUS.len(), 1..3i32, least..=2)
        .prop_map(|lines| lines.into_iter().map(|(sku, quantity)| (SKUS[sku], quantity)).collect())
}

fn some_op() -> impl Strategy<Value = Op> {
    let stock = prop_oneof![
        8 => Just(StockEventKind::Reserved),
        1 => Just(StockEventKind::Insufficient),
        4 => Just(StockEventKind::Released),
        1 => Just(StockEventKind::Shipped),
        1 => Just(StockEventKind::Refused)
    ];
    let payment = prop_oneof![
        2 => Just(PaymentState::Authorizing),
        6 => Just(PaymentState::Authorized),
        2 => Just(PaymentState::Captured),
        1 => prop::sample::select(PaymentState::ALL.to_vec()),
    ];
    let word = prop_oneof![
        3 => Just(ShipmentUpdateKind::Shipped),
        1 => Just(ShipmentUpdateKind::Short),
        2 => Just(ShipmentUpdateKind::Delivered)
    ];
    prop_oneof![
        4 => some_lines(0).prop_map(Op::Accept),
        6 => payment.prop_map(Op::Pay),
        12 => (0..4i32, stock).prop_map(|(partition, kind)| Op::Stock(partition, kind)),
        1 => Just(Op::Cancel),
        6 => (0..4u8, word, some_lines(0)).prop_map(|(id, kind, lines)| Op::Word(id, kind, lines)),
        2 => Just(Op::TimeOut),
    ]
}

/// Any sequence of inputs, sensible or not.
fn run(ops: &[Op]) -> Case {
    let mut case = Case::nothing();
    for op in ops {
        let before = case.order.clone();
        let from = before.as_ref().map_or(OrderStatus::Unknown, |order| order.status);
        let payment_event;
        let (stock_event, cancel, update);
        let (cause, input) = match op {
            Op::Accept(lines) => {
                case.accepted.get_or_insert_with(|| order_of("o", lines));
                (Cause::Accepted, Input::Accepted)
            }
            Op::Pay(state) => {
                let cause = match state {
                    PaymentState::Unknown | PaymentState::Authorizing => Cause::Authorizing,
                    PaymentState::Authorized | PaymentState::Capturing | PaymentState::Voiding => Cause::Authorized,
                    PaymentState::Captured | PaymentState::Refunding => Cause::Captured,
                    _ => Cause::PaymentEnded,
                };
                payment_event = paid("o", *state, if cause == Cause::Captured { 500 } else { 0 });
                (cause, Input::Payment(&payment_event))
            }
            Op::Stock(partition, kind) => {
                let cause = match kind {
                    StockEventKind::Reserved => Cause::Granted,
                    StockEventKind::Insufficient => Cause::Refused,
                    StockEventKind::Released if from == OrderStatus::Reserving => Cause::Refused,
                    StockEventKind::Released => Cause::Released,
                    _ => Cause::ShipRefused,
                };
                stock_event = answer(*partition, *kind, "s1");
                (cause, Input::Stock(&stock_event))
            }
            Op::Cancel => {
                cancel = cancel_of("o");
                (Cause::CancelRequested, Input::Cancel(&cancel))
            }
            Op::Word(id, kind, lines) => {
                let cause = match kind {
                    ShipmentUpdateKind::Shipped => Cause::Shipped,
                    ShipmentUpdateKind::Short => Cause::Short,
                    _ => Cause::Delivered,
                };
                update = word_of("o", &format!("s{id}"), *kind, lines);
                (cause, Input::Shipment(&update))
            }
            Op::TimeOut => {
                let Some(until) = case.order.as_ref().and_then(deadline) else { continue };
                case.now = case.now.max(until);
                (Cause::Deadline, Input::Deadline)
            }
        };
        let Ok(decision) = case.try_give(input) else {
            assert_eq!(case.order, before);
            continue;
        };
        if let Some(event) = decision.event {
            case.taken.insert((from, cause, event.status));
            if is_final(from) {
                let late_payment = matches!(cause, Cause::Authorizing | Cause::Authorized | Cause::Captured);
                assert!(is_final(event.status) || late_payment, "{from:?} {cause:?} {:?}", event.status);
            }
            if is_final(event.status) {
                let outstanding = [GroupState::Requested, GroupState::Granted, GroupState::Releasing];
                assert!(event.groups.iter().all(|group| !outstanding.contains(&group.state)), "{event:?}");
            }
        }
    }
    case
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_sequence_of_inputs_stays_within_the_table(ops in prop::collection::vec(some_op(), 1..80)) {
        let taken = run(&ops).taken;
        prop_assert!(taken.iter().all(|step| TRANSITIONS.contains(step)), "{taken:?}");
    }
}

#[test]
fn every_row_of_the_table_is_taken_and_nothing_outside_it() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut taken = BTreeSet::new();
    let granted = (0..4).map(|partition| Op::Stock(partition, StockEventKind::Reserved));
    let mut confirmed = vec![Op::Accept(vec![("a", 2), ("c", 2), ("d", 2)]), Op::Pay(PaymentState::Authorized)];
    confirmed.extend(granted);
    for turn in 0..6_000 {
        // Every second one starts from a confirmed order, to get further.
        let mut ops = if turn % 2 == 0 { Vec::new() } else { confirmed.clone() };
        ops.extend(prop::collection::vec(some_op(), 60).new_tree(&mut runner).unwrap().current());
        taken.extend(run(&ops).taken);
    }
    let table: BTreeSet<_> = TRANSITIONS.iter().copied().collect();
    assert_eq!(table.len(), TRANSITIONS.len(), "no row twice");
    assert_eq!(table.difference(&taken).collect::<Vec<_>>(), Vec::<&_>::new(), "rows nobody takes");
    assert_eq!(taken.difference(&table).collect::<Vec<_>>(), Vec::<&_>::new(), "steps outside the table");
}
