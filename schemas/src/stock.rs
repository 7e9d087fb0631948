//! Records to and from the ledger. Owns their shape; decides nothing.

use crate::define::{record, symbols};

symbols! {
    /// What is asked of the ledger.
    pub enum StockCommandKind {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// Hold the lines, all or none.
        Reserve = "RESERVE",
        /// Let go whatever is still held.
        Release = "RELEASE",
        /// The lines leave the shelf.
        Ship = "SHIP",
    }
}

record! {
    /// A quantity of one SKU.
    pub struct StockLine {
        /// Which SKU.
        sku: String,
        /// How many; at least 1.
        quantity: i32,
    }
}

record! {
    /// Fulfillment tells the ledger what to do with one group: the lines of an order whose SKUs live on one partition. The key is the smallest SKU of the group. Idempotent by order_id, attempt, kind and command_id.
    pub struct StockCommand {
        /// The order.
        order_id: String,
        /// The reservation attempt of the order, from 1.
        attempt: i32,
        /// What to do.
        kind: StockCommandKind,
        /// The shipment for SHIP; else empty.
        command_id: String,
        /// Ascending by SKU; empty for RELEASE.
        lines: Vec<StockLine>,
        /// When it was commanded; UTC milliseconds.
        at: i64,
    }
}

symbols! {
    /// What the ledger did with a command.
    pub enum StockEventKind {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// The group is held, whole.
        Reserved = "RESERVED",
        /// The group is refused, whole; nothing is held.
        Insufficient = "INSUFFICIENT",
        /// What was still held was let go.
        Released = "RELEASED",
        /// The lines left the shelf.
        Shipped = "SHIPPED",
        /// The command did not fit; nothing changed.
        Refused = "REFUSED",
    }
}

record! {
    /// A line that could not be reserved.
    pub struct ShortLine {
        /// Which SKU.
        sku: String,
        /// How many were wanted.
        wanted: i32,
        /// How many were available; may be negative after a count.
        available: i64,
    }
}

record! {
    /// What the ledger did with one group of an order.
    pub struct StockEvent {
        /// The order; also the record's key.
        order_id: String,
        /// The reservation attempt it answers.
        attempt: i32,
        /// The partition of the ledger that answers.
        stock_partition: i32,
        /// What was done.
        kind: StockEventKind,
        /// That of the command.
        command_id: String,
        /// RESERVED: what is held; RELEASED: what was let go; SHIPPED: what left.
        lines: Vec<StockLine>,
        /// INSUFFICIENT: which lines fell short; else empty.
        short: Vec<ShortLine>,
        /// When it happened; UTC milliseconds.
        at: i64,
    }
}

symbols! {
    /// What kind of change is made by hand to the stock of a SKU.
    pub enum AdjustmentKind {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// The stock a SKU starts with.
        Opening = "OPENING",
        /// Goods came in.
        Receipt = "RECEIPT",
        /// Goods were counted; the quantity is the absolute on hand.
        Count = "COUNT",
        /// Goods were lost or broken.
        WriteOff = "WRITE_OFF",
    }
}

record! {
    /// A change to the stock of a SKU that no order made.
    pub struct StockAdjustment {
        /// The adjustment; the same one repeated counts once.
        adjustment_id: String,
        /// Which SKU; also the record's key.
        sku: String,
        /// What kind of change.
        kind: AdjustmentKind,
        /// Never negative; for COUNT the absolute on hand.
        quantity: i64,
        /// Why, in words.
        reason: String,
        /// When it happened; UTC milliseconds.
        at: i64,
    }
}

symbols! {
    /// What changed a balance.
    pub enum LevelCause {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// The stock a SKU starts with.
        Opening = "OPENING",
        /// Goods came in.
        Receipt = "RECEIPT",
        /// Goods were counted.
        Count = "COUNT",
        /// Goods were lost or broken.
        WriteOff = "WRITE_OFF",
        /// A reservation was granted.
        Reserved = "RESERVED",
        /// A reservation was let go.
        Released = "RELEASED",
        /// Goods left.
        Shipped = "SHIPPED",
    }
}

record! {
    /// The whole balance of a SKU after a change. on_hand = opening + received + adjusted - shipped; available = on_hand - reserved.
    pub struct StockLevel {
        /// Which SKU; also the record's key.
        sku: String,
        /// How many are in the house.
        on_hand: i64,
        /// How many of them are held for orders.
        reserved: i64,
        /// How many the SKU started with.
        opening: i64,
        /// Sum of receipts.
        received: i64,
        /// Sum of what left.
        shipped: i64,
        /// Signed sum of counts and write-offs.
        adjusted: i64,
        /// 1 for the first record of the SKU, then one more each.
        version: i64,
        /// What changed it.
        cause: LevelCause,
        /// The order or the adjustment that did.
        cause_id: String,
        /// When it happened; UTC milliseconds.
        at: i64,
    }
}
