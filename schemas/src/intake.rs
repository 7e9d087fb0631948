//! Records about an order before it is accepted or refused, and what intake reads. Owns their shape; decides nothing.

use crate::define::{record, symbols};
use crate::money::Money;

record! {
    /// One line of an order as the shopper sent it.
    pub struct OrderLine {
        /// What is wanted.
        sku: String,
        /// How many; at least 1 to be accepted.
        quantity: i32,
    }
}

record! {
    /// An order as it was submitted: not yet checked, without prices of its own.
    pub struct OrderPlaced {
        /// The order; also the record's key.
        order_id: String,
        /// Who orders.
        customer_id: String,
        /// ISO 4217 code the shopper was quoted in.
        currency: String,
        /// What is ordered; the same SKU may come twice.
        lines: Vec<OrderLine>,
        /// Token of the payment service provider; never a card number.
        payment_method: String,
        /// The total the shopper saw; null: any catalog price is fine.
        expected_total: Option<Money> = None,
        /// Where the order came from, such as web or app.
        channel: String,
        /// When the order was placed; UTC milliseconds.
        placed_at: i64,
    }
}

record! {
    /// One line of an accepted order, priced from the catalog.
    pub struct PricedLine {
        /// What was ordered.
        sku: String,
        /// How many, over all lines of the order with this SKU; at least 1.
        quantity: i32,
        /// Catalog price of one, in minor units of the order's currency.
        unit_price_minor: i64,
        /// quantity times unit price, in minor units.
        line_total_minor: i64,
    }
}

record! {
    /// An order that was checked and priced: Millrace answers for it from here on.
    pub struct OrderAccepted {
        /// The order; also the record's key.
        order_id: String,
        /// Who orders.
        customer_id: String,
        /// One line per SKU, ascending by SKU.
        lines: Vec<PricedLine>,
        /// Sum of the lines.
        total: Money,
        /// Token of the payment service provider; never a card number.
        payment_method: String,
        /// Fingerprint of the order as placed; tells a repeat from a conflicting duplicate.
        fingerprint: String,
        /// Where the order came from.
        channel: String,
        /// When the order was placed; UTC milliseconds.
        placed_at: i64,
        /// When it was accepted; UTC milliseconds.
        accepted_at: i64,
    }
}

symbols! {
    /// Why an order was refused.
    pub enum RejectReason {
        /// A symbol that this version does not know.
        Unknown = "UNKNOWN",
        /// It has no lines.
        Empty = "EMPTY",
        /// It has more lines than the limit.
        TooManyLines = "TOO_MANY_LINES",
        /// A quantity is below 1 or above the limit.
        BadQuantity = "BAD_QUANTITY",
        /// A SKU is not in the catalog, or not for sale.
        UnknownSku = "UNKNOWN_SKU",
        /// A product is not priced in the order's currency.
        CurrencyMismatch = "CURRENCY_MISMATCH",
        /// The catalog's total is not the total the shopper saw.
        PriceChanged = "PRICE_CHANGED",
        /// The total cannot be represented.
        AmountOverflow = "AMOUNT_OVERFLOW",
        /// A line is plainly sold out.
        SoldOut = "SOLD_OUT",
        /// The payment method is missing or not a token.
        BadPaymentMethod = "BAD_PAYMENT_METHOD",
        /// The order id is held by an order with other content, which stays as it is.
        ConflictingDuplicate = "CONFLICTING_DUPLICATE",
    }
}

record! {
    /// An order that was refused. A conflicting duplicate never changes the order that holds the id.
    pub struct OrderRejected {
        /// The order; also the record's key.
        order_id: String,
        /// Who ordered.
        customer_id: String,
        /// Why it was refused.
        reason: RejectReason,
        /// The reason in words, for people.
        detail: String,
        /// The SKUs the reason is about; empty when it is about none.
        skus: Vec<String>,
        /// Fingerprint of the refused order as placed.
        fingerprint: String,
        /// When the order was placed; UTC milliseconds.
        placed_at: i64,
        /// When it was rejected; UTC milliseconds.
        rejected_at: i64,
    }
}

record! {
    /// Somebody wants an order cancelled; may come before the order itself.
    pub struct CancelRequested {
        /// The order; also the record's key.
        order_id: String,
        /// The request; the same request repeated is one request.
        request_id: String,
        /// Why, in words.
        reason: String,
        /// Who asks.
        requested_by: String,
        /// When it happened; UTC milliseconds.
        at: i64,
    }
}

record! {
    /// One product of the catalog as it is now; the latest record of a SKU counts.
    pub struct Product {
        /// The product; also the record's key.
        sku: String,
        /// What people read.
        description: String,
        /// Price of one.
        unit_price: Money,
        /// Whether it is for sale.
        active: bool,
        /// When the catalog said so; UTC milliseconds.
        at: i64,
    }
}
