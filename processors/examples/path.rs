//! The path of orders in memory, to be counted and looked at: the shipped topology with the real engine and processors
//! on the doors in memory, and a provider that approves everything. `make profile` runs it under callgrind.
//!
//! `path <orders> [off]`: places so many orders of three lines on average, lets each be confirmed, and says how. With
//! `off`, every record between two tasks goes through the broker.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use millrace_processors::definitions;
use millrace_runtime::testing::Driver;
use millrace_runtime::{Call, check_definitions, parse};
use millrace_schemas::provider::{ProviderRequest, ProviderResponse};
use millrace_schemas::{
    AdjustmentKind, AvroRecord, Codec, Money, OrderLine, OrderPlaced, Product, StockAdjustment, topics,
};

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SKUS: usize = 1_000;
/// Orders that come in at a time.
const BATCH: usize = 500;

fn main() {
    let mut args = std::env::args().skip(1);
    let orders: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(1_000);
    let hand_over = args.next().as_deref() != Some("off");

    let codec = Codec::offline();
    let definitions = definitions(&codec);
    let mut topology = parse(include_str!("../../topology.toml")).unwrap();
    topology.engine.hand_over = hand_over;
    check_definitions(&mut topology, &definitions).unwrap();
    let mut driver = Driver::new(topology, definitions, Box::new(approve));
    driver.clock.set(1_790_000_000_000);
    driver.start_with_all(1);
    stock(&mut driver, &codec);
    driver.settle().unwrap();
    let before = driver.cluster.transactions();
    for from in (0..orders).step_by(BATCH) {
        for n in from..orders.min(from + BATCH) {
            let id = format!("order-{n:08}");
            produce(&mut driver, &codec, topics::ORDERS_PLACED, &id, &order(&id, n));
        }
        driver.settle().unwrap();
    }
    let transactions = driver.cluster.transactions() - before;
    let report = driver.thread(1).take_report();
    println!(
        "{orders} orders, {transactions} transactions, {} records, {} of them passed on in memory",
        report.committed_records, report.handed_over
    );
}

fn approve(call: &Call) -> Option<Vec<u8>> {
    let request = ProviderRequest::from_json(&call.request).unwrap();
    Some(
        ProviderResponse::Approved { reference: request.idempotency_key, amount_minor: request.amount_minor }.to_json(),
    )
}

fn produce<T: AvroRecord>(driver: &mut Driver, codec: &Codec, topic: &str, key: &str, record: &T) {
    let mut value = Vec::new();
    codec.encode(topic, record, &mut value);
    driver.produce(topic, key.as_bytes(), &value);
}

fn sku(n: usize) -> String {
    format!("sku-{:05}", n % SKUS)
}

fn stock(driver: &mut Driver, codec: &Codec) {
    for n in 0..SKUS {
        let sku = sku(n);
        let unit_price = Money { minor: 250, currency: "GBP".into() };
        let product = Product { sku: sku.clone(), description: "a thing".into(), unit_price, active: true, at: 1 };
        produce(driver, codec, topics::CATALOG_PRODUCTS, &sku, &product);
        let opening = StockAdjustment {
            adjustment_id: format!("opening-{sku}"),
            sku: sku.clone(),
            kind: AdjustmentKind::Opening,
            quantity: 100_000_000,
            reason: "profile".into(),
            at: 1,
        };
        produce(driver, codec, topics::STOCK_ADJUSTMENTS, &sku, &opening);
    }
}

/// One to five lines, three on average.
fn order(id: &str, n: usize) -> OrderPlaced {
    let lines = (0..1 + n % 5).map(|line| OrderLine { sku: sku(n * 7 + line * 131), quantity: 1 }).collect();
    OrderPlaced {
        order_id: id.into(),
        customer_id: format!("customer-{:05}", n % 10_000),
        currency: "GBP".into(),
        lines,
        payment_method: "tok_visa".into(),
        expected_total: None,
        channel: "web".into(),
        placed_at: 1_790_000_000_000,
    }
}
