//! What intake keeps of its tables: no more than its decision reads, in a few bytes. Never decides.

use std::sync::Arc;

use millrace_runtime::{Change, Failure, Fold, Record, TableDefinition};
use millrace_schemas::{OrderAccepted, OrderRejected, Product, RejectReason, StockLevel, topics};

use crate::wire::{self, Wire};

/// An order that was answered: its fingerprint. Stored as the fingerprint's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen<'a> {
    pub(super) fingerprint: &'a str,
}

impl<'a> Seen<'a> {
    pub(super) fn read(value: &'a [u8]) -> Result<Self, Failure> {
        match std::str::from_utf8(value) {
            Ok(fingerprint) => Ok(Self { fingerprint }),
            Err(_) => Err(Failure::Storage("a fingerprint in intake's store `seen` is not text".to_owned())),
        }
    }
}

pub(super) fn accepted(wire: &Wire) -> TableDefinition {
    table(wire, topics::ORDERS_ACCEPTED, |wire, record, _| {
        let datum = wire.datum::<OrderAccepted>(record)?;
        let fingerprint = wire::fields::<OrderAccepted>(record.topic, &datum)?.fingerprint.text();
        Ok(Change::Put(fingerprint.as_bytes().to_vec()))
    })
}

/// A refused duplicate leaves the order that holds the id as it is.
pub(super) fn rejected(wire: &Wire) -> TableDefinition {
    table(wire, topics::ORDERS_REJECTED, |wire, record, before| {
        let rejected = wire.read::<OrderRejected>(record)?;
        if rejected.reason == RejectReason::ConflictingDuplicate || before.is_some() {
            return Ok(Change::Keep);
        }
        Ok(Change::Put(rejected.fingerprint.into_bytes()))
    })
}

/// What is for sale: price, then currency. A product that is not for sale has no entry.
pub(super) fn products(wire: &Wire) -> TableDefinition {
    table(wire, topics::CATALOG_PRODUCTS, |wire, record, _| {
        let product = wire.read::<Product>(record)?;
        wire::key_is(record, &product.sku)?;
        if !product.active {
            return Ok(Change::Delete);
        }
        if product.unit_price.minor < 0 {
            return Err(Failure::poison(format!("product {:?} has a negative price", product.sku)));
        }
        let mut value = product.unit_price.minor.to_le_bytes().to_vec();
        value.extend_from_slice(product.unit_price.currency.as_bytes());
        Ok(Change::Put(value))
    })
}

/// How many pieces of a SKU can still be reserved.
pub(super) fn levels(wire: &Wire) -> TableDefinition {
    table(wire, topics::STOCK_LEVELS, |wire, record, _| {
        let datum = wire.datum::<StockLevel>(record)?;
        let level = wire::fields::<StockLevel>(record.topic, &datum)?;
        Ok(Change::Put(level.on_hand.get().saturating_sub(level.reserved.get()).to_le_bytes().to_vec()))
    })
}

/// The offer of a `products` value.
pub(super) fn offer(value: &[u8]) -> Option<super::Offer<'_>> {
    let (price, currency) = value.split_first_chunk()?;
    Some(super::Offer { unit_price_minor: i64::from_le_bytes(*price), currency: std::str::from_utf8(currency).ok()? })
}

/// The number of a `levels` value.
pub(super) fn available(value: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(value.try_into().ok()?))
}

/// What a record that is no tombstone makes of the value before it.
type FoldValue = fn(&Wire, &Record<'_>, Option<&[u8]>) -> Result<Change, Failure>;

/// A table whose tombstones delete and whose other records are folded by `fold`.
fn table(wire: &Wire, topic: &'static str, fold: FoldValue) -> TableDefinition {
    let wire = wire.clone();
    let fold: Fold = Arc::new(move |record, before| match record.value {
        None => Ok(Change::Delete),
        Some(_) => fold(&wire, record, before),
    });
    TableDefinition { topic, fold }
}
