//! What makes two submits of one order id the same order.

use crate::{Money, OrderLine, OrderPlaced};

fn placed() -> OrderPlaced {
    OrderPlaced {
        order_id: "o-1".into(),
        customer_id: "c-1".into(),
        currency: "EUR".into(),
        lines: vec![OrderLine { sku: "a".into(), quantity: 1 }, OrderLine { sku: "b".into(), quantity: 2 }],
        payment_method: "tok_1".into(),
        expected_total: None,
        channel: "web".into(),
        placed_at: 1,
    }
}

/// A change of this value makes every order in flight a conflicting duplicate of itself.
#[test]
fn a_fingerprint_is_for_ever() {
    assert_eq!(placed().fingerprint(), "737994649d90135f5ca51ffd66e9e194");
}

#[test]
fn the_id_and_the_time_do_not_count() {
    let other = OrderPlaced { order_id: "o-2".into(), placed_at: 2, ..placed() };
    assert_eq!(other.fingerprint(), placed().fingerprint());
}

#[test]
fn everything_else_counts() {
    let mut all = vec![placed().fingerprint()];
    let edits: [fn(&mut OrderPlaced); 10] = [
        |order| order.customer_id.push('1'),
        |order| order.currency = "USD".into(),
        |order| order.lines[0].quantity = 2,
        |order| order.lines[1].sku = "c".into(),
        |order| order.lines.truncate(1),
        |order| order.lines.swap(0, 1),
        |order| order.payment_method = "tok_2".into(),
        |order| order.expected_total = Some(Money { minor: 5, currency: "EUR".into() }),
        |order| order.expected_total = Some(Money { minor: 5, currency: "USD".into() }),
        |order| order.channel = "app".into(),
    ];
    for edit in edits {
        let mut order = placed();
        edit(&mut order);
        all.push(order.fingerprint());
    }
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn text_cannot_move_between_fields() {
    let one = OrderPlaced { customer_id: "c-1EUR".into(), currency: String::new(), ..placed() };
    assert_ne!(one.fingerprint(), placed().fingerprint());
}
