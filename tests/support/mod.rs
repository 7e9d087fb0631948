//! What the whole-program tests stand on: a shop that can be in memory, on the embedded broker or on Apache Kafka, and is
//! asked the same things. Owns starting and ending the processes it started; never what a test expects.

#![allow(dead_code, clippy::unwrap_used)]

pub mod memory;
#[path = "../kafka/node.rs"]
pub mod node;
pub mod processes;
pub mod scenarios;

use std::collections::BTreeMap;

use millrace_audit::{Audit, Phase, ProviderEntry, Record, Report};
use millrace_psp::LedgerEntry;
use millrace_runtime::InputRecord;
use millrace_schemas::{
    AdjustmentKind, AvroRecord, Codec, Money, OrderEvent, OrderLine, OrderPlaced, OrderRejected, OrderStatus, Product,
    RejectReason, StockAdjustment, TOPICS, topics,
};

/// A record with its place: topic, partition, record.
pub type Placed = (String, i32, InputRecord);

/// A shop under test.
pub trait Shop {
    /// The codec its records are written with.
    fn codec(&self) -> Codec;

    /// Writes a record as any producer would.
    fn produce_bytes(&mut self, topic: &str, key: &[u8], value: Option<&[u8]>);

    /// Every committed record of these topics, each partition in order.
    fn records(&mut self, topics: &[&str]) -> Vec<Placed>;

    /// Lets the shop work until `done` is true; panics with `what` when it does not become true.
    fn until(&mut self, what: &str, done: &mut dyn FnMut(&mut Self) -> bool)
    where
        Self: Sized;

    /// The provider's ledger.
    fn ledger(&mut self) -> Vec<LedgerEntry>;

    /// Ends the worker as `kill -9` does and starts it again, its disk kept.
    fn kill_and_restart(&mut self);
}

/// Writes a typed record.
pub fn produce<T: AvroRecord>(shop: &mut impl Shop, topic: &'static str, key: &str, record: &T) {
    let mut value = Vec::new();
    shop.codec().encode(topic, record, &mut value);
    shop.produce_bytes(topic, key.as_bytes(), Some(&value));
}

/// Puts products with stock into the shop and waits until the ledger and intake know them: intake reads the catalog beside
/// its input, and refuses an order that overtakes it.
pub fn stock(shop: &mut impl Shop, skus: &[(&str, i64, i64)]) {
    for (sku, minor, units) in skus {
        let unit_price = Money { minor: *minor, currency: "GBP".into() };
        let product = Product { sku: (*sku).into(), description: "a thing".into(), unit_price, active: true, at: 1 };
        produce(shop, topics::CATALOG_PRODUCTS, sku, &product);
        let opening = StockAdjustment {
            adjustment_id: format!("opening-{sku}"),
            sku: (*sku).into(),
            kind: AdjustmentKind::Opening,
            quantity: *units,
            reason: "test".into(),
            at: 1,
        };
        produce(shop, topics::STOCK_ADJUSTMENTS, sku, &opening);
    }
    let wanted = skus.len();
    shop.until("the ledger knows the stock", &mut |shop| shop.records(&[topics::STOCK_LEVELS]).len() >= wanted);
    let lines: Vec<(&str, i32)> = skus.iter().map(|(sku, ..)| (*sku, 1)).collect();
    let mut tries = 0;
    loop {
        let id = format!("{PROBE}{}-{tries}", lines[0].0);
        // In a currency that nothing is priced in: always refused, and the reason tells what is known.
        place(shop, &OrderPlaced { currency: "JPY".into(), ..order(&id, &lines, "tok_visa") });
        let mut answer = None;
        shop.until("intake answers", &mut |shop| {
            answer = all_rejections(shop).into_iter().find(|refused| refused.order_id == id);
            answer.is_some()
        });
        match answer.expect("it was waited for").reason {
            RejectReason::CurrencyMismatch => break,
            RejectReason::UnknownSku if tries < 1_000 => tries += 1,
            other => panic!("intake refused {id} for {other}"),
        }
    }
}

/// What the ids of orders begin with that only ask whether intake knows the catalog.
const PROBE: &str = "probe-";

/// An order of these lines.
#[must_use]
pub fn order(id: &str, lines: &[(&str, i32)], token: &str) -> OrderPlaced {
    OrderPlaced {
        order_id: id.into(),
        customer_id: "ann".into(),
        currency: "GBP".into(),
        lines: lines.iter().map(|(sku, quantity)| OrderLine { sku: (*sku).into(), quantity: *quantity }).collect(),
        payment_method: token.into(),
        expected_total: None,
        channel: "test".into(),
        placed_at: 1,
    }
}

/// Places an order.
pub fn place(shop: &mut impl Shop, order: &OrderPlaced) {
    produce(shop, topics::ORDERS_PLACED, &order.order_id, order);
}

/// The newest event of each order.
pub fn orders(shop: &mut impl Shop) -> BTreeMap<String, OrderEvent> {
    let codec = shop.codec();
    let records = shop.records(&[topics::ORDERS_EVENTS]);
    let events = records.iter().filter_map(|(_, _, record)| codec.decode::<OrderEvent>(record.value.as_deref()?).ok());
    events.map(|event| (event.order_id.clone(), event)).collect()
}

/// Every refusal of an order that a test placed.
pub fn rejections(shop: &mut impl Shop) -> Vec<OrderRejected> {
    all_rejections(shop).into_iter().filter(|refused| !refused.order_id.starts_with(PROBE)).collect()
}

fn all_rejections(shop: &mut impl Shop) -> Vec<OrderRejected> {
    let codec = shop.codec();
    let records = shop.records(&[topics::ORDERS_REJECTED]);
    records.iter().filter_map(|(_, _, record)| codec.decode(record.value.as_deref()?).ok()).collect()
}

/// Waits until an order has this status.
pub fn until_status(shop: &mut impl Shop, id: &str, status: OrderStatus) -> OrderEvent {
    shop.until(&format!("order {id} is {status:?}"), &mut |shop| {
        let orders = orders(shop);
        let refused = rejections(shop).into_iter().find(|refused| refused.order_id == id && !orders.contains_key(id));
        if let Some(refused) = refused.filter(|refused| refused.reason != RejectReason::ConflictingDuplicate) {
            panic!("order {id} was refused: {}: {}", refused.reason, refused.detail);
        }
        orders.get(id).is_some_and(|o| o.status == status)
    });
    orders(shop).remove(id).expect("it was there")
}

/// What the auditor says of everything there is.
pub fn audit(shop: &mut impl Shop, phase: Phase) -> Report {
    let mut audit = Audit::new(shop.codec());
    let letters: Vec<String> =
        ["intake", "payment", "fulfillment", "stock", "tracking"].map(|p| format!("dead-letters.{p}")).into();
    let mut names: Vec<&str> = TOPICS.iter().map(|topic| topic.topic).collect();
    names.extend(letters.iter().map(String::as_str));
    for (topic, partition, record) in shop.records(&names) {
        let record = Record {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.as_deref().unwrap_or_default(),
            value: record.value.as_deref(),
            headers: &record.headers,
        };
        audit.record(&topic, partition, &record);
    }
    for entry in shop.ledger() {
        audit.provider(&ProviderEntry {
            order_id: entry.order_id,
            currency: entry.currency,
            authorized_minor: entry.authorized_minor,
            captured_minor: entry.captured_minor,
            voided_minor: entry.voided_minor,
            refunded_minor: entry.refunded_minor,
            authorizations: entry.authorizations,
            captures: entry.captures,
            live: u32::from(entry.live),
        });
    }
    audit.report(phase)
}
