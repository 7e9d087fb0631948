//! A shop in memory that confirms orders: the shipped topology with the real engine and processors on the doors in memory,
//! and a provider that approves everything. Owns what its orders look like; never counts or prints anything.

use millrace_processors::definitions;
use millrace_runtime::testing::Driver;
use millrace_runtime::{Call, check_definitions, parse};
use millrace_schemas::provider::{ProviderRequest, ProviderResponse};
use millrace_schemas::{
    AdjustmentKind, AvroRecord, Codec, Money, OrderLine, OrderPlaced, Product, StockAdjustment, topics,
};

const SKUS: usize = 1_000;
/// Orders that come in at a time.
const BATCH: usize = 500;

/// A shop in memory, with stock of everything.
pub struct Shop {
    /// The engine and its doors.
    pub driver: Driver,
    codec: Codec,
    placed: usize,
}

impl Shop {
    /// Without `hand_over` every record between two tasks goes through the broker.
    pub fn open(hand_over: bool) -> Self {
        let codec = Codec::offline();
        let definitions = definitions(&codec);
        let mut topology = parse(include_str!("../../../topology.toml")).unwrap();
        topology.engine.hand_over = hand_over;
        check_definitions(&mut topology, &definitions).unwrap();
        let driver = Driver::new(topology, definitions, Box::new(approve));
        driver.clock.set(1_790_000_000_000);
        let mut shop = Self { driver, codec, placed: 0 };
        shop.driver.start_with_all(1);
        shop.stock();
        shop.driver.settle().unwrap();
        shop
    }

    /// Places so many orders and lets each be confirmed.
    pub fn confirm(&mut self, orders: usize) {
        let end = self.placed + orders;
        while self.placed < end {
            for n in self.placed..end.min(self.placed + BATCH) {
                let id = format!("order-{n:08}");
                self.produce(topics::ORDERS_PLACED, &id, &order(&id, n));
                self.placed += 1;
            }
            self.driver.settle().unwrap();
        }
    }

    fn produce<T: AvroRecord>(&mut self, topic: &str, key: &str, record: &T) {
        let mut value = Vec::new();
        self.codec.encode(topic, record, &mut value);
        self.driver.produce(topic, key.as_bytes(), &value);
    }

    fn stock(&mut self) {
        for n in 0..SKUS {
            let sku = sku(n);
            let unit_price = Money { minor: 250, currency: "GBP".into() };
            let product = Product { sku: sku.clone(), description: "a thing".into(), unit_price, active: true, at: 1 };
            self.produce(topics::CATALOG_PRODUCTS, &sku, &product);
            let opening = StockAdjustment {
                adjustment_id: format!("opening-{sku}"),
                sku: sku.clone(),
                kind: AdjustmentKind::Opening,
                quantity: 100_000_000,
                reason: "profile".into(),
                at: 1,
            };
            self.produce(topics::STOCK_ADJUSTMENTS, &sku, &opening);
        }
    }
}

fn approve(call: &Call) -> Option<Vec<u8>> {
    let request = ProviderRequest::from_json(&call.request).unwrap();
    Some(
        ProviderResponse::Approved { reference: request.idempotency_key, amount_minor: request.amount_minor }.to_json(),
    )
}

fn sku(n: usize) -> String {
    format!("sku-{:05}", n % SKUS)
}

/// One to five lines, three on average.
pub fn order(id: &str, n: usize) -> OrderPlaced {
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
