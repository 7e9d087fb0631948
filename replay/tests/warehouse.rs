//! What the simulated warehouse does with the orders it hears of.

use millrace_replay::{Settings, Warehouse};
use millrace_schemas::{
    Money, OrderAccepted, OrderEvent, OrderEventKind, OrderStatus, PaymentState, PricedLine, ShipmentUpdateKind,
    WaitsFor,
};

fn accepted(id: &str, lines: usize) -> OrderAccepted {
    let line = |at: usize| PricedLine { sku: format!("S{at}"), quantity: 2, unit_price_minor: 5, line_total_minor: 10 };
    OrderAccepted {
        order_id: id.to_owned(),
        customer_id: "c".to_owned(),
        lines: (0..lines).map(line).collect(),
        total: Money { minor: 10, currency: "GBP".to_owned() },
        payment_method: "tok_visa".to_owned(),
        fingerprint: "f".to_owned(),
        channel: "t".to_owned(),
        placed_at: 1,
        accepted_at: 2,
    }
}

fn event(id: &str, kind: OrderEventKind, status: OrderStatus) -> OrderEvent {
    OrderEvent {
        order_id: id.to_owned(),
        kind,
        status,
        version: 1,
        customer_id: "c".to_owned(),
        payment: PaymentState::Authorized,
        total: None,
        captured_minor: 0,
        groups: Vec::new(),
        progress: Vec::new(),
        shipped_minor: 0,
        shipments: Vec::new(),
        cancel_wanted: false,
        delivered: false,
        cancel_reason: None,
        waits_for: WaitsFor::Warehouse,
        until: Some(9),
        detail: String::new(),
        at: 7,
    }
}

fn confirmed(id: &str) -> OrderEvent {
    event(id, OrderEventKind::Confirmed, OrderStatus::Confirmed)
}

fn house(split_per_mille: u32, short_per_mille: u32, remembered_max: usize) -> Warehouse {
    Warehouse::new(Settings { split_per_mille, short_per_mille, remembered_max })
}

#[test]
fn a_whole_order_ships_once_and_is_delivered_after() {
    let mut house = house(0, 0, 10);
    assert!(house.on_accepted(&accepted("a", 3)).is_empty());
    let shipped = house.on_order_event(&confirmed("a"));
    assert_eq!(shipped.len(), 1);
    assert_eq!((shipped[0].kind, shipped[0].shipment_id.as_str()), (ShipmentUpdateKind::Shipped, "a/1"));
    assert!(shipped[0].lines.is_empty(), "no lines means everything");
    let part = event("a", OrderEventKind::PartiallyShipped, OrderStatus::PartiallyShipped);
    assert!(house.on_order_event(&part).is_empty());
    let delivered = house.on_order_event(&event("a", OrderEventKind::Shipped, OrderStatus::Shipped));
    assert_eq!((delivered[0].kind, delivered[0].shipment_id.as_str()), (ShipmentUpdateKind::Delivered, "a/delivered"));
    assert_eq!(house.remembered(), 0);
}

#[test]
fn reading_again_gives_the_same_updates_in_either_order() {
    for (split, short, parts) in [(1000, 0, ["a/1", "a/2"]), (0, 1000, ["a/short", "a/1"])] {
        let (mut one, mut other) = (house(split, short, 10), house(split, short, 10));
        assert!(one.on_accepted(&accepted("a", 3)).is_empty());
        let first = one.on_order_event(&confirmed("a"));
        assert!(other.on_order_event(&confirmed("a")).is_empty(), "its lines are not known yet");
        let second = other.on_accepted(&accepted("a", 3));
        assert_eq!(first, second);
        assert_eq!(first.iter().map(|u| u.shipment_id.as_str()).collect::<Vec<_>>(), parts);
        assert_eq!(first[0].lines.len(), 1);
        assert!(first[1].lines.is_empty());
        assert_eq!((one.remembered(), other.remembered()), (0, 0));
    }
}

#[test]
fn one_line_cannot_be_split() {
    let mut house = house(1000, 0, 10);
    assert!(house.on_order_event(&confirmed("a")).is_empty());
    let updates = house.on_accepted(&accepted("a", 1));
    assert_eq!(updates.len(), 1);
    assert!(updates[0].lines.is_empty());
    assert!(house.on_accepted(&accepted("b", 1)).is_empty());
    let updates = house.on_order_event(&confirmed("b"));
    assert_eq!(updates.len(), 1, "confirmed after its lines were read, it ships as well");
    assert_eq!(house.remembered(), 0);
}

#[test]
fn memory_is_bounded_and_what_gives_way_ships_whole() {
    let mut house = house(1000, 0, 5);
    let mut shipped = 0;
    for number in 0..100 {
        shipped += house.on_order_event(&confirmed(&format!("o{number}"))).len();
        assert!(house.remembered() <= 5);
    }
    assert_eq!(shipped, 95);
    for number in 0..100 {
        house.on_accepted(&accepted(&format!("p{number}"), 3));
        house.on_order_event(&event(&format!("p{number}"), OrderEventKind::Cancelled, OrderStatus::Cancelled));
        assert!(house.remembered() <= 5);
    }
}

#[test]
fn the_shares_are_about_right() {
    let mut house = house(100, 50, 100_000);
    let (mut split, mut short) = (0, 0);
    for number in 0..10_000 {
        let id = format!("order-{number}");
        house.on_accepted(&accepted(&id, 4));
        match house.on_order_event(&confirmed(&id)).as_slice() {
            [_] => {}
            [first, _] if first.kind == ShipmentUpdateKind::Short => short += 1,
            _ => split += 1,
        }
    }
    assert!((800..1200).contains(&split) && (380..620).contains(&short), "{split} split, {short} short");
}
