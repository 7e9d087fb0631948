//! Every state a payment can be in, whom it waits for and how it may move. Never what to do about it; that is
//! [`super::decide`].
//!
//! The state of a payment is its latest [`PaymentEvent`]: the event carries all that must be remembered.
//!
//! ```text
//!                 accepted                approved
//!   (nothing) ───────────────► AUTHORIZING ──────────► AUTHORIZED ──────────────┐
//!      │  void                   │   │                  │  │ void, or its time  │
//!      ▼                declined │   │ approved, but    │  │ is over            │ capture
//!   UNKNOWN, void wanted         │   │ a void is wanted │  ▼                    ▼
//!      │  accepted, or           │   └────────────────► │ VOIDING            CAPTURING
//!      │  nobody came            ▼                      │  │ approved     approved │ │ authorization gone
//!      ▼                      DECLINED                  │  ├──────► VOIDED         │ └────────► EXPIRED
//!   VOIDED                                              │  └──────► EXPIRED        ▼
//!                                                       │                       CAPTURED
//!                                                       │                refund    │
//!                                                       │            REFUNDING ◄───┘
//!                                                       │                │ approved
//!                                                       │                ▼
//!                                                       │            REFUNDED
//! ```
//!
//! In AUTHORIZING, CAPTURING, VOIDING and REFUNDING a request to the provider is open ([`PaymentEvent::call`]). While its
//! outcome is unknown, the state stays, the idempotency key stays, and the provider is asked:
//!
//! ```text
//!   planned ──► open ──► answered                    waits for: planned and pausing wait for PAYMENT (until the pause
//!   (tries 0)    │ ▲                                  is over), open waits for PROVIDER
//!        unknown │ │ pause over: ask;  never took effect: act again with the same key
//!                ▼ │
//!              pausing
//! ```

use millrace_schemas::{OpenCall, PaymentEvent, PaymentState, WaitsFor};

/// What moves a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// The order was accepted.
    Accepted,
    /// Fulfillment wants the money taken.
    Capture,
    /// Fulfillment wants the authorization let go.
    Void,
    /// Fulfillment wants captured money given back.
    Refund,
    /// The provider did what was asked.
    Approved,
    /// The provider will not do what was asked.
    Declined,
    /// Nobody knows whether the provider did what was asked.
    OutcomeUnknown,
    /// The provider never heard of the request.
    NotFound,
    /// The deadline of the state passed.
    Deadline,
}

/// Every way a payment can move, and every event that leaves it where it is, refused commands excepted: those never
/// move anything. [`PaymentState::Unknown`] is a payment nothing is known of, or only that a void is wanted.
pub const TRANSITIONS: &[(PaymentState, Cause, PaymentState)] = {
    use Cause as C;
    use PaymentState as S;
    &[
        (S::Unknown, C::Accepted, S::Authorizing),
        (S::Unknown, C::Accepted, S::Voided), // a void came first: the provider is never asked
        (S::Unknown, C::Void, S::Unknown),
        (S::Unknown, C::Deadline, S::Voided), // the order of an early void never came
        (S::Authorizing, C::Approved, S::Authorized),
        (S::Authorizing, C::Approved, S::Voiding), // a void is wanted, or not all was authorized
        (S::Authorizing, C::Declined, S::Authorizing), // softly, the first time
        (S::Authorizing, C::Declined, S::Declined),
        (S::Authorizing, C::Void, S::Authorizing), // remembered
        (S::Authorizing, C::Void, S::Declined),    // between two attempts: nothing is held, nothing is asked
        (S::Authorizing, C::OutcomeUnknown, S::Authorizing),
        (S::Authorizing, C::NotFound, S::Authorizing),
        (S::Authorizing, C::Deadline, S::Authorizing),
        (S::Authorized, C::Capture, S::Capturing),
        (S::Authorized, C::Void, S::Voiding),
        (S::Authorized, C::Deadline, S::Voiding), // it expires
        (S::Capturing, C::Approved, S::Captured),
        (S::Capturing, C::Declined, S::Capturing), // tried again later
        (S::Capturing, C::Declined, S::Expired),   // the provider let the authorization go
        (S::Capturing, C::OutcomeUnknown, S::Capturing),
        (S::Capturing, C::NotFound, S::Capturing),
        (S::Capturing, C::Deadline, S::Capturing),
        (S::Voiding, C::Approved, S::Voided),
        (S::Voiding, C::Approved, S::Expired),
        (S::Voiding, C::Declined, S::Voiding), // tried again later
        (S::Voiding, C::Declined, S::Voided),  // the provider let it go before
        (S::Voiding, C::Declined, S::Expired),
        (S::Voiding, C::OutcomeUnknown, S::Voiding),
        (S::Voiding, C::NotFound, S::Voiding),
        (S::Voiding, C::Deadline, S::Voiding),
        (S::Captured, C::Refund, S::Refunding),
        (S::Refunding, C::Approved, S::Refunded),
        (S::Refunding, C::Declined, S::Refunding), // tried again later
        (S::Refunding, C::OutcomeUnknown, S::Refunding),
        (S::Refunding, C::NotFound, S::Refunding),
        (S::Refunding, C::Deadline, S::Refunding),
    ]
};

/// When somebody must look at the payment again.
#[must_use]
pub fn deadline(payment: &PaymentEvent) -> Option<i64> {
    payment.until
}

/// The request that is open at the provider; none while it is only planned or an unknown outcome is let rest.
#[must_use]
pub fn open_call(payment: &PaymentEvent) -> Option<&OpenCall> {
    payment.call.as_ref().filter(|_| payment.waits_for == WaitsFor::Provider)
}

/// The state, [`PaymentState::Unknown`] where there is no payment.
pub(super) fn state_of(payment: Option<&PaymentEvent>) -> PaymentState {
    payment.map_or(PaymentState::Unknown, |payment| payment.state)
}

/// The payment of an order nothing was heard of.
pub(super) fn nothing_known(order_id: &str) -> PaymentEvent {
    PaymentEvent {
        order_id: order_id.to_owned(),
        kind: millrace_schemas::PaymentEventKind::Unknown,
        state: PaymentState::Unknown,
        version: 0,
        currency: String::new(),
        requested_minor: 0,
        authorized_minor: 0,
        captured_minor: 0,
        voided_minor: 0,
        refunded_minor: 0,
        payment_method: String::new(),
        provider_reference: None,
        attempt: 0,
        call: None,
        decline_kind: None,
        decline_code: None,
        void_wanted: false,
        waits_for: WaitsFor::Nobody,
        until: None,
        detail: String::new(),
        at: 0,
    }
}
