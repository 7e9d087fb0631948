//! Which record is on which topic, and how its schema may change. Owns the list of subjects; never talks to a registry.

use serde_json::Value;

use crate::codec::{AvroRecord, Codec};
use crate::error::{DecodeError, EncodeError};
use crate::{
    CancelRequested, OrderAccepted, OrderEvent, OrderPlaced, OrderRejected, PaymentCommand, PaymentEvent, Product,
    ShipmentUpdate, StockAdjustment, StockCommand, StockEvent, StockLevel,
};

/// How the schema of a subject may change, as schema registries name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// Every version reads what any other wrote: for events, which are read years later and by readers not yet upgraded.
    FullTransitive,
    /// A new version reads what any older wrote: for commands, whose one reader is upgraded first.
    BackwardTransitive,
}

impl Compatibility {
    /// The level's name in a registry.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FullTransitive => "FULL_TRANSITIVE",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
        }
    }
}

/// A topic with the one record type that is on it.
#[derive(Clone, Copy, Debug)]
pub struct Topic {
    /// The topic.
    pub topic: &'static str,
    /// The record's name, such as `OrderPlaced`.
    pub record: &'static str,
    /// The schema's file in `schemas/avro/`, without `.avsc`.
    pub file: &'static str,
    /// The schema, as in the file.
    pub schema_json: &'static str,
    /// How the schema may change.
    pub compatibility: Compatibility,
    pub(crate) decode_json: fn(&Codec, &[u8]) -> Result<Value, DecodeError>,
    pub(crate) encode_json: fn(&Codec, &Value, &mut Vec<u8>) -> Result<(), EncodeError>,
}

impl Topic {
    /// The subject in a registry: `<topic>-value`.
    pub fn subject(&self) -> String {
        format!("{}-value", self.topic)
    }

    /// The topic of this name, if it carries a record of ours.
    pub fn find(name: &str) -> Option<&'static Topic> {
        TOPICS.iter().find(|known| known.topic == name)
    }
}

macro_rules! topics {
    ($( $record:ident, $file:literal, $constant:ident = $topic:literal, $compatibility:ident; )+) => {
        $(
            #[doc = concat!("`", $topic, "`: carries [`", stringify!($record), "`](crate::", stringify!($record), ").")]
            pub const $constant: &str = $topic;
        )+

        /// Every topic that carries a record of ours, ascending by name.
        pub const TOPICS: &[Topic] = &[$( Topic {
            topic: $topic,
            record: stringify!($record),
            file: $file,
            schema_json: include_str!(concat!("../avro/", $file, ".avsc")),
            compatibility: Compatibility::$compatibility,
            decode_json: |codec, bytes| codec.decode::<$record>(bytes).map(|record| record.to_json()),
            encode_json: |codec, json, out| codec.try_encode(&$record::from_json(json)?, out),
        } ),+];

        /// Positions of the records in [`TOPICS`].
        enum Position { $( $record ),+ }

        $( impl AvroRecord for $record {
            const NAME: &'static str = stringify!($record);
            const TOPIC: &'static Topic = &TOPICS[Position::$record as usize];
            const POSITION: usize = Position::$record as usize;
        } )+
    };
}

topics! {
    Product, "product", CATALOG_PRODUCTS = "catalog.products", FullTransitive;
    OrderAccepted, "order-accepted", ORDERS_ACCEPTED = "orders.accepted", FullTransitive;
    CancelRequested, "cancel-requested", ORDERS_CANCEL_REQUESTED = "orders.cancel-requested", FullTransitive;
    OrderEvent, "order-event", ORDERS_EVENTS = "orders.events", FullTransitive;
    OrderPlaced, "order-placed", ORDERS_PLACED = "orders.placed", FullTransitive;
    OrderRejected, "order-rejected", ORDERS_REJECTED = "orders.rejected", FullTransitive;
    PaymentCommand, "payment-command", PAYMENTS_COMMANDS = "payments.commands", BackwardTransitive;
    PaymentEvent, "payment-event", PAYMENTS_EVENTS = "payments.events", FullTransitive;
    ShipmentUpdate, "shipment-update", SHIPMENTS_UPDATES = "shipments.updates", FullTransitive;
    StockAdjustment, "stock-adjustment", STOCK_ADJUSTMENTS = "stock.adjustments", FullTransitive;
    StockCommand, "stock-command", STOCK_COMMANDS = "stock.commands", BackwardTransitive;
    StockEvent, "stock-event", STOCK_EVENTS = "stock.events", FullTransitive;
    StockLevel, "stock-level", STOCK_LEVELS = "stock.levels", FullTransitive;
}

/// Topics whose keys are SKUs; those of all others are order ids.
pub const KEYED_BY_SKU: &[&str] = &[CATALOG_PRODUCTS, STOCK_ADJUSTMENTS, STOCK_COMMANDS, STOCK_LEVELS];

/// The dead-letter topic of a processor: `dead-letters.<processor>`. Its records are the refused ones, byte for byte.
pub fn dead_letters(processor: &str) -> String {
    format!("dead-letters.{processor}")
}

/// Every schema, with the topic it is on.
pub fn all_schemas() -> impl Iterator<Item = (&'static Topic, &'static str)> {
    TOPICS.iter().map(|topic| (topic, topic.schema_json))
}
