//! The order as people ask for it, read from what is stored of it. A pure function of the latest event of each topic and
//! the history, so the order in which events came does not show.

use millrace_schemas::{OrderAccepted, OrderEvent, OrderRejected, OrderStatus, PaymentEvent, PaymentState, WaitsFor};
use serde::{Deserialize, Serialize};

use super::stored::{Source, Stored};
use crate::wire::datum;

/// Where an order stands.
///
/// ```text
/// received ─► authorizing ─► reserving ─► confirmed ─► partially_shipped ─► shipped ─► delivered ─► completed
///    └► rejected    └────────────┴───────────┴──► cancelling ─► cancelled
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Accepted, or not even that is known.
    Received,
    /// The provider is asked to hold the money.
    Authorizing,
    /// The money is held, stock is being reserved.
    Reserving,
    /// All is reserved, the warehouse may ship.
    Confirmed,
    /// A part has left the house.
    PartiallyShipped,
    /// All that will ship has.
    Shipped,
    /// It has arrived.
    Delivered,
    /// Shipped, paid and delivered; final.
    Completed,
    /// On the shortest way to cancelled.
    Cancelling,
    /// Nothing is held or owed; final.
    Cancelled,
    /// Refused by intake; final.
    Rejected,
}

/// An order as people ask for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderView {
    /// The order.
    pub order_id: String,
    /// Whose it is; empty while not known.
    pub customer_id: String,
    /// Where it stands.
    pub status: Status,
    /// Number of events folded; grows with every change.
    pub version: u64,
    /// Fingerprint of the body that was placed; `None` while intake's answer was not read.
    pub fingerprint: Option<String>,
    /// Why it was rejected or is being cancelled.
    pub reason: Option<String>,
    /// Whom it waits for; `nobody` when final.
    pub waits_for: String,
    /// Until when, before somebody looks again, UTC milliseconds.
    pub until: Option<i64>,
    /// What it costs; `None` while not known.
    pub total: Option<Amount>,
    /// Its lines, ascending by SKU; empty while not known.
    pub lines: Vec<Line>,
    /// Its payment; `None` before there is one.
    pub payment: Option<Payment>,
    /// The shipments that left.
    pub shipments: Vec<String>,
    /// What happened, oldest first; the last 50.
    pub history: Vec<Happened>,
    /// When something last happened, UTC milliseconds.
    pub updated_at: i64,
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// In minor units.
    pub minor: i64,
    /// ISO 4217.
    pub currency: String,
}

/// A line of an order; amounts in minor units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What.
    pub sku: String,
    /// How many.
    pub quantity: i32,
    /// Price of one.
    pub unit_price_minor: i64,
    /// Price of all.
    pub line_total_minor: i64,
}

/// The payment of an order; amounts in minor units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Where it stands, in lower snake case.
    pub state: String,
    /// Held, ever.
    pub authorized: i64,
    /// Taken.
    pub captured: i64,
    /// Let go untaken.
    pub voided: i64,
    /// Given back.
    pub refunded: i64,
    /// The provider's word, when it declined.
    pub decline_code: Option<String>,
}

/// A line of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happened {
    /// When, UTC milliseconds.
    pub at: i64,
    /// What, as `order.confirmed` or `payment.authorized`.
    pub event: String,
    /// More about it, for people; may be empty.
    pub detail: String,
}

/// A stored order that is not what this version writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored view of order {order_id:?} cannot be read: {reason}; reset the store `orders-view` to rebuild it")]
pub struct Unreadable {
    order_id: String,
    reason: String,
}

/// The latest word of each topic.
struct Known {
    accepted: Option<OrderAccepted>,
    rejected: Option<OrderRejected>,
    payment: Option<PaymentEvent>,
    order: Option<OrderEvent>,
}

impl OrderView {
    /// From a value of the store `orders-view` and its key.
    ///
    /// # Errors
    /// When the value is not one of that store.
    pub fn from_stored(order_id: &str, value: &[u8]) -> Result<Self, Unreadable> {
        let unreadable = |reason: String| Unreadable { order_id: order_id.to_owned(), reason };
        let stored = Stored::read(value).ok_or_else(|| unreadable("it is cut off or of another format".into()))?;
        let known = Known::of(&stored).map_err(|error| unreadable(error.to_string()))?;
        let text = |bytes: &[u8]| {
            std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| unreadable("its history is not text".into()))
        };
        let history = stored
            .history
            .iter()
            .map(|line| Ok(Happened { at: line.at, event: text(line.event)?, detail: text(line.detail)? }));
        Ok(known.view(order_id, u64::from(stored.events), history.collect::<Result<_, _>>()?))
    }

    /// As JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialize")
    }
}

impl Known {
    fn of(stored: &Stored<'_>) -> Result<Self, millrace_schemas::DecodeError> {
        Ok(Self {
            accepted: stored.part(Source::Accepted).map(datum).transpose()?,
            rejected: stored.part(Source::Rejected).map(datum).transpose()?,
            payment: stored.part(Source::Payment).map(datum).transpose()?,
            order: stored.part(Source::Order).map(datum).transpose()?,
        })
    }

    fn view(self, order_id: &str, version: u64, history: Vec<Happened>) -> OrderView {
        let status = self.status();
        let (waits_for, until) = self.waits_for(status);
        let reason = self.reason(status);
        let Self { accepted, rejected, payment, order } = self;
        let shared = |order: &OrderEvent| order.total.clone();
        let total = accepted.as_ref().map(|order| order.total.clone()).or_else(|| order.as_ref().and_then(shared));
        let customers = [
            accepted.as_ref().map(|order| order.customer_id.clone()),
            rejected.as_ref().map(|order| order.customer_id.clone()),
            order.as_ref().map(|order| order.customer_id.clone()),
        ];
        let fingerprint = accepted.as_ref().map(|order| order.fingerprint.clone());
        OrderView {
            order_id: order_id.to_owned(),
            customer_id: customers.into_iter().flatten().find(|id| !id.is_empty()).unwrap_or_default(),
            status,
            version,
            fingerprint: fingerprint.or_else(|| rejected.map(|order| order.fingerprint)),
            reason,
            waits_for: waits_for.as_str().to_ascii_lowercase(),
            until,
            total: total.map(|total| Amount { minor: total.minor, currency: total.currency }),
            lines: accepted.map_or_else(Vec::new, |order| order.lines.into_iter().map(Line::from).collect()),
            payment: payment.map(Payment::from),
            shipments: order.map_or_else(Vec::new, |order| order.shipments),
            updated_at: history.last().map_or(0, |last| last.at),
            history,
        }
    }

    fn status(&self) -> Status {
        match self.order.as_ref().map(|order| order.status) {
            Some(OrderStatus::Reserving) => Status::Reserving,
            Some(OrderStatus::Confirmed) => Status::Confirmed,
            Some(OrderStatus::PartiallyShipped) => Status::PartiallyShipped,
            Some(OrderStatus::Shipped) => Status::Shipped,
            Some(OrderStatus::Delivered) => Status::Delivered,
            Some(OrderStatus::Completed) => Status::Completed,
            Some(OrderStatus::Cancelling) => Status::Cancelling,
            Some(OrderStatus::Cancelled) => Status::Cancelled,
            None | Some(OrderStatus::Unknown | OrderStatus::AwaitingOrder | OrderStatus::AwaitingPayment) => {
                self.status_before_fulfillment()
            }
        }
    }

    /// Fulfillment has not taken the order up; a cancel may be waiting there.
    fn status_before_fulfillment(&self) -> Status {
        if self.is_rejected() {
            return Status::Rejected;
        }
        if self.order.as_ref().is_some_and(|order| order.cancel_wanted) {
            return Status::Cancelling;
        }
        match self.payment.as_ref().map(|payment| payment.state) {
            None | Some(PaymentState::Unknown) => Status::Received,
            Some(PaymentState::Authorizing) => Status::Authorizing,
            Some(PaymentState::Authorized | PaymentState::Capturing | PaymentState::Captured) => Status::Reserving,
            Some(
                PaymentState::Declined
                | PaymentState::Voiding
                | PaymentState::Voided
                | PaymentState::Refunding
                | PaymentState::Refunded
                | PaymentState::Expired,
            ) => Status::Cancelling,
        }
    }

    fn is_rejected(&self) -> bool {
        self.rejected.is_some() && self.accepted.is_none()
    }

    fn reason(&self, status: Status) -> Option<String> {
        let symbol = match status {
            Status::Rejected => self.rejected.as_ref().map(|order| order.reason.as_str()),
            Status::Cancelling | Status::Cancelled => {
                self.order.as_ref().and_then(|order| order.cancel_reason).map(|reason| reason.as_str())
            }
            _ => None,
        };
        symbol.map(str::to_ascii_lowercase)
    }

    /// Whom the order waits for: where fulfillment waits for payment, whom payment waits for.
    fn waits_for(&self, status: Status) -> (WaitsFor, Option<i64>) {
        if matches!(status, Status::Completed | Status::Cancelled | Status::Rejected) {
            return (WaitsFor::Nobody, None);
        }
        let open = self.payment.as_ref().filter(|p| matches!(p.waits_for, WaitsFor::Provider | WaitsFor::Payment));
        match (&self.order, &self.payment, open) {
            (Some(order), _, Some(open)) if order.waits_for == WaitsFor::Payment => (open.waits_for, open.until),
            (Some(order), _, _) => (order.waits_for, order.until),
            (None, _, Some(open)) => (open.waits_for, open.until),
            (None, Some(payment), None) if payment.state == PaymentState::Unknown => (WaitsFor::Intake, payment.until),
            (None, Some(payment), None) => (WaitsFor::Fulfillment, payment.until),
            (None, None, _) if self.accepted.is_some() => (WaitsFor::Payment, None),
            (None, None, _) => (WaitsFor::Intake, None),
        }
    }
}

impl From<millrace_schemas::PricedLine> for Line {
    fn from(line: millrace_schemas::PricedLine) -> Self {
        Self {
            sku: line.sku,
            quantity: line.quantity,
            unit_price_minor: line.unit_price_minor,
            line_total_minor: line.line_total_minor,
        }
    }
}

impl From<PaymentEvent> for Payment {
    fn from(payment: PaymentEvent) -> Self {
        Self {
            state: payment.state.as_str().to_ascii_lowercase(),
            authorized: payment.authorized_minor,
            captured: payment.captured_minor,
            voided: payment.voided_minor,
            refunded: payment.refunded_minor,
            decline_code: payment.decline_code,
        }
    }
}
