//! The path of an order as scenarios, each the same body whatever the shop runs on.

use millrace_audit::Phase;
use millrace_schemas::{
    CancelReason, CancelRequested, OrderStatus, PaymentState, RejectReason, ShipmentUpdate, ShipmentUpdateKind,
    StockLevel, StockLine, topics,
};

use super::{Shop, audit, order, orders, place, produce, rejections, stock, until_status};

/// The warehouse ships what is left of an order.
fn ship(shop: &mut impl Shop, id: &str, shipment: &str, lines: &[(&str, i32)]) {
    update(shop, id, shipment, ShipmentUpdateKind::Shipped, lines);
}

fn update(shop: &mut impl Shop, id: &str, shipment: &str, kind: ShipmentUpdateKind, lines: &[(&str, i32)]) {
    let lines = lines.iter().map(|(sku, quantity)| StockLine { sku: (*sku).into(), quantity: *quantity }).collect();
    let update = ShipmentUpdate { order_id: id.into(), shipment_id: shipment.into(), kind, lines, at: 1 };
    produce(shop, topics::SHIPMENTS_UPDATES, id, &update);
}

fn deliver(shop: &mut impl Shop, id: &str) {
    update(shop, id, &format!("{id}-delivered"), ShipmentUpdateKind::Delivered, &[]);
}

fn cancel(shop: &mut impl Shop, id: &str) {
    let request = CancelRequested {
        order_id: id.into(),
        request_id: format!("cancel-{id}"),
        reason: "changed my mind".into(),
        requested_by: "ann".into(),
        at: 1,
    };
    produce(shop, topics::ORDERS_CANCEL_REQUESTED, id, &request);
}

/// The newest level of a SKU.
pub fn level(shop: &mut impl Shop, sku: &str) -> StockLevel {
    let codec = shop.codec();
    let records = shop.records(&[topics::STOCK_LEVELS]);
    let of_sku = records.iter().filter(|(_, _, record)| record.key.as_deref() == Some(sku.as_bytes()));
    let newest = of_sku.filter_map(|(_, _, record)| codec.decode(record.value.as_deref()?).ok()).next_back();
    newest.expect("the SKU has a level")
}

fn assert_every_promise_holds(shop: &mut impl Shop) {
    let report = audit(shop, Phase::Settled);
    assert!(report.holds(), "{report}");
}

/// Placed, paid, reserved, confirmed, shipped in two parts, captured, delivered.
pub fn happy_path(shop: &mut impl Shop) {
    stock(shop, &[("tea", 250, 100), ("cup", 1_000, 100), ("pot", 3_000, 100)]);
    place(shop, &order("happy-1", &[("tea", 2), ("cup", 1), ("tea", 1), ("pot", 1)], "tok_visa"));
    let confirmed = until_status(shop, "happy-1", OrderStatus::Confirmed);
    assert_eq!(confirmed.total.as_ref().map(|total| total.minor), Some(3 * 250 + 1_000 + 3_000));
    assert_eq!(level(shop, "tea").reserved, 3);
    ship(shop, "happy-1", "s-1", &[("tea", 3)]);
    until_status(shop, "happy-1", OrderStatus::PartiallyShipped);
    ship(shop, "happy-1", "s-2", &[]);
    until_status(shop, "happy-1", OrderStatus::Shipped);
    deliver(shop, "happy-1");
    let completed = until_status(shop, "happy-1", OrderStatus::Completed);
    assert_eq!(completed.captured_minor, 4_750);
    assert_eq!(completed.payment, PaymentState::Captured);
    let tea = level(shop, "tea");
    assert_eq!((tea.on_hand, tea.reserved, tea.shipped), (97, 0, 3));
    assert_every_promise_holds(shop);
}

/// Not enough of one line: nothing stays reserved, nobody pays.
pub fn shortage(shop: &mut impl Shop) {
    stock(shop, &[("rare", 900, 3), ("common", 100, 1_000), ("other", 100, 1_000), ("more", 100, 1_000)]);
    // Early refusal is advice; asking for less than everything gets past it, so that the ledger decides.
    for n in 0..5 {
        place(
            shop,
            &order(&format!("short-{n}"), &[("rare", 2), ("common", 1), ("other", 1), ("more", 1)], "tok_visa"),
        );
    }
    shop.until("every order is decided", &mut |shop| {
        let rejected = rejections(shop).iter().filter(|r| r.order_id.starts_with("short-")).count();
        let decided =
            |o: &millrace_schemas::OrderEvent| matches!(o.status, OrderStatus::Confirmed | OrderStatus::Cancelled);
        rejected + orders(shop).values().filter(|o| o.order_id.starts_with("short-") && decided(o)).count() == 5
    });
    let confirmed = orders(shop)
        .into_values()
        .filter(|o| o.order_id.starts_with("short-") && o.status == OrderStatus::Confirmed)
        .count();
    assert_eq!(confirmed, 1, "three pieces are enough for one order of two");
    for cancelled in
        orders(shop).into_values().filter(|o| o.status == OrderStatus::Cancelled && o.order_id.starts_with("short-"))
    {
        assert_eq!(cancelled.cancel_reason, Some(CancelReason::OutOfStock));
        assert_eq!(cancelled.payment, PaymentState::Voided);
    }
    assert_eq!(level(shop, "rare").reserved, 2);
    assert_eq!(level(shop, "common").reserved, 1);
    let id = orders(shop)
        .into_values()
        .find(|o| o.order_id.starts_with("short-") && o.status == OrderStatus::Confirmed)
        .unwrap()
        .order_id;
    ship(shop, &id, &format!("{id}-s"), &[]);
    deliver(shop, &id);
    until_status(shop, &id, OrderStatus::Completed);
    assert_every_promise_holds(shop);
}

/// The card is refused.
pub fn decline(shop: &mut impl Shop) {
    stock(shop, &[("lamp", 5_000, 10)]);
    place(shop, &order("declined-1", &[("lamp", 1)], "tok_declined"));
    let cancelled = until_status(shop, "declined-1", OrderStatus::Cancelled);
    assert_eq!(cancelled.cancel_reason, Some(CancelReason::PaymentDeclined));
    assert_eq!(level(shop, "lamp").reserved, 0);
    assert_every_promise_holds(shop);
}

/// Cancelled by the customer after it was confirmed, and refused after it has shipped.
pub fn cancelled_by_customer(shop: &mut impl Shop) {
    stock(shop, &[("sofa", 80_000, 10)]);
    place(shop, &order("cancel-1", &[("sofa", 1)], "tok_visa"));
    place(shop, &order("cancel-2", &[("sofa", 1)], "tok_visa"));
    until_status(shop, "cancel-1", OrderStatus::Confirmed);
    until_status(shop, "cancel-2", OrderStatus::Confirmed);
    cancel(shop, "cancel-1");
    let cancelled = until_status(shop, "cancel-1", OrderStatus::Cancelled);
    assert_eq!(cancelled.cancel_reason, Some(CancelReason::Customer));
    assert_eq!(cancelled.payment, PaymentState::Voided);
    ship(shop, "cancel-2", "c-2", &[]);
    until_status(shop, "cancel-2", OrderStatus::Shipped);
    cancel(shop, "cancel-2");
    deliver(shop, "cancel-2");
    until_status(shop, "cancel-2", OrderStatus::Completed);
    let sofa = level(shop, "sofa");
    assert_eq!((sofa.on_hand, sofa.reserved, sofa.shipped), (9, 0, 1));
    // A cancel of an order that intake rejects waits for nobody, whichever of the two comes first. The same order again,
    // and another body under its id, change nothing of that.
    for (id, cancel_first) in [("cancel-3", true), ("cancel-4", false)] {
        if cancel_first {
            cancel(shop, id);
        }
        place(shop, &order(id, &[("no such sofa", 1)], "tok_visa"));
        place(shop, &order(id, &[("no such sofa", 1)], "tok_visa"));
        place(shop, &order(id, &[("sofa", 1)], "tok_visa"));
        if !cancel_first {
            shop.until("both bodies are rejected", &mut |shop| {
                rejections(shop).iter().filter(|r| r.order_id == id).count() == 2
            });
            cancel(shop, id);
        }
        let ended = until_status(shop, id, OrderStatus::Cancelled);
        assert!(ended.detail.contains("rejected by intake"), "{ended:?}");
    }
    // Another body under the id of an order that goes on is rejected, and the order goes on.
    place(shop, &order("cancel-5", &[("sofa", 1)], "tok_visa"));
    place(shop, &order("cancel-5", &[("no such sofa", 1)], "tok_visa"));
    until_status(shop, "cancel-5", OrderStatus::Confirmed);
    shop.until("the other body is rejected", &mut |shop| {
        rejections(shop).iter().any(|r| r.order_id == "cancel-5" && r.reason == RejectReason::ConflictingDuplicate)
    });
    ship(shop, "cancel-5", "c-5", &[]);
    deliver(shop, "cancel-5");
    until_status(shop, "cancel-5", OrderStatus::Completed);
    assert_every_promise_holds(shop);
}

/// The same order twice is one order; the same id with another body is refused on record; what cannot be an order is
/// refused or put aside, and blocks nothing.
pub fn duplicates_and_nonsense(shop: &mut impl Shop) {
    stock(shop, &[("book", 1_200, 100)]);
    let first = order("twice-1", &[("book", 1)], "tok_visa");
    place(shop, &first);
    place(shop, &first);
    place(shop, &order("twice-1", &[("book", 5)], "tok_visa"));
    place(shop, &order("unknown-1", &[("no such thing", 1)], "tok_visa"));
    shop.produce_bytes(topics::ORDERS_PLACED, b"poison-1", Some(b"this is no record"));
    shop.produce_bytes(topics::ORDERS_PLACED, b"poison-2", Some(&[0, 0, 0, 0, 1, 255, 255, 255]));
    shop.produce_bytes(topics::ORDERS_PLACED, b"poison-3", Some(&[]));
    place(shop, &order("after-1", &[("book", 1)], "tok_visa"));
    until_status(shop, "twice-1", OrderStatus::Confirmed);
    until_status(shop, "after-1", OrderStatus::Confirmed);
    shop.until("both refusals are on record", &mut |shop| {
        let reasons: Vec<_> = rejections(shop).into_iter().map(|r| (r.order_id, r.reason)).collect();
        reasons.contains(&("twice-1".into(), RejectReason::ConflictingDuplicate))
            && reasons.contains(&("unknown-1".into(), RejectReason::UnknownSku))
    });
    shop.until("the poison is put aside", &mut |shop| shop.records(&["dead-letters.intake"]).len() == 3);
    assert_eq!(level(shop, "book").reserved, 2);
    for id in ["twice-1", "after-1"] {
        ship(shop, id, &format!("{id}-s"), &[]);
        deliver(shop, id);
        until_status(shop, id, OrderStatus::Completed);
    }
    assert_every_promise_holds(shop);
}

/// An order of 1,114 lines, as the real shop has had.
pub fn a_very_long_order(shop: &mut impl Shop) {
    let skus: Vec<String> = (0..1_114).map(|n| format!("long-{n:04}")).collect();
    let products: Vec<(&str, i64, i64)> = skus.iter().map(|sku| (sku.as_str(), 100, 5)).collect();
    stock(shop, &products);
    let lines: Vec<(&str, i32)> = skus.iter().map(|sku| (sku.as_str(), 2)).collect();
    place(shop, &order("long-1", &lines, "tok_visa"));
    until_status(shop, "long-1", OrderStatus::Confirmed);
    ship(shop, "long-1", "l-1", &[]);
    deliver(shop, "long-1");
    let completed = until_status(shop, "long-1", OrderStatus::Completed);
    assert_eq!(completed.captured_minor, 1_114 * 200);
    assert_every_promise_holds(shop);
}

/// The provider does not answer in time, having acted or not: settled by asking, never by guessing.
pub fn unknown_outcomes(shop: &mut impl Shop) {
    stock(shop, &[("vase", 2_000, 10)]);
    place(shop, &order("timeout-1", &[("vase", 1)], "tok_timeout_after"));
    place(shop, &order("timeout-2", &[("vase", 1)], "tok_timeout_before"));
    until_status(shop, "timeout-1", OrderStatus::Confirmed);
    until_status(shop, "timeout-2", OrderStatus::Confirmed);
    for id in ["timeout-1", "timeout-2"] {
        ship(shop, id, &format!("{id}-s"), &[]);
        deliver(shop, id);
        until_status(shop, id, OrderStatus::Completed);
    }
    assert_every_promise_holds(shop);
    let authorizations: Vec<u32> =
        shop.ledger().iter().filter(|e| e.order_id.starts_with("timeout-")).map(|e| e.authorizations).collect();
    assert_eq!(authorizations, [1, 1]);
}

/// Killed with orders on every part of the way; afterwards everything has ended as if nothing had happened.
pub fn killed_on_the_way(shop: &mut impl Shop) {
    stock(shop, &[("pen", 300, 10_000), ("ink", 700, 150), ("pad", 400, 10_000)]);
    for round in 0..4 {
        for n in 0..25 {
            let id = format!("kill-{round}-{n}");
            place(
                shop,
                &order(
                    &id,
                    &[("pen", 1), ("ink", 2), ("pad", 3)],
                    if n % 9 == 8 { "tok_declined" } else { "tok_visa" },
                ),
            );
        }
        shop.until("some of the round is known", &mut |shop| orders(shop).len() > round * 5);
        shop.kill_and_restart();
    }
    shop.until("every order is decided", &mut |shop| {
        let refused = rejections(shop).iter().filter(|r| r.order_id.starts_with("kill-")).count();
        let decided =
            |o: &millrace_schemas::OrderEvent| matches!(o.status, OrderStatus::Confirmed | OrderStatus::Cancelled);
        refused + orders(shop).values().filter(|o| o.order_id.starts_with("kill-") && decided(o)).count() == 100
    });
    let confirmed: Vec<String> = orders(shop)
        .into_values()
        .filter(|o| o.order_id.starts_with("kill-") && o.status == OrderStatus::Confirmed)
        .map(|o| o.order_id)
        .collect();
    assert_eq!(confirmed.len(), 75, "150 inks are enough for 75 orders of two");
    for id in &confirmed {
        ship(shop, id, &format!("{id}-s"), &[]);
        deliver(shop, id);
    }
    shop.until("every order has ended", &mut |shop| {
        let orders = orders(shop);
        confirmed.iter().all(|id| orders[id].status == OrderStatus::Completed)
    });
    assert_every_promise_holds(shop);
}
