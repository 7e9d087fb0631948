//! Every state an order can be in after payment, whom it waits for and how it may move. Never what to do about it;
//! that is [`super::decide`].
//!
//! The state of an order is its latest [`OrderEvent`]: the event carries all that must be remembered, the lines excepted.
//!
//! ```text
//!        authorized     all granted     a part ships        nothing more will      delivered    captured
//! (nothing) ──► RESERVING ──► CONFIRMED ──► PARTIALLY_SHIPPED ──► SHIPPED ──► DELIVERED ──► COMPLETED
//!  │  │             │             │ └──────── all of it ships ───────▲ └──── captured first ─────▲
//!  │  │             └──────┬──────┘
//!  │  │    refused, cancel,│payment over, nothing will ship
//!  │  │                    ▼
//!  │  │   ┌──────────► CANCELLING ──────── ledger and payment done ────────► CANCELLED
//!  │  │   │                                                                   ▲
//!  │  │   │ cancel wanted, authorized                                         │
//!  │  └─► AWAITING_ORDER ─────── payment over, rejected, no such order ───────┤
//!  │        │        └───────► RESERVING, once the order is read              │
//!  │        ▼ cancel wanted, order read or payment begun                      │
//!  └─► AWAITING_PAYMENT ────────────── payment over ──────────────────────────┘
//!                 └──────────► CANCELLING, once authorized
//! ```
//!
//! A final state ends for good, with one exception: an order that was cancelled before anything of it was heard is
//! taken up again when a payment for it turns up, to give the money back.

use millrace_runtime::Open;
use millrace_schemas::{AvroRecord, Group, GroupState, OrderEvent, OrderStatus, PaymentState, RejectReason, WaitsFor};

/// What moves an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The accepted order was read.
    Accepted,
    /// Intake rejected the order.
    Rejected,
    /// The payment is being authorized.
    Authorizing,
    /// The money is held for the order.
    Authorized,
    /// The money was taken.
    Captured,
    /// The payment ended without the money: declined, expired, voided or refunded.
    PaymentEnded,
    /// A group was granted.
    Granted,
    /// A group was refused.
    Refused,
    /// A group was let go.
    Released,
    /// The ledger would not ship what the warehouse shipped.
    ShipRefused,
    /// Somebody wants the order cancelled.
    CancelRequested,
    /// Lines left the house.
    Shipped,
    /// Lines can never be shipped.
    Short,
    /// The carrier delivered.
    Delivered,
    /// The deadline passed.
    Deadline,
}

/// Every way an order can move, and every event that leaves it where it is. [`OrderStatus::Unknown`] is an order of
/// which nothing is kept yet.
pub const TRANSITIONS: &[(OrderStatus, Cause, OrderStatus)] = {
    use Cause as C;
    use OrderStatus as S;
    &[
        (S::Unknown, C::Authorized, S::Reserving),
        (S::Unknown, C::Authorized, S::AwaitingOrder),
        (S::Unknown, C::Authorized, S::Cancelling), // lines that cannot be reserved
        (S::Unknown, C::Captured, S::Reserving),
        (S::Unknown, C::Captured, S::AwaitingOrder),
        (S::Unknown, C::Captured, S::Cancelling),
        (S::Unknown, C::PaymentEnded, S::Cancelled),
        (S::Unknown, C::CancelRequested, S::AwaitingOrder),
        (S::Unknown, C::CancelRequested, S::AwaitingPayment),
        (S::Unknown, C::CancelRequested, S::Cancelled), // rejected by intake
        (S::AwaitingOrder, C::Accepted, S::Reserving),
        (S::AwaitingOrder, C::Accepted, S::AwaitingPayment),
        (S::AwaitingOrder, C::Accepted, S::Cancelling), // lines that cannot be reserved
        (S::AwaitingOrder, C::Rejected, S::Cancelled),
        (S::AwaitingOrder, C::Authorizing, S::AwaitingPayment),
        (S::AwaitingOrder, C::Authorized, S::Cancelling),
        (S::AwaitingOrder, C::Captured, S::AwaitingOrder),
        (S::AwaitingOrder, C::Captured, S::Cancelling),
        (S::AwaitingOrder, C::PaymentEnded, S::Cancelled),
        (S::AwaitingOrder, C::CancelRequested, S::Cancelling),
        (S::AwaitingOrder, C::Shipped, S::AwaitingOrder), // refused: cancel wanted
        (S::AwaitingOrder, C::Deadline, S::AwaitingOrder),
        (S::AwaitingOrder, C::Deadline, S::Cancelling),
        (S::AwaitingOrder, C::Deadline, S::Cancelled),
        (S::AwaitingPayment, C::Authorizing, S::AwaitingPayment),
        (S::AwaitingPayment, C::Authorized, S::Cancelling),
        (S::AwaitingPayment, C::Captured, S::Cancelling),
        (S::AwaitingPayment, C::PaymentEnded, S::Cancelled),
        (S::AwaitingPayment, C::Shipped, S::AwaitingPayment), // refused
        (S::AwaitingPayment, C::Deadline, S::AwaitingPayment),
        (S::Reserving, C::Granted, S::Reserving),
        (S::Reserving, C::Granted, S::Confirmed),
        (S::Reserving, C::Refused, S::Cancelling),
        (S::Reserving, C::Captured, S::Reserving),
        (S::Reserving, C::PaymentEnded, S::Cancelling),
        (S::Reserving, C::CancelRequested, S::Cancelling),
        (S::Reserving, C::Deadline, S::Reserving),
        (S::Confirmed, C::Shipped, S::PartiallyShipped),
        (S::Confirmed, C::Shipped, S::Shipped),
        (S::Confirmed, C::Short, S::Confirmed),
        (S::Confirmed, C::Short, S::Cancelling),
        (S::Confirmed, C::Released, S::Confirmed),
        (S::Confirmed, C::Released, S::Cancelling), // by somebody else
        (S::Confirmed, C::Captured, S::Confirmed),
        (S::Confirmed, C::PaymentEnded, S::Cancelling),
        (S::Confirmed, C::CancelRequested, S::Cancelling),
        (S::Confirmed, C::Deadline, S::Cancelling),
        (S::PartiallyShipped, C::Shipped, S::PartiallyShipped),
        (S::PartiallyShipped, C::Shipped, S::Shipped),
        (S::PartiallyShipped, C::Short, S::PartiallyShipped),
        (S::PartiallyShipped, C::Short, S::Shipped),
        (S::PartiallyShipped, C::Short, S::Delivered),
        (S::PartiallyShipped, C::Delivered, S::PartiallyShipped),
        (S::PartiallyShipped, C::Released, S::PartiallyShipped),
        (S::PartiallyShipped, C::Released, S::Shipped), // by somebody else
        (S::PartiallyShipped, C::Released, S::Delivered),
        (S::PartiallyShipped, C::ShipRefused, S::PartiallyShipped),
        (S::PartiallyShipped, C::Captured, S::PartiallyShipped),
        (S::PartiallyShipped, C::PaymentEnded, S::Shipped),
        (S::PartiallyShipped, C::PaymentEnded, S::Delivered),
        (S::PartiallyShipped, C::CancelRequested, S::PartiallyShipped), // refused
        (S::PartiallyShipped, C::Deadline, S::Shipped),
        (S::PartiallyShipped, C::Deadline, S::Delivered),
        (S::Shipped, C::Captured, S::Shipped),
        (S::Shipped, C::PaymentEnded, S::Shipped),
        (S::Shipped, C::Released, S::Shipped),
        (S::Shipped, C::ShipRefused, S::Shipped),
        (S::Shipped, C::Delivered, S::Delivered),
        (S::Shipped, C::Delivered, S::Completed),
        (S::Shipped, C::CancelRequested, S::Shipped), // refused
        (S::Shipped, C::Shipped, S::Shipped),         // refused
        (S::Shipped, C::Deadline, S::Shipped),
        (S::Shipped, C::Deadline, S::Completed),
        (S::Delivered, C::Captured, S::Delivered),
        (S::Delivered, C::Captured, S::Completed),
        (S::Delivered, C::PaymentEnded, S::Delivered),
        (S::Delivered, C::PaymentEnded, S::Completed),
        (S::Delivered, C::Released, S::Delivered),
        (S::Delivered, C::Released, S::Completed),
        (S::Delivered, C::ShipRefused, S::Delivered),
        (S::Delivered, C::CancelRequested, S::Delivered), // refused
        (S::Delivered, C::Shipped, S::Delivered),         // refused
        (S::Delivered, C::Deadline, S::Delivered),
        (S::Completed, C::PaymentEnded, S::Completed), // refunded later
        (S::Completed, C::ShipRefused, S::Completed),
        (S::Completed, C::CancelRequested, S::Completed), // refused
        (S::Completed, C::Shipped, S::Completed),         // refused
        (S::Cancelling, C::Refused, S::Cancelling),
        (S::Cancelling, C::Refused, S::Cancelled),
        (S::Cancelling, C::Released, S::Cancelling),
        (S::Cancelling, C::Released, S::Cancelled),
        (S::Cancelling, C::Captured, S::Cancelling),
        (S::Cancelling, C::PaymentEnded, S::Cancelling),
        (S::Cancelling, C::PaymentEnded, S::Cancelled),
        (S::Cancelling, C::Shipped, S::Cancelling), // refused
        (S::Cancelling, C::Deadline, S::Cancelling),
        (S::Cancelled, C::Authorizing, S::AwaitingPayment), // a payment for an order never heard of turns up
        (S::Cancelled, C::Authorized, S::Cancelling),
        (S::Cancelled, C::Captured, S::Cancelling),
        (S::Cancelled, C::PaymentEnded, S::Cancelled),
        (S::Cancelled, C::Shipped, S::Cancelled), // refused
    ]
};

/// Whether nothing more is to be done for the order.
#[must_use]
pub fn is_final(status: OrderStatus) -> bool {
    matches!(status, OrderStatus::Completed | OrderStatus::Cancelled)
}

/// When somebody must look at the order again, ms since 1970 UTC; `None` exactly for final states.
#[must_use]
pub fn deadline(order: &OrderEvent) -> Option<i64> {
    open_in(order.status, order.until, order.at).deadline
}

/// What the order leaves open, from how it is kept.
pub(super) fn open(value: &[u8]) -> Open {
    match OrderEvent::fields(value) {
        Ok(order) => open_in(order.status.get(), order.until.get(), order.at.get()),
        Err(_) => Open::default(),
    }
}

/// When somebody must look again, and what the order waits in and since when at the earliest; nothing exactly for final
/// states.
fn open_in(status: OrderStatus, until: Option<i64>, at: i64) -> Open {
    if is_final(status) {
        return Open::default();
    }
    Open { deadline: Some(until.unwrap_or(at)), call: None, waiting: Some((status.as_str(), at)) }
}

/// Whether a rejection is the order's own end. That of another body under an id which is taken says nothing of the order
/// that holds the id, and a reason that is not known here may mean just that.
#[must_use]
pub fn ends_the_order(reason: RejectReason) -> bool {
    !matches!(reason, RejectReason::ConflictingDuplicate | RejectReason::Unknown)
}

/// An order of which nothing is kept yet.
#[must_use]
pub fn nothing_known(order_id: &str) -> OrderEvent {
    OrderEvent {
        order_id: order_id.to_owned(),
        kind: millrace_schemas::OrderEventKind::Noted,
        status: OrderStatus::Unknown,
        version: 0,
        customer_id: String::new(),
        payment: PaymentState::Unknown,
        total: None,
        captured_minor: 0,
        groups: Vec::new(),
        progress: Vec::new(),
        shipped_minor: 0,
        shipments: Vec::new(),
        cancel_wanted: false,
        delivered: false,
        cancel_reason: None,
        waits_for: WaitsFor::Unknown,
        until: None,
        detail: String::new(),
        at: 0,
    }
}

/// What is known of the money, coarse enough that it only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Money {
    /// Nothing was heard.
    Unheard,
    /// It is being asked for.
    Asked,
    /// It is held for the order.
    Held,
    /// It was taken.
    Taken,
    /// It is neither held nor kept, and never will be.
    Gone,
}

/// What a payment's state says of the money.
#[must_use]
pub fn money(payment: PaymentState) -> Money {
    match payment {
        PaymentState::Unknown => Money::Unheard,
        PaymentState::Authorizing => Money::Asked,
        PaymentState::Authorized | PaymentState::Capturing | PaymentState::Voiding => Money::Held,
        PaymentState::Captured | PaymentState::Refunding => Money::Taken,
        PaymentState::Declined | PaymentState::Voided | PaymentState::Refunded | PaymentState::Expired => Money::Gone,
    }
}

/// Whether the ledger has said its last word about a group.
#[must_use]
pub fn is_settled(group: &Group) -> bool {
    matches!(group.state, GroupState::Refused | GroupState::Released | GroupState::Shipped)
}

/// Whom the order waits for.
#[must_use]
pub fn waits_for(order: &OrderEvent) -> WaitsFor {
    let stock_is_silent = || order.groups.iter().any(|group| group.state == GroupState::Releasing);
    match order.status {
        OrderStatus::Unknown => WaitsFor::Unknown,
        OrderStatus::AwaitingOrder => WaitsFor::Intake,
        OrderStatus::AwaitingPayment => WaitsFor::Payment,
        OrderStatus::Reserving => WaitsFor::Stock,
        OrderStatus::Confirmed | OrderStatus::PartiallyShipped => WaitsFor::Warehouse,
        OrderStatus::Shipped | OrderStatus::Delivered if money(order.payment) < Money::Taken => WaitsFor::Payment,
        OrderStatus::Shipped | OrderStatus::Delivered if stock_is_silent() => WaitsFor::Stock,
        OrderStatus::Shipped | OrderStatus::Delivered => WaitsFor::Carrier,
        OrderStatus::Cancelling if order.groups.iter().any(|group| !is_settled(group)) => WaitsFor::Stock,
        OrderStatus::Cancelling => WaitsFor::Payment,
        OrderStatus::Completed | OrderStatus::Cancelled => WaitsFor::Nobody,
    }
}
