//! Which status may follow which, as a reader of the topics may rely on. Drawn up from what the statuses mean, not from
//! the processors' own tables.

use millrace_schemas::{OrderStatus, PaymentState};

/// Whether an order may move so. [`OrderStatus::Unknown`] is an order of which nothing was told yet. Staying is moving
/// to the same status. `order_known` says whether the order's content was known at the first of the two: an order that
/// was cancelled before anybody had heard of it can still turn up, and must then be undone.
pub(crate) fn order_may(from: OrderStatus, to: OrderStatus, order_known: bool) -> bool {
    use OrderStatus as S;
    match from {
        S::Unknown => matches!(to, S::AwaitingOrder | S::AwaitingPayment | S::Reserving | S::Cancelling | S::Cancelled),
        S::AwaitingOrder => {
            matches!(to, S::AwaitingOrder | S::AwaitingPayment | S::Reserving | S::Cancelling | S::Cancelled)
        }
        S::AwaitingPayment => matches!(to, S::AwaitingPayment | S::Cancelling | S::Cancelled),
        S::Reserving => matches!(to, S::Reserving | S::Confirmed | S::Cancelling | S::Cancelled),
        S::Confirmed => {
            matches!(to, S::Confirmed | S::PartiallyShipped | S::Shipped | S::Delivered | S::Cancelling | S::Cancelled)
        }
        S::PartiallyShipped => matches!(to, S::PartiallyShipped | S::Shipped | S::Delivered | S::Completed),
        S::Shipped => matches!(to, S::Shipped | S::Delivered | S::Completed),
        S::Delivered => matches!(to, S::Delivered | S::Completed),
        S::Completed => to == S::Completed,
        S::Cancelling => matches!(to, S::Cancelling | S::Cancelled),
        S::Cancelled => to == S::Cancelled || (!order_known && matches!(to, S::AwaitingPayment | S::Cancelling)),
    }
}

/// Whether a payment may move so. [`PaymentState::Unknown`] is a payment of which nothing was told yet.
pub(crate) fn payment_may(from: PaymentState, to: PaymentState) -> bool {
    use PaymentState as S;
    from == to
        || match from {
            S::Unknown => matches!(to, S::Authorizing | S::Declined | S::Voided),
            S::Authorizing => matches!(to, S::Authorized | S::Declined | S::Voiding | S::Voided | S::Expired),
            S::Authorized => matches!(to, S::Capturing | S::Voiding | S::Expired),
            S::Capturing => matches!(to, S::Captured | S::Authorized | S::Voiding | S::Voided | S::Expired),
            S::Captured => to == S::Refunding,
            S::Voiding => matches!(to, S::Voided | S::Expired),
            S::Refunding => matches!(to, S::Refunded | S::Captured),
            S::Declined | S::Voided | S::Refunded | S::Expired => false,
        }
}

/// Whether nothing more happens to the order by itself.
pub(crate) fn order_is_final(status: OrderStatus) -> bool {
    matches!(status, OrderStatus::Completed | OrderStatus::Cancelled)
}

/// Whether nothing more happens to the payment by itself.
pub(crate) fn payment_is_final(state: PaymentState) -> bool {
    use PaymentState as S;
    matches!(state, S::Declined | S::Captured | S::Voided | S::Refunded | S::Expired)
}
