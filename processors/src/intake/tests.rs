//! What intake takes and refuses, and that the same order is answered once.

use std::collections::BTreeMap;

use millrace_runtime::testing::{Emitted, Solo};
use millrace_runtime::{Failure, TaskContext};
use millrace_schemas::{LevelCause, Money, OrderLine, Product, RejectReason, StockLevel};
use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules { lines_max: 4, quantity_max: 100, sold_out_advice: true };

#[derive(Clone, Default)]
struct Shelf {
    offers: BTreeMap<String, (i64, String)>,
    available: BTreeMap<String, i64>,
}

impl Shelf {
    fn new() -> Self {
        let offers = [("APPLE", 250), ("PEAR", 100), ("FREE", 0), ("YACHT", i64::MAX / 2)];
        let mut shelf = Self::default();
        for (sku, price) in offers {
            shelf.offers.insert(sku.into(), (price, "EUR".into()));
        }
        shelf.offers.insert("DOLLAR".into(), (1, "USD".into()));
        shelf.available.insert("APPLE".into(), 10);
        shelf
    }
}

impl Shop for Shelf {
    fn offer(&self, sku: &str) -> Option<Offer<'_>> {
        let (unit_price_minor, currency) = self.offers.get(sku)?;
        Some(Offer { unit_price_minor: *unit_price_minor, currency })
    }

    fn available(&self, sku: &str) -> Option<i64> {
        self.available.get(sku).copied()
    }
}

fn order(lines: &[(&str, i32)]) -> OrderPlaced {
    OrderPlaced {
        order_id: "o-1".into(),
        customer_id: "c-1".into(),
        currency: "EUR".into(),
        lines: lines.iter().map(|(sku, quantity)| OrderLine { sku: (*sku).into(), quantity: *quantity }).collect(),
        payment_method: "tok_visa".into(),
        expected_total: None,
        channel: "web".into(),
        placed_at: 7,
    }
}

fn taken(order: OrderPlaced) -> OrderAccepted {
    match decide(None, order, &Shelf::new(), &RULES, 9) {
        Decision::Accepted(order) => order,
        other => panic!("not accepted: {other:?}"),
    }
}

fn refused_by(order: OrderPlaced, shop: &Shelf, rules: &Rules) -> OrderRejected {
    match decide(None, order, shop, rules, 9) {
        Decision::Rejected(order) => order,
        other => panic!("not rejected: {other:?}"),
    }
}

fn refused(order: OrderPlaced) -> OrderRejected {
    refused_by(order, &Shelf::new(), &RULES)
}

#[test]
fn prices_come_from_the_catalog() {
    let placed = order(&[("PEAR", 3), ("APPLE", 2)]);
    let accepted = taken(placed.clone());
    let lines: Vec<_> = accepted.lines.iter().map(|line| (line.sku.as_str(), line.line_total_minor)).collect();
    assert_eq!(lines, [("APPLE", 500), ("PEAR", 300)]);
    assert_eq!(accepted.total, Money { minor: 800, currency: "EUR".into() });
    assert_eq!((accepted.fingerprint, accepted.placed_at, accepted.accepted_at), (placed.fingerprint(), 7, 9));
}

#[test]
fn an_expected_total_must_be_the_price() {
    let mut placed = order(&[("APPLE", 2)]);
    placed.expected_total = Some(Money { minor: 500, currency: "EUR".into() });
    assert_eq!(taken(placed.clone()).total.minor, 500);
    placed.expected_total = Some(Money { minor: 499, currency: "EUR".into() });
    let rejected = refused(placed.clone());
    assert_eq!(rejected.reason, RejectReason::PriceChanged);
    assert!(rejected.detail.contains("499 EUR") && rejected.detail.contains("500 EUR"), "{}", rejected.detail);
    placed.expected_total = Some(Money { minor: 500, currency: "USD".into() });
    assert_eq!(refused(placed).reason, RejectReason::PriceChanged);
}

#[test]
fn the_same_sku_twice_is_added_up() {
    let accepted = taken(order(&[("APPLE", 2), ("PEAR", 1), ("APPLE", 3)]));
    let lines: Vec<_> = accepted.lines.iter().map(|line| (line.sku.as_str(), line.quantity)).collect();
    assert_eq!(lines, [("APPLE", 5), ("PEAR", 1)]);
    // Also where it matters: six and six are more than the ten that are left.
    assert_eq!(refused(order(&[("APPLE", 6), ("APPLE", 6)])).reason, RejectReason::SoldOut);
    // And against the limit.
    assert_eq!(refused(order(&[("PEAR", 60), ("PEAR", 41)])).reason, RejectReason::BadQuantity);
    assert_eq!(refused(order(&[("PEAR", i32::MAX), ("PEAR", i32::MAX)])).reason, RejectReason::BadQuantity);
}

#[test]
fn unknown_skus_are_named() {
    let rejected = refused(order(&[("APPLE", 1), ("GHOST", 1), ("AETHER", 2)]));
    assert_eq!((rejected.reason, rejected.skus), (RejectReason::UnknownSku, vec!["AETHER".into(), "GHOST".into()]));
}

#[test]
fn orders_without_a_usable_form_are_refused() {
    let five = [("APPLE", 1), ("PEAR", 1), ("APPLE", 1), ("PEAR", 1), ("APPLE", 1)];
    let mut no_payment = order(&[("APPLE", 1)]);
    no_payment.payment_method = String::new();
    let cases = [
        (order(&[]), RejectReason::Empty),
        (order(&five), RejectReason::TooManyLines),
        (order(&[("APPLE", 0)]), RejectReason::BadQuantity),
        (order(&[("APPLE", -1)]), RejectReason::BadQuantity),
        (order(&[("APPLE", i32::MIN), ("APPLE", i32::MAX)]), RejectReason::BadQuantity),
        (order(&[("PEAR", 101)]), RejectReason::BadQuantity),
        (no_payment, RejectReason::BadPaymentMethod),
    ];
    for (placed, reason) in cases {
        let rejected = refused(placed);
        assert_eq!((rejected.reason, rejected.customer_id.as_str()), (reason, "c-1"));
        assert!(!rejected.detail.is_empty());
    }
    assert_eq!(taken(order(&[("PEAR", 100)])).total.minor, 10_000);
}

#[test]
fn a_card_number_is_refused_and_not_repeated() {
    for number in ["4111111111111111", "4111 1111 1111 1111"] {
        let mut placed = order(&[("APPLE", 1)]);
        placed.payment_method = number.into();
        let rejected = refused(placed);
        assert_eq!(rejected.reason, RejectReason::BadPaymentMethod);
        assert!(!format!("{rejected:?}").contains(number));
    }
    let mut placed = order(&[("APPLE", 1)]);
    placed.payment_method = "pm_1234567890123456".into();
    taken(placed);
}

#[test]
fn money_that_overflows_is_refused() {
    assert_eq!(refused(order(&[("YACHT", 3)])).reason, RejectReason::AmountOverflow);
    let mut shop = Shelf::new();
    shop.offers.insert("BOAT".into(), (i64::MAX / 2 + 5, "EUR".into()));
    let sum = refused_by(order(&[("YACHT", 1), ("BOAT", 1)]), &shop, &RULES);
    assert_eq!(sum.reason, RejectReason::AmountOverflow);
}

#[test]
fn another_currency_is_refused() {
    let rejected = refused(order(&[("APPLE", 1), ("DOLLAR", 1)]));
    assert_eq!((rejected.reason, rejected.skus), (RejectReason::CurrencyMismatch, vec!["DOLLAR".into()]));
    let mut placed = order(&[("APPLE", 1)]);
    placed.currency = String::new();
    assert_eq!(refused(placed).reason, RejectReason::CurrencyMismatch);
}

#[test]
fn a_free_order_is_an_order() {
    assert_eq!(taken(order(&[("FREE", 1)])).total.minor, 0);
}

#[test]
fn plainly_sold_out_is_refused_early_but_only_as_advice() {
    let eleven = order(&[("APPLE", 11), ("PEAR", 1)]);
    let rejected = refused(eleven.clone());
    assert_eq!((rejected.reason, rejected.skus), (RejectReason::SoldOut, vec!["APPLE".into()]));
    // Off, or stale, or never heard of: the ledger decides.
    let off = Rules { sold_out_advice: false, ..RULES };
    assert!(matches!(decide(None, eleven.clone(), &Shelf::new(), &off, 9), Decision::Accepted(_)));
    let mut stale = Shelf::new();
    stale.available.insert("APPLE".into(), 11);
    assert!(matches!(decide(None, eleven.clone(), &stale, &RULES, 9), Decision::Accepted(_)));
    stale.available.clear();
    assert!(matches!(decide(None, eleven, &stale, &RULES, 9), Decision::Accepted(_)));
    // A balance that a count made negative is sold out.
    stale.available.insert("APPLE".into(), -3);
    assert_eq!(refused_by(order(&[("APPLE", 1)]), &stale, &RULES).reason, RejectReason::SoldOut);
}

#[test]
fn the_same_order_is_answered_once_and_another_under_its_id_is_refused() {
    let placed = order(&[("APPLE", 1)]);
    let print = placed.fingerprint();
    let mut later = placed.clone();
    later.placed_at = 1_000;
    assert_eq!(decide(Some(&print), later, &Shelf::new(), &RULES, 9), Decision::Repeated);
    let other = order(&[("APPLE", 2)]);
    let Decision::Rejected(rejected) = decide(Some(&print), other.clone(), &Shelf::new(), &RULES, 9) else {
        panic!("another body is no repeat");
    };
    assert_eq!(rejected.reason, RejectReason::ConflictingDuplicate);
    assert_eq!(rejected.fingerprint, other.fingerprint());
}

proptest! {
    /// Whatever is ordered: what is accepted is exactly what was ordered, at catalog prices, and adds up.
    #[test]
    fn what_is_accepted_is_what_was_ordered(
        lines in proptest::collection::vec((0_usize..5, -2_i32..120), 0..6),
        advice in any::<bool>(),
    ) {
        let skus = ["APPLE", "PEAR", "FREE", "YACHT", "GHOST"];
        let lines: Vec<_> = lines.into_iter().map(|(place, quantity)| (skus[place], quantity)).collect();
        let (shop, rules) = (Shelf::new(), Rules { sold_out_advice: advice, ..RULES });
        if let Decision::Accepted(accepted) = decide(None, order(&lines), &shop, &rules, 0) {
            let mut wanted = BTreeMap::new();
            for (sku, quantity) in &lines {
                *wanted.entry(*sku).or_insert(0_i32) += quantity;
            }
            let got: Vec<_> = accepted.lines.iter().map(|line| (line.sku.as_str(), line.quantity)).collect();
            prop_assert_eq!(got, wanted.into_iter().collect::<Vec<_>>());
            for line in &accepted.lines {
                prop_assert_eq!(Some(line.unit_price_minor), shop.offer(&line.sku).map(|offer| offer.unit_price_minor));
                prop_assert_eq!(line.line_total_minor, line.unit_price_minor * i64::from(line.quantity));
            }
            prop_assert_eq!(accepted.total.minor, accepted.lines.iter().map(|line| line.line_total_minor).sum::<i64>());
        }
    }
}

// ---- the glue --------------------------------------------------------------------------------------------------

struct Bench {
    solo: Solo,
    codec: Codec,
}

impl Bench {
    fn new() -> Self {
        let codec = Codec::offline();
        let topics = [topics::ORDERS_PLACED, topics::ORDERS_ACCEPTED, topics::ORDERS_REJECTED];
        let settings = [("lines_max", 4), ("quantity_max", 100), ("sold_out_advice", 1)];
        let context = TaskContext {
            partition: 0,
            partitions: topics.iter().map(|topic| ((*topic).to_owned(), 1)).collect(),
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        };
        let mut bench = Self { solo: Solo::new(definition(&codec), context), codec };
        bench.product("APPLE", 250, true);
        bench
    }

    fn bytes<T: AvroRecord>(&self, topic: &str, value: &T) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.codec.encode(topic, value, &mut bytes);
        bytes
    }

    fn product(&mut self, sku: &str, minor: i64, active: bool) {
        let unit_price = Money { minor, currency: "EUR".into() };
        let product = Product { sku: sku.into(), description: "a fruit".into(), unit_price, active, at: 0 };
        let bytes = self.bytes(topics::CATALOG_PRODUCTS, &product);
        self.solo.global(PRODUCTS, sku.as_bytes(), &bytes);
    }

    fn level(&mut self, sku: &str, on_hand: i64, reserved: i64) {
        let level = StockLevel {
            sku: sku.into(),
            on_hand,
            reserved,
            opening: on_hand,
            received: 0,
            shipped: 0,
            adjusted: 0,
            version: 1,
            cause: LevelCause::Opening,
            cause_id: "a-1".into(),
            at: 0,
        };
        let bytes = self.bytes(topics::STOCK_LEVELS, &level);
        self.solo.global(LEVELS, sku.as_bytes(), &bytes);
    }

    fn place(&mut self, order: &OrderPlaced) -> Vec<Emitted> {
        let bytes = self.bytes(topics::ORDERS_PLACED, order);
        self.solo.record(topics::ORDERS_PLACED, order.order_id.as_bytes(), &bytes).unwrap();
        self.solo.emitted()
    }

    fn reason(&mut self, order: &OrderPlaced) -> RejectReason {
        let emitted = self.place(order);
        assert_eq!((emitted.len(), emitted[0].topic.as_str()), (1, topics::ORDERS_REJECTED));
        self.codec.decode::<OrderRejected>(&emitted[0].value).unwrap().reason
    }
}

#[test]
fn an_order_id_is_one_order_for_ever_also_after_a_restart() {
    let mut bench = Bench::new();
    let (first, other) = (order(&[("APPLE", 1)]), order(&[("APPLE", 2)]));
    let emitted = bench.place(&first);
    assert_eq!((emitted.len(), emitted[0].topic.as_str()), (1, topics::ORDERS_ACCEPTED));
    for _ in 0..2 {
        assert_eq!(bench.place(&first), []);
        assert_eq!(bench.reason(&other), RejectReason::ConflictingDuplicate);
        // The refusal did not take the id: the first body still holds it.
        assert_eq!(bench.place(&first), []);
        bench.solo.restart();
    }
}

#[test]
fn a_rejected_order_is_answered_once_too() {
    let mut bench = Bench::new();
    let mut unknown = order(&[("GHOST", 1)]);
    assert_eq!(bench.reason(&unknown), RejectReason::UnknownSku);
    assert_eq!(bench.place(&unknown), []);
    // It stays rejected when the product comes later; that is another order, under another id.
    bench.product("GHOST", 5, true);
    assert_eq!(bench.place(&unknown), []);
    unknown.order_id = "o-2".into();
    assert_eq!(bench.place(&unknown)[0].topic, topics::ORDERS_ACCEPTED);
}

#[test]
fn the_catalog_and_the_levels_are_read_as_they_change() {
    let mut bench = Bench::new();
    let mut next = 0;
    let mut fresh = |quantity| {
        next += 1;
        OrderPlaced { order_id: format!("o-{next}"), ..order(&[("APPLE", quantity)]) }
    };
    bench.product("APPLE", 300, true);
    let emitted = bench.place(&fresh(2));
    assert_eq!(bench.codec.decode::<OrderAccepted>(&emitted[0].value).unwrap().total.minor, 600);
    bench.level("APPLE", 10, 9);
    assert_eq!(bench.reason(&fresh(2)), RejectReason::SoldOut);
    assert_eq!(bench.place(&fresh(1))[0].topic, topics::ORDERS_ACCEPTED);
    bench.product("APPLE", 300, false);
    assert_eq!(bench.reason(&fresh(1)), RejectReason::UnknownSku);
}

#[test]
fn what_is_no_record_of_its_key_is_poison() {
    let mut bench = Bench::new();
    let bytes = bench.bytes(topics::ORDERS_PLACED, &order(&[("APPLE", 1)]));
    for (key, value) in [
        (b"o-2".as_slice(), Some(bytes.as_slice())),
        (b"", Some(&bytes)),
        (b"\xff", Some(&bytes)),
        (b"o-1", Some(b"{\"order_id\":\"o-1\"}")),
        (b"o-1", Some(&bytes[..bytes.len() - 1])),
        (b"o-1", None),
    ] {
        let outcome = bench.solo.raw(topics::ORDERS_PLACED, key, value);
        assert!(matches!(outcome, Err(Failure::Poison(_))), "{key:?} {outcome:?}");
    }
    assert_eq!(bench.solo.emitted(), []);
}
