//! The named cases of shipping: in parts, short, late, refused, delivered, and what is captured for it.

use millrace_schemas::{
    CancelReason, GroupState, OrderEventKind, OrderStatus, PaymentCommandKind, PaymentState, ShipmentUpdateKind,
    StockCommandKind, StockEventKind, WaitsFor,
};

use super::decide::Input;
use super::tests::{A, Case, answer, kinds, order_of, payment, skus_apart, word_of};
use ShipmentUpdateKind::{Delivered, Short};

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
    assert_eq!(
        (case.status(), case.order().cancel_reason),
        (OrderStatus::Cancelling, Some(CancelReason::NeverShipped))
    );
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

/// A stranger's release, or an operator's: goods that nobody holds any more must not be sold as if they were.
#[test]
fn a_group_that_somebody_else_had_released_does_not_ship() {
    let skus = skus_apart(2);
    let lines = [(skus[0].as_str(), 1), (skus[1].as_str(), 1)];
    for confirmed in [true, false] {
        let mut case = if confirmed { Case::confirmed(&lines) } else { Case::reserving(&lines) };
        let partition = case.partitions()[0];
        case.stock(partition, StockEventKind::Reserved);
        let decision = case.stock(partition, StockEventKind::Released);
        assert_eq!((case.status(), decision.notice), (OrderStatus::Cancelling, Some("released_by_others")));
        assert_eq!(payment(&decision), Some((PaymentCommandKind::Void, None)));
        case.release_all();
        case.pay(PaymentState::Voided);
        assert_eq!(case.status(), OrderStatus::Cancelled);
    }
    let mut case = Case::confirmed(&lines);
    case.ship("s1", &lines[..1]);
    assert_eq!(case.status(), OrderStatus::PartiallyShipped);
    let open = case.order().groups.iter().find(|group| group.state == GroupState::Granted).unwrap().stock_partition;
    let decision = case.stock(open, StockEventKind::Released);
    assert_eq!((case.status(), kinds(&decision)), (OrderStatus::Shipped, vec![]));
    assert_eq!(payment(&decision).map(|(kind, _)| kind), Some(PaymentCommandKind::Capture));
}

#[test]
fn what_others_captured_beyond_what_has_shipped_is_given_back_when_it_is_heard_of() {
    let skus = skus_apart(2);
    let lines = [(skus[0].as_str(), 1), (skus[1].as_str(), 1)];
    let mut case = Case::confirmed(&lines);
    case.ship("s1", &lines[..1]);
    let closed = case.word("s2", Short, &[]);
    let Some((PaymentCommandKind::Capture, Some(due))) = payment(&closed) else { panic!("{closed:?}") };
    let heard = case.captured(due + 40);
    assert_eq!(payment(&heard), Some((PaymentCommandKind::Refund, Some(40))));
    let usual = {
        let mut case = Case::confirmed(&lines);
        case.ship("s1", &lines);
        case.captured(due)
    };
    assert_eq!(payment(&usual), None);
}
