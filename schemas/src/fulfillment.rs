//! Records about an order after payment. Owns their shape; decides nothing.

use crate::define::{record, symbols};
use crate::money::Money;
use crate::payments::PaymentState;
use crate::stock::StockLine;

symbols! {
    /// Whom something waits for.
    pub enum WaitsFor {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// It is final.
        Nobody = "NOBODY",
        /// The accepted order.
        Intake = "INTAKE",
        /// The payment processor.
        Payment = "PAYMENT",
        /// The payment service provider.
        Provider = "PROVIDER",
        /// The ledger.
        Stock = "STOCK",
        /// A command of fulfillment.
        Fulfillment = "FULFILLMENT",
        /// Goods to leave the house.
        Warehouse = "WAREHOUSE",
        /// Goods to arrive.
        Carrier = "CARRIER",
    }
}

symbols! {
    /// What the warehouse reports.
    pub enum ShipmentUpdateKind {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// Lines left the house.
        Shipped = "SHIPPED",
        /// Lines cannot be shipped, ever.
        Short = "SHORT",
        /// The shipment arrived.
        Delivered = "DELIVERED",
    }
}

record! {
    /// The warehouse reports on a shipment.
    pub struct ShipmentUpdate {
        /// The order; also the record's key.
        order_id: String,
        /// The shipment; the same one repeated counts once.
        shipment_id: String,
        /// What is reported.
        kind: ShipmentUpdateKind,
        /// SHIPPED and SHORT: which lines; empty: everything that is still to be shipped.
        lines: Vec<StockLine>,
        /// When it happened; UTC milliseconds.
        at: i64,
    }
}

symbols! {
    /// Where an order stands after payment. It ends COMPLETED or CANCELLED.
    pub enum OrderStatus {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// A payment or a cancel is known, the accepted order is not.
        AwaitingOrder = "AWAITING_ORDER",
        /// A cancel is known, the payment is not settled.
        AwaitingPayment = "AWAITING_PAYMENT",
        /// The ledger was asked to hold the lines.
        Reserving = "RESERVING",
        /// All lines are held and the money is authorized.
        Confirmed = "CONFIRMED",
        /// Some lines left.
        PartiallyShipped = "PARTIALLY_SHIPPED",
        /// All that will ship has; capture or delivery is outstanding.
        Shipped = "SHIPPED",
        /// All that will ship has arrived; the capture is outstanding.
        Delivered = "DELIVERED",
        /// Shipped, delivered and captured; final.
        Completed = "COMPLETED",
        /// What was held and authorized is being let go.
        Cancelling = "CANCELLING",
        /// Nothing is held any more; final.
        Cancelled = "CANCELLED",
    }
}

symbols! {
    /// What happened to an order after payment.
    pub enum OrderEventKind {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// Something was heard that changes nothing yet.
        Noted = "NOTED",
        /// The ledger was asked to hold the lines.
        ReservationRequested = "RESERVATION_REQUESTED",
        /// All lines are held.
        Confirmed = "CONFIRMED",
        /// Some lines left.
        PartiallyShipped = "PARTIALLY_SHIPPED",
        /// The last lines that will ship left.
        Shipped = "SHIPPED",
        /// The money is taken.
        Captured = "CAPTURED",
        /// A shipment arrived.
        Delivered = "DELIVERED",
        /// The order is done.
        Completed = "COMPLETED",
        /// A cancel was asked for and noted.
        CancelRequested = "CANCEL_REQUESTED",
        /// A cancel came too late.
        CancelRefused = "CANCEL_REFUSED",
        /// The order is being cancelled.
        Cancelling = "CANCELLING",
        /// The order is cancelled.
        Cancelled = "CANCELLED",
        /// A deadline passed and somebody is still waited for.
        DeadlineExtended = "DEADLINE_EXTENDED",
    }
}

symbols! {
    /// Why an order is cancelled.
    pub enum CancelReason {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// It was asked for.
        Customer = "CUSTOMER",
        /// The provider refused.
        PaymentDeclined = "PAYMENT_DECLINED",
        /// The authorization ran out.
        PaymentExpired = "PAYMENT_EXPIRED",
        /// A line could not be held.
        OutOfStock = "OUT_OF_STOCK",
        /// Nothing of it can be shipped.
        NeverShipped = "NEVER_SHIPPED",
        /// Somebody was waited for too long.
        Timeout = "TIMEOUT",
    }
}

symbols! {
    /// Where a group of lines stands with the ledger.
    pub enum GroupState {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// The ledger was asked to hold it.
        Requested = "REQUESTED",
        /// It is held.
        Granted = "GRANTED",
        /// It fell short; nothing is held.
        Refused = "REFUSED",
        /// The ledger was asked to let it go.
        Releasing = "RELEASING",
        /// It was let go.
        Released = "RELEASED",
        /// All of it left or was let go.
        Shipped = "SHIPPED",
    }
}

record! {
    /// The lines of an order whose SKUs live on one partition of the ledger.
    pub struct Group {
        /// That partition.
        stock_partition: i32,
        /// The smallest SKU of the group; key of its commands.
        key: String,
        /// Where it stands.
        state: GroupState,
        /// The reservation attempt, from 1.
        attempt: i32,
    }
}

record! {
    /// How much of a line is settled.
    pub struct ShippedLine {
        /// Which SKU.
        sku: String,
        /// How many left.
        shipped: i32,
        /// How many cannot be shipped, ever.
        short: i32,
    }
}

record! {
    /// What happened to an order after payment, with the whole order as it is afterwards, lines excepted.
    pub struct OrderEvent {
        /// The order; also the record's key.
        order_id: String,
        /// What happened.
        kind: OrderEventKind,
        /// The status afterwards.
        status: OrderStatus,
        /// 1 for the first event of the order, then one more each.
        version: i64,
        /// Who orders; empty while not known.
        customer_id: String,
        /// The payment as last heard.
        payment: PaymentState,
        /// The order's total; null while not known.
        total: Option<Money> = None,
        /// Captured so far, in minor units.
        captured_minor: i64,
        /// The groups asked of the ledger.
        groups: Vec<Group>,
        /// Only lines with something shipped or short, and only while not all is shipped.
        progress: Vec<ShippedLine>,
        /// Value of what has shipped, in minor units.
        shipped_minor: i64,
        /// The shipments that were applied.
        shipments: Vec<String>,
        /// A cancel was asked for and not refused.
        cancel_wanted: bool,
        /// A delivery was reported.
        delivered: bool,
        /// Why it is cancelled; null when it is not.
        cancel_reason: Option<CancelReason> = None,
        /// Whom the order waits for.
        waits_for: WaitsFor,
        /// Until when, before somebody must look again; UTC milliseconds; null when final.
        until: Option<i64> = None,
        /// What happened, in words.
        detail: String,
        /// When it happened; UTC milliseconds.
        at: i64,
    }
}
