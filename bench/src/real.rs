//! The real orders of `data/`, as `millrace replay` places them: read once, then gone through again and again under ids of
//! the harness. Owns which lines an order has; never when it is sent.

use std::fs::File;
use std::sync::OnceLock;

use anyhow::Context;
use millrace_replay::{ReplayEvent, Selection, Shop, Stock};
use millrace_schemas::{OrderPlaced, Product, StockAdjustment};

use crate::ground::repository;

/// What the shop sells, and what was ordered.
pub(crate) struct Real {
    pub(crate) catalog: Vec<Product>,
    pub(crate) opening: Vec<StockAdjustment>,
    pub(crate) orders: Vec<OrderPlaced>,
}

/// The shop, with stock that never runs out.
pub(crate) fn shop() -> anyhow::Result<&'static Real> {
    static SHOP: OnceLock<Real> = OnceLock::new();
    if let Some(read) = SHOP.get() {
        return Ok(read);
    }
    let path = repository()?.join("bench/data/online_retail.csv.zst");
    let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let shop = Shop::read(file, Selection { orders: None, stock: Stock::Unlimited })?;
    let orders = shop.events().filter_map(|event| match event {
        ReplayEvent::Placed(order) => Some(order),
        ReplayEvent::CancelRequested(_) | ReplayEvent::WrittenOff(_) => None,
    });
    let real =
        Real { orders: orders.collect(), catalog: shop.catalog().to_vec(), opening: shop.opening_stock().to_vec() };
    Ok(SHOP.get_or_init(|| real))
}
